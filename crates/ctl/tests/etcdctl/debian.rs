//! The same commands through Debian's etcdctl 3.4 and through ours, where nothing that is printed has changed
//! since, against the original's server and ours.

use std::path::{Path, PathBuf};

use crate::common::{cluster_of, oracle, ours, run, servers};

/// Where Debian installs it; elsewhere there is nothing to compare with.
fn debians() -> Option<PathBuf> {
    let path = PathBuf::from("/usr/bin/etcdctl");
    let version = run(
        &path.is_file().then(|| path.clone())?,
        &[],
        &["version"],
        b"",
    );
    if version.stdout.starts_with("etcdctl version: 3.4.") {
        return Some(path);
    }
    eprintln!("SKIPPED: {} is not of 3.4", path.display());
    None
}

const FORMS: [&str; 5] = ["simple", "json", "fields", "protobuf", "table"];

#[test]
fn what_3_4_printed_is_printed_still() {
    let (Some(dir), Some(theirs)) = (oracle(), debians()) else {
        return;
    };
    for etcd in servers(&dir) {
        printed_alike(&etcd, &theirs);
    }
}

fn printed_alike(etcd: &Path, theirs: &Path) {
    let (_data, members) = cluster_of(etcd, 1, &["--bcrypt-cost=4"]);
    let on = |program: &Path, args: &[&str]| {
        let all = [&["--endpoints", &members[0].endpoint][..], args].concat();
        // That of 3.4 asks for no variable; version 3 is its default.
        run(program, &[], &all, b"")
    };
    for args in [
        &["put", "foo", "<bar>\u{e9}\u{1f600}"][..],
        &["put", "foo", "two\nlines"],
        &["put", "foo2", "\\ \" \u{7f} \u{301}"],
        &["put", "empty", ""],
        &["lease", "grant", "1000"],
        &["user", "add", "u:pw"],
        &["role", "add", "r"],
        &["role", "grant-permission", "r", "readwrite", "a", "b"],
        &["user", "grant-role", "u", "r"],
    ] {
        let done = on(&ours(), args);
        assert_eq!(done.code, Some(0), "{args:?} {done:?}");
        if args[0] == "lease" {
            let id = done.stdout.split(' ').nth(1).unwrap();
            let with = format!("--lease={id}");
            assert_eq!(on(&ours(), &["put", "leased", "x", &with]).code, Some(0));
        }
    }
    for read in [
        &["get", "foo"][..],
        &["get", "foo", "--hex"],
        &["get", "foo", "--rev=2"],
        &["get", "f", "--prefix"],
        &["get", "f", "--prefix", "--limit=1"],
        &[
            "get",
            "",
            "--from-key",
            "--order=DESCEND",
            "--sort-by=MODIFY",
        ],
        &["get", "foo", "--keys-only"],
        &["get", "missing"],
        &["get", "leased"],
        &["del", "missing"],
        &["member", "list"],
        &["lease", "list"],
        &["alarm", "list"],
        &["user", "get", "u"],
        &["user", "list"],
        &["role", "get", "r"],
        &["role", "list"],
        &["endpoint", "hashkv"],
    ] {
        for form in FORMS {
            // Since then: the shape of tables, the revision of the hash, one more field of a header, and what
            // --hex concerns.
            let changed = match (read[0], form) {
                (_, "table") => matches!(read[0], "member" | "endpoint"),
                ("endpoint", _) => true,
                ("member", "fields") => true,
                (_, "fields" | "json") => read.contains(&"--hex"),
                _ => false,
            };
            let args = [read, &["-w", form]].concat();
            let (theirs, ours) = (on(theirs, &args), on(&ours(), &args));
            if !changed {
                assert_eq!(
                    (ours.code, &ours.stdout, &ours.stderr),
                    (theirs.code, &theirs.stdout, &theirs.stderr),
                    "{args:?}"
                );
            } else {
                assert_eq!(ours.code, theirs.code, "{args:?} {ours:?}");
            }
        }
    }
}
