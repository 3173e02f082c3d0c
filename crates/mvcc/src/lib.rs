//! The multi-version key-value store: revisions, key index, transactions, ranges, compaction, hash.
//!
//! Layers, each over the one before: [`schema`] names buckets and encodes revisions; [`mod@file`] is the
//! border to the database file; [`backend`] holds what is not in the file yet; [`store`] is the
//! versioned store; [`kv`] executes etcd's requests on it.
//!
//! Nothing here does I/O, reads a clock, draws a random number or starts a thread. The one writer is
//! the apply thread; any number of readers share the [`Store`] and never hold it up for longer than
//! one slice of the index.

pub mod backend;
mod compact;
pub mod file;
mod hash;
mod history;
mod index;
pub mod kv;
mod memfile;
mod range;
pub mod schema;
pub mod store;
mod sync;
mod write;

pub use backend::{Backend, Batch, View};
pub use compact::CompactionProgress;
pub use file::{FileView, ReadError, Visit};
pub use hash::{HashJob, HashKv};
pub use history::History;
pub use kv::RequestError;
pub use memfile::MemFile;
pub use range::{RangeOptions, RangeResult};
pub use store::{Error, Leases, NoLeases, RestoreOptions, Store, StoreStats};
pub use write::{Changes, Event, EventKind, WriteTxn};
