//! Why a request about users and roles, or one that needs a permission, was refused.

/// A refusal. The words are those a client sees, without the prefix that most of them get.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Authentication cannot be enabled: there is no user root.
    #[error("root user does not exist")]
    RootUserNotExist,
    /// Authentication cannot be enabled: the user root has not the role root.
    #[error("root user does not have root role")]
    RootRoleNotExist,
    /// There is a user of that name.
    #[error("user name already exists")]
    UserAlreadyExist,
    /// No user was named, or the caller is nobody.
    #[error("user name is empty")]
    UserEmpty,
    /// There is no user of that name.
    #[error("user name not found")]
    UserNotFound,
    /// There is a role of that name.
    #[error("role name already exists")]
    RoleAlreadyExist,
    /// There is no role of that name.
    #[error("role name not found")]
    RoleNotFound,
    /// No role was named.
    #[error("role name is empty")]
    RoleEmpty,
    /// No such user, or another password.
    #[error("authentication failed, invalid user ID or password")]
    AuthFailed,
    /// The user has no password, or the one given for it cannot be kept.
    #[error("auth: authentication failed, password was given for no password user")]
    NoPasswordUser,
    /// A grant without a permission in it.
    #[error("permission not given")]
    PermissionNotGiven,
    /// The caller may not do this.
    #[error("permission denied")]
    PermissionDenied,
    /// The user has not the role to be revoked.
    #[error("role is not granted to the user")]
    RoleNotGranted,
    /// The role has not the permission to be revoked.
    #[error("permission is not granted to the role")]
    PermissionNotGranted,
    /// Authentication is off.
    #[error("authentication is not enabled")]
    NotEnabled,
    /// Users or roles changed since the caller was recognised.
    #[error("revision of auth store is old")]
    OldRevision,
    /// The token is malformed, expired or of nobody.
    #[error("invalid auth token")]
    InvalidToken,
    /// A change that would lock root out, or a range that is none.
    #[error("invalid auth management")]
    InvalidManagement,
}
