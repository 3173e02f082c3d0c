//! The errors of the core's border: what was refused, and why.

use crate::storage::StorageError;

/// Why an input was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The proposal was not taken: no leader is known, a transfer is under way, the uncommitted tail is
    /// full, or forwarding is off. The caller may retry.
    #[error("raft proposal dropped")]
    ProposalDropped,
    /// A message that only this process may send to itself came from elsewhere.
    #[error("raft: cannot step raft local message")]
    StepLocalMsg,
    /// A response came from a member that is not in the configuration.
    #[error("raft: cannot step as peer not found")]
    StepPeerNotFound,
    /// The start parameters, or the state found in storage, do not fit together.
    #[error("invalid raft configuration: {0}")]
    InvalidConfig(String),
    /// A message contradicts itself or the protocol; nothing was changed by it.
    #[error("refused {kind} from {from:x}: {reason}")]
    InvalidMessage {
        /// The message type's name, or its number if it has none.
        kind: String,
        /// The sender it names.
        from: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A leader says that an index is committed which this log does not reach.
    #[error(
        "commit index {commit} is beyond the last index {last_index}: was this member's log damaged, cut or lost? \
         Remove the member and add it again with an empty data directory"
    )]
    CommitOutOfRange {
        /// What the leader says.
        commit: u64,
        /// Where the local log ends.
        last_index: u64,
    },
    /// A leader sent an entry that differs from one already committed here.
    #[error(
        "entry {index} conflicts with a committed entry (committed up to {committed}); it was not taken"
    )]
    CommittedConflict {
        /// The first index that differs.
        index: u64,
        /// The local commit index.
        committed: u64,
    },
    /// The applied index reported is not one that could have been applied.
    #[error("applied index {index} is outside [{applied}, {committed}]")]
    AppliedOutOfRange {
        /// What was reported.
        index: u64,
        /// What was applied before.
        applied: u64,
        /// The local commit index.
        committed: u64,
    },
    /// A membership change that cannot be made, or cannot be decoded.
    #[error("conf change refused: {0}")]
    ConfChange(String),
    /// The storage failed.
    #[error(transparent)]
    Storage(#[from] StorageError),
}
