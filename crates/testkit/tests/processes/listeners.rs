//! What members listen on, what is served there, and what it is told by signals and tells of itself.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

use ferrite_testkit::health::HealthCheckRequest;
use ferrite_testkit::tls::{ClientTls, TlsInfo};
use ferrite_testkit::{
    Cluster, Kind, PATIENCE, Pki, Ports, Wanted, eventually, oracle, our_program, pb, run,
};
use socket2::{Domain, Socket, Type};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

use crate::wire::{self, Answer, GOAWAY, PING, Wire, asked, call, connect, frame, message, told};
use crate::{beside_others, put};

const WATCH_HEALTH: &str = "/grpc.health.v1.Health/Watch";
const RANGE: &str = "/etcdserverpb.KV/Range";
/// A request for the key `a`.
const KEY_A: &[u8] = b"\x0a\x01a";

async fn one(arguments: &[&str]) -> Cluster {
    Cluster::builder().extra_args(arguments).start().await
}

fn kinds() -> Vec<Kind> {
    let mut kinds = vec![Kind::Ferrite];
    kinds.extend(oracle().map(|_| Kind::Etcd351));
    kinds
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_http_is_answered_as_the_original_does() {
    let _turn = beside_others().await;
    let flags = [
        "--host-whitelist=good,localhost,::1",
        "--cors=http://a.example:80,https://b.example:443",
    ];
    let mut transcripts = Vec::new();
    for kind in kinds() {
        let cluster = Cluster::builder()
            .kinds(&[kind])
            .extra_args(&flags)
            .start()
            .await;
        let member = cluster.member(0);
        let mut answers = Vec::new();
        for (method, path, more) in [
            ("GET", "/health", ""),
            ("GET", "/health?serializable=true", ""),
            ("GET", "/health?exclude=NOSPACE&exclude=%43ORRUPT", ""),
            ("POST", "/health", "Content-Length: 0\r\n"),
            ("PATCH", "/health", ""),
            ("POST", "/version", "Content-Length: 0\r\n"),
            ("OPTIONS", "/health", ""),
            ("OPTIONS", "/nope", "Origin: http://a.example:80\r\n"),
            ("GET", "/health", "Origin: http://a.example:80\r\n"),
            ("GET", "/health", "Origin: http://a.example\r\n"),
            ("GET", "/nope", "Origin: https://b.example:443\r\n"),
            ("GET", "/health", "Host: good:1234\r\n"),
            ("GET", "/health", "Host: [::1]:2379\r\n"),
            ("GET", "/health", "Host: bad:2379\r\n"),
            ("GET", "/nope", "Host: bad\r\n"),
            ("GET", "http://bad/health", ""),
            ("GET", "/nope", ""),
            ("GET", "/v2/keys", ""),
            ("GET", "/health/", ""),
            ("GET", "//health", ""),
            ("GET", "/a/../health?serializable=true", ""),
            ("POST", "/debug/vars", "Content-Length: 0\r\n"),
            ("GET", "/debug/pprof/", ""),
            ("GET", "/healt%68", ""),
            ("OPTIONS", "*", ""),
        ] {
            let answer = asked(member.endpoint(), method, path, more).await;
            answers.push((format!("{method} {path} {more}"), answer));
        }
        for refused in [
            "GET /health HTTP/1.1\r\n\r\n",
            "GET /health HTTP/1.1\r\nHost: good\r\nHost: bad\r\n\r\n",
            "GET /health HTTP/1.0\r\nHost: good\r\nHost: good\r\n\r\n",
            "GET health HTTP/1.1\r\nHost: good\r\n\r\n",
            "GET /%zz HTTP/1.1\r\nHost: good\r\n\r\n",
        ] {
            let mut answer = Answer::of(&told(member.endpoint(), refused.as_bytes()).await);
            // The end of the connection is enough for Go, and it answers in the version that it knows best.
            answer.headers.remove("content-length");
            answer.status = answer.status.replace("HTTP/1.0", "HTTP/1.1");
            answers.push((refused.to_owned(), answer));
        }
        for foreign in [
            &b"\x00\x01\x02\r\n"[..],
            b"SSH-2.0-OpenSSH\r\n",
            b"GET nonsense\r\n\r\n",
            b"GET / HTTP/2.0\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        ] {
            let answer = told(member.endpoint(), foreign).await;
            assert!(answer.is_empty(), "{foreign:?}: {answer:?}");
        }
        let status = |n: usize| answers[n].1.status.clone();
        assert_eq!(status(0), "HTTP/1.1 200 OK");
        assert_eq!(answers[0].1.body, r#"{"health":"true","reason":""}"#);
        assert_eq!(answers[0].1.header("access-control-allow-origin"), None);
        let origin = answers[8].1.header("access-control-allow-origin");
        assert_eq!(origin, Some("http://a.example:80"));
        assert_eq!(status(13), "HTTP/1.1 421 Misdirected Request");
        assert!(answers[13].1.body.contains("--host-whitelist \"bad\""));
        transcripts.push(answers);
    }
    let mut all = transcripts.into_iter();
    let ours = all.next().expect("ours");
    for theirs in all {
        for (ours, theirs) in ours.iter().zip(theirs) {
            assert_eq!(*ours, theirs);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_of_health_say_which_and_why() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().members(2).start().await;
    let endpoint = cluster.member(0).endpoint();
    for path in ["/livez/", "/readyz/"] {
        let answer = wire::get(endpoint, path).await;
        assert_eq!(answer.status, "HTTP/1.1 404 Not Found", "{path}");
    }
    for path in ["/livez", "/readyz", "/livez/serializable_read"] {
        let answer = wire::get(endpoint, path).await;
        assert_eq!(
            (answer.body.as_str(), answer.status.as_str()),
            ("ok\n", "HTTP/1.1 200 OK")
        );
        assert_eq!(
            answer.header("content-type"),
            Some("text/plain; charset=utf-8")
        );
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
    let verbose = wire::get(endpoint, "/livez?verbose").await;
    assert_eq!(verbose.body, "[+]serializable_read ok\nok\n");
    let some = wire::get(
        endpoint,
        "/readyz?verbose=x&exclude=non_learner&exclude=nonsense",
    )
    .await;
    for line in ["[+]data_corruption ok\n", "[+]linearizable_read ok\n"] {
        assert!(some.body.contains(line), "{some:?}");
    }
    assert!(!some.body.contains("non_learner"), "{some:?}");
    cluster
        .member(0)
        .wait_for_log("some health checks cannot be excluded", PATIENCE)
        .await;
    let post = asked(endpoint, "POST", "/readyz", "Content-Length: 0\r\n").await;
    assert_eq!(post.status, "HTTP/1.1 405 Method Not Allowed");
    assert_eq!(post.header("allow"), Some("GET"));
    assert_eq!(
        wire::get(endpoint, "/livez/linearizable_read").await.body,
        "404 page not found\n"
    );

    // Without the other one there is no leader, and no read that needs one.
    cluster.member(1).kill9();
    let health = eventually("the leader is missed", PATIENCE, async || {
        let health = wire::get(endpoint, "/health").await;
        (health.status != "HTTP/1.1 200 OK").then_some(health)
    })
    .await;
    assert_eq!(health.status, "HTTP/1.1 503 Service Unavailable");
    assert!(
        health.body.starts_with(r#"{"health":"false","reason":"R"#) && health.body.ends_with('\n'),
        "{health:?}"
    );
    eventually("it says so", PATIENCE, async || {
        let health = wire::get(endpoint, "/health").await;
        (health.body == "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n").then_some(())
    })
    .await;
    let alone = wire::get(endpoint, "/health?serializable=true").await;
    assert_eq!(alone.body, r#"{"health":"true","reason":""}"#);
    assert_eq!(wire::get(endpoint, "/livez").await.body, "ok\n");
    let ready = wire::get(endpoint, "/readyz?exclude=data_corruption").await;
    assert_eq!(ready.status, "HTTP/1.1 503 Service Unavailable");
    assert!(
        ready.body.contains("[+]serializable_read ok\n"),
        "{ready:?}"
    );
    assert!(
        ready
            .body
            .contains("[-]linearizable_read failed: etcdserver: ")
            && ready.body.ends_with("\n\n"),
        "{ready:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn alarms_and_learners_are_seen_by_checks() {
    let _turn = beside_others().await;
    let cluster = one(&[]).await;
    let endpoint = cluster.member(0).endpoint();
    let client = cluster.client(0);
    let member_id = cluster.statuses().await[0]
        .1
        .header
        .as_ref()
        .expect("a header")
        .member_id;
    let alarm = async |action, alarm| {
        let request = pb::AlarmRequest {
            action: action as i32,
            member_id,
            alarm: alarm as i32,
        };
        client
            .maintenance()
            .alarm(request)
            .await
            .expect("the alarm");
    };
    use pb::AlarmType::{Corrupt, Nospace};
    use pb::alarm_request::AlarmAction::{Activate, Deactivate};
    alarm(Activate, Nospace).await;
    let health = wire::get(endpoint, "/health").await;
    assert_eq!(
        health.body,
        "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n"
    );
    assert_eq!(
        wire::get(endpoint, "/health?exclude=NOSPACE").await.status,
        "HTTP/1.1 200 OK"
    );
    assert_eq!(wire::get(endpoint, "/readyz").await.body, "ok\n");
    alarm(Deactivate, Nospace).await;
    alarm(Activate, Corrupt).await;
    let ready = wire::get(endpoint, "/readyz").await;
    assert!(
        ready
            .body
            .contains("[-]data_corruption failed: alarm activated: CORRUPT\n"),
        "{ready:?}"
    );
    assert_eq!(wire::get(endpoint, "/livez").await.body, "ok\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_refused_in_grpcs_words() {
    let _turn = beside_others().await;
    let cluster = one(&[]).await;
    let endpoint = cluster.member(0).endpoint();
    let refused = async |block: Vec<u8>, body: Vec<u8>| {
        let mut wire = Wire::open(endpoint).await;
        wire.begin(1, &block, &body).await;
        let (headers, _) = wire.answer(1).await;
        let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
        (
            header(":status"),
            header("grpc-status"),
            header("grpc-message")
                .replace("%20", " ")
                .replace("%22", "\""),
        )
    };
    let told = |status: &str, code: &str, text: &str| {
        (status.to_owned(), code.to_owned(), text.to_owned())
    };
    let plain = message(false, KEY_A);
    assert_eq!(
        refused(
            call(RANGE, &[("content-type", "text/plain")]),
            plain.clone()
        )
        .await,
        told(
            "415",
            "3",
            "invalid gRPC request content-type \"text/plain\""
        )
    );
    assert_eq!(
        refused(call("/health", &[(":method", "GET")]), Vec::new()).await,
        told(
            "405",
            "13",
            "Received a HEADERS frame with :method \"GET\" which should be POST"
        )
    );
    assert_eq!(
        refused(call("/health", &[]), Vec::new()).await,
        told("200", "12", "malformed method name: \"/health\"")
    );
    // There is no reflection, and nothing else that is not listed.
    for service in [
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "etcdserverpb.Cluster2",
    ] {
        assert_eq!(
            refused(call(&format!("/{service}/X"), &[]), Vec::new()).await,
            told("200", "12", &format!("unknown service {service}"))
        );
    }
    assert_eq!(
        refused(call(RANGE, &[("grpc-encoding", "deflate")]), plain.clone()).await,
        told(
            "200",
            "12",
            "grpc: Decompressor is not installed for grpc-encoding \"deflate\""
        )
    );
    assert_eq!(
        refused(call(RANGE, &[]), message(true, KEY_A)).await,
        told(
            "200",
            "13",
            "grpc: compressed flag set with identity or empty encoding"
        )
    );
    assert_eq!(
        refused(
            call(RANGE, &[("grpc-encoding", "gzip")]),
            message(true, b"ten bytes.")
        )
        .await,
        told(
            "200",
            "13",
            "grpc: failed to decompress the received message: gzip: invalid header"
        )
    );
    // A few kilobytes that would be eight megabytes.
    let bomb = gzipped(&vec![0; 8 << 20]);
    assert!(bomb.len() < 16_000);
    assert_eq!(
        refused(
            call(RANGE, &[("grpc-encoding", "gzip")]),
            message(true, &bomb)
        )
        .await,
        told(
            "200",
            "8",
            "grpc: received message after decompression larger than max 2097152"
        )
    );
}

/// By the system's own program.
fn gzipped(bytes: &[u8]) -> Vec<u8> {
    let mut child = std::process::Command::new("gzip")
        .arg("-c")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("gzip is installed");
    let mut input = child.stdin.take().expect("a pipe");
    input.write_all(bytes).expect("gzip reads");
    drop(input);
    child.wait_with_output().expect("gzip ends").stdout
}

#[tokio::test(flavor = "multi_thread")]
async fn who_compresses_is_answered_compressed() {
    let _turn = beside_others().await;
    for kind in kinds() {
        let cluster = Cluster::builder().kinds(&[kind]).start().await;
        put(&cluster.client(0), "a", &"v".repeat(5_000)).await;
        let endpoint = cluster.member(0).endpoint();
        let zipped = message(true, &gzipped(KEY_A));
        let mut wire = Wire::open(endpoint).await;
        wire.begin(1, &call(RANGE, &[("grpc-encoding", "gzip")]), &zipped)
            .await;
        let (headers, body) = wire.answer(1).await;
        assert_eq!(
            headers.get("grpc-encoding").map(String::as_str),
            Some("gzip"),
            "{kind:?}"
        );
        assert_eq!(headers["grpc-status"], "0");
        assert_eq!((body[0], &body[5..7]), (1, &[0x1f, 0x8b][..]), "{kind:?}");
        assert!(body.len() < 1_000);
        // Ours compresses nothing so large that others would wait for it.
        put(&cluster.client(0), "a", &"v".repeat(1_200_000)).await;
        wire.send(&frame(8, 0, 0, &(16_u32 << 20).to_be_bytes()))
            .await;
        let head = frame(
            wire::HEADERS,
            wire::END_HEADERS,
            5,
            &call(RANGE, &[("grpc-encoding", "gzip")]),
        );
        let window = frame(8, 0, 5, &(16_u32 << 20).to_be_bytes());
        let body = frame(wire::DATA, wire::END_STREAM, 5, &zipped);
        wire.send(&[head, window, body].concat()).await;
        let (headers, body) = wire.answer(5).await;
        assert_eq!(headers["grpc-status"], "0");
        assert_eq!(body[0] == 0, kind == Kind::Ferrite);
        put(&cluster.client(0), "a", &"v".repeat(5_000)).await;
        // On the same connection: one that only could read it.
        let able = [("grpc-accept-encoding", "gzip,identity")];
        wire.begin(7, &call(RANGE, &able), &message(false, KEY_A))
            .await;
        let (headers, body) = wire.answer(7).await;
        assert_eq!(headers.get("grpc-encoding"), None, "{kind:?}");
        assert!(body.len() > 5_000 && body[0] == 0, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_on_a_connection_are_limited() {
    let _turn = beside_others().await;
    for kind in kinds() {
        let mut builder = Cluster::builder().kinds(&[kind]);
        // The flag came with version 3.5.6.
        if kind == Kind::Ferrite {
            builder = builder.extra_args(&["--max-concurrent-streams=2"]);
        }
        let cluster = builder.start().await;
        let mut wire = Wire::open(cluster.member(0).endpoint()).await;
        for stream in [1, 3, 5] {
            let health = call(WATCH_HEALTH, &[]);
            wire.begin(stream, &health, &message(false, &[])).await;
        }
        let limit = if kind == Kind::Ferrite {
            let (headers, _) = wire.answer(5).await;
            assert_eq!(headers["reset"], "7", "refused: {headers:?}");
            2
        } else {
            wire.next_of(wire::DATA).await.expect("an answer");
            u32::MAX
        };
        assert_eq!(wire.settings.get(&3), Some(&limit), "{kind:?}");
        put(&cluster.client(0), "k", "v").await;
    }
    let default = one(&[]).await;
    let mut wire = Wire::open(default.member(0).endpoint()).await;
    wire.next_of(wire::SETTINGS).await.expect("settings");
    assert_eq!(wire.settings.get(&3), Some(&u32::MAX));
}

fn ping() -> Vec<u8> {
    frame(PING, 0, 0, &[7; 8])
}

async fn sent_away(wire: &mut Wire<tokio::net::TcpStream>) {
    let goodbye = wire.next_of(GOAWAY).await.expect("a farewell");
    assert_eq!(wire::goodbye(&goodbye), (11, "too_many_pings".to_owned()));
    assert!(wire.next_of(GOAWAY).await.is_none(), "then the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_pings_too_often_is_sent_away() {
    let _turn = beside_others().await;
    for kind in kinds() {
        let cluster = Cluster::builder()
            .kinds(&[kind])
            .extra_args(&["--grpc-keepalive-min-time=300ms"])
            .start()
            .await;
        let endpoint = cluster.member(0).endpoint();
        // With no call under way.
        let mut idle = Wire::open(endpoint).await;
        idle.send(&ping().repeat(4)).await;
        sent_away(&mut idle).await;
        // With one, three too soon after each other.
        let mut hasty = Wire::open(endpoint).await;
        let health = call(WATCH_HEALTH, &[]);
        hasty.begin(1, &health, &message(false, &[])).await;
        hasty.next_of(wire::DATA).await.expect("an answer");
        hasty.send(&ping().repeat(5)).await;
        sent_away(&mut hasty).await;
        // As often as is allowed.
        let mut calm = Wire::open(endpoint).await;
        calm.begin(1, &health, &message(false, &[])).await;
        calm.next_of(wire::DATA).await.expect("an answer");
        for _ in 0..5 {
            calm.send(&ping()).await;
            let answer = calm.next_of(PING).await.expect("an answer");
            assert_eq!(
                (answer.flags & wire::ACK, answer.payload),
                (wire::ACK, vec![7; 8])
            );
            tokio::time::sleep(Duration::from_millis(310)).await;
        }
        calm.begin(3, &call(RANGE, &[]), &message(false, KEY_A))
            .await;
        assert_eq!(calm.answer(3).await.0["grpc-status"], "0", "{kind:?}");
        // Whoever is answered in between may.
        let mut answered = Wire::open(endpoint).await;
        for stream in 0..8 {
            answered.send(&ping()).await;
            answered
                .begin(2 * stream + 1, &call(RANGE, &[]), &message(false, KEY_A))
                .await;
            let (headers, _) = answered.answer(2 * stream + 1).await;
            assert_eq!(headers["grpc-status"], "0", "{kind:?} {stream}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_do_not_answer_pings_are_let_go() {
    let _turn = beside_others().await;
    let flags = [
        "--grpc-keepalive-interval=1s",
        "--grpc-keepalive-timeout=2s",
    ];
    for kind in kinds() {
        let cluster = Cluster::builder()
            .kinds(&[kind])
            .extra_args(&flags)
            .start()
            .await;
        let endpoint = cluster.member(0).endpoint();
        let mut silent = Wire::open(endpoint).await;
        let mut alive = Wire::open(endpoint).await;
        let answering = async {
            for _ in 0..4 {
                let ping = alive.next_of(PING).await.expect("still connected");
                alive.send(&frame(PING, wire::ACK, 0, &ping.payload)).await;
            }
        };
        let ending = async {
            let mut pings = 0;
            while silent.next_of(PING).await.is_some() {
                pings += 1;
            }
            pings
        };
        let ((), pings) = tokio::join!(answering, ending);
        assert_eq!(pings, 1, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn http_and_grpc_have_addresses_of_their_own() {
    let _turn = beside_others().await;
    let mut ports = Ports::default();
    let http = format!("http://127.0.0.1:{}", ports.take());
    let cluster = one(&[&format!("--listen-client-http-urls={http}")]).await;
    let grpc = cluster.member(0).endpoint().to_owned();
    put(&cluster.client(0), "k", "v").await;
    assert_eq!(
        wire::get(&http, "/health").await.body,
        r#"{"health":"true","reason":""}"#
    );
    assert_eq!(wire::get(&http, "/nope").await.body, "404 page not found\n");
    assert!(
        told(&grpc, b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .is_empty()
    );
    let preface = [wire::PREFACE, &frame(wire::SETTINGS, 0, 0, &[])].concat();
    assert!(told(&http, &preface).await.is_empty());
    let log = cluster.member(0).log();
    for traffic in ["grpc", "http"] {
        assert!(
            log.contains(&format!("\"traffic\":\"{traffic}\"")),
            "{traffic}"
        );
    }
    assert!(!log.contains("Running http and grpc server on single port"));
    let outcome = run(
        &our_program("etcd"),
        &[
            format!("--data-dir={}", cluster.scratch().join("none").display()),
            format!("--listen-client-urls={http}"),
            format!("--advertise-client-urls={http}"),
            format!("--listen-client-http-urls={http}"),
            format!("--listen-peer-urls=http://127.0.0.1:{}", ports.take()),
        ],
        PATIENCE,
    );
    assert_eq!(outcome.code(), Some(1));
    assert!(
        outcome.stderr.contains(&format!("cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {http}")),
        "{outcome:?}"
    );
}

fn by_http_1(pki: &Pki) -> ClientTls {
    let info = TlsInfo {
        trusted_ca_file: pki.ca(),
        ..TlsInfo::default()
    };
    ClientTls::new(&info, &["http/1.1"]).expect("a client")
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_every_path_speaks_http_2() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(dir.path(), "ca");
    let paper = pki.issue("server", &Wanted::hosts(&["127.0.0.1"]));
    let flags = [
        format!("--cert-file={}", paper.cert),
        format!("--key-file={}", paper.key),
        "--host-whitelist=nobody".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    for kind in kinds() {
        let cluster = Cluster::builder()
            .kinds(&[kind])
            .encrypted_clients(pki.client(None))
            .extra_args(&flags)
            .start()
            .await;
        put(&cluster.client(0), "a", "v").await;
        let stream = connect(cluster.member(0).endpoint()).await;
        let stream = pki.client(None).connect("127.0.0.1", stream).await;
        let mut wire = Wire::over(stream.expect("TLS")).await;
        let page = |path: &str| {
            let other = [
                (":method", "GET"),
                (":scheme", "https"),
                ("content-type", "text/html"),
            ];
            frame(
                wire::HEADERS,
                wire::END_HEADERS | wire::END_STREAM,
                1,
                &call(path, &other),
            )
        };
        wire.send(&page("/health")).await;
        let (headers, body) = wire.answer(1).await;
        assert_eq!(headers[":status"], "200", "{kind:?}");
        assert_eq!(headers["access-control-allow-origin"], "*", "{kind:?}");
        assert_eq!(body, br#"{"health":"true","reason":""}"#);
        wire.begin(3, &call(RANGE, &[]), &message(false, KEY_A))
            .await;
        assert_eq!(wire.answer(3).await.0["grpc-status"], "0", "{kind:?}");
        // No policy of pings there.
        wire.send(&ping().repeat(20)).await;
        for _ in 0..20 {
            wire.next_of(PING).await.expect("an answer");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_addresses_of_their_own() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(dir.path(), "ca");
    let paper = pki.issue("server", &Wanted::hosts(&["127.0.0.1"]));
    let mut ports = Ports::default();
    let clear = format!("http://127.0.0.1:{}", ports.take());
    let encrypted = format!("https://127.0.0.1:{}", ports.take());
    let flags = [
        format!("--listen-metrics-urls={clear},{encrypted}"),
        format!("--cert-file={}", paper.cert),
        format!("--key-file={}", paper.key),
        "--host-whitelist=nobody".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    // One of two: it cannot serve clients yet, and says so there.
    let cluster = Cluster::builder()
        .members(2)
        .extra_args_at(0, &flags)
        .build();
    cluster.member(0).start();
    cluster
        .member(0)
        .wait_for_log("serving metrics", PATIENCE)
        .await;
    let health = wire::get(&clear, "/health").await;
    assert_eq!(
        health.body,
        "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n"
    );
    let undecided = wire::get(cluster.member(0).peer_url(), "/version").await;
    assert_eq!(undecided.header("content-type"), Some("application/json"));
    let known = undecided
        .body
        .strip_prefix(r#"{"etcdserver":"3.7.1","etcdcluster":"not_decided","#);
    // The database tells its version by what is in it already.
    assert!(
        matches!(
            known,
            Some(r#""storage":"unknown"}"# | r#""storage":"3.5.0"}"#)
        ),
        "{undecided:?}"
    );
    assert_eq!(wire::get(&clear, "/livez").await.body, "ok\n");
    assert_eq!(
        wire::get(&clear, "/readyz").await.status,
        "HTTP/1.1 503 Service Unavailable"
    );
    for path in ["//health", "/./health"] {
        let answer = wire::get(&clear, path).await;
        assert_eq!(answer.status, "HTTP/1.1 301 Moved Permanently", "{path}");
        assert_eq!(answer.header("location"), Some("/health"), "{path}");
    }
    let options = wire::asked(&clear, "OPTIONS", "*", "").await;
    assert_eq!(options.status, "HTTP/1.1 200 OK");
    for path in ["/version", "/debug/vars", "/nope"] {
        let answer = wire::get(&clear, path).await;
        assert_eq!(answer.body, "404 page not found\n", "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
    let stream = connect(&encrypted).await;
    let mut stream = by_http_1(&pki)
        .connect("127.0.0.1", stream)
        .await
        .expect("TLS");
    tokio::io::AsyncWriteExt::write_all(
        &mut stream,
        b"GET /livez HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    .await
    .expect("sent");
    let answer = wire::to_the_end(&mut stream, PATIENCE)
        .await
        .expect("an end");
    assert_eq!(Answer::of(&answer).body, "ok\n");
    cluster.member(1).start();
    cluster.member(0).ready(PATIENCE).await;
    eventually("all is well", PATIENCE, async || {
        (wire::get(&clear, "/readyz").await.body == "ok\n").then_some(())
    })
    .await;
    assert!(cluster.member(0).terminate().await.code().is_none());

    let outcome = run(
        &our_program("etcd"),
        &[
            format!("--data-dir={}", dir.path().join("none").display()),
            format!("--listen-client-urls=http://127.0.0.1:{}", ports.take()),
            "--advertise-client-urls=http://127.0.0.1:1".to_owned(),
            format!("--listen-peer-urls=http://127.0.0.1:{}", ports.take()),
            format!("--listen-metrics-urls={encrypted}"),
        ],
        PATIENCE,
    );
    assert_eq!(outcome.code(), Some(1));
    assert!(
        outcome
            .stderr
            .contains("must be provided for metrics secure url"),
        "{outcome:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn debug_pages_tell_much_and_no_password() {
    let _turn = beside_others().await;
    let cluster = one(&["--enable-pprof", "--log-level=debug"]).await;
    let member = cluster.member(0);
    let endpoint = member.endpoint();
    let client = cluster.client(0);
    put(&client, "a-secret-key", "a-secret-value").await;
    let add = pb::AuthUserAddRequest {
        name: "root".into(),
        password: "a-secret-password".into(),
        ..Default::default()
    };
    client.auth().user_add(add).await.expect("a user");
    let login = pb::AuthenticateRequest {
        name: "root".into(),
        password: "a-secret-password".into(),
    };
    // Not enabled: refused, and it has been sent.
    let _refused = client.auth().authenticate(login).await;

    let vars = wire::get(endpoint, "/debug/vars").await;
    assert_eq!(
        vars.header("content-type"),
        Some("application/json; charset=utf-8")
    );
    let parsed: serde_json::Value = serde_json::from_str(&vars.body).expect("JSON");
    assert!(
        parsed["cmdline"][0]
            .as_str()
            .expect("a name")
            .ends_with("etcd"),
        "{parsed}"
    );
    assert!(
        parsed["file_descriptor_limit"].as_u64() > Some(150),
        "{parsed}"
    );
    assert!(
        parsed["memstats"]["Alloc"].as_u64() > Some(1 << 20),
        "{parsed}"
    );
    let raft = &parsed["raft.status"];
    let id = raft["id"].as_str().expect("an ID");
    assert_eq!((&raft["lead"], &raft["vote"]), (&raft["id"], &raft["id"]));
    assert_eq!(raft["raftState"], "StateLeader");
    assert!(raft["commit"].as_u64() > Some(3), "{raft}");
    assert_eq!(raft["progress"][id]["state"], "StateReplicate");
    assert!(
        vars.body.starts_with("{\n\"cmdline\": ["),
        "one a line: {}",
        vars.body
    );

    let everything = wire::get(endpoint, "/debug/pprof/goroutine").await.body;
    for part in [
        "queue raft: ",
        "queue wal: ",
        "queue apply: ",
        "queue commit: ",
        "serving client-0: ",
        "watch: 0 streams",
        "memory: ",
    ] {
        assert!(everything.contains(part), "{part}: {everything}");
    }
    assert!(
        wire::get(endpoint, "/debug/pprof/cmdline")
            .await
            .body
            .contains("\0--enable-pprof")
    );
    let mut pages = vec![vars.body, everything];
    for path in ["", "heap", "profile", "symbol", "trace", "nonsense"] {
        pages.push(
            wire::get(endpoint, &format!("/debug/pprof/{path}"))
                .await
                .body,
        );
    }
    assert!(
        pages[2].contains("goroutine"),
        "the index names what there is"
    );
    assert!(pages[3].contains("no Go program"), "{}", pages[3]);
    for path in [
        "/debug/requests",
        "/debug/events",
        "/debug/requests?fam=x&b=0",
    ] {
        let answer = wire::get(endpoint, path).await;
        assert_eq!(answer.status, "HTTP/1.1 404 Not Found");
        pages.push(answer.body);
    }
    assert!(pages.iter().all(|page| !page.contains("a-secret")));
    // The log of calls names keys, as the original's does, and nothing more.
    let log = member.log();
    assert!(!log.contains("a-secret-password") && !log.contains("a-secret-value"));

    let closed = one(&[]).await;
    let answer = wire::get(closed.member(0).endpoint(), "/debug/pprof/goroutine").await;
    assert_eq!(answer.body, "404 page not found\n");
    assert_eq!(
        wire::get(closed.member(0).endpoint(), "/debug/vars")
            .await
            .status,
        "HTTP/1.1 200 OK"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_tell_and_reload_without_an_end() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(dir.path(), "ca");
    let paper = pki.issue("server", &Wanted::hosts(&["127.0.0.1"]));
    let cluster = Cluster::builder()
        .encrypted_clients(pki.client(None))
        .extra_args(&[
            &format!("--cert-file={}", paper.cert),
            &format!("--key-file={}", paper.key),
        ])
        .start()
        .await;
    let member = cluster.member(0);
    put(&cluster.client(0), "a", "v").await;
    member.signal(libc::SIGQUIT);
    member.wait_for_log("what is going on", PATIENCE).await;
    for part in ["queue apply: 0 wait", "raft: StateLeader", " wal: waits"] {
        member.wait_for_log(part, PATIENCE).await;
    }
    member.signal(libc::SIGHUP);
    member
        .wait_for_log("the certificates can be used", PATIENCE)
        .await;
    let good = std::fs::read(&paper.cert).expect("a certificate");
    std::fs::write(&paper.cert, "half a certif").expect("written");
    member.signal(libc::SIGHUP);
    member
        .wait_for_log("the certificates cannot be used", PATIENCE)
        .await;
    put(&cluster.client(0), "b", "v").await;
    std::fs::write(&paper.cert, good).expect("written");
    let other = pki.issue("other", &Wanted::hosts(&["127.0.0.1"]));
    std::fs::copy(&other.key, &paper.key).expect("copied");
    std::fs::copy(&other.cert, &paper.cert).expect("copied");
    member.signal(libc::SIGHUP);
    member
        .wait_for_log("read changed certificate files", PATIENCE)
        .await;
    put(&cluster.client(0), "c", "v").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_told_to_streams_and_lets_calls_finish() {
    let _turn = beside_others().await;
    let cluster = one(&[]).await;
    let member = cluster.member(0);
    let mut wire = Wire::open(member.endpoint()).await;
    wire.begin(1, &call(WATCH_HEALTH, &[]), &message(false, &[]))
        .await;
    wire.next_of(wire::DATA).await.expect("an answer");
    let mut keeping = connect(member.endpoint()).await;
    member.signal(libc::SIGTERM);
    let told = wire.next_of(GOAWAY).await.expect("told");
    assert_eq!(wire::goodbye(&told), (0, String::new()));
    while wire.next().await.is_some() {}
    let rest = wire::to_the_end(&mut keeping, PATIENCE).await;
    assert_eq!(rest, Some(Vec::new()));
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(member.exit(PATIENCE).await.signal(), Some(libc::SIGTERM));
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_when_the_member_serves() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let path = dir.path().join("notify");
    let socket = tokio::net::UnixDatagram::bind(&path).expect("a socket");
    let text = path.to_str().expect("text");
    let cluster = Cluster::builder().variable("NOTIFY_SOCKET", text).build();
    cluster.member(0).start();
    let mut said = [0; 64];
    let count = tokio::time::timeout(PATIENCE, socket.recv(&mut said))
        .await
        .expect("in time")
        .expect("a datagram");
    assert_eq!(&said[..count], b"READY=1");
    put(&cluster.client(0), "k", "v").await;
    let lines = "successfully notified init daemon";
    cluster.member(0).wait_for_log(lines, PATIENCE).await;

    let nobody = Cluster::builder()
        .variable("NOTIFY_SOCKET", "/nonexistent/socket")
        .start()
        .await;
    nobody
        .member(0)
        .wait_for_log("failed to notify systemd for readiness", PATIENCE)
        .await;
    put(&nobody.client(0), "k", "v").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_shared_only_if_told_so() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().build();
    let address = wire::address(cluster.member(0).endpoint()).to_owned();
    let address: std::net::SocketAddr = address.parse().expect("an address");
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_port(true).expect("the option");
    socket.bind(&address.into()).expect("bound");
    socket.listen(1).expect("listens");
    cluster.member(0).start();
    let status = cluster.member(0).exit(PATIENCE).await;
    assert_eq!(status.code(), Some(1));
    assert!(cluster.member(0).log_contains("address already in use"));
    drop(socket);

    let cluster = Cluster::builder()
        .extra_args(&["--socket-reuse-port", "--socket-reuse-address"])
        .build();
    let mut held = Vec::new();
    for url in [cluster.member(0).endpoint(), cluster.member(0).peer_url()] {
        let address: std::net::SocketAddr = wire::address(url).parse().expect("an address");
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        socket.set_reuse_port(true).expect("the option");
        socket.bind(&address.into()).expect("bound");
        held.push(socket);
    }
    cluster.start_all().await;
    put(&cluster.client(0), "k", "v").await;
}

/// Linux tells of every connection how its timer stands.
#[tokio::test(flavor = "multi_thread")]
async fn the_system_asks_whether_clients_are_there() {
    let _turn = beside_others().await;
    let cluster = one(&[]).await;
    let member = cluster.member(0);
    let stream = connect(member.endpoint()).await;
    let ours = stream.local_addr().expect("an address").port();
    let theirs = stream.peer_addr().expect("an address").port();
    let (seen, timer) = eventually("the connection is listed", PATIENCE, async || {
        let table = std::fs::read_to_string("/proc/net/tcp").expect("Linux");
        table.lines().find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let here = fields.get(1)?.ends_with(&format!(":{theirs:04X}"));
            let there = fields.get(2)?.ends_with(&format!(":{ours:04X}"));
            let (kind, when) = fields.get(5)?.split_once(':')?;
            let when = u64::from_str_radix(when, 16).ok()?;
            // 2 is the timer of keep-alives.
            (here && there && kind == "02").then_some((kind.to_owned(), when))
        })
    })
    .await;
    assert_eq!(seen, "02");
    // In hundredths of a second.
    assert!((1..=3_000).contains(&timer), "{timer}");
}

/// An address of this machine that others could reach.
fn outside_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Nothing is sent.
    socket.connect("192.0.2.1:9").ok()?;
    let address = socket.local_addr().ok()?.ip();
    (!address.is_loopback() && !address.is_unspecified()).then_some(address)
}

#[tokio::test(flavor = "multi_thread")]
async fn members_are_called_from_the_advertised_address() {
    let _turn = beside_others().await;
    let mut ports = Ports::default();
    let other = TcpListener::bind("0.0.0.0:0").await.expect("a socket");
    let there = other.local_addr().expect("an address").port();
    let dir = tempfile::tempdir().expect("a folder");
    let gate = "--feature-gates=SetMemberLocalAddr=true".to_owned();
    let mut start = |name: &str, host: &str| {
        let (client, peer) = (ports.take(), ports.take());
        let mut command = std::process::Command::new(our_program("etcd"));
        command
            .args([
                format!("--name={name}"),
                format!("--data-dir={}", dir.path().join(name).display()),
                format!("--listen-client-urls=http://127.0.0.1:{client}"),
                format!("--advertise-client-urls=http://127.0.0.1:{client}"),
                format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
                format!("--initial-advertise-peer-urls=http://{host}:{peer}"),
                format!(
                    "--initial-cluster={name}=http://{host}:{peer},other=http://127.0.0.1:{there}"
                ),
                gate.clone(),
            ])
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        Killed(command.spawn().expect("it starts"))
    };
    // Of the loopback nothing follows.
    let plain = start("plain", "127.0.0.1");
    let (_, from) = tokio::time::timeout(PATIENCE, other.accept())
        .await
        .expect("called")
        .expect("accepted");
    assert!(from.ip().is_loopback());
    drop(plain);
    let Some(address) = outside_address() else {
        eprintln!("SKIPPED: this machine has no address but the loopback's");
        return;
    };
    let _far = start("far", &address.to_string());
    eventually("a call from the advertised address", PATIENCE, async || {
        let (mut stream, from) = other.accept().await.expect("accepted");
        let mut first = [0];
        let _gone = stream.read(&mut first).await;
        (from.ip() == address).then_some(())
    })
    .await;
}

struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_by_grpc_knows_one_name() {
    let _turn = beside_others().await;
    for kind in kinds() {
        let cluster = Cluster::builder().kinds(&[kind]).start().await;
        let client = cluster.client(0);
        let named = |service: &str| HealthCheckRequest {
            service: service.to_owned(),
        };
        let answer = client.health().check(named("")).await.expect("health");
        assert_eq!(answer.get_ref().status, 1, "{kind:?}");
        let unknown = client.health().check(named("etcdserverpb.KV")).await;
        let unknown = unknown.expect_err("no such service");
        assert_eq!(
            (unknown.code(), unknown.message()),
            (tonic::Code::NotFound, "unknown service"),
            "{kind:?}"
        );
        let watched = client.health().watch(named("etcdserverpb.KV")).await;
        let mut watched = watched.expect("a stream").into_inner();
        let first = watched
            .message()
            .await
            .expect("a stream")
            .expect("a message");
        assert_eq!(first.status, 3, "{kind:?}");
        let mut whole = client
            .health()
            .watch(named(""))
            .await
            .expect("a stream")
            .into_inner();
        assert_eq!(
            whole
                .message()
                .await
                .expect("a stream")
                .expect("a message")
                .status,
            1
        );
        // Without the gate a defragmentation is nobody's business.
        client
            .maintenance()
            .defragment(pb::DefragmentRequest {})
            .await
            .expect("defragmented");
        let more = tokio::time::timeout(Duration::from_millis(300), whole.message()).await;
        assert!(more.is_err(), "{kind:?}: {more:?}");
    }
}
