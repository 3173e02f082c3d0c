//! The consensus core: Raft as etcd speaks it, over `raftpb` messages.
//!
//! This crate owns the protocol and nothing else. Input goes in (ticks, messages, proposals, reports),
//! a [`Ready`] comes out, and somebody else writes, sends and applies what it holds. The core does no
//! I/O, reads no clock, starts no thread and draws no randomness of its own: a tick is a call, and the
//! spread of election timeouts comes from a generator seeded by [`Config::seed`].
//!
//! Where to look:
//! - [`RawNode`] is the door; [`Ready`] says what has to be done and in which order.
//! - `raft/` holds the state machine, one file a concern (election, replication, snapshots, reads, …).
//! - `log`, `unstable` and [`Storage`] join what is durable and what is still on its way to the disk.
//! - [`tracker`], [`quorum`] and `confchange` know the members, their progress and who must agree.
//!
//! Messages may come from a faulty or hostile peer: they are refused with an [`Error`] or passed over,
//! and never end the process. Panics are kept for broken promises of the caller and of the storage.

mod confchange;
mod config;
mod error;
mod log;
mod mem_storage;
mod message;
mod prng;
pub mod quorum;
mod raft;
mod raw_node;
mod read_only;
mod ready;
mod sizes;
mod status;
mod storage;
pub mod tracker;
mod unstable;

pub use confchange::codec::{ConfChangeLike, decode_conf_change};
pub use config::{Config, NO_LIMIT, ReadOnlyOption};
pub use error::Error;
pub use mem_storage::MemStorage;
pub use message::{
    LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, NONE, is_local_msg, is_local_target, is_response_msg,
};
pub use raw_node::RawNode;
pub use ready::{ReadState, Ready, SnapshotStatus, SoftState, StateRole};
pub use status::{BasicStatus, Status};
pub use storage::{Storage, StorageError};
