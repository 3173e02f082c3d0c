//! `snapshot status`: what a snapshot file holds, after a look at every page. Never changes the file.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use ferrite_bolt::ReadTx;
use ferrite_membership::Version;
use ferrite_mvcc::schema::{self, Bucket, BucketKey};
use ferrite_proto::mvccpb::KeyValue;
use prost::Message;

use crate::error::Error;
use crate::file;

/// What a snapshot file holds.
#[derive(Debug, PartialEq, Eq)]
pub struct Status {
    /// Of all buckets' names, keys and values.
    pub hash: u32,
    /// The last revision.
    pub revision: i64,
    /// Keys that live.
    pub total_keys: usize,
    /// Bytes of the database, the appended hash not counted.
    pub total_size: u64,
    /// Version of the schema; empty before 3.6.
    pub version: String,
}

/// Examines a file.
///
/// # Errors
/// A file that is not there, in use, damaged, or no database of etcd.
pub fn status(path: &Path, timeout: Duration) -> Result<Status, Error> {
    file::must_exist(path)?;
    let db = file::open_read_only(path, timeout)?;
    let damage = Error::database(path);
    let problems = db.check().map_err(&damage)?;
    if !problems.is_empty() {
        return Err(Error::Integrity {
            problems: problems.iter().map(ToString::to_string).collect(),
        });
    }
    let tx = db.begin_read().map_err(&damage)?;
    let mut status = Status {
        hash: 0,
        revision: 0,
        total_keys: 0,
        total_size: tx.size(),
        version: storage_version(&tx, path)?,
    };
    let mut living = HashSet::new();
    for name in tx.buckets().map_err(&damage)? {
        let Some(bucket) = tx.bucket(&name).map_err(&damage)? else {
            continue;
        };
        status.hash = crc32c::crc32c_append(status.hash, &name);
        let keys = name == Bucket::Key.name().as_bytes();
        let mut bad = None;
        bucket
            .scan(&[], None, &mut |key, value| {
                status.hash = crc32c::crc32c_append(status.hash, key);
                status.hash = crc32c::crc32c_append(status.hash, value);
                if !keys {
                    return ControlFlow::Continue(());
                }
                match revision(key, value) {
                    Ok((at, kv)) => {
                        status.revision = at.revision.main;
                        if at.tombstone {
                            living.remove(&kv.key[..]);
                        } else {
                            living.insert(Vec::from(kv.key));
                        }
                        ControlFlow::Continue(())
                    }
                    Err(reason) => {
                        bad = Some(reason);
                        ControlFlow::Break(())
                    }
                }
            })
            .map_err(&damage)?;
        if let Some(reason) = bad {
            return Err(bad_revision(&reason));
        }
    }
    status.total_keys = living.len();
    Ok(status)
}

/// Reads one pair of the key bucket.
///
/// # Errors
/// In words: what does not decode.
pub fn revision(key: &[u8], value: &[u8]) -> Result<(BucketKey, KeyValue), String> {
    let at =
        BucketKey::decode(key).map_err(|error| format!("cannot parse revision key: {error}"))?;
    let kv = KeyValue::decode(value).map_err(|error| {
        format!(
            "cannot unmarshal value of revision {}: {error}",
            at.revision.main
        )
    })?;
    Ok((at, kv))
}

/// The failure of a scan that met such a pair.
pub fn bad_revision(reason: &str) -> Error {
    Error::Content(format!(
        "error during bucket key iteration, name: \"key\" err: {reason}"
    ))
}

fn storage_version(tx: &ReadTx, path: &Path) -> Result<String, Error> {
    let damage = Error::database(path);
    let meta = Bucket::Meta.name().as_bytes();
    let Some(meta) = tx.bucket(meta).map_err(&damage)? else {
        return Ok(String::new());
    };
    let stored = meta
        .get(schema::STORAGE_VERSION.as_bytes())
        .map_err(&damage)?;
    let Some(stored) = stored.filter(|text| !text.is_empty()) else {
        return Ok(String::new());
    };
    let text = String::from_utf8_lossy(&stored);
    let version: Version = text
        .parse()
        .map_err(|error| Error::Content(format!("bucket \"meta\", key storageVersion: {error}")))?;
    Ok(version.to_string())
}
