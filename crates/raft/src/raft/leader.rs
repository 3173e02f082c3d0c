//! What a leader does with time and with the messages meant for it.

use ferrite_mutate::mutation;
use ferrite_proto::raftpb::{Message, MessageType};

use super::Raft;
use crate::error::Error;
use crate::message::{NONE, new_message};
use crate::ready::StateRole;
use crate::storage::Storage;
use crate::tracker::ProgressState;

impl<S: Storage> Raft<S> {
    pub(super) fn tick_leader(&mut self) {
        self.heartbeat_elapsed += 1;
        self.election_elapsed += 1;
        if self.election_elapsed >= self.cfg.election_tick {
            self.election_elapsed = 0;
            if self.cfg.check_quorum {
                self.check_quorum();
            }
            // A transfer that took longer than an election is given up.
            if self.state == StateRole::Leader {
                self.lead_transferee = NONE;
            }
        }
        if self.state == StateRole::Leader && self.heartbeat_elapsed >= self.cfg.heartbeat_tick {
            self.heartbeat_elapsed = 0;
            self.bcast_heartbeat();
        }
    }

    /// Steps down if no quorum was heard from since the last check.
    fn check_quorum(&mut self) {
        if !self.trk.quorum_active() {
            self.become_follower(self.term, NONE);
        }
        for (&id, pr) in &mut self.trk.progress {
            if id != self.id {
                pr.recent_active = false;
            }
        }
    }

    pub(super) fn bcast_heartbeat(&mut self) {
        let context = self.read_only.heartbeat_context();
        let committed = self.log.committed;
        let mut msgs = std::mem::take(&mut self.msgs);
        for (&id, pr) in &mut self.trk.progress {
            if id == self.id {
                continue;
            }
            let mut m = new_message(MessageType::MsgHeartbeat, id);
            // Never more than it is known to hold.
            m.commit = pr.matched.min(committed);
            if mutation!("heartbeat-commits-all") {
                m.commit = committed;
            }
            m.context = context.clone();
            (m.from, m.term) = (self.id, self.term);
            pr.sent_commit(m.commit);
            msgs.push(m);
        }
        self.msgs = msgs;
    }

    pub(super) fn step_leader(&mut self, kind: MessageType, m: Message) -> Result<(), Error> {
        use MessageType::*;
        match kind {
            MsgBeat => self.bcast_heartbeat(),
            MsgCheckQuorum => self.check_quorum(),
            MsgProp => return self.propose(m.entries),
            MsgReadIndex => self.handle_read_index(m),
            MsgAppResp => return self.handle_append_response(&m),
            MsgHeartbeatResp => self.handle_heartbeat_response(&m),
            MsgSnapStatus => self.handle_snapshot_status(&m),
            MsgUnreachable => {
                // What was sent ahead is probably lost.
                if let Some(pr) = self.trk.progress.get_mut(&m.from)
                    && pr.state == ProgressState::Replicate
                {
                    pr.become_probe();
                }
            }
            MsgTransferLeader => self.handle_transfer_leader(m.from),
            _ => {}
        }
        Ok(())
    }

    fn handle_heartbeat_response(&mut self, m: &Message) {
        let Some(pr) = self.trk.progress.get_mut(&m.from) else {
            return;
        };
        pr.recent_active = true;
        pr.append_paused = false;
        // Behind, or probed: try again, with an empty append if the window is full, since everything in
        // it may have been lost.
        if pr.matched < self.log.last_index() || pr.state == ProgressState::Probe {
            self.send_append(m.from);
        }
        self.handle_read_ack(m);
    }

    fn handle_transfer_leader(&mut self, to: u64) {
        let Some(pr) = self.trk.progress.get(&to) else {
            return;
        };
        if pr.is_learner || self.lead_transferee == to {
            return;
        }
        // A new wish replaces the one under way.
        self.lead_transferee = NONE;
        if to == self.id {
            return;
        }
        self.election_elapsed = 0; // it has one election timeout
        self.lead_transferee = to;
        if pr.matched == self.log.last_index() {
            self.send_timeout_now(to);
        } else {
            self.send_append(to);
        }
    }

    pub(super) fn send_timeout_now(&mut self, to: u64) {
        self.send(new_message(MessageType::MsgTimeoutNow, to));
    }
}
