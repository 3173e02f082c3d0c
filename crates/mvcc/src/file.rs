//! The border to the database file: one immutable state of it.
//!
//! Implemented over the page engine by the shell, and in memory by [`MemFile`](crate::MemFile).

use std::ops::ControlFlow;

use bytes::Bytes;
use thiserror::Error;

use crate::schema::Bucket;

/// The file could not be read, or what it holds makes no sense. Names what and where.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct ReadError(pub String);

/// Sees one key and value; breaks to end the scan.
pub type Visit<'v> = &'v mut (dyn FnMut(&[u8], &[u8]) -> ControlFlow<()> + 'v);

/// One immutable state of the database file. Later commits do not change what it shows.
pub trait FileView: Send + Sync + 'static {
    /// The value of `key`. A missing bucket holds nothing.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Bytes>, ReadError>;

    /// Visits the pairs with `from` ≤ key (< `to` when given), in key order, until `visit` breaks.
    ///
    /// # Errors
    /// The file cannot be read, or is damaged.
    fn scan(
        &self,
        bucket: Bucket,
        from: &[u8],
        to: Option<&[u8]>,
        visit: Visit<'_>,
    ) -> Result<(), ReadError>;

    /// Size of the file in bytes.
    fn size(&self) -> u64;

    /// Bytes of it that hold data.
    fn size_in_use(&self) -> u64;
}
