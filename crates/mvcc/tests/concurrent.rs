//! Readers on other threads see whole transactions, whatever the writer, the commits and the
//! compactions do meanwhile.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

use bytes::Bytes;
use common::TestLeases;
use ferrite_mvcc::kv::{self, RequestError};
use ferrite_mvcc::schema::Bucket;
use ferrite_mvcc::{
    Backend, Error, FileView, MemFile, RangeOptions, ReadError, RestoreOptions, Store, Visit,
};
use ferrite_proto::etcdserverpb::{RangeRequest, RequestOp, TxnRequest, request_op::Request};

/// Keys that every transaction sets to one and the same value; more than a slice of the index.
const KEYS: usize = 2500;
const ROUNDS: i64 = 30;

#[test]
fn readers_see_whole_transactions() {
    let mut leases = TestLeases::default();
    let mut file = MemFile::new();
    let backend = Backend::new(Arc::new(file.clone()));
    let store = Store::restore(backend, &mut leases, RestoreOptions::default()).expect("empty");
    let names: Vec<String> = (0..KEYS).map(|i| format!("k{i:05}")).collect();
    let stop = AtomicBool::new(false);
    let reads = AtomicUsize::new(0);
    let start = Barrier::new(4);
    std::thread::scope(|scope| {
        for reader in 0..3 {
            let (store, stop, reads, start) = (&store, &stop, &reads, &start);
            scope.spawn(move || {
                start.wait();
                let mut last = 0;
                while !stop.load(Ordering::Relaxed) {
                    match reader {
                        0 => whole_range(store, &mut last),
                        1 => past(store),
                        _ => two_ranges(store),
                    }
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        start.wait();
        let mut frozen = None;
        for round in 0..ROUNDS {
            let mut txn = store.write();
            if round % 7 == 6 {
                // all gone: readers see all or none
                assert_eq!(txn.delete_range(b"k", b"l", &mut leases), KEYS as i64);
            } else {
                for name in &names {
                    txn.put(
                        name.as_bytes(),
                        round.to_string().as_bytes(),
                        0,
                        &mut leases,
                    );
                }
            }
            let revision = txn.end().revision;
            match round % 3 {
                0 if frozen.is_none() => frozen = store.backend().freeze(),
                1 => {
                    if let Some(batch) = frozen.take() {
                        file = file.with(&batch);
                        assert!(store.backend().commit_done(Arc::new(file.clone())));
                    }
                }
                _ => {}
            }
            if round % 5 == 4 {
                store.compact(revision - 2).expect("not compacted");
            }
            for _ in 0..4 {
                store.compaction_step(1000).expect("sound");
            }
        }
        // every reader had its turn, also on a machine with one core
        while reads.load(Ordering::Relaxed) < 20 {
            std::thread::yield_now();
        }
        stop.store(true, Ordering::Relaxed);
    });
}

fn whole_range(store: &Store, last: &mut i64) {
    match store.range(b"k", b"l", RangeOptions::default()) {
        Ok(result) => {
            assert!(result.revision >= *last, "the revision went down");
            *last = result.revision;
            assert!(result.kvs.is_empty() || result.kvs.len() == KEYS);
            assert_eq!(result.count as usize, result.kvs.len());
            let mut versions = BTreeMap::new();
            for kv in &result.kvs {
                *versions
                    .entry((kv.mod_revision, kv.value.clone()))
                    .or_insert(0) += 1;
            }
            assert!(versions.len() <= 1, "a torn transaction: {versions:?}");
            if let Some(((main, _), _)) = versions.first_key_value() {
                assert_eq!(*main, result.revision);
            }
        }
        Err(e) => assert_eq!(e, Error::Compacted),
    }
}

fn past(store: &Store) {
    let revision = store.current_revision() - 1;
    if revision < 2 {
        return;
    }
    let options = RangeOptions {
        revision,
        limit: 10,
        ..RangeOptions::default()
    };
    match store.range(b"k", b"l", options) {
        Ok(result) => {
            assert!(result.kvs.iter().all(|kv| kv.mod_revision == revision));
            assert!(result.count == 0 || result.count as usize == KEYS);
        }
        Err(e) => assert_eq!(e, Error::Compacted),
    }
    match store.history(revision, 1) {
        Ok(history) => assert_eq!(history.events.len(), KEYS),
        Err(e) => assert_eq!(e, Error::Compacted),
    }
    match store.hash_kv(revision) {
        Ok(hash) => assert_eq!(hash.hash_revision, revision),
        Err(e) => assert_eq!(e, Error::Compacted),
    }
}

fn two_ranges(store: &Store) {
    let op = |key: &'static str, end: &'static str| RequestOp {
        request: Some(Request::RequestRange(RangeRequest {
            key: key.into(),
            range_end: end.into(),
            ..RangeRequest::default()
        })),
    };
    let request = TxnRequest {
        success: vec![op("k00000", ""), op("k00001", "l")],
        ..TxnRequest::default()
    };
    match kv::range_txn(store, &request) {
        Ok(response) => {
            let mut seen = Vec::new();
            for op in response.responses {
                let Some(ferrite_proto::etcdserverpb::response_op::Response::ResponseRange(r)) =
                    op.response
                else {
                    panic!("a range answers a range");
                };
                seen.extend(r.kvs.into_iter().map(|kv| kv.mod_revision));
            }
            assert!(seen.is_empty() || seen.len() == KEYS);
            assert!(seen.windows(2).all(|w| w[0] == w[1]), "torn between ranges");
        }
        Err(e) => assert_eq!(e, RequestError::Compacted),
    }
}

/// A commit never hides what it commits, not even for a moment.
#[test]
fn commits_hide_nothing() {
    let mut leases = TestLeases::default();
    let mut file = MemFile::new();
    let backend = Backend::new(Arc::new(file.clone()));
    let store = Store::restore(backend, &mut leases, RestoreOptions::default()).expect("empty");
    let mut txn = store.write();
    txn.put(b"a", b"v", 0, &mut leases);
    txn.end();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let kv = store.get(b"a", 2).expect("readable").expect("there");
                assert_eq!(kv.value, "v");
                let view = store.backend().view();
                let mut seen = 0;
                view.scan(Bucket::Key, &[], None, &mut |_, _| {
                    seen += 1;
                    std::ops::ControlFlow::Continue(())
                })
                .expect("sound");
                assert!(seen > 0);
            }
        });
        for i in 0..2000 {
            let mut txn = store.write();
            txn.put(b"b", i.to_string().as_bytes(), 0, &mut leases);
            txn.end();
            let batch = store.backend().freeze().expect("pending");
            file = file.with(&batch);
            assert!(store.backend().commit_done(Arc::new(file.clone())));
            if i % 100 == 0 {
                file = MemFile::new();
                let view = store.backend().view();
                view.scan(Bucket::Key, &[], None, &mut |k, v| {
                    file.put(Bucket::Key, k, v);
                    std::ops::ControlFlow::Continue(())
                })
                .expect("sound");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// A file that lets something happen in the middle of a read.
struct Meddling {
    file: MemFile,
    gets: AtomicUsize,
    meddle: Box<dyn Fn() + Send + Sync>,
}

impl FileView for Meddling {
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        if self.gets.fetch_add(1, Ordering::Relaxed) == 100 {
            (self.meddle)();
        }
        self.file.get(bucket, key)
    }
    fn scan(
        &self,
        bucket: Bucket,
        from: &[u8],
        to: Option<&[u8]>,
        visit: Visit<'_>,
    ) -> Result<(), ReadError> {
        self.file.scan(bucket, from, to, visit)
    }
    fn size(&self) -> u64 {
        self.file.size()
    }
    fn size_in_use(&self) -> u64 {
        self.file.size_in_use()
    }
}

/// A read that a compaction overtakes between two slices is refused, or begun again when it asked
/// for the current revision; it never mixes.
#[test]
fn a_read_overtaken_by_a_compaction_never_mixes() {
    let mut m = common::Member::new();
    let set_all = |store: &Store, value: &[u8]| {
        let mut leases = TestLeases::default();
        let mut txn = store.write();
        for i in 0..KEYS {
            txn.put(format!("k{i:05}").as_bytes(), value, 0, &mut leases);
        }
        txn.end().revision
    };
    set_all(&m.store, b"1"); // 2
    m.commit_all();
    for (revision, compacted) in [(2, 4), (2, 2), (0, 4), (0, 2)] {
        let mut leases = TestLeases::default();
        let cell: Arc<std::sync::OnceLock<std::sync::Weak<Store>>> = Arc::default();
        let handle = cell.clone();
        let file = Meddling {
            file: m.file.clone(),
            gets: AtomicUsize::new(0),
            meddle: Box::new(move || {
                let store = handle.get().and_then(|s| s.upgrade()).expect("alive");
                set_all(&store, b"2"); // 3
                set_all(&store, b"3"); // 4
                store.compact(compacted).expect("not compacted");
                while store.compaction_pending() {
                    store.compaction_step(1000).expect("sound");
                }
            }),
        };
        let options = RestoreOptions {
            compaction_hash: false,
            ..RestoreOptions::default()
        };
        let backend = Backend::new(Arc::new(file));
        let store = Arc::new(Store::restore(backend, &mut leases, options).expect("sound"));
        cell.set(Arc::downgrade(&store)).expect("once");
        let request = RangeRequest {
            key: "k".into(),
            range_end: "l".into(),
            revision,
            ..RangeRequest::default()
        };
        let result = kv::range(&store, &request);
        let (expected, header) = match (revision, compacted) {
            (2, 4) => {
                assert_eq!(result, Err(RequestError::Compacted));
                continue;
            }
            (0, 4) => (Bytes::from_static(b"3"), 4),
            _ => (Bytes::from_static(b"1"), 2),
        };
        let response = result.expect("readable");
        assert_eq!(response.header.expect("a header").revision, header);
        assert_eq!((response.kvs.len(), response.count), (KEYS, KEYS as i64));
        assert!(response.kvs.iter().all(|kv| kv.value == expected));
    }
}
