//! The line about a request that took too long to apply, or to read. It only tells; it decides nothing.

use std::time::Duration;

use ferrite_apply::{Applied, AuthAnswer, Response};
use ferrite_proto::etcdserverpb::{self as pb, InternalRaftRequest};
use ferrite_proto::loggable;
use ferrite_proto::raftpb::{Entry, EntryType};
use prost::Message as _;

/// Warns of a request. `response` and `error` are what it came to, in words.
pub fn warn(
    (took, expected): (Duration, Duration),
    prefix: &str,
    request: &str,
    response: &str,
    error: Option<&dyn std::fmt::Display>,
) {
    const MESSAGE: &str = "apply request took too long";
    match error {
        None => tracing::warn!(
            took = ?took,
            "expected-duration" = ?expected,
            prefix,
            request,
            response,
            "{MESSAGE}"
        ),
        Some(error) => tracing::warn!(
            took = ?took,
            "expected-duration" = ?expected,
            prefix,
            request,
            response,
            error = %error,
            "{MESSAGE}"
        ),
    }
}

/// Warns of an entry that was applied. Membership changes and a leader's first entry hold no request.
pub(crate) fn warn_of_entry(entry: &Entry, applied: &Applied, took: Duration, expected: Duration) {
    if entry.entry_type != EntryType::EntryNormal as i32 || entry.data.is_empty() {
        return;
    }
    let Ok(request) = InternalRaftRequest::decode(entry.data.clone()) else {
        return;
    };
    let size = applied.outcome.as_ref().ok().and_then(size);
    let response = size.map_or_else(String::new, |size| format!("size:{size}"));
    let error = applied.outcome.as_ref().err();
    let error = error.map(|error| error as &dyn std::fmt::Display);
    let request = loggable::internal(&request);
    warn((took, expected), "", &request, &response, error);
}

/// Bytes of the answer's message; nothing is answered to what concerns the cluster itself.
fn size(response: &Response) -> Option<usize> {
    Some(match response {
        Response::Range(answer) => answer.encoded_len(),
        Response::Put(answer) => answer.encoded_len(),
        Response::DeleteRange(answer) => answer.encoded_len(),
        Response::Txn(answer) => answer.encoded_len(),
        Response::Compaction(answer, _) => answer.encoded_len(),
        Response::LeaseGrant(answer) => answer.encoded_len(),
        Response::LeaseRevoke(answer) => answer.encoded_len(),
        Response::LeaseCheckpoint(answer) => answer.encoded_len(),
        Response::Alarm(answer) => answer.encoded_len(),
        Response::Auth { revision, answer } => auth_size(*revision, answer),
        Response::Members(_) | Response::Empty => return None,
    })
}

fn auth_size(revision: i64, answer: &AuthAnswer) -> usize {
    let header = Some(pb::ResponseHeader {
        revision,
        ..pb::ResponseHeader::default()
    });
    match answer {
        AuthAnswer::Users(names) => {
            let users = names.clone();
            pb::AuthUserListResponse { header, users }.encoded_len()
        }
        AuthAnswer::Roles(names) => {
            let roles = names.clone();
            pb::AuthRoleListResponse { header, roles }.encoded_len()
        }
        AuthAnswer::Permissions(permissions) => {
            let perm = permissions.clone();
            pb::AuthRoleGetResponse { header, perm }.encoded_len()
        }
        AuthAnswer::Status { enabled, revision } => pb::AuthStatusResponse {
            header,
            enabled: *enabled,
            auth_revision: *revision,
        }
        .encoded_len(),
        AuthAnswer::Done | AuthAnswer::Authenticated { .. } => {
            pb::AuthEnableResponse { header }.encoded_len()
        }
    }
}
