//! The apply thread: runs the apply stage, wakes clients and readers, connects to members that come.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ferrite_apply::Alarms;
use ferrite_membership::{Change, Cluster};
use ferrite_metrics::{Metrics, Operation};
use ferrite_mvcc::{CompactionProgress, HashJob};
use ferrite_peer::Transport;
use ferrite_proto::etcdserverpb::AlarmType;

use super::OnFatal;
use super::commit::Command as CommitCommand;
use crate::leases::Leases;
use crate::port::Post;
use crate::queue::{Queue, Wait};
use crate::stage::apply::{ApplyStage, Effects, LeaseChange};
use crate::stage::raft::Input;
use crate::tokens::Tokens;
use crate::wait::{AppliedIndex, Waiters};
use crate::watch_hub::WatchHub;
use crate::{Answer, Event, Published, ReadWaiter, hex, versions};

pub use crate::stage::apply::Input as Command;

/// Shows which version the cluster has.
pub(crate) fn count_version(metrics: &Metrics, cluster: &Cluster) {
    if let Some(version) = cluster.version {
        let short = versions::short(version);
        metrics.cluster_version.set_only([vec![short.as_str()]]);
    }
}

/// Shows which alarms are on.
pub(crate) fn count_alarms(metrics: &Metrics, alarms: &Alarms) {
    let raised = alarms.list(AlarmType::None);
    let raised: Vec<(String, &str)> = raised
        .iter()
        .map(|alarm| (hex(alarm.member_id), alarm.alarm().as_str_name()))
        .collect();
    let raised = raised
        .iter()
        .map(|(member, kind)| vec![member.as_str(), *kind]);
    metrics.alarms.set_only(raised);
}

/// Everything the thread owns or talks to.
pub struct ApplyThread {
    /// The stage.
    pub stage: ApplyStage,
    /// Its own work.
    pub queue: Queue<Command>,
    /// Told what was applied.
    pub raft: Queue<Input<ReadWaiter>>,
    /// Given batches to write.
    pub commit: Queue<CommitCommand>,
    /// Clients waiting for their request.
    pub waiters: Arc<Waiters<Answer>>,
    /// Readers waiting for an index.
    pub applied: Arc<AppliedIndex<ReadWaiter>>,
    /// What everybody may see of membership and alarms.
    pub published: Arc<Published>,
    /// Judges how long leases live.
    pub leases: Arc<Leases>,
    /// Simple tokens.
    pub tokens: Arc<Tokens>,
    /// Watchers of what changes.
    pub hub: WatchHub,
    /// Told of members that come and go.
    pub transport: Transport,
    /// Told of what the rest of the server acts on.
    pub events: tokio::sync::mpsc::UnboundedSender<Event>,
    /// This member.
    pub member_id: u64,
    /// Applying a request for longer than this is counted as slow.
    pub warn_apply: Duration,
    /// What happens is counted here.
    pub metrics: Arc<Metrics>,
    /// The compaction under way: when it began, and how long its slices took.
    pub compacting: Option<(Instant, Duration)>,
    /// What to do when the state cannot go on.
    pub on_fatal: OnFatal,
}

impl ApplyThread {
    /// Runs until the queue is closed.
    pub fn run(mut self) {
        let mut batch = VecDeque::new();
        while self.queue.wait(&mut batch, self.stage.deadline()) == Wait::Open {
            if let Err(reason) = self.take(&mut batch) {
                self.on_fatal.report(reason);
                return;
            }
        }
    }

    fn take(&mut self, batch: &mut VecDeque<Command>) -> Result<(), String> {
        for command in batch.drain(..) {
            let waiters = &self.waiters;
            let (metrics, slow) = (&self.metrics, self.warn_apply);
            let seen = |operation: Option<Operation>, success, took| {
                if let Some(operation) = operation {
                    metrics.apply.observe(operation, success, took);
                    if took > slow {
                        metrics.slow_applies.inc();
                    }
                }
            };
            let effects =
                self.stage
                    .step(command, Instant::now, |id| waiters.is_waiting(id), seen)?;
            metrics.installing.set(self.stage.is_installing().into());
            self.execute(effects);
        }
        let started = Instant::now();
        let effects = self.stage.turn(started)?;
        if let Some(progress) = effects.compacted {
            self.count_compaction(progress, started);
        }
        self.execute(effects);
        Ok(())
    }

    fn count_compaction(&mut self, progress: CompactionProgress, started: Instant) {
        let took = started.elapsed();
        let (began, sum) = self.compacting.take().unwrap_or((started, Duration::ZERO));
        let sum = sum + took;
        let metrics = &self.metrics;
        match progress {
            CompactionProgress::Idle => {}
            CompactionProgress::AwaitingHash => self.compacting = Some((began, sum)),
            CompactionProgress::Working => {
                metrics.compaction_pause.observe(took);
                self.compacting = Some((began, sum));
            }
            CompactionProgress::Finished(_) => {
                metrics.compaction_pause.observe(took);
                metrics.compaction_index_pause.observe(sum);
                metrics.compaction_total.observe(began.elapsed());
                let unix = SystemTime::now().duration_since(UNIX_EPOCH);
                let unix = unix.map_or(0, |since| since.as_secs());
                metrics
                    .compaction_last
                    .set(i64::try_from(unix).unwrap_or(i64::MAX));
            }
        }
    }

    fn count_leases(&self, changes: &[LeaseChange]) {
        for change in changes {
            match change {
                LeaseChange::FirstOfTerm(_) => {}
                LeaseChange::Granted { ttl_seconds, .. } => {
                    self.metrics.lease_granted.inc();
                    let ttl = u64::try_from(*ttl_seconds).unwrap_or(0);
                    self.metrics.lease_ttl.observe_number(ttl);
                }
                LeaseChange::Revoked(_) => self.metrics.lease_revoked.inc(),
            }
        }
    }

    /// A line for each alarm that was raised or disarmed.
    fn tell_alarms(&self, now: &Alarms) {
        let before = self.published.get_alarms(AlarmType::None);
        let now = now.list(AlarmType::None);
        let new = now.iter().filter(|alarm| !before.contains(alarm));
        for alarm in new {
            tracing::warn!(
                alarm = alarm.alarm().as_str_name(),
                from = %hex(alarm.member_id),
                "alarm raised"
            );
        }
        for alarm in before.iter().filter(|alarm| !now.contains(alarm)) {
            tracing::warn!(
                alarm = alarm.alarm().as_str_name(),
                from = %hex(alarm.member_id),
                "alarm disarmed"
            );
        }
    }

    fn execute(&self, effects: Effects<ReadWaiter>) {
        let cluster = effects.cluster;
        if let Some(cluster) = &cluster {
            count_version(&self.metrics, cluster);
            self.published.cluster(Arc::clone(cluster));
        }
        if let Some(alarms) = effects.alarms {
            self.tell_alarms(&alarms);
            count_alarms(&self.metrics, &alarms);
            self.published.alarms(alarms);
        }
        for change in &effects.membership {
            self.follow_membership(change);
        }
        if let (true, Some(cluster)) = (effects.replace_peers, &cluster) {
            self.replace_peers(cluster);
        }
        if let Some(progress) = effects.progress {
            self.published.progress(progress);
        }
        if !effects.leases.is_empty() {
            self.count_leases(&effects.leases);
            self.leases.follow(&effects.leases, Instant::now());
        }
        if !effects.tokens.is_empty() {
            self.tokens.follow(effects.tokens, Instant::now());
        }
        let mut raft = effects.raft;
        // Whoever hears that a membership change was made may ask for the next one at once, and raft
        // takes none while it does not know that the last one is applied.
        if raft
            .iter()
            .any(|input| matches!(input, Input::ConfChange(_)))
        {
            self.raft.push_all(std::mem::take(&mut raft));
        }
        let mut post = Post::default();
        self.waiters.answer_all(&mut post, effects.answers);
        if let Some(progress) = effects.progress {
            for reader in self.applied.advance(progress.index) {
                reader.send_by(&mut post, Ok(()));
            }
        }
        drop(post);
        if !effects.watch.is_empty() {
            self.hub.publish(effects.watch);
        }
        for event in effects.events {
            // Nobody listens any more while the server stops.
            let _gone = self.events.send(event);
        }
        if !effects.commit.is_empty() {
            self.commit.push_all(effects.commit);
        }
        if !raft.is_empty() {
            self.raft.push_all(raft);
        }
        for job in effects.hashes {
            self.compute(job);
        }
        for reply in effects.flushed {
            let _gone = reply.send(());
        }
    }

    /// The hash of a compaction reads everything there was up to it.
    fn compute(&self, job: HashJob) {
        let store = Arc::clone(self.stage.applier().store());
        let spawned = std::thread::Builder::new()
            .name("hash".into())
            .spawn(move || match job.run(&store) {
                Ok(found) => tracing::info!(
                    hash = found.hash,
                    revision = found.hash_revision,
                    "compact-revision" = found.compact_revision,
                    "storing new hash"
                ),
                // A raft snapshot has replaced what was to be hashed, or reading will fail elsewhere too.
                Err(error) => tracing::warn!(error = %error, "gave up the hash of a compaction"),
            });
        if let Err(error) = spawned {
            tracing::warn!(error = %error, "no thread to compute the hash of a compaction");
        }
    }

    fn follow_membership(&self, change: &Change) {
        match change {
            Change::Added(member) => {
                if member.id != self.member_id {
                    self.transport.add_peer(member.id, &member.peer_urls);
                }
                tracing::info!(
                    "local-member-id" = %format!("{:x}", self.member_id),
                    "added-peer-id" = %format!("{:x}", member.id),
                    "added-peer-peer-urls" = ?member.peer_urls,
                    "added-peer-is-learner" = member.is_learner,
                    "added member"
                );
            }
            Change::Updated(member) => {
                if member.id != self.member_id {
                    self.transport.update_peer(member.id, &member.peer_urls);
                }
                tracing::info!(
                    "updated-remote-peer-id" = %format!("{:x}", member.id),
                    "updated-remote-peer-urls" = ?member.peer_urls,
                    "updated member"
                );
            }
            Change::Promoted(id) => {
                tracing::info!("promoted-member-id" = %format!("{id:x}"), "promote member")
            }
            Change::Removed(id) => {
                if *id != self.member_id {
                    self.transport.remove_peer(*id);
                }
                tracing::info!("removed-remote-peer-id" = %format!("{id:x}"), "removed member");
            }
        }
    }

    fn replace_peers(&self, cluster: &Cluster) {
        for id in self.transport.peer_ids() {
            if !cluster.members.contains_key(&id) {
                self.transport.remove_peer(id);
            }
        }
        for member in cluster.members.values() {
            if member.id != self.member_id {
                self.transport.add_peer(member.id, &member.peer_urls);
            }
        }
    }
}
