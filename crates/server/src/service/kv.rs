//! `etcdserverpb.KV`.

use std::time::Instant;

use ferrite_apply::Response as Applied;
use ferrite_auth::Checker;
use ferrite_metrics::Operation;
use ferrite_mvcc::kv;
use ferrite_node::slow;
use ferrite_proto::etcdserverpb::kv_server::Kv;
use ferrite_proto::etcdserverpb::response_op::Response as OpResponse;
use ferrite_proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse,
    InternalRaftRequest, PutRequest, PutResponse, RangeRequest, RangeResponse, TxnRequest,
    TxnResponse,
};
use ferrite_proto::loggable;
use prost::Message as _;
use tonic::{Request, Response, Status};

use super::access::ReadRight;
use super::range_stream::Pieces;
use super::stats::Call;
use super::{Context, answer, compresses, mismatched, slices, wants_leader};
use crate::auth::Caller;
use crate::errors;
use crate::metrics::Reading;

/// The service.
#[derive(Clone)]
pub struct KvService(pub Context);

impl KvService {
    async fn linearizable(&self) -> Result<(), Status> {
        self.0
            .node
            .linearizable()
            .await
            .map_err(|error| errors::status(&error))
    }

    /// Waits until a range may be read here, and judges who may read it.
    async fn begin_range(
        &self,
        caller: &Caller,
        request: &RangeRequest,
    ) -> Result<ReadRight, Status> {
        if !request.serializable {
            self.linearizable().await?;
        }
        self.0
            .may_read(caller, |state, who| {
                state.is_range_permitted(who, &request.key, &request.range_end)
            })
            .await
    }

    async fn answer_range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        self.0.capable()?;
        self.0
            .admit(request.metadata(), request.get_ref().serializable)?;
        let caller = Caller::of(&request);
        let compressed = compresses(request.metadata());
        let request = request.into_inner();
        kv::check_range(&request).map_err(|error| errors::request(&error))?;
        let started = Instant::now();
        let found = self.find(&caller, &request).await;
        self.warn_if_slow(started, &found, "read-only range ", || {
            let found = found.as_ref().ok().map(|found| {
                let (count, size) = (found.kvs.len(), found.encoded_len());
                format!("range_response_count:{count} size:{size}")
            });
            (loggable::range(&request), found.unwrap_or_default())
        });
        let mut response = found?;
        response.header = self.0.complete(response.header);
        Ok(answer(response, compressed))
    }

    async fn find(&self, caller: &Caller, request: &RangeRequest) -> Result<RangeResponse, Status> {
        let node = &self.0.node;
        let reading = Reading::begin(node, Operation::Range);
        let right = self.begin_range(caller, request).await?;
        let started = Instant::now();
        let found = slices::range(node.store(), request, caller.deadline()).await;
        let metrics = node.metrics();
        metrics.observe_range(found.is_ok(), started.elapsed());
        right.still_holds(&self.0)?;
        let found = found?;
        reading.succeeded();
        Ok(found)
    }

    /// What a transaction finds that changes nothing.
    async fn find_txn(&self, caller: &Caller, request: &TxnRequest) -> Result<TxnResponse, Status> {
        if !kv::is_txn_serializable(request) {
            self.linearizable().await?;
        }
        let reading = Reading::begin(&self.0.node, Operation::ReadonlyTxn);
        let judged = self.0.may_read(caller, |state, who| {
            Checker::new(state, who, |_| None).txn(request)
        });
        let right = judged.await?;
        let found = kv::range_txn(self.0.node.store(), request);
        right.still_holds(&self.0)?;
        let found = found.map_err(|error| errors::request(&error))?;
        reading.succeeded();
        Ok(found)
    }

    /// Reads that took too long are logged, with what they wait for.
    fn warn_if_slow<T>(
        &self,
        started: Instant,
        outcome: &Result<T, Status>,
        prefix: &str,
        words: impl FnOnce() -> (String, String),
    ) {
        let (took, limit) = (started.elapsed(), self.0.node.config().warn_apply);
        if took > limit {
            let (request, response) = words();
            let error = outcome.as_ref().err().map(Status::message);
            let error = error.as_ref().map(|error| error as &dyn std::fmt::Display);
            slow::warn((took, limit), prefix, &request, &response, error);
        }
    }

    async fn answer_put(
        &self,
        request: Request<PutRequest>,
    ) -> Result<Response<PutResponse>, Status> {
        self.0.capable()?;
        self.0.admit(request.metadata(), false)?;
        let caller = Caller::of(&request);
        let request = request.into_inner();
        self.0.room(kv::put_cost(&request))?;
        kv::check_put(&request).map_err(|error| errors::request(&error))?;
        let request = InternalRaftRequest {
            put: Some(request),
            ..InternalRaftRequest::default()
        };
        let applied = self.0.propose(&caller, request).await?;
        let Applied::Put(mut response) = applied else {
            return Err(mismatched());
        };
        response.header = self.0.complete(response.header);
        Ok(Response::new(response))
    }

    async fn answer_delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        self.0.capable()?;
        self.0.admit(request.metadata(), false)?;
        let caller = Caller::of(&request);
        let request = request.into_inner();
        kv::check_delete(&request).map_err(|error| errors::request(&error))?;
        let request = InternalRaftRequest {
            delete_range: Some(request),
            ..InternalRaftRequest::default()
        };
        let applied = self.0.propose(&caller, request).await?;
        let Applied::DeleteRange(mut response) = applied else {
            return Err(mismatched());
        };
        response.header = self.0.complete(response.header);
        Ok(Response::new(response))
    }

    async fn answer_txn(
        &self,
        request: Request<TxnRequest>,
    ) -> Result<Response<TxnResponse>, Status> {
        self.0.capable()?;
        self.0.admit(request.metadata(), false)?;
        let caller = Caller::of(&request);
        let compressed = compresses(request.metadata());
        let request = request.into_inner();
        self.0.room(kv::txn_cost(&request))?;
        kv::check_txn(&request, self.0.node.config().max_txn_ops)
            .map_err(|error| errors::request(&error))?;
        let mut response = if kv::is_txn_readonly(&request) {
            let started = Instant::now();
            let found = self.find_txn(&caller, &request).await;
            self.warn_if_slow(started, &found, "read-only txn ", || {
                let found = found.as_ref().ok().map(found_in_words);
                (loggable::txn(&request), found.unwrap_or_default())
            });
            found?
        } else {
            let request = InternalRaftRequest {
                txn: Some(request),
                ..InternalRaftRequest::default()
            };
            match self.0.propose(&caller, request).await? {
                Applied::Txn(response) => response,
                _ => return Err(mismatched()),
            }
        };
        response.header = self.0.complete(response.header);
        debug_assert!(response.responses.iter().all(|op| !matches!(
            &op.response,
            Some(OpResponse::ResponsePut(put)) if put.header.is_none()
        )));
        Ok(answer(response, compressed))
    }
}

/// How much each range of a transaction found.
fn found_in_words(found: &TxnResponse) -> String {
    let counts: Vec<String> = (found.responses.iter())
        .filter_map(|op| match &op.response {
            Some(OpResponse::ResponseRange(range)) => {
                Some(format!("range_response_count:{}", range.kvs.len()))
            }
            _ => None,
        })
        .collect();
    format!(
        "responses:<{}> size:{}",
        counts.join(" "),
        found.encoded_len()
    )
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        let call = Call::begin(&self.0, &request);
        let answer = self.answer_range(request).await;
        call.end(&answer);
        answer
    }

    type RangeStreamStream = Pieces;

    async fn range_stream(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        self.0.capable()?;
        self.0.admit_stream(request.metadata(), false)?;
        let leader_lost = wants_leader(request.metadata()).then(|| {
            let mut lost = self.0.leader_lost.from_now();
            Box::pin(async move { lost.wait().await }) as _
        });
        let caller = Caller::of(&request);
        let request = request.into_inner();
        kv::check_range_stream(&request).map_err(|error| errors::request(&error))?;
        let right = self.begin_range(&caller, &request).await?;
        Ok(Response::new(Pieces::new(
            self.0.clone(),
            request,
            right,
            leader_lost,
        )))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let call = Call::begin(&self.0, &request);
        let answer = self.answer_put(request).await;
        call.end(&answer);
        answer
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let call = Call::begin(&self.0, &request);
        let answer = self.answer_delete_range(request).await;
        call.end(&answer);
        answer
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        let call = Call::begin(&self.0, &request);
        let answer = self.answer_txn(request).await;
        call.end(&answer);
        answer
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        self.0.capable()?;
        self.0.admit(request.metadata(), false)?;
        let caller = Caller::of(&request);
        self.0.require_admin(&caller).await?;
        let request = InternalRaftRequest {
            compaction: Some(request.into_inner()),
            ..InternalRaftRequest::default()
        };
        let applied = self.0.propose(&caller, request).await?;
        let Applied::Compaction(mut response, _) = applied else {
            return Err(mismatched());
        };
        response.header = self.0.complete(response.header);
        Ok(Response::new(response))
    }
}
