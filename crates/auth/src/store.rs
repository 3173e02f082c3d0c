//! The replicated part: every operation on users and roles, and its records in the database.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use ferrite_mvcc::schema::Bucket;
use ferrite_mvcc::{Backend, ReadError};
use ferrite_proto::authpb::{self, Permission, UserAddOptions, permission::Type};
use ferrite_proto::etcdserverpb as pb;
use prost::Message;
use sha1::{Digest, Sha1};

use crate::password::{self, SALT_LEN};
use crate::span::is_valid_grant;
use crate::state::{State, User, View, has_role};
use crate::{AuthInfo, Error, ROOT};

const ENABLED_KEY: &[u8] = b"authEnabled";
const REVISION_KEY: &[u8] = b"authRevision";

/// What a request about users and roles answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// It is done; there is nothing to say.
    Done,
    /// Whether authentication is on, and the auth revision.
    Status {
        /// The switch.
        enabled: bool,
        /// The auth revision.
        revision: u64,
    },
    /// A token may be given out.
    Authenticated {
        /// To this user.
        user: String,
        /// At this auth revision.
        revision: u64,
        /// Random letters chosen by whoever proposed the request.
        prefix: String,
        /// What completes them to a token.
        index: u64,
    },
    /// Names of users.
    Users(Vec<String>),
    /// Names of roles.
    Roles(Vec<String>),
    /// What a role permits.
    Permissions(Vec<Permission>),
}

/// Users and roles of the cluster, kept equal to their buckets. Owned by whoever applies requests.
#[derive(Debug, Default)]
pub struct Store {
    view: View,
}

impl Store {
    /// Reads the buckets. A database that knows no auth revision is at revision 0.
    ///
    /// # Errors
    /// A damaged database file, a record that cannot be read included.
    pub fn load(backend: &Backend) -> Result<Self, ReadError> {
        let revision = match backend.get(Bucket::Auth, REVISION_KEY)? {
            None => 0,
            Some(bytes) => u64::from_be_bytes(bytes[..].try_into().map_err(|_| {
                ReadError(format!(
                    "bucket auth: the revision has {} bytes",
                    bytes.len()
                ))
            })?),
        };
        let enabled = backend.get(Bucket::Auth, ENABLED_KEY)?.as_deref() == Some(&[1]);
        let roles: BTreeMap<String, authpb::Role> = records(backend, Bucket::AuthRoles)?;
        let records: BTreeMap<String, authpb::User> = records(backend, Bucket::AuthUsers)?;
        let users = records
            .into_iter()
            .map(|(name, record)| (name, Arc::new(User::new(record, &roles))))
            .collect();
        Ok(Store {
            view: View::new(State {
                enabled,
                revision,
                users,
                roles,
            }),
        })
    }

    /// Starts counting revisions, if nobody has: a member does so before it applies its first entry.
    pub fn initialize(&mut self, backend: &Backend) {
        if self.view.revision() == 0 {
            self.view.change(|state| next_revision(state, backend));
        }
    }

    /// What readers may hold on to; it follows every later change, [`Store::replace`] included.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Takes over users and roles of `other`. Returns the users whose tokens do not count any more:
    /// those who are gone or have another password; all of them when authentication is off now.
    pub fn replace(&mut self, other: &Store) -> Vec<String> {
        let before = self.view.state();
        let after = other.view.state();
        self.view.set((*after).clone());
        before
            .users
            .iter()
            .filter(|(name, user)| {
                !after.enabled
                    || after
                        .users
                        .get(*name)
                        .is_none_or(|now| now.record.password != user.record.password)
            })
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Turns authentication on. The auth revision stays.
    ///
    /// # Errors
    /// [`Error::RootUserNotExist`], [`Error::RootRoleNotExist`].
    pub fn enable(&mut self, backend: &Backend) -> Result<(), Error> {
        self.view.change(|state| {
            if state.enabled {
                return Ok(());
            }
            let root = state.users.get(ROOT).ok_or(Error::RootUserNotExist)?;
            if !has_role(&root.record.roles, ROOT) {
                return Err(Error::RootRoleNotExist);
            }
            state.enabled = true;
            backend.put(Bucket::Auth, ENABLED_KEY, &[1]);
            Ok(())
        })
    }

    /// Turns authentication off; false when it was off.
    pub fn disable(&mut self, backend: &Backend) -> bool {
        self.view.change(|state| {
            let was = state.enabled;
            if was {
                state.enabled = false;
                backend.put(Bucket::Auth, ENABLED_KEY, &[0]);
                next_revision(state, backend);
            }
            was
        })
    }

    /// The switch and the revision.
    pub fn status(&self) -> Answer {
        let state = self.view.state();
        Answer::Status {
            enabled: state.enabled,
            revision: state.revision,
        }
    }

    /// Lets a user have a token whose password was checked before the request was proposed.
    ///
    /// # Errors
    /// [`Error::NotEnabled`]; [`Error::AuthFailed`] for a user that is gone or has no password.
    pub fn authenticate(
        &self,
        request: &pb::InternalAuthenticateRequest,
        index: u64,
    ) -> Result<Answer, Error> {
        let state = self.view.state();
        match state.credentials(&request.name) {
            Ok(_) => Ok(Answer::Authenticated {
                user: request.name.clone(),
                revision: state.revision,
                prefix: request.simple_token.clone(),
                index,
            }),
            Err(Error::NotEnabled) => Err(Error::NotEnabled),
            Err(_) => Err(Error::AuthFailed),
        }
    }

    /// Adds a user. `index` is that of the entry which asks for it.
    ///
    /// # Errors
    /// [`Error::UserEmpty`], [`Error::UserAlreadyExist`], [`Error::NoPasswordUser`].
    pub fn user_add(
        &mut self,
        request: &pb::AuthUserAddRequest,
        index: u64,
        backend: &Backend,
    ) -> Result<(), Error> {
        if request.name.is_empty() {
            return Err(Error::UserEmpty);
        }
        self.view.change(|state| {
            if state.users.contains_key(&request.name) {
                return Err(Error::UserAlreadyExist);
            }
            let options = request
                .options
                .unwrap_or(UserAddOptions { no_password: false });
            let password = if options.no_password {
                Bytes::new()
            } else {
                select_password(
                    &request.name,
                    &request.password,
                    &request.hashed_password,
                    index,
                )?
            };
            let record = authpb::User {
                name: copied(request.name.as_bytes()),
                password,
                roles: Vec::new(),
                options: Some(options),
            };
            put_user(state, record, backend);
            next_revision(state, backend);
            Ok(())
        })
    }

    /// Removes a user, whose tokens end with it.
    ///
    /// # Errors
    /// [`Error::InvalidManagement`] for root while authentication is on, [`Error::UserNotFound`].
    pub fn user_delete(&mut self, name: &str, backend: &Backend) -> Result<(), Error> {
        self.view.change(|state| {
            if state.enabled && name == ROOT {
                return Err(Error::InvalidManagement);
            }
            state.users.remove(name).ok_or(Error::UserNotFound)?;
            backend.delete(Bucket::AuthUsers, name.as_bytes());
            next_revision(state, backend);
            Ok(())
        })
    }

    /// Gives a user another password, which ends its tokens.
    ///
    /// # Errors
    /// [`Error::UserNotFound`], [`Error::NoPasswordUser`].
    pub fn user_change_password(
        &mut self,
        request: &pb::AuthUserChangePasswordRequest,
        index: u64,
        backend: &Backend,
    ) -> Result<(), Error> {
        self.view.change(|state| {
            let user = state.users.get(&request.name).ok_or(Error::UserNotFound)?;
            let mut record = user.record.clone();
            record.password = if record.options.is_some_and(|options| options.no_password) {
                Bytes::new()
            } else {
                select_password(
                    &request.name,
                    &request.password,
                    &request.hashed_password,
                    index,
                )?
            };
            put_user(state, record, backend);
            next_revision(state, backend);
            Ok(())
        })
    }

    /// Gives a user a role. The role root need not exist. One that is held already changes nothing.
    ///
    /// # Errors
    /// [`Error::UserNotFound`], [`Error::RoleNotFound`].
    pub fn user_grant_role(
        &mut self,
        request: &pb::AuthUserGrantRoleRequest,
        backend: &Backend,
    ) -> Result<(), Error> {
        self.view.change(|state| {
            let user = state.users.get(&request.user).ok_or(Error::UserNotFound)?;
            if request.role != ROOT && !state.roles.contains_key(&request.role) {
                return Err(Error::RoleNotFound);
            }
            if has_role(&user.record.roles, &request.role) {
                return Ok(());
            }
            let mut record = user.record.clone();
            record.roles.push(request.role.clone());
            record.roles.sort();
            put_user(state, record, backend);
            next_revision(state, backend);
            Ok(())
        })
    }

    /// Takes a role from a user.
    ///
    /// # Errors
    /// [`Error::InvalidManagement`] for root's role root while authentication is on,
    /// [`Error::UserNotFound`], [`Error::RoleNotGranted`].
    pub fn user_revoke_role(
        &mut self,
        request: &pb::AuthUserRevokeRoleRequest,
        backend: &Backend,
    ) -> Result<(), Error> {
        self.view.change(|state| {
            if state.enabled && request.name == ROOT && request.role == ROOT {
                return Err(Error::InvalidManagement);
            }
            let user = state.users.get(&request.name).ok_or(Error::UserNotFound)?;
            let record = without_role(&user.record, &request.role).ok_or(Error::RoleNotGranted)?;
            put_user(state, record, backend);
            next_revision(state, backend);
            Ok(())
        })
    }

    /// The roles of a user, which it may ask for itself.
    ///
    /// # Errors
    /// As [`State::is_admin_permitted`] for others; [`Error::UserNotFound`].
    pub fn user_get(&self, name: &str, who: &AuthInfo) -> Result<Answer, Error> {
        let state = self.view.state();
        if name != who.username {
            state.is_admin_permitted(who)?;
        }
        let user = state.users.get(name).ok_or(Error::UserNotFound)?;
        Ok(Answer::Roles(user.record.roles.clone()))
    }

    /// Every user.
    pub fn user_list(&self) -> Answer {
        Answer::Users(self.view.state().users.keys().cloned().collect())
    }

    /// Adds a role.
    ///
    /// # Errors
    /// [`Error::RoleEmpty`], [`Error::RoleAlreadyExist`].
    pub fn role_add(&mut self, name: &str, backend: &Backend) -> Result<(), Error> {
        if name.is_empty() {
            return Err(Error::RoleEmpty);
        }
        self.view.change(|state| {
            if state.roles.contains_key(name) {
                return Err(Error::RoleAlreadyExist);
            }
            let record = authpb::Role {
                name: copied(name.as_bytes()),
                key_permission: Vec::new(),
            };
            put_role(state, name, record, backend);
            next_revision(state, backend);
            Ok(())
        })
    }

    /// Removes a role, and takes it from everybody.
    ///
    /// # Errors
    /// [`Error::InvalidManagement`] for root while authentication is on, [`Error::RoleNotFound`].
    pub fn role_delete(&mut self, name: &str, backend: &Backend) -> Result<(), Error> {
        self.view.change(|state| {
            if state.enabled && name == ROOT {
                return Err(Error::InvalidManagement);
            }
            state.roles.remove(name).ok_or(Error::RoleNotFound)?;
            backend.delete(Bucket::AuthRoles, name.as_bytes());
            let changed: Vec<authpb::User> = state
                .users
                .values()
                .filter_map(|user| without_role(&user.record, name))
                .collect();
            for record in changed {
                put_user(state, record, backend);
            }
            next_revision(state, backend);
            Ok(())
        })
    }

    /// What a role permits, which those who have it may ask.
    ///
    /// # Errors
    /// As [`State::is_admin_permitted`] for others; [`Error::RoleNotFound`].
    pub fn role_get(&self, name: &str, who: &AuthInfo) -> Result<Answer, Error> {
        let state = self.view.state();
        if !state.has_role(&who.username, name) {
            state.is_admin_permitted(who)?;
        }
        let role = state.roles.get(name).ok_or(Error::RoleNotFound)?;
        if name == ROOT {
            return Ok(Answer::Permissions(vec![Permission {
                perm_type: Type::Readwrite as i32,
                key: Bytes::new(),
                range_end: Bytes::from_static(&[0]),
            }]));
        }
        Ok(Answer::Permissions(role.key_permission.clone()))
    }

    /// Every role.
    pub fn role_list(&self) -> Answer {
        Answer::Roles(self.view.state().roles.keys().cloned().collect())
    }

    /// Lets a role do more, or something else with the same range.
    ///
    /// # Errors
    /// [`Error::PermissionNotGiven`], [`Error::InvalidManagement`] for a range that is none,
    /// [`Error::RoleNotFound`].
    pub fn role_grant_permission(
        &mut self,
        request: &pb::AuthRoleGrantPermissionRequest,
        backend: &Backend,
    ) -> Result<(), Error> {
        let given = request.perm.as_ref().ok_or(Error::PermissionNotGiven)?;
        if !is_valid_grant(&given.key, &given.range_end) {
            return Err(Error::InvalidManagement);
        }
        self.view.change(|state| {
            let mut role = state
                .roles
                .get(&request.name)
                .ok_or(Error::RoleNotFound)?
                .clone();
            let held = &mut role.key_permission;
            // Only the first of those with the same key is compared, as the original does: members of
            // both kinds must keep the same records.
            let at = held.partition_point(|permission| permission.key < given.key);
            match held.get_mut(at) {
                Some(same) if same.key == given.key && same.range_end == given.range_end => {
                    same.perm_type = given.perm_type;
                }
                _ => {
                    held.push(Permission {
                        perm_type: given.perm_type,
                        key: copied(&given.key),
                        range_end: copied(&given.range_end),
                    });
                    held.sort_by(|a, b| a.key.cmp(&b.key));
                }
            }
            put_role(state, &request.name, role, backend);
            next_revision(state, backend);
            Ok(())
        })
    }

    /// Takes a permission from a role; its range must be named exactly.
    ///
    /// # Errors
    /// [`Error::RoleNotFound`], [`Error::PermissionNotGranted`].
    pub fn role_revoke_permission(
        &mut self,
        request: &pb::AuthRoleRevokePermissionRequest,
        backend: &Backend,
    ) -> Result<(), Error> {
        self.view.change(|state| {
            let role = state.roles.get(&request.role).ok_or(Error::RoleNotFound)?;
            let mut left = role.clone();
            left.key_permission.retain(|permission| {
                permission.key != request.key || permission.range_end != request.range_end
            });
            if left.key_permission.len() == role.key_permission.len() {
                return Err(Error::PermissionNotGranted);
            }
            put_role(state, &request.role, left, backend);
            next_revision(state, backend);
            Ok(())
        })
    }
}

/// Reads the records of a bucket, by name.
fn records<T: Message + Default>(
    backend: &Backend,
    bucket: Bucket,
) -> Result<BTreeMap<String, T>, ReadError> {
    let mut found = BTreeMap::new();
    let mut bad = None;
    backend.view().scan(bucket, &[], None, &mut |key, value| {
        // Copied: records live on, and are not to keep a page of the file.
        match (std::str::from_utf8(key), T::decode(copied(value))) {
            (Ok(name), Ok(record)) => {
                found.insert(name.to_owned(), record);
                ControlFlow::Continue(())
            }
            (Err(error), _) => {
                bad = Some(format!("bucket {}, key {key:02x?}: {error}", bucket.name()));
                ControlFlow::Break(())
            }
            (_, Err(error)) => {
                bad = Some(format!("bucket {}, key {key:02x?}: {error}", bucket.name()));
                ControlFlow::Break(())
            }
        }
    })?;
    match bad {
        Some(text) => Err(ReadError(text)),
        None => Ok(found),
    }
}

/// Bytes that keep no larger buffer alive.
fn copied(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

fn next_revision(state: &mut State, backend: &Backend) {
    state.revision += 1;
    backend.put(Bucket::Auth, REVISION_KEY, &state.revision.to_be_bytes());
}

fn put_user(state: &mut State, record: authpb::User, backend: &Backend) {
    backend.put(Bucket::AuthUsers, &record.name, &record.encode_to_vec());
    let name = String::from_utf8_lossy(&record.name).into_owned();
    let user = User::new(record, &state.roles);
    state.users.insert(name, Arc::new(user));
}

/// Keeps a role, and what follows from it for those who have it.
fn put_role(state: &mut State, name: &str, record: authpb::Role, backend: &Backend) {
    backend.put(Bucket::AuthRoles, name.as_bytes(), &record.encode_to_vec());
    state.roles.insert(name.to_owned(), record);
    for user in state.users.values_mut() {
        if user.record.roles.iter().any(|role| role == name) {
            *user = Arc::new(User::new(user.record.clone(), &state.roles));
        }
    }
}

/// The record without a role; `None` when it has not got it.
fn without_role(record: &authpb::User, role: &str) -> Option<authpb::User> {
    let mut left = record.clone();
    left.roles.retain(|held| held != role);
    (left.roles.len() < record.roles.len()).then_some(left)
}

/// The hash to keep. Requests carry it, base64; those in logs of etcd before 3.5 carry the password
/// itself, whose salt is then made of what is unique about the entry: it need not be secret.
fn select_password(name: &str, password: &str, hashed: &str, index: u64) -> Result<Bytes, Error> {
    if password.is_empty() || !hashed.is_empty() {
        return match password::from_request(hashed) {
            Some(hash) => Ok(hash.into()),
            None => Err(Error::NoPasswordUser),
        };
    }
    let mut digest = Sha1::new();
    digest.update(index.to_be_bytes());
    digest.update(name);
    let digest: [u8; 20] = digest.finalize().into();
    let mut salt = [0; SALT_LEN];
    salt.copy_from_slice(&digest[..SALT_LEN]);
    match password::hash(password.as_bytes(), password::COST_DEFAULT, salt) {
        Ok(hash) => Ok(hash.into()),
        Err(_) => Err(Error::NoPasswordUser),
    }
}
