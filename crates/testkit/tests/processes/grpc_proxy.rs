//! `etcd grpc-proxy`: the same requests through ours and the original's, before clusters of both kinds; and
//! what ours promises beyond: shared watches, separate namespaces, members that come and go.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use ferrite_testkit::pb::watch_request::RequestUnion;
use ferrite_testkit::{
    Client, ClientConfig, Cluster, Kind, NameServer, PATIENCE, Pki, Ports, Running, Wanted,
    eventually, oracle, our_program, pb, run,
};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, Streaming};

use crate::{beside_others, get, http_get, put};
use Kind::{Etcd351, Ferrite};

/// A proxy that ends with the test.
pub(crate) struct Proxy {
    pub(crate) running: Running,
    pub(crate) address: String,
    _ports: Ports,
}

impl Proxy {
    pub(crate) async fn start(
        kind: Kind,
        dir: &TempDir,
        endpoints: &[&str],
        arguments: &[&str],
    ) -> Self {
        Self::start_with(kind, dir, endpoints, arguments, &[]).await
    }

    async fn start_with(
        kind: Kind,
        dir: &TempDir,
        endpoints: &[&str],
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> Self {
        let mut ports = Ports::default();
        let address = format!("127.0.0.1:{}", ports.take());
        let first = [
            "grpc-proxy",
            "start",
            &format!("--listen-addr={address}"),
            &format!("--endpoints={}", endpoints.join(",")),
            &format!("--advertise-client-url={address}"),
        ];
        let log = dir.path().join(format!("{address}.log"));
        let running = Running::start(
            &kind.server(),
            &[&first, arguments].concat(),
            variables,
            &log,
            "started gRPC proxy",
        )
        .await;
        Proxy {
            running,
            address,
            _ports: ports,
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(ClientConfig::new([&self.address])).expect("a client")
    }
}

pub(crate) fn range(key: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    }
}

/// All keys, or all of a namespace.
fn all() -> pb::RangeRequest {
    pb::RangeRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        ..Default::default()
    }
}

pub(crate) fn serializable(key: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        serializable: true,
        ..range(key)
    }
}

pub(crate) async fn read(client: &Client, request: pb::RangeRequest) -> Vec<(String, String)> {
    let answer = client.kv().range(request).await.expect("read").into_inner();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let pairs = answer.kvs.iter();
    pairs
        .map(|pair| (text(&pair.key), text(&pair.value)))
        .collect()
}

/// The value of a figure on a page.
fn figure(page: &str, name: &str) -> Option<f64> {
    let line = page
        .lines()
        .find(|line| line.starts_with(&format!("{name} ")))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// A watch through a proxy.
struct Watch {
    requests: mpsc::Sender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
}

fn creation(key: &str, start_revision: i64) -> pb::WatchRequest {
    pb::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(pb::WatchCreateRequest {
            key: key.to_owned().into(),
            start_revision,
            ..Default::default()
        })),
    }
}

impl Watch {
    async fn of(
        client: &Client,
        first: pb::WatchRequest,
        requires_leader: bool,
    ) -> Result<Self, Status> {
        let (requests, queued) = mpsc::channel(8);
        requests.send(first).await.expect("there is room");
        let mut request = Request::new(ReceiverStream::new(queued));
        if requires_leader {
            let value = "true".parse().expect("text");
            request.metadata_mut().insert("hasleader", value);
        }
        let answers = client.watch().watch(request).await?.into_inner();
        Ok(Watch { requests, answers })
    }

    async fn next(&mut self) -> pb::WatchResponse {
        let answer = tokio::time::timeout(PATIENCE, self.answers.message()).await;
        let answer = answer.expect("an answer in time").expect("an answer");
        answer.expect("the stream goes on")
    }

    /// The revisions of the next events.
    async fn revisions(&mut self, count: usize) -> Vec<i64> {
        let mut found = Vec::new();
        while found.len() < count {
            let answer = self.next().await;
            assert!(!answer.canceled, "{answer:?}");
            found.extend(answer.events.iter().map(|event| {
                let pair = event.kv.as_ref().expect("a pair");
                pair.mod_revision
            }));
        }
        found
    }
}

/// One of many requests, put as text so that it can be compared; figures that differ by their nature are
/// left out.
async fn conversation(client: &Client) -> Vec<String> {
    let mut said = Vec::new();
    let mut say = |what: &str, answer: Result<String, Status>| {
        said.push(match answer {
            Ok(text) => format!("{what}: {text}"),
            Err(status) => format!("{what}: refused: {}", status.message()),
        });
    };
    let mut kv = client.kv();
    let put = |key: &str, value: &str, prev_kv: bool| pb::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        prev_kv,
        ..Default::default()
    };
    for (key, value) in [("a", "1"), ("b", "2"), ("c", "3"), ("a", "4")] {
        let answer = kv.put(put(key, value, true)).await;
        say(
            "put",
            answer.map(|answer| format!("{:?}", answer.into_inner().prev_kv)),
        );
    }
    say(
        "no key",
        kv.put(put("", "x", false)).await.map(|_| String::new()),
    );
    for request in [
        range("a"),
        serializable("a"),
        serializable("a"),
        all(),
        pb::RangeRequest { limit: 1, ..all() },
        pb::RangeRequest {
            count_only: true,
            ..all()
        },
        pb::RangeRequest {
            keys_only: true,
            sort_order: pb::range_request::SortOrder::Descend as i32,
            ..all()
        },
        pb::RangeRequest {
            revision: 3,
            ..range("a")
        },
        pb::RangeRequest {
            revision: 9_999,
            ..range("a")
        },
        range("none"),
    ] {
        let answer = kv.range(request).await.map(|answer| {
            let answer = answer.into_inner();
            format!("{:?} {} {}", answer.kvs, answer.more, answer.count)
        });
        say("range", answer);
    }
    let operation = |request| pb::RequestOp {
        request: Some(request),
    };
    use pb::request_op::Request::{RequestDeleteRange, RequestPut, RequestRange, RequestTxn};
    let compare = |value: &str| pb::Compare {
        result: pb::compare::CompareResult::Equal as i32,
        target: pb::compare::CompareTarget::Value as i32,
        key: "a".into(),
        target_union: Some(pb::compare::TargetUnion::Value(value.to_owned().into())),
        ..Default::default()
    };
    for value in ["4", "5"] {
        let txn = pb::TxnRequest {
            compare: vec![compare(value)],
            success: vec![
                operation(RequestRange(range("a"))),
                operation(RequestPut(put("a", "5", true))),
                operation(RequestTxn(pb::TxnRequest {
                    success: vec![operation(RequestRange(range("b")))],
                    ..Default::default()
                })),
            ],
            failure: vec![operation(RequestDeleteRange(pb::DeleteRangeRequest {
                key: "b".into(),
                prev_kv: true,
                ..Default::default()
            }))],
        };
        let answer = kv.txn(txn).await.map(|answer| {
            let answer = answer.into_inner();
            let responses: Vec<String> = answer
                .responses
                .iter()
                .map(|one| {
                    format!("{:?}", one.response)
                        .split("header")
                        .count()
                        .to_string()
                })
                .collect();
            format!("{} {responses:?}", answer.succeeded)
        });
        say("txn", answer);
        say(
            "read",
            Ok(format!("{:?}", read(client, serializable("a")).await)),
        );
    }
    let delete = pb::DeleteRangeRequest {
        key: "b".into(),
        range_end: "d".into(),
        prev_kv: true,
    };
    let answer = kv.delete_range(delete).await;
    say(
        "delete",
        answer.map(|answer| {
            let answer = answer.into_inner();
            format!("{} {:?}", answer.deleted, answer.prev_kvs)
        }),
    );
    say(
        "gone",
        Ok(format!("{:?}", read(client, serializable("b")).await)),
    );
    let compaction = pb::CompactionRequest {
        revision: 4,
        physical: true,
    };
    say(
        "compact",
        kv.compact(compaction).await.map(|_| String::new()),
    );
    say(
        "compact",
        kv.compact(compaction).await.map(|_| String::new()),
    );
    let old = pb::RangeRequest {
        revision: 3,
        ..serializable("a")
    };
    say("old", kv.range(old).await.map(|_| String::new()));

    let mut lease = client.lease();
    let grant = pb::LeaseGrantRequest { ttl: 60, id: 77 };
    say(
        "grant",
        lease
            .lease_grant(grant)
            .await
            .map(|a| a.into_inner().ttl.to_string()),
    );
    say(
        "grant",
        lease.lease_grant(grant).await.map(|_| String::new()),
    );
    let leased = pb::PutRequest {
        lease: 77,
        ..put("l", "x", false)
    };
    say("leased", kv.put(leased).await.map(|_| String::new()));
    let ask = pb::LeaseTimeToLiveRequest { id: 77, keys: true };
    let left = lease.lease_time_to_live(ask).await;
    say("left", left.map(|a| format!("{:?}", a.into_inner().keys)));
    // A stream that the client has ended is one that the original does not serve.
    let (keep, asked) = mpsc::channel(1);
    let ask = pb::LeaseKeepAliveRequest { id: 77 };
    keep.send(ask).await.expect("there is room");
    let mut kept = lease
        .lease_keep_alive(ReceiverStream::new(asked))
        .await
        .expect("a stream")
        .into_inner();
    let first = kept.message().await.map(|answer| {
        let answer = answer.expect("an answer");
        format!("{} {}", answer.id, answer.ttl)
    });
    say("kept", first);
    drop(kept);
    let leases = lease.lease_leases(pb::LeaseLeasesRequest {}).await;
    say(
        "leases",
        leases.map(|a| format!("{:?}", a.into_inner().leases)),
    );
    let revoke = pb::LeaseRevokeRequest { id: 77 };
    say(
        "revoke",
        lease.lease_revoke(revoke).await.map(|_| String::new()),
    );
    say(
        "revoke",
        lease.lease_revoke(revoke).await.map(|_| String::new()),
    );
    // The original's cache does not hear of what a lease takes with it.
    say(
        "revoked",
        Ok(format!("{:?}", read(client, range("l")).await)),
    );

    let promote = client
        .cluster()
        .member_promote(pb::MemberPromoteRequest { id: 1 })
        .await;
    say("promote", promote.map(|_| String::new()));
    let members = client
        .cluster()
        .member_list(pb::MemberListRequest::default())
        .await;
    say(
        "members",
        members.map(|answer| {
            let members = answer.into_inner().members;
            let one = &members[0];
            format!("{} {} {}", members.len(), one.id, one.client_urls.len())
        }),
    );
    let alarms = client
        .maintenance()
        .alarm(pb::AlarmRequest::default())
        .await;
    say(
        "alarms",
        alarms.map(|a| format!("{:?}", a.into_inner().alarms)),
    );
    let status = client
        .maintenance()
        .status(pb::StatusRequest::default())
        .await;
    say(
        "status",
        status.map(|a| (a.into_inner().leader != 0).to_string()),
    );
    let role = pb::AuthRoleAddRequest { name: "r".into() };
    say(
        "role",
        client
            .auth()
            .role_add(role.clone())
            .await
            .map(|_| String::new()),
    );
    say(
        "role",
        client.auth().role_add(role).await.map(|_| String::new()),
    );
    let health = client
        .health()
        .check(ferrite_testkit::health::HealthCheckRequest::default())
        .await;
    say("health", health.map(|_| String::new()));

    let mut watch = Watch::of(client, creation("w", 0), false)
        .await
        .expect("a watch");
    let created = watch.next().await;
    say(
        "created",
        Ok(format!("{} {}", created.watch_id, created.created)),
    );
    for value in ["1", "2"] {
        kv.put(put("w", value, false)).await.expect("put");
    }
    let first = watch.next().await;
    let pair = first.events[0].kv.as_ref().expect("a pair");
    say(
        "event",
        Ok(format!("{:?} {:?}", pair.value, first.events[0].prev_kv)),
    );
    let cancel = pb::WatchRequest {
        request_union: Some(RequestUnion::CancelRequest(pb::WatchCancelRequest {
            watch_id: 0,
        })),
    };
    watch.requests.send(cancel).await.expect("sent");
    let canceled = loop {
        let answer = watch.next().await;
        if answer.canceled {
            break answer;
        }
    };
    say(
        "canceled",
        Ok(format!("{} {}", canceled.watch_id, canceled.cancel_reason)),
    );
    watch.requests.send(creation("w", 2)).await.expect("sent");
    let past = loop {
        let answer = watch.next().await;
        if answer.canceled {
            break answer;
        }
    };
    say(
        "compacted",
        Ok(format!("{} {}", past.watch_id, past.compact_revision)),
    );
    said
}

async fn compared(cluster: Kind, arguments: &[&str]) {
    if oracle().is_none() {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let mut said = Vec::new();
    for kind in [Etcd351, Ferrite] {
        let cluster = Cluster::builder().kinds(&[cluster]).start().await;
        let endpoint = cluster.member(0).endpoint();
        let proxy = Proxy::start(kind, &dir, &[endpoint], arguments).await;
        said.push(conversation(&proxy.client()).await);
    }
    let [theirs, ours] = &said[..] else {
        panic!("two conversations");
    };
    for (theirs, ours) in theirs.iter().zip(ours) {
        assert_eq!(ours, theirs, "before {cluster:?} with {arguments:?}");
    }
    assert_eq!(ours.len(), theirs.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_through_ours_and_the_originals_proxy_are_answered_alike() {
    let _turn = beside_others().await;
    compared(Ferrite, &[]).await;
    compared(Etcd351, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_changes_none_of_the_answers() {
    let _turn = beside_others().await;
    compared(Ferrite, &["--namespace=deep/er/"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_that_never_go_back_are_answered_alike() {
    let _turn = beside_others().await;
    compared(Ferrite, &["--experimental-serializable-ordering"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_watchers_of_a_range_are_one_at_the_member() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::builder().start().await;
    let endpoint = cluster.member(0).endpoint();
    let proxy = Proxy::start(Ferrite, &dir, &[endpoint], &[]).await;
    let client = proxy.client();
    let direct = cluster.client(0);
    put(&direct, "k", "0").await;
    let first = put(&direct, "k", "1").await;
    let mut watches = Vec::new();
    for at in 0..100 {
        // Of the present, and of the past.
        let start = if at % 4 == 3 { first } else { 0 };
        let mut watch = Watch::of(&client, creation("k", start), false)
            .await
            .expect("a watch");
        let created = watch.next().await;
        assert!(created.created && !created.canceled, "{created:?}");
        assert!(created.header.expect("a header").cluster_id != 0);
        watches.push((start, watch));
    }
    let second = put(&direct, "k", "2").await;
    for (start, watch) in &mut watches {
        let wanted = match start {
            0 => vec![second],
            first => vec![*first, second],
        };
        assert_eq!(watch.revisions(wanted.len()).await, wanted);
    }
    eventually("they are one", PATIENCE, async || {
        let page = http_get(endpoint, "/metrics").await;
        (figure(&page, "etcd_debugging_mvcc_watcher_total") == Some(1.0)).then_some(())
    })
    .await;
    let third = put(&direct, "k", "3").await;
    for (_, watch) in &mut watches {
        assert_eq!(watch.revisions(1).await, [third]);
    }
    let own = http_get(&proxy.address, "/proxy/metrics").await;
    let sharing = figure(&own, "etcd_grpc_proxy_watchers_coalescing_total");
    assert_eq!(sharing, Some(99.0));
    assert!(figure(&own, "etcd_grpc_proxy_events_coalescing_total") >= Some(99.0));
    // Of many ranges they are many watches by one stream, and those that end leave the others alone.
    let mut ranges = Vec::new();
    for at in 0..20 {
        let mut watch = Watch::of(&client, creation(&format!("other{at}"), 0), false)
            .await
            .expect("a watch");
        assert!(watch.next().await.created);
        ranges.push(watch);
    }
    let kept = ranges.split_off(10);
    drop(ranges);
    eventually("eleven ranges are left", PATIENCE, async || {
        let page = http_get(endpoint, "/metrics").await;
        (figure(&page, "etcd_debugging_mvcc_watcher_total") == Some(11.0)).then_some(())
    })
    .await;
    for (at, watch) in kept.into_iter().enumerate() {
        let mut watch = watch;
        let revision = put(&direct, &format!("other{}", at + 10), "v").await;
        assert_eq!(watch.revisions(1).await, [revision]);
    }
    let page = http_get(endpoint, "/metrics").await;
    let streams = "grpc_server_started_total{grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"}";
    assert_eq!(figure(&page, streams), Some(1.0));
    // When the last one goes, the member's goes, too.
    drop(watches);
    eventually("none is left", PATIENCE, async || {
        let page = http_get(endpoint, "/metrics").await;
        (figure(&page, "etcd_debugging_mvcc_watcher_total") == Some(0.0)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_do_not_see_each_other() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::builder().start().await;
    let endpoint = cluster.member(0).endpoint();
    let a = Proxy::start(Ferrite, &dir, &[endpoint], &["--namespace=a/"]).await;
    let b = Proxy::start(Ferrite, &dir, &[endpoint], &["--namespace=b/"]).await;
    let (a, b, direct) = (a.client(), b.client(), cluster.client(0));
    let mut watch = Watch::of(&a, creation("k", 0), false)
        .await
        .expect("a watch");
    watch.next().await;
    put(&b, "k", "of b").await;
    let own = put(&a, "k", "of a").await;
    assert_eq!(watch.revisions(1).await, [own]);
    let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    assert_eq!(read(&a, all()).await, [pair("k", "of a")]);
    assert_eq!(read(&b, all()).await, [pair("k", "of b")]);
    let both = [pair("a/k", "of a"), pair("b/k", "of b")];
    assert_eq!(read(&direct, all()).await, both);
    // A lease is everybody's; which keys hang on it is not.
    let grant = pb::LeaseGrantRequest { ttl: 60, id: 5 };
    a.lease().lease_grant(grant).await.expect("a lease");
    for (client, key) in [(&a, "x"), (&b, "y")] {
        let leased = pb::PutRequest {
            key: key.to_owned().into(),
            lease: 5,
            ..Default::default()
        };
        client.kv().put(leased).await.expect("put");
        let ask = pb::LeaseTimeToLiveRequest { id: 5, keys: true };
        let left = client.lease().lease_time_to_live(ask).await.expect("left");
        assert_eq!(left.into_inner().keys, [key.as_bytes()]);
    }
    let everything = pb::DeleteRangeRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        ..Default::default()
    };
    let deleted = a.kv().delete_range(everything).await.expect("deleted");
    assert_eq!(deleted.into_inner().deleted, 2);
    assert_eq!(read(&b, range("k")).await, [pair("k", "of b")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_from_the_cache_are_no_older_than_the_proxys_own_writes() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::builder().members(3).start().await;
    let endpoints: Vec<&str> = (0..3).map(|at| cluster.member(at).endpoint()).collect();
    let proxy = Proxy::start(Ferrite, &dir, &endpoints, &[]).await;
    let client = proxy.client();
    put(&client, "k", "1").await;
    assert_eq!(get(&client, "k").await.as_deref(), Some("1"));
    // Somebody else's write is not heard of.
    let direct = cluster.client(0);
    put(&direct, "k", "2").await;
    let first = |pairs: Vec<(String, String)>| pairs.into_iter().next().map(|(_, value)| value);
    assert_eq!(
        first(read(&client, serializable("k")).await).as_deref(),
        Some("1")
    );
    // A linearizable read is, and tells it to the next.
    assert_eq!(get(&client, "k").await.as_deref(), Some("2"));
    assert_eq!(
        first(read(&client, serializable("k")).await).as_deref(),
        Some("2")
    );
    for at in 0..50 {
        let value = at.to_string();
        put(&client, "k", &value).await;
        // The member that is asked may lag; what it says is not kept then.
        assert_eq!(get(&client, "k").await, Some(value.clone()));
        assert_eq!(first(read(&client, serializable("k")).await), Some(value));
    }
    let own = http_get(&proxy.address, "/proxy/metrics").await;
    assert!(
        figure(&own, "etcd_grpc_proxy_cache_hits_total") >= Some(52.0),
        "{own}"
    );
    assert_eq!(figure(&own, "etcd_grpc_proxy_cache_keys_total"), Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_go_on_when_a_member_dies() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::builder().members(3).start().await;
    let endpoints: Vec<&str> = (0..3).map(|at| cluster.member(at).endpoint()).collect();
    let proxy = Proxy::start(Ferrite, &dir, &endpoints, &[]).await;
    let client = proxy.client();
    let mut watch = Watch::of(&client, creation("k", 0), true)
        .await
        .expect("a watch");
    watch.next().await;
    let grant = pb::LeaseGrantRequest { ttl: 60, id: 9 };
    client.lease().lease_grant(grant).await.expect("a lease");
    let (keep, asked) = mpsc::channel(8);
    let mut kept = client
        .lease()
        .lease_keep_alive(ReceiverStream::new(asked))
        .await;
    let kept = kept.as_mut().expect("a stream").get_mut();
    for at in 0..3 {
        cluster.member(at).kill9();
        let revision = eventually("a write gets through", PATIENCE, async || {
            let request = pb::PutRequest {
                key: "k".into(),
                value: at.to_string().into(),
                ..Default::default()
            };
            let answer = client.kv().put(request).await.ok()?.into_inner();
            Some(answer.header?.revision)
        })
        .await;
        loop {
            let seen = watch.revisions(1).await;
            if seen.contains(&revision) {
                break;
            }
        }
        keep.send(pb::LeaseKeepAliveRequest { id: 9 })
            .await
            .expect("sent");
        let answer = tokio::time::timeout(PATIENCE, kept.message()).await;
        let answer = answer.expect("in time").expect("kept").expect("an answer");
        assert_eq!(answer.ttl, 60);
        cluster.member(at).start();
        cluster.member(at).ready(PATIENCE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_that_keep_a_lease_alive_are_one_stream_at_the_member() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::builder().start().await;
    let endpoint = cluster.member(0).endpoint();
    let proxy = Proxy::start(Ferrite, &dir, &[endpoint], &[]).await;
    let client = proxy.client();
    let grant = pb::LeaseGrantRequest { ttl: 60, id: 7 };
    client.lease().lease_grant(grant).await.expect("a lease");
    let mut streams = Vec::new();
    for _ in 0..50 {
        let (keep, asked) = mpsc::channel(8);
        for id in [7, 8, 7] {
            let request = pb::LeaseKeepAliveRequest { id };
            keep.send(request).await.expect("there is room");
        }
        let asked = ReceiverStream::new(asked);
        let kept = client.lease().lease_keep_alive(asked).await;
        streams.push((keep, kept.expect("a stream").into_inner()));
    }
    for (_, kept) in &mut streams {
        let mut lives = Vec::new();
        for _ in 0..3 {
            let answer = tokio::time::timeout(PATIENCE, kept.message()).await;
            let answer = answer.expect("in time").expect("kept").expect("an answer");
            lives.push((answer.id, answer.ttl));
        }
        lives.sort_unstable();
        assert_eq!(lives, [(7, 60), (7, 60), (8, 0)]);
    }
    let page = http_get(endpoint, "/metrics").await;
    let line = page.lines().find(|line| {
        line.starts_with("grpc_server_started_total") && line.contains("LeaseKeepAlive")
    });
    assert!(line.is_some_and(|line| line.ends_with(" 1")), "{line:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_finds_members_that_it_was_not_told_of() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::builder().members(3).start().await;
    let first = cluster.member(0).endpoint();
    let flags = ["--endpoints-auto-sync-interval=100ms"];
    let proxy = Proxy::start(Ferrite, &dir, &[first], &flags).await;
    let client = proxy.client();
    let seen = std::sync::Mutex::new(BTreeSet::new());
    eventually("all members are asked", PATIENCE, async || {
        let status = client
            .maintenance()
            .status(pb::StatusRequest::default())
            .await;
        let header = status.ok()?.into_inner().header?;
        let mut seen = seen.lock().expect("one test");
        seen.insert(header.member_id);
        (seen.len() == 3).then_some(())
    })
    .await;
    cluster.member(0).kill9();
    eventually("a write gets through", PATIENCE, async || {
        let request = pb::PutRequest {
            key: "k".into(),
            ..Default::default()
        };
        client.kv().put(request).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_wants_a_leader_is_told_when_there_is_none() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::builder().members(3).start().await;
    let endpoints: Vec<&str> = (0..3).map(|at| cluster.member(at).endpoint()).collect();
    let proxy = Proxy::start(Ferrite, &dir, &endpoints, &[]).await;
    let client = proxy.client();
    let mut wanting = Watch::of(&client, creation("k", 0), true)
        .await
        .expect("a watch");
    wanting.next().await;
    let mut content = Watch::of(&client, creation("k", 0), false)
        .await
        .expect("a watch");
    content.next().await;
    cluster.member(1).kill9();
    cluster.member(2).kill9();
    let ended = tokio::time::timeout(PATIENCE, wanting.answers.message()).await;
    let status = ended.expect("in time").expect_err("it ends");
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "etcdserver: no leader")
    );
    for at in [1, 2] {
        cluster.member(at).start();
    }
    for at in [1, 2] {
        cluster.member(at).ready(PATIENCE).await;
    }
    let revision = put(&client, "k", "v").await;
    assert_eq!(content.revisions(1).await, [revision]);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_are_the_members_business_and_nobody_reads_anothers_answers() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::builder().start().await;
    let direct = cluster.client(0);
    let mut auth = direct.auth();
    let no_options = None;
    for (name, password) in [("root", "r"), ("alice", "a")] {
        let user = pb::AuthUserAddRequest {
            name: name.into(),
            password: password.into(),
            options: no_options,
            ..Default::default()
        };
        auth.user_add(user).await.expect("a user");
    }
    let root = pb::AuthRoleAddRequest {
        name: "root".into(),
    };
    auth.role_add(root).await.expect("a role");
    let granted = pb::AuthUserGrantRoleRequest {
        user: "root".into(),
        role: "root".into(),
    };
    auth.user_grant_role(granted).await.expect("granted");
    put(&direct, "secret", "s").await;
    auth.auth_enable(pb::AuthEnableRequest {})
        .await
        .expect("on");
    let endpoint = cluster.member(0).endpoint();
    let proxy = Proxy::start(Ferrite, &dir, &[endpoint], &[]).await;
    let (root, alice) = (proxy.client(), proxy.client());
    root.login("root", "r").await.expect("logged in");
    alice.login("alice", "a").await.expect("logged in");
    // The first read fills the cache, the second comes from it.
    for _ in 0..2 {
        assert_eq!(read(&root, serializable("secret")).await.len(), 1);
    }
    let refused = alice.kv().range(serializable("secret")).await;
    let refused = refused.expect_err("she may not");
    assert_eq!(refused.message(), "etcdserver: permission denied");
    let mut seen = Watch::of(&root, creation("secret", 0), false)
        .await
        .expect("a watch");
    assert!(!seen.next().await.canceled);
    let mut unseen = Watch::of(&alice, creation("secret", 0), false)
        .await
        .expect("a stream");
    let answer = unseen.next().await;
    assert!(answer.created && answer.canceled, "{answer:?}");
    assert!(
        answer.cancel_reason.contains("permission denied"),
        "{answer:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn proxies_that_register_tell_of_each_other() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::builder().start().await;
    let endpoint = cluster.member(0).endpoint();
    let flags = ["--resolver-prefix=proxies", "--resolver-ttl=2"];
    let mut kinds = vec![Ferrite, Ferrite];
    if oracle().is_some() {
        kinds.push(Etcd351);
    }
    let mut proxies = Vec::new();
    for kind in kinds {
        proxies.push(Proxy::start(kind, &dir, &[endpoint], &flags).await);
    }
    let listed = async |client: &Client| -> BTreeSet<String> {
        let list = client
            .cluster()
            .member_list(pb::MemberListRequest::default())
            .await;
        let members = list.expect("a list").into_inner().members.into_iter();
        members.flat_map(|member| member.client_urls).collect()
    };
    let all: BTreeSet<String> = proxies.iter().map(|proxy| proxy.address.clone()).collect();
    for proxy in &proxies {
        let client = proxy.client();
        eventually("all are listed", PATIENCE, async || {
            (listed(&client).await == all).then_some(())
        })
        .await;
    }
    // One that is gone is forgotten when its lease is over.
    let gone = proxies.remove(0).address.clone();
    let client = proxies[0].client();
    eventually("it is forgotten", PATIENCE, async || {
        (!listed(&client).await.contains(&gone)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_tell_of_the_cluster_and_of_the_proxy() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::builder().start().await;
    let endpoint = cluster.member(0).endpoint();
    let mut ports = Ports::default();
    let aside = format!("127.0.0.1:{}", ports.take());
    let metrics = format!("--metrics-addr=http://{aside}");
    let flags = [&metrics[..], "--enable-pprof"];
    let proxy = Proxy::start(Ferrite, &dir, &[endpoint], &flags).await;
    put(&proxy.client(), "k", "v").await;
    for at in [&proxy.address, &aside] {
        let well = "{\"health\":\"true\",\"reason\":\"\"}";
        assert_eq!(http_get(at, "/health").await, well);
        assert_eq!(http_get(at, "/proxy/health").await, well);
        let members = http_get(at, "/metrics").await;
        assert_eq!(figure(&members, "etcd_server_has_leader"), Some(1.0));
        let own = http_get(at, "/proxy/metrics").await;
        assert!(own.contains("grpc_method=\"Put\""), "{own}");
        assert!(figure(&own, "process_resident_memory_bytes").is_some());
        assert_eq!(http_get(at, "/nothing").await, "404 page not found\n");
    }
    let profile = http_get(&proxy.address, "/debug/pprof/goroutine").await;
    assert!(profile.contains("serving proxy"), "{profile}");
    cluster.member(0).kill9();
    eventually("it is not well", PATIENCE, async || {
        let page = http_get(&proxy.address, "/health").await;
        (page.contains("\"false\"") && page.contains("GET ERROR:")).then_some(())
    })
    .await;
    assert_eq!(
        http_get(&proxy.address, "/metrics").await,
        "Internal server error\n"
    );
    drop(proxy);
    // Whoever is not told where the proxy is cannot look after it.
    let bare = Proxy::start(Ferrite, &dir, &[endpoint], &["--advertise-client-url="]).await;
    let unwell = http_get(&bare.address, "/proxy/health").await;
    assert!(unwell.contains("no connection to proxy"), "{unwell}");
    assert_eq!(
        http_get(&bare.address, "/debug/pprof/").await,
        "404 page not found\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_speak_tls() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(dir.path(), "ca");
    let server = pki.issue(
        "server",
        &Wanted::hosts(&["localhost", "127.0.0.1"]).named("served"),
    );
    let own = pki.issue("own", &Wanted::hosts(&["localhost", "127.0.0.1"]));
    let (cert, key, ca) = (
        format!("--cert-file={}", server.cert),
        format!("--key-file={}", server.key),
        format!("--trusted-ca-file={}", pki.ca()),
    );
    let cluster = Cluster::builder()
        .encrypted_clients(pki.client(Some(&own)))
        .extra_args(&[&cert, &key, &ca, "--client-cert-auth"])
        .start()
        .await;
    let endpoint = cluster.member(0).endpoint();
    let dialing = [
        format!("--cacert={}", pki.ca()),
        format!("--cert={}", own.cert),
        format!("--key={}", own.key),
    ];
    let mut flags: Vec<&str> = dialing.iter().map(String::as_str).collect();
    flags.extend([&cert[..], &key, &ca]);
    let proxy = Proxy::start(Ferrite, &dir, &[endpoint], &flags).await;
    let mut config = ClientConfig::new([format!("https://{}", proxy.address)]);
    config.tls = Some(pki.client(Some(&own)));
    let client = Client::new(config).expect("a client");
    put(&client, "k", "v").await;
    assert_eq!(get(&cluster.client(0), "k").await.as_deref(), Some("v"));
    // Without a certificate nobody gets in.
    let mut config = ClientConfig::new([format!("https://{}", proxy.address)]);
    config.tls = Some(pki.client(None));
    config.call_timeout = Some(Duration::from_secs(2));
    let stranger = Client::new(config).expect("a client");
    assert!(stranger.kv().range(range("k")).await.is_err());
    // A name in the certificate would make all clients that user.
    let named = pki.issue("named", &Wanted::common_name("root"));
    let arguments = [
        "grpc-proxy".to_owned(),
        "start".to_owned(),
        "--listen-addr=127.0.0.1:0".to_owned(),
        format!("--cacert={}", pki.ca()),
        format!("--cert={}", named.cert),
        format!("--key={}", named.key),
    ];
    let mut kinds = vec![Ferrite];
    if oracle().is_some() {
        kinds.push(Etcd351);
    }
    for kind in kinds {
        let outcome = run(&kind.server(), &arguments, Duration::from_secs(20));
        assert_eq!(outcome.code(), Some(1), "{kind:?}: {}", outcome.text());
        let text = format!("cert has non empty Common Name (root): {}", named.cert);
        assert!(
            outcome.stderr.contains(&text),
            "{kind:?}: {}",
            outcome.text()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_its_own_and_members_from_dns() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::builder().start().await;
    let endpoint = cluster.member(0).endpoint();
    let port = endpoint
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok());
    let server = NameServer::start(
        &[(
            "_etcd-client._tcp.a.test.",
            &[("localhost", port.expect("a port"))],
        )],
        false,
    );
    let flags = [
        "--discovery-srv=a.test",
        "--insecure-discovery",
        "--auto-tls",
        "--endpoints-auto-sync-interval=100ms",
        "--experimental-enable-grpc-logging",
        "--data-dir=proxied",
    ];
    let variables = [("FERRITE_DNS", server.address())];
    // What the flag names is not there; what DNS names is.
    let proxy = Proxy::start_with(Ferrite, &dir, &["127.0.0.1:1"], &flags, &variables).await;
    assert!(dir.path().join("proxied/fixtures/proxy/cert.pem").exists());
    let mut config = ClientConfig::new([format!("https://{}", proxy.address)]);
    let info = ferrite_testkit::tls::TlsInfo {
        insecure_skip_verify: true,
        ..Default::default()
    };
    let tls = ferrite_testkit::tls::ClientTls::new(&info, &["h2"]).expect("no files");
    config.tls = Some(std::sync::Arc::new(tls));
    let client = Client::new(config).expect("a client");
    put(&client, "k", "v").await;
    assert_eq!(get(&cluster.client(0), "k").await.as_deref(), Some("v"));
    proxy.running.logs("\"grpc.method\":\"Put\"").await;
}

/// The proxy as `etcdctl` sees it, ours and 3.5.1's.
#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_works_through_it() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::builder().start().await;
    let endpoint = cluster.member(0).endpoint();
    let proxy = Proxy::start(Ferrite, &dir, &[endpoint], &[]).await;
    let mut programs = vec![our_program("etcdctl")];
    programs.extend(oracle().map(|dir| dir.join("etcdctl")));
    for program in programs {
        let ctl = |arguments: &[&str]| {
            let endpoints = format!("--endpoints={}", proxy.address);
            let arguments = [&[&endpoints[..]], arguments].concat();
            let outcome = run(&program, &arguments, Duration::from_secs(30));
            assert_eq!(outcome.code(), Some(0), "{arguments:?}: {}", outcome.text());
            outcome.stdout
        };
        assert_eq!(ctl(&["put", "k", "v"]), "OK\n");
        assert_eq!(ctl(&["get", "k"]), "k\nv\n");
        assert_eq!(ctl(&["get", "k", "--consistency=s"]), "k\nv\n");
        assert!(
            ctl(&["endpoint", "health"]).is_empty() || !ctl(&["endpoint", "status"]).is_empty()
        );
        assert!(ctl(&["member", "list"]).contains(&proxy.address));
        assert!(ctl(&["lock", "name", "echo", "held"]).contains("held"));
        let saved = dir.path().join("saved.db");
        ctl(&["snapshot", "save", saved.to_str().expect("a path")]);
        assert!(saved.exists());
        std::fs::remove_file(&saved).expect("removed");
        assert!(ctl(&["del", "k"]).starts_with('1'));
    }
}

/// What is written, log lines aside.
fn words(program: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let outcome = run(program, arguments, Duration::from_secs(20));
    let both = outcome.stdout.lines().chain(outcome.stderr.lines());
    let lines: Vec<&str> = both.filter(|line| !line.starts_with('{')).collect();
    (outcome.code(), lines.join("\n"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_in_the_originals_words() {
    let _turn = beside_others().await;
    let ours = Ferrite.server();
    let start = ["grpc-proxy", "start"];
    let refused = |arguments: &[&str]| {
        let (code, text) = words(&ours, &[&start, arguments].concat());
        assert_eq!(code, Some(1), "{arguments:?}: {text}");
        text
    };
    for (arguments, says) in [
        (&["--resolver-prefix=x"][..], "invalid resolver-ttl 0"),
        (&["--resolver-ttl=5"], "invalid resolver-prefix \"\""),
        (
            &[
                "--resolver-prefix=x",
                "--resolver-ttl=5",
                "--advertise-client-url=",
            ],
            "invalid advertise-client-url \"\"",
        ),
        (
            &["--auto-tls", "--self-signed-cert-validity=0"],
            "selfSignedCertValidity is invalid,it should be greater than 0",
        ),
    ] {
        assert_eq!(refused(arguments), says);
        if oracle().is_some() {
            let theirs = words(&Etcd351.server(), &[&start, arguments].concat());
            assert_eq!(theirs, (Some(1), says.to_owned()), "{arguments:?}");
        }
    }
    // Of flags that 3.5.1 does not have.
    for (arguments, says) in [
        (
            &["--tls-min-version=TLS1.1"][..],
            "tls-min-version is invalid: unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)",
        ),
        (
            &["--tls-max-version=x"],
            "tls-max-version is invalid: unexpected TLS version \"x\" (must be one of: TLS1.2, TLS1.3)",
        ),
        (
            &["--tls-min-version=TLS1.3", "--tls-max-version=TLS1.2"],
            "min version (TLS1.3) is greater than max version (TLS1.2)",
        ),
        (
            &["--tls-min-version=TLS1.3", "--listen-cipher-suites=x"],
            "cipher suites cannot be configured when only TLS1.3 is enabled",
        ),
    ] {
        assert_eq!(refused(arguments), says);
    }
    let mistakes = [
        &["grpc-proxy"][..],
        &["grpc-proxy", "other"],
        &["grpc-proxy", "start", "--bogus"],
        &["grpc-proxy", "start", "--resolver-ttl=x"],
        &["grpc-proxy", "start", "--debug=x"],
    ];
    for arguments in mistakes {
        let (code, text) = words(&ours, arguments);
        if oracle().is_none() {
            continue;
        }
        let (their_code, theirs) = words(&Etcd351.server(), arguments);
        assert_eq!(code, their_code, "{arguments:?}");
        let mistake = |text: &str| {
            let first = text.lines().next().unwrap_or_default().to_owned();
            first.starts_with("Error").then_some(first)
        };
        assert_eq!(mistake(&text), mistake(&theirs), "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_not_streamed() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::builder().start().await;
    let proxy = Proxy::start(Ferrite, &dir, &[cluster.member(0).endpoint()], &[]).await;
    let refused = proxy.client().kv().range_stream(range("k")).await;
    let refused = refused.expect_err("it is refused");
    assert_eq!(
        (refused.code(), refused.message()),
        (
            Code::Unimplemented,
            "RangeStream is not supported by the gRPC proxy"
        )
    );
    let progress = pb::WatchRequest {
        request_union: Some(RequestUnion::ProgressRequest(pb::WatchProgressRequest {})),
    };
    let client = proxy.client();
    let mut watch = Watch::of(&client, creation("k", 0), false)
        .await
        .expect("a watch");
    watch.next().await;
    watch.requests.send(progress).await.expect("sent");
    // 3.5.1 does not answer this one.
    watch.requests.send(creation("k", -1)).await.expect("sent");
    let refused = watch.next().await;
    assert_eq!(
        (refused.watch_id, refused.created, refused.canceled),
        (-1, true, true)
    );
    assert_eq!(
        refused.cancel_reason,
        "etcdserver: mvcc: required revision has been compacted"
    );
    proxy
        .running
        .logs("not supported request type by gRPC proxy")
        .await;
    let revision = put(&client, "k", "v").await;
    assert_eq!(watch.revisions(1).await, [revision]);
}
