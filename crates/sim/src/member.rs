//! One member of the simulated cluster: its disk, which outlives it, and while it runs its four
//! production stages with the queues between them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferrite_node::Status;
use ferrite_node::assemble::{Stages, assemble};
use ferrite_node::disk::Disk;
use ferrite_node::idgen::IdGenerator;
use ferrite_node::leases::Leases;
use ferrite_node::recover::recover_on;
use ferrite_node::snapshot::Transfers;
use ferrite_node::stage::{apply, commit, log, raft};
use ferrite_node::tokens::Tokens;
use ferrite_node::wait::AppliedIndex;
use ferrite_node::watch_hub::WatchHub;
use ferrite_node::{Config, RemoteCluster, StartError, Upkeep};
use ferrite_wal::fs::Fs;
use ferrite_wal::memfs::MemFs;
use ferrite_watch::Limits as WatchLimits;

use crate::clock::Clock;
use crate::mutation::{LyingFs, Mutation};
use crate::plan::Plan;
use crate::safety::{Shadow, shadow_of};

/// Length of a tick.
pub const TICK_US: u64 = 100_000;
/// Ticks of an election timeout.
pub const ELECTION_TICKS: usize = 10;
/// How long after a transfer the log is kept for the receiver.
const KEEP_LOG: Duration = Duration::from_millis(700);

/// What makes a member crash, when armed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Armed {
    /// After this many more effects.
    pub effects: Option<u64>,
    /// It is started again at once.
    pub quick: bool,
    /// At some file operation: the disk counts.
    pub writes: bool,
    /// Its disk may not read: the disk counts.
    pub reads: bool,
}

/// A member, running or not.
pub struct Member {
    /// Its ID.
    pub id: u64,
    /// What it is told at start.
    pub config: Config,
    /// What survives it.
    pub disk: MemFs,
    /// The same with the mistakes of a mutation.
    pub seen: Disk,
    /// Grows with every start.
    pub life: u64,
    /// The process, while there is one.
    pub running: Option<Running>,
    /// Whether and how it is about to crash.
    pub armed: Armed,
    /// Stands still until then, in microseconds.
    pub paused_until: u64,
    /// Its clock.
    pub clock: Clock,
    /// What the calendar on its wall shows, in milliseconds since 1970: anything, and no matter for what runs.
    pub wall_ms: u64,
    /// A start of it is in the calendar.
    pub starting: bool,
    /// Its disk is full for now.
    pub full: bool,
    /// A bit of its disk has flipped, and it has not started since.
    pub flipped: bool,
    /// It was found to be damaged, or to be no member any more: it never starts again.
    pub gone: bool,
}

/// What may not be done by the log or commit stage before its time is over.
pub enum Unfinished<E> {
    /// Nothing is under way.
    Idle,
    /// The disk is done and nobody has heard of it yet.
    Done(E),
    /// The disk has not begun.
    Begun,
}

/// A running process.
pub struct Running {
    /// The production stages.
    pub stages: Stages<u64>,
    /// Inputs of the raft stage.
    pub raft_in: Vec<raft::Input<u64>>,
    /// Inputs of the log stage.
    pub log_in: VecDeque<log::Input>,
    /// Inputs of the apply stage.
    pub apply_in: VecDeque<apply::Input>,
    /// Inputs of the commit stage.
    pub commit_in: VecDeque<commit::Input>,
    /// A run of this stage is in the calendar.
    pub raft_due: bool,
    /// As `raft_due`.
    pub apply_due: bool,
    /// The log's write under way.
    pub log: Unfinished<log::Effects>,
    /// When it began.
    pub log_since: u64,
    /// The database's write under way.
    pub commit: Unfinished<commit::Effects>,
    /// When the apply stage is to be woken next, if it is in the calendar.
    pub turn_at: Option<Instant>,
    /// Readers waiting for an index.
    pub applied: AppliedIndex<u64>,
    /// What gives its requests their ids.
    pub ids: IdGenerator,
    /// Requests whose clients wait here.
    pub waiting: BTreeSet<u64>,
    /// Databases on their way to others.
    pub transfers: Arc<Transfers>,
    /// The log as the raft stage last had it written.
    pub shadow: Shadow,
    /// The largest durable index so far.
    pub durable_max: u64,
    /// The largest revision so far.
    pub revision: i64,
    /// Whether it led when last looked at, and in which term.
    pub led: Option<u64>,
    /// Members by what is durable in the database: a start would know no others.
    pub durable_members: BTreeSet<u64>,
    /// What everybody may know of raft.
    pub status: Arc<Status>,
    /// Deadlines of leases.
    pub leases: Arc<Leases>,
    /// Watchers.
    pub hub: WatchHub,
    /// Simple tokens.
    pub tokens: Tokens,
    /// The same, accounted for a second time: when each was given out here or used last, and whether a database has
    /// been put in place since, with which it may have ended.
    pub tokens_seen: BTreeMap<String, (Instant, bool)>,
    /// Up to here its state came from a database: tokens given out by then are known to others only.
    pub from_database: u64,
}

/// Name of a member by its place.
pub fn name(place: usize) -> String {
    format!("m{place}")
}

/// Where the member of this place is reached by the others.
pub fn peer_url(place: usize) -> String {
    format!("http://10.0.0.{place}:2380")
}

/// The `--initial-cluster` of this many members.
pub fn initial_cluster(members: usize) -> String {
    (0..members)
        .map(|place| format!("{}={}", name(place), peer_url(place)))
        .collect::<Vec<_>>()
        .join(",")
}

impl Member {
    /// A member that has never run.
    pub fn new(
        place: usize,
        members: usize,
        id: u64,
        plan: &Plan,
        seed: u64,
        mutation: Option<Mutation>,
    ) -> Result<Member, String> {
        let disk = MemFs::new(seed);
        let config = config(place, initial_cluster(members), plan);
        let snap_dir = config.snap_dir();
        disk.create_dir_all(&snap_dir)
            .map_err(|error| error.to_string())?;
        for folder in snap_dir.ancestors() {
            disk.sync_dir(folder).map_err(|error| error.to_string())?;
        }
        let fs = Arc::new(LyingFs::new(disk.clone(), mutation));
        Ok(Member {
            id,
            config,
            seen: Disk::on(fs, plan.segment_bytes).caching(plan.cache_bytes),
            disk,
            life: 0,
            running: None,
            armed: Armed::default(),
            paused_until: 0,
            clock: Clock::new(Instant::now(), 1000),
            wall_ms: 1_764_000_000_000,
            starting: false,
            full: false,
            flipped: false,
            gone: false,
        })
    }

    /// Starts the process by the production recovery.
    ///
    /// # Errors
    /// Why it cannot start.
    pub fn start(
        &mut self,
        seed: u64,
        plan: &Plan,
        now: Instant,
        remote: Option<RemoteCluster>,
    ) -> Result<(), StartError> {
        self.life += 1;
        let recovered = recover_on(&self.seen, &self.config, remote)?;
        let durable_members = recovered.applier.cluster().member_ids();
        let shadow = shadow_of(&recovered.storage);
        let applied = recovered.applier.progress().index;
        let revision = recovered.applier.store().current_revision();
        let status = Arc::new(Status::new(now));
        let leases = Arc::new(Leases::new(
            recovered.applier.lessor().view(),
            Arc::clone(&status),
            self.config.election_timeout(),
            self.config.upkeep.lease_checkpoint_interval,
            now,
        ));
        let hub = WatchHub::with_limits(
            Arc::clone(recovered.applier.store()),
            WatchLimits {
                responses: plan.watch_queue,
                ..WatchLimits::default()
            },
        );
        let ids = recovered.request_ids(self.wall_ms, seed);
        let mut stages = assemble(&self.config, recovered, seed, seed >> 1, now)?;
        stages
            .apply
            .limit_buffers(plan.batch_bytes, plan.batch_bytes.saturating_mul(2));
        self.running = Some(Running {
            durable_max: stages.log.durable_index(),
            stages,
            raft_in: Vec::new(),
            log_in: VecDeque::new(),
            apply_in: VecDeque::new(),
            commit_in: VecDeque::new(),
            raft_due: false,
            apply_due: false,
            log: Unfinished::Idle,
            log_since: 0,
            commit: Unfinished::Idle,
            turn_at: None,
            applied: AppliedIndex::new(applied),
            ids,
            waiting: BTreeSet::new(),
            transfers: Arc::new(Transfers::new(KEEP_LOG)),
            shadow,
            revision,
            led: None,
            durable_members: durable_members.into_iter().collect(),
            status,
            leases,
            hub,
            tokens: Tokens::new(self.config.token_ttl),
            tokens_seen: BTreeMap::new(),
            from_database: applied,
        });
        Ok(())
    }

    /// Ends the process. A power cut takes what was not synced with it; a kill does not.
    pub fn crash(&mut self, power: bool) {
        self.armed = Armed::default();
        if power {
            self.disk.crash();
        } else {
            // What a dying process would still flush on its way out must not reach the disk.
            self.disk.fail_after(Some(0));
        }
        self.running = None;
        self.disk.fail_after(None);
        self.disk.fail_reads(None);
    }

    /// A file of the folder of the database, as it is now.
    pub fn received(&self, index: u64) -> PathBuf {
        self.config
            .snap_dir()
            .join(ferrite_wal::snap::snap_db_name(index))
    }

    /// Saves a received database as the transport does: temporary name, fsync, rename, fsync of the
    /// folder. One that is there already is as good.
    ///
    /// # Errors
    /// What the disk says.
    pub fn receive(&self, index: u64, database: &[u8]) -> std::io::Result<()> {
        let fs = self.seen.fs();
        let folder = self.config.snap_dir();
        let temporary = folder.join("tmp1");
        let file = fs.open(&temporary, ferrite_wal::fs::Open::Create)?;
        file.write_at(0, database)?;
        file.sync()?;
        let target = self.received(index);
        if !self.seen.exists(&target)? {
            fs.rename(&temporary, &target)?;
        }
        fs.sync_dir(&folder)
    }
}

/// What the member of this place is told.
pub fn config(place: usize, initial_cluster: String, plan: &Plan) -> Config {
    Config {
        name: name(place),
        data_dir: Path::new("/").join(name(place)),
        wal_dir: None,
        client_urls: vec!["http://10.0.0.9:2379".into()],
        peer_urls: vec![peer_url(place)],
        initial_cluster,
        initial_cluster_token: "simulated".into(),
        new_cluster: true,
        tick: Duration::from_micros(TICK_US),
        election_ticks: ELECTION_TICKS,
        advance_election_at_start: true,
        pre_vote: plan.pre_vote,
        snapshot_count: plan.snapshot_count,
        snapshot_catchup_entries: plan.catchup_entries,
        quota_bytes: plan.quota_bytes,
        max_request_bytes: 1 << 20,
        max_txn_ops: 128,
        batch_interval: Duration::from_micros(plan.batch_interval_us),
        batch_limit: 10_000,
        max_snapshots: 2,
        max_wals: 2,
        max_learners: 1,
        strict_reconfig_check: true,
        force_new_cluster: false,
        no_fsync: false,
        memory_limit: None,
        peer_read_timeout: Duration::from_secs(5),
        peer_write_timeout: Duration::from_secs(5),
        peer_connections_max: 100,
        token_ttl: Duration::from_micros(plan.token_ttl_us),
        warn_apply: Duration::from_millis(100),
        dialer: Default::default(),
        upkeep: Upkeep {
            lease_checkpoint_interval: plan.checkpoints.then_some(Duration::from_secs(1)),
            lease_checkpoint_persist: plan.checkpoints,
            compaction_batch_limit: plan.compaction_slice,
            ..Upkeep::default()
        },
        metrics: Default::default(),
    }
}
