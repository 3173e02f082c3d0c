//! Requests about users and roles, and what every other request needs with authentication on.

use ferrite_auth::{Answer, AuthInfo, Checker, Error, State};
use ferrite_membership::Version;
use ferrite_mutate::mutation;
use ferrite_proto::etcdserverpb::InternalRaftRequest;

use crate::applier::{Applier, Effect};
use crate::error::ApplyError;
use crate::response::Response;

/// What tokens must follow. They are each member's own, and no part of the replicated state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenChange {
    /// Letters and index together stand for a user from here on.
    Assigned {
        /// The user.
        user: String,
        /// The letters.
        prefix: String,
        /// The index.
        index: u64,
    },
    /// The tokens of this user end.
    DroppedUser(String),
    /// All tokens end.
    DroppedAll,
}

/// Who proposed a request. One of before etcd 3.0 has no header, and is nobody's.
pub(crate) fn caller(request: &InternalRaftRequest) -> AuthInfo {
    request
        .header
        .as_ref()
        .map_or_else(AuthInfo::default, |header| AuthInfo {
            username: header.username.clone(),
            revision: header.auth_revision,
        })
}

/// The requests that only root may make. The others judge by what they are about.
fn needs_admin(request: &InternalRaftRequest) -> bool {
    request.auth_enable.is_some()
        || request.auth_disable.is_some()
        || request.auth_user_add.is_some()
        || request.auth_user_delete.is_some()
        || request.auth_user_change_password.is_some()
        || request.auth_user_grant_role.is_some()
        || request.auth_user_revoke_role.is_some()
        || request.auth_role_add.is_some()
        || request.auth_role_grant_permission.is_some()
        || request.auth_role_revoke_permission.is_some()
        || request.auth_role_delete.is_some()
        || request.auth_user_list.is_some()
        || request.auth_role_list.is_some()
}

/// Since 3.5.3 the original completes a token with the index before that of its entry.
const INDEX_BEFORE_SINCE: Version = Version::new(3, 6, 0);

impl Applier {
    /// Judges a request on keys or leases. Costs nothing while authentication is off.
    pub(crate) fn permit(
        &self,
        request: &InternalRaftRequest,
        judge: impl FnOnce(&State, &AuthInfo) -> Result<(), Error>,
    ) -> Result<(), ApplyError> {
        let view = self.auth.view();
        let lets_through = mutation!("auth-differs") && self.config.member_id.is_multiple_of(3);
        if !view.enabled() || lets_through {
            return Ok(());
        }
        Ok(judge(&view.state(), &caller(request))?)
    }

    /// As [`Applier::permit`], for what looks at leases.
    pub(crate) fn permit_with_leases(
        &self,
        request: &InternalRaftRequest,
        judge: impl FnOnce(&Checker<'_, &dyn Fn(i64) -> Option<Vec<Box<[u8]>>>>) -> Result<(), Error>,
    ) -> Result<(), ApplyError> {
        let keys = |id| self.lessor().keys(id);
        self.permit(request, |state, who| {
            judge(&Checker::new(state, who, &keys))
        })
    }

    /// Applies a request about users, roles or authentication; `None` when it is about none of these.
    pub(crate) fn auth_request(
        &mut self,
        request: &InternalRaftRequest,
        index: u64,
        effects: &mut Vec<Effect>,
    ) -> Option<Result<Response, ApplyError>> {
        let who = caller(request);
        if needs_admin(request)
            && let Err(error) = self.auth.view().state().is_admin_permitted(&who)
        {
            return Some(Err(error.into()));
        }
        let mut tokens = |change| effects.push(Effect::Tokens(change));
        let token_index = match self.cluster().version {
            Some(version) if version >= INDEX_BEFORE_SINCE => index - 1,
            _ => index,
        };
        let (store, backend) = (&mut self.auth, &self.backend);
        let done = |()| Answer::Done;
        let outcome = if request.auth_enable.is_some() {
            store.enable(backend).map(done)
        } else if request.auth_disable.is_some() {
            if store.disable(backend) {
                tokens(TokenChange::DroppedAll);
            }
            Ok(Answer::Done)
        } else if request.auth_status.is_some() {
            Ok(store.status())
        } else if let Some(asked) = &request.authenticate {
            let answer = store.authenticate(asked, token_index);
            if let Ok(Answer::Authenticated {
                user,
                prefix,
                index,
                ..
            }) = &answer
            {
                tokens(TokenChange::Assigned {
                    user: user.clone(),
                    prefix: prefix.clone(),
                    index: *index,
                });
            }
            answer
        } else if let Some(asked) = &request.auth_user_add {
            store.user_add(asked, index, backend).map(done)
        } else if let Some(asked) = &request.auth_user_delete {
            let outcome = store.user_delete(&asked.name, backend);
            if outcome.is_ok() {
                tokens(TokenChange::DroppedUser(asked.name.clone()));
            }
            outcome.map(done)
        } else if let Some(asked) = &request.auth_user_change_password {
            let outcome = store.user_change_password(asked, index, backend);
            if outcome.is_ok() {
                tokens(TokenChange::DroppedUser(asked.name.clone()));
            }
            outcome.map(done)
        } else if let Some(asked) = &request.auth_user_grant_role {
            store.user_grant_role(asked, backend).map(done)
        } else if let Some(asked) = &request.auth_user_get {
            store.user_get(&asked.name, &who)
        } else if let Some(asked) = &request.auth_user_revoke_role {
            store.user_revoke_role(asked, backend).map(done)
        } else if let Some(asked) = &request.auth_role_add {
            store.role_add(&asked.name, backend).map(done)
        } else if let Some(asked) = &request.auth_role_grant_permission {
            store.role_grant_permission(asked, backend).map(done)
        } else if let Some(asked) = &request.auth_role_get {
            store.role_get(&asked.role, &who)
        } else if let Some(asked) = &request.auth_role_revoke_permission {
            store.role_revoke_permission(asked, backend).map(done)
        } else if let Some(asked) = &request.auth_role_delete {
            store.role_delete(&asked.role, backend).map(done)
        } else if request.auth_user_list.is_some() {
            Ok(store.user_list())
        } else if request.auth_role_list.is_some() {
            Ok(store.role_list())
        } else {
            return None;
        };
        let revision = self.store().current_revision();
        Some(match outcome {
            Ok(answer) => Ok(Response::Auth { revision, answer }),
            Err(error) => Err(error.into()),
        })
    }

    /// The tokens that end with what a raft snapshot brought.
    pub(crate) fn replace_auth(&mut self, incoming: &ferrite_auth::Store) -> Vec<Effect> {
        if mutation!("users-stay-at-install") {
            return Vec::new();
        }
        let dropped = self.auth.replace(incoming);
        let changes = if self.auth.view().enabled() {
            dropped.into_iter().map(TokenChange::DroppedUser).collect()
        } else {
            vec![TokenChange::DroppedAll]
        };
        changes.into_iter().map(Effect::Tokens).collect()
    }
}
