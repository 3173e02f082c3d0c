//! What a membership change may do, and the refusals a user sees.

use ferrite_membership::{
    Change, Cluster, ConfChangeContext, DowngradeInfo, Error, Member, Version, initial,
    parse_initial_cluster,
};
use ferrite_proto::raftpb::{ConfChange, ConfChangeType};

fn member(id: u64) -> Member {
    Member {
        id,
        peer_urls: vec![format!("http://m{id}:2380")],
        name: format!("m{id}"),
        ..Member::default()
    }
}

fn three() -> Cluster {
    Cluster::from_members(9, (1..=3).map(member))
}

fn change(kind: ConfChangeType, id: u64, context: &str) -> ConfChange {
    ConfChange {
        id: 5,
        change_type: kind as i32,
        node_id: id,
        context: context.to_owned().into(),
    }
}

fn add(member: &Member) -> ConfChange {
    let kind = if member.is_learner {
        ConfChangeType::ConfChangeAddLearnerNode
    } else {
        ConfChangeType::ConfChangeAddNode
    };
    change(kind, member.id, &member.to_json())
}

fn remove(id: u64) -> ConfChange {
    change(ConfChangeType::ConfChangeRemoveNode, id, "")
}

fn promote(id: u64) -> ConfChange {
    change(
        ConfChangeType::ConfChangeAddNode,
        id,
        &ConfChangeContext::for_promotion(id),
    )
}

fn update(member: &Member) -> ConfChange {
    change(
        ConfChangeType::ConfChangeUpdateNode,
        member.id,
        &member.to_json(),
    )
}

#[test]
fn a_members_life() {
    let mut cluster = three();
    let learner = Member {
        is_learner: true,
        name: String::new(),
        ..member(4)
    };
    assert_eq!(
        cluster.apply_conf_change(&add(&learner)),
        Ok(Change::Added(learner))
    );
    assert_eq!(
        (cluster.conf_state().voters, cluster.conf_state().learners),
        (vec![1, 2, 3], vec![4])
    );
    assert_eq!(
        cluster.apply_conf_change(&promote(4)),
        Ok(Change::Promoted(4))
    );
    assert_eq!(cluster.conf_state().voters, [1, 2, 3, 4]);
    cluster
        .set_attributes(4, "four".into(), vec!["http://m4:2379".into()])
        .expect("a member");
    let moved = Member {
        peer_urls: vec!["http://elsewhere:1".into()],
        is_learner: true,
        name: "x".into(),
        ..member(4)
    };
    let updated = cluster.apply_conf_change(&update(&moved)).expect("updates");
    // Only the URLs change: neither the name nor the vote.
    let expected = Member {
        id: 4,
        peer_urls: vec!["http://elsewhere:1".into()],
        is_learner: false,
        name: "four".into(),
        client_urls: vec!["http://m4:2379".into()],
    };
    assert_eq!(updated, Change::Updated(expected));
    assert_eq!(
        cluster.apply_conf_change(&remove(4)),
        Ok(Change::Removed(4))
    );
    assert!(cluster.is_removed(4));
    assert_eq!(
        cluster.apply_conf_change(&add(&member(4))),
        Err(Error::IdRemoved)
    );
    assert_eq!(cluster.apply_conf_change(&remove(4)), Err(Error::IdRemoved));
    // A removed member's late word is no error; an unknown one's is.
    assert_eq!(cluster.set_attributes(4, "late".into(), vec![]), Ok(()));
    assert_eq!(
        cluster.set_attributes(5, "who".into(), vec![]),
        Err(Error::IdNotFound)
    );
}

#[test]
fn refusals_change_nothing() {
    let mut cluster = three();
    let learner = |id| Member {
        is_learner: true,
        ..member(id)
    };
    cluster
        .apply_conf_change(&add(&learner(4)))
        .expect("the first learner");
    let taken = |id| Member {
        peer_urls: vec!["http://new:1".into(), "http://m2:2380".into()],
        ..member(id)
    };
    let before = cluster.clone();
    let damaged = change(ConfChangeType::ConfChangeAddNode, 9, "{");
    let other = change(ConfChangeType::ConfChangeAddNode, 9, &member(8).to_json());
    let unknown = ConfChange {
        change_type: 7,
        node_id: 1,
        ..ConfChange::default()
    };
    for (change, refusal) in [
        (add(&member(1)), Error::IdExists),
        (add(&taken(9)), Error::PeerUrlExists),
        (update(&taken(1)), Error::PeerUrlExists),
        (add(&learner(5)), Error::TooManyLearners),
        (promote(1), Error::MemberNotLearner),
        (promote(9), Error::IdNotFound),
        (remove(9), Error::IdNotFound),
        (update(&member(9)), Error::IdNotFound),
        (other, Error::DifferentId { id: 9, other: 8 }),
        (unknown, Error::UnknownChange(7)),
    ] {
        assert_eq!(cluster.validate_conf_change(&change), Err(refusal.clone()));
        assert_eq!(cluster.apply_conf_change(&change), Err(refusal));
    }
    assert!(matches!(
        cluster.apply_conf_change(&damaged),
        Err(Error::MalformedContext { .. })
    ));
    assert_eq!(cluster, before);
    // Its own URLs are not in another's use.
    assert!(cluster.validate_conf_change(&update(&member(2))).is_ok());
    cluster.max_learners = 2;
    assert!(cluster.apply_conf_change(&add(&learner(5))).is_ok());
}

#[test]
fn strict_checks_count_started_voters() {
    let cluster = |started: &[bool]| {
        let members = (1..).zip(started).map(|(id, started)| match started {
            true => member(id),
            false => Member {
                name: String::new(),
                ..member(id)
            },
        });
        Cluster::from_members(1, members)
    };
    assert!(cluster(&[true]).is_ready_to_add_voter());
    assert!(!cluster(&[false]).is_ready_to_add_voter());
    assert!(!cluster(&[true, false]).is_ready_to_add_voter());
    assert!(cluster(&[true, true]).is_ready_to_add_voter());
    assert!(!cluster(&[true, true, false, false]).is_ready_to_add_voter());
    assert!(cluster(&[true, true, true, false]).is_ready_to_add_voter());
    assert!(!cluster(&[true]).is_ready_to_remove_voter(1));
    assert!(cluster(&[true, false]).is_ready_to_remove_voter(2));
    assert!(!cluster(&[true, false]).is_ready_to_remove_voter(1));
    assert!(cluster(&[true]).is_ready_to_promote());
    assert!(!cluster(&[true, false, false]).is_ready_to_promote());
    assert!(cluster(&[true, true, false]).is_ready_to_promote());
}

#[test]
fn initial_clusters_are_parsed_with_etcds_texts() {
    let pairs = |flag: &str| parse_initial_cluster(flag);
    let text = |flag: &str| pairs(flag).expect_err(flag).to_string();
    assert_eq!(
        text("a=http://x"),
        "URL address does not have the form \"host:port\": http://x"
    );
    assert_eq!(
        text("a=http://x:1/"),
        "URL must not contain a path: http://x:1/"
    );
    assert_eq!(
        text("a=ftp://x:1"),
        "URL scheme must be http, https, unix, or unixs: ftp://x:1"
    );
    assert_eq!(
        text("a"),
        "URL scheme must be http, https, unix, or unixs:  (\"a\" is no member: name=URL is wanted)"
    );
    let listed = pairs(",b=http://b:2,a= http://a:1 ,b=http://[::1]:3,").expect("parses");
    let cluster = Cluster::from_initial_cluster("t", &listed).expect("founds");
    assert_eq!(
        cluster.member_by_name("b").map(|b| b.peer_urls.clone()),
        Some(vec!["http://[::1]:3".to_owned(), "http://b:2".to_owned()])
    );
    assert_eq!(
        cluster.peer_urls(),
        ["http://[::1]:3", "http://a:1", "http://b:2"]
    );
    let twice = pairs("a=http://a:1,b=http://a:1").expect("parses");
    assert!(matches!(
        Cluster::from_initial_cluster("t", &twice),
        Err(Error::IdenticalId(_))
    ));
}

#[test]
fn a_founder_checks_its_place_in_the_list() {
    let verify = |name: &str, flag: &str, advertised: &[&str]| {
        let pairs = parse_initial_cluster(flag).expect("parses");
        let advertised: Vec<String> = advertised.iter().map(|url| (*url).to_owned()).collect();
        initial::verify_bootstrap(name, &pairs, &advertised, &mut initial::same_urls)
            .map_err(|error| error.to_string())
    };
    let flag = "a=http://a:1,b=http://b:2";
    assert_eq!(verify("a", flag, &["http://a:1"]), Ok(()));
    assert_eq!(
        verify("x", flag, &["http://a:1"]),
        Err("couldn't find local name \"x\" in the initial cluster configuration".into())
    );
    let wrong = verify("a", flag, &["http://a:9"]).expect_err("not listed");
    assert!(wrong.starts_with("--initial-cluster has a=http://a:1 but missing from --initial-advertise-peer-urls=http://a:9 ("), "{wrong}");
    assert_eq!(
        verify("a", flag, &["http://a:1", "http://a:9"]),
        Err("--initial-advertise-peer-urls has http://a:9 but missing from --initial-cluster=a=http://a:1,a=http://a:9".into())
    );
    assert_eq!(
        verify("a", "a=http://a:1,b=http://a:1", &["http://a:1"]),
        Err("initial cluster a=http://a:1,b=http://a:1 has duplicate url".into())
    );
}

#[test]
fn a_joiner_takes_over_the_running_clusters_ids() {
    let running = three();
    let flag = "x=http://m3:2380,y=http://m1:2380,z=http://m2:2380";
    let mut local =
        Cluster::from_initial_cluster("other", &parse_initial_cluster(flag).expect("parses"))
            .expect("founds");
    local
        .validate_and_assign_ids(&running, &mut initial::same_urls)
        .expect("matches");
    assert_eq!(local.member_ids(), [1, 2, 3]);
    assert_eq!(local.member_by_name("y").map(|m| m.id), Some(1));
    assert_eq!(local.id, 9);
    let mut small = Cluster::from_members(0, [member(1)]);
    let refusal = small
        .validate_and_assign_ids(&running, &mut initial::same_urls)
        .expect_err("three are not one")
        .to_string();
    assert!(
        refusal.starts_with("member count is unequal: the configuration lists 1 ["),
        "{refusal}"
    );
    for member in running.members.values() {
        assert!(refusal.contains(&member.peer_urls[0]), "{refusal}");
    }
    let mut wrong = Cluster::from_members(0, [member(1), member(2), member(7)]);
    let refusal = wrong
        .validate_and_assign_ids(&running, &mut initial::same_urls)
        .expect_err("no match")
        .to_string();
    assert!(refusal.starts_with("PeerURLs: no match found for existing member (3, [http://m3:2380]), last resolver error ("), "{refusal}");
}

#[test]
fn version_and_downgrade_are_kept() {
    let mut cluster = three();
    cluster.set_version(Version::new(3, 7, 0));
    let downgrade = DowngradeInfo {
        target_version: "3.6.0".into(),
        enabled: true,
    };
    cluster.set_downgrade(downgrade.clone());
    assert_eq!(
        (cluster.version, cluster.downgrade),
        (Some(Version::new(3, 7, 0)), Some(downgrade))
    );
}

/// Asked for at members that do not know of each other's removal yet, both may be committed. etcd's members end by a
/// panic then, at every start again.
#[test]
fn the_last_voter_stays() {
    let mut cluster = three();
    let ids: Vec<u64> = cluster.members.keys().copied().collect();
    for id in &ids[..2] {
        cluster.apply_conf_change(&remove(*id)).expect("removed");
    }
    let before = cluster.clone();
    let last = remove(ids[2]);
    assert_eq!(cluster.apply_conf_change(&last), Err(Error::LastVoter));
    assert_eq!(cluster, before);
}
