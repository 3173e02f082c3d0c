//! Why a call on the node failed.

use ferrite_apply::ApplyError;

/// A refusal or failure of one call. What the client sees of it is decided in one place of the
/// server; the words here are etcd's without its prefix.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// The request was applied, and refused.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The encoded request is larger than `--max-request-bytes`.
    #[error("request is too large")]
    TooLarge,
    /// Too much is committed and not applied yet, or the queue to raft is full.
    #[error("too many requests")]
    TooManyRequests,
    /// The proposal waited for a leader until the time was up.
    #[error("context deadline exceeded")]
    DeadlineExceeded,
    /// No answer in time.
    #[error("request timed out")]
    Timeout,
    /// No answer in time; the leader changed meanwhile.
    #[error("request timed out, possibly due to previous leader failure")]
    TimeoutLeaderFailure,
    /// No answer in time; the link to the leader, or to a quorum, was down meanwhile.
    #[error("request timed out, possibly due to connection lost")]
    TimeoutConnectionLost,
    /// Raft would not take the proposal: a leadership transfer is under way.
    #[error("raft proposal dropped")]
    Dropped,
    /// Another leader was elected while a read waited.
    #[error("leader changed")]
    LeaderChanged,
    /// This member does not lead.
    #[error("not leader")]
    NotLeader,
    /// The member to hand leadership to does not exist, or is a learner.
    #[error("bad leader transferee")]
    BadTransferee,
    /// The transfer of leadership did not come about in time.
    #[error("request timed out, leader transfer took too long")]
    TransferTimeout,
    /// Too few voters have started for this membership change.
    #[error("re-configuration failed due to not enough started members")]
    NotEnoughStarted,
    /// Too few members have been connected for long enough for this membership change.
    #[error("unhealthy cluster")]
    Unhealthy,
    /// The learner has not caught up with the leader.
    #[error("can only promote a learner member which is in sync with leader")]
    LearnerNotReady,
    /// No leader is known.
    #[error("no leader")]
    NoLeader,
    /// This member was asked about a lease as its leader, and cannot confirm that it leads.
    #[error("not a primary lessor")]
    NotPrimary,
    /// What is committed was not applied here in time.
    #[error("request timed out, waiting for the applied index took too long")]
    AppliedIndexTimeout,
    /// The cluster cannot be downgraded so.
    #[error(transparent)]
    Downgrade(#[from] ferrite_membership::transition::DowngradeError),
    /// The node is stopping.
    #[error("server stopped")]
    Stopped,
}
