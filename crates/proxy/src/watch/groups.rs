//! Which watchers share a watch of a member.
//!
//! Of one range there may be several such watches, each at its own revision: a watcher joins one that has
//! not passed the revision from which it wants to know. Two that have come to the same revision become
//! one. Nothing here waits: a watcher that does not take what it is given loses its stream.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use ferrite_client::pb;
use ferrite_client::pb::watch_create_request::FilterType;
use ferrite_metrics::Metrics;
use ferrite_proto::mvccpb::Event;
use ferrite_proto::mvccpb::event::EventType;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tonic::Status;

use crate::call::Caller;

/// A range as clients name it.
pub type Range = (Bytes, Bytes);

/// Where responses for one client's stream go.
#[derive(Debug)]
pub struct Outlet {
    /// To the client.
    pub responses: mpsc::Sender<Result<pb::WatchResponse, Status>>,
    /// It does not read.
    pub slow: Notify,
}

/// One watcher of a client.
#[derive(Debug)]
pub struct Receiver {
    id: i64,
    /// From which revision on it wants to know; 0 before that is settled.
    next: i64,
    progress: bool,
    prev_kv: bool,
    no_put: bool,
    no_delete: bool,
    caller: Caller,
    outlet: Arc<Outlet>,
    header: Option<pb::ResponseHeader>,
}

impl Receiver {
    /// Of a request.
    pub fn new(
        id: i64,
        create: &pb::WatchCreateRequest,
        caller: &Caller,
        outlet: &Arc<Outlet>,
    ) -> Self {
        let filters = |wanted: FilterType| create.filters.contains(&(wanted as i32));
        Receiver {
            id,
            next: create.start_revision,
            progress: create.progress_notify,
            prev_kv: create.prev_kv,
            no_put: filters(FilterType::Noput),
            no_delete: filters(FilterType::Nodelete),
            caller: caller.clone(),
            outlet: Arc::clone(outlet),
            header: None,
        }
    }

    fn is(&self, id: i64, outlet: &Arc<Outlet>) -> bool {
        self.id == id && Arc::ptr_eq(&self.outlet, outlet)
    }

    fn wants(&self, event: &Event) -> bool {
        let deleted = event.r#type == EventType::Delete as i32;
        !(deleted && self.no_delete || !deleted && self.no_put)
    }

    /// Hands on what concerns this watcher; `false` if it can take no more.
    fn send(&mut self, response: &pb::WatchResponse) -> bool {
        let progress = is_progress(response);
        if progress && !self.progress {
            return true;
        }
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if self.next == 0 {
            // What the member says when it makes the watch is where the present begins.
            self.next = revision + 1;
        }
        let mut events = Vec::new();
        let mut last = 0;
        for event in &response.events {
            let modified = event.kv.as_ref().map_or(0, |pair| pair.mod_revision);
            if modified < self.next {
                continue;
            }
            last = modified;
            if self.wants(event) {
                let mut event = event.clone();
                if !self.prev_kv {
                    event.prev_kv = None;
                }
                events.push(event);
            }
        }
        // A transaction's events have one revision: none of them may be left out.
        self.next = self.next.max(last + 1);
        let says_something =
            progress || response.created || response.canceled || response.compact_revision != 0;
        if events.is_empty() && !says_something {
            return true;
        }
        self.header.clone_from(&response.header);
        self.post(pb::WatchResponse {
            header: response.header,
            watch_id: self.id,
            created: response.created,
            canceled: response.canceled,
            compact_revision: response.compact_revision,
            cancel_reason: response.cancel_reason.clone(),
            fragment: false,
            events,
        })
    }

    fn post(&self, response: pb::WatchResponse) -> bool {
        match self.outlet.responses.try_send(Ok(response)) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.outlet.slow.notify_one();
                false
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }
}

/// A response that only tells how far the watch has come.
pub fn is_progress(response: &pb::WatchResponse) -> bool {
    response.events.is_empty()
        && !response.created
        && !response.canceled
        && response.compact_revision == 0
}

/// One watch of a member and those who share it.
struct Broadcast {
    number: u64,
    /// The revision that is expected next; 0 before the present is known.
    next: i64,
    /// The member has made the watch.
    started: bool,
    /// What the member said last.
    header: pb::ResponseHeader,
    receivers: Vec<Receiver>,
    task: Option<AbortHandle>,
}

impl Drop for Broadcast {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Which broadcast a task works for.
pub type Number = u64;

#[derive(Default)]
struct Table {
    ranges: HashMap<Range, Vec<Broadcast>>,
    numbers: Number,
}

impl Table {
    fn find(&mut self, range: &Range, number: Number) -> Option<&mut Broadcast> {
        let all = self.ranges.get_mut(range)?;
        all.iter_mut().find(|one| one.number == number)
    }

    fn drop_empty(&mut self, range: &Range) {
        if let Some(all) = self.ranges.get_mut(range) {
            all.retain(|one| !one.receivers.is_empty());
            if all.is_empty() {
                self.ranges.remove(range);
            }
        }
    }
}

/// All watchers of the proxy.
pub struct Groups {
    table: Mutex<Table>,
    metrics: Arc<Metrics>,
}

impl Groups {
    /// None yet.
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Groups {
            table: Mutex::default(),
            metrics,
        }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a watcher. `header` is what a member said a moment ago; `start` begins a watch of a member where
    /// no other fits.
    pub fn add(
        &self,
        range: &Range,
        mut receiver: Receiver,
        header: &pb::ResponseHeader,
        start: impl FnOnce(Number) -> AbortHandle,
    ) {
        let mut table = self.table();
        let all = table.ranges.entry(range.clone()).or_default();
        let fitting = all.iter_mut().filter(|one| match receiver.next {
            // Of the present: what the member of this watch says is at least as new as any.
            0 => one.started || one.next == 0,
            next => one.next != 0 && one.next <= next,
        });
        if let Some(one) = fitting.max_by_key(|one| one.next) {
            if one.started {
                let newest = header.revision.max(one.next - 1);
                if receiver.next == 0 {
                    receiver.next = newest + 1;
                }
                let mut header = if one.header.revision >= header.revision {
                    one.header
                } else {
                    *header
                };
                header.revision = header.revision.max(newest);
                receiver.header = Some(header);
                let created = pb::WatchResponse {
                    header: Some(header),
                    watch_id: receiver.id,
                    created: true,
                    ..Default::default()
                };
                if !receiver.post(created) {
                    return;
                }
            }
            one.receivers.push(receiver);
            self.metrics.watchers_coalescing.add(1);
            return;
        }
        let number = table.numbers;
        table.numbers += 1;
        let broadcast = Broadcast {
            number,
            next: receiver.next,
            started: false,
            header: pb::ResponseHeader::default(),
            receivers: vec![receiver],
            task: Some(start(number)),
        };
        if let Some(all) = table.ranges.get_mut(range) {
            all.push(broadcast);
        }
    }

    /// Removes a watcher; what it was told last comes back.
    pub fn remove(
        &self,
        range: &Range,
        id: i64,
        outlet: &Arc<Outlet>,
    ) -> Option<pb::ResponseHeader> {
        let mut table = self.table();
        let mut header = None;
        for one in table.ranges.get_mut(range)? {
            let before = one.receivers.len();
            one.receivers.retain_mut(|receiver| {
                let found = receiver.is(id, outlet);
                if found {
                    header = receiver.header;
                }
                !found
            });
            self.left(before, one.receivers.len());
        }
        table.drop_empty(range);
        header
    }

    /// So many watchers of one watch were, so many are: all but the first share.
    fn left(&self, before: usize, now: usize) {
        let sharing = |count: usize| i64::try_from(count.saturating_sub(1)).unwrap_or(i64::MAX);
        let change = sharing(now) - sharing(before);
        if change != 0 {
            self.metrics.watchers_coalescing.add(change);
        }
    }

    /// From which revision on a watch of a member begins; 0 for the present.
    pub fn start(&self, range: &Range, number: Number) -> i64 {
        let mut table = self.table();
        table.find(range, number).map_or(0, |one| one.next)
    }

    /// In whose name a watch of a member is opened.
    pub fn caller(&self, range: &Range, number: Number) -> Option<Caller> {
        let mut table = self.table();
        let one = table.find(range, number)?;
        one.receivers.first().map(|first| first.caller.clone())
    }

    /// Hands a member's response to all who share the watch. `next` is the revision that comes after it.
    pub fn deliver(&self, range: &Range, number: Number, response: &pb::WatchResponse, next: i64) {
        let mut table = self.table();
        let Some(one) = table.find(range, number) else {
            return;
        };
        one.started = true;
        one.next = next;
        if let Some(header) = response.header {
            one.header = header;
        }
        let before = one.receivers.len();
        if let Some(more) = before.checked_sub(1) {
            self.metrics.events_coalescing.add(more as u64);
        }
        one.receivers.retain_mut(|receiver| receiver.send(response));
        self.left(before, one.receivers.len());
        if response.canceled {
            self.left(one.receivers.len(), 0);
            one.receivers.clear();
        }
        self.merge(&mut table, range, number);
        table.drop_empty(range);
    }

    /// What a member refuses to this caller: those who are the same caller hear of it.
    pub fn refuse(&self, range: &Range, number: Number, caller: &Caller, reason: &str) {
        let mut table = self.table();
        let Some(one) = table.find(range, number) else {
            return;
        };
        let before = one.receivers.len();
        let created = !one.started;
        one.receivers.retain(|receiver| {
            if receiver.caller.token() != caller.token() {
                return true;
            }
            receiver.post(pb::WatchResponse {
                header: Some(pb::ResponseHeader::default()),
                watch_id: receiver.id,
                created,
                canceled: true,
                cancel_reason: reason.to_owned(),
                ..Default::default()
            });
            false
        });
        self.left(before, one.receivers.len());
        table.drop_empty(range);
    }

    /// Two watches of one range that expect the same revision become one.
    fn merge(&self, table: &mut Table, range: &Range, number: Number) {
        let Some(all) = table.ranges.get_mut(range) else {
            return;
        };
        let Some(at) = all.iter().position(|one| one.number == number) else {
            return;
        };
        let next = all[at].next;
        let twin = |(index, one): (usize, &Broadcast)| {
            (index != at && one.started && one.next == next).then_some(index)
        };
        let Some(other) = all.iter().enumerate().find_map(twin) else {
            return;
        };
        let moved = std::mem::take(&mut all[at].receivers);
        let (here, there) = (moved.len(), all[other].receivers.len());
        for mut receiver in moved {
            // All that is older was delivered.
            receiver.next = receiver.next.max(next);
            all[other].receivers.push(receiver);
        }
        self.left(here, 0);
        self.left(there, here + there);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrite_proto::mvccpb::KeyValue;

    struct Client {
        outlet: Arc<Outlet>,
        responses: mpsc::Receiver<Result<pb::WatchResponse, Status>>,
    }

    impl Client {
        fn new() -> Self {
            let (responses, queued) = mpsc::channel(4);
            Client {
                outlet: Arc::new(Outlet {
                    responses,
                    slow: Notify::new(),
                }),
                responses: queued,
            }
        }

        fn receiver(&self, id: i64, start_revision: i64) -> Receiver {
            let create = pb::WatchCreateRequest {
                start_revision,
                ..Default::default()
            };
            Receiver::new(id, &create, &Caller::default(), &self.outlet)
        }

        /// Each response as `created@revision` or its events' revisions.
        fn heard(&mut self) -> Vec<String> {
            let mut heard = Vec::new();
            while let Ok(Ok(response)) = self.responses.try_recv() {
                let revision = response.header.expect("a header").revision;
                let events = response.events.iter();
                let events: Vec<String> = events
                    .map(|event| event.kv.as_ref().expect("a pair").mod_revision.to_string())
                    .collect();
                heard.push(match response.created {
                    true => format!("created@{revision}"),
                    false => events.join(","),
                });
            }
            heard
        }
    }

    fn header(revision: i64) -> pb::ResponseHeader {
        pb::ResponseHeader {
            revision,
            ..Default::default()
        }
    }

    fn created(revision: i64) -> pb::WatchResponse {
        pb::WatchResponse {
            header: Some(header(revision)),
            created: true,
            ..Default::default()
        }
    }

    fn events(revisions: &[i64]) -> pb::WatchResponse {
        let events = revisions.iter().map(|revision| Event {
            kv: Some(KeyValue {
                mod_revision: *revision,
                ..Default::default()
            }),
            ..Default::default()
        });
        pb::WatchResponse {
            header: Some(header(*revisions.last().expect("some"))),
            events: events.collect(),
            ..Default::default()
        }
    }

    fn range() -> Range {
        ("a".into(), Bytes::new())
    }

    /// A table, and a way to add to it that says whether a watch of a member was begun.
    fn table() -> (Groups, tokio::runtime::Runtime) {
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let metrics = Arc::new(Metrics::default());
        (Groups::new(metrics), runtime.expect("a runtime"))
    }

    fn add(
        groups: &Groups,
        runtime: &tokio::runtime::Runtime,
        receiver: Receiver,
        revision: i64,
    ) -> bool {
        let mut begun = false;
        groups.add(&range(), receiver, &header(revision), |_| {
            begun = true;
            runtime.spawn(async {}).abort_handle()
        });
        begun
    }

    fn sharing(groups: &Groups) -> i64 {
        groups.metrics.watchers_coalescing.get()
    }

    #[test]
    fn watchers_of_the_present_share_from_the_first_on() {
        let (groups, runtime) = table();
        let (mut a, mut b, mut c) = (Client::new(), Client::new(), Client::new());
        assert!(add(&groups, &runtime, a.receiver(0, 0), 5));
        assert!(!add(&groups, &runtime, b.receiver(0, 0), 5));
        groups.deliver(&range(), 0, &created(7), 8);
        // One who has seen 9 elsewhere is not told of 8 and 9.
        assert!(!add(&groups, &runtime, c.receiver(3, 0), 9));
        assert_eq!(sharing(&groups), 2);
        for revision in [8, 9, 10] {
            groups.deliver(&range(), 0, &events(&[revision]), revision + 1);
        }
        assert_eq!(a.heard(), ["created@7", "8", "9", "10"]);
        assert_eq!(b.heard(), ["created@7", "8", "9", "10"]);
        assert_eq!(c.heard(), ["created@9", "10"]);
        groups.remove(&range(), 0, &a.outlet);
        groups.remove(&range(), 3, &c.outlet);
        assert_eq!(sharing(&groups), 0);
        groups.remove(&range(), 0, &b.outlet);
        assert!(groups.table().ranges.is_empty());
    }

    #[test]
    fn who_wants_the_past_catches_up_alone_and_then_shares() {
        let (groups, runtime) = table();
        let (mut live, mut late) = (Client::new(), Client::new());
        assert!(add(&groups, &runtime, live.receiver(0, 0), 9));
        groups.deliver(&range(), 0, &created(9), 10);
        assert!(add(&groups, &runtime, late.receiver(0, 4), 9));
        groups.deliver(&range(), 1, &created(9), 4);
        groups.deliver(&range(), 1, &events(&[4, 6]), 7);
        assert_eq!(sharing(&groups), 0);
        // Both have come to 12: one watch is enough from here on.
        groups.deliver(&range(), 0, &events(&[12, 12]), 13);
        groups.deliver(&range(), 1, &events(&[12, 12]), 13);
        assert_eq!(sharing(&groups), 1);
        assert_eq!(groups.table().ranges[&range()].len(), 1);
        groups.deliver(&range(), 1, &events(&[13]), 14);
        groups.deliver(&range(), 0, &events(&[13]), 14);
        assert_eq!(live.heard(), ["created@9", "12,12", "13"]);
        assert_eq!(late.heard(), ["created@9", "4,6", "12,12", "13"]);
        // From what the shared watch has not reached yet one can join.
        let mut next = Client::new();
        assert!(!add(&groups, &runtime, next.receiver(0, 15), 13));
        groups.deliver(&range(), 0, &events(&[14]), 15);
        groups.deliver(&range(), 0, &events(&[15]), 16);
        assert_eq!(next.heard(), ["created@13", "15"]);
    }

    #[test]
    fn who_does_not_read_loses_the_stream_and_nobody_else_does() {
        let (groups, runtime) = table();
        let (slow, mut quick) = (Client::new(), Client::new());
        add(&groups, &runtime, slow.receiver(0, 0), 1);
        add(&groups, &runtime, quick.receiver(0, 0), 1);
        groups.deliver(&range(), 0, &created(1), 2);
        for revision in 2..20 {
            groups.deliver(&range(), 0, &events(&[revision]), revision + 1);
            assert_eq!(quick.heard().last(), Some(&revision.to_string()));
        }
        assert!(runtime.block_on(is_ready(slow.outlet.slow.notified())));
        assert_eq!(sharing(&groups), 0);
    }

    /// Whether a future is ready at once.
    async fn is_ready(future: impl Future<Output = ()>) -> bool {
        let mut future = std::pin::pin!(future);
        std::future::poll_fn(|cx| std::task::Poll::Ready(future.as_mut().poll(cx).is_ready())).await
    }
}
