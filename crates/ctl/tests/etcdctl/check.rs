//! `check …`, and `downgrade`, which 3.5.1's program does not have.

use crate::common::{cluster, oracle, ours, run};

#[test]
fn loads_are_judged_and_cleaned_up() {
    let Some(dir) = oracle() else { return };
    let (_data, members) = cluster(&dir, 1);
    let endpoint = members[0].endpoint.as_str();
    let our = |args: &[&str]| {
        let all = [&["--endpoints", endpoint][..], args].concat();
        run(&ours(), &[], &all, b"")
    };
    let perf = our(&[
        "check",
        "perf",
        "--duration=1s",
        "--auto-compact",
        "--auto-defrag",
    ]);
    let lines: Vec<&str> = perf.stdout.lines().collect();
    assert!(
        lines[0].starts_with("Compacting with revision "),
        "{perf:?}"
    );
    assert!(lines[1].starts_with("Compacted with revision "), "{perf:?}");
    assert_eq!(
        lines[2..4],
        [
            format!("Defragmenting \"{endpoint}\""),
            format!("Defragmented \"{endpoint}\""),
        ]
    );
    // How fast this machine is today is not for a test to say.
    let judged = |line: &str, good: &str, bad: &str, unit: &str| {
        assert!(
            (line.starts_with(good) || line.starts_with(bad)) && line.ends_with(unit),
            "{line}"
        );
        line.starts_with(good)
    };
    let passed = [
        judged(
            lines[4],
            "PASS: Throughput is ",
            "FAIL: Throughput too low: ",
            " writes/s",
        ),
        judged(
            lines[5],
            "PASS: Slowest request took ",
            "Slowest request took too long: ",
            "s",
        ),
        judged(lines[6], "PASS: Stddev is ", "Stddev too high: ", "s"),
    ];
    let passed = passed.iter().all(|p| *p);
    assert_eq!(lines[7..], [if passed { "PASS" } else { "FAIL" }]);
    assert_eq!(perf.code, Some(i32::from(!passed)));
    let left = ["get", "/etcdctl-check-", "--prefix", "--keys-only"];
    assert_eq!(our(&left).stdout, "");

    let scale = our(&["check", "datascale"]);
    let lines: Vec<&str> = scale.stdout.lines().collect();
    assert_eq!(
        lines[0],
        "Start data scale check for work load [10000 key-value pairs, 1024 bytes per key-value, 50 concurrent clients]."
    );
    assert!(
        lines[1].starts_with("PASS: Approximate system memory used : ")
            && lines[1].ends_with(" MB."),
        "{scale:?}"
    );
    assert_eq!(our(&left).stdout, "");

    our(&["put", "/etcdctl-check-perf/x", "y"]);
    our(&["put", "/etcdctl-check-datascale/x", "y"]);
    for args in [
        &["check", "perf"][..],
        &["check", "datascale"],
        &["check", "perf", "--load=z"],
        &["check", "datascale", "--load=z"],
    ] {
        let all = [&["--endpoints", endpoint][..], args].concat();
        let theirs = run(&dir.join("etcdctl"), &[], &all, b"");
        let ours = our(args);
        assert_eq!(
            (ours.code, ours.stdout, ours.stderr),
            (theirs.code, theirs.stdout, theirs.stderr),
            "{args:?}"
        );
    }
}

#[test]
fn downgrades_are_asked_for() {
    let Some(dir) = oracle() else { return };
    let (_data, members) = cluster(&dir, 1);
    let our = |args: &[&str]| {
        let all = [
            &["--endpoints", &members[0].endpoint, "downgrade"][..],
            args,
        ]
        .concat();
        let run = run(&ours(), &[], &all, b"");
        (run.code.unwrap(), run.stdout, run.stderr)
    };
    let out = |text: &str| (0, format!("{text}\n"), String::new());
    let err = |code, text: &str| (code, String::new(), format!("Error: {text}\n"));
    assert_eq!(our(&["validate"]), err(128, "TARGET_VERSION not provided"));
    assert_eq!(
        our(&["validate", ""]),
        err(128, "target version not provided")
    );
    assert_eq!(our(&["enable", "a", "b"]), err(128, "too many arguments"));
    assert_eq!(
        our(&["validate", "3.5"]),
        err(1, "etcdserver: invalid downgrade target version")
    );
    assert_eq!(
        our(&["cancel"]),
        err(1, "etcdserver: no inflight downgrade job")
    );
    assert_eq!(
        our(&["validate", "3.4"]),
        out("Downgrade validate success, cluster version 3.5.0")
    );
    let (code, json, _) = our(&["validate", "3.4", "-w", "json"]);
    assert_eq!(code, 0);
    assert!(json.ends_with("},\"version\":\"3.5.0\"}\n"), "{json}");
    assert_eq!(
        our(&["validate", "3.4", "-w", "fields"]),
        err(4, "fields not supported as output format")
    );
    assert_eq!(
        our(&["enable", "3.5"]),
        err(1, "etcdserver: invalid downgrade target version")
    );
}
