//! From flags to what the node and the listeners are told.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ferrite_auth::password;
use ferrite_node::compactor::Retention;
use ferrite_node::{Config as NodeConfig, Upkeep, versions};
use ferrite_peer::Dialer;

use crate::auth::{Gate, Tokens};
use crate::discovery;
use crate::features::{Feature, Features};
use crate::flags::{Url, Values, parse_duration};
use crate::listen;
use crate::log::journal::{self, Journal};
use crate::log::output::{self, Output};
use crate::log::rotate::{self, Rotating};
use crate::log::unrecognized_level;
use crate::log::{Format, Severity};
use crate::memory;
use crate::service::watch::PROGRESS_INTERVAL_MIN;
use crate::spans;
use crate::srv;
use crate::system;
use crate::tls;
use crate::web;

/// The original's words for a member that nobody could reach.
pub const UNSET_ADVERTISE_CLIENT_URLS: &str =
    "--advertise-client-urls is required when --listen-client-urls is set explicitly";
/// What `--metrics` can be; etcd takes anything else for the first.
const METRICS: [&str; 2] = ["basic", crate::metrics::EXTENSIVE];
/// The default quota, as etcd's.
const QUOTA_DEFAULT_BYTES: u64 = 2 << 30;
/// Above this the original warns.
const QUOTA_ADVISED_BYTES: u64 = 8 << 30;
/// The least a connection between members may be silent.
pub const PEER_TIMEOUT_MIN: Duration = Duration::from_secs(5);
/// What `--watch-progress-notify-interval=0` means.
const PROGRESS_INTERVAL_DEFAULT: Duration = Duration::from_secs(600);
/// What `--auth-token-ttl=0` means.
const TOKEN_TTL_SECONDS: u64 = 300;
/// Time between two notes of how long a lease still lives.
const LEASE_CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);
/// What `--compaction-batch-limit=0` means.
const COMPACTION_BATCH_LIMIT: usize = 1_000;
/// What `--compaction-sleep-interval=0` means.
const COMPACTION_PAUSE: Duration = Duration::from_millis(10);
const HOUR_NANOS: i64 = 3_600_000_000_000;
/// What is advertised to members and to clients where nobody says otherwise.
const ADVERTISED_DEFAULTS: [&str; 2] = ["http://localhost:2380", "http://localhost:2379"];
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
    /// Where to listen besides, and how.
    pub listen: listen::Settings,
    /// What is allowed of plain HTTP.
    pub rules: Arc<web::Rules>,
    /// With [`Feature::SetMemberLocalAddr`], the address from which other members are called.
    pub local_address: Option<IpAddr>,
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
    /// Where members meet that do not know each other.
    pub discovery: Option<discovery::Settings>,
    /// Where DNS lists the members.
    pub srv: Option<srv::Settings>,
    /// All memory is to stay in RAM.
    pub lock_memory: bool,
    /// Spans of requests, if they are wanted.
    pub tracing: Option<spans::Settings>,
    /// The flags as they were given, for the banner.
    pub values: Values,
}

/// Why a configuration does not do. The original tells some of it when it reads its flags, some only when
/// the server is made of them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The flags do not do.
    #[error("{0}")]
    Flags(String),
    /// They do, and no server can be made of them.
    #[error("{0}")]
    Start(String),
}

impl From<String> for ConfigError {
    fn from(text: String) -> Self {
        ConfigError::Flags(text)
    }
}

impl From<&str> for ConfigError {
    fn from(text: &str) -> Self {
        ConfigError::Flags(text.to_owned())
    }
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
    let listed = values.list("log-outputs");
    let mut names: Vec<&str> = listed.iter().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    if names.len() > 1 && names.contains(&"default") {
        return Err("multi logoutput for \"default\" is not supported yet".into());
    }
    let rotation = match values.bool("enable-log-rotation") {
        true => Some(rotation(&names, values.text("log-rotation-config-json"))?),
        false => None,
    };
    let least = Severity::parse(values.text("log-level"))
        .ok_or_else(|| unrecognized_level(values.text("log-level")))?;
    let format = match values.text("log-format") {
        "json" | "" => Format::Json,
        "console" => Format::Console,
        other => {
            return Err(format!(
                "unknown log format: {other}, supported values json, console"
            ));
        }
    };
    if names.contains(&"systemd/journal") && names.len() > 1 {
        let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
        return Err(format!(
            "running with systemd/journal but other '--log-outputs' values ([{}]) are configured with 'default'; override 'default' value with something else",
            names.join(" ")
        ));
    }
    // One that throws everything away throws away what the others would get.
    if names.contains(&"/dev/null") {
        names = vec!["/dev/null"];
    }
    let mut outputs = Vec::new();
    for name in names {
        let path = Path::new(sink(name).map_err(|why| format!("open sink {name:?}: {why}"))?);
        outputs.push(match name {
            "default" | "stderr" => Output::Stderr,
            "stdout" => Output::Stdout,
            "systemd/journal" => Output::Journal(Journal::connect(Path::new(journal::SOCKET))?),
            _ => match &rotation {
                Some(rotation) => Rotating::open(path, rotation.clone()).map(Output::Rotating),
                None => output::open(path).map(|file| Output::File(file, path.to_owned())),
            }
            .map_err(|error| {
                format!(
                    "open sink {name:?}: open {}: {} (the log output must be a file that can be written)",
                    path.display(),
                    ferrite_cli::gofmt::system(&error)
                )
            })?,
        });
    }
    Ok(LogConfig {
        least,
        format,
        outputs,
    })
}

/// The path of a file that is given as one or as a `file://` URL.
fn sink(name: &str) -> Result<&str, String> {
    let Some((scheme, rest)) = name.split_once("://") else {
        return Ok(name);
    };
    // A path may have such a thing in it.
    if scheme.contains('/') {
        return Ok(name);
    }
    if !scheme.eq_ignore_ascii_case("file") {
        return Err(format!("no sink found for scheme {scheme:?}"));
    }
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    match host {
        "" | "localhost" => Ok(path),
        _ => Err(format!(
            "file URLs must leave host empty or use localhost: got {name}"
        )),
    }
}

/// One file, and how it begins anew.
fn rotation(names: &[&str], settings: &str) -> Result<rotate::Settings, String> {
    let files = names
        .iter()
        .filter(|name| !matches!(**name, "default" | "stderr" | "stdout"))
        .count();
    if files > 1 || (files == 0 && names.len() == 1) {
        return Err(
            "--log-outputs requires a single file path when --log-rotate-config-json is defined"
                .into(),
        );
    }
    rotate::Settings::parse(settings)
}

/// Reads everything else.
///
/// # Errors
/// What is wrong with the flags, in the original's words where it has some.
pub fn read(values: &Values) -> Result<Config, ConfigError> {
    let mut warnings = Vec::new();
    let name = values.text("name").to_owned();
    let data_dir = match values.text("data-dir") {
        "" => format!("{name}.etcd"),
        dir => dir.to_owned(),
    };
    let listen_peer = values.urls("listen-peer-urls");
    let listen_client = values.urls("listen-client-urls");
    let listen = listen::read(values);
    for url in listen_peer
        .iter()
        .chain(&listen_client)
        .chain(&listen.http)
        .chain(&listen.metrics)
    {
        check_listen(url)?;
    }
    if listen.http.is_empty() {
        warnings.push(
            "Running http and grpc server on single port. This is not recommended for production."
                .into(),
        );
    }
    let mut client_urls = values.urls("advertise-client-urls");
    // Who writes a file gets the default there.
    if !values.is_from_file()
        && values.is_set("listen-client-urls")
        && !values.is_set("advertise-client-urls")
    {
        client_urls = Vec::new();
    }
    if client_urls.is_empty() && !listen_client.is_empty() {
        return Err(UNSET_ADVERTISE_CLIENT_URLS.into());
    }
    let mut peer_urls = values.urls("initial-advertise-peer-urls");
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
        ).into());
    }
    // A file may say anything; on the command line the word was checked.
    let state = values.text("initial-cluster-state");
    if !matches!(state, "new" | "existing" | "") {
        return Err(format!("unexpected clusterState {state:?}").into());
    }
    if values.text("discovery-fallback") == "proxy" {
        return Err(
            "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\""
                .into(),
        );
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
        ).into());
    }
    if election_ms > ELECTION_MAX_MS {
        return Err(format!(
            "--election-timeout[{election_ms}ms] is too long, and should be set less than {ELECTION_MAX_MS}ms"
        ).into());
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
    if values.is_set("v2-deprecation") {
        warnings.push("--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is enforced, ignoring user input.".into());
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
    let discovery = discovery::Settings::read(values)?;
    let advertised = advertise_this_machine(
        [
            (&mut peer_urls, &listen_peer),
            (&mut client_urls, &listen_client),
        ],
        system::default_host,
    );
    match advertised {
        Ok(Some(host)) => tracing::info!(%host, "detected default host for advertise"),
        Ok(None) => {}
        Err(error) => tracing::info!(error = %error, "failed to detect default host"),
    }
    let srv = srv::Settings::read(values);
    // A name without its domain leaves the list empty, too, as with the original.
    let named = !values.text("discovery-srv-name").is_empty() && !values.is_from_file();
    let unlisted = named && !values.is_set("initial-cluster") && discovery.is_none();
    let initial_cluster = if srv.is_some() || unlisted {
        // Known only once DNS has been asked.
        String::new()
    } else if values.is_set("initial-cluster") && discovery.is_none() {
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
    ferrite_membership::parse_initial_cluster(&initial_cluster).map_err(|error| {
        ConfigError::Start(format!("error setting up initial cluster: {error}"))
    })?;
    if values.bool("unsafe-no-fsync") {
        warnings.push(
            "--unsafe-no-fsync: a crash of the machine loses writes that were acknowledged".into(),
        );
    }
    let tokens = Tokens::from_flag(values.text("auth-token")).map_err(ConfigError::Start)?;
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
    let local_address = features
        .enabled(Feature::SetMemberLocalAddr)
        .then(|| local_address(&peer_urls))
        .flatten();
    let size = |name: &str| usize::try_from(values.unsigned(name)).unwrap_or(usize::MAX);
    let node = NodeConfig {
        data_dir: PathBuf::from(data_dir),
        wal_dir: Some(values.text("wal-dir"))
            .filter(|dir| !dir.is_empty())
            .map(PathBuf::from),
        client_urls: client_urls.iter().map(Url::to_string).collect(),
        peer_urls: peer_urls.iter().map(Url::to_string).collect(),
        initial_cluster,
        initial_cluster_token: match &discovery {
            Some(discovery) => discovery.token.clone(),
            None => values.text("initial-cluster-token").to_owned(),
        },
        new_cluster: state != "existing",
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
        // Below nothing is each change by itself.
        batch_limit: match values.signed("backend-batch-limit") {
            0 => 10_000,
            limit => usize::try_from(limit).unwrap_or(1),
        },
        max_snapshots: size("max-snapshots"),
        max_wals: size("max-wals"),
        max_learners: usize::try_from(values.signed("max-learners")).unwrap_or(0),
        strict_reconfig_check: values.bool("strict-reconfig-check"),
        force_new_cluster: values.bool("force-new-cluster"),
        no_fsync: values.bool("unsafe-no-fsync"),
        memory_limit: match values.unsigned("memory-limit-bytes") {
            0 => memory::limit(),
            bytes => Some(bytes),
        },
        peer_read_timeout: values.duration("raft-read-timeout").max(PEER_TIMEOUT_MIN),
        peer_write_timeout: values.duration("raft-write-timeout").max(PEER_TIMEOUT_MIN),
        // Whoever knows how many descriptors there are sets this.
        peer_connections_max: 100,
        token_ttl: Duration::from_secs(or("auth-token-ttl", TOKEN_TTL_SECONDS)),
        warn_apply: values.duration("warning-apply-duration"),
        dialer: Dialer::default(),
        upkeep: upkeep(values, &features)?,
        metrics: Default::default(),
        name,
    };
    Ok(Config {
        node,
        listen_peer,
        listen_client,
        listen,
        rules: Arc::new(web::read(values)),
        local_address,
        warn_unary: values.duration("warning-unary-request-duration"),
        metrics: metrics.to_owned(),
        watch_progress_interval,
        gate: Arc::new(Gate::new(tokens, bcrypt_cost)),
        tls,
        features,
        warnings,
        discovery,
        srv,
        lock_memory: values.bool("memory-mlock"),
        tracing: spans::Settings::read(values)?,
        values: values.clone(),
    })
}

/// The first advertised address that other machines could reach.
fn local_address(peer_urls: &[Url]) -> Option<IpAddr> {
    let urls: Vec<String> = peer_urls.iter().map(Url::to_string).collect();
    tracing::info!(
        "advertise-peer-urls" = ?urls,
        "searching for a suitable member local address in AdvertisePeerURLs"
    );
    let found = peer_urls
        .iter()
        .filter_map(|url| url.host_port()?.0.parse::<IpAddr>().ok())
        .find(|address| !address.is_loopback() && !address.is_unspecified());
    match found {
        Some(address) => {
            tracing::info!("LocalAddr" = %address, "setting member local address");
        }
        None => tracing::warn!(
            "advertise-peer-urls" = ?urls,
            "unable to set a member local address due to lack of suitable local addresses"
        ),
    }
    found
}

/// Who listens on all addresses and is advertised by the default, which is good on this machine alone, is
/// advertised by the address that other machines know, at the port that is listened on. Returns it where it
/// is used.
fn advertise_this_machine(
    sides: [(&mut Vec<Url>, &[Url]); 2],
    default_host: impl Fn() -> std::io::Result<IpAddr>,
) -> std::io::Result<Option<IpAddr>> {
    let mut used = None;
    for ((advertised, listened), default) in sides.into_iter().zip(ADVERTISED_DEFAULTS) {
        let everywhere = listened.first().and_then(Url::host_port);
        let (Some(("0.0.0.0", port)), [url]) = (everywhere, &mut advertised[..]) else {
            continue;
        };
        if url.to_string() != default {
            continue;
        }
        let host = match used {
            Some(host) => host,
            None => default_host()?,
        };
        url.address = std::net::SocketAddr::new(host, port).to_string();
        used = Some(host);
    }
    Ok(used)
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

/// Gates that need each other.
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
    if values.duration("compact-hash-check-time").is_zero() {
        return Err("--compact-hash-check-time must be >0 (set to 0s)".into());
    }
    Ok(())
}

/// What `--auto-compaction-retention` keeps, in the unit of `--auto-compaction-mode`; a time with its unit
/// is the same number of nanoseconds for either, as with the original.
fn unparsed(why: &str) -> ConfigError {
    ConfigError::Start(format!("error parsing CompactionRetention: {why}"))
}

fn auto_compaction(values: &Values) -> Result<Option<Retention>, ConfigError> {
    let mode = values.text("auto-compaction-mode");
    let text = match values.text("auto-compaction-retention") {
        "" => "0",
        text => text,
    };
    let by_revisions = match mode {
        "periodic" => false,
        "revision" => true,
        "" => return Err("undefined auto-compaction-mode".into()),
        other => return Err(format!("unknown auto-compaction-mode {other:?}").into()),
    };
    let nanos = match text.parse::<i64>() {
        Ok(count) if count >= 0 && by_revisions => count,
        Ok(hours) if hours >= 0 => hours
            .checked_mul(HOUR_NANOS)
            .ok_or_else(|| unparsed(&format!("{hours} hours are more than can be counted")))?,
        _ => {
            let why = || duration_mistake(text);
            // Less than nothing reads as nothing elsewhere; here it would keep everything.
            let period = parse_duration(text)
                .filter(|_| !text.starts_with('-'))
                .ok_or_else(|| unparsed(&why()))?;
            i64::try_from(period.as_nanos()).map_err(|_| unparsed(&why()))?
        }
    };
    if nanos == 0 {
        return Ok(None);
    }
    if by_revisions {
        return Ok(Some(Retention::Revisions(nanos)));
    }
    let period = Duration::from_nanos(nanos.unsigned_abs());
    if period < Retention::PERIOD_MIN {
        return Err(unparsed(&format!(
            "{text:?} is too short: give at least 10ns, or 0 to keep everything"
        )));
    }
    Ok(Some(Retention::Period(period)))
}

/// What Go says of a text that is no duration, and of one that is less than nothing.
fn duration_mistake(text: &str) -> String {
    let number = text.trim_start_matches(['+', '-']);
    if number.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        let rest = number.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let unit = rest.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
        if rest.is_empty() {
            return format!("time: missing unit in duration {text:?}");
        }
        if text.starts_with('-') && parse_duration(number).is_some() {
            return format!("{text:?} is negative: give a positive time, or 0 to keep everything");
        }
        if unit == rest && !matches!(unit, "ns" | "us" | "µs" | "μs" | "ms" | "s" | "m" | "h") {
            return format!("time: unknown unit {unit:?} in duration {text:?}");
        }
    }
    format!("time: invalid duration {text:?}")
}

fn upkeep(values: &Values, features: &Features) -> Result<Upkeep, ConfigError> {
    let held = values.text("hold-cluster-version");
    Ok(Upkeep {
        hold_cluster_version: match held {
            "" => None,
            held => Some(versions::parse_held(held)?),
        },
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
        auto_compaction: auto_compaction(values)?,
        // With less than nothing the original's compactions never end.
        compaction_batch_limit: match values.signed("compaction-batch-limit") {
            ..=0 => COMPACTION_BATCH_LIMIT,
            keys => usize::try_from(keys).unwrap_or(usize::MAX),
        },
        compaction_pause: match values.duration("compaction-sleep-interval") {
            Duration::ZERO => COMPACTION_PAUSE,
            pause => pause,
        },
    })
}

fn check_listen(url: &Url) -> Result<(), String> {
    if url.is_socket() {
        return Ok(());
    }
    match url.host() {
        Some(host) if host == "localhost" || host.parse::<std::net::IpAddr>().is_ok() => Ok(()),
        _ => Err(format!("expected IP in URL for binding ({url})")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(arguments: &[&str]) -> Result<Config, String> {
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        let values = Values::parse(&arguments, []).map_err(|error| error.to_string())?;
        read(&values).map_err(|error| error.to_string())
    }

    fn refused(arguments: &[&str]) -> String {
        match config(arguments) {
            Ok(_) => format!("{arguments:?} was accepted"),
            Err(error) => error,
        }
    }

    #[test]
    fn wrong_settings_of_the_log_are_refused_in_the_originals_words() {
        let logged = |arguments: &[&str]| {
            let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
            let values = Values::parse(&arguments, []).expect("flags");
            match logging(&values) {
                Ok(_) => format!("{arguments:?} was accepted"),
                Err(error) => error,
            }
        };
        assert_eq!(
            logged(&["--logger=capnslog"]),
            "--logger=capnslog is removed in v3.5"
        );
        assert_eq!(logged(&["--logger=x"]), "unknown logger option \"x\"");
        assert_eq!(
            logged(&["--log-outputs=stdout,default"]),
            "multi logoutput for \"default\" is not supported yet"
        );
        assert_eq!(
            logged(&["--log-outputs=stderr,systemd/journal"]),
            "running with systemd/journal but other '--log-outputs' values ([\"stderr\" \"systemd/journal\"]) are configured with 'default'; override 'default' value with something else"
        );
        let single =
            "--log-outputs requires a single file path when --log-rotate-config-json is defined";
        for outputs in ["default", "stderr", "a,b"] {
            assert_eq!(
                logged(&["--enable-log-rotation", &format!("--log-outputs={outputs}")]),
                single
            );
        }
        assert_eq!(
            logged(&[
                "--enable-log-rotation",
                "--log-outputs=/nonexistent/x",
                "--log-rotation-config-json={\"maxsize\": true}"
            ]),
            "invalid log rotation config: json: cannot unmarshal bool into Go struct field logRotationConfig.Logger.maxsize of type int"
        );
        assert_eq!(
            logged(&["--log-format=x"]),
            "unknown log format: x, supported values json, console"
        );
        assert_eq!(
            logged(&["--log-level=loud"]),
            "unrecognized level: \"loud\" (it can be debug, info, warn, error, panic or fatal)"
        );
        assert!(
            logged(&["--log-outputs=/nonexistent/x"]).contains("open /nonexistent/x: no such file")
        );
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
    fn a_quota_is_the_default_none_or_as_given_and_only_warned_of() {
        let quota = |bytes: &str| {
            let config = config(&[&format!("--quota-backend-bytes={bytes}")]).expect("valid");
            let warned = config.warnings.iter().any(|line| line.contains("8 GiB"));
            (config.node.quota_bytes, warned)
        };
        assert_eq!(quota("0"), (Some(2 << 30), false));
        assert_eq!(quota("-1"), (None, false));
        assert_eq!(quota("1000"), (Some(1_000), false));
        assert_eq!(quota("8589934592"), (Some(8 << 30), false));
        assert_eq!(quota("8589934593"), (Some((8 << 30) + 1), true));
    }

    #[test]
    fn what_automatic_compaction_keeps_is_read_as_by_the_original() {
        let kept = |mode: &str, retention: &str| {
            let mode = format!("--auto-compaction-mode={mode}");
            let retention = format!("--auto-compaction-retention={retention}");
            config(&[&mode, &retention])
                .expect("valid")
                .node
                .upkeep
                .auto_compaction
        };
        let period = |seconds| Some(Retention::Period(Duration::from_secs(seconds)));
        assert_eq!(
            config(&[]).expect("valid").node.upkeep.auto_compaction,
            None
        );
        for nothing in ["0", "", "0s", "0h"] {
            assert_eq!(kept("periodic", nothing), None);
            assert_eq!(kept("revision", nothing), None);
        }
        assert_eq!(kept("periodic", "1"), period(3_600));
        assert_eq!(kept("periodic", "+24"), period(24 * 3_600));
        assert_eq!(kept("periodic", "1h30m"), period(5_400));
        assert_eq!(kept("periodic", "0.5h"), period(1_800));
        assert_eq!(kept("revision", "1000"), Some(Retention::Revisions(1_000)));
        // Surely a mistake, and read so by the original: nanoseconds.
        assert_eq!(
            kept("revision", "1s"),
            Some(Retention::Revisions(1_000_000_000))
        );
    }

    #[test]
    fn who_listens_everywhere_is_advertised_by_the_machines_own_address() {
        let advertised = |listen: [&str; 2], given: [&str; 2], host: Option<&str>| {
            let listen = listen.map(|urls| crate::flags::parse_urls(urls).expect("URLs"));
            let [mut peer, mut client] =
                given.map(|urls| crate::flags::parse_urls(urls).expect("URLs"));
            let found = advertise_this_machine(
                [(&mut peer, &listen[0]), (&mut client, &listen[1])],
                || match host {
                    Some(host) => Ok(host.parse().expect("an address")),
                    None => Err(std::io::Error::other("no route")),
                },
            );
            (joined(&peer), joined(&client), found.is_ok())
        };
        let defaults = ADVERTISED_DEFAULTS;
        let said = |peer: &str, client: &str, ok| (peer.to_owned(), client.to_owned(), ok);
        let everywhere = ["http://0.0.0.0:1", "http://0.0.0.0:2"];
        assert_eq!(
            advertised(everywhere, defaults, Some("10.0.0.7")),
            said("http://10.0.0.7:1", "http://10.0.0.7:2", true)
        );
        assert_eq!(
            advertised(everywhere, defaults, Some("fd00::7")),
            said("http://[fd00::7]:1", "http://[fd00::7]:2", true)
        );
        assert_eq!(
            advertised(everywhere, defaults, None),
            said(defaults[0], defaults[1], false)
        );
        // Whoever says anything at all means it.
        let given = [
            "http://localhost:2381",
            "http://10.0.0.1:2,http://10.0.0.2:2",
        ];
        assert_eq!(
            advertised(everywhere, given, Some("10.0.0.7")),
            said(given[0], given[1], true)
        );
        let narrow = ["http://127.0.0.1:1", "http://localhost:2"];
        assert_eq!(
            advertised(narrow, defaults, None),
            said(defaults[0], defaults[1], true)
        );
    }

    #[test]
    fn a_log_may_be_a_url_of_a_file_and_of_nothing_else() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("a.log");
        let told = |output: &str| {
            let values = Values::parse(&[format!("--log-outputs={output}")], []).expect("flags");
            logging(&values).map(drop)
        };
        assert_eq!(told(&format!("file://{}", file.display())), Ok(()));
        assert!(file.exists());
        let refused = |output: &str| told(output).expect_err(output);
        assert_eq!(
            refused("foo://bar"),
            "open sink \"foo://bar\": no sink found for scheme \"foo\""
        );
        assert_eq!(
            refused("file://host/a"),
            "open sink \"file://host/a\": file URLs must leave host empty or use localhost: got file://host/a"
        );
        let none = "open sink \"\": open : no such file or directory";
        assert!(refused("").starts_with(none), "{}", refused(""));
    }

    #[test]
    fn what_no_server_can_be_made_of_is_told_apart_from_flags_that_do_not_do() {
        for (argument, starts) in [
            ("--auth-token=jwt", true),
            ("--auth-token=simple,foo", true),
            ("--auto-compaction-retention=x", true),
            ("--initial-cluster=a=b", true),
            ("--auto-compaction-mode=x", false),
            ("--election-timeout=1", false),
        ] {
            let values = Values::parse(&[argument.to_owned()], []).expect("flags");
            let error = read(&values).err().expect(argument);
            assert_eq!(matches!(error, ConfigError::Start(_)), starts, "{argument}");
        }
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
        for (arguments, words) in [
            (
                &["--auto-compaction-mode="][..],
                "undefined auto-compaction-mode",
            ),
            (
                &["--auto-compaction-mode", "x"],
                "unknown auto-compaction-mode \"x\"",
            ),
            (
                &["--auto-compaction-retention", "x"],
                "error parsing CompactionRetention: time: invalid duration \"x\"",
            ),
            (
                &["--auto-compaction-retention", "-1"],
                "error parsing CompactionRetention: time: missing unit in duration \"-1\"",
            ),
            (
                &["--auto-compaction-retention", "5 m"],
                "error parsing CompactionRetention: time: unknown unit \" m\" in duration \"5 m\"",
            ),
            (
                &["--auto-compaction-retention", "-5m"],
                "error parsing CompactionRetention: \"-5m\" is negative: give a positive time, or 0 to keep everything",
            ),
            (
                &["--auto-compaction-retention", "9223372036854775807"],
                "error parsing CompactionRetention: 9223372036854775807 hours are more than can be counted",
            ),
        ] {
            assert_eq!(refused(arguments), words);
        }
        assert_eq!(
            refused(&["--discovery-fallback", "proxy"]),
            "v2 proxy is deprecated, and --discovery-fallback can't be configured as \"proxy\""
        );
        let conflict = "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery-endpoints\" or \"discovery-srv\"";
        assert_eq!(
            refused(&[
                "--initial-cluster=default=http://localhost:2380",
                "--discovery-endpoints=a:1",
                "--discovery-token=t"
            ]),
            conflict
        );
        for one in ["--discovery-endpoints=a:1", "--discovery-token=t"] {
            assert_eq!(
                refused(&[one]),
                "both --discovery-token and --discovery-endpoints must be set"
            );
        }
        assert_eq!(
            refused(&["--discovery-endpoints=a:1, ", "--discovery-token=t"]),
            "--discovery-endpoints must not contain empty endpoints"
        );
        let traced = |rate| {
            refused(&[
                "--enable-distributed-tracing",
                &format!("--distributed-tracing-sampling-rate={rate}"),
            ])
        };
        assert_eq!(
            traced("-1"),
            "distributed tracing configurition is not valid: (tracing sampling rate must be positive)"
        );
        assert_eq!(
            traced("1000001"),
            "distributed tracing configurition is not valid: (tracing sampling rate must be less than 1000000)"
        );
        // Only where it is on.
        assert!(config(&["--distributed-tracing-sampling-rate=-1"]).is_ok());
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
            refused(&["--hold-cluster-version", "3.4"]),
            "--hold-cluster-version must be a version from 3.5 to 3.7, as X.Y (set to \"3.4\")"
        );
        assert_eq!(
            refused(&["--heartbeat-interval", "0"]),
            "--heartbeat-interval must be >0 (set to 0ms)"
        );
    }
}
