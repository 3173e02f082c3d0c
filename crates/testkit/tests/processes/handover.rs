//! `etcdutl takeover`: members of a running cluster change hands, one command a step, under load.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ferrite_testkit::{
    Client, ClientConfig, Cluster, Kind, Load, Outcome, PATIENCE, Paper, Pki, Ports, Wanted,
    Workload, dump, our_program, pb, run,
};

use crate::beside_others;
use Kind::{Etcd351, Ferrite};

const HOLD: &str = "--hold-cluster-version=3.5";
/// What one command may take on a busy machine.
const LONG: Duration = Duration::from_secs(120);

/// Manages the members' processes as systemd would: told by files, each gone when its order is done.
struct Manager<'a> {
    cluster: &'a Cluster,
    orders: PathBuf,
}

impl<'a> Manager<'a> {
    fn of(cluster: &'a Cluster) -> Self {
        let orders = cluster.scratch().join("orders");
        std::fs::create_dir_all(&orders).expect("a folder can be made");
        Self { cluster, orders }
    }

    /// A line for the shell that gives an order and waits until it is done.
    fn line(&self, index: usize, order: &str) -> String {
        let file = self.orders.join(format!("{index}.{order}"));
        let file = file.display();
        format!("touch '{file}' && while [ -e '{file}' ]; do sleep 0.05; done")
    }

    async fn serve(&self) {
        loop {
            for member in self.cluster.members() {
                for order in ["stop", "theirs", "ours", "held"] {
                    let file = self.orders.join(format!("{}.{order}", member.index()));
                    if !file.exists() {
                        continue;
                    }
                    match order {
                        "stop" => drop(member.terminate().await),
                        "theirs" => member.start_as_with(Etcd351, &[]),
                        "ours" => member.start_as_with(Ferrite, &[]),
                        _ => member.start_as_with(Ferrite, &[HOLD]),
                    }
                    std::fs::remove_file(file).expect("an order can be removed");
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Runs our `etcdutl takeover`, while orders are followed.
    async fn takeover(&self, arguments: &[String]) -> Outcome {
        let mut all = vec![
            "takeover".to_owned(),
            arguments[0].clone(),
            format!("--endpoints={}", self.cluster.endpoints().join(",")),
        ];
        all.extend_from_slice(&arguments[1..]);
        let running = tokio::task::spawn_blocking(move || run(&our_program("etcdutl"), &all, LONG));
        tokio::select! {
            outcome = running => outcome.expect("the runner does not panic"),
            () = self.serve() => unreachable!("it serves for ever"),
        }
    }

    /// `step` or `back` of one member: what to start, and what to fall back to.
    async fn exchange(&self, command: &str, index: usize, start: &str, more: &[&str]) -> Outcome {
        let data_dir = self.cluster.member(index).data_dir().to_owned();
        self.exchange_at(command, index, &data_dir, start, more)
            .await
    }

    async fn exchange_at(
        &self,
        command: &str,
        index: usize,
        data_dir: &Path,
        start: &str,
        more: &[&str],
    ) -> Outcome {
        let mut arguments = vec![
            command.to_owned(),
            format!("--member=m{index}"),
            format!("--data-dir={}", data_dir.display()),
            format!("--stop={}", self.line(index, "stop")),
            format!("--start={}", self.line(index, start)),
        ];
        arguments.extend(more.iter().map(|text| (*text).to_owned()));
        self.takeover(&arguments).await
    }
}

#[track_caller]
fn done(outcome: &Outcome) {
    assert_eq!(outcome.code(), Some(0), "{}", outcome.text());
    assert!(
        outcome.stdout.contains("hold the same"),
        "{}",
        outcome.text()
    );
}

#[track_caller]
fn refused(outcome: &Outcome, why: &str) {
    assert_eq!(outcome.code(), Some(1), "{}", outcome.text());
    assert!(outcome.stderr.contains(why), "{why:?}: {}", outcome.text());
}

fn load(cluster: &Cluster) -> Load {
    Workload::new()
        .writers(3)
        .readers(2)
        .others(1)
        .pause(Duration::from_millis(5))
        .start(cluster)
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_change_hands_and_back_under_load() {
    if ferrite_testkit::oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    let kinds = [Etcd351; 3];
    let cluster = Cluster::builder()
        .kinds(&kinds)
        .snapshot_count(500)
        .start()
        .await;
    let manager = Manager::of(&cluster);
    let load = load(&cluster);
    load.wait_for(50).await;
    let outcome = manager
        .takeover(&["check".to_owned(), "--member=m1".to_owned()])
        .await;
    assert_eq!(outcome.code(), Some(0), "{}", outcome.text());
    // Two go without holding anything: then the third would let the version rise.
    for index in [0, 1] {
        done(&manager.exchange("step", index, "ours", &[]).await);
        load.wait_for(30).await;
    }
    let outcome = manager.exchange("step", 2, "ours", &[]).await;
    refused(&outcome, "--hold-cluster-version=3.5");
    assert_eq!(cluster.member(2).kind(), Etcd351);
    let outcome = manager.exchange("step", 0, "ours", &[]).await;
    refused(&outcome, "runs 3.7.1 already");
    cluster.member(0).terminate().await;
    cluster.member(0).start_as_with(Ferrite, &[HOLD]);
    cluster.member(0).ready(PATIENCE).await;
    done(&manager.exchange("step", 2, "held", &[]).await);
    load.wait_for(30).await;
    // All are ours, the version is held: all the way back.
    for index in [1, 0, 2] {
        done(&manager.exchange("back", index, "theirs", &[]).await);
        load.wait_for(30).await;
    }
    assert!(
        cluster
            .members()
            .iter()
            .all(|member| member.kind() == Etcd351)
    );
    load.stop().await.check(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_safe_is_refused_and_nothing_done() {
    if ferrite_testkit::oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    let cluster = Cluster::builder().kinds(&[Etcd351; 3]).start().await;
    let manager = Manager::of(&cluster);
    crate::put(&cluster.client(0), "k", "v").await;
    let quick = ["--wait=3s"];
    let outcome = manager
        .takeover(&["check".to_owned(), "--member=nobody".to_owned()])
        .await;
    refused(&outcome, "no member has the name or ID \"nobody\"");
    // Another member's folder is found out while this member is down, and it comes back by what ran before.
    let other = cluster.member(1).data_dir().to_owned();
    cluster.member(1).terminate().await;
    let outcome = manager.exchange("step", 0, "ours", &quick).await;
    refused(&outcome, "does not answer");
    assert!(cluster.member(0).serving());
    cluster.start_all().await;
    let copy = cluster.scratch().join("copy");
    ferrite_testkit::Tree::copy(&other, &copy);
    let fallback = format!("--fallback={}", manager.line(0, "theirs"));
    let outcome = manager
        .exchange_at("step", 0, &copy, "ours", &[&fallback])
        .await;
    refused(&outcome, "not of member m0");
    refused(&outcome, "what ran before was started again");
    assert_eq!(cluster.member(0).kind(), Etcd351);
    cluster.wait_healthy().await;
    // The same program comes back.
    let outcome = manager.exchange("step", 0, "theirs", &[]).await;
    refused(&outcome, "serves again, but by version 3.5.1");
    // An alarm.
    let alarm = |action: pb::alarm_request::AlarmAction| pb::AlarmRequest {
        action: action.into(),
        member_id: 7,
        alarm: pb::AlarmType::Nospace.into(),
    };
    let raise = alarm(pb::alarm_request::AlarmAction::Activate);
    cluster
        .client(0)
        .maintenance()
        .alarm(raise)
        .await
        .expect("raised");
    let outcome = manager.exchange("step", 0, "ours", &quick).await;
    refused(&outcome, "an alarm is on: NOSPACE");
    let disarm = alarm(pb::alarm_request::AlarmAction::Deactivate);
    cluster
        .client(0)
        .maintenance()
        .alarm(disarm)
        .await
        .expect("disarmed");
    // Back, where nothing was taken over; and to what never was.
    let outcome = manager.exchange("back", 0, "theirs", &quick).await;
    refused(&outcome, "runs 3.5.1 already");
    // Of two one cannot be spared.
    let two = Cluster::builder().kinds(&[Etcd351; 2]).start().await;
    let outcome = Manager::of(&two).exchange("step", 0, "ours", &quick).await;
    refused(&outcome, "no quorum");
}

/// Flags of a program that has, after `--<prefix>`, an authority and a certificate.
fn papers(prefix: &str, names: [&str; 3], pki: &Pki, paper: &Paper) -> Vec<String> {
    let files = [&pki.ca(), &paper.cert, &paper.key];
    let pairs = names.iter().zip(files);
    pairs
        .map(|(name, file)| format!("--{prefix}{name}={file}"))
        .collect()
}

/// Clients and members have authorities of their own, and both ports ask for certificates.
#[tokio::test(flavor = "multi_thread")]
async fn members_that_speak_tls_change_hands_and_back() {
    const SERVER: [&str; 3] = ["trusted-ca-file", "cert-file", "key-file"];
    const TOOL: [&str; 3] = ["cacert", "cert", "key"];
    if ferrite_testkit::oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let here = Wanted::hosts(&["127.0.0.1", "localhost"]);
    let clients = Pki::new(dir.path(), "clients");
    let server = clients.issue("server", &here);
    let client = clients.issue("client", &Wanted::common_name("client"));
    let peers = Pki::new(dir.path(), "peers");
    let peer = peers.issue("peer", &here);
    let mut flags = papers("", SERVER, &clients, &server);
    flags.extend(papers("peer-", SERVER, &peers, &peer));
    flags.extend([
        "--client-cert-auth".to_owned(),
        "--peer-client-cert-auth".to_owned(),
    ]);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let cluster = Cluster::builder()
        .kinds(&[Etcd351; 3])
        .encrypted_peers()
        .encrypted_clients(clients.client(Some(&client)))
        .extra_args(&flags)
        .start()
        .await;
    let manager = Manager::of(&cluster);
    crate::put(&cluster.client(0), "before", "v").await;
    let without = papers("", TOOL, &clients, &client);
    let with = [without.clone(), papers("peer-", TOOL, &peers, &peer)].concat();
    let step = async |command: &str, index: usize, start: &str, flags: &[String], more: &[&str]| {
        let mut all: Vec<&str> = flags.iter().map(String::as_str).collect();
        all.extend(more);
        manager.exchange(command, index, start, &all).await
    };
    let ca = format!("--peer-cacert={}", peers.ca());
    let odd = format!("--peer-key={}", peer.key);
    let absent = format!("--peer-cacert={}", peers.path("nowhere.pem"));
    // Waiting does not mend a certificate: the patience given here is longer than the command may take.
    for (more, code, why) in [
        (
            &["--wait=1h"][..],
            1,
            &[
                "signed by unknown authority",
                "clients.pem, as --peer-cacert is not given",
            ][..],
        ),
        (
            &["--wait=1h", "--last", &ca],
            1,
            &[
                "remote error: tls: ",
                "client.crt, as --peer-cert is not given",
            ],
        ),
        (&[&odd], 128, &["--peer-key is given without --peer-cert"]),
        (&[&absent], 128, &["--peer-cacert: open ", "nowhere.pem"]),
    ] {
        let outcome = step("step", 0, "ours", &without, more).await;
        assert_eq!(outcome.code(), Some(code), "{}", outcome.text());
        let lines: Vec<&str> = outcome.stderr.lines().collect();
        let last = lines.last().expect("it says why");
        assert!(
            why.iter().all(|part| last.contains(part)),
            "{why:?}: {last}"
        );
        assert!(lines.len() <= 2, "{}", outcome.stderr);
        assert!(!outcome.stdout.contains("stopping"), "{}", outcome.stdout);
        assert!(cluster.member(0).serving());
        assert_eq!(cluster.member(0).kind(), Etcd351);
    }
    let mut check = vec!["check".to_owned(), "--wait=1h".to_owned()];
    check.extend_from_slice(&without);
    refused(
        &manager.takeover(&check).await,
        "the cluster's version is not known",
    );
    check.extend_from_slice(&with);
    let outcome = manager.takeover(&check).await;
    assert_eq!(outcome.code(), Some(0), "{}", outcome.text());
    // The first one holds the version, which it says on the peer port alone.
    for (index, start) in [(0, "held"), (1, "ours"), (2, "ours")] {
        done(&step("step", index, start, &with, &[]).await);
        crate::put(&cluster.client(index), &format!("after {index}"), "v").await;
    }
    done(&step("back", 2, "theirs", &with, &[]).await);
    assert_eq!(cluster.member(2).kind(), Etcd351);
    for key in ["before", "after 0", "after 1", "after 2"] {
        let seen = crate::get(&cluster.client(2), key).await;
        assert_eq!(seen.as_deref(), Some("v"), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_risen_version_closes_the_way_back() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().members(3).start().await;
    let manager = Manager::of(&cluster);
    let outcome = manager.exchange("back", 0, "theirs", &["--wait=10s"]).await;
    refused(&outcome, "a program of 3.5 would refuse to start");
    assert!(cluster.member(0).serving());
}

/// A member that a line for the shell started, ended with the test.
struct Started(PathBuf);

impl Drop for Started {
    fn drop(&mut self) {
        let text = std::fs::read_to_string(&self.0).unwrap_or_default();
        if text.trim().parse::<u32>().is_ok() {
            let _ = run(Path::new("/bin/kill"), &["-9", text.trim()], PATIENCE);
        }
    }
}

/// A member that is to join a cluster as m3.
struct Newcomer {
    client: String,
    peer: String,
    /// The line for the shell that starts it.
    start: String,
    _started: Started,
    _ports: Ports,
}

/// A newcomer of this kind, reached at addresses with this scheme; `more` are arguments of its program.
fn newcomer(cluster: &Cluster, kind: Kind, scheme: &str, more: &[&str]) -> Newcomer {
    let mut ports = Ports::default();
    let [client, peer] =
        [ports.take(), ports.take()].map(|port| format!("{scheme}://127.0.0.1:{port}"));
    let initial: Vec<String> = cluster
        .members()
        .iter()
        .map(|member| format!("m{}={}", member.index(), member.peer_url()))
        .chain([format!("m3={peer}")])
        .collect();
    let pid = cluster.scratch().join("m3.pid");
    let start = format!(
        "setsid {} --name=m3 --data-dir={} --listen-client-urls={client} --advertise-client-urls={client} \
         --listen-peer-urls={peer} --initial-advertise-peer-urls={peer} --initial-cluster={} \
         --initial-cluster-state=existing --initial-cluster-token=testkit {} > {} 2>&1 < /dev/null & \
         echo $! > {}",
        kind.server().display(),
        cluster.scratch().join("m3").display(),
        initial.join(","),
        more.join(" "),
        cluster.scratch().join("m3.log").display(),
        pid.display()
    );
    Newcomer {
        client,
        peer,
        start,
        _started: Started(pid),
        _ports: ports,
    }
}

/// What `takeover replace` is given to put a newcomer in the place of m0.
fn replacing(manager: &Manager<'_>, newcomer: &Newcomer) -> Vec<String> {
    vec![
        "replace".to_owned(),
        "--member=m0".to_owned(),
        format!("--new-peer-urls={}", newcomer.peer),
        format!("--new-endpoint={}", newcomer.client),
        format!("--start={}", newcomer.start),
        format!("--stop={}", manager.line(0, "stop")),
    ]
}

/// A member of one kind comes for one of the other: a learner led by the other kind, promoted, the old one removed.
async fn replaced(old: Kind, new: Kind) {
    let cluster = Cluster::builder()
        .kinds(&[old; 3])
        .extra_args_of(Ferrite, &[HOLD])
        .start()
        .await;
    let manager = Manager::of(&cluster);
    let load = load(&cluster);
    load.wait_for(50).await;
    let more: &[&str] = if new == Ferrite { &[HOLD] } else { &[] };
    let newcomer = newcomer(&cluster, new, "http", more);
    let mut arguments = replacing(&manager, &newcomer);
    if new == Etcd351 {
        arguments.push("--to=3.5".to_owned());
    }
    done(&manager.takeover(&arguments).await);
    load.wait_for(30).await;
    let history = load.stop().await;
    assert!(!cluster.member(0).serving());
    let new = Client::new(ClientConfig::new([newcomer.client.as_str()])).expect("a client");
    let contents = dump(&new, 0, false, 64).await.expect("contents");
    let mut found = 0;
    for write in history.clients.iter().flatten() {
        let Some(revision) = write.revision else {
            continue;
        };
        let pair = contents.pairs.iter().find(|pair| pair.key == write.key);
        let pair = pair.unwrap_or_else(|| panic!("{} is lost", write.key));
        assert!(
            pair.mod_revision >= revision,
            "{pair:?} is older than {revision}"
        );
        found += 1;
    }
    assert!(found > 50, "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_member_comes_for_an_old_one_of_the_other_kind() {
    if ferrite_testkit::oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    replaced(Etcd351, Ferrite).await;
    replaced(Ferrite, Etcd351).await;
}

/// The same where both ports ask for certificates of authorities of their own, there and back.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_member_comes_for_an_old_one_where_all_speak_tls() {
    const SERVER: [&str; 3] = ["trusted-ca-file", "cert-file", "key-file"];
    const TOOL: [&str; 3] = ["cacert", "cert", "key"];
    if ferrite_testkit::oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    let dir = tempfile::tempdir().expect("a folder");
    let here = Wanted::hosts(&["127.0.0.1", "localhost"]);
    let clients = Pki::new(dir.path(), "clients");
    let server = clients.issue("server", &here);
    let client = clients.issue("client", &Wanted::common_name("client"));
    let peers = Pki::new(dir.path(), "peers");
    let peer = peers.issue("peer", &here);
    let mut flags = papers("", SERVER, &clients, &server);
    flags.extend(papers("peer-", SERVER, &peers, &peer));
    flags.extend([
        "--client-cert-auth".to_owned(),
        "--peer-client-cert-auth".to_owned(),
    ]);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let tool = [
        papers("", TOOL, &clients, &client),
        papers("peer-", TOOL, &peers, &peer),
    ]
    .concat();
    for (old, new) in [(Etcd351, Ferrite), (Ferrite, Etcd351)] {
        let cluster = Cluster::builder()
            .kinds(&[old; 3])
            .encrypted_peers()
            .encrypted_clients(clients.client(Some(&client)))
            .extra_args(&flags)
            .extra_args_of(Ferrite, &[HOLD])
            .start()
            .await;
        let manager = Manager::of(&cluster);
        crate::put(&cluster.client(0), "before", "v").await;
        let mut all = flags.clone();
        all.extend((new == Ferrite).then_some(HOLD));
        let newcomer = newcomer(&cluster, new, "https", &all);
        let mut arguments = replacing(&manager, &newcomer);
        if new == Etcd351 {
            arguments.push("--to=3.5".to_owned());
        }
        // Before 3.6 only the peer port says the cluster's version: nothing is done without certificates for it.
        if old == Etcd351 {
            let mut without = arguments.clone();
            without.extend(papers("", TOOL, &clients, &client));
            let outcome = manager.takeover(&without).await;
            refused(&outcome, "as --peer-cacert is not given");
            assert!(!cluster.scratch().join("m3").exists());
        }
        arguments.extend_from_slice(&tool);
        done(&manager.takeover(&arguments).await);
        assert!(!cluster.member(0).serving());
        let mut config = ClientConfig::new([newcomer.client.as_str()]);
        config.tls = Some(clients.client(Some(&client)));
        let there = Client::new(config).expect("a client");
        assert_eq!(crate::get(&there, "before").await.as_deref(), Some("v"));
        crate::put(&cluster.client(1), "after", "v").await;
        assert_eq!(crate::get(&there, "after").await.as_deref(), Some("v"));
    }
}
