//! A checked tree page: a [`Page`] exists only if its header, element table and key order hold together.
//!
//! Owns parsing and encoding of leaf and branch pages. Must never do I/O.

use crate::error::Error;
use crate::format::{
    ELEMENT, ELEMENT_BUCKET, FLAG_BRANCH, FLAG_LEAF, PAGE_HEADER, PageHeader, u32_at, u64_at,
};
use bytes::Bytes;

/// Leaf pages hold keys and values, branch pages keys and child pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Leaf,
    Branch,
}

/// A leaf or branch page that has passed [`Page::parse`]; its accessors cannot leave its bytes.
#[derive(Debug)]
pub(crate) struct Page {
    buf: Bytes,
    kind: Kind,
    count: usize,
    overflow: u32,
}

/// Start and end of an element's bytes, counted from the page's start.
fn span(buf: &[u8], kind: Kind, index: usize) -> (u64, u64, u64) {
    let at = PAGE_HEADER + ELEMENT * index;
    let (pos, ksize, vsize) = match kind {
        Kind::Leaf => (
            u32_at(buf, at + 4),
            u32_at(buf, at + 8),
            u32_at(buf, at + 12),
        ),
        Kind::Branch => (u32_at(buf, at), u32_at(buf, at + 4), 0),
    };
    let start = at as u64 + u64::from(pos);
    let mid = start + u64::from(ksize);
    (start, mid, mid + u64::from(vsize))
}

/// What kind of tree page the header announces.
pub(crate) fn kind_of(header: PageHeader, id: u64) -> Result<Kind, Error> {
    if header.id != id {
        return Err(Error::damage(
            id,
            format!("its header says page {}", header.id),
        ));
    }
    match header.flags {
        FLAG_LEAF => Ok(Kind::Leaf),
        FLAG_BRANCH => Ok(Kind::Branch),
        other => Err(Error::damage(
            id,
            format!("type {other:#06x}, wanted a branch or leaf page"),
        )),
    }
}

/// Bytes of the page that carry something: header, table and the farthest element. `head` holds the whole table.
pub(crate) fn used_bytes(head: &[u8], kind: Kind, count: usize) -> u64 {
    let table = (PAGE_HEADER + ELEMENT * count) as u64;
    (0..count).fold(table, |end, i| end.max(span(head, kind, i).2))
}

impl Page {
    /// Checks a page read as number `id`. `buf` is the page with as much of its overflow as its elements need.
    pub fn parse(buf: Bytes, id: u64) -> Result<Page, Error> {
        if buf.len() < PAGE_HEADER {
            return Err(Error::damage(id, "shorter than a page header"));
        }
        let header = PageHeader::read(&buf);
        let kind = kind_of(header, id)?;
        let count = usize::from(header.count);
        let table = PAGE_HEADER + ELEMENT * count;
        if table > buf.len() {
            return Err(Error::damage(
                id,
                format!("{count} elements do not fit {} bytes", buf.len()),
            ));
        }
        if kind == Kind::Branch && count == 0 {
            return Err(Error::damage(id, "branch page without elements"));
        }
        let mut previous: Option<&[u8]> = None;
        for i in 0..count {
            let (start, mid, end) = span(&buf, kind, i);
            if start < table as u64 || end > buf.len() as u64 {
                return Err(Error::damage(
                    id,
                    format!("element {i} lies at bytes {start} to {end}, outside the page"),
                ));
            }
            let key = &buf[start as usize..mid as usize];
            if kind == Kind::Leaf && key.is_empty() {
                return Err(Error::damage(id, format!("element {i} has an empty key")));
            }
            if previous.is_some_and(|p| p >= key) {
                return Err(Error::damage(
                    id,
                    format!("key of element {i} is not above the one before it"),
                ));
            }
            previous = Some(key);
        }
        Ok(Page {
            kind,
            count,
            overflow: header.overflow,
            buf,
        })
    }

    /// Checks the page inside an inline bucket's value; `holder` is the page that the value lies in.
    pub fn parse_inline(buf: Bytes, holder: u64) -> Result<Page, Error> {
        let page = Page::parse(buf, 0).map_err(|e| match e {
            Error::Damage { reason, .. } => {
                Error::damage(holder, format!("inline bucket: {reason}"))
            }
            other => other,
        })?;
        if page.kind != Kind::Leaf || page.overflow != 0 {
            return Err(Error::damage(
                holder,
                "inline bucket is not a plain leaf page",
            ));
        }
        if (0..page.count).any(|i| page.is_bucket(i)) {
            return Err(Error::damage(holder, "inline bucket holds a bucket"));
        }
        Ok(page)
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn count(&self) -> usize {
        self.count
    }

    /// Pages that this one spans, its overflow included.
    pub fn span(&self) -> u64 {
        u64::from(self.overflow) + 1
    }

    /// Bytes held in memory.
    pub fn memory(&self) -> usize {
        self.buf.len()
    }

    pub fn raw(&self) -> &Bytes {
        &self.buf
    }

    /// Is leaf element `i` a bucket?
    pub fn is_bucket(&self, i: usize) -> bool {
        self.flags(i) & ELEMENT_BUCKET != 0
    }

    /// Flags of leaf element `i`.
    pub fn flags(&self, i: usize) -> u32 {
        debug_assert!(self.kind == Kind::Leaf && i < self.count);
        u32_at(&self.buf, PAGE_HEADER + ELEMENT * i)
    }

    pub fn key(&self, i: usize) -> &[u8] {
        let (start, mid, _) = span(&self.buf, self.kind, i);
        &self.buf[start as usize..mid as usize]
    }

    pub fn value(&self, i: usize) -> &[u8] {
        let (_, mid, end) = span(&self.buf, self.kind, i);
        &self.buf[mid as usize..end as usize]
    }

    /// The key as a slice that keeps the page's bytes alive: for use within a transaction only.
    pub fn key_slice(&self, i: usize) -> Bytes {
        let (start, mid, _) = span(&self.buf, self.kind, i);
        self.buf.slice(start as usize..mid as usize)
    }

    /// As [`Page::key_slice`], of the value.
    pub fn value_slice(&self, i: usize) -> Bytes {
        let (_, mid, end) = span(&self.buf, self.kind, i);
        self.buf.slice(mid as usize..end as usize)
    }

    /// Child page of branch element `i`.
    pub fn child(&self, i: usize) -> u64 {
        debug_assert!(self.kind == Kind::Branch && i < self.count);
        u64_at(&self.buf, PAGE_HEADER + ELEMENT * i + 8)
    }

    /// Position of `key`, or the position where it would stand.
    pub fn search(&self, key: &[u8]) -> Result<usize, usize> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let mid = low + (high - low) / 2;
            match self.key(mid).cmp(key) {
                std::cmp::Ordering::Less => low = mid + 1,
                std::cmp::Ordering::Greater => high = mid,
                std::cmp::Ordering::Equal => return Ok(mid),
            }
        }
        Err(low)
    }

    /// Branch element whose subtree is the place of `key`.
    pub fn child_index(&self, key: &[u8]) -> usize {
        match self.search(key) {
            Ok(i) => i,
            Err(i) => i.saturating_sub(1),
        }
    }
}

/// One element to be encoded into a leaf.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub flags: u32,
    pub key: Bytes,
    pub value: Bytes,
}

impl Item {
    /// Bytes that the element takes in a page.
    pub fn size(&self) -> usize {
        ELEMENT + self.key.len() + self.value.len()
    }
}

/// Encodes a leaf into `buf`, which is zeroed and large enough.
pub(crate) fn encode_leaf(buf: &mut [u8], id: u64, overflow: u32, items: &[Item]) {
    PageHeader {
        id,
        flags: FLAG_LEAF,
        count: count_u16(items.len()),
        overflow,
    }
    .write(buf);
    let mut at = PAGE_HEADER + ELEMENT * items.len();
    for (i, item) in items.iter().enumerate() {
        let e = PAGE_HEADER + ELEMENT * i;
        buf[e..e + 4].copy_from_slice(&item.flags.to_le_bytes());
        buf[e + 4..e + 8].copy_from_slice(&((at - e) as u32).to_le_bytes());
        buf[e + 8..e + 12].copy_from_slice(&(item.key.len() as u32).to_le_bytes());
        buf[e + 12..e + 16].copy_from_slice(&(item.value.len() as u32).to_le_bytes());
        buf[at..at + item.key.len()].copy_from_slice(&item.key);
        at += item.key.len();
        buf[at..at + item.value.len()].copy_from_slice(&item.value);
        at += item.value.len();
    }
}

/// Encodes a branch into `buf`, which is zeroed and large enough.
pub(crate) fn encode_branch(buf: &mut [u8], id: u64, overflow: u32, children: &[(Bytes, u64)]) {
    PageHeader {
        id,
        flags: FLAG_BRANCH,
        count: count_u16(children.len()),
        overflow,
    }
    .write(buf);
    let mut at = PAGE_HEADER + ELEMENT * children.len();
    for (i, (key, child)) in children.iter().enumerate() {
        let e = PAGE_HEADER + ELEMENT * i;
        buf[e..e + 4].copy_from_slice(&((at - e) as u32).to_le_bytes());
        buf[e + 4..e + 8].copy_from_slice(&(key.len() as u32).to_le_bytes());
        buf[e + 8..e + 16].copy_from_slice(&child.to_le_bytes());
        buf[at..at + key.len()].copy_from_slice(key);
        at += key.len();
    }
}

/// Splitting bounds the number of elements far below this.
fn count_u16(n: usize) -> u16 {
    assert!(n <= usize::from(u16::MAX), "{n} elements in one page");
    n as u16
}
