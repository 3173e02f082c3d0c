//! Calls that a service makes inside the member on behalf of its own caller.
//!
//! Each goes through the service that a client would ask, with the caller's credentials, and nothing
//! goes over a socket. This is the one place where such a call begins. Refusals arrive in the words of
//! that service with code Unknown: in the original a client library stands in between and drops the code.

use std::time::Duration;

use bytes::Bytes;
use ferrite_node::watch_hub::WatchStream;
use ferrite_proto::etcdserverpb::kv_server::Kv as _;
use ferrite_proto::etcdserverpb::lease_server::Lease as _;
use ferrite_proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, LeaseGrantRequest, RangeRequest, RangeResponse,
    TxnRequest, TxnResponse,
};
use ferrite_proto::mvccpb::Event;
use ferrite_watch::{Create, Delivery};
use tokio::sync::mpsc;
use tonic::metadata::MetadataMap;
use tonic::{Code, Extensions, Request, Status};

use super::Context;
use super::kv::KvService;
use super::lease::LeaseService;
use super::watch;
use crate::auth::Caller;
use crate::errors;

/// Seconds of a lease that is made for a caller who names none.
const SESSION_TTL_SECONDS: i64 = 60;
/// Between two questions to a member that cannot answer now.
const ASK_AGAIN_AFTER: Duration = Duration::from_millis(100);

/// A caller, and the member that acts for it.
pub struct Inside {
    context: Context,
    metadata: MetadataMap,
    extensions: Extensions,
}

impl Inside {
    /// Acts for whoever sent this request.
    pub fn of<T>(context: &Context, request: &Request<T>) -> Self {
        let mut metadata = request.metadata().clone();
        // a demand on the call from outside, and met when that began
        metadata.remove("hasleader");
        Inside {
            context: context.clone(),
            metadata,
            extensions: request.extensions().clone(),
        }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        Request::from_parts(self.metadata.clone(), self.extensions.clone(), message)
    }

    /// A range.
    ///
    /// # Errors
    /// The refusal, with code Unknown.
    pub async fn range(&self, range: RangeRequest) -> Result<RangeResponse, Status> {
        let answer = KvService(self.context.clone())
            .range(self.request(range))
            .await;
        Ok(answer.map_err(errors::from_inside)?.into_inner())
    }

    /// A range, asked again for as long as the member cannot confirm that it is up to date: for a
    /// caller that waits anyway, and would lose its place.
    ///
    /// # Errors
    /// The refusal, with code Unknown.
    pub async fn range_in_time(&self, range: RangeRequest) -> Result<RangeResponse, Status> {
        let stopped = errors::status(&ferrite_node::Error::Stopped);
        loop {
            let answer = KvService(self.context.clone())
                .range(self.request(range.clone()))
                .await;
            match answer {
                Err(status)
                    if status.code() == Code::Unavailable
                        && status.message() != stopped.message() =>
                {
                    tokio::time::sleep(ASK_AGAIN_AFTER).await;
                }
                answer => return Ok(answer.map_err(errors::from_inside)?.into_inner()),
            }
        }
    }

    /// A transaction.
    ///
    /// # Errors
    /// The refusal, with code Unknown.
    pub async fn txn(&self, txn: TxnRequest) -> Result<TxnResponse, Status> {
        let answer = KvService(self.context.clone()).txn(self.request(txn)).await;
        Ok(answer.map_err(errors::from_inside)?.into_inner())
    }

    /// Deletes one key.
    ///
    /// # Errors
    /// The refusal, with code Unknown.
    pub async fn delete(&self, key: Bytes) -> Result<DeleteRangeResponse, Status> {
        let delete = DeleteRangeRequest {
            key,
            ..DeleteRangeRequest::default()
        };
        let answer = KvService(self.context.clone())
            .delete_range(self.request(delete))
            .await;
        Ok(answer.map_err(errors::from_inside)?.into_inner())
    }

    /// The caller's lease, or a new one of a minute if it names none. Nobody keeps that alive.
    ///
    /// # Errors
    /// The refusal, with code Unknown.
    pub async fn session(&self, lease: i64) -> Result<i64, Status> {
        if lease != 0 {
            return Ok(lease);
        }
        let grant = LeaseGrantRequest {
            ttl: SESSION_TTL_SECONDS,
            id: 0,
        };
        let answer = LeaseService(self.context.clone())
            .lease_grant(self.request(grant))
            .await;
        Ok(answer.map_err(errors::from_inside)?.into_inner().id)
    }

    /// What happens to a key, or to the keys before `range_end`, from a revision on. Whether the caller may
    /// see it is judged once, as for a client's watch.
    ///
    /// # Errors
    /// The refusal, with code Unknown.
    pub async fn watch(
        &self,
        key: &[u8],
        range_end: &[u8],
        start_revision: i64,
    ) -> Result<Watcher, Status> {
        let caller = Caller::of(&self.request(()));
        let judged = self.context.may_read(&caller, |state, who| {
            state.is_range_permitted(who, key, range_end)
        });
        // What is seen comes later; there is nothing to hold back now.
        let _right = judged.await.map_err(errors::from_inside)?;
        let stream = self.context.node.watch_hub().open();
        // refused are empty ranges and negative revisions only, and neither is asked for
        let (_id, _revision) = stream.create(&Create {
            key: key.to_vec(),
            range_end: range_end.to_vec(),
            start_revision,
            ..Create::default()
        });
        Ok(Watcher { stream })
    }

    /// A header with this revision.
    pub fn header(&self, revision: i64) -> ferrite_proto::etcdserverpb::ResponseHeader {
        self.context.header(revision)
    }
}

/// Events as they come.
pub struct Watcher {
    stream: WatchStream,
}

/// What a watcher hears next.
pub enum Heard {
    /// Events, and the revision of the response that a client would get them in.
    Events(i64, Vec<Event>),
    /// Its start is compacted: it hears nothing any more.
    Compacted,
}

impl Watcher {
    /// Waits for events.
    ///
    /// # Errors
    /// The member is stopping, or its history is damaged.
    pub async fn next(&mut self) -> Result<Vec<Heard>, Status> {
        let deliveries = self.stream.next().await;
        let deliveries = deliveries.map_err(|error| errors::from_inside(watch::ended(&error)))?;
        Ok(deliveries
            .into_iter()
            .filter_map(|delivery| match delivery {
                Delivery::Events {
                    revision,
                    batch,
                    selection,
                    ..
                } => Some(Heard::Events(revision, batch.to_proto(&selection))),
                Delivery::Compacted { .. } => Some(Heard::Compacted),
                Delivery::Progress { .. } => None,
            })
            .collect())
    }
}

/// Tells when the caller has gone away.
pub struct Gone(mpsc::Receiver<std::convert::Infallible>);

impl Gone {
    /// Returns once the caller has gone away.
    pub async fn wait(&mut self) {
        if let Some(never) = self.0.recv().await {
            match never {}
        }
    }
}

/// Runs `work` to its end even if the caller goes away meanwhile, so that it can clean up after itself.
///
/// # Errors
/// Those of `work`.
pub async fn to_the_end<T, F>(work: impl FnOnce(Gone) -> F) -> Result<T, Status>
where
    T: Send + 'static,
    F: Future<Output = Result<T, Status>> + Send + 'static,
{
    let (here, gone) = mpsc::channel(1);
    let ended = tokio::spawn(work(Gone(gone))).await;
    drop(here);
    ended.unwrap_or_else(|_| Err(Status::internal("the call failed")))
}
