//! The leader's book of members: the configuration, each member's progress, and the votes of an election.

mod config;
mod inflights;
mod progress;

use std::collections::BTreeMap;
use std::ops::Bound;

use ferrite_proto::raftpb::ConfState;

use crate::quorum::VoteResult;

pub use config::Config;
pub use inflights::Inflights;
pub use progress::{Progress, ProgressState};

/// Progress by member, in order of their IDs.
pub type ProgressMap = BTreeMap<u64, Progress>;

/// The configuration in force with what is known of each of its members.
#[derive(Clone, Debug)]
pub(crate) struct ProgressTracker {
    pub(crate) config: Config,
    pub(crate) progress: ProgressMap,
    pub(crate) votes: BTreeMap<u64, bool>,
    pub(crate) max_inflight: usize,
    pub(crate) max_inflight_bytes: u64,
}

impl ProgressTracker {
    pub(crate) fn new(max_inflight: usize, max_inflight_bytes: u64) -> Self {
        Self {
            config: Config::default(),
            progress: ProgressMap::new(),
            votes: BTreeMap::new(),
            max_inflight,
            max_inflight_bytes,
        }
    }

    /// The configuration as it is stored and sent.
    pub(crate) fn conf_state(&self) -> ConfState {
        self.config.conf_state()
    }

    /// Whether one member alone decides.
    pub(crate) fn is_singleton(&self) -> bool {
        self.config.voters.incoming.0.len() == 1 && !self.config.voters.is_joint()
    }

    /// The highest index that the voters' acknowledgements commit.
    pub(crate) fn committed(&self) -> u64 {
        let matched = |id| self.progress.get(&id).map(|pr| pr.matched);
        self.config.voters.committed_index(matched)
    }

    /// The member that follows `id` in order, to walk the members while changing them.
    pub(crate) fn next_member(&self, id: u64) -> Option<u64> {
        let after = (Bound::Excluded(id), Bound::Unbounded);
        self.progress.range(after).next().map(|(&id, _)| id)
    }

    /// Whether a quorum has been heard from since the last time this was asked.
    pub(crate) fn quorum_active(&self) -> bool {
        let voters = self.progress.iter().filter(|(_, pr)| !pr.is_learner);
        let active = voters.map(|(&id, pr)| (id, pr.recent_active)).collect();
        self.config.voters.vote_result(&active) == VoteResult::Won
    }

    pub(crate) fn reset_votes(&mut self) {
        self.votes.clear();
    }

    /// Notes a vote; a member's first word counts.
    pub(crate) fn record_vote(&mut self, id: u64, granted: bool) {
        self.votes.entry(id).or_insert(granted);
    }

    /// How the election stands.
    pub(crate) fn vote_result(&self) -> VoteResult {
        self.config.voters.vote_result(&self.votes)
    }
}
