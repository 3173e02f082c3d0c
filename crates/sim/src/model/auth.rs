//! Users, roles and what they permit, worked out in the plainest way: a range is permitted if the grants
//! cover it without a gap.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use ferrite_proto::authpb::permission::Type;
use ferrite_proto::etcdserverpb::{InternalRaftRequest, RequestHeader};

const ROOT: &str = "root";

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Grant {
    kind: i32,
    key: Bytes,
    end: Bytes,
}

/// See the module. Refusals are named as the production code names them.
#[derive(Debug)]
pub struct Auth {
    enabled: bool,
    revision: u64,
    users: BTreeMap<String, BTreeSet<String>>,
    roles: BTreeMap<String, Vec<Grant>>,
    /// Users with a password.
    with_password: BTreeSet<String>,
    /// At which entries tokens ended: those of a user, or of everybody.
    ends: Vec<(u64, Option<String>)>,
}

impl Default for Auth {
    fn default() -> Self {
        Auth {
            enabled: false,
            // Members begin to count before their first entry.
            revision: 1,
            users: BTreeMap::new(),
            roles: BTreeMap::new(),
            with_password: BTreeSet::new(),
            ends: Vec::new(),
        }
    }
}

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Read,
    Write,
}

impl Auth {
    /// Whether authentication is on.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Whether a token of this user that one entry gave out has ended by another.
    pub fn token_ended(&self, user: &str, given: u64, applied: u64) -> bool {
        self.ends.iter().any(|(at, whose)| {
            (given..=applied).contains(at) && whose.as_ref().is_none_or(|whose| whose == user)
        })
    }

    fn is_root(&self, user: &str) -> bool {
        self.users
            .get(user)
            .is_some_and(|roles| roles.contains(ROOT))
    }

    fn is_admin(&self, header: &RequestHeader) -> Result<(), String> {
        if !self.enabled || self.is_root(&header.username) {
            return Ok(());
        }
        Err(if header.username.is_empty() {
            "UserEmpty"
        } else if self.users.contains_key(&header.username) {
            "PermissionDenied"
        } else {
            "UserNotFound"
        }
        .to_owned())
    }

    /// May the caller read or write this key or range?
    pub fn permits(
        &self,
        header: &RequestHeader,
        need: Need,
        key: &[u8],
        end: &[u8],
    ) -> Result<(), String> {
        if !self.enabled {
            return Ok(());
        }
        if header.auth_revision == 0 {
            return Err("UserEmpty".into());
        }
        if header.auth_revision < self.revision {
            return Err("OldRevision".into());
        }
        let Some(roles) = self.users.get(&header.username) else {
            return Err("PermissionDenied".into());
        };
        if roles.contains(ROOT) {
            return Ok(());
        }
        let one = [key, &[0]].concat();
        let end = if end.is_empty() { &one } else { end };
        // From the start, as far as grants that touch reach.
        let mut reached = key.to_vec();
        let grants: Vec<&Grant> = roles
            .iter()
            .filter_map(|role| self.roles.get(role))
            .flatten()
            .filter(|grant| {
                grant.kind == Type::Readwrite as i32
                    || grant.kind
                        == match need {
                            Need::Read => Type::Read as i32,
                            Need::Write => Type::Write as i32,
                        }
            })
            .collect();
        while *reached < *end {
            let further = grants
                .iter()
                .filter(|grant| *grant.key <= *reached)
                .map(|grant| {
                    if grant.end.is_empty() {
                        [&grant.key[..], &[0]].concat()
                    } else {
                        grant.end.to_vec()
                    }
                })
                .max();
            match further {
                Some(further) if further > reached => reached = further,
                _ => return Err("PermissionDenied".into()),
            }
        }
        Ok(())
    }

    /// May the caller do something to a lease with these keys?
    pub fn permits_lease(
        &self,
        header: &RequestHeader,
        keys: impl IntoIterator<Item = Bytes>,
    ) -> Result<(), String> {
        if self.is_admin(header).is_ok() {
            return Ok(());
        }
        keys.into_iter()
            .try_for_each(|key| self.permits(header, Need::Write, &key, &[]))
    }

    /// Carries a request about users and roles out; `None` when it is about neither.
    pub fn execute(
        &mut self,
        request: &InternalRaftRequest,
        header: &RequestHeader,
        index: u64,
    ) -> Option<Result<(), String>> {
        let no = |what: &str| Err(what.to_owned());
        let done = if request.auth_enable.is_some() {
            self.is_admin(header).and_then(|()| {
                match self.users.get(ROOT) {
                    _ if self.enabled => {}
                    None => return no("RootUserNotExist"),
                    Some(roles) if !roles.contains(ROOT) => return no("RootRoleNotExist"),
                    Some(_) => self.enabled = true,
                }
                Ok(())
            })
        } else if request.auth_disable.is_some() {
            self.is_admin(header).map(|()| {
                if self.enabled {
                    self.revision += 1;
                    self.ends.push((index, None));
                }
                self.enabled = false;
            })
        } else if let Some(login) = &request.authenticate {
            if !self.enabled {
                no("NotEnabled")
            } else if self.with_password.contains(&login.name) {
                Ok(())
            } else {
                no("AuthFailed")
            }
        } else if let Some(change) = &request.auth_user_change_password {
            self.is_admin(header).and_then(|()| {
                if !self.users.contains_key(&change.name) {
                    return no("UserNotFound");
                }
                self.revision += 1;
                self.ends.push((index, Some(change.name.clone())));
                Ok(())
            })
        } else if let Some(add) = &request.auth_user_add {
            self.is_admin(header).and_then(|()| {
                if self.users.contains_key(&add.name) {
                    return no("UserAlreadyExist");
                }
                self.users.insert(add.name.clone(), BTreeSet::new());
                if !add.options.is_some_and(|options| options.no_password) {
                    self.with_password.insert(add.name.clone());
                }
                self.revision += 1;
                Ok(())
            })
        } else if let Some(delete) = &request.auth_user_delete {
            self.is_admin(header).and_then(|()| {
                if self.enabled && delete.name == ROOT {
                    return no("InvalidManagement");
                }
                if self.users.remove(&delete.name).is_none() {
                    return no("UserNotFound");
                }
                self.with_password.remove(&delete.name);
                self.ends.push((index, Some(delete.name.clone())));
                self.revision += 1;
                Ok(())
            })
        } else if let Some(grant) = &request.auth_user_grant_role {
            self.is_admin(header).and_then(|()| {
                let known = grant.role == ROOT || self.roles.contains_key(&grant.role);
                let Some(roles) = self.users.get_mut(&grant.user) else {
                    return no("UserNotFound");
                };
                if !known {
                    return no("RoleNotFound");
                }
                self.revision += u64::from(roles.insert(grant.role.clone()));
                Ok(())
            })
        } else if let Some(revoke) = &request.auth_user_revoke_role {
            self.is_admin(header).and_then(|()| {
                if self.enabled && revoke.name == ROOT && revoke.role == ROOT {
                    return no("InvalidManagement");
                }
                let Some(roles) = self.users.get_mut(&revoke.name) else {
                    return no("UserNotFound");
                };
                if !roles.remove(&revoke.role) {
                    return no("RoleNotGranted");
                }
                self.revision += 1;
                Ok(())
            })
        } else if let Some(add) = &request.auth_role_add {
            self.is_admin(header).and_then(|()| {
                if self.roles.contains_key(&add.name) {
                    return no("RoleAlreadyExist");
                }
                self.roles.insert(add.name.clone(), Vec::new());
                self.revision += 1;
                Ok(())
            })
        } else if let Some(delete) = &request.auth_role_delete {
            self.is_admin(header).and_then(|()| {
                if self.roles.remove(&delete.role).is_none() {
                    return no("RoleNotFound");
                }
                for roles in self.users.values_mut() {
                    roles.remove(&delete.role);
                }
                self.revision += 1;
                Ok(())
            })
        } else if let Some(grant) = &request.auth_role_grant_permission {
            self.is_admin(header).and_then(|()| {
                let perm = grant.perm.clone().unwrap_or_default();
                let Some(grants) = self.roles.get_mut(&grant.name) else {
                    return no("RoleNotFound");
                };
                // Grants begin at different keys: the store's way with equal ones is not repeated here.
                grants.retain(|held| held.key != perm.key);
                grants.push(Grant {
                    kind: perm.perm_type,
                    key: perm.key,
                    end: perm.range_end,
                });
                self.revision += 1;
                Ok(())
            })
        } else if let Some(revoke) = &request.auth_role_revoke_permission {
            self.is_admin(header).and_then(|()| {
                let Some(grants) = self.roles.get_mut(&revoke.role) else {
                    return no("RoleNotFound");
                };
                let before = grants.len();
                grants.retain(|held| held.key != revoke.key || held.end != revoke.range_end);
                if grants.len() == before {
                    return no("PermissionNotGranted");
                }
                self.revision += 1;
                Ok(())
            })
        } else {
            return None;
        };
        Some(done)
    }

    /// Whether a member's state of users and roles is this one.
    pub fn is(&self, enabled: bool, revision: u64, users: usize, roles: usize) -> bool {
        (enabled, revision, users, roles)
            == (
                self.enabled,
                self.revision,
                self.users.len(),
                self.roles.len(),
            )
    }
}
