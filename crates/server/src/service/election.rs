//! `v3electionpb.Election`: a name that one lease at a time leads, with a value to proclaim.

use bytes::Bytes;
use ferrite_proto::etcdserverpb::request_op::Request as Op;
use ferrite_proto::etcdserverpb::{
    DeleteRangeRequest, RequestOp, ResponseHeader, TxnRequest, TxnResponse,
};
use ferrite_proto::mvccpb::KeyValue;
use ferrite_proto::mvccpb::event::EventType;
use ferrite_proto::v3electionpb::election_server::Election;
use ferrite_proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest,
    ProclaimResponse, ResignRequest, ResignResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::inside::{Gone, Heard, Inside, to_the_end};
use super::{Context, contest, mismatched, wants_leader};
use crate::errors;

/// The service.
#[derive(Clone)]
pub struct ElectionService(pub Context);

/// A leader, or who is to become one.
struct Candidate {
    key: Bytes,
    /// The revision its key was created at.
    revision: i64,
    lease: i64,
}

impl Candidate {
    /// Puts a value, if the key still is the candidate's own.
    async fn proclaim(
        &self,
        inside: &Inside,
        value: Bytes,
    ) -> Result<Option<ResponseHeader>, Status> {
        let put = contest::put(self.key.clone(), value, self.lease);
        let answer = self.if_own(inside, put).await?;
        if !answer.succeeded {
            return Err(errors::not_elected());
        }
        Ok(answer.header)
    }

    /// Deletes the key, if it still is the candidate's own.
    async fn resign(&self, inside: &Inside) -> Result<Option<ResponseHeader>, Status> {
        let delete = RequestOp {
            request: Some(Op::RequestDeleteRange(DeleteRangeRequest {
                key: self.key.clone(),
                ..DeleteRangeRequest::default()
            })),
        };
        Ok(self.if_own(inside, delete).await?.header)
    }

    async fn if_own(&self, inside: &Inside, op: RequestOp) -> Result<TxnResponse, Status> {
        inside
            .txn(TxnRequest {
                compare: vec![contest::created_at(self.key.clone(), self.revision)],
                success: vec![op],
                failure: Vec::new(),
            })
            .await
    }
}

#[tonic::async_trait]
impl Election for ElectionService {
    async fn campaign(
        &self,
        request: Request<CampaignRequest>,
    ) -> Result<Response<CampaignResponse>, Status> {
        self.0.capable()?;
        self.0.admit(request.metadata(), false)?;
        let inside = Inside::of(&self.0, &request);
        let request = request.into_inner();
        to_the_end(|gone| campaign(inside, request, gone))
            .await
            .map(Response::new)
    }

    async fn proclaim(
        &self,
        request: Request<ProclaimRequest>,
    ) -> Result<Response<ProclaimResponse>, Status> {
        self.0.capable()?;
        self.0.admit(request.metadata(), false)?;
        let inside = Inside::of(&self.0, &request);
        let ProclaimRequest { leader, value } = request.into_inner();
        let leader = leader.ok_or_else(errors::leader_missing)?;
        let candidate = Candidate {
            lease: inside.session(leader.lease).await?,
            key: leader.key,
            revision: leader.rev,
        };
        let header = candidate.proclaim(&inside, value).await?;
        Ok(Response::new(ProclaimResponse { header }))
    }

    async fn leader(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<LeaderResponse>, Status> {
        self.0.capable()?;
        self.0.admit(request.metadata(), false)?;
        let inside = Inside::of(&self.0, &request);
        let prefix = contest::prefix(&request.get_ref().name);
        let found = inside.range(contest::holder(&prefix)).await?;
        let Some(kv) = found.kvs.into_iter().next() else {
            return Err(errors::nobody_elected());
        };
        Ok(Response::new(LeaderResponse {
            header: found.header,
            kv: Some(kv),
        }))
    }

    type ObserveStream = ReceiverStream<Result<LeaderResponse, Status>>;

    /// Ends without an error when it cannot go on, as in the original; the client observes again.
    async fn observe(
        &self,
        request: Request<LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        self.0.capable()?;
        self.0.admit_stream(request.metadata(), false)?;
        let needs_leader = wants_leader(request.metadata());
        let inside = Inside::of(&self.0, &request);
        let prefix = contest::prefix(&request.get_ref().name);
        let mut leader_lost = self.0.leader_lost.from_now();
        let (answers, stream) = mpsc::channel(1);
        tokio::spawn(async move {
            tokio::select! {
                _ended = observe(&inside, &prefix, &answers) => {}
                () = answers.closed() => {}
                () = leader_lost.wait(), if needs_leader => {
                    let _gone = answers.send(Err(errors::no_leader())).await;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn resign(
        &self,
        request: Request<ResignRequest>,
    ) -> Result<Response<ResignResponse>, Status> {
        self.0.capable()?;
        self.0.admit(request.metadata(), false)?;
        let inside = Inside::of(&self.0, &request);
        let leader = request
            .into_inner()
            .leader
            .ok_or_else(errors::leader_missing)?;
        let candidate = Candidate {
            lease: leader.lease,
            key: leader.key,
            revision: leader.rev,
        };
        let header = candidate.resign(&inside).await?;
        Ok(Response::new(ResignResponse { header }))
    }
}

async fn campaign(
    inside: Inside,
    request: CampaignRequest,
    mut gone: Gone,
) -> Result<CampaignResponse, Status> {
    let lease = inside.session(request.lease).await?;
    let prefix = contest::prefix(&request.name);
    let key = contest::key(&prefix, lease);
    let entered = inside
        .txn(TxnRequest {
            compare: vec![contest::created_at(key.clone(), 0)],
            success: vec![contest::put(key.clone(), request.value.clone(), lease)],
            failure: vec![contest::get(key.clone())],
        })
        .await?;
    let own = contest::read_at(&entered, 0).and_then(|own| own.kvs.first());
    let revision = if entered.succeeded {
        entered.header.map(|header| header.revision)
    } else {
        own.map(|own| own.create_revision)
    };
    let candidate = Candidate {
        key,
        revision: revision.ok_or_else(mismatched)?,
        lease,
    };
    if own.is_some_and(|own| own.value != request.value)
        && let Err(status) = candidate.proclaim(&inside, request.value).await
    {
        // If it cannot be deleted its lease will see to it.
        let _left = candidate.resign(&inside).await;
        return Err(status);
    }
    tokio::select! {
        waited = contest::wait_for_turn(&inside, &prefix, candidate.revision) => waited?,
        () = gone.wait() => {
            let _left = candidate.resign(&inside).await;
            return Err(errors::canceled());
        }
    }
    Ok(CampaignResponse {
        header: entered.header,
        leader: Some(LeaderKey {
            name: request.name,
            key: candidate.key,
            rev: candidate.revision,
            lease,
        }),
    })
}

/// The observer has gone away, or cannot be told more.
struct Ended;

impl From<Status> for Ended {
    fn from(_: Status) -> Self {
        Ended
    }
}

type Answers = mpsc::Sender<Result<LeaderResponse, Status>>;

async fn tell(
    answers: &Answers,
    header: Option<ResponseHeader>,
    kv: KeyValue,
) -> Result<(), Ended> {
    let response = LeaderResponse {
        header,
        kv: Some(kv),
    };
    answers.send(Ok(response)).await.map_err(|_| Ended)
}

/// Tells of each leader and of what it proclaims, from the one of now on.
async fn observe(inside: &Inside, prefix: &Bytes, answers: &Answers) -> Result<(), Ended> {
    loop {
        let found = inside.range(contest::holder(prefix)).await?;
        let (header, kv) = match found.kvs.into_iter().next() {
            Some(kv) => (found.header, kv),
            None => {
                let revision = found.header.map_or(0, |header| header.revision);
                let kv = first_put(inside, prefix, revision).await?;
                (Some(inside.header(kv.mod_revision)), kv)
            }
        };
        let key = kv.key.clone();
        let revision = header.map_or(0, |header| header.revision);
        tell(answers, header, kv).await?;
        until_deleted(inside, &key, revision + 1, answers).await?;
    }
}

/// The first key that is put under the prefix at this revision or later.
async fn first_put(inside: &Inside, prefix: &Bytes, revision: i64) -> Result<KeyValue, Ended> {
    let mut watcher = inside
        .watch(prefix, &contest::prefix_end(prefix), revision)
        .await?;
    loop {
        for heard in watcher.next().await? {
            let Heard::Events(_, events) = heard else {
                return Err(Ended);
            };
            let put = events
                .into_iter()
                .find(|event| event.r#type() == EventType::Put);
            if let Some(kv) = put.and_then(|event| event.kv) {
                return Ok(kv);
            }
        }
    }
}

/// Tells what a leader proclaims until its key is gone.
async fn until_deleted(
    inside: &Inside,
    key: &[u8],
    revision: i64,
    answers: &Answers,
) -> Result<(), Ended> {
    let mut watcher = inside.watch(key, &[], revision).await?;
    loop {
        for heard in watcher.next().await? {
            let Heard::Events(revision, events) = heard else {
                return Err(Ended);
            };
            for event in events {
                if event.r#type() == EventType::Delete {
                    return Ok(());
                }
                if let Some(kv) = event.kv {
                    tell(answers, Some(inside.header(revision)), kv).await?;
                }
            }
        }
    }
}
