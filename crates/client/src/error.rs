//! Errors, and how etcd's clients word them.

use std::error::Error as _;
use std::sync::Arc;

use tonic::{Code, Status};

/// Why a client could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The endpoint list is empty.
    #[error("etcdclient: no available endpoints")]
    NoEndpoints,
    /// TLS cannot be configured.
    #[error(transparent)]
    Tls(#[from] ferrite_tls::TlsError),
    /// The token cannot stand in a header.
    #[error("the authentication token has characters that cannot be sent")]
    Token,
    /// No endpoint answered.
    #[error("no endpoint answered: {0}")]
    Dial(String),
}

/// Marks a status that this client made because its own time was up.
#[derive(Debug, thiserror::Error)]
#[error("the call's time is up{}", .last.as_ref().map(|l| format!("; last failure: {l}")).unwrap_or_default())]
struct LocalDeadline {
    last: Option<String>,
}

/// The status of a call whose own deadline has passed; `last` is the last thing that went wrong.
pub(crate) fn local_deadline(last: Option<String>) -> Status {
    let mut status = Status::deadline_exceeded("context deadline exceeded");
    status.set_source(Arc::new(LocalDeadline { last }));
    status
}

/// Whether this client gave up by itself, as opposed to a server's answer with the same code.
#[must_use]
pub fn is_local_deadline(status: &Status) -> bool {
    status
        .source()
        .is_some_and(|source| source.is::<LocalDeadline>())
}

/// What went wrong last before this client's own deadline passed, if that is what the status says.
#[must_use]
pub fn last_failure(status: &Status) -> Option<String> {
    status
        .source()?
        .downcast_ref::<LocalDeadline>()?
        .last
        .clone()
}

/// The error texts that etcd's clients know and print bare.
const TABLE: &[&str] = &[
    "etcdserver: key is not provided",
    "etcdserver: key not found",
    "etcdserver: value is provided",
    "etcdserver: lease is provided",
    "etcdserver: too many operations in txn request",
    "etcdserver: duplicate key given in txn request",
    "etcdserver: invalid sort option",
    "etcdserver: mvcc: required revision has been compacted",
    "etcdserver: mvcc: required revision is a future revision",
    "etcdserver: mvcc: database space exceeded",
    "etcdserver: requested lease not found",
    "etcdserver: lease already exists",
    "etcdserver: too large lease TTL",
    "etcdserver: member ID already exist",
    "etcdserver: Peer URLs already exists",
    "etcdserver: re-configuration failed due to not enough started members",
    "etcdserver: given member URLs are invalid",
    "etcdserver: member not found",
    "etcdserver: can only promote a learner member",
    "etcdserver: can only promote a learner member which is in sync with leader",
    "etcdserver: too many learner members in cluster",
    "etcdserver: cluster ID mismatch",
    "etcdserver: request is too large",
    "etcdserver: too many requests",
    "etcdserver: root user does not exist",
    "etcdserver: root user does not have root role",
    "etcdserver: user name already exists",
    "etcdserver: user name is empty",
    "etcdserver: user name not found",
    "etcdserver: role name already exists",
    "etcdserver: role name not found",
    "etcdserver: role name is empty",
    "etcdserver: authentication failed, invalid user ID or password",
    "etcdserver: permission denied",
    "etcdserver: role is not granted to the user",
    "etcdserver: permission is not granted to the role",
    "etcdserver: authentication is not enabled",
    "etcdserver: invalid auth token",
    "etcdserver: invalid auth management",
    "etcdserver: revision of auth store is old",
    "etcdserver: no leader",
    "etcdserver: not leader",
    "etcdserver: leader changed",
    "etcdserver: not capable",
    "etcdserver: server stopped",
    "etcdserver: request timed out",
    "etcdserver: request timed out, possibly due to previous leader failure",
    "etcdserver: request timed out, possibly due to connection lost",
    "etcdserver: unhealthy cluster",
    "etcdserver: corrupt cluster",
    "etcdserver: rpc not supported for learner",
    "etcdserver: bad leader transferee",
    "etcdserver: wrong downgrade target version format",
    "etcdserver: invalid downgrade target version",
    "etcdserver: cluster version not found during downgrade",
    "etcdserver: cluster has a downgrade job in progress",
    "etcdserver: no inflight downgrade job",
];

/// Whether the message is one of etcd's known errors.
#[must_use]
pub fn is_table_error(message: &str) -> bool {
    TABLE.contains(&message)
}

/// The code's name in Go's spelling.
#[must_use]
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

/// The text etcd's own clients print for a failed call: known errors bare, the client's own deadline
/// as `context deadline exceeded`, anything else with its code.
#[must_use]
pub fn describe(status: &Status) -> String {
    if is_local_deadline(status) || is_table_error(status.message()) {
        return status.message().to_owned();
    }
    format!(
        "rpc error: code = {} desc = {}",
        code_name(status.code()),
        status.message()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wording_follows_the_original() {
        assert_eq!(
            describe(&Status::unavailable("etcdserver: no leader")),
            "etcdserver: no leader"
        );
        assert_eq!(describe(&local_deadline(None)), "context deadline exceeded");
        assert_eq!(
            describe(&Status::deadline_exceeded("context deadline exceeded")),
            "rpc error: code = DeadlineExceeded desc = context deadline exceeded"
        );
        assert_eq!(
            describe(&Status::cancelled("x")),
            "rpc error: code = Canceled desc = x"
        );
    }
}
