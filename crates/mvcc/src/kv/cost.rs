//! How many bytes of quota a request is counted for.

use ferrite_proto::etcdserverpb::request_op::Request;
use ferrite_proto::etcdserverpb::{PutRequest, RequestOp, TxnRequest};

/// Counted for every put besides its key and value.
const PUT_OVERHEAD: u64 = 256;

/// Counted for a lease grant.
pub const LEASE_GRANT_COST: u64 = 64;

/// Bytes counted for a put.
pub fn put_cost(put: &PutRequest) -> u64 {
    PUT_OVERHEAD + put.key.len() as u64 + put.value.len() as u64
}

/// Bytes counted for a transaction: its dearer branch, nested transactions included. 0 when it puts
/// nothing.
pub fn txn_cost(txn: &TxnRequest) -> u64 {
    let sum = |ops: &[RequestOp]| ops.iter().map(op_cost).sum::<u64>();
    sum(&txn.success).max(sum(&txn.failure))
}

fn op_cost(op: &RequestOp) -> u64 {
    match &op.request {
        Some(Request::RequestPut(put)) => put_cost(put),
        Some(Request::RequestTxn(txn)) => txn_cost(txn),
        _ => 0,
    }
}
