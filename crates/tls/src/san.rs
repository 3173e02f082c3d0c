//! The names in a member's certificate against the address that it comes from.

use std::net::IpAddr;

use rustls::pki_types::CertificateDer;

use crate::check::{self, Holder};

/// Checks that a certificate belongs to an address: it names the address, or a host that has it. One
/// without any name is good for every address, as in the original.
pub(crate) async fn belongs_to(der: &CertificateDer<'_>, address: IpAddr) -> Result<(), String> {
    let holder = Holder::of(der);
    let address = address.to_canonical();
    let host = address.to_string();
    if !holder.ip_addresses.is_empty() {
        if check::is_for(der, &host) {
            return Ok(());
        }
        if holder.dns_names.is_empty() {
            return Err(holder.not_for(&host));
        }
    }
    if holder.dns_names.is_empty() {
        return Ok(());
    }
    let (wildcards, names): (Vec<&String>, Vec<&String>) = holder
        .dns_names
        .iter()
        .partition(|name| name.starts_with("*."));
    let mut why = String::new();
    // A resolver may take its time; the thread that serves others must not wait for it.
    match tokio::task::spawn_blocking(move || dns_lookup::lookup_addr(&address)).await {
        Ok(Ok(found)) => {
            let found = found.strip_suffix('.').unwrap_or(&found);
            let fits = names.iter().any(|name| *name == found)
                || wildcards
                    .iter()
                    .filter_map(|name| name.strip_prefix('*'))
                    .any(|ending| found.ends_with(ending));
            if fits {
                return Ok(());
            }
        }
        Ok(Err(error)) => why = format!(" (lookup {host}: {error:?})"),
        Err(_) => why = format!(" (lookup {host}: stopped)"),
    }
    for name in names {
        match tokio::net::lookup_host((name.as_str(), 0)).await {
            Ok(mut addresses) => {
                if addresses.any(|found| found.ip().to_canonical() == address) {
                    return Ok(());
                }
            }
            Err(_) => why = format!(" (lookup {name}: no such host)"),
        }
    }
    let quoted: Vec<String> = holder
        .dns_names
        .iter()
        .map(|name| format!("{name:?}"))
        .collect();
    Err(format!(
        "tls: {host:?} does not match any of DNSNames [{}]{why}",
        quoted.join(" ")
    ))
}
