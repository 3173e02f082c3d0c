//! The dialling side: handshakes with whom we connect to.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_rustls::TlsConnector;

use crate::check::Allowed;
use crate::error::TlsError;
use crate::info::TlsInfo;
use crate::verify::{ServerJudge, ServerRules, Verdict};
use crate::{load, names, words};

/// What the files held when they were last read whole. Not for printing: there is a key among them.
#[derive(Default, PartialEq, Eq)]
struct Files {
    pair: Option<(Vec<u8>, Vec<u8>)>,
    authorities: Option<Vec<u8>>,
}

#[derive(Clone)]
struct Material {
    key: Option<Arc<CertifiedKey>>,
    rules: Arc<ServerRules>,
}

/// TLS for dialling. The files are read again for every connection; a pair that is broken or half
/// written leaves the last good one in use.
pub struct ClientTls {
    info: TlsInfo,
    provider: Arc<CryptoProvider>,
    protocols: Vec<Vec<u8>>,
    loaded: Mutex<(Files, Material)>,
}

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientTls({})", self.info)
    }
}

impl ClientTls {
    /// Reads the files and checks what the flags say. `protocols` are offered by ALPN, the best first.
    ///
    /// # Errors
    /// [`TlsError`].
    pub fn new(info: &TlsInfo, protocols: &[&str]) -> Result<Self, TlsError> {
        if !info.is_empty() {
            info.check()?;
        }
        let provider = Arc::new(names::provider(info)?);
        let files = read_files(info)?;
        let material = make(info, &provider, &files)?;
        Ok(ClientTls {
            info: info.clone(),
            provider,
            protocols: protocols.iter().map(|p| p.as_bytes().to_vec()).collect(),
            loaded: Mutex::new((files, material)),
        })
    }

    /// Shakes hands with a host, named by a name or an address. The caller sets the time limit.
    ///
    /// # Errors
    /// What went wrong, in Go's words.
    pub async fn connect<IO>(&self, host: &str, io: IO) -> io::Result<ClientStream<IO>>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let host = match self.info.server_name.as_str() {
            "" => host,
            name => name,
        };
        let refused = |text: String| io::Error::new(io::ErrorKind::InvalidData, text);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| refused(format!("x509: no certificate can be valid for {host:?}")))?;
        let verdict = Arc::new(Verdict::default());
        let config = self
            .config(host, &verdict)
            .map_err(|error| refused(error.to_string()))?;
        match TlsConnector::from(Arc::new(config)).connect(name, io).await {
            Ok(stream) => Ok(ClientStream {
                stream: Box::new(stream),
                heard: false,
            }),
            Err(error) => {
                let text = match verdict.take() {
                    Some((text, _)) => text,
                    None => words::handshake(&error),
                };
                Err(io::Error::new(error.kind(), text))
            }
        }
    }

    fn config(&self, host: &str, verdict: &Arc<Verdict>) -> Result<ClientConfig, TlsError> {
        let material = self.current();
        let judge = ServerJudge {
            rules: material.rules,
            host: host.to_owned(),
            verdict: Arc::clone(verdict),
        };
        let builder = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(&names::versions(&self.info))
            .map_err(|error| TlsError::Library(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(judge));
        let mut config = match material.key {
            Some(key) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(key))),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&self.protocols);
        config.resumption = Resumption::disabled();
        Ok(config)
    }

    fn current(&self) -> Material {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = read_files(&self.info).and_then(|files| {
            if files != loaded.0 {
                let material = make(&self.info, &self.provider, &files)?;
                *loaded = (files, material);
            }
            Ok(())
        });
        if let Err(error) = fresh {
            let message = match &error {
                TlsError::Open { .. } => {
                    "failed to find client cert files; going on with those read before"
                }
                _ => "failed to create client certificate; going on with the one read before",
            };
            let (cert, key) = shown(&self.info);
            tracing::warn!("cert-file" = cert, "key-file" = key, error = %error, "{message}");
        }
        loaded.1.clone()
    }
}

/// The files of the certificate that is shown when dialling.
fn shown(info: &TlsInfo) -> (&str, &str) {
    if info.client_cert_file.is_empty() {
        (&info.cert_file, &info.key_file)
    } else {
        (&info.client_cert_file, &info.client_key_file)
    }
}

fn read_files(info: &TlsInfo) -> Result<Files, TlsError> {
    let (cert, key) = shown(info);
    Ok(Files {
        pair: if cert.is_empty() {
            None
        } else {
            Some((load::read(cert)?, load::read(key)?))
        },
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
    let (cert_path, key_path) = shown(info);
    let key = match &files.pair {
        Some((cert, key)) => Some(Arc::new(load::pair(
            provider,
            (cert_path, cert),
            (key_path, key),
        )?)),
        None => None,
    };
    let skip = info.insecure_skip_verify || info.self_signed;
    let authorities = match &files.authorities {
        Some(bytes) => Arc::new(load::authorities(&info.trusted_ca_file, bytes)?),
        None if skip => Arc::new(load::Authorities::none()),
        None => load::system_authorities(),
    };
    let allowed = Allowed {
        common_names: info.allowed_cns.clone(),
        hostnames: info.allowed_hostnames.clone(),
    };
    Ok(Material {
        key,
        rules: Arc::new(ServerRules::new(provider, authorities, allowed, skip)),
    })
}

/// An encrypted connection whose errors are in Go's words: in TLS 1.3 the refusal of our certificate
/// comes only with the first bytes that are read.
///
/// Dropped, it says goodbye if the socket takes that at once: the other side sees an end and not a break.
#[derive(Debug)]
pub struct ClientStream<IO: AsyncRead + AsyncWrite + Unpin> {
    stream: Box<tokio_rustls::client::TlsStream<IO>>,
    /// Whether anything has been read.
    heard: bool,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Drop for ClientStream<IO> {
    fn drop(&mut self) {
        farewell(&mut self.stream);
    }
}

/// Sends what ends an encrypted connection in order, without waiting for a socket that does not take it.
pub(crate) fn farewell<S: AsyncWrite + Unpin>(stream: &mut S) {
    let mut cx = Context::from_waker(Waker::noop());
    let _taken = Pin::new(stream).poll_shutdown(&mut cx);
}

impl<IO: AsyncRead + AsyncWrite + Unpin> ClientStream<IO> {
    /// Whether both sides agreed on this protocol.
    #[must_use]
    pub fn speaks(&self, protocol: &str) -> bool {
        self.stream.get_ref().1.alpn_protocol() == Some(protocol.as_bytes())
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> ClientStream<IO> {
    /// A server that turns us away closes while we still write. Why it did so is among what has been
    /// received and not read yet, so a writer is left to believe that it succeeded until something has
    /// been read: whoever reads finds the reason.
    fn written<T>(
        &self,
        cx: &Context<'_>,
        result: Poll<io::Result<T>>,
        believed: T,
    ) -> Poll<io::Result<T>> {
        match result {
            Poll::Ready(Err(error))
                if !self.heard
                    && matches!(
                        error.kind(),
                        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
                    ) =>
            {
                cx.waker().wake_by_ref();
                Poll::Ready(Ok(believed))
            }
            result => reworded(result),
        }
    }
}

pub(crate) fn reworded<T>(result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
    result.map_err(|error| {
        let text = match error.kind() {
            io::ErrorKind::UnexpectedEof => "unexpected EOF".to_owned(),
            _ => words::handshake(&error),
        };
        io::Error::new(error.kind(), text)
    })
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for ClientStream<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = reworded(Pin::new(&mut self.stream).poll_read(cx, buf));
        self.heard |= result.is_ready();
        result
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ClientStream<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(cx, result, buf.len())
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.written(cx, result, ())
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        let all = bufs.iter().map(|buf| buf.len()).sum();
        self.written(cx, result, all)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
