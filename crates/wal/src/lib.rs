//! etcd's write-ahead log and its `.snap` files, read and written byte for byte.
//!
//! Owns: the frames and checksums of records ([`record`]), the segments and who may append to them
//! ([`Wal`]), the repair of a torn tail, and the raft snapshot files beside the database ([`snap`]).
//! The bytes are described in `docs/formats/wal.md` and `docs/formats/snap.md`.
//!
//! Never here: what an entry means, when to snapshot, any retry of a failed write. A [`Wal`] belongs
//! to one thread. After a failed write or fsync it refuses every later call, because nobody can tell
//! what the disk holds then; the process has to end and read the log again.
//!
//! All file operations pass through [`fs::Fs`], so that a simulator can stand in for the disk
//! ([`memfs::MemFs`] loses, tears and fails writes by seed).

pub mod error;
pub mod fs;
mod lock;
pub mod memfs;
pub mod names;
pub mod reader;
pub mod record;
mod repair;
pub mod snap;
mod wal;
mod zeroer;

pub use error::Error;
pub use reader::Recovered;
pub use wal::{Options, Preparation, Wal, must_sync};

/// Length at which a segment is closed, in bytes. Decimal on purpose: this is etcd's figure.
pub const SEGMENT_BYTES: u64 = 64_000_000;
