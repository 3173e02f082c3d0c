//! Users and roles with the database they live in: rules row by row, and a naive model.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use ferrite_auth::{Answer, AuthInfo, Checker, Error, Store};
use ferrite_mvcc::schema::Bucket;
use ferrite_mvcc::{Backend, MemFile};
use ferrite_proto::authpb::{Permission, UserAddOptions, permission::Type};
use ferrite_proto::etcdserverpb::{self as pb, request_op::Request};
use proptest::prelude::*;

fn backend() -> Backend {
    Backend::new(Arc::new(MemFile::default()))
}

struct Fixture {
    store: Store,
    backend: Backend,
}

impl Fixture {
    fn new() -> Self {
        let backend = backend();
        let mut store = Store::load(&backend).expect("empty");
        store.initialize(&backend);
        Fixture { store, backend }
    }

    fn add(&mut self, name: &str) -> Result<(), Error> {
        let request = pb::AuthUserAddRequest {
            name: name.into(),
            hashed_password: "aGFzaA==".into(),
            ..Default::default()
        };
        self.store.user_add(&request, 1, &self.backend)
    }

    fn grant(&mut self, user: &str, role: &str) -> Result<(), Error> {
        let request = pb::AuthUserGrantRoleRequest {
            user: user.into(),
            role: role.into(),
        };
        self.store.user_grant_role(&request, &self.backend)
    }

    fn revoke(&mut self, name: &str, role: &str) -> Result<(), Error> {
        let request = pb::AuthUserRevokeRoleRequest {
            name: name.into(),
            role: role.into(),
        };
        self.store.user_revoke_role(&request, &self.backend)
    }

    fn role(&mut self, name: &str) -> Result<(), Error> {
        self.store.role_add(name, &self.backend)
    }

    fn permit(&mut self, role: &str, kind: Type, key: &str, end: &str) -> Result<(), Error> {
        let request = pb::AuthRoleGrantPermissionRequest {
            name: role.into(),
            perm: Some(Permission {
                perm_type: kind as i32,
                key: key.to_owned().into(),
                range_end: end.to_owned().into(),
            }),
        };
        self.store.role_grant_permission(&request, &self.backend)
    }

    fn forbid(&mut self, role: &str, key: &str, end: &str) -> Result<(), Error> {
        let request = pb::AuthRoleRevokePermissionRequest {
            role: role.into(),
            key: key.to_owned().into(),
            range_end: end.to_owned().into(),
        };
        self.store.role_revoke_permission(&request, &self.backend)
    }

    fn permissions(&self, role: &str) -> Vec<(i32, String, String)> {
        let Ok(Answer::Permissions(all)) = self.store.role_get(role, &root(&self.store)) else {
            panic!("no such role");
        };
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        all.iter()
            .map(|p| (p.perm_type, text(&p.key), text(&p.range_end)))
            .collect()
    }

    fn revision(&self) -> u64 {
        self.store.view().revision()
    }

    /// Root with its role, and authentication on.
    fn on() -> Self {
        let mut fixture = Fixture::new();
        fixture.add("root").unwrap();
        fixture.grant("root", "root").unwrap();
        fixture.store.enable(&fixture.backend).unwrap();
        fixture
    }

    fn bucket(&self, bucket: Bucket) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut pairs = Vec::new();
        self.backend
            .view()
            .scan(bucket, &[], None, &mut |key, value| {
                pairs.push((key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            })
            .unwrap();
        pairs
    }
}

fn who(store: &Store, name: &str) -> AuthInfo {
    AuthInfo {
        username: name.into(),
        revision: store.view().revision(),
    }
}

fn root(store: &Store) -> AuthInfo {
    who(store, "root")
}

#[test]
fn enabling_needs_root_and_the_revision_counts_effective_changes() {
    let mut f = Fixture::new();
    assert_eq!(f.revision(), 1);
    assert_eq!(f.store.enable(&f.backend), Err(Error::RootUserNotExist));
    f.add("root").unwrap();
    assert_eq!(f.store.enable(&f.backend), Err(Error::RootRoleNotExist));
    assert_eq!(f.revision(), 2);
    // The role root need not exist.
    f.grant("root", "root").unwrap();
    f.grant("root", "root").unwrap();
    assert_eq!(
        f.revision(),
        3,
        "a role that is held already changes nothing"
    );
    f.store.enable(&f.backend).unwrap();
    f.store.enable(&f.backend).unwrap();
    assert_eq!(
        f.store.status(),
        Answer::Status {
            enabled: true,
            revision: 3
        }
    );
    assert!(f.store.disable(&f.backend));
    assert!(!f.store.disable(&f.backend));
    assert_eq!(f.revision(), 4);
    // Failures change nothing.
    assert_eq!(f.add("root"), Err(Error::UserAlreadyExist));
    assert_eq!(f.add(""), Err(Error::UserEmpty));
    assert_eq!(f.role(""), Err(Error::RoleEmpty));
    assert_eq!(f.grant("x", "root"), Err(Error::UserNotFound));
    assert_eq!(f.grant("root", "x"), Err(Error::RoleNotFound));
    assert_eq!(f.revoke("root", "x"), Err(Error::RoleNotGranted));
    assert_eq!(f.revoke("x", "x"), Err(Error::UserNotFound));
    assert_eq!(f.forbid("x", "a", ""), Err(Error::RoleNotFound));
    assert_eq!(
        f.store.user_delete("x", &f.backend),
        Err(Error::UserNotFound)
    );
    assert_eq!(
        f.store.role_delete("x", &f.backend),
        Err(Error::RoleNotFound)
    );
    assert_eq!(f.revision(), 4);
}

#[test]
fn root_cannot_be_locked_out_while_authentication_is_on() {
    let mut f = Fixture::on();
    f.role("root").unwrap();
    assert_eq!(
        f.store.user_delete("root", &f.backend),
        Err(Error::InvalidManagement)
    );
    assert_eq!(
        f.store.role_delete("root", &f.backend),
        Err(Error::InvalidManagement)
    );
    assert_eq!(f.revoke("root", "root"), Err(Error::InvalidManagement));
    f.store.disable(&f.backend);
    f.revoke("root", "root").unwrap();
    f.store.role_delete("root", &f.backend).unwrap();
    f.store.user_delete("root", &f.backend).unwrap();
}

#[test]
fn grants_are_checked_in_order_kept_sorted_and_replaced() {
    let mut f = Fixture::on();
    f.role("r").unwrap();
    let nothing = pb::AuthRoleGrantPermissionRequest {
        name: "none".into(),
        perm: None,
    };
    assert_eq!(
        f.store.role_grant_permission(&nothing, &f.backend),
        Err(Error::PermissionNotGiven)
    );
    assert_eq!(
        f.permit("none", Type::Read, "b", "a"),
        Err(Error::InvalidManagement)
    );
    assert_eq!(
        f.permit("none", Type::Read, "b", "b"),
        Err(Error::InvalidManagement)
    );
    assert_eq!(
        f.permit("none", Type::Read, "", "a"),
        Err(Error::InvalidManagement)
    );
    assert_eq!(
        f.permit("none", Type::Read, "a", "b"),
        Err(Error::RoleNotFound)
    );
    f.permit("r", Type::Read, "m", "z").unwrap();
    f.permit("r", Type::Write, "a", "\0").unwrap();
    f.permit("r", Type::Readwrite, "m", "z").unwrap();
    let expected = [(1, "a".into(), "\0".into()), (2, "m".into(), "z".into())];
    assert_eq!(f.permissions("r"), expected);
    assert_eq!(f.forbid("r", "m", ""), Err(Error::PermissionNotGranted));
    f.forbid("r", "m", "z").unwrap();
    assert_eq!(f.permissions("r"), expected[..1]);
}

#[test]
fn the_role_root_shows_one_permission_and_only_when_it_exists() {
    let mut f = Fixture::on();
    assert_eq!(
        f.store.role_get("root", &root(&f.store)),
        Err(Error::RoleNotFound)
    );
    f.role("root").unwrap();
    assert_eq!(f.permissions("root"), [(2, String::new(), "\0".into())]);
}

#[test]
fn one_may_ask_about_oneself() {
    let mut f = Fixture::on();
    f.add("u").unwrap();
    f.add("v").unwrap();
    f.role("mine").unwrap();
    f.role("other").unwrap();
    f.grant("u", "mine").unwrap();
    let u = who(&f.store, "u");
    assert_eq!(
        f.store.user_get("u", &u),
        Ok(Answer::Roles(vec!["mine".into()]))
    );
    assert_eq!(f.store.user_get("v", &u), Err(Error::PermissionDenied));
    assert_eq!(
        f.store.role_get("mine", &u),
        Ok(Answer::Permissions(vec![]))
    );
    assert_eq!(f.store.role_get("other", &u), Err(Error::PermissionDenied));
    let nobody = AuthInfo::default();
    assert_eq!(f.store.user_get("v", &nobody), Err(Error::UserEmpty));
    assert_eq!(f.store.user_get("", &nobody), Err(Error::UserNotFound));
    assert_eq!(
        f.store.user_get("v", &who(&f.store, "ghost")),
        Err(Error::UserNotFound)
    );
}

#[test]
fn key_access_is_judged_by_revision_then_user_then_grants() {
    let mut f = Fixture::on();
    f.add("u").unwrap();
    f.role("r").unwrap();
    f.permit("r", Type::Read, "a", "c").unwrap();
    f.grant("u", "r").unwrap();
    let state = f.store.view().state();
    let u = who(&f.store, "u");
    assert_eq!(state.is_range_permitted(&u, b"a", b"c"), Ok(()));
    assert_eq!(
        state.is_range_permitted(&u, b"a", b"d"),
        Err(Error::PermissionDenied)
    );
    assert_eq!(
        state.is_put_permitted(&u, b"a"),
        Err(Error::PermissionDenied)
    );
    let old = AuthInfo {
        revision: u.revision - 1,
        ..u.clone()
    };
    assert_eq!(
        state.is_range_permitted(&old, b"a", b""),
        Err(Error::OldRevision)
    );
    let nobody = AuthInfo::default();
    assert_eq!(
        state.is_range_permitted(&nobody, b"a", b""),
        Err(Error::UserEmpty)
    );
    let ghost = who(&f.store, "ghost");
    assert_eq!(
        state.is_range_permitted(&ghost, b"a", b""),
        Err(Error::PermissionDenied)
    );
    // To administer, the revision does not matter.
    assert_eq!(state.is_admin_permitted(&old), Err(Error::PermissionDenied));
    assert_eq!(state.is_admin_permitted(&ghost), Err(Error::UserNotFound));
    assert_eq!(state.is_admin_permitted(&nobody), Err(Error::UserEmpty));
    let old_root = AuthInfo {
        username: "root".into(),
        revision: 1,
    };
    assert_eq!(state.is_admin_permitted(&old_root), Ok(()));
    f.store.disable(&f.backend);
    assert_eq!(
        f.store.view().state().is_put_permitted(&nobody, b"a"),
        Ok(())
    );
}

#[test]
fn a_transaction_needs_all_that_is_in_it() {
    let mut f = Fixture::on();
    f.add("u").unwrap();
    f.role("r").unwrap();
    f.permit("r", Type::Read, "r", "").unwrap();
    f.permit("r", Type::Write, "w", "").unwrap();
    f.permit("r", Type::Readwrite, "b", "").unwrap();
    f.grant("u", "r").unwrap();
    let state = f.store.view().state();
    let u = who(&f.store, "u");
    let on_lease = |id: i64| match id {
        1 => Some(vec![Box::from(*b"w")]),
        2 => Some(vec![Box::from(*b"w"), Box::from(*b"r")]),
        _ => None,
    };
    let checker = Checker::new(&state, &u, on_lease);
    let denied = Err(Error::PermissionDenied);
    let put = |key: &str, lease, prev_kv| pb::PutRequest {
        key: key.to_owned().into(),
        lease,
        prev_kv,
        ..Default::default()
    };
    assert_eq!(checker.put(&put("w", 0, false)), Ok(()));
    assert_eq!(
        checker.put(&put("w", 0, true)),
        denied,
        "the previous pair is read"
    );
    assert_eq!(checker.put(&put("b", 0, true)), Ok(()));
    assert_eq!(checker.put(&put("r", 0, false)), denied);
    assert_eq!(checker.put(&put("w", 1, false)), Ok(()));
    assert_eq!(
        checker.put(&put("w", 2, false)),
        denied,
        "another key on the lease"
    );
    assert_eq!(
        checker.put(&put("w", 3, false)),
        Ok(()),
        "apply will not find the lease"
    );
    assert_eq!((checker.lease(1), checker.lease(2)), (Ok(()), denied));
    assert_eq!(
        (checker.lease_keys(1), checker.lease_keys(9)),
        (denied, Ok(()))
    );
    let delete = |key: &str, prev_kv| pb::DeleteRangeRequest {
        key: key.to_owned().into(),
        prev_kv,
        ..Default::default()
    };
    assert_eq!(checker.delete_range(&delete("w", false)), Ok(()));
    assert_eq!(checker.delete_range(&delete("w", true)), denied);
    let range = |key: &str| {
        Request::RequestRange(pb::RangeRequest {
            key: key.to_owned().into(),
            ..Default::default()
        })
    };
    let op = |request| {
        vec![pb::RequestOp {
            request: Some(request),
        }]
    };
    let compare = |key: &str| {
        vec![pb::Compare {
            key: key.to_owned().into(),
            ..Default::default()
        }]
    };
    let txn = |compare, success, failure| pb::TxnRequest {
        compare,
        success,
        failure,
    };
    let none = Vec::new;
    assert_eq!(
        checker.txn(&txn(compare("r"), op(range("b")), none())),
        Ok(())
    );
    assert_eq!(checker.txn(&txn(compare("w"), none(), none())), denied);
    assert_eq!(checker.txn(&txn(vec![], op(range("w")), none())), denied);
    assert_eq!(checker.txn(&txn(vec![], none(), op(range("w")))), denied);
    let nested = op(Request::RequestTxn(txn(
        vec![],
        vec![],
        op(Request::RequestPut(put("r", 0, false))),
    )));
    assert_eq!(checker.txn(&txn(vec![], none(), nested)), denied);
    let leased = op(Request::RequestPut(put("w", 2, false)));
    assert_eq!(checker.txn(&txn(vec![], leased, none())), denied);
    let read = op(Request::RequestDeleteRange(delete("w", true)));
    assert_eq!(checker.txn(&txn(vec![], read, none())), denied);
}

#[test]
fn passwords_are_kept_as_sent_and_users_without_one_have_none() {
    let mut f = Fixture::on();
    let add = |f: &mut Fixture, request: pb::AuthUserAddRequest| {
        f.store.user_add(&request, 77, &f.backend)
    };
    let no_password = pb::AuthUserAddRequest {
        name: "cert".into(),
        password: "ignored".into(),
        options: Some(UserAddOptions { no_password: true }),
        ..Default::default()
    };
    add(&mut f, no_password).unwrap();
    let bad = pb::AuthUserAddRequest {
        name: "bad".into(),
        hashed_password: "no base64!".into(),
        ..Default::default()
    };
    assert_eq!(add(&mut f, bad), Err(Error::NoPasswordUser));
    let plain = pb::AuthUserAddRequest {
        name: "old".into(),
        password: "of etcd 3.4".into(),
        ..Default::default()
    };
    add(&mut f, plain).unwrap();
    let state = f.store.view().state();
    let credentials = |name| state.credentials(name).map(|found| found.hashed.to_vec());
    assert_eq!(credentials("cert"), Err(Error::NoPasswordUser));
    assert_eq!(credentials("ghost"), Err(Error::AuthFailed));
    assert_eq!(credentials("root").as_deref(), Ok(&b"hash"[..]));
    let hashed = credentials("old").unwrap();
    assert!(ferrite_auth::password::matches(&hashed, b"of etcd 3.4"));
    let ask = |f: &Fixture, name: &str| {
        let request = pb::InternalAuthenticateRequest {
            name: name.into(),
            simple_token: "letters".into(),
            ..Default::default()
        };
        f.store.authenticate(&request, 9)
    };
    assert_eq!(ask(&f, "cert"), Err(Error::AuthFailed));
    assert_eq!(
        ask(&f, "old"),
        Ok(Answer::Authenticated {
            user: "old".into(),
            revision: f.revision(),
            prefix: "letters".into(),
            index: 9
        })
    );
    let change = |f: &mut Fixture, name: &str, hashed: &str| {
        let request = pb::AuthUserChangePasswordRequest {
            name: name.into(),
            hashed_password: hashed.into(),
            ..Default::default()
        };
        f.store.user_change_password(&request, 78, &f.backend)
    };
    change(&mut f, "old", "bmV3").unwrap();
    change(&mut f, "cert", "bmV3").unwrap();
    assert_eq!(change(&mut f, "old", "?"), Err(Error::NoPasswordUser));
    assert_eq!(change(&mut f, "ghost", ""), Err(Error::UserNotFound));
    let state = f.store.view().state();
    assert_eq!(state.credentials("old").unwrap().hashed, "new");
    assert_eq!(
        state.credentials("cert").map(drop),
        Err(Error::NoPasswordUser)
    );
    f.store.disable(&f.backend);
    assert_eq!(
        f.store.view().state().credentials("old").map(drop),
        Err(Error::NotEnabled)
    );
    assert_eq!(ask(&f, "old"), Err(Error::NotEnabled));
}

/// Bytes that etcd 3.5.1 left in its buckets for the same requests.
#[test]
fn records_have_etcds_bytes() {
    let mut f = Fixture::new();
    f.add("root").unwrap();
    f.grant("root", "root").unwrap();
    f.role("r").unwrap();
    f.permit("r", Type::Read, "a", "\0").unwrap();
    f.permit("r", Type::Readwrite, "b", "").unwrap();
    f.store.enable(&f.backend).unwrap();
    assert_eq!(
        f.bucket(Bucket::Auth),
        [
            (b"authEnabled".to_vec(), vec![1]),
            (b"authRevision".to_vec(), vec![0, 0, 0, 0, 0, 0, 0, 6])
        ]
    );
    assert_eq!(
        f.bucket(Bucket::AuthUsers),
        [(
            b"root".to_vec(),
            b"\x0a\x04root\x12\x04hash\x1a\x04root\x22\x00".to_vec()
        )]
    );
    // READ is the default and takes no bytes.
    assert_eq!(
        f.bucket(Bucket::AuthRoles),
        [(
            b"r".to_vec(),
            b"\x0a\x01r\x12\x06\x12\x01a\x1a\x01\x00\x12\x05\x08\x02\x12\x01b".to_vec()
        )]
    );
}

#[test]
fn a_snapshot_names_the_users_whose_tokens_end() {
    let mut f = Fixture::on();
    for name in ["gone", "same", "changed"] {
        f.add(name).unwrap();
    }
    let mut other = Fixture::on();
    for name in ["same", "changed", "new"] {
        other.add(name).unwrap();
    }
    let request = pb::AuthUserChangePasswordRequest {
        name: "changed".into(),
        hashed_password: "bmV3".into(),
        ..Default::default()
    };
    other
        .store
        .user_change_password(&request, 1, &other.backend)
        .unwrap();
    let view = f.store.view().clone();
    assert_eq!(f.store.replace(&other.store), ["changed", "gone"]);
    assert_eq!(view.state().credentials("changed").unwrap().hashed, "new");
    let off = Fixture::new();
    assert_eq!(f.store.replace(&off.store).len(), 4, "everybody's");
    assert!(!view.enabled());
}

#[test]
fn damaged_records_are_named() {
    for (bucket, key, value) in [
        (Bucket::Auth, &b"authRevision"[..], &[1u8][..]),
        (Bucket::AuthUsers, b"u", b"\xff"),
        (Bucket::AuthRoles, b"r", b"\x0a\xff"),
        (Bucket::AuthRoles, b"\xff", b""),
    ] {
        let mut file = MemFile::default();
        file.put(bucket, key, value);
        let error = Store::load(&Backend::new(Arc::new(file))).expect_err("damaged");
        assert!(error.to_string().contains(bucket.name()), "{error}");
    }
}

/// A change as the model and the store take it.
#[derive(Debug, Clone)]
enum Change {
    AddUser(u8),
    DeleteUser(u8),
    AddRole(u8),
    DeleteRole(u8),
    Grant(u8, u8),
    Revoke(u8, u8),
    Permit(u8, Type, String, String),
    Forbid(u8, String, String),
    Reload,
}

fn change() -> impl Strategy<Value = Change> {
    let kind = prop_oneof![Just(Type::Read), Just(Type::Write), Just(Type::Readwrite)];
    let end = prop_oneof![Just(String::new()), Just("\0".to_owned()), "[a-d]{1,2}"];
    prop_oneof![
        (0..3u8).prop_map(Change::AddUser),
        (0..3u8).prop_map(Change::DeleteUser),
        (0..3u8).prop_map(Change::AddRole),
        (0..3u8).prop_map(Change::DeleteRole),
        (0..3u8, 0..3u8).prop_map(|(u, r)| Change::Grant(u, r)),
        (0..3u8, 0..3u8).prop_map(|(u, r)| Change::Grant(u, r)),
        (0..3u8, 0..3u8).prop_map(|(u, r)| Change::Revoke(u, r)),
        (0..3u8, kind, "[a-d]{1,2}", end.clone())
            .prop_map(|(r, t, k, e)| Change::Permit(r, t, k, e)),
        (0..3u8, "[a-d]", end).prop_map(|(r, k, e)| Change::Forbid(r, k, e)),
        Just(Change::Reload),
    ]
}

/// Roles by user and grants by role; a permission is looked for grant by grant.
#[derive(Default)]
struct Model {
    users: BTreeMap<u8, BTreeSet<u8>>,
    roles: BTreeMap<u8, Vec<(Type, String, String)>>,
}

impl Model {
    fn may(&self, user: u8, write: bool, key: &str) -> bool {
        let Some(roles) = self.users.get(&user) else {
            return false;
        };
        roles
            .iter()
            .filter_map(|role| self.roles.get(role))
            .flatten()
            .any(|(kind, from, to)| {
                let kind = match kind {
                    Type::Readwrite => true,
                    Type::Read => !write,
                    Type::Write => write,
                };
                let inside = match to.as_str() {
                    "" => key == from,
                    "\0" => key >= from.as_str(),
                    to => (from.as_str()..to).contains(&key),
                };
                kind && inside
            })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn permissions_follow_a_naive_model(changes in prop::collection::vec(change(), 0..40)) {
        let mut f = Fixture::on();
        let mut model = Model::default();
        let user = |n: u8| format!("u{n}");
        let role = |n: u8| format!("r{n}");
        for change in changes {
            let before = f.revision();
            let done = match change {
                Change::AddUser(u) => {
                    model.users.entry(u).or_default();
                    f.add(&user(u))
                }
                Change::DeleteUser(u) => {
                    model.users.remove(&u);
                    f.store.user_delete(&user(u), &f.backend)
                }
                Change::AddRole(r) => {
                    model.roles.entry(r).or_default();
                    f.role(&role(r))
                }
                Change::DeleteRole(r) => {
                    if model.roles.remove(&r).is_some() {
                        for roles in model.users.values_mut() {
                            roles.remove(&r);
                        }
                    }
                    f.store.role_delete(&role(r), &f.backend)
                }
                Change::Grant(u, r) => {
                    if model.roles.contains_key(&r) && let Some(roles) = model.users.get_mut(&u) {
                        roles.insert(r);
                    }
                    f.grant(&user(u), &role(r))
                }
                Change::Revoke(u, r) => {
                    if let Some(roles) = model.users.get_mut(&u) {
                        roles.remove(&r);
                    }
                    f.revoke(&user(u), &role(r))
                }
                Change::Permit(r, kind, key, end) => {
                    let valid = end.is_empty() || end == "\0" || key < end;
                    if valid && let Some(grants) = model.roles.get_mut(&r) {
                        // As in etcd only the first grant with this key is replaced.
                        match grants.iter_mut().find(|(_, from, _)| *from == key) {
                            Some(first) if first.2 == end => first.0 = kind,
                            _ => grants.push((kind, key.clone(), end.clone())),
                        }
                    }
                    f.permit(&role(r), kind, &key, &end)
                }
                Change::Forbid(r, key, end) => {
                    if let Some(grants) = model.roles.get_mut(&r) {
                        grants.retain(|(_, from, to)| *from != key || *to != end);
                    }
                    f.forbid(&role(r), &key, &end)
                }
                Change::Reload => {
                    f.store = Store::load(&f.backend).unwrap();
                    Ok(())
                }
            };
            prop_assert!(f.revision() <= before + 1);
            if done.is_err() {
                prop_assert_eq!(f.revision(), before);
            }
        }
        let state = f.store.view().state();
        for u in 0..3 {
            let who = who(&f.store, &user(u));
            for key in ["a", "aa", "b", "bc", "c", "cd", "d", "dd", "e", "z"] {
                prop_assert_eq!(state.is_put_permitted(&who, key.as_bytes()).is_ok(), model.may(u, true, key));
                prop_assert_eq!(
                    state.is_range_permitted(&who, key.as_bytes(), b"").is_ok(),
                    model.may(u, false, key)
                );
            }
        }
    }
}
