//! A cluster of one, killed and stopped.

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use ferrite_testkit::{Cluster, History, PATIENCE, Random, Workload, soak};

use crate::{beside_others, get, put};

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_writes_survive_kill_9() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().start().await;
    let client = cluster.client(0);
    let mut revisions = Vec::new();
    for n in 0..50 {
        revisions.push(put(&client, &format!("k{n}"), "v").await);
    }
    cluster.member(0).kill9();
    cluster.start_all().await;
    for n in 0..50 {
        assert_eq!(get(&client, &format!("k{n}")).await.as_deref(), Some("v"));
    }
    let next = put(&client, "after", "v").await;
    assert_eq!(Some(&(next - 1)), revisions.last());
}

/// Kills at random moments: while writing, while recovering, now and then twice in a row.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_at_random_moments_loses_nothing() {
    let _turn = beside_others().await;
    let mut random = Random::announced("one member killed at random");
    // Small snapshot distance, so that kills fall into snapshots and log releases as well.
    let cluster = Cluster::builder()
        .snapshot_count(300)
        .catchup_entries(50)
        .start()
        .await;
    let member = cluster.member(0);
    let mut history = History::default();
    let (start, mut kills, mut early) = (Instant::now(), 0, 0);
    while start.elapsed() < soak(120) {
        let prefix = format!("load{kills}");
        let load = Workload::new().prefix(&prefix).writers(3).start(&cluster);
        load.wait_for(20 + random.below(200)).await;
        tokio::time::sleep(Duration::from_millis(random.below(150))).await;
        member.kill9();
        kills += 1;
        // Again during recovery, before it serves.
        while random.below(2) == 0 {
            member.start();
            tokio::time::sleep(Duration::from_millis(random.below(120))).await;
            assert!(member.exited().is_none(), "it ended by itself in recovery");
            early += usize::from(!member.log_contains("ready to serve client requests"));
            member.kill9();
            kills += 1;
        }
        member.start();
        member.ready(PATIENCE).await;
        history.merge(load.stop().await);
        history.check(&cluster).await;
    }
    eprintln!("{kills} kills, {early} of them before the member served");
}

/// Values so large that every round closes a segment of the log or is about to: the kill falls where
/// the next one is prepared, renamed or begun.
#[tokio::test(flavor = "multi_thread")]
async fn kill_9_around_a_change_of_segment_loses_nothing() {
    let _turn = beside_others().await;
    let mut random = Random::announced("segment change");
    let cluster = Cluster::builder().start().await;
    let member = cluster.member(0);
    let mut history = History::default();
    for round in 0..4 {
        let prefix = format!("segment{round}");
        let load = Workload::new()
            .prefix(&prefix)
            .writers(3)
            .value_bytes(600_000)
            .start(&cluster);
        load.wait_for(95 + random.below(20)).await;
        member.kill9();
        member.start();
        member.ready(PATIENCE).await;
        history.merge(load.stop().await);
    }
    let segments = std::fs::read_dir(member.data_dir().join("member/wal"))
        .expect("a log")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.ends_with(".wal"))
        .max();
    assert!(segments > Some(format!("{:016x}", 2)), "{segments:?}");
    history.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_during_first_boot_leaves_a_folder_that_starts() {
    let _turn = beside_others().await;
    let mut random = Random::announced("first boot");
    let mut early = 0;
    const ROUNDS: usize = 12;
    for round in 0..ROUNDS {
        let cluster = Cluster::builder().build();
        let member = cluster.member(0);
        for _ in 0..2 {
            member.start();
            tokio::time::sleep(Duration::from_millis(random.below(150))).await;
            early += usize::from(!member.log_contains("ready to serve client requests"));
            member.kill9();
        }
        cluster.start_all().await;
        let client = cluster.client(0);
        let value = round.to_string();
        put(&client, "k", &value).await;
        assert_eq!(get(&client, "k").await, Some(value));
    }
    eprintln!(
        "{ROUNDS} folders, {early} of {} kills before the member served",
        ROUNDS * 2
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_and_sigint_end_as_by_the_signal_and_lose_nothing() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().start().await;
    let client = cluster.client(0);
    put(&client, "k", "v").await;
    let status = cluster.member(0).terminate().await;
    assert_eq!(status.signal(), Some(libc::SIGTERM), "{status}");
    cluster.start_all().await;
    assert_eq!(get(&client, "k").await.as_deref(), Some("v"));
    cluster.member(0).signal(libc::SIGINT);
    let status = cluster.member(0).exit(PATIENCE).await;
    assert_eq!(status.signal(), Some(libc::SIGINT), "{status}");
    cluster.start_all().await;
    assert_eq!(get(&client, "k").await.as_deref(), Some("v"));
}
