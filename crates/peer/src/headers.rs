//! Headers between members, and the checks of version and cluster that every request passes.

use http::request::Builder;
use http::{HeaderMap, HeaderValue};

use crate::config::Config;
use crate::logfmt::hex;
use crate::url::PeerUrl;

pub(crate) const SERVER_FROM: &str = "x-server-from";
pub(crate) const SERVER_VERSION: &str = "x-server-version";
pub(crate) const MIN_CLUSTER_VERSION: &str = "x-min-cluster-version";
pub(crate) const CLUSTER_ID: &str = "x-etcd-cluster-id";
pub(crate) const PEER_URLS: &str = "x-peerurls";
pub(crate) const RAFT_TO: &str = "x-raft-to";

/// The two refusals with status 412 that both sides know by their text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Incompatible {
    #[error("incompatible version")]
    Version,
    #[error("cluster ID mismatch")]
    Cluster,
}

/// Major and minor of a version. What is absent counts as 2.0, as in etcd; what cannot be read too.
pub(crate) fn major_minor(headers: &HeaderMap, name: &str) -> (u64, u64) {
    headers
        .get(name)
        .and_then(|v| v.to_str().ok())
        .and_then(parse_major_minor)
        .unwrap_or((2, 0))
}

pub(crate) fn parse_major_minor(text: &str) -> Option<(u64, u64)> {
    let mut parts = text.split('.');
    let major = parts.next()?.parse().ok()?;
    let minor = parts.next()?.parse().ok()?;
    Some((major, minor))
}

pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers
        .get(name)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default()
}

/// Checks version, then cluster, and logs a refusal.
pub(crate) fn check(config: &Config, headers: &HeaderMap) -> Result<(), Incompatible> {
    let remote = major_minor(headers, SERVER_VERSION);
    let remote_min = major_minor(headers, MIN_CLUSTER_VERSION);
    let local = parse_major_minor(&config.server_version).unwrap_or((3, 7));
    let local_min = parse_major_minor(&config.min_cluster_version).unwrap_or((3, 0));
    let reason = if remote < local_min {
        "remote version is too low"
    } else if remote_min > local {
        "local version is too low"
    } else {
        ""
    };
    if !reason.is_empty() {
        let from = text(headers, SERVER_FROM);
        let version = text(headers, SERVER_VERSION);
        tracing::warn!(
            "local-member-id" = hex(config.member_id),
            "local-member-cluster-id" = hex(config.cluster_id),
            "local-member-server-version" = config.server_version,
            "local-member-server-minimum-cluster-version" = config.min_cluster_version,
            "remote-peer-server-name" = from,
            "remote-peer-server-version" = version,
            "remote-peer-server-minimum-cluster-version" = text(headers, MIN_CLUSTER_VERSION),
            error = format!(
                "{reason}: remote[{from}]={version}, local={}",
                config.server_version
            ),
            "failed version compatibility check"
        );
        return Err(Incompatible::Version);
    }
    if text(headers, CLUSTER_ID) != hex(config.cluster_id) {
        tracing::warn!(
            "local-member-id" = hex(config.member_id),
            "local-member-cluster-id" = hex(config.cluster_id),
            "local-member-server-version" = config.server_version,
            "local-member-server-minimum-cluster-version" = config.min_cluster_version,
            "remote-peer-server-name" = text(headers, SERVER_FROM),
            "remote-peer-server-version" = text(headers, SERVER_VERSION),
            "remote-peer-server-minimum-cluster-version" = text(headers, MIN_CLUSTER_VERSION),
            "remote-peer-cluster-id" = text(headers, CLUSTER_ID),
            "request cluster ID mismatch"
        );
        return Err(Incompatible::Cluster);
    }
    Ok(())
}

/// Whether a server of this version has the two streams: those since 2.1 that are known.
pub(crate) fn has_streams(remote: (u64, u64), local: (u64, u64)) -> bool {
    remote >= local || matches!(remote, (2, 1..=3) | (3, 0..=7))
}

/// Header values of this member, made once.
pub(crate) struct OwnHeaders {
    from: HeaderValue,
    version: HeaderValue,
    min_version: HeaderValue,
    cluster: HeaderValue,
    urls: Option<HeaderValue>,
}

impl OwnHeaders {
    pub(crate) fn new(config: &Config) -> OwnHeaders {
        let value = |s: &str| HeaderValue::from_str(s).unwrap_or(HeaderValue::from_static(""));
        let urls = config.local_peer_urls.join(",");
        OwnHeaders {
            from: value(&hex(config.member_id)),
            version: value(&config.server_version),
            min_version: value(&config.min_cluster_version),
            cluster: value(&hex(config.cluster_id)),
            urls: (!urls.is_empty()).then(|| value(&urls)),
        }
    }

    pub(crate) fn cluster(&self) -> HeaderValue {
        self.cluster.clone()
    }

    pub(crate) fn version(&self) -> HeaderValue {
        self.version.clone()
    }

    /// Begins a request to a peer.
    pub(crate) fn request(&self, method: http::Method, url: &PeerUrl, path: &str) -> Builder {
        let mut builder = http::Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, url.authority())
            .header(SERVER_FROM, self.from.clone())
            .header(SERVER_VERSION, self.version.clone())
            .header(MIN_CLUSTER_VERSION, self.min_version.clone())
            .header(CLUSTER_ID, self.cluster.clone());
        if let Some(urls) = &self.urls {
            builder = builder.header(PEER_URLS, urls.clone());
        }
        builder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_major_and_minor() {
        assert_eq!(parse_major_minor("3.5.1"), Some((3, 5)));
        assert_eq!(parse_major_minor("3.7.0-alpha.1"), Some((3, 7)));
        assert_eq!(parse_major_minor("x"), None);
        assert_eq!(major_minor(&HeaderMap::new(), SERVER_VERSION), (2, 0));
        assert!(has_streams((3, 4), (3, 7)));
        assert!(has_streams((4, 0), (3, 7)));
        assert!(!has_streams((2, 0), (3, 7)));
    }
}
