//! Clusters of both kinds: the original's 3.5.1 and ours.

use std::time::Duration;

use ferrite_testkit::{Cluster, Kind, PATIENCE, Ports, Workload, eventually, oracle, pb};

use crate::left::kill_under_load;
use crate::{beside_others, get, put};
use Kind::{Etcd351, Ferrite};

/// Puts through every member and reads each from every other.
async fn speaks_everywhere(cluster: &Cluster, round: &str) {
    let members = cluster.members().len();
    for from in 0..members {
        let key = format!("{round}/{from}");
        put(&cluster.client(from), &key, "v").await;
        for to in 0..members {
            let seen = get(&cluster.client(to), &key).await;
            assert_eq!(
                seen.as_deref(),
                Some("v"),
                "put through {from}, read through {to}"
            );
        }
    }
}

/// Members of both kinds lead, and fall under load, leaders and followers, then all at once.
async fn both_kinds_lead_and_fall(kinds: &[Kind]) {
    let cluster = Cluster::builder().kinds(kinds).start().await;
    speaks_everywhere(&cluster, "founded").await;
    let load = Workload::new()
        .writers(3)
        .readers(2)
        .others(1)
        .pause(Duration::from_millis(2))
        .start(&cluster);
    for kind in [Ferrite, Etcd351] {
        let chosen = kinds.iter().position(|k| *k == kind).expect("both kinds");
        cluster.move_leader(chosen).await;
        speaks_everywhere(&cluster, &format!("{kind:?} leads")).await;
        load.wait_for(30).await;
        // A follower of either kind falls and catches up from the log.
        for follower in (0..kinds.len()).filter(|index| *index != chosen) {
            kill_under_load(&cluster, follower);
            load.wait_for(30).await;
            cluster.start_all().await;
        }
        // The leader falls, if it leads still: a busy machine may have elected another.
        kill_under_load(&cluster, chosen);
        load.wait_for(30).await;
        let next = cluster.leader().await;
        assert_ne!(next, chosen);
        cluster.start_all().await;
        speaks_everywhere(&cluster, &format!("{kind:?} fell")).await;
        eprintln!(
            "{kinds:?}: {kind:?} led and fell, member {next} ({:?}) took over",
            cluster.member(next).kind()
        );
    }
    // All fall.
    load.wait_for(30).await;
    for index in 0..kinds.len() {
        kill_under_load(&cluster, index);
    }
    cluster.start_all().await;
    load.wait_for(30).await;
    load.stop().await.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_theirs_and_one_of_ours() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    both_kinds_lead_and_fall(&[Etcd351, Ferrite, Etcd351]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_theirs_and_two_of_ours() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    both_kinds_lead_and_fall(&[Ferrite, Etcd351, Ferrite]).await;
}

/// Leadership goes from member to member, across kinds, and two members at a time fall under load.
#[tokio::test(flavor = "multi_thread")]
async fn five_members_of_both_kinds() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    let kinds = [Etcd351, Ferrite, Etcd351, Ferrite, Ferrite];
    let cluster = Cluster::builder().kinds(&kinds).start().await;
    let load = Workload::new()
        .writers(3)
        .readers(2)
        .pause(Duration::from_millis(5))
        .start(&cluster);
    for next in [1, 0, 2, 3] {
        cluster.move_leader(next).await;
        load.wait_for(30).await;
    }
    speaks_everywhere(&cluster, "led by both").await;
    // One of each kind, then two of one: the leader among them.
    for fallen in [[0, 1], [2, 3], [3, 4], [0, 2]] {
        cluster.move_leader(fallen[0]).await;
        for index in fallen {
            kill_under_load(&cluster, index);
        }
        load.wait_for(30).await;
        cluster.start_all().await;
    }
    load.wait_for(30).await;
    load.stop().await.check(&cluster).await;
}

/// Brings a member of one kind so far behind that a leader of the other kind sends it a snapshot.
async fn snapshot_between(leader_kind: Kind, follower_kind: Kind) {
    let kinds = [leader_kind, follower_kind, leader_kind];
    let cluster = Cluster::builder()
        .kinds(&kinds)
        .snapshot_count(200)
        .catchup_entries(20)
        .start()
        .await;
    let follower = cluster.member(1);
    let first = Workload::new().prefix("first").start(&cluster);
    first.wait_for(50).await;
    let mut history = first.stop().await;
    cluster.move_leader(0).await;
    // 3.5.1 at rest: see below.
    tokio::time::sleep(Duration::from_millis(400)).await;
    follower.kill9();
    // The original keeps 5000 entries after a snapshot, whatever it is told.
    let entries = if leader_kind == Etcd351 { 5_800 } else { 600 };
    let load = Workload::new().writers(32).start(&cluster);
    load.wait_for_within(entries, Duration::from_secs(60)).await;
    history.merge(load.stop().await);
    // It installs while others write on.
    let load = Workload::new()
        .prefix("meanwhile")
        .pause(Duration::from_millis(5))
        .start(&cluster);
    follower.start();
    follower.ready(PATIENCE).await;
    load.wait_for(50).await;
    history.merge(load.stop().await);
    history.check(&cluster).await;
    let received = if follower_kind == Ferrite {
        "receiving database snapshot"
    } else {
        "applied snapshot"
    };
    assert!(
        follower.log_contains(received)
            || follower.log_contains("received and saved database snapshot"),
        "it caught up without a snapshot"
    );
    // What it installed is on its disk. Its log begins with the snapshot, so what 3.5.1's own bug does
    // to a member killed under load could not be told here: it is killed at rest, past its batch interval.
    tokio::time::sleep(Duration::from_millis(400)).await;
    follower.kill9();
    follower.start();
    follower.ready(PATIENCE).await;
    history.check(&cluster).await;
    eprintln!(
        "{follower_kind:?} caught up by a snapshot of {leader_kind:?} over {entries} entries"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn theirs_installs_our_snapshot() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    snapshot_between(Ferrite, Etcd351).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ours_installs_their_snapshot() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    snapshot_between(Etcd351, Ferrite).await;
}

/// A running cluster of the original, replaced member by member under load.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_cluster_is_taken_over_member_by_member() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    let cluster = Cluster::builder().kinds(&[Etcd351; 3]).start().await;
    let load = Workload::new()
        .writers(3)
        .readers(2)
        .pause(Duration::from_millis(2))
        .start(&cluster);
    for member in cluster.members() {
        load.wait_for(50).await;
        member.terminate().await;
        load.wait_for(20).await;
        member.start_as(Ferrite);
        member.ready(PATIENCE).await;
        cluster.wait_healthy().await;
    }
    load.wait_for(50).await;
    let history = load.stop().await;
    history.check(&cluster).await;
}

/// What a follower cannot do itself it hands to its leader, of whatever kind that is.
#[tokio::test(flavor = "multi_thread")]
async fn followers_of_one_kind_hand_on_to_leaders_of_the_other() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    let kinds = [Ferrite, Etcd351, Ferrite, Etcd351];
    let cluster = Cluster::builder().kinds(&kinds).start().await;
    let mut ports = Ports::default();
    for (leader, follower) in [(0, 1), (1, 0)] {
        cluster.move_leader(leader).await;
        let client = cluster.client(follower);
        let who = format!("{:?} asked, {:?} leads", kinds[follower], kinds[leader]);
        let id = 500 + i64::try_from(leader).unwrap();
        // Proposals and reads.
        let request = pb::LeaseGrantRequest { ttl: 60, id };
        let granted = client.lease().lease_grant(request).await;
        granted.unwrap_or_else(|status| panic!("{who}: {status}"));
        let key = format!("handed on {leader}");
        let request = pb::PutRequest {
            key: key.clone().into(),
            value: "v".into(),
            lease: id,
            ..Default::default()
        };
        client.kv().put(request).await.expect("a put");
        assert_eq!(get(&client, &key).await.as_deref(), Some("v"), "{who}");
        // Leases: only the leader knows how long one still lives.
        let request = tokio_stream::iter([pb::LeaseKeepAliveRequest { id }]);
        let answers = client.lease().lease_keep_alive(request).await;
        let answer = answers.expect("a stream").into_inner().message().await;
        let answer = answer.unwrap_or_else(|status| panic!("{who}: {status}"));
        assert_eq!(
            answer.map(|answer| (answer.id, answer.ttl)),
            Some((id, 60)),
            "{who}"
        );
        let request = pb::LeaseTimeToLiveRequest { id, keys: true };
        let left = client.lease().lease_time_to_live(request).await;
        let left = left
            .unwrap_or_else(|status| panic!("{who}: {status}"))
            .into_inner();
        assert_eq!((left.granted_ttl, left.keys.len()), (60, 1), "{who}");
        assert!((50..=60).contains(&left.ttl), "{who}: {}", left.ttl);
        // Membership; a learner that never came is not in sync, which only the leader can know.
        let url = format!("http://127.0.0.1:{}", ports.take());
        let request = pb::MemberAddRequest {
            peer_urls: vec![url.clone()],
            is_learner: true,
        };
        let learner = eventually("a learner is added", PATIENCE, async || {
            match client.cluster().member_add(request.clone()).await {
                Ok(added) => added.into_inner().member.map(|member| member.id),
                // Members must have been connected for a while; a call without an answer may have been done.
                Err(_) => {
                    let request = pb::MemberListRequest { linearizable: true };
                    let list = client
                        .cluster()
                        .member_list(request)
                        .await
                        .ok()?
                        .into_inner();
                    let found = list
                        .members
                        .iter()
                        .find(|member| member.peer_urls[0] == url);
                    found.map(|member| member.id)
                }
            }
        })
        .await;
        let request = pb::MemberPromoteRequest { id: learner };
        let refused = client
            .cluster()
            .member_promote(request)
            .await
            .expect_err("too early");
        assert!(
            refused.message().contains("in sync with leader"),
            "{who}: {refused}"
        );
        eventually("it is removed", PATIENCE, async || {
            let request = pb::MemberRemoveRequest { id: learner };
            match client.cluster().member_remove(request).await {
                Ok(_) => Some(()),
                Err(status) if status.message().contains("not found") => Some(()),
                Err(_) => None,
            }
        })
        .await;
    }
    cluster.hash_kv_all(0).await;
}
