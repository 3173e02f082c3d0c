//! Zeros written ahead of the log's tail, and the next segment prepared, by a helper thread.
//!
//! A commit into bytes that already exist costs half of one that has to allocate them, and zeros left
//! by a file system's preallocation do not count: they are unwritten extents. So real zeros are
//! written in small steps with pauses, never a whole segment at once. The helper only ever writes at
//! or past [`Region::zeroed_to`], under the region's lock; the appender only ever writes before it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::{Error, io};
use crate::fs::{Fs, LogFile, Open};
use crate::wal::{Options, Preparation};

/// How far ahead of the tail the helper keeps zeros. At 40 MB/s of log this is a tenth of a second.
const AHEAD_BYTES: u64 = 4 << 20;
/// What is written between two pauses: small enough that an append's own fsync hardly waits for it.
const STEP_BYTES: u64 = 256 << 10;
/// What the appender itself writes when the helper has not kept up, or there is none.
const INLINE_BYTES: u64 = 64 << 10;
/// The pause after each step.
const PAUSE: Duration = Duration::from_millis(10);

static ZEROS: [u8; INLINE_BYTES as usize] = [0; INLINE_BYTES as usize];

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while it holds these locks half-way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A segment as the zeroer sees it.
pub(crate) struct Region {
    file: Box<dyn LogFile>,
    /// Whoever holds this may write zeros.
    gate: Mutex<()>,
    zeroed_to: AtomicU64,
    limit: u64,
}

impl Region {
    /// A segment that is good up to `zeroed_to` and ends there, and should have zeros up to `limit`.
    pub(crate) fn open(
        fs: &dyn Fs,
        path: &Path,
        how: Open,
        zeroed_to: u64,
        limit: u64,
    ) -> Result<Arc<Region>, Error> {
        let file = fs.open(path, how).map_err(io("open", path))?;
        Ok(Arc::new(Region {
            file,
            gate: Mutex::new(()),
            zeroed_to: AtomicU64::new(zeroed_to),
            limit,
        }))
    }

    /// Offset up to which the file exists.
    pub(crate) fn zeroed_to(&self) -> u64 {
        self.zeroed_to.load(Ordering::Acquire)
    }

    /// Writes zeros up to `target` or the limit.
    fn zero_to(&self, target: u64) -> std::io::Result<()> {
        let _gate = locked(&self.gate);
        let mut at = self.zeroed_to();
        let end = target.min(self.limit);
        while at < end {
            let len = (end - at).min(INLINE_BYTES);
            self.file.write_at(at, &ZEROS[..len as usize])?;
            at += len;
            self.zeroed_to.store(at, Ordering::Release);
        }
        Ok(())
    }

    /// Called by the appender before it writes up to `end`: no helper may write below that any more.
    pub(crate) fn reach(&self, end: u64) -> std::io::Result<()> {
        if self.zeroed_to() >= end.min(self.limit) {
            return Ok(());
        }
        self.zero_to(end.next_multiple_of(INLINE_BYTES))
    }
}

/// The next segment, under its temporary name.
pub(crate) struct Spare {
    pub path: PathBuf,
    pub region: Arc<Region>,
}

struct State {
    tail: Arc<Region>,
    /// The tail's target, below its limit.
    target: u64,
    spare_wanted: bool,
    spare: Option<Spare>,
    /// Spares made so far: their names alternate.
    made: u64,
    /// A write of zeros failed (a full disk, most likely): leave it to the appender, which says so.
    gave_up: bool,
    stop: bool,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    failed: AtomicBool,
    fsync: bool,
}

/// Owner of the helper thread.
pub(crate) struct Zeroer {
    fs: Arc<dyn Fs>,
    dir: PathBuf,
    segment_bytes: u64,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Zeroer {
    /// Starts a helper (or none, for a simulator) on this tail, which has been written up to `written`.
    pub(crate) fn start(
        options: &Options,
        dir: &Path,
        tail: Arc<Region>,
        written: u64,
    ) -> Result<Zeroer, Error> {
        let segment_bytes = options.segment_bytes;
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                tail,
                target: written + AHEAD_BYTES,
                spare_wanted: written >= segment_bytes / 2,
                spare: None,
                made: 0,
                gave_up: false,
                stop: false,
            }),
            wake: Condvar::new(),
            failed: AtomicBool::new(false),
            fsync: !options.no_fsync,
        });
        let mut zeroer = Zeroer {
            fs: options.fs.clone(),
            dir: dir.into(),
            segment_bytes,
            shared,
            thread: None,
        };
        if options.preparation == Preparation::Thread {
            let (fs, dir, shared) = (zeroer.fs.clone(), zeroer.dir.clone(), zeroer.shared.clone());
            let thread = std::thread::Builder::new()
                .name("wal-zeros".into())
                .spawn(move || run(&*fs, &dir, segment_bytes, &shared))
                .map_err(io("start the zeroing thread for", &zeroer.dir))?;
            zeroer.thread = Some(thread);
        }
        Ok(zeroer)
    }

    /// Whether an fsync of the helper failed; the log must then not be trusted any more.
    pub(crate) fn sync_failed(&self) -> bool {
        self.shared.failed.load(Ordering::Acquire)
    }

    /// Tells the helper how far the tail has been written.
    pub(crate) fn written(&self, tail: &Region, written: u64) {
        let short = tail.zeroed_to() < (written + AHEAD_BYTES / 2).min(tail.limit);
        let half = written >= self.segment_bytes / 2;
        if self.thread.is_none() || !(short || half) {
            return;
        }
        let mut state = locked(&self.shared.state);
        let wanted_before = state.spare_wanted;
        state.spare_wanted |= half;
        if short || !wanted_before {
            state.target = written + AHEAD_BYTES;
            drop(state);
            self.shared.wake.notify_one();
        }
    }

    /// The prepared segment, or one made now.
    pub(crate) fn take_spare(&self) -> Result<Spare, Error> {
        let mut state = locked(&self.shared.state);
        match state.spare.take() {
            Some(spare) => Ok(spare),
            None => {
                let spare = make_spare(&*self.fs, &self.dir, self.segment_bytes, state.made)?;
                state.made += 1;
                Ok(spare)
            }
        }
    }

    /// The tail is now this segment.
    pub(crate) fn moved_on(&self, tail: Arc<Region>, written: u64) {
        let mut state = locked(&self.shared.state);
        state.tail = tail;
        state.target = written + AHEAD_BYTES;
        state.spare_wanted = false;
        state.gave_up = false;
        drop(state);
        self.shared.wake.notify_one();
    }
}

impl Drop for Zeroer {
    fn drop(&mut self) {
        locked(&self.shared.state).stop = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; the log itself is whole.
            let _ = thread.join();
        }
        if let Some(spare) = locked(&self.shared.state).spare.take() {
            // Left behind it is harmless: the next spare of that name empties it.
            let _ = self.fs.remove_file(&spare.path);
        }
    }
}

fn make_spare(fs: &dyn Fs, dir: &Path, limit: u64, made: u64) -> Result<Spare, Error> {
    let path = dir.join(format!("{}.tmp", made % 2));
    let region = Region::open(fs, &path, Open::Create, 0, limit)?;
    Ok(Spare { path, region })
}

fn run(fs: &dyn Fs, dir: &Path, segment_bytes: u64, shared: &Shared) {
    let mut state = locked(&shared.state);
    while !state.stop {
        let target = state.target.min(state.tail.limit);
        let job = if state.gave_up {
            None
        } else if state.tail.zeroed_to() < target {
            Some((state.tail.clone(), target))
        } else if state.spare_wanted {
            if state.spare.is_none() {
                // Under the lock, so that the appender cannot make the same file.
                match make_spare(fs, dir, segment_bytes, state.made) {
                    Ok(spare) => {
                        state.made += 1;
                        state.spare = Some(spare);
                    }
                    Err(_) => state.gave_up = true,
                }
            }
            let spare = state.spare.as_ref().map(|spare| spare.region.clone());
            spare
                .filter(|region| region.zeroed_to() < region.limit)
                .map(|region| (region, segment_bytes))
        } else {
            None
        };
        let Some((region, target)) = job else {
            state = shared
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            continue;
        };
        drop(state);
        let step = (region.zeroed_to() + STEP_BYTES).min(target);
        let written = region.zero_to(step).is_ok();
        // Not under the gate: the appender must not wait for this.
        if written && shared.fsync && region.file.sync().is_err() {
            shared.failed.store(true, Ordering::Release);
        }
        state = locked(&shared.state);
        state.gave_up |= !written || shared.failed.load(Ordering::Acquire);
        if !state.stop {
            let (guard, _) = shared
                .wake
                .wait_timeout(state, PAUSE)
                .unwrap_or_else(PoisonError::into_inner);
            state = guard;
        }
    }
}
