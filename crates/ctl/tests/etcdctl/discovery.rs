//! `--discovery-srv`: members found by SRV records, from a name server of our own.

use std::path::Path;

use ferrite_testkit::NameServer;

use crate::common::{cluster_of, free_port, oracle, ours, run, servers};

fn ctl(server: &NameServer, args: &[&str]) -> crate::common::Run {
    run(&ours(), &[("FERRITE_DNS", server.address())], args, b"")
}

#[test]
fn members_are_found_by_srv_records() {
    let Some(dir) = oracle() else { return };
    let server = servers(&dir).pop().unwrap();
    found_by(&server);
}

fn found_by(etcd: &Path) {
    let (_data, members) = cluster_of(etcd, 1, &[]);
    let port = members[0].endpoint.rsplit(':').next().unwrap();
    let port: u16 = port.parse().unwrap();
    for cut in [false, true] {
        let server = NameServer::start(
            &[
                ("_etcd-client._tcp.a.test.", &[("localhost", port)]),
                (
                    "_etcd-client-blue._tcp.a.test.",
                    &[("localhost", free_port()), ("localhost", port)],
                ),
            ],
            cut,
        );
        let put = ctl(&server, &["--discovery-srv=a.test", "put", "k", "v"]);
        assert_eq!((put.code, &put.stdout[..]), (Some(0), "OK\n"), "{put:?}");
        // One of two is down; the other is found by its service's name.
        let blue = ["-d", "a.test", "--discovery-srv-name=blue", "get", "k"];
        assert_eq!(ctl(&server, &blue).stdout, "k\nv\n");
        let cluster = ["-d", "a.test", "endpoint", "health", "--cluster"];
        let health = ctl(&server, &cluster);
        assert!(health.stdout.contains("is healthy"), "{health:?}");
        let run = run(
            &ours(),
            &[("FERRITE_DNS", server.address()), ("ETCDCTL_API", "2")],
            &["--discovery-srv", "a.test", "member", "list"],
            b"",
        );
        assert!(run.stdout.contains("isLeader=true"), "{run:?}");
    }
}

#[test]
fn what_dns_does_not_know_is_said() {
    let server = NameServer::start(&[("_etcd-client._tcp.a.test.", &[("localhost", 1)])], false);
    let none = ctl(&server, &["-d", "b.test", "get", "k"]);
    let lookup = |service: &str| {
        format!(
            "lookup _{service}._tcp.b.test on {}: no such host",
            server.address()
        )
    };
    assert_eq!(
        (none.code, none.stderr),
        (
            Some(1),
            format!(
                "Error: dns lookup errors: {} and {}\n",
                lookup("etcd-client-ssl"),
                lookup("etcd-client")
            )
        )
    );
    // Without trust in DNS only encrypted members count, and --endpoints is what is left.
    let left = free_port();
    let endpoint = format!("127.0.0.1:{left}");
    let strict = ctl(
        &server,
        &[
            "-d",
            "a.test",
            "--insecure-discovery=false",
            "--command-timeout=300ms",
            "--endpoints",
            &endpoint,
            "get",
            "k",
        ],
    );
    assert_eq!(
        (strict.code, &strict.stderr[..]),
        (
            Some(1),
            "ignoring discovered insecure endpoint \"http://localhost.:1\"\nError: context deadline exceeded\n"
        )
    );
    assert!(strict.logs.contains(&endpoint), "{strict:?}");
}
