//! The members that are known, and the way from a message to its peer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Waker;
use std::time::Instant;

use ferrite_proto::raftpb::{Message, MessageType};
use parking_lot::{Mutex, RwLock};

use crate::config::{Config, Handler};
use crate::conn::Dialer;
use crate::headers::OwnHeaders;
use crate::logfmt::{hex, type_name};
use crate::peer::{Core, Peer};
use crate::snapshot_send;
use crate::stats::{Counters, PeerStats, TransportStats};
use crate::url;

/// Remotes are learnt from requests; more than this many are not remembered.
const MAX_REMOTES: usize = 128;
/// Members whose counters are kept, the removed ones included.
const MAX_COUNTERS: usize = 4096;

#[derive(Default)]
struct Members {
    peers: BTreeMap<u64, Arc<Peer>>,
    remotes: BTreeMap<u64, Arc<Peer>>,
    stopped: bool,
}

pub(crate) struct Shared {
    pub(crate) core: Arc<Core>,
    members: RwLock<Members>,
    counters: Mutex<BTreeMap<u64, Arc<Counters>>>,
    pub(crate) unknown_failures: AtomicU64,
    pub(crate) unknown_snapshot_failures: AtomicU64,
    /// One received database at a time is saved and handed on.
    pub(crate) installing: tokio::sync::Mutex<()>,
}

/// Sends to and receives from the other members. Clones share everything.
#[derive(Clone)]
pub struct Transport {
    pub(crate) shared: Arc<Shared>,
}

impl Transport {
    /// Starts a transport that connects by plain TCP. Its tasks run on `runtime`, which must have I/O and time enabled.
    pub fn start(
        config: Config,
        handler: Arc<dyn Handler>,
        runtime: tokio::runtime::Handle,
    ) -> Transport {
        Transport::start_with(config, handler, runtime, &Dialer::default())
    }

    /// Starts a transport with its own way to make connections, such as TLS.
    pub fn start_with(
        config: Config,
        handler: Arc<dyn Handler>,
        runtime: tokio::runtime::Handle,
        dialer: &Dialer,
    ) -> Transport {
        let headers = OwnHeaders::new(&config);
        let core = Arc::new(Core {
            config,
            handler,
            connector: Arc::clone(&dialer.0),
            runtime,
            headers,
            sending_snapshots: AtomicU64::new(0),
        });
        Transport {
            shared: Arc::new(Shared {
                core,
                members: RwLock::new(Members::default()),
                counters: Mutex::new(BTreeMap::new()),
                unknown_failures: AtomicU64::new(0),
                unknown_snapshot_failures: AtomicU64::new(0),
                installing: tokio::sync::Mutex::new(()),
            }),
        }
    }

    /// Sends messages to the members they are addressed to. Never blocks and may be called from any thread. A message
    /// that finds its queue full is dropped and its member reported unreachable; messages to unknown or removed members
    /// are dropped. Of several `MsgAppResp` to one member in one batch only the last is sent: it says all that the
    /// earlier ones say.
    pub fn send(&self, msgs: Vec<Message>) {
        let handler = &self.shared.core.handler;
        let mut wakers: Vec<Waker> = Vec::new();
        let mut unreachable: Vec<u64> = Vec::new();
        let mut snapshots: Vec<(Option<Arc<Peer>>, Message)> = Vec::new();
        let mut last_resp: Vec<(u64, usize)> = Vec::new();
        for (i, msg) in msgs.iter().enumerate() {
            if msg.msg_type == MessageType::MsgAppResp as i32 {
                match last_resp.iter_mut().find(|(to, _)| *to == msg.to) {
                    Some(found) => found.1 = i,
                    None => last_resp.push((msg.to, i)),
                }
            }
        }
        {
            let members = self.shared.members.read();
            for (i, msg) in msgs.into_iter().enumerate() {
                let to = msg.to;
                if to == 0 || handler.is_removed(to) {
                    continue;
                }
                if msg.msg_type == MessageType::MsgAppResp as i32
                    && last_resp.iter().any(|&(id, last)| id == to && i < last)
                {
                    continue;
                }
                let peer = members.peers.get(&to);
                if msg.msg_type == MessageType::MsgSnap as i32 {
                    snapshots.push((peer.cloned(), msg));
                    continue;
                }
                let Some(peer) = peer.or_else(|| members.remotes.get(&to)) else {
                    tracing::debug!(
                        "type" = type_name(msg.msg_type),
                        "unknown-target-peer-id" = hex(to),
                        "ignored message send request; unknown remote peer target"
                    );
                    continue;
                };
                match peer.enqueue(msg) {
                    Ok(waker) => wakers.extend(waker),
                    Err(()) => {
                        if !unreachable.contains(&to) {
                            unreachable.push(to);
                        }
                    }
                }
            }
        }
        for waker in wakers {
            waker.wake();
        }
        for (peer, msg) in snapshots {
            match peer {
                Some(peer) => snapshot_send::start(&peer, msg),
                None => handler.report_snapshot(msg.to, false),
            }
        }
        for id in unreachable {
            handler.report_unreachable(id);
        }
    }

    /// Begins to talk to a member of the cluster. Does nothing for one that is known, or after [`Transport::stop`].
    pub fn add_peer(&self, id: u64, urls: &[String]) {
        let core = &self.shared.core;
        let counters = self.counters(id);
        let mut members = self.shared.members.write();
        if members.stopped || id == core.config.member_id || members.peers.contains_key(&id) {
            return;
        }
        let parsed = url::parse_all(urls);
        let peer = Peer::start(core.clone(), id, parsed, counters, false);
        members.peers.insert(id, peer);
        if let Some(remote) = members.remotes.remove(&id) {
            remote.stop();
        }
        tracing::info!(
            "local-member-id" = hex(core.config.member_id),
            "remote-peer-id" = hex(id),
            "remote-peer-urls" = ?urls,
            "added remote peer"
        );
    }

    /// Remembers how to answer a sender that is not a known member yet. Only the pipeline serves it.
    pub fn add_remote(&self, id: u64, urls: &[String]) {
        let core = &self.shared.core;
        {
            // The usual case, on every request of a peer, must not take the write lock.
            let members = self.shared.members.read();
            if members.stopped
                || id == 0
                || id == core.config.member_id
                || members.peers.contains_key(&id)
                || members.remotes.contains_key(&id)
            {
                return;
            }
        }
        let parsed = url::parse_all(urls);
        if parsed.is_empty() || core.handler.is_removed(id) {
            return;
        }
        let counters = self.counters(id);
        let mut members = self.shared.members.write();
        if members.stopped
            || members.peers.contains_key(&id)
            || members.remotes.contains_key(&id)
            || members.remotes.len() >= MAX_REMOTES
        {
            return;
        }
        let remote = Peer::start(core.clone(), id, parsed, counters, true);
        members.remotes.insert(id, remote);
        tracing::info!(
            "local-member-id" = hex(core.config.member_id),
            "remote-peer-id" = hex(id),
            "remote-peer-urls" = ?urls,
            "added new remote peer"
        );
    }

    /// Stops talking to a member. Its streams end in both directions.
    pub fn remove_peer(&self, id: u64) {
        let (peer, remote) = {
            let mut members = self.shared.members.write();
            (members.peers.remove(&id), members.remotes.remove(&id))
        };
        if let Some(remote) = remote {
            remote.stop();
        }
        let local = hex(self.shared.core.config.member_id);
        match peer {
            Some(peer) => {
                peer.stop();
                tracing::info!(
                    "local-member-id" = local,
                    "removed-remote-peer-id" = hex(id),
                    "removed remote peer"
                );
            }
            None => tracing::warn!(
                "local-member-id" = local,
                "removed-remote-peer-id" = hex(id),
                "skipped removing already removed peer"
            ),
        }
    }

    /// Changes the URLs at which a known member is dialled from now on.
    pub fn update_peer(&self, id: u64, urls: &[String]) {
        let Some(peer) = self.peer(id) else { return };
        peer.picker.update(url::parse_all(urls));
        peer.status.poke();
        tracing::info!(
            "local-member-id" = hex(self.shared.core.config.member_id),
            "updated-remote-peer-id" = hex(id),
            "updated-remote-peer-urls" = ?urls,
            "updated remote peer"
        );
    }

    /// IDs of the known members, ascending.
    pub fn peer_ids(&self) -> Vec<u64> {
        self.shared.members.read().peers.keys().copied().collect()
    }

    /// Since when messages get through to the member; `None` when they do not, or it is not known.
    pub fn active_since(&self, id: u64) -> Option<Instant> {
        self.peer(id)?.status.active_since()
    }

    /// Why the member was not reached when it was last tried; `None` when it is, or was never tried.
    pub fn last_error(&self, id: u64) -> Option<String> {
        self.peer(id)?.status.last_error()
    }

    /// Number of members that messages get through to.
    pub fn connected_count(&self) -> usize {
        self.shared
            .members
            .read()
            .peers
            .values()
            .filter(|p| p.status.is_active())
            .count()
    }

    /// What has been counted so far, one entry for each member ever talked to.
    pub fn stats(&self) -> TransportStats {
        let mut stats = TransportStats {
            members: Vec::new(),
            unknown_received_failures: self.shared.unknown_failures.load(Ordering::Relaxed),
            unknown_snapshot_receive_failures: self
                .shared
                .unknown_snapshot_failures
                .load(Ordering::Relaxed),
        };
        let members = self.shared.members.read();
        for (&id, counters) in self.shared.counters.lock().iter() {
            let mut entry = PeerStats::from_counters(id, counters);
            let peer = members.peers.get(&id);
            entry.is_peer = peer.is_some();
            if let Some(peer) = peer.or_else(|| members.remotes.get(&id)) {
                entry.active_since = peer.status.active_since();
                entry.active = entry.active_since.is_some();
                entry.queued = peer.queued();
                entry.rtt = peer.rtt.get();
            }
            stats.members.push(entry);
        }
        stats
    }

    /// Ends all streams and tasks. What is queued is dropped. The transport cannot be started again.
    pub fn stop(&self) {
        let (peers, remotes) = {
            let mut members = self.shared.members.write();
            members.stopped = true;
            (
                std::mem::take(&mut members.peers),
                std::mem::take(&mut members.remotes),
            )
        };
        for peer in peers.values().chain(remotes.values()) {
            peer.stop();
        }
    }

    pub(crate) fn peer(&self, id: u64) -> Option<Arc<Peer>> {
        self.shared.members.read().peers.get(&id).cloned()
    }

    /// Counters of a member. Past the limit on distinct IDs they are counted into nothing.
    pub(crate) fn counters(&self, id: u64) -> Arc<Counters> {
        let mut all = self.shared.counters.lock();
        if let Some(found) = all.get(&id) {
            return found.clone();
        }
        let new = Arc::new(Counters::default());
        if all.len() < MAX_COUNTERS {
            all.insert(id, new.clone());
        }
        new
    }
}
