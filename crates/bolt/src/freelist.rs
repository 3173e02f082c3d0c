//! Which pages may be handed out: free runs, and runs freed by a commit that a reader may still need.
//!
//! Owns the rule of reuse: a page freed by transaction N becomes free only once no reader older than N lives.

use std::collections::{BTreeMap, BTreeSet};

/// A run of pages: first page, number of pages.
pub(crate) type Run = (u64, u64);

#[derive(Debug, Default, Clone)]
pub(crate) struct FreeList {
    /// First page → length; runs never touch each other.
    runs: BTreeMap<u64, u64>,
    by_length: BTreeSet<(u64, u64)>,
    free: u64,
    /// Freed by the transaction of that number.
    pending: BTreeMap<u64, Vec<Run>>,
    pending_pages: u64,
}

impl FreeList {
    /// Free pages.
    pub fn free_pages(&self) -> u64 {
        self.free
    }

    /// Pages freed, but still visible to a reader or to the last durable commit.
    pub fn pending_pages(&self) -> u64 {
        self.pending_pages
    }

    /// Free runs in page order.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        self.runs.iter().map(|(&s, &n)| (s, n))
    }

    /// Pending runs, in no particular order.
    pub fn pending(&self) -> impl Iterator<Item = Run> + '_ {
        self.pending.values().flatten().copied()
    }

    fn remove(&mut self, start: u64, len: u64) {
        self.runs.remove(&start);
        self.by_length.remove(&(len, start));
        self.free -= len;
    }

    fn put(&mut self, start: u64, len: u64) {
        self.runs.insert(start, len);
        self.by_length.insert((len, start));
        self.free += len;
    }

    /// Adds a free run, joined with its neighbours.
    pub fn insert(&mut self, (mut start, mut len): Run) {
        if len == 0 {
            return;
        }
        if let Some((&s, &n)) = self.runs.range(..=start).next_back() {
            assert!(s + n <= start, "page {start} is already free");
            if s + n == start {
                self.remove(s, n);
                start = s;
                len += n;
            }
        }
        if let Some((&s, &n)) = self.runs.range(start + 1..).next() {
            assert!(start + len <= s, "page {s} is already free");
            if start + len == s {
                self.remove(s, n);
                len += n;
            }
        }
        self.put(start, len);
    }

    /// Takes `n` adjacent pages. One page comes from the lowest run, so that the file's tail empties; more come from
    /// the shortest run that holds them.
    pub fn take(&mut self, n: u64) -> Option<u64> {
        let (start, len) = if n == 1 {
            self.runs.first_key_value().map(|(&s, &l)| (s, l))?
        } else {
            self.by_length
                .range((n, 0)..)
                .next()
                .map(|&(l, s)| (s, l))?
        };
        self.remove(start, len);
        if len > n {
            self.put(start + n, len - n);
        }
        Some(start)
    }

    /// Notes what transaction `txid` freed.
    pub fn add_pending(&mut self, txid: u64, runs: Vec<Run>) {
        self.pending_pages += runs.iter().map(|r| r.1).sum::<u64>();
        self.pending.entry(txid).or_default().extend(runs);
    }

    /// Frees what transactions up to and including `oldest_reader` gave up (all of it without readers).
    pub fn release(&mut self, oldest_reader: Option<u64>) {
        while let Some(entry) = self.pending.first_entry() {
            if oldest_reader.is_some_and(|oldest| *entry.key() > oldest) {
                break;
            }
            for run in entry.remove() {
                self.pending_pages -= run.1;
                self.insert(run);
            }
        }
    }

    /// Drops the free run that ends at `high_water`, if there is one; answers the new high water.
    pub fn trim_tail(&mut self, high_water: u64) -> u64 {
        match self.runs.last_key_value() {
            Some((&s, &n)) if s + n == high_water => {
                self.remove(s, n);
                s
            }
            _ => high_water,
        }
    }
}
