//! `etcd gateway`, ours and the original's: where connections go, and what is said of flags that cannot be.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use ferrite_testkit::{
    Client, ClientConfig, Cluster, Kind, NameServer, Outcome, PATIENCE, Ports, Running, eventually,
    oracle, pb, run,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::{beside_others, get, put};
use Kind::{Etcd351, Ferrite};

/// A gateway that ends with the test.
struct Gateway {
    running: Running,
    address: String,
    _ports: Ports,
}

impl Gateway {
    async fn start(dir: &TempDir, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut ports = Ports::default();
        let address = format!("127.0.0.1:{}", ports.take());
        let first = ["gateway", "start", "--listen-addr", &address];
        let log = dir.path().join(format!("{address}.log"));
        let running = Running::start(
            &Ferrite.server(),
            &[&first, arguments].concat(),
            variables,
            &log,
            "ready to proxy client requests",
        )
        .await;
        Gateway {
            running,
            address,
            _ports: ports,
        }
    }

    fn client(&self) -> Client {
        Client::new(ClientConfig::new([&self.address])).expect("a client")
    }

    /// What the server says to whom this connection leads.
    async fn greeting(&self) -> String {
        let mut stream = TcpStream::connect(&self.address).await.expect("accepted");
        let mut said = String::new();
        // Closed without a word when nobody is there.
        let _ended = stream.read_to_string(&mut said).await;
        said
    }
}

/// A server that says its name to everybody, until this is dropped.
struct Named(tokio::task::JoinHandle<()>);

impl Named {
    async fn at(port: u16, name: &'static str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("bound");
        Named(tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _gone = stream.write_all(name.as_bytes()).await;
            }
        }))
    }

    async fn stop(self) {
        self.0.abort();
        let _aborted = self.0.await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_reach_a_cluster_that_loses_members() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::builder().members(3).start().await;
    let endpoints: Vec<&str> = (0..3).map(|at| cluster.member(at).endpoint()).collect();
    let endpoints = format!("--endpoints={}", endpoints.join(","));
    let gateway = Gateway::start(&dir, &[&endpoints, "--retry-delay=200ms"], &[]).await;
    let mut seen = BTreeSet::new();
    for at in 0..6 {
        let client = gateway.client();
        put(&client, "k", &at.to_string()).await;
        let mut stub = client.maintenance();
        let status = stub.status(pb::StatusRequest::default()).await;
        let header = status.expect("a status").into_inner().header;
        seen.insert(header.expect("a header").member_id);
    }
    assert_eq!(seen.len(), 3, "connections go to all members in turn");
    cluster.member(0).kill9();
    for at in 0..6 {
        let client = gateway.client();
        eventually("it is served", PATIENCE, async || {
            let request = pb::PutRequest {
                key: "k".into(),
                value: at.to_string().into(),
                ..Default::default()
            };
            client.kv().put(request).await.ok()
        })
        .await;
        assert_eq!(get(&client, "k").await, Some(at.to_string()));
    }
    gateway.running.logs("deactivated endpoint").await;
    gateway
        .running
        .logs("failed to activate endpoint (stay inactive for another interval)")
        .await;
    cluster.member(0).start();
    cluster.member(0).ready(PATIENCE).await;
    gateway.running.logs("\"activated\"").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_down_is_left_out_until_it_is_back() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let mut ports = Ports::default();
    let [first, second] = [ports.take(), ports.take()];
    let a = Named::at(first, "a").await;
    let endpoints = format!("--endpoints=http://127.0.0.1:{first},127.0.0.1:{second}");
    let gateway = Gateway::start(&dir, &[&endpoints, "--retry-delay=100ms"], &[]).await;
    for _ in 0..4 {
        assert_eq!(gateway.greeting().await, "a");
    }
    let b = Named::at(second, "b").await;
    gateway.running.logs("\"activated\"").await;
    let turns = [gateway.greeting().await, gateway.greeting().await];
    assert!(
        turns.contains(&"a".to_owned()) && turns.contains(&"b".to_owned()),
        "{turns:?}"
    );
    // When all are down there is nobody to wait for.
    a.stop().await;
    b.stop().await;
    for _ in 0..2 {
        assert_eq!(gateway.greeting().await, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_from_srv_records() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let mut ports = Ports::default();
    let [listed, given] = [ports.take(), ports.take()];
    let _a = Named::at(listed, "listed").await;
    let _b = Named::at(given, "given").await;
    let server = NameServer::start(
        &[
            ("_etcd-client._tcp.a.test.", &[("localhost", listed)]),
            ("_etcd-client-ssl._tcp.b.test.", &[("localhost", listed)]),
            ("_etcd-client-blue._tcp.c.test.", &[("localhost", listed)]),
        ],
        false,
    );
    let variables = [("FERRITE_DNS", server.address())];
    let endpoints = format!("--endpoints=127.0.0.1:{given}");
    for (flags, said) in [
        (
            &["--discovery-srv=a.test", "--insecure-discovery"][..],
            "listed",
        ),
        // Not encrypted, so not to be trusted.
        (&["--discovery-srv=a.test"], "given"),
        (&["--discovery-srv=b.test"], "listed"),
        (
            &[
                "--discovery-srv=c.test",
                "--discovery-srv-name=blue",
                "--insecure-discovery",
            ],
            "listed",
        ),
    ] {
        let flags = [flags, &[&endpoints]].concat();
        let gateway = Gateway::start(&dir, &flags, &variables).await;
        assert_eq!(gateway.greeting().await, said, "{flags:?}");
        gateway.running.logs("discovered cluster from SRV").await;
    }
}

fn told(program: &Path, arguments: &[&str]) -> Outcome {
    run(program, arguments, Duration::from_secs(20))
}

/// What is written, log lines aside.
fn words(outcome: &Outcome) -> String {
    let both = outcome.stdout.lines().chain(outcome.stderr.lines());
    let lines = both.filter(|line| !line.starts_with('{'));
    lines.collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_is_refused_in_the_originals_words() {
    let _turn = beside_others().await;
    let ours = Ferrite.server();
    for (arguments, says) in [
        (
            &["--listen-addr=bad"][..],
            "failed to validate listen address: bad",
        ),
        (
            &["--listen-addr=nohost.invalid:1"],
            "failed to resolve listen host: nohost.invalid",
        ),
        (&["--endpoints=bad"], "error parsing endpoint \"bad\""),
        (
            &["--endpoints=nohost.invalid:1"],
            "failed to resolve endpoint host: nohost.invalid",
        ),
        (
            &["--endpoints=127.0.0.1:1", "--listen-addr=127.0.0.1:1"],
            "SRV or endpoint (127.0.0.1:1->127.0.0.1:1) should not resolve to the gateway listen addr (127.0.0.1:1)",
        ),
    ] {
        let flags = [&["gateway", "start"], arguments].concat();
        let outcome = told(&ours, &flags);
        assert_eq!((outcome.code(), &words(&outcome)[..]), (Some(1), says));
        if oracle().is_some() {
            let theirs = told(&Etcd351.server(), &flags);
            assert_eq!((theirs.code(), &words(&theirs)[..]), (Some(1), says));
        }
    }
    for arguments in [
        &["gateway", "start", "--bogus"][..],
        &["gateway", "--bogus"],
        &["gateway", "start", "--retry-delay=x"],
        &["gateway", "start", "--insecure-discovery=maybe"],
        &["gateway", "start", "--endpoints"],
        &["gateway"],
        &["gateway", "other"],
        &["gateway", "--help"],
        &["gateway", "start", "-h"],
        &["gateway", "start", "ignored", "--listen-addr=bad"],
    ] {
        let ours = told(&ours, arguments);
        if oracle().is_none() {
            continue;
        }
        let theirs = told(&Etcd351.server(), arguments);
        assert_eq!(ours.code(), theirs.code(), "{arguments:?}");
        // Whatever is told of a mistake is the same; how it would be right is told in other words.
        let mistake = |outcome: &Outcome| {
            let text = words(outcome);
            let first = text.lines().next().unwrap_or_default();
            let last = text.lines().last().unwrap_or_default();
            first
                .starts_with("Error")
                .then(|| format!("{first}\n{last}"))
        };
        assert_eq!(mistake(&ours), mistake(&theirs), "{arguments:?}");
        assert_eq!(
            ours.stdout.is_empty(),
            theirs.stdout.is_empty(),
            "{arguments:?}"
        );
    }
}
