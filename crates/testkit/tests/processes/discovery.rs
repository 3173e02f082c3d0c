//! Members that meet in another cluster, of ours or of the original's. The original itself meets this way
//! from 3.6 on.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use ferrite_client::{Client, Config};
use ferrite_proto::authpb::permission::Type;
use ferrite_testkit::{Cluster, Kind, PATIENCE, Pki, Ports, Wanted, eventually, oracle, pb, run};
use tempfile::TempDir;

use crate::auth::{CHEAP, add_role, add_user, enable, grant_role, permit};
use crate::{beside_others, get, put};
use Kind::{Etcd351, Ferrite};

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Flags of a member that finds the others under this token.
fn arguments(name: &str, dir: &Path, ports: &mut Ports, meeting: &[String]) -> Vec<String> {
    let [client, peer] =
        [ports.take(), ports.take()].map(|port| format!("http://127.0.0.1:{port}"));
    let mut arguments = vec![
        format!("--name={name}"),
        format!("--data-dir={}", dir.join(name).display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
    ];
    arguments.extend(meeting.iter().cloned());
    arguments
}

fn start(arguments: &[String]) -> Running {
    let mut command = Command::new(Ferrite.server());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCD") {
            command.env_remove(name);
        }
    }
    let child = command
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    Running(child)
}

fn client_of(arguments: &[String]) -> Client {
    let url = arguments
        .iter()
        .find_map(|argument| argument.strip_prefix("--listen-client-urls="))
        .expect("a URL");
    Client::new(Config::new([url])).expect("a client")
}

struct Scene {
    dir: TempDir,
    service: Cluster,
    ports: Ports,
}

impl Scene {
    async fn new(service: Kind) -> Self {
        Scene {
            dir: tempfile::tempdir().expect("a folder"),
            service: Cluster::builder().kinds(&[service]).start().await,
            ports: Ports::default(),
        }
    }

    fn meeting(&self, token: &str) -> Vec<String> {
        vec![
            format!(
                "--discovery-endpoints={}",
                self.service.member(0).endpoint()
            ),
            format!("--discovery-token={token}"),
        ]
    }

    async fn size(&self, token: &str, size: &str) {
        let key = format!("/_etcd/registry/{token}/_config/size");
        put(&self.service.client(0), &key, size).await;
    }
}

/// A cluster is founded, and one more member is told that it is full.
async fn meet(service: Kind, count: usize) {
    let mut scene = Scene::new(service).await;
    scene.size("t", &count.to_string()).await;
    let meeting = scene.meeting("t");
    let members: Vec<_> = (0..count)
        .map(|index| {
            let name = format!("d{index}");
            arguments(&name, scene.dir.path(), &mut scene.ports, &meeting)
        })
        .collect();
    let mut running: Vec<_> = members.iter().map(|flags| start(flags)).collect();
    let clients: Vec<Client> = members.iter().map(|flags| client_of(flags)).collect();
    for client in &clients {
        eventually("it has a leader", PATIENCE, async || {
            let mut stub = client.maintenance();
            let status = stub.status(pb::StatusRequest::default());
            let status = status.await.ok()?.into_inner();
            (status.leader != 0).then_some(())
        })
        .await;
    }
    put(&clients[0], "k", "v").await;
    let list = pb::MemberListRequest::default();
    let list = clients[0]
        .cluster()
        .member_list(list)
        .await
        .expect("members");
    let mut names: Vec<String> = list
        .into_inner()
        .members
        .into_iter()
        .map(|member| member.name)
        .collect();
    names.sort();
    let wanted: Vec<String> = (0..count).map(|index| format!("d{index}")).collect();
    assert_eq!(names, wanted);
    for client in &clients {
        assert_eq!(get(client, "k").await.as_deref(), Some("v"));
    }
    // One who was there comes back without asking; one more is too many.
    drop(running.pop());
    running.push(start(members.last().expect("a member")));
    let client = clients.last().expect("a client");
    eventually("it is back", PATIENCE, async || {
        let mut stub = client.maintenance();
        let status = stub.status(pb::StatusRequest::default());
        status.await.ok()
    })
    .await;
    let late = arguments("late", scene.dir.path(), &mut scene.ports, &meeting);
    let outcome = run(&Ferrite.server(), &late, Duration::from_secs(30));
    assert_eq!(outcome.code(), Some(1), "{}", outcome.text());
    for text in [
        "failed to bootstrap; discovery token was already used",
        "failed to join discovery cluster (discovery: cluster is full)",
        "do not reuse discovery token; generate a new one to bootstrap a cluster",
    ] {
        assert!(outcome.text().contains(text), "{text}: {}", outcome.text());
    }
    assert!(!scene.dir.path().join("late/member").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn members_meet_in_a_cluster_of_ours() {
    let _turn = beside_others().await;
    meet(Ferrite, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_meet_in_a_cluster_of_the_originals() {
    let _turn = beside_others().await;
    if oracle().is_some() {
        meet(Etcd351, 2).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meeting_that_nobody_called_ends_at_once() {
    let _turn = beside_others().await;
    let mut scene = Scene::new(Ferrite).await;
    scene.size("bad", "some").await;
    scene.size("none", "0").await;
    scene.size("url", "1").await;
    put(
        &scene.service.client(0),
        "/_etcd/registry/other/members/1",
        "nonsense",
    )
    .await;
    for (token, error) in [
        ("nobody", "discovery: size key not found"),
        ("bad", "discovery: size key is bad"),
        ("none", "discovery: size key is bad"),
    ] {
        let meeting = scene.meeting(token);
        let flags = arguments("m", scene.dir.path(), &mut scene.ports, &meeting);
        let outcome = run(&Ferrite.server(), &flags, Duration::from_secs(30));
        assert_eq!(outcome.code(), Some(1), "{}", outcome.text());
        let text = format!("failed to join discovery cluster ({error})");
        assert!(outcome.text().contains(&text), "{text}: {}", outcome.text());
    }
}

/// Nobody is there yet; a signal still ends it, and the service may come later.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_comes_later_is_waited_for() {
    let _turn = beside_others().await;
    let mut scene = Scene::new(Ferrite).await;
    scene.size("t", "1").await;
    scene.service.member(0).kill9();
    let meeting = scene.meeting("t");
    let flags = arguments("m", scene.dir.path(), &mut scene.ports, &meeting);
    let _running = start(&flags);
    tokio::time::sleep(Duration::from_millis(500)).await;
    scene.service.member(0).start();
    let client = client_of(&flags);
    eventually("it serves", PATIENCE * 2, async || {
        let mut stub = client.maintenance();
        let status = stub.status(pb::StatusRequest::default());
        status.await.ok()
    })
    .await;
}

/// A service that asks for certificates and for a user: founded there is only by who has both, and who
/// cannot be let in is told so at once.
async fn meet_by_invitation(kind: Kind) {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(dir.path(), "ca");
    let server = pki.issue("server", &Wanted::hosts(&["127.0.0.1"]));
    // Without a name, which would be that of a user.
    let paper = pki.issue("client", &Wanted::hosts(&["127.0.0.1"]));
    let service = Cluster::builder()
        .kinds(&[kind])
        .encrypted_clients(pki.client(Some(&paper)))
        .extra_args(&[
            &format!("--cert-file={}", server.cert),
            &format!("--key-file={}", server.key),
            &format!("--trusted-ca-file={}", pki.ca()),
            "--client-cert-auth",
            CHEAP,
        ])
        .start()
        .await;
    let client = service.client(0);
    for token in ["checked", "unchecked"] {
        put(
            &client,
            &format!("/_etcd/registry/{token}/_config/size"),
            "1",
        )
        .await;
    }
    add_role(&client, "root").await.expect("a role");
    add_user(&client, "root", "r").await.expect("a user");
    grant_role(&client, "root", "root").await.expect("granted");
    add_role(&client, "founders").await.expect("a role");
    let (from, to) = ("/_etcd/registry/", "/_etcd/registry0");
    let permitted = permit(&client, "founders", Type::Readwrite, from, to);
    permitted.await.expect("permitted");
    add_user(&client, "founder", "p").await.expect("a user");
    let granted = grant_role(&client, "founder", "founders");
    granted.await.expect("granted");
    enable(&client).await.expect("enabled");

    let mut ports = Ports::default();
    let endpoint = service.member(0).endpoint().to_owned();
    let mut flags = |name: &str, token: &str, more: &[&str]| {
        let mut meeting = vec![
            format!("--discovery-endpoints={endpoint}"),
            format!("--discovery-token={token}"),
            "--discovery-insecure-transport=false".to_owned(),
            format!("--discovery-cert={}", paper.cert),
            format!("--discovery-key={}", paper.key),
        ];
        meeting.extend(more.iter().map(|flag| (*flag).to_owned()));
        arguments(name, dir.path(), &mut ports, &meeting)
    };
    let ca = format!("--discovery-cacert={}", pki.ca());
    for (more, error) in [
        (
            &[&*ca, "--discovery-user=founder", "--discovery-password=x"][..],
            "etcdserver: authentication failed, invalid user ID or password",
        ),
        (
            &["--discovery-cacert=/nonexistent"],
            "open /nonexistent: no such file or directory",
        ),
    ] {
        let flags = flags("refused", "checked", more);
        let outcome = run(&Ferrite.server(), &flags, Duration::from_secs(30));
        assert_eq!(outcome.code(), Some(1), "{}", outcome.text());
        let text = format!("failed to join discovery cluster ({error})");
        assert!(outcome.text().contains(&text), "{text}: {}", outcome.text());
    }
    // The service's certificate is from nobody whom this machine knows.
    let unknown = flags("m", "checked", &["--discovery-request-timeout=500ms"]);
    let outcome = run(&Ferrite.server(), &unknown, Duration::from_secs(2));
    assert_eq!(outcome.code(), None, "{}", outcome.text());
    for text in [
        "retry connecting to discovery service",
        "x509: certificate signed by unknown authority",
    ] {
        assert!(outcome.text().contains(text), "{text}: {}", outcome.text());
    }
    for (name, token, more) in [
        (
            "a",
            "checked",
            &[&*ca, "--discovery-user=founder", "--discovery-password=p"][..],
        ),
        (
            "b",
            "unchecked",
            &[
                "--discovery-insecure-skip-tls-verify",
                "--discovery-user=founder:p",
            ],
        ),
    ] {
        let flags = flags(name, token, more);
        let _running = start(&flags);
        let client = client_of(&flags);
        eventually("it serves", PATIENCE, async || {
            let mut stub = client.maintenance();
            let status = stub.status(pb::StatusRequest::default());
            status
                .await
                .ok()
                .filter(|status| status.get_ref().leader != 0)
        })
        .await;
        assert!(dir.path().join(name).join("member").exists());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_may_ask_for_certificates_and_a_user() {
    let _turn = beside_others().await;
    meet_by_invitation(Ferrite).await;
    if oracle().is_some() {
        meet_by_invitation(Etcd351).await;
    }
}
