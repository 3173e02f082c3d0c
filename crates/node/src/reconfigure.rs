//! Membership changes: what must hold before one is proposed, and the proposal itself.
//!
//! The checks are made by the member that is asked, on what it sees; whether the change is legal is
//! decided when it is applied, by everybody alike.

use std::time::{Duration, Instant};

use ferrite_apply::Response;
use ferrite_membership::{Cluster, ConfChangeContext, Member};
use ferrite_mutate::mutation;
use ferrite_proto::etcdserverpb as pb;
use ferrite_proto::raftpb::{ConfChange, ConfChangeType};

use crate::{Error, Node};

/// How long a member must have been connected to count as healthy.
const HEALTHY_AFTER: Duration = Duration::from_secs(5);
/// A learner may be promoted once it has this much of the leader's log.
const READY_PERCENT: u64 = 90;

impl Node {
    /// Adds a member, as a voter or a learner.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn add_member(&self, member: Member) -> Result<Vec<pb::Member>, Error> {
        if self.config().strict_reconfig_check {
            let cluster = self.published().get_cluster();
            if !member.is_learner && !cluster.is_ready_to_add_voter() {
                return Err(Error::NotEnoughStarted);
            }
            let voters = cluster.voters().count();
            if voters > 1 && self.healthy_voters(&cluster) < quorum(voters + 1) {
                return Err(Error::Unhealthy);
            }
        }
        let kind = if member.is_learner {
            ConfChangeType::ConfChangeAddLearnerNode
        } else {
            ConfChangeType::ConfChangeAddNode
        };
        self.configure(kind, member.id, ConfChangeContext::for_member(&member))
            .await
    }

    /// Removes a member for ever.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn remove_member(&self, id: u64) -> Result<Vec<pb::Member>, Error> {
        if self.config().strict_reconfig_check {
            self.may_remove(id)?;
        }
        self.configure(ConfChangeType::ConfChangeRemoveNode, id, String::new())
            .await
    }

    fn may_remove(&self, id: u64) -> Result<(), Error> {
        let cluster = self.published().get_cluster();
        if cluster.member(id).is_some_and(|member| member.is_learner) {
            return Ok(());
        }
        if !cluster.is_ready_to_remove_voter(id) {
            return Err(Error::NotEnoughStarted);
        }
        let down = id != self.member_id() && self.transport().active_since(id).is_none();
        let voters = cluster.voters().count();
        if !down && self.healthy_voters(&cluster) < 2 + voters.saturating_sub(1) / 2 {
            return Err(Error::Unhealthy);
        }
        Ok(())
    }

    /// Changes a member's peer URLs.
    ///
    /// # Errors
    /// [`Error`].
    pub async fn update_member(
        &self,
        id: u64,
        peer_urls: Vec<String>,
    ) -> Result<Vec<pb::Member>, Error> {
        let member = Member {
            id,
            peer_urls,
            ..Member::default()
        };
        self.configure(ConfChangeType::ConfChangeUpdateNode, id, member.to_json())
            .await
    }

    /// Gives a learner its vote. Only the leader knows whether it has caught up.
    ///
    /// # Errors
    /// [`Error::NotLeader`] elsewhere than on the leader; otherwise [`Error`].
    pub async fn promote_member(&self, id: u64) -> Result<Vec<pb::Member>, Error> {
        let outcome = self.promote_here(id).await;
        match &outcome {
            Ok(_) => self.metrics().promote_successes.inc(),
            Err(Error::NotLeader) => {}
            Err(error) => {
                let reason = error.to_string();
                self.metrics().promote_failures.inc(&[&reason]);
            }
        }
        outcome
    }

    async fn promote_here(&self, id: u64) -> Result<Vec<pb::Member>, Error> {
        if !self.status().is_leader() {
            return Err(Error::NotLeader);
        }
        let cluster = self.published().get_cluster();
        let matched = self.status().matched();
        // An unknown member and a voter are told apart when the change is applied.
        if cluster.member(id).is_some_and(|member| member.is_learner)
            && !is_ready(matched.get(&id), matched.get(&self.member_id()))
        {
            return Err(Error::LearnerNotReady);
        }
        if self.config().strict_reconfig_check && !cluster.is_ready_to_promote() {
            return Err(Error::NotEnoughStarted);
        }
        let context = ConfChangeContext::for_promotion(id);
        self.configure(ConfChangeType::ConfChangeAddNode, id, context)
            .await
    }

    async fn configure(
        &self,
        kind: ConfChangeType,
        node_id: u64,
        context: String,
    ) -> Result<Vec<pb::Member>, Error> {
        let change = ConfChange {
            id: 0,
            change_type: kind as i32,
            node_id,
            context: context.into_bytes().into(),
        };
        match self.propose_conf_change(change).await? {
            Response::Members(members) => Ok(members),
            _ => Err(Error::Dropped),
        }
    }

    /// Voters connected for long enough, this member included.
    fn healthy_voters(&self, cluster: &Cluster) -> usize {
        let now = Instant::now();
        cluster
            .voters()
            .filter(|voter| {
                voter.id == self.member_id()
                    || self
                        .transport()
                        .active_since(voter.id)
                        .is_some_and(|since| now.saturating_duration_since(since) >= HEALTHY_AFTER)
            })
            .count()
    }
}

/// Whether a learner has enough of the leader's log. What is not known yet, because the leader or the
/// learner is that new, is not enough.
pub fn is_ready(learner: Option<&u64>, leader: Option<&u64>) -> bool {
    match (learner, leader) {
        (Some(learner), Some(leader)) => {
            learner.saturating_mul(100) >= leader.saturating_mul(READY_PERCENT)
                || mutation!("promote-lagging")
        }
        _ => mutation!("promote-lagging"),
    }
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_learner_of_whom_nothing_is_known_is_not_ready() {
        assert!(is_ready(Some(&9), Some(&10)));
        assert!(!is_ready(Some(&8), Some(&10)));
        assert!(!is_ready(None, Some(&10)));
        assert!(!is_ready(Some(&10), None));
        assert!(!is_ready(None, None));
    }
}
