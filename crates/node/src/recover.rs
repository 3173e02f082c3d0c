//! From what a crash left on disk to a member that can run.
//!
//! Which file wins at which crash point:
//!
//! | the crash came after | on disk | what wins, and why |
//! |---|---|---|
//! | database created, before the log | `db`, no log | founded or joined anew: nothing was promised yet |
//! | log created, before its first entries (etcd's only: ours has them when it gets its name) | log without entries | the founding entries are written again, if the flags describe that cluster |
//! | an append was under way | torn tail | the log up to the last whole record: what is beyond was never acknowledged |
//! | entries synced, not applied | log ahead of `db` | both: the entries after the database's applied index are applied once committed |
//! | database commit | `db` ahead of the log's commit index | the database: commit = max(log's, database's applied index); applied only what was committed |
//! | `.snap` written, no log record | an orphan `.snap` | the log: a `.snap` without its record is passed over |
//! | received database renamed to `<i>.snap.db`, no record | an orphan | the log: the file is passed over and later purged |
//! | log record of a received snapshot | `db` behind, `<i>.snap.db` there | the received file: it is renamed over `db` |
//! | received database renamed over `db` | `db` at the snapshot's index | the database; the log goes on from the record |
//!
//! A log that lacks entries the database has applied is damage that nothing here can explain: a named
//! fatal error.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ferrite_apply::{Applier, Lessor, Progress};
use ferrite_membership::{
    Cluster, Member, bucket, conf_change_for_bootstrap, initial, parse_initial_cluster, v2store,
};
use ferrite_membership::{V2Request, Version, decode_v2_request};
use ferrite_mvcc::schema::{self, Bucket};
use ferrite_mvcc::{Backend, FileView, ReadError, RestoreOptions, Store};
use ferrite_proto::etcdserverpb::{InternalRaftRequest, Metadata};
use ferrite_proto::raftpb::{
    ConfChange, ConfChangeType, Entry, EntryType, HardState, Snapshot, SnapshotMetadata,
};
use ferrite_proto::walpb;
use ferrite_raft::MemStorage;
use ferrite_wal::{Wal, snap};
use prost::Message;

use crate::config::Config;
use crate::disk::Disk;
use crate::engine::Engine;
use crate::idgen::IdGenerator;
use crate::{resolve, rewrite, versions};

/// Why a member cannot start. Nothing on disk was changed, unless the text says so.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A folder cannot be made or read.
    #[error("cannot {action} {}: {}", path.display(), sentence(source))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The write-ahead log is damaged or locked.
    #[error("write-ahead log: {0}")]
    Wal(#[from] ferrite_wal::Error),
    /// The database file is damaged.
    #[error("database {}: {source}", path.display())]
    Database {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ferrite_bolt::Error,
    },
    /// The database file can be read, and makes no sense.
    #[error("database: {0}. Restore this member from a snapshot, or remove it and add it anew")]
    Damaged(String),
    /// The log is there, the database is not.
    #[error(
        "database file ({}) of the backend is missing, although the write-ahead log is there: restore the file, or remove the data folder and add this member anew",
        .0.display()
    )]
    DatabaseMissing(PathBuf),
    /// The database is there, the log is not.
    #[error(
        "the write-ahead log ({}) is missing, although the database holds applied index {applied}: restore the log, or remove the data folder and add this member anew",
        path.display()
    )]
    LogMissing {
        /// Where it should be.
        path: PathBuf,
        /// What the database holds.
        applied: u64,
    },
    /// The database has applied what the log does not have.
    #[error(
        "the database has applied index {applied}, but the log ends at {last}: the log was cut or replaced; restore this member from a snapshot, or remove it and add it anew"
    )]
    AppliedBeyondLog {
        /// Applied index of the database.
        applied: u64,
        /// Last index of the log.
        last: u64,
    },
    /// A snapshot record without the database it names.
    #[error("database file ({} index {applied}) does not match with snapshot (index {index}): failed to find database snapshot file (snap: snapshot file doesn't exist): {} is missing", path.display(), missing.display())]
    SnapshotMissing {
        /// The database.
        path: PathBuf,
        /// Its applied index.
        applied: u64,
        /// Index of the snapshot.
        index: u64,
        /// The file that should be there.
        missing: PathBuf,
    },
    /// The cluster has a version that this program is too old for.
    #[error(transparent)]
    TooOld(#[from] ferrite_membership::transition::TooOld),
    /// A newer program has changed the layout of the database.
    #[error(
        "storage {0}: a newer program has changed the layout of the database; start this member with that program, and downgrade the cluster first"
    )]
    Storage(#[from] ferrite_membership::transition::UnsupportedStorage),
    /// The file could not be rewritten without its free pages, as a flag asks.
    #[error(transparent)]
    Rewrite(#[from] rewrite::RewriteError),
    /// The members disagree about the data.
    #[error("{0}")]
    Inconsistent(String),
    /// The flags contradict each other, or the running cluster.
    #[error(transparent)]
    Membership(#[from] ferrite_membership::Error),
    /// The flags contradict what is running.
    #[error("{0}")]
    Config(String),
    /// The consensus core would not start from what was found.
    #[error("raft: {0}")]
    Raft(#[from] ferrite_raft::Error),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}")]
    Thread(std::io::Error),
}

/// What a running cluster says about itself, when there is one to ask.
#[derive(Debug, Clone)]
pub struct RemoteCluster {
    /// Its members and ID.
    pub cluster: Cluster,
}

/// Everything the node starts from.
pub struct Recovered {
    /// Where it all lies.
    pub disk: Disk,
    /// The log, ready for appending.
    pub wal: Wal,
    /// This member.
    pub member_id: u64,
    /// The cluster.
    pub cluster_id: u64,
    /// The log in memory.
    pub storage: MemStorage,
    /// Term, vote and commit to go on from.
    pub hard_state: HardState,
    /// The state.
    pub applier: Applier,
    /// The database file.
    pub engine: Engine,
    /// Index of the newest `.snap` file.
    pub last_snapshot: u64,
    /// Whether the member existed before this start.
    pub restarted: bool,
    /// Addresses of members known only from the flags: to be reached before the log says so.
    pub remotes: Vec<Member>,
}

impl Recovered {
    /// What gives ids to this life's requests: see [`IdGenerator::new`].
    pub fn request_ids(&self, unix_ms: u64, chance: u64) -> IdGenerator {
        let log = self.restarted.then(|| self.storage.log());
        IdGenerator::new(self.member_id, unix_ms, log, chance)
    }
}

/// The system's words alone, in small letters: its number says nothing to whoever reads them.
fn sentence(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StartError {
    let path = path.to_owned();
    move |source| StartError::Io {
        action,
        path,
        source,
    }
}

/// Makes the folders, with mode 0700, and checks that they can be written. Flags that could not found
/// or join a cluster are refused before anything is made.
///
/// # Errors
/// What the system says, with the path; what is wrong with the flags.
pub fn make_folders(config: &Config) -> Result<(), StartError> {
    use std::os::unix::fs::PermissionsExt as _;
    if !is_initialized(config)? {
        listed(config)?;
    }
    let make = |path: &Path| {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(io("create the folder", path))
    };
    if config.data_dir.is_dir() {
        let mode = std::fs::metadata(&config.data_dir)
            .map_err(io("read the folder", &config.data_dir))?
            .permissions()
            .mode();
        if mode & 0o777 != 0o700 {
            tracing::warn!(
                dir = %config.data_dir.display(),
                permission = %format!("{:o}", mode & 0o777),
                "check file permission: the data folder should have mode 700"
            );
        }
    }
    make(&config.data_dir)?;
    make(&config.member_dir())?;
    make(&config.snap_dir())?;
    if let Some(parent) = config.wal_dir().parent() {
        make(parent)?;
    }
    if !config.no_fsync {
        // The folders' names must last as long as what is put into them.
        let sync = |path: &Path| std::fs::File::open(path).and_then(|folder| folder.sync_all());
        if let Some(above) = config
            .data_dir
            .parent()
            .filter(|above| !above.as_os_str().is_empty())
        {
            // It may be one that this process cannot read, and then was not made by it.
            let _unreadable = sync(above);
        }
        for folder in [&config.data_dir, &config.member_dir()] {
            sync(folder).map_err(io("sync the folder", folder))?;
        }
    }
    let probe = config.member_dir().join(".touch");
    std::fs::write(&probe, b"").map_err(io("write to the folder", &config.member_dir()))?;
    std::fs::remove_file(&probe).map_err(io("write to the folder", &config.member_dir()))
}

/// Keys and values of a bucket.
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// What the database file says beside the keys.
#[derive(Debug)]
pub struct FileFacts {
    /// How far it has applied.
    pub progress: Progress,
    cluster: Cluster,
    storage_version: Option<Version>,
}

impl FileFacts {
    /// Reads them.
    ///
    /// # Errors
    /// A damaged file.
    pub fn read(view: &dyn FileView) -> Result<Self, ReadError> {
        let number = |name: &str| -> Result<u64, ReadError> {
            match view.get(Bucket::Meta, name.as_bytes())? {
                None => Ok(0),
                Some(bytes) => <[u8; 8]>::try_from(&bytes[..])
                    .map(u64::from_be_bytes)
                    .map_err(|_| {
                        ReadError(format!(
                            "bucket meta: {name} has {} bytes, not 8",
                            bytes.len()
                        ))
                    }),
            }
        };
        let pairs = |bucket: Bucket| -> Result<Pairs, ReadError> {
            let mut out = Vec::new();
            view.scan(bucket, &[], None, &mut |key, value| {
                out.push((key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            })?;
            Ok(out)
        };
        fn borrow(pairs: &[(Vec<u8>, Vec<u8>)]) -> impl Iterator<Item = (&[u8], &[u8])> {
            pairs.iter().map(|(key, value)| (&key[..], &value[..]))
        }
        let mut cluster = Cluster::default();
        bucket::load(
            &mut cluster,
            borrow(&pairs(Bucket::Members)?),
            borrow(&pairs(Bucket::MembersRemoved)?),
            borrow(&pairs(Bucket::Cluster)?),
        )
        .map_err(|error| ReadError(error.to_string()))?;
        let storage_version = match view.get(Bucket::Meta, schema::STORAGE_VERSION.as_bytes())? {
            None => None,
            Some(bytes) => Some(
                std::str::from_utf8(&bytes)
                    .ok()
                    .and_then(|text| text.parse().ok())
                    .ok_or_else(|| {
                        ReadError(format!(
                            "bucket meta: {} is no version",
                            schema::STORAGE_VERSION
                        ))
                    })?,
            ),
        };
        Ok(FileFacts {
            storage_version,
            progress: Progress {
                index: number(schema::CONSISTENT_INDEX)?,
                term: number(schema::TERM)?,
            },
            cluster,
        })
    }

    /// Whether this program can be part of what the file belongs to.
    ///
    /// # Errors
    /// [`StartError::Storage`], [`StartError::TooOld`].
    pub fn check_versions(&self) -> Result<(), StartError> {
        if let Some(stored) = self.storage_version {
            versions::check_storage(stored)?;
        }
        if let Some(version) = self.cluster.version {
            versions::check_program(version)?;
        }
        Ok(())
    }

    /// The cluster's version.
    pub fn version(&self) -> Option<Version> {
        self.cluster.version
    }

    /// The membership in the file.
    pub fn cluster(self, id: u64) -> Cluster {
        Cluster { id, ..self.cluster }
    }
}

/// Whether this member has run before.
///
/// # Errors
/// The folder of its log cannot be looked into.
pub fn is_initialized(config: &Config) -> Result<bool, StartError> {
    Ok(Wal::exists(&config.wal_dir())?)
}

/// Starts from what is on disk; founds or joins when nothing is. `remote` is what a running cluster
/// says of itself; it is needed to join one.
///
/// # Errors
/// [`StartError`].
pub fn recover(config: &Config, remote: Option<RemoteCluster>) -> Result<Recovered, StartError> {
    recover_on(&Disk::real(), config, remote)
}

/// [`recover`] on another disk; its folders must exist.
///
/// # Errors
/// [`StartError`].
pub fn recover_on(
    disk: &Disk,
    config: &Config,
    remote: Option<RemoteCluster>,
) -> Result<Recovered, StartError> {
    let database = config.database();
    let initialized = Wal::exists_on(&**disk.fs(), &config.wal_dir())?;
    let exists = disk.exists(&database).map_err(io("open", &database))?;
    if initialized && !exists {
        return Err(StartError::DatabaseMissing(database));
    }
    // The file is written before the log is made, so emptiness is damage; opening would fill it.
    let is_empty = disk.is_empty(&database);
    if initialized && is_empty.map_err(io("read", &database))? {
        return Err(StartError::Damaged(format!(
            "{} is empty, although the write-ahead log is there",
            database.display()
        )));
    }
    let engine = open_engine(disk, config)?;
    if initialized {
        restart(disk, config, engine)
    } else {
        let facts = read_facts(config, &engine)?;
        if facts.progress.index > 0 {
            return Err(StartError::LogMissing {
                path: config.wal_dir(),
                applied: facts.progress.index,
            });
        }
        begin(disk, config, engine, remote)
    }
}

fn open_engine(disk: &Disk, config: &Config) -> Result<Engine, StartError> {
    let path = config.database();
    disk.open_database(&path, config.database_options())
        .map_err(|source| StartError::Database { path, source })
}

fn read_facts(config: &Config, engine: &Engine) -> Result<FileFacts, StartError> {
    let view = engine.view().map_err(|source| StartError::Database {
        path: config.database(),
        source,
    })?;
    FileFacts::read(&*view).map_err(|error| StartError::Damaged(error.to_string()))
}

/// Checks what can be seen of the list of members without asking anybody or resolving a name.
///
/// # Errors
/// [`StartError`], in the original's words.
pub fn check_list(config: &Config) -> Result<(), StartError> {
    let pairs = parsed(config)?;
    Ok(initial::verify_join(&config.name, &pairs)?)
}

fn parsed(config: &Config) -> Result<Vec<(String, String)>, StartError> {
    parse_initial_cluster(&config.initial_cluster).map_err(|error| {
        StartError::Config(format!(
            "error setting up initial cluster: {error} (--initial-cluster={})",
            config.initial_cluster
        ))
    })
}

/// The members that the flags list, checked as far as they can be without a disk.
fn listed(config: &Config) -> Result<Vec<(String, String)>, StartError> {
    let pairs = parsed(config)?;
    if config.new_cluster {
        initial::verify_bootstrap(
            &config.name,
            &pairs,
            &config.peer_urls,
            &mut resolve::same_urls,
        )?;
    } else {
        initial::verify_join(&config.name, &pairs)?;
    }
    Ok(pairs)
}

/// Founds a cluster, or joins one.
fn begin(
    disk: &Disk,
    config: &Config,
    engine: Engine,
    remote: Option<RemoteCluster>,
) -> Result<Recovered, StartError> {
    let pairs = listed(config)?;
    let mut cluster = Cluster::from_initial_cluster(&config.initial_cluster_token, &pairs)?;
    cluster.max_learners = config.max_learners;
    if config.new_cluster {
        if let Some(found) = &remote
            && let Some(own) = cluster.member_by_name(&config.name)
            && found.cluster.id == cluster.id
        {
            founded_already(&found.cluster, own.id)?;
        }
    } else {
        let Some(found) = &remote else {
            return Err(StartError::Config(
                "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs"
                    .into(),
            ));
        };
        cluster
            .validate_and_assign_ids(&found.cluster, &mut resolve::same_urls)
            .map_err(|error| {
                StartError::Config(format!(
                    "error validating peerURLs {}: {error}",
                    config.initial_cluster
                ))
            })?;
    }
    let Some(own) = cluster.member_by_name(&config.name).map(|member| member.id) else {
        return Err(StartError::Config(format!(
            "couldn't find local name {:?} in the initial cluster configuration",
            config.name
        )));
    };
    let metadata = Metadata {
        node_id: own,
        cluster_id: cluster.id,
    };
    let (hard_state, entries) = match config.new_cluster {
        true => founding(&cluster),
        // Who joins learns them from the leader.
        false => (HardState::default(), Vec::new()),
    };
    // All at once: members that met elsewhere are in no flag, and could not be written down later.
    let wal = Wal::found(
        &config.wal_dir(),
        &metadata,
        &hard_state,
        &entries,
        disk.wal_options(config),
    )?;
    let mut storage = MemStorage::new();
    append(&mut storage, &entries)?;
    storage.set_hard_state(hard_state);
    let remotes = if config.new_cluster {
        Vec::new()
    } else {
        cluster
            .members
            .values()
            .filter(|member| member.id != own)
            .cloned()
            .collect()
    };
    let empty = Cluster {
        id: cluster.id,
        max_learners: config.max_learners,
        ..Cluster::default()
    };
    let applier = open_state(config, &engine, own, empty, Progress::default(), false)?;
    Ok(Recovered {
        disk: disk.clone(),
        wal,
        member_id: own,
        cluster_id: cluster.id,
        storage,
        hard_state,
        applier,
        engine,
        last_snapshot: 0,
        restarted: false,
        remotes,
    })
}

/// Refuses to found a cluster once more that runs: this member's log would begin anew under an ID that voted
/// before, or that was removed.
fn founded_already(running: &Cluster, own: u64) -> Result<(), StartError> {
    let published = |member: &ferrite_membership::Member| !member.client_urls.is_empty();
    match running.member(own) {
        Some(member) if published(member) => Err(StartError::Config(format!(
            "member {own:x} has already been bootstrapped"
        ))),
        // A member publishes itself after all founding members are in its log: if this one is not there,
        // it was removed.
        None if running.members.values().any(published) => Err(StartError::Config(format!(
            "cluster {:x} exists already, and member {own:x} is not one of its members: add it with \
             etcdctl member add and start it with --initial-cluster-state=existing",
            running.id
        ))),
        _ => Ok(()),
    }
}

/// The entries every founding member starts with, as already committed.
fn founding(cluster: &Cluster) -> (HardState, Vec<Entry>) {
    let entries = conf_change_for_bootstrap(cluster.members.values());
    let hard_state = HardState {
        term: ferrite_membership::bootstrap::BOOTSTRAP_TERM,
        vote: 0,
        commit: entries.len() as u64,
    };
    (hard_state, entries)
}

fn append(storage: &mut MemStorage, entries: &[Entry]) -> Result<(), StartError> {
    storage
        .append(entries)
        .map_err(|error| StartError::Damaged(format!("the log has a gap: {error}")))
}

fn repairing<T>(
    disk: &Disk,
    wal_dir: &Path,
    mut run: impl FnMut() -> Result<T, ferrite_wal::Error>,
) -> Result<T, StartError> {
    match run() {
        Err(error) if error.is_repairable() => {
            tracing::warn!(path = %wal_dir.display(), error = %error, "the log ends in a torn record; cutting it off");
            Wal::repair_on(&**disk.fs(), wal_dir)?;
            Ok(run()?)
        }
        other => Ok(other?),
    }
}

fn restart(disk: &Disk, config: &Config, engine: Engine) -> Result<Recovered, StartError> {
    let wal_dir = config.wal_dir();
    disk.snap_dir(&config.snap_dir()).remove_orphans()?;
    if !config.no_fsync {
        // After a kill, the last names may be in memory only; what is found under them is relied on.
        let snap_dir = config.snap_dir();
        for folder in wal_dir.parent().into_iter().chain([&*wal_dir, &*snap_dir]) {
            disk.fs()
                .sync_dir(folder)
                .map_err(io("sync the folder", folder))?;
        }
    }
    let records = repairing(disk, &wal_dir, || {
        Wal::valid_snapshots_on(&**disk.fs(), &wal_dir)
    })?;
    let record = records.last().cloned().unwrap_or_default();
    let mut engine = engine;
    let mut facts = read_facts(config, &engine)?;
    if record.index > facts.progress.index {
        engine = adopt_received(disk, config, engine, record.index, facts.progress.index)?;
        facts = read_facts(config, &engine)?;
        if facts.progress.index != record.index {
            return Err(StartError::Damaged(format!(
                "the file received for snapshot {} holds applied index {}",
                record.index, facts.progress.index
            )));
        }
    }
    facts.check_versions()?;
    engine = without_free_pages(disk, config, engine)?;
    let options = disk.wal_options(config);
    let (mut wal, mut recovered) = repairing(disk, &wal_dir, || {
        Wal::open(&wal_dir, &record, options.clone())
    })?;
    if !config.no_fsync {
        // Raft takes the entries found for durable and acknowledges them without writing them again.
        wal.sync()?;
    }
    let member_id = recovered.metadata.node_id;
    let cluster_id = recovered.metadata.cluster_id;
    let mut progress = facts.progress;
    let mut cluster = Cluster {
        max_learners: config.max_learners,
        ..facts.cluster(cluster_id)
    };
    let mut storage = MemStorage::new();
    if recovered.entries.is_empty() && record.index == 0 && progress.index == 0 {
        // Made by the original, which writes the first entries later than the log: ours has them at once.
        if config.new_cluster {
            match unfinished_founding(config, member_id, cluster_id)? {
                Some(cluster) => {
                    let (hard_state, entries) = founding(&cluster);
                    wal.save(Some(&hard_state), &entries, true)?;
                    append(&mut storage, &entries)?;
                    recovered.hard_state = hard_state;
                }
                None => tracing::warn!(
                    "cluster-id" = %format!("{cluster_id:x}"),
                    "the write-ahead log has no entries, and the flags describe another cluster than it was made for; \
                     waiting for a leader of its cluster. If there is none, remove the data folder and start again"
                ),
            }
        }
    } else {
        let last = recovered
            .entries
            .last()
            .map_or(record.index, |entry| entry.index);
        if progress.index > last {
            return Err(StartError::AppliedBeyondLog {
                applied: progress.index,
                last,
            });
        }
        if progress.term == 0 && progress.index > 0 {
            progress.term = term_of(&recovered.entries, progress.index).unwrap_or(record.term);
        }
        if recovered.hard_state.commit < progress.index {
            // Written down at once: a snapshot record beyond the log's last commit index does not
            // count at the next start, but the segments before it are released all the same.
            recovered.hard_state.commit = progress.index;
            wal.save(Some(&recovered.hard_state), &[], true)?;
        }
    }
    let from_elsewhere = cluster.members.is_empty() && progress.index > 0;
    if from_elsewhere {
        cluster = membership_from_log(
            disk,
            config,
            &record,
            &recovered.entries,
            progress.index,
            cluster,
        )?;
    }
    if config.force_new_cluster {
        alone(&mut wal, &mut recovered, &cluster, progress, member_id)?;
    }
    if record.index > 0 || !cluster.members.is_empty() {
        let snapshot = Snapshot {
            metadata: Some(SnapshotMetadata {
                conf_state: Some(cluster.conf_state()),
                index: record.index,
                term: record.term,
            }),
            ..Snapshot::default()
        };
        if record.index > 0 {
            storage
                .apply_snapshot(snapshot)
                .map_err(|error| StartError::Damaged(error.to_string()))?;
        } else {
            storage = MemStorage::with_conf_state(cluster.conf_state());
        }
    }
    append(&mut storage, &recovered.entries)?;
    storage.set_hard_state(recovered.hard_state);
    let applier = open_state(
        config,
        &engine,
        member_id,
        cluster,
        progress,
        from_elsewhere,
    )?;
    Ok(Recovered {
        disk: disk.clone(),
        wal,
        member_id,
        cluster_id,
        storage,
        hard_state: recovered.hard_state,
        applier,
        engine,
        last_snapshot: record.index,
        restarted: true,
        remotes: Vec::new(),
    })
}

/// Rewrites the database if that frees as much as the flag wants.
fn without_free_pages(disk: &Disk, config: &Config, engine: Engine) -> Result<Engine, StartError> {
    let threshold = config.upkeep.boot_defragment_bytes;
    if threshold == 0 {
        return Ok(engine);
    }
    let (size, in_use) = (engine.db().size(), engine.db().in_use_bytes());
    if size.saturating_sub(in_use) < threshold {
        tracing::info!(
            "current-db-size-bytes" = size,
            "current-db-size-in-use-bytes" = in_use,
            "bootstrap-defrag-threshold-bytes" = threshold,
            "Skipping defragmentation"
        );
        return Ok(engine);
    }
    let options = config.database_options();
    Ok(rewrite::at_once(
        disk,
        &config.database(),
        &engine,
        options,
    )?)
}

/// The founding cluster, when the flags still describe the one the log was made for.
fn unfinished_founding(
    config: &Config,
    member_id: u64,
    cluster_id: u64,
) -> Result<Option<Cluster>, StartError> {
    let pairs = parse_initial_cluster(&config.initial_cluster)?;
    let cluster = Cluster::from_initial_cluster(&config.initial_cluster_token, &pairs)?;
    Ok((cluster.id == cluster_id && cluster.member(member_id).is_some()).then_some(cluster))
}

fn term_of(entries: &[Entry], index: u64) -> Option<u64> {
    entries
        .iter()
        .find(|entry| entry.index == index)
        .map(|entry| entry.term)
}

/// A received database takes the place of the older one.
fn adopt_received(
    disk: &Disk,
    config: &Config,
    engine: Engine,
    index: u64,
    applied: u64,
) -> Result<Engine, StartError> {
    let received = config.snap_dir().join(snap::snap_db_name(index));
    if !disk.exists(&received).map_err(io("open", &received))? {
        return Err(StartError::SnapshotMissing {
            path: config.database(),
            applied,
            index,
            missing: received,
        });
    }
    tracing::info!("snapshot-index" = index, "Recovering from snapshot backend");
    drop(engine);
    disk.rename(&received, &config.database())
        .map_err(io("rename over the database", &received))?;
    open_engine(disk, config)
}

/// Membership of a member whose database does not hold it: the `.snap` file, then the log.
fn membership_from_log(
    disk: &Disk,
    config: &Config,
    record: &walpb::Snapshot,
    entries: &[Entry],
    applied: u64,
    empty: Cluster,
) -> Result<Cluster, StartError> {
    let mut cluster = empty;
    if record.index > 0 {
        let found = disk
            .snap_dir(&config.snap_dir())
            .load_newest_matching(std::slice::from_ref(record))?;
        if let Some(snapshot) = found.snapshot {
            let decoded = v2store::decode(&snapshot.data)?;
            cluster = Cluster {
                id: cluster.id,
                max_learners: cluster.max_learners,
                ..decoded
            };
        }
    }
    for entry in entries.iter().take_while(|entry| entry.index <= applied) {
        match EntryType::try_from(entry.entry_type) {
            Ok(EntryType::EntryConfChange) => {
                let change = ConfChange::decode(entry.data.clone()).map_err(|error| {
                    StartError::Damaged(format!("log entry {}: {error}", entry.index))
                })?;
                // One that was refused when it was applied is refused again.
                let _refused = cluster.apply_conf_change(&change);
            }
            Ok(EntryType::EntryNormal) => follow_attributes(&mut cluster, entry),
            _ => {}
        }
    }
    Ok(cluster)
}

fn follow_attributes(cluster: &mut Cluster, entry: &Entry) {
    if let Ok(InternalRaftRequest {
        cluster_member_attr_set: Some(set),
        ..
    }) = InternalRaftRequest::decode(entry.data.clone())
    {
        let attributes = set.member_attributes.unwrap_or_default();
        let _unknown =
            cluster.set_attributes(set.member_id, attributes.name, attributes.client_urls);
        return;
    }
    match decode_v2_request(&entry.data) {
        Some(V2Request::SetAttributes {
            id,
            name,
            client_urls,
        }) => {
            let _unknown = cluster.set_attributes(id, name, client_urls);
        }
        Some(V2Request::SetVersion(version)) => cluster.set_version(version),
        _ => {}
    }
}

/// `--force-new-cluster`: counts the whole log as committed, then removes every other member by entries
/// that count as committed too.
///
/// What this member's log holds beyond its commit index may have been acknowledged: the index is
/// written down later than the entries. Keeping an entry that nobody was told of breaks no promise;
/// dropping one that somebody was told of would.
fn alone(
    wal: &mut Wal,
    recovered: &mut ferrite_wal::Recovered,
    cluster: &Cluster,
    progress: Progress,
    member_id: u64,
) -> Result<(), StartError> {
    let commit = recovered.hard_state.commit;
    let mut after = cluster.clone();
    for entry in recovered
        .entries
        .iter()
        .filter(|entry| entry.index > progress.index)
    {
        if entry.entry_type == EntryType::EntryConfChange as i32
            && let Ok(change) = ConfChange::decode(entry.data.clone())
        {
            let _refused = after.apply_conf_change(&change);
        }
    }
    let term = recovered.hard_state.term.max(1);
    let mut index = recovered.entries.last().map_or(commit, |entry| entry.index);
    let others: BTreeSet<u64> = after
        .member_ids()
        .into_iter()
        .filter(|id| *id != member_id)
        .collect();
    let mut forged = Vec::new();
    for node_id in others {
        index += 1;
        tracing::warn!("removed-member-id" = %format!("{node_id:x}"), "force-new-cluster: removing a member");
        forged.push(Entry {
            entry_type: EntryType::EntryConfChange as i32,
            term,
            index,
            data: ConfChange {
                change_type: ConfChangeType::ConfChangeRemoveNode as i32,
                node_id,
                ..ConfChange::default()
            }
            .encode_to_vec()
            .into(),
        });
    }
    recovered.hard_state.commit = index;
    recovered.hard_state.term = term;
    wal.save(Some(&recovered.hard_state), &forged, true)?;
    recovered.entries.extend(forged);
    Ok(())
}

fn open_state(
    config: &Config,
    engine: &Engine,
    member_id: u64,
    cluster: Cluster,
    progress: Progress,
    persist_membership: bool,
) -> Result<Applier, StartError> {
    let view = engine.view().map_err(|source| StartError::Database {
        path: config.database(),
        source,
    })?;
    let backend = Backend::new(view);
    let damaged = |error: ReadError| StartError::Damaged(error.to_string());
    let mut lessor = Lessor::load(&backend, lease_ttl_min_seconds(config)).map_err(damaged)?;
    let options = RestoreOptions {
        resume_compaction: true,
        compaction_hash: true,
    };
    let store = Store::restore(backend.clone(), &mut lessor, options)
        .map_err(|error| StartError::Damaged(error.to_string()))?;
    let applier_config = ferrite_apply::Config {
        member_id,
        quota_bytes: config.quota_bytes,
        lease_ttl_min_seconds: lease_ttl_min_seconds(config),
        lease_checkpoint_persist: config.upkeep.lease_checkpoint_persist,
    };
    let applier = Applier::new(
        applier_config,
        backend,
        Arc::new(store),
        cluster,
        lessor,
        progress,
    )
    .map_err(damaged)?;
    if persist_membership {
        applier.persist_membership();
    }
    Ok(applier)
}

/// One and a half election timeouts, in whole seconds, rounded up.
fn lease_ttl_min_seconds(config: &Config) -> i64 {
    let ms = config.election_timeout().as_millis() * 3 / 2;
    i64::try_from(ms.div_ceil(1000)).unwrap_or(i64::MAX)
}
