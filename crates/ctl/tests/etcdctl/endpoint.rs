//! `endpoint …` and `move-leader` next to the original's, and what is said of a cluster in trouble.

use crate::common::{cluster, oracle, ours, run, without_forms};

#[test]
fn fields_and_refusals() {
    let Some(dir) = oracle() else { return };
    let (_data, members) = cluster(&dir, 1);
    let endpoint = members[0].endpoint.as_str();
    let our = |args: &[&str]| {
        let all = [&["--endpoints", endpoint][..], args].concat();
        run(&ours(), &[], &all, b"")
    };
    // Names in order; what 3.5.1 prints less of, it prints in the same order.
    let names = |text: &str| -> Vec<String> {
        let lines = text.lines();
        lines
            .map(|l| l.split(" : ").next().unwrap().to_owned())
            .collect()
    };
    let status = our(&["endpoint", "status", "-w", "fields"]).stdout;
    let expected = [
        "ClusterID",
        "MemberID",
        "Revision",
        "RaftTerm",
        "Version",
        "StorageVersion",
        "DBSize",
        "DBSizeInUse",
        "DBSizeQuota",
        "Leader",
        "IsLearner",
        "RaftIndex",
        "RaftTerm",
        "RaftAppliedIndex",
        "Errors",
        "Endpoint",
        "DowngradeTargetVersion",
        "DowngradeEnabled",
    ];
    let expected = expected.iter().map(|name| format!("\"{name}\""));
    let expected: Vec<String> = expected.chain([String::new()]).collect();
    assert_eq!(names(&status), expected);
    let hash = our(&["endpoint", "hashkv", "-w", "fields"]).stdout;
    let tail = names(&hash).split_off(4);
    assert_eq!(tail, ["\"Endpoint\"", "\"Hash\"", "\"HashRevision\"", ""]);
    let health = our(&["endpoint", "health", "-w", "fields"]).stdout;
    let start = format!("\"Endpoint\" : \"{endpoint}\"\n\"Health\" : true\n\"Took\" : ");
    assert!(health.starts_with(&start), "{health}");
    assert!(health.ends_with("\n\"Error\" : \n\n"), "{health}");

    let id = our(&["member", "list"]).stdout;
    let id = id.split(',').next().unwrap();
    // Lists of endpoints with gaps, blanks, and such as nobody can reach; URLs that would end the server.
    let lists = [
        format!("{endpoint},"),
        format!(",{endpoint}"),
        format!("{endpoint},foo"),
        format!("ftp://x, {endpoint}"),
    ];
    let lists = lists.iter().map(|list| vec![list.as_str(), "get", "k"]);
    let alone = [
        vec!["--command-timeout=300ms", "--endpoints=foo", "get", "k"],
        vec!["--command-timeout=300ms", "--endpoints=:::", "get", "k"],
        vec!["lease", "timetolive", "zz", "-w", "bogus"],
        vec!["lease", "timetolive", "-w", "bogus"],
        vec!["help", "bogus"],
    ];
    let urls = ["127.0.0.1:38390", "foo", "http://a:1/b", "http://a", ":1"].into_iter();
    let urls = urls.flat_map(|url| {
        [
            vec![endpoint, "member", "update", id, "--peer-urls", url],
            vec![endpoint, "member", "add", "x", "--peer-urls", url],
        ]
    });
    let lists = lists.chain(urls).map(|mut args| {
        args.insert(0, "--endpoints");
        args
    });
    for args in lists.chain(alone) {
        let [theirs, mut ours] = [dir.join("etcdctl"), ours()].map(|p| run(&p, &[], &args, b""));
        ours.stderr = without_forms(&ours.stderr);
        assert_eq!(
            (ours.code, &ours.stderr),
            (theirs.code, &theirs.stderr),
            "{args:?}"
        );
        // Help has a look of its own.
        assert!(
            args[0] == "help" || ours.stdout == theirs.stdout,
            "{args:?} {ours:?}"
        );
    }
    let args = [
        "--endpoints=foo",
        "--command-timeout=300ms",
        "endpoint",
        "health",
    ];
    let health = run(&ours(), &[], &args, b"");
    assert_eq!(health.code, Some(1));
    assert!(
        health.stdout.contains("foo is unhealthy: ")
            || health.stderr.contains("foo is unhealthy: "),
        "{health:?}"
    );
    assert!(
        health.stderr.ends_with("Error: unhealthy cluster\n"),
        "{health:?}"
    );
    for (args, form) in [
        (&["put", "k", "v"][..], "table"),
        (&["get", "k"], "table"),
        (&["del", "k"], "table"),
        (&["lease", "list"], "table"),
        (&["alarm", "list"], "table"),
        (&["move-leader", id], "table"),
        (&["move-leader", id], "fields"),
        (
            &["member", "update", id, "--peer-urls=http://127.0.0.1:1"],
            "fields",
        ),
        (&["member", "remove", "1"], "fields"),
    ] {
        let all = [args, &["-w", form][..]].concat();
        let with = [&["--endpoints", endpoint][..], &all].concat();
        // The original never answers a change of members that comes a moment too early after another (CL-11).
        let answered = |program: std::path::PathBuf| loop {
            let answer = run(&program, &[], &with, b"");
            if args[0] != "member" || !answer.stderr.contains("deadline exceeded") {
                return answer;
            }
        };
        let theirs = answered(dir.join("etcdctl"));
        let ours = answered(ours());
        assert_eq!(
            (ours.code, &ours.stdout, &ours.stderr),
            (theirs.code, &theirs.stdout, &theirs.stderr),
            "{args:?}"
        );
    }
}

#[test]
fn a_cluster_in_trouble_is_described() {
    let Some(dir) = oracle() else { return };
    let (_data, mut members) = cluster(&dir, 3);
    let endpoint = members[0].endpoint.clone();
    let status = |flags: &[&str]| {
        let args = [
            "--endpoints",
            &endpoint,
            "--command-timeout=2s",
            "endpoint",
            "status",
        ];
        run(&ours(), &[], &[&args[..], flags].concat(), b"")
    };
    let well = status(&["--cluster"]);
    assert_eq!((well.code, well.stderr.as_str()), (Some(0), ""), "{well:?}");
    members[2].kill();
    // If that one led, there is no list of members until another does.
    let mut two = status(&["--cluster"]);
    crate::common::eventually("a new leader", || {
        if two.stdout.lines().count() != 2 || two.stderr.contains("no leader") {
            two = status(&["--cluster"]);
            return false;
        }
        true
    });
    assert_eq!(two.code, Some(1));
    assert!(
        two.stderr
            .contains("Note: 1 of 3 members did not answer: the next loss stops all writes\n"),
        "{two:?}"
    );
    // Without --cluster nobody has asked for the cluster.
    assert_eq!(status(&[]).stderr, "");
}

#[test]
fn leadership_moves() {
    let Some(dir) = oracle() else { return };
    let (_data, members) = cluster(&dir, 3);
    let endpoints: Vec<&str> = members.iter().map(|m| &m.endpoint[..]).collect();
    let endpoints = endpoints.join(",");
    let leader = || {
        let args = ["--endpoints", &endpoints, "endpoint", "status"];
        let status = run(&ours(), &[], &args, b"").stdout;
        let rows = status.lines().map(|l| l.split(", ").collect::<Vec<_>>());
        let mut ids: Vec<(bool, String)> =
            rows.map(|r| (r[8] == "true", r[1].to_owned())).collect();
        ids.sort();
        ids
    };
    for program in [dir.join("etcdctl"), ours()] {
        let before = leader();
        let (from, to) = (&before[2].1, &before[0].1);
        assert!(before[2].0, "{before:?}");
        let args = ["--endpoints", &endpoints, "move-leader", to];
        let moved = run(&program, &[], &args, b"");
        assert_eq!(
            (moved.code, moved.stdout),
            (
                Some(0),
                format!("Leadership transferred from {from} to {to}\n")
            )
        );
        crate::common::eventually("the new leader", || {
            leader().iter().any(|(leads, id)| *leads && id == to)
        });
    }
}
