//! Proposals on the leader: what is let into the log.

use ferrite_proto::raftpb::{ConfChangeV2, Entry, MessageType};

use super::Raft;
use crate::confchange::codec::{self, Plan, decode_conf_change};
use crate::error::Error;
use crate::message::{NONE, new_message};
use crate::sizes;
use crate::storage::Storage;

impl<S: Storage> Raft<S> {
    pub(super) fn propose(&mut self, mut entries: Vec<Entry>) -> Result<(), Error> {
        // A leader that was removed takes no more, nor one that is handing over.
        if !self.trk.progress.contains_key(&self.id) || self.lead_transferee != NONE {
            return Err(Error::ProposalDropped);
        }
        for e in &entries {
            if codec::is_conf_change(e) {
                codec::check(&decode_conf_change(e)?)?;
            }
        }
        let pending_before = self.pending_conf_index;
        for (i, e) in entries.iter_mut().enumerate() {
            if !codec::is_conf_change(e) {
                continue;
            }
            if self.cfg.disable_conf_change_validation || self.may_change(&decode_conf_change(e)?) {
                self.pending_conf_index = self.log.last_index() + i as u64 + 1;
            } else {
                // Its place in the log is kept, so that the proposer's other entries stay where they are.
                *e = Entry::default();
            }
        }
        if !self.append_entries(entries) {
            self.pending_conf_index = pending_before;
            return Err(Error::ProposalDropped);
        }
        self.bcast_append();
        Ok(())
    }

    /// Whether the change fits the configuration: none other may be pending, and a joint configuration
    /// can only be left.
    fn may_change(&self, change: &ConfChangeV2) -> bool {
        let pending = self.pending_conf_index > self.log.applied;
        let leaves = change.changes.is_empty();
        debug_assert!(codec::plan(change) != Ok(Plan::LeaveJoint) || leaves);
        !pending && self.trk.config.voters.is_joint() == leaves
    }

    /// Appends entries of this term to the leader's own log; false if its uncommitted tail is full.
    pub(super) fn append_entries(&mut self, mut entries: Vec<Entry>) -> bool {
        let size = sizes::payload_size(&entries);
        // A single proposal may be of any size, and an empty one is never refused.
        let tail = self.uncommitted_size;
        let limit = self.cfg.max_uncommitted_entries_size;
        if tail > 0 && size > 0 && tail.saturating_add(size) > limit {
            return false;
        }
        self.uncommitted_size = tail.saturating_add(size);
        let mut index = self.log.last_index();
        for e in &mut entries {
            index += 1;
            (e.term, e.index) = (self.term, index);
        }
        let last = self.log.append(entries);
        // The leader acknowledges its own entries like a follower, when they are durable.
        let mut ack = new_message(MessageType::MsgAppResp, self.id);
        ack.index = last;
        self.send(ack);
        true
    }
}
