//! Databases between members: whole and durable, or refused without a trace.

mod common;

use std::fs;
use std::time::Duration;

use common::*;
use ferrite_proto::raftpb::{Message, MessageType, Snapshot, SnapshotMetadata};
use prost::Message as _;

fn snapshot(from: &Member, to: u64, index: u64) -> Message {
    let mut msg = from.message(MessageType::MsgSnap, to);
    msg.snapshot = Some(Snapshot {
        metadata: Some(SnapshotMetadata {
            index,
            term: 3,
            conf_state: None,
        }),
        ..Default::default()
    });
    msg
}

fn database(len: usize) -> Vec<u8> {
    (0..len as u32)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect()
}

fn files(member: &Member) -> Vec<String> {
    let dir = member.snap_dir.as_ref().expect("a directory").path();
    let mut names: Vec<String> = fs::read_dir(dir)
        .expect("readable")
        .map(|e| {
            e.expect("an entry")
                .file_name()
                .to_string_lossy()
                .into_owned()
        })
        .collect();
    names.sort();
    names
}

fn read(member: &Member, name: &str) -> Vec<u8> {
    fs::read(
        member
            .snap_dir
            .as_ref()
            .expect("a directory")
            .path()
            .join(name),
    )
    .expect("a file")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_megabytes_both_ways() {
    let (a, b) = (Member::start(1).await, Member::start(2).await);
    a.knows(&b);
    b.knows(&a);
    let db = database(7_654_321);
    for (from, to) in [(&a, &b), (&b, &a)] {
        *from.node.source.lock() = Some((db.clone(), db.len() as u64));
        from.transport.send(vec![snapshot(from, to.id, 0x1234)]);
        eventually("the report", || !from.node.snapshots.lock().is_empty()).await;
        assert_eq!(*from.node.snapshots.lock(), [(to.id, true)]);
        assert_eq!(files(to), ["0000000000001234.snap.db"]);
        assert!(
            read(to, "0000000000001234.snap.db") == db,
            "the bytes are the same"
        );
        let got = to.node.of_type(MessageType::MsgSnap);
        let data = got[0].snapshot.as_ref().map(|s| s.data.clone());
        assert_eq!(
            data.as_deref(),
            Some(&b"{\"membership\":1}"[..]),
            "the message is the opened one"
        );
    }
    let sent = &a.transport.stats().members[0];
    assert_eq!(
        (sent.snapshot_send_success, sent.snapshot_send_inflight),
        (1, 0)
    );
    assert_eq!(
        (
            sent.snapshot_receive_success,
            sent.snapshot_receive_seconds.count
        ),
        (1, 1)
    );

    // The same index again: what is there is kept, the sender succeeds.
    *a.node.source.lock() = Some((database(10), 10));
    a.transport.send(vec![snapshot(&a, 2, 0x1234)]);
    eventually("the second report", || a.node.snapshots.lock().len() == 2).await;
    assert_eq!(a.node.snapshots.lock()[1], (2, true));
    assert_eq!(files(&b), ["0000000000001234.snap.db"]);
    assert_eq!(read(&b, "0000000000001234.snap.db").len(), db.len());
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_cut_off_or_refused_is_reported_and_leaves_nothing() {
    record_logs();
    let a = Member::start(1).await;
    let b = Member::start(2).await;
    let other_cluster = Member::start_with(
        3,
        Options {
            cluster_id: 0xbad,
            ..Options::default()
        },
    )
    .await;
    let newer = Options {
        version: "4.1.0".into(),
        min_version: "4.0.0".into(),
        ..Options::default()
    };
    let newer = Member::start_with(4, newer).await;
    for to in [&b, &other_cluster, &newer] {
        a.knows(to);
    }
    let mut expected = Vec::new();

    // The file ends early.
    *a.node.source.lock() = Some((database(3_000_000), 5_000_000));
    a.transport.send(vec![snapshot(&a, 2, 9)]);
    expected.push((2, false));
    eventually("half a body", || *a.node.snapshots.lock() == expected).await;

    *a.node.source.lock() = Some((database(3_000_000), 3_000_000));
    for to in [3, 4] {
        a.transport.send(vec![snapshot(&a, to, 9)]);
        expected.push((to, false));
        eventually("a refusal", || *a.node.snapshots.lock() == expected).await;
    }
    for (to, reason) in [("3", "cluster ID mismatch"), ("4", "incompatible version")] {
        let fields = [("remote-peer-id", to), ("error", reason)];
        assert_eq!(
            log_count(&fields, "failed to send database snapshot"),
            1,
            "{reason}"
        );
    }
    // The receiver's queue is full after the file was saved.
    b.node
        .full
        .store(true, std::sync::atomic::Ordering::Relaxed);
    a.transport.send(vec![snapshot(&a, 2, 10)]);
    expected.push((2, false));
    eventually("a full queue", || *a.node.snapshots.lock() == expected).await;
    b.node
        .full
        .store(false, std::sync::atomic::Ordering::Relaxed);
    // No database at all, and a member nobody knows.
    *a.node.source.lock() = None;
    a.transport
        .send(vec![snapshot(&a, 2, 11), snapshot(&a, 77, 11)]);
    expected.push((77, false));
    expected.push((2, false));
    eventually("nothing to send", || *a.node.snapshots.lock() == expected).await;

    eventually("temporary files are gone", || {
        files(&b) == ["000000000000000a.snap.db"]
    })
    .await;
    assert!(files(&other_cluster).is_empty() && files(&newer).is_empty());
    assert!(b.node.received.lock().is_empty());
    assert!(
        !a.node
            .told_removed
            .load(std::sync::atomic::Ordering::Relaxed)
    );

    // A member that knows us as removed says so before it takes the database, and we stop.
    b.node.removed.lock().push(1);
    *a.node.source.lock() = Some((database(3_000_000), 3_000_000));
    a.transport.send(vec![snapshot(&a, 2, 12)]);
    expected.push((2, false));
    eventually("403", || *a.node.snapshots.lock() == expected).await;
    assert!(
        a.node
            .told_removed
            .load(std::sync::atomic::Ordering::Relaxed)
    );
    assert_eq!(files(&b), ["000000000000000a.snap.db"]);
    // Each failure is counted on both sides, with the sender's name as far as it was heard.
    let sent = a.transport.stats().members;
    for (id, failures) in [(2, 4), (3, 1), (4, 1)] {
        let to = sent.iter().find(|member| member.id == id).expect("known");
        assert_eq!(to.snapshot_send_failures, failures, "to {id}");
        assert!(to.sent_failures >= failures, "to {id}: {to:?}");
        assert_eq!(
            (to.snapshot_send_success, to.snapshot_send_inflight),
            (0, 0)
        );
        assert_eq!(to.snapshot_send_seconds.count, 0, "to {id}");
    }
    let received = b.transport.stats();
    let from = received.members.iter().find(|member| member.id == 1);
    let from = from.expect("it has been heard of");
    // Cut off, a full queue, and one whom this member knows as removed: that one before its name counts.
    assert_eq!(
        (
            from.snapshot_receive_failures,
            from.snapshot_receive_success
        ),
        (3, 0)
    );
    assert_eq!(
        other_cluster
            .transport
            .stats()
            .unknown_snapshot_receive_failures,
        1
    );
    for member in [a, b, other_cluster, newer] {
        member.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sender_that_dies_or_stalls_leaves_nothing() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let options = Options {
        read_timeout: Duration::from_millis(500),
        ..Options::default()
    };
    let b = Member::start_with(2, options).await;
    let a = Member::start(1).await;
    let msg = snapshot(&a, 2, 5);
    let mut request = b"POST /raft/snapshot HTTP/1.1\r\nHost: x\r\nX-Server-Version: 3.5.1\r\n\
        X-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: cafe\r\nContent-Length: 1000000\r\n\r\n"
        .to_vec();
    request.extend((msg.encoded_len() as u64).to_be_bytes());
    request.extend(msg.encode_to_vec());
    request.extend(database(5000));

    let mut dying = tokio::net::TcpStream::connect(b.addr)
        .await
        .expect("connect");
    dying.write_all(&request).await.expect("written");
    eventually("a temporary file", || {
        files(&b).iter().any(|f| f.starts_with("tmp"))
    })
    .await;
    drop(dying);
    eventually("it is removed", || files(&b).is_empty()).await;

    let mut stalling = tokio::net::TcpStream::connect(b.addr)
        .await
        .expect("connect");
    stalling.write_all(&request).await.expect("written");
    let mut answer = Vec::new();
    let read = stalling.read_to_end(&mut answer);
    tokio::time::timeout(Duration::from_secs(5), read)
        .await
        .expect("a deadline")
        .expect("read");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(
        answer.contains(" 500 ") && answer.contains("failed to save KV snapshot ("),
        "{answer}"
    );
    eventually("nothing is left", || files(&b).is_empty()).await;

    // The way is free for the next one.
    a.knows(&b);
    *a.node.source.lock() = Some((database(5000), 5000));
    a.transport.send(vec![snapshot(&a, 2, 5)]);
    eventually("the next one", || *a.node.snapshots.lock() == [(2, true)]).await;
    a.stop().await;
    b.stop().await;
}

/// KB-12: two in quick succession.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_at_once_are_handed_on_one_after_the_other() {
    let (a, c, b) = (
        Member::start(1).await,
        Member::start(3).await,
        Member::start(2).await,
    );
    // Long enough for the other one to arrive, if it were let in meanwhile.
    *b.node.look.lock() = Duration::from_secs(1);
    for (sender, index) in [(&a, 50), (&c, 51)] {
        sender.knows(&b);
        let db = database(2_000_000 + index as usize);
        *sender.node.source.lock() = Some((db.clone(), db.len() as u64));
        sender.transport.send(vec![snapshot(sender, 2, index)]);
    }
    eventually("both", || b.node.of_type(MessageType::MsgSnap).len() == 2).await;
    assert_eq!(
        files(&b),
        ["0000000000000032.snap.db", "0000000000000033.snap.db"]
    );
    assert_eq!(read(&b, "0000000000000033.snap.db").len(), 2_000_051);
    assert!(
        !b.node.overlapped.load(std::sync::atomic::Ordering::SeqCst),
        "two databases were taken in at the same time"
    );
    for member in [a, b, c] {
        member.stop().await;
    }
}
