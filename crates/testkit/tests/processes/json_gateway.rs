//! The JSON gateway, by the bytes that are sent and those that come back, beside the original where that is
//! at hand. The original here is 3.5.1, whose gateway is older than the one of 3.7.1; where the two differ
//! by their source, a step says what 3.7.1 answers.

use std::time::Duration;

use ferrite_testkit::{Cluster, Kind, PATIENCE, Pki, Ports, Wanted, eventually, oracle};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::beside_others;
use crate::wire::{self, Answer, Wire, call, connect, frame, told};

mod sockets;
mod steps;

fn kinds() -> Vec<Kind> {
    let mut kinds = vec![Kind::Ferrite];
    kinds.extend(oracle().map(|_| Kind::Etcd351));
    kinds
}

async fn one(kind: Kind, flags: &[&str]) -> Cluster {
    let builder = Cluster::builder().kinds(&[kind]).extra_args(flags);
    builder.start().await
}

/// One request, to the end of its answer.
async fn asked(endpoint: &str, method: &str, path: &str, more: &str, body: &str) -> Answer {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
         Content-Length: {length}\r\n{more}\r\n{body}"
    );
    let mut answer = Answer::of(&told(endpoint, request.as_bytes()).await);
    if answer.header("transfer-encoding") == Some("chunked") {
        answer.body = unchunked(&answer.body);
    }
    answer
}

async fn post(endpoint: &str, path: &str, body: &str) -> Answer {
    asked(endpoint, "POST", path, "", body).await
}

/// What was cut into chunks, and the trailers after it.
fn unchunked(mut text: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = text.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a length");
        if length == 0 {
            whole.push_str(rest.trim_end_matches("\r\n"));
            break;
        }
        whole.push_str(rest.get(..length).expect("a whole chunk"));
        text = rest.get(length + 2..).unwrap_or_default();
    }
    whole
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
}

/// A request that goes on, and its answer line by line.
struct Talk {
    stream: TcpStream,
    arrived: Vec<u8>,
    head: Option<Answer>,
}

impl Talk {
    async fn begin(endpoint: &str, path: &str) -> Self {
        let mut stream = connect(endpoint).await;
        // On a connection that goes on Go answers only when all has been asked.
        let more = "Connection: close\r\n";
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n{more}\r\n"
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        Talk {
            stream,
            arrived: Vec::new(),
            head: None,
        }
    }

    async fn say(&mut self, text: &str) {
        let chunk = format!("{:x}\r\n{text}\r\n", text.len());
        self.stream.write_all(chunk.as_bytes()).await.expect("sent");
    }

    async fn said_all(&mut self) {
        self.stream.write_all(b"0\r\n\r\n").await.expect("sent");
    }

    async fn read_until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        let read = async {
            loop {
                let found = self.arrived.windows(end.len()).position(|at| at == end);
                if let Some(at) = found {
                    let rest = self.arrived.split_off(at + end.len());
                    return Some(std::mem::replace(&mut self.arrived, rest));
                }
                let mut piece = [0; 4096];
                match self.stream.read(&mut piece).await {
                    Ok(count @ 1..) => self.arrived.extend_from_slice(&piece[..count]),
                    _ => return None,
                }
            }
        };
        let read = tokio::time::timeout(PATIENCE, read).await;
        read.unwrap_or_else(|_| panic!("nothing more comes: {:?}", self.arrived))
    }

    /// The next chunk; `None` at the end.
    async fn chunk(&mut self) -> Option<String> {
        if self.head.is_none() {
            let head = self.read_until(b"\r\n\r\n").await.expect("headers");
            self.head = Some(Answer::of(&head));
        }
        let length = self.read_until(b"\r\n").await?;
        let length = String::from_utf8_lossy(&length).trim_end().to_owned();
        let length = usize::from_str_radix(&length, 16).expect("a length");
        let chunk = async {
            while self.arrived.len() < length + 2 {
                let mut piece = [0; 4096];
                let count = self.stream.read(&mut piece).await.expect("more");
                assert_ne!(count, 0, "cut off in a chunk");
                self.arrived.extend_from_slice(&piece[..count]);
            }
        };
        tokio::time::timeout(PATIENCE, chunk).await.expect("more");
        let rest = self.arrived.split_off(length + 2);
        let mut chunk = std::mem::replace(&mut self.arrived, rest);
        chunk.truncate(length);
        (length > 0).then(|| String::from_utf8(chunk).expect("text"))
    }

    /// The next line without its end; `None` at the end.
    async fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        loop {
            line.push_str(&self.chunk().await?);
            if line.ends_with('\n') {
                assert_eq!(line.matches('\n').count(), 1, "{line:?}");
                return Some(line.trim_end().to_owned());
            }
        }
    }

    async fn result(&mut self) -> Value {
        let line = self.line().await.expect("a line");
        json(&line)["result"].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_answered_as_the_original_answers_it() {
    let _turn = beside_others().await;
    let mut transcripts = Vec::new();
    for kind in kinds() {
        let cluster = one(kind, &[]).await;
        let endpoint = cluster.member(0).endpoint();
        transcripts.push(steps::taken(kind, endpoint).await);
    }
    let ours = transcripts.remove(0);
    for theirs in transcripts {
        assert_eq!(ours.len(), theirs.len());
        let pairs = ours.iter().zip(&theirs);
        let differ: Vec<_> = pairs.filter(|(ours, theirs)| ours != theirs).collect();
        assert!(differ.is_empty(), "ours, and theirs: {differ:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_leads_to_its_call() {
    let _turn = beside_others().await;
    let cluster = one(Kind::Ferrite, &[]).await;
    let endpoint = cluster.member(0).endpoint();
    // Without a body each asks for what is asked by default. What waits for others is asked for a moment.
    for (path, status, wanted) in steps::ROUTES {
        let waits = [
            "watch",
            "lock/lock",
            "election/campaign",
            "election/observe",
        ]
        .contains(path);
        let more = if waits { "Grpc-Timeout: 2S\r\n" } else { "" };
        for prefix in ["/v3", "/v3beta"] {
            let path = format!("{prefix}/{path}");
            let answer = asked(endpoint, "POST", &path, more, "").await;
            let line = answer.status.split(' ').nth(1).unwrap_or_default();
            assert!(line == *status || status.is_empty(), "{path}: {answer:?}");
            let json = answer.header("content-type");
            assert!(
                json == Some("application/json") || answer.body.is_empty(),
                "{path}"
            );
            assert!(answer.body.contains(wanted), "{path}: {answer:?}");
        }
    }
    // Aliases that never were.
    for path in ["/v3alpha/kv/range", "/v3/kv/rangestream", "/v3/health"] {
        let answer = post(endpoint, path, "{}").await;
        assert_eq!(answer.status, "HTTP/1.1 404 Not Found", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_lines_of_json() {
    let _turn = beside_others().await;
    for kind in kinds() {
        let cluster = one(kind, &[]).await;
        let endpoint = cluster.member(0).endpoint();
        let mut talk = Talk::begin(endpoint, "/v3/watch").await;
        talk.say("{\"create_request\": {\"key\": \"YQ==\", \"prevKv\": true, ")
            .await;
        talk.say("\"filters\": []}}").await;
        assert_eq!(talk.result().await["created"], true, "{kind:?}");
        let head = talk.head.take().expect("headers came first");
        assert_eq!(head.status, "HTTP/1.1 200 OK");
        assert_eq!(head.header("content-type"), Some("application/json"));
        let inner = head.header("grpc-metadata-content-type");
        assert_eq!(inner, Some("application/grpc"), "{kind:?}");
        talk.head = Some(head);
        for value in ["MQ==", "Mg=="] {
            let put = format!("{{\"key\":\"YQ==\",\"value\":\"{value}\"}}");
            post(endpoint, "/v3/kv/put", &put).await;
            let result = talk.result().await;
            assert_eq!(result["events"][0]["kv"]["value"], value, "{kind:?}");
            let before = &result["events"][0]["prev_kv"]["value"];
            assert_eq!(before == "MQ==", value == "Mg==", "{kind:?}: {result}");
        }
        post(endpoint, "/v3/kv/deleterange", r#"{"key":"YQ=="}"#).await;
        let result = talk.result().await;
        assert_eq!(result["events"][0]["type"], "DELETE", "{kind:?}");
        // More may be asked for while answers come.
        talk.say(r#"{"create_request":{"key":"Yg==","watch_id":"7"}}"#)
            .await;
        let result = talk.result().await;
        assert_eq!(result["watch_id"], "7", "{kind:?}: {result}");
        talk.say(r#" {"cancelRequest":{"watchId":7}} "#).await;
        assert_eq!(talk.result().await["canceled"], true, "{kind:?}");
        // Whoever has asked for everything goes on hearing.
        talk.said_all().await;
        post(endpoint, "/v3/kv/put", r#"{"key":"YQ=="}"#).await;
        let result = talk.result().await;
        assert_eq!(result["events"][0]["kv"]["key"], "YQ==", "{kind:?}");

        post(endpoint, "/v3/lease/grant", r#"{"ID":7,"TTL":600}"#).await;
        let mut talk = Talk::begin(endpoint, "/v3/lease/keepalive").await;
        for _ in 0..2 {
            talk.say(r#"{"ID":7}"#).await;
            let result = talk.result().await;
            assert_eq!(
                (&result["ID"], &result["TTL"]),
                (&"7".into(), &"600".into())
            );
        }
        talk.said_all().await;
        assert_eq!(talk.line().await, None, "{kind:?}");

        let mut talk = Talk::begin(endpoint, "/v3/maintenance/snapshot").await;
        talk.said_all().await;
        assert!(talk.result().await["blob"].is_string(), "{kind:?}");
        while talk.line().await.is_some() {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_with_their_errors_and_their_callers() {
    let _turn = beside_others().await;
    let cluster = one(Kind::Ferrite, &[]).await;
    let endpoint = cluster.member(0).endpoint();
    // In the middle: a line. Before anything: a status too.
    let create = r#"{"create_request":{"key":"YQ=="}}"#;
    let more = "Grpc-Timeout: 1S\r\n";
    let late = "{\"error\":{\"code\":4,\"message\":\"context deadline exceeded\"}}";
    let answer = asked(endpoint, "POST", "/v3/watch", more, create).await;
    assert_eq!(answer.status, "HTTP/1.1 200 OK");
    let lines: Vec<&str> = answer.body.lines().collect();
    assert_eq!(lines.get(1), Some(&late), "{answer:?}");
    let observe = r#"{"name":"YQ=="}"#;
    let answer = asked(endpoint, "POST", "/v3/election/observe", more, observe).await;
    assert_eq!(answer.status, "HTTP/1.1 504 Gateway Timeout");
    assert_eq!(answer.body.trim_end(), late);
    assert!(answer.body.ends_with('\n'));
    // What cannot be read ends what is asked, and nothing else.
    let answer = post(endpoint, "/v3/lease/keepalive", "x").await;
    assert_eq!(
        (answer.status.as_str(), answer.body.as_str()),
        ("HTTP/1.1 200 OK", "")
    );

    let watchers = async |count: &str| {
        let line = format!("\netcd_debugging_mvcc_watcher_total {count}\n");
        eventually("so many watchers", PATIENCE, async || {
            let page = wire::get(endpoint, "/metrics").await.body;
            page.contains(&line).then_some(())
        })
        .await;
    };
    let mut talk = Talk::begin(endpoint, "/v3/watch").await;
    talk.say(create).await;
    talk.result().await;
    watchers("1").await;
    drop(talk);
    watchers("0").await;
    let mut talk = Talk::begin(endpoint, "/v3/watch").await;
    talk.say(create).await;
    talk.said_all().await;
    talk.result().await;
    watchers("1").await;
    drop(talk);
    watchers("0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_flag_turns_it_off_and_listeners_have_it_where_http_is() {
    let _turn = beside_others().await;
    for kind in kinds() {
        let cluster = one(kind, &["--enable-grpc-gateway=false"]).await;
        let answer = post(cluster.member(0).endpoint(), "/v3/maintenance/status", "").await;
        assert_eq!(answer.status, "HTTP/1.1 404 Not Found", "{kind:?}");
        assert_eq!(answer.body, "404 page not found\n", "{kind:?}");
    }
    let mut ports = Ports::default();
    let http = format!("http://127.0.0.1:{}", ports.take());
    let flag = format!("--listen-client-http-urls={http}");
    let cluster = one(Kind::Ferrite, &[&flag]).await;
    let answer = post(&http, "/v3/maintenance/status", "").await;
    assert_eq!(answer.status, "HTTP/1.1 200 OK");
    let request = b"POST /v3/maintenance/status HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n";
    assert!(told(cluster.member(0).endpoint(), request).await.is_empty());

    // Over TLS it speaks HTTP/2 too.
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(dir.path(), "ca");
    let paper = pki.issue("server", &Wanted::hosts(&["127.0.0.1"]));
    let flags = [
        format!("--cert-file={}", paper.cert),
        format!("--key-file={}", paper.key),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    for kind in kinds() {
        let cluster = Cluster::builder()
            .kinds(&[kind])
            .encrypted_clients(pki.client(None))
            .extra_args(&flags)
            .start()
            .await;
        let stream = connect(cluster.member(0).endpoint()).await;
        let stream = pki.client(None).connect("127.0.0.1", stream).await;
        let mut wire = Wire::over(stream.expect("TLS")).await;
        let json = [(":scheme", "https"), ("content-type", "application/json")];
        wire.begin(1, &call("/v3/kv/put", &json), br#"{"key":"YQ=="}"#)
            .await;
        let (headers, body) = wire.answer(1).await;
        let body = String::from_utf8_lossy(&body).into_owned();
        assert_eq!(headers[":status"], "200", "{kind:?}: {body}");
        assert!(body.contains("\"revision\":\"2\""), "{kind:?}: {body}");
        // A stream ends when it is reset, and the next one is served.
        let block = call("/v3/watch", &json);
        let watch = br#"{"create_request":{"key":"YQ=="}}"#;
        wire.begin(3, &block, watch).await;
        let created = wire.next_of(wire::DATA).await.expect("a line");
        let text = String::from_utf8_lossy(&created.payload).into_owned();
        assert!(text.contains("\"created\":true"), "{kind:?}: {text}");
        wire.send(&frame(wire::RESET, 0, 3, &8_u32.to_be_bytes()))
            .await;
        wire.begin(5, &call("/v3/kv/range", &json), br#"{"key":"YQ=="}"#)
            .await;
        let (headers, _) = wire.answer(5).await;
        assert_eq!(headers[":status"], "200", "{kind:?}");
        // What is refused before its body has come is not cut off in the middle.
        if kind == Kind::Ferrite {
            for (stream, path) in [(7, "/v3/none"), (9, "/health"), (11, "/none")] {
                let head = frame(wire::HEADERS, wire::END_HEADERS, stream, &call(path, &json));
                wire.send(&head).await;
                let mut ended = false;
                // By the first answer to a ping the head has been read, by the second all.
                for body in [true, false] {
                    wire.send(&frame(wire::PING, 0, 0, &[7; 8])).await;
                    loop {
                        let frame = wire.next().await.expect("the connection stays");
                        assert_ne!((frame.kind, frame.stream), (wire::RESET, stream), "{path}");
                        ended |= frame.stream == stream && frame.flags & wire::END_STREAM != 0;
                        if frame.kind == wire::PING && (body || ended) {
                            break;
                        }
                        if frame.kind == wire::PING {
                            wire.send(&self::frame(wire::PING, 0, 0, &[7; 8])).await;
                        }
                    }
                    if body {
                        let data = frame(wire::DATA, wire::END_STREAM, stream, b"{}");
                        wire.send(&data).await;
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn its_calls_have_limits() {
    let _turn = beside_others().await;
    let mut transcripts = Vec::new();
    for kind in kinds() {
        let cluster = one(kind, &[]).await;
        let endpoint = cluster.member(0).endpoint();
        let mut answers = Vec::new();
        for size in [1_400_000, 1_600_000, 2_200_000] {
            let value = "YWFh".repeat(size / 3);
            let body = format!("{{\"key\":\"YQ==\",\"value\":\"{value}\"}}");
            let answer = post(endpoint, "/v3/kv/put", &body).await;
            let body = steps::masked(kind, &answer.body);
            answers.push((answer.status, body));
        }
        transcripts.push(answers);
    }
    let ours = transcripts.remove(0);
    assert_eq!(ours[0].0, "HTTP/1.1 200 OK");
    assert_eq!(
        ours[1].1,
        r#"{"code":3,"message":"etcdserver: request is too large"}"#
    );
    assert_eq!(ours[2].0, "HTTP/1.1 429 Too Many Requests");
    for theirs in transcripts {
        assert_eq!(ours, theirs);
    }

    // A body without an end is read to a limit.
    let cluster = one(Kind::Ferrite, &["--max-concurrent-streams=1"]).await;
    let endpoint = cluster.member(0).endpoint();
    let mut stream = connect(endpoint).await;
    let head =
        "POST /v3/kv/put HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000000\r\n\r\n{\"key\":\"";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let (mut reader, mut writer) = stream.split();
    let endless = async {
        let piece = vec![b'Y'; 64 << 10];
        while writer.write_all(&piece).await.is_ok() {}
        std::future::pending::<()>().await;
    };
    let answer = tokio::select! {
        answer = wire::to_the_end(&mut reader, PATIENCE) => answer.expect("an end"),
        () = endless => unreachable!("it never ends"),
    };
    let answer = Answer::of(&answer);
    assert_eq!(
        answer.status, "HTTP/1.1 429 Too Many Requests",
        "{answer:?}"
    );
    assert!(
        answer
            .body
            .contains("grpc: received message larger than max"),
        "{answer:?}"
    );

    // As many calls at once as one connection may have.
    let mut talk = Talk::begin(endpoint, "/v3/watch").await;
    talk.say(r#"{"create_request":{"key":"YQ=="}}"#).await;
    talk.result().await;
    let second = post(endpoint, "/v3/maintenance/status", "");
    let mut second = std::pin::pin!(second);
    let waits = tokio::time::timeout(Duration::from_millis(300), second.as_mut()).await;
    assert!(waits.is_err(), "{waits:?}");
    drop(talk);
    let answer = tokio::time::timeout(PATIENCE, second).await;
    assert_eq!(answer.expect("its turn").status, "HTTP/1.1 200 OK");
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_is_refused_and_harms_nobody() {
    let _turn = beside_others().await;
    let cluster = one(Kind::Ferrite, &[]).await;
    let endpoint = cluster.member(0).endpoint();
    let bodies = [
        "{\"key\":\"\\ud800\"}".to_owned(),
        "[".repeat(100_000),
        "{\"success\":[{\"request_txn\":".repeat(5_000),
        format!(
            "{}{{}}{}",
            "{\"success\":[{\"request_txn\":".repeat(200),
            "}]}".repeat(200)
        ),
        format!("{{\"unknown\":{}{}}}", "[".repeat(9_000), "]".repeat(9_000)),
        "\u{0}".to_owned(),
        "{\"limit\":1e999999999}".to_owned(),
        "{\"limit\":123456789012345678901234567890}".to_owned(),
        "\"".repeat(99_999),
        "{\"key\":{}}".to_owned(),
        "{\"success\":[null]}".to_owned(),
        "{\"success\":{}}".to_owned(),
    ];
    for (path, _, _) in steps::ROUTES {
        if path.starts_with("election/") || matches!(*path, "watch" | "lock/lock") {
            continue;
        }
        for body in &bodies {
            let answer = post(endpoint, &format!("/v3/{path}"), body).await;
            // Fields that a message does not have are passed over, whatever they hold.
            let well = answer.status == "HTTP/1.1 200 OK";
            assert!(well || json(&answer.body).is_object(), "{path}: {answer:?}");
        }
    }
    let answer = post(endpoint, "/v3/maintenance/status", "").await;
    assert_eq!(answer.status, "HTTP/1.1 200 OK");
}
