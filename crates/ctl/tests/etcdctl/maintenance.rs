//! Snapshots, defragmentation, downgrades and members: ours beside the original's, against both servers.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::common::{
    Member, Run, Terminal, cluster, cluster_of, free_port, oracle, ours, run, servers,
};

fn our(member: &Member, args: &[&str]) -> Run {
    let all = [&["--endpoints", &member.endpoint][..], args].concat();
    run(&ours(), &[], &all, b"")
}

#[test]
fn a_terminal_shows_how_far_a_snapshot_has_come() {
    let Some(dir) = oracle() else { return };
    let (data, members) = cluster(&dir, 1);
    let file = data.path().join("snapshot.db");
    let path = file.to_str().unwrap();
    let mut terminal = Terminal::open();
    let mut child = Command::new(ours())
        .args(["--endpoints", &members[0].endpoint])
        .args(["snapshot", "save", path])
        .stdin(Stdio::null())
        .stdout(terminal.slave())
        .stderr(terminal.slave())
        .spawn()
        .unwrap();
    let mut screen = String::new();
    terminal.until(&mut screen, &format!("Snapshot saved at {path}\r\n"));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let (_, shown) = screen.split_once("saving [").expect("a bar");
    assert!(shown.contains("] 100% ("), "{screen:?}");
}

#[test]
fn snapshots_say_where_and_of_which_version() {
    let Some(dir) = oracle() else { return };
    for (etcd, version) in servers(&dir).iter().zip(["", "Server version 3.7.0\n"]) {
        let (data, members) = cluster_of(etcd, 1, &[]);
        let member = &members[0];
        our(member, &["put", "k", "v"]);
        let file = data.path().join("snapshot.db");
        let path = file.to_str().unwrap();
        let saved = our(member, &["snapshot", "save", path]);
        assert_eq!(
            (saved.code, saved.stdout, &saved.stderr[..]),
            (Some(0), format!("Snapshot saved at {path}\n{version}"), "")
        );
        for message in ["fetching snapshot", "fetched snapshot", "saved"] {
            assert!(saved.logs.contains(&format!("\"msg\":\"{message}\"")));
        }
        let part = format!("{path}.part");
        assert!(file.is_file() && !Path::new(&part).exists());

        // What it cannot do ends with the original's words, and leaves nothing behind.
        let nowhere = data.path().join("no/such/folder/snapshot.db");
        let two = format!("{0},{0}", member.endpoint);
        for args in [
            &["snapshot", "save"][..],
            &["snapshot", "save", nowhere.to_str().unwrap()],
            &["--endpoints", &two, "snapshot", "save", path],
            &["--command-timeout=1ns", "snapshot", "save", &part],
        ] {
            let all = [&["--endpoints", &member.endpoint][..], args].concat();
            // A second --endpoints adds to the first.
            let all = if args[0] == "--endpoints" { args } else { &all };
            let [theirs, ours] =
                [dir.join("etcdctl"), ours()].map(|program| run(&program, &[], all, b""));
            assert_eq!(ours.code, theirs.code, "{ours:?} {theirs:?}");
            assert_eq!(ours.stdout, theirs.stdout);
            if args == ["--endpoints", &two, "snapshot", "save", path] {
                assert_eq!(ours.stderr, theirs.stderr);
            }
            assert_eq!(ours.stderr.lines().count(), 1, "{ours:?}");
        }
        assert!(!Path::new(&part).exists());
    }
}

#[test]
fn a_defragmentation_that_fails_names_the_member() {
    let Some(dir) = oracle() else { return };
    let endpoint = format!("127.0.0.1:{}", free_port());
    let args = [
        "--endpoints",
        &endpoint,
        "--command-timeout=200ms",
        "defrag",
    ];
    for program in [dir.join("etcdctl"), ours()] {
        let run = run(&program, &[], &args, b"");
        assert_eq!((run.code, &run.stdout[..]), (Some(1), ""), "{run:?}");
        let line = run.stderr.trim_end();
        let start = format!("Failed to defragment etcd member[{endpoint}]");
        assert!(line.starts_with(&start), "{run:?}");
        assert!(line.ends_with("(context deadline exceeded)"), "{run:?}");
    }
}

#[test]
fn a_downgrade_of_our_server_is_checked_begun_and_called_off() {
    let Some(dir) = oracle() else { return };
    for etcd in servers(&dir).into_iter().skip(1) {
        let (_data, members) = cluster_of(&etcd, 1, &[]);
        let out = |args: &[&str]| {
            let run = our(&members[0], &[&["downgrade"], args].concat());
            assert_eq!((run.code, &run.stderr[..]), (Some(0), ""), "{run:?}");
            run.stdout
        };
        let says = |step: &str| format!("Downgrade {step} success, cluster version 3.7\n");
        crate::common::eventually("the cluster's version", || {
            our(&members[0], &["downgrade", "validate", "3.6"]).code == Some(0)
        });
        assert_eq!(out(&["validate", "3.6"]), says("validate"));
        assert_eq!(out(&["enable", "3.6"]), says("enable"));
        let status = our(&members[0], &["endpoint", "status"]).stdout;
        assert!(status.trim_end().ends_with(", 3.6.0, true"), "{status}");
        let again = our(&members[0], &["downgrade", "enable", "3.6"]);
        assert_eq!(
            (again.code, &again.stderr[..]),
            (
                Some(1),
                "Error: etcdserver: cluster has a downgrade job in progress\n"
            )
        );
        assert_eq!(out(&["cancel"]), says("cancel"));
        let json = out(&["validate", "3.6", "-w", "json"]);
        assert!(json.ends_with("},\"version\":\"3.7\"}\n"), "{json}");
    }
}

#[test]
fn a_learner_is_added_catches_up_and_gets_its_vote() {
    let Some(dir) = oracle() else { return };
    for etcd in servers(&dir).into_iter().skip(1) {
        let (data, members) = cluster_of(&etcd, 1, &[]);
        let (client, peer) = (free_port(), free_port());
        let url = format!("http://127.0.0.1:{peer}");
        let urls = format!("--peer-urls={url}");
        let added = our(&members[0], &["member", "add", "two", "--learner", &urls]);
        assert_eq!(added.code, Some(0), "{added:?}");
        let setting = |name: &str| {
            let line = added.stdout.lines().find_map(|l| l.strip_prefix(name));
            line.unwrap().trim_matches('"').to_owned()
        };
        // What it prints is what the new member is started with.
        let mut child = std::process::Command::new(&etcd)
            .arg(format!("--data-dir={}", data.path().join("two").display()))
            .arg(format!("--listen-client-urls=http://127.0.0.1:{client}"))
            .arg(format!("--advertise-client-urls=http://127.0.0.1:{client}"))
            .arg(format!("--listen-peer-urls={url}"))
            .env("ETCD_NAME", setting("ETCD_NAME="))
            .env("ETCD_INITIAL_CLUSTER", setting("ETCD_INITIAL_CLUSTER="))
            .env("ETCD_INITIAL_ADVERTISE_PEER_URLS", url)
            .env("ETCD_INITIAL_CLUSTER_STATE", "existing")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let id = added.stdout.split_whitespace().nth(1).unwrap();
        let mut promoted = our(&members[0], &["member", "promote", id]);
        crate::common::eventually("the learner in step", || {
            if promoted.code == Some(0) {
                return true;
            }
            assert!(
                promoted.stderr.contains("in sync with leader"),
                "{promoted:?}"
            );
            promoted = our(&members[0], &["member", "promote", id]);
            false
        });
        let list = our(&members[0], &["member", "list"]).stdout;
        // It is ended before anything can fail.
        let _ = child.kill();
        let _ = child.wait();
        let start = format!("Member {id:>16} promoted in cluster ");
        assert!(promoted.stdout.starts_with(&start), "{promoted:?}");
        let line = list.lines().find(|l| l.starts_with(id)).unwrap();
        assert!(line.contains(", started, two, ") && line.ends_with(", false"));
    }
}
