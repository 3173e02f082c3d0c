//! The version-2 face, for documents and scripts written when `ETCDCTL_API=2` was the default:
//! `member …` and `cluster-health` as they were printed then, asked over the version-3 API. Any
//! other version-2 command is answered with the version-3 one to use.

mod changes;

use std::sync::Arc;
use std::time::Duration;

use ferrite_client::tls::{ClientTls, TlsInfo};
use ferrite_client::{Client, Config, describe, pb, srv};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use crate::cmd::{self, endpoint::is_denied};
use crate::exit::{self, Failure};
use crate::gofmt::parse_duration;
use crate::report;

const DEFAULT_ENDPOINTS: &str = "http://127.0.0.1:2379,http://127.0.0.1:4001";
/// How often to look again while an election runs.
const POLL: Duration = Duration::from_millis(100);
/// Pause of `cluster-health --forever`.
const FOREVER_PAUSE: Duration = Duration::from_secs(10);
/// `cluster-health` found something wrong.
const NOT_HEALTHY: u8 = 5;
/// No member could be asked.
const SERVER_ERROR: u8 = 4;

const HELP: &str = "\
etcdctl - the command line client of etcd, by Ferrite (version-2 face: ETCDCTL_API=2)

Usage:
  etcdctl [global options] command

Commands
  member list                     Lists the members and says which one leads
  member add <name> <peerURL>     Adds a member
  member remove <ID>              Removes a member
  member update <ID> <peerURLs>   Changes a member's peer URLs
  cluster-health                  Checks every member

Everything else is done with the version-3 commands: set ETCDCTL_API=3 and see \"etcdctl help\".

Global options
  --endpoints value       addresses of the members, with commas between
                          (default \"http://127.0.0.1:2379,http://127.0.0.1:4001\")
  --endpoint, --peers, -C older names of --endpoints
  --timeout value         time limit of one request (default 2s)
  --total-timeout value   time limit of the command (default 5s)
  --username, -u value    user:password to authenticate with
  --output, -o value      accepted; the output is always the simple one
  --discovery-srv, -D     domain whose SRV records name the members
  --no-sync, --debug, --insecure-discovery   accepted
  --cert-file value       file with this client's TLS certificate
  --key-file value        file with the key of that certificate
  --ca-file value         file with the authorities that servers' certificates are checked against
  --help, -h   --version, -v
";

/// The global flags.
struct Options {
    endpoints: Vec<String>,
    /// A domain whose SRV records name the endpoints; then those above are not used.
    discovery: Option<String>,
    timeout: Duration,
    total_timeout: Duration,
    username: Option<String>,
    tls: Option<Arc<ClientTls>>,
}

enum Start {
    Help,
    Version,
    Command(Options, Vec<String>),
}

/// Runs a version-2 command line.
pub async fn run(arguments: &[Vec<u8>]) -> Result<(), Failure> {
    let arguments: Vec<String> = arguments.iter().map(|a| cmd::text(a)).collect();
    let (options, words) = match parse(&arguments)? {
        Start::Help => {
            report::out(HELP.as_bytes());
            return Ok(());
        }
        Start::Version => {
            report::out(crate::version().as_bytes());
            return Ok(());
        }
        Start::Command(options, words) => (options, words),
    };
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [] | ["help" | "h" | "--help" | "-h", ..] | ["member", "--help" | "-h", ..] => {
            report::out(HELP.as_bytes());
            Ok(())
        }
        ["version"] => {
            report::out(crate::version().as_bytes());
            Ok(())
        }
        ["member", "list"] => member_list(&options).await,
        ["member", "add", ref rest @ ..] => changes::add(&options, rest).await,
        ["member", "remove", ref rest @ ..] => changes::remove(&options, rest).await,
        ["member", "update", ref rest @ ..] => changes::update(&options, rest).await,
        ["member", "list", ..] => Err(Failure::new(exit::ERROR, "No arguments accepted")),
        ["cluster-health"] => cluster_health(&options, false).await,
        ["cluster-health", "--forever" | "-forever" | "-f" | "--f"] => {
            cluster_health(&options, true).await
        }
        ["cluster-health", ..] => Err(Failure::new(
            exit::ERROR,
            "cluster-health takes no arguments but --forever",
        )),
        [command, ref rest @ ..] => Err(pointer(command, rest.first().copied())),
    }
}

/// The version-3 command for a version-2 one.
fn pointer(command: &str, next: Option<&str>) -> Failure {
    let use_v3 = |instead: &str| {
        Failure::new(
            exit::ERROR,
            format!(
                "\"{command}\" belongs to version 2 of the API, which is gone: use \"ETCDCTL_API=3 etcdctl {instead}\""
            ),
        )
    };
    match (command, next) {
        ("set" | "update", _) => use_v3("put <key> <value>"),
        ("mk", _) => {
            use_v3("txn\", or to overwrite what is there \"ETCDCTL_API=3 etcdctl put <key> <value>")
        }
        ("mkdir" | "setdir" | "updatedir", _) => use_v3("put <dir>/<key> <value>"),
        ("rmdir", _) => use_v3("del --prefix <dir>/"),
        ("ls", _) => use_v3("get --prefix --keys-only <dir>"),
        ("get", _) => use_v3("get <key>"),
        ("rm", _) => use_v3("del <key>"),
        ("watch" | "exec-watch", _) => use_v3("watch <key>"),
        ("backup", _) => use_v3("snapshot save <file>"),
        ("user" | "role" | "auth", _) => use_v3(&format!("{command} …")),
        ("member", _) => Failure::new(
            exit::ERROR,
            "ETCDCTL_API=2 has \"member list\", \"add\", \"remove\" and \"update\"; for promote set ETCDCTL_API=3",
        ),
        _ => {
            let known = crate::commands::find(&crate::commands::COMMANDS, command);
            let message = match known {
                Some(v3) => format!(
                    "ETCDCTL_API=2 is set, and \"{0}\" is a version-3 command: use \"ETCDCTL_API=3 etcdctl {0} …\"",
                    v3.name
                ),
                None => format!(
                    "no command \"{command}\"; ETCDCTL_API=2 has \"member\" and \"cluster-health\", ETCDCTL_API=3 all others"
                ),
            };
            Failure::new(exit::ERROR, message)
        }
    }
}

/// Reads global flags, up to the command; one dash or two make no difference.
fn parse(arguments: &[String]) -> Result<Start, Failure> {
    let mut given: Vec<(String, String)> = Vec::new();
    let mut rest = arguments.iter();
    let mut words: Vec<String> = Vec::new();
    while let Some(argument) = rest.next() {
        if argument == "--" {
            words.extend(rest.cloned());
            break;
        }
        let Some(name) = argument.strip_prefix('-').filter(|n| !n.is_empty()) else {
            words.push(argument.clone());
            words.extend(rest.cloned());
            break;
        };
        let name = name.strip_prefix('-').unwrap_or(name);
        let (name, value) = match name.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (name, None),
        };
        match name {
            "help" | "h" => return Ok(Start::Help),
            "version" | "v" => return Ok(Start::Version),
            "debug" | "no-sync" | "insecure-discovery" => {}
            "endpoints" | "endpoint" | "peers" | "C" | "timeout" | "total-timeout" | "output"
            | "o" | "discovery-srv" | "D" | "cert-file" | "key-file" | "ca-file" | "username"
            | "u" => {
                let value = value.or_else(|| rest.next().cloned()).ok_or_else(|| {
                    Failure::new(exit::ERROR, format!("flag needs an argument: -{name}"))
                })?;
                let name = match name {
                    "C" | "peers" | "endpoint" => "endpoints",
                    "u" => "username",
                    "D" => "discovery-srv",
                    name => name,
                };
                given.push((name.to_owned(), value));
            }
            name => {
                return Err(Failure::new(
                    exit::ERROR,
                    format!("flag provided but not defined: -{name}"),
                ));
            }
        }
    }
    let value = |name: &str| {
        let found = given.iter().rev().find(|(n, v)| n == name && !v.is_empty());
        found.map(|(_, value)| value.clone())
    };
    let limit = |name: &str, default: Duration| match value(name) {
        None => Ok(default),
        Some(text) => parse_duration(&text).map_err(|e| {
            Failure::new(
                exit::ERROR,
                format!("invalid value \"{text}\" for flag -{name}: {e}"),
            )
        }),
    };
    let environment = || {
        ["ETCDCTL_ENDPOINTS", "ETCDCTL_ENDPOINT", "ETCDCTL_PEERS"]
            .iter()
            .filter_map(|name| std::env::var(name).ok())
            .find(|value| !value.is_empty())
    };
    let endpoints = value("endpoints")
        .or_else(environment)
        .unwrap_or_else(|| DEFAULT_ENDPOINTS.to_owned());
    let file = |what: &str| {
        let variable = format!("ETCDCTL_{}_FILE", what.to_uppercase());
        value(&format!("{what}-file"))
            .or_else(|| std::env::var(variable).ok())
            .unwrap_or_default()
    };
    let options = Options {
        endpoints: endpoints
            .split(',')
            .map(str::trim)
            .filter(|e| !e.is_empty())
            .map(str::to_owned)
            .collect(),
        discovery: value("discovery-srv"),
        timeout: limit("timeout", Duration::from_secs(2))?,
        total_timeout: limit("total-timeout", Duration::from_secs(5))?,
        username: value("username"),
        tls: tls(&file("cert"), &file("key"), &file("ca"))?,
    };
    Ok(Start::Command(options, words))
}

/// How to encrypt connections to `https://` endpoints, if the flags say anything about it.
fn tls(cert: &str, key: &str, authorities: &str) -> Result<Option<Arc<ClientTls>>, Failure> {
    let info = TlsInfo {
        cert_file: cert.to_owned(),
        key_file: key.to_owned(),
        trusted_ca_file: authorities.to_owned(),
        ..TlsInfo::default()
    };
    if info == TlsInfo::default() {
        return Ok(None);
    }
    match ClientTls::new(&info, &["h2"]) {
        Ok(tls) => Ok(Some(Arc::new(tls))),
        Err(error) => Err(Failure::new(exit::ERROR, error.to_string())),
    }
}

/// The first member that answers at all. A stopped or a hanging one delays nobody.
async fn connect(options: &Options) -> Result<Client, Failure> {
    let endpoints = match &options.discovery {
        None => options.endpoints.clone(),
        Some(domain) => srv::client_endpoints(domain, "")
            .await
            .map_err(|error| Failure::new(exit::ERROR, error))?,
    };
    let mut attempts = JoinSet::new();
    for (index, endpoint) in endpoints.iter().enumerate() {
        let mut config = Config::new([endpoint.clone()]);
        config.dial_timeout = options.timeout;
        config.call_timeout = Some(options.total_timeout);
        config.tls.clone_from(&options.tls);
        attempts.spawn(async move { (index, Client::connect(config).await) });
    }
    let mut errors = Vec::new();
    while let Some(attempt) = attempts.join_next().await {
        match attempt {
            Ok((_, Ok(client))) => {
                log_in(options, &client).await?;
                return Ok(client);
            }
            Ok((index, Err(error))) => errors.push((index, error.to_string())),
            Err(error) => errors.push((usize::MAX, error.to_string())),
        }
    }
    errors.sort();
    let errors: Vec<String> = errors
        .iter()
        .enumerate()
        .map(|(number, (_, error))| format!("; error #{number}: {error}"))
        .collect();
    Err(Failure::new(
        exit::BAD_CONNECTION,
        format!(
            " client: etcd cluster is unavailable or misconfigured{}",
            errors.join("")
        ),
    ))
}

async fn log_in(options: &Options, client: &Client) -> Result<(), Failure> {
    let Some((name, password)) = options.username.as_deref().and_then(|u| u.split_once(':')) else {
        return Ok(());
    };
    match client.authenticate(name, password).await {
        Ok(()) => Ok(()),
        Err(status) if status.message() == "etcdserver: authentication is not enabled" => Ok(()),
        Err(status) => Err(Failure::new(exit::BAD_CONNECTION, describe(&status))),
    }
}

/// The members, by ID, and who leads (0 if nobody is known to).
struct Members {
    list: Vec<pb::Member>,
    leader: u64,
}

/// Asks one member through a quorum, so that during an election it waits for the leader; if there is
/// none within the time limit, what that member knows by itself must do.
async fn members(options: &Options, client: &Client) -> Result<Members, Failure> {
    let give_up = Instant::now() + options.total_timeout;
    let through_quorum = async {
        loop {
            let request = pb::MemberListRequest { linearizable: true };
            let list = client.cluster().member_list(request).await;
            let list = list.ok()?.into_inner().members;
            let leader = leader(client).await.unwrap_or(0);
            if list.iter().any(|m| m.id == leader) {
                return Some(Members { list, leader });
            }
            sleep(POLL).await;
        }
    };
    let found = match tokio::time::timeout_at(give_up, through_quorum).await {
        Ok(Some(members)) => members,
        Ok(None) | Err(_) => {
            let request = pb::MemberListRequest {
                linearizable: false,
            };
            let list = timeout(options.timeout, client.cluster().member_list(request)).await;
            let list = match list {
                Ok(Ok(list)) => list.into_inner().members,
                Ok(Err(status)) => return Err(Failure::new(exit::ERROR, describe(&status))),
                Err(_) => return Err(Failure::new(exit::ERROR, "context deadline exceeded")),
            };
            let leader = timeout(options.timeout, leader(client)).await;
            Members {
                list,
                leader: leader.ok().flatten().unwrap_or(0),
            }
        }
    };
    let mut found = found;
    found.list.sort_by_key(|m| m.id);
    Ok(found)
}

async fn leader(client: &Client) -> Option<u64> {
    let status = client.maintenance().status(pb::StatusRequest {}).await;
    Some(status.ok()?.into_inner().leader)
}

async fn member_list(options: &Options) -> Result<(), Failure> {
    let client = connect(options).await?;
    let members = members(options, &client).await?;
    let mut out = String::new();
    for m in &members.list {
        out.push_str(&member_line(m, members.leader));
    }
    report::out(out.as_bytes());
    Ok(())
}

fn member_line(m: &pb::Member, leader: u64) -> String {
    let peers = m.peer_urls.join(",");
    if m.name.is_empty() {
        return format!("{:x}[unstarted]: peerURLs={peers}\n", m.id);
    }
    format!(
        "{:x}: name={} peerURLs={peers} clientURLs={} isLeader={}\n",
        m.id,
        m.name,
        m.client_urls.join(","),
        m.id == leader
    )
}

/// How one member's check came out.
enum Verdict {
    Healthy(String),
    Unhealthy(String),
    Unreachable(Vec<String>),
}

async fn cluster_health(options: &Options, forever: bool) -> Result<(), Failure> {
    let listed = async {
        let client = connect(options).await?;
        members(options, &client).await
    };
    let members = match listed.await {
        Ok(members) => members,
        Err(mut failure) => {
            report::line("cluster may be unhealthy: failed to list members");
            failure.code = SERVER_ERROR;
            return Err(failure);
        }
    };
    loop {
        let healthy = check_all(options, &members.list).await;
        report::line(match healthy {
            healthy if healthy == members.list.len() => "cluster is healthy",
            0 => "cluster is unavailable",
            _ => "cluster is degraded",
        });
        if !forever {
            return if healthy == members.list.len() {
                Ok(())
            } else {
                Err(Failure::silent(NOT_HEALTHY))
            };
        }
        report::line("\nnext check after 10 second...\n");
        sleep(FOREVER_PAUSE).await;
    }
}

/// Checks the members side by side and prints in their order; how many are healthy.
async fn check_all(options: &Options, list: &[pb::Member]) -> usize {
    let mut checks = JoinSet::new();
    for (index, member) in list.iter().enumerate() {
        let (urls, timeout) = (member.client_urls.clone(), options.timeout);
        let credentials = options.username.clone();
        let tls = options.tls.clone();
        checks.spawn(async move { (index, check(&urls, timeout, credentials, tls).await) });
    }
    let mut verdicts = checks.join_all().await;
    verdicts.sort_by_key(|(index, _)| *index);
    let mut healthy = 0;
    for (member, (_, verdict)) in list.iter().zip(verdicts) {
        let id = member.id;
        match verdict {
            Verdict::Healthy(url) => {
                healthy += 1;
                report::line(&format!(
                    "member {id:x} is healthy: got healthy result from {url}"
                ));
            }
            Verdict::Unhealthy(url) => report::line(&format!(
                "member {id:x} is unhealthy: got unhealthy result from {url}"
            )),
            Verdict::Unreachable(errors) if errors.is_empty() => report::line(&format!(
                "member {id:x} is unreachable: no available published client urls"
            )),
            Verdict::Unreachable(errors) => {
                for (url, error) in member.client_urls.iter().zip(errors) {
                    report::line(&format!(
                        "failed to check the health of member {id:x} on {url}: {error}"
                    ));
                }
                report::line(&format!(
                    "member {id:x} is unreachable: [{}] are all unreachable",
                    member.client_urls.join(" ")
                ));
            }
        }
    }
    healthy
}

/// Reads a key through a quorum at the first of a member's URLs that answers.
async fn check(
    urls: &[String],
    limit: Duration,
    username: Option<String>,
    tls: Option<Arc<ClientTls>>,
) -> Verdict {
    let mut errors = Vec::new();
    for url in urls {
        let mut config = Config::new([url.clone()]);
        config.dial_timeout = limit;
        config.call_timeout = Some(limit);
        config.tls.clone_from(&tls);
        let client = match Client::connect(config).await {
            Ok(client) => client,
            Err(error) => {
                errors.push(error.to_string());
                continue;
            }
        };
        if let Some((name, password)) = username.as_deref().and_then(|u| u.split_once(':')) {
            // Where this fails the read is refused, which still says that a quorum stands.
            let _ = client.authenticate(name, password).await;
        }
        let request = pb::RangeRequest {
            key: "health".into(),
            ..Default::default()
        };
        let read = client.kv().range(request).await;
        let mut maintenance = client.maintenance();
        let alarms = maintenance.alarm(pb::AlarmRequest::default());
        let served = match read {
            Ok(_) => true,
            Err(status) => {
                is_denied(&status) || status.message() == "etcdserver: user name is empty"
            }
        };
        let quiet = match timeout(limit, alarms).await {
            Ok(Ok(response)) => response.get_ref().alarms.is_empty(),
            // Alarms may be hidden from this user; the read has said what matters.
            Ok(Err(_)) | Err(_) => true,
        };
        return if served && quiet {
            Verdict::Healthy(url.clone())
        } else {
            Verdict::Unhealthy(url.clone())
        };
    }
    Verdict::Unreachable(errors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_members() {
        let mut m = pb::Member {
            id: 0x9772_fa93_5aee_2fcb,
            name: "etcd-02".into(),
            peer_urls: vec!["http://etcd-02:2380".into()],
            client_urls: vec!["http://etcd-02:2379".into()],
            is_learner: false,
        };
        assert_eq!(
            member_line(&m, m.id),
            "9772fa935aee2fcb: name=etcd-02 peerURLs=http://etcd-02:2380 clientURLs=http://etcd-02:2379 isLeader=true\n"
        );
        m.name.clear();
        assert_eq!(
            member_line(&m, 0),
            "9772fa935aee2fcb[unstarted]: peerURLs=http://etcd-02:2380\n"
        );
    }

    #[test]
    fn global_flags_with_one_dash_or_two() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let line = "-C h:1,h:2 --timeout=3s -no-sync --total-timeout 9s -o json member list";
        let Ok(Start::Command(options, rest)) = parse(&words(line)) else {
            panic!("not a command");
        };
        assert_eq!(options.endpoints, ["h:1", "h:2"]);
        assert_eq!(options.timeout, Duration::from_secs(3));
        assert_eq!(options.total_timeout, Duration::from_secs(9));
        assert_eq!(rest, ["member", "list"]);
        assert!(parse(&words("--foo member list")).is_err());
    }
}
