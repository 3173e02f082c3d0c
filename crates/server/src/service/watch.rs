//! `etcdserverpb.Watch`: one call carries many watchers.
//!
//! A call is one future that runs only while its client takes what it produces: a client that does
//! not read costs a bounded queue in the hub, and is served from history when it reads again.

use std::future::{Future, poll_fn};
use std::hash::{BuildHasher, RandomState};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use ferrite_node::watch_hub::{WatchError, WatchStream};
use ferrite_proto::etcdserverpb::watch_request::RequestUnion;
use ferrite_proto::etcdserverpb::watch_server::Watch;
use ferrite_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use ferrite_watch::{Create, Delivery, Filters, fragments};
use parking_lot::Mutex;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};
use tokio_stream::Stream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::traced::WatchSpans;
use super::{Context, is_failure, wants_leader};
use crate::auth::Caller;
use crate::errors;

/// The least interval of progress notices.
pub const PROGRESS_INTERVAL_MIN: Duration = Duration::from_millis(100);
/// The ID in a response that is for no watcher, or for all.
const NO_WATCHER: i64 = -1;
/// A response may exceed the limit for requests by this much before it is cut.
const FRAGMENT_OVERHEAD: usize = 512 << 10;

/// The service.
#[derive(Clone)]
pub struct WatchService(pub Context);

/// What the call's future hands over, one response at a time.
type Slot = Arc<Mutex<Option<Result<WatchResponse, Status>>>>;

/// The sending end inside the call's future.
struct Outlet(Slot);

impl Outlet {
    /// Hands a response over and goes on once it is taken.
    async fn send(&self, response: Result<WatchResponse, Status>) {
        *self.0.lock() = Some(response);
        // whoever takes it polls again: there is nobody to wake
        poll_fn(|_| match self.0.lock().is_some() {
            true => Poll::Pending,
            false => Poll::Ready(()),
        })
        .await;
    }
}

/// The responses of one call. Its future runs when the next response is wanted, and not otherwise.
pub struct Responses {
    slot: Slot,
    call: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Stream for Responses {
    type Item = Result<WatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let ended = match &mut self.call {
            Some(call) => call.as_mut().poll(cx).is_ready(),
            None => true,
        };
        if ended {
            self.call = None;
        }
        let item = self.slot.lock().take();
        match item {
            Some(response) => Poll::Ready(Some(response)),
            None if ended => Poll::Ready(None),
            None => Poll::Pending,
        }
    }
}

#[tonic::async_trait]
impl Watch for WatchService {
    type WatchStream = Responses;

    async fn watch(
        &self,
        request: Request<Streaming<WatchRequest>>,
    ) -> Result<Response<Responses>, Status> {
        self.0.capable()?;
        self.0.admit_stream(request.metadata(), false)?;
        let needs_leader = wants_leader(request.metadata());
        let caller = Caller::of(&request);
        let slot = Slot::default();
        let outlet = Outlet(Arc::clone(&slot));
        let service = self.clone();
        let spans = WatchSpans::new(request.extensions().get().cloned());
        let incoming = request.into_inner();
        let call = Box::pin(async move {
            if let Err(status) = service
                .serve(incoming, &caller, &outlet, needs_leader, spans)
                .await
            {
                outlet.send(Err(status)).await;
            }
        });
        Ok(Response::new(Responses {
            slot,
            call: Some(call),
        }))
    }
}

fn every(period: Duration) -> Interval {
    let mut interval = interval_at(Instant::now() + period, period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}

/// An interval lengthened by up to a tenth, so that many streams made at once do not notify at once.
fn with_jitter(interval: Duration) -> Duration {
    // nothing secret: only different for each stream
    let drawn = RandomState::new().hash_one(0u8) % 1_000;
    interval + interval * u32::try_from(drawn).unwrap_or(0) / 10_000
}

/// The status that ends a stream of watchers.
pub fn ended(error: &WatchError) -> Status {
    match error {
        WatchError::Stopped => errors::status(&ferrite_node::Error::Stopped),
        WatchError::Damaged(_) => Status::new(Code::DataLoss, format!("etcdserver: {error}")),
    }
}

impl WatchService {
    async fn serve(
        &self,
        mut incoming: Streaming<WatchRequest>,
        caller: &Caller,
        outlet: &Outlet,
        needs_leader: bool,
        mut spans: WatchSpans,
    ) -> Result<(), Status> {
        let metrics = self.0.node.metrics();
        let mut stream = self.0.node.watch_hub().open();
        let mut progress = every(with_jitter(
            self.0.progress_interval.max(PROGRESS_INTERVAL_MIN),
        ));
        let mut leader_lost = self.0.leader_lost.from_now();
        // a client that has said all it has to say goes on listening
        let mut half_open = true;
        loop {
            tokio::select! {
                request = incoming.message(), if half_open => match request {
                    Ok(Some(request)) => {
                        let span = spans.asked(&request);
                        if let Some(response) = self.request(&stream, caller, request).await {
                            spans.answered(span, &response);
                            let started = Instant::now();
                            outlet.send(Ok(response)).await;
                            metrics.watch_control.observe(started.elapsed());
                        }
                    }
                    Ok(None) => half_open = false,
                    Err(status) if status.code() == Code::Cancelled => return Err(errors::watch_canceled()),
                    Err(status) => {
                        if is_failure(&status) {
                            metrics.stream_failed("receive", "watch");
                        }
                        return Err(status);
                    }
                },
                deliveries = stream.next() => {
                    for delivery in deliveries.map_err(|error| ended(&error))? {
                        let started = Instant::now();
                        let delivered = self.deliver(&stream, delivery, outlet).await;
                        let events = delivered.map_err(|error| ended(&error))?;
                        let took = started.elapsed();
                        metrics.watch_send.observe(took);
                        metrics.watch_send_event.observe(took / events.max(1));
                    }
                }
                _ = progress.tick() => {
                    let started = Instant::now();
                    stream.tick();
                    metrics.watch_progress.observe(started.elapsed());
                }
                () = leader_lost.wait(), if needs_leader => return Err(errors::no_leader()),
            }
        }
    }

    /// Does what a client asks; the response, if there is one.
    async fn request(
        &self,
        stream: &WatchStream,
        caller: &Caller,
        request: WatchRequest,
    ) -> Option<WatchResponse> {
        match request.request_union {
            Some(RequestUnion::CreateRequest(request)) => {
                Some(match self.may_watch(caller, &request).await {
                    Ok(()) => self.create(stream, request),
                    Err(refused) => self.refuse(&refused),
                })
            }
            Some(RequestUnion::CancelRequest(request)) => {
                stream.cancel(request.watch_id).then(|| WatchResponse {
                    header: Some(self.0.header_now()),
                    watch_id: request.watch_id,
                    canceled: true,
                    ..WatchResponse::default()
                })
            }
            Some(RequestUnion::ProgressRequest(_)) => {
                stream.request_progress();
                None
            }
            None => {
                tracing::info!("invalid watch request type <nil> received in gRPC stream");
                None
            }
        }
    }

    /// Judged once: a watcher that exists goes on, whatever becomes of its user.
    async fn may_watch(&self, caller: &Caller, request: &WatchCreateRequest) -> Result<(), Status> {
        // A start revision that cannot be is refused first, by whoever knows revisions.
        if request.start_revision < 0 {
            return Ok(());
        }
        // The smallest key stands for none. The end is judged as it was sent.
        let key: &[u8] = match &request.key[..] {
            [] => &[0],
            key => key,
        };
        let judged = self.0.may_read(caller, |state, who| {
            state.is_range_permitted(who, key, &request.range_end)
        });
        // What is read comes later; there is nothing to hold back now.
        judged.await.map(|_right| ())
    }

    fn refuse(&self, refused: &Status) -> WatchResponse {
        WatchResponse {
            header: Some(self.0.header_now()),
            watch_id: NO_WATCHER,
            created: true,
            canceled: true,
            cancel_reason: errors::watch_refusal(refused),
            ..WatchResponse::default()
        }
    }

    fn create(&self, stream: &WatchStream, request: WatchCreateRequest) -> WatchResponse {
        // copied out of the request: a watcher may live for months
        let (outcome, revision) = stream.create(&Create {
            key: request.key.to_vec(),
            range_end: request.range_end.to_vec(),
            start_revision: request.start_revision,
            watch_id: request.watch_id,
            filters: Filters::from_request(&request.filters),
            prev_kv: request.prev_kv,
            fragment: request.fragment,
            progress_notify: request.progress_notify,
        });
        let (watch_id, reason) = match outcome {
            Ok(id) => (id, None),
            Err(refusal) => (NO_WATCHER, Some(refusal.to_string())),
        };
        WatchResponse {
            header: Some(self.0.header(revision)),
            watch_id,
            created: true,
            canceled: reason.is_some(),
            cancel_reason: reason.unwrap_or_default(),
            ..WatchResponse::default()
        }
    }

    /// Sends it, and says how many events it had.
    ///
    /// # Errors
    /// The stream must end.
    async fn deliver(
        &self,
        stream: &WatchStream,
        delivery: Delivery,
        outlet: &Outlet,
    ) -> Result<u32, WatchError> {
        let response = match delivery {
            Delivery::Events {
                watch_id,
                revision,
                batch,
                selection,
                prev_kv,
                fragment,
            } => {
                let previous = |key: &[u8], revision| stream.previous(key, revision);
                let events = match prev_kv {
                    true => batch.to_proto_with_previous(&selection, &previous)?,
                    false => batch.to_proto(&selection),
                };
                let response = WatchResponse {
                    header: Some(self.0.header(revision)),
                    watch_id,
                    events,
                    ..WatchResponse::default()
                };
                if fragment {
                    let limit = self.0.node.config().max_request_bytes + FRAGMENT_OVERHEAD;
                    let events = self.count(&response);
                    for piece in fragments(response, limit) {
                        outlet.send(Ok(piece)).await;
                    }
                    return Ok(events);
                }
                response
            }
            Delivery::Progress { watch_id, revision } => WatchResponse {
                header: Some(self.0.header(revision)),
                watch_id,
                ..WatchResponse::default()
            },
            Delivery::Compacted {
                watch_id,
                compact_revision,
            } => WatchResponse {
                // as in etcd: no revision, and no reason in words
                header: Some(self.0.header(0)),
                watch_id,
                canceled: true,
                compact_revision,
                ..WatchResponse::default()
            },
        };
        let events = self.count(&response);
        outlet.send(Ok(response)).await;
        Ok(events)
    }

    fn count(&self, response: &WatchResponse) -> u32 {
        let events = response.events.len();
        self.0.node.metrics().events.add(events as u64);
        u32::try_from(events).unwrap_or(u32::MAX)
    }
}
