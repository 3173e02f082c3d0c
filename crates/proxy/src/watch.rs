//! The Watch service: watchers of the same range share one watch of a member.
//!
//! Which watchers share is decided in `groups`; `upstream` holds the watch of a member, by a stream of `lines`;
//! here is what a client's stream asks for and is told. Every watcher's right to read is asked for when it
//! is made, by a read of its range; what that read says of the revision is where a watcher of the present
//! begins.

mod groups;
mod lines;
mod upstream;

use std::collections::BTreeMap;
use std::sync::Arc;

use ferrite_client::pb::watch_request::RequestUnion;
use ferrite_client::{Client, describe, pb};
use ferrite_metrics::Metrics;
use ferrite_proto::etcdserverpb::watch_server::Watch;
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::call::{self, Caller, SharedKv};
use crate::leader::{Leader, Required, no_leader};
use crate::namespace::Namespace;
use groups::{Groups, Outlet, Receiver};
use lines::Lines;

/// Responses that may wait for one client: the original's number. A client that reads more slowly loses
/// its stream, and goes on with another one from the revision that it knows.
const RESPONSES_MAX: usize = 1024;
/// The ID of a watch that was not made.
const NO_WATCH: i64 = -1;
/// What a client's library says of a call that it ended itself, and the original at the end of a stream.
const ENDED: &str = "context canceled";

/// See the module.
#[derive(Clone)]
pub struct WatchService {
    shared: Arc<Shared>,
}

/// What all streams have in common.
struct Shared {
    lines: Lines,
    /// For questions of rights.
    kv: SharedKv,
    namespace: Namespace,
    leader: Leader,
    groups: Groups,
}

impl WatchService {
    /// Over these members; `kv` is the store as clients see it.
    #[must_use]
    pub fn new(
        client: Client,
        kv: SharedKv,
        namespace: Namespace,
        leader: Leader,
        metrics: Arc<Metrics>,
    ) -> Self {
        WatchService {
            shared: Arc::new(Shared {
                lines: Lines::new(client),
                kv,
                namespace,
                leader,
                groups: Groups::new(metrics),
            }),
        }
    }
}

#[tonic::async_trait]
impl Watch for WatchService {
    type WatchStream = ReceiverStream<Result<pb::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let required = self.shared.leader.require(request.metadata()).await?;
        let caller = Caller::of(request.metadata()).without_timeout();
        let (responses, queued) = mpsc::channel(RESPONSES_MAX);
        let stream = Stream {
            shared: Arc::clone(&self.shared),
            caller,
            outlet: Arc::new(Outlet {
                responses,
                slow: Notify::new(),
            }),
            watchers: BTreeMap::new(),
            next: 0,
        };
        tokio::spawn(stream.run(request.into_inner(), required));
        Ok(Response::new(ReceiverStream::new(queued)))
    }
}

/// One client's stream.
struct Stream {
    shared: Arc<Shared>,
    caller: Caller,
    outlet: Arc<Outlet>,
    /// The range of each watcher, by its ID.
    watchers: BTreeMap<i64, groups::Range>,
    next: i64,
}

impl Stream {
    async fn run(mut self, mut requests: Streaming<pb::WatchRequest>, mut required: Required) {
        let outlet = Arc::clone(&self.outlet);
        let status = loop {
            let asked = tokio::select! {
                asked = requests.message() => asked,
                () = required.lost() => break no_leader(),
                () = outlet.slow.notified() => {
                    tracing::error!(
                        "a client reads its watch stream too slowly, which ends the stream"
                    );
                    break Status::cancelled(ENDED);
                }
                () = outlet.responses.closed() => break Status::cancelled(ENDED),
            };
            match asked.map(|asked| asked.map(|asked| asked.request_union)) {
                Ok(Some(Some(RequestUnion::CreateRequest(create)))) => self.create(create).await,
                Ok(Some(Some(RequestUnion::CancelRequest(cancel)))) => {
                    self.cancel(cancel.watch_id).await;
                }
                Ok(Some(other)) => {
                    let kind = match other {
                        Some(RequestUnion::ProgressRequest(_)) => "progress_request",
                        _ => "none",
                    };
                    tracing::error!(request = kind, "not supported request type by gRPC proxy");
                }
                Ok(None) | Err(_) => break Status::cancelled(ENDED),
            }
        };
        for (id, range) in &self.watchers {
            self.shared.groups.remove(range, *id, &self.outlet);
        }
        // Whoever does not read is not waited for.
        let _full = self.outlet.responses.try_send(Err(status));
    }

    async fn say(&self, response: pb::WatchResponse) {
        let _gone = self.outlet.responses.send(Ok(response)).await;
    }

    async fn refuse(&self, reason: String) {
        self.say(pb::WatchResponse {
            header: Some(pb::ResponseHeader::default()),
            watch_id: NO_WATCH,
            created: true,
            canceled: true,
            cancel_reason: reason,
            ..Default::default()
        })
        .await;
    }

    async fn create(&mut self, create: pb::WatchCreateRequest) {
        if create.start_revision < 0 {
            let reason = "etcdserver: mvcc: required revision has been compacted";
            return self.refuse(reason.to_owned()).await;
        }
        let asked = self.ask(&create).await;
        let header = match asked {
            Ok(answer) => answer.header.unwrap_or_default(),
            Err(status) => return self.refuse(describe(&status)).await,
        };
        let end = &create.range_end;
        if !end.is_empty() && end[..] != *b"\0" && *end <= create.key {
            return self.refuse(String::new()).await;
        }
        let id = match create.watch_id {
            0 => {
                while self.watchers.contains_key(&self.next) {
                    self.next += 1;
                }
                self.next += 1;
                self.next - 1
            }
            wanted if self.watchers.contains_key(&wanted) => {
                let reason = "mvcc: watcher duplicate ID provided on the WatchStream";
                return self.refuse(reason.to_owned()).await;
            }
            wanted => wanted,
        };
        let range: groups::Range = (create.key.clone(), create.range_end.clone());
        tracing::debug!(watch_id = id, "create watcher");
        self.watchers.insert(id, range.clone());
        let receiver = Receiver::new(id, &create, &self.caller, &self.outlet);
        let shared = Arc::clone(&self.shared);
        self.shared
            .groups
            .add(&range, receiver, &header, |broadcast| {
                tokio::spawn(upstream::run(shared, range.clone(), broadcast)).abort_handle()
            });
    }

    /// Whether this caller may read what it wants to watch.
    async fn ask(&self, create: &pb::WatchCreateRequest) -> Result<pb::RangeResponse, Status> {
        let (key, range_end) = match create.key.is_empty() {
            // Without a key it is everything.
            true => ("\0".into(), "\0".into()),
            false => (create.key.clone(), create.range_end.clone()),
        };
        let request = pb::RangeRequest {
            key,
            range_end,
            serializable: true,
            count_only: true,
            limit: 1,
            ..Default::default()
        };
        call::range(&*self.shared.kv, &self.caller, request).await
    }

    async fn cancel(&mut self, id: i64) {
        let Some(range) = self.watchers.remove(&id) else {
            return;
        };
        tracing::debug!(watch_id = id, "cancel watcher");
        let header = self.shared.groups.remove(&range, id, &self.outlet);
        self.say(pb::WatchResponse {
            header,
            watch_id: id,
            canceled: true,
            ..Default::default()
        })
        .await;
    }
}
