//! Membership as operators change it: one at a time, on a running cluster, through any member.

use std::time::{Duration, Instant};

use ferrite_client::{Config, last_failure};
use ferrite_testkit::{Client, Cluster, Kind, PATIENCE, Workload, eventually, oracle, pb};
use tonic::{Code, Status};

use crate::{alone, beside_others, put};

/// How long members must have been connected before another may come.
const CONNECTED: Duration = Duration::from_secs(5);

/// A client of one member whose calls fail soon.
fn hasty(cluster: &Cluster, index: usize) -> Client {
    let mut config = Config::new([cluster.member(index).endpoint()]);
    config.call_timeout = Some(Duration::from_secs(2));
    Client::new(config).expect("a loopback endpoint")
}

/// What a refusal says, under whatever the client made of it.
fn words(status: &Status) -> String {
    last_failure(status).unwrap_or_else(|| status.message().to_owned())
}

/// As one member sees them: a cluster of two whose second one has not started has no quorum.
async fn listed(client: &Client) -> Vec<pb::Member> {
    let request = pb::MemberListRequest {
        linearizable: false,
    };
    eventually("members are listed", PATIENCE, async || {
        let list = client.cluster().member_list(request).await.ok()?;
        Some(list.into_inner().members)
    })
    .await
}

async fn id_of(cluster: &Cluster, through: usize, index: usize) -> Option<u64> {
    let url = cluster.member(index).peer_url();
    let members = listed(&hasty(cluster, through)).await;
    let found = (members.iter()).find(|member| member.peer_urls.iter().any(|own| own == url));
    found.map(|member| member.id)
}

/// `--initial-cluster` of these.
fn initial(cluster: &Cluster, members: &[usize]) -> String {
    let pairs: Vec<String> = (members.iter())
        .map(|index| cluster.member(*index))
        .map(|member| format!("{}={}", member.name(), member.peer_url()))
        .collect();
    format!("--initial-cluster={}", pairs.join(","))
}

/// Founds the cluster with the first members only.
async fn found(cluster: &Cluster, count: usize) -> Vec<usize> {
    let live: Vec<usize> = (0..count).collect();
    for index in &live {
        let founders = initial(cluster, &live);
        cluster.member(*index).start_once_with(&[founders]);
    }
    for index in &live {
        cluster.member(*index).ready(PATIENCE).await;
    }
    live
}

/// Adds a member through a live one, as soon as it may come, and returns its ID.
async fn add(cluster: &Cluster, live: &[usize], index: usize, is_learner: bool) -> u64 {
    let client = hasty(cluster, live[0]);
    let request = pb::MemberAddRequest {
        peer_urls: Vec::from([cluster.member(index).peer_url().to_owned()]),
        is_learner,
    };
    eventually("a member may come", PATIENCE, async || {
        match client.cluster().member_add(request.clone()).await {
            Ok(_) => Some(()),
            // Its answer was lost.
            Err(status) if words(&status).contains("already exists") => Some(()),
            Err(_) => None,
        }
    })
    .await;
    let id = id_of(cluster, live[0], index).await;
    id.expect("the new member is listed")
}

/// Starts a member that was added, with nothing on its disk.
async fn join(cluster: &Cluster, live: &mut Vec<usize>, index: usize) {
    add(cluster, live, index, false).await;
    live.push(index);
    let member = cluster.member(index);
    if member.data_dir().exists() {
        std::fs::remove_dir_all(member.data_dir()).expect("the folder can be removed");
    }
    let all = initial(cluster, live);
    member.start_once_with(&[all, "--initial-cluster-state=existing".to_owned()]);
    member.ready(PATIENCE).await;
}

/// Removes a member through another one, and waits until its process has ended as it should.
async fn leave(cluster: &Cluster, live: &mut Vec<usize>, index: usize) {
    live.retain(|other| *other != index);
    let id = id_of(cluster, live[0], index).await.expect("a member");
    let client = hasty(cluster, live[0]);
    let asked = Instant::now();
    eventually("a member may go", PATIENCE, async || {
        match client
            .cluster()
            .member_remove(pb::MemberRemoveRequest { id })
            .await
        {
            Ok(_) => Some(()),
            Err(status) if words(&status).contains("member not found") => Some(()),
            Err(_) => None,
        }
    })
    .await;
    let status = cluster.member(index).exit(PATIENCE).await;
    assert_eq!(status.code(), Some(0), "member {index}");
    assert!(
        asked.elapsed() >= Duration::from_secs(1),
        "{:?}",
        asked.elapsed()
    );
    let said = "the member has been permanently removed from the cluster";
    assert!(cluster.member(index).log_contains(said));
}

/// From one to three to five members, back to three, each of these replaced by another one, and back to
/// one; all the while somebody writes and reads.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_grows_shrinks_and_is_replaced_under_load() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().members(5).build();
    let live = &mut found(&cluster, 1).await;
    let load = Workload::new()
        .writers(3)
        .readers(1)
        .pause(Duration::from_millis(5))
        .start(&cluster);
    load.wait_for(20).await;
    for index in 1..5 {
        join(&cluster, live, index).await;
        load.wait_for(20).await;
    }
    // A quorum of those that would be is enough for another one to come, here four of six.
    let absent = (cluster.leader().await + 1) % 5;
    cluster.member(absent).kill9();
    let others: Vec<usize> = (live.iter().copied())
        .filter(|index| *index != absent)
        .collect();
    let request = pb::MemberAddRequest {
        peer_urls: Vec::from(["http://127.0.0.1:1".to_owned()]),
        is_learner: true,
    };
    let client = hasty(&cluster, others[0]);
    let added = eventually("another may come", PATIENCE, async || {
        client.cluster().member_add(request.clone()).await.ok()
    })
    .await;
    let id = added.into_inner().member.expect("a member").id;
    let removal = pb::MemberRemoveRequest { id };
    eventually("and go", PATIENCE, async || {
        client.cluster().member_remove(removal).await.ok()
    })
    .await;
    cluster.member(absent).start();
    cluster.member(absent).ready(PATIENCE).await;

    for index in [0, 1] {
        leave(&cluster, live, index).await;
        load.wait_for(20).await;
    }
    for (old, new) in [(2, 0), (3, 1), (4, 2)] {
        join(&cluster, live, new).await;
        leave(&cluster, live, old).await;
        load.wait_for(20).await;
    }
    assert_eq!(*live, [0, 1, 2]);
    let history = load.stop().await;
    history.check(&cluster).await;
    for index in [2, 1] {
        leave(&cluster, live, index).await;
    }
    history.check(&cluster).await;
    put(&cluster.client(0), "after", "v").await;
    assert_eq!(listed(&cluster.client(0)).await.len(), 1);
}

/// CL-03: whoever has just come back does not count yet.
async fn five_seconds(kind: Kind) {
    let cluster = Cluster::builder().kinds(&[kind; 3]).start().await;
    let leader = cluster.leader().await;
    let back = (leader + 1) % 3;
    let client = hasty(&cluster, leader);
    let url = |port: u16| Vec::from([format!("http://127.0.0.1:{port}")]);
    let try_to_add = async |peer_urls: Vec<String>, is_learner| {
        let request = pb::MemberAddRequest {
            peer_urls,
            is_learner,
        };
        let answer = client.cluster().member_add(request).await;
        answer.map_err(|status| words(&status))
    };
    cluster.member(back).kill9();
    for is_learner in [false, true] {
        eventually(
            "the loss of a member is noticed",
            PATIENCE,
            async || match try_to_add(url(1), is_learner).await {
                Err(why) => (why == "etcdserver: unhealthy cluster").then_some(()),
                Ok(_) => panic!("{kind:?}: a member came to a cluster that had lost one"),
            },
        )
        .await;
    }
    let since = Instant::now();
    cluster.member(back).start();
    eventually("it may come", PATIENCE, async || {
        match try_to_add(url(1), false).await {
            Ok(_) => Some(()),
            Err(why) => {
                assert_eq!(why, "etcdserver: unhealthy cluster", "{kind:?}");
                None
            }
        }
    })
    .await;
    assert!(
        since.elapsed() >= CONNECTED,
        "{kind:?}: {:?}",
        since.elapsed()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_comes_only_when_the_others_are_connected_for_five_seconds() {
    let _turn = beside_others().await;
    match oracle() {
        Some(_) => drop(tokio::join!(
            five_seconds(Kind::Ferrite),
            five_seconds(Kind::Etcd351)
        )),
        None => five_seconds(Kind::Ferrite).await,
    }
}

/// CL-05: whoever is asked, the leader decides.
async fn promoted(kinds: [Kind; 4], leader: usize, asked: usize) {
    let cluster = Cluster::builder().kinds(&kinds).build();
    let live = &mut found(&cluster, 3).await;
    cluster.move_leader(leader).await;
    let id = add(&cluster, &[leader], 3, true).await;
    let client = hasty(&cluster, asked);
    let promotion = pb::MemberPromoteRequest { id };
    let refused = client.cluster().member_promote(promotion).await;
    assert_eq!(
        refused.map_err(|status| words(&status)).err().as_deref(),
        Some("etcdserver: can only promote a learner member which is in sync with leader")
    );
    let unknown = pb::MemberPromoteRequest { id: 404 };
    let refused = client.cluster().member_promote(unknown).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::NotFound, "etcdserver: member not found")
    );
    live.push(3);
    let all = initial(&cluster, live);
    let learner = cluster.member(3);
    learner.start_once_with(&[all, "--initial-cluster-state=existing".to_owned()]);
    learner.ready(PATIENCE).await;
    let answer = eventually("the learner has caught up", PATIENCE, async || match client
        .cluster()
        .member_promote(promotion)
        .await
    {
        Ok(answer) => Some(answer.into_inner()),
        Err(status) => {
            assert!(words(&status).contains("in sync"), "{status:?}");
            None
        }
    })
    .await;
    let header = answer.header.expect("a header");
    assert_eq!(header.revision, 0, "CL-08");
    let voters = answer.members.iter().filter(|member| !member.is_learner);
    assert_eq!(voters.count(), 4);
    assert_eq!(cluster.leader().await, leader);
    let again = client.cluster().member_promote(promotion).await;
    assert_eq!(
        again.map_err(|status| words(&status)).err().as_deref(),
        Some("etcdserver: can only promote a learner member")
    );
    cluster.wait_healthy().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_is_promoted_through_a_follower() {
    let _turn = beside_others().await;
    promoted([Kind::Ferrite; 4], 0, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_is_promoted_through_a_follower_of_the_other_kind() {
    let _turn = beside_others().await;
    if oracle().is_none() {
        return;
    }
    let [ours, theirs] = [Kind::Ferrite, Kind::Etcd351];
    tokio::join!(
        promoted([ours, theirs, ours, ours], 0, 1),
        promoted([ours, theirs, ours, ours], 1, 0)
    );
}

/// CL-06, CL-08.
async fn updated(kind: Kind) {
    let cluster = Cluster::builder().kinds(&[kind]).start().await;
    let client = cluster.client(0);
    put(&client, "k", "v").await;
    let update = async |id: u64, urls: &[&str]| {
        let request = pb::MemberUpdateRequest {
            id,
            peer_urls: urls.iter().map(|url| (*url).to_owned()).collect(),
        };
        // The original never answers a change that comes a moment too early after another (CL-11).
        let answer = eventually("an update is answered", PATIENCE, async || {
            let call = async { client.cluster().member_update(request.clone()).await };
            tokio::time::timeout(Duration::from_secs(1), call)
                .await
                .ok()
        })
        .await;
        let answer = answer.map_err(|status| words(&status))?.into_inner();
        assert_eq!(answer.header.expect("a header").revision, 0, "{kind:?}");
        Ok::<_, String>(answer.members)
    };
    let id = listed(&client).await[0].id;
    let urls = ["no URL at all", ":::", "ftp://x"];
    let members = update(id, &urls)
        .await
        .expect("syntax is the client's duty");
    assert_eq!(members[0].peer_urls, urls, "{kind:?}");
    assert_eq!(listed(&client).await, members, "{kind:?}");
    let own = cluster.member(0).peer_url().to_owned();
    update(id, &[&own]).await.expect("the old one again");
    let unknown = update(404, &["http://127.0.0.1:1"]).await;
    assert_eq!(
        unknown,
        Err("etcdserver: member not found".to_owned()),
        "{kind:?}"
    );

    let header = |header: Option<pb::ResponseHeader>| header.expect("a header").revision;
    let request = pb::MemberAddRequest {
        peer_urls: Vec::from(["http://127.0.0.1:1".to_owned()]),
        is_learner: true,
    };
    let added = client
        .cluster()
        .member_add(request)
        .await
        .expect("a learner");
    let added = added.into_inner();
    let id = added.member.expect("the new one").id;
    let removal = pb::MemberRemoveRequest { id };
    let removed = eventually("it may go again", PATIENCE, async || {
        // The original never answers a change that comes a moment too early (CL-11).
        let call = async { client.cluster().member_remove(removal).await };
        tokio::time::timeout(Duration::from_secs(1), call)
            .await
            .ok()?
            .ok()
    })
    .await;
    let request = pb::MemberListRequest { linearizable: true };
    let list = client.cluster().member_list(request).await.expect("a list");
    assert_eq!(
        [
            header(added.header),
            header(removed.into_inner().header),
            header(list.into_inner().header)
        ],
        [0; 3],
        "{kind:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_server_takes_urls_it_cannot_read_and_names_no_revision() {
    let _turn = beside_others().await;
    updated(Kind::Ferrite).await;
    if oracle().is_some() {
        updated(Kind::Etcd351).await;
    }
}

/// The original's members end at once when another one gets such a URL. Ours goes on, and reaches it
/// again when the URL is mended.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_an_unreadable_url_is_the_only_one_concerned() {
    let _turn = alone().await;
    let cluster = Cluster::builder().members(3).start().await;
    let leader = cluster.leader().await;
    let client = cluster.client(leader);
    let concerned = (leader + 1) % 3;
    let id = id_of(&cluster, leader, concerned).await.expect("a member");
    let update = async |url: &str| {
        let peer_urls = Vec::from([url.to_owned()]);
        let request = pb::MemberUpdateRequest { id, peer_urls };
        client
            .cluster()
            .member_update(request)
            .await
            .expect("an update");
    };
    update("no URL at all").await;
    for n in 0..20 {
        put(&client, &format!("k{n}"), "v").await;
    }
    update(cluster.member(concerned).peer_url()).await;
    cluster.wait_healthy().await;
    cluster.hash_kv_all(0).await;
}
