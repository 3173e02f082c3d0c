//! The log stage: owns the write-ahead log, and decides in what order things get into it and what
//! may leave once they are durable.
//!
//! File operations go through the [`Fs`](ferrite_wal::fs::Fs) of the log: that trait is where a
//! simulated disk takes its place. After an error the stage must not be stepped again: what the disk
//! then holds is unknown.

use std::collections::VecDeque;

use ferrite_mutate::mutation;
use ferrite_proto::raftpb::{Message, Snapshot};
use ferrite_proto::walpb;
use ferrite_wal::snap::SnapDir;
use ferrite_wal::{Error, Wal};

use super::raft::{PersistJob, Persisted};

/// Work for the log.
#[derive(Debug)]
pub enum Input {
    /// Make this durable.
    Persist(PersistJob),
    /// The database file and a `.snap` file cover the log up to this snapshot.
    Snapshot(walpb::Snapshot),
}

/// What a batch allows, now that it is durable. In this order: installs, then messages, then what
/// raft is to be told.
#[derive(Debug, Default)]
pub struct Effects {
    /// Raft snapshots that the state machine is to bring in, before it applies anything later.
    pub installs: Vec<Snapshot>,
    /// Acknowledgements for other members.
    pub to_peers: Vec<Message>,
    /// The jobs done, for the raft stage.
    pub persisted: Vec<Persisted>,
}

/// See the module.
pub struct LogStage {
    wal: Wal,
    snaps: SnapDir,
    member_id: u64,
    max_wals: usize,
    /// Index of the newest snapshot record in the log.
    last_snapshot: u64,
    durable_index: u64,
}

impl LogStage {
    /// Goes on with an opened log. `last_snapshot` is the index of its newest snapshot record;
    /// `max_wals` segments are kept after a release, 0 for all.
    pub fn new(
        wal: Wal,
        snaps: SnapDir,
        member_id: u64,
        max_wals: usize,
        last_snapshot: u64,
    ) -> Self {
        let durable_index = wal.last_index();
        LogStage {
            wal,
            snaps,
            member_id,
            max_wals,
            last_snapshot,
            durable_index,
        }
    }

    /// The last index of the log that an fsync has covered.
    pub fn durable_index(&self) -> u64 {
        self.durable_index
    }

    /// Writes a batch and syncs it once, if anything in it needs that.
    ///
    /// # Errors
    /// Whatever the disk says; the member must end then.
    pub fn step(&mut self, batch: &mut VecDeque<Input>) -> Result<Effects, Error> {
        let mut effects = Effects {
            persisted: Vec::with_capacity(batch.len()),
            ..Effects::default()
        };
        let mut sync = false;
        for input in batch.drain(..) {
            match input {
                Input::Persist(job) => {
                    sync |= job.must_sync;
                    self.persist(job, &mut effects)?;
                }
                Input::Snapshot(record) => self.snapshot(&record)?,
            }
        }
        if sync {
            if !mutation!("acknowledge-before-fsync") {
                self.wal.sync()?;
            }
            self.durable_index = self.wal.last_index();
        }
        Ok(effects)
    }

    fn persist(&mut self, job: PersistJob, effects: &mut Effects) -> Result<(), Error> {
        if let Some(snapshot) = &job.snapshot {
            // Order of section 5a: .snap file, its record, then the hard state and entries after it.
            self.snaps.save(snapshot)?;
            let metadata = snapshot.metadata.clone().unwrap_or_default();
            self.last_snapshot = self.last_snapshot.max(metadata.index);
            self.wal.save_snapshot(&walpb::Snapshot {
                index: metadata.index,
                term: metadata.term,
                conf_state: metadata.conf_state,
            })?;
        }
        self.wal.save(
            job.hard_state
                .as_ref()
                .filter(|_| !mutation!("lose-hard-state")),
            &job.entries,
            job.snapshot.is_some(),
        )?;
        if let Some(snapshot) = &job.snapshot {
            effects.installs.push(snapshot.clone());
        }
        let own = self.member_id;
        let mut responses = job.responses;
        effects
            .to_peers
            .extend(responses.extract_if(.., |message| message.to != own));
        effects.persisted.push(Persisted {
            hard_state: job.hard_state,
            entries: job.entries,
            snapshot: job.snapshot,
            responses,
        });
        Ok(())
    }

    fn snapshot(&mut self, record: &walpb::Snapshot) -> Result<(), Error> {
        // A snapshot from the leader may have overtaken our own: its record must stay the newest, for
        // the log has no entries between the two.
        if record.index > self.last_snapshot {
            self.last_snapshot = record.index;
            self.wal.save_snapshot(record)?;
            self.wal.release_to(record.index);
        }
        if self.max_wals > 0 {
            self.wal.purge(self.max_wals)?;
        }
        Ok(())
    }
}
