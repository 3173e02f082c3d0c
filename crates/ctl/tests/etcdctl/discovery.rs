//! `--discovery-srv`: members found by SRV records, from a name server of our own.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use ferrite_testkit::Ports;

use crate::common::{cluster_of, free_port, oracle, ours, run, servers};

/// A name server that knows a few SRV records and nothing else, over UDP and TCP. Over UDP it only says
/// that its answers are too long where asked to. It ends with the test.
struct NameServer {
    address: String,
    _port: Ports,
}

/// Hosts and ports by the name asked for, in small letters.
type Records = Vec<(&'static str, Vec<(&'static str, u16)>)>;

impl NameServer {
    fn start(records: Records, cut: bool) -> Self {
        let mut ports = Ports::default();
        let address = SocketAddr::from(([127, 0, 0, 1], ports.take()));
        let udp = UdpSocket::bind(address).unwrap();
        let tcp = TcpListener::bind(address).unwrap();
        let over_tcp = records.clone();
        std::thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                let mut length = [0; 2];
                stream.read_exact(&mut length).unwrap();
                let mut query = vec![0; u16::from_be_bytes(length).into()];
                stream.read_exact(&mut query).unwrap();
                let reply = answer(&query, &over_tcp, false);
                let length = u16::try_from(reply.len()).unwrap();
                stream.write_all(&length.to_be_bytes()).unwrap();
                stream.write_all(&reply).unwrap();
            }
        });
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((size, from)) = udp.recv_from(&mut query) {
                let reply = answer(&query[..size], &records, cut);
                udp.send_to(&reply, from).unwrap();
            }
        });
        Self {
            address: address.to_string(),
            _port: ports,
        }
    }
}

/// The name asked for, and where the question ends.
fn question(query: &[u8]) -> (String, usize) {
    let (mut name, mut at) = (String::new(), 12);
    while query[at] != 0 {
        let size = usize::from(query[at]);
        name.push_str(std::str::from_utf8(&query[at + 1..=at + size]).unwrap());
        name.push('.');
        at += 1 + size;
    }
    (name.to_lowercase(), at + 5)
}

/// RFC 1035 and 2782 by hand.
fn answer(query: &[u8], records: &Records, cut: bool) -> Vec<u8> {
    let (name, end) = question(query);
    assert_eq!(query[end - 4..end], [0, 33, 0, 1], "SRV, IN");
    let found = records.iter().find(|(known, _)| *known == name);
    let hosts = found.map_or(&[][..], |(_, hosts)| hosts);
    let code = if found.is_some() { 0 } else { 3 };
    let listed = if cut { &[][..] } else { hosts };
    let mut reply = query[..2].to_vec();
    reply.extend([0x81 | if cut { 2 } else { 0 }, 0x80 | code]);
    reply.extend([0, 1, 0, u8::try_from(listed.len()).unwrap(), 0, 0, 0, 0]);
    reply.extend(&query[12..end]);
    for (host, port) in listed {
        let mut data = vec![0, 10, 0, 1];
        data.extend(port.to_be_bytes());
        for label in host.split('.') {
            data.push(u8::try_from(label.len()).unwrap());
            data.extend(label.as_bytes());
        }
        data.push(0);
        // The name is the question's.
        reply.extend([0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60]);
        reply.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
        reply.extend(data);
    }
    reply
}

fn ctl(server: &NameServer, args: &[&str]) -> crate::common::Run {
    run(&ours(), &[("FERRITE_DNS", &server.address)], args, b"")
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
            vec![
                ("_etcd-client._tcp.a.test.", vec![("localhost", port)]),
                (
                    "_etcd-client-blue._tcp.a.test.",
                    vec![("localhost", free_port()), ("localhost", port)],
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
            &[("FERRITE_DNS", &server.address), ("ETCDCTL_API", "2")],
            &["--discovery-srv", "a.test", "member", "list"],
            b"",
        );
        assert!(run.stdout.contains("isLeader=true"), "{run:?}");
    }
}

#[test]
fn what_dns_does_not_know_is_said() {
    let server = NameServer::start(
        vec![("_etcd-client._tcp.a.test.", vec![("localhost", 1)])],
        false,
    );
    let none = ctl(&server, &["-d", "b.test", "get", "k"]);
    let lookup = |service: &str| {
        format!(
            "lookup _{service}._tcp.b.test on {}: no such host",
            server.address
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
