//! Whole members in this process: what no flag can set, and what no program leaves on a disk.

use std::time::{Duration, Instant};

use ferrite_apply::Response;
use ferrite_node::{Config, Node, OnFatal, Upkeep, recover, tasks};
use ferrite_proto::etcdserverpb::{InternalRaftRequest, LeaseGrantRequest};

const TTL: i64 = 3_600;

fn config(folder: &std::path::Path, checkpoints: bool) -> Config {
    Config {
        name: "a".into(),
        data_dir: folder.join("a"),
        wal_dir: None,
        client_urls: vec!["http://127.0.0.1:1".into()],
        peer_urls: vec!["http://127.0.0.1:2".into()],
        initial_cluster: "a=http://127.0.0.1:2".into(),
        initial_cluster_token: "checkpoints".into(),
        new_cluster: true,
        tick: Duration::from_millis(20),
        election_ticks: 10,
        advance_election_at_start: true,
        pre_vote: true,
        snapshot_count: 10_000,
        snapshot_catchup_entries: 5_000,
        quota_bytes: None,
        max_request_bytes: 1 << 20,
        max_txn_ops: 128,
        batch_interval: Duration::from_millis(10),
        batch_limit: 10_000,
        max_snapshots: 5,
        max_wals: 5,
        max_learners: 1,
        strict_reconfig_check: true,
        force_new_cluster: false,
        no_fsync: true,
        memory_limit: None,
        peer_read_timeout: Duration::from_secs(5),
        peer_write_timeout: Duration::from_secs(5),
        peer_connections_max: 100,
        warn_apply: Duration::from_secs(1),
        token_ttl: Duration::from_secs(300),
        dialer: Default::default(),
        metrics: Default::default(),
        upkeep: Upkeep {
            lease_checkpoint_interval: checkpoints.then_some(Duration::from_millis(1_500)),
            lease_checkpoint_persist: checkpoints,
            ..Upkeep::default()
        },
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
