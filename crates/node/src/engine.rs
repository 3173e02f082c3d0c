//! The database file as the store sees it: bbolt's format under the store's traits.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ferrite_bolt::{
    Bucket as BoltBucket, CommitStats, Db, Error as BoltError, Options, PageFile, ReadTx,
};
use ferrite_mvcc::schema::Bucket;
use ferrite_mvcc::{Batch, FileView, ReadError};

/// How the file is opened.
#[derive(Debug, Clone, Copy)]
pub struct DatabaseOptions {
    /// Leave out every fsync.
    pub no_sync: bool,
    /// Pages held in memory, in bytes. Reads beyond it go to the system's page cache.
    pub cache_bytes: usize,
}

impl DatabaseOptions {
    fn engine(self) -> Options {
        Options {
            no_sync: self.no_sync,
            cache_bytes: self.cache_bytes,
            ..Options::default()
        }
    }
}

/// How full pages of the key bucket are split: its keys only ever grow.
const KEY_FILL_PERCENT: f64 = 0.9;

/// One immutable state of the file.
pub struct FileState {
    tx: ReadTx,
    buckets: BTreeMap<Bucket, BoltBucket>,
}

impl FileState {
    fn open(db: &Db) -> Result<Self, BoltError> {
        let tx = db.begin_read()?;
        let mut buckets = BTreeMap::new();
        for bucket in Bucket::ALL {
            if let Some(found) = tx.bucket(bucket.name().as_bytes())? {
                buckets.insert(bucket, found);
            }
        }
        Ok(FileState { tx, buckets })
    }

    fn bucket(&self, bucket: Bucket) -> Option<&BoltBucket> {
        self.buckets.get(&bucket)
    }

    /// The transaction itself, to copy the file from.
    pub fn tx(&self) -> &ReadTx {
        &self.tx
    }
}

fn read_error(error: BoltError) -> ReadError {
    ReadError(error.to_string())
}

impl FileView for FileState {
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        match self.bucket(bucket) {
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
        match self.bucket(bucket) {
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

/// A file that is nobody's yet, as it is; nothing is changed in it.
///
/// # Errors
/// A damaged or unreadable file.
pub fn read_only(path: &Path) -> Result<FileState, BoltError> {
    let options = Options {
        read_only: true,
        ..Options::default()
    };
    FileState::open(&Db::open(path, options)?)
}

/// The file, opened to be written.
#[derive(Clone)]
pub struct Engine {
    db: Db,
}

impl Engine {
    /// Opens the file, waiting for whoever holds it, and creates what is missing.
    ///
    /// # Errors
    /// A damaged or unreadable file.
    pub fn open(path: &Path, options: DatabaseOptions) -> Result<Self, BoltError> {
        let mut told = false;
        let db = Db::open_waiting(path, options.engine(), |waited| {
            if waited >= Duration::from_secs(10) && !told {
                told = true;
                tracing::warn!(
                    path = %path.display(),
                    took = ?waited,
                    "db file is flocked by another process, or taking too long"
                );
            }
            true
        })?;
        Engine::with(db)
    }

    /// Opens pages that lie elsewhere, and creates what is missing.
    ///
    /// # Errors
    /// Damaged or unreadable pages.
    pub fn open_on(pages: Arc<dyn PageFile>, options: DatabaseOptions) -> Result<Self, BoltError> {
        Engine::with(Db::open_on(pages, options.engine())?)
    }

    /// An open database, with what is missing created.
    pub(crate) fn with(db: Db) -> Result<Self, BoltError> {
        let engine = Engine { db };
        engine.create_buckets()?;
        Ok(engine)
    }

    fn create_buckets(&self) -> Result<(), BoltError> {
        let missing = {
            let tx = self.db.begin_read()?;
            let mut missing = false;
            for bucket in Bucket::ALL {
                missing |= tx.bucket(bucket.name().as_bytes())?.is_none();
            }
            missing
        };
        if missing {
            let mut tx = self.db.begin_write()?;
            for bucket in Bucket::ALL {
                tx.create_bucket_if_missing(bucket.name().as_bytes())?;
            }
            tx.commit()?;
        }
        Ok(())
    }

    /// The file as it is now.
    ///
    /// # Errors
    /// A damaged or unreadable file.
    pub fn view(&self) -> Result<Arc<FileState>, BoltError> {
        FileState::open(&self.db).map(Arc::new)
    }

    /// Writes a batch in one durable commit.
    ///
    /// # Errors
    /// Whatever the disk says. The engine answers nothing else afterwards.
    pub fn commit(&self, batch: &Batch) -> Result<CommitStats, BoltError> {
        self.commit_where(batch, |_, _| true)
    }

    /// [`Engine::commit`] of those changes only for which `wanted` says so.
    pub(crate) fn commit_where(
        &self,
        batch: &Batch,
        wanted: impl Fn(Bucket, &[u8]) -> bool,
    ) -> Result<CommitStats, BoltError> {
        let mut tx = self.db.begin_write()?;
        for bucket in Bucket::ALL {
            let mut changes = batch
                .iter(bucket)
                .filter(|(key, _)| wanted(bucket, key))
                .peekable();
            if changes.peek().is_none() {
                continue;
            }
            let mut into = tx.bucket_mut(bucket.name().as_bytes())?;
            if bucket == Bucket::Key {
                into.set_fill_percent(KEY_FILL_PERCENT);
            }
            for (key, value) in changes {
                match value {
                    Some(value) => into.put(key, value)?,
                    None => into.delete(key)?,
                }
            }
        }
        tx.commit()
    }

    /// The open file.
    pub fn db(&self) -> &Db {
        &self.db
    }
}
