//! A small seeded generator (splitmix64) for election timeouts. Not for secrets.

#[derive(Clone, Debug)]
pub(crate) struct Prng(u64);

impl Prng {
    /// Both inputs are mixed before they meet: members whose streams were shifted copies of one another
    /// would keep standing for election at the same tick.
    pub(crate) fn new(seed: u64, id: u64) -> Self {
        Self(mix(mix(seed).wrapping_add(id)))
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number in `[0, bound)`; the bias is far below what a timeout could show.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_of_one_seed_draw_apart() {
        for seed in 0..50 {
            let draws = |id| {
                let mut rng = Prng::new(seed, id);
                (0..200).map(|_| rng.next()).collect::<Vec<_>>()
            };
            let (one, two) = (draws(1), draws(2));
            assert!(one.iter().all(|n| !two.contains(n)), "seed {seed}");
            let mut rng = Prng::new(seed, 3);
            assert!((0..200).all(|_| rng.below(10) < 10));
        }
    }
}
