//! The raft thread: ticks, messages, proposals. It never waits for a disk nor for apply, so that
//! heartbeats go out whatever those do.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferrite_metrics::Metrics;
use ferrite_peer::{Transport, go_duration};

use super::apply::Command as ApplyCommand;
use super::heartbeats::Heartbeats;
use super::wal::{Command as WalCommand, SyncWatch};
use crate::assemble::READ_RETRY_MS;
use crate::error::Error;
use crate::port::Post;
use crate::queue::{Queue, Wait};
use crate::stage::raft::{Effects, Input, Leadership, RaftStage, ReadFailure};
use crate::status::{CoreView, Status};
use crate::wait::{AppliedIndex, Waiters};
use crate::{Answer, ReadWaiter};

/// Everything the thread owns or talks to.
pub struct RaftThread {
    /// The stage.
    pub stage: RaftStage<ReadWaiter>,
    /// Its inputs.
    pub queue: Queue<Input<ReadWaiter>>,
    /// The log.
    pub wal: Queue<WalCommand>,
    /// The state machine.
    pub apply: Queue<ApplyCommand>,
    /// The other members.
    pub transport: Transport,
    /// What everybody may see.
    pub status: Arc<Status>,
    /// Readers waiting for an index.
    pub applied: Arc<AppliedIndex<ReadWaiter>>,
    /// Clients waiting for their request.
    pub waiters: Arc<Waiters<Answer>>,
    /// Whether the disk answers.
    pub watch: SyncWatch,
    /// Length of a tick.
    pub tick: Duration,
    /// After which the disk counts as stalled.
    pub election_timeout: Duration,
    /// After which a read that nobody confirms has failed.
    pub read_timeout: Duration,
    /// Whether heartbeats leave on time.
    pub heartbeats: Heartbeats,
    /// What happens is counted here.
    pub metrics: Arc<Metrics>,
}

impl RaftThread {
    /// Runs until the queue is closed.
    pub fn run(mut self) {
        let mut inputs = VecDeque::new();
        let mut next_tick = Instant::now() + self.tick;
        let mut stalled_before = false;
        while self.queue.wait(&mut inputs, Some(next_tick)) == Wait::Open {
            let now = Instant::now();
            // Messages first: after a pause they may hold what makes an election needless.
            // Missed ticks collapse into one.
            if now >= next_tick {
                let stalled = self.watch.age(now) > self.election_timeout;
                if stalled && !stalled_before {
                    tracing::warn!(
                        age = ?self.watch.age(now),
                        "the disk of the write-ahead log does not answer; this member does not lead until it does"
                    );
                }
                stalled_before = stalled;
                inputs.push_back(Input::Tick {
                    disk_stalled: stalled,
                });
                next_tick = (next_tick + self.tick).max(now + self.tick / 2);
            }
            if inputs.is_empty() {
                continue;
            }
            let counts = inputs
                .iter()
                .any(|input| matches!(input, Input::Tick { .. } | Input::ConfChange(_)));
            let before = self.stage.leadership();
            let effects = self.stage.step(inputs.drain(..));
            self.note_leadership(before, now);
            self.count(before, &effects, now);
            if counts || self.stage.leadership().is_leader != before.is_leader {
                // Only the leader knows; elsewhere the list is empty.
                let progress = self.stage.core().progress();
                let matched = if self.stage.leadership().is_leader {
                    progress
                        .map(|(id, progress)| (id, progress.matched))
                        .collect()
                } else {
                    BTreeMap::new()
                };
                self.status.publish_matched(matched);
                self.status.publish_core(self.core_view());
            }
            self.execute(effects);
        }
        self.waiters.clear();
        self.applied.clear();
    }

    fn core_view(&self) -> CoreView {
        let core = self.stage.core();
        let status = core.basic_status();
        let leads = self.stage.leadership().is_leader;
        CoreView {
            vote: status.hard_state.vote,
            role: status.soft_state.state.to_string(),
            applied: status.applied,
            transferee: status.lead_transferee,
            progress: core
                .progress()
                .filter(|_| leads)
                .map(|(id, p)| (id, (p.matched, p.next, p.state.to_string())))
                .collect(),
        }
    }

    fn note_leadership(&self, before: Leadership, now: Instant) {
        let seen = self.stage.leadership();
        self.status.publish(&seen, now);
        let id = self.stage.core().basic_status().id;
        if seen.leader != before.leader {
            match (before.leader, seen.leader) {
                (0, new) => {
                    tracing::info!(target: "raft", "raft.node: {id:x} elected leader {new:x} at term {}", seen.term)
                }
                (old, 0) => {
                    tracing::info!(target: "raft", "raft.node: {id:x} lost leader {old:x} at term {}", seen.term)
                }
                (old, new) => {
                    tracing::info!(target: "raft", "raft.node: {id:x} changed leader from {old:x} to {new:x} at term {}", seen.term);
                }
            }
        }
        if seen.is_leader && !before.is_leader {
            tracing::info!(target: "raft", "{id:x} became leader at term {}", seen.term);
        } else if !seen.is_leader && before.is_leader {
            tracing::info!(target: "raft", "{id:x} became follower at term {}", seen.term);
        }
    }

    fn count(&mut self, before: Leadership, effects: &Effects<ReadWaiter>, now: Instant) {
        let seen = self.stage.leadership();
        let metrics = &self.metrics;
        if seen.leader != before.leader {
            self.heartbeats.reset();
            if seen.leader != 0 {
                metrics.leader_changes.inc();
            }
        }
        if seen.is_leader && !effects.send.is_empty() {
            let late = self.heartbeats.leaving(&effects.send, now);
            metrics.heartbeat_failures.add(late);
        }
        if !effects.reads_failed.is_empty() {
            metrics.failed_reads.add(effects.reads_failed.len() as u64);
        }
        if effects.slow_reads > 0 {
            tracing::warn!(
                timeout = go_duration(self.read_timeout),
                "timed out waiting for read index response (local node might have slow network)"
            );
            metrics.slow_reads.add(effects.slow_reads as u64);
        }
        for context in &effects.reads_retried {
            tracing::warn!(
                "sent-request-id" = *context,
                "retry-timeout" = %format_args!("{READ_RETRY_MS}ms"),
                "waiting for ReadIndex response took too long, retrying"
            );
        }
    }

    fn execute(&self, effects: Effects<ReadWaiter>) {
        if !effects.send.is_empty() {
            self.transport.send(effects.send);
        }
        if !effects.persist.is_empty() {
            self.wal
                .push_all(effects.persist.into_iter().map(WalCommand::Persist));
        }
        if !effects.apply.is_empty() {
            self.apply
                .push_all(effects.apply.into_iter().map(ApplyCommand::Apply));
        }
        let mut post = Post::default();
        for (index, waiters) in effects.reads_ready {
            for waiter in waiters {
                if let Some(free) = self.applied.wait(index, waiter) {
                    free.send_by(&mut post, Ok(()));
                }
            }
        }
        for (failure, waiters) in effects.reads_failed {
            let error = match failure {
                ReadFailure::LeaderChanged => Error::LeaderChanged,
                ReadFailure::TimedOut => Error::Timeout,
            };
            for waiter in waiters {
                waiter.send_by(&mut post, Err(error.clone()));
            }
        }
        for id in effects.dropped {
            self.waiters.answer(id, Err(Error::Dropped));
        }
        for reason in effects.refused {
            tracing::warn!(target: "raft", reason, "refused a raft message");
        }
    }
}
