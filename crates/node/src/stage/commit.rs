//! The commit stage: owns the writing of the database file.
//!
//! Order after a commit (architecture, section 5a): the database is durable through the index → the
//! `.snap` file → its record in the log → old log is released. File operations go through the
//! member's [`Disk`]. After an error the stage must not be stepped again.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use ferrite_apply::Progress;
use ferrite_membership::{Cluster, v2store};
use ferrite_mvcc::{Backend, Batch};
use ferrite_proto::raftpb::{ConfState, Snapshot, SnapshotMetadata};
use ferrite_proto::walpb;
use ferrite_wal::snap::SnapDir;
use parking_lot::Mutex;

use crate::disk::Disk;
use crate::engine::{DatabaseOptions, Engine, FileState};

/// Changes to commit, and how far they bring the file.
pub struct Sealed {
    /// The changes.
    pub batch: Arc<Batch>,
    /// Applied index and term inside the batch.
    pub progress: Progress,
    /// The membership at that index.
    pub cluster: Arc<Cluster>,
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
    /// For the apply stage: the batch that brought the file to this index is done.
    pub committed: Option<u64>,
    /// For the apply stage: the received database is in place.
    pub installed: Option<Arc<FileState>>,
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
        }
    }

    fn commit(&mut self, sealed: &Sealed) -> Result<Effects, String> {
        let engine = self.engine.lock().clone();
        engine
            .commit(&sealed.batch)
            .map_err(|error| error.to_string())?;
        let view = engine.view().map_err(|error| error.to_string())?;
        let still_current = self.backend.commit_done(view);
        let index = sealed.progress.index;
        let mut effects = Effects {
            committed: Some(index),
            ..Effects::default()
        };
        if still_current {
            effects.durable = Some(Durable {
                index,
                conf_state: sealed.cluster.conf_state(),
            });
            self.bytes_since_snapshot += sealed.batch.bytes();
            let much =
                self.bytes_since_snapshot >= self.snapshot_bytes && index > self.last_snapshot;
            if much || index >= self.last_snapshot + self.snapshot_count {
                effects.snapshot = Some(self.save_snapshot(sealed)?);
            }
        }
        Ok(effects)
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

    /// Renames the received file over the present one. Whoever reads the old one keeps it.
    fn install(&mut self, received: PathBuf) -> Result<Effects, String> {
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
