//! What applying a request answers.

use ferrite_auth::Answer;
use ferrite_proto::etcdserverpb as pb;

/// The answer to one applied request. Headers carry at most the revision: whoever serves the client
/// knows cluster, member and term.
#[derive(Debug, Clone, PartialEq)]
pub enum Response {
    /// To a range that went through the log.
    Range(pb::RangeResponse),
    /// To a put.
    Put(pb::PutResponse),
    /// To a delete.
    DeleteRange(pb::DeleteRangeResponse),
    /// To a transaction.
    Txn(pb::TxnResponse),
    /// To a compaction; the second field says that the client waits until the work is done on disk.
    Compaction(pb::CompactionResponse, bool),
    /// To a lease grant.
    LeaseGrant(pb::LeaseGrantResponse),
    /// To a lease revocation.
    LeaseRevoke(pb::LeaseRevokeResponse),
    /// To a lease checkpoint.
    LeaseCheckpoint(pb::LeaseCheckpointResponse),
    /// To an alarm request.
    Alarm(pb::AlarmResponse),
    /// To a request about users, roles or authentication.
    Auth {
        /// The store's revision.
        revision: i64,
        /// What was asked for.
        answer: Answer,
    },
    /// To a membership change: the members after it.
    Members(Vec<pb::Member>),
    /// To a request that changes the cluster's own attributes.
    Empty,
}
