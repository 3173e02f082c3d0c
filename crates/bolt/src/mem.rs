//! A file in memory with faults on demand: the simulated disk of the tests and of the simulator.
//!
//! Owns what a crash may do to unsynced writes. Deterministic: the seed is an argument.

use crate::storage::PageFile;
use parking_lot::Mutex;
use std::io;

/// What the chosen operation does instead of succeeding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing happens and an error is returned.
    Fail,
    /// A write leaves its first half and returns an error; other operations just fail.
    Tear,
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

#[derive(Debug, Default)]
struct State {
    /// What a reader of the live file sees.
    live: Vec<u8>,
    /// What a power cut is certain to leave.
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    /// Writes, syncs and length changes so far; reads do not count.
    operations: u64,
    fault: Option<(u64, Fault)>,
    dead: bool,
}

/// A [`PageFile`] in memory.
#[derive(Debug, Default)]
pub struct MemFile {
    state: Mutex<State>,
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, data) => {
            let end = *offset as usize + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*offset as usize..end].copy_from_slice(data);
        }
        Change::SetLen(len) => bytes.resize(*len as usize, 0),
    }
}

fn next_random(seed: &mut u64) -> u64 {
    // splitmix64: short, and good enough to choose between outcomes.
    *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *seed;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl MemFile {
    /// An empty file.
    pub fn new() -> MemFile {
        MemFile::default()
    }

    /// A file with durable content.
    pub fn with_content(bytes: Vec<u8>) -> MemFile {
        MemFile {
            state: Mutex::new(State {
                live: bytes.clone(),
                durable: bytes,
                ..State::default()
            }),
        }
    }

    /// The live content, unsynced writes included: what is left after a kill -9.
    pub fn content(&self) -> Vec<u8> {
        self.state.lock().live.clone()
    }

    /// Writes, syncs and length changes so far.
    pub fn operations(&self) -> u64 {
        self.state.lock().operations
    }

    /// The operation with number `n` (counted from 0) fails as `fault` says, and every one after it fails too.
    pub fn fail_at(&self, n: u64, fault: Fault) {
        self.state.lock().fault = Some((n, fault));
    }

    /// Ends a fault: operations succeed again, as for a new process after a kill -9. What was not synced still is not.
    pub fn heal(&self) {
        let mut state = self.state.lock();
        state.fault = None;
        state.dead = false;
    }

    /// What a power cut may leave: every synced write, and of each unsynced one all, nothing, or some of its
    /// 512-byte sectors, as `seed` decides.
    pub fn after_power_cut(&self, mut seed: u64) -> MemFile {
        let state = self.state.lock();
        let mut bytes = state.durable.clone();
        for change in &state.unsynced {
            let fate = next_random(&mut seed) % 3;
            match (fate, change) {
                (0, _) => {}
                (1, _) => apply(&mut bytes, change),
                (_, Change::SetLen(_)) => apply(&mut bytes, change),
                (_, Change::Write(offset, data)) => {
                    for (i, sector) in data.chunks(512).enumerate() {
                        if next_random(&mut seed) & 1 == 0 {
                            let at = offset + 512 * i as u64;
                            apply(&mut bytes, &Change::Write(at, sector.to_vec()));
                        }
                    }
                }
            }
        }
        MemFile::with_content(bytes)
    }

    fn change(&self, change: Change) -> io::Result<()> {
        let mut state = self.state.lock();
        match state.step() {
            None => {
                apply(&mut state.live, &change);
                state.unsynced.push(change);
                Ok(())
            }
            Some(fault) => {
                if let (Fault::Tear, Change::Write(offset, mut data)) = (fault, change) {
                    data.truncate(data.len() / 2);
                    let torn = Change::Write(offset, data);
                    apply(&mut state.live, &torn);
                    state.unsynced.push(torn);
                }
                Err(injected())
            }
        }
    }
}

fn injected() -> io::Error {
    io::Error::other("injected fault")
}

impl State {
    /// Counts an operation and says whether it is to fail.
    fn step(&mut self) -> Option<Fault> {
        let n = self.operations;
        self.operations += 1;
        if self.dead {
            return Some(Fault::Fail);
        }
        match self.fault {
            Some((at, fault)) if at == n => {
                self.dead = true;
                Some(fault)
            }
            _ => None,
        }
    }
}

impl PageFile for MemFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.state.lock();
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = start
            .checked_add(buf.len())
            .and_then(|end| state.live.get(start..end))
            .ok_or(io::ErrorKind::UnexpectedEof)?;
        buf.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.change(Change::Write(offset, buf.to_vec()))
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.step().is_some() {
            return Err(injected());
        }
        let state = &mut *state;
        for change in state.unsynced.drain(..) {
            apply(&mut state.durable, &change);
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.state.lock().live.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Change::SetLen(len))
    }
}
