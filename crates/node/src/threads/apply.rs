//! The apply thread: runs the apply stage, wakes clients and readers, connects to members that come.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use ferrite_membership::{Change, Cluster};
use ferrite_mvcc::HashJob;
use ferrite_peer::Transport;

use super::OnFatal;
use super::commit::Command as CommitCommand;
use crate::leases::Leases;
use crate::port::Post;
use crate::queue::{Queue, Wait};
use crate::stage::apply::{ApplyStage, Effects};
use crate::stage::raft::Input;
use crate::tokens::Tokens;
use crate::wait::{AppliedIndex, Waiters};
use crate::watch_hub::WatchHub;
use crate::{Answer, Event, Published, ReadWaiter};

pub use crate::stage::apply::Input as Command;

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
            let effects = self
                .stage
                .step(command, Instant::now, |id| waiters.is_waiting(id))?;
            self.execute(effects);
        }
        let effects = self.stage.turn(Instant::now())?;
        self.execute(effects);
        Ok(())
    }

    fn execute(&self, effects: Effects<ReadWaiter>) {
        let cluster = effects.cluster;
        if let Some(cluster) = &cluster {
            self.published.cluster(Arc::clone(cluster));
        }
        if let Some(alarms) = effects.alarms {
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
