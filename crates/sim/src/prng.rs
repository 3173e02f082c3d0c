//! The one source of chance of a simulation: splitmix64, short and seeded.

/// See the module.
#[derive(Debug, Clone)]
pub struct Prng(u64);

impl Prng {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Self {
        Prng(seed ^ 0x5851_f42d_4c95_7f2d)
    }

    /// Any number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `from..to`; `from` when that is empty.
    pub fn range(&mut self, from: u64, to: u64) -> u64 {
        from + self.draw() % to.saturating_sub(from).max(1)
    }

    /// A number below `n`, as an index.
    pub fn below(&mut self, n: usize) -> usize {
        (self.draw() % (n as u64).max(1)) as usize
    }

    /// True in this many of a thousand cases.
    pub fn per_mille(&mut self, chance: u64) -> bool {
        self.draw() % 1000 < chance
    }
}
