//! A client of etcd's gRPC API: endpoints, connections, failover, retries and deadlines.
//!
//! [`Client`] hands out the generated stubs over one shared [`Channel`]. The channel owns what a
//! caller would get wrong: which member to ask, when a failed call may be sent again, how long to
//! wait. It never interprets what a response means, and it starts no thread of its own: connections
//! run as tasks of the runtime the caller is in (a current-thread one will do).
//!
//! ```no_run
//! # async fn demo() -> Result<(), Box<dyn std::error::Error>> {
//! use ferrite_client::{Client, Config, pb::PutRequest};
//! let client = Client::new(Config::new(["http://127.0.0.1:2379"]))?;
//! client.kv().put(PutRequest { key: "k".into(), value: "v".into(), ..Default::default() }).await?;
//! # Ok(()) }
//! ```

mod channel;
mod config;
mod dial;
mod endpoint;
mod error;
mod method;
mod observer;
pub mod srv;
mod urls;
mod watcher;

pub use channel::Channel;
pub use config::Config;
pub use dial::connect_tcp;
pub use endpoint::Endpoint;
pub use error::{
    ConfigError, code_name, describe, is_local_deadline, is_table_error, last_failure,
};
pub use ferrite_proto::etcdserverpb as pb;
pub use ferrite_tls as tls;
pub use observer::{Noticed, Observer};
pub use tonic::{Code, Status, Streaming};
pub use urls::check_peer_urls;
pub use watcher::{WatchEvent, Watcher};

use ferrite_proto::etcdserverpb::{
    AuthenticateRequest, auth_client::AuthClient, cluster_client::ClusterClient,
    kv_client::KvClient, lease_client::LeaseClient, maintenance_client::MaintenanceClient,
    watch_client::WatchClient,
};
use ferrite_proto::grpc_health_v1::health_client::HealthClient;
use ferrite_proto::v3electionpb::election_client::ElectionClient;
use ferrite_proto::v3lockpb::lock_client::LockClient;

/// The version of the API this client was written to, sent with each call.
pub const API_VERSION: &str = "3.7";

/// A handle on a cluster; cloning it shares the connections.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Channel,
}

macro_rules! stub {
    ($(#[$doc:meta])* $name:ident, $kind:ident) => {
        $(#[$doc])*
        #[must_use]
        pub fn $name(&self) -> $kind<Channel> {
            // The channel checks message sizes itself, with etcd's wording.
            $kind::new(self.channel.clone())
                .max_decoding_message_size(usize::MAX)
                .max_encoding_message_size(usize::MAX)
        }
    };
}

impl Client {
    /// Checks the configuration and makes a client. Nothing is dialled until the first call.
    ///
    /// # Errors
    /// No endpoint, or one that cannot be understood.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        Ok(Self {
            channel: Channel::new(config)?,
        })
    }

    /// Makes a client and waits until one endpoint has answered.
    ///
    /// # Errors
    /// As [`Client::new`], or no endpoint answered within the dial timeout.
    pub async fn connect(config: Config) -> Result<Self, ConfigError> {
        let client = Self::new(config)?;
        client.channel.dial_any().await?;
        Ok(client)
    }

    /// The connections under the stubs, for stubs not named here.
    #[must_use]
    pub fn channel(&self) -> &Channel {
        &self.channel
    }

    /// A client for the one endpoint given, with this client's settings and token.
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn at(&self, endpoint: &str) -> Result<Self, ConfigError> {
        let mut config = self.channel.config().clone();
        config.endpoints = vec![endpoint.to_owned()];
        let client = Self::new(config)?;
        client.channel.share_login(&self.channel);
        Ok(client)
    }

    /// Trades a user name and a password for a token, which later calls carry.
    ///
    /// # Errors
    /// The server's refusal, or the usual failures of a call.
    pub async fn authenticate(&self, name: &str, password: &str) -> Result<(), Status> {
        let request = AuthenticateRequest {
            name: name.to_owned(),
            password: password.to_owned(),
        };
        let response = self.auth().authenticate(request).await?.into_inner();
        self.channel.set_token(Some(response.token));
        Ok(())
    }

    /// Logs in as a user: later calls carry a token, which is fetched anew when a server no longer
    /// takes it. A cluster that asks for no users is used without.
    ///
    /// # Errors
    /// The server's refusal, or the usual failures of a call.
    pub async fn login(&self, name: &str, password: &str) -> Result<(), Status> {
        self.channel.log_in_as(name, password).await
    }

    stub!(
        /// Keys and values.
        kv, KvClient
    );
    stub!(
        /// Members.
        cluster, ClusterClient
    );
    stub!(
        /// Status, alarms, hashes, database snapshots.
        maintenance, MaintenanceClient
    );
    stub!(
        /// Leases.
        lease, LeaseClient
    );
    stub!(
        /// Watches. Put the create request in the stream before awaiting the call: a server sends
        /// no headers before it has something to say.
        watch, WatchClient
    );
    stub!(
        /// Users and roles.
        auth, AuthClient
    );
    stub!(
        /// gRPC health checks.
        health, HealthClient
    );
    stub!(
        /// Locks.
        lock, LockClient
    );
    stub!(
        /// Elections.
        election, ElectionClient
    );
}
