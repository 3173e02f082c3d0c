//! The replicated state beside the keys, as one text that must be equal on all members at equal indexes.

use ferrite_apply::{Applier, AuthAnswer};
use ferrite_proto::etcdserverpb::AlarmType;

/// Leases with their keys, alarms, users, roles, membership.
pub fn of(applier: &Applier) -> String {
    let view = applier.lessor().view();
    let leases: Vec<_> = view
        .all()
        .into_iter()
        .map(|(id, lives)| (id, lives, view.keys(id)))
        .collect();
    let cluster = applier.cluster();
    format!(
        "leases {leases:?} alarms {:?} auth {:?} members {:?} removed {:?} version {:?} downgrade {:?}",
        applier.alarms().list(AlarmType::None),
        applier.auth().view().state(),
        cluster.members,
        cluster.removed,
        cluster.version,
        // None, and one that was ended, are the same.
        ferrite_membership::transition::running(cluster)
    )
}

/// How many users and roles there are.
pub fn counts(auth: &ferrite_auth::Store) -> (usize, usize) {
    let count = |answer| match answer {
        AuthAnswer::Users(names) | AuthAnswer::Roles(names) => names.len(),
        _ => 0,
    };
    (count(auth.user_list()), count(auth.role_list()))
}
