//! `snapshot restore`: from a snapshot file to the data folder of a new cluster's member.
//!
//! Order: everything is judged before anything is made; the folder `member` is built under the name
//! `member.tmp`, synced, and renamed last. A failure takes back what was made, so that the command can
//! be given again; a crash leaves no `member` to be mistaken for a whole one. The snapshot file is only
//! read.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ferrite_bolt::{Db, WriteTx};
use ferrite_cli::progress::{Progress, Unit};
use ferrite_membership::bootstrap::{BOOTSTRAP_TERM, conf_change_for_bootstrap};
use ferrite_membership::initial::{check_url, same_urls, verify_bootstrap};
use ferrite_membership::{Cluster, bucket, parse_initial_cluster, v2store};
use ferrite_mvcc::schema::{self, Bucket, BucketKey, Revision};
use ferrite_proto::etcdserverpb::Metadata;
use ferrite_proto::raftpb::{ConfState, HardState, Snapshot, SnapshotMetadata};
use ferrite_proto::walpb;
use ferrite_wal::{Options as WalOptions, Preparation, Wal, snap};
use sha2::{Digest, Sha256};

use crate::error::Error;
use crate::file;
use crate::log::{self, Field};
use crate::status::{bad_revision, revision};

/// Bytes of the hash at the end of a snapshot file.
const HASH_BYTES: u64 = 32;
/// A database is a multiple of this long, whatever its page size; with a hash behind it, it is not.
const SECTOR_BYTES: u64 = 512;
/// Bytes copied at once.
const COPY_BYTES: usize = 1 << 20;
/// No store counts further: a file that says so is taken for damaged.
const REVISION_LIMIT: i64 = i64::MAX / 2;
/// Nobody else knows of the files being made.
const NO_WAIT: Duration = Duration::from_secs(1);

/// What to restore, and where to.
#[derive(Debug)]
pub struct Restore {
    /// The snapshot file.
    pub snapshot: PathBuf,
    /// The member's name.
    pub name: String,
    /// Where its data will be; must be missing or empty.
    pub data_dir: PathBuf,
    /// Where its log will be; must be missing.
    pub wal_dir: PathBuf,
    /// The new cluster's members.
    pub initial_cluster: String,
    /// What makes the new cluster's ID its own.
    pub token: String,
    /// This member's peer URLs.
    pub peer_urls: Vec<String>,
    /// Take a file without a hash, or with a wrong one.
    pub skip_hash_check: bool,
    /// Revisions to leave out, all marked as compacted; 0 for none.
    pub bump_revision: u64,
}

/// Where the member is built, and what has to go if that fails.
struct Site {
    /// `<data-dir>/member.tmp`.
    member: PathBuf,
    /// The log's folder for now.
    wal: PathBuf,
    /// The log lies in a place of its own.
    wal_apart: bool,
    data_existed: bool,
}

impl Restore {
    /// Does it.
    ///
    /// # Errors
    /// Flags that contradict each other, targets that exist, a snapshot that is damaged or is not
    /// what its hash says, and what the system refuses. Nothing new is left behind then.
    pub fn run(&self) -> Result<(), Error> {
        let cluster = self.cluster()?;
        self.refuse_existing()?;
        let snap_dir = self.member_dir().join("snap");
        let fields = [
            ("path", Field::Text(&self.snapshot.to_string_lossy())),
            ("wal-dir", Field::Text(&self.wal_dir.to_string_lossy())),
            ("data-dir", Field::Text(&self.data_dir.to_string_lossy())),
            ("snap-dir", Field::Text(&snap_dir.to_string_lossy())),
        ];
        log::info("restoring snapshot", &fields);
        let source = File::open(&self.snapshot).map_err(Error::io("open", &self.snapshot))?;
        let site = self.site();
        if let Err(error) = self.build(&site, source, &cluster) {
            self.undo(&site);
            return Err(error);
        }
        log::info("restored snapshot", &fields);
        Ok(())
    }

    fn member_dir(&self) -> PathBuf {
        self.data_dir.join("member")
    }

    /// The cluster that the flags describe, with this member in it.
    fn cluster(&self) -> Result<Cluster, Error> {
        let advertised = self
            .peer_urls
            .iter()
            .map(|url| check_url(url))
            .collect::<Result<Vec<_>, _>>()?;
        let pairs = parse_initial_cluster(&self.initial_cluster)?;
        verify_bootstrap(&self.name, &pairs, &advertised, &mut same_urls)?;
        Ok(Cluster::from_initial_cluster(&self.token, &pairs)?)
    }

    fn refuse_existing(&self) -> Result<(), Error> {
        let present = |path: &Path| path.symlink_metadata().is_ok();
        if present(&self.data_dir) {
            let empty = self
                .data_dir
                .read_dir()
                .is_ok_and(|mut entries| entries.next().is_none());
            if !empty {
                return Err(Error::DataDirExists(self.data_dir.clone()));
            }
        }
        if present(&self.wal_dir) {
            return Err(Error::WalDirExists(self.wal_dir.clone()));
        }
        if self.data_dir.starts_with(&self.wal_dir) || self.wal_dir == self.member_dir() {
            return Err(Error::WalDirAbove {
                wal: self.wal_dir.clone(),
                data: self.data_dir.clone(),
            });
        }
        Ok(())
    }

    fn site(&self) -> Site {
        let member = self.data_dir.join("member.tmp");
        let inside = self.wal_dir.strip_prefix(self.member_dir()).ok();
        Site {
            wal: inside.map_or_else(|| self.wal_dir.clone(), |rest| member.join(rest)),
            wal_apart: inside.is_none(),
            member,
            data_existed: self.data_dir.exists(),
        }
    }

    fn undo(&self, site: &Site) {
        // What cannot be removed now is refused by name the next time.
        if site.wal_apart {
            let _ = std::fs::remove_dir_all(&self.wal_dir);
        }
        if site.data_existed {
            let _ = std::fs::remove_dir_all(&site.member);
        } else {
            let _ = std::fs::remove_dir_all(&self.data_dir);
        }
    }

    fn build(&self, site: &Site, source: File, cluster: &Cluster) -> Result<(), Error> {
        let snap_dir = site.member.join("snap");
        make_dir(&snap_dir)?;
        let database = snap_dir.join("db");
        self.copy(source, &database)?;
        self.examine(&database)?;

        let entries = conf_change_for_bootstrap(cluster.members.values());
        let conf_state = cluster.conf_state();
        let hard_state = HardState {
            term: BOOTSTRAP_TERM,
            vote: cluster.member_ids().first().copied().unwrap_or_default(),
            commit: entries.len() as u64,
        };
        self.adapt(&database, cluster, &hard_state, &conf_state)?;

        if let Some(parent) = site.wal.parent().filter(|p| !p.as_os_str().is_empty()) {
            make_dir(parent)?;
        }
        let own = cluster.member_by_name(&self.name).map_or(0, |m| m.id);
        let metadata = Metadata {
            node_id: own,
            cluster_id: cluster.id,
        };
        let options = WalOptions {
            preparation: Preparation::Inline,
            ..WalOptions::default()
        };
        let mut wal = Wal::create(&site.wal, &metadata, options)?;
        wal.save(Some(&hard_state), &entries, true)?;
        // The record in the log must not be there before the file that it names.
        snap::save(
            &snap_dir,
            &Snapshot {
                data: v2store::encode(cluster).into(),
                metadata: Some(SnapshotMetadata {
                    conf_state: Some(conf_state.clone()),
                    index: hard_state.commit,
                    term: hard_state.term,
                }),
            },
        )?;
        wal.save_snapshot(&walpb::Snapshot {
            index: hard_state.commit,
            term: hard_state.term,
            conf_state: Some(conf_state),
        })?;
        wal.close()?;

        let member = self.member_dir();
        sync_dir(&snap_dir)?;
        sync_dir(&site.member)?;
        std::fs::rename(&site.member, &member).map_err(Error::io("rename", &site.member))?;
        sync_dir(&self.data_dir)?;
        match self.data_dir.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => sync_dir(parent),
            _ => sync_dir(Path::new(".")),
        }
    }

    /// Copies the database out of the snapshot file, without the hash behind it, which is compared.
    fn copy(&self, mut source: File, to: &Path) -> Result<(), Error> {
        let from = &self.snapshot;
        let length = source.metadata().map_err(Error::io("stat", from))?.len();
        let hashed = length % SECTOR_BYTES == HASH_BYTES;
        if !hashed && !self.skip_hash_check {
            return Err(Error::HashMissing);
        }
        let body = if hashed { length - HASH_BYTES } else { length };
        let mut target = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(to)
            .map_err(Error::io("create", to))?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; COPY_BYTES];
        let mut left = body;
        let mut progress = Progress::new("copying", Unit::Bytes, Some(body));
        while left > 0 {
            let part = left.min(COPY_BYTES as u64) as usize;
            let chunk = &mut buffer[..part];
            source.read_exact(chunk).map_err(Error::io("read", from))?;
            if !self.skip_hash_check {
                hash.update(&*chunk);
            }
            target.write_all(chunk).map_err(Error::io("write", to))?;
            left -= part as u64;
            progress.set(body - left);
        }
        drop(progress);
        target.sync_all().map_err(Error::io("sync", to))?;
        if hashed && !self.skip_hash_check {
            let mut expected = [0; HASH_BYTES as usize];
            source
                .read_exact(&mut expected)
                .map_err(Error::io("read", from))?;
            let found: [u8; HASH_BYTES as usize] = hash.finalize().into();
            if expected != found {
                return Err(Error::HashMismatch { expected, found });
            }
        }
        Ok(())
    }

    /// Looks at every page: a hash proves the transfer only, not what was sent.
    fn examine(&self, database: &Path) -> Result<(), Error> {
        let named = |error: Error| match error {
            // The operator knows the snapshot, not our copy of it.
            Error::Database { source, .. } => Error::Database {
                path: self.snapshot.clone(),
                source,
            },
            error => error,
        };
        let db = file::open_to_write(database, NO_WAIT).map_err(named)?;
        let damage = Error::database(&self.snapshot);
        let problems = db.check().map_err(&damage)?;
        if !problems.is_empty() {
            return Err(Error::Integrity {
                problems: problems.iter().map(ToString::to_string).collect(),
            });
        }
        let tx = db.begin_read().map_err(&damage)?;
        let bucket = |bucket: Bucket| {
            let found = tx.bucket(bucket.name().as_bytes()).map_err(&damage)?;
            found.ok_or_else(|| Error::NotEtcd {
                path: self.snapshot.clone(),
                bucket: bucket.name(),
            })
        };
        bucket(Bucket::Meta)?;
        // No server would start on revisions that it cannot read.
        let mut bad = None;
        bucket(Bucket::Key)?
            .scan(&[], None, &mut |key, value| match revision(key, value) {
                Ok(_) => ControlFlow::Continue(()),
                Err(reason) => {
                    bad = Some(reason);
                    ControlFlow::Break(())
                }
            })
            .map_err(&damage)?;
        bad.map_or(Ok(()), |reason| Err(bad_revision(&reason)))
    }

    /// Makes the database that of the new cluster's member, in one commit.
    fn adapt(
        &self,
        database: &Path,
        cluster: &Cluster,
        hard_state: &HardState,
        conf_state: &ConfState,
    ) -> Result<(), Error> {
        let db = file::open_to_write(database, NO_WAIT)?;
        let latest = latest_revision(&db, database)?;
        let bumped = self.bumped(latest)?;
        let damage = Error::database(database);
        let mut tx = db.begin_write().map_err(&damage)?;
        self.change(&mut tx, cluster, hard_state, conf_state, latest, bumped)
            .map_err(&damage)?;
        tx.commit().map(drop).map_err(&damage)
    }

    /// The revision after the gap, if there is to be one.
    fn bumped(&self, latest: i64) -> Result<Option<i64>, Error> {
        if self.bump_revision == 0 {
            return Ok(None);
        }
        i64::try_from(self.bump_revision)
            .ok()
            .and_then(|bump| latest.checked_add(bump))
            .filter(|&bumped| bumped < REVISION_LIMIT)
            .map(Some)
            .ok_or(Error::BumpTooLarge {
                bump: self.bump_revision,
                latest,
                limit: REVISION_LIMIT,
            })
    }

    fn change(
        &self,
        tx: &mut WriteTx,
        cluster: &Cluster,
        hard_state: &HardState,
        conf_state: &ConfState,
        latest: i64,
        bumped: Option<i64>,
    ) -> Result<(), ferrite_bolt::Error> {
        log::info("Trimming membership information from the backend...", &[]);
        for name in [bucket::MEMBERS, bucket::MEMBERS_REMOVED] {
            let mut members = tx.create_bucket_if_missing(name.as_bytes())?;
            let mut old = Vec::new();
            members.scan(&[], None, &mut |key, _| {
                old.push(key.to_vec());
                ControlFlow::Continue(())
            })?;
            for key in old {
                members.delete(&key)?;
            }
        }
        if let Some(bumped) = bumped {
            let amount = bumped - latest;
            log::info(
                "bumping latest revision",
                &[
                    ("latest-revision", Field::Number(latest)),
                    ("bump-amount", Field::Number(amount)),
                    ("new-latest-revision", Field::Number(bumped)),
                ],
            );
            let revision = Revision::new(bumped, 0).encode();
            tx.put(Bucket::Key.name().as_bytes(), &revision, &[])?;
            log::info(
                "marking revision compacted",
                &[("revision", Field::Number(bumped))],
            );
            let meta = Bucket::Meta.name().as_bytes();
            tx.put(meta, schema::SCHEDULED_COMPACT.as_bytes(), &revision)?;
        }
        tx.create_bucket_if_missing(bucket::CLUSTER.as_bytes())?;
        let mut members = tx.bucket_mut(bucket::MEMBERS.as_bytes())?;
        for member in cluster.members.values() {
            members.put(
                &bucket::member_key(member.id),
                &bucket::member_value(member),
            )?;
            log::info(
                "added member",
                &[
                    ("cluster-id", Field::Text(&format!("{:x}", cluster.id))),
                    ("local-member-id", Field::Text("0")),
                    ("added-peer-id", Field::Text(&format!("{:x}", member.id))),
                    ("added-peer-peer-urls", Field::List(&member.peer_urls)),
                    ("added-peer-is-learner", Field::Flag(member.is_learner)),
                ],
            );
        }
        let mut meta = tx.bucket_mut(Bucket::Meta.name().as_bytes())?;
        meta.put(
            schema::CONSISTENT_INDEX.as_bytes(),
            &hard_state.commit.to_be_bytes(),
        )?;
        meta.put(schema::TERM.as_bytes(), &hard_state.term.to_be_bytes())?;
        // The original leaves the old cluster's there, and reads it nowhere. One that is right cannot
        // mislead anybody.
        meta.put(
            schema::CONF_STATE.as_bytes(),
            conf_state_json(conf_state).as_bytes(),
        )
    }
}

/// The last revision of the file; 0 in an empty one.
fn latest_revision(db: &Db, path: &Path) -> Result<i64, Error> {
    let damage = Error::database(path);
    let tx = db.begin_read().map_err(&damage)?;
    let Some(keys) = tx.bucket(Bucket::Key.name().as_bytes()).map_err(&damage)? else {
        return Ok(0);
    };
    let mut last = None;
    keys.scan_reverse(&[], None, &mut |key, _| {
        last = Some(BucketKey::decode(key));
        ControlFlow::Break(())
    })
    .map_err(&damage)?;
    match last {
        None => Ok(0),
        Some(Ok(at)) => Ok(at.revision.main),
        Some(Err(error)) => Err(Error::Content(error.to_string())),
    }
}

/// ConfState of voters only, in etcd's JSON.
fn conf_state_json(state: &ConfState) -> String {
    let voters: Vec<String> = state.voters.iter().map(u64::to_string).collect();
    format!("{{\"voters\":[{}],\"auto_leave\":false}}", voters.join(","))
}

fn make_dir(path: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(Error::io("mkdir", path))
}

fn sync_dir(path: &Path) -> Result<(), Error> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(Error::io("sync", path))
}
