//! Single pages as they lie in the file, and how much of a bucket's pages is used: for people who look into
//! a database. No reference is followed and nothing is locked or changed, so that a damaged file can be
//! looked at as well; every length is checked.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use bytes::Bytes;

use crate::error::Error;
use crate::format::{
    BUCKET_HEADER, FLAG_BRANCH, FLAG_FREELIST, FLAG_LEAF, FLAG_META, META, Meta, PAGE_HEADER,
    PAGE_SIZE_DEFAULT, PAGE_SIZE_MAX, PAGE_SIZE_MIN, PageHeader, u32_at, u64_at,
};
use crate::page::{Kind, Page, used_bytes};
use crate::read::{Bucket, Root, parse_bucket};

/// A file whose pages are looked at.
#[derive(Debug)]
pub struct Pages {
    file: File,
    page_size: u64,
    high_water: u64,
}

/// One page with what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageView {
    /// Its number.
    pub id: u64,
    /// Bytes, its overflow included.
    pub bytes: u64,
    /// Pages that continue it.
    pub overflow: u32,
    /// What it holds.
    pub content: PageContent,
}

/// What a page holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PageContent {
    /// One of the two roots of the file.
    Meta(MetaView),
    /// Keys with what lies under them.
    Leaf(Vec<(Bytes, Element)>),
    /// Keys with the pages below.
    Branch(Vec<(Bytes, u64)>),
    /// Pages that are free.
    FreeList(Vec<u64>),
    /// No kind of page that there is: the flags.
    Unknown(u16),
}

/// What lies under a key of a leaf page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Element {
    /// A value.
    Value(Bytes),
    /// A bucket.
    Bucket {
        /// Its root page, 0 if it lies within the value.
        root: u64,
        /// Its counter.
        sequence: u64,
    },
}

/// A meta record as it lies; nothing in it has been checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MetaView {
    /// Of the format.
    pub version: u32,
    /// Bytes of a page.
    pub page_size: u32,
    /// None are known.
    pub flags: u32,
    /// Page of the root bucket.
    pub root: u64,
    /// Page of the free list.
    pub freelist: u64,
    /// One past the highest page in use.
    pub high_water: u64,
    /// Number of the commit.
    pub txid: u64,
    /// Over all that.
    pub checksum: u64,
}

impl Pages {
    /// Opens a file to look at its pages.
    ///
    /// # Errors
    /// It cannot be read, or neither of its metas says how large a page is.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let file =
            File::open(path).map_err(|e| Error::io(format!("open {}", path.display()), e))?;
        let mut reasons = Vec::new();
        let mut best: Option<Meta> = None;
        // The second meta lies a page further, however large that is.
        let mut offsets = vec![0];
        let mut size = PAGE_SIZE_MIN;
        while size <= PAGE_SIZE_MAX {
            offsets.push(size as u64);
            size *= 2;
        }
        for offset in offsets {
            let mut head = [0; PAGE_HEADER + META];
            if let Err(error) = file.read_exact_at(&mut head, offset) {
                if offset == 0 {
                    reasons.push(error.to_string());
                }
                continue;
            }
            match Meta::read(&head[PAGE_HEADER..]) {
                Ok(meta) if best.is_none_or(|b| b.txid < meta.txid) => best = Some(meta),
                Ok(_) => {}
                Err(reason) if offset == 0 || offset == PAGE_SIZE_DEFAULT as u64 => {
                    reasons.push(reason);
                }
                Err(_) => {}
            }
        }
        let Some(meta) = best else {
            return Err(Error::NotADatabase {
                reason: reasons.join("; "),
            });
        };
        let page_size = meta.page_size as usize;
        if !(PAGE_SIZE_MIN..=PAGE_SIZE_MAX).contains(&page_size) {
            return Err(Error::NotADatabase {
                reason: format!("pages of {page_size} bytes"),
            });
        }
        Ok(Self {
            file,
            page_size: page_size as u64,
            high_water: meta.high_water,
        })
    }

    /// One past the highest page in use.
    pub fn high_water(&self) -> u64 {
        self.high_water
    }

    /// One page.
    ///
    /// # Errors
    /// It lies outside the file, or does not hold together.
    pub fn page(&self, id: u64) -> Result<PageView, Error> {
        let offset = id
            .checked_mul(self.page_size)
            .ok_or_else(|| Error::damage(id, "no file is that long"))?;
        let read = |bytes: u64| -> Result<Vec<u8>, Error> {
            let mut buf = vec![0; bytes as usize];
            self.file
                .read_exact_at(&mut buf, offset)
                .map_err(|e| Error::io(format!("read page {id}"), e))?;
            Ok(buf)
        };
        let mut buf = read(self.page_size)?;
        let header = PageHeader::read(&buf);
        if header.id != id {
            return Err(Error::damage(
                id,
                format!("unexpected page id: {} != {id}", header.id),
            ));
        }
        let span = u64::from(header.overflow) + 1;
        if id + span > self.high_water.max(2) {
            return Err(Error::damage(
                id,
                format!(
                    "it claims {} overflow pages, and the file ends at page {}",
                    header.overflow, self.high_water
                ),
            ));
        }
        if span > 1 {
            buf = read(span * self.page_size)?;
        }
        let content = match header.flags {
            FLAG_META => PageContent::Meta(meta_view(&buf[PAGE_HEADER..])),
            FLAG_FREELIST => PageContent::FreeList(free_list(id, header, &buf)?),
            FLAG_LEAF | FLAG_BRANCH => tree_page(Page::parse(buf.into(), id)?, id)?,
            flags => PageContent::Unknown(flags),
        };
        Ok(PageView {
            id,
            bytes: span * self.page_size,
            overflow: header.overflow,
            content,
        })
    }
}

/// `buf` is a page's rest after its header, and pages are larger than a meta.
fn meta_view(buf: &[u8]) -> MetaView {
    MetaView {
        version: u32_at(buf, 4),
        page_size: u32_at(buf, 8),
        flags: u32_at(buf, 12),
        root: u64_at(buf, 16),
        freelist: u64_at(buf, 32),
        high_water: u64_at(buf, 40),
        txid: u64_at(buf, 48),
        checksum: u64_at(buf, 56),
    }
}

fn free_list(id: u64, header: PageHeader, buf: &[u8]) -> Result<Vec<u64>, Error> {
    let (count, start) = if header.count == u16::MAX {
        (u64_at(buf, PAGE_HEADER), PAGE_HEADER + 8)
    } else {
        (u64::from(header.count), PAGE_HEADER)
    };
    let entries = usize::try_from(count)
        .ok()
        .and_then(|count| buf[start..].get(..count.checked_mul(8)?))
        .ok_or_else(|| {
            Error::damage(id, format!("a free list of {count} pages does not fit it"))
        })?;
    Ok(entries.chunks_exact(8).map(|c| u64_at(c, 0)).collect())
}

fn tree_page(page: Page, id: u64) -> Result<PageContent, Error> {
    Ok(match page.kind() {
        Kind::Branch => PageContent::Branch(
            (0..page.count())
                .map(|i| (page.key_slice(i), page.child(i)))
                .collect(),
        ),
        Kind::Leaf => {
            let mut elements = Vec::with_capacity(page.count());
            for i in 0..page.count() {
                let value = page.value_slice(i);
                let element = if !page.is_bucket(i) {
                    Element::Value(value)
                } else if value.len() < BUCKET_HEADER {
                    let reason = format!("bucket header of {} bytes", value.len());
                    return Err(Error::damage(id, reason));
                } else {
                    Element::Bucket {
                        root: u64_at(&value, 0),
                        sequence: u64_at(&value, 8),
                    }
                };
                elements.push((page.key_slice(i), element));
            }
            PageContent::Leaf(elements)
        }
    })
}

/// How much of its pages a bucket uses, with the buckets in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BucketUsage {
    /// Branch pages, without overflow.
    pub branch_pages: u64,
    /// Pages that continue them.
    pub branch_overflow: u64,
    /// Leaf pages, without overflow.
    pub leaf_pages: u64,
    /// Pages that continue them.
    pub leaf_overflow: u64,
    /// Keys, names of buckets included.
    pub keys: u64,
    /// Levels of pages.
    pub depth: u64,
    /// Bytes of branch pages that hold something.
    pub branch_in_use: u64,
    /// Bytes of leaf pages that hold something.
    pub leaf_in_use: u64,
    /// Buckets.
    pub buckets: u64,
    /// Buckets that lie within a value of their parent's.
    pub inline_buckets: u64,
    /// Bytes that those hold.
    pub inline_in_use: u64,
}

impl BucketUsage {
    /// Both together.
    pub fn add(&mut self, other: &Self) {
        self.branch_pages += other.branch_pages;
        self.branch_overflow += other.branch_overflow;
        self.leaf_pages += other.leaf_pages;
        self.leaf_overflow += other.leaf_overflow;
        self.keys += other.keys;
        self.depth = self.depth.max(other.depth);
        self.branch_in_use += other.branch_in_use;
        self.leaf_in_use += other.leaf_in_use;
        self.buckets += other.buckets;
        self.inline_buckets += other.inline_buckets;
        self.inline_in_use += other.inline_in_use;
    }
}

impl Bucket {
    /// Counts pages, keys and bytes. Reads every page of the bucket.
    ///
    /// # Errors
    /// I/O errors and damage met on the way.
    pub fn usage(&self) -> Result<BucketUsage, Error> {
        self.usage_of(self.root())
    }

    fn usage_of(&self, root: &Root) -> Result<BucketUsage, Error> {
        let mut usage = BucketUsage {
            buckets: 1,
            ..BucketUsage::default()
        };
        let mut below = BucketUsage::default();
        let mut todo = Vec::new();
        match root {
            Root::Empty => {}
            Root::Inline(page) => {
                usage.inline_buckets = 1;
                usage.keys = page.count() as u64;
                usage.depth = 1;
                usage.inline_in_use = used(page);
            }
            Root::Page(id) => todo.push((*id, 1)),
        }
        let mut pages_left = self.pin().meta.high_water;
        while let Some((id, depth)) = todo.pop() {
            pages_left = pages_left
                .checked_sub(1)
                .ok_or_else(|| Error::damage(id, "more references than pages: a loop"))?;
            let page = self.pin().page(id)?;
            usage.depth = usage.depth.max(depth);
            match page.kind() {
                Kind::Leaf => {
                    usage.leaf_pages += 1;
                    usage.leaf_overflow += page.span() - 1;
                    usage.leaf_in_use += used(&page);
                    usage.keys += page.count() as u64;
                    for i in (0..page.count()).filter(|i| page.is_bucket(*i)) {
                        let (nested, _) = parse_bucket(page.value_slice(i), id)?;
                        below.add(&self.usage_of(&nested)?);
                    }
                }
                Kind::Branch => {
                    usage.branch_pages += 1;
                    usage.branch_overflow += page.span() - 1;
                    usage.branch_in_use += used(&page);
                    todo.extend((0..page.count()).map(|i| (page.child(i), depth + 1)));
                }
            }
        }
        usage.depth += below.depth;
        usage.add(&below);
        Ok(usage)
    }
}

fn used(page: &Page) -> u64 {
    used_bytes(page.raw(), page.kind(), page.count())
}
