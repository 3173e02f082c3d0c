//! Where the apply thread and the streams of watchers meet.
//!
//! The apply thread publishes what each entry changed and goes on: it never waits for a stream, and
//! pays for the watchers an event concerns only. A stream takes what is queued for it, and reads
//! history for those of its watchers that are behind, on the thread that serves it and in slices.

use std::collections::BTreeMap;

use ferrite_mutate::mutation;
use ferrite_mvcc::{Changes, Error as StoreError, Store};
use ferrite_proto::mvccpb::KeyValue;
use ferrite_watch::{Create, Delivery, Limits, Refusal, Registry, Stats, StreamId, Work};
use tokio::sync::Notify;

use crate::sync::{Arc, Mutex};

/// Events of a slice of history at most, whole revisions aside.
const SLICE_EVENTS_MAX: usize = 1000;
/// Events of a stream's first slice: how large they are is not known yet.
const SLICE_EVENTS_FIRST: usize = 256;
/// Bytes of a slice after which the next one is made smaller.
const SLICE_BYTES: usize = 4 << 20;

/// What watchers are told of.
#[derive(Debug)]
pub enum WatchChange {
    /// What one entry of the log changed.
    Changes(Changes),
    /// The store holds the database of a raft snapshot now, at this revision.
    Installed(i64),
}

/// All watchers of this member. Cheap to clone.
#[derive(Clone)]
pub struct WatchHub(Arc<Inner>);

struct Inner {
    store: Arc<Store>,
    state: Mutex<State>,
}

struct State {
    registry: Registry,
    /// Wakes the stream's task.
    streams: BTreeMap<StreamId, Arc<Notify>>,
    closed: bool,
}

impl State {
    fn woken(&mut self) -> Vec<Arc<Notify>> {
        let woken = self.registry.take_woken();
        woken
            .iter()
            .filter_map(|id| self.streams.get(id).cloned())
            .collect()
    }
}

/// What a stream has to do next.
#[derive(Debug)]
pub enum Step {
    /// Send all of these, in order.
    Deliver(Vec<Delivery>),
    /// Wait to be woken.
    Idle,
    /// Ask again: some history was read, and nothing of it is wanted.
    Again,
}

/// Why a stream cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// The member is stopping.
    #[error("server stopped")]
    Stopped,
    /// History cannot be read.
    #[error("database damaged: {0}")]
    Damaged(String),
}

impl WatchHub {
    /// A hub over the store, without watchers.
    pub fn new(store: Arc<Store>) -> Self {
        WatchHub::with_limits(store, Limits::default())
    }

    /// As [`WatchHub::new`], with other limits on what waits for slow streams.
    pub fn with_limits(store: Arc<Store>, limits: Limits) -> Self {
        let registry = Registry::new(limits, store.current_revision());
        WatchHub(Arc::new(Inner {
            store,
            state: Mutex::new(State {
                registry,
                streams: BTreeMap::new(),
                closed: false,
            }),
        }))
    }

    /// Tells the watchers what happened, in its order. To be called by the apply thread alone, once
    /// readers see it and whoever asked for it is answered.
    pub fn publish(&self, changes: impl IntoIterator<Item = WatchChange>) {
        let woken = {
            let mut state = self.0.state.lock();
            for change in changes {
                match change {
                    WatchChange::Changes(changes) => state.registry.publish(changes),
                    WatchChange::Installed(revision) => state.registry.installed(revision),
                }
            }
            state.woken()
        };
        wake(woken);
    }

    /// Ends every stream, and those that are opened later.
    pub fn close(&self) {
        let all: Vec<Arc<Notify>> = {
            let mut state = self.0.state.lock();
            state.closed = true;
            state.streams.values().cloned().collect()
        };
        wake(all);
    }

    /// Opens a stream, which ends when it is dropped.
    pub fn open(&self) -> WatchStream {
        let notify = Arc::new(Notify::new());
        let mut state = self.0.state.lock();
        let id = state.registry.open();
        state.streams.insert(id, Arc::clone(&notify));
        WatchStream {
            hub: self.clone(),
            id,
            notify,
            slice_events: SLICE_EVENTS_FIRST,
            rest: false,
        }
    }

    /// Figures for metrics.
    pub fn stats(&self) -> Stats {
        self.0.state.lock().registry.stats()
    }
}

fn wake(streams: Vec<Arc<Notify>>) {
    for stream in streams {
        stream.notify_one();
    }
}

/// One stream of watchers.
pub struct WatchStream {
    hub: WatchHub,
    id: StreamId,
    notify: Arc<Notify>,
    slice_events: usize,
    /// A slice of history was read: others on this thread come first now.
    rest: bool,
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        let mut state = self.hub.0.state.lock();
        state.registry.close(self.id);
        state.streams.remove(&self.id);
    }
}

impl WatchStream {
    /// Creates a watcher. Returns its ID, or why there is none, and the store's revision at that
    /// moment: for a watcher without a start revision the first event is the one after it.
    pub fn create(&self, create: &Create) -> (Result<i64, Refusal>, i64) {
        let mut state = self.hub.0.state.lock();
        let current = self.hub.0.store.current_revision();
        let skipped = i64::from(mutation!("now-is-later"));
        let id = state.registry.create(self.id, create, current + skipped);
        // for the header: never less than what the watcher was told apart by
        let current = current.max(state.registry.published());
        let woken = state.woken();
        drop(state);
        wake(woken);
        (id, current)
    }

    /// Ends a watcher; false when there is none with this ID.
    pub fn cancel(&self, watch_id: i64) -> bool {
        self.hub.0.state.lock().registry.cancel(self.id, watch_id)
    }

    /// Asks how far the stream is; see [`Registry::request_progress`].
    pub fn request_progress(&self) {
        let woken = {
            let mut state = self.hub.0.state.lock();
            let current = self.hub.0.store.current_revision();
            state.registry.request_progress(self.id, current);
            state.woken()
        };
        wake(woken);
    }

    /// The interval for notices has passed.
    pub fn tick(&self) {
        let woken = {
            let mut state = self.hub.0.state.lock();
            state.registry.tick(self.id);
            state.woken()
        };
        wake(woken);
    }

    /// Waits for something to send. All of it must be sent, in order, before the next call. Dropping
    /// the future before it is ready loses nothing.
    ///
    /// # Errors
    /// The stream must end.
    pub async fn next(&mut self) -> Result<Vec<Delivery>, WatchError> {
        loop {
            if std::mem::take(&mut self.rest) {
                tokio::task::yield_now().await;
            }
            match self.step()? {
                Step::Deliver(deliveries) => return Ok(deliveries),
                Step::Idle => self.notify.notified().await,
                Step::Again => {}
            }
        }
    }

    /// One step of [`WatchStream::next`], without waiting.
    ///
    /// # Errors
    /// The stream must end.
    pub fn step(&mut self) -> Result<Step, WatchError> {
        let work = {
            let mut state = self.hub.0.state.lock();
            if state.closed {
                return Err(WatchError::Stopped);
            }
            state.registry.take(self.id)
        };
        match work {
            Work::Deliver(deliveries) => Ok(Step::Deliver(deliveries)),
            Work::Idle => Ok(Step::Idle),
            Work::CatchUp(plan) => {
                self.rest = true;
                let deliveries = self.catch_up(plan)?;
                Ok(if deliveries.is_empty() {
                    Step::Again
                } else {
                    Step::Deliver(deliveries)
                })
            }
        }
    }

    fn catch_up(&mut self, plan: ferrite_watch::CatchUp) -> Result<Vec<Delivery>, WatchError> {
        let store = &self.hub.0.store;
        match store.history(plan.from(), self.slice_events) {
            Ok(history) => {
                let bytes: usize = history
                    .events
                    .iter()
                    .map(|event| event.kv.key.len() + event.kv.value.len())
                    .sum();
                self.slice_events = if bytes > SLICE_BYTES {
                    (self.slice_events / 4).max(1)
                } else {
                    (self.slice_events * 2).min(SLICE_EVENTS_MAX)
                };
                let slice = plan.read(history.events, history.next, store.current_revision());
                Ok(self.hub.0.state.lock().registry.caught_up(slice))
            }
            Err(StoreError::Compacted) => {
                let compacted = store.compact_revision();
                Ok(self.hub.0.state.lock().registry.compacted(plan, compacted))
            }
            // it asks for what the store has not got, which is no error: nothing is there yet
            Err(StoreError::FutureRevision) => Ok(Vec::new()),
            Err(StoreError::Damaged(reason)) => Err(WatchError::Damaged(reason)),
        }
    }

    /// What a key was at a revision; `None` also when that is compacted.
    ///
    /// # Errors
    /// [`WatchError::Damaged`]: it was there, and cannot be read.
    pub fn previous(&self, key: &[u8], revision: i64) -> Result<Option<KeyValue>, WatchError> {
        match self.hub.0.store.get(key, revision) {
            Ok(found) => Ok(found),
            Err(StoreError::Damaged(_)) if mutation!("unreadable-is-absent") => Ok(None),
            Err(StoreError::Damaged(reason)) => Err(WatchError::Damaged(reason)),
            Err(StoreError::Compacted | StoreError::FutureRevision) => Ok(None),
        }
    }
}
