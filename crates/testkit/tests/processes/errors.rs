//! Every error that a client can bring about: its row, how, and what the answer says. One table, run
//! against our server and, where 3.5.1 has the same error, against the original.
//!
//! What has to do with users is in `users`, with time in `waits`, with bytes that no client library
//! sends in `wire`; in which order a call is judged, in `order`.
//!
//! Not here, since no client can bring them about at will: ER-15 and ER-62 (whoever would hear them is
//! gone), ER-24 (between members), ER-43 (a race, or a JSON web token), ER-46 and ER-52 (moments around
//! elections), ER-47 (a cluster of version 2), ER-48 (a member about to end), ER-59 (the moment before
//! the cluster's first version), ER-61 (3.7 says it in its log only), ER-63 (nothing sends it).

mod order;
mod users;
mod waits;
pub(crate) mod wire;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ferrite_client::last_failure;
use ferrite_testkit::{Client, Cluster, Kind, PATIENCE, Ports, eventually, oracle, pb};
use pb::downgrade_request::DowngradeAction as Action;
use pb::request_op::Request as Op;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code, Request, Response, Status};

use crate::{beside_others, put};

/// A row, the code and text that it asks for, and whether 3.5.1 says the same.
type Row = (&'static str, Code, &'static str, bool);

/// What one member refuses, in this order: some rows use what others have left.
const OF_ONE_MEMBER: &[Row] = &[
    (
        "ER-01 range",
        Code::InvalidArgument,
        "etcdserver: key is not provided",
        true,
    ),
    (
        "ER-01 put",
        Code::InvalidArgument,
        "etcdserver: key is not provided",
        true,
    ),
    (
        "ER-01 delete",
        Code::InvalidArgument,
        "etcdserver: key is not provided",
        true,
    ),
    (
        "ER-01 compare",
        Code::InvalidArgument,
        "etcdserver: key is not provided",
        true,
    ),
    (
        "ER-02 operation",
        Code::InvalidArgument,
        "etcdserver: key not found",
        true,
    ),
    (
        "ER-02 put",
        Code::InvalidArgument,
        "etcdserver: key not found",
        true,
    ),
    (
        "ER-03",
        Code::InvalidArgument,
        "etcdserver: value is provided",
        true,
    ),
    (
        "ER-04",
        Code::InvalidArgument,
        "etcdserver: lease is provided",
        true,
    ),
    (
        "ER-05 one level",
        Code::InvalidArgument,
        "etcdserver: too many operations in txn request",
        true,
    ),
    (
        "ER-05 nested",
        Code::InvalidArgument,
        "etcdserver: too many operations in txn request",
        true,
    ),
    (
        "ER-06",
        Code::InvalidArgument,
        "etcdserver: duplicate key given in txn request",
        true,
    ),
    // 3.5.1 ends by these three.
    (
        "ER-07",
        Code::InvalidArgument,
        "etcdserver: invalid client api version",
        false,
    ),
    (
        "ER-08 order",
        Code::InvalidArgument,
        "etcdserver: invalid sort option",
        false,
    ),
    (
        "ER-08 target",
        Code::InvalidArgument,
        "etcdserver: invalid sort option",
        false,
    ),
    (
        "ER-10 range",
        Code::OutOfRange,
        "etcdserver: mvcc: required revision is a future revision",
        true,
    ),
    (
        "ER-10 compact",
        Code::OutOfRange,
        "etcdserver: mvcc: required revision is a future revision",
        true,
    ),
    (
        "ER-10 hash",
        Code::OutOfRange,
        "etcdserver: mvcc: required revision is a future revision",
        true,
    ),
    (
        "ER-09 range",
        Code::OutOfRange,
        "etcdserver: mvcc: required revision has been compacted",
        true,
    ),
    (
        "ER-09 compact",
        Code::OutOfRange,
        "etcdserver: mvcc: required revision has been compacted",
        true,
    ),
    (
        "ER-09 txn",
        Code::OutOfRange,
        "etcdserver: mvcc: required revision has been compacted",
        true,
    ),
    (
        "ER-12 put",
        Code::NotFound,
        "etcdserver: requested lease not found",
        true,
    ),
    (
        "ER-12 revoke",
        Code::NotFound,
        "etcdserver: requested lease not found",
        true,
    ),
    (
        "ER-13",
        Code::FailedPrecondition,
        "etcdserver: lease already exists",
        true,
    ),
    (
        "ER-14",
        Code::OutOfRange,
        "etcdserver: too large lease TTL",
        true,
    ),
    (
        "ER-16",
        Code::FailedPrecondition,
        "etcdserver: member ID already exist",
        true,
    ),
    (
        "ER-17",
        Code::FailedPrecondition,
        "etcdserver: Peer URLs already exists",
        true,
    ),
    (
        "ER-17 update",
        Code::FailedPrecondition,
        "etcdserver: Peer URLs already exists",
        true,
    ),
    (
        "ER-18",
        Code::Unknown,
        "etcdserver: re-configuration failed due to not enough started members",
        true,
    ),
    (
        "ER-19 none",
        Code::InvalidArgument,
        "etcdserver: given member URLs are invalid",
        true,
    ),
    (
        "ER-19 bad",
        Code::InvalidArgument,
        "etcdserver: given member URLs are invalid",
        true,
    ),
    (
        "ER-20 remove",
        Code::NotFound,
        "etcdserver: member not found",
        true,
    ),
    (
        "ER-20 update",
        Code::NotFound,
        "etcdserver: member not found",
        true,
    ),
    (
        "ER-20 promote",
        Code::NotFound,
        "etcdserver: member not found",
        true,
    ),
    (
        "ER-76 removed",
        Code::NotFound,
        "etcdserver: member not found",
        true,
    ),
    (
        "ER-57",
        Code::InvalidArgument,
        "etcdserver: wrong downgrade target version format",
        true,
    ),
    (
        "ER-58",
        Code::InvalidArgument,
        "etcdserver: invalid downgrade target version",
        true,
    ),
    // 3.5.1 has something to go back to, and no way to do so.
    (
        "ER-60",
        Code::FailedPrecondition,
        "etcdserver: cluster has a downgrade job in progress",
        false,
    ),
    (
        "ER-74 action",
        Code::Unknown,
        "etcdserver: unknown method",
        true,
    ),
    (
        "ER-21",
        Code::FailedPrecondition,
        "etcdserver: can only promote a learner member",
        true,
    ),
    (
        "ER-22",
        Code::FailedPrecondition,
        "etcdserver: can only promote a learner member which is in sync with leader",
        true,
    ),
    (
        "ER-23",
        Code::FailedPrecondition,
        "etcdserver: too many learner members in cluster",
        true,
    ),
    (
        "ER-25",
        Code::InvalidArgument,
        "etcdserver: request is too large",
        true,
    ),
    (
        "GR-04",
        Code::ResourceExhausted,
        "grpc: received message larger than max (2200009 vs. 2097152)",
        true,
    ),
    (
        "ER-56",
        Code::FailedPrecondition,
        "etcdserver: bad leader transferee",
        true,
    ),
    (
        "ER-11 put",
        Code::ResourceExhausted,
        "etcdserver: mvcc: database space exceeded",
        true,
    ),
    (
        "ER-11 txn",
        Code::ResourceExhausted,
        "etcdserver: mvcc: database space exceeded",
        true,
    ),
    (
        "ER-11 lease",
        Code::ResourceExhausted,
        "etcdserver: mvcc: database space exceeded",
        true,
    ),
    (
        "ER-54 put",
        Code::DataLoss,
        "etcdserver: corrupt cluster",
        true,
    ),
    (
        "ER-54 delete",
        Code::DataLoss,
        "etcdserver: corrupt cluster",
        true,
    ),
];

/// The code and the text of a refusal.
fn refused<T: std::fmt::Debug>(answer: Result<Response<T>, Status>) -> (Code, String) {
    match answer {
        Ok(response) => (Code::Ok, format!("{:?}", response.get_ref())),
        // The client sends a call again that was unavailable, until its time is up.
        Err(status) if last_failure(&status).is_some() => {
            (Code::Unavailable, last_failure(&status).unwrap_or_default())
        }
        Err(status) => (status.code(), status.message().to_owned()),
    }
}

/// The code and the text of what a stream was refused with.
async fn first<T: std::fmt::Debug>(
    answer: Result<Response<tonic::Streaming<T>>, Status>,
) -> (Code, String) {
    match answer {
        Err(status) => refused::<T>(Err(status)),
        Ok(stream) => refused(match stream.into_inner().message().await {
            Ok(message) => Ok(Response::new(message)),
            Err(status) => Err(status),
        }),
    }
}

fn put_request(key: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: key.to_owned().into(),
        value: "v".into(),
        ..Default::default()
    }
}

fn range(key: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    }
}

fn txn(ops: impl IntoIterator<Item = Op>) -> pb::TxnRequest {
    pb::TxnRequest {
        success: ops
            .into_iter()
            .map(|op| pb::RequestOp { request: Some(op) })
            .collect(),
        ..Default::default()
    }
}

fn puts(count: usize) -> impl Iterator<Item = Op> {
    (0..count).map(|n| Op::RequestPut(put_request(&format!("many{n}"))))
}

/// The original never answers a change that comes a moment too early after another (CL-11): asks again.
async fn persistently<T>(
    call: impl AsyncFn() -> Result<Response<T>, Status>,
) -> Result<Response<T>, Status> {
    eventually("a membership change is answered", PATIENCE, async || {
        tokio::time::timeout(Duration::from_secs(1), call())
            .await
            .ok()
    })
    .await
}

/// Brings a row's error about.
async fn provoke(row: &str, client: &Client, cluster: &Cluster) -> (Code, String) {
    let (mut kv, mut lease) = (client.kv(), client.lease());
    let mut maintenance = client.maintenance();
    let members = || client.cluster();
    let member_add = async |request: pb::MemberAddRequest| {
        persistently(async || members().member_add(request.clone()).await).await
    };
    let member_remove = async |request: pb::MemberRemoveRequest| {
        persistently(async || members().member_remove(request).await).await
    };
    let member_update = async |request: pb::MemberUpdateRequest| {
        persistently(async || members().member_update(request.clone()).await).await
    };
    let member_promote = async |request: pb::MemberPromoteRequest| {
        persistently(async || members().member_promote(request).await).await
    };
    let own = async || {
        let list = client
            .cluster()
            .member_list(pb::MemberListRequest::default())
            .await;
        list.unwrap().into_inner().members.remove(0)
    };
    let add = |url: &str, is_learner| pb::MemberAddRequest {
        peer_urls: Vec::from([url.to_owned()]),
        is_learner,
    };
    let alarm = async |action: i32, alarm: i32| {
        let request = pb::AlarmRequest {
            action,
            member_id: own().await.id,
            alarm,
        };
        client.maintenance().alarm(request).await.unwrap();
    };
    let grant = |id, ttl| pb::LeaseGrantRequest { id, ttl };
    let downgrade = async |action: Action, version: &str| {
        // The cluster's version may not be decided yet (ER-59).
        eventually("the cluster has its version", PATIENCE, async || {
            let request = pb::DowngradeRequest {
                action: action as i32,
                version: version.to_owned(),
            };
            let answer = client.maintenance().downgrade(request).await;
            let early = (answer.as_ref())
                .is_err_and(|status| status.message().contains("cluster version not found"));
            (!early).then_some(answer)
        })
        .await
    };
    match row {
        "ER-01 range" => refused(kv.range(range("")).await),
        "ER-01 put" => refused(kv.put(put_request("")).await),
        "ER-01 delete" => refused(kv.delete_range(pb::DeleteRangeRequest::default()).await),
        "ER-01 compare" => {
            let compare = Vec::from([pb::Compare::default()]);
            refused(
                kv.txn(pb::TxnRequest {
                    compare,
                    ..Default::default()
                })
                .await,
            )
        }
        "ER-02 operation" => {
            let success = Vec::from([pb::RequestOp { request: None }]);
            refused(
                kv.txn(pb::TxnRequest {
                    success,
                    ..Default::default()
                })
                .await,
            )
        }
        "ER-02 put" => {
            let request = pb::PutRequest {
                value: bytes::Bytes::new(),
                ignore_value: true,
                ..put_request("missing")
            };
            refused(kv.put(request).await)
        }
        "ER-03" => {
            let request = pb::PutRequest {
                ignore_value: true,
                ..put_request("k")
            };
            refused(kv.put(request).await)
        }
        "ER-04" => {
            let request = pb::PutRequest {
                ignore_lease: true,
                lease: 1,
                ..put_request("k")
            };
            refused(kv.put(request).await)
        }
        "ER-05 one level" => refused(kv.txn(txn(puts(129))).await),
        // KB-24: what is nested has what its parent leaves.
        "ER-05 nested" => {
            let inner = Op::RequestTxn(txn(puts(128)));
            refused(kv.txn(txn([inner])).await)
        }
        "ER-06" => {
            let twice = ["k", "k"].map(|key| Op::RequestPut(put_request(key)));
            refused(kv.txn(txn(twice)).await)
        }
        "ER-07" => {
            let mut request = Request::new(range("k"));
            let bad = AsciiMetadataValue::try_from(&b"\xff\xfe"[..]).unwrap();
            request.metadata_mut().insert("client-api-version", bad);
            refused(kv.range(request).await)
        }
        "ER-08 order" => refused(
            kv.range(pb::RangeRequest {
                sort_order: 3,
                ..range("k")
            })
            .await,
        ),
        "ER-08 target" => refused(
            kv.range(pb::RangeRequest {
                sort_target: 5,
                ..range("k")
            })
            .await,
        ),
        "ER-10 range" => refused(
            kv.range(pb::RangeRequest {
                revision: 999,
                ..range("k")
            })
            .await,
        ),
        "ER-10 compact" => refused(
            kv.compact(pb::CompactionRequest {
                revision: 999,
                physical: false,
            })
            .await,
        ),
        "ER-10 hash" => refused(
            maintenance
                .hash_kv(pb::HashKvRequest { revision: 999 })
                .await,
        ),
        "ER-09 range" => {
            let revision = put(client, "k", "v").await;
            put(client, "k", "v").await;
            kv.compact(pb::CompactionRequest {
                revision,
                physical: true,
            })
            .await
            .unwrap();
            refused(
                kv.range(pb::RangeRequest {
                    revision: 1,
                    ..range("k")
                })
                .await,
            )
        }
        "ER-09 compact" => refused(
            kv.compact(pb::CompactionRequest {
                revision: 1,
                physical: false,
            })
            .await,
        ),
        "ER-09 txn" => {
            let past = Op::RequestRange(pb::RangeRequest {
                revision: 1,
                ..range("k")
            });
            let request = txn([past, Op::RequestPut(put_request("k"))]);
            refused(kv.txn(request).await)
        }
        "ER-12 put" => refused(
            kv.put(pb::PutRequest {
                lease: 404,
                ..put_request("k")
            })
            .await,
        ),
        "ER-12 revoke" => refused(lease.lease_revoke(pb::LeaseRevokeRequest { id: 404 }).await),
        "ER-13" => {
            lease.lease_grant(grant(7, 600)).await.unwrap();
            refused(lease.lease_grant(grant(7, 600)).await)
        }
        "ER-14" => refused(lease.lease_grant(grant(8, 9_000_000_001)).await),
        // The ID is made of the URL and the second: the same twice within one.
        "ER-16" => {
            for _ in 0..20 {
                let first = member_add(add("http://127.0.0.1:1", true)).await.unwrap();
                let answer = refused(member_add(add("http://127.0.0.1:1", true)).await);
                let id = first.into_inner().member.unwrap().id;
                member_remove(pb::MemberRemoveRequest { id }).await.unwrap();
                if answer.1 != "etcdserver: Peer URLs already exists" {
                    return answer;
                }
            }
            panic!("no two calls within one second");
        }
        "ER-17" => refused(member_add(add(cluster.member(0).peer_url(), true)).await),
        "ER-17 update" => {
            let added = member_add(add("http://127.0.0.1:2", true)).await.unwrap();
            let id = added.into_inner().member.unwrap().id;
            let peer_urls = Vec::from([cluster.member(0).peer_url().to_owned()]);
            let answer = refused(member_update(pb::MemberUpdateRequest { id, peer_urls }).await);
            member_remove(pb::MemberRemoveRequest { id }).await.unwrap();
            answer
        }
        "ER-18" => {
            let id = own().await.id;
            refused(member_remove(pb::MemberRemoveRequest { id }).await)
        }
        "ER-19 none" => refused(member_add(pb::MemberAddRequest::default()).await),
        "ER-19 bad" => refused(member_add(add("127.0.0.1:1", false)).await),
        "ER-20 remove" => refused(member_remove(pb::MemberRemoveRequest { id: 404 }).await),
        "ER-20 update" => {
            let peer_urls = Vec::from(["http://127.0.0.1:3".to_owned()]);
            refused(member_update(pb::MemberUpdateRequest { id: 404, peer_urls }).await)
        }
        "ER-20 promote" => refused(member_promote(pb::MemberPromoteRequest { id: 404 }).await),
        "ER-76 removed" => {
            let added = member_add(add("http://127.0.0.1:6", true)).await.unwrap();
            let id = added.into_inner().member.unwrap().id;
            member_remove(pb::MemberRemoveRequest { id }).await.unwrap();
            refused(member_remove(pb::MemberRemoveRequest { id }).await)
        }
        "ER-57" => refused(downgrade(Action::Validate, "3.x").await),
        "ER-58" => refused(downgrade(Action::Validate, "3.0.0").await),
        "ER-60" => {
            downgrade(Action::Enable, "3.6.0").await.unwrap();
            let answer = refused(downgrade(Action::Enable, "3.6.0").await);
            // ER-61: a second one to cancel is not there, which 3.7 does not tell.
            for _ in 0..2 {
                downgrade(Action::Cancel, "").await.unwrap();
            }
            answer
        }
        "ER-74 action" => {
            let request = pb::DowngradeRequest {
                action: 9,
                version: String::new(),
            };
            refused(client.maintenance().downgrade(request).await)
        }
        "ER-21" => {
            let id = own().await.id;
            refused(member_promote(pb::MemberPromoteRequest { id }).await)
        }
        "ER-22" => {
            let added = member_add(add("http://127.0.0.1:4", true)).await.unwrap();
            let id = added.into_inner().member.unwrap().id;
            refused(member_promote(pb::MemberPromoteRequest { id }).await)
        }
        // The learner of the row before is still there.
        "ER-23" => refused(member_add(add("http://127.0.0.1:5", true)).await),
        "ER-25" => {
            let value = vec![0; 1_600_000].into();
            refused(
                kv.put(pb::PutRequest {
                    value,
                    ..put_request("k")
                })
                .await,
            )
        }
        "GR-04" => {
            let value = vec![0; 2_200_000 + 9 - 3 - 5].into();
            let mut kv = large(client).kv();
            refused(
                kv.put(pb::PutRequest {
                    value,
                    ..put_request("k")
                })
                .await,
            )
        }
        "ER-56" => refused(
            maintenance
                .move_leader(pb::MoveLeaderRequest { target_id: 404 })
                .await,
        ),
        "ER-11 put" => {
            alarm(1, 1).await;
            refused(kv.put(put_request("k")).await)
        }
        "ER-11 txn" => refused(kv.txn(txn(puts(1))).await),
        "ER-11 lease" => {
            let answer = refused(lease.lease_grant(grant(9, 600)).await);
            // What makes room is not refused.
            kv.delete_range(pb::DeleteRangeRequest {
                key: "k".into(),
                ..Default::default()
            })
            .await
            .unwrap();
            alarm(2, 1).await;
            put(client, "k", "v").await;
            answer
        }
        "ER-54 put" => {
            alarm(1, 2).await;
            refused(kv.put(put_request("k")).await)
        }
        "ER-54 delete" => {
            let request = pb::DeleteRangeRequest {
                key: "k".into(),
                ..Default::default()
            };
            let answer = refused(kv.delete_range(request).await);
            alarm(2, 2).await;
            put(client, "k", "v").await;
            answer
        }
        other => panic!("no way to bring {other} about"),
    }
}

/// A client that lets the server refuse what is too large.
fn large(client: &Client) -> Client {
    let mut config = client.channel().config().clone();
    config.max_send_bytes = 8 << 20;
    Client::new(config).unwrap()
}

async fn one_member(kind: Kind) {
    let cluster = Cluster::builder().kinds(&[kind]).start().await;
    let mut patient = ferrite_client::Config::new([cluster.member(0).endpoint()]);
    patient.call_timeout = Some(PATIENCE);
    let client = Client::new(patient).unwrap();
    put(&client, "k", "v").await;
    let mut wrong = Vec::new();
    for (row, code, text, in_351) in OF_ONE_MEMBER {
        if kind == Kind::Etcd351 && !in_351 {
            continue;
        }
        eprintln!("{kind:?}: {row}");
        let (said_code, said) = provoke(row, &client, &cluster).await;
        if (said_code, said.as_str()) != (*code, *text) {
            wrong.push(format!(
                "{row}: {said_code:?} {said:?}, not {code:?} {text:?}"
            ));
        }
    }
    assert!(wrong.is_empty(), "{kind:?}:\n{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_member_refuses() {
    let _turn = beside_others().await;
    one_member(Kind::Ferrite).await;
    if oracle().is_some() {
        one_member(Kind::Etcd351).await;
    }
}

/// A process that joins as a learner, and goes with this.
struct Learner {
    process: Child,
    endpoint: String,
}

impl Drop for Learner {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Learner {
    /// Adds a learner to the cluster and starts it; its client URL.
    async fn join(cluster: &Cluster, kind: Kind, ports: &mut Ports) -> (Self, Client) {
        let [client, peer] =
            [ports.take(), ports.take()].map(|port| format!("http://127.0.0.1:{port}"));
        let request = pb::MemberAddRequest {
            peer_urls: Vec::from([peer.clone()]),
            is_learner: true,
        };
        // Members must have been connected for five seconds (CL-03).
        eventually("a learner can be added", PATIENCE, async || {
            let mut members = cluster.client(0).cluster();
            members.member_add(request.clone()).await.ok()
        })
        .await;
        let mut all: Vec<String> = (cluster.members().iter())
            .map(|member| format!("m{}={}", member.index(), member.peer_url()))
            .collect();
        all.push(format!("learner={peer}"));
        let child = Command::new(kind.server())
            .args([
                "--name=learner".to_owned(),
                format!("--data-dir={}", cluster.scratch().join("learner").display()),
                format!("--listen-client-urls={client}"),
                format!("--advertise-client-urls={client}"),
                format!("--listen-peer-urls={peer}"),
                format!("--initial-advertise-peer-urls={peer}"),
                format!("--initial-cluster={}", all.join(",")),
                "--initial-cluster-state=existing".to_owned(),
                "--initial-cluster-token=testkit".to_owned(),
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a server starts");
        let learner = Self {
            process: child,
            endpoint: client.clone(),
        };
        let client = Client::new(ferrite_client::Config::new([client])).unwrap();
        eventually("the learner knows what it is", PATIENCE, async || {
            let status = client
                .maintenance()
                .status(pb::StatusRequest {})
                .await
                .ok()?;
            (status.get_ref().is_learner && status.get_ref().leader != 0).then_some(())
        })
        .await;
        (learner, client)
    }
}

const NOT_FOR_LEARNERS: &str = "etcdserver: rpc not supported for learner";

async fn several_members(kind: Kind) {
    let ports = &mut Ports::default();
    let cluster = Cluster::builder().kinds(&[kind, kind, kind]).start().await;
    let leader = cluster.leader().await;
    let (follower, other) = ((leader + 1) % 3, (leader + 2) % 3);

    let ids: Vec<u64> = (cluster.statuses().await.iter())
        .map(|(_, status)| status.header.as_ref().map_or(0, |header| header.member_id))
        .collect();

    // ER-45
    let request = pb::MoveLeaderRequest {
        target_id: ids[follower],
    };
    let answer = refused(
        cluster
            .client(follower)
            .maintenance()
            .move_leader(request)
            .await,
    );
    assert_eq!(
        answer,
        (Code::FailedPrecondition, "etcdserver: not leader".into())
    );

    // ER-55, and GR-08: what a learner serves.
    let (learner, at_learner) = Learner::join(&cluster, kind, ports).await;
    let mut kv = at_learner.kv();
    let code = match kind {
        Kind::Ferrite => Code::FailedPrecondition,
        _ => Code::Unavailable,
    };
    let no = (code, NOT_FOR_LEARNERS.to_owned());
    assert_eq!(refused(kv.range(range("k")).await), no);
    assert_eq!(refused(kv.put(put_request("k")).await), no);
    assert_eq!(refused(kv.txn(txn([])).await), no);
    let leases = pb::LeaseLeasesRequest {};
    assert_eq!(refused(at_learner.lease().lease_leases(leases).await), no);
    let list = pb::MemberListRequest {
        linearizable: false,
    };
    assert_eq!(refused(at_learner.cluster().member_list(list).await), no);
    let txn_of_reads = txn([Op::RequestRange(pb::RangeRequest {
        serializable: true,
        ..range("k")
    })]);
    assert_eq!(refused(kv.txn(txn_of_reads).await), no);
    let maintenance = || at_learner.maintenance();
    let hash = pb::HashRequest {};
    assert_eq!(refused(maintenance().hash(hash).await), no);
    let hash = pb::HashKvRequest { revision: 0 };
    assert_eq!(refused(maintenance().hash_kv(hash).await), no);
    let alarms = pb::AlarmRequest::default();
    assert_eq!(refused(maintenance().alarm(alarms).await), no);
    let defragment = pb::DefragmentRequest {};
    assert_eq!(refused(maintenance().defragment(defragment).await), no);
    let status = pb::AuthStatusRequest {};
    assert_eq!(refused(at_learner.auth().auth_status(status).await), no);
    let health = ferrite_testkit::health::HealthCheckRequest::default();
    assert_eq!(refused(at_learner.health().check(health.clone()).await), no);
    // A stream may be told with its first answer, or instead of one.
    let watch = at_learner.watch().watch(tokio_stream::empty()).await;
    assert_eq!(first(watch).await, no);
    let mut lease = at_learner.lease();
    let renewals = lease.lease_keep_alive(tokio_stream::empty()).await;
    assert_eq!(first(renewals).await, no);
    assert_eq!(first(at_learner.health().watch(health).await).await, no);
    if kind == Kind::Ferrite {
        let mut request = Request::new(range("k"));
        let bad = AsciiMetadataValue::try_from(&b"\xff\xfe"[..]).unwrap();
        request.metadata_mut().insert("client-api-version", bad);
        assert_eq!(refused(kv.range(request).await), no, "before the version");
    }
    let snapshot = maintenance().snapshot(pb::SnapshotRequest {}).await;
    let mut snapshot = snapshot.unwrap().into_inner();
    let piece = snapshot.message().await.unwrap().expect("a piece");
    assert!(!piece.blob.is_empty() && piece.header.is_none());
    drop(snapshot);
    let serializable = pb::RangeRequest {
        serializable: true,
        ..range("k")
    };
    kv.range(serializable).await.unwrap();
    let status = at_learner
        .maintenance()
        .status(pb::StatusRequest {})
        .await
        .unwrap();
    assert!(status.get_ref().is_learner);
    // ER-56: nor does it lead.
    let own = status.into_inner().header;
    let target_id = own.expect("a header").member_id;
    let request = pb::MoveLeaderRequest { target_id };
    let mut at_leader = cluster.client(leader).maintenance();
    assert_eq!(
        refused(at_leader.move_leader(request).await),
        (
            Code::FailedPrecondition,
            "etcdserver: bad leader transferee".into()
        )
    );
    if kind == Kind::Ferrite {
        // HT-04; the original's 3.5.1 has no such check.
        let ready = crate::wire::get(&learner.endpoint, "/readyz/non_learner").await;
        assert_eq!(
            ready.body,
            "[-]non_learner failed: not supported for learner\n\n"
        );
    }
    drop(learner);

    // ER-53: a voter is gone, so that removing another would cost the quorum.
    cluster.member(other).kill9();
    let gone = format!("{:x}", ids[other]);
    eventually("the loss of a voter is noticed", PATIENCE, async || {
        let log = cluster.member(leader).log();
        log.lines()
            .any(|line| line.contains("peer became inactive") && line.contains(&gone))
            .then_some(())
    })
    .await;
    let client = cluster.client(leader);
    let request = pb::MemberRemoveRequest { id: ids[follower] };
    let answer = refused(client.cluster().member_remove(request).await);
    assert_eq!(
        answer,
        (Code::Unavailable, "etcdserver: unhealthy cluster".into())
    );

    // ER-44 and ER-49: without a quorum.
    cluster.member(follower).kill9();
    let answer = eventually("the leader notices", PATIENCE, async || {
        let mut request = Request::new(pb::RangeRequest {
            serializable: true,
            ..range("k")
        });
        request
            .metadata_mut()
            .insert("hasleader", AsciiMetadataValue::from_static("true"));
        let answer = refused(client.kv().range(request).await);
        (answer.0 != Code::Ok).then_some(answer)
    })
    .await;
    assert_eq!(answer, (Code::Unavailable, "etcdserver: no leader".into()));
    // GR-06: who requires a leader is told so before anything else about the request.
    let mut request = Request::new(range(""));
    let required = AsciiMetadataValue::from_static("true");
    request.metadata_mut().insert("hasleader", required);
    let answer = refused(client.kv().range(request).await);
    assert_eq!(answer, (Code::Unavailable, "etcdserver: no leader".into()));
    let mut patient = ferrite_client::Config::new([cluster.member(leader).endpoint()]);
    patient.call_timeout = Some(Duration::from_secs(10));
    let patient = Client::new(patient).unwrap();
    let since = Instant::now();
    let mut kv = patient.kv();
    let (read, write) = tokio::join!(kv.range(range("k")), async {
        patient.kv().put(put_request("k")).await
    });
    assert_eq!(
        refused(read),
        (Code::Unavailable, "etcdserver: request timed out".into())
    );
    let (code, text) = refused(write);
    assert_eq!(text, "context deadline exceeded");
    if kind == Kind::Ferrite {
        assert_eq!(code, Code::DeadlineExceeded);
    }
    assert!(
        since.elapsed() >= Duration::from_secs(6),
        "{:?}",
        since.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_members_of_a_cluster_refuse() {
    let _turn = beside_others().await;
    several_members(Kind::Ferrite).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_members_of_the_originals_cluster_refuse() {
    let _turn = beside_others().await;
    if oracle().is_some() {
        several_members(Kind::Etcd351).await;
    }
}

/// A membership change that raft takes for one too many would never be answered (CL-11).
#[tokio::test(flavor = "multi_thread")]
async fn membership_changes_may_follow_each_other_at_once() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().start().await;
    let mut members = cluster.client(0).cluster();
    for n in 0..50 {
        let request = pb::MemberAddRequest {
            peer_urls: Vec::from([format!("http://127.0.0.1:{}", n + 1)]),
            is_learner: true,
        };
        let added = members.member_add(request).await.unwrap().into_inner();
        let id = added.member.unwrap().id;
        let request = pb::MemberRemoveRequest { id };
        members.member_remove(request).await.unwrap();
    }
}

/// GR-12: what every answer says of whom it comes from, and which say nothing, or no revision.
#[tokio::test(flavor = "multi_thread")]
async fn headers_are_those_of_etcd() {
    let _turn = beside_others().await;
    for kind in [Kind::Ferrite, Kind::Etcd351] {
        if kind == Kind::Etcd351 && oracle().is_none() {
            continue;
        }
        let cluster = Cluster::builder().kinds(&[kind, kind]).start().await;
        let leader = cluster.leader().await;
        let client = cluster.client(leader);
        put(&client, "k", "1").await;
        put(&client, "k", "2").await;
        let revision = put(&client, "k", "3").await;
        let ids: Vec<u64> = (cluster.statuses().await.iter())
            .map(|(_, status)| status.header.as_ref().map_or(0, |header| header.member_id))
            .collect();
        let check = |header: Option<pb::ResponseHeader>, revision: i64| {
            let header = header.expect("a header");
            assert_eq!(header.member_id, ids[leader], "{kind:?}");
            assert!(header.cluster_id != 0 && header.raft_term > 0, "{kind:?}");
            assert_eq!(header.revision, revision, "{kind:?}");
        };
        let mut kv = client.kv();
        let compaction = pb::CompactionRequest {
            revision,
            physical: true,
        };
        let answer = kv.compact(compaction).await.unwrap().into_inner();
        check(answer.header, revision);
        let mut maintenance = client.maintenance();
        let answer = maintenance.hash(pb::HashRequest {}).await.unwrap();
        check(answer.into_inner().header, revision);
        let answer = maintenance.hash_kv(pb::HashKvRequest { revision: 0 });
        check(answer.await.unwrap().into_inner().header, revision);
        let answer = maintenance.alarm(pb::AlarmRequest::default());
        check(answer.await.unwrap().into_inner().header, revision);
        let answer = client.auth().auth_status(pb::AuthStatusRequest {}).await;
        check(answer.unwrap().into_inner().header, revision);
        let grant = pb::LeaseGrantRequest { id: 7, ttl: 600 };
        let answer = client.lease().lease_grant(grant).await.unwrap();
        check(answer.into_inner().header, revision);
        let ask = pb::LeaseTimeToLiveRequest {
            id: 404,
            keys: true,
        };
        let answer = client.lease().lease_time_to_live(ask).await.unwrap();
        check(answer.into_inner().header, revision);
        let list = pb::MemberListRequest { linearizable: true };
        let answer = client.cluster().member_list(list).await.unwrap();
        check(answer.into_inner().header, 0);
        // A watcher whose start is compacted, and then one of what is to come.
        let (watches, receiver) = tokio::sync::mpsc::unbounded_channel();
        for start_revision in [1, 0] {
            let create = pb::WatchCreateRequest {
                key: "k".into(),
                start_revision,
                ..Default::default()
            };
            let create = pb::watch_request::RequestUnion::CreateRequest(create);
            let request_union = Some(create);
            watches.send(pb::WatchRequest { request_union }).unwrap();
        }
        let receiver = tokio_stream::wrappers::UnboundedReceiverStream::new(receiver);
        let mut stream = client.watch().watch(receiver).await.unwrap().into_inner();
        let (mut created, mut canceled) = (0, 0);
        while created < 2 || canceled < 1 {
            let answer = stream.message().await.unwrap().expect("an answer");
            if answer.created {
                created += 1;
                check(answer.header, revision);
            } else {
                canceled += 1;
                assert_eq!((answer.canceled, answer.compact_revision), (true, revision));
                check(answer.header, 0);
            }
        }
        let mut pieces = maintenance
            .snapshot(pb::SnapshotRequest {})
            .await
            .unwrap()
            .into_inner();
        while let Some(piece) = pieces.message().await.unwrap() {
            assert_eq!(piece.header, None, "{kind:?}");
        }
        let answer = maintenance.defragment(pb::DefragmentRequest {}).await;
        assert_eq!(answer.unwrap().into_inner().header, None, "{kind:?}");
        let target_id = ids[1 - leader];
        let request = pb::MoveLeaderRequest { target_id };
        let answer = maintenance.move_leader(request).await.unwrap();
        assert_eq!(answer.into_inner().header, None, "{kind:?}");
    }
}
