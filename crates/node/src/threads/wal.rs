//! The log thread: the only one that touches the write-ahead log.
//!
//! It takes every job that waits, has the log stage write them all and sync once, and sends out what
//! that allows: acknowledgements to peers straight from here. A failed write or sync ends the process.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use ferrite_peer::Transport;
use ferrite_wal::Error as WalError;

use super::OnFatal;
use super::apply::Command as ApplyCommand;
use crate::queue::{Queue, Wait};
use crate::stage::log::LogStage;
use crate::stage::raft::Input;
use crate::sync::{Arc, AtomicU64, Ordering};

pub use crate::stage::log::Input as Command;

/// A sync slower than this is worth a line in the log, as in etcd.
const SLOW_SYNC: Duration = Duration::from_secs(1);

/// When the oldest unfinished sync began, in microseconds since `origin`; 0 when none is under way.
#[derive(Debug, Clone)]
pub struct SyncWatch {
    origin: Instant,
    since: Arc<AtomicU64>,
}

impl SyncWatch {
    /// Nothing under way.
    pub fn new(origin: Instant) -> Self {
        SyncWatch {
            origin,
            since: Arc::new(AtomicU64::new(0)),
        }
    }

    fn begin(&self) {
        let now = u64::try_from(self.origin.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.since.store(now.max(1), Ordering::Release);
    }

    fn end(&self) {
        self.since.store(0, Ordering::Release);
    }

    /// Age of the write or sync under way at `now`.
    pub fn age(&self, now: Instant) -> Duration {
        match self.since.load(Ordering::Acquire) {
            0 => Duration::ZERO,
            since => now
                .saturating_duration_since(self.origin)
                .saturating_sub(Duration::from_micros(since)),
        }
    }
}

/// Everything the thread owns or talks to.
pub struct LogThread<R> {
    /// The stage.
    pub stage: LogStage,
    /// Its own work.
    pub queue: Queue<Command>,
    /// Completions go here.
    pub raft: Queue<Input<R>>,
    /// Installed snapshots go here.
    pub apply: Queue<ApplyCommand>,
    /// Acknowledgements to peers leave here.
    pub transport: Transport,
    /// Shows whether the disk answers.
    pub watch: SyncWatch,
    /// What to do when it does not.
    pub on_fatal: OnFatal,
}

impl<R: Send + 'static> LogThread<R> {
    /// Runs until the queue is closed.
    pub fn run(mut self) {
        let mut batch = VecDeque::new();
        while self.queue.wait(&mut batch, None) == Wait::Open {
            if let Err(error) = self.execute(&mut batch) {
                self.on_fatal
                    .report(format!("the write-ahead log cannot be written: {error}"));
                return;
            }
        }
    }

    fn execute(&mut self, batch: &mut VecDeque<Command>) -> Result<(), WalError> {
        let started = Instant::now();
        self.watch.begin();
        let effects = self.stage.step(batch)?;
        self.watch.end();
        let took = started.elapsed();
        if took > SLOW_SYNC {
            tracing::warn!(took = ?took, "expected-duration" = ?SLOW_SYNC, "slow fdatasync");
        }
        for snapshot in effects.installs {
            self.apply.push(ApplyCommand::Install(snapshot));
        }
        if !effects.to_peers.is_empty() {
            self.transport.send(effects.to_peers);
        }
        self.raft
            .push_all(effects.persisted.into_iter().map(Input::Persisted));
        Ok(())
    }
}
