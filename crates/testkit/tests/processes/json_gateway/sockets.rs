//! WebSockets.

use ferrite_testkit::{Kind, PATIENCE};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{json, kinds, one, post};
use crate::beside_others;
use crate::wire::{Answer, asked, connect};

/// A WebSocket, as a client sees it.
struct Socket(TcpStream);

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

impl Socket {
    async fn open(endpoint: &str, path: &str, more: &str) -> (Self, Answer) {
        let mut stream = connect(endpoint).await;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{more}\r\n"
        );
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let read = tokio::time::timeout(PATIENCE, stream.read_u8()).await;
            head.push(read.expect("in time").expect("a head"));
        }
        (Socket(stream), Answer::of(&head))
    }

    async fn say(&mut self, kind: u8, payload: &[u8]) {
        let mut frame = vec![kind];
        match u8::try_from(payload.len()) {
            Ok(length @ ..126) => frame.push(0x80 | length),
            _ => {
                frame.push(0x80 | 126);
                let length = u16::try_from(payload.len()).expect("short");
                frame.extend(length.to_be_bytes());
            }
        }
        let mask = [9, 8, 7, 6];
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
        self.0.write_all(&frame).await.expect("sent");
    }

    /// The next frame's first byte and payload; `None` at the end.
    async fn hear(&mut self) -> Option<(u8, Vec<u8>)> {
        let heard = async {
            let kind = self.0.read_u8().await.ok()?;
            let length = match self.0.read_u8().await.ok()? {
                126 => u64::from(self.0.read_u16().await.ok()?),
                127 => self.0.read_u64().await.ok()?,
                length => u64::from(length),
            };
            let mut payload = vec![0; usize::try_from(length).ok()?];
            self.0.read_exact(&mut payload).await.ok()?;
            Some((kind, payload))
        };
        tokio::time::timeout(PATIENCE, heard)
            .await
            .expect("in time")
    }

    async fn json(&mut self) -> Value {
        let (kind, text) = self.hear().await.expect("a message");
        assert_eq!(kind, TEXT);
        json(&String::from_utf8_lossy(&text))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_carry_streams() {
    let _turn = beside_others().await;
    for kind in kinds() {
        let cluster = one(kind, &[]).await;
        let endpoint = cluster.member(0).endpoint();
        let (mut socket, head) = Socket::open(endpoint, "/v3/watch", "").await;
        assert_eq!(head.status, "HTTP/1.1 101 Switching Protocols", "{kind:?}");
        assert_eq!(
            head.header("sec-websocket-accept"),
            Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")
        );
        assert_eq!(head.header("sec-websocket-protocol"), None);
        socket
            .say(TEXT, br#"{"create_request":{"key":"YQ=="}}"#)
            .await;
        assert_eq!(socket.json().await["result"]["created"], true, "{kind:?}");
        post(endpoint, "/v3/kv/put", r#"{"key":"YQ==","value":"MQ=="}"#).await;
        let heard = socket.json().await;
        assert_eq!(
            heard["result"]["events"][0]["kv"]["value"], "MQ==",
            "{kind:?}"
        );
        // A value in two messages, each of them whole in its frame.
        socket.say(TEXT, br#"{"create_request":"#).await;
        socket.say(TEXT, br#"{"key":"Yg==","watch_id":"3"}}"#).await;
        assert_eq!(socket.json().await["result"]["watch_id"], "3", "{kind:?}");
        socket.say(PING, b"there?").await;
        assert_eq!(
            socket.hear().await,
            Some((PONG, b"there?".to_vec())),
            "{kind:?}"
        );
        socket.say(CLOSE, &1000_u16.to_be_bytes()).await;
        assert_eq!(
            socket.hear().await,
            Some((CLOSE, 1000_u16.to_be_bytes().to_vec())),
            "{kind:?}"
        );
        assert_eq!(socket.hear().await, None, "{kind:?}");

        // What is no handshake.
        let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
        for more in [
            upgrade.to_owned(),
            format!("{upgrade}Sec-WebSocket-Version: 13\r\n"),
            format!(
                "{upgrade}Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            ),
        ] {
            let more = more.replace("Connection: Upgrade\r\n", "Connection: x, Upgrade\r\n");
            let answer = asked(endpoint, "GET", "/v3/watch", &more).await;
            assert_eq!(
                answer.status, "HTTP/1.1 400 Bad Request",
                "{kind:?}: {answer:?}"
            );
        }

        // Unary calls and errors are messages too, and end it. The original waits until its client goes.
        if kind != Kind::Ferrite {
            continue;
        }
        let (mut socket, _) = Socket::open(endpoint, "/v3/kv/range", "").await;
        socket.say(TEXT, br#"{"key":"YQ=="}"#).await;
        assert_eq!(socket.json().await["count"], "1", "{kind:?}");
        assert_eq!(socket.hear().await, None, "{kind:?}");
        let (mut socket, _) = Socket::open(endpoint, "/v3/kv/put", "").await;
        socket.say(TEXT, b"{}").await;
        assert_eq!(socket.json().await["code"], 3, "{kind:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn websockets_bring_tokens_and_break_no_rules() {
    let _turn = beside_others().await;
    let cluster = one(Kind::Ferrite, &[]).await;
    let endpoint = cluster.member(0).endpoint();
    for (path, body) in [
        ("user/add", r#"{"name":"root","password":"p"}"#),
        ("role/add", r#"{"name":"root"}"#),
        ("user/grant", r#"{"user":"root","role":"root"}"#),
        ("enable", ""),
    ] {
        let answer = post(endpoint, &format!("/v3/auth/{path}"), body).await;
        assert_eq!(answer.status, "HTTP/1.1 200 OK", "{path}: {answer:?}");
    }
    let answer = post(
        endpoint,
        "/v3/auth/authenticate",
        r#"{"name":"root","password":"p"}"#,
    )
    .await;
    let token = json(&answer.body)["token"]
        .as_str()
        .expect("a token")
        .to_owned();
    for (more, let_in) in [
        (format!("Sec-WebSocket-Protocol: Bearer, {token}\r\n"), true),
        (format!("Cookie: a=b; token={token}\r\n"), true),
        (
            "Sec-WebSocket-Protocol: Bearer, nobody.1\r\n".to_owned(),
            false,
        ),
        ("Sec-WebSocket-Protocol: chat\r\n".to_owned(), false),
        (String::new(), false),
    ] {
        let (mut socket, head) = Socket::open(endpoint, "/v3/kv/range", &more).await;
        assert_eq!(head.status, "HTTP/1.1 101 Switching Protocols", "{more}");
        let bearer = head.header("sec-websocket-protocol");
        assert_eq!(bearer == Some("Bearer"), more.contains("Bearer"), "{more}");
        socket.say(TEXT, br#"{"key":"YQ=="}"#).await;
        let answer = socket.json().await;
        assert_eq!(answer.get("header").is_some(), let_in, "{more}: {answer}");
    }
    // Frames that nobody sends.
    let (mut socket, _) = Socket::open(endpoint, "/v3/watch", "").await;
    socket.say(0x83, b"x").await;
    let ended = Some((CLOSE, 1002_u16.to_be_bytes().to_vec()));
    assert_eq!(socket.hear().await, ended);
    assert_eq!(socket.hear().await, None);
    // One that stays open does not hold up the end.
    let (_socket, _) = Socket::open(endpoint, "/v3/watch", "").await;
    cluster.member(0).terminate().await;
}
