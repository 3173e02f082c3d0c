//! What comes to a member's peer port and should not: named in the log, refused, and nothing changed.

use std::time::Duration;

use ferrite_proto::raftpb::{ConfState, Entry, Message, MessageType, Snapshot, SnapshotMetadata};
use ferrite_testkit::{Cluster, PATIENCE, accepted, eventually, pb};
use prost::Message as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::left::{applied_in, newest_in};
use crate::{beside_others, get, http_get, put};

/// Sends bytes to a peer port, ends the sending if told so, and reads what comes back until the end.
async fn send(url: &str, bytes: &[u8], cut: bool) -> String {
    let address = url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    // It may close at once.
    let _ = stream.write_all(bytes).await;
    if cut {
        let _ = stream.shutdown().await;
    }
    let mut answer = Vec::new();
    let reading = stream.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(10), reading).await;
    String::from_utf8_lossy(&answer).into_owned()
}

/// What one member looks like to another.
struct Who {
    url: String,
    cluster: u64,
    from: u64,
    to: u64,
}

impl Who {
    fn head(&self, path: &str, length: usize) -> Vec<u8> {
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\
             X-Server-From: {:x}\r\nX-Server-Version: 3.7.1\r\nX-Min-Cluster-Version: 3.0.0\r\n\
             X-Etcd-Cluster-ID: {:x}\r\n\r\n",
            self.from, self.cluster
        )
        .into_bytes()
    }

    async fn post(&self, path: &str, body: &[u8]) -> String {
        let mut bytes = self.head(path, body.len());
        bytes.extend_from_slice(body);
        send(&self.url, &bytes, false).await
    }

    /// A message that brings a snapshot, as it is sent: its length, itself, then the database.
    fn snapshot(&self, term: u64, index: u64, members: &[u64], database: &[u8]) -> Vec<u8> {
        let message = Message {
            msg_type: MessageType::MsgSnap.into(),
            to: self.to,
            from: self.from,
            term,
            snapshot: Some(Snapshot {
                data: b"{}".as_slice().into(),
                metadata: Some(SnapshotMetadata {
                    conf_state: Some(ConfState {
                        voters: members.to_vec(),
                        ..ConfState::default()
                    }),
                    index,
                    term,
                }),
            }),
            ..Message::default()
        }
        .encode_to_vec();
        let mut body = (message.len() as u64).to_be_bytes().to_vec();
        body.extend_from_slice(&message);
        body.extend_from_slice(database);
        body
    }
}

async fn statuses(cluster: &Cluster) -> Vec<pb::StatusResponse> {
    let statuses = eventually("all say how they are", PATIENCE, async || {
        let statuses = cluster.statuses().await;
        (statuses.len() == cluster.members().len()).then_some(statuses)
    })
    .await;
    statuses.into_iter().map(|(_, status)| status).collect()
}

fn id(status: &pb::StatusResponse) -> u64 {
    status.header.as_ref().expect("a header").member_id
}

#[tokio::test(flavor = "multi_thread")]
async fn what_should_not_come_is_named_and_changes_nothing() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().members(3).start().await;
    for n in 0..20 {
        put(&cluster.client(0), &format!("k{n}"), "v").await;
    }
    let leader = cluster.leader().await;
    let victim = (leader + 1) % 3;
    let member = cluster.member(victim);
    let before = statuses(&cluster).await;
    let hash = cluster.hash_kv_all(0).await;
    let who = Who {
        url: member.peer_url().to_owned(),
        cluster: before[0].header.as_ref().expect("a header").cluster_id,
        from: id(&before[leader]),
        to: id(&before[victim]),
    };
    let foreign = Who {
        url: who.url.clone(),
        cluster: who.cluster ^ 1,
        ..who
    };
    let members: Vec<u64> = before.iter().map(id).collect();
    let (term, index) = (before[leader].raft_term, before[leader].raft_index + 1_000);
    // Garbage instead of HTTP, and instead of a message.
    let answer = send(
        &who.url,
        &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0xff, b'\n'],
        true,
    )
    .await;
    assert!(!answer.starts_with("HTTP/1.1 2"), "{answer}");
    let answer = who.post("/raft", &[0xff; 64]).await;
    assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
    member
        .wait_for_log("failed to unmarshal Raft message", PATIENCE)
        .await;
    // A message, a stream and a snapshot of another cluster.
    for (path, body) in [
        ("/raft", vec![]),
        (
            "/raft/snapshot",
            foreign.snapshot(term, index, &members, &[0; 4096]),
        ),
    ] {
        let answer = foreign.post(path, &body).await;
        assert!(answer.starts_with("HTTP/1.1 412"), "{path}: {answer}");
        assert!(answer.contains("cluster ID mismatch"), "{path}: {answer}");
    }
    member
        .wait_for_log("request cluster ID mismatch", PATIENCE)
        .await;
    member
        .wait_for_log(&format!("{:x}", foreign.cluster), PATIENCE)
        .await;
    // Half a snapshot: promised are more bytes than come.
    let body = who.snapshot(term, index, &members, &[7; 9000]);
    let mut half = who.head("/raft/snapshot", body.len() + 5000);
    half.extend_from_slice(&body);
    let snap = member.data_dir().join("member/snap");
    let names = || -> Vec<_> {
        let names = std::fs::read_dir(&snap).expect("a folder").flatten();
        let mut names: Vec<_> = names.map(|entry| entry.file_name()).collect();
        names.sort();
        names
    };
    let files = names();
    send(&who.url, &half, true).await;
    member
        .wait_for_log("failed to save incoming database snapshot", PATIENCE)
        .await;
    eventually("half a snapshot is removed", PATIENCE, async || {
        (names() == files).then_some(())
    })
    .await;
    // Whole ones: of garbage, of another cluster, and of another state than was promised.
    let other = Cluster::builder().members(1).start().await;
    put(&other.client(0), "k", "other").await;
    other.member(0).terminate().await;
    let database =
        std::fs::read(other.member(0).data_dir().join("member/snap/db")).expect("a file");
    let applied = applied_in(&other.member(0).data_dir().join("member/snap/db"));
    for (index, database, why) in [
        (index, &[7; 9000][..], "not a usable database file"),
        (index, &database, "the raft snapshot it came with"),
        (applied, &database, "a cluster without this member"),
    ] {
        let body = who.snapshot(term, index, &members, database);
        let answer = who.post("/raft/snapshot", &body).await;
        assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
        assert!(answer.contains(why), "{answer}");
        member.wait_for_log(why, PATIENCE).await;
        assert_eq!(names(), files);
    }
    // Each is counted, with the sender as far as it was known: ME-18, ME-19.
    let sender = format!("{:x}", who.from);
    let page = http_get(member.endpoint(), "/metrics").await;
    for (family, from, count) in [
        ("etcd_network_peer_received_failures_total", "unknown", 1),
        (
            "etcd_network_snapshot_receive_failures",
            "UNKNOWN_SNAPSHOT_SENDER",
            1,
        ),
        ("etcd_network_snapshot_receive_failures", &sender, 4),
    ] {
        let line = format!("{family}{{From=\"{from}\"}} {count}\n");
        assert!(page.contains(&line), "{line}: {page}");
    }
    assert!(!page.contains("etcd_network_snapshot_receive_success{"));
    // Nothing of all that changed anything.
    let after = statuses(&cluster).await;
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(before.raft_term, after.raft_term);
        assert_eq!(before.leader, after.leader);
        assert_eq!(
            before.header.as_ref().map(|h| h.revision),
            after.header.as_ref().map(|h| h.revision)
        );
    }
    assert_eq!(cluster.hash_kv_all(0).await, hash);
    assert_eq!(
        get(&cluster.client(victim), "k3").await.as_deref(),
        Some("v")
    );
}

/// From the leader's own ID, at its term and at the right place, so that raft takes it: the member names what it
/// cannot apply and ends, its data as it was; the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn an_entry_of_an_unknown_kind_ends_the_member_and_changes_no_data() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().members(3).start().await;
    for n in 0..20 {
        put(&cluster.client(0), &format!("k{n}"), "v").await;
    }
    let leader = cluster.leader().await;
    let victim = (leader + 1) % 3;
    let member = cluster.member(victim);
    let status = statuses(&cluster).await;
    let who = Who {
        url: member.peer_url().to_owned(),
        cluster: status[0].header.as_ref().expect("a header").cluster_id,
        from: id(&status[leader]),
        to: id(&status[victim]),
    };
    let (term, last) = (status[victim].raft_term, status[victim].raft_index);
    // The leader stands still, so that it does not speak in between.
    cluster.member(leader).stop_signal();
    let message = Message {
        msg_type: MessageType::MsgApp.into(),
        to: who.to,
        from: who.from,
        term,
        log_term: term,
        index: last,
        commit: last + 1,
        entries: vec![Entry {
            entry_type: 9,
            term,
            index: last + 1,
            data: b"future".as_slice().into(),
        }],
        ..Message::default()
    };
    who.post("/raft", &message.encode_to_vec()).await;
    eventually("the member ends", PATIENCE, async || member.exited()).await;
    let named = "its type is 9";
    assert!(member.log_contains(named), "{}", member.log_tail(2_000));
    cluster.member(leader).cont();
    // It refuses again, by the same name, and changes no data.
    let file = member.data_dir().join("member/snap/db");
    let revision = newest_in(&file);
    member.start();
    let _status = member.exit(PATIENCE).await;
    assert!(member.log_contains(named), "{}", member.log_tail(2_000));
    assert_eq!(newest_in(&file), revision);
    accepted(&cluster.client_all(), "goes on").await;
}
