//! What is refused before it is proposed: malformed requests.

use std::collections::{BTreeMap, BTreeSet};

use ferrite_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use ferrite_proto::etcdserverpb::request_op::Request;
use ferrite_proto::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

use super::RequestError;
use super::range::{has_revision_filters, is_default_ordering};

/// Checks a range.
///
/// # Errors
/// No key, or an unknown sort option.
pub fn check_range(range: &RangeRequest) -> Result<(), RequestError> {
    if range.key.is_empty() {
        return Err(RequestError::EmptyKey);
    }
    if SortOrder::try_from(range.sort_order).is_err()
        || SortTarget::try_from(range.sort_target).is_err()
    {
        return Err(RequestError::InvalidSortOption);
    }
    Ok(())
}

/// Checks a streamed range.
///
/// # Errors
/// As [`check_range`], and for orders and filters that cannot be streamed.
pub fn check_range_stream(range: &RangeRequest) -> Result<(), RequestError> {
    check_range(range)?;
    if !is_default_ordering(range) {
        return Err(RequestError::StreamSort);
    }
    if has_revision_filters(range) {
        return Err(RequestError::StreamFilter);
    }
    Ok(())
}

/// Checks a put.
///
/// # Errors
/// No key, or a value or lease that is to be ignored.
pub fn check_put(put: &PutRequest) -> Result<(), RequestError> {
    if put.key.is_empty() {
        return Err(RequestError::EmptyKey);
    }
    if put.ignore_value && !put.value.is_empty() {
        return Err(RequestError::ValueProvided);
    }
    if put.ignore_lease && put.lease != 0 {
        return Err(RequestError::LeaseProvided);
    }
    Ok(())
}

/// Checks a deletion.
///
/// # Errors
/// No key.
pub fn check_delete(delete: &DeleteRangeRequest) -> Result<(), RequestError> {
    if delete.key.is_empty() {
        return Err(RequestError::EmptyKey);
    }
    Ok(())
}

/// Checks a transaction with all it nests: `max_txn_ops` compares or operations a level, a nested
/// one having what its parent leaves, and no key written twice in one branch.
///
/// # Errors
/// The first fault found.
pub fn check_txn(txn: &TxnRequest, max_txn_ops: usize) -> Result<(), RequestError> {
    check_level(txn, max_txn_ops)?;
    writes(&txn.success)?;
    writes(&txn.failure)?;
    Ok(())
}

fn check_level(txn: &TxnRequest, max_ops: usize) -> Result<(), RequestError> {
    let widest = txn
        .compare
        .len()
        .max(txn.success.len())
        .max(txn.failure.len());
    let Some(left) = max_ops.checked_sub(widest) else {
        return Err(RequestError::TooManyOps);
    };
    if txn.compare.iter().any(|c| c.key.is_empty()) {
        return Err(RequestError::EmptyKey);
    }
    txn.success
        .iter()
        .chain(&txn.failure)
        .try_for_each(|op| check_op(op, left))
}

fn check_op(op: &RequestOp, max_ops: usize) -> Result<(), RequestError> {
    match &op.request {
        Some(Request::RequestRange(range)) => check_range(range),
        Some(Request::RequestPut(put)) => check_put(put),
        Some(Request::RequestDeleteRange(delete)) => check_delete(delete),
        Some(Request::RequestTxn(txn)) => check_level(txn, max_ops),
        None => Err(RequestError::KeyNotFound),
    }
}

/// Keys put and ranges deleted by one branch.
#[derive(Default)]
struct Writes<'a> {
    puts: BTreeSet<&'a [u8]>,
    deletes: Ranges<'a>,
}

/// A union of key ranges, as disjoint pieces: begin → end.
#[derive(Default)]
struct Ranges<'a> {
    pieces: BTreeMap<&'a [u8], End<'a>>,
}

/// End of a piece, in the order of the keys it excludes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End<'a> {
    /// Just after this key.
    After(&'a [u8]),
    /// Just before this key.
    Before(&'a [u8]),
}

impl End<'_> {
    fn covers(self, key: &[u8]) -> bool {
        match self {
            End::After(last) => key <= last,
            End::Before(end) => key < end,
        }
    }

    fn later(self, other: Self) -> Self {
        let (key, inclusive) = match other {
            End::After(last) => (last, true),
            End::Before(end) => (end, false),
        };
        let reaches = match (self, inclusive) {
            (End::Before(end), false) => end >= key,
            (End::Before(end), true) => end > key,
            (End::After(last), true) => last >= key,
            (End::After(last), false) => last >= key,
        };
        if reaches { self } else { other }
    }
}

impl<'a> Ranges<'a> {
    fn covers(&self, key: &[u8]) -> bool {
        let before = self.pieces.range::<&[u8], _>(..=key).next_back();
        before.is_some_and(|(_, end)| end.covers(key))
    }

    fn add(&mut self, mut begin: &'a [u8], mut end: End<'a>) {
        if !end.covers(begin) {
            return; // empty, as is one that ends in a zero byte
        }
        if let Some((&first, &reach)) = self.pieces.range::<&[u8], _>(..=begin).next_back()
            && reach.covers(begin)
        {
            begin = first;
            end = end.later(reach);
        }
        loop {
            let next = self.pieces.range::<&[u8], _>(begin..).next();
            let Some((&first, &reach)) = next.filter(|(first, _)| end.covers(first)) else {
                break;
            };
            end = end.later(reach);
            self.pieces.remove(first);
        }
        self.pieces.insert(begin, end);
    }

    fn add_all(&mut self, other: Ranges<'a>) {
        for (begin, end) in other.pieces {
            self.add(begin, end);
        }
    }
}

/// Collects what a branch writes, refusing double writes.
///
/// The order is the original's and decides what it lets pass: this level's deletes, then nested
/// transactions in order (whose deletes count only for what comes after them), then this level's
/// puts. A delete that ends in one zero byte is an empty range here.
fn writes(ops: &[RequestOp]) -> Result<Writes<'_>, RequestError> {
    let mut all = Writes::default();
    for op in ops {
        if let Some(Request::RequestDeleteRange(delete)) = &op.request {
            let end = if delete.range_end.is_empty() {
                End::After(&delete.key)
            } else {
                End::Before(&delete.range_end)
            };
            all.deletes.add(&delete.key, end);
        }
    }
    for op in ops {
        let Some(Request::RequestTxn(txn)) = &op.request else {
            continue;
        };
        let then = writes(&txn.success)?;
        let otherwise = writes(&txn.failure)?;
        for &key in &then.puts {
            if all.puts.contains(key) || all.deletes.covers(key) {
                return Err(RequestError::DuplicateKey);
            }
        }
        for &key in &otherwise.puts {
            // only one of the two branches runs
            if all.puts.contains(key) || all.deletes.covers(key) {
                return Err(RequestError::DuplicateKey);
            }
        }
        all.puts.extend(then.puts);
        all.puts.extend(otherwise.puts);
        all.deletes.add_all(then.deletes);
        all.deletes.add_all(otherwise.deletes);
    }
    for op in ops {
        if let Some(Request::RequestPut(put)) = &op.request
            && (all.deletes.covers(&put.key) || !all.puts.insert(&put.key))
        {
            return Err(RequestError::DuplicateKey);
        }
    }
    Ok(all)
}
