//! What a request means for pairs that are known: a member's answer, worked out here.

use bytes::Bytes;
use ferrite_client::pb::compare::{CompareResult, CompareTarget, TargetUnion};
use ferrite_client::pb::range_request::{SortOrder, SortTarget};
use ferrite_client::pb::{self, request_op, response_op};
use ferrite_proto::mvccpb::KeyValue;

use super::table::Owned;

/// Whether a read is of one key as it is now, with nothing in it that only a member can judge.
#[must_use]
pub fn is_simple(request: &pb::RangeRequest) -> bool {
    !request.key.is_empty()
        && request.range_end.is_empty()
        && request.revision == 0
        && SortOrder::try_from(request.sort_order).is_ok()
        && SortTarget::try_from(request.sort_target).is_ok()
}

/// The answer to a read of one key that holds this.
#[must_use]
pub fn answer(
    request: &pb::RangeRequest,
    header: pb::ResponseHeader,
    pair: Option<&KeyValue>,
) -> pb::RangeResponse {
    let within = |least: i64, most: i64, revision: i64| {
        (least == 0 || revision >= least) && (most == 0 || revision <= most)
    };
    let wanted = pair.filter(|pair| {
        let (modified, created) = (pair.mod_revision, pair.create_revision);
        !request.count_only
            && within(request.min_mod_revision, request.max_mod_revision, modified)
            && within(
                request.min_create_revision,
                request.max_create_revision,
                created,
            )
    });
    let shown = wanted.map(|pair| KeyValue {
        value: match request.keys_only {
            true => Bytes::new(),
            false => pair.value.clone(),
        },
        ..pair.clone()
    });
    pb::RangeResponse {
        header: Some(header),
        kvs: shown.into_iter().collect(),
        more: false,
        count: i64::from(pair.is_some()),
    }
}

/// The answer to a transaction, where every key that it looks at is known and it writes none.
pub fn transact<'a>(
    txn: &pb::TxnRequest,
    known: impl Fn(&[u8]) -> Option<&'a Owned>,
) -> Option<pb::TxnResponse> {
    let mut newest = pb::ResponseHeader::default();
    let mut look = |key: &[u8]| {
        let owned = known(key)?;
        if owned.header.revision > newest.revision {
            newest = owned.header;
        }
        Some(owned)
    };
    let mut succeeded = true;
    for compare in &txn.compare {
        if compare.key.is_empty() || !compare.range_end.is_empty() {
            return None;
        }
        let owned = look(&compare.key)?;
        succeeded &= holds(compare, owned.pair.as_ref())?;
    }
    let taken = match succeeded {
        true => &txn.success,
        false => &txn.failure,
    };
    let mut answers = Vec::with_capacity(taken.len());
    for operation in taken {
        let Some(request_op::Request::RequestRange(range)) = &operation.request else {
            return None;
        };
        if !is_simple(range) {
            return None;
        }
        let owned = look(&range.key)?;
        answers.push(answer(range, owned.header, owned.pair.as_ref()));
    }
    // What looks at nothing has no revision.
    if newest.revision == 0 {
        return None;
    }
    let responses = answers.into_iter().map(|mut answer| {
        // As in a member's answer: the parts of a transaction have its revision, and nothing else.
        answer.header = Some(pb::ResponseHeader {
            revision: newest.revision,
            ..Default::default()
        });
        pb::ResponseOp {
            response: Some(response_op::Response::ResponseRange(answer)),
        }
    });
    Some(pb::TxnResponse {
        responses: responses.collect(),
        header: Some(newest),
        succeeded,
    })
}

/// Whether a comparison holds; `None` for one that only a member can judge.
fn holds(compare: &pb::Compare, pair: Option<&KeyValue>) -> Option<bool> {
    let target = CompareTarget::try_from(compare.target).ok()?;
    let result = CompareResult::try_from(compare.result).ok()?;
    let wanted = |pick: fn(&TargetUnion) -> Option<i64>| {
        compare.target_union.as_ref().and_then(pick).unwrap_or(0)
    };
    let number = |pick: fn(&KeyValue) -> i64| pair.map_or(0, pick);
    let order = match target {
        CompareTarget::Value => {
            // A key that is not there has no value, not even the empty one.
            let Some(pair) = pair else {
                return Some(false);
            };
            let value = match &compare.target_union {
                Some(TargetUnion::Value(value)) => &value[..],
                _ => b"",
            };
            pair.value[..].cmp(value)
        }
        CompareTarget::Version => number(|pair| pair.version).cmp(&wanted(|target| match target {
            TargetUnion::Version(version) => Some(*version),
            _ => None,
        })),
        CompareTarget::Create => {
            number(|pair| pair.create_revision).cmp(&wanted(|target| match target {
                TargetUnion::CreateRevision(revision) => Some(*revision),
                _ => None,
            }))
        }
        CompareTarget::Mod => {
            number(|pair| pair.mod_revision).cmp(&wanted(|target| match target {
                TargetUnion::ModRevision(revision) => Some(*revision),
                _ => None,
            }))
        }
        CompareTarget::Lease => number(|pair| pair.lease).cmp(&wanted(|target| match target {
            TargetUnion::Lease(lease) => Some(*lease),
            _ => None,
        })),
    };
    Some(match result {
        CompareResult::Equal => order.is_eq(),
        CompareResult::NotEqual => order.is_ne(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
    })
}
