//! What a node is told at start.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ferrite_membership::Version;
use ferrite_metrics::Metrics;
use ferrite_peer::Dialer;

use crate::compactor::Retention;
use crate::engine::DatabaseOptions;

/// Everything the node needs to know. Paths need not exist.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of this member.
    pub name: String,
    /// Folder of the member's data.
    pub data_dir: PathBuf,
    /// Folder of the write-ahead log, when it is elsewhere.
    pub wal_dir: Option<PathBuf>,
    /// Where clients reach this member.
    pub client_urls: Vec<String>,
    /// Where other members reach this one.
    pub peer_urls: Vec<String>,
    /// `--initial-cluster`.
    pub initial_cluster: String,
    /// `--initial-cluster-token`.
    pub initial_cluster_token: String,
    /// Found a cluster (`new`), or join one (`existing`).
    pub new_cluster: bool,
    /// Length of a tick, which is a heartbeat interval.
    pub tick: Duration,
    /// Ticks of an election timeout.
    pub election_ticks: usize,
    /// Shorten the first election at start.
    pub advance_election_at_start: bool,
    /// Ask before standing for election.
    pub pre_vote: bool,
    /// Entries applied between two `.snap` files.
    pub snapshot_count: u64,
    /// Entries kept in memory for followers that lag a little.
    pub snapshot_catchup_entries: u64,
    /// Database size in bytes at which writes are refused; `None` for no limit.
    pub quota_bytes: Option<u64>,
    /// Largest encoded request in bytes.
    pub max_request_bytes: usize,
    /// Operations allowed in a transaction.
    pub max_txn_ops: usize,
    /// Longest time between commits of the database file.
    pub batch_interval: Duration,
    /// Changes after which it is committed at once.
    pub batch_limit: usize,
    /// `.snap` files to keep; 0 for all.
    pub max_snapshots: usize,
    /// Log segments to keep after release; 0 for all.
    pub max_wals: usize,
    /// Learners allowed.
    pub max_learners: usize,
    /// Refuse membership changes that would endanger the quorum.
    pub strict_reconfig_check: bool,
    /// Make a cluster of one out of this member's data.
    pub force_new_cluster: bool,
    /// Do not wait for the disk.
    pub no_fsync: bool,
    /// Bytes of memory the process may use; `None` for as much as the machine has.
    pub memory_limit: Option<u64>,
    /// Silence after which a connection between members is given up.
    pub peer_read_timeout: Duration,
    /// Time a write to another member may take.
    pub peer_write_timeout: Duration,
    /// Connections of members at once.
    pub peer_connections_max: usize,
    /// How long a simple token lives without being used.
    pub token_ttl: Duration,
    /// Applying for longer than this is logged.
    pub warn_apply: Duration,
    /// How connections to other members are made.
    pub dialer: Dialer,
    /// What the member does for itself and its cluster beside serving.
    pub upkeep: Upkeep,
    /// Where everything that happens is counted.
    pub metrics: Arc<Metrics>,
}

/// What a member does for itself and its cluster beside serving; the default is etcd's.
#[derive(Debug, Clone)]
pub struct Upkeep {
    /// Compare data with the other members before a restarted member serves.
    pub initial_corrupt_check: bool,
    /// Pause between comparisons of the newest data; zero for none.
    pub corrupt_check_time: Duration,
    /// Pause between comparisons of what compactions left, if there are any.
    pub compact_hash_check_time: Option<Duration>,
    /// Pause between looks whether a downgrade is complete; zero for none.
    pub downgrade_check_time: Duration,
    /// Free bytes from which on the database file is rewritten at start; zero for never.
    pub boot_defragment_bytes: u64,
    /// Pause between two notes in the log of how long a lease still lives, if there are any.
    pub lease_checkpoint_interval: Option<Duration>,
    /// Keep those notes in the database whatever the cluster's version.
    pub lease_checkpoint_persist: bool,
    /// Renew a lease that the leader knows without waiting for what is committed to be applied.
    pub fast_lease_renewal: bool,
    /// Under overload, still take requests that make room.
    pub priority_requests: bool,
    /// What to keep when compacting by itself; `None` for never.
    pub auto_compaction: Option<Retention>,
    /// Keys that a slice of a compaction may look at.
    pub compaction_batch_limit: usize,
    /// Pause between two slices.
    pub compaction_pause: Duration,
    /// The version that the cluster is not to rise above, so that older programs can come back.
    pub hold_cluster_version: Option<Version>,
}

impl Default for Upkeep {
    fn default() -> Self {
        Upkeep {
            initial_corrupt_check: false,
            corrupt_check_time: Duration::ZERO,
            compact_hash_check_time: None,
            downgrade_check_time: Duration::from_secs(5),
            boot_defragment_bytes: 0,
            lease_checkpoint_interval: None,
            lease_checkpoint_persist: false,
            fast_lease_renewal: true,
            priority_requests: false,
            auto_compaction: None,
            compaction_batch_limit: 1_000,
            compaction_pause: Duration::from_millis(10),
            hold_cluster_version: None,
        }
    }
}

/// How much memory each buffer may take. What the process needs for keys, connections and calls comes
/// on top, so that the shares add up to less than half of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Pages of the database file.
    pub cache_bytes: usize,
    /// Durable log entries, for followers that lag a little.
    pub log_bytes: usize,
    /// Changes in one commit of the database file.
    pub batch_bytes: usize,
    /// Changes not committed to the database file yet, at which apply waits.
    pub buffer_bytes: usize,
}

impl Budget {
    const CACHE_MAX: usize = 64 << 20;
    const LOG_MAX: usize = 64 << 20;
    const BATCH_MAX: usize = 8 << 20;
    const BUFFER_MAX: usize = 64 << 20;
    /// Below this a share makes no sense.
    const SHARE_MIN: usize = 1 << 20;

    /// The shares under a limit.
    pub fn of(memory_limit: Option<u64>) -> Self {
        let share = |part: u64, max: usize| {
            let bytes = memory_limit.map_or(u64::MAX, |limit| limit / part);
            usize::try_from(bytes)
                .unwrap_or(usize::MAX)
                .clamp(Self::SHARE_MIN, max)
        };
        Budget {
            cache_bytes: share(8, Self::CACHE_MAX),
            log_bytes: share(16, Self::LOG_MAX),
            batch_bytes: share(64, Self::BATCH_MAX),
            buffer_bytes: share(32, Self::BUFFER_MAX),
        }
    }
}

impl Config {
    /// How much memory each buffer may take.
    pub fn budget(&self) -> Budget {
        Budget::of(self.memory_limit)
    }

    /// How the database file is opened.
    pub fn database_options(&self) -> DatabaseOptions {
        DatabaseOptions {
            no_sync: self.no_fsync,
            cache_bytes: self.budget().cache_bytes,
        }
    }

    /// `<data-dir>/member`.
    pub fn member_dir(&self) -> PathBuf {
        self.data_dir.join("member")
    }

    /// Where `.snap` files and the database are.
    pub fn snap_dir(&self) -> PathBuf {
        self.member_dir().join("snap")
    }

    /// Where the write-ahead log is.
    pub fn wal_dir(&self) -> PathBuf {
        self.wal_dir
            .clone()
            .unwrap_or_else(|| self.member_dir().join("wal"))
    }

    /// The database file.
    pub fn database(&self) -> PathBuf {
        self.snap_dir().join("db")
    }

    /// An election timeout.
    pub fn election_timeout(&self) -> Duration {
        self.tick * u32::try_from(self.election_ticks).unwrap_or(u32::MAX)
    }

    /// How long a proposal or linearizable read may take.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + self.election_timeout() * 2
    }
}

/// The version of etcd that is spoken.
pub const ETCD_VERSION: &str = "3.7.1";
/// Oldest cluster version whose members are understood.
pub const MIN_CLUSTER_VERSION: &str = "3.0.0";

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A member that founds a cluster of its own.
    pub(crate) fn alone(data_dir: &std::path::Path) -> Config {
        Config {
            name: "a".into(),
            data_dir: data_dir.to_owned(),
            wal_dir: None,
            client_urls: vec!["http://127.0.0.1:1".into()],
            peer_urls: vec!["http://127.0.0.1:2".into()],
            initial_cluster: "a=http://127.0.0.1:2".into(),
            initial_cluster_token: "token".into(),
            new_cluster: true,
            tick: Duration::from_millis(100),
            election_ticks: 10,
            advance_election_at_start: true,
            pre_vote: true,
            snapshot_count: 10_000,
            snapshot_catchup_entries: 5_000,
            quota_bytes: None,
            max_request_bytes: 1 << 20,
            max_txn_ops: 128,
            batch_interval: Duration::from_millis(100),
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

    #[test]
    fn buffers_shrink_with_the_limit_and_leave_most_of_it() {
        let roomy = Budget::of(None);
        assert_eq!(roomy.cache_bytes, Budget::CACHE_MAX);
        for limit in [64_u64 << 20, 256 << 20, 1 << 30] {
            let budget = Budget::of(Some(limit));
            let sum =
                budget.cache_bytes + budget.log_bytes + budget.batch_bytes + budget.buffer_bytes;
            assert!((sum as u64) < limit / 2, "{budget:?} under {limit}");
        }
    }
}
