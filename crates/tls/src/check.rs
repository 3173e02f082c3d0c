//! What a certificate says about its holder, and whether that is who we want.

use std::collections::BTreeSet;
use std::net::IpAddr;

use rustls::CertificateError;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use crate::error::TlsError;
use crate::load;

/// The parts of a certificate that are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) common_name: String,
    pub(crate) ip_addresses: Vec<IpAddr>,
    pub(crate) dns_names: Vec<String>,
    has_alternative_names: bool,
}

/// The common name of the first certificate in a file; empty where it has none.
///
/// # Errors
/// The file cannot be read, or there is no certificate in it.
pub fn common_name(path: &str) -> Result<String, TlsError> {
    let bytes = load::read(path)?;
    let mut found = CertificateDer::pem_slice_iter(&bytes);
    match found.next() {
        Some(Ok(der)) => Ok(Holder::of(&der).common_name),
        Some(Err(_)) | None => Err(TlsError::Content {
            what: "tls: failed to find any PEM data in certificate input".to_owned(),
            path: path.to_owned(),
        }),
    }
}

impl Holder {
    /// Reads a certificate; one that cannot be read has no names.
    pub(crate) fn of(der: &CertificateDer<'_>) -> Holder {
        let mut holder = Holder::default();
        let Ok((_, certificate)) = X509Certificate::from_der(der) else {
            return holder;
        };
        // As in Go, of several common names the last one counts.
        if let Some(name) = certificate.subject().iter_common_name().last() {
            name.as_str()
                .unwrap_or_default()
                .clone_into(&mut holder.common_name);
        }
        let Ok(Some(names)) = certificate.subject_alternative_name() else {
            return holder;
        };
        holder.has_alternative_names = true;
        for name in &names.value.general_names {
            match name {
                GeneralName::DNSName(name) => holder.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => {
                    let address = <[u8; 4]>::try_from(*bytes)
                        .map(IpAddr::from)
                        .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                    holder.ip_addresses.extend(address.ok());
                }
                _ => {}
            }
        }
        holder
    }

    /// Why a certificate is not for a host, as Go says it.
    pub(crate) fn not_for(&self, host: &str) -> String {
        if !self.has_alternative_names && !self.common_name.is_empty() {
            return "x509: certificate relies on legacy Common Name field, use SANs instead"
                .to_owned();
        }
        let valid = if host.parse::<IpAddr>().is_ok() {
            if self.ip_addresses.is_empty() {
                return format!(
                    "x509: cannot validate certificate for {host} because it doesn't contain any IP SANs"
                );
            }
            let addresses: Vec<String> = self.ip_addresses.iter().map(IpAddr::to_string).collect();
            addresses.join(", ")
        } else {
            self.dns_names.join(", ")
        };
        if valid.is_empty() {
            format!("x509: certificate is not valid for any names, but wanted to match {host}")
        } else {
            format!("x509: certificate is valid for {valid}, not {host}")
        }
    }
}

/// Whether a certificate is for a host, given as a name or as an address.
pub(crate) fn is_for(der: &CertificateDer<'_>, host: &str) -> bool {
    let Ok(name) = ServerName::try_from(host) else {
        return false;
    };
    ParsedCertificate::try_from(der)
        .is_ok_and(|parsed| rustls::client::verify_server_name(&parsed, &name).is_ok())
}

/// Who is let in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Allowed {
    pub(crate) common_names: Vec<String>,
    pub(crate) hostnames: Vec<String>,
}

impl Allowed {
    /// Whether there is any list at all.
    pub(crate) fn everybody(&self) -> bool {
        self.common_names.is_empty() && self.hostnames.is_empty()
    }

    /// A line that says who was not let in and who would be.
    pub(crate) fn tell(&self, der: &CertificateDer<'_>) {
        let holder = Holder::of(der);
        let addresses: Vec<String> = holder.ip_addresses.iter().map(IpAddr::to_string).collect();
        tracing::warn!(
            "common-name" = holder.common_name,
            "dns-names" = ?holder.dns_names,
            "ip-addresses" = ?addresses,
            "allowed-common-names" = ?self.common_names,
            "allowed-hostnames" = ?self.hostnames,
            "a certificate bears none of the names that are allowed"
        );
    }

    /// Whether this certificate is on the list.
    pub(crate) fn lets_in(&self, der: &CertificateDer<'_>) -> bool {
        if self.everybody() {
            return true;
        }
        let name = Holder::of(der).common_name;
        self.common_names.contains(&name) || self.hostnames.iter().any(|host| is_for(der, host))
    }
}

/// Whether one of these certificates has been revoked; says which.
pub(crate) fn revoked(
    serials: &BTreeSet<Vec<u8>>,
    chain: &[&CertificateDer<'_>],
) -> Option<String> {
    chain.iter().find_map(|der| {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let serial = load::serial(certificate.raw_serial());
        serials.contains(&serial).then(|| {
            let hex: String = serial.iter().map(|byte| format!("{byte:02x}")).collect();
            format!("transport: certificate serial {hex} revoked")
        })
    })
}

/// What a certificate is shown for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Server,
    Client,
}

/// Since when and until when a certificate is good.
pub(crate) fn dates(certificate: &X509Certificate<'_>) -> (UnixTime, UnixTime) {
    let seconds = |at: x509_parser::time::ASN1Time| {
        let seconds = u64::try_from(at.timestamp()).unwrap_or(0);
        UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds))
    };
    let validity = certificate.validity();
    (seconds(validity.not_before), seconds(validity.not_after))
}

/// A certificate that stands in the list of authorities itself needs no authority; its dates and its
/// purpose count all the same. (The library refuses to take an authority's certificate for anybody's
/// own, and self-signed certificates are usually made as those of authorities.)
pub(crate) fn trusted_itself(
    der: &CertificateDer<'_>,
    purpose: Purpose,
    now: UnixTime,
) -> Result<(), CertificateError> {
    let (_, certificate) =
        X509Certificate::from_der(der).map_err(|_| CertificateError::BadEncoding)?;
    let (not_before, not_after) = dates(&certificate);
    if now < not_before {
        return Err(CertificateError::NotValidYetContext {
            time: now,
            not_before,
        });
    }
    if now > not_after {
        return Err(CertificateError::ExpiredContext {
            time: now,
            not_after,
        });
    }
    if let Ok(Some(usage)) = certificate.extended_key_usage() {
        let fits = match purpose {
            Purpose::Server => usage.value.server_auth,
            Purpose::Client => usage.value.client_auth,
        };
        if !fits && !usage.value.any {
            return Err(CertificateError::InvalidPurpose);
        }
    }
    Ok(())
}
