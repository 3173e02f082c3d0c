//! etcd's key-value requests, executed on a [`Store`](crate::Store).
//!
//! `check` refuses what is malformed, before anything is proposed; `range` reads; `apply` executes
//! what the log ordered; `cost` says how much room a request may take. Whatever `apply` answers is a
//! function of the replicated state and the request alone.

mod apply;
mod check;
mod cost;
mod range;

use thiserror::Error;

pub use apply::{
    apply_delete_range, apply_put, apply_txn, compact, is_txn_readonly, is_txn_serializable,
    range_txn,
};
pub use check::{check_delete, check_put, check_range, check_range_stream, check_txn};
pub use cost::{LEASE_GRANT_COST, put_cost, txn_cost};
pub use range::{
    count, has_revision_filters, is_default_ordering, range, range_chunk, range_next_chunk,
};

use crate::store::Error as StoreError;

/// Why a request is refused. The text is etcd's.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum RequestError {
    /// No key given.
    #[error("key is not provided")]
    EmptyKey,
    /// A value given together with `ignore_value`.
    #[error("value is provided")]
    ValueProvided,
    /// A lease given together with `ignore_lease`.
    #[error("lease is provided")]
    LeaseProvided,
    /// `ignore_value` or `ignore_lease` on a key that does not exist, or an empty operation.
    #[error("key not found")]
    KeyNotFound,
    /// Too many operations at one level of a transaction.
    #[error("too many operations in txn request")]
    TooManyOps,
    /// A transaction writes a key twice.
    #[error("duplicate key given in txn request")]
    DuplicateKey,
    /// Unknown sort order or target.
    #[error("invalid sort option")]
    InvalidSortOption,
    /// A streamed range asked for an order.
    #[error("RangeStream does not support custom sort orders")]
    StreamSort,
    /// A streamed range asked for revision filters.
    #[error("RangeStream does not support revision filters")]
    StreamFilter,
    /// The revision is compacted.
    #[error("mvcc: required revision has been compacted")]
    Compacted,
    /// The revision is in the future.
    #[error("mvcc: required revision is a future revision")]
    FutureRevision,
    /// The lease does not exist.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// This member's database is damaged. From `apply_*` it means that this member cannot follow
    /// the cluster any further: the process must stop without committing what is pending.
    #[error("database damaged: {0}")]
    Damaged(String),
}

impl From<StoreError> for RequestError {
    fn from(e: StoreError) -> Self {
        match e {
            StoreError::Compacted => RequestError::Compacted,
            StoreError::FutureRevision => RequestError::FutureRevision,
            StoreError::Damaged(what) => RequestError::Damaged(what),
        }
    }
}

fn header(revision: i64) -> Option<ferrite_proto::etcdserverpb::ResponseHeader> {
    Some(ferrite_proto::etcdserverpb::ResponseHeader {
        revision,
        ..Default::default()
    })
}
