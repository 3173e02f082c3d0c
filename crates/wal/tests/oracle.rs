//! One log, two implementations: etcd 3.5.1 starts from what we wrote, we read what it wrote.

mod common;

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{entry, start};
use ferrite_proto::etcdserverpb::{InternalRaftRequest, PutRequest, RequestHeader};
use ferrite_proto::raftpb::HardState;
use ferrite_wal::{Options, Wal, snap};
use prost::Message;

struct Etcd {
    process: Child,
    client: String,
    ctl: PathBuf,
}

impl Etcd {
    fn start(oracle: &Path, data: &Path, peer: &str) -> Etcd {
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|l| l.local_addr())
            .expect("a free port")
            .port();
        let client = format!("http://127.0.0.1:{port}");
        let process = Command::new(oracle.join("etcd"))
            .args(["--name", "n1", "--snapshot-count", "10", "--logger", "zap"])
            .args([
                "--listen-peer-urls",
                peer,
                "--initial-advertise-peer-urls",
                peer,
            ])
            .args([
                "--listen-client-urls",
                &client,
                "--advertise-client-urls",
                &client,
            ])
            .arg(format!("--initial-cluster=n1={peer}"))
            .arg("--data-dir")
            .arg(data)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd starts");
        Etcd {
            process,
            client,
            ctl: oracle.join("etcdctl"),
        }
    }

    fn ctl(&self, arguments: &[&str]) -> Option<String> {
        let mut command = Command::new(&self.ctl);
        command
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &self.client, "--command-timeout=5s"]);
        let output = command.args(arguments).output().expect("etcdctl runs");
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The command's answer, tried again until the server is up.
    fn ask(&mut self, arguments: &[&str]) -> String {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(answer) = self.ctl(arguments) {
                return answer;
            }
            if let Some(status) = self.process.try_wait().expect("asks") {
                panic!("etcd ended ({status}) instead of answering {arguments:?}");
            }
            assert!(Instant::now() < deadline, "no answer to {arguments:?}");
        }
    }

    fn kill(mut self) {
        self.process.kill().expect("kills");
        self.process.wait().expect("waits");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        // Already gone after `kill`.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn oracle() -> Option<PathBuf> {
    match std::env::var_os("ETCD_ORACLE_DIR") {
        Some(dir) => Some(dir.into()),
        None => {
            assert!(
                std::env::var_os("CI").is_none(),
                "ETCD_ORACLE_DIR must be set in CI"
            );
            eprintln!("SKIPPED: ETCD_ORACLE_DIR is not set");
            None
        }
    }
}

fn put(id: u64, key: &str, value: &str) -> Vec<u8> {
    let put = PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..PutRequest::default()
    };
    let header = RequestHeader {
        id,
        ..RequestHeader::default()
    };
    InternalRaftRequest {
        header: Some(header),
        put: Some(put),
        ..InternalRaftRequest::default()
    }
    .encode_to_vec()
}

#[test]
fn etcd_starts_from_our_log_and_we_from_etcds() {
    let Some(oracle) = oracle() else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let data = directory.path().join("data");
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("a free port")
        .port();
    let peer = format!("http://127.0.0.1:{port}");

    let mut etcd = Etcd::start(&oracle, &data, &peer);
    for number in 0..25 {
        etcd.ask(&["put", &format!("theirs{number}"), "v"]);
    }
    etcd.kill();

    // Their log, killed without warning, opens here; we append a committed put to it.
    let dir = data.join("member/wal");
    let snap_dir = data.join("member/snap");
    let snapshots = Wal::valid_snapshots(&dir).expect("reads");
    let newest = snap::load_newest_matching(&snap_dir, &snapshots)
        .expect("reads")
        .snapshot
        .expect("a snapshot");
    let from = snapshots.last().expect("records");
    assert_eq!(newest.metadata.as_ref().map(|m| m.index), Some(from.index));
    assert!(from.index >= 20);
    let (mut wal, read) = Wal::open(&dir, from, Options::default()).expect("opens");
    let index = wal.last_index() + 1;
    assert!(
        read.entries
            .iter()
            .any(|e| e.data.windows(8).any(|w| w == b"theirs24"))
    );
    let append = |wal: &mut Wal, key: &str| {
        let index = wal.last_index() + 1;
        let state = HardState {
            commit: index,
            ..*wal.hard_state()
        };
        let entry = entry(index, state.term, &put(index, key, "from ferrite"));
        wal.save(Some(&state), &[entry], true).expect("saves");
    };
    append(&mut wal, "ours");
    assert_eq!(wal.last_index(), index);
    wal.close().expect("closes");

    let mut etcd = Etcd::start(&oracle, &data, &peer);
    assert_eq!(etcd.ask(&["get", "ours"]), "ours\nfrom ferrite\n");
    assert_eq!(etcd.ask(&["get", "theirs24"]), "theirs24\nv\n");
    etcd.ask(&["put", "again", "v"]);
    etcd.kill();

    // A log that is ours from the first byte, in many segments, with our copy of the .snap file.
    let snapshots = Wal::valid_snapshots(&dir).expect("reads");
    let newest = snap::load_newest_matching(&snap_dir, &snapshots)
        .expect("reads")
        .snapshot
        .expect("a snapshot");
    std::fs::remove_file(snap_dir.join(&snap::names(&snap_dir).expect("lists")[0]))
        .expect("removes");
    snap::save(&snap_dir, &newest).expect("saves");
    let whole = Wal::read(&dir, &start()).expect("reads");
    std::fs::remove_dir_all(&dir).expect("removes");
    let small = Options {
        segment_bytes: 1000,
        ..Options::default()
    };
    let mut wal = Wal::create(&dir, &whole.metadata, small).expect("creates");
    for entry in &whole.entries {
        let state = HardState {
            commit: entry.index,
            ..whole.hard_state
        };
        wal.save(Some(&state), std::slice::from_ref(entry), false)
            .expect("saves");
        for snapshot in snapshots.iter().filter(|s| s.index == entry.index) {
            wal.save_snapshot(snapshot).expect("saves");
        }
    }
    append(&mut wal, "ours too");
    assert!(wal.segment() > 2, "several segments");
    wal.close().expect("closes");

    let mut etcd = Etcd::start(&oracle, &data, &peer);
    assert_eq!(etcd.ask(&["get", "ours too"]), "ours too\nfrom ferrite\n");
    assert_eq!(etcd.ask(&["get", "again"]), "again\nv\n");
    etcd.ask(&["put", "last", "v"]);
    etcd.kill();
    let after = Wal::read(&dir, snapshots.last().expect("records")).expect("reads");
    assert!(
        after
            .entries
            .iter()
            .any(|e| e.data.windows(4).any(|w| w == b"last"))
    );
}
