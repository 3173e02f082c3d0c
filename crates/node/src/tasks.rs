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
/// How often a member looks whether it has a leader.
const LEADERLESS_POLL: Duration = Duration::from_secs(1);
/// When it says for the first time why it has none, or after two election timeouts if those are longer.
const LEADERLESS_FIRST: Duration = Duration::from_secs(5);
/// How far apart the lines are after that.
const LEADERLESS_LINES: Duration = Duration::from_secs(10);
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

/// Says again and again what a member without a leader waits for. Ends with the runtime.
pub async fn tell_leaderless(node: Node) {
    let first = LEADERLESS_FIRST.max(node.config().election_timeout() * 2);
    let mut since = tokio::time::Instant::now();
    let mut next = since + first;
    loop {
        tokio::time::sleep(LEADERLESS_POLL).await;
        let now = tokio::time::Instant::now();
        if node.status().leader() != 0 {
            since = now;
            next = now + first;
        } else if now >= next {
            next = now + LEADERLESS_LINES;
            Leaderless::of(&node).log(since.elapsed());
        }
    }
}

/// Whom a member without a leader reaches.
struct Leaderless {
    voters: usize,
    reached: usize,
    lacking: Vec<String>,
}

impl Leaderless {
    fn of(node: &Node) -> Self {
        let cluster = node.published().get_cluster();
        let transport = node.transport();
        let mut found = Leaderless {
            voters: 0,
            reached: 0,
            lacking: Vec::new(),
        };
        for member in cluster.members.values().filter(|m| !m.is_learner) {
            found.voters += 1;
            if member.id == node.member_id() || transport.active_since(member.id).is_some() {
                found.reached += 1;
                continue;
            }
            let error = transport.last_error(member.id);
            found.lacking.push(format!(
                "{} {} {}: {}",
                hex(member.id),
                member.name,
                member.peer_urls.join(","),
                error.as_deref().unwrap_or("not tried yet")
            ));
        }
        found
    }

    fn log(&self, waited: Duration) {
        let (voters, reached) = (self.voters, self.reached);
        let needed = voters / 2 + 1;
        let seconds = waited.as_secs();
        if reached < needed {
            tracing::warn!(
                "members-not-reached" = ?self.lacking,
                "no leader for {seconds}s: {reached} of {voters} members are reached, {needed} are needed"
            );
        } else {
            tracing::warn!(
                "members-not-reached" = ?self.lacking,
                "no leader for {seconds}s: {reached} of {voters} members are reached, which is enough for an election"
            );
        }
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

/// Asks the members behind `urls` what cluster they form. `None` when nobody answers; `tell` says whether
/// that is worth a line each.
pub async fn ask_cluster(dialer: &Dialer, urls: &[String], tell: bool) -> Option<RemoteCluster> {
    for url in urls {
        match ask_member(dialer, url).await {
            Ok(found) => return Some(found),
            Err(error) if tell => tracing::warn!(
                address = format!("{url}/members"),
                error,
                "failed to get cluster response"
            ),
            Err(_) => {}
        }
    }
    None
}

async fn ask_member(dialer: &Dialer, url: &str) -> Result<RemoteCluster, String> {
    let urls = [url.to_owned()];
    let asked = get_json::<Vec<Member>>(dialer, &urls, "/members", &[], ASK_TIMEOUT).await;
    let (members, headers) = asked.map_err(|error| error.to_string())?;
    let id = headers
        .get("X-Etcd-Cluster-ID")
        .and_then(|value| value.to_str().ok())
        .and_then(|value| u64::from_str_radix(value, 16).ok())
        .ok_or("the answer names no cluster: is this the peer URL of a member?")?;
    if members.is_empty() {
        return Err("the member does not know the members of its cluster yet".to_owned());
    }
    Ok(RemoteCluster {
        cluster: Cluster::from_members(id, members),
    })
}
