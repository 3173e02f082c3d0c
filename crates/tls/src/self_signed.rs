//! Certificates that a member makes for itself, for `--auto-tls` and `--peer-auto-tls`.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, absolute};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use time::{Duration, OffsetDateTime};

use crate::error::TlsError;
use crate::info::TlsInfo;

/// Uses the certificate in a folder, or makes one there for these hosts (names or addresses), good for
/// this many years. The original makes its keys on the curve P-521; ours are on P-256, which everybody
/// can check and which costs a tenth. Either is taken up again by either.
///
/// # Errors
/// A validity of nothing, or files that cannot be written.
pub fn self_signed(dir: &Path, hosts: &[String], years: u64) -> Result<TlsInfo, TlsError> {
    if years == 0 {
        let error = TlsError::Validity;
        tracing::warn!(error = %error, "cannot generate cert");
        return Err(error);
    }
    let failed = |what: &'static str| {
        move |error: &dyn std::fmt::Display| {
            let why = error.to_string();
            tracing::warn!(error = why, "{what}");
            TlsError::SelfSigned { what, why }
        }
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|error| failed("cannot create cert directory")(&error))?;
    let path = |name: &str| {
        let path = dir.join(name);
        absolute(&path).unwrap_or(path)
    };
    let (cert_path, key_path) = (path("cert.pem"), path("key.pem"));
    if !(cert_path.exists() && key_path.exists()) {
        let not_after = OffsetDateTime::now_utc().saturating_add(Duration::days(
            i64::try_from(years.saturating_mul(365)).unwrap_or(i64::MAX),
        ));
        let (cert, key) = generate(hosts, not_after)
            .map_err(|e| failed("cannot generate x509 certificate")(&e))?;
        tracing::warn!(
            "certificate-validity-bound-not-after" = %not_after,
            "automatically generate certificates"
        );
        let write =
            |mut file: File, text: &str| file.write_all(text.as_bytes()).and(file.sync_all());
        // The key first: a certificate without one would be taken for a finished pair by nobody.
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true);
        options
            .clone()
            .mode(0o600)
            .open(&key_path)
            .and_then(|file| write(file, &key))
            .map_err(|error| failed("cannot key file")(&error))?;
        tracing::info!(path = %key_path.display(), "created key file");
        options
            .mode(0o644)
            .open(&cert_path)
            .and_then(|file| write(file, &cert))
            .map_err(|error| failed("cannot cert file")(&error))?;
        tracing::info!(path = %cert_path.display(), "created cert file");
    }
    let text = |path: &Path| path.to_string_lossy().into_owned();
    Ok(TlsInfo {
        cert_file: text(&cert_path),
        key_file: text(&key_path),
        client_cert_file: text(&cert_path),
        client_key_file: text(&key_path),
        self_signed: true,
        ..TlsInfo::default()
    })
}

fn generate(hosts: &[String], not_after: OffsetDateTime) -> Result<(String, String), rcgen::Error> {
    let hosts: Vec<String> = hosts.iter().filter(|h| !h.is_empty()).cloned().collect();
    let mut params = CertificateParams::new(hosts)?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "etcd");
    params.not_before = OffsetDateTime::now_utc();
    params.not_after = not_after;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyEncipherment,
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::CrlSign,
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let cert = params.self_signed(&key)?;
    Ok((cert.pem(), key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_made_once_and_kept() {
        let dir = tempfile::tempdir().expect("a folder");
        let hosts = [
            "127.0.0.1".to_owned(),
            "localhost".to_owned(),
            String::new(),
        ];
        let dir = dir.path().join("fixtures/client");
        let first = self_signed(&dir, &hosts, 1).expect("made");
        let bytes = fs::read(&first.cert_file).expect("written");
        let second = self_signed(&dir, &hosts, 1).expect("kept");
        assert_eq!(first, second);
        assert_eq!(bytes, fs::read(&second.cert_file).expect("still there"));
        crate::ServerTls::new(&first, &["h2"]).expect("usable");
        let error = self_signed(&dir, &hosts, 0).expect_err("no year");
        assert_eq!(
            error.to_string(),
            "selfSignedCertValidity is invalid,it should be greater than 0"
        );
    }
}
