//! The core against conversations written down in files: our own, and those of etcd-io/raft if they are
//! at hand: in the folder that `FERRITE_RAFT_SCRIPTS` names, or next to the repository.
//!
//! `RAFT_SCRIPTS_REWRITE=1` writes the outputs into our own scripts; read the difference before you keep
//! it.

mod common;

use std::path::{Path, PathBuf};

use common::script;

fn check(paths: &[PathBuf]) {
    let differences: Vec<String> = paths.iter().flat_map(|p| script::run(p)).collect();
    assert!(
        differences.is_empty(),
        "{} outputs differ\n\n{}",
        differences.len(),
        differences.join("\n")
    );
}

#[test]
fn our_scripts() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let paths = script::scripts(&folder);
    assert!(!paths.is_empty(), "no scripts in {}", folder.display());
    if std::env::var_os("RAFT_SCRIPTS_REWRITE").is_some() {
        paths.iter().for_each(|p| script::rewrite(p));
    }
    check(&paths);
}

/// Where the scripts of etcd-io/raft lie if they are at hand.
fn reference() -> PathBuf {
    if let Some(folder) = std::env::var_os("FERRITE_RAFT_SCRIPTS") {
        return folder.into();
    }
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/raft-testdata")
}

#[test]
fn reference_scripts() {
    let paths = script::scripts(&reference());
    if paths.is_empty() {
        let named = std::env::var_os("FERRITE_RAFT_SCRIPTS");
        assert!(named.is_none(), "no scripts in {}", reference().display());
        eprintln!(
            "SKIPPED: reference scripts: no raft-testdata next to the repository, and FERRITE_RAFT_SCRIPTS is not set"
        );
        return;
    }
    assert!(
        paths.len() >= 28,
        "only {} reference scripts found",
        paths.len()
    );
    check(&paths);
    eprintln!("{} scripts of etcd-io/raft", paths.len());
}

/// The table of `scripts/README.md` names scripts that exist, for every one of the reference.
#[test]
fn our_scripts_cover_the_ground_of_the_reference() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts");
    let table = std::fs::read_to_string(folder.join("README.md")).expect("the table is there");
    let mut theirs = Vec::new();
    for row in table.lines().filter(|line| line.starts_with("| `")) {
        let mut names = row.split('`').skip(1).step_by(2);
        theirs.extend(names.next());
        let ours: Vec<&str> = names.collect();
        assert!(!ours.is_empty(), "nothing of ours in {row}");
        for name in ours {
            let script = folder.join(format!("{name}.txt"));
            assert!(script.exists(), "{} is not there", script.display());
        }
    }
    assert!(theirs.len() >= 28, "only {} rows", theirs.len());
    for script in script::scripts(&reference()) {
        let name = script.file_stem().and_then(|name| name.to_str());
        assert!(
            name.is_some_and(|name| theirs.contains(&name)),
            "no row for {}",
            script.display()
        );
    }
}

/// A runner that passes everything would prove nothing.
#[test]
fn the_runner_notices_differences() {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wrong.txt");
    let text = "add-nodes 1 voters=(1) index=5\n----\nok\n\n\
                campaign 1\n----\nINFO a log line is passed over\n\n\
                raft-state\n----\n1: StateFollower (Voter) Term:1 Lead:0\n\n";
    std::fs::write(&path, text).expect("the folder can be written");
    let differences = script::run(&path);
    assert_eq!(differences.len(), 1, "{differences:?}");
    assert!(differences[0].contains("StateCandidate"), "{differences:?}");
}
