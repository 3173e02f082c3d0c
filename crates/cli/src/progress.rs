//! How far a long job has come, on standard error, where a person looks at it: a bar if it is known how
//! much there is to do, a count if not. Where standard error is no terminal nothing is written at all.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use crate::gofmt;

/// How many characters wide the bar is.
const WIDTH: u64 = 30;
/// Pause between two drawings; more would only flicker.
const PAUSE: Duration = Duration::from_millis(100);
/// Clears the line that the cursor is on.
const CLEAR: &str = "\r\x1b[K";

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Bytes, shown as sizes.
    Bytes,
    /// Things.
    Count,
}

impl Unit {
    fn text(self, amount: u64) -> String {
        match self {
            Self::Bytes => gofmt::size(amount),
            Self::Count => amount.to_string(),
        }
    }
}

/// A job under way. Dropping it leaves the line clean for what comes next.
#[derive(Debug)]
pub struct Progress {
    what: String,
    unit: Unit,
    total: Option<u64>,
    done: u64,
    begun: Instant,
    drawn: Option<Instant>,
    terminal: bool,
}

impl Progress {
    /// A job of which nothing is done yet. `total` may be a guess.
    pub fn new(what: impl Into<String>, unit: Unit, total: Option<u64>) -> Self {
        Self {
            what: what.into(),
            unit,
            total,
            done: 0,
            begun: Instant::now(),
            drawn: None,
            terminal: stderr().is_terminal(),
        }
    }

    /// Whether anybody looks.
    pub fn is_seen(&self) -> bool {
        self.terminal
    }

    /// So much more is done.
    pub fn add(&mut self, more: u64) {
        self.set(self.done + more);
    }

    /// So much is done.
    pub fn set(&mut self, done: u64) {
        self.done = done;
        if self.terminal && self.drawn.is_none_or(|at| at.elapsed() >= PAUSE) {
            self.drawn = Some(Instant::now());
            let line = self.line(self.begun.elapsed());
            // It is for the eye only.
            let _ = write!(stderr(), "{CLEAR}{line}");
        }
    }

    fn line(&self, elapsed: Duration) -> String {
        let seconds = elapsed.as_secs();
        let done = self.unit.text(self.done);
        match self.total.filter(|total| *total > 0) {
            Some(total) => {
                let part = self.done.min(total);
                let filled = part.saturating_mul(WIDTH) / total;
                let bar: String = (0..WIDTH)
                    .map(|at| if at < filled { '=' } else { ' ' })
                    .collect();
                let percent = part.saturating_mul(100) / total;
                let total = self.unit.text(total);
                format!(
                    "{} [{bar}] {percent}% ({done} of {total}, {seconds} s)",
                    self.what
                )
            }
            None if self.done == 0 => format!("{} … {seconds} s", self.what),
            None => format!("{}: {done} ({seconds} s)", self.what),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.drawn.is_some() {
            // It is for the eye only.
            let _ = write!(stderr(), "{CLEAR}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let mut progress = Progress::new("restoring", Unit::Bytes, Some(2000));
        progress.done = 1000;
        assert_eq!(
            progress.line(Duration::from_secs(3)),
            "restoring [===============               ] 50% (1.0 kB of 2.0 kB, 3 s)"
        );
        // A guess that was too low.
        progress.done = 3000;
        assert!(progress.line(Duration::ZERO).contains("] 100% (3.0 kB"));
        progress.total = None;
        assert_eq!(progress.line(Duration::ZERO), "restoring: 3.0 kB (0 s)");
        let waiting = Progress::new("defragmenting", Unit::Count, None);
        assert_eq!(waiting.line(Duration::from_secs(9)), "defragmenting … 9 s");
    }
}
