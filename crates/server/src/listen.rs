//! The addresses that are listened on: what the flags say of them, which sockets are bound, what is spoken
//! and what is served on each.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ferrite_tls::{ServerTls, TlsInfo};
use socket2::{Domain, Protocol, Socket, Type};

use crate::flags::{Url, Values};

/// Connections that the system keeps for us until they are accepted: it cuts this to its own limit.
const BACKLOG: i32 = 4096;
/// What `--grpc-keepalive-min-time=0` means: gRPC's own default.
pub(crate) const PING_MIN_DEFAULT: Duration = Duration::from_secs(300);
/// gRPC's servers ping no more often than this.
pub(crate) const PING_INTERVAL_MIN: Duration = Duration::from_secs(1);

/// What the flags say of listeners.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Where to serve HTTP alone; with any of them, other client addresses serve gRPC alone.
    pub http: Vec<Url>,
    /// Where to serve metrics and health.
    pub metrics: Vec<Url>,
    /// How sockets are bound.
    pub sockets: SocketOptions,
    /// What calls and pings are allowed.
    pub calls: Calls,
}

/// How sockets are bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// Others may bind the same address.
    pub reuse_port: bool,
    /// Bind an address of which connections are not forgotten yet. On by itself: as in Go, and in Rust.
    pub reuse_address: bool,
}

/// Limits of a connection by gRPC.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Calls {
    /// Calls at once.
    pub max: u32,
    /// Least time between two pings of a client.
    pub ping_min: Duration,
    /// Silence after which a client is pinged, and the time it has to answer.
    pub ping: Option<(Duration, Duration)>,
}

/// Reads the flags.
pub fn read(values: &Values) -> Settings {
    let interval = values.duration("grpc-keepalive-interval");
    let timeout = values.duration("grpc-keepalive-timeout");
    let pings = !interval.is_zero() && !timeout.is_zero();
    Settings {
        http: values.urls("listen-client-http-urls"),
        metrics: values.urls("listen-metrics-urls"),
        sockets: SocketOptions {
            reuse_port: values.bool("socket-reuse-port"),
            reuse_address: values.bool("socket-reuse-address"),
        },
        calls: Calls {
            max: match u32::try_from(values.unsigned("max-concurrent-streams")) {
                Ok(0) | Err(_) => u32::MAX,
                Ok(max) => max,
            },
            ping_min: match values.duration("grpc-keepalive-min-time") {
                Duration::ZERO => PING_MIN_DEFAULT,
                min => min,
            },
            ping: pings.then(|| (interval.max(PING_INTERVAL_MIN), timeout)),
        },
    }
}

/// What is spoken on a socket.
#[derive(Debug, Default)]
pub struct Speech {
    /// Clear text.
    pub plain: bool,
    /// TLS. With clear text too, the first byte tells which.
    pub tls: Option<Arc<ServerTls>>,
}

/// What is served on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// gRPC and HTTP.
    Both,
    /// gRPC alone.
    Grpc,
    /// HTTP alone.
    Http,
    /// Metrics and health alone.
    Metrics,
}

impl Traffic {
    /// As the log calls it.
    pub fn name(self) -> &'static str {
        match self {
            Traffic::Both => "grpc+http",
            Traffic::Grpc => "grpc",
            Traffic::Http => "http",
            Traffic::Metrics => "metrics",
        }
    }
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
    /// What is served there.
    pub traffic: Traffic,
}

/// Binds the addresses for clients; two URLs of one address share its socket.
///
/// # Errors
/// What is wrong, in the original's words.
pub fn client_ports(
    urls: &[Url],
    settings: &Settings,
    info: &TlsInfo,
) -> Result<Vec<ClientPort>, String> {
    for url in urls.iter().chain(&settings.http) {
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
    if let Some(url) = settings
        .http
        .iter()
        .find(|http| urls.iter().any(|url| same_address(url, http)))
    {
        return Err(format!(
            "cannot bind both --listen-client-urls and --listen-client-http-urls on the same url {url}"
        ));
    }
    let traffic = if settings.http.is_empty() {
        Traffic::Both
    } else {
        Traffic::Grpc
    };
    let mut ports = bind_all(urls, traffic, settings.sockets, info)?;
    ports.extend(bind_all(
        &settings.http,
        Traffic::Http,
        settings.sockets,
        info,
    )?);
    Ok(ports)
}

/// Binds the addresses for metrics.
///
/// # Errors
/// What is wrong, in the original's words.
pub fn metrics_ports(settings: &Settings, info: &TlsInfo) -> Result<Vec<ClientPort>, String> {
    if info.is_empty() && settings.metrics.iter().any(Url::is_encrypted) {
        return Err(
            "client TLS key/cert (--cert-file, --key-file) must be provided for metrics secure url"
                .into(),
        );
    }
    bind_all(&settings.metrics, Traffic::Metrics, settings.sockets, info)
}

fn same_address(a: &Url, b: &Url) -> bool {
    a.address == b.address && a.is_socket() == b.is_socket()
}

fn bind_all(
    urls: &[Url],
    traffic: Traffic,
    options: SocketOptions,
    info: &TlsInfo,
) -> Result<Vec<ClientPort>, String> {
    let tls = if urls.iter().any(Url::is_encrypted) {
        let protocols: &[&str] = match traffic {
            Traffic::Grpc => &["h2"],
            Traffic::Both | Traffic::Http | Traffic::Metrics => &["h2", "http/1.1"],
        };
        let tls = ServerTls::new(info, protocols).map_err(|error| error.to_string())?;
        Some(Arc::new(tls))
    } else {
        None
    };
    let mut addresses: Vec<(&Url, Speech)> = Vec::new();
    for url in urls {
        let known = addresses
            .iter_mut()
            .find(|(known, _)| same_address(known, url));
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
                let listener = bind(url, options)?;
                let address = listener
                    .local_addr()
                    .map_or_else(|error| error.to_string(), |address| address.to_string());
                (Listener::Tcp(listener), address)
            };
            Ok(ClientPort {
                listener,
                address,
                speech: Arc::new(speech),
                traffic,
            })
        })
        .collect()
}

/// Binds an address.
///
/// # Errors
/// What the system says, with the address, in Go's form.
pub fn bind(url: &Url, options: SocketOptions) -> Result<TcpListener, String> {
    if let Some(port) = url.bad_port() {
        return Err(format!("listen tcp: address {port}: invalid port"));
    }
    let failed = |why: String| format!("listen tcp {}: {why}", url.address);
    let (host, port) = url
        .host_port()
        .ok_or_else(|| failed("it is no address".into()))?;
    let mut addresses: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| failed(error.to_string()))?
        .collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let address = addresses
        .first()
        .ok_or_else(|| failed("it has no address".into()))?;
    open(*address, options).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => failed(
            "bind: address already in use (another process listens there: stop it, or choose another port)".into(),
        ),
        std::io::ErrorKind::PermissionDenied => failed("bind: permission denied".into()),
        std::io::ErrorKind::AddrNotAvailable => failed("bind: cannot assign requested address".into()),
        _ => failed(format!("bind: {error}")),
    })
}

fn open(address: SocketAddr, options: SocketOptions) -> std::io::Result<TcpListener> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    // Whatever the flag says: a restart must not wait until old connections are forgotten.
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
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
