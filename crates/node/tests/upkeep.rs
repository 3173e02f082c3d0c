//! Whole members in this process: what no flag can set, and what no program leaves on a disk.

mod common;

use std::time::{Duration, Instant};

use ferrite_apply::Response;
use ferrite_membership::transition;
use ferrite_node::{Config, Node, OnFatal, Upkeep, recover, tasks, versions};
use ferrite_proto::etcdserverpb::{InternalRaftRequest, LeaseGrantRequest};
use ferrite_proto::membershippb::DowngradeInfoSetRequest;

const TTL: i64 = 3_600;

fn config(folder: &std::path::Path, checkpoints: bool) -> Config {
    Config {
        upkeep: Upkeep {
            lease_checkpoint_interval: checkpoints.then_some(Duration::from_millis(1_500)),
            lease_checkpoint_persist: checkpoints,
            ..Upkeep::default()
        },
        ..common::config(&folder.join("a"))
    }
}

struct Running {
    node: Node,
    watch: tokio::task::JoinHandle<()>,
}

async fn start(config: &Config) -> Running {
    let on_disk = config.clone();
    // It waits for the lock of the database, which goes with the last of the one before.
    let recovered = tokio::task::spawn_blocking(move || {
        recover::make_folders(&on_disk).expect("folders");
        recover::recover(&on_disk, None).expect("a member")
    });
    let recovered = recovered.await.expect("no panic");
    let on_fatal = OnFatal::new(|reason| panic!("{reason}"));
    let runtime = tokio::runtime::Handle::current();
    let (node, events) =
        Node::start(config.clone(), recovered, &runtime, on_fatal).expect("a node");
    let watch = tokio::spawn(tasks::watch(node.clone(), events, || {}));
    tasks::advance_first_election(&node).await;
    tasks::publish(&node)
        .await
        .expect("it is part of its cluster");
    Running { node, watch }
}

async fn stop(running: Running) {
    let Running { node, watch } = running;
    watch.abort();
    let _aborted = watch.await;
    let stopped = tokio::task::spawn_blocking(move || node.stop()).await;
    stopped.expect("it stops");
}

/// What the leader that `began` then gave the lease, give or take what a start takes.
async fn at_the_beginning(node: &Node, began: Instant) -> i64 {
    let left = left(node).await;
    left + i64::try_from(began.elapsed().as_secs()).expect("a short test")
}

async fn left(node: &Node) -> i64 {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        // Another leader in between is no answer.
        if let Ok(Some(found)) = node.lease_time_to_live(7, false).await {
            return found.remaining_seconds;
        }
        assert!(Instant::now() < deadline, "nobody tells what is left");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a lease had left when its second leader began, after six seconds under the first.
async fn left_after_a_change(checkpoints: bool) -> i64 {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), checkpoints);
    let running = start(&config).await;
    let request = InternalRaftRequest {
        lease_grant: Some(LeaseGrantRequest { id: 7, ttl: TTL }),
        ..InternalRaftRequest::default()
    };
    let granted = running.node.propose(request).await.expect("a lease");
    assert!(matches!(granted, Response::LeaseGrant(_)));
    tokio::time::sleep(Duration::from_secs(6)).await;
    stop(running).await;
    let began = Instant::now();
    let running = start(&config).await;
    let left = at_the_beginning(&running.node, began).await;
    if checkpoints {
        // A renewal gives it all its time again, for the next leader too.
        assert_eq!(running.node.renew_lease(7).await, Ok(TTL));
        stop(running).await;
        let began = Instant::now();
        let running = start(&config).await;
        let renewed = at_the_beginning(&running.node, began).await;
        assert!(renewed >= TTL - 1, "{renewed} s are left after a renewal");
        stop(running).await;
    } else {
        stop(running).await;
    }
    left
}

/// LE-10.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_lease_outlives_its_leader_with_the_gate_only() {
    let (with, without) = tokio::join!(left_after_a_change(true), left_after_a_change(false));
    // At most two seconds lie between two notes; the rest is room for a slow machine.
    assert!(with <= TTL - 2, "{with} s are left with checkpoints");
    assert!(without >= TTL - 1, "{without} s are left without");
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_follows_and_a_defragmentation_of_nothing_is_harmless() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start(&config(folder.path(), false)).await;
    let deadline = Instant::now() + Duration::from_secs(30);
    while running
        .node
        .storage_version()
        .map(|version| version.to_string())
        != Some("3.7.0".into())
    {
        assert!(
            Instant::now() < deadline,
            "{:?}",
            running.node.storage_version()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    running.node.defragment().await.expect("a defragmentation");
    let revision = running.node.store().current_revision();
    stop(running).await;
    let running = start(&config(folder.path(), false)).await;
    assert_eq!(running.node.store().current_revision(), revision);
    stop(running).await;
}

/// DK-17: a folder that a newer program has written, or whose cluster has gone on without this member's program.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_a_newer_version_is_refused_by_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(folder.path(), false);
    stop(start(&config).await).await;
    let set = |bucket: &str, key: &str, value: &str| {
        let path = config.database();
        let options = ferrite_bolt::Options::default();
        let db = ferrite_bolt::Db::open_waiting(path, options, |_| true).expect("a database");
        let mut tx = db.begin_write().expect("a transaction");
        tx.put(bucket.as_bytes(), key.as_bytes(), value.as_bytes())
            .expect("a value");
        tx.commit().expect("a commit");
    };
    let refused = || match recover::recover(&config, None) {
        Ok(_) => String::new(),
        Err(error) => error.to_string(),
    };
    set("meta", "storageVersion", "3.8.0");
    let text = refused();
    assert!(
        text.contains("version \"3.8.0\" is not supported"),
        "{text}"
    );
    set("meta", "storageVersion", "3.7.0");
    set("cluster", "clusterVersion", "3.8.0");
    let text = refused();
    assert!(
        text.contains("invalid downgrade; server version is lower than determined cluster version"),
        "{text}"
    );
    set("cluster", "clusterVersion", "3.7.0");
    stop(start(&config).await).await;
}

/// LE-08: passes are half a second apart, take no more than five hundred leases and revoke sixteen at once.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_over_is_revoked_in_passes_with_a_limit() {
    const LEASES: i64 = 1_300;
    const AT_ONCE: usize = 100;
    let folder = tempfile::tempdir().expect("a folder");
    let running = start(&config(folder.path(), false)).await;
    let node = &running.node;
    let mut granting: tokio::task::JoinSet<Result<Response, ferrite_node::Error>> =
        tokio::task::JoinSet::new();
    for id in 1..=LEASES {
        if granting.len() >= AT_ONCE {
            let granted = granting.join_next().await.expect("one is under way");
            granted.expect("no panic").expect("a lease");
        }
        let node = node.clone();
        let request = InternalRaftRequest {
            lease_grant: Some(LeaseGrantRequest { id, ttl: 1 }),
            ..InternalRaftRequest::default()
        };
        granting.spawn(async move { node.propose(request).await });
    }
    while let Some(granted) = granting.join_next().await {
        granted.expect("no panic").expect("a lease");
    }
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut begun = None;
    let mut under_way = 0;
    let ended = loop {
        let now = Instant::now();
        assert!(now < deadline, "they are never over");
        let left = node.leases().ids().len();
        if left < usize::try_from(LEASES).expect("a few") {
            begun.get_or_insert(now);
        }
        if left == 0 {
            break now;
        }
        under_way = under_way.max(node.pending_proposals());
        tokio::time::sleep(Duration::from_millis(1)).await;
    };
    // Three passes take no less than twice the pause between them.
    let took = ended - begun.expect("some were over before the last");
    assert!(took >= Duration::from_millis(900), "{took:?}");
    // Members also say who they are and what version there is.
    assert!(under_way <= 18, "{under_way} revocations at once");
    stop(running).await;
}

/// DK-18: a `.snap` file comes when more entries than the flag says were applied since the last, and not before.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_taken_when_more_than_its_number_of_entries_was_applied() {
    const COUNT: u64 = 40;
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config(folder.path(), false);
    config.snapshot_count = COUNT;
    let running = start(&config).await;
    let node = &running.node;
    let deadline = Instant::now() + Duration::from_secs(60);
    let taken = || {
        let names = std::fs::read_dir(config.snap_dir()).expect("a folder");
        let names = names.map(|entry| entry.expect("a name").file_name());
        let names = names.filter_map(|name| Some(name.to_str()?.strip_suffix(".snap")?.to_owned()));
        names.collect::<Vec<_>>()
    };
    // After this the member says nothing by itself.
    while node.published().get_cluster().version.is_none() {
        assert!(Instant::now() < deadline, "no version");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut id = 0;
    let mut grow_to = async |index: u64| {
        while node.status().committed() < index {
            id += 1;
            let request = InternalRaftRequest {
                lease_grant: Some(LeaseGrantRequest { id, ttl: TTL }),
                ..InternalRaftRequest::default()
            };
            node.propose(request).await.expect("a lease");
        }
        assert_eq!(node.status().committed(), index, "nobody else writes");
    };
    grow_to(COUNT).await;
    // Far longer than two commits of the database.
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(taken(), [""; 0]);
    grow_to(COUNT + 1).await;
    let names = loop {
        match taken() {
            names if !names.is_empty() => break names,
            _ => assert!(Instant::now() < deadline, "no snapshot"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert_eq!(names.len(), 1, "{names:?}");
    let index = format!("-{:016x}", COUNT + 1);
    assert!(names[0].ends_with(&index), "{names:?}");
    stop(running).await;
}

/// FL-072: a downgrade whose target every member has is over at the next look, and looks are as far apart as the flag says.
#[tokio::test(flavor = "multi_thread")]
async fn a_downgrade_is_looked_at_as_often_as_the_flag_says() {
    const INTERVAL: Duration = Duration::from_millis(600);
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = config(folder.path(), false);
    config.upkeep.downgrade_check_time = INTERVAL;
    let running = start(&config).await;
    let node = &running.node;
    let looking = tokio::spawn(versions::watch_downgrade(node.clone()));
    let mut ended = Vec::new();
    for _ in 0..3 {
        // To the version that there is: no flag and no call can bring this about.
        let request = InternalRaftRequest {
            downgrade_info_set: Some(DowngradeInfoSetRequest {
                enabled: true,
                ver: "3.7.0".into(),
            }),
            ..InternalRaftRequest::default()
        };
        node.propose(request).await.expect("a downgrade");
        let begun = Instant::now();
        while transition::running(&node.published().get_cluster()).is_some() {
            assert!(begun.elapsed() < INTERVAL * 5, "nobody looks");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        ended.push(Instant::now());
    }
    for pair in ended.windows(2) {
        let apart = pair[1] - pair[0];
        assert!(apart > INTERVAL * 4 / 5, "{apart:?}");
    }
    looking.abort();
    stop(running).await;
}

/// BG-01: the layout of the database is looked at every four seconds.
#[tokio::test(flavor = "multi_thread")]
async fn versions_are_looked_at_every_four_seconds() {
    let folder = tempfile::tempdir().expect("a folder");
    let running = start(&config(folder.path(), false)).await;
    let node = &running.node;
    let stored = || node.storage_version().map(|version| version.to_string());
    let followed = async || {
        let begun = Instant::now();
        while stored().as_deref() != Some("3.7.0") {
            assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", stored());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Instant::now()
    };
    followed().await;
    let older = "3.6.0".parse().expect("a version");
    let mut looked = Vec::new();
    for _ in 0..2 {
        node.set_storage_version(older);
        let begun = Instant::now();
        while stored().as_deref() != Some("3.6.0") {
            assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", stored());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        looked.push(followed().await);
    }
    let apart = looked[1] - looked[0];
    let expected = Duration::from_millis(3_500)..Duration::from_secs(8);
    assert!(expected.contains(&apart), "{apart:?}");
    stop(running).await;
}
