//! A member that is left alone: what it still tells, what it refuses, and what waits.

use std::time::{Duration, Instant};

use ferrite_client::{Config, last_failure};
use ferrite_testkit::{Client, Cluster, Kind, PATIENCE, eventually, oracle, pb};
use pb::alarm_request::AlarmAction;
use tonic::{Code, Status};

use crate::{alone, put};

/// Longer than any limit of the server's own, which are seven seconds.
const CALLERS_LIMIT: Duration = Duration::from_secs(9);

fn words(status: &Status) -> String {
    last_failure(status).unwrap_or_else(|| status.message().to_owned())
}

async fn alone_and_asked(kind: Kind) {
    let cluster = Cluster::builder()
        .kinds(&[kind; 3])
        .extra_args(&["--strict-reconfig-check=false"])
        .start()
        .await;
    let leader = cluster.leader().await;
    let (left, mut ids) = ((leader + 1) % 3, Vec::new());
    let client = cluster.client(left);
    for id in [70, 7, 700] {
        let request = pb::LeaseGrantRequest { id, ttl: 600 };
        client.lease().lease_grant(request).await.expect("a lease");
        ids.push(id);
    }
    put(&client, "k", "v").await;
    let alarm = |action: AlarmAction, alarm: pb::AlarmType| pb::AlarmRequest {
        action: action as i32,
        member_id: 123,
        alarm: alarm as i32,
    };
    let raised = alarm(AlarmAction::Activate, pb::AlarmType::Nospace);
    let raised = client.maintenance().alarm(raised).await;
    raised.expect("an alarm");
    let members = client
        .cluster()
        .member_list(pb::MemberListRequest { linearizable: true })
        .await
        .expect("a list")
        .into_inner()
        .members;
    let spare = members
        .iter()
        .find(|member| member.name == format!("m{leader}"));
    let spare = spare.expect("the leader is listed").id;

    // LE-07: a member that follows tells what it knows, in any order.
    let leases = async || {
        let found = client.lease().lease_leases(pb::LeaseLeasesRequest {}).await;
        let found = found.expect("leases").into_inner().leases;
        let mut found: Vec<i64> = found.iter().map(|lease| lease.id).collect();
        found.sort_unstable();
        found
    };
    ids.sort_unstable();
    assert_eq!(leases().await, ids, "{kind:?}");

    cluster.member(leader).kill9();
    cluster.member((leader + 2) % 3).kill9();
    // MN-01, MN-11: what it tells by itself.
    let status = eventually("it notices that nobody leads", PATIENCE, async || {
        let status = client.maintenance().status(pb::StatusRequest {}).await;
        let status = status.expect("a status").into_inner();
        (status.leader == 0).then_some(status)
    })
    .await;
    // Go's text form doubles the space at random.
    let errors: Vec<String> = (status.errors.iter())
        .map(|error| error.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect();
    assert_eq!(
        errors,
        ["etcdserver: no leader", "memberID:123 alarm:NOSPACE"],
        "{kind:?}"
    );
    if kind == Kind::Ferrite {
        assert_eq!(status.db_size_quota, 2 << 30, "the default");
    }
    assert_eq!(leases().await, ids, "{kind:?}");

    // MN-11, CL-11: what goes through the log.
    let mut patient = Config::new([cluster.member(left).endpoint()]);
    patient.call_timeout = Some(CALLERS_LIMIT);
    let patient = Client::new(patient).expect("a loopback endpoint");
    let timed = async |what: &str, call: std::pin::Pin<Box<dyn Future<Output = Status> + '_>>| {
        let begin = Instant::now();
        (what.to_owned(), call.await, begin.elapsed())
    };
    let peer_urls = Vec::from(["http://127.0.0.1:1".to_owned()]);
    let add = pb::MemberAddRequest {
        peer_urls: peer_urls.clone(),
        is_learner: false,
    };
    let update = pb::MemberUpdateRequest {
        id: spare,
        peer_urls,
    };
    let list = alarm(AlarmAction::Get, pb::AlarmType::None);
    let (alarms, added, removed, updated) = tokio::join!(
        timed(
            "alarms",
            Box::pin(async {
                patient
                    .maintenance()
                    .alarm(list)
                    .await
                    .expect_err("no quorum")
            })
        ),
        timed(
            "add",
            Box::pin(async {
                patient
                    .cluster()
                    .member_add(add)
                    .await
                    .expect_err("no quorum")
            })
        ),
        timed(
            "remove",
            Box::pin(async {
                let request = pb::MemberRemoveRequest { id: spare };
                patient
                    .cluster()
                    .member_remove(request)
                    .await
                    .expect_err("no quorum")
            })
        ),
        timed(
            "update",
            Box::pin(async {
                patient
                    .cluster()
                    .member_update(update)
                    .await
                    .expect_err("no quorum")
            })
        ),
    );
    assert!(
        words(&alarms.1).contains("context deadline exceeded"),
        "{kind:?}: {alarms:?}"
    );
    assert!(
        alarms.2 < CALLERS_LIMIT,
        "{kind:?}: the server's own limit: {alarms:?}"
    );
    for (what, status, took) in [added, removed, updated] {
        // The original is told the caller's limit, and may be the first to say that it is over.
        let original = kind == Kind::Etcd351 && status.message() == "context deadline exceeded";
        assert!(
            original || status.code() == Code::DeadlineExceeded && last_failure(&status).is_none(),
            "{kind:?} {what}: {status:?}"
        );
        assert!(took >= CALLERS_LIMIT, "{kind:?} {what} after {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_left_alone_tells_what_it_knows_and_changes_nothing() {
    let _turn = alone().await;
    match oracle() {
        Some(_) => drop(tokio::join!(
            alone_and_asked(Kind::Ferrite),
            alone_and_asked(Kind::Etcd351)
        )),
        None => alone_and_asked(Kind::Ferrite).await,
    }
}
