//! What members of these tests are told at start.

use std::path::Path;
use std::time::Duration;

use ferrite_node::{Config, Upkeep};

/// A member that founds a cluster of its own, with short times and nothing synced.
pub fn config(data_dir: &Path) -> Config {
    Config {
        name: "a".into(),
        data_dir: data_dir.to_owned(),
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
        upkeep: Upkeep::default(),
    }
}
