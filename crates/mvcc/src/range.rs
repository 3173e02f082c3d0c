//! Reading: ranges at a pinned revision, in slices.
//!
//! A slice holds the index no longer than it takes to pass [`SLICE_KEYS`] keys and to look the
//! values up in the buffers; what lies in the file is read after that, from a state of the file
//! that cannot change. A reader must never hold the index while it reads the file.

use std::sync::Arc;

use bytes::Bytes;
use ferrite_proto::mvccpb::KeyValue;
use prost::Message;

use crate::file::FileView;
use crate::index::{Resume, Span, Version};
use crate::schema::{Bucket, Revision};
use crate::store::{Error, State, Store};

/// Keys passed under one lock: some tens of microseconds.
pub(crate) const SLICE_KEYS: usize = 1024;

/// What a range returns besides the keys' order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RangeOptions {
    /// Key-values to return at most; 0 or less is no limit.
    pub limit: i64,
    /// Revision to read at; 0 or less is the current one.
    pub revision: i64,
    /// Only count.
    pub count_only: bool,
    /// Answer from the index: no value and no lease.
    pub keys_only: bool,
    /// Stop at the limit instead of counting the whole range; `count` is the number returned then.
    pub skip_total: bool,
    /// Stop after the key-value with which keys and values reach this many bytes; 0 is no limit. Only
    /// together with `skip_total`.
    pub bytes_max: usize,
}

/// A range's answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RangeResult {
    /// Key-values in key order.
    pub kvs: Vec<KeyValue>,
    /// Keys in the range, whatever the limit.
    pub count: i64,
    /// Current revision when the range began.
    pub revision: i64,
    /// The limit in bytes ended it, and there may be more keys.
    pub cut: bool,
}

impl Store {
    /// Reads the keys from `key` to before `range_end` (empty: that key alone; one zero byte: no
    /// upper bound).
    ///
    /// # Errors
    /// Revision compacted (also when that happens midway), in the future, or the file is damaged.
    pub fn range(
        &self,
        key: &[u8],
        range_end: &[u8],
        options: RangeOptions,
    ) -> Result<RangeResult, Error> {
        self.tally.ranges.inc();
        self.range_on(key, range_end, options)
    }

    /// As [`Store::range`], for what belongs to a range that is counted already.
    pub(crate) fn range_on(
        &self,
        key: &[u8],
        range_end: &[u8],
        options: RangeOptions,
    ) -> Result<RangeResult, Error> {
        self.range_at(Span::new(key, range_end), options, None)
    }

    /// One key at a revision (0: current). `None` when it does not live then.
    ///
    /// # Errors
    /// As [`Store::range`].
    pub fn get(&self, key: &[u8], revision: i64) -> Result<Option<KeyValue>, Error> {
        let options = RangeOptions {
            revision,
            ..RangeOptions::default()
        };
        Ok(self.range(key, &[], options)?.kvs.pop())
    }

    /// Reads with `current` in place of the store's current revision when given.
    pub(crate) fn range_at(
        &self,
        span: Span<'_>,
        options: RangeOptions,
        current: Option<i64>,
    ) -> Result<RangeResult, Error> {
        let limit = usize::try_from(options.limit).unwrap_or(0);
        let limit = if limit == 0 { usize::MAX } else { limit };
        let mut room = match options.bytes_max {
            0 => usize::MAX,
            bytes => bytes,
        };
        let mut result = RangeResult::default();
        let mut resume: Resume = None;
        let mut slice = Slice::default();

        let (at, mut total) = {
            let state = self.state.read();
            let current = current.unwrap_or(state.current);
            let at = pin(&state, options.revision, current)?;
            result.revision = current;
            // the index counts its newest versions: good for `at` when nothing newer is in it
            let total = (state.index.newest_main() <= at && !options.skip_total)
                .then(|| state.index.count(span));
            if options.count_only {
                match total {
                    Some(total) => {
                        result.count = total as i64;
                        return Ok(result);
                    }
                    None => (at, None),
                }
            } else {
                resume = slice.fill(&state, span, &resume, at, limit);
                slice.look_up(self, &options);
                (at, total)
            }
        };
        if options.count_only {
            result.count = self.count_walking(span, resume, at)?;
            return Ok(result);
        }
        loop {
            slice.read_file(self, at, &options, &mut room, &mut result.kvs)?;
            if room == 0 {
                result.cut = !slice.found.is_empty() || resume.is_some();
                break;
            }
            if resume.is_none() || result.kvs.len() >= limit {
                break;
            }
            let state = self.state.read();
            still_readable(&state, at)?;
            let left = limit - result.kvs.len();
            resume = slice.fill(&state, span, &resume, at, left);
            slice.look_up(self, &options);
        }
        if total.is_none() {
            let mut count = result.kvs.len() as i64;
            if resume.is_some() && !options.skip_total {
                count += self.count_walking(span, resume, at)?;
            }
            total = Some(count as usize);
        }
        result.count = total.unwrap_or_default() as i64;
        Ok(result)
    }

    /// Counts the keys after `resume` that live at `at`, in slices.
    fn count_walking(&self, span: Span<'_>, mut resume: Resume, at: i64) -> Result<i64, Error> {
        let mut count = 0;
        loop {
            let state = self.state.read();
            still_readable(&state, at)?;
            resume = state.index.walk(span, &resume, at, SLICE_KEYS, |_, _| {
                count += 1;
                true
            });
            if resume.is_none() {
                return Ok(count);
            }
        }
    }

    /// The revision bounds of a read: compacted and current.
    pub(crate) fn bounds(&self) -> (i64, i64) {
        let state = self.state.read();
        (state.compacted, state.current)
    }
}

/// The revision to read at.
fn pin(state: &State, wanted: i64, current: i64) -> Result<i64, Error> {
    if wanted > current {
        return Err(Error::FutureRevision);
    }
    let at = if wanted <= 0 { current } else { wanted };
    still_readable(state, at)?;
    Ok(at)
}

/// A reader that pinned `at` may go on.
pub(crate) fn still_readable(state: &State, at: i64) -> Result<(), Error> {
    if at < state.compacted {
        return Err(Error::Compacted);
    }
    Ok(())
}

/// What one slice found: versions, and those values that were in the buffers.
#[derive(Default)]
struct Slice {
    found: Vec<(Arc<[u8]>, Version)>,
    values: Vec<Option<Bytes>>,
    file: Option<Arc<dyn FileView>>,
}

impl Slice {
    fn fill(
        &mut self,
        state: &State,
        span: Span<'_>,
        resume: &Resume,
        at: i64,
        limit: usize,
    ) -> Resume {
        self.found.clear();
        if let (Span::Key(key), None) = (span, resume) {
            let version = state.index.version_at(key, at);
            if let Some(version) = version.filter(|v| !v.tombstone) {
                self.found.push((key.into(), *version));
            }
            return None;
        }
        state
            .index
            .walk(span, resume, at, SLICE_KEYS, |key, version| {
                self.found.push((key.clone(), *version));
                self.found.len() < limit
            })
    }

    /// Takes what the buffers hold. Must run under the same lock as `fill`: a compaction could take
    /// a version away in between.
    fn look_up(&mut self, store: &Store, options: &RangeOptions) {
        self.values.clear();
        self.file = None;
        if !options.keys_only && !self.found.is_empty() {
            let keys = self.found.iter().map(|(_, v)| v.revision().encode());
            self.file = Some(store.backend.buffered(Bucket::Key, keys, &mut self.values));
        }
    }

    /// Reads the rest from the file and hands the key-values over, until no `room` is left; what was
    /// found and not handed over stays in `found`.
    fn read_file(
        &mut self,
        store: &Store,
        at: i64,
        options: &RangeOptions,
        room: &mut usize,
        out: &mut Vec<KeyValue>,
    ) -> Result<(), Error> {
        if options.keys_only {
            out.extend(self.found.drain(..).map(|(key, version)| KeyValue {
                key: Bytes::copy_from_slice(&key),
                create_revision: version.created,
                mod_revision: version.main,
                version: version.version,
                ..KeyValue::default()
            }));
            return Ok(());
        }
        let Some(file) = self.file.take() else {
            return Ok(());
        };
        let mut read = 0;
        for ((key, version), value) in self.found.iter().zip(self.values.drain(..)) {
            if *room == 0 {
                break;
            }
            let revision = version.revision();
            let value = match value {
                Some(value) => value,
                None => match file.get(Bucket::Key, &revision.encode())? {
                    Some(value) => value,
                    None => {
                        // gone because the whole state was replaced by a later one?
                        still_readable(&store.state.read(), at)?;
                        return Err(missing(revision));
                    }
                },
            };
            let kv = decode(revision, value)?;
            if kv.key != key[..] {
                return Err(Error::Damaged(format!(
                    "revision {}.{} holds another key than the index says",
                    revision.main, revision.sub
                )));
            }
            *room = room.saturating_sub(kv.key.len() + kv.value.len());
            out.push(kv);
            read += 1;
        }
        self.found.drain(..read);
        Ok(())
    }
}

fn missing(revision: Revision) -> Error {
    Error::Damaged(format!(
        "revision {}.{} is in the index and not in the database",
        revision.main, revision.sub
    ))
}

/// Decodes a stored key-value; key and value stay slices of the stored bytes.
pub(crate) fn decode(revision: Revision, value: Bytes) -> Result<KeyValue, Error> {
    KeyValue::decode(value).map_err(|e| {
        Error::Damaged(format!(
            "revision {}.{} holds no key-value: {e}",
            revision.main, revision.sub
        ))
    })
}
