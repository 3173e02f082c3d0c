//! Reads waiting for the leader to be confirmed.
//!
//! Waiting reads form a queue, and a position in it counts all reads ever queued in this leadership. A
//! heartbeat carries the position of the queue's end (8 bytes, little-endian) and comes back with each
//! answer: what a quorum has sent back confirms every read up to it, however many they are.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use ferrite_proto::raftpb::Message;

use crate::config::ReadOnlyOption;
use crate::quorum::JointConfig;

/// A read request and the commit index at its arrival.
#[derive(Debug)]
pub(crate) struct WaitingRead {
    pub(crate) request: Message,
    pub(crate) index: u64,
}

#[derive(Debug)]
pub(crate) struct ReadOnly {
    pub(crate) option: ReadOnlyOption,
    acks: BTreeMap<u64, u64>,
    waiting: VecDeque<WaitingRead>,
    /// Reads confirmed so far, which is the position just before the queue's head.
    confirmed: u64,
}

impl ReadOnly {
    pub(crate) fn new(option: ReadOnlyOption) -> Self {
        Self {
            option,
            acks: BTreeMap::new(),
            waiting: VecDeque::new(),
            confirmed: 0,
        }
    }

    /// Starts over: positions of one leadership mean nothing in another.
    pub(crate) fn reset(&mut self) {
        self.acks.clear();
        self.waiting.clear();
        self.confirmed = 0;
    }

    fn end(&self) -> u64 {
        self.confirmed + self.waiting.len() as u64
    }

    pub(crate) fn add(&mut self, index: u64, request: Message) {
        self.waiting.push_back(WaitingRead { request, index });
    }

    /// Notes an answered heartbeat. A context that no heartbeat of this leadership carried is passed
    /// over.
    pub(crate) fn receive_ack(&mut self, from: u64, context: &[u8]) {
        let Some(position) = context.first_chunk::<8>() else {
            return;
        };
        let position = u64::from_le_bytes(*position);
        if position <= self.end() {
            let acked = self.acks.entry(from).or_default();
            *acked = position.max(*acked);
        }
    }

    /// Takes out the reads that the answers so far confirm.
    pub(crate) fn take_confirmed(&mut self, voters: &JointConfig) -> Vec<WaitingRead> {
        if self.waiting.is_empty() {
            return Vec::new();
        }
        let position = voters.committed_index(|id| self.acks.get(&id).copied());
        let n = position.min(self.end()).saturating_sub(self.confirmed);
        self.confirmed += n;
        self.waiting.drain(..n as usize).collect()
    }

    /// The context that confirms all waiting reads; empty if there are none.
    pub(crate) fn heartbeat_context(&self) -> Bytes {
        if self.waiting.is_empty() {
            return Bytes::new();
        }
        Bytes::copy_from_slice(&self.end().to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quorum::MajorityConfig;

    fn three() -> JointConfig {
        JointConfig {
            incoming: MajorityConfig([1, 2, 3].into()),
            outgoing: MajorityConfig::default(),
        }
    }

    #[test]
    fn one_round_confirms_every_read_before_it() {
        let mut reads = ReadOnly::new(ReadOnlyOption::Safe);
        assert!(reads.heartbeat_context().is_empty());
        reads.add(7, Message::default());
        let first = reads.heartbeat_context();
        reads.add(8, Message::default());
        reads.add(9, Message::default());
        let second = reads.heartbeat_context();
        reads.receive_ack(1, &second);
        assert!(reads.take_confirmed(&three()).is_empty());
        reads.receive_ack(2, &first);
        let index = |reads: Vec<WaitingRead>| reads.iter().map(|r| r.index).collect::<Vec<_>>();
        assert_eq!(index(reads.take_confirmed(&three())), [7]);
        reads.receive_ack(3, &second);
        assert_eq!(index(reads.take_confirmed(&three())), [8, 9]);
        assert!(reads.heartbeat_context().is_empty());
    }

    #[test]
    fn made_up_contexts_confirm_nothing() {
        let mut reads = ReadOnly::new(ReadOnlyOption::Safe);
        reads.add(7, Message::default());
        reads.receive_ack(1, &[1, 0, 0]);
        reads.receive_ack(2, &u64::MAX.to_le_bytes());
        reads.receive_ack(3, b"anything at all");
        assert!(reads.take_confirmed(&three()).is_empty());
        assert!(
            reads.take_confirmed(&JointConfig::default()).len() == 1,
            "nobody to ask"
        );
    }
}
