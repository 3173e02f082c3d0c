//! Hashes by which members compare their data. Equal to Go etcd's for equal content.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use ferrite_proto::mvccpb::KeyValue;
use prost::Message;

use crate::backend::View;
use crate::index::{Resume, Span};
use crate::range::{SLICE_KEYS, still_readable};
use crate::schema::{self, Bucket, BucketKey, Revision};
use crate::store::{Error, State, Store};

/// Hashes of compactions kept at most.
const KEPT_HASHES: usize = 10;

/// A hash over the key bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    /// CRC-32C.
    pub hash: u32,
    /// Compacted revision the hash was taken under, −1 for none.
    pub compact_revision: i64,
    /// Revisions up to this one are in it.
    pub hash_revision: i64,
    /// Current revision when it was asked for.
    pub current_revision: i64,
}

/// Hashes of the newest compactions, by revision.
#[derive(Default)]
pub(crate) struct HashCache {
    kept: Vec<HashKv>,
}

impl HashCache {
    pub(crate) fn store(&mut self, hash: HashKv) {
        self.kept.push(hash);
        self.kept.sort_by_key(|h| h.hash_revision);
        let excess = self.kept.len().saturating_sub(KEPT_HASHES);
        self.kept.drain(..excess);
    }

    fn get(&self, revision: i64) -> Option<HashKv> {
        self.kept
            .iter()
            .find(|h| h.hash_revision == revision)
            .copied()
    }
}

/// Which revisions at or below the compacted one count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeepRule {
    /// Those a reader at the hash's revision sees.
    Read,
    /// Those a compaction at the hash's revision leaves.
    Compaction,
}

/// A hash in the making, over a view that does not change.
pub(crate) struct HashScan {
    view: View,
    compacted: i64,
    revision: i64,
    rule: KeepRule,
    epoch: u64,
    /// Whether any revision is kept at all; looked for first.
    keeps_any: Option<bool>,
    search: Resume,
    /// Where the scan goes on.
    from: Vec<u8>,
    crc: u32,
}

impl HashScan {
    pub(crate) fn new(
        view: View,
        compacted: i64,
        revision: i64,
        rule: KeepRule,
        epoch: u64,
    ) -> Self {
        Self {
            view,
            compacted,
            revision,
            rule,
            epoch,
            keeps_any: None,
            search: None,
            from: Vec::new(),
            crc: crc32c::crc32c(Bucket::Key.name().as_bytes()),
        }
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.keeps_any.is_some() || self.search.is_some()
    }

    /// Goes `max` keys or revisions further; the hash when that was the end.
    ///
    /// # Errors
    /// Compacted past the hash's revision, state replaced, or file damaged.
    pub(crate) fn step(&mut self, store: &Store, max: usize) -> Result<Option<HashKv>, Error> {
        let max = max.clamp(1, SLICE_KEYS);
        let Some(keeps_any) = self.keeps_any else {
            self.search_kept(store, max)?;
            return Ok(None);
        };
        let mut slice: Vec<(BucketKey, Bytes, Bytes)> = Vec::with_capacity(max);
        let mut bad = None;
        let to = Revision::new(self.revision.saturating_add(1), 0).encode();
        self.view
            .scan(Bucket::Key, &self.from, Some(&to), &mut |key, value| {
                match BucketKey::decode(key) {
                    Ok(at) => slice.push((
                        at,
                        Bytes::copy_from_slice(key),
                        Bytes::copy_from_slice(value),
                    )),
                    Err(e) => bad = Some(e),
                }
                if bad.is_some() || slice.len() == max {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })?;
        if let Some(bad) = bad {
            return Err(Error::Damaged(bad.to_string()));
        }
        let ended = slice.len() < max;
        if let Some((_, last, _)) = slice.last() {
            self.from.clear();
            self.from.extend_from_slice(last);
            self.from.push(0);
        }
        // up to the compacted revision garbage may be among what was scanned
        let old = slice.partition_point(|(at, _, _)| at.revision.main <= self.compacted);
        let mut counts = Vec::with_capacity(old);
        if old > 0 {
            let keys = slice[..old]
                .iter()
                .map(|(at, _, value)| key_of(*at, value))
                .collect::<Result<Vec<_>, _>>()?;
            let state = store.state.read();
            self.check(&state)?;
            for ((at, _, _), key) in slice[..old].iter().zip(&keys) {
                counts.push(self.counts(&state, keeps_any, *at, key));
            }
        }
        for (i, (_, key, value)) in slice.iter().enumerate() {
            if counts.get(i).copied().unwrap_or(true) {
                self.crc = crc32c::crc32c_append(self.crc, key);
                self.crc = crc32c::crc32c_append(self.crc, value);
            }
        }
        Ok(ended.then(|| HashKv {
            hash: self.crc,
            compact_revision: self.compacted,
            hash_revision: self.revision,
            current_revision: store.current_revision(),
        }))
    }

    /// Whether a revision at or below the compacted one counts.
    fn counts(&self, state: &State, keeps_any: bool, at: BucketKey, key: &[u8]) -> bool {
        if at.tombstone {
            return false;
        }
        let seen_at = match (keeps_any, self.rule) {
            (true, _) => self.revision,
            // when nothing is kept the original leaves out nothing that is physically there: what
            // the last compaction left
            (false, KeepRule::Read) => self.compacted,
            (false, KeepRule::Compaction) => return true,
        };
        let seen = state.index.version_at(key, seen_at);
        seen.is_some_and(|v| v.revision() == at.revision)
    }

    /// Looks on for a key that is kept.
    fn search_kept(&mut self, store: &Store, max: usize) -> Result<(), Error> {
        let state = store.state.read();
        self.check(&state)?;
        if self.compacted < 0 {
            // nothing lies below the compacted revision: the rule has no say
            self.keeps_any = Some(true);
            return Ok(());
        }
        let mut found = false;
        let search = state
            .index
            .walk(Span::From(&[]), &self.search, self.revision, max, |_, _| {
                found = true;
                false
            });
        if self.rule == KeepRule::Compaction && !found && self.search.is_none() {
            // a tombstone exactly at the revision is kept by a compaction
            drop(state);
            found = self.has_tombstone_at_revision()?;
        }
        if found || search.is_none() {
            self.keeps_any = Some(found);
        }
        self.search = search;
        Ok(())
    }

    fn has_tombstone_at_revision(&self) -> Result<bool, Error> {
        let from = Revision::new(self.revision, 0).encode();
        let to = Revision::new(self.revision.saturating_add(1), 0).encode();
        let mut found = false;
        self.view
            .scan(Bucket::Key, &from, Some(&to), &mut |key, _| {
                found = BucketKey::decode(key).is_ok_and(|k| k.tombstone);
                if found {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })?;
        Ok(found)
    }

    /// The index still tells what was visible at the hash's revision.
    fn check(&self, state: &State) -> Result<(), Error> {
        let readable = match self.rule {
            KeepRule::Read => self.revision,
            // compactions are worked on one after the other: nothing of a later one is gone yet
            KeepRule::Compaction => i64::MAX,
        };
        if state.epoch != self.epoch {
            return Err(Error::Compacted);
        }
        still_readable(state, readable)
    }
}

fn key_of(at: BucketKey, value: &Bytes) -> Result<Bytes, Error> {
    match KeyValue::decode(value.clone()) {
        Ok(kv) => Ok(kv.key),
        Err(e) => Err(Error::Damaged(format!(
            "revision {}.{} holds no key-value: {e}",
            at.revision.main, at.revision.sub
        ))),
    }
}

/// The hash of a compaction, to be computed away from the apply thread.
pub struct HashJob {
    scan: HashScan,
    done: Arc<AtomicBool>,
}

impl HashJob {
    pub(crate) fn new(scan: HashScan, done: Arc<AtomicBool>) -> Self {
        Self { scan, done }
    }

    /// Computes the hash and stores it for [`Store::hash_kv`]. Dropping the job gives it up.
    ///
    /// # Errors
    /// The file is damaged, or the state was replaced meanwhile.
    pub fn run(mut self, store: &Store) -> Result<HashKv, Error> {
        loop {
            if let Some(hash) = self.scan.step(store, SLICE_KEYS)? {
                store.hashes.lock().store(hash);
                return Ok(hash);
            }
        }
    }
}

impl Drop for HashJob {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Release);
    }
}

impl Store {
    /// The hashes of the last finished compactions, the newest first; ten at most.
    pub fn compaction_hashes(&self) -> Vec<HashKv> {
        self.hashes.lock().kept.iter().rev().copied().collect()
    }

    /// Hash of the revisions up to `revision` (0: the current one). For the revision of one of the
    /// last finished compactions: the hash stored then.
    ///
    /// # Errors
    /// Compacted, in the future, or the file is damaged.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, Error> {
        if let Some(kept) = self.hashes.lock().get(revision) {
            return Ok(HashKv {
                current_revision: self.current_revision(),
                ..kept
            });
        }
        loop {
            match self.hash_now(revision) {
                // compacted past what was current a moment ago: begin again
                Err(Error::Compacted) if revision == 0 => {}
                done => return done,
            }
        }
    }

    fn hash_now(&self, revision: i64) -> Result<HashKv, Error> {
        let (mut scan, current) = {
            let state = self.state.read();
            if revision > 0 {
                still_readable(&state, revision)?;
            }
            if revision > state.current {
                return Err(Error::FutureRevision);
            }
            let at = if revision == 0 {
                state.current
            } else {
                revision
            };
            if at < 0 {
                // nothing is that old
                return Ok(HashKv {
                    hash: crc32c::crc32c(Bucket::Key.name().as_bytes()),
                    compact_revision: state.compacted,
                    hash_revision: at,
                    current_revision: state.current,
                });
            }
            let to = Revision::new(at.saturating_add(1), 0).encode();
            let view = self.backend.view_of(Bucket::Key, &[], Some(&to));
            let scan = HashScan::new(view, state.compacted, at, KeepRule::Read, state.epoch);
            (scan, state.current)
        };
        loop {
            if let Some(hash) = scan.step(self, SLICE_KEYS)? {
                return Ok(HashKv {
                    current_revision: current,
                    ..hash
                });
            }
        }
    }

    /// Hash of all buckets, save what may differ between members: applied index, term and storage
    /// version.
    ///
    /// # Errors
    /// The file is damaged.
    pub fn hash(&self) -> Result<u32, Error> {
        let view = self.backend.view();
        let mut crc = 0;
        for bucket in Bucket::ALL {
            crc = crc32c::crc32c_append(crc, bucket.name().as_bytes());
            view.scan(bucket, &[], None, &mut |key, value| {
                if !is_own(bucket, key) {
                    crc = crc32c::crc32c_append(crc, key);
                    crc = crc32c::crc32c_append(crc, value);
                }
                ControlFlow::Continue(())
            })?;
        }
        Ok(crc)
    }
}

/// A meta key each member has its own value of.
fn is_own(bucket: Bucket, key: &[u8]) -> bool {
    let own = [
        schema::CONSISTENT_INDEX,
        schema::TERM,
        schema::STORAGE_VERSION,
    ];
    bucket == Bucket::Meta && own.iter().any(|name| name.as_bytes() == key)
}
