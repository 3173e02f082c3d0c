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
use tonic::{Request, Status};

use crate::config_file;
use crate::flags::Values;

/// The longest pause between two attempts is two to this power, in seconds.
const BACKOFF_DOUBLINGS_MAX: u32 = 8;
/// How long a ping's answer may take where no time is given: that of Go's gRPC library.
const KEEPALIVE_TIMEOUT_DEFAULT: Duration = Duration::from_secs(20);
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
    /// Instead of these two; empty for none.
    auth_token: String,
    max_send_bytes: Option<usize>,
    max_recv_bytes: Option<usize>,
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
        let mut endpoints = match values.text("discovery-endpoints") {
            "" => Vec::new(),
            _ => values.list("discovery-endpoints"),
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
        let bytes = |name: &str| {
            let bytes = usize::try_from(values.signed(name)).ok();
            bytes.filter(|bytes| *bytes > 0)
        };
        let tls = TlsInfo {
            cert_file: text("discovery-cert"),
            key_file: text("discovery-key"),
            trusted_ca_file: text("discovery-cacert"),
            server_name: text(config_file::DISCOVERY_SERVER_NAME),
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
            auth_token: text(config_file::DISCOVERY_AUTH_TOKEN),
            max_send_bytes: bytes(config_file::DISCOVERY_SEND),
            max_recv_bytes: bytes(config_file::DISCOVERY_RECV),
        }))
    }

    /// A client, logged in if there is a user.
    ///
    /// # Errors
    /// All for good, as with the original: settings that do not do, a user who is refused or hears
    /// nothing within the time for dialling.
    async fn client(&self) -> Result<Client, DiscoveryError> {
        if let (Some(send), Some(recv)) = (self.max_send_bytes, self.max_recv_bytes)
            && send > recv
        {
            return Err(DiscoveryError::Client(format!(
                "gRPC message recv limit ({recv} bytes) must be greater than send limit ({send} bytes)"
            )));
        }
        let unusable = |error: String| DiscoveryError::Client(error);
        let mut config = ClientConfig::new(self.endpoints.clone());
        // No time is no limit; for each request there is one all the same.
        config.dial_timeout = match self.dial_timeout {
            Duration::ZERO => Duration::MAX,
            limit => limit,
        };
        // Each request brings its own; fetching a token is under that for dialling.
        config.call_timeout = None;
        config.keepalive_time = self.keepalive_time;
        config.keepalive_timeout = match self.keepalive_timeout {
            Duration::ZERO => KEEPALIVE_TIMEOUT_DEFAULT,
            limit => limit,
        };
        config.max_send_bytes = self.max_send_bytes.unwrap_or(config.max_send_bytes);
        config.max_recv_bytes = self.max_recv_bytes.unwrap_or(config.max_recv_bytes);
        if let Some(tls) = &self.tls {
            let tls = ClientTls::new(tls, &["h2"]).map_err(|error| unusable(error.to_string()))?;
            config.tls = Some(Arc::new(tls));
        }
        let limit = config.dial_timeout;
        config.token = Some(self.auth_token.clone()).filter(|token| !token.is_empty());
        let client = Client::new(config).map_err(|error| unusable(error.to_string()))?;
        let logs_in = self.auth_token.is_empty() && !self.password.is_empty();
        if logs_in && !self.user.is_empty() {
            let login = client.login(&self.user, &self.password);
            match tokio::time::timeout(limit, login).await {
                Ok(Ok(())) => {}
                Ok(Err(status)) => return Err(unusable(status.message().to_owned())),
                Err(_) => return Err(unusable("context deadline exceeded".to_owned())),
            }
        }
        Ok(client)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.request_timeout);
        request
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
    let client = settings.client().await?;
    let mut attempts = 0_u32;
    loop {
        match attempt(settings, &client, &own, registered).await {
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
                // That the time was up helps nobody who looks for what is wrong.
                let error = ferrite_client::last_failure(&status)
                    .unwrap_or_else(|| status.message().to_owned());
                tracing::warn!(error, backoff = ?backoff, "retry connecting to discovery service");
                tokio::time::sleep(backoff).await;
            }
        }
    }
}

/// Registering twice does no harm: the key keeps its place in the order.
async fn attempt(
    settings: &Settings,
    client: &Client,
    own: &str,
    registered: &str,
) -> Result<String, Failure> {
    let mut meeting = Meeting {
        settings,
        client,
        prefix: format!("/_etcd/registry/{}/members", settings.token),
        members: BTreeMap::new(),
    };
    let own_key = format!("{}/{own}", meeting.prefix);
    let size = size(settings, client).await?;
    meeting.look(&own_key, size).await?;
    let put = pb::PutRequest {
        key: own_key.clone().into(),
        value: registered.to_owned().into(),
        ..pb::PutRequest::default()
    };
    client.kv().put(settings.request(put)).await?;
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

async fn size(settings: &Settings, client: &Client) -> Result<usize, Failure> {
    let token = &settings.token;
    let range = pb::RangeRequest {
        key: format!("/_etcd/registry/{token}/_config/size").into(),
        ..pb::RangeRequest::default()
    };
    let found = client.kv().range(settings.request(range)).await?;
    let found = found.into_inner();
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
    settings: &'a Settings,
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
        let range = self.settings.request(range);
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

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ferrite_client::{Client, Config};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// A server's first frame in HTTP/2: settings, none of them.
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

    async fn listener() -> (TcpListener, String) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        (listener, address.to_string())
    }

    fn settings(address: &str, flags: &[&str]) -> Settings {
        let mut arguments = vec![
            format!("--discovery-endpoints={address}"),
            "--discovery-token=t".to_owned(),
        ];
        arguments.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let values = Values::parse(&arguments, []).expect("good flags");
        let settings = Settings::read(&values).expect("good settings");
        settings.expect("a way to meet")
    }

    /// Whoever joins does so until the test ends.
    fn joining(settings: Settings) -> tokio::task::JoinHandle<Result<String, DiscoveryError>> {
        tokio::spawn(async move { join(&settings, "m=http://127.0.0.1:1").await })
    }

    /// When the other side has closed it, and when it said something before.
    async fn until_closed(stream: &mut TcpStream) -> (Vec<Instant>, Instant) {
        let mut heard = Vec::new();
        let mut buffer = [0; 4096];
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return (heard, Instant::now()),
                Ok(_) => heard.push(Instant::now()),
            }
        }
    }

    #[tokio::test]
    async fn a_request_without_an_answer_is_given_up_in_its_time_and_repeated_after_a_pause() {
        let (listener, address) = listener().await;
        let join = joining(settings(&address, &["--discovery-request-timeout=300ms"]));
        let (mut stream, _) = listener.accept().await.expect("a connection");
        stream.write_all(&SETTINGS).await.expect("written");
        let mut first = None;
        let mut buffer = [0; 4096];
        // Each attempt looks up the size anew, on the same connection: the pause is the longest silence.
        let mut said = Instant::now();
        loop {
            let count = stream.read(&mut buffer).await.expect("more");
            assert_ne!(count, 0, "the connection stays");
            if said.elapsed() > Duration::from_secs(1) {
                break;
            }
            first.get_or_insert(said);
            said = Instant::now();
        }
        let took = first.expect("a request").elapsed();
        assert!(took >= Duration::from_millis(2300), "{took:?}");
        // With the default it would be seven seconds.
        assert!(took < Duration::from_secs(5), "{took:?}");
        join.abort();
    }

    #[tokio::test]
    async fn a_service_that_falls_silent_is_pinged_and_then_left() {
        let (listener, address) = listener().await;
        let join = joining(settings(
            &address,
            &[
                "--discovery-request-timeout=1h",
                "--discovery-keepalive-time=1s",
                "--discovery-keepalive-timeout=1s",
            ],
        ));
        let (mut stream, _) = listener.accept().await.expect("a connection");
        stream.write_all(&SETTINGS).await.expect("written");
        let begun = Instant::now();
        let (heard, closed) = until_closed(&mut stream).await;
        // Ten seconds are the least, as with the original's client.
        let after = begun + Duration::from_millis(5000);
        let pinged = heard.into_iter().find(|heard| *heard > after);
        let pinged = pinged.expect("a ping");
        let silence = pinged - begun;
        assert!(silence >= Duration::from_millis(9500), "{silence:?}");
        let patience = closed - pinged;
        assert!(patience >= Duration::from_millis(900), "{patience:?}");
        assert!(patience < Duration::from_millis(4500), "{patience:?}");
        // Elsewhere, or there again.
        listener.accept().await.expect("another connection");
        join.abort();
    }

    #[tokio::test]
    async fn the_time_for_dialling_is_kept_to() {
        let (listener, address) = listener().await;
        let limit = "--discovery-dial-timeout=300ms";
        let join = joining(settings(&address, &[limit]));
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let begun = Instant::now();
        let (_, closed) = until_closed(&mut stream).await;
        let took = closed - begun;
        assert!(took < Duration::from_millis(1900), "{took:?}");
        listener.accept().await.expect("another connection");
        join.abort();

        // A user who hears nothing within that time founds nothing, whatever time a request has.
        let flags = [
            limit,
            "--discovery-request-timeout=1h",
            "--discovery-user=u",
            "--discovery-password=p",
        ];
        let begun = Instant::now();
        let refused = join_at(&address, &flags).await;
        let took = begun.elapsed();
        assert_eq!(refused, "context deadline exceeded");
        assert!(took >= Duration::from_millis(300), "{took:?}");
        assert!(took < Duration::from_millis(1900), "{took:?}");
    }

    async fn join_at(address: &str, flags: &[&str]) -> String {
        let joined = join(&settings(address, flags), "m=http://127.0.0.1:1").await;
        joined.expect_err("refused").to_string()
    }

    #[tokio::test]
    async fn what_only_a_file_says_reaches_the_client() {
        let file = |client: &str| {
            let dir = tempfile::tempdir().expect("a folder");
            let path = dir.path().join("etcd.yml");
            let text = format!(
                "discovery-config: {{token: t, client: {{endpoints: ['a:1'], keepalive-time: 0, {client}}}}}"
            );
            std::fs::write(&path, text).expect("a file");
            let values = Values::parse(&[format!("--config-file={}", path.display())], []);
            let settings = Settings::read(&values.expect("a good file"));
            settings.expect("good settings").expect("a way to meet")
        };
        let client = async |client: &str| file(client).client().await;
        let config = async |text: &str| -> Config {
            let client: Client = client(text).await.expect("a client");
            client.channel().config().clone()
        };
        let given = config(
            "max-request-bytes: 5, max-recv-bytes: 6, secure: {server-name: s}, \
             auth: {username: u, password: p, token: k}",
        )
        .await;
        assert_eq!((given.max_send_bytes, given.max_recv_bytes), (5, 6));
        // With a token there is nobody to be asked for one.
        assert_eq!(given.token.as_deref(), Some("k"));
        assert!(given.tls.is_some());
        let tls = file("secure: {server-name: s}").tls;
        assert_eq!(tls.map(|tls| tls.server_name).as_deref(), Some("s"));
        let default = config("max-request-bytes: 0, max-recv-bytes: -1").await;
        assert_eq!(default.max_send_bytes, 2 << 20);
        assert_eq!(default.max_recv_bytes, i32::MAX as usize);
        assert!(default.token.is_none() && default.tls.is_none());
        let refused = client("max-request-bytes: 6, max-recv-bytes: 5").await;
        assert_eq!(
            refused.expect_err("refused").to_string(),
            "gRPC message recv limit (5 bytes) must be greater than send limit (6 bytes)"
        );
    }
}
