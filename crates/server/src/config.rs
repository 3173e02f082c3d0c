//! From flags to what the node and the listeners are told.

use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ferrite_auth::password;
use ferrite_node::{Config as NodeConfig, Upkeep};
use ferrite_peer::Dialer;

use crate::auth::{Gate, Tokens};
use crate::features::{Feature, Features};
use crate::flags::{Url, Values};
use crate::log::{Format, Output, Severity};
use crate::memory;
use crate::service::watch::PROGRESS_INTERVAL_MIN;
use crate::tls;

/// What `--metrics` can be; etcd takes anything else for the first.
const METRICS: [&str; 2] = ["basic", crate::metrics::EXTENSIVE];
/// The default quota, as etcd's.
const QUOTA_DEFAULT_BYTES: u64 = 2 << 30;
/// Above this the original warns.
const QUOTA_ADVISED_BYTES: u64 = 8 << 30;
/// The least a connection between members may be silent.
const PEER_TIMEOUT_MIN: Duration = Duration::from_secs(5);
/// What `--watch-progress-notify-interval=0` means.
const PROGRESS_INTERVAL_DEFAULT: Duration = Duration::from_secs(600);
/// What `--auth-token-ttl=0` means.
const TOKEN_TTL_SECONDS: u64 = 300;
/// Time between two notes of how long a lease still lives.
const LEASE_CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);
/// Longest election timeout.
const ELECTION_MAX_MS: u64 = 50_000;

/// A checked configuration.
pub struct Config {
    /// For the node.
    pub node: NodeConfig,
    /// Where to listen for members.
    pub listen_peer: Vec<Url>,
    /// Where to listen for clients.
    pub listen_client: Vec<Url>,
    /// Calls slower than this are logged.
    pub warn_unary: Duration,
    /// `--metrics`: how much is counted.
    pub metrics: String,
    /// Silence after which watchers that ask for it are told how far they are.
    pub watch_progress_interval: Duration,
    /// Recognises callers.
    pub gate: Arc<Gate>,
    /// Certificates and what else belongs to TLS.
    pub tls: tls::Settings,
    /// What is switched on.
    pub features: Features,
    /// Things worth a line in the log.
    pub warnings: Vec<String>,
}

/// How to log.
pub struct LogConfig {
    /// Least severe level.
    pub least: Severity,
    /// Shape of lines.
    pub format: Format,
    /// Where they go.
    pub outputs: Vec<Output>,
}

/// Reads how to log.
///
/// # Errors
/// What is wrong with the flags, in the original's words.
pub fn logging(values: &Values) -> Result<LogConfig, String> {
    match values.text("logger") {
        "zap" => {}
        "capnslog" => return Err("--logger=capnslog is removed in v3.5".into()),
        other => return Err(format!("unknown logger option {other:?}")),
    }
    let least = Severity::parse(values.text("log-level"))
        .ok_or_else(|| format!("unrecognized level: {:?}", values.text("log-level")))?;
    let format = match values.text("log-format") {
        "json" => Format::Json,
        "console" => Format::Console,
        other => {
            return Err(format!(
                "unknown log format: {other}, supported values json, console"
            ));
        }
    };
    let names: Vec<&str> = values.text("log-outputs").split(',').collect();
    if names.len() > 1 && names.contains(&"default") {
        return Err("multi logoutput for \"default\" is not supported yet".into());
    }
    let mut outputs = Vec::new();
    for name in names {
        outputs.push(match name {
            "default" | "stderr" => Output::Stderr,
            "stdout" => Output::Stdout,
            "systemd/journal" => {
                return Err(
                    "--log-outputs systemd/journal is not supported yet: log to stderr, which systemd collects".into(),
                );
            }
            path => Output::File(
                std::fs::File::options()
                    .append(true)
                    .create(true)
                    .open(path)
                    .map_err(|error| format!("cannot open the log output {path}: {error}"))?,
            ),
        });
    }
    Ok(LogConfig {
        least,
        format,
        outputs,
    })
}

/// Reads everything else.
///
/// # Errors
/// What is wrong with the flags, in the original's words where it has some.
pub fn read(values: &Values) -> Result<Config, String> {
    let mut warnings = values.warnings.clone();
    let name = values.text("name").to_owned();
    let data_dir = match values.text("data-dir") {
        "" => format!("{name}.etcd"),
        dir => dir.to_owned(),
    };
    let listen_peer = values.urls("listen-peer-urls");
    let listen_client = values.urls("listen-client-urls");
    for url in listen_peer.iter().chain(&listen_client) {
        check_listen(url)?;
    }
    let mut client_urls = values.urls("advertise-client-urls");
    if values.is_set("listen-client-urls") && !values.is_set("advertise-client-urls") {
        client_urls = Vec::new();
    }
    if client_urls.is_empty() && !listen_client.is_empty() {
        return Err(
            "--advertise-client-urls is required when --listen-client-urls is set explicitly"
                .into(),
        );
    }
    let peer_urls = values.urls("initial-advertise-peer-urls");
    check_advertised(&peer_urls).map_err(|why| {
        format!(
            "--initial-advertise-peer-urls {:?} must be \"host:port\" ({why})",
            joined(&peer_urls)
        )
    })?;
    check_advertised(&client_urls).map_err(|why| {
        format!(
            "--advertise-client-urls {:?} must be in the format \"host:port\", \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" ({why})",
            joined(&client_urls)
        )
    })?;
    if let Some(url) = listen_peer
        .iter()
        .chain(&peer_urls)
        .find(|url| url.is_socket())
    {
        return Err(format!(
            "{url}: members do not talk over unix sockets in Ferrite; give a http:// or https:// URL"
        ));
    }
    let tick_ms = values.unsigned("heartbeat-interval");
    let election_ms = values.unsigned("election-timeout");
    if tick_ms == 0 {
        return Err("--heartbeat-interval must be >0 (set to 0ms)".into());
    }
    if election_ms == 0 {
        return Err("--election-timeout must be >0 (set to 0ms)".into());
    }
    if tick_ms.saturating_mul(5) > election_ms {
        return Err(format!(
            "--election-timeout[{election_ms}ms] should be at least as 5 times as --heartbeat-interval[{tick_ms}ms]"
        ));
    }
    if election_ms > ELECTION_MAX_MS {
        return Err(format!(
            "--election-timeout[{election_ms}ms] is too long, and should be set less than {ELECTION_MAX_MS}ms"
        ));
    }
    let metrics = values.text("metrics");
    if !METRICS.contains(&metrics) {
        warnings.push(format!(
            "--metrics={metrics} is taken for basic; it can be {}",
            METRICS.join(" or ")
        ));
    }
    let quota_bytes = match values.signed("quota-backend-bytes") {
        0 => Some(QUOTA_DEFAULT_BYTES),
        negative if negative < 0 => None,
        bytes => u64::try_from(bytes).ok(),
    };
    if quota_bytes.is_some_and(|bytes| bytes > QUOTA_ADVISED_BYTES) {
        warnings.push("quota-backend-bytes is above the advised maximum of 8 GiB".into());
    }
    if values.is_set("max-snapshots") {
        warnings
            .push("--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8.".into());
    }
    let or = |name: &str, default: u64| match values.unsigned(name) {
        0 => default,
        value => value,
    };
    let watch_progress_interval = match values.duration("watch-progress-notify-interval") {
        Duration::ZERO => PROGRESS_INTERVAL_DEFAULT,
        short if short < PROGRESS_INTERVAL_MIN => {
            warnings.push("adjusting watch progress notify interval to minimum period".into());
            PROGRESS_INTERVAL_MIN
        }
        other => other,
    };
    let batch_interval = match values.duration("backend-batch-interval") {
        Duration::ZERO => Duration::from_millis(100),
        other => other,
    };
    let features = values.features("feature-gates");
    check_features(values, &features, &mut warnings)?;
    let initial_cluster = if values.is_set("initial-cluster") {
        values.text("initial-cluster").to_owned()
    } else {
        // The default names this member, whatever it is called and advertised as.
        peer_urls
            .iter()
            .map(|url| format!("{name}={url}"))
            .collect::<Vec<_>>()
            .join(",")
    };
    // Checked even where it is not used, as the original does: a typing error should not wait for the
    // day the data folder is lost.
    ferrite_membership::parse_initial_cluster(&initial_cluster)
        .map_err(|error| format!("error setting up initial cluster: {error}"))?;
    let tokens = Tokens::from_flag(values.text("auth-token"))?;
    match &tokens {
        Tokens::Simple => warnings.push("simple token is not cryptographically signed".into()),
        Tokens::Jwt(jwt) if !jwt.unknown_options().is_empty() => warnings.push(format!(
            "unknown JWT options: {}",
            jwt.unknown_options().join(", ")
        )),
        Tokens::Jwt(_) | Tokens::Off => {}
    }
    let bcrypt_cost = match u32::try_from(values.unsigned("bcrypt-cost")) {
        Ok(cost) if (password::COST_MIN..=password::COST_MAX).contains(&cost) => cost,
        _ => {
            warnings.push("use default bcrypt cost instead of the invalid given cost".into());
            password::COST_DEFAULT
        }
    };
    let tls = tls::read(values)?;
    let size = |name: &str| usize::try_from(values.unsigned(name)).unwrap_or(usize::MAX);
    let node = NodeConfig {
        data_dir: PathBuf::from(data_dir),
        wal_dir: Some(values.text("wal-dir"))
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from),
        client_urls: client_urls.iter().map(Url::to_string).collect(),
        peer_urls: peer_urls.iter().map(Url::to_string).collect(),
        initial_cluster,
        initial_cluster_token: values.text("initial-cluster-token").to_owned(),
        new_cluster: values.text("initial-cluster-state") == "new",
        tick: Duration::from_millis(tick_ms),
        election_ticks: usize::try_from(election_ms / tick_ms).unwrap_or(usize::MAX),
        advance_election_at_start: values.bool("initial-election-tick-advance"),
        pre_vote: values.bool("pre-vote"),
        snapshot_count: or("snapshot-count", 10_000),
        snapshot_catchup_entries: or("snapshot-catchup-entries", 5_000),
        quota_bytes,
        max_request_bytes: size("max-request-bytes"),
        max_txn_ops: size("max-txn-ops"),
        batch_interval,
        batch_limit: usize::try_from(or("backend-batch-limit", 10_000)).unwrap_or(usize::MAX),
        max_snapshots: size("max-snapshots"),
        max_wals: size("max-wals"),
        max_learners: size("max-learners"),
        strict_reconfig_check: values.bool("strict-reconfig-check"),
        force_new_cluster: values.bool("force-new-cluster"),
        no_fsync: values.bool("unsafe-no-fsync"),
        memory_limit: match values.unsigned("memory-limit-bytes") {
            0 => memory::limit(),
            bytes => Some(bytes),
        },
        peer_read_timeout: values.duration("raft-read-timeout").max(PEER_TIMEOUT_MIN),
        peer_write_timeout: values.duration("raft-write-timeout").max(PEER_TIMEOUT_MIN),
        token_ttl: Duration::from_secs(or("auth-token-ttl", TOKEN_TTL_SECONDS)),
        warn_apply: values.duration("warning-apply-duration"),
        dialer: Dialer::default(),
        upkeep: upkeep(values, &features),
        metrics: Default::default(),
        name,
    };
    Ok(Config {
        node,
        listen_peer,
        listen_client,
        warn_unary: values.duration("warning-unary-request-duration"),
        metrics: metrics.to_owned(),
        watch_progress_interval,
        gate: Arc::new(Gate::new(tokens, bcrypt_cost)),
        tls,
        features,
        warnings,
    })
}

fn joined(urls: &[Url]) -> String {
    let texts: Vec<String> = urls.iter().map(Url::to_string).collect();
    texts.join(",")
}

fn check_advertised(urls: &[Url]) -> Result<(), String> {
    let nobody = |url: &&Url| url.host_port().is_some_and(|(host, _)| host.is_empty());
    match urls.iter().find(nobody) {
        Some(url) => Err(format!("unexpected empty host ({url})")),
        None => Ok(()),
    }
}

/// Gates that need each other, and what Ferrite cannot do.
fn check_features(
    values: &Values,
    features: &Features,
    warnings: &mut Vec<String>,
) -> Result<(), String> {
    match (
        features.enabled(Feature::LeaseCheckpoint),
        features.enabled(Feature::LeaseCheckpointPersist),
    ) {
        (true, false) => warnings.push(
            "Detected that checkpointing is enabled without persistence. Consider enabling feature gate LeaseCheckpointPersist".into(),
        ),
        (false, true) => {
            return Err("enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint".into());
        }
        _ => {}
    }
    if features.enabled(Feature::SetMemberLocalAddr) {
        return Err("feature gate SetMemberLocalAddr is not supported yet: leave it out, or set it to false beside AllAlpha".into());
    }
    if values.duration("compact-hash-check-time").is_zero() {
        return Err("--compact-hash-check-time must be >0 (set to 0s)".into());
    }
    Ok(())
}

fn upkeep(values: &Values, features: &Features) -> Upkeep {
    Upkeep {
        initial_corrupt_check: features.enabled(Feature::InitialCorruptCheck),
        corrupt_check_time: values.duration("corrupt-check-time"),
        compact_hash_check_time: features
            .enabled(Feature::CompactHashCheck)
            .then(|| values.duration("compact-hash-check-time")),
        downgrade_check_time: values.duration("downgrade-check-time"),
        boot_defragment_bytes: values
            .unsigned("bootstrap-defrag-threshold-megabytes")
            .saturating_mul(1 << 20),
        lease_checkpoint_interval: features
            .enabled(Feature::LeaseCheckpoint)
            .then_some(LEASE_CHECKPOINT_INTERVAL),
        lease_checkpoint_persist: features.enabled(Feature::LeaseCheckpointPersist),
        fast_lease_renewal: features.enabled(Feature::FastLeaseKeepAlive),
        priority_requests: features.enabled(Feature::PriorityRequest),
    }
}

fn check_listen(url: &Url) -> Result<(), String> {
    if url.is_socket() {
        return Ok(());
    }
    match url.host_port() {
        Some((host, _)) if host == "localhost" || host.parse::<std::net::IpAddr>().is_ok() => {
            Ok(())
        }
        _ => Err(format!("expected IP in URL for binding ({url})")),
    }
}

/// Binds an address.
///
/// # Errors
/// What the system says, with the address, in Go's form.
pub fn bind(url: &Url) -> Result<TcpListener, String> {
    let failed = |why: String| format!("listen tcp {}: {why}", url.address);
    let (host, port) = url
        .host_port()
        .ok_or_else(|| failed("it is no address".into()))?;
    let mut addresses: Vec<SocketAddr> = (host, port)
        .to_socket_addrs()
        .map_err(|error| failed(error.to_string()))?
        .collect();
    addresses.sort_by_key(SocketAddr::is_ipv6);
    let address = addresses
        .first()
        .ok_or_else(|| failed("it has no address".into()))?;
    TcpListener::bind(address).map_err(|error| match error.kind() {
        std::io::ErrorKind::AddrInUse => failed(
            "bind: address already in use (another process listens there: stop it, or choose another port)".into(),
        ),
        std::io::ErrorKind::PermissionDenied => failed("bind: permission denied".into()),
        std::io::ErrorKind::AddrNotAvailable => failed("bind: cannot assign requested address".into()),
        _ => failed(format!("bind: {error}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(arguments: &[&str]) -> Result<Config, String> {
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let values = Values::parse(&arguments, []).map_err(|error| error.to_string())?;
        read(&values)
    }

    fn refused(arguments: &[&str]) -> String {
        match config(arguments) {
            Ok(_) => format!("{arguments:?} was accepted"),
            Err(error) => error,
        }
    }

    #[test]
    fn no_flag_at_all_makes_a_working_single_member() {
        let config = config(&[]).expect("valid");
        assert_eq!(config.node.data_dir, PathBuf::from("default.etcd"));
        assert_eq!(config.node.initial_cluster, "default=http://localhost:2380");
        assert_eq!(config.node.election_ticks, 10);
        assert_eq!(config.node.quota_bytes, Some(2 << 30));
    }

    #[test]
    fn the_default_initial_cluster_follows_name_and_peer_urls() {
        let config = config(&[
            "--name",
            "a",
            "--initial-advertise-peer-urls",
            "http://10.0.0.1:2380",
        ])
        .expect("valid");
        assert_eq!(config.node.initial_cluster, "a=http://10.0.0.1:2380");
    }

    #[test]
    fn combinations_that_cannot_be_are_refused_in_the_originals_words() {
        assert_eq!(
            refused(&["--listen-client-urls", "http://127.0.0.1:2379"]),
            "--advertise-client-urls is required when --listen-client-urls is set explicitly"
        );
        assert_eq!(
            refused(&["--listen-peer-urls", "http://example.com:2380"]),
            "expected IP in URL for binding (http://example.com:2380)"
        );
        assert_eq!(
            refused(&["--advertise-client-urls", "http://:2379"]),
            "--advertise-client-urls \"http://:2379\" must be in the format \"host:port\", \"unix:/path/to/socket\" or \"unixs:/path/to/socket\" (unexpected empty host (http://:2379))"
        );
        assert_eq!(
            refused(&["--initial-advertise-peer-urls", "http://:2380"]),
            "--initial-advertise-peer-urls \"http://:2380\" must be \"host:port\" (unexpected empty host (http://:2380))"
        );
        assert_eq!(
            refused(&["--tls-min-version", "TLS1.1"]),
            "unexpected TLS version \"TLS1.1\" (must be one of: TLS1.2, TLS1.3)"
        );
        assert_eq!(
            refused(&["--tls-min-version", "TLS1.3", "--tls-max-version", "TLS1.2"]),
            "min version (TLS1.3) is greater than max version (TLS1.2)"
        );
        assert_eq!(
            refused(&["--tls-min-version", "TLS1.3", "--cipher-suites", "x"]),
            "cipher suites cannot be configured when only TLS1.3 is enabled"
        );
        assert_eq!(
            refused(&["--election-timeout", "50"]),
            "--election-timeout[50ms] should be at least as 5 times as --heartbeat-interval[100ms]"
        );
        assert_eq!(
            refused(&["--election-timeout", "60000"]),
            "--election-timeout[60000ms] is too long, and should be set less than 50000ms"
        );
        assert_eq!(
            refused(&["--initial-cluster", "a=b"]),
            "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: b"
        );
        assert_eq!(
            refused(&["--feature-gates", "LeaseCheckpointPersist=true"]),
            "enabling feature gate LeaseCheckpointPersist requires enabling feature gate LeaseCheckpoint"
        );
        assert_eq!(
            refused(&["--compact-hash-check-time", "0"]),
            "--compact-hash-check-time must be >0 (set to 0s)"
        );
        assert_eq!(
            refused(&["--heartbeat-interval", "0"]),
            "--heartbeat-interval must be >0 (set to 0ms)"
        );
    }
}
