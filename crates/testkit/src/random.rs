//! Seeded randomness for tests, so that a failure can be looked at again.

use std::time::{SystemTime, UNIX_EPOCH};

/// A small generator (splitmix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Seeded by `FERRITE_SEED`, or by the clock; prints the seed.
    #[must_use]
    pub fn announced(test: &str) -> Self {
        let seed = std::env::var("FERRITE_SEED")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or_else(|| {
                SystemTime::now()
                    .duration_since(UNIX_EPOCH)
                    .map_or(1, |since| since.subsec_nanos().into())
            });
        eprintln!("{test}: FERRITE_SEED={seed}");
        Self(seed)
    }

    /// Seeded by the caller, whose own seed is announced.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.number() % limit
    }
}
