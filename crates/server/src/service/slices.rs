//! A large range, read in slices between which others on the same thread have their turn.
//!
//! Many clients share a thread, so that one who asks for a hundred megabytes must not make them wait for
//! all of it. What is answered is what one read would find: every slice is of the revision of the first.

use std::time::Instant;

use ferrite_mvcc::{RequestError, Store, kv};
use ferrite_proto::etcdserverpb::{RangeRequest, RangeResponse};
use tokio::sync::Semaphore;
use tonic::Status;

use super::range_stream::after;
use crate::errors;

/// Keys of a slice: one that is smaller altogether is read at once.
const SLICE_KEYS: i64 = 1_000;
/// Bytes of keys and values after which a slice ends.
const SLICE_BYTES: usize = 256 << 10;

/// Large ranges that are read at the same time, by all threads; one takes all the time that a core has.
static AT_ONCE: Semaphore = Semaphore::const_new(16);

/// Why a range was not read to its end.
enum Broken {
    Refused(RequestError),
    /// Nobody waits for it any more.
    Late,
}

impl From<RequestError> for Broken {
    fn from(error: RequestError) -> Self {
        Broken::Refused(error)
    }
}

/// Executes a range, unless its caller's time is up before.
///
/// # Errors
/// The status to answer with.
pub async fn range(
    store: &Store,
    request: &RangeRequest,
    deadline: Option<Instant>,
) -> Result<RangeResponse, Status> {
    let small = request.range_end.is_empty()
        || request.count_only
        || (1..=SLICE_KEYS).contains(&request.limit);
    // another order, or a filter, needs all of it at once
    if small || !in_key_order(request) {
        return kv::range(store, request).map_err(|error| errors::request(&error));
    }
    match sliced(store, request, deadline).await {
        // a compaction overtook a read of what is newest: it begins again, newer
        Err(Broken::Refused(RequestError::Compacted)) if request.revision <= 0 => {
            kv::range(store, request).map_err(|error| errors::request(&error))
        }
        Err(Broken::Refused(error)) => Err(errors::request(&error)),
        Err(Broken::Late) => Err(errors::late_range()),
        Ok(found) => Ok(found),
    }
}

fn in_key_order(request: &RangeRequest) -> bool {
    kv::is_default_ordering(request)
        && request.sort_target == 0
        && !kv::has_revision_filters(request)
}

async fn sliced(
    store: &Store,
    request: &RangeRequest,
    deadline: Option<Instant>,
) -> Result<RangeResponse, Broken> {
    // Many half-read ranges are as much memory as many that are read; whoever waits here holds nothing.
    let _turn = AT_ONCE.acquire().await.ok();
    let wanted = match request.limit {
        limit if limit > 0 => limit,
        _ => i64::MAX,
    };
    let mut slice = RangeRequest {
        limit: SLICE_KEYS.min(wanted),
        ..request.clone()
    };
    let mut found = kv::range_chunk(store, &slice, SLICE_BYTES)?;
    let mut count = length(&found);
    if !found.more {
        found.count = count;
        return Ok(found);
    }
    slice.revision = match request.revision {
        revision if revision > 0 => revision,
        _ => found.header.map_or(0, |header| header.revision),
    };
    // What lies beyond a limit is counted while that takes no walk: before anything newer is written.
    let total = match wanted {
        i64::MAX => None,
        _ => Some(kv::count(
            store,
            &request.key,
            &request.range_end,
            slice.revision,
        )?),
    };
    while found.more && count < wanted {
        tokio::task::yield_now().await;
        if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return Err(Broken::Late);
        }
        let Some(last) = found.kvs.last() else { break };
        slice.key = after(&last.key);
        slice.limit = SLICE_KEYS.min(wanted - count);
        let next = kv::range_next_chunk(store, &slice, SLICE_BYTES)?;
        count += length(&next);
        found.kvs.extend(next.kvs);
        found.more = next.more;
    }
    if let Some(total) = total {
        // a slice that its bytes ended does not know whether it was the last
        found.more = total > count;
    }
    found.count = total.unwrap_or(count);
    Ok(found)
}

fn length(found: &RangeResponse) -> i64 {
    i64::try_from(found.kvs.len()).unwrap_or(i64::MAX)
}
