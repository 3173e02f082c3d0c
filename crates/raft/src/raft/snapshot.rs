//! Snapshots: sending one to a follower that is too far behind, and taking one in.

use ferrite_proto::raftpb::{Message, MessageType, Snapshot};

use super::Raft;
use crate::confchange::{equivalent, restore};
use crate::error::Error;
use crate::log::EntryId;
use crate::mem_storage::index_and_term;
use crate::message::{self, new_message};
use crate::ready::StateRole;
use crate::storage::Storage;
use crate::tracker::{ProgressState, ProgressTracker};

impl<S: Storage> Raft<S> {
    /// Sends a snapshot if the member is there to take it and one is to be had; whether it was sent.
    pub(super) fn maybe_send_snapshot(&mut self, to: u64) -> bool {
        let Some(pr) = self.trk.progress.get_mut(&to) else {
            return false;
        };
        if !pr.recent_active {
            return false;
        }
        let Ok(snapshot) = self.log.snapshot() else {
            return false; // not ready yet: the next heartbeat's answer asks again
        };
        let index = index_and_term(&snapshot).0;
        if index == 0 {
            return false;
        }
        pr.become_snapshot(index);
        let mut m = new_message(MessageType::MsgSnap, to);
        m.snapshot = Some(snapshot);
        self.send(m);
        true
    }

    /// The caller's report of how sending ended.
    pub(super) fn handle_snapshot_status(&mut self, m: &Message) {
        let Some(pr) = self.trk.progress.get_mut(&m.from) else {
            return;
        };
        if pr.state != ProgressState::Snapshot {
            return;
        }
        if m.reject {
            pr.pending_snapshot = 0; // so that probing does not start behind it
        }
        pr.become_probe();
        // Sent: the member's own answer tells when to go on. Failed: not before the next heartbeat.
        pr.append_paused = true;
    }

    pub(super) fn handle_snapshot(&mut self, mut m: Message) -> Result<(), Error> {
        let snapshot = m.snapshot.take().unwrap_or_default();
        let mut answer = new_message(MessageType::MsgAppResp, m.from);
        answer.index = if self.restore(snapshot, &m)? {
            self.log.last_index()
        } else {
            self.log.committed
        };
        self.send(answer);
        Ok(())
    }

    /// Replaces log and configuration by the snapshot's; false if there is no need to, or it is not for
    /// this member.
    fn restore(&mut self, snapshot: Snapshot, m: &Message) -> Result<bool, Error> {
        let (index, term) = index_and_term(&snapshot);
        if index <= self.log.committed || self.state != StateRole::Follower {
            return Ok(false);
        }
        let meta = snapshot.metadata.as_ref();
        let cs = meta.and_then(|m| m.conf_state.clone()).unwrap_or_default();
        // (Those in `learners_next` are outgoing voters.)
        let mut members = cs
            .voters
            .iter()
            .chain(&cs.learners)
            .chain(&cs.voters_outgoing);
        if !members.any(|&id| id == self.id) {
            return Ok(false);
        }
        if self.log.matches(EntryId { term, index }) {
            // The log holds all of it already, and a leader vouches that it is committed.
            self.log.commit_to(index)?;
            return Ok(false);
        }
        let mut trk = ProgressTracker::new(self.cfg.max_inflight_msgs, self.cfg.max_inflight_bytes);
        let restored = restore(trk.clone(), index, &cs);
        let Ok((config, progress)) = restored else {
            return Err(message::invalid(
                m,
                "its snapshot's conf state is impossible",
            ));
        };
        (trk.config, trk.progress) = (config.clone(), progress.clone());
        if !equivalent(&cs, &trk.conf_state()) {
            return Err(message::invalid(
                m,
                "its snapshot's conf state contradicts itself",
            ));
        }
        self.log.restore(snapshot, index);
        self.trk = trk;
        self.switch_to_config(config, progress);
        Ok(true)
    }

    /// Takes the report that a snapshot is installed and durable.
    pub(super) fn snapshot_installed(&mut self, m: &Message) -> Result<(), Error> {
        if let Some(snapshot) = &m.snapshot {
            let index = index_and_term(snapshot).0;
            self.log.unstable.stable_snapshot_to(index);
            self.applied_to(index, 0)?;
        }
        Ok(())
    }
}
