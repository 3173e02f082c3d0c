//! `etcdserverpb.KV`.

use std::time::Instant;

use ferrite_apply::Response as Applied;
use ferrite_auth::Checker;
use ferrite_metrics::Operation;
use ferrite_mvcc::kv;
use ferrite_proto::etcdserverpb::kv_server::Kv;
use ferrite_proto::etcdserverpb::response_op::Response as OpResponse;
use ferrite_proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse,
    InternalRaftRequest, PutRequest, PutResponse, RangeRequest, RangeResponse, TxnRequest,
    TxnResponse,
};
use tonic::{Request, Response, Status};

use super::access::ReadRight;
use super::range_stream::{LeaderLost, Pieces};
use super::{Context, leader_lost, mismatched, slices, wants_leader};
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
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<RangeResponse>, Status> {
        self.0.capable()?;
        self.0
            .admit(request.metadata(), request.get_ref().serializable)?;
        let caller = Caller::of(&request);
        let request = request.into_inner();
        kv::check_range(&request).map_err(|error| errors::request(&error))?;
        let reading = Reading::begin(&self.0.node, Operation::Range);
        let right = self.begin_range(&caller, &request).await?;
        let started = Instant::now();
        let found = slices::range(self.0.node.store(), &request).await;
        let metrics = self.0.node.metrics();
        metrics.observe_range(found.is_ok(), started.elapsed());
        right.still_holds(&self.0)?;
        let mut response = found.map_err(|error| errors::request(&error))?;
        reading.succeeded();
        response.header = self.0.complete(response.header);
        Ok(Response::new(response))
    }

    type RangeStreamStream = Pieces;

    async fn range_stream(
        &self,
        request: Request<RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        self.0.capable()?;
        self.0.admit_stream(request.metadata(), false)?;
        let leader_lost = wants_leader(request.metadata()).then(|| {
            let node = self.0.node.clone();
            Box::pin(async move { leader_lost(&node).await }) as LeaderLost
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

    async fn delete_range(
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

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        self.0.capable()?;
        self.0.admit(request.metadata(), false)?;
        let caller = Caller::of(&request);
        let request = request.into_inner();
        self.0.room(kv::txn_cost(&request))?;
        kv::check_txn(&request, self.0.node.config().max_txn_ops)
            .map_err(|error| errors::request(&error))?;
        let mut response = if kv::is_txn_readonly(&request) {
            if !kv::is_txn_serializable(&request) {
                self.linearizable().await?;
            }
            let reading = Reading::begin(&self.0.node, Operation::ReadonlyTxn);
            let right = self
                .0
                .may_read(&caller, |state, who| {
                    Checker::new(state, who, |_| None).txn(&request)
                })
                .await?;
            let found = kv::range_txn(self.0.node.store(), &request);
            right.still_holds(&self.0)?;
            let found = found.map_err(|error| errors::request(&error))?;
            reading.succeeded();
            found
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
        Ok(Response::new(response))
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
