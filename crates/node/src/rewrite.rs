//! Rewriting the database file without its free pages, while the member goes on.
//!
//! The copy is made in slices, in key order, each from the newest commit of the old file. What is committed
//! meanwhile goes into both files where the copy has been already; where it has not, a later slice finds it.
//! So nothing has to be caught up with at the end, memory does not grow with the file, and the old file is the
//! database until the new one, complete and durable, takes its name: a crash at any point leaves one whole file.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use ferrite_bolt::Error as BoltError;
use ferrite_mvcc::Batch;
use ferrite_mvcc::schema::Bucket;

use crate::disk::Disk;
use crate::engine::{DatabaseOptions, Engine};

/// Keys of one slice.
const KEYS_MAX: usize = 10_000;
/// Bytes of keys and values of one slice: commits wait for it, so it is a few milliseconds of work.
const BYTES_MAX: usize = 4 << 20;
/// Keys come in order, so pages need little room for more.
const FILL_PERCENT: f64 = 0.9;
/// What the unfinished file is called. A member that starts removes names that begin with `db.tmp`.
const TEMPORARY: &str = "db.tmp.rewrite";

/// Why the file was not rewritten.
#[derive(Debug, thiserror::Error)]
pub enum RewriteError {
    /// The old file is as it was, and goes on to be the database.
    #[error("{0}; the database file is as it was")]
    Kept(String),
    /// Which of the two files has the name after a power cut is unknown: the member must end.
    #[error("{0}")]
    Unknown(String),
}

fn kept(error: impl std::fmt::Display) -> RewriteError {
    RewriteError::Kept(error.to_string())
}

/// A copy under way.
pub struct Rewrite {
    temporary: PathBuf,
    new: Engine,
    /// Names of the old file's buckets, ascending.
    buckets: Vec<Vec<u8>>,
    /// The bucket to copy next, and the key in it to go on from; everything before is copied.
    at: usize,
    from: Vec<u8>,
}

/// Keys and values of one slice, and where the next one begins.
type Slice = (Vec<(Vec<u8>, Vec<u8>)>, Option<Vec<u8>>);

impl Rewrite {
    /// Makes the new file beside `database`, which `old` is.
    ///
    /// # Errors
    /// [`RewriteError::Kept`].
    pub fn begin(
        disk: &Disk,
        database: &Path,
        old: &Engine,
        options: DatabaseOptions,
    ) -> Result<Self, RewriteError> {
        let (size, in_use) = (old.db().size(), old.db().in_use_bytes());
        tracing::info!(
            path = %database.display(),
            "current-db-size-bytes" = size,
            "current-db-size-in-use-bytes" = in_use,
            "defragmenting"
        );
        let temporary = database.with_file_name(TEMPORARY);
        let new = disk
            .create_unsynced(&temporary, options, old.db().page_size())
            .map_err(kept)?;
        let buckets = old
            .db()
            .begin_read()
            .and_then(|tx| tx.buckets())
            .map_err(kept)?;
        Ok(Rewrite {
            temporary,
            new,
            buckets,
            at: 0,
            from: Vec::new(),
        })
    }

    /// Copies the next slice; true once everything is copied.
    ///
    /// # Errors
    /// [`RewriteError::Kept`].
    pub fn copy(&mut self, old: &Engine) -> Result<bool, RewriteError> {
        self.copy_slice(old).map_err(kept)?;
        Ok(self.at == self.buckets.len())
    }

    fn copy_slice(&mut self, old: &Engine) -> Result<(), BoltError> {
        let Some(name) = self.buckets.get(self.at) else {
            return Ok(());
        };
        let Some(bucket) = old.db().begin_read()?.bucket(name)? else {
            self.at += 1;
            return Ok(());
        };
        let (pairs, next) = take(&bucket, &self.from)?;
        let mut tx = self.new.db().begin_write()?;
        let mut into = tx.create_bucket_if_missing(name)?;
        into.set_fill_percent(FILL_PERCENT);
        if bucket.sequence() != 0 {
            into.set_sequence(bucket.sequence());
        }
        for (key, value) in &pairs {
            into.put(key, value)?;
        }
        tx.commit()?;
        match next {
            Some(next) => self.from = next,
            None => {
                self.at += 1;
                self.from.clear();
            }
        }
        Ok(())
    }

    /// A batch has been committed to the old file: changes the new one where it has been copied already.
    ///
    /// # Errors
    /// [`RewriteError::Kept`].
    pub fn follow(&self, batch: &Batch) -> Result<(), RewriteError> {
        let current = self.buckets.get(self.at).map(Vec::as_slice);
        self.new
            .commit_where(batch, |bucket: Bucket, key| match current {
                None => true,
                Some(current) => match bucket.name().as_bytes().cmp(current) {
                    std::cmp::Ordering::Less => true,
                    std::cmp::Ordering::Equal => key < self.from.as_slice(),
                    std::cmp::Ordering::Greater => false,
                },
            })
            .map(drop)
            .map_err(kept)
    }

    /// Puts the complete copy in the place of the old file and hands it over. Whoever reads the old one keeps it.
    ///
    /// # Errors
    /// [`RewriteError`].
    pub fn finish(
        self,
        disk: &Disk,
        database: &Path,
        old: &Engine,
        options: DatabaseOptions,
    ) -> Result<Engine, RewriteError> {
        self.settle().map_err(kept)?;
        if !options.no_sync {
            self.new.db().make_durable().map_err(kept)?;
        }
        disk.fs().rename(&self.temporary, database).map_err(kept)?;
        if let Some(folder) = database.parent() {
            disk.fs().sync_dir(folder).map_err(|error| {
                RewriteError::Unknown(format!("syncing {}: {error}", folder.display()))
            })?;
        }
        // What the last commit freed counts as free once another transaction begins.
        drop(self.new.db().begin_write().map_err(kept)?);
        let (size, before) = (self.new.db().size(), old.db().size());
        tracing::info!(
            path = %database.display(),
            "current-db-size-bytes-diff" = signed(size) - signed(before),
            "current-db-size-bytes" = size,
            "current-db-size-in-use-bytes" = self.new.db().in_use_bytes(),
            "finished defragmenting directory"
        );
        Ok(self.new)
    }

    /// Commits once more without changing anything. A file has two headers, and the older one names what was
    /// before the last commit: while that is an unfinished copy, damage to the newer one would bring it back.
    fn settle(&self) -> Result<(), BoltError> {
        for name in &self.buckets {
            let mut first = None;
            let Some(bucket) = self.new.db().begin_read()?.bucket(name)? else {
                continue;
            };
            bucket.scan(&[], None, &mut |key, value| {
                first = Some((key.to_vec(), value.to_vec()));
                ControlFlow::Break(())
            })?;
            if let Some((key, value)) = first {
                let mut tx = self.new.db().begin_write()?;
                tx.bucket_mut(name)?.put(&key, &value)?;
                tx.commit()?;
                return Ok(());
            }
        }
        Ok(())
    }

    /// Gives the copy up.
    pub fn abandon(self, disk: &Disk) {
        drop(self.new);
        if let Err(error) = disk.fs().remove_file(&self.temporary) {
            // It is removed at the next start, or by the next attempt.
            tracing::warn!(path = %self.temporary.display(), error = %error, "an unfinished copy of the database stays behind");
        }
    }
}

/// File sizes fit.
fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

fn take(bucket: &ferrite_bolt::Bucket, from: &[u8]) -> Result<Slice, BoltError> {
    let (mut pairs, mut bytes, mut next) = (Vec::new(), 0, None);
    bucket.scan(from, None, &mut |key, value| {
        if pairs.len() >= KEYS_MAX || bytes >= BYTES_MAX {
            next = Some(key.to_vec());
            return ControlFlow::Break(());
        }
        bytes += key.len() + value.len();
        pairs.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    })?;
    Ok((pairs, next))
}

/// Rewrites a database that nobody else uses yet, at the start of a member.
///
/// # Errors
/// [`RewriteError`].
pub fn at_once(
    disk: &Disk,
    database: &Path,
    old: &Engine,
    options: DatabaseOptions,
) -> Result<Engine, RewriteError> {
    let mut rewrite = Rewrite::begin(disk, database, old, options)?;
    loop {
        match rewrite.copy(old) {
            Ok(false) => {}
            Ok(true) => return rewrite.finish(disk, database, old, options),
            Err(error) => {
                rewrite.abandon(disk);
                return Err(error);
            }
        }
    }
}
