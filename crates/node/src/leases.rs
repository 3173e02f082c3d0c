//! How long leases live: the leader judges it, keeps it in memory, and answers everybody who asks.
//!
//! What is over is revoked by a proposal that counts only in the very term it was decided in, after a
//! quorum has confirmed the leader. Renewals never go through the log. A member that does not lead
//! holds no deadline; it passes questions on to the leader's peer port.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferrite_apply::{ApplyError, AuthView, LeaseView, ROOT, operation};
use ferrite_lease::{CHECKPOINTS_MAX, Expiry, Renewal};
use ferrite_mutate::mutation;
use ferrite_peer::{FetchError, HttpClient, HttpReply};
use ferrite_proto::etcdserverpb::{
    InternalRaftRequest, LeaseCheckpoint, LeaseCheckpointRequest, LeaseKeepAliveRequest,
    LeaseKeepAliveResponse, LeaseRevokeRequest, LeaseTimeToLiveRequest, RequestHeader,
};
use ferrite_proto::leasepb::{LeaseInternalRequest, LeaseInternalResponse};
use http::{Method, StatusCode};
use parking_lot::Mutex;
use prost::Message;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::JoinSet;

use crate::stage::apply::LeaseChange;
use crate::stage::raft::{Input, Proposal};
use crate::{Answer, Asked, Error, Node, Status};

/// Pause between two passes over what is over.
pub const PASS_INTERVAL: Duration = Duration::from_millis(500);
/// Leases a pass revokes at most.
const PASS_LEASES_MAX: usize = 500;
/// Revocations under way at once.
const REVOKES_MAX: usize = 16;
/// Entries with notes of remaining times that a pass writes at most.
const NOTE_BATCHES_MAX: usize = 500;
/// How long a question about leases waits for what is committed to be applied.
const APPLY_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause before the leader is asked again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// The longest answer taken from another member: it may name every key of a lease.
const REPLY_BYTES_MAX: usize = 100 << 20;
/// Where renewals are forwarded to.
pub const RENEW_PATH: &str = "/leases";
/// Where other questions about leases are forwarded to.
pub const INTERNAL_PATH: &str = "/leases/internal";

/// What is left of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimeToLive {
    /// Whole seconds left; 0 or less once it is over and not revoked yet.
    pub remaining_seconds: i64,
    /// Seconds granted.
    pub granted_seconds: i64,
    /// The keys on it, if they were asked for.
    pub keys: Vec<Bytes>,
}

/// Deadlines, and who waits for the end of a lease.
pub struct Leases {
    view: LeaseView,
    status: Arc<Status>,
    /// Added to every lease at the beginning of a term.
    extend: Duration,
    origin: Instant,
    state: Mutex<State>,
    /// Something is due earlier than before.
    wake: Notify,
    stopping: watch::Sender<bool>,
}

struct State {
    expiry: Expiry,
    /// Clients that renew a lease which is over: answered when it is revoked, or by the next leader.
    over: BTreeMap<i64, Vec<oneshot::Sender<()>>>,
}

/// What came of a renewal.
#[derive(Debug)]
pub enum Attempt {
    /// The lease lives on, for this many seconds.
    Renewed(i64),
    /// There is no such lease.
    NotFound,
    /// This member does not judge leases.
    NotPrimary,
    /// It is over and not revoked yet; the channel closes when it is, or when another judges.
    Over(oneshot::Receiver<()>),
}

impl Leases {
    /// Deadlines of the leases of `view`, none yet.
    pub fn new(
        view: LeaseView,
        status: Arc<Status>,
        extend: Duration,
        checkpoint_interval: Option<Duration>,
        now: Instant,
    ) -> Self {
        Leases {
            view,
            status,
            extend,
            origin: now,
            state: Mutex::new(State {
                expiry: checkpoint_interval.map_or_else(Expiry::default, Expiry::with_checkpoints),
                over: BTreeMap::new(),
            }),
            wake: Notify::new(),
            stopping: watch::Sender::new(false),
        }
    }

    fn clock(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.origin)
    }

    /// Whether this member still leads in the term its deadlines belong to.
    pub fn leads_in(&self, term: Option<u64>) -> bool {
        let leads = term == Some(self.status.term()) && self.status.is_leader();
        leads || mutation!("expire-when-deposed")
    }

    /// Follows what has been applied.
    pub fn follow(&self, changes: &[LeaseChange], now: Instant) {
        let now = self.clock(now);
        let mut state = self.state.lock();
        for change in changes {
            match *change {
                LeaseChange::FirstOfTerm(term) => {
                    if self.leads_in(Some(term)) {
                        let leases: Vec<(i64, i64)> = self
                            .view
                            .all()
                            .into_iter()
                            .map(|(id, lives)| (id, lives.restart_seconds()))
                            .collect();
                        state.expiry.promote(term, now, self.extend, &leases);
                        // Whoever waited for an end in an earlier term: it is put off.
                        state.over.clear();
                        self.wake.notify_one();
                    }
                }
                LeaseChange::Granted { id, ttl_seconds } => {
                    if state.expiry.granted(id, ttl_seconds, now) {
                        self.wake.notify_one();
                    }
                }
                LeaseChange::Revoked(id) => {
                    state.expiry.revoked(id);
                    // Dropping the senders wakes them.
                    state.over.remove(&id);
                }
            }
        }
    }

    pub(crate) fn stop(&self) {
        self.stopping.send_replace(true);
    }

    /// Drops every deadline unless this member still leads in their term.
    pub fn demote_if_over(&self) {
        let mut state = self.state.lock();
        if state.expiry.term().is_some() && !self.leads_in(state.expiry.term()) {
            state.expiry.demote();
            state.over.clear();
        }
    }

    /// The term this member judges leases in, if it does.
    pub fn judges_in(&self) -> Option<u64> {
        self.state.lock().expiry.term()
    }

    /// Some of the leases that are over. To be revoked in the very term they were judged in, once a quorum
    /// has confirmed it; they are due again at `retry`, in case that does not come about.
    pub fn take_expired(&self, now: Instant, retry: Instant) -> Vec<i64> {
        let mut state = self.state.lock();
        state
            .expiry
            .take_expired(self.clock(now), PASS_LEASES_MAX, self.clock(retry))
    }

    /// Some of the notes of remaining times that are due, and whether there may be more.
    pub fn take_notes(&self, now: Instant) -> (Vec<LeaseCheckpoint>, bool) {
        let mut state = self.state.lock();
        let due = state
            .expiry
            .take_checkpoints(self.clock(now), CHECKPOINTS_MAX);
        let more = due.len() == CHECKPOINTS_MAX;
        let notes = due
            .into_iter()
            .map(|(id, remaining_ttl)| LeaseCheckpoint { id, remaining_ttl })
            .collect();
        (notes, more)
    }

    /// Tries to renew a lease by this member's own judgement.
    pub fn try_renew(&self, id: i64, now: Instant) -> Attempt {
        let Some(lives) = self.view.lives(id) else {
            return if self.leads_in(self.state.lock().expiry.term()) {
                Attempt::NotFound
            } else {
                Attempt::NotPrimary
            };
        };
        let now = self.clock(now);
        let mut state = self.state.lock();
        if !self.leads_in(state.expiry.term()) {
            return Attempt::NotPrimary;
        }
        match state.expiry.renew(id, lives.ttl_seconds, now) {
            Renewal::Renewed => Attempt::Renewed(lives.ttl_seconds),
            Renewal::Unknown => Attempt::NotFound,
            Renewal::NotPrimary => Attempt::NotPrimary,
            Renewal::Over => {
                let (sender, receiver) = oneshot::channel();
                let waiting = state.over.entry(id).or_default();
                waiting.retain(|waiter| !waiter.is_closed());
                waiting.push(sender);
                Attempt::Over(receiver)
            }
        }
    }

    /// IDs of all leases: those that end first come first on the leader, in no particular order elsewhere.
    pub fn ids(&self) -> Vec<i64> {
        let state = self.state.lock();
        if self.leads_in(state.expiry.term()) {
            return state.expiry.by_deadline();
        }
        drop(state);
        self.view.ids()
    }

    /// The keys on a lease, as far as this member has applied; `None` when there is no such lease.
    pub fn keys(&self, id: i64) -> Option<Vec<Box<[u8]>>> {
        self.view.keys(id)
    }

    /// When something is due next.
    pub fn next_due(&self) -> Option<Instant> {
        let state = self.state.lock();
        let (over, note) = (state.expiry.next_due(), state.expiry.next_checkpoint());
        over.into_iter()
            .chain(note)
            .min()
            .and_then(|due| self.origin.checked_add(due))
    }
}

/// Whether a member that takes itself for the leader may judge leases. One whose raft thread has stood still may
/// have been replaced meanwhile: it asks the quorum first, and looks again what it is afterwards.
async fn confirmed(
    at_work: bool,
    quorum: impl Future<Output = Result<(), Error>>,
    leads: impl Fn() -> bool,
) -> bool {
    if !at_work && quorum.await.is_err() {
        return false;
    }
    leads()
}

/// Revokes what is over, as long as this member leads. Ends when the node stops.
pub(crate) async fn expire(node: Node) {
    let leases = Arc::clone(node.leases());
    let mut stopping = leases.stopping.subscribe();
    tokio::select! {
        () = run(&node) => {}
        _ = stopping.wait_for(|stop| *stop) => {}
    }
}

async fn run(node: &Node) {
    let leases = node.leases();
    let mut leader = node.status().watch_leader();
    let mut not_before = Instant::now();
    loop {
        leader.mark_unchanged();
        leases.demote_if_over();
        let due = leases.next_due().map(|due| due.max(not_before));
        tokio::select! {
            _ = leader.changed() => continue,
            () = leases.wake.notified() => continue,
            () = at(due) => {}
        }
        not_before = Instant::now() + PASS_INTERVAL;
        tokio::select! {
            () = pass(node) => {}
            _ = leader.changed() => {}
        }
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Revokes some of what is over, and notes what is left of the others.
async fn pass(node: &Node) {
    let leases = node.leases();
    let Some(term) = leases.judges_in() else {
        return;
    };
    // A leader that slept may believe that it leads, and that everything is over.
    if node.linearizable().await.is_err() || !leases.leads_in(Some(term)) {
        tracing::warn!(
            "local-member-id" = %crate::hex(node.member_id()),
            "revoked no expired lease: this member cannot confirm that it leads"
        );
        return;
    }
    let now = Instant::now();
    let expired = leases.take_expired(now, now + node.config().request_timeout());
    let mut under_way = JoinSet::new();
    for id in expired {
        if under_way.len() >= REVOKES_MAX {
            under_way.join_next().await;
        }
        if !leases.leads_in(Some(term)) {
            return;
        }
        let node = node.clone();
        node.metrics().lease_expired.inc();
        under_way.spawn(async move { revoke(&node, term, id).await });
    }
    while under_way.join_next().await.is_some() {}
    note(node, term).await;
}

/// Writes down what is left of long leases, so that the next leader does not begin them anew.
async fn note(node: &Node, term: u64) {
    let leases = node.leases();
    for _ in 0..NOTE_BATCHES_MAX {
        let (checkpoints, more) = leases.take_notes(Instant::now());
        if !checkpoints.is_empty() {
            let request = InternalRaftRequest {
                lease_checkpoint: Some(LeaseCheckpointRequest { checkpoints }),
                ..InternalRaftRequest::default()
            };
            if let Err(error) = node.propose_in_term(term, request).await {
                tracing::warn!(error = %error, "failed to checkpoint leases");
                return;
            }
        }
        if !more || !leases.leads_in(Some(term)) {
            return;
        }
    }
}

/// What revokes a lease.
pub fn revocation(id: i64) -> InternalRaftRequest {
    InternalRaftRequest {
        lease_revoke: Some(LeaseRevokeRequest { id }),
        ..InternalRaftRequest::default()
    }
}

/// The header of what a member proposes by itself. With authentication on it goes as root's: members of
/// both kinds ask who wants a lease revoked.
pub fn own_header(id: u64, auth: &AuthView) -> RequestHeader {
    let auth = auth.state();
    if auth.enabled() {
        RequestHeader {
            id,
            username: ROOT.to_owned(),
            auth_revision: auth.revision(),
        }
    } else {
        RequestHeader {
            id,
            ..RequestHeader::default()
        }
    }
}

async fn revoke(node: &Node, term: u64, id: i64) {
    match node.propose_in_term(term, revocation(id)).await {
        // Somebody else revoked it meanwhile.
        Ok(_) | Err(Error::Apply(ApplyError::LeaseNotFound)) => {}
        Err(error) => {
            tracing::warn!("lease-id" = %format!("{id:016x}"), error = %error, "failed to revoke lease");
        }
    }
}

/// What another member answered.
enum Forwarded<T> {
    Answered(T),
    NotFound,
    /// Not reached, or not able to answer now.
    Again,
}

fn forwarded<T>(
    reply: Result<HttpReply, FetchError>,
    read: impl FnOnce(Bytes) -> Option<T>,
) -> Forwarded<T> {
    match reply {
        Ok(reply) if reply.status == StatusCode::OK => {
            read(reply.body).map_or(Forwarded::Again, Forwarded::Answered)
        }
        Ok(reply) if reply.status == StatusCode::NOT_FOUND => Forwarded::NotFound,
        Ok(_) | Err(_) => Forwarded::Again,
    }
}

impl Node {
    /// The leases, as this member sees them.
    pub fn leases(&self) -> &Arc<Leases> {
        &self.0.leases
    }

    /// Puts a request into the log, if this member leads in this term when the request gets there.
    async fn propose_in_term(&self, term: u64, mut request: InternalRaftRequest) -> Answer {
        let id = self.next_id();
        request.header = Some(own_header(id, self.auth()));
        let proposal = Proposal {
            id,
            data: Bytes::from(request.encode_to_vec()),
        };
        let asked = Asked::new(self, operation(&request));
        let timeout = self.0.config.request_timeout();
        let outcome = self
            .wait_for(id, Input::ProposeInTerm { term, proposal }, Some(timeout))
            .await;
        asked.answered(&outcome);
        outcome
    }

    /// Whether this member leads: by its own knowledge as long as its raft thread is at work, by a
    /// quorum's word otherwise.
    async fn confirms_leadership(&self) -> bool {
        let status = self.status();
        let at_work = status.is_fresh(Instant::now(), self.0.config.tick);
        confirmed(at_work, self.linearizable(), || status.is_leader()).await
    }

    /// Waits until what is committed now is applied here.
    ///
    /// # Errors
    /// [`Error::AppliedIndexTimeout`], [`Error::Stopped`].
    pub async fn wait_applied(&self) -> Result<(), Error> {
        let applied = self.wait_applied_index(self.0.status.committed());
        match tokio::time::timeout(APPLY_TIMEOUT, applied).await {
            Ok(answered) => answered,
            Err(_) => Err(Error::AppliedIndexTimeout),
        }
    }

    /// Renews a lease on this member. For one that is over this waits until it is gone.
    async fn renew_here(&self, id: i64) -> Result<i64, Error> {
        loop {
            match self.0.leases.try_renew(id, Instant::now()) {
                Attempt::NotFound => return Err(Error::Apply(ApplyError::LeaseNotFound)),
                Attempt::NotPrimary => return Err(Error::NotPrimary),
                Attempt::Over(gone) => {
                    let _either_way = gone.await;
                }
                Attempt::Renewed(ttl) => {
                    self.metrics().lease_renewed.inc();
                    self.clear_checkpoint(id).await?;
                    return Ok(ttl);
                }
            }
        }
    }

    /// A renewed lease has its whole time again, for the next leader too. Costs an entry of the log once
    /// after a checkpoint, which members write only with etcd's gate LeaseCheckpoint.
    async fn clear_checkpoint(&self, id: i64) -> Result<(), Error> {
        if self
            .0
            .leases
            .view
            .lives(id)
            .is_none_or(|lives| lives.checkpoint_seconds == 0)
        {
            return Ok(());
        }
        let checkpoints = vec![LeaseCheckpoint {
            id,
            remaining_ttl: 0,
        }];
        let request = InternalRaftRequest {
            lease_checkpoint: Some(LeaseCheckpointRequest { checkpoints }),
            ..InternalRaftRequest::default()
        };
        self.propose(request).await.map(drop)
    }

    /// Renews a lease, here or on the leader. Returns its whole time-to-live in seconds.
    ///
    /// # Errors
    /// [`ApplyError::LeaseNotFound`]; [`Error::NotPrimary`] when this member cannot confirm that it leads;
    /// [`Error::NoLeader`], [`Error::Timeout`], [`Error::AppliedIndexTimeout`], [`Error::Stopped`].
    pub async fn renew_lease(&self, id: i64) -> Result<i64, Error> {
        if self.status().is_leader() {
            if !self.confirms_leadership().await {
                return Err(Error::NotPrimary);
            }
            // It may be granted and not applied yet.
            if !self.0.config.upkeep.fast_lease_renewal || self.0.leases.view.lives(id).is_none() {
                self.wait_applied().await?;
            }
            match self.renew_here(id).await {
                Err(Error::NotPrimary) => {}
                answered => return answered,
            }
        }
        let body = Bytes::from(LeaseKeepAliveRequest { id }.encode_to_vec());
        let ask = |client: HttpClient, url: String| {
            let body = body.clone();
            async move {
                let reply = client
                    .request(&url, Method::POST, RENEW_PATH, PROTOBUF, body)
                    .await;
                forwarded(reply, |body| {
                    let reply = LeaseKeepAliveResponse::decode(body).ok()?;
                    (reply.id == id).then_some(reply.ttl)
                })
            }
        };
        let here = || async {
            match self.renew_here(id).await {
                Err(Error::NotPrimary) => Ok(None),
                answered => answered.map(Some),
            }
        };
        self.by_leader(here, ask).await
    }

    /// Renews a lease for another member, which takes this one for the leader.
    ///
    /// # Errors
    /// As [`Node::renew_lease`], but nothing is forwarded once more.
    pub async fn renew_lease_for_peer(&self, id: i64) -> Result<i64, Error> {
        self.wait_applied().await?;
        if !self.confirms_leadership().await {
            return Err(Error::NotPrimary);
        }
        self.renew_here(id).await
    }

    /// What is left of a lease, by the leader's word; `None` when there is no such lease.
    ///
    /// # Errors
    /// [`Error::LeaderChanged`], [`Error::NoLeader`], [`Error::Timeout`], [`Error::AppliedIndexTimeout`],
    /// [`Error::Stopped`].
    pub async fn lease_time_to_live(
        &self,
        id: i64,
        keys: bool,
    ) -> Result<Option<TimeToLive>, Error> {
        if self.status().is_leader() {
            return self.lease_time_to_live_here(id, keys).await;
        }
        let request = LeaseInternalRequest {
            lease_time_to_live_request: Some(LeaseTimeToLiveRequest { id, keys }),
        };
        let body = Bytes::from(request.encode_to_vec());
        let ask = |client: HttpClient, url: String| {
            let body = body.clone();
            async move {
                let reply = client
                    .request(&url, Method::POST, INTERNAL_PATH, PROTOBUF, body)
                    .await;
                forwarded(reply, |body| {
                    let reply = LeaseInternalResponse::decode(body)
                        .ok()?
                        .lease_time_to_live_response?;
                    (reply.id == id).then_some(TimeToLive {
                        remaining_seconds: reply.ttl,
                        granted_seconds: reply.granted_ttl,
                        keys: reply.keys,
                    })
                })
            }
        };
        let here = || async {
            match self.lease_time_to_live_here(id, keys).await {
                Ok(Some(found)) => Ok(Some(found)),
                Ok(None) => Err(Error::Apply(ApplyError::LeaseNotFound)),
                Err(Error::LeaderChanged) => Ok(None),
                Err(error) => Err(error),
            }
        };
        match self.by_leader(here, ask).await {
            Ok(found) => Ok(Some(found)),
            Err(Error::Apply(ApplyError::LeaseNotFound)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is left of a lease, by this member's own word, which counts only on the leader.
    ///
    /// # Errors
    /// [`Error::LeaderChanged`] when this member does not lead; [`Error::AppliedIndexTimeout`], [`Error::Stopped`].
    pub async fn lease_time_to_live_here(
        &self,
        id: i64,
        keys: bool,
    ) -> Result<Option<TimeToLive>, Error> {
        self.wait_applied().await?;
        let leases = &self.0.leases;
        let Some(lives) = leases.view.lives(id) else {
            return Ok(None);
        };
        let keys = if keys {
            let keys = leases.view.keys(id).unwrap_or_default();
            keys.into_iter()
                .map(|key| Bytes::from(key.into_vec()))
                .collect()
        } else {
            Vec::new()
        };
        let state = leases.state.lock();
        if !leases.leads_in(state.expiry.term()) {
            return Err(Error::LeaderChanged);
        }
        let remaining = state
            .expiry
            .remaining_seconds(id, leases.clock(Instant::now()));
        Ok(remaining.map(|remaining_seconds| TimeToLive {
            remaining_seconds,
            granted_seconds: lives.ttl_seconds,
            keys,
        }))
    }

    /// Asks whoever leads until there is an answer: `here` when it is this member (`None`: not able to
    /// answer yet), `ask` with each of its peer URLs otherwise.
    async fn by_leader<T, H, A>(
        &self,
        here: impl Fn() -> H,
        ask: impl Fn(HttpClient, String) -> A,
    ) -> Result<T, Error>
    where
        H: Future<Output = Result<Option<T>, Error>>,
        A: Future<Output = Forwarded<T>>,
    {
        let timeout = self.0.config.request_timeout();
        let client = HttpClient::new(&self.0.config.dialer, timeout, REPLY_BYTES_MAX);
        let mut leader = self.status().watch_leader();
        let mut stopping = self.0.leases.stopping.subscribe();
        let work = async {
            loop {
                let id = match leader.wait_for(|id| *id != 0).await {
                    Ok(id) => *id,
                    Err(_) => return Err(Error::Stopped),
                };
                if id == self.0.member_id {
                    if self.confirms_leadership().await
                        && let Some(answer) = here().await?
                    {
                        return Ok(answer);
                    }
                } else if let Some(member) = self.0.published.get_cluster().member(id) {
                    if member.peer_urls.is_empty() {
                        return Err(Error::NoLeader);
                    }
                    for url in &member.peer_urls {
                        // One that has lost the lead may never answer: look who leads now.
                        let changed =
                            async { leader.clone().wait_for(|now| *now != id).await.is_ok() };
                        let answer = tokio::select! {
                            answer = ask(client.clone(), url.clone()) => answer,
                            _ = changed => Forwarded::Again,
                        };
                        match answer {
                            Forwarded::Answered(answer) => return Ok(answer),
                            Forwarded::NotFound => {
                                return Err(Error::Apply(ApplyError::LeaseNotFound));
                            }
                            Forwarded::Again => {}
                        }
                    }
                }
                tokio::time::sleep(RETRY_PAUSE).await;
            }
        };
        tokio::select! {
            done = tokio::time::timeout(timeout, work) => match done {
                Ok(done) => done,
                Err(_) if self.status().leader() == 0 => Err(Error::NoLeader),
                Err(_) => Err(Error::Timeout),
            },
            _ = stopping.wait_for(|stop| *stop) => Err(Error::Stopped),
        }
    }
}

const PROTOBUF: &[(&str, &str)] = &[("Content-Type", "application/protobuf")];

#[cfg(test)]
mod tests {
    use super::*;

    /// LE-03, LE-08: whoever is not confirmed answers that it is not a primary lessor.
    #[tokio::test]
    async fn a_leader_that_stood_still_judges_no_lease_before_a_quorum_confirms_it() {
        let asked = std::cell::Cell::new(0);
        let quorum = async |answer: Result<(), Error>| {
            asked.set(asked.get() + 1);
            answer
        };
        assert!(confirmed(true, quorum(Err(Error::Timeout)), || true).await);
        assert_eq!(asked.get(), 0, "at work, it asks nobody");
        assert!(!confirmed(false, quorum(Err(Error::Timeout)), || true).await);
        assert!(confirmed(false, quorum(Ok(())), || true).await);
        // Another leads by the time of the answer.
        assert!(!confirmed(false, quorum(Ok(())), || false).await);
        assert!(!confirmed(true, quorum(Ok(())), || false).await);
        assert_eq!(asked.get(), 3);
    }
}
