//! Watches that outlive their streams. All watches of a [`Watcher`] share one stream; where it breaks,
//! another is opened, and each watch goes on right behind what it has delivered: nothing is missed,
//! nothing comes twice. It ends a watch only when a server does, or when no other stream would help.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use ferrite_proto::etcdserverpb::watch_request::RequestUnion;
use ferrite_proto::etcdserverpb::{
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::{Code, Request, Status, Streaming};

use crate::{Client, describe};

/// The first pause before another stream; it grows up to the longest.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// Requests on their way to the server: one creation at a time, the rest are questions for progress.
const REQUESTS_MAX: usize = 256;
/// An ID that stands for all watches, or for one that was not made.
const NO_WATCH: i64 = -1;

/// What became of a watch.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent {
    /// The server has it.
    Created,
    /// Events, progress, or the news that its revisions are compacted.
    Response(WatchResponse),
    /// It could not be made, or the stream is lost; the text is worded as etcd's clients do.
    Failed(String),
    /// Nothing more will come.
    Closed,
}

/// Several watches over one stream.
pub struct Watcher {
    client: Client,
    require_leader: bool,
    stream: Option<Stream>,
    watches: BTreeMap<u64, Watch>,
    next: u64,
    ready: VecDeque<(u64, WatchEvent)>,
    /// When another stream may be opened.
    not_before: Option<Instant>,
    pause: Duration,
}

struct Watch {
    /// How to make it, from where it stands now.
    create: WatchCreateRequest,
    created: bool,
}

struct Stream {
    requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
    /// The server answers creations in order; one is under way at a time.
    creating: Option<u64>,
    waiting: VecDeque<u64>,
    /// Watches by the server's ID.
    made: BTreeMap<i64, u64>,
}

impl std::fmt::Debug for Watcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watcher")
            .field("watches", &self.watches.len())
            .finish_non_exhaustive()
    }
}

fn create(request: &WatchCreateRequest) -> WatchRequest {
    WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(request.clone())),
    }
}

/// Whether no other stream would fare better.
fn is_final(status: &Status) -> bool {
    // What has a source was never said by a server.
    let broken = std::error::Error::source(status).is_some();
    let passing = matches!(status.code(), Code::Unavailable | Code::Internal);
    status.message() == "etcdserver: no leader" || !(broken || passing)
}

/// A response that only tells how far the watch has come.
fn is_progress(r: &WatchResponse) -> bool {
    let revision = r.header.as_ref().map_or(0, |h| h.revision);
    r.events.is_empty() && !r.canceled && !r.created && r.compact_revision == 0 && revision != 0
}

impl Watcher {
    /// A watcher without watches. `require_leader` ends its watches when their member loses the leader.
    #[must_use]
    pub fn new(client: Client, require_leader: bool) -> Self {
        Self {
            client,
            require_leader,
            stream: None,
            watches: BTreeMap::new(),
            next: 0,
            ready: VecDeque::new(),
            not_before: None,
            pause: PAUSE_MIN,
        }
    }

    /// Adds a watch. Its events come from [`Watcher::next`], with the number returned here.
    pub fn add(&mut self, create: WatchCreateRequest) -> u64 {
        let id = self.next;
        self.next += 1;
        let watch = Watch {
            create,
            created: false,
        };
        self.watches.insert(id, watch);
        if let Some(stream) = &mut self.stream {
            stream.waiting.push_back(id);
        }
        self.create_next();
        id
    }

    /// Asks how far all watches have come. Without a stream there is nobody to ask, and nothing comes.
    pub fn ask_progress(&mut self) {
        self.send(WatchRequest {
            request_union: Some(RequestUnion::ProgressRequest(WatchProgressRequest {})),
        });
    }

    /// What happens next, and to which watch. Waits for ever while there is no watch. Dropping the
    /// future loses nothing.
    pub async fn next(&mut self) -> (u64, WatchEvent) {
        loop {
            if let Some(ready) = self.ready.pop_front() {
                return ready;
            }
            if self.watches.is_empty() {
                self.stream = None;
                return std::future::pending().await;
            }
            if let Some(at) = self.not_before {
                tokio::time::sleep_until(at).await;
                self.not_before = None;
            }
            let result = match &mut self.stream {
                None => match self.open().await {
                    Ok(stream) => {
                        self.stream = Some(stream);
                        continue;
                    }
                    Err(status) => Err(status),
                },
                Some(stream) => stream.answers.message().await,
            };
            match result {
                Ok(Some(response)) => self.take(response),
                Ok(None) => self.broken(&Status::unavailable("the server ended the stream")),
                Err(status) => self.broken(&status),
            }
        }
    }

    /// Opens a stream that makes every watch, from where each stands.
    async fn open(&self) -> Result<Stream, Status> {
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let mut waiting: VecDeque<u64> = self.watches.keys().copied().collect();
        let creating = waiting.pop_front();
        if let Some(watch) = creating.and_then(|id| self.watches.get(&id)) {
            // There is room: nothing has been sent yet.
            let _ = requests.try_send(create(&watch.create));
        }
        let mut request = Request::new(ReceiverStream::new(receiver));
        if self.require_leader {
            let value = MetadataValue::from_static("true");
            request.metadata_mut().insert("hasleader", value);
        }
        let answers = self.client.watch().watch(request).await?.into_inner();
        Ok(Stream {
            requests,
            answers,
            creating,
            waiting,
            made: BTreeMap::new(),
        })
    }

    fn send(&mut self, request: WatchRequest) {
        // A stream that takes no more requests is broken, and its answers will say so.
        if let Some(stream) = &self.stream {
            let _ = stream.requests.try_send(request);
        }
    }

    /// Sends the next creation if none is under way.
    fn create_next(&mut self) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        if stream.creating.is_some() {
            return;
        }
        stream.creating = stream.waiting.pop_front();
        let watch = stream.creating.and_then(|id| self.watches.get(&id));
        if let Some(request) = watch.map(|w| create(&w.create)) {
            self.send(request);
        }
    }

    fn end(&mut self, id: u64, why: Option<String>) {
        self.watches.remove(&id);
        self.ready
            .extend(why.map(|why| (id, WatchEvent::Failed(why))));
        self.ready.push_back((id, WatchEvent::Closed));
    }

    fn take(&mut self, response: WatchResponse) {
        self.pause = PAUSE_MIN;
        if response.created {
            self.created(&response);
            self.create_next();
            return;
        }
        let Some(stream) = &mut self.stream else {
            return;
        };
        if is_progress(&response) && response.watch_id == NO_WATCH {
            let all: Vec<u64> = stream.made.values().copied().collect();
            for id in all {
                self.deliver(id, response.clone());
            }
            return;
        }
        let Some(&id) = stream.made.get(&response.watch_id) else {
            return;
        };
        if response.canceled {
            stream.made.remove(&response.watch_id);
        }
        if response.canceled && response.compact_revision == 0 {
            self.end(id, None);
        } else {
            self.deliver(id, response);
        }
    }

    fn created(&mut self, response: &WatchResponse) {
        let Some(stream) = &mut self.stream else {
            return;
        };
        let Some(id) = stream.creating.take() else {
            return;
        };
        let refused = response.canceled && !response.cancel_reason.is_empty();
        if response.watch_id == NO_WATCH || refused {
            self.end(id, Some(response.cancel_reason.clone()));
            return;
        }
        stream.made.insert(response.watch_id, id);
        let Some(watch) = self.watches.get_mut(&id) else {
            return;
        };
        if watch.create.start_revision == 0 {
            // From here on it is a watch from a revision: what happens while no stream stands counts.
            let now = response.header.as_ref().map_or(0, |h| h.revision);
            watch.create.start_revision = now + 1;
        }
        if !std::mem::replace(&mut watch.created, true) {
            self.ready.push_back((id, WatchEvent::Created));
        }
    }

    fn deliver(&mut self, id: u64, response: WatchResponse) {
        let last = response.events.last().and_then(|e| e.kv.as_ref());
        let seen = match (last, &response.header) {
            (Some(kv), _) => kv.mod_revision,
            (None, Some(header)) => header.revision,
            (None, None) => 0,
        };
        if let Some(watch) = self.watches.get_mut(&id) {
            watch.create.start_revision = watch.create.start_revision.max(seen + 1);
        }
        let compacted = response.compact_revision != 0;
        self.ready.push_back((id, WatchEvent::Response(response)));
        if compacted {
            self.end(id, None);
        }
    }

    fn broken(&mut self, status: &Status) {
        self.stream = None;
        if is_final(status) {
            let why = describe(status);
            for id in self.watches.keys().copied().collect::<Vec<_>>() {
                self.end(id, Some(why.clone()));
            }
            return;
        }
        self.not_before = Some(Instant::now() + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}
