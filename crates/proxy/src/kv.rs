//! The KV service: reads from the cache where they may be, everything else from members.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferrite_client::pb::{self, RequestOp, ResponseOp, request_op, response_op};
use ferrite_metrics::Metrics;
use ferrite_proto::etcdserverpb::kv_server::Kv;
use tonic::{Request, Response, Status};

use crate::cache::{Cache, Found};
use crate::call::{self, Caller, SharedKv};

/// See the module.
#[derive(Clone)]
pub struct KvService {
    kv: SharedKv,
    cache: Arc<Mutex<Cache>>,
    metrics: Arc<Metrics>,
}

/// A range of keys as requests have it.
type Range = (bytes::Bytes, bytes::Bytes);

impl KvService {
    /// Over this store.
    #[must_use]
    pub fn new(kv: SharedKv, metrics: Arc<Metrics>) -> Self {
        KvService {
            kv,
            cache: Arc::default(),
            metrics,
        }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, cache: &Cache) {
        let keys = i64::try_from(cache.len()).unwrap_or(i64::MAX);
        self.metrics.cache_keys.set(keys);
    }

    /// What was in these ranges is old. A write that failed may have happened nevertheless.
    fn written(&self, ranges: &[Range], header: Option<&pb::ResponseHeader>) {
        let mut cache = self.cache();
        if let Some(header) = header {
            cache.wrote(header.revision);
        }
        for (key, end) in ranges {
            cache.invalidate(key, end);
        }
        self.count(&cache);
    }

    /// Keeps what a transaction read, if it wrote nothing: a read before a write of the same transaction
    /// is older than the transaction's revision says.
    fn keep(&self, caller: &Caller, requests: &[RequestOp], answer: &pb::TxnResponse) {
        let mut cache = self.cache();
        for (request, read) in requests.iter().zip(&answer.responses) {
            if let (
                Some(request_op::Request::RequestRange(request)),
                Some(response_op::Response::ResponseRange(read)),
            ) = (&request.request, &read.response)
            {
                let mut read = read.clone();
                read.header.clone_from(&answer.header);
                cache.add(caller.token(), request, &read);
            }
        }
        self.count(&cache);
    }
}

/// Everything that a transaction may write.
fn writes(operations: &[RequestOp], found: &mut Vec<Range>) {
    for operation in operations {
        match &operation.request {
            Some(request_op::Request::RequestPut(put)) => {
                found.push((put.key.clone(), bytes::Bytes::new()));
            }
            Some(request_op::Request::RequestDeleteRange(delete)) => {
                found.push((delete.key.clone(), delete.range_end.clone()));
            }
            Some(request_op::Request::RequestTxn(txn)) => {
                writes(&txn.success, found);
                writes(&txn.failure, found);
            }
            Some(request_op::Request::RequestRange(_)) | None => {}
        }
    }
}

/// A part of a transaction that names no request would bring the original down; members refuse it.
fn is_whole(responses: &[ResponseOp]) -> bool {
    responses.iter().all(|response| response.response.is_some())
}

#[tonic::async_trait]
impl Kv for KvService {
    type RangeStreamStream = tokio_stream::Empty<Result<pb::RangeStreamResponse, Status>>;

    async fn range(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        let caller = Caller::of(request.metadata());
        let request = request.into_inner();
        if request.serializable {
            let found = self.cache().get(caller.token(), &request);
            match found {
                Found::Answer(answer) => {
                    self.metrics.cache_hits.inc();
                    return Ok(Response::new(answer));
                }
                Found::Compacted => {
                    self.metrics.cache_hits.inc();
                    return Err(Status::out_of_range(
                        "etcdserver: mvcc: required revision has been compacted",
                    ));
                }
                Found::Nothing => self.metrics.cache_misses.inc(),
            }
        }
        let answer = call::range(&*self.kv, &caller, request.clone()).await?;
        let mut cache = self.cache();
        cache.add(caller.token(), &request, &answer);
        self.count(&cache);
        drop(cache);
        Ok(Response::new(answer))
    }

    async fn range_stream(
        &self,
        _request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented(
            "RangeStream is not supported by the gRPC proxy",
        ))
    }

    async fn put(
        &self,
        request: Request<pb::PutRequest>,
    ) -> Result<Response<pb::PutResponse>, Status> {
        let caller = Caller::of(request.metadata());
        let request = request.into_inner();
        let range = [(request.key.clone(), bytes::Bytes::new())];
        let answer = call::put(&*self.kv, &caller, request).await;
        self.written(&range, answer.as_ref().ok().and_then(|a| a.header.as_ref()));
        answer.map(Response::new)
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let caller = Caller::of(request.metadata());
        let request = request.into_inner();
        let range = [(request.key.clone(), request.range_end.clone())];
        let answer = call::delete(&*self.kv, &caller, request).await;
        self.written(&range, answer.as_ref().ok().and_then(|a| a.header.as_ref()));
        answer.map(Response::new)
    }

    async fn txn(
        &self,
        request: Request<pb::TxnRequest>,
    ) -> Result<Response<pb::TxnResponse>, Status> {
        let caller = Caller::of(request.metadata());
        let request = request.into_inner();
        let mut ranges = Vec::new();
        writes(&request.success, &mut ranges);
        writes(&request.failure, &mut ranges);
        let reads_only = ranges.is_empty();
        // Whoever compares has learned of a change before this proxy did.
        let compared = request.compare.iter();
        ranges.extend(compared.map(|one| (one.key.clone(), one.range_end.clone())));
        let answer = call::txn(&*self.kv, &caller, request.clone()).await;
        let header = answer.as_ref().ok().and_then(|a| a.header.as_ref());
        self.written(&ranges, header.filter(|_| !reads_only));
        let answer = answer?;
        if reads_only && is_whole(&answer.responses) {
            let taken = match answer.succeeded {
                true => &request.success,
                false => &request.failure,
            };
            self.keep(&caller, taken, &answer);
        }
        Ok(Response::new(answer))
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let caller = Caller::of(request.metadata());
        let request = request.into_inner();
        let answer = call::compact(&*self.kv, &caller, request).await?;
        let mut cache = self.cache();
        cache.compact(request.revision);
        self.count(&cache);
        drop(cache);
        Ok(Response::new(answer))
    }
}
