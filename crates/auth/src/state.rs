//! Users, roles and switch as they are between two changes, and what they permit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ferrite_proto::authpb::{self, permission::Type};
use parking_lot::RwLock;

use crate::span::Spans;
use crate::{Error, ROOT};

/// Who asks, and which state of users and roles made that certain.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthInfo {
    /// The user; empty for nobody.
    pub username: String,
    /// Auth revision at which the user was recognised; 0 for nobody.
    pub revision: u64,
}

/// A user with what follows from its roles.
#[derive(Debug, Clone)]
pub(crate) struct User {
    pub(crate) record: authpb::User,
    root: bool,
    read: Spans,
    write: Spans,
}

impl User {
    pub(crate) fn new(record: authpb::User, roles: &BTreeMap<String, authpb::Role>) -> Self {
        let granted: Vec<&authpb::Permission> = record
            .roles
            .iter()
            .filter_map(|name| roles.get(name))
            .flat_map(|role| &role.key_permission)
            .collect();
        let spans = |kind: Type| {
            Spans::of(
                granted
                    .iter()
                    .filter(|permission| {
                        permission.perm_type == kind as i32
                            || permission.perm_type == Type::Readwrite as i32
                    })
                    .map(|permission| (&*permission.key, &*permission.range_end)),
            )
        };
        User {
            root: has_role(&record.roles, ROOT),
            read: spans(Type::Read),
            write: spans(Type::Write),
            record,
        }
    }
}

/// Roles are kept sorted, and looked for as in a sorted list.
pub(crate) fn has_role(roles: &[String], name: &str) -> bool {
    let at = roles.partition_point(|role| role.as_str() < name);
    roles.get(at).is_some_and(|role| role == name)
}

/// What a password is checked against.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The hash.
    pub hashed: bytes::Bytes,
    /// The auth revision it was read at.
    pub revision: u64,
}

/// All there is to know at one auth revision.
#[derive(Debug, Clone, Default)]
pub struct State {
    pub(crate) enabled: bool,
    pub(crate) revision: u64,
    pub(crate) users: BTreeMap<String, Arc<User>>,
    pub(crate) roles: BTreeMap<String, authpb::Role>,
}

impl State {
    /// Whether authentication is on.
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// Counts the changes of users and roles.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The hash of a user's password.
    ///
    /// # Errors
    /// [`Error::NotEnabled`], [`Error::AuthFailed`] for an unknown user, [`Error::NoPasswordUser`].
    pub fn credentials(&self, name: &str) -> Result<Credentials, Error> {
        if !self.enabled {
            return Err(Error::NotEnabled);
        }
        let record = &self.users.get(name).ok_or(Error::AuthFailed)?.record;
        if record.options.is_some_and(|options| options.no_password) {
            return Err(Error::NoPasswordUser);
        }
        Ok(Credentials {
            hashed: record.password.clone(),
            revision: self.revision,
        })
    }

    fn permits(
        &self,
        who: &AuthInfo,
        range: (&[u8], &[u8]),
        spans: impl Fn(&User) -> &Spans,
    ) -> Result<(), Error> {
        if !self.enabled {
            return Ok(());
        }
        if who.revision == 0 {
            return Err(Error::UserEmpty);
        }
        if who.revision < self.revision {
            return Err(Error::OldRevision);
        }
        match self.users.get(&who.username) {
            Some(user) if user.root || spans(user).cover(range.0, range.1) => Ok(()),
            _ => Err(Error::PermissionDenied),
        }
    }

    /// May this key be written?
    ///
    /// # Errors
    /// [`Error::UserEmpty`], [`Error::OldRevision`], [`Error::PermissionDenied`]; likewise below.
    pub fn is_put_permitted(&self, who: &AuthInfo, key: &[u8]) -> Result<(), Error> {
        self.permits(who, (key, &[]), |user| &user.write)
    }

    /// May this key or range be read?
    ///
    /// # Errors
    /// As [`State::is_put_permitted`].
    pub fn is_range_permitted(
        &self,
        who: &AuthInfo,
        key: &[u8],
        range_end: &[u8],
    ) -> Result<(), Error> {
        self.permits(who, (key, range_end), |user| &user.read)
    }

    /// May this key or range be deleted?
    ///
    /// # Errors
    /// As [`State::is_put_permitted`].
    pub fn is_delete_range_permitted(
        &self,
        who: &AuthInfo,
        key: &[u8],
        range_end: &[u8],
    ) -> Result<(), Error> {
        self.permits(who, (key, range_end), |user| &user.write)
    }

    /// May this user administer? The revision does not matter here.
    ///
    /// # Errors
    /// [`Error::UserEmpty`], [`Error::UserNotFound`], [`Error::PermissionDenied`].
    pub fn is_admin_permitted(&self, who: &AuthInfo) -> Result<(), Error> {
        if !self.enabled {
            return Ok(());
        }
        if who.username.is_empty() {
            return Err(Error::UserEmpty);
        }
        match self.users.get(&who.username) {
            None => Err(Error::UserNotFound),
            Some(user) if user.root => Ok(()),
            Some(_) => Err(Error::PermissionDenied),
        }
    }

    /// Whether a user exists and has a role.
    pub fn has_role(&self, user: &str, role: &str) -> bool {
        self.users
            .get(user)
            .is_some_and(|user| user.record.roles.iter().any(|held| held == role))
    }
}

/// The state as serving threads see it; it follows every change, an installed snapshot included. Cheap
/// to clone.
#[derive(Debug, Clone, Default)]
pub struct View(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    /// Beside the lock: most clusters run without authentication, and their calls must not pay for it.
    enabled: AtomicBool,
    state: RwLock<Arc<State>>,
}

impl View {
    pub(crate) fn new(state: State) -> Self {
        let view = View::default();
        view.set(state);
        view
    }

    /// Whether authentication is on.
    pub fn enabled(&self) -> bool {
        self.0.enabled.load(Ordering::Acquire)
    }

    /// The auth revision.
    pub fn revision(&self) -> u64 {
        self.0.state.read().revision
    }

    /// The state of this moment.
    pub fn state(&self) -> Arc<State> {
        Arc::clone(&self.0.state.read())
    }

    pub(crate) fn set(&self, state: State) {
        let mut current = self.0.state.write();
        self.0.enabled.store(state.enabled, Ordering::Release);
        *current = Arc::new(state);
    }

    /// Changes the state. Copies it only while a reader holds the one before.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut current = self.0.state.write();
        let state = Arc::make_mut(&mut current);
        let done = change(state);
        self.0.enabled.store(state.enabled, Ordering::Release);
        done
    }
}
