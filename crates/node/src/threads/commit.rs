//! The commit thread: the only one that writes the database file. It runs the commit stage and tells
//! the others what it has brought about.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ferrite_metrics::Metrics;

use super::OnFatal;
use super::apply::Command as ApplyCommand;
use super::wal::Command as WalCommand;
use crate::queue::{Queue, Wait};
use crate::snapshot::Transfers;
use crate::stage::commit::{CommitStage, Effects};
use crate::stage::raft::Input;
use crate::sync::Arc;
use crate::wait::Waiters;

pub use crate::stage::commit::{Input as Command, Sealed};

/// A commit slower than this is worth a line in the log.
const SLOW_COMMIT: Duration = Duration::from_secs(1);

/// Everything the thread owns or talks to.
pub struct CommitThread<R> {
    /// The stage.
    pub stage: CommitStage,
    /// Its own work.
    pub queue: Queue<Command>,
    /// Told how far the file is.
    pub raft: Queue<Input<R>>,
    /// Told that a commit is done.
    pub apply: Queue<ApplyCommand>,
    /// Told that log may be released.
    pub wal: Queue<WalCommand>,
    /// Snapshots on their way to peers: while there are any, the log in memory is kept.
    pub transfers: Arc<Transfers>,
    /// Clients waiting for a defragmentation.
    pub defragmentations: Arc<Waiters<Result<(), String>>>,
    /// What happens is counted here.
    pub metrics: Arc<Metrics>,
    /// Since when the file is being rewritten.
    pub defragmenting: Option<Instant>,
    /// What to do when the disk fails.
    pub on_fatal: OnFatal,
}

impl<R: Send + 'static> CommitThread<R> {
    /// Runs until the queue is closed.
    pub fn run(mut self) {
        let mut batch = VecDeque::new();
        while self.queue.wait(&mut batch, None) == Wait::Open {
            for command in batch.drain(..) {
                let started = Instant::now();
                match self.stage.step(command) {
                    Ok(effects) => {
                        self.count(&effects, started);
                        self.execute(effects, started);
                    }
                    Err(reason) => {
                        let path = self.stage.database.display();
                        self.on_fatal
                            .report(format!("the database {path} cannot be written: {reason}"));
                        return;
                    }
                }
            }
        }
    }

    fn count(&mut self, effects: &Effects, started: Instant) {
        let metrics = &self.metrics;
        if let Some(stats) = &effects.stats {
            metrics.commit.observe(started.elapsed());
            // The trees are merged and split in one go: it is all counted as splitting.
            metrics.commit_rebalance.observe(Duration::ZERO);
            metrics.commit_spill.observe(stats.rebuild);
            metrics.commit_write.observe(stats.write + stats.sync);
        }
        if let Some(written) = &effects.document {
            metrics.document_written(written.created, written.set);
        }
        let ended = !effects.defragmented.is_empty();
        if ended && let Some(began) = self.defragmenting.take() {
            metrics.defrag.observe(began.elapsed());
        }
        let under_way = self.stage.defragmentation.under_way();
        if under_way && self.defragmenting.is_none() {
            self.defragmenting = Some(started);
        }
        metrics.defrag_inflight.set(under_way.into());
    }

    fn execute(&self, effects: Effects, started: Instant) {
        let now = Instant::now();
        let took = now.saturating_duration_since(started);
        if effects.committed.is_some() && took > SLOW_COMMIT {
            tracing::warn!(took = ?took, "slow commit of the database file");
        }
        if let Some(durable) = effects.durable {
            self.raft.push(Input::Durable {
                index: durable.index,
                conf_state: durable.conf_state,
                keep_log: self.transfers.busy(now),
            });
        }
        if let Some(record) = effects.snapshot {
            self.wal.push(WalCommand::Snapshot(record));
        }
        if let Some(index) = effects.committed {
            self.apply.push(ApplyCommand::Committed(index));
        }
        if let Some(view) = effects.installed {
            self.apply.push(ApplyCommand::Installed(view));
        }
        for (ticket, outcome) in effects.defragmented {
            self.defragmentations.answer(ticket, outcome);
        }
        if effects.again {
            // Behind the commits that wait: they come first.
            self.queue.push(Command::Rewrite);
        }
    }
}
