//! Deliberate mistakes, to show that the judges see them. Some are made by the executor or by the disk around
//! the production stages; the others inside production crates, at their `mutation!`s, in builds with the
//! feature `mutations` only: nothing of them is in the code that ships.

use std::io;
use std::path::Path;

use ferrite_wal::fs::{Fs, LogFile, Open};
use ferrite_wal::memfs::MemFs;

/// One mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutation {
    /// The log's fsync returns without having synced.
    LogSyncLies,
    /// The database's fsync returns without having synced.
    DatabaseSyncLies,
    /// Raft and the peers hear of a write before the log has begun it.
    PersistedTooEarly,
    /// The vote is left out of what is written.
    ForgetVote,
    /// The applied index stays behind the data that is committed with it.
    LoseAppliedIndex,
    /// A reader is served without asking the quorum.
    ReadWithoutQuorum,
    /// A reader is served before its index is applied.
    ReadBeforeApplied,
    /// A proposal is handed to raft twice.
    ProposeTwice,
    /// One member passes over an entry.
    SkipEntry,
    /// A new leader's entries are applied as soon as they are appended.
    ApplyUncommitted,
    /// One inside a production crate.
    Inside(&'static str),
}

/// Those made around the production code.
const OUTSIDE: [Mutation; 10] = [
    Mutation::LogSyncLies,
    Mutation::DatabaseSyncLies,
    Mutation::PersistedTooEarly,
    Mutation::ForgetVote,
    Mutation::LoseAppliedIndex,
    Mutation::ReadWithoutQuorum,
    Mutation::ReadBeforeApplied,
    Mutation::ProposeTwice,
    Mutation::SkipEntry,
    Mutation::ApplyUncommitted,
];

/// Those made inside it, at a `mutation!` of this name.
const INSIDE: [&str; 42] = [
    "append-without-term-check",
    "vote-twice",
    "vote-for-shorter-log",
    "commit-old-term",
    "commit-by-minority",
    "read-before-term-commit",
    "heartbeat-commits-all",
    "accept-bad-checksum",
    "acknowledge-before-fsync",
    "lose-hard-state",
    "install-does-not-wait",
    "defragmentation-forgets",
    "expire-when-deposed",
    "promote-lagging",
    "apply-twice",
    "auth-differs",
    "alarm-differs",
    "revoke-leaves-keys",
    "renewal-lost",
    "never-expires",
    "keys-stay-attached",
    "tombstone-too-early",
    "compaction-takes-pinned",
    "catch-up-skips",
    "full-queue-drops",
    "progress-while-behind",
    "reuse-under-readers",
    "leader-reads-alone",
    "users-stay-at-install",
    "future-watch-hears-past",
    "now-is-later",
    "history-after-compaction",
    "txn-tells-twice",
    "unreadable-log-is-none",
    "unreadable-is-absent",
    "ids-by-the-clock-alone",
    "confirm-by-any-answer",
    "layout-stays-above",
    "downgrade-unsaved",
    "tokens-outlive-users",
    "tokens-live-for-ever",
    "tokens-do-not-wait",
];

impl Mutation {
    /// All that this build can make.
    pub fn all() -> impl Iterator<Item = Mutation> {
        let inside = INSIDE.iter().filter(|_| ferrite_mutate::ON);
        OUTSIDE
            .into_iter()
            .chain(inside.map(|name| Mutation::Inside(name)))
    }

    /// What it is called.
    pub fn name(self) -> String {
        match self {
            Mutation::Inside(name) => name.to_owned(),
            outside => format!("{outside:?}"),
        }
    }

    /// The one of this name.
    pub fn named(name: &str) -> Option<Mutation> {
        Mutation::all().find(|known| known.name() == name)
    }
}

/// A disk that may lie about fsync.
pub struct LyingFs {
    disk: MemFs,
    mutation: Option<Mutation>,
}

impl LyingFs {
    /// Tells the truth without a mutation.
    pub fn new(disk: MemFs, mutation: Option<Mutation>) -> Self {
        LyingFs { disk, mutation }
    }
}

struct LyingFile(Box<dyn LogFile>);

impl LogFile for LyingFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read_at(offset, buf)
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn try_lock(&self) -> io::Result<()> {
        self.0.try_lock()
    }
}

impl Fs for LyingFs {
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn LogFile>> {
        let file = self.disk.open(path, how)?;
        let is_log = path.extension().is_some_and(|kind| kind == "wal");
        let is_database = path.file_name().is_some_and(|name| name == "db");
        let lies = match self.mutation {
            Some(Mutation::LogSyncLies) => is_log,
            Some(Mutation::DatabaseSyncLies) => is_database,
            _ => false,
        };
        Ok(if lies {
            Box::new(LyingFile(file))
        } else {
            file
        })
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir_all(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_dir(path)
    }
}
