//! Random requests against a naive model, on two members that commit, compact and restart at
//! different moments. A failure prints its seed; `MVCC_SEED=n` replays it.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use common::Member;
use ferrite_mvcc::kv::{self, RequestError};
use ferrite_mvcc::{Changes, Error, EventKind, RestoreOptions};
use ferrite_proto::etcdserverpb::compare::TargetUnion;
use ferrite_proto::etcdserverpb::request_op::Request;
use ferrite_proto::etcdserverpb::response_op::Response;
use ferrite_proto::etcdserverpb::*;
use ferrite_proto::mvccpb::KeyValue;

/// A small generator of its own: the same everywhere.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

#[derive(Default)]
struct Model {
    /// Every change ever made; a version of 0 is a deletion.
    log: Vec<KeyValue>,
    current: i64,
    compacted: i64,
    granted: BTreeSet<i64>,
    attached: BTreeMap<Vec<u8>, i64>,
}

type Live = BTreeMap<Vec<u8>, KeyValue>;
type Refused<T> = Result<T, RequestError>;

impl Model {
    fn new() -> Self {
        Self {
            current: 1,
            compacted: -1,
            ..Self::default()
        }
    }

    fn live_at(&self, revision: i64) -> Live {
        let mut live = Live::new();
        for kv in self.log.iter().filter(|kv| kv.mod_revision <= revision) {
            if kv.version == 0 {
                live.remove(&kv.key[..]);
            } else {
                live.insert(kv.key.to_vec(), kv.clone());
            }
        }
        live
    }

    fn in_range(live: &Live, key: &[u8], end: &[u8]) -> Vec<KeyValue> {
        live.values()
            .filter(|kv| match end {
                [] => kv.key == key,
                [0] => &kv.key[..] >= key,
                end => &kv.key[..] >= key && &kv.key[..] < end,
            })
            .cloned()
            .collect()
    }

    fn range(&self, r: &RangeRequest, current: i64) -> Refused<RangeResponse> {
        if r.revision > current {
            return Err(RequestError::FutureRevision);
        }
        let at = if r.revision <= 0 { current } else { r.revision };
        if at < self.compacted {
            return Err(RequestError::Compacted);
        }
        let mut kvs = Self::in_range(&self.live_at(at), &r.key, &r.range_end);
        let mut response = RangeResponse {
            header: header(current),
            count: kvs.len() as i64,
            ..RangeResponse::default()
        };
        if r.count_only {
            return Ok(response);
        }
        let filtered = r.min_mod_revision != 0
            || r.max_mod_revision != 0
            || r.min_create_revision != 0
            || r.max_create_revision != 0;
        let limit = if r.limit > 0 {
            r.limit as usize
        } else {
            usize::MAX - 1
        };
        // with no order and no filter the store hands over one more than the limit, whatever the
        // target
        if !filtered && (r.sort_order == 0 || (r.sort_order == 1 && r.sort_target == 0)) {
            kvs.truncate(limit + 1);
        }
        kvs.retain(|kv| {
            (r.min_mod_revision == 0 || kv.mod_revision >= r.min_mod_revision)
                && (r.max_mod_revision == 0 || kv.mod_revision <= r.max_mod_revision)
                && (r.min_create_revision == 0 || kv.create_revision >= r.min_create_revision)
                && (r.max_create_revision == 0 || kv.create_revision <= r.max_create_revision)
        });
        let number = |kv: &KeyValue| match r.sort_target {
            1 => kv.version,
            2 => kv.create_revision,
            3 => kv.mod_revision,
            _ => 0,
        };
        let descending = r.sort_order == 2;
        match r.sort_target {
            0 if descending => kvs.reverse(),
            0 => {}
            4 if descending => kvs.sort_by(|a, b| b.value.cmp(&a.value)),
            4 => kvs.sort_by(|a, b| a.value.cmp(&b.value)),
            _ if descending => kvs.sort_by_key(|kv| -number(kv)),
            _ => kvs.sort_by_key(number),
        }
        response.more = kvs.len() > limit;
        kvs.truncate(limit);
        if r.keys_only {
            for kv in &mut kvs {
                kv.value = Bytes::new();
                if r.sort_target != 4 {
                    kv.lease = 0;
                }
            }
        }
        response.kvs = kvs;
        Ok(response)
    }

    fn now(&self, changed: &[KeyValue]) -> i64 {
        self.current + i64::from(!changed.is_empty())
    }

    fn change(&mut self, kv: KeyValue, changed: &mut Vec<KeyValue>) {
        self.log.push(kv.clone());
        changed.push(kv);
    }

    fn put(&mut self, r: &PutRequest, changed: &mut Vec<KeyValue>) -> PutResponse {
        let before = self.live_at(self.current + 1).remove(&r.key[..]);
        let old = before.clone().unwrap_or_default();
        let lease = if r.ignore_lease { old.lease } else { r.lease };
        let kv = KeyValue {
            key: r.key.clone(),
            value: if r.ignore_value {
                old.value
            } else {
                r.value.clone()
            },
            create_revision: match &before {
                Some(kv) => kv.create_revision,
                None => self.current + 1,
            },
            mod_revision: self.current + 1,
            version: old.version + 1,
            lease,
        };
        self.attached.remove(&r.key[..]);
        if lease != 0 {
            self.attached.insert(r.key.to_vec(), lease);
        }
        self.change(kv, changed);
        PutResponse {
            header: header(self.current + 1),
            prev_kv: before.filter(|_| r.prev_kv),
        }
    }

    fn delete(
        &mut self,
        key: &[u8],
        end: &[u8],
        prev: bool,
        changed: &mut Vec<KeyValue>,
    ) -> DeleteRangeResponse {
        let doomed = Self::in_range(&self.live_at(self.current + 1), key, end);
        for kv in &doomed {
            self.attached.remove(&kv.key[..]);
            let gone = KeyValue {
                key: kv.key.clone(),
                mod_revision: self.current + 1,
                ..KeyValue::default()
            };
            self.change(gone, changed);
        }
        DeleteRangeResponse {
            header: header(self.now(changed)),
            deleted: doomed.len() as i64,
            prev_kvs: if prev { doomed } else { Vec::new() },
        }
    }

    fn check_put(&self, r: &PutRequest) -> Refused<()> {
        if r.lease != 0 && !self.granted.contains(&r.lease) {
            return Err(RequestError::LeaseNotFound);
        }
        if (r.ignore_lease || r.ignore_value)
            && !self.live_at(self.current).contains_key(&r.key[..])
        {
            return Err(RequestError::KeyNotFound);
        }
        Ok(())
    }

    fn holds(&self, c: &Compare) -> bool {
        let found = Self::in_range(&self.live_at(self.current), &c.key, &c.range_end);
        if found.is_empty() && c.target == 3 {
            return false;
        }
        let absent = [KeyValue::default()];
        let found = if found.is_empty() {
            &absent[..]
        } else {
            &found
        };
        found.iter().all(|kv| {
            let order = match (c.target, c.target_union.as_ref()) {
                (0, Some(TargetUnion::Version(v))) => kv.version.cmp(v),
                (0, _) => kv.version.cmp(&0),
                (1, Some(TargetUnion::CreateRevision(v))) => kv.create_revision.cmp(v),
                (1, _) => kv.create_revision.cmp(&0),
                (2, Some(TargetUnion::ModRevision(v))) => kv.mod_revision.cmp(v),
                (2, _) => kv.mod_revision.cmp(&0),
                (3, Some(TargetUnion::Value(v))) => kv.value.cmp(v),
                (3, _) => kv.value.cmp(&Bytes::new()),
                (4, Some(TargetUnion::Lease(v))) => kv.lease.cmp(v),
                (4, _) => kv.lease.cmp(&0),
                _ => std::cmp::Ordering::Equal,
            };
            match c.result {
                0 => order.is_eq(),
                1 => order.is_gt(),
                2 => order.is_lt(),
                3 => order.is_ne(),
                _ => true,
            }
        })
    }

    /// Whether the compares hold, and the operations of the branch taken.
    fn decide(&self, t: &TxnRequest) -> (bool, Vec<RequestOp>) {
        let ok = t.compare.iter().all(|c| self.holds(c));
        let ops = if ok { &t.success } else { &t.failure };
        (ok, ops.clone())
    }

    fn check(&self, t: &TxnRequest) -> Refused<()> {
        for op in self.decide(t).1 {
            match op.request {
                Some(Request::RequestRange(r)) if r.revision != 0 => {
                    if r.revision > self.current {
                        return Err(RequestError::FutureRevision);
                    }
                    if r.revision < self.compacted {
                        return Err(RequestError::Compacted);
                    }
                }
                Some(Request::RequestPut(r)) => self.check_put(&r)?,
                Some(Request::RequestTxn(t)) => self.check(&t)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Decided transactions, nested ones depth first, before anything is executed.
    fn path(&self, t: &TxnRequest, out: &mut Vec<bool>) {
        let (ok, ops) = self.decide(t);
        out.push(ok);
        for op in ops {
            if let Some(Request::RequestTxn(t)) = op.request {
                self.path(&t, out);
            }
        }
    }

    fn run(
        &mut self,
        t: &TxnRequest,
        path: &mut std::vec::IntoIter<bool>,
        changed: &mut Vec<KeyValue>,
    ) -> Refused<TxnResponse> {
        let succeeded = path.next().expect("a decision");
        let ops = if succeeded { &t.success } else { &t.failure };
        let mut responses = Vec::new();
        for op in ops {
            let response = match op.request.as_ref().expect("an operation") {
                Request::RequestRange(r) => {
                    Response::ResponseRange(self.range(r, self.now(changed))?)
                }
                Request::RequestPut(r) => Response::ResponsePut(self.put(r, changed)),
                Request::RequestDeleteRange(r) => Response::ResponseDeleteRange(self.delete(
                    &r.key,
                    &r.range_end,
                    r.prev_kv,
                    changed,
                )),
                Request::RequestTxn(t) => Response::ResponseTxn(self.run(t, path, changed)?),
            };
            responses.push(ResponseOp {
                response: Some(response),
            });
        }
        Ok(TxnResponse {
            header: Some(ResponseHeader::default()),
            succeeded,
            responses,
        })
    }

    fn apply(&mut self, request: &Request) -> Refused<(Response, Vec<KeyValue>)> {
        let mut changed = Vec::new();
        let response = match request {
            Request::RequestRange(_) => unreachable!("ranges are not applied"),
            Request::RequestPut(r) => {
                self.check_put(r)?;
                Response::ResponsePut(self.put(r, &mut changed))
            }
            Request::RequestDeleteRange(r) => {
                let response = self.delete(&r.key, &r.range_end, r.prev_kv, &mut changed);
                Response::ResponseDeleteRange(response)
            }
            Request::RequestTxn(t) => {
                self.check(t)?;
                let mut path = Vec::new();
                self.path(t, &mut path);
                let mut response = self.run(t, &mut path.into_iter(), &mut changed)?;
                response.header = header(self.now(&changed));
                Response::ResponseTxn(response)
            }
        };
        self.current = self.now(&changed);
        Ok((response, changed))
    }
}

fn header(revision: i64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        revision,
        ..ResponseHeader::default()
    })
}

fn key(rng: &mut Rng) -> Bytes {
    let n = rng.below(12);
    Bytes::from(match n {
        0 => "\0".to_owned(),
        1..=3 => format!("a{n}"),
        _ => format!("k{n}"),
    })
}

fn end(rng: &mut Rng) -> Bytes {
    match rng.below(4) {
        0 => Bytes::from_static(b"\0"),
        1 => key(rng),
        _ => Bytes::new(),
    }
}

fn revision(rng: &mut Rng, model: &Model) -> i64 {
    match rng.below(8) {
        0 => model.current + rng.below(3) as i64,
        1 => model.compacted + rng.below(3) as i64 - 1,
        2 => -(rng.below(3) as i64),
        3 | 4 => rng.below(model.current as u64 + 1) as i64,
        _ => 0,
    }
}

fn some_revision(rng: &mut Rng, model: &Model) -> i64 {
    if rng.one_in(4) {
        rng.below(model.current as u64 + 1) as i64
    } else {
        0
    }
}

fn gen_range(rng: &mut Rng, model: &Model) -> RangeRequest {
    RangeRequest {
        key: key(rng),
        range_end: end(rng),
        limit: rng.below(6) as i64 - 1,
        revision: revision(rng, model),
        sort_order: rng.below(3) as i32,
        sort_target: rng.below(5) as i32,
        serializable: false,
        keys_only: rng.one_in(3),
        count_only: rng.one_in(6),
        min_mod_revision: some_revision(rng, model),
        max_mod_revision: some_revision(rng, model),
        min_create_revision: some_revision(rng, model),
        max_create_revision: some_revision(rng, model),
    }
}

fn gen_put(rng: &mut Rng, serial: &mut u64) -> PutRequest {
    *serial += 1;
    let ignore_value = rng.one_in(8);
    let ignore_lease = rng.one_in(8);
    PutRequest {
        key: key(rng),
        value: if ignore_value || rng.one_in(10) {
            Bytes::new()
        } else {
            Bytes::from(format!("v{}-{serial}", rng.below(5)))
        },
        lease: if ignore_lease || !rng.one_in(4) {
            0
        } else {
            1 + rng.below(3) as i64
        },
        prev_kv: rng.one_in(3),
        ignore_value,
        ignore_lease,
    }
}

fn gen_delete(rng: &mut Rng) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: key(rng),
        range_end: if rng.one_in(3) {
            end(rng)
        } else {
            Bytes::new()
        },
        prev_kv: rng.one_in(2),
    }
}

fn gen_compare(rng: &mut Rng, model: &Model) -> Compare {
    let number = if rng.one_in(2) {
        rng.below(3) as i64
    } else {
        rng.below(model.current as u64 + 1) as i64
    };
    let target = rng.below(6) as i32;
    let union = if rng.one_in(6) {
        rng.below(5) as i32
    } else {
        target
    };
    Compare {
        result: rng.below(5) as i32,
        target,
        key: key(rng),
        range_end: if rng.one_in(3) {
            end(rng)
        } else {
            Bytes::new()
        },
        target_union: match union {
            0 => Some(TargetUnion::Version(number)),
            1 => Some(TargetUnion::CreateRevision(number)),
            2 => Some(TargetUnion::ModRevision(number)),
            3 => Some(TargetUnion::Value(Bytes::from(format!(
                "v{}",
                rng.below(5)
            )))),
            4 => Some(TargetUnion::Lease(rng.below(4) as i64)),
            _ => None,
        },
    }
}

fn gen_ops(rng: &mut Rng, model: &Model, serial: &mut u64, depth: u32) -> Vec<RequestOp> {
    (0..rng.below(4))
        .map(|_| RequestOp {
            request: Some(match rng.below(if depth > 0 { 7 } else { 5 }) {
                0 | 1 => Request::RequestPut(gen_put(rng, serial)),
                2 => Request::RequestDeleteRange(gen_delete(rng)),
                3 | 4 => Request::RequestRange(gen_range(rng, model)),
                _ => Request::RequestTxn(gen_txn(rng, model, serial, depth - 1)),
            }),
        })
        .collect()
}

fn gen_txn(rng: &mut Rng, model: &Model, serial: &mut u64, depth: u32) -> TxnRequest {
    TxnRequest {
        compare: (0..rng.below(3)).map(|_| gen_compare(rng, model)).collect(),
        success: gen_ops(rng, model, serial, depth),
        failure: gen_ops(rng, model, serial, depth),
    }
}

fn apply(m: &mut Member, request: &Request, skip_range: bool) -> Refused<(Response, Changes)> {
    Ok(match request {
        Request::RequestRange(_) => unreachable!("ranges are not applied"),
        Request::RequestPut(r) => {
            let (response, changes) = kv::apply_put(&m.store, r, &mut m.leases)?;
            (Response::ResponsePut(response), changes)
        }
        Request::RequestDeleteRange(r) => {
            let (response, changes) = kv::apply_delete_range(&m.store, r, &mut m.leases)?;
            (Response::ResponseDeleteRange(response), changes)
        }
        Request::RequestTxn(r) => {
            let (response, changes) = kv::apply_txn(&m.store, r, &mut m.leases, skip_range)?;
            (Response::ResponseTxn(response), changes)
        }
    })
}

/// What happens to a member between requests: nothing a client may notice.
fn disturb(rng: &mut Rng, m: &mut Member) {
    match rng.below(14) {
        0 | 1 => m.freeze(),
        2 | 3 => m.commit_done(),
        4 if rng.one_in(4) => m.restart(),
        5 | 6 => {
            m.store
                .compaction_step(1 + rng.below(5) as usize)
                .expect("sound");
        }
        7 if rng.one_in(3) => m.finish_compactions(),
        8 if rng.one_in(8) => {
            // another member's state, as a raft snapshot
            m.commit_all();
            let file = std::sync::Arc::new(m.file.clone());
            m.leases.attached.clear();
            m.store.install(file, &mut m.leases).expect("sound");
        }
        _ => {}
    }
}

fn run(seed: u64, steps: u32) {
    let rng = &mut Rng(seed);
    let options = RestoreOptions {
        compaction_hash: false,
        ..RestoreOptions::default()
    };
    let mut model = Model::new();
    let mut members = [Member::with(options), Member::with(options)];
    let mut serial = 0;
    model.granted.extend([1, 2]);
    for m in &mut members {
        m.leases.granted.extend([1, 2]);
    }
    for step in 0..steps {
        let context = format!("seed {seed}, step {step}");
        for m in &mut members {
            disturb(rng, m);
        }
        match rng.below(20) {
            0..=9 => {
                let request = match rng.below(10) {
                    0..=4 => Request::RequestPut(gen_put(rng, &mut serial)),
                    5 | 6 => Request::RequestDeleteRange(gen_delete(rng)),
                    _ => {
                        let txn = gen_txn(rng, &model, &mut serial, 2);
                        if kv::check_txn(&txn, 128).is_err() {
                            continue;
                        }
                        Request::RequestTxn(txn)
                    }
                };
                let context = format!("{context}: {request:?}");
                let expected = model.apply(&request);
                let [first, second] = &mut members;
                let got = apply(first, &request, false);
                let skipped = apply(second, &request, true);
                match (expected, got, skipped) {
                    (Err(expected), got, skipped) => {
                        assert_eq!(got, Err(expected.clone()), "{context}");
                        assert_eq!(skipped.map(|_| ()), Err(expected), "{context}");
                    }
                    (Ok((response, changed)), got, skipped) => {
                        let (got, changes) = got.expect(&context);
                        let (_, also) = skipped.expect(&context);
                        assert_eq!(got, response, "{context}");
                        assert_eq!(changes.revision, model.current, "{context}");
                        let kvs: Vec<_> = changes.events.iter().map(|e| e.kv.clone()).collect();
                        assert_eq!(kvs, changed, "{context}");
                        for event in &changes.events {
                            let kind = if event.kv.version == 0 {
                                EventKind::Delete
                            } else {
                                EventKind::Put
                            };
                            assert_eq!(event.kind, kind, "{context}");
                        }
                        assert_eq!(changes, also, "{context}");
                    }
                }
            }
            10..=15 => {
                let request = gen_range(rng, &model);
                let expected = model.range(&request, model.current);
                for m in &members {
                    let got = kv::range(&m.store, &request);
                    assert_eq!(got, expected, "{context}: {request:?}");
                }
            }
            16 => {
                let revision = revision(rng, &model);
                let expected = if revision <= model.compacted {
                    Err(RequestError::Compacted)
                } else if revision > model.current {
                    Err(RequestError::FutureRevision)
                } else {
                    model.compacted = revision;
                    Ok(header(model.current))
                };
                let physical = false;
                for m in &members {
                    let got = kv::compact(&m.store, &CompactionRequest { revision, physical });
                    assert_eq!(
                        got.map(|r| r.header),
                        expected,
                        "{context}: compact {revision}"
                    );
                }
            }
            17 => {
                let revision = revision(rng, &model);
                let [a, b] = &members;
                let (a, b) = (a.store.hash_kv(revision), b.store.hash_kv(revision));
                assert_eq!(a, b, "{context}: hash at {revision}");
                assert_eq!(
                    a.is_ok(),
                    revision <= 0 || (revision >= model.compacted && revision <= model.current)
                );
                let [a, b] = &members;
                if !a.store.compaction_pending() && !b.store.compaction_pending() {
                    assert_eq!(a.store.hash(), b.store.hash(), "{context}");
                }
            }
            18 => {
                let from = revision(rng, &model).max(0);
                let expected: Vec<_> = model
                    .log
                    .iter()
                    .filter(|kv| kv.mod_revision >= from)
                    .cloned()
                    .collect();
                for m in &members {
                    match m.store.history(from, 1_000_000) {
                        Err(e) => {
                            assert_eq!(e, Error::Compacted);
                            assert!(from < model.compacted, "{context}");
                        }
                        Ok(history) => {
                            let got: Vec<_> = history.events.into_iter().map(|e| e.kv).collect();
                            assert_eq!(got, expected, "{context}: history from {from}");
                        }
                    }
                }
            }
            _ => {
                let request = TxnRequest {
                    compare: (0..rng.below(3))
                        .map(|_| gen_compare(rng, &model))
                        .collect(),
                    success: (0..rng.below(3)).map(|_| range_op(rng, &model)).collect(),
                    failure: (0..rng.below(3)).map(|_| range_op(rng, &model)).collect(),
                };
                assert!(kv::is_txn_readonly(&request));
                let whole = Request::RequestTxn(request.clone());
                let expected = model.apply(&whole).map(|(response, _)| response);
                for m in &members {
                    let got = kv::range_txn(&m.store, &request).map(Response::ResponseTxn);
                    assert_eq!(got, expected, "{context}: {request:?}");
                }
            }
        }
        for m in &members {
            assert_eq!(m.store.current_revision(), model.current, "{context}");
            assert_eq!(m.store.compact_revision(), model.compacted, "{context}");
            assert_eq!(m.leases.attached, model.attached, "{context}");
            assert_eq!(
                m.store.stats().keys,
                model.live_at(model.current).len(),
                "{context}"
            );
        }
    }
    // in the end nothing but what the last compaction leaves is stored
    for m in &mut members {
        m.finish_compactions();
        m.restart();
        let mut kept = model.live_at(model.compacted).len();
        kept += model
            .log
            .iter()
            .filter(|kv| {
                kv.mod_revision > model.compacted
                    || (kv.mod_revision == model.compacted && kv.version == 0)
            })
            .count();
        let stored = m.stored().len();
        assert!(
            stored == kept,
            "seed {seed}: {stored} stored, {kept} expected"
        );
    }
}

fn range_op(rng: &mut Rng, model: &Model) -> RequestOp {
    RequestOp {
        request: Some(Request::RequestRange(gen_range(rng, model))),
    }
}

#[test]
fn random_requests_equal_the_model() {
    if let Ok(seed) = std::env::var("MVCC_SEED") {
        run(seed.parse().expect("a number"), 400);
        return;
    }
    for seed in 0..150 {
        run(seed, 400);
    }
}
