//! A cluster of one member on a disk in memory, its four production stages run to the end in one thread.
//!
//! Nothing overlaps here: that is the simulator's subject. This is the shortest way from a request through
//! log, state machine and database, and back after a crash.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferrite_node::assemble::{Stages, assemble};
use ferrite_node::disk::Disk;
use ferrite_node::recover::recover_on;
use ferrite_node::stage::{apply, commit, log, raft};
use ferrite_node::{Answer, Config, Upkeep};
use ferrite_wal::fs::Fs;
use ferrite_wal::memfs::MemFs;

const TICK: Duration = Duration::from_millis(100);
const ELECTION_TICKS: usize = 10;
/// Inputs of all stages until nothing is left to do; a request takes some ten.
const STEPS_MAX: usize = 20_000;

/// Why a member has stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// It would not start.
    Start(String),
    /// Its disk failed.
    Disk(String),
    /// It could not apply an entry.
    Apply(String),
}

/// A running member.
pub struct Solo {
    stages: Stages<u64>,
    now: Instant,
    raft_in: VecDeque<raft::Input<u64>>,
    log_in: VecDeque<log::Input>,
    apply_in: VecDeque<apply::Input>,
    commit_in: VecDeque<commit::Input>,
    answers: Vec<(u64, Answer)>,
    flushed: u64,
}

/// What the member is told.
pub fn config() -> Config {
    Config {
        name: "m".into(),
        data_dir: Path::new("/m").to_owned(),
        wal_dir: None,
        client_urls: vec!["http://10.0.0.9:2379".into()],
        peer_urls: vec!["http://10.0.0.1:2380".into()],
        initial_cluster: "m=http://10.0.0.1:2380".into(),
        initial_cluster_token: "alone".into(),
        new_cluster: true,
        tick: TICK,
        election_ticks: ELECTION_TICKS,
        advance_election_at_start: true,
        pre_vote: true,
        snapshot_count: 7,
        snapshot_catchup_entries: 3,
        quota_bytes: None,
        max_request_bytes: 1 << 20,
        max_txn_ops: 128,
        batch_interval: TICK,
        batch_limit: 20,
        max_snapshots: 2,
        max_wals: 2,
        max_learners: 1,
        strict_reconfig_check: true,
        force_new_cluster: false,
        no_fsync: false,
        memory_limit: None,
        peer_read_timeout: Duration::from_secs(5),
        peer_write_timeout: Duration::from_secs(5),
        peer_connections_max: 100,
        token_ttl: Duration::from_secs(300),
        warn_apply: Duration::from_secs(100),
        dialer: Default::default(),
        upkeep: Upkeep::default(),
        metrics: Default::default(),
    }
}

/// A disk with the folders a member begins with.
///
/// # Errors
/// None, before the disk is told to fail.
pub fn disk(seed: u64) -> std::io::Result<MemFs> {
    let fs = MemFs::new(seed);
    let snap_dir = config().snap_dir();
    fs.create_dir_all(&snap_dir)?;
    for folder in snap_dir.ancestors() {
        fs.sync_dir(folder)?;
    }
    Ok(fs)
}

impl Solo {
    /// Starts, or starts again, and leads when it returns. `life` differs from start to start.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn start(fs: &MemFs, life: u64) -> Result<Self, Stopped> {
        let config = config();
        let disk = Disk::on(Arc::new(fs.clone()), 4 << 10);
        let now = Instant::now();
        let recovered =
            recover_on(&disk, &config, None).map_err(|error| Stopped::Start(error.to_string()))?;
        let stages = assemble(&config, recovered, life, life << 32, now)
            .map_err(|error| Stopped::Start(error.to_string()))?;
        let mut solo = Solo {
            stages,
            now,
            raft_in: VecDeque::new(),
            log_in: VecDeque::new(),
            apply_in: VecDeque::new(),
            commit_in: VecDeque::new(),
            answers: Vec::new(),
            flushed: 0,
        };
        for _ in 0..4 * ELECTION_TICKS {
            solo.settle()?;
            if solo.stages.raft.leadership().is_leader {
                return Ok(solo);
            }
            solo.tick();
        }
        panic!("a member alone does not elect itself");
    }

    /// The replicated state.
    pub fn applier(&self) -> &ferrite_apply::Applier {
        self.stages.apply.applier()
    }

    /// Time passes.
    pub fn tick(&mut self) {
        self.now += TICK;
        let disk_stalled = false;
        self.raft_in.push_back(raft::Input::Tick { disk_stalled });
    }

    /// Puts a request into the log and does all that follows. Its answer, if it was applied; there is none
    /// yet for a compaction whose client waits for the disk.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn propose(&mut self, id: u64, data: Vec<u8>) -> Result<Option<Answer>, Stopped> {
        self.answers.clear();
        let data = Bytes::from(data);
        self.raft_in
            .push_back(raft::Input::Propose(raft::Proposal { id, data }));
        self.settle()?;
        let at = self
            .answers
            .iter()
            .position(|(answered, _)| *answered == id);
        Ok(at.map(|at| self.answers.swap_remove(at).1))
    }

    /// Rewrites the database file without its free pages.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn defragment(&mut self) -> Result<(), Stopped> {
        self.commit_in
            .push_back(commit::Input::Defragment { ticket: 1 });
        self.settle()
    }

    /// Brings everything applied into the database file.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn flush(&mut self) -> Result<(), Stopped> {
        let (sender, receiver) = std::sync::mpsc::channel();
        self.apply_in.push_back(apply::Input::Flush(sender));
        self.settle()?;
        if receiver.try_recv().is_ok() {
            self.flushed += 1;
        }
        Ok(())
    }

    /// Does all there is to do.
    fn settle(&mut self) -> Result<(), Stopped> {
        for _ in 0..STEPS_MAX {
            if !self.raft_in.is_empty() {
                let effects = self.stages.raft.step(self.raft_in.drain(..));
                self.log_in
                    .extend(effects.persist.into_iter().map(log::Input::Persist));
                self.apply_in
                    .extend(effects.apply.into_iter().map(apply::Input::Apply));
            } else if !self.log_in.is_empty() {
                let effects = (self.stages.log.step(&mut self.log_in))
                    .map_err(|error| Stopped::Disk(error.to_string()))?;
                self.raft_in
                    .extend(effects.persisted.into_iter().map(raft::Input::Persisted));
            } else if let Some(input) = self.apply_in.pop_front() {
                let now = self.now;
                let effects = (self.stages.apply)
                    .step(input, || now, |_| true, |_, _, _| {})
                    .map_err(Stopped::Apply)?;
                self.applied(effects);
            } else if let Some(input) = self.commit_in.pop_front() {
                let effects = self.stages.commit.step(input).map_err(Stopped::Disk)?;
                self.committed(effects);
            } else {
                let effects = (self.stages.apply.turn(self.now)).map_err(Stopped::Apply)?;
                let idle = effects.commit.is_empty()
                    && effects.raft.is_empty()
                    && effects.hashes.is_empty()
                    && effects.compacted.is_none();
                self.applied(effects);
                if idle {
                    return Ok(());
                }
                // A compaction pauses between its slices.
                self.now += Duration::from_millis(10);
            }
        }
        panic!("a member alone never has done all its work");
    }

    fn applied(&mut self, effects: apply::Effects<u64>) {
        self.answers.extend(effects.answers);
        self.commit_in.extend(effects.commit);
        self.raft_in.extend(effects.raft);
        for job in effects.hashes {
            if let Err(error) = job.run(self.stages.apply.applier().store()) {
                panic!("the hash of a compaction: {error}");
            }
        }
    }

    fn committed(&mut self, effects: commit::Effects) {
        if let Some(durable) = effects.durable {
            self.raft_in.push_back(raft::Input::Durable {
                index: durable.index,
                conf_state: durable.conf_state,
                keep_log: false,
            });
        }
        self.log_in
            .extend(effects.snapshot.into_iter().map(log::Input::Snapshot));
        self.apply_in
            .extend(effects.committed.into_iter().map(apply::Input::Committed));
        if effects.again {
            self.commit_in.push_back(commit::Input::Rewrite);
        }
    }
}
