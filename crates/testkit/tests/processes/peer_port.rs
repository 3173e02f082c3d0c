//! What the peer port answers besides raft's own messages: the same requests to the original and to ours.

use ferrite_testkit::{Cluster, Kind, PATIENCE, eventually, oracle, pb};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::wire::{address, connect};
use crate::{beside_others, put};

/// An answer by HTTP/1: its status, the headers that matter here, and its body.
#[derive(Debug, PartialEq)]
struct Answer {
    status: String,
    allow: Option<String>,
    kind: Option<String>,
    names_cluster: bool,
    body: String,
}

async fn ask(url: &str, method: &str, path: &str, headers: &str, body: &str) -> Answer {
    let mut stream = connect(url).await;
    let host = address(url);
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    );
    stream
        .write_all(request.as_bytes())
        .await
        .expect("the member takes a request");
    let answer = tokio::time::timeout(PATIENCE, one(&mut stream)).await;
    let answer = answer.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let header = |name: &str| {
        head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name)
                .then(|| value.trim().to_owned())
        })
    };
    let chunked = header("transfer-encoding").is_some();
    Answer {
        status: head.lines().next().unwrap_or_default().to_owned(),
        allow: header("allow"),
        kind: header("content-type"),
        names_cluster: header("x-etcd-cluster-id").is_some(),
        body: if chunked {
            whole(body)
        } else {
            body.to_owned()
        },
    }
}

/// One answer as it comes. The original may keep the connection for five seconds after it.
async fn one(stream: &mut TcpStream) -> String {
    let mut answer = String::new();
    let mut piece = [0; 16 << 10];
    loop {
        let count = stream.read(&mut piece).await.expect("bytes");
        answer.push_str(&String::from_utf8_lossy(&piece[..count]));
        let whole = answer.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                let named = key.eq_ignore_ascii_case("content-length");
                named.then(|| value.trim().parse::<usize>().expect("a length"))
            });
            match length {
                Some(length) => body.len() >= length,
                None => body.ends_with("0\r\n\r\n"),
            }
        });
        if whole || count == 0 {
            return answer;
        }
    }
}

/// A body without the lengths of its chunks.
fn whole(mut chunks: &str) -> String {
    let mut body = String::new();
    while let Some((length, rest)) = chunks.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a length");
        body.push_str(&rest[..length]);
        chunks = rest[length..].trim_start_matches("\r\n");
    }
    body
}

/// Without what differs from cluster to cluster.
fn plain(text: &str, cluster: &Cluster) -> String {
    let mut text = text.to_owned();
    for member in cluster.members() {
        text = text.replace(member.peer_url(), "PEER");
        text = text.replace(member.endpoint(), "CLIENT");
    }
    text
}

async fn answers(kind: Kind) -> Vec<(String, Answer)> {
    let cluster = Cluster::builder().kinds(&[kind]).start().await;
    let client = cluster.client(0);
    for n in 0..8 {
        put(&client, &format!("k{}", n % 3), "v").await;
    }
    let compaction = pb::CompactionRequest {
        revision: 4,
        physical: true,
    };
    client.kv().compact(compaction).await.expect("a compaction");
    let peer = cluster.member(0).peer_url();
    // The original publishes itself a moment after it serves.
    eventually("it is published", PATIENCE, async || {
        let members = ask(peer, "GET", "/members", "", "").await;
        members.body.contains("clientURLs").then_some(())
    })
    .await;
    let status = client
        .maintenance()
        .status(pb::StatusRequest {})
        .await
        .expect("a status")
        .into_inner();
    let id = status.header.expect("a header").member_id;
    let own = format!("/members/promote/{id}");
    let cases: &[(&str, &str, &str)] = &[
        ("GET", "/members", ""),
        ("POST", "/members", ""),
        ("GET", "/members/hashkv", "{}"),
        ("GET", "/members/hashkv", r#"{"revision":6}"#),
        ("GET", "/members/hashkv", r#"{"revision":2}"#),
        ("GET", "/members/hashkv", r#"{"revision":2000}"#),
        ("GET", "/members/hashkv", "no json"),
        ("GET", "/members/hashkv", ""),
        ("POST", "/members/hashkv", "{}"),
        ("POST", "/members/promote/7", ""),
        ("POST", "/members/promote/no-number", ""),
        ("POST", own.as_str(), ""),
        ("GET", "/members/promote/7", ""),
        ("GET", "/downgrade/enabled", ""),
        ("POST", "/downgrade/enabled", ""),
        ("GET", "/leases", ""),
        ("POST", "/leases", "no protobuf"),
        ("GET", "/leases/internal", ""),
        ("POST", "/version", ""),
        ("GET", "/raft/probing/", ""),
        ("GET", "/nothing", ""),
        ("GET", "/", ""),
        ("GET", "/v3/kv/range", ""),
        ("GET", "/metrics", ""),
        ("GET", "/health", ""),
    ];
    let mut all = Vec::new();
    for (method, path, body) in cases {
        let mut answer = ask(peer, method, path, "", body).await;
        let named = |text: &str| text.replace(&id.to_string(), "ID");
        answer.body = plain(&named(&answer.body), &cluster);
        let case = named(&format!("{method} {path} {body}"));
        all.push((case, answer));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn it_answers_as_the_originals_does() {
    let _turn = beside_others().await;
    let ours = answers(Kind::Ferrite).await;
    let of = |case: &str| {
        let found = ours.iter().find(|(name, _)| name == case);
        &found.unwrap_or_else(|| panic!("{case} was not asked")).1
    };
    // PE-01, PE-02, PE-03, PE-04, PE-09, PE-11, with or without the original at hand.
    let members = of("GET /members ");
    assert!(members.names_cluster, "{members:?}");
    assert_eq!(
        members.body,
        "[{\"id\":ID,\"peerURLs\":[\"PEER\"],\"name\":\"m0\",\"clientURLs\":[\"CLIENT\"]}]\n"
    );
    assert_eq!(
        of("GET /members/hashkv {\"revision\":2}").body.trim_end(),
        "mvcc: required revision has been compacted"
    );
    assert_eq!(
        of("POST /members/promote/7 ").body.trim_end(),
        "membership: ID not found"
    );
    assert_eq!(of("GET /downgrade/enabled ").body, "false");
    assert!(of("GET /nothing ").status.contains("404"));
    if oracle().is_none() {
        return;
    }
    let theirs = answers(Kind::Etcd351).await;
    let mut differ = Vec::new();
    for ((case, mut theirs), (_, ours)) in theirs.into_iter().zip(&ours) {
        if case.starts_with("GET /members/hashkv") && theirs.status == ours.status {
            // Since 3.6: which revision the hash is of.
            if let Some(at) = ours.body.find(",\"hash_revision\"") {
                theirs.body.pop();
                theirs.body.push_str(&ours.body[at..]);
            }
        }
        let theirs = &theirs;
        if theirs != ours {
            differ.push(format!("{case}\n  theirs {theirs:?}\n  ours   {ours:?}"));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_tells_its_version_and_lets_a_learner_be_promoted() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().start().await;
    let peer = cluster.member(0).peer_url();
    let version = eventually("the cluster's version is known", PATIENCE, async || {
        let version = ask(peer, "GET", "/version", "", "").await;
        version.body.contains("3.7.0").then_some(version)
    })
    .await;
    assert_eq!(
        version.body,
        r#"{"etcdserver":"3.7.1","etcdcluster":"3.7.0","storage":"3.7.0"}"#
    );
    assert_eq!(version.kind.as_deref(), Some("application/json"));
    assert!(!version.names_cluster);
    let request = pb::MemberAddRequest {
        peer_urls: vec!["http://127.0.0.1:1".to_owned()],
        is_learner: true,
    };
    let added = cluster.client(0).cluster().member_add(request).await;
    let id = added.expect("a learner").into_inner().member;
    let id = id.expect("the new one").id;
    // Hashes are for members of the same cluster (3.5.1 does not ask).
    let foreign = "X-Etcd-Cluster-ID: 1234\r\n";
    let mismatch = ask(peer, "GET", "/members/hashkv", foreign, "{}").await;
    assert!(mismatch.status.contains("412"), "{mismatch:?}");
    assert_eq!(mismatch.body, "cluster ID mismatch\n");
    // It never started: it is not in step with the leader, and says nothing of itself.
    let promotion = ask(peer, "POST", &format!("/members/promote/{id}"), "", "").await;
    assert!(promotion.status.contains("412"), "{promotion:?}");
    assert_eq!(
        promotion.body.trim_end(),
        "etcdserver: can only promote a learner member which is in sync with leader"
    );
    let members = ask(peer, "GET", "/members", "", "").await.body;
    let unstarted =
        format!("{{\"id\":{id},\"peerURLs\":[\"http://127.0.0.1:1\"],\"isLearner\":true}}");
    assert!(members.contains(&unstarted), "{members}");
}
