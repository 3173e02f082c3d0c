//! Compaction: logical at once, physical in slices between other work.
//!
//! [`Store::compact`] moves the compacted revision, which alone decides what can be read: it is the
//! same on every member. When the garbage goes is each member's own affair and must never show in
//! an answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::hash::{HashJob, HashScan, KeepRule};
use crate::schema::{self, Bucket, BucketKey, Revision, RevisionBytes};
use crate::store::{Error, Store};

/// Versions removed under one lock: readers wait that long, a fifth of a millisecond.
const COLLECT_SLICE: usize = 128;

/// What is left of one compaction.
pub(crate) struct Compaction {
    revision: i64,
    /// The hash to compute before it is finished.
    hash: Option<HashScan>,
    /// Set when somebody computes the hash elsewhere; true once done or given up.
    hash_elsewhere: Option<Arc<AtomicBool>>,
}

impl Compaction {
    /// One that an earlier run of the process began; its hash cannot be told any more.
    pub(crate) fn resumed(revision: i64) -> Self {
        Self {
            revision,
            hash: None,
            hash_elsewhere: None,
        }
    }
}

/// Where the physical compaction stands after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CompactionProgress {
    /// Nothing to do.
    Idle,
    /// Call again.
    Working,
    /// All garbage is gone; only a [`HashJob`] running elsewhere is awaited. Call again later.
    AwaitingHash,
    /// The compaction at this revision is finished: its garbage is gone from the view, and from the
    /// file with the next commit.
    Finished(i64),
}

impl Store {
    /// Compacts up to `revision`: what older revisions alone can see is not readable from now on.
    /// The garbage goes later, by [`Store::compaction_step`].
    ///
    /// # Errors
    /// Already compacted (also for every negative revision), or in the future.
    pub fn compact(&self, revision: i64) -> Result<(), Error> {
        let mut writer = self.writer.lock();
        let previous = {
            let mut state = self.state.write();
            if revision <= state.compacted {
                return Err(Error::Compacted);
            }
            if revision > state.current {
                return Err(Error::FutureRevision);
            }
            let previous = std::mem::replace(&mut state.compacted, revision);
            self.publish(state.current, revision);
            previous
        };
        // no hash while the one before has left-overs: it would count them
        let hash = (self.options.compaction_hash && writer.compactions.is_empty()).then(|| {
            let epoch = self.state.read().epoch;
            let to = Revision::new(revision.saturating_add(1), 0).encode();
            let view = self.backend.view_of(Bucket::Key, &[], Some(&to));
            HashScan::new(view, previous, revision, KeepRule::Compaction, epoch)
        });
        self.mark(schema::SCHEDULED_COMPACT, revision);
        if writer.compactions.len() > 1 {
            // one is under way; those that have not begun become one
            writer.compactions.truncate(1);
        }
        writer.compactions.push_back(Compaction {
            revision,
            hash,
            hash_elsewhere: None,
        });
        Ok(())
    }

    /// Whether a compaction is unfinished.
    pub fn compaction_pending(&self) -> bool {
        !self.writer.lock().compactions.is_empty()
    }

    /// Takes the hash of the compaction under way, to compute it on another thread; without this,
    /// [`Store::compaction_step`] computes it first. `None` when there is none or it has begun.
    pub fn take_hash_job(&self) -> Option<HashJob> {
        let mut writer = self.writer.lock();
        let compaction = writer.compactions.front_mut()?;
        if compaction.hash.as_ref()?.has_begun() {
            return None;
        }
        let done = Arc::new(AtomicBool::new(false));
        compaction.hash_elsewhere = Some(done.clone());
        Some(HashJob::new(compaction.hash.take()?, done))
    }

    /// Does up to `max` units of the oldest unfinished compaction: hashes or removes that many
    /// revisions. Called by the apply thread between batches.
    ///
    /// # Errors
    /// [`Error::Damaged`]: the file cannot be read. The hash is given up; calling again goes on.
    pub fn compaction_step(&self, max: usize) -> Result<CompactionProgress, Error> {
        let mut writer = self.writer.lock();
        let Some(compaction) = writer.compactions.front_mut() else {
            return Ok(CompactionProgress::Idle);
        };
        if let Some(hash) = &mut compaction.hash {
            match hash.step(self, max) {
                Ok(None) => {}
                Ok(Some(result)) => {
                    compaction.hash = None;
                    self.hashes.lock().store(result);
                }
                Err(e) => {
                    compaction.hash = None;
                    if !matches!(e, Error::Compacted) {
                        return Err(e);
                    }
                }
            }
            return Ok(CompactionProgress::Working);
        }
        let revision = compaction.revision;
        let mut gone: Vec<BucketKey> = Vec::new();
        let (mut left, mut more) = (max, true);
        while more && left > 0 {
            let slice = left.min(COLLECT_SLICE);
            left -= slice;
            gone.clear();
            // index and buffers change under one lock: a reader that found a version in the index
            // finds it in the buffers or in the file it took under the same lock
            let mut state = self.state.write();
            more = state.index.collect(revision, slice, &mut gone);
            let keys: Vec<RevisionBytes> = gone.iter().map(|k| k.encode()).collect();
            self.backend.delete_all(Bucket::Key, &keys);
            drop(state);
            self.tally.compacted.add(keys.len() as u64);
        }
        if more {
            return Ok(CompactionProgress::Working);
        }
        if let Some(done) = &compaction.hash_elsewhere
            && !done.load(Ordering::Acquire)
        {
            return Ok(CompactionProgress::AwaitingHash);
        }
        writer.compactions.pop_front();
        self.mark(schema::FINISHED_COMPACT, revision);
        Ok(CompactionProgress::Finished(revision))
    }

    fn mark(&self, name: &str, revision: i64) {
        let value = Revision::new(revision, 0).encode();
        self.backend.put(Bucket::Meta, name.as_bytes(), &value);
    }
}
