//! What is refused for want of time: a member that lags, leaders that are lost, calls that wait in vain.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ferrite_client::{Config, pb};
use ferrite_testkit::{Client, Cluster, Kind, PATIENCE, eventually, oracle};
use pb::watch_request::RequestUnion;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Request};

use super::{put_request, range, refused, txn, wire};
use crate::{beside_others, http_get, put};

const ELECTION: Duration = Duration::from_secs(1);

/// A client of one member that waits longer than the server does, and asks once.
fn patient(cluster: &Cluster, member: usize) -> Client {
    let mut config = Config::new([cluster.member(member).endpoint()]);
    config.call_timeout = Some(PATIENCE);
    Client::new(config).expect("a loopback endpoint")
}

async fn ids(cluster: &Cluster) -> Vec<u64> {
    (cluster.statuses().await.iter())
        .map(|(_, status)| status.header.as_ref().map_or(0, |header| header.member_id))
        .collect()
}

fn put_at(client: &Client, key: &'static str) -> tokio::task::JoinHandle<(Code, String)> {
    let client = client.clone();
    tokio::spawn(async move { refused(client.kv().put(put_request(key)).await) })
}

/// ER-50: the leader stands still when it is to log the puts, and another is elected. That one knows.
async fn lost_with_its_leader(kind: Kind) -> Said {
    let cluster = Cluster::builder().kinds(&[kind, kind, kind]).start().await;
    let leader = cluster.leader().await;
    let followers = [(leader + 1) % 3, (leader + 2) % 3];
    let clients = followers.map(|follower| patient(&cluster, follower));
    for client in &clients {
        client.kv().range(range("k")).await.expect("a connection");
    }
    cluster.member(leader).stop_signal();
    // Not longer than two election timeouts before the next leader, and before that is looked for.
    tokio::time::sleep(ELECTION / 2).await;
    let calls = clients.map(|client| put_at(&client, "k"));
    let elected = cluster.leader().await;
    for (follower, call) in followers.into_iter().zip(calls) {
        let text = match follower == elected {
            true => "etcdserver: request timed out, possibly due to previous leader failure",
            false => "etcdserver: request timed out",
        };
        expect(&call.await.unwrap(), text)?;
    }
    Ok(())
}

/// ER-51: a leader that has lost its followers, and has not found time to notice.
async fn lost_with_its_followers(kind: Kind) -> Said {
    // It is to lead still when it is stopped, however long that takes to come about.
    let cluster = Cluster::builder()
        .kinds(&[kind, kind, kind])
        .extra_args(&["--election-timeout=3000"])
        .start()
        .await;
    let leader = cluster.leader().await;
    let client = patient(&cluster, leader);
    client.kv().range(range("k")).await.expect("a connection");
    let gone = [(leader + 1) % 3, (leader + 2) % 3];
    gone.into_iter()
        .for_each(|member| cluster.member(member).kill9());
    let call = put_at(&client, "k");
    let noticed = async || {
        let log = cluster.member(leader).log();
        let lost = log.matches("peer became inactive").count();
        // What is not read before the stop begins to wait after it.
        let page = http_get(cluster.member(leader).endpoint(), "/metrics").await;
        let waits = page.contains("\netcd_server_proposals_pending 1\n");
        (lost >= 2 && waits).then_some(())
    };
    eventually("the put waits, and the links are lost", PATIENCE, noticed).await;
    cluster.member(leader).stop_signal();
    tokio::time::sleep(Duration::from_millis(11_500)).await;
    cluster.member(leader).cont();
    let said = call.await.unwrap();
    let text = "etcdserver: request timed out, possibly due to connection lost";
    expect(&said, text)
}

/// ER-49: the leader took the put, lost its followers, and leads no more when the time is up.
async fn taken_and_left(kind: Kind) -> Said {
    let cluster = Cluster::builder().kinds(&[kind, kind, kind]).start().await;
    let leader = cluster.leader().await;
    let client = patient(&cluster, leader);
    client.kv().range(range("k")).await.expect("a connection");
    let gone = [(leader + 1) % 3, (leader + 2) % 3];
    gone.into_iter()
        .for_each(|member| cluster.member(member).kill9());
    let said = put_at(&client, "k").await.unwrap();
    expect(&said, "etcdserver: request timed out")
}

/// Other words than expected: the wrong ones, or the machine gave no process its turn in time.
type Said = Result<(), String>;

fn expect(said: &(Code, String), text: &str) -> Said {
    match *said == (Code::Unavailable, text.to_owned()) {
        true => Ok(()),
        false => Err(format!("{said:?} instead of {text:?}")),
    }
}

/// What is said depends on what happens within tenths of a second: on a machine that is busy an election, or a stop,
/// comes later than planned, and then another cause is the true one. Three times in a row that is no accident.
async fn said_once_in_three<F: Future<Output = Said>>(kind: Kind, case: fn(Kind) -> F) {
    let mut others = Vec::new();
    for _ in 0..3 {
        match case(kind).await {
            Ok(()) => return,
            Err(other) => others.push(other),
        }
    }
    panic!("{kind:?}: {others:?}");
}

async fn time_outs(kind: Kind) {
    tokio::join!(
        said_once_in_three(kind, lost_with_its_leader),
        said_once_in_three(kind, lost_with_its_followers),
        said_once_in_three(kind, taken_and_left)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_out_names_its_cause() {
    let _turn = beside_others().await;
    time_outs(Kind::Ferrite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_out_of_the_originals_names_its_cause() {
    let _turn = beside_others().await;
    if oracle().is_some() {
        time_outs(Kind::Etcd351).await;
    }
}

/// A leader on its way out takes no proposals; one that a follower sends it then is lost.
async fn transfer(kind: Kind) {
    let cluster = Cluster::builder().kinds(&[kind, kind, kind]).start().await;
    let leader = cluster.leader().await;
    let (target, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let client = patient(&cluster, leader);
    let follower = patient(&cluster, other);
    put(&client, "k", "v").await;
    follower.kv().range(range("k")).await.expect("a connection");
    let target_id = ids(&cluster).await[target];
    cluster.member(target).stop_signal();
    let since = Instant::now();
    let moving = {
        let endpoint = cluster.member(leader).endpoint().to_owned();
        tokio::spawn(async move {
            let path = "/etcdserverpb.Maintenance/MoveLeader";
            let request = pb::MoveLeaderRequest { target_id };
            wire::call(&endpoint, path, "application/grpc", Some("3S"), &request).await
        })
    };
    let started = "leadership transfer starting";
    cluster.member(leader).wait_for_log(started, PATIENCE).await;
    let forwarded = put_at(&follower, "f");
    let dropped = eventually("a proposal is dropped", ELECTION * 3, async || {
        let said = refused(client.kv().put(put_request("k")).await);
        (said.0 != Code::Ok).then_some(said)
    });
    let dropped = dropped.await;
    assert_eq!(
        dropped,
        (Code::Unknown, "raft proposal dropped".into()),
        "{kind:?}"
    );
    let moved = moving.await.unwrap();
    let text = "etcdserver: request timed out, leader transfer took too long";
    assert_eq!(moved.status, (2, text.to_owned()), "{kind:?}");
    assert!(since.elapsed() >= Duration::from_secs(3), "{kind:?}");
    // After an election timeout the transfer is given up.
    put(&client, "k", "v").await;
    let (code, text) = forwarded.await.unwrap();
    assert_eq!(code, Code::Unavailable, "{kind:?}: {text}");
    assert!(text.starts_with("etcdserver: request timed out"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_leadership_moves_proposals_are_dropped() {
    let _turn = beside_others().await;
    for kind in [Kind::Ferrite, Kind::Etcd351] {
        if kind == Kind::Ferrite || oracle().is_some() {
            transfer(kind).await;
        }
    }
}

/// ER-26: more is committed and not applied yet than the member lets pile up.
async fn behind(kind: Kind) {
    const KEYS: usize = 20_000;
    const FLOOD: usize = 5_200;
    const LAG_MAX: u64 = 5_000;
    /// Long enough for the flood to be committed, on a busy machine too.
    const STANDSTILL: Duration = Duration::from_secs(12);
    const READS_TRIED: usize = 4;
    const READS_MAX: usize = 120;
    let cluster = Cluster::builder().kinds(&[kind]).start().await;
    let client = patient(&cluster, 0);
    let fill = (0..KEYS / 100).map(|batch| {
        let client = client.clone();
        tokio::spawn(async move {
            let ops = (0..100).map(|n| {
                let key = format!("many/{batch}/{n}");
                pb::request_op::Request::RequestPut(put_request(&key))
            });
            client.kv().txn(txn(ops)).await.expect("room")
        })
    });
    for batch in fill.collect::<Vec<_>>() {
        batch.await.unwrap();
    }
    // Takes long to apply: it reads and sorts everything, over and over.
    let slow = |reads: usize| {
        let client = client.clone();
        let everything = pb::RangeRequest {
            range_end: "z".into(),
            sort_order: pb::range_request::SortOrder::Descend as i32,
            sort_target: pb::range_request::SortTarget::Value as i32,
            limit: 1,
            ..range("many")
        };
        let read = pb::request_op::Request::RequestRange(everything);
        let write = pb::request_op::Request::RequestPut(put_request("slow"));
        let slow = txn(std::iter::repeat_n(read, reads).chain([write]));
        tokio::spawn(async move { client.kv().txn(slow).await.map(drop) })
    };
    let since = Instant::now();
    slow(READS_TRIED).await.unwrap().expect("a slow one");
    let one = since.elapsed() / READS_TRIED as u32;
    let mut reads = (STANDSTILL.as_micros() / one.as_micros().max(1)) as usize;
    while reads > 0 {
        let share = reads.min(READS_MAX);
        // Its caller hears that its time is up: it is applied nevertheless.
        slow(share);
        reads -= share;
    }
    let lag = async || {
        let status = client.maintenance().status(pb::StatusRequest {}).await;
        let status = status.expect("a status").into_inner();
        status.raft_index - status.raft_applied_index
    };
    eventually("the slow ones are being applied", PATIENCE, async || {
        (lag().await > 0).then_some(())
    })
    .await;
    let mut flood = tokio::task::JoinSet::new();
    for _ in 0..FLOOD {
        let client = client.clone();
        flood.spawn(async move { client.kv().put(put_request("k")).await });
    }
    eventually("the member is far behind", PATIENCE, async || {
        (lag().await > LAG_MAX).then_some(())
    })
    .await;
    // Who is refused hears it at once; the others wait.
    let said = refused(client.kv().put(put_request("k")).await);
    let text = "etcdserver: too many requests";
    assert_eq!(said, (Code::Unknown, text.to_owned()), "{kind:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_lags_refuses_more() {
    let _turn = beside_others().await;
    for kind in [Kind::Ferrite, Kind::Etcd351] {
        if kind == Kind::Ferrite || oracle().is_some() {
            behind(kind).await;
        }
    }
}

fn requires_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let required = AsciiMetadataValue::from_static("true");
    request.metadata_mut().insert("hasleader", required);
    request
}

/// When a member wrote the first line that holds this: how long after midnight.
fn logged_at(log: &str, text: &str) -> Option<Duration> {
    let line = log.lines().find(|line| line.contains(text))?;
    let (_, rest) = line.split_once('T')?;
    let (clock, _) = rest.split_once('Z')?;
    let mut parts = clock.split(':');
    let hours: u64 = parts.next()?.parse().ok()?;
    let minutes: u64 = parts.next()?.parse().ok()?;
    let seconds: f64 = parts.next()?.parse().ok()?;
    Some(Duration::from_secs(hours * 3600 + minutes * 60) + Duration::from_secs_f64(seconds))
}

/// Streams that require a leader end at the third look in a row that finds none, all of them at once.
async fn looks(kind: Kind) {
    let cluster = Cluster::builder().kinds(&[kind, kind, kind]).start().await;
    let leader = cluster.leader().await;
    let client = patient(&cluster, leader);
    let grant = pb::LeaseGrantRequest { id: 7, ttl: 600 };
    client.lease().lease_grant(grant).await.unwrap();
    let (watches, receiver) = tokio::sync::mpsc::unbounded_channel();
    let create = pb::WatchCreateRequest {
        key: "k".into(),
        ..Default::default()
    };
    let create = RequestUnion::CreateRequest(create);
    watches
        .send(pb::WatchRequest {
            request_union: Some(create),
        })
        .unwrap();
    let request = requires_leader(UnboundedReceiverStream::new(receiver));
    let mut watch = client.watch().watch(request).await.unwrap().into_inner();
    assert!(watch.message().await.unwrap().unwrap().created);
    let (renewals, receiver) = tokio::sync::mpsc::unbounded_channel();
    renewals.send(pb::LeaseKeepAliveRequest { id: 7 }).unwrap();
    let request = requires_leader(UnboundedReceiverStream::new(receiver));
    let renewed = client.lease().lease_keep_alive(request).await;
    let mut renewed = renewed.unwrap().into_inner();
    assert_eq!(renewed.message().await.unwrap().unwrap().ttl, 600);
    for gone in [(leader + 1) % 3, (leader + 2) % 3] {
        cluster.member(gone).kill9();
    }
    let ended = async {
        let (watch, renewed) = tokio::join!(watch.message(), renewed.message());
        [watch.map(drop), renewed.map(drop)]
    };
    let ended = tokio::time::timeout(PATIENCE, ended).await.expect("an end");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    for ended in ended {
        let ended = ended.expect_err("no leader");
        assert_eq!(ended.code(), Code::Unavailable, "{kind:?}");
        assert_eq!(ended.message(), "etcdserver: no leader", "{kind:?}");
    }
    let log = cluster.member(leader).log();
    let lost = logged_at(&log, "lost leader").expect("a line about it");
    let day = Duration::from_secs(24 * 3600);
    let today = Duration::from_nanos((now.as_nanos() % day.as_nanos()) as u64);
    let after = (today + day).saturating_sub(lost);
    let after = Duration::from_nanos((after.as_nanos() % day.as_nanos()) as u64);
    assert!(after >= ELECTION * 2, "{kind:?}: after {after:?}");
    assert!(
        after <= ELECTION * 3 + Duration::from_secs(4),
        "{kind:?}: after {after:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_require_a_leader_end_at_the_third_look() {
    let _turn = beside_others().await;
    for kind in [Kind::Ferrite, Kind::Etcd351] {
        if kind == Kind::Ferrite || oracle().is_some() {
            looks(kind).await;
        }
    }
}

/// A member that is back serves nobody before the cluster has heard from it: what was acknowledged
/// before is there then, even for a read that asks nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_without_a_quorum_answers_nobody_yet() {
    let _turn = beside_others().await;
    for kind in [Kind::Ferrite, Kind::Etcd351] {
        if kind == Kind::Etcd351 && oracle().is_none() {
            continue;
        }
        let cluster = Cluster::builder().kinds(&[kind, kind, kind]).start().await;
        let leader = cluster.leader().await;
        put(&cluster.client(leader), "k", "v").await;
        for member in cluster.members() {
            member.kill9();
        }
        let follower = (leader + 1) % 3;
        cluster.member(follower).start();
        let endpoint = cluster.member(follower).endpoint().to_owned();
        let address = endpoint.strip_prefix("http://").expect("clear text");
        // Connections are taken by the kernel, and nobody reads from them.
        eventually("the port is bound", PATIENCE, async || {
            tokio::net::TcpStream::connect(address).await.ok()
        })
        .await;
        let serializable = pb::RangeRequest {
            serializable: true,
            ..range("k")
        };
        let asked = {
            let (endpoint, serializable) = (endpoint.clone(), serializable.clone());
            let path = "/etcdserverpb.KV/Range";
            tokio::spawn(async move {
                wire::call(&endpoint, path, "application/grpc", None, &serializable).await
            })
        };
        tokio::time::sleep(ELECTION * 2).await;
        assert!(!asked.is_finished(), "{kind:?}: answered without a quorum");
        cluster.member(leader).start();
        let answer = tokio::time::timeout(PATIENCE, asked)
            .await
            .unwrap()
            .unwrap();
        assert_eq!(answer.status.0, 0, "{kind:?}: {answer:?}");
        let found = cluster.client(follower).kv().range(serializable).await;
        assert_eq!(found.unwrap().get_ref().count, 1, "{kind:?}");
    }
}
