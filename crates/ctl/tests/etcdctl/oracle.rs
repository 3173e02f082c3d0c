//! The same commands through etcd's own etcdctl 3.5.1 and through ours, against the same etcd; and
//! literal expectations where 3.7 prints something else.

use std::path::Path;

use crate::common::{Run, cluster, cluster_of, oracle, ours, run, servers, without_forms};

/// Both programs' results for one command.
fn both(dir: &Path, endpoint: &str, args: &[&str], stdin: &[u8]) -> (Run, Run) {
    let mut all = vec!["--endpoints", endpoint];
    all.extend(args);
    let change = args[0] == "member" && args[1] != "list";
    let run_one = |program: &Path| {
        if change {
            changes_have_settled(dir, endpoint);
        }
        run(program, &[], &all, stdin)
    };
    (run_one(&dir.join("etcdctl")), run_one(&ours()))
}

/// Waits until etcd 3.5.1 takes another change of its membership. Its raft drops a change without a
/// word, and the call runs into its deadline, while it has not yet been told that the change before is
/// applied; that is a moment after the change was answered ("ignoring conf change … possible unapplied
/// conf change" in its log; its own etcdctl hangs just so). A write that is answered comes after that.
fn changes_have_settled(dir: &Path, endpoint: &str) {
    let args = ["--endpoints", endpoint, "put", "settled", ""];
    let put = run(&dir.join("etcdctl"), &[], &args, b"");
    assert_eq!(put.code, Some(0), "{put:?}");
}

/// Numbers that grow with every write, blanked.
fn without_revisions(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    let names = ["evision\":", "evision\" : ", "version\":", "ersion\" : "];
    while let Some((at, name)) = names
        .iter()
        .filter_map(|n| rest.find(n).map(|at| (at, n)))
        .min()
    {
        let (before, after) = rest.split_at(at + name.len());
        out.push_str(before);
        out.push('#');
        rest = after.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    out + rest
}

#[test]
fn what_3_5_printed_is_printed_still() {
    let Some(dir) = oracle() else { return };
    let (_data, members) = cluster(&dir, 1);
    let endpoint = &members[0].endpoint;
    let our = |args: &[&str], stdin: &[u8]| {
        let mut all = vec!["--endpoints", endpoint];
        all.extend(args);
        let run = run(&ours(), &[], &all, stdin);
        assert_eq!(run.code, Some(0), "{args:?} {run:?}");
    };
    our(&["put", "foo", "bar"], b"");
    our(&["put", "foo", "<&\"é\u{301}>"], b"");
    our(&["put", "foo2"], b"a\nb\x00\xff\\\"");
    our(&["put", "--", "-dash", "-w"], b"");
    our(&["put", "empty", ""], b"");

    let forms = ["simple", "json", "fields", "protobuf"];
    let reads: &[&[&str]] = &[
        &["get", "foo"],
        &["get", "--prefix", "f"],
        &["get", "", "--from-key"],
        &["get", "", "--prefix"],
        &["get", "foo", "--keys-only"],
        &["get", "missing"],
        &["get", "foo", "--rev=2"],
        &["get", "f", "--prefix", "--limit=1"],
        &[
            "get",
            "f",
            "--prefix",
            "--order=DESCEND",
            "--sort-by=MODIFY",
        ],
        &["get", "f", "--prefix", "--order", "ascend"],
        &["get", "empty", "foo2"],
        &["get", "foo", "--consistency=s"],
        &["get", "--", "-dash"],
        &["get", "f", "--prefix", "--count-only"],
        &["get", "foo", "--print-value-only"],
        &["member", "list"],
        &["alarm", "list"],
    ];
    for read in reads {
        for form in forms {
            let mut args = read.to_vec();
            args.extend(["-w", form]);
            let (theirs, ours) = both(&dir, endpoint, &args, b"");
            if form == "fields" && read[0] == "member" {
                // 3.7 leaves out a revision of zero.
                let theirs = theirs.stdout.replace("\"Revision\" : 0\n", "");
                assert_eq!(ours.stdout, theirs, "{args:?}");
                continue;
            }
            assert_eq!(
                (ours.code, &ours.stdout, &ours.stderr),
                (theirs.code, &theirs.stdout, &theirs.stderr),
                "{args:?}"
            );
        }
    }
    let plain: &[&[&str]] = &[
        &["get", "foo", "--hex"],
        &["g", "foo"],
        &["get", "foo", "--write-out=json", "--hex"],
        &["del", "nothere"],
        // Its fields form makes the original crash.
        &["alarm", "disarm"],
        &["alarm", "disarm", "-w", "json"],
    ];
    for args in plain {
        let (theirs, ours) = both(&dir, endpoint, args, b"");
        assert_eq!(
            (ours.code, ours.stdout),
            (theirs.code, theirs.stdout),
            "{args:?}"
        );
    }

    // Writes: each program does its own, so revisions differ.
    let writes: &[(&[&str], &[u8])] = &[
        (&["put", "w", "1"], b""),
        (&["put", "w", "2", "--prev-kv"], b""),
        (&["put", "w", "--ignore-value", "--prev-kv"], b""),
        (&["put", "w", "--ignore-lease"], b"from stdin\n"),
        (
            &["txn"],
            b"ver(\"w\") > \"0\"\n\nput w 3 --prev-kv\nget w\n\n\n",
        ),
        (
            &["txn", "-i"],
            b"val(\"w\") = \"nope\"\n\n\nput d 1\ndel e --prefix --prev-kv\n\n",
        ),
        (&["txn"], b"\nget w\nput d 1\ndel dd\n\n\n"),
    ];
    for (write, stdin) in writes {
        // Once before, so that both find the same.
        our(write, stdin);
        for form in ["simple", "json", "fields"] {
            let mut args = write.to_vec();
            args.extend(["-w", form]);
            let (theirs, ours) = both(&dir, endpoint, &args, stdin);
            assert_eq!(
                (ours.code, without_revisions(&ours.stdout)),
                (theirs.code, without_revisions(&theirs.stdout)),
                "{args:?}"
            );
        }
    }
    for args in [
        &["del", "w", "--prev-kv"][..],
        &["del", "d", "--prefix", "-w", "json"],
    ] {
        our(&["put", "w", "x"], b"");
        our(&["put", "d", "x"], b"");
        our(&["put", "d2", "x"], b"");
        let mut all = vec!["--endpoints", endpoint];
        all.extend(args);
        let theirs = run(&dir.join("etcdctl"), &[], &all, b"");
        our(&["put", "w", "x"], b"");
        our(&["put", "d", "x"], b"");
        our(&["put", "d2", "x"], b"");
        let ours = run(&ours(), &[], &all, b"");
        assert_eq!(
            without_revisions(&ours.stdout),
            without_revisions(&theirs.stdout)
        );
    }
    let (theirs, mine) = both(&dir, endpoint, &["compaction", "3"], b"");
    assert_eq!(theirs.stdout, "compacted revision 3\n");
    assert_eq!(
        (mine.code, mine.stderr.as_str()),
        (
            Some(1),
            "Error: etcdserver: mvcc: required revision has been compacted\n"
        )
    );
    let mine = run(
        &ours(),
        &[],
        &["--endpoints", endpoint, "compact", "4", "--physical"],
        b"",
    );
    assert_eq!(
        (mine.code, mine.stdout.as_str()),
        (Some(0), "compacted revision 4\n")
    );
}

#[test]
fn mistakes_end_as_they_did() {
    let Some(dir) = oracle() else { return };
    let (_data, members) = cluster(&dir, 1);
    let endpoint = &members[0].endpoint;
    let mistakes: &[&[&str]] = &[
        &["get"],
        &["get", "a", "b", "--prefix"],
        &["get", "a", "--prefix", "--from-key"],
        &["get", "a", "--keys-only", "--count-only"],
        &["get", "a", "--count-only"],
        &["get", "a", "--count-only", "-w", "json"],
        &["get", "a", "--print-value-only", "-w", "json"],
        &["get", "foo", "--order=x"],
        &["get", "foo", "--sort-by=x"],
        &["get", "foo", "--consistency=x"],
        &["get", "foo", "-w", "xml"],
        &["get", "foo", "-w", "table"],
        &["get", "foo", "--rev=100000"],
        &["get", ""],
        &["put"],
        &["put", "a"],
        &["put", "a", "b", "--lease=zz"],
        &["put", "a", "b", "--lease=77"],
        &["put", "a", "--ignore-value", "x"],
        &["put", "", "v"],
        &["del"],
        &["del", "a", "b", "c"],
        &["del", "a", "b", "--prefix"],
        &["compaction"],
        &["compaction", "x"],
        &["compaction", "100000"],
        &["member", "remove"],
        &["member", "remove", "zz"],
        &["member", "add"],
        &["member", "add", "a", "b", "http://x"],
        &["member", "add", "a"],
        &["member", "update", "1"],
        &["member", "promote", "12"],
        &["member", "remove", "12"],
        &["move-leader"],
        &["move-leader", "x"],
        &["move-leader", "12"],
        &["alarm", "list", "x"],
        &["alarm", "disarm", "x"],
        &["txn", "x"],
        &["txn"],
        &["--cert=", "get", "a"],
    ];
    for args in mistakes {
        let (theirs, mut ours) = both(&dir, endpoint, args, b"");
        if args.contains(&"--consistency=x") {
            // The original names the right flag there, by luck.
            assert!(ours.stderr.contains("unknown consistency flag \"x\""));
        }
        ours.logs.clear();
        ours.stderr = without_forms(&ours.stderr);
        assert_eq!(
            (ours.code, &ours.stdout, &ours.stderr),
            (theirs.code, &theirs.stdout, &theirs.stderr),
            "{args:?}"
        );
    }
    let args = ["--endpoints=", "get", "a"];
    let theirs = run(&dir.join("etcdctl"), &[], &args, b"");
    let mine = run(&ours(), &[], &args, b"");
    assert_eq!((mine.code, &mine.stderr), (theirs.code, &theirs.stderr));
    // The original says these twice, and with its manual page.
    for args in [
        &["pot"][..],
        &["version2"],
        &["get", "foo", "--bogus"],
        &["-x", "get", "foo"],
        &["get", "foo", "-w"],
        &["--endpoints"],
        &["--dial-timeout=5", "get", "foo"],
        &["--dial-timeout=5x", "get", "foo"],
        &["get", "foo", "--hex=maybe"],
        &["get", "foo", "--limit=x"],
        &["---x", "get"],
        &["--nonsense", "get", "foo"],
    ] {
        let theirs = run(&dir.join("etcdctl"), &[], args, b"");
        let ours = run(&ours(), &[], args, b"");
        let first = |text: &str| text.lines().next().unwrap_or_default().to_owned();
        assert_eq!(
            (ours.code, first(&ours.stderr)),
            (theirs.code, first(&theirs.stderr)),
            "{args:?}"
        );
        assert_eq!(ours.stdout, "");
    }
}

#[test]
fn transactions_are_read_as_they_were() {
    let Some(dir) = oracle() else { return };
    let (_data, members) = cluster(&dir, 1);
    let endpoint = &members[0].endpoint;
    let inputs = [
        "\n\n\n",
        "x\n",
        "mod(\"k\")>\"0\"\n",
        "mod(k) > \"0\"\n",
        "mod(\"k\") > 0\n",
        "foo(\"k\") = \"0\"\n",
        "mod(\"k\") = \"x\"\n",
        "mod( \"k\") = \"1\"\n\n\n\n",
        "mod(\"k\" ) = \"1\"\n",
        "mod(\"k\")  =   \"1\"\n\n\n\n",
        "mod(\"k\") =\"1\"\n",
        "mod(\"k\") = \"1\" xyz\n\n\n\n",
        "mod (\"k\") = \"1\"\n",
        "mod(\"k\\x\") = \"1\"\n",
        "mod(`k`) = `0`\n\n\n\n",
        "  ver(\"k\") = \"0\"  \n   \n\n\n",
        "c(\"k\") < \"5\"\ncreate(\"k\") != \"5\"\nversion(\"k\") = \"0\"\nval(\"k\") = \"\"\n\n\n\n",
        "\nput\n",
        "\nfoo a b\n",
        "\nget \"a\\q\" b\n",
        "\nput a\n",
        "\nget \"open end\n\n\n",
        "\nget \"f\\x6fo\"\n\n\n",
        "\nget a\"b c\"\n\n\n",
        "\nget --prefix f --keys-only\n\n\n",
        "\n--prefix get f\n",
        "\nge foo\n\n\n",
        "\nget foo",
        "\nget foo\nget foo --rev=1000\n\n\n",
        "\nput a b\nput a c\n\n\n",
    ];
    for input in inputs {
        let (theirs, ours) = both(&dir, endpoint, &["txn"], input.as_bytes());
        assert_eq!(
            (ours.code, &ours.stdout, &ours.stderr),
            (theirs.code, &theirs.stdout, &theirs.stderr),
            "{input:?}"
        );
    }
}

#[test]
fn what_3_7_changed() {
    let Some(dir) = oracle() else { return };
    let (_data, members) = cluster(&dir, 1);
    let endpoint = members[0].endpoint.as_str();
    let our = |args: &[&str]| {
        let mut all = vec!["--endpoints", endpoint];
        all.extend(args);
        run(&ours(), &[], &all, b"")
    };
    let ids = our(&["member", "list"]).stdout;
    let id = ids.split(',').next().unwrap().to_owned();

    let status = our(&["endpoint", "status"]).stdout;
    let columns: Vec<&str> = status.trim_end_matches('\n').split(", ").collect();
    assert_eq!(columns.len(), 16, "{status}");
    assert_eq!(columns[..4], [endpoint, &id, "3.5.1", ""]);
    assert!(
        columns[4].ends_with(" kB") && columns[6].ends_with('%'),
        "{status}"
    );
    // 3.5.1 knows of no quota in its status.
    assert_eq!(columns[7..10], ["0 B", "true", "false"]);
    assert_eq!(columns[13..], ["", "", "false"]);

    let json = our(&["endpoint", "status", "-w", "json"]).stdout;
    assert!(
        json.starts_with(&format!(
            "[{{\"Endpoint\":\"{endpoint}\",\"Status\":{{\"header\":{{\"cluster_id\":"
        )) && json.contains("\"version\":\"3.5.1\",\"dbSize\":"),
        "{json}"
    );

    let theirs = run(
        &dir.join("etcdctl"),
        &[],
        &["--endpoints", endpoint, "endpoint", "hashkv"],
        b"",
    );
    assert_eq!(
        our(&["endpoint", "hashkv"]).stdout,
        theirs.stdout.trim_end().to_owned() + ", 0\n"
    );
    let hash = theirs
        .stdout
        .trim_end()
        .rsplit(", ")
        .next()
        .unwrap()
        .to_owned();
    let (w, h) = (endpoint.len(), hash.len());
    let centred = |text: &str, width: usize| {
        let gap = width - text.len();
        format!("{}{text}{}", " ".repeat(gap / 2), " ".repeat(gap - gap / 2))
    };
    let rule = |l: char, m: char, r: char| {
        let bar = |n: usize| "─".repeat(n + 2);
        format!("{l}{}{m}{}{m}{}{r}\n", bar(w), bar(h), bar(13))
    };
    let table: String = [
        rule('┌', '┬', '┐'),
        format!(
            "│ {} │ {} │ HASH REVISION │\n",
            centred("ENDPOINT", w),
            centred("HASH", h)
        ),
        rule('├', '┼', '┤'),
        format!("│ {endpoint} │ {hash} │ {:>13} │\n", 0),
        rule('└', '┴', '┘'),
    ]
    .concat();
    // The harness reads bytes; compare them so.
    let bytes: String = table.bytes().map(char::from).collect();
    assert_eq!(our(&["endpoint", "hashkv", "-w", "table"]).stdout, bytes);

    let health = our(&["endpoint", "health"]);
    assert_eq!(health.code, Some(0));
    assert!(
        health.stdout.starts_with(&format!(
            "{endpoint} is healthy: successfully committed proposal: took = "
        )),
        "{health:?}"
    );
    let cluster = our(&["endpoint", "health", "--cluster", "-w", "json"]).stdout;
    assert!(
        cluster.starts_with(&format!(
            "[{{\"endpoint\":\"http://{endpoint}\",\"health\":true,\"took\":\""
        )),
        "{cluster}"
    );
    for args in [
        ["endpoint", "status"],
        ["endpoint", "health"],
        ["endpoint", "hashkv"],
    ] {
        let mut all = args.to_vec();
        all.extend(["-w", "protobuf"]);
        let run = our(&all);
        assert_eq!(
            (run.code, run.stderr.as_str()),
            (Some(4), "Error: protobuf not supported as output format\n")
        );
    }
    assert_eq!(our(&["member", "list", "--consistency=s"]).stdout, ids);
    let members = our(&["member", "list", "-w", "fields", "--hex"]).stdout;
    assert!(members.contains(&format!("\"ID\" : {id}\n")) && !members.contains("Revision"));

    // A range delete with two words warns and waits; --range goes ahead.
    our(&["put", "r1", "x"]);
    let start = std::time::Instant::now();
    let run = our(&["del", "r", "s"]);
    assert_eq!(run.stdout, "1\n");
    assert!(start.elapsed().as_secs() >= 2);
    assert_eq!(
        run.stderr,
        "Warning: Keys between \"r\" and \"s\" will be deleted. Please interrupt the command within next 2 seconds to cancel. You can provide `--range` flag to avoid the delay.\n"
    );
    let run = our(&["del", "r", "s", "--range"]);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("0\n", ""));

    let defrag = our(&["defrag"]).stdout;
    assert!(
        defrag.starts_with(&format!(
            "Finished defragmenting etcd member[{endpoint}]. took "
        )),
        "{defrag}"
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s.db");
    let saved = our(&["snapshot", "save", file.to_str().unwrap()]);
    assert_eq!(
        saved.stdout,
        format!("Snapshot saved at {}\n", file.display())
    );
    let etcdutl = run_status(&dir, &file);
    assert!(etcdutl.contains("\"totalKey\":"), "{etcdutl}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

fn run_status(dir: &Path, file: &Path) -> String {
    let args = ["snapshot", "status", file.to_str().unwrap(), "-w", "json"];
    run(&dir.join("etcdutl"), &[], &args, b"").stdout
}

#[test]
fn members_come_and_go() {
    let Some(dir) = oracle() else { return };
    for etcd in servers(&dir) {
        come_and_go(&dir, &etcd);
    }
}

fn come_and_go(dir: &Path, etcd: &Path) {
    let (_data, members) = cluster_of(etcd, 1, &[]);
    let endpoint = members[0].endpoint.as_str();
    let our = |args: &[&str]| {
        changes_have_settled(dir, endpoint);
        let mut all = vec!["--endpoints", endpoint];
        all.extend(args);
        run(&ours(), &[], &all, b"")
    };
    let peer = crate::common::free_port();
    let urls = format!("--peer-urls=http://127.0.0.1:{peer}");
    let added = our(&["member", "add", "new", &urls, "--learner"]).stdout;
    let id = added.split_whitespace().nth(1).unwrap().to_owned();
    assert!(
        added.starts_with(&format!("Member {id:>16} added as learner to cluster ")),
        "{added}"
    );
    assert!(
        added.contains("\n\nETCD_NAME=\"new\"\nETCD_INITIAL_CLUSTER=\""),
        "{added}"
    );
    assert!(
        added.ends_with(&format!(
            "ETCD_INITIAL_ADVERTISE_PEER_URLS=\"http://127.0.0.1:{peer}\"\nETCD_INITIAL_CLUSTER_STATE=\"existing\"\n"
        )),
        "{added}"
    );
    let list = our(&["member", "list"]).stdout;
    assert!(
        list.contains(&format!(
            "{id}, unstarted, , http://127.0.0.1:{peer}, , true\n"
        )),
        "{list}"
    );
    let v2 = run(
        &ours(),
        &[("ETCDCTL_API", "2")],
        &["--endpoints", endpoint, "member", "list"],
        b"",
    );
    assert!(
        v2.stdout.contains(&format!(
            "{id}[unstarted]: peerURLs=http://127.0.0.1:{peer}\n"
        )),
        "{v2:?}"
    );
    let promoted = our(&["member", "promote", &id]);
    assert_eq!(
        (promoted.code, promoted.stderr.as_str()),
        (
            Some(1),
            "Error: etcdserver: can only promote a learner member which is in sync with leader\n"
        )
    );
    let updated = our(&["member", "update", &id, "--peer-urls=http://127.0.0.1:1"]).stdout;
    assert!(
        updated.starts_with(&format!("Member {id:>16} updated in cluster ")),
        "{updated}"
    );
    let removed = our(&["member", "remove", &id]);
    assert!(
        removed
            .stdout
            .starts_with(&format!("Member {id:>16} removed from cluster ")),
        "{removed:?}"
    );
}
