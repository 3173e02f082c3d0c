//! How many connections there may be, and which of them go when others want their place.
//!
//! Every connection is a descriptor, and the log and the database need some too. Past the limit a new
//! connection takes the place of one that has no call under way: first of those that never made one, the
//! oldest first. Who floods us with connections loses them, and who asks is served. With a call on every
//! connection new ones wait, as in the original.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::pings::Activity;

/// Descriptors that no connection may take: the original's number.
pub const RESERVED: u64 = 150;
/// Of those, so many are for other members: a dozen for each of eight.
const PEERS: u64 = 100;
/// With more descriptors, this part of all is for other members.
const PEERS_PART: u64 = 8;
/// More connections than that no cluster has between its members.
const PEERS_MAX: u64 = 4096;
/// So many places at once are made free, as a part of all: one by one would mean a look at all each time.
const AT_ONCE: usize = 64;
/// Least time between two lines in the log about it.
const LOG_PAUSE: Duration = Duration::from_secs(10);

/// How descriptors are dealt out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shares {
    /// For connections of clients.
    pub clients: usize,
    /// For connections of other members.
    pub peers: usize,
}

/// Deals out so many descriptors, so that nobody who connects takes those of log and database. `None` where
/// there are too few.
pub fn shares(limit: u64) -> Option<Shares> {
    let peers = (limit / PEERS_PART).clamp(PEERS, PEERS_MAX);
    let clients = limit.checked_sub(RESERVED + peers - PEERS)?;
    let size = |number| usize::try_from(number).unwrap_or(usize::MAX);
    (clients > 0).then(|| Shares {
        clients: size(clients),
        peers: size(peers),
    })
}

/// Raises the limit of descriptors to what the process may have at most, as Go's programs do, and returns
/// it. `None` where there is none, or it cannot be found out.
pub fn descriptors() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current;
    }
    let most = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    // Some systems promise more than they give.
    let _kept = setrlimit(Resource::Nofile, most);
    getrlimit(Resource::Nofile).current
}

/// The limit as it is.
pub fn descriptor_limit() -> u64 {
    rustix::process::getrlimit(rustix::process::Resource::Nofile)
        .current
        .unwrap_or(u64::MAX)
}

#[derive(Default)]
struct Inner {
    open: BTreeMap<u64, Arc<Activity>>,
    next: u64,
    logged: Option<Instant>,
}

/// All places. Clones share them.
#[derive(Clone)]
pub struct Room {
    limit: usize,
    inner: Arc<Mutex<Inner>>,
    freed: Arc<Notify>,
}

impl Room {
    /// With so many places.
    pub fn new(limit: usize) -> Self {
        Room {
            limit: limit.max(1),
            inner: Arc::default(),
            freed: Arc::default(),
        }
    }

    /// Places that are taken.
    pub fn taken(&self) -> usize {
        self.inner.lock().open.len()
    }

    /// Places there are.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Takes a place as soon as there is one.
    pub async fn take(&self) -> Place {
        loop {
            if let Some(place) = self.try_take(Instant::now()) {
                return place;
            }
            self.freed.notified().await;
        }
    }

    fn try_take(&self, now: Instant) -> Option<Place> {
        let mut inner = self.inner.lock();
        if inner.open.len() < self.limit {
            let id = inner.next;
            inner.next += 1;
            let activity = Arc::new(Activity::new(now));
            inner.open.insert(id, Arc::clone(&activity));
            return Some(Place {
                id,
                activity,
                room: self.clone(),
            });
        }
        if inner
            .logged
            .is_none_or(|logged| now.saturating_duration_since(logged) > LOG_PAUSE)
        {
            inner.logged = Some(now);
            tracing::warn!(
                limit = self.limit,
                "too many client connections; closing some that have no call under way"
            );
        }
        let mut idle: Vec<_> = inner
            .open
            .values()
            .filter_map(|activity| Some((activity.idle_since()?, activity)))
            .collect();
        idle.sort_unstable_by_key(|(since, _)| *since);
        for (_, activity) in idle.into_iter().take((self.limit / AT_ONCE).max(1)) {
            activity.unwanted.notify_one();
        }
        None
    }
}

/// A connection's place, free again when this is gone.
pub struct Place {
    id: u64,
    /// What goes on there.
    pub activity: Arc<Activity>,
    room: Room,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.inner.lock().open.remove(&self.id);
        self.room.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unwanted(place: &Place) -> bool {
        let mut notified = std::pin::pin!(place.activity.unwanted.notified());
        notified.as_mut().enable()
    }

    #[test]
    fn descriptors_are_dealt_out_and_some_are_kept() {
        assert_eq!(shares(150), None);
        let of = |limit| shares(limit).map(|shares| (shares.clients, shares.peers));
        assert_eq!(of(151), Some((1, 100)));
        assert_eq!(of(250), Some((100, 100)));
        assert_eq!(of(1024), Some((846, 128)));
        for limit in [151, 799, 800, 1_000, 1 << 20, u64::MAX] {
            let Shares { clients, peers } = shares(limit).expect("enough");
            let all = (clients as u64).saturating_add(peers as u64);
            assert!(all <= limit - 50, "{limit}");
        }
    }

    #[test]
    fn who_never_asked_goes_first_then_who_asked_longest_ago() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let room = Room::new(4);
        let take = |seconds| room.try_take(at(seconds)).expect("there is room");
        let (asked, asks, silent, newer) = (take(0), take(1), take(2), take(3));
        drop(asked.activity.begin(at(4)));
        let call = asks.activity.begin(at(5));
        assert!(room.try_take(at(6)).is_none());
        assert!(unwanted(&silent));
        drop(silent);
        let third = room.try_take(at(7)).expect("a place was given up");
        assert!(room.try_take(at(8)).is_none());
        assert!(unwanted(&newer));
        drop((newer, third));
        let others = [take(9), take(10)];
        let calls: Vec<_> = others.iter().map(|p| p.activity.begin(at(11))).collect();
        assert!(room.try_take(at(12)).is_none());
        assert!(unwanted(&asked));
        drop(asked);
        let last = room.try_take(at(13)).expect("a place was given up");
        let busy = last.activity.begin(at(14));
        assert!(room.try_take(at(15)).is_none());
        assert!(
            ![&asks, &others[0], &others[1], &last]
                .into_iter()
                .any(unwanted)
        );
        drop((call, calls, busy));
        assert_eq!(room.taken(), 4);
    }
}
