//! `watch` next to the original's, on the same history; and what only a long life shows.

use std::path::Path;

use crate::common::{Run, Running, cluster, cluster_of, eventually, oracle, ours, run, servers};

/// What 3.7 prints where 3.5.1 printed this.
fn in_3_7(mut theirs: Run, form: &str) -> Run {
    if form == "json" {
        theirs.stdout = theirs
            .stdout
            .replace(
                "\"Created\":false}",
                "\"Created\":false,\"CancelReason\":\"\"}",
            )
            .replace("\"Events\":[]", "\"Events\":null");
    }
    if form == "fields" {
        theirs.stdout = theirs.stdout.replace("\"Revision\" : 0\n", "");
    }
    theirs
}

#[test]
fn history_and_refusals_are_printed_as_they_were() {
    let Some(dir) = oracle() else { return };
    for etcd in servers(&dir) {
        both_print_the_same(&dir, &etcd);
    }
}

fn both_print_the_same(dir: &Path, etcd: &Path) {
    let (_data, members) = cluster_of(etcd, 1, &[]);
    let endpoint = &members[0].endpoint;
    let with = |program: &Path, env: &[(&str, &str)], args: &[&str], stdin: &str| {
        let mut all = vec!["--endpoints", endpoint, "watch"];
        all.extend(args);
        run(program, env, &all, stdin.as_bytes())
    };
    let both = |env: &[(&str, &str)], args: &[&str], stdin: &str, form: &str| {
        let theirs = in_3_7(with(&dir.join("etcdctl"), env, args, stdin), form);
        let ours = with(&ours(), env, args, stdin);
        assert_eq!(
            (ours.code, &ours.stdout, &ours.stderr),
            (theirs.code, &theirs.stdout, &theirs.stderr),
            "{args:?} {stdin:?}"
        );
        ours
    };
    let put = |args: &[&str]| {
        let mut all = vec!["--endpoints", endpoint];
        all.extend(args);
        assert_eq!(run(&ours(), &[], &all, b"").code, Some(0), "{args:?}");
    };
    put(&["put", "a", "old"]);
    put(&["put", "a", "1"]);
    put(&["put", "a", "\u{e9}\"\n"]);
    put(&["del", "a"]);
    put(&["put", "ab", "2"]);
    // A command that fails ends the watch, so that it has an end to compare.
    let end = ["--", "sh", "-c", "exit 3"];
    for form in ["simple", "json", "fields", "protobuf", "table"] {
        for args in [
            &["a", "--rev", "2", "--prev-kv", "-w", form][..],
            &["a", "--prefix", "--rev", "2", "-w", form],
            &["a", "b", "--rev=3", "--prev-kv", "-w", form],
            &["a", "b", "c", "--rev=3", "-w", form],
            &["", "--prefix", "--rev", "4", "-w", form],
        ] {
            let run = both(&[], &[args, &end].concat(), "", form);
            assert_eq!(run.code, Some(if form == "table" { 4 } else { 1 }));
        }
    }
    both(
        &[],
        &[&["a", "--rev=4", "--hex"][..], &end].concat(),
        "",
        "",
    );
    let env = ["sh", "-c", "env | grep ETCD_W | sort; exit 1"];
    let run = both(&[], &[&["a", "--rev=4", "--"][..], &env].concat(), "", "");
    assert!(
        run.stdout.contains("ETCD_WATCH_EVENT_TYPE=\"PUT\"\n"),
        "{run:?}"
    );
    for command in ["nosuch", "./nosuch"] {
        both(&[], &["a", "--rev=4", "--", command, "x"], "", "");
    }
    both(
        &[],
        &["a", "--rev=4", "--", "sh", "-c", "kill -9 $$"],
        "",
        "",
    );
    for args in [
        &[][..],
        &["a", "b", "--prefix"],
        &["a", "--"],
        &["--", "echo"],
        &["--", "echo", "a"],
    ] {
        assert_eq!(both(&[], args, "", "").code, Some(128));
    }
    let key = ("ETCDCTL_WATCH_KEY", "a");
    both(&[key], &["b"], "", "");
    both(&[key], &["b", "--", "echo"], "", "");
    both(&[("ETCDCTL_WATCH_RANGE_END", "b")], &[], "", "");
    both(&[key], &[&["--rev=4"][..], &end].concat(), "", "");
    let both_ends = [key, ("ETCDCTL_WATCH_RANGE_END", "b")];
    both(&both_ends, &[&["--rev=4"][..], &end].concat(), "", "");
    for stdin in [
        "",
        "\nfoo\nwatch\nprogress\nwatch a b --prefix\n",
        "watch a --bogus\n",
        "watch a --\n",
        "watch\n",
        "watch a",
    ] {
        both(&[], &["-i"], stdin, "");
    }
    // With the end of the input the original ends too, so here the input has none.
    let mut lines = Running::start(&ours(), &["--endpoints", endpoint, "watch", "-i"]);
    lines.write("watch \"a\" --rev 4 -- sh -c 'echo $ETCD_WATCH_REVISION; exit 3'");
    let shown: Vec<String> = (0..8).map(|_| lines.line()).collect();
    assert_eq!(shown, ["PUT", "a", "\u{e9}\"", "", "DELETE", "a", "", "6"]);
    assert_eq!(lines.end(), Some(1));
    put(&["compaction", "4"]);
    for form in ["simple", "json", "fields", "protobuf"] {
        let run = both(&[], &["a", "--rev", "2", "-w", form], "", form);
        assert_eq!(
            (run.code, run.stderr.as_str()),
            (
                Some(5),
                "watch was canceled (etcdserver: mvcc: required revision has been compacted)\nError: watch is canceled by the server\n"
            )
        );
    }
}

#[test]
fn nothing_is_missed_or_seen_twice_when_the_member_restarts() {
    let Some(dir) = oracle() else { return };
    for etcd in servers(&dir) {
        a_watch_survives_a_restart(&etcd);
    }
}

fn a_watch_survives_a_restart(etcd: &Path) {
    let (_data, mut members) = cluster_of(etcd, 1, &[]);
    let endpoint = members[0].endpoint.clone();
    let put = |value: &str| {
        let args = ["--endpoints", &endpoint, "put", "k", value];
        run(&ours(), &[], &args, b"").code == Some(0)
    };
    assert!(put("before"));
    let args = ["--endpoints", &endpoint, "watch", "-i"];
    let mut watch = Running::start(&ours(), &args);
    watch.write("watch k");
    watch.write("watch other");
    watch.write("progress");
    // Both have been made once both tell how far they have come.
    for _ in 0..2 {
        assert_eq!(watch.line(), "progress notify: 2");
    }
    assert!(put("one"));
    let event = |value: &str| {
        let lines = [watch.line(), watch.line(), watch.line()];
        assert_eq!(lines, ["PUT", "k", value]);
    };
    event("one");
    members[0].kill();
    members[0].start();
    eventually("a write after the restart", || put("two"));
    // A put that was answered too late may have happened more than once.
    let args = ["--endpoints", &endpoint, "get", "k", "-w", "fields"];
    let shown = run(&ours(), &[], &args, b"").stdout;
    let version = shown.lines().find_map(|l| l.strip_prefix("\"Version\" : "));
    let version: usize = version.unwrap().parse().unwrap();
    for _ in 2..version {
        event("two");
    }
    assert!(put("three"));
    event("three");
    assert!(watch.is_silent());
}

#[test]
fn a_member_without_a_leader_ends_the_watch() {
    let Some(dir) = oracle() else { return };
    let (_data, mut members) = cluster(&dir, 3);
    let endpoint = members[0].endpoint.clone();
    let args = ["--endpoints", &endpoint, "watch", "-i"];
    let mut watch = Running::start(&ours(), &args);
    watch.write("watch k");
    watch.write("progress");
    assert!(watch.line().starts_with("progress notify: "));
    drop(watch);
    let args = ["--endpoints", &endpoint, "watch", "k"];
    let pair = [dir.join("etcdctl"), ours()].map(|program| {
        let args = args.map(str::to_owned);
        std::thread::spawn(move || {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            run(&program, &[], &args, b"")
        })
    });
    members[1].kill();
    members[2].kill();
    let [theirs, ours] = pair.map(|thread| thread.join().unwrap());
    assert_eq!(
        (ours.code, &ours.stdout, &ours.stderr),
        (theirs.code, &theirs.stdout, &theirs.stderr)
    );
    assert_eq!(
        ours.stderr,
        "watch was canceled (etcdserver: no leader)\nError: watch is canceled by the server\n"
    );
}
