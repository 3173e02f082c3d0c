//! Handshakes over a pipe: who is let in, who is not and what is said about it, and files that change.

use std::net::IpAddr;

use ferrite_testkit::{Paper, Pki, Wanted};
use ferrite_tls::{
    ClientTls, MemberStream, Rejected, ServerTls, TlsInfo, UnixTime, Use, Version, examine,
};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Scene {
    pki: Pki,
    server: Paper,
    dir: TempDir,
}

fn scene() -> Scene {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(dir.path(), "ca");
    let server = pki.issue("server", &Wanted::hosts(&["127.0.0.1", "localhost"]));
    Scene { pki, server, dir }
}

impl Scene {
    fn server(&self) -> TlsInfo {
        TlsInfo {
            cert_file: self.server.cert.clone(),
            key_file: self.server.key.clone(),
            ..TlsInfo::default()
        }
    }

    fn asking(&self) -> TlsInfo {
        TlsInfo {
            client_cert_auth: true,
            trusted_ca_file: self.pki.ca(),
            ..self.server()
        }
    }

    fn client(&self, paper: Option<&Paper>) -> TlsInfo {
        TlsInfo {
            trusted_ca_file: self.pki.ca(),
            cert_file: paper.map(|p| p.cert.clone()).unwrap_or_default(),
            key_file: paper.map(|p| p.key.clone()).unwrap_or_default(),
            ..TlsInfo::default()
        }
    }
}

/// What each side says: the server the common name or why it turned the client away, the client
/// nothing or its error.
async fn shake(
    server: &ServerTls,
    client: &TlsInfo,
    host: &str,
    from: Option<IpAddr>,
) -> (Result<Option<String>, Rejected>, Option<String>) {
    let client = ClientTls::new(client, &["h2"]).expect("a client");
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let serving = async {
        let accepted = match from {
            Some(address) => server.accept_member(theirs, address).await?,
            None => server.accept(theirs).await?,
        };
        let mut stream = accepted.stream;
        let _gone = stream.write_all(b"hello").await;
        let _gone = stream.shutdown().await;
        Ok(accepted.common_name)
    };
    let dialling = async {
        let mut stream = match client.connect(host, ours).await {
            Ok(stream) => stream,
            Err(error) => return Some(error.to_string()),
        };
        let mut text = String::new();
        match stream.read_to_string(&mut text).await {
            Ok(_) => None,
            Err(error) => Some(error.to_string()),
        }
    };
    tokio::join!(serving, dialling)
}

fn tls(info: &TlsInfo) -> ServerTls {
    ServerTls::new(info, &["h2", "http/1.1"]).expect("a server")
}

fn why(result: Result<Option<String>, Rejected>) -> String {
    match result {
        Ok(name) => format!("let in as {name:?}"),
        Err(rejected) => rejected.error,
    }
}

#[tokio::test]
async fn a_client_is_known_by_the_name_in_its_certificate() {
    let scene = scene();
    let client = scene.pki.issue("client", &Wanted::common_name("alice"));
    let asking = tls(&scene.asking());
    let (server, error) = shake(&asking, &scene.client(Some(&client)), "localhost", None).await;
    assert_eq!((server, error), (Ok(Some("alice".into())), None));
    // Where nobody asks, nobody is known.
    let plain = tls(&scene.server());
    let (server, error) = shake(&plain, &scene.client(Some(&client)), "127.0.0.1", None).await;
    assert_eq!((server, error), (Ok(None), None));
}

#[tokio::test]
async fn who_is_not_let_in_hears_why_in_the_originals_words() {
    let scene = scene();
    let strangers = Pki::new(scene.dir.path(), "strangers");
    let asking = tls(&scene.asking());
    let shown = |paper: &Paper| scene.client(Some(paper));

    let (server, error) = shake(&asking, &scene.client(None), "localhost", None).await;
    assert_eq!(why(server), "tls: client didn't provide a certificate");
    assert_eq!(
        error.as_deref(),
        Some("remote error: tls: certificate required")
    );

    let stranger = strangers.issue("stranger", &Wanted::hosts(&["h.example", "10.0.0.9"]));
    let (server, error) = shake(&asking, &shown(&stranger), "localhost", None).await;
    let rejected = server.expect_err("a stranger");
    assert_eq!(
        rejected.error,
        "tls: failed to verify certificate: x509: certificate signed by unknown authority"
    );
    assert_eq!(rejected.server_name, "localhost");
    assert_eq!(
        rejected.names,
        Some((vec!["10.0.0.9".into()], vec!["h.example".into()]))
    );
    assert_eq!(
        error.as_deref(),
        Some("remote error: tls: unknown certificate authority")
    );

    let old = scene
        .pki
        .issue("old", &Wanted::common_name("old").expired());
    let (server, error) = shake(&asking, &shown(&old), "localhost", None).await;
    let text = why(server);
    assert!(
        text.contains("x509: certificate has expired or is not yet valid: current time 2"),
        "{text}"
    );
    assert_eq!(
        error.as_deref(),
        Some("remote error: tls: expired certificate")
    );

    let server_only = Wanted::common_name("server").for_servers_only();
    let server_only = scene.pki.issue("server-only", &server_only);
    let (server, error) = shake(&asking, &shown(&server_only), "localhost", None).await;
    let unfit = "x509: certificate specifies an incompatible key usage";
    assert_eq!(
        why(server),
        format!("tls: failed to verify certificate: {unfit}")
    );
    assert_eq!(error.as_deref(), Some("remote error: tls: bad certificate"));

    // A server that a client does not know.
    let (server, error) = shake(
        &asking,
        &TlsInfo {
            trusted_ca_file: strangers.ca(),
            ..TlsInfo::default()
        },
        "localhost",
        None,
    )
    .await;
    assert_eq!(
        error.as_deref(),
        Some("tls: failed to verify certificate: x509: certificate signed by unknown authority")
    );
    assert_eq!(
        why(server),
        "remote error: tls: unknown certificate authority"
    );

    // A server that is not where its certificate says.
    for (host, wanted) in [
        (
            "elsewhere.example",
            "x509: certificate is valid for localhost, not elsewhere.example",
        ),
        (
            "10.0.0.1",
            "x509: certificate is valid for 127.0.0.1, not 10.0.0.1",
        ),
    ] {
        let (server, error) = shake(&asking, &scene.client(None), host, None).await;
        assert_eq!(
            error,
            Some(format!("tls: failed to verify certificate: {wanted}"))
        );
        assert_eq!(why(server), "remote error: tls: bad certificate");
    }
    let skipping = TlsInfo {
        insecure_skip_verify: true,
        ..TlsInfo::default()
    };
    let plain = tls(&scene.server());
    let (server, error) = shake(&plain, &skipping, "elsewhere.example", None).await;
    assert_eq!((why(server), error), ("let in as None".into(), None));
}

#[tokio::test]
async fn only_allowed_names_get_in() {
    let scene = scene();
    let alice = scene
        .pki
        .issue("alice", &Wanted::hosts(&["a.example"]).named("alice"));
    let bob = scene
        .pki
        .issue("bob", &Wanted::hosts(&["b.example"]).named("bob"));
    for info in [
        TlsInfo {
            allowed_cns: vec!["carol".into(), "alice".into()],
            ..scene.asking()
        },
        TlsInfo {
            allowed_hostnames: vec!["c.example".into(), "a.example".into()],
            ..scene.asking()
        },
    ] {
        let server = tls(&info);
        let (said, _) = shake(&server, &scene.client(Some(&alice)), "localhost", None).await;
        assert_eq!(why(said), r#"let in as Some("alice")"#);
        let (said, error) = shake(&server, &scene.client(Some(&bob)), "localhost", None).await;
        assert_eq!(why(said), "client certificate authentication failed");
        assert_eq!(error.as_deref(), Some("remote error: tls: bad certificate"));
    }
    // The same rule for whom we dial.
    let dialling = TlsInfo {
        allowed_cns: vec!["carol".into()],
        ..scene.client(None)
    };
    let (_, error) = shake(&tls(&scene.server()), &dialling, "localhost", None).await;
    assert_eq!(
        error.as_deref(),
        Some("client certificate authentication failed")
    );
}

#[tokio::test]
async fn a_members_certificate_belongs_to_its_address() {
    let scene = scene();
    let server = tls(&scene.asking());
    let home: IpAddr = "127.0.0.1".parse().expect("an address");
    let mapped: IpAddr = "::ffff:127.0.0.1".parse().expect("an address");
    let away: IpAddr = "10.1.2.3".parse().expect("an address");
    let at_home = scene.pki.issue("m1", &Wanted::hosts(&["127.0.0.1"]));
    let by_name = scene.pki.issue("m2", &Wanted::hosts(&["localhost"]));
    let nameless = scene.pki.issue("m3", &Wanted::common_name("m3"));
    for (paper, from, wanted) in [
        (&at_home, home, "let in as None"),
        (&at_home, mapped, "let in as None"),
        (
            &at_home,
            away,
            "x509: certificate is valid for 127.0.0.1, not 10.1.2.3",
        ),
        (&by_name, home, "let in as None"),
        (
            &by_name,
            away,
            "tls: \"10.1.2.3\" does not match any of DNSNames [\"localhost\"]",
        ),
        (&nameless, away, r#"let in as Some("m3")"#),
    ] {
        let (said, _) = shake(&server, &scene.client(Some(paper)), "localhost", Some(from)).await;
        let said = why(said);
        assert!(said.starts_with(wanted), "{from}: {said}");
    }
    let lenient = tls(&TlsInfo {
        skip_client_san_verify: true,
        ..scene.asking()
    });
    let (said, _) = shake(
        &lenient,
        &scene.client(Some(&at_home)),
        "localhost",
        Some(away),
    )
    .await;
    assert_eq!(why(said), "let in as None");
}

#[tokio::test]
async fn every_file_is_read_again() {
    let scene = scene();
    let client = scene.pki.issue("client", &Wanted::common_name("c"));
    let crl = scene.pki.revoke("crl.der", &[]);
    let server = tls(&TlsInfo {
        crl_file: crl.clone(),
        ..scene.asking()
    });
    let shown = scene.client(Some(&client));
    let said = async || {
        let (said, error) = shake(&server, &shown, "localhost", None).await;
        (why(said), error)
    };
    let good = (r#"let in as Some("c")"#.to_owned(), None);
    assert_eq!(said().await, good);

    // Revoked, then a list that is none, then no longer revoked.
    let _ = scene.pki.revoke("crl.der", &[&client]);
    let (text, error) = said().await;
    assert!(
        text.starts_with("transport: certificate serial ") && text.ends_with(" revoked"),
        "{text}"
    );
    assert_eq!(
        error.as_deref(),
        Some("remote error: tls: revoked certificate")
    );
    std::fs::write(&crl, "nonsense").expect("written");
    assert!(said().await.0.starts_with("x509: malformed crl"));
    std::fs::remove_file(&crl).expect("removed");
    assert!(said().await.0.contains("no such file or directory"));
    let _ = scene.pki.revoke("crl.der", &[]);
    assert_eq!(said().await, good);

    // A new pair; half of one leaves the last in use.
    let _ = scene.pki.issue("server", &Wanted::hosts(&["elsewhere"]));
    let (_, error) = said().await;
    assert_eq!(
        error.as_deref(),
        Some(
            "tls: failed to verify certificate: x509: certificate is valid for elsewhere, not localhost"
        )
    );
    let _ = scene.pki.issue("server", &Wanted::hosts(&["localhost"]));
    assert_eq!(said().await, good);
    std::fs::write(&scene.server.key, "half").expect("written");
    assert_eq!(said().await, good);

    // A new authority: whom the old one vouched for is out, for server and client alike.
    let next = Pki::new(scene.dir.path(), "next");
    let _ = next.issue("server", &Wanted::hosts(&["localhost"]));
    std::fs::copy(next.ca(), scene.pki.ca()).expect("copied");
    let (text, _) = said().await;
    assert!(text.contains("signed by unknown authority"), "{text}");
    let _ = next.issue("client", &Wanted::common_name("c"));
    assert_eq!(said().await, good);
}

#[tokio::test]
async fn a_certificate_that_is_trusted_itself_needs_no_authority() {
    let scene = scene();
    let own = ferrite_tls::self_signed(&scene.dir.path().join("own"), &["localhost".into()], 1)
        .expect("made");
    let server = tls(&own);
    let trusting = TlsInfo {
        trusted_ca_file: own.cert_file.clone(),
        ..TlsInfo::default()
    };
    let (said, error) = shake(&server, &trusting, "localhost", None).await;
    assert_eq!((why(said), error), ("let in as None".into(), None));
    let (_, error) = shake(&server, &trusting, "127.0.0.1", None).await;
    assert_eq!(
        error.as_deref(),
        Some(
            "tls: failed to verify certificate: x509: cannot validate certificate for 127.0.0.1 because it doesn't contain any IP SANs"
        )
    );
}

#[tokio::test]
async fn versions_and_suites_are_kept_to() {
    let scene = scene();
    let old = TlsInfo {
        max_version: Some(Version::Tls12),
        ..scene.client(None)
    };
    let server = tls(&TlsInfo {
        min_version: Some(Version::Tls13),
        ..scene.server()
    });
    let (said, error) = shake(&server, &old, "localhost", None).await;
    assert_eq!(why(said), "tls: client offered only unsupported versions");
    assert_eq!(
        error.as_deref(),
        Some("remote error: tls: protocol version not supported")
    );
    let suites = |name: &str| vec![name.to_owned()];
    let server = tls(&TlsInfo {
        cipher_suites: suites("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"),
        ..scene.server()
    });
    for (name, wanted) in [
        ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", "let in as None"),
        (
            "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
            "tls: no cipher suite supported by both client and server",
        ),
    ] {
        let client = TlsInfo {
            cipher_suites: suites(name),
            ..old.clone()
        };
        let (said, _) = shake(&server, &client, "localhost", None).await;
        assert_eq!(why(said), wanted);
    }
}

#[tokio::test]
async fn what_is_no_handshake_is_named() {
    let scene = scene();
    let server = tls(&scene.server());
    for (bytes, wanted, silent) in [
        (
            &b"GET / HTTP/1.1\r\n\r\n"[..],
            "tls: first record does not look like a TLS handshake",
            false,
        ),
        (b"", "EOF", true),
    ] {
        let (mut ours, theirs) = tokio::io::duplex(1024);
        ours.write_all(bytes).await.expect("room");
        ours.shutdown().await.expect("closed");
        let rejected = server.accept(theirs).await.expect_err("no handshake");
        assert_eq!(
            (rejected.error.as_str(), rejected.is_silent()),
            (wanted, silent)
        );
    }
}

#[test]
fn files_that_cannot_be_are_named_in_the_originals_words() {
    let scene = scene();
    let other = scene.pki.issue("other", &Wanted::hosts(&["x"]));
    let said = |cert: &str, key: &str| {
        let info = TlsInfo {
            cert_file: cert.to_owned(),
            key_file: key.to_owned(),
            ..TlsInfo::default()
        };
        match ServerTls::new(&info, &[]) {
            Ok(_) => String::new(),
            Err(error) => error.to_string(),
        }
    };
    let (cert, key) = (&scene.server.cert, &scene.server.key);
    assert_eq!(said(cert, key), "");
    for (cert, key, wanted) in [
        (
            cert,
            &other.key,
            "tls: private key does not match public key",
        ),
        (
            key,
            key,
            "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the following types: [PRIVATE KEY]",
        ),
        (
            cert,
            cert,
            "tls: found a certificate rather than a key in the PEM for the private key",
        ),
    ] {
        let said = said(cert, key);
        assert!(said.starts_with(wanted), "{said}");
    }
    assert_eq!(
        said("/nowhere/c", key),
        "open /nowhere/c: no such file or directory"
    );
}

#[test]
fn what_others_will_refuse_is_told_beforehand() {
    let scene = scene();
    let peer = |paper: &Paper, ca: String, hosts: &[&str]| {
        let info = TlsInfo {
            cert_file: paper.cert.clone(),
            key_file: paper.key.clone(),
            trusted_ca_file: ca,
            ..TlsInfo::default()
        };
        let used = Use {
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            between_members: true,
        };
        let mut all = examine(&info, &used, UnixTime::now()).expect("a certificate");
        assert_eq!(all.len(), 1);
        all.remove(0)
    };
    let good = peer(&scene.server, scene.pki.ca(), &["localhost", "127.0.0.1"]);
    assert!(good.faults.is_empty(), "{good:?}");
    // It is good for two days.
    assert!(
        good.warnings.len() == 1 && good.warnings[0].starts_with("it expires in "),
        "{good:?}"
    );
    assert_eq!(good.names, ["localhost", "127.0.0.1"]);
    assert!(good.not_before < good.not_after, "{good:?}");
    assert_eq!(good.issuer, "CN=ca");

    let elsewhere = peer(&scene.server, scene.pki.ca(), &["10.0.0.9", "localhost"]);
    assert_eq!(
        elsewhere.faults,
        ["x509: certificate is valid for 127.0.0.1, not 10.0.0.9"]
    );
    let other = Pki::new(scene.dir.path(), "other");
    let stranger = peer(&scene.server, other.ca(), &[]);
    assert!(
        stranger.faults.len() == 1
            && stranger.faults[0].contains("signed by unknown authority: it is not from"),
        "{stranger:?}"
    );
    let old = scene
        .pki
        .issue("old", &Wanted::hosts(&["localhost"]).expired());
    let old = peer(&old, scene.pki.ca(), &[]);
    assert!(
        old.faults.len() == 1 && old.faults[0].contains("has expired or is not yet valid"),
        "{old:?}"
    );
    // Shown to clients only, it is nobody else's business whose signature it bears.
    let used = Use {
        hosts: Vec::new(),
        between_members: false,
    };
    let info = TlsInfo {
        trusted_ca_file: other.ca(),
        ..scene.server()
    };
    let shown = examine(&info, &used, UnixTime::now()).expect("a certificate");
    assert!(shown[0].faults.is_empty(), "{shown:?}");
}

/// What a listening member reads when the dialling one drops its connection, or something between them
/// breaks it.
async fn after_a_word(broken: bool) -> std::io::Result<usize> {
    let scene = scene();
    let server = ServerTls::new(&scene.server(), &[]).expect("a server");
    let client = ClientTls::new(&scene.client(None), &[]).expect("a client");
    let (ours, mut near) = tokio::io::duplex(64 << 10);
    let (mut far, theirs) = tokio::io::duplex(64 << 10);
    let (cut, done) = (tokio::sync::Notify::new(), tokio::sync::Notify::new());
    let between = async {
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
            () = cut.notified() => {}
        }
        drop((near, far));
    };
    let serving = async {
        let accepted = server.accept(theirs).await.expect("accepted");
        let mut stream = MemberStream::from(accepted.stream);
        let mut word = [0; 4];
        stream.read_exact(&mut word).await.expect("a word");
        if broken {
            cut.notify_one();
        } else {
            done.notify_one();
        }
        let read = stream.read(&mut word).await;
        done.notify_one();
        read
    };
    let dialing = async {
        let mut stream = client.connect("localhost", ours).await.expect("connected");
        stream.write_all(b"word").await.expect("written");
        stream.flush().await.expect("flushed");
        done.notified().await;
    };
    tokio::join!(serving, dialing, between).0
}

#[tokio::test]
async fn a_dropped_connection_ends_and_a_broken_one_is_told_in_gos_words() {
    assert_eq!(after_a_word(false).await.expect("an end"), 0);
    let broken = after_a_word(true).await.expect_err("a break");
    assert_eq!(broken.to_string(), "unexpected EOF");
}
