//! Founding a cluster whose members are listed in DNS: SRV records say which they are.
//!
//! `_etcd-server-ssl._tcp` lists those whose peer port is encrypted, `_etcd-server._tcp` the others. The
//! record that leads to where this member is advertised is its own and bears its name; the others are
//! numbered. All of that before anything is on disk. Which name servers are asked is the business of
//! [`ferrite_client::srv`].

use std::net::SocketAddr;

use ferrite_client::srv;

use crate::flags::{Url, Values};

/// What the flags say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The domain whose records are asked for.
    pub domain: String,
    /// What follows the service's name in them.
    suffix: String,
}

/// Whom the records list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// As `--initial-cluster` would: `name=URL,name=URL`.
    pub cluster: String,
    /// Some of them encrypt.
    pub encrypted: bool,
}

impl Settings {
    /// Reads the flags; `None` where members are not to be found this way.
    pub fn read(values: &Values) -> Option<Self> {
        let domain = values.text("discovery-srv");
        (!domain.is_empty()).then(|| Settings {
            domain: domain.to_owned(),
            suffix: values.text("discovery-srv-name").to_owned(),
        })
    }
}

/// Asks DNS who the members are, of which this one is called `name` and advertised at those URLs.
///
/// # Errors
/// Nobody is listed, or this member is not; in the original's words.
pub async fn members(
    settings: &Settings,
    name: &str,
    advertised: &[Url],
) -> Result<Listed, String> {
    let mut found = Vec::new();
    let mut failures = Vec::new();
    for (scheme, encrypted) in [("https", true), ("http", false)] {
        let service = srv::service_name("etcd-server", &settings.suffix, encrypted);
        let asked = service_members(settings, &service, scheme, name, advertised).await;
        let failure = match asked {
            Ok(members) => {
                found.extend(members);
                String::new()
            }
            Err(why) => why,
        };
        tracing::info!(
            "service-scheme" = scheme,
            "service-name" = service,
            "server-name" = name,
            "discovery-srv" = settings.domain,
            "advertise-peer-urls" = ?texts(advertised),
            "found-cluster" = ?found,
            error = failure,
            "get cluster for {} SRV",
            if encrypted { "etcd-server-ssl" } else { "etcd-server" }
        );
        if !failure.is_empty() {
            failures.push(failure);
        }
    }
    let failure = failures.join("\n");
    if !failure.is_empty() {
        tracing::warn!(error = failure, "failed to resolve during SRV discovery");
    }
    if found.is_empty() {
        return Err(failure);
    }
    for node in &found {
        tracing::info!(node, "got bootstrap from DNS for etcd-server");
    }
    let own = format!("{name}=");
    if !found.iter().any(|member| member.starts_with(&own)) {
        return Err(format!(
            "cannot find local etcd member {name:?} in SRV records"
        ));
    }
    Ok(Listed {
        encrypted: found.iter().any(|member| member.contains("https://")),
        cluster: found.join(","),
    })
}

/// The members that one service lists.
async fn service_members(
    settings: &Settings,
    service: &str,
    scheme: &str,
    name: &str,
    advertised: &[Url],
) -> Result<Vec<String>, String> {
    let querying = |why: String| format!("error querying DNS SRV records for _{service} {why}");
    let mut own = Vec::new();
    for url in advertised {
        own.push((resolve(&url.address).await.map_err(querying)?, url));
    }
    let records = srv::lookup(service, &settings.domain)
        .await
        .map_err(|error| querying(error.to_string()))?;
    let mut members = Vec::new();
    let mut failure = None;
    let mut unnamed = 0_usize;
    for record in records {
        // Records end their hosts with a dot, URLs do not.
        let host = record.target.strip_suffix('.').unwrap_or(&record.target);
        let address = format!("{host}:{}", record.port);
        let resolved = match resolve(&address).await {
            Ok(resolved) => resolved,
            Err(why) => {
                failure = Some(why);
                continue;
            }
        };
        let this = own.iter().find(|(known, _)| *known == resolved);
        if let Some((_, url)) = this.filter(|(_, url)| url.scheme != scheme) {
            failure = Some(format!(
                "bootstrap at {scheme}://{address} from DNS for {service} has scheme mismatch with expected peer {url}"
            ));
            continue;
        }
        let member = match this {
            Some(_) if !name.is_empty() => name.to_owned(),
            _ => {
                unnamed += 1;
                (unnamed - 1).to_string()
            }
        };
        members.push(format!("{member}={scheme}://{address}"));
    }
    match failure {
        Some(why) if members.is_empty() => Err(querying(why)),
        _ => Ok(members),
    }
}

/// The first address of a host and port, those of version 4 first.
async fn resolve(address: &str) -> Result<SocketAddr, String> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let found = tokio::net::lookup_host(address)
        .await
        .map_err(|error| format!("lookup {host}: {error}"))?;
    let mut found: Vec<SocketAddr> = found.collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    found
        .first()
        .copied()
        .ok_or_else(|| format!("lookup {host}: no such host"))
}

fn texts(urls: &[Url]) -> Vec<String> {
    urls.iter().map(Url::to_string).collect()
}
