//! A database file in memory, for tests and tools.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use crate::backend::Batch;
use crate::file::{FileView, ReadError, Visit};
use crate::schema::{BUCKETS, Bucket};

/// A state of a database file held in memory. Cloning shares buckets that did not change.
#[derive(Clone, Default)]
pub struct MemFile {
    buckets: [Arc<BTreeMap<Bytes, Bytes>>; BUCKETS],
}

impl MemFile {
    /// An empty file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets one value.
    pub fn put(&mut self, bucket: Bucket, key: &[u8], value: &[u8]) {
        Arc::make_mut(&mut self.buckets[bucket.slot()])
            .insert(Bytes::copy_from_slice(key), Bytes::copy_from_slice(value));
    }

    /// Removes one value.
    pub fn delete(&mut self, bucket: Bucket, key: &[u8]) {
        Arc::make_mut(&mut self.buckets[bucket.slot()]).remove(key);
    }

    /// The file with the changes of `batch` in it.
    pub fn with(&self, batch: &Batch) -> Self {
        let mut next = self.clone();
        for bucket in Bucket::ALL {
            for (key, value) in batch.iter(bucket) {
                match value {
                    Some(value) => next.put(bucket, key, value),
                    None => next.delete(bucket, key),
                }
            }
        }
        next
    }
}

impl FileView for MemFile {
    fn get(&self, bucket: Bucket, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        Ok(self.buckets[bucket.slot()].get(key).cloned())
    }

    fn scan(
        &self,
        bucket: Bucket,
        from: &[u8],
        to: Option<&[u8]>,
        visit: Visit<'_>,
    ) -> Result<(), ReadError> {
        if to.is_some_and(|to| to <= from) {
            return Ok(());
        }
        let to = to.map_or(Bound::Unbounded, Bound::Excluded);
        for (key, value) in
            self.buckets[bucket.slot()].range::<[u8], _>((Bound::Included(from), to))
        {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.size_in_use()
    }

    fn size_in_use(&self) -> u64 {
        self.buckets
            .iter()
            .flat_map(|b| b.iter())
            .map(|(k, v)| (k.len() + v.len()) as u64)
            .sum()
    }
}
