//! The listening side: handshakes with whoever connects.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::LazyConfigAcceptor;

use crate::check::{Allowed, Holder};
use crate::error::TlsError;
use crate::info::TlsInfo;
use crate::verify::{ClientJudge, ClientRules, Verdict};
use crate::{load, names, san, words};

/// How long one handshake may take. Whoever says nothing holds a descriptor until then.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Of what a client that is turned away still sends, so much is read: more than its first flight and a request,
const PARTING_BYTES: usize = 64 << 10;
/// for so long at most.
const PARTING_TIME: Duration = Duration::from_secs(1);

/// The first byte of a handshake, which no request in clear text begins with.
const HANDSHAKE_RECORD: u8 = 0x16;

/// Whether a connection that begins with this byte speaks TLS.
#[must_use]
pub fn looks_like_tls(first: u8) -> bool {
    first == HANDSHAKE_RECORD
}

/// An encrypted connection.
pub type ServerStream<IO> = tokio_rustls::server::TlsStream<IO>;

/// A connection that was let in.
#[derive(Debug)]
pub struct Accepted<IO> {
    /// The connection.
    pub stream: ServerStream<IO>,
    /// The common name in the certificate that was shown and found good; `None` if none was asked for,
    /// or it is empty.
    pub common_name: Option<String>,
}

/// A connection that was turned away, with what a log line says of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rejected {
    /// Why, in Go's words.
    pub error: String,
    /// The name that was asked for, if one was.
    pub server_name: String,
    /// The names in the certificate that was shown, if one was: addresses, and host names.
    pub names: Option<(Vec<String>, Vec<String>)>,
}

impl Rejected {
    /// Whether the other side went without a word, which is not worth more than a line for debugging.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        self.error == "EOF"
    }

    fn because(server_name: &str, error: impl Into<String>) -> Self {
        Rejected {
            error: error.into(),
            server_name: server_name.to_owned(),
            names: None,
        }
    }

    fn of(server_name: &str, error: impl Into<String>, holder: &Holder) -> Self {
        let addresses = holder.ip_addresses.iter().map(IpAddr::to_string).collect();
        Rejected {
            names: Some((addresses, holder.dns_names.clone())),
            ..Self::because(server_name, error)
        }
    }
}

/// What the files held when they were last read whole. Not for printing: there is a key among them.
#[derive(PartialEq, Eq)]
struct Files {
    cert: Vec<u8>,
    key: Vec<u8>,
    authorities: Option<Vec<u8>>,
}

/// What was made of them.
#[derive(Clone)]
struct Material {
    key: Arc<CertifiedKey>,
    /// `None` when nobody has to show a certificate.
    rules: Option<Arc<ClientRules>>,
}

struct Loaded {
    files: Files,
    material: Material,
}

/// The serial numbers of one list, or why they are not known, with the bytes they were read from.
#[derive(Default)]
struct Crl {
    bytes: Vec<u8>,
    serials: Option<Arc<BTreeSet<Vec<u8>>>>,
}

/// TLS for one kind of listener. The files are read again at every handshake; a pair that is broken or
/// half written leaves the last good one in use.
pub struct ServerTls {
    info: TlsInfo,
    provider: Arc<CryptoProvider>,
    protocols: Vec<Vec<u8>>,
    loaded: Mutex<Loaded>,
    crl: Mutex<Crl>,
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ServerTls({})", self.info)
    }
}

impl ServerTls {
    /// Reads the files and checks what the flags say. `protocols` are offered by ALPN, the best first.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(info: &TlsInfo, protocols: &[&str]) -> Result<Self, TlsError> {
        info.check()?;
        let provider = Arc::new(names::provider(info)?);
        let files = read_files(info)?;
        let material = make(info, &provider, &files)?;
        if !info.client_cert_file.is_empty() {
            // Not shown by a listener; a mistake in it should come out before anything is served.
            load::pair(
                &provider,
                (&info.client_cert_file, &load::read(&info.client_cert_file)?),
                (&info.client_key_file, &load::read(&info.client_key_file)?),
            )?;
        }
        let tls = ServerTls {
            info: info.clone(),
            provider,
            protocols: protocols.iter().map(|p| p.as_bytes().to_vec()).collect(),
            loaded: Mutex::new(Loaded { files, material }),
            crl: Mutex::default(),
        };
        tls.config(&Arc::default())?;
        Ok(tls)
    }

    /// What the flags say.
    #[must_use]
    pub fn info(&self) -> &TlsInfo {
        &self.info
    }

    /// Shakes hands over a fresh connection.
    ///
    /// # Errors
    /// Why the connection is turned away. It is closed by then.
    pub async fn accept<IO>(&self, io: IO) -> Result<Accepted<IO>, Rejected>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let mut server_name = String::new();
        let work = self.handshake(io, &mut server_name);
        match tokio::time::timeout(HANDSHAKE_TIMEOUT, work).await {
            Ok(result) => result,
            Err(_) => Err(Rejected::because(&server_name, "i/o timeout")),
        }
    }

    /// As [`ServerTls::accept`], and holds the certificate against the address it comes from, unless
    /// the flags say otherwise.
    ///
    /// # Errors
    /// As [`ServerTls::accept`].
    pub async fn accept_member<IO>(&self, io: IO, remote: IpAddr) -> Result<Accepted<IO>, Rejected>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let accepted = self.accept(io).await?;
        if self.info.skip_client_san_verify {
            return Ok(accepted);
        }
        let session = accepted.stream.get_ref().1;
        let shown = session.peer_certificates().and_then(|all| all.first());
        if let Some(certificate) = shown
            && let Err(error) = san::belongs_to(certificate, remote).await
        {
            let name = session.server_name().unwrap_or_default();
            return Err(Rejected::of(name, error, &Holder::of(certificate)));
        }
        Ok(accepted)
    }

    async fn handshake<IO>(
        &self,
        io: IO,
        server_name: &mut String,
    ) -> Result<Accepted<IO>, Rejected>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let failed =
            |name: &str, error: &io::Error| Err(Rejected::because(name, words::handshake(error)));
        let start = match LazyConfigAcceptor::new(rustls::server::Acceptor::default(), io).await {
            Ok(start) => start,
            Err(error) => return failed("", &error),
        };
        start
            .client_hello()
            .server_name()
            .unwrap_or_default()
            .clone_into(server_name);
        let verdict = Arc::new(Verdict::default());
        let config = match self.config(&verdict) {
            Ok(config) => config,
            Err(error) => return Err(Rejected::because(server_name, error.to_string())),
        };
        let settled = start.into_stream(Arc::new(config)).into_fallible().await;
        let settled = match settled {
            Ok(stream) => Ok(stream),
            Err((error, io)) => {
                part(io).await;
                Err(error)
            }
        };
        match settled {
            Ok(stream) => {
                let shown = stream.get_ref().1.peer_certificates();
                let common_name = shown
                    .and_then(|all| all.first())
                    .map(|certificate| Holder::of(certificate).common_name)
                    .filter(|name| !name.is_empty());
                Ok(Accepted {
                    stream,
                    common_name,
                })
            }
            Err(error) => match verdict.take() {
                Some((text, holder)) => Err(Rejected::of(server_name, text, &holder)),
                None => failed(server_name, &error),
            },
        }
    }

    /// The settings of one handshake.
    fn config(&self, verdict: &Arc<Verdict>) -> Result<ServerConfig, TlsError> {
        let material = self.current();
        let builder = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&names::versions(&self.info))
            .map_err(|error| TlsError::Library(error.to_string()))?;
        let builder = match material.rules {
            Some(rules) => builder.with_client_cert_verifier(Arc::new(ClientJudge {
                rules,
                revoked: self.revoked(),
                verdict: Arc::clone(verdict),
            })),
            None => builder.with_no_client_auth(),
        };
        let resolver = Arc::new(SingleCertAndKey::from(material.key));
        let mut config = builder.with_cert_resolver(resolver);
        config.alpn_protocols.clone_from(&self.protocols);
        // A session taken up again would pass by everything that has changed since.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(config)
    }

    /// Reads the files now, if they have changed.
    ///
    /// # Errors
    /// Why what they hold cannot be used; what was read before stays in use.
    pub fn reload(&self) -> Result<(), TlsError> {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        self.refresh(&mut loaded)
    }

    fn refresh(&self, loaded: &mut Loaded) -> Result<(), TlsError> {
        let files = read_files(&self.info)?;
        if files == loaded.files {
            return Ok(());
        }
        let material = make(&self.info, &self.provider, &files)?;
        *loaded = Loaded { files, material };
        tracing::info!(
            "cert-file" = self.info.cert_file,
            "trusted-ca-file" = self.info.trusted_ca_file,
            "read changed certificate files"
        );
        Ok(())
    }

    fn current(&self) -> Material {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = self.refresh(&mut loaded);
        if let Err(error) = fresh {
            let message = match &error {
                TlsError::Open { .. } => {
                    "failed to find peer cert files; going on with those read before"
                }
                _ => "failed to create peer certificate; going on with the one read before",
            };
            tracing::warn!(
                "cert-file" = self.info.cert_file,
                "key-file" = self.info.key_file,
                error = %error,
                "{message}"
            );
        }
        loaded.material.clone()
    }

    /// `None` when there is no list.
    fn revoked(&self) -> Option<Result<Arc<BTreeSet<Vec<u8>>>, TlsError>> {
        let path = &self.info.crl_file;
        if path.is_empty() {
            return None;
        }
        let bytes = match load::read(path) {
            Ok(bytes) => bytes,
            Err(error) => return Some(Err(error)),
        };
        let mut crl = self.crl.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(serials) = crl.serials.as_ref().filter(|_| crl.bytes == bytes) {
            return Some(Ok(Arc::clone(serials)));
        }
        Some(load::revoked(path, &bytes).map(|serials| {
            let serials = Arc::new(serials);
            *crl = Crl {
                bytes,
                serials: Some(Arc::clone(&serials)),
            };
            serials
        }))
    }
}

/// Ends a connection so that the alert arrives: with something unread, closing would throw it away with a reset.
async fn part<IO>(mut io: IO)
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let read = async {
        io.shutdown().await?;
        let mut left = PARTING_BYTES;
        let mut bytes = [0; 1024];
        while left > 0 {
            match io.read(&mut bytes).await? {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
        Ok::<_, io::Error>(())
    };
    // The connection is over one way or the other.
    let _over = tokio::time::timeout(PARTING_TIME, read).await;
}

fn read_files(info: &TlsInfo) -> Result<Files, TlsError> {
    Ok(Files {
        cert: load::read(&info.cert_file)?,
        key: load::read(&info.key_file)?,
        authorities: match info.trusted_ca_file.as_str() {
            "" => None,
            path => Some(load::read(path)?),
        },
    })
}

fn make(
    info: &TlsInfo,
    provider: &Arc<CryptoProvider>,
    files: &Files,
) -> Result<Material, TlsError> {
    let key = load::pair(
        provider,
        (&info.cert_file, &files.cert),
        (&info.key_file, &files.key),
    )?;
    let rules = if info.asks_for_certificates() {
        let authorities = match &files.authorities {
            Some(bytes) => Arc::new(load::authorities(&info.trusted_ca_file, bytes)?),
            None => load::system_authorities(),
        };
        let allowed = Allowed {
            common_names: info.allowed_cns.clone(),
            hostnames: info.allowed_hostnames.clone(),
        };
        Some(Arc::new(ClientRules::new(provider, authorities, allowed)?))
    } else {
        None
    };
    Ok(Material {
        key: Arc::new(key),
        rules,
    })
}
