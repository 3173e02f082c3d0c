//! Members from SRV records, for what stands before a cluster.

use std::time::Duration;

use ferrite_client::srv::{self, Record};
use ferrite_tls::{ClientTls, TlsInfo};

use super::Refused;

/// Time to reach a member that is looked at: the original's.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);

/// What the flags say of records.
pub(super) struct Asked<'a> {
    pub domain: &'a str,
    pub suffix: &'a str,
    pub insecure: bool,
    pub authorities: &'a str,
}

/// A member: its URL and its record.
pub(super) type Found = (String, Record);

/// The members that DNS lists; none where nobody asked for them. Unless told to trust everything, only
/// those that encrypt and can be reached count.
pub(super) async fn members(asked: &Asked<'_>) -> Result<Vec<Found>, Refused> {
    let domain = asked.domain;
    if domain.is_empty() {
        return Ok(Vec::new());
    }
    let found = srv::client_records(domain, asked.suffix)
        .await
        .map_err(Refused::Err)?;
    let endpoints = urls(&found);
    tracing::info!(
        "srv-server" = domain,
        ?endpoints,
        "discovered cluster from SRV"
    );
    if asked.insecure {
        return Ok(found);
    }
    tracing::info!(
        "srv-server" = domain,
        ?endpoints,
        "validating discovered SRV endpoints"
    );
    let info = TlsInfo {
        trusted_ca_file: asked.authorities.to_owned(),
        ..TlsInfo::default()
    };
    let (good, why) = match ClientTls::new(&info, &[]) {
        Ok(_) => reachable(found).await,
        Err(error) => (Vec::new(), vec![error.to_string()]),
    };
    let endpoints = urls(&good);
    if why.is_empty() {
        tracing::info!(
            "srv-server" = domain,
            ?endpoints,
            "using validated discovered SRV endpoints"
        );
    } else {
        tracing::warn!(
            "srv-server" = domain,
            ?endpoints,
            error = why.join(","),
            "failed to validate discovered endpoints"
        );
    }
    Ok(good)
}

/// Those that encrypt and accept connections, and what is wrong with the others.
async fn reachable(found: Vec<Found>) -> (Vec<Found>, Vec<String>) {
    let (mut good, mut why) = (Vec::new(), Vec::new());
    for (url, record) in found {
        let Some(address) = url.strip_prefix("https://") else {
            why.push(format!("{url:?} is insecure"));
            continue;
        };
        let dialed = tokio::time::timeout(DIAL_TIMEOUT, ferrite_client::connect_tcp(address));
        match dialed.await {
            Ok(Ok(_)) => good.push((url, record)),
            Ok(Err(error)) => why.push(format!("{url:?} failed to dial ({error})")),
            Err(_) => why.push(format!("{url:?} failed to dial (i/o timeout)")),
        }
    }
    (good, why)
}

fn urls(found: &[Found]) -> Vec<String> {
    found.iter().map(|(url, _)| url.clone()).collect()
}
