//! `lock` and `elect`: both programs stand in one line, whoever goes first.

use std::path::{Path, PathBuf};

use crate::common::{Running, cluster_of, eventually, oracle, ours, run, servers};

/// Without the lease at the end of a lock's key, or anywhere behind a slash.
fn without_lease(text: &str) -> String {
    let parts = text.split('/').enumerate().map(|(at, part)| {
        let rest = part.trim_start_matches(|c: char| at > 0 && c.is_ascii_hexdigit());
        if at > 0 {
            format!("/{rest}")
        } else {
            rest.to_owned()
        }
    });
    parts.collect()
}

#[test]
fn a_command_runs_under_the_lock_as_with_the_originals() {
    let Some(dir) = oracle() else { return };
    for etcd in servers(&dir) {
        commands_run_under_the_lock(&dir, &etcd);
    }
}

fn commands_run_under_the_lock(dir: &Path, etcd: &Path) {
    let (_data, members) = cluster_of(etcd, 1, &[]);
    let endpoint = members[0].endpoint.as_str();
    for args in [
        &["lock", "l", "--", "sh", "-c", "echo $ETCD_LOCK_KEY"][..],
        &["lock", "l", "--", "sh", "-c", "echo a; echo b >&2; exit 7"],
        &["lock", "l", "echo", "hi"],
        &["lock", "l", "nosuch"],
        &["lock", "l", "./nosuch"],
        &["lock", "l", "--", "sh", "-c", "kill -9 $$"],
        &["lock"],
        &["elect"],
        &["elect", "e"],
        &["elect", "e", "p", "-l"],
        &["elect", "e", "p", "x"],
    ] {
        let all = [&["--endpoints", endpoint][..], args].concat();
        let [theirs, ours] = [dir.join("etcdctl"), ours()].map(|p| run(&p, &[], &all, b""));
        assert_eq!(
            (ours.code, without_lease(&ours.stdout)),
            (theirs.code, without_lease(&theirs.stdout)),
            "{args:?} {ours:?}"
        );
        let first = |text: &str| text.lines().next().unwrap_or_default().to_owned();
        assert_eq!(first(&ours.stderr), first(&theirs.stderr), "{args:?}");
    }
    let args = ["lock", "l", "sh", "-c", "exit"];
    assert_eq!(
        run(&ours(), &[], &args, b"").stderr,
        "Error: unknown shorthand flag: 'c' in -c\nRun 'etcdctl lock --help' for usage.\n"
    );
    // The revision is the one at which the lock was had.
    let revision = ["lock", "l", "--", "sh", "-c", "echo $ETCD_LOCK_REV"];
    let all = [&["--endpoints", endpoint][..], &revision].concat();
    let of =
        |program: &Path| -> i64 { run(program, &[], &all, b"").stdout.trim().parse().unwrap() };
    let theirs = of(&dir.join("etcdctl"));
    // In between their key has been deleted and ours been put.
    assert_eq!(of(&ours()), theirs + 2);
}

#[test]
fn the_line_is_one_for_both_programs() {
    let Some(dir) = oracle() else { return };
    for etcd in servers(&dir) {
        they_stand_in_one_line(&dir, &etcd);
    }
}

fn they_stand_in_one_line(dir: &Path, etcd: &Path) {
    let (_data, members) = cluster_of(etcd, 1, &[]);
    let endpoint = members[0].endpoint.as_str();
    let base = ["--endpoints", endpoint];
    let waiting = |count: usize| {
        let args = [&base[..], &["get", "l/", "--prefix", "--keys-only"]].concat();
        eventually("their places in the line", || {
            let keys = run(&ours(), &[], &args, b"").stdout;
            keys.lines().filter(|l| !l.is_empty()).count() == count
        });
    };
    let lock = |program: &PathBuf| Running::start(program, &[&base[..], &["lock", "l"]].concat());
    let (theirs, ours) = (dir.join("etcdctl"), ours());
    let mut first = lock(&theirs);
    assert!(first.line().starts_with("l/"));
    let mut second = lock(&ours);
    waiting(2);
    let mut third = lock(&theirs);
    waiting(3);
    let mut fourth = lock(&ours);
    waiting(4);
    // One who waits no longer leaves the line.
    fourth.signal("INT");
    assert_eq!(fourth.end(), Some(1));
    waiting(3);
    assert!(second.is_silent() && third.is_silent());
    first.signal("INT");
    assert_eq!(first.end(), Some(0));
    assert!(second.line().starts_with("l/"));
    assert!(third.is_silent());
    second.signal("TERM");
    assert_eq!(second.end(), Some(0));
    assert!(third.line().starts_with("l/"));
    third.signal("INT");
    assert_eq!(third.end(), Some(0));
    waiting(0);
}

#[test]
fn elections_are_seen_by_both_programs() {
    let Some(dir) = oracle() else { return };
    for etcd in servers(&dir) {
        both_see_the_elections(&dir, &etcd);
    }
}

fn both_see_the_elections(dir: &Path, etcd: &Path) {
    let (_data, members) = cluster_of(etcd, 1, &[]);
    let endpoint = members[0].endpoint.as_str();
    let base = ["--endpoints", endpoint];
    let programs = [dir.join("etcdctl"), ours()];
    let start =
        |at: usize, args: &[&str]| Running::start(&programs[at], &[&base[..], args].concat());
    let mut observers = [0, 1].map(|at| start(at, &["elect", "-l", "e"]));
    let led_by = |observers: &[Running], value: &str| {
        let [a, b] = [0, 1].map(|at| [observers[at].line(), observers[at].line()]);
        assert_eq!(a, b);
        assert_eq!(b[1], value);
    };
    let mut ours = start(1, &["elect", "e", "ours"]);
    assert!(ours.line().starts_with("e/"));
    assert_eq!(ours.line(), "ours");
    led_by(&observers, "ours");
    let mut theirs = start(0, &["elect", "e", "theirs"]);
    let args = [&base[..], &["get", "e/", "--prefix", "--keys-only"]].concat();
    eventually("a second candidate", || {
        let keys = run(&programs[1], &[], &args, b"").stdout;
        keys.lines().filter(|l| !l.is_empty()).count() == 2
    });
    // A leader may say something else.
    let get = [
        &base[..],
        &[
            "get",
            "e/",
            "--prefix",
            "--limit=1",
            "--sort-by=CREATE",
            "--order=ASCEND",
            "--keys-only",
        ],
    ]
    .concat();
    let key = run(&programs[1], &[], &get, b"").stdout;
    let key = key.lines().next().unwrap();
    let put = [&base[..], &["put", key, "changed", "--ignore-lease"]].concat();
    assert_eq!(run(&programs[1], &[], &put, b"").code, Some(0));
    led_by(&observers, "changed");
    ours.signal("INT");
    assert_eq!(ours.end(), Some(0));
    assert!(theirs.line().starts_with("e/"));
    led_by(&observers, "theirs");
    let mut next = start(1, &["elect", "e", "next", "-w", "fields"]);
    eventually("another candidate", || {
        let keys = run(&programs[1], &[], &args, b"").stdout;
        keys.lines().filter(|l| !l.is_empty()).count() == 2
    });
    theirs.signal("INT");
    assert_eq!(theirs.end(), Some(0));
    let fields: Vec<String> = (0..12).map(|_| next.line()).collect();
    assert_eq!(fields[8], "\"Value\" : \"next\"", "{fields:?}");
    assert_eq!(fields[10..], ["\"More\" : false", "\"Count\" : 1"]);
    led_by(&observers, "next");
    for observer in &mut observers {
        observer.signal("INT");
        assert_eq!(observer.end(), Some(0));
    }
    next.signal("INT");
    assert_eq!(next.end(), Some(0));
}
