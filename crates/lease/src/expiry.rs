//! When each lease is over, as the leader of one term judges it.
//!
//! Deadlines exist only between [`Expiry::promote`] and [`Expiry::demote`]: a member that does not lead
//! holds none. Times are a monotonic clock's distance from any fixed moment.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ferrite_mutate::mutation;

/// Checkpoints in one entry of the log at most.
pub const CHECKPOINTS_MAX: usize = 1_000;
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
    /// How long it was to live when the deadline was set, in seconds.
    live_seconds: i64,
    /// When its remaining time is to be written down next.
    checkpoint: Option<Duration>,
}

#[derive(Debug)]
struct Primary {
    term: u64,
    timers: BTreeMap<i64, Timer>,
    queue: BTreeSet<(Duration, i64)>,
    checkpoints: BTreeSet<(Duration, i64)>,
}

impl Primary {
    fn set(&mut self, id: i64, timer: Timer) {
        self.remove(id);
        self.timers.insert(id, timer);
        self.queue.insert((timer.due, id));
        self.checkpoints.extend(timer.checkpoint.map(|at| (at, id)));
    }

    fn remove(&mut self, id: i64) {
        if let Some(timer) = self.timers.remove(&id) {
            self.queue.remove(&(timer.due, id));
            if let Some(at) = timer.checkpoint {
                self.checkpoints.remove(&(at, id));
            }
        }
    }
}

/// The deadlines of all leases while this member leads; nothing while it does not.
#[derive(Debug, Default)]
pub struct Expiry {
    primary: Option<Primary>,
    checkpoint_interval: Option<Duration>,
}

fn seconds(count: i64) -> Duration {
    Duration::from_secs(u64::try_from(count).unwrap_or(0))
}

impl Expiry {
    /// As the default, but what is left of a lease is written down at this interval
    /// ([`Expiry::take_checkpoints`]), if it has longer than that to live.
    pub fn with_checkpoints(interval: Duration) -> Self {
        Expiry {
            primary: None,
            checkpoint_interval: Some(interval),
        }
    }

    fn timer(&self, deadline: Duration, live_seconds: i64, now: Duration) -> Timer {
        let checkpoint = self
            .checkpoint_interval
            .filter(|interval| seconds(live_seconds) > *interval)
            .map(|interval| now.saturating_add(interval));
        Timer {
            deadline,
            due: deadline,
            live_seconds,
            checkpoint,
        }
    }

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
        let live: BTreeMap<i64, i64> = leases.iter().copied().collect();
        let timers: BTreeMap<i64, Timer> = deadlines
            .iter()
            .map(|(deadline, id)| {
                let live = live.get(id).copied().unwrap_or(0);
                (*id, self.timer(*deadline, live, now))
            })
            .collect();
        let checkpoints = timers
            .iter()
            .filter_map(|(id, timer)| Some((timer.checkpoint?, *id)))
            .collect();
        self.primary = Some(Primary {
            term,
            timers,
            queue: deadlines.into_iter().collect(),
            checkpoints,
        });
    }

    /// Drops every deadline: another member judges from here on, or none.
    pub fn demote(&mut self) {
        self.primary = None;
    }

    /// A lease was granted. True when nothing else is due before it.
    pub fn granted(&mut self, id: i64, ttl_seconds: i64, now: Duration) -> bool {
        let deadline = now.saturating_add(seconds(ttl_seconds));
        let timer = self.timer(deadline, ttl_seconds, now);
        let Some(primary) = &mut self.primary else {
            return false;
        };
        primary.set(id, timer);
        primary.queue.first() == Some(&(deadline, id))
    }

    /// A lease is gone.
    pub fn revoked(&mut self, id: i64) {
        if let Some(primary) = &mut self.primary {
            primary.remove(id);
        }
    }

    /// A client wants the lease to live on, for its whole time from now.
    pub fn renew(&mut self, id: i64, ttl_seconds: i64, now: Duration) -> Renewal {
        let renewed = self.timer(now.saturating_add(seconds(ttl_seconds)), ttl_seconds, now);
        let Some(primary) = &mut self.primary else {
            return Renewal::NotPrimary;
        };
        match primary.timers.get(&id) {
            None => Renewal::Unknown,
            Some(timer) if timer.deadline <= now => Renewal::Over,
            Some(_) if mutation!("renewal-lost") => Renewal::Renewed,
            Some(_) => {
                primary.set(id, renewed);
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
        if mutation!("never-expires") {
            return expired;
        }
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

    /// When [`Expiry::take_checkpoints`] has something next; `None` when it never has.
    pub fn next_checkpoint(&self) -> Option<Duration> {
        Some(self.primary.as_ref()?.checkpoints.first()?.0)
    }

    /// Up to `limit` leases whose remaining time is to be written down, with the seconds left, rounded up. Those
    /// that still have long to live come again after the interval.
    pub fn take_checkpoints(&mut self, now: Duration, limit: usize) -> Vec<(i64, i64)> {
        let mut due = Vec::new();
        let (Some(primary), Some(interval)) = (&mut self.primary, self.checkpoint_interval) else {
            return due;
        };
        while due.len() < limit
            && let Some(&(at, id)) = primary.checkpoints.first()
            && at <= now
        {
            primary.checkpoints.remove(&(at, id));
            let Some(timer) = primary.timers.get_mut(&id) else {
                continue;
            };
            timer.checkpoint = None;
            let left = timer.deadline.saturating_sub(now);
            if left > interval {
                // Never in this very call again.
                let next = now.saturating_add(interval.max(Duration::from_nanos(1)));
                timer.checkpoint = Some(next);
                primary.checkpoints.insert((next, id));
            }
            let whole = left.as_secs() + u64::from(left.subsec_nanos() > 0);
            let whole = i64::try_from(whole).unwrap_or(i64::MAX);
            // Nothing of one that is over, and nothing new of one that has all its time.
            if whole > 0 && whole < timer.live_seconds {
                due.push((id, whole));
            }
        }
        due
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
