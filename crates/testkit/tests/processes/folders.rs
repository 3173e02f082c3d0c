//! Every kind of folder that etcd 3.5.1 and 3.4 leave: ours serves the same from it, and what ours leaves at a
//! held version serves the same in 3.5.1 again.

use std::time::Duration;

use ferrite_proto::authpb;
use ferrite_testkit::{
    Builder, Client, Cluster, Contents, Kind, PATIENCE, Ports, Workload, dump, etcd34, eventually,
    oracle, pb,
};

use crate::beside_others;
use crate::every_kind::{Words, words_of};
use Kind::{Etcd34, Etcd351, Ferrite};

const HOLD: &str = "--hold-cluster-version=3.5";
/// Longer than 3.5.1 takes between two commits of its database: killed within it, it may lose a write of
/// its own (etcd issue 13766).
const AT_REST: Duration = Duration::from_millis(400);

/// How a program ends.
#[derive(Debug, Clone, Copy)]
enum End {
    Term,
    Kill,
}

async fn end(cluster: &Cluster, index: usize, how: End) {
    match how {
        End::Term => drop(cluster.member(index).terminate().await),
        End::Kill => {
            tokio::time::sleep(AT_REST).await;
            cluster.member(index).kill9();
        }
    }
}

/// A client that may do everything, whether authentication is on or not.
async fn root(cluster: &Cluster, index: usize) -> Client {
    let client = cluster.client(index);
    eventually("root is let in", PATIENCE, async || {
        client.login("root", "r").await.ok()
    })
    .await;
    client
}

/// Keys old and new, deleted and compacted; leases with keys; users and roles.
async fn fill(client: &Client) -> i64 {
    let put = |key: String, lease| pb::PutRequest {
        key: key.into(),
        value: "value".into(),
        lease,
        ..Default::default()
    };
    for id in [71, 72] {
        let request = pb::LeaseGrantRequest { ttl: 3_600, id };
        client.lease().lease_grant(request).await.expect("a lease");
        let request = put(format!("leased{id}"), id);
        client.kv().put(request).await.expect("a put");
    }
    for n in 0..60 {
        client
            .kv()
            .put(put(format!("k{:02}", n % 17), 0))
            .await
            .expect("a put");
    }
    let request = pb::DeleteRangeRequest {
        key: "k03".into(),
        range_end: "k06".into(),
        ..Default::default()
    };
    client.kv().delete_range(request).await.expect("a deletion");
    let request = pb::CompactionRequest {
        revision: 40,
        physical: true,
    };
    client.kv().compact(request).await.expect("a compaction");
    let mut auth = client.auth();
    for (name, role) in [("root", "root"), ("alice", "reader")] {
        let request = pb::AuthUserAddRequest {
            name: name.to_owned(),
            password: name[..1].to_owned(),
            options: Some(authpb::UserAddOptions::default()),
            ..Default::default()
        };
        auth.user_add(request).await.expect("a user");
        let request = pb::AuthRoleAddRequest {
            name: role.to_owned(),
        };
        auth.role_add(request).await.expect("a role");
        let request = pb::AuthUserGrantRoleRequest {
            user: name.to_owned(),
            role: role.to_owned(),
        };
        auth.user_grant_role(request).await.expect("a grant");
    }
    let request = pb::AuthRoleGrantPermissionRequest {
        name: "reader".to_owned(),
        perm: Some(authpb::Permission {
            perm_type: 0,
            key: "k".into(),
            range_end: "l".into(),
        }),
    };
    auth.role_grant_permission(request)
        .await
        .expect("a permission");
    let answer = client
        .kv()
        .put(put("last".to_owned(), 0))
        .await
        .expect("a put");
    answer.into_inner().header.expect("a header").revision
}

/// Everything that a member serves.
async fn everything(client: &Client, newest: i64) -> (Words, Vec<Contents>) {
    let revisions = [newest, newest - 3, 45];
    let words = words_of(client, "the member", &revisions).await;
    let mut contents = Vec::new();
    for revision in [40, 45, newest - 3, newest] {
        let seen = dump(client, revision, false, 64).await;
        contents.push(seen.unwrap_or_else(|status| panic!("at revision {revision}: {status}")));
    }
    (words, contents)
}

/// Who made a folder, and who has it then, one after another: each with how the one before ends.
#[derive(Debug, Clone, Copy)]
struct Hands {
    first: Kind,
    then: &'static [(Kind, End)],
}

/// To ours and back, ended in both ways.
const BACK: &[Hands] = &[Hands {
    first: Etcd351,
    then: &[
        (Ferrite, End::Term),
        (Etcd351, End::Kill),
        (Ferrite, End::Kill),
        (Etcd351, End::Term),
    ],
}];

/// From 3.4, ended in both ways, to ours and on to 3.5.1. There is no way back to 3.4.
const ON: &[Hands] = &[
    Hands {
        first: Etcd34,
        then: &[(Ferrite, End::Term), (Etcd351, End::Kill)],
    },
    Hands {
        first: Etcd34,
        then: &[(Ferrite, End::Kill), (Etcd351, End::Term)],
    },
];

/// A member's folder goes from hand to hand.
async fn hand_on(cluster: &Cluster, newest: i64, hands: Hands) {
    let before = everything(&root(cluster, 0).await, newest).await;
    for &(kind, left) in hands.then {
        end(cluster, 0, left).await;
        let more: &[&str] = if kind == Ferrite { &[HOLD] } else { &[] };
        cluster.member(0).start_as_with(kind, more);
        cluster.member(0).ready(PATIENCE).await;
        let client = root(cluster, 0).await;
        let after = everything(&client, newest).await;
        assert_eq!(before, after, "after {left:?}, in {kind:?}");
        // Writing goes on, so that there is something of its own in what it leaves.
        for n in 0..30 {
            let request = pb::PutRequest {
                key: format!("later{n}").into(),
                value: format!("{kind:?}").into(),
                ..Default::default()
            };
            eventually("a put is taken", PATIENCE, async || {
                client.kv().put(request.clone()).await.ok()
            })
            .await;
        }
    }
}

async fn one(builder: Builder, hands: Hands) -> (Cluster, i64) {
    let cluster = builder.kinds(&[hands.first]).start().await;
    let newest = fill(&cluster.client(0)).await;
    (cluster, newest)
}

#[tokio::test(flavor = "multi_thread")]
async fn with_leases_users_roles_and_alarms() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    for hands in BACK {
        leases_users_roles_and_alarms(*hands).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_3_4_with_leases_users_roles_and_alarms() {
    if oracle().is_none() || etcd34().is_none() {
        return;
    }
    let _turn = beside_others().await;
    for hands in ON {
        leases_users_roles_and_alarms(*hands).await;
    }
}

async fn leases_users_roles_and_alarms(hands: Hands) {
    let (cluster, newest) = one(Cluster::builder(), hands).await;
    let client = cluster.client(0);
    for member_id in [7, 8] {
        let request = pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Activate.into(),
            member_id,
            alarm: pb::AlarmType::Nospace.into(),
        };
        client.maintenance().alarm(request).await.expect("an alarm");
    }
    let before = everything(&client, newest).await;
    assert_eq!(before.0.alarms, [(7, 1), (8, 1)]);
    end(&cluster, 0, End::Kill).await;
    cluster.member(0).start_as_with(Ferrite, &[HOLD]);
    cluster.member(0).ready(PATIENCE).await;
    let ours = cluster.client(0);
    assert_eq!(before, everything(&ours, newest).await);
    for member_id in [7, 8] {
        let request = pb::AlarmRequest {
            action: pb::alarm_request::AlarmAction::Deactivate.into(),
            member_id,
            alarm: pb::AlarmType::Nospace.into(),
        };
        ours.maintenance().alarm(request).await.expect("disarmed");
    }
    hand_on(&cluster, newest, hands).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_authentication_on() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    for hands in BACK {
        authentication_on(*hands).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_3_4_with_authentication_on() {
    if oracle().is_none() || etcd34().is_none() {
        return;
    }
    let _turn = beside_others().await;
    for hands in ON {
        authentication_on(*hands).await;
    }
}

async fn authentication_on(hands: Hands) {
    let (cluster, newest) = one(Cluster::builder(), hands).await;
    let request = pb::AuthEnableRequest {};
    cluster
        .client(0)
        .auth()
        .auth_enable(request)
        .await
        .expect("on");
    hand_on(&cluster, newest, hands).await;
    let stranger = dump(&cluster.client(0), 0, false, 64).await;
    assert!(stranger.is_err(), "authentication went off: {stranger:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_snapshots_the_log_elsewhere_and_after_a_defragmentation() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    for hands in BACK {
        snapshots_the_log_elsewhere_and_after_a_defragmentation(*hands).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_3_4_with_snapshots_the_log_elsewhere_and_after_a_defragmentation() {
    if oracle().is_none() || etcd34().is_none() {
        return;
    }
    let _turn = beside_others().await;
    for hands in ON {
        snapshots_the_log_elsewhere_and_after_a_defragmentation(*hands).await;
    }
}

async fn snapshots_the_log_elsewhere_and_after_a_defragmentation(hands: Hands) {
    let wal = tempfile::tempdir().expect("a folder");
    let elsewhere = format!("--wal-dir={}", wal.path().join("log").display());
    let builder = Cluster::builder()
        .snapshot_count(20)
        .extra_args(&[&elsewhere]);
    let (cluster, newest) = one(builder, hands).await;
    let request = pb::DefragmentRequest {};
    let client = cluster.client(0);
    client
        .maintenance()
        .defragment(request)
        .await
        .expect("defragmented");
    assert!(!cluster.member(0).data_dir().join("member/wal").exists());
    hand_on(&cluster, newest, hands).await;
    assert!(!cluster.member(0).data_dir().join("member/wal").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_several_segments_of_log() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    for hands in BACK {
        several_segments_of_log(*hands).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_3_4_with_several_segments_of_log() {
    if oracle().is_none() || etcd34().is_none() {
        return;
    }
    let _turn = beside_others().await;
    for hands in ON {
        several_segments_of_log(*hands).await;
    }
}

async fn several_segments_of_log(hands: Hands) {
    let (cluster, newest) = one(Cluster::builder(), hands).await;
    let client = cluster.client(0);
    for n in 0..70_u8 {
        let request = pb::PutRequest {
            key: "large".into(),
            value: vec![n; 1 << 20].into(),
            ..Default::default()
        };
        client.kv().put(request).await.expect("a put");
    }
    let request = pb::DeleteRangeRequest {
        key: "large".into(),
        ..Default::default()
    };
    client.kv().delete_range(request).await.expect("a deletion");
    for key in ["a", "b", "c"] {
        crate::put(&client, key, "v").await;
    }
    let segments = std::fs::read_dir(cluster.member(0).data_dir().join("member/wal"))
        .expect("a folder")
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".wal"))
        .count();
    assert!(segments > 1, "{segments}");
    hand_on(&cluster, newest + 74, hands).await;
}

/// A learner's own folder, and that of the voter beside it.
#[tokio::test(flavor = "multi_thread")]
async fn with_a_learner() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    for hands in BACK {
        a_learner(*hands).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_3_4_with_a_learner() {
    if oracle().is_none() || etcd34().is_none() {
        return;
    }
    let _turn = beside_others().await;
    for hands in ON {
        a_learner(*hands).await;
    }
}

async fn a_learner(hands: Hands) {
    let (cluster, newest) = one(Cluster::builder(), hands).await;
    let mut ports = Ports::default();
    let peer = format!("http://127.0.0.1:{}", ports.take());
    let request = pb::MemberAddRequest {
        peer_urls: vec![peer],
        is_learner: true,
    };
    let added = cluster.client(0).cluster().member_add(request).await;
    let id = added
        .expect("added")
        .into_inner()
        .member
        .expect("a member")
        .id;
    hand_on(&cluster, newest, hands).await;
    let request = pb::MemberListRequest { linearizable: true };
    let list = root(&cluster, 0).await.cluster().member_list(request).await;
    let list = list.expect("a list").into_inner().members;
    assert!(
        list.iter()
            .any(|member| member.id == id && member.is_learner),
        "{list:?}"
    );
}

/// Killed while a leader's database is coming in, of either kind, the folder goes to the other kind.
#[tokio::test(flavor = "multi_thread")]
async fn in_the_middle_of_receiving_a_snapshot() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    for (first, second) in [(Etcd351, Ferrite), (Ferrite, Etcd351)] {
        let cluster = Cluster::builder()
            .kinds(&[Ferrite, first, Ferrite])
            .snapshot_count(100)
            .catchup_entries(10)
            .extra_args_of(Ferrite, &[HOLD])
            .start()
            .await;
        // A database of some size, so that it is on its way for a while.
        for n in 0..24_u8 {
            let request = pb::PutRequest {
                key: "large".into(),
                value: vec![n; 1 << 20].into(),
                ..Default::default()
            };
            cluster.client(0).kv().put(request).await.expect("a put");
        }
        let request = pb::DeleteRangeRequest {
            key: "large".into(),
            ..Default::default()
        };
        let deleted = cluster.client(0).kv().delete_range(request).await;
        deleted.expect("a deletion");
        let member = cluster.member(1);
        tokio::time::sleep(AT_REST).await;
        member.kill9();
        let load = Workload::new().start(&cluster);
        load.wait_for(400).await;
        let history = load.stop().await;
        let snap = member.data_dir().join("member/snap");
        let coming = || {
            let names = std::fs::read_dir(&snap).into_iter().flatten().flatten();
            let mut names = names.map(|entry| entry.file_name().to_string_lossy().into_owned());
            names.any(|name| name.starts_with("tmp") || name.ends_with(".snap.db"))
        };
        member.start();
        eventually("a database is coming in", PATIENCE, async || {
            coming().then_some(())
        })
        .await;
        member.kill9();
        member.start_as_with(second, &[]);
        member.ready(PATIENCE).await;
        history.check(&cluster).await;
        eprintln!("killed as {first:?} while it received, went on as {second:?}");
    }
}
