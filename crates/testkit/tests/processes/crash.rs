//! Three members killed in every way, under load; nothing acknowledged may be lost.

use std::time::{Duration, Instant};

use ferrite_testkit::{Cluster, PATIENCE, Random, Workload, soak};

use crate::beside_others;

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_one_two_and_all_under_load() {
    let _turn = beside_others().await;
    let mut random = Random::announced("three members killed at random");
    let cluster = Cluster::builder()
        .members(3)
        .snapshot_count(1_000)
        .catchup_entries(200)
        .start()
        .await;
    let load = Workload::new()
        .readers(2)
        .pause(Duration::from_millis(2))
        .start(&cluster);
    let (start, mut rounds, mut kills) = (Instant::now(), 0_u64, 0);
    while start.elapsed() < soak(120) || rounds < 6 {
        // One, two, all, one, …, each in random order.
        let count = rounds % 3 + 1;
        let first = random.below(3);
        for n in 0..count {
            cluster
                .member(usize::try_from((first + n) % 3).unwrap())
                .kill9();
            kills += 1;
        }
        tokio::time::sleep(Duration::from_millis(random.below(1_500))).await;
        cluster.start_all().await;
        load.wait_for(50).await;
        tokio::time::sleep(Duration::from_millis(random.below(500))).await;
        rounds += 1;
    }
    let history = load.stop().await;
    eprintln!("{rounds} rounds, {kills} kills");
    history.check(&cluster).await;
}

/// Members killed again and again while they recover, with a quorum always up.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_while_catching_up() {
    let _turn = beside_others().await;
    let mut random = Random::announced("killed while catching up");
    let cluster = Cluster::builder().members(3).start().await;
    let load = Workload::new()
        .readers(2)
        .pause(Duration::from_millis(2))
        .start(&cluster);
    load.wait_for(50).await;
    let victim = cluster.member(usize::try_from(random.below(3)).unwrap());
    for _ in 0..10 {
        victim.kill9();
        victim.start();
        tokio::time::sleep(Duration::from_millis(random.below(400))).await;
        assert!(victim.exited().is_none(), "it ended by itself in recovery");
    }
    victim.ready(PATIENCE).await;
    let history = load.stop().await;
    history.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_around_a_change_of_log_segment() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().members(3).start().await;
    let load = Workload::new()
        .writers(4)
        .value_bytes(512 * 1024)
        .pause(Duration::from_millis(20))
        .start(&cluster);
    // 64 MB a segment: the first ends after some 120 writes, the second after 240.
    for victim in 0..3 {
        load.wait_for_within(70, Duration::from_secs(60)).await;
        cluster.member(victim).kill9();
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.member(victim).start();
        cluster.member(victim).ready(PATIENCE).await;
    }
    let history = load.stop().await;
    for member in cluster.members() {
        let segments = std::fs::read_dir(member.data_dir().join("member/wal"))
            .unwrap()
            .filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                name.to_string_lossy().ends_with(".wal")
            })
            .count();
        assert!(
            segments > 1,
            "member {} is in its first segment",
            member.index()
        );
    }
    history.check(&cluster).await;
    // And once more from the disk alone.
    for member in cluster.members() {
        member.kill9();
    }
    cluster.start_all().await;
    history.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_behind_the_log_catches_up_by_snapshot_even_when_killed_during_it() {
    let _turn = beside_others().await;
    let mut random = Random::announced("snapshot install");
    let cluster = Cluster::builder()
        .members(3)
        .snapshot_count(100)
        .catchup_entries(10)
        .start()
        .await;
    // Some weight, so that the transfer takes a moment.
    let bulk = Workload::new()
        .prefix("bulk")
        .value_bytes(100_000)
        .start(&cluster);
    bulk.wait_for(100).await;
    let mut history = bulk.stop().await;
    let leader = cluster.leader().await;
    let victim = cluster.member((leader + 1) % 3);
    let rounds = 4;
    let mut installs = 0;
    for round in 0..rounds {
        victim.kill9();
        let prefix = format!("round{round}");
        let load = Workload::new().prefix(&prefix).start(&cluster);
        load.wait_for(400).await;
        for _ in 0..3 {
            victim.start();
            tokio::time::sleep(Duration::from_millis(50 + random.below(400))).await;
            assert!(victim.exited().is_none(), "it ended by itself in recovery");
            installs += usize::from(victim.log_contains("snapshot"));
            victim.kill9();
        }
        load.wait_for(200).await;
        history.merge(load.stop().await);
        victim.start();
        victim.ready(PATIENCE).await;
        history.check(&cluster).await;
    }
    let snapshots = std::fs::read_dir(victim.data_dir().join("member/snap"))
        .unwrap()
        .filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().ends_with(".snap")
        })
        .count();
    eprintln!(
        "{rounds} rounds; {installs} killed runs spoke of a snapshot; {snapshots} .snap files"
    );
    assert!(snapshots > 0, "nothing was installed or taken");
    let left: Vec<_> = std::fs::read_dir(victim.data_dir().join("member/snap"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().contains("tmp"))
        .collect();
    assert!(left.is_empty(), "left-overs of broken transfers: {left:?}");
}
