//! A member of Go etcd 3.5.1 and ours in one cluster.

mod common;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use ferrite_proto::raftpb::{Message, MessageType, Snapshot, SnapshotMetadata};
use sha1::{Digest, Sha1};
use tokio::net::TcpListener;

fn oracle() -> Option<PathBuf> {
    match std::env::var_os("ETCD_ORACLE_DIR") {
        Some(dir) => Some(PathBuf::from(dir)),
        None if std::env::var_os("CI").is_some() => panic!("ETCD_ORACLE_DIR must be set in CI"),
        None => {
            eprintln!("SKIPPED: ETCD_ORACLE_DIR is not set");
            None
        }
    }
}

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn first_eight(bytes: &[u8]) -> u64 {
    Sha1::digest(bytes)
        .iter()
        .take(8)
        .fold(0, |id, &b| id << 8 | u64::from(b))
}

/// A cluster of one member of Go etcd and our transport, on fresh ports and directories.
struct Pair {
    dir: PathBuf,
    data: tempfile::TempDir,
    args: Vec<String>,
    client: String,
    ours: Member,
    their_id: u64,
}

impl Pair {
    async fn start(dir: PathBuf, more: &[&str]) -> Pair {
        record_logs();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let our_url = format!("http://{}", listener.local_addr().expect("an address"));
        let (peer, client) = (free_url().await, free_url().await);
        let member_id = |url: &str| first_eight(format!("{url}t").as_bytes());
        let (our_id, their_id) = (member_id(&our_url), member_id(&peer));
        let mut ids = [our_id, their_id];
        ids.sort_unstable();
        let cluster_id = first_eight(&ids.map(u64::to_be_bytes).concat());
        let options = Options {
            cluster_id,
            ..Options::default()
        };
        let ours = Member::on(our_id, listener, options).await;
        ours.transport
            .add_peer(their_id, std::slice::from_ref(&peer));

        let data = tempfile::tempdir().expect("a directory");
        let cluster = format!("m1={peer},m2={our_url}");
        let data_dir = data.path().join("d").display().to_string();
        let args = [
            ["--name", "m1"],
            ["--initial-cluster-token", "t"],
            ["--listen-peer-urls", &peer],
            ["--initial-advertise-peer-urls", &peer],
            ["--listen-client-urls", &client],
            ["--advertise-client-urls", &client],
            ["--initial-cluster", &cluster],
            ["--data-dir", &data_dir],
        ];
        let args = args
            .concat()
            .iter()
            .chain(more)
            .map(|&a| a.to_owned())
            .collect();
        Pair {
            dir,
            data,
            args,
            client,
            ours,
            their_id,
        }
    }

    /// Starts the Go member, or starts it again on the same directory.
    fn etcd(&self) -> Killed {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.log_path());
        let child = Command::new(self.dir.join("etcd"))
            .args(&self.args)
            .stdout(Stdio::null())
            .stderr(log.expect("a log file"))
            .spawn()
            .expect("etcd starts");
        Killed(child)
    }

    fn log_path(&self) -> PathBuf {
        self.data.path().join("log")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).expect("its log")
    }

    async fn put(&self, value: String) {
        let (dir, client) = (self.dir.clone(), self.client.clone());
        let put = tokio::task::spawn_blocking(move || {
            Command::new(dir.join("etcdctl"))
                .env("ETCDCTL_API", "3")
                .args(["--endpoints", &client, "put", "key", &value])
                .output()
                .expect("etcdctl runs")
        });
        let put = put.await.expect("done");
        assert_eq!(String::from_utf8_lossy(&put.stdout).trim(), "OK", "{put:?}");
    }
}

async fn free_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    format!("http://{}", listener.local_addr().expect("an address"))
}

/// The least a follower must say for the other member to lead and commit.
fn follower(me: u64) -> impl Fn(&Message) -> Vec<Message> {
    move |msg| {
        let kind = match MessageType::try_from(msg.msg_type) {
            Ok(MessageType::MsgPreVote) => MessageType::MsgPreVoteResp,
            Ok(MessageType::MsgVote) => MessageType::MsgVoteResp,
            Ok(MessageType::MsgApp) => MessageType::MsgAppResp,
            Ok(MessageType::MsgHeartbeat) => MessageType::MsgHeartbeatResp,
            _ => return Vec::new(),
        };
        vec![Message {
            msg_type: kind as i32,
            from: me,
            to: msg.from,
            term: msg.term,
            index: msg.entries.last().map_or(msg.index, |e| e.index),
            context: msg.context.clone(),
            ..Default::default()
        }]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn go_etcd_and_our_transport_form_a_cluster() {
    let Some(dir) = oracle() else { return };
    let pair = Pair::start(dir, &[]).await;
    let (member, their_id, our_id) = (&pair.ours, pair.their_id, pair.ours.id);
    member
        .node
        .answer
        .set(Box::new(follower(our_id)))
        .ok()
        .expect("set once");
    let etcd = pair.etcd();

    eventually("a vote is asked for", || {
        !member.node.of_type(MessageType::MsgVote).is_empty()
    })
    .await;
    eventually("appends come", || {
        !member.node.of_type(MessageType::MsgApp).is_empty()
    })
    .await;
    eventually("heartbeats come", || {
        member.node.of_type(MessageType::MsgHeartbeat).len() > 3
    })
    .await;
    let remote = format!("{their_id:x}");
    for side in ["stream-reader-type", "stream-writer-type"] {
        for kind in ["stream MsgApp v2", "stream Message"] {
            let fields = [("remote-peer-id", remote.as_str()), (side, kind)];
            eventually(kind, || {
                log_count(&fields, "established TCP streaming connection") > 0
            })
            .await;
        }
    }
    eventually("a probe", || {
        member.transport.stats().members[0].rtt.is_some()
    })
    .await;

    // Through its leader the cluster serves clients; our answers are half of its quorum.
    for i in 0..5 {
        pair.put(format!("value-{i}")).await;
    }
    pair.put("b".repeat(100_000)).await;
    let entries = |needle: &[u8]| {
        let appends = member.node.of_type(MessageType::MsgApp);
        let mut entries = appends
            .iter()
            .flat_map(|m| m.entries.iter().map(move |e| (m, e)));
        entries.any(|(m, e)| e.data.windows(needle.len()).any(|w| w == needle) && e.index > m.index)
    };
    for i in 0..5 {
        assert!(
            entries(format!("value-{i}").as_bytes()),
            "the put is in a decoded append"
        );
    }
    assert!(entries(&[b'b'; 100_000]), "a large entry too");
    assert!(
        member
            .node
            .of_type(MessageType::MsgApp)
            .iter()
            .all(|m| m.snapshot.is_none() && m.to == our_id)
    );

    let text = pair.log();
    for line in [
        "established TCP streaming connection with remote peer",
        "peer became active",
        "ready to serve client requests",
    ] {
        assert!(text.contains(line), "etcd says {line:?}");
    }
    for line in [
        "prober detected unhealthy status",
        "failed to unmarshal",
        "panic",
    ] {
        assert!(!text.contains(line), "etcd must not say {line:?}");
    }

    drop(etcd);
    let fields = [("remote-peer-id", remote.as_str())];
    eventually("its death is named", || {
        log_count(&fields, "lost TCP streaming connection") >= 4
            && log_count(&fields, "prober detected unhealthy status") >= 2
    })
    .await;
    // It comes back on its own data, and streams attach again.
    let before = log_count(&fields, "established TCP streaming connection");
    let _etcd = pair.etcd();
    eventually("it is back", || {
        log_count(&fields, "established TCP streaming connection") >= before + 4
    })
    .await;
    let beats = member.node.of_type(MessageType::MsgHeartbeat).len();
    eventually("it leads again", || {
        member.node.of_type(MessageType::MsgHeartbeat).len() > beats + 3
    })
    .await;
    pair.ours.transport.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn databases_travel_in_both_directions() {
    let Some(dir) = oracle() else { return };
    let pair = Pair::start(dir, &["--snapshot-count", "5"]).await;
    let (node, our_id) = (&pair.ours.node, pair.ours.id);
    // When set, we say that we have lost everything, until a database comes.
    let empty = Arc::new(AtomicBool::new(false));
    let state = empty.clone();
    let ack = follower(our_id);
    let answer = move |msg: &Message| {
        let answers = ack(msg);
        let resp = |index, reject| Message {
            msg_type: MessageType::MsgAppResp as i32,
            from: our_id,
            to: msg.from,
            term: msg.term,
            index,
            reject,
            ..Default::default()
        };
        match MessageType::try_from(msg.msg_type) {
            Ok(MessageType::MsgSnap) => {
                state.store(false, Ordering::SeqCst);
                let metadata = msg.snapshot.as_ref().and_then(|s| s.metadata.as_ref());
                vec![resp(metadata.map_or(0, |m| m.index), false)]
            }
            Ok(MessageType::MsgApp) if state.load(Ordering::SeqCst) => vec![resp(msg.index, true)],
            _ => answers,
        }
    };
    node.answer.set(Box::new(answer)).ok().expect("set once");
    let etcd = pair.etcd();
    eventually("a leader", || {
        node.of_type(MessageType::MsgHeartbeat).len() > 2
    })
    .await;
    for i in 0..20 {
        pair.put(format!("value-{i}").repeat(1000)).await;
    }
    drop(etcd);
    empty.store(true, Ordering::SeqCst);
    let _etcd = pair.etcd();

    eventually("its database", || {
        node.of_type(MessageType::MsgSnap).len() == 1
    })
    .await;
    let msg = node.of_type(MessageType::MsgSnap).remove(0);
    let snapshot = msg.snapshot.expect("a snapshot");
    assert!(
        String::from_utf8_lossy(&snapshot.data).contains("/0/members/"),
        "membership is in it"
    );
    let index = snapshot.metadata.expect("metadata").index;
    let snap_dir = pair.ours.snap_dir.as_ref().expect("a directory").path();
    let db = std::fs::read(snap_dir.join(format!("{index:016x}.snap.db"))).expect("the file");
    assert!(
        db.len() % 4096 == 0 && db.len() >= 16 * 1024,
        "{} bytes of pages",
        db.len()
    );
    assert_eq!(
        db[16..20],
        0xED0C_DAEDu32.to_le_bytes(),
        "the magic number of the first meta page"
    );
    pair.put("after".to_owned()).await;
    eventually("it says so", || {
        pair.log().contains("sent database snapshot")
    })
    .await;

    // And back. Of an old term, so that the Go member saves it and raft passes over it.
    *node.source.lock() = Some((db.clone(), db.len() as u64));
    let old = Message {
        msg_type: MessageType::MsgSnap as i32,
        from: our_id,
        to: pair.their_id,
        term: 1,
        snapshot: Some(Snapshot {
            metadata: Some(SnapshotMetadata {
                index: 1,
                term: 1,
                conf_state: None,
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    pair.ours.transport.send(vec![old]);
    eventually("204", || *node.snapshots.lock() == [(pair.their_id, true)]).await;
    let theirs = pair
        .data
        .path()
        .join("d/member/snap/0000000000000001.snap.db");
    assert!(
        std::fs::read(theirs).expect("saved") == db,
        "the same bytes arrived"
    );
    pair.put("still there".to_owned()).await;
    pair.ours.transport.stop();
}
