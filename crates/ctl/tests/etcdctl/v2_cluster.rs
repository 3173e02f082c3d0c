//! `ETCDCTL_API=2 etcdctl member list` and `cluster-health` while members come and go.

use std::time::{Duration, Instant};

use crate::common::{Member, Run, cluster, eventually, oracle, ours, run};

fn v2(endpoints: &str, args: &[&str]) -> Run {
    let mut all = vec!["--endpoints", endpoints];
    all.extend(args);
    run(&ours(), &[("ETCDCTL_API", "2")], &all, b"")
}

/// Checks the lines and gives the name of the member that leads.
fn leader(run: &Run, members: usize) -> Option<String> {
    assert_eq!(run.code, Some(0), "{run:?}");
    let lines: Vec<&str> = run.stdout.lines().collect();
    assert_eq!(lines.len(), members, "{run:?}");
    let mut ids = Vec::new();
    let mut leaders = Vec::new();
    for line in lines {
        let (id, rest) = line.split_once(": ").unwrap();
        ids.push(u64::from_str_radix(id, 16).unwrap());
        let words: Vec<&str> = rest.split(' ').collect();
        let [name, peer, client, leads] = words[..] else {
            panic!("{line}");
        };
        let name = name.strip_prefix("name=").unwrap();
        assert!(peer.starts_with("peerURLs=http://127.0.0.1:"), "{line}");
        assert!(client.starts_with("clientURLs=http://127.0.0.1:"), "{line}");
        match leads {
            "isLeader=true" => leaders.push(name.to_owned()),
            "isLeader=false" => {}
            _ => panic!("{line}"),
        }
    }
    assert!(ids.is_sorted(), "{run:?}");
    assert!(leaders.len() <= 1, "{run:?}");
    leaders.pop()
}

#[test]
fn one_member_leads_and_a_stopped_one_delays_nobody() {
    let Some(dir) = oracle() else { return };
    let (_data, mut members) = cluster(&dir, 3);
    let first = leader(&v2(&members[0].endpoint, &["member", "list"]), 3).unwrap();
    for member in &members {
        assert_eq!(
            leader(&v2(&member.endpoint, &["member", "list"]), 3),
            Some(first.clone())
        );
    }
    let health = v2(&members[0].endpoint, &["cluster-health"]);
    assert_eq!(health.code, Some(0));
    assert!(
        health.stdout.ends_with("\ncluster is healthy\n"),
        "{health:?}"
    );

    // A member that hangs, first in the list.
    let position = members.iter().position(|m| m.name != first).unwrap();
    let hanging: Member = members.remove(position);
    hanging.signal("STOP");
    let start = Instant::now();
    let both = format!("{},{}", hanging.endpoint, members[0].endpoint);
    assert_eq!(
        leader(&v2(&both, &["member", "list"]), 3),
        Some(first.clone())
    );
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    let health = v2(&both, &["cluster-health"]);
    assert_eq!(health.code, Some(5), "{health:?}");
    assert!(
        health.stdout.contains("are all unreachable\n"),
        "{health:?}"
    );
    assert!(
        health.stdout.ends_with("\ncluster is degraded\n"),
        "{health:?}"
    );
    hanging.signal("CONT");
    members.push(hanging);
    let start = Instant::now();
    while v2(&members[0].endpoint, &["cluster-health"]).code != Some(0) {
        assert!(start.elapsed() < Duration::from_secs(30));
    }

    // The leader dies: the next list waits for the new one.
    let first = leader(&v2(&members[0].endpoint, &["member", "list"]), 3).unwrap();
    let position = members.iter().position(|m| m.name == first).unwrap();
    drop(members.remove(position));
    let second = leader(&v2(&members[0].endpoint, &["member", "list"]), 3).unwrap();
    assert_ne!(second, first);

    // No quorum: what the last one knows, and no leader.
    let position = members.iter().position(|m| m.name == second).unwrap();
    drop(members.remove(position));
    let start = Instant::now();
    let args = ["--total-timeout=3s", "member", "list"];
    let alone = v2(&members[0].endpoint, &args);
    assert_eq!(leader(&alone, 3), None, "{alone:?}");
    assert!(
        start.elapsed() < Duration::from_secs(12),
        "{:?}",
        start.elapsed()
    );
    let health = v2(
        &members[0].endpoint,
        &["--total-timeout=1s", "cluster-health"],
    );
    assert_eq!(health.code, Some(5), "{health:?}");
    assert!(
        health.stdout.ends_with("\ncluster is unavailable\n"),
        "{health:?}"
    );
}

#[test]
fn members_are_changed_in_the_words_of_version_2() {
    let Some(dir) = oracle() else { return };
    let (_data, members) = cluster(&dir, 1);
    let ask = |args: &[&str]| v2(&members[0].endpoint, &[&["member"][..], args].concat());
    let first = ask(&["list"]).stdout;
    let first_id = first.split(':').next().unwrap().to_owned();
    let peer = first.split("peerURLs=").nth(1).unwrap();
    let peer = peer.split(' ').next().unwrap();

    let added = ask(&["add", "new", "http://127.0.0.1:1"]);
    assert_eq!(added.code, Some(0), "{added:?}");
    let id = added.stdout.split_whitespace().nth(6).unwrap().to_owned();
    let number = |id: &str| u64::from_str_radix(id, 16).unwrap();
    let mut cluster = [
        (number(&first_id), format!("m0={peer}")),
        (number(&id), "new=http://127.0.0.1:1".to_owned()),
    ];
    cluster.sort();
    assert_eq!(
        added.stdout,
        format!(
            "Added member named new with ID {id} to cluster\n\nETCD_NAME=\"new\"\nETCD_INITIAL_CLUSTER=\"{},{}\"\nETCD_INITIAL_CLUSTER_STATE=\"existing\"\n",
            cluster[0].1, cluster[1].1
        )
    );
    // A cluster of two of which one never started has no quorum: nothing else can be changed in it.
    let alone = ["--total-timeout=1s", "member", "list"];
    let list = v2(&members[0].endpoint, &alone).stdout;
    assert!(
        list.contains(&format!("{id}[unstarted]: peerURLs=http://127.0.0.1:1\n")),
        "{list}"
    );
}

#[test]
fn members_go_and_move_in_the_words_of_version_2() {
    let Some(dir) = oracle() else { return };
    let (_data, members) = cluster(&dir, 3);
    let ask = |args: &[&str]| v2(&members[0].endpoint, &[&["member"][..], args].concat());
    let list = ask(&["list"]).stdout;
    let id_of = |name: &str| {
        let line = list.lines().find(|l| l.contains(&format!("name={name} ")));
        line.unwrap().split(':').next().unwrap().to_owned()
    };
    let gone = id_of("m2");
    for (args, error) in [
        (&["add"][..], "Provide a name and a single member peerURL\n".to_owned()),
        (&["remove"], "Provide a single member ID\n".to_owned()),
        (
            &["update", "1"],
            "Provide an ID and a list of comma separated peerURL (0xabcd http://example.com,http://example1.com)\n".to_owned(),
        ),
        (&["update", "zz", "http://a:1"], "No such member: zz\n".to_owned()),
        (
            &["remove", "12ab"],
            "Couldn't find a member in the cluster with an ID of 12ab.\n".to_owned(),
        ),
        (
            &["remove", "m2"],
            format!(
                "Found a member named m2; if this is correct, please use its ID, eg:\n\tetcdctl member remove {gone}\n\nCouldn't find a member in the cluster with an ID of m2.\n"
            ),
        ),
    ] {
        let run = ask(args);
        assert_eq!(
            (run.code, run.stdout.as_str(), run.stderr),
            (Some(1), "", error)
        );
    }
    // The original's server refuses changes during its first five seconds as a cluster.
    let patient = |args: &[&str]| {
        let mut last = ask(args);
        eventually("a change of the members", || {
            if last.code != Some(0) {
                last = ask(args);
            }
            last.code == Some(0)
        });
        last.stdout
    };
    let peers = list.lines().find(|l| l.starts_with(&gone)).unwrap();
    let peers = peers.split("peerURLs=").nth(1).unwrap();
    let peer = peers.split(' ').next().unwrap();
    assert_eq!(
        patient(&["update", &gone, peer]),
        format!("Updated member with ID {gone} in cluster\n")
    );
    assert_eq!(
        patient(&["remove", &gone]),
        format!("Removed member {gone} from cluster\n")
    );
    eventually("two members", || ask(&["list"]).stdout.lines().count() == 2);
}
