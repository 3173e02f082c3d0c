//! The program by itself: what it prints without any member to ask.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{cluster_of, free_port, oracle, ours, run, servers};

#[test]
fn version_says_whose_behaviour_and_which_program() {
    let expected = format!(
        "etcdctl version: 3.7.1\nAPI version: 3.7\nFerrite version: {}\n",
        env!("CARGO_PKG_VERSION")
    );
    let three = run(&ours(), &[], &["version"], b"");
    assert_eq!(
        (three.stdout.as_str(), three.code),
        (expected.as_str(), Some(0))
    );
    let two = run(&ours(), &[("ETCDCTL_API", "2")], &["--version"], b"");
    assert_eq!(two.stdout, expected);
}

#[test]
fn help_is_grouped_and_points_to_the_options() {
    let help = run(&ours(), &[], &[], b"").stdout;
    let mut last = 0;
    for heading in [
        "Key-value commands",
        "Cluster maintenance commands",
        "Concurrency commands",
        "Authentication commands",
        "Utility commands",
    ] {
        let at = help.find(heading).unwrap();
        assert!(at > last);
        last = at;
    }
    assert!(help.ends_with(
        "Use \"etcdctl options\" for a list of global command-line options (applies to all commands).\n"
    ));
    assert!(!help.contains("--dial-timeout"));
    for args in [&["--help"][..], &["-h"], &["help"]] {
        assert_eq!(run(&ours(), &[], args, b"").stdout, help);
    }
    let options = run(&ours(), &[], &["options"], b"").stdout;
    assert!(options.contains("--dial-timeout duration"));
    let put = run(&ours(), &[], &["put", "--help"], b"").stdout;
    assert!(put.contains("--prev-kv"));
    assert_eq!(run(&ours(), &[], &["help", "put"], b"").stdout, put);
}

#[test]
fn slips_are_answered_with_a_suggestion() {
    let slip = run(&ours(), &[], &["pot", "a"], b"");
    assert_eq!(slip.code, Some(1));
    assert_eq!(
        slip.stderr,
        "Error: unknown command \"pot\" for \"etcdctl\"\n\nDid you mean this?\n\tget\n\tput\n\ttop\n\nRun 'etcdctl --help' for usage.\n"
    );
    let slip = run(&ours(), &[], &["put", "--perv-kv", "a", "b"], b"");
    assert_eq!(
        slip.stderr,
        "Error: unknown flag: --perv-kv\nDid you mean --prev-kv?\nRun 'etcdctl put --help' for usage.\n"
    );
    // The original prints help and succeeds here.
    let slip = run(&ours(), &[], &["member", "lst"], b"");
    assert_eq!(slip.code, Some(0));
    assert!(
        slip.stderr
            .contains("unknown command \"lst\" for \"etcdctl member\"")
    );
    assert!(slip.stderr.contains("\tlist"));
}

#[test]
fn what_has_gone_to_etcdutl_is_pointed_to() {
    for (args, now) in [
        (&["defrag", "--data-dir=d"][..], "etcdutl defrag --data-dir"),
        (
            &["snapshot", "restore", "f", "--data-dir", "d"],
            "etcdutl snapshot restore",
        ),
        (&["snapshot", "restore", "f"], "etcdutl snapshot restore"),
        (&["snapshot", "status", "f"], "etcdutl snapshot status"),
        (&["migrate"], "etcdutl migrate"),
    ] {
        let run = run(&ours(), &[], args, b"");
        assert!(run.stderr.contains(now), "{args:?} {run:?}");
        // `etcdctl snapshot restore … && systemctl start etcd` must not go on.
        assert_eq!(run.code, Some(1), "{args:?}");
    }
}

#[test]
fn nobody_there_is_a_deadline_with_its_cause() {
    let endpoint = format!("127.0.0.1:{}", free_port());
    let start = Instant::now();
    let args = [
        "--endpoints",
        &endpoint,
        "--command-timeout=300ms",
        "get",
        "a",
    ];
    let dead = run(&ours(), &[("ETCDCTL_API", "3")], &args, b"");
    assert_eq!(dead.code, Some(1));
    assert_eq!(dead.stderr, "Error: context deadline exceeded\n");
    assert!(dead.logs.contains("refused"), "{}", dead.logs);
    assert!(start.elapsed() < Duration::from_secs(10));
    let health = run(
        &ours(),
        &[],
        &[
            "--endpoints",
            &endpoint,
            "--command-timeout=300ms",
            "endpoint",
            "health",
        ],
        b"",
    );
    assert_eq!(health.code, Some(1));
    assert_eq!(
        health.stderr,
        format!(
            "{endpoint} is unhealthy: failed to commit proposal: context deadline exceeded\nError: unhealthy cluster\n"
        )
    );
}

#[test]
fn client_logs_are_as_loud_as_asked_for() {
    let endpoint = format!("127.0.0.1:{}", free_port());
    let args = [
        "--endpoints",
        &endpoint,
        "--command-timeout=200ms",
        "get",
        "a",
    ];
    let logs = |level: &str| {
        let dead = run(&ours(), &[("ETCD_CLIENT_DEBUG", level)], &args, b"");
        assert!(
            dead.stderr.ends_with("Error: context deadline exceeded\n"),
            "{dead:?}"
        );
        (dead.logs, dead.stderr.lines().count())
    };
    let (usual, lines) = logs("");
    assert_eq!(lines, 1);
    assert!(
        usual.contains("\"msg\":\"retrying of unary invoker failed\""),
        "{usual}"
    );
    assert!(
        usual.contains("\"method\":\"/etcdserverpb.KV/Range\",\"attempt\":"),
        "{usual}"
    );
    assert!(!usual.contains("cannot connect"), "{usual}");
    assert!(logs("debug").0.contains("\"msg\":\"cannot connect\""));
    assert_eq!(logs("error").0, "");
    // What is no level is said, and the usual one taken.
    assert_eq!(logs("loud").1, 2);
}

#[test]
fn variables_stand_for_flags() {
    let args = ["--command-timeout=100ms", "get", "a"];
    let env = [("ETCDCTL_ENDPOINTS", "127.0.0.1:1"), ("ETCDCTL_FOO", "1")];
    let unknown = run(&ours(), &env, &args, b"");
    assert_eq!(unknown.stderr, "Error: context deadline exceeded\n");
    assert!(unknown.logs.contains("127.0.0.1:1"), "{}", unknown.logs);
    assert!(
        unknown
            .logs
            .contains("\"msg\":\"unrecognized environment variable\",\"environment-variable\":\"ETCDCTL_FOO=1\""),
        "{}",
        unknown.logs
    );
    let args = ["--endpoints=127.0.0.1:1", "get", "a"];
    let both = run(&ours(), &env, &args, b"");
    assert_eq!(both.code, Some(1));
    assert!(
        both.logs.contains("\"level\":\"fatal\"")
            && both.logs.contains("\"msg\":\"conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag))\",\"environment-variable\":\"ETCDCTL_ENDPOINTS\""),
        "{}",
        both.logs
    );
    let silent = run(
        &ours(),
        &[("ETCDCTL_API", "3")],
        &[
            "--endpoints=127.0.0.1:1",
            "--command-timeout=100ms",
            "get",
            "a",
        ],
        b"",
    );
    assert!(!silent.logs.contains("unrecognized"), "{}", silent.logs);
    // A value that cannot be read is passed over, and the usual one stays.
    let bad = [("ETCDCTL_DIAL_TIMEOUT", "x"), ("ETCDCTL_HEX", "perhaps")];
    let passed = run(
        &ours(),
        &bad,
        &[
            "--command-timeout=100ms",
            "--endpoints=127.0.0.1:1",
            "get",
            "a",
        ],
        b"",
    );
    assert_eq!(
        (passed.stderr.as_str(), passed.code),
        ("Error: context deadline exceeded\n", Some(1))
    );
    assert!(
        passed
            .logs
            .contains("invalid value \\\"x\\\" for ETCDCTL_DIAL_TIMEOUT"),
        "{}",
        passed.logs
    );
}

#[test]
fn files_for_tls_that_cannot_be_are_named() {
    for (args, wanted) in [
        (
            &["--cert=/nowhere/c.pem", "get", "a"][..],
            "KeyFile and CertFile must both be present[key: , cert: /nowhere/c.pem]",
        ),
        (
            &["--cacert=/nowhere/ca.pem", "get", "a"],
            "open /nowhere/ca.pem: no such file or directory",
        ),
        (
            &["--cert=/dev/null", "--key=/dev/null", "get", "a"],
            "tls: failed to find any PEM data in certificate input",
        ),
        (
            &["--cacert=", "get", "a"],
            "empty string is passed to --cacert option",
        ),
    ] {
        let run = run(&ours(), &[], args, b"");
        assert_eq!(run.code, Some(128));
        assert!(
            run.stderr.starts_with(&format!("Error: {wanted}")) && run.stderr.lines().count() == 1,
            "{run:?}"
        );
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut child = Command::new(ours())
        .arg("options")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut stderr = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut stderr)
        .unwrap();
    child.wait().unwrap();
    assert_eq!(stderr, "");
}

#[test]
fn version_2_commands_are_pointed_to_version_3() {
    for (args, words) in [
        (&["set", "a", "b"][..], "put <key> <value>"),
        (&["mk", "a", "b"], "txn"),
        (&["ls"], "get --prefix --keys-only"),
        (&["get", "a"], "get <key>"),
        (&["rm", "a"], "del <key>"),
        (&["watch", "a"], "watch <key>"),
        (&["setdir", "a"], "put"),
        (&["backup"], "snapshot save"),
        (&["user", "list"], "user"),
        (&["member", "promote", "a"], "ETCDCTL_API=3"),
        (&["put", "a", "b"], "ETCDCTL_API=3"),
        (&["endpoint", "status"], "ETCDCTL_API=3"),
        (&["frobnicate"], "ETCDCTL_API=3"),
        (&["--bogus", "member", "list"], "not defined"),
    ] {
        let run = run(&ours(), &[("ETCDCTL_API", "2")], args, b"");
        assert_eq!((run.code, run.stdout.as_str()), (Some(1), ""), "{args:?}");
        assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
        assert!(run.stderr.contains(words), "{run:?}");
    }
    let endpoint = format!("http://127.0.0.1:{}", free_port());
    let args = ["--endpoint", &endpoint, "member", "list"];
    let dead = run(&ours(), &[("ETCDCTL_API", "2")], &args, b"");
    assert_eq!((dead.code, dead.stdout.as_str()), (Some(2), ""));
    assert!(
        dead.stderr.starts_with(
            "Error:  client: etcd cluster is unavailable or misconfigured; error #0: "
        ),
        "{dead:?}"
    );
    let args = ["--endpoints", &endpoint, "cluster-health"];
    let dead = run(&ours(), &[("ETCDCTL_API", "2")], &args, b"");
    assert_eq!(
        (dead.code, dead.stdout.as_str()),
        (
            Some(4),
            "cluster may be unhealthy: failed to list members\n"
        )
    );
}

#[test]
fn shells_complete_commands_and_flags() {
    let script = |shell: &str| run(&ours(), &[], &["completion", shell], b"");
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = script(shell);
        assert_eq!(script.code, Some(0));
        assert!(script.stdout.contains("make-mirror"), "{shell}");
    }
    let tcsh = script("tcsh");
    assert_eq!(
        (tcsh.code, tcsh.stderr.as_str()),
        (
            Some(1),
            "Error: invalid argument \"tcsh\" for \"etcdctl completion\"\n"
        )
    );
    // Bash itself, as it would ask at a prompt.
    let complete = |typed: &[&str]| {
        let words: Vec<String> = typed.iter().map(|w| format!("'{w}'")).collect();
        let text = format!(
            "{}\nCOMP_WORDS=({}); COMP_CWORD={}; _etcdctl; echo \"${{COMPREPLY[@]}}\"",
            script("bash").stdout,
            words.join(" "),
            typed.len() - 1
        );
        let output = Command::new("bash").args(["-c", &text]).output().unwrap();
        assert!(output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(complete(&["etcdctl", "wat"]), "watch\n");
    assert_eq!(complete(&["etcdctl", "user", "grant"]), "grant-role\n");
    assert_eq!(
        complete(&["etcdctl", "endpoint", "status", "--clu"]),
        "--cluster\n"
    );
    assert_eq!(
        complete(&["etcdctl", "get", "--print"]),
        "--print-value-only\n"
    );
}

#[test]
fn a_range_in_pieces_prints_like_one_in_one_piece() {
    let Some(dir) = oracle() else { return };
    // Only ours can stream.
    for etcd in servers(&dir).into_iter().skip(1) {
        let (_data, members) = cluster_of(&etcd, 1, &[]);
        let our = |args: &[&str]| {
            let all = [&["--endpoints", &members[0].endpoint][..], args].concat();
            run(&ours(), &[], &all, b"")
        };
        for n in 0..20 {
            let key = format!("k{n}");
            assert_eq!(our(&["put", &key, &key.repeat(100)]).code, Some(0));
        }
        for args in [
            &["k", "--prefix"][..],
            &["k1"],
            &["none"],
            &["k", "--prefix", "--limit=3"],
            &["k", "--prefix", "--keys-only", "--rev=9"],
            &["k", "--prefix", "--count-only"],
            &["k", "--rev=1000"],
        ] {
            for form in ["simple", "json", "fields"] {
                let get = [&["get", "-w", form][..], args].concat();
                assert_eq!(
                    our(&[&get[..], &["--stream"]].concat()),
                    our(&get),
                    "{get:?}"
                );
            }
        }
    }
}
