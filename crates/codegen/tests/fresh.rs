//! The committed code is what the schema generates.

#[test]
fn committed_code_is_what_the_schema_generates() {
    let scratch = std::env::temp_dir().join(format!("ferrite-codegen-test-{}", std::process::id()));
    let files = ferrite_codegen::generate(&scratch).expect("the schema compiles");
    std::fs::remove_dir_all(&scratch).expect("the scratch folder goes away");
    let committed = ferrite_codegen::proto_crate().join("src/gen");
    for (name, text) in &files {
        let found = std::fs::read_to_string(committed.join(name)).unwrap_or_default();
        assert!(
            found == *text,
            "{name} is stale: run `cargo run -p ferrite-codegen`"
        );
    }
    for entry in std::fs::read_dir(&committed).expect("generated code is committed") {
        let name = entry
            .expect("readable folder")
            .file_name()
            .into_string()
            .expect("a text name");
        assert!(
            files.contains_key(&name),
            "{name} is no longer generated: remove it"
        );
    }
}

#[test]
fn committed_tables_are_what_the_schema_generates() {
    let tables = ferrite_codegen::generate_tables().expect("the schema compiles");
    let found = std::fs::read_to_string(ferrite_codegen::tables_file()).unwrap_or_default();
    assert!(
        found == tables,
        "the gateway's tables are stale: run `cargo run -p ferrite-codegen`"
    );
}
