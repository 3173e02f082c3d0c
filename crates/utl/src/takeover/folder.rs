//! A member's folder while nobody uses it: whose it is, and whether it can be served. Changes nothing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ferrite_bolt::Db;
use ferrite_membership::Version;
use ferrite_mvcc::schema::{self, Bucket};
use ferrite_wal::Wal;

use crate::error::Error;
use crate::file;

/// How long whoever is ending may hold the files.
const RELEASE: Duration = Duration::from_secs(30);

/// What lies there.
#[derive(Debug)]
pub struct Found {
    /// The member.
    pub member_id: u64,
    /// Its cluster.
    pub cluster_id: u64,
    /// How far its database has applied.
    pub applied: u64,
    /// Where its log ends.
    pub last: u64,
    /// The layout of its database, if that says so.
    pub storage: Option<Version>,
    /// The cluster's version in it.
    pub version: Option<Version>,
}

impl Found {
    /// For whoever watches.
    pub fn line(&self) -> String {
        format!(
            "the folder is that of member {:x} of cluster {:x}: applied {} of {} entries",
            self.member_id, self.cluster_id, self.applied, self.last
        )
    }
}

/// Reads it; waits until nobody holds the database any more.
///
/// # Errors
/// It is in use, damaged, or not what it should be.
pub fn look(data_dir: &Path, wal_dir: Option<&Path>) -> Result<Found, Error> {
    let member = data_dir.join("member");
    let wal_dir: PathBuf = wal_dir.map_or_else(|| member.join("wal"), Path::to_owned);
    let path = member.join("snap").join("db");
    file::must_exist(&path)?;
    let db = file::open_read_only(&path, RELEASE)?;
    let records = Wal::valid_snapshots(&wal_dir)?;
    let from = records.last().cloned().unwrap_or_default();
    let log = Wal::read(&wal_dir, &from)?;
    let last = log.entries.last().map_or(from.index, |entry| entry.index);
    let applied = meta(&db, &path, schema::CONSISTENT_INDEX)?
        .and_then(|bytes| <[u8; 8]>::try_from(&bytes[..]).ok())
        .map_or(0, u64::from_be_bytes);
    if applied > last {
        return Err(Error::Content(format!(
            "{}: the database has applied entry {applied}, but the log in {} ends at {last}: one of them is not this member's",
            path.display(),
            wal_dir.display()
        )));
    }
    let read = |bytes: Option<Vec<u8>>| {
        bytes.and_then(|bytes| std::str::from_utf8(&bytes).ok()?.parse::<Version>().ok())
    };
    Ok(Found {
        member_id: log.metadata.node_id,
        cluster_id: log.metadata.cluster_id,
        applied,
        last,
        storage: read(meta(&db, &path, schema::STORAGE_VERSION)?),
        version: read(get(&db, &path, Bucket::Cluster, "clusterVersion")?),
    })
}

fn meta(db: &Db, path: &Path, name: &str) -> Result<Option<Vec<u8>>, Error> {
    get(db, path, Bucket::Meta, name)
}

fn get(db: &Db, path: &Path, bucket: Bucket, name: &str) -> Result<Option<Vec<u8>>, Error> {
    let damage = Error::database(path);
    let tx = db.begin_read().map_err(&damage)?;
    match tx.bucket(bucket.name().as_bytes()).map_err(&damage)? {
        Some(found) => {
            let value = found.get(name.as_bytes()).map_err(&damage)?;
            Ok(value.map(|bytes| bytes.to_vec()))
        }
        None => Ok(None),
    }
}
