//! Who holds a name: the keys under it, in the order in which they were created.
//!
//! A contender's key is the name, a slash, and its lease. The oldest key holds the name; each contender
//! waits for the one just before it, so that a release wakes one and not all.

use bytes::Bytes;
use ferrite_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use ferrite_proto::etcdserverpb::range_request::{SortOrder, SortTarget};
use ferrite_proto::etcdserverpb::request_op::Request as Op;
use ferrite_proto::etcdserverpb::response_op::Response as OpResponse;
use ferrite_proto::etcdserverpb::{
    Compare, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnResponse,
};
use ferrite_proto::mvccpb::event::EventType;
use tonic::Status;

use super::inside::{Heard, Inside};

/// Where the keys of a name begin.
pub fn prefix(name: &[u8]) -> Bytes {
    [name, b"/"].concat().into()
}

/// Where they end: the slash that every prefix ends with, plus one.
pub fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    if let Some(slash) = end.last_mut() {
        *slash += 1;
    }
    end.into()
}

/// A contender's key.
pub fn key(prefix: &[u8], lease: i64) -> Bytes {
    let sign = if lease < 0 { "-" } else { "" };
    let lease = format!("{sign}{:x}", lease.unsigned_abs());
    [prefix, lease.as_bytes()].concat().into()
}

/// The key was created at this revision; 0: it is not there.
pub fn created_at(key: Bytes, revision: i64) -> Compare {
    Compare {
        result: CompareResult::Equal as i32,
        target: CompareTarget::Create as i32,
        key,
        target_union: Some(TargetUnion::CreateRevision(revision)),
        ..Compare::default()
    }
}

/// A put with a lease, in a transaction.
pub fn put(key: Bytes, value: Bytes, lease: i64) -> RequestOp {
    RequestOp {
        request: Some(Op::RequestPut(PutRequest {
            key,
            value,
            lease,
            ..PutRequest::default()
        })),
    }
}

/// One key, in a transaction.
pub fn get(key: Bytes) -> RequestOp {
    RequestOp {
        request: Some(Op::RequestRange(RangeRequest {
            key,
            ..RangeRequest::default()
        })),
    }
}

/// The holder of a name.
pub fn holder(prefix: &Bytes) -> RangeRequest {
    RangeRequest {
        key: prefix.clone(),
        range_end: prefix_end(prefix),
        limit: 1,
        sort_order: SortOrder::Ascend as i32,
        sort_target: SortTarget::Create as i32,
        ..RangeRequest::default()
    }
}

/// The answer to a read in a transaction.
pub fn read_at(response: &TxnResponse, place: usize) -> Option<&RangeResponse> {
    match response.responses.get(place)?.response.as_ref()? {
        OpResponse::ResponseRange(range) => Some(range),
        _ => None,
    }
}

/// Waits until no key under the prefix is older than the one created at `own_revision`.
///
/// # Errors
/// What a read or a watch is refused with.
pub async fn wait_for_turn(
    inside: &Inside,
    prefix: &Bytes,
    own_revision: i64,
) -> Result<(), Status> {
    loop {
        let before = inside
            .range_in_time(RangeRequest {
                max_create_revision: own_revision - 1,
                sort_order: SortOrder::Descend as i32,
                keys_only: true,
                ..holder(prefix)
            })
            .await?;
        let Some(last) = before.kvs.first() else {
            return Ok(());
        };
        let revision = before.header.map_or(0, |header| header.revision);
        until_deleted(inside, &last.key, revision).await?;
    }
}

/// Waits for a deletion at this revision or later; returns early when that is compacted.
async fn until_deleted(inside: &Inside, key: &[u8], revision: i64) -> Result<(), Status> {
    let mut watcher = inside.watch(key, &[], revision).await?;
    loop {
        for heard in watcher.next().await? {
            match heard {
                Heard::Compacted => return Ok(()),
                Heard::Events(_, events) => {
                    if events
                        .iter()
                        .any(|event| event.r#type() == EventType::Delete)
                    {
                        return Ok(());
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_originals() {
        assert_eq!(prefix(b"a/b"), &b"a/b/"[..]);
        assert_eq!(prefix_end(b"a/b/"), &b"a/b0"[..]);
        assert_eq!(
            key(b"n/", 0x694d_8f1c_0a2b_3c4d),
            &b"n/694d8f1c0a2b3c4d"[..]
        );
        assert_eq!(key(b"n/", -1), &b"n/-1"[..]);
        assert_eq!(key(b"n/", i64::MIN), &b"n/-8000000000000000"[..]);
    }
}
