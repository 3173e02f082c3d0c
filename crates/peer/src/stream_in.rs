//! The receiving side of a stream: dials the peer, decodes what it sends, dials again.

use std::sync::Arc;
use std::time::Duration;

use ferrite_proto::raftpb::Message;
use http::{Method, StatusCode};
use hyper::body::Incoming;
use prost::Message as _;

use crate::body::full_body;
use crate::client::{Conn, FetchError, Limits, chain};
use crate::codec::{AppDecoder, DecodeError, MESSAGE_LIMIT, MessageDecoder, is_link_heartbeat};
use crate::headers::{self, CLUSTER_ID, Incompatible, RAFT_TO, SERVER_VERSION};
use crate::logfmt::hex;
use crate::peer::{Peer, StreamKind};
use crate::stats::add;

/// Shortest time between two dials.
const REDIAL_MIN: Duration = Duration::from_millis(100);
/// Longest: it bounds how long a member that came back stays without streams from it.
const REDIAL_MAX: Duration = Duration::from_millis(500);
/// Longest error text read from a peer.
const ERROR_BODY: usize = 64 << 10;

enum DialError {
    /// The peer is too old for streams: nothing is wrong with the connection.
    Unsupported,
    Failed(String),
}

enum Decoder {
    App(AppDecoder),
    Message(MessageDecoder),
}

impl Decoder {
    fn new(peer: &Peer, kind: StreamKind) -> Decoder {
        match kind {
            StreamKind::App => Decoder::App(AppDecoder::new(peer.core.config.member_id, peer.id)),
            StreamKind::Message => Decoder::Message(MessageDecoder::new(MESSAGE_LIMIT)),
        }
    }

    fn feed(&mut self, bytes: &[u8]) {
        match self {
            Decoder::App(d) => d.feed(bytes),
            Decoder::Message(d) => d.feed(bytes),
        }
    }

    fn next_message(&mut self) -> Result<Option<Message>, DecodeError> {
        match self {
            Decoder::App(d) => d.next_message(),
            Decoder::Message(d) => d.next_message(),
        }
    }
}

pub(crate) async fn run(peer: Arc<Peer>, kind: StreamKind) {
    let local = hex(peer.core.config.member_id);
    let remote = hex(peer.id);
    tracing::info!(
        "stream-reader-type" = kind.name(),
        "local-member-id" = local,
        "remote-peer-id" = remote,
        "started stream reader with remote peer"
    );
    let mut changes = peer.status.subscribe();
    let mut delay = REDIAL_MIN;
    loop {
        let begun = tokio::time::Instant::now();
        changes.mark_unchanged();
        match dial(&peer, kind).await {
            Err(DialError::Unsupported) => {}
            Err(DialError::Failed(error)) => peer.status.deactivate(kind.name(), "dial", &error),
            Ok((mut conn, mut body)) => {
                delay = REDIAL_MIN;
                peer.status.activate();
                tracing::info!(
                    "stream-reader-type" = kind.name(),
                    "local-member-id" = local,
                    "remote-peer-id" = remote,
                    "established TCP streaming connection with remote peer"
                );
                let lost = read(&peer, kind, &mut conn, &mut body).await;
                let error = lost.as_deref().unwrap_or("EOF");
                tracing::warn!(
                    "stream-reader-type" = kind.name(),
                    "local-member-id" = local,
                    "remote-peer-id" = remote,
                    error,
                    "lost TCP streaming connection with remote peer"
                );
                // After a clean end the next dial tells whether the peer is gone.
                if lost.is_some() {
                    peer.status.deactivate(kind.name(), "read", error);
                }
                peer.status.poke();
                changes.mark_unchanged();
            }
        }
        tokio::time::sleep_until(begun + REDIAL_MIN).await;
        // Sooner when the peer shows itself, which it does by dialling us.
        let _ = tokio::time::timeout_at(begun + delay, async {
            loop {
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
                if peer.status.is_active() {
                    break;
                }
            }
        })
        .await;
        delay = (delay * 5 / 4).min(REDIAL_MAX);
    }
}

/// Reads until the stream ends: `None` at a clean end, otherwise the error.
async fn read(
    peer: &Peer,
    kind: StreamKind,
    conn: &mut Conn,
    body: &mut Incoming,
) -> Option<String> {
    let mut decoder = Decoder::new(peer, kind);
    loop {
        match conn.chunk(body).await {
            Ok(Some(chunk)) => decoder.feed(&chunk),
            Ok(None) => return None,
            Err(FetchError::Http(e)) if e.is_incomplete_message() => return None,
            Err(FetchError::Http(e)) => return Some(chain(&e)),
            Err(e) => return Some(e.to_string()),
        }
        loop {
            match decoder.next_message() {
                Ok(None) => break,
                Ok(Some(msg)) => {
                    add(&peer.counters.received_bytes, msg.encoded_len() as u64);
                    if !is_link_heartbeat(&msg) {
                        peer.received(msg);
                    }
                }
                Err(e) => {
                    add(&peer.counters.received_failures, 1);
                    return Some(e.to_string());
                }
            }
        }
    }
}

async fn dial(peer: &Peer, kind: StreamKind) -> Result<(Conn, Incoming), DialError> {
    let Some(url) = peer.picker.pick() else {
        return Err(DialError::Failed(
            "the member has no peer URL that can be used".to_owned(),
        ));
    };
    let result = dial_url(peer, kind, &url).await;
    if let Err(error) = &result {
        peer.picker.unreachable(&url);
        if let DialError::Failed(error) = error {
            tracing::debug!(
                from = hex(peer.core.config.member_id),
                to = hex(peer.id),
                address = %url,
                error,
                "failed to dial stream reader"
            );
        }
    }
    result
}

async fn dial_url(
    peer: &Peer,
    kind: StreamKind,
    url: &crate::url::PeerUrl,
) -> Result<(Conn, Incoming), DialError> {
    let fail = |e: FetchError| DialError::Failed(e.to_string());
    let core = &peer.core;
    let config = &core.config;
    let path = format!("{}/{:x}", kind.path(), config.member_id);
    let request = core
        .headers
        .request(Method::GET, url, &path)
        .header(RAFT_TO, hex(peer.id))
        .body(full_body(""))
        .map_err(|e| DialError::Failed(format!("failed to make http request to {url} ({e})")))?;
    let limits = Limits {
        dial: config.dial_timeout,
        read: Some(config.read_timeout),
        write: Some(config.write_timeout),
    };
    let mut conn = Conn::open(&*core.connector, url, limits)
        .await
        .map_err(fail)?;
    let (parts, mut body) = conn.send(request).await.map_err(fail)?.into_parts();

    let remote = headers::major_minor(&parts.headers, SERVER_VERSION);
    let local = headers::parse_major_minor(&config.server_version).unwrap_or((3, 7));
    if !headers::has_streams(remote, local) {
        return Err(DialError::Unsupported);
    }
    let failed = |text: String| Err(DialError::Failed(text));
    match parts.status {
        StatusCode::OK => Ok((conn, body)),
        StatusCode::GONE => {
            tracing::warn!(
                "local-member-id" = hex(config.member_id),
                "remote-peer-id" = hex(peer.id),
                url = %url,
                "a member says that this one was removed from the cluster"
            );
            core.handler.removed_by_cluster();
            failed("the member has been permanently removed from the cluster".to_owned())
        }
        StatusCode::NOT_FOUND => failed(format!(
            "peer {} failed to find local node {}",
            hex(peer.id),
            hex(config.member_id)
        )),
        StatusCode::PRECONDITION_FAILED => {
            let text = conn.collect(&mut body, ERROR_BODY).await.map_err(fail)?;
            let text = String::from_utf8_lossy(&text);
            let text = text.strip_suffix('\n').unwrap_or(&text);
            if text == Incompatible::Version.to_string() {
                tracing::warn!(
                    "local-member-id" = hex(config.member_id),
                    "remote-peer-id" = hex(peer.id),
                    error = text,
                    "request sent was ignored by remote peer due to server version incompatibility"
                );
                return failed(text.to_owned());
            }
            if text == Incompatible::Cluster.to_string() {
                tracing::warn!(
                    "remote-peer-id" = hex(peer.id),
                    "remote-peer-cluster-id" = headers::text(&parts.headers, CLUSTER_ID),
                    "local-member-id" = hex(config.member_id),
                    "local-member-cluster-id" = hex(config.cluster_id),
                    error = text,
                    "request sent was ignored by remote peer due to cluster ID mismatch"
                );
                return failed(text.to_owned());
            }
            failed(format!("unhandled error {text:?} when precondition failed"))
        }
        status => failed(format!("unhandled http status {}", status.as_u16())),
    }
}
