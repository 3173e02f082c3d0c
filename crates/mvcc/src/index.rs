//! Which revisions each key has, ordered by key, in memory; and the queue of what is garbage.
//!
//! Keys stand in sorted leaves under one sorted list of separators. Each leaf counts its living
//! keys, so that a range is counted without visiting its keys. A key with one revision, the usual
//! case, needs no allocation beyond the key itself. Must never hold a slice of a request.

use std::collections::VecDeque;
use std::sync::Arc;

use ferrite_mutate::mutation;

use crate::schema::{BucketKey, Revision};

/// Keys in a leaf at most: an insertion moves half of them (7 KiB), a split moves the separators.
const LEAF_MAX: usize = 256;
/// A leaf below this joins its neighbour.
const LEAF_MIN: usize = LEAF_MAX / 4;
/// Growth step of a leaf, small to keep the slack small.
const LEAF_STEP: usize = 64;

/// A key range in etcd's meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span<'a> {
    /// One key.
    Key(&'a [u8]),
    /// Keys from the first (included) to the second (excluded).
    Until(&'a [u8], &'a [u8]),
    /// The key and all after it.
    From(&'a [u8]),
}

impl<'a> Span<'a> {
    /// From a request: no end is one key, an end of one zero byte is no upper bound.
    pub(crate) fn new(key: &'a [u8], range_end: &'a [u8]) -> Self {
        match range_end {
            [] => Span::Key(key),
            [0] => Span::From(key),
            end => Span::Until(key, end),
        }
    }

    fn start(self) -> &'a [u8] {
        match self {
            Span::Key(key) | Span::Until(key, _) | Span::From(key) => key,
        }
    }

    fn is_past(self, key: &[u8]) -> bool {
        match self {
            Span::Key(only) => key != only,
            Span::Until(_, end) => key >= end,
            Span::From(_) => false,
        }
    }
}

/// Where a walk goes on: strictly after this key.
pub(crate) type Resume = Option<Arc<[u8]>>;

/// One version of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) main: i64,
    /// Main revision that created this life of the key; 0 in a tombstone.
    pub(crate) created: i64,
    /// Count of puts in this life of the key; 0 in a tombstone.
    pub(crate) version: i64,
    pub(crate) sub: u32,
    pub(crate) tombstone: bool,
}

impl Version {
    pub(crate) fn key(&self) -> BucketKey {
        BucketKey {
            revision: self.revision(),
            tombstone: self.tombstone,
        }
    }

    pub(crate) fn revision(&self) -> Revision {
        Revision::new(self.main, i64::from(self.sub))
    }
}

struct Entry {
    key: Arc<[u8]>,
    newest: Version,
    older: Option<Box<Older>>,
}

/// Older versions of a key, oldest first. Most keys have none: a pointer is all they pay.
#[derive(Default)]
struct Older(VecDeque<Version>);

const _: () = assert!(size_of::<Entry>() == 56);

impl Entry {
    /// The newest version at or before main revision `at`, tombstones included.
    fn at(&self, at: i64) -> Option<&Version> {
        if self.newest.main <= at {
            return Some(&self.newest);
        }
        let older = &self.older.as_deref()?.0;
        let after = older.partition_point(|v| v.main <= at);
        older.get(after.checked_sub(1)?)
    }

    fn push(&mut self, next: Version) {
        assert!(
            (self.newest.main, self.newest.sub) < (next.main, next.sub),
            "revision {}.{} of a key does not follow {}.{}",
            next.main,
            next.sub,
            self.newest.main,
            self.newest.sub
        );
        let old = std::mem::replace(&mut self.newest, next);
        self.older.get_or_insert_default().0.push_back(old);
    }
}

/// Sorted keys. A search runs over eight bytes of each key that follow what all have in common:
/// they lie together, while every key is memory of its own, far from the caches.
#[derive(Default)]
struct Leaf {
    entries: Vec<Entry>,
    /// For each entry the bytes of its key after the first `skip`, as a number.
    heads: Vec<u64>,
    /// Bytes that all keys here begin with.
    skip: usize,
}

impl Leaf {
    fn new(entries: Vec<Entry>) -> Self {
        let mut leaf = Leaf {
            entries,
            ..Leaf::default()
        };
        leaf.rebuild();
        leaf
    }

    fn rebuild(&mut self) {
        self.skip = match (self.entries.first(), self.entries.last()) {
            (Some(first), Some(last)) => common(&first.key, &last.key),
            _ => 0,
        };
        self.refill();
    }

    fn refill(&mut self) {
        self.heads.clear();
        self.heads.reserve_exact(self.entries.len());
        let skip = self.skip;
        self.heads
            .extend(self.entries.iter().map(|e| head(&e.key, skip)));
    }

    fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let wanted = head(key, self.skip);
        let mut at = below(&self.heads, wanted);
        // right only for keys that begin as all here do: any entry tells
        let Some(near) = self.entries.get(at).or(self.entries.last()) else {
            return Err(0);
        };
        if common(key, &near.key) < self.skip {
            return Err(if *key < near.key[..] {
                0
            } else {
                self.entries.len()
            });
        }
        let same = self.heads[at..]
            .iter()
            .take_while(|&&h| h == wanted)
            .count();
        match self.entries[at..at + same].binary_search_by(|e| e.key[..].cmp(key)) {
            Ok(place) => {
                at += place;
                Ok(at)
            }
            Err(place) => Err(at + place),
        }
    }

    fn insert(&mut self, at: usize, entry: Entry) {
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(LEAF_STEP);
            self.heads.reserve_exact(LEAF_STEP);
        }
        let shared = match self.entries.first() {
            Some(first) => common(&first.key, &entry.key),
            None => entry.key.len(),
        };
        if self.entries.is_empty() || shared < self.skip {
            self.skip = shared;
            self.entries.insert(at, entry);
            self.refill();
        } else {
            self.heads.insert(at, head(&entry.key, self.skip));
            self.entries.insert(at, entry);
        }
    }

    fn remove(&mut self, at: usize) {
        self.entries.remove(at);
        self.heads.remove(at);
    }
}

/// How many of the sorted `heads` are below `wanted`. Looks at one of each cache line first: these
/// loads do not wait for one another, as those of a binary search do.
fn below(heads: &[u64], wanted: u64) -> usize {
    const LINE: usize = 8;
    let whole = heads
        .chunks_exact(LINE)
        .filter(|line| line.last().is_some_and(|&h| h < wanted))
        .count();
    let rest = heads.get(whole * LINE..).unwrap_or_default();
    let rest = rest.iter().take(LINE);
    whole * LINE + rest.filter(|&&h| h < wanted).count()
}

/// Length of the common beginning.
fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The eight bytes after the first `skip`, missing ones zero, as a number: unequal ones order as
/// their keys do.
fn head(key: &[u8], skip: usize) -> u64 {
    let rest = key.get(skip..).unwrap_or_default();
    match rest.first_chunk::<8>() {
        Some(bytes) => u64::from_be_bytes(*bytes),
        None => {
            let mut bytes = [0; 8];
            bytes[..rest.len()].copy_from_slice(rest);
            u64::from_be_bytes(bytes)
        }
    }
}

/// A version that became garbage at a main revision.
struct Garbage {
    /// Main revision of the change that made it so.
    at: i64,
    key: Arc<[u8]>,
}

/// The index.
#[derive(Default)]
pub(crate) struct Index {
    leaves: Vec<Leaf>,
    /// For each leaf a key at or below its first and above the last of the leaf before.
    separators: Vec<Arc<[u8]>>,
    /// As in a leaf: what follows the common beginning of all separators.
    separator_heads: Vec<u64>,
    separator_skip: usize,
    /// For each leaf its keys whose newest version is no tombstone.
    living: Vec<u32>,
    /// Largest main revision in the index.
    newest_main: i64,
    /// One item for each version that has a successor and is no tombstone, by revision of the
    /// successor.
    superseded: VecDeque<Garbage>,
    /// One item for each tombstone, by its own revision.
    tombstones: VecDeque<Garbage>,
}

impl Index {
    /// Leaf that holds `key` or would.
    fn leaf_of(&self, key: &[u8]) -> usize {
        let skip = self.separator_skip;
        let shared = match self.separators.first() {
            Some(first) => common(key, first),
            None => return 0,
        };
        if shared < skip {
            let first = &self.separators[0];
            return if *key < first[..] {
                0
            } else {
                self.separators.len() - 1
            };
        }
        let wanted = head(key, skip);
        let from = self.separator_heads.partition_point(|&h| h < wanted);
        let same = self.separator_heads[from..].partition_point(|&h| h == wanted);
        let at_or_below = self.separators[from..from + same].partition_point(|s| &s[..] <= key);
        (from + at_or_below).saturating_sub(1)
    }

    fn find(&self, key: &[u8]) -> Result<(usize, usize), (usize, usize)> {
        let leaf = self.leaf_of(key);
        let Some(found) = self.leaves.get(leaf) else {
            return Err((0, 0));
        };
        match found.search(key) {
            Ok(at) => Ok((leaf, at)),
            Err(at) => Err((leaf, at)),
        }
    }

    fn entry(&self, key: &[u8]) -> Option<&Entry> {
        let (leaf, at) = self.find(key).ok()?;
        self.leaves.get(leaf)?.entries.get(at)
    }

    /// The newest version of `key` at or before main revision `at`, tombstones included.
    pub(crate) fn version_at(&self, key: &[u8], at: i64) -> Option<&Version> {
        self.entry(key)?.at(at)
    }

    /// Largest main revision in the index, 0 when empty.
    pub(crate) fn newest_main(&self) -> i64 {
        self.newest_main
    }

    /// Keys whose newest version is no tombstone.
    pub(crate) fn living(&self) -> usize {
        self.living.iter().map(|&n| n as usize).sum()
    }

    /// Keys in the index, deleted ones not yet compacted included.
    pub(crate) fn keys(&self) -> usize {
        self.leaves.iter().map(|l| l.entries.len()).sum()
    }

    /// Versions waiting for a compaction.
    pub(crate) fn garbage(&self) -> usize {
        self.superseded.len() + self.tombstones.len()
    }

    /// Records a put at `main`.`sub`; returns the key's create revision and version.
    pub(crate) fn put(&mut self, key: &[u8], main: i64, sub: u32) -> (i64, i64) {
        match self.find(key) {
            Ok((leaf, at)) => {
                let before = self.leaves[leaf].entries[at].newest;
                let (created, version) = if before.tombstone {
                    (main, 1)
                } else {
                    (before.created, before.version.saturating_add(1))
                };
                self.update(
                    leaf,
                    at,
                    Version {
                        main,
                        created,
                        version,
                        sub,
                        tombstone: false,
                    },
                );
                (created, version)
            }
            Err((leaf, at)) => {
                let first = Version {
                    main,
                    created: main,
                    version: 1,
                    sub,
                    tombstone: false,
                };
                self.insert(leaf, at, key, first);
                (main, 1)
            }
        }
    }

    /// Records a version as the file tells it. A tombstone of a dead key is passed over. False when
    /// it does not come after the key's newest version.
    #[must_use]
    pub(crate) fn restore(&mut self, key: &[u8], version: Version) -> bool {
        match self.find(key) {
            Ok((leaf, at)) => {
                let newest = &self.leaves[leaf].entries[at].newest;
                if version.revision() <= newest.revision() {
                    return false;
                }
                if !(version.tombstone && newest.tombstone) {
                    self.update(leaf, at, version);
                }
            }
            Err((leaf, at)) => self.insert(leaf, at, key, version),
        }
        true
    }

    fn update(&mut self, leaf: usize, at: usize, next: Version) {
        let entry = &mut self.leaves[leaf].entries[at];
        let before = entry.newest;
        entry.push(next);
        self.newest_main = self.newest_main.max(next.main);
        if !before.tombstone {
            self.superseded.push_back(Garbage {
                at: next.main,
                key: entry.key.clone(),
            });
        }
        if next.tombstone {
            self.tombstones.push_back(Garbage {
                at: next.main,
                key: entry.key.clone(),
            });
        }
        match (before.tombstone, next.tombstone) {
            (true, false) => self.living[leaf] += 1,
            (false, true) => self.living[leaf] -= 1,
            _ => {}
        }
    }

    fn insert(&mut self, mut leaf: usize, mut at: usize, key: &[u8], version: Version) {
        let key: Arc<[u8]> = key.into();
        if self.leaves.is_empty() {
            self.leaves.push(Leaf::default());
            self.separators.push(key.clone());
            self.separator_skip = key.len();
            self.separator_heads = vec![0];
            self.living.push(0);
        }
        if self.leaves[leaf].entries.len() >= LEAF_MAX {
            let is_last = leaf + 1 == self.leaves.len();
            if is_last && at == LEAF_MAX {
                // keys arriving in order fill their leaves
                self.add_leaf(leaf + 1, Leaf::default(), key.clone());
            } else {
                let full = &mut self.leaves[leaf].entries;
                let tail = full.split_off(LEAF_MAX / 2);
                full.shrink_to(LEAF_MAX / 2 + LEAF_STEP);
                let separator = tail[0].key.clone();
                self.leaves[leaf].rebuild();
                self.add_leaf(leaf + 1, Leaf::new(tail), separator);
                self.recount(leaf);
                self.recount(leaf + 1);
            }
            if at > self.leaves[leaf].entries.len() || self.separators[leaf + 1][..] <= key[..] {
                at -= self.leaves[leaf].entries.len();
                leaf += 1;
            }
        }
        self.newest_main = self.newest_main.max(version.main);
        if version.tombstone {
            self.tombstones.push_back(Garbage {
                at: version.main,
                key: key.clone(),
            });
        } else {
            self.living[leaf] += 1;
        }
        let entry = Entry {
            key,
            newest: version,
            older: None,
        };
        self.leaves[leaf].insert(at, entry);
    }

    fn add_leaf(&mut self, at: usize, leaf: Leaf, separator: Arc<[u8]>) {
        self.leaves.insert(at, leaf);
        let shared = self.separators.first().map_or(0, |s| common(s, &separator));
        self.separator_heads
            .insert(at, head(&separator, self.separator_skip));
        self.separators.insert(at, separator);
        if shared < self.separator_skip {
            self.separator_skip = shared;
            let heads = self.separators.iter().map(|s| head(s, shared));
            self.separator_heads = heads.collect();
        }
        self.living.insert(at, 0);
    }

    fn recount(&mut self, leaf: usize) {
        let living = self.leaves[leaf].entries.iter();
        self.living[leaf] = living.filter(|e| !e.newest.tombstone).count() as u32;
    }

    fn remove(&mut self, leaf: usize, at: usize) {
        self.leaves[leaf].remove(at);
        let len = self.leaves[leaf].entries.len();
        if len == 0 {
            self.drop_leaf(leaf);
        } else if len < LEAF_MIN
            && let Some(next) = self.leaves.get(leaf + 1)
            && len + next.entries.len() <= LEAF_MAX / 2
        {
            let next = std::mem::take(&mut self.leaves[leaf + 1].entries);
            self.leaves[leaf].entries.extend(next);
            self.leaves[leaf].rebuild();
            self.drop_leaf(leaf + 1);
            self.recount(leaf);
        }
    }

    fn drop_leaf(&mut self, leaf: usize) {
        self.leaves.remove(leaf);
        self.separators.remove(leaf);
        self.separator_heads.remove(leaf);
        self.living.remove(leaf);
    }

    /// First position of a walk over `span` that goes on after `resume`.
    fn seek(&self, span: Span<'_>, resume: &Resume) -> (usize, usize) {
        let (key, skip) = match resume {
            Some(last) => (&last[..], true),
            None => (span.start(), false),
        };
        match self.find(key) {
            Ok((leaf, at)) => (leaf, at + usize::from(skip)),
            Err(place) => place,
        }
    }

    /// Visits the keys of `span` that live at main revision `at`, until `visit` returns false or
    /// `max` keys of the index were passed. Returns where to go on, or `None` at the end.
    pub(crate) fn walk(
        &self,
        span: Span<'_>,
        resume: &Resume,
        at: i64,
        max: usize,
        mut visit: impl FnMut(&Arc<[u8]>, &Version) -> bool,
    ) -> Resume {
        let (leaf, mut from) = self.seek(span, resume);
        let mut left = max;
        for leaf in self.leaves.get(leaf..)? {
            for entry in leaf.entries.get(from..).unwrap_or_default() {
                if span.is_past(&entry.key) {
                    return None;
                }
                if let Some(version) = entry.at(at)
                    && !version.tombstone
                    && !visit(&entry.key, version)
                {
                    return Some(entry.key.clone());
                }
                left = left.saturating_sub(1);
                if left == 0 {
                    return Some(entry.key.clone());
                }
            }
            from = 0;
        }
        None
    }

    /// Number of keys of `span` that live now, without visiting them all.
    pub(crate) fn count(&self, span: Span<'_>) -> usize {
        let (first, last_end) = match span {
            Span::Key(key) => {
                let newest = self.entry(key).map(|e| &e.newest);
                return usize::from(newest.is_some_and(|v| !v.tombstone));
            }
            Span::Until(from, end) if end <= from => return 0,
            Span::Until(from, end) => {
                let (Ok(end) | Err(end)) = self.find(end);
                (from, Some(end))
            }
            Span::From(from) => (from, None),
        };
        let (Ok(start) | Err(start)) = self.find(first);
        let part = |leaf: usize, from: usize, to: Option<usize>| -> usize {
            let Some(leaf) = self.leaves.get(leaf) else {
                return 0;
            };
            let to = to.unwrap_or(leaf.entries.len());
            let entries = leaf.entries.get(from..to).unwrap_or_default();
            entries.iter().filter(|e| !e.newest.tombstone).count()
        };
        let sum = |from: usize, to: usize| -> usize {
            let counts = self.living.get(from..to).unwrap_or_default();
            counts.iter().map(|&n| n as usize).sum()
        };
        match last_end {
            Some((leaf, at)) if leaf == start.0 => part(leaf, start.1, Some(at)),
            Some((leaf, at)) => {
                part(start.0, start.1, None) + sum(start.0 + 1, leaf) + part(leaf, 0, Some(at))
            }
            None => part(start.0, start.1, None) + sum(start.0 + 1, self.living.len()),
        }
    }

    /// Deletes up to `max` living keys of `span` at main revision `main`; `each` sees a key and
    /// returns the place of its deletion in the transaction. Returns where to go on.
    pub(crate) fn delete(
        &mut self,
        span: Span<'_>,
        resume: &Resume,
        main: i64,
        max: usize,
        mut each: impl FnMut(&Arc<[u8]>) -> u32,
    ) -> Resume {
        let (mut leaf, mut at) = self.seek(span, resume);
        let mut left = max;
        while leaf < self.leaves.len() {
            while let Some(entry) = self.leaves[leaf].entries.get(at) {
                if span.is_past(&entry.key) {
                    return None;
                }
                if !entry.newest.tombstone {
                    let sub = each(&entry.key);
                    self.update(
                        leaf,
                        at,
                        Version {
                            main,
                            created: 0,
                            version: 0,
                            sub,
                            tombstone: true,
                        },
                    );
                }
                left = left.saturating_sub(1);
                if left == 0 {
                    return Some(self.leaves[leaf].entries[at].key.clone());
                }
                at += 1;
            }
            leaf += 1;
            at = 0;
        }
        None
    }

    /// Takes up to `max` versions out that no reader at or after main revision `compacted` needs.
    /// Returns whether more are left.
    ///
    /// A version goes once its successor is at or before `compacted`; a tombstone once it is before:
    /// one exactly at `compacted` stays for whoever watches from there.
    pub(crate) fn collect(&mut self, compacted: i64, max: usize, out: &mut Vec<BucketKey>) -> bool {
        for _ in 0..max {
            let superseded = self.superseded.front().map(|g| g.at);
            let stays = i64::from(!mutation!("tombstone-too-early"));
            let tombstone = self.tombstones.front().map(|g| g.at.saturating_add(stays));
            let due = match (superseded, tombstone) {
                (None, None) => return false,
                (Some(s), None) => (s, false),
                (None, Some(t)) => (t, true),
                // a tombstone stands before the versions that came after it
                (Some(s), Some(t)) => (s.min(t), t <= s),
            };
            let pinned = i64::from(mutation!("compaction-takes-pinned") && !due.1);
            if due.0 > compacted + pinned {
                return false;
            }
            let queue = if due.1 {
                &mut self.tombstones
            } else {
                &mut self.superseded
            };
            if let Some(garbage) = queue.pop_front() {
                out.push(self.take_oldest(&garbage.key, due.1));
            }
        }
        true
    }

    /// Removes the key's oldest version of a kind.
    fn take_oldest(&mut self, key: &[u8], tombstone: bool) -> BucketKey {
        let place = self.find(key);
        let (leaf, at) = place.unwrap_or_else(|_| panic!("a key with garbage is in the index"));
        let entry = &mut self.leaves[leaf].entries[at];
        if let Some(Older(older)) = entry.older.as_deref_mut()
            && let Some(oldest) = older.iter().position(|v| v.tombstone == tombstone)
            && let Some(version) = older.remove(oldest)
        {
            if older.is_empty() {
                entry.older = None;
            } else if older.capacity() > 64 && older.len() < older.capacity() / 4 {
                older.shrink_to(older.len() * 2);
            }
            return version.key();
        }
        let newest = entry.newest;
        assert!(
            tombstone && newest.tombstone && entry.older.is_none(),
            "only a key's last tombstone is garbage without a successor"
        );
        self.remove(leaf, at);
        newest.key()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// Living keys and their revision.
    type Model = BTreeMap<Vec<u8>, i64>;

    fn check(index: &Index, model: &Model, now: i64) {
        assert_eq!(index.living(), model.len());
        let spans = [
            ("", None),
            ("k2", Some("k5")),
            ("k33", Some("k33333")),
            ("k9", Some("k1")),
            ("k7", None),
            ("zzz", None),
        ];
        for (from, to) in spans {
            let span = match to {
                Some(to) => Span::Until(from.as_bytes(), to.as_bytes()),
                None => Span::From(from.as_bytes()),
            };
            let expected: Vec<_> = model
                .iter()
                .filter(|(k, _)| &k[..] >= from.as_bytes() && !span.is_past(k))
                .map(|(k, &main)| (k.clone(), main))
                .collect();
            assert_eq!(index.count(span), expected.len(), "{span:?}");
            let mut got = Vec::new();
            let mut resume = None;
            loop {
                resume = index.walk(span, &resume, now, 100, |key, version| {
                    got.push((key.to_vec(), version.main));
                    true
                });
                if resume.is_none() {
                    break;
                }
            }
            assert_eq!(got, expected, "{span:?}");
        }
    }

    fn shape(index: &Index) {
        assert_eq!(index.leaves.len(), index.separators.len());
        assert_eq!(index.leaves.len(), index.living.len());
        let heads = index
            .separators
            .iter()
            .map(|s| head(s, index.separator_skip));
        assert!(heads.eq(index.separator_heads.iter().copied()));
        for (i, leaf) in index.leaves.iter().enumerate() {
            assert!(!leaf.entries.is_empty() && leaf.entries.len() <= LEAF_MAX);
            assert!(leaf.entries.is_sorted_by(|a, b| a.key < b.key));
            let heads = leaf.entries.iter().map(|e| head(&e.key, leaf.skip));
            assert!(heads.eq(leaf.heads.iter().copied()));
            if i > 0 {
                assert!(index.separators[i] <= leaf.entries[0].key);
                let before = index.leaves[i - 1].entries.last();
                assert!(before.is_some_and(|e| e.key < index.separators[i]));
            }
        }
    }

    #[test]
    fn many_keys_split_and_join_leaves() {
        for ascending in [false, true] {
            let mut index = Index::default();
            let mut model = Model::new();
            let mut main = 1;
            let mut seed = 12345_u64;
            let mut next = move || {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                seed >> 33
            };
            for round in 0..6 {
                for i in 0..5000 {
                    main += 1;
                    let n = if ascending {
                        round * 5000 + i
                    } else {
                        next() % 20_000
                    };
                    let key = format!("k{n:05}").into_bytes();
                    let (created, version) = index.put(&key, main, 0);
                    let before = model.insert(key, main);
                    assert_eq!(version == 1, before.is_none());
                    assert!(created <= main);
                }
                shape(&index);
                check(&index, &model, main);
                // a wide deletion, in slices
                let from = format!("k{:05}", next() % 20_000).into_bytes();
                main += 1;
                let (mut resume, mut sub) = (None, 0);
                loop {
                    resume = index.delete(Span::From(&from), &resume, main, 64, |key| {
                        assert!(model.remove(&key[..]).is_some());
                        sub += 1;
                        sub - 1
                    });
                    if resume.is_none() {
                        break;
                    }
                }
                check(&index, &model, main);
                let mut gone = Vec::new();
                while index.collect(main, 500, &mut gone) {}
                shape(&index);
                check(&index, &model, main);
                // only the tombstones of the deletion wait
                assert_eq!(index.garbage(), sub as usize);
                assert_eq!(index.keys(), model.len() + sub as usize);
            }
            main += 1;
            index.put(b"last", main, 0);
            while index.collect(main, 1, &mut Vec::new()) {}
            assert_eq!(index.keys(), model.len() + 1);
            shape(&index);
        }
    }
}
