//! The database file: bbolt's format, read and written by an engine of our own.
//!
//! Owns the bytes of one file: pages, the tree of buckets, the free list, commits and their order on disk.
//! It must never know what the keys mean, never decide when to commit, and never interpret damage: a page that does
//! not hold together is an [`Error::Damage`] that names the page and the reason.
//!
//! The layers, imports going down only: [`Db`] and the transactions stand on the tree (cursor, rebuild), which stands
//! on pages (format, cache, free list), which stand on a [`PageFile`]. The format is described byte by byte in
//! `docs/formats/database.md`.

mod cache;
mod check;
mod cursor;
mod db;
mod error;
mod format;
mod freelist;
mod inspect;
mod mem;
mod page;
mod read;
mod rebuild;
mod storage;
mod walk;
mod write;

pub use check::{CheckReport, Problem, check};
pub use db::{Db, OpenReaders, Options};
pub use error::Error;
pub use format::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
pub use inspect::{BucketUsage, Element, MetaView, PageContent, PageView, Pages};
pub use mem::{Fault, MemFile};
pub use read::{Bucket, BucketStats, ReadTx, Visit};
pub use storage::{DiskFile, PageFile};
pub use write::{BucketMut, CommitStats, WriteTx};
