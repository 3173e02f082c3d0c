//! A disk in memory that forgets: what was not synced may be lost, kept, or kept in part, by seed.
//!
//! For simulators and crash tests. Data survives a crash in whole 512-byte sectors; names made,
//! renamed or removed survive in order up to some point, unless their directory was synced. A
//! countdown makes the n-th changing operation fail, after which the write may have happened in part;
//! another one makes reads fail, for a while.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::fs::{Fs, LogFile, Open};
use crate::record::SECTOR_BYTES;

type FileId = u64;

#[derive(Default)]
struct Inode {
    /// What a process reads.
    data: Vec<u8>,
    /// What the platter holds.
    durable: Vec<u8>,
    locked: bool,
}

#[derive(Clone, Debug)]
enum NameChange {
    Link(PathBuf, FileId),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
    MakeDir(PathBuf),
    RemoveDir(PathBuf),
}

impl NameChange {
    /// Whether syncing this directory makes the change durable.
    fn touches(&self, dir: &Path) -> bool {
        match self {
            NameChange::Link(path, _)
            | NameChange::Unlink(path)
            | NameChange::MakeDir(path)
            | NameChange::RemoveDir(path) => path.parent() == Some(dir),
            NameChange::Rename(from, to) => from.parent() == Some(dir) || to.parent() == Some(dir),
        }
    }
}

#[derive(Clone, Default)]
struct Names {
    files: BTreeMap<PathBuf, FileId>,
    dirs: BTreeSet<PathBuf>,
}

impl Names {
    fn apply(&mut self, change: &NameChange) {
        match change {
            NameChange::Link(path, id) => {
                self.files.insert(path.clone(), *id);
            }
            NameChange::Unlink(path) => {
                self.files.remove(path);
            }
            NameChange::MakeDir(path) => {
                self.dirs.insert(path.clone());
            }
            NameChange::RemoveDir(path) => {
                self.files.retain(|file, _| !file.starts_with(path));
                self.dirs.retain(|dir| !dir.starts_with(path));
            }
            NameChange::Rename(from, to) => {
                if let Some(id) = self.files.remove(from) {
                    self.files.insert(to.clone(), id);
                    return;
                }
                let moved = |path: &Path| path.strip_prefix(from).map(|rest| to.join(rest)).ok();
                let files = std::mem::take(&mut self.files);
                self.files = files
                    .into_iter()
                    .map(|(path, id)| (moved(&path).unwrap_or(path), id))
                    .collect();
                let dirs = std::mem::take(&mut self.dirs);
                self.dirs = dirs
                    .into_iter()
                    .map(|path| moved(&path).unwrap_or(path))
                    .collect();
            }
        }
    }
}

struct State {
    inodes: BTreeMap<FileId, Inode>,
    names: Names,
    durable_names: Names,
    pending: Vec<NameChange>,
    next_id: FileId,
    /// Changing operations left before one fails.
    countdown: Option<u64>,
    /// Reading operations left before some fail, and how many will.
    bad_reads: Option<(u64, u64)>,
    failed_reads: u64,
    /// Bytes by which files may still grow.
    room: Option<u64>,
    operations: u64,
    rng: u64,
    /// Grows with each crash; handles from before are dead.
    life: u64,
}

impl State {
    fn random(&mut self) -> u64 {
        // xorshift64*: small, seeded, and good enough to choose sectors.
        self.rng ^= self.rng >> 12;
        self.rng ^= self.rng << 25;
        self.rng ^= self.rng >> 27;
        self.rng.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Counts a changing operation; the countdown's last one fails.
    fn change(&mut self) -> io::Result<()> {
        self.operations += 1;
        if let Some(left) = &mut self.countdown {
            if *left == 0 {
                return Err(io::Error::other("injected failure"));
            }
            *left -= 1;
        }
        Ok(())
    }

    /// Counts a reading operation, and has it fail when it is its turn.
    fn look(&mut self) -> io::Result<()> {
        match &mut self.bad_reads {
            Some((left @ 1.., _)) => *left -= 1,
            Some((_, fail @ 1..)) => {
                *fail -= 1;
                self.failed_reads += 1;
                return Err(io::Error::other("injected failure to read"));
            }
            _ => self.bad_reads = None,
        }
        Ok(())
    }

    /// Takes room for a file that grows.
    fn grow(&mut self, bytes: u64) -> io::Result<()> {
        match &mut self.room {
            Some(room) if bytes > *room => {
                *room = 0;
                Err(io::ErrorKind::StorageFull.into())
            }
            Some(room) => {
                *room -= bytes;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn rename_pending(&mut self, change: NameChange) {
        self.names.apply(&change);
        self.pending.push(change);
    }
}

/// A disk in memory. Clones share it.
#[derive(Clone)]
pub struct MemFs(Arc<Mutex<State>>);

struct MemFile {
    fs: MemFs,
    id: FileId,
    life: u64,
    holds_lock: std::sync::atomic::AtomicBool,
}

fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}

impl MemFs {
    /// An empty disk; the seed decides what a crash keeps.
    pub fn new(seed: u64) -> MemFs {
        MemFs(Arc::new(Mutex::new(State {
            inodes: BTreeMap::new(),
            names: Names::default(),
            durable_names: Names::default(),
            pending: Vec::new(),
            next_id: 1,
            countdown: None,
            bad_reads: None,
            failed_reads: 0,
            room: None,
            operations: 0,
            rng: seed | 1,
            life: 0,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets this many changing operations (write, sync, resize, rename, create, remove) succeed and
    /// fails all after them, until called again; `None` lifts the limit.
    pub fn fail_after(&self, operations: Option<u64>) {
        self.state().countdown = operations;
    }

    /// Lets this many reading operations (read, length, list, open of what is there) succeed, and has the `fail` after
    /// them fail: a place that cannot be read now and can be read again. `None` lifts it. Answers what was set before.
    pub fn fail_reads(&self, after: Option<(u64, u64)>) -> Option<(u64, u64)> {
        std::mem::replace(&mut self.state().bad_reads, after)
    }

    /// How many reading operations have failed so far.
    pub fn failed_reads(&self) -> u64 {
        self.state().failed_reads
    }

    /// Lets files grow by so many bytes more; then the disk is full until this is called again. `None` lifts
    /// the limit.
    pub fn leave_room(&self, bytes: Option<u64>) {
        self.state().room = bytes;
    }

    /// Flips one bit of a file, on the platter too. False when the file has no such byte.
    pub fn flip(&self, path: &Path, offset: u64, bit: u8) -> bool {
        let mut state = self.state();
        let Some(id) = state.names.files.get(path).copied() else {
            return false;
        };
        let Some(inode) = state.inodes.get_mut(&id) else {
            return false;
        };
        let at = offset as usize;
        let mut flipped = false;
        for copy in [&mut inode.data, &mut inode.durable] {
            if let Some(byte) = copy.get_mut(at) {
                *byte ^= 1 << (bit % 8);
                flipped = true;
            }
        }
        flipped
    }

    /// Changing operations done or refused so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// The power goes: every open file is dead, locks are gone, and of what was not synced each sector
    /// is kept or lost by chance. The countdowns are lifted.
    pub fn crash(&self) {
        let mut state = self.state();
        state.life += 1;
        state.countdown = None;
        state.bad_reads = None;
        let ids: Vec<FileId> = state.inodes.keys().copied().collect();
        for id in ids {
            let mode = state.random() % 4;
            let mut draws: Vec<bool> = Vec::new();
            let len = state
                .inodes
                .get(&id)
                .map_or(0, |inode| inode.data.len().max(inode.durable.len()));
            for _ in 0..len.div_ceil(SECTOR_BYTES as usize) {
                // All, nothing, or each sector by itself.
                draws.push(match mode {
                    0 => true,
                    1 => false,
                    _ => state.random() & 1 == 0,
                });
            }
            let size_kept = state.random() & 1 == 0;
            if let Some(inode) = state.inodes.get_mut(&id) {
                inode.crash(&draws, size_kept);
            }
        }
        let pending = std::mem::take(&mut state.pending);
        let kept = state.random() as usize % (pending.len() + 1);
        for change in &pending[..kept] {
            state.durable_names.apply(change);
        }
        state.names = state.durable_names.clone();
    }

    /// Content of a file as a process sees it.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        let state = self.state();
        state
            .names
            .files
            .get(path)
            .and_then(|id| state.inodes.get(id))
            .map(|inode| inode.data.clone())
    }

    /// Puts a durable file there.
    pub fn put(&self, path: &Path, data: &[u8]) {
        let mut state = self.state();
        let id = state.next_id;
        state.next_id += 1;
        state.inodes.insert(
            id,
            Inode {
                data: data.to_vec(),
                durable: data.to_vec(),
                locked: false,
            },
        );
        for names in [
            NameChange::MakeDir(path.parent().unwrap_or(Path::new("")).into()),
            NameChange::Link(path.into(), id),
        ] {
            state.names.apply(&names);
            state.durable_names.apply(&names);
        }
    }
}

impl Inode {
    fn crash(&mut self, keep_new: &[bool], size_kept: bool) {
        let sector = SECTOR_BYTES as usize;
        let len = if size_kept {
            self.data.len()
        } else {
            self.durable.len()
        };
        let mut after = vec![0; len];
        for (number, piece) in after.chunks_mut(sector).enumerate() {
            let source = if keep_new.get(number).copied().unwrap_or(false) {
                &self.data
            } else {
                &self.durable
            };
            let start = (number * sector).min(source.len());
            let end = (start + piece.len()).min(source.len());
            piece[..end - start].copy_from_slice(&source[start..end]);
        }
        self.data = after.clone();
        self.durable = after;
        self.locked = false;
    }
}

impl MemFile {
    fn with<T>(&self, action: impl FnOnce(&mut State) -> io::Result<T>) -> io::Result<T> {
        let mut state = self.fs.state();
        if state.life != self.life {
            return Err(io::Error::other("the file was open before the crash"));
        }
        action(&mut state)
    }

    fn inode<'a>(&self, state: &'a mut State) -> io::Result<&'a mut Inode> {
        state.inodes.get_mut(&self.id).ok_or_else(not_found)
    }
}

impl LogFile for MemFile {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.with(|state| {
            state.look()?;
            let inode = self.inode(state)?;
            let start = (offset as usize).min(inode.data.len());
            let len = buf.len().min(inode.data.len() - start);
            buf[..len].copy_from_slice(&inode.data[start..start + len]);
            Ok(len)
        })
    }

    fn write_at(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|state| {
            let held = self.inode(state)?.data.len() as u64;
            let grows = (offset + data.len() as u64).saturating_sub(held);
            let answer = state.change().and_then(|()| state.grow(grows));
            let data = match &answer {
                Ok(()) => data,
                // A failed write may have happened in part, up to some sector's end: system and disk
                // alike move whole pages and sectors.
                Err(_) => {
                    let end = offset + state.random() % (data.len() as u64 + 1);
                    let done = (end - end % SECTOR_BYTES).saturating_sub(offset) as usize;
                    &data[..done]
                }
            };
            let inode = self.inode(state)?;
            let start = offset as usize;
            let end = start + data.len();
            if inode.data.len() < end {
                inode.data.resize(end, 0);
            }
            inode.data[start..end].copy_from_slice(data);
            answer
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.with(|state| {
            state.change()?;
            let inode = self.inode(state)?;
            inode.durable.clone_from(&inode.data);
            Ok(())
        })
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.with(|state| {
            state.change()?;
            let held = self.inode(state)?.data.len() as u64;
            state.grow(len.saturating_sub(held))?;
            self.inode(state)?.data.resize(len as usize, 0);
            Ok(())
        })
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|state| {
            state.look()?;
            Ok(self.inode(state)?.data.len() as u64)
        })
    }

    fn try_lock(&self) -> io::Result<()> {
        self.with(|state| {
            let inode = self.inode(state)?;
            if inode.locked {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            inode.locked = true;
            self.holds_lock
                .store(true, std::sync::atomic::Ordering::Relaxed);
            Ok(())
        })
    }
}

impl Drop for MemFile {
    fn drop(&mut self) {
        if self.holds_lock.load(std::sync::atomic::Ordering::Relaxed) {
            // After a crash the lock is gone already, and the answer does not matter.
            let _ = self.with(|state| {
                self.inode(state)?.locked = false;
                Ok(())
            });
        }
    }
}

impl Fs for MemFs {
    fn open(&self, path: &Path, how: Open) -> io::Result<Box<dyn LogFile>> {
        let mut state = self.state();
        let id = match (state.names.files.get(path).copied(), how) {
            (Some(id), Open::Read | Open::Write) => {
                state.look()?;
                id
            }
            (None, Open::Read | Open::Write) => return Err(not_found()),
            (Some(id), Open::Create | Open::CreateShared) => {
                state.change()?;
                if let Some(inode) = state.inodes.get_mut(&id) {
                    inode.data.clear();
                }
                id
            }
            (None, Open::Create | Open::CreateShared) => {
                if !path
                    .parent()
                    .is_some_and(|dir| state.names.dirs.contains(dir))
                {
                    return Err(not_found());
                }
                state.change()?;
                let id = state.next_id;
                state.next_id += 1;
                state.inodes.insert(id, Inode::default());
                state.rename_pending(NameChange::Link(path.into(), id));
                id
            }
        };
        let life = state.life;
        drop(state);
        Ok(Box::new(MemFile {
            fs: self.clone(),
            id,
            life,
            holds_lock: false.into(),
        }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let mut state = self.state();
        if !state.names.dirs.contains(dir) {
            return Err(not_found());
        }
        state.look()?;
        let names = state
            .names
            .files
            .keys()
            .filter(|path| path.parent() == Some(dir));
        Ok(names
            .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
            .collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.state();
        if !state.names.files.contains_key(from) && !state.names.dirs.contains(from) {
            return Err(not_found());
        }
        state.change()?;
        state.rename_pending(NameChange::Rename(from.into(), to.into()));
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if !state.names.files.contains_key(path) {
            return Err(not_found());
        }
        state.change()?;
        state.rename_pending(NameChange::Unlink(path.into()));
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if state.names.dirs.contains(path) {
            state.change()?;
            state.rename_pending(NameChange::RemoveDir(path.into()));
        }
        Ok(())
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        if !state.names.dirs.contains(path) {
            state.change()?;
            let missing: Vec<PathBuf> = path
                .ancestors()
                .filter(|dir| !state.names.dirs.contains(*dir))
                .map(PathBuf::from)
                .collect();
            for dir in missing.into_iter().rev() {
                state.rename_pending(NameChange::MakeDir(dir));
            }
        }
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state();
        state.change()?;
        // Everything up to the last change that touches this directory: a journal commits in order.
        let last = state
            .pending
            .iter()
            .rposition(|change| change.touches(path));
        let committed: Vec<NameChange> = state
            .pending
            .drain(..last.map_or(0, |last| last + 1))
            .collect();
        for change in &committed {
            state.durable_names.apply(change);
        }
        Ok(())
    }
}
