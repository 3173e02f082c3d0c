//! The commit stage: owns the writing of the database file.
//!
//! Order after a commit (architecture, section 5a): the database is durable through the index → the
//! `.snap` file → its record in the log → old log is released. File operations go through the
//! member's [`Disk`]. After an error the stage must not be stepped again.
//!
//! A defragmentation ([`crate::rewrite`]) goes on between commits, a slice at a time.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use ferrite_apply::Progress;
use ferrite_bolt::CommitStats;
use ferrite_membership::{Cluster, v2store};
use ferrite_mutate::mutation;
use ferrite_mvcc::{Backend, Batch};
use ferrite_proto::raftpb::{ConfState, Snapshot, SnapshotMetadata};
use ferrite_proto::walpb;
use ferrite_wal::snap::SnapDir;
use parking_lot::Mutex;

use crate::disk::Disk;
use crate::engine::{DatabaseOptions, Engine, FileState};
use crate::rewrite::{Rewrite, RewriteError};

/// Changes to commit, and how far they bring the file.
pub struct Sealed {
    /// The changes.
    pub batch: Arc<Batch>,
    /// Applied index and term inside the batch.
    pub progress: Progress,
    /// The membership at that index.
    pub cluster: Arc<Cluster>,
    /// Write a `.snap` file now, however short the log since the last one is.
    pub force_snapshot: bool,
}

/// Work for the database file.
pub enum Input {
    /// Commit this.
    Commit(Sealed),
    /// Put the database that a raft snapshot brought in the place of the present one.
    Install {
        /// The received file.
        received: PathBuf,
    },
    /// The state has been read from the database that was put in place.
    Adopted,
    /// Rewrite the file without its free pages; the ticket comes back when it is done.
    Defragment {
        /// Whoever asks.
        ticket: u64,
    },
    /// Go on with that.
    Rewrite,
}

/// The database file is durable through this index.
#[derive(Debug)]
pub struct Durable {
    /// Applied index inside the file.
    pub index: u64,
    /// Membership inside the file.
    pub conf_state: ConfState,
}

/// What an input has brought about. To be told in this order: raft, then the log, then the state machine.
#[derive(Default)]
pub struct Effects {
    /// For the raft stage; none when a raft snapshot has overtaken the batch.
    pub durable: Option<Durable>,
    /// For the log stage: a `.snap` file covers the log up to here.
    pub snapshot: Option<walpb::Snapshot>,
    /// What was written for that, as the original counts it.
    pub document: Option<v2store::Writes>,
    /// For the apply stage: the batch that brought the file to this index is done.
    pub committed: Option<u64>,
    /// What the commit took.
    pub stats: Option<CommitStats>,
    /// For the apply stage: the received database is in place.
    pub installed: Option<Arc<FileState>>,
    /// For whoever asked for a defragmentation: how it ended.
    pub defragmented: Vec<(u64, Result<(), String>)>,
    /// [`Input::Rewrite`] is to be put behind what waits for this stage.
    pub again: bool,
}

/// What the stage starts from.
pub struct CommitStage {
    /// The buffer whose batches are committed.
    pub backend: Backend,
    /// The open file, shared with whoever copies it for a peer.
    pub engine: Arc<Mutex<Engine>>,
    /// Where everything lies.
    pub disk: Disk,
    /// The `.snap` files.
    pub snaps: SnapDir,
    /// The file.
    pub database: PathBuf,
    /// How the file is opened.
    pub database_options: DatabaseOptions,
    /// Entries between two `.snap` files.
    pub snapshot_count: u64,
    /// Bytes of changes after which one is written sooner: a start reads all log since then into memory.
    pub snapshot_bytes: usize,
    /// Bytes of changes since the newest one.
    pub bytes_since_snapshot: usize,
    /// `.snap` files to keep; 0 for all.
    pub max_snapshots: usize,
    /// Index of the newest `.snap` file.
    pub last_snapshot: u64,
    /// The defragmentation under way.
    pub defragmentation: Defragmentation,
}

impl Defragmentation {
    /// Whether a copy is being made.
    pub fn under_way(&self) -> bool {
        self.rewrite.is_some()
    }
}

/// Who waits for the file to be rewritten, and how far that is.
#[derive(Default)]
pub struct Defragmentation {
    rewrite: Option<Rewrite>,
    /// Those it is done for.
    served: Vec<u64>,
    /// Those who asked after it had begun, or cannot be served yet.
    waiting: Vec<u64>,
    /// The database was replaced and the state is not read from it yet: nothing may take its place now.
    installing: bool,
}

impl CommitStage {
    /// Takes one input.
    ///
    /// # Errors
    /// The database cannot be written; the member must end then.
    pub fn step(&mut self, input: Input) -> Result<Effects, String> {
        match input {
            Input::Commit(sealed) => self.commit(&sealed),
            Input::Install { received } => self.install(received),
            Input::Adopted => {
                self.defragmentation.installing = false;
                self.begin_rewrite()
            }
            Input::Defragment { ticket } => {
                self.defragmentation.waiting.push(ticket);
                self.begin_rewrite()
            }
            Input::Rewrite => self.rewrite(),
        }
    }

    /// Begins with the copy, unless one is under way, nobody waits for one, or it must wait itself.
    fn begin_rewrite(&mut self) -> Result<Effects, String> {
        let state = &mut self.defragmentation;
        if state.rewrite.is_some() || state.installing || state.waiting.is_empty() {
            return Ok(Effects::default());
        }
        state.served.append(&mut state.waiting);
        let old = self.engine.lock().clone();
        match Rewrite::begin(&self.disk, &self.database, &old, self.database_options) {
            Ok(rewrite) => {
                state.rewrite = Some(rewrite);
                Ok(Effects {
                    again: true,
                    ..Effects::default()
                })
            }
            Err(error) => self.end_rewrite(Err(error)),
        }
    }

    /// Copies a slice; after the last one the new file takes the place of the old.
    fn rewrite(&mut self) -> Result<Effects, String> {
        let Some(mut rewrite) = self.defragmentation.rewrite.take() else {
            return Ok(Effects::default());
        };
        let old = self.engine.lock().clone();
        match rewrite.copy(&old) {
            Ok(false) => {
                self.defragmentation.rewrite = Some(rewrite);
                Ok(Effects {
                    again: true,
                    ..Effects::default()
                })
            }
            Ok(true) => {
                let done = rewrite.finish(&self.disk, &self.database, &old, self.database_options);
                match done {
                    Ok(new) => {
                        let view = new.view().map_err(|error| error.to_string())?;
                        *self.engine.lock() = new;
                        self.backend.swap_file(view);
                        self.end_rewrite(Ok(()))
                    }
                    Err(error) => self.end_rewrite(Err(error)),
                }
            }
            Err(error) => {
                rewrite.abandon(&self.disk);
                self.end_rewrite(Err(error))
            }
        }
    }

    /// Answers, and begins anew for those who have asked meanwhile.
    fn end_rewrite(&mut self, outcome: Result<(), RewriteError>) -> Result<Effects, String> {
        if let Err(RewriteError::Unknown(reason)) = outcome {
            return Err(reason);
        }
        let outcome = outcome.map_err(|error| error.to_string());
        let served = std::mem::take(&mut self.defragmentation.served);
        let mut effects = self.begin_rewrite()?;
        effects
            .defragmented
            .extend(served.into_iter().map(|ticket| (ticket, outcome.clone())));
        Ok(effects)
    }

    fn commit(&mut self, sealed: &Sealed) -> Result<Effects, String> {
        let engine = self.engine.lock().clone();
        let stats = engine
            .commit(&sealed.batch)
            .map_err(|error| error.to_string())?;
        let view = engine.view().map_err(|error| error.to_string())?;
        let still_current = self.backend.commit_done(view);
        let index = sealed.progress.index;
        let mut effects = match self.follow(&sealed.batch) {
            Ok(()) => Effects::default(),
            Err(error) => self.end_rewrite(Err(error))?,
        };
        effects.committed = Some(index);
        effects.stats = Some(stats);
        if still_current {
            effects.durable = Some(Durable {
                index,
                conf_state: sealed.cluster.conf_state(),
            });
            self.bytes_since_snapshot += sealed.batch.bytes();
            let much =
                self.bytes_since_snapshot >= self.snapshot_bytes && index > self.last_snapshot;
            let forced = sealed.force_snapshot && index > self.last_snapshot;
            let many = index.saturating_sub(self.last_snapshot) > self.snapshot_count;
            if much || forced || many {
                effects.snapshot = Some(self.save_snapshot(sealed)?);
                effects.document = Some(v2store::writes(&sealed.cluster));
            }
        }
        Ok(effects)
    }

    /// A copy under way gets the changes too; one that cannot is given up.
    fn follow(&mut self, batch: &Batch) -> Result<(), RewriteError> {
        let Some(rewrite) = self.defragmentation.rewrite.take() else {
            return Ok(());
        };
        if mutation!("defragmentation-forgets") {
            self.defragmentation.rewrite = Some(rewrite);
            return Ok(());
        }
        match rewrite.follow(batch) {
            Ok(()) => {
                self.defragmentation.rewrite = Some(rewrite);
                Ok(())
            }
            Err(error) => {
                rewrite.abandon(&self.disk);
                Err(error)
            }
        }
    }

    fn save_snapshot(&mut self, sealed: &Sealed) -> Result<walpb::Snapshot, String> {
        let Progress { index, term } = sealed.progress;
        let conf_state = sealed.cluster.conf_state();
        let snapshot = Snapshot {
            data: Bytes::from(v2store::encode(&sealed.cluster)),
            metadata: Some(SnapshotMetadata {
                conf_state: Some(conf_state.clone()),
                index,
                term,
            }),
        };
        self.snaps
            .save(&snapshot)
            .map_err(|error| error.to_string())?;
        self.last_snapshot = index;
        self.bytes_since_snapshot = 0;
        if self.max_snapshots > 0 {
            self.snaps
                .purge(self.max_snapshots)
                .map_err(|error| error.to_string())?;
        }
        tracing::info!("snapshot-index" = index, "saved snapshot to disk");
        Ok(walpb::Snapshot {
            index,
            term,
            conf_state: Some(conf_state),
        })
    }

    /// Renames the received file over the present one. Whoever reads the old one keeps it. A copy under way
    /// is of no use any more; it is begun anew from the received file.
    fn install(&mut self, received: PathBuf) -> Result<Effects, String> {
        let state = &mut self.defragmentation;
        state.installing = true;
        state.waiting.append(&mut state.served);
        if let Some(rewrite) = state.rewrite.take() {
            rewrite.abandon(&self.disk);
        }
        self.disk
            .rename(&received, &self.database)
            .map_err(|error| format!("renaming {}: {error}", received.display()))?;
        let engine = self
            .disk
            .open_database(&self.database, self.database_options)
            .map_err(|error| error.to_string())?;
        let view = engine.view().map_err(|error| error.to_string())?;
        *self.engine.lock() = engine;
        Ok(Effects {
            installed: Some(view),
            ..Effects::default()
        })
    }
}
