//! `etcd gateway start`: connections are passed on to members.

use std::collections::BTreeSet;
use std::net::{IpAddr, ToSocketAddrs};

use ferrite_cli::flags::Values;
use ferrite_proxy::tcp::{Proxy, Target};
use tokio::net::TcpListener;

use super::discover::{Asked, members};
use super::{Refused, bind, split_host_port, start_log};
use crate::signals::Signals;
use crate::{log, notify};

/// Runs until a signal.
pub(super) fn start(values: &Values) -> Result<i32, Refused> {
    start_log(log::Severity::Info);
    tracing::info!(args = ?std::env::args().collect::<Vec<_>>(), "Running: ");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Refused::Err(error.to_string()))?;
    runtime.block_on(life(values))
}

async fn life(values: &Values) -> Result<i32, Refused> {
    let mut signals = Signals::new().map_err(|error| Refused::Err(error.to_string()))?;
    let targets = tokio::select! {
        targets = targets(values) => targets?,
        number = signals.recv() => return Ok(number),
    };
    let listen = values.text("listen-addr");
    check(&listen, &targets)?;
    if targets.is_empty() {
        return Err(Refused::Out("no endpoints found\n".into()));
    }
    let listener = bind(&listen).map_err(Refused::Err)?;
    let listener = listener
        .set_nonblocking(true)
        .and_then(|()| TcpListener::from_std(listener))
        .map_err(|error| Refused::Err(error.to_string()))?;
    let proxy = Proxy::new(targets, values.duration("retry-delay"));
    notify::ready();
    tokio::select! {
        () = proxy.run(listener) => Ok(0),
        number = signals.recv() => Ok(number),
    }
}

/// Where to pass connections on to.
async fn targets(values: &Values) -> Result<Vec<Target>, Refused> {
    let asked = Asked {
        domain: &values.text("discovery-srv"),
        suffix: &values.text("discovery-srv-name"),
        insecure: values.bool("insecure-discovery"),
        authorities: &values.text("trusted-ca-file"),
    };
    let found = members(&asked).await?;
    if !found.is_empty() {
        let targets = found.into_iter().map(|(_, record)| Target {
            address: format!("{}:{}", record.target, record.port),
            priority: record.priority,
            weight: record.weight,
        });
        return Ok(targets.collect());
    }
    values
        .list("endpoints")
        .iter()
        .map(|endpoint| {
            let (address, _) = bare(endpoint)
                .split_once('/')
                .unwrap_or((bare(endpoint), ""));
            match split_host_port(address) {
                Some(_) => Ok(Target {
                    address: address.to_owned(),
                    priority: 0,
                    weight: 0,
                }),
                None => Err(Refused::Out(format!("error parsing endpoint {address:?}"))),
            }
        })
        .collect()
}

/// Bytes are passed on whatever they are: the scheme says nothing here.
fn bare(endpoint: &str) -> &str {
    endpoint
        .split_once("://")
        .map_or(endpoint, |(_, rest)| rest)
}

/// A gateway that is its own endpoint would go round in circles.
fn check(listen: &str, targets: &[Target]) -> Result<(), Refused> {
    let Some((host, listen_port)) = split_host_port(listen) else {
        return Err(Refused::Out(format!(
            "failed to validate listen address: {listen}\n"
        )));
    };
    let own = addresses(host)
        .ok_or_else(|| Refused::Out(format!("failed to resolve listen host: {host}\n")))?;
    for target in targets {
        let (host, port) = split_host_port(&target.address).unwrap_or((&target.address, ""));
        let theirs = addresses(host)
            .ok_or_else(|| Refused::Out(format!("failed to resolve endpoint host: {host}\n")))?;
        if port != listen_port {
            continue;
        }
        if let Some(same) = theirs.iter().find(|address| own.contains(*address)) {
            return Err(Refused::Out(format!(
                "SRV or endpoint ({host}:{port}->{same}:{port}) should not resolve to the gateway listen addr ({listen})\n"
            )));
        }
    }
    Ok(())
}

/// Whatever a host resolves to; a name out of DNS ends in a dot, which files of this machine do not know.
fn addresses(host: &str) -> Option<BTreeSet<IpAddr>> {
    let resolve = |host: &str| {
        let found = (host, 0).to_socket_addrs().ok()?;
        let found: BTreeSet<IpAddr> = found.map(|address| address.ip()).collect();
        (!found.is_empty()).then_some(found)
    };
    resolve(host).or_else(|| resolve(host.strip_suffix('.')?))
}
