//! The queue between two threads: many senders, one receiver, whole batches.
//!
//! A receiver takes everything that waits in one go, so that a thousand proposals cost one wake-up.
//! The queue is bounded in count; senders that may be refused use [`Queue::try_push`], completions,
//! which are bounded by what was handed out before, use [`Queue::push`].

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::sync::{Arc, Condvar, Mutex};

struct Inner<T> {
    items: VecDeque<T>,
    closed: bool,
    waiting: bool,
    /// Items the receiver took last and still works on; 0 while it waits.
    taken: usize,
    /// When it took them, or began to wait.
    since: Instant,
}

/// What goes on at a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Items that wait.
    pub waiting: usize,
    /// Items that the receiver works on; 0 when it has nothing to do.
    pub taken: usize,
    /// For how long that has been so.
    pub since: Duration,
}

struct Shared<T> {
    inner: Mutex<Inner<T>>,
    ready: Condvar,
    limit: usize,
}

/// A handle to the queue. Clones share it.
pub struct Queue<T>(Arc<Shared<T>>);

impl<T> Clone for Queue<T> {
    fn clone(&self) -> Self {
        Queue(Arc::clone(&self.0))
    }
}

/// What [`Queue::wait`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Items were taken, or the deadline passed with none.
    Open,
    /// The queue is closed and empty: nothing will come any more.
    Closed,
}

impl<T> Queue<T> {
    /// A queue that refuses [`Queue::try_push`] at `limit` items.
    pub fn new(limit: usize) -> Self {
        Queue(Arc::new(Shared {
            inner: Mutex::new(Inner {
                items: VecDeque::new(),
                closed: false,
                waiting: false,
                taken: 0,
                since: Instant::now(),
            }),
            ready: Condvar::new(),
            limit,
        }))
    }

    /// Adds an item whatever the length; dropped when the queue is closed.
    pub fn push(&self, item: T) {
        let mut inner = self.0.inner.lock();
        if inner.closed {
            return;
        }
        inner.items.push_back(item);
        self.wake(&mut inner);
    }

    /// Adds many items with one wake-up.
    pub fn push_all(&self, items: impl IntoIterator<Item = T>) {
        let mut inner = self.0.inner.lock();
        if inner.closed {
            return;
        }
        inner.items.extend(items);
        self.wake(&mut inner);
    }

    /// Puts items back before whatever waits, in their order.
    pub fn push_front_all(
        &self,
        items: impl IntoIterator<Item = T, IntoIter: DoubleEndedIterator>,
    ) {
        let mut inner = self.0.inner.lock();
        for item in items.into_iter().rev() {
            inner.items.push_front(item);
        }
        self.wake(&mut inner);
    }

    /// Adds an item unless the queue is full or closed.
    ///
    /// # Errors
    /// The item itself, handed back.
    pub fn try_push(&self, item: T) -> Result<(), T> {
        let mut inner = self.0.inner.lock();
        if inner.closed || inner.items.len() >= self.0.limit {
            return Err(item);
        }
        inner.items.push_back(item);
        self.wake(&mut inner);
        Ok(())
    }

    /// Adds items with one wake-up; hands back those that do not fit, all when the queue is closed.
    pub fn try_push_all(&self, mut items: Vec<T>) -> Vec<T> {
        if items.is_empty() {
            return items;
        }
        let mut inner = self.0.inner.lock();
        if inner.closed {
            return items;
        }
        let room = self
            .0
            .limit
            .saturating_sub(inner.items.len())
            .min(items.len());
        let refused = items.split_off(room);
        inner.items.extend(items);
        self.wake(&mut inner);
        refused
    }

    /// Whether both are handles to one queue.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn wake(&self, inner: &mut Inner<T>) {
        if inner.waiting && !inner.items.is_empty() {
            inner.waiting = false;
            self.0.ready.notify_one();
        }
    }

    /// Moves everything that waits into `out`; waits for something until `deadline`, for ever without one.
    pub fn wait(&self, out: &mut VecDeque<T>, deadline: Option<Instant>) -> Wait {
        let mut inner = self.0.inner.lock();
        let mut idle = false;
        while inner.items.is_empty() {
            if inner.closed {
                return Wait::Closed;
            }
            if !idle {
                idle = true;
                inner.taken = 0;
                inner.since = Instant::now();
            }
            inner.waiting = true;
            match deadline {
                Some(at) => {
                    if self.0.ready.wait_until(&mut inner, at).timed_out() {
                        inner.waiting = false;
                        break;
                    }
                }
                None => self.0.ready.wait(&mut inner),
            }
        }
        inner.taken = inner.items.len();
        inner.since = Instant::now();
        if out.is_empty() {
            std::mem::swap(&mut inner.items, out);
        } else {
            out.append(&mut inner.items);
        }
        Wait::Open
    }

    /// Refuses items from now on; what waits is still delivered.
    pub fn close(&self) {
        let mut inner = self.0.inner.lock();
        inner.closed = true;
        self.0.ready.notify_all();
    }

    /// What goes on here at `now`.
    pub fn load(&self, now: Instant) -> Load {
        let inner = self.0.inner.lock();
        Load {
            waiting: inner.items.len(),
            taken: inner.taken,
            since: now.saturating_duration_since(inner.since),
        }
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.0.inner.lock().items.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_full_queue_hands_the_item_back_and_a_completion_still_fits() {
        let queue = Queue::new(2);
        assert_eq!(queue.try_push(1), Ok(()));
        assert_eq!(queue.try_push(2), Ok(()));
        assert_eq!(queue.try_push(3), Err(3));
        queue.push(4);
        let mut out = VecDeque::new();
        assert_eq!(queue.wait(&mut out, None), Wait::Open);
        assert_eq!(out, [1, 2, 4]);
    }

    #[test]
    fn a_closed_queue_delivers_what_waited_and_then_says_so() {
        let queue = Queue::new(8);
        queue.push(1);
        queue.close();
        queue.push(2);
        let mut out = VecDeque::new();
        assert_eq!(queue.wait(&mut out, None), Wait::Open);
        assert_eq!(out, [1]);
        out.clear();
        assert_eq!(queue.wait(&mut out, None), Wait::Closed);
    }

    #[test]
    fn what_goes_on_can_be_seen() {
        let queue = Queue::new(8);
        let mut out = VecDeque::new();
        queue.push_all([1, 2]);
        assert_eq!(queue.load(Instant::now()).waiting, 2);
        queue.wait(&mut out, None);
        queue.push(3);
        let load = queue.load(Instant::now() + Duration::from_secs(9));
        assert_eq!((load.waiting, load.taken), (1, 2));
        assert!(load.since >= Duration::from_secs(9));
        out.clear();
        queue.wait(&mut out, None);
        queue.wait(&mut out, Some(Instant::now()));
        assert_eq!(queue.load(Instant::now()).taken, 0);
    }

    #[test]
    fn a_deadline_ends_the_wait_and_a_push_ends_it_sooner() {
        let queue: Queue<u32> = Queue::new(8);
        let mut out = VecDeque::new();
        let soon = Instant::now() + Duration::from_millis(20);
        assert_eq!(queue.wait(&mut out, Some(soon)), Wait::Open);
        assert!(out.is_empty() && Instant::now() >= soon);
        let sender = queue.clone();
        let thread = std::thread::spawn(move || sender.push_all([7, 8]));
        assert_eq!(
            queue.wait(&mut out, Some(Instant::now() + Duration::from_secs(20))),
            Wait::Open
        );
        thread.join().expect("the sender ends");
        while out.len() < 2 {
            queue.wait(&mut out, Some(Instant::now() + Duration::from_secs(20)));
        }
        assert_eq!(out, [7, 8]);
    }
}
