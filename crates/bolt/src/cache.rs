//! Checked pages in memory, within a byte budget.
//!
//! Owns eviction only. A cached page is valid for whoever may reach its number: a page is rewritten only when no
//! reader can reach it, and the writer forgets the old one before it publishes the new.

use crate::page::Page;
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

const SHARDS: usize = 16;

struct Entry {
    page: Arc<Page>,
    /// Tells a queue slot of this entry from one of an earlier page with the same number.
    ticket: u64,
    used: bool,
}

/// Page numbers are not chosen by an adversary who could gain by collisions; one multiplication spreads them.
#[derive(Default)]
struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u64(u64::from(b));
        }
    }

    fn write_u64(&mut self, n: u64) {
        let mixed = (self.0 ^ n).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

#[derive(Default)]
struct Shard {
    pages: HashMap<u64, Entry, BuildHasherDefault<PageHasher>>,
    /// Second-chance queue of (page, ticket).
    queue: VecDeque<(u64, u64)>,
    bytes: usize,
    next_ticket: u64,
}

/// Cost of an entry beside its bytes.
const OVERHEAD: usize = 128;

pub(crate) struct PageCache {
    shards: Vec<Mutex<Shard>>,
    budget_per_shard: usize,
}

impl PageCache {
    pub fn new(budget_bytes: usize) -> PageCache {
        PageCache {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            budget_per_shard: budget_bytes / SHARDS,
        }
    }

    fn shard(&self, id: u64) -> &Mutex<Shard> {
        &self.shards[(id % SHARDS as u64) as usize]
    }

    pub fn get(&self, id: u64) -> Option<Arc<Page>> {
        let mut shard = self.shard(id).lock();
        let entry = shard.pages.get_mut(&id)?;
        entry.used = true;
        Some(entry.page.clone())
    }

    pub fn insert(&self, id: u64, page: Arc<Page>) {
        let cost = page.memory() + OVERHEAD;
        let mut shard = self.shard(id).lock();
        shard.forget(id);
        // A run so long that it would push out a quarter of its shard is cheaper to read again.
        if cost > self.budget_per_shard / 4 {
            return;
        }
        let ticket = shard.next_ticket;
        shard.next_ticket += 1;
        shard.bytes += cost;
        shard.queue.push_back((id, ticket));
        shard.pages.insert(
            id,
            Entry {
                page,
                ticket,
                used: false,
            },
        );
        shard.shrink(self.budget_per_shard);
    }

    pub fn forget(&self, id: u64) {
        self.shard(id).lock().forget(id);
    }

    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(|s| s.lock().bytes).sum()
    }
}

impl Shard {
    fn forget(&mut self, id: u64) {
        if let Some(old) = self.pages.remove(&id) {
            self.bytes -= old.page.memory() + OVERHEAD;
        }
    }

    fn shrink(&mut self, budget: usize) {
        while self.bytes > budget {
            let Some((id, ticket)) = self.queue.pop_front() else {
                break;
            };
            match self.pages.get_mut(&id) {
                Some(e) if e.ticket == ticket && e.used => {
                    e.used = false;
                    self.queue.push_back((id, ticket));
                }
                Some(e) if e.ticket == ticket => self.forget(id),
                _ => {}
            }
        }
        if self.queue.len() > 2 * self.pages.len() + 64 {
            let pages = &self.pages;
            self.queue
                .retain(|(id, ticket)| pages.get(id).is_some_and(|e| e.ticket == *ticket));
        }
    }
}
