//! Elections: when to stand, whom to vote for, and what a win or a loss leads to.

use bytes::Bytes;
use ferrite_mutate::mutation;
use ferrite_proto::raftpb::{Entry, Message, MessageType};

use super::Raft;
use crate::confchange::codec::is_conf_change;
use crate::error::Error;
use crate::log::EntryId;
use crate::message::{CAMPAIGN_TRANSFER, NONE, new_message};
use crate::quorum::VoteResult;
use crate::ready::StateRole;
use crate::storage::Storage;

/// Why a member stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Campaign {
    /// To learn whether it could win.
    PreElection,
    /// To win.
    Election,
    /// To win because the leader asked it to: leases do not hold against it.
    Transfer,
}

impl<S: Storage> Raft<S> {
    pub(super) fn tick_election(&mut self) {
        self.election_elapsed += 1;
        if self.election_elapsed >= self.randomized_election_timeout && self.promotable() {
            self.election_elapsed = 0;
            self.hup(self.usual_campaign());
        }
    }

    /// Whether this member could lead: it votes, holds no half-installed snapshot, and may.
    fn promotable(&self) -> bool {
        let voter = self.trk.progress.get(&self.id);
        voter.is_some_and(|pr| !pr.is_learner) && !self.log.has_snapshot() && self.campaign_allowed
    }

    pub(super) fn usual_campaign(&self) -> Campaign {
        if self.cfg.pre_vote {
            Campaign::PreElection
        } else {
            Campaign::Election
        }
    }

    /// Stands for election, unless something speaks against it.
    pub(crate) fn hup(&mut self, campaign: Campaign) {
        if self.state == StateRole::Leader
            || !self.promotable()
            || self.has_unapplied_conf_changes()
        {
            return;
        }
        self.campaign(campaign);
    }

    /// A member must know the configuration it is to lead. If the log cannot be read, it stays out too.
    fn has_unapplied_conf_changes(&self) -> bool {
        let (lo, hi) = (self.log.applied + 1, self.log.committed + 1);
        self.log.any(lo, hi, is_conf_change).unwrap_or(true)
    }

    fn campaign(&mut self, campaign: Campaign) {
        use MessageType::*;
        let (request, response, term) = if campaign == Campaign::PreElection {
            self.become_pre_candidate();
            (MsgPreVote, MsgPreVoteResp, self.term + 1)
        } else {
            self.become_candidate();
            (MsgVote, MsgVoteResp, self.term)
        };
        let last = self.log.last_entry_id();
        for id in self.trk.config.voters.ids() {
            let mut m = if id == self.id {
                // The vote for itself counts when it is durable, like anyone's.
                new_message(response, id)
            } else {
                let mut m = new_message(request, id);
                (m.index, m.log_term) = (last.index, last.term);
                if campaign == Campaign::Transfer {
                    m.context = Bytes::from_static(CAMPAIGN_TRANSFER);
                }
                m
            };
            m.term = term;
            self.send(m);
        }
    }

    fn become_candidate(&mut self) {
        assert!(
            self.state != StateRole::Leader,
            "a leader cannot stand for election"
        );
        self.reset(self.term + 1);
        self.vote = self.id;
        self.state = StateRole::Candidate;
    }

    /// Nothing durable changes: neither the term nor the vote.
    fn become_pre_candidate(&mut self) {
        assert!(
            self.state != StateRole::Leader,
            "a leader cannot stand for election"
        );
        self.trk.reset_votes();
        self.lead = NONE;
        self.state = StateRole::PreCandidate;
    }

    fn become_leader(&mut self) {
        assert!(
            self.state == StateRole::Candidate,
            "only a candidate is elected"
        );
        self.reset(self.term);
        self.lead = self.id;
        self.state = StateRole::Leader;
        if let Some(pr) = self.trk.progress.get_mut(&self.id) {
            pr.become_replicate();
            pr.recent_active = true;
        }
        // There may be a conf change in the uncommitted tail; waiting for all of it costs less than
        // looking.
        self.pending_conf_index = self.log.last_index();
        // The first entry of the term commits those before it. It is empty, so no limit refuses it.
        let accepted = self.append_entries(vec![Entry::default()]);
        assert!(accepted, "the empty first entry of a term was refused");
    }

    pub(super) fn handle_vote_request(&mut self, kind: MessageType, m: &Message) {
        use MessageType::*;
        let response = if kind == MsgVote {
            MsgVoteResp
        } else {
            MsgPreVoteResp
        };
        let free = self.vote == m.from
            || (self.vote == NONE && self.lead == NONE)
            || (kind == MsgPreVote && m.term > self.term)
            || mutation!("vote-twice");
        let theirs = EntryId {
            term: m.log_term,
            index: m.index,
        };
        let mut answer = new_message(response, m.from);
        // A learner votes too: it may have been promoted without having heard of it yet, and then the
        // candidate's quorum needs it.
        if free && (self.log.is_up_to_date(theirs) || mutation!("vote-for-shorter-log")) {
            // The term asked about, which for a pre-vote is not this member's.
            answer.term = m.term;
            self.send(answer);
            if kind == MsgVote {
                self.election_elapsed = 0;
                self.vote = m.from;
            }
        } else {
            answer.term = self.term;
            answer.reject = true;
            self.send(answer);
        }
    }

    /// What a candidate or pre-candidate does with the messages meant for it.
    pub(super) fn step_candidate(&mut self, kind: MessageType, m: Message) -> Result<(), Error> {
        use MessageType::*;
        // A candidate may still get answers to its pre-vote: they are not votes.
        let my_response = if self.state == StateRole::PreCandidate {
            MsgPreVoteResp
        } else {
            MsgVoteResp
        };
        match kind {
            MsgProp => return Err(Error::ProposalDropped),
            // Of this term, so someone else has won.
            MsgApp | MsgHeartbeat | MsgSnap => {
                self.become_follower(m.term, m.from);
                return self.step_follower(kind, m);
            }
            _ if kind == my_response => {
                self.trk.record_vote(m.from, !m.reject);
                match self.trk.vote_result() {
                    VoteResult::Won if self.state == StateRole::PreCandidate => {
                        self.campaign(Campaign::Election);
                    }
                    VoteResult::Won => {
                        self.become_leader();
                        self.bcast_append();
                    }
                    VoteResult::Lost => self.become_follower(self.term, NONE),
                    VoteResult::Pending => {}
                }
            }
            _ => {}
        }
        Ok(())
    }
}
