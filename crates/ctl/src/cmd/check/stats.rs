//! How requests went: how many in how long, how evenly, and what went wrong.

use std::collections::BTreeMap;
use std::time::Duration;

/// What a load measured.
#[derive(Debug, Default)]
pub struct Stats {
    /// How long each request took that succeeded, in seconds.
    seconds: Vec<f64>,
    /// From the first request to the last answer.
    total: Duration,
    /// Errors by their text, and how often each came.
    pub errors: BTreeMap<String, u64>,
}

impl Stats {
    /// Notes a request that succeeded.
    pub fn succeeded(&mut self, took: Duration) {
        self.seconds.push(took.as_secs_f64());
    }

    /// Notes one that did not.
    pub fn failed(&mut self, error: String) {
        *self.errors.entry(error).or_default() += 1;
    }

    /// Notes that all is done.
    pub fn end(&mut self, total: Duration) {
        self.total = total;
    }

    fn count(&self) -> f64 {
        self.seconds.len() as f64
    }

    /// Requests that succeeded, a second.
    pub fn per_second(&self) -> f64 {
        self.count() / self.total.as_secs_f64()
    }

    /// The longest that one took, in seconds.
    pub fn slowest(&self) -> f64 {
        self.seconds.iter().copied().fold(0.0, f64::max)
    }

    /// How far they lay apart, in seconds; not a number if there were none.
    pub fn deviation(&self) -> f64 {
        let average = self.seconds.iter().sum::<f64>() / self.count();
        let squares: f64 = self.seconds.iter().map(|s| (s - average).powi(2)).sum();
        (squares / self.count()).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        let mut stats = Stats::default();
        for millis in [1000, 2000, 3000, 4000] {
            stats.succeeded(Duration::from_millis(millis));
        }
        stats.failed("x".into());
        stats.end(Duration::from_secs(2));
        assert!((stats.per_second() - 2.0).abs() < 1e-9);
        assert!((stats.slowest() - 4.0).abs() < 1e-9);
        assert!((stats.deviation() - 1.25_f64.sqrt()).abs() < 1e-9);
        assert_eq!(stats.errors.get("x"), Some(&1));
    }
}
