//! Every way in which the database file can refuse, in words for an operator.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// What went wrong. Cloneable, because the first I/O error of a commit is the answer to every later call.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// Another process holds the file lock.
    #[error(
        "database file {} is locked by another process; stop that process or wait for it",
        path.display()
    )]
    Locked {
        /// The file that is held.
        path: PathBuf,
    },
    /// The operating system refused a read, a write, a sync or an open.
    #[error("database file: cannot {action}: {source}")]
    Io {
        /// What was attempted, with the offset where there is one.
        action: String,
        /// The operating system's answer; shared, so that the error can be cloned.
        source: Arc<io::Error>,
    },
    /// The file is not a database, or neither of its two meta pages is valid.
    #[error("not a usable database file: {reason}")]
    NotADatabase {
        /// What is wrong with each meta page.
        reason: String,
    },
    /// A page does not hold together. Restore the member from a snapshot or from its peers.
    #[error("database damaged at page {page}: {reason}")]
    Damage {
        /// The page's number in the file.
        page: u64,
        /// What does not fit.
        reason: String,
    },
    /// A change was asked of a database opened read-only.
    #[error("database was opened read-only")]
    ReadOnly,
    /// Keys and bucket names have at least one byte.
    #[error("key is empty")]
    KeyEmpty,
    /// The key or bucket name is longer than the format allows.
    #[error(
        "key of {len} bytes is larger than {} bytes",
        crate::format::MAX_KEY_BYTES
    )]
    KeyTooLarge {
        /// Its length in bytes.
        len: usize,
    },
    /// The value is longer than the format allows.
    #[error(
        "value of {len} bytes is larger than {} bytes",
        crate::format::MAX_VALUE_BYTES
    )]
    ValueTooLarge {
        /// Its length in bytes.
        len: usize,
    },
    /// There is no bucket of that name.
    #[error("bucket {:?} does not exist", String::from_utf8_lossy(name))]
    BucketMissing {
        /// The name asked for.
        name: Vec<u8>,
    },
    /// A key was used as a bucket, or a bucket as a key.
    #[error("{:?} is a {is}, not a {wanted}", String::from_utf8_lossy(key))]
    Incompatible {
        /// The name in question.
        key: Vec<u8>,
        /// What lies there.
        is: &'static str,
        /// What the call needs.
        wanted: &'static str,
    },
    /// The page size asked for is not one the format is written with.
    #[error("page size {0} is not a power of two from 1024 to 65536")]
    PageSize(usize),
    /// A page built for writing failed its own check; nothing was written.
    #[error("refused to write page {page}: {reason}")]
    Unwritable {
        /// The page's number.
        page: u64,
        /// What does not fit.
        reason: String,
    },
}

impl Error {
    pub(crate) fn io(action: impl Into<String>, source: io::Error) -> Error {
        Error::Io {
            action: action.into(),
            source: Arc::new(source),
        }
    }

    pub(crate) fn damage(page: u64, reason: impl Into<String>) -> Error {
        Error::Damage {
            page,
            reason: reason.into(),
        }
    }
}
