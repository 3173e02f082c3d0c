//! The log as one: the stored part, the unstable end, and how far it is committed and applied.

use ferrite_mutate::mutation;
use ferrite_proto::raftpb::{Entry, Snapshot};

use crate::error::Error;
use crate::sizes;
use crate::storage::{Storage, StorageError};
use crate::unstable::Unstable;

/// Names an entry: no two entries of one term and index differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryId {
    pub(crate) term: u64,
    pub(crate) index: u64,
}

/// `applied <= applying <= committed <= last_index`.
#[derive(Debug)]
pub(crate) struct RaftLog<S> {
    pub(crate) storage: S,
    pub(crate) unstable: Unstable,
    /// Known to be durable on a quorum up to here.
    pub(crate) committed: u64,
    /// Handed out for applying up to here.
    pub(crate) applying: u64,
    /// Reported as applied up to here.
    pub(crate) applied: u64,
    max_applying_size: u64,
    applying_size: u64,
    /// Nothing more is handed out until some of it is reported applied.
    applying_paused: bool,
}

impl<S: Storage> RaftLog<S> {
    /// The stored log, taken as committed and applied up to the last compaction.
    pub(crate) fn new(storage: S, max_applying_size: u64) -> Result<Self, Error> {
        let (first, last) = (storage.first_index(), storage.last_index());
        if first == 0 || last.saturating_add(1) < first || last >= u64::MAX - 1 {
            let reason = format!("the stored log's range [{first}, {last}] is impossible");
            return Err(Error::InvalidConfig(reason));
        }
        Ok(Self {
            unstable: Unstable::new(last + 1),
            storage,
            committed: first - 1,
            applying: first - 1,
            applied: first - 1,
            max_applying_size,
            applying_size: 0,
            applying_paused: false,
        })
    }

    pub(crate) fn first_index(&self) -> u64 {
        let unstable = self.unstable.first_index();
        unstable.unwrap_or_else(|| self.storage.first_index())
    }

    pub(crate) fn last_index(&self) -> u64 {
        let unstable = self.unstable.last_index();
        unstable.unwrap_or_else(|| self.storage.last_index())
    }

    /// The term of an entry from just before the first to the last.
    pub(crate) fn term(&self, index: u64) -> Result<u64, StorageError> {
        // First the part that needs no storage, and has most of the questions.
        if let Some(term) = self.unstable.term(index) {
            return Ok(term);
        }
        if index.saturating_add(1) < self.first_index() {
            return Err(StorageError::Compacted);
        }
        if index > self.last_index() {
            return Err(StorageError::Unavailable);
        }
        self.storage.term(index)
    }

    pub(crate) fn last_entry_id(&self) -> EntryId {
        let index = self.last_index();
        match self.term(index) {
            Ok(term) => EntryId { term, index },
            Err(e) => {
                panic!("the storage does not know the term of its own last entry {index}: {e}")
            }
        }
    }

    pub(crate) fn matches(&self, id: EntryId) -> bool {
        self.term(id.index).is_ok_and(|term| term == id.term)
    }

    /// Whether a log that ends with this entry holds all that this one may have committed.
    pub(crate) fn is_up_to_date(&self, theirs: EntryId) -> bool {
        let ours = self.last_entry_id();
        (theirs.term, theirs.index) >= (ours.term, ours.index)
    }

    /// Takes a leader's entries, which follow `prev`, and its commit index. `None` if `prev` is not in
    /// this log, else the index of the last of them. The caller has checked that they are well formed.
    pub(crate) fn maybe_append(
        &mut self,
        prev: EntryId,
        mut entries: Vec<Entry>,
        commit: u64,
    ) -> Result<Option<u64>, Error> {
        let unchecked = mutation!("append-without-term-check") && prev.index <= self.last_index();
        if !self.matches(prev) && !unchecked {
            return Ok(None);
        }
        let last_new = prev.index + entries.len() as u64;
        if let Some(skip) = self.find_conflict(&entries) {
            let index = entries[skip].index;
            if index <= self.committed {
                return Err(Error::CommittedConflict {
                    index,
                    committed: self.committed,
                });
            }
            entries.drain(..skip);
            self.append(entries);
        }
        self.commit_to(commit.min(last_new))?;
        Ok(Some(last_new))
    }

    /// Appends entries, dropping what was from their first index on; the new last index.
    pub(crate) fn append(&mut self, entries: Vec<Entry>) -> u64 {
        if let Some(first) = entries.first() {
            assert!(
                first.index > self.committed,
                "entry {} would replace a committed one (committed up to {})",
                first.index,
                self.committed
            );
            self.unstable.truncate_and_append(entries);
        }
        self.last_index()
    }

    /// The position of the first entry that this log does not hold.
    fn find_conflict(&self, entries: &[Entry]) -> Option<usize> {
        let missing = |e: &Entry| {
            !self.matches(EntryId {
                term: e.term,
                index: e.index,
            })
        };
        entries.iter().position(missing)
    }

    /// The highest index up to `index` at which this log may match one that holds `term` at `index`: the
    /// last whose term is not greater, since terms never fall along a log. With it the term there, or 0
    /// if it is not known.
    pub(crate) fn find_conflict_by_term(&self, mut index: u64, term: u64) -> (u64, u64) {
        while index > 0 {
            match self.term(index) {
                Err(_) => return (index, 0),
                Ok(ours) if ours <= term => return (index, ours),
                Ok(_) => index -= 1,
            }
        }
        (0, 0)
    }

    /// Raises the commit index; never lowers it.
    pub(crate) fn commit_to(&mut self, commit: u64) -> Result<(), Error> {
        if commit <= self.committed {
            return Ok(());
        }
        let last_index = self.last_index();
        if commit > last_index {
            return Err(Error::CommitOutOfRange { commit, last_index });
        }
        self.committed = commit;
        Ok(())
    }

    /// Commits up to an entry that a quorum holds, if it is of the term given: those of earlier terms
    /// are committed only along with one of the leader's own.
    pub(crate) fn maybe_commit(&mut self, at: EntryId) -> bool {
        let any_term = mutation!("commit-old-term") && at.index <= self.last_index();
        if at.term == 0 || at.index <= self.committed || !(self.matches(at) || any_term) {
            return false;
        }
        self.committed = at.index; // the match says that the log reaches it
        true
    }

    pub(crate) fn restore(&mut self, snapshot: Snapshot, index: u64) {
        self.committed = index;
        self.unstable.restore(snapshot);
    }

    /// The most recent snapshot, to be sent to a follower.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, StorageError> {
        match &self.unstable.snapshot {
            Some(snapshot) => Ok(snapshot.clone()),
            None => self.storage.snapshot(),
        }
    }

    pub(crate) fn has_snapshot(&self) -> bool {
        self.unstable.snapshot.is_some()
    }

    /// Up to where entries may be applied: with `allow_unstable`, before they are durable here.
    fn max_appliable(&self, allow_unstable: bool) -> u64 {
        if allow_unstable {
            return self.committed;
        }
        self.committed.min(self.unstable.offset - 1)
    }

    pub(crate) fn has_next_committed(&self, allow_unstable: bool) -> bool {
        // A snapshot is installed before anything after it is applied.
        !self.applying_paused
            && !self.has_snapshot()
            && self.applying < self.max_appliable(allow_unstable)
    }

    /// The next committed entries to apply, as many as the size limit allows.
    pub(crate) fn next_committed(&self, allow_unstable: bool) -> Vec<Entry> {
        if !self.has_next_committed(allow_unstable) {
            return Vec::new();
        }
        let (lo, hi) = (self.applying + 1, self.max_appliable(allow_unstable) + 1);
        let room = self.max_applying_size - self.applying_size;
        match self.slice(lo, hi, room) {
            Ok(entries) => entries,
            Err(e) => panic!(
                "the storage lost committed entries [{lo}, {hi}) before they were applied: {e}"
            ),
        }
    }

    /// Notes that entries up to `index`, of so many encoded bytes, were handed out for applying.
    pub(crate) fn accept_applying(&mut self, index: u64, size: u64, allow_unstable: bool) {
        assert!(
            index <= self.committed,
            "entry {index} handed out before it was committed ({})",
            self.committed
        );
        self.applying = index;
        self.applying_size = self.applying_size.saturating_add(size);
        // Short of what could be applied means that the next entry would pass the limit.
        self.applying_paused = self.applying_size >= self.max_applying_size
            || index < self.max_appliable(allow_unstable);
    }

    /// Notes that entries up to `index`, of so many encoded bytes, are applied.
    pub(crate) fn applied_to(&mut self, index: u64, size: u64) -> Result<(), Error> {
        if index > self.committed || index < self.applied {
            return Err(Error::AppliedOutOfRange {
                index,
                applied: self.applied,
                committed: self.committed,
            });
        }
        self.applied = index;
        self.applying = self.applying.max(index);
        self.applying_size = self.applying_size.saturating_sub(size);
        self.applying_paused = self.applying_size >= self.max_applying_size;
        Ok(())
    }

    /// The entries from `lo` to the end, cut to `max_size` encoded bytes.
    pub(crate) fn entries(&self, lo: u64, max_size: u64) -> Result<Vec<Entry>, StorageError> {
        let last = self.last_index();
        if lo > last {
            return Ok(Vec::new());
        }
        self.slice(lo, last + 1, max_size)
    }

    /// The entries in `[lo, hi)`, cut to `max_size` encoded bytes but at least one.
    pub(crate) fn slice(
        &self,
        lo: u64,
        hi: u64,
        max_size: u64,
    ) -> Result<Vec<Entry>, StorageError> {
        if lo < self.first_index() {
            return Err(StorageError::Compacted);
        }
        if hi > self.last_index() + 1 {
            return Err(StorageError::Unavailable);
        }
        if lo >= hi {
            return Ok(Vec::new());
        }
        let offset = self.unstable.offset;
        if lo >= offset {
            return Ok(sizes::limit_size(self.unstable.slice(lo, hi), max_size).to_vec());
        }
        let cut = hi.min(offset);
        let mut entries = self.storage.entries(lo, cut, max_size)?;
        if hi <= offset || (entries.len() as u64) < cut - lo {
            return Ok(entries);
        }
        let size = sizes::encoded_size(&entries);
        if size >= max_size {
            return Ok(entries);
        }
        let room = max_size - size;
        let tail = sizes::limit_size(self.unstable.slice(offset, hi), room);
        // The "at least one" was already given by the stored part.
        if tail.len() > 1 || sizes::encoded_size(tail) <= room {
            entries.extend_from_slice(tail);
        }
        Ok(entries)
    }

    /// Whether an entry in `[lo, hi)` satisfies the predicate; reads a page at a time.
    pub(crate) fn any(
        &self,
        mut lo: u64,
        hi: u64,
        predicate: impl Fn(&Entry) -> bool,
    ) -> Result<bool, StorageError> {
        while lo < hi {
            let page = self.slice(lo, hi, self.max_applying_size)?;
            if page.is_empty() {
                return Err(StorageError::Unavailable);
            }
            if page.iter().any(&predicate) {
                return Ok(true);
            }
            lo += page.len() as u64;
        }
        Ok(false)
    }
}
