//! The versioned store: its state, how it comes up from the file, and who may do what.
//!
//! One writer (the apply thread) changes it; readers pin a revision and go through the index in
//! slices. What a transaction writes stays invisible until the current revision moves, in one step.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use ferrite_metrics::{Counter, Sharded};
use ferrite_proto::mvccpb::KeyValue;
use parking_lot::{Mutex, RwLock};
use prost::Message;
use thiserror::Error;

use crate::backend::{Backend, View};
use crate::compact::Compaction;
use crate::file::{FileView, ReadError};
use crate::hash::HashCache;
use crate::index::{Index, Version};
use crate::schema::{self, Bucket, BucketKey};

/// No cluster gets here; a file that says so is damaged, and counting on would overflow.
const LARGEST_MAIN: i64 = i64::MAX / 2;

/// Why the store did not answer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// The revision is below the compacted one.
    #[error("mvcc: required revision has been compacted")]
    Compacted,
    /// The revision is above the current one.
    #[error("mvcc: required revision is a future revision")]
    FutureRevision,
    /// The database file cannot be read or contradicts itself. When it happens while a log entry is
    /// applied the member must stop: its state would no longer be the cluster's.
    #[error("database damaged: {0}")]
    Damaged(String),
}

impl From<ReadError> for Error {
    fn from(e: ReadError) -> Self {
        Error::Damaged(e.0)
    }
}

/// What the store needs to know and tell about leases.
pub trait Leases {
    /// Whether the lease exists.
    fn exists(&self, id: i64) -> bool;
    /// The lease `key` is attached to, 0 for none.
    fn lease_of(&self, key: &[u8]) -> i64;
    /// Attaches `key`, which is attached to no other lease now. `key` must be copied to be kept.
    fn attach(&mut self, id: i64, key: &[u8]);
    /// Detaches `key`.
    fn detach(&mut self, id: i64, key: &[u8]);
}

/// A store without leases, for tools: none exists.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoLeases;

impl Leases for NoLeases {
    fn exists(&self, _: i64) -> bool {
        false
    }
    fn lease_of(&self, _: &[u8]) -> i64 {
        0
    }
    fn attach(&mut self, _: i64, _: &[u8]) {}
    fn detach(&mut self, _: i64, _: &[u8]) {}
}

/// How a store comes up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreOptions {
    /// Go on with a compaction that was scheduled and not finished. Off for tools that only read.
    pub resume_compaction: bool,
    /// Compute and keep the hash of each compaction (a pass over all revisions up to it).
    pub compaction_hash: bool,
}

impl Default for RestoreOptions {
    fn default() -> Self {
        Self {
            resume_compaction: true,
            compaction_hash: true,
        }
    }
}

/// Figures for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreStats {
    /// Keys that live.
    pub keys: usize,
    /// Keys in the index, deleted but not yet compacted ones included.
    pub index_keys: usize,
    /// Versions that the next compactions can drop.
    pub garbage: usize,
    /// Ranges read, those inside of transactions included.
    pub ranges: u64,
    /// Puts executed.
    pub puts: u64,
    /// Deletions executed, of whatever length.
    pub deletes: u64,
    /// Transactions of more than one operation, as etcd counts them: whatever is read on the way to a put or to a
    /// transaction's choice is one.
    pub txns: u64,
    /// Bytes of the keys and values put.
    pub put_bytes: u64,
    /// Revisions that compactions removed.
    pub compacted: u64,
}

/// What [`StoreStats`] is made of: operations since the start.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) ranges: Sharded,
    pub(crate) puts: Counter,
    pub(crate) deletes: Counter,
    pub(crate) txns: Sharded,
    pub(crate) put_bytes: Counter,
    pub(crate) compacted: Counter,
}

/// What readers and the writer share.
pub(crate) struct State {
    pub(crate) index: Index,
    /// Revision of the last finished write transaction.
    pub(crate) current: i64,
    /// Revision of the last compaction, −1 when there was none.
    pub(crate) compacted: i64,
    /// Changes when the whole state is replaced.
    pub(crate) epoch: u64,
}

/// What only the writer changes.
pub(crate) struct Writer {
    pub(crate) compactions: VecDeque<Compaction>,
}

/// The store. Shared between the apply thread and readers.
pub struct Store {
    pub(crate) backend: Backend,
    pub(crate) state: RwLock<State>,
    /// Taken by whoever writes, before `state`.
    pub(crate) writer: Mutex<Writer>,
    pub(crate) hashes: Mutex<HashCache>,
    pub(crate) options: RestoreOptions,
    pub(crate) tally: Tally,
    // copies of what `state` holds, for callers that want only these
    current: AtomicI64,
    compacted: AtomicI64,
}

/// What a scan of the file yields.
struct Restored {
    state: State,
    unfinished: bool,
    attachments: BTreeMap<Bytes, i64>,
}

impl Store {
    /// Brings the store up from what `backend` holds: scans all revisions, rebuilds the index, tells
    /// `leases` which living keys are attached (to leases that exist), and schedules what is left of
    /// an unfinished compaction.
    ///
    /// # Errors
    /// [`Error::Damaged`]: the file cannot be read, or holds what is no revision or no key-value.
    pub fn restore(
        backend: Backend,
        leases: &mut dyn Leases,
        options: RestoreOptions,
    ) -> Result<Self, Error> {
        let restored = scan(&backend.view(), 0)?;
        let store = Self {
            backend,
            state: RwLock::new(State {
                index: Index::default(),
                current: 1,
                compacted: -1,
                epoch: 0,
            }),
            writer: Mutex::new(Writer {
                compactions: VecDeque::new(),
            }),
            hashes: Mutex::default(),
            options,
            tally: Tally::default(),
            current: AtomicI64::new(1),
            compacted: AtomicI64::new(-1),
        };
        store.adopt(restored, leases, None);
        Ok(store)
    }

    /// Rebuilds everything from the backend after [`Backend::replace`]. Readers that come between the
    /// two calls may be refused; [`Store::install`] does both without a gap. `leases` as there.
    ///
    /// # Errors
    /// As [`Store::restore`]; the old state stays then.
    pub fn reload(&self, leases: &mut dyn Leases) -> Result<(), Error> {
        let epoch = self.state.read().epoch + 1;
        let restored = scan(&self.backend.view(), epoch)?;
        self.adopt(restored, leases, None);
        Ok(())
    }

    /// A raft snapshot: scans `file` while readers go on with the old state, then shows the new one
    /// in one step and forgets everything pending. `leases` are those of the snapshot, with no key
    /// attached yet.
    ///
    /// # Errors
    /// As [`Store::restore`]; the old state stays then.
    pub fn install(&self, file: Arc<dyn FileView>, leases: &mut dyn Leases) -> Result<(), Error> {
        let epoch = self.state.read().epoch + 1;
        let restored = scan(&Backend::new(file.clone()).view(), epoch)?;
        self.adopt(restored, leases, Some(file));
        Ok(())
    }

    fn adopt(&self, restored: Restored, leases: &mut dyn Leases, file: Option<Arc<dyn FileView>>) {
        let mut writer = self.writer.lock();
        let (current, compacted) = (restored.state.current, restored.state.compacted);
        {
            let mut state = self.state.write();
            if let Some(file) = file {
                self.backend.replace(file);
            }
            *state = restored.state;
            self.publish(current, compacted);
        }
        writer.compactions.clear();
        if restored.unfinished && self.options.resume_compaction {
            writer.compactions.push_back(Compaction::resumed(compacted));
        }
        for (key, lease) in restored.attachments {
            // a key is never attached to a lease that is gone
            if leases.exists(lease) {
                leases.attach(lease, &key);
            }
        }
    }

    /// Updates the copies; call it with `state` locked for writing.
    pub(crate) fn publish(&self, current: i64, compacted: i64) {
        self.current.store(current, Ordering::Release);
        self.compacted.store(compacted, Ordering::Release);
    }

    /// Revision of the last write; 1 in an empty store.
    pub fn current_revision(&self) -> i64 {
        self.current.load(Ordering::Acquire)
    }

    /// Revision of the last compaction, −1 when there never was one.
    pub fn compact_revision(&self) -> i64 {
        self.compacted.load(Ordering::Acquire)
    }

    /// The data under this store.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// Figures for metrics.
    pub fn stats(&self) -> StoreStats {
        let state = self.state.read();
        StoreStats {
            keys: state.index.living(),
            index_keys: state.index.keys(),
            garbage: state.index.garbage(),
            ranges: self.tally.ranges.get(),
            puts: self.tally.puts.get(),
            deletes: self.tally.deletes.get(),
            txns: self.tally.txns.get(),
            put_bytes: self.tally.put_bytes.get(),
            compacted: self.tally.compacted.get(),
        }
    }
}

fn scan(view: &View, epoch: u64) -> Result<Restored, Error> {
    let finished = read_mark(view, schema::FINISHED_COMPACT)?;
    let scheduled = read_mark(view, schema::SCHEDULED_COMPACT)?;
    let mut index = Index::default();
    let mut attachments: BTreeMap<Bytes, i64> = BTreeMap::new();
    let mut bad = None;
    view.scan(Bucket::Key, &[], None, &mut |key, value| match restore_one(
        &mut index,
        &mut attachments,
        key,
        value,
    ) {
        Ok(()) => ControlFlow::Continue(()),
        Err(e) => {
            bad = Some(e);
            ControlFlow::Break(())
        }
    })?;
    if let Some(bad) = bad {
        return Err(Error::Damaged(bad));
    }
    let compacted = finished.unwrap_or(-1).max(scheduled.unwrap_or(-1));
    Ok(Restored {
        state: State {
            // the last revisions may be gone by compaction; the revision never goes down
            current: index.newest_main().max(compacted).max(1),
            index,
            compacted,
            epoch,
        },
        unfinished: scheduled > finished,
        attachments,
    })
}

fn restore_one(
    index: &mut Index,
    attachments: &mut BTreeMap<Bytes, i64>,
    key: &[u8],
    value: &[u8],
) -> Result<(), String> {
    let at = BucketKey::decode(key).map_err(|e| e.to_string())?;
    let (main, sub) = (at.revision.main, at.revision.sub);
    let kv = KeyValue::decode(value)
        .map_err(|e| format!("revision {main}.{sub} holds no key-value: {e}"))?;
    let sub =
        u32::try_from(sub).map_err(|_| format!("sub-revision of {main}.{sub} is too large"))?;
    if main > LARGEST_MAIN {
        return Err(format!("revision {main}.{sub} is too large"));
    }
    let version = if at.tombstone {
        Version {
            main,
            created: 0,
            version: 0,
            sub,
            tombstone: true,
        }
    } else {
        Version {
            main,
            created: kv.create_revision,
            version: kv.version,
            sub,
            tombstone: false,
        }
    };
    if !index.restore(&kv.key, version) {
        return Err(format!("revision {main}.{sub} is there twice"));
    }
    if at.tombstone || kv.lease == 0 {
        attachments.remove(&kv.key);
    } else {
        // copied: `value` may be a page of the file
        attachments.insert(Bytes::copy_from_slice(&kv.key), kv.lease);
    }
    Ok(())
}

fn read_mark(view: &View, name: &str) -> Result<Option<i64>, Error> {
    let Some(bytes) = view.get(Bucket::Meta, name.as_bytes())? else {
        return Ok(None);
    };
    match BucketKey::decode(&bytes) {
        Ok(key) if key.revision.main <= LARGEST_MAIN => Ok(Some(key.revision.main)),
        _ => Err(Error::Damaged(format!("meta key {name} is no revision"))),
    }
}
