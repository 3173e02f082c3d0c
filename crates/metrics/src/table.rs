//! Every family of the original's, once: its name, its help, its kind, its buckets.
//!
//! Those that are fed by events are cells of [`Metrics`]; for those that are asked for when somebody looks
//! ([`asked`]) there is only the name. A family with labels is shown once there is something to show.

use std::sync::OnceLock;
use std::time::Duration;

use crate::cells::{Counter, Gauge, Histogram, Labelled, Rare, Sharded};
use crate::grpc::Calls;
use crate::page::{Family, Kind, Page};

/// Versions that clients name: every release has one, and nobody runs that many.
const CLIENT_VERSIONS_MAX: usize = 64;
/// Samples of a family whose labels the cluster or its operator chooses.
const SAMPLES_MAX: usize = 256;

/// Cells without labels: field, type, how it is made, kind, name, help.
macro_rules! cells {
    ($( $(#[doc = $doc:literal])* $field:ident: $cell:ident $(= $make:expr)?, $kind:ident, $name:literal, $help:literal; )+) => {
        /// What a member counts. One for each member, shared by all who count.
        #[derive(Debug)]
        pub struct Metrics {
            $(
                #[doc = $help]
                pub $field: $cell,
            )+
            /// Calls of clients.
            pub calls: Calls,
            /// Calls by the version that the client names: unary ones and streams.
            pub client_requests: Labelled<[Sharded; 2]>,
            /// How long applying took, by operation and success.
            pub apply: Outcomes,
            /// How long requests took, by type and success.
            pub request: Outcomes,
            /// How long ranges took, by success: `false`, `true`.
            pub range: [OnceLock<Histogram>; 2],
            /// Failed promotions, by reason.
            pub promote_failures: Rare,
            /// Checks of health: type, name, whether it is well.
            pub healthcheck: Rare,
            /// Checks of health: type, name, outcome.
            pub healthchecks: Rare,
            /// The cluster's versions that were, and is.
            pub cluster_version: Rare,
            /// Streams that failed: direction, interface.
            pub stream_failures: Rare,
            /// Reads of the second store, by action.
            pub store_reads: Rare,
            /// Writes to the second store, by action.
            pub store_writes: Rare,
            /// Feature gates: name, stage.
            pub features: Rare,
            /// Alarms that were on, and are: member, kind.
            pub alarms: Rare,
            /// Scrapes by status code.
            pub scrapes: Rare,
        }

        impl Default for Metrics {
            fn default() -> Self {
                let scrapes = Rare::new(SAMPLES_MAX);
                for code in ["200", "500", "503"] {
                    scrapes.set(&[code], 0);
                }
                Metrics {
                    $( $field: cells!(@make $cell $(, $make)?), )+
                    calls: Calls::default(),
                    client_requests: Labelled::new(CLIENT_VERSIONS_MAX),
                    apply: Outcomes::new(|| Histogram::seconds(100, 20)),
                    request: Outcomes::new(|| Histogram::sharded_seconds(1_000, 14)),
                    range: Default::default(),
                    promote_failures: Rare::new(SAMPLES_MAX),
                    healthcheck: Rare::new(SAMPLES_MAX),
                    healthchecks: Rare::new(SAMPLES_MAX),
                    cluster_version: Rare::new(SAMPLES_MAX),
                    stream_failures: Rare::new(SAMPLES_MAX),
                    store_reads: Rare::new(SAMPLES_MAX),
                    store_writes: Rare::new(SAMPLES_MAX),
                    features: Rare::new(SAMPLES_MAX),
                    alarms: Rare::new(SAMPLES_MAX),
                    scrapes,
                }
            }
        }

        impl Metrics {
            fn gather_cells(&self, page: &mut Page) {
                $(
                    let family = Family { name: $name, help: $help, kind: Kind::$kind };
                    self.$field.show(&family, page);
                )+
            }
        }
    };
    (@make $cell:ident) => { $cell::default() };
    (@make $cell:ident, $make:expr) => { $make };
}

/// A cell that knows how to show itself.
trait Show {
    fn show(&self, family: &Family, page: &mut Page);
}

impl Show for Counter {
    fn show(&self, family: &Family, page: &mut Page) {
        page.number(family, &[], self.get() as f64);
    }
}

impl Show for Sharded {
    fn show(&self, family: &Family, page: &mut Page) {
        page.number(family, &[], self.get() as f64);
    }
}

impl Show for Gauge {
    fn show(&self, family: &Family, page: &mut Page) {
        page.number(family, &[], self.get() as f64);
    }
}

impl Show for Histogram {
    fn show(&self, family: &Family, page: &mut Page) {
        page.histogram(family, &[], self);
    }
}

/// From a millisecond to eight seconds: what most of the original's are.
fn disk() -> Histogram {
    Histogram::seconds(1_000, 14)
}

/// As [`disk`], for all threads that serve clients.
fn sending() -> Histogram {
    Histogram::sharded_seconds(1_000, 14)
}

cells! {
    leader_changes: Counter, Counter, "etcd_server_leader_changes_seen_total",
        "The number of leader changes seen.";
    promote_successes: Counter, Counter, "etcd_server_learner_promote_successes",
        "The total number of successful learner promotions while this member is leader.";
    heartbeat_failures: Counter, Counter, "etcd_server_heartbeat_send_failures_total",
        "The total number of leader heartbeat send failures (likely overloaded from slow disk).";
    installing: Gauge, Gauge, "etcd_server_snapshot_apply_in_progress_total",
        "1 if the server is applying the incoming snapshot. 0 if none.";
    proposals_failed: Sharded, Counter, "etcd_server_proposals_failed_total",
        "The total number of failed proposals seen.";
    slow_applies: Sharded, Counter, "etcd_server_slow_apply_total",
        "The total number of slow apply requests (likely overloaded from slow disk).";
    slow_reads: Counter, Counter, "etcd_server_slow_read_indexes_total",
        "The total number of pending read indexes not in sync with leader's or timed out read index requests.";
    failed_reads: Counter, Counter, "etcd_server_read_indexes_failed_total",
        "The total number of failed read indexes seen.";
    health_success: Counter, Counter, "etcd_server_health_success",
        "The total number of successful health checks";
    health_failures: Counter, Counter, "etcd_server_health_failures",
        "The total number of failed health checks";
    watchers_coalescing: Gauge, Gauge, "etcd_grpc_proxy_watchers_coalescing_total",
        "Total number of current watchers coalescing";
    events_coalescing: Sharded, Counter, "etcd_grpc_proxy_events_coalescing_total",
        "Total number of events coalescing";
    cache_keys: Gauge, Gauge, "etcd_grpc_proxy_cache_keys_total",
        "Total number of keys/ranges cached";
    cache_hits: Sharded, Gauge, "etcd_grpc_proxy_cache_hits_total",
        "Total number of cache hits";
    cache_misses: Sharded, Gauge, "etcd_grpc_proxy_cache_misses_total",
        "Total number of cache misses";
    sent_bytes: Sharded, Counter, "etcd_network_client_grpc_sent_bytes_total",
        "The total number of bytes sent to grpc clients.";
    received_bytes: Sharded, Counter, "etcd_network_client_grpc_received_bytes_total",
        "The total number of bytes received from grpc clients.";
    wal_fsync: Histogram = disk(), Histogram, "etcd_disk_wal_fsync_duration_seconds",
        "The latency distributions of fsync called by WAL.";
    wal_write: Histogram = disk(), Histogram, "etcd_disk_wal_write_duration_seconds",
        "The latency distributions of write called by WAL.";
    wal_write_bytes: Counter, Gauge, "etcd_disk_wal_write_bytes_total",
        "Total number of bytes written in WAL.";
    commit: Histogram = disk(), Histogram, "etcd_disk_backend_commit_duration_seconds",
        "The latency distributions of commit called by backend.";
    commit_rebalance: Histogram = disk(), Histogram, "etcd_debugging_disk_backend_commit_rebalance_duration_seconds",
        "The latency distributions of commit.rebalance called by bboltdb backend.";
    commit_spill: Histogram = disk(), Histogram, "etcd_debugging_disk_backend_commit_spill_duration_seconds",
        "The latency distributions of commit.spill called by bboltdb backend.";
    commit_write: Histogram = disk(), Histogram, "etcd_debugging_disk_backend_commit_write_duration_seconds",
        "The latency distributions of commit.write called by bboltdb backend.";
    defrag: Histogram = Histogram::seconds(100_000, 13), Histogram, "etcd_disk_backend_defrag_duration_seconds",
        "The latency distribution of backend defragmentation.";
    snapshot: Histogram = Histogram::seconds(10_000, 17), Histogram, "etcd_disk_backend_snapshot_duration_seconds",
        "The latency distribution of backend snapshots.";
    defrag_inflight: Gauge, Gauge, "etcd_disk_defrag_inflight",
        "Whether or not defrag is active on the member. 1 means active, 0 means not.";
    snap_fsync: Histogram = disk(), Histogram, "etcd_snap_fsync_duration_seconds",
        "The latency distributions of fsync called by snap.";
    snap_db_save: Histogram = Histogram::seconds(100_000, 10), Histogram, "etcd_snap_db_save_total_duration_seconds",
        "The total latency distributions of v3 snapshot save";
    snap_db_fsync: Histogram = disk(), Histogram, "etcd_snap_db_fsync_duration_seconds",
        "The latency distributions of fsyncing .snap.db file";
    snap_marshalling: Histogram = disk(), Histogram, "etcd_debugging_snap_save_marshalling_duration_seconds",
        "The marshalling cost distributions of save called by snapshot.";
    snap_save: Histogram = disk(), Histogram, "etcd_debugging_snap_save_total_duration_seconds",
        "The total latency distributions of save called by snapshot.";
    hash: Histogram = Histogram::seconds(10_000, 15), Histogram, "etcd_mvcc_hash_duration_seconds",
        "The latency distribution of storage hash operation.";
    hash_rev: Histogram = Histogram::seconds(10_000, 15), Histogram, "etcd_mvcc_hash_rev_duration_seconds",
        "The latency distribution of storage hash by revision operation.";
    events: Sharded, Counter, "etcd_debugging_mvcc_events_total",
        "Total number of events sent by this member.";
    compaction_last: Gauge, Gauge, "etcd_debugging_mvcc_db_compaction_last",
        "The unix time of the last db compaction. Resets to 0 on start.";
    compaction_index_pause: Histogram = Histogram::milliseconds(500, 14), Histogram,
        "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds",
        "Bucketed histogram of index compaction pause duration.";
    compaction_pause: Histogram = Histogram::milliseconds(1_000, 13), Histogram,
        "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
        "Bucketed histogram of db compaction pause duration.";
    compaction_total: Histogram = Histogram::milliseconds(100_000, 14), Histogram,
        "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds",
        "Bucketed histogram of db compaction total duration.";
    lease_granted: Counter, Counter, "etcd_debugging_lease_granted_total",
        "The total number of granted leases.";
    lease_revoked: Counter, Counter, "etcd_debugging_lease_revoked_total",
        "The total number of revoked leases.";
    lease_renewed: Sharded, Counter, "etcd_debugging_lease_renewed_total",
        "The number of renewed leases seen by the leader.";
    lease_ttl: Histogram = Histogram::numbers(1, 24), Histogram, "etcd_debugging_lease_ttl_total",
        "Bucketed histogram of lease TTLs.";
    lease_expired: Counter, Counter, "etcd_debugging_server_lease_expired_total",
        "The total number of expired leases.";
    watch_send: Histogram = sending(), Histogram,
        "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds",
        "The total duration in seconds of running through the send loop watch stream response all events.";
    watch_send_event: Histogram = sending(), Histogram,
        "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds",
        "The average duration in seconds of running through the send loop watch stream response, per event.";
    watch_control: Histogram = sending(), Histogram,
        "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds",
        "The total duration in seconds of running through the send loop control stream response.";
    watch_progress: Histogram = sending(), Histogram,
        "etcd_debugging_server_watch_send_loop_progress_duration_seconds",
        "The total duration in seconds of running through the progress loop control stream response.";
    scrapes_in_flight: Gauge, Gauge, "promhttp_metric_handler_requests_in_flight",
        "Current number of scrapes being served.";
}

/// Families whose figures are asked for when somebody looks.
pub mod asked {
    use super::{Family, Kind};

    macro_rules! families {
        ($( $constant:ident, $kind:ident, $name:literal, $help:literal; )+) => {
            $(
                #[doc = $help]
                pub const $constant: Family = Family { name: $name, help: $help, kind: Kind::$kind };
            )+
        };
    }

    families! {
        HAS_LEADER, Gauge, "etcd_server_has_leader",
            "Whether or not a leader exists. 1 is existence, 0 is not.";
        IS_LEADER, Gauge, "etcd_server_is_leader",
            "Whether or not this member is a leader. 1 if is, 0 otherwise.";
        IS_LEARNER, Gauge, "etcd_server_is_learner",
            "Whether or not this member is a learner. 1 if is, 0 otherwise.";
        COMMITTED, Gauge, "etcd_server_proposals_committed_total",
            "The total number of consensus proposals committed.";
        APPLIED, Gauge, "etcd_server_proposals_applied_total",
            "The total number of consensus proposals applied.";
        PENDING, Gauge, "etcd_server_proposals_pending",
            "The current number of pending proposals to commit.";
        VERSION, Gauge, "etcd_server_version",
            "Which version is running. 1 for 'server_version' label with current version.";
        GO_VERSION, Gauge, "etcd_server_go_version",
            "Which Go version server is running with. 1 for 'server_go_version' label with current version.";
        ID, Gauge, "etcd_server_id",
            "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.";
        QUOTA, Gauge, "etcd_server_quota_backend_bytes",
            "Current backend storage quota size in bytes.";
        KNOWN_PEERS, Gauge, "etcd_network_known_peers",
            "The current number of known peers.";
        ACTIVE_PEERS, Gauge, "etcd_network_active_peers",
            "The current number of active peer connections.";
        DISCONNECTED_PEERS, Counter, "etcd_network_disconnected_peers_total",
            "The total number of disconnected peers.";
        PEER_SENT_BYTES, Counter, "etcd_network_peer_sent_bytes_total",
            "The total number of bytes sent to peers.";
        PEER_RECEIVED_BYTES, Counter, "etcd_network_peer_received_bytes_total",
            "The total number of bytes received from peers.";
        PEER_SENT_FAILURES, Counter, "etcd_network_peer_sent_failures_total",
            "The total number of send failures from peers.";
        PEER_RECEIVED_FAILURES, Counter, "etcd_network_peer_received_failures_total",
            "The total number of receive failures from peers.";
        SNAPSHOT_SEND_SUCCESS, Counter, "etcd_network_snapshot_send_success",
            "Total number of successful snapshot sends";
        SNAPSHOT_SEND_FAILURES, Counter, "etcd_network_snapshot_send_failures",
            "Total number of snapshot send failures";
        SNAPSHOT_SEND_INFLIGHTS, Gauge, "etcd_network_snapshot_send_inflights_total",
            "Total number of inflight snapshot sends";
        SNAPSHOT_SEND_SECONDS, Histogram, "etcd_network_snapshot_send_total_duration_seconds",
            "Total latency distributions of v3 snapshot sends";
        SNAPSHOT_RECEIVE_SUCCESS, Counter, "etcd_network_snapshot_receive_success",
            "Total number of successful snapshot receives";
        SNAPSHOT_RECEIVE_FAILURES, Counter, "etcd_network_snapshot_receive_failures",
            "Total number of snapshot receive failures";
        SNAPSHOT_RECEIVE_INFLIGHTS, Gauge, "etcd_network_snapshot_receive_inflights_total",
            "Total number of inflight snapshot receives";
        SNAPSHOT_RECEIVE_SECONDS, Histogram, "etcd_network_snapshot_receive_total_duration_seconds",
            "Total latency distributions of v3 snapshot receives";
        ROUND_TRIP, Histogram, "etcd_network_peer_round_trip_time_seconds",
            "Round-Trip-Time histogram between peers";
        RANGES, Counter, "etcd_mvcc_range_total",
            "Total number of ranges seen by this member.";
        PUTS, Counter, "etcd_mvcc_put_total",
            "Total number of puts seen by this member.";
        DELETES, Counter, "etcd_mvcc_delete_total",
            "Total number of deletes seen by this member.";
        TXNS, Counter, "etcd_mvcc_txn_total",
            "Total number of txns seen by this member.";
        PUT_BYTES, Gauge, "etcd_debugging_mvcc_total_put_size_in_bytes",
            "The total size of put kv pairs seen by this member.";
        COMPACTED_KEYS, Counter, "etcd_debugging_mvcc_db_compaction_keys_total",
            "Total number of db keys compacted.";
        DB_SIZE, Gauge, "etcd_mvcc_db_total_size_in_bytes",
            "Total size of the underlying database physically allocated in bytes.";
        DB_SIZE_IN_USE, Gauge, "etcd_mvcc_db_total_size_in_use_in_bytes",
            "Total size of the underlying database logically in use in bytes.";
        DB_OPEN_READS, Gauge, "etcd_mvcc_db_open_read_transactions",
            "The number of currently open read transactions";
        AUTH_REVISION, Gauge, "etcd_debugging_auth_revision",
            "The current revision of auth store.";
        KEYS, Gauge, "etcd_debugging_mvcc_keys_total",
            "Total number of keys.";
        WATCH_STREAMS, Gauge, "etcd_debugging_mvcc_watch_stream_total",
            "Total number of watch streams.";
        WATCHERS, Gauge, "etcd_debugging_mvcc_watcher_total",
            "Total number of watchers.";
        SLOW_WATCHERS, Gauge, "etcd_debugging_mvcc_slow_watcher_total",
            "Total number of unsynced slow watchers.";
        PENDING_EVENTS, Gauge, "etcd_debugging_mvcc_pending_events_total",
            "Total number of pending events to be sent.";
        CURRENT_REVISION, Gauge, "etcd_debugging_mvcc_current_revision",
            "The current revision of store.";
        COMPACT_REVISION, Gauge, "etcd_debugging_mvcc_compact_revision",
            "The revision of the last compaction in store.";
        FD_USED, Gauge, "os_fd_used",
            "The number of used file descriptors.";
        FD_LIMIT, Gauge, "os_fd_limit",
            "The file descriptor limit.";
    }
}

/// Families of the original's second store, of which nobody asks for anything: it only serves to write down the membership. Dashboards
/// and the original's own tests ask for them: they are 0.
const NEVER: &[Family] = &[
    Family {
        name: "etcd_debugging_store_expires_total",
        help: "Total number of expired keys.",
        kind: Kind::Counter,
    },
    Family {
        name: "etcd_debugging_store_watch_requests_total",
        help: "Total number of incoming watch requests (new or reestablished).",
        kind: Kind::Counter,
    },
    Family {
        name: "etcd_debugging_store_watchers",
        help: "Count of currently active watchers.",
        kind: Kind::Gauge,
    },
];

/// What requests and entries of the log are called as labels.
macro_rules! operations {
    ($($name:ident),+ $(,)?) => {
        /// What was asked for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Operation {
            $(
                #[allow(missing_docs, reason = "each is the request of that name")]
                $name,
            )+
        }

        const OPERATIONS: &[&str] = &[$(stringify!($name)),+];
    };
}

operations! {
    Range,
    Put,
    DeleteRange,
    Txn,
    Compaction,
    LeaseGrant,
    LeaseRevoke,
    LeaseCheckpoint,
    Alarm,
    Authenticate,
    AuthEnable,
    AuthDisable,
    AuthStatus,
    AuthUserAdd,
    AuthUserDelete,
    AuthUserChangePassword,
    AuthUserGrantRole,
    AuthUserGet,
    AuthUserRevokeRole,
    AuthRoleAdd,
    AuthRoleGrantPermission,
    AuthRoleGet,
    AuthRoleRevokePermission,
    AuthRoleDelete,
    AuthUserList,
    AuthRoleList,
    ClusterVersionSet,
    ClusterMemberAttrSet,
    DowngradeInfoSet,
    DowngradeVersionTest,
    ReadonlyTxn,
    Unknown,
}

impl Operation {
    /// As the label of an applied entry: the original forgets the name of one.
    fn applied(at: usize) -> &'static str {
        match OPERATIONS.get(at) {
            None | Some(&"Unknown" | &"AuthStatus") => "unknown",
            Some(name) => name,
        }
    }
}

/// How long things took, by what they were and whether they succeeded. A histogram is made with the first of its kind.
#[derive(Debug)]
pub struct Outcomes {
    made: [[OnceLock<Histogram>; 2]; OPERATIONS.len()],
    make: fn() -> Histogram,
}

impl Outcomes {
    fn new(make: fn() -> Histogram) -> Self {
        Outcomes {
            made: std::array::from_fn(|_| Default::default()),
            make,
        }
    }

    /// One of a kind took so long.
    pub fn observe(&self, kind: Operation, success: bool, took: Duration) {
        if let Some(outcomes) = self.made.get(kind as usize) {
            outcomes[usize::from(success)]
                .get_or_init(self.make)
                .observe(took);
        }
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &'static str, &Histogram)> {
        self.made.iter().enumerate().flat_map(|(kind, outcomes)| {
            outcomes
                .iter()
                .zip(["false", "true"])
                .filter_map(move |(histogram, success)| Some((kind, success, histogram.get()?)))
        })
    }
}

/// Families with labels of which cells there are as many as events have asked for.
mod labelled {
    use super::{Family, Kind};

    macro_rules! families {
        ($( $constant:ident, $kind:ident, $name:literal, $help:literal; )+) => {
            $( pub(super) const $constant: Family = Family { name: $name, help: $help, kind: Kind::$kind }; )+
        };
    }

    families! {
        CLIENT_REQUESTS, Counter, "etcd_server_client_requests_total",
            "The total number of client requests per client version.";
        APPLY, Histogram, "etcd_server_apply_duration_seconds",
            "The latency distributions of v2 apply called by backend.";
        REQUEST, Histogram, "etcd_server_request_duration_seconds",
            "Response latency distribution in seconds for each type.";
        RANGE, Histogram, "etcd_server_range_duration_seconds",
            "The latency distributions of txn.Range";
        PROMOTE_FAILURES, Counter, "etcd_server_learner_promote_failures",
            "The total number of failed learner promotions (likely learner not ready) while this member is leader.";
        FEATURES, Gauge, "etcd_server_feature_enabled",
            "Whether or not a feature is enabled. 1 is enabled, 0 is not.";
        HEALTHCHECK, Gauge, "etcd_server_healthcheck",
            "The result of each kind of healthcheck.";
        HEALTHCHECKS, Counter, "etcd_server_healthchecks_total",
            "The total number of each kind of healthcheck.";
        CLUSTER_VERSION, Gauge, "etcd_cluster_version",
            "Which version is running. 1 for 'cluster_version' label with current cluster version";
        STREAM_FAILURES, Counter, "etcd_network_server_stream_failures_total",
            "The total number of stream failures from the local server.";
        STORE_READS, Counter, "etcd_debugging_store_reads_total",
            "Total number of reads action by (get/getRecursive), local to this member.";
        STORE_WRITES, Counter, "etcd_debugging_store_writes_total",
            "Total number of writes (e.g. set/compareAndDelete) seen by this member.";
        ALARMS, Gauge, "etcd_debugging_server_alarms",
            "Alarms for every member in cluster. 1 for 'server_id' label with current ID. 2 for 'alarm_type' label with type of this alarm";
        SCRAPES, Counter, "promhttp_metric_handler_requests_total",
            "Total number of scrapes by HTTP status code.";
    }
}

impl Metrics {
    /// A range took so long.
    pub fn observe_range(&self, success: bool, took: Duration) {
        self.range[usize::from(success)]
            .get_or_init(|| Histogram::sharded_seconds(100, 20))
            .observe(took);
    }

    /// A stream failed, and not because its client went away.
    pub fn stream_failed(&self, direction: &str, interface: &str) {
        self.stream_failures.inc(&[direction, interface]);
    }

    /// The membership was written in the form of the original's second store, which looks first that nothing is in it.
    pub fn document_written(&self, created: u64, set: u64) {
        self.store_reads.inc(&["getRecursive"]);
        self.store_writes.add(&["create"], created);
        self.store_writes.add(&["set"], set);
    }

    /// Everything that was counted here.
    pub fn gather(&self, page: &mut Page) {
        self.gather_cells(page);
        self.calls.gather(page);
        for (version, requests) in self.client_requests.iter() {
            for (requests, kind) in requests.iter().zip(["unary", "stream"]) {
                let labels = [
                    ("client_api_version", version.into()),
                    ("type", kind.into()),
                ];
                if requests.get() > 0 {
                    page.number(&labelled::CLIENT_REQUESTS, &labels, requests.get() as f64);
                }
            }
        }
        for (kind, success, took) in self.apply.iter() {
            let labels = [
                ("op", Operation::applied(kind).into()),
                ("success", success.into()),
                ("version", "v3".into()),
            ];
            page.histogram(&labelled::APPLY, &labels, took);
        }
        for (kind, success, took) in self.request.iter() {
            let kind = OPERATIONS.get(kind).copied().unwrap_or("Unknown");
            let labels = [("success", success.into()), ("type", kind.into())];
            page.histogram(&labelled::REQUEST, &labels, took);
        }
        for (took, success) in self.range.iter().zip(["false", "true"]) {
            if let Some(took) = took.get() {
                page.histogram(&labelled::RANGE, &[("success", success.into())], took);
            }
        }
        for (family, names, samples) in [
            (
                &labelled::PROMOTE_FAILURES,
                &["Reason"][..],
                &self.promote_failures,
            ),
            (&labelled::HEALTHCHECK, &["type", "name"], &self.healthcheck),
            (
                &labelled::HEALTHCHECKS,
                &["type", "name", "status"],
                &self.healthchecks,
            ),
            (
                &labelled::CLUSTER_VERSION,
                &["cluster_version"],
                &self.cluster_version,
            ),
            (
                &labelled::STREAM_FAILURES,
                &["Type", "API"],
                &self.stream_failures,
            ),
            (&labelled::STORE_READS, &["action"], &self.store_reads),
            (&labelled::STORE_WRITES, &["action"], &self.store_writes),
            (&labelled::FEATURES, &["name", "stage"], &self.features),
            (
                &labelled::ALARMS,
                &["server_id", "alarm_type"],
                &self.alarms,
            ),
            (&labelled::SCRAPES, &["code"], &self.scrapes),
        ] {
            page.rare(family, names, samples);
        }
        for family in NEVER {
            page.number(family, &[], 0.0);
        }
    }
}
