//! The clients: one request at a time each, and a judgement on every answer. Revisions order the
//! writes, so an answer is linearizable if it is what the committed log makes of the request, and its
//! revision is not below one that any client had seen before the request was made.

use bytes::Bytes;
use ferrite_apply::Response;
use ferrite_mvcc::kv;
use ferrite_node::stage::raft::{Input, Proposal};
use ferrite_node::{Answer, Error};
use ferrite_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use ferrite_proto::etcdserverpb::request_op::Request;
use ferrite_proto::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, InternalRaftRequest, PutRequest, RangeRequest,
    RequestHeader, RequestOp, ResponseHeader, TxnRequest,
};
use ferrite_proto::mvccpb::KeyValue;
use prost::Message as _;

use crate::model::{Outcome, Version};
use crate::mutation::Mutation;
use crate::world::{Event, MEMBERS, World};

/// A client gives up after this long.
const TIMEOUT_US: u64 = 2_500_000;
/// Clients make no new requests when faults have been over for this long.
const LAST_REQUEST_US: u64 = 2_000_000;

/// A client and its request under way.
#[derive(Debug, Default)]
pub(crate) struct Client {
    pub request: Option<Pending>,
}

/// A request under way.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    id: u64,
    /// The key, for a read.
    read: Option<Bytes>,
    /// The largest revision anybody had seen when it was made.
    frontier: i64,
}

/// Whether a member holds what the model says.
pub(crate) fn same(
    key: &[u8],
    found: Option<&KeyValue>,
    wanted: Option<&Version>,
) -> Result<(), String> {
    let as_found = found.map(|kv| {
        (
            kv.mod_revision,
            kv.create_revision,
            kv.version,
            Some(kv.value.clone()),
        )
    });
    let as_wanted = wanted.map(|v| (v.modified, v.created, v.version, v.value.clone()));
    if as_found == as_wanted {
        return Ok(());
    }
    Err(format!(
        "key {:?} holds (modified, created, version, value) {as_found:?}, must hold {as_wanted:?}",
        String::from_utf8_lossy(key)
    ))
}

impl World {
    pub(crate) fn client_moves(&mut self, client: usize) {
        let enough = |since| self.now > since + LAST_REQUEST_US && self.answered_when_calm;
        if self.calm_since.is_some_and(enough) {
            return;
        }
        let place = self.rng.below(MEMBERS);
        let id = self.next_id;
        self.next_id += 1;
        let key = Bytes::from(format!("k{}", self.rng.range(0, self.plan.keys)));
        let kind = self.rng.range(0, 100);
        let request = self.request(kind, key.clone(), id);
        if self.members[place].running.is_none() {
            let later = self.rng.range(10_000, 100_000);
            self.after(later, Event::Client(client));
            return;
        }
        self.clients[client].request = Some(Pending {
            id,
            read: request.is_none().then_some(key),
            frontier: self.frontier,
        });
        self.after(TIMEOUT_US, Event::Timeout(client, id));
        match request {
            None if self.mutation == Some(Mutation::ReadWithoutQuorum) => self.read(place, id),
            None => self.push_raft(place, Input::Read(id)),
            Some(request) => {
                if let Some(running) = &mut self.members[place].running {
                    running.waiting.insert(id);
                }
                let data = Bytes::from(request.encode_to_vec());
                if self.mutation == Some(Mutation::ProposeTwice) && self.rng.per_mille(50) {
                    let data = data.clone();
                    self.push_raft(place, Input::Propose(Proposal { id, data }));
                }
                self.push_raft(place, Input::Propose(Proposal { id, data }));
            }
        }
    }

    /// `None` is a read.
    fn request(&mut self, kind: u64, key: Bytes, id: u64) -> Option<InternalRaftRequest> {
        let size = self.rng.below(200);
        let put = PutRequest {
            key: key.clone(),
            value: Bytes::from(format!("v{id}{}", ".".repeat(size))),
            ..PutRequest::default()
        };
        let mut request = InternalRaftRequest {
            header: Some(RequestHeader {
                id,
                ..RequestHeader::default()
            }),
            ..InternalRaftRequest::default()
        };
        match kind {
            0..40 => request.put = Some(put),
            40..50 => {
                request.delete_range = Some(DeleteRangeRequest {
                    key,
                    ..DeleteRangeRequest::default()
                });
            }
            50..65 => request.txn = Some(self.txn(put)),
            65..70 => {
                let revision = self.frontier - self.rng.range(0, 20) as i64;
                request.compaction = Some(CompactionRequest {
                    // A compaction at 0 makes the store answer its hash for the current one.
                    revision: if revision == 0 { 1 } else { revision },
                    physical: self.rng.per_mille(300),
                });
            }
            _ => return None,
        }
        Some(request)
    }

    /// Puts if the version is a guessed one; otherwise puts something else, or nothing.
    fn txn(&mut self, put: PutRequest) -> TxnRequest {
        let compare = Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Version as i32,
            key: put.key.clone(),
            target_union: Some(TargetUnion::Version(self.rng.range(0, 4) as i64)),
            ..Compare::default()
        };
        let op = |put: PutRequest| RequestOp {
            request: Some(Request::RequestPut(put)),
        };
        let other = PutRequest {
            value: Bytes::from_static(b"otherwise"),
            ..put.clone()
        };
        let failure = if self.rng.per_mille(500) {
            vec![op(other)]
        } else {
            Vec::new()
        };
        TxnRequest {
            compare: vec![compare],
            success: vec![op(put)],
            failure,
        }
    }

    pub(crate) fn client_gives_up(&mut self, client: usize, id: u64) {
        if self.clients[client]
            .request
            .as_ref()
            .is_some_and(|request| request.id == id)
        {
            self.stats.count("requests without an answer");
            self.ends(client);
        }
    }

    fn ends(&mut self, client: usize) {
        self.clients[client].request = None;
        let pause = self.rng.range(100, self.plan.think_us);
        self.after(pause, Event::Client(client));
    }

    fn client_of(&self, id: u64) -> Option<(usize, Pending)> {
        self.clients.iter().enumerate().find_map(|(place, client)| {
            let request = client.request.as_ref().filter(|request| request.id == id)?;
            Some((place, request.clone()))
        })
    }

    /// An error that says nothing about what became of the request.
    pub(crate) fn refused(&mut self, id: u64) {
        if let Some((client, _)) = self.client_of(id) {
            self.stats.count("requests refused");
            self.ends(client);
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
        let Some((client, request)) = self.client_of(id) else {
            return;
        };
        if let Err(reason) = judge(answer, &outcome, request.frontier) {
            self.fail(format!("request {id}: {reason}"));
        }
        self.stats.count("writes answered");
        self.answered_when_calm |= self.calm_since.is_some();
        self.frontier = self.frontier.max(outcome.revision);
        self.note(outcome.revision as u64);
        self.ends(client);
    }

    /// A read may be served from this member now.
    pub(crate) fn read(&mut self, place: usize, id: u64) {
        let Some((client, request)) = self.client_of(id) else {
            return;
        };
        let (Some(running), Some(key)) = (&self.members[place].running, &request.read) else {
            return;
        };
        let range = RangeRequest {
            key: key.clone(),
            ..RangeRequest::default()
        };
        let judged = kv::range(running.stages.apply.applier().store(), &range)
            .map_err(|error| error.to_string())
            .and_then(|response| {
                let revision = revision(response.header.as_ref())?;
                if revision < request.frontier {
                    return Err(format!(
                        "a stale answer of revision {revision}, {} was seen before",
                        request.frontier
                    ));
                }
                same(key, response.kvs.first(), self.model.at(key, revision))?;
                Ok(revision)
            });
        match judged {
            Ok(revision) => {
                self.stats.count("reads answered");
                self.frontier = self.frontier.max(revision);
                self.note(revision as u64);
                self.ends(client);
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

fn judge(answer: &Answer, outcome: &Outcome, frontier: i64) -> Result<(), String> {
    let response = match answer {
        Ok(response) => response,
        Err(Error::Apply(_)) if outcome.refused => return Ok(()),
        Err(error) => return Err(format!("refused with {error}, must be {outcome:?}")),
    };
    let (revision, count) = match response {
        Response::Put(put) => (revision(put.header.as_ref())?, outcome.count),
        Response::DeleteRange(delete) => (revision(delete.header.as_ref())?, delete.deleted),
        Response::Txn(txn) => (revision(txn.header.as_ref())?, i64::from(txn.succeeded)),
        Response::Compaction(compaction, _) => (revision(compaction.header.as_ref())?, 0),
        other => return Err(format!("answered with {other:?}")),
    };
    if outcome.refused || revision != outcome.revision || count != outcome.count {
        return Err(format!("answered with {response:?}, must be {outcome:?}"));
    }
    if revision < frontier || (outcome.changed && revision == frontier) {
        return Err(format!(
            "ordered at revision {revision}, before {frontier} that was seen already"
        ));
    }
    Ok(())
}
