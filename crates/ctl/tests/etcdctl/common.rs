//! Runs the program, and etcd's own next to it where they are at hand.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use ferrite_testkit::Ports;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

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

/// The servers that a test is run against: the original's, and ours if it has been built.
pub fn servers(oracle: &Path) -> Vec<PathBuf> {
    let mut servers = vec![oracle.join("etcd")];
    let dir = match std::env::var_os("FERRITE_BIN_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => ours().parent().unwrap().to_owned(),
    };
    let etcd = dir.join("etcd");
    if etcd.is_file() {
        servers.push(etcd);
    } else {
        assert!(std::env::var_os("CI").is_none(), "etcd must be built in CI");
        eprintln!("SKIPPED: {} is not built", etcd.display());
    }
    servers
}

/// The same at several servers at once, for tests that mostly wait.
pub fn at_each(servers: &[PathBuf], test: impl Fn(&Path) + Sync) {
    std::thread::scope(|scope| {
        for server in servers {
            scope.spawn(|| test(server));
        }
    });
}

/// How long anything that is waited for may take.
pub const LONG: Duration = Duration::from_secs(60);

/// A program that goes on running, read line by line; killed when dropped.
pub struct Running {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Running {
    pub fn start(program: &Path, args: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines() {
                if line.is_err() || sender.send(line.unwrap()).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line of its standard output.
    #[track_caller]
    pub fn line(&self) -> String {
        self.lines.recv_timeout(LONG).expect("a line")
    }

    /// Whether nothing has come so far.
    pub fn is_silent(&self) -> bool {
        self.lines.try_recv().is_err()
    }

    /// Writes a line to its standard input.
    pub fn write(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Waits for its end: the exit code.
    #[track_caller]
    pub fn end(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < LONG, "it does not end");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something holds.
#[track_caller]
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < LONG, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A member, killed when dropped.
pub struct Member {
    child: Child,
    command: Command,
    /// The cluster's ports stay its own while a member is down.
    _ports: Rc<Ports>,
    pub name: String,
    pub endpoint: String,
}

impl Member {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: &str) {
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &self.child.id().to_string()])
            .status()
            .unwrap();
        assert!(status.success());
    }

    /// Kills it.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again on its folder.
    pub fn start(&mut self) {
        self.child = self.command.spawn().unwrap();
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
    cluster_with(dir, size, &[])
}

/// A running cluster of etcd's own, with these flags besides.
pub fn cluster_with(dir: &Path, size: usize, flags: &[&str]) -> (tempfile::TempDir, Vec<Member>) {
    cluster_of(&dir.join("etcd"), size, flags)
}

/// A running cluster of this server.
pub fn cluster_of(etcd: &Path, size: usize, flags: &[&str]) -> (tempfile::TempDir, Vec<Member>) {
    let data = tempfile::tempdir().unwrap();
    let mut held = Ports::default();
    let ports: Vec<(u16, u16)> = (0..size).map(|_| (held.take(), held.take())).collect();
    let held = Rc::new(held);
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
            let mut command = Command::new(etcd);
            command
                .args(flags)
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
                .stderr(Stdio::null());
            Member {
                child: command.spawn().unwrap(),
                command,
                _ports: Rc::clone(&held),
                name: format!("m{i}"),
                endpoint: format!("127.0.0.1:{client}"),
            }
        })
        .collect();
    for member in &members {
        let start = Instant::now();
        let args = ["--endpoints", &member.endpoint, "endpoint", "health"];
        while run(&ours(), &[], &args, b"").code != Some(0) {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "etcd did not start"
            );
        }
    }
    (data, members)
}

/// A terminal: what is typed at it, and what it shows.
pub struct Terminal {
    pub master: File,
    slave: String,
}

impl Terminal {
    pub fn open() -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let slave = ptsname(&master, Vec::new()).unwrap();
        Self {
            master: master.into(),
            slave: slave.into_string().unwrap(),
        }
    }

    pub fn slave(&self) -> File {
        let mut options = File::options();
        options.read(true).write(true).open(&self.slave).unwrap()
    }

    /// Reads until the screen ends with this.
    pub fn until(&mut self, screen: &mut String, end: &str) {
        let mut buffer = [0; 256];
        while !screen.ends_with(end) {
            let count = self.master.read(&mut buffer).unwrap();
            screen.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    }
}

/// What was printed about a form of output that there is not, as the original prints it: ours also lists those that
/// there are.
pub fn without_forms(stderr: &str) -> String {
    let list = "--write-out can be fields, json, protobuf, simple or table.\n";
    assert_eq!(
        stderr.contains("unsupported output format\n"),
        stderr.ends_with(list),
        "{stderr}"
    );
    stderr.replace(list, "")
}
