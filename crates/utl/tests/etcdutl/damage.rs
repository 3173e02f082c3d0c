//! Damaged files: every command answers, none panics, and a refused restore leaves nothing.

use std::path::Path;

use crate::common::{make_database, s, utl};

/// Numbers that look random and are the same at every run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }
}

#[test]
fn no_damage_makes_a_command_panic() {
    let folder = tempfile::tempdir().expect("a folder");
    let whole = folder.path().join("whole");
    make_database(&whole, 400, 40);
    let whole = std::fs::read(whole).expect("the file");
    let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut refused = 0;
    for round in 0..60 {
        let mut bytes = whole.clone();
        match round % 3 {
            // One wrong byte in the first bytes of a page, where the structure is.
            0 => {
                let page = numbers.next(bytes.len() / 4096);
                let at = page * 4096 + numbers.next(120);
                bytes[at] ^= 1 << numbers.next(8);
            }
            1 => {
                let length = numbers.next(bytes.len());
                bytes.truncate(length);
            }
            _ => {
                let page = numbers.next(bytes.len() / 4096);
                for byte in &mut bytes[page * 4096..(page + 1) * 4096] {
                    *byte = numbers.next(256) as u8;
                }
            }
        }
        let data = folder.path().join(format!("data{round}"));
        let database = data.join("member/snap/db");
        std::fs::create_dir_all(database.parent().expect("a folder")).expect("folders");
        std::fs::write(&database, &bytes).expect("write");
        let restored = folder.path().join(format!("restored{round}"));
        let file = s(&database);
        for arguments in [
            &["snapshot", "status", file][..],
            &["hashkv", file],
            &["bbolt", "check", file],
            &["bbolt", "stats", file],
            &["bbolt", "keys", file, "key"],
            &["bbolt", "page", "--all", file],
            &[
                "snapshot",
                "restore",
                file,
                "--skip-hash-check",
                "--data-dir",
                s(&restored),
            ],
            &["defrag", "--data-dir", s(&data)],
        ] {
            let outcome = utl(arguments);
            match outcome.code {
                Some(0) => {}
                Some(1) => {
                    assert!(
                        outcome.err.contains("Error: "),
                        "{arguments:?}: {outcome:?}"
                    );
                    refused += 1;
                    if arguments.contains(&"restore") {
                        assert!(!Path::new(&restored).exists(), "{outcome:?}");
                    }
                }
                _ => panic!("round {round}, {arguments:?}: {outcome:?}"),
            }
        }
        if restored.exists() {
            // What was accepted is whole.
            utl(&["snapshot", "status", s(&restored.join("member/snap/db"))]).ok();
        }
    }
    assert!(
        refused > 60,
        "only {refused} refusals: the damage does not reach anything"
    );
}
