//! What the server says of itself and its surroundings before it starts: the architecture, the data
//! folder it finds, and the banner.

use std::time::Duration;

use ferrite_cli::gofmt;
use ferrite_node::config::ETCD_VERSION;
use ferrite_node::recover;
use serde_json::Value;

use crate::config::{Config, PEER_TIMEOUT_MIN};
use crate::features::GATES;
use crate::flags::Url;
use crate::log;
use crate::run::GIT_SHA;

/// Go's name of an architecture that Rust calls so.
pub fn architecture(rust: &str, little_endian: bool) -> String {
    match (rust, little_endian) {
        ("x86_64", _) => "amd64",
        ("x86", _) => "386",
        ("aarch64", _) => "arm64",
        ("powerpc64", true) => "ppc64le",
        ("powerpc64", false) => "ppc64",
        (other, _) => other,
    }
    .to_owned()
}

/// The original runs on four architectures, and on others only when told so.
///
/// # Errors
/// The original's words.
pub fn supported(architecture: &str, allowed: Option<String>) -> Result<(), &'static str> {
    match architecture {
        "amd64" | "arm64" | "ppc64le" | "s390x" => Ok(()),
        other if allowed.is_some_and(|allowed| allowed == other) => {
            tracing::info!(
                arch = architecture,
                "running etcd on unsupported architecture since ETCD_UNSUPPORTED_ARCH is set"
            );
            Ok(())
        }
        _ => Err(
            "Refusing to run etcd on unsupported architecture since ETCD_UNSUPPORTED_ARCH is not set",
        ),
    }
}

/// What the data folder holds, and what was left to defaults that seldom do.
pub fn announce(config: &Config) {
    let node = &config.node;
    if node.name == "default" {
        tracing::warn!(
            name = node.name,
            "it isn't recommended to use default name, please set a value for --name. Note that etcd might run into issue when multiple members have the same default name"
        );
    }
    for flag in ["raft-read-timeout", "raft-write-timeout"] {
        if config.values.duration(flag) < PEER_TIMEOUT_MIN {
            let least = gofmt::duration(PEER_TIMEOUT_MIN);
            tracing::info!("{flag} increased to minimum value: {least}");
        }
    }
    let data_dir = node.data_dir.display();
    if config.values.text("data-dir").is_empty() {
        tracing::warn!("data-dir" = %data_dir, "'data-dir' was empty; using default");
    }
    let mut holds_member = false;
    // A folder that cannot be read is told of when it is opened.
    for entry in std::fs::read_dir(&node.data_dir)
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name == "member" {
            holds_member = true;
        } else {
            tracing::warn!(
                filename = &*name,
                "data-dir" = %data_dir,
                "found invalid file under data directory"
            );
        }
    }
    if holds_member {
        tracing::info!(
            "data-dir" = %data_dir,
            "dir-type" = "member",
            "server has already been initialized"
        );
    } else {
        tracing::info!(
            "data-dir" = %data_dir,
            "dir-type" = "empty",
            "Initialize and start etcd server"
        );
    }
}

/// Limits of sizes, in the original's lines.
pub fn limits(config: &Config) {
    const RECOMMENDED_BYTES: u64 = 10 << 20;
    const NAME: &str = "v3-applier";
    let given = config.values.unsigned("max-request-bytes");
    if given > RECOMMENDED_BYTES {
        tracing::warn!(
            "max-request-bytes" = given,
            "max-request-size" = gofmt::size(given),
            "recommended-request-bytes" = RECOMMENDED_BYTES,
            "recommended-request-size" = gofmt::size(RECOMMENDED_BYTES),
            "exceeded recommended request limit"
        );
    }
    let given = config.values.signed("quota-backend-bytes");
    match config.node.quota_bytes {
        None => tracing::info!(
            "quota-name" = NAME,
            "quota-size-bytes" = given,
            "disabled backend quota"
        ),
        Some(bytes) if given == 0 => tracing::info!(
            "quota-name" = NAME,
            "quota-size-bytes" = bytes,
            "quota-size" = gofmt::size(bytes),
            "enabled backend quota with default value"
        ),
        Some(bytes) => tracing::info!(
            "quota-name" = NAME,
            "quota-size-bytes" = bytes,
            "quota-size" = gofmt::size(bytes),
            "enabled backend quota"
        ),
    }
}

fn urls(urls: &[Url]) -> Value {
    urls.iter().map(ToString::to_string).collect()
}

/// A list of words that a flag holds.
fn words(text: &str) -> Value {
    let mut words: Vec<&str> = text.split(',').filter(|word| !word.is_empty()).collect();
    words.sort_unstable();
    words.into_iter().collect()
}

/// What is kept of history, as the original shows it: revisions count as nanoseconds.
fn retention(mode: &str, text: &str) -> Duration {
    match (mode, text.parse::<u64>()) {
        ("revision", Ok(revisions)) => Duration::from_nanos(revisions),
        (_, Ok(hours)) => Duration::from_secs(hours.saturating_mul(3600)),
        (_, Err(_)) => gofmt::parse_duration(text).unwrap_or_default(),
    }
}

/// The line with all settings.
pub fn banner(config: &Config) {
    let node = &config.node;
    let values = &config.values;
    let text = |name: &str| Value::from(values.text(name));
    let span = |name: &str| Value::from(gofmt::duration(values.duration(name)));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    // Where nobody can tell, the start is about to say so.
    let initialized = recover::is_initialized(node).unwrap_or(false);
    let initial_cluster = match initialized {
        true => "",
        false => node.initial_cluster.as_str(),
    };
    let quota = match node.quota_bytes {
        Some(bytes) => Value::from(bytes),
        None => Value::from(values.signed("quota-backend-bytes")),
    };
    let gates: Vec<String> = GATES
        .iter()
        .filter(|spec| config.features.is_given(spec.gate))
        .map(|spec| format!("{}={}", spec.name, config.features.enabled(spec.gate)))
        .collect();
    let retention = Value::from(gofmt::duration(retention(
        values.text("auto-compaction-mode"),
        values.text("auto-compaction-retention"),
    )));
    log::long(
        "starting an etcd server",
        &[
            ("etcd-version", ETCD_VERSION.into()),
            ("ferrite-version", env!("CARGO_PKG_VERSION").into()),
            ("git-sha", GIT_SHA.into()),
            ("go-version", "none (Rust)".into()),
            ("go-os", std::env::consts::OS.into()),
            (
                "go-arch",
                architecture(std::env::consts::ARCH, cfg!(target_endian = "little")).into(),
            ),
            ("max-cpu-set", cores.into()),
            ("max-cpu-available", cores.into()),
            ("member-initialized", initialized.into()),
            ("name", node.name.as_str().into()),
            ("data-dir", node.data_dir.to_string_lossy().into()),
            ("wal-dir", text("wal-dir")),
            ("wal-dir-dedicated", text("wal-dir")),
            ("member-dir", node.member_dir().to_string_lossy().into()),
            ("force-new-cluster", node.force_new_cluster.into()),
            ("heartbeat-interval", gofmt::duration(node.tick).into()),
            (
                "election-timeout",
                gofmt::duration(node.election_timeout()).into(),
            ),
            (
                "initial-election-tick-advance",
                node.advance_election_at_start.into(),
            ),
            ("snapshot-count", node.snapshot_count.into()),
            ("max-wals", node.max_wals.into()),
            ("max-snapshots", node.max_snapshots.into()),
            (
                "snapshot-catchup-entries",
                node.snapshot_catchup_entries.into(),
            ),
            ("initial-advertise-peer-urls", node.peer_urls.clone().into()),
            ("listen-peer-urls", urls(&config.listen_peer)),
            ("advertise-client-urls", node.client_urls.clone().into()),
            ("listen-client-urls", urls(&config.listen_client)),
            (
                "listen-metrics-urls",
                words(values.text("listen-metrics-urls")),
            ),
            ("local-address", "".into()),
            ("cors", words(values.text("cors"))),
            ("host-whitelist", words(values.text("host-whitelist"))),
            ("initial-cluster", initial_cluster.into()),
            (
                "initial-cluster-state",
                if node.new_cluster { "new" } else { "existing" }.into(),
            ),
            (
                "initial-cluster-token",
                node.initial_cluster_token.as_str().into(),
            ),
            ("quota-backend-bytes", quota),
            ("max-request-bytes", node.max_request_bytes.into()),
            (
                "max-concurrent-streams",
                match values.unsigned("max-concurrent-streams") {
                    0 => u32::MAX.into(),
                    streams => streams.into(),
                },
            ),
            ("pre-vote", node.pre_vote.into()),
            ("feature-gates", gates.join(",").into()),
            (
                "initial-corrupt-check",
                node.upkeep.initial_corrupt_check.into(),
            ),
            ("corrupt-check-time-interval", span("corrupt-check-time")),
            (
                "compact-check-time-interval",
                span("compact-hash-check-time"),
            ),
            ("auto-compaction-mode", text("auto-compaction-mode")),
            ("auto-compaction-retention", retention.clone()),
            ("auto-compaction-interval", retention),
            ("discovery-token", text("discovery-token")),
            (
                "discovery-endpoints",
                values.list("discovery-endpoints").join(",").into(),
            ),
            ("discovery-dial-timeout", span("discovery-dial-timeout")),
            (
                "discovery-request-timeout",
                span("discovery-request-timeout"),
            ),
            ("discovery-keepalive-time", span("discovery-keepalive-time")),
            (
                "discovery-keepalive-timeout",
                span("discovery-keepalive-timeout"),
            ),
            (
                "discovery-insecure-transport",
                values.bool("discovery-insecure-transport").into(),
            ),
            (
                "discovery-insecure-skip-tls-verify",
                values.bool("discovery-insecure-skip-tls-verify").into(),
            ),
            ("discovery-cert", text("discovery-cert")),
            ("discovery-key", text("discovery-key")),
            ("discovery-cacert", text("discovery-cacert")),
            ("discovery-user", text("discovery-user")),
            ("downgrade-check-interval", span("downgrade-check-time")),
            ("max-learners", node.max_learners.into()),
            ("v2-deprecation", "write-only".into()),
        ],
    );
}

/// The address by which other machines know this one: that of the route to everywhere, version 4 first.
///
/// # Errors
/// There is no such route.
pub fn default_host() -> std::io::Result<std::net::IpAddr> {
    // Nothing is sent: the system only chooses from which address it would be. These two are nobody's.
    let from = |local: &str, to: &str| {
        let socket = std::net::UdpSocket::bind(local)?;
        socket.connect(to)?;
        Ok(socket.local_addr()?.ip())
    };
    from("0.0.0.0:0", "203.0.113.1:9").or_else(|_| from("[::]:0", "[2001:db8::1]:9"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_architectures_have_to_be_allowed_by_name() {
        for name in ["amd64", "arm64", "ppc64le", "s390x"] {
            assert!(supported(name, None).is_ok());
        }
        assert!(supported("riscv64", None).is_err());
        assert!(supported("riscv64", Some("arm".into())).is_err());
        assert!(supported("riscv64", Some("riscv64".into())).is_ok());
        assert_eq!(architecture("powerpc64", true), "ppc64le");
        assert_eq!(architecture("x86_64", true), "amd64");
    }
}
