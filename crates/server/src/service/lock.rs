//! `v3lockpb.Lock`: a name that one lease at a time holds.
//!
//! A lock is no fence: who is paused past its lease still believes that it holds the name. The answer
//! carries key and revision, so that a transaction can compare them.

use bytes::Bytes;
use ferrite_proto::etcdserverpb::request_op::Request as Op;
use ferrite_proto::etcdserverpb::{RangeRequest, RequestOp, TxnRequest};
use ferrite_proto::v3lockpb::lock_server::Lock;
use ferrite_proto::v3lockpb::{LockRequest, LockResponse, UnlockRequest, UnlockResponse};
use tonic::{Request, Response, Status};

use super::inside::{Gone, Inside, to_the_end};
use super::{Context, contest, mismatched};
use crate::errors;

/// The service.
#[derive(Clone)]
pub struct LockService(pub Context);

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, request: Request<LockRequest>) -> Result<Response<LockResponse>, Status> {
        self.0.capable()?;
        self.0.admit(request.metadata(), false)?;
        let inside = Inside::of(&self.0, &request);
        let request = request.into_inner();
        to_the_end(|gone| lock(inside, request, gone))
            .await
            .map(Response::new)
    }

    async fn unlock(
        &self,
        request: Request<UnlockRequest>,
    ) -> Result<Response<UnlockResponse>, Status> {
        self.0.capable()?;
        self.0.admit(request.metadata(), false)?;
        let inside = Inside::of(&self.0, &request);
        let deleted = inside.delete(request.into_inner().key).await?;
        Ok(Response::new(UnlockResponse {
            header: deleted.header,
        }))
    }
}

async fn lock(
    inside: Inside,
    request: LockRequest,
    mut gone: Gone,
) -> Result<LockResponse, Status> {
    let lease = inside.session(request.lease).await?;
    let prefix = contest::prefix(&request.name);
    let key = contest::key(&prefix, lease);
    let holder = RequestOp {
        request: Some(Op::RequestRange(contest::holder(&prefix))),
    };
    let entered = inside
        .txn(TxnRequest {
            compare: vec![contest::created_at(key.clone(), 0)],
            success: vec![
                contest::put(key.clone(), Bytes::new(), lease),
                holder.clone(),
            ],
            failure: vec![contest::get(key.clone()), holder],
        })
        .await?;
    let own_revision = if entered.succeeded {
        entered.header.map(|header| header.revision)
    } else {
        contest::read_at(&entered, 0)
            .and_then(|own| own.kvs.first())
            .map(|own| own.create_revision)
    };
    let (Some(own_revision), Some(holder)) = (own_revision, contest::read_at(&entered, 1)) else {
        return Err(mismatched());
    };
    if holder
        .kvs
        .first()
        .is_none_or(|holder| holder.create_revision == own_revision)
    {
        return Ok(LockResponse {
            header: entered.header,
            key,
        });
    }
    let waited = async {
        contest::wait_for_turn(&inside, &prefix, own_revision).await?;
        let own = RangeRequest {
            key: key.clone(),
            ..RangeRequest::default()
        };
        inside.range_in_time(own).await
    };
    let waited = tokio::select! {
        waited = waited => waited,
        () = gone.wait() => Err(errors::canceled()),
    };
    match waited {
        Ok(own) if own.kvs.is_empty() => Err(errors::lock_session_expired()),
        Ok(own) => Ok(LockResponse {
            header: own.header,
            key,
        }),
        Err(status) => {
            // If it cannot be deleted its lease will see to it.
            let _left = inside.delete(key).await;
            Err(status)
        }
    }
}
