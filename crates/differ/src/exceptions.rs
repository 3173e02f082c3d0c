//! What etcd itself changed between 3.5.1, which answers here, and 3.7.1, which we are held to; and
//! what neither version determines. Each exception names its row of the contract, and is as narrow as
//! the change.

use std::collections::{BTreeMap, BTreeSet};

use ferrite_client::pb::request_op::Request;
use ferrite_client::pb::response_op::Response;
use ferrite_client::{Code, pb};
use ferrite_proto::mvccpb::KeyValue;
use ferrite_proto::mvccpb::event::EventType;
use ferrite_testkit::Kind;

use crate::answer::Answer;
use crate::step::Call;
use crate::streams::Heard;

/// What an exception may look at.
pub(crate) struct Context<'a> {
    /// The request, with plain numbers.
    pub call: &'a Call,
    /// Every revision compacted at so far.
    pub compactions: &'a BTreeSet<i64>,
    /// Whom we are compared with.
    pub against: Kind,
}

/// One difference that is known and meant.
pub struct Exception {
    /// The row of `docs/compat.md`.
    pub row: &'static str,
    /// What differs, in a sentence.
    pub what: &'static str,
    /// Whom it is needed against.
    pub against: &'static [Kind],
    /// Makes the two answers comparable. Anything else about them is left alone.
    apply: fn(&Context<'_>, &mut Answer, &mut Answer),
}

/// What a transaction's operations can be refused for when it is applied.
const FAULTS: [&str; 4] = [
    "etcdserver: requested lease not found",
    "etcdserver: key not found",
    "etcdserver: mvcc: required revision has been compacted",
    "etcdserver: mvcc: required revision is a future revision",
];

/// What callers are told who are not known, or may not.
const STRANGERS: [&str; 3] = [
    "etcdserver: user name is empty",
    "etcdserver: invalid auth token",
    "etcdserver: permission denied",
];

const WATCH_DENIED: &str =
    "rpc error: code = PermissionDenied desc = etcdserver: permission denied";

/// Why a watcher is refused to a caller who is not known, or may not.
const WATCH_STRANGERS: [&str; 3] = [
    WATCH_DENIED,
    "rpc error: code = InvalidArgument desc = etcdserver: user name is empty",
    "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
];

/// All that are compared with.
const OLDER: &[Kind] = &[Kind::Etcd351, Kind::Etcd34];

/// All of them, but those on what watchers hear.
pub const LIST: &[Exception] = &[
    Exception {
        row: "GR-12",
        what: "alarms come without a header",
        against: &[Kind::Etcd34],
        apply: |_, ours, theirs| {
            if let (Answer::Alarms(our), Answer::Alarms(their)) = (ours, theirs)
                && their.header.is_none()
            {
                our.header = None;
            }
        },
    },
    Exception {
        row: "AU-16",
        what: "a simple token whose entry nobody has committed is refused at once, not waited for",
        against: OLDER,
        apply: |context, ours, theirs| {
            if let Call::FromTheFuture(_) = context.call
                && let Answer::Refused {
                    code: Code::Unauthenticated,
                    message,
                } = &*ours
                && message == "etcdserver: invalid auth token"
                && matches!(theirs, Answer::Silent)
            {
                *ours = Answer::Silent;
            }
        },
    },
    Exception {
        row: "KV-09",
        what: "keys-only ranges come from the index since 3.7 and show no lease, unless sorted by value",
        against: OLDER,
        apply: |context, _, theirs| {
            ranges(context.call, theirs, &mut |request, response| {
                if request.keys_only
                    && request.sort_target != pb::range_request::SortTarget::Value as i32
                {
                    for kv in &mut response.kvs {
                        kv.lease = 0;
                    }
                }
            });
        },
    },
    Exception {
        row: "KV-12",
        what: "a stream of ranges refuses sorting and filters by revision",
        against: OLDER,
        apply: |context, ours, theirs| {
            if let Call::Streamed(request) = context.call
                && let Answer::Refused {
                    code: Code::Unimplemented,
                    message,
                } = &*ours
                && (message.ends_with("sort orders") && sorted(request)
                    || message.ends_with("revision filters") && filtered(request))
            {
                *theirs = ours.clone();
            }
        },
    },
    Exception {
        row: "KV-40",
        what: "a stream sorted by something else than keys sorts each piece by itself, and counts on from its last key",
        against: OLDER,
        apply: |context, ours, theirs| {
            if let Call::Streamed(request) = context.call
                && request.sort_target != 0
                && let (Answer::Range(our), Answer::Range(their)) = (ours, theirs)
                && (their.count > STREAM_FIRST || their.more)
            {
                for response in [our, their] {
                    response.kvs.clear();
                    (response.count, response.more) = (0, false);
                }
            }
        },
    },
    Exception {
        row: "KV-05",
        what: "equal items have no order when there are seven or more of them to sort",
        against: OLDER,
        apply: |context, ours, theirs| {
            for answer in [ours, theirs] {
                ranges(context.call, answer, &mut blur_ties);
            }
        },
    },
    Exception {
        row: "KV-21",
        what: "of several faults of a transaction 3.7 names the first in order; 3.5.1 puts' before ranges', a put's key before its lease",
        against: OLDER,
        apply: |context, ours, theirs| {
            if matches!(context.call, Call::Txn(_))
                && let (
                    Answer::Refused { message: our, .. },
                    Answer::Refused { message: their, .. },
                ) = (&*ours, &*theirs)
                && [our, their]
                    .iter()
                    .all(|message| FAULTS.contains(&message.as_str()))
            {
                *theirs = ours.clone();
            }
        },
    },
    Exception {
        row: "MN-05",
        what: "HashKV names the revision it was computed at since 3.6",
        against: OLDER,
        apply: |_, ours, _| {
            if let Answer::HashKv(response) = ours {
                response.hash_revision = 0;
            }
        },
    },
    Exception {
        row: "MN-10",
        what: "the hash at a revision that was compacted at is remembered since 3.6, and its compact revision is the one before",
        against: OLDER,
        apply: |context, ours, theirs| {
            if let Call::HashKv(request) = context.call
                && context.compactions.contains(&request.revision)
                && let Answer::HashKv(response) = ours
            {
                match theirs {
                    Answer::HashKv(other) => {
                        response.compact_revision = 0;
                        other.compact_revision = 0;
                    }
                    other => *other = Answer::HashKv(*response),
                }
            }
        },
    },
    Exception {
        row: "LE-12",
        what: "questions about leases, members and the server need a user since 3.7, moving the leader needs root (also CL-09, MN-09); 3.5.1 asked for none",
        against: OLDER,
        apply: |context, ours, theirs| {
            let question = matches!(
                context.call,
                Call::TimeToLive(_)
                    | Call::Leases
                    | Call::KeepAlive(_)
                    | Call::Members(_)
                    | Call::Status
                    | Call::Alarm(_)
                    | Call::MoveLeader(_)
            );
            if question
                && let Answer::Refused { message, .. } = &*ours
                && STRANGERS.contains(&message.as_str())
            {
                *theirs = ours.clone();
            }
        },
    },
    Exception {
        row: "MN-09",
        what: "3.5.1 passes on the words of its store of users, as a code of its own, where maintenance is not permitted",
        against: OLDER,
        apply: |context, ours, theirs| {
            if matches!(
                context.call,
                Call::HashKv(_) | Call::Defragment | Call::MoveLeader(_)
            ) && let (
                Answer::Refused { message: our, .. },
                Answer::Refused {
                    code: Code::Unknown,
                    message: their,
                },
            ) = (&*ours, &*theirs)
                && our.strip_prefix("etcdserver: ") == their.strip_prefix("auth: ")
            {
                *theirs = ours.clone();
            }
        },
    },
    Exception {
        row: "WA-14",
        what: "3.5.1 calls every refusal of a watcher a lack of permission, under the ID that was asked for",
        against: OLDER,
        apply: |_, ours, theirs| {
            if let (Answer::Watch(our), Answer::Watch(their)) = (&*ours, &*theirs)
                && [our, their]
                    .iter()
                    .all(|response| response.created && response.canceled)
                && their.cancel_reason == WATCH_DENIED
                && WATCH_STRANGERS.contains(&our.cancel_reason.as_str())
            {
                *theirs = ours.clone();
            }
        },
    },
    Exception {
        row: "AU-12",
        what: "whether authentication is on may be asked by everybody since 3.7",
        against: OLDER,
        apply: |_, ours, theirs| {
            if let (Answer::AuthStatus(_), Answer::Refused { message, .. }) = (&*ours, &*theirs)
                && STRANGERS.contains(&message.as_str())
            {
                *theirs = ours.clone();
            }
        },
    },
    Exception {
        row: "AU-17",
        what: "role root shows its permission since 3.6",
        against: OLDER,
        apply: |context, ours, theirs| {
            if let Call::RoleGet(request) = context.call
                && request.role == "root"
                && let (Answer::Role(our), Answer::Role(their)) = (ours, theirs)
                && our.perm.len() == 1
                && their.perm.is_empty()
            {
                our.perm.clear();
            }
        },
    },
    Exception {
        row: "LE-06",
        what: "what is left of a lease depends on the moment",
        against: OLDER,
        apply: |_, ours, theirs| {
            /// Longer than a run between a grant and a question may take.
            const SLACK_SECONDS: i64 = 600;
            for answer in [ours, theirs] {
                if let Answer::TimeToLive(response) = answer
                    && (response.granted_ttl - SLACK_SECONDS..=response.granted_ttl)
                        .contains(&response.ttl)
                    && response.granted_ttl > 0
                {
                    response.ttl = response.granted_ttl;
                }
            }
        },
    },
];

/// Applies every exception; returns the rows that changed something.
pub(crate) fn settle(
    context: &Context<'_>,
    ours: &mut Answer,
    theirs: &mut Answer,
) -> Vec<&'static str> {
    if ours == theirs {
        return Vec::new();
    }
    LIST.iter()
        .filter(|exception| exception.against.contains(&context.against))
        .filter(|exception| {
            let before = (ours.clone(), theirs.clone());
            (exception.apply)(context, ours, theirs);
            before != (ours.clone(), theirs.clone())
        })
        .map(|exception| exception.row)
        .collect()
}

/// What watchers heard, by watcher.
pub(crate) type Ears = BTreeMap<i64, Vec<Heard>>;

/// KB-10 and KV-27: until 3.5.16 a compaction took the deletions at its own revision with it, and
/// with them the events of watchers that began there or before.
pub(crate) fn settle_heard(compactions: &BTreeSet<i64>, ours: &mut Ears, theirs: &Ears) -> bool {
    let mut applied = false;
    for (watcher, heard) in ours {
        let other = theirs.get(watcher);
        heard.retain(|one| {
            let lost = matches!(one, Heard::Event(event)
                if event.r#type == EventType::Delete as i32
                    && event.kv.as_ref().is_some_and(|kv| compactions.contains(&kv.mod_revision)))
                && !other.is_some_and(|other| other.contains(one));
            applied |= lost;
            !lost
        });
    }
    applied
}

/// Calls `f` with each range of the request and its answer, those of transactions included.
fn ranges(
    call: &Call,
    answer: &mut Answer,
    f: &mut dyn FnMut(&pb::RangeRequest, &mut pb::RangeResponse),
) {
    match (call, answer) {
        (Call::Range(request) | Call::Streamed(request), Answer::Range(response)) => {
            f(request, response);
        }
        (Call::Txn(request), Answer::Txn(response)) => in_txn(request, response, f),
        _ => {}
    }
}

fn in_txn(
    request: &pb::TxnRequest,
    response: &mut pb::TxnResponse,
    f: &mut dyn FnMut(&pb::RangeRequest, &mut pb::RangeResponse),
) {
    let taken = match response.succeeded {
        true => &request.success,
        false => &request.failure,
    };
    for (op, answer) in taken.iter().zip(&mut response.responses) {
        match (&op.request, &mut answer.response) {
            (Some(Request::RequestRange(request)), Some(Response::ResponseRange(response))) => {
                f(request, response);
            }
            (Some(Request::RequestTxn(request)), Some(Response::ResponseTxn(response))) => {
                in_txn(request, response, f);
            }
            _ => {}
        }
    }
}

/// Keys of a stream's first piece.
const STREAM_FIRST: i64 = 10;

fn sorted(request: &pb::RangeRequest) -> bool {
    use pb::range_request::{SortOrder, SortTarget};
    request.sort_order != SortOrder::None as i32
        && (request.sort_order != SortOrder::Ascend as i32
            || request.sort_target != SortTarget::Key as i32)
}

fn filtered(request: &pb::RangeRequest) -> bool {
    [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ]
    .iter()
    .any(|revision| *revision != 0)
}

/// Up to six items are sorted stably, and from then on not.
const STABLE_BELOW: i64 = 7;

fn blur_ties(request: &pb::RangeRequest, response: &mut pb::RangeResponse) {
    use pb::range_request::SortTarget;
    let Ok(target) = SortTarget::try_from(request.sort_target) else {
        return;
    };
    if target == SortTarget::Key || response.count < STABLE_BELOW {
        return;
    }
    let by = |kv: &KeyValue| match target {
        SortTarget::Key => Vec::new(),
        SortTarget::Version => kv.version.to_be_bytes().to_vec(),
        SortTarget::Create => kv.create_revision.to_be_bytes().to_vec(),
        SortTarget::Mod => kv.mod_revision.to_be_bytes().to_vec(),
        SortTarget::Value => kv.value.to_vec(),
    };
    let last = response.kvs.last().map(by);
    for group in response.kvs.chunk_by_mut(|a, b| by(a) == by(b)) {
        group.sort_by(|a, b| a.key.cmp(&b.key));
        if response.more && group.first().map(by) == last {
            // which of these are within the limit is open
            for kv in group {
                *kv = KeyValue::default();
            }
        }
    }
}
