//! What one thread serves: each request goes to the service of gRPC that it names, or to plain HTTP, and
//! what the library words in its own way is worded as gRPC's own server words it.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use ::http::header::CONTENT_TYPE;
use ::http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
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
use tonic::body::Body;
use tonic::codec::CompressionEncoding::Gzip;
use tower_service::Service;

use crate::auth::Deadline;
use crate::conn::Encrypted;
use crate::deadline;
use crate::gateway::{self, Source};
use crate::http;
use crate::listen::Traffic;
use crate::metrics::calls::{self, Answered};
use crate::service::Context;
use crate::service::auth::AuthService;
use crate::service::cluster::ClusterService;
use crate::service::election::ElectionService;
use crate::service::health::HealthService;
use crate::service::kv::KvService;
use crate::service::lease::LeaseService;
use crate::service::lock::LockService;
use crate::service::maintenance::MaintenanceService;
use crate::service::stats::{self, Remote, Stats};
use crate::service::traced::Traced;
use crate::service::watch::WatchService;
use crate::spans::Sent;
use crate::web::{self, Routed};

/// A message may be larger than a request by this much before it is refused unread.
const RECEIVE_OVERHEAD: usize = 512 << 10;

/// Calls that are answered piece by piece: how long the first piece takes says nothing.
pub(crate) const STREAMS: &[&str] = &[
    "/etcdserverpb.KV/RangeStream",
    "/etcdserverpb.Watch/Watch",
    "/etcdserverpb.Lease/LeaseKeepAlive",
    "/etcdserverpb.Maintenance/Snapshot",
    "/grpc.health.v1.Health/Watch",
    "/v3electionpb.Election/Observe",
];

/// How a call says that its messages are compressed, and what it can read.
const ENCODING: &str = "grpc-encoding";
const ACCEPTED: &str = "grpc-accept-encoding";

/// The services there are.
const SERVICES: &[&str] = &[
    "etcdserverpb.KV",
    "etcdserverpb.Lease",
    "etcdserverpb.Watch",
    "etcdserverpb.Cluster",
    "etcdserverpb.Maintenance",
    "etcdserverpb.Auth",
    "grpc.health.v1.Health",
    "v3lockpb.Lock",
    "v3electionpb.Election",
];

/// The services whose calls have spans of their own.
type TracedServices = (
    KvServer<Traced<KvService>>,
    LeaseServer<Traced<LeaseService>>,
);

/// The services of one thread. A call takes a handle of the one that it names.
pub struct Services {
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
    /// For requests that are traced, where there are any.
    traced: Option<TracedServices>,
    receive_max: usize,
}

/// What all services have in common: compression where the caller compresses, and the limit of messages.
macro_rules! server {
    ($server:ident, $service:expr, $receive_max:expr) => {
        $server::new($service)
            .accept_compressed(Gzip)
            .send_compressed(Gzip)
            .max_decoding_message_size($receive_max)
            .max_encoding_message_size(i32::MAX as usize)
    };
}

impl Services {
    /// For one thread.
    pub fn new(context: Context) -> Self {
        let max = context.node.config().max_request_bytes + RECEIVE_OVERHEAD;
        Services {
            kv: server!(KvServer, KvService(context.clone()), max),
            lease: server!(LeaseServer, LeaseService(context.clone()), max),
            watch: server!(WatchServer, WatchService(context.clone()), max),
            cluster: server!(ClusterServer, ClusterService(context.clone()), max),
            maintenance: server!(MaintenanceServer, MaintenanceService(context.clone()), max),
            auth: server!(AuthServer, AuthService(context.clone()), max),
            health: server!(HealthServer, HealthService(context.clone()), max),
            lock: server!(LockServer, LockService(context.clone()), max),
            election: server!(ElectionServer, ElectionService(context.clone()), max),
            traced: context.tracer.as_ref().map(|_| {
                (
                    server!(KvServer, Traced(KvService(context.clone())), max),
                    server!(LeaseServer, Traced(LeaseService(context.clone())), max),
                )
            }),
            context,
            receive_max: max,
        }
    }

    /// What they all hold.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// Answers a request.
    ///
    /// # Errors
    /// None.
    pub async fn serve(
        self: &Arc<Self>,
        mut request: Request<Incoming>,
        traffic: Traffic,
        remote: &Remote,
    ) -> Result<Response<Answered<Body>>, Infallible> {
        let gateway = self.context.rules.gateway.is_some();
        if is_plain(&request, traffic, gateway) {
            let response = match web::serve(&self.context, &request, traffic).await {
                Routed::Answered(response) => {
                    http::pass_over(request.body_mut()).await;
                    response.map(|bytes| Body::new(Full::new(bytes)))
                }
                Routed::Gateway(path, sharing) => {
                    sharing.on(gateway::serve(self, &path, request, remote).await)
                }
            };
            return Ok(response.map(Answered::uncounted));
        }
        if let Some(refused) = not_a_call(&request) {
            return Ok(refused.map(Answered::uncounted));
        }
        self.answer(request, remote).await
    }

    /// Answers a call, whether it came over a connection of its own or by the gateway.
    ///
    /// # Errors
    /// None.
    pub async fn answer<B: Into<Source>>(
        &self,
        request: Request<B>,
        remote: &Remote,
    ) -> Result<Response<Answered<Body>>, Infallible> {
        let (request, call) = calls::begin(self.context.node.metrics(), request);
        let response = self.attend(request, &remote.0).await?;
        Ok(call.answer(response))
    }

    /// Bytes that a message may have.
    pub fn receive_max(&self) -> usize {
        self.receive_max
    }

    /// A call with all that is done around it.
    async fn attend(
        &self,
        mut request: Request<calls::Asked>,
        remote: &str,
    ) -> Result<Response<Body>, Infallible> {
        let started = Instant::now();
        let uri = request.uri().clone();
        let path = uri.path();
        let kind = content_kind(&request);
        let tracer = self.context.tracer.as_ref();
        let span = tracer.and_then(|tracer| tracer.arrived(request.headers(), path));
        if let Some(span) = &span {
            request.extensions_mut().insert(span.context());
        }
        let traced = span.is_some();
        let mut response = match deadline::of(request.headers()) {
            None => self.call(path, request, traced).await?,
            Some(deadline) => {
                let extensions = request.extensions_mut();
                extensions.insert(Deadline(deadline.into_std()));
                deadline::keep(deadline, self.call(path, request, traced)).await?
            }
        };
        if let Some(span) = span {
            response = Sent::with(response, span);
        }
        if !STREAMS.contains(&path) && !stats::TOLD.contains(&path) {
            let (took, limit) = (started.elapsed(), self.context.warn_unary);
            stats::tell(path, remote, took, limit, || Stats::UNCOUNTED);
        }
        if let Some(kind) = kind {
            response.headers_mut().insert(CONTENT_TYPE, kind);
        }
        Ok(response)
    }

    async fn call(
        &self,
        path: &str,
        mut request: Request<calls::Asked>,
        traced: bool,
    ) -> Result<Response<Body>, Infallible> {
        let Some((service, method)) = path.strip_prefix('/').unwrap_or(path).rsplit_once('/')
        else {
            return Ok(unimplemented(&format!("malformed method name: {path:?}")));
        };
        if SERVICES.contains(&service)
            && let Some(refused) = settle_compression(request.headers_mut())
        {
            return Ok(refused);
        }
        let traced = self.traced.as_ref().filter(|_| traced);
        let response = match (service, traced) {
            ("etcdserverpb.KV", Some((kv, _))) => kv.clone().call(request).await?,
            ("etcdserverpb.Lease", Some((_, lease))) => lease.clone().call(request).await?,
            ("etcdserverpb.KV", None) => self.kv.clone().call(request).await?,
            ("etcdserverpb.Lease", None) => self.lease.clone().call(request).await?,
            ("etcdserverpb.Watch", _) => self.watch.clone().call(request).await?,
            ("etcdserverpb.Cluster", _) => self.cluster.clone().call(request).await?,
            ("etcdserverpb.Maintenance", _) => self.maintenance.clone().call(request).await?,
            ("etcdserverpb.Auth", _) => self.auth.clone().call(request).await?,
            ("grpc.health.v1.Health", _) => self.health.clone().call(request).await?,
            ("v3lockpb.Lock", _) => self.lock.clone().call(request).await?,
            ("v3electionpb.Election", _) => self.election.clone().call(request).await?,
            (service, _) => return Ok(unimplemented(&format!("unknown service {service}"))),
        };
        let headers = response.headers();
        // The library says only that much of a method it does not know.
        if headers.get("grpc-status").is_some_and(|code| code == "12")
            && !headers.contains_key("grpc-message")
        {
            let text = format!("unknown method {method} for service {service}");
            return Ok(unimplemented(&text));
        }
        Ok(in_grpc_words(response, self.receive_max))
    }
}

/// The library words messages that are too large or badly compressed in its own way; clients know Go's.
pub(crate) fn in_grpc_words(mut response: Response<Body>, receive_max: usize) -> Response<Body> {
    let headers = response.headers_mut();
    let worded = match headers.get("grpc-status").map(HeaderValue::as_bytes) {
        Some(b"8" | b"11" | b"13") => headers
            .get("grpc-message")
            .and_then(|message| message.to_str().ok())
            // escaped spaces end in digits of their own
            .map(|message| message.replace("%20", " "))
            .and_then(|message| worded(&message, receive_max)),
        _ => None,
    };
    if let Some((code, text)) = worded
        && let Ok(text) = HeaderValue::from_str(&text.replace(' ', "%20"))
    {
        headers.insert("grpc-message", text);
        headers.insert("grpc-status", HeaderValue::from_static(code));
    }
    response
}

fn worded(message: &str, max: usize) -> Option<(&'static str, String)> {
    if message.contains("decoded message length too large") {
        let size = message
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|number| number.parse::<usize>().ok())
            .find(|number| *number > max)
            .unwrap_or(max + 1);
        let text = format!("grpc: received message larger than max ({size} vs. {max})");
        return Some(("8", text));
    }
    if message.contains("exceeded while decompressing message") {
        let text = format!("grpc: received message after decompression larger than max {max}");
        return Some(("8", text));
    }
    if message.starts_with("Error decompressing: ") {
        let why = match message {
            _ if message.contains("header") => "gzip: invalid header",
            _ if message.contains("checksum") => "gzip: invalid checksum",
            _ if message.contains("corrupt") => "flate: corrupt input",
            _ => "unexpected EOF",
        };
        let text = format!("grpc: failed to decompress the received message: {why}");
        return Some(("13", text));
    }
    if message.contains("message with compressed-flag but no grpc-encoding") {
        let text = "grpc: compressed flag set with identity or empty encoding";
        return Some(("13", text.to_owned()));
    }
    None
}

/// Over TLS a browser speaks HTTP/2 as well; in clear text nobody but gRPC does. Over TLS the path comes
/// first: what is below the gateway's is the gateway's, whatever it says it is. Then comes the content type.
fn is_plain(request: &Request<Incoming>, traffic: Traffic, gateway: bool) -> bool {
    match traffic {
        Traffic::Http | Traffic::Metrics => true,
        Traffic::Grpc => false,
        Traffic::Both => {
            let encrypted = request.extensions().get::<Encrypted>().is_some();
            request.version() != Version::HTTP_2
                || (encrypted
                    && (!names_grpc(content_type(request))
                        || request.method() == Method::OPTIONS
                        || (gateway && web::is_gateways(request.uri().path()))))
        }
    }
}

/// Whether a content type speaks of gRPC anywhere: the original asks no more than that.
fn names_grpc(kind: &[u8]) -> bool {
    const NAME: &[u8] = b"application/grpc";
    kind.windows(NAME.len()).any(|part| part == NAME)
}

fn content_type(request: &Request<Incoming>) -> &[u8] {
    request
        .headers()
        .get(CONTENT_TYPE)
        .map_or(b"", HeaderValue::as_bytes)
}

/// The content type to answer with, where a caller names the kind of its messages: the same kind.
/// All are decoded alike.
pub(crate) fn content_kind<B>(request: &Request<B>) -> Option<HeaderValue> {
    let kind = request.headers().get(CONTENT_TYPE)?.as_bytes();
    let kind = kind.strip_prefix(b"application/grpc")?;
    let (_, kind) = kind
        .split_first()
        .filter(|(first, rest)| b"+;".contains(first) && !rest.is_empty())?;
    let answer = [&b"application/grpc+"[..], kind].concat();
    HeaderValue::from_bytes(&answer.to_ascii_lowercase()).ok()
}

/// What gRPC's own server answers to requests that are none of its calls.
pub(crate) fn not_a_call(request: &Request<Incoming>) -> Option<Response<Body>> {
    const KIND: &[u8] = b"application/grpc";
    let rest = content_type(request)
        .split_at_checked(KIND.len())
        .filter(|(kind, _)| kind.eq_ignore_ascii_case(KIND))
        .map(|(_, rest)| rest);
    let refused = |status, error: tonic::Status| {
        let mut response = error.into_http();
        *response.status_mut() = status;
        Some(response)
    };
    if !rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';'))) {
        let kind = String::from_utf8_lossy(content_type(request)).into_owned();
        return refused(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            tonic::Status::invalid_argument(format!("invalid gRPC request content-type {kind:?}")),
        );
    }
    if request.method() != Method::POST {
        let method = request.method().as_str();
        return refused(
            StatusCode::METHOD_NOT_ALLOWED,
            tonic::Status::internal(format!(
                "Received a HEADERS frame with :method {method:?} which should be POST"
            )),
        );
    }
    None
}

/// Whoever compresses is answered compressed, whoever does not is not, whatever it could read: as gRPC's own
/// server, and because compression costs more than it saves within a cluster.
pub(crate) fn settle_compression(headers: &mut HeaderMap) -> Option<Response<Body>> {
    match headers.get(ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"" | b"identity") => {
            headers.remove(ENCODING);
            headers.remove(ACCEPTED);
            None
        }
        Some(b"gzip") => {
            headers.insert(ACCEPTED, HeaderValue::from_static("gzip"));
            None
        }
        Some(other) => {
            let other = String::from_utf8_lossy(other);
            Some(unimplemented(&format!(
                "grpc: Decompressor is not installed for grpc-encoding {other:?}"
            )))
        }
    }
}

pub(crate) fn unimplemented(text: &str) -> Response<Body> {
    tonic::Status::unimplemented(text).into_http()
}

/// A body of known bytes, for the peer port.
pub fn peer_body(bytes: Bytes) -> ferrite_peer::Body {
    ferrite_peer::full_body(bytes)
}
