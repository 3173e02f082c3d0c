//! The gRPC services, one thin file each: check, ask the node, fill the header.

pub mod access;
pub mod auth;
pub mod cluster;
pub mod contest;
pub mod election;
pub mod health;
pub mod inside;
pub mod kv;
pub mod leader;
pub mod lease;
pub mod lock;
pub mod maintenance;
pub mod range_stream;
pub mod slices;
pub mod stats;
pub mod traced;
pub mod watch;

use std::sync::Arc;

use ferrite_membership::Version;
use ferrite_node::Node;
use ferrite_proto::etcdserverpb::ResponseHeader;
use tonic::metadata::MetadataMap;
use tonic::{Code, Response, Status};

use crate::auth::Gate;
use crate::door::Loads;
use crate::errors;
use crate::listen::Calls;
use crate::room::Room;
use crate::spans::Tracer;
use crate::untaken::{self, Weight};
use crate::web::Rules;
use leader::LeaderLost;

/// What every service holds.
#[derive(Clone)]
pub struct Context {
    /// The member.
    pub node: Node,
    /// Recognises callers.
    pub gate: Arc<Gate>,
    /// Silence after which watchers that ask for it are told how far they are.
    pub progress_interval: std::time::Duration,
    /// Unary calls that take longer are logged.
    pub warn_unary: std::time::Duration,
    /// What the health service says.
    pub serving: Serving,
    /// Heard by streams that require a leader.
    pub leader_lost: LeaderLost,
    /// Traces requests, where that is on.
    pub tracer: Option<Arc<Tracer>>,
    /// What is allowed of plain HTTP.
    pub rules: Arc<Rules>,
    /// What is allowed of calls and pings.
    pub calls: Calls,
    /// Places for connections.
    pub room: Room,
    /// What the threads that serve have to do.
    pub loads: Loads,
}

/// Whether this member serves, as the health service says it.
#[derive(Clone)]
pub struct Serving {
    says: Arc<tokio::sync::watch::Sender<bool>>,
    /// Say no while the database is defragmented.
    stop_on_defragment: bool,
}

impl Serving {
    /// It does.
    pub fn new(stop_on_defragment: bool) -> Self {
        Serving {
            says: Arc::new(tokio::sync::watch::Sender::new(true)),
            stop_on_defragment,
        }
    }

    /// What is said, and what will be.
    pub fn subscribe(&self) -> tokio::sync::watch::Receiver<bool> {
        self.says.subscribe()
    }

    /// A defragmentation begins; it ends when the guard is dropped.
    pub fn defragmenting(&self) -> Defragmenting {
        if self.stop_on_defragment {
            tracing::warn!(
                service = "",
                status = "NOT_SERVING",
                reason = "defrag is active",
                "grpc service status changed"
            );
            self.says.send_replace(false);
        }
        Defragmenting(self.clone())
    }
}

/// See [`Serving::defragmenting`].
pub struct Defragmenting(Serving);

impl Drop for Defragmenting {
    fn drop(&mut self) {
        // Whoever listens hears of changes only.
        if self
            .0
            .says
            .send_if_modified(|says| !std::mem::replace(says, true))
        {
            tracing::info!(
                service = "",
                status = "SERVING",
                "grpc service status changed"
            );
        }
    }
}

impl Context {
    /// A header with this revision.
    pub fn header(&self, revision: i64) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.node.cluster_id(),
            member_id: self.node.member_id(),
            revision,
            raft_term: self.node.status().term(),
        }
    }

    /// A header with the current revision.
    pub fn header_now(&self) -> ResponseHeader {
        self.header(self.node.store().current_revision())
    }

    /// Completes a header that came out of apply with at most a revision.
    pub fn complete(&self, header: Option<ResponseHeader>) -> Option<ResponseHeader> {
        let revision = header
            .map(|header| header.revision)
            .filter(|revision| *revision != 0)
            .unwrap_or_else(|| self.node.store().current_revision());
        Some(self.header(revision))
    }

    /// Whether this member is a learner.
    pub fn is_learner(&self) -> bool {
        let cluster = self.node.published().get_cluster();
        cluster
            .member(self.node.member_id())
            .is_some_and(|member| member.is_learner)
    }

    /// The checks every call passes first, in etcd's order: learner, client version, leader.
    ///
    /// # Errors
    /// The status to answer with.
    pub fn admit(&self, metadata: &MetadataMap, served_by_learner: bool) -> Result<(), Status> {
        self.judge(metadata, served_by_learner, false)
    }

    /// As [`Context::admit`], for calls that are streams.
    ///
    /// # Errors
    /// The status to answer with.
    pub fn admit_stream(
        &self,
        metadata: &MetadataMap,
        served_by_learner: bool,
    ) -> Result<(), Status> {
        self.judge(metadata, served_by_learner, true)
    }

    fn judge(
        &self,
        metadata: &MetadataMap,
        served_by_learner: bool,
        stream: bool,
    ) -> Result<(), Status> {
        if !served_by_learner && self.is_learner() {
            return Err(errors::not_for_learner());
        }
        if let Some(version) = metadata.get("client-api-version")
            && std::str::from_utf8(version.as_bytes()).is_err()
        {
            return Err(errors::invalid_api_version());
        }
        self.count(metadata, stream);
        if wants_leader(metadata) && self.node.status().leader() == 0 {
            return Err(errors::no_leader());
        }
        Ok(())
    }

    /// Counts a call by the version that its client names. What the member asks itself has no content type.
    fn count(&self, metadata: &MetadataMap, stream: bool) {
        if !metadata.contains_key("content-type") {
            return;
        }
        let version = metadata
            .get("client-api-version")
            .and_then(|version| std::str::from_utf8(version.as_bytes()).ok())
            .unwrap_or("unknown");
        let [unary, streams] = self.node.metrics().client_requests.of(version);
        if stream { streams } else { unary }.inc();
    }

    /// Refuses a write for which the database has no room, and raises the alarm.
    ///
    /// # Errors
    /// The status to answer with.
    pub fn room(&self, cost: u64) -> Result<(), Status> {
        let node = &self.node;
        let Some(quota) = node.config().quota_bytes else {
            return Ok(());
        };
        if cost == 0 || node.store().backend().size() + cost < quota {
            return Ok(());
        }
        let node = node.clone();
        tokio::spawn(async move {
            ferrite_node::tasks::raise_alarm(
                &node,
                node.member_id(),
                ferrite_proto::etcdserverpb::AlarmType::Nospace,
            )
            .await;
        });
        Err(errors::no_space())
    }

    /// Data calls are refused while the cluster's version is one that does not have them. Before it is
    /// decided they are served, as in the original, whose table starts with everything enabled.
    ///
    /// # Errors
    /// The status to answer with.
    pub fn capable(&self) -> Result<(), Status> {
        capable_at(self.node.published().get_cluster().version)
    }
}

fn capable_at(version: Option<Version>) -> Result<(), Status> {
    match version {
        Some(version) if version.major < 3 => Err(errors::not_capable()),
        Some(_) | None => Ok(()),
    }
}

/// The status for an answer of a kind that the request cannot have.
pub fn mismatched() -> Status {
    Status::internal("the answer does not belong to the request")
}

/// Larger answers are not compressed, whoever asks for it: it would hold up all others on the thread.
const COMPRESSED_MAX: usize = 1 << 20;

/// Whether a call's messages come compressed, and so its answers are to be.
pub fn compresses(metadata: &MetadataMap) -> bool {
    metadata.contains_key("grpc-encoding")
}

/// An answer of any size.
pub fn answer<T: prost::Message>(message: T, compressed: bool) -> Response<T> {
    let length = message.encoded_len();
    let mut response = Response::new(message);
    if compressed && length > COMPRESSED_MAX {
        response.disable_compression();
    }
    if length >= untaken::COUNTED_FROM {
        response.extensions_mut().insert(Weight(length));
    }
    response
}

/// Whether the client asks to be refused, or left, by a member that knows no leader.
pub fn wants_leader(metadata: &MetadataMap) -> bool {
    metadata
        .get("hasleader")
        .is_some_and(|value| value.as_bytes() == b"true")
}

/// Whether a stream failed by what was sent, and not because its client went away.
pub fn is_failure(status: &Status) -> bool {
    // What is wrong with a connection has the connection's error behind it.
    status.code() != Code::Cancelled && std::error::Error::source(status).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_of_version_2_has_no_data_calls() {
        let told = |text: &str| capable_at(Some(text.parse().expect("a version")));
        for version in ["2.0.0", "2.3.8"] {
            let refused = told(version).expect_err("refused");
            assert_eq!(
                (refused.code(), refused.message()),
                (Code::FailedPrecondition, "etcdserver: not capable")
            );
        }
        // From 3.0 on, and while none is decided: the original starts with everything enabled.
        for version in ["3.0.0", "3.7.1", "4.0.0"] {
            assert!(told(version).is_ok(), "{version}");
        }
        assert!(capable_at(None).is_ok());
    }
}
