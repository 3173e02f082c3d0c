//! The HTTP server of the peer port: routes of raft, limits of every connection.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use ferrite_proto::raftpb::MessageType;
use http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use prost::Message as _;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::body::{Body, full_body};
use crate::client::chain;
use crate::codec::{DecodeError, MESSAGE_LIMIT, MessageDecoder, decode_body};
use crate::config::Refused;
use crate::conn::{
    Acceptor, BoxFuture, ConnState, DeadlineIo, PlainAcceptor, ReadMode, TurnedAway,
};
use crate::headers::{self, CLUSTER_ID, PEER_URLS, RAFT_TO, SERVER_FROM, SERVER_VERSION};
use crate::logfmt::{hex, human_bytes, parse_hex, rfc3339, type_name};
use crate::peer::{Rejected, StreamKind, check_receiver, receive};
use crate::snapshot_recv::Saver;
use crate::stats::{Inflight, add};
use crate::stream_out::StreamBody;
use crate::transport::Transport;

/// Answers what the transport does not: `/members`, `/version`, `/leases` and so on. It sets limits on the bodies it reads.
pub type Fallback =
    Arc<dyn Fn(Request<Incoming>) -> BoxFuture<'static, Response<Body>> + Send + Sync>;

/// Longest message of a snapshot (the database behind it has no limit).
const SNAPSHOT_MESSAGE_LIMIT: u64 = 64 << 20;
/// Silence after which the system asks whether the other end is there, and again after as long.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);
/// Longest time connections get to finish their requests when the server stops.
const LINGER: Duration = Duration::from_secs(1);
/// Pause after an accept that failed for want of a resource.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the peer port over plain TCP until `shutdown` is ready; see [`serve_with`].
pub async fn serve(
    listener: TcpListener,
    transport: Transport,
    fallback: Fallback,
    shutdown: impl Future<Output = ()> + Send,
) {
    serve_with(
        listener,
        transport,
        fallback,
        Arc::new(PlainAcceptor),
        shutdown,
    )
    .await;
}

/// Serves `/raft`, `/raft/stream/…`, `/raft/snapshot` and `/raft/probing`, and hands everything else to `fallback`. Returns a moment after
/// `shutdown` is ready, when all connections are closed; stop the transport first to end its streams at once.
pub async fn serve_with(
    listener: TcpListener,
    transport: Transport,
    fallback: Fallback,
    acceptor: Arc<dyn Acceptor>,
    shutdown: impl Future<Output = ()> + Send,
) {
    let (stop, stopped) = watch::channel(false);
    let most = transport.shared.core.config.connections_max;
    let room = Arc::new(Semaphore::new(most));
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection on peer endpoint");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let Ok(permit) = room.clone().try_acquire_owned() else {
            tracing::warn!(
                "remote-addr" = %remote,
                error = format!("more than {most} connections"),
                "rejected connection on peer endpoint"
            );
            continue;
        };
        let server = Server {
            transport: transport.clone(),
            fallback: fallback.clone(),
            remote,
        };
        let acceptor = acceptor.clone();
        let stopped = stopped.clone();
        connections.spawn(async move {
            connection(server, acceptor, stream, stopped).await;
            drop(permit);
        });
    }
    drop(listener);
    stop.send_replace(true);
    let _ = tokio::time::timeout(LINGER, async {
        while connections.join_next().await.is_some() {}
    })
    .await;
    connections.shutdown().await;
}

async fn connection(
    server: Server,
    acceptor: Arc<dyn Acceptor>,
    stream: TcpStream,
    mut stopped: watch::Receiver<bool>,
) {
    let remote = server.remote;
    let (read_timeout, write_timeout) = {
        let config = &server.transport.shared.core.config;
        (config.read_timeout, config.write_timeout)
    };
    // Delayed small packets cost heartbeats forty milliseconds.
    let keepalive = TcpKeepalive::new()
        .with_time(TCP_KEEPALIVE)
        .with_interval(TCP_KEEPALIVE);
    let kept = stream
        .set_nodelay(true)
        .and_then(|()| SockRef::from(&stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = kept {
        tracing::warn!("remote-addr" = %remote, %error, "rejected connection on peer endpoint");
        return;
    }
    let accepted = tokio::select! {
        accepted = acceptor.accept(stream, remote) => accepted,
        _ = stopped.wait_for(|stop| *stop) => return,
    };
    let io = match accepted {
        Ok(io) => io,
        Err(why) => return turned_away(remote, &why),
    };
    let state = Arc::new(ConnState::default());
    let io = DeadlineIo::new(io, state.clone(), Some(read_timeout), Some(write_timeout));
    let server = Arc::new(server);
    let service_state = state.clone();
    let service = service_fn(move |request| {
        let server = server.clone();
        let state = service_state.clone();
        async move { Ok::<_, Infallible>(server.handle(request, state).await) }
    });
    let conn = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(read_timeout)
        .keep_alive(true)
        .serve_connection(TokioIo::new(io), service);
    let mut conn = std::pin::pin!(conn);
    let stopping = async { stopped.wait_for(|stop| *stop).await.is_ok() };
    tokio::select! {
        // Ends of connections are told by whoever used them.
        _ = conn.as_mut() => return,
        _ = stopping => {}
    }
    if !state.is_silent() {
        conn.as_mut().graceful_shutdown();
        let _ = conn.await;
    }
}

fn turned_away(remote: SocketAddr, why: &TurnedAway) {
    let (server_name, error) = (why.server_name.as_str(), why.error.as_str());
    match &why.names {
        _ if why.silent => tracing::debug!(
            "remote-addr" = %remote,
            "server-name" = server_name,
            error,
            "rejected connection on peer endpoint"
        ),
        Some((addresses, hosts)) => tracing::warn!(
            "remote-addr" = %remote,
            "server-name" = server_name,
            "ip-addresses" = ?addresses,
            "dns-names" = ?hosts,
            error,
            "rejected connection on peer endpoint"
        ),
        None => tracing::warn!(
            "remote-addr" = %remote,
            "server-name" = server_name,
            error,
            "rejected connection on peer endpoint"
        ),
    }
}

struct Server {
    transport: Transport,
    fallback: Fallback,
    remote: SocketAddr,
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(full_body(format!("{text}\n")));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        "x-content-type-options",
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// An answer that ends the checks.
type Refusal = Box<Response<Body>>;

fn refusal(status: StatusCode, text: &str) -> Refusal {
    Box::new(plain(status, text))
}

fn method_not_allowed(allow: &'static str) -> Response<Body> {
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static(allow));
    response
}

fn no_content() -> Response<Body> {
    let mut response = Response::new(full_body(""));
    *response.status_mut() = StatusCode::NO_CONTENT;
    response
}

/// The answer for a message that is not for this member, or from one that was removed.
///
/// The original's members take either for their own removal and stop; ours look at the text.
fn forbidden(why: Rejected) -> Option<Response<Body>> {
    let text = match why {
        Rejected::Removed => r#"{"message":"cannot process message from removed member"}"#,
        Rejected::Mismatch => r#"{"message":"cannot process message to mismatch member"}"#,
        Rejected::Refused(_) => return None,
    };
    let mut response = Response::new(full_body(text));
    *response.status_mut() = StatusCode::FORBIDDEN;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Some(response)
}

/// Why a body could not be read.
#[derive(Debug, thiserror::Error)]
enum BodyError {
    #[error("{}", chain(.0))]
    Http(#[from] hyper::Error),
    #[error("no byte of the body came within {0:?}")]
    Stalled(Duration),
    #[error("body longer than {0} bytes")]
    TooLarge(u64),
    #[error("unexpected EOF")]
    Cut,
    #[error("{0}")]
    Decode(#[from] DecodeError),
}

/// The next bytes of a body, each within the read timeout.
async fn next_chunk(body: &mut Incoming, limit: Duration) -> Result<Option<Bytes>, BodyError> {
    loop {
        match tokio::time::timeout(limit, body.frame()).await {
            Err(_) => return Err(BodyError::Stalled(limit)),
            Ok(None) => return Ok(None),
            Ok(Some(Err(e))) => return Err(e.into()),
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// Reads and drops the rest of a refused body for a while. Closing a connection on unread bytes resets it, and the
/// sender would see that instead of the answer; with the answer in hand it stops sending.
fn discard(mut body: Incoming, limit: Duration) {
    if !http_body::Body::is_end_stream(&body) {
        tokio::spawn(tokio::time::timeout(limit, async move {
            while let Ok(Some(_)) = next_chunk(&mut body, limit).await {}
        }));
    }
}

async fn read_whole(body: &mut Incoming, limit: Duration) -> Result<Bytes, BodyError> {
    let mut whole = BytesMut::new();
    while let Some(chunk) = next_chunk(body, limit).await? {
        if (whole.len() + chunk.len()) as u64 > MESSAGE_LIMIT {
            return Err(BodyError::TooLarge(MESSAGE_LIMIT));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.freeze())
}

impl Server {
    async fn handle(&self, request: Request<Incoming>, conn: Arc<ConnState>) -> Response<Body> {
        conn.set_mode(ReadMode::Handling);
        let path = request.uri().path();
        if path == "/raft" {
            return self.with_cluster_id(self.pipeline(request).await, conn);
        }
        if path == "/raft/snapshot" {
            return self.with_cluster_id(self.snapshot(request).await, conn);
        }
        if path == "/raft/probing" {
            conn.set_mode(ReadMode::Waiting);
            let now = rfc3339(SystemTime::now());
            let mut response =
                Response::new(full_body(format!("{{\"OK\":true,\"Now\":\"{now}\"}}\n")));
            response.headers_mut().insert(
                CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            );
            return response;
        }
        if path.starts_with("/raft/stream/") {
            return self.stream(&request, &conn);
        }
        if path.starts_with("/raft/") {
            conn.set_mode(ReadMode::Waiting);
            return plain(StatusCode::NOT_FOUND, "404 page not found");
        }
        let response = (self.fallback)(request).await;
        conn.set_mode(ReadMode::Waiting);
        response
    }

    /// All answers but 405 name the cluster.
    fn with_cluster_id(
        &self,
        mut response: Response<Body>,
        conn: Arc<ConnState>,
    ) -> Response<Body> {
        conn.set_mode(ReadMode::Waiting);
        if response.status() != StatusCode::METHOD_NOT_ALLOWED {
            let cluster = self.transport.shared.core.headers.cluster();
            response.headers_mut().insert(CLUSTER_ID, cluster);
        }
        response
    }

    fn check(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        headers::check(&self.transport.shared.core.config, headers)
            .map_err(|e| refusal(StatusCode::PRECONDITION_FAILED, &e.to_string()))
    }

    fn remember_sender(&self, headers: &HeaderMap) {
        if let Some(id) = parse_hex(headers::text(headers, SERVER_FROM)) {
            self.remember(id, headers);
        }
    }

    fn remember(&self, id: u64, headers: &HeaderMap) {
        let urls = headers::text(headers, PEER_URLS);
        if !urls.is_empty() {
            let urls: Vec<String> = urls.split(',').map(str::to_owned).collect();
            self.transport.add_remote(id, &urls);
        }
    }

    fn local(&self) -> String {
        hex(self.transport.shared.core.config.member_id)
    }

    fn unknown_failure(&self) {
        self.transport
            .shared
            .unknown_failures
            .fetch_add(1, Ordering::Relaxed);
    }

    fn unknown_snapshot_failure(&self) {
        self.transport
            .shared
            .unknown_snapshot_failures
            .fetch_add(1, Ordering::Relaxed);
    }

    async fn pipeline(&self, request: Request<Incoming>) -> Response<Body> {
        if request.method() != Method::POST {
            return method_not_allowed("POST");
        }
        let core = &self.transport.shared.core;
        let (parts, mut body) = request.into_parts();
        if let Err(refusal) = self.check(&parts.headers) {
            discard(body, core.config.read_timeout);
            return *refusal;
        }
        self.remember_sender(&parts.headers);
        let bytes = match read_whole(&mut body, core.config.read_timeout).await {
            Ok(bytes) => bytes,
            Err(error) => {
                tracing::warn!(
                    "local-member-id" = self.local(),
                    %error,
                    "failed to read Raft message"
                );
                self.unknown_failure();
                return plain(StatusCode::BAD_REQUEST, "error reading raft message");
            }
        };
        let len = bytes.len() as u64;
        let msg = match decode_body(bytes) {
            Ok(msg) => msg,
            Err(error) => {
                tracing::warn!(
                    "local-member-id" = self.local(),
                    %error,
                    "failed to unmarshal Raft message"
                );
                self.unknown_failure();
                return plain(StatusCode::BAD_REQUEST, "error unmarshalling raft message");
            }
        };
        add(&self.transport.counters(msg.from).received_bytes, len);
        match receive(core, msg) {
            Ok(()) => no_content(),
            Err(rejected) => forbidden(rejected).unwrap_or_else(|| {
                tracing::warn!(
                    "local-member-id" = self.local(),
                    error = refused_text(rejected),
                    "failed to process Raft message"
                );
                let mut response = plain(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    "error processing raft message",
                );
                response
                    .headers_mut()
                    .insert(CONNECTION, HeaderValue::from_static("close"));
                response
            }),
        }
    }

    async fn snapshot(&self, request: Request<Incoming>) -> Response<Body> {
        let begun = Instant::now();
        if request.method() != Method::POST {
            self.unknown_snapshot_failure();
            return method_not_allowed("POST");
        }
        let shared = &self.transport.shared;
        let core = &shared.core;
        let limit = core.config.read_timeout;
        let (parts, mut body) = request.into_parts();
        if let Err(refusal) = self.check(&parts.headers) {
            self.unknown_snapshot_failure();
            discard(body, limit);
            return *refusal;
        }
        self.remember_sender(&parts.headers);

        let mut decoder = MessageDecoder::new(SNAPSHOT_MESSAGE_LIMIT);
        let head = loop {
            match decoder.next_message() {
                Ok(Some(msg)) => break Ok(msg),
                Ok(None) => {}
                Err(error) => break Err(BodyError::from(error)),
            }
            match next_chunk(&mut body, limit).await {
                Ok(Some(chunk)) => decoder.feed(&chunk),
                Ok(None) => break Err(BodyError::Cut),
                Err(error) => break Err(error),
            }
        };
        let msg = match head {
            Ok(msg) => msg,
            Err(error) => {
                tracing::warn!(
                    "local-member-id" = self.local(),
                    %error,
                    "failed to decode Raft message"
                );
                self.unknown_failure();
                self.unknown_snapshot_failure();
                discard(body, limit);
                let text = format!("failed to decode raft message ({error})");
                return plain(StatusCode::BAD_REQUEST, &text);
            }
        };
        let first = decoder.into_rest();
        let from = hex(msg.from);
        let counters = self.transport.counters(msg.from);
        let message_size = msg.encoded_len() as u64;
        add(&counters.received_bytes, message_size);
        let failed = || add(&counters.snapshot_receive_failures, 1);
        if msg.msg_type != MessageType::MsgSnap as i32 {
            tracing::warn!(
                "local-member-id" = self.local(),
                "remote-snapshot-sender-id" = from,
                "message-type" = type_name(msg.msg_type),
                "unexpected Raft message type"
            );
            failed();
            discard(body, limit);
            return plain(StatusCode::BAD_REQUEST, "wrong raft message type");
        }
        let Some(index) = msg
            .snapshot
            .as_ref()
            .and_then(|s| s.metadata.as_ref())
            .map(|m| m.index)
        else {
            failed();
            discard(body, limit);
            let text = "failed to decode raft message (the snapshot has no metadata)";
            return plain(StatusCode::BAD_REQUEST, text);
        };
        // Before a database is written for nothing.
        if let Err(rejected) = check_receiver(core, &msg) {
            failed();
            if let Some(response) = forbidden(rejected) {
                discard(body, limit);
                return response;
            }
        }
        let _inflight = Inflight::new(counters.clone(), |c| &c.snapshot_receive_inflight);
        let _installing = shared.installing.lock().await;
        tracing::info!(
            "local-member-id" = self.local(),
            "remote-snapshot-sender-id" = from,
            "incoming-snapshot-index" = index,
            "incoming-snapshot-message-size-bytes" = message_size,
            "incoming-snapshot-message-size" = human_bytes(message_size),
            "receiving database snapshot"
        );
        let saved = self.save(&mut body, first, (index, &msg), limit).await;
        let size = match saved {
            Ok(size) => size,
            Err(error) => {
                tracing::warn!(
                    "local-member-id" = self.local(),
                    "remote-snapshot-sender-id" = from,
                    "incoming-snapshot-index" = index,
                    error,
                    "failed to save incoming database snapshot"
                );
                failed();
                discard(body, limit);
                let text = format!("failed to save KV snapshot ({error})");
                return plain(StatusCode::INTERNAL_SERVER_ERROR, &text);
            }
        };
        add(&counters.received_bytes, size);
        tracing::info!(
            "local-member-id" = self.local(),
            "remote-snapshot-sender-id" = from,
            "incoming-snapshot-index" = index,
            "incoming-snapshot-size-bytes" = size,
            "incoming-snapshot-size" = human_bytes(size),
            "download-took" = crate::logfmt::go_duration(begun.elapsed()),
            "received and saved database snapshot"
        );
        if let Err(rejected) = receive(core, msg) {
            failed();
            return forbidden(rejected).unwrap_or_else(|| {
                let error = refused_text(rejected);
                tracing::warn!(
                    "local-member-id" = self.local(),
                    "remote-snapshot-sender-id" = from,
                    error,
                    "failed to process Raft message"
                );
                let text = format!("failed to process raft message ({error})");
                plain(StatusCode::INTERNAL_SERVER_ERROR, &text)
            });
        }
        add(&counters.snapshot_receive_success, 1);
        counters.snapshot_receive_seconds.observe(begun.elapsed());
        no_content()
    }

    /// Streams the rest of a body to disk.
    async fn save(
        &self,
        body: &mut Incoming,
        first: Bytes,
        (index, msg): (u64, &ferrite_proto::raftpb::Message),
        limit: Duration,
    ) -> Result<u64, String> {
        let core = &self.transport.shared.core;
        let dir = core.config.snap_dir.clone();
        let (handler, msg) = (Arc::clone(&core.handler), msg.clone());
        let mut saver = Saver::start(dir, index, move |file| handler.check_snapshot(file, &msg));
        let mut chunk = first;
        loop {
            if !chunk.is_empty() && !saver.write(chunk).await {
                // The disk failed; finishing says how.
                break;
            }
            chunk = match next_chunk(body, limit).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => break,
                Err(error) => return Err(error.to_string()),
            };
        }
        let saved = saver.finish().await.map_err(|e| e.to_string())?;
        let handler = &self.transport.shared.core.handler;
        handler.saved_database(saved.took, saved.synced);
        Ok(saved.bytes)
    }

    fn stream(&self, request: &Request<Incoming>, conn: &Arc<ConnState>) -> Response<Body> {
        let mut response = match self.open_stream(request, conn) {
            Ok(response) => response,
            Err(refusal) => {
                conn.set_mode(ReadMode::Waiting);
                *refusal
            }
        };
        if response.status() != StatusCode::METHOD_NOT_ALLOWED {
            let own = &self.transport.shared.core.headers;
            response.headers_mut().insert(CLUSTER_ID, own.cluster());
            response.headers_mut().insert(SERVER_VERSION, own.version());
        }
        response
    }

    fn open_stream(
        &self,
        request: &Request<Incoming>,
        conn: &Arc<ConnState>,
    ) -> Result<Response<Body>, Refusal> {
        if request.method() != Method::GET {
            return Err(Box::new(method_not_allowed("GET")));
        }
        let headers = request.headers();
        self.check(headers)?;
        let core = &self.transport.shared.core;
        let path = request.uri().path();
        let (dir, last) = path.rsplit_once('/').unwrap_or((path, ""));
        let kind = [StreamKind::App, StreamKind::Message]
            .into_iter()
            .find(|kind| kind.path() == dir)
            .ok_or_else(|| refusal(StatusCode::NOT_FOUND, "invalid path"))?;
        let Some(from) = parse_hex(last) else {
            tracing::warn!(
                "local-member-id" = self.local(),
                "remote-peer-id-stream-handler" = self.local(),
                path = last,
                "failed to parse path into ID"
            );
            return Err(refusal(StatusCode::NOT_FOUND, "invalid from"));
        };
        if core.handler.is_removed(from) {
            tracing::warn!(
                "local-member-id" = self.local(),
                "remote-peer-id-stream-handler" = self.local(),
                "remote-peer-id-from" = hex(from),
                "rejected stream from remote peer because it was removed"
            );
            return Err(refusal(StatusCode::GONE, "removed member"));
        }
        let Some(peer) = self.transport.peer(from) else {
            self.remember(from, headers);
            tracing::warn!(
                "local-member-id" = self.local(),
                "remote-peer-id-stream-handler" = self.local(),
                "remote-peer-id-from" = hex(from),
                "cluster-id" = hex(core.config.cluster_id),
                "failed to find remote peer in cluster"
            );
            return Err(refusal(StatusCode::NOT_FOUND, "error sender not found"));
        };
        let to = headers::text(headers, RAFT_TO);
        if to != self.local() {
            tracing::warn!(
                "local-member-id" = self.local(),
                "remote-peer-id-stream-handler" = self.local(),
                "remote-peer-id-header" = to,
                "remote-peer-id-from" = hex(from),
                "cluster-id" = hex(core.config.cluster_id),
                "ignored streaming request; ID mismatch"
            );
            return Err(refusal(
                StatusCode::PRECONDITION_FAILED,
                "to field mismatch",
            ));
        }
        let body = StreamBody::attach(peer, kind, conn.clone());
        Ok(Response::new(body.boxed_unsync()))
    }
}

fn refused_text(rejected: Rejected) -> String {
    match rejected {
        Rejected::Refused(refused @ (Refused::Full | Refused::Stopped)) => refused.to_string(),
        Rejected::Removed => "removed member".to_owned(),
        Rejected::Mismatch => "mismatch member".to_owned(),
    }
}
