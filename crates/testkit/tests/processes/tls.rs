//! TLS and unix sockets: ours and the original's programs in every pairing, who is turned away, files
//! that change under a running server, certificates that servers make for themselves.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use bytes::Bytes;
use ferrite_testkit::tls::{ClientTls, TlsInfo};
use ferrite_testkit::{
    Cluster, Kind, Member, Outcome, PATIENCE, Paper, Pki, Ports, Wanted, Workload, eventually,
    oracle, our_program, run,
};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::{beside_others, get, put, wire};
use Kind::{Etcd351, Ferrite};

/// An authority, a server's certificate and a client's.
struct Scene {
    dir: TempDir,
    pki: Pki,
    server: Paper,
    client: Paper,
}

fn scene() -> Scene {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(dir.path(), "ca");
    let server = pki.issue("server", &Wanted::hosts(&["127.0.0.1", "localhost"]));
    let client = pki.issue("client", &Wanted::common_name("client"));
    Scene {
        dir,
        pki,
        server,
        client,
    }
}

impl Scene {
    /// Flags of a server that asks its clients for certificates.
    fn asking(&self) -> Vec<String> {
        vec![
            format!("--cert-file={}", self.server.cert),
            format!("--key-file={}", self.server.key),
            format!("--trusted-ca-file={}", self.pki.ca()),
            "--client-cert-auth".to_owned(),
        ]
    }

    /// Flags of etcdctl with this certificate.
    fn showing(&self, paper: &Paper) -> Vec<String> {
        vec![
            format!("--cacert={}", self.pki.ca()),
            format!("--cert={}", paper.cert),
            format!("--key={}", paper.key),
        ]
    }

    async fn one(&self, kind: Kind, flags: &[String]) -> Cluster {
        Cluster::builder()
            .kinds(&[kind])
            .encrypted_clients(self.pki.client(Some(&self.client)))
            .extra_args(&refs(flags))
            .start()
            .await
    }
}

fn refs(texts: &[String]) -> Vec<&str> {
    texts.iter().map(String::as_str).collect()
}

/// An etcdctl, with a time limit that a refusal has to wait for.
fn ctl(program: &Path, endpoint: &str, flags: &[String], command: &[&str]) -> Outcome {
    let mut arguments = vec![format!("--endpoints={endpoint}")];
    arguments.extend_from_slice(flags);
    arguments.extend(command.iter().map(|word| (*word).to_owned()));
    run(program, &arguments, PATIENCE)
}

/// The same, where failure is expected and need not be waited for long.
fn refused(program: &Path, endpoint: &str, flags: &[String]) -> String {
    let mut flags = flags.to_vec();
    flags.push("--command-timeout=1s".to_owned());
    flags.push("--dial-timeout=1s".to_owned());
    let outcome = ctl(program, endpoint, &flags, &["get", "k"]);
    assert_ne!(outcome.code(), Some(0), "{outcome:?}");
    outcome.text()
}

/// Debian's etcdctl, where it is installed.
fn debians() -> Option<PathBuf> {
    let path = PathBuf::from("/usr/bin/etcdctl");
    path.is_file().then_some(path)
}

fn clients() -> Vec<PathBuf> {
    let mut programs = vec![our_program("etcdctl")];
    programs.extend(oracle().map(|dir| dir.join("etcdctl")));
    programs.extend(debians());
    programs
}

/// Puts and gets with every etcdctl there is.
fn everybody_speaks(endpoint: &str, flags: &[String]) {
    // That of 3.4 takes the whole path of an encrypted socket for the server's name.
    let understood =
        |program: &PathBuf| !endpoint.starts_with("unixs:") || Some(program) != debians().as_ref();
    for program in clients().into_iter().filter(understood) {
        let name = program.display().to_string();
        let outcome = ctl(&program, endpoint, flags, &["put", &name, "v"]);
        assert_eq!(outcome.stdout, "OK\n", "{name}: {outcome:?}");
        let outcome = ctl(&program, endpoint, flags, &["get", &name]);
        assert_eq!(outcome.stdout, format!("{name}\nv\n"), "{outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_speaks_tls_with_every_server() {
    let _turn = beside_others().await;
    let scene = scene();
    let mut kinds = vec![Ferrite];
    if oracle().is_some() {
        kinds.push(Etcd351);
    }
    for kind in kinds {
        let cluster = scene.one(kind, &scene.asking()).await;
        let endpoint = cluster.member(0).endpoint();
        assert!(endpoint.starts_with("https://"));
        everybody_speaks(endpoint, &scene.showing(&scene.client));
        let client = cluster.client(0);
        put(&client, "k", "v").await;
        assert_eq!(get(&client, "k").await.as_deref(), Some("v"));
        // A bare address is encrypted once there is something to encrypt with, clear text is not.
        let bare = endpoint.trim_start_matches("https://");
        let ours = our_program("etcdctl");
        let outcome = ctl(&ours, bare, &scene.showing(&scene.client), &["get", "k"]);
        assert_eq!(outcome.stdout, "k\nv\n", "{outcome:?}");
        let clear = format!("http://{bare}");
        let told = refused(&ours, &clear, &scene.showing(&scene.client));
        if kind == Ferrite {
            let hint = format!("perhaps it speaks TLS: https://{bare}?");
            assert!(told.contains(&hint), "{told}");
            // Whoever speaks HTTP/1 in clear text is told by the server.
            assert_eq!(
                in_clear_text(bare).await,
                "HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n"
            );
        }
    }
}

async fn in_clear_text(address: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(request).await.expect("sent");
    let mut answer = String::new();
    // The original resets the connection once it has answered.
    let _reset = stream.read_to_string(&mut answer).await;
    answer
}

/// Waits until the server has logged that it turned a connection away because of `why`.
async fn turned_away(member: &Member, why: &str) {
    let what = format!("\"rejected connection on client endpoint\" because of {why}");
    eventually(&what, PATIENCE, async || {
        let log = member.log();
        log.lines()
            .any(|line| {
                line.contains("rejected connection on client endpoint")
                    && line.contains("\"remote-addr\":\"127.0.0.1:")
                    && line.contains(why)
            })
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_good_certificate_is_turned_away() {
    let _turn = beside_others().await;
    let scene = scene();
    let strangers = Pki::new(scene.dir.path(), "strangers");
    let stranger = strangers.issue("stranger", &Wanted::common_name("stranger"));
    let old = scene
        .pki
        .issue("old", &Wanted::common_name("old").expired());
    let gone = scene.pki.issue("gone", &Wanted::common_name("gone"));
    let unlisted = scene
        .pki
        .issue("unlisted", &Wanted::hosts(&["other.example"]));
    let listed = scene.pki.issue("listed", &Wanted::hosts(&["one.example"]));
    let crl = scene.pki.revoke("crl.der", &[&gone]);
    let mut flags = scene.asking();
    flags.push(format!("--client-crl-file={crl}"));
    flags.push("--client-cert-allowed-hostname=two.example,one.example".to_owned());
    let cluster = Cluster::builder()
        .encrypted_clients(scene.pki.client(Some(&listed)))
        .extra_args(&refs(&flags))
        .start()
        .await;
    let member = cluster.member(0);
    put(&cluster.client(0), "k", "v").await;
    let ours = our_program("etcdctl");
    let nobody = vec![format!("--cacert={}", scene.pki.ca())];
    for (flags, server_says, client_says) in [
        (
            nobody,
            "tls: client didn't provide a certificate",
            "remote error: tls: certificate required",
        ),
        (
            scene.showing(&stranger),
            "x509: certificate signed by unknown authority",
            "remote error: tls: unknown certificate authority",
        ),
        (
            scene.showing(&old),
            "x509: certificate has expired or is not yet valid",
            "remote error: tls: expired certificate",
        ),
        (
            scene.showing(&unlisted),
            "client certificate authentication failed",
            "remote error: tls: bad certificate",
        ),
        (
            vec!["--insecure-transport=false".to_owned()],
            "remote error: tls: unknown certificate authority",
            "x509: certificate signed by unknown authority",
        ),
    ] {
        let text = refused(&ours, member.endpoint(), &flags);
        assert!(text.contains(client_says), "{client_says}: {text}");
        assert!(text.contains("Error: context deadline exceeded"), "{text}");
        turned_away(member, server_says).await;
    }
    // Who is revoked must be listed to get that far.
    let revoked = scene.pki.issue("revoked", &Wanted::hosts(&["one.example"]));
    let shown = scene.showing(&revoked);
    let outcome = ctl(&ours, member.endpoint(), &shown, &["get", "k"]);
    assert_eq!(outcome.stdout, "k\nv\n", "{outcome:?}");
    let _ = scene.pki.revoke("crl.der", &[&gone, &revoked]);
    let text = refused(&ours, member.endpoint(), &shown);
    assert!(
        text.contains("remote error: tls: revoked certificate"),
        "{text}"
    );
    turned_away(member, "transport: certificate serial ").await;
    if let Some(dir) = oracle() {
        let theirs = dir.join("etcdctl");
        for paper in [&revoked, &stranger, &unlisted] {
            refused(&theirs, member.endpoint(), &scene.showing(paper));
        }
        everybody_speaks(member.endpoint(), &scene.showing(&listed));
    }
}

/// A file alone can say which common names clients may have. Where metrics are served apart, a certificate
/// must besides be for the address that it comes from.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_names_clients_and_metrics_ask_where_they_come_from() {
    let _turn = beside_others().await;
    let scene = scene();
    let issue = |file: &str, wanted: &Wanted| scene.pki.issue(file, wanted);
    let alice = issue("alice", &Wanted::common_name("alice"));
    let bob = issue("bob", &Wanted::common_name("bob"));
    let elsewhere = issue("away", &Wanted::hosts(&["10.1.2.3"]).named("alice"));
    let mut ports = Ports::default();
    let metrics = format!("127.0.0.1:{}", ports.take());
    let path = scene.pki.path("etcd.yml");
    let cluster = Cluster::builder()
        .encrypted_clients(scene.pki.client(Some(&alice)))
        .extra_args(&[&format!("--config-file={path}")])
        .build();
    let member = cluster.member(0);
    let (peer, client) = (member.peer_url(), member.endpoint());
    let text = format!(
        "data-dir: {}
listen-peer-urls: {peer}
initial-advertise-peer-urls: {peer}
initial-cluster: default={peer}
listen-client-urls: {client}
advertise-client-urls: {client}
listen-metrics-urls: https://{metrics}
client-transport-security:
  cert-file: {}
  key-file: {}
  trusted-ca-file: {}
  client-cert-auth: true
  allowed-cn: [alice]
",
        member.data_dir().display(),
        scene.server.cert,
        scene.server.key,
        scene.pki.ca(),
    );
    std::fs::write(&path, text).expect("a file");
    member.start();
    member.ready(PATIENCE).await;
    put(&cluster.client(0), "k", "v").await;
    let ours = our_program("etcdctl");
    let told = refused(&ours, client, &scene.showing(&bob));
    assert!(
        told.contains("remote error: tls: bad certificate"),
        "{told}"
    );
    turned_away(member, "client certificate authentication failed").await;
    // Clients may come from where they like.
    let outcome = ctl(&ours, client, &scene.showing(&elsewhere), &["get", "k"]);
    assert_eq!(outcome.stdout, "k\nv\n", "{outcome:?}");
    let probe = async |paper: &Paper| {
        let info = TlsInfo {
            trusted_ca_file: scene.pki.ca(),
            client_cert_file: paper.cert.clone(),
            client_key_file: paper.key.clone(),
            cert_file: paper.cert.clone(),
            key_file: paper.key.clone(),
            ..TlsInfo::default()
        };
        let tls = ClientTls::new(&info, &["http/1.1"]).expect("a client");
        let stream = TcpStream::connect(&metrics).await.expect("connected");
        match tls.connect("localhost", stream).await {
            Ok(mut stream) => {
                let request =
                    b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
                let mut text = Vec::new();
                // It may be closed by then.
                let _ = stream.write_all(request).await;
                let _ = stream.read_to_end(&mut text).await;
                String::from_utf8_lossy(&text).into_owned()
            }
            Err(_) => String::new(),
        }
    };
    let page = probe(&alice).await;
    assert!(page.contains("etcd_server_has_leader 1"), "{page}");
    assert_eq!(probe(&elsewhere).await, "");
    turned_away(
        member,
        "x509: certificate is valid for 10.1.2.3, not 127.0.0.1",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_change_without_a_restart() {
    let _turn = beside_others().await;
    let scene = scene();
    let cluster = scene.one(Ferrite, &scene.asking()).await;
    let member = cluster.member(0);
    let ours = our_program("etcdctl");
    let before = cluster.client(0);
    put(&before, "k", "v").await;
    // Everything from a new authority: server, client, and whom either trusts.
    let next = Pki::new(scene.dir.path(), "next");
    let client = next.issue("next-client", &Wanted::common_name("client"));
    let flags = vec![
        format!("--cacert={}", next.ca()),
        format!("--cert={}", client.cert),
        format!("--key={}", client.key),
    ];
    let _ = next.issue("server", &Wanted::hosts(&["127.0.0.1"]));
    let text = refused(&ours, member.endpoint(), &flags);
    assert!(text.contains("unknown certificate authority"), "{text}");
    std::fs::copy(next.ca(), scene.pki.ca()).expect("copied");
    let outcome = ctl(&ours, member.endpoint(), &flags, &["get", "k"]);
    assert_eq!(outcome.stdout, "k\nv\n", "{outcome:?}");
    // A connection that stands is not disturbed, and a broken file breaks nothing.
    std::fs::write(&scene.server.key, "half a key").expect("written");
    assert_eq!(get(&before, "k").await.as_deref(), Some("v"));
    let outcome = ctl(&ours, member.endpoint(), &flags, &["get", "k"]);
    assert_eq!(outcome.stdout, "k\nv\n", "{outcome:?}");
    assert!(member.log_contains("failed to create peer certificate"));
}

/// One request of HTTP/1.1.
async fn ask<IO>(mut stream: IO) -> String
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    stream
        .write_all(b"GET /version HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .await
        .expect("sent");
    let mut text = Vec::new();
    // Whether the end is announced or not.
    let _ = stream.read_to_end(&mut text).await;
    String::from_utf8_lossy(&text).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn clear_text_and_tls_share_an_address() {
    let _turn = beside_others().await;
    let scene = scene();
    let mut ports = Ports::default();
    let address = format!("127.0.0.1:{}", ports.take());
    let mut flags = scene.asking();
    flags.retain(|flag| flag != "--client-cert-auth" && !flag.starts_with("--trusted"));
    flags.push(format!(
        "--listen-client-urls=http://{address},https://{address}"
    ));
    flags.push(format!("--advertise-client-urls=https://{address}"));
    let cluster = Cluster::builder().extra_args(&refs(&flags)).start().await;
    let trusting = vec![format!("--cacert={}", scene.pki.ca())];
    everybody_speaks(&format!("https://{address}"), &trusting);
    everybody_speaks(&format!("http://{address}"), &[]);
    // A silent connection holds up nobody.
    let silent = TcpStream::connect(&address).await.expect("connected");
    let plain = TcpStream::connect(&address).await.expect("connected");
    let answer = ask(plain).await;
    assert!(answer.contains("\"etcdserver\":\"3.7.1\""), "{answer}");
    let info = TlsInfo {
        trusted_ca_file: scene.pki.ca(),
        ..TlsInfo::default()
    };
    for protocols in [&["http/1.1"][..], &[]] {
        let tls = ClientTls::new(&info, protocols).expect("a client");
        let stream = TcpStream::connect(&address).await.expect("connected");
        let stream = tls.connect("localhost", stream).await.expect("encrypted");
        let answer = ask(stream).await;
        assert!(answer.contains("\"etcdserver\":\"3.7.1\""), "{answer}");
    }
    drop(silent);
    assert!(
        cluster
            .member(0)
            .log_contains("serving client traffic insecurely")
    );
    assert!(
        cluster
            .member(0)
            .log_contains("serving client traffic securely")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn unix_sockets_serve_with_and_without_tls() {
    let _turn = beside_others().await;
    let scene = scene();
    // A path may have a hundred bytes.
    let dir = tempfile::Builder::new()
        .prefix("fu")
        .tempdir_in("/tmp")
        .expect("a folder");
    let socket = |name: &str| dir.path().join(name).display().to_string();
    let (plain, secure) = (socket("plain.sock"), socket("localhost:1"));
    let mut flags = scene.asking();
    flags.push(format!(
        "--listen-client-urls=unix://{plain},unixs://{secure}"
    ));
    flags.push(format!(
        "--advertise-client-urls=unix://{plain},unixs://{secure}"
    ));
    let cluster = Cluster::builder().extra_args(&refs(&flags)).start().await;
    everybody_speaks(&format!("unix://{plain}"), &[]);
    everybody_speaks(&format!("unixs://{secure}"), &scene.showing(&scene.client));
    let ours = our_program("etcdctl");
    let nobody = vec![format!("--cacert={}", scene.pki.ca())];
    let text = refused(&ours, &format!("unixs://{secure}"), &nobody);
    assert!(text.contains("certificate required"), "{text}");
    // Killed, it leaves its files behind; the next run takes them over, and its end removes them.
    cluster.member(0).kill9();
    assert!(Path::new(&plain).exists());
    cluster.start_all().await;
    everybody_speaks(&format!("unix://{plain}"), &[]);
    cluster.member(0).terminate().await;
    assert!(!Path::new(&plain).exists() && !Path::new(&secure).exists());
    // What is no socket is not replaced.
    std::fs::write(&plain, "precious").expect("written");
    cluster.member(0).start();
    let status = cluster.member(0).exit(PATIENCE).await;
    assert_eq!(status.code(), Some(1));
    assert!(cluster.member(0).log_contains("address already in use"));
    assert_eq!(
        std::fs::read_to_string(&plain).expect("still there"),
        "precious"
    );
}

fn peer_flags(pki: &Pki, paper: &Paper) -> Vec<String> {
    vec![
        format!("--peer-cert-file={}", paper.cert),
        format!("--peer-key-file={}", paper.key),
        format!("--peer-trusted-ca-file={}", pki.ca()),
        "--peer-client-cert-auth".to_owned(),
    ]
}

async fn speaks_everywhere(cluster: &Cluster, round: &str) {
    for from in 0..cluster.members().len() {
        let key = format!("{round}/{from}");
        put(&cluster.client(from), &key, "v").await;
        for to in 0..cluster.members().len() {
            let seen = get(&cluster.client(to), &key).await;
            assert_eq!(seen.as_deref(), Some("v"), "from {from} to {to}");
        }
    }
}

/// Founds a cluster, lets either kind lead, and has one catch up by a snapshot.
async fn members_speak_tls(kinds: &[Kind], flags: &[String]) {
    let cluster = Cluster::builder()
        .kinds(kinds)
        .encrypted_peers()
        .snapshot_count(100)
        .catchup_entries(10)
        .extra_args(&refs(flags))
        .start()
        .await;
    speaks_everywhere(&cluster, "founded").await;
    for leader in [0, 1] {
        cluster.move_leader(leader).await;
        speaks_everywhere(&cluster, &format!("{leader} leads")).await;
    }
    // A follower that a leader of ours brings up to date by its whole database.
    cluster.move_leader(0).await;
    cluster.member(2).kill9();
    let load = Workload::new().writers(8).through(0).start(&cluster);
    load.wait_for(400).await;
    let history = load.stop().await;
    cluster.member(2).start();
    cluster.member(2).ready(PATIENCE).await;
    history.check(&cluster).await;
    assert!(cluster.member(0).log_contains("starting with peer TLS"));
    assert!(cluster.member(2).log_contains("receiv"), "no snapshot came");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_both_kinds_speak_tls() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    let scene = scene();
    let paper = scene
        .pki
        .issue("peer", &Wanted::hosts(&["127.0.0.1"]).named("member"));
    members_speak_tls(
        &[Ferrite, Etcd351, Ferrite],
        &peer_flags(&scene.pki, &paper),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_both_kinds_make_their_own_certificates() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    let flags = vec!["--peer-auto-tls".to_owned()];
    members_speak_tls(&[Ferrite, Etcd351, Ferrite], &flags).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_with_a_wrong_name_stays_outside() {
    let _turn = beside_others().await;
    let scene = scene();
    let here = Wanted::hosts(&["127.0.0.1"]);
    let good = scene.pki.issue("good", &here.clone().named("member"));
    let bad = scene.pki.issue("bad", &here.named("intruder"));
    let elsewhere = scene
        .pki
        .issue("elsewhere", &Wanted::hosts(&["10.1.2.3"]).named("member"));
    // All read their own names for one pair of files, so that each can have another.
    let file = |index: usize, what: &str| scene.pki.path(&format!("m{index}.{what}"));
    let install = |index: usize, paper: &Paper| {
        std::fs::copy(&paper.cert, file(index, "crt")).expect("copied");
        std::fs::copy(&paper.key, file(index, "key")).expect("copied");
    };
    for index in 0..3 {
        install(index, &good);
    }
    let mut cluster = Cluster::builder().members(3).encrypted_peers();
    for index in 0..3 {
        let paper = Paper::at(file(index, "crt"), file(index, "key"));
        let mut flags = peer_flags(&scene.pki, &paper);
        flags.push("--peer-cert-allowed-cn=chief,member".to_owned());
        cluster = cluster.extra_args_at(index, &refs(&flags));
    }
    let cluster = cluster.start().await;
    speaks_everywhere(&cluster, "founded").await;
    // What is on its way to a leader that falls is lost; the third only follows.
    cluster.move_leader(0).await;
    for (paper, said) in [
        (&bad, "client certificate authentication failed"),
        (
            &elsewhere,
            "x509: certificate is valid for 10.1.2.3, not 127.0.0.1",
        ),
    ] {
        cluster.member(2).kill9();
        install(2, paper);
        cluster.member(2).start();
        for index in 0..2 {
            cluster.member(index).wait_for_log(said, PATIENCE).await;
            assert!(
                cluster
                    .member(index)
                    .log_contains("rejected connection on peer endpoint")
            );
        }
        // Without it there still is a quorum.
        put(&cluster.client(0), "k", said).await;
    }
    // Back with a good one, without a restart: the files are read again at every handshake.
    install(2, &good);
    cluster.member(2).ready(PATIENCE).await;
    speaks_everywhere(&cluster, "again").await;
}

/// Over TLS and HTTP/2 JSON and gRPC share a port: what is below `/v3/` is JSON, whatever it says it is, and
/// of the rest what says it is gRPC.
async fn paths_come_before_content_types(endpoint: &str, tls: &ClientTls) {
    let address = endpoint.strip_prefix("https://").expect("encrypted");
    let stream = tokio::net::TcpStream::connect(address).await;
    let stream = tls
        .connect("127.0.0.1", stream.expect("a connection"))
        .await
        .expect("TLS");
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let json = "{\"key\":\"aw==\"}";
    // A read of `k`, as gRPC frames it.
    let framed = "\0\0\0\0\u{3}\n\u{1}k";
    let call = "/etcdserverpb.KV/Range";
    for (method, path, kind, body, code, grpc, says) in [
        (
            "POST",
            "/v3/kv/range",
            "application/grpc",
            json,
            200,
            None,
            "\"kvs\"",
        ),
        (
            "POST",
            "/v3beta/kv/range",
            "application/grpc",
            json,
            200,
            None,
            "\"kvs\"",
        ),
        (
            "POST",
            "/v3/none",
            "application/grpc+proto",
            json,
            404,
            None,
            "Not Found",
        ),
        (
            "POST",
            call,
            "application/json",
            json,
            404,
            None,
            "404 page not found",
        ),
        (
            "POST",
            call,
            "application/grpc",
            framed,
            200,
            Some("0"),
            "k",
        ),
        ("OPTIONS", call, "application/grpc", "", 200, None, ""),
        ("GET", "/health", "application/json", "", 200, None, "true"),
    ] {
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{endpoint}{path}"))
            .header("content-type", kind)
            .header("te", "trailers")
            .body(Full::new(Bytes::from(body)))
            .expect("a request");
        let what = format!("{method} {path} as {kind} at {endpoint}");
        let answer = sender.send_request(request).await.expect("an answer");
        let (parts, body) = answer.into_parts();
        let body = body.collect().await.expect("all of it");
        let trailers = body.trailers().cloned().unwrap_or_default();
        let status = trailers
            .get("grpc-status")
            .map(|code| code.to_str().expect("text"));
        let said = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        assert_eq!(
            (parts.status.as_u16(), status),
            (code, grpc),
            "{what}: {said}"
        );
        assert!(said.contains(says), "{what}: {said}");
    }
    connection.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_makes_its_own_certificate_and_takes_over_the_originals() {
    let _turn = beside_others().await;
    let blind = TlsInfo {
        insecure_skip_verify: true,
        ..TlsInfo::default()
    };
    let blind = std::sync::Arc::new(ClientTls::new(&blind, &["h2"]).expect("a client"));
    let mut founders = vec![Ferrite];
    if oracle().is_some() {
        founders.push(Etcd351);
    }
    for founder in founders {
        let cluster = Cluster::builder()
            .kinds(&[founder])
            .encrypted_clients(std::sync::Arc::clone(&blind))
            .extra_args(&["--auto-tls", "--self-signed-cert-validity=2"])
            .start()
            .await;
        let member = cluster.member(0);
        put(&cluster.client(0), "k", "v").await;
        paths_come_before_content_types(member.endpoint(), &blind).await;
        let fixture = member.data_dir().join("fixtures/client/cert.pem");
        let made = std::fs::read(&fixture).expect("a certificate");
        // The second time round it is a folder that Ferrite has written to.
        for _ in 0..2 {
            member.terminate().await;
            member.start_as(Ferrite);
            member.ready(PATIENCE).await;
            assert_eq!(std::fs::read(&fixture).expect("still there"), made);
            everybody_speaks(
                member.endpoint(),
                &[
                    "--insecure-transport=false".to_owned(),
                    "--insecure-skip-tls-verify".to_owned(),
                ],
            );
            everybody_speaks(
                member.endpoint(),
                &[format!("--cacert={}", fixture.display())],
            );
        }
    }
}

/// What a server that cannot start says.
fn complaint(program: &Path, flags: &[String]) -> String {
    let dir = tempfile::tempdir().expect("a folder");
    let mut arguments = vec![format!("--data-dir={}", dir.path().display())];
    arguments.extend_from_slice(flags);
    let outcome = run(program, &arguments, PATIENCE);
    assert_eq!(outcome.code(), Some(1), "{flags:?}: {outcome:?}");
    let text = outcome.text();
    let line = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .rfind(|line| {
            let message = line["msg"].as_str().unwrap_or_default();
            message == "failed to verify flags"
                || message == "discovery failed"
                || message.contains("self-signed")
        });
    let line = line.unwrap_or_else(|| panic!("{flags:?}: no complaint in {text}"));
    format!(
        "{}: {}",
        line["msg"].as_str().unwrap_or_default(),
        line["error"].as_str().unwrap_or_default()
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn flags_that_cannot_be_are_refused_as_the_original_does() {
    let _turn = beside_others().await;
    let scene = scene();
    let mut ports = Ports::default();
    let (client, peer) = (ports.take(), ports.take());
    let urls = |clients: &str, peers: &str| {
        vec![
            format!("--listen-client-urls={clients}://127.0.0.1:{client}"),
            format!("--advertise-client-urls={clients}://127.0.0.1:{client}"),
            format!("--listen-peer-urls={peers}://127.0.0.1:{peer}"),
            format!("--initial-advertise-peer-urls={peers}://127.0.0.1:{peer}"),
            format!("--initial-cluster=default={peers}://127.0.0.1:{peer}"),
        ]
    };
    let pair = |prefix: &str| {
        vec![
            format!("--{prefix}cert-file={}", scene.server.cert),
            format!("--{prefix}key-file={}", scene.server.key),
        ]
    };
    let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
    // Each with whether 3.5.1 has the same check and words.
    let cases: Vec<(Vec<String>, String, bool)> = vec![
        (
            urls("https", "http"),
            format!(
                "discovery failed: TLS key/cert (--cert-file, --key-file) must be provided for client url https://127.0.0.1:{client} with HTTPS scheme"
            ),
            true,
        ),
        (
            urls("http", "https"),
            format!(
                "discovery failed: cannot listen on TLS for 127.0.0.1:{peer}: KeyFile and CertFile are not presented"
            ),
            true,
        ),
        (
            [urls("http", "https"), pair("peer-")[..1].to_vec()].concat(),
            format!(
                "discovery failed: KeyFile and CertFile must both be present[key: , cert: {}]",
                scene.server.cert
            ),
            true,
        ),
        (
            [urls("https", "http"), pair("")[1..].to_vec()].concat(),
            format!(
                "discovery failed: KeyFile and CertFile must both be present[key: {}, cert: ]",
                scene.server.key
            ),
            false,
        ),
        (
            [
                urls("http", "https"),
                pair("peer-"),
                words(&["--peer-client-cert-file=/nowhere"]),
            ]
            .concat(),
            "discovery failed: ClientKeyFile and ClientCertFile must both be present or both absent: key: , cert: /nowhere]".to_owned(),
            true,
        ),
        (
            [
                urls("http", "https"),
                pair("peer-"),
                words(&[
                    "--peer-cert-allowed-cn=a,b",
                    "--peer-cert-allowed-hostname=c",
                ]),
            ]
            .concat(),
            r#"discovery failed: AllowedCNs and AllowedHostnames are mutually exclusive (cns=["a" "b"], hostnames=["c"])"#.to_owned(),
            false,
        ),
        (
            [urls("http", "https"), pair("peer-"), words(&["--cipher-suites=x"])].concat(),
            r#"discovery failed: unexpected TLS cipher suite "x""#.to_owned(),
            true,
        ),
        (
            [urls("http", "http"), words(&["--cipher-suites="])].concat(),
            r#"discovery failed: unexpected TLS cipher suite """#.to_owned(),
            true,
        ),
        (
            [urls("http", "http"), words(&["--auth-token=simple,foo"])].concat(),
            "discovery failed: auth: invalid auth options".to_owned(),
            true,
        ),
        (
            words(&["--tls-min-version=TLS1.1"]),
            r#"failed to verify flags: unexpected TLS version "TLS1.1" (must be one of: TLS1.2, TLS1.3)"#.to_owned(),
            false,
        ),
        (
            words(&["--auto-tls", "--self-signed-cert-validity=0"]),
            "failed to get client self-signed certs: selfSignedCertValidity is invalid,it should be greater than 0".to_owned(),
            true,
        ),
        (
            [
                urls("http", "https"),
                vec![
                    format!("--peer-cert-file={}", scene.pki.path("none.crt")),
                    format!("--peer-key-file={}", scene.server.key),
                ],
            ]
            .concat(),
            format!(
                "discovery failed: open {}: no such file or directory",
                scene.pki.path("none.crt")
            ),
            true,
        ),
    ];
    for (flags, wanted, same) in cases {
        assert_eq!(complaint(&our_program("etcd"), &flags), wanted);
        if same && let Some(dir) = oracle() {
            assert_eq!(complaint(&dir.join("etcd"), &flags), wanted, "the original");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_of_version_2_speaks_tls() {
    let _turn = beside_others().await;
    let scene = scene();
    let cluster = scene.one(Ferrite, &scene.asking()).await;
    let outcome = std::process::Command::new(our_program("etcdctl"))
        .env("ETCDCTL_API", "2")
        .arg(format!("--endpoints={}", cluster.member(0).endpoint()))
        .arg(format!("--ca-file={}", scene.pki.ca()))
        .arg(format!("--cert-file={}", scene.client.cert))
        .arg(format!("--key-file={}", scene.client.key))
        .arg("cluster-health")
        .stdin(Stdio::null())
        .output()
        .expect("etcdctl runs");
    let text = String::from_utf8_lossy(&outcome.stdout);
    assert!(text.contains("cluster is healthy"), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_in_a_certificate_is_the_user() {
    let _turn = beside_others().await;
    let scene = scene();
    let cluster = scene.one(Ferrite, &scene.asking()).await;
    let endpoint = cluster.member(0).endpoint();
    let named = |name: &str| {
        let paper = scene.pki.issue(name, &Wanted::common_name(name));
        scene.showing(&paper)
    };
    let (root, alice, nobody) = (named("root"), named("alice"), named("nobody"));
    let ours = our_program("etcdctl");
    let done = |flags: &[String], command: &[&str]| {
        let outcome = ctl(&ours, endpoint, flags, command);
        assert_eq!(outcome.code(), Some(0), "{command:?}: {outcome:?}");
    };
    for command in [
        &["user", "add", "root", "--no-password"][..],
        &["role", "add", "root"],
        &["user", "grant-role", "root", "root"],
        &["user", "add", "alice", "--no-password"],
        &["role", "add", "readers"],
        &["role", "grant-permission", "readers", "readwrite", "k"],
        &["user", "grant-role", "alice", "readers"],
        &["auth", "enable"],
    ] {
        done(&root, command);
    }
    done(&alice, &["put", "k", "v"]);
    done(&root, &["put", "other", "v"]);
    for flags in [&alice, &nobody] {
        let outcome = ctl(&ours, endpoint, flags, &["put", "other", "v"]);
        assert!(
            outcome.text().contains("permission denied") || outcome.text().contains("user name"),
            "{outcome:?}"
        );
        assert_ne!(outcome.code(), Some(0));
    }
    // By plain HTTP a name would not count, and is refused rather than passed over; of old paths too.
    let info = TlsInfo {
        trusted_ca_file: scene.pki.ca(),
        cert_file: scene.client.cert.clone(),
        key_file: scene.client.key.clone(),
        ..TlsInfo::default()
    };
    let tls = ClientTls::new(&info, &["http/1.1"]).expect("a client");
    let page = async |path: &str| {
        let stream = TcpStream::connect(wire::address(endpoint)).await;
        let stream = tls.connect("localhost", stream.expect("connected")).await;
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        let mut stream = stream.expect("encrypted");
        stream.write_all(request.as_bytes()).await.expect("sent");
        let answer = wire::to_the_end(&mut stream, PATIENCE).await;
        wire::Answer::of(&answer.expect("an end"))
    };
    for path in ["/v3/kv/range", "/v3beta/kv/range"] {
        let answer = page(path).await;
        assert_eq!(answer.status, "HTTP/1.1 400 Bad Request");
        assert_eq!(
            answer.body,
            "CommonName of client sending a request against gateway will be ignored and not used as expected\n"
        );
    }
    assert_eq!(page("/version").await.status, "HTTP/1.1 200 OK");
}
