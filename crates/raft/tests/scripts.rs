//! The core against conversations written down in files: our own, and those of etcd-io/raft if they are
//! at hand next to the repository.
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

#[test]
fn reference_scripts() {
    let folder =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/reference/raft-testdata");
    let paths = script::scripts(&folder);
    if paths.is_empty() {
        eprintln!("SKIPPED: reference scripts: no raft-testdata next to the repository");
        return;
    }
    assert!(
        paths.len() >= 27,
        "only {} reference scripts found",
        paths.len()
    );
    check(&paths);
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
