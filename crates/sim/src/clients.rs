//! The clients: one request at a time each, and a judgement on every answer. Revisions order the
//! writes, so an answer is linearizable if it is what the committed log makes of the request, and its
//! revision is not below one that any client had seen before the request was made. What they saw goes into
//! the [`crate::history`] too, which is judged without the log.

use bytes::Bytes;
use ferrite_apply::{ApplyError, Response};
use ferrite_mvcc::kv;
use ferrite_node::leases::own_header;
use ferrite_node::stage::raft::{Input, Proposal};
use ferrite_node::{Answer, Error};
use ferrite_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use ferrite_proto::etcdserverpb::request_op::Request;
use ferrite_proto::etcdserverpb::response_op::Response as OpResponse;
use ferrite_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, InternalRaftRequest, PutRequest, RangeRequest,
    RequestHeader, RequestOp, ResponseHeader, TxnRequest, TxnResponse,
};
use ferrite_proto::mvccpb::KeyValue;
use prost::Message as _;

use crate::history::{self, Act, Op, Seen};
use crate::model::{Outcome, Pair, Version};
use crate::mutation::Mutation;
use crate::tokens::Token;
use crate::world::{Event, World};

/// A client gives up after this long.
const TIMEOUT_US: u64 = 2_500_000;
/// Clients make no new requests when faults have been over for this long.
const LAST_REQUEST_US: u64 = 2_000_000;

/// Who made a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    Client(usize),
    Lease(usize),
    Operator,
    /// The member itself: nobody waits, the answer is judged all the same.
    Member,
}

/// A read that a client waits for.
#[derive(Debug, Clone)]
pub(crate) struct Read {
    pub range: RangeRequest,
}

/// A request under way.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    pub owner: Owner,
    pub place: usize,
    pub read: Option<Read>,
    /// The largest revision anybody had seen when it was made.
    pub frontier: i64,
    /// Its place in the history.
    pub op: Option<usize>,
    pub made_us: u64,
}

/// Whoever of a member waits for a linearizable read.
#[derive(Debug, Clone)]
pub(crate) enum Reading {
    /// To revoke what is over.
    LeasePass { place: usize, life: u64, term: u64 },
    /// To say whose a token is.
    Token {
        life: u64,
        token: Token,
        asked: bool,
    },
    /// To renew a lease though its raft was silent.
    Renewal {
        client: usize,
        lease: i64,
        asked_us: u64,
    },
}

fn plain(found: &KeyValue) -> (i64, i64, i64, Option<Bytes>, i64) {
    (
        found.mod_revision,
        found.create_revision,
        found.version,
        Some(found.value.clone()),
        found.lease,
    )
}

fn wanted(version: &Version) -> (i64, i64, i64, Option<Bytes>, i64) {
    (
        version.modified,
        version.created,
        version.version,
        version.value.clone(),
        version.lease,
    )
}

/// Whether a member holds what the model says.
pub(crate) fn same(
    key: &[u8],
    found: Option<&KeyValue>,
    want: Option<&Version>,
) -> Result<(), String> {
    let (as_found, as_wanted) = (found.map(plain), want.map(wanted));
    if as_found == as_wanted {
        return Ok(());
    }
    Err(format!(
        "key {:?} holds (modified, created, version, value, lease) {as_found:?}, must hold {as_wanted:?}",
        String::from_utf8_lossy(key)
    ))
}

fn same_range(found: &[KeyValue], want: &[Pair]) -> Result<(), String> {
    let as_found: Vec<_> = found.iter().map(|kv| (&kv.key, plain(kv))).collect();
    let as_wanted: Vec<_> = want.iter().map(|(key, v)| (key, wanted(v))).collect();
    if as_found == as_wanted {
        return Ok(());
    }
    Err(format!(
        "a range found {as_found:?}, must find {as_wanted:?}"
    ))
}

fn key(number: usize) -> Bytes {
    Bytes::from(format!("k{number}"))
}

fn number(key: &[u8]) -> usize {
    key.get(1).map_or(0, |digit| usize::from(digit - b'0'))
}

/// Values begin with a letter and the number that the history knows them by.
fn value_number(value: &[u8]) -> u64 {
    value[1..]
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))
}

fn got(kvs: &[KeyValue]) -> Vec<(usize, u64, i64)> {
    kvs.iter()
        .map(|kv| (number(&kv.key), value_number(&kv.value), kv.version))
        .collect()
}

fn op_of(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

fn range_of(from: usize, to: usize) -> RangeRequest {
    RangeRequest {
        key: key(from),
        range_end: if to == from + 1 {
            Bytes::new()
        } else {
            key(to)
        },
        ..RangeRequest::default()
    }
}

fn delete_of(from: usize, to: usize) -> DeleteRangeRequest {
    let range = range_of(from, to);
    DeleteRangeRequest {
        key: range.key,
        range_end: range.range_end,
        ..DeleteRangeRequest::default()
    }
}

impl World {
    pub(crate) fn clients_rest(&self) -> bool {
        self.calm_since
            .is_some_and(|since| self.now > since + LAST_REQUEST_US && self.answered_when_calm)
    }

    pub(crate) fn client_moves(&mut self, client: usize) {
        if self.clients_rest() {
            return;
        }
        let Some(place) = self.some_running() else {
            let later = self.rng.range(10_000, 100_000);
            self.after(later, Event::Client(client));
            return;
        };
        let kind = self.rng.range(0, 100);
        let owner = Owner::Client(client);
        if self.plan.auth {
            match self.rng.below(20) {
                0 | 1 if self.model.auth().enabled() => return self.logs_in(place, owner),
                2..=6 => self.shows_token(place),
                _ => {}
            }
        }
        if kind >= 68 {
            self.client_reads(place, owner, kind);
            return;
        }
        let (request, op) = self.request(kind);
        self.propose_as(place, owner, request, op);
    }

    fn some_key(&mut self) -> usize {
        self.rng.below(self.plan.keys as usize)
    }

    fn some_range(&mut self) -> (usize, usize) {
        let (a, b) = (self.some_key(), self.some_key());
        (a.min(b), a.max(b) + 1)
    }

    fn client_reads(&mut self, place: usize, owner: Owner, kind: u64) {
        let one = self.some_key();
        let mut range = range_of(one, one + 1);
        let mut op = Some(Op::simple(Act::Get(one, one + 1)));
        match kind {
            86..94 => {
                let (from, to) = self.some_range();
                range = range_of(from, to);
                op = Some(Op::simple(Act::Get(from, to)));
            }
            94..97 => {
                range.revision = (self.frontier - self.rng.range(0, 40) as i64).max(1);
                op = None;
            }
            97.. => {
                range.serializable = true;
                op = None;
            }
            _ => {}
        }
        let now = self.now;
        let op = op
            .filter(|_| !self.plan.compares_revisions)
            .map(|op| self.history.begins(op, now));
        let serializable = range.serializable;
        let id = self.expect(place, owner, Some(Read { range }), op);
        if serializable || self.mutation == Some(Mutation::ReadWithoutQuorum) {
            self.read(place, id);
        } else {
            self.linearizable(place, id);
        }
    }

    /// As the production code: whoever leads alone needs nobody's word.
    pub(crate) fn linearizable(&mut self, place: usize, id: u64) {
        let Some(running) = &self.members[place].running else {
            return;
        };
        match running.status.reads_alone_at() {
            Some(index) => {
                if running.applied.wait(index, id).is_some() {
                    self.read(place, id);
                }
            }
            None => self.push_raft(place, Input::Read(id)),
        }
    }

    /// The number of a request that a member is about to make. One that an entry bears already may be given out again
    /// only when nobody can take the one for the other: when that entry is behind this member for good.
    pub(crate) fn request_id(&mut self, place: usize) -> u64 {
        // Values are told apart by it.
        self.next_id += 1;
        let Some(running) = &self.members[place].running else {
            return 0;
        };
        let id = running.ids.next();
        let applied = running.stages.apply.applier().progress().index;
        self.model.forget_behind(id, applied);
        if self.pending.contains_key(&id) {
            self.fail(format!(
                "request {id:x} is waited for, and its number given out again"
            ));
        }
        id
    }

    /// Notes a request that is about to be made; its number.
    pub(crate) fn expect(
        &mut self,
        place: usize,
        owner: Owner,
        read: Option<Read>,
        op: Option<usize>,
    ) -> u64 {
        let id = self.request_id(place);
        self.pending.insert(
            id,
            Pending {
                owner,
                place,
                read,
                frontier: self.frontier,
                op,
                made_us: self.now,
            },
        );
        self.after(TIMEOUT_US, Event::Timeout(id));
        id
    }

    /// Who a request is of: somebody whom the member has recognised just now.
    pub(crate) fn header(&mut self, place: usize, owner: Owner, id: u64) -> RequestHeader {
        let Some(running) = &self.members[place].running else {
            return RequestHeader::default();
        };
        let view = running.stages.apply.applier().auth().view().clone();
        if owner != Owner::Operator && view.enabled() {
            let user = ["root", "u0", "u1"][self.rng.below(3)];
            return RequestHeader {
                id,
                username: user.into(),
                // Once in a while from before the last change of users.
                auth_revision: view.revision() - u64::from(self.rng.per_mille(30)),
            };
        }
        own_header(id, &view)
    }

    /// Proposes a request of a client.
    pub(crate) fn propose_as(
        &mut self,
        place: usize,
        owner: Owner,
        mut request: InternalRaftRequest,
        op: Option<Op>,
    ) -> u64 {
        let now = self.now;
        let op = op
            .filter(|_| !self.plan.compares_revisions)
            .map(|op| self.history.begins(op, now));
        let id = self.expect(place, owner, None, op);
        request.header = Some(self.header(place, owner, id));
        if let Some(running) = &mut self.members[place].running {
            running.waiting.insert(id);
        }
        let data = Bytes::from(request.encode_to_vec());
        if self.mutation == Some(Mutation::ProposeTwice) && self.rng.per_mille(50) {
            let data = data.clone();
            self.push_raft(place, Input::Propose(Proposal { id, data }));
        }
        self.push_raft(place, Input::Propose(Proposal { id, data }));
        id
    }

    fn request(&mut self, kind: u64) -> (InternalRaftRequest, Option<Op>) {
        let mut request = InternalRaftRequest::default();
        let one = self.some_key();
        let number = self.next_id * 2;
        match kind {
            0..30 => {
                request.put = Some(self.put(key(one), 'v', number));
                (request, Some(Op::simple(Act::Put(one, number))))
            }
            30..38 => {
                request.delete_range = Some(delete_of(one, one + 1));
                (request, Some(Op::simple(Act::Delete(one, one + 1))))
            }
            38..41 => {
                let (from, to) = self.some_range();
                request.delete_range = Some(delete_of(from, to));
                (request, Some(Op::simple(Act::Delete(from, to))))
            }
            41..63 => {
                let (txn, op) = self.txn(number);
                request.txn = Some(txn);
                (request, op)
            }
            _ => {
                let revision = self.frontier - self.rng.range(0, 30) as i64;
                request.compaction = Some(CompactionRequest {
                    // A compaction at 0 makes the store answer its hash for the current one.
                    revision: if revision == 0 { 1 } else { revision },
                    physical: self.rng.per_mille(300),
                });
                (request, None)
            }
        }
    }

    fn put(&mut self, key: Bytes, letter: char, number: u64) -> PutRequest {
        let size = self.rng.below(200);
        PutRequest {
            key,
            value: Bytes::from(format!("{letter}{number}{}", ".".repeat(size))),
            ..PutRequest::default()
        }
    }

    /// Compares one or two keys; puts, deletes and reads a few in either branch.
    fn txn(&mut self, value: u64) -> (TxnRequest, Option<Op>) {
        let mut op = Op::default();
        let mut txn = TxnRequest::default();
        for _ in 0..=self.rng.below(2) {
            let one = self.some_key();
            let last = self.model.at(&key(one), self.model.revision()).cloned();
            let (target, union) = match self.rng.below(3) {
                0 => {
                    let version = match &last {
                        Some(last) if self.rng.per_mille(700) => last.version,
                        _ => self.rng.range(0, 3) as i64,
                    };
                    op.compare.push(history::Compare::Version(one, version));
                    (CompareTarget::Version, TargetUnion::Version(version))
                }
                1 if self.plan.compares_revisions => {
                    let revision = last.map_or(0, |last| last.modified);
                    (CompareTarget::Mod, TargetUnion::ModRevision(revision))
                }
                _ => {
                    let value = last
                        .and_then(|last| last.value)
                        .unwrap_or(Bytes::from_static(b"v0"));
                    let number = value_number(&value);
                    op.compare.push(history::Compare::Value(one, number));
                    (CompareTarget::Value, TargetUnion::Value(value))
                }
            };
            txn.compare.push(Compare {
                result: CompareResult::Equal as i32,
                target: target as i32,
                key: key(one),
                target_union: Some(union),
                ..Compare::default()
            });
        }
        (txn.success, op.success) = self.branch('v', value);
        (txn.failure, op.failure) = self.branch('w', value + 1);
        (txn, Some(op))
    }

    fn branch(&mut self, letter: char, value: u64) -> (Vec<RequestOp>, Vec<Act>) {
        let (mut ops, mut acts) = (Vec::new(), Vec::new());
        let from = self.some_key();
        let keys = self.plan.keys as usize;
        // Each key is written once at most: what is written twice is refused before it is proposed.
        for (at, key_at) in (from..keys).take(1 + self.rng.below(3)).enumerate() {
            match self.rng.below(if at == 0 { 8 } else { 12 }) {
                0 => {
                    ops.push(op_of(Request::RequestDeleteRange(delete_of(
                        key_at,
                        key_at + 1,
                    ))));
                    acts.push(Act::Delete(key_at, key_at + 1));
                }
                1 => {
                    let (from, to) = self.some_range();
                    ops.push(op_of(Request::RequestRange(range_of(from, to))));
                    acts.push(Act::Get(from, to));
                }
                2 if letter == 'w' => {}
                _ => {
                    let put = self.put(key(key_at), letter, value);
                    ops.push(op_of(Request::RequestPut(put)));
                    acts.push(Act::Put(key_at, value));
                }
            }
        }
        (ops, acts)
    }

    /// Whoever made a request waits no longer.
    pub(crate) fn gives_up(&mut self, id: u64) {
        let Some(request) = self.pending.remove(&id) else {
            return;
        };
        self.stats.count("requests without an answer");
        match (&request.read, request.op) {
            (Some(_), Some(op)) => self.history.drops(op),
            (None, Some(op)) => self.book.unanswered.push((id, op)),
            _ => {}
        }
        self.ends(id, &request, None);
    }

    /// Whoever waited for it at a member that has ended learns so soon.
    pub(crate) fn hangs_up(&mut self, place: usize) {
        let ids: Vec<u64> = self
            .pending
            .iter()
            .filter(|(_, request)| request.place == place)
            .map(|(id, _)| *id)
            .collect();
        for id in ids {
            let soon = self.rng.range(500, 100_000);
            self.after(soon, Event::Timeout(id));
        }
        self.reading.retain(|_, reading| match reading {
            Reading::LeasePass { place: of, .. } => *of != place,
            Reading::Renewal { .. } | Reading::Token { .. } => true,
        });
    }

    fn ends(&mut self, id: u64, request: &Pending, answer: Option<&Answer>) {
        match request.owner {
            Owner::Client(client) => {
                let pause = self.rng.range(100, self.plan.think_us);
                self.after(pause, Event::Client(client));
            }
            Owner::Lease(client) => self.lease_client_heard(client, id, request.made_us, answer),
            Owner::Operator => self.operator_heard(id, answer),
            Owner::Member => {}
        }
    }

    /// An error that says that the request was not taken.
    pub(crate) fn refused(&mut self, id: u64) {
        if let Some(request) = self.pending.remove(&id) {
            self.stats.count("requests refused");
            if let Some(op) = request.op {
                self.history.drops(op);
            }
            self.ends(id, &request, None);
        }
        if let Some(Reading::LeasePass { place, life, .. }) = self.reading.remove(&id) {
            self.after(300_000, Event::LeasePass(place, life));
        }
    }

    /// A write is answered.
    pub(crate) fn answered(&mut self, id: u64, answer: &Answer) {
        let Some(outcome) = self.model.outcome(id).cloned() else {
            self.fail(format!(
                "request {id} is answered and not committed: {answer:?}"
            ));
            return;
        };
        let Some(request) = self.pending.remove(&id) else {
            return;
        };
        let quota = self.plan.quota_bytes.is_some();
        if let Err(reason) = judge(answer, &outcome, request.frontier, quota) {
            self.fail(format!("request {id}: {reason}"));
        }
        if let Some(op) = request.op {
            match answer {
                Ok(response) => {
                    let hint = (outcome.revision, !outcome.changed);
                    let now = self.now;
                    self.history.ends(op, seen(response), hint, now);
                }
                Err(_) if outcome.refused.is_some() => self.history.drops(op),
                Err(_) => self.book.unanswered.push((id, op)),
            }
        }
        self.keeps_token(answer, outcome.index);
        self.stats.count(if outcome.refused.is_some() {
            "writes refused when applied"
        } else {
            "writes answered"
        });
        self.answered_when_calm |= self.calm_since.is_some();
        self.frontier = self.frontier.max(outcome.revision);
        self.note(outcome.revision as u64);
        self.ends(id, &request, Some(answer));
    }

    /// A read may be served from this member now.
    pub(crate) fn read(&mut self, place: usize, id: u64) {
        if let Some(reading) = self.reading.remove(&id) {
            match reading {
                Reading::LeasePass { place, life, term } => self.confirmed(place, life, term),
                Reading::Token { life, token, asked } => self.looks_up(place, life, token, asked),
                Reading::Renewal {
                    client,
                    lease,
                    asked_us,
                } => self.renew(client, place, lease, asked_us),
            }
            return;
        }
        let Some(request) = self.pending.get(&id).cloned() else {
            return;
        };
        let (Some(running), Some(Read { range })) = (&self.members[place].running, &request.read)
        else {
            return;
        };
        let judged = match kv::range(running.stages.apply.applier().store(), range) {
            Ok(response) => revision(response.header.as_ref()).and_then(|revision| {
                if revision < request.frontier && !range.serializable {
                    return Err(format!(
                        "a stale answer of revision {revision}, {} was seen before",
                        request.frontier
                    ));
                }
                let at = match range.revision {
                    0 => revision,
                    past => past,
                };
                let want = self.model.range(&range.key, &range.range_end, at);
                same_range(&response.kvs, &want)?;
                Ok((revision, Some(got(&response.kvs))))
            }),
            // A revision that somebody has seen is known here; it may be compacted since.
            Err(ferrite_mvcc::RequestError::Compacted)
                if range.revision > 0 && range.revision < self.model.compacted() =>
            {
                self.stats.count("reads of compacted revisions");
                Ok((0, None))
            }
            Err(error) if self.is_read_failure(place, &error.to_string()) => {
                self.stats.count("reads that the disk refused");
                return self.refused(id);
            }
            Err(error) => Err(error.to_string()),
        };
        match judged {
            Ok((revision, found)) => {
                self.pending.remove(&id);
                self.stats.count("reads answered");
                self.frontier = self.frontier.max(revision);
                self.note(revision as u64);
                if let (Some(op), Some(found)) = (request.op, found) {
                    let seen = Seen {
                        succeeded: true,
                        got: vec![found],
                        ..Seen::default()
                    };
                    let now = self.now;
                    self.history.ends(op, seen, (revision, true), now);
                }
                self.ends(id, &request, None);
            }
            Err(reason) => self.fail(format!("read {id}: {reason}")),
        }
    }
}

fn revision(header: Option<&ResponseHeader>) -> Result<i64, String> {
    header
        .map(|header| header.revision)
        .ok_or_else(|| "an answer without a header".to_owned())
}

fn seen(response: &Response) -> Seen {
    match response {
        Response::DeleteRange(delete) => Seen {
            succeeded: true,
            deleted: vec![delete.deleted],
            ..Seen::default()
        },
        Response::Txn(txn) => {
            let mut seen = Seen {
                succeeded: txn.succeeded,
                ..Seen::default()
            };
            for op in &txn.responses {
                match &op.response {
                    Some(OpResponse::ResponseDeleteRange(delete)) => {
                        seen.deleted.push(delete.deleted);
                    }
                    Some(OpResponse::ResponseRange(range)) => seen.got.push(got(&range.kvs)),
                    _ => {}
                }
            }
            seen
        }
        _ => Seen {
            succeeded: true,
            ..Seen::default()
        },
    }
}

/// The name of a refusal, as the model names it.
fn name_of(error: &ApplyError) -> String {
    let text = match error {
        ApplyError::Request(error) => format!("{error:?}"),
        ApplyError::Auth(error) => format!("{error:?}"),
        ApplyError::Membership(error) => format!("{error:?}"),
        other => format!("{other:?}"),
    };
    let end = text
        .find(|c: char| !c.is_ascii_alphanumeric())
        .unwrap_or(text.len());
    text[..end].to_owned()
}

fn judge_txn(txn: &TxnResponse, outcome: &Outcome) -> Result<(), String> {
    let found = txn.responses.iter().filter_map(|op| match &op.response {
        Some(OpResponse::ResponseRange(range)) => Some(range),
        _ => None,
    });
    let found: Vec<_> = found.collect();
    if found.len() != outcome.found.len() {
        return Err(format!(
            "{} ranges, must be {:?}",
            found.len(),
            outcome.found
        ));
    }
    found
        .iter()
        .zip(&outcome.found)
        .try_for_each(|(range, want)| same_range(&range.kvs, want))
}

fn judge(answer: &Answer, outcome: &Outcome, frontier: i64, quota: bool) -> Result<(), String> {
    let response = match answer {
        Ok(response) => response,
        Err(Error::Apply(error)) => {
            // The quota is each member's own: it is told of by the answer only.
            let full = quota && *error == ApplyError::NoSpace && outcome.refused.is_none();
            if full || outcome.refused.as_deref() == Some(&*name_of(error)) {
                return Ok(());
            }
            return Err(format!("refused with {error:?}, must be {outcome:?}"));
        }
        Err(error) => return Err(format!("refused with {error}, must be {outcome:?}")),
    };
    let (revision, count) = match response {
        Response::Put(put) => (revision(put.header.as_ref())?, outcome.count),
        Response::DeleteRange(delete) => (revision(delete.header.as_ref())?, delete.deleted),
        Response::Txn(txn) => {
            judge_txn(txn, outcome)?;
            (revision(txn.header.as_ref())?, i64::from(txn.succeeded))
        }
        Response::Compaction(compaction, _) => (revision(compaction.header.as_ref())?, 0),
        Response::LeaseGrant(grant) => (revision(grant.header.as_ref())?, 0),
        Response::LeaseRevoke(revoke) => (revision(revoke.header.as_ref())?, 0),
        Response::Auth { revision, .. } => (*revision, 0),
        Response::Members(_)
        | Response::Alarm(_)
        | Response::Empty
        | Response::LeaseCheckpoint(_) => (outcome.revision, outcome.count),
        Response::Range(_) => return Err("answered with a range".into()),
    };
    if outcome.refused.is_some() || revision != outcome.revision || count != outcome.count {
        return Err(format!("answered with {response:?}, must be {outcome:?}"));
    }
    if revision < frontier || (outcome.changed && revision == frontier) {
        return Err(format!(
            "ordered at revision {revision}, before {frontier} that was seen already: {response:?} {outcome:?}"
        ));
    }
    Ok(())
}
