//! Replication, the leader's side: sending appends and taking their answers.

use ferrite_proto::raftpb::{Message, MessageType};

use super::Raft;
use crate::error::Error;
use crate::log::EntryId;
use crate::message::{self, NONE, new_message};
use crate::sizes;
use crate::storage::Storage;
use crate::tracker::ProgressState;

impl<S: Storage> Raft<S> {
    pub(super) fn bcast_append(&mut self) {
        self.for_each_peer(|raft, id| raft.send_append(id));
    }

    /// Calls `f` for every other member, in order.
    pub(super) fn for_each_peer(&mut self, mut f: impl FnMut(&mut Self, u64)) {
        let mut id = NONE;
        while let Some(next) = self.trk.next_member(id) {
            if next != self.id {
                f(self, next);
            }
            id = next;
        }
    }

    /// Sends what the member may get now, or an empty append that tells the commit index.
    pub(super) fn send_append(&mut self, to: u64) {
        self.maybe_send_append(to, true);
    }

    /// Sends one append, or a snapshot if the log no longer reaches back far enough; whether anything
    /// was sent.
    pub(super) fn maybe_send_append(&mut self, to: u64, send_if_empty: bool) -> bool {
        let Some(pr) = self.trk.progress.get_mut(&to) else {
            return false;
        };
        if pr.is_paused() {
            return false;
        }
        let index = pr.next - 1;
        let Ok(log_term) = self.log.term(index) else {
            return self.maybe_send_snapshot(to);
        };
        let may_send_entries = pr.state != ProgressState::Replicate || !pr.inflights.is_full();
        let entries = if may_send_entries {
            self.log.entries(pr.next, self.cfg.max_size_per_msg)
        } else {
            Ok(Vec::new())
        };
        if !send_if_empty && entries.as_ref().map_or(true, Vec::is_empty) {
            return false;
        }
        let Ok(entries) = entries else {
            return self.maybe_send_snapshot(to);
        };
        let commit = self.log.committed;
        pr.sent_entries(entries.len(), sizes::payload_size(&entries));
        pr.sent_commit(commit);
        let mut m = new_message(MessageType::MsgApp, to);
        (m.index, m.log_term, m.commit, m.entries) = (index, log_term, commit, entries);
        self.send(m);
        true
    }

    /// Commits what a quorum holds by now; whether the commit index moved.
    pub(super) fn maybe_commit(&mut self) -> bool {
        let at = EntryId {
            term: self.term,
            index: self.trk.committed(),
        };
        self.log.maybe_commit(at)
    }

    pub(super) fn handle_append_response(&mut self, m: &Message) -> Result<(), Error> {
        let (from, last_index) = (m.from, self.log.last_index());
        if !m.reject && m.index > last_index {
            return Err(message::invalid(
                m,
                "it acknowledges an entry that was never sent",
            ));
        }
        let Some(pr) = self.trk.progress.get_mut(&from) else {
            return Ok(());
        };
        pr.recent_active = true;
        if m.reject {
            self.handle_append_rejection(m);
            return Ok(());
        }
        // An answer that repeats the match is news of a member that is being probed.
        let probe_answered = pr.matched == m.index && pr.state == ProgressState::Probe;
        if !pr.maybe_update(m.index) && !probe_answered {
            return Ok(());
        }
        match pr.state {
            ProgressState::Probe => pr.become_replicate(),
            // Whichever snapshot it installed, from wherever: what matters is that the log reaches it.
            ProgressState::Snapshot if pr.matched + 1 >= self.log.first_index() => {
                pr.become_probe();
                pr.become_replicate();
            }
            ProgressState::Snapshot => {}
            ProgressState::Replicate => pr.inflights.free_up_to(m.index),
        }
        let can_bump = pr.can_bump_commit(self.log.committed);
        let matched = pr.matched;
        if self.maybe_commit() {
            self.release_pending_reads();
            self.bcast_append();
        } else if from != self.id && can_bump {
            self.send_append(from); // else it would learn the commit index at the next heartbeat
        }
        if from != self.id {
            // The window may have room for several messages now.
            while self.maybe_send_append(from, false) {}
        }
        if from == self.lead_transferee && matched == self.log.last_index() {
            self.send_timeout_now(from);
        }
        Ok(())
    }

    /// An append did not join up with the follower's log, which says where it might: at `reject_hint`,
    /// where it holds `log_term`.
    ///
    /// Terms never fall along a log. So wherever the leader's term is above the follower's at the hint,
    /// no match is possible, and the next probe goes to the last index where it is not: one probe a term
    /// instead of one an entry. The follower does the same from its side.
    fn handle_append_rejection(&mut self, m: &Message) {
        let hint = if m.log_term > 0 {
            self.log.find_conflict_by_term(m.reject_hint, m.log_term).0
        } else {
            m.reject_hint
        };
        if let Some(pr) = self.trk.progress.get_mut(&m.from)
            && pr.maybe_decrease_to(m.index, hint)
        {
            if pr.state == ProgressState::Replicate {
                pr.become_probe();
            }
            self.send_append(m.from);
        }
    }
}
