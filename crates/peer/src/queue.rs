//! Messages waiting to be sent: bounded in count and in bytes, urgent ones first.
//!
//! Raft tolerates loss and reordering, so a message that finds no room is dropped by the caller, and heartbeats,
//! votes and answers overtake appends.

use std::collections::VecDeque;

use ferrite_proto::raftpb::{Message, MessageType};
use prost::Message as _;

/// A message and its encoded length, counted once.
pub(crate) struct Queued {
    pub(crate) msg: Box<Message>,
    pub(crate) len: usize,
}

impl Queued {
    pub(crate) fn new(msg: Message) -> Queued {
        let len = msg.encoded_len();
        Queued {
            msg: Box::new(msg),
            len,
        }
    }

    /// Appends and proposals carry data and may be large; everything else is small, and late is as bad as lost.
    fn is_bulk(&self) -> bool {
        self.msg.msg_type == MessageType::MsgApp as i32
            || self.msg.msg_type == MessageType::MsgProp as i32
    }
}

/// Two FIFO lanes with one pair of limits each.
pub(crate) struct Lanes {
    urgent: VecDeque<Queued>,
    bulk: VecDeque<Queued>,
    urgent_bytes: usize,
    bulk_bytes: usize,
    max_count: usize,
    max_bytes: usize,
}

impl Lanes {
    pub(crate) fn new(max_count: usize, max_bytes: usize) -> Lanes {
        Lanes {
            urgent: VecDeque::new(),
            bulk: VecDeque::new(),
            urgent_bytes: 0,
            bulk_bytes: 0,
            max_count,
            max_bytes,
        }
    }

    /// Takes the message, or gives it back when its lane is full. One message is always taken by an empty lane, however large.
    pub(crate) fn push(&mut self, item: Queued) -> Result<(), Queued> {
        let (lane, bytes) = if item.is_bulk() {
            (&mut self.bulk, &mut self.bulk_bytes)
        } else {
            (&mut self.urgent, &mut self.urgent_bytes)
        };
        let fits = lane.len() < self.max_count && *bytes + item.len <= self.max_bytes;
        if !fits && !lane.is_empty() {
            return Err(item);
        }
        *bytes += item.len;
        lane.push_back(item);
        Ok(())
    }

    pub(crate) fn pop(&mut self, with_bulk: bool) -> Option<Queued> {
        if let Some(item) = self.urgent.pop_front() {
            self.urgent_bytes -= item.len;
            return Some(item);
        }
        if !with_bulk {
            return None;
        }
        let item = self.bulk.pop_front()?;
        self.bulk_bytes -= item.len;
        Some(item)
    }

    /// Moves messages into `out` until about `budget` bytes are there.
    pub(crate) fn drain_into(&mut self, out: &mut Vec<Queued>, budget: usize) {
        let mut bytes = 0;
        while bytes < budget {
            match self.pop(true) {
                Some(item) => {
                    bytes += item.len + 16;
                    out.push(item);
                }
                None => break,
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.urgent.len() + self.bulk.len()
    }

    /// Empties both lanes and gives back their memory.
    pub(crate) fn clear(&mut self) {
        self.urgent = VecDeque::new();
        self.bulk = VecDeque::new();
        self.urgent_bytes = 0;
        self.bulk_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(msg_type: MessageType, data: usize) -> Queued {
        Queued::new(Message {
            msg_type: msg_type as i32,
            context: vec![7; data].into(),
            ..Default::default()
        })
    }

    #[test]
    fn limits_hold_in_count_and_bytes_and_heartbeats_overtake() {
        let mut lanes = Lanes::new(3, 1000);
        assert!(
            lanes.push(message(MessageType::MsgApp, 5000)).is_ok(),
            "alone it always fits"
        );
        assert!(
            lanes.push(message(MessageType::MsgApp, 1)).is_err(),
            "bytes are used up"
        );
        for _ in 0..3 {
            assert!(lanes.push(message(MessageType::MsgHeartbeat, 0)).is_ok());
        }
        assert!(
            lanes.push(message(MessageType::MsgHeartbeat, 0)).is_err(),
            "count is used up"
        );
        let mut out = Vec::new();
        lanes.drain_into(&mut out, usize::MAX);
        let types: Vec<i32> = out.iter().map(|q| q.msg.msg_type).collect();
        assert_eq!(types, [8, 8, 8, 3]);
        assert_eq!(
            (lanes.len(), lanes.urgent_bytes, lanes.bulk_bytes),
            (0, 0, 0)
        );
    }
}
