//! Examining a whole database: every page, every reference, key order across pages, and the accounting of free pages.
//!
//! Owns the list of problems; it stops at nothing but I/O errors, and changes nothing.

use crate::db::{Db, Inner, Options, choose_meta, read_stored_freelist};
use crate::error::Error;
use crate::format::{DEPTH_MAX, FLAG_META, Meta, PAGE_HEADER, PageHeader};
use crate::freelist::FreeList;
use crate::page::{Kind, Page};
use crate::read::{Root, parse_bucket};
use crate::walk::PageSet;
use std::path::Path;

/// Enough to see what kind of damage it is; a wrecked file has millions.
const PROBLEMS_MAX: usize = 1000;

/// One thing that does not hold together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The page that it was noticed at.
    pub page: u64,
    /// What is wrong.
    pub reason: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "page {}: {}", self.page, self.reason)
    }
}

/// The outcome of [`check`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// What was found, at most a thousand entries.
    pub problems: Vec<Problem>,
    /// Pages up to the high water.
    pub pages: u64,
    /// Pages in use by the tree, the stored free list and the metas.
    pub pages_in_use: u64,
    /// Bytes of a page.
    pub page_size: u64,
    /// Keys in all buckets, buckets themselves not counted.
    pub keys: u64,
    /// Buckets, nested ones included.
    pub buckets: u64,
    /// Number of the commit that was examined.
    pub txid: u64,
}

/// Opens `path` read-only (shared lock) and examines it.
///
/// # Errors
/// [`Error::Locked`], I/O errors, and [`Error::NotADatabase`] or [`Error::Damage`] if not even a meta is usable.
/// Everything else is in the report.
pub fn check(path: impl AsRef<Path>) -> Result<CheckReport, Error> {
    let db = Db::open(
        path,
        Options {
            read_only: true,
            ..Options::default()
        },
    )?;
    let tx = db.begin_read()?;
    let mut check = Check::new(&db.0, tx.pin().meta);
    check.metas()?;
    check.tree()?;
    check.stored_freelist()?;
    Ok(check.finish())
}

/// The metas are left out unless read-only: one of them may be in the middle of being written.
pub(crate) fn check_db(db: &Db) -> Result<Vec<Problem>, Error> {
    let (tx, free) = loop {
        let tx = db.begin_read()?;
        let space = db.0.space.lock();
        if db.0.state.lock().meta != tx.pin().meta {
            // A commit came between the two.
            continue;
        }
        let mut free = space.free.clone();
        // What the transaction under way has taken is free in the commit examined.
        for &run in &space.loaned {
            free.insert(run);
        }
        break (tx, free);
    };
    let mut check = Check::new(&db.0, tx.pin().meta);
    if db.0.read_only {
        check.metas()?;
        check.tree()?;
        check.stored_freelist()?;
    } else {
        check.tree()?;
        check.own_freelist()?;
        check.accounting(&free);
    }
    Ok(check.finish().problems)
}

struct Check<'a> {
    inner: &'a Inner,
    meta: Meta,
    used: PageSet,
    report: CheckReport,
}

/// A page to be visited, and what its place in the tree says about its keys.
struct Visit {
    id: u64,
    depth: usize,
    low: Option<Vec<u8>>,
    high: Option<Vec<u8>>,
}

impl Check<'_> {
    fn new(inner: &Inner, meta: Meta) -> Check<'_> {
        let mut used = PageSet::new(meta.high_water);
        used.insert(0);
        used.insert(1);
        Check {
            inner,
            meta,
            used,
            report: CheckReport {
                pages: meta.high_water,
                pages_in_use: 2,
                page_size: u64::from(meta.page_size),
                txid: meta.txid,
                ..CheckReport::default()
            },
        }
    }

    fn finish(self) -> CheckReport {
        self.report
    }

    fn problem(&mut self, page: u64, reason: impl Into<String>) {
        if self.report.problems.len() < PROBLEMS_MAX {
            self.report.problems.push(Problem {
                page,
                reason: reason.into(),
            });
        }
    }

    /// Turns damage into an entry of the report; other errors end the examination.
    fn note<T>(&mut self, result: Result<T, Error>) -> Result<Option<T>, Error> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(Error::Damage { page, reason }) => {
                self.problem(page, reason);
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    fn metas(&mut self) -> Result<(), Error> {
        let file = &*self.inner.file;
        let len = file
            .len()
            .map_err(|e| Error::io("read the file's length", e))?;
        let chosen = choose_meta(file, len);
        if let Some(chosen) = self.note(chosen)? {
            for (slot, reason) in chosen.rejected {
                self.problem(slot, format!("meta page is not valid: {reason}"));
            }
        }
        for slot in 0..2 {
            let at = slot * self.inner.page_size as u64;
            let head = crate::db::read_bytes(file, at, PAGE_HEADER, slot)?;
            let header = PageHeader::read(&head);
            if header.id != slot || header.flags != FLAG_META {
                self.problem(
                    slot,
                    format!(
                        "meta page whose header says page {}, type {:#06x}",
                        header.id, header.flags
                    ),
                );
            }
        }
        Ok(())
    }

    fn claim(&mut self, id: u64, span: u64) -> bool {
        let mut alone = true;
        for page in id..(id + span).min(self.meta.high_water) {
            if self.used.insert(page) {
                self.report.pages_in_use += 1;
            } else {
                alone = false;
                self.problem(page, "referred to twice");
            }
        }
        alone
    }

    fn tree(&mut self) -> Result<(), Error> {
        let mut roots = vec![self.meta.root];
        while let Some(root) = roots.pop() {
            let mut todo = vec![Visit {
                id: root,
                depth: 1,
                low: None,
                high: None,
            }];
            while let Some(visit) = todo.pop() {
                let loaded = self.inner.load(visit.id, self.meta.high_water);
                let Some(page) = self.note(loaded)? else {
                    if visit.id < self.meta.high_water {
                        self.used.insert(visit.id);
                    }
                    continue;
                };
                // A page met before would be walked again, perhaps for ever.
                if self.claim(visit.id, page.span()) {
                    self.page(&visit, &page, &mut todo, &mut roots)?;
                }
            }
        }
        Ok(())
    }

    fn page(
        &mut self,
        visit: &Visit,
        page: &Page,
        todo: &mut Vec<Visit>,
        roots: &mut Vec<u64>,
    ) -> Result<(), Error> {
        let Visit {
            id,
            depth,
            low,
            high,
        } = visit;
        if *depth > DEPTH_MAX {
            self.problem(*id, format!("deeper than {DEPTH_MAX} levels"));
            return Ok(());
        }
        if page.count() > 0 {
            if low.as_deref().is_some_and(|low| page.key(0) < low) {
                self.problem(*id, "its first key is below its key in the branch above");
            }
            let last = page.key(page.count() - 1);
            if high.as_deref().is_some_and(|high| last >= high) {
                self.problem(*id, "its last key reaches into the next page's range");
            }
        } else if *depth > 1 {
            self.problem(*id, "empty leaf below a branch");
        }
        for i in 0..page.count() {
            match page.kind() {
                Kind::Branch => todo.push(Visit {
                    id: page.child(i),
                    depth: depth + 1,
                    low: Some(page.key(i).to_vec()),
                    high: if i + 1 < page.count() {
                        Some(page.key(i + 1).to_vec())
                    } else {
                        high.clone()
                    },
                }),
                Kind::Leaf if page.is_bucket(i) => {
                    self.report.buckets += 1;
                    let bucket = parse_bucket(page.value_slice(i), *id);
                    match self.note(bucket)? {
                        Some((Root::Page(root), _)) => roots.push(root),
                        Some((Root::Inline(inline), _)) => {
                            self.report.keys += inline.count() as u64;
                        }
                        _ => {}
                    }
                }
                Kind::Leaf => self.report.keys += 1,
            }
        }
        Ok(())
    }

    /// Claims the pages of the stored free list; answers what it lists.
    fn own_freelist(&mut self) -> Result<Option<Vec<u64>>, Error> {
        let stored = read_stored_freelist(&*self.inner.file, &self.meta);
        let Some(Some(((first, span), ids))) = self.note(stored)? else {
            return Ok(None);
        };
        self.claim(first, span);
        Ok(Some(ids))
    }

    /// Every page is in use or in the stored free list, and none both.
    fn stored_freelist(&mut self) -> Result<(), Error> {
        let Some(ids) = self.own_freelist()? else {
            return Ok(());
        };
        let mut free = FreeList::default();
        for id in ids {
            free.insert((id, 1));
        }
        self.accounting(&free);
        Ok(())
    }

    fn accounting(&mut self, free: &FreeList) {
        let mut listed = PageSet::new(self.meta.high_water);
        for (start, len) in free.runs().chain(free.pending()) {
            for id in start..(start + len).min(self.meta.high_water) {
                if !listed.insert(id) {
                    self.problem(id, "listed as free twice");
                }
            }
        }
        for id in 2..self.meta.high_water {
            match (self.used.contains(id), listed.contains(id)) {
                (true, true) => self.problem(id, "listed as free, but in use"),
                (false, false) => self.problem(id, "neither in use nor listed as free"),
                _ => {}
            }
        }
    }
}
