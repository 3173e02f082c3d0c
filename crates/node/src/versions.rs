//! The cluster's version, a downgrade under way, and the layout of the database that follows them.
//!
//! What may come after what is [`transition`]'s; here members are asked and proposals made.

use std::time::Duration;

use ferrite_membership::transition::{
    self, DowngradeError, StuckDowngrade, TooOld, UnsupportedStorage,
};
use ferrite_membership::{Cluster, Member, Version};
use ferrite_mutate::mutation;
use ferrite_mvcc::Backend;
use ferrite_mvcc::schema::{self, Bucket};
use ferrite_peer::{Dialer, HttpClient, get_json};
use ferrite_proto::etcdserverpb::InternalRaftRequest;
use ferrite_proto::membershippb::{ClusterVersionSetRequest, DowngradeInfoSetRequest};

use crate::config::ETCD_VERSION;
use crate::tasks::ASK_TIMEOUT;
use crate::{Error, Node, hex};

pub use ferrite_membership::transition::STORAGE_VERSION_SINCE;

/// How often the leader looks at the members' versions, and every member at that of its database.
pub const INTERVAL: Duration = Duration::from_secs(4);
/// Where members say whether a downgrade is under way.
pub const DOWNGRADE_PATH: &str = "/downgrade/enabled";
/// Longest answer to that.
const ANSWER_BYTES_MAX: usize = 4 << 10;

/// [`ETCD_VERSION`], read.
const OWN: Version = Version::new(3, 7, 1);

/// Whether this program may be part of a cluster of this version.
///
/// # Errors
/// [`TooOld`].
pub fn check_program(cluster: Version) -> Result<(), TooOld> {
    transition::check_program(OWN, cluster)
}

/// Whether this program can read a database of this layout.
///
/// # Errors
/// [`UnsupportedStorage`].
pub fn check_storage(stored: Version) -> Result<(), UnsupportedStorage> {
    transition::next_storage_version(OWN, stored, OWN).map(drop)
}

/// The leader sets the cluster's version: to the lowest of its members', or to a downgrade's target.
pub(crate) async fn decide(node: &Node) {
    if !node.status().is_leader() {
        return;
    }
    let cluster = node.published().get_cluster();
    let versions = member_versions(node, &cluster).await;
    let (next, request) = match decision(&cluster, versions) {
        Ok(None) => return,
        Ok(Some(decided)) => decided,
        Err(error) => {
            tracing::error!(error = %error, "Failed to monitor cluster version");
            return;
        }
    };
    match cluster.version {
        None => tracing::info!(
            "cluster-version" = %short(next),
            "setting up initial cluster version using v3 API"
        ),
        Some(now) => tracing::info!(
            from = %short(now),
            to = %short(next),
            "updating cluster version using v3 API"
        ),
    }
    match node.propose(request).await {
        Ok(_) => tracing::info!("cluster-version" = %short(next), "cluster version is updated"),
        Err(error) => tracing::warn!(error = %error, "failed to update cluster version"),
    }
}

/// The version that the cluster is to get now, and the request for it, by what its members say of theirs (`None`: one
/// says nothing).
///
/// # Errors
/// [`StuckDowngrade`].
pub fn decision(
    cluster: &Cluster,
    versions: impl IntoIterator<Item = Option<Version>>,
) -> Result<Option<(Version, InternalRaftRequest)>, StuckDowngrade> {
    let lowest = versions.into_iter().min().flatten();
    let next = transition::next_cluster_version(cluster, lowest)?;
    Ok(next.map(|next| {
        let request = InternalRaftRequest {
            cluster_version_set: Some(ClusterVersionSetRequest {
                ver: next.to_string(),
            }),
            ..InternalRaftRequest::default()
        };
        (next, request)
    }))
}

/// The request that begins a downgrade, or ends one.
pub fn downgrade_request(target: Option<Version>) -> InternalRaftRequest {
    InternalRaftRequest {
        downgrade_info_set: Some(DowngradeInfoSetRequest {
            enabled: target.is_some(),
            ver: target.map_or_else(String::new, |target| target.to_string()),
        }),
        ..InternalRaftRequest::default()
    }
}

/// The layout of a database: what it says of itself, and 3.5 if it says nothing but has `applied` anything.
pub fn layout(backend: &Backend, applied: bool) -> Option<Version> {
    let read = |name: &str| backend.get(Bucket::Meta, name.as_bytes()).ok().flatten();
    if let Some(stored) = read(schema::STORAGE_VERSION) {
        return std::str::from_utf8(&stored).ok()?.parse().ok();
    }
    (applied || read(schema::TERM).is_some()).then_some(transition::STORAGE_VERSION_BEFORE)
}

/// The layout that a database of this one must get now; `None` when it stays.
///
/// # Errors
/// [`UnsupportedStorage`].
pub fn next_layout(
    stored: Version,
    cluster: &Cluster,
) -> Result<Option<Version>, UnsupportedStorage> {
    let decided = |version: &Version| *version != transition::UNDECIDED;
    let Some(version) = cluster.version.filter(decided) else {
        return Ok(None);
    };
    if mutation!("layout-stays-above") && version < stored {
        return Ok(None);
    }
    transition::next_storage_version(OWN, stored, version)
}

/// A cluster's version as it is shown to people: without the patch it never has.
pub fn short(version: Version) -> String {
    format!("{}.{}", version.major, version.minor)
}

/// Every member's version, this one's included; `None`, which sorts first, where it is not known.
async fn member_versions(node: &Node, cluster: &Cluster) -> Vec<Option<Version>> {
    let mut versions = vec![Some(node.given_version())];
    for member in cluster.members.values() {
        if member.id != node.member_id() {
            versions.push(server_version(node, member).await);
        }
    }
    versions
}

#[derive(serde::Deserialize)]
struct Versions {
    etcdserver: String,
    #[serde(default)]
    etcdcluster: String,
}

async fn server_version(node: &Node, member: &Member) -> Option<Version> {
    let cluster_id = hex(node.cluster_id());
    let headers = [("X-Etcd-Cluster-ID", cluster_id.as_str())];
    let dialer = &node.config().dialer;
    match get_json::<Versions>(dialer, &member.peer_urls, "/version", &headers, ASK_TIMEOUT).await {
        Ok((versions, _)) => versions.etcdserver.parse().ok(),
        Err(error) => {
            tracing::warn!(
                "remote-member-id" = %hex(member.id),
                error = %error,
                "failed to get version"
            );
            None
        }
    }
}

/// Brings the layout of the database to the cluster's version.
pub(crate) fn follow_with_storage(node: &Node) {
    let cluster = node.published().get_cluster();
    let Some(stored) = node.storage_version() else {
        return;
    };
    match next_layout(stored, &cluster) {
        Ok(None) => {}
        Ok(Some(next)) => {
            tracing::info!(
                "cluster-version" = %cluster.version.unwrap_or(next),
                "storage-version" = %stored,
                "cluster version differs from storage version."
            );
            node.set_storage_version(next);
            tracing::info!("new-storage-version" = %next, "updated storage version");
            if let Some(downgrade) = transition::running(&cluster) {
                tracing::info!(
                    "target-version" = downgrade.target_version,
                    "server-version" = ETCD_VERSION,
                    "The server is ready to downgrade"
                );
            }
        }
        // A cluster with members older than any layout that is known: as before there were layouts.
        Err(error) => {
            tracing::debug!(error = %error, "the layout of the database stays as it is")
        }
    }
}

/// Cancels a downgrade once every member runs the target's version. Never ends unless it is switched off.
pub async fn watch_downgrade(node: Node) {
    let interval = node.config().upkeep.downgrade_check_time;
    if interval.is_zero() {
        return;
    }
    loop {
        tokio::time::sleep(interval).await;
        let cluster = node.published().get_cluster();
        let Some(downgrade) = transition::running(&cluster) else {
            continue;
        };
        if !node.status().is_leader()
            || !transition::is_downgraded(
                &downgrade.target_version,
                member_versions(&node, &cluster).await,
            )
        {
            continue;
        }
        tracing::info!(
            "cluster-version" = downgrade.target_version,
            "the cluster has been downgraded"
        );
        if let Err(error) = node.set_downgrade(None).await {
            tracing::warn!(error = %error, "failed to cancel downgrade");
        }
    }
}

/// Whether this program may join the cluster of these members; `own` names the URLs not to ask.
pub async fn may_join(cluster: &Cluster, own: &[String], dialer: &Dialer) -> bool {
    let others = || {
        cluster
            .members
            .values()
            .filter(|member| !member.peer_urls.iter().any(|url| own.contains(url)))
    };
    let mut versions = Vec::new();
    for member in others() {
        let asked =
            get_json::<Versions>(dialer, &member.peer_urls, "/version", &[], ASK_TIMEOUT).await;
        if let Ok((found, _)) = asked
            && let Ok(version) = found.etcdcluster.parse::<Version>()
        {
            versions.push(version);
        }
    }
    let mut downgrading = false;
    for member in others() {
        if let Some(answer) = is_downgrading(member, dialer).await {
            downgrading = answer;
            break;
        }
    }
    transition::may_join(OWN, downgrading, &versions)
}

async fn is_downgrading(member: &Member, dialer: &Dialer) -> Option<bool> {
    let client = HttpClient::new(dialer, ASK_TIMEOUT, ANSWER_BYTES_MAX);
    for url in &member.peer_urls {
        let asked = client
            .request(
                url,
                http::Method::GET,
                DOWNGRADE_PATH,
                &[],
                bytes::Bytes::new(),
            )
            .await;
        match asked
            .ok()
            .filter(|reply| reply.status == http::StatusCode::OK)
        {
            Some(reply) if &reply.body[..] == b"true" => return Some(true),
            Some(reply) if &reply.body[..] == b"false" => return Some(false),
            _ => {}
        }
    }
    None
}

/// Reads `--hold-cluster-version`: `X.Y`, one that this program can hold.
///
/// # Errors
/// What is wrong with it, in a sentence.
pub fn parse_held(text: &str) -> Result<Version, String> {
    let known = transition::STORAGE_VERSION_BEFORE..=OWN.without_patch();
    format!("{text}.0")
        .parse::<Version>()
        .ok()
        .filter(|held| known.contains(held))
        .ok_or_else(|| {
            format!(
                "--hold-cluster-version must be a version from {} to {}, as X.Y (set to {text:?})",
                short(*known.start()),
                short(*known.end())
            )
        })
}

impl Node {
    /// The version that others are given who decide on the cluster's: see [`transition::given_version`].
    pub fn given_version(&self) -> Version {
        let held = self.config().upkeep.hold_cluster_version;
        transition::given_version(OWN, held, self.published().get_cluster().version)
    }

    /// Says in the log what is held, and if it is too late for that.
    pub fn announce_held_version(&self) {
        let Some(held) = self.config().upkeep.hold_cluster_version else {
            return;
        };
        match self.published().get_cluster().version {
            Some(cluster) if cluster > held => tracing::warn!(
                "cluster-version" = %short(cluster),
                "held-version" = %short(held),
                "the cluster's version is above the one to be held, and is not taken down by that: see etcdctl downgrade"
            ),
            _ => tracing::info!("held-version" = %short(held), "holding the cluster's version"),
        }
    }

    /// The layout of the database: what it says of itself, and 3.5 if it says nothing but has applied anything.
    pub fn storage_version(&self) -> Option<Version> {
        let applied = self.published().get_progress().term != 0;
        layout(self.store().backend(), applied)
    }

    /// Whether the cluster can be downgraded to this version; answers the cluster's version.
    ///
    /// # Errors
    /// [`Error::Downgrade`], and those of [`Node::linearizable`].
    pub async fn check_downgrade(&self, target: &str) -> Result<Version, Error> {
        let target = transition::parse_target(target)?;
        let version = self.known_version()?;
        self.linearizable().await?;
        transition::check_downgrade(&self.published().get_cluster(), target)?;
        Ok(version)
    }

    /// Begins a downgrade; answers the cluster's version.
    ///
    /// # Errors
    /// As [`Node::check_downgrade`] and [`Node::propose`].
    pub async fn enable_downgrade(&self, target: &str) -> Result<Version, Error> {
        self.check_downgrade(target).await?;
        self.set_downgrade(Some(transition::parse_target(target)?))
            .await?;
        self.known_version()
    }

    /// Ends a downgrade; answers the cluster's version. That there is none, or that it cannot be ended now, is
    /// only logged.
    ///
    /// # Errors
    /// [`DowngradeError::VersionUnknown`].
    pub async fn cancel_downgrade(&self) -> Result<Version, Error> {
        let cancel = async {
            self.linearizable().await?;
            if transition::running(&self.published().get_cluster()).is_none() {
                return Err(DowngradeError::NotInProgress.into());
            }
            self.set_downgrade(None).await
        };
        if let Err(error) = cancel.await {
            tracing::warn!(error = %error, "failed to cancel downgrade");
        }
        self.known_version()
    }

    fn known_version(&self) -> Result<Version, Error> {
        let version = self.published().get_cluster().version;
        version.ok_or(DowngradeError::VersionUnknown.into())
    }

    async fn set_downgrade(&self, target: Option<Version>) -> Result<(), Error> {
        let request = downgrade_request(target);
        self.propose(request).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_own_version_agree() {
        assert_eq!(OWN.to_string(), ETCD_VERSION);
    }

    #[test]
    fn versions_that_can_be_held() {
        for (text, held) in [("3.5", 5), ("3.6", 6), ("3.7", 7)] {
            assert_eq!(parse_held(text), Ok(Version::new(3, held, 0)));
        }
        for bad in ["3.4", "3.8", "3", "3.5.1", "v3.5", "x"] {
            assert!(parse_held(bad).is_err(), "{bad}");
        }
    }
}
