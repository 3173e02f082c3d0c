//! A run: blocks of sequences, each on a pair of its own, several at a time; and what to do when a
//! sequence is answered differently.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use ferrite_testkit::Kind;

use crate::fault::Fault;
use crate::generate::{Areas, generate};
use crate::pair::{Difference, Pair};
use crate::shrink::shrink;
use crate::step::Step;

/// Sequences that one pair of servers lives through. The number decides what a sequence finds, so that
/// it is the same for every run.
const BLOCK: u64 = 250;

/// How far back a failure's causes are looked for, in sequences.
const HISTORY: [u64; 4] = [1, 4, 32, BLOCK];

/// What to run.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The seed of all sequences.
    pub seed: u64,
    /// The first sequence's number.
    pub from: u64,
    /// How many sequences, at most.
    pub sequences: u64,
    /// When to stop beginning new ones.
    pub until: Option<Duration>,
    /// Whom to compare with.
    pub against: Kind,
    /// What sequences are about.
    pub areas: Areas,
    /// How long one failure may be made smaller for; zero leaves it as it is.
    pub shrink: Duration,
    /// Differences after which the run ends: more of them mostly say the same.
    pub failures: usize,
    /// Pairs of servers at a time.
    pub workers: usize,
    /// What our answers are broken by, to see that it is found.
    pub fault: Option<Fault>,
}

/// A sequence that was answered differently.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Its number in the run.
    pub sequence: u64,
    /// What was seen in the run.
    pub seen: Difference,
    /// The smallest script that shows it on fresh servers, and what it shows; `None` if it takes more
    /// than was tried.
    pub script: Option<(Vec<Step>, Difference)>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "sequence {}:\n{}", self.sequence, self.seen)?;
        match &self.script {
            Some((steps, difference)) => {
                writeln!(f, "  on fresh servers:")?;
                for (at, step) in steps.iter().enumerate() {
                    writeln!(f, "    {at}. {step}")?;
                }
                write!(f, "{difference}")
            }
            None => write!(f, "  fresh servers do not show it"),
        }
    }
}

/// What a run came to.
#[derive(Debug, Default)]
pub struct Summary {
    /// Sequences that ran.
    pub sequences: u64,
    /// Requests that each server answered.
    pub asked: usize,
    /// How often each exception was needed, by row.
    pub excused: BTreeMap<&'static str, usize>,
    /// What was answered differently.
    pub failures: Vec<Failure>,
}

/// A run.
#[derive(Debug)]
pub struct Session {
    settings: Settings,
    since: Instant,
    /// The next block that nobody has taken.
    next: AtomicU64,
    failed: AtomicUsize,
}

/// What a worker reports.
enum Told {
    Failure(Box<Failure>),
    /// One pair has come to its end.
    Done(Summary),
}

impl Session {
    /// A run of these settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            next: AtomicU64::new(settings.from / BLOCK),
            settings,
            since: Instant::now(),
            failed: AtomicUsize::new(0),
        }
    }

    /// Runs it, each worker on a thread of its own. `told` hears of each failure as soon as it is as
    /// small as it gets.
    ///
    /// # Panics
    /// If a server does not start.
    pub fn run(&self, mut told: impl FnMut(&Failure)) -> Summary {
        let mut summary = Summary::default();
        let (reports, reported) = mpsc::channel();
        std::thread::scope(|scope| {
            for _ in 0..self.settings.workers.max(1) {
                let reports = reports.clone();
                scope.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .expect("a thread can have a runtime");
                    runtime.block_on(self.work(&reports));
                });
            }
            drop(reports);
            for one in reported {
                match one {
                    Told::Failure(failure) => {
                        told(&failure);
                        summary.failures.push(*failure);
                    }
                    Told::Done(part) => {
                        summary.sequences += part.sequences;
                        summary.asked += part.asked;
                        for (row, times) in part.excused {
                            *summary.excused.entry(row).or_default() += times;
                        }
                    }
                }
            }
        });
        summary.failures.sort_by_key(|failure| failure.sequence);
        summary
    }

    fn over(&self) -> bool {
        let late = |until| self.since.elapsed() >= until;
        self.settings.until.is_some_and(late)
            || self.failed.load(Ordering::Relaxed) >= self.settings.failures
    }

    async fn work(&self, reports: &mpsc::Sender<Told>) {
        let settings = &self.settings;
        let end = settings.from.saturating_add(settings.sequences);
        while !self.over() {
            let block = self.next.fetch_add(1, Ordering::Relaxed);
            let first = (block * BLOCK).max(settings.from);
            let last = (block + 1).saturating_mul(BLOCK).min(end);
            if first >= last {
                return;
            }
            let mut from = first;
            while from < last && !self.over() {
                from = self.stretch(from, last, reports).await;
            }
        }
    }

    /// Runs these sequences on one pair up to the first that is answered differently; returns where
    /// to go on.
    async fn stretch(&self, from: u64, last: u64, reports: &mpsc::Sender<Told>) -> u64 {
        let settings = &self.settings;
        let mut pair = self.pair().await;
        let mut done = Summary::default();
        let mut at = from;
        let mut failure = None;
        while at < last && !self.over() {
            let steps = generate(settings.seed, at, settings.areas);
            let outcome = pair.run(&steps).await;
            done.sequences += 1;
            at += 1;
            if let Err(seen) = outcome {
                failure = Some(seen);
                break;
            }
        }
        done.asked = pair.asked;
        done.excused = std::mem::take(&mut pair.excused);
        // What has differed once will differ in all that follows.
        drop(pair);
        let _ = reports.send(Told::Done(done));
        if let Some(seen) = failure {
            self.failed.fetch_add(1, Ordering::Relaxed);
            let sequence = at - 1;
            let script = self.smallest(sequence, from, &seen).await;
            let failure = Failure {
                sequence,
                seen: *seen,
                script,
            };
            let _ = reports.send(Told::Failure(Box::new(failure)));
        }
        at
    }

    async fn pair(&self) -> Pair {
        let mut pair = Pair::start(self.settings.against).await;
        pair.fault = self.settings.fault;
        pair
    }

    /// The sequence alone, or with as many before it as it takes, made small on fresh servers.
    async fn smallest(
        &self,
        sequence: u64,
        born: u64,
        seen: &Difference,
    ) -> Option<(Vec<Step>, Difference)> {
        let settings = &self.settings;
        if settings.shrink.is_zero() {
            return None;
        }
        for length in HISTORY {
            let from = sequence.saturating_sub(length - 1).max(born);
            let mut steps: Vec<Step> = (from..sequence)
                .flat_map(|earlier| generate(settings.seed, earlier, settings.areas))
                .collect();
            let mut last = generate(settings.seed, sequence, settings.areas);
            last.truncate(seen.at + 1);
            steps.extend(last);
            let smallest = shrink(steps, settings.shrink, async || self.pair().await).await;
            if smallest.is_some() || from == born {
                return smallest;
            }
        }
        None
    }
}
