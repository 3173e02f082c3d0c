//! Request ids: unique in the cluster without asking anybody.
//!
//! High 16 bits: low 16 bits of the member id. Then 40 bits of unix milliseconds at start and 8 bits
//! of counter; the next id adds one to the low 48 bits. (etcd's own layout.)

use std::sync::atomic::{AtomicU64, Ordering};

const LOW_48: u64 = (1 << 48) - 1;

/// A source of ids.
#[derive(Debug)]
pub struct IdGenerator {
    prefix: u64,
    low: AtomicU64,
}

impl IdGenerator {
    /// Starts from the member and the wall clock, in milliseconds since 1970.
    pub fn new(member_id: u64, unix_ms: u64) -> Self {
        IdGenerator {
            prefix: (member_id & 0xffff) << 48,
            low: AtomicU64::new((unix_ms & ((1 << 40) - 1)) << 8),
        }
    }

    /// The next id; never 0.
    pub fn next(&self) -> u64 {
        loop {
            let low = self.low.fetch_add(1, Ordering::Relaxed).wrapping_add(1) & LOW_48;
            let id = self.prefix | low;
            if id != 0 {
                return id;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_carry_member_and_time_and_never_repeat() {
        let ids = IdGenerator::new(0x9772_fa93_5aee_2fcb, 0x12_3456_789a);
        let first = ids.next();
        assert_eq!(first >> 48, 0x2fcb);
        assert_eq!((first & LOW_48) >> 8, 0x12_3456_789a);
        assert_eq!(ids.next(), first + 1);
    }
}
