//! `.snap` files: a raft snapshot in a checksummed envelope, one file each, beside the database.
//!
//! Also the names and the clearing away of what else lies there (`.snap.db`, orphans). Never here:
//! the database itself, or when a snapshot is taken.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use ferrite_metrics::Metrics;
use ferrite_proto::{raftpb, snappb, walpb};
use prost::Message;

use crate::error::{Error, io};
use crate::fs::{Fs, Open, RealFs, read_all};
use crate::names::{SNAP_DB_SUFFIX, SNAP_SUFFIX};
pub use crate::names::{parse_snap_db_name, parse_snap_name, snap_db_name, snap_name};

/// What a search for a usable snapshot found.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The newest snapshot that reads and matches.
    pub snapshot: Option<raftpb::Snapshot>,
    /// Files that did not read and were renamed to `.snap.broken`, for the log.
    pub broken: Vec<Error>,
}

/// The directory of `.snap` files on some file system.
#[derive(Clone)]
pub struct SnapDir {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    metrics: Option<Arc<Metrics>>,
}

impl SnapDir {
    /// The directory `dir`, which must exist.
    pub fn new(fs: Arc<dyn Fs>, dir: &Path) -> SnapDir {
        SnapDir {
            fs,
            dir: dir.into(),
            metrics: None,
        }
    }

    /// Tells how long saving takes from now on.
    pub fn timed(self, metrics: Arc<Metrics>) -> SnapDir {
        SnapDir {
            metrics: Some(metrics),
            ..self
        }
    }

    /// Writes a snapshot, durable on return, and returns its path. An empty snapshot (index 0) is not written.
    pub fn save(&self, snapshot: &raftpb::Snapshot) -> Result<Option<PathBuf>, Error> {
        let (term, index) = position(snapshot);
        if index == 0 {
            return Ok(None);
        }
        let started = Instant::now();
        let data = snapshot.encode_to_vec();
        let envelope = snappb::Snapshot {
            crc: crc32c::crc32c(&data),
            data: Some(data.into()),
        };
        let bytes = envelope.encode_to_vec();
        if let Some(metrics) = &self.metrics {
            metrics.snap_marshalling.observe(started.elapsed());
        }
        let name = snap_name(term, index);
        let path = self.dir.join(&name);
        // The prefix makes it an orphan to be removed if we die before the rename; it must not end in
        // `.snap`, or etcd and we would take it for a snapshot.
        let temporary = self.dir.join(format!("tmp.{name}.part"));
        let written = Instant::now();
        let file = self
            .fs
            .open(&temporary, Open::CreateShared)
            .map_err(io("create", &temporary))?;
        file.write_at(0, &bytes).map_err(io("write", &temporary))?;
        file.sync().map_err(io("sync", &temporary))?;
        if let Some(metrics) = &self.metrics {
            metrics.snap_fsync.observe(written.elapsed());
        }
        self.fs
            .rename(&temporary, &path)
            .map_err(io("rename", &temporary))?;
        self.fs.sync_dir(&self.dir).map_err(io("sync", &self.dir))?;
        if let Some(metrics) = &self.metrics {
            metrics.snap_save.observe(started.elapsed());
        }
        Ok(Some(path))
    }

    /// Reads one file and checks it.
    pub fn load(&self, path: &Path) -> Result<raftpb::Snapshot, Error> {
        decode(path, &read_all(&*self.fs, path).map_err(io("read", path))?)
    }

    /// Names of the `.snap` files, newest first.
    pub fn names(&self) -> Result<Vec<String>, Error> {
        let mut names = self.fs.list(&self.dir).map_err(io("list", &self.dir))?;
        names.retain(|name| name.ends_with(SNAP_SUFFIX));
        names.reverse();
        Ok(names)
    }

    /// The newest sound snapshot of which the log has a record. Damaged files are set aside.
    ///
    /// # Errors
    /// What the disk says.
    pub fn load_newest_matching(&self, records: &[walpb::Snapshot]) -> Result<Loaded, Error> {
        self.search(|at| {
            records
                .iter()
                .any(|record| (record.term, record.index) == at)
        })
    }

    /// The newest sound snapshot. Damaged files are set aside.
    ///
    /// # Errors
    /// What the disk says.
    pub fn load_newest(&self) -> Result<Loaded, Error> {
        self.search(|_| true)
    }

    fn search(&self, matches: impl Fn((u64, u64)) -> bool) -> Result<Loaded, Error> {
        let mut loaded = Loaded::default();
        for name in self.names()? {
            let path = self.dir.join(name);
            match self.load(&path) {
                Ok(snapshot) if matches(position(&snapshot)) => {
                    loaded.snapshot = Some(snapshot);
                    break;
                }
                Ok(_) => {}
                // It may be sound, and readable the next time.
                Err(error @ Error::Io { .. }) => return Err(error),
                Err(error) => {
                    let mut aside = path.clone().into_os_string();
                    aside.push(".broken");
                    self.fs
                        .rename(&path, Path::new(&aside))
                        .map_err(io("rename", &path))?;
                    loaded.broken.push(error);
                }
            }
        }
        Ok(loaded)
    }

    /// Removes the oldest `.snap` files, and apart from them the oldest `.snap.db` files, until `max`
    /// of each are left (0: keep all). Returns the names removed.
    pub fn purge(&self, max: usize) -> Result<Vec<String>, Error> {
        let mut removed = Vec::new();
        if max == 0 {
            return Ok(removed);
        }
        let names = self.fs.list(&self.dir).map_err(io("list", &self.dir))?;
        for suffix in [SNAP_SUFFIX, SNAP_DB_SUFFIX] {
            let of_kind: Vec<&String> =
                names.iter().filter(|name| name.ends_with(suffix)).collect();
            for name in of_kind.iter().take(of_kind.len().saturating_sub(max)) {
                self.remove(name)?;
                removed.push((*name).clone());
            }
        }
        Ok(removed)
    }

    /// Removes received databases of snapshots before `index`. Returns the names removed.
    pub fn release_databases(&self, index: u64) -> Result<Vec<String>, Error> {
        self.remove_where(|name| parse_snap_db_name(name).is_some_and(|at| at < index))
    }

    /// Removes what a crash left half-made: `tmp*` and `db.tmp*`. Returns the names removed.
    pub fn remove_orphans(&self) -> Result<Vec<String>, Error> {
        self.remove_where(|name| name.starts_with("tmp") || name.starts_with("db.tmp"))
    }

    fn remove_where(&self, chosen: impl Fn(&str) -> bool) -> Result<Vec<String>, Error> {
        let mut names = self.fs.list(&self.dir).map_err(io("list", &self.dir))?;
        names.retain(|name| chosen(name));
        for name in &names {
            self.remove(name)?;
        }
        Ok(names)
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        let path = self.dir.join(name);
        match self.fs.remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(io("remove", path)(error))
            }
            _ => Ok(()),
        }
    }
}

/// Term and index.
fn position(snapshot: &raftpb::Snapshot) -> (u64, u64) {
    snapshot
        .metadata
        .as_ref()
        .map_or((0, 0), |metadata| (metadata.term, metadata.index))
}

/// Decodes the content of a `.snap` file.
pub fn decode(path: &Path, bytes: &[u8]) -> Result<raftpb::Snapshot, Error> {
    let broken = |detail: String| Error::BrokenSnap {
        path: path.into(),
        detail,
    };
    if bytes.is_empty() {
        return Err(broken("it is empty".into()));
    }
    let envelope =
        snappb::Snapshot::decode(bytes).map_err(|error| broken(format!("envelope: {error}")))?;
    let data = envelope.data.unwrap_or_default();
    if data.is_empty() || envelope.crc == 0 {
        return Err(broken("it holds no snapshot".into()));
    }
    let computed = crc32c::crc32c(&data);
    if computed != envelope.crc {
        return Err(broken(format!(
            "crc mismatch: file says {:#010x}, data gives {computed:#010x}",
            envelope.crc
        )));
    }
    raftpb::Snapshot::decode(&*data).map_err(|error| broken(format!("snapshot: {error}")))
}

fn real(dir: &Path) -> SnapDir {
    SnapDir::new(Arc::new(RealFs), dir)
}

/// [`SnapDir::save`] on the real file system.
pub fn save(dir: &Path, snapshot: &raftpb::Snapshot) -> Result<Option<PathBuf>, Error> {
    real(dir).save(snapshot)
}

/// [`SnapDir::load`] on the real file system.
pub fn load(path: &Path) -> Result<raftpb::Snapshot, Error> {
    real(Path::new("")).load(path)
}

/// [`SnapDir::names`] on the real file system.
pub fn names(dir: &Path) -> Result<Vec<String>, Error> {
    real(dir).names()
}

/// [`SnapDir::load_newest_matching`] on the real file system.
pub fn load_newest_matching(dir: &Path, records: &[walpb::Snapshot]) -> Result<Loaded, Error> {
    real(dir).load_newest_matching(records)
}

/// [`SnapDir::purge`] on the real file system.
pub fn purge(dir: &Path, max: usize) -> Result<Vec<String>, Error> {
    real(dir).purge(max)
}

/// [`SnapDir::remove_orphans`] on the real file system.
pub fn remove_orphans(dir: &Path) -> Result<Vec<String>, Error> {
    real(dir).remove_orphans()
}
