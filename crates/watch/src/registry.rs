//! Watchers, their streams, and what is queued for each stream.
//!
//! A watcher is *synced* (told of each revision as it is published; one whose start lies in the
//! future is synced too and merely waits), *behind* (reads history, in slices) or *compacted*
//! (dead, its ID still taken). A full queue puts a watcher behind at the exact revision that did
//! not fit; its stream is served what is queued for it first and history after that.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use ferrite_mutate::mutation;
use ferrite_mvcc::{Changes, Event};
use thiserror::Error;

use crate::batch::{Batch, Filters, Selection};
use crate::matcher::Matcher;
use crate::slab::Slab;
use crate::span::Span;

/// Watchers that read history together in one slice.
const CATCH_UP_WATCHERS: usize = 512;
/// Queued deliveries taken at once.
const TAKE_MAX: usize = 64;

/// A stream of watchers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId(u32);

/// What may wait for streams that are slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Responses queued for a stream.
    pub responses: usize,
    /// Bytes of events queued for a stream. One response is always accepted.
    pub bytes: usize,
    /// Bytes of events queued for all streams together. One response a stream is always accepted.
    pub total_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            responses: 4096,
            bytes: 8 << 20,
            total_bytes: 256 << 20,
        }
    }
}

/// Why a watcher is not created. The text is etcd's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// The start revision is negative.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    Compacted,
    /// No key can lie in the range.
    #[error("mvcc: watcher range is empty")]
    EmptyRange,
    /// The stream has a watcher with this ID.
    #[error("mvcc: duplicate watch ID provided on the WatchStream")]
    DuplicateId,
}

/// A watcher to be created.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Create {
    /// Key, as in the request.
    pub key: Vec<u8>,
    /// End of the range, as in the request.
    pub range_end: Vec<u8>,
    /// First revision wanted; 0 for what happens from now on.
    pub start_revision: i64,
    /// The client's choice; 0 for the server's.
    pub watch_id: i64,
    /// Events not wanted.
    pub filters: Filters,
    /// Send the value before, too.
    pub prev_kv: bool,
    /// Cut large responses.
    pub fragment: bool,
    /// Send a notice when nothing happens for long.
    pub progress_notify: bool,
}

/// Something to send on a stream.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// Events for one watcher.
    Events {
        /// Its ID on the stream.
        watch_id: i64,
        /// For the header: the events' revision when live, the store's when from history.
        revision: i64,
        /// The events, and others.
        batch: Arc<Batch>,
        /// Which of them.
        selection: Selection,
        /// The watcher wants the value before.
        prev_kv: bool,
        /// The watcher wants large responses cut.
        fragment: bool,
    },
    /// Everything up to this revision has been sent, for one watcher, or for all with ID −1.
    Progress {
        /// The watcher.
        watch_id: i64,
        /// The revision.
        revision: i64,
    },
    /// What the watcher wants is compacted; it is dead.
    Compacted {
        /// The watcher.
        watch_id: i64,
        /// The store's compacted revision.
        compact_revision: i64,
    },
}

/// What a stream has to do next.
#[derive(Debug)]
pub enum Work {
    /// Nothing, until its name is among those to wake.
    Idle,
    /// Send these, in order, before asking again.
    Deliver(Vec<Delivery>),
    /// Read history and hand it to [`Registry::caught_up`], or say that it is compacted.
    CatchUp(CatchUp),
}

/// Watchers of one stream that read a slice of history together.
#[derive(Debug)]
pub struct CatchUp {
    stream: StreamId,
    from: i64,
    /// In the order of their numbers.
    readers: BTreeMap<u32, Reader>,
    matcher: Matcher,
}

#[derive(Debug)]
struct Reader {
    next: i64,
    filters: Filters,
}

impl CatchUp {
    /// First revision to read.
    pub fn from(&self) -> i64 {
        self.from
    }

    /// The places of the events each reader wants. Costs as much as there are events and finds, so
    /// it is done without the registry.
    fn select(&self, events: &[Event]) -> BTreeMap<u32, Vec<u32>> {
        let mut places: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (place, event) in (0u32..).zip(events) {
            self.matcher.each(&event.kv.key, &mut |member| {
                if let Some(reader) = self.readers.get(&member)
                    && event.kv.mod_revision >= reader.next
                    && reader.filters.pass(event.kind)
                {
                    places.entry(member).or_default().push(place);
                }
            });
        }
        places
    }

    /// Takes in a slice of history: all events from [`CatchUp::from`] to before `next`.
    pub fn read(self, events: Vec<Event>, next: i64, revision: i64) -> Slice {
        let places = self.select(&events);
        Slice {
            plan: self,
            batch: Arc::new(Batch::new(events)),
            places,
            next,
            revision,
        }
    }
}

/// A slice of history, sorted by who wants what.
#[derive(Debug)]
pub struct Slice {
    plan: CatchUp,
    batch: Arc<Batch>,
    places: BTreeMap<u32, Vec<u32>>,
    next: i64,
    revision: i64,
}

/// Figures for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Streams open.
    pub streams: usize,
    /// Watchers, in whatever state.
    pub watchers: usize,
    /// Watchers that read history.
    pub behind: usize,
    /// Events queued.
    pub pending_events: usize,
    /// Their bytes.
    pub pending_bytes: usize,
    /// Events published so far.
    pub published_events: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Synced,
    Behind,
    Compacted,
}

#[derive(Debug)]
struct Watcher {
    stream: StreamId,
    id: i64,
    span: Span,
    filters: Filters,
    prev_kv: bool,
    fragment: bool,
    /// First revision asked for; 0 for none in particular.
    start: i64,
    /// First revision not yet queued or sent. Never goes down.
    next: i64,
    /// Responses of it in its stream's queue.
    queued: usize,
    state: State,
}

#[derive(Debug)]
struct Queued {
    /// The watcher, unless it is for the whole stream.
    watcher: Option<u32>,
    events: usize,
    bytes: usize,
    delivery: Delivery,
}

#[derive(Debug, Default)]
struct Stream {
    watchers: BTreeMap<i64, u32>,
    next_id: i64,
    queue: VecDeque<Queued>,
    queued_bytes: usize,
    /// Watchers behind, by what they read next.
    behind: BTreeSet<(i64, u32)>,
    compacted: usize,
    /// Watchers that want notices; true when nothing was sent to them since the last tick.
    notices: BTreeMap<i64, bool>,
    /// It was named as one to wake, and has not asked for work since.
    woken: bool,
    /// History's turn before the queue's, so that neither starves the other.
    history_first: bool,
}

/// All watchers of a member.
#[derive(Debug)]
pub struct Registry {
    limits: Limits,
    /// Last revision that was published here: at most the store's.
    published: i64,
    streams: Slab<Stream>,
    watchers: Slab<Watcher>,
    /// Those that are synced.
    synced: Matcher,
    /// Streams that asked for progress at a revision that is not published yet.
    awaiting: BTreeMap<StreamId, i64>,
    pending_events: usize,
    pending_bytes: usize,
    published_events: u64,
    wake: Vec<StreamId>,
}

impl Registry {
    /// An empty one. `revision` is the store's: what happens after it will be published here.
    pub fn new(limits: Limits, revision: i64) -> Self {
        Registry {
            limits,
            published: revision,
            streams: Slab::default(),
            watchers: Slab::default(),
            synced: Matcher::default(),
            awaiting: BTreeMap::new(),
            pending_events: 0,
            pending_bytes: 0,
            published_events: 0,
            wake: Vec::new(),
        }
    }

    /// Opens a stream.
    pub fn open(&mut self) -> StreamId {
        StreamId(self.streams.insert(Stream::default()))
    }

    /// Ends a stream and its watchers. Its ID may be given out again.
    pub fn close(&mut self, id: StreamId) {
        let Some(stream) = self.streams.remove(id.0) else {
            return;
        };
        self.awaiting.remove(&id);
        for queued in &stream.queue {
            self.pending_events -= queued.events;
            self.pending_bytes -= queued.bytes;
        }
        for number in stream.watchers.into_values() {
            if let Some(watcher) = self.watchers.remove(number)
                && watcher.state == State::Synced
            {
                self.synced.remove(&watcher.span, number);
            }
        }
    }

    /// Last revision published.
    pub fn published(&self) -> i64 {
        self.published
    }

    /// Figures for metrics.
    pub fn stats(&self) -> Stats {
        let behind = |at| self.streams.get(at).map_or(0, |stream| stream.behind.len());
        Stats {
            streams: self.streams.len(),
            watchers: self.watchers.len(),
            behind: self.streams.keys().map(behind).sum(),
            pending_events: self.pending_events,
            pending_bytes: self.pending_bytes,
            published_events: self.published_events,
        }
    }

    /// Creates a watcher and returns its ID. `current` is the store's revision, which may be ahead of
    /// what is published; with start revision 0 the first event is the one after it.
    ///
    /// # Errors
    /// [`Refusal`]; the stream goes on.
    pub fn create(
        &mut self,
        stream_id: StreamId,
        create: &Create,
        current: i64,
    ) -> Result<i64, Refusal> {
        if create.start_revision < 0 {
            return Err(Refusal::Compacted);
        }
        let span = Span::new(&create.key, &create.range_end).ok_or(Refusal::EmptyRange)?;
        let current = current.max(self.published);
        let stream = self
            .streams
            .get_mut(stream_id.0)
            .ok_or(Refusal::EmptyRange)?;
        let id = match create.watch_id {
            0 => {
                while stream.watchers.contains_key(&stream.next_id) {
                    stream.next_id += 1;
                }
                stream.next_id += 1;
                stream.next_id - 1
            }
            id if stream.watchers.contains_key(&id) => return Err(Refusal::DuplicateId),
            id => id,
        };
        let next = match create.start_revision {
            0 => current + 1,
            start => start,
        };
        let state = if next > self.published {
            State::Synced
        } else {
            State::Behind
        };
        let number = self.watchers.insert(Watcher {
            stream: stream_id,
            id,
            span: span.clone(),
            filters: create.filters,
            prev_kv: create.prev_kv,
            fragment: create.fragment,
            start: create.start_revision,
            next,
            queued: 0,
            state,
        });
        // an answer for the whole stream that still waits would speak for this watcher, too
        stream.queue.retain(|queued| match &queued.delivery {
            Delivery::Progress {
                watch_id: -1,
                revision,
            } if queued.watcher.is_none() => {
                state == State::Synced && create.start_revision <= *revision
            }
            _ => true,
        });
        stream.watchers.insert(id, number);
        if create.progress_notify {
            stream.notices.insert(id, true);
        }
        if state == State::Synced {
            self.synced.insert(&span, number);
        } else {
            stream.behind.insert((next, number));
            self.wake_up(stream_id);
        }
        Ok(id)
    }

    /// Ends a watcher; nothing more is sent to it. False when there is none with this ID.
    pub fn cancel(&mut self, stream_id: StreamId, id: i64) -> bool {
        let Some(stream) = self.streams.get_mut(stream_id.0) else {
            return false;
        };
        let Some(number) = stream.watchers.remove(&id) else {
            return false;
        };
        stream.notices.remove(&id);
        let Some(watcher) = self.watchers.remove(number) else {
            return false;
        };
        match watcher.state {
            State::Synced => self.synced.remove(&watcher.span, number),
            State::Behind => {
                stream.behind.remove(&(watcher.next, number));
            }
            State::Compacted => stream.compacted -= 1,
        }
        let (pending_events, pending_bytes) = (&mut self.pending_events, &mut self.pending_bytes);
        let queued_bytes = &mut stream.queued_bytes;
        stream.queue.retain(|queued| {
            let keep = queued.watcher != Some(number);
            if !keep {
                *pending_events -= queued.events;
                *pending_bytes -= queued.bytes;
                *queued_bytes -= queued.bytes;
            }
            keep
        });
        true
    }

    /// Tells of what a transaction did. Revisions come in order. Changes without events are no
    /// revision and pass unnoticed.
    pub fn publish(&mut self, changes: Changes) {
        if changes.events.is_empty() {
            return;
        }
        // what a watcher has seen would go backwards
        assert!(
            changes.revision > self.published,
            "revisions are published in order"
        );
        self.published = changes.revision;
        self.published_events += changes.events.len() as u64;
        let single = changes.events.len() == 1;
        let batch = Arc::new(Batch::new(changes.events));
        if single {
            let mut found = Vec::new();
            if let Some(event) = batch.events().first() {
                self.synced
                    .each(&event.kv.key, &mut |number| found.push(number));
                found.retain(|number| {
                    self.watchers
                        .get(*number)
                        .is_some_and(|w| w.filters.pass(event.kind))
                });
            }
            for number in found {
                self.offer(number, &batch, Selection::All);
            }
        } else {
            let mut found: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
            for (place, event) in (0u32..).zip(batch.events()) {
                self.synced.each(&event.kv.key, &mut |number| {
                    if self
                        .watchers
                        .get(number)
                        .is_some_and(|w| w.filters.pass(event.kind))
                    {
                        found.entry(number).or_default().push(place);
                    }
                });
            }
            for (number, places) in found {
                let selection = if places.len() == batch.events().len() {
                    Selection::All
                } else {
                    Selection::Places(places)
                };
                self.offer(number, &batch, selection);
            }
        }
        while let Some((stream, _)) = self
            .awaiting
            .iter()
            .find(|(_, revision)| **revision <= self.published)
            .map(|(stream, revision)| (*stream, *revision))
        {
            self.awaiting.remove(&stream);
            self.answer_progress(stream);
        }
    }

    fn offer(&mut self, number: u32, batch: &Arc<Batch>, selection: Selection) {
        let revision = self.published;
        let Some(watcher) = self.watchers.get_mut(number) else {
            return;
        };
        if revision < watcher.next && !mutation!("future-watch-hears-past") {
            return;
        }
        let Some(stream) = self.streams.get_mut(watcher.stream.0) else {
            return;
        };
        let bytes = batch.bytes(&selection);
        let fits = stream.queue.is_empty()
            || (stream.queue.len() < self.limits.responses
                && stream.queued_bytes + bytes <= self.limits.bytes
                && self.pending_bytes + bytes <= self.limits.total_bytes);
        if !fits && mutation!("full-queue-drops") {
            return;
        }
        if !fits {
            watcher.next = revision;
            watcher.state = State::Behind;
            self.synced.remove(&watcher.span, number);
            stream.behind.insert((revision, number));
            return;
        }
        watcher.next = revision + 1;
        watcher.queued += 1;
        let events = match &selection {
            Selection::All => batch.events().len(),
            Selection::Places(places) => places.len(),
        };
        stream.queued_bytes += bytes;
        self.pending_bytes += bytes;
        self.pending_events += events;
        stream.queue.push_back(Queued {
            watcher: Some(number),
            events,
            bytes,
            delivery: Delivery::Events {
                watch_id: watcher.id,
                revision,
                batch: Arc::clone(batch),
                selection,
                prev_kv: watcher.prev_kv,
                fragment: watcher.fragment,
            },
        });
        let id = watcher.stream;
        self.wake_up(id);
    }

    /// The store was replaced by a raft snapshot at `revision`. What was in between reaches synced
    /// watchers from history; one that waits for a later revision goes on waiting.
    pub fn installed(&mut self, revision: i64) {
        let before = self.published;
        self.published = self.published.max(revision);
        let numbers: Vec<u32> = self.watchers.keys().collect();
        for number in numbers {
            let Some(watcher) = self.watchers.get_mut(number) else {
                continue;
            };
            if watcher.state != State::Synced {
                continue;
            }
            let next = watcher.next.max(before + 1);
            if next > self.published {
                continue;
            }
            watcher.next = next;
            watcher.state = State::Behind;
            let id = watcher.stream;
            self.synced.remove(&watcher.span, number);
            if let Some(stream) = self.streams.get_mut(id.0) {
                stream.behind.insert((next, number));
            }
            self.wake_up(id);
        }
        let asked: Vec<StreamId> = self.awaiting.keys().copied().collect();
        for stream in asked {
            self.awaiting.remove(&stream);
            self.answer_progress(stream);
        }
    }

    /// A client asks how far its stream is. Answered only if every watcher of the stream is synced
    /// and past its start; otherwise the question is dropped. `current` is the store's revision: the
    /// answer is not older than that.
    pub fn request_progress(&mut self, stream: StreamId, current: i64) {
        if current <= self.published {
            self.answer_progress(stream);
        } else {
            self.awaiting.insert(stream, current);
        }
    }

    fn answer_progress(&mut self, id: StreamId) {
        let revision = self.published;
        let Some(stream) = self.streams.get(id.0) else {
            return;
        };
        let behind = !stream.behind.is_empty() && !mutation!("progress-while-behind");
        if stream.watchers.is_empty() || behind || stream.compacted > 0 {
            return;
        }
        let started = |number: &u32| {
            self.watchers
                .get(*number)
                .is_some_and(|watcher| watcher.start <= revision)
        };
        if stream.watchers.values().all(started) {
            self.push_progress(
                id,
                None,
                Delivery::Progress {
                    watch_id: -1,
                    revision,
                },
            );
        }
    }

    /// The stream's interval for notices has passed: tells those watchers how far they are that want
    /// it, are synced, and were sent nothing since the last time.
    pub fn tick(&mut self, id: StreamId) {
        let Some(stream) = self.streams.get_mut(id.0) else {
            return;
        };
        let mut due = Vec::new();
        for (watch_id, quiet) in &mut stream.notices {
            let quiet = std::mem::replace(quiet, true);
            if let Some(number) = stream.watchers.get(watch_id)
                && let Some(watcher) = self.watchers.get(*number)
                && quiet
                && watcher.state == State::Synced
            {
                // a watcher that came from history may be ahead of what is published
                let revision = match watcher.start > self.published {
                    true => continue,
                    false => self.published.max(watcher.next - 1),
                };
                due.push((*watch_id, *number, revision));
            }
        }
        for (watch_id, number, revision) in due {
            self.push_progress(id, Some(number), Delivery::Progress { watch_id, revision });
        }
    }

    fn push_progress(&mut self, id: StreamId, watcher: Option<u32>, delivery: Delivery) {
        let Some(stream) = self.streams.get_mut(id.0) else {
            return;
        };
        // a client that does not read is not told how far it could be
        if stream.queue.len() >= self.limits.responses {
            return;
        }
        if let Some(watcher) = watcher.and_then(|number| self.watchers.get_mut(number)) {
            watcher.queued += 1;
        }
        stream.queue.push_back(Queued {
            watcher,
            events: 0,
            bytes: 0,
            delivery,
        });
        self.wake_up(id);
    }

    fn wake_up(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(id.0)
            && !std::mem::replace(&mut stream.woken, true)
        {
            self.wake.push(id);
        }
    }

    /// Streams that have something to do since the last call. Each is named once until it asks.
    pub fn take_woken(&mut self) -> Vec<StreamId> {
        std::mem::take(&mut self.wake)
    }

    /// What a stream has to do. What it is given it must send before it asks again.
    pub fn take(&mut self, id: StreamId) -> Work {
        let Some(stream) = self.streams.get_mut(id.0) else {
            return Work::Idle;
        };
        stream.woken = false;
        let history_first = std::mem::replace(&mut stream.history_first, false);
        if history_first && let Some(plan) = self.plan(id) {
            return Work::CatchUp(plan);
        }
        let Some(stream) = self.streams.get_mut(id.0) else {
            return Work::Idle;
        };
        if stream.queue.is_empty() {
            return match self.plan(id) {
                Some(plan) => Work::CatchUp(plan),
                None => Work::Idle,
            };
        }
        stream.history_first = true;
        let count = stream.queue.len().min(TAKE_MAX);
        let mut deliveries = Vec::with_capacity(count);
        for queued in stream.queue.drain(..count) {
            stream.queued_bytes -= queued.bytes;
            self.pending_bytes -= queued.bytes;
            self.pending_events -= queued.events;
            if let Some(watcher) = queued
                .watcher
                .and_then(|number| self.watchers.get_mut(number))
            {
                watcher.queued -= 1;
                if queued.events > 0
                    && let Some(quiet) = stream.notices.get_mut(&watcher.id)
                {
                    *quiet = false;
                }
            }
            deliveries.push(queued.delivery);
        }
        Work::Deliver(deliveries)
    }

    /// The watchers furthest behind whose queued events are all sent.
    fn plan(&self, id: StreamId) -> Option<CatchUp> {
        let stream = self.streams.get(id.0)?;
        let mut readers = BTreeMap::new();
        let mut matcher = Matcher::default();
        let mut from = None;
        for (next, number) in &stream.behind {
            let Some(watcher) = self.watchers.get(*number) else {
                continue;
            };
            if watcher.queued > 0 {
                continue;
            }
            from.get_or_insert(*next);
            matcher.insert(&watcher.span, *number);
            readers.insert(
                *number,
                Reader {
                    next: *next,
                    filters: watcher.filters,
                },
            );
            if readers.len() >= CATCH_UP_WATCHERS {
                break;
            }
        }
        Some(CatchUp {
            stream: id,
            from: from?,
            readers,
            matcher,
        })
    }

    /// Notes that a slice of history is about to be sent, which the caller must do before it asks for
    /// work again. Watchers that have reached what is published are synced from here on.
    pub fn caught_up(&mut self, slice: Slice) -> Vec<Delivery> {
        let Slice {
            plan,
            batch,
            mut places,
            next,
            revision,
        } = slice;
        let mut deliveries = Vec::new();
        for (number, reader) in plan.readers {
            let Some((watcher, stream)) = self.reader(plan.stream, number, &reader) else {
                continue;
            };
            if let Some(places) = places.remove(&number) {
                if let Some(quiet) = stream.notices.get_mut(&watcher.id) {
                    *quiet = false;
                }
                deliveries.push(Delivery::Events {
                    watch_id: watcher.id,
                    revision,
                    batch: Arc::clone(&batch),
                    selection: Selection::Places(places),
                    prev_kv: watcher.prev_kv,
                    fragment: watcher.fragment,
                });
            }
            stream.behind.remove(&(reader.next, number));
            watcher.next = watcher
                .next
                .max(next + i64::from(mutation!("catch-up-skips")));
            let (next, span) = (watcher.next, watcher.span.clone());
            if next > self.published {
                self.set_state(number, State::Synced);
                self.synced.insert(&span, number);
            } else if let Some(stream) = self.streams.get_mut(plan.stream.0) {
                stream.behind.insert((next, number));
            }
        }
        deliveries
    }

    /// History before `compact_revision` is gone: the plan's watchers that need it are dead.
    pub fn compacted(&mut self, plan: CatchUp, compact_revision: i64) -> Vec<Delivery> {
        let mut deliveries = Vec::new();
        for (number, reader) in plan.readers {
            if reader.next >= compact_revision {
                continue;
            }
            let Some((watcher, stream)) = self.reader(plan.stream, number, &reader) else {
                continue;
            };
            let watch_id = watcher.id;
            stream.behind.remove(&(reader.next, number));
            stream.compacted += 1;
            self.set_state(number, State::Compacted);
            deliveries.push(Delivery::Compacted {
                watch_id,
                compact_revision,
            });
        }
        deliveries
    }

    fn set_state(&mut self, number: u32, state: State) {
        if let Some(watcher) = self.watchers.get_mut(number) {
            watcher.state = state;
        }
    }

    /// The watcher a plan speaks of, if it is still where the plan found it.
    fn reader(
        &mut self,
        id: StreamId,
        number: u32,
        reader: &Reader,
    ) -> Option<(&mut Watcher, &mut Stream)> {
        let watcher = self.watchers.get_mut(number)?;
        if watcher.stream != id || watcher.state != State::Behind || watcher.next != reader.next {
            return None;
        }
        Some((watcher, self.streams.get_mut(id.0)?))
    }
}
