//! What the cluster should be: the committed log as first seen, and the state that follows from it, worked
//! out a second time in the plainest way. Never shares code with the stores it judges.

mod auth;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ferrite_membership::{ConfChangeContext, Version as ClusterVersion};
use ferrite_proto::etcdserverpb::{
    AlarmRequest, AlarmType, DeleteRangeRequest, InternalRaftRequest, LeaseGrantRequest,
    PutRequest, RangeRequest, RequestHeader, TxnRequest, alarm_request::AlarmAction,
    compare::TargetUnion, request_op::Request,
};
use ferrite_proto::raftpb::{ConfChange, ConfChangeType, Entry, EntryType};
use prost::Message;

pub use auth::Auth;
use auth::Need;

/// A shorter lease is raised to this: one and a half election timeouts.
const TTL_MIN_SECONDS: i64 = 2;

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
    /// The lease it hangs on; 0 for none.
    pub lease: i64,
}

/// A key and what it was.
pub type Pair = (Bytes, Version);

/// What happened to a key, as a watcher is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Happened {
    /// The key.
    pub key: Bytes,
    /// What it is since.
    pub version: Version,
}

/// How a request must be answered.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Outcome {
    /// Revision in the answer's header.
    pub revision: i64,
    /// Whether it changed anything.
    pub changed: bool,
    /// Keys deleted, for a deletion; 1 or 0 for a transaction that succeeded or not.
    pub count: i64,
    /// Why it must be refused, by the name of the error.
    pub refused: Option<String>,
    /// What the ranges of a transaction find.
    pub found: Vec<Vec<Pair>>,
    /// Index of the entry.
    pub index: u64,
}

#[derive(Debug)]
struct Committed {
    term: u64,
    entry_type: i32,
    data: Bytes,
    /// No entry up to this one was committed in a later term.
    commit_term: u64,
}

/// What of an entry concerns others than its client.
#[derive(Debug, Default)]
pub struct News {
    /// A member was added.
    pub added: Option<u64>,
    /// A learner got its vote.
    pub promoted: Option<u64>,
    /// A lease is gone: its ID, and the request that revoked it.
    pub revoked: Option<(i64, u64)>,
    /// A lease exists, for so many seconds.
    pub granted: Option<(i64, i64)>,
}

/// See the module.
#[derive(Debug)]
pub struct Model {
    log: Vec<Committed>,
    revision: i64,
    compacted: i64,
    keys: BTreeMap<Bytes, Vec<Version>>,
    history: Vec<Happened>,
    outcomes: BTreeMap<u64, Outcome>,
    leases: BTreeMap<i64, BTreeSet<Bytes>>,
    alarms: BTreeSet<(i32, u64)>,
    auth: Auth,
    /// ID → whether it is a learner.
    members: BTreeMap<u64, bool>,
    removed: BTreeSet<u64>,
    version: Option<ClusterVersion>,
    downgrade: Option<String>,
}

impl Default for Model {
    fn default() -> Self {
        Model {
            log: Vec::new(),
            revision: 1,
            compacted: -1,
            keys: BTreeMap::new(),
            history: Vec::new(),
            outcomes: BTreeMap::new(),
            leases: BTreeMap::new(),
            alarms: BTreeSet::new(),
            auth: Auth::default(),
            members: BTreeMap::new(),
            removed: BTreeSet::new(),
            version: None,
            downgrade: None,
        }
    }
}

fn within(key: &[u8], from: &[u8], end: &[u8]) -> bool {
    match end {
        [] => key == from,
        end => key >= from && key < end,
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

    /// Users and roles after that entry.
    pub fn auth(&self) -> &Auth {
        &self.auth
    }

    /// Leases after that entry, with their keys.
    pub fn leases(&self) -> &BTreeMap<i64, BTreeSet<Bytes>> {
        &self.leases
    }

    /// Members after that entry, and whether each is a learner.
    pub fn members(&self) -> &BTreeMap<u64, bool> {
        &self.members
    }

    /// Whether this member was removed.
    pub fn is_removed(&self, id: u64) -> bool {
        self.removed.contains(&id)
    }

    /// Alarms after that entry.
    pub fn alarms(&self) -> &BTreeSet<(i32, u64)> {
        &self.alarms
    }

    /// The cluster's version after that entry.
    pub fn version(&self) -> Option<ClusterVersion> {
        self.version
    }

    /// The version that the cluster must come to by itself: that of its programs, or what it is downgraded to.
    pub fn version_to_be(&self, programs: ClusterVersion) -> ClusterVersion {
        let target = self.downgrade.as_ref().and_then(|to| to.parse().ok());
        target.unwrap_or(programs.without_patch())
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

    /// The keys of a range at a revision.
    pub fn range(&self, key: &[u8], end: &[u8], revision: i64) -> Vec<Pair> {
        self.keys
            .keys()
            .filter(|known| within(known, key, end))
            .filter_map(|known| Some((known.clone(), self.at(known, revision)?.clone())))
            .collect()
    }

    /// What happened to a range from one revision up to another, in order.
    pub fn happened<'a>(
        &'a self,
        key: &'a [u8],
        end: &'a [u8],
        from: i64,
        to: i64,
    ) -> impl Iterator<Item = &'a Happened> {
        let first = self
            .history
            .partition_point(|happened| happened.version.modified < from);
        self.history[first..]
            .iter()
            .take_while(move |happened| happened.version.modified <= to)
            .filter(move |happened| within(&happened.key, key, end))
    }

    /// A member in `term` is about to apply this entry.
    ///
    /// # Errors
    /// What is wrong: another entry was applied at this index before, or the same request twice.
    pub fn commit(&mut self, entry: &Entry, term: u64) -> Result<News, String> {
        if entry.index <= self.last_index() {
            let known = &self.log[(entry.index.max(1) - 1) as usize];
            if known.term != entry.term
                || known.entry_type != entry.entry_type
                || known.data != entry.data
            {
                return Err(format!(
                    "entry {} of term {} is applied where one of term {} was before",
                    entry.index, entry.term, known.term
                ));
            }
            return Ok(News::default());
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
        if entry.entry_type == EntryType::EntryConfChange as i32 {
            self.reconfigure(entry)
        } else if entry.data.is_empty() {
            Ok(News::default())
        } else {
            self.execute(entry)
        }
    }

    /// A request gets this number: one that had it before and was applied up to here is a matter of the past.
    pub fn forget_behind(&mut self, id: u64, applied: u64) {
        if self
            .outcomes
            .get(&id)
            .is_some_and(|old| old.index <= applied)
        {
            self.outcomes.remove(&id);
        }
    }

    fn note(&mut self, id: u64, outcome: Outcome, index: u64) -> Result<(), String> {
        let outcome = Outcome { index, ..outcome };
        if id != 0 && self.outcomes.insert(id, outcome).is_some() {
            return Err(format!(
                "request {id} is in the log twice, again at entry {index}"
            ));
        }
        Ok(())
    }

    fn reconfigure(&mut self, entry: &Entry) -> Result<News, String> {
        let change = ConfChange::decode(entry.data.clone()).map_err(|error| error.to_string())?;
        let id = change.node_id;
        let mut news = News::default();
        let refused = if self.removed.contains(&id) {
            Some("IdRemoved")
        } else if change.change_type() == ConfChangeType::ConfChangeRemoveNode {
            let voters = self.members.values().filter(|learner| !**learner).count();
            match self.members.get(&id) {
                Some(false) if voters == 1 => Some("LastVoter"),
                Some(_) => {
                    self.members.remove(&id);
                    self.removed.insert(id);
                    None
                }
                None => Some("IdNotFound"),
            }
        } else {
            let context =
                ConfChangeContext::from_json(&change.context).map_err(|error| error.to_string())?;
            let learners = self.members.values().filter(|learner| **learner).count();
            match (self.members.get(&id), context.is_promote) {
                (None, true) => Some("IdNotFound"),
                (Some(false), true) => Some("MemberNotLearner"),
                (Some(true), true) => {
                    self.members.insert(id, false);
                    news.promoted = Some(id);
                    None
                }
                (Some(_), false) => Some("IdExists"),
                (None, false) if context.member.is_learner && learners > 0 => {
                    Some("TooManyLearners")
                }
                (None, false) => {
                    self.members.insert(id, context.member.is_learner);
                    news.added = Some(id);
                    None
                }
            }
        };
        let outcome = Outcome {
            refused: refused.map(str::to_owned),
            ..self.done(false, 0)
        };
        self.note(change.id, outcome, entry.index)?;
        Ok(news)
    }

    fn execute(&mut self, entry: &Entry) -> Result<News, String> {
        let request =
            InternalRaftRequest::decode(entry.data.clone()).map_err(|error| error.to_string())?;
        let header = request.header.clone().unwrap_or_default();
        let mut news = News::default();
        let before = self.revision;
        let outcome = match self.request(&request, &header, &mut news) {
            Ok(outcome) => outcome,
            Err(refused) => Outcome {
                refused: Some(refused),
                ..self.done(false, 0)
            },
        };
        let outcome = Outcome {
            changed: self.revision > before,
            ..outcome
        };
        self.note(header.id, outcome, entry.index)?;
        Ok(news)
    }

    fn request(
        &mut self,
        request: &InternalRaftRequest,
        header: &RequestHeader,
        news: &mut News,
    ) -> Result<Outcome, String> {
        let full = self
            .alarms
            .iter()
            .any(|(kind, _)| *kind == AlarmType::Nospace as i32);
        let room = |needed: bool| {
            if full && needed {
                Err("NoSpace".to_owned())
            } else {
                Ok(())
            }
        };
        if let Some(alarm) = &request.alarm {
            self.alarm(alarm);
            return Ok(self.done(false, 0));
        }
        if let Some(set) = &request.cluster_version_set {
            self.version = set.ver.parse().ok();
            return Ok(self.done(false, 0));
        }
        if let Some(set) = &request.downgrade_info_set {
            self.downgrade = set.enabled.then(|| set.ver.clone());
            return Ok(self.done(false, 0));
        }
        if request.lease_checkpoint.is_some() || request.cluster_member_attr_set.is_some() {
            return Ok(self.done(false, 0));
        }
        if let Some(put) = &request.put {
            room(true)?;
            self.may_put(put, header)?;
            self.has_lease(put)?;
            let revision = self.revision + 1;
            self.put(put, revision);
            self.revision = revision;
            Ok(self.done(true, 0))
        } else if let Some(txn) = &request.txn {
            let puts = txn.success.iter().chain(&txn.failure);
            let puts = puts.filter(|op| matches!(op.request, Some(Request::RequestPut(_))));
            room(puts.count() > 0)?;
            self.may_txn(txn, header)?;
            self.txn(txn)
        } else if let Some(grant) = &request.lease_grant {
            room(true)?;
            self.grant(grant, news)
        } else if let Some(delete) = &request.delete_range {
            self.may_delete(delete, header)?;
            let revision = self.revision + 1;
            let count = self.delete(&delete.key, &delete.range_end, revision);
            self.revision += i64::from(count > 0);
            Ok(self.done(count > 0, count))
        } else if let Some(compaction) = &request.compaction {
            if compaction.revision <= self.compacted {
                return Err("Compacted".into());
            }
            if compaction.revision > self.revision {
                return Err("FutureRevision".into());
            }
            self.compacted = compaction.revision;
            Ok(self.done(false, 0))
        } else if let Some(revoke) = &request.lease_revoke {
            let keys = self.leases.get(&revoke.id).cloned().unwrap_or_default();
            self.auth.permits_lease(header, keys.iter().cloned())?;
            if self.leases.remove(&revoke.id).is_none() {
                return Err("LeaseNotFound".into());
            }
            let revision = self.revision + 1;
            let mut count = 0;
            for key in &keys {
                count += self.delete(key, &[], revision);
            }
            self.revision += i64::from(count > 0);
            news.revoked = Some((revoke.id, header.id));
            Ok(self.done(count > 0, 0))
        } else if let Some(done) = self.auth.execute(request, header, self.log.len() as u64) {
            done.map(|()| self.done(false, 0))
        } else {
            Err("a request that the simulator does not make".into())
        }
    }

    fn done(&self, changed: bool, count: i64) -> Outcome {
        Outcome {
            revision: self.revision,
            changed,
            count,
            ..Outcome::default()
        }
    }

    fn alarm(&mut self, alarm: &AlarmRequest) {
        let raised = (alarm.alarm, alarm.member_id);
        match alarm.action() {
            AlarmAction::Activate => {
                self.alarms.insert(raised);
            }
            AlarmAction::Deactivate => {
                self.alarms.remove(&raised);
            }
            AlarmAction::Get => {}
        }
    }

    fn may_put(&self, put: &PutRequest, header: &RequestHeader) -> Result<(), String> {
        self.auth.permits(header, Need::Write, &put.key, &[])?;
        if put.lease != 0 {
            let keys = self.leases.get(&put.lease).cloned().unwrap_or_default();
            self.auth.permits_lease(header, keys)?;
        }
        Ok(())
    }

    fn may_delete(
        &self,
        delete: &DeleteRangeRequest,
        header: &RequestHeader,
    ) -> Result<(), String> {
        self.auth
            .permits(header, Need::Write, &delete.key, &delete.range_end)
    }

    fn may_read(&self, range: &RangeRequest, header: &RequestHeader) -> Result<(), String> {
        self.auth
            .permits(header, Need::Read, &range.key, &range.range_end)
    }

    fn may_txn(&self, txn: &TxnRequest, header: &RequestHeader) -> Result<(), String> {
        for compare in &txn.compare {
            self.auth
                .permits(header, Need::Read, &compare.key, &compare.range_end)?;
        }
        for op in txn.success.iter().chain(&txn.failure) {
            match &op.request {
                Some(Request::RequestPut(put)) => self.may_put(put, header)?,
                Some(Request::RequestDeleteRange(delete)) => self.may_delete(delete, header)?,
                Some(Request::RequestRange(range)) => self.may_read(range, header)?,
                _ => {}
            }
        }
        Ok(())
    }

    fn has_lease(&self, put: &PutRequest) -> Result<(), String> {
        if put.lease != 0 && !self.leases.contains_key(&put.lease) {
            return Err("LeaseNotFound".into());
        }
        Ok(())
    }

    fn grant(&mut self, grant: &LeaseGrantRequest, news: &mut News) -> Result<Outcome, String> {
        if self.leases.contains_key(&grant.id) {
            return Err("LeaseExists".into());
        }
        self.leases.insert(grant.id, BTreeSet::new());
        news.granted = Some((grant.id, grant.ttl.max(TTL_MIN_SECONDS)));
        Ok(self.done(false, 0))
    }

    fn hang(&mut self, key: &Bytes, from: i64, to: i64) {
        if let Some(keys) = self.leases.get_mut(&from) {
            keys.remove(key);
        }
        if let Some(keys) = self.leases.get_mut(&to) {
            keys.insert(key.clone());
        }
    }

    fn push(&mut self, key: &Bytes, version: Version) {
        self.history.push(Happened {
            key: key.clone(),
            version: version.clone(),
        });
        self.keys.entry(key.clone()).or_default().push(version);
    }

    fn put(&mut self, put: &PutRequest, revision: i64) {
        let last = self.keys.get(&put.key).and_then(|versions| versions.last());
        let (created, version, before) = match last {
            Some(last) if last.value.is_some() => (last.created, last.version + 1, last.lease),
            _ => (revision, 1, 0),
        };
        self.hang(&put.key, before, put.lease);
        self.push(
            &put.key,
            Version {
                modified: revision,
                created,
                version,
                value: Some(put.value.clone()),
                lease: put.lease,
            },
        );
    }

    fn delete(&mut self, key: &[u8], end: &[u8], revision: i64) -> i64 {
        let gone: Vec<(Bytes, i64)> = self
            .keys
            .iter()
            .filter(|(known, _)| within(known, key, end))
            .filter_map(|(known, versions)| {
                let last = versions.last().filter(|last| last.value.is_some())?;
                Some((known.clone(), last.lease))
            })
            .collect();
        for (key, lease) in &gone {
            self.hang(key, *lease, 0);
            self.push(
                key,
                Version {
                    modified: revision,
                    created: 0,
                    version: 0,
                    value: None,
                    lease: 0,
                },
            );
        }
        gone.len() as i64
    }

    /// Transactions of the simulator compare versions, values or revisions for equality.
    fn txn(&mut self, txn: &TxnRequest) -> Result<Outcome, String> {
        let holds = txn.compare.iter().all(|compare| {
            let found = self.at(&compare.key, self.revision);
            match &compare.target_union {
                Some(TargetUnion::Version(version)) => {
                    found.map_or(0, |found| found.version) == *version
                }
                Some(TargetUnion::ModRevision(revision)) => {
                    found.map_or(0, |found| found.modified) == *revision
                }
                Some(TargetUnion::Value(value)) => {
                    found.is_some_and(|found| found.value.as_ref() == Some(value))
                }
                _ => false,
            }
        });
        let branch = if holds { &txn.success } else { &txn.failure };
        for op in branch {
            match &op.request {
                Some(Request::RequestPut(put)) => self.has_lease(put)?,
                Some(Request::RequestRange(range)) if range.revision > self.revision => {
                    return Err("FutureRevision".into());
                }
                Some(Request::RequestRange(range))
                    if range.revision > 0 && range.revision < self.compacted =>
                {
                    return Err("Compacted".into());
                }
                _ => {}
            }
        }
        let revision = self.revision + 1;
        let mut changed = false;
        let mut found = Vec::new();
        for op in branch {
            match &op.request {
                Some(Request::RequestPut(put)) => {
                    self.put(put, revision);
                    changed = true;
                }
                Some(Request::RequestDeleteRange(delete)) => {
                    changed |= self.delete(&delete.key, &delete.range_end, revision) > 0;
                }
                Some(Request::RequestRange(range)) => {
                    let at = match range.revision {
                        0 => revision,
                        past => past,
                    };
                    found.push(self.range(&range.key, &range.range_end, at));
                }
                _ => {}
            }
        }
        self.revision += i64::from(changed);
        Ok(Outcome {
            found,
            ..self.done(changed, i64::from(holds))
        })
    }
}
