//! Asking members on their peer port, which may want other certificates than the clients' port. Changes nothing.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ferrite_cli::flags::Values;
use ferrite_client::tls::{ClientTls, TlsError, TlsInfo};
use ferrite_membership::Version;
use ferrite_peer::{
    BoxFuture, BoxedIo, Connector, Dialer, FetchError, PeerUrl, PlainConnector, get_json,
};

use crate::error::{BAD_ARGS, Failure};

/// The names of three flags: authorities, a certificate, its key.
#[derive(Clone, Copy)]
struct Names {
    authorities: &'static str,
    certificate: &'static str,
    key: &'static str,
}

const CLIENT: Names = Names {
    authorities: "cacert",
    certificate: "cert",
    key: "key",
};
const PEER: Names = Names {
    authorities: "peer-cacert",
    certificate: "peer-cert",
    key: "peer-key",
};

/// What `/version` on the peer port says.
#[derive(Clone, Copy, Debug)]
pub struct Given {
    /// What the member gives for its own.
    pub own: Version,
    /// The cluster's, once there is one.
    pub cluster: Option<Version>,
}

/// Why a member could not be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unasked {
    /// In one line, with the flags that would help.
    pub why: String,
    /// It is about certificates, which waiting does not mend.
    pub lasting: bool,
}

impl fmt::Display for Unasked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

#[derive(serde::Deserialize)]
struct Versions {
    etcdserver: String,
    #[serde(default)]
    etcdcluster: String,
}

/// How members are asked there; clones share it.
#[derive(Clone)]
pub struct Peers {
    dialer: Dialer,
    /// Which certificates are used, for whoever is turned away.
    used: String,
}

/// How clients' connections are encrypted; `None` if no flag says anything of it.
///
/// # Errors
/// Files that will not do, under the flag that names them.
pub fn client_tls(values: &Values) -> Result<Option<ClientTls>, Failure> {
    let info = info(values, CLIENT)?;
    if info == TlsInfo::default() {
        return Ok(None);
    }
    tls(
        &info,
        [CLIENT.authorities, CLIENT.certificate, CLIENT.key],
        &["h2"],
    )
    .map(Some)
}

impl Peers {
    /// Reads the flags. What is not given for peers is taken from the client's: one authority for both is common, and
    /// where it is another one the members say so.
    ///
    /// # Errors
    /// Files that will not do, under the flag that names them.
    pub fn of(values: &Values) -> Result<Self, Failure> {
        let client = info(values, CLIENT)?;
        let mut info = info(values, PEER)?;
        let mut names = PEER;
        if info.trusted_ca_file.is_empty() {
            info.trusted_ca_file = client.trusted_ca_file;
            names.authorities = CLIENT.authorities;
        }
        if info.cert_file.is_empty() {
            (info.cert_file, info.key_file) = (client.cert_file, client.key_file);
            (names.certificate, names.key) = (CLIENT.certificate, CLIENT.key);
        }
        let tls = tls(
            &info,
            [names.authorities, names.certificate, names.key],
            &[],
        )?;
        let authorities = if info.insecure_skip_verify {
            "any, by --insecure-skip-tls-verify".to_owned()
        } else {
            used(
                &info.trusted_ca_file,
                names.authorities,
                PEER.authorities,
                "the system's",
            )
        };
        let shown = used(&info.cert_file, names.certificate, PEER.certificate, "none");
        let plain = PlainConnector::default();
        Ok(Self {
            dialer: Dialer(Arc::new(Encrypted { tls, plain })),
            used: format!("authorities: {authorities}; certificate shown: {shown}"),
        })
    }

    /// Asks a member for the versions it gives to others.
    ///
    /// # Errors
    /// Why it cannot be asked.
    pub async fn versions(&self, urls: &[String], limit: Duration) -> Result<Given, Unasked> {
        let at = urls.join(", ");
        let asked = get_json::<Versions>(&self.dialer, urls, "/version", &[], limit).await;
        let versions = match asked {
            Ok((versions, _)) => versions,
            Err(error) => {
                let encrypted = urls.iter().any(|url| url.starts_with("https://"));
                let mut why = format!("{at}: {error}");
                if encrypted {
                    why = format!("{why} ({})", self.used);
                }
                return Err(Unasked {
                    why,
                    lasting: encrypted && is_about_certificates(&error),
                });
            }
        };
        let own = versions.etcdserver.parse().map_err(|_| Unasked {
            why: format!("{at}: {:?} is not a version", versions.etcdserver),
            lasting: false,
        })?;
        Ok(Given {
            own,
            cluster: versions.etcdcluster.parse().ok(),
        })
    }
}

fn info(values: &Values, names: Names) -> Result<TlsInfo, Failure> {
    let info = TlsInfo {
        trusted_ca_file: values.text(names.authorities),
        cert_file: values.text(names.certificate),
        key_file: values.text(names.key),
        insecure_skip_verify: values.bool("insecure-skip-tls-verify"),
        ..TlsInfo::default()
    };
    if info.cert_file.is_empty() == info.key_file.is_empty() {
        return Ok(info);
    }
    let (given, missing) = if info.key_file.is_empty() {
        (names.certificate, names.key)
    } else {
        (names.key, names.certificate)
    };
    Err(Failure::new(
        BAD_ARGS,
        format!("--{given} is given without --{missing}: a certificate and its key go together"),
    ))
}

/// `names`: the flags of the authorities, the certificate and the key.
fn tls(info: &TlsInfo, names: [&str; 3], protocols: &[&str]) -> Result<ClientTls, Failure> {
    ClientTls::new(info, protocols).map_err(|error| {
        let path = match &error {
            TlsError::Open { path, .. }
            | TlsError::Content { path, .. }
            | TlsError::NoAuthority(path) => path,
            _ => return Failure::new(BAD_ARGS, error.to_string()),
        };
        let files = [&info.trusted_ca_file, &info.cert_file, &info.key_file];
        let flag = files.iter().zip(names).find(|(file, _)| **file == path);
        let message = match flag {
            Some((_, flag)) => format!("--{flag}: {error}"),
            None => error.to_string(),
        };
        Failure::new(BAD_ARGS, message)
    })
}

/// Where a file came from: the flag meant for peers, the client's in its place, or neither.
fn used(file: &str, from: &str, meant: &str, otherwise: &str) -> String {
    match file {
        "" => format!("{otherwise}, as --{meant} is not given"),
        _ if from == meant => format!("--{from}={file}"),
        _ => format!("--{from}={file}, as --{meant} is not given"),
    }
}

/// Handshakes that fail end as invalid data; in TLS 1.3 the refusal of our certificate comes with the first read.
fn is_about_certificates(error: &FetchError) -> bool {
    let invalid = |error: &io::Error| error.kind() == io::ErrorKind::InvalidData;
    match error {
        FetchError::Dial(error) => invalid(error),
        FetchError::Http(error) => {
            let mut cause = std::error::Error::source(error);
            while let Some(error) = cause {
                if error.downcast_ref::<io::Error>().is_some_and(invalid) {
                    return true;
                }
                cause = error.source();
            }
            false
        }
        _ => false,
    }
}

struct Encrypted {
    tls: ClientTls,
    plain: PlainConnector,
}

impl Connector for Encrypted {
    fn connect<'a>(&'a self, url: &'a PeerUrl) -> BoxFuture<'a, io::Result<BoxedIo>> {
        if !url.is_tls() {
            return self.plain.connect(url);
        }
        Box::pin(async move {
            let stream = self.plain.dial(url).await?;
            let stream = self.tls.connect(url.host(), stream).await?;
            Ok(Box::new(stream) as BoxedIo)
        })
    }
}
