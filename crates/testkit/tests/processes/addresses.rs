//! Addresses of every kind: all of the machine's, ports that the system chooses, sockets; what a member says
//! of its own, and which of them cannot be.

use std::path::Path;
use std::time::Duration;

use ferrite_testkit::{
    Client, ClientConfig, Cluster, Kind, Pki, Ports, Running, Wanted, oracle, our_program, pb, run,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{beside_others, get, put};
use Kind::{Etcd351, Ferrite};

/// A member by itself, with its log.
async fn started(
    kind: Kind,
    dir: &TempDir,
    arguments: &[String],
    variables: &[(&str, &str)],
) -> Running {
    let _ = std::fs::remove_dir_all(dir.path().join("data"));
    let mut all = vec![format!("--data-dir={}", dir.path().join("data").display())];
    all.extend_from_slice(arguments);
    let ready = "ready to serve client requests";
    Running::start(
        &kind.server(),
        &all,
        variables,
        &dir.path().join("log"),
        ready,
    )
    .await
}

fn client(endpoint: &str) -> Client {
    Client::new(ClientConfig::new([endpoint])).expect("a client")
}

#[tokio::test(flavor = "multi_thread")]
async fn all_interfaces_of_either_version_can_be_listened_on() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    for host in ["0.0.0.0", "[::]"] {
        let mut ports = Ports::default();
        let [port, peer] = [ports.take(), ports.take()];
        let arguments = [
            format!("--listen-client-urls=http://{host}:{port}"),
            format!("--advertise-client-urls=http://127.0.0.1:{port}"),
            format!("--listen-peer-urls=http://{host}:{peer}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
        ];
        let _member = started(Ferrite, &dir, &arguments, &[]).await;
        let client = client(&format!("127.0.0.1:{port}"));
        put(&client, "k", host).await;
        assert_eq!(get(&client, "k").await.as_deref(), Some(host));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_the_system_chooses_is_told() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let arguments = [
        "--listen-client-urls=http://127.0.0.1:0",
        "--advertise-client-urls=http://127.0.0.1:0",
        "--listen-peer-urls=http://127.0.0.1:0",
        "--initial-advertise-peer-urls=http://127.0.0.1:0",
    ]
    .map(str::to_owned);
    let member = started(Ferrite, &dir, &arguments, &[]).await;
    let served = member.lines("serving client traffic insecurely; this is strongly discouraged!");
    let address = served[0]["address"]
        .as_str()
        .expect("an address")
        .to_owned();
    assert!(!address.ends_with(":0"), "{address}");
    let client = client(&address);
    put(&client, "k", "v").await;
    assert_eq!(get(&client, "k").await.as_deref(), Some("v"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_listens_everywhere_is_advertised_as_by_the_original() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let mut ports = Ports::default();
    let [port, peer] = [ports.take(), ports.take()];
    let arguments = [
        "--name=x".to_owned(),
        format!("--listen-client-urls=http://0.0.0.0:{port}"),
        "--advertise-client-urls=http://localhost:2379".to_owned(),
        format!("--listen-peer-urls=http://0.0.0.0:{peer}"),
    ];
    let mut kinds = vec![Ferrite];
    if oracle().is_some() {
        kinds.push(Etcd351);
    }
    let mut seen = Vec::new();
    for kind in kinds {
        let member = started(kind, &dir, &arguments, &[]).await;
        let list = pb::MemberListRequest::default();
        let list = client(&format!("127.0.0.1:{port}"))
            .cluster()
            .member_list(list)
            .await;
        let one = list.expect("members").into_inner().members.remove(0);
        let detected = member.lines("detected default host for advertise");
        let host = detected
            .first()
            .map(|line| line["host"].as_str().map(str::to_owned));
        seen.push((one.peer_urls, one.client_urls, host));
    }
    let (peers, clients, host) = &seen[0];
    // Without a route to anywhere the defaults stay.
    match host.clone().flatten() {
        Some(host) => {
            assert_eq!(*peers, [format!("http://{host}:{peer}")]);
            assert_eq!(*clients, [format!("http://{host}:{port}")]);
        }
        None => assert_eq!(*peers, ["http://localhost:2380"]),
    }
    assert!(seen.windows(2).all(|two| two[0] == two[1]), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_behind_sockets_is_met_and_spoken_to() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let socket = format!("unix://{}", dir.path().join("localhost:2379").display());
    let mut ports = Ports::default();
    let peer = format!("http://127.0.0.1:{}", ports.take());
    let service = [
        format!("--listen-client-urls={socket}"),
        format!("--advertise-client-urls={socket}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=default={peer}"),
    ];
    let _service = started(Ferrite, &dir, &service, &[]).await;
    // The name keeps what looks like a port.
    assert!(dir.path().join("localhost:2379").exists());
    let endpoints = format!("--endpoints={socket}");
    let ctl = |arguments: &[&str]| {
        let arguments = [&[&endpoints[..]], arguments].concat();
        let outcome = run(&our_program("etcdctl"), &arguments, Duration::from_secs(30));
        assert_eq!(outcome.code(), Some(0), "{}", outcome.text());
        outcome.stdout
    };
    assert_eq!(ctl(&["put", "k", "v"]), "OK\n");
    assert_eq!(ctl(&["get", "k"]), "k\nv\n");
    assert!(ctl(&["member", "list"]).contains(&socket));
    assert_eq!(ctl(&["put", "/_etcd/registry/t/_config/size", "1"]), "OK\n");
    let other = tempfile::tempdir().expect("a folder");
    let [port, peer] = [ports.take(), ports.take()];
    let met = [
        format!("--discovery-endpoints={socket}"),
        "--discovery-token=t".to_owned(),
        format!("--listen-client-urls=http://127.0.0.1:{port}"),
        format!("--advertise-client-urls=http://127.0.0.1:{port}"),
        format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
    ];
    let _met = started(Ferrite, &other, &met, &[]).await;
    put(&client(&format!("127.0.0.1:{port}")), "k", "v").await;
}

/// How a start ends that cannot be, in the words of the log.
fn refused(program: &Path, dir: &TempDir, arguments: &[String]) -> (Option<i32>, String) {
    let data = dir.path().join("refused");
    let data_dir = format!("--data-dir={}", data.display());
    let arguments = [&[data_dir], arguments].concat();
    let outcome = run(program, &arguments, Duration::from_secs(30));
    let _ = std::fs::remove_dir_all(data);
    let text = outcome.text();
    let error = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["level"] != "info")
        .filter_map(|line| line["error"].as_str().map(str::to_owned))
        .next_back();
    (outcome.code(), error.unwrap_or(text))
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_cannot_be_are_refused_in_the_originals_words() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let mut ports = Ports::default();
    let [port, peer, metrics] = [ports.take(), ports.take(), ports.take()];
    let plain = |scheme: &str| {
        vec![
            format!("--listen-client-urls={scheme}://127.0.0.1:{port}"),
            format!("--advertise-client-urls={scheme}://127.0.0.1:{port}"),
            format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
            format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
        ]
    };
    let with = |more: &str| [plain("http"), vec![more.to_owned()]].concat();
    for (arguments, words, in_351) in [
        (
            plain("https"),
            format!(
                "TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:{port} with HTTPS scheme"
            ),
            true,
        ),
        (
            with(&format!(
                "--listen-client-http-urls=http://127.0.0.1:{port}"
            )),
            format!(
                "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url http://127.0.0.1:{port}"
            ),
            false,
        ),
        (
            with(&format!(
                "--listen-metrics-urls=https://127.0.0.1:{metrics}"
            )),
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url"
                .to_owned(),
            false,
        ),
        (
            with("--listen-metrics-urls=http://example.com:1"),
            "expected IP in URL for binding (http://example.com:1)".to_owned(),
            true,
        ),
    ] {
        let told = refused(&Ferrite.server(), &dir, &arguments);
        assert_eq!(told, (Some(1), words.clone()));
        if in_351 && oracle().is_some() {
            let theirs = refused(&Etcd351.server(), &dir, &arguments);
            assert_eq!(theirs.0, Some(1));
            assert!(theirs.1.contains(&words), "{theirs:?}");
        }
    }
    let pki = Pki::new(dir.path(), "ca");
    let paper = pki.issue("server", &Wanted::hosts(&["127.0.0.1"]));
    let mut half = plain("https");
    half.push(format!("--cert-file={}", paper.cert));
    let (code, text) = refused(&Ferrite.server(), &dir, &half);
    assert_eq!(code, Some(1));
    assert!(
        text.contains("KeyFile and CertFile must both be present"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_taken_or_does_not_fit_is_refused_in_the_originals_words() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::builder().members(2).start().await;
    let urls: Vec<&str> = (0..2).map(|at| cluster.member(at).peer_url()).collect();
    cluster.member(1).kill9();
    let mut ports = Ports::default();
    let client = format!("http://127.0.0.1:{}", ports.take());
    let place = |name: &str, peer: &str, listed: &str, state: &str| {
        vec![
            format!("--name={name}"),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
            format!("--initial-cluster={listed}"),
            format!("--initial-cluster-state={state}"),
            "--initial-cluster-token=testkit".to_owned(),
        ]
    };
    let both = format!("m0={},m1={}", urls[0], urls[1]);
    let third = format!("http://127.0.0.1:{}", ports.take());
    let more = format!("{both},m2={third}");
    let cases = [
        // It was here before and has lost its folder.
        (
            place("m1", urls[1], &both, "new"),
            " has already been bootstrapped",
        ),
        // Nobody has added it.
        (
            place("m2", &third, &more, "existing"),
            "member count is unequal",
        ),
    ];
    for (arguments, words) in &cases {
        let mut kinds = vec![Ferrite];
        if oracle().is_some() {
            kinds.push(Etcd351);
        }
        for kind in kinds {
            let (code, told) = refused(&kind.server(), &dir, arguments);
            assert_eq!(code, Some(1), "{kind:?}: {told}");
            assert!(told.contains(words), "{kind:?}: {told}");
        }
    }
    let empty = [
        "--initial-cluster=".to_owned(),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
    ];
    let (code, told) = refused(&Ferrite.server(), &dir, &empty);
    assert_eq!(code, Some(1));
    assert!(
        told.contains("couldn't find local name \"default\" in the initial cluster configuration"),
        "{told}"
    );
}

/// The original turns on what it asserts within; here that is always on.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_to_verify_itself_serves() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let mut ports = Ports::default();
    let [port, peer] = [ports.take(), ports.take()];
    let arguments = [
        format!("--listen-client-urls=http://127.0.0.1:{port}"),
        format!("--advertise-client-urls=http://127.0.0.1:{port}"),
        format!("--listen-peer-urls=http://127.0.0.1:{peer}"),
        format!("--initial-advertise-peer-urls=http://127.0.0.1:{peer}"),
    ];
    let variables = [("ETCD_VERIFY", "all")];
    let member = started(Ferrite, &dir, &arguments, &variables).await;
    put(&client(&format!("127.0.0.1:{port}")), "k", "v").await;
    assert!(member.log().contains("ETCD_VERIFY=all"));
}
