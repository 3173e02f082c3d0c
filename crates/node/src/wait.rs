//! Who waits for what: a client for its request to be applied, a reader for an index.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use tokio::sync::oneshot;

use crate::port::{Post, Reply};
use crate::sync::{AtomicU64, Mutex, Ordering};

/// Shards of the registry of waiters: enough that two serving threads seldom meet.
const SHARDS: usize = 16;

/// Clients by request id.
#[derive(Debug)]
pub struct Waiters<T> {
    shards: [Mutex<BTreeMap<u64, Reply<T>>>; SHARDS],
}

impl<T> Default for Waiters<T> {
    fn default() -> Self {
        Waiters {
            shards: std::array::from_fn(|_| Mutex::new(BTreeMap::new())),
        }
    }
}

impl<T: Send + 'static> Waiters<T> {
    fn shard(&self, id: u64) -> &Mutex<BTreeMap<u64, Reply<T>>> {
        &self.shards[(id % SHARDS as u64) as usize]
    }

    /// Registers a waiter. An id is used once in the life of a process.
    pub fn register(&self, id: u64) -> oneshot::Receiver<T> {
        let (reply, receiver) = Reply::channel();
        self.shard(id).lock().insert(id, reply);
        receiver
    }

    /// Whether somebody waits under this id.
    pub fn is_waiting(&self, id: u64) -> bool {
        id != 0 && self.shard(id).lock().contains_key(&id)
    }

    /// Answers a waiter, if there is one.
    pub fn answer(&self, id: u64, answer: T) {
        let waiter = self.shard(id).lock().remove(&id);
        if let Some(waiter) = waiter {
            waiter.send(answer);
        }
    }

    /// Answers many waiters, with one wake-up for each thread they are of.
    pub fn answer_all(&self, post: &mut Post, answers: impl IntoIterator<Item = (u64, T)>) {
        for (id, answer) in answers {
            let waiter = self.shard(id).lock().remove(&id);
            if let Some(waiter) = waiter {
                waiter.send_by(post, answer);
            }
        }
    }

    /// Forgets a waiter that gave up.
    pub fn forget(&self, id: u64) {
        self.shard(id).lock().remove(&id);
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets everybody: they learn that no answer will come.
    pub fn clear(&self) {
        for shard in &self.shards {
            shard.lock().clear();
        }
    }
}

struct Pending<T> {
    index: u64,
    order: u64,
    waiter: T,
}

impl<T> PartialEq for Pending<T> {
    fn eq(&self, other: &Self) -> bool {
        (self.index, self.order) == (other.index, other.order)
    }
}

impl<T> Eq for Pending<T> {}

impl<T> PartialOrd for Pending<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Pending<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.index, self.order).cmp(&(other.index, other.order))
    }
}

/// Readers by the index they wait to see applied.
pub struct AppliedIndex<T> {
    applied: AtomicU64,
    pending: Mutex<(u64, BinaryHeap<Reverse<Pending<T>>>)>,
}

impl<T> AppliedIndex<T> {
    /// Starts at an index.
    pub fn new(applied: u64) -> Self {
        AppliedIndex {
            applied: AtomicU64::new(applied),
            pending: Mutex::new((0, BinaryHeap::new())),
        }
    }

    /// The last index applied.
    pub fn get(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// Keeps a waiter until `index` is applied; hands it back when it already is.
    pub fn wait(&self, index: u64, waiter: T) -> Option<T> {
        if self.get() >= index {
            return Some(waiter);
        }
        let mut pending = self.pending.lock();
        // Looked at again under the lock: `advance` publishes before it takes the lock.
        if self.get() >= index {
            return Some(waiter);
        }
        pending.0 += 1;
        let order = pending.0;
        pending.1.push(Reverse(Pending {
            index,
            order,
            waiter,
        }));
        None
    }

    /// Publishes an index and returns the waiters it frees.
    pub fn advance(&self, index: u64) -> Vec<T> {
        self.applied.fetch_max(index, Ordering::AcqRel);
        let mut pending = self.pending.lock();
        let mut free = Vec::new();
        while pending
            .1
            .peek()
            .is_some_and(|Reverse(first)| first.index <= index)
        {
            if let Some(Reverse(first)) = pending.1.pop() {
                free.push(first.waiter);
            }
        }
        free
    }

    /// Forgets everybody.
    pub fn clear(&self) {
        self.pending.lock().1.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_is_freed_exactly_when_its_index_is_applied() {
        let applied = AppliedIndex::new(5);
        assert_eq!(applied.wait(5, 'a'), Some('a'));
        assert_eq!(applied.wait(7, 'b'), None);
        assert_eq!(applied.wait(6, 'c'), None);
        assert_eq!(applied.wait(9, 'd'), None);
        assert_eq!(applied.advance(7), ['c', 'b']);
        assert_eq!(applied.get(), 7);
        assert_eq!(applied.advance(8), []);
        assert_eq!(applied.advance(20), ['d']);
    }

    #[test]
    fn an_answer_reaches_only_its_waiter() {
        let waiters: Waiters<u32> = Waiters::default();
        let mut one = waiters.register(1);
        let mut two = waiters.register(2);
        assert!(waiters.is_waiting(1) && !waiters.is_waiting(3));
        waiters.answer(2, 22);
        waiters.answer(3, 33);
        assert_eq!(two.try_recv(), Ok(22));
        assert!(one.try_recv().is_err());
        waiters.forget(1);
        assert!(!waiters.is_waiting(1));
    }
}
