//! `drill` against clusters of ours: processes, and containers of a stand-in for Docker.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::{Member, Run, cluster_of, eventually, free_port, oracle, ours, run, servers};

/// Ends what a drill has started: those processes are nobody's children here.
struct Sweep(PathBuf);

impl Drop for Sweep {
    fn drop(&mut self) {
        let folder = self.0.display().to_string();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if String::from_utf8_lossy(&words).contains(&format!("--data-dir={folder}")) {
                let pid = entry.file_name();
                let _ = Command::new("kill").arg("-KILL").arg(pid).status();
            }
        }
    }
}

/// A cluster of ours that a drill may be run against.
fn scene(size: usize) -> Option<(tempfile::TempDir, Sweep, Vec<Member>)> {
    let server = servers(&oracle()?).pop()?;
    let (data, members) = cluster_of(&server, size, &[]);
    let sweep = Sweep(data.path().to_owned());
    Some((data, sweep, members))
}

fn drill(members: &[Member], env: &[(&str, &str)], args: &[&str]) -> Run {
    let endpoints: Vec<&str> = members.iter().map(|m| &m.endpoint[..]).collect();
    let endpoints = endpoints.join(",");
    let all = [&["--endpoints", &endpoints, "drill", "--yes"][..], args].concat();
    run(&ours(), env, &all, b"")
}

/// Everybody is back and nothing of the drill is left.
fn is_whole(members: &[Member]) {
    eventually("a whole cluster", || {
        let args = [
            "--endpoints",
            &members[0].endpoint,
            "endpoint",
            "health",
            "--cluster",
        ];
        let health = run(&ours(), &[], &args, b"");
        health.stdout.matches("is healthy").count() == 3
    });
    let args = ["--endpoints", &members[0].endpoint, "get", "", "--prefix"];
    assert_eq!(run(&ours(), &[], &args, b"").stdout, "");
}

#[test]
fn members_that_are_processes_go_and_come_back() {
    let Some((_data, _sweep, members)) = scene(3) else {
        return;
    };
    // Found among whatever else runs here, by name and URL.
    let args = [
        "--local",
        "--steps=leader-kill,follower-stop",
        "--away=0s",
        "-w",
        "json",
    ];
    let drilled = drill(&members, &[], &args);
    assert_eq!(drilled.code, Some(0), "{drilled:?}");
    let out = &drilled.stdout;
    assert!(
        out.starts_with("{\"steps\":[{\"step\":\"leader-kill\",\"member\":\"m"),
        "{out}"
    );
    assert!(
        out.contains("},{\"step\":\"follower-stop\",\"member\":\"m"),
        "{out}"
    );
    assert_eq!(out.matches("\"resumed\":true").count(), 2, "{out}");
    assert!(
        out.ends_with("\"lost\":{\"m0\":0,\"m1\":0,\"m2\":0}}\n") || lost_none(out),
        "{out}"
    );
    let text = |name: &str| -> String {
        let rest = out.split_once(&format!("\"{name}\":")).unwrap().1;
        rest.chars().take_while(|c| !",}]".contains(*c)).collect()
    };
    // The first step: another leads, and that took a while.
    assert_ne!(text("ledBefore"), text("ledWhileAway"), "{out}");
    assert_eq!(text("ledBefore"), text("member"), "{out}");
    assert!(text("writesRefusedMs").parse::<u64>().unwrap() > 0, "{out}");
    assert!(out.matches("\"fromMs\":").count() >= 2, "{out}");
    is_whole(&members);

    let pids = drilled_pids(&members);
    let pids = format!("--pids={}", pids.join(","));
    let drilled = drill(
        &members,
        &[],
        &[&pids, "--steps=follower-kill", "--away=0s"],
    );
    assert_eq!(drilled.code, Some(0), "{drilled:?}");
    assert!(drilled.stdout.contains(" follower-kill "), "{drilled:?}");
    assert!(
        drilled.stdout.contains("Nothing is lost: all "),
        "{drilled:?}"
    );
    is_whole(&members);
}

#[test]
fn who_ends_a_drill_gets_a_whole_cluster_back() {
    let Some((_data, _sweep, members)) = scene(3) else {
        return;
    };
    let mut drill = Command::new(ours())
        .args(["--endpoints", &members[0].endpoint])
        .args([
            "drill",
            "--local",
            "--yes",
            "--steps=follower-stop",
            "--away=300s",
        ])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(drill.stderr.take().unwrap()).lines();
    let told = |line: &std::io::Result<String>| line.as_ref().unwrap().contains("is told to stop");
    assert!(lines.any(|line| told(&line)), "nobody was stopped");
    let pid = drill.id().to_string();
    assert!(
        Command::new("kill")
            .args(["-INT", &pid])
            .status()
            .unwrap()
            .success()
    );
    let rest: Vec<String> = lines.map(Result::unwrap).collect();
    assert_eq!(drill.wait().unwrap().code(), Some(130));
    assert!(rest[0].ends_with(" has been started again"), "{rest:?}");
    assert_eq!(rest[1..], ["Error: interrupted"]);
    eventually("everybody back", || {
        let args = [
            "--endpoints",
            &members[0].endpoint,
            "endpoint",
            "health",
            "--cluster",
        ];
        let health = run(&ours(), &[], &args, b"");
        health.stdout.matches("is healthy").count() == 3
    });
}

/// The order of members is that of their IDs.
fn lost_none(out: &str) -> bool {
    let lost = out.split_once("\"lost\":{").unwrap().1;
    lost.matches(":0").count() == 3 && lost.len() == "\"m0\":0,\"m1\":0,\"m2\":0}}\n".len()
}

/// The processes that hold the members' client ports now.
fn drilled_pids(members: &[Member]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).into_owned();
        for member in members {
            if words.contains(&format!(
                "--listen-client-urls=http://{}\0",
                member.endpoint
            )) {
                found.push(entry.file_name().into_string().unwrap());
            }
        }
    }
    assert_eq!(found.len(), 3, "{found:?}");
    found
}

/// What of `docker` a drill uses, for processes whose arguments and numbers lie in files.
const DOCKER: &str = r#"#!/bin/sh
dir=$(dirname "$0")
gone() { while kill -0 "$1" 2>/dev/null && ! grep -q ') Z ' "/proc/$1/stat"; do sleep 0.01; done; }
case "$1" in
container) cat "$dir/$5.args" ;;
stop) pid=$(cat "$dir/$2.pid"); kill "$pid"; gone "$pid" ;;
kill) pid=$(cat "$dir/$2.pid"); kill -KILL "$pid"; gone "$pid" ;;
start) setsid xargs -d '\n' "$dir/etcd" < "$dir/$2.args" > /dev/null 2>&1 &
  sleep 0.2; pgrep -P $! > "$dir/$2.pid" || echo $! > "$dir/$2.pid" ;;
*) echo "unknown: $*" >&2; exit 1 ;;
esac
"#;

#[test]
fn members_in_containers_go_and_come_back() {
    let Some((data, _sweep, members)) = scene(3) else {
        return;
    };
    let bin = data.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let server = servers(&oracle().unwrap()).pop().unwrap();
    std::os::unix::fs::symlink(server, bin.join("etcd")).unwrap();
    fs::write(bin.join("docker"), DOCKER).unwrap();
    fs::set_permissions(bin.join("docker"), fs::Permissions::from_mode(0o755)).unwrap();
    for member in &members {
        let words = fs::read(format!("/proc/{}/cmdline", member.pid())).unwrap();
        let words = String::from_utf8(words).unwrap();
        let words: Vec<&str> = words.trim_end_matches('\0').split('\0').skip(1).collect();
        let file = |kind: &str| bin.join(format!("c-{}.{kind}", member.name));
        fs::write(file("args"), words.join("\n") + "\n").unwrap();
        fs::write(file("pid"), member.pid().to_string()).unwrap();
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let env = [("PATH", &path[..])];
    let args = [
        "--containers=c-m0,c-m1,c-m2",
        "--steps=leader-stop",
        "--away=0s",
    ];
    let drilled = drill(&members, &env, &args);
    assert_eq!(drilled.code, Some(0), "{drilled:?}");
    assert!(drilled.stderr.contains("(container c-m"), "{drilled:?}");
    assert!(
        drilled.stdout.contains("Nothing is lost: all "),
        "{drilled:?}"
    );
    is_whole(&members);
    // Containers that do not run the members are named.
    let wrong = drill(&members, &env, &["--containers=c-m0,c-m1,other"]);
    assert_eq!(wrong.code, Some(1));
    assert!(
        wrong.stderr.contains("docker container inspect"),
        "{wrong:?}"
    );
    assert!(wrong.stderr.contains("other"), "{wrong:?}");
}

#[test]
fn a_drill_that_cannot_be_is_refused_before_anything_is_stopped() {
    let Some((_data, _sweep, members)) = scene(1) else {
        return;
    };
    let endpoint = members[0].endpoint.as_str();
    let dead = format!("--endpoints=127.0.0.1:{}", free_port());
    let local = ["--local", "--yes"];
    for (args, code, words) in [
        (
            &["drill"][..],
            128,
            "give one of --local, --pids and --containers",
        ),
        (&["drill", "--local", "--pids=1"], 128, "give one of"),
        (&["drill", "m0"], 128, "accepts no arguments"),
        (
            &["drill", "--local", "--steps=leader-burn"],
            128,
            "there is no step \"leader-burn\"",
        ),
        (&["drill", "--pids=x"], 128, "invalid syntax"),
        (
            &["drill", "--pids=4194305", "--yes"],
            1,
            "there is no process 4194305",
        ),
        (
            &[&["drill"][..], &local].concat(),
            1,
            "a drill needs three members with a vote",
        ),
        (&["drill", "--local", "-w", "fields"], 4, "not supported"),
        (
            &[&["drill", &dead, "--command-timeout=1s"][..], &local].concat(),
            1,
            "context deadline exceeded",
        ),
    ] {
        let all = if args.contains(&&dead[..]) {
            args.to_vec()
        } else {
            [&["--endpoints", endpoint][..], args].concat()
        };
        let run = run(&ours(), &[], &all, b"");
        assert_eq!(
            (run.code, &run.stdout[..]),
            (Some(code), ""),
            "{args:?} {run:?}"
        );
        assert!(run.stderr.contains(words), "{args:?} {run:?}");
        assert_eq!(run.stderr.lines().count(), 1, "{args:?} {run:?}");
    }
    assert!(Path::new(&format!("/proc/{}", members[0].pid())).exists());
}
