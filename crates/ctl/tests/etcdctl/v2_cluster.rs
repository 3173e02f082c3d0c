//! `ETCDCTL_API=2 etcdctl member list` and `cluster-health` while members come and go.

use std::time::{Duration, Instant};

use crate::common::{Member, Run, cluster, oracle, ours, run};

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
