//! `defrag`: writes a database anew without its free pages, while no server uses it.
//!
//! The new file is complete, examined and synced before it takes the name of the old one: a crash at any
//! point leaves one of the two, whole. The old file's lock is held all the while, the new file's from its
//! first byte on.

use std::cell::RefCell;
use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ferrite_bolt::{Bucket, BucketMut, Db, Error as BoltError, Options, ReadTx};
use ferrite_cli::gofmt;
use ferrite_cli::progress::{Progress, Unit};

use crate::error::Error;
use crate::file;
use crate::log::{self, Field};

/// Keys of one commit.
const KEYS_MAX: usize = 10_000;
/// Bytes of keys and values of one commit: it bounds memory where values are large.
const BYTES_MAX: usize = 16 << 20;
/// Keys come in order, so pages need little room for more.
const FILL: f64 = 0.9;

/// Defragments the database of a data folder.
///
/// # Errors
/// A database that is missing, in use or damaged, and what the system refuses. The old file stays then.
pub fn defrag(data_dir: &Path, timeout: Duration) -> Result<(), Error> {
    rewrite(&database_of(data_dir), timeout).map_err(|source| Error::Defrag {
        path: data_dir.to_owned(),
        source: Box::new(source),
    })
}

/// Where a data folder has its database.
pub fn database_of(data_dir: &Path) -> PathBuf {
    data_dir.join("member").join("snap").join("db")
}

fn rewrite(path: &Path, timeout: Duration) -> Result<(), Error> {
    file::must_exist(path)?;
    let started = Instant::now();
    let old = file::open_to_write(path, timeout)?;
    let (size, used) = (old.size(), old.in_use_bytes());
    log::info(
        "defragmenting",
        &[
            ("path", Field::Text(&path.to_string_lossy())),
            ("current-db-size-bytes", Field::Number(signed(size))),
            ("current-db-size", Field::Text(&gofmt::size(size))),
            ("current-db-size-in-use-bytes", Field::Number(signed(used))),
            ("current-db-size-in-use", Field::Text(&gofmt::size(used))),
        ],
    );
    // A server that starts removes what a crash left of such a file: its name begins with `db.tmp`.
    let temporary = path.with_file_name(format!("db.tmp.{}", std::process::id()));
    let new = fill(&old, path, &temporary)
        .and_then(|new| {
            std::fs::rename(&temporary, path).map_err(Error::io("rename", &temporary))?;
            Ok(new)
        })
        .inspect_err(|_| {
            let _ = std::fs::remove_file(&temporary);
        })?;
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder)
        .and_then(|dir| dir.sync_all())
        .map_err(Error::io("sync", folder))?;
    // What the last commit freed counts as free once another transaction begins.
    drop(new.begin_write().map_err(Error::database(path))?);
    let (new_size, new_used) = (new.size(), new.in_use_bytes());
    log::info(
        "finished defragmenting directory",
        &[
            ("path", Field::Text(&path.to_string_lossy())),
            (
                "current-db-size-bytes-diff",
                Field::Number(signed(new_size) - signed(size)),
            ),
            ("current-db-size-bytes", Field::Number(signed(new_size))),
            ("current-db-size", Field::Text(&gofmt::size(new_size))),
            (
                "current-db-size-in-use-bytes-diff",
                Field::Number(signed(new_used) - signed(used)),
            ),
            (
                "current-db-size-in-use-bytes",
                Field::Number(signed(new_used)),
            ),
            (
                "current-db-size-in-use",
                Field::Text(&gofmt::size(new_used)),
            ),
            ("took", Field::Seconds(started.elapsed().as_secs_f64())),
        ],
    );
    Ok(())
}

/// File sizes fit.
fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Writes, syncs and examines the new file.
fn fill(old: &Db, path: &Path, temporary: &Path) -> Result<Db, Error> {
    match std::fs::remove_file(temporary) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(Error::io("remove", temporary)(error));
        }
        _ => {}
    }
    let new_error = Error::database(temporary);
    let options = Options {
        // One sync at the end covers everything, and no crash before it matters.
        no_sync: true,
        page_size: Some(old.page_size()),
        ..Options::default()
    };
    let new = Db::open(temporary, options).map_err(&new_error)?;
    let tx = old.begin_read().map_err(Error::database(path))?;
    let progress = Progress::new("defragmenting", Unit::Bytes, Some(old.in_use_bytes()));
    Copy {
        from: &tx,
        to: &new,
        old_path: path,
        new_path: temporary,
        progress: RefCell::new(progress),
    }
    .run()?;
    let problems = new.check().map_err(&new_error)?;
    if let Some(problem) = problems.first() {
        return Err(Error::Content(format!(
            "the new file does not hold together ({problem}); the old one was kept"
        )));
    }
    File::open(temporary)
        .and_then(|file| file.sync_all())
        .map_err(Error::io("sync", temporary))?;
    Ok(new)
}

/// A copy under way.
struct Copy<'a> {
    from: &'a ReadTx,
    to: &'a Db,
    old_path: &'a Path,
    new_path: &'a Path,
    progress: RefCell<Progress>,
}

impl Copy<'_> {
    fn run(&self) -> Result<(), Error> {
        let damage = Error::database(self.old_path);
        for name in self.from.buckets().map_err(&damage)? {
            if let Some(bucket) = self.from.bucket(&name).map_err(&damage)? {
                self.bucket(&mut vec![name], &bucket)?;
            }
        }
        Ok(())
    }

    /// Copies the bucket at the end of `at`, and the buckets in it.
    fn bucket(&self, at: &mut Vec<Vec<u8>>, bucket: &Bucket) -> Result<(), Error> {
        let damage = Error::database(self.old_path);
        let mut from = Vec::new();
        loop {
            let (batch, next) = take(bucket, &from).map_err(&damage)?;
            let bytes: usize = batch.iter().map(|(k, v)| k.len() + v.len()).sum();
            self.progress.borrow_mut().add(bytes as u64);
            self.write(at, bucket.sequence(), &batch)
                .map_err(Error::database(self.new_path))?;
            match next {
                Some(next) => from = next,
                None => break,
            }
        }
        for name in bucket.buckets().map_err(&damage)? {
            if let Some(nested) = bucket.bucket(&name).map_err(&damage)? {
                at.push(name);
                self.bucket(at, &nested)?;
                at.pop();
            }
        }
        Ok(())
    }

    fn write(&self, at: &[Vec<u8>], sequence: u64, batch: &Batch) -> Result<(), BoltError> {
        let mut tx = self.to.begin_write()?;
        let Some((top, nested)) = at.split_first() else {
            return Ok(());
        };
        put(tx.create_bucket_if_missing(top)?, nested, sequence, batch)?;
        tx.commit().map(drop)
    }
}

/// Keys and values of one commit.
type Batch = Vec<(Vec<u8>, Vec<u8>)>;

/// The next keys from `from` on, and where to go on after them.
fn take(bucket: &Bucket, from: &[u8]) -> Result<(Batch, Option<Vec<u8>>), BoltError> {
    let mut batch = Batch::new();
    let mut bytes = 0;
    let mut next = None;
    bucket.scan(from, None, &mut |key, value| {
        if batch.len() >= KEYS_MAX || bytes >= BYTES_MAX {
            next = Some(key.to_vec());
            return ControlFlow::Break(());
        }
        bytes += key.len() + value.len();
        batch.push((key.to_vec(), value.to_vec()));
        ControlFlow::Continue(())
    })?;
    Ok((batch, next))
}

fn put(
    mut bucket: BucketMut<'_>,
    nested: &[Vec<u8>],
    sequence: u64,
    batch: &Batch,
) -> Result<(), BoltError> {
    if let Some((name, rest)) = nested.split_first() {
        return put(
            bucket.create_bucket_if_missing(name)?,
            rest,
            sequence,
            batch,
        );
    }
    bucket.set_fill_percent(FILL);
    if sequence != 0 {
        bucket.set_sequence(sequence);
    }
    for (key, value) in batch {
        bucket.put(key, value)?;
    }
    Ok(())
}
