//! The one table from our errors to what a client sees: gRPC code and text, byte for byte etcd's.

use ferrite_apply::ApplyError;
use ferrite_auth::Error as AuthError;
use ferrite_membership::transition::DowngradeError;
use ferrite_mvcc::RequestError;
use ferrite_node::Error;
use tonic::{Code, Status};

use crate::auth::GateError;

/// No leader is known (for calls that require one).
pub fn no_leader() -> Status {
    Status::new(Code::Unavailable, "etcdserver: no leader")
}

/// A stream of watchers that its client has cancelled.
pub fn watch_canceled() -> Status {
    Status::new(Code::Cancelled, "etcdserver: watch canceled")
}

/// The caller's own time is up.
pub fn late() -> Status {
    status(&Error::DeadlineExceeded)
}

/// As [`late`], of a range that had been begun.
pub fn late_range() -> Status {
    let text = format!("rangeKeys: context cancelled: {}", late().message());
    Status::new(Code::DeadlineExceeded, text)
}

/// A stream about the server's health that its end cuts off.
pub fn health_ended() -> Status {
    Status::new(Code::Cancelled, "Stream has ended.")
}

/// The caller has gone away; nobody reads this.
pub fn canceled() -> Status {
    Status::new(Code::Cancelled, "context canceled")
}

/// What a call made inside the member on a caller's behalf was refused with: the words stay, the code
/// does not, as if a client library stood in between.
pub fn from_inside(status: Status) -> Status {
    match status.code() {
        Code::Cancelled | Code::DeadlineExceeded | Code::Internal | Code::Unimplemented => status,
        _ => Status::new(Code::Unknown, status.message()),
    }
}

/// Who waited for a lock has lost its lease meanwhile.
pub fn lock_session_expired() -> Status {
    Status::new(Code::Unknown, "mutex: session is expired")
}

/// A call of the election service says nothing of the leader it is about.
pub fn leader_missing() -> Status {
    Status::new(Code::Unknown, "\"leader\" field must be provided")
}

/// Nobody campaigns.
pub fn nobody_elected() -> Status {
    Status::new(Code::Unknown, "election: no leader")
}

/// The leader's key is gone, or another's.
pub fn not_elected() -> Status {
    Status::new(Code::Unknown, "election: not leader")
}

/// The cluster version is not decided yet.
pub fn not_capable() -> Status {
    Status::new(Code::FailedPrecondition, "etcdserver: not capable")
}

/// A learner does not serve this call.
pub fn not_for_learner() -> Status {
    Status::new(
        Code::FailedPrecondition,
        "etcdserver: rpc not supported for learner",
    )
}

/// The `client-api-version` metadata is not text.
pub fn invalid_api_version() -> Status {
    Status::new(
        Code::InvalidArgument,
        "etcdserver: invalid client api version",
    )
}

/// The peer URLs of a member to add are missing or malformed.
pub fn bad_urls() -> Status {
    Status::new(
        Code::InvalidArgument,
        "etcdserver: given member URLs are invalid",
    )
}

/// A downgrade request with an action that there is not.
pub fn unknown_method() -> Status {
    Status::new(Code::Unknown, "etcdserver: unknown method")
}

/// The quota is used up.
pub fn no_space() -> Status {
    Status::new(
        Code::ResourceExhausted,
        "etcdserver: mvcc: database space exceeded",
    )
}

/// A request that the store refused.
pub fn request(error: &RequestError) -> Status {
    let code = match error {
        RequestError::Compacted | RequestError::FutureRevision => Code::OutOfRange,
        RequestError::LeaseNotFound => Code::NotFound,
        RequestError::StreamSort | RequestError::StreamFilter => {
            return Status::new(Code::Unimplemented, error.to_string());
        }
        RequestError::Damaged(reason) => {
            return Status::new(Code::DataLoss, format!("etcdserver: {reason}"));
        }
        RequestError::EmptyKey
        | RequestError::ValueProvided
        | RequestError::LeaseProvided
        | RequestError::KeyNotFound
        | RequestError::TooManyOps
        | RequestError::DuplicateKey
        | RequestError::InvalidSortOption => Code::InvalidArgument,
    };
    Status::new(code, format!("etcdserver: {error}"))
}

fn apply(error: &ApplyError) -> Status {
    let code = match error {
        ApplyError::Request(error) => return request(error),
        ApplyError::NoSpace => return no_space(),
        ApplyError::Corrupt => Code::DataLoss,
        ApplyError::LeaseNotFound => Code::NotFound,
        ApplyError::LeaseExists => Code::FailedPrecondition,
        ApplyError::LeaseTtlTooLarge => Code::OutOfRange,
        ApplyError::Auth(error) => return auth(*error),
        ApplyError::Membership(error) => return membership(error),
    };
    Status::new(code, format!("etcdserver: {error}"))
}

/// What users and roles do not allow.
pub fn auth(error: AuthError) -> Status {
    use AuthError as E;
    let code = match error {
        E::UserEmpty
        | E::RoleEmpty
        | E::AuthFailed
        | E::PermissionNotGiven
        | E::InvalidManagement
        | E::OldRevision => Code::InvalidArgument,
        E::RootUserNotExist
        | E::RootRoleNotExist
        | E::UserAlreadyExist
        | E::UserNotFound
        | E::RoleAlreadyExist
        | E::RoleNotFound
        | E::RoleNotGranted
        | E::PermissionNotGranted
        | E::NotEnabled => Code::FailedPrecondition,
        E::PermissionDenied => Code::PermissionDenied,
        E::InvalidToken => Code::Unauthenticated,
        E::NoPasswordUser => return Status::new(Code::Unknown, error.to_string()),
    };
    Status::new(code, format!("etcdserver: {error}"))
}

/// A caller who is not let in, a password that cannot be hashed, a token that cannot be signed.
pub fn gate(error: &GateError) -> Status {
    match error {
        GateError::Node(error) => status(error),
        GateError::TooLong(_) | GateError::Token(_) | GateError::Random(_) => {
            Status::new(Code::Unknown, error.to_string())
        }
    }
}

/// Whether a password was refused only because nobody needs one.
pub fn is_not_enabled(error: &GateError) -> bool {
    matches!(
        error,
        GateError::Node(Error::Apply(ApplyError::Auth(AuthError::NotEnabled)))
    )
}

/// Why a watcher is refused, in the words of Go's status; whatever else is wrong is a lack of permission.
pub fn watch_refusal(error: &Status) -> String {
    let (code, known) = match error.code() {
        Code::Unauthenticated => ("Unauthenticated", AuthError::InvalidToken),
        Code::InvalidArgument if error.message() == auth(AuthError::OldRevision).message() => {
            ("InvalidArgument", AuthError::OldRevision)
        }
        Code::InvalidArgument => ("InvalidArgument", AuthError::UserEmpty),
        _ => ("PermissionDenied", AuthError::PermissionDenied),
    };
    format!("rpc error: code = {code} desc = {}", auth(known).message())
}

/// A membership change that was refused.
pub fn membership(error: &ferrite_membership::Error) -> Status {
    use ferrite_membership::Error as E;
    let (code, text) = match error {
        E::IdExists => (
            Code::FailedPrecondition,
            "etcdserver: member ID already exist",
        ),
        E::IdNotFound | E::IdRemoved => (Code::NotFound, "etcdserver: member not found"),
        E::PeerUrlExists => (
            Code::FailedPrecondition,
            "etcdserver: Peer URLs already exists",
        ),
        E::LastVoter => (
            Code::Unknown,
            "etcdserver: re-configuration failed due to not enough started members",
        ),
        E::MemberNotLearner => (
            Code::FailedPrecondition,
            "etcdserver: can only promote a learner member",
        ),
        E::TooManyLearners => (
            Code::FailedPrecondition,
            "etcdserver: too many learner members in cluster",
        ),
        other => return Status::new(Code::Unknown, other.to_string()),
    };
    Status::new(code, text)
}

/// Any failure of a call on the node.
pub fn status(error: &Error) -> Status {
    let code = match error {
        Error::Apply(error) => return apply(error),
        // These reach clients with the bare text, or with another code than etcd's own table has.
        Error::DeadlineExceeded => {
            return Status::new(Code::DeadlineExceeded, "context deadline exceeded");
        }
        Error::NotPrimary => return Status::new(Code::Unknown, error.to_string()),
        Error::Dropped => return Status::new(Code::Unknown, "raft proposal dropped"),
        Error::Downgrade(DowngradeError::WrongFormat | DowngradeError::InvalidTarget) => {
            Code::InvalidArgument
        }
        Error::Downgrade(_) => Code::FailedPrecondition,
        Error::TooManyRequests | Error::TransferTimeout | Error::NotEnoughStarted => Code::Unknown,
        Error::TooLarge => Code::InvalidArgument,
        Error::Timeout
        | Error::TimeoutLeaderFailure
        | Error::TimeoutConnectionLost
        | Error::LeaderChanged
        | Error::Unhealthy
        | Error::NoLeader
        | Error::AppliedIndexTimeout
        | Error::Stopped => Code::Unavailable,
        Error::NotLeader | Error::BadTransferee | Error::LearnerNotReady => {
            Code::FailedPrecondition
        }
    };
    Status::new(code, format!("etcdserver: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(error: Error, code: Code, text: &str) {
        let status = status(&error);
        assert_eq!((status.code(), status.message()), (code, text));
    }

    #[test]
    fn a_watch_is_refused_in_the_words_of_gos_status() {
        for (error, text) in [
            (
                AuthError::InvalidToken,
                "rpc error: code = Unauthenticated desc = etcdserver: invalid auth token",
            ),
            (
                AuthError::OldRevision,
                "rpc error: code = InvalidArgument desc = etcdserver: revision of auth store is old",
            ),
            (
                AuthError::UserEmpty,
                "rpc error: code = InvalidArgument desc = etcdserver: user name is empty",
            ),
            (
                AuthError::PermissionDenied,
                "rpc error: code = PermissionDenied desc = etcdserver: permission denied",
            ),
        ] {
            assert_eq!(watch_refusal(&auth(error)), text);
        }
        let other = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
        assert_eq!(watch_refusal(&no_leader()), other);
    }

    #[test]
    fn errors_have_etcds_codes_and_words() {
        use Code::*;
        let request = |error: RequestError| Error::Apply(ApplyError::Request(error));
        check(
            request(RequestError::EmptyKey),
            InvalidArgument,
            "etcdserver: key is not provided",
        );
        check(
            request(RequestError::KeyNotFound),
            InvalidArgument,
            "etcdserver: key not found",
        );
        check(
            request(RequestError::ValueProvided),
            InvalidArgument,
            "etcdserver: value is provided",
        );
        check(
            request(RequestError::LeaseProvided),
            InvalidArgument,
            "etcdserver: lease is provided",
        );
        check(
            request(RequestError::TooManyOps),
            InvalidArgument,
            "etcdserver: too many operations in txn request",
        );
        check(
            request(RequestError::DuplicateKey),
            InvalidArgument,
            "etcdserver: duplicate key given in txn request",
        );
        check(
            request(RequestError::InvalidSortOption),
            InvalidArgument,
            "etcdserver: invalid sort option",
        );
        check(
            request(RequestError::Compacted),
            OutOfRange,
            "etcdserver: mvcc: required revision has been compacted",
        );
        check(
            request(RequestError::FutureRevision),
            OutOfRange,
            "etcdserver: mvcc: required revision is a future revision",
        );
        check(
            request(RequestError::LeaseNotFound),
            NotFound,
            "etcdserver: requested lease not found",
        );
        check(
            Error::Apply(ApplyError::NoSpace),
            ResourceExhausted,
            "etcdserver: mvcc: database space exceeded",
        );
        check(
            Error::Apply(ApplyError::Corrupt),
            DataLoss,
            "etcdserver: corrupt cluster",
        );
        check(
            Error::TooLarge,
            InvalidArgument,
            "etcdserver: request is too large",
        );
        check(
            Error::TooManyRequests,
            Unknown,
            "etcdserver: too many requests",
        );
        let auth = |error: AuthError| Error::Apply(ApplyError::Auth(error));
        for (error, code, text) in [
            (
                AuthError::RootUserNotExist,
                FailedPrecondition,
                "root user does not exist",
            ),
            (
                AuthError::RootRoleNotExist,
                FailedPrecondition,
                "root user does not have root role",
            ),
            (
                AuthError::UserAlreadyExist,
                FailedPrecondition,
                "user name already exists",
            ),
            (AuthError::UserEmpty, InvalidArgument, "user name is empty"),
            (
                AuthError::UserNotFound,
                FailedPrecondition,
                "user name not found",
            ),
            (
                AuthError::RoleAlreadyExist,
                FailedPrecondition,
                "role name already exists",
            ),
            (
                AuthError::RoleNotFound,
                FailedPrecondition,
                "role name not found",
            ),
            (AuthError::RoleEmpty, InvalidArgument, "role name is empty"),
            (
                AuthError::AuthFailed,
                InvalidArgument,
                "authentication failed, invalid user ID or password",
            ),
            (
                AuthError::PermissionNotGiven,
                InvalidArgument,
                "permission not given",
            ),
            (
                AuthError::PermissionDenied,
                PermissionDenied,
                "permission denied",
            ),
            (
                AuthError::RoleNotGranted,
                FailedPrecondition,
                "role is not granted to the user",
            ),
            (
                AuthError::PermissionNotGranted,
                FailedPrecondition,
                "permission is not granted to the role",
            ),
            (
                AuthError::NotEnabled,
                FailedPrecondition,
                "authentication is not enabled",
            ),
            (
                AuthError::InvalidToken,
                Unauthenticated,
                "invalid auth token",
            ),
            (
                AuthError::InvalidManagement,
                InvalidArgument,
                "invalid auth management",
            ),
            (
                AuthError::OldRevision,
                InvalidArgument,
                "revision of auth store is old",
            ),
        ] {
            check(auth(error), code, &format!("etcdserver: {text}"));
        }
        check(
            auth(AuthError::NoPasswordUser),
            Unknown,
            "auth: authentication failed, password was given for no password user",
        );
        check(Error::Timeout, Unavailable, "etcdserver: request timed out");
        check(
            Error::TimeoutLeaderFailure,
            Unavailable,
            "etcdserver: request timed out, possibly due to previous leader failure",
        );
        check(
            Error::TimeoutConnectionLost,
            Unavailable,
            "etcdserver: request timed out, possibly due to connection lost",
        );
        check(
            Error::LeaderChanged,
            Unavailable,
            "etcdserver: leader changed",
        );
        check(
            Error::NotLeader,
            FailedPrecondition,
            "etcdserver: not leader",
        );
        check(
            Error::BadTransferee,
            FailedPrecondition,
            "etcdserver: bad leader transferee",
        );
        check(
            Error::DeadlineExceeded,
            DeadlineExceeded,
            "context deadline exceeded",
        );
        check(Error::Dropped, Unknown, "raft proposal dropped");
        check(
            Error::NotEnoughStarted,
            Unknown,
            "etcdserver: re-configuration failed due to not enough started members",
        );
        check(
            Error::Unhealthy,
            Unavailable,
            "etcdserver: unhealthy cluster",
        );
        check(
            Error::LearnerNotReady,
            FailedPrecondition,
            "etcdserver: can only promote a learner member which is in sync with leader",
        );
        check(Error::NoLeader, Unavailable, "etcdserver: no leader");
        check(Error::NotPrimary, Unknown, "not a primary lessor");
        check(
            Error::AppliedIndexTimeout,
            Unavailable,
            "etcdserver: request timed out, waiting for the applied index took too long",
        );
        check(
            DowngradeError::WrongFormat.into(),
            InvalidArgument,
            "etcdserver: wrong downgrade target version format",
        );
        check(
            DowngradeError::InvalidTarget.into(),
            InvalidArgument,
            "etcdserver: invalid downgrade target version",
        );
        check(
            DowngradeError::VersionUnknown.into(),
            FailedPrecondition,
            "etcdserver: cluster version not found during downgrade",
        );
        check(
            DowngradeError::InProgress.into(),
            FailedPrecondition,
            "etcdserver: cluster has a downgrade job in progress",
        );
        check(
            DowngradeError::NotInProgress.into(),
            FailedPrecondition,
            "etcdserver: no inflight downgrade job",
        );
        check(Error::Stopped, Unavailable, "etcdserver: server stopped");
    }

    /// What the original says too where hardly anybody can hear it.
    #[test]
    fn rare_errors_have_etcds_codes_and_words() {
        for (status, code, text) in [
            (
                watch_canceled(),
                Code::Cancelled,
                "etcdserver: watch canceled",
            ),
            (
                not_capable(),
                Code::FailedPrecondition,
                "etcdserver: not capable",
            ),
            (
                unknown_method(),
                Code::Unknown,
                "etcdserver: unknown method",
            ),
            (
                status(&Error::TransferTimeout),
                Code::Unknown,
                "etcdserver: request timed out, leader transfer took too long",
            ),
            // ER-71: what the table does not know keeps its words.
            (
                membership(&ferrite_membership::Error::UnknownChange(9)),
                Code::Unknown,
                "unknown ConfChange type 9: a newer version proposed it; upgrade this member",
            ),
            (
                late_range(),
                Code::DeadlineExceeded,
                "rangeKeys: context cancelled: context deadline exceeded",
            ),
        ] {
            assert_eq!((status.code(), status.message()), (code, text));
        }
    }
}
