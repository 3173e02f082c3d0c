//! `cargo run -p ferrite-codegen`: writes the generated code anew.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let scratch = std::env::temp_dir().join(format!("ferrite-codegen-{}", std::process::id()));
    let files = ferrite_codegen::generate(&scratch)?;
    let out = ferrite_codegen::proto_crate().join("src/gen");
    std::fs::create_dir_all(&out)?;
    for (name, text) in &files {
        std::fs::write(out.join(name), text)?;
    }
    std::fs::remove_dir_all(&scratch)?;
    std::fs::write(
        ferrite_codegen::tables_file(),
        ferrite_codegen::generate_tables()?,
    )?;
    Ok(())
}
