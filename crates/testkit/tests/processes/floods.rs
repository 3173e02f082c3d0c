//! What costs whoever does it, and nobody else: connections by the hundred, half a handshake, endless headers,
//! calls begun and dropped, pings, garbage. Another client is served meanwhile.

use std::time::{Duration, Instant};

use ferrite_testkit::{Client, Cluster, PATIENCE, Pki, Wanted, eventually, pb};
use prost::Message as _;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::wire::{
    self, CONTINUATION, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, RESET, SETTINGS, Wire,
    call, connect, frame,
};
use crate::{beside_others, put};

/// Descriptors of a member that is to run out of them: 150 stay its own, and so many are for clients.
const DESCRIPTORS: u64 = 250;
const PLACES: usize = 100;

/// The server's answer is none, or its end.
async fn ends(stream: &mut TcpStream) -> bool {
    wire::to_the_end(stream, PATIENCE).await.is_some()
}

/// A client is served while something goes on, until it has been `times` times.
async fn served(client: &Client, what: &str, times: usize) -> Duration {
    let mut longest = Duration::ZERO;
    for n in 0..times {
        let start = Instant::now();
        put(client, &format!("{what}{n}"), "v").await;
        longest = longest.max(start.elapsed());
    }
    longest
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_by_the_hundred_cost_those_that_ask_nothing() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().descriptors(DESCRIPTORS).start().await;
    let member = cluster.member(0);
    let client = cluster.client(0);
    put(&client, "before", "v").await;
    // A client that asked and keeps its connection, with a call under way.
    let mut watching = Wire::open(member.endpoint()).await;
    let health = call("/grpc.health.v1.Health/Watch", &[]);
    watching.begin(1, &health, &wire::message(false, &[])).await;
    watching.next_of(wire::DATA).await.expect("an answer");
    let mut silent = Vec::new();
    for _ in 0..3 * PLACES / 2 {
        silent.push(connect(member.endpoint()).await);
    }
    let newcomer = cluster.client(0);
    served(&newcomer, "new", 20).await;
    served(&client, "old", 20).await;
    member
        .wait_for_log("too many client connections", PATIENCE)
        .await;
    for stream in silent.iter_mut().take(PLACES / 3) {
        assert!(ends(stream).await, "the first lose their places");
    }
    watching
        .begin(
            3,
            &call("/etcdserverpb.KV/Range", &[]),
            &wire::message(false, b"\x0a\x01a"),
        )
        .await;
    assert_eq!(watching.answer(3).await.0["grpc-status"], "0");
    let open = std::fs::read_dir(format!("/proc/{}/fd", member.pid().expect("it runs")))
        .expect("Linux")
        .count();
    assert!(open < PLACES + 60, "{open} descriptors");
    drop(silent);
    served(&cluster.client(0), "after", 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn too_few_descriptors_are_refused_at_start() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().descriptors(150).build();
    cluster.member(0).start();
    let status = cluster.member(0).exit(PATIENCE).await;
    assert_eq!(status.code(), Some(1));
    let said = "file descriptor limit of etcd process is too low; please set higher";
    assert!(cluster.member(0).log_contains(said));
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_handshake_lasts_ten_seconds() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(dir.path(), "ca");
    let paper = pki.issue("server", &Wanted::hosts(&["127.0.0.1"]));
    let flags = [
        format!("--cert-file={}", paper.cert),
        format!("--key-file={}", paper.key),
        format!("--peer-cert-file={}", paper.cert),
        format!("--peer-key-file={}", paper.key),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let cluster = Cluster::builder()
        .encrypted_clients(pki.client(None))
        .encrypted_peers()
        .extra_args(&flags)
        .start()
        .await;
    let member = cluster.member(0);
    let start = Instant::now();
    let mut half = Vec::new();
    for begun in [&b""[..], b"\x16\x03\x01\x02\x00\x01"] {
        for url in [member.endpoint(), member.peer_url()] {
            for _ in 0..20 {
                let mut stream = connect(url).await;
                stream.write_all(begun).await.expect("sent");
                half.push(stream);
            }
        }
    }
    served(&cluster.client(0), "meanwhile", 20).await;
    for stream in &mut half {
        assert!(ends(stream).await);
    }
    assert!(
        start.elapsed() > Duration::from_secs(9),
        "{:?}",
        start.elapsed()
    );
    served(&cluster.client(0), "after", 3).await;
}

/// Silence on the peer port is bounded by a flag that has a least value of five seconds.
#[tokio::test(flavor = "multi_thread")]
async fn silence_between_members_ends_when_the_flag_says_so() {
    let _turn = beside_others().await;
    let lasts = async |flag: &str| {
        let cluster = Cluster::builder().extra_args(&[flag]).start().await;
        let mut stream = connect(cluster.member(0).peer_url()).await;
        let start = Instant::now();
        stream.write_all(b"GET /version HT").await.expect("sent");
        assert!(ends(&mut stream).await);
        start.elapsed()
    };
    let (short, long) = tokio::join!(
        lasts("--raft-read-timeout=10ms"),
        lasts("--raft-read-timeout=9s")
    );
    let seconds = Duration::from_secs;
    assert!(
        short >= seconds(5) && long >= seconds(9),
        "{short:?} {long:?}"
    );
    assert!(short < long);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_of_members_are_limited_too() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder()
        .members(3)
        .descriptors(DESCRIPTORS)
        .start()
        .await;
    let member = cluster.member(0);
    let mut flood = Vec::new();
    for _ in 0..3 * PLACES / 2 {
        flood.push(connect(member.peer_url()).await);
        flood.push(connect(member.endpoint()).await);
    }
    served(&cluster.client(0), "meanwhile", 20).await;
    assert!(member.log_contains("more than 100 connections"));
    drop(flood);
    cluster.wait_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_bytes_end_their_connection_and_no_other() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().start().await;
    let member = cluster.member(0);
    let endpoint = member.endpoint();
    let client = cluster.client(0);
    put(&client, "before", "v").await;
    let before = member.resident_bytes();
    let load = async {
        let mut longest = Duration::ZERO;
        for round in 0..10 {
            longest = longest.max(served(&client, &format!("during{round}-"), 10).await);
        }
        longest
    };
    let bad = async {
        // Garbage, of all lengths.
        let mut noise = 1_u64;
        for length in [1, 30, 5_000, 300_000] {
            let mut bytes = Vec::with_capacity(length);
            while bytes.len() < length {
                noise = noise
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                bytes.push((noise >> 56) as u8 | 0x80);
            }
            bytes.push(0);
            let answer = wire::told(endpoint, &bytes).await;
            assert!(answer.is_empty(), "{length}");
            let mut wire = Wire::open(endpoint).await;
            wire.send(&frame(
                HEADERS,
                END_HEADERS | END_STREAM,
                1,
                &bytes[..length.min(16_000)],
            ))
            .await;
            wire.send(&bytes).await;
            assert!(wire.next_of(GOAWAY).await.is_some() || wire.next().await.is_none());
        }
        // A request line and headers of HTTP/1 without end.
        let long = [&b"GET /"[..], &vec![b'a'; 100_000]].concat();
        assert!(wire::told(endpoint, &long).await.is_empty());
        let many = [&b"GET / HTTP/1.1\r\n"[..], &b"a: b\r\n".repeat(200_000)].concat();
        let answer = wire::told(endpoint, &many).await;
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"),
            "{answer:?}"
        );
        let giant = [&b"GET / HTTP/1.1\r\nx: "[..], &vec![b'x'; 2_000_000]].concat();
        let answer = wire::told(endpoint, &giant).await;
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"),
            "{answer:?}"
        );
        // A header block of HTTP/2 without end.
        let mut endless = Wire::open(endpoint).await;
        endless
            .send(&frame(HEADERS, 0, 1, &call("/a/b", &[])))
            .await;
        let piece = frame(
            CONTINUATION,
            0,
            1,
            &wire::block(&[("x", &"y".repeat(120))]).repeat(100),
        );
        let mut sent = 0;
        while sent < 64 << 20 && endless.send(&piece).await {
            sent += piece.len();
        }
        assert!(sent < 64 << 20, "endless headers were read to their end");
        // Calls that are begun and dropped at once.
        let mut rapid = Wire::open(endpoint).await;
        let dropped = |stream| {
            let head = frame(
                HEADERS,
                END_HEADERS,
                stream,
                &call("/etcdserverpb.Watch/Watch", &[]),
            );
            [head, frame(RESET, 0, stream, &[0, 0, 0, 8])].concat()
        };
        let mut stream = 1;
        while stream < 200_000 && rapid.send(&dropped(stream)).await {
            stream += 2;
        }
        let goodbye = rapid.next_of(GOAWAY).await;
        if let Some(goodbye) = &goodbye {
            assert_eq!(wire::goodbye(goodbye).0, 11, "{goodbye:?}");
        }
        // Pings and settings by the ten thousand.
        for kind in [PING, SETTINGS] {
            let mut flood = Wire::open(endpoint).await;
            let payload: &[u8] = if kind == PING { &[1; 8] } else { &[] };
            let many = frame(kind, 0, 0, payload).repeat(1_000);
            for _ in 0..50 {
                if !flood.send(&many).await {
                    break;
                }
            }
        }
    };
    let (longest, ()) = tokio::join!(load, bad);
    assert!(longest < Duration::from_secs(5), "a put took {longest:?}");
    assert_eq!(member.exited(), None);
    let grown = eventually("memory is given back", PATIENCE, async || {
        let grown = member.resident_bytes().saturating_sub(before);
        (grown < 96 << 20).then_some(grown)
    })
    .await;
    eprintln!("longest put {longest:?}; {grown} bytes more");
}

/// Whoever asks for much and takes none of it has a place for some of it, and no more: then its connection goes, and
/// nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_takes_end_the_connection_they_were_asked_on() {
    const VALUE_BYTES: usize = 1 << 20;
    const VALUES: usize = 5;
    const LIMIT_BYTES: u64 = 256 << 20;
    const CALLS: u32 = 50;
    let _turn = beside_others().await;
    let limit = LIMIT_BYTES.to_string();
    let cluster = Cluster::builder()
        .extra_args(&["--memory-limit-bytes", limit.as_str()])
        .start()
        .await;
    let member = cluster.member(0);
    let client = cluster.client(0);
    let large = || pb::RangeRequest {
        key: "large".into(),
        range_end: "largf".into(),
        ..Default::default()
    };
    for number in 0..VALUES {
        let request = pb::PutRequest {
            key: format!("large{number}").into(),
            value: vec![7; VALUE_BYTES].into(),
            ..Default::default()
        };
        client.kv().put(request).await.expect("a put");
    }
    let message = wire::message(false, &large().encode_to_vec());
    let head = call("/etcdserverpb.KV/Range", &[]);
    // What a stream may be sent before more is asked for: nothing, or the smallest piece.
    for window in [0_u32, 1] {
        let mut hoarders = Vec::new();
        for _ in 0..4 {
            let mut hoarder = Wire::open(member.endpoint()).await;
            let setting = [&[0, 4][..], &window.to_be_bytes()].concat();
            hoarder.send(&frame(SETTINGS, 0, 0, &setting)).await;
            for number in 0..CALLS {
                hoarder.begin(1 + 2 * number, &head, &message).await;
            }
            hoarders.push(hoarder);
        }
        // Of a thousand megabytes asked for, a quarter of the limit is kept: the first connections go.
        for hoarder in hoarders.iter_mut().take(2) {
            let end = async { while hoarder.next().await.is_some() {} };
            tokio::time::timeout(PATIENCE, end)
                .await
                .expect("a connection that takes nothing ends");
        }
        for _ in 0..5 {
            let found = client.kv().range(large()).await.expect("others read");
            assert_eq!(found.into_inner().kvs.len(), VALUES);
        }
        served(&client, "beside", 20).await;
    }
    member
        .wait_for_log("does not take what it asked for", PATIENCE)
        .await;
    let peak = member.peak_bytes();
    assert!(peak < LIMIT_BYTES * 3 / 2, "{peak} bytes");
    assert_eq!(member.exited(), None);
}
