//! Executing what the log ordered, and read-only transactions.
//!
//! Deterministic: compares and checks of a transaction look only at the replicated state before it,
//! then everything is executed and cannot be refused any more. `compacted` is the logical revision,
//! the same on all members, never what is physically gone.

use std::cell::Cell;
use std::cmp::Ordering;

use bytes::Bytes;
use ferrite_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use ferrite_proto::etcdserverpb::request_op::Request;
use ferrite_proto::etcdserverpb::response_op::Response;
use ferrite_proto::etcdserverpb::{
    CompactionRequest, CompactionResponse, Compare, DeleteRangeRequest, DeleteRangeResponse,
    PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp, ResponseHeader, ResponseOp,
    TxnRequest, TxnResponse,
};
use ferrite_proto::mvccpb::KeyValue;

use super::range::{Piece, again_if_current, execute};
use super::{RequestError, header};
use crate::range::{RangeOptions, RangeResult};
use crate::store::{Error, Leases, Store};
use crate::write::{Changes, WriteTxn};

/// Executes a put.
///
/// # Errors
/// Lease or (with `ignore_*`) key not found; the database is damaged.
pub fn apply_put(
    store: &Store,
    put: &PutRequest,
    leases: &mut dyn Leases,
) -> Result<(PutResponse, Changes), RequestError> {
    check_lease(put, leases)?;
    let mut txn = store.write();
    let previous = previous_of(put, |key, options| txn.range(key, &[], options))?;
    if needs_key(put) && previous.is_none() {
        return Err(RequestError::KeyNotFound);
    }
    let response = execute_put(&mut txn, put, previous, leases);
    Ok((response, txn.end()))
}

/// Executes a deletion.
///
/// # Errors
/// The database is damaged.
pub fn apply_delete_range(
    store: &Store,
    delete: &DeleteRangeRequest,
    leases: &mut dyn Leases,
) -> Result<(DeleteRangeResponse, Changes), RequestError> {
    let mut txn = store.write();
    let response = execute_delete(&mut txn, delete, leases)?;
    Ok((response, txn.end()))
}

/// Executes a transaction. With `skip_range`, on members no client waits at, its ranges are checked
/// but not read.
///
/// # Errors
/// A check of a branch taken fails, and nothing is changed; or the database is damaged.
pub fn apply_txn(
    store: &Store,
    request: &TxnRequest,
    leases: &mut dyn Leases,
    skip_range: bool,
) -> Result<(TxnResponse, Changes), RequestError> {
    let mut txn = store.write();
    let before = &mut |key: &[u8], end: &[u8], options| txn.range(key, end, options);
    let plan = plan(request, before)?;
    check_plan(&plan, store.bounds(), leases, before)?;
    txn.decided();
    let mut response = execute_plan(&mut txn, &plan, leases, skip_range)?;
    let changes = txn.end();
    response.header = header(changes.revision);
    Ok((response, changes))
}

/// Executes a read-only transaction on the current state, at one revision.
///
/// # Errors
/// A range's revision is compacted or in the future, the database is damaged, or the transaction is
/// not read-only (then as an empty operation is answered).
pub fn range_txn(store: &Store, request: &TxnRequest) -> Result<TxnResponse, RequestError> {
    again_if_current(0, || range_txn_once(store, request))
}

fn range_txn_once(store: &Store, request: &TxnRequest) -> Result<TxnResponse, RequestError> {
    let (compacted, current) = store.bounds();
    let reads = Cell::new(0);
    let read = &mut |key: &[u8], end: &[u8], options: RangeOptions| {
        store.tally.ranges.inc();
        reads.set(reads.get() + 1);
        store.range_at(crate::index::Span::new(key, end), options, Some(current))
    };
    let plan = plan(request, read)?;
    let mut responses = Vec::with_capacity(plan.ops.len());
    for op in &plan.ops {
        let PlannedOp::Range(range) = op else {
            return Err(RequestError::KeyNotFound);
        };
        check_revision(range, compacted, current)?;
        let response = execute(range, Piece::Whole, |options| {
            read(&range.key, &range.range_end, options)
        })?;
        responses.push(ResponseOp {
            response: Some(Response::ResponseRange(response)),
        });
    }
    if reads.get() > 1 {
        store.tally.txns.inc();
    }
    Ok(TxnResponse {
        header: header(current),
        succeeded: plan.succeeded,
        responses,
    })
}

/// Executes a compaction, logically; the garbage goes by
/// [`compaction_step`](crate::Store::compaction_step).
///
/// # Errors
/// Compacted already, or in the future.
pub fn compact(
    store: &Store,
    request: &CompactionRequest,
) -> Result<CompactionResponse, RequestError> {
    store.compact(request.revision)?;
    // The original reads a key to learn the revision, and whoever compares figures sees that.
    store.tally.ranges.inc();
    Ok(CompactionResponse {
        header: header(store.current_revision()),
    })
}

/// Whether a transaction holds nothing but plain ranges: it need not go through the log.
pub fn is_txn_readonly(txn: &TxnRequest) -> bool {
    all_ranges(txn, |_| true)
}

/// Whether a transaction holds nothing but serializable ranges: any member may answer by itself.
pub fn is_txn_serializable(txn: &TxnRequest) -> bool {
    all_ranges(txn, |range| range.serializable)
}

fn all_ranges(txn: &TxnRequest, check: impl Fn(&RangeRequest) -> bool) -> bool {
    txn.success.iter().chain(&txn.failure).all(|op| {
        let Some(Request::RequestRange(range)) = &op.request else {
            return false;
        };
        check(range)
    })
}

/// How the state before a transaction is read.
type Read<'r> = dyn FnMut(&[u8], &[u8], RangeOptions) -> Result<RangeResult, Error> + 'r;

/// A transaction whose compares are decided: the operations of the branches taken.
struct Plan<'a> {
    succeeded: bool,
    ops: Vec<PlannedOp<'a>>,
}

enum PlannedOp<'a> {
    Range(&'a RangeRequest),
    Put(&'a PutRequest),
    Delete(&'a DeleteRangeRequest),
    Txn(Plan<'a>),
    Empty,
}

/// Decides all compares, nested ones included, on the state before the transaction.
fn plan<'a>(txn: &'a TxnRequest, read: &mut Read<'_>) -> Result<Plan<'a>, RequestError> {
    let mut succeeded = true;
    for compare in &txn.compare {
        if !holds(compare, read)? {
            succeeded = false;
            break;
        }
    }
    let branch: &[RequestOp] = if succeeded {
        &txn.success
    } else {
        &txn.failure
    };
    let mut ops = Vec::with_capacity(branch.len());
    for op in branch {
        ops.push(match &op.request {
            Some(Request::RequestRange(range)) => PlannedOp::Range(range),
            Some(Request::RequestPut(put)) => PlannedOp::Put(put),
            Some(Request::RequestDeleteRange(delete)) => PlannedOp::Delete(delete),
            Some(Request::RequestTxn(nested)) => PlannedOp::Txn(plan(nested, read)?),
            None => PlannedOp::Empty,
        });
    }
    Ok(Plan { succeeded, ops })
}

fn holds(compare: &Compare, read: &mut Read<'_>) -> Result<bool, RequestError> {
    let target = CompareTarget::try_from(compare.target).ok();
    // the index knows all but value and lease
    let keys_only = !matches!(target, Some(CompareTarget::Value | CompareTarget::Lease));
    let options = RangeOptions {
        keys_only,
        ..RangeOptions::default()
    };
    let found = read(&compare.key, &compare.range_end, options)?.kvs;
    if found.is_empty() {
        // there is no way to name a missing value
        return Ok(target != Some(CompareTarget::Value)
            && holds_for(compare, target, &KeyValue::default()));
    }
    Ok(found.iter().all(|kv| holds_for(compare, target, kv)))
}

/// A union field other than the target's compares as zero, an unknown target as equal, and an
/// unknown result holds.
fn holds_for(compare: &Compare, target: Option<CompareTarget>, kv: &KeyValue) -> bool {
    let union = compare.target_union.as_ref();
    let order = match target {
        Some(CompareTarget::Value) => {
            let value: &[u8] = match union {
                Some(TargetUnion::Value(value)) => value,
                _ => &[],
            };
            kv.value[..].cmp(value)
        }
        Some(CompareTarget::Create) => kv.create_revision.cmp(&match union {
            Some(&TargetUnion::CreateRevision(revision)) => revision,
            _ => 0,
        }),
        Some(CompareTarget::Mod) => kv.mod_revision.cmp(&match union {
            Some(&TargetUnion::ModRevision(revision)) => revision,
            _ => 0,
        }),
        Some(CompareTarget::Version) => kv.version.cmp(&match union {
            Some(&TargetUnion::Version(version)) => version,
            _ => 0,
        }),
        Some(CompareTarget::Lease) => kv.lease.cmp(&match union {
            Some(&TargetUnion::Lease(lease)) => lease,
            _ => 0,
        }),
        None => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => order.is_eq(),
        Ok(CompareResult::NotEqual) => order.is_ne(),
        Ok(CompareResult::Greater) => order.is_gt(),
        Ok(CompareResult::Less) => order.is_lt(),
        Err(_) => true,
    }
}

/// Checks the branches taken on the state before the transaction.
fn check_plan(
    plan: &Plan<'_>,
    (compacted, current): (i64, i64),
    leases: &dyn Leases,
    read: &mut Read<'_>,
) -> Result<(), RequestError> {
    for op in &plan.ops {
        match op {
            PlannedOp::Range(range) => check_revision(range, compacted, current)?,
            PlannedOp::Put(put) => {
                check_lease(put, leases)?;
                if needs_key(put) {
                    let options = RangeOptions {
                        count_only: true,
                        ..RangeOptions::default()
                    };
                    if read(&put.key, &[], options)?.count == 0 {
                        return Err(RequestError::KeyNotFound);
                    }
                }
            }
            PlannedOp::Txn(nested) => check_plan(nested, (compacted, current), leases, read)?,
            PlannedOp::Delete(_) | PlannedOp::Empty => {}
        }
    }
    Ok(())
}

fn check_revision(range: &RangeRequest, compacted: i64, current: i64) -> Result<(), RequestError> {
    if range.revision == 0 {
        Ok(())
    } else if range.revision > current {
        Err(RequestError::FutureRevision)
    } else if range.revision < compacted {
        Err(RequestError::Compacted)
    } else {
        Ok(())
    }
}

fn execute_plan(
    txn: &mut WriteTxn<'_>,
    plan: &Plan<'_>,
    leases: &mut dyn Leases,
    skip_range: bool,
) -> Result<TxnResponse, RequestError> {
    let mut responses = Vec::with_capacity(plan.ops.len());
    for op in &plan.ops {
        let response = match op {
            PlannedOp::Range(_) if skip_range => Some(Response::ResponseRange(RangeResponse {
                header: header(txn.revision()),
                ..RangeResponse::default()
            })),
            PlannedOp::Range(range) => Some(Response::ResponseRange(execute(
                range,
                Piece::Whole,
                |options| txn.range(&range.key, &range.range_end, options),
            )?)),
            PlannedOp::Put(put) => {
                let previous = previous_of(put, |key, options| txn.range(key, &[], options))?;
                Some(Response::ResponsePut(execute_put(
                    txn, put, previous, leases,
                )))
            }
            PlannedOp::Delete(delete) => Some(Response::ResponseDeleteRange(execute_delete(
                txn, delete, leases,
            )?)),
            PlannedOp::Txn(nested) => Some(Response::ResponseTxn(execute_plan(
                txn, nested, leases, skip_range,
            )?)),
            PlannedOp::Empty => None,
        };
        responses.push(ResponseOp { response });
    }
    Ok(TxnResponse {
        // a nested response has an empty one; the outer one's revision is set at the end
        header: Some(ResponseHeader::default()),
        succeeded: plan.succeeded,
        responses,
    })
}

fn needs_key(put: &PutRequest) -> bool {
    put.ignore_value || put.ignore_lease
}

fn check_lease(put: &PutRequest, leases: &dyn Leases) -> Result<(), RequestError> {
    if put.lease != 0 && !leases.exists(put.lease) {
        return Err(RequestError::LeaseNotFound);
    }
    Ok(())
}

fn previous_of(
    put: &PutRequest,
    read: impl FnOnce(&[u8], RangeOptions) -> Result<RangeResult, Error>,
) -> Result<Option<KeyValue>, RequestError> {
    if !needs_key(put) && !put.prev_kv {
        return Ok(None);
    }
    Ok(read(&put.key, RangeOptions::default())?.kvs.pop())
}

/// Puts. The key that `ignore_*` needs was there before the transaction; should the transaction
/// itself have deleted it (one that the double-write check lets pass), value and lease are empty.
fn execute_put(
    txn: &mut WriteTxn<'_>,
    put: &PutRequest,
    previous: Option<KeyValue>,
    leases: &mut dyn Leases,
) -> PutResponse {
    let value = match &previous {
        Some(previous) if put.ignore_value => previous.value.clone(),
        None if put.ignore_value => Bytes::new(),
        _ => put.value.clone(),
    };
    let lease = match &previous {
        Some(previous) if put.ignore_lease => previous.lease,
        None if put.ignore_lease => 0,
        _ => put.lease,
    };
    let revision = txn.put(&put.key, &value, lease, leases);
    PutResponse {
        header: header(revision),
        prev_kv: previous.filter(|_| put.prev_kv),
    }
}

fn execute_delete(
    txn: &mut WriteTxn<'_>,
    delete: &DeleteRangeRequest,
    leases: &mut dyn Leases,
) -> Result<DeleteRangeResponse, RequestError> {
    let prev_kvs = if delete.prev_kv {
        let options = RangeOptions::default();
        txn.range(&delete.key, &delete.range_end, options)?.kvs
    } else {
        Vec::new()
    };
    let deleted = txn.delete_range(&delete.key, &delete.range_end, leases);
    Ok(DeleteRangeResponse {
        header: header(txn.revision()),
        deleted,
        prev_kvs,
    })
}
