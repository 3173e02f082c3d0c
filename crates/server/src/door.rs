//! Connections of clients: accepted in one place for each address, pinned to one of a few threads, each
//! with a runtime of its own, and ended when the server stops or their place is wanted.

use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use ::http::header::UPGRADE;
use ::http::{Request, Response};
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::sync::{mpsc, watch};
use tonic::body::Body;

use crate::conn::{Encrypted, Established, Protocol, RawSocket, Socket, establish};
use crate::listen::{Calls, ClientPort, Listener, Speech, Traffic};
use crate::memory;
use crate::metrics::calls::Answered;
use crate::pings::{Call, Paced};
use crate::readdress::Readdressed;
use crate::room::{Place, Room};
use crate::serve::Services;
use crate::service::Context;
use crate::service::stats::Remote;
use crate::untaken::{self, Account, Claim, Untaken, Weight};

/// Threads that serve clients: half of the machine, at least one, at most eight.
const THREADS_MAX: usize = 8;
/// Bytes one connection may have under way: h2 lets go of healthy connections below 16 MiB.
pub(crate) const CONNECTION_WINDOW: u32 = 16 << 20;
/// Bytes one call may have under way.
pub(crate) const STREAM_WINDOW: u32 = 2 << 20;
/// Time for a connection to send its first headers, or the next: the original's.
pub(crate) const HEADER_TIMEOUT: Duration = Duration::from_secs(300);
/// Silence after which the system asks whether the other end is there, and again after as long.
pub(crate) const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// Time that calls have to finish when a connection is to end.
const LINGER: Duration = Duration::from_millis(500);

/// Accepts on listeners and serves until told to stop.
pub struct ClientServer {
    threads: Vec<std::thread::JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

/// Why clients cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot start serving clients: {0}")]
pub struct ServeError(#[from] std::io::Error);

/// What one thread has to do, for whoever wants to know.
#[derive(Debug, Default)]
pub struct Load {
    /// Connections it serves.
    pub connections: AtomicUsize,
    /// Calls under way on them.
    pub calls: AtomicUsize,
}

/// A thread's name, and what it has to do.
type Named = (String, Arc<Load>);

/// The threads that serve, by name, with what they have to do.
#[derive(Debug, Clone, Default)]
pub struct Loads(Arc<parking_lot::Mutex<Vec<Named>>>);

impl Loads {
    pub(crate) fn add(&self, name: &str) -> Arc<Load> {
        let load = Arc::new(Load::default());
        self.0.lock().push((name.to_owned(), Arc::clone(&load)));
        load
    }

    /// Each thread's name, connections and calls.
    pub fn list(&self) -> Vec<(String, usize, usize)> {
        self.0
            .lock()
            .iter()
            .map(|(name, load)| {
                let connections = load.connections.load(Ordering::Relaxed);
                (
                    name.clone(),
                    connections,
                    load.calls.load(Ordering::Relaxed),
                )
            })
            .collect()
    }
}

/// One more for as long as it lives.
pub(crate) struct Counted(Arc<Load>, fn(&Load) -> &AtomicUsize);

impl Counted {
    pub(crate) fn new(load: &Arc<Load>, which: fn(&Load) -> &AtomicUsize) -> Self {
        which(load).fetch_add(1, Ordering::Relaxed);
        Counted(Arc::clone(load), which)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many threads serve clients.
pub fn client_threads() -> usize {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    (cores / 2).clamp(1, THREADS_MAX)
}

impl ClientServer {
    /// Starts so many threads that serve, and one that accepts for each port. The listeners are bound
    /// already.
    ///
    /// # Errors
    /// A thread or runtime that cannot be made.
    pub fn start(
        ports: Vec<ClientPort>,
        context: &Context,
        name: &str,
        count: usize,
    ) -> Result<Self, ServeError> {
        let (stop, stopped) = watch::channel(false);
        let untaken = Untaken::new(untaken::limit(memory::usable(
            context.node.config().memory_limit,
        )));
        let mut inboxes = Vec::new();
        let mut threads = Vec::new();
        for index in 0..count.max(1) {
            let (inbox, connections) = mpsc::unbounded_channel::<Arrived>();
            inboxes.push(inbox);
            let name = format!("{name}-{index}");
            let server = Server {
                services: Arc::new(Services::new(context.clone())),
                calls: context.calls,
                load: context.loads.add(&name),
                untaken: Arc::clone(&untaken),
            };
            let stopped = stopped.clone();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let thread = std::thread::Builder::new()
                .name(name)
                .spawn(move || runtime.block_on(serve_connections(connections, server, stopped)))?;
            threads.push(thread);
        }
        let inboxes = Arc::new(inboxes);
        let next = Arc::new(AtomicUsize::new(0));
        for port in ports {
            match &port.listener {
                Listener::Tcp(listener) => listener.set_nonblocking(true)?,
                Listener::Unix(listener, _) => listener.set_nonblocking(true)?,
            }
            let inboxes = Arc::clone(&inboxes);
            let next = Arc::clone(&next);
            let room = context.room.clone();
            let stopped = stopped.clone();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let thread = std::thread::Builder::new()
                .name("accept".into())
                .spawn(move || runtime.block_on(accept(port, &inboxes, &next, &room, stopped)))?;
            threads.push(thread);
        }
        Ok(ClientServer { threads, stop })
    }

    /// Stops accepting and ends every connection; calls under way get a moment to finish.
    pub fn stop(self) {
        self.stop.send_replace(true);
        for thread in self.threads {
            // A thread that panicked has nothing left to stop.
            let _panicked = thread.join();
        }
    }
}

/// A connection that was accepted, on its way to the thread that serves it.
struct Arrived {
    socket: RawSocket,
    speech: Arc<Speech>,
    traffic: Traffic,
    remote: String,
    place: Place,
}

/// A listener in the runtime that accepts.
enum Door {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

impl Door {
    async fn accept(&self) -> std::io::Result<(RawSocket, String)> {
        match self {
            Door::Tcp(listener) => {
                let (stream, remote) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let keepalive = TcpKeepalive::new()
                    .with_time(TCP_KEEPALIVE)
                    .with_interval(TCP_KEEPALIVE);
                SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                Ok((RawSocket::Tcp(stream.into_std()?), remote.to_string()))
            }
            Door::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                // As Go names the other end of a socket that has no name.
                Ok((RawSocket::Unix(stream.into_std()?), "@".to_owned()))
            }
        }
    }
}

async fn accept(
    port: ClientPort,
    inboxes: &[mpsc::UnboundedSender<Arrived>],
    next: &AtomicUsize,
    room: &Room,
    mut stopped: watch::Receiver<bool>,
) {
    // The socket's file goes when this function ends.
    let (door, _file) = match port.listener {
        Listener::Tcp(listener) => (
            tokio::net::TcpListener::from_std(listener).map(Door::Tcp),
            None,
        ),
        Listener::Unix(listener, file) => (
            tokio::net::UnixListener::from_std(listener).map(Door::Unix),
            Some(file),
        ),
    };
    let door = match door {
        Ok(door) => door,
        Err(error) => {
            tracing::error!(error = %error, "cannot accept connections on a client address");
            return;
        }
    };
    loop {
        // A place only once there is somebody for it: nobody loses one for nothing.
        let arrival = async {
            match door.accept().await {
                Ok((socket, remote)) => Ok((socket, remote, room.take().await)),
                Err(error) => Err(error),
            }
        };
        let accepted = tokio::select! {
            accepted = arrival => accepted,
            _ = stopped.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((socket, remote, place)) => {
                let index = next.fetch_add(1, Ordering::Relaxed) % inboxes.len();
                if let Some(inbox) = inboxes.get(index) {
                    let speech = Arc::clone(&port.speech);
                    let _stopping = inbox.send(Arrived {
                        socket,
                        speech,
                        traffic: port.traffic,
                        remote,
                        place,
                    });
                }
            }
            Err(error) => {
                tracing::warn!(error = %error, "rejected connection on client endpoint");
                // Out of descriptors, most likely: waiting is all that helps.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// What a thread serves connections with.
#[derive(Clone)]
struct Server {
    services: Arc<Services>,
    calls: Calls,
    load: Arc<Load>,
    untaken: Arc<Untaken>,
}

async fn serve_connections(
    mut connections: mpsc::UnboundedReceiver<Arrived>,
    server: Server,
    mut stopped: watch::Receiver<bool>,
) {
    tokio::spawn(server.services.context().node.clone().serve_port());
    let open = Arc::new(());
    loop {
        let arrived = tokio::select! {
            arrived = connections.recv() => arrived,
            _ = stopped.wait_for(|stop| *stop) => None,
        };
        let Some(arrived) = arrived else { break };
        let Ok(socket) = Socket::try_from(arrived.socket) else {
            continue;
        };
        let (speech, remote) = (arrived.speech, arrived.remote);
        let (traffic, place) = (arrived.traffic, arrived.place);
        let guard = Arc::clone(&open);
        let server = server.clone();
        let mut stopped = stopped.clone();
        let counted = Counted::new(&server.load, |load| &load.connections);
        tokio::spawn(async move {
            let established = tokio::select! {
                established = establish(socket, &speech, traffic, &remote, HEADER_TIMEOUT) => {
                    established
                }
                () = place.activity.unwanted.notified() => None,
                _ = stopped.wait_for(|stop| *stop) => None,
            };
            if let Some(established) = established {
                serve_connection(established, remote, traffic, &place, server, stopped).await;
            }
            drop((place, counted, guard));
        });
    }
    // Connections see the same signal; a moment is enough to send what is ready.
    let deadline = tokio::time::Instant::now() + LINGER;
    while Arc::strong_count(&open) > 1 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a connection goes on with when it leaves HTTP; in the extensions of requests that ask for that.
#[derive(Clone, Default)]
pub struct Afterwards(Arc<parking_lot::Mutex<Option<Rest>>>);

/// The rest of a connection.
type Rest = Pin<Box<dyn Future<Output = ()> + Send>>;

impl Afterwards {
    /// Goes on with this, once the answer is out.
    pub fn set(&self, rest: impl Future<Output = ()> + Send + 'static) {
        *self.0.lock() = Some(Box::pin(rest));
    }

    fn take(&self) -> Option<Rest> {
        self.0.lock().take()
    }
}

type ServeFuture = Pin<Box<dyn Future<Output = Result<Response<Answering>, Infallible>> + Send>>;

async fn serve_connection(
    established: Established,
    remote: String,
    traffic: Traffic,
    place: &Place,
    server: Server,
    mut stopped: watch::Receiver<bool>,
) {
    let Established {
        stream,
        protocol,
        caller,
    } = established;
    let activity = Arc::clone(&place.activity);
    let limits = server.calls;
    let encrypted = caller.is_some();
    let remote = Remote(remote.into());
    let account = server.untaken.account(&activity, Arc::clone(&remote.0));
    let afterwards = Afterwards::default();
    let load = Arc::clone(&server.load);
    let later = afterwards.clone();
    let service = service_fn(move |mut request: Request<Incoming>| -> ServeFuture {
        let call = activity.begin(Instant::now());
        let counted = Counted::new(&server.load, |load| &load.calls);
        mark(&mut request, caller.as_ref());
        let remote = remote.clone();
        request.extensions_mut().insert(remote.clone());
        if protocol == Protocol::Http1 && request.headers().contains_key(UPGRADE) {
            request.extensions_mut().insert(later.clone());
        }
        let services = Arc::clone(&server.services);
        let account = Arc::clone(&account);
        Box::pin(async move {
            let mut response = services.serve(request, traffic, &remote).await?;
            call.answers();
            let weight = response.extensions_mut().remove::<Weight>();
            let claim = weight.map(|Weight(bytes)| account.claim(bytes));
            Ok(response.map(|body| Answering {
                body,
                call,
                _counted: counted,
                account,
                claim,
            }))
        })
    });
    match protocol {
        Protocol::Http1 => {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .title_case_headers(true)
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            run_to_end(connection, place, stopped.clone(), |connection| {
                connection.graceful_shutdown();
            })
            .await;
            if let Some(rest) = afterwards.take() {
                let _call = place.activity.begin(Instant::now());
                let _counted = Counted::new(&load, |load| &load.calls);
                tokio::select! {
                    () = rest => {}
                    _stopping = async { stopped.wait_for(|stop| *stop).await.is_ok() } => {}
                }
            }
        }
        Protocol::Http2 => {
            // Where TLS is shared with HTTP the original's gRPC runs on another library, which keeps no
            // policy of pings.
            let min = (!encrypted || traffic == Traffic::Grpc).then_some(limits.ping_min);
            let stream = Readdressed::new(Paced::new(stream, min, &place.activity));
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .initial_connection_window_size(CONNECTION_WINDOW)
                .initial_stream_window_size(STREAM_WINDOW)
                .max_concurrent_streams(limits.max);
            if let Some((interval, timeout)) = limits.ping {
                builder
                    .keep_alive_interval(Some(interval))
                    .keep_alive_timeout(timeout);
            }
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            run_to_end(connection, place, stopped, |connection| {
                connection.graceful_shutdown();
            })
            .await;
        }
    }
}

fn mark(request: &mut Request<Incoming>, caller: Option<&Encrypted>) {
    if let Some(caller) = caller {
        let extensions = request.extensions_mut();
        if let Some(name) = &caller.0 {
            extensions.insert(name.clone());
        }
        extensions.insert(caller.clone());
    }
}

/// Serves until the other side goes, the server stops or the place is wanted for another.
async fn run_to_end<C, E>(
    connection: C,
    place: &Place,
    mut stopped: watch::Receiver<bool>,
    say_goodbye: impl FnOnce(Pin<&mut C>),
) where
    C: Future<Output = Result<(), E>>,
{
    let mut connection = pin!(connection);
    tokio::select! {
        _ended = connection.as_mut() => return,
        // The guard this yields must not live on beside the connection.
        _stopping = async { stopped.wait_for(|stop| *stop).await.is_ok() } => {}
        () = place.activity.unwanted.notified() => {}
    }
    if place.activity.evicted() {
        return;
    }
    say_goodbye(connection.as_mut());
    let _ended = tokio::time::timeout(LINGER, connection).await;
}

/// An answer on its way: the call is under way until it is out.
struct Answering {
    body: Answered<Body>,
    call: Call,
    _counted: Counted,
    account: Arc<Account>,
    /// Of an answer that waits to be encoded.
    claim: Option<Claim>,
}

impl http_body::Body for Answering {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let this = self.get_mut();
        let frame = Pin::new(&mut this.body).poll_frame(cx);
        frame.map(|frame| {
            frame.inspect(|_| this.call.answers()).map(|frame| {
                // From here on its pieces are what is kept.
                this.claim = None;
                frame.map(|frame| frame.map_data(|bytes| this.account.count(bytes)))
            })
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
