//! What is refused about users, roles and who calls.

use ferrite_client::pb;
use ferrite_proto::authpb::{Permission, UserAddOptions};
use ferrite_testkit::{Client, Cluster, Kind, oracle};
use tonic::Code::{self, *};

use super::{put_request, range, refused};
use crate::auth::{
    CHEAP, add_role, add_user, change_password, enable, grant_role, permit, revoke_role, token,
    with_token,
};
use crate::beside_others;

type Answer = (Code, String);

/// A row, the code and text that it asks for, and whether 3.5.1 says the same.
type Row = (&'static str, Code, &'static str, bool);

/// In this order: each row finds what those before it have left.
const ROWS: &[Row] = &[
    (
        "ER-40",
        FailedPrecondition,
        "etcdserver: authentication is not enabled",
        true,
    ),
    (
        "ER-27",
        FailedPrecondition,
        "etcdserver: root user does not exist",
        true,
    ),
    (
        "ER-28",
        FailedPrecondition,
        "etcdserver: root user does not have root role",
        true,
    ),
    (
        "ER-29",
        FailedPrecondition,
        "etcdserver: user name already exists",
        true,
    ),
    (
        "ER-30 add",
        InvalidArgument,
        "etcdserver: user name is empty",
        true,
    ),
    (
        "ER-31 get",
        FailedPrecondition,
        "etcdserver: user name not found",
        true,
    ),
    (
        "ER-31 delete",
        FailedPrecondition,
        "etcdserver: user name not found",
        true,
    ),
    (
        "ER-31 password",
        FailedPrecondition,
        "etcdserver: user name not found",
        true,
    ),
    (
        "ER-31 grant",
        FailedPrecondition,
        "etcdserver: user name not found",
        true,
    ),
    (
        "ER-31 revoke",
        FailedPrecondition,
        "etcdserver: user name not found",
        true,
    ),
    (
        "ER-34",
        InvalidArgument,
        "etcdserver: role name is empty",
        true,
    ),
    (
        "ER-32",
        FailedPrecondition,
        "etcdserver: role name already exists",
        true,
    ),
    (
        "ER-33 get",
        FailedPrecondition,
        "etcdserver: role name not found",
        true,
    ),
    (
        "ER-33 delete",
        FailedPrecondition,
        "etcdserver: role name not found",
        true,
    ),
    (
        "ER-33 grant",
        FailedPrecondition,
        "etcdserver: role name not found",
        true,
    ),
    (
        "ER-33 permit",
        FailedPrecondition,
        "etcdserver: role name not found",
        true,
    ),
    (
        "ER-33 forbid",
        FailedPrecondition,
        "etcdserver: role name not found",
        true,
    ),
    // 3.5.1 ends by this one.
    (
        "ER-36",
        InvalidArgument,
        "etcdserver: permission not given",
        false,
    ),
    (
        "ER-38",
        FailedPrecondition,
        "etcdserver: role is not granted to the user",
        true,
    ),
    (
        "ER-39",
        FailedPrecondition,
        "etcdserver: permission is not granted to the role",
        true,
    ),
    ("ER-76 disabled twice", Ok, "", true),
    // Authentication is on from here.
    (
        "ER-35 password",
        InvalidArgument,
        "etcdserver: authentication failed, invalid user ID or password",
        true,
    ),
    (
        "ER-35 user",
        InvalidArgument,
        "etcdserver: authentication failed, invalid user ID or password",
        true,
    ),
    (
        "ER-74 no password",
        Unknown,
        "auth: authentication failed, password was given for no password user",
        true,
    ),
    // 3.5.1 cuts it off.
    (
        "ER-74 long password",
        Unknown,
        "bcrypt: password length exceeds 72 bytes",
        false,
    ),
    (
        "ER-41",
        Unauthenticated,
        "etcdserver: invalid auth token",
        true,
    ),
    (
        "ER-30 call",
        InvalidArgument,
        "etcdserver: user name is empty",
        true,
    ),
    (
        "ER-37 put",
        PermissionDenied,
        "etcdserver: permission denied",
        true,
    ),
    (
        "ER-37 range",
        PermissionDenied,
        "etcdserver: permission denied",
        true,
    ),
    (
        "ER-37 manage",
        PermissionDenied,
        "etcdserver: permission denied",
        true,
    ),
    (
        "ER-42 user",
        InvalidArgument,
        "etcdserver: invalid auth management",
        true,
    ),
    (
        "ER-42 role",
        InvalidArgument,
        "etcdserver: invalid auth management",
        true,
    ),
    (
        "ER-42 revoke",
        InvalidArgument,
        "etcdserver: invalid auth management",
        true,
    ),
];

struct World<'a> {
    cluster: &'a Cluster,
    /// Nobody, until authentication is on; root from then.
    root: Client,
}

async fn provoke(row: &str, world: &mut World<'_>) -> Answer {
    let root = world.root.clone();
    let nobody = world.cluster.client(0);
    let user = || async {
        let given = token(&nobody, "user", "userpw").await.expect("a token");
        with_token(world.cluster, 0, &given)
    };
    let outcome = |outcome: Result<(), tonic::Status>| refused(outcome.map(tonic::Response::new));
    let permission = Permission {
        key: "k".into(),
        ..Default::default()
    };
    match row {
        "ER-40" => refused(
            token(&root, "root", "rootpw")
                .await
                .map(tonic::Response::new),
        ),
        "ER-27" => outcome(enable(&root).await),
        "ER-28" => {
            add_user(&root, "root", "rootpw").await.expect("root");
            outcome(enable(&root).await)
        }
        "ER-29" => outcome(add_user(&root, "root", "again").await),
        "ER-30 add" => outcome(add_user(&root, "", "pw").await),
        "ER-31 get" => {
            let name = "missing".into();
            refused(root.auth().user_get(pb::AuthUserGetRequest { name }).await)
        }
        "ER-31 delete" => {
            let name = "missing".into();
            let request = pb::AuthUserDeleteRequest { name };
            refused(root.auth().user_delete(request).await)
        }
        "ER-31 password" => outcome(change_password(&root, "missing", "pw").await),
        "ER-31 grant" => outcome(grant_role(&root, "missing", "root").await),
        "ER-31 revoke" => outcome(revoke_role(&root, "missing", "root").await),
        "ER-34" => outcome(add_role(&root, "").await),
        "ER-32" => {
            add_role(&root, "role").await.expect("a role");
            outcome(add_role(&root, "role").await)
        }
        "ER-33 get" => {
            let role = "missing".into();
            refused(root.auth().role_get(pb::AuthRoleGetRequest { role }).await)
        }
        "ER-33 delete" => {
            let role = "missing".into();
            let request = pb::AuthRoleDeleteRequest { role };
            refused(root.auth().role_delete(request).await)
        }
        "ER-33 grant" => outcome(grant_role(&root, "root", "missing").await),
        "ER-33 permit" => {
            let kind = ferrite_proto::authpb::permission::Type::Read;
            outcome(permit(&root, "missing", kind, "k", "").await)
        }
        "ER-33 forbid" | "ER-39" => {
            let request = pb::AuthRoleRevokePermissionRequest {
                role: if row == "ER-39" { "role" } else { "missing" }.into(),
                key: permission.key,
                range_end: permission.range_end,
            };
            refused(root.auth().role_revoke_permission(request).await)
        }
        "ER-36" => {
            let request = pb::AuthRoleGrantPermissionRequest {
                name: "role".into(),
                perm: None,
            };
            refused(root.auth().role_grant_permission(request).await)
        }
        "ER-38" => {
            add_user(&root, "user", "userpw").await.expect("a user");
            outcome(revoke_role(&root, "user", "role").await)
        }
        "ER-76 disabled twice" => {
            let request = pb::AuthUserAddRequest {
                name: "certified".into(),
                options: Some(UserAddOptions { no_password: true }),
                ..Default::default()
            };
            root.auth().user_add(request).await.expect("a user");
            grant_role(&root, "root", "root").await.expect("its role");
            // What is off already may be switched off.
            let off = root.auth().auth_disable(pb::AuthDisableRequest {}).await;
            enable(&root).await.expect("authentication on");
            let given = token(&nobody, "root", "rootpw").await.expect("a token");
            world.root = with_token(world.cluster, 0, &given);
            (
                off.map_or_else(|status| status.code(), |_| Ok),
                String::new(),
            )
        }
        "ER-35 password" => {
            let given = token(&nobody, "root", "wrong").await;
            refused(given.map(tonic::Response::new))
        }
        "ER-35 user" => {
            let given = token(&nobody, "missing", "pw").await;
            refused(given.map(tonic::Response::new))
        }
        "ER-74 no password" => {
            let given = token(&nobody, "certified", "pw").await;
            refused(given.map(tonic::Response::new))
        }
        "ER-74 long password" => outcome(add_user(&root, "long", &"p".repeat(73)).await),
        "ER-41" => {
            let stranger = with_token(world.cluster, 0, "nobody.1");
            refused(stranger.kv().range(range("k")).await)
        }
        "ER-30 call" => refused(nobody.kv().put(put_request("k")).await),
        "ER-37 put" => refused(user().await.kv().put(put_request("k")).await),
        "ER-37 range" => refused(user().await.kv().range(range("k")).await),
        "ER-37 manage" => outcome(add_role(&user().await, "mine").await),
        "ER-42 user" => {
            let name = "root".into();
            let request = pb::AuthUserDeleteRequest { name };
            refused(root.auth().user_delete(request).await)
        }
        "ER-42 role" => {
            let role = "root".into();
            let request = pb::AuthRoleDeleteRequest { role };
            refused(root.auth().role_delete(request).await)
        }
        "ER-42 revoke" => outcome(revoke_role(&root, "root", "root").await),
        other => panic!("no way to bring {other} about"),
    }
}

async fn users(kind: Kind) {
    let cluster = Cluster::builder().kinds(&[kind]).extra_args(&[CHEAP]);
    let cluster = cluster.start().await;
    let mut world = World {
        cluster: &cluster,
        root: cluster.client(0),
    };
    let mut wrong = Vec::new();
    for (row, code, text, in_351) in ROWS {
        if kind == Kind::Etcd351 && !in_351 {
            continue;
        }
        let said = provoke(row, &mut world).await;
        if (said.0, said.1.as_str()) != (*code, *text) {
            wrong.push(format!("{row}: {said:?}, not {code:?} {text:?}"));
        }
    }
    assert!(wrong.is_empty(), "{kind:?}:\n{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_about_users() {
    let _turn = beside_others().await;
    users(Kind::Ferrite).await;
    if oracle().is_some() {
        users(Kind::Etcd351).await;
    }
}

/// A member that can only verify tokens has none to give.
#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_signs_nothing() {
    let _turn = beside_others().await;
    for kind in [Kind::Ferrite, Kind::Etcd351] {
        if kind == Kind::Etcd351 && oracle().is_none() {
            continue;
        }
        let public = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../token/tests/keys/ec256.pub.pem"
        );
        let flag = format!("--auth-token=jwt,pub-key={public},sign-method=ES256");
        let cluster = Cluster::builder()
            .kinds(&[kind])
            .extra_args(&[CHEAP, &flag]);
        let cluster = cluster.start().await;
        let client = cluster.client(0);
        add_user(&client, "root", "rootpw").await.expect("root");
        grant_role(&client, "root", "root").await.expect("its role");
        enable(&client).await.expect("authentication on");
        let given = token(&client, "root", "rootpw").await;
        assert_eq!(
            refused(given.map(tonic::Response::new)),
            (
                Unknown,
                "auth: token signing attempted with verify-only key".to_owned()
            ),
            "{kind:?}"
        );
    }
}
