//! A deliberately thin gRPC client: one hyper HTTP/2 connection, no tower buffer, no reconnecting, so
//! that the client takes as little as possible of the CPU it shares with the servers under test.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use ferrite_proto::etcdserverpb as pb;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower_service::Service;

use crate::error::{Error, Result};

/// The largest message either way.
const MESSAGE_BYTES_MAX: usize = 1 << 30;

/// One HTTP/2 connection.
#[derive(Clone)]
pub struct Transport(http2::SendRequest<Body>);

impl Service<http::Request<Body>> for Transport {
    type Response = http::Response<hyper::body::Incoming>;
    type Error = hyper::Error;
    type Future =
        Pin<Box<dyn Future<Output = std::result::Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, req: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(req))
    }
}

/// A client on a connection. Clones share the connection.
#[derive(Clone)]
pub struct Client {
    grpc: Grpc<Transport>,
}

macro_rules! unary {
    ($(#[$doc:meta])* $name:ident, $path:literal, $req:ty, $resp:ty) => {
        $(#[$doc])*
        pub async fn $name(&mut self, req: $req) -> std::result::Result<$resp, Status> {
            self.ready().await?;
            let path = PathAndQuery::from_static($path);
            self.grpc
                .unary(Request::new(req), path, ProstCodec::<$req, $resp>::default())
                .await
                .map(Response::into_inner)
        }
    };
}

macro_rules! bidi {
    ($(#[$doc:meta])* $name:ident, $path:literal, $req:ty, $resp:ty) => {
        $(#[$doc])*
        pub async fn $name<S>(
            &mut self,
            requests: S,
        ) -> std::result::Result<Streaming<$resp>, Status>
        where
            S: tokio_stream::Stream<Item = $req> + Send + 'static,
        {
            self.ready().await?;
            let path = PathAndQuery::from_static($path);
            self.grpc
                .streaming(Request::new(requests), path, ProstCodec::<$req, $resp>::default())
                .await
                .map(Response::into_inner)
        }
    };
}

impl Client {
    /// Opens a connection to `host:port` (an `http://` before it is allowed).
    ///
    /// # Errors
    /// Nobody listens there, or it speaks no HTTP/2.
    pub async fn connect(endpoint: &str) -> Result<Self> {
        let address = endpoint
            .strip_prefix("http://")
            .unwrap_or(endpoint)
            .trim_end_matches('/');
        let what = || format!("connecting to {address}");
        let stream = tokio::net::TcpStream::connect(address)
            .await
            .map_err(Error::io(what()))?;
        stream.set_nodelay(true).map_err(Error::io(what()))?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(8 << 20)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|why| Error::told(format!("{}: {why}", what())))?;
        tokio::spawn(async move {
            if let Err(why) = connection.await {
                eprintln!("connection closed: {why}");
            }
        });
        let origin = format!("http://{address}")
            .parse()
            .map_err(|why| Error::told(format!("bad endpoint {endpoint}: {why}")))?;
        let grpc = Grpc::with_origin(Transport(sender), origin)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        Ok(Self { grpc })
    }

    async fn ready(&mut self) -> std::result::Result<(), Status> {
        self.grpc
            .ready()
            .await
            .map_err(|why| Status::unavailable(why.to_string()))
    }

    unary!(
        /// Puts one key.
        put, "/etcdserverpb.KV/Put", pb::PutRequest, pb::PutResponse
    );
    unary!(
        /// Reads a key or a range.
        range, "/etcdserverpb.KV/Range", pb::RangeRequest, pb::RangeResponse
    );
    unary!(
        /// Runs a transaction.
        txn, "/etcdserverpb.KV/Txn", pb::TxnRequest, pb::TxnResponse
    );
    unary!(
        /// Compacts the history.
        compact, "/etcdserverpb.KV/Compact", pb::CompactionRequest, pb::CompactionResponse
    );
    unary!(
        /// Grants a lease.
        grant, "/etcdserverpb.Lease/LeaseGrant", pb::LeaseGrantRequest, pb::LeaseGrantResponse
    );
    unary!(
        /// Defragments the endpoint's database.
        defragment,
        "/etcdserverpb.Maintenance/Defragment",
        pb::DefragmentRequest,
        pb::DefragmentResponse
    );
    unary!(
        /// Asks the endpoint about itself.
        status, "/etcdserverpb.Maintenance/Status", pb::StatusRequest, pb::StatusResponse
    );
    bidi!(
        /// Opens a watch stream.
        watch, "/etcdserverpb.Watch/Watch", pb::WatchRequest, pb::WatchResponse
    );
    bidi!(
        /// Opens a keep-alive stream.
        keep_alive,
        "/etcdserverpb.Lease/LeaseKeepAlive",
        pb::LeaseKeepAliveRequest,
        pb::LeaseKeepAliveResponse
    );

    /// Streams a snapshot of the endpoint's database.
    ///
    /// # Errors
    /// The server's refusal.
    pub async fn snapshot(
        &mut self,
    ) -> std::result::Result<Streaming<pb::SnapshotResponse>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static("/etcdserverpb.Maintenance/Snapshot");
        self.grpc
            .server_streaming(
                Request::new(pb::SnapshotRequest {}),
                path,
                ProstCodec::<pb::SnapshotRequest, pb::SnapshotResponse>::default(),
            )
            .await
            .map(Response::into_inner)
    }
}
