//! One member: the driver around the consensus core, from a proposal to its answer.
//!
//! The stages ([`stage`]) decide, the threads ([`threads`]) execute, [`recover`] puts a member
//! together from what is on disk. Whoever serves clients uses [`Node`] and never sees a thread.

pub mod assemble;
pub mod compactor;
pub mod config;
pub mod corruption;
pub mod disk;
pub mod engine;
mod error;
pub mod idgen;
pub mod leases;
pub mod port;
mod published;
pub mod queue;
pub mod reconfigure;
pub mod recover;
pub mod resolve;
pub mod rewrite;
pub mod slow;
pub mod snapshot;
pub mod stage;
mod status;
mod sync;
pub mod tasks;
pub mod threads;
pub mod tokens;
pub mod versions;
pub mod wait;
pub mod watch_hub;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use ferrite_apply::{AuthView, Response, operation};
use ferrite_metrics::{Metrics, Operation};
use ferrite_mvcc::Store;
use ferrite_peer::Transport;
use ferrite_proto::etcdserverpb::{InternalRaftRequest, RequestHeader};
use ferrite_proto::raftpb::ConfChange;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::mpsc;

pub use config::{Config, Upkeep};
pub use error::Error;
pub use published::Published;
pub use recover::{RemoteCluster, StartError};
pub use status::{CoreView, Status};
pub use threads::OnFatal;

use assemble::assemble;
use engine::Engine;
use idgen::IdGenerator;
use leases::Leases;
use queue::Queue;
use recover::Recovered;
use snapshot::{PeerHandler, Transfers};
use stage::raft::{Input, Proposal};
use threads::apply::{ApplyThread, Command as ApplyCommand};
use threads::commit::{Command as CommitCommand, CommitThread};
use threads::heartbeats::Heartbeats;
use threads::raft::RaftThread;
use threads::wal::{Command as WalCommand, LogThread, SyncWatch};
use tokens::Tokens;
use wait::{AppliedIndex, Waiters};
use watch_hub::WatchHub;

/// What a client is answered.
pub type Answer = Result<Response, Error>;
/// Whoever waits for a linearizable read.
pub type ReadWaiter = port::Reply<Result<(), Error>>;

/// Inputs that may wait for the raft thread: etcd's bound of 4096 messages and as many proposals.
const RAFT_QUEUE_MAX: usize = 8_192;
/// Committed entries that may wait to be applied before proposals are refused.
const BACKLOG_MAX: u64 = 5_000;
/// As above, before what makes room is refused too.
const PRIORITY_BACKLOG_MAX: u64 = 2 * BACKLOG_MAX;

/// What the node tells the rest of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// This member leads or follows in a new term, and that term's first entry is applied.
    FirstOfTerm,
    /// A member's name, the cluster version or the downgrade target changed.
    ClusterAttributes,
    /// The cluster says that this member is no longer part of it.
    RemovedSelf,
    /// The quota is used up; the request (by id) is answered once the alarm is on.
    NoSpace {
        /// The request that found out.
        request: u64,
    },
}

struct Threads {
    raft: JoinHandle<()>,
    wal: JoinHandle<()>,
    apply: JoinHandle<()>,
    commit: JoinHandle<()>,
}

/// A running member. Cheap to clone.
#[derive(Clone)]
pub struct Node(Arc<Inner>);

struct Inner {
    config: Config,
    member_id: u64,
    cluster_id: u64,
    restarted: bool,
    store: Arc<Store>,
    status: Arc<Status>,
    published: Arc<Published>,
    applied: Arc<AppliedIndex<ReadWaiter>>,
    waiters: Arc<Waiters<Answer>>,
    defragmentations: Arc<Waiters<Result<(), String>>>,
    ids: IdGenerator,
    raft: Queue<Input<ReadWaiter>>,
    wal: Queue<WalCommand>,
    apply: Queue<ApplyCommand>,
    commit: Queue<CommitCommand>,
    transport: Transport,
    engine: Arc<Mutex<Engine>>,
    leases: Arc<Leases>,
    auth: AuthView,
    tokens: Arc<Tokens>,
    watch: SyncWatch,
    hub: WatchHub,
    threads: Mutex<Option<Threads>>,
}

impl Node {
    /// Starts the threads of a recovered member. Events come out of the receiver; `runtime` drives
    /// the connections to other members.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(
        config: Config,
        recovered: Recovered,
        runtime: &tokio::runtime::Handle,
        on_fatal: OnFatal,
    ) -> Result<(Node, mpsc::UnboundedReceiver<Event>), StartError> {
        let now = Instant::now();
        let unix_ms = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            });
        let member_id = recovered.member_id;
        let progress = recovered.applier.progress();
        let (events, event_receiver) = mpsc::unbounded_channel();
        let raft: Queue<Input<ReadWaiter>> = Queue::new(RAFT_QUEUE_MAX);
        let wal = Queue::new(usize::MAX);
        let apply = Queue::new(usize::MAX);
        let commit = Queue::new(usize::MAX);
        let status = Arc::new(Status::default());
        let published = Arc::new(Published::new(&recovered.applier));
        threads::apply::count_version(&config.metrics, recovered.applier.cluster());
        threads::apply::count_alarms(&config.metrics, recovered.applier.alarms());
        let applied = Arc::new(AppliedIndex::new(progress.index));
        let waiters = Arc::new(Waiters::default());
        let defragmentations = Arc::new(Waiters::default());
        let leases = Arc::new(Leases::new(
            recovered.applier.lessor().view(),
            Arc::clone(&status),
            config.election_timeout(),
            config.upkeep.lease_checkpoint_interval,
            now,
        ));
        let auth = recovered.applier.auth().view().clone();
        let tokens = Arc::new(Tokens::new(config.token_ttl));
        let remotes = recovered.remotes.clone();
        let transfers = Arc::new(Transfers::default());
        let watch = SyncWatch::new(now);
        let chance = chance(unix_ms);
        let ids = recovered.request_ids(unix_ms, chance);
        let store = Arc::clone(recovered.applier.store());
        let election_timeout = config.election_timeout();
        let cluster_id = recovered.cluster_id;
        let restarted = recovered.restarted;
        let stages = assemble(&config, recovered, chance, chance >> 1, now)?;
        let engine = Arc::clone(&stages.commit.engine);
        let handler = Arc::new(PeerHandler {
            member_id,
            raft: raft.clone(),
            published: Arc::clone(&published),
            engine: Arc::clone(&engine),
            transfers: Arc::clone(&transfers),
            events: events.clone(),
            metrics: Arc::clone(&config.metrics),
        });
        let transport = Transport::start_with(
            peer_config(&config, &member_id, cluster_id),
            handler,
            runtime.clone(),
            &config.dialer,
        );
        for member in published.get_cluster().members.values() {
            if member.id != member_id {
                transport.add_peer(member.id, &member.peer_urls);
            }
        }
        for member in &remotes {
            transport.add_remote(member.id, &member.peer_urls);
        }
        let raft_thread = RaftThread {
            stage: stages.raft,
            queue: raft.clone(),
            wal: wal.clone(),
            apply: apply.clone(),
            transport: transport.clone(),
            status: Arc::clone(&status),
            applied: Arc::clone(&applied),
            waiters: Arc::clone(&waiters),
            watch: watch.clone(),
            tick: config.tick,
            election_timeout,
            read_timeout: config.request_timeout(),
            heartbeats: Heartbeats::new(config.tick),
            metrics: Arc::clone(&config.metrics),
        };
        let log_thread = LogThread {
            stage: stages.log,
            queue: wal.clone(),
            raft: raft.clone(),
            apply: apply.clone(),
            transport: transport.clone(),
            watch: watch.clone(),
            on_fatal: on_fatal.clone(),
        };
        let hub = WatchHub::new(Arc::clone(&store));
        let apply_thread = ApplyThread {
            hub: hub.clone(),
            stage: stages.apply,
            queue: apply.clone(),
            raft: raft.clone(),
            commit: commit.clone(),
            waiters: Arc::clone(&waiters),
            applied: Arc::clone(&applied),
            published: Arc::clone(&published),
            leases: Arc::clone(&leases),
            tokens: Arc::clone(&tokens),
            transport: transport.clone(),
            events,
            member_id,
            warn_apply: config.warn_apply,
            metrics: Arc::clone(&config.metrics),
            compacting: None,
            on_fatal: on_fatal.clone(),
        };
        let commit_thread = CommitThread {
            stage: stages.commit,
            queue: commit.clone(),
            raft: raft.clone(),
            apply: apply.clone(),
            wal: wal.clone(),
            transfers,
            defragmentations: Arc::clone(&defragmentations),
            metrics: Arc::clone(&config.metrics),
            defragmenting: None,
            on_fatal,
        };
        let threads = Threads {
            raft: spawn("raft", move || raft_thread.run())?,
            wal: spawn("wal", move || log_thread.run())?,
            apply: spawn("apply", move || apply_thread.run())?,
            commit: spawn("commit", move || commit_thread.run())?,
        };
        let node = Node(Arc::new(Inner {
            config,
            member_id,
            cluster_id,
            restarted,
            store,
            status,
            published,
            applied,
            waiters,
            defragmentations,
            ids,
            raft,
            wal,
            apply,
            commit,
            transport,
            engine,
            leases,
            auth,
            tokens,
            watch,
            hub,
            threads: Mutex::new(Some(threads)),
        }));
        runtime.spawn(leases::expire(node.clone()));
        Ok((node, event_receiver))
    }

    /// What the node was told at start.
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// This member.
    pub fn member_id(&self) -> u64 {
        self.0.member_id
    }

    /// The cluster.
    pub fn cluster_id(&self) -> u64 {
        self.0.cluster_id
    }

    /// Whether the member existed before this start.
    pub fn restarted(&self) -> bool {
        self.0.restarted
    }

    /// The store, to read from. Serializable unless [`Node::linearizable`] came first.
    pub fn store(&self) -> &Arc<Store> {
        &self.0.store
    }

    /// Watchers of the store.
    pub fn watch_hub(&self) -> &WatchHub {
        &self.0.hub
    }

    /// Users, roles and what they permit.
    pub fn auth(&self) -> &AuthView {
        &self.0.auth
    }

    /// The simple tokens given out.
    pub fn tokens(&self) -> &Tokens {
        &self.0.tokens
    }

    /// Leader, term, indexes.
    pub fn status(&self) -> &Status {
        &self.0.status
    }

    /// Membership, alarms, progress.
    pub fn published(&self) -> &Published {
        &self.0.published
    }

    /// Where what happens is counted.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.0.config.metrics
    }

    /// Requests and changes of membership that wait to be applied.
    pub fn pending_proposals(&self) -> usize {
        self.0.waiters.len()
    }

    /// The other members.
    pub fn transport(&self) -> &Transport {
        &self.0.transport
    }

    /// The database file as it is now.
    pub fn engine(&self) -> Engine {
        self.0.engine.lock().clone()
    }

    /// Index of the last entry applied.
    pub fn applied_index(&self) -> u64 {
        self.0.applied.get()
    }

    /// Age of the write to the log that is under way; zero when none is.
    pub fn log_write_age(&self) -> Duration {
        self.0.watch.age(Instant::now())
    }

    /// A fresh request id.
    pub fn next_id(&self) -> u64 {
        self.0.ids.next()
    }

    /// Whether so much is committed and not applied yet that this proposal is refused. What makes room may be
    /// taken for longer.
    pub fn refuses(&self, request: &InternalRaftRequest) -> bool {
        let first = self.0.config.upkeep.priority_requests && request.lease_revoke.is_some();
        let most = if first {
            PRIORITY_BACKLOG_MAX
        } else {
            BACKLOG_MAX
        };
        self.backlog() > most
    }

    fn backlog(&self) -> u64 {
        self.0
            .status
            .committed()
            .saturating_sub(self.applied_index())
    }

    /// Puts a request into the log and waits until this member has applied it.
    ///
    /// # Errors
    /// [`Error`]; after a time-out the request may still be applied.
    pub fn propose(&self, request: InternalRaftRequest) -> impl Future<Output = Answer> + Send {
        self.propose_until(request, None)
    }

    /// As [`Node::propose`], for somebody who may not wait as long as that.
    ///
    /// # Errors
    /// [`Error`]; after a time-out the request may still be applied.
    pub fn propose_until(
        &self,
        request: InternalRaftRequest,
        deadline: Option<Instant>,
    ) -> impl Future<Output = Answer> + Send {
        // Encoded before the first await: the request is a large struct, and not to be kept with the call.
        let taken = if self.refuses(&request) {
            Err(Error::TooManyRequests)
        } else {
            let asked = Asked::new(self, operation(&request));
            Ok((asked, self.proposal(request)))
        };
        async move {
            let (asked, proposal) = taken?;
            let mut timeout = self.0.config.request_timeout();
            if let Some(deadline) = deadline {
                timeout = timeout.min(deadline.saturating_duration_since(Instant::now()));
            }
            let outcome = match proposal {
                Ok(proposal) => {
                    self.wait_for(proposal.id, Input::Propose(proposal), Some(timeout))
                        .await
                }
                Err(error) => Err(error),
            };
            asked.answered(&outcome);
            outcome
        }
    }

    fn proposal(&self, mut request: InternalRaftRequest) -> Result<Proposal, Error> {
        let id = self.next_id();
        request.header = Some(RequestHeader {
            id,
            ..request.header.unwrap_or_default()
        });
        if request.encoded_len() > self.0.config.max_request_bytes {
            return Err(Error::TooLarge);
        }
        let data = Bytes::from(request.encode_to_vec());
        Ok(Proposal { id, data })
    }

    /// Puts a membership change into the log and waits until it is applied. No limit of its own.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn propose_conf_change(&self, change: ConfChange) -> Answer {
        let id = self.next_id();
        let _withdrawn = Withdrawal { node: self, id };
        self.wait_for(
            id,
            Input::ProposeConfChange(ConfChange { id, ..change }),
            None,
        )
        .await
    }

    async fn wait_for(
        &self,
        id: u64,
        input: Input<ReadWaiter>,
        timeout: Option<Duration>,
    ) -> Answer {
        let started = Instant::now();
        let answer = self.0.waiters.register(id);
        let waiter = Waiter { node: self, id };
        if port::submit(&self.0.raft, input).is_err() {
            return Err(Error::TooManyRequests);
        }
        let outcome = match timeout {
            None => answer.await.unwrap_or(Err(Error::Stopped)),
            Some(timeout) => match tokio::time::timeout(timeout, answer).await {
                Ok(answered) => answered.unwrap_or(Err(Error::Stopped)),
                Err(_) => Err(self.why_late(started)),
            },
        };
        drop(waiter);
        outcome
    }

    /// Names the likely cause of a proposal that got no answer.
    fn why_late(&self, started: Instant) -> Error {
        let status = &self.0.status;
        if status.leaderless_since(started) {
            // It was held back all the while, and is in no log.
            return Error::DeadlineExceeded;
        }
        if let Some(elected) = status.elected()
            && started < elected
            && elected < started + self.0.config.election_timeout() * 2
        {
            return Error::TimeoutLeaderFailure;
        }
        let connected = |id| {
            self.0
                .transport
                .active_since(id)
                .is_some_and(|since| since < started)
        };
        let leader = status.leader();
        let up = if leader == 0 {
            true
        } else if leader == self.0.member_id {
            // Learners count, as in the original.
            let cluster = self.0.published.get_cluster();
            let reached = cluster
                .members
                .keys()
                .filter(|id| **id == self.0.member_id || connected(**id))
                .count();
            reached > cluster.members.len() / 2
        } else {
            connected(leader)
        };
        if up {
            Error::Timeout
        } else {
            Error::TimeoutConnectionLost
        }
    }

    /// Returns once everything committed before the call is applied here and a quorum has confirmed
    /// the leader after the call began.
    ///
    /// # Errors
    /// [`Error::LeaderChanged`], [`Error::Timeout`], [`Error::Stopped`].
    pub async fn linearizable(&self) -> Result<(), Error> {
        let (reply, receiver) = port::Reply::channel();
        if let Some(index) = self.0.status.reads_alone_at() {
            // Nobody else can lead or commit: what is committed now is all that a quorum could confirm.
            if self.0.applied.wait(index, reply).is_some() {
                return Ok(());
            }
        } else if port::submit(&self.0.raft, Input::Read(reply)).is_err() {
            return Err(Error::TooManyRequests);
        }
        match tokio::time::timeout(self.0.config.request_timeout(), receiver).await {
            Ok(answered) => answered.unwrap_or(Err(Error::Stopped)),
            Err(_) => Err(Error::Timeout),
        }
    }

    /// Waits until an entry is applied here, however long that takes. For entries that are known to be committed:
    /// whoever waits is kept until then, even if its caller goes away.
    ///
    /// # Errors
    /// [`Error::Stopped`].
    pub async fn wait_applied_index(&self, index: u64) -> Result<(), Error> {
        let (reply, receiver) = port::Reply::channel();
        match self.0.applied.wait(index, reply) {
            Some(_) => Ok(()),
            None => receiver.await.unwrap_or(Err(Error::Stopped)),
        }
    }

    /// Gathers what the calls of this thread submit and brings them their answers, until dropped. To be
    /// spawned once on the runtime of each thread that serves clients; without it everything works, at the
    /// price of a wake-up for each call.
    pub async fn serve_port(self) {
        let queue = self.0.raft.clone();
        port::serve(queue, |refused| match refused {
            Input::Propose(proposal) => self
                .0
                .waiters
                .answer(proposal.id, Err(Error::TooManyRequests)),
            Input::ProposeInTerm { proposal, .. } => self
                .0
                .waiters
                .answer(proposal.id, Err(Error::TooManyRequests)),
            Input::ProposeConfChange(change) => self
                .0
                .waiters
                .answer(change.id, Err(Error::TooManyRequests)),
            Input::Read(reply) => reply.send(Err(Error::TooManyRequests)),
            // Only the above are submitted by calls.
            _ => {}
        })
        .await;
    }

    /// Answers a request that waited for an alarm to be raised.
    pub fn answer(&self, id: u64, answer: Answer) {
        self.0.waiters.answer(id, answer);
    }

    /// Writes the storage version into the database.
    pub fn set_storage_version(&self, version: ferrite_membership::Version) {
        self.0.apply.push(ApplyCommand::StorageVersion(version));
    }

    /// Jumps the election clock ahead.
    pub fn advance_election(&self, ticks: usize) {
        self.0.raft.push(Input::AdvanceTicks(ticks));
    }

    /// Hands leadership to a member and waits until it leads: as long as the caller waits, as in the original.
    ///
    /// # Errors
    /// [`Error::NotLeader`], [`Error::BadTransferee`], [`Error::TransferTimeout`].
    pub async fn move_leader(&self, to: u64, deadline: Option<Instant>) -> Result<(), Error> {
        if !self.0.status.is_leader() {
            return Err(Error::NotLeader);
        }
        let cluster = self.0.published.get_cluster();
        if cluster.member(to).is_none_or(|member| member.is_learner) {
            return Err(Error::BadTransferee);
        }
        let started = Instant::now();
        let mut leader = self.0.status.watch_leader();
        tracing::info!(
            "local-member-id" = %hex(self.0.member_id),
            "transferee-member-id" = %hex(to),
            "leadership transfer starting"
        );
        self.0.raft.push(Input::TransferLeader(to));
        let arrived = leader.wait_for(|id| *id == to);
        let arrived = match deadline {
            None => arrived.await.is_ok(),
            Some(deadline) => {
                let arrived = tokio::time::timeout_at(deadline.into(), arrived).await;
                matches!(arrived, Ok(Ok(_)))
            }
        };
        if !arrived {
            return Err(Error::TransferTimeout);
        }
        tracing::info!(
            "local-member-id" = %hex(self.0.member_id),
            "new-leader-member-id" = %hex(to),
            took = ?started.elapsed(),
            "leadership transfer finished"
        );
        Ok(())
    }

    /// Before a stop: hands leadership to the voter that has been connected longest.
    pub async fn hand_over(&self) {
        let member = hex(self.0.member_id);
        if !self.0.status.is_leader() {
            tracing::info!("local-member-id" = %member, "skipped leadership transfer; local server is not leader");
            return;
        }
        let cluster = self.0.published.get_cluster();
        if cluster.voters().count() < 2 {
            tracing::info!("local-member-id" = %member, "skipped leadership transfer for single voting member cluster");
            return;
        }
        let longest = cluster
            .voters()
            .filter(|voter| voter.id != self.0.member_id)
            .filter_map(|voter| Some((self.0.transport.active_since(voter.id)?, voter.id)))
            .min();
        let outcome = match longest {
            None => Err("no other voter is connected".to_owned()),
            Some((_, to)) => self
                .move_leader(to, Some(Instant::now() + self.0.config.election_timeout()))
                .await
                .map_err(|error| error.to_string()),
        };
        if let Err(error) = outcome {
            tracing::warn!("local-member-id" = %member, error, "leadership transfer failed");
        }
    }

    /// Blocks until everything applied so far is in the database file; false when the node is stopping.
    pub fn flush(&self) -> bool {
        let (reply, flushed) = std::sync::mpsc::channel();
        self.0.apply.push(ApplyCommand::Flush(reply));
        flushed.recv().is_ok()
    }

    /// Rewrites this member's database file without its free pages, everything applied so far included. Reads
    /// and writes go on meanwhile.
    ///
    /// # Errors
    /// Why the file was not rewritten; the old one stays then. The node is stopping.
    pub async fn defragment(&self) -> Result<(), String> {
        const STOPPED: &str = "etcdserver: server stopped";
        let node = self.clone();
        if !matches!(
            tokio::task::spawn_blocking(move || node.flush()).await,
            Ok(true)
        ) {
            return Err(STOPPED.into());
        }
        let ticket = self.next_id();
        let done = self.0.defragmentations.register(ticket);
        self.0.commit.push(CommitCommand::Defragment { ticket });
        done.await.unwrap_or_else(|_| Err(STOPPED.into()))
    }

    /// Stops the threads in order, so that everything applied is in the database file.
    pub fn stop(&self) {
        let Some(threads) = self.0.threads.lock().take() else {
            return;
        };
        self.0.leases.stop();
        self.0.transport.stop();
        self.0.raft.close();
        let mut panicked = threads.raft.join().is_err();
        let (reply, flushed) = std::sync::mpsc::channel();
        self.0.apply.push(ApplyCommand::Flush(reply));
        // A thread that has ended with an error drops the sender: nothing to wait for then.
        let _ended = flushed.recv_timeout(Duration::from_secs(10));
        self.0.apply.close();
        panicked |= threads.apply.join().is_err();
        self.0.commit.close();
        self.0.defragmentations.clear();
        panicked |= threads.commit.join().is_err();
        self.0.wal.close();
        panicked |= threads.wal.join().is_err();
        if panicked {
            tracing::error!("a thread of the node panicked");
        }
    }

    /// What the threads do, each named after its queue.
    pub fn loads(&self) -> [(&'static str, queue::Load); 4] {
        let now = Instant::now();
        [
            ("raft", self.0.raft.load(now)),
            ("wal", self.0.wal.load(now)),
            ("apply", self.0.apply.load(now)),
            ("commit", self.0.commit.load(now)),
        ]
    }

    /// Lengths of the queues between the threads, by name.
    pub fn queue_lengths(&self) -> BTreeMap<&'static str, usize> {
        BTreeMap::from([
            ("apply", self.0.apply.len()),
            ("commit", self.0.commit.len()),
            ("raft", self.0.raft.len()),
            ("wal", self.0.wal.len()),
        ])
    }
}

/// A request on its way to its answer. What becomes of it is counted, also when the caller goes away.
struct Asked<'a> {
    metrics: &'a Metrics,
    operation: Operation,
    started: Instant,
    /// Whether it is to be counted as one that failed when this is dropped.
    open: bool,
}

impl<'a> Asked<'a> {
    fn new(node: &'a Node, operation: Operation) -> Self {
        Asked {
            metrics: node.metrics(),
            operation,
            started: Instant::now(),
            open: true,
        }
    }

    /// As in the original, what the state machine refuses has been answered well.
    fn answered(mut self, outcome: &Answer) {
        self.open = false;
        let success = matches!(outcome, Ok(_) | Err(Error::Apply(_)));
        if !success && !matches!(outcome, Err(Error::TooLarge | Error::Stopped)) {
            self.metrics.proposals_failed.inc();
        }
        self.ended(success);
    }

    fn ended(&self, success: bool) {
        let took = self.started.elapsed();
        self.metrics.request.observe(self.operation, success, took);
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if self.open {
            self.metrics.proposals_failed.inc();
            self.ended(false);
        }
    }
}

/// Forgets the waiter when the caller goes away.
struct Waiter<'a> {
    node: &'a Node,
    id: u64,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.node.0.waiters.forget(self.id);
    }
}

/// Takes a membership change back when its caller goes away; once it is in the log this does nothing.
struct Withdrawal<'a> {
    node: &'a Node,
    id: u64,
}

impl Drop for Withdrawal<'_> {
    fn drop(&mut self) {
        self.node.0.raft.push(Input::Withdraw(self.id));
    }
}

/// An ID as etcd prints it.
pub fn hex(id: u64) -> String {
    format!("{id:x}")
}

/// Another number at every start, whatever the clock says.
fn chance(unix_ms: u64) -> u64 {
    // Without the system's randomness the clock has to do.
    getrandom::u64().unwrap_or(unix_ms << 20 | u64::from(std::process::id()))
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, StartError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(run)
        .map_err(StartError::Thread)
}

fn peer_config(config: &Config, member_id: &u64, cluster_id: u64) -> ferrite_peer::Config {
    ferrite_peer::Config {
        member_id: *member_id,
        cluster_id,
        local_peer_urls: config.peer_urls.clone(),
        server_version: config::ETCD_VERSION.into(),
        min_cluster_version: config::MIN_CLUSTER_VERSION.into(),
        snap_dir: config.snap_dir(),
        dial_timeout: Duration::from_secs(1) + config.election_timeout(),
        read_timeout: config.peer_read_timeout,
        write_timeout: config.peer_write_timeout,
        connections_max: config.peer_connections_max,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BG-07.
    #[test]
    fn members_are_dialled_for_a_second_and_an_election_timeout() {
        let mut config = config::tests::alone(std::path::Path::new("/nonexistent"));
        let limit = |config: &Config| peer_config(config, &1, 2).dial_timeout;
        assert_eq!(limit(&config), Duration::from_secs(2));
        config.election_ticks = 50;
        assert_eq!(limit(&config), Duration::from_secs(6));
    }
}
