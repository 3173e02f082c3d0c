//! What the database file holds, plus what it does not hold yet.
//!
//! Changes gather in a live buffer; [`Backend::freeze`] hands them as one immutable [`Batch`] to the
//! thread that commits, while a new live buffer fills. The newest of live, frozen and file wins.
//! Must never show a reader a state in which the frozen changes are neither in the batch nor in the
//! file: both move in one step.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, btree_map};
use std::iter::Peekable;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;

use crate::file::{FileView, ReadError, Visit};
use crate::schema::{BUCKETS, Bucket};
use crate::sync::{Arc, RwLock};

/// A key of a buffer. Revisions, the bulk of all keys, need no allocation.
#[derive(Clone)]
enum BufKey {
    Inline { len: u8, bytes: [u8; INLINE_LEN] },
    Heap(Box<[u8]>),
}

/// Holds an 18-byte revision and keeps the enum at 24 bytes.
const INLINE_LEN: usize = 22;

impl BufKey {
    fn new(key: &[u8]) -> Self {
        if key.len() <= INLINE_LEN {
            let mut bytes = [0; INLINE_LEN];
            bytes[..key.len()].copy_from_slice(key);
            BufKey::Inline {
                len: key.len() as u8,
                bytes,
            }
        } else {
            BufKey::Heap(key.into())
        }
    }
}

impl Borrow<[u8]> for BufKey {
    fn borrow(&self) -> &[u8] {
        match self {
            BufKey::Inline { len, bytes } => &bytes[..usize::from(*len)],
            BufKey::Heap(bytes) => bytes,
        }
    }
}

impl Ord for BufKey {
    fn cmp(&self, other: &Self) -> Ordering {
        Borrow::<[u8]>::borrow(self).cmp(other.borrow())
    }
}
impl PartialOrd for BufKey {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for BufKey {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for BufKey {}

/// A change of one key: its new value, or `None` for removal.
type Change = Option<Bytes>;
type Changes = BTreeMap<BufKey, Change>;

/// Frozen changes on their way into the file. Immutable.
#[derive(Default)]
pub struct Batch {
    buckets: [Changes; BUCKETS],
    ops: usize,
    bytes: usize,
}

impl Batch {
    /// The changes of one bucket in key order; `None` removes the key.
    pub fn iter(&self, bucket: Bucket) -> impl Iterator<Item = (&[u8], Option<&Bytes>)> {
        self.buckets[bucket.slot()]
            .iter()
            .map(|(key, value)| (key.borrow(), value.as_ref()))
    }

    /// Number of operations that made this batch; several may have hit one key.
    pub fn ops(&self) -> usize {
        self.ops
    }

    /// Bytes of keys and values written.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn change(&mut self, bucket: Bucket, key: &[u8], value: Change) {
        self.ops += 1;
        self.bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
        self.buckets[bucket.slot()].insert(BufKey::new(key), value);
    }

    fn get(&self, bucket: Bucket, key: &[u8]) -> Option<&Change> {
        self.buckets[bucket.slot()].get(key)
    }

    fn range(&self, bucket: Bucket, from: &[u8], to: Option<&[u8]>) -> BufRange<'_> {
        let to = match to {
            // an inverted range would panic in the map
            Some(to) if to < from => Bound::Excluded(from),
            Some(to) => Bound::Excluded(to),
            None => Bound::Unbounded,
        };
        let from = match to {
            // so would [x, x) with both ends excluded; included-excluded is fine
            Bound::Excluded(to) if to == from => return None.into_iter().flatten(),
            _ => Bound::Included(from),
        };
        Some(self.buckets[bucket.slot()].range::<[u8], _>((from, to)))
            .into_iter()
            .flatten()
    }
}

type BufRange<'a> = std::iter::Flatten<std::option::IntoIter<btree_map::Range<'a, BufKey, Change>>>;

struct Shared {
    live: Batch,
    frozen: Option<Arc<Batch>>,
    file: Arc<dyn FileView>,
    /// A write transaction stopped half-way: nothing of it may reach the file.
    poisoned: bool,
}

/// Handle to the store's data: one writer (the apply thread), many readers.
#[derive(Clone)]
pub struct Backend {
    shared: Arc<RwLock<Shared>>,
}

impl Backend {
    /// A backend over one state of the file, with nothing pending.
    pub fn new(file: Arc<dyn FileView>) -> Self {
        Self {
            shared: Arc::new(RwLock::new(Shared {
                live: Batch::default(),
                frozen: None,
                file,
                poisoned: false,
            })),
        }
    }

    /// Sets a value; key and value are copied.
    pub fn put(&self, bucket: Bucket, key: &[u8], value: &[u8]) {
        self.put_owned(bucket, key, Bytes::copy_from_slice(value));
    }

    /// Sets a value and keeps `value` as it is: it must not be a slice of a network buffer.
    pub fn put_owned(&self, bucket: Bucket, key: &[u8], value: Bytes) {
        self.shared.write().live.change(bucket, key, Some(value));
    }

    /// Removes a value.
    pub fn delete(&self, bucket: Bucket, key: &[u8]) {
        self.shared.write().live.change(bucket, key, None);
    }

    /// Removes many values in one step.
    pub(crate) fn delete_all<K: std::ops::Deref<Target = [u8]>>(&self, bucket: Bucket, keys: &[K]) {
        let mut shared = self.shared.write();
        for key in keys {
            shared.live.change(bucket, key, None);
        }
    }

    /// Turns the live changes into a batch to commit. Call it only between log entries.
    ///
    /// `None` when nothing is pending, when a batch is still being committed, or when a write
    /// transaction was abandoned half-way (the process must stop then).
    pub fn freeze(&self) -> Option<Arc<Batch>> {
        let mut shared = self.shared.write();
        if shared.frozen.is_some() || shared.live.ops == 0 || shared.poisoned {
            return None;
        }
        let batch = Arc::new(std::mem::take(&mut shared.live));
        shared.frozen = Some(batch.clone());
        Some(batch)
    }

    /// The frozen batch is in the file now: forgets it and shows `file`, in one step.
    ///
    /// Returns false, and changes nothing, when no batch is frozen (a raft snapshot came in between).
    pub fn commit_done(&self, file: Arc<dyn FileView>) -> bool {
        let mut shared = self.shared.write();
        if shared.frozen.is_none() {
            return false;
        }
        let old = (
            shared.frozen.take(),
            std::mem::replace(&mut shared.file, file),
        );
        drop(shared);
        // freeing a batch takes a while: not under the lock
        drop(old);
        true
    }

    /// A raft snapshot was installed: shows `file` alone and forgets everything pending.
    pub fn replace(&self, file: Arc<dyn FileView>) {
        let mut shared = self.shared.write();
        let old = (
            std::mem::take(&mut shared.live),
            shared.frozen.take(),
            std::mem::replace(&mut shared.file, file),
        );
        drop(shared);
        drop(old);
    }

    /// Shows `file`, a rewritten copy of what the current one holds (as after defragmentation).
    pub fn swap_file(&self, file: Arc<dyn FileView>) {
        let old = std::mem::replace(&mut self.shared.write().file, file);
        drop(old);
    }

    /// Operations and bytes not in the file yet, frozen ones included.
    pub fn pending(&self) -> (usize, usize) {
        let shared = self.shared.read();
        let frozen = shared.frozen.as_ref();
        (
            shared.live.ops + frozen.map_or(0, |f| f.ops),
            shared.live.bytes + frozen.map_or(0, |f| f.bytes),
        )
    }

    /// Operations and bytes gathered since the last freeze.
    pub fn live(&self) -> (usize, usize) {
        let shared = self.shared.read();
        (shared.live.ops, shared.live.bytes)
    }

    /// A consistent view of everything. Copies the live buffer: not for hot paths.
    pub fn view(&self) -> View {
        let shared = self.shared.read();
        let mut live = Batch::default();
        live.buckets.clone_from(&shared.live.buckets);
        View {
            live,
            frozen: shared.frozen.clone(),
            file: shared.file.clone(),
        }
    }

    /// A consistent view of one bucket from `from` (to before `to` when given); other places look
    /// as if nothing were pending.
    pub fn view_of(&self, bucket: Bucket, from: &[u8], to: Option<&[u8]>) -> View {
        let shared = self.shared.read();
        let mut live = Batch::default();
        live.buckets[bucket.slot()] = shared
            .live
            .range(bucket, from, to)
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect();
        View {
            live,
            frozen: shared.frozen.clone(),
            file: shared.file.clone(),
        }
    }

    /// The current value of one key.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        let file = {
            let shared = self.shared.read();
            match shared.buffered(bucket, key) {
                Some(change) => return Ok(change.clone()),
                None => shared.file.clone(),
            }
        };
        file.get(bucket, key)
    }

    /// Looks `keys` up in the buffers; gives the file state that holds those not found there.
    pub(crate) fn buffered<K: std::ops::Deref<Target = [u8]>>(
        &self,
        bucket: Bucket,
        keys: impl Iterator<Item = K>,
        found: &mut Vec<Option<Bytes>>,
    ) -> Arc<dyn FileView> {
        let shared = self.shared.read();
        for key in keys {
            found.push(shared.buffered(bucket, &key).cloned().flatten());
        }
        shared.file.clone()
    }

    /// Nothing pending may reach the file any more.
    pub(crate) fn poison(&self) {
        self.shared.write().poisoned = true;
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.file().size()
    }

    /// Bytes of the file that hold data.
    pub fn size_in_use(&self) -> u64 {
        self.file().size_in_use()
    }

    fn file(&self) -> Arc<dyn FileView> {
        self.shared.read().file.clone()
    }
}

impl Shared {
    fn buffered(&self, bucket: Bucket, key: &[u8]) -> Option<&Change> {
        self.live
            .get(bucket, key)
            .or_else(|| self.frozen.as_ref().and_then(|f| f.get(bucket, key)))
    }
}

/// A consistent, immutable view: buffers over a file state.
pub struct View {
    live: Batch,
    frozen: Option<Arc<Batch>>,
    file: Arc<dyn FileView>,
}

impl View {
    /// The value of one key.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        let buffered = self
            .live
            .get(bucket, key)
            .or_else(|| self.frozen.as_ref().and_then(|f| f.get(bucket, key)));
        match buffered {
            Some(change) => Ok(change.clone()),
            None => self.file.get(bucket, key),
        }
    }

    /// Visits the pairs with `from` ≤ key (< `to` when given), in key order, until `visit` breaks.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    pub fn scan(
        &self,
        bucket: Bucket,
        from: &[u8],
        to: Option<&[u8]>,
        visit: Visit<'_>,
    ) -> Result<(), ReadError> {
        let frozen = match &self.frozen {
            Some(frozen) => frozen.range(bucket, from, to),
            None => None.into_iter().flatten(),
        };
        let mut overlay = Overlay {
            live: self.live.range(bucket, from, to).peekable(),
            frozen: frozen.peekable(),
        };
        let mut stopped = false;
        self.file.scan(bucket, from, to, &mut |key, value| {
            while let Some(next) = overlay.peek() {
                match next.cmp(key) {
                    Ordering::Greater => break,
                    order => {
                        let (over, change) = overlay.pop();
                        if let (Some(over), Some(change)) = (over, change)
                            && visit(over, change).is_break()
                        {
                            stopped = true;
                            return ControlFlow::Break(());
                        }
                        if order.is_eq() {
                            return ControlFlow::Continue(());
                        }
                    }
                }
            }
            let flow = visit(key, value);
            stopped = flow.is_break();
            flow
        })?;
        while !stopped && overlay.peek().is_some() {
            if let (Some(key), Some(value)) = overlay.pop() {
                stopped = visit(key, value).is_break();
            }
        }
        Ok(())
    }

    /// Size of the file in bytes.
    pub fn size(&self) -> u64 {
        self.file.size()
    }
}

/// The changes of two buffers in key order, the live ones winning.
struct Overlay<'a> {
    live: Peekable<BufRange<'a>>,
    frozen: Peekable<BufRange<'a>>,
}

impl<'a> Overlay<'a> {
    fn peek(&mut self) -> Option<&'a [u8]> {
        let live = self.live.peek().map(|(k, _)| (*k).borrow());
        let frozen = self.frozen.peek().map(|(k, _)| (*k).borrow());
        match (live, frozen) {
            (Some(live), Some(frozen)) => Some(if live <= frozen { live } else { frozen }),
            (live, frozen) => live.or(frozen),
        }
    }

    /// Takes the next key and its value (`None` when it is removed).
    fn pop(&mut self) -> (Option<&'a [u8]>, Option<&'a Bytes>) {
        let Some(next) = self.peek() else {
            return (None, None);
        };
        let of = |item: Option<(&'a BufKey, &'a Change)>| item.and_then(|(_, v)| v.as_ref());
        let is_next = |item: &(&BufKey, &Change)| Borrow::<[u8]>::borrow(item.0) == next;
        let live = self.live.next_if(is_next);
        let frozen = self.frozen.next_if(is_next);
        let value = if live.is_some() { of(live) } else { of(frozen) };
        (Some(next), value)
    }
}
