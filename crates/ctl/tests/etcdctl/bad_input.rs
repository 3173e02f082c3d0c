//! What is wrong is said in one line on standard error, after any log lines, with the original's exit code;
//! nothing goes to standard output, and nothing panics.

use ferrite_testkit::{Cluster, Kind, Pki, Wanted};

use crate::common::{Run, cluster, cluster_of, free_port, oracle, ours, run, servers};

/// One error line, and this code.
#[track_caller]
fn one_line(run: &Run, code: i32, words: &str) {
    assert_eq!((run.code, &run.stdout[..]), (Some(code), ""), "{run:?}");
    assert_eq!(run.stderr.lines().count(), 1, "{run:?}");
    assert!(run.stderr.contains(words), "{words}: {run:?}");
    assert!(!run.stderr.contains("panicked"), "{run:?}");
}

#[test]
fn nobody_there_and_nowhere_to_go() {
    let dead = format!("127.0.0.1:{}", free_port());
    for endpoint in [&dead[..], "http://no.such.host.invalid:2379"] {
        for command in [
            &["get", "a"][..],
            &["put", "a", "b"],
            &["member", "list"],
            &["lease", "list"],
            &["user", "list"],
            &["alarm", "list"],
            &["compaction", "1"],
            &["auth", "status"],
            &["endpoint", "status", "--cluster"],
        ] {
            let args = [
                &["--endpoints", endpoint, "--command-timeout=200ms"][..],
                command,
            ]
            .concat();
            let ours = run(&ours(), &[], &args, b"");
            // The original takes what goes wrong with leases for a bad connection.
            let code = if command[0] == "lease" { 2 } else { 1 };
            one_line(&ours, code, "context deadline exceeded");
        }
    }
    // What cannot be an address is one that nobody can reach.
    for endpoint in ["ftp://x:1", "", "127.0.0.1:notaport"] {
        let args = [
            "--command-timeout=200ms",
            "--endpoints",
            endpoint,
            "get",
            "a",
        ];
        let ours = run(&ours(), &[], &args, b"");
        assert!(matches!(ours.code, Some(1 | 2)), "{ours:?}");
        assert_eq!(ours.stderr.lines().count(), 1, "{ours:?}");
    }
}

#[test]
fn whoever_may_not_is_told_so() {
    let Some(dir) = oracle() else { return };
    let server = servers(&dir).pop().unwrap();
    let (_data, members) = cluster_of(&server, 1, &["--bcrypt-cost=4"]);
    let on = |program: &std::path::Path, args: &[&str]| {
        let all = [&["--endpoints", &members[0].endpoint][..], args].concat();
        run(program, &[], &all, b"")
    };
    for args in [
        &["user", "add", "root:pw"][..],
        &["user", "add", "u:pw"],
        &["auth", "enable"],
    ] {
        assert_eq!(on(&ours(), args).code, Some(0), "{args:?}");
    }
    for args in [
        &["--user=u:pw", "put", "k", "v"][..],
        &["--user=u:pw", "get", "k"],
        &["--user=u:pw", "user", "list"],
        &["--user=u:pw", "compaction", "1"],
        &["--user=u:wrong", "get", "k"],
        &["--user=nobody:pw", "get", "k"],
        &["get", "k"],
        &["--user=u:pw", "defrag"],
    ] {
        let theirs = on(&dir.join("etcdctl"), args);
        let ours = on(&ours(), args);
        assert_eq!(ours.code, theirs.code, "{args:?} {ours:?} {theirs:?}");
        assert_eq!(ours.stderr.lines().count(), 1, "{args:?} {ours:?}");
        assert_eq!(ours.stdout, "");
        if !args.contains(&"defrag") {
            assert_eq!(ours.stderr, theirs.stderr, "{args:?}");
        }
    }
}

#[tokio::test]
async fn certificates_that_do_not_count_are_named() {
    if oracle().is_none() {
        return;
    }
    let papers = tempfile::tempdir().unwrap();
    let pki = Pki::new(papers.path(), "ca");
    let server = pki.issue("server", &Wanted::hosts(&["127.0.0.1"]));
    let client = pki.issue("client", &Wanted::common_name("client"));
    let expired = pki.issue("expired", &Wanted::common_name("client").expired());
    let other = Pki::new(papers.path(), "other");
    let stranger = other.issue("stranger", &Wanted::common_name("client"));
    let flags = [
        format!("--cert-file={}", server.cert),
        format!("--key-file={}", server.key),
        format!("--trusted-ca-file={}", pki.ca()),
        "--client-cert-auth".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let cluster = Cluster::builder()
        .kinds(&[Kind::Ferrite])
        .encrypted_clients(pki.client(Some(&client)))
        .extra_args(&flags)
        .start()
        .await;
    let to = cluster.member(0).endpoint();
    let get = |authority: &str, paper: &ferrite_testkit::Paper, limit: &str| {
        let args = [
            format!("--endpoints={to}"),
            format!("--command-timeout={limit}"),
            format!("--cacert={authority}"),
            format!("--cert={}", paper.cert),
            format!("--key={}", paper.key),
            "get".to_owned(),
            "k".to_owned(),
        ];
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        run(&ours(), &[], &args, b"")
    };
    let good = get(&pki.ca(), &client, "60s");
    assert_eq!(good.code, Some(0), "{good:?}");
    // The reason is in the log line before, as the other side or we ourselves gave it.
    for (authority, paper, reason) in [
        (pki.ca(), &expired, "expired certificate"),
        (pki.ca(), &stranger, "certificate"),
        (
            other.ca(),
            &client,
            "certificate signed by unknown authority",
        ),
    ] {
        let refused = get(&authority, paper, "2s");
        one_line(&refused, 1, "context deadline exceeded");
        assert!(refused.logs.contains(reason), "{reason}: {refused:?}");
    }
}

#[test]
fn what_is_no_snapshot_is_not_saved_as_one() {
    let Some(dir) = oracle() else { return };
    let (data, members) = cluster(&dir, 1);
    let folder = data.path().join("a-folder");
    std::fs::create_dir(&folder).unwrap();
    let path = folder.to_str().unwrap();
    let args = [
        "--endpoints",
        &members[0].endpoint,
        "snapshot",
        "save",
        path,
    ];
    let saved = run(&ours(), &[], &args, b"");
    one_line(&saved, 5, "could not rename");
    assert!(folder.is_dir(), "what was there stays");
    assert!(!data.path().join("a-folder.part").exists());
}
