//! Clusters of both kinds under every kind of request, while members fall, stand still, are parted and
//! hand leadership on; and after each such thing all members hold the same.
//!
//! Some seconds of it are part of the suite. For an hour by hand (`docs/proof.md` says how):
//! `FERRITE_SOAK_SECONDS`, and `FERRITE_SOAK_PAUSE` for the milliseconds that each client rests between
//! two requests.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ferrite_testkit::{
    Asked, Client, Cluster, Everything, Kind, Load, PATIENCE, Random, Workload, eventually, oracle,
    pb, soak,
};
use tokio::sync::OwnedRwLockWriteGuard;

use crate::{alone, beside_others};
use Kind::{Etcd351, Ferrite};

/// Time that anything may take on a machine busy with other tests.
const LONG: Duration = Duration::from_secs(90);
/// Longer than 3.5.1 takes between two commits of its database.
const AT_REST: Duration = Duration::from_millis(400);
/// Disturbances of one cluster.
const ROUNDS: u32 = 24;

/// What happens to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Blow {
    Kill,
    Terminate,
    Pause,
    Part,
    MoveLeader,
    LeaveBehind,
    Defragment,
}

const BLOWS: [Blow; 8] = [
    Blow::Kill,
    Blow::Kill,
    Blow::Terminate,
    Blow::Pause,
    Blow::Part,
    Blow::MoveLeader,
    Blow::LeaveBehind,
    Blow::Defragment,
];

/// A cluster at work.
struct Under {
    cluster: Cluster,
    load: Load,
    everything: Everything,
    /// What was done to members of each kind, and how often a leader was hit.
    tally: BTreeMap<(Blow, Kind), (u32, u32)>,
    compared: u32,
    snapshots: u32,
}

/// What one member says of everything that is replicated.
#[derive(Debug, PartialEq)]
pub struct Words {
    pub hashes: Vec<(i64, u32, i64)>,
    pub users: Vec<(String, Vec<String>)>,
    pub roles: Vec<(String, String)>,
    pub leases: Vec<(i64, Vec<String>)>,
    pub members: Vec<pb::Member>,
    pub alarms: Vec<(u64, i32)>,
}

/// Asks one member.
async fn words(cluster: &Cluster, index: usize, revisions: &[i64]) -> Words {
    let who = format!("member {index} ({:?})", cluster.member(index).kind());
    words_of(&cluster.client(index), &who, revisions).await
}

/// Asks whoever is behind a client.
pub async fn words_of(client: &Client, who: &str, revisions: &[i64]) -> Words {
    let what = |call: &str| format!("{call} on {who}");
    macro_rules! ask {
        ($what:expr, $call:expr) => {
            eventually(&what($what), LONG, async || match $call.await {
                Ok(answer) => Some(answer.into_inner()),
                Err(status) => {
                    eprintln!("{}: {status}", what($what));
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    None
                }
            })
            .await
        };
    }
    let mut hashes = Vec::new();
    for revision in revisions {
        let request = pb::HashKvRequest {
            revision: *revision,
        };
        let hash = ask!("HashKV", client.maintenance().hash_kv(request));
        hashes.push((*revision, hash.hash, hash.compact_revision));
    }
    let mut users = Vec::new();
    for name in ask!("users", client.auth().user_list(pb::AuthUserListRequest {})).users {
        let request = pb::AuthUserGetRequest { name: name.clone() };
        let user = ask!("a user", client.auth().user_get(request.clone()));
        users.push((name, user.roles));
    }
    let mut roles = Vec::new();
    for role in ask!("roles", client.auth().role_list(pb::AuthRoleListRequest {})).roles {
        // 3.7 shows what root may without being told; 3.5.1 shows nothing.
        if role == "root" {
            roles.push((role, String::new()));
            continue;
        }
        let request = pb::AuthRoleGetRequest { role: role.clone() };
        let found = ask!("a role", client.auth().role_get(request.clone()));
        roles.push((role, format!("{:?}", found.perm)));
    }
    let mut leases = Vec::new();
    let list = ask!(
        "leases",
        client.lease().lease_leases(pb::LeaseLeasesRequest {})
    );
    let mut ids: Vec<i64> = list.leases.into_iter().map(|lease| lease.id).collect();
    ids.sort_unstable();
    for id in ids {
        let request = pb::LeaseTimeToLiveRequest { id, keys: true };
        let lease = ask!("time to live", client.lease().lease_time_to_live(request));
        let mut keys: Vec<String> = lease
            .keys
            .iter()
            .map(|key| String::from_utf8_lossy(key).into_owned())
            .collect();
        keys.sort();
        leases.push((id, keys));
    }
    let request = pb::MemberListRequest { linearizable: true };
    let mut members = ask!("members", client.cluster().member_list(request)).members;
    members.sort_by_key(|member| member.id);
    let request = pb::AlarmRequest {
        action: pb::alarm_request::AlarmAction::Get.into(),
        ..Default::default()
    };
    let alarms = ask!("alarms", client.maintenance().alarm(request)).alarms;
    let mut alarms: Vec<(u64, i32)> = alarms.iter().map(|a| (a.member_id, a.alarm)).collect();
    alarms.sort_unstable();
    Words {
        hashes,
        users,
        roles,
        leases,
        members,
        alarms,
    }
}

impl Under {
    async fn start(kinds: &[Kind], snapshots: bool, pause: Duration, random: &mut Random) -> Self {
        let mut builder = Cluster::builder().kinds(kinds).wires();
        if snapshots {
            builder = builder.snapshot_count(1_000).catchup_entries(100);
        }
        let cluster = builder.start().await;
        let load = Workload::new()
            .writers(3)
            .readers(2)
            .pause(pause)
            .start(&cluster);
        let everything = Everything::start(&cluster, 4, pause, random);
        Self {
            cluster,
            load,
            everything,
            tally: BTreeMap::new(),
            compared: 0,
            snapshots: 0,
        }
    }

    async fn hold(&self) -> (OwnedRwLockWriteGuard<()>, OwnedRwLockWriteGuard<()>) {
        (self.load.hold().await, self.everything.hold().await)
    }

    async fn writes(&self, more: u64) {
        self.load.wait_for_within(more, LONG).await;
    }

    /// Holds the load back and asserts that all members hold the same, at the newest revision and at some
    /// before it. Leases may end meanwhile: then all are asked again.
    async fn compare(&mut self, random: &mut Random) {
        let held = self.hold().await;
        self.cluster.wait_healthy().await;
        self.alarm(pb::alarm_request::AlarmAction::Activate, random)
            .await;
        let newest = self.cluster.wait_healthy().await;
        let start = Instant::now();
        loop {
            let compacted = self.everything.compacted();
            let mut revisions = vec![newest];
            for _ in 0..3 {
                let span = u64::try_from((newest - compacted).max(1)).unwrap_or(1);
                let back = i64::try_from(random.below(span)).unwrap_or(0);
                revisions.push(newest - back);
            }
            revisions.retain(|revision| *revision > compacted);
            let mut all = Vec::new();
            for index in 0..self.cluster.members().len() {
                all.push(words(&self.cluster, index, &revisions).await);
            }
            if all.iter().all(|words| *words == all[0]) {
                break;
            }
            // Hashes are of fixed revisions: nothing that goes on may change them, but a compaction that one
            // has not finished.
            assert!(
                start.elapsed() < PATIENCE,
                "members differ: {all:#?} ({:?})",
                self.cluster
                    .members()
                    .iter()
                    .map(|member| member.kind())
                    .collect::<Vec<_>>()
            );
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        self.alarm(pb::alarm_request::AlarmAction::Deactivate, random)
            .await;
        self.compared += 1;
        drop(held);
    }

    /// Raises or disarms an alarm through some member. Not under load: up to 3.5.32 puts in nested transactions
    /// pass by it.
    async fn alarm(&self, action: pb::alarm_request::AlarmAction, random: &mut Random) {
        let members = u64::try_from(self.cluster.members().len()).unwrap_or(1);
        let index = usize::try_from(random.below(members)).unwrap_or(0);
        let client = self.cluster.client(index);
        let request = pb::AlarmRequest {
            action: action.into(),
            member_id: 7,
            alarm: pb::AlarmType::Nospace.into(),
        };
        eventually("an alarm is set", LONG, async || {
            client.maintenance().alarm(request).await.ok()
        })
        .await;
    }

    /// Kills a member the hard way, under load wherever that says something. What 3.5.1 does to its own
    /// database then (etcd issue 13766) is undone: it makes it anew from its log, or, where a snapshot has
    /// cut that, it is killed at rest.
    async fn kill(&self, index: usize) {
        let member = self.cluster.member(index);
        if member.kind() == Ferrite {
            member.kill9();
            return;
        }
        let folder = member.data_dir().join("member/snap");
        let names = |folder| -> Vec<_> { std::fs::read_dir(folder).unwrap().flatten().collect() };
        if names(&folder).len() > 1 {
            let held = self.hold().await;
            tokio::time::sleep(AT_REST).await;
            member.kill9();
            drop(held);
            return;
        }
        member.kill9();
        // One could have come just now.
        if names(&folder).len() == 1 {
            std::fs::remove_file(folder.join("db")).expect("the database can be removed");
        }
    }

    async fn up(&self, index: usize) {
        let member = self.cluster.member(index);
        member.start();
        member.ready(LONG).await;
    }

    async fn strike(&mut self, blow: Blow, index: usize, random: &mut Random) {
        let kind = self.cluster.member(index).kind();
        let leader = self.cluster.leader().await;
        let sum = self.tally.entry((blow, kind)).or_default();
        sum.0 += 1;
        sum.1 += u32::from(leader == index);
        let rest = Duration::from_millis(300 + random.below(2_500));
        match blow {
            Blow::Kill => {
                self.kill(index).await;
                self.writes(30).await;
                self.up(index).await;
            }
            Blow::Terminate => {
                self.cluster.member(index).terminate().await;
                self.writes(30).await;
                self.up(index).await;
            }
            Blow::Pause => {
                self.cluster.member(index).stop_signal();
                tokio::time::sleep(rest).await;
                self.cluster.member(index).cont();
            }
            Blow::Part => {
                self.cluster.part(&[index]).await;
                tokio::time::sleep(rest).await;
                self.cluster.join();
            }
            Blow::MoveLeader => self.cluster.move_leader(index).await,
            Blow::LeaveBehind => {
                // Away for so long that only a snapshot helps, where leaders take them often enough.
                self.cluster.member(index).terminate().await;
                self.writes(600).await;
                self.up(index).await;
                let log = self.cluster.member(index).log();
                let received = ["receiving database snapshot", "applied snapshot"];
                self.snapshots += u32::from(received.iter().any(|text| log.contains(text)));
            }
            Blow::Defragment => {
                let client = self.cluster.client(index);
                let _slow = client
                    .maintenance()
                    .defragment(pb::DefragmentRequest {})
                    .await;
            }
        }
        self.writes(30).await;
    }

    async fn finish(self) -> Asked {
        let compacted = self.everything.compacted();
        let asked = self.everything.stop().await;
        let mut history = self.load.stop().await;
        history.compacted(compacted);
        history.check(&self.cluster).await;
        eprintln!(
            "{} comparisons, {} times caught up by a snapshot; {:?}",
            self.compared, self.snapshots, self.tally
        );
        asked
    }
}

/// Each kind leads and falls, is parted and paused, under every kind of request.
async fn some_seconds(kinds: &[Kind]) {
    let mut random = Random::announced("every kind of request");
    let pause = Duration::from_millis(4);
    let mut under = Under::start(kinds, false, pause, &mut random).await;
    for (blow, kind) in [
        (Blow::MoveLeader, Etcd351),
        (Blow::Part, Etcd351),
        (Blow::Kill, Etcd351),
        (Blow::MoveLeader, Ferrite),
        (Blow::Part, Ferrite),
        (Blow::Kill, Ferrite),
    ] {
        let index = kinds.iter().position(|k| *k == kind).expect("both kinds");
        under.strike(blow, index, &mut random).await;
        if blow != Blow::MoveLeader {
            under.compare(&mut random).await;
        }
    }
    let asked = under.finish().await;
    eprintln!("{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_of_theirs_and_one_of_ours_stay_equal() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    some_seconds(&[Etcd351, Ferrite, Etcd351]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_theirs_and_two_of_ours_stay_equal() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    some_seconds(&[Ferrite, Etcd351, Ferrite]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a soak, run by hand"]
async fn for_as_long_as_one_likes() {
    let _turn = alone().await;
    let mut random = Random::announced("every kind of request");
    let pause = std::env::var("FERRITE_SOAK_PAUSE").ok();
    let pause = Duration::from_millis(pause.map_or(20, |text| text.parse().expect("a number")));
    let mixes: [&[Kind]; 4] = [
        &[Etcd351, Ferrite, Etcd351],
        &[Ferrite, Etcd351, Ferrite],
        &[Etcd351, Ferrite, Etcd351, Ferrite, Etcd351],
        &[Ferrite, Etcd351, Ferrite, Etcd351, Ferrite],
    ];
    let mut asked = Asked::default();
    let start = Instant::now();
    for turn in 0_usize.. {
        let kinds = mixes[turn % mixes.len()];
        let snapshots = turn / mixes.len() % 2 == turn % 2;
        let mut under = Under::start(kinds, snapshots, pause, &mut random).await;
        let begun = Instant::now();
        for round in 0..ROUNDS {
            let blow = BLOWS[usize::try_from(random.below(8)).unwrap_or(0)];
            let count = u64::try_from(kinds.len()).unwrap_or(1);
            let index = usize::try_from(random.below(count)).unwrap_or(0);
            eprintln!(
                "{:?}: cluster {turn}, round {round}: {blow:?} member {index} ({:?})",
                start.elapsed(),
                kinds[index]
            );
            under.strike(blow, index, &mut random).await;
            under.compare(&mut random).await;
            if start.elapsed() > soak(60) {
                break;
            }
        }
        asked.merge(under.finish().await);
        eprintln!(
            "{kinds:?}, snapshots {snapshots}, {:?}; in all {asked:?}",
            begun.elapsed()
        );
        if start.elapsed() > soak(60) {
            break;
        }
    }
    assert_eq!(asked.never_answered(), Vec::<&str>::new());
}
