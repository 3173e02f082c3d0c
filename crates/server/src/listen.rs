//! The addresses of the client port: which sockets are bound, and what is spoken on each.

use std::net::TcpListener;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ferrite_tls::{ServerTls, TlsInfo};

use crate::config::bind;
use crate::flags::Url;

/// What is spoken on a socket.
#[derive(Debug, Default)]
pub struct Speech {
    /// Clear text.
    pub plain: bool,
    /// TLS. With clear text too, the first byte tells which.
    pub tls: Option<Arc<ServerTls>>,
}

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    /// At an address.
    Tcp(TcpListener),
    /// At a path.
    Unix(UnixListener, SocketFile),
}

/// The file of a socket, gone when this is.
#[derive(Debug)]
pub struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Whoever starts next removes what is left.
        let _left = std::fs::remove_file(&self.0);
    }
}

/// One socket for clients.
#[derive(Debug)]
pub struct ClientPort {
    /// The socket.
    pub listener: Listener,
    /// Its address, for the log.
    pub address: String,
    /// What is spoken there.
    pub speech: Arc<Speech>,
}

/// Binds the addresses of client URLs; two URLs of one address share its socket.
///
/// # Errors
/// What is wrong, in the original's words.
pub fn client_ports(urls: &[Url], info: &TlsInfo) -> Result<Vec<ClientPort>, String> {
    for url in urls {
        if url.is_encrypted() {
            if info.is_empty() {
                return Err(format!(
                    "TLS key/cert (--cert-file, --key-file) must be provided for client url {url} with HTTPS scheme"
                ));
            }
            continue;
        }
        if !info.is_empty() {
            tracing::warn!(
                "client-url" = %url,
                "scheme is http or unix while key and cert files are present; ignoring key and cert files"
            );
        }
        if info.client_cert_auth {
            tracing::warn!(
                "client-url" = %url,
                "scheme is http or unix while --client-cert-auth is enabled; ignoring client cert auth for this URL"
            );
        }
    }
    let tls = if urls.iter().any(Url::is_encrypted) {
        let tls = ServerTls::new(info, &["h2", "http/1.1"]).map_err(|error| error.to_string())?;
        Some(Arc::new(tls))
    } else {
        None
    };
    let mut addresses: Vec<(&Url, Speech)> = Vec::new();
    for url in urls {
        let known = addresses.iter_mut().find(|(known, _)| {
            known.address == url.address && known.is_socket() == url.is_socket()
        });
        let speech = match known {
            Some((_, speech)) => speech,
            None => {
                addresses.push((url, Speech::default()));
                match addresses.last_mut() {
                    Some((_, speech)) => speech,
                    None => continue,
                }
            }
        };
        if url.is_encrypted() {
            speech.tls.clone_from(&tls);
        } else {
            speech.plain = true;
        }
    }
    addresses
        .into_iter()
        .map(|(url, speech)| {
            let (listener, address) = if url.is_socket() {
                (bind_path(&url.address)?, url.address.clone())
            } else {
                let listener = bind(url)?;
                let address = listener
                    .local_addr()
                    .map_or_else(|error| error.to_string(), |address| address.to_string());
                (Listener::Tcp(listener), address)
            };
            Ok(ClientPort {
                listener,
                address,
                speech: Arc::new(speech),
            })
        })
        .collect()
}

/// A socket that a process before us left behind is replaced; a file of another kind is not.
fn bind_path(path: &str) -> Result<Listener, String> {
    let failed = |error: &std::io::Error| {
        let text = match error.kind() {
            std::io::ErrorKind::AddrInUse => "address already in use".to_owned(),
            std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
            std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            _ => error.to_string(),
        };
        format!("listen unix {path}: bind: {text}")
    };
    let left = std::fs::symlink_metadata(Path::new(path));
    if left.is_ok_and(|left| left.file_type().is_socket()) {
        std::fs::remove_file(path).map_err(|error| failed(&error))?;
    }
    let listener = UnixListener::bind(path).map_err(|error| failed(&error))?;
    Ok(Listener::Unix(listener, SocketFile(path.into())))
}
