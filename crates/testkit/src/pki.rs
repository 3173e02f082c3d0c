//! An authority for tests: certificates of any kind, made when they are needed.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ferrite_client::tls::{ClientTls, TlsInfo};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber,
};
use time::{Duration, OffsetDateTime};

/// An authority and the folder where its files go.
#[derive(Debug)]
pub struct Pki {
    dir: PathBuf,
    name: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paper {
    /// The certificate's file.
    pub cert: String,
    /// The key's file.
    pub key: String,
    serial: u64,
}

/// What a certificate is to say.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    common_name: String,
    hosts: Vec<String>,
    days: Option<i64>,
    servers_only: bool,
}

impl Wanted {
    /// A certificate for these names and addresses, good for both ends of a connection.
    #[must_use]
    pub fn hosts(hosts: &[&str]) -> Self {
        Wanted {
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
            ..Wanted::default()
        }
    }

    /// A certificate with this common name and no other.
    #[must_use]
    pub fn common_name(name: &str) -> Self {
        Wanted::default().named(name)
    }

    /// The same with a common name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        name.clone_into(&mut self.common_name);
        self
    }

    /// The same, good for the listening end of a connection only.
    #[must_use]
    pub fn for_servers_only(mut self) -> Self {
        self.servers_only = true;
        self
    }

    /// The same, over since yesterday.
    #[must_use]
    pub fn expired(mut self) -> Self {
        self.days = Some(-1);
        self
    }
}

impl Paper {
    /// Files that are there already, or will be.
    #[must_use]
    pub fn at(cert: String, key: String) -> Self {
        Paper {
            cert,
            key,
            serial: 0,
        }
    }
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) -> String {
    // Whole or not at all: a server may be reading the file.
    let draft = path.with_extension("draft");
    fs::write(&draft, bytes).expect("a file can be written");
    fs::rename(&draft, path).expect("a file can be renamed");
    path.to_str().expect("a temporary path is text").to_owned()
}

impl Pki {
    /// An authority of this name, whose files go to `dir`.
    ///
    /// # Panics
    /// If they cannot be written.
    #[must_use]
    pub fn new(dir: &Path, name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key can be made");
        let cert = params.self_signed(&key).expect("an authority can be made");
        write(&dir.join(format!("{name}.pem")), cert.pem());
        Pki {
            dir: dir.to_owned(),
            name: name.to_owned(),
            issuer: Issuer::new(params, key),
        }
    }

    /// The file with the authority's certificate.
    #[must_use]
    pub fn ca(&self) -> String {
        self.path(&format!("{}.pem", self.name))
    }

    /// Where a file of this name goes.
    ///
    /// # Panics
    /// If the path is no text.
    #[must_use]
    pub fn path(&self, name: &str) -> String {
        let path = self.dir.join(name);
        path.to_str().expect("a temporary path is text").to_owned()
    }

    /// Makes a certificate; files of that name are replaced, the key first.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn issue(&self, file: &str, wanted: &Wanted) -> Paper {
        let mut params = CertificateParams::new(wanted.hosts.clone()).expect("names are good");
        params.distinguished_name = DistinguishedName::new();
        if !wanted.common_name.is_empty() {
            params
                .distinguished_name
                .push(DnType::CommonName, wanted.common_name.as_str());
        }
        let now = OffsetDateTime::now_utc();
        params.not_before = now - Duration::days(2);
        params.not_after = now + Duration::days(wanted.days.unwrap_or(2));
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyEncipherment,
        ];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        if wanted.servers_only {
            params.extended_key_usages.pop();
        }
        let key = KeyPair::generate().expect("a key can be made");
        // Unique as far as tests go, and with its highest bit clear, so that it is written as it is.
        let bytes: [u8; 8] = key.public_key_raw()[1..9]
            .try_into()
            .expect("a point is longer than that");
        let serial = u64::from_be_bytes(bytes) >> 1;
        params.serial_number = Some(SerialNumber::from(serial));
        let cert = params
            .signed_by(&key, &self.issuer)
            .expect("a certificate can be made");
        Paper {
            key: write(&self.dir.join(format!("{file}.key")), key.serialize_pem()),
            cert: write(&self.dir.join(format!("{file}.crt")), cert.pem()),
            serial,
        }
    }

    /// Writes a list of revoked certificates in DER, as the original wants it.
    ///
    /// # Panics
    /// If it cannot be made.
    #[must_use]
    pub fn revoke(&self, file: &str, papers: &[&Paper]) -> String {
        let now = OffsetDateTime::now_utc();
        let list = CertificateRevocationListParams {
            this_update: now,
            next_update: now + Duration::days(2),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: papers
                .iter()
                .map(|paper| RevokedCertParams {
                    serial_number: SerialNumber::from(paper.serial),
                    revocation_time: now,
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = list.signed_by(&self.issuer).expect("a list can be made");
        write(&self.dir.join(file), list.der())
    }

    /// How a client with this certificate, or with none, dials servers of this authority.
    ///
    /// # Panics
    /// If the files are not good.
    #[must_use]
    pub fn client(&self, paper: Option<&Paper>) -> Arc<ClientTls> {
        let mut info = TlsInfo {
            trusted_ca_file: self.ca(),
            ..TlsInfo::default()
        };
        if let Some(paper) = paper {
            info.cert_file.clone_from(&paper.cert);
            info.key_file.clone_from(&paper.key);
        }
        Arc::new(ClientTls::new(&info, &["h2"]).expect("files made here are good"))
    }
}
