//! A run: sequence after sequence on one pair, and what to do when one is answered differently.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use ferrite_testkit::Kind;

use crate::generate::{Areas, generate};
use crate::pair::{Difference, Pair};
use crate::shrink::shrink;
use crate::step::Step;

/// Differences after which a run ends: more of them mostly say the same.
const FAILURES_MAX: usize = 5;

/// How far back a failure's causes are looked for, in sequences.
const HISTORY: [usize; 4] = [1, 4, 32, 256];

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
}

impl Session {
    /// A run of these settings.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings }
    }

    /// Runs it. `told` hears of each failure as soon as it is as small as it gets.
    ///
    /// # Panics
    /// If a server does not start.
    pub async fn run(&self, mut told: impl FnMut(&Failure)) -> Summary {
        let settings = &self.settings;
        let since = Instant::now();
        let mut summary = Summary::default();
        let mut pair = self.pair().await;
        let mut born = settings.from;
        for sequence in settings.from..settings.from.saturating_add(settings.sequences) {
            if settings.until.is_some_and(|until| since.elapsed() >= until)
                || summary.failures.len() >= FAILURES_MAX
            {
                break;
            }
            let steps = generate(settings.seed, sequence, settings.areas);
            let outcome = pair.run(&steps).await;
            summary.sequences += 1;
            let Err(seen) = outcome else { continue };
            collect(&mut summary, &pair);
            // What has differed once will differ in all that follows.
            drop(pair);
            let script = self.smallest(sequence, born, &seen).await;
            let failure = Failure {
                sequence,
                seen: *seen,
                script,
            };
            told(&failure);
            summary.failures.push(failure);
            pair = self.pair().await;
            born = sequence + 1;
        }
        collect(&mut summary, &pair);
        summary
    }

    async fn pair(&self) -> Pair {
        Pair::start(self.settings.against, self.settings.areas.auth).await
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
            let length = u64::try_from(length).unwrap_or(1);
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

fn collect(summary: &mut Summary, pair: &Pair) {
    summary.asked += pair.asked;
    for (row, times) in &pair.excused {
        *summary.excused.entry(row).or_default() += times;
    }
}
