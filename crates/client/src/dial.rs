//! One connection: socket, HTTP/2, and the server's first bytes.
//!
//! A connection counts as made only once the server has sent something. A member that is starting
//! has its socket bound and accepts nothing; a request written into such a socket would be neither
//! served nor safe to send elsewhere.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use ferrite_tls::ClientTls;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Notify;
use tonic::body::Body;

use crate::config::Config;
use crate::endpoint::{Address, Endpoint, Security};

/// Servers answer more frequent pings with a goodbye.
const KEEPALIVE_TIME_MIN: Duration = Duration::from_secs(10);
/// Enough for the largest response without stalling on window updates.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// The connection's window: h2 measures its budget for small frames by it.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Connects and says hello, within the dial timeout.
pub(crate) async fn dial(
    endpoint: &Endpoint,
    config: &Config,
) -> Result<SendRequest<Body>, String> {
    match tokio::time::timeout(config.dial_timeout, handshake(endpoint, config)).await {
        Ok(Ok(sender)) => Ok(sender),
        Ok(Err(error)) => Err(format!("dial {endpoint}: {error}")),
        Err(_) => Err(format!(
            "dial {endpoint}: no answer within {:?}",
            config.dial_timeout
        )),
    }
}

/// How to encrypt a connection to this endpoint; `None` for not at all.
pub(crate) fn tls_for<'a>(endpoint: &Endpoint, config: &'a Config) -> Option<&'a ClientTls> {
    match endpoint.security {
        Security::Plain => None,
        Security::Tls | Security::IfConfigured => config.tls.as_deref(),
    }
}

/// Connects to a host and port. A name with a dot at its end, as DNS gives it, is looked for in the files of this machine without it.
///
/// # Errors
/// What the system says.
pub async fn connect_tcp(address: &str) -> io::Result<TcpStream> {
    match TcpStream::connect(address).await {
        Err(error) => match address.rsplit_once(".:") {
            Some((host, port)) => TcpStream::connect(format!("{host}:{port}")).await,
            None => Err(error),
        },
        connected => connected,
    }
}

async fn handshake(endpoint: &Endpoint, config: &Config) -> Result<SendRequest<Body>, String> {
    let socket: Box<dyn Socket> = match &endpoint.address {
        Address::Tcp(authority) => {
            let stream = connect_tcp(authority.as_str())
                .await
                .map_err(|e| e.to_string())?;
            stream.set_nodelay(true).map_err(|e| e.to_string())?;
            Box::new(stream)
        }
        Address::Unix(path) => {
            Box::new(UnixStream::connect(path).await.map_err(|e| e.to_string())?)
        }
        Address::Unusable { reason, .. } => return Err((*reason).to_owned()),
    };
    let tls = tls_for(endpoint, config);
    let socket: Box<dyn Socket> = match tls {
        None => socket,
        Some(tls) => match tls.connect(&endpoint.server_name(), socket).await {
            Ok(stream) => Box::new(stream),
            Err(error) => {
                return Err(format!(
                    "connection error: desc = \"transport: authentication handshake failed: {error}\""
                ));
            }
        },
    };
    let encrypted = tls.is_some();
    let heard = Arc::new(Heard::default());
    let socket = Listening {
        socket,
        heard: Arc::clone(&heard),
    };
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(
            (!config.keepalive_time.is_zero())
                .then(|| config.keepalive_time.max(KEEPALIVE_TIME_MIN)),
        )
        .keep_alive_timeout(config.keepalive_timeout)
        .keep_alive_while_idle(config.keepalive_idle)
        .handshake(TokioIo::new(socket))
        .await
        .map_err(|e| e.to_string())?;
    let (ended_tx, ended) = tokio::sync::oneshot::channel();
    tokio::spawn(async move {
        let result = connection.await;
        // Nobody listens once the connection is in use; calls on it fail by themselves.
        let _ = ended_tx.send(result);
    });
    tokio::select! {
        () = heard.wait() => Ok(sender),
        end = ended => match end {
            // With TLS 1.3 the refusal of a certificate comes only now.
            Ok(Err(error)) if encrypted => Err(format!(
                "connection error: desc = \"error reading server preface: {}\"",
                innermost(&error)
            )),
            Ok(Err(error)) => Err(format!("the server does not speak HTTP/2 ({error}){}", perhaps(endpoint))),
            _ if encrypted => Err("the server closed the connection".to_owned()),
            // That is how a port that speaks TLS answers clear text.
            _ => Err(format!("the server closed the connection{}", perhaps(endpoint))),
        },
    }
}

/// A hint for whoever wrote http where https is.
fn perhaps(endpoint: &Endpoint) -> String {
    match &endpoint.address {
        Address::Tcp(authority) => format!("; perhaps it speaks TLS: https://{authority}?"),
        Address::Unix(_) => "; perhaps it speaks TLS: unixs://?".to_owned(),
        // Nobody was reached there.
        Address::Unusable { .. } => String::new(),
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

trait Socket: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Socket for T {}

/// Whether the peer has sent anything yet.
#[derive(Default)]
struct Heard {
    flag: AtomicBool,
    notify: Notify,
}

impl Heard {
    async fn wait(&self) {
        let notified = self.notify.notified();
        if !self.flag.load(Ordering::Acquire) {
            notified.await;
        }
    }
}

/// A socket that reports its first incoming bytes.
struct Listening {
    socket: Box<dyn Socket>,
    heard: Arc<Heard>,
}

impl AsyncRead for Listening {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.socket).poll_read(cx, buf);
        // A server's first frame is small, so it begins with a zero; neither an alert of TLS nor HTTP/1 does.
        let spoke = buf.filled().get(before) == Some(&0);
        if spoke && !self.heard.flag.swap(true, Ordering::AcqRel) {
            self.heard.notify.notify_waiters();
        }
        poll
    }
}

impl AsyncWrite for Listening {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}
