//! The log itself: created, opened, appended to, cut into segments, released and purged.
//!
//! One owner, one thread, synchronous. Records gather in a buffer; a sync writes them in one piece
//! and makes them durable. Reading is in [`crate::reader`], zeros ahead of the tail in `zeroer`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ferrite_metrics::Metrics;
use ferrite_mutate::mutation;
use ferrite_proto::{etcdserverpb, raftpb, walpb};
use prost::Message;

use crate::error::{Error, io};
use crate::fs::{Fs, LogFile, Open, RealFs};
use crate::names::{parse_wal_name, wal_name};
use crate::reader::{self, LogReader, Recovered};
use crate::record;
use crate::repair;
use crate::zeroer::{Region, Zeroer};

/// Buffered bytes at which records are written without waiting for the sync: it bounds memory, and a
/// group commit is rarely larger.
const BUFFER_BYTES_MAX: usize = 4 << 20;

/// Who writes zeros ahead of the log's tail and prepares the next segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Preparation {
    /// A helper thread, in small paced steps.
    #[default]
    Thread,
    /// The appender itself when it gets there: deterministic, for a simulator and short-lived tools.
    Inline,
}

/// How a log is written.
#[derive(Clone)]
pub struct Options {
    /// The disk.
    pub fs: Arc<dyn Fs>,
    /// Length at which a segment is closed, in bytes.
    pub segment_bytes: u64,
    /// Leave out every fsync (`--unsafe-no-fsync`): a power cut may lose acknowledged writes.
    pub no_fsync: bool,
    /// Who prepares space.
    pub preparation: Preparation,
    /// Told how long the disk takes.
    pub metrics: Arc<Metrics>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            fs: Arc::new(RealFs),
            segment_bytes: crate::SEGMENT_BYTES,
            no_fsync: false,
            preparation: Preparation::Thread,
            metrics: Arc::default(),
        }
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("segment_bytes", &self.segment_bytes)
            .field("no_fsync", &self.no_fsync)
            .field("preparation", &self.preparation)
            .finish_non_exhaustive()
    }
}

/// Whether a batch has to be durable before anything that depends on it is sent: it has entries, or
/// the term or the vote changed. A commit index alone may be lost.
pub fn must_sync(before: &raftpb::HardState, after: &raftpb::HardState, entries: usize) -> bool {
    entries != 0 || before.term != after.term || before.vote != after.vote
}

/// A segment this log holds the lock of.
struct Held {
    index: u64,
    name: String,
    /// Keeps the lock.
    _file: Box<dyn LogFile>,
}

/// An open write-ahead log, ready for appending.
pub struct Wal {
    options: Options,
    dir: PathBuf,
    metadata: Vec<u8>,
    hard_state: raftpb::HardState,
    /// Index of the last entry saved, or of the last snapshot if larger.
    last_index: u64,
    crc: u32,
    seq: u64,
    /// Older segments first, the tail last.
    held: Vec<Held>,
    tail_path: PathBuf,
    tail: Box<dyn LogFile>,
    region: Arc<Region>,
    zeroer: Zeroer,
    /// Bytes of the tail written.
    position: u64,
    buffer: Vec<u8>,
    scratch: Vec<u8>,
    /// Text of the first failure.
    failed: Option<String>,
}

impl std::fmt::Debug for Wal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wal")
            .field("tail", &self.tail_path)
            .field("position", &self.position)
            .field("last_index", &self.last_index)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl Wal {
    /// Whether the directory holds a log (any file that ends in `.wal`). One that cannot be looked into is not one
    /// without a log: whoever took it for that would found a cluster over what is there.
    ///
    /// # Errors
    /// What the disk says, unless it says that there is no such directory.
    pub fn exists(dir: &Path) -> Result<bool, Error> {
        Wal::exists_on(&RealFs, dir)
    }

    /// [`Wal::exists`] on another file system.
    ///
    /// # Errors
    /// As there.
    pub fn exists_on(fs: &dyn Fs, dir: &Path) -> Result<bool, Error> {
        let names = match fs.list(dir) {
            Ok(names) => names,
            Err(error) if is_absent(&error) || mutation!("unreadable-log-is-none") => {
                return Ok(false);
            }
            Err(error) => return Err(io("list", dir)(error)),
        };
        Ok(names
            .iter()
            .any(|name| name.ends_with(crate::names::WAL_SUFFIX)))
    }

    /// Makes a new log, with a record of the empty snapshot. Everything is written and synced in
    /// `<dir>.tmp`, which then gets the name `dir`, so that a crash leaves either no log or a whole one.
    pub fn create(
        dir: &Path,
        metadata: &etcdserverpb::Metadata,
        options: Options,
    ) -> Result<Wal, Error> {
        Wal::found(dir, metadata, &raftpb::HardState::default(), &[], options)
    }

    /// [`Wal::create`] with first entries and a first hard state, for what must be there as soon as the log is.
    /// The entries are few, with indexes from 1.
    pub fn found(
        dir: &Path,
        metadata: &etcdserverpb::Metadata,
        hard_state: &raftpb::HardState,
        entries: &[raftpb::Entry],
        options: Options,
    ) -> Result<Wal, Error> {
        let fs = options.fs.clone();
        if Wal::exists_on(&*fs, dir)? {
            return Err(Error::Exists { dir: dir.into() });
        }
        let metadata = metadata.encode_to_vec();
        let temporary = with_suffix(dir, ".tmp");
        fs.remove_dir_all(&temporary)
            .map_err(io("remove", &temporary))?;
        fs.create_dir_all(&temporary)
            .map_err(io("create", &temporary))?;
        let name = wal_name(0, 0);
        let path = temporary.join(&name);
        let tail = fs.open(&path, Open::Create).map_err(io("create", &path))?;
        tail.try_lock().map_err(io("lock", &path))?;

        let mut bytes = Vec::new();
        record::append(&mut bytes, record::CRC, &[], 0);
        let crc = record::append(&mut bytes, record::METADATA, &metadata, 0);
        let empty = walpb::Snapshot::default().encode_to_vec();
        let mut crc = record::append(&mut bytes, record::SNAPSHOT, &empty, crc);
        let mut last_index = 0;
        for entry in entries {
            if entry.index != last_index + 1 {
                return Err(Error::SliceOutOfRange {
                    file: path,
                    offset: bytes.len() as u64,
                    index: entry.index,
                    last: last_index,
                });
            }
            last_index = entry.index;
            crc = record::append(&mut bytes, record::ENTRY, &entry.encode_to_vec(), crc);
        }
        if *hard_state != raftpb::HardState::default() {
            crc = record::append(&mut bytes, record::STATE, &hard_state.encode_to_vec(), crc);
        }
        let region = Region::open(&*fs, &path, Open::Write, 0, options.segment_bytes)?;
        let position = bytes.len() as u64;
        region.reach(position).map_err(io("write", &path))?;
        tail.write_at(0, &bytes).map_err(io("write", &path))?;
        options.metrics.wal_write_bytes.add(position);
        if !options.no_fsync {
            let started = Instant::now();
            tail.sync().map_err(io("sync", &path))?;
            options.metrics.wal_fsync.observe(started.elapsed());
            fs.sync_dir(&temporary).map_err(io("sync", &temporary))?;
        }
        fs.remove_dir_all(dir).map_err(io("remove", dir))?;
        fs.rename(&temporary, dir)
            .map_err(io("rename", &temporary))?;
        let parent = dir
            .parent()
            .filter(|parent| !parent.as_os_str().is_empty())
            .unwrap_or(Path::new("."));
        if let Err(error) = fs.sync_dir(parent) {
            // Nobody knows whether the new name lasts: set it aside, as etcd does.
            let aside = with_suffix(dir, &format!(".broken.{}", time_stamp(SystemTime::now())));
            fs.rename(dir, &aside).map_err(io("rename", dir))?;
            return Err(io("sync", parent)(error));
        }

        let held = Held {
            index: 0,
            name: name.clone(),
            _file: tail,
        };
        let tail_path = dir.join(&name);
        let tail = fs
            .open(&tail_path, Open::Write)
            .map_err(io("open", &tail_path))?;
        let zeroer = Zeroer::start(&options, dir, region.clone(), position)?;
        Ok(Wal {
            options,
            dir: dir.into(),
            metadata,
            hard_state: *hard_state,
            last_index,
            crc,
            seq: 0,
            held: vec![held],
            tail_path,
            tail,
            region,
            zeroer,
            position,
            buffer: Vec::new(),
            scratch: Vec::new(),
            failed: None,
        })
    }

    /// Opens a log from a snapshot it has a record of, reads everything after it and gets ready to
    /// append. What follows the last good record is removed first. On [`Error::UnexpectedEof`] the
    /// caller may call [`Wal::repair`] once and open again.
    pub fn open(
        dir: &Path,
        from: &walpb::Snapshot,
        options: Options,
    ) -> Result<(Wal, Recovered), Error> {
        let fs = options.fs.clone();
        let names = reader::segments_from(&*fs, dir, from.index)?;
        let mut held = Vec::with_capacity(names.len());
        for segment in &names {
            let path = dir.join(&segment.name);
            let file = fs.open(&path, Open::Write).map_err(io("open", &path))?;
            file.try_lock().map_err(io("lock", &path))?;
            held.push(Held {
                index: segment.index,
                name: segment.name.clone(),
                _file: file,
            });
        }
        let Some(last) = names.last() else {
            return Err(Error::NotFound { dir: dir.into() });
        };
        let mut log = LogReader::open(&*fs, dir, &names)?;
        let (recovered, end) = reader::read_all(&mut log, dir, from, false)?;

        let tail_path = dir.join(&last.name);
        // It can be read, but nothing can go on behind it: a sector would hold parts of two records.
        if end.offset % 8 != 0 {
            return Err(Error::Malformed {
                file: tail_path,
                offset: end.offset,
                what: "frame",
                detail: "the record before it is not padded to a multiple of 8 bytes".into(),
            });
        }
        let tail = fs
            .open(&tail_path, Open::Write)
            .map_err(io("open", &tail_path))?;
        // Remnants of a torn batch may lie past a zero length field. Left there, they would turn up
        // as damage behind the next records; cut off, they read as zeros again.
        if tail.len().map_err(io("measure", &tail_path))? > end.offset {
            tail.set_len(end.offset)
                .map_err(io("truncate", &tail_path))?;
            if !options.no_fsync {
                tail.sync().map_err(io("sync", &tail_path))?;
            }
        }
        let region = Region::open(
            &*fs,
            &tail_path,
            Open::Write,
            end.offset,
            options.segment_bytes,
        )?;
        let zeroer = Zeroer::start(&options, dir, region.clone(), end.offset)?;
        let wal = Wal {
            options,
            dir: dir.into(),
            metadata: end.metadata,
            hard_state: recovered.hard_state,
            last_index: end.last_index,
            crc: end.crc,
            seq: last.seq,
            held,
            tail_path,
            tail,
            region,
            zeroer,
            position: end.offset,
            buffer: Vec::new(),
            scratch: Vec::new(),
            failed: None,
        };
        Ok((wal, recovered))
    }

    /// Reads a log from a snapshot on without changing or locking anything; a torn tail counts as the end.
    pub fn read(dir: &Path, from: &walpb::Snapshot) -> Result<Recovered, Error> {
        Wal::read_on(&RealFs, dir, from)
    }

    /// [`Wal::read`] on another file system.
    pub fn read_on(fs: &dyn Fs, dir: &Path, from: &walpb::Snapshot) -> Result<Recovered, Error> {
        let mut log = LogReader::open(fs, dir, &reader::segments_from(fs, dir, from.index)?)?;
        Ok(reader::read_all(&mut log, dir, from, true)?.0)
    }

    /// Snapshot records whose index the log's last hard state has committed, oldest first: those a
    /// member may start from. Changes nothing on disk.
    pub fn valid_snapshots(dir: &Path) -> Result<Vec<walpb::Snapshot>, Error> {
        Wal::valid_snapshots_on(&RealFs, dir)
    }

    /// [`Wal::valid_snapshots`] on another file system.
    pub fn valid_snapshots_on(fs: &dyn Fs, dir: &Path) -> Result<Vec<walpb::Snapshot>, Error> {
        reader::valid_snapshots(fs, dir)
    }

    /// Cuts a torn tail off the last segment, keeping a copy of the segment as `<name>.broken`. Damage
    /// of any other kind is returned and left as it is.
    pub fn repair(dir: &Path) -> Result<(), Error> {
        Wal::repair_on(&RealFs, dir)
    }

    /// [`Wal::repair`] on another file system.
    pub fn repair_on(fs: &dyn Fs, dir: &Path) -> Result<(), Error> {
        repair::repair(fs, dir)
    }

    /// Appends entries, then the hard state if one is given and it is not empty. With `sync` all that
    /// was appended so far is durable on return; without, it may still be in memory. A segment that
    /// has reached its length is closed, which syncs in any case.
    ///
    /// Entries must follow each other and the log's last one, or replace earlier ones.
    pub fn save(
        &mut self,
        hard_state: Option<&raftpb::HardState>,
        entries: &[raftpb::Entry],
        sync: bool,
    ) -> Result<(), Error> {
        self.check()?;
        let mut last = self.last_index;
        for entry in entries {
            if entry.index == 0 || entry.index > last.saturating_add(1) {
                return Err(Error::SliceOutOfRange {
                    file: self.tail_path.clone(),
                    offset: self.position + self.buffer.len() as u64,
                    index: entry.index,
                    last,
                });
            }
            last = entry.index;
        }
        for entry in entries {
            self.append(record::ENTRY, entry)?;
            self.last_index = entry.index;
        }
        if let Some(state) = hard_state
            && *state != raftpb::HardState::default()
        {
            self.append(record::STATE, state)?;
            self.hard_state = *state;
        }
        if self.end() >= self.options.segment_bytes {
            return self.cut();
        }
        if sync { self.sync() } else { Ok(()) }
    }

    /// Appends a snapshot's index, term and conf state, durable on return. The `.snap` file must be
    /// durable before: a record without its file must never exist.
    pub fn save_snapshot(&mut self, snapshot: &walpb::Snapshot) -> Result<(), Error> {
        self.check()?;
        if snapshot.index > 0 && snapshot.conf_state.is_none() {
            return Err(Error::ConfStateMissing {
                index: snapshot.index,
            });
        }
        self.append(record::SNAPSHOT, snapshot)?;
        self.last_index = self.last_index.max(snapshot.index);
        self.sync()
    }

    /// Makes everything appended so far durable.
    pub fn sync(&mut self) -> Result<(), Error> {
        self.check()?;
        self.flush()?;
        if self.options.no_fsync {
            return Ok(());
        }
        let started = Instant::now();
        let synced = self.tail.sync().map_err(io("sync", &self.tail_path));
        self.options.metrics.wal_fsync.observe(started.elapsed());
        self.poison(synced)
    }

    /// Gives up the locks of segments that hold only entries before `index`, but for the last of
    /// them, so that [`Wal::purge`] may remove them.
    pub fn release_to(&mut self, index: u64) {
        let newer = self
            .held
            .iter()
            .position(|held| held.index >= index)
            .unwrap_or(self.held.len());
        self.held.drain(..newer.saturating_sub(1));
    }

    /// Removes the oldest segments that are not held until `max_wals` are left (0: keep all), and
    /// returns the names removed.
    pub fn purge(&mut self, max_wals: usize) -> Result<Vec<String>, Error> {
        self.check()?;
        let mut removed = Vec::new();
        if max_wals == 0 {
            return Ok(removed);
        }
        let fs = &self.options.fs;
        let mut names = fs.list(&self.dir).map_err(io("list", &self.dir))?;
        names.retain(|name| parse_wal_name(name).is_some());
        let excess = names.len().saturating_sub(max_wals);
        for name in names.into_iter().take(excess) {
            if self.held.iter().any(|held| held.name == name) {
                break;
            }
            let path = self.dir.join(&name);
            fs.remove_file(&path).map_err(io("remove", &path))?;
            removed.push(name);
        }
        Ok(removed)
    }

    /// Writes and syncs what is buffered, then closes the log. Dropping a log writes what is buffered
    /// too, but has nobody to tell when that fails.
    pub fn close(mut self) -> Result<(), Error> {
        self.sync()
    }

    /// Index of the last entry saved, or of the last snapshot record if that is larger.
    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// The last hard state saved.
    pub fn hard_state(&self) -> &raftpb::HardState {
        &self.hard_state
    }

    /// The log's directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Number of the segment being appended to.
    pub fn segment(&self) -> u64 {
        self.seq
    }

    /// Length of the tail, buffered records included.
    fn end(&self) -> u64 {
        self.position + self.buffer.len() as u64
    }

    fn check(&mut self) -> Result<(), Error> {
        if self.failed.is_none() && self.zeroer.sync_failed() {
            self.failed = Some("an fsync of zeros ahead of the log failed".into());
        }
        match &self.failed {
            Some(cause) => Err(Error::Poisoned {
                cause: cause.clone(),
            }),
            None => Ok(()),
        }
    }

    fn poison<T>(&mut self, answer: Result<T, Error>) -> Result<T, Error> {
        if let Err(error) = &answer {
            self.failed.get_or_insert_with(|| error.to_string());
        }
        answer
    }

    fn append(&mut self, kind: i64, message: &impl Message) -> Result<(), Error> {
        self.scratch.clear();
        if message.encode(&mut self.scratch).is_err() {
            unreachable!("a vector grows as needed");
        }
        self.crc = record::append(&mut self.buffer, kind, &self.scratch, self.crc);
        if self.buffer.len() > BUFFER_BYTES_MAX {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        assert_eq!(self.position % 8, 0, "records start at multiples of 8");
        let end = self.end();
        let started = Instant::now();
        let written = self
            .region
            .reach(end)
            .and_then(|()| self.tail.write_at(self.position, &self.buffer))
            .map_err(io("write", &self.tail_path));
        let metrics = &self.options.metrics;
        metrics.wal_write.observe(started.elapsed());
        metrics.wal_write_bytes.add(self.buffer.len() as u64);
        self.poison(written)?;
        self.position = end;
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_BYTES_MAX);
        self.zeroer.written(&self.region, end);
        Ok(())
    }

    fn cut(&mut self) -> Result<(), Error> {
        let cut = self.try_cut();
        self.poison(cut)
    }

    fn try_cut(&mut self) -> Result<(), Error> {
        self.flush()?;
        // A closed segment has no zeros after its last record.
        self.tail
            .set_len(self.position)
            .map_err(io("truncate", &self.tail_path))?;
        self.sync()?;

        let fs = self.options.fs.clone();
        let spare = self.zeroer.take_spare()?;
        let lock = fs
            .open(&spare.path, Open::Write)
            .map_err(io("open", &spare.path))?;
        lock.try_lock().map_err(io("lock", &spare.path))?;
        let tail = fs
            .open(&spare.path, Open::Write)
            .map_err(io("open", &spare.path))?;
        let mut bytes = Vec::new();
        // The checksum record has no data, so the chain goes on from it unchanged.
        let crc = record::append(&mut bytes, record::CRC, &[], self.crc);
        let mut crc = record::append(&mut bytes, record::METADATA, &self.metadata, crc);
        if self.hard_state != raftpb::HardState::default() {
            crc = record::append(
                &mut bytes,
                record::STATE,
                &self.hard_state.encode_to_vec(),
                crc,
            );
        }
        let position = bytes.len() as u64;
        spare
            .region
            .reach(position)
            .and_then(|()| tail.write_at(0, &bytes))
            .map_err(io("write", &spare.path))?;
        if !self.options.no_fsync {
            tail.sync().map_err(io("sync", &spare.path))?;
        }
        let seq = self.seq + 1;
        let index = self.last_index + 1;
        let name = wal_name(seq, index);
        let path = self.dir.join(&name);
        fs.rename(&spare.path, &path)
            .map_err(io("rename", &spare.path))?;
        if !self.options.no_fsync {
            fs.sync_dir(&self.dir).map_err(io("sync", &self.dir))?;
        }
        self.held.push(Held {
            index,
            name,
            _file: lock,
        });
        self.crc = crc;
        self.seq = seq;
        self.tail = tail;
        self.tail_path = path;
        self.position = position;
        self.region = spare.region;
        self.zeroer.moved_on(self.region.clone(), position);
        Ok(())
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        if self.failed.is_none() && !self.buffer.is_empty() {
            // Never acknowledged: nobody relies on it.
            let _ = self.flush();
        }
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Whether this says that the directory is not there.
fn is_absent(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
}

/// `yyyymmdd.hhmmss.micros` in UTC.
fn time_stamp(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Civil date from days since 1970-01-01, in years that begin in March (so that the leap day is last).
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 {
        march_month + 3
    } else {
        march_month - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!(
        "{year:04}{month:02}{day:02}.{hour:02}{minute:02}{second:02}.{:06}",
        since.subsec_micros()
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn time_stamps_are_calendar_dates() {
        let at = |seconds| time_stamp(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "19700101.000000.000000");
        assert_eq!(at(951_782_400), "20000229.000000.000000");
        assert_eq!(at(1_735_689_599), "20241231.235959.000000");
    }
}
