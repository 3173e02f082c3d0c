//! Sends a database to a member that is too far behind for the log.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use ferrite_proto::raftpb::Message;
use http::Method;
use http_body_util::BodyExt;
use tokio::sync::mpsc;

use crate::body::ChannelBody;
use crate::client::{Conn, FetchError, HttpReply, Limits};
use crate::codec::encode_message;
use crate::config::SnapshotSource;
use crate::logfmt::{hex, human_bytes};
use crate::peer::Peer;
use crate::pipeline::{PostError, check_answer};
use crate::stats::{Inflight, add};

const PATH: &str = "/raft/snapshot";
/// Databases sent at once by this member, as in etcd.
const MAX_IN_FLIGHT: u64 = 16;
/// Bytes read from the file at once, and chunks waiting for the socket.
const CHUNK: usize = 128 << 10;
const CHUNKS: usize = 4;
/// Longest time the receiver may take no byte: it may be waiting for its disk or for another transfer.
const STALL: Duration = Duration::from_secs(60);
/// Longest time for the receiver to sync the file and answer, after the last byte.
const ANSWER: Duration = Duration::from_secs(300);
/// Longest time for the rest of an answer that has begun.
const ANSWER_BODY: Duration = Duration::from_secs(5);

/// Counts a transfer while it runs and reports its failure if nobody reported its end.
struct Transfer {
    peer: Arc<Peer>,
    reported: bool,
    _inflight: Inflight,
}

impl Transfer {
    fn report(&mut self, ok: bool) {
        if !std::mem::replace(&mut self.reported, true) {
            self.peer.core.handler.report_snapshot(self.peer.id, ok);
        }
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.peer.sending_snapshot.store(false, Ordering::Release);
        self.peer
            .core
            .sending_snapshots
            .fetch_sub(1, Ordering::AcqRel);
        self.report(false);
    }
}

/// Begins the transfer for a `MsgSnap`. One at a time to each member: while it runs, raft asks for no other.
pub(crate) fn start(peer: &Arc<Peer>, msg: Message) {
    let core = &peer.core;
    if peer.sending_snapshot.swap(true, Ordering::AcqRel) {
        tracing::warn!(
            "remote-peer-id" = hex(peer.id),
            "dropped a database snapshot since another one is being sent to the remote peer"
        );
        return;
    }
    if core.sending_snapshots.fetch_add(1, Ordering::AcqRel) >= MAX_IN_FLIGHT {
        core.sending_snapshots.fetch_sub(1, Ordering::AcqRel);
        peer.sending_snapshot.store(false, Ordering::Release);
        tracing::warn!(
            "remote-peer-id" = hex(peer.id),
            "in-flight" = MAX_IN_FLIGHT,
            "dropped a database snapshot since too many are being sent"
        );
        core.handler.report_snapshot(peer.id, false);
        return;
    }
    let transfer = Transfer {
        peer: peer.clone(),
        reported: false,
        _inflight: Inflight::new(peer.counters.clone(), |c| &c.snapshot_send_inflight),
    };
    peer.spawn(run(transfer, msg));
}

async fn run(mut transfer: Transfer, msg: Message) {
    let peer = transfer.peer.clone();
    let core = peer.core.clone();
    let begun = Instant::now();
    let index = snapshot_index(&msg);
    let handler = core.handler.clone();
    let source = match tokio::task::spawn_blocking(move || handler.open_snapshot(&msg)).await {
        Ok(Ok(source)) => source,
        Ok(Err(error)) => return failed(&mut transfer, index, 0, &error),
        Err(error) => return failed(&mut transfer, index, 0, &error.to_string()),
    };
    let size = source.size;
    let index = snapshot_index(&source.message);
    tracing::info!(
        "snapshot-index" = index,
        "remote-peer-id" = hex(peer.id),
        bytes = size,
        size = human_bytes(size),
        "sending database snapshot"
    );
    let Some(url) = peer.picker.pick() else {
        let error = "the member has no peer URL that can be used";
        return failed(&mut transfer, index, size, error);
    };
    match post(&peer, &url, source).await {
        Ok(()) => {
            peer.status.activate();
            peer.sent(size);
            add(&peer.counters.snapshot_send_success, 1);
            peer.counters.snapshot_send_seconds.observe(begun.elapsed());
            tracing::info!(
                "snapshot-index" = index,
                "remote-peer-id" = hex(peer.id),
                bytes = size,
                size = human_bytes(size),
                "sent database snapshot"
            );
            transfer.report(true);
        }
        Err(error) => {
            peer.picker.unreachable(&url);
            failed(&mut transfer, index, size, &error.to_string());
        }
    }
}

fn snapshot_index(msg: &Message) -> u64 {
    msg.snapshot
        .as_ref()
        .and_then(|s| s.metadata.as_ref())
        .map_or(0, |m| m.index)
}

fn failed(transfer: &mut Transfer, index: u64, size: u64, error: &str) {
    let peer = transfer.peer.clone();
    tracing::warn!(
        "snapshot-index" = index,
        "remote-peer-id" = hex(peer.id),
        bytes = size,
        size = human_bytes(size),
        error,
        "failed to send database snapshot"
    );
    peer.status.deactivate("sendMsgSnap", "post", error);
    add(&peer.counters.sent_failures, 1);
    add(&peer.counters.snapshot_send_failures, 1);
    peer.core.handler.report_unreachable(peer.id);
    transfer.report(false);
}

async fn post(
    peer: &Arc<Peer>,
    url: &Arc<crate::url::PeerUrl>,
    source: SnapshotSource,
) -> Result<(), PostError> {
    let core = &peer.core;
    let limits = Limits {
        dial: core.config.dial_timeout,
        read: Some(ANSWER),
        write: Some(STALL),
    };
    let mut conn = Conn::open(&*core.connector, url, limits).await?;
    let (chunks, body) = mpsc::channel(CHUNKS);
    tokio::task::spawn_blocking(move || read_out(source, &chunks));
    let request = core
        .headers
        .request(Method::POST, url, PATH)
        .header(http::header::CONTENT_TYPE, "application/octet-stream")
        .body(ChannelBody::new(body).boxed_unsync())
        .map_err(FetchError::from)?;
    let (parts, mut body) = conn.send(request).await?.into_parts();
    let text = match tokio::time::timeout(ANSWER_BODY, conn.collect(&mut body, 64 << 10)).await {
        Ok(text) => text?,
        Err(_) => {
            let error = FetchError::Timeout {
                url: url.to_string(),
                limit: ANSWER_BODY,
            };
            return Err(error.into());
        }
    };
    let reply = HttpReply {
        status: parts.status,
        headers: parts.headers,
        body: text,
    };
    match check_answer(peer, url, PATH, &reply) {
        // The text says what the receiver did not like.
        Err(PostError::Other(error)) => Err(PostError::Other(format!(
            "{error}: {}",
            String::from_utf8_lossy(&reply.body).trim_end()
        ))),
        other => other,
    }
}

/// Runs on a blocking thread; ends when the receiver of `chunks` is gone.
fn read_out(source: SnapshotSource, chunks: &mpsc::Sender<io::Result<Bytes>>) {
    let SnapshotSource {
        message,
        size,
        mut read,
    } = source;
    let mut head = BytesMut::new();
    encode_message(&message, &mut head);
    if chunks.blocking_send(Ok(head.freeze())).is_err() {
        return;
    }
    let mut left = size;
    while left > 0 {
        let want = CHUNK.min(usize::try_from(left).unwrap_or(CHUNK));
        let mut chunk = vec![0; want];
        let chunk = match read.read(&mut chunk) {
            Ok(0) => {
                let text = format!("the database ended {left} bytes before its size of {size}");
                Err(io::Error::new(io::ErrorKind::UnexpectedEof, text))
            }
            Ok(n) => {
                left -= n as u64;
                chunk.truncate(n);
                Ok(Bytes::from(chunk))
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => Err(e),
        };
        let stop = chunk.is_err();
        if chunks.blocking_send(chunk).is_err() || stop {
            return;
        }
    }
}
