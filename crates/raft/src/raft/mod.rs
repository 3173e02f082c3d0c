//! The state machine of one member: its state, the change of roles, and the sorting of messages to the
//! file that knows them.
//!
//! Messages go to one of two outboxes. What promises something about this member's disk (votes and append
//! responses) waits in `msgs_after_append` until the write that covers it is done; the rest may leave at
//! once.

mod append;
mod conf;
mod election;
mod follower;
mod leader;
mod proposal;
mod read_index;
mod snapshot;

use ferrite_proto::raftpb::{HardState, Message, MessageType};

use crate::confchange::{equivalent, restore};
use crate::config::Config;
use crate::error::Error;
use crate::log::RaftLog;
use crate::message::{self, NONE};
use crate::prng::Prng;
use crate::read_only::ReadOnly;
use crate::ready::{ReadState, SoftState, StateRole};
use crate::sizes;
use crate::storage::Storage;
use crate::tracker::ProgressTracker;

pub(crate) use election::Campaign;

pub(crate) struct Raft<S> {
    pub(crate) id: u64,
    pub(crate) term: u64,
    pub(crate) vote: u64,
    pub(crate) log: RaftLog<S>,
    pub(crate) trk: ProgressTracker,
    pub(crate) state: StateRole,
    pub(crate) lead: u64,
    pub(crate) lead_transferee: u64,
    /// May leave at once.
    pub(crate) msgs: Vec<Message>,
    /// May leave once everything handed out for writing so far is durable.
    pub(crate) msgs_after_append: Vec<Message>,
    pub(crate) read_states: Vec<ReadState>,
    read_only: ReadOnly,
    /// Read requests that wait for the first commit of this leadership.
    pending_reads: Vec<Message>,
    /// A conf change may be in the log up to this index: no other is proposed before it is applied.
    pending_conf_index: u64,
    /// Payload bytes of the leader's uncommitted tail; may underestimate, never overestimates.
    uncommitted_size: u64,
    election_elapsed: usize,
    heartbeat_elapsed: usize,
    /// Drawn anew at each change of role, in `[election_tick, 2 * election_tick)`.
    randomized_election_timeout: usize,
    campaign_allowed: bool,
    rng: Prng,
    cfg: Config,
}

impl<S: Storage> Raft<S> {
    pub(crate) fn new(cfg: Config, storage: S) -> Result<Self, Error> {
        let cfg = cfg.checked()?;
        let (hard_state, conf_state) = storage.initial_state()?;
        let mut log = RaftLog::new(storage, cfg.max_committed_size_per_ready)?;
        let mut trk = ProgressTracker::new(cfg.max_inflight_msgs, cfg.max_inflight_bytes);
        (trk.config, trk.progress) = restore(trk.clone(), log.last_index(), &conf_state)?;
        if !equivalent(&conf_state, &trk.conf_state()) {
            let reason = format!("the stored conf state contradicts itself: {conf_state:?}");
            return Err(Error::InvalidConfig(reason));
        }
        let (mut term, mut vote) = (0, NONE);
        if hard_state != HardState::default() {
            let (commit, last) = (hard_state.commit, log.last_index());
            if commit < log.committed || commit > last {
                return Err(Error::InvalidConfig(format!(
                    "stored commit index {commit} is outside [{}, {last}]: was the log damaged, cut or lost?",
                    log.committed
                )));
            }
            log.committed = commit;
            (term, vote) = (hard_state.term, hard_state.vote);
        }
        if cfg.applied > 0 {
            log.applied_to(cfg.applied, 0)?;
        }
        let mut raft = Self {
            id: cfg.id,
            term,
            vote,
            log,
            trk,
            state: StateRole::Follower,
            lead: NONE,
            lead_transferee: NONE,
            msgs: Vec::new(),
            msgs_after_append: Vec::new(),
            read_states: Vec::new(),
            read_only: ReadOnly::new(cfg.read_only),
            pending_reads: Vec::new(),
            pending_conf_index: 0,
            uncommitted_size: 0,
            election_elapsed: 0,
            heartbeat_elapsed: 0,
            randomized_election_timeout: 0,
            campaign_allowed: true,
            rng: Prng::new(cfg.seed, cfg.id),
            cfg,
        };
        raft.become_follower(term, NONE);
        Ok(raft)
    }

    pub(crate) fn soft_state(&self) -> SoftState {
        SoftState {
            leader: self.lead,
            state: self.state,
        }
    }

    pub(crate) fn hard_state(&self) -> HardState {
        HardState {
            term: self.term,
            vote: self.vote,
            commit: self.log.committed,
        }
    }

    /// Lets one tick pass.
    pub(crate) fn tick(&mut self) {
        if self.state == StateRole::Leader {
            self.tick_leader();
        } else {
            self.tick_election();
        }
    }

    pub(crate) fn tick_quiesced(&mut self) {
        self.election_elapsed += 1;
    }

    /// Puts a message into the outbox it belongs to, with sender and term.
    fn send(&mut self, mut m: Message) {
        use MessageType::*;
        if m.from == NONE {
            m.from = self.id;
        }
        match m.msg_type() {
            // Vote messages carry the term they are about, which need not be this member's.
            MsgVote | MsgVoteResp | MsgPreVote | MsgPreVoteResp => assert!(
                m.term != 0,
                "{} sent without a term",
                m.msg_type().as_str_name()
            ),
            // Forwarded requests are the client's: whoever leads when they arrive may take them.
            MsgProp | MsgReadIndex => m.term = 0,
            _ => m.term = self.term,
        }
        match m.msg_type() {
            MsgAppResp | MsgVoteResp | MsgPreVoteResp => self.msgs_after_append.push(m),
            _ => {
                assert!(
                    m.to != self.id,
                    "{} sent to itself",
                    m.msg_type().as_str_name()
                );
                self.msgs.push(m);
            }
        }
    }

    /// Takes a message. On an error the message had no effect, except that its term may have been
    /// adopted.
    pub(crate) fn step(&mut self, m: Message) -> Result<(), Error> {
        use MessageType::*;
        let kind = message::check(&m, self.id)?;
        if m.term > self.term {
            if !self.adopt_term(kind, &m) {
                return Ok(());
            }
        } else if m.term < self.term && m.term != 0 {
            return self.answer_lower_term(kind, &m);
        }
        match kind {
            MsgHup => self.hup(self.usual_campaign()),
            MsgStorageAppendResp => {
                if m.index != 0 {
                    self.log.unstable.stable_to(crate::log::EntryId {
                        term: m.log_term,
                        index: m.index,
                    });
                }
                self.snapshot_installed(&m)?;
            }
            MsgStorageApplyResp => {
                if let Some(last) = m.entries.last() {
                    self.applied_to(last.index, sizes::encoded_size(&m.entries))?;
                    let payload = sizes::payload_size(&m.entries);
                    self.uncommitted_size = self.uncommitted_size.saturating_sub(payload);
                }
            }
            MsgVote | MsgPreVote => self.handle_vote_request(kind, &m),
            _ => match self.state {
                StateRole::Leader => return self.step_leader(kind, m),
                StateRole::Follower => return self.step_follower(kind, m),
                StateRole::Candidate | StateRole::PreCandidate => {
                    return self.step_candidate(kind, m);
                }
            },
        }
        Ok(())
    }

    /// Deals with a term above this member's; false if the message goes no further.
    fn adopt_term(&mut self, kind: MessageType, m: &Message) -> bool {
        use MessageType::*;
        if matches!(kind, MsgVote | MsgPreVote) {
            let transfer = m.context.as_ref() == message::CAMPAIGN_TRANSFER;
            // Who hears its leader helps nobody to depose it.
            let in_lease = self.cfg.check_quorum
                && self.lead != NONE
                && self.election_elapsed < self.cfg.election_tick;
            if in_lease && !transfer {
                return false;
            }
        }
        match kind {
            // Asking about a term does not enter it, nor does a yes; a no comes from someone who is
            // already there.
            MsgPreVote => {}
            MsgPreVoteResp if !m.reject => {}
            MsgApp | MsgHeartbeat | MsgSnap => self.become_follower(m.term, m.from),
            _ => self.become_follower(m.term, NONE),
        }
        true
    }

    /// Deals with a term below this member's.
    fn answer_lower_term(&mut self, kind: MessageType, m: &Message) -> Result<(), Error> {
        use MessageType::*;
        match kind {
            // Perhaps only delayed. But a member that ran ahead in its term, and may no longer raise
            // others' (their leases and the pre-vote forbid it), would be stuck: let the leader know.
            MsgHeartbeat | MsgApp if self.cfg.check_quorum || self.cfg.pre_vote => {
                self.send(message::new_message(MsgAppResp, m.from));
            }
            // Without this answer, a candidate with an older term and a longer log would ask for ever.
            MsgPreVote => {
                let mut no = message::new_message(MsgPreVoteResp, m.from);
                no.term = self.term;
                no.reject = true;
                self.send(no);
            }
            // Entries written in an older term may have been replaced since; a snapshot is committed
            // state in any term.
            MsgStorageAppendResp => self.snapshot_installed(m)?,
            _ => {}
        }
        Ok(())
    }

    fn reset(&mut self, term: u64) {
        if self.term != term {
            self.term = term;
            self.vote = NONE;
        }
        self.lead = NONE;
        self.election_elapsed = 0;
        self.heartbeat_elapsed = 0;
        let spread = self.rng.below(self.cfg.election_tick);
        self.randomized_election_timeout = self.cfg.election_tick + spread;
        self.lead_transferee = NONE;
        self.trk.reset_votes();
        let last = self.log.last_index();
        for (&id, pr) in &mut self.trk.progress {
            pr.matched = if id == self.id { last } else { 0 };
            pr.next = last + 1;
            pr.sent_commit = 0;
            pr.state = Default::default();
            pr.pending_snapshot = 0;
            pr.recent_active = false;
            pr.append_paused = false;
            pr.inflights.reset();
        }
        self.pending_conf_index = 0;
        self.uncommitted_size = 0;
        self.read_only.reset();
        self.pending_reads.clear();
    }

    pub(crate) fn become_follower(&mut self, term: u64, lead: u64) {
        self.reset(term);
        self.lead = lead;
        self.state = StateRole::Follower;
    }

    /// Lets this member campaign and lead, or forbids it; forbidding also ends a campaign or leadership.
    pub(crate) fn set_campaign_allowed(&mut self, allowed: bool) {
        self.campaign_allowed = allowed;
        if !allowed && self.state != StateRole::Follower {
            self.become_follower(self.term, NONE);
        }
    }

    pub(crate) fn campaign_allowed(&self) -> bool {
        self.campaign_allowed
    }

    pub(crate) fn set_election_timeout(&mut self, ticks: usize) {
        self.randomized_election_timeout = ticks;
    }

    /// Notes that entries up to `index`, of so many encoded bytes, are applied. A leader whose joint
    /// configuration may end now proposes its end.
    pub(crate) fn applied_to(&mut self, index: u64, size: u64) -> Result<(), Error> {
        let index = index.max(self.log.applied);
        self.log.applied_to(index, size)?;
        if self.trk.config.auto_leave
            && index >= self.pending_conf_index
            && self.state == StateRole::Leader
        {
            // Refused now, it is proposed again when more is applied.
            let _ = self.propose(vec![crate::confchange::codec::leave_joint_entry()]);
        }
        Ok(())
    }
}
