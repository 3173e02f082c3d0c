//! A cluster of any mix, a member killed again and again under load, and after each time a full
//! comparison. For hours by hand (`docs/proof.md` says how); a few rounds of the same are in `mixed`.
//!
//! `FERRITE_SOAK_MIX`: the members' kinds, as `351,ours,351`. `FERRITE_SOAK_KILL`: which kind is killed
//! (absent: any). `FERRITE_SOAK_OTHERS`: clients that write by transactions and with leases.
//! `FERRITE_SOAK_SECONDS`: for how long.

use std::time::{Duration, Instant};

use ferrite_testkit::{Cluster, Kind, Load, PATIENCE, Random, Workload, eventually, pb, soak};

use crate::alone;
use crate::left::Left;

/// Rounds on one cluster: its log stays short enough to be read whole in each.
const ROUNDS: u64 = 15;

fn kind(name: &str) -> Kind {
    match name {
        "ours" => Kind::Ferrite,
        "351" => Kind::Etcd351,
        _ => panic!("no kind is called {name:?}: ours or 351"),
    }
}

/// Waits until all members have applied the same; each one's revision and hash.
async fn settled(cluster: &Cluster) -> Vec<(i64, u32)> {
    cluster.wait_healthy().await;
    eventually("all have applied the same", PATIENCE, async || {
        let statuses = cluster.statuses().await;
        let first = statuses.first()?.1.raft_applied_index;
        let all = statuses.len() == cluster.members().len();
        (all && statuses.iter().all(|(_, s)| s.raft_applied_index == first)).then_some(())
    })
    .await;
    let mut hashes = Vec::new();
    for member in cluster.members() {
        let request = pb::HashKvRequest { revision: 0 };
        let client = cluster.client(member.index());
        let hash = client.maintenance().hash_kv(request).await;
        let hash = hash.expect("HashKV").into_inner();
        hashes.push((hash.header.expect("a header").revision, hash.hash));
    }
    hashes
}

fn all_equal(hashes: &[(i64, u32)]) -> bool {
    hashes.iter().all(|hash| *hash == hashes[0])
}

/// What the rounds came to.
#[derive(Debug, Default)]
struct Tally {
    clusters: u32,
    kills: u32,
    leaders: u32,
    equal: u32,
    short: u32,
}

/// Kills one member under load, looks at what it left, starts it and compares everybody.
async fn round(cluster: &Cluster, victim: usize, load: &Load, random: &mut Random, t: &mut Tally) {
    load.wait_for(30).await;
    tokio::time::sleep(Duration::from_millis(random.below(300))).await;
    let led = cluster.leader().await == victim;
    let member = cluster.member(victim);
    member.kill9();
    t.kills += 1;
    t.leaders += u32::from(led);
    let left = Left::by(member);
    let other = cluster.member((victim + 1) % cluster.members().len());
    left.agrees_with_log_of(other);
    load.wait_for(20).await;
    // From here on nobody is told anything by a member that may differ.
    let held = load.hold().await;
    member.start();
    member.ready(PATIENCE).await;
    let hashes = settled(cluster).await;
    let missing = left.missing();
    if missing == 0 {
        assert!(
            all_equal(&hashes),
            "member {victim} ({:?}) left a sound folder (entry {}, revision {}); now {hashes:?}",
            member.kind(),
            left.applied,
            left.revision
        );
        t.equal += 1;
    } else {
        assert_eq!(member.kind(), Kind::Etcd351, "left short: {left:?}");
        eprintln!(
            "member {victim} (leader: {led}) left a database that counts entry {} as applied, at revision \
             {} where the log is at {}; restarted it differs: {hashes:?}",
            left.applied, left.revision, left.logged
        );
        // It is what it left that makes it differ, by exactly that much, and nobody else differs.
        let sound = hashes[(victim + 1) % hashes.len()];
        for (index, hash) in hashes.iter().enumerate() {
            if index == victim {
                assert_eq!(hash.0, sound.0 - missing, "{hashes:?}");
            } else {
                assert_eq!(*hash, sound, "{hashes:?}");
            }
        }
        // Its log is whole: with the database away it makes it anew, and is equal.
        member.kill9();
        std::fs::remove_file(member.data_dir().join("member/snap/db")).unwrap();
        member.start();
        member.ready(PATIENCE).await;
        let hashes = settled(cluster).await;
        assert!(all_equal(&hashes), "rebuilt from its log: {hashes:?}");
        t.short += 1;
    }
    drop(held);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a soak, run by hand"]
async fn killed_under_load() {
    let _turn = alone().await;
    let mut random = Random::announced("soak");
    let variable = |name: &str| std::env::var(name).ok();
    let mix = variable("FERRITE_SOAK_MIX").unwrap_or_else(|| "ours,ours,ours".to_owned());
    let kinds: Vec<Kind> = mix.split(',').map(kind).collect();
    let killed = variable("FERRITE_SOAK_KILL").map(|name| kind(&name));
    let others = variable("FERRITE_SOAK_OTHERS").map_or(0, |n| n.parse().expect("a number"));
    let victims: Vec<usize> = (0..kinds.len())
        .filter(|index| killed.is_none_or(|killed| kinds[*index] == killed))
        .collect();
    let mut tally = Tally::default();
    let start = Instant::now();
    while start.elapsed() < soak(20) {
        let cluster = Cluster::builder().kinds(&kinds).start().await;
        let load = Workload::new()
            .writers(6)
            .others(others)
            .pause(Duration::from_millis(1))
            .start(&cluster);
        tally.clusters += 1;
        for _ in 0..ROUNDS {
            let chosen = random.below(u64::try_from(victims.len()).unwrap());
            let victim = victims[usize::try_from(chosen).unwrap()];
            round(&cluster, victim, &load, &mut random, &mut tally).await;
            if start.elapsed() >= soak(20) {
                break;
            }
        }
        load.stop().await.check(&cluster).await;
        eprintln!("{mix}, killing {killed:?}, {others} others: {tally:?}");
    }
}
