//! What a member does on its own: publish itself, watch versions, raise the quota's alarm.

use std::time::Duration;

use ferrite_apply::ApplyError;
use ferrite_membership::{Cluster, Member, Version};
use ferrite_peer::{Dialer, get_json};
use ferrite_proto::etcdserverpb::{
    AlarmRequest, AlarmType, InternalRaftRequest, alarm_request::AlarmAction,
};
use ferrite_proto::membershippb::{
    Attributes, ClusterMemberAttrSetRequest, ClusterVersionSetRequest,
};

use crate::config::ETCD_VERSION;
use crate::{Error, Event, Node, RemoteCluster, hex};

/// How often the leader looks at the members' versions.
const VERSION_INTERVAL: Duration = Duration::from_secs(4);
/// How long another member may take to answer a question about itself.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is looked whether the first election can come sooner; at most a hundred times.
const ADVANCE_POLL: Duration = Duration::from_millis(20);
/// The cluster version as long as not every member's version is known.
const UNDECIDED_VERSION: Version = Version::new(3, 0, 0);
/// From this cluster version on the storage version is written.
const STORAGE_VERSION_SINCE: Version = Version::new(3, 6, 0);

/// Puts this member's name and client URLs into the cluster; returns once they are applied here.
/// Until then no client is served.
pub async fn publish(node: &Node) -> Result<(), Error> {
    loop {
        let request = InternalRaftRequest {
            cluster_member_attr_set: Some(ClusterMemberAttrSetRequest {
                member_id: node.member_id(),
                member_attributes: Some(Attributes {
                    name: node.config().name.clone(),
                    client_urls: node.config().client_urls.clone(),
                }),
            }),
            ..InternalRaftRequest::default()
        };
        match node.propose(request).await {
            Ok(_) => {
                tracing::info!(
                    "local-member-id" = %hex(node.member_id()),
                    "local-member-name" = node.config().name,
                    "cluster-id" = %hex(node.cluster_id()),
                    "published local member to cluster through raft"
                );
                return Ok(());
            }
            Err(Error::Stopped) => return Err(Error::Stopped),
            Err(error) => {
                tracing::warn!(
                    "local-member-id" = %hex(node.member_id()),
                    error = %error,
                    "failed to publish local member to cluster through raft"
                );
                tokio::time::sleep(node.config().tick).await;
            }
        }
    }
}

/// Lets the first election come sooner, as etcd does: at once for a cluster of one, otherwise as soon
/// as another member is reached.
pub async fn advance_first_election(node: &Node) {
    let ticks = node.config().election_ticks;
    for _ in 0..100 {
        if node.status().leader() != 0 {
            return;
        }
        // A new member learns of the founding members by applying the first entries.
        match node.published().get_cluster().members.len() {
            0 => {}
            1 => {
                node.advance_election(ticks.saturating_sub(1));
                return;
            }
            _ if !node.config().advance_election_at_start => return,
            _ if node.transport().connected_count() > 0 => {
                node.advance_election(ticks.saturating_sub(2));
                return;
            }
            _ => {}
        }
        tokio::time::sleep(ADVANCE_POLL).await;
    }
}

/// Follows the node's events and the clock: cluster version, storage version, quota alarm. Ends when
/// the events do; `removed` is called when the cluster has no place for this member any more.
pub async fn watch(
    node: Node,
    mut events: tokio::sync::mpsc::UnboundedReceiver<Event>,
    removed: impl FnOnce() + Send,
) {
    let mut removed = Some(removed);
    loop {
        match tokio::time::timeout(VERSION_INTERVAL, events.recv()).await {
            Ok(None) => return,
            Ok(Some(Event::FirstOfTerm)) | Err(_) => decide_version(&node).await,
            Ok(Some(Event::ClusterAttributes)) => {}
            Ok(Some(Event::RemovedSelf)) => {
                if let Some(removed) = removed.take() {
                    removed();
                }
            }
            Ok(Some(Event::NoSpace { request })) => {
                let node = node.clone();
                tokio::spawn(async move { raise_no_space(&node, request).await });
            }
        }
        write_storage_version(&node);
    }
}

async fn raise_no_space(node: &Node, request: u64) {
    tracing::warn!(
        "quota-size-bytes" = node.config().quota_bytes,
        "message exceeded backend quota; raising alarm"
    );
    raise_alarm(node, AlarmType::Nospace).await;
    node.answer(request, Err(Error::Apply(ApplyError::NoSpace)));
}

/// Raises an alarm for this member.
pub async fn raise_alarm(node: &Node, alarm: AlarmType) {
    let request = InternalRaftRequest {
        alarm: Some(AlarmRequest {
            action: AlarmAction::Activate as i32,
            member_id: node.member_id(),
            alarm: alarm as i32,
        }),
        ..InternalRaftRequest::default()
    };
    if let Err(error) = node.propose(request).await {
        tracing::warn!(error = %error, "failed to raise an alarm");
    }
}

fn write_storage_version(node: &Node) {
    let Some(version) = node.published().get_cluster().version else {
        return;
    };
    if version >= STORAGE_VERSION_SINCE && node.published().set_storage_version(version) {
        node.set_storage_version(version);
        tracing::info!("storage-version" = %version, "updated storage version");
    }
}

/// The leader sets the cluster version to the lowest of its members'. It only ever rises here.
async fn decide_version(node: &Node) {
    if !node.status().is_leader() {
        return;
    }
    let cluster = node.published().get_cluster();
    let lowest = lowest_version(node, &cluster).await;
    let next = match (cluster.version, lowest) {
        (None, lowest) => lowest.unwrap_or(UNDECIDED_VERSION),
        (Some(now), Some(lowest)) if lowest > now => lowest,
        _ => return,
    };
    tracing::info!("cluster-version" = %next, "setting the cluster version");
    let request = InternalRaftRequest {
        cluster_version_set: Some(ClusterVersionSetRequest {
            ver: next.to_string(),
        }),
        ..InternalRaftRequest::default()
    };
    if let Err(error) = node.propose(request).await {
        tracing::warn!(error = %error, "failed to set the cluster version");
    }
}

/// `None` unless every member's version is known.
async fn lowest_version(node: &Node, cluster: &Cluster) -> Option<Version> {
    let mut lowest = ETCD_VERSION.parse::<Version>().ok()?;
    for member in cluster.members.values() {
        if member.id == node.member_id() {
            continue;
        }
        lowest = lowest.min(server_version(node, member).await?);
    }
    Some(lowest.without_patch())
}

async fn server_version(node: &Node, member: &Member) -> Option<Version> {
    #[derive(serde::Deserialize)]
    struct Versions {
        etcdserver: String,
    }
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

/// Asks the members behind `urls` what cluster they form. `None` when nobody answers.
pub async fn ask_cluster(dialer: &Dialer, urls: &[String]) -> Option<RemoteCluster> {
    for url in urls {
        let urls = std::slice::from_ref(url);
        let Ok((members, headers)) =
            get_json::<Vec<Member>>(dialer, urls, "/members", &[], ASK_TIMEOUT).await
        else {
            continue;
        };
        let id = headers
            .get("X-Etcd-Cluster-ID")
            .and_then(|value| value.to_str().ok())
            .and_then(|value| u64::from_str_radix(value, 16).ok());
        if let Some(id) = id
            && !members.is_empty()
        {
            return Some(RemoteCluster {
                cluster: Cluster::from_members(id, members),
            });
        }
    }
    None
}
