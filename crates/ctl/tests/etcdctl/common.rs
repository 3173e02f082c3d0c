//! Runs the program, and etcd's own next to it where they are at hand.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How one run of a program ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    pub code: Option<i32>,
    pub stdout: String,
    /// Without log lines, whose time and origin differ.
    pub stderr: String,
    pub logs: String,
}

/// Runs a program with only these `ETCDCTL_*` variables.
pub fn run(program: &Path, env: &[(&str, &str)], args: &[&str], stdin: &[u8]) -> Run {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCDCTL_") {
            command.env_remove(name);
        }
    }
    let mut child = command
        .envs(env.iter().copied())
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that does not read closes the pipe; that is its business.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| -> String { bytes.iter().map(|b| char::from(*b)).collect() };
    let (logs, stderr): (Vec<String>, Vec<String>) = text(&output.stderr)
        .lines()
        .map(|l| format!("{l}\n"))
        .partition(|l| l.starts_with('{'));
    Run {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: stderr.concat(),
        logs: logs.concat(),
    }
}

/// Our program.
pub fn ours() -> PathBuf {
    env!("CARGO_BIN_EXE_etcdctl").into()
}

/// The folder of etcd's own programs, or `None` after saying that the test is skipped.
pub fn oracle() -> Option<PathBuf> {
    match std::env::var_os("ETCD_ORACLE_DIR") {
        Some(dir) => Some(dir.into()),
        None => {
            assert!(
                std::env::var_os("CI").is_none(),
                "ETCD_ORACLE_DIR must name the folder of etcd 3.5.1"
            );
            eprintln!("SKIPPED: ETCD_ORACLE_DIR is not set");
            None
        }
    }
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A member of etcd's own, killed when dropped.
pub struct Member {
    child: Child,
    pub name: String,
    pub endpoint: String,
}

impl Member {
    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running cluster of etcd's own.
pub fn cluster(dir: &Path, size: usize) -> (tempfile::TempDir, Vec<Member>) {
    let data = tempfile::tempdir().unwrap();
    let ports: Vec<(u16, u16)> = (0..size).map(|_| (free_port(), free_port())).collect();
    let initial: Vec<String> = ports
        .iter()
        .enumerate()
        .map(|(i, (_, peer))| format!("m{i}=http://127.0.0.1:{peer}"))
        .collect();
    let members: Vec<Member> = ports
        .iter()
        .enumerate()
        .map(|(i, (client, peer))| {
            let url = |port: &u16| format!("http://127.0.0.1:{port}");
            let child = Command::new(dir.join("etcd"))
                .arg(format!(
                    "--data-dir={}",
                    data.path().join(i.to_string()).display()
                ))
                .arg(format!("--name=m{i}"))
                .arg(format!("--listen-client-urls={}", url(client)))
                .arg(format!("--advertise-client-urls={}", url(client)))
                .arg(format!("--listen-peer-urls={}", url(peer)))
                .arg(format!("--initial-advertise-peer-urls={}", url(peer)))
                .arg(format!("--initial-cluster={}", initial.join(",")))
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            Member {
                child,
                name: format!("m{i}"),
                endpoint: format!("127.0.0.1:{client}"),
            }
        })
        .collect();
    for member in &members {
        let start = Instant::now();
        let args = ["--endpoints", &member.endpoint, "endpoint", "health"];
        while run(&dir.join("etcdctl"), &[], &args, b"").code != Some(0) {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "etcd did not start"
            );
        }
    }
    (data, members)
}
