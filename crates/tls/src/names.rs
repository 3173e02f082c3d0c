//! Names of versions and suites, as Go writes them.

use rustls::crypto::CryptoProvider;
use rustls::{CipherSuite, SupportedProtocolVersion};

use crate::error::TlsError;
use crate::info::TlsInfo;

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// 1.2
    Tls12,
    /// 1.3
    Tls13,
}

impl Version {
    /// Reads a flag's value; `None` for the default.
    ///
    /// # Errors
    /// Anything but `TLS1.2`, `TLS1.3` and nothing.
    pub fn parse(text: &str) -> Result<Option<Version>, TlsError> {
        match text {
            "" => Ok(None),
            "TLS1.2" => Ok(Some(Version::Tls12)),
            "TLS1.3" => Ok(Some(Version::Tls13)),
            other => Err(TlsError::Version(other.to_owned())),
        }
    }
}

/// The suites of version 1.2 that there are, by Go's names.
const SUITES: &[(&str, CipherSuite)] = &[
    (
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    // Older names of the same.
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// Suites of version 1.3 are always allowed, so naming one changes nothing, in Go as here.
const SUITES_OF_13: &[&str] = &[
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
];

/// Suites that the original takes and we lack: no forward secrecy, or encryption that is not
/// authenticated.
const NOT_OFFERED: &[&str] = &[
    "TLS_RSA_WITH_RC4_128_SHA",
    "TLS_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA256",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_RC4_128_SHA",
    "TLS_ECDHE_RSA_WITH_3DES_EDE_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
];

/// Checks versions and suites as the flags give them, before anything is started.
///
/// # Errors
/// What the original says to each.
pub fn check_names(min: &str, max: &str, suites: &[String]) -> Result<(), TlsError> {
    let (oldest, newest) = (Version::parse(min)?, Version::parse(max)?);
    if let (Some(oldest), Some(newest)) = (oldest, newest)
        && oldest > newest
    {
        return Err(TlsError::Versions {
            min: min.to_owned(),
            max: max.to_owned(),
        });
    }
    if oldest == Some(Version::Tls13) && !suites.is_empty() {
        return Err(TlsError::SuitesOfTls13);
    }
    Ok(())
}

/// The suites by their names; those of version 1.3 are left out.
fn suites(names: &[String]) -> Result<Vec<CipherSuite>, TlsError> {
    let mut found = Vec::new();
    for name in names {
        if let Some((_, suite)) = SUITES.iter().find(|(known, _)| known == name) {
            found.push(*suite);
        } else if NOT_OFFERED.contains(&name.as_str()) {
            let known: Vec<&str> = SUITES.iter().take(6).map(|(name, _)| *name).collect();
            return Err(TlsError::SuiteNotOffered {
                name: name.clone(),
                known: known.join(", "),
            });
        } else if !SUITES_OF_13.contains(&name.as_str()) {
            return Err(TlsError::UnknownSuite(name.clone()));
        }
    }
    Ok(found)
}

/// The cryptography, narrowed to the suites that are allowed.
pub(crate) fn provider(info: &TlsInfo) -> Result<CryptoProvider, TlsError> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    if !info.cipher_suites.is_empty() {
        let allowed = suites(&info.cipher_suites)?;
        provider
            .cipher_suites
            .retain(|suite| suite.tls13().is_some() || allowed.contains(&suite.suite()));
    }
    Ok(provider)
}

/// The versions that are allowed, newest first.
pub(crate) fn versions(info: &TlsInfo) -> Vec<&'static SupportedProtocolVersion> {
    let oldest = info.min_version.unwrap_or(Version::Tls12);
    let newest = info.max_version.unwrap_or(Version::Tls13);
    [
        (Version::Tls13, &rustls::version::TLS13),
        (Version::Tls12, &rustls::version::TLS12),
    ]
    .into_iter()
    .filter(|(version, _)| oldest <= *version && *version <= newest)
    .map(|(_, version)| version)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(min: &str, max: &str, suites: &[&str]) -> String {
        let suites: Vec<String> = suites.iter().map(|s| (*s).to_owned()).collect();
        match check_names(min, max, &suites) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn versions_that_cannot_be_are_named_in_the_originals_words() {
        assert_eq!(said("TLS1.2", "", &["x"]), "");
        assert_eq!(said("", "TLS1.2", &[]), "");
        assert_eq!(
            said("TLS1.1", "", &[]),
            r#"unexpected TLS version "TLS1.1" (must be one of: TLS1.2, TLS1.3)"#
        );
        assert_eq!(
            said("TLS1.3", "TLS1.2", &[]),
            "min version (TLS1.3) is greater than max version (TLS1.2)"
        );
        assert_eq!(
            said("TLS1.3", "", &["TLS_AES_128_GCM_SHA256"]),
            "cipher suites cannot be configured when only TLS1.3 is enabled"
        );
    }

    #[test]
    fn suites_are_found_refused_or_unknown() {
        let info = |names: &[&str]| TlsInfo {
            cipher_suites: names.iter().map(|n| (*n).to_owned()).collect(),
            ..TlsInfo::default()
        };
        let all = provider(&info(&[])).expect("all").cipher_suites.len();
        let one = provider(&info(&["TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305"]))
            .expect("known")
            .cipher_suites
            .len();
        assert_eq!((all, one), (9, 4));
        let error = provider(&info(&["x"])).expect_err("unknown");
        assert_eq!(error.to_string(), r#"unexpected TLS cipher suite "x""#);
        for name in NOT_OFFERED {
            let error = provider(&info(&[name])).expect_err("lacking").to_string();
            let refusal = format!("TLS cipher suite {name:?} is not offered by Ferrite");
            assert!(error.starts_with(&refusal), "{error}");
        }
        // Whatever is in the table is a suite that there is.
        for (name, _) in SUITES {
            let provider = provider(&info(&[name])).expect("known");
            assert_eq!(provider.cipher_suites.len(), 4, "{name}");
        }
    }

    #[test]
    fn the_page_about_tls_names_every_suite() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/tls.md");
        let page = std::fs::read_to_string(path).expect("docs/tls.md");
        let offered = SUITES.iter().take(6).map(|(name, _)| name);
        for name in offered.chain(SUITES_OF_13).chain(NOT_OFFERED) {
            assert!(page.contains(&format!("`{name}`")), "{name}");
        }
    }
}
