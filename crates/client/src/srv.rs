//! Endpoints from DNS: which hosts serve a service of a domain, by SRV records.
//!
//! It asks the name servers of `/etc/resolv.conf`, or those that `FERRITE_DNS` names, over UDP and,
//! where an answer does not fit, over TCP. What comes back is ordered as RFC 2782 says. It never
//! resolves a host's address: whoever dials does.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use simple_dns::rdata::RData;
use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, RCODE, TYPE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

/// Name servers to ask instead of the system's, with commas between: `127.0.0.1:8600`.
pub const SERVERS_VARIABLE: &str = "FERRITE_DNS";

const RESOLV_CONF: &str = "/etc/resolv.conf";
const DNS_PORT: u16 = 53;
/// What the C library takes where resolv.conf says nothing.
const TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPTS: u32 = 2;
/// More servers or search domains than these are ignored, as by the C library.
const SERVERS_MAX: usize = 3;
const SEARCH_MAX: usize = 6;
/// An answer over UDP; a server cuts a longer one and says so.
const DATAGRAM_BYTES: usize = 4096;

/// One host of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The host, with the dot at its end.
    pub target: String,
    /// Where it listens.
    pub port: u16,
    /// The lower, the sooner it is to be tried.
    pub priority: u16,
    /// Its share among those of the same priority.
    pub weight: u16,
}

/// Why there is no answer, in Go's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lookup {name} on {server}: {reason}")]
pub struct LookupError {
    name: String,
    server: String,
    reason: String,
}

/// Where and how to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Resolver {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    ndots: usize,
    timeout: Duration,
    attempts: u32,
}

impl Resolver {
    fn of_the_system() -> Self {
        let text = std::fs::read_to_string(RESOLV_CONF).unwrap_or_default();
        let mut resolver = Self::parse(&text);
        if let Ok(given) = std::env::var(SERVERS_VARIABLE) {
            let servers: Vec<SocketAddr> = given.split(',').filter_map(server).collect();
            if !servers.is_empty() {
                resolver.servers = servers;
            }
        }
        resolver
    }

    fn parse(text: &str) -> Self {
        let mut found = Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: TIMEOUT,
            attempts: ATTEMPTS,
        };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => found.servers.extend(words.next().and_then(server)),
                Some("domain" | "search") => {
                    found.search = words.take(SEARCH_MAX).map(str::to_owned).collect();
                }
                Some("options") => {
                    for option in words {
                        let Some((name, value)) = option.split_once(':') else {
                            continue;
                        };
                        let Ok(value) = value.parse::<u32>() else {
                            continue;
                        };
                        match name {
                            "ndots" => found.ndots = value.min(15) as usize,
                            "timeout" => {
                                found.timeout = Duration::from_secs(value.clamp(1, 30).into());
                            }
                            "attempts" => found.attempts = value.clamp(1, 5),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        found.servers.truncate(SERVERS_MAX);
        if found.servers.is_empty() {
            found.servers = vec![SocketAddr::from(([127, 0, 0, 1], DNS_PORT))];
        }
        found
    }

    /// The names to ask for, the likeliest first.
    fn names(&self, name: &str) -> Vec<String> {
        if name.ends_with('.') {
            return vec![name.trim_end_matches('.').to_owned()];
        }
        let searched = self
            .search
            .iter()
            .map(|domain| format!("{name}.{}", domain.trim_matches('.')));
        let mut names: Vec<String> = searched.collect();
        if name.matches('.').count() >= self.ndots {
            names.insert(0, name.to_owned());
        } else {
            names.push(name.to_owned());
        }
        names
    }

    async fn lookup(&self, service: &str, domain: &str) -> Result<Vec<Record>, LookupError> {
        let asked = format!("_{service}._tcp.{domain}");
        let mut first = None;
        for name in self.names(&asked) {
            match self.ask(&name).await {
                Ok(records) => return Ok(order(records)),
                Err((server, reason)) => {
                    first.get_or_insert(LookupError {
                        name: asked.clone(),
                        server: server.to_string(),
                        reason,
                    });
                }
            }
        }
        Err(first.unwrap_or_else(|| LookupError {
            name: asked,
            server: String::new(),
            reason: "no such host".to_owned(),
        }))
    }

    async fn ask(&self, name: &str) -> Result<Vec<Record>, (SocketAddr, String)> {
        let mut failure = None;
        for _ in 0..self.attempts {
            for server in &self.servers {
                let answer = tokio::time::timeout(self.timeout, exchange(*server, name)).await;
                match answer.unwrap_or_else(|_| Err("i/o timeout".to_owned())) {
                    Ok(Some(records)) => return Ok(records),
                    // It is certain that there are none: another server would say the same.
                    Ok(None) => return Err((*server, "no such host".to_owned())),
                    Err(reason) => failure = Some((*server, reason)),
                }
            }
        }
        Err(failure.unwrap_or((
            SocketAddr::from(([127, 0, 0, 1], DNS_PORT)),
            "no such host".to_owned(),
        )))
    }
}

/// An address of a name server, with its port or without.
fn server(text: &str) -> Option<SocketAddr> {
    let text = text.trim();
    let address = text.parse::<SocketAddr>();
    address
        .or_else(|_| text.parse().map(|ip: IpAddr| (ip, DNS_PORT).into()))
        .ok()
}

/// One question and its answer; `None` if the name or its records do not exist.
async fn exchange(server: SocketAddr, name: &str) -> Result<Option<Vec<Record>>, String> {
    let id = getrandom::u32().map_err(|e| e.to_string())?.to_le_bytes();
    let id = u16::from_le_bytes([id[0], id[1]]);
    let question = Name::new(name).map_err(|e| format!("{name:?} is no domain name: {e}"))?;
    let mut query = Packet::new_query(id);
    query.set_flags(PacketFlag::RECURSION_DESIRED);
    query.questions.push(Question::new(
        question,
        TYPE::SRV.into(),
        CLASS::IN.into(),
        false,
    ));
    let query = query.build_bytes_vec().map_err(|e| e.to_string())?;
    let bytes = over_udp(server, &query, id).await?;
    let bytes = match Packet::parse(&bytes) {
        Ok(reply) if reply.has_flags(PacketFlag::TRUNCATION) => over_tcp(server, &query).await?,
        _ => bytes,
    };
    let reply = Packet::parse(&bytes).map_err(|_| "cannot unmarshal DNS message".to_owned())?;
    if reply.id() != id {
        return Err("cannot unmarshal DNS message".to_owned());
    }
    match reply.rcode() {
        RCODE::NoError => {}
        RCODE::NameError => return Ok(None),
        RCODE::ServerFailure => return Err("server misbehaving".to_owned()),
        other => return Err(format!("server misbehaving ({other:?})")),
    }
    let records: Vec<Record> = reply
        .answers
        .iter()
        .filter_map(|answer| match &answer.rdata {
            RData::SRV(srv) => Some(Record {
                target: format!("{}.", srv.target),
                port: srv.port,
                priority: srv.priority,
                weight: srv.weight,
            }),
            _ => None,
        })
        .collect();
    Ok((!records.is_empty()).then_some(records))
}

async fn over_udp(server: SocketAddr, query: &[u8], id: u16) -> Result<Vec<u8>, String> {
    let local: SocketAddr = match server {
        SocketAddr::V4(_) => ([0, 0, 0, 0], 0).into(),
        SocketAddr::V6(_) => ([0u16; 8], 0).into(),
    };
    let text = |e: std::io::Error| e.to_string();
    let socket = UdpSocket::bind(local).await.map_err(text)?;
    // A connected socket takes nothing from anybody else.
    socket.connect(server).await.map_err(text)?;
    socket.send(query).await.map_err(text)?;
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        let size = socket.recv(&mut buffer).await.map_err(text)?;
        // A late answer to an earlier question is not this one's.
        if buffer.get(..2) == Some(&id.to_be_bytes()) {
            buffer.truncate(size);
            return Ok(buffer);
        }
    }
}

async fn over_tcp(server: SocketAddr, query: &[u8]) -> Result<Vec<u8>, String> {
    let text = |e: std::io::Error| e.to_string();
    let mut stream = TcpStream::connect(server).await.map_err(text)?;
    let length = u16::try_from(query.len()).map_err(|e| e.to_string())?;
    let message = [&length.to_be_bytes()[..], query].concat();
    stream.write_all(&message).await.map_err(text)?;
    let length = stream.read_u16().await.map_err(text)?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await.map_err(text)?;
    Ok(answer)
}

/// By priority; among equals by chance, heavier ones more often first.
fn order(mut records: Vec<Record>) -> Vec<Record> {
    records.sort_by_key(|r| (r.priority, r.weight));
    let mut ordered = Vec::with_capacity(records.len());
    while let Some(priority) = records.first().map(|r| r.priority) {
        let equals = records.iter().filter(|r| r.priority == priority);
        let weights: Vec<u64> = equals.map(|r| u64::from(r.weight)).collect();
        let total: u64 = weights.iter().sum();
        // Without randomness the order is as good as any.
        let dice = getrandom::u64().unwrap_or(0) % (total + 1);
        let mut sum = 0;
        let at = weights.iter().position(|weight| {
            sum += weight;
            sum >= dice
        });
        ordered.push(records.remove(at.unwrap_or(0)));
    }
    ordered
}

/// The name of a service: `etcd-client`, with `-ssl` and a suffix where asked for.
#[must_use]
pub fn service_name(service: &str, suffix: &str, tls: bool) -> String {
    let mut name = service.to_owned();
    if tls {
        name.push_str("-ssl");
    }
    if !suffix.is_empty() {
        name.push('-');
        name.push_str(suffix);
    }
    name
}

/// The hosts of a service, in the order in which to try them.
///
/// # Errors
/// No name server answers, or there is no such service.
pub async fn lookup(service: &str, domain: &str) -> Result<Vec<Record>, LookupError> {
    Resolver::of_the_system().lookup(service, domain).await
}

/// The URLs at which a domain serves etcd's clients: encrypted ones first.
///
/// # Errors
/// Neither kind is there; both lookups in words.
pub async fn client_endpoints(domain: &str, suffix: &str) -> Result<Vec<String>, String> {
    let found = client_records(domain, suffix).await?;
    Ok(found.into_iter().map(|(url, _)| url).collect())
}

/// As [`client_endpoints`], each with its record.
///
/// # Errors
/// As [`client_endpoints`].
pub async fn client_records(domain: &str, suffix: &str) -> Result<Vec<(String, Record)>, String> {
    let resolver = Resolver::of_the_system();
    let (tls, plain) = (
        service_name("etcd-client", suffix, true),
        service_name("etcd-client", suffix, false),
    );
    let (tls, plain) = (
        resolver.lookup(&tls, domain).await,
        resolver.lookup(&plain, domain).await,
    );
    if let (Err(tls), Err(plain)) = (&tls, &plain) {
        return Err(format!("dns lookup errors: {tls} and {plain}"));
    }
    let mut found = Vec::new();
    for (scheme, records) in [("https", tls), ("http", plain)] {
        for record in records.unwrap_or_default() {
            let url = format!("{scheme}://{}:{}", record.target, record.port);
            found.push((url, record));
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_says_whom_to_ask_and_for_what() {
        let text = "# comment\nnameserver 10.0.0.1\nnameserver fe80::1\nnameserver bad\n\
                    search a.example b.example\noptions ndots:3 timeout:1 attempts:4 rotate\n";
        let resolver = Resolver::parse(text);
        assert_eq!(
            resolver.servers,
            [
                "10.0.0.1:53".parse().unwrap(),
                "[fe80::1]:53".parse().unwrap()
            ]
        );
        assert_eq!(resolver.timeout, Duration::from_secs(1));
        assert_eq!(resolver.attempts, 4);
        assert_eq!(
            resolver.names("_x._tcp.y"),
            ["_x._tcp.y.a.example", "_x._tcp.y.b.example", "_x._tcp.y"]
        );
        assert_eq!(resolver.names("_x._tcp.y.z")[0], "_x._tcp.y.z");
        assert_eq!(resolver.names("_x._tcp.y."), ["_x._tcp.y"]);
        assert_eq!(
            Resolver::parse("").servers,
            ["127.0.0.1:53".parse().unwrap()]
        );
    }

    #[test]
    fn lower_priorities_come_first_and_heavier_ones_more_often() {
        let record = |target: &str, priority, weight| Record {
            target: target.to_owned(),
            port: 1,
            priority,
            weight,
        };
        let all = vec![
            record("late.", 20, 100),
            record("light.", 10, 1),
            record("heavy.", 10, 1000),
        ];
        let mut heavy_first = 0;
        for _ in 0..200 {
            let ordered = order(all.clone());
            assert_eq!(ordered.len(), 3);
            assert_eq!(ordered[2].target, "late.");
            heavy_first += usize::from(ordered[0].target == "heavy.");
        }
        assert!(heavy_first > 150, "{heavy_first} of 200");
    }

    #[test]
    fn services_are_named_as_etcd_names_them() {
        assert_eq!(service_name("etcd-client", "", true), "etcd-client-ssl");
        assert_eq!(service_name("etcd-client", "x", true), "etcd-client-ssl-x");
        assert_eq!(service_name("etcd-client", "x", false), "etcd-client-x");
    }
}
