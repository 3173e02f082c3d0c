//! What everybody may know of the node at any moment, without asking a thread.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::stage::raft::Leadership;

/// Ticks of silence after which this member's belief that it leads needs a quorum's confirmation.
const SILENT_TICKS: u32 = 3;

/// What the consensus core says of itself, for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CoreView {
    /// Whom this member voted for in its term; 0 for nobody.
    pub vote: u64,
    /// Its role, as raft calls it.
    pub role: String,
    /// The last index that the core knows to be applied.
    pub applied: u64,
    /// Whom leadership is being handed to; 0 for nobody.
    pub transferee: u64,
    /// Each member's matched index, next index and state; empty unless this member leads.
    pub progress: BTreeMap<u64, (u64, u64, String)>,
}

/// Leader, term and indexes as last seen by the raft thread.
pub struct Status {
    leader: AtomicU64,
    term: AtomicU64,
    is_leader: AtomicBool,
    reads_alone: AtomicBool,
    committed: AtomicU64,
    last_index: AtomicU64,
    elected: Mutex<Option<Instant>>,
    /// When the last leader was lost; without meaning while there is one.
    leader_lost: Mutex<Option<Instant>>,
    leader_watch: watch::Sender<u64>,
    matched: Mutex<BTreeMap<u64, u64>>,
    core: Mutex<CoreView>,
    origin: Instant,
    /// Milliseconds after `origin`.
    seen: AtomicU64,
}

impl Default for Status {
    fn default() -> Self {
        Status::new(Instant::now())
    }
}

impl Status {
    /// Nothing known yet; `origin` is any moment before the first that is published.
    pub fn new(origin: Instant) -> Self {
        Status {
            leader: AtomicU64::new(0),
            term: AtomicU64::new(0),
            is_leader: AtomicBool::new(false),
            reads_alone: AtomicBool::new(false),
            committed: AtomicU64::new(0),
            last_index: AtomicU64::new(0),
            elected: Mutex::new(None),
            leader_lost: Mutex::new(None),
            leader_watch: watch::Sender::new(0),
            matched: Mutex::new(BTreeMap::new()),
            core: Mutex::default(),
            origin,
            seen: AtomicU64::new(0),
        }
    }

    /// Publishes what the raft stage says, and when.
    pub fn publish(&self, seen: &Leadership, now: Instant) {
        self.seen.store(self.since_origin(now), Ordering::Release);
        self.term.store(seen.term, Ordering::Release);
        self.committed.store(seen.committed, Ordering::Release);
        self.last_index.store(seen.last_index, Ordering::Release);
        self.is_leader.store(seen.is_leader, Ordering::Release);
        // After the commit index: whoever sees it set sees an index of this leadership.
        self.reads_alone.store(seen.reads_alone, Ordering::Release);
        if self.leader() != seen.leader {
            if seen.is_leader {
                *self.elected.lock() = Some(now);
            }
            if seen.leader == 0 {
                *self.leader_lost.lock() = Some(now);
            }
            self.leader.store(seen.leader, Ordering::Release);
            self.leader_watch.send_replace(seen.leader);
        }
    }

    /// The leader's ID, 0 when none is known.
    pub fn leader(&self) -> u64 {
        self.leader.load(Ordering::Acquire)
    }

    /// This member's term.
    pub fn term(&self) -> u64 {
        self.term.load(Ordering::Acquire)
    }

    /// Whether this member leads.
    pub fn is_leader(&self) -> bool {
        self.is_leader.load(Ordering::Acquire)
    }

    /// The commit index.
    pub fn committed(&self) -> u64 {
        self.committed.load(Ordering::Acquire)
    }

    /// The index at which a linearizable read may be served without asking anybody; `None` when others must
    /// confirm the leader.
    ///
    /// Sound because the raft thread publishes before it sends a message or hands entries to apply: nobody can
    /// have been answered with anything beyond the index seen here, nor another member been elected or granted a
    /// vote, while this is set.
    pub fn reads_alone_at(&self) -> Option<u64> {
        self.reads_alone
            .load(Ordering::Acquire)
            .then(|| self.committed())
    }

    /// The last index of the log.
    pub fn last_index(&self) -> u64 {
        self.last_index.load(Ordering::Acquire)
    }

    /// When this member was last elected. Of others' elections it keeps no account, as in the original.
    pub fn elected(&self) -> Option<Instant> {
        *self.elected.lock()
    }

    /// Whether no leader has been known from this moment until now.
    pub fn leaderless_since(&self, moment: Instant) -> bool {
        self.leader() == 0 && self.leader_lost.lock().is_none_or(|lost| lost <= moment)
    }

    fn since_origin(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.origin).as_millis();
        u64::try_from(since).unwrap_or(u64::MAX)
    }

    /// How long ago the raft thread last said anything, which it does at least once a tick.
    pub fn silent_for(&self, now: Instant) -> Duration {
        Duration::from_millis(
            self.since_origin(now)
                .saturating_sub(self.seen.load(Ordering::Acquire)),
        )
    }

    /// Whether this member may answer as the leader without asking a quorum first: not when its raft thread
    /// has been silent for so long that another may lead by now.
    pub fn is_fresh(&self, now: Instant, tick: Duration) -> bool {
        self.silent_for(now) <= tick * SILENT_TICKS
    }

    /// Publishes how far each member's log matches the leader's, on the leader; empty elsewhere.
    pub fn publish_matched(&self, matched: BTreeMap<u64, u64>) {
        *self.matched.lock() = matched;
    }

    /// How far each member's log matched the leader's at the last tick, election or change of membership.
    /// Empty unless this member leads.
    pub fn matched(&self) -> BTreeMap<u64, u64> {
        self.matched.lock().clone()
    }

    /// Publishes what the core says of itself.
    pub fn publish_core(&self, view: CoreView) {
        *self.core.lock() = view;
    }

    /// What the core said of itself at the last tick, election or change of membership.
    pub fn core(&self) -> CoreView {
        self.core.lock().clone()
    }

    /// Follows the leader's ID.
    pub fn watch_leader(&self) -> watch::Receiver<u64> {
        self.leader_watch.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SELF: u64 = 7;

    fn leads(status: &Status, leader: u64, now: Instant) {
        let seen = Leadership {
            leader,
            is_leader: leader == SELF,
            ..Leadership::default()
        };
        status.publish(&seen, now);
    }

    #[test]
    fn a_call_is_held_back_only_if_no_leader_was_known_all_the_while() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let status = Status::default();
        assert!(status.leaderless_since(at(0)));
        leads(&status, 7, at(1));
        assert_eq!(status.elected(), Some(at(1)));
        assert!(!status.leaderless_since(at(0)) && !status.leaderless_since(at(2)));
        leads(&status, 0, at(3));
        leads(&status, 0, at(4));
        assert!(!status.leaderless_since(at(2)));
        assert!(status.leaderless_since(at(3)) && status.leaderless_since(at(5)));
        // the same one again is an election too
        leads(&status, 7, at(6));
        assert_eq!(status.elected(), Some(at(6)));
        assert!(!status.leaderless_since(at(5)));
        leads(&status, 8, at(7));
        assert_eq!(status.elected(), Some(at(6)));
    }
}
