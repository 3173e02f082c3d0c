//! `etcd grpc-proxy --experimental-leasing-prefix`: keys that proxies own, ours and the original's with one
//! prefix before one cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use ferrite_testkit::{Client, Cluster, Kind, PATIENCE, Random, eventually, oracle, pb};
use pb::request_op::Request::{RequestDeleteRange, RequestPut, RequestRange, RequestTxn};

use crate::grpc_proxy::{Proxy, range, read, serializable};
use crate::{beside_others, get, put};
use Kind::{Etcd351, Ferrite};

const LEASING: &str = "--experimental-leasing-prefix=own/";

/// Proxies of ours, and one of the original's where there is one.
fn kinds() -> Vec<Kind> {
    let mut kinds = vec![Ferrite, Ferrite];
    if oracle().is_some() {
        kinds.push(Etcd351);
    }
    kinds
}

fn operation(request: pb::request_op::Request) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

fn put_of(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    }
}

fn delete_of(key: &str, end: &str) -> pb::DeleteRangeRequest {
    pb::DeleteRangeRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        ..Default::default()
    }
}

fn version_is(key: &str, version: i64) -> pb::Compare {
    pb::Compare {
        result: pb::compare::CompareResult::Equal as i32,
        target: pb::compare::CompareTarget::Version as i32,
        key: key.to_owned().into(),
        target_union: Some(pb::compare::TargetUnion::Version(version)),
        ..Default::default()
    }
}

fn value_is(key: &str, value: &str) -> pb::Compare {
    pb::Compare {
        result: pb::compare::CompareResult::Equal as i32,
        target: pb::compare::CompareTarget::Value as i32,
        key: key.to_owned().into(),
        target_union: Some(pb::compare::TargetUnion::Value(value.to_owned().into())),
        ..Default::default()
    }
}

/// A leasing key as the cluster has it.
async fn leasing_key(direct: &Client, key: &str) -> Option<(String, i64)> {
    let answer = direct.kv().range(range(key)).await.expect("read");
    let pair = answer.into_inner().kvs.into_iter().next()?;
    let value = String::from_utf8_lossy(&pair.value).into_owned();
    Some((value, pair.lease))
}

async fn leases(direct: &Client) -> Vec<i64> {
    let mut stub = direct.lease();
    let all = stub.lease_leases(pb::LeaseLeasesRequest {}).await;
    let all = all.expect("leases").into_inner().leases;
    all.into_iter().map(|lease| lease.id).collect()
}

/// Reads until the key is this proxy's.
async fn acquire(client: &Client, direct: &Client, key: &str, lease: i64) {
    eventually("the key is acquired", PATIENCE, async || {
        get(client, key).await;
        let found = leasing_key(direct, &format!("own/{key}")).await;
        (found == Some((String::new(), lease))).then_some(())
    })
    .await;
}

/// The lease of the one proxy that is there.
async fn session(direct: &Client) -> i64 {
    eventually("there is a session", PATIENCE, async || {
        leases(direct).await.first().copied()
    })
    .await
}

/// What a read says, without what differs by its nature.
fn shown(answer: pb::RangeResponse) -> String {
    let pairs = answer.kvs.iter().map(|pair| {
        let (key, value) = (
            String::from_utf8_lossy(&pair.key),
            String::from_utf8_lossy(&pair.value),
        );
        format!("{key}={value} version {}", pair.version)
    });
    let pairs: Vec<String> = pairs.collect();
    format!("{pairs:?} {} {}", answer.count, answer.more)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_proxy_owns_it_answers_while_no_member_does() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    for kind in kinds().into_iter().skip(1) {
        let cluster = Cluster::builder().start().await;
        let direct = cluster.client(0);
        let flags = [LEASING, "--namespace=deep/"];
        let proxy = Proxy::start(kind, &dir, &[cluster.member(0).endpoint()], &flags).await;
        let client = proxy.client();
        let lease = session(&direct).await;
        let ask = pb::LeaseTimeToLiveRequest {
            id: lease,
            keys: false,
        };
        let left = direct.lease().lease_time_to_live(ask).await.expect("left");
        assert_eq!(left.into_inner().granted_ttl, 60, "{kind:?}");
        put(&direct, "deep/k", "v").await;
        for key in ["k", "missing"] {
            eventually("the key is acquired", PATIENCE, async || {
                get(&client, key).await;
                let found = leasing_key(&direct, &format!("deep/own/{key}")).await;
                (found == Some((String::new(), lease))).then_some(())
            })
            .await;
        }
        // The owner's own write, and a key that goes with somebody's lease.
        put(&client, "k", "w").await;
        let grant = pb::LeaseGrantRequest { ttl: 60, id: 5 };
        client.lease().lease_grant(grant).await.expect("a lease");
        let leased = pb::PutRequest {
            lease: 5,
            ..put_of("leased", "x")
        };
        client.kv().put(leased).await.expect("put");
        assert_eq!(get(&client, "leased").await.as_deref(), Some("x"));
        assert_eq!(leasing_key(&direct, "deep/own/leased").await, None);

        cluster.member(0).stop_signal();
        for (request, says) in [
            (range("k"), "[\"k=w version 2\"] 1 false"),
            (serializable("k"), "[\"k=w version 2\"] 1 false"),
            (range("missing"), "[] 0 false"),
            (
                pb::RangeRequest {
                    keys_only: true,
                    ..range("k")
                },
                "[\"k= version 2\"] 1 false",
            ),
            (
                pb::RangeRequest {
                    count_only: true,
                    ..range("k")
                },
                "[] 1 false",
            ),
            (
                pb::RangeRequest {
                    max_mod_revision: 1,
                    ..range("k")
                },
                "[] 1 false",
            ),
        ] {
            // 3.5.1 shows values even then.
            if kind == Etcd351 && request.keys_only {
                continue;
            }
            let answer = client.kv().range(request).await.expect("read");
            assert_eq!(shown(answer.into_inner()), says, "{kind:?}");
        }
        let txn = |compare| pb::TxnRequest {
            compare: vec![compare],
            success: vec![operation(RequestRange(range("k")))],
            failure: vec![operation(RequestRange(range("missing")))],
        };
        let cases = [
            (version_is("k", 2), true),
            (version_is("k", 1), false),
            (value_is("k", "w"), true),
            (version_is("missing", 0), true),
            // 3.5.1 takes a value that is not there for any value.
            (value_is("missing", ""), kind == Etcd351),
        ];
        for (compare, holds) in cases {
            let answer = client.kv().txn(txn(compare.clone())).await.expect("read");
            let answer = answer.into_inner();
            assert_eq!(answer.succeeded, holds, "{kind:?} {compare:?}");
            let found = match &answer.responses[0].response {
                Some(pb::response_op::Response::ResponseRange(found)) => found.kvs.len(),
                other => panic!("{other:?}"),
            };
            assert_eq!(found, usize::from(holds));
        }
        cluster.member(0).cont();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_writes_takes_the_key_from_its_owner() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::builder().start().await;
    let direct = cluster.client(0);
    let endpoint = cluster.member(0).endpoint();
    let mut proxies = Vec::new();
    for kind in kinds() {
        let before = leases(&direct).await;
        let proxy = Proxy::start(kind, &dir, &[endpoint], &[LEASING]).await;
        let lease = eventually("a session", PATIENCE, async || {
            let all = leases(&direct).await.into_iter();
            all.into_iter().find(|lease| !before.contains(lease))
        })
        .await;
        let client = proxy.client();
        proxies.push((kind, proxy, client, lease));
    }
    let mut round = 0;
    for (_, _, owner, lease) in &proxies {
        for (kind, _, writer, _) in &proxies {
            for way in 0..7 {
                // 3.5.1 asks nobody for what is behind an open end.
                if way == 6 && *kind == Etcd351 {
                    continue;
                }
                round += 1;
                // Each way has keys of its own: what was given up is not acquired again at once.
                let key = format!("k{round:03}");
                put(&direct, &key, "old").await;
                acquire(owner, &direct, &key, *lease).await;
                let mut kv = writer.kv();
                let end = format!("{key}\u{7f}");
                let new = operation(RequestPut(put_of(&key, "new")));
                let gone = operation(RequestDeleteRange(delete_of(&key, &end)));
                let left = match way {
                    0 => {
                        kv.put(put_of(&key, "new")).await.expect("put");
                        Some("new")
                    }
                    1 => {
                        kv.delete_range(delete_of(&key, "")).await.expect("deleted");
                        None
                    }
                    2 => {
                        let answer = kv.delete_range(delete_of(&key, &end)).await;
                        assert_eq!(answer.expect("deleted").into_inner().deleted, 1);
                        None
                    }
                    3 => {
                        let txn = pb::TxnRequest {
                            compare: vec![value_is(&key, "old")],
                            success: vec![new, operation(RequestRange(range(&key)))],
                            failure: vec![operation(RequestPut(put_of("other", "x")))],
                        };
                        let answer = kv.txn(txn).await.expect("committed").into_inner();
                        assert!(answer.succeeded && answer.responses.len() == 2);
                        Some("new")
                    }
                    4 => {
                        let inner = pb::TxnRequest {
                            success: vec![new],
                            ..Default::default()
                        };
                        let txn = pb::TxnRequest {
                            compare: vec![value_is(&key, "something else")],
                            failure: vec![operation(RequestTxn(inner))],
                            ..Default::default()
                        };
                        let answer = kv.txn(txn).await.expect("committed").into_inner();
                        assert!(!answer.succeeded);
                        Some("new")
                    }
                    5 => {
                        let txn = pb::TxnRequest {
                            success: vec![gone],
                            ..Default::default()
                        };
                        kv.txn(txn).await.expect("committed");
                        None
                    }
                    _ => {
                        kv.delete_range(delete_of(&key, "\0"))
                            .await
                            .expect("deleted");
                        None
                    }
                };
                for (reader_kind, _, reader, _) in &proxies {
                    assert_eq!(
                        get(reader, &key).await.as_deref(),
                        left,
                        "{key}, way {way}: written through {kind:?}, read through {reader_kind:?}"
                    );
                }
                assert_eq!(get(&direct, &key).await.as_deref(), left, "{key}");
            }
        }
    }
    // Many keys of others at once, in a transaction as large as there can be.
    let (_, _, first, lease) = &proxies[0];
    let keys: Vec<String> = (0..127).map(|at| format!("m{at:03}")).collect();
    for key in &keys {
        acquire(first, &direct, key, *lease).await;
    }
    let txn = pb::TxnRequest {
        success: keys
            .iter()
            .map(|key| operation(RequestPut(put_of(key, "all"))))
            .collect(),
        ..Default::default()
    };
    let (_, _, second, _) = &proxies[1];
    second.kv().txn(txn).await.expect("committed");
    for key in &keys {
        assert_eq!(get(first, key).await.as_deref(), Some("all"), "{key}");
    }
    // Whoever deletes everything takes the leasing keys with it: nobody owns anything then.
    put(&direct, "z", "old").await;
    acquire(first, &direct, "z", *lease).await;
    second
        .kv()
        .delete_range(delete_of("\0", "\0"))
        .await
        .expect("deleted");
    assert_eq!(get(first, "z").await, None);
    assert_eq!(get(second, "z").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_older_than_what_was_acknowledged_is_read_through_any_proxy() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::builder().start().await;
    let endpoint = cluster.member(0).endpoint();
    let mut proxies = Vec::new();
    for kind in kinds() {
        proxies.push(Proxy::start(kind, &dir, &[endpoint], &[LEASING]).await);
    }
    let clients: Vec<Client> = proxies.iter().map(Proxy::client).collect();
    // Of each key one writes one number after the other; many read.
    const KEYS: usize = 24;
    let acknowledged: Arc<Vec<AtomicI64>> = Arc::new((0..KEYS).map(|_| 0.into()).collect());
    let stop = Arc::new(AtomicBool::new(false));
    let reads = Arc::new(AtomicUsize::new(0));
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..3 {
        let (clients, acknowledged) = (clients.clone(), Arc::clone(&acknowledged));
        let stop = Arc::clone(&stop);
        let mut random = Random::of(writer);
        tasks.spawn(async move {
            for number in 1.. {
                for at in (writer as usize..KEYS).step_by(3) {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let client = &clients[random.below(clients.len() as u64) as usize];
                    put(client, &format!("k{at:02}"), &number.to_string()).await;
                    acknowledged[at].store(number, Ordering::SeqCst);
                    // Time enough for somebody to own a key before it is written again.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
            }
        });
    }
    for reader in 0..6 {
        let (clients, acknowledged) = (clients.clone(), Arc::clone(&acknowledged));
        let (stop, reads) = (Arc::clone(&stop), Arc::clone(&reads));
        let mut random = Random::of(100 + reader);
        tasks.spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                let at = random.below(KEYS as u64) as usize;
                let proxy = random.below(clients.len() as u64) as usize;
                let least = acknowledged[at].load(Ordering::SeqCst);
                let value = get(&clients[proxy], &format!("k{at:02}")).await;
                let value = value.map_or(0, |value| value.parse().expect("a number"));
                assert!(
                    value >= least,
                    "k{at:02} through {proxy}: {value} < {least}"
                );
                reads.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }
    tokio::time::sleep(Duration::from_secs(5)).await;
    stop.store(true, Ordering::Relaxed);
    while let Some(ended) = tasks.join_next().await {
        ended.expect("nothing old was read");
    }
    assert!(reads.load(Ordering::Relaxed) > 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_that_stands_still_is_waited_for_and_one_that_leaves_is_not() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::builder().start().await;
    let direct = cluster.client(0);
    let endpoint = cluster.member(0).endpoint();
    let owner = Proxy::start(Ferrite, &dir, &[endpoint], &[LEASING]).await;
    let lease = session(&direct).await;
    let other = Proxy::start(Ferrite, &dir, &[endpoint], &[LEASING]).await;
    let (client, writer) = (owner.client(), other.client());
    put(&direct, "k", "old").await;
    acquire(&client, &direct, "k", lease).await;
    owner.running.stop_signal();
    let waits = tokio::spawn(async move {
        put(&writer, "k", "new").await;
        writer
    });
    eventually("the owner is asked", PATIENCE, async || {
        let found = leasing_key(&direct, "own/k").await;
        (found == Some(("REVOKE".to_owned(), lease))).then_some(())
    })
    .await;
    assert_eq!(get(&direct, "k").await.as_deref(), Some("old"));
    assert!(!waits.is_finished());
    owner.running.cont();
    let writer = waits.await.expect("written");
    assert_eq!(get(&client, "k").await.as_deref(), Some("new"));

    // A lease that somebody else ends is the session's end, and another one begins.
    acquire(&client, &direct, "l", lease).await;
    let revoke = pb::LeaseRevokeRequest { id: lease };
    direct.lease().lease_revoke(revoke).await.expect("revoked");
    put(&writer, "l", "new").await;
    eventually("it is heard of", PATIENCE, async || {
        (get(&client, "l").await.as_deref() == Some("new")).then_some(())
    })
    .await;
    let lease = eventually("another session", PATIENCE, async || {
        get(&client, "m").await;
        let (_, found) = leasing_key(&direct, "own/m").await?;
        (found != lease).then_some(found)
    })
    .await;

    // Who ends gives back what it owns.
    acquire(&client, &direct, "n", lease).await;
    let Proxy { running, .. } = owner;
    running.terminate().await;
    assert_eq!(leasing_key(&direct, "own/n").await, None);
    assert!(!leases(&direct).await.contains(&lease));
    put(&writer, "n", "new").await;

    // With users on, who may read what is the members' to say.
    let mut auth = direct.auth();
    let root = pb::AuthUserAddRequest {
        name: "root".into(),
        password: "pw".into(),
        ..Default::default()
    };
    auth.user_add(root).await.expect("a user");
    let grant = pb::AuthUserGrantRoleRequest {
        user: "root".into(),
        role: "root".into(),
    };
    auth.user_grant_role(grant).await.expect("granted");
    auth.auth_enable(pb::AuthEnableRequest {})
        .await
        .expect("on");
    let rooted = other.client();
    rooted.authenticate("root", "pw").await.expect("a token");
    put(&rooted, "n", "rooted").await;
    let pair = ("n".to_owned(), "rooted".to_owned());
    assert_eq!(read(&rooted, range("n")).await, [pair]);
    assert!(other.client().kv().range(range("n")).await.is_err());
    let deleted = rooted.kv().delete_range(delete_of("a", "z")).await;
    assert!(deleted.expect("deleted").into_inner().deleted >= 3);
    assert_eq!(leasing_key(&rooted, "own/n").await, None);
}
