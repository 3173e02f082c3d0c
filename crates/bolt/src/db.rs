//! The open database: opening and choosing a meta, who reads, who writes, and what the last durable commit is.
//!
//! Owns the state shared by transactions. Data pages are never changed here; that is the write transaction's.

use crate::cache::PageCache;
use crate::check::{self, Problem};
use crate::error::Error;
use crate::format::{
    FLAG_FREELIST, META, Meta, NO_FREELIST, PAGE_HEADER, PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX,
    PAGE_SIZE_MIN, PageHeader, initial_image, page_size_ok, u64_at,
};
use crate::freelist::{FreeList, Run};
use crate::page::{Page, kind_of, used_bytes};
use crate::read::ReadTx;
use crate::storage::{DiskFile, PageFile};
use crate::walk;
use crate::write::WriteTx;
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How to open a database.
#[derive(Debug, Clone)]
pub struct Options {
    /// Shared lock, no changes, free pages not counted.
    pub read_only: bool,
    /// Leave syncing to the operating system: fast, and a power cut may destroy the file.
    pub no_sync: bool,
    /// Write the free list at every commit. etcd does not; it is then rebuilt on open.
    pub store_freelist: bool,
    /// Page size in bytes of a file that is created; 4096 unless given. An existing file keeps its own.
    pub page_size: Option<usize>,
    /// Memory for pages kept, in bytes.
    pub cache_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            read_only: false,
            no_sync: false,
            store_freelist: false,
            page_size: None,
            cache_bytes: 64 << 20,
        }
    }
}

/// The read transactions alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenReaders {
    /// How many.
    pub count: usize,
    /// Transaction number that the oldest of them reads; pages freed after it wait.
    pub oldest_txid: Option<u64>,
    /// Transaction number of the last commit.
    pub current_txid: u64,
    /// Pages that wait for readers, or for the next transaction, before they are reused.
    pub pending_pages: u64,
}

/// A database; a cheap handle that can be cloned and shared among threads.
#[derive(Clone)]
pub struct Db(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    pub file: Arc<dyn PageFile>,
    pub path: Option<PathBuf>,
    pub page_size: usize,
    pub read_only: bool,
    pub no_sync: AtomicBool,
    pub store_freelist: bool,
    pub cache: PageCache,
    pub space: Mutex<Space>,
    pub state: Mutex<State>,
    pub writer_left: Condvar,
}

/// The pages to hand out. Apart from [`State`], so that no reader waits while a great delete is taken in. Locked before
/// [`State`] where both are.
#[derive(Default)]
pub(crate) struct Space {
    pub free: FreeList,
    /// Runs taken from the free list by the write transaction under way.
    pub loaned: Vec<Run>,
}

/// Changes under one short lock; nothing in it waits for a disk.
pub(crate) struct State {
    /// The last durable commit.
    pub meta: Meta,
    /// Which of the two meta pages holds it.
    pub slot: u64,
    /// High water of the other meta: the file is never cut below it.
    pub other_high_water: u64,
    /// Transaction number → readers of it, and their high water.
    pub readers: BTreeMap<u64, (usize, u64)>,
    pub writing: bool,
    pub file_len: u64,
    /// The first I/O error of a commit: the answer to every later call.
    pub failed: Option<Error>,
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.0.state.lock();
        f.debug_struct("Db")
            .field("path", &self.0.path)
            .field("txid", &state.meta.txid)
            .finish_non_exhaustive()
    }
}

impl Db {
    /// Opens or creates the file at `path`.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process holds it; [`Error::NotADatabase`] and [`Error::Damage`] name what is
    /// wrong with its content.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Db, Error> {
        Db::open_waiting(path, options, |_| false)
    }

    /// As [`Db::open`], but waits for the lock. `on_wait` is called about every 50 ms with the time waited so far, so
    /// that the caller can log; `false` gives up with [`Error::Locked`].
    ///
    /// # Errors
    /// As [`Db::open`].
    pub fn open_waiting(
        path: impl AsRef<Path>,
        options: Options,
        on_wait: impl FnMut(Duration) -> bool,
    ) -> Result<Db, Error> {
        let path = path.as_ref();
        let file = DiskFile::open(path, options.read_only, on_wait)?;
        Db::open_at(Arc::new(file), options, Some(path.to_path_buf()))
    }

    /// Opens or creates a database on any [`PageFile`].
    ///
    /// # Errors
    /// As [`Db::open`], [`Error::Locked`] excepted.
    pub fn open_on(file: Arc<dyn PageFile>, options: Options) -> Result<Db, Error> {
        Db::open_at(file, options, None)
    }

    fn open_at(
        file: Arc<dyn PageFile>,
        options: Options,
        path: Option<PathBuf>,
    ) -> Result<Db, Error> {
        let new_page_size = options.page_size.unwrap_or(PAGE_SIZE_DEFAULT);
        if !page_size_ok(new_page_size) {
            return Err(Error::PageSize(new_page_size));
        }
        if !options.read_only {
            create_if_new(&*file, new_page_size, options.no_sync)?;
            if !options.no_sync {
                // After a kill -9 the newest meta may be in the page cache only. The pages of the commit before it
                // count as free from here on, so it must be durable before anything is written.
                file.sync()
                    .map_err(|e| Error::io("sync after opening", e))?;
            }
        }
        let file_len = length(&*file)?;
        let chosen = choose_meta(&*file, file_len)?;
        let meta = chosen.meta;
        let free = if options.read_only {
            FreeList::default()
        } else {
            walk::rebuild_freelist(&*file, &meta)?
        };
        Ok(Db(Arc::new(Inner {
            file,
            path,
            page_size: meta.page_size as usize,
            read_only: options.read_only,
            no_sync: AtomicBool::new(options.no_sync),
            store_freelist: options.store_freelist,
            cache: PageCache::new(options.cache_bytes),
            space: Mutex::new(Space {
                free,
                loaned: Vec::new(),
            }),
            state: Mutex::new(State {
                meta,
                slot: chosen.slot,
                other_high_water: chosen.other_high_water,
                readers: BTreeMap::new(),
                writing: false,
                file_len,
                failed: None,
            }),
            writer_left: Condvar::new(),
        })))
    }

    /// A consistent view of the last commit, kept until the transaction and all its buckets are dropped.
    ///
    /// # Errors
    /// The first I/O error of a commit, if there was one.
    pub fn begin_read(&self) -> Result<ReadTx, Error> {
        ReadTx::begin(&self.0)
    }

    /// The one write transaction; waits for the one under way.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], or the first I/O error of a commit.
    pub fn begin_write(&self) -> Result<WriteTx, Error> {
        WriteTx::begin(&self.0)
    }

    /// Makes everything committed so far durable, and every commit from here on: for a file that was filled with
    /// [`Options::no_sync`] and is to be relied on now. Not to be called while a write transaction is open.
    ///
    /// # Errors
    /// What the disk says; nothing may rely on the file then.
    pub fn make_durable(&self) -> Result<(), Error> {
        self.0
            .file
            .sync()
            .map_err(|e| Error::io("sync what was written without", e))?;
        self.0.no_sync.store(false, Ordering::Release);
        Ok(())
    }

    /// Bytes from the start of the file to its last page in use, as of the last commit.
    pub fn size(&self) -> u64 {
        self.0.state.lock().meta.high_water * self.0.page_size as u64
    }

    /// Bytes per page.
    pub fn page_size(&self) -> usize {
        self.0.page_size
    }

    /// Pages free for reuse at once. 0 for a database opened read-only.
    pub fn free_pages(&self) -> u64 {
        self.0.space.lock().free.free_pages()
    }

    /// [`Db::size`] without the free pages.
    pub fn in_use_bytes(&self) -> u64 {
        let space = self.0.space.lock();
        let pages = self.0.state.lock().meta.high_water;
        pages.saturating_sub(space.free.free_pages()) * self.0.page_size as u64
    }

    /// Bytes of pages kept in memory now.
    pub fn cached_bytes(&self) -> usize {
        self.0.cache.bytes()
    }

    /// Who reads, since when.
    pub fn open_readers(&self) -> OpenReaders {
        let pending_pages = self.0.space.lock().free.pending_pages();
        let state = self.0.state.lock();
        OpenReaders {
            count: state.readers.values().map(|r| r.0).sum(),
            oldest_txid: state.readers.keys().next().copied(),
            current_txid: state.meta.txid,
            pending_pages,
        }
    }

    /// Examines every page of the last commit and the accounting of free pages; the two metas only if opened read-only
    /// (see [`crate::check()`] for a file at rest). Does not block the writer.
    ///
    /// # Errors
    /// As [`Db::begin_read`], and I/O errors. Damage is not an error here: it is in the list.
    pub fn check(&self) -> Result<Vec<Problem>, Error> {
        check::check_db(self)
    }

    /// Where the file lies; `None` for [`Db::open_on`].
    pub fn path(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }
}

impl Inner {
    /// Reads and checks a page, past the cache. `high_water` bounds what the view may refer to.
    pub fn load(&self, id: u64, high_water: u64) -> Result<Page, Error> {
        let bytes = read_tree_page(&*self.file, self.page_size, id, high_water)?;
        Page::parse(bytes, id)
    }

    pub fn page(&self, id: u64, high_water: u64) -> Result<Arc<Page>, Error> {
        if let Some(page) = self.cache.get(id) {
            return Ok(page);
        }
        let page = Arc::new(self.load(id, high_water)?);
        self.cache.insert(id, page.clone());
        Ok(page)
    }
}

/// Reads one page of the file as raw bytes.
pub(crate) fn read_bytes(
    file: &dyn PageFile,
    offset: u64,
    len: usize,
    id: u64,
) -> Result<Vec<u8>, Error> {
    let mut buf = vec![0; len];
    file.read_at(&mut buf, offset)
        .map_err(|e| Error::io(format!("read page {id}"), e))?;
    Ok(buf)
}

/// Reads a leaf or branch page with as much of its overflow as its elements use.
pub(crate) fn read_tree_page(
    file: &dyn PageFile,
    page_size: usize,
    id: u64,
    high_water: u64,
) -> Result<Bytes, Error> {
    if id < 2 || id >= high_water {
        return Err(Error::damage(
            id,
            format!("referred to, but the data pages are 2 to {high_water} (exclusive)"),
        ));
    }
    let offset = id * page_size as u64;
    let mut buf = read_bytes(file, offset, page_size, id)?;
    let header = PageHeader::read(&buf);
    if header.overflow == 0 {
        return Ok(buf.into());
    }
    let kind = kind_of(header, id)?;
    let end = id + u64::from(header.overflow);
    if end >= high_water {
        return Err(Error::damage(
            id,
            format!("its overflow ends at page {end}, beyond the {high_water} pages in use"),
        ));
    }
    // A damaged overflow count must not make us read gigabytes: only what the elements claim is fetched.
    let count = usize::from(header.count);
    let table = PAGE_HEADER + crate::format::ELEMENT * count;
    let run = (u64::from(header.overflow) + 1) * page_size as u64;
    if table as u64 > run {
        return Err(Error::damage(
            id,
            format!("{count} elements do not fit {run} bytes"),
        ));
    }
    if table > page_size {
        buf = read_bytes(file, offset, table, id)?;
    }
    let used = used_bytes(&buf, kind, count);
    if used > run {
        return Err(Error::damage(
            id,
            format!("its elements end at byte {used} of {run}"),
        ));
    }
    let have = buf.len();
    let want = (used as usize).max(have);
    buf.resize(want, 0);
    if want > have {
        file.read_at(&mut buf[have..], offset + have as u64)
            .map_err(|e| Error::io(format!("read overflow of page {id}"), e))?;
    }
    Ok(buf.into())
}

fn length(file: &dyn PageFile) -> Result<u64, Error> {
    file.len()
        .map_err(|e| Error::io("read the file's length", e))
}

/// Writes the first four pages of an empty file, or again of one whose creation a crash cut short.
fn create_if_new(file: &dyn PageFile, page_size: usize, no_sync: bool) -> Result<(), Error> {
    let image = initial_image(page_size);
    let len = length(file)?;
    if len > image.len() as u64 {
        return Ok(());
    }
    let have = read_bytes(file, 0, len as usize, 0)?;
    // Only an unfinished creation consists of parts of that very image and zeros; it never held data.
    let unfinished = have != image && have.iter().zip(&image).all(|(h, i)| *h == 0 || h == i);
    if !unfinished {
        return Ok(());
    }
    file.write_at(&image, 0)
        .map_err(|e| Error::io("write the first pages", e))?;
    if !no_sync {
        file.sync()
            .map_err(|e| Error::io("sync the first pages", e))?;
    }
    Ok(())
}

pub(crate) struct ChosenMeta {
    pub meta: Meta,
    pub slot: u64,
    pub other_high_water: u64,
    /// Why a meta page does not count, by slot.
    pub rejected: Vec<(u64, String)>,
}

fn meta_at(file: &dyn PageFile, offset: u64, file_len: u64) -> Result<Result<Meta, String>, Error> {
    if offset + (PAGE_HEADER + META) as u64 > file_len {
        return Ok(Err("beyond the end of the file".into()));
    }
    let buf = read_bytes(
        file,
        offset + PAGE_HEADER as u64,
        META,
        u64::from(offset > 0),
    )?;
    Ok(Meta::read(&buf).and_then(|m| {
        if page_size_ok(m.page_size as usize) {
            Ok(m)
        } else {
            Err(format!("page size {}", m.page_size))
        }
    }))
}

/// Reads both metas and takes the valid one with the larger transaction number.
pub(crate) fn choose_meta(file: &dyn PageFile, file_len: u64) -> Result<ChosenMeta, Error> {
    let first = meta_at(file, 0, file_len)?;
    let second = match &first {
        Ok(m) => meta_at(file, u64::from(m.page_size), file_len)?,
        // The page size is known from the first meta only; without it, look where the second may begin.
        Err(_) => {
            let mut found = Err("not found at any page size".to_string());
            let mut size = PAGE_SIZE_MIN;
            while size <= PAGE_SIZE_MAX {
                if let Ok(m) = meta_at(file, size as u64, file_len)?
                    && m.page_size as usize == size
                {
                    found = Ok(m);
                    break;
                }
                size *= 2;
            }
            found
        }
    };
    let mut rejected = Vec::new();
    if let Err(e) = &first {
        rejected.push((0, e.clone()));
    }
    if let Err(e) = &second {
        rejected.push((1, e.clone()));
    }
    let (meta, slot, other) = match (first, second) {
        (Ok(a), Ok(b)) if a.page_size != b.page_size => {
            return Err(Error::NotADatabase {
                reason: format!(
                    "the metas disagree on the page size: {} and {}",
                    a.page_size, b.page_size
                ),
            });
        }
        (Ok(a), Ok(b)) if b.txid > a.txid => (b, 1, Some(a)),
        (Ok(a), Ok(b)) => (a, 0, Some(b)),
        (Ok(a), Err(_)) => (a, 0, None),
        (Err(_), Ok(b)) => (b, 1, None),
        (Err(a), Err(b)) => {
            return Err(Error::NotADatabase {
                reason: format!("meta page 0: {a}; meta page 1: {b}"),
            });
        }
    };
    let bytes = meta.high_water.checked_mul(u64::from(meta.page_size));
    if meta.high_water < 3 || bytes.is_none_or(|b| b > file_len) {
        return Err(Error::damage(
            slot,
            format!(
                "meta says {} pages of {} bytes, but the file has {file_len} bytes",
                meta.high_water, meta.page_size
            ),
        ));
    }
    for (what, page) in [("root", meta.root), ("free list", meta.freelist)] {
        let absent = what == "free list" && page == NO_FREELIST;
        if !absent && (page < 2 || page >= meta.high_water) {
            return Err(Error::damage(
                slot,
                format!("meta puts the {what} at page {page} of {}", meta.high_water),
            ));
        }
    }
    if meta.txid >= u64::MAX - 4 {
        return Err(Error::damage(slot, "transaction numbers are used up"));
    }
    Ok(ChosenMeta {
        slot,
        other_high_water: other.map_or(meta.high_water, |m| m.high_water),
        meta,
        rejected,
    })
}

/// The stored free list: the run of pages it lies in, and the page numbers in it.
pub(crate) fn read_stored_freelist(
    file: &dyn PageFile,
    meta: &Meta,
) -> Result<Option<(Run, Vec<u64>)>, Error> {
    if meta.freelist == NO_FREELIST {
        return Ok(None);
    }
    let id = meta.freelist;
    let page_size = u64::from(meta.page_size);
    let head = read_bytes(file, id * page_size, PAGE_HEADER + 8, id)?;
    let header = PageHeader::read(&head);
    if header.id != id || header.flags != FLAG_FREELIST {
        return Err(Error::damage(
            id,
            format!(
                "wanted the free list, but its header says page {}, type {:#06x}",
                header.id, header.flags
            ),
        ));
    }
    let span = u64::from(header.overflow) + 1;
    if id + span > meta.high_water {
        return Err(Error::damage(id, "the free list runs beyond the file"));
    }
    // A count that does not fit 16 bits is stored as the first entry.
    let (count, start) = if header.count == u16::MAX {
        (u64_at(&head, PAGE_HEADER), PAGE_HEADER + 8)
    } else {
        (u64::from(header.count), PAGE_HEADER)
    };
    let room = (span * page_size - start as u64) / 8;
    if count > room || count > meta.high_water {
        return Err(Error::damage(
            id,
            format!("a free list of {count} pages does not fit its page"),
        ));
    }
    let raw = read_bytes(file, id * page_size + start as u64, count as usize * 8, id)?;
    let ids: Vec<u64> = raw.chunks_exact(8).map(|c| u64_at(c, 0)).collect();
    let ascending = ids.windows(2).all(|w| w[0] < w[1]);
    let inside = ids.iter().all(|p| (2..meta.high_water).contains(p));
    if !ascending || !inside {
        return Err(Error::damage(
            id,
            "the free list is not in order, or names pages outside the file",
        ));
    }
    Ok(Some(((id, span), ids)))
}
