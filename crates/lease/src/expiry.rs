//! When each lease is over, as the leader of one term judges it.
//!
//! Deadlines exist only between [`Expiry::promote`] and [`Expiry::demote`]: a member that does not lead
//! holds none. Times are a monotonic clock's distance from any fixed moment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// From this many leases on, a new leader spreads deadlines that fall together.
pub const SPREAD_FROM: usize = 1_000;
/// Deadlines a new leader lets fall into one second then.
pub const SPREAD_PER_SECOND: usize = 750;

/// The outcome of a renewal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renewal {
    /// It lives for its whole time again.
    Renewed,
    /// It is over; its revocation is under way and cannot be taken back.
    Over,
    /// There is no such lease here.
    Unknown,
    /// This member judges no lease.
    NotPrimary,
}

#[derive(Debug, Clone, Copy)]
struct Timer {
    deadline: Duration,
    /// Its place in the queue: the deadline, or later when its revocation is to be tried again.
    due: Duration,
}

#[derive(Debug)]
struct Primary {
    term: u64,
    timers: BTreeMap<i64, Timer>,
    queue: BTreeSet<(Duration, i64)>,
}

impl Primary {
    fn set(&mut self, id: i64, timer: Timer) {
        if let Some(before) = self.timers.insert(id, timer) {
            self.queue.remove(&(before.due, id));
        }
        self.queue.insert((timer.due, id));
    }
}

/// The deadlines of all leases while this member leads; nothing while it does not.
#[derive(Debug, Default)]
pub struct Expiry {
    primary: Option<Primary>,
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

impl Expiry {
    /// The term this member judges leases in; `None` when it does not.
    pub fn term(&self) -> Option<u64> {
        self.primary.as_ref().map(|primary| primary.term)
    }

    /// Begins to judge: every lease, given with its seconds to live, starts anew, `extend` longer than
    /// that. Where many would end together they are spread.
    pub fn promote(&mut self, term: u64, now: Duration, extend: Duration, leases: &[(i64, i64)]) {
        let mut deadlines: Vec<(Duration, i64)> = leases
            .iter()
            .map(|(id, live)| {
                (
                    now.saturating_add(extend).saturating_add(seconds(*live)),
                    *id,
                )
            })
            .collect();
        deadlines.sort_unstable();
        if deadlines.len() >= SPREAD_FROM {
            for index in SPREAD_PER_SECOND..deadlines.len() {
                let earliest = deadlines[index - SPREAD_PER_SECOND].0 + Duration::from_secs(1);
                deadlines[index].0 = deadlines[index].0.max(earliest);
            }
        }
        let timers = deadlines
            .iter()
            .map(|(deadline, id)| {
                let timer = Timer {
                    deadline: *deadline,
                    due: *deadline,
                };
                (*id, timer)
            })
            .collect();
        self.primary = Some(Primary {
            term,
            timers,
            queue: deadlines.into_iter().collect(),
        });
    }

    /// Drops every deadline: another member judges from here on, or none.
    pub fn demote(&mut self) {
        self.primary = None;
    }

    /// A lease was granted. True when nothing else is due before it.
    pub fn granted(&mut self, id: i64, ttl_seconds: i64, now: Duration) -> bool {
        let Some(primary) = &mut self.primary else {
            return false;
        };
        let deadline = now.saturating_add(seconds(ttl_seconds));
        primary.set(
            id,
            Timer {
                deadline,
                due: deadline,
            },
        );
        primary.queue.first() == Some(&(deadline, id))
    }

    /// A lease is gone.
    pub fn revoked(&mut self, id: i64) {
        if let Some(primary) = &mut self.primary
            && let Some(timer) = primary.timers.remove(&id)
        {
            primary.queue.remove(&(timer.due, id));
        }
    }

    /// A client wants the lease to live on, for its whole time from now.
    pub fn renew(&mut self, id: i64, ttl_seconds: i64, now: Duration) -> Renewal {
        let Some(primary) = &mut self.primary else {
            return Renewal::NotPrimary;
        };
        match primary.timers.get(&id) {
            None => Renewal::Unknown,
            Some(timer) if timer.deadline <= now => Renewal::Over,
            Some(_) => {
                let deadline = now.saturating_add(seconds(ttl_seconds));
                primary.set(
                    id,
                    Timer {
                        deadline,
                        due: deadline,
                    },
                );
                Renewal::Renewed
            }
        }
    }

    /// Whole seconds left, cut toward zero; negative once it is over. `None` when this member does not
    /// judge it.
    pub fn remaining_seconds(&self, id: i64, now: Duration) -> Option<i64> {
        let deadline = self.primary.as_ref()?.timers.get(&id)?.deadline;
        let whole = |left: Duration| i64::try_from(left.as_secs()).unwrap_or(i64::MAX);
        Some(match deadline.checked_sub(now) {
            Some(left) => whole(left),
            None => -whole(now.saturating_sub(deadline)),
        })
    }

    /// When the next lease is due; `None` when there is none.
    pub fn next_due(&self) -> Option<Duration> {
        Some(self.primary.as_ref()?.queue.first()?.0)
    }

    /// Up to `limit` leases that are over, the one longest due first. They are due again at `retry`,
    /// in case their revocation does not come about.
    pub fn take_expired(&mut self, now: Duration, limit: usize, retry: Duration) -> Vec<i64> {
        let mut expired = Vec::new();
        let Some(primary) = &mut self.primary else {
            return expired;
        };
        while expired.len() < limit
            && let Some(&(due, id)) = primary.queue.first()
            && due <= now
        {
            expired.push(id);
            primary.queue.remove(&(due, id));
            if let Some(timer) = primary.timers.get_mut(&id) {
                // A retry that is due already would be taken again in this very call.
                timer.due = retry.max(now + Duration::from_nanos(1));
                primary.queue.insert((timer.due, id));
            }
        }
        expired
    }

    /// Leases in the order of their deadlines; empty when this member judges none.
    pub fn by_deadline(&self) -> Vec<i64> {
        let Some(primary) = &self.primary else {
            return Vec::new();
        };
        let mut order: Vec<(Duration, i64)> = primary
            .timers
            .iter()
            .map(|(id, timer)| (timer.deadline, *id))
            .collect();
        order.sort_unstable();
        order.into_iter().map(|(_, id)| id).collect()
    }
}
