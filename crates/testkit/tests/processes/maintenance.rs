//! What operators do about space, versions and damage: defragmentation, quota, downgrade, comparisons of data.

use std::time::Duration;

use ferrite_testkit::{
    Client, Cluster, Kind, Member, PATIENCE, Ports, Random, Workload, eventually, oracle,
    our_program, pb, run,
};
use pb::alarm_request::AlarmAction;
use pb::downgrade_request::DowngradeAction;
use tokio_stream::StreamExt as _;
use tonic::{Code, Status};

use crate::{beside_others, get, put};

async fn status(client: &Client) -> pb::StatusResponse {
    let response = client.maintenance().status(pb::StatusRequest {}).await;
    response.expect("a status").into_inner()
}

async fn defragment(client: &Client) -> pb::DefragmentResponse {
    let request = pb::DefragmentRequest {};
    let response = client.maintenance().defragment(request).await;
    response.expect("a defragmentation").into_inner()
}

async fn alarm(
    client: &Client,
    action: AlarmAction,
    member_id: u64,
    kind: pb::AlarmType,
) -> Vec<(u64, pb::AlarmType)> {
    let request = pb::AlarmRequest {
        action: action as i32,
        member_id,
        alarm: kind as i32,
    };
    let response = client.maintenance().alarm(request).await;
    let response = response.expect("alarms are served").into_inner();
    response
        .alarms
        .iter()
        .map(|alarm| (alarm.member_id, alarm.alarm()))
        .collect()
}

async fn alarms(client: &Client) -> Vec<(u64, pb::AlarmType)> {
    alarm(client, AlarmAction::Get, 0, pb::AlarmType::None).await
}

async fn compact(client: &Client, revision: i64) {
    let request = pb::CompactionRequest {
        revision,
        physical: true,
    };
    let response = client.kv().compact(request).await;
    response.unwrap_or_else(|status| panic!("compaction at {revision}: {status}"));
}

fn leftovers(member: &Member) -> Vec<String> {
    std::fs::read_dir(member.data_dir().join("member/snap"))
        .expect("a folder")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with("db.tmp") || name.starts_with("tmp"))
        .collect()
}

/// Fills the database with what a compaction then frees, a few megabytes. Answers a revision after it: the hash at
/// the compaction's own is kept in memory, and another after a restart.
async fn fill_and_free(client: &Client) -> i64 {
    let value = "x".repeat(16 << 10);
    let mut revision = 0;
    for n in 0..400 {
        revision = put(client, &format!("big{}", n % 8), &value).await;
    }
    compact(client, revision).await;
    put(client, "after", "v").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_defragmentation_gives_space_back_while_everything_goes_on() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().start().await;
    let client = cluster.client(0);
    let revision = fill_and_free(&client).await;
    let before = status(&client).await;
    assert!(before.db_size > 5 << 20, "{before:?}");
    let hash = cluster.hash_kv_all(revision).await;

    let load = Workload::new().writers(2).readers(1).start(&cluster);
    load.wait_for(20).await;
    assert_eq!(defragment(&client).await.header, None);
    let after = status(&client).await;
    assert!(after.db_size * 3 < before.db_size, "{before:?} {after:?}");
    assert!(after.db_size_in_use <= after.db_size);
    // Again, and twice at once.
    let (_, _) = tokio::join!(defragment(&client), defragment(&client));
    load.wait_for(20).await;
    let history = load.stop().await;
    history.check(&cluster).await;
    assert_eq!(cluster.hash_kv_all(revision).await, hash);

    let member = cluster.member(0);
    member.kill9();
    cluster.start_all().await;
    history.check(&cluster).await;
    assert_eq!(cluster.hash_kv_all(revision).await, hash);
    assert!(leftovers(member).is_empty());

    let printed = run(
        &our_program("etcdctl"),
        &["--endpoints", member.endpoint(), "defrag"],
        PATIENCE,
    );
    assert_eq!(printed.code(), Some(0), "{}", printed.text());
    let finished = format!(
        "Finished defragmenting etcd member[{}]. took ",
        member.endpoint()
    );
    assert!(printed.stdout.starts_with(&finished), "{}", printed.text());

    member.terminate().await;
    let Some(dir) = oracle() else { return };
    let database = member.data_dir().join("member/snap/db");
    let database = database.to_str().expect("a name");
    let theirs = run(
        &dir.join("etcdutl"),
        &["snapshot", "status", database, "-w", "json"],
        PATIENCE,
    );
    assert_eq!(theirs.code(), Some(0), "{}", theirs.text());
    let theirs: serde_json::Value = serde_json::from_str(&theirs.stdout).expect("JSON");
    assert!(theirs["totalKey"].as_u64() > Some(8), "{theirs}");
}

/// KB-04.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_in_a_defragmentation_loses_nothing() {
    let _turn = beside_others().await;
    let mut random = Random::announced("killed while defragmenting");
    let cluster = Cluster::builder().snapshot_count(300).start().await;
    let member = cluster.member(0);
    let revision = fill_and_free(&cluster.client(0)).await;
    let hash = cluster.hash_kv_all(revision).await;
    let load = Workload::new().writers(2).start(&cluster);
    load.wait_for(5).await;
    let mut caught = 0;
    for _ in 0..6 {
        let client = cluster.client(0);
        let defragmenting = tokio::spawn(async move {
            client
                .maintenance()
                .defragment(pb::DefragmentRequest {})
                .await
        });
        tokio::time::sleep(Duration::from_millis(random.below(60))).await;
        member.kill9();
        caught += usize::from(!leftovers(member).is_empty());
        defragmenting.abort();
        member.start();
        member.ready(PATIENCE).await;
        assert!(leftovers(member).is_empty());
        load.wait_for(5).await;
    }
    eprintln!("{caught} kills left an unfinished file");
    load.stop().await.check(&cluster).await;
    assert_eq!(cluster.hash_kv_all(revision).await, hash);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_so_when_a_defragmentation_is_to_stop_it() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder()
        .extra_args(&["--feature-gates=StopGRPCServiceOnDefrag=true"])
        .start()
        .await;
    let client = cluster.client(0);
    fill_and_free(&client).await;
    let request = ferrite_testkit::health::HealthCheckRequest::default();
    let mut says = client
        .health()
        .watch(request)
        .await
        .expect("health")
        .into_inner();
    let (serving, not_serving) = (1, 2);
    let mut next = async || {
        says.next()
            .await
            .expect("a status")
            .expect("a status")
            .status
    };
    assert_eq!(next().await, serving);
    // One that is over before the watcher is told shows nothing: then once more.
    let told = async {
        for _ in 0..50 {
            defragment(&client).await;
        }
    };
    tokio::select! {
        status = next() => assert_eq!(status, not_serving),
        () = told => panic!("the health service never said that it does not serve"),
    }
    // The call that was given up may still be at work.
    eventually("health says that it serves", PATIENCE, async || {
        let request = ferrite_testkit::health::HealthCheckRequest::default();
        let answer = client.health().check(request).await.ok()?;
        (answer.into_inner().status == serving).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_defragments_when_the_flag_says_so() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder()
        .extra_args(&["--bootstrap-defrag-threshold-megabytes=2"])
        .start()
        .await;
    let member = cluster.member(0);
    let client = cluster.client(0);
    let revision = fill_and_free(&client).await;
    let hash = cluster.hash_kv_all(revision).await;
    let before = status(&client).await.db_size;
    member.terminate().await;
    cluster.start_all().await;
    let client = cluster.client(0);
    let after = status(&client).await.db_size;
    assert!(after * 3 < before, "{before} {after}");
    assert_eq!(cluster.hash_kv_all(revision).await, hash);
    member.terminate().await;
    cluster.start_all().await;
    assert!(member.log_contains("Skipping defragmentation"));
}

/// What a client meets when the quota is used up, and how it gets out; the same with the original.
async fn runs_out_of_space_and_gets_out(kind: Kind) -> Vec<String> {
    let quota = format!("--quota-backend-bytes={}", 20 * 4096);
    let cluster = Cluster::builder()
        .kinds(&[kind])
        .extra_args(&[&quota])
        .start()
        .await;
    let client = cluster.client(0);
    let member_id = status(&client).await.header.expect("a header").member_id;
    let mut seen = Vec::new();
    let value = "x".repeat(2_000);
    let try_put = async |key: &str| -> Result<(), Status> {
        let request = pb::PutRequest {
            key: key.to_owned().into(),
            value: value.clone().into(),
            ..Default::default()
        };
        client.kv().put(request).await.map(drop)
    };
    let refused = eventually("the quota is used up", PATIENCE, async || {
        try_put("k").await.err()
    })
    .await;
    seen.push(format!("{:?} {}", refused.code(), refused.message()));
    let raised = eventually("the alarm is raised", PATIENCE, async || {
        let raised = alarms(&client).await;
        (!raised.is_empty()).then_some(raised)
    })
    .await;
    assert_eq!(raised, [(member_id, pb::AlarmType::Nospace)]);
    let grant = pb::LeaseGrantRequest { id: 0, ttl: 10 };
    let refused = client
        .lease()
        .lease_grant(grant)
        .await
        .expect_err("refused");
    seen.push(format!("grant: {:?} {}", refused.code(), refused.message()));
    assert!(get(&client, "k").await.is_some(), "reads go on");
    // What makes room is allowed.
    let request = pb::DeleteRangeRequest {
        key: "k".into(),
        ..Default::default()
    };
    let gone = client.kv().delete_range(request).await.expect("a deletion");
    let revision = gone.into_inner().header.expect("a header").revision;
    compact(&client, revision).await;
    defragment(&client).await;
    let refused = try_put("k").await.expect_err("the alarm is on");
    seen.push(format!("{:?} {}", refused.code(), refused.message()));
    let errors = status(&client).await.errors;
    assert!(
        errors.iter().any(|text| text.contains("NOSPACE")),
        "{errors:?}"
    );

    let none = alarm(&client, AlarmAction::Deactivate, 7, pb::AlarmType::Nospace).await;
    assert!(none.is_empty(), "{none:?}");
    let off = alarm(
        &client,
        AlarmAction::Deactivate,
        member_id,
        pb::AlarmType::Nospace,
    )
    .await;
    assert_eq!(off, [(member_id, pb::AlarmType::Nospace)]);
    assert!(alarms(&client).await.is_empty());
    try_put("k").await.expect("there is room again");
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_database_refuses_writes_until_there_is_room_and_the_alarm_is_off() {
    let _turn = beside_others().await;
    let ours = runs_out_of_space_and_gets_out(Kind::Ferrite).await;
    let full = "ResourceExhausted etcdserver: mvcc: database space exceeded";
    assert_eq!(ours, [full, &format!("grant: {full}"), full]);
    if oracle().is_some() {
        assert_eq!(runs_out_of_space_and_gets_out(Kind::Etcd351).await, ours);
    }
}

/// What is refused, and what is not, once the members are known to differ; the same with the original.
async fn is_corrupt(kind: Kind) -> Vec<String> {
    let cluster = Cluster::builder().kinds(&[kind]).start().await;
    let client = cluster.client(0);
    let revision = put(&client, "k", "v").await;
    let lease = pb::LeaseGrantRequest { id: 7, ttl: 600 };
    client.lease().lease_grant(lease).await.expect("a lease");
    let on = alarm(&client, AlarmAction::Activate, 9, pb::AlarmType::Corrupt).await;
    assert_eq!(on, [(9, pb::AlarmType::Corrupt)]);
    let mut seen = Vec::new();
    let mut note = |what: &str, status: Option<Status>| {
        seen.push(match status {
            Some(status) => format!("{what}: {:?} {}", status.code(), status.message()),
            None => format!("{what}: served"),
        });
    };
    let put = pb::PutRequest {
        key: "k".into(),
        ..Default::default()
    };
    note("put", client.kv().put(put.clone()).await.err());
    let delete = pb::DeleteRangeRequest {
        key: "k".into(),
        ..Default::default()
    };
    note("delete", client.kv().delete_range(delete).await.err());
    let txn = pb::TxnRequest {
        success: vec![pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(put)),
        }],
        ..Default::default()
    };
    note("txn", client.kv().txn(txn).await.err());
    let compaction = pb::CompactionRequest {
        revision,
        physical: false,
    };
    note("compact", client.kv().compact(compaction).await.err());
    let grant = pb::LeaseGrantRequest { id: 8, ttl: 60 };
    note("grant", client.lease().lease_grant(grant).await.err());
    let revoke = pb::LeaseRevokeRequest { id: 7 };
    note("revoke", client.lease().lease_revoke(revoke).await.err());
    for serializable in [false, true] {
        let range = pb::RangeRequest {
            key: "k".into(),
            serializable,
            ..Default::default()
        };
        note("range", client.kv().range(range).await.err());
    }
    alarm(&client, AlarmAction::Deactivate, 9, pb::AlarmType::Corrupt).await;
    let put = pb::PutRequest {
        key: "k".into(),
        ..Default::default()
    };
    note("put", client.kv().put(put).await.err());
    seen
}

/// KV-32.
#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_cluster_writes_nothing_until_somebody_says_otherwise() {
    let _turn = beside_others().await;
    let ours = is_corrupt(Kind::Ferrite).await;
    let refused = "DataLoss etcdserver: corrupt cluster";
    let expected: Vec<String> = ["put", "delete", "txn", "compact", "grant", "revoke"]
        .iter()
        .map(|what| format!("{what}: {refused}"))
        .chain(["range", "range", "put"].map(|what| format!("{what}: served")))
        .collect();
    assert_eq!(ours, expected);
    if oracle().is_some() {
        assert_eq!(is_corrupt(Kind::Etcd351).await, ours);
    }
}

async fn downgrade(
    client: &Client,
    action: DowngradeAction,
    version: &str,
) -> Result<String, (Code, String)> {
    let request = pb::DowngradeRequest {
        action: action as i32,
        version: version.to_owned(),
    };
    match client.maintenance().downgrade(request).await {
        Ok(response) => {
            let response = response.into_inner();
            assert!(response.header.is_some());
            Ok(response.version)
        }
        Err(status) => Err((status.code(), status.message().to_owned())),
    }
}

/// The body of what a URL answers; empty when nobody does.
fn over_http(url: &str) -> String {
    use std::io::{Read as _, Write as _};
    let rest = url.trim_start_matches("http://");
    let (host, path) = rest.split_once('/').expect("a path");
    let ask = || -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect(host)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(stream, "GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().unwrap_or_default();
    answer
        .split_once("\r\n\r\n")
        .map_or_else(String::new, |(_, body)| body.to_owned())
}

async fn version_becomes(member: &Member, cluster: &str, storage: &str) {
    let wanted = format!(
        "{{\"etcdserver\":\"3.7.1\",\"etcdcluster\":\"{cluster}\",\"storage\":\"{storage}\"}}"
    );
    eventually(&format!("the version is {wanted}"), PATIENCE, async || {
        (over_http(&format!("{}/version", member.endpoint())) == wanted).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_is_checked_begun_followed_and_cancelled() {
    use DowngradeAction::{Cancel, Enable, Validate};
    let _turn = beside_others().await;
    let cluster = Cluster::builder().start().await;
    let (member, client) = (cluster.member(0), cluster.client(0));
    version_becomes(member, "3.7.0", "3.7.0").await;
    let refused = |code, text: &str| Err((code, format!("etcdserver: {text}")));
    for action in [Validate, Enable] {
        for bad in ["", "x", "3", "v3.6"] {
            assert_eq!(
                downgrade(&client, action, bad).await,
                refused(
                    Code::InvalidArgument,
                    "wrong downgrade target version format"
                ),
                "{bad:?}"
            );
        }
        for far in ["3.5", "3.7", "3.8.0", "2.6"] {
            assert_eq!(
                downgrade(&client, action, far).await,
                refused(Code::InvalidArgument, "invalid downgrade target version"),
                "{far}"
            );
        }
    }
    let request = pb::DowngradeRequest {
        action: 9,
        version: "3.6".into(),
    };
    let unknown = client
        .maintenance()
        .downgrade(request)
        .await
        .expect_err("refused");
    assert_eq!(
        (unknown.code(), unknown.message()),
        (Code::Unknown, "etcdserver: unknown method")
    );
    // Nothing to cancel is not told.
    assert_eq!(downgrade(&client, Cancel, "").await, Ok("3.7".into()));
    assert_eq!(downgrade(&client, Validate, "3.6").await, Ok("3.7".into()));
    assert_eq!(
        downgrade(&client, Validate, "3.6.12").await,
        Ok("3.7".into())
    );
    let enabled = format!("{}/downgrade/enabled", member.peer_url());
    assert_eq!(over_http(&enabled), "false");
    let snapshots = || {
        std::fs::read_dir(member.data_dir().join("member/snap"))
            .expect("a folder")
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.ends_with(".snap"))
            .count()
    };
    assert_eq!(snapshots(), 0);

    assert_eq!(downgrade(&client, Enable, "3.6.0").await, Ok("3.7".into()));
    for action in [Validate, Enable] {
        assert_eq!(
            downgrade(&client, action, "3.5.0")
                .await
                .map_err(|(_, text)| text),
            Err("etcdserver: invalid downgrade target version".into()),
            "a bad target is told first"
        );
    }
    assert_eq!(over_http(&enabled), "true");
    version_becomes(member, "3.6.0", "3.6.0").await;
    let info = status(&client).await.downgrade_info.expect("it is told");
    assert_eq!(
        (info.enabled, info.target_version.as_str()),
        (true, "3.6.0")
    );
    assert_eq!(
        downgrade(&client, Validate, "3.5").await,
        refused(
            Code::FailedPrecondition,
            "cluster has a downgrade job in progress"
        )
    );
    // What an older program reads of the log begins after this.
    eventually("a .snap file is written", PATIENCE, async || {
        (snapshots() > 0).then_some(())
    })
    .await;

    // Only programs of the target may join now.
    let mut ports = Ports::default();
    let peer = format!("http://127.0.0.1:{}", ports.take());
    let listen = format!("http://127.0.0.1:{}", ports.take());
    let request = pb::MemberAddRequest {
        peer_urls: vec![peer.clone()],
        is_learner: true,
    };
    let added = client
        .cluster()
        .member_add(request)
        .await
        .expect("a learner");
    let late = added.into_inner().member.expect("a member").id;
    let joining = run(
        &our_program("etcd"),
        &[
            "--name=late",
            &format!("--data-dir={}", cluster.scratch().join("late").display()),
            &format!("--initial-cluster=m0={},late={peer}", member.peer_url()),
            "--initial-cluster-state=existing",
            &format!("--listen-peer-urls={peer}"),
            &format!("--initial-advertise-peer-urls={peer}"),
            &format!("--listen-client-urls={listen}"),
            &format!("--advertise-client-urls={listen}"),
        ],
        PATIENCE,
    );
    assert_eq!(joining.code(), Some(1), "{}", joining.text());
    assert!(
        joining
            .text()
            .contains("incompatible with current running cluster"),
        "{}",
        joining.text()
    );

    let request = pb::MemberRemoveRequest { id: late };
    client
        .cluster()
        .member_remove(request)
        .await
        .expect("a removal");

    // It is the cluster's state, and survives a restart; so does the database's layout.
    member.terminate().await;
    cluster.start_all().await;
    let client = cluster.client(0);
    version_becomes(member, "3.6.0", "3.6.0").await;
    assert_eq!(downgrade(&client, Cancel, "").await, Ok("3.6".into()));
    let info = status(&client).await.downgrade_info.expect("it is told");
    assert_eq!((info.enabled, info.target_version.as_str()), (false, ""));
    version_becomes(member, "3.7.0", "3.7.0").await;
}

/// Changes a value where it lies, as a bad disk would.
fn alter(member: &Member, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let path = member.data_dir().join("member/snap/db");
    let mut bytes = std::fs::read(&path).expect("a database");
    let mut places = 0;
    for at in 0..bytes.len().saturating_sub(from.len()) {
        if bytes[at..].starts_with(from.as_bytes()) {
            bytes[at..at + from.len()].copy_from_slice(to.as_bytes());
            places += 1;
        }
    }
    assert!(
        places > 0,
        "the database of member {} holds no {from}",
        member.index()
    );
    std::fs::write(&path, bytes).expect("a database");
}

const GOOD: &str = "what-was-written";
const BAD: &str = "what-was-wr1tten";

async fn member_id(cluster: &Cluster, index: usize) -> u64 {
    status(&cluster.client(index))
        .await
        .header
        .expect("a header")
        .member_id
}

/// Three members, one of which comes back with another value than it was given, and does not lead.
async fn altered(cluster: &Cluster, index: usize) -> u64 {
    put(&cluster.client(0), "k", GOOD).await;
    cluster.wait_healthy().await;
    let id = member_id(cluster, index).await;
    let member = cluster.member(index);
    member.terminate().await;
    alter(member, GOOD, BAD);
    member.start();
    id
}

async fn accused(cluster: &Cluster, asked: usize) -> Vec<(u64, pb::AlarmType)> {
    eventually("somebody is accused", PATIENCE, async || {
        let raised = alarms(&cluster.client(asked)).await;
        (!raised.is_empty()).then_some(raised)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_data_differs_does_not_start_when_it_is_to_be_checked() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder()
        .members(3)
        .extra_args(&["--feature-gates=InitialCorruptCheck=true"])
        .start()
        .await;
    // One whose data is good does.
    let good = cluster.member(2);
    put(&cluster.client(0), "k", GOOD).await;
    good.terminate().await;
    good.start();
    good.ready(PATIENCE).await;
    assert!(good.log_contains("initial corruption checking passed; no corruption"));
    let id = altered(&cluster, 1).await;
    let ended = cluster.member(1).exit(PATIENCE).await;
    assert_eq!(ended.code(), Some(1), "{ended}");
    let log = cluster.member(1).log();
    for text in [
        "found different hash values from remote peer",
        "discovery failed",
        &format!("{id:x} found data inconsistency with peers"),
    ] {
        assert!(log.contains(text), "{text:?} is missing in {log}");
    }
    assert!(alarms(&cluster.client(0)).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_data_differs_is_named_by_the_periodic_check() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder()
        .members(3)
        .extra_args(&["--corrupt-check-time=500ms"])
        .start()
        .await;
    cluster.move_leader(0).await;
    let id = altered(&cluster, 1).await;
    let raised = accused(&cluster, 0).await;
    assert_eq!(raised, [(id, pb::AlarmType::Corrupt)]);
    let request = pb::PutRequest {
        key: "k".into(),
        ..Default::default()
    };
    let refused = cluster
        .client(2)
        .kv()
        .put(request)
        .await
        .expect_err("refused");
    assert_eq!(refused.code(), Code::DataLoss);
    let health = over_http(&format!("{}/health", cluster.member(2).endpoint()));
    assert!(health.contains("ALARM CORRUPT"), "{health}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_whose_data_differs_is_named_by_the_check_of_compactions() {
    let _turn = beside_others().await;
    for guilty_leads in [false, true] {
        let cluster = Cluster::builder()
            .members(3)
            .extra_args(&[
                "--feature-gates=CompactHashCheck=true",
                "--compact-hash-check-time=500ms",
            ])
            .start()
            .await;
        let id = altered(&cluster, 1).await;
        cluster.member(1).ready(PATIENCE).await;
        cluster.move_leader(usize::from(guilty_leads)).await;
        let revision = put(&cluster.client(0), "other", "v").await;
        cluster.wait_healthy().await;
        compact(&cluster.client(0), revision).await;
        let raised = accused(&cluster, 0).await;
        assert_eq!(raised, [(id, pb::AlarmType::Corrupt)]);
    }
}

/// Ours finds the original's member out, and the original ours.
#[tokio::test(flavor = "multi_thread")]
async fn both_kinds_accuse_each_other_of_what_differs() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    for (leader, guilty) in [(0, 1), (1, 0)] {
        let cluster = Cluster::builder()
            .kinds(&[Kind::Ferrite, Kind::Etcd351, Kind::Etcd351])
            .extra_args_of(Kind::Ferrite, &["--corrupt-check-time=500ms"])
            .extra_args_of(Kind::Etcd351, &["--experimental-corrupt-check-time=500ms"])
            .start()
            .await;
        cluster.move_leader(leader).await;
        let id = altered(&cluster, guilty).await;
        let raised = accused(&cluster, leader).await;
        // 3.5.1 takes the ID from an answer that has none.
        let named = if leader == 0 { id } else { 0 };
        assert_eq!(raised, [(named, pb::AlarmType::Corrupt)]);
    }
}

/// MN-06: the messages of a snapshot, and the database they make together.
async fn snapshot_of(kind: Kind) {
    let cluster = Cluster::builder().kinds(&[kind]).start().await;
    let client = cluster.client(0);
    if kind == Kind::Ferrite {
        version_becomes(cluster.member(0), "3.7.0", "3.7.0").await;
    }
    for n in 0..20 {
        put(&client, &format!("k{n}"), &"x".repeat(10_000)).await;
    }
    let stream = client.maintenance().snapshot(pb::SnapshotRequest {}).await;
    let mut stream = stream.expect("a snapshot").into_inner();
    let mut messages = Vec::new();
    while let Some(message) = stream.next().await {
        messages.push(message.expect("a message"));
    }
    let digest = messages.pop().expect("the digest comes last");
    assert_eq!(
        (digest.blob.len(), digest.remaining_bytes),
        (32, 0),
        "{kind:?}"
    );
    let mut whole = Vec::new();
    let size: usize = messages.iter().map(|message| message.blob.len()).sum();
    for message in &messages {
        assert!(message.blob.len() <= 32 << 10, "{kind:?}");
        whole.extend_from_slice(&message.blob);
        assert_eq!(
            message.remaining_bytes,
            (size - whole.len()) as u64,
            "{kind:?}"
        );
    }
    for message in messages.iter().chain([&digest]) {
        if kind == Kind::Ferrite {
            assert_eq!(message.version, "3.7.0");
        }
    }
    // With its digest it is what `etcdutl` restores, and checks.
    let file = cluster.scratch().join("snapshot.db");
    let restored = |file: &std::path::Path, to: &str| {
        let to = format!("--data-dir={}", cluster.scratch().join(to).display());
        let file = file.to_str().expect("a name");
        run(
            &our_program("etcdutl"),
            &["snapshot", "restore", file, &to],
            PATIENCE,
        )
    };
    let bytes = [&whole[..], &digest.blob].concat();
    std::fs::write(&file, &bytes).expect("a file");
    let outcome = restored(&file, "whole");
    assert_eq!(outcome.code(), Some(0), "{kind:?}: {}", outcome.text());
    let mut altered = bytes;
    altered[whole.len() / 2] ^= 1;
    std::fs::write(&file, &altered).expect("a file");
    let outcome = restored(&file, "altered");
    assert!(
        outcome.text().contains("sha256"),
        "{kind:?}: {}",
        outcome.text()
    );
    assert_ne!(outcome.code(), Some(0), "{kind:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_comes_in_pieces_that_count_down_and_ends_with_its_digest() {
    let _turn = beside_others().await;
    snapshot_of(Kind::Ferrite).await;
    if oracle().is_some() {
        snapshot_of(Kind::Etcd351).await;
    }
}

/// The CRC-32C of every bucket, as MN-04 has it, of a database that nobody has open.
fn hash_of_file(member: &Member) -> u32 {
    use std::ops::ControlFlow;

    let options = ferrite_bolt::Options {
        read_only: true,
        ..ferrite_bolt::Options::default()
    };
    let file = member.data_dir().join("member/snap/db");
    let database = ferrite_bolt::Db::open(&file, options).expect("a database");
    let tx = database.begin_read().expect("a reader");
    let mut crc = 0;
    for name in tx.buckets().expect("buckets") {
        crc = crc32c::crc32c_append(crc, &name);
        let bucket = tx.bucket(&name).expect("a page").expect("a bucket");
        let own: &[&[u8]] = match &name[..] {
            b"meta" => &[b"consistent_index", b"term", b"storageVersion"],
            _ => &[],
        };
        bucket
            .scan(&[], None, &mut |key, value| {
                if !own.contains(&key) {
                    crc = crc32c::crc32c_append(crc, key);
                    crc = crc32c::crc32c_append(crc, value);
                }
                ControlFlow::Continue(())
            })
            .expect("pages");
    }
    crc
}

/// MN-04: the hash is that of what is on the disk, with the original as with ours, and ours tell the same. (3.5.1
/// keeps members as they were when they were added, without where clients reach them.)
#[tokio::test(flavor = "multi_thread")]
async fn the_hash_is_that_of_the_file() {
    let _turn = beside_others().await;
    let kinds = match oracle() {
        Some(_) => [Kind::Ferrite, Kind::Etcd351, Kind::Ferrite],
        None => [Kind::Ferrite; 3],
    };
    let cluster = Cluster::builder().kinds(&kinds).start().await;
    let client = cluster.client(0);
    for n in 0..50 {
        put(&client, &format!("k{}", n % 20), "v").await;
    }
    let lease = pb::LeaseGrantRequest { id: 7, ttl: 600 };
    client.lease().lease_grant(lease).await.expect("a lease");
    let alike = async || {
        eventually("ours tell the same", PATIENCE, async || {
            let mut hashes = Vec::new();
            for index in 0..3 {
                let request = pb::HashRequest {};
                let hash = cluster.client(index).maintenance().hash(request).await;
                hashes.push(hash.ok()?.into_inner().hash);
            }
            (hashes[0] == hashes[2]).then_some(hashes)
        })
        .await
    };
    // The cluster's version is in it, and comes late.
    eventually("the version is decided", PATIENCE, async || {
        let version = over_http(&format!("{}/version", cluster.member(0).endpoint()));
        (!version.contains("3.0.0") && !version.contains("not_decided")).then_some(())
    })
    .await;
    let before = alike().await;
    put(&client, "k", "another").await;
    cluster.wait_healthy().await;
    let after = alike().await;
    assert!(
        before
            .iter()
            .zip(&after)
            .all(|(before, after)| before != after)
    );
    for (member, hash) in cluster.members().iter().zip(after) {
        member.terminate().await;
        assert_eq!(hash_of_file(member), hash, "{:?}", member.kind());
    }
}

/// MN-07: who cannot lead is refused; who can leads when the answer comes; who does not answer is waited for
/// as long as the caller wishes.
async fn leadership_moves(kind: Kind) {
    let cluster = Cluster::builder().kinds(&[kind; 3]).start().await;
    let leader = cluster.leader().await;
    let client = cluster.client(leader);
    let peer_urls = Vec::from(["http://127.0.0.1:1".to_owned()]);
    let request = pb::MemberAddRequest {
        peer_urls,
        is_learner: true,
    };
    let added = eventually("a learner may come", PATIENCE, async || {
        client.cluster().member_add(request.clone()).await.ok()
    })
    .await;
    let learner = added.into_inner().member.expect("a member").id;
    for target_id in [learner, 404] {
        let request = pb::MoveLeaderRequest { target_id };
        let refused = client.maintenance().move_leader(request).await;
        assert_eq!(
            refused.expect_err("it cannot lead").message(),
            "etcdserver: bad leader transferee",
            "{kind:?}"
        );
    }
    let next = (leader + 1) % 3;
    // Who has a membership change left to apply does not stand for election.
    let follower = cluster.client(next);
    let list = pb::MemberListRequest {
        linearizable: false,
    };
    eventually("the next leader knows the learner", PATIENCE, async || {
        let members = follower.cluster().member_list(list).await.ok()?;
        (members.into_inner().members.len() == 4).then_some(())
    })
    .await;
    let id = status(&cluster.client(next))
        .await
        .header
        .expect("a header")
        .member_id;
    let request = pb::MoveLeaderRequest { target_id: id };
    let moved = client.maintenance().move_leader(request).await;
    moved.unwrap_or_else(|error| panic!("{kind:?}: {error}"));
    assert_eq!(status(&client).await.leader, id, "{kind:?}");

    // A member that stands still neither leads nor says that it will not.
    let still = (leader + 2) % 3;
    let target_id = status(&cluster.client(still))
        .await
        .header
        .expect("a header")
        .member_id;
    cluster.member(still).stop_signal();
    let mut patient = ferrite_client::Config::new([cluster.member(next).endpoint()]);
    patient.call_timeout = Some(Duration::from_secs(9));
    let patient = Client::new(patient).expect("a loopback endpoint");
    let begin = std::time::Instant::now();
    let request = pb::MoveLeaderRequest { target_id };
    let late = patient.maintenance().move_leader(request).await;
    assert!(late.is_err(), "{kind:?}");
    assert!(
        begin.elapsed() >= Duration::from_millis(8_900),
        "{kind:?}: {:?}",
        begin.elapsed()
    );
    cluster.member(still).cont();
    cluster.wait_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_goes_to_voters_only_and_is_there_when_the_answer_comes() {
    let _turn = beside_others().await;
    match oracle() {
        Some(_) => drop(tokio::join!(
            leadership_moves(Kind::Ferrite),
            leadership_moves(Kind::Etcd351)
        )),
        None => leadership_moves(Kind::Ferrite).await,
    }
}

/// MN-01, KV-29: the quota in force is told: as given, or that there is none.
#[tokio::test(flavor = "multi_thread")]
async fn a_status_tells_the_quota() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().build();
    let member = cluster.member(0);
    for (given, told) in [("0", 2 << 30), ("12345678", 12_345_678), ("-1", -1)] {
        member.start_once_with(&[format!("--quota-backend-bytes={given}")]);
        member.ready(PATIENCE).await;
        assert_eq!(
            status(&cluster.client(0)).await.db_size_quota,
            told,
            "{given}"
        );
        member.terminate().await;
    }
}
