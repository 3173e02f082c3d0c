//! `ferrite-dev cluster` seen from outside: keys stop and start members, and no end of it leaves a process behind.
//!
//! The members are stand-ins (a shell that logs one line and sleeps), so nothing has to be built and no time is lost.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(20);

struct Cluster {
    child: Child,
    keys: Option<ChildStdin>,
    lines: Receiver<String>,
    _dir: tempfile::TempDir,
}

/// Six ports in a row, free a moment ago.
fn base_port() -> u16 {
    for _ in 0..200 {
        let first = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let base = first.local_addr().expect("its address").port();
        let free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        if base < 65_000 && (base + 1..base + 6).all(free) {
            return base;
        }
    }
    panic!("no six free ports in a row");
}

fn stand_in(dir: &Path, name: &str, script: &str) {
    let file = dir.join(name);
    std::fs::write(&file, format!("#!/bin/sh\n{script}\n")).expect("a script");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o755)).expect("its mode");
}

impl Cluster {
    fn start() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let line =
            r#"{"level":"info","ts":"2026-01-02T03:04:05.678Z","msg":"standing in","name":"'$1'"}"#;
        stand_in(
            dir.path(),
            "etcd",
            &format!("echo '{line}'\nexec sleep 600"),
        );
        stand_in(
            dir.path(),
            "etcdctl",
            "echo \"version $ETCDCTL_API\" \"$@\"",
        );
        stand_in(dir.path(), "etcdutl", "exit 0");
        let mut child = Command::new(env!("CARGO_BIN_EXE_ferrite-dev"))
            .arg("cluster")
            .arg("--bin-dir")
            .arg(dir.path())
            .arg("--data-dir")
            .arg(dir.path().join("data"))
            .arg(format!("--base-port={}", base_port()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("ferrite-dev");
        let keys = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("its output"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            keys,
            lines,
            _dir: dir,
        }
    }

    fn press(&mut self, keys: &str) {
        let input = self.keys.as_mut().expect("standard input is open");
        input
            .write_all(keys.as_bytes())
            .and_then(|()| input.flush())
            .expect("keys are taken");
    }

    /// The next line that contains `part`.
    fn await_line(&self, part: &str) -> String {
        let end = Instant::now() + LIMIT;
        let mut seen = Vec::new();
        while let Ok(line) = self
            .lines
            .recv_timeout(end.saturating_duration_since(Instant::now()))
        {
            if line.contains(part) {
                return line;
            }
            seen.push(line);
        }
        panic!("no line with {part:?} in {seen:#?}");
    }

    /// The process ID out of the next line that says that a member started.
    fn await_start(&self, name: &str) -> u32 {
        let line = self.await_line(&format!("{name} started, process "));
        let (_, rest) = line.split_once("process ").expect("a process ID");
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().expect("a number")
    }

    fn await_end(&mut self) -> std::process::ExitStatus {
        let end = Instant::now() + LIMIT;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait().expect("its status") {
                return status;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("it does not end");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process is there and not merely waiting to be reaped.
fn lives(process: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
}

fn await_death(process: u32) {
    let end = Instant::now() + LIMIT;
    while lives(process) {
        assert!(Instant::now() < end, "process {process} was left behind");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn keys_stop_start_kill_and_list() {
    let mut cluster = Cluster::start();
    let first = cluster.await_start("etcd-00");
    assert!(
        cluster
            .await_line("standing in")
            .contains("| 03:04:05.678 INFO  standing in  name=--name=etcd-0")
    );
    cluster.press("1");
    assert!(cluster.await_line("etcd-00 has ended").contains("15"));
    assert!(!lives(first));
    cluster.press("l");
    let list = cluster.await_line("version 2");
    assert_eq!(
        list.matches("http://127.0.0.1:").count(),
        2,
        "asks the running members: {list}"
    );
    assert!(list.ends_with("member list"), "{list}");
    cluster.press("1");
    let again = cluster.await_start("etcd-00");
    assert_ne!(first, again);
    cluster.press("k1");
    assert!(cluster.await_line("etcd-00 has ended").contains("9"));
    cluster.press("q");
    cluster.await_line("all members have ended");
    assert!(cluster.await_end().success());
}

#[test]
fn sigterm_and_sigint_end_all() {
    for signal in ["TERM", "INT", "HUP"] {
        let mut cluster = Cluster::start();
        let members = ["etcd-00", "etcd-01", "etcd-02"].map(|name| cluster.await_start(name));
        let pid = cluster.child.id().to_string();
        let sent = Command::new("kill")
            .args(["-s", signal, &pid])
            .status()
            .expect("kill");
        assert!(sent.success());
        assert!(cluster.await_end().success(), "after SIG{signal}");
        let killed = cluster.lines.iter().find(|line| line.contains("killing"));
        assert_eq!(killed, None, "members end on their own SIGTERM");
        for member in members {
            assert!(!lives(member), "after SIG{signal}");
        }
    }
}

#[cfg(target_os = "linux")]
#[test]
fn its_own_kill_leaves_no_member_behind() {
    let mut cluster = Cluster::start();
    let members = ["etcd-00", "etcd-01", "etcd-02"].map(|name| cluster.await_start(name));
    assert!(members.iter().all(|member| lives(*member)));
    cluster.child.kill().expect("kill");
    assert_eq!(cluster.await_end().signal(), Some(9));
    members.into_iter().for_each(await_death);
}

#[test]
fn a_missing_program_is_named() {
    let dir = tempfile::tempdir().expect("a folder");
    let output = Command::new(env!("CARGO_BIN_EXE_ferrite-dev"))
        .args(["cluster", "--bin-dir"])
        .arg(dir.path())
        .stdin(Stdio::null())
        .output()
        .expect("ferrite-dev");
    assert!(!output.status.success());
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(
        words.contains("no program etcd in") && words.contains("--bin-dir"),
        "{words}"
    );
}
