//! Log lines as people and scripts read them: their form in every line, what is in the banner, what is
//! never in any line, where they go, and how that changes while the server runs.

use std::io::Read;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use ferrite_client::{Client, Config};
use ferrite_testkit::{Cluster, PATIENCE, Ports, eventually, oracle, our_program, pb};
use serde_json::Value;

use crate::{beside_others, get, put};

/// Lines as JSON; what is none fails.
fn lines(log: &str) -> Vec<Value> {
    log.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn text<'a>(line: &'a Value, key: &str) -> &'a str {
    line[key].as_str().unwrap_or_default()
}

fn with_message<'a>(lines: &'a [Value], message: &str) -> &'a Value {
    lines
        .iter()
        .find(|line| text(line, "msg") == message)
        .unwrap_or_else(|| panic!("no line says {message:?}"))
}

/// `folder/file.rs:7`
fn is_caller(caller: &str) -> bool {
    let Some((place, line)) = caller.rsplit_once(':') else {
        return false;
    };
    place.contains('.') && line.parse::<u32>().is_ok()
}

/// A life at debug level, with a bit of everything in it.
#[tokio::test(flavor = "multi_thread")]
async fn every_line_has_its_keys_and_a_quiet_life_has_no_error() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder()
        .members(3)
        .extra_args(&["--log-level=debug"])
        .start()
        .await;
    let client = cluster.client(0);
    put(&client, "k", "v").await;
    assert_eq!(get(&client, "k").await.as_deref(), Some("v"));
    for member in cluster.members() {
        assert!(!member.terminate().await.success());
    }
    for member in cluster.members() {
        let log = member.log();
        let lines = lines(&log);
        for (line, raw) in lines.iter().zip(log.lines()) {
            for key in ["level", "ts", "caller", "msg"] {
                assert!(!text(line, key).is_empty(), "no {key}: {raw}");
            }
            assert!(is_caller(text(line, "caller")), "{raw}");
            assert!(raw.starts_with("{\"level\":\""), "{raw}");
            assert_ne!(text(line, "level"), "error", "{raw}");
        }
        for message in [
            "Initialize and start etcd server",
            "configuring peer listeners",
            "configuring client listeners",
            "published local member to cluster through raft",
            "ready to serve client requests",
            "serving client traffic insecurely; this is strongly discouraged!",
            "now serving peer/client/metrics",
            "received signal; shutting down",
            "closing etcd server",
            "closed etcd server",
        ] {
            with_message(&lines, message);
        }
    }
}

/// What 3.7.1 tells of its settings; `auto-compaction-interval` follows from the retention.
const BANNER: &[&str] = &[
    "etcd-version",
    "git-sha",
    "go-version",
    "go-os",
    "go-arch",
    "max-cpu-set",
    "max-cpu-available",
    "member-initialized",
    "name",
    "data-dir",
    "wal-dir",
    "wal-dir-dedicated",
    "member-dir",
    "force-new-cluster",
    "heartbeat-interval",
    "election-timeout",
    "initial-election-tick-advance",
    "snapshot-count",
    "max-wals",
    "max-snapshots",
    "snapshot-catchup-entries",
    "initial-advertise-peer-urls",
    "listen-peer-urls",
    "advertise-client-urls",
    "listen-client-urls",
    "listen-metrics-urls",
    "local-address",
    "cors",
    "host-whitelist",
    "initial-cluster",
    "initial-cluster-state",
    "initial-cluster-token",
    "quota-backend-bytes",
    "max-request-bytes",
    "max-concurrent-streams",
    "pre-vote",
    "feature-gates",
    "initial-corrupt-check",
    "corrupt-check-time-interval",
    "compact-check-time-interval",
    "auto-compaction-mode",
    "auto-compaction-retention",
    "auto-compaction-interval",
    "discovery-token",
    "discovery-endpoints",
    "discovery-dial-timeout",
    "discovery-request-timeout",
    "discovery-keepalive-time",
    "discovery-keepalive-timeout",
    "discovery-insecure-transport",
    "discovery-insecure-skip-tls-verify",
    "discovery-cert",
    "discovery-key",
    "discovery-cacert",
    "discovery-user",
    "downgrade-check-interval",
    "max-learners",
    "v2-deprecation",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_banner_tells_every_setting() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder()
        .extra_args(&[
            "--feature-gates=LeaseCheckpoint=true,CompactHashCheck=true",
            "--corrupt-check-time=90s",
        ])
        .start()
        .await;
    let lines = lines(&cluster.member(0).log());
    let banner = with_message(&lines, "starting an etcd server");
    let banner = banner.as_object().expect("an object");
    for key in BANNER {
        assert!(banner.contains_key(*key), "{key} is missing: {banner:?}");
    }
    assert_eq!(banner["etcd-version"], "3.7.1");
    assert_eq!(banner["corrupt-check-time-interval"], "1m30s");
    assert_eq!(banner["member-initialized"], false);
    assert_eq!(
        banner["feature-gates"],
        "CompactHashCheck=true,LeaseCheckpoint=true"
    );
    // The original's, where it tells the same thing in the same words.
    if oracle().is_some() {
        let theirs = Cluster::builder()
            .kinds(&[ferrite_testkit::Kind::Etcd351])
            .start()
            .await;
        let log = theirs.member(0).log();
        let theirs: Vec<Value> = log
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        let theirs = with_message(&theirs, "starting an etcd server");
        for key in [
            "heartbeat-interval",
            "election-timeout",
            "go-os",
            "go-arch",
            "member-initialized",
            "initial-cluster-state",
            "quota-size-bytes",
            "pre-vote",
            "downgrade-check-interval",
        ] {
            let ours = match key {
                "quota-size-bytes" => &banner["quota-backend-bytes"],
                key => &banner[key],
            };
            assert_eq!(ours, &theirs[key], "{key}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_are_in_no_line() {
    let _turn = beside_others().await;
    const SECRET: &str = "fuchsia-marmalade";
    let cluster = Cluster::builder()
        .extra_args(&[
            "--log-level=debug",
            // Every request is slow.
            "--warning-apply-duration=1ns",
            "--warning-unary-request-duration=1ns",
        ])
        .start()
        .await;
    let client = cluster.client(0);
    put(&client, "k", SECRET).await;
    assert_eq!(get(&client, "k").await.as_deref(), Some(SECRET));
    let compare = pb::Compare {
        key: "k".into(),
        result: 0,
        target: pb::compare::CompareTarget::Value as i32,
        target_union: Some(pb::compare::TargetUnion::Value(SECRET.into())),
        ..Default::default()
    };
    let write = pb::PutRequest {
        key: "k2".into(),
        value: SECRET.into(),
        ..Default::default()
    };
    let txn = pb::TxnRequest {
        compare: vec![compare],
        success: vec![pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(write)),
        }],
        failure: Vec::new(),
    };
    let answer = client.kv().txn(txn).await.expect("a transaction");
    assert!(answer.into_inner().succeeded);
    let member = cluster.member(0);
    member.wait_for_log("request stats", PATIENCE).await;
    member.terminate().await;
    assert!(!member.log_contains(SECRET), "a value was logged");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_go_where_they_are_sent_in_the_form_asked_for() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let [one, two] = ["one.log", "two.log"].map(|name| dir.path().join(name));
    let outputs = format!("--log-outputs={},{},stderr", one.display(), two.display());
    let cluster = Cluster::builder()
        .extra_args(&["--log-format=console", "--log-level=warn", &outputs])
        .build();
    let member = cluster.member(0);
    member.start();
    // At this level nothing says that it is ready.
    let client = cluster.client(0);
    eventually("it serves", PATIENCE, async || {
        let status = pb::StatusRequest::default();
        client.maintenance().status(status).await.ok()
    })
    .await;
    member.terminate().await;
    let log = std::fs::read_to_string(&one).expect("a log");
    assert_eq!(log, std::fs::read_to_string(&two).expect("a log"));
    assert_eq!(log, member.log());
    assert!(!log.is_empty());
    for line in log.lines() {
        let parts: Vec<&str> = line.split('\t').collect();
        let [ts, level, caller, message, ..] = parts[..] else {
            panic!("{line}");
        };
        assert_eq!(level, "warn", "{line}");
        assert!(ts.starts_with("20") && ts.len() >= 27, "{line}");
        assert!(is_caller(caller), "{line}");
        assert!(!message.is_empty(), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_log_file_makes_room_for_a_new_one() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("etcd.log");
    let full = "x".repeat((1 << 20) - 10);
    std::fs::write(&path, &full).expect("a file");
    let cluster = Cluster::builder()
        .extra_args(&[
            &format!("--log-outputs={}", path.display()),
            "--enable-log-rotation",
            r#"--log-rotation-config-json={"maxsize": 1, "compress": true}"#,
        ])
        .build();
    cluster.member(0).start();
    eventually("the new file says that it is ready", PATIENCE, async || {
        let log = std::fs::read_to_string(&path).unwrap_or_default();
        (log.starts_with('{') && log.contains("ready to serve")).then_some(())
    })
    .await;
    let names: Vec<String> = std::fs::read_dir(dir.path())
        .expect("a folder")
        .map(|entry| {
            let name = entry.expect("an entry").file_name();
            name.to_string_lossy().into_owned()
        })
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    let old = names.iter().find(|name| *name != "etcd.log").expect("old");
    assert!(
        old.starts_with("etcd-20") && old.ends_with(".log.gz"),
        "{old}"
    );
    cluster.member(0).terminate().await;
}

/// A configuration file of a member alone.
fn configuration(ports: &mut Ports, dir: &Path, more: &str) -> String {
    let [client, peer] =
        [ports.take(), ports.take()].map(|port| format!("http://127.0.0.1:{port}"));
    format!(
        "name: m0\ndata-dir: {}\nlisten-client-urls: {client}\nadvertise-client-urls: {client}\n\
         listen-peer-urls: {peer}\ninitial-advertise-peer-urls: {peer}\n{more}",
        dir.join("data").display()
    )
}

/// Kills the process when the test is over, however that ends.
struct Child(std::process::Child);

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Child {
    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([name, &self.0.id().to_string()])
            .status()
            .expect("kill runs");
        assert!(sent.success());
    }
}

fn server(arguments: &[&str]) -> Command {
    let mut command = Command::new(our_program("etcd"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCD") {
            command.env_remove(name);
        }
    }
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_opens_the_file_again_and_takes_the_level_anew() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let ports = &mut Ports::default();
    let (file, log) = (dir.path().join("etcd.yml"), dir.path().join("etcd.log"));
    let logged = format!("log-outputs: ['{}']\n", log.display());
    let settings = configuration(ports, dir.path(), &logged);
    std::fs::write(&file, format!("{settings}log-level: info\n")).expect("a file");
    let child = server(&[&format!("--config-file={}", file.display())])
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    let child = Child(child);
    let says = async |text: &str| {
        eventually(text, PATIENCE, async || {
            let text_so_far = std::fs::read_to_string(&log).unwrap_or_default();
            text_so_far.contains(text).then_some(())
        })
        .await;
    };
    says("ready to serve client requests").await;
    let old = dir.path().join("etcd.log.1");
    std::fs::rename(&log, &old).expect("renamed");
    std::fs::write(&file, format!("{settings}log-level: error\n")).expect("a file");
    child.signal("-HUP");
    says("changed the log level").await;
    let first = std::fs::read_to_string(&log).expect("a new file");
    std::fs::write(&file, format!("{settings}log-level: loud\n")).expect("a file");
    child.signal("-HUP");
    std::fs::write(&file, format!("{settings}log-level: debug\n")).expect("a file");
    // Signals that come while one is handled may be one.
    eventually("the level is debug", PATIENCE, async || {
        child.signal("-HUP");
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        text.contains("\"to\":\"debug\"").then_some(())
    })
    .await;
    assert!(first.contains("\"to\":\"error\""), "{first}");
    let after = std::fs::read_to_string(&old).expect("the old file");
    assert!(!after.contains("changed the log level"), "{after}");
}

/// The signal is a request to read again, also where there is nothing to read; a terminal that is closed
/// ends no member.
#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_ends_nothing() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().start().await;
    let member = cluster.member(0);
    member.signal(libc::SIGHUP);
    eventually("the signal is noted", PATIENCE, async || {
        member.log_contains("received SIGHUP").then_some(())
    })
    .await;
    let status = pb::StatusRequest::default();
    let answered = cluster.client(0).maintenance().status(status).await;
    answered.expect("it goes on");
}

/// A pipe holds 64 KiB; what comes after waits, and the server does not.
#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_nobody_reads_holds_up_nothing() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let ports = &mut Ports::default();
    let file = dir.path().join("etcd.yml");
    // Every request is slow, and its line long.
    let settings = configuration(ports, dir.path(), "warning-unary-request-duration: 1\n");
    std::fs::write(&file, &settings).expect("a file");
    let endpoint = settings
        .lines()
        .find_map(|line| line.strip_prefix("listen-client-urls: "))
        .expect("a URL");
    let mut child = server(&[&format!("--config-file={}", file.display())])
        .stderr(Stdio::piped())
        // A group of its own: nothing else of this test is in it.
        .process_group(0)
        .spawn()
        .map(Child)
        .expect("it starts");
    let mut unread = child.0.stderr.take().expect("a pipe");
    let client = Client::new(Config::new([endpoint])).expect("a client");
    eventually("it serves", PATIENCE, async || {
        let status = pb::StatusRequest::default();
        client.maintenance().status(status).await.ok()
    })
    .await;
    let filled = std::time::Instant::now();
    let mut puts = 0;
    // A hundred lines of a kind in a second: a few seconds fill the pipe.
    while filled.elapsed() < std::time::Duration::from_secs(5) {
        put(&client, &format!("{puts}-{}", "k".repeat(400)), "v").await;
        puts += 1;
    }
    assert!(puts > 50, "only {puts} puts in five seconds");
    child.signal("-TERM");
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        unread.read_to_string(&mut text).map(|_| text)
    });
    let child = std::sync::Mutex::new(child);
    let status = eventually("it ends", PATIENCE, async || {
        let mut child = child.lock().expect("nobody panics with it");
        child.0.try_wait().expect("a child")
    })
    .await;
    assert!(status.code().is_none(), "{status}");
    let text = reader.join().expect("a reader").expect("text");
    assert!(text.len() > 16 << 10, "only {} bytes", text.len());
    // The sampling lets a hundred of a kind pass in a second, and then one of a hundred.
    let stats = text.matches("request stats").count();
    assert!(
        stats <= 100 * 7 + puts / 100,
        "{stats} lines of {puts} puts"
    );
    lines(&text);
}
