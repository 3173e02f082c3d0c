//! One committed entry at a time: judge it, change the state, say what it answers.

use std::sync::Arc;

use ferrite_auth::Store as AuthStore;
use ferrite_lease::{Lessor, TTL_MAX_SECONDS};
use ferrite_membership::{
    Change, Cluster, DowngradeInfo, V2Request, Version, bucket, decode_v2_request,
};
use ferrite_metrics::Operation;
use ferrite_mutate::mutation;
use ferrite_mvcc::schema::{self, Bucket};
use ferrite_mvcc::{Backend, Changes, FileView, ReadError, RequestError, Store, kv};
use ferrite_proto::etcdserverpb::{self as pb, AlarmType, InternalRaftRequest};
use ferrite_proto::membershippb;
use ferrite_proto::raftpb::{ConfChange, ConfState, Entry, EntryType};
use prost::Message;

use crate::alarms::Alarms;
use crate::auth::TokenChange;
use crate::error::ApplyError;
use crate::operation::operation;
use crate::response::Response;

/// What the cluster's operator fixed for this member.
#[derive(Debug, Clone)]
pub struct Config {
    /// This member.
    pub member_id: u64,
    /// Bytes the database file may have; `None` for no limit.
    pub quota_bytes: Option<u64>,
    /// Shorter leases are raised to this many seconds.
    pub lease_ttl_min_seconds: i64,
    /// Keep checkpoints of leases in the database whatever the cluster's version.
    pub lease_checkpoint_persist: bool,
}

/// How far the state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Progress {
    /// Index of the last entry applied.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// What the driver must do after an entry.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Tell raft of a membership change; a refused one comes with node id 0.
    ConfChange(ConfChange),
    /// The membership changed: peers are to be added, updated or removed.
    Membership(Change),
    /// A member's name, the cluster version or the downgrade target changed.
    ClusterAttributes,
    /// This member is no longer part of the cluster.
    RemovedSelf,
    /// The quota is used up: propose the NOSPACE alarm, and answer only after that.
    RaiseNoSpace,
    /// The leader's first entry of its term.
    FirstOfTerm,
    /// A lease exists from here on.
    LeaseGranted {
        /// The lease.
        id: i64,
        /// How long it lives, in seconds.
        ttl_seconds: i64,
    },
    /// A lease is gone, and its keys with it.
    LeaseRevoked(i64),
    /// Tokens begin or end.
    Tokens(TokenChange),
    /// A request that changes nothing here, for the log.
    Passed(String),
}

/// The outcome of one entry.
#[derive(Debug)]
pub struct Applied {
    /// Whose request it was; 0 when nobody can be waiting.
    pub request_id: u64,
    /// What to answer.
    pub outcome: Result<Response, ApplyError>,
    /// What else to do, in order.
    pub effects: Vec<Effect>,
    /// What changed in the store, for watchers. Already visible to readers.
    pub changes: Changes,
    /// What the entry asked for; none when it was no request.
    pub operation: Option<Operation>,
}

/// Why a member cannot go on applying. The state is as it was before the entry.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The entry is not what the index says, or cannot be decoded.
    #[error(
        "entry {index} of the log cannot be applied: {reason}. Restore this member from a snapshot, or remove it and add it anew"
    )]
    BadEntry {
        /// Index of the entry.
        index: u64,
        /// What is wrong.
        reason: String,
    },
    /// The database file is damaged.
    #[error(transparent)]
    Damaged(#[from] ReadError),
}

/// The replicated state of one member.
pub struct Applier {
    pub(crate) config: Config,
    pub(crate) backend: Backend,
    store: Arc<Store>,
    cluster: Cluster,
    alarms: Alarms,
    lessor: Lessor,
    pub(crate) auth: AuthStore,
    progress: Progress,
    /// What the entry being applied changed in the store.
    changes: Changes,
}

impl Applier {
    /// Puts the state together from what the database file held.
    ///
    /// # Errors
    /// A damaged database file.
    pub fn new(
        config: Config,
        backend: Backend,
        store: Arc<Store>,
        cluster: Cluster,
        lessor: Lessor,
        progress: Progress,
    ) -> Result<Self, ReadError> {
        let alarms = Alarms::load(&backend)?;
        let mut auth = AuthStore::load(&backend)?;
        auth.initialize(&backend);
        Ok(Applier {
            config,
            backend,
            store,
            cluster,
            alarms,
            lessor,
            auth,
            progress,
            changes: Changes::default(),
        })
    }

    /// After a raft snapshot: everything anew from the database file that came with it. Readers see
    /// the old state or the new one, never a mixture. Returns what else to do, in order.
    ///
    /// # Errors
    /// A damaged database file; the state is then as it was.
    pub fn install(
        &mut self,
        file: Arc<dyn FileView>,
        cluster: Cluster,
        progress: Progress,
    ) -> Result<Vec<Effect>, ReadError> {
        let incoming = Backend::new(Arc::clone(&file));
        let mut lessor = Lessor::load(&incoming, self.config.lease_ttl_min_seconds)?;
        let alarms = Alarms::load(&incoming)?;
        let auth = AuthStore::load(&incoming)?;
        self.store
            .install(file, &mut lessor)
            .map_err(|error| ReadError(error.to_string()))?;
        self.alarms = alarms;
        self.lessor.replace(lessor);
        self.cluster = cluster;
        self.progress = progress;
        Ok(self.replace_auth(&auth))
    }

    /// The multi-version store.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The buffered database.
    pub fn backend(&self) -> &Backend {
        &self.backend
    }

    /// The membership.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The alarms raised.
    pub fn alarms(&self) -> &Alarms {
        &self.alarms
    }

    /// The leases.
    pub fn lessor(&self) -> &Lessor {
        &self.lessor
    }

    /// Users and roles.
    pub fn auth(&self) -> &AuthStore {
        &self.auth
    }

    /// How far the state is.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Writes applied index, term and membership of raft beside the data they cover, so that both
    /// reach the file in one commit. To be called at an entry boundary, before the buffer is frozen.
    pub fn seal(&self) {
        self.backend.put(
            Bucket::Meta,
            schema::CONSISTENT_INDEX.as_bytes(),
            &self.progress.index.to_be_bytes(),
        );
        self.backend.put(
            Bucket::Meta,
            schema::TERM.as_bytes(),
            &self.progress.term.to_be_bytes(),
        );
        self.backend.put(
            Bucket::Meta,
            schema::CONF_STATE.as_bytes(),
            conf_state_json(&self.cluster.conf_state()).as_bytes(),
        );
    }

    /// Writes the storage version, which follows the cluster version from 3.6 on. Not replicated.
    pub fn set_storage_version(&self, version: Version) {
        self.backend.put(
            Bucket::Meta,
            schema::STORAGE_VERSION.as_bytes(),
            version.to_string().as_bytes(),
        );
    }

    /// Applies one entry. Entries already covered change nothing and answer nobody.
    ///
    /// `answered_here` says that a client of this member waits for the answer: elsewhere the ranges
    /// inside a transaction need not be computed.
    ///
    /// # Errors
    /// [`StateError`]: the member cannot go on.
    pub fn apply(
        &mut self,
        entry: &Entry,
        answered_here: impl Fn(u64) -> bool,
    ) -> Result<Applied, StateError> {
        if entry.index <= self.progress.index {
            return Ok(Applied {
                request_id: 0,
                outcome: Ok(Response::Empty),
                effects: Vec::new(),
                changes: Changes::default(),
                operation: None,
            });
        }
        if entry.index != self.progress.index + 1 {
            return Err(StateError::BadEntry {
                index: entry.index,
                reason: format!("the last entry applied is {}", self.progress.index),
            });
        }
        let applied = match EntryType::try_from(entry.entry_type) {
            Ok(EntryType::EntryNormal) => self.apply_normal(entry, answered_here)?,
            Ok(EntryType::EntryConfChange) => self.apply_conf_change(entry)?,
            _ => {
                return Err(StateError::BadEntry {
                    index: entry.index,
                    reason: format!("its type is {}", entry.entry_type),
                });
            }
        };
        self.progress = Progress {
            index: entry.index,
            term: entry.term,
        };
        Ok(applied)
    }

    fn apply_normal(
        &mut self,
        entry: &Entry,
        answered_here: impl Fn(u64) -> bool,
    ) -> Result<Applied, StateError> {
        if entry.data.is_empty() {
            return Ok(nobody(vec![Effect::FirstOfTerm]));
        }
        let request = match InternalRaftRequest::decode(entry.data.clone()) {
            Ok(request) if has_content(&request) => request,
            other => return self.apply_v2(entry, other.err()),
        };
        let request_id = match (&request.header, request.id) {
            (Some(header), 0) => header.id,
            (_, id) => id,
        };
        let operation = operation(&request);
        let (outcome, effects) = self.dispatch(request, entry.index, !answered_here(request_id))?;
        Ok(Applied {
            request_id,
            outcome,
            effects,
            changes: std::mem::take(&mut self.changes),
            operation: Some(operation),
        })
    }

    /// Logs of etcd up to 3.5 hold requests of its second API; two kinds of them concern the cluster.
    fn apply_v2(
        &mut self,
        entry: &Entry,
        error: Option<prost::DecodeError>,
    ) -> Result<Applied, StateError> {
        match decode_v2_request(&entry.data) {
            Some(V2Request::SetAttributes {
                id,
                name,
                client_urls,
            }) => Ok(nobody(self.set_attributes(id, name, client_urls))),
            Some(V2Request::SetVersion(version)) => {
                self.cluster.set_version(version);
                self.persist_cluster();
                Ok(nobody(vec![Effect::ClusterAttributes]))
            }
            Some(V2Request::Ignored(what)) => Ok(nobody(vec![Effect::Passed(what)])),
            None => Err(StateError::BadEntry {
                index: entry.index,
                reason: error.map_or_else(
                    || "it holds no known request".to_owned(),
                    |error| error.to_string(),
                ),
            }),
        }
    }

    #[allow(clippy::type_complexity)] // an answer and what else to do: named in `Applied` one level up
    fn dispatch(
        &mut self,
        request: InternalRaftRequest,
        index: u64,
        skip_ranges: bool,
    ) -> Result<(Result<Response, ApplyError>, Vec<Effect>), StateError> {
        if let Some(set) = request.cluster_version_set {
            return self.set_cluster_version(&set, index);
        }
        if let Some(set) = request.cluster_member_attr_set {
            let attributes = set.member_attributes.unwrap_or_default();
            let effects =
                self.set_attributes(set.member_id, attributes.name, attributes.client_urls);
            return Ok((Ok(Response::Empty), effects));
        }
        if let Some(set) = request.downgrade_info_set {
            self.cluster.set_downgrade(DowngradeInfo {
                target_version: if set.enabled { set.ver } else { String::new() },
                enabled: set.enabled,
            });
            self.persist_cluster();
            return Ok((Ok(Response::Empty), vec![Effect::ClusterAttributes]));
        }
        if request.downgrade_version_test.is_some() {
            return Ok((Ok(Response::Empty), Vec::new()));
        }
        if let Some(alarm) = request.alarm {
            let alarms = self.alarms.apply(&alarm, &self.backend);
            return Ok((
                Ok(Response::Alarm(pb::AlarmResponse {
                    header: None,
                    alarms,
                })),
                Vec::new(),
            ));
        }
        if let Some(checkpoint) = request.lease_checkpoint {
            let persist = self.config.lease_checkpoint_persist
                || self
                    .cluster
                    .version
                    .is_some_and(|v| v >= Version::new(3, 6, 0));
            for point in checkpoint.checkpoints {
                self.lessor
                    .checkpoint(point.id, point.remaining_ttl, persist, &self.backend);
            }
            return Ok((
                Ok(Response::LeaseCheckpoint(
                    pb::LeaseCheckpointResponse::default(),
                )),
                Vec::new(),
            ));
        }
        let corrupt = self.alarms.is_raised(AlarmType::Corrupt);
        let capped = self.alarms.is_raised(AlarmType::Nospace)
            && !(mutation!("alarm-differs") && self.config.member_id.is_multiple_of(3));
        let mut effects = Vec::new();
        // The order of refusals is etcd's: corrupt, no space, permission, and only then the request's own.
        let outcome = if let Some(put) = &request.put {
            if corrupt {
                Err(ApplyError::Corrupt)
            } else if capped {
                Err(ApplyError::NoSpace)
            } else {
                let fits = self.fits(kv::put_cost(put));
                self.permit_with_leases(&request, |may| may.put(put))
                    .and_then(|()| self.put(put))
                    .and_then(|response| within_quota(fits, response, &mut effects))
            }
        } else if let Some(txn) = &request.txn {
            let cost = kv::txn_cost(txn);
            if corrupt {
                Err(ApplyError::Corrupt)
            } else if capped && cost > 0 {
                Err(ApplyError::NoSpace)
            } else {
                let fits = self.fits(cost);
                self.permit_with_leases(&request, |may| may.txn(txn))
                    .and_then(|()| self.txn(txn, skip_ranges))
                    .and_then(|response| within_quota(fits, response, &mut effects))
            }
        } else if let Some(grant) = &request.lease_grant {
            if corrupt {
                Err(ApplyError::Corrupt)
            } else if capped {
                Err(ApplyError::NoSpace)
            } else {
                let fits = self.fits(kv::LEASE_GRANT_COST);
                self.grant(grant, &mut effects)
                    .and_then(|response| within_quota(fits, response, &mut effects))
            }
        } else if let Some(delete) = &request.delete_range {
            self.unless_corrupt(corrupt, |state| {
                state.permit_with_leases(&request, |may| may.delete_range(delete))?;
                let (response, changes) =
                    kv::apply_delete_range(&state.store, delete, &mut state.lessor)?;
                state.changes = changes;
                Ok(Response::DeleteRange(response))
            })
        } else if let Some(range) = &request.range {
            self.unless_corrupt(corrupt, |state| {
                state.permit(&request, |auth, who| {
                    auth.is_range_permitted(who, &range.key, &range.range_end)
                })?;
                Ok(Response::Range(kv::range(&state.store, range)?))
            })
        } else if let Some(compaction) = &request.compaction {
            self.unless_corrupt(corrupt, |state| {
                Ok(Response::Compaction(
                    kv::compact(&state.store, compaction)?,
                    compaction.physical,
                ))
            })
        } else if let Some(revoke) = &request.lease_revoke {
            self.unless_corrupt(corrupt, |state| {
                state.permit_with_leases(&request, |may| may.lease(revoke.id))?;
                state.revoke(revoke.id, &mut effects)
            })
        } else if let Some(outcome) = self.auth_request(&request, index, &mut effects) {
            outcome
        } else {
            return Err(StateError::BadEntry {
                index,
                reason: "it holds no request that this version knows".to_owned(),
            });
        };
        if let Err(ApplyError::Request(RequestError::Damaged(reason))) = &outcome {
            return Err(StateError::Damaged(ReadError(reason.clone())));
        }
        Ok((outcome, effects))
    }

    fn unless_corrupt(
        &mut self,
        corrupt: bool,
        run: impl FnOnce(&mut Self) -> Result<Response, ApplyError>,
    ) -> Result<Response, ApplyError> {
        if corrupt {
            Err(ApplyError::Corrupt)
        } else {
            run(self)
        }
    }

    /// Whether the database file has room for a request of this cost. A local matter: it may only
    /// decide what is answered.
    fn fits(&self, cost: u64) -> bool {
        match self.config.quota_bytes {
            Some(quota) if cost > 0 => self.backend.size() + cost < quota,
            _ => true,
        }
    }

    fn put(&mut self, request: &pb::PutRequest) -> Result<Response, ApplyError> {
        let (mut response, mut changes) = kv::apply_put(&self.store, request, &mut self.lessor)?;
        if mutation!("apply-twice") && self.progress.index.is_multiple_of(64) {
            (response, changes) = kv::apply_put(&self.store, request, &mut self.lessor)?;
        }
        self.changes = changes;
        Ok(Response::Put(response))
    }

    fn txn(&mut self, request: &pb::TxnRequest, skip_ranges: bool) -> Result<Response, ApplyError> {
        let (response, changes) =
            kv::apply_txn(&self.store, request, &mut self.lessor, skip_ranges)?;
        self.changes = changes;
        Ok(Response::Txn(response))
    }

    fn grant(
        &mut self,
        request: &pb::LeaseGrantRequest,
        effects: &mut Vec<Effect>,
    ) -> Result<Response, ApplyError> {
        use ferrite_mvcc::Leases as _;
        if request.id == 0 {
            return Err(ApplyError::LeaseNotFound);
        }
        if request.ttl > TTL_MAX_SECONDS {
            return Err(ApplyError::LeaseTtlTooLarge);
        }
        if self.lessor.exists(request.id) {
            return Err(ApplyError::LeaseExists);
        }
        let ttl = request.ttl.max(self.config.lease_ttl_min_seconds);
        self.lessor.grant(request.id, ttl, &self.backend);
        effects.push(Effect::LeaseGranted {
            id: request.id,
            ttl_seconds: ttl,
        });
        Ok(Response::LeaseGrant(pb::LeaseGrantResponse {
            header: Some(self.header()),
            id: request.id,
            ttl,
            error: String::new(),
        }))
    }

    fn revoke(&mut self, id: i64, effects: &mut Vec<Effect>) -> Result<Response, ApplyError> {
        let Some(keys) = self.lessor.keys(id) else {
            return Err(ApplyError::LeaseNotFound);
        };
        if !keys.is_empty() && !mutation!("revoke-leaves-keys") {
            let mut txn = self.store.write();
            for key in &keys {
                txn.delete_range(key, &[], &mut self.lessor);
            }
            self.changes = txn.end();
        }
        self.lessor.remove(id, &self.backend);
        effects.push(Effect::LeaseRevoked(id));
        Ok(Response::LeaseRevoke(pb::LeaseRevokeResponse {
            header: Some(self.header()),
        }))
    }

    fn header(&self) -> pb::ResponseHeader {
        pb::ResponseHeader {
            revision: self.store.current_revision(),
            ..pb::ResponseHeader::default()
        }
    }

    fn set_cluster_version(
        &mut self,
        set: &membershippb::ClusterVersionSetRequest,
        index: u64,
    ) -> Result<(Result<Response, ApplyError>, Vec<Effect>), StateError> {
        let Ok(version) = set.ver.parse::<Version>() else {
            return Err(StateError::BadEntry {
                index,
                reason: format!("it sets the cluster version to {:?}", set.ver),
            });
        };
        self.cluster.set_version(version);
        self.persist_cluster();
        Ok((Ok(Response::Empty), vec![Effect::ClusterAttributes]))
    }

    fn apply_conf_change(&mut self, entry: &Entry) -> Result<Applied, StateError> {
        let change =
            ConfChange::decode(entry.data.clone()).map_err(|error| StateError::BadEntry {
                index: entry.index,
                reason: format!("its membership change cannot be decoded: {error}"),
            })?;
        let request_id = change.id;
        if let Err(refusal) = self.cluster.validate_conf_change(&change) {
            // Raft must hear of the refused change too: it holds back the next one until then.
            let empty = ConfChange {
                node_id: 0,
                ..change
            };
            return Ok(Applied {
                request_id,
                outcome: Err(refusal.into()),
                effects: vec![Effect::ConfChange(empty)],
                changes: Changes::default(),
                operation: None,
            });
        }
        let done =
            self.cluster
                .apply_conf_change(&change)
                .map_err(|error| StateError::BadEntry {
                    index: entry.index,
                    reason: error.to_string(),
                })?;
        let mut effects = vec![Effect::ConfChange(change.clone())];
        match &done {
            Change::Removed(id) => {
                let key = bucket::member_key(*id);
                self.backend.delete(Bucket::Members, &key);
                self.backend.put(
                    Bucket::MembersRemoved,
                    &key,
                    bucket::REMOVED_VALUE.as_bytes(),
                );
                if *id == self.config.member_id {
                    effects.push(Effect::RemovedSelf);
                }
            }
            Change::Added(member) | Change::Updated(member) => self.persist_member(member.id),
            Change::Promoted(id) => self.persist_member(*id),
        }
        effects.push(Effect::Membership(done));
        Ok(Applied {
            request_id,
            outcome: Ok(Response::Members(
                self.cluster.members.values().map(to_proto).collect(),
            )),
            effects,
            changes: Changes::default(),
            operation: None,
        })
    }

    fn set_attributes(&mut self, id: u64, name: String, client_urls: Vec<String>) -> Vec<Effect> {
        match self.cluster.set_attributes(id, name, client_urls) {
            Ok(()) => {
                self.persist_member(id);
                vec![Effect::ClusterAttributes]
            }
            Err(error) => vec![Effect::Passed(format!(
                "attributes of member {id:x}: {error}"
            ))],
        }
    }

    /// Writes the membership as it is into its buckets: after a start that found it elsewhere.
    pub fn persist_membership(&self) {
        for id in self.cluster.member_ids() {
            self.persist_member(id);
        }
        for id in &self.cluster.removed {
            self.backend.put(
                Bucket::MembersRemoved,
                &bucket::member_key(*id),
                bucket::REMOVED_VALUE.as_bytes(),
            );
        }
        self.persist_cluster();
    }

    fn persist_member(&self, id: u64) {
        if let Some(member) = self.cluster.member(id) {
            self.backend.put(
                Bucket::Members,
                &bucket::member_key(id),
                &bucket::member_value(member),
            );
        }
    }

    fn persist_cluster(&self) {
        if let Some(version) = self.cluster.version {
            self.backend.put(
                Bucket::Cluster,
                bucket::CLUSTER_VERSION_KEY.as_bytes(),
                &bucket::version_value(version),
            );
        }
        let kept = self.cluster.downgrade.as_ref();
        if let Some(downgrade) = kept.filter(|_| !mutation!("downgrade-unsaved")) {
            self.backend.put(
                Bucket::Cluster,
                bucket::DOWNGRADE_KEY.as_bytes(),
                &bucket::downgrade_value(downgrade),
            );
        }
    }
}

/// A member as the client API shows it.
fn to_proto(member: &ferrite_membership::Member) -> pb::Member {
    pb::Member {
        id: member.id,
        name: member.name.clone(),
        peer_urls: member.peer_urls.clone(),
        client_urls: member.client_urls.clone(),
        is_learner: member.is_learner,
    }
}

fn nobody(effects: Vec<Effect>) -> Applied {
    Applied {
        request_id: 0,
        outcome: Ok(Response::Empty),
        effects,
        changes: Changes::default(),
        operation: None,
    }
}

/// The write has been executed; only the answer tells of the quota (as in etcd).
fn within_quota(
    fits: bool,
    response: Response,
    effects: &mut Vec<Effect>,
) -> Result<Response, ApplyError> {
    if fits {
        Ok(response)
    } else {
        effects.push(Effect::RaiseNoSpace);
        Err(ApplyError::NoSpace)
    }
}

/// Whether anything but the envelope was decoded. A request of the second API decodes to nothing.
fn has_content(request: &InternalRaftRequest) -> bool {
    // Nearly all of them; comparing the whole struct costs more than applying a put.
    if request.put.is_some() || request.txn.is_some() || request.delete_range.is_some() {
        return true;
    }
    let envelope = InternalRaftRequest {
        id: request.id,
        header: request.header.clone(),
        ..InternalRaftRequest::default()
    };
    envelope != *request
}

/// ConfState in the JSON that etcd keeps in the `meta` bucket.
fn conf_state_json(state: &ConfState) -> String {
    fn list(out: &mut String, name: &str, ids: &[u64]) {
        if !ids.is_empty() {
            let ids: Vec<String> = ids.iter().map(u64::to_string).collect();
            out.push_str(&format!("\"{name}\":[{}],", ids.join(",")));
        }
    }
    let mut out = String::from("{");
    list(&mut out, "voters", &state.voters);
    list(&mut out, "learners", &state.learners);
    list(&mut out, "voters_outgoing", &state.voters_outgoing);
    list(&mut out, "learners_next", &state.learners_next);
    out.push_str(&format!("\"auto_leave\":{}}}", state.auto_leave));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conf_state_is_written_as_etcd_writes_it() {
        let state = ConfState {
            voters: vec![7_383_792_418_829_112_008],
            ..ConfState::default()
        };
        assert_eq!(
            conf_state_json(&state),
            r#"{"voters":[7383792418829112008],"auto_leave":false}"#
        );
    }
}
