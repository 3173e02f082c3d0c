//! The house rules that a program can hold: who may depend on whom, what pure crates may not call, where
//! a program may print, what must not be left in the source, and that the compatibility table is true.
//!
//! A rule that stands in the way is changed here, with its reason in the commit, not worked around.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Pure crates: no I/O, no clock, no randomness of their own, no threads, no async.
const RING_1: &[&str] = &[
    "proto",
    "raft",
    "mvcc",
    "membership",
    "apply",
    "watch",
    "lease",
    "auth",
    "metrics",
    "mutate",
    "gateway",
];
/// Input and output, each crate for itself.
const RING_2: &[&str] = &["wal", "bolt", "peer", "tls", "token"];
/// The shell around them.
const RING_3: &[&str] = &["node", "server", "client", "cli", "ctl", "utl", "proxy"];
/// Tools and tests. Nothing that is shipped depends on them.
const NEVER_SHIPPED: &[&str] = &[
    "testkit", "dev", "codegen", "xtask", "bench", "sim", "differ", "fuzz", "shuttled",
];

/// What a pure crate may use of others' crates. `parking_lot` is a lock, held for moments by readers of
/// a shared view; `bcrypt` is the bare function, its salt an argument; the stubs of `tonic` are behind a
/// feature that no pure crate switches on.
const PURE: &[&str] = &[
    "base64",
    "bcrypt",
    "bytes",
    "crc32c",
    "parking_lot",
    "prost",
    "serde",
    "serde_json",
    "sha1",
    "thiserror",
];

/// Files with code that the compiler cannot check, each block with its proof beside it.
const UNSAFE: &[&str] = &[
    "crates/bench/src/procstat.rs",
    "crates/bench/src/servers.rs",
    "crates/dev/src/sys.rs",
    "crates/fuzz/src/memory.rs",
    "crates/server/src/early.rs",
    "crates/server/src/memory.rs",
    "crates/server/src/sys.rs",
    "crates/testkit/src/member.rs",
    "crates/testkit/src/ports.rs",
    "crates/testkit/tests/faults/net.rs",
    "crates/wal/src/lock.rs",
];

fn root() -> PathBuf {
    xtask::root()
}

/// Every file that is in the repository, or would be if it were added now, and is text.
fn texts() -> Vec<(String, String)> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .expect("git lists the files of the repository");
    assert!(output.status.success(), "git ls-files: {}", output.status);
    String::from_utf8(output.stdout)
        .expect("file names are UTF-8")
        .lines()
        .filter_map(|name| {
            let text = std::fs::read_to_string(root().join(name)).ok()?;
            Some((name.to_owned(), text))
        })
        .collect()
}

/// Rust files under the `src` folders of these crates, generated code aside.
fn sources(crates: &[&str]) -> Vec<(String, String)> {
    let mut found = texts();
    found.retain(|(name, _)| {
        name.ends_with(".rs")
            && !name.contains("/src/gen/")
            && crates
                .iter()
                .any(|one| name.starts_with(&format!("crates/{one}/src/")))
    });
    found
}

/// The line without a comment at its end. A `//` inside a string cuts too much, which only ever hides.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or(line)
}

/// `word` stands in `line` and is not a part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(part) && !after.is_some_and(part)
    })
}

fn report(rule: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{rule}:\n  {}", broken.join("\n  "));
}

#[test]
fn crates_depend_inwards_only() {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked"])
        .current_dir(root())
        .output()
        .expect("cargo tells about the workspace");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value =
        serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let short = |name: &str| name.strip_prefix("ferrite-").unwrap_or(name).to_owned();
    let ring = |name: &str| -> Option<u8> {
        [RING_1, RING_2, RING_3, NEVER_SHIPPED]
            .iter()
            .position(|ring| ring.contains(&name))
            .and_then(|at| u8::try_from(at + 1).ok())
    };
    let empty = Vec::new();
    let packages = metadata["packages"].as_array().unwrap_or(&empty);
    assert!(packages.len() > 10, "cargo metadata lists the workspace");
    let ours: BTreeSet<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();

    let mut broken = Vec::new();
    for package in packages {
        let name = short(package["name"].as_str().unwrap_or_default());
        let Some(from) = ring(&name) else {
            broken.push(format!("{name} has no ring: give it one in tests/tidy.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap_or(&empty) {
            if dependency["kind"].as_str() == Some("dev") {
                continue; // Tests may look from outside.
            }
            let full = dependency["name"].as_str().unwrap_or_default();
            let other = short(full);
            if ours.contains(full) {
                let Some(to) = ring(&other) else { continue };
                let inwards = to < from || (to == from && from != 2);
                if !inwards {
                    broken.push(format!(
                        "{name} (ring {from}) depends on {other} (ring {to})"
                    ));
                }
                let stubs = dependency["features"]
                    .as_array()
                    .is_some_and(|list| list.iter().any(|feature| feature == "grpc"));
                if stubs && from < 3 {
                    broken.push(format!(
                        "{name} (ring {from}) switches the gRPC stubs of {other} on"
                    ));
                }
            } else if from == 1 && !PURE.contains(&full) && dependency["optional"] != true {
                broken.push(format!("{name} is pure and depends on {full}"));
            }
        }
    }
    report("arrows between crates point inwards", &broken);
}

#[test]
fn deliberate_mistakes_are_few_and_in_no_program_that_ships() {
    let mut broken = Vec::new();
    for (name, text) in texts() {
        if name.ends_with("/Cargo.toml") {
            let simulator = name == "crates/sim/Cargo.toml";
            for (number, line) in text.lines().enumerate() {
                let switches = line.contains("ferrite-mutate/") || {
                    has_word(line, "ferrite-mutate") && line.contains("features")
                };
                let feature = line.starts_with("mutations =");
                if switches && !(simulator && feature) {
                    broken.push(format!("{name}:{}: switches mistakes on", number + 1));
                }
                let default = line.trim_start().starts_with("default");
                if default && (simulator || name == "crates/mutate/Cargo.toml") {
                    broken.push(format!("{name}:{}: a default feature", number + 1));
                }
            }
        } else if name.ends_with(".rs") && name.contains("/src/") && !name.contains("/sim/") {
            let hooks = text.matches(concat!("muta", "tion!(\"")).count();
            if hooks > 4 && !name.starts_with("crates/mutate/") {
                broken.push(format!("{name}: {hooks} mistakes in one file"));
            }
        }
    }
    report(
        "only the simulator's own builds can make mistakes on purpose, few in a file",
        &broken,
    );
}

#[test]
fn pure_crates_call_nothing_impure() {
    let calls = [
        ("SystemTime", "a clock"),
        ("Instant", "a clock"),
        ("std::fs", "a file"),
        ("std::net", "a socket"),
        ("std::thread", "a thread"),
        ("thread::spawn", "a thread"),
        ("std::process", "a process"),
        ("std::env", "the environment"),
        ("rand", "randomness of its own"),
        ("getrandom", "randomness of its own"),
        ("RandomState", "a map of random order"),
        ("HashMap", "a map of random order"),
        ("HashSet", "a set of random order"),
    ];
    let mut broken = Vec::new();
    for (name, text) in sources(RING_1) {
        for (number, line) in text.lines().enumerate() {
            for (call, what) in calls {
                if has_word(code(line), call) {
                    broken.push(format!("{name}:{}: {call} ({what})", number + 1));
                }
            }
        }
    }
    report(
        "pure crates take time, seeds and bytes as arguments",
        &broken,
    );
}

#[test]
fn the_driver_has_no_map_of_random_order() {
    let mut broken = Vec::new();
    for (name, text) in sources(&["node"]) {
        for (number, line) in text.lines().enumerate() {
            for map in ["HashMap", "HashSet", "RandomState"] {
                if has_word(code(line), map) {
                    broken.push(format!("{name}:{}: {map}", number + 1));
                }
            }
        }
    }
    report("the driver is as deterministic as what it drives", &broken);
}

#[test]
fn only_programs_for_the_command_line_print() {
    let quiet: Vec<&str> = [
        RING_1,
        RING_2,
        &["node", "server", "client", "proxy", "testkit"],
    ]
    .concat();
    let mut broken = Vec::new();
    for (name, text) in sources(&quiet) {
        for (number, line) in text.lines().enumerate() {
            if has_word(code(line), "println!") || has_word(code(line), "print!") {
                broken.push(format!("{name}:{}", number + 1));
            }
        }
    }
    report(
        "standard output belongs to the command-line programs",
        &broken,
    );
}

#[test]
fn nothing_unfinished_is_left() {
    // Put together here, so that this file is not its own first finding.
    let markers = [
        concat!("to", "do!"),
        concat!("unimplemen", "ted!"),
        concat!("FIX", "ME"),
        concat!("X", "XX"),
        concat!("TO", "DO"),
    ];
    let mut broken = Vec::new();
    for (name, text) in texts() {
        if name == "Cargo.lock" {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            if let Some(marker) = markers.iter().find(|marker| has_word(line, marker)) {
                broken.push(format!("{name}:{}: {marker}", number + 1));
            }
        }
    }
    report("what is left to do is an issue, not a comment", &broken);
}

#[test]
fn no_machine_and_no_mirror_is_named() {
    let words = [
        concat!("/wo", "rk/"),
        concat!("/ro", "ot/"),
        concat!("/home", "/"),
        concat!("/tmp/", "oracle"),
        concat!(".cargo/", "registry"),
        concat!("artifac", "tory"),
        concat!("index.crates", ".io"),
        concat!("static.crates", ".io"),
        concat!("pypi", ".org"),
        concat!("python", "hosted"),
        concat!("deb.deb", "ian.org"),
    ];
    let mut broken = Vec::new();
    for (name, text) in texts() {
        for (number, line) in text.lines().enumerate() {
            for word in words {
                let named = line.match_indices(word).any(|(at, _)| {
                    // A path of one machine starts at its root.
                    !word.starts_with('/')
                        || !line[..at]
                            .chars()
                            .next_back()
                            .is_some_and(|c| c.is_ascii_alphanumeric() || c == '.' || c == '/')
                });
                if named {
                    broken.push(format!("{name}:{}: {word}", number + 1));
                }
            }
        }
    }
    report("a clone works on any machine", &broken);
}

#[test]
fn unchecked_code_has_its_proof() {
    let mut broken = Vec::new();
    for (name, text) in texts() {
        if !name.ends_with(".rs") || name == "crates/xtask/tests/tidy.rs" {
            continue;
        }
        let lines: Vec<&str> = text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let code = code(line);
            let unchecked = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
                .iter()
                .any(|form| {
                    has_word(code, form.split(' ').next().unwrap_or(form)) && code.contains(form)
                });
            if !unchecked {
                continue;
            }
            if !UNSAFE.contains(&name.as_str()) {
                broken.push(format!("{name}:{}: not among the files that may", at + 1));
            }
            let proof = lines[at.saturating_sub(6)..=at]
                .iter()
                .any(|near| near.contains("SAFETY:") || near.contains("# Safety"));
            if !proof {
                broken.push(format!("{name}:{}: no `SAFETY:` above it", at + 1));
            }
        }
    }
    report("`unsafe` is rare and proved", &broken);
}

/// One row of `docs/compat.md`.
struct Row {
    line: usize,
    id: String,
    state: String,
    proof: String,
}

fn compat_rows() -> Vec<Row> {
    let text =
        std::fs::read_to_string(root().join("docs/compat.md")).expect("docs/compat.md is there");
    text.lines()
        .enumerate()
        .filter_map(|(number, line)| {
            // A bar inside a cell is written `\|`.
            let line = line.replace("\\|", "¦");
            let cells: Vec<&str> = line.strip_prefix('|')?.split('|').map(str::trim).collect();
            let [id, _, state, proof, ..] = cells.as_slice() else {
                return None;
            };
            is_id(id).then(|| Row {
                line: number + 1,
                id: (*id).to_owned(),
                state: (*state).to_owned(),
                proof: (*proof).to_owned(),
            })
        })
        .collect()
}

/// Two capitals (or a capital and a digit), a dash, digits.
fn is_id(text: &str) -> bool {
    text.split_once('-').is_some_and(|(area, number)| {
        area.len() == 2
            && area.starts_with(|c: char| c.is_ascii_uppercase())
            && area
                .chars()
                .all(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
            && !number.is_empty()
            && number.chars().all(|c| c.is_ascii_digit())
    })
}

/// The names of the tests in each Rust file.
fn tests_by_file() -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::new();
    for (name, text) in texts() {
        if !name.ends_with(".rs") {
            continue;
        }
        let mut tests = BTreeSet::new();
        let mut marked = false;
        for line in text.lines() {
            let line = line.trim_start();
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                marked = true;
            } else if let Some(rest) = line.strip_prefix("async fn ").or(line.strip_prefix("fn "))
                && std::mem::take(&mut marked)
            {
                let end = rest.find(['(', '<']).unwrap_or(rest.len());
                tests.insert(rest[..end].to_owned());
            }
        }
        found.insert(name, tests);
    }
    found
}

/// `crate::file::test`, the file being named by the end of its path under the crate's folder.
fn test_exists(reference: &str, tests: &BTreeMap<String, BTreeSet<String>>) -> bool {
    let parts: Vec<&str> = reference.split("::").collect();
    let [krate, path @ .., test] = parts.as_slice() else {
        return false;
    };
    let folder = format!("crates/{krate}/");
    let file = format!("/{}.rs", path.join("/"));
    !path.is_empty()
        && tests.iter().any(|(name, tests)| {
            name.starts_with(&folder) && name.ends_with(&file) && tests.contains(*test)
        })
}

#[test]
fn every_row_held_by_a_test_names_one_that_exists() {
    let rows = compat_rows();
    assert!(
        rows.len() > 500,
        "docs/compat.md has the contract's rows, found {}",
        rows.len()
    );
    let tests = tests_by_file();
    let mut seen = BTreeSet::new();
    let mut broken = Vec::new();
    for row in &rows {
        let Row {
            line,
            id,
            state,
            proof,
        } = row;
        if !seen.insert(id) {
            broken.push(format!("{line}: {id} is there twice"));
        }
        let named: Vec<&str> = (proof.split('`').skip(1).step_by(2))
            .filter(|words| words.contains("::"))
            .collect();
        match state.as_str() {
            "done" if named.is_empty() => {
                broken.push(format!("{line}: {id} is done, and names no test"))
            }
            "done" | "partly" => {
                for name in named {
                    if !test_exists(name, &tests) {
                        broken.push(format!("{line}: {id}: there is no test {name}"));
                    }
                }
            }
            "not yet" => {
                if !named.is_empty() {
                    broken.push(format!("{line}: {id} is {state}, and names a test"));
                }
            }
            other => broken.push(format!(
                "{line}: {id}: the state is {other:?}: say done, partly or not yet"
            )),
        }
    }
    report("docs/compat.md is true", &broken);
}

/// What makes a mistake on purpose: rows of `cargo xtask broken`, and the simulator's mutations, each of those inside
/// production code with the place where it is made.
fn switches() -> BTreeSet<String> {
    let mut found: BTreeSet<String> = xtask::broken::rows()
        .map(|row| format!("broken {row}"))
        .collect();
    let listed = std::fs::read_to_string(root().join("crates/sim/src/mutation.rs"))
        .expect("the list of mutations is there");
    for (name, text) in texts() {
        if !name.ends_with(".rs") || !name.contains("/src/") {
            continue;
        }
        if name == "crates/sim/src/mutation.rs" {
            let outside = text.lines().filter_map(|line| {
                let name = line.trim().strip_prefix("Mutation::")?;
                name.strip_suffix(',').map(str::to_owned)
            });
            found.extend(outside);
        } else if !name.starts_with("crates/sim/") {
            let hooks = text.split(concat!("muta", "tion!(\"")).skip(1);
            let hooks = hooks.filter_map(|rest| Some(rest.split_once('"')?.0));
            found.extend(
                hooks
                    .filter(|hook| listed.contains(&format!("\"{hook}\"")))
                    .map(str::to_owned),
            );
        }
    }
    found
}

#[test]
fn known_mistakes_fit_the_source() {
    report(
        "what `cargo xtask broken` breaks stands in the source, once",
        &xtask::broken::misfits(),
    );
}

#[test]
fn every_known_bug_that_is_held_off_names_a_test_that_exists() {
    let text = std::fs::read_to_string(root().join("docs/known-bugs.md"))
        .expect("docs/known-bugs.md is there");
    let tests = tests_by_file();
    let known = switches();
    let mut seen = BTreeSet::new();
    let mut broken = Vec::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", id, _, _, state, proof, switches, ""] = cells.as_slice() else {
            continue;
        };
        if !is_id(id) {
            continue;
        }
        let switched: Vec<&str> = switches.split('`').skip(1).step_by(2).collect();
        if switched.is_empty() {
            broken.push(format!("{id} names nothing that makes it again"));
        }
        for name in switched {
            if !known.contains(name) {
                broken.push(format!("{id}: there is no switch {name}"));
            }
        }
        if !seen.insert(*id) {
            broken.push(format!("{id} is there twice"));
        }
        let named: Vec<&str> = proof.split('`').skip(1).step_by(2).collect();
        if !["held", "partly", "not yet"].contains(state) {
            broken.push(format!("{id}: say held, partly or not yet, not {state:?}"));
        }
        if *state == "held" && named.is_empty() {
            broken.push(format!("{id} is held and names no test"));
        }
        for name in named {
            if !test_exists(name, &tests) {
                broken.push(format!("{id}: there is no test {name}"));
            }
        }
    }
    assert!(
        seen.len() >= 25,
        "docs/known-bugs.md has every row, found {}",
        seen.len()
    );
    report("docs/known-bugs.md is true", &broken);
}

#[test]
fn every_row_of_the_contract_is_in_the_table() {
    let contract = root().join("../shared/reference/etcd-surface.md");
    let Ok(text) = std::fs::read_to_string(&contract) else {
        eprintln!("SKIPPED: the contract is not beside this clone");
        return;
    };
    let ours: BTreeSet<String> = compat_rows().into_iter().map(|row| row.id).collect();
    let missing: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" |").next())
        .filter(|id| is_id(id) && !ours.contains(*id))
        .map(str::to_owned)
        .collect();
    report("every row of the contract is in docs/compat.md", &missing);
}

#[test]
fn formats_are_listed() {
    let index = std::fs::read_to_string(root().join("docs/formats/README.md"))
        .expect("docs/formats/README.md is there");
    let mut broken = Vec::new();
    for (name, _) in texts() {
        if let Some(file) = name.strip_prefix("docs/formats/")
            && file != "README.md"
            && !index.contains(&format!("({file})"))
        {
            broken.push(file.to_owned());
        }
    }
    report("docs/formats/README.md lists every format", &broken);
}

/// A link in a document leads somewhere.
#[test]
fn links_between_documents_lead_somewhere() {
    let mut broken = Vec::new();
    for (name, text) in texts() {
        if !name.ends_with(".md") {
            continue;
        }
        let folder = root().join(&name);
        let folder = folder.parent().unwrap_or(Path::new("."));
        for (number, line) in text.lines().enumerate() {
            for rest in line.split("](").skip(1) {
                let Some(target) = rest.split([')', '#']).next() else {
                    continue;
                };
                if target.is_empty() || target.contains("://") {
                    continue;
                }
                if !folder.join(target).exists() {
                    broken.push(format!("{name}:{}: {target}", number + 1));
                }
            }
        }
    }
    report("links between documents", &broken);
}
