//! The follower's side: taking entries and heartbeats, passing requests on to the leader.

use ferrite_proto::raftpb::{Message, MessageType};

use super::{Campaign, Raft};
use crate::config::ReadOnlyOption;
use crate::error::Error;
use crate::log::EntryId;
use crate::message::{self, NONE, new_message};
use crate::ready::ReadState;
use crate::storage::Storage;

impl<S: Storage> Raft<S> {
    pub(super) fn step_follower(&mut self, kind: MessageType, mut m: Message) -> Result<(), Error> {
        use MessageType::*;
        match kind {
            MsgApp | MsgHeartbeat | MsgSnap => {
                self.election_elapsed = 0;
                self.lead = m.from;
                match kind {
                    MsgApp => self.handle_append_entries(m)?,
                    MsgHeartbeat => self.handle_heartbeat(m)?,
                    _ => self.handle_snapshot(m)?,
                }
            }
            MsgProp if self.lead == NONE || self.cfg.disable_proposal_forwarding => {
                return Err(Error::ProposalDropped);
            }
            MsgProp | MsgTransferLeader | MsgReadIndex if self.lead != NONE => {
                m.to = self.lead;
                self.send(m);
            }
            // With lease-based reads the leader relies on not being forgotten.
            MsgForgetLeader if self.cfg.read_only != ReadOnlyOption::LeaseBased => self.lead = NONE,
            // No pre-vote: this is no recovery from a partition, and the leader waits.
            MsgTimeoutNow => self.hup(Campaign::Transfer),
            MsgReadIndexResp => match m.entries.as_mut_slice() {
                [entry] => self.read_states.push(ReadState {
                    index: m.index,
                    request_ctx: std::mem::take(&mut entry.data),
                }),
                _ => return Err(message::invalid(&m, "it must hold exactly one entry")),
            },
            _ => {}
        }
        Ok(())
    }

    fn handle_append_entries(&mut self, mut m: Message) -> Result<(), Error> {
        let mut answer = new_message(MessageType::MsgAppResp, m.from);
        if m.index < self.log.committed {
            answer.index = self.log.committed; // an old message: what is committed matches anyway
            self.send(answer);
            return Ok(());
        }
        let prev = EntryId {
            term: m.log_term,
            index: m.index,
        };
        let entries = std::mem::take(&mut m.entries);
        if let Some(last) = self.log.maybe_append(prev, entries, m.commit)? {
            answer.index = last;
        } else {
            // The last place where the logs might match: see the leader's handling of rejections.
            let hint = m.index.min(self.log.last_index());
            let (hint, term) = self.log.find_conflict_by_term(hint, m.log_term);
            answer.reject = true;
            answer.index = m.index;
            (answer.reject_hint, answer.log_term) = (hint, term);
        }
        self.send(answer);
        Ok(())
    }

    fn handle_heartbeat(&mut self, m: Message) -> Result<(), Error> {
        self.log.commit_to(m.commit)?;
        let mut answer = new_message(MessageType::MsgHeartbeatResp, m.from);
        answer.context = m.context; // the leader's own, byte for byte
        self.send(answer);
        Ok(())
    }
}
