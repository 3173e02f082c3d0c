//! Bytes on a connection: HTTP/1 as text, and HTTP/2 frame by frame, for what no library would send.

use std::collections::BTreeMap;
use std::time::Duration;

use ferrite_testkit::PATIENCE;
use loona_hpack::Decoder;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const RESET: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const CONTINUATION: u8 = 9;
pub const END_STREAM: u8 = 1;
pub const ACK: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// `host:port` of an endpoint.
pub fn address(endpoint: &str) -> &str {
    endpoint
        .split_once("://")
        .map_or(endpoint, |(_, rest)| rest)
}

pub async fn connect(endpoint: &str) -> TcpStream {
    TcpStream::connect(address(endpoint))
        .await
        .unwrap_or_else(|error| panic!("{endpoint}: {error}"))
}

/// Everything up to the other side's end; `None` if it does not come.
pub async fn to_the_end(
    stream: &mut (impl AsyncRead + Unpin),
    within: Duration,
) -> Option<Vec<u8>> {
    let mut all = Vec::new();
    let read = async {
        let mut piece = [0; 16 << 10];
        while let Ok(count @ 1..) = stream.read(&mut piece).await {
            all.extend_from_slice(&piece[..count]);
        }
    };
    tokio::time::timeout(within, read).await.ok()?;
    Some(all)
}

/// What is answered to these bytes, up to the end of the connection.
pub async fn told(endpoint: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(endpoint).await;
    // Whoever is turned away early may be cut off in the middle.
    let _cut = stream.write_all(bytes).await;
    to_the_end(&mut stream, PATIENCE)
        .await
        .unwrap_or_else(|| panic!("{endpoint} neither answers nor ends {bytes:?}"))
}

/// An answer by HTTP/1.
#[derive(Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: String,
    /// Names in small letters, without `date`.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Answer {
    pub fn of(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap_or_default().to_owned();
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
            .filter(|(name, _)| name != "date")
            .collect();
        Answer {
            status,
            headers,
            body: body.to_owned(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// One request by HTTP/1, with more header lines if need be.
pub async fn asked(endpoint: &str, method: &str, path: &str, more: &str) -> Answer {
    let host = if more.to_lowercase().contains("host:") {
        ""
    } else {
        "Host: localhost\r\n"
    };
    let request = format!("{method} {path} HTTP/1.1\r\n{host}{more}Connection: close\r\n\r\n");
    Answer::of(&told(endpoint, request.as_bytes()).await)
}

pub async fn get(endpoint: &str, path: &str) -> Answer {
    asked(endpoint, "GET", path, "").await
}

pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// A header block by which no table changes.
pub fn block(headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in headers {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("short"));
            assert!(text.len() < 127, "{text}");
            block.extend(text.as_bytes());
        }
    }
    block
}

/// The headers of a call, with more or others.
pub fn call(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let mut headers = vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", path),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ];
    for (name, value) in more {
        match headers.iter_mut().find(|(known, _)| known == name) {
            Some(known) => known.1 = value,
            None => headers.push((name, value)),
        }
    }
    block(&headers)
}

/// A message of gRPC.
pub fn message(compressed: bool, bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("short").to_be_bytes();
    [&[u8::from(compressed)][..], &length, bytes].concat()
}

/// A connection by HTTP/2.
pub struct Wire<S> {
    stream: S,
    decoder: Decoder<'static>,
    /// What the other side set, by number.
    pub settings: BTreeMap<u16, u32>,
}

/// A frame that came.
#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
    /// Of a header block, read.
    pub headers: BTreeMap<String, String>,
}

impl Wire<TcpStream> {
    pub async fn open(endpoint: &str) -> Self {
        Wire::over(connect(endpoint).await).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub async fn over(stream: S) -> Self {
        let mut wire = Wire {
            stream,
            decoder: Decoder::new(),
            settings: BTreeMap::new(),
        };
        wire.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat())
            .await;
        wire
    }

    /// Sends, if anybody still listens.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    pub async fn begin(&mut self, stream: u32, block: &[u8], body: &[u8]) {
        let head = frame(HEADERS, END_HEADERS, stream, block);
        let body = frame(DATA, END_STREAM, stream, body);
        self.send(&[head, body].concat()).await;
    }

    /// The next frame; `None` at the end.
    pub async fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).await.ok()?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.stream.read_exact(&mut payload).await.ok()?;
        if kind == SETTINGS && flags & ACK == 0 {
            for pair in payload.chunks_exact(6) {
                let name = u16::from_be_bytes([pair[0], pair[1]]);
                let value = u32::from_be_bytes([pair[2], pair[3], pair[4], pair[5]]);
                self.settings.insert(name, value);
            }
            self.send(&frame(SETTINGS, ACK, 0, &[])).await;
        }
        let mut headers = BTreeMap::new();
        if kind == HEADERS {
            // All of them: each may change the table for those that follow.
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            let read = self.decoder.decode(&payload).expect("a whole block");
            headers.extend(read.into_iter().map(|(n, v)| (text(n), text(v))));
        }
        Some(Frame {
            kind,
            flags,
            stream: u32::from_be_bytes(stream),
            payload,
            headers,
        })
    }

    /// The next frame of a kind; `None` at the end. Panics if neither comes.
    pub async fn next_of(&mut self, kind: u8) -> Option<Frame> {
        let next = async {
            loop {
                match self.next().await {
                    Some(frame) if frame.kind != kind => {}
                    other => return other,
                }
            }
        };
        tokio::time::timeout(PATIENCE, next)
            .await
            .unwrap_or_else(|_| panic!("no frame of kind {kind}, nor the end"))
    }

    /// The answer on a stream: headers and trailers in one, and the messages.
    pub async fn answer(&mut self, stream: u32) -> (BTreeMap<String, String>, Vec<u8>) {
        let (mut headers, mut body) = (BTreeMap::new(), Vec::new());
        let whole = async {
            while let Some(frame) = self.next().await {
                match frame.kind {
                    HEADERS if frame.stream == stream => headers.extend(frame.headers),
                    DATA if frame.stream == stream => body.extend(&frame.payload),
                    RESET if frame.stream == stream => {
                        let code = frame.payload.last().copied().unwrap_or_default();
                        headers.insert("reset".to_owned(), code.to_string());
                        return;
                    }
                    _ => {}
                }
                let ends = matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0;
                if frame.stream == stream && ends {
                    return;
                }
            }
        };
        tokio::time::timeout(PATIENCE, whole)
            .await
            .expect("the call is answered");
        (headers, body)
    }
}

/// Code and words of a GOAWAY.
pub fn goodbye(frame: &Frame) -> (u32, String) {
    let code: [u8; 4] = frame.payload[4..8].try_into().expect("four bytes");
    let words = String::from_utf8_lossy(&frame.payload[8..]).into_owned();
    (u32::from_be_bytes(code), words)
}
