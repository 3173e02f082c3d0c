//! Keys that a proxy owns, and answers for itself: `--experimental-leasing-prefix`.
//!
//! A key is owned by whoever has made its leasing key, which is the key behind the prefix, on a lease of
//! its own. Who reads a key that nobody owns acquires it; from then on it answers reads itself. Who writes
//! a key does it in a transaction that fails while somebody else owns the key. Then it writes `REVOKE` to the
//! leasing key, and waits until the owner, who watches, has forgotten the key and deleted that. All proxies
//! with the same prefix keep to it, the original's too; whoever writes without them is not heard of.
//!
//! With a token, members answer: who may read what is theirs to know. `table` decides, `local` works
//! answers out, `upkeep` keeps ownership true; here is what a call does.

mod local;
mod table;
mod upkeep;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use ferrite_client::pb::compare::{CompareResult, CompareTarget, TargetUnion};
use ferrite_client::pb::request_op::Request;
use ferrite_client::pb::response_op::Response;
use ferrite_client::{Client, pb};
use ferrite_proto::mvccpb::KeyValue;
use tokio::sync::{Notify, oneshot, watch};
use tonic::Status;

use crate::call::{self, Answer, Answering, Ask, Caller, Kv, SharedKv};
use crate::namespace::Namespace;
use table::{Found, REVOKE, Range, Table};

/// How long an owner is waited for before it is asked once more.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Owners that are asked at once: far fewer than a transaction may have operations.
const REVOCATIONS: usize = 32;
/// Operations that a member takes in one transaction, if it was not told otherwise.
const OPERATIONS_MAX: usize = 128;
/// Owned keys of which a transaction reads back what it made of them; with more they are given up.
const READ_BACK_MAX: usize = 16;

/// What all calls have in common.
struct Shared {
    /// What leasing keys begin with, as clients name keys.
    prefix: Bytes,
    table: Mutex<Table>,
    /// Who waits for a leasing key to be deleted.
    waiting: Mutex<HashMap<Bytes, Vec<oneshot::Sender<()>>>>,
    /// There is something to release.
    release: Notify,
    /// The session is of no use any more.
    give_up: Notify,
    /// There has been a session.
    begun: watch::Sender<bool>,
}

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Bytes, Vec<oneshot::Sender<()>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leasing_key(&self, key: &[u8]) -> Bytes {
        let mut whole = BytesMut::with_capacity(self.prefix.len() + key.len());
        whole.extend_from_slice(&self.prefix);
        whole.extend_from_slice(key);
        whole.freeze()
    }

    fn lose(&self) {
        self.table().lose();
    }

    /// Nothing is owned any more, and another session begins.
    fn end_session(&self) {
        self.lose();
        self.give_up.notify_one();
    }

    /// A leasing key is deleted.
    fn wake(&self, key: &[u8]) {
        let all = self.waiting().remove(key).unwrap_or_default();
        for one in all {
            let _gone = one.send(());
        }
    }

    fn wake_all(&self) {
        self.waiting().clear();
    }

    /// Waits for a leasing key's end, from now on.
    fn wait_for(self: &Arc<Self>, key: &Bytes) -> Waiting {
        let (tell, told) = oneshot::channel();
        self.waiting().entry(key.clone()).or_default().push(tell);
        Waiting {
            shared: Arc::clone(self),
            key: key.clone(),
            told,
        }
    }
}

/// One who waits for a leasing key's end.
struct Waiting {
    shared: Arc<Shared>,
    key: Bytes,
    told: oneshot::Receiver<()>,
}

impl Waiting {
    /// Until it is deleted, or might be.
    async fn over(mut self) {
        let _late = tokio::time::timeout(ASK_AGAIN, &mut self.told).await;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.told.close();
        let mut waiting = self.shared.waiting();
        if let Some(all) = waiting.get_mut(&self.key) {
            all.retain(|one| !one.is_closed());
            if all.is_empty() {
                waiting.remove(&self.key);
            }
        }
    }
}

/// A key that is being acquired, until it is known what came of it.
struct Acquisition<'a> {
    shared: &'a Shared,
    key: Bytes,
    number: u64,
}

impl Acquisition<'_> {
    fn made(self, header: pb::ResponseHeader, pair: Option<KeyValue>) {
        let mut table = self.shared.table();
        table.acquired(&self.key, self.number, header, pair, Instant::now());
        drop(table);
        self.shared.release.notify_one();
    }
}

impl Drop for Acquisition<'_> {
    fn drop(&mut self) {
        // Of one that was made there is nothing left to say.
        let _settled = self.shared.table().not_acquired(&self.key, self.number);
    }
}

/// A write that is under way. Dropped before its end, nobody knows what it did.
struct Write<'a> {
    shared: &'a Shared,
    ranges: Vec<Range>,
    settled: bool,
}

impl<'a> Write<'a> {
    fn begin(shared: &'a Shared, ranges: Vec<Range>) -> Self {
        let ranges = shared.table().begin(ranges, Instant::now());
        Write {
            shared,
            ranges,
            settled: false,
        }
    }

    /// It did what these say of owned keys.
    fn did(mut self, header: pb::ResponseHeader, known: Vec<(Bytes, i64, Option<KeyValue>)>) {
        let now = Instant::now();
        let mut table = self.shared.table();
        for (key, created, pair) in known {
            table.settle(&key, created, header, pair, now);
        }
        drop(table);
        self.settled = true;
    }

    /// It certainly did nothing.
    fn did_nothing(mut self) {
        self.settled = true;
    }
}

impl Drop for Write<'_> {
    fn drop(&mut self) {
        let mut table = self.shared.table();
        if !self.settled {
            table.doubt(&self.ranges, Instant::now());
        }
        table.end(&self.ranges);
        drop(table);
        self.shared.release.notify_one();
    }
}

/// A store of which some keys are owned.
pub struct Leased {
    kv: SharedKv,
    client: Client,
    shared: Arc<Shared>,
}

/// A comparison that holds where a key was made before a revision, and where it is not there.
fn created_before(key: Bytes, range_end: Bytes, revision: i64) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Less as i32,
        target: CompareTarget::Create as i32,
        key,
        range_end,
        target_union: Some(TargetUnion::CreateRevision(revision)),
    }
}

fn equals(target: CompareTarget, key: Bytes, value: TargetUnion) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Equal as i32,
        target: target as i32,
        key,
        target_union: Some(value),
        ..Default::default()
    }
}

fn operation(request: Request) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

fn transaction(compare: Vec<pb::Compare>, success: Vec<pb::RequestOp>) -> pb::TxnRequest {
    pb::TxnRequest {
        compare,
        success,
        failure: Vec::new(),
    }
}

fn get(key: Bytes, keys_only: bool) -> pb::RequestOp {
    let range = pb::RangeRequest {
        key,
        keys_only,
        ..Default::default()
    };
    operation(Request::RequestRange(range))
}

/// What asks an owner to give its key up. The leasing key stays on its lease.
fn revocation(key: Bytes) -> pb::RequestOp {
    let put = pb::PutRequest {
        key,
        value: Bytes::from_static(REVOKE),
        ignore_lease: true,
        ..Default::default()
    };
    operation(Request::RequestPut(put))
}

/// A member that answered with another kind than was asked for.
fn confused() -> Status {
    Status::internal("the answer is none to what was asked")
}

/// The pairs of one part of a transaction's answer.
fn pairs(response: Option<pb::ResponseOp>) -> Result<Vec<KeyValue>, Status> {
    match response.and_then(|response| response.response) {
        Some(Response::ResponseRange(range)) => Ok(range.kvs),
        _ => Err(confused()),
    }
}

/// Everything that a transaction may write.
fn writes(operations: &[pb::RequestOp], found: &mut Vec<Range>) {
    for operation in operations {
        match &operation.request {
            Some(Request::RequestPut(put)) => found.push((put.key.clone(), Bytes::new())),
            Some(Request::RequestDeleteRange(delete)) => {
                found.push((delete.key.clone(), delete.range_end.clone()));
            }
            Some(Request::RequestTxn(txn)) => {
                writes(&txn.success, found);
                writes(&txn.failure, found);
            }
            Some(Request::RequestRange(_)) | None => {}
        }
    }
}

/// How many operations a member counts in a transaction: those of its largest way through, at every depth.
fn depth(txn: &pb::TxnRequest) -> usize {
    let own = txn
        .compare
        .len()
        .max(txn.success.len())
        .max(txn.failure.len());
    let operations = txn.success.iter().chain(&txn.failure);
    let below = operations.filter_map(|operation| match &operation.request {
        Some(Request::RequestTxn(txn)) => Some(depth(txn)),
        _ => None,
    });
    own + below.max().unwrap_or(0)
}

/// Each once; where they are too many, one range that holds them all.
fn tidy(mut ranges: Vec<Range>, most: usize) -> Vec<Range> {
    ranges.sort();
    ranges.dedup();
    if ranges.len() <= most.max(1) {
        return ranges;
    }
    let open = ranges.iter().any(|range| range.1[..] == *b"\0");
    let last = ranges.iter().map(|(key, end)| match &end[..] {
        b"" => [key, &b"\0"[..]].concat(),
        end => end.to_vec(),
    });
    let end = match open {
        true => Some(b"\0".to_vec()),
        false => last.max(),
    };
    let first = ranges.first().map(|range| range.0.clone());
    first
        .zip(end)
        .map(|(first, end)| (first, end.into()))
        .into_iter()
        .collect()
}

impl Leased {
    /// Over this store, which shows the keys below `names`. It waits until there is a session, as the
    /// original does.
    pub async fn start(client: Client, kv: SharedKv, names: &Namespace, prefix: &str) -> Self {
        let shared = Arc::new(Shared {
            prefix: Bytes::copy_from_slice(prefix.as_bytes()),
            table: Mutex::new(Table::new(prefix.as_bytes())),
            waiting: Mutex::default(),
            release: Notify::new(),
            give_up: Notify::new(),
            begun: watch::Sender::new(false),
        });
        let below = names.below(prefix.as_bytes());
        let mut begun = shared.begun.subscribe();
        tokio::spawn(upkeep::hear(Arc::clone(&shared), client.clone(), below));
        tokio::spawn(upkeep::sessions(Arc::clone(&shared), client.clone()));
        tokio::spawn(upkeep::release(Arc::clone(&shared), Arc::clone(&kv)));
        // The sender is in what is returned.
        let _begun = begun.wait_for(|begun| *begun).await.map(drop);
        Leased { kv, client, shared }
    }

    /// Gives everything back.
    pub async fn leave(&self) {
        upkeep::leave(&self.shared, &self.client).await;
    }

    async fn read(
        &self,
        caller: &Caller,
        request: pb::RangeRequest,
    ) -> Result<pb::RangeResponse, Status> {
        if !caller.token().is_empty() || !local::is_simple(&request) {
            return call::range(&*self.kv, caller, request).await;
        }
        let found = self.shared.table().read(&request, Instant::now());
        match found {
            Found::Answer(answer) => Ok(answer),
            Found::Ask => call::range(&*self.kv, caller, request).await,
            Found::Acquire(lease, number) => {
                match self.acquire(caller, &request, lease, number).await {
                    Ok(answer) => Ok(answer),
                    // Who cannot own a key can read it.
                    Err(status) => {
                        if upkeep::ends_session(&status) {
                            self.shared.end_session();
                        }
                        call::range(&*self.kv, caller, request).await
                    }
                }
            }
        }
    }

    /// Reads a key and makes its leasing key, if there is none, and if it will not go with somebody's lease.
    async fn acquire(
        &self,
        caller: &Caller,
        request: &pb::RangeRequest,
        lease: i64,
        number: u64,
    ) -> Result<pb::RangeResponse, Status> {
        let acquisition = Acquisition {
            shared: &self.shared,
            key: request.key.clone(),
            number,
        };
        let key = request.key.clone();
        let leasing = self.shared.leasing_key(&key);
        let own = pb::PutRequest {
            key: leasing.clone(),
            lease,
            ..Default::default()
        };
        let txn = pb::TxnRequest {
            compare: vec![
                equals(
                    CompareTarget::Create,
                    leasing.clone(),
                    TargetUnion::CreateRevision(0),
                ),
                equals(CompareTarget::Lease, key.clone(), TargetUnion::Lease(0)),
            ],
            success: vec![get(key.clone(), false), operation(Request::RequestPut(own))],
            failure: vec![get(key.clone(), false), get(leasing, false)],
        };
        let answer = call::txn(&*self.kv, caller, txn).await?;
        let header = answer.header.unwrap_or_default();
        let mut responses = answer.responses.into_iter();
        let pair = pairs(responses.next())?.into_iter().next();
        let shown = local::answer(request, header, pair.as_ref());
        if answer.succeeded {
            acquisition.made(header, pair);
            return Ok(shown);
        }
        // One that this proxy made and has lost sight of says nothing of what came after it.
        let found = pairs(responses.next())?.into_iter().next();
        if let Some(found) = found.filter(|found| found.lease == lease) {
            self.shared.table().release(&key, found.create_revision);
            self.shared.release.notify_one();
        }
        Ok(shown)
    }

    /// One operation that writes one key, in a transaction of its own.
    async fn write_key(
        &self,
        caller: &Caller,
        key: &Bytes,
        request: Request,
    ) -> Result<(Response, pb::ResponseHeader), Status> {
        let leasing = self.shared.leasing_key(key);
        loop {
            let write = Write::begin(&self.shared, vec![(key.clone(), Bytes::new())]);
            let created = self.shared.table().created(key);
            let waiting = self.shared.wait_for(key);
            let mut success = vec![operation(request.clone())];
            let read_back = created != 0 && caller.token().is_empty();
            if read_back {
                success.push(get(key.clone(), true));
            }
            let txn = pb::TxnRequest {
                compare: vec![created_before(leasing.clone(), Bytes::new(), created + 1)],
                success,
                failure: vec![revocation(leasing.clone())],
            };
            let answer = call::txn(&*self.kv, caller, txn).await?;
            if !answer.succeeded {
                // What was owned, if anything was, is somebody else's.
                if created == 0 {
                    write.did_nothing();
                } else {
                    drop(write);
                }
                waiting.over().await;
                continue;
            }
            let header = answer.header.unwrap_or_default();
            let mut responses = answer.responses.into_iter();
            let first = responses.next().and_then(|response| response.response);
            let first = first.ok_or_else(confused)?;
            let mut known = Vec::new();
            if created != 0 && !read_back {
                // Dropped, it takes the key with it.
                drop(write);
                return Ok((first, header));
            }
            if read_back {
                let pair = pairs(responses.next())?.into_iter().next();
                let value = match &request {
                    Request::RequestPut(put) if !put.ignore_value => Some(put.value.clone()),
                    _ => None,
                };
                match (pair, value) {
                    (Some(pair), Some(value)) => {
                        known.push((key.clone(), created, Some(KeyValue { value, ..pair })));
                    }
                    (None, _) => known.push((key.clone(), created, None)),
                    // The value is the one before, which is not looked for.
                    (Some(_), None) => {
                        drop(write);
                        return Ok((first, header));
                    }
                }
            }
            write.did(header, known);
            return Ok((first, header));
        }
    }

    /// One operation that writes, or may write, in several places.
    async fn write_ranges(
        &self,
        caller: &Caller,
        ranges: Vec<Range>,
        request: Request,
        operations: usize,
    ) -> Result<(Response, pb::ResponseHeader), Status> {
        // Comparisons count as operations. Where they are too many for all keys, they are of a range.
        let room = OPERATIONS_MAX.saturating_sub(operations);
        let ranges = tidy(ranges, room);
        loop {
            let write = Write::begin(&self.shared, ranges.clone());
            let mut compare = Vec::with_capacity(ranges.len());
            let mut others = Vec::new();
            for range in &ranges {
                let leasing = self.shared.leasing_key(&range.0);
                if range.1.is_empty() {
                    let created = self.shared.table().created(&range.0);
                    compare.push(created_before(leasing, Bytes::new(), created + 1));
                    continue;
                }
                let end = self.leasing_end(&range.1);
                let found = self.survey(caller, leasing.clone(), end.clone()).await?;
                compare.push(created_before(leasing, end, found.newest + 1));
                others.extend(found.others);
            }
            if !others.is_empty() {
                write.did_nothing();
                self.revoke(caller, &others).await?;
                continue;
            }
            let owned = self.shared.table().owned_in(&write.ranges);
            let mut success = vec![operation(request.clone())];
            let deletes = matches!(request, Request::RequestDeleteRange(_));
            let read_back = !deletes
                && caller.token().is_empty()
                && owned.len() < compare.len().max(READ_BACK_MAX).min(room);
            if read_back {
                success.extend(owned.iter().map(|(key, _)| get(key.clone(), false)));
            }
            let txn = transaction(compare, success);
            let answer = call::txn(&*self.kv, caller, txn).await?;
            if !answer.succeeded {
                write.did_nothing();
                let mut others = Vec::new();
                for range in ranges.iter().filter(|range| range.1.is_empty()) {
                    let leasing = self.shared.leasing_key(&range.0);
                    let found = self.survey(caller, leasing, Bytes::new()).await?;
                    others.extend(found.others);
                }
                self.revoke(caller, &others).await?;
                continue;
            }
            let header = answer.header.unwrap_or_default();
            let mut responses = answer.responses.into_iter();
            let first = responses.next().and_then(|response| response.response);
            let first = first.ok_or_else(confused)?;
            if !deletes && !read_back && !owned.is_empty() {
                // Dropped, it takes with it what it may have changed.
                drop(write);
                return Ok((first, header));
            }
            let mut known = Vec::with_capacity(owned.len());
            for (key, created) in owned {
                let pair = match deletes {
                    true => None,
                    false => pairs(responses.next())?.into_iter().next(),
                };
                known.push((key, created, pair));
            }
            write.did(header, known);
            return Ok((first, header));
        }
    }

    /// The end of the leasing keys of a range.
    fn leasing_end(&self, end: &[u8]) -> Bytes {
        match end {
            // Open is open to the end of the prefix.
            b"\0" => Namespace::of(&self.shared.prefix).end(end),
            end => self.shared.leasing_key(end),
        }
    }

    /// The leasing keys in a range of them.
    async fn survey(
        &self,
        caller: &Caller,
        key: Bytes,
        range_end: Bytes,
    ) -> Result<Survey, Status> {
        let request = pb::RangeRequest {
            key,
            range_end,
            keys_only: true,
            ..Default::default()
        };
        let answer = call::range(&*self.kv, caller, request).await?;
        let now = Instant::now();
        let mut table = self.shared.table();
        let mut found = Survey::default();
        for pair in answer.kvs {
            let key = pair
                .key
                .slice(self.shared.prefix.len().min(pair.key.len())..);
            if table.is_owned_since(&key, pair.create_revision, now) {
                found.newest = found.newest.max(pair.create_revision);
            } else {
                found.others.push((key, pair.create_revision));
            }
        }
        Ok(found)
    }

    /// Asks owners to give up these keys, and waits until they may have done it.
    async fn revoke(&self, caller: &Caller, others: &[(Bytes, i64)]) -> Result<(), Status> {
        for some in others.chunks(REVOCATIONS) {
            let waiting: Vec<Waiting> = some
                .iter()
                .map(|(key, _)| self.shared.wait_for(key))
                .collect();
            let each = some.iter().map(|(key, created)| {
                let key = self.shared.leasing_key(key);
                let still = equals(
                    CompareTarget::Create,
                    key.clone(),
                    TargetUnion::CreateRevision(*created),
                );
                operation(Request::RequestTxn(transaction(
                    vec![still],
                    vec![revocation(key)],
                )))
            });
            let txn = transaction(Vec::new(), each.collect());
            call::txn(&*self.kv, caller, txn).await?;
            let all = async {
                for one in waiting {
                    one.over().await;
                }
            };
            let _late = tokio::time::timeout(ASK_AGAIN, all).await;
        }
        Ok(())
    }

    async fn put(
        &self,
        caller: &Caller,
        request: pb::PutRequest,
    ) -> Result<pb::PutResponse, Status> {
        let key = request.key.clone();
        let (response, header) = self
            .write_key(caller, &key, Request::RequestPut(request))
            .await?;
        match response {
            Response::ResponsePut(mut answer) => {
                answer.header = Some(header);
                Ok(answer)
            }
            _ => Err(confused()),
        }
    }

    async fn delete(
        &self,
        caller: &Caller,
        request: pb::DeleteRangeRequest,
    ) -> Result<pb::DeleteRangeResponse, Status> {
        let range = (request.key.clone(), request.range_end.clone());
        let operation = Request::RequestDeleteRange(request);
        let (response, header) = match range.1.is_empty() {
            true => self.write_key(caller, &range.0, operation).await?,
            false => self.write_ranges(caller, vec![range], operation, 1).await?,
        };
        match response {
            Response::ResponseDeleteRange(mut answer) => {
                answer.header = Some(header);
                Ok(answer)
            }
            _ => Err(confused()),
        }
    }

    async fn txn(
        &self,
        caller: &Caller,
        request: pb::TxnRequest,
    ) -> Result<pb::TxnResponse, Status> {
        let mut ranges = Vec::new();
        writes(&request.success, &mut ranges);
        writes(&request.failure, &mut ranges);
        if ranges.is_empty() {
            let known = match caller.token().is_empty() {
                true => self.shared.table().transact(&request, Instant::now()),
                false => None,
            };
            return match known {
                Some(answer) => Ok(answer),
                None => call::txn(&*self.kv, caller, request).await,
            };
        }
        let operations = depth(&request);
        let operation = Request::RequestTxn(request);
        let (response, header) = self
            .write_ranges(caller, ranges, operation, operations)
            .await?;
        match response {
            Response::ResponseTxn(mut answer) => {
                answer.header = Some(header);
                Ok(answer)
            }
            _ => Err(confused()),
        }
    }
}

/// The leasing keys in a range.
#[derive(Debug, Default)]
struct Survey {
    /// The newest revision that made one of this proxy's.
    newest: i64,
    /// The keys that are not this proxy's, and the revisions that made their leasing keys.
    others: Vec<(Bytes, i64)>,
}

impl Kv for Leased {
    fn ask<'a>(&'a self, caller: &'a Caller, ask: Ask) -> Answering<'a, Answer> {
        Box::pin(async move {
            match ask {
                Ask::Range(request) => self.read(caller, request).await.map(Answer::Range),
                Ask::Put(request) => self.put(caller, request).await.map(Answer::Put),
                Ask::Delete(request) => self.delete(caller, request).await.map(Answer::Delete),
                Ask::Txn(request) => self.txn(caller, request).await.map(Answer::Txn),
                Ask::Compact(_) => self.kv.ask(caller, ask).await,
            }
        })
    }
}
