//! What the core asks of the place where the log is kept.

use ferrite_proto::raftpb::{ConfState, Entry, HardState, Snapshot};

/// Why the storage could not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// The index lies before the log's beginning: a snapshot stands for it.
    #[error("requested index is unavailable due to compaction")]
    Compacted,
    /// The index lies past the log's end.
    #[error("requested entry at index is unavailable")]
    Unavailable,
    /// A snapshot is being made; ask again later.
    #[error("snapshot is temporarily unavailable")]
    SnapshotTemporarilyUnavailable,
    /// The snapshot asked for is older than the one there is.
    #[error("requested index is older than the existing snapshot")]
    SnapshotOutOfDate,
    /// The entries do not join up with the log.
    #[error("missing log entries: the log ends at {last_index}, cannot append at {index}")]
    Gap {
        /// Where the log ends.
        last_index: u64,
        /// Where the entries begin.
        index: u64,
    },
    /// Anything else, in the storage's own words.
    #[error("storage failed: {0}")]
    Other(String),
}

/// The log as the core reads it. The caller writes it: what a [`crate::Ready`] holds for writing must be
/// found here by the time it is reported written, by `advance()` or by the response to its storage
/// message. The core never asks for an entry before that.
pub trait Storage {
    /// The saved term, vote and commit (all zero at first start) and the configuration.
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError>;

    /// The entries in `[lo, hi)`, cut to a prefix of at most `max_size` encoded bytes, yet at least one.
    ///
    /// # Errors
    /// `Compacted` if `lo` was compacted, `Unavailable` if the range passes the end.
    fn entries(&self, lo: u64, hi: u64, max_size: u64) -> Result<Vec<Entry>, StorageError>;

    /// The term of the entry at `index`, in `[first_index - 1, last_index]`: the term just before the
    /// first entry is kept for matching.
    ///
    /// # Errors
    /// `Compacted` or `Unavailable` outside that range.
    fn term(&self, index: u64) -> Result<u64, StorageError>;

    /// The index of the first entry that is, or will be, in the log.
    fn first_index(&self) -> u64;

    /// The index of the last entry, or of the snapshot if there is none.
    fn last_index(&self) -> u64;

    /// The snapshot to send to a member that is too far behind.
    ///
    /// # Errors
    /// `SnapshotTemporarilyUnavailable` if it has to be made first; the core asks again.
    fn snapshot(&self) -> Result<Snapshot, StorageError>;
}
