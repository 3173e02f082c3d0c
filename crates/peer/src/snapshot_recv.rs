//! Puts a received database on disk: whole, synced and under its final name, or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

/// Chunks waiting for the disk; with the HTTP read buffer this bounds the memory of a transfer.
const CHUNKS: usize = 4;

static TEMPORARY: AtomicU64 = AtomicU64::new(0);

/// Name of the database received for a raft snapshot at `index`.
pub(crate) fn file_name(index: u64) -> String {
    format!("{index:016x}.snap.db")
}

/// A file being written; removed when dropped before [`Temporary::keep_as`].
struct Temporary {
    path: PathBuf,
    file: File,
    kept: bool,
}

impl Temporary {
    fn create(dir: &Path) -> io::Result<Temporary> {
        // etcd removes what begins with "tmp" at the next start, should we die in between.
        loop {
            let nanos = SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default();
            let serial = TEMPORARY.fetch_add(1, Ordering::Relaxed);
            let unique = nanos.as_nanos() as u64 ^ (u64::from(std::process::id()) << 32);
            let path = dir.join(format!("tmp{}", unique.wrapping_add(serial)));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    return Ok(Temporary {
                        path,
                        file,
                        kept: false,
                    });
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Syncs the file, which takes as long as is returned, and gives it its final name. A file that has the
    /// name already is as good, and is kept.
    fn keep_as(mut self, dir: &Path, name: &str) -> io::Result<Duration> {
        let started = Instant::now();
        self.file.sync_all()?;
        let synced = started.elapsed();
        let target = dir.join(name);
        if !target.try_exists()? {
            fs::rename(&self.path, &target)?;
            self.kept = true;
        }
        File::open(dir)?.sync_all()?;
        Ok(synced)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A database that is on disk.
pub(crate) struct Saved {
    /// Its length.
    pub(crate) bytes: u64,
    /// How long saving took.
    pub(crate) took: Duration,
    /// How long syncing took.
    pub(crate) synced: Duration,
}

/// Writes one database on a blocking thread. Dropped before [`Saver::finish`], it leaves nothing behind.
pub(crate) struct Saver {
    chunks: mpsc::Sender<Option<Bytes>>,
    done: oneshot::Receiver<io::Result<Saved>>,
}

impl Saver {
    /// `check` sees the whole file before it gets its name.
    pub(crate) fn start(
        dir: PathBuf,
        index: u64,
        check: impl FnOnce(&Path) -> Result<(), String> + Send + 'static,
    ) -> Saver {
        let (chunks, rx) = mpsc::channel(CHUNKS);
        let (tx, done) = oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let result = save(&dir, &file_name(index), rx, check);
            // Nobody listens when the transfer was cut off.
            let _ = tx.send(result);
        });
        Saver { chunks, done }
    }

    /// Queues bytes, waiting for the disk. `false` when writing has failed; `finish` tells why.
    pub(crate) async fn write(&mut self, chunk: Bytes) -> bool {
        self.chunks.send(Some(chunk)).await.is_ok()
    }

    /// Ends the file and returns once it is durable under its final name.
    pub(crate) async fn finish(self) -> io::Result<Saved> {
        let _ = self.chunks.send(None).await;
        match self.done.await {
            Ok(result) => result,
            Err(_) => Err(io::Error::other(
                "the thread that saves the database has died",
            )),
        }
    }
}

fn save(
    dir: &Path,
    name: &str,
    mut chunks: mpsc::Receiver<Option<Bytes>>,
    check: impl FnOnce(&Path) -> Result<(), String>,
) -> io::Result<Saved> {
    let started = Instant::now();
    let mut temporary = Temporary::create(dir)?;
    let mut written = 0;
    loop {
        match chunks.blocking_recv() {
            Some(Some(chunk)) => {
                temporary.file.write_all(&chunk)?;
                written += chunk.len() as u64;
            }
            Some(None) => break,
            None => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "unexpected EOF",
                ));
            }
        }
    }
    check(&temporary.path).map_err(io::Error::other)?;
    let synced = temporary.keep_as(dir, name)?;
    Ok(Saved {
        bytes: written,
        took: started.elapsed(),
        synced,
    })
}
