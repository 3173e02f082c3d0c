//! Clients that others wrote, each against three members of the original and against three of ours, by the
//! same script: what passes on the one has to pass on the other. The scripts are in `foreign`, beside the
//! tests; what a test and its script say to each other stands in `foreign/python/conversation.py`.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use ferrite_testkit::{Cluster, Kind, PATIENCE, oracle, run};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// What one script may take in all. A wait inside ends after a minute; this is for what hangs.
const LIMIT: Duration = Duration::from_secs(180);

/// A client, as the command that exercises it.
struct Script {
    program: PathBuf,
    arguments: Vec<PathBuf>,
    variables: Vec<(&'static str, PathBuf)>,
    /// What it can exercise, in an order that leaves the cluster fit for the next.
    areas: &'static [&'static str],
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_etcd_client() {
    let Some(program) = client("with-etcd-client") else {
        return;
    };
    let script = Script {
        program,
        arguments: Vec::new(),
        variables: Vec::new(),
        areas: &[
            "kv",
            "txn",
            "watch",
            "lease",
            "lock_service",
            "election_service",
            "maintenance",
            "defragment",
            "compaction",
            "failover",
            "members",
            "auth",
        ],
    };
    passes_on_both(&script).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_etcd3() {
    let Some(library) = client("etcd3") else {
        return;
    };
    let script = Script {
        variables: vec![
            ("PYTHONPATH", library),
            // Whatever else a machine has of protobuf.
            ("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python".into()),
        ],
        ..python("with_etcd3.py", LIBRARY_AREAS)
    };
    passes_on_both(&script).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_aetcd() {
    let Some(library) = client("aetcd") else {
        return;
    };
    let script = Script {
        variables: vec![("PYTHONPATH", library)],
        ..python("with_aetcd.py", LIBRARY_AREAS)
    };
    passes_on_both(&script).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_etcd3gw() {
    let Some(library) = client("etcd3gw") else {
        return;
    };
    let areas = &["kv", "txn", "watch", "lease", "lock", "maintenance", "auth"];
    let script = Script {
        variables: vec![("PYTHONPATH", library)],
        ..python("with_etcd3gw.py", areas)
    };
    passes_on_both(&script).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_of_the_distribution() {
    let Some(program) = client("etcdctl") else {
        return;
    };
    let areas = &[
        "kv",
        "txn",
        "watch",
        "lease",
        "lock",
        "election",
        "by_url",
        "maintenance",
        "defragment",
        "compaction",
        "failover",
        "members",
        "auth",
    ];
    let script = Script {
        variables: vec![("ETCDCTL", program)],
        ..python("with_etcdctl.py", areas)
    };
    passes_on_both(&script).await;
}

/// What the libraries for Python have; their locks are made of transactions and leases.
const LIBRARY_AREAS: &[&str] = &[
    "kv",
    "txn",
    "watch",
    "lease",
    "lock",
    "maintenance",
    "defragment",
    "compaction",
    "failover",
    "members",
    "auth",
];

fn python(script: &str, areas: &'static [&'static str]) -> Script {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("foreign/python");
    Script {
        program: "python3".into(),
        arguments: vec![path.join(script)],
        variables: Vec::new(),
        areas,
    }
}

/// What the folder of clients holds under this name, or `None` after printing that the test is skipped.
fn client(name: &str) -> Option<PathBuf> {
    let dir = std::env::var_os("FERRITE_CLIENTS_DIR").map(PathBuf::from);
    let found = dir.map(|dir| dir.join(name)).filter(|path| path.exists());
    if found.is_none() {
        assert!(
            std::env::var_os("CI").is_none(),
            "FERRITE_CLIENTS_DIR must name a folder with {name} in CI (cargo xtask clients)"
        );
        eprintln!("SKIPPED: FERRITE_CLIENTS_DIR names no folder with {name} (cargo xtask clients)");
    }
    found
}

/// Both at once, since most of the time is spent waiting for leases and elections.
async fn passes_on_both(script: &Script) {
    let Some(tools) = oracle() else { return };
    let etcdutl = tools.join("etcdutl");
    let theirs = exercise(script, Kind::Etcd351, script.areas, &etcdutl);
    let ours = exercise(script, Kind::Ferrite, script.areas, &etcdutl);
    let (theirs, ours) = tokio::join!(theirs, ours);
    if let Err(why) = theirs {
        let ours = ours.map_or_else(|why| format!("fails, too: {why}"), |()| "passes".to_owned());
        panic!(
            "the script proves nothing: against the original it fails: {why}\nagainst ours it {ours}"
        );
    }
    if let Err(why) = ours {
        panic!("passes against the original, fails against OURS: {why}");
    }
}

/// Runs the script against three members of a kind; what went wrong, with the ends of the logs.
async fn exercise(
    script: &Script,
    kind: Kind,
    areas: &[&str],
    etcdutl: &Path,
) -> Result<(), String> {
    let cluster = Cluster::builder().kinds(&[kind; 3]).start().await;
    cluster.leader().await;
    let talk = converse(script, &cluster, areas, etcdutl);
    let done = match tokio::time::timeout(LIMIT, talk).await {
        Ok(done) => done,
        Err(_) => Err(format!("does not end within {LIMIT:?}")),
    };
    if done.is_ok() {
        cluster.hash_kv_all(0).await;
    }
    done.map_err(|why| {
        let logs = cluster.members().iter().map(|member| {
            let tail = member.log_tail(2_000);
            format!("\n--- {kind:?} m{}: end of its log\n{tail}", member.index())
        });
        format!("{why}{}", logs.collect::<String>())
    })
}

async fn converse(
    script: &Script,
    cluster: &Cluster,
    areas: &[&str],
    etcdutl: &Path,
) -> Result<(), String> {
    let errors = cluster.scratch().join("script.errors");
    let (mut child, mut lines) = start(script, cluster, areas, &errors);
    let mut done = Vec::new();
    let mut killed = None;
    while let Some(line) = lines.recv().await {
        match line.split_once(' ') {
            Some(("ok", area)) => done.push(area.to_owned()),
            Some(("do", "kill")) => {
                let leader = cluster.leader().await;
                cluster.member(leader).kill9();
                killed = Some(leader);
                child.answer();
            }
            Some(("do", "restart")) => {
                let member = cluster.member(killed.take().ok_or("nobody was killed")?);
                member.start();
                member.ready(PATIENCE).await;
                child.answer();
            }
            Some(("snapshot", file)) => restores(etcdutl, Path::new(file))?,
            _ => return Err(format!("the script says {line:?}")),
        }
    }
    let status = child.end();
    if status.as_deref() == Ok("exit status: 0") && done == areas {
        return Ok(());
    }
    let errors = std::fs::read_to_string(&errors).unwrap_or_default();
    let area = areas.get(done.len()).unwrap_or(&"nothing");
    Err(format!("{area} fails ({status:?}):\n{errors}"))
}

/// The original's tool accepts a snapshot that the client took, hash and all.
fn restores(etcdutl: &Path, file: &Path) -> Result<(), String> {
    let into = file.with_extension("restored");
    let arguments =
        ["snapshot", "restore", &file.to_string_lossy(), "--data-dir"].map(str::to_owned);
    let into = into.to_string_lossy().into_owned();
    let outcome = run(etcdutl, &[&arguments[..], &[into]].concat(), PATIENCE);
    match outcome.code() {
        Some(0) => Ok(()),
        _ => Err(format!("etcdutl does not restore it: {}", outcome.text())),
    }
}

/// The running script; killed when this is dropped.
struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
}

impl Running {
    /// Tells the script that it was done; one that has ended shows that by itself.
    fn answer(&mut self) {
        if let Some(stdin) = &mut self.stdin {
            let _ = stdin.write_all(b"done\n").and_then(|()| stdin.flush());
        }
    }

    /// How a script ended that has closed its output.
    fn end(&mut self) -> Result<String, String> {
        self.stdin = None;
        let status = self.child.wait().map_err(|error| error.to_string())?;
        Ok(status.to_string())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts the script; the lines it prints come from a thread, which ends with it.
fn start(
    script: &Script,
    cluster: &Cluster,
    areas: &[&str],
    errors: &Path,
) -> (Running, UnboundedReceiver<String>) {
    let errors = std::fs::File::create(errors).expect("a file can be made");
    let mut command = Command::new(&script.program);
    command
        .args(&script.arguments)
        .args(areas)
        .env("ENDPOINTS", cluster.endpoints().join(","))
        .env("SCRATCH", cluster.scratch())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(errors);
    for (name, value) in &script.variables {
        command.env(name, value);
    }
    let mut child = command
        .spawn()
        .unwrap_or_else(|error| panic!("{} does not start: {error}", script.program.display()));
    let output = child.stdout.take().expect("its output is piped");
    let (sender, lines) = unbounded_channel();
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let stdin = child.stdin.take();
    (Running { child, stdin }, lines)
}
