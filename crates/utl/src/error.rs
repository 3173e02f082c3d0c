//! How a command fails: the exit codes, and every reason in words for an operator.

use std::io;
use std::path::{Path, PathBuf};

use ferrite_cli::gofmt;

/// Any failure without a code of its own.
pub const ERROR: u8 = 1;
/// A flag whose value is not supported.
pub const BAD_FEATURE: u8 = 4;
/// Wrong arguments.
pub const BAD_ARGS: u8 = 128;

/// Why the program ends without success.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What to print after `Error: `.
    pub message: String,
    /// Further lines for a person, below the message.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure with a code and a message.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::new(ERROR, error.to_string())
    }
}

/// What went wrong with files.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused.
    #[error("{action} {}: {}", path.display(), gofmt::system(source))]
    Io {
        /// What was attempted, as etcd names it.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        source: io::Error,
    },
    /// The database file cannot be opened, read or written.
    #[error("{}", database(path, source))]
    Database {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: ferrite_bolt::Error,
    },
    /// Pages that do not hold together.
    #[error(
        "snapshot file integrity check failed. {} errors found.\n{}",
        problems.len(),
        problems.join("\n")
    )]
    Integrity {
        /// One line each.
        problems: Vec<String>,
    },
    /// A database of something else.
    #[error("{} is no database of etcd: it has no bucket {bucket:?}", path.display())]
    NotEtcd {
        /// The file.
        path: PathBuf,
        /// The bucket that every one has.
        bucket: &'static str,
    },
    /// The content makes no sense.
    #[error("{0}")]
    Content(String),
    /// The revision asked for is not there.
    #[error(transparent)]
    Store(#[from] ferrite_mvcc::Error),
    /// The write-ahead log.
    #[error("write-ahead log: {0}")]
    Wal(#[from] ferrite_wal::Error),
    /// The cluster described by the flags.
    #[error(transparent)]
    Membership(#[from] ferrite_membership::Error),
    /// A snapshot that brings no hash, where one is wanted.
    #[error(
        "snapshot missing hash but --skip-hash-check=false; or the file was cut short: look at it with etcdutl snapshot status"
    )]
    HashMissing,
    /// A snapshot that is not what its hash was taken of.
    #[error("expected sha256 {}, got {}", numbers(expected), numbers(found))]
    HashMismatch {
        /// At the end of the file.
        expected: [u8; 32],
        /// Of the file.
        found: [u8; 32],
    },
    /// A target that is there already.
    #[error("data-dir {} not empty or could not be read", quoted(.0))]
    DataDirExists(PathBuf),
    /// A target that is there already.
    #[error("wal-dir {} exists", quoted(.0))]
    WalDirExists(PathBuf),
    /// Moving the log into place would remove the data.
    #[error(
        "wal-dir {} must not be data-dir {} nor contain it",
        quoted(wal),
        quoted(data)
    )]
    WalDirAbove {
        /// The log's folder.
        wal: PathBuf,
        /// The data's folder.
        data: PathBuf,
    },
    /// A bump past what a revision may be.
    #[error(
        "--bump-revision {bump} is too large: the latest revision is {latest} and must stay below {limit}"
    )]
    BumpTooLarge {
        /// What was asked.
        bump: u64,
        /// The snapshot's latest revision.
        latest: i64,
        /// What the store accepts.
        limit: i64,
    },
    /// Refused by what the log holds.
    #[error(
        "cannot downgrade storage, WAL contains newer entries, as the target version ({target}) is lower than the version ({found}) detected from WAL logs"
    )]
    WalTooNew {
        /// The version wanted.
        target: ferrite_membership::Version,
        /// What the entries need.
        found: ferrite_membership::Version,
    },
    /// Defragmentation, with the folder as etcd names it.
    #[error("Failed to defragment etcd data[{}] ({source})", path.display())]
    Defrag {
        /// The data folder.
        path: PathBuf,
        /// Why.
        source: Box<Error>,
    },
}

impl Error {
    /// For `map_err` on calls to the operating system.
    pub fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }

    /// For `map_err` on calls to the database engine.
    pub fn database(path: &Path) -> impl Fn(ferrite_bolt::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Database {
            path: path.clone(),
            source,
        }
    }
}

/// The engine's words, with the file's name unless they hold it.
fn database(path: &Path, source: &ferrite_bolt::Error) -> String {
    let text = match source {
        ferrite_bolt::Error::Io { action, source } => {
            format!("database file: cannot {action}: {}", gofmt::system(source))
        }
        other => other.to_string(),
    };
    let name = path.display().to_string();
    if text.contains(&name) {
        text
    } else {
        format!("{name}: {text}")
    }
}

fn quoted(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    gofmt::quote(path.as_os_str().as_bytes())
}

/// Bytes as Go's `%v` prints them.
fn numbers(bytes: &[u8]) -> String {
    let numbers: Vec<String> = bytes.iter().map(u8::to_string).collect();
    format!("[{}]", numbers.join(" "))
}
