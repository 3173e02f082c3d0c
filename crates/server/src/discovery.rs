//! Founding a cluster whose members do not know each other: they meet under a token in another cluster,
//! which speaks version 3 of the API.
//!
//! Who founds writes the wished size under the token first. A member registers itself, waits until as
//! many have come, and takes the first of them, in the order in which they registered, as the initial
//! cluster. All of that before anything is on disk; nothing is left running afterwards.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ferrite_client::{Client, Config as ClientConfig};
use ferrite_membership::{id, parse_initial_cluster};
use ferrite_proto::etcdserverpb as pb;
use ferrite_proto::mvccpb;
use ferrite_tls::{ClientTls, TlsInfo};
use pb::watch_request::RequestUnion;
use tonic::Status;

use crate::flags::Values;

/// The longest pause between two attempts is two to this power, in seconds.
const BACKOFF_DOUBLINGS_MAX: u32 = 8;
/// Members that are looked at: far more than a cluster can have.
const MEMBERS_MAX: usize = 10_000;

/// Where to meet, and how to speak there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Addresses of the cluster in which members meet.
    pub endpoints: Vec<String>,
    /// Under which they meet.
    pub token: String,
    dial_timeout: Duration,
    request_timeout: Duration,
    keepalive_time: Duration,
    keepalive_timeout: Duration,
    /// `None` for unencrypted.
    tls: Option<TlsInfo>,
    user: String,
    password: String,
}

/// Why the members did not meet.
#[derive(Debug, thiserror::Error)]
pub enum DiscoveryError {
    /// Nobody said how many members there will be.
    #[error("discovery: size key not found")]
    SizeNotFound,
    /// What was said is no number of members.
    #[error("discovery: size key is bad")]
    BadSize,
    /// Enough others have come.
    #[error("discovery: cluster is full")]
    Full,
    /// A member registered something else than its URLs.
    #[error("discovery: invalid peer URL")]
    InvalidUrl,
    /// The cluster cannot be spoken to as the flags say.
    #[error("{0}")]
    Client(String),
}

/// How an attempt ended without a result.
enum Failure {
    /// For good.
    Final(DiscoveryError),
    /// Another may do.
    Passing(Status),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Failure::Passing(status)
    }
}

impl Settings {
    /// Reads the flags; `None` where members are not to meet this way.
    ///
    /// # Errors
    /// In the original's words.
    pub fn read(values: &Values) -> Result<Option<Self>, String> {
        let mut endpoints: Vec<String> = match values.text("discovery-endpoints") {
            "" => Vec::new(),
            list => list.split(',').map(str::to_owned).collect(),
        };
        endpoints.dedup();
        let token = values.text("discovery-token").to_owned();
        let ways = [
            lists_members(values),
            !values.text("discovery-srv").is_empty(),
            !endpoints.is_empty(),
        ];
        if ways.iter().filter(|way| **way).count() > 1 {
            return Err("multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\"".into());
        }
        if token.is_empty() != endpoints.is_empty() {
            return Err("both --discovery-token and --discovery-endpoints must be set".into());
        }
        if endpoints.iter().any(|endpoint| endpoint.trim().is_empty()) {
            return Err("--discovery-endpoints must not contain empty endpoints".into());
        }
        if endpoints.is_empty() {
            return Ok(None);
        }
        let text = |name: &str| values.text(name).to_owned();
        let tls = TlsInfo {
            cert_file: text("discovery-cert"),
            key_file: text("discovery-key"),
            trusted_ca_file: text("discovery-cacert"),
            insecure_skip_verify: values.bool("discovery-insecure-skip-tls-verify"),
            ..TlsInfo::default()
        };
        let plain = values.bool("discovery-insecure-transport") && tls == TlsInfo::default();
        let (mut user, mut password) = (text("discovery-user"), text("discovery-password"));
        if password.is_empty()
            && let Some((name, rest)) = user.clone().split_once(':')
        {
            (user, password) = (name.to_owned(), rest.to_owned());
        }
        Ok(Some(Settings {
            endpoints,
            token,
            dial_timeout: values.duration("discovery-dial-timeout"),
            request_timeout: values.duration("discovery-request-timeout"),
            keepalive_time: values.duration("discovery-keepalive-time"),
            keepalive_timeout: values.duration("discovery-keepalive-timeout"),
            tls: (!plain).then_some(tls),
            user,
            password,
        }))
    }

    async fn client(&self) -> Result<Client, Failure> {
        let unusable = |error: String| Failure::Final(DiscoveryError::Client(error));
        let mut config = ClientConfig::new(self.endpoints.clone());
        config.dial_timeout = self.dial_timeout;
        config.call_timeout = Some(self.request_timeout);
        config.keepalive_time = self.keepalive_time;
        config.keepalive_timeout = self.keepalive_timeout;
        if let Some(tls) = &self.tls {
            let tls = ClientTls::new(tls, &["h2"]).map_err(|error| unusable(error.to_string()))?;
            config.tls = Some(Arc::new(tls));
        }
        let client = Client::new(config).map_err(|error| unusable(error.to_string()))?;
        if !self.user.is_empty() {
            client.login(&self.user, &self.password).await?;
        }
        Ok(client)
    }
}

/// Whether the flags list the members; a file that repeats the default beside another way does not.
fn lists_members(values: &Values) -> bool {
    let listed = values.text("initial-cluster");
    values.is_set("initial-cluster")
        && !listed.is_empty()
        && !(values.is_from_file() && listed == "default=http://localhost:2380")
}

/// Registers this member (`name=URL,name=URL`), waits for the others, and returns the initial cluster.
///
/// # Errors
/// [`DiscoveryError`]. While the other cluster does not answer, it is asked again, for ever.
pub async fn join(settings: &Settings, registered: &str) -> Result<String, DiscoveryError> {
    let urls: Vec<String> = registered
        .split(',')
        .filter_map(|pair| pair.split_once('='))
        .map(|(_, url)| url.to_owned())
        .collect();
    // As the ID that the member would have in a cluster of its own with this token.
    let own = format!("{:x}", id::member_id(&urls, &settings.token, None));
    let mut attempts = 0_u32;
    loop {
        match attempt(settings, &own, registered).await {
            Ok(cluster) => {
                tracing::info!(cluster, "discovery joined cluster successfully");
                return Ok(cluster);
            }
            Err(Failure::Final(error)) => {
                tracing::error!(error = %error, "discovery failed to join cluster");
                return Err(error);
            }
            Err(Failure::Passing(status)) => {
                attempts = attempts.saturating_add(1);
                let backoff = Duration::from_secs(1 << attempts.min(BACKOFF_DOUBLINGS_MAX));
                tracing::warn!(
                    error = status.message(),
                    backoff = ?backoff,
                    "retry connecting to discovery service"
                );
                tokio::time::sleep(backoff).await;
            }
        }
    }
}

/// Registering twice does no harm: the key keeps its place in the order.
async fn attempt(settings: &Settings, own: &str, registered: &str) -> Result<String, Failure> {
    let client = settings.client().await?;
    let mut meeting = Meeting {
        client: &client,
        prefix: format!("/_etcd/registry/{}/members", settings.token),
        members: BTreeMap::new(),
    };
    let own_key = format!("{}/{own}", meeting.prefix);
    let size = size(&client, &settings.token).await?;
    meeting.look(&own_key, size).await?;
    let put = pb::PutRequest {
        key: own_key.clone().into(),
        value: registered.to_owned().into(),
        ..pb::PutRequest::default()
    };
    client.kv().put(put).await?;
    tracing::info!(
        "memberKey" = own_key,
        "memberInfo" = registered,
        "register member itself successfully"
    );
    let revision = meeting.look(&own_key, size).await?;
    if meeting.members.len() < size {
        meeting.wait(size, revision).await?;
    }
    meeting.cluster(size).map_err(Failure::Final)
}

async fn size(client: &Client, token: &str) -> Result<usize, Failure> {
    let range = pb::RangeRequest {
        key: format!("/_etcd/registry/{token}/_config/size").into(),
        ..pb::RangeRequest::default()
    };
    let found = client.kv().range(range).await?.into_inner();
    let pair = found.kvs.first();
    let pair = pair.ok_or(Failure::Final(DiscoveryError::SizeNotFound))?;
    std::str::from_utf8(&pair.value)
        .ok()
        .and_then(|text| text.parse::<usize>().ok())
        .filter(|size| *size > 0)
        .ok_or(Failure::Final(DiscoveryError::BadSize))
}

/// Who has come so far.
struct Meeting<'a> {
    client: &'a Client,
    prefix: String,
    /// By the revision of their registration: key and `name=URL,…`.
    members: BTreeMap<i64, (String, String)>,
}

impl Meeting<'_> {
    /// Looks who is there; refuses when enough others are.
    async fn look(&mut self, own_key: &str, size: usize) -> Result<i64, Failure> {
        let range = pb::RangeRequest {
            key: self.prefix.clone().into(),
            range_end: self.end().into(),
            limit: i64::try_from(MEMBERS_MAX).unwrap_or(i64::MAX),
            ..pb::RangeRequest::default()
        };
        let found = self.client.kv().range(range).await?.into_inner();
        self.members.clear();
        for pair in found.kvs {
            self.add(&pair);
        }
        let mut first = self.members.values().take(size);
        if self.members.len() >= size && !first.any(|(key, _)| key == own_key) {
            return Err(Failure::Final(DiscoveryError::Full));
        }
        Ok(found.header.map_or(0, |header| header.revision))
    }

    /// The first key behind all that begin with the prefix.
    fn end(&self) -> Vec<u8> {
        let mut end = self.prefix.clone().into_bytes();
        // It ends in a letter, which has a successor.
        if let Some(last) = end.last_mut() {
            *last += 1;
        }
        end
    }

    fn add(&mut self, pair: &mvccpb::KeyValue) {
        let key = String::from_utf8_lossy(&pair.key).trim().to_owned();
        let value = String::from_utf8_lossy(&pair.value).trim().to_owned();
        let known = self.members.values().any(|(known, _)| *known == key);
        let refused = if !value.contains('=') {
            Some("invalid peer info returned from discovery service")
        } else if known || self.members.len() >= MEMBERS_MAX {
            Some("found duplicate peer from discovery service")
        } else {
            None
        };
        if let Some(refused) = refused {
            tracing::warn!("memberKey" = key, "memberInfo" = value, "{refused}");
            return;
        }
        tracing::info!(
            "memberKey" = key,
            "memberInfo" = value,
            "found peer from discovery service"
        );
        self.members.insert(pair.create_revision, (key, value));
    }

    /// Watches until enough have come.
    async fn wait(&mut self, size: usize, revision: i64) -> Result<(), Failure> {
        tracing::info!(
            "clusterSize" = size,
            "found-peers" = self.members.len(),
            "waiting for peers from discovery service"
        );
        let create = pb::WatchCreateRequest {
            key: self.prefix.clone().into(),
            range_end: self.end().into(),
            start_revision: revision + 1,
            ..pb::WatchCreateRequest::default()
        };
        let (requests, sent) = tokio::sync::mpsc::channel(1);
        let create = pb::WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        };
        // There is room for one, and the receiver is here.
        let _sent = requests.send(create).await;
        let requested = tokio_stream::wrappers::ReceiverStream::new(sent);
        let mut events = self.client.watch().watch(requested).await?.into_inner();
        while self.members.len() < size {
            let response = events.message().await?;
            let Some(response) = response.filter(|response| !response.canceled) else {
                return Err(Status::unavailable("the watch of members has ended").into());
            };
            for event in response.events {
                match event.kv {
                    Some(pair) if event.r#type == mvccpb::event::EventType::Put as i32 => {
                        self.add(&pair);
                    }
                    _ => {}
                }
            }
        }
        tracing::info!(
            "clusterSize" = size,
            "found-peers" = self.members.len(),
            "found all needed peers from discovery service"
        );
        Ok(())
    }

    fn cluster(&self, size: usize) -> Result<String, DiscoveryError> {
        let first: Vec<&str> = self
            .members
            .values()
            .take(size)
            .map(|(_, value)| value.as_str())
            .collect();
        let cluster = first.join(",");
        match parse_initial_cluster(&cluster) {
            Ok(_) => Ok(cluster),
            Err(_) => Err(DiscoveryError::InvalidUrl),
        }
    }
}
