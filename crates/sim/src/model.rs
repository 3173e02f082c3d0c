//! What the cluster should be: the committed log as first seen, and the key-value state that follows
//! from it, worked out a second time in the plainest way. Never shares code with the store it judges.

use std::collections::BTreeMap;

use bytes::Bytes;
use ferrite_proto::etcdserverpb::{
    InternalRaftRequest, TxnRequest, compare::TargetUnion, request_op::Request,
};
use ferrite_proto::raftpb::{Entry, EntryType};
use prost::Message;

/// One version of a key; `value` is none for a deletion.
#[derive(Debug, Clone, PartialEq)]
pub struct Version {
    /// Revision that wrote it.
    pub modified: i64,
    /// Revision of the first version since the last deletion.
    pub created: i64,
    /// Counts the versions since then, from 1.
    pub version: i64,
    /// What was written.
    pub value: Option<Bytes>,
}

/// How a request must be answered.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Revision in the answer's header.
    pub revision: i64,
    /// Whether it changed anything.
    pub changed: bool,
    /// Keys deleted, for a deletion; 1 or 0 for a transaction that succeeded or not.
    pub count: i64,
    /// A compaction that must be refused.
    pub refused: bool,
}

#[derive(Debug)]
struct Committed {
    term: u64,
    entry_type: i32,
    data: Bytes,
    /// No entry up to this one was committed in a later term.
    commit_term: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Model {
    log: Vec<Committed>,
    revision: i64,
    compacted: i64,
    keys: BTreeMap<Bytes, Vec<Version>>,
    outcomes: BTreeMap<u64, Outcome>,
}

impl Default for Model {
    fn default() -> Self {
        Model {
            log: Vec::new(),
            revision: 1,
            compacted: -1,
            keys: BTreeMap::new(),
            outcomes: BTreeMap::new(),
        }
    }
}

impl Model {
    /// Index of the last entry known to be committed.
    pub fn last_index(&self) -> u64 {
        self.log.len() as u64
    }

    /// Revision after that entry.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Compacted revision after that entry.
    pub fn compacted(&self) -> i64 {
        self.compacted
    }

    /// All keys ever written.
    pub fn keys(&self) -> impl Iterator<Item = &Bytes> {
        self.keys.keys()
    }

    /// Term of a committed entry.
    pub fn term(&self, index: u64) -> Option<u64> {
        let at = usize::try_from(index.checked_sub(1)?).ok()?;
        self.log.get(at).map(|entry| entry.term)
    }

    /// The last index that is known to have been committed in `term` or before.
    pub fn committed_by(&self, term: u64) -> u64 {
        self.log.partition_point(|entry| entry.commit_term <= term) as u64
    }

    /// How a request must be answered; none while it is not committed.
    pub fn outcome(&self, request: u64) -> Option<&Outcome> {
        self.outcomes.get(&request)
    }

    /// The version of a key at a revision.
    pub fn at(&self, key: &[u8], revision: i64) -> Option<&Version> {
        let versions = self.keys.get(key)?;
        let upto = versions.partition_point(|version| version.modified <= revision);
        versions[..upto]
            .last()
            .filter(|version| version.value.is_some())
    }

    /// A member in `term` is about to apply this entry.
    ///
    /// # Errors
    /// What is wrong: another entry was applied at this index before, or the same request twice.
    pub fn commit(&mut self, entry: &Entry, term: u64) -> Result<(), String> {
        if entry.index <= self.last_index() {
            let known = &self.log[(entry.index - 1) as usize];
            if known.term != entry.term
                || known.entry_type != entry.entry_type
                || known.data != entry.data
            {
                return Err(format!(
                    "entry {} of term {} is applied where one of term {} was before",
                    entry.index, entry.term, known.term
                ));
            }
            return Ok(());
        }
        if entry.index != self.last_index() + 1 {
            return Err(format!(
                "entry {} is applied, the last known one is {}",
                entry.index,
                self.last_index()
            ));
        }
        let before = self.log.last().map_or(0, |last| last.commit_term);
        self.log.push(Committed {
            term: entry.term,
            entry_type: entry.entry_type,
            data: entry.data.clone(),
            commit_term: before.max(term),
        });
        if entry.entry_type == EntryType::EntryNormal as i32 && !entry.data.is_empty() {
            self.execute(entry)?;
        }
        Ok(())
    }

    fn execute(&mut self, entry: &Entry) -> Result<(), String> {
        let request =
            InternalRaftRequest::decode(entry.data.clone()).map_err(|error| error.to_string())?;
        let id = request.header.as_ref().map_or(0, |header| header.id);
        let outcome = if let Some(put) = request.put {
            self.put(&put.key, &put.value);
            self.done(true, 0)
        } else if let Some(delete) = request.delete_range {
            let count = self.delete(&delete.key, self.revision + 1);
            self.revision += count;
            self.done(count > 0, count)
        } else if let Some(txn) = request.txn {
            self.txn(&txn)
        } else if let Some(compaction) = request.compaction {
            let refused =
                compaction.revision <= self.compacted || compaction.revision > self.revision;
            if !refused {
                self.compacted = compaction.revision;
            }
            Outcome {
                refused,
                ..self.done(false, 0)
            }
        } else {
            self.done(false, 0)
        };
        if self.outcomes.insert(id, outcome).is_some() {
            return Err(format!(
                "request {id} is in the log twice, again at entry {}",
                entry.index
            ));
        }
        Ok(())
    }

    fn done(&self, changed: bool, count: i64) -> Outcome {
        Outcome {
            revision: self.revision,
            changed,
            count,
            refused: false,
        }
    }

    fn put(&mut self, key: &Bytes, value: &Bytes) {
        self.revision += 1;
        let revision = self.revision;
        let versions = self.keys.entry(key.clone()).or_default();
        let (created, version) = match versions.last() {
            Some(last) if last.value.is_some() => (last.created, last.version + 1),
            _ => (revision, 1),
        };
        versions.push(Version {
            modified: revision,
            created,
            version,
            value: Some(value.clone()),
        });
    }

    fn delete(&mut self, key: &Bytes, revision: i64) -> i64 {
        match self.keys.get_mut(key) {
            Some(versions) if versions.last().is_some_and(|last| last.value.is_some()) => {
                versions.push(Version {
                    modified: revision,
                    created: 0,
                    version: 0,
                    value: None,
                });
                1
            }
            _ => 0,
        }
    }

    /// Transactions of the simulator compare one version and put in either branch, or nowhere.
    fn txn(&mut self, txn: &TxnRequest) -> Outcome {
        let holds = txn.compare.iter().all(|compare| {
            let version = self
                .at(&compare.key, self.revision)
                .map_or(0, |found| found.version);
            compare.target_union == Some(TargetUnion::Version(version))
        });
        let branch = if holds { &txn.success } else { &txn.failure };
        let before = self.revision;
        for op in branch {
            if let Some(Request::RequestPut(put)) = &op.request {
                self.put(&put.key, &put.value);
            }
        }
        self.done(self.revision > before, i64::from(holds))
    }
}
