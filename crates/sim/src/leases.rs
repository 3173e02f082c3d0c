//! Clients that hold leases, the leader's passes over what is over, and the judgement on both: no lease ends
//! early under a client whose renewals are answered, and every lease ends when nobody renews it.

use std::collections::BTreeMap;

use bytes::Bytes;
use ferrite_mutate::mutation;
use ferrite_node::Answer;
use ferrite_node::leases::{Attempt, PASS_INTERVAL, own_header, revocation};
use ferrite_node::stage::raft::{Input, Proposal};
use ferrite_proto::etcdserverpb::{
    InternalRaftRequest, LeaseCheckpoint, LeaseCheckpointRequest, LeaseGrantRequest,
    LeaseRevokeRequest, PutRequest,
};
use prost::Message as _;

use crate::clients::{Owner, Reading};
use crate::member::{ELECTION_TICKS, TICK_US};
use crate::world::{Event, World};

/// How long a revocation is left alone before it is tried again: the timeout of a request.
const RETRY_US: u64 = 7_000_000;
/// A leader that is not one any more may answer renewals for two election timeouts, until it misses its
/// quorum; its successor gives every lease one election timeout more than its time.
const SLACK_US: u64 = TICK_US * ELECTION_TICKS as u64 * 12 / 10;

/// A client and its lease.
#[derive(Debug, Default)]
pub(crate) struct LeaseClient {
    lease: Option<i64>,
    ttl_seconds: i64,
    rounds: u64,
    asked: Option<Asked>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Grant(u64, i64),
    Clear(u64, i64, u64),
    Other(u64),
}

/// A lease as its holder knows it.
#[derive(Debug)]
struct Held {
    ttl_us: u64,
    /// When the leader last promised its whole time, and in which term; none for the grant.
    since_us: u64,
    by: Option<(usize, u64)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct LeaseBook {
    pub clients: Vec<LeaseClient>,
    next: i64,
    held: BTreeMap<i64, Held>,
    /// Revocations that a leader decided on: the lease, when, where, in which term.
    expiring: BTreeMap<u64, (i64, u64, usize, u64)>,
    /// Requests of which nobody heard what became of them, and their places in the history.
    pub unanswered: Vec<(u64, usize)>,
}

impl World {
    pub(crate) fn lease_client_moves(&mut self, client: usize) {
        if self.clients_rest() || self.book.clients[client].asked.is_some() {
            return;
        }
        let Some(place) = self.some_running() else {
            self.after(50_000, Event::LeaseClient(client));
            return;
        };
        let Some(lease) = self.book.clients[client].lease else {
            self.grant(place, client);
            return;
        };
        let held = &mut self.book.clients[client];
        if held.rounds == 0 {
            held.lease = None;
            let pause = self.rng.range(10_000, 1_000_000);
            if self.rng.per_mille(400) {
                let request = InternalRaftRequest {
                    lease_revoke: Some(LeaseRevokeRequest { id: lease }),
                    ..InternalRaftRequest::default()
                };
                self.ask(place, client, request, Asked::Other);
            } else {
                self.after(pause, Event::LeaseClient(client));
            }
            return;
        }
        held.rounds -= 1;
        let third_us = held.ttl_seconds as u64 * 1_000_000 / 3;
        if self.rng.per_mille(300) {
            let key = Bytes::from(format!("l{}", self.rng.range(0, 6)));
            let request = InternalRaftRequest {
                put: Some(PutRequest {
                    key,
                    value: Bytes::from(format!("v{lease}")),
                    lease: if self.rng.per_mille(850) { lease } else { 0 },
                    ..PutRequest::default()
                }),
                ..InternalRaftRequest::default()
            };
            self.ask(place, client, request, Asked::Other);
            return;
        }
        // Whoever is asked passes it on to the one it takes for the leader.
        let leader = self.members[place]
            .running
            .as_ref()
            .map_or(0, |running| running.status.leader());
        if let Some(leader) = self.place_of(leader)
            && (leader == place || !self.cut[place][leader])
        {
            let (delay, asked_us) = (self.delay(), self.now);
            self.after(
                delay,
                Event::Renew {
                    client,
                    place: leader,
                    lease,
                    asked_us,
                },
            );
        }
        let next = self.rng.range(third_us / 2, third_us);
        self.after(next, Event::LeaseClient(client));
    }

    fn ask(
        &mut self,
        place: usize,
        client: usize,
        request: InternalRaftRequest,
        asked: fn(u64) -> Asked,
    ) {
        let id = self.propose_as(place, Owner::Lease(client), request, None);
        self.book.clients[client].asked = Some(asked(id));
    }

    fn grant(&mut self, place: usize, client: usize) {
        let many = if self.rng.per_mille(60) { 40 } else { 1 };
        let ttl_seconds = self.rng.range(1, 9) as i64;
        for number in 0..many {
            self.book.next += 1;
            let lease = 1_000 + self.book.next;
            let request = InternalRaftRequest {
                lease_grant: Some(LeaseGrantRequest {
                    id: lease,
                    ttl: ttl_seconds,
                }),
                ..InternalRaftRequest::default()
            };
            if number > 0 {
                self.stats.count("leases in storms");
                self.propose_as(place, Owner::Member, request, None);
                continue;
            }
            let id = self.propose_as(place, Owner::Lease(client), request, None);
            let rounds = self.rng.range(0, 12);
            let held = &mut self.book.clients[client];
            held.asked = Some(Asked::Grant(id, lease));
            held.ttl_seconds = ttl_seconds.max(2);
            held.rounds = rounds;
        }
    }

    pub(crate) fn lease_client_heard(
        &mut self,
        client: usize,
        id: u64,
        _made_us: u64,
        answer: Option<&Answer>,
    ) {
        let ok = matches!(answer, Some(Ok(_)));
        match self.book.clients[client].asked {
            Some(Asked::Grant(asked, lease)) if asked == id => {
                self.book.clients[client].lease = ok.then_some(lease);
            }
            Some(Asked::Clear(asked, lease, since_us)) if asked == id => {
                if ok {
                    self.promised(lease, since_us);
                }
            }
            Some(Asked::Other(asked)) if asked == id => {}
            _ => return,
        }
        self.book.clients[client].asked = None;
        let pause = self.rng.range(1_000, 300_000);
        self.after(pause, Event::LeaseClient(client));
    }

    pub(crate) fn renewal_arrives(
        &mut self,
        client: usize,
        place: usize,
        lease: i64,
        asked_us: u64,
    ) {
        let paused = self.members[place].paused_until;
        if paused > self.now {
            let event = Event::Renew {
                client,
                place,
                lease,
                asked_us,
            };
            self.after(paused - self.now, event);
            return;
        }
        let now = self.instant(place);
        let Some(running) = &self.members[place].running else {
            return;
        };
        let tick = self.members[place].config.tick;
        if running.status.is_leader() && running.status.is_fresh(now, tick) {
            self.renew(client, place, lease, asked_us);
        } else if running.status.is_leader() {
            let id = self.request_id(place);
            self.reading.insert(
                id,
                Reading::Renewal {
                    client,
                    lease,
                    asked_us,
                },
            );
            self.linearizable(place, id);
        }
    }

    /// The leader is certain enough that it leads.
    pub(crate) fn renew(&mut self, client: usize, place: usize, lease: i64, asked_us: u64) {
        let now = self.instant(place);
        let Some(running) = &self.members[place].running else {
            return;
        };
        if !running.status.is_leader() {
            return;
        }
        let view = running.stages.apply.applier().lessor().view();
        match running.leases.try_renew(lease, now) {
            Attempt::Renewed(_) => {
                let noted = view
                    .lives(lease)
                    .is_some_and(|lives| lives.checkpoint_seconds > 0);
                let now_us = self.now;
                if !noted {
                    self.renewed_by(lease, place);
                    self.promised(lease, now_us);
                } else if self.book.clients[client].asked.is_none() {
                    self.renewed_by(lease, place);
                    let checkpoints = vec![LeaseCheckpoint {
                        id: lease,
                        remaining_ttl: 0,
                    }];
                    let request = InternalRaftRequest {
                        lease_checkpoint: Some(LeaseCheckpointRequest { checkpoints }),
                        ..InternalRaftRequest::default()
                    };
                    let id = self.propose_as(place, Owner::Lease(client), request, None);
                    self.book.clients[client].asked = Some(Asked::Clear(id, lease, now_us));
                }
            }
            // One that is over and not revoked yet cannot be told from one that is: no promise either way.
            Attempt::Over(_) | Attempt::NotPrimary | Attempt::NotFound => {
                self.stats.count("renewals refused");
                let _late = asked_us;
            }
        }
    }

    fn renewed_by(&mut self, lease: i64, place: usize) {
        let term = self.members[place]
            .running
            .as_ref()
            .map_or(0, |running| running.status.term());
        if let Some(held) = self.book.held.get_mut(&lease) {
            held.by = Some((place, term));
        }
    }

    /// A holder has been told that its lease has all its time from that moment on.
    fn promised(&mut self, lease: i64, since_us: u64) {
        self.stats.count("leases renewed");
        if let Some(held) = self.book.held.get_mut(&lease) {
            held.since_us = held.since_us.max(since_us);
        }
    }

    /// The log grants a lease.
    pub(crate) fn lease_begins(&mut self, lease: i64, ttl_seconds: i64) {
        self.stats.count("leases granted");
        let held = Held {
            ttl_us: ttl_seconds as u64 * 1_000_000,
            since_us: self.now,
            by: None,
        };
        self.book.held.insert(lease, held);
    }

    /// The log revokes a lease.
    pub(crate) fn lease_ends(&mut self, lease: i64, request: u64) {
        let held = self.book.held.remove(&lease);
        let (Some((of, decided_us, place, term)), Some(held)) =
            (self.book.expiring.remove(&request), held)
        else {
            self.stats.count("leases revoked");
            return;
        };
        self.stats.count("leases expired");
        let clock = &self.members[place].clock;
        // What is left of a lease may have been noted by leaders before, by their own clocks.
        let noted = self.plan.checkpoints;
        let leapt = (self.members.iter().enumerate())
            .filter(|(of, _)| noted || *of == place)
            .map(|(_, member)| member.clock.leapt_since(held.since_us))
            .sum();
        let needs = clock.world(held.ttl_us.saturating_sub(leapt));
        let slack = match held.by {
            _ if noted => SLACK_US + held.ttl_us / 10,
            Some(by) if by != (place, term) => SLACK_US + held.ttl_us / 10,
            _ => 2_000,
        };
        if of != lease || decided_us + slack < held.since_us + needs {
            self.fail(format!(
                "lease {lease} of {} us was judged over at {decided_us} us by {place} in term {term}, promised at {} us by {:?}",
                held.ttl_us, held.since_us, held.by
            ));
        }
    }

    pub(crate) fn lease_pass(&mut self, place: usize, life: u64) {
        if !self.lives(place, life) {
            return;
        }
        let paused = self.members[place].paused_until;
        if paused > self.now {
            self.after(paused - self.now, Event::LeasePass(place, life));
            return;
        }
        let pause = PASS_INTERVAL.as_micros() as u64;
        let pause = self.members[place].clock.world(pause);
        self.after(pause, Event::LeasePass(place, life));
        let now = self.instant(place);
        let under_way = self
            .reading
            .values()
            .any(|reading| matches!(reading, Reading::LeasePass { place: of, .. } if *of == place));
        let Some(running) = &self.members[place].running else {
            return;
        };
        running.leases.demote_if_over();
        let Some(term) = running.leases.judges_in() else {
            return;
        };
        if under_way || running.leases.next_due().is_none_or(|due| due > now) {
            return;
        }
        if mutation!("expire-when-deposed") {
            self.confirmed(place, life, term);
            return;
        }
        let id = self.request_id(place);
        self.reading
            .insert(id, Reading::LeasePass { place, life, term });
        self.linearizable(place, id);
    }

    /// A quorum has confirmed the leader: it revokes what is over, and notes what is left of the others.
    pub(crate) fn confirmed(&mut self, place: usize, life: u64, term: u64) {
        if !self.lives(place, life) {
            return;
        }
        let now = self.instant(place);
        let Some(running) = &self.members[place].running else {
            return;
        };
        let leases = std::sync::Arc::clone(&running.leases);
        let auth = running.stages.apply.applier().auth().view().clone();
        let unconfirmed = mutation!("expire-when-deposed");
        if !unconfirmed && !leases.leads_in(Some(term)) {
            return;
        }
        let retry = now + std::time::Duration::from_micros(RETRY_US);
        for lease in leases.take_expired(now, retry) {
            let id = self.request_id(place);
            let decided = (lease, self.now, place, term);
            self.book.expiring.insert(id, decided);
            let request = InternalRaftRequest {
                header: Some(own_header(id, &auth)),
                ..revocation(lease)
            };
            let data = Bytes::from(request.encode_to_vec());
            let proposal = Proposal { id, data };
            let input = if unconfirmed {
                Input::Propose(proposal)
            } else {
                Input::ProposeInTerm { term, proposal }
            };
            self.push_raft(place, input);
        }
        let (checkpoints, _more) = leases.take_notes(now);
        if !checkpoints.is_empty() {
            self.stats.count("notes of remaining times");
            let id = self.request_id(place);
            let request = InternalRaftRequest {
                header: Some(own_header(id, &auth)),
                lease_checkpoint: Some(LeaseCheckpointRequest { checkpoints }),
                ..InternalRaftRequest::default()
            };
            let data = Bytes::from(request.encode_to_vec());
            let proposal = Proposal { id, data };
            self.push_raft(place, Input::ProposeInTerm { term, proposal });
        }
    }
}
