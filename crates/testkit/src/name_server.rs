//! A name server that knows a few SRV records and nothing else, over UDP and TCP.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};

use crate::Ports;

/// Hosts and ports by the name asked for, in small letters and with a dot at its end.
type Records = Vec<(String, Vec<(String, u16)>)>;

/// A name server on loopback; its threads end with the test.
#[derive(Debug)]
pub struct NameServer {
    address: String,
    records: Arc<Mutex<Records>>,
    _port: Ports,
}

impl NameServer {
    /// Knows these records. With `cut`, it only says over UDP that its answers are too long for that.
    ///
    /// # Panics
    /// If there is no port for it.
    #[must_use]
    pub fn start(records: &[(&str, &[(&str, u16)])], cut: bool) -> Self {
        let mut ports = Ports::default();
        let address = SocketAddr::from(([127, 0, 0, 1], ports.take()));
        let udp = UdpSocket::bind(address).expect("a port for UDP");
        let tcp = TcpListener::bind(address).expect("a port for TCP");
        let server = Self {
            address: address.to_string(),
            records: Arc::default(),
            _port: ports,
        };
        for (name, hosts) in records {
            server.list(name, hosts);
        }
        let known = Arc::clone(&server.records);
        std::thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                // Whoever asks and goes away is none of ours.
                let _ = over_tcp(stream, &known);
            }
        });
        let known = Arc::clone(&server.records);
        std::thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((size, from)) = udp.recv_from(&mut query) {
                let reply = answer(&query[..size], &known, cut);
                let _ = udp.send_to(&reply, from);
            }
        });
        server
    }

    /// Where it is asked.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// From now on this name has these hosts.
    pub fn list(&self, name: &str, hosts: &[(&str, u16)]) {
        let hosts = hosts.iter().map(|(host, port)| ((*host).to_owned(), *port));
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.retain(|(known, _)| known != name);
        records.push((name.to_owned(), hosts.collect()));
    }
}

fn over_tcp(mut stream: TcpStream, records: &Mutex<Records>) -> std::io::Result<()> {
    let mut length = [0; 2];
    stream.read_exact(&mut length)?;
    let mut query = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut query)?;
    let reply = answer(&query, records, false);
    let length = u16::try_from(reply.len()).expect("a short answer");
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(&reply)
}

/// The name asked for, and where the question ends.
fn question(query: &[u8]) -> (String, usize) {
    let (mut name, mut at) = (String::new(), 12);
    while query[at] != 0 {
        let size = usize::from(query[at]);
        name.push_str(std::str::from_utf8(&query[at + 1..=at + size]).expect("a plain name"));
        name.push('.');
        at += 1 + size;
    }
    (name.to_lowercase(), at + 5)
}

/// RFC 1035 and 2782 by hand.
fn answer(query: &[u8], records: &Mutex<Records>, cut: bool) -> Vec<u8> {
    let (name, end) = question(query);
    assert_eq!(query[end - 4..end], [0, 33, 0, 1], "SRV, IN");
    let records = records.lock().unwrap_or_else(PoisonError::into_inner);
    let found = records.iter().find(|(known, _)| *known == name);
    let hosts = found.map_or(&[][..], |(_, hosts)| hosts);
    let code = if found.is_some() { 0 } else { 3 };
    let listed = if cut { &[][..] } else { hosts };
    let mut reply = query[..2].to_vec();
    reply.extend([0x81 | if cut { 2 } else { 0 }, 0x80 | code]);
    let count = u8::try_from(listed.len()).expect("a few hosts");
    reply.extend([0, 1, 0, count, 0, 0, 0, 0]);
    reply.extend(&query[12..end]);
    for (host, port) in listed {
        let mut data = vec![0, 10, 0, 1];
        data.extend(port.to_be_bytes());
        for label in host.split('.') {
            data.push(u8::try_from(label.len()).expect("a short label"));
            data.extend(label.as_bytes());
        }
        data.push(0);
        // The name is the question's.
        reply.extend([0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 60]);
        let length = u16::try_from(data.len()).expect("a short record");
        reply.extend(length.to_be_bytes());
        reply.extend(data);
    }
    reply
}
