//! Answers that their clients do not take.
//!
//! Whoever asks for much and reads nothing has the server keep the answer: flow control holds back what is sent, not
//! what is asked for. A few connections with a hundred such calls each would take all memory. So large
//! answers are counted until they have been sent; past a limit the connection goes that has the most of them under way, and
//! among equals the one that has taken nothing for the longest. The only answer there is stays, whatever its size.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::pings::Activity;

/// Answers and pieces of answers from here on are counted, in bytes.
pub const COUNTED_FROM: usize = 64 << 10;

/// The part of all memory that answers may take together.
const PART: u64 = 4;
/// They may take so much on the smallest machine, in bytes,
const LIMIT_MIN: u64 = 32 << 20;
/// and on the largest.
const LIMIT_MAX: u64 = 1 << 30;
/// Least time between two lines in the log about it.
const LOG_PAUSE: Duration = Duration::from_secs(10);

/// In the extensions of a large answer: the length of its message.
#[derive(Debug, Clone, Copy)]
pub struct Weight(pub usize);

/// All that is not taken yet.
#[derive(Debug)]
pub struct Untaken {
    limit: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Bytes on connections that stay.
    total: usize,
    next: u64,
    /// Connections with something to take.
    connections: BTreeMap<u64, Held>,
    logged: Option<Instant>,
}

#[derive(Debug)]
struct Held {
    bytes: usize,
    answers: usize,
    /// When it took something for the last time, or had nothing to take.
    since: Instant,
    /// It is on its way out.
    ends: bool,
    account: Arc<Account>,
}

/// What all answers may take together, in bytes, where the process may use so much memory.
pub fn limit(memory: Option<u64>) -> usize {
    let bytes = memory.map_or(LIMIT_MAX, |memory| {
        (memory / PART).clamp(LIMIT_MIN, LIMIT_MAX)
    });
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

impl Untaken {
    /// Of which there may be so many bytes.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Untaken {
            limit,
            inner: Mutex::default(),
        })
    }

    /// For one connection more.
    pub fn account(self: &Arc<Self>, activity: &Arc<Activity>, remote: Arc<str>) -> Arc<Account> {
        let mut inner = self.inner.lock();
        inner.next += 1;
        Arc::new(Account {
            id: inner.next,
            activity: Arc::clone(activity),
            remote,
            all: Arc::clone(self),
        })
    }

    fn add(&self, account: &Arc<Account>, bytes: usize, now: Instant) {
        let inner = &mut *self.inner.lock();
        let held = inner.connections.entry(account.id).or_insert_with(|| Held {
            bytes: 0,
            answers: 0,
            since: now,
            ends: false,
            account: Arc::clone(account),
        });
        held.bytes += bytes;
        held.answers += 1;
        if !held.ends {
            inner.total += bytes;
        }
        while inner.total > self.limit {
            let Some(held) = last_of(&mut inner.connections) else {
                return;
            };
            held.ends = true;
            inner.total = inner.total.saturating_sub(held.bytes);
            held.account.activity.evict();
            let quiet = inner
                .logged
                .is_some_and(|logged| now.saturating_duration_since(logged) < LOG_PAUSE);
            if !quiet {
                inner.logged = Some(now);
                tracing::warn!(
                    "remote-addr" = &*held.account.remote,
                    answers = held.answers,
                    bytes = held.bytes,
                    limit = self.limit,
                    "closing a client connection that does not take what it asked for; answers would need too much memory"
                );
            }
        }
    }

    fn remove(&self, id: u64, bytes: usize, now: Instant) {
        let inner = &mut *self.inner.lock();
        let Some(held) = inner.connections.get_mut(&id) else {
            return;
        };
        held.bytes = held.bytes.saturating_sub(bytes);
        held.answers = held.answers.saturating_sub(1);
        held.since = now;
        if !held.ends {
            inner.total = inner.total.saturating_sub(bytes);
        }
        if held.answers == 0 {
            inner.connections.remove(&id);
        }
    }
}

/// Who goes first; nobody where there is one answer only.
fn last_of(connections: &mut BTreeMap<u64, Held>) -> Option<&mut Held> {
    let staying = connections.values_mut().filter(|held| !held.ends);
    let (mut chosen, mut answers): (Option<&mut Held>, usize) = (None, 0);
    for held in staying {
        answers += held.answers;
        let later = chosen
            .as_ref()
            .is_none_or(|chosen| (held.answers, chosen.since) > (chosen.answers, held.since));
        if later {
            chosen = Some(held);
        }
    }
    chosen.filter(|_| answers > 1)
}

/// A connection that asks.
#[derive(Debug)]
pub struct Account {
    id: u64,
    activity: Arc<Activity>,
    remote: Arc<str>,
    all: Arc<Untaken>,
}

impl Account {
    /// So many bytes wait to be sent, until what is returned is gone.
    pub fn claim(self: &Arc<Self>, bytes: usize) -> Claim {
        self.all.add(self, bytes, Instant::now());
        Claim {
            id: self.id,
            bytes,
            all: Arc::clone(&self.all),
        }
    }

    /// The same bytes; if they are many, they count for as long as they live.
    pub fn count(self: &Arc<Self>, bytes: Bytes) -> Bytes {
        if bytes.len() < COUNTED_FROM {
            return bytes;
        }
        let _claim = self.claim(bytes.len());
        Bytes::from_owner(Owned { bytes, _claim })
    }
}

/// Bytes that wait to be sent.
#[derive(Debug)]
pub struct Claim {
    id: u64,
    bytes: usize,
    all: Arc<Untaken>,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.all.remove(self.id, self.bytes, Instant::now());
    }
}

struct Owned {
    bytes: Bytes,
    _claim: Claim,
}

impl AsRef<[u8]> for Owned {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: usize = 100 << 10;

    fn connection(all: &Arc<Untaken>) -> (Arc<Account>, Arc<Activity>) {
        let activity = Arc::new(Activity::new(Instant::now()));
        (all.account(&activity, "client".into()), activity)
    }

    #[test]
    fn the_limit_is_a_part_of_the_memory() {
        assert_eq!(limit(None), 1 << 30);
        assert_eq!(limit(Some(256 << 20)), 64 << 20);
        assert_eq!(limit(Some(1)), 32 << 20);
        assert_eq!(limit(Some(u64::MAX)), 1 << 30);
    }

    #[test]
    fn the_only_answer_may_have_any_size() {
        let all = Untaken::new(PIECE);
        let (one, activity) = connection(&all);
        let claim = one.claim(50 * PIECE);
        assert!(!activity.evicted());
        drop(claim);
        assert_eq!(all.inner.lock().total, 0);
        assert!(all.inner.lock().connections.is_empty());
    }

    #[test]
    fn who_has_most_answers_under_way_goes_and_who_takes_them_stays() {
        let all = Untaken::new(4 * PIECE);
        let ((few, few_activity), (many, many_activity)) = (connection(&all), connection(&all));
        let bytes = Bytes::from(vec![7; PIECE]);
        let _few = few.count(bytes.clone());
        let mut taken: Vec<_> = (0..3).map(|_| many.count(bytes.clone())).collect();
        for _ in 0..10 {
            // one goes out, one comes
            taken.remove(0);
            taken.push(many.count(bytes.clone()));
        }
        assert!(!many_activity.evicted(), "nothing is too much yet");
        taken.push(many.count(bytes.clone()));
        assert!(many_activity.evicted() && !few_activity.evicted());
        // What it still holds counts no more.
        let _more: Vec<_> = (0..3).map(|_| few.count(bytes.clone())).collect();
        assert!(!few_activity.evicted());
        assert_eq!(all.inner.lock().total, 4 * PIECE);
        drop(taken);
        assert_eq!(all.inner.lock().total, 4 * PIECE);
        assert_eq!(all.inner.lock().connections.len(), 1);
    }

    #[test]
    fn of_equals_the_one_goes_that_took_nothing_for_the_longest() {
        let all = Untaken::new(2 * PIECE);
        let connections: Vec<_> = (0..3).map(|_| connection(&all)).collect();
        let start = Instant::now();
        for (seconds, (account, _)) in (0..).zip(&connections) {
            all.add(account, PIECE, start + Duration::from_secs(seconds));
        }
        let evicted: Vec<_> = (connections.iter())
            .map(|(_, activity)| activity.evicted())
            .collect();
        assert_eq!(evicted, [true, false, false]);
        for (account, _) in &connections[..2] {
            all.remove(account.id, PIECE, start);
        }
        assert_eq!(all.inner.lock().total, PIECE);
    }

    #[test]
    fn bytes_stay_the_same_and_small_ones_are_not_counted() {
        let all = Untaken::new(usize::MAX);
        let (one, _) = connection(&all);
        let small = one.count(Bytes::from_static(b"abc"));
        assert_eq!(&small[..], b"abc");
        assert_eq!(all.inner.lock().total, 0);
        let large = one.count(Bytes::from(vec![3; PIECE]));
        let part = large.slice(10..20);
        assert_eq!(large.len(), PIECE);
        drop(large);
        assert_eq!(all.inner.lock().total, PIECE, "a part of it is left");
        assert_eq!(&part[..], [3; 10]);
        drop(part);
        assert_eq!(all.inner.lock().total, 0);
    }
}
