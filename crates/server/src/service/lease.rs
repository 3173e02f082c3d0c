//! `etcdserverpb.Lease`.

use ferrite_apply::{ApplyError, Response as Applied};
use ferrite_mvcc::kv::LEASE_GRANT_COST;
use ferrite_node::Error;
use ferrite_proto::etcdserverpb::lease_server::Lease;
use ferrite_proto::etcdserverpb::{
    InternalRaftRequest, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest,
    LeaseKeepAliveResponse, LeaseLeasesRequest, LeaseLeasesResponse, LeaseRevokeRequest,
    LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::access::LeaseChecker;
use super::{Context, is_failure, mismatched, wants_leader};
use crate::auth::Caller;
use crate::errors;
use crate::spans::{SpanContext, number};

/// The service.
#[derive(Clone)]
pub struct LeaseService(pub Context);

impl LeaseService {
    /// An ID that nobody has.
    pub fn new_id(&self) -> i64 {
        chosen_id(|| self.0.node.next_id())
    }

    /// Judged on this member, whoever leads: renewals that are forwarded name nobody.
    async fn may_renew(&self, caller: &Caller, id: i64) -> Result<(), Status> {
        let node = &self.0.node;
        if !node.auth().enabled() {
            return Ok(());
        }
        if node.leases().keys(id).is_none() {
            // It may be granted and not applied yet, keys on it included.
            let applied = node.wait_applied().await;
            applied.map_err(|error| errors::status(&error))?;
        }
        let judged = self.0.may_use_leases(caller, |may| may.lease(id));
        judged.await?.still_holds(&self.0)
    }

    async fn keep_alive(&self, caller: &Caller, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
        // The header comes first: its revision is one at which the lease still lived.
        let header = Some(self.0.header_now());
        self.may_renew(caller, id).await?;
        let ttl = match self.0.node.renew_lease(id).await {
            Ok(ttl) => ttl,
            Err(Error::Apply(ApplyError::LeaseNotFound)) => 0,
            Err(error) => return Err(errors::status(&error)),
        };
        Ok(LeaseKeepAliveResponse { header, id, ttl })
    }
}

/// An ID for a client that names none: only positive numbers are chosen; a client may choose any other.
fn chosen_id(mut next: impl FnMut() -> u64) -> i64 {
    loop {
        let id = (next() & (u64::MAX >> 1)).cast_signed();
        if id != 0 {
            return id;
        }
    }
}

#[tonic::async_trait]
impl Lease for LeaseService {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        self.0.capable()?;
        self.0.admit(request.metadata(), false)?;
        self.0.room(LEASE_GRANT_COST)?;
        let caller = Caller::of(&request);
        self.0.require_user(&caller).await?;
        let mut request = request.into_inner();
        if request.id == 0 {
            request.id = self.new_id();
        }
        let request = InternalRaftRequest {
            lease_grant: Some(request),
            ..InternalRaftRequest::default()
        };
        let applied = self.0.propose(&caller, request).await?;
        let Applied::LeaseGrant(mut response) = applied else {
            return Err(mismatched());
        };
        response.header = self.0.complete(response.header);
        Ok(Response::new(response))
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        self.0.capable()?;
        self.0.admit(request.metadata(), false)?;
        let caller = Caller::of(&request);
        self.0.require_user(&caller).await?;
        let request = InternalRaftRequest {
            lease_revoke: Some(request.into_inner()),
            ..InternalRaftRequest::default()
        };
        let applied = self.0.propose(&caller, request).await?;
        let Applied::LeaseRevoke(mut response) = applied else {
            return Err(mismatched());
        };
        response.header = self.0.complete(response.header);
        Ok(Response::new(response))
    }

    type LeaseKeepAliveStream = ReceiverStream<Result<LeaseKeepAliveResponse, Status>>;

    /// One answer per request, in order; an error, or the client's end of the stream, ends it.
    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        self.0.capable()?;
        self.0.admit_stream(request.metadata(), false)?;
        let needs_leader = wants_leader(request.metadata());
        let caller = Caller::of(&request);
        let place = request.extensions().get::<SpanContext>().cloned();
        let mut asked = request.into_inner();
        let service = self.clone();
        let mut leader_lost = self.0.leader_lost.from_now();
        let (answers, stream) = mpsc::channel(1);
        tokio::spawn(async move {
            let client_gone = answers.clone();
            let serving = async {
                loop {
                    let answer = match asked.message().await {
                        Ok(Some(request)) => {
                            let _span = place.as_ref().and_then(|place| {
                                place.child("lease_renew", vec![number("id", request.id)])
                            });
                            service.keep_alive(&caller, request.id).await
                        }
                        // The client ended its side, or is gone.
                        Ok(None) => return,
                        Err(status) => {
                            if is_failure(&status) {
                                let metrics = service.0.node.metrics();
                                metrics.stream_failed("receive", "lease-keepalive");
                            }
                            Err(status)
                        }
                    };
                    let failed = answer.is_err();
                    if answers.send(answer).await.is_err() || failed {
                        return;
                    }
                }
            };
            tokio::select! {
                () = serving => {}
                () = client_gone.closed() => {}
                () = leader_lost.wait(), if needs_leader => {
                    let _gone = client_gone.send(Err(errors::no_leader())).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        self.0.capable()?;
        self.0.admit(request.metadata(), false)?;
        let caller = Caller::of(&request);
        let LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        // How long a lease lives anybody may know whom the cluster knows.
        let judge = |may: &LeaseChecker<'_>| if keys { may.lease_keys(id) } else { Ok(()) };
        let right = self.0.may_use_leases(&caller, judge).await?;
        let found = self.0.node.lease_time_to_live(id, keys).await;
        if keys && found.is_ok() {
            right.still_holds(&self.0)?;
        }
        let found = found.map_err(|error| errors::status(&error))?;
        let mut response = LeaseTimeToLiveResponse {
            header: Some(self.0.header_now()),
            id,
            ttl: -1,
            ..LeaseTimeToLiveResponse::default()
        };
        if let Some(found) = found {
            response.ttl = found.remaining_seconds;
            response.granted_ttl = found.granted_seconds;
            response.keys = found.keys;
        }
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        request: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        self.0.capable()?;
        self.0.admit(request.metadata(), false)?;
        let leases = self.0.node.leases().ids();
        let judge = |may: &LeaseChecker<'_>| leases.iter().try_for_each(|id| may.lease_keys(*id));
        let caller = Caller::of(&request);
        let judged = self.0.may_use_leases(&caller, judge);
        judged.await?.still_holds(&self.0)?;
        Ok(Response::new(LeaseLeasesResponse {
            header: Some(self.0.header_now()),
            leases: leases.into_iter().map(|id| LeaseStatus { id }).collect(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::chosen_id;

    #[test]
    fn no_chosen_id_is_zero_or_negative() {
        let mut drawn = [0, 1 << 63, (1 << 63) + 7, 9].into_iter();
        assert_eq!(chosen_id(|| drawn.next().unwrap_or(1)), 7);
        assert_eq!(chosen_id(|| drawn.next().unwrap_or(1)), 9);
    }
}
