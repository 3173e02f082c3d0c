//! Whether the members hold the same data: the three comparisons of hashes, and the alarm they end in.
//!
//! Judging is kept apart from asking: what is found is a function of the hashes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferrite_membership::Cluster;
use ferrite_mvcc::{Error as StoreError, HashKv, Store};
use ferrite_peer::{Dialer, HttpClient};
use ferrite_proto::etcdserverpb::AlarmType;
use http::{Method, StatusCode};

use crate::{Node, hex, tasks};

/// Where members tell their hashes.
pub const HASH_PATH: &str = "/members/hashkv";
/// Longest answer to that.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What a member is asked with: itself, the cluster, and how long to wait.
pub struct Asker<'a> {
    /// The member that asks.
    pub member_id: u64,
    /// The cluster.
    pub cluster: &'a Cluster,
    /// How the others are reached.
    pub dialer: &'a Dialer,
    /// Time for one answer.
    pub timeout: Duration,
}

/// The hash of another member; `None` when it cannot tell it at the revision asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Peer {
    id: u64,
    told: Option<HashKv>,
}

#[derive(serde::Deserialize, Default)]
struct Header {
    #[serde(default)]
    revision: i64,
}

#[derive(serde::Deserialize)]
struct Told {
    #[serde(default)]
    header: Header,
    #[serde(default)]
    hash: u32,
    #[serde(default)]
    compact_revision: i64,
    #[serde(default)]
    hash_revision: i64,
}

impl Asker<'_> {
    /// Asks every other member for its hash at a revision.
    async fn hashes_at(&self, revision: i64) -> Vec<Peer> {
        let mut peers = Vec::new();
        for member in self.cluster.members.values() {
            if member.id == self.member_id || member.peer_urls.is_empty() {
                continue;
            }
            let mut told = None;
            for url in &member.peer_urls {
                match self.hash_at(url, revision).await {
                    Ok(found) => {
                        told = Some(found);
                        break;
                    }
                    Err(error) => tracing::warn!(
                        "local-member-id" = %hex(self.member_id),
                        "remote-peer-id" = %hex(member.id),
                        "requested-revision" = revision,
                        "remote-peer-endpoint" = url,
                        error,
                        "failed hash kv request"
                    ),
                }
            }
            peers.push(Peer {
                id: member.id,
                told,
            });
        }
        peers
    }

    async fn hash_at(&self, url: &str, revision: i64) -> Result<HashKv, String> {
        let client = HttpClient::new(self.dialer, self.timeout, ANSWER_BYTES_MAX);
        let cluster_id = hex(self.cluster.id);
        let headers = [
            ("Content-Type", "application/json"),
            ("X-Etcd-Cluster-ID", cluster_id.as_str()),
        ];
        let body = Bytes::from(format!("{{\"revision\":{revision}}}"));
        let reply = client
            .request(url, Method::GET, HASH_PATH, &headers, body)
            .await
            .map_err(|error| error.to_string())?;
        if reply.status != StatusCode::OK {
            let text = String::from_utf8_lossy(&reply.body);
            return Err(text.trim_end().chars().take(200).collect());
        }
        let told: Told = serde_json::from_slice(&reply.body).map_err(|error| error.to_string())?;
        Ok(HashKv {
            hash: told.hash,
            compact_revision: told.compact_revision,
            hash_revision: told.hash_revision,
            current_revision: told.header.revision,
        })
    }
}

async fn hash_now(store: &Arc<Store>) -> Result<HashKv, String> {
    let store = Arc::clone(store);
    match tokio::task::spawn_blocking(move || store.hash_kv(0)).await {
        Ok(hashed) => hashed.map_err(|error: StoreError| error.to_string()),
        Err(_) => Err("the computation failed".into()),
    }
}

/// [`hash_now`] of a member that runs: how long it takes is counted.
async fn hash_here(node: &Node) -> Result<HashKv, String> {
    let started = Instant::now();
    let hashed = hash_now(node.store()).await;
    node.metrics().hash_rev.observe(started.elapsed());
    hashed
}

/// Before a member that existed before serves anybody: compares what it holds with what the others held at its
/// revision. Members that cannot tell are passed over.
///
/// # Errors
/// What is wrong, and what to do about it.
pub async fn check_at_start(asker: &Asker<'_>, store: &Arc<Store>) -> Result<(), String> {
    let own = hex(asker.member_id);
    tracing::info!(
        "local-member-id" = own,
        timeout = ?asker.timeout,
        "starting initial corruption check"
    );
    let hash = hash_now(store)
        .await
        .map_err(|error| format!("{own} failed to fetch hash ({error})"))?;
    let mut differs = false;
    for peer in asker.hashes_at(hash.hash_revision).await {
        let Some(told) = peer.told.filter(|told| told.hash != hash.hash) else {
            continue;
        };
        let comparable = told.compact_revision == hash.compact_revision;
        differs |= comparable;
        tracing::warn!(
            "local-member-id" = own,
            "local-member-revision" = hash.hash_revision,
            "local-member-compact-revision" = hash.compact_revision,
            "local-member-hash" = hash.hash,
            "remote-peer-id" = %hex(peer.id),
            "remote-peer-revision" = told.current_revision,
            "remote-peer-compact-revision" = told.compact_revision,
            "remote-peer-hash" = told.hash,
            "{}",
            if comparable {
                "found different hash values from remote peer"
            } else {
                "found different compact revision values from remote peer"
            }
        );
    }
    if differs {
        return Err(format!(
            "{own} found data inconsistency with peers: find out which member differs from the majority (etcdctl endpoint hashkv), remove that one from the cluster, and add it anew with an empty data folder"
        ));
    }
    tracing::info!(
        "local-member-id" = own,
        "initial corruption checking passed; no corruption"
    );
    Ok(())
}

/// Compares the members' newest data every `--corrupt-check-time`, on the leader. Never ends unless it is
/// switched off.
pub async fn watch_newest(node: Node) {
    let interval = node.config().upkeep.corrupt_check_time;
    if interval.is_zero() {
        return;
    }
    tracing::info!(
        "local-member-id" = %hex(node.member_id()),
        interval = ?interval,
        "enabled corruption checking"
    );
    loop {
        tokio::time::sleep(interval).await;
        if node.status().is_leader()
            && let Err(error) = check_newest(&node).await
        {
            tracing::warn!(error, "failed to check hash KV");
        }
    }
}

async fn check_newest(node: &Node) -> Result<(), String> {
    let before = hash_here(node).await?;
    let cluster = node.published().get_cluster();
    let asker = Asker {
        member_id: node.member_id(),
        cluster: &cluster,
        dialer: &node.config().dialer,
        timeout: node.config().request_timeout(),
    };
    let peers = asker.hashes_at(before.hash_revision).await;
    node.linearizable()
        .await
        .map_err(|error| error.to_string())?;
    let after = hash_here(node).await?;
    if let Some(guilty) = judge_newest(node.member_id(), before, after, &peers) {
        tasks::raise_alarm(node, guilty, AlarmType::Corrupt).await;
    }
    tracing::info!(
        "number-of-peers-checked" = peers.iter().filter(|peer| peer.told.is_some()).count(),
        "finished peer corruption check"
    );
    Ok(())
}

/// The member to accuse, by the leader's hashes before and after the others were asked, and theirs.
fn judge_newest(leader: u64, before: HashKv, after: HashKv, peers: &[Peer]) -> Option<u64> {
    let mut guilty = None;
    let mut accuse = |id: u64, why: &'static str, told: HashKv| {
        tracing::warn!(
            "leader-revision" = after.current_revision,
            "leader-compact-revision" = after.compact_revision,
            "leader-hash" = before.hash,
            "follower-revision" = told.current_revision,
            "follower-compact-revision" = told.compact_revision,
            "follower-hash" = told.hash,
            "follower-peer-id" = %hex(id),
            "{why}"
        );
        guilty.get_or_insert(id);
    };
    if after.hash != before.hash
        && (after.hash_revision, after.compact_revision)
            == (before.hash_revision, before.compact_revision)
    {
        accuse(leader, "found hash mismatch", after);
    }
    for peer in peers {
        let Some(told) = peer.told else { continue };
        if told.current_revision > after.current_revision {
            let why = "revision from follower must be less than or equal to leader's";
            accuse(peer.id, why, told);
        }
        if told.compact_revision > after.compact_revision {
            let why = "compact revision from follower must be less than or equal to leader's";
            accuse(peer.id, why, told);
        }
        if told.compact_revision == before.compact_revision && told.hash != before.hash {
            accuse(
                peer.id,
                "same compact revision then hashes must match",
                told,
            );
        }
    }
    guilty
}

/// Compares the hashes that compactions have left, on the leader. Never ends unless it is switched off.
pub async fn watch_compactions(node: Node) {
    let Some(interval) = node.config().upkeep.compact_hash_check_time else {
        return;
    };
    let mut checked = i64::MIN;
    loop {
        tokio::time::sleep(interval).await;
        if node.status().is_leader() {
            check_compactions(&node, &mut checked).await;
        }
    }
}

/// Goes from the newest compaction to older ones until one could be compared on every member.
async fn check_compactions(node: &Node, checked: &mut i64) {
    let cluster = node.published().get_cluster();
    let asker = Asker {
        member_id: node.member_id(),
        cluster: &cluster,
        dialer: &node.config().dialer,
        timeout: node.config().request_timeout(),
    };
    tracing::info!(
        "local-member-id" = %hex(node.member_id()),
        timeout = ?asker.timeout,
        "starting compact hash check"
    );
    let mut hashes = 0;
    for hash in node.store().compaction_hashes() {
        if hash.hash_revision <= *checked {
            break;
        }
        let peers = asker.hashes_at(hash.hash_revision).await;
        if peers.is_empty() {
            continue;
        }
        hashes += 1;
        match judge_compaction(node.member_id(), hash, &peers) {
            Verdict::Equal => {
                *checked = hash.hash_revision;
                tracing::info!(
                    "number-of-peers-checked" = peers.len(),
                    revision = hash.hash_revision,
                    "compactRevision" = hash.compact_revision,
                    "successfully checked hash on whole cluster"
                );
                break;
            }
            Verdict::Incomplete => tracing::warn!(
                "number-of-peers" = peers.len(),
                revision = hash.hash_revision,
                "compactRevision" = hash.compact_revision,
                "skipped revision in compaction hash check; was not able to check all peers"
            ),
            Verdict::Differ(guilty) => {
                tracing::error!(
                    "leader-id" = %hex(node.member_id()),
                    "leader-revision" = hash.hash_revision,
                    "leader-compact-revision" = hash.compact_revision,
                    "leader-hash" = hash.hash,
                    "peer-ids" = ?guilty.iter().map(|id| hex(*id)).collect::<Vec<_>>(),
                    "quorum-exist" = guilty != [0],
                    "Detected compaction hash mismatch"
                );
                for id in guilty {
                    tasks::raise_alarm(node, id, AlarmType::Corrupt).await;
                }
                break;
            }
        }
    }
    tracing::info!(
        "number-of-hashes-checked" = hashes,
        "finished compaction hash check"
    );
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// Every member has the leader's hash.
    Equal,
    /// Those that could tell have the leader's; not all could.
    Incomplete,
    /// These have another than the majority; 0, the whole cluster, where there is no majority.
    Differ(Vec<u64>),
}

fn judge_compaction(leader: u64, hash: HashKv, peers: &[Peer]) -> Verdict {
    let mut by_hash = BTreeMap::from([(hash.hash, vec![leader])]);
    let mut compared = 0;
    for peer in peers {
        if let Some(told) = peer
            .told
            .filter(|told| told.compact_revision == hash.compact_revision)
        {
            compared += 1;
            by_hash.entry(told.hash).or_default().push(peer.id);
        }
    }
    if by_hash.len() == 1 {
        return if compared == peers.len() {
            Verdict::Equal
        } else {
            Verdict::Incomplete
        };
    }
    let members = peers.len() + 1;
    let quorum = members / 2 + 1;
    if !by_hash.values().any(|members| members.len() >= quorum) {
        return Verdict::Differ(vec![0]);
    }
    let guilty = by_hash
        .into_values()
        .filter(|members| members.len() < quorum)
        .flatten()
        .collect();
    Verdict::Differ(guilty)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(hash: u32, compact_revision: i64) -> HashKv {
        HashKv {
            hash,
            compact_revision,
            hash_revision: 9,
            current_revision: 9,
        }
    }

    fn peers(told: &[Option<HashKv>]) -> Vec<Peer> {
        (2..)
            .zip(told)
            .map(|(id, told)| Peer { id, told: *told })
            .collect()
    }

    #[test]
    fn the_minority_of_a_compaction_is_accused_whoever_it_is() {
        let judge = |told: &[Option<HashKv>]| judge_compaction(1, hash(7, 4), &peers(told));
        let (same, other) = (Some(hash(7, 4)), Some(hash(8, 4)));
        assert_eq!(judge(&[same, same]), Verdict::Equal);
        assert_eq!(judge(&[same, None]), Verdict::Incomplete);
        assert_eq!(judge(&[same, Some(hash(8, 3))]), Verdict::Incomplete);
        assert_eq!(judge(&[same, other]), Verdict::Differ(vec![3]));
        assert_eq!(judge(&[other, other]), Verdict::Differ(vec![1]));
        assert_eq!(judge(&[other, None]), Verdict::Differ(vec![0]));
        assert_eq!(judge(&[other, Some(hash(9, 4))]), Verdict::Differ(vec![0]));
    }

    #[test]
    fn the_first_member_that_differs_from_the_leader_is_accused() {
        let leader = hash(7, -1);
        let judge = |after, told: &[Option<HashKv>]| judge_newest(1, leader, after, &peers(told));
        assert_eq!(judge(leader, &[Some(leader), None]), None);
        assert_eq!(judge(leader, &[None, Some(hash(8, -1))]), Some(3));
        assert_eq!(judge(leader, &[Some(hash(8, 2)), Some(leader)]), Some(2));
        assert_eq!(judge(hash(8, -1), &[Some(hash(8, -1))]), Some(1));
        // What was compacted or written meanwhile is no difference.
        assert_eq!(judge(hash(8, 3), &[Some(hash(9, 3))]), None);
        let ahead = HashKv {
            current_revision: 12,
            ..leader
        };
        assert_eq!(judge(leader, &[Some(ahead)]), Some(2));
        assert_eq!(judge(ahead, &[Some(ahead)]), None);
    }
}
