//! Ranges with all their options: filters, orders, limits.

use std::cmp::Ordering;

use bytes::Bytes;
use ferrite_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use ferrite_proto::etcdserverpb::{RangeRequest, RangeResponse};
use ferrite_proto::mvccpb::KeyValue;

use super::{RequestError, header};
use crate::range::{RangeOptions, RangeResult};
use crate::store::{Error, Store};

/// Executes a range on the current state.
///
/// # Errors
/// Revision compacted or in the future, or the database is damaged.
pub fn range(store: &Store, request: &RangeRequest) -> Result<RangeResponse, RequestError> {
    again_if_current(request.revision, || {
        execute(request, Piece::Whole, |options| {
            store.range(&request.key, &request.range_end, options)
        })
    })
}

/// Executes a range without counting what lies beyond its limit: a piece of a streamed range. It also
/// ends, with `more`, after the key-value with which it reaches `bytes_max` (0: no limit).
///
/// # Errors
/// As [`range`].
pub fn range_chunk(
    store: &Store,
    request: &RangeRequest,
    bytes_max: usize,
) -> Result<RangeResponse, RequestError> {
    again_if_current(request.revision, || {
        execute(request, Piece::Chunk { bytes_max }, |options| {
            store.range(&request.key, &request.range_end, options)
        })
    })
}

/// As [`range_chunk`], for a piece of a range whose first one was counted: the others are no ranges of their own.
///
/// # Errors
/// As [`range`].
pub fn range_next_chunk(
    store: &Store,
    request: &RangeRequest,
    bytes_max: usize,
) -> Result<RangeResponse, RequestError> {
    again_if_current(request.revision, || {
        execute(request, Piece::Chunk { bytes_max }, |options| {
            store.range_on(&request.key, &request.range_end, options)
        })
    })
}

/// How much of a range is wanted at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// All of it, and how many keys there are beyond its limit.
    Whole,
    /// Up to its limit, or this many bytes (0: no limit).
    Chunk { bytes_max: usize },
}

/// Counts the keys of a range at a revision (0: current), of which somebody reads the keys themselves.
///
/// # Errors
/// As [`range`].
pub fn count(
    store: &Store,
    key: &[u8],
    range_end: &[u8],
    revision: i64,
) -> Result<i64, RequestError> {
    let options = RangeOptions {
        revision,
        count_only: true,
        ..RangeOptions::default()
    };
    Ok(store.range_on(key, range_end, options)?.count)
}

/// Whether the limit can be pushed down: the order asked for is the store's own, or none.
pub fn is_default_ordering(request: &RangeRequest) -> bool {
    match SortOrder::try_from(request.sort_order) {
        Ok(SortOrder::None) => true,
        Ok(SortOrder::Ascend) => request.sort_target == SortTarget::Key as i32,
        _ => false,
    }
}

/// Whether the request filters by revisions.
pub fn has_revision_filters(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

/// A read of the current revision that a compaction overtook begins again at a newer one, a few
/// times; then the caller is told.
pub(super) fn again_if_current<T>(
    revision: i64,
    mut read: impl FnMut() -> Result<T, RequestError>,
) -> Result<T, RequestError> {
    let tries = if revision <= 0 { 3 } else { 1 };
    let mut result = read();
    for _ in 1..tries {
        if !matches!(result, Err(RequestError::Compacted)) {
            break;
        }
        result = read();
    }
    result
}

pub(super) fn execute(
    request: &RangeRequest,
    piece: Piece,
    read: impl FnOnce(RangeOptions) -> Result<RangeResult, Error>,
) -> Result<RangeResponse, RequestError> {
    let limit = if !is_default_ordering(request) || has_revision_filters(request) {
        0
    } else if request.limit > 0 {
        // one more tells whether there are more
        request.limit.saturating_add(1)
    } else {
        0
    };
    let mut result = read(RangeOptions {
        limit,
        revision: request.revision,
        count_only: request.count_only,
        keys_only: request.keys_only && request.sort_target != SortTarget::Value as i32,
        skip_total: piece != Piece::Whole,
        bytes_max: match piece {
            Piece::Whole => 0,
            Piece::Chunk { bytes_max } => bytes_max,
        },
    })?;
    if has_revision_filters(request) {
        result.kvs.retain(|kv| passes(request, kv));
    }
    sort(request, &mut result.kvs);
    let mut more = result.cut;
    if let Ok(limit) = usize::try_from(request.limit)
        && limit > 0
        && result.kvs.len() > limit
    {
        result.kvs.truncate(limit);
        more = true;
    }
    if request.keys_only {
        for kv in &mut result.kvs {
            kv.value = Bytes::new();
        }
    }
    Ok(RangeResponse {
        header: header(result.revision),
        kvs: result.kvs,
        more,
        count: result.count,
    })
}

fn passes(request: &RangeRequest, kv: &KeyValue) -> bool {
    let within = |at: i64, min: i64, max: i64| (min == 0 || at >= min) && (max == 0 || at <= max);
    within(
        kv.mod_revision,
        request.min_mod_revision,
        request.max_mod_revision,
    ) && within(
        kv.create_revision,
        request.min_create_revision,
        request.max_create_revision,
    )
}

/// Sorts as asked; no order with another target than the key is ascending.
fn sort(request: &RangeRequest, kvs: &mut [KeyValue]) {
    let order = SortOrder::try_from(request.sort_order).unwrap_or_default();
    let target = SortTarget::try_from(request.sort_target).unwrap_or_default();
    if target == SortTarget::Key && order != SortOrder::Descend {
        return; // the store's own order
    }
    let by = |a: &KeyValue, b: &KeyValue| -> Ordering {
        match target {
            SortTarget::Key => a.key.cmp(&b.key),
            SortTarget::Version => a.version.cmp(&b.version),
            SortTarget::Create => a.create_revision.cmp(&b.create_revision),
            SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
            SortTarget::Value => a.value.cmp(&b.value),
        }
    };
    match order {
        SortOrder::Descend => kvs.sort_by(|a, b| by(b, a)),
        SortOrder::None | SortOrder::Ascend => kvs.sort_by(by),
    }
}
