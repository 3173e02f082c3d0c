//! Reading files: certificates, keys, authorities, lists of revoked ones.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use crate::error::TlsError;
use crate::words;

/// A file larger than this is none of ours; a bundle of every public authority has a quarter of it.
const FILE_MAX: u64 = 1 << 20;

/// The bytes of a file.
pub(crate) fn read(path: &str) -> Result<Vec<u8>, TlsError> {
    let failed = |error: std::io::Error| TlsError::Open {
        path: path.to_owned(),
        why: words::system(&error),
    };
    let size = std::fs::metadata(Path::new(path)).map_err(failed)?.len();
    if size > FILE_MAX {
        return Err(TlsError::Content {
            what: format!("tls: a file of {size} bytes is no certificate and no key"),
            path: path.to_owned(),
        });
    }
    std::fs::read(path).map_err(failed)
}

/// A certificate with its chain, and its key.
pub(crate) fn pair(
    provider: &CryptoProvider,
    (cert_path, cert): (&str, &[u8]),
    (key_path, key): (&str, &[u8]),
) -> Result<CertifiedKey, TlsError> {
    let wrong = |what: &str, path: &str| TlsError::Content {
        what: what.to_owned(),
        path: path.to_owned(),
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(cert)
        .collect::<Result<_, _>>()
        .map_err(|error| wrong(&format!("tls: {error}"), cert_path))?;
    if chain.is_empty() {
        let text = match sections(cert).as_slice() {
            [] => "tls: failed to find any PEM data in certificate input".to_owned(),
            other => format!(
                "tls: failed to find \"CERTIFICATE\" PEM block in certificate input after skipping PEM blocks of the following types: [{}]",
                other.join(" ")
            ),
        };
        return Err(wrong(&text, cert_path));
    }
    let der = match PrivateKeyDer::from_pem_slice(key) {
        Ok(der) => der,
        Err(_) => {
            let text = match sections(key).as_slice() {
                [] => "tls: failed to find any PEM data in key input".to_owned(),
                [one] if one == "CERTIFICATE" => {
                    "tls: found a certificate rather than a key in the PEM for the private key"
                        .to_owned()
                }
                other => format!(
                    "tls: failed to find PEM block with type ending in \"PRIVATE KEY\" in key input after skipping PEM blocks of the following types: [{}]",
                    other.join(" ")
                ),
            };
            return Err(wrong(&text, key_path));
        }
    };
    let key = provider
        .key_provider
        .load_private_key(der)
        .map_err(|_| wrong("tls: failed to parse private key", key_path))?;
    let pair = CertifiedKey::new(chain, key);
    match pair.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
            Ok(pair)
        }
        Err(rustls::Error::InconsistentKeys(_)) => Err(wrong(
            "tls: private key does not match public key",
            key_path,
        )),
        Err(error) => Err(wrong(&words::tls(&error), cert_path)),
    }
}

/// The types of the PEM blocks in a text.
fn sections(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    text.lines()
        .filter_map(|line| {
            let kind = line.trim().strip_prefix("-----BEGIN ")?;
            Some(kind.strip_suffix("-----")?.to_owned())
        })
        .collect()
}

/// Authorities: as the library wants them, and as they are written, to recognise one.
#[derive(Debug)]
pub(crate) struct Authorities {
    pub(crate) store: Arc<RootCertStore>,
    pub(crate) certificates: Vec<CertificateDer<'static>>,
}

impl Authorities {
    /// No authority at all, for whoever checks nothing.
    pub(crate) fn none() -> Self {
        Authorities {
            store: Arc::new(RootCertStore::empty()),
            certificates: Vec::new(),
        }
    }
}

/// The authorities in a file.
pub(crate) fn authorities(path: &str, bytes: &[u8]) -> Result<Authorities, TlsError> {
    let mut store = RootCertStore::empty();
    let mut certificates = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(bytes) {
        let wrong = |what: String| TlsError::Content {
            what,
            path: path.to_owned(),
        };
        let certificate = certificate.map_err(|error| wrong(format!("tls: {error}")))?;
        store
            .add(certificate.clone())
            .map_err(|error| wrong(words::tls(&error)))?;
        certificates.push(certificate);
    }
    if certificates.is_empty() {
        return Err(TlsError::NoAuthority(path.to_owned()));
    }
    Ok(Authorities {
        store: Arc::new(store),
        certificates,
    })
}

/// The system's authorities, read once. There may be none.
pub(crate) fn system_authorities() -> Arc<Authorities> {
    static SYSTEM: OnceLock<Arc<Authorities>> = OnceLock::new();
    let loaded = SYSTEM.get_or_init(|| {
        let found = rustls_native_certs::load_native_certs();
        let mut store = RootCertStore::empty();
        // Some of a system's authorities are old enough not to be understood.
        let _counts = store.add_parsable_certificates(found.certs.iter().cloned());
        Arc::new(Authorities {
            store: Arc::new(store),
            certificates: found.certs,
        })
    });
    Arc::clone(loaded)
}

/// The serial numbers in a list of revoked certificates. Like the original we do not ask who signed the
/// list: it comes from a file of the operator's own.
pub(crate) fn revoked(path: &str, bytes: &[u8]) -> Result<BTreeSet<Vec<u8>>, TlsError> {
    let wrong = || TlsError::Content {
        what: "x509: malformed crl".to_owned(),
        path: path.to_owned(),
    };
    let mut lists: Vec<Vec<u8>> = Vec::new();
    for section in <(SectionKind, Vec<u8>)>::pem_slice_iter(bytes) {
        let (kind, der) = section.map_err(|_| wrong())?;
        if kind == SectionKind::Crl {
            lists.push(der);
        }
    }
    if lists.is_empty() {
        lists.push(bytes.to_vec());
    }
    let mut serials = BTreeSet::new();
    for der in lists {
        let (_, list) = CertificateRevocationList::from_der(&der).map_err(|_| wrong())?;
        serials.extend(
            list.iter_revoked_certificates()
                .map(|one| serial(one.raw_serial())),
        );
    }
    Ok(serials)
}

/// A serial number without the leading zeros of its encoding.
pub(crate) fn serial(raw: &[u8]) -> Vec<u8> {
    let zeros = raw.iter().take_while(|byte| **byte == 0).count();
    raw.get(zeros..).unwrap_or_default().to_vec()
}
