//! Linearizable reads: finding an index that a read must wait for, and making sure of the leadership.

use ferrite_mutate::mutation;
use ferrite_proto::raftpb::{Message, MessageType};

use super::Raft;
use crate::config::ReadOnlyOption;
use crate::message::{NONE, new_message};
use crate::ready::ReadState;
use crate::storage::Storage;

impl<S: Storage> Raft<S> {
    pub(super) fn handle_read_index(&mut self, m: Message) {
        // Until an entry of its own term is committed, a leader's commit index may be behind what its
        // predecessor acknowledged. That holds for a cluster of one too, after a restart.
        if self.committed_in_current_term() || mutation!("read-before-term-commit") {
            self.start_read(m);
        } else {
            self.pending_reads.push(m);
        }
    }

    fn committed_in_current_term(&self) -> bool {
        let term = self.log.term(self.log.committed);
        term.is_ok_and(|term| term == self.term)
    }

    fn start_read(&mut self, m: Message) {
        let committed = self.log.committed;
        // (A leader that removed itself may find one voter in its configuration, and that is not itself.)
        let alone = self.trk.is_singleton() && self.trk.config.voters.contains(self.id);
        if alone || self.read_only.option == ReadOnlyOption::LeaseBased {
            self.answer_read(m, committed);
            return;
        }
        self.read_only.add(committed, m);
        let context = self.read_only.heartbeat_context();
        self.read_only.receive_ack(self.id, &context);
        self.bcast_heartbeat();
    }

    /// Starts the reads that waited for the first commit of the term.
    pub(super) fn release_pending_reads(&mut self) {
        if self.pending_reads.is_empty() || !self.committed_in_current_term() {
            return;
        }
        for m in std::mem::take(&mut self.pending_reads) {
            self.start_read(m);
        }
    }

    /// Takes the context of an answered heartbeat.
    pub(super) fn handle_read_ack(&mut self, m: &Message) {
        if self.read_only.option == ReadOnlyOption::Safe && !m.context.is_empty() {
            self.read_only.receive_ack(m.from, &m.context);
            self.answer_confirmed_reads();
        }
    }

    pub(super) fn answer_confirmed_reads(&mut self) {
        let confirmed = self.read_only.take_confirmed(&self.trk.config.voters);
        for read in confirmed {
            self.answer_read(read.request, read.index);
        }
    }

    fn answer_read(&mut self, mut request: Message, index: u64) {
        if request.from == NONE || request.from == self.id {
            if let Some(entry) = request.entries.pop() {
                self.read_states.push(ReadState {
                    index,
                    request_ctx: entry.data,
                });
            }
            return;
        }
        let mut m = new_message(MessageType::MsgReadIndexResp, request.from);
        m.index = index;
        m.entries = request.entries;
        self.send(m);
    }
}
