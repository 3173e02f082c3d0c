//! Applying a sorted batch of changes to a tree: copy what changes, merge what has become thin, split what has become
//! thick, and encode it into newly allocated pages.
//!
//! Owns the shape of trees. It writes nothing: the encoded pages are the commit's to write. Old pages are only noted as
//! freed, so that a batch given up half-way leaves no trace.

use crate::db::Inner;
use crate::error::Error;
use crate::format::{BUCKET_HEADER, DEPTH_MAX, ELEMENT, ELEMENT_BUCKET, PAGE_HEADER};
use crate::freelist::Run;
use crate::page::{Item, Kind, Page, encode_branch, encode_leaf};
use crate::read::{Pin, Root};
use bytes::Bytes;
use std::sync::Arc;

/// What is to become of one key.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    Put(Bytes),
    /// The value of a bucket element: header, and the inline page if there is one.
    PutBucket(Bytes),
    Delete,
    DropBucket,
    /// Nothing changes, but the pages from the root to this key move.
    Touch,
}

/// One change of a batch; batches are in ascending key order.
#[derive(Debug, Clone)]
pub(crate) struct TreeOp {
    pub key: Bytes,
    pub action: Action,
    /// A key may take a bucket's place, and a bucket a key's: the old one has been deleted before.
    pub any_kind: bool,
}

/// A page's content while it is being changed.
enum Node {
    Leaf {
        items: Vec<Item>,
        /// Something was removed: a candidate for merging.
        shrunk: bool,
    },
    Branch {
        entries: Vec<Entry>,
        shrunk: bool,
    },
}

enum Entry {
    /// An unchanged child page.
    Clean {
        key: Bytes,
        id: u64,
    },
    Dirty(Node),
}

impl Node {
    fn is_empty(&self) -> bool {
        match self {
            Node::Leaf { items, .. } => items.is_empty(),
            Node::Branch { entries, .. } => entries.is_empty(),
        }
    }

    fn size(&self) -> usize {
        PAGE_HEADER
            + match self {
                Node::Leaf { items, .. } => items.iter().map(Item::size).sum::<usize>(),
                Node::Branch { entries, .. } => entries.iter().map(|e| ELEMENT + e.key_len()).sum(),
            }
    }

    /// So empty that it should be joined with a neighbour.
    fn is_thin(&self, page_size: usize) -> bool {
        match self {
            Node::Leaf { shrunk, .. } => *shrunk && self.size() < page_size / 4,
            Node::Branch { shrunk, entries } => {
                entries.len() < 2 || (*shrunk && self.size() < page_size / 4)
            }
        }
    }

    /// A branch of fewer than two children must not stay.
    fn must_merge(&self) -> bool {
        matches!(self, Node::Branch { entries, .. } if entries.len() < 2)
    }
}

impl Entry {
    fn key_len(&self) -> usize {
        match self {
            Entry::Clean { key, .. } => key.len(),
            Entry::Dirty(Node::Leaf { items, .. }) => items.first().map_or(0, |i| i.key.len()),
            Entry::Dirty(Node::Branch { entries, .. }) => entries.first().map_or(0, Entry::key_len),
        }
    }
}

/// Where a rebuilt tree begins.
pub(crate) enum NewRoot {
    Page(u64),
    /// The leaf page to put into the parent's value, element table and all.
    Inline(Vec<u8>),
}

/// One commit's worth of rebuilding.
pub(crate) struct Rebuild<'a> {
    pin: &'a Pin,
    inner: &'a Inner,
    page_size: usize,
    /// Grows as pages are taken from beyond the end.
    pub high_water: u64,
    /// Encoded pages, not yet written.
    pub pages: Vec<(u64, Arc<Page>)>,
    /// Runs that this commit gives up.
    pub freed: Vec<Run>,
    pub splits: u64,
    pub merges: u64,
}

impl<'a> Rebuild<'a> {
    pub fn new(pin: &'a Pin, freed: Vec<Run>) -> Rebuild<'a> {
        Rebuild {
            pin,
            inner: &pin.inner,
            page_size: pin.inner.page_size,
            high_water: pin.meta.high_water,
            pages: Vec::new(),
            freed,
            splits: 0,
            merges: 0,
        }
    }

    /// Takes `n` adjacent pages, from the free list or from beyond the end. They go back if the commit is given up.
    pub fn allocate(&mut self, n: u64) -> u64 {
        let mut space = self.inner.space.lock();
        match space.free.take(n) {
            Some(start) => {
                space.loaned.push((start, n));
                start
            }
            None => {
                let start = self.high_water;
                self.high_water += n;
                start
            }
        }
    }

    /// Applies `ops` to the tree at `root`; `None` if nothing changes. With `inline` a small leaf comes back as bytes.
    pub fn apply(
        &mut self,
        root: &Root,
        ops: &[TreeOp],
        fill: f64,
        inline: bool,
    ) -> Result<Option<NewRoot>, Error> {
        let changed = match root {
            Root::Page(id) => self.apply_page(*id, ops, 1)?,
            Root::Inline(page) => apply_leaf(Some(page), ops)?,
            // A new bucket exists even when nothing is put into it.
            Root::Empty => Some(apply_leaf(None, ops)?.unwrap_or(Node::Leaf {
                items: Vec::new(),
                shrunk: false,
            })),
        };
        let Some(mut node) = changed else {
            return Ok(None);
        };
        // A root with one child is a level too many.
        loop {
            node = match node {
                Node::Branch { mut entries, .. } if entries.len() == 1 => {
                    match entries.swap_remove(0) {
                        Entry::Clean { id, .. } => return Ok(Some(NewRoot::Page(id))),
                        Entry::Dirty(child) => child,
                    }
                }
                Node::Branch { entries, .. } if entries.is_empty() => Node::Leaf {
                    items: Vec::new(),
                    shrunk: false,
                },
                other => {
                    node = other;
                    break;
                }
            };
        }
        if inline
            && let Node::Leaf { items, .. } = &node
            && let size = node.size()
            && BUCKET_HEADER + size <= self.page_size / 4
            && items.iter().all(|i| i.flags & ELEMENT_BUCKET == 0)
        {
            let mut buf = vec![0; size];
            encode_leaf(&mut buf, 0, 0, items);
            return Ok(Some(NewRoot::Inline(buf)));
        }
        let mut level = self.spill(node, fill)?;
        loop {
            match level.as_slice() {
                [(_, id)] => return Ok(Some(NewRoot::Page(*id))),
                _ => level = self.spill_branch(&level, fill)?,
            }
        }
    }

    fn free(&mut self, id: u64, page: &Page) {
        self.freed.push((id, page.span()));
    }

    fn apply_page(&mut self, id: u64, ops: &[TreeOp], depth: usize) -> Result<Option<Node>, Error> {
        if ops.is_empty() {
            return Ok(None);
        }
        if depth > DEPTH_MAX {
            return Err(Error::damage(
                id,
                format!("the tree is deeper than {DEPTH_MAX} levels: a loop of pages"),
            ));
        }
        let page = self.pin.page(id)?;
        if page.kind() == Kind::Leaf {
            let node = apply_leaf(Some(&page), ops)?;
            if node.is_some() {
                self.free(id, &page);
            }
            return Ok(node);
        }
        let mut changed: Vec<(usize, Node)> = Vec::new();
        let mut rest = ops;
        while let Some(first) = rest.first() {
            let child = page.child_index(&first.key);
            let n = if child + 1 < page.count() {
                let end = page.key(child + 1);
                rest.partition_point(|op| op.key.as_ref() < end)
            } else {
                rest.len()
            };
            // The first key lies in this child, so that the batch always gets shorter.
            let (mine, others) = rest.split_at(n.max(1));
            if let Some(node) = self.apply_page(page.child(child), mine, depth + 1)? {
                changed.push((child, node));
            }
            rest = others;
        }
        if changed.is_empty() {
            return Ok(None);
        }
        self.free(id, &page);
        let mut changed = changed.into_iter().peekable();
        let mut entries: Vec<Entry> = Vec::with_capacity(page.count());
        let mut shrunk = false;
        for i in 0..page.count() {
            let entry = match changed.next_if(|(child, _)| *child == i) {
                Some((_, node)) if node.is_empty() => {
                    shrunk = true;
                    continue;
                }
                Some((_, node)) => Entry::Dirty(node),
                None => Entry::Clean {
                    key: page.key_slice(i),
                    id: page.child(i),
                },
            };
            shrunk |= self.push_merging(&mut entries, entry)?;
        }
        Ok(Some(Node::Branch { entries, shrunk }))
    }

    /// Appends a child, joining it with the one before when either is thin. Answers whether it did.
    fn push_merging(&mut self, entries: &mut Vec<Entry>, entry: Entry) -> Result<bool, Error> {
        let thin = |e: &Entry| matches!(e, Entry::Dirty(n) if n.is_thin(self.page_size));
        let must = |e: &Entry| matches!(e, Entry::Dirty(n) if n.must_merge());
        let Some(last) = entries.last() else {
            entries.push(entry);
            return Ok(false);
        };
        if !thin(last) && !thin(&entry) {
            entries.push(entry);
            return Ok(false);
        }
        let must = must(last) || must(&entry);
        let Some(last) = entries.pop() else {
            return Ok(false);
        };
        let both_dirty = matches!((&last, &entry), (Entry::Dirty(_), Entry::Dirty(_)));
        // Loading a clean neighbour costs its rewriting: only if the two then fit one page.
        if !must && !both_dirty && !self.fit_together(&last, &entry)? {
            entries.push(last);
            entries.push(entry);
            return Ok(false);
        }
        let left = self.load(last)?;
        let right = self.load(entry)?;
        self.merges += 1;
        let joined = match (left, right) {
            (Node::Leaf { mut items, .. }, Node::Leaf { items: more, .. }) => {
                items.extend(more);
                Node::Leaf {
                    items,
                    shrunk: true,
                }
            }
            (Node::Branch { mut entries, .. }, Node::Branch { entries: more, .. }) => {
                entries.extend(more);
                Node::Branch {
                    entries,
                    shrunk: true,
                }
            }
            _ => {
                return Err(Error::damage(
                    self.pin.meta.root,
                    "a branch page has both leaf and branch children",
                ));
            }
        };
        entries.push(Entry::Dirty(joined));
        Ok(true)
    }

    fn fit_together(&self, a: &Entry, b: &Entry) -> Result<bool, Error> {
        let mut total = 0;
        for entry in [a, b] {
            total += match entry {
                Entry::Dirty(node) => node.size(),
                Entry::Clean { id, .. } => {
                    let page = self.pin.page(*id)?;
                    if page.span() > 1 {
                        return Ok(false);
                    }
                    let elements = (0..page.count()).map(|i| {
                        let value = match page.kind() {
                            Kind::Leaf => page.value(i).len(),
                            Kind::Branch => 0,
                        };
                        ELEMENT + page.key(i).len() + value
                    });
                    PAGE_HEADER + elements.sum::<usize>()
                }
            };
        }
        Ok(total <= self.page_size)
    }

    /// The content of a child, its old page noted as freed.
    fn load(&mut self, entry: Entry) -> Result<Node, Error> {
        let id = match entry {
            Entry::Dirty(node) => return Ok(node),
            Entry::Clean { id, .. } => id,
        };
        let page = self.pin.page(id)?;
        self.free(id, &page);
        Ok(match page.kind() {
            Kind::Leaf => Node::Leaf {
                items: (0..page.count()).map(|i| item(&page, i)).collect(),
                shrunk: true,
            },
            Kind::Branch => Node::Branch {
                entries: (0..page.count())
                    .map(|i| Entry::Clean {
                        key: page.key_slice(i),
                        id: page.child(i),
                    })
                    .collect(),
                shrunk: true,
            },
        })
    }

    /// Encodes a node, children first; answers the first key and page of each page that it took.
    fn spill(&mut self, node: Node, fill: f64) -> Result<Vec<(Bytes, u64)>, Error> {
        match node {
            Node::Leaf { items, .. } => {
                let ranges = split(items.len(), self.page_size, fill, 1, |i| items[i].size());
                self.splits += ranges.len() as u64 - 1;
                let mut out = Vec::with_capacity(ranges.len());
                for (start, end) in ranges {
                    let part = &items[start..end];
                    let size = PAGE_HEADER + part.iter().map(Item::size).sum::<usize>();
                    let id = self.emit(size, |buf, id, overflow| {
                        encode_leaf(buf, id, overflow, part);
                    })?;
                    let key = part.first().map_or_else(Bytes::new, |i| i.key.clone());
                    out.push((key, id));
                }
                Ok(out)
            }
            Node::Branch { entries, .. } => {
                let mut children = Vec::with_capacity(entries.len());
                for entry in entries {
                    match entry {
                        Entry::Clean { key, id } => children.push((key, id)),
                        Entry::Dirty(node) => children.extend(self.spill(node, fill)?),
                    }
                }
                self.spill_branch(&children, fill)
            }
        }
    }

    fn spill_branch(
        &mut self,
        children: &[(Bytes, u64)],
        fill: f64,
    ) -> Result<Vec<(Bytes, u64)>, Error> {
        let ranges = split(children.len(), self.page_size, fill, 2, |i| {
            ELEMENT + children[i].0.len()
        });
        self.splits += ranges.len() as u64 - 1;
        let mut out = Vec::with_capacity(ranges.len());
        for (start, end) in ranges {
            let part = &children[start..end];
            let size = PAGE_HEADER + part.iter().map(|c| ELEMENT + c.0.len()).sum::<usize>();
            let id = self.emit(size, |buf, id, overflow| {
                encode_branch(buf, id, overflow, part);
            })?;
            out.push((part[0].0.clone(), id));
        }
        Ok(out)
    }

    /// Allocates and encodes one page run of `size` bytes, and reads it back as a reader would before it may be
    /// written.
    fn emit(
        &mut self,
        size: usize,
        encode: impl FnOnce(&mut [u8], u64, u32),
    ) -> Result<u64, Error> {
        let n = size.div_ceil(self.page_size);
        let id = self.allocate(n as u64);
        let overflow = u32::try_from(n - 1).map_err(|_| Error::Unwritable {
            page: id,
            reason: format!("{size} bytes"),
        })?;
        let mut buf = vec![0; n * self.page_size];
        encode(&mut buf, id, overflow);
        let page = Page::parse(buf.into(), id).map_err(|e| Error::Unwritable {
            page: id,
            reason: e.to_string(),
        })?;
        self.pages.push((id, Arc::new(page)));
        Ok(id)
    }
}

fn item(page: &Page, i: usize) -> Item {
    Item {
        flags: page.flags(i),
        key: page.key_slice(i),
        value: page.value_slice(i),
    }
}

/// Merges a batch into a leaf's elements; `None` if nothing changes.
fn apply_leaf(page: Option<&Page>, ops: &[TreeOp]) -> Result<Option<Node>, Error> {
    let count = page.map_or(0, Page::count);
    let mut items = Vec::with_capacity(count + ops.len());
    let mut shrunk = false;
    let mut changed = false;
    let mut next = 0;
    for op in ops {
        let mut old = None;
        if let Some(page) = page {
            while next < count && page.key(next) < op.key.as_ref() {
                items.push(item(page, next));
                next += 1;
            }
            if next < count && page.key(next) == op.key.as_ref() {
                old = Some(item(page, next));
                next += 1;
            }
        }
        let old_is_bucket = old
            .as_ref()
            .filter(|_| !op.any_kind)
            .map(|o| o.flags & ELEMENT_BUCKET != 0);
        let mut put = |flags, value: &Bytes| {
            items.push(Item {
                flags,
                key: op.key.clone(),
                value: value.clone(),
            });
        };
        match (&op.action, old_is_bucket) {
            (Action::Put(_) | Action::Delete, Some(true)) => {
                return Err(Error::Incompatible {
                    key: op.key.to_vec(),
                    is: "bucket",
                    wanted: "key",
                });
            }
            (Action::PutBucket(_) | Action::DropBucket, Some(false)) => {
                return Err(Error::Incompatible {
                    key: op.key.to_vec(),
                    is: "key",
                    wanted: "bucket",
                });
            }
            (Action::Put(value), _) => {
                put(0, value);
                changed = true;
            }
            (Action::PutBucket(value), _) => {
                put(ELEMENT_BUCKET, value);
                changed = true;
            }
            (Action::Delete | Action::DropBucket, _) => {
                shrunk |= old.is_some();
                changed |= old.is_some();
            }
            (Action::Touch, _) => {
                items.extend(old);
                changed = true;
            }
        }
    }
    if !changed {
        return Ok(None);
    }
    if let Some(page) = page {
        items.extend((next..count).map(|i| item(page, i)));
    }
    Ok(Some(Node::Leaf { items, shrunk }))
}

/// Cuts `n` elements into pages. All of them if they fit one; else prefixes filled to `fill` of a page, each of at least
/// `min` elements, until the rest fits.
fn split(
    n: usize,
    page_size: usize,
    fill: f64,
    min: usize,
    size_of: impl Fn(usize) -> usize,
) -> Vec<(usize, usize)> {
    let threshold = (page_size as f64 * fill) as usize;
    let mut rest: usize = (0..n).map(&size_of).sum();
    let mut ranges = Vec::new();
    let mut start = 0;
    while PAGE_HEADER + rest > page_size && n - start >= 2 * min {
        let mut used = PAGE_HEADER;
        let mut i = start;
        while i < n - min {
            let size = size_of(i);
            if i - start >= min && used + size > threshold {
                break;
            }
            used += size;
            i += 1;
        }
        ranges.push((start, i));
        rest -= used - PAGE_HEADER;
        start = i;
    }
    ranges.push((start, n));
    ranges
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn what_fits_is_not_split_and_the_rest_is_filled_as_asked() {
        assert_eq!(split(0, 4096, 0.5, 1, |_| 0), [(0, 0)]);
        assert_eq!(split(40, 4096, 0.5, 1, |_| 100), [(0, 40)]);
        assert_eq!(split(50, 4096, 0.5, 1, |_| 100), [(0, 20), (20, 50)]);
        assert_eq!(split(50, 4096, 0.9, 1, |_| 100), [(0, 36), (36, 50)]);
    }

    #[test]
    fn a_large_element_stands_alone_and_branches_keep_two() {
        let sizes = [10_000, 50, 60, 20_000];
        assert_eq!(
            split(4, 4096, 0.5, 1, |i| sizes[i]),
            [(0, 1), (1, 3), (3, 4)]
        );
        assert_eq!(split(5, 4096, 0.5, 2, |_| 5000), [(0, 2), (2, 5)]);
    }
}
