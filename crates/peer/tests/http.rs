//! The peer port as raw requests see it: the table of statuses, in the order of the checks, and the limits.

mod common;

use std::time::{Duration, Instant};

use common::*;
use ferrite_proto::raftpb::{Message, MessageType};
use prost::Message as _;

const OURS: &str =
    "X-Server-Version: 3.7.1\r\nX-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: cafe\r\n";
const OTHER_CLUSTER: &str =
    "X-Server-Version: 3.7.1\r\nX-Min-Cluster-Version: 3.0.0\r\nX-Etcd-Cluster-ID: CAFE\r\n";
const TOO_OLD: &str =
    "X-Server-Version: 2.3.8\r\nX-Min-Cluster-Version: 2.1.0\r\nX-Etcd-Cluster-ID: cafe\r\n";
const TOO_NEW: &str =
    "X-Server-Version: 4.0.0\r\nX-Min-Cluster-Version: 3.8.0\r\nX-Etcd-Cluster-ID: cafe\r\n";

async fn ask(member: &Member, method: &str, path: &str, headers: &str, body: &[u8]) -> String {
    let mut request = format!(
        "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    raw(member.addr, &request).await
}

/// Status, body, and whether the cluster header is there.
async fn check(
    member: &Member,
    (method, path, headers, body): (&str, &str, &str, &[u8]),
    (status, text, cluster): (u16, &str, bool),
) {
    let answer = ask(member, method, path, headers, body).await;
    let (head, got) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let what = format!("{method} {path} with {headers:?} gave {answer:?}");
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{what}");
    assert_eq!(got, text, "{what}");
    assert_eq!(head.contains("x-etcd-cluster-id: cafe"), cluster, "{what}");
    if status == 405 {
        let allow = if path.contains("stream") {
            "allow: GET"
        } else {
            "allow: POST"
        };
        assert!(head.contains(allow), "{what}");
    }
    if path.contains("stream") && status != 405 {
        assert!(head.contains("x-server-version: 3.7.1"), "{what}");
    }
}

fn framed(msg: &Message) -> Vec<u8> {
    let mut out = (msg.encoded_len() as u64).to_be_bytes().to_vec();
    out.extend(msg.encode_to_vec());
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statuses_and_bodies() {
    let a = Member::start(0xab).await;
    a.node.removed.lock().push(0xdead);
    let refused = ["incompatible version\n", "cluster ID mismatch\n"];
    for path in ["/raft", "/raft/snapshot"] {
        check(
            &a,
            ("GET", path, "", b""),
            (405, "Method Not Allowed\n", false),
        )
        .await;
        check(&a, ("POST", path, "", b""), (412, refused[0], true)).await;
        check(&a, ("POST", path, TOO_OLD, b""), (412, refused[0], true)).await;
        check(&a, ("POST", path, TOO_NEW, b""), (412, refused[0], true)).await;
        check(
            &a,
            ("POST", path, OTHER_CLUSTER, b""),
            (412, refused[1], true),
        )
        .await;
    }
    let msg = |from, to| Message {
        msg_type: MessageType::MsgHeartbeat as i32,
        from,
        to,
        term: 1,
        ..Default::default()
    };
    let post = |bytes: Vec<u8>| ("POST", "/raft", OURS, bytes);
    let cases = [
        (
            post(vec![0xff; 5]),
            (400, "error unmarshalling raft message\n"),
        ),
        (
            post(msg(0xdead, 0xab).encode_to_vec()),
            (
                403,
                r#"{"message":"cannot process message from removed member"}"#,
            ),
        ),
        (
            post(msg(1, 2).encode_to_vec()),
            (
                403,
                r#"{"message":"cannot process message to mismatch member"}"#,
            ),
        ),
        (post(msg(1, 0xab).encode_to_vec()), (204, "")),
    ];
    for ((method, path, headers, body), (status, text)) in cases {
        check(&a, (method, path, headers, &body), (status, text, true)).await;
    }
    assert_eq!(a.node.received.lock().len(), 1);
    a.node
        .full
        .store(true, std::sync::atomic::Ordering::Relaxed);
    let body = msg(1, 0xab).encode_to_vec();
    check(
        &a,
        ("POST", "/raft", OURS, &body),
        (500, "error processing raft message\n", true),
    )
    .await;
    a.node
        .full
        .store(false, std::sync::atomic::Ordering::Relaxed);

    let wrong_type = framed(&msg(1, 0xab));
    check(
        &a,
        ("POST", "/raft/snapshot", OURS, &wrong_type),
        (400, "wrong raft message type\n", true),
    )
    .await;
    check(
        &a,
        ("POST", "/raft/snapshot", OURS, b"abc"),
        (
            400,
            "failed to decode raft message (unexpected EOF)\n",
            true,
        ),
    )
    .await;
    let long = (65u64 << 20).to_be_bytes();
    let answer = ask(&a, "POST", "/raft/snapshot", OURS, &long).await;
    assert!(
        answer.contains(" 400 ")
            && answer.contains("failed to decode raft message (rafthttp: error limit exceeded"),
        "{answer}"
    );

    let stream = "/raft/stream/message/";
    let to = |id: &str| format!("{OURS}X-Raft-To: {id}\r\n");
    check(
        &a,
        ("POST", "/raft/stream/message/1", "", b""),
        (405, "Method Not Allowed\n", false),
    )
    .await;
    check(
        &a,
        ("GET", "/raft/stream/message/1", "", b""),
        (412, refused[0], true),
    )
    .await;
    check(
        &a,
        ("GET", "/raft/stream/message/1", OTHER_CLUSTER, b""),
        (412, refused[1], true),
    )
    .await;
    check(
        &a,
        ("GET", "/raft/stream/msgappv2/1", OURS, b""),
        (404, "invalid path\n", true),
    )
    .await;
    check(
        &a,
        ("GET", "/raft/stream/message", OURS, b""),
        (404, "invalid path\n", true),
    )
    .await;
    check(
        &a,
        ("GET", "/raft/stream/message/zz", OURS, b""),
        (404, "invalid from\n", true),
    )
    .await;
    check(
        &a,
        ("GET", "/raft/stream/message/dead", OURS, b""),
        (410, "removed member\n", true),
    )
    .await;
    check(
        &a,
        ("GET", "/raft/stream/message/77", &to("ab"), b""),
        (404, "error sender not found\n", true),
    )
    .await;
    a.transport
        .add_peer(0x78, &["http://127.0.0.1:1".to_owned()]);
    let path = format!("{stream}78");
    check(
        &a,
        ("GET", &path, OURS, b""),
        (412, "to field mismatch\n", true),
    )
    .await;
    check(
        &a,
        ("GET", &path, &to("ac"), b""),
        (412, "to field mismatch\n", true),
    )
    .await;

    check(
        &a,
        ("GET", "/raft/other", "", b""),
        (404, "404 page not found\n", false),
    )
    .await;
    let answer = ask(&a, "DELETE", "/raft/probing", "", b"").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(
        answer.contains("content-type: text/plain; charset=utf-8\r\n"),
        "{answer}"
    );
    assert!(
        answer.contains("{\"OK\":true,\"Now\":\"20") && answer.ends_with("Z\"}\n"),
        "{answer}"
    );
    assert!(
        ask(&a, "GET", "/members", "", b"")
            .await
            .ends_with("{\"path\":\"/members\"}")
    );
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_sends_headers_and_heartbeats_and_is_replaced_by_a_newer_one() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let options = Options {
        read_timeout: Duration::from_millis(600),
        ..Options::default()
    };
    let a = Member::start_with(0xab, options).await;
    a.transport
        .add_peer(0x78, &["http://127.0.0.1:1".to_owned()]);
    let request =
        format!("GET /raft/stream/message/78 HTTP/1.1\r\nHost: x\r\n{OURS}X-Raft-To: ab\r\n\r\n");
    let mut first = tokio::net::TcpStream::connect(a.addr)
        .await
        .expect("connect");
    first.write_all(request.as_bytes()).await.expect("written");
    let mut got = Vec::new();
    let mut beats = 0;
    let begun = Instant::now();
    while beats < 5 {
        assert!(
            begun.elapsed() < Duration::from_secs(5),
            "five heartbeats in a second"
        );
        let n = first.read_buf(&mut got).await.expect("read");
        assert!(
            n > 0,
            "the stream stays open without a word from the reader"
        );
        let beat = b"A\r\n\x00\x00\x00\x00\x00\x00\x00\x02\x08\x08\r\n";
        beats = got.windows(beat.len()).filter(|w| w == beat).count();
    }
    assert!(
        begun.elapsed() > Duration::from_millis(900),
        "at their period, past the read timeout"
    );
    let head = String::from_utf8_lossy(&got);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("transfer-encoding: chunked"));
    assert!(!head.contains("content-type"), "{head}");

    let mut second = tokio::net::TcpStream::connect(a.addr)
        .await
        .expect("connect");
    second.write_all(request.as_bytes()).await.expect("written");
    let closed = tokio::time::timeout(Duration::from_secs(5), async {
        let mut rest = Vec::new();
        while first.read_buf(&mut rest).await.is_ok_and(|n| n > 0) {}
    });
    closed.await.expect("the older stream ends");
    let mut byte = [0];
    second
        .read_exact(&mut byte)
        .await
        .expect("the newer stream lives");
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_and_slow_connections_are_closed() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let options = Options {
        read_timeout: Duration::from_millis(300),
        ..Options::default()
    };
    let a = Member::start_with(0xab, options).await;
    let mut idle = tokio::net::TcpStream::connect(a.addr)
        .await
        .expect("connect");
    let mut slow = tokio::net::TcpStream::connect(a.addr)
        .await
        .expect("connect");
    let mut body = tokio::net::TcpStream::connect(a.addr)
        .await
        .expect("connect");
    let head = format!("POST /raft HTTP/1.1\r\nHost: x\r\n{OURS}Content-Length: 10\r\n\r\n1234");
    body.write_all(head.as_bytes()).await.expect("written");
    let begun = Instant::now();
    let mut answer = Vec::new();
    let limit = Duration::from_secs(5);
    tokio::time::timeout(limit, body.read_to_end(&mut answer))
        .await
        .expect("in time")
        .expect("read");
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(
        answer.contains(" 400 ") && answer.contains("error reading raft message"),
        "{answer}"
    );
    let mut sink = Vec::new();
    let closed = tokio::time::timeout(limit, idle.read_to_end(&mut sink)).await;
    assert!(closed.is_ok(), "an idle connection is closed");
    // One byte of header at a time does not keep a connection either.
    let dripping = tokio::time::timeout(limit, async {
        for byte in b"GET /raft/probing HTTP/1.1\r\nHost: x\r\nX-Long: "
            .iter()
            .chain(std::iter::repeat(&b'x'))
        {
            if slow.write_all(&[*byte]).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    dripping.await.expect("a dripping connection is closed");
    assert!(begun.elapsed() < limit * 2);
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_takes_nothing_loses_its_stream() {
    use tokio::io::AsyncWriteExt;
    record_logs();
    let options = Options {
        read_timeout: Duration::from_millis(500),
        ..Options::default()
    };
    let a = Member::start_with(0xab, options).await;
    a.transport
        .add_peer(0x79, &["http://127.0.0.1:1".to_owned()]);
    let request =
        format!("GET /raft/stream/msgapp/79 HTTP/1.1\r\nHost: x\r\n{OURS}X-Raft-To: ab\r\n\r\n");
    let mut stream = tokio::net::TcpStream::connect(a.addr)
        .await
        .expect("connect");
    stream.write_all(request.as_bytes()).await.expect("written");
    let writer = [
        ("remote-peer-id", "79"),
        ("stream-writer-type", "stream MsgApp v2"),
    ];
    eventually("attached", || {
        log_count(&writer, "established TCP streaming") == 1
    })
    .await;
    let before = a.node.unreachable.lock().get(&0x79).copied().unwrap_or(0);
    let append = Message {
        entries: vec![ferrite_proto::raftpb::Entry {
            data: vec![1; 1 << 20].into(),
            ..Default::default()
        }],
        ..a.message(MessageType::MsgApp, 0x79)
    };
    a.transport.send(vec![append; 40]);
    assert!(a.transport.stats().members[0].queued > 0);
    within(Duration::from_secs(4), "lost", &mut || {
        log_count(&writer, "lost TCP streaming connection with remote peer") == 1
    })
    .await;
    let line = &log_lines(&writer, "lost TCP streaming")[0];
    assert!(line.fields["error"].contains("i/o timeout"), "{line:?}");
    assert!(
        a.node.unreachable.lock()[&0x79] > before,
        "what waited is reported"
    );
    assert_eq!(a.transport.stats().members[0].queued, 0, "and dropped");
    a.stop().await;
}
