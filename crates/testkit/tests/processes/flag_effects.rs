//! Flags whose effect is seen in how members treat each other and their folders.

use std::time::Duration;

use ferrite_testkit::{Cluster, Kind, Member, PATIENCE, eventually, oracle, pb};

use crate::{beside_others, http_get, put};

/// Old segments are looked for every thirty seconds.
const PURGED: Duration = Duration::from_secs(120);

/// FL-005: a follower comes back behind more entries than are kept, or fewer.
#[tokio::test(flavor = "multi_thread")]
async fn the_entries_that_are_kept_decide_how_a_follower_catches_up() {
    let _turn = beside_others().await;
    for (kept, by_snapshot) in [(20, true), (100_000, false)] {
        let cluster = Cluster::builder()
            .members(3)
            .snapshot_count(50)
            .catchup_entries(kept)
            .start()
            .await;
        let leader = cluster.leader().await;
        let follower = cluster.member((leader + 1) % 3);
        follower.kill9();
        let client = cluster.client(leader);
        for n in 0..400 {
            put(&client, &format!("k{n}"), "v").await;
        }
        follower.start();
        follower.ready(PATIENCE).await;
        let revision = cluster.wait_healthy().await;
        cluster.hash_kv_all(revision).await;
        let log = follower.log();
        for line in ["applySnapshot: opened snapshot backend", "applied snapshot"] {
            assert_eq!(
                log.contains(line),
                by_snapshot,
                "{kept} kept: {line}: {log}"
            );
        }
    }
}

/// FL-034: a member that was cut off comes back.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_cut_off_disturbs_only_without_pre_vote() {
    let _turn = beside_others().await;
    for pre_vote in [true, false] {
        let flag = format!("--pre-vote={pre_vote}");
        let cluster = Cluster::builder()
            .members(3)
            .wires()
            .extra_args(&[flag.as_str()])
            .start()
            .await;
        let (leader, term) = cluster.leader_and_term().await;
        let cut = (leader + 1) % 3;
        let status = async || {
            let mut maintenance = cluster.client(cut).maintenance();
            let status = maintenance.status(pb::StatusRequest {}).await;
            status.expect("a status").into_inner()
        };
        cluster.part(&[cut]).await;
        eventually("it knows no leader", PATIENCE, async || {
            (status().await.leader == 0).then_some(())
        })
        .await;
        if pre_vote {
            // Time for it to stand for election, if it did.
            tokio::time::sleep(Duration::from_secs(3)).await;
            assert_eq!(status().await.raft_term, term);
        } else {
            eventually("it stands for election, alone", PATIENCE, async || {
                (status().await.raft_term > term).then_some(())
            })
            .await;
        }
        cluster.join();
        cluster.wait_healthy().await;
        let (_, after) = cluster.leader_and_term().await;
        assert_eq!(after == term, pre_vote, "{term} was the term, then {after}");
    }
}

/// FL-007, DK-10: how many segments of the log stay.
#[tokio::test(flavor = "multi_thread")]
async fn old_segments_go_unless_all_are_to_stay() {
    const SEGMENTS: usize = 4;
    let _turn = beside_others().await;
    let cluster = |most: &'static str| {
        Cluster::builder()
            .snapshot_count(10)
            .catchup_entries(10)
            .extra_args(&["--max-wals", most])
            .start()
    };
    let (few, all) = tokio::join!(cluster("1"), cluster("0"));
    let segments = |member: &Member| {
        let dir = member.data_dir().join("member/wal");
        let files = std::fs::read_dir(dir).expect("a log").flatten();
        files
            .filter(|file| file.path().extension().is_some_and(|kind| kind == "wal"))
            .count()
    };
    let value = "v".repeat(1 << 20);
    let mut purged = false;
    for cluster in [&few, &all] {
        let client = cluster.client(0);
        // A segment holds 64 MB.
        for n in 0..SEGMENTS * 62 {
            put(&client, &format!("k{}", n % 3), &value).await;
        }
        purged |= segments(cluster.member(0)) < SEGMENTS;
    }
    assert!(segments(all.member(0)) >= SEGMENTS);
    if !purged {
        eventually("old segments go", PURGED, async || {
            (segments(few.member(0)) <= 2).then_some(())
        })
        .await;
    }
    assert!(segments(all.member(0)) >= SEGMENTS);
    // What is left is a whole log.
    let member = few.member(0);
    member.kill9();
    member.start();
    member.ready(PATIENCE).await;
    let found = crate::get(&few.client(0), "k0").await;
    assert!(found.as_deref() == Some(value.as_str()));
}

/// FL-076: whoever asks for it gets no fsync, as with the original.
#[tokio::test(flavor = "multi_thread")]
async fn without_fsync_none_is_made() {
    let _turn = beside_others().await;
    const PUTS: u64 = 20;
    // 3.5.1 may answer before the sync is over: those that are wanted are waited for.
    let syncs = async |kind: Kind, flag: &str, least: u64| {
        let cluster = Cluster::builder()
            .kinds(&[kind])
            .extra_args(&[flag])
            .start();
        let cluster = cluster.await;
        let count = async || {
            let page = http_get(cluster.member(0).endpoint(), "/metrics").await;
            let name = "etcd_disk_wal_fsync_duration_seconds_count ";
            let count = page.lines().find_map(|line| line.strip_prefix(name));
            count.expect("a count").parse::<f64>().expect("a number") as u64
        };
        let client = cluster.client(0);
        // What a start does is another question.
        put(&client, "k", "v").await;
        let before = count().await;
        for n in 0..PUTS {
            put(&client, &format!("k{n}"), "v").await;
        }
        eventually("so many syncs", PATIENCE, async || {
            Some(count().await - before).filter(|made| *made >= least)
        })
        .await
    };
    for kind in [Kind::Ferrite, Kind::Etcd351] {
        if kind == Kind::Ferrite || oracle().is_some() {
            let made = syncs(kind, "--unsafe-no-fsync=false", PUTS).await;
            assert!(made >= PUTS, "{kind:?}: {made}");
            let made = syncs(kind, "--unsafe-no-fsync=true", 0).await;
            assert_eq!(made, 0, "{kind:?}");
        }
    }
}
