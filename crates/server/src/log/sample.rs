//! Which of many equal lines are written: the first hundred of a second, then every hundredth.
//!
//! As zap does it: equal is who has the same level and message; messages share counters by a hash, so
//! that memory is bounded.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters for each level.
const COUNTERS: usize = 4_096;
/// Levels that are counted.
const LEVELS: usize = 5;
/// Length of a period.
const TICK_MS: u64 = 1_000;
/// Lines of a period that are all written.
const FIRST: u64 = 100;
/// Of those after them, one in so many.
const THEREAFTER: u64 = 100;

#[derive(Default)]
struct Counter {
    /// When the period ends, in milliseconds.
    ends: AtomicU64,
    count: AtomicU64,
}

impl Counter {
    fn count(&self, now_ms: u64) -> u64 {
        let ends = self.ends.load(Ordering::Relaxed);
        if now_ms < ends {
            return self.count.fetch_add(1, Ordering::Relaxed) + 1;
        }
        self.count.store(1, Ordering::Relaxed);
        let renewed = self.ends.compare_exchange(
            ends,
            now_ms + TICK_MS,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        match renewed {
            Ok(_) => 1,
            // Another thread began the period in between.
            Err(_) => self.count.fetch_add(1, Ordering::Relaxed) + 1,
        }
    }
}

/// The counters.
pub struct Sampler(Vec<Counter>);

impl Default for Sampler {
    fn default() -> Self {
        Sampler((0..COUNTERS * LEVELS).map(|_| Counter::default()).collect())
    }
}

impl Sampler {
    /// Whether to write a line of this level and message now.
    pub fn admits(&self, level: usize, message: &str, now_ms: u64) -> bool {
        // FNV-1a
        let hash = message.bytes().fold(2_166_136_261_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(16_777_619)
        });
        let slot = level.min(LEVELS - 1) * COUNTERS + hash as usize % COUNTERS;
        let count = match self.0.get(slot) {
            Some(counter) => counter.count(now_ms),
            None => return true,
        };
        count <= FIRST || (count - FIRST).is_multiple_of(THEREAFTER)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_hundred_of_a_second_and_then_every_hundredth() {
        let sampler = Sampler::default();
        let written = |level, message, now, lines: usize| {
            (0..lines)
                .filter(|_| sampler.admits(level, message, now))
                .count()
        };
        assert_eq!(written(1, "a", 10_000, 100), 100);
        assert_eq!(written(1, "a", 10_500, 99), 0);
        assert_eq!(written(1, "a", 10_999, 1), 1);
        assert_eq!(written(1, "a", 10_999, 250), 2);
        // Others have counters of their own, and the next second begins anew.
        assert_eq!(written(2, "a", 10_999, 50), 50);
        assert_eq!(written(1, "b", 10_999, 50), 50);
        assert_eq!(written(1, "a", 11_000, 100), 100);
    }
}
