//! What a client can be told. Durations only; nothing here is read from the environment.

use std::sync::Arc;
use std::time::Duration;

use ferrite_tls::ClientTls;

use crate::observer::Observer;

/// Settings of a [`crate::Client`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Where the members listen: `host:port`, `http://host:port`, `https://host:port`, `[::1]:2379`,
    /// `unix:///path`, `unixs:///path`.
    pub endpoints: Vec<String>,
    /// The longest that one connection attempt may take, until the server's first bytes.
    pub dial_timeout: Duration,
    /// The longest a unary call may take, dialling and retries included; `None` waits for ever.
    /// A `grpc-timeout` on the request goes before it.
    pub call_timeout: Option<Duration>,
    /// How long a call without a limit of its own goes on while no endpoint serves it; `None` for ever.
    pub patience: Option<Duration>,
    /// Ping connections on which there is no call, too.
    pub keepalive_idle: bool,
    /// Silence on a connection after which it is pinged; nothing is no pings, and it is raised to ten seconds if shorter, since
    /// servers close connections that ping more often.
    pub keepalive_time: Duration,
    /// How long an answer to such a ping may take before the connection is given up.
    pub keepalive_timeout: Duration,
    /// The largest request message, in bytes.
    pub max_send_bytes: usize,
    /// The largest response message, in bytes.
    pub max_recv_bytes: usize,
    /// Ask to be refused by a member that knows no leader.
    pub require_leader: bool,
    /// An authentication token to send with each call.
    pub token: Option<String>,
    /// How to encrypt connections. Spoken to `https://` and `unixs://` always (with the system's
    /// authorities where this is `None`), to `http://` never, to others if it is set.
    pub tls: Option<Arc<ClientTls>>,
    /// Who is told of what goes wrong underneath calls.
    pub observer: Observer,
}

impl Config {
    /// The defaults of etcd's command line client, for the endpoints given.
    pub fn new<I, S>(endpoints: I) -> Self
    where
        I: IntoIterator<Item = S>,
        S: Into<String>,
    {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            dial_timeout: Duration::from_secs(2),
            call_timeout: Some(Duration::from_secs(5)),
            patience: None,
            keepalive_idle: false,
            keepalive_time: Duration::from_secs(10),
            keepalive_timeout: Duration::from_secs(6),
            max_send_bytes: 2 * 1024 * 1024,
            max_recv_bytes: i32::MAX as usize,
            require_leader: false,
            token: None,
            tls: None,
            observer: Observer::default(),
        }
    }
}
