//! Arguments, help and exit codes.

use crate::common::utl;

#[test]
fn version_has_etcds_lines_and_our_own() {
    let out = utl(&["version"]).ok();
    assert_eq!(
        out.lines().collect::<Vec<_>>(),
        [
            "etcdutl version: 3.7.1",
            "API version: 3.7",
            concat!("Ferrite version: ", env!("CARGO_PKG_VERSION"))
        ]
    );
}

#[test]
fn what_is_not_understood_is_said_in_cobras_words() {
    for (arguments, code, message) in [
        (
            &["backup"][..],
            1,
            "unknown command \"backup\" for \"etcdutl\"",
        ),
        (&["--foo"], 1, "unknown flag: --foo"),
        (&["defrag"], 1, "required flag(s) \"data-dir\" not set"),
        (
            &["migrate"],
            1,
            "required flag(s) \"data-dir\", \"target-version\" not set",
        ),
        (&["hashkv"], 1, "accepts 1 arg(s), received 0"),
        (
            &["hashkv", "x", "--rev=a"],
            1,
            "invalid argument \"a\" for \"--rev\" flag: strconv.ParseInt: parsing \"a\": invalid syntax",
        ),
        (
            &["snapshot", "status"],
            128,
            "snapshot status requires exactly one argument",
        ),
        (
            &["snapshot", "restore"],
            128,
            "snapshot restore requires exactly one argument",
        ),
        (
            &["snapshot", "restore", "x", "--bump-revision", "5"],
            128,
            "--mark-compacted required if --revision-bump > 0",
        ),
        (
            &["snapshot", "restore", "x", "--mark-compacted"],
            128,
            "--mark-compacted required if --revision-bump > 0",
        ),
        (
            &["migrate", "--data-dir", "x", "--target-version", "abc"],
            128,
            "wrong target version format, expected \"X.Y\", got \"abc\"",
        ),
        (
            &["migrate", "--data-dir", "x", "--target-version", "3.4"],
            128,
            "target version \"3.4\" not supported. Minimal \"3.5\"",
        ),
        (
            &["snapshot", "status", "/nope"],
            1,
            "stat /nope: no such file or directory",
        ),
        (
            &["hashkv", "/nope"],
            1,
            "stat /nope: no such file or directory",
        ),
        (
            &["defrag", "--data-dir", "/nope"],
            1,
            "Failed to defragment etcd data[/nope] (stat /nope/member/snap/db: no such file or directory)",
        ),
        (
            &["snapshot", "restore", "x", "--name", "other"],
            1,
            "couldn't find local name \"other\" in the initial cluster configuration",
        ),
        (
            &["completion", "tcsh"],
            1,
            "invalid argument \"tcsh\" for \"etcdutl completion\"",
        ),
    ] {
        assert_eq!(utl(arguments).fails(code), message, "{arguments:?}");
    }
}

#[test]
fn help_succeeds() {
    for arguments in [
        &[][..],
        &["--help"],
        &["help", "snapshot", "restore"],
        &["help", "snapshot", "restor"],
        &["help", "bogus"],
        &["snapshot"],
        &["snapshot", "restore", "-h"],
    ] {
        assert!(utl(arguments).ok().contains("Usage:"), "{arguments:?}");
    }
    assert!(
        utl(&["snap", "res", "-h"])
            .ok()
            .contains("--bump-revision uint")
    );
}

#[test]
fn completion_scripts_name_every_command() {
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = utl(&["completion", shell]).ok();
        for word in [
            "defrag",
            "hashkv",
            "migrate",
            "restore",
            "bump-revision",
            "write-out",
        ] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}
