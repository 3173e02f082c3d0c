//! The write transaction: changes gathered in memory, then one commit.
//!
//! Owns the order on disk: data pages, sync, meta page, sync, and only then is the commit seen and what it freed put
//! into the waiting room of the free list. Dropped without commit, it leaves no trace.

use crate::cursor::{Cursor, Direction};
use crate::db::{Inner, read_bytes};
use crate::error::Error;
use crate::format::{
    BUCKET_HEADER, FLAG_FREELIST, MAX_KEY_BYTES, MAX_VALUE_BYTES, Meta, NO_FREELIST, PAGE_HEADER,
    PageHeader,
};
use crate::freelist::Run;
use crate::page::{Kind, Page, kind_of};
use crate::read::{Found, Pin, Root, Visit, find, parse_bucket};
use crate::rebuild::{Action, NewRoot, Rebuild, TreeOp};
use bytes::Bytes;
use ferrite_mutate::mutation;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Adjacent pages are written together up to this many bytes.
const WRITE_BYTES_MAX: usize = 1 << 20;
/// The file is cut once this many pages lie beyond both metas' high water; fewer are kept for growth.
const CUT_PAGES_MIN: u64 = 16;
/// How full a page is made when it is split, unless the caller says otherwise.
const FILL_DEFAULT: f64 = 0.5;

/// What a commit did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommitStats {
    /// Number of the commit; 0 if there was nothing to commit.
    pub txid: u64,
    /// Pages written, overflow included, the meta page excepted.
    pub pages_written: u64,
    /// Bytes written, meta page included.
    pub bytes_written: u64,
    /// Write calls, meta page included.
    pub write_calls: u64,
    /// Pages given up.
    pub pages_freed: u64,
    /// Pages added by splitting.
    pub splits: u64,
    /// Pages joined with a neighbour.
    pub merges: u64,
    /// Changing the trees, merging, splitting and encoding.
    pub rebuild: Duration,
    /// Writing.
    pub write: Duration,
    /// Waiting for the disk.
    pub sync: Duration,
}

/// A change to one key of a bucket, not yet committed.
enum Op {
    Put(Bytes),
    Delete,
    /// A bucket opened for writing; it may be unchanged.
    Bucket(Box<BucketState>),
    DropBucket,
}

/// A bucket as this transaction sees it: its tree on disk, and what lies over it.
struct BucketState {
    root: Root,
    sequence: u64,
    /// New, or its sequence changed.
    header_changed: bool,
    ops: BTreeMap<Bytes, Op>,
    /// Names whose element on disk is of the other kind, and was properly deleted before the name was used anew.
    kind_changed: BTreeSet<Bytes>,
    /// Keys whose pages are to move.
    touch: Vec<Bytes>,
    fill: f64,
}

impl BucketState {
    fn loaded(root: Root, sequence: u64) -> BucketState {
        BucketState {
            root,
            sequence,
            header_changed: false,
            ops: BTreeMap::new(),
            kind_changed: BTreeSet::new(),
            touch: Vec::new(),
            fill: FILL_DEFAULT,
        }
    }
}

/// The one write transaction of a database. Dropping it undoes everything.
pub struct WriteTx {
    pin: Pin,
    root: BucketState,
    /// Runs of buckets deleted so far.
    freed: Vec<Run>,
}

impl std::fmt::Debug for WriteTx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WriteTx")
            .field("base_txid", &self.pin.meta.txid)
            .finish_non_exhaustive()
    }
}

/// A bucket of a [`WriteTx`], nested buckets included.
pub struct BucketMut<'a> {
    pin: &'a Pin,
    freed: &'a mut Vec<Run>,
    state: &'a mut BucketState,
}

impl std::fmt::Debug for BucketMut<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BucketMut").finish_non_exhaustive()
    }
}

fn check_key(key: &[u8]) -> Result<(), Error> {
    match key.len() {
        0 => Err(Error::KeyEmpty),
        len if len > MAX_KEY_BYTES => Err(Error::KeyTooLarge { len }),
        _ => Ok(()),
    }
}

fn missing(name: &[u8]) -> Error {
    Error::BucketMissing {
        name: name.to_vec(),
    }
}

fn incompatible(key: &[u8], is: &'static str, wanted: &'static str) -> Error {
    Error::Incompatible {
        key: key.to_vec(),
        is,
        wanted,
    }
}

impl BucketMut<'_> {
    /// Sets `key` to `value`. That `key` is not a bucket is checked at commit.
    ///
    /// # Errors
    /// [`Error::KeyEmpty`], [`Error::KeyTooLarge`], [`Error::ValueTooLarge`], [`Error::Incompatible`].
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), Error> {
        check_key(key)?;
        if value.len() > MAX_VALUE_BYTES {
            return Err(Error::ValueTooLarge { len: value.len() });
        }
        self.change(key, Op::Put(Bytes::copy_from_slice(value)))
    }

    /// Removes `key`; nothing happens if it is not there.
    ///
    /// # Errors
    /// [`Error::Incompatible`] if it is a bucket that this transaction opened; others are found at commit.
    pub fn delete(&mut self, key: &[u8]) -> Result<(), Error> {
        if check_key(key).is_err() {
            return Ok(());
        }
        self.change(key, Op::Delete)
    }

    fn change(&mut self, key: &[u8], op: Op) -> Result<(), Error> {
        match self.state.ops.get_mut(key) {
            Some(Op::Bucket(_)) => Err(incompatible(key, "bucket", "key")),
            Some(Op::DropBucket) if matches!(op, Op::Delete) => Ok(()),
            Some(old) => {
                if matches!(old, Op::DropBucket) {
                    self.state.kind_changed.insert(Bytes::copy_from_slice(key));
                }
                *old = op;
                Ok(())
            }
            None => {
                self.state.ops.insert(Bytes::copy_from_slice(key), op);
                Ok(())
            }
        }
    }

    /// The value of `key`, own changes included; `None` also where a bucket has that name.
    ///
    /// # Errors
    /// I/O errors and damage met on the way.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        match self.state.ops.get(key) {
            Some(Op::Put(value)) => Ok(Some(value.clone())),
            Some(_) => Ok(None),
            None => Ok(match find(self.pin, &self.state.root, key)? {
                Found::Value(page, i) => Some(Bytes::copy_from_slice(page.value(i))),
                _ => None,
            }),
        }
    }

    /// As [`crate::Bucket::scan`], own changes included.
    ///
    /// # Errors
    /// I/O errors and damage met on the way.
    pub fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<(), Error> {
        self.scan_merged(from, to, Direction::Forward, visit)
    }

    /// As [`BucketMut::scan`] over the same keys, descending.
    ///
    /// # Errors
    /// I/O errors and damage met on the way.
    pub fn scan_reverse(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: Visit<'_>,
    ) -> Result<(), Error> {
        self.scan_merged(from, to, Direction::Backward, visit)
    }

    fn scan_merged(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        direction: Direction,
        visit: Visit<'_>,
    ) -> Result<(), Error> {
        if to.is_some_and(|to| to <= from) {
            return Ok(());
        }
        let upper = to.map_or(Bound::Unbounded, Bound::Excluded);
        let mut over = self
            .state
            .ops
            .range::<[u8], _>((Bound::Included(from), upper));
        let mut step = || match direction {
            Direction::Forward => over.next(),
            Direction::Backward => over.next_back(),
        };
        let mut own = step();
        let mut base = match direction {
            Direction::Forward => Cursor::at_or_after(self.pin, &self.state.root, from)?,
            Direction::Backward => Cursor::before(self.pin, &self.state.root, to)?,
        };
        loop {
            let stored = base.current().filter(|(page, i)| match direction {
                Direction::Forward => to.is_none_or(|to| page.key(*i) < to),
                Direction::Backward => page.key(*i) >= from,
            });
            let order = match (&stored, &own) {
                (None, None) => return Ok(()),
                (Some(_), None) => std::cmp::Ordering::Less,
                (None, Some(_)) => std::cmp::Ordering::Greater,
                (Some((page, i)), Some((key, _))) => {
                    let order = page.key(*i).cmp(key.as_ref());
                    match direction {
                        Direction::Forward => order,
                        Direction::Backward => order.reverse(),
                    }
                }
            };
            let flow = match (order, stored, own) {
                (std::cmp::Ordering::Less, Some((page, i)), _) if !page.is_bucket(i) => {
                    visit(page.key(i), page.value(i))
                }
                (std::cmp::Ordering::Less, ..) => ControlFlow::Continue(()),
                // The transaction's own change hides what is stored under the same key.
                (_, _, Some((key, Op::Put(value)))) => visit(key, value),
                _ => ControlFlow::Continue(()),
            };
            if flow.is_break() {
                return Ok(());
            }
            if order.is_ge() {
                own = step();
            }
            if order.is_le() {
                base.advance(direction)?;
            }
        }
    }

    /// The bucket's sequence counter.
    pub fn sequence(&self) -> u64 {
        self.state.sequence
    }

    /// Sets the sequence counter.
    pub fn set_sequence(&mut self, sequence: u64) {
        self.state.sequence = sequence;
        self.state.header_changed = true;
    }

    /// Adds one to the sequence counter and answers it.
    pub fn next_sequence(&mut self) -> u64 {
        self.set_sequence(self.state.sequence.wrapping_add(1));
        self.state.sequence
    }

    /// How full a page is made when it is split in this transaction: 0.1 to 1.0, 0.5 unless set. High for buckets that
    /// are appended to.
    pub fn set_fill_percent(&mut self, fill: f64) {
        self.state.fill = fill.clamp(0.1, 1.0);
    }

    /// Makes sure that the bucket `name`, if it exists, lies open in the overlay.
    fn open_child(&mut self, name: &[u8]) -> Result<bool, Error> {
        match self.state.ops.get(name) {
            Some(Op::Bucket(_)) => return Ok(true),
            Some(Op::Put(_)) => return Err(incompatible(name, "key", "bucket")),
            Some(Op::Delete | Op::DropBucket) => return Ok(false),
            None => {}
        }
        match find(self.pin, &self.state.root, name)? {
            Found::Nothing => Ok(false),
            Found::Value(..) => Err(incompatible(name, "key", "bucket")),
            Found::Bucket(root, sequence) => {
                let child = Box::new(BucketState::loaded(root, sequence));
                self.state
                    .ops
                    .insert(Bytes::copy_from_slice(name), Op::Bucket(child));
                Ok(true)
            }
        }
    }

    /// The nested bucket `name`.
    ///
    /// # Errors
    /// [`Error::BucketMissing`], [`Error::Incompatible`].
    pub fn bucket_mut(&mut self, name: &[u8]) -> Result<BucketMut<'_>, Error> {
        self.open_child(name)?;
        match self.state.ops.get_mut(name) {
            Some(Op::Bucket(state)) => Ok(BucketMut {
                pin: self.pin,
                freed: self.freed,
                state,
            }),
            _ => Err(missing(name)),
        }
    }

    /// The nested bucket `name`, created if it is not there.
    ///
    /// # Errors
    /// [`Error::KeyEmpty`], [`Error::KeyTooLarge`], [`Error::Incompatible`].
    pub fn create_bucket_if_missing(&mut self, name: &[u8]) -> Result<BucketMut<'_>, Error> {
        check_key(name)?;
        if !self.open_child(name)? {
            let fresh = self.state.kind_changed.contains(name);
            if !fresh && matches!(self.state.ops.get(name), Some(Op::Delete)) {
                match find(self.pin, &self.state.root, name)? {
                    Found::Nothing => {}
                    Found::Value(..) => {
                        self.state.kind_changed.insert(Bytes::copy_from_slice(name));
                    }
                    Found::Bucket(..) => return Err(incompatible(name, "bucket", "key")),
                }
            }
            let mut child = BucketState::loaded(Root::Empty, 0);
            child.header_changed = true;
            self.state
                .ops
                .insert(Bytes::copy_from_slice(name), Op::Bucket(Box::new(child)));
        }
        self.bucket_mut(name)
    }

    /// Deletes the nested bucket `name` and everything in it.
    ///
    /// # Errors
    /// [`Error::BucketMissing`], [`Error::Incompatible`], and damage met on the way.
    pub fn delete_bucket(&mut self, name: &[u8]) -> Result<(), Error> {
        if !self.open_child(name)? {
            return Err(missing(name));
        }
        let mut freed = Vec::new();
        if let Some(Op::Bucket(child)) = self.state.ops.get(name) {
            free_bucket(self.pin, &child.root, Some(child), &mut freed)?;
        }
        self.freed.append(&mut freed);
        self.state
            .ops
            .insert(Bytes::copy_from_slice(name), Op::DropBucket);
        Ok(())
    }
}

/// Notes every page of a bucket and of the buckets nested in it. What the transaction deleted before (`over`) has been
/// noted then.
fn free_bucket(
    pin: &Pin,
    root: &Root,
    over: Option<&BucketState>,
    freed: &mut Vec<Run>,
) -> Result<(), Error> {
    let Root::Page(root) = root else {
        return Ok(());
    };
    let mut todo = vec![*root];
    while let Some(id) = todo.pop() {
        let page = pin.page(id)?;
        freed.push((id, page.span()));
        if freed.len() as u64 > pin.meta.high_water {
            return Err(Error::damage(id, "more references than pages: a loop"));
        }
        if page.kind() == Kind::Branch {
            todo.extend((0..page.count()).map(|i| page.child(i)));
            continue;
        }
        for i in (0..page.count()).filter(|&i| page.is_bucket(i)) {
            let (mut nested, _) = parse_bucket(page.value_slice(i), id)?;
            let mut nested_over = None;
            match over.and_then(|o| o.ops.get(page.key(i))) {
                Some(Op::Bucket(state)) => {
                    nested = state.root.clone();
                    nested_over = Some(&**state);
                }
                Some(Op::DropBucket) => continue,
                // Deleted as a bucket before it became a key, or the key's commit would have been refused.
                Some(_) if over.is_some_and(|o| o.kind_changed.contains(page.key(i))) => continue,
                _ => {}
            }
            free_bucket(pin, &nested, nested_over, freed)?;
        }
    }
    Ok(())
}

impl WriteTx {
    pub(crate) fn begin(inner: &Arc<Inner>) -> Result<WriteTx, Error> {
        if inner.read_only {
            return Err(Error::ReadOnly);
        }
        let mut state = inner.state.lock();
        loop {
            if let Some(e) = &state.failed {
                return Err(e.clone());
            }
            if !state.writing {
                break;
            }
            inner.writer_left.wait(&mut state);
        }
        state.writing = true;
        // What commit N freed is out of every reader's sight once none reads a commit before N; and N is durable, or
        // it would not be the last commit.
        let oldest = state.readers.keys().next().copied();
        let oldest = oldest.filter(|_| !mutation!("reuse-under-readers"));
        let meta = state.meta;
        drop(state);
        inner.space.lock().free.release(oldest);
        Ok(WriteTx {
            pin: Pin::writer(inner, meta),
            root: BucketState::loaded(Root::Page(meta.root), meta.sequence),
            freed: Vec::new(),
        })
    }

    fn top(&mut self) -> BucketMut<'_> {
        BucketMut {
            pin: &self.pin,
            freed: &mut self.freed,
            state: &mut self.root,
        }
    }

    /// The top-level bucket `name`.
    ///
    /// # Errors
    /// [`Error::BucketMissing`].
    pub fn bucket_mut(&mut self, name: &[u8]) -> Result<BucketMut<'_>, Error> {
        self.top().open_child(name)?;
        match self.root.ops.get_mut(name) {
            Some(Op::Bucket(state)) => Ok(BucketMut {
                pin: &self.pin,
                freed: &mut self.freed,
                state,
            }),
            _ => Err(missing(name)),
        }
    }

    /// The top-level bucket `name`, created if it is not there.
    ///
    /// # Errors
    /// [`Error::KeyEmpty`], [`Error::KeyTooLarge`].
    pub fn create_bucket_if_missing(&mut self, name: &[u8]) -> Result<BucketMut<'_>, Error> {
        self.top().create_bucket_if_missing(name)?;
        self.bucket_mut(name)
    }

    /// Deletes the top-level bucket `name` and everything in it.
    ///
    /// # Errors
    /// [`Error::BucketMissing`], and damage met on the way.
    pub fn delete_bucket(&mut self, name: &[u8]) -> Result<(), Error> {
        self.top().delete_bucket(name)
    }

    /// [`BucketMut::put`] in the top-level bucket `bucket`.
    ///
    /// # Errors
    /// As there, and [`Error::BucketMissing`].
    pub fn put(&mut self, bucket: &[u8], key: &[u8], value: &[u8]) -> Result<(), Error> {
        self.bucket_mut(bucket)?.put(key, value)
    }

    /// [`BucketMut::delete`] in the top-level bucket `bucket`.
    ///
    /// # Errors
    /// As there, and [`Error::BucketMissing`].
    pub fn delete(&mut self, bucket: &[u8], key: &[u8]) -> Result<(), Error> {
        self.bucket_mut(bucket)?.delete(key)
    }

    /// [`BucketMut::get`] in the top-level bucket `bucket`.
    ///
    /// # Errors
    /// As there, and [`Error::BucketMissing`].
    pub fn get(&mut self, bucket: &[u8], key: &[u8]) -> Result<Option<Bytes>, Error> {
        self.bucket_mut(bucket)?.get(key)
    }

    /// Has anything been changed?
    pub fn is_changed(&self) -> bool {
        fn changed(state: &BucketState) -> bool {
            state.header_changed
                || !state.touch.is_empty()
                || state.ops.values().any(|op| match op {
                    Op::Bucket(child) => changed(child),
                    _ => true,
                })
        }
        changed(&self.root)
    }

    /// Moves up to `pages_max` of the last pages of the file into free ones further down, so that a later commit can
    /// cut the file. Does nothing unless at least four times as many pages are free. Of the trees only the root bucket
    /// and the top-level buckets are searched. Answers how many pages are going to move.
    ///
    /// # Errors
    /// I/O errors and damage met on the way.
    pub fn compact_tail(&mut self, pages_max: u64) -> Result<u64, Error> {
        let high_water = self.pin.meta.high_water;
        let (boundary, live): (u64, Vec<u64>) = {
            let space = self.pin.inner.space.lock();
            let n = pages_max.min(space.free.free_pages() / 4);
            let boundary = high_water.saturating_sub(n).max(2);
            let mut live = Vec::new();
            let mut at = boundary;
            for (start, len) in space.free.runs().filter(|(s, l)| s + l > boundary) {
                live.extend(at..start.max(at));
                at = start + len;
            }
            live.extend(at..high_water);
            (boundary, live)
        };
        let names = crate::read::bucket_names(&self.pin, &Root::Page(self.pin.meta.root))?;
        let mut moved = 0;
        let mut skip_below = 0;
        for id in live {
            // A number inside an overflow run may hold anything; only a page found from the root is moved.
            let Some(key) = self.first_key(id)?.filter(|_| id >= skip_below) else {
                continue;
            };
            let span = self.pin.page(id).map_or(1, |p| p.span());
            if span > 1 && !self.room_below(span, boundary) {
                continue;
            }
            let in_root = on_path(&self.pin, &self.root.root, &key, id)?;
            if in_root {
                self.root.touch.push(key);
            } else {
                let mut owner = None;
                for name in &names {
                    let mut top = self.top();
                    if matches!(top.state.ops.get(name.as_slice()), Some(Op::DropBucket)) {
                        continue;
                    }
                    let bucket = top.bucket_mut(name)?;
                    if on_path(bucket.pin, &bucket.state.root, &key, id)? {
                        owner = Some(name);
                        break;
                    }
                }
                let Some(name) = owner else {
                    continue;
                };
                self.bucket_mut(name)?.state.touch.push(key);
            }
            skip_below = id + span;
            moved += span;
        }
        Ok(moved)
    }

    /// The first key of the page, if it looks like a tree page.
    fn first_key(&self, id: u64) -> Result<Option<Bytes>, Error> {
        let page_size = self.pin.inner.page_size;
        let offset = id * page_size as u64;
        let head = read_bytes(&*self.pin.inner.file, offset, PAGE_HEADER, id)?;
        if kind_of(PageHeader::read(&head), id).is_err() {
            return Ok(None);
        }
        Ok(match self.pin.inner.load(id, self.pin.meta.high_water) {
            Ok(page) if page.count() > 0 => Some(Bytes::copy_from_slice(page.key(0))),
            _ => None,
        })
    }

    fn room_below(&self, span: u64, boundary: u64) -> bool {
        let space = self.pin.inner.space.lock();
        space
            .free
            .runs()
            .any(|(start, len)| len >= span && start + span <= boundary)
    }

    /// Makes the changes durable, then visible. Nothing to commit costs nothing.
    ///
    /// # Errors
    /// Damage met while changing trees, or a key that is a bucket: nothing has been written, and the database goes on.
    /// An I/O error: what of the commit has reached the disk is unknown, and every later call answers that error until
    /// the database is opened again; it then shows this commit or the one before.
    pub fn commit(mut self) -> Result<CommitStats, Error> {
        if !self.is_changed() {
            return Ok(CommitStats::default());
        }
        let started = Instant::now();
        let inner = self.pin.inner.clone();
        let old = self.pin.meta;
        let (slot, txid) = {
            let state = inner.state.lock();
            // A snapshot's newest meta may lie in the slot that the next number maps to; skip a number rather than
            // overwrite it.
            let next = old.txid + 1;
            let txid = if next % 2 == state.slot {
                next + 1
            } else {
                next
            };
            (txid % 2, txid)
        };

        let mut rebuild = Rebuild::new(&self.pin, std::mem::take(&mut self.freed));
        let state = std::mem::replace(&mut self.root, BucketState::loaded(Root::Empty, 0));
        let sequence = state.sequence;
        let root = match flush(&mut rebuild, state, false)? {
            Some((NewRoot::Page(id), _)) => id,
            Some((NewRoot::Inline(_), _)) | None => old.root,
        };
        if old.freelist != NO_FREELIST {
            let head = read_bytes(
                &*inner.file,
                old.freelist * inner.page_size as u64,
                PAGE_HEADER,
                old.freelist,
            )?;
            let span = u64::from(PageHeader::read(&head).overflow) + 1;
            rebuild.freed.push((old.freelist, span));
        }
        let freelist_page = inner.store_freelist.then(|| {
            // One entry more for a long count; allocating can only shorten the list.
            let entries = {
                let space = inner.space.lock();
                let freed: u64 = rebuild.freed.iter().map(|r| r.1).sum();
                1 + space.free.free_pages() + space.free.pending_pages() + freed
            };
            let n = (PAGE_HEADER as u64 + 8 * entries).div_ceil(inner.page_size as u64);
            (rebuild.allocate(n), n)
        });
        let Rebuild {
            high_water,
            mut pages,
            mut freed,
            splits,
            merges,
            ..
        } = rebuild;
        freed.sort_unstable();
        check_freed(&freed, old.high_water)?;
        let mut extra = Vec::new();
        let mut meta = Meta {
            root,
            sequence,
            freelist: NO_FREELIST,
            high_water,
            txid,
            ..old
        };
        {
            let mut space = inner.space.lock();
            meta.high_water = space.free.trim_tail(high_water);
            if meta.high_water < high_water {
                // Still free pages of the commit before, until this one takes its place.
                let cut = (meta.high_water, high_water - meta.high_water);
                space.loaned.push(cut);
            }
            if let Some((id, n)) = freelist_page {
                let mut ids: Vec<u64> = space
                    .free
                    .runs()
                    .chain(space.free.pending())
                    .chain(freed.iter().copied())
                    .flat_map(|(s, n)| s..s + n)
                    .collect();
                ids.sort_unstable();
                meta.freelist = id;
                extra = encode_freelist(id, n, inner.page_size, &ids);
            }
        }
        pages.sort_unstable_by_key(|p| p.0);
        let mut stats = CommitStats {
            txid,
            pages_written: pages.iter().map(|p| p.1.span()).sum::<u64>()
                + freelist_page.map_or(0, |f| f.1),
            pages_freed: freed.iter().map(|r| r.1).sum(),
            splits,
            merges,
            rebuild: started.elapsed(),
            ..CommitStats::default()
        };
        let extra = freelist_page.map(|(id, _)| (id, extra.as_slice()));
        if let Err(e) = write_out(&inner, &pages, extra, &meta, slot, &mut stats) {
            inner.state.lock().failed = Some(e.clone());
            return Err(e);
        }

        // No reader can reach the new numbers before the meta is published, so stale pages go first.
        for (id, page) in pages {
            for tail in id + 1..id + page.span() {
                inner.cache.forget(tail);
            }
            inner.cache.insert(id, page);
        }
        if let Some((id, n)) = freelist_page {
            (id..id + n).for_each(|p| inner.cache.forget(p));
        }
        let mut space = inner.space.lock();
        let mut state = inner.state.lock();
        state.other_high_water = if state.slot == slot {
            state.other_high_water
        } else {
            old.high_water
        };
        state.meta = meta;
        state.slot = slot;
        space.loaned.clear();
        space.free.add_pending(txid, freed);
        drop(space);
        let page_size = inner.page_size as u64;
        state.file_len = state.file_len.max(meta.high_water * page_size);
        let readers = state.readers.values().map(|r| r.1).max().unwrap_or(0);
        let keep = meta.high_water.max(state.other_high_water).max(readers) * page_size;
        let cut = state.file_len >= keep + CUT_PAGES_MIN * page_size;
        drop(state);
        // Nobody new can want a page beyond. Failing to cut costs space and nothing else: the next commit tries again.
        if cut && inner.file.set_len(keep).is_ok() {
            inner.state.lock().file_len = keep;
        }
        Ok(stats)
    }
}

impl Drop for WriteTx {
    fn drop(&mut self) {
        let inner = &self.pin.inner;
        let mut space = inner.space.lock();
        for run in std::mem::take(&mut space.loaned) {
            space.free.insert(run);
        }
        drop(space);
        inner.state.lock().writing = false;
        inner.writer_left.notify_one();
    }
}

/// Does the way to `key` lead through page `id`?
fn on_path(pin: &Pin, root: &Root, key: &[u8], id: u64) -> Result<bool, Error> {
    if !matches!(root, Root::Page(_)) {
        return Ok(false);
    }
    let cursor = Cursor::at_or_after(pin, root, key)?;
    Ok(cursor.path().any(|p| p == id))
}

/// Applies a bucket's changes, nested buckets first. Answers the new root and the sequence, or `None` if all is as it
/// was.
fn flush(
    rebuild: &mut Rebuild<'_>,
    state: BucketState,
    may_inline: bool,
) -> Result<Option<(NewRoot, u64)>, Error> {
    let mut ops = Vec::with_capacity(state.ops.len());
    for (key, op) in state.ops {
        let action = match op {
            Op::Put(value) => Action::Put(value),
            Op::Delete => Action::Delete,
            Op::DropBucket => Action::DropBucket,
            Op::Bucket(child) => match flush(rebuild, *child, true)? {
                Some((root, sequence)) => Action::PutBucket(bucket_value(&root, sequence)),
                None => continue,
            },
        };
        let any_kind = state.kind_changed.contains(&key);
        ops.push(TreeOp {
            key,
            action,
            any_kind,
        });
    }
    if !state.touch.is_empty() {
        let touched = state.touch.into_iter().map(|key| TreeOp {
            key,
            action: Action::Touch,
            any_kind: false,
        });
        ops.extend(touched);
        // Stable: a real change of a key stands before its touch, and stays.
        ops.sort_by(|a, b| a.key.cmp(&b.key));
        ops.dedup_by(|later, first| later.key == first.key);
    }
    let root = rebuild.apply(&state.root, &ops, state.fill, may_inline)?;
    Ok(match (root, state.header_changed) {
        (Some(root), _) => Some((root, state.sequence)),
        (None, false) => None,
        (None, true) => {
            let root = match state.root {
                Root::Page(id) => NewRoot::Page(id),
                Root::Inline(page) => NewRoot::Inline(page.raw().to_vec()),
                Root::Empty => return Ok(None),
            };
            Some((root, state.sequence))
        }
    })
}

fn bucket_value(root: &NewRoot, sequence: u64) -> Bytes {
    let (id, inline): (u64, &[u8]) = match root {
        NewRoot::Page(id) => (*id, &[]),
        NewRoot::Inline(page) => (0, page),
    };
    let mut value = Vec::with_capacity(BUCKET_HEADER + inline.len());
    value.extend_from_slice(&id.to_le_bytes());
    value.extend_from_slice(&sequence.to_le_bytes());
    value.extend_from_slice(inline);
    value.into()
}

/// Two owners of one page would come to light as data overwritten later: refuse now. `freed` is sorted.
fn check_freed(freed: &[Run], high_water: u64) -> Result<(), Error> {
    let mut end = 2;
    for &(start, len) in freed {
        if start < end {
            return Err(Error::damage(start, "referred to twice"));
        }
        end = start + len;
    }
    if end > high_water.max(2) {
        return Err(Error::damage(end - 1, "freed, but outside the file"));
    }
    Ok(())
}

fn encode_freelist(id: u64, pages: u64, page_size: usize, ids: &[u64]) -> Vec<u8> {
    let mut buf = vec![0; pages as usize * page_size];
    let long = ids.len() >= usize::from(u16::MAX);
    PageHeader {
        id,
        flags: FLAG_FREELIST,
        count: if long { u16::MAX } else { ids.len() as u16 },
        overflow: (pages - 1) as u32,
    }
    .write(&mut buf);
    let mut at = PAGE_HEADER;
    let count = long.then_some(ids.len() as u64);
    for n in count.iter().chain(ids) {
        buf[at..at + 8].copy_from_slice(&n.to_le_bytes());
        at += 8;
    }
    buf
}

/// Writes the pages of a commit and then, once they are durable, its meta.
fn write_out(
    inner: &Inner,
    pages: &[(u64, Arc<Page>)],
    freelist: Option<(u64, &[u8])>,
    meta: &Meta,
    slot: u64,
    stats: &mut CommitStats,
) -> Result<(), Error> {
    let page_size = inner.page_size as u64;
    let mut write = |offset: u64, bytes: &[u8]| {
        let started = Instant::now();
        let done = inner
            .file
            .write_at(bytes, offset)
            .map_err(|e| Error::io(format!("write {} bytes at {offset}", bytes.len()), e));
        stats.write += started.elapsed();
        stats.write_calls += 1;
        stats.bytes_written += bytes.len() as u64;
        done
    };
    let mut run: Vec<u8> = Vec::new();
    let mut run_at = 0;
    for (id, page) in pages {
        let at = id * page_size;
        let bytes = page.raw();
        if run.is_empty() || run_at + run.len() as u64 != at || run.len() >= WRITE_BYTES_MAX {
            if !run.is_empty() {
                write(run_at, &run)?;
                run.clear();
            }
            run_at = at;
        }
        run.extend_from_slice(bytes);
    }
    if !run.is_empty() {
        write(run_at, &run)?;
    }
    if let Some((id, bytes)) = freelist {
        write(id * page_size, bytes)?;
    }
    let sync = || {
        let started = Instant::now();
        if !inner.no_sync.load(Ordering::Acquire) {
            inner
                .file
                .sync()
                .map_err(|e| Error::io("sync a commit", e))?;
        }
        Ok(started.elapsed())
    };
    let data: Duration = sync()?;
    write(slot * page_size, &meta.page(slot))?;
    stats.sync = data + sync()?;
    Ok(())
}
