//! Calls that are traced: each is the call of the service underneath, within a span that has the
//! original's name and attributes. Calls that are not traced never come here.

use std::pin::Pin;
use std::task::{Context, Poll};

use ferrite_mvcc::kv::is_txn_readonly;
use ferrite_proto::etcdserverpb::kv_server::Kv;
use ferrite_proto::etcdserverpb::lease_server::Lease;
use ferrite_proto::etcdserverpb::request_op::Request as Op;
use ferrite_proto::etcdserverpb::watch_request::RequestUnion;
use ferrite_proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse,
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp,
    TxnRequest, TxnResponse, WatchRequest, WatchResponse,
};
use ferrite_proto::opentelemetry_proto_collector_trace_v1::KeyValue;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::kv::KvService;
use super::lease::LeaseService;
use super::range_stream::Pieces;
use crate::spans::{Span, SpanContext, bytes, flag, length, number, text};

/// A service, traced.
#[derive(Clone)]
pub struct Traced<S>(pub S);

fn step<T>(
    request: &Request<T>,
    name: &str,
    attributes: impl FnOnce(&T) -> Vec<KeyValue>,
) -> Option<Span> {
    let parent = request.extensions().get::<SpanContext>()?;
    parent.child(name, attributes(request.get_ref()))
}

/// The call, in its span if it has one.
async fn within<T>(
    span: Option<Span>,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match span {
        Some(span) => span.around(call).await,
        None => call.await,
    }
}

/// Pieces of a range; the span ends with them.
pub struct TracedPieces {
    pieces: Pieces,
    span: Option<Span>,
}

impl Stream for TracedPieces {
    type Item = <Pieces as Stream>::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let piece = Pin::new(&mut self.pieces).poll_next(cx);
        match &piece {
            Poll::Ready(None) => self.span = None,
            Poll::Ready(Some(Err(status))) => {
                if let Some(span) = &mut self.span {
                    span.failed(status.message());
                }
            }
            Poll::Ready(Some(Ok(_))) | Poll::Pending => {}
        }
        piece
    }
}

fn range_attributes(request: &RangeRequest) -> Vec<KeyValue> {
    vec![
        bytes("range_begin", &request.key),
        bytes("range_end", &request.range_end),
        number("rev", request.revision),
        number("limit", request.limit),
        flag("count_only", request.count_only),
    ]
}

fn key_of(operation: &RequestOp) -> &[u8] {
    match &operation.request {
        Some(Op::RequestPut(put)) => &put.key,
        Some(Op::RequestRange(range)) => &range.key,
        Some(Op::RequestDeleteRange(delete)) => &delete.key,
        Some(Op::RequestTxn(_)) | None => &[],
    }
}

fn kind_of(operation: &RequestOp) -> Option<&'static str> {
    Some(match operation.request.as_ref()? {
        Op::RequestPut(_) => "put",
        Op::RequestRange(_) => "range",
        Op::RequestDeleteRange(_) => "delete_range",
        Op::RequestTxn(_) => "txn",
    })
}

fn txn_attributes(request: &TxnRequest) -> Vec<KeyValue> {
    let compared = request.compare.iter().map(|compare| &compare.key[..]);
    let touched = request.success.iter().map(key_of);
    let lease = request
        .success
        .iter()
        .find_map(|operation| match &operation.request {
            Some(Op::RequestPut(put)) => Some(put.lease),
            _ => None,
        });
    let first = |mut keys: Box<dyn Iterator<Item = &[u8]> + '_>| {
        keys.find(|key| !key.is_empty())
            .map(<[u8]>::to_vec)
            .unwrap_or_default()
    };
    vec![
        bytes("compare_first_key", &first(Box::new(compared))),
        bytes("success_first_key", &first(Box::new(touched))),
        text(
            "success_first_type",
            request.success.iter().find_map(kind_of).unwrap_or_default(),
        ),
        number("success_first_lease", lease.unwrap_or(-1)),
        length("compare_len", request.compare.len()),
        length("success_len", request.success.len()),
        length("failure_len", request.failure.len()),
        flag("read_only", is_txn_readonly(request)),
    ]
}

#[tonic::async_trait]
impl Kv for Traced<KvService> {
    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        let span = step(&request, "range", |request| {
            let mut attributes = range_attributes(request);
            attributes.push(flag("keys_only", request.keys_only));
            attributes
        });
        within(span, self.0.range(request)).await
    }

    type RangeStreamStream = TracedPieces;

    async fn range_stream(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let span = step(&request, "range_streaming", range_attributes);
        let answer = self.0.range_stream(request).await;
        answer.map(|answer| answer.map(|pieces| TracedPieces { pieces, span }))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let span = step(&request, "put", |request| vec![bytes("key", &request.key)]);
        within(span, self.0.put(request)).await
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let span = step(&request, "delete_range", |request| {
            vec![
                bytes("range_begin", &request.key),
                bytes("range_end", &request.range_end),
            ]
        });
        within(span, self.0.delete_range(request)).await
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let span = step(&request, "txn", txn_attributes);
        within(span, self.0.txn(request)).await
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let span = step(&request, "compact", |request| {
            vec![
                flag("is_physical", request.physical),
                number("rev", request.revision),
            ]
        });
        within(span, self.0.compact(request)).await
    }
}

#[tonic::async_trait]
impl Lease for Traced<LeaseService> {
    async fn lease_grant(
        &self,
        mut request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        // The span shows the ID, so that it is chosen here.
        let id = &mut request.get_mut().id;
        if *id == 0 {
            *id = self.0.new_id();
        }
        let span = step(&request, "lease_grant", |request| {
            vec![number("id", request.id), number("ttl", request.ttl)]
        });
        within(span, self.0.lease_grant(request)).await
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let span = step(&request, "lease_revoke", |request| {
            vec![number("id", request.id)]
        });
        within(span, self.0.lease_revoke(request)).await
    }

    type LeaseKeepAliveStream = <LeaseService as Lease>::LeaseKeepAliveStream;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        // Each renewal has a span of its own, made where it happens.
        self.0.lease_keep_alive(request).await
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        self.0.lease_time_to_live(request).await
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        self.0.lease_leases(request).await
    }
}

/// The spans of the watchers of one call: each lasts as long as its watcher.
pub struct WatchSpans {
    parent: Option<SpanContext>,
    open: Vec<(i64, Span)>,
}

impl WatchSpans {
    /// Of a call at this place in a trace, if it is in one.
    pub fn new(parent: Option<SpanContext>) -> Self {
        WatchSpans {
            parent,
            open: Vec::new(),
        }
    }

    /// The span of a watcher that is asked for.
    pub fn asked(&self, request: &WatchRequest) -> Option<Span> {
        let parent = self.parent.as_ref()?;
        let Some(RequestUnion::CreateRequest(request)) = &request.request_union else {
            return None;
        };
        // One zero byte is how "from this key on" is sent.
        let end = match &request.range_end[..] {
            [0] => &[],
            end => end,
        };
        parent.child(
            "watch",
            vec![
                bytes("key", &request.key),
                bytes("range_end", end),
                number("start_rev", request.start_revision),
                flag("progress_notify", request.progress_notify),
                flag("prev_kv", request.prev_kv),
                flag("fragment", request.fragment),
            ],
        )
    }

    /// What came of it, or of another request.
    pub fn answered(&mut self, asked: Option<Span>, response: &WatchResponse) {
        if response.canceled {
            self.open.retain(|(id, _)| *id != response.watch_id);
        }
        match asked {
            Some(span) if response.canceled => span.forget(),
            Some(span) => self.open.push((response.watch_id, span)),
            None => {}
        }
    }
}
