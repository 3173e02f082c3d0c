//! One test for each row of the contract's section on key-values. Expected values are etcd's.

mod common;

use bytes::Bytes;
use common::{Member, TestLeases};
use ferrite_mvcc::kv::{self, RequestError};
use ferrite_mvcc::{EventKind, RestoreOptions};
use ferrite_proto::etcdserverpb::compare::TargetUnion;
use ferrite_proto::etcdserverpb::request_op::Request;
use ferrite_proto::etcdserverpb::response_op::Response;
use ferrite_proto::etcdserverpb::*;

fn range(key: &'static str, end: &'static str) -> RangeRequest {
    RangeRequest {
        key: key.into(),
        range_end: end.into(),
        ..RangeRequest::default()
    }
}

fn put(key: &'static str, value: &'static str) -> PutRequest {
    PutRequest {
        key: key.into(),
        value: value.into(),
        ..PutRequest::default()
    }
}

fn delete(key: &'static str, end: &'static str) -> DeleteRangeRequest {
    DeleteRangeRequest {
        key: key.into(),
        range_end: end.into(),
        prev_kv: false,
    }
}

fn op(request: Request) -> RequestOp {
    RequestOp {
        request: Some(request),
    }
}

fn put_op(key: &'static str) -> RequestOp {
    op(Request::RequestPut(put(key, "v")))
}

fn delete_op(key: &'static str, end: &'static str) -> RequestOp {
    op(Request::RequestDeleteRange(delete(key, end)))
}

fn txn_op(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> RequestOp {
    op(Request::RequestTxn(txn(success, failure)))
}

fn txn(success: Vec<RequestOp>, failure: Vec<RequestOp>) -> TxnRequest {
    TxnRequest {
        compare: Vec::new(),
        success,
        failure,
    }
}

/// A store with a: 2 puts, b, c: 1 put, d: 1 put, 1 delete; current revision 7.
fn member() -> Member {
    let mut m = Member::new();
    m.put("a", "3"); // 2
    m.put("b", "1"); // 3
    m.put("c", "2"); // 4
    m.put("d", "x"); // 5
    m.delete("d"); // 6
    m.put("a", "4"); // 7
    m
}

fn keys(m: &Member, request: &RangeRequest) -> (String, bool, i64) {
    let response = kv::range(&m.store, request).expect("readable");
    let names = response
        .kvs
        .iter()
        .map(|kv| String::from_utf8_lossy(&kv.key));
    (names.collect(), response.more, response.count)
}

fn apply(m: &mut Member, request: &TxnRequest) -> Result<TxnResponse, RequestError> {
    kv::apply_txn(&m.store, request, &mut m.leases, false).map(|(response, _)| response)
}

#[test]
fn kv01_ranges() {
    let m = member();
    for (key, end, expected) in [
        ("a", "", "a"),
        ("d", "", ""),
        ("b", "\0", "bc"),
        ("\0", "\0", "abc"),
        ("a", "c", "ab"),
        ("b", "b", ""),
        ("c", "a", ""),
    ] {
        let (names, more, count) = keys(&m, &range(key, end));
        assert_eq!((&names[..], more), (expected, false), "[{key:?}, {end:?})");
        assert_eq!(count as usize, expected.len());
    }
}

#[test]
fn kv01_02_14_18_checks() {
    use RequestError::*;
    assert_eq!(kv::check_range(&range("", "")), Err(EmptyKey));
    let sorted = |sort_order, sort_target| RangeRequest {
        sort_order,
        sort_target,
        ..range("a", "")
    };
    assert_eq!(kv::check_range(&sorted(3, 0)), Err(InvalidSortOption));
    assert_eq!(kv::check_range(&sorted(0, -1)), Err(InvalidSortOption));
    assert_eq!(kv::check_range(&sorted(2, 4)), Ok(()));
    assert_eq!(kv::check_range_stream(&sorted(0, 4)), Ok(()));
    assert_eq!(kv::check_range_stream(&sorted(1, 0)), Ok(()));
    assert_eq!(kv::check_range_stream(&sorted(1, 1)), Err(StreamSort));
    let filtered = RangeRequest {
        max_mod_revision: 1,
        ..range("a", "")
    };
    assert_eq!(kv::check_range_stream(&filtered), Err(StreamFilter));
    assert_eq!(kv::check_delete(&delete("", "\0")), Err(EmptyKey));
    assert_eq!(kv::check_put(&put("", "v")), Err(EmptyKey));
    let ignore_value = PutRequest {
        ignore_value: true,
        ..put("a", "v")
    };
    assert_eq!(kv::check_put(&ignore_value), Err(ValueProvided));
    let ignore_lease = PutRequest {
        ignore_lease: true,
        lease: 1,
        ..put("a", "v")
    };
    assert_eq!(kv::check_put(&ignore_lease), Err(LeaseProvided));
    let empty_op = txn(vec![RequestOp { request: None }], vec![]);
    assert_eq!(kv::check_txn(&empty_op, 128), Err(KeyNotFound));
    let empty_compare = TxnRequest {
        compare: vec![Compare::default()],
        ..TxnRequest::default()
    };
    assert_eq!(kv::check_txn(&empty_compare, 128), Err(EmptyKey));
}

/// KV-17, KB-24: nested transactions have what their parent leaves.
#[test]
fn kv17_limits() {
    let flat = |n: usize| {
        txn(
            (0..n)
                .map(|_| op(Request::RequestRange(range("a", ""))))
                .collect(),
            vec![],
        )
    };
    let nested = |outer: usize, inner: TxnRequest| {
        let mut outer = flat(outer - 1);
        outer.failure.push(op(Request::RequestTxn(inner)));
        outer
    };
    assert_eq!(kv::check_txn(&flat(4), 4), Ok(()));
    assert_eq!(kv::check_txn(&flat(5), 4), Err(RequestError::TooManyOps));
    assert_eq!(kv::check_txn(&nested(3, flat(2)), 4), Ok(()));
    assert_eq!(
        kv::check_txn(&nested(3, flat(3)), 4),
        Err(RequestError::TooManyOps)
    );
    let compares = TxnRequest {
        compare: vec![
            Compare {
                key: "a".into(),
                ..Compare::default()
            };
            5
        ],
        ..TxnRequest::default()
    };
    assert_eq!(kv::check_txn(&compares, 4), Err(RequestError::TooManyOps));
}

/// KV-19, with the gaps of the original.
#[test]
fn kv19_duplicates() {
    let refused = [
        vec![put_op("a"), put_op("a")],
        vec![put_op("b"), delete_op("a", "c")],
        vec![delete_op("a", "c"), put_op("b")],
        vec![put_op("a"), delete_op("a", "")],
        vec![put_op("a"), txn_op(vec![put_op("a")], vec![])],
        vec![txn_op(vec![], vec![put_op("a")]), put_op("a")],
        vec![
            txn_op(vec![put_op("a")], vec![]),
            txn_op(vec![put_op("a")], vec![]),
        ],
        vec![delete_op("a", "b"), txn_op(vec![put_op("a")], vec![])],
        vec![txn_op(vec![delete_op("a", "")], vec![]), put_op("a")],
        // sibling nested ones: delete then put
        vec![
            txn_op(vec![delete_op("a", "")], vec![]),
            txn_op(vec![put_op("a")], vec![]),
        ],
        // pieces that touch and overlap
        vec![
            delete_op("a", "c"),
            delete_op("b", "e"),
            delete_op("e", ""),
            put_op("d"),
        ],
        vec![delete_op("d", "e"), delete_op("a", "z"), put_op("x")],
        vec![delete_op("a", ""), delete_op("a", "b"), put_op("aa")],
    ];
    for ops in refused {
        let request = txn(vec![], ops);
        let result = kv::check_txn(&request, 128);
        assert_eq!(result, Err(RequestError::DuplicateKey), "{request:?}");
    }
    let allowed = [
        vec![put_op("a"), delete_op("b", "z")],
        vec![put_op("c"), delete_op("a", "c")],
        vec![delete_op("a", "c"), delete_op("b", "d")],
        vec![txn_op(vec![put_op("a")], vec![put_op("a")])],
        // sibling nested ones: put then delete
        vec![
            txn_op(vec![put_op("a")], vec![]),
            txn_op(vec![delete_op("a", "")], vec![]),
        ],
        // an open end is an empty range to this check
        vec![put_op("b"), delete_op("a", "\0")],
        vec![put_op("b"), delete_op("c", "a")],
        vec![delete_op("a", ""), put_op("aa")],
        vec![delete_op("a", "b"), delete_op("c", "d"), put_op("b")],
    ];
    for ops in allowed {
        let request = txn(ops, vec![]);
        assert_eq!(kv::check_txn(&request, 128), Ok(()), "{request:?}");
    }
}

#[test]
fn kv03_04_05_06_39_limits_filters_orders() {
    let m = member(); // a: mod 7, create 2, version 2; b: 3; c: 4
    let all = range("\0", "\0");
    let table = [
        (
            RangeRequest {
                limit: 2,
                ..all.clone()
            },
            "ab",
            true,
        ),
        (
            RangeRequest {
                limit: 3,
                ..all.clone()
            },
            "abc",
            false,
        ),
        (
            RangeRequest {
                limit: -1,
                ..all.clone()
            },
            "abc",
            false,
        ),
        (
            RangeRequest {
                limit: 1,
                sort_order: 2,
                ..all.clone()
            },
            "c",
            true,
        ),
        (
            RangeRequest {
                min_mod_revision: 4,
                ..all.clone()
            },
            "ac",
            false,
        ),
        (
            RangeRequest {
                max_mod_revision: 4,
                limit: 1,
                ..all.clone()
            },
            "b",
            true,
        ),
        (
            RangeRequest {
                min_create_revision: 3,
                max_create_revision: 3,
                limit: 1,
                ..all.clone()
            },
            "b",
            false,
        ),
        // descending and ascending by value: 4, 1, 2
        (
            RangeRequest {
                sort_order: 2,
                sort_target: 4,
                ..all.clone()
            },
            "acb",
            false,
        ),
        (
            RangeRequest {
                sort_order: 1,
                sort_target: 4,
                ..all.clone()
            },
            "bca",
            false,
        ),
        (
            RangeRequest {
                sort_target: 3,
                ..all.clone()
            },
            "bca",
            false,
        ),
        // no order with another target: sorted after the limit
        (
            RangeRequest {
                sort_target: 1,
                limit: 1,
                ..all.clone()
            },
            "b",
            true,
        ),
        (
            RangeRequest {
                sort_target: 4,
                limit: 1,
                ..all.clone()
            },
            "b",
            true,
        ),
        (
            RangeRequest {
                sort_target: 3,
                sort_order: 2,
                limit: 1,
                ..all.clone()
            },
            "a",
            true,
        ),
        (
            RangeRequest {
                count_only: true,
                limit: 1,
                min_mod_revision: 7,
                ..all.clone()
            },
            "",
            false,
        ),
    ];
    for (request, names, more) in table {
        let got = keys(&m, &request);
        assert_eq!(got, (names.to_owned(), more, 3), "{request:?}");
    }
}

#[test]
fn kv07_08_revisions() {
    let m = member();
    let at = |revision| RangeRequest {
        revision,
        ..range("a", "")
    };
    let a = kv::range(&m.store, &at(2)).unwrap();
    assert_eq!(
        (&a.kvs[0].value[..], a.header.unwrap().revision),
        (&b"3"[..], 7)
    );
    assert_eq!(kv::range(&m.store, &at(-3)).unwrap().kvs[0].value, "4");
    assert_eq!(
        kv::range(&m.store, &at(8)),
        Err(RequestError::FutureRevision)
    );
    assert_eq!(kv::range(&m.store, &at(1)).unwrap().count, 0);
}

#[test]
fn kv09_keys_only_comes_from_the_index() {
    let mut m = Member::new();
    m.leases.granted.insert(5);
    let request = PutRequest {
        lease: 5,
        ..put("a", "v")
    };
    kv::apply_put(&m.store, &request, &mut m.leases).unwrap();
    let keys_only = RangeRequest {
        keys_only: true,
        ..range("a", "")
    };
    let kv = kv::range(&m.store, &keys_only).unwrap().kvs.remove(0);
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 2, 1));
    assert_eq!((&kv.value[..], kv.lease), (&b""[..], 0));
    let by_value = RangeRequest {
        sort_target: 4,
        ..keys_only
    };
    let kv = kv::range(&m.store, &by_value).unwrap().kvs.remove(0);
    assert_eq!((&kv.value[..], kv.lease), (&b""[..], 5));
}

#[test]
fn kv14_15_puts_and_leases() {
    let mut m = Member::new();
    m.leases.granted.extend([1, 2]);
    let apply = |m: &mut Member, request: &PutRequest| {
        kv::apply_put(&m.store, request, &mut m.leases).map(|(r, c)| (r, c.revision))
    };
    let missing = PutRequest {
        ignore_value: true,
        ..put("a", "")
    };
    assert_eq!(apply(&mut m, &missing), Err(RequestError::KeyNotFound));
    let missing = PutRequest {
        ignore_lease: true,
        ..put("a", "v")
    };
    assert_eq!(apply(&mut m, &missing), Err(RequestError::KeyNotFound));
    let unknown = PutRequest {
        lease: 3,
        ..put("a", "v")
    };
    assert_eq!(apply(&mut m, &unknown), Err(RequestError::LeaseNotFound));
    assert_eq!(m.store.current_revision(), 1, "refused puts change nothing");

    let (response, _) = apply(
        &mut m,
        &PutRequest {
            lease: 1,
            prev_kv: true,
            ..put("a", "1")
        },
    )
    .unwrap();
    assert_eq!(
        (response.header.unwrap().revision, response.prev_kv),
        (2, None)
    );
    assert_eq!(m.leases.attached[&b"a"[..]], 1);
    apply(
        &mut m,
        &PutRequest {
            lease: 2,
            ..put("a", "2")
        },
    )
    .unwrap();
    assert_eq!(m.leases.attached[&b"a"[..]], 2, "moved to the new lease");
    let (response, _) = apply(
        &mut m,
        &PutRequest {
            ignore_lease: true,
            prev_kv: true,
            ..put("a", "3")
        },
    )
    .unwrap();
    let previous = response.prev_kv.unwrap();
    assert_eq!(
        (&previous.value[..], previous.version, previous.lease),
        (&b"2"[..], 2, 2)
    );
    assert_eq!(m.leases.attached[&b"a"[..]], 2);
    let (response, _) = apply(
        &mut m,
        &PutRequest {
            ignore_value: true,
            ..put("a", "")
        },
    )
    .unwrap();
    assert_eq!(response.prev_kv, None, "read, but not asked for");
    assert!(m.leases.attached.is_empty(), "lease 0 detaches");
    assert_eq!(m.store.get(b"a", 0).unwrap().unwrap().value, "3");
}

/// KB-23: after a restart no key hangs on a lease that is gone.
#[test]
fn kb23_restart_attaches_to_existing_leases_only() {
    let mut m = Member::new();
    m.leases.granted.extend([1, 2]);
    for (key, lease) in [("a", 1), ("b", 2), ("c", 1)] {
        let request = PutRequest {
            lease,
            ..put(key, "v")
        };
        kv::apply_put(&m.store, &request, &mut m.leases).unwrap();
    }
    m.delete("c");
    m.commit_all();
    let mut leases = TestLeases::default();
    leases.granted.insert(1);
    let mut m = Member::open(m.file.clone(), leases, RestoreOptions::default());
    assert_eq!(m.leases.attached, [(b"a".to_vec(), 1)].into());
    // nor by a put that keeps the lease it finds
    let request = PutRequest {
        ignore_lease: true,
        ..put("b", "w")
    };
    kv::apply_put(&m.store, &request, &mut m.leases).unwrap();
    assert_eq!(m.leases.attached, [(b"a".to_vec(), 1)].into());
    assert_eq!(m.store.get(b"b", 0).unwrap().unwrap().lease, 2);
}

#[test]
fn kv16_deletions() {
    let mut m = member();
    let (nothing, changes) =
        kv::apply_delete_range(&m.store, &delete("x", ""), &mut m.leases).unwrap();
    assert_eq!((nothing.deleted, nothing.header.unwrap().revision), (0, 7));
    assert_eq!((changes.revision, changes.events.len()), (7, 0));
    let request = DeleteRangeRequest {
        prev_kv: true,
        ..delete("a", "c")
    };
    let (gone, changes) = kv::apply_delete_range(&m.store, &request, &mut m.leases).unwrap();
    assert_eq!((gone.deleted, gone.header.unwrap().revision), (2, 8));
    let previous: Vec<_> = gone.prev_kvs.iter().map(|kv| &kv.key[..]).collect();
    assert_eq!(previous, [b"a", b"b"]);
    assert!(
        changes
            .events
            .iter()
            .all(|e| e.kind == EventKind::Delete && e.kv.mod_revision == 8)
    );
    assert_eq!(m.put("a", "new"), 9);
    let a = m.store.get(b"a", 0).unwrap().unwrap();
    assert_eq!((a.create_revision, a.version), (9, 1), "a new life");
}

/// KV-20, KV-38.
#[test]
fn kv20_38_compares() {
    let mut m = member(); // a: value 4, version 2, create 2, mod 7; d gone
    type Row = (
        &'static str,
        &'static str,
        i32,
        i32,
        Option<TargetUnion>,
        bool,
    );
    let table: [Row; 18] = [
        // key, end, target, result (0 =, 1 >, 2 <, 3 !=), value, holds
        ("a", "", 0, 0, Some(TargetUnion::Version(2)), true),
        ("a", "", 1, 1, Some(TargetUnion::CreateRevision(2)), false),
        ("a", "", 2, 2, Some(TargetUnion::ModRevision(8)), true),
        ("a", "", 3, 0, Some(TargetUnion::Value("4".into())), true),
        ("a", "", 3, 1, Some(TargetUnion::Value("3".into())), true),
        ("a", "", 4, 0, Some(TargetUnion::Lease(0)), true),
        ("d", "", 0, 0, Some(TargetUnion::Version(0)), true),
        ("d", "", 2, 2, Some(TargetUnion::ModRevision(1)), true),
        ("d", "", 3, 0, Some(TargetUnion::Value(Bytes::new())), false),
        ("d", "", 3, 3, Some(TargetUnion::Value("x".into())), false),
        ("a", "d", 0, 1, Some(TargetUnion::Version(0)), true),
        ("a", "d", 0, 0, Some(TargetUnion::Version(1)), false),
        ("x", "\0", 1, 0, Some(TargetUnion::CreateRevision(0)), true),
        // a field that is not the target's, or none
        ("a", "", 0, 0, Some(TargetUnion::ModRevision(2)), false),
        ("a", "", 3, 1, None, true),
        // unknown result and target
        ("a", "", 0, 9, Some(TargetUnion::Version(77)), true),
        ("a", "", 9, 0, Some(TargetUnion::Version(77)), true),
        ("a", "", 9, 1, Some(TargetUnion::Version(77)), false),
    ];
    for (key, end, target, result, target_union, holds) in table {
        let compare = Compare {
            result,
            target,
            key: key.into(),
            range_end: end.into(),
            target_union,
        };
        let request = TxnRequest {
            compare: vec![compare],
            ..TxnRequest::default()
        };
        assert_eq!(
            apply(&mut m, &request).unwrap().succeeded,
            holds,
            "{request:?}"
        );
        assert_eq!(kv::range_txn(&m.store, &request).unwrap().succeeded, holds);
    }
}

/// KV-21, KV-36: everything is decided and checked on the state before.
#[test]
fn kv21_36_checks_see_the_state_before() {
    let mut m = member();
    let ignore = PutRequest {
        ignore_value: true,
        ..put("new", "")
    };
    let request = txn(
        vec![
            put_op("new"),
            txn_op(vec![op(Request::RequestPut(ignore))], vec![]),
        ],
        vec![],
    );
    assert_eq!(apply(&mut m, &request), Err(RequestError::KeyNotFound));
    let unknown_lease = PutRequest {
        lease: 9,
        ..put("z", "v")
    };
    let bad = || op(Request::RequestPut(unknown_lease.clone()));
    assert_eq!(
        apply(&mut m, &txn(vec![put_op("y"), bad()], vec![])),
        Err(RequestError::LeaseNotFound)
    );
    assert_eq!(m.store.current_revision(), 7, "nothing was executed");
    assert!(
        apply(&mut m, &txn(vec![put_op("y")], vec![bad()])).is_ok(),
        "a branch not taken"
    );

    let absent = Compare {
        key: "k".into(),
        target: 0,
        ..Compare::default()
    };
    let nested = TxnRequest {
        compare: vec![absent],
        success: vec![op(Request::RequestRange(range("k", "")))],
        failure: vec![],
    };
    let response = apply(
        &mut m,
        &txn(vec![put_op("k"), op(Request::RequestTxn(nested))], vec![]),
    )
    .unwrap();
    let Some(Response::ResponseTxn(nested)) = &response.responses[1].response else {
        panic!("a txn answers a txn");
    };
    assert!(nested.succeeded);
    assert_eq!(
        nested.header,
        Some(ResponseHeader::default()),
        "an empty header"
    );
    let Some(Response::ResponseRange(seen)) = &nested.responses[0].response else {
        panic!("a range answers a range");
    };
    assert_eq!(seen.count, 1, "but ranges see what was written before them");
}

/// KV-22: revisions in headers and events.
#[test]
fn kv22_revisions() {
    let mut m = member();
    let request = txn(
        vec![
            op(Request::RequestRange(range("a", ""))),
            delete_op("x", ""),
            put_op("p"),
            delete_op("a", "c"),
            op(Request::RequestRange(range("a", ""))),
        ],
        vec![],
    );
    let (response, changes) = kv::apply_txn(&m.store, &request, &mut m.leases, false).unwrap();
    let revisions: Vec<_> = response
        .responses
        .iter()
        .map(|r| match r.response.as_ref().expect("a response") {
            Response::ResponseRange(r) => r.header,
            Response::ResponsePut(r) => r.header,
            Response::ResponseDeleteRange(r) => r.header,
            Response::ResponseTxn(r) => r.header,
        })
        .map(|h| h.expect("a header").revision)
        .collect();
    assert_eq!(revisions, [7, 7, 8, 8, 8]);
    assert_eq!(response.header.unwrap().revision, 8);
    let names: Vec<_> = changes.events.iter().map(|e| &e.kv.key[..]).collect();
    assert_eq!(names, [b"p", b"a", b"b"]);
    let unchanged = apply(&mut m, &txn(vec![delete_op("x", "")], vec![])).unwrap();
    assert_eq!(unchanged.header.unwrap().revision, 8);
}

/// KV-23, KB-13: explicit revisions in a txn.
#[test]
fn kv23_kb13_revisions_in_a_txn() {
    let at = |revision| {
        op(Request::RequestRange(RangeRequest {
            revision,
            ..range("a", "")
        }))
    };
    let mut m = member();
    for revision in [-1, 0, 1, 2, 7] {
        assert!(
            apply(&mut m, &txn(vec![at(revision)], vec![])).is_ok(),
            "{revision}"
        );
    }
    assert_eq!(
        apply(&mut m, &txn(vec![at(-2)], vec![])),
        Err(RequestError::Compacted)
    );
    assert_eq!(
        apply(&mut m, &txn(vec![at(8)], vec![])),
        Err(RequestError::FutureRevision)
    );
    // one that would exist by then is refused as well
    assert_eq!(
        apply(&mut m, &txn(vec![put_op("n"), at(8)], vec![])),
        Err(RequestError::FutureRevision)
    );

    // the outcome is the same whether the garbage is gone, and whether ranges are skipped
    m.store.compact(5).unwrap();
    for finished in [false, true] {
        if finished {
            m.finish_compactions();
            m.restart();
        }
        for (revision, refused) in [(-1, true), (0, false), (4, true), (5, false)] {
            for skip in [false, true] {
                let before = m.store.current_revision();
                let request = txn(vec![put_op("w"), at(revision)], vec![]);
                let result = kv::apply_txn(&m.store, &request, &mut m.leases, skip);
                assert_eq!(result.is_err(), refused, "revision {revision}");
                let written = m.store.current_revision() - before;
                assert_eq!(
                    written,
                    i64::from(!refused),
                    "refused whole or executed whole"
                );
            }
        }
    }
}

/// KV-24.
#[test]
fn kv24_what_needs_no_log() {
    let get = |serializable| {
        op(Request::RequestRange(RangeRequest {
            serializable,
            ..range("a", "")
        }))
    };
    let table = [
        (txn(vec![], vec![]), true, true),
        (txn(vec![get(true)], vec![get(true)]), true, true),
        (txn(vec![get(true)], vec![get(false)]), true, false),
        (txn(vec![get(true)], vec![put_op("a")]), false, false),
        (
            txn(vec![txn_op(vec![get(true)], vec![])], vec![]),
            false,
            false,
        ),
    ];
    for (request, readonly, serializable) in table {
        assert_eq!(kv::is_txn_readonly(&request), readonly, "{request:?}");
        assert_eq!(
            kv::is_txn_serializable(&request),
            serializable,
            "{request:?}"
        );
    }
}

/// KV-25: skipped ranges have a header and nothing else.
#[test]
fn kv25_skipped_ranges() {
    let mut m = member();
    let request = txn(
        vec![put_op("p"), op(Request::RequestRange(range("a", "z")))],
        vec![],
    );
    let (response, _) = kv::apply_txn(&m.store, &request, &mut m.leases, true).unwrap();
    let Some(Response::ResponseRange(skipped)) = &response.responses[1].response else {
        panic!("a range answers a range");
    };
    assert_eq!(skipped.header.unwrap().revision, 8);
    assert_eq!((skipped.count, skipped.kvs.len()), (0, 0));
}

/// KV-29, KB-24: costs count the whole tree.
#[test]
fn kv29_costs() {
    assert_eq!(kv::put_cost(&put("ab", "cde")), 261);
    assert_eq!(kv::LEASE_GRANT_COST, 64);
    let request = txn(
        vec![put_op("a"), delete_op("b", "z")],
        vec![
            put_op("a"),
            txn_op(vec![put_op("b")], vec![put_op("b"), put_op("c")]),
        ],
    );
    assert_eq!(kv::txn_cost(&request), 3 * 258);
    assert_eq!(kv::txn_cost(&txn(vec![delete_op("a", "")], vec![])), 0);
}

/// A piece of a streamed range tells whether there is more without counting it.
#[test]
fn kv12_chunks() {
    let m = member();
    let request = RangeRequest {
        limit: 1,
        ..range("\0", "\0")
    };
    let chunk = kv::range_chunk(&m.store, &request, 0).unwrap();
    assert_eq!((chunk.kvs.len(), chunk.more, chunk.count), (1, true, 2));
    // it may be ended by its bytes, at least one key-value being in it
    let all = range("\0", "\0");
    let whole = kv::range_chunk(&m.store, &all, 0).unwrap();
    assert!(!whole.more && whole.kvs.len() > 2, "{whole:?}");
    for bytes_max in [1, 2, 3, 1 << 20] {
        let chunk = kv::range_chunk(&m.store, &all, bytes_max).unwrap();
        let mut bytes = 0;
        let fits = whole.kvs.iter().take_while(|kv| {
            let before = bytes;
            bytes += kv.key.len() + kv.value.len();
            before < bytes_max
        });
        assert_eq!(chunk.kvs, fits.cloned().collect::<Vec<_>>());
        assert_eq!(chunk.more, chunk.kvs.len() < whole.kvs.len());
    }
    assert_eq!(kv::count(&m.store, b"b", b"\0", 7), Ok(2));
}

/// DK-13: what lies in the file, byte for byte.
#[test]
fn dk13_stored_bytes() {
    use ferrite_mvcc::schema::{Bucket, BucketKey, Revision};
    let mut m = Member::new();
    m.leases.granted.insert(300);
    let request = PutRequest {
        lease: 300,
        ..put("k", "v")
    };
    kv::apply_put(&m.store, &request, &mut m.leases).unwrap();
    kv::apply_put(&m.store, &put("k", ""), &mut m.leases).unwrap();
    m.delete("k");
    m.commit_all();
    use ferrite_mvcc::FileView;
    let get = |main, tombstone| {
        let key = BucketKey {
            revision: Revision::new(main, 0),
            tombstone,
        };
        m.file.get(Bucket::Key, &key.encode()).unwrap().unwrap()
    };
    let first = [
        0x0a, 1, b'k', 0x10, 2, 0x18, 2, 0x20, 1, 0x2a, 1, b'v', 0x30, 0xac, 2,
    ];
    assert_eq!(get(2, false)[..], first);
    assert_eq!(
        get(3, false)[..],
        [0x0a, 1, b'k', 0x10, 2, 0x18, 3, 0x20, 2]
    );
    assert_eq!(get(4, true)[..], [0x0a, 1, b'k']);
}
