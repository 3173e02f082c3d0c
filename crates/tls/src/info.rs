//! What the flags say about one side's TLS, and which combinations cannot be.

use std::fmt;

use crate::error::TlsError;
use crate::names::Version;

/// File names and switches, as given. Files are read when a listener or a dialler is made of this, and
/// again at every handshake.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsInfo {
    /// The certificate that is shown to whoever connects.
    pub cert_file: String,
    /// Its key.
    pub key_file: String,
    /// The certificate that is shown when connecting; [`TlsInfo::cert_file`] if empty.
    pub client_cert_file: String,
    /// Its key.
    pub client_key_file: String,
    /// Authorities that the other side's certificate must come from; the system's if empty.
    pub trusted_ca_file: String,
    /// Whoever connects must show a certificate.
    pub client_cert_auth: bool,
    /// A list of revoked certificates, DER or PEM.
    pub crl_file: String,
    /// Do not hold the names in a certificate against the address it comes from.
    pub skip_client_san_verify: bool,
    /// Common names of which a certificate must bear one; empty for any.
    pub allowed_cns: Vec<String>,
    /// Host names for one of which a certificate must be valid; empty for any.
    pub allowed_hostnames: Vec<String>,
    /// Go's names of the suites to allow; empty for all.
    pub cipher_suites: Vec<String>,
    /// The oldest version to speak; `None` for 1.2.
    pub min_version: Option<Version>,
    /// The newest version to speak; `None` for the newest there is.
    pub max_version: Option<Version>,
    /// The name to expect in a server's certificate instead of the host that is dialled.
    pub server_name: String,
    /// Do not check a server's certificate at all.
    pub insecure_skip_verify: bool,
    /// The certificate is one that we made ourselves; nobody can check such ones.
    pub self_signed: bool,
}

impl TlsInfo {
    /// Whether there is no certificate and no key.
    pub fn is_empty(&self) -> bool {
        self.cert_file.is_empty() && self.key_file.is_empty()
    }

    /// Whether whoever connects must show a certificate.
    pub fn asks_for_certificates(&self) -> bool {
        self.client_cert_auth || !self.trusted_ca_file.is_empty()
    }

    /// The combinations that cannot be.
    pub(crate) fn check(&self) -> Result<(), TlsError> {
        if self.cert_file.is_empty() || self.key_file.is_empty() {
            return Err(TlsError::HalfPair {
                key: self.key_file.clone(),
                cert: self.cert_file.clone(),
            });
        }
        if self.client_cert_file.is_empty() != self.client_key_file.is_empty() {
            return Err(TlsError::HalfClientPair {
                key: self.client_key_file.clone(),
                cert: self.client_cert_file.clone(),
            });
        }
        if !self.allowed_cns.is_empty() && !self.allowed_hostnames.is_empty() {
            return Err(TlsError::TwoAllowLists {
                cns: list(&self.allowed_cns),
                hostnames: list(&self.allowed_hostnames),
            });
        }
        Ok(())
    }
}

/// A list as Go prints it.
fn list(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
    format!("[{}]", quoted.join(" "))
}

impl fmt::Display for TlsInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cert = {}, key = {}, client-cert={}, client-key={}, trusted-ca = {}, client-cert-auth = {}, crl-file = {}",
            self.cert_file,
            self.key_file,
            self.client_cert_file,
            self.client_key_file,
            self.trusted_ca_file,
            self.client_cert_auth,
            self.crl_file
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combinations_that_cannot_be_are_named_in_the_originals_words() {
        let info = TlsInfo {
            cert_file: "c".into(),
            ..TlsInfo::default()
        };
        assert_eq!(
            info.check().expect_err("half a pair").to_string(),
            "KeyFile and CertFile must both be present[key: , cert: c]"
        );
        let info = TlsInfo {
            key_file: "k".into(),
            client_key_file: "ck".into(),
            ..info
        };
        assert_eq!(
            info.check().expect_err("half a pair").to_string(),
            "ClientKeyFile and ClientCertFile must both be present or both absent: key: ck, cert: ]"
        );
        let info = TlsInfo {
            client_key_file: String::new(),
            allowed_cns: vec!["a".into(), "b".into()],
            allowed_hostnames: vec!["c".into()],
            ..info
        };
        assert_eq!(
            info.check().expect_err("two lists").to_string(),
            r#"AllowedCNs and AllowedHostnames are mutually exclusive (cns=["a" "b"], hostnames=["c"])"#
        );
    }
}
