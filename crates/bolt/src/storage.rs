//! Where pages lie: the smallest trait that lets a simulator stand in, and the real file with its lock.

use crate::error::Error;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, Instant};

/// Positioned I/O on one file. Calls may come from several threads at once.
pub trait PageFile: Send + Sync + 'static {
    /// Fills `buf` from `offset`; an early end of file is an error.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
    /// Writes all of `buf` at `offset`, lengthening the file if need be.
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;
    /// Returns once every write before it is durable.
    fn sync(&self) -> io::Result<()>;
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Cuts or lengthens (with zeros) to `len` bytes.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Has the file no bytes?
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// How often a waiting opener tries the lock again.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// A file of the operating system, locked with flock(2) for as long as it is open.
#[derive(Debug)]
pub struct DiskFile {
    file: File,
}

impl DiskFile {
    /// Opens `path`, creating it (mode 0600) unless `read_only`, and takes the lock: exclusive, or shared for
    /// `read_only`. While another process holds it, `on_wait` is asked with the time waited so far; `false` gives up.
    ///
    /// # Errors
    /// [`Error::Locked`] when given up, [`Error::Io`] otherwise.
    pub fn open(
        path: &Path,
        read_only: bool,
        mut on_wait: impl FnMut(Duration) -> bool,
    ) -> Result<DiskFile, Error> {
        let fail = |what: &str, e| Error::io(format!("{what} {}", path.display()), e);
        let created = !read_only && !path.exists();
        let open = || {
            OpenOptions::new()
                .read(true)
                .write(!read_only)
                .create(!read_only)
                .truncate(false)
                .mode(0o600)
                .open(path)
                .map_err(|e| fail("open", e))
        };
        let mut file = open()?;
        let started = Instant::now();
        loop {
            let tried = if read_only {
                file.try_lock_shared()
            } else {
                file.try_lock()
            };
            match tried {
                Ok(()) if is_still_at(&file, path).map_err(|e| fail("look at", e))? => break,
                // Whoever held the lock put another file in its place meanwhile (offline defragmentation does).
                Ok(()) => file = open()?,
                Err(TryLockError::Error(e)) => return Err(fail("lock", e)),
                Err(TryLockError::WouldBlock) => {
                    if !on_wait(started.elapsed()) {
                        return Err(Error::Locked {
                            path: path.to_path_buf(),
                        });
                    }
                    std::thread::sleep(LOCK_POLL);
                }
            }
        }
        if created {
            // The name must be as durable as the first commit that relies on it.
            let folder = match path.parent() {
                Some(p) if !p.as_os_str().is_empty() => p,
                _ => Path::new("."),
            };
            File::open(folder)
                .and_then(|d| d.sync_all())
                .map_err(|e| Error::io(format!("sync folder {}", folder.display()), e))?;
        }
        Ok(DiskFile { file })
    }
}

/// Whether the path still names the open file.
fn is_still_at(file: &File, path: &Path) -> io::Result<bool> {
    let here = file.metadata()?;
    Ok(match std::fs::metadata(path) {
        Ok(there) => (there.dev(), there.ino()) == (here.dev(), here.ino()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => false,
        Err(e) => return Err(e),
    })
}

impl PageFile for DiskFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(buf, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}
