//! Processes that stand still for a while and go on as if no time had passed.

use std::time::{Duration, Instant};

use ferrite_testkit::{Cluster, Random, Workload, accepted, eventually, pb, soak};

use crate::{alone, get, put};

/// Longer than an election takes.
const PAUSE: Duration = Duration::from_secs(3);

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_leader_serves_nothing_stale_when_it_goes_on() {
    let _turn = alone().await;
    let cluster = Cluster::builder().members(3).start().await;
    for round in 0..3 {
        let old = cluster.leader().await;
        put(&cluster.client(old), "k", "old").await;
        // A read under way when the leader freezes, answered after it thaws, must not be stale either.
        let stale = cluster.client(old);
        get(&stale, "k").await;
        cluster.member(old).stop_signal();
        let paused = Instant::now();
        let asked: Vec<_> = (0..8)
            .map(|_| {
                let client = stale.clone();
                tokio::spawn(async move {
                    let request = pb::RangeRequest {
                        key: "k".into(),
                        ..Default::default()
                    };
                    client.kv().range(request).await
                })
            })
            .collect();
        let other = cluster.client((old + 1) % 3);
        let value = format!("new{round}");
        let rest = eventually("a new leader takes a put", PAUSE * 4, async || {
            let request = pb::PutRequest {
                key: "k".into(),
                value: value.clone().into(),
                ..Default::default()
            };
            // One that is forwarded to the frozen leader waits there; do not wait for it.
            let mut kv = other.kv();
            let call = tokio::time::timeout(Duration::from_millis(250), kv.put(request));
            matches!(call.await, Ok(Ok(_))).then(|| paused.elapsed())
        })
        .await;
        cluster.member(old).cont();
        let thawed = Instant::now();
        let mut answered = 0;
        for read in asked {
            // Some may have run out of time; what is answered is new.
            if let Ok(response) = read.await.unwrap() {
                let pairs = response.into_inner().kvs;
                assert_eq!(
                    pairs[0].value, value,
                    "a frozen leader answered a stale read"
                );
                answered += 1;
            }
        }
        assert_eq!(get(&cluster.client(old), "k").await, Some(value));
        eprintln!(
            "leader paused: a put accepted after {rest:?}; linearizable read through it {:?} after it went on; {answered} of 8 waiting reads answered",
            thawed.elapsed()
        );
        assert!(thawed.elapsed() < Duration::from_secs(10));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_follower_disturbs_nobody_and_comes_back() {
    let _turn = alone().await;
    let cluster = Cluster::builder().members(3).start().await;
    let (leader, term) = cluster.leader_and_term().await;
    let paused = cluster.member((leader + 1) % 3);
    paused.stop_signal();
    let load = Workload::new()
        .writers(2)
        .readers(1)
        .through(leader)
        .start(&cluster);
    let start = Instant::now();
    load.wait_for(100).await;
    tokio::time::sleep(PAUSE.saturating_sub(start.elapsed())).await;
    paused.cont();
    let thawed = Instant::now();
    cluster.wait_healthy().await;
    eprintln!("follower answers {:?} after it went on", thawed.elapsed());
    assert!(thawed.elapsed() < Duration::from_secs(3));
    let history = load.stop().await;
    history.check(&cluster).await;
    assert_eq!(
        cluster.leader_and_term().await,
        (leader, term),
        "it started an election"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_paused_as_a_whole_serves_again_within_seconds() {
    let _turn = alone().await;
    let cluster = Cluster::builder().members(3).start().await;
    let client = cluster.client_all();
    for round in 0..3 {
        put(&client, "k", "before").await;
        for member in cluster.members() {
            member.stop_signal();
        }
        tokio::time::sleep(PAUSE).await;
        for member in cluster.members() {
            member.cont();
        }
        let thawed = Instant::now();
        accepted(&client, "k").await;
        for index in 0..3 {
            assert_eq!(
                get(&cluster.client(index), "k").await.as_deref(),
                Some("accepted")
            );
        }
        eprintln!(
            "all paused, round {round}: serving {:?} after going on",
            thawed.elapsed()
        );
        assert!(thawed.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_paused_goes_on_where_it_was() {
    let _turn = alone().await;
    let cluster = Cluster::builder().start().await;
    let client = cluster.client(0);
    put(&client, "k", "v").await;
    cluster.member(0).stop_signal();
    tokio::time::sleep(PAUSE).await;
    cluster.member(0).cont();
    let thawed = Instant::now();
    accepted(&client, "after").await;
    assert_eq!(get(&client, "k").await.as_deref(), Some("v"));
    eprintln!(
        "one member paused: serving {:?} after going on",
        thawed.elapsed()
    );
    assert!(thawed.elapsed() < Duration::from_secs(5));
}

/// Members paused in turn, for about as long as an election takes, under load and under readers that
/// notice anything stale.
#[tokio::test(flavor = "multi_thread")]
async fn pauses_around_the_election_timeout_serve_nothing_stale() {
    let _turn = alone().await;
    let mut random = Random::announced("pauses under load");
    let cluster = Cluster::builder().members(3).start().await;
    let load = Workload::new()
        .readers(4)
        .pause(Duration::from_millis(1))
        .start(&cluster);
    load.wait_for(50).await;
    let (start, mut pauses) = (Instant::now(), 0);
    while start.elapsed() < soak(12) {
        // The leader half of the time.
        let victim = if random.below(2) == 0 {
            cluster.leader().await
        } else {
            usize::try_from(random.below(3)).unwrap()
        };
        cluster.member(victim).stop_signal();
        tokio::time::sleep(Duration::from_millis(700 + random.below(1_500))).await;
        cluster.member(victim).cont();
        tokio::time::sleep(Duration::from_millis(random.below(400))).await;
        pauses += 1;
    }
    load.wait_for(50).await;
    let history = load.stop().await;
    eprintln!("{pauses} pauses");
    history.check(&cluster).await;
}
