//! Whether the leader's heartbeats leave on time.
//!
//! Knows only when the last one to each member left; what that means is for whoever watches the figures.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use ferrite_proto::raftpb::{Message, MessageType};

/// Heartbeats may be this many intervals apart.
const INTERVALS: u32 = 2;

/// When heartbeats last left.
#[derive(Debug)]
pub struct Heartbeats {
    interval: Duration,
    sent: BTreeMap<u64, Instant>,
}

impl Heartbeats {
    /// None yet; they are due once an interval.
    pub fn new(interval: Duration) -> Self {
        Heartbeats {
            interval,
            sent: BTreeMap::new(),
        }
    }

    /// Another leader, or none: what was sent before says nothing about what comes.
    pub fn reset(&mut self) {
        self.sent.clear();
    }

    /// These leave now. Returns how many heartbeats among them are late, and says so in the log.
    pub fn leaving(&mut self, messages: &[Message], now: Instant) -> u64 {
        let expected = self.interval * INTERVALS;
        let mut late = 0;
        for message in messages {
            if message.msg_type != MessageType::MsgHeartbeat as i32 {
                continue;
            }
            let before = self.sent.insert(message.to, now);
            let exceeded = before
                .and_then(|before| now.saturating_duration_since(before).checked_sub(expected));
            if let Some(exceeded) = exceeded.filter(|exceeded| !exceeded.is_zero()) {
                late += 1;
                tracing::warn!(
                    to = %format!("{:x}", message.to),
                    "heartbeat-interval" = ?self.interval,
                    "expected-duration" = ?expected,
                    "exceeded-duration" = ?exceeded,
                    "leader failed to send out heartbeat on time; took too long, leader is overloaded likely from slow disk"
                );
            }
        }
        late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_is_late_after_two_intervals_and_for_its_member_alone() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let to = |to| Message {
            to,
            msg_type: MessageType::MsgHeartbeat as i32,
            ..Message::default()
        };
        let append = Message {
            to: 3,
            msg_type: MessageType::MsgApp as i32,
            ..Message::default()
        };
        let mut beats = Heartbeats::new(Duration::from_millis(100));
        assert_eq!(beats.leaving(&[to(2), to(3)], at(0)), 0);
        assert_eq!(beats.leaving(&[to(2), append], at(200)), 0);
        assert_eq!(beats.leaving(&[to(2), to(3)], at(201)), 1);
        beats.reset();
        assert_eq!(beats.leaving(&[to(2), to(3)], at(5_000)), 0);
    }
}
