//! What a member does on its own: publish itself, watch versions, raise the quota's alarm.

use std::time::Duration;

use ferrite_apply::ApplyError;
use ferrite_membership::{Cluster, Member};
use ferrite_peer::{Dialer, get_json, go_duration};
use ferrite_proto::etcdserverpb::{
    AlarmRequest, AlarmType, InternalRaftRequest, alarm_request::AlarmAction,
};
use ferrite_proto::membershippb::{Attributes, ClusterMemberAttrSetRequest};

use crate::{Error, Event, Node, RemoteCluster, hex, versions};

/// How long another member may take to answer a question about itself.
pub(crate) const ASK_TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is looked whether the first election can come sooner.
const ADVANCE_POLL: Duration = Duration::from_millis(20);
/// How long.
const ADVANCE_PATIENCE: Duration = Duration::from_secs(5);

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
    let begin = tokio::time::Instant::now();
    while begin.elapsed() < ADVANCE_PATIENCE && node.status().leader() == 0 {
        let (why, forward) = match node.published().get_cluster().members.len() {
            // A new member learns of the founding members by applying the first entries.
            0 => (None, 0),
            1 => (
                Some("started as single-node; fast-forwarding election ticks"),
                ticks.saturating_sub(1),
            ),
            _ if !node.config().advance_election_at_start => {
                tracing::info!(
                    "election-ticks" = ticks,
                    "skipping initial election tick advance"
                );
                return;
            }
            _ if node.transport().connected_count() > 0 => (
                Some("initialized peer connections; fast-forwarding election ticks"),
                ticks.saturating_sub(2),
            ),
            _ => (None, 0),
        };
        if let Some(why) = why {
            tracing::info!(
                "local-member-id" = %hex(node.member_id()),
                "forward-ticks" = forward,
                "election-ticks" = ticks,
                "election-timeout" = go_duration(node.config().election_timeout()),
                "{why}"
            );
            node.advance_election(forward);
            return;
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
        match tokio::time::timeout(versions::INTERVAL, events.recv()).await {
            Ok(None) => return,
            Ok(Some(Event::FirstOfTerm)) | Err(_) => versions::decide(&node).await,
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
        versions::follow_with_storage(&node);
    }
}

async fn raise_no_space(node: &Node, request: u64) {
    tracing::warn!(
        "quota-size-bytes" = node.config().quota_bytes,
        "message exceeded backend quota; raising alarm"
    );
    raise_alarm(node, node.member_id(), AlarmType::Nospace).await;
    node.answer(request, Err(Error::Apply(ApplyError::NoSpace)));
}

/// Raises an alarm for a member; 0 stands for the whole cluster.
pub async fn raise_alarm(node: &Node, member_id: u64, alarm: AlarmType) {
    let request = InternalRaftRequest {
        alarm: Some(AlarmRequest {
            action: AlarmAction::Activate as i32,
            member_id,
            alarm: alarm as i32,
        }),
        ..InternalRaftRequest::default()
    };
    if let Err(error) = node.propose(request).await {
        tracing::warn!(error = %error, "failed to raise an alarm");
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
