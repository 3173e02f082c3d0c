//! Making and accepting connections, and the deadlines on every read and write.
//!
//! TLS enters here, by other implementations of [`Connector`] and [`Acceptor`]; nothing else in the crate
//! knows what a connection is made of.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, Sleep};

use crate::url::PeerUrl;

/// A boxed future that may move between threads.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A byte stream in both directions.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection of any kind.
pub type BoxedIo = Box<dyn Io>;

/// Makes connections to peers.
pub trait Connector: Send + Sync + 'static {
    /// Connects to the host of `url`, handshake included. The caller sets the time limit.
    fn connect<'a>(&'a self, url: &'a PeerUrl) -> BoxFuture<'a, io::Result<BoxedIo>>;
}

/// How a member's connections to others are made; clones share it.
#[derive(Clone)]
pub struct Dialer(pub Arc<dyn Connector>);

impl Default for Dialer {
    /// By plain TCP.
    fn default() -> Self {
        Dialer(Arc::new(PlainConnector::default()))
    }
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dialer")
    }
}

/// Why a connection is turned away before its first request, with what the log says of it.
#[derive(Clone, Debug, Default)]
pub struct TurnedAway {
    /// Why.
    pub error: String,
    /// The name it asked for.
    pub server_name: String,
    /// Addresses and host names in the certificate it showed, if it showed one.
    pub names: Option<(Vec<String>, Vec<String>)>,
    /// It went without a word: a line for debugging only.
    pub silent: bool,
}

/// Turns an accepted TCP connection into one that carries HTTP.
pub trait Acceptor: Send + Sync + 'static {
    /// Does what must happen before the first request, such as a TLS handshake, and sets its own time limit.
    fn accept(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
    ) -> BoxFuture<'_, Result<BoxedIo, TurnedAway>>;
}

/// Connects by plain TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainConnector {
    /// The address of this machine to connect from; whichever the system chooses without.
    pub from: Option<IpAddr>,
}

impl PlainConnector {
    /// Makes the connection.
    ///
    /// # Errors
    /// What the system says of the last address that was tried.
    pub async fn dial(&self, url: &PeerUrl) -> io::Result<TcpStream> {
        let stream = match self.from {
            None => TcpStream::connect((url.host(), url.port())).await?,
            Some(from) => dial_from(from, url).await?,
        };
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

async fn dial_from(from: IpAddr, url: &PeerUrl) -> io::Result<TcpStream> {
    let mut last = io::Error::new(
        io::ErrorKind::AddrNotAvailable,
        format!(
            "{} has no address that can be reached from {from}",
            url.host()
        ),
    );
    for to in tokio::net::lookup_host((url.host(), url.port())).await? {
        if to.is_ipv4() != from.is_ipv4() {
            continue;
        }
        let socket = if to.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        socket.bind(SocketAddr::new(from, 0))?;
        match socket.connect(to).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Connector for PlainConnector {
    fn connect<'a>(&'a self, url: &'a PeerUrl) -> BoxFuture<'a, io::Result<BoxedIo>> {
        Box::pin(async move {
            if url.is_tls() {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("peer URL {url} needs TLS, and this member has no peer TLS configured"),
                ));
            }
            Ok(Box::new(self.dial(url).await?) as BoxedIo)
        })
    }
}

/// Serves plain TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainAcceptor;

impl Acceptor for PlainAcceptor {
    fn accept(
        &self,
        stream: TcpStream,
        _remote: SocketAddr,
    ) -> BoxFuture<'_, Result<BoxedIo, TurnedAway>> {
        Box::pin(async move { Ok(Box::new(stream) as BoxedIo) })
    }
}

/// Connects within `limit`; a timeout reads like Go's. What a connector calls bad data is a handshake's own sentence.
pub(crate) async fn dial(
    connector: &dyn Connector,
    url: &PeerUrl,
    limit: Duration,
) -> io::Result<BoxedIo> {
    match tokio::time::timeout(limit, connector.connect(url)).await {
        Ok(Ok(io)) => Ok(io),
        Ok(Err(e)) if e.kind() == io::ErrorKind::InvalidData => Err(e),
        Ok(Err(e)) => Err(io::Error::new(
            e.kind(),
            format!("dial tcp {}:{}: connect: {e}", url.host(), url.port()),
        )),
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("dial tcp {}:{}: i/o timeout", url.host(), url.port()),
        )),
    }
}

/// What a connection is doing, which decides how long a read may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadMode {
    /// Waiting for a request, or for bytes of a stream: the read timeout.
    Waiting = 0,
    /// A request is being handled; its handler has its own limits. Only the long stop applies.
    Handling = 1,
    /// An outgoing stream: the other side has nothing to say.
    Silent = 2,
}

/// A request must have been read within this time (Go: the peer server's read timeout).
const REQUEST_READ_TIMEOUT: Duration = Duration::from_secs(300);

/// State shared between a connection's I/O and the code that serves it.
#[derive(Debug, Default)]
pub(crate) struct ConnState {
    // Low two bits: the mode; the rest counts changes, so that each change starts a fresh deadline.
    mode: AtomicU64,
    error: Mutex<Option<String>>,
}

impl ConnState {
    pub(crate) fn set_mode(&self, mode: ReadMode) {
        let old = self.mode.load(Ordering::Relaxed);
        self.mode
            .store((((old >> 2) + 1) << 2) | mode as u64, Ordering::Relaxed);
    }

    pub(crate) fn is_silent(&self) -> bool {
        self.mode.load(Ordering::Relaxed) & 3 == ReadMode::Silent as u64
    }

    /// The error that ended the connection, if it was one.
    pub(crate) fn take_error(&self) -> Option<String> {
        self.error.lock().take()
    }

    fn record(&self, error: &io::Error) {
        let mut slot = self.error.lock();
        if slot.is_none() {
            *slot = Some(error.to_string());
        }
    }
}

/// A wait for progress. The timer is armed once and only looked at when it fires, so progress costs no timer work.
#[derive(Default)]
struct Stall {
    since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Stall {
    fn progress(&mut self) {
        self.since = None;
    }

    /// Called when the operation is pending: ready once it has been for `limit`.
    fn poll_expired(&mut self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        let since = *self.since.get_or_insert_with(Instant::now);
        let deadline = since + limit;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        if timer.deadline() > deadline {
            timer.as_mut().reset(deadline);
        }
        loop {
            match timer.as_mut().poll(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(()) if Instant::now() >= deadline => return Poll::Ready(()),
                Poll::Ready(()) => timer.as_mut().reset(deadline),
            }
        }
    }
}

/// A connection whose reads and writes fail when they make no progress for too long.
pub(crate) struct DeadlineIo {
    io: BoxedIo,
    state: Arc<ConnState>,
    seen_mode: u64,
    read_limit: Option<Duration>,
    write_limit: Option<Duration>,
    reading: Stall,
    writing: Stall,
}

impl DeadlineIo {
    pub(crate) fn new(
        io: BoxedIo,
        state: Arc<ConnState>,
        read_limit: Option<Duration>,
        write_limit: Option<Duration>,
    ) -> DeadlineIo {
        DeadlineIo {
            io,
            state,
            seen_mode: 0,
            read_limit,
            write_limit,
            reading: Stall::default(),
            writing: Stall::default(),
        }
    }

    fn after_write<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        match &result {
            Poll::Ready(done) => {
                self.writing.progress();
                if let Err(e) = done {
                    self.state.record(e);
                }
                result
            }
            Poll::Pending => match self.write_limit {
                Some(limit) if self.writing.poll_expired(cx, limit).is_ready() => {
                    let error = io::Error::new(io::ErrorKind::TimedOut, "write tcp: i/o timeout");
                    self.state.record(&error);
                    Poll::Ready(Err(error))
                }
                _ => result,
            },
        }
    }
}

impl AsyncRead for DeadlineIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let result = Pin::new(&mut this.io).poll_read(cx, buf);
        if let Poll::Ready(done) = &result {
            this.reading.progress();
            if let Err(e) = done {
                this.state.record(e);
            }
            return result;
        }
        let mode = this.state.mode.load(Ordering::Relaxed);
        if mode != this.seen_mode {
            this.seen_mode = mode;
            this.reading.progress();
        }
        let limit = match (mode & 3, this.read_limit) {
            (_, None) => return Poll::Pending,
            (m, _) if m == ReadMode::Silent as u64 => return Poll::Pending,
            (m, _) if m == ReadMode::Handling as u64 => REQUEST_READ_TIMEOUT,
            (_, Some(limit)) => limit,
        };
        if this.reading.poll_expired(cx, limit).is_ready() {
            let error = io::Error::new(io::ErrorKind::TimedOut, "read tcp: i/o timeout");
            this.state.record(&error);
            return Poll::Ready(Err(error));
        }
        Poll::Pending
    }
}

impl AsyncWrite for DeadlineIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.after_write(cx, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(cx);
        self.after_write(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.after_write(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
