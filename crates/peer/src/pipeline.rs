//! The fallback channel: each message in a POST of its own.

use std::sync::Arc;
use std::time::Duration;

use ferrite_proto::raftpb::MessageType;
use http::{Method, StatusCode};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::Notify;

use crate::body::full_body;
use crate::client::{Conn, FetchError, HttpReply, Limits};
use crate::headers::{CLUSTER_ID, Incompatible, text};
use crate::logfmt::hex;
use crate::peer::Peer;
use crate::queue::{Lanes, Queued};
use crate::stats::add;
use crate::url::PeerUrl;

/// Posting tasks for each member. The first takes no bulk, so that heartbeats do not wait for large appends.
pub(crate) const WORKERS: usize = 4;
const MAX_COUNT: usize = 64;
const MAX_BYTES: usize = 64 << 20;
/// A POST without an answer for this long has failed. etcd waits without end, with a worker each.
const POST_TIMEOUT: Duration = Duration::from_secs(30);
/// Our idle connections are closed before the other side's read deadline closes them under a request.
const IDLE: Duration = Duration::from_secs(3);
const ANSWER_LIMIT: usize = 64 << 10;

pub(crate) struct PipelineQueue {
    lanes: Mutex<(Lanes, bool)>,
    any: Notify,
    urgent: Notify,
}

impl PipelineQueue {
    pub(crate) fn new() -> PipelineQueue {
        PipelineQueue {
            lanes: Mutex::new((Lanes::new(MAX_COUNT, MAX_BYTES), false)),
            any: Notify::new(),
            urgent: Notify::new(),
        }
    }

    pub(crate) fn push(&self, item: Queued) -> Result<(), Queued> {
        let bulk = item.msg.msg_type == MessageType::MsgApp as i32;
        {
            let mut guard = self.lanes.lock();
            if guard.1 {
                return Err(item);
            }
            guard.0.push(item)?;
        }
        self.any.notify_one();
        if !bulk {
            self.urgent.notify_one();
        }
        Ok(())
    }

    pub(crate) fn close(&self) {
        let mut guard = self.lanes.lock();
        guard.1 = true;
        guard.0.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.lanes.lock().0.len()
    }

    async fn pop(&self, with_bulk: bool) -> Queued {
        loop {
            if let Some(item) = self.lanes.lock().0.pop(with_bulk) {
                return item;
            }
            if with_bulk {
                self.any.notified().await
            } else {
                self.urgent.notified().await
            }
        }
    }
}

/// Why a POST to a peer did not do what it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("{0}")]
    Incompatible(Incompatible),
    #[error("the member has been permanently removed from the cluster")]
    Removed,
    #[error("{0}")]
    Other(String),
}

/// Whether an answer says that the message was for somebody else.
fn names_mismatch(body: &[u8]) -> bool {
    String::from_utf8_lossy(body).contains("to mismatch member")
}

/// Judges the answer to a POST of a message or a snapshot.
pub(crate) fn check_answer(
    peer: &Peer,
    url: &PeerUrl,
    path: &str,
    reply: &HttpReply,
) -> Result<(), PostError> {
    match reply.status {
        StatusCode::NO_CONTENT => Ok(()),
        // Whoever has only reached the wrong member is told so with the same status.
        StatusCode::FORBIDDEN if names_mismatch(&reply.body) => Err(PostError::Other(format!(
            "another member than {} answers at {url}: a wrong data folder, or a wrong initial-cluster-state, there",
            hex(peer.id)
        ))),
        StatusCode::FORBIDDEN => {
            tracing::warn!(
                "local-member-id" = hex(peer.core.config.member_id),
                "remote-peer-id" = hex(peer.id),
                url = %url,
                "a member says that this one was removed from the cluster"
            );
            peer.core.handler.removed_by_cluster();
            Err(PostError::Removed)
        }
        StatusCode::PRECONDITION_FAILED => {
            let body = String::from_utf8_lossy(&reply.body);
            let body = body.strip_suffix('\n').unwrap_or(&body);
            if body == Incompatible::Version.to_string() {
                tracing::error!(
                    "remote-peer-id" = hex(peer.id),
                    "request sent was ignored by peer"
                );
                Err(PostError::Incompatible(Incompatible::Version))
            } else if body == Incompatible::Cluster.to_string() {
                tracing::error!(
                    "remote-peer-id" = hex(peer.id),
                    "remote-peer-cluster-id" = text(&reply.headers, CLUSTER_ID),
                    "local-member-cluster-id" = hex(peer.core.config.cluster_id),
                    "request sent was ignored due to cluster ID mismatch"
                );
                Err(PostError::Incompatible(Incompatible::Cluster))
            } else {
                Err(PostError::Other(format!(
                    "unhandled error {body:?} when precondition failed"
                )))
            }
        }
        status => Err(PostError::Other(format!(
            "unexpected http status {} while posting to \"{url}{path}\"",
            status.canonical_reason().unwrap_or(status.as_str())
        ))),
    }
}

pub(crate) async fn run(peer: Arc<Peer>, worker: usize) {
    let mut kept: Option<(Conn, Arc<PeerUrl>)> = None;
    loop {
        let item = if kept.is_some() {
            match tokio::time::timeout(IDLE, peer.pipeline.pop(worker > 0)).await {
                Ok(item) => item,
                Err(_) => {
                    kept = None;
                    continue;
                }
            }
        } else {
            peer.pipeline.pop(worker > 0).await
        };
        match post(&peer, &mut kept, &item).await {
            Ok(()) => {
                peer.status.activate();
                peer.sent(item.len as u64);
            }
            Err(error) => {
                kept = None;
                peer.status
                    .deactivate("pipeline", "write", &error.to_string());
                add(&peer.counters.sent_failures, 1);
                peer.core.handler.report_unreachable(peer.id);
            }
        }
    }
}

async fn post(
    peer: &Peer,
    kept: &mut Option<(Conn, Arc<PeerUrl>)>,
    item: &Queued,
) -> Result<(), PostError> {
    let Some(url) = peer.picker.pick() else {
        return Err(PostError::Other(
            "the member has no peer URL that can be used".to_owned(),
        ));
    };
    let work = async {
        let body = bytes::Bytes::from(item.msg.encode_to_vec());
        let usable = match kept.take() {
            Some((conn, of)) if of == url => conn.ready().await,
            _ => None,
        };
        let mut reply = None;
        if let Some(mut conn) = usable {
            // On failure the other side closed it just now: once more on a new one. Raft messages may come twice.
            reply = exchange(peer, &mut conn, &url, body.clone()).await.ok();
            *kept = Some((conn, url.clone()));
        }
        let reply = match reply {
            Some(reply) => reply,
            None => {
                let config = &peer.core.config;
                let limits = Limits {
                    dial: config.dial_timeout,
                    read: None,
                    write: Some(config.write_timeout),
                };
                let mut conn = Conn::open(&*peer.core.connector, &url, limits).await?;
                let reply = exchange(peer, &mut conn, &url, body).await?;
                *kept = Some((conn, url.clone()));
                reply
            }
        };
        check_answer(peer, &url, "/raft", &reply)
    };
    let result = match tokio::time::timeout(POST_TIMEOUT, work).await {
        Ok(result) => result,
        Err(_) => Err(FetchError::Timeout {
            url: url.to_string(),
            limit: POST_TIMEOUT,
        }
        .into()),
    };
    if result.is_err() {
        peer.picker.unreachable(&url);
    }
    result
}

async fn exchange(
    peer: &Peer,
    conn: &mut Conn,
    url: &PeerUrl,
    body: bytes::Bytes,
) -> Result<HttpReply, FetchError> {
    let request = peer
        .core
        .headers
        .request(Method::POST, url, "/raft")
        .header(http::header::CONTENT_TYPE, "application/protobuf")
        .body(full_body(body))?;
    let (parts, mut body) = conn.send(request).await?.into_parts();
    let body = conn.collect(&mut body, ANSWER_LIMIT).await?;
    Ok(HttpReply {
        status: parts.status,
        headers: parts.headers,
        body,
    })
}
