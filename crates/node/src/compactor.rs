//! Automatic compaction: which revision is old enough to go, and when to ask for it.
//!
//! Every member keeps its own window of revisions, so that a new leader goes on where the old one
//! was; only the leader asks for a compaction. It never touches the store: what is compacted goes
//! through the log like a client's request.

use std::collections::VecDeque;
use std::future::Future;
use std::time::{Duration, Instant};

use ferrite_apply::ApplyError;
use ferrite_mvcc::RequestError;
use ferrite_peer::go_duration;
use ferrite_proto::etcdserverpb::{CompactionRequest, InternalRaftRequest};

use crate::{Error, Node};

/// Pause between two compactions that keep a number of revisions.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);
/// The longest pause between two compactions that keep a length of time.
const PERIOD_INTERVAL_MAX: Duration = Duration::from_secs(3_600);
/// Revisions noted in such a pause.
const SAMPLES: u32 = 10;

/// What automatic compaction keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// What was current at any moment of the time up to now.
    Period(Duration),
    /// The newest revisions, this many.
    Revisions(i64),
}

impl Retention {
    /// The shortest period of which a tenth is a pause at all.
    pub const PERIOD_MIN: Duration = Duration::from_nanos(10);
}

/// Whom compactions are asked of.
trait Target: Sync {
    fn revision(&self) -> i64;
    fn leads(&self) -> bool;
    fn compact(&self, revision: i64) -> impl Future<Output = Result<(), Error>> + Send;
}

impl Target for Node {
    fn revision(&self) -> i64 {
        self.store().current_revision()
    }

    fn leads(&self) -> bool {
        self.status().is_leader()
    }

    async fn compact(&self, revision: i64) -> Result<(), Error> {
        let request = InternalRaftRequest {
            compaction: Some(CompactionRequest {
                revision,
                physical: false,
            }),
            ..InternalRaftRequest::default()
        };
        self.propose(request).await.map(drop)
    }
}

/// Compacts by itself as long as the member runs, if it is told to.
pub async fn watch(node: Node) {
    match node.config().upkeep.auto_compaction {
        None => {}
        Some(Retention::Period(period)) => keep_period(&node, period).await,
        Some(Retention::Revisions(count)) => keep_revisions(&node, count, REVISION_INTERVAL).await,
    }
}

/// What was current when, as far back as it is to be kept.
struct Window {
    period: Duration,
    /// Pause between two looks.
    step: Duration,
    revisions: VecDeque<i64>,
    /// How many of them reach back over the whole period.
    most: usize,
    /// How long after the last compaction the next is due.
    interval: Duration,
    last: Instant,
    last_revision: i64,
}

impl Window {
    fn new(period: Duration, now: Instant) -> Self {
        let step = period.min(PERIOD_INTERVAL_MAX) / SAMPLES;
        let steps = period.as_nanos() / step.as_nanos().max(1);
        Window {
            period,
            step,
            revisions: VecDeque::new(),
            most: usize::try_from(steps)
                .unwrap_or(usize::MAX)
                .saturating_add(1),
            // Nothing goes before the first whole period is over.
            interval: period,
            last: now,
            last_revision: 0,
        }
    }

    fn note(&mut self, revision: i64) {
        self.revisions.push_back(revision);
        if self.revisions.len() > self.most {
            self.revisions.pop_front();
        }
    }

    /// The revision to compact at, if it is time.
    fn due(&mut self, now: Instant) -> Option<i64> {
        let oldest = *self.revisions.front()?;
        if now.saturating_duration_since(self.last) < self.interval || oldest == self.last_revision
        {
            return None;
        }
        self.interval = self.period.min(PERIOD_INTERVAL_MAX);
        Some(oldest)
    }

    fn compacted(&mut self, revision: i64, now: Instant) {
        self.last_revision = revision;
        self.last = now;
    }
}

async fn keep_period(target: &impl Target, period: Duration) {
    let mut window = Window::new(period, Instant::now());
    let kept = go_duration(period);
    loop {
        window.note(target.revision());
        tokio::time::sleep(window.step).await;
        if !target.leads() {
            continue;
        }
        let start = Instant::now();
        let Some(revision) = window.due(start) else {
            continue;
        };
        tracing::info!(
            revision,
            "compact-period" = kept,
            "starting auto periodic compaction"
        );
        match compact(target, revision).await {
            Ok(()) => {
                tracing::info!(
                    revision,
                    "compact-period" = kept,
                    took = go_duration(start.elapsed()),
                    "completed auto periodic compaction"
                );
                window.compacted(revision, Instant::now());
            }
            Err(Error::Stopped) => return,
            Err(error) => tracing::warn!(
                revision,
                "compact-period" = kept,
                "retry-interval" = go_duration(window.step),
                error = %error,
                "failed auto periodic compaction"
            ),
        }
    }
}

async fn keep_revisions(target: &impl Target, count: i64, interval: Duration) {
    let mut last = 0;
    loop {
        tokio::time::sleep(interval).await;
        if !target.leads() {
            continue;
        }
        let revision = target.revision().saturating_sub(count);
        if revision <= 0 || revision == last {
            continue;
        }
        let start = Instant::now();
        tracing::info!(
            revision,
            "revision-compaction-retention" = count,
            "starting auto revision compaction"
        );
        match compact(target, revision).await {
            Ok(()) => {
                last = revision;
                tracing::info!(
                    revision,
                    "revision-compaction-retention" = count,
                    took = go_duration(start.elapsed()),
                    "completed auto revision compaction"
                );
            }
            Err(Error::Stopped) => return,
            Err(error) => tracing::warn!(
                revision,
                "revision-compaction-retention" = count,
                "retry-interval" = go_duration(interval),
                error = %error,
                "failed auto revision compaction"
            ),
        }
    }
}

/// What somebody else has compacted already is as good.
async fn compact(target: &impl Target, revision: i64) -> Result<(), Error> {
    match target.compact(revision).await {
        Err(Error::Apply(ApplyError::Request(RequestError::Compacted))) => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

    use parking_lot::Mutex;

    use super::*;

    /// A leader that writes `pace` revisions in each step: when it compacts, and at which.
    fn compactions(period: Duration, pace: i64, whole: Duration) -> Vec<(Duration, i64)> {
        let begin = Instant::now();
        let mut window = Window::new(period, begin);
        let (mut now, mut revision) = (begin, 1);
        let mut seen = Vec::new();
        while now - begin < whole {
            window.note(revision);
            revision += pace;
            now += window.step;
            if let Some(due) = window.due(now) {
                window.compacted(due, now);
                seen.push((now - begin, due));
            }
        }
        seen
    }

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3_600);

    #[test]
    fn an_hour_is_sampled_every_six_minutes_and_compacted_every_hour() {
        assert_eq!(
            compactions(HOUR, 100, 4 * HOUR),
            // The first knows only what was there at the beginning; the others keep an hour and six minutes.
            [
                (HOUR, 1),
                (2 * HOUR, 901),
                (3 * HOUR, 1_901),
                (4 * HOUR, 2_901)
            ]
        );
    }

    #[test]
    fn a_day_is_kept_and_compacted_every_hour_and_minutes_every_so_many() {
        let day = compactions(24 * HOUR, 1, 27 * HOUR);
        let hours: Vec<u64> = day.iter().map(|(at, _)| at.as_secs() / 3_600).collect();
        assert_eq!(hours, [24, 25, 26, 27]);
        assert_eq!(day[0].1, 1);
        let ten = compactions(10 * MINUTE, 1, HOUR);
        let minutes: Vec<u64> = ten.iter().map(|(at, _)| at.as_secs() / 60).collect();
        assert_eq!(minutes, [10, 20, 30, 40, 50, 60]);
    }

    #[test]
    fn nothing_new_is_not_compacted_twice_and_a_failure_is_tried_again_at_the_next_look() {
        assert_eq!(compactions(HOUR, 0, 10 * HOUR), [(HOUR, 1)]);
        let begin = Instant::now();
        let mut window = Window::new(HOUR, begin);
        for look in 1..=10_u32 {
            window.note(7);
            let due = window.due(begin + window.step * look);
            assert_eq!(due, (look == 10).then_some(7));
        }
        window.note(8);
        assert_eq!(window.due(begin + window.step * 11), Some(7), "again");
        window.compacted(7, begin + window.step * 11);
        window.note(9);
        assert_eq!(window.due(begin + window.step * 12), None, "an hour's rest");
    }

    #[test]
    fn the_window_is_bounded() {
        let mut window = Window::new(24 * HOUR, Instant::now());
        assert_eq!((window.step, window.most), (6 * MINUTE, 241));
        for revision in 0..1_000 {
            window.note(revision);
        }
        assert_eq!(window.revisions.len(), 241);
    }

    #[derive(Default)]
    struct Fake {
        revision: AtomicI64,
        leads: AtomicBool,
        asked: Mutex<Vec<i64>>,
        answers: Mutex<VecDeque<Error>>,
    }

    impl Target for Fake {
        fn revision(&self) -> i64 {
            self.revision.load(Ordering::Relaxed)
        }

        fn leads(&self) -> bool {
            self.leads.load(Ordering::Relaxed)
        }

        async fn compact(&self, revision: i64) -> Result<(), Error> {
            self.asked.lock().push(revision);
            self.answers.lock().pop_front().map_or(Ok(()), Err)
        }
    }

    async fn until(what: &str, condition: impl Fn() -> bool) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while !condition() {
            assert!(Instant::now() < deadline, "{what}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    #[tokio::test]
    async fn a_number_of_revisions_is_kept_by_the_leader_alone() {
        let fake = std::sync::Arc::new(Fake::default());
        let late = Error::Timeout;
        let already = Error::Apply(ApplyError::Request(RequestError::Compacted));
        fake.answers.lock().extend([late, already]);
        fake.revision.store(1_000, Ordering::Relaxed);
        let running = {
            let fake = std::sync::Arc::clone(&fake);
            tokio::spawn(async move {
                keep_revisions(&*fake, 1_000, Duration::from_millis(2)).await;
            })
        };
        tokio::time::sleep(Duration::from_millis(30)).await;
        fake.revision.store(1_100, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert_eq!(*fake.asked.lock(), [0_i64; 0], "it does not lead");
        fake.leads.store(true, Ordering::Relaxed);
        until("it tries again", || fake.asked.lock().len() == 2).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        assert_eq!(
            *fake.asked.lock(),
            [100, 100],
            "once more after a failure; what others have compacted is done"
        );
        fake.revision.store(1_101, Ordering::Relaxed);
        until("there is something new", || fake.asked.lock().len() == 3).await;
        assert_eq!(fake.asked.lock()[2], 101);
        // It ends with the member.
        fake.answers.lock().push_back(Error::Stopped);
        fake.revision.store(1_102, Ordering::Relaxed);
        until("it ends", || running.is_finished()).await;
    }

    #[tokio::test]
    async fn a_period_is_kept_by_the_leader_alone() {
        let fake = std::sync::Arc::new(Fake::default());
        fake.revision.store(5, Ordering::Relaxed);
        let already = Error::Apply(ApplyError::Request(RequestError::Compacted));
        fake.answers.lock().extend([already, Error::Stopped]);
        let running = {
            let fake = std::sync::Arc::clone(&fake);
            tokio::spawn(async move { keep_period(&*fake, Duration::from_millis(50)).await })
        };
        tokio::time::sleep(Duration::from_millis(200)).await;
        assert_eq!(*fake.asked.lock(), [0_i64; 0], "it does not lead");
        fake.revision.store(6, Ordering::Relaxed);
        fake.leads.store(true, Ordering::Relaxed);
        until("what it noted as a follower counts", || {
            fake.asked.lock().first() == Some(&5)
        })
        .await;
        until("it ends with the member", || running.is_finished()).await;
        assert_eq!(*fake.asked.lock(), [5, 6]);
    }
}
