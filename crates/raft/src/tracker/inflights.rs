//! The window of append messages sent to one follower and not yet acknowledged.

use std::collections::VecDeque;

/// A window limited by messages and by payload bytes. The byte limit is soft: the message that crosses
/// it is still let through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inflights {
    /// Last index and payload bytes of each message, oldest first. Grows as used: with many members
    /// there may be far fewer messages than the limit allows.
    window: VecDeque<(u64, u64)>,
    bytes: u64,
    max_count: usize,
    max_bytes: u64,
}

impl Inflights {
    /// An empty window. A `max_bytes` of 0 means no byte limit.
    #[must_use]
    pub fn new(max_count: usize, max_bytes: u64) -> Self {
        Self {
            window: VecDeque::new(),
            bytes: 0,
            max_count,
            max_bytes,
        }
    }

    /// Notes a message whose last entry has this index. Ask [`Self::is_full`] first; indexes rise.
    pub(crate) fn add(&mut self, last_index: u64, bytes: u64) {
        assert!(
            !self.is_full(),
            "append message {last_index} sent past a full window of {}",
            self.window.len()
        );
        self.window.push_back((last_index, bytes));
        self.bytes = self.bytes.saturating_add(bytes);
    }

    /// Frees all messages up to the acknowledged index.
    pub(crate) fn free_up_to(&mut self, index: u64) {
        while let Some(&(last, bytes)) = self.window.front() {
            if last > index {
                break;
            }
            self.bytes -= bytes;
            self.window.pop_front();
        }
    }

    /// Whether another message has to wait.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.window.len() >= self.max_count || (self.max_bytes != 0 && self.bytes >= self.max_bytes)
    }

    /// How many messages are in flight.
    #[must_use]
    pub fn count(&self) -> usize {
        self.window.len()
    }

    pub(crate) fn reset(&mut self) {
        self.window.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_limit_fills_and_frees_in_order() {
        let mut window = Inflights::new(3, 0);
        for i in 1..=3 {
            assert!(!window.is_full());
            window.add(i * 10, 100);
        }
        assert!(window.is_full());
        window.free_up_to(9);
        assert_eq!(window.count(), 3);
        window.free_up_to(20);
        assert_eq!((window.count(), window.is_full()), (1, false));
        window.add(40, 1);
        window.add(50, 1);
        window.free_up_to(1000);
        assert_eq!((window.count(), window.bytes), (0, 0));
    }

    #[test]
    fn the_byte_limit_lets_the_crossing_message_through() {
        let mut window = Inflights::new(10, 1000);
        window.add(1, 900);
        assert!(!window.is_full());
        window.add(2, 900);
        assert!(window.is_full());
        window.free_up_to(1);
        assert!(!window.is_full());
    }

    #[test]
    #[should_panic(expected = "past a full window")]
    fn adding_to_a_full_window_is_a_bug() {
        let mut window = Inflights::new(1, 0);
        window.add(1, 1);
        window.add(2, 1);
    }
}
