//! How long writes stand still when the leader goes, and what its return disturbs.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use ferrite_testkit::{Cluster, PATIENCE, Workload, accepted, eventually, pb};
use tokio::task::JoinSet;

use crate::{alone, put};

/// Sends a put through the members left every few milliseconds, none waiting for another, until one
/// is accepted. (One that a follower forwards to a leader that just died is lost with it, here as in
/// the original, and ends only with its own time.)
async fn outage(cluster: &Cluster, gone: usize, since: Instant) -> Duration {
    let left = [(gone + 1) % 3, (gone + 2) % 3].map(|index| cluster.client(index));
    let mut tries = JoinSet::new();
    let mut next = tokio::time::interval(Duration::from_millis(10));
    let mut count = 0;
    loop {
        tokio::select! {
            _ = next.tick() => {
                let mut kv = left[count % 2].kv();
                let key = format!("outage{count}");
                tries.spawn(async move {
                    let request = pb::PutRequest { key: key.into(), value: "v".into(), ..Default::default() };
                    kv.put(request).await.is_ok()
                });
                count += 1;
            }
            Some(accepted) = tries.join_next(), if !tries.is_empty() => {
                if accepted.expect("a put does not panic") {
                    return since.elapsed();
                }
            }
        }
        assert!(since.elapsed() < PATIENCE, "no put is accepted");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_hands_over_and_returns_without_an_election() {
    let _turn = alone().await;
    let cluster = Cluster::builder().members(3).start().await;
    let mut figures = Vec::new();
    for _ in 0..4 {
        let (old, before) = cluster.leader_and_term().await;
        put(&cluster.client(old), "warm", "v").await;
        let since = Instant::now();
        cluster.member(old).signal(libc::SIGTERM);
        let outage = outage(&cluster, old, since).await;
        let status = cluster.member(old).exit(PATIENCE).await;
        let stopped = since.elapsed();
        assert_eq!(status.signal(), Some(libc::SIGTERM), "{status}");
        figures.push((outage, stopped));
        let (new, after) = cluster.leader_and_term().await;
        assert_ne!(new, old);
        assert_eq!(after, before + 1, "one handover takes one term");
        cluster.member(old).start();
        cluster.member(old).ready(PATIENCE).await;
        cluster.wait_healthy().await;
        // Long enough for an election that its return might provoke.
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert_eq!(
            cluster.leader_and_term().await,
            (new, after),
            "its return caused an election"
        );
    }
    eprintln!("leader SIGTERM (next write accepted, process gone): {figures:?}");
    for (outage, stopped) in figures {
        assert!(
            outage < Duration::from_secs(1),
            "writes stood still for {outage:?}"
        );
        assert!(
            stopped < Duration::from_secs(5),
            "stopping took {stopped:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_leader_is_replaced_within_seconds_and_returns_without_an_election() {
    let _turn = alone().await;
    let cluster = Cluster::builder().members(3).start().await;
    let mut figures = Vec::new();
    for _ in 0..3 {
        let old = cluster.leader().await;
        let since = Instant::now();
        cluster.member(old).kill9();
        figures.push(outage(&cluster, old, since).await);
        let (new, term) = cluster.leader_and_term().await;
        cluster.member(old).start();
        cluster.member(old).ready(PATIENCE).await;
        cluster.wait_healthy().await;
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        assert_eq!(
            cluster.leader_and_term().await,
            (new, term),
            "its return caused an election"
        );
    }
    eprintln!("leader SIGKILL, next write accepted after: {figures:?}");
    assert!(
        figures
            .iter()
            .all(|figure| *figure < Duration::from_secs(5)),
        "{figures:?}"
    );
}

/// Each member in turn stopped and started, as an upgrade does, under load.
#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_loses_no_write() {
    let _turn = alone().await;
    let cluster = Cluster::builder().members(3).start().await;
    let load = Workload::new()
        .readers(2)
        .pause(Duration::from_millis(1))
        .start(&cluster);
    for _ in 0..2 {
        for member in cluster.members() {
            load.wait_for(50).await;
            member.terminate().await;
            load.wait_for(20).await;
            member.start();
            member.ready(PATIENCE).await;
        }
    }
    let history = load.stop().await;
    history.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_nothing_is_acknowledged_and_service_returns_with_it() {
    let _turn = alone().await;
    let cluster = Cluster::builder().members(3).start().await;
    let leader = cluster.leader().await;
    let client = cluster.client(leader);
    put(&client, "k", "v").await;
    cluster.member((leader + 1) % 3).kill9();
    cluster.member((leader + 2) % 3).kill9();
    for _ in 0..2 {
        let request = pb::PutRequest {
            key: "k".into(),
            value: "lost".into(),
            ..Default::default()
        };
        let mut kv = client.kv();
        let call = tokio::time::timeout(Duration::from_secs(2), kv.put(request));
        assert!(
            !matches!(call.await, Ok(Ok(_))),
            "acknowledged without a quorum"
        );
        let request = pb::RangeRequest {
            key: "k".into(),
            ..Default::default()
        };
        let mut kv = client.kv();
        let call = tokio::time::timeout(Duration::from_secs(2), kv.range(request));
        assert!(
            !matches!(call.await, Ok(Ok(_))),
            "a linearizable read without a quorum"
        );
    }
    let request = pb::RangeRequest {
        key: "k".into(),
        serializable: true,
        ..Default::default()
    };
    let served = client
        .kv()
        .range(request)
        .await
        .expect("serializable reads need no quorum");
    assert_eq!(served.into_inner().kvs.len(), 1);
    let since = Instant::now();
    cluster.start_all().await;
    accepted(&cluster.client_all(), "after").await;
    eprintln!(
        "quorum restored: a put accepted {:?} after the start",
        since.elapsed()
    );
    cluster.hash_kv_all(0).await;
}

/// The last resort after a lost quorum: one folder that is left, and whatever was acknowledged through
/// it, also when everything was killed right after the answer.
#[tokio::test(flavor = "multi_thread")]
async fn force_new_cluster_keeps_what_was_acknowledged() {
    let _turn = alone().await;
    let cluster = Cluster::builder().members(3).start().await;
    let client = cluster.client(0);
    for n in 0..20 {
        put(&client, &format!("k{n}"), "v").await;
    }
    let own = |header: Option<pb::ResponseHeader>| {
        let header = header.expect("a header");
        (header.cluster_id, header.member_id)
    };
    let before = client
        .cluster()
        .member_list(pb::MemberListRequest::default())
        .await;
    let before = own(before.expect("a member list").into_inner().header);
    for index in 0..3 {
        cluster.member(index).kill9();
    }
    let left = Cluster::builder()
        .members(1)
        .data_from(0, cluster.member(0).data_dir())
        .extra_args(&["--force-new-cluster"])
        .start()
        .await;
    let client = left.client(0);
    for n in 0..20 {
        let found = crate::get(&client, &format!("k{n}")).await;
        assert_eq!(found.as_deref(), Some("v"), "k{n}");
    }
    let request = pb::MemberListRequest { linearizable: true };
    let members = client.cluster().member_list(request).await;
    let members = members.expect("a member list").into_inner();
    assert_eq!(own(members.header), before, "BG-05: IDs are kept");
    let members = members.members;
    assert_eq!(members.len(), 1, "{members:?}");
    assert_eq!(members[0].id, before.1);
    put(&client, "after", "v").await;
}

/// BG-04: a single member does not wait for its election time-out, and several wait for most of it only if told to.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_election_comes_sooner_unless_told_otherwise() {
    let _turn = alone().await;
    let forward = "started as single-node; fast-forwarding election ticks";
    let single = Cluster::builder()
        .extra_args(&["--initial-election-tick-advance=false"])
        .start()
        .await;
    assert!(single.member(0).log_contains(forward));
    drop(single);

    let soon = Cluster::builder().members(3).election_ms(20_000).build();
    for member in soon.members() {
        member.start();
    }
    let forward = "initialized peer connections; fast-forwarding election ticks";
    for member in soon.members() {
        let what = format!(
            "member {} has gone forward, or had a leader before",
            member.index()
        );
        eventually(&what, PATIENCE, async || {
            let log = member.log();
            (log.contains(forward) || log.contains("elected leader")).then_some(())
        })
        .await;
    }
    assert!(
        soon.members()
            .iter()
            .any(|member| member.log_contains(forward))
    );
    drop(soon);

    let later = Cluster::builder()
        .members(3)
        .election_ms(4_000)
        .extra_args(&["--initial-election-tick-advance=false"])
        .build();
    let begin = Instant::now();
    later.start_all().await;
    later.leader().await;
    assert!(
        begin.elapsed() >= Duration::from_secs(4),
        "{:?}",
        begin.elapsed()
    );
    let skipped = "skipping initial election tick advance";
    assert!(
        later
            .members()
            .iter()
            .any(|member| member.log_contains(skipped))
    );
}
