//! The disk of a member: where its log, its `.snap` files and its database lie.
//!
//! One value that recovery and the stages share, so that a simulator hands in another disk and runs
//! the same code. On the real disk the database file is locked; on any other it is opened through the
//! same [`Fs`] as the log.

use std::io;
use std::path::Path;
use std::sync::Arc;

use ferrite_bolt::{Db, Error as BoltError, Options, PageFile};
use ferrite_wal::fs::{Fs, LogFile, Open, RealFs};
use ferrite_wal::snap::SnapDir;
use ferrite_wal::{Options as WalOptions, Preparation};

use crate::engine::{DatabaseOptions, Engine};

/// See the module.
#[derive(Clone)]
pub struct Disk {
    fs: Arc<dyn Fs>,
    segment_bytes: u64,
    preparation: Preparation,
    /// Bytes of pages of the database in memory, whatever the configuration says.
    cache_bytes: Option<usize>,
    real: bool,
}

impl Disk {
    /// The operating system's files.
    pub fn real() -> Disk {
        let options = WalOptions::default();
        Disk {
            fs: Arc::new(RealFs),
            segment_bytes: options.segment_bytes,
            preparation: options.preparation,
            cache_bytes: None,
            real: true,
        }
    }

    /// Another disk, with log segments of this length. Nothing starts a thread on it.
    pub fn on(fs: Arc<dyn Fs>, segment_bytes: u64) -> Disk {
        Disk {
            fs,
            segment_bytes,
            preparation: Preparation::Inline,
            cache_bytes: None,
            real: false,
        }
    }

    /// The same, with so many bytes of the database's pages in memory at most: with none every page is read from
    /// the disk.
    #[must_use]
    pub fn caching(self, bytes: usize) -> Disk {
        Disk {
            cache_bytes: Some(bytes),
            ..self
        }
    }

    fn cached(&self, options: DatabaseOptions) -> DatabaseOptions {
        DatabaseOptions {
            cache_bytes: self.cache_bytes.unwrap_or(options.cache_bytes),
            ..options
        }
    }

    /// Its file operations.
    pub fn fs(&self) -> &Arc<dyn Fs> {
        &self.fs
    }

    /// How a log on it is written.
    pub fn wal_options(&self, config: &crate::Config) -> WalOptions {
        WalOptions {
            fs: Arc::clone(&self.fs),
            segment_bytes: self.segment_bytes,
            no_fsync: config.no_fsync,
            preparation: self.preparation,
            metrics: Arc::clone(&config.metrics),
        }
    }

    /// The folder of `.snap` files.
    pub fn snap_dir(&self, dir: &Path) -> SnapDir {
        SnapDir::new(Arc::clone(&self.fs), dir)
    }

    /// Whether a file is there.
    ///
    /// # Errors
    /// Nobody can tell.
    pub fn exists(&self, path: &Path) -> io::Result<bool> {
        if self.real {
            return path.try_exists();
        }
        Ok(self.open_if_there(path)?.is_some())
    }

    /// Whether a file is there and has no bytes.
    ///
    /// # Errors
    /// Nobody can tell.
    pub fn is_empty(&self, path: &Path) -> io::Result<bool> {
        match self.open_if_there(path)? {
            Some(file) => file.is_empty(),
            None => Ok(false),
        }
    }

    fn open_if_there(&self, path: &Path) -> io::Result<Option<Box<dyn LogFile>>> {
        match self.fs.open(path, Open::Read) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Renames a file; the new name is durable on return.
    ///
    /// # Errors
    /// What the disk says.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.fs.rename(from, to)?;
        match to.parent() {
            Some(folder) => self.fs.sync_dir(folder),
            None => Ok(()),
        }
    }

    /// Opens the database, and creates it when absent.
    ///
    /// # Errors
    /// A damaged or unreadable file.
    pub fn open_database(
        &self,
        path: &Path,
        options: DatabaseOptions,
    ) -> Result<Engine, BoltError> {
        let options = self.cached(options);
        if self.real {
            return Engine::open(path, options);
        }
        let pages = self.pages(path).map_err(|error| BoltError::Io {
            action: format!("open {}", path.display()),
            source: Arc::new(error),
        })?;
        Engine::open_on(Arc::new(pages), options)
    }

    /// Creates a database that is not synced before [`ferrite_bolt::Db::make_durable`]; what a crash left under
    /// the name is removed.
    ///
    /// # Errors
    /// What the disk says.
    pub fn create_unsynced(
        &self,
        path: &Path,
        options: DatabaseOptions,
        page_size: usize,
    ) -> Result<Engine, BoltError> {
        let failed = |error| BoltError::Io {
            action: format!("create {}", path.display()),
            source: Arc::new(error),
        };
        match self.fs.remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let options = Options {
            no_sync: true,
            page_size: Some(page_size),
            cache_bytes: self.cached(options).cache_bytes,
            ..Options::default()
        };
        let db = if self.real {
            Db::open(path, options)?
        } else {
            let pages = self.pages(path).map_err(failed)?;
            Db::open_on(Arc::new(pages), options)?
        };
        Engine::with(db)
    }

    fn pages(&self, path: &Path) -> io::Result<Pages> {
        match self.fs.open(path, Open::Write) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let file = self.fs.open(path, Open::Create)?;
                if let Some(folder) = path.parent() {
                    self.fs.sync_dir(folder)?;
                }
                Ok(Pages(file))
            }
            opened => opened.map(Pages),
        }
    }
}

/// A file of an [`Fs`] as pages.
struct Pages(Box<dyn LogFile>);

impl PageFile for Pages {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            match self.0.read_at(offset + done as u64, &mut buf[done..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => done += n,
            }
        }
        Ok(())
    }

    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.0.write_at(offset, buf)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }
}
