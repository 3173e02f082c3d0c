//! A member's own clock: it runs a little too fast or too slow, and leaps. Only ever forward: it is the
//! monotonic one that the production code asks.

use std::time::{Duration, Instant};

/// See the module.
#[derive(Debug, Clone)]
pub struct Clock {
    base: Instant,
    /// Its microseconds in a thousand of the world's.
    rate: u64,
    /// Leaps: when, in the world's time, and how far.
    leaps: Vec<(u64, u64)>,
}

impl Clock {
    /// Runs from `base` at this rate per thousand.
    pub fn new(base: Instant, rate: u64) -> Self {
        Clock {
            base,
            rate,
            leaps: Vec::new(),
        }
    }

    /// What it shows at a moment of the world.
    pub fn at(&self, now_us: u64) -> Instant {
        let leaps: u64 = self.leaps.iter().map(|(_, us)| us).sum();
        self.base + Duration::from_micros(now_us * self.rate / 1000 + leaps)
    }

    /// How long the world waits until it shows `at`.
    pub fn until(&self, at: Instant, now_us: u64) -> u64 {
        let us = at.saturating_duration_since(self.at(now_us)).as_micros();
        self.world(u64::try_from(us).unwrap_or(u64::MAX / 2000)) + 1
    }

    /// So much of its time in the world's.
    pub fn world(&self, us: u64) -> u64 {
        us.saturating_mul(1000) / self.rate
    }

    /// Leaps ahead.
    pub fn leap(&mut self, now_us: u64, us: u64) {
        self.leaps.push((now_us, us));
    }

    /// How far it has leapt since a moment of the world.
    pub fn leapt_since(&self, moment_us: u64) -> u64 {
        self.leaps
            .iter()
            .filter(|(at, _)| *at >= moment_us)
            .map(|(_, us)| us)
            .sum()
    }
}
