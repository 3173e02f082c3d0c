//! `hashkv`: the hash of the key space at a revision, comparable with that of running members. Never
//! changes the file.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ferrite_mvcc::{Backend, HashKv, NoLeases, RestoreOptions, Store};

use crate::error::Error;
use crate::file::{self, FileState};

/// Hashes the revisions up to `revision` (0: the latest).
///
/// # Errors
/// A file that is not there, in use or damaged; a revision that is compacted or in the future.
pub fn hash_kv(path: &Path, revision: i64, timeout: Duration) -> Result<HashKv, Error> {
    file::must_exist(path)?;
    let db = file::open_read_only(path, timeout)?;
    let view = FileState::of(&db).map_err(Error::database(path))?;
    let options = RestoreOptions {
        resume_compaction: false,
        compaction_hash: false,
    };
    let store = Store::restore(Backend::new(Arc::new(view)), &mut NoLeases, options)?;
    Ok(store.hash_kv(revision)?)
}
