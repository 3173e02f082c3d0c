//! Why an applied request was refused.

use ferrite_mvcc::RequestError;

/// A refusal. Every member refuses the same request for the same reason.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ApplyError {
    /// The store refused it.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The NOSPACE alarm is on, or (in the response only) the quota is used up.
    #[error("database space exceeded")]
    NoSpace,
    /// The CORRUPT alarm is on.
    #[error("corrupt cluster")]
    Corrupt,
    /// No such lease.
    #[error("requested lease not found")]
    LeaseNotFound,
    /// A lease of that ID exists.
    #[error("lease already exists")]
    LeaseExists,
    /// The time-to-live is beyond what etcd allows.
    #[error("too large lease TTL")]
    LeaseTtlTooLarge,
    /// Users and roles refused it.
    #[error(transparent)]
    Auth(#[from] ferrite_auth::Error),
    /// The membership change breaks a rule.
    #[error(transparent)]
    Membership(#[from] ferrite_membership::Error),
}
