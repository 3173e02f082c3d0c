//! Raft messages between members, in etcd's own raft-over-HTTP.
//!
//! Owns both sides of the peer protocol: the streams, the pipeline of POSTs, the transfer of database snapshots,
//! the health probes and the HTTP/1.1 server of the peer port. It must never look into a raft message
//! beyond what routing needs, never decide anything about raft, and never block the thread that
//! sends. What arrives goes to the [`Handler`]; what is lost is only reported, raft retries it.
//!
//! The bytes are described in `docs/formats/peer.md`.

mod body;
mod client;
pub mod codec;
mod config;
mod conn;
mod headers;
mod logfmt;
mod peer;
mod pipeline;
mod prober;
mod queue;
mod serve;
mod snapshot_recv;
mod snapshot_send;
mod stats;
mod status;
mod stream_in;
mod stream_out;
mod transport;
mod url;

pub use body::{Body, BoxError, full_body};
pub use client::{FetchError, HttpClient, HttpReply, get_json};
pub use config::{Config, Handler, Refused, SnapshotSource};
pub use conn::{
    Acceptor, BoxFuture, BoxedIo, Connector, Dialer, Io, PlainAcceptor, PlainConnector, TurnedAway,
};
pub use logfmt::go_duration;
pub use serve::{Fallback, serve, serve_with};
pub use stats::{HistogramSnapshot, PeerStats, TransportStats};
pub use transport::Transport;
pub use url::PeerUrl;
