//! Read transactions: one commit, unchanging, for as long as anyone holds it.
//!
//! Owns pins (what keeps pages from being reused) and the reading of buckets. Never blocks the writer.

use crate::cursor::{Cursor, Direction};
use crate::db::Inner;
use crate::error::Error;
use crate::format::{BUCKET_HEADER, DEPTH_MAX, ELEMENT_BUCKET, Meta, u64_at};
use crate::page::{Kind, Page};
use bytes::Bytes;
use std::io::Write;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What a scan calls with each key and value; [`ControlFlow::Break`] ends the scan.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Bytes copied at a time by [`ReadTx::write_to`].
const COPY_BYTES: usize = 256 << 10;

/// One commit as somebody sees it. A registered pin keeps its pages from being reused until it is dropped.
pub(crate) struct Pin {
    pub inner: Arc<Inner>,
    pub meta: Meta,
    registered: bool,
}

impl Pin {
    /// Pins the last commit for a reader.
    pub fn reader(inner: &Arc<Inner>) -> Result<Pin, Error> {
        let mut state = inner.state.lock();
        if let Some(e) = &state.failed {
            return Err(e.clone());
        }
        let meta = state.meta;
        state
            .readers
            .entry(meta.txid)
            .or_insert((0, meta.high_water))
            .0 += 1;
        Ok(Pin {
            inner: inner.clone(),
            meta,
            registered: true,
        })
    }

    /// The base of the one write transaction, whose own commits are the only ones that could take pages away.
    pub fn writer(inner: &Arc<Inner>, meta: Meta) -> Pin {
        Pin {
            inner: inner.clone(),
            meta,
            registered: false,
        }
    }

    pub fn page(&self, id: u64) -> Result<Arc<Page>, Error> {
        self.inner.page(id, self.meta.high_water)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        if !self.registered {
            return;
        }
        let mut state = self.inner.state.lock();
        if let Some(readers) = state.readers.get_mut(&self.meta.txid) {
            readers.0 -= 1;
            if readers.0 == 0 {
                state.readers.remove(&self.meta.txid);
            }
        }
    }
}

/// Where a bucket's tree begins.
#[derive(Debug, Clone)]
pub(crate) enum Root {
    /// New, nothing on disk.
    Empty,
    /// A page of its own.
    Page(u64),
    /// Inside the value of its parent's element.
    Inline(Arc<Page>),
}

/// Reads the value of a bucket element: root and sequence. `holder` is the page that it lies in.
pub(crate) fn parse_bucket(value: Bytes, holder: u64) -> Result<(Root, u64), Error> {
    if value.len() < BUCKET_HEADER {
        return Err(Error::damage(
            holder,
            format!("bucket header of {} bytes", value.len()),
        ));
    }
    let sequence = u64_at(&value, 8);
    let root = match u64_at(&value, 0) {
        0 => Root::Inline(Arc::new(Page::parse_inline(
            value.slice(BUCKET_HEADER..),
            holder,
        )?)),
        id => Root::Page(id),
    };
    Ok((root, sequence))
}

/// What lies under a key.
pub(crate) enum Found {
    Nothing,
    Value(Arc<Page>, usize),
    Bucket(Root, u64),
}

/// Looks `key` up in the tree at `root`.
pub(crate) fn find(pin: &Pin, root: &Root, key: &[u8]) -> Result<Found, Error> {
    let (page, id) = match root {
        Root::Empty => return Ok(Found::Nothing),
        Root::Inline(page) => (page.clone(), 0),
        Root::Page(id) => {
            let mut id = *id;
            let mut page = pin.page(id)?;
            let mut depth = 1;
            while page.kind() == Kind::Branch {
                depth += 1;
                if depth > DEPTH_MAX {
                    return Err(Error::damage(
                        id,
                        format!("the tree is deeper than {DEPTH_MAX} levels: a loop of pages"),
                    ));
                }
                id = page.child(page.child_index(key));
                page = pin.page(id)?;
            }
            (page, id)
        }
    };
    match page.search(key) {
        Err(_) => Ok(Found::Nothing),
        Ok(i) if page.is_bucket(i) => {
            let (root, sequence) = parse_bucket(page.value_slice(i), id)?;
            Ok(Found::Bucket(root, sequence))
        }
        Ok(i) => Ok(Found::Value(page, i)),
    }
}

/// Names of the buckets in the tree at `root`, ascending.
pub(crate) fn bucket_names(pin: &Pin, root: &Root) -> Result<Vec<Vec<u8>>, Error> {
    let mut names = Vec::new();
    let mut cursor = Cursor::at_or_after(pin, root, b"")?;
    while let Some((page, i)) = cursor.current() {
        if page.is_bucket(i) {
            names.push(page.key(i).to_vec());
        }
        cursor.advance(Direction::Forward)?;
    }
    Ok(names)
}

/// A consistent view of one commit. Clones share it; it ends when the last clone and the last bucket are dropped.
#[derive(Clone)]
pub struct ReadTx {
    pin: Arc<Pin>,
}

impl std::fmt::Debug for ReadTx {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadTx")
            .field("txid", &self.pin.meta.txid)
            .finish_non_exhaustive()
    }
}

impl ReadTx {
    pub(crate) fn begin(inner: &Arc<Inner>) -> Result<ReadTx, Error> {
        Ok(ReadTx {
            pin: Arc::new(Pin::reader(inner)?),
        })
    }

    pub(crate) fn pin(&self) -> &Arc<Pin> {
        &self.pin
    }

    /// Number of the commit that is read.
    pub fn txid(&self) -> u64 {
        self.pin.meta.txid
    }

    /// The top-level bucket `name`, if there is one.
    ///
    /// # Errors
    /// I/O errors and damage met on the way.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket>, Error> {
        self.root().bucket(name)
    }

    /// The bucket that holds the top-level buckets.
    fn root(&self) -> Bucket {
        Bucket {
            pin: self.pin.clone(),
            root: Root::Page(self.pin.meta.root),
            sequence: self.pin.meta.sequence,
        }
    }

    /// Names of the top-level buckets, ascending.
    ///
    /// # Errors
    /// I/O errors and damage met on the way.
    pub fn buckets(&self) -> Result<Vec<Vec<u8>>, Error> {
        self.root().buckets()
    }

    /// Bytes of the file as of this commit; what [`ReadTx::write_to`] writes.
    pub fn size(&self) -> u64 {
        self.pin.meta.high_water * self.pin.inner.page_size as u64
    }

    /// [`ReadTx::size`] without the pages that are free now.
    pub fn in_use_bytes(&self) -> u64 {
        let free = self.pin.inner.space.lock().free.free_pages();
        self.pin.meta.high_water.saturating_sub(free) * self.pin.inner.page_size as u64
    }

    /// Writes a copy of the file as of this commit, both metas included: a database that stands alone. Streams in
    /// chunks and never blocks the writer. Answers the bytes written.
    ///
    /// # Errors
    /// Reading the file or writing to `w` failed.
    pub fn write_to(&self, w: &mut dyn Write) -> Result<u64, Error> {
        let inner = &self.pin.inner;
        let out = |e| Error::io("write a copy of the database", e);
        let mut meta = self.pin.meta;
        let txid = meta.txid;
        for slot in 0..2 {
            // The older meta names the same tree: whichever a reader takes, it sees this commit.
            meta.txid = if txid % 2 == slot {
                txid
            } else {
                txid.saturating_sub(1)
            };
            w.write_all(&meta.page(slot)).map_err(out)?;
        }
        let end = self.size();
        let mut at = 2 * inner.page_size as u64;
        let mut buf = vec![0; COPY_BYTES];
        while at < end {
            let n = (end - at).min(COPY_BYTES as u64) as usize;
            inner
                .file
                .read_at(&mut buf[..n], at)
                .map_err(|e| Error::io(format!("read {n} bytes at {at}"), e))?;
            w.write_all(&buf[..n]).map_err(out)?;
            at += n as u64;
        }
        Ok(end)
    }
}

/// Shape of a bucket's tree, nested buckets not included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BucketStats {
    /// Levels of pages, 0 for an inline bucket.
    pub depth: usize,
    /// Branch pages, without overflow.
    pub branch_pages: u64,
    /// Leaf pages, without overflow.
    pub leaf_pages: u64,
    /// Pages that continue a leaf or branch page.
    pub overflow_pages: u64,
    /// Keys, nested buckets included.
    pub keys: u64,
}

/// A bucket of a [`ReadTx`]; it keeps the transaction's view alive by itself.
#[derive(Clone)]
pub struct Bucket {
    pin: Arc<Pin>,
    root: Root,
    sequence: u64,
}

impl std::fmt::Debug for Bucket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bucket")
            .field("txid", &self.pin.meta.txid)
            .field("root", &self.root)
            .finish_non_exhaustive()
    }
}

impl Bucket {
    pub(crate) fn pin(&self) -> &Pin {
        &self.pin
    }

    pub(crate) fn root(&self) -> &Root {
        &self.root
    }

    /// The value of `key`, copied; `None` also where a bucket has that name.
    ///
    /// # Errors
    /// I/O errors and damage met on the way.
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, Error> {
        Ok(match find(&self.pin, &self.root, key)? {
            Found::Value(page, i) => Some(Bytes::copy_from_slice(page.value(i))),
            _ => None,
        })
    }

    /// Visits the keys from `from` on, up to but without `to`, ascending, until `visit` breaks. Nested buckets are
    /// passed over.
    ///
    /// # Errors
    /// I/O errors and damage met on the way; what was visited before stands.
    pub fn scan(&self, from: &[u8], to: Option<&[u8]>, visit: Visit<'_>) -> Result<(), Error> {
        let mut cursor = Cursor::at_or_after(&self.pin, &self.root, from)?;
        while let Some((page, i)) = cursor.current() {
            let key = page.key(i);
            if to.is_some_and(|to| key >= to) {
                break;
            }
            if page.flags(i) & ELEMENT_BUCKET == 0 && visit(key, page.value(i)).is_break() {
                break;
            }
            cursor.advance(Direction::Forward)?;
        }
        Ok(())
    }

    /// As [`Bucket::scan`] over the same keys, descending.
    ///
    /// # Errors
    /// As [`Bucket::scan`].
    pub fn scan_reverse(
        &self,
        from: &[u8],
        to: Option<&[u8]>,
        visit: Visit<'_>,
    ) -> Result<(), Error> {
        let mut cursor = Cursor::before(&self.pin, &self.root, to)?;
        while let Some((page, i)) = cursor.current() {
            let key = page.key(i);
            if key < from {
                break;
            }
            if page.flags(i) & ELEMENT_BUCKET == 0 && visit(key, page.value(i)).is_break() {
                break;
            }
            cursor.advance(Direction::Backward)?;
        }
        Ok(())
    }

    /// The nested bucket `name`, if there is one.
    ///
    /// # Errors
    /// I/O errors and damage met on the way.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket>, Error> {
        Ok(match find(&self.pin, &self.root, name)? {
            Found::Bucket(root, sequence) => Some(Bucket {
                pin: self.pin.clone(),
                root,
                sequence,
            }),
            _ => None,
        })
    }

    /// Names of the nested buckets, ascending. Walks the whole bucket.
    ///
    /// # Errors
    /// I/O errors and damage met on the way.
    pub fn buckets(&self) -> Result<Vec<Vec<u8>>, Error> {
        bucket_names(&self.pin, &self.root)
    }

    /// The bucket's sequence counter.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Counts pages and keys. Reads every page of the bucket.
    ///
    /// # Errors
    /// I/O errors and damage met on the way.
    pub fn stats(&self) -> Result<BucketStats, Error> {
        let mut stats = BucketStats::default();
        let mut todo = Vec::new();
        match &self.root {
            Root::Empty => {}
            Root::Inline(page) => stats.keys = page.count() as u64,
            Root::Page(id) => todo.push((*id, 1)),
        }
        let mut pages_left = self.pin.meta.high_water;
        while let Some((id, depth)) = todo.pop() {
            pages_left = pages_left
                .checked_sub(1)
                .ok_or_else(|| Error::damage(id, "more references than pages: a loop"))?;
            let page = self.pin.page(id)?;
            stats.depth = stats.depth.max(depth);
            stats.overflow_pages += page.span() - 1;
            match page.kind() {
                Kind::Leaf => {
                    stats.leaf_pages += 1;
                    stats.keys += page.count() as u64;
                }
                Kind::Branch => {
                    stats.branch_pages += 1;
                    todo.extend((0..page.count()).map(|i| (page.child(i), depth + 1)));
                }
            }
        }
        Ok(stats)
    }
}
