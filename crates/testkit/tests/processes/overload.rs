//! More is committed than can be applied: who has to wait, who is refused, and who goes first.

use std::time::{Duration, Instant};

use ferrite_client::{Config, last_failure};
use ferrite_testkit::{Client, Cluster, PATIENCE, eventually, pb};
use pb::request_op::Request as Op;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};

use crate::errors::wire;
use crate::{alone, put};

/// Keys that each read of a heavy transaction sorts.
const KEYS: usize = 2_000;
/// Committed and not applied entries from which on proposals are refused.
const BACKLOG_MAX: u64 = 5_000;

fn client(cluster: &Cluster, patience: Duration) -> Client {
    let mut config = Config::new([cluster.member(0).endpoint()]);
    config.call_timeout = Some(patience);
    Client::new(config).expect("a loopback endpoint")
}

/// One write, and reads that are done when it is applied.
fn heavy(reads: usize) -> pb::TxnRequest {
    let read = Op::RequestRange(pb::RangeRequest {
        key: "big/".into(),
        range_end: "big0".into(),
        limit: 1,
        sort_order: pb::range_request::SortOrder::Descend as i32,
        sort_target: pb::range_request::SortTarget::Value as i32,
        keys_only: true,
        ..Default::default()
    });
    let write = Op::RequestPut(pb::PutRequest {
        key: "written".into(),
        value: "v".into(),
        ..Default::default()
    });
    let all = std::iter::repeat_n(read, reads).chain([write]);
    pb::TxnRequest {
        success: all.map(|op| pb::RequestOp { request: Some(op) }).collect(),
        ..Default::default()
    }
}

async fn status(client: &Client) -> pb::StatusResponse {
    let status = client.maintenance().status(pb::StatusRequest {}).await;
    status.expect("a status").into_inner()
}

/// A member of its own that takes so many operations, and keys for them to read. The longer an election takes,
/// the longer proposals may.
async fn prepared(gates: &str) -> (Cluster, Client) {
    let cluster = Cluster::builder()
        .extra_args(&["--max-txn-ops=100000", "--election-timeout=10000", gates])
        .start()
        .await;
    let client = client(&cluster, PATIENCE);
    let keys = (0..KEYS).map(|n| {
        Op::RequestPut(pb::PutRequest {
            key: format!("big/{n:06}").into(),
            value: "v".into(),
            ..Default::default()
        })
    });
    let request = pb::TxnRequest {
        success: keys.map(|op| pb::RequestOp { request: Some(op) }).collect(),
        ..Default::default()
    };
    client.kv().txn(request).await.expect("keys to read");
    (cluster, client)
}

/// Keeps the member's apply busy for about this long, and returns once it is.
async fn busy(client: &Client, long: Duration) -> JoinHandle<Result<(), Status>> {
    const MEASURE: u32 = 150;
    const TIMES: usize = 4;
    let measure = heavy(MEASURE as usize);
    // The shortest counts: the machine may be busy now, and free when it matters.
    let mut each = Duration::MAX;
    for _ in 0..TIMES {
        let begin = Instant::now();
        client.kv().txn(measure.clone()).await.expect("a measure");
        each = each.min(begin.elapsed() / MEASURE);
    }
    eprintln!("a read takes {each:?}");
    let reads = long.as_nanos() / each.as_nanos().max(1);
    let request = heavy(usize::try_from(reads).expect("a number of reads"));
    let before = status(client).await.raft_applied_index;
    let working = client.clone();
    let work = tokio::spawn(async move { working.kv().txn(request).await.map(drop) });
    eventually("it is committed", PATIENCE, async || {
        (status(client).await.raft_index > before).then_some(())
    })
    .await;
    work
}

async fn renew(client: &Client, id: i64) -> Result<i64, Status> {
    let request = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
    let mut answers = client.lease().lease_keep_alive(request).await?.into_inner();
    let answer = answers.next().await.expect("an answer to every request")?;
    Ok(answer.ttl)
}

async fn granted(client: &Client, id: i64) {
    let request = pb::LeaseGrantRequest { id, ttl: 600 };
    client.lease().lease_grant(request).await.expect("a lease");
}

/// FG-09, LE-05: what a renewal of a lease is answered while an entry is applied that takes six seconds.
async fn renewed_meanwhile(gates: &str) -> (Result<i64, Status>, Duration) {
    let (cluster, client) = prepared(gates).await;
    granted(&client, 7).await;
    let work = busy(&client, Duration::from_secs(6)).await;
    let begin = Instant::now();
    let answer = renew(&client, 7).await;
    let took = begin.elapsed();
    assert!(
        !work.is_finished(),
        "the entry was applied too soon: {took:?}"
    );
    // What it has never heard of may have been granted a moment ago; and how long one lives is told
    // only of what is applied. Both wait with and without the gate.
    let request = pb::LeaseTimeToLiveRequest { id: 7, keys: false };
    // Asked once: a client would ask again.
    let endpoint = cluster.member(0).endpoint();
    let path = "/etcdserverpb.Lease/LeaseTimeToLive";
    let (unknown, left) = tokio::join!(
        renew(&client, 8),
        wire::call(endpoint, path, "application/grpc", None, &request)
    );
    assert!(!work.is_finished(), "the entry was applied too soon");
    let status = unknown.expect_err("late");
    assert_eq!(late(&status), LATE, "{status:?}");
    assert_eq!(left.status, (Code::Unavailable as u32, LATE.to_owned()));
    work.await.expect("no panic").expect("the entry");
    assert_eq!(renew(&client, 7).await.expect("a renewal"), 600);
    (answer, took)
}

const LATE: &str = "etcdserver: request timed out, waiting for the applied index took too long";

fn late(status: &Status) -> String {
    last_failure(status).unwrap_or_else(|| status.message().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_renewed_while_apply_lags_unless_the_gate_is_off() {
    let _turn = alone().await;
    let (answer, _took) = renewed_meanwhile("--feature-gates=FastLeaseKeepAlive=true").await;
    assert_eq!(answer.expect("at once"), 600);
    let (answer, took) = renewed_meanwhile("--feature-gates=FastLeaseKeepAlive=false").await;
    let status = answer.expect_err("it waits a second for nothing");
    assert_eq!(
        (status.code(), late(&status).as_str()),
        (Code::Unavailable, LATE)
    );
    assert!(took >= Duration::from_secs(1), "{took:?}");
}

/// FG-10, KB-22, GR-13: with five thousand entries committed and not applied, revocations are taken and
/// everything else is refused; without the gate they are refused, too.
async fn revoked_in_overload(gates: &str) -> Result<(), Status> {
    let (cluster, client) = prepared(gates).await;
    granted(&client, 7).await;
    granted(&client, 8).await;
    put(&client, "k", "v").await;
    let work = busy(&client, Duration::from_secs(6)).await;
    let mut puts = tokio::task::JoinSet::new();
    let connections: Vec<Client> = (0..8).map(|_| self::client(&cluster, PATIENCE)).collect();
    for n in 0..6_000 {
        let client = connections[n % connections.len()].clone();
        puts.spawn(async move {
            let request = pb::PutRequest {
                key: "k".into(),
                value: "v".into(),
                ..Default::default()
            };
            client.kv().put(request).await.map(drop)
        });
    }
    let mut full = || async {
        let status = status(&client).await;
        let backlog = status.raft_index - status.raft_applied_index;
        (backlog > BACKLOG_MAX).then_some(())
    };
    eventually("the backlog is full", PATIENCE, &mut full).await;
    let refused = async |call: Result<(), Status>| {
        let status = call.expect_err("too much waits already");
        (status.code(), status.message().to_owned())
    };
    let too_many = (Code::Unknown, "etcdserver: too many requests".to_owned());
    let request = pb::LeaseGrantRequest { id: 9, ttl: 600 };
    let grant = client.lease().lease_grant(request).await.map(drop);
    assert_eq!(refused(grant).await, too_many);
    let request = pb::CompactionRequest {
        revision: 1,
        physical: false,
    };
    let compaction = client.kv().compact(request).await.map(drop);
    assert_eq!(refused(compaction).await, too_many);
    let revocation = {
        let client = client.clone();
        tokio::spawn(async move {
            let request = pb::LeaseRevokeRequest { id: 7 };
            client.lease().lease_revoke(request).await.map(drop)
        })
    };
    // Refused at once, or taken and answered when its turn has come.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!work.is_finished(), "the entry was applied too soon");
    let waits = !revocation.is_finished();
    let outcome = revocation.await.expect("no panic");
    assert_eq!(waits, outcome.is_ok(), "{outcome:?}");
    work.await.expect("no panic").expect("the entry");
    let mut taken = 0;
    while let Some(put) = puts.join_next().await {
        match put.expect("no panic") {
            Ok(()) => taken += 1,
            Err(status) => {
                assert_eq!((status.code(), status.message().to_owned()), too_many);
            }
        }
    }
    assert!(taken >= BACKLOG_MAX - 10, "{taken} taken");
    // It goes on as if nothing had been.
    put(&client, "k", "after").await;
    let request = pb::LeaseRevokeRequest { id: 8 };
    client
        .lease()
        .lease_revoke(request)
        .await
        .expect("a revocation");
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn revocations_go_first_in_overload_with_the_gate_only() {
    let _turn = alone().await;
    let outcome = revoked_in_overload("--feature-gates=PriorityRequest=true").await;
    outcome.expect("it is taken");
    let outcome = revoked_in_overload("--feature-gates=PriorityRequest=false").await;
    let status = outcome.expect_err("it is refused like everything else");
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unknown, "etcdserver: too many requests")
    );
}
