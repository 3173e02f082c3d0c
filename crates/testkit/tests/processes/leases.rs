//! Leases as clients meet them: how long they live, who answers, what goes with them.

use std::time::{Duration, Instant};

use ferrite_testkit::{Client, Cluster, Kind, Outcome, PATIENCE, eventually, oracle, pb, run};
use tokio_stream::StreamExt as _;

use crate::{alone, beside_others, get};

async fn grant(client: &Client, id: i64, ttl: i64) -> pb::LeaseGrantResponse {
    let request = pb::LeaseGrantRequest { id, ttl };
    let response = client.lease().lease_grant(request).await;
    response
        .unwrap_or_else(|status| panic!("grant of {id}: {status}"))
        .into_inner()
}

async fn put_on(client: &Client, lease: i64, key: &str) -> i64 {
    let request = pb::PutRequest {
        key: key.to_owned().into(),
        value: "v".into(),
        lease,
        ..Default::default()
    };
    let response = client.kv().put(request).await;
    let response = response.unwrap_or_else(|status| panic!("put {key}: {status}"));
    response.into_inner().header.expect("a header").revision
}

async fn renew(client: &Client, id: i64) -> Result<i64, tonic::Status> {
    let request = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
    let mut answers = client.lease().lease_keep_alive(request).await?.into_inner();
    let answer = answers.next().await.expect("an answer to every request")?;
    assert_eq!(answer.id, id);
    assert!(answer.header.is_some());
    assert!(
        answers.next().await.is_none(),
        "the stream ends with the client's side"
    );
    Ok(answer.ttl)
}

async fn left(client: &Client, id: i64, keys: bool) -> pb::LeaseTimeToLiveResponse {
    let request = pb::LeaseTimeToLiveRequest { id, keys };
    let response = client.lease().lease_time_to_live(request).await;
    response
        .unwrap_or_else(|status| panic!("time to live of {id}: {status}"))
        .into_inner()
}

async fn ids(client: &Client) -> Vec<i64> {
    let response = client.lease().lease_leases(pb::LeaseLeasesRequest {}).await;
    response
        .expect("leases")
        .into_inner()
        .leases
        .iter()
        .map(|lease| lease.id)
        .collect()
}

async fn gone(client: &Client, key: &str, within: Duration) {
    eventually(&format!("{key} is gone"), within, async || {
        get(client, key).await.is_none().then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_goes_within_a_second_of_its_leases_end_and_not_before() {
    let _turn = alone().await;
    let cluster = Cluster::builder().start().await;
    let client = cluster.client(0);
    let granted = grant(&client, 0, 3).await;
    let start = Instant::now();
    assert!(granted.id > 0 && granted.ttl == 3 && granted.error.is_empty());
    assert_eq!(
        grant(&client, -5, 0).await.ttl,
        2,
        "the least that is granted"
    );
    let first = put_on(&client, granted.id, "a").await;
    put_on(&client, granted.id, "b").await;
    put_on(&client, -5, "c").await;

    let found = left(&client, granted.id, true).await;
    assert_eq!(found.granted_ttl, 3);
    assert!((1..=3).contains(&found.ttl), "{}", found.ttl);
    let mut keys = found.keys;
    keys.sort();
    assert_eq!(keys, ["a", "b"]);
    assert!(left(&client, granted.id, false).await.keys.is_empty());
    let unknown = left(&client, 99, true).await;
    assert_eq!((unknown.id, unknown.ttl, unknown.granted_ttl), (99, -1, 0));
    assert_eq!(
        ids(&client).await,
        [-5, granted.id],
        "those that end first come first"
    );

    gone(&client, "a", Duration::from_secs(5)).await;
    let lived = start.elapsed();
    assert!(lived > Duration::from_millis(2_900), "gone after {lived:?}");
    assert!(lived < Duration::from_secs(4), "gone only after {lived:?}");
    assert_eq!(get(&client, "b").await, None);
    assert_eq!(get(&client, "c").await, None);
    assert_eq!(ids(&client).await, [0_i64; 0]);
    assert_eq!(renew(&client, granted.id).await.unwrap(), 0);

    // Both keys went in one revision.
    let request = pb::RangeRequest {
        key: "x".into(),
        ..Default::default()
    };
    let header = client
        .kv()
        .range(request)
        .await
        .unwrap()
        .into_inner()
        .header
        .unwrap();
    assert_eq!(
        header.revision,
        first + 2 + 2,
        "three puts, two leases that end"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_and_revocation_are_etcds() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().start().await;
    let client = cluster.client(0);
    grant(&client, 7, 60).await;
    let refused = async |id, ttl| {
        let status = client
            .lease()
            .lease_grant(pb::LeaseGrantRequest { id, ttl })
            .await
            .unwrap_err();
        (status.code(), status.message().to_owned())
    };
    assert_eq!(
        refused(7, 60).await,
        (
            tonic::Code::FailedPrecondition,
            "etcdserver: lease already exists".into()
        )
    );
    assert_eq!(
        refused(8, 9_000_000_001).await,
        (
            tonic::Code::OutOfRange,
            "etcdserver: too large lease TTL".into()
        )
    );
    assert_eq!(grant(&client, 8, 9_000_000_000).await.ttl, 9_000_000_000);
    assert_eq!(renew(&client, 8).await.unwrap(), 9_000_000_000);

    let revision = put_on(&client, 7, "a").await;
    put_on(&client, 7, "b").await;
    // A key moves from lease to lease; a revocation takes only what hangs on it then.
    put_on(&client, 8, "b").await;
    put_on(&client, 7, "c").await;
    let revoke = async |id| {
        client
            .lease()
            .lease_revoke(pb::LeaseRevokeRequest { id })
            .await
    };
    let header = revoke(7).await.unwrap().into_inner().header.unwrap();
    assert_eq!(header.revision, revision + 4, "both keys in one revision");
    assert_eq!(
        (get(&client, "a").await, get(&client, "c").await),
        (None, None)
    );
    assert_eq!(get(&client, "b").await.as_deref(), Some("v"));
    let status = revoke(7).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (
            tonic::Code::NotFound,
            "etcdserver: requested lease not found"
        )
    );
    let request = pb::PutRequest {
        key: "a".into(),
        lease: 7,
        ..Default::default()
    };
    let status = client.kv().put(request).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (
            tonic::Code::NotFound,
            "etcdserver: requested lease not found"
        )
    );
    assert_eq!(ids(&client).await, [8]);
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_pass_renewals_and_questions_on() {
    let _turn = alone().await;
    let cluster = Cluster::builder().members(3).start().await;
    let leader = cluster.leader().await;
    let follower = cluster.client((leader + 1) % 3);
    let other = cluster.client((leader + 2) % 3);
    grant(&follower, 1, 3).await;
    grant(&follower, 2, 3).await;
    put_on(&follower, 1, "kept").await;
    put_on(&follower, 2, "left").await;
    assert_eq!(
        renew(&follower, 99).await.unwrap(),
        0,
        "unknown to the leader"
    );
    assert_eq!(left(&other, 99, false).await.ttl, -1);
    let found = left(&other, 1, true).await;
    assert_eq!((found.granted_ttl, found.keys), (3, vec!["kept".into()]));

    // One stream, many requests, an answer each.
    let (requests, outgoing) = tokio::sync::mpsc::channel(1);
    let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
    let mut answers = follower
        .lease()
        .lease_keep_alive(outgoing)
        .await
        .unwrap()
        .into_inner();
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(6) {
        requests
            .send(pb::LeaseKeepAliveRequest { id: 1 })
            .await
            .unwrap();
        let answer = answers.next().await.unwrap().unwrap();
        assert_eq!((answer.id, answer.ttl), (1, 3));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(get(&follower, "kept").await.as_deref(), Some("v"));
    assert_eq!(get(&follower, "left").await, None);
    drop(requests);
    assert!(answers.next().await.is_none());
    let last = Instant::now();
    gone(&other, "kept", Duration::from_secs(5)).await;
    assert!(last.elapsed() > Duration::from_millis(1_500));
    cluster.hash_kv_all(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_restarts_what_is_left() {
    let _turn = alone().await;
    let cluster = Cluster::builder().members(3).start().await;
    let old = cluster.leader().await;
    let next = (old + 1) % 3;
    let client = cluster.client(next);
    grant(&client, 1, 6).await;
    put_on(&client, 1, "k").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(left(&client, 1, false).await.ttl <= 3);
    cluster.move_leader(next).await;
    let moved = Instant::now();
    let found = eventually("the new leader knows", PATIENCE, async || {
        let request = pb::LeaseTimeToLiveRequest { id: 1, keys: false };
        client.lease().lease_time_to_live(request).await.ok()
    })
    .await;
    let ttl = found.into_inner().ttl;
    assert!(
        (5..=7).contains(&ttl),
        "all of it and an election timeout, not {ttl}"
    );
    gone(&client, "k", Duration::from_secs(10)).await;
    let lived = moved.elapsed();
    assert!(
        lived > Duration::from_secs(5) && lived < Duration::from_millis(8_500),
        "{lived:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_slept_revokes_nothing_that_its_successor_keeps_alive() {
    let _turn = alone().await;
    let cluster = Cluster::builder().members(3).start().await;
    let old = cluster.leader().await;
    let client = cluster.client((old + 1) % 3);
    for id in 1..=40 {
        grant(&client, id, 4).await;
        put_on(&client, id, &format!("k{id}")).await;
    }
    cluster.member(old).stop_signal();
    let paused = Instant::now();
    let mut resumed = false;
    while paused.elapsed() < Duration::from_secs(12) {
        for id in 1..=40 {
            // Nobody leads for a while; what matters is that the next one is asked in time.
            match renew(&client, id).await {
                Ok(ttl) => assert_eq!(
                    ttl,
                    4,
                    "lease {id} is gone {:?} after the pause",
                    paused.elapsed()
                ),
                Err(_) => break,
            }
        }
        if !resumed && paused.elapsed() > Duration::from_secs(7) {
            // By its own clock everything is over.
            cluster.member(old).cont();
            resumed = true;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(resumed);
    for id in 1..=40 {
        assert!(get(&client, &format!("k{id}")).await.is_some(), "k{id}");
    }
    cluster.hash_kv_all(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_that_end_together_do_not_block_writes() {
    let _turn = alone().await;
    let cluster = Cluster::builder().start().await;
    let client = cluster.client(0);
    let mut granting = tokio::task::JoinSet::new();
    for lane in 0..32_i64 {
        let client = client.clone();
        granting.spawn(async move {
            for n in 0..50 {
                let id = 1 + lane * 50 + n;
                grant(&client, id, 5).await;
                put_on(&client, id, &format!("k{id}")).await;
            }
        });
    }
    while let Some(done) = granting.join_next().await {
        done.unwrap();
    }
    let granted = Instant::now();
    let mut slowest = Duration::ZERO;
    while !ids(&client).await.is_empty() {
        let start = Instant::now();
        put_on(&client, 0, "other").await;
        slowest = slowest.max(start.elapsed());
        assert!(
            granted.elapsed() < Duration::from_secs(30),
            "{} leases left",
            ids(&client).await.len()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    eprintln!(
        "1600 leases of 5 s gone {:?} after the last grant; slowest put meanwhile {slowest:?}",
        granted.elapsed()
    );
    assert!(slowest < Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn leases_survive_a_restart_and_start_anew() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().start().await;
    let client = cluster.client(0);
    grant(&client, 1, 4).await;
    grant(&client, 2, 600).await;
    put_on(&client, 1, "k").await;
    put_on(&client, 2, "l").await;
    cluster.member(0).kill9();
    cluster.start_all().await;
    let client = cluster.client(0);
    assert_eq!(left(&client, 2, true).await.keys, ["l"]);
    assert_eq!(get(&client, "k").await.as_deref(), Some("v"));
    gone(&client, "k", Duration::from_secs(12)).await;
    assert_eq!(ids(&client).await, [2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_originals_leases_live_on_with_us_and_its_etcdctl_works_with_ours() {
    let _turn = beside_others().await;
    let Some(dir) = oracle() else { return };
    let cluster = Cluster::builder().kinds(&[Kind::Etcd351]).start().await;
    let client = cluster.client(0);
    grant(&client, 1, 5).await;
    grant(&client, 2, 600).await;
    put_on(&client, 1, "short").await;
    put_on(&client, 2, "long").await;
    cluster.member(0).terminate().await;
    cluster.member(0).start_as(Kind::Ferrite);
    cluster.member(0).ready(PATIENCE).await;
    let client = cluster.client(0);
    assert_eq!(left(&client, 2, true).await.keys, ["long"]);
    assert_eq!(get(&client, "short").await.as_deref(), Some("v"));
    gone(&client, "short", Duration::from_secs(12)).await;
    assert_eq!(ids(&client).await, [2]);

    let etcdctl = |arguments: &[&str]| -> Outcome {
        let endpoint = format!("--endpoints={}", cluster.member(0).endpoint());
        let all: Vec<&str> = [endpoint.as_str()]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        let outcome = run(&dir.join("etcdctl"), &all, PATIENCE);
        assert_eq!(outcome.code(), Some(0), "{arguments:?}: {}", outcome.text());
        outcome
    };
    let granted = etcdctl(&["lease", "grant", "100"]).stdout;
    let id = granted
        .split(' ')
        .nth(1)
        .expect("lease <id> granted")
        .to_owned();
    assert_eq!(granted, format!("lease {id} granted with TTL(100s)\n"));
    assert_eq!(
        etcdctl(&["put", &format!("--lease={id}"), "k", "v"]).stdout,
        "OK\n"
    );
    let shown = etcdctl(&["lease", "timetolive", &id, "--keys"]).stdout;
    assert!(
        shown.starts_with(&format!("lease {id} granted with TTL(100s), remaining("))
            && shown.ends_with("), attached keys([k])\n"),
        "{shown}"
    );
    let listed = etcdctl(&["lease", "list"]).stdout;
    assert!(
        listed.starts_with("found 2 leases\n") && listed.contains(&id),
        "{listed}"
    );
    assert_eq!(
        etcdctl(&["lease", "keep-alive", "--once", &id]).stdout,
        format!("lease {id} keepalived with TTL(100)\n")
    );
    assert_eq!(
        etcdctl(&["lease", "revoke", &id]).stdout,
        format!("lease {id} revoked\n")
    );
    assert_eq!(get(&client, "k").await, None);
    assert_eq!(
        etcdctl(&["lease", "timetolive", &id]).stdout,
        format!("lease {id} already expired\n")
    );
}

/// One request over HTTP/1.1 to a peer port: status, content type, body.
async fn post(url: &str, method: &str, path: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let address = url.trim_start_matches("http://");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/protobuf\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // A server may answer and close before it has read all of a body that is too large.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let end = answer
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .expect("a head");
    let head = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let kind = head
        .lines()
        .find_map(|line| line.strip_prefix("content-type: "))
        .unwrap_or_default()
        .to_owned();
    (status, kind, answer[end + 4..].to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_peer_port_answers_renewals_as_etcd_does() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().start().await;
    let client = cluster.client(0);
    grant(&client, 5, 60).await;
    put_on(&client, 5, "k").await;
    let url = cluster.member(0).peer_url();
    // LeaseKeepAliveRequest{ID: 5} and its answer {ID: 5, TTL: 60}.
    let renewed = post(url, "POST", "/leases", &[0x08, 5]).await;
    assert_eq!(
        renewed,
        (200, "application/protobuf".into(), vec![0x10, 5, 0x18, 60])
    );
    let unknown = post(url, "POST", "/leases", &[0x08, 6]).await;
    assert_eq!((unknown.0, unknown.2), (404, b"lease not found\n".to_vec()));
    let bad = post(url, "POST", "/leases", &[0xff]).await;
    assert_eq!(
        (bad.0, bad.2),
        (400, b"error unmarshalling request\n".to_vec())
    );
    let large = post(url, "POST", "/leases", &vec![0; (64 << 10) + 1]).await;
    assert_eq!(
        (large.0, large.2),
        (413, b"request body too large\n".to_vec())
    );
    assert_eq!(post(url, "GET", "/leases", &[]).await.0, 405);
    assert_eq!(post(url, "POST", "/leases/other", &[]).await.0, 404);

    // LeaseInternalRequest{LeaseTimeToLiveRequest{ID: 5, keys: true}}.
    let (status, kind, body) = post(
        url,
        "POST",
        "/leases/internal",
        &[0x0a, 4, 0x08, 5, 0x10, 1],
    )
    .await;
    assert_eq!((status, kind.as_str()), (200, "application/protobuf"));
    assert!(body.ends_with(&[0x20, 60, 0x2a, 1, b'k']), "{body:x?}");
    assert_eq!(
        post(url, "POST", "/leases/internal", &[0x0a, 2, 0x08, 6])
            .await
            .0,
        404
    );
    assert_eq!(post(url, "POST", "/leases/internal", &[]).await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_both_kinds_pass_renewals_to_each_other() {
    let _turn = alone().await;
    if oracle().is_none() {
        return;
    }
    let kinds = [Kind::Ferrite, Kind::Etcd351, Kind::Ferrite];
    let cluster = Cluster::builder().kinds(&kinds).start().await;
    for leader in [0, 1] {
        cluster.move_leader(leader).await;
        let through = cluster.client(1 - leader);
        let id = 10 + i64::try_from(leader).unwrap();
        let key = format!("k{leader}");
        grant(&through, id, 3).await;
        put_on(&through, id, &key).await;
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(5) {
            assert_eq!(renew(&through, id).await.unwrap(), 3);
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        let found = left(&through, id, true).await;
        assert_eq!(
            (found.granted_ttl, found.keys),
            (3, vec![key.clone().into()])
        );
        gone(&through, &key, Duration::from_secs(6)).await;
    }
    cluster.hash_kv_all(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn our_etcdctl_says_of_leases_what_the_originals_says() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().start().await;
    let endpoint = format!("--endpoints={}", cluster.member(0).endpoint());
    let of = |program: &std::path::Path, arguments: &[&str]| -> Outcome {
        let all: Vec<&str> = [endpoint.as_str()]
            .into_iter()
            .chain(arguments.iter().copied())
            .collect();
        run(program, &all, PATIENCE)
    };
    let ours = |arguments: &[&str]| of(&ferrite_testkit::our_program("etcdctl"), arguments);
    let granted = ours(&["lease", "grant", "600"]).stdout;
    let id = granted
        .split(' ')
        .nth(1)
        .expect("lease <id> granted")
        .to_owned();
    assert_eq!(
        (id.len(), granted),
        (16, format!("lease {id} granted with TTL(600s)\n"))
    );
    for key in ["a", "b"] {
        assert_eq!(ours(&["put", key, "v", "--lease", &id]).stdout, "OK\n");
    }
    let shown = ours(&["lease", "timetolive", &id, "--keys"]).stdout;
    assert!(shown.ends_with("s), attached keys([a b])\n"), "{shown}");
    let once = ours(&["lease", "keep-alive", "--once", &id]).stdout;
    assert_eq!(once, format!("lease {id} keepalived with TTL(600)\n"));

    if let Some(dir) = oracle() {
        for arguments in [
            &["lease", "list"][..],
            &["lease", "list", "-w", "json"],
            &["lease", "list", "-w", "fields"],
            &["lease", "list", "-w", "protobuf"],
            &["lease", "list", "-w", "table"],
            &["lease", "timetolive", "7b"],
            &["lease", "timetolive", "7b", "--keys", "-w", "json"],
            &["lease", "timetolive", "7b", "-w", "fields"],
            &["lease", "keep-alive", &id, "--once", "-w", "json"],
            &["lease", "keep-alive", &id, "--once", "-w", "fields"],
            &["lease", "keep-alive", &id, "--once", "-w", "protobuf"],
            &["lease", "keep-alive", "7b", "--once"],
            &["lease", "keep-alive", "7b"],
            &["lease", "keep-alive"],
            &["lease", "grant"],
            &["lease", "grant", "x"],
            &["lease", "grant", "9000000001"],
            &["lease", "revoke"],
            &["lease", "revoke", "xyz"],
            &["lease", "revoke", "7b"],
            &["lease", "timetolive"],
        ] {
            let (mine, theirs) = (ours(arguments), of(&dir.join("etcdctl"), arguments));
            let plain = |text: &str| -> String {
                // The original's client logs to standard error too.
                text.lines()
                    .filter(|line| !line.starts_with('{'))
                    .map(|line| format!("{line}\n"))
                    .collect()
            };
            assert_eq!(
                (mine.code(), mine.stdout.as_str(), plain(&mine.stderr)),
                (theirs.code(), theirs.stdout.as_str(), plain(&theirs.stderr)),
                "{arguments:?}"
            );
        }
    }
    let revoked = ours(&["lease", "revoke", &id, "-w", "json"]).stdout;
    assert!(
        revoked.starts_with("{\"header\":{\"cluster_id\":"),
        "{revoked}"
    );
    assert_eq!(ours(&["get", "a"]).stdout, "");
    let short = ours(&["lease", "grant", "2", "-w", "json"]).stdout;
    assert!(
        short.contains(",\"ID\":") && short.ends_with(",\"TTL\":2,\"Error\":\"\"}\n"),
        "{short}"
    );
}

/// Renews every lease in one stream, as fast as it goes.
async fn renew_all(client: &Client, ids: std::ops::RangeInclusive<i64>) {
    let count = ids.clone().count();
    let requests = tokio_stream::iter(ids.map(|id| pb::LeaseKeepAliveRequest { id }));
    let answers = client.lease().lease_keep_alive(requests).await;
    let mut answers = answers.expect("a stream").into_inner();
    for _ in 0..count {
        let answer = answers.next().await.expect("an answer to every request");
        assert!(answer.expect("a renewal").ttl > 0);
    }
}

/// LE-03: fifteen hundred leases end together, more than go at once. Who renews one of those that are over and
/// still there is answered when it is gone.
#[tokio::test(flavor = "multi_thread")]
async fn who_renews_what_is_over_waits_until_it_is_gone() {
    let _turn = alone().await;
    const COUNT: i64 = 1_500;
    let cluster = Cluster::builder().start().await;
    let client = cluster.client(0);
    let mut granting = tokio::task::JoinSet::new();
    for lane in 0..30 {
        let client = client.clone();
        granting.spawn(async move {
            for n in 0..COUNT / 30 {
                let id = 1 + lane * (COUNT / 30) + n;
                grant(&client, id, 6).await;
                put_on(&client, id, &format!("k{id}")).await;
                // The first ones must not end while the last are still to come.
                if n % 10 == 0 {
                    renew_all(&client, id - n..=id).await;
                }
            }
        });
    }
    while let Some(done) = granting.join_next().await {
        done.unwrap();
    }
    renew_all(&client, 1..=COUNT).await;
    let mut asked = None;
    loop {
        let left = ids(&client).await;
        if left.is_empty() {
            break;
        }
        // All are over by now, and these are not the next ones.
        if asked.is_none() && left.len() + 100 < COUNT as usize {
            let last: Vec<i64> = left.iter().rev().take(5).copied().collect();
            let client = client.clone();
            asked = Some(tokio::spawn(async move {
                let mut longest = Duration::ZERO;
                for id in last {
                    let begin = Instant::now();
                    assert_eq!(renew(&client, id).await.expect("an answer"), 0);
                    longest = longest.max(begin.elapsed());
                    assert_eq!(get(&client, &format!("k{id}")).await, None, "k{id}");
                }
                longest
            }));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let longest = asked.expect("some were left after the first pass").await;
    let longest = longest.expect("renewals of what is over");
    assert!(
        longest > Duration::from_millis(100),
        "nobody waited: {longest:?}"
    );
}
