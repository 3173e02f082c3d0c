//! Opening database files at rest, and showing one to the store read-only.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use ferrite_bolt::{Bucket as BoltBucket, Db, Error as BoltError, Options, ReadTx};
use ferrite_mvcc::schema::Bucket;
use ferrite_mvcc::{FileView, ReadError};

use crate::error::Error;

/// The error of a file that is not there.
///
/// # Errors
/// What the system says.
pub fn must_exist(path: &Path) -> Result<(), Error> {
    std::fs::metadata(path)
        .map(drop)
        .map_err(Error::io("stat", path))
}

/// Opens a file to be read, and changes nothing in it. Waits for a writer to let go, up to `timeout`
/// (zero: for ever).
///
/// # Errors
/// Locked, damaged, or no database.
pub fn open_read_only(path: &Path, timeout: Duration) -> Result<Db, Error> {
    let options = Options {
        read_only: true,
        ..Options::default()
    };
    open(path, options, timeout)
}

/// Opens an existing database to be written. Waits for others to let go, up to `timeout` (zero: for ever).
///
/// # Errors
/// Locked, damaged, or no database.
pub fn open_to_write(path: &Path, timeout: Duration) -> Result<Db, Error> {
    // Opening for writing would make a database out of an empty file.
    drop(open_read_only(path, timeout)?);
    open(path, Options::default(), timeout)
}

fn open(path: &Path, options: Options, timeout: Duration) -> Result<Db, Error> {
    Db::open_waiting(path, options, |waited| {
        timeout.is_zero() || waited < timeout
    })
    .map_err(Error::database(path))
}

/// One state of a database file, as the store reads it.
pub struct FileState {
    tx: ReadTx,
    buckets: BTreeMap<Bucket, BoltBucket>,
}

impl FileState {
    /// The last commit.
    ///
    /// # Errors
    /// A damaged or unreadable file.
    pub fn of(db: &Db) -> Result<Self, BoltError> {
        let tx = db.begin_read()?;
        let mut buckets = BTreeMap::new();
        for bucket in Bucket::ALL {
            if let Some(found) = tx.bucket(bucket.name().as_bytes())? {
                buckets.insert(bucket, found);
            }
        }
        Ok(Self { tx, buckets })
    }
}

fn read_error(error: BoltError) -> ReadError {
    ReadError(error.to_string())
}

impl FileView for FileState {
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        match self.buckets.get(&bucket) {
            Some(found) => found.get(key).map_err(read_error),
            None => Ok(None),
        }
    }

    fn scan(
        &self,
        bucket: Bucket,
        from: &[u8],
        to: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>,
    ) -> Result<(), ReadError> {
        match self.buckets.get(&bucket) {
            Some(found) => found.scan(from, to, visit).map_err(read_error),
            None => Ok(()),
        }
    }

    fn size(&self) -> u64 {
        self.tx.size()
    }

    fn size_in_use(&self) -> u64 {
        self.tx.in_use_bytes()
    }
}
