//! Users, roles and tokens: against the original, beside it, and after it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use ferrite_client::{Client, Code, Config, Status, pb};
use ferrite_proto::authpb::{Permission, UserAddOptions, permission::Type};
use ferrite_testkit::{Cluster, Kind, PATIENCE, eventually, oracle};
use pb::request_op::Request as Op;
use pb::watch_request::RequestUnion;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Response;

use crate::beside_others;
use Kind::{Etcd351, Ferrite};

/// Debug builds hash slowly; nothing here depends on the cost.
pub(crate) const CHEAP: &str = "--bcrypt-cost=4";

/// A client of one member, with a token.
pub(crate) fn with_token(cluster: &Cluster, member: usize, token: &str) -> Client {
    let mut config = Config::new([cluster.member(member).endpoint()]);
    config.token = Some(token.to_owned());
    config.call_timeout = Some(Duration::from_secs(20));
    Client::new(config).expect("a loopback endpoint and a token")
}

pub(crate) async fn token(client: &Client, name: &str, password: &str) -> Result<String, Status> {
    let request = pb::AuthenticateRequest {
        name: name.into(),
        password: password.into(),
    };
    let response = client.auth().authenticate(request).await?;
    Ok(response.into_inner().token)
}

/// A client of one member that calls as this user.
async fn login(cluster: &Cluster, member: usize, name: &str, password: &str) -> Client {
    let given = token(&cluster.client(member), name, password).await;
    let given = given.unwrap_or_else(|status| panic!("{name} at member {member}: {status}"));
    with_token(cluster, member, &given)
}

pub(crate) async fn add_user(client: &Client, name: &str, password: &str) -> Result<(), Status> {
    let request = pb::AuthUserAddRequest {
        name: name.into(),
        password: password.into(),
        ..Default::default()
    };
    client.auth().user_add(request).await.map(drop)
}

pub(crate) async fn grant_role(client: &Client, user: &str, role: &str) -> Result<(), Status> {
    let request = pb::AuthUserGrantRoleRequest {
        user: user.into(),
        role: role.into(),
    };
    client.auth().user_grant_role(request).await.map(drop)
}

pub(crate) async fn revoke_role(client: &Client, name: &str, role: &str) -> Result<(), Status> {
    let request = pb::AuthUserRevokeRoleRequest {
        name: name.into(),
        role: role.into(),
    };
    client.auth().user_revoke_role(request).await.map(drop)
}

pub(crate) async fn add_role(client: &Client, name: &str) -> Result<(), Status> {
    let request = pb::AuthRoleAddRequest { name: name.into() };
    client.auth().role_add(request).await.map(drop)
}

pub(crate) async fn permit(
    client: &Client,
    role: &str,
    kind: Type,
    key: &str,
    end: &str,
) -> Result<(), Status> {
    let request = pb::AuthRoleGrantPermissionRequest {
        name: role.into(),
        perm: Some(Permission {
            perm_type: kind as i32,
            key: key.to_owned().into(),
            range_end: end.to_owned().into(),
        }),
    };
    client.auth().role_grant_permission(request).await.map(drop)
}

pub(crate) async fn change_password(
    client: &Client,
    name: &str,
    password: &str,
) -> Result<(), Status> {
    let request = pb::AuthUserChangePasswordRequest {
        name: name.into(),
        password: password.into(),
        ..Default::default()
    };
    client.auth().user_change_password(request).await.map(drop)
}

pub(crate) async fn enable(client: &Client) -> Result<(), Status> {
    let request = pb::AuthEnableRequest {};
    client.auth().auth_enable(request).await.map(drop)
}

async fn disable(client: &Client) -> Result<(), Status> {
    let request = pb::AuthDisableRequest {};
    client.auth().auth_disable(request).await.map(drop)
}

/// Root, and authentication on.
pub(crate) async fn switch_on(client: &Client) {
    add_user(client, "root", "rootpw").await.expect("root");
    grant_role(client, "root", "root").await.expect("its role");
    enable(client).await.expect("authentication on");
}

async fn revision(root: &Client) -> (bool, u64) {
    let response = root.auth().auth_status(pb::AuthStatusRequest {}).await;
    let status = response.expect("a status").into_inner();
    (status.enabled, status.auth_revision)
}

async fn put(client: &Client, key: &str) -> Result<(), Status> {
    put_with(client, key, 0, false).await
}

async fn put_with(client: &Client, key: &str, lease: i64, prev_kv: bool) -> Result<(), Status> {
    let request = pb::PutRequest {
        key: key.to_owned().into(),
        value: "v".into(),
        lease,
        prev_kv,
        ..Default::default()
    };
    client.kv().put(request).await.map(drop)
}

fn range_of(key: &str, end: &str, serializable: bool) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        serializable,
        ..Default::default()
    }
}

/// How many pairs there are.
async fn count(client: &Client, key: &str, end: &str) -> Result<i64, Status> {
    let response = client.kv().range(range_of(key, end, false)).await?;
    Ok(response.into_inner().count)
}

async fn delete(client: &Client, key: &str, end: &str, prev_kv: bool) -> Result<(), Status> {
    let request = pb::DeleteRangeRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        prev_kv,
    };
    client.kv().delete_range(request).await.map(drop)
}

fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

fn put_op(key: &str, lease: i64) -> pb::RequestOp {
    op(Op::RequestPut(pb::PutRequest {
        key: key.to_owned().into(),
        value: "v".into(),
        lease,
        ..Default::default()
    }))
}

fn range_op(key: &str) -> pb::RequestOp {
    op(Op::RequestRange(range_of(key, "", false)))
}

async fn txn(
    client: &Client,
    compare: &[&str],
    success: Vec<pb::RequestOp>,
    failure: Vec<pb::RequestOp>,
) -> Result<(), Status> {
    let compare = compare.iter().map(|key| pb::Compare {
        key: (*key).to_owned().into(),
        ..Default::default()
    });
    let request = pb::TxnRequest {
        compare: compare.collect(),
        success,
        failure,
    };
    client.kv().txn(request).await.map(drop)
}

async fn grant_lease(client: &Client, id: i64, ttl: i64) -> Result<(), Status> {
    let request = pb::LeaseGrantRequest { ttl, id };
    client.lease().lease_grant(request).await.map(drop)
}

async fn revoke_lease(client: &Client, id: i64) -> Result<(), Status> {
    let request = pb::LeaseRevokeRequest { id };
    client.lease().lease_revoke(request).await.map(drop)
}

async fn renew_lease(client: &Client, id: i64) -> Result<i64, Status> {
    let requests = tokio_stream::iter([pb::LeaseKeepAliveRequest { id }]);
    let mut answers = client
        .lease()
        .lease_keep_alive(requests)
        .await?
        .into_inner();
    let answer = answers.message().await?;
    Ok(answer.map_or(-1, |answer| answer.ttl))
}

async fn lease_keys(client: &Client, id: i64, keys: bool) -> Result<usize, Status> {
    let request = pb::LeaseTimeToLiveRequest { id, keys };
    let response = client.lease().lease_time_to_live(request).await?;
    Ok(response.into_inner().keys.len())
}

/// The first thing a watcher is told: why it is not there, or nothing.
async fn watch(client: &Client, key: &str, end: &str, start: i64) -> Result<String, Status> {
    let create = pb::WatchCreateRequest {
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
        start_revision: start,
        ..Default::default()
    };
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let request = pb::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    sender.send(request).await.expect("room for one");
    let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let mut responses = client.watch().watch(requests).await?.into_inner();
    let first = responses.message().await?.expect("a response");
    assert!(first.created);
    assert_eq!(first.canceled, !first.cancel_reason.is_empty());
    Ok(first.cancel_reason)
}

/// What a call came to, in one line.
fn told<T: std::fmt::Debug>(outcome: Result<T, Status>) -> String {
    match outcome {
        Ok(answer) => format!("{answer:?}"),
        Err(status) => format!("{:?}: {}", status.code(), status.message()),
    }
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, Status>, code: Code, text: &str) {
    let status = outcome.expect_err(text);
    assert_eq!((status.code(), status.message()), (code, text));
}

const DENIED: &str = "etcdserver: permission denied";
const NOBODY: &str = "etcdserver: user name is empty";
const BAD_TOKEN: &str = "etcdserver: invalid auth token";

/// What 3.7.1 answers otherwise than 3.5.1 in [`conversation`], and with it we.
const SINCE_3_5_1: &[&str] = &[
    "compact as nobody: InvalidArgument: etcdserver: user name is empty",
    "alice compacts: PermissionDenied: etcdserver: permission denied",
    "alice hashes: PermissionDenied: etcdserver: permission denied",
    "alice hashes keys: PermissionDenied: etcdserver: permission denied",
    "alice defragments: PermissionDenied: etcdserver: permission denied",
    "alice moves the leader: PermissionDenied: etcdserver: permission denied",
    "alice takes a snapshot: PermissionDenied: etcdserver: permission denied",
    "alice renews it: PermissionDenied: etcdserver: permission denied",
    "alice asks for its keys: PermissionDenied: etcdserver: permission denied",
    "role root made: [Permission { perm_type: Readwrite, key: b\"\", range_end: b\"\\0\" }]",
    "tokens mean nothing: ()",
];

/// What a member is asked and answers, line by line.
async fn conversation(cluster: &Cluster) -> Vec<String> {
    let mut lines = Vec::new();
    macro_rules! say {
        ($what:expr, $call:expr) => {
            lines.push(format!("{}: {}", $what, told($call.await)))
        };
    }
    let free = cluster.client(0);
    say!("login while off", token(&free, "root", "x"));
    say!("enable without root", enable(&free));
    say!("add nobody", add_user(&free, "", "x"));
    say!("add root", add_user(&free, "root", "rootpw"));
    say!("add root again", add_user(&free, "root", "x"));
    say!("enable without role", enable(&free));
    say!("grant no role", grant_role(&free, "root", "ghost"));
    say!("grant to nobody", grant_role(&free, "ghost", "root"));
    say!("grant root", grant_role(&free, "root", "root"));
    say!("grant root again", grant_role(&free, "root", "root"));
    say!(
        "revoke what is not held",
        revoke_role(&free, "root", "ghost")
    );
    say!("revoke from nobody", revoke_role(&free, "ghost", "root"));
    say!(
        "change nobody's password",
        change_password(&free, "ghost", "x")
    );
    say!(
        "delete nobody",
        free.auth().user_delete(pb::AuthUserDeleteRequest {
            name: "ghost".into()
        })
    );
    say!("add no role", add_role(&free, ""));
    say!("add role", add_role(&free, "r"));
    say!("add role again", add_role(&free, "r"));
    let delete_role = |role: &str| pb::AuthRoleDeleteRequest { role: role.into() };
    say!(
        "delete no role",
        free.auth().role_delete(delete_role("ghost"))
    );
    let get_role = |role: &str| pb::AuthRoleGetRequest { role: role.into() };
    let get_user = |name: &str| pb::AuthUserGetRequest { name: name.into() };
    let perms = |outcome: Result<Response<pb::AuthRoleGetResponse>, Status>| {
        outcome.map(|response| response.into_inner().perm)
    };
    let roles = |outcome: Result<Response<pb::AuthUserGetResponse>, Status>| {
        outcome.map(|response| response.into_inner().roles)
    };
    say!("role root unmade", async {
        perms(free.auth().role_get(get_role("root")).await)
    });
    say!(
        "permit to no role",
        permit(&free, "ghost", Type::Read, "a", "b")
    );
    say!("permit", permit(&free, "r", Type::Readwrite, "m", "p"));
    say!("permit", permit(&free, "r", Type::Read, "a", "c"));
    say!("permit", permit(&free, "r", Type::Read, "c", "e"));
    say!("permit", permit(&free, "r", Type::Write, "w", ""));
    say!(
        "permit another kind",
        permit(&free, "r", Type::Write, "x", "y")
    );
    say!(
        "permit another kind",
        permit(&free, "r", Type::Read, "x", "y")
    );
    say!("permissions", async {
        perms(free.auth().role_get(get_role("r")).await)
    });
    let revoke = |key: &str, end: &str| pb::AuthRoleRevokePermissionRequest {
        role: "r".into(),
        key: key.to_owned().into(),
        range_end: end.to_owned().into(),
    };
    let nothing = |outcome: Result<_, Status>| outcome.map(drop);
    say!("revoke another range", async {
        nothing(
            free.auth()
                .role_revoke_permission(revoke("x", "z"))
                .await
                .map(drop),
        )
    });
    say!("revoke", async {
        nothing(
            free.auth()
                .role_revoke_permission(revoke("x", "y"))
                .await
                .map(drop),
        )
    });
    say!("add alice", add_user(&free, "alice", "alicepw"));
    say!("grant alice", grant_role(&free, "alice", "r"));
    let cert = pb::AuthUserAddRequest {
        name: "cert".into(),
        options: Some(UserAddOptions { no_password: true }),
        ..Default::default()
    };
    say!("add a user without password", async {
        free.auth().user_add(cert).await.map(drop)
    });
    for key in ["a", "b", "m", "n", "w", "z"] {
        put(&free, key).await.expect("nobody is asked yet");
    }
    say!("revision", async { Ok(revision(&free).await) });
    say!("enable", enable(&free));
    say!("enable again as nobody", enable(&free));

    say!("read as nobody", count(&free, "a", ""));
    say!("read as nobody, serializable", async {
        free.kv().range(range_of("a", "", true)).await.map(drop)
    });
    say!("write as nobody", put(&free, "a"));
    say!("delete as nobody", delete(&free, "a", "", false));
    say!("users as nobody", async {
        free.auth()
            .user_list(pb::AuthUserListRequest {})
            .await
            .map(drop)
    });
    say!("add a user as nobody", add_user(&free, "eve", "x"));
    say!("compact as nobody", async {
        free.kv()
            .compact(pb::CompactionRequest::default())
            .await
            .map(drop)
    });
    say!("members as nobody", async {
        let removal = pb::MemberRemoveRequest { id: 1 };
        free.cluster().member_remove(removal).await.map(drop)
    });
    for (name, password) in [
        ("root", "wrong"),
        ("ghost", "x"),
        ("cert", "x"),
        ("", ""),
        ("root", ""),
    ] {
        say!(
            format!("login {name:?} {password:?}"),
            token(&free, name, password)
        );
    }
    for bad in ["x", "x.1", "x.y", "x.1.2", ".1"] {
        let stranger = with_token(cluster, 0, bad);
        say!(format!("read with {bad}"), count(&stranger, "a", ""));
        say!(format!("write with {bad}"), put(&stranger, "a"));
        say!(format!("administer with {bad}"), add_role(&stranger, "s"));
    }

    let root = login(cluster, 0, "root", "rootpw").await;
    let alice = login(cluster, 0, "alice", "alicepw").await;
    say!("enable again as root", enable(&root));
    say!("enable again as alice", enable(&alice));
    for (key, end) in [
        ("a", ""),
        ("b", "d"),
        ("a", "e"),
        ("a", "f"),
        ("e", ""),
        ("m", "n"),
        ("m", "q"),
        ("w", ""),
        ("a", "\0"),
        ("z", ""),
        ("d", "a"),
        ("y", "a"),
    ] {
        say!(
            format!("alice reads {key}..{end:?}"),
            count(&alice, key, end)
        );
        say!(format!("alice reads {key}..{end:?}, serializable"), async {
            alice.kv().range(range_of(key, end, true)).await.map(drop)
        });
        say!(
            format!("alice deletes {key}..{end:?}"),
            delete(&alice, key, end, false)
        );
        say!(
            format!("alice deletes and reads {key}..{end:?}"),
            delete(&alice, key, end, true)
        );
        say!(format!("root reads {key}..{end:?}"), count(&root, key, end));
    }
    for key in ["a", "m", "o", "p", "w", "z"] {
        say!(format!("alice writes {key}"), put(&alice, key));
        say!(
            format!("alice writes and reads {key}"),
            put_with(&alice, key, 0, true)
        );
    }
    say!(
        "txn",
        txn(&alice, &["a"], vec![put_op("m", 0)], vec![range_op("a")])
    );
    say!(
        "txn compares",
        txn(&alice, &["z"], vec![put_op("m", 0)], vec![])
    );
    say!(
        "txn succeeds",
        txn(&alice, &["a"], vec![put_op("a", 0)], vec![])
    );
    say!(
        "txn fails",
        txn(&alice, &["a"], vec![put_op("m", 0)], vec![range_op("w")])
    );
    say!(
        "txn reads",
        txn(&alice, &["a"], vec![range_op("m")], vec![range_op("a")])
    );
    say!(
        "txn reads too much",
        txn(&alice, &["a"], vec![range_op("w")], vec![])
    );
    say!(
        "txn as nobody",
        txn(&free, &["a"], vec![range_op("m")], vec![])
    );
    say!("alice asks of herself", async {
        roles(alice.auth().user_get(get_user("alice")).await)
    });
    say!("alice asks of root", async {
        roles(alice.auth().user_get(get_user("root")).await)
    });
    say!("alice asks of nobody", async {
        roles(alice.auth().user_get(get_user("ghost")).await)
    });
    say!("alice asks of her role", async {
        perms(alice.auth().role_get(get_role("r")).await)
    });
    say!("alice asks of another role", async {
        perms(alice.auth().role_get(get_role("root")).await)
    });
    say!("root asks of nobody", async {
        roles(root.auth().user_get(get_user("ghost")).await)
    });
    say!("alice adds a user", add_user(&alice, "eve", "x"));
    say!("alice lists roles", async {
        alice
            .auth()
            .role_list(pb::AuthRoleListRequest {})
            .await
            .map(drop)
    });
    say!("alice compacts", async {
        alice
            .kv()
            .compact(pb::CompactionRequest::default())
            .await
            .map(drop)
    });
    say!("alice hashes", async {
        alice.maintenance().hash(pb::HashRequest {}).await.map(drop)
    });
    say!("alice hashes keys", async {
        alice
            .maintenance()
            .hash_kv(pb::HashKvRequest { revision: 0 })
            .await
            .map(drop)
    });
    say!("alice defragments", async {
        alice
            .maintenance()
            .defragment(pb::DefragmentRequest {})
            .await
            .map(drop)
    });
    say!("alice moves the leader", async {
        alice
            .maintenance()
            .move_leader(pb::MoveLeaderRequest { target_id: 1 })
            .await
            .map(drop)
    });
    say!("alice takes a snapshot", async {
        let mut stream = alice
            .maintenance()
            .snapshot(pb::SnapshotRequest {})
            .await?
            .into_inner();
        stream.message().await.map(drop)
    });
    say!("alice removes a member", async {
        let removal = pb::MemberRemoveRequest { id: 1 };
        alice.cluster().member_remove(removal).await.map(drop)
    });
    say!("alice lists members", async {
        let list = pb::MemberListRequest { linearizable: true };
        alice.cluster().member_list(list).await.map(drop)
    });
    say!("alice watches", watch(&alice, "a", "c", 0));
    say!("alice watches too much", watch(&alice, "a", "z", 0));

    say!("root's lease", grant_lease(&root, 71, 600));
    say!("a key of root's on it", put_with(&root, "z", 71, false));
    say!("alice writes on it", put_with(&alice, "m", 71, false));
    say!("alice revokes it", revoke_lease(&alice, 71));
    say!("alice renews it", renew_lease(&alice, 71));
    say!("alice asks for its keys", lease_keys(&alice, 71, true));
    say!("alice asks for its time", lease_keys(&alice, 71, false));
    say!("alice's lease", grant_lease(&alice, 72, 600));
    say!("alice's key on it", put_with(&alice, "m", 72, false));
    say!("alice renews hers", renew_lease(&alice, 72));
    say!("alice renews nobody's", renew_lease(&alice, 73));
    say!("alice asks for her keys", lease_keys(&alice, 72, true));
    say!("alice revokes hers", revoke_lease(&alice, 72));
    say!("root revokes", revoke_lease(&root, 71));
    say!("root's key is gone", count(&root, "z", ""));

    for name in ["root", "ghost"] {
        let request = pb::AuthUserDeleteRequest { name: name.into() };
        say!(format!("delete {name}"), async {
            root.auth().user_delete(request).await.map(drop)
        });
    }
    say!("delete role root", async {
        root.auth().role_delete(delete_role("root")).await.map(drop)
    });
    say!("take root from root", revoke_role(&root, "root", "root"));
    say!("make role root", add_role(&root, "root"));
    say!("role root made", async {
        perms(root.auth().role_get(get_role("root")).await)
    });
    // Roles change under a token, which goes on with what they allow now.
    say!("a role for alice", add_role(&root, "s"));
    say!("permit", permit(&root, "s", Type::Write, "z", ""));
    say!("alice not yet", put(&alice, "z"));
    say!("grant", grant_role(&root, "alice", "s"));
    say!("alice now", put(&alice, "z"));
    say!("delete the role", async {
        root.auth().role_delete(delete_role("s")).await.map(drop)
    });
    say!("alice no more", put(&alice, "z"));
    say!("alice has", async {
        roles(root.auth().user_get(get_user("alice")).await)
    });
    // Her password changes: the token ends.
    say!(
        "change alice's password",
        change_password(&root, "alice", "new")
    );
    say!("the token ended", put(&alice, "m"));
    say!("the old password", token(&free, "alice", "alicepw"));
    let alice = login(cluster, 0, "alice", "new").await;
    say!("the new password", put(&alice, "m"));
    let unhashed = pb::AuthUserChangePasswordRequest {
        name: "alice".into(),
        hashed_password: "no base64!".into(),
        ..Default::default()
    };
    say!("a hash that is none", async {
        root.auth().user_change_password(unhashed).await.map(drop)
    });
    say!("an empty password", change_password(&root, "alice", ""));
    say!("fits nothing", token(&free, "alice", ""));
    let request = pb::AuthUserDeleteRequest {
        name: "alice".into(),
    };
    say!("delete alice", async {
        root.auth().user_delete(request).await.map(drop)
    });
    say!("her token ended", put(&alice, "m"));
    say!("alice again", add_user(&root, "alice", "third"));
    say!("without role", async {
        let alice = login(cluster, 0, "alice", "third").await;
        put(&alice, "m").await
    });
    say!("users", async {
        root.auth()
            .user_list(pb::AuthUserListRequest {})
            .await
            .map(|list| list.into_inner().users)
    });
    say!("roles", async {
        root.auth()
            .role_list(pb::AuthRoleListRequest {})
            .await
            .map(|list| list.into_inner().roles)
    });
    say!("revision", async { Ok(revision(&root).await) });
    say!("disable as nobody", disable(&free));
    say!("disable", disable(&root));
    say!("disable again", disable(&free));
    say!("revision", async { Ok(revision(&free).await) });
    say!("anybody writes", put(&free, "z"));
    say!(
        "tokens mean nothing",
        put(&with_token(cluster, 0, "x.y"), "z")
    );
    say!("enable once more", enable(&free));
    say!("root's old token", put(&root, "z"));
    say!("root's password", async {
        token(&free, "root", "rootpw").await.map(drop)
    });
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_requests_are_answered_alike_by_the_original_and_ours() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    let mut told = Vec::new();
    for kind in [Etcd351, Ferrite] {
        let cluster = Cluster::builder()
            .kinds(&[kind])
            .extra_args(&[CHEAP])
            .start()
            .await;
        told.push(conversation(&cluster).await);
    }
    let (theirs, ours) = (&told[0], &told[1]);
    let mut later = SINCE_3_5_1.iter();
    for (theirs, ours) in theirs.iter().zip(ours) {
        if theirs != ours {
            assert_eq!(Some(&ours.as_str()), later.next(), "3.5.1 said {theirs}");
        }
    }
    assert_eq!(later.next(), None);
    assert_eq!(theirs.len(), ours.len());
    eprintln!("{} lines alike", ours.len());
}

/// What later versions than the oracle added or changed.
#[tokio::test(flavor = "multi_thread")]
async fn callers_are_asked_what_3_7_asks_of_them() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().extra_args(&[CHEAP]).start().await;
    let free = cluster.client(0);
    // Who adds a password learns that it is too long before anything is proposed.
    refused(
        add_user(&free, "long", &"x".repeat(73)).await,
        Code::Unknown,
        "bcrypt: password length exceeds 72 bytes",
    );
    add_role(&free, "r").await.unwrap();
    let management = "etcdserver: invalid auth management";
    refused(
        permit(&free, "r", Type::Read, "b", "a").await,
        Code::InvalidArgument,
        management,
    );
    refused(
        permit(&free, "r", Type::Read, "", "a").await,
        Code::InvalidArgument,
        management,
    );
    let none = pb::AuthRoleGrantPermissionRequest {
        name: "ghost".into(),
        perm: None,
    };
    refused(
        free.auth().role_grant_permission(none).await,
        Code::InvalidArgument,
        "etcdserver: permission not given",
    );
    permit(&free, "r", Type::Readwrite, "k", "").await.unwrap();
    permit(&free, "r", Type::Write, "w", "").await.unwrap();
    add_user(&free, "u", "pw").await.unwrap();
    grant_role(&free, "u", "r").await.unwrap();
    switch_on(&free).await;
    let root = login(&cluster, 0, "root", "rootpw").await;
    let user = login(&cluster, 0, "u", "pw").await;
    put(&root, "k").await.unwrap();

    // Whether authentication is on anybody may ask, but not with a bad token.
    assert!(revision(&free).await.0);
    let stranger = with_token(&cluster, 0, "stranger.1");
    let asked = stranger.auth().auth_status(pb::AuthStatusRequest {}).await;
    refused(asked, Code::Unauthenticated, BAD_TOKEN);

    // A bearer's token, under either name.
    let given = token(&free, "u", "pw").await.unwrap();
    for (name, value) in [
        ("authorization", format!("Bearer {given}")),
        ("authorization", given.clone()),
        ("token", format!("Bearer {given}")),
    ] {
        let mut request = tonic::Request::new(range_of("k", "", false));
        request.metadata_mut().insert(name, value.parse().unwrap());
        free.kv()
            .range(request)
            .await
            .unwrap_or_else(|status| panic!("{name} {value}: {status}"));
    }

    // Every user, or root alone.
    let status = async |client: &Client| {
        client
            .maintenance()
            .status(pb::StatusRequest {})
            .await
            .map(drop)
    };
    refused(status(&free).await, Code::InvalidArgument, NOBODY);
    status(&user).await.unwrap();
    let alarm = async |client: &Client, action| {
        let request = pb::AlarmRequest {
            action,
            member_id: 1,
            alarm: 1,
        };
        client.maintenance().alarm(request).await.map(drop)
    };
    refused(alarm(&free, 0).await, Code::InvalidArgument, NOBODY);
    alarm(&user, 0).await.unwrap();
    refused(alarm(&user, 2).await, Code::PermissionDenied, DENIED);
    alarm(&root, 2).await.unwrap();
    let downgrade = pb::DowngradeRequest::default();
    refused(
        user.maintenance().downgrade(downgrade).await,
        Code::PermissionDenied,
        DENIED,
    );
    let member = pb::MemberAddRequest {
        peer_urls: vec!["http://127.0.0.1:1".into()],
        is_learner: false,
    };
    refused(
        user.cluster().member_add(member.clone()).await,
        Code::PermissionDenied,
        DENIED,
    );
    refused(
        free.cluster().member_add(member).await,
        Code::InvalidArgument,
        NOBODY,
    );
    let update = pb::MemberUpdateRequest {
        id: 1,
        peer_urls: vec![],
    };
    refused(
        user.cluster().member_update(update).await,
        Code::PermissionDenied,
        DENIED,
    );

    let promotion = pb::MemberPromoteRequest { id: 1 };
    refused(
        user.cluster().member_promote(promotion).await,
        Code::PermissionDenied,
        DENIED,
    );
    let members = async |client: &Client| {
        let list = pb::MemberListRequest { linearizable: true };
        client.cluster().member_list(list).await.map(drop)
    };
    members(&user).await.unwrap();
    refused(members(&free).await, Code::InvalidArgument, NOBODY);

    // Leases: any user grants; keys decide about the rest.
    refused(
        grant_lease(&free, 5, 600).await,
        Code::InvalidArgument,
        NOBODY,
    );
    refused(revoke_lease(&free, 5).await, Code::InvalidArgument, NOBODY);
    grant_lease(&user, 5, 600).await.unwrap();
    put_with(&user, "w", 5, false).await.unwrap();
    refused(renew_lease(&free, 5).await, Code::InvalidArgument, NOBODY);
    assert_eq!(renew_lease(&user, 5).await.unwrap(), 600);
    refused(
        lease_keys(&user, 5, true).await,
        Code::PermissionDenied,
        DENIED,
    );
    assert_eq!(lease_keys(&user, 5, false).await.unwrap(), 0);
    assert_eq!(lease_keys(&root, 5, true).await.unwrap(), 1);
    refused(
        lease_keys(&free, 5, false).await,
        Code::InvalidArgument,
        NOBODY,
    );
    let leases =
        async |client: &Client| client.lease().lease_leases(pb::LeaseLeasesRequest {}).await;
    refused(leases(&user).await, Code::PermissionDenied, DENIED);
    refused(leases(&free).await, Code::InvalidArgument, NOBODY);
    assert_eq!(leases(&root).await.unwrap().into_inner().leases.len(), 1);
    // A key of root's on the lease, and it is out of the user's hands: put and txn alike.
    put_with(&root, "x", 5, false).await.unwrap();
    refused(
        put_with(&user, "k", 5, false).await,
        Code::PermissionDenied,
        DENIED,
    );
    let leased = txn(&user, &["k"], vec![], vec![put_op("k", 5)]).await;
    refused(leased, Code::PermissionDenied, DENIED);
    let nested = op(Op::RequestTxn(pb::TxnRequest {
        failure: vec![put_op("x", 0)],
        ..Default::default()
    }));
    refused(
        txn(&user, &["k"], vec![nested], vec![]).await,
        Code::PermissionDenied,
        DENIED,
    );
    refused(renew_lease(&user, 5).await, Code::PermissionDenied, DENIED);
    refused(revoke_lease(&user, 5).await, Code::PermissionDenied, DENIED);

    // Watches: the four reasons; the open end is judged as it was sent.
    let reason = |code: &str, text: &str| format!("rpc error: code = {code} desc = {text}");
    let denied = reason("PermissionDenied", DENIED);
    assert_eq!(watch(&user, "k", "", 0).await.unwrap(), "");
    assert_eq!(watch(&user, "k", "\0", 0).await.unwrap(), denied);
    assert_eq!(watch(&user, "", "", 0).await.unwrap(), denied);
    assert_eq!(watch(&root, "", "\0", 0).await.unwrap(), "");
    assert_eq!(
        watch(&free, "k", "", 0).await.unwrap(),
        reason("InvalidArgument", NOBODY)
    );
    let unknown = reason("Unauthenticated", BAD_TOKEN);
    assert_eq!(watch(&stranger, "k", "", 0).await.unwrap(), unknown);
    // What cannot be is refused before anybody is asked who he is.
    let compacted = "etcdserver: mvcc: required revision has been compacted";
    assert_eq!(watch(&free, "k", "", -1).await.unwrap(), compacted);

    // A stream of pieces is judged as a range is.
    let streamed = async |client: &Client, key: &str| {
        let mut pieces = client
            .kv()
            .range_stream(range_of(key, "", false))
            .await?
            .into_inner();
        let mut pairs = 0;
        while let Some(piece) = pieces.message().await? {
            pairs += piece.range_response.map_or(0, |piece| piece.kvs.len());
        }
        Ok(pairs)
    };
    assert_eq!(streamed(&user, "k").await.unwrap(), 1);
    refused(streamed(&user, "w").await, Code::PermissionDenied, DENIED);
    refused(streamed(&free, "k").await, Code::InvalidArgument, NOBODY);

    // Locks are keys, judged as such; the refusal comes from inside, without its code.
    let lock = async |client: &Client, name: &str| {
        let request = ferrite_proto::v3lockpb::LockRequest {
            name: name.to_owned().into(),
            lease: 0,
        };
        client.lock().lock(request).await.map(drop)
    };
    lock(&root, "a lock").await.unwrap();
    refused(lock(&user, "a lock").await, Code::Unknown, DENIED);
    refused(lock(&free, "a lock").await, Code::Unknown, NOBODY);

    // The server asks itself with all rights.
    for path in ["/health", "/livez", "/readyz"] {
        let answer = get(cluster.member(0).endpoint(), path).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }

    // Neither the log nor a line of it knows a password.
    change_password(&root, "u", "another secret").await.unwrap();
    token(&free, "u", "another secret").await.unwrap();
    token(&free, "u", "a wrong secret")
        .await
        .expect_err("another password");
    assert!(!cluster.member(0).log_contains("secret"));
    let wal = cluster.member(0).data_dir().join("member/wal");
    for file in std::fs::read_dir(wal).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        for word in [&b"rootpw"[..], b"secret"] {
            assert!(!bytes.windows(word.len()).any(|window| window == word));
        }
    }

    // A token whose entry nobody has committed was given to nobody: etcd waits for it until its caller gives up.
    let mut config = Config::new([cluster.member(0).endpoint()]);
    config.token = Some("abcdefghijklmnop.99999999999".into());
    let stranger = Client::new(config).unwrap();
    let refused = count(&stranger, "k", "").await.expect_err("no such entry");
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::Unauthenticated, "etcdserver: invalid auth token")
    );
}

/// A plain HTTP request; the whole answer.
async fn get(endpoint: &str, path: &str) -> String {
    let address = endpoint.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("a connection");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_end_when_they_are_not_used() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder()
        .extra_args(&[CHEAP, "--auth-token-ttl=1"])
        .start()
        .await;
    switch_on(&cluster.client(0)).await;
    let root = login(&cluster, 0, "root", "rootpw").await;
    eventually("the token ends", PATIENCE, async || {
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let outcome = put(&root, "k").await;
        outcome
            .err()
            .map(|status| assert_eq!(status.message(), BAD_TOKEN))
    })
    .await;
}

/// Signed tokens of either kind of member are good at the other, and carry the revision they were
/// given at: a role that changes ends them for keys, and not for who administers.
#[tokio::test(flavor = "multi_thread")]
async fn signed_tokens_are_good_at_members_of_both_kinds_until_roles_change() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    let keys = Path::new(env!("CARGO_MANIFEST_DIR")).join("../token/tests/keys");
    let flag = format!(
        "--auth-token=jwt,pub-key={0}/rsa.pub.pem,priv-key={0}/rsa.pem,sign-method=RS256,ttl=10m",
        keys.display()
    );
    let cluster = Cluster::builder()
        .kinds(&[Etcd351, Ferrite, Ferrite])
        .extra_args(&[CHEAP, &flag])
        .start()
        .await;
    cluster.leader().await;
    populate(&[cluster.client(1)]).await;
    for from in 0..3 {
        let root = token(&cluster.client(from), "root", "rootpw")
            .await
            .expect("a token");
        assert_eq!(root.split('.').count(), 3);
        let user = token(&cluster.client(from), "user-a", "a")
            .await
            .expect("a token");
        for to in 0..3 {
            let there = with_token(&cluster, to, &user);
            let what = format!("token of {from} at {to}");
            put(&there, "a")
                .await
                .unwrap_or_else(|status| panic!("{what}: {status}"));
            count(&there, "a", "")
                .await
                .unwrap_or_else(|status| panic!("{what}: {status}"));
            refused(put(&there, "c").await, Code::PermissionDenied, DENIED);
        }
        let root = with_token(&cluster, 1, &root);
        permit(&root, "b", Type::Read, &format!("new{from}"), "")
            .await
            .expect("a change");
        let old = "etcdserver: revision of auth store is old";
        for to in 1..3 {
            let there = with_token(&cluster, to, &user);
            refused(put(&there, "a").await, Code::InvalidArgument, old);
            refused(count(&there, "a", "").await, Code::InvalidArgument, old);
        }
        // 3.5.1 says so in other words.
        let there = with_token(&cluster, 0, &user);
        put(&there, "a")
            .await
            .expect_err("an old revision there, too");
        // Administration does not look at the revision, and a signed token outlives everything.
        add_role(&root, &format!("role{from}"))
            .await
            .expect("root still");
        refused(put(&root, "a").await, Code::InvalidArgument, old);
        change_password(&root, "user-a", "a")
            .await
            .expect("a change");
        let there = with_token(&cluster, 2, &user);
        refused(put(&there, "a").await, Code::InvalidArgument, old);
        let forged = with_token(&cluster, 2, &format!("{user}x"));
        refused(put(&forged, "a").await, Code::Unauthenticated, BAD_TOKEN);
    }
    // A lease with a key of root's ends: members revoke in its name.
    let root = login(&cluster, 1, "root", "rootpw").await;
    grant_lease(&root, 911, 2).await.expect("a lease");
    put_with(&root, "leased", 911, false)
        .await
        .expect("a key on it");
    eventually("the key goes with its lease", PATIENCE, async || {
        (count(&root, "leased", "").await.expect("a read") == 0).then_some(())
    })
    .await;
}

/// Logging in is slow on purpose; whoever reads and writes meanwhile does not notice.
#[tokio::test(flavor = "multi_thread")]
async fn many_logins_hold_nobody_up() {
    let _turn = crate::alone().await;
    let cluster = Cluster::builder()
        .extra_args(&["--bcrypt-cost=8"])
        .start()
        .await;
    let free = cluster.client(0);
    switch_on(&free).await;
    let root = login(&cluster, 0, "root", "rootpw").await;
    let since = Instant::now();
    token(&free, "root", "rootpw").await.expect("a token");
    let one = since.elapsed();
    // The last login waits for all the others.
    let mut config = Config::new([cluster.member(0).endpoint()]);
    config.call_timeout = Some(Duration::from_secs(120));
    let free = Client::new(config).expect("a loopback endpoint");
    let logins: Vec<_> = (0..24)
        .map(|_| {
            let free = free.clone();
            tokio::spawn(async move { token(&free, "root", "wrong").await })
        })
        .collect();
    let mut meanwhile = 0;
    while !logins.iter().all(tokio::task::JoinHandle::is_finished) {
        put(&root, "k").await.expect("a put");
        meanwhile += 1;
    }
    for login in logins {
        let refusal = login.await.expect("it ends").expect_err("a wrong password");
        assert_eq!(refusal.code(), Code::InvalidArgument, "{refusal}");
    }
    // On the thread that serves, each put would have waited for a hash.
    assert!(
        meanwhile > 48,
        "{meanwhile} puts during 24 logins of {one:?}"
    );
    eprintln!("{meanwhile} puts during 24 logins of {one:?}");
}

/// What users and roles of a member come to.
#[derive(Debug, PartialEq)]
struct Testimony {
    users: BTreeMap<String, Vec<String>>,
    roles: BTreeMap<String, Vec<Permission>>,
    revision: (bool, u64),
}

async fn testimony(root: &Client) -> Testimony {
    let mut users = BTreeMap::new();
    let list = root.auth().user_list(pb::AuthUserListRequest {}).await;
    for name in list.expect("users").into_inner().users {
        let request = pb::AuthUserGetRequest { name: name.clone() };
        let user = root.auth().user_get(request).await.expect("a user");
        users.insert(name, user.into_inner().roles);
    }
    let mut roles = BTreeMap::new();
    let list = root.auth().role_list(pb::AuthRoleListRequest {}).await;
    for role in list.expect("roles").into_inner().roles {
        let request = pb::AuthRoleGetRequest { role: role.clone() };
        let found = root.auth().role_get(request).await.expect("a role");
        roles.insert(role, found.into_inner().perm);
    }
    Testimony {
        users,
        roles,
        revision: revision(root).await,
    }
}

/// Users of every kind, through one member or several in turn; authentication stays on.
async fn populate(clients: &[Client]) {
    let mut turn = clients.iter().cycle();
    let mut next = || turn.next().expect("a client");
    for name in ["a", "b", "c"] {
        add_role(next(), name).await.expect("a role");
        permit(next(), name, Type::Readwrite, name, "")
            .await
            .expect("a permission");
        permit(
            next(),
            name,
            Type::Read,
            &format!("{name}/"),
            &format!("{name}0"),
        )
        .await
        .expect("another");
        add_user(next(), &format!("user-{name}"), name)
            .await
            .expect("a user");
        grant_role(next(), &format!("user-{name}"), name)
            .await
            .expect("a grant");
    }
    let cert = pb::AuthUserAddRequest {
        name: "cert".into(),
        options: Some(UserAddOptions { no_password: true }),
        ..Default::default()
    };
    next()
        .auth()
        .user_add(cert)
        .await
        .expect("a user without password");
    grant_role(next(), "user-a", "b")
        .await
        .expect("another grant");
    change_password(next(), "user-b", "other")
        .await
        .expect("another password");
    let gone = pb::AuthRoleDeleteRequest { role: "c".into() };
    next()
        .auth()
        .role_delete(gone)
        .await
        .expect("a role deleted");
    switch_on(next()).await;
}

/// What [`populate`] left is in force on a member.
async fn in_force(cluster: &Cluster, member: usize) {
    let a = login(cluster, member, "user-a", "a").await;
    put(&a, "a").await.expect("user-a writes its key");
    put(&a, "b").await.expect("user-a writes by its other role");
    refused(put(&a, "c").await, Code::PermissionDenied, DENIED);
    assert!(count(&a, "a/", "a0").await.is_ok());
    let b = login(cluster, member, "user-b", "other").await;
    refused(put(&b, "a").await, Code::PermissionDenied, DENIED);
    let c = login(cluster, member, "user-c", "c").await;
    refused(put(&c, "c").await, Code::PermissionDenied, DENIED);
    let free = cluster.client(member);
    refused(count(&free, "a", "").await, Code::InvalidArgument, NOBODY);
}

#[tokio::test(flavor = "multi_thread")]
async fn users_survive_kill_9_and_reach_a_late_member_by_snapshot() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder()
        .members(3)
        .snapshot_count(100)
        .catchup_entries(10)
        .extra_args(&[CHEAP])
        .start()
        .await;
    cluster.leader().await;
    let late = cluster.member(2);
    late.kill9();
    cluster.leader().await;
    populate(&[cluster.client(0), cluster.client(1)]).await;
    let root = login(&cluster, 0, "root", "rootpw").await;
    for n in 0..400 {
        put(&root, &format!("filler{n}")).await.expect("a put");
    }
    let before = testimony(&root).await;
    late.start();
    late.ready(PATIENCE).await;
    late.wait_for_log("applied snapshot", PATIENCE).await;
    in_force(&cluster, 2).await;
    let there = login(&cluster, 2, "root", "rootpw").await;
    assert_eq!(testimony(&there).await, before);
    // A token of one member is good at the others.
    let given = token(&cluster.client(2), "user-a", "a").await.unwrap();
    for member in 0..3 {
        put(&with_token(&cluster, member, &given), "a")
            .await
            .expect("the same token");
    }
    for member in cluster.members() {
        member.kill9();
    }
    for member in cluster.members() {
        member.start();
    }
    for member in cluster.members() {
        member.ready(PATIENCE).await;
    }
    for member in 0..3 {
        in_force(&cluster, member).await;
        let root = login(&cluster, member, "root", "rootpw").await;
        assert_eq!(testimony(&root).await, before);
    }
}

/// Every pair of the buckets about users and roles, as they lie in a file.
fn buckets(data_dir: &Path) -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let db = ferrite_bolt::Db::open(
        data_dir.join("member/snap/db"),
        ferrite_bolt::Options::default(),
    );
    let db = db.expect("a database");
    let tx = db.begin_read().expect("a reader");
    let mut pairs = Vec::new();
    for name in ["auth", "authRoles", "authUsers"] {
        let bucket = tx
            .bucket(name.as_bytes())
            .expect("readable")
            .expect("a bucket");
        bucket
            .scan(&[], None, &mut |key, value| {
                pairs.push((name.to_owned(), key.to_vec(), value.to_vec()));
                std::ops::ControlFlow::Continue(())
            })
            .expect("a scan");
    }
    pairs
}

/// The hash of the key space at its newest revision, asked as root.
async fn hashes_agree(cluster: &Cluster, roots: &[Client]) {
    let mut request = pb::HashKvRequest { revision: 0 };
    for root in roots {
        let range = root
            .kv()
            .range(range_of("a", "", false))
            .await
            .expect("a read");
        let newest = range
            .into_inner()
            .header
            .map_or(0, |header| header.revision);
        request.revision = request.revision.max(newest);
    }
    let mut hashes = Vec::new();
    for (root, member) in roots.iter().zip(cluster.members()) {
        root.kv()
            .range(range_of("a", "", false))
            .await
            .expect("it has caught up");
        let hash = root
            .maintenance()
            .hash_kv(request)
            .await
            .expect("a hash")
            .into_inner();
        hashes.push((member.kind(), hash.hash));
    }
    assert!(
        hashes.windows(2).all(|two| two[0].1 == two[1].1),
        "{hashes:?}"
    );
}

async fn lead(cluster: &Cluster, roots: &[Client], to: usize) {
    eventually("leadership moves", PATIENCE, async || {
        let mut target = None;
        let mut leader = None;
        for (index, root) in roots.iter().enumerate() {
            let status = root
                .maintenance()
                .status(pb::StatusRequest {})
                .await
                .ok()?
                .into_inner();
            let id = status.header.as_ref()?.member_id;
            if index == to {
                target = Some((id, status.leader == id));
            }
            if status.leader == id {
                leader = Some(index);
            }
        }
        let (target_id, leads) = target?;
        if leads {
            return Some(());
        }
        let request = pb::MoveLeaderRequest { target_id };
        let _ = roots[leader?].maintenance().move_leader(request).await;
        None
    })
    .await;
    assert!(cluster.member(to).serving());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mixed_cluster_keeps_the_same_users_byte_by_byte() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    let cluster = Cluster::builder()
        .kinds(&[Etcd351, Ferrite, Etcd351])
        .extra_args(&[CHEAP])
        .start()
        .await;
    cluster.leader().await;
    let clients: Vec<Client> = (0..3).map(|member| cluster.client(member)).collect();
    populate(&clients).await;
    // A token of any member is good at every other, whichever kind gave it out.
    let mut roots = Vec::new();
    for (from, client) in clients.iter().enumerate() {
        let given = token(client, "root", "rootpw").await.expect("a token");
        for to in 0..3 {
            let there = with_token(&cluster, to, &given);
            put(&there, "shared")
                .await
                .unwrap_or_else(|status| panic!("token of {from} at {to}: {status}"));
        }
        roots.push(with_token(&cluster, from, &given));
    }
    for member in 0..3 {
        in_force(&cluster, member).await;
    }
    // Whoever leads ends a lease with keys that only root may write.
    for (leader, id) in [(1, 901), (0, 902)] {
        lead(&cluster, &roots, leader).await;
        let key = format!("leased{id}");
        grant_lease(&roots[leader], id, 2).await.expect("a lease");
        put_with(&roots[leader], &key, id, false)
            .await
            .expect("a key on it");
        eventually("the key goes with its lease", PATIENCE, async || {
            (count(&roots[leader], &key, "").await.expect("a read") == 0).then_some(())
        })
        .await;
    }
    hashes_agree(&cluster, &roots).await;
    let told = testimony(&roots[0]).await;
    for root in &roots[1..] {
        assert_eq!(testimony(root).await, told);
    }
    disable(&roots[1]).await.expect("off");
    enable(&clients[2]).await.expect("on");
    let again = login(&cluster, 1, "root", "rootpw").await;
    assert_eq!(revision(&again).await, (true, told.revision.1 + 1));
    for member in cluster.members() {
        member.terminate().await;
    }
    let first = buckets(cluster.member(0).data_dir());
    assert!(first.len() > 8);
    for member in &cluster.members()[1..] {
        assert_eq!(buckets(member.data_dir()), first, "{:?}", member.kind());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_with_users_left_by_the_original_serves_the_same() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    let cluster = Cluster::builder()
        .kinds(&[Etcd351])
        .extra_args(&[CHEAP])
        .start()
        .await;
    let member = cluster.member(0);
    populate(&[cluster.client(0)]).await;
    let before = testimony(&login(&cluster, 0, "root", "rootpw").await).await;
    member.terminate().await;
    let theirs = buckets(member.data_dir());
    member.start_as(Ferrite);
    member.ready(PATIENCE).await;
    in_force(&cluster, 0).await;
    let root = login(&cluster, 0, "root", "rootpw").await;
    assert_eq!(testimony(&root).await, before);
    add_user(&root, "ours", "pw").await.expect("one more");
    grant_role(&root, "ours", "a").await.expect("a role");
    let after = testimony(&root).await;
    member.terminate().await;
    let kept = buckets(member.data_dir());
    assert!(
        theirs
            .iter()
            .filter(|pair| pair.1 != b"authRevision")
            .all(|pair| kept.contains(pair))
    );
    assert_eq!(kept.len(), theirs.len() + 1);
    member.start();
    member.ready(PATIENCE).await;
    in_force(&cluster, 0).await;
    let root = login(&cluster, 0, "root", "rootpw").await;
    assert_eq!(testimony(&root).await, after);
    put(&login(&cluster, 0, "ours", "pw").await, "a")
        .await
        .expect("our user");
}

/// A simple token with an index that nobody can have been given is refused at once; one that this member only has
/// not heard of yet is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_token_from_the_future_is_refused_and_one_from_a_member_ahead_is_not() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder()
        .members(3)
        .extra_args(&[CHEAP])
        .start()
        .await;
    let leader = cluster.leader().await;
    let behind = (leader + 1) % 3;
    switch_on(&cluster.client(leader)).await;
    let given = token(&cluster.client(leader), "root", "rootpw").await;
    let given = given.expect("a token");
    let (letters, index) = given.split_once('.').expect("letters and an index");
    let index: u64 = index.parse().expect("an index");
    for ahead in [index + 1_000, u64::MAX] {
        let begin = Instant::now();
        let liar = with_token(&cluster, behind, &format!("{letters}.{ahead}"));
        let answer = put(&liar, "k").await;
        refused(
            answer,
            Code::Unauthenticated,
            "etcdserver: invalid auth token",
        );
        // The original waits as long as the caller does, here twenty seconds.
        assert!(
            begin.elapsed() < Duration::from_secs(10),
            "{:?}",
            begin.elapsed()
        );
    }
    // A member that slept while the token was given out learns of it first.
    cluster.member(behind).stop_signal();
    let root = with_token(&cluster, leader, &given);
    for _ in 0..100 {
        put(&root, "k").await.expect("a write");
    }
    let fresh = token(&cluster.client(leader), "root", "rootpw").await;
    let fresh = fresh.expect("a token");
    let early = with_token(&cluster, behind, &fresh);
    let waiting = tokio::spawn(async move { put(&early, "k").await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    cluster.member(behind).cont();
    waiting.await.expect("no panic").expect("a good token");
}

/// CL-02: URLs are looked at before the caller is.
async fn urls_before_callers(kind: Kind) {
    let cluster = Cluster::builder()
        .kinds(&[kind])
        .extra_args(&[CHEAP])
        .start()
        .await;
    let client = cluster.client(0);
    switch_on(&client).await;
    let add = async |urls: &[&str]| {
        let request = pb::MemberAddRequest {
            peer_urls: urls.iter().map(|url| (*url).to_owned()).collect(),
            is_learner: true,
        };
        client.cluster().member_add(request).await
    };
    let bad = "etcdserver: given member URLs are invalid";
    refused(add(&[]).await, Code::InvalidArgument, bad);
    refused(add(&["127.0.0.1:1"]).await, Code::InvalidArgument, bad);
    let status = add(&["http://127.0.0.1:1"])
        .await
        .expect_err("nobody calls");
    assert!(
        status.message().contains("user name is empty"),
        "{kind:?}: {status:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_urls_of_a_member_are_told_to_anybody() {
    let _turn = beside_others().await;
    urls_before_callers(Ferrite).await;
    if oracle().is_some() {
        urls_before_callers(Etcd351).await;
    }
}

/// Who waits for a lock, or observes an election, sees no more than its own roles permit, however it asks.
#[tokio::test(flavor = "multi_thread")]
async fn locks_and_elections_show_nobody_what_he_may_not_read() {
    use ferrite_proto::{v3electionpb as election, v3lockpb as lock};

    let _turn = beside_others().await;
    let cluster = Cluster::builder().extra_args(&[CHEAP]).start().await;
    let client = cluster.client(0);
    add_role(&client, "own").await.expect("a role");
    permit(&client, "own", Type::Readwrite, "own/", "own0")
        .await
        .expect("a permission");
    add_role(&client, "half").await.expect("a role");
    permit(&client, "half", Type::Write, "secret/", "secret0")
        .await
        .expect("a permission");
    add_user(&client, "u", "pw").await.expect("a user");
    grant_role(&client, "u", "own")
        .await
        .expect("a role for it");
    grant_role(&client, "u", "half")
        .await
        .expect("a role for it");
    switch_on(&client).await;
    let root = login(&cluster, 0, "root", "rootpw").await;
    let user = login(&cluster, 0, "u", "pw").await;
    grant_lease(&root, 1, 600).await.expect("a lease");
    grant_lease(&user, 2, 600).await.expect("a lease");
    let request = |name: &str, lease| lock::LockRequest {
        name: name.to_owned().into(),
        lease,
    };
    let take = async |client: &Client, name: &str, lease| {
        let mut locks = client.lock();
        let call = locks.lock(request(name, lease));
        tokio::time::timeout(PATIENCE, call)
            .await
            .expect("in time")
            .map(Response::into_inner)
    };
    let denied = |status: Status| {
        assert_eq!(
            status.message(),
            "etcdserver: permission denied",
            "{status:?}"
        );
    };
    let held = take(&root, "secret", 1).await.expect("root's lock");
    // It may write there, and so contend; to wait it would have to read.
    denied(take(&user, "secret", 2).await.expect_err("not to be read"));
    let observe = async |client: &Client, name: &str| {
        let request = election::LeaderRequest {
            name: name.to_owned().into(),
        };
        let mut stream = client.election().observe(request).await?.into_inner();
        let next = tokio::time::timeout(Duration::from_secs(2), stream.message()).await;
        Ok::<_, Status>(next.ok())
    };
    // A stream that ends, or a refusal; never somebody else's proclamation.
    match observe(&user, "secret").await {
        Ok(Some(Ok(Some(seen)))) => panic!("{seen:?}"),
        Ok(Some(_) | None) => {}
        Err(status) => denied(status),
    }
    let seen = observe(&root, "secret").await.expect("a stream");
    assert!(matches!(seen, Some(Ok(Some(_)))), "root sees it: {seen:?}");
    let unlock = lock::UnlockRequest { key: held.key };
    root.lock().unlock(unlock).await.expect("unlocked");

    // A right that goes while somebody waits is gone when its turn comes.
    let mine = take(&root, "own", 1).await.expect("root's lock");
    let waiting = {
        let user = user.clone();
        tokio::spawn(async move { user.lock().lock(request("own", 2)).await })
    };
    eventually("it contends", PATIENCE, async || {
        (count(&root, "own/", "own0").await.ok()? == 2).then_some(())
    })
    .await;
    revoke_role(&root, "u", "own").await.expect("a role less");
    let unlock = lock::UnlockRequest { key: mine.key };
    root.lock().unlock(unlock).await.expect("unlocked");
    let outcome = tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("in time");
    let status = outcome
        .expect("no panic")
        .expect_err("it may not read any more");
    let told = ["permission denied", "old revision", "invalid auth token"];
    assert!(
        told.iter().any(|words| status.message().contains(words)),
        "{status:?}"
    );
}

/// KB-03: authentication goes on and off, and users and roles change, while others write; members apply all of
/// it alike, also one that was killed in between.
async fn switched_under_load(kinds: [Kind; 3], kills: bool) {
    let cluster = Cluster::builder()
        .kinds(&kinds)
        .extra_args(&[CHEAP])
        .start()
        .await;
    cluster.leader().await;
    let first = cluster.client(0);
    add_user(&first, "root", "rootpw").await.expect("root");
    grant_role(&first, "root", "root").await.expect("its role");
    let load = ferrite_testkit::Workload::new()
        .writers(4)
        .others(1)
        .start(&cluster);
    load.wait_for(20).await;
    let long = |member: usize| {
        let mut config = Config::new([cluster.member(member).endpoint()]);
        config.call_timeout = Some(PATIENCE);
        Client::new(config).expect("a loopback endpoint")
    };
    for round in 0..6 {
        let on = long(round % 3);
        enable(&on).await.expect("on");
        let root = token(&long((round + 1) % 3), "root", "rootpw")
            .await
            .expect("a token");
        let root = with_token(&cluster, (round + 1) % 3, &root);
        for n in 0..3 {
            put(&root, "by-root").await.expect("root may");
            let user = format!("u{round}-{n}");
            add_user(&root, &user, "pw").await.expect("a user");
            grant_role(&root, &user, "root")
                .await
                .expect("a role for it");
        }
        if kills && round == 2 {
            cluster.member(round).kill9();
            cluster.member(round).start();
            cluster.member(round).ready(PATIENCE).await;
        }
        disable(&root).await.expect("off");
        load.wait_for(20).await;
    }
    let history = load.stop().await;
    history.check(&cluster).await;
    let mut revisions = Vec::new();
    for member in 0..3 {
        revisions.push(revision(&cluster.client(member)).await);
    }
    assert!(
        revisions.windows(2).all(|two| two[0] == two[1]),
        "{revisions:?}"
    );
    for member in cluster.members() {
        member.terminate().await;
    }
    let first = buckets(cluster.member(0).data_dir());
    assert!(first.len() > 18);
    for member in &cluster.members()[1..] {
        assert_eq!(buckets(member.data_dir()), first, "{:?}", member.kind());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn authentication_switched_under_load_leaves_no_two_members_apart() {
    let _turn = beside_others().await;
    switched_under_load([Ferrite; 3], true).await;
}

/// Without a kill: 3.5.1 itself loses what it then has not written (KB-01).
#[tokio::test(flavor = "multi_thread")]
async fn authentication_switched_under_load_leaves_members_of_both_kinds_alike() {
    let _turn = beside_others().await;
    if oracle().is_some() {
        switched_under_load([Etcd351, Ferrite, Etcd351], false).await;
    }
}
