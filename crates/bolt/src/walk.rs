//! Which pages of a file are in use: a walk over the tree, level by level, in page order.
//!
//! Owns the rebuilding of the free list on open. Reads headers and element tables only, neighbours in one read; values
//! are never fetched. Memory: a bit a page and eight bytes a page of one level.

use crate::db::{read_bytes, read_stored_freelist};
use crate::error::Error;
use crate::format::{
    BUCKET_HEADER, ELEMENT, ELEMENT_BUCKET, Meta, PAGE_HEADER, PageHeader, u32_at, u64_at,
};
use crate::freelist::FreeList;
use crate::page::{Kind, kind_of};
use crate::storage::PageFile;

/// Longest single read of the walk.
const READ_BYTES_MAX: usize = 1 << 20;
/// Pages not needed that a read may pass over rather than start anew.
const GAP_PAGES_MAX: u64 = 8;

/// A set of page numbers.
pub(crate) struct PageSet {
    bits: Vec<u64>,
    len: u64,
}

impl PageSet {
    pub fn new(pages: u64) -> PageSet {
        PageSet {
            bits: vec![0; pages.div_ceil(64) as usize],
            len: pages,
        }
    }

    pub fn contains(&self, id: u64) -> bool {
        id < self.len && self.bits[(id / 64) as usize] & (1 << (id % 64)) != 0
    }

    /// Adds a page; `false` if it was there already. `id` is below the size of the set.
    pub fn insert(&mut self, id: u64) -> bool {
        let fresh = !self.contains(id);
        self.bits[(id / 64) as usize] |= 1 << (id % 64);
        fresh
    }
}

struct Walk<'a> {
    file: &'a dyn PageFile,
    page_size: usize,
    high_water: u64,
    used: PageSet,
    next_level: Vec<u64>,
}

/// Rebuilds the free list of the commit that `meta` describes. A stored list is checked against the tree, not trusted:
/// a page that is both free and in use would be overwritten.
pub(crate) fn rebuild_freelist(file: &dyn PageFile, meta: &Meta) -> Result<FreeList, Error> {
    let mut used = pages_in_use(file, meta)?;
    if let Some(((first, span), ids)) = read_stored_freelist(file, meta)? {
        for id in first..first + span {
            if !used.insert(id) {
                return Err(Error::damage(id, "used by the free list and by the tree"));
            }
        }
        if let Some(id) = ids.into_iter().find(|&id| used.contains(id)) {
            return Err(Error::damage(id, "listed as free, but in use"));
        }
    }
    let mut free = FreeList::default();
    let mut start = None;
    for id in 2..=meta.high_water {
        let is_free = id < meta.high_water && !used.contains(id);
        match (start, is_free) {
            (None, true) => start = Some(id),
            (Some(s), false) => {
                free.insert((s, id - s));
                start = None;
            }
            _ => {}
        }
    }
    Ok(free)
}

/// Every page reachable from the root bucket, overflow included, and both metas.
pub(crate) fn pages_in_use(file: &dyn PageFile, meta: &Meta) -> Result<PageSet, Error> {
    let mut walk = Walk {
        file,
        page_size: meta.page_size as usize,
        high_water: meta.high_water,
        used: PageSet::new(meta.high_water),
        next_level: Vec::new(),
    };
    walk.used.insert(0);
    walk.used.insert(1);
    walk.refer(meta.root)?;
    while !walk.next_level.is_empty() {
        let mut level = std::mem::take(&mut walk.next_level);
        level.sort_unstable();
        walk.read_level(&level)?;
    }
    Ok(walk.used)
}

impl Walk<'_> {
    /// Notes a page for the next level; a second reference is a loop or a shared page.
    fn refer(&mut self, id: u64) -> Result<(), Error> {
        if id < 2 || id >= self.high_water {
            return Err(Error::damage(
                id,
                format!(
                    "referred to, but the data pages are 2 to {} (exclusive)",
                    self.high_water
                ),
            ));
        }
        if !self.used.insert(id) {
            return Err(Error::damage(id, "referred to twice"));
        }
        self.next_level.push(id);
        Ok(())
    }

    /// Visits the pages of one level, in ascending order, in few reads.
    fn read_level(&mut self, ids: &[u64]) -> Result<(), Error> {
        let pages_max = (READ_BYTES_MAX / self.page_size) as u64;
        let mut rest = ids;
        while let Some(&first) = rest.first() {
            let mut n = 1;
            while n < rest.len()
                && rest[n] - rest[n - 1] <= GAP_PAGES_MAX
                && rest[n] - first < pages_max
            {
                n += 1;
            }
            let pages = rest[n - 1] - first + 1;
            let buf = read_bytes(
                self.file,
                first * self.page_size as u64,
                pages as usize * self.page_size,
                first,
            )?;
            for &id in &rest[..n] {
                let at = (id - first) as usize * self.page_size;
                self.visit(id, &buf[at..at + self.page_size])?;
            }
            rest = &rest[n..];
        }
        Ok(())
    }

    /// `head` is the first page of the run.
    fn visit(&mut self, id: u64, head: &[u8]) -> Result<(), Error> {
        let header = PageHeader::read(head);
        let kind = kind_of(header, id)?;
        let end = id + u64::from(header.overflow);
        if end >= self.high_water {
            return Err(Error::damage(
                id,
                format!(
                    "its overflow ends at page {end}, beyond the {} pages in use",
                    self.high_water
                ),
            ));
        }
        for page in id + 1..=end {
            if !self.used.insert(page) {
                return Err(Error::damage(
                    page,
                    format!("overflow of page {id}, and used elsewhere too"),
                ));
            }
        }
        let count = usize::from(header.count);
        let table = PAGE_HEADER + ELEMENT * count;
        let run = (end - id + 1) * self.page_size as u64;
        if table as u64 > run {
            return Err(Error::damage(
                id,
                format!("{count} elements do not fit {run} bytes"),
            ));
        }
        let longer;
        let head = if table > head.len() {
            longer = read_bytes(self.file, id * self.page_size as u64, table, id)?;
            &longer
        } else {
            head
        };
        for i in 0..count {
            let at = PAGE_HEADER + ELEMENT * i;
            match kind {
                Kind::Branch => self.refer(u64_at(head, at + 8))?,
                Kind::Leaf if u32_at(head, at) & ELEMENT_BUCKET != 0 => {
                    self.visit_bucket(id, head, i, run)?;
                }
                Kind::Leaf => {}
            }
        }
        Ok(())
    }

    /// Notes the root of the bucket in leaf element `i`, unless it is inline.
    fn visit_bucket(&mut self, id: u64, head: &[u8], i: usize, run: u64) -> Result<(), Error> {
        let at = PAGE_HEADER + ELEMENT * i;
        let value = at as u64 + u64::from(u32_at(head, at + 4)) + u64::from(u32_at(head, at + 8));
        let size = u32_at(head, at + 12) as usize;
        if size < BUCKET_HEADER || value + size as u64 > run {
            return Err(Error::damage(
                id,
                format!("element {i} does not hold a bucket header"),
            ));
        }
        let root = match head.get(value as usize..value as usize + 8) {
            Some(bytes) => u64_at(bytes, 0),
            None => {
                let offset = id * self.page_size as u64 + value;
                u64_at(&read_bytes(self.file, offset, 8, id)?, 0)
            }
        };
        if root == 0 { Ok(()) } else { self.refer(root) }
    }
}
