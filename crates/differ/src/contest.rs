//! Locks and campaigns of a pair: calls that may have to wait for others.
//!
//! A call whose turn has not come is left waiting on both servers while the sequence goes on; after
//! each step those whose turn has come are collected and compared. Who has to wait is read from the
//! keys, on each server by itself. Every contender has a lease of its own: one that a server picks
//! would be in its key, and the two stores would no longer be the same.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ferrite_client::pb;
use ferrite_client::pb::range_request::{SortOrder, SortTarget};
use ferrite_proto::mvccpb::KeyValue;
use tokio::task::JoinHandle;

use crate::answer::Answer;
use crate::ask::said;
use crate::pair::Pair;
use crate::side::{CALL, Side};
use crate::step::{Call, ROOT, Step};

/// Between two looks at what a server has done.
const LOOK: Duration = Duration::from_millis(2);

/// A call that waits on both servers.
#[derive(Debug)]
pub(crate) struct Waiter {
    client: usize,
    key: Bytes,
    prefix: Bytes,
    /// The revision at which its key was created.
    since: i64,
    ours: JoinHandle<Answer>,
    theirs: JoinHandle<Answer>,
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.ours.abort();
        self.theirs.abort();
    }
}

/// What a contender asks for.
struct Bid {
    prefix: Bytes,
    lease: i64,
    /// What its key holds while it waits, if that is known.
    value: Option<Bytes>,
}

impl Bid {
    fn of(call: &Call) -> Option<Self> {
        let (name, lease, value) = match call {
            Call::Lock(request) => (&request.name, request.lease, None),
            Call::Campaign(request) => (&request.name, request.lease, Some(request.value.clone())),
            _ => return None,
        };
        Some(Self {
            prefix: prefix(name),
            lease,
            value,
        })
    }

    fn key(&self) -> Bytes {
        let sign = if self.lease < 0 { "-" } else { "" };
        let lease = format!("{sign}{:x}", self.lease.unsigned_abs());
        [&self.prefix, lease.as_bytes()].concat().into()
    }
}

fn prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// All keys of a name, oldest first.
fn line(prefix: &Bytes) -> pb::RangeRequest {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    pb::RangeRequest {
        key: prefix.clone(),
        range_end: end.into(),
        sort_order: SortOrder::Ascend as i32,
        sort_target: SortTarget::Create as i32,
        ..Default::default()
    }
}

impl Side {
    /// Sends a lock or a campaign without waiting for its answer.
    fn begin(&self, client: usize, call: Call) -> JoinHandle<Answer> {
        let client = self.clients[client].clone();
        tokio::spawn(async move {
            match call {
                Call::Lock(request) => {
                    let mut request = tonic::Request::new(request);
                    request.set_timeout(CALL);
                    said(client.lock().lock(request), Answer::Locked).await
                }
                Call::Campaign(request) => {
                    let mut request = tonic::Request::new(request);
                    request.set_timeout(CALL);
                    said(client.election().campaign(request), Answer::Elected).await
                }
                _ => Answer::Nothing,
            }
        })
    }

    /// The keys of a name on this server, oldest first.
    async fn in_line(&self, prefix: &Bytes) -> Vec<KeyValue> {
        let request = line(prefix);
        self.clients[ROOT]
            .kv()
            .range(request)
            .await
            .map(|response| response.into_inner().kvs)
            .unwrap_or_default()
    }

    /// Since when the contender waits: its key is there, and not the oldest.
    async fn waits(&self, bid: &Bid, key: &Bytes) -> Option<i64> {
        let kvs = self.in_line(&bid.prefix).await;
        let at = kvs.iter().position(|kv| kv.key == *key)?;
        let own = &kvs[at];
        let entered = bid.value.as_ref().is_none_or(|value| own.value == *value);
        (at > 0 && entered).then_some(own.create_revision)
    }
}

impl Pair {
    /// A lock or a campaign.
    pub(crate) async fn contend(&mut self, step: &Step) -> (Answer, Answer) {
        let Some(bid) = Bid::of(&step.call) else {
            return (Answer::Nothing, Answer::Nothing);
        };
        let key = bid.key();
        // Its twin waits under the same key; who of them is when done cannot be seen.
        if self.waiters.iter().any(|waiter| waiter.key == key) {
            return (Answer::Nothing, Answer::Nothing);
        }
        self.asked += 1;
        let mut ours = self.ours.begin(step.client, step.call.clone());
        let mut theirs = self.theirs.begin(step.client, step.call.clone());
        let since = Instant::now();
        loop {
            tokio::time::sleep(LOOK).await;
            if ours.is_finished() && theirs.is_finished() {
                let (ours, theirs) = tokio::join!(answer(&mut ours), answer(&mut theirs));
                return self.decided(step.client, ours, theirs);
            }
            let (our, their) =
                tokio::join!(self.ours.waits(&bid, &key), self.theirs.waits(&bid, &key));
            if let (Some(our), Some(their)) = (our, their)
                && !ours.is_finished()
                && !theirs.is_finished()
            {
                self.waiters.push(Waiter {
                    client: step.client,
                    key,
                    prefix: bid.prefix.clone(),
                    since: their,
                    ours,
                    theirs,
                });
                if our != their {
                    let waits = |at: i64| Answer::Heard(vec![format!("waits since {at}")]);
                    return (waits(our), waits(their));
                }
                return self.ask_line(&bid.prefix).await;
            }
            if since.elapsed() > self.patience {
                return tokio::join!(so_far(&mut ours), so_far(&mut theirs));
            }
        }
    }

    /// Answers that came, made comparable and remembered.
    fn decided(&mut self, client: usize, ours: Answer, theirs: Answer) -> (Answer, Answer) {
        for (side, answer) in [(&mut self.ours, &ours), (&mut self.theirs, &theirs)] {
            if let Answer::Elected(response) = answer {
                side.claims[client].clone_from(&response.leader);
            }
        }
        let (mut ours, mut theirs) = (ours.level(), theirs.level());
        self.settle(&Call::GiveUp, &mut ours, &mut theirs);
        (ours, theirs)
    }

    /// Collects every call whose turn has come; the first that is answered differently, if one is.
    pub(crate) async fn turns(&mut self) -> Option<(Answer, Answer)> {
        let mut at = 0;
        while at < self.waiters.len() {
            let (prefix, since) = (self.waiters[at].prefix.clone(), self.waiters[at].since);
            let ahead = self.ask_line(&prefix).await;
            if ahead.0 != ahead.1 {
                return Some(ahead);
            }
            let blocked = match &ahead.1 {
                Answer::Range(range) => range.kvs.iter().any(|kv| kv.create_revision < since),
                _ => true,
            };
            if blocked {
                at += 1;
                continue;
            }
            let mut waiter = self.waiters.remove(at);
            let began = Instant::now();
            while !(waiter.ours.is_finished() && waiter.theirs.is_finished())
                && began.elapsed() < self.patience
            {
                tokio::time::sleep(LOOK).await;
            }
            let (ours, theirs) = tokio::join!(so_far(&mut waiter.ours), so_far(&mut waiter.theirs));
            let answers = self.decided(waiter.client, ours, theirs);
            if answers.0 != answers.1 {
                return Some(answers);
            }
            // What it did on its way out may make it another's turn.
            at = 0;
        }
        None
    }

    /// The caller that waits longest goes away; the servers take its key back.
    pub(crate) async fn give_up(&mut self) -> (Answer, Answer) {
        let Some(first) = self.waiters.first() else {
            return (Answer::Nothing, Answer::Nothing);
        };
        let (key, prefix, since) = (first.key.clone(), first.prefix.clone(), first.since);
        let own = |kvs: &[KeyValue]| {
            kvs.iter()
                .any(|kv| kv.key == key && kv.create_revision == since)
        };
        // Without its key nothing shows when the servers have noticed.
        if !own(&self.ours.in_line(&prefix).await) || !own(&self.theirs.in_line(&prefix).await) {
            return (Answer::Nothing, Answer::Nothing);
        }
        drop(self.waiters.remove(0));
        let began = Instant::now();
        while began.elapsed() < self.patience {
            let (ours, theirs) =
                tokio::join!(self.ours.in_line(&prefix), self.theirs.in_line(&prefix));
            if !own(&ours) && !own(&theirs) {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        self.ask_line(&prefix).await
    }

    /// What an observer hears first: only where there is a leader, else it waits.
    pub(crate) async fn observe(&mut self, step: &Step) -> (Answer, Answer) {
        let Call::Observe(request) = &step.call else {
            return (Answer::Nothing, Answer::Nothing);
        };
        let ahead = self.ask_line(&prefix(&request.name)).await;
        if ahead.0 == ahead.1 && holds(&ahead.1) {
            return self.both(step).await;
        }
        ahead
    }

    async fn ask_line(&mut self, prefix: &Bytes) -> (Answer, Answer) {
        let step = Step {
            client: ROOT,
            call: Call::Range(line(prefix)),
        };
        self.both(&step).await
    }
}

fn holds(line: &Answer) -> bool {
    matches!(line, Answer::Range(range) if !range.kvs.is_empty())
}

async fn answer(task: &mut JoinHandle<Answer>) -> Answer {
    task.await.unwrap_or(Answer::Silent)
}

/// The answer if it is there.
async fn so_far(task: &mut JoinHandle<Answer>) -> Answer {
    match task.is_finished() {
        true => answer(task).await,
        false => Answer::Silent,
    }
}
