//! The proxy's connections: accepted, encrypted or not, and served by gRPC or by plain HTTP.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ::http::{HeaderValue, Request, Response};
use bytes::Bytes;
use ferrite_metrics::Metrics;
use ferrite_proxy::services::{RECEIVE_MAX, Services};
use ferrite_tls::ServerTls;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tonic::body::Body;

use super::pages::Pages;
use crate::conn::{self, Established, Protocol, establish};
use crate::deadline;
use crate::door::{CONNECTION_WINDOW, Counted, HEADER_TIMEOUT, Load, STREAM_WINDOW, TCP_KEEPALIVE};
use crate::listen::{Calls, Speech, Traffic};
use crate::metrics::calls::{self, Answered, Asked};
use crate::pings::{Activity, Paced};
use crate::readdress::Readdressed;
use crate::serve::{content_kind, in_grpc_words, not_a_call, settle_compression, unimplemented};

/// Pause after a connection that could not be accepted: there are no descriptors left, most likely.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// The threads that serve connections, each with a runtime of its own. A call that is answered from a cache, as
/// many are, is over before another thread would have been woken for it.
pub(super) struct Threads {
    runtimes: Vec<Handle>,
    next: AtomicUsize,
}

impl Threads {
    /// One for each processor. They end with the process.
    pub fn start() -> std::io::Result<Arc<Self>> {
        let count = std::thread::available_parallelism().map_or(1, usize::from);
        let mut runtimes = Vec::with_capacity(count);
        for number in 0..count {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtimes.push(runtime.handle().clone());
            std::thread::Builder::new()
                .name(format!("clients-{number}"))
                .spawn(move || runtime.block_on(std::future::pending::<()>()))?;
        }
        Ok(Arc::new(Threads {
            runtimes,
            next: AtomicUsize::new(0),
        }))
    }

    /// Whose turn it is.
    fn next(&self) -> Option<&Handle> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        self.runtimes.get(turn % self.runtimes.len().max(1))
    }
}

/// What connections are served with.
pub(super) struct Server {
    pub services: Services,
    pub pages: Pages,
    pub calls: Calls,
    pub metrics: Arc<Metrics>,
    /// Every call gets a line in the log.
    pub log_calls: bool,
    pub load: Arc<Load>,
}

/// Accepts until the future is dropped.
pub(super) async fn serve(
    listener: TcpListener,
    tls: Option<Arc<ServerTls>>,
    traffic: Traffic,
    server: Arc<Server>,
    threads: Arc<Threads>,
) {
    let speech = Arc::new(Speech {
        plain: tls.is_none(),
        tls,
    });
    loop {
        match listener.accept().await {
            Ok((stream, remote)) => {
                let (speech, server) = (Arc::clone(&speech), Arc::clone(&server));
                // A socket belongs to the runtime that waits for it.
                let (Ok(stream), Some(thread)) = (stream.into_std(), threads.next()) else {
                    continue;
                };
                thread.spawn(async move {
                    if let Ok(stream) = TcpStream::from_std(stream) {
                        connection(stream, remote, speech, traffic, server).await;
                    }
                });
            }
            Err(error) => {
                tracing::warn!(error = %error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: TcpStream,
    remote: SocketAddr,
    speech: Arc<Speech>,
    traffic: Traffic,
    server: Arc<Server>,
) {
    let _counted = Counted::new(&server.load, |load| &load.connections);
    let keepalive = TcpKeepalive::new()
        .with_time(TCP_KEEPALIVE)
        .with_interval(TCP_KEEPALIVE);
    let _kept = stream
        .set_nodelay(true)
        .and_then(|()| SockRef::from(&stream).set_tcp_keepalive(&keepalive));
    let socket = conn::Socket::Tcp(stream);
    let remote = remote.to_string();
    let established = establish(socket, &speech, traffic, &remote, HEADER_TIMEOUT).await;
    let Some(Established {
        stream,
        protocol,
        caller,
    }) = established
    else {
        return;
    };
    let encrypted = caller.is_some();
    let _ended = match protocol {
        Protocol::Http1 => {
            let service = service_fn(move |request: Request<Incoming>| {
                let server = Arc::clone(&server);
                async move { Ok::<_, Infallible>(server.page(&request, encrypted).await) }
            });
            http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEADER_TIMEOUT)
                .title_case_headers(true)
                .serve_connection(TokioIo::new(stream), service)
                .await
        }
        Protocol::Http2 => {
            let activity = Arc::new(Activity::new(Instant::now()));
            let min = Some(server.calls.ping_min);
            let stream = Readdressed::new(Paced::new(stream, min, &activity));
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .initial_connection_window_size(CONNECTION_WINDOW)
                .initial_stream_window_size(STREAM_WINDOW)
                .max_concurrent_streams(server.calls.max);
            if let Some((interval, timeout)) = server.calls.ping {
                builder
                    .keep_alive_interval(Some(interval))
                    .keep_alive_timeout(timeout);
            }
            let service = service_fn(move |request: Request<Incoming>| {
                let (server, remote) = (Arc::clone(&server), remote.clone());
                let call = activity.begin(Instant::now());
                async move {
                    let answer = server.call(request, traffic, encrypted, &remote).await?;
                    call.answers();
                    // The call lasts until its answer is out.
                    Ok::<_, Infallible>(answer.map(|body| Body::new(Held(body, call))))
                }
            });
            builder
                .serve_connection(TokioIo::new(stream), service)
                .await
        }
    };
}

/// A body that holds something until it is out.
struct Held<B, T>(B, T);

impl<B, T> http_body::Body for Held<B, T>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    T: Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, B::Error>>> {
        std::pin::Pin::new(&mut self.get_mut().0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.0.size_hint()
    }
}

impl Server {
    async fn page<B>(&self, request: &Request<B>, encrypted: bool) -> Response<Full<Bytes>> {
        let (method, path) = (request.method(), request.uri().path());
        let answer = self.pages.serve(method, path, request.headers(), encrypted);
        answer.await.map(Full::new)
    }

    /// A request by HTTP/2: a call, and nothing else, but where metrics alone are served.
    async fn call(
        &self,
        request: Request<Incoming>,
        traffic: Traffic,
        encrypted: bool,
        remote: &str,
    ) -> Result<Response<Answered<Body>>, Infallible> {
        if traffic == Traffic::Metrics {
            let answer = self.page(&request, encrypted).await;
            return Ok(answer.map(|body| Answered::uncounted(Body::new(body))));
        }
        if let Some(refused) = not_a_call(&request) {
            return Ok(refused.map(Answered::uncounted));
        }
        let counted = Counted::new(&self.load, |load| &load.calls);
        let (request, ongoing) = calls::begin(&self.metrics, request);
        let answer = self.attend(request, remote).await?;
        drop(counted);
        Ok(ongoing.answer(answer))
    }

    async fn attend(
        &self,
        mut request: Request<Asked>,
        remote: &str,
    ) -> Result<Response<Body>, Infallible> {
        let started = Instant::now();
        let path = request.uri().path().to_owned();
        let kind = content_kind(&request);
        let Some((service, method)) = path.strip_prefix('/').unwrap_or(&path).rsplit_once('/')
        else {
            return Ok(unimplemented(&format!("malformed method name: {path:?}")));
        };
        if let Some(refused) = settle_compression(request.headers_mut()) {
            return Ok(refused);
        }
        let deadline = deadline::of(request.headers());
        let request = request.map(Body::new);
        let call = async {
            let answer = self.services.call(service, method, request).await?;
            Ok::<_, Infallible>(match answer {
                Some(answer) => answer,
                None => unimplemented(&format!("unknown service {service}")),
            })
        };
        let mut answer = match deadline {
            None => call.await?,
            Some(deadline) => deadline::keep(deadline, call).await?,
        };
        let headers = answer.headers();
        let code = headers.get("grpc-status").map(HeaderValue::as_bytes);
        if code == Some(b"12") && !headers.contains_key("grpc-message") {
            answer = unimplemented(&format!("unknown method {method} for service {service}"));
        }
        answer = in_grpc_words(answer, RECEIVE_MAX);
        if let Some(kind) = kind {
            answer
                .headers_mut()
                .insert(::http::header::CONTENT_TYPE, kind);
        }
        if self.log_calls {
            let code = answer.headers().get("grpc-status");
            let code = code.and_then(|code| code.to_str().ok()).unwrap_or("0");
            tracing::info!(
                "grpc.service" = service,
                "grpc.method" = method,
                "peer.address" = remote,
                "grpc.code" = code,
                took = ?started.elapsed(),
                "answered a call"
            );
        }
        Ok(answer)
    }
}
