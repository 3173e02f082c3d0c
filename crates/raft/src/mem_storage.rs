//! The log in memory: what a member keeps of its durable log to serve followers from. It does not make
//! anything durable; its owner does.

use bytes::Bytes;
use ferrite_proto::raftpb::{ConfState, Entry, HardState, Snapshot, SnapshotMetadata};

use crate::sizes;
use crate::storage::{Storage, StorageError};

/// A [`Storage`] in memory.
#[derive(Clone, Debug, Default)]
pub struct MemStorage {
    hard_state: HardState,
    snapshot: Snapshot,
    /// Index and term of the last entry that is no longer here.
    compacted: (u64, u64),
    /// `entries[i]` has index `compacted.0 + 1 + i`.
    entries: Vec<Entry>,
    /// Payload bytes of `entries`.
    bytes: u64,
}

impl MemStorage {
    /// An empty log.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty log of a cluster with these voters: for tests and for a bootstrap that puts no conf
    /// changes into the log.
    #[must_use]
    pub fn with_conf_state(conf_state: ConfState) -> Self {
        let mut storage = Self::default();
        storage.snapshot.metadata = Some(SnapshotMetadata {
            conf_state: Some(conf_state),
            index: 0,
            term: 0,
        });
        storage
    }

    /// Saves term, vote and commit.
    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// The saved term, vote and commit.
    #[must_use]
    pub fn hard_state(&self) -> &HardState {
        &self.hard_state
    }

    /// The entries held.
    #[must_use]
    pub fn log(&self) -> &[Entry] {
        &self.entries
    }

    /// Payload bytes of the entries held.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Appends entries, replacing from the first of them on what was there. Entries before the log's
    /// beginning are passed over.
    ///
    /// # Errors
    /// `Gap` if they begin past the end.
    pub fn append(&mut self, entries: &[Entry]) -> Result<(), StorageError> {
        let Some(last) = entries.last() else {
            return Ok(());
        };
        let first = self.first_index();
        if last.index < first {
            return Ok(());
        }
        let skip = first.saturating_sub(entries[0].index) as usize;
        let entries = entries.get(skip..).unwrap_or_default();
        let Some(head) = entries.first() else {
            return Ok(());
        };
        let at = (head.index - first) as usize;
        if at > self.entries.len() {
            return Err(StorageError::Gap {
                last_index: self.last_index(),
                index: head.index,
            });
        }
        self.bytes -= sizes::payload_size(&self.entries[at..]);
        self.entries.truncate(at);
        self.entries.extend_from_slice(entries);
        self.bytes += sizes::payload_size(entries);
        Ok(())
    }

    /// Replaces the whole log by a snapshot.
    ///
    /// # Errors
    /// `SnapshotOutOfDate` if the one held is as new.
    pub fn apply_snapshot(&mut self, snapshot: Snapshot) -> Result<(), StorageError> {
        let (index, term) = index_and_term(&snapshot);
        let held = index_and_term(&self.snapshot).0;
        // A bootstrap may hold a configuration alone, at index 0.
        if held != 0 && held >= index {
            return Err(StorageError::SnapshotOutOfDate);
        }
        self.snapshot = snapshot;
        self.compacted = (index, term);
        self.entries = Vec::new();
        self.bytes = 0;
        Ok(())
    }

    /// Makes the state at `index` the snapshot to be sent; `conf_state` replaces the one held.
    ///
    /// # Errors
    /// `SnapshotOutOfDate` if it is not newer than the one held, `Unavailable` past the log's end,
    /// `Compacted` before its beginning.
    pub fn create_snapshot(
        &mut self,
        index: u64,
        conf_state: Option<ConfState>,
        data: Bytes,
    ) -> Result<Snapshot, StorageError> {
        if index <= index_and_term(&self.snapshot).0 {
            return Err(StorageError::SnapshotOutOfDate);
        }
        let term = self.term(index)?;
        let held = self.snapshot.metadata.take();
        self.snapshot = Snapshot {
            data,
            metadata: Some(SnapshotMetadata {
                conf_state: conf_state.or_else(|| held.and_then(|m| m.conf_state)),
                index,
                term,
            }),
        };
        Ok(self.snapshot.clone())
    }

    /// Drops all entries up to and including `index`. The caller must not pass what it has applied.
    ///
    /// # Errors
    /// `Compacted` if they are gone already, `Unavailable` past the log's end.
    pub fn compact(&mut self, index: u64) -> Result<(), StorageError> {
        if index <= self.compacted.0 {
            return Err(StorageError::Compacted);
        }
        let term = self.term(index)?;
        let n = (index - self.compacted.0) as usize;
        self.bytes -= sizes::payload_size(&self.entries[..n]);
        self.entries.drain(..n);
        self.compacted = (index, term);
        Ok(())
    }
}

impl Storage for MemStorage {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        let meta = self.snapshot.metadata.as_ref();
        let conf_state = meta.and_then(|m| m.conf_state.clone()).unwrap_or_default();
        Ok((self.hard_state, conf_state))
    }

    fn entries(&self, lo: u64, hi: u64, max_size: u64) -> Result<Vec<Entry>, StorageError> {
        if lo <= self.compacted.0 {
            return Err(StorageError::Compacted);
        }
        let first = self.first_index();
        let range = (lo - first) as usize..hi.saturating_sub(first) as usize;
        let entries = self.entries.get(range).ok_or(StorageError::Unavailable)?;
        Ok(sizes::limit_size(entries, max_size).to_vec())
    }

    fn term(&self, index: u64) -> Result<u64, StorageError> {
        if index < self.compacted.0 {
            return Err(StorageError::Compacted);
        }
        if index == self.compacted.0 {
            return Ok(self.compacted.1);
        }
        let entry = self.entries.get((index - self.compacted.0 - 1) as usize);
        entry.map(|e| e.term).ok_or(StorageError::Unavailable)
    }

    fn first_index(&self) -> u64 {
        self.compacted.0 + 1
    }

    fn last_index(&self) -> u64 {
        self.compacted.0 + self.entries.len() as u64
    }

    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        Ok(self.snapshot.clone())
    }
}

/// Index and term of a snapshot; zeros if it has no metadata.
pub(crate) fn index_and_term(snapshot: &Snapshot) -> (u64, u64) {
    let meta = snapshot.metadata.as_ref();
    meta.map_or((0, 0), |m| (m.index, m.term))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry {
            index,
            term,
            data: Bytes::from_static(b"12345"),
            ..Entry::default()
        }
    }

    fn storage() -> MemStorage {
        let mut s = MemStorage::new();
        s.append(&[1, 2, 3, 4, 5].map(|i| entry(i, i))).unwrap();
        s.compact(2).unwrap();
        s
    }

    #[test]
    fn range_and_terms_stay_known_around_the_compaction() {
        let s = storage();
        assert_eq!((s.first_index(), s.last_index(), s.bytes()), (3, 5, 15));
        assert_eq!(s.term(1), Err(StorageError::Compacted));
        assert_eq!(s.term(2), Ok(2));
        assert_eq!(s.term(5), Ok(5));
        assert_eq!(s.term(6), Err(StorageError::Unavailable));
        assert_eq!(s.entries(2, 4, u64::MAX), Err(StorageError::Compacted));
        assert_eq!(s.entries(3, 7, u64::MAX), Err(StorageError::Unavailable));
        assert_eq!(s.entries(3, 6, 0).unwrap().len(), 1);
        let two = sizes::encoded_size(&[entry(3, 3), entry(4, 4)]);
        assert_eq!(s.entries(3, 6, two).unwrap().len(), 2);
        assert_eq!(s.entries(3, 6, u64::MAX).unwrap().len(), 3);
    }

    #[test]
    fn append_replaces_the_tail_and_refuses_a_gap() {
        let mut s = storage();
        s.append(&[entry(1, 1), entry(2, 2)]).unwrap();
        assert_eq!(s.last_index(), 5);
        s.append(&[entry(2, 2), entry(3, 6)]).unwrap();
        assert_eq!((s.last_index(), s.term(3), s.bytes()), (3, Ok(6), 5));
        let gap = StorageError::Gap {
            last_index: 3,
            index: 5,
        };
        assert_eq!(s.append(&[entry(5, 6)]), Err(gap));
    }

    #[test]
    fn snapshots_only_move_forward() {
        let mut s = storage();
        let cs = ConfState {
            voters: vec![1, 2],
            ..ConfState::default()
        };
        let snap = s
            .create_snapshot(4, Some(cs.clone()), Bytes::from_static(b"x"))
            .unwrap();
        assert_eq!(index_and_term(&snap), (4, 4));
        assert_eq!(
            s.create_snapshot(4, None, Bytes::new()),
            Err(StorageError::SnapshotOutOfDate)
        );
        assert_eq!(
            s.create_snapshot(9, None, Bytes::new()),
            Err(StorageError::Unavailable)
        );
        let mut other = MemStorage::new();
        other.apply_snapshot(snap.clone()).unwrap();
        assert_eq!((other.first_index(), other.last_index()), (5, 4));
        assert_eq!(other.initial_state().unwrap().1, cs);
        assert_eq!(
            other.apply_snapshot(snap),
            Err(StorageError::SnapshotOutOfDate)
        );
    }
}
