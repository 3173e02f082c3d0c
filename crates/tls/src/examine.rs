//! What a certificate in a file says, and what of it will make others refuse it: told when a member starts and
//! when it reads its certificates again, not when the first connection fails.

use std::sync::Arc;
use std::time::Duration;

use rustls::CertificateError;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

use crate::check::{self, Holder, Purpose};
use crate::error::TlsError;
use crate::info::TlsInfo;
use crate::{load, names, words};

/// Whoever renews certificates every month or quarter should have done it by then.
const SOON: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// What a certificate is used for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// The hosts under which others connect to whoever shows it.
    pub hosts: Vec<String>,
    /// Other members check it, at both ends of a connection.
    pub between_members: bool,
}

/// What a certificate says, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// The file.
    pub file: String,
    /// Since when it is good, as RFC 3339 writes it.
    pub not_before: String,
    /// Until when.
    pub not_after: String,
    /// Its common name, perhaps empty.
    pub common_name: String,
    /// The host names and addresses it is for.
    pub names: Vec<String>,
    /// Whose signature it bears.
    pub issuer: String,
    /// Why others will refuse it.
    pub faults: Vec<String>,
    /// What will be a fault before long.
    pub warnings: Vec<String>,
}

/// Looks at the certificates that the flags name.
///
/// # Errors
/// A file that cannot be read, or holds no certificate.
pub fn examine(info: &TlsInfo, used: &Use, now: UnixTime) -> Result<Vec<Examined>, TlsError> {
    let dialing = &info.client_cert_file;
    let own_pair = !dialing.is_empty() && *dialing != info.cert_file;
    let mut purposes = vec![Purpose::Server];
    if used.between_members && !own_pair {
        purposes.push(Purpose::Client);
    }
    let mut all = vec![one(info, &info.cert_file, &purposes, &used.hosts, now)?];
    if used.between_members && own_pair {
        all.push(one(info, dialing, &[Purpose::Client], &[], now)?);
    }
    if !used.between_members {
        return Ok(all);
    }
    for examined in &mut all {
        if let Some(fault) = by_others(info, &examined.file, now)? {
            examined.faults.push(fault);
        }
    }
    Ok(all)
}

fn chain(path: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |what: String| TlsError::Content {
        what,
        path: path.to_owned(),
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&load::read(path)?)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(format!("tls: {error}")))?;
    match chain.is_empty() {
        true => Err(wrong(
            "tls: failed to find any PEM data in certificate input".to_owned(),
        )),
        false => Ok(chain),
    }
}

fn one(
    info: &TlsInfo,
    path: &str,
    purposes: &[Purpose],
    hosts: &[String],
    now: UnixTime,
) -> Result<Examined, TlsError> {
    let chain = chain(path)?;
    let der = &chain[0];
    let (_, certificate) = X509Certificate::from_der(der).map_err(|_| TlsError::Content {
        what: "x509: malformed certificate".to_owned(),
        path: path.to_owned(),
    })?;
    let holder = Holder::of(der);
    let (not_before, not_after) = check::dates(&certificate);
    let mut faults = Vec::new();
    let mut warnings = Vec::new();
    for purpose in purposes {
        match check::trusted_itself(der, *purpose, now) {
            Ok(()) => {}
            Err(CertificateError::InvalidPurpose) => faults.push(match purpose {
                Purpose::Server => {
                    "its extended key usage lacks serverAuth: nobody can connect".to_owned()
                }
                Purpose::Client => {
                    "its extended key usage lacks clientAuth: other members refuse connections"
                        .to_owned()
                }
            }),
            Err(error) => {
                let text = words::certificate(&error);
                if !faults.contains(&text) {
                    faults.push(text);
                }
            }
        }
    }
    if now <= not_after && not_after < UnixTime::since_unix_epoch(span(now) + SOON) {
        let days = (span(not_after) - span(now)).as_secs() / (24 * 60 * 60);
        warnings.push(format!("it expires in {days} days"));
    }
    for host in hosts.iter().filter(|host| !check::is_for(der, host)) {
        faults.push(holder.not_for(host));
    }
    if !info.allowed_cns.is_empty() && !info.allowed_cns.contains(&holder.common_name) {
        warnings.push(format!(
            "its common name {:?} is not among those allowed here: {}",
            holder.common_name,
            info.allowed_cns.join(",")
        ));
    }
    let addresses = holder.ip_addresses.iter().map(ToString::to_string);
    Ok(Examined {
        file: path.to_owned(),
        not_before: words::moment(not_before),
        not_after: words::moment(not_after),
        common_name: holder.common_name.clone(),
        names: holder.dns_names.iter().cloned().chain(addresses).collect(),
        issuer: certificate.issuer().to_string(),
        faults,
        warnings,
    })
}

fn span(at: UnixTime) -> Duration {
    Duration::from_secs(at.as_secs())
}

/// What members with the same authorities say to it, but for what its dates and its use say already.
fn by_others(info: &TlsInfo, path: &str, now: UnixTime) -> Result<Option<String>, TlsError> {
    if info.trusted_ca_file.is_empty() {
        return Ok(None);
    }
    let authorities =
        load::authorities(&info.trusted_ca_file, &load::read(&info.trusted_ca_file)?)?;
    let chain = chain(path)?;
    if authorities.certificates.contains(&chain[0]) {
        return Ok(None);
    }
    let provider = Arc::new(names::provider(info)?);
    let judge = WebPkiClientVerifier::builder_with_provider(authorities.store, provider)
        .build()
        .map_err(|error| TlsError::Library(error.to_string()))?;
    Ok(
        match judge.verify_client_cert(&chain[0], &chain[1..], now) {
            Err(rustls::Error::InvalidCertificate(
                error @ (CertificateError::UnknownIssuer | CertificateError::BadSignature),
            )) => Some(format!(
                "{}: it is not from {}",
                words::certificate(&error),
                info.trusted_ca_file
            )),
            _ => None,
        },
    )
}
