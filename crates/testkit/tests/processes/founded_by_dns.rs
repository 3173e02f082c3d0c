//! Clusters whose members are listed by SRV records, from a name server of our own.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ferrite_client::{Client, Config};
use ferrite_testkit::{Kind, NameServer, PATIENCE, Pki, Ports, Wanted, eventually, pb, run};
use tempfile::TempDir;

use crate::{beside_others, get, put};

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A member that is to be: its name, its two ports, its flags.
struct Planned {
    client: String,
    peer: u16,
    arguments: Vec<String>,
}

fn planned(name: &str, dir: &Path, ports: &mut Ports, scheme: &str, more: &[&str]) -> Planned {
    let client = format!("http://127.0.0.1:{}", ports.take());
    let peer = ports.take();
    let mut arguments = vec![
        format!("--name={name}"),
        format!("--data-dir={}", dir.join(name).display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={scheme}://127.0.0.1:{peer}"),
        format!("--initial-advertise-peer-urls={scheme}://localhost:{peer}"),
    ];
    arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
    Planned {
        client,
        peer,
        arguments,
    }
}

fn start(member: &Planned, servers: &str) -> Running {
    let mut command = Command::new(Kind::Ferrite.server());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCD") {
            command.env_remove(name);
        }
    }
    let child = command
        .env("FERRITE_DNS", servers)
        .args(&member.arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    Running(child)
}

fn client_of(member: &Planned) -> Client {
    Client::new(Config::new([&member.client])).expect("a client")
}

/// Waits until the member has a leader.
async fn leads(client: &Client) {
    eventually("it has a leader", PATIENCE, async || {
        let mut stub = client.maintenance();
        let status = stub.status(pb::StatusRequest::default()).await;
        (status.ok()?.into_inner().leader != 0).then_some(())
    })
    .await;
}

async fn names(client: &Client) -> Vec<String> {
    let list = pb::MemberListRequest::default();
    let list = client.cluster().member_list(list).await.expect("members");
    let members = list.into_inner().members.into_iter();
    let mut names: Vec<String> = members.map(|member| member.name).collect();
    names.sort();
    names
}

/// Three members, of which none is told who the others are.
async fn found(service: &str, more: &[&str]) {
    let dir = tempfile::tempdir().expect("a folder");
    let mut ports = Ports::default();
    let more = [&["--discovery-srv=a.test"], more].concat();
    let members: Vec<Planned> = ["a", "b", "c"]
        .iter()
        .map(|name| planned(name, dir.path(), &mut ports, "http", &more))
        .collect();
    let hosts: Vec<(&str, u16)> = members.iter().map(|m| ("localhost", m.peer)).collect();
    let server = NameServer::start(&[(service, &hosts)], false);
    let mut running: Vec<Running> = members
        .iter()
        .map(|member| start(member, server.address()))
        .collect();
    let clients: Vec<Client> = members.iter().map(client_of).collect();
    for client in &clients {
        leads(client).await;
    }
    put(&clients[0], "k", "v").await;
    for client in &clients {
        assert_eq!(get(client, "k").await.as_deref(), Some("v"));
    }
    eventually("each has its name", PATIENCE, async || {
        (names(&clients[1]).await == ["a", "b", "c"]).then_some(())
    })
    .await;
    // Who was there comes back without asking.
    drop(running.pop());
    let nobody = format!("127.0.0.1:{}", ports.take());
    running.push(start(members.last().expect("a member"), &nobody));
    let client = clients.last().expect("a client");
    leads(client).await;
    assert_eq!(get(client, "k").await.as_deref(), Some("v"));
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_dns_lists_found_a_cluster() {
    let _turn = beside_others().await;
    found("_etcd-server._tcp.a.test.", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_may_list_several_clusters() {
    let _turn = beside_others().await;
    found(
        "_etcd-server-blue._tcp.a.test.",
        &["--discovery-srv-name=blue"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_whose_peer_port_is_encrypted_have_records_of_their_own() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(dir.path(), "ca");
    let paper = pki.issue("peer", &Wanted::hosts(&["localhost", "127.0.0.1"]));
    let (cert, key, ca) = (
        format!("--peer-cert-file={}", paper.cert),
        format!("--peer-key-file={}", paper.key),
        format!("--peer-trusted-ca-file={}", pki.ca()),
    );
    let mut ports = Ports::default();
    let more = [
        "--discovery-srv=a.test",
        "--peer-client-cert-auth",
        &cert,
        &key,
        &ca,
    ];
    let members: Vec<Planned> = ["a", "b"]
        .iter()
        .map(|name| planned(name, dir.path(), &mut ports, "https", &more))
        .collect();
    let hosts: Vec<(&str, u16)> = members.iter().map(|m| ("localhost", m.peer)).collect();
    let server = NameServer::start(&[("_etcd-server-ssl._tcp.a.test.", &hosts)], false);
    let _running: Vec<Running> = members
        .iter()
        .map(|member| start(member, server.address()))
        .collect();
    for member in &members {
        leads(&client_of(member)).await;
    }
    put(&client_of(&members[0]), "k", "v").await;
    let other = get(&client_of(&members[1]), "k").await;
    assert_eq!(other.as_deref(), Some("v"));
}

/// How a member ends that is refused; nothing of it is on disk then.
fn refused(member: &Planned, dir: &TempDir, server: &NameServer) -> String {
    let mut words = vec![
        format!("FERRITE_DNS={}", server.address()),
        Kind::Ferrite.server().display().to_string(),
    ];
    words.extend(member.arguments.iter().cloned());
    let outcome = run(Path::new("/usr/bin/env"), &words, Duration::from_secs(30));
    assert_eq!(outcome.code(), Some(1), "{}", outcome.text());
    assert!(!dir.path().join("m/member").exists());
    outcome.text()
}

/// A line of the log says so.
fn said(log: &str, text: &str) {
    let text = text.replace('"', "\\\"").replace('\n', "\\n");
    assert!(log.contains(&text), "{text}: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dns_says_and_cannot_be_is_refused_in_the_originals_words() {
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let mut ports = Ports::default();
    let server = NameServer::start(&[], false);
    let mut member = |more: &[&str]| planned("m", dir.path(), &mut ports, "http", more);
    // Nobody is listed.
    let log = refused(&member(&["--discovery-srv=b.test"]), &dir, &server);
    let lookup = |service: &str| {
        let address = server.address();
        format!(
            "error querying DNS SRV records for _{service} lookup _{service}._tcp.b.test on {address}: no such host"
        )
    };
    let (tls, plain) = (lookup("etcd-server-ssl"), lookup("etcd-server"));
    said(&log, "failed to resolve during SRV discovery");
    said(&log, "discovery failed");
    said(
        &log,
        &format!("error setting up initial cluster: {tls}\n{plain}"),
    );
    // Others are, and this member is not.
    server.list("_etcd-server._tcp.c.test.", &[("localhost", 1)]);
    let log = refused(&member(&["--discovery-srv=c.test"]), &dir, &server);
    said(
        &log,
        "error setting up initial cluster: cannot find local etcd member \"m\" in SRV records",
    );
    // It is, but as one that encrypts.
    let mistaken = member(&["--discovery-srv=d.test"]);
    let port = mistaken.peer;
    server.list("_etcd-server-ssl._tcp.d.test.", &[("localhost", port)]);
    let log = refused(&mistaken, &dir, &server);
    said(
        &log,
        &format!(
            "bootstrap at https://localhost:{port} from DNS for etcd-server-ssl has scheme mismatch with expected peer http://localhost:{port}"
        ),
    );
    // A service's name without a domain lists nobody.
    let log = refused(&member(&["--discovery-srv-name=blue"]), &dir, &server);
    said(
        &log,
        "couldn't find local name \"m\" in the initial cluster configuration",
    );
    // One way is enough.
    let conflict = "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\"";
    for other in [
        &["--initial-cluster=m=http://localhost:1"][..],
        &["--discovery-endpoints=localhost:1", "--discovery-token=t"],
    ] {
        let flags = [&["--discovery-srv=a.test"], other].concat();
        let log = refused(&member(&flags), &dir, &server);
        said(&log, conflict);
    }
}
