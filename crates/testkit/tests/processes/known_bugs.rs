//! Defects that the original once shipped and that need neither a crash nor a schedule to be asked
//! for. The others, and where each is held, are in `docs/known-bugs.md`.

use std::time::Duration;

use ferrite_testkit::{Client, Cluster, PATIENCE, pb};
use pb::request_op::Request as Op;
use pb::watch_request::RequestUnion;
use tonic::{Code, Streaming};

use crate::{beside_others, get, put};

/// Opens a watch over a range of keys from a revision; what it answers first, and what follows.
async fn watch(
    client: &Client,
    key: &str,
    end: &str,
    start_revision: i64,
) -> (pb::WatchResponse, Streaming<pb::WatchResponse>) {
    let create = pb::WatchCreateRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        start_revision,
        ..Default::default()
    };
    let request = pb::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    // The requests never end, so that neither does the stream.
    let requests = tokio_stream::StreamExt::chain(
        tokio_stream::once(request),
        tokio_stream::pending::<pb::WatchRequest>(),
    );
    let mut responses = client.watch().watch(requests).await.unwrap().into_inner();
    let created = next(&mut responses).await;
    assert!(created.created && !created.canceled, "{created:?}");
    (created, responses)
}

async fn next(responses: &mut Streaming<pb::WatchResponse>) -> pb::WatchResponse {
    tokio::time::timeout(PATIENCE, responses.message())
        .await
        .expect("a response in time")
        .unwrap()
        .expect("the stream goes on")
}

/// What a watcher tells up to the event of this revision: keys and revisions.
async fn told_until(
    responses: &mut Streaming<pb::WatchResponse>,
    revision: i64,
) -> Vec<(String, i64)> {
    let mut told = Vec::new();
    while told.last().is_none_or(|(_, last)| *last < revision) {
        for event in next(responses).await.events {
            let kv = event.kv.unwrap_or_default();
            let key = String::from_utf8_lossy(&kv.key).into_owned();
            told.push((key, kv.mod_revision));
        }
    }
    told
}

/// KB-07: what one transaction changes is told once each, to watchers that were there and to those
/// that come later.
#[tokio::test(flavor = "multi_thread")]
async fn kb07_one_event_for_each_key_of_a_transaction() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().start().await;
    let client = cluster.client(0);
    let first = put(&client, "a0", "v").await;
    let (_, mut live) = watch(&client, "a", "b", 0).await;
    let mut last = first;
    let mut expected = Vec::new();
    for round in 0..20 {
        let mut request = pb::TxnRequest::default();
        for n in 0..10 {
            let key = format!("a{n}");
            expected.push((key.clone(), first + 1 + round));
            request.success.push(pb::RequestOp {
                request: Some(Op::RequestPut(pb::PutRequest {
                    key: key.into(),
                    prev_kv: true,
                    ..Default::default()
                })),
            });
            // Reads in between must not add anything.
            request.success.push(pb::RequestOp {
                request: Some(Op::RequestRange(pb::RangeRequest {
                    key: "a".into(),
                    range_end: "b".into(),
                    ..Default::default()
                })),
            });
        }
        let response = client.kv().txn(request).await.unwrap().into_inner();
        last = response.header.unwrap().revision;
    }
    let end = put(&client, "az", "v").await;
    assert_eq!(end, last + 1);
    expected.push(("az".into(), end));
    assert_eq!(told_until(&mut live, end).await, expected);
    let (_, mut late) = watch(&client, "a", "b", first + 1).await;
    assert_eq!(told_until(&mut late, end).await, expected);
}

/// KB-20: revision 0 means "now", the answer says when that is, and resumed from there a watch misses
/// nothing, through a restart too.
#[tokio::test(flavor = "multi_thread")]
async fn kb20_a_watch_from_now_is_resumed_without_a_gap() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().start().await;
    let client = cluster.client(0);
    put(&client, "k", "before").await;
    let (created, responses) = watch(&client, "k", "", 0).await;
    let now = created.header.unwrap().revision;
    let first = put(&client, "k", "first").await;
    assert_eq!(first, now + 1);
    drop(responses);
    cluster.member(0).kill9();
    cluster.start_all().await;
    let second = put(&client, "k", "second").await;
    let (_, mut resumed) = watch(&client, "k", "", now + 1).await;
    assert_eq!(
        told_until(&mut resumed, second).await,
        [("k".to_owned(), first), ("k".to_owned(), second)]
    );
}

/// KB-23: revocations race with puts; whoever comes second is refused or goes with the lease.
#[tokio::test(flavor = "multi_thread")]
async fn kb23_no_key_stays_on_a_lease_that_is_gone() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().start().await;
    let client = cluster.client(0);
    for id in 1..=40 {
        let grant = pb::LeaseGrantRequest { id, ttl: 600 };
        client.lease().lease_grant(grant).await.unwrap();
        let puts = (0..4).map(|n| {
            let client = client.clone();
            tokio::spawn(async move {
                let request = pb::PutRequest {
                    key: format!("l{id}/{n}").into(),
                    lease: id,
                    ..Default::default()
                };
                client.kv().put(request).await
            })
        });
        let puts: Vec<_> = puts.collect();
        if id % 2 == 0 {
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
        let revoke = pb::LeaseRevokeRequest { id };
        client.lease().lease_revoke(revoke).await.unwrap();
        for one in puts {
            if let Err(status) = one.await.unwrap() {
                assert_eq!(
                    (status.code(), status.message()),
                    (Code::NotFound, "etcdserver: requested lease not found")
                );
            }
        }
    }
    let left = pb::RangeRequest {
        key: "l".into(),
        range_end: "m".into(),
        ..Default::default()
    };
    let left = client.kv().range(left).await.unwrap().into_inner().kvs;
    assert!(left.is_empty(), "{left:?}");
}

/// A write that counts only while the lock's key is the one it was taken with.
async fn fenced(client: &Client, key: &bytes::Bytes, created: i64, value: &str) -> bool {
    let held = pb::Compare {
        result: pb::compare::CompareResult::Equal as i32,
        target: pb::compare::CompareTarget::Create as i32,
        key: key.clone(),
        target_union: Some(pb::compare::TargetUnion::CreateRevision(created)),
        ..Default::default()
    };
    let write = Op::RequestPut(pb::PutRequest {
        key: "account".into(),
        value: value.to_owned().into(),
        ..Default::default()
    });
    let request = pb::TxnRequest {
        compare: Vec::from([held]),
        success: Vec::from([pb::RequestOp {
            request: Some(write),
        }]),
        ..Default::default()
    };
    let answer = client.kv().txn(request).await.expect("a transaction");
    answer.into_inner().succeeded
}

/// KB-19: whoever sleeps past its lease still believes that it holds the lock. The lock does not stop it; a
/// transaction that asks for the lock's key does. docs/locks.md tells it to users.
#[tokio::test(flavor = "multi_thread")]
async fn kb19_a_transaction_that_asks_for_the_locks_key_is_fenced() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().start().await;
    let client = cluster.client(0);
    let lock = async |lease: i64| {
        let request = ferrite_proto::v3lockpb::LockRequest {
            name: "accounts".into(),
            lease,
        };
        let locked = tokio::time::timeout(PATIENCE, client.lock().lock(request)).await;
        let locked = locked.expect("in time").expect("the lock").into_inner();
        let request = pb::RangeRequest {
            key: locked.key.clone(),
            ..Default::default()
        };
        let found = client
            .kv()
            .range(request)
            .await
            .expect("its key")
            .into_inner();
        (locked.key, found.kvs[0].create_revision)
    };
    for (id, ttl) in [(1, 2), (2, 600)] {
        let grant = pb::LeaseGrantRequest { id, ttl };
        client.lease().lease_grant(grant).await.expect("a lease");
    }
    let (first, first_created) = lock(1).await;
    assert!(fenced(&client, &first, first_created, "first").await);
    // The first holder sleeps: its lease ends, and the second one takes the lock meanwhile.
    let (second, second_created) = lock(2).await;
    assert_ne!(first, second);
    assert!(
        second_created > first_created,
        "the token of the fence rises"
    );
    assert!(fenced(&client, &second, second_created, "second").await);
    assert!(!fenced(&client, &first, first_created, "late").await);
    assert_eq!(get(&client, "account").await.as_deref(), Some("second"));
    // Nor does the same key count that is another one's by now: only the revision tells them apart.
    let grant = pb::LeaseGrantRequest { id: 1, ttl: 600 };
    client.lease().lease_grant(grant).await.expect("a lease");
    let request = ferrite_proto::v3lockpb::UnlockRequest { key: second };
    client.lock().unlock(request).await.expect("unlocked");
    let (again, again_created) = lock(1).await;
    assert_eq!(again, first);
    assert!(!fenced(&client, &first, first_created, "later").await);
    assert!(fenced(&client, &again, again_created, "third").await);
    // Without a fence anything is written.
    put(&client, "account", "by anybody").await;
}
