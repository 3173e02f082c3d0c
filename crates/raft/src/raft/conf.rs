//! Putting a new configuration into force.

use ferrite_proto::raftpb::{ConfChangeV2, ConfState};

use super::Raft;
use crate::confchange::Changer;
use crate::confchange::codec::{self, Plan};
use crate::error::Error;
use crate::message::NONE;
use crate::ready::StateRole;
use crate::storage::Storage;
use crate::tracker::{Config, ProgressMap};

impl<S: Storage> Raft<S> {
    /// Applies a committed change. A refused one changes nothing, on every member alike.
    pub(crate) fn apply_conf_change(&mut self, change: &ConfChangeV2) -> Result<ConfState, Error> {
        // A snapshot's configuration is in force from its arrival, and nothing is handed out for applying
        // until it is installed. So this change was handed out before, and the snapshot includes it.
        if self.log.has_snapshot() {
            return Ok(self.trk.conf_state());
        }
        let changer = Changer {
            tracker: &self.trk,
            last_index: self.log.last_index(),
        };
        let (config, progress) = match codec::plan(change)? {
            Plan::LeaveJoint => changer.leave_joint()?,
            Plan::EnterJoint { auto_leave } => changer.enter_joint(auto_leave, &change.changes)?,
            Plan::Simple => changer.simple(&change.changes)?,
        };
        self.switch_to_config(config, progress);
        Ok(self.trk.conf_state())
    }

    pub(super) fn switch_to_config(&mut self, config: Config, progress: ProgressMap) {
        self.trk.config = config;
        self.trk.progress = progress;
        if self.state != StateRole::Leader {
            return;
        }
        let own = self.trk.progress.get(&self.id);
        if own.is_none_or(|pr| pr.is_learner) {
            // Removed or demoted. It leads on until the change is known to the others, unless told to
            // step down at once.
            if self.cfg.step_down_on_removal {
                self.become_follower(self.term, NONE);
            }
            return;
        }
        if self.maybe_commit() {
            // Fewer voters may need fewer acknowledgements.
            self.release_pending_reads();
            self.bcast_append();
        } else {
            // New members need not wait for the next heartbeat.
            self.for_each_peer(|raft, id| {
                raft.maybe_send_append(id, false);
            });
        }
        // Likewise for reads: the answers there are may be enough now.
        self.answer_confirmed_reads();
        if !self.trk.config.voters.contains(self.lead_transferee) {
            self.lead_transferee = NONE;
        }
    }
}
