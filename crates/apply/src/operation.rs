//! What a request asks for, as it is called where requests are counted.

use ferrite_metrics::Operation;
use ferrite_proto::etcdserverpb::InternalRaftRequest;

/// What this request asks for.
pub fn operation(request: &InternalRaftRequest) -> Operation {
    // Nearly all are puts, and the list below is long.
    if request.put.is_some() && request.range.is_none() {
        return Operation::Put;
    }
    let asked = [
        (request.range.is_some(), Operation::Range),
        (request.put.is_some(), Operation::Put),
        (request.delete_range.is_some(), Operation::DeleteRange),
        (request.txn.is_some(), Operation::Txn),
        (request.compaction.is_some(), Operation::Compaction),
        (request.lease_grant.is_some(), Operation::LeaseGrant),
        (request.lease_revoke.is_some(), Operation::LeaseRevoke),
        (
            request.lease_checkpoint.is_some(),
            Operation::LeaseCheckpoint,
        ),
        (request.alarm.is_some(), Operation::Alarm),
        (request.authenticate.is_some(), Operation::Authenticate),
        (request.auth_enable.is_some(), Operation::AuthEnable),
        (request.auth_disable.is_some(), Operation::AuthDisable),
        (request.auth_status.is_some(), Operation::AuthStatus),
        (request.auth_user_add.is_some(), Operation::AuthUserAdd),
        (
            request.auth_user_delete.is_some(),
            Operation::AuthUserDelete,
        ),
        (
            request.auth_user_change_password.is_some(),
            Operation::AuthUserChangePassword,
        ),
        (
            request.auth_user_grant_role.is_some(),
            Operation::AuthUserGrantRole,
        ),
        (request.auth_user_get.is_some(), Operation::AuthUserGet),
        (
            request.auth_user_revoke_role.is_some(),
            Operation::AuthUserRevokeRole,
        ),
        (request.auth_role_add.is_some(), Operation::AuthRoleAdd),
        (
            request.auth_role_grant_permission.is_some(),
            Operation::AuthRoleGrantPermission,
        ),
        (request.auth_role_get.is_some(), Operation::AuthRoleGet),
        (
            request.auth_role_revoke_permission.is_some(),
            Operation::AuthRoleRevokePermission,
        ),
        (
            request.auth_role_delete.is_some(),
            Operation::AuthRoleDelete,
        ),
        (request.auth_user_list.is_some(), Operation::AuthUserList),
        (request.auth_role_list.is_some(), Operation::AuthRoleList),
        (
            request.cluster_version_set.is_some(),
            Operation::ClusterVersionSet,
        ),
        (
            request.cluster_member_attr_set.is_some(),
            Operation::ClusterMemberAttrSet,
        ),
        (
            request.downgrade_info_set.is_some(),
            Operation::DowngradeInfoSet,
        ),
        (
            request.downgrade_version_test.is_some(),
            Operation::DowngradeVersionTest,
        ),
    ];
    asked
        .into_iter()
        .find_map(|(there, operation)| there.then_some(operation))
        .unwrap_or(Operation::Unknown)
}
