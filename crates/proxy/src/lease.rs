//! The Lease service. Whoever keeps a lease alive while somebody else does shares that one's answer.
//!
//! All clients' requests go over one stream to a member; of one lease there is one request under way, and
//! its answer is everybody's who asked meanwhile. A stream that breaks is opened again and asked again:
//! keeping alive twice does no harm.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ferrite_client::{Client, Code, pb};
use ferrite_proto::etcdserverpb::lease_server::Lease;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::call::{Caller, bare};
use crate::leader::{Leader, no_leader};
use crate::namespace::Namespace;

/// Answers that may wait for one client; whoever does not read them gets no more.
const ANSWERS_MAX: usize = 256;
/// Requests on their way to the member.
const REQUESTS_MAX: usize = 1024;
/// Pause before a stream is opened again.
const PAUSE: Duration = Duration::from_millis(100);

type Answered = Result<pb::LeaseKeepAliveResponse, Status>;

/// See the module.
#[derive(Clone)]
pub struct LeaseService {
    client: Client,
    namespace: Namespace,
    leader: Leader,
    keeper: Arc<Keeper>,
}

impl LeaseService {
    /// Over these members.
    #[must_use]
    pub fn new(client: Client, namespace: Namespace, leader: Leader) -> Self {
        LeaseService {
            keeper: Keeper::start(client.clone()),
            client,
            namespace,
            leader,
        }
    }
}

/// Keeps leases alive for everybody.
struct Keeper {
    waiting: Mutex<HashMap<i64, Vec<mpsc::Sender<Answered>>>>,
    wanted: mpsc::Sender<i64>,
}

impl Keeper {
    fn start(client: Client) -> Arc<Self> {
        let (wanted, asked) = mpsc::channel(REQUESTS_MAX);
        let keeper = Arc::new(Keeper {
            waiting: Mutex::default(),
            wanted,
        });
        tokio::spawn(keep(client, Arc::downgrade(&keeper), asked));
        keeper
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<i64, Vec<mpsc::Sender<Answered>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks on behalf of one who waits.
    async fn ask(&self, lease: i64, answers: &mpsc::Sender<Answered>) {
        let first = {
            let mut waiting = self.waiting();
            let all = waiting.entry(lease).or_default();
            all.push(answers.clone());
            all.len() == 1
        };
        if first {
            // It is there for as long as the proxy is.
            let _stopped = self.wanted.send(lease).await;
        }
    }

    fn answer(&self, answer: &pb::LeaseKeepAliveResponse) {
        let all = self.waiting().remove(&answer.id).unwrap_or_default();
        for one in all {
            // Who does not read does not want to know.
            let _full = one.try_send(Ok(*answer));
        }
    }

    /// The leases that somebody still waits for.
    fn asked(&self) -> Vec<i64> {
        let mut waiting = self.waiting();
        waiting.retain(|_, all| {
            all.retain(|one| !one.is_closed());
            !all.is_empty()
        });
        waiting.keys().copied().collect()
    }

    fn refuse(&self, status: &Status) {
        let all: Vec<_> = self.waiting().drain().flat_map(|(_, all)| all).collect();
        for one in all {
            let _gone = one.try_send(Err(bare(status)));
        }
    }
}

/// Opens stream after stream, each when somebody wants something.
async fn keep(client: Client, keeper: std::sync::Weak<Keeper>, mut wanted: mpsc::Receiver<i64>) {
    while let Some(first) = wanted.recv().await {
        let mut next = vec![first];
        loop {
            let (requests, queued) = mpsc::channel(next.len().max(REQUESTS_MAX));
            let queued = ReceiverStream::new(queued);
            for id in &next {
                let _full = requests.try_send(pb::LeaseKeepAliveRequest { id: *id });
            }
            let ended = match client.lease().lease_keep_alive(queued).await {
                Ok(answers) => {
                    let answers = answers.into_inner();
                    pass_on(&keeper, &mut wanted, &requests, answers).await
                }
                Err(status) => Err(status),
            };
            let Some(keeper) = keeper.upgrade() else {
                return;
            };
            let Err(status) = ended else { return };
            if !matches!(
                status.code(),
                Code::Unavailable | Code::Unknown | Code::Internal
            ) {
                keeper.refuse(&status);
            }
            next = keeper.asked();
            if next.is_empty() {
                break;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Until the stream breaks; `Ok` when nobody will want anything any more.
async fn pass_on(
    keeper: &std::sync::Weak<Keeper>,
    wanted: &mut mpsc::Receiver<i64>,
    requests: &mpsc::Sender<pb::LeaseKeepAliveRequest>,
    mut answers: Streaming<pb::LeaseKeepAliveResponse>,
) -> Result<(), Status> {
    loop {
        tokio::select! {
            id = wanted.recv() => {
                let Some(id) = id else { return Ok(()) };
                let request = pb::LeaseKeepAliveRequest { id };
                if requests.send(request).await.is_err() {
                    return Err(Status::unavailable("the stream takes no more requests"));
                }
            }
            answer = answers.message() => match answer? {
                Some(answer) => match keeper.upgrade() {
                    Some(keeper) => keeper.answer(&answer),
                    None => return Ok(()),
                },
                None => return Err(Status::unavailable("the member ended the stream")),
            },
        }
    }
}

#[tonic::async_trait]
impl Lease for LeaseService {
    type LeaseKeepAliveStream = ReceiverStream<Answered>;

    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let request = Caller::of(request.metadata()).request(request.into_inner());
        let answer = self.client.lease().lease_grant(request).await;
        answer
            .map(|answer| Response::new(answer.into_inner()))
            .map_err(|status| bare(&status))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let request = Caller::of(request.metadata()).request(request.into_inner());
        let answer = self.client.lease().lease_revoke(request).await;
        answer
            .map(|answer| Response::new(answer.into_inner()))
            .map_err(|status| bare(&status))
    }

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let mut required = self.leader.require(request.metadata()).await?;
        let mut requests = request.into_inner();
        let (answers, answered) = mpsc::channel(ANSWERS_MAX);
        let keeper = Arc::clone(&self.keeper);
        tokio::spawn(async move {
            loop {
                let asked = tokio::select! {
                    asked = requests.message() => asked,
                    () = required.lost() => {
                        let _gone = answers.send(Err(no_leader())).await;
                        return;
                    }
                    () = answers.closed() => return,
                };
                match asked {
                    Ok(Some(asked)) => keeper.ask(asked.id, &answers).await,
                    // Answers that are under way still come.
                    Ok(None) | Err(_) => return,
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answered)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let request = Caller::of(request.metadata()).request(request.into_inner());
        let answer = self.client.lease().lease_time_to_live(request).await;
        let mut answer = answer.map_err(|status| bare(&status))?.into_inner();
        // Leases are everybody's, keys are not.
        answer.keys = self.namespace.only(std::mem::take(&mut answer.keys));
        Ok(Response::new(answer))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let request = Caller::of(request.metadata()).request(request.into_inner());
        let answer = self.client.lease().lease_leases(request).await;
        answer
            .map(|answer| Response::new(answer.into_inner()))
            .map_err(|status| bare(&status))
    }
}
