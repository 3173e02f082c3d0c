//! The apply stage: owns the replicated state, judges what clients are answered, freezes batches for
//! the database.
//!
//! Order of effects: the new state is published (the store does that per entry), then clients are
//! answered and readers freed, then raft is told. While a raft snapshot is being brought in, or while
//! too much waits to be written, everything but the completion of that is held back in its order.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use ferrite_apply::{
    Alarms, Applied, Applier, ApplyError, Effect, Progress, Response, TokenChange,
};
use ferrite_membership::{Change, Cluster, Version};
use ferrite_metrics::Operation;
use ferrite_mutate::mutation;
use ferrite_mvcc::schema::{self, Bucket};
use ferrite_mvcc::{CompactionProgress, HashJob, RequestError};
use ferrite_proto::raftpb::Snapshot;

use super::commit::{Input as CommitInput, Sealed};
use super::raft::{ApplyJob, Input as RaftInput};
use crate::engine::FileState;
use crate::recover::FileFacts;
use crate::slow;
use crate::versions::{self, STORAGE_VERSION_SINCE};
use crate::watch_hub::WatchChange;
use crate::{Answer, Event};

/// Pause between two looks whether the hash of a compaction is done.
const HASH_POLL: Duration = Duration::from_millis(10);

/// Work for the state machine.
pub enum Input {
    /// Apply these entries.
    Apply(ApplyJob),
    /// A raft snapshot is durable in the log: bring its database in.
    Install(Snapshot),
    /// The database of that snapshot is in place.
    Installed(Arc<FileState>),
    /// The database file is durable through this index.
    Committed(u64),
    /// Write this storage version.
    StorageVersion(Version),
    /// Commit whatever is buffered and then answer.
    Flush(mpsc::Sender<()>),
}

/// What the judgement of lease deadlines follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeaseChange {
    /// The first entry of this term is applied.
    FirstOfTerm(u64),
    /// A lease exists from here on.
    Granted {
        /// The lease.
        id: i64,
        /// How long it lives, in seconds.
        ttl_seconds: i64,
    },
    /// A lease is gone.
    Revoked(i64),
}

/// What is to be done, in the order of the fields; `R` as in the raft stage.
pub struct Effects<R> {
    /// Publish this membership.
    pub cluster: Option<Arc<Cluster>>,
    /// Publish these alarms.
    pub alarms: Option<Alarms>,
    /// Connect to and disconnect from members.
    pub membership: Vec<Change>,
    /// The membership is another altogether: compare all connections with it.
    pub replace_peers: bool,
    /// Publish how far the state is. Readers waiting for it are freed after the answers.
    pub progress: Option<Progress>,
    /// For the judgement of lease deadlines, in order.
    pub leases: Vec<LeaseChange>,
    /// Tokens that begin or end, in order; before anybody is answered.
    pub tokens: Vec<TokenChange>,
    /// Clients to answer, by request id.
    pub answers: Vec<(u64, Answer)>,
    /// For the rest of the server.
    pub events: Vec<Event>,
    /// For watchers, in order, once clients are answered and readers freed.
    pub watch: Vec<WatchChange>,
    /// For the commit stage.
    pub commit: Vec<CommitInput>,
    /// For the raft stage.
    pub raft: Vec<RaftInput<R>>,
    /// Hashes of compactions to compute, beside everything else.
    pub hashes: Vec<HashJob>,
    /// Whoever waited for everything to be committed.
    pub flushed: Vec<mpsc::Sender<()>>,
    /// A slice of compaction was done, or the last one.
    pub compacted: Option<CompactionProgress>,
}

impl<R> Default for Effects<R> {
    fn default() -> Self {
        Effects {
            cluster: None,
            alarms: None,
            membership: Vec::new(),
            replace_peers: false,
            progress: None,
            leases: Vec::new(),
            tokens: Vec::new(),
            answers: Vec::new(),
            events: Vec::new(),
            watch: Vec::new(),
            commit: Vec::new(),
            raft: Vec::new(),
            hashes: Vec::new(),
            flushed: Vec::new(),
            compacted: None,
        }
    }
}

/// Parameters of the stage.
#[derive(Debug, Clone)]
pub struct Params {
    /// Where received databases are.
    pub snap_dir: PathBuf,
    /// Longest time between commits.
    pub batch_interval: Duration,
    /// Changes after which a batch is frozen at once.
    pub batch_limit: usize,
    /// Bytes after which a batch is frozen at once.
    pub batch_bytes: usize,
    /// Bytes buffered at which apply waits for the commit stage.
    pub buffer_bytes_max: usize,
    /// Requests that take longer are logged.
    pub warn_apply: Duration,
    /// Keys a slice of compaction may look at.
    pub compaction_batch_limit: usize,
    /// Pause between slices.
    pub compaction_pause: Duration,
}

/// What the stage waits for before it takes anything else.
enum Waiting {
    /// Nothing.
    Free,
    /// The batch under way, for the buffer is full.
    Commit,
    /// The database of a raft snapshot.
    Install { progress: Progress, since: Instant },
}

/// A request for what is compacted already counts as a success, as in the original.
fn succeeded(applied: &Applied) -> bool {
    match &applied.outcome {
        Ok(_) => true,
        Err(error) => matches!(error, ApplyError::Request(RequestError::Compacted)),
    }
}

/// See the module.
pub struct ApplyStage {
    applier: Applier,
    /// The membership as last published.
    cluster: Arc<Cluster>,
    params: Params,
    waiting: Waiting,
    held: VecDeque<Input>,
    /// When the buffered changes must be frozen.
    freeze_at: Option<Instant>,
    /// A batch is with the commit stage.
    committing: bool,
    /// The next slice of compaction.
    compact_at: Option<Instant>,
    /// Clients that wait for a compaction to be done on disk.
    physical: Vec<(u64, Response)>,
    /// Index the frozen batch must reach before they are answered; set once compaction is done.
    physical_after: Option<u64>,
    /// Whoever waits for everything to be committed.
    flushes: Vec<mpsc::Sender<()>>,
    sealed: Progress,
    /// The next batch is to be followed by a `.snap` file, so that no older program has to read the log before it.
    force_snapshot: bool,
}

impl ApplyStage {
    /// Goes on with a recovered state.
    pub fn new(applier: Applier, params: Params, now: Instant) -> Self {
        ApplyStage {
            cluster: Arc::new(applier.cluster().clone()),
            waiting: Waiting::Free,
            held: VecDeque::new(),
            freeze_at: Some(now + params.batch_interval),
            committing: false,
            compact_at: applier.store().compaction_pending().then_some(now),
            physical: Vec::new(),
            physical_after: None,
            flushes: Vec::new(),
            sealed: applier.progress(),
            force_snapshot: false,
            applier,
            params,
        }
    }

    /// Whether the database of a raft snapshot is being brought in.
    pub fn is_installing(&self) -> bool {
        matches!(self.waiting, Waiting::Install { .. })
    }

    /// The state, for questions.
    pub fn applier(&self) -> &Applier {
        &self.applier
    }

    /// Other limits in bytes than the process's own: for simulators, whose batches are small.
    pub fn limit_buffers(&mut self, batch_bytes: usize, buffer_bytes_max: usize) {
        self.params.batch_bytes = batch_bytes;
        self.params.buffer_bytes_max = buffer_bytes_max;
    }

    /// When [`ApplyStage::turn`] is due, if no input comes before.
    pub fn deadline(&self) -> Option<Instant> {
        if matches!(self.waiting, Waiting::Install { .. }) {
            return None;
        }
        let freeze = if self.committing {
            None
        } else {
            self.freeze_at
        };
        match (freeze, self.compact_at) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Takes one input. `clock` is asked between two requests, how long each took; `answered_here` says
    /// whether a client of this member waits under an id; `seen` is told of every entry once it is applied:
    /// what it asked for, whether it succeeded, and how long it took.
    ///
    /// # Errors
    /// Why the member cannot go on.
    pub fn step<R>(
        &mut self,
        input: Input,
        clock: impl Fn() -> Instant,
        answered_here: impl Fn(u64) -> bool,
        mut seen: impl FnMut(Option<Operation>, bool, Duration),
    ) -> Result<Effects<R>, String> {
        let mut effects = Effects::default();
        let now = clock();
        match input {
            Input::Committed(index) => self.committed(index, now, &mut effects),
            Input::Installed(view) => self.installed(view, now, &mut effects)?,
            other if self.is_blocked() => self.held.push_back(other),
            other => self.take(other, now, &clock, &answered_here, &mut seen, &mut effects)?,
        }
        while !self.is_blocked()
            && let Some(next) = self.held.pop_front()
        {
            self.take(next, now, &clock, &answered_here, &mut seen, &mut effects)?;
        }
        Ok(effects)
    }

    /// Does what time has made due. To be called after every batch of inputs and at the deadline.
    ///
    /// # Errors
    /// Why the member cannot go on.
    pub fn turn<R>(&mut self, now: Instant) -> Result<Effects<R>, String> {
        let mut effects = Effects::default();
        if matches!(self.waiting, Waiting::Install { .. }) {
            return Ok(effects);
        }
        if !self.committing && self.freeze_at.is_some_and(|at| at <= now) {
            self.freeze(now, &mut effects);
        }
        self.compact_if_due(now, &mut effects)?;
        Ok(effects)
    }

    fn is_blocked(&self) -> bool {
        !matches!(self.waiting, Waiting::Free) && !mutation!("install-does-not-wait")
    }

    fn take<R>(
        &mut self,
        input: Input,
        now: Instant,
        clock: &impl Fn() -> Instant,
        answered_here: &impl Fn(u64) -> bool,
        seen: &mut impl FnMut(Option<Operation>, bool, Duration),
        effects: &mut Effects<R>,
    ) -> Result<(), String> {
        match input {
            Input::Apply(job) => self.apply(job, clock, answered_here, seen, effects),
            Input::Install(snapshot) => {
                self.install(&snapshot, now, effects);
                Ok(())
            }
            Input::Installed(view) => self.installed(view, now, effects),
            Input::Committed(index) => {
                self.committed(index, now, effects);
                Ok(())
            }
            Input::StorageVersion(version) => {
                if version < STORAGE_VERSION_SINCE {
                    // Programs of that version do not know the field; one that finds it refuses to start.
                    self.applier
                        .backend()
                        .delete(Bucket::Meta, schema::STORAGE_VERSION.as_bytes());
                } else {
                    self.applier.set_storage_version(version);
                }
                self.dirty(now);
                Ok(())
            }
            Input::Flush(reply) => {
                self.flushes.push(reply);
                self.flush(now, effects);
                Ok(())
            }
        }
    }

    fn committed<R>(&mut self, index: u64, now: Instant, effects: &mut Effects<R>) {
        self.committing = false;
        if matches!(self.waiting, Waiting::Commit) {
            self.waiting = Waiting::Free;
        }
        if self.physical_after.is_some_and(|after| index >= after) {
            self.physical_after = None;
            effects.answers.extend(
                self.physical
                    .drain(..)
                    .map(|(id, response)| (id, Ok(response))),
            );
        }
        if !self.flushes.is_empty() {
            self.flush(now, effects);
        }
    }

    /// Commits what is buffered; answers once nothing is.
    fn flush<R>(&mut self, now: Instant, effects: &mut Effects<R>) {
        if self.committing {
            return;
        }
        if self.applier.backend().pending().0 > 0 || self.sealed != self.applier.progress() {
            self.freeze(now, effects);
        }
        if !self.committing {
            effects.flushed.append(&mut self.flushes);
        }
    }

    fn apply<R>(
        &mut self,
        job: ApplyJob,
        clock: &impl Fn() -> Instant,
        answered_here: &impl Fn(u64) -> bool,
        seen: &mut impl FnMut(Option<Operation>, bool, Duration),
        effects: &mut Effects<R>,
    ) -> Result<(), String> {
        let mut done = 0;
        let mut now = clock();
        for entry in &job.entries {
            let applied = self
                .applier
                .apply(entry, answered_here)
                .map_err(|error| error.to_string())?;
            done += 1;
            let began = std::mem::replace(&mut now, clock());
            let took = now.saturating_duration_since(began);
            if took > self.params.warn_apply {
                slow::warn_of_entry(entry, &applied, took, self.params.warn_apply);
            }
            seen(applied.operation, succeeded(&applied), took);
            self.outcome(applied, now, answered_here, effects)?;
            self.freeze_if_full(now, effects);
            if self.is_blocked() {
                break;
            }
        }
        self.dirty(now);
        effects.progress = Some(self.applier.progress());
        if done < job.entries.len() {
            let ApplyJob {
                mut entries,
                responses,
            } = job;
            entries.drain(..done);
            self.held
                .push_front(Input::Apply(ApplyJob { entries, responses }));
        } else {
            effects.raft.push(RaftInput::Applied(job.responses));
        }
        Ok(())
    }

    fn outcome<R>(
        &mut self,
        applied: Applied,
        now: Instant,
        answered_here: &impl Fn(u64) -> bool,
        effects: &mut Effects<R>,
    ) -> Result<(), String> {
        if !applied.changes.events.is_empty() {
            effects.watch.push(WatchChange::Changes(applied.changes));
        }
        let mut hold = false;
        for effect in applied.effects {
            match effect {
                Effect::ConfChange(change) => effects.raft.push(RaftInput::ConfChange(change)),
                Effect::Membership(change) => {
                    effects.membership.push(change);
                    self.publish_cluster(effects);
                }
                Effect::ClusterAttributes => {
                    let before = self.cluster.version;
                    self.publish_cluster(effects);
                    self.judge_version(before)?;
                    effects.events.push(Event::ClusterAttributes);
                }
                Effect::RemovedSelf => effects.events.push(Event::RemovedSelf),
                Effect::RaiseNoSpace => {
                    hold = true;
                    effects.events.push(Event::NoSpace {
                        request: applied.request_id,
                    });
                }
                Effect::FirstOfTerm => {
                    let term = self.applier.progress().term;
                    effects.leases.push(LeaseChange::FirstOfTerm(term));
                    effects.events.push(Event::FirstOfTerm);
                }
                Effect::LeaseGranted { id, ttl_seconds } => {
                    effects
                        .leases
                        .push(LeaseChange::Granted { id, ttl_seconds });
                }
                Effect::LeaseRevoked(id) => effects.leases.push(LeaseChange::Revoked(id)),
                Effect::Tokens(change) => effects.tokens.push(change),
                Effect::Passed(what) => {
                    tracing::warn!(request = what, "passed over a request of the version-2 API")
                }
            }
        }
        if let Ok(Response::Alarm(_)) = &applied.outcome {
            effects.alarms = Some(self.applier.alarms().clone());
        }
        if let Ok(Response::Compaction(_, physical)) = &applied.outcome {
            self.compact_at.get_or_insert(now);
            if *physical {
                if let (true, Ok(response)) = (answered_here(applied.request_id), applied.outcome) {
                    self.physical.push((applied.request_id, response));
                    self.physical_after = None;
                }
                return Ok(());
            }
        }
        // The answer to a write that used up the quota waits for the alarm.
        if applied.request_id != 0 && !hold {
            effects.answers.push((
                applied.request_id,
                applied.outcome.map_err(ApplyError::into),
            ));
        }
        Ok(())
    }

    /// The cluster's version may have changed: whether this program can go on, and what an older one needs.
    fn judge_version(&mut self, before: Option<Version>) -> Result<(), String> {
        let Some(version) = self.cluster.version else {
            return Ok(());
        };
        versions::check_program(version).map_err(|error| error.to_string())?;
        if let Some(before) = before.filter(|before| version < *before) {
            tracing::info!(
                "prev-cluster-version" = %before,
                "new-cluster-version" = %version,
                "Cluster version downgrade detected, forcing snapshot"
            );
            self.force_snapshot = true;
        }
        Ok(())
    }

    fn publish_cluster<R>(&mut self, effects: &mut Effects<R>) {
        self.cluster = Arc::new(self.applier.cluster().clone());
        effects.cluster = Some(Arc::clone(&self.cluster));
    }

    fn dirty(&mut self, now: Instant) {
        if self.freeze_at.is_none() {
            self.freeze_at = Some(now + self.params.batch_interval);
        }
    }

    /// Past the limits a batch goes at once; when even that one is still being written, apply waits.
    fn freeze_if_full<R>(&mut self, now: Instant, effects: &mut Effects<R>) {
        let (ops, bytes) = self.applier.backend().live();
        if (ops >= self.params.batch_limit || bytes >= self.params.batch_bytes) && !self.committing
        {
            self.freeze(now, effects);
        }
        if self.committing && self.applier.backend().pending().1 >= self.params.buffer_bytes_max {
            self.waiting = Waiting::Commit;
        }
    }

    fn freeze<R>(&mut self, now: Instant, effects: &mut Effects<R>) {
        self.freeze_at = None;
        let progress = self.applier.progress();
        if progress == self.sealed && self.applier.backend().live().0 == 0 {
            return;
        }
        self.applier.seal();
        let Some(batch) = self.applier.backend().freeze() else {
            self.freeze_at = Some(now + self.params.batch_interval);
            return;
        };
        self.committing = true;
        self.sealed = progress;
        effects.commit.push(CommitInput::Commit(Sealed {
            batch,
            progress,
            cluster: Arc::clone(&self.cluster),
            force_snapshot: std::mem::take(&mut self.force_snapshot),
        }));
    }

    fn compact_if_due<R>(&mut self, now: Instant, effects: &mut Effects<R>) -> Result<(), String> {
        if self.compact_at.is_none_or(|at| at > now) {
            return Ok(());
        }
        let store = Arc::clone(self.applier.store());
        if store.compaction_pending() {
            effects.hashes.extend(store.take_hash_job());
            let progress = store
                .compaction_step(self.params.compaction_batch_limit)
                .map_err(|error| format!("compaction: {error}"))?;
            self.dirty(now);
            effects.compacted = Some(progress);
            let pause = match progress {
                CompactionProgress::Finished(revision) => {
                    tracing::info!(
                        "compact-revision" = revision,
                        "finished scheduled compaction"
                    );
                    // Another one waits, if any: it has its own slices.
                    Duration::ZERO
                }
                CompactionProgress::AwaitingHash => HASH_POLL,
                CompactionProgress::Working | CompactionProgress::Idle => {
                    self.params.compaction_pause
                }
            };
            if store.compaction_pending() {
                self.compact_at = Some(now + pause);
                return Ok(());
            }
        }
        self.compact_at = None;
        if !self.physical.is_empty() {
            self.physical_after = Some(self.applier.progress().index);
            if self.committing {
                self.freeze_at = Some(now);
            } else {
                self.sealed = Progress::default();
                self.freeze(now, effects);
            }
        }
        Ok(())
    }

    /// Begins to bring in the database of a raft snapshot. Clients of older requests get no answer
    /// from here: their requests, if they were committed, are inside the snapshot.
    fn install<R>(&mut self, snapshot: &Snapshot, now: Instant, effects: &mut Effects<R>) {
        let metadata = snapshot.metadata.clone().unwrap_or_default();
        let progress = Progress {
            index: metadata.index,
            term: metadata.term,
        };
        if progress.index <= self.applier.progress().index {
            return;
        }
        tracing::info!(
            "current-applied-index" = self.applier.progress().index,
            "incoming-leader-snapshot-index" = progress.index,
            "incoming-leader-snapshot-term" = progress.term,
            "applying snapshot"
        );
        let received = self
            .params
            .snap_dir
            .join(ferrite_wal::snap::snap_db_name(progress.index));
        effects.commit.push(CommitInput::Install { received });
        self.waiting = Waiting::Install {
            progress,
            since: now,
        };
    }

    fn installed<R>(
        &mut self,
        view: Arc<FileState>,
        now: Instant,
        effects: &mut Effects<R>,
    ) -> Result<(), String> {
        let Waiting::Install { progress, since } = self.waiting else {
            return Err("a database was put in place that nobody asked for".into());
        };
        let found = FileFacts::read(&*view).map_err(|error| error.to_string())?;
        if found.progress.index != progress.index {
            return Err(format!(
                "the database received for raft snapshot {} holds applied index {}",
                progress.index, found.progress.index
            ));
        }
        if let Some(version) = found.version() {
            versions::check_program(version).map_err(|error| error.to_string())?;
        }
        let before = self.applier.cluster();
        let cluster = Cluster {
            max_learners: before.max_learners,
            ..found.cluster(before.id)
        };
        let changed = self
            .applier
            .install(view, cluster, progress)
            .map_err(|error| error.to_string())?;
        for effect in changed {
            if let Effect::Tokens(change) = effect {
                effects.tokens.push(change);
            }
        }
        tracing::info!("applySnapshot: opened snapshot backend");
        self.waiting = Waiting::Free;
        self.committing = false;
        self.freeze_at = None;
        self.sealed = progress;
        self.compact_at = self.applier.store().compaction_pending().then_some(now);
        self.publish_cluster(effects);
        effects.alarms = Some(self.applier.alarms().clone());
        effects.progress = Some(progress);
        effects.replace_peers = true;
        effects.watch.push(WatchChange::Installed(
            self.applier.store().current_revision(),
        ));
        effects.events.push(Event::ClusterAttributes);
        effects.commit.push(CommitInput::Adopted);
        effects.raft.push(RaftInput::Durable {
            index: progress.index,
            conf_state: self.applier.cluster().conf_state(),
            keep_log: false,
        });
        tracing::info!(
            "incoming-leader-snapshot-index" = progress.index,
            took = ?now.saturating_duration_since(since),
            "applied snapshot"
        );
        Ok(())
    }
}
