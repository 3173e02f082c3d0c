//! The client port: connections are accepted in one place and pinned to one of a few threads, each
//! with a runtime of its own; gRPC and plain HTTP are told apart by the first bytes.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderValue, Request, Response, Version};
use bytes::Bytes;
use ferrite_proto::etcdserverpb::auth_server::AuthServer;
use ferrite_proto::etcdserverpb::cluster_server::ClusterServer;
use ferrite_proto::etcdserverpb::kv_server::KvServer;
use ferrite_proto::etcdserverpb::lease_server::LeaseServer;
use ferrite_proto::etcdserverpb::maintenance_server::MaintenanceServer;
use ferrite_proto::etcdserverpb::watch_server::WatchServer;
use ferrite_proto::grpc_health_v1::health_server::HealthServer;
use ferrite_proto::v3electionpb::election_server::ElectionServer;
use ferrite_proto::v3lockpb::lock_server::LockServer;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::sync::{mpsc, watch};
use tonic::body::Body;
use tower_service::Service;

use crate::auth::CertificateName;
use crate::conn::{Encrypted, RawSocket, Socket, Stream, establish};
use crate::http;
use crate::listen::{ClientPort, Listener, Speech};
use crate::metrics;
use crate::metrics::calls::{self, Answered};
use crate::readdress::Readdressed;
use crate::service::Context;
use crate::service::auth::AuthService;
use crate::service::cluster::ClusterService;
use crate::service::election::ElectionService;
use crate::service::health::HealthService;
use crate::service::kv::KvService;
use crate::service::lease::LeaseService;
use crate::service::lock::LockService;
use crate::service::maintenance::MaintenanceService;
use crate::service::watch::WatchService;

/// Threads that serve clients: half of the machine, at least one, at most eight.
const THREADS_MAX: usize = 8;
/// Bytes one connection may have under way: h2 lets go of healthy connections below 16 MiB.
const CONNECTION_WINDOW: u32 = 16 << 20;
/// Bytes one call may have under way.
const STREAM_WINDOW: u32 = 2 << 20;
/// Time for a connection to send its first headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(300);
/// A message may be larger than a request by this much before it is refused unread.
const RECEIVE_OVERHEAD: usize = 512 << 10;

/// Calls that are answered piece by piece: how long the first piece takes says nothing.
const STREAMS: &[&str] = &[
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/etcdserverpb.Maintenance/Snapshot",
    "/grpc.health.v1.Health/Watch",
    "/v3electionpb.Election/Observe",
];

/// The services of one thread.
#[derive(Clone)]
struct Services {
    context: Context,
    kv: KvServer<KvService>,
    lease: LeaseServer<LeaseService>,
    watch: WatchServer<WatchService>,
    cluster: ClusterServer<ClusterService>,
    maintenance: MaintenanceServer<MaintenanceService>,
    auth: AuthServer<AuthService>,
    health: HealthServer<HealthService>,
    lock: LockServer<LockService>,
    election: ElectionServer<ElectionService>,
    receive_max: usize,
}

impl Services {
    fn new(context: Context) -> Self {
        let receive_max = context.node.config().max_request_bytes + RECEIVE_OVERHEAD;
        Services {
            kv: KvServer::new(KvService(context.clone()))
                .max_decoding_message_size(receive_max)
                .max_encoding_message_size(i32::MAX as usize),
            lease: LeaseServer::new(LeaseService(context.clone()))
                .max_decoding_message_size(receive_max),
            watch: WatchServer::new(WatchService(context.clone()))
                .max_decoding_message_size(receive_max),
            cluster: ClusterServer::new(ClusterService(context.clone()))
                .max_decoding_message_size(receive_max),
            maintenance: MaintenanceServer::new(MaintenanceService(context.clone()))
                .max_decoding_message_size(receive_max),
            auth: AuthServer::new(AuthService(context.clone()))
                .max_decoding_message_size(receive_max),
            health: HealthServer::new(HealthService(context.clone())),
            lock: LockServer::new(LockService(context.clone()))
                .max_decoding_message_size(receive_max),
            election: ElectionServer::new(ElectionService(context.clone()))
                .max_decoding_message_size(receive_max),
            context,
            receive_max,
        }
    }

    async fn serve(
        &mut self,
        request: Request<Incoming>,
    ) -> Result<Response<Answered<Body>>, Infallible> {
        if request.version() != Version::HTTP_2 || is_plain_over_tls(&request) {
            return Ok(self.plain(&request).await.map(Answered::uncounted));
        }
        let (request, call) = calls::begin(self.context.node.metrics(), request);
        let response = self.call(request).await?;
        Ok(call.answer(response))
    }

    async fn call(&mut self, request: Request<calls::Asked>) -> Result<Response<Body>, Infallible> {
        let started = Instant::now();
        let uri = request.uri().clone();
        let path = uri.path();
        let service = path
            .strip_prefix('/')
            .and_then(|rest| rest.split_once('/'))
            .map(|(service, _)| service);
        let response = match service {
            Some("etcdserverpb.KV") => self.kv.call(request).await?,
            Some("etcdserverpb.Lease") => self.lease.call(request).await?,
            Some("etcdserverpb.Watch") => self.watch.call(request).await?,
            Some("etcdserverpb.Cluster") => self.cluster.call(request).await?,
            Some("etcdserverpb.Maintenance") => self.maintenance.call(request).await?,
            Some("etcdserverpb.Auth") => self.auth.call(request).await?,
            Some("grpc.health.v1.Health") => self.health.call(request).await?,
            Some("v3lockpb.Lock") => self.lock.call(request).await?,
            Some("v3electionpb.Election") => self.election.call(request).await?,
            Some(service) => return Ok(unimplemented(&format!("unknown service {service}"))),
            None => return Ok(unimplemented(&format!("malformed method name: {path:?}"))),
        };
        let took = started.elapsed();
        if took > self.context.warn_unary && !STREAMS.contains(&path) {
            let failed = response.headers().get("grpc-status");
            tracing::warn!(
                "time spent" = ?took,
                "response type" = path,
                "grpc status" = failed.and_then(|code| code.to_str().ok()).unwrap_or("0"),
                "expected-duration" = ?self.context.warn_unary,
                "request stats"
            );
        }
        Ok(self.in_grpc_words(response))
    }

    /// The library words a message that is too large in its own way; clients know Go's.
    fn in_grpc_words(&self, mut response: Response<Body>) -> Response<Body> {
        let headers = response.headers_mut();
        if headers
            .get("grpc-status")
            .is_some_and(|status| status == "11")
            && let Some(message) = headers
                .get("grpc-message")
                .and_then(|message| message.to_str().ok())
                // escaped spaces end in digits of their own
                .map(|message| message.replace("%20", " "))
            && message.contains("decoded message length too large")
        {
            let size = message
                .split(|c: char| !c.is_ascii_digit())
                .filter_map(|number| number.parse::<usize>().ok())
                .find(|number| *number > self.receive_max);
            let text = format!(
                "grpc:%20received%20message%20larger%20than%20max%20({}%20vs.%20{})",
                size.unwrap_or(self.receive_max + 1),
                self.receive_max
            );
            if let Ok(text) = HeaderValue::from_str(&text) {
                headers.insert("grpc-message", text);
                headers.insert("grpc-status", HeaderValue::from_static("8"));
            }
        }
        response
    }

    async fn plain(&self, request: &Request<Incoming>) -> Response<Body> {
        let uri = request.uri();
        // The JSON gateway calls with the server's own certificate: the caller's would not count.
        let named = request.extensions().get::<CertificateName>();
        if named.is_some_and(|name| !name.0.is_empty())
            && uri.path().starts_with("/v3/")
            && self.context.node.auth().enabled()
        {
            return http::certificate_ignored().map(|bytes| Body::new(Full::new(bytes)));
        }
        if uri.path() == metrics::PATH {
            let response = metrics::respond(&self.context.node, request.headers());
            return response.map(|bytes| Body::new(Full::new(bytes)));
        }
        let response = http::client(
            &self.context.node,
            request.method(),
            uri.path(),
            uri.query().unwrap_or_default(),
        )
        .await;
        response.map(|bytes| Body::new(Full::new(bytes)))
    }
}

/// Over TLS a browser speaks HTTP/2 as well; in clear text nobody but gRPC does.
fn is_plain_over_tls(request: &Request<Incoming>) -> bool {
    request.extensions().get::<Encrypted>().is_some()
        && !request
            .headers()
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

fn unimplemented(text: &str) -> Response<Body> {
    tonic::Status::unimplemented(text).into_http()
}

/// Accepts on the listeners and serves until told to stop.
pub struct ClientServer {
    threads: Vec<std::thread::JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

/// Why the client port cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("cannot start serving clients: {0}")]
pub struct ServeError(#[from] std::io::Error);

impl ClientServer {
    /// Starts the threads. The listeners are bound already.
    ///
    /// # Errors
    /// A thread or runtime that cannot be made.
    pub fn start(ports: Vec<ClientPort>, context: &Context) -> Result<Self, ServeError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let count = (cores / 2).clamp(1, THREADS_MAX);
        let (stop, stopped) = watch::channel(false);
        let mut inboxes = Vec::new();
        let mut threads = Vec::new();
        for index in 0..count {
            let (inbox, connections) = mpsc::unbounded_channel::<Arrived>();
            inboxes.push(inbox);
            let services = Services::new(context.clone());
            let stopped = stopped.clone();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let thread = std::thread::Builder::new()
                .name(format!("client-{index}"))
                .spawn(move || {
                    runtime.block_on(serve_connections(connections, services, stopped))
                })?;
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
            let stopped = stopped.clone();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            let thread = std::thread::Builder::new()
                .name("accept".into())
                .spawn(move || runtime.block_on(accept(port, &inboxes, &next, stopped)))?;
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
    remote: String,
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
        let accepted = tokio::select! {
            accepted = door.accept() => accepted,
            _ = stopped.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((socket, remote)) => {
                let index = next.fetch_add(1, Ordering::Relaxed) % inboxes.len();
                if let Some(inbox) = inboxes.get(index) {
                    let speech = Arc::clone(&port.speech);
                    let _stopping = inbox.send(Arrived {
                        socket,
                        speech,
                        remote,
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

async fn serve_connections(
    mut connections: mpsc::UnboundedReceiver<Arrived>,
    services: Services,
    mut stopped: watch::Receiver<bool>,
) {
    tokio::spawn(services.context.node.clone().serve_port());
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
        let guard = Arc::clone(&open);
        let services = services.clone();
        let mut stopped = stopped.clone();
        tokio::spawn(async move {
            let established = tokio::select! {
                established = establish(socket, &speech, &remote) => established,
                _ = stopped.wait_for(|stop| *stop) => None,
            };
            if let Some((stream, caller)) = established {
                serve_connection(stream, caller, services, stopped).await;
            }
            drop(guard);
        });
    }
    // Connections see the same signal; half a second is enough to send what is ready.
    let deadline = tokio::time::Instant::now() + Duration::from_millis(500);
    while Arc::strong_count(&open) > 1 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

type ServeFuture =
    Pin<Box<dyn Future<Output = Result<Response<Answered<Body>>, Infallible>> + Send>>;

async fn serve_connection(
    stream: Readdressed<Stream>,
    caller: Option<Encrypted>,
    services: Services,
    mut stopped: watch::Receiver<bool>,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .max_concurrent_streams(u32::MAX)
        .keep_alive_interval(Some(Duration::from_secs(2 * 3600)))
        .keep_alive_timeout(Duration::from_secs(20));
    let service = service_fn(move |mut request: Request<Incoming>| -> ServeFuture {
        if let Some(caller) = &caller {
            let extensions = request.extensions_mut();
            if let Some(name) = &caller.0 {
                extensions.insert(name.clone());
            }
            extensions.insert(caller.clone());
        }
        let mut services = services.clone();
        Box::pin(async move { services.serve(request).await })
    });
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let stopping = tokio::select! {
        _ended = connection.as_mut() => false,
        // The guard this yields must not live on beside the connection.
        stopping = async { stopped.wait_for(|stop| *stop).await.is_ok() } => stopping,
    };
    if stopping {
        connection.as_mut().graceful_shutdown();
        // The thread itself gives up after a moment.
        let _ended = connection.await;
    }
}

/// A body of known bytes, for the peer port.
pub fn peer_body(bytes: Bytes) -> ferrite_peer::Body {
    ferrite_peer::full_body(bytes)
}
