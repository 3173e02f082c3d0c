//! The log's young end: entries, and perhaps a snapshot, that are not yet known to be durable.
//!
//! They are handed out once for writing ("in progress") and stay here until the write is reported done,
//! since until then the storage must not be asked for them.

use ferrite_proto::raftpb::{Entry, Snapshot};

use crate::log::EntryId;
use crate::mem_storage::index_and_term;

#[derive(Debug)]
pub(crate) struct Unstable {
    /// A snapshot that replaces the log, until it is installed.
    pub(crate) snapshot: Option<Snapshot>,
    snapshot_in_progress: bool,
    /// `entries[i]` has index `offset + i`. It may overlap what is stored: then the next write cuts the
    /// stored log first.
    pub(crate) entries: Vec<Entry>,
    pub(crate) offset: u64,
    /// Entries before this index are being written.
    pub(crate) offset_in_progress: u64,
}

impl Unstable {
    pub(crate) fn new(offset: u64) -> Self {
        Self {
            snapshot: None,
            snapshot_in_progress: false,
            entries: Vec::new(),
            offset,
            offset_in_progress: offset,
        }
    }

    pub(crate) fn first_index(&self) -> Option<u64> {
        self.snapshot.as_ref().map(|s| index_and_term(s).0 + 1)
    }

    pub(crate) fn last_index(&self) -> Option<u64> {
        if self.entries.is_empty() {
            return self.snapshot.as_ref().map(|s| index_and_term(s).0);
        }
        Some(self.offset + self.entries.len() as u64 - 1)
    }

    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if let Some(at) = index.checked_sub(self.offset) {
            return self.entries.get(usize::try_from(at).ok()?).map(|e| e.term);
        }
        let (snapshot_index, term) = index_and_term(self.snapshot.as_ref()?);
        (snapshot_index == index).then_some(term)
    }

    /// Entries not yet handed out for writing.
    pub(crate) fn next_entries(&self) -> &[Entry] {
        &self.entries[(self.offset_in_progress - self.offset) as usize..]
    }

    /// The snapshot, if it was not yet handed out.
    pub(crate) fn next_snapshot(&self) -> Option<&Snapshot> {
        let snapshot = self.snapshot.as_ref();
        snapshot.filter(|_| !self.snapshot_in_progress)
    }

    /// Notes that all there is was handed out for writing.
    pub(crate) fn accept_in_progress(&mut self) {
        if let Some(last) = self.entries.last() {
            self.offset_in_progress = last.index + 1;
        }
        self.snapshot_in_progress = self.snapshot.is_some();
    }

    /// Drops the entries up to the one named, which is durable. Does nothing if that entry has been
    /// replaced meanwhile: its successor is still being written.
    pub(crate) fn stable_to(&mut self, id: EntryId) {
        if id.index < self.offset || self.term(id.index) != Some(id.term) {
            return;
        }
        let n = (id.index + 1 - self.offset) as usize;
        self.entries.drain(..n);
        // A burst must not hold its memory for ever.
        if self.entries.capacity() > 1024 && self.entries.len() < self.entries.capacity() / 4 {
            self.entries.shrink_to(self.entries.capacity() / 2);
        }
        self.offset = id.index + 1;
        self.offset_in_progress = self.offset_in_progress.max(self.offset);
    }

    pub(crate) fn stable_snapshot_to(&mut self, index: u64) {
        if self
            .snapshot
            .as_ref()
            .is_some_and(|s| index_and_term(s).0 == index)
        {
            self.snapshot = None;
            self.snapshot_in_progress = false;
        }
    }

    /// Replaces everything by a snapshot.
    pub(crate) fn restore(&mut self, snapshot: Snapshot) {
        self.offset = index_and_term(&snapshot).0 + 1;
        self.offset_in_progress = self.offset;
        self.entries = Vec::new();
        self.snapshot = Some(snapshot);
        self.snapshot_in_progress = false;
    }

    /// Puts the entries at their place, dropping whatever was from there on.
    pub(crate) fn truncate_and_append(&mut self, mut entries: Vec<Entry>) {
        let Some(from) = entries.first().map(|e| e.index) else {
            return;
        };
        if from <= self.offset {
            self.entries = entries;
            self.offset = from;
            self.offset_in_progress = from;
            return;
        }
        let keep = (from - self.offset) as usize;
        assert!(
            keep <= self.entries.len(),
            "entries from {from} would leave a gap after {}",
            self.offset + self.entries.len() as u64 - 1
        );
        self.entries.truncate(keep);
        self.entries.append(&mut entries);
        self.offset_in_progress = self.offset_in_progress.min(from);
    }

    /// The entries in `[lo, hi)`, all of which must be here.
    pub(crate) fn slice(&self, lo: u64, hi: u64) -> &[Entry] {
        &self.entries[(lo - self.offset) as usize..(hi - self.offset) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(range: std::ops::Range<u64>, term: u64) -> Vec<Entry> {
        let entry = |index| Entry {
            index,
            term,
            ..Entry::default()
        };
        range.map(entry).collect()
    }

    fn unstable() -> Unstable {
        let mut u = Unstable::new(5);
        u.truncate_and_append(entries(5..8, 1));
        u
    }

    #[test]
    fn what_is_handed_out_is_not_handed_out_again() {
        let mut u = unstable();
        assert_eq!(u.next_entries().len(), 3);
        u.accept_in_progress();
        assert_eq!(u.next_entries().len(), 0);
        u.truncate_and_append(entries(8..9, 1));
        assert_eq!(u.next_entries(), entries(8..9, 1));
        // Cutting into what is being written hands the new tail out again.
        u.truncate_and_append(entries(6..8, 2));
        assert_eq!(u.next_entries(), entries(6..8, 2));
        assert_eq!(u.term(5), Some(1));
        assert_eq!(u.term(8), None);
    }

    #[test]
    fn a_write_that_was_overtaken_does_not_count() {
        let mut u = unstable();
        u.accept_in_progress();
        u.truncate_and_append(entries(6..8, 2));
        u.stable_to(EntryId { term: 1, index: 7 });
        assert_eq!(u.entries.len(), 3, "entry 7 of term 1 is gone");
        u.stable_to(EntryId { term: 1, index: 5 });
        assert_eq!((u.offset, u.entries.len()), (6, 2));
        u.stable_to(EntryId { term: 2, index: 9 });
        u.stable_to(EntryId { term: 1, index: 3 });
        assert_eq!((u.offset, u.entries.len()), (6, 2));
    }

    #[test]
    fn replacing_from_before_the_offset_moves_it() {
        let mut u = unstable();
        u.accept_in_progress();
        u.truncate_and_append(entries(3..5, 2));
        assert_eq!((u.offset, u.last_index()), (3, Some(4)));
        assert_eq!(u.next_entries().len(), 2);
    }
}
