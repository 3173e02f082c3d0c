//! The services of the proxy. What it has no business with goes to a member as it came: bytes are passed
//! on, no message is looked at.

use std::convert::Infallible;
use std::sync::Arc;

use bytes::Bytes;
use ferrite_client::{Channel, Client};
use ferrite_metrics::Metrics;
use ferrite_proto::etcdserverpb::kv_server::KvServer;
use ferrite_proto::etcdserverpb::lease_server::LeaseServer;
use ferrite_proto::etcdserverpb::watch_server::WatchServer;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use prost::Message as _;
use tonic::Status;
use tonic::body::Body;
use tonic::codec::CompressionEncoding::Gzip;
use tower_service::Service as _;

use crate::call::{Members, SharedKv, bare};
use crate::cluster::{Advertised, Proxies};
use crate::kv::KvService;
use crate::leader::Leader;
use crate::lease::LeaseService;
use crate::leasing::Leased;
use crate::namespace::{Below, Namespace};
use crate::ordering::Ordered;
use crate::watch::WatchService;

/// The largest message of a client: gRPC's own default, which the original leaves as it is.
pub const RECEIVE_MAX: usize = 4 << 20;
/// gRPC's message prefix: a compression flag and the length.
const PREFIX_BYTES: usize = 5;

/// What the flags say of calls.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// What all keys of clients get in front.
    pub namespace: String,
    /// Reads never go back.
    pub ordering: bool,
    /// What leasing keys begin with; empty for none.
    pub leasing: String,
    /// How the proxy is to be known.
    pub advertised: Advertised,
}

/// All of them; clones share everything.
#[derive(Clone)]
pub struct Services {
    channel: Channel,
    kv: KvServer<KvService>,
    watch: WatchServer<WatchService>,
    lease: LeaseServer<LeaseService>,
    proxies: Proxies,
    store: SharedKv,
    leased: Option<Arc<Leased>>,
}

/// Messages compressed where the caller compresses, and no larger than is allowed.
macro_rules! server {
    ($server:ident, $service:expr) => {
        $server::new($service)
            .accept_compressed(Gzip)
            .send_compressed(Gzip)
            .max_decoding_message_size(RECEIVE_MAX)
            .max_encoding_message_size(i32::MAX as usize)
    };
}

impl Services {
    /// Before these members. With ordering and with leasing it waits until a member has answered.
    pub async fn start(client: Client, settings: Settings, metrics: &Arc<Metrics>) -> Self {
        let mut kv: SharedKv = Arc::new(Members(client.clone()));
        if settings.ordering {
            let members = client.channel().config().endpoints.len();
            let ordered = Arc::new(Ordered::new(kv, members));
            tracing::info!("waiting for linearized read from cluster to recover ordering");
            while let Err(status) = ordered.catch_up().await {
                let error = ferrite_client::describe(&status);
                tracing::warn!(error, "ordering recovery failed, retrying in 1s");
                tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            }
            kv = ordered;
        }
        let namespace = Namespace::new(&settings.namespace);
        if !namespace.is_empty() {
            kv = Arc::new(Below::new(kv, namespace.clone()));
        }
        // Questions of rights and of health are not for what this proxy knows by itself.
        let store = Arc::clone(&kv);
        let mut leased = None;
        if !settings.leasing.is_empty() {
            let layer = Leased::start(client.clone(), kv, &namespace, &settings.leasing).await;
            let layer = Arc::new(layer);
            kv = Arc::<Leased>::clone(&layer);
            leased = Some(layer);
        }
        let leader = Leader::new(client.clone());
        let kv_service = KvService::new(Arc::clone(&kv), Arc::clone(metrics));
        let watch = WatchService::new(
            client.clone(),
            Arc::clone(&store),
            namespace.clone(),
            leader.clone(),
            Arc::clone(metrics),
        );
        let lease = LeaseService::new(client.clone(), namespace.clone(), leader);
        Services {
            channel: client.channel().clone(),
            kv: server!(KvServer, kv_service),
            watch: server!(WatchServer, watch),
            lease: server!(LeaseServer, lease),
            proxies: Proxies::start(&client, &kv, &namespace, settings.advertised),
            store,
            leased,
        }
    }

    /// Gives back what others may want.
    pub async fn leave(&self) {
        if let Some(leased) = &self.leased {
            leased.leave().await;
        }
    }

    /// The store as clients see it, answered by members.
    #[must_use]
    pub fn store(&self) -> &SharedKv {
        &self.store
    }

    /// Answers a call; `None` for a service that is not there.
    ///
    /// # Errors
    /// None.
    pub async fn call(
        &self,
        service: &str,
        method: &str,
        request: Request<Body>,
    ) -> Result<Option<Response<Body>>, Infallible> {
        let answer = match (service, method) {
            ("etcdserverpb.KV", _) => self.kv.clone().call(request).await?,
            ("etcdserverpb.Watch", _) => self.watch.clone().call(request).await?,
            ("etcdserverpb.Lease", _) => self.lease.clone().call(request).await?,
            ("etcdserverpb.Cluster", "MemberPromote") => {
                Status::unknown("not implemented").into_http()
            }
            ("etcdserverpb.Cluster", "MemberList") => match self.proxies.list() {
                Ok(Some(list)) => one_message(&list.encode_to_vec()),
                Ok(None) => self.pass_on(request).await,
                Err(status) => status.into_http(),
            },
            (
                "etcdserverpb.Cluster"
                | "etcdserverpb.Maintenance"
                | "etcdserverpb.Auth"
                | "v3lockpb.Lock"
                | "v3electionpb.Election",
                _,
            ) => self.pass_on(request).await,
            _ => return Ok(None),
        };
        Ok(Some(answer))
    }

    /// To a member, and back.
    async fn pass_on(&self, request: Request<Body>) -> Response<Body> {
        let request = request.map(|body| {
            let limited = Limited::new(body, RECEIVE_MAX + PREFIX_BYTES);
            Body::new(limited.map_err(|_| {
                Status::resource_exhausted(format!(
                    "grpc: received message larger than max (more than {RECEIVE_MAX} vs. {RECEIVE_MAX})"
                ))
            }))
        });
        match self.channel.clone().call(request).await {
            Ok(response) => response,
            Err(status) => bare(&status).into_http(),
        }
    }
}

/// A whole answer.
fn one_message(message: &[u8]) -> Response<Body> {
    let mut framed = Vec::with_capacity(PREFIX_BYTES + message.len());
    framed.push(0);
    framed.extend(
        u32::try_from(message.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes(),
    );
    framed.extend_from_slice(message);
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let body = Full::new(Bytes::from(framed)).with_trailers(async move { Some(Ok(trailers)) });
    let mut response = Response::new(Body::new(body));
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/grpc"),
    );
    response
}
