//! The raft stage: owns the consensus core and the log in memory, and decides what is to be
//! persisted, sent, applied and answered. It touches no file and never applies.
//!
//! Flow: proposals and messages come in, [`Effects::persist`] goes to the write-ahead log,
//! [`Effects::apply`] to the state machine; both come back as inputs.

use std::collections::VecDeque;

use bytes::Bytes;
use ferrite_mutate::mutation;
use ferrite_proto::raftpb::{
    ConfChange, ConfState, Entry, HardState, Message, MessageType, Snapshot,
};
use ferrite_raft::{
    Error as RaftError, LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, MemStorage, RawNode,
    SnapshotStatus, StateRole,
};

/// Proposals held back because no leader is known; beyond it the oldest is dropped (its client times out).
const HELD_PROPOSALS_MAX: usize = 5_000;
/// Membership changes held back likewise; more than that are refused. They have no time limit: each stays until
/// its caller goes away.
const HELD_CHANGES_MAX: usize = 64;
/// Bytes of proposals put into one raft message; etcd sends at most this much in one append too.
const PROPOSAL_BATCH_BYTES_MAX: usize = 1 << 20;
/// Read-index rounds under way at once. Requests that arrive meanwhile gather for the next one.
const READ_ROUNDS_MAX: usize = 2;

/// A request on its way into the log.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// Identifies the waiter.
    pub id: u64,
    /// What the log entry will hold, byte for byte.
    pub data: Bytes,
}

/// What the log writer has made durable, in the order it was asked to.
#[derive(Debug, Default)]
pub struct Persisted {
    /// The hard state written, if any.
    pub hard_state: Option<HardState>,
    /// The entries written.
    pub entries: Vec<Entry>,
    /// The snapshot installed before them, if any.
    pub snapshot: Option<Snapshot>,
    /// Raft's own acknowledgements that this write allows.
    pub responses: Vec<Message>,
}

/// What to make durable. Order between jobs is order in the log.
#[derive(Debug, Default)]
pub struct PersistJob {
    /// New hard state, if it changed.
    pub hard_state: Option<HardState>,
    /// Entries to append; the first may overwrite earlier ones of the same index.
    pub entries: Vec<Entry>,
    /// A raft snapshot whose database file has already been received.
    pub snapshot: Option<Snapshot>,
    /// Messages that may leave, to peers and to raft itself, only after the fsync that covers this job.
    pub responses: Vec<Message>,
    /// Whether an fsync is needed: entries, or a new term or vote.
    pub must_sync: bool,
}

/// Committed and locally durable entries to apply.
#[derive(Debug, Default)]
pub struct ApplyJob {
    /// The entries, in log order.
    pub entries: Vec<Entry>,
    /// Messages for raft once they are applied.
    pub responses: Vec<Message>,
}

/// Inputs of the stage; `R` names whoever waits for a linearizable read.
#[derive(Debug)]
pub enum Input<R> {
    /// A message from another member.
    Peer(Message),
    /// A request to put into the log.
    Propose(Proposal),
    /// A request to put into the log if this member leads in this very term; dropped otherwise.
    ProposeInTerm {
        /// The term it was decided in.
        term: u64,
        /// The request.
        proposal: Proposal,
    },
    /// A membership change to put into the log; the id names the waiter.
    ProposeConfChange(ConfChange),
    /// Whoever proposed the membership change of this id has gone away: it is not to be proposed any more.
    Withdraw(u64),
    /// Somebody wants to read what is committed now.
    Read(R),
    /// The log writer is done with one job.
    Persisted(Persisted),
    /// The state machine is done with one job.
    Applied(Vec<Message>),
    /// A committed membership change has been judged; a refused one comes with node id 0.
    ConfChange(ConfChange),
    /// The database file is durable through this index: the log before it may go, a raft snapshot may name it.
    Durable {
        /// Applied index inside the file.
        index: u64,
        /// Membership inside the file.
        conf_state: ConfState,
        /// A snapshot is on its way to a follower, which will need the entries after it: keep them.
        keep_log: bool,
    },
    /// Hand leadership to this member.
    TransferLeader(u64),
    /// A message to this member was lost.
    Unreachable(u64),
    /// A snapshot to this member has arrived, or not.
    SnapshotSent {
        /// The member.
        id: u64,
        /// Whether it arrived.
        ok: bool,
    },
    /// Time has passed: one tick.
    Tick {
        /// The oldest unfinished fsync is older than an election timeout.
        disk_stalled: bool,
    },
    /// Jump the election clock ahead, at start.
    AdvanceTicks(usize),
}

/// Why waiting readers got no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadFailure {
    /// Another leader took over while they waited.
    LeaderChanged,
    /// Nobody confirmed a leader for as long as a request may take: whoever waited has been told so.
    TimedOut,
}

/// Who leads, as this member sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Leadership {
    /// The leader's ID; 0 when none is known.
    pub leader: u64,
    /// This member's term.
    pub term: u64,
    /// Whether this member leads.
    pub is_leader: bool,
    /// Whether it leads a cluster in which it is the only voter, and has committed in this term: what it has
    /// committed is then all there is, without asking anybody.
    pub reads_alone: bool,
    /// Last index of the log in memory.
    pub last_index: u64,
    /// Commit index.
    pub committed: u64,
}

/// What is to be done, in this order: send, persist, apply; the rest at any time.
#[derive(Debug)]
pub struct Effects<R> {
    /// Messages that may leave at once.
    pub send: Vec<Message>,
    /// Jobs for the log writer.
    pub persist: Vec<PersistJob>,
    /// Jobs for the state machine.
    pub apply: Vec<ApplyJob>,
    /// Readers to serve as soon as this index is applied.
    pub reads_ready: Vec<(u64, Vec<R>)>,
    /// Readers to refuse.
    pub reads_failed: Vec<(ReadFailure, Vec<R>)>,
    /// Proposals (by id) that raft would not take.
    pub dropped: Vec<u64>,
    /// The leader is another one than before (and known).
    pub leader_changed: bool,
    /// Messages from peers that made no sense, for the log.
    pub refused: Vec<String>,
    /// Rounds of reads for which nobody has confirmed a leader while their readers were patient.
    pub slow_reads: usize,
    /// Contexts of rounds of reads that are asked for once more, since no answer came.
    pub reads_retried: Vec<u64>,
}

impl<R> Default for Effects<R> {
    fn default() -> Self {
        Effects {
            send: Vec::new(),
            persist: Vec::new(),
            apply: Vec::new(),
            reads_ready: Vec::new(),
            reads_failed: Vec::new(),
            dropped: Vec::new(),
            leader_changed: false,
            refused: Vec::new(),
            slow_reads: 0,
            reads_retried: Vec::new(),
        }
    }
}

impl<R> Effects<R> {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.send.is_empty()
            && self.persist.is_empty()
            && self.apply.is_empty()
            && self.reads_ready.is_empty()
            && self.reads_failed.is_empty()
            && self.dropped.is_empty()
            && self.refused.is_empty()
            && !self.leader_changed
            && self.slow_reads == 0
            && self.reads_retried.is_empty()
    }
}

struct ReadRound<R> {
    context: u64,
    waiters: Vec<R>,
    ticks_waited: usize,
}

/// Parameters of the stage, all in ticks or counts.
#[derive(Debug, Clone)]
pub struct Params {
    /// This member.
    pub id: u64,
    /// Ticks of an election timeout.
    pub election_ticks: usize,
    /// After how many ticks an unanswered read-index message is sent again (etcd: 500 ms).
    pub read_retry_ticks: usize,
    /// After how many ticks a proposal held for want of a leader is forgotten.
    pub hold_ticks: usize,
    /// Entries kept in memory behind the durable index, for followers that lag a little.
    pub catchup_entries: u64,
    /// Bytes of durable entries kept in memory for followers that lag; beyond it they get a snapshot.
    pub log_bytes_max: u64,
    /// Where read-index contexts start counting: far from where any earlier run of this member did, which the clock
    /// does not promise. A late answer to that run would otherwise confirm a read of this one.
    pub first_read_context: u64,
}

struct Held {
    proposal: Proposal,
    ticks: usize,
}

/// See the module.
pub struct RaftStage<R> {
    raw: RawNode<MemStorage>,
    params: Params,
    last_hard_state: HardState,
    leadership: Leadership,
    last_leader: u64,
    held: VecDeque<Held>,
    held_changes: VecDeque<ConfChange>,
    proposals: Vec<Proposal>,
    gathering: Vec<R>,
    rounds: VecDeque<ReadRound<R>>,
    read_context: u64,
    stalled_ticks: usize,
}

impl<R> RaftStage<R> {
    /// Starts from a core whose storage holds what the log held.
    pub fn new(raw: RawNode<MemStorage>, hard_state: HardState, params: Params) -> Self {
        let read_context = params.first_read_context;
        RaftStage {
            raw,
            params,
            last_hard_state: hard_state,
            leadership: Leadership::default(),
            last_leader: 0,
            held: VecDeque::new(),
            held_changes: VecDeque::new(),
            proposals: Vec::new(),
            gathering: Vec::new(),
            rounds: VecDeque::new(),
            read_context,
            stalled_ticks: 0,
        }
    }

    /// Who leads, and how far the log is.
    pub fn leadership(&self) -> Leadership {
        self.leadership
    }

    /// The core, for questions (progress of followers and the like).
    pub fn core(&self) -> &RawNode<MemStorage> {
        &self.raw
    }

    /// Takes a batch of inputs and says what is to be done.
    pub fn step(&mut self, inputs: impl IntoIterator<Item = Input<R>>) -> Effects<R> {
        let mut effects = Effects::default();
        for input in inputs {
            self.take(input, &mut effects);
        }
        self.flush_proposals(&mut effects);
        self.flush_reads();
        while self.raw.has_ready() {
            self.drain_ready(&mut effects);
            self.flush_reads();
        }
        self.refresh_leadership();
        effects
    }

    fn take(&mut self, input: Input<R>, effects: &mut Effects<R>) {
        match input {
            Input::Peer(message) => self.step_message(message, effects),
            Input::Propose(proposal) => self.proposals.push(proposal),
            Input::ProposeInTerm { term, proposal } => {
                let its_term =
                    self.raw.is_leader() && self.raw.basic_status().hard_state.term == term;
                if its_term || mutation!("expire-when-deposed") {
                    self.proposals.push(proposal);
                    // At once: a later input of this batch may end the term.
                    self.flush_proposals(effects);
                } else {
                    effects.dropped.push(proposal.id);
                }
            }
            Input::ProposeConfChange(change) => {
                self.flush_proposals(effects);
                if self.knows_leader() && self.held_changes.is_empty() {
                    self.propose_change(&change, effects);
                } else if self.held_changes.len() < HELD_CHANGES_MAX {
                    self.held_changes.push_back(change);
                } else {
                    effects.dropped.push(change.id);
                }
            }
            Input::Withdraw(id) => self.held_changes.retain(|change| change.id != id),
            Input::Read(waiter) => self.gathering.push(waiter),
            Input::Persisted(done) => self.persisted(done, effects),
            Input::Applied(responses) => {
                for message in responses {
                    self.step_message(message, effects);
                }
            }
            Input::ConfChange(change) => {
                if let Err(error) = self.raw.apply_conf_change(&change) {
                    effects
                        .refused
                        .push(format!("a committed membership change: {error}"));
                }
            }
            Input::Durable {
                index,
                conf_state,
                keep_log,
            } => self.durable(index, conf_state, keep_log),
            Input::TransferLeader(to) => self.raw.transfer_leader(to),
            Input::Unreachable(id) => self.raw.report_unreachable(id),
            Input::SnapshotSent { id, ok } => {
                let status = if ok {
                    SnapshotStatus::Finish
                } else {
                    SnapshotStatus::Failure
                };
                self.raw.report_snapshot(id, status);
            }
            Input::Tick { disk_stalled } => self.tick(disk_stalled, effects),
            Input::AdvanceTicks(ticks) => {
                for _ in 0..ticks {
                    self.raw.tick();
                }
            }
        }
    }

    fn step_message(&mut self, message: Message, effects: &mut Effects<R>) {
        let kind = message.msg_type();
        let from = message.from;
        if let Err(error) = self.raw.step(message)
            && !matches!(error, RaftError::ProposalDropped)
        {
            effects
                .refused
                .push(format!("{} from {from:x}: {error}", kind.as_str_name()));
        }
    }

    fn persisted(&mut self, done: Persisted, effects: &mut Effects<R>) {
        if let Some(hard_state) = done.hard_state {
            self.raw.storage_mut().set_hard_state(hard_state);
        }
        if let Some(snapshot) = done.snapshot
            && let Err(error) = self.raw.storage_mut().apply_snapshot(snapshot)
        {
            effects
                .refused
                .push(format!("installing a snapshot into the log: {error}"));
        }
        if let Err(error) = self.raw.storage_mut().append(&done.entries) {
            effects
                .refused
                .push(format!("appending to the log in memory: {error}"));
        }
        for message in done.responses {
            if message.to == self.params.id {
                self.step_message(message, effects);
            } else {
                effects.send.push(message);
            }
        }
    }

    fn durable(&mut self, index: u64, conf_state: ConfState, keep_log: bool) {
        let storage = self.raw.storage_mut();
        // An index that a later snapshot has overtaken is old news, not an error.
        if storage
            .create_snapshot(index, Some(conf_state), Bytes::new())
            .is_err()
            || keep_log
        {
            return;
        }
        let mut keep_from = index.saturating_sub(self.params.catchup_entries);
        let mut bytes = storage.bytes();
        for entry in storage.log() {
            if bytes <= self.params.log_bytes_max || entry.index > index {
                break;
            }
            bytes -= entry.data.len() as u64;
            keep_from = keep_from.max(entry.index);
        }
        if keep_from > 0 {
            let _already_compacted = storage.compact(keep_from);
        }
    }

    fn knows_leader(&self) -> bool {
        self.raw.basic_status().soft_state.leader != 0
    }

    fn propose_change(&mut self, change: &ConfChange, effects: &mut Effects<R>) {
        if self.raw.propose_conf_change(change).is_err() {
            effects.dropped.push(change.id);
        }
    }

    fn tick(&mut self, disk_stalled: bool, effects: &mut Effects<R>) {
        self.stalled_ticks = if disk_stalled {
            self.stalled_ticks + 1
        } else {
            0
        };
        // A leader whose disk stalls first tries to hand over; after one more election timeout, or if
        // it does not lead, it neither leads nor stands until the disk answers.
        let handing_over = self.raw.is_leader() && self.stalled_ticks <= self.params.election_ticks;
        if disk_stalled && handing_over {
            if self.stalled_ticks == 1
                && let Some(to) = self.best_follower()
            {
                self.raw.transfer_leader(to);
            }
        } else {
            self.raw.set_campaign_allowed(!disk_stalled);
        }
        self.raw.tick();
        let hold = self.params.hold_ticks;
        for held in &mut self.held {
            held.ticks += 1;
        }
        while self.held.front().is_some_and(|held| held.ticks > hold) {
            self.held.pop_front();
        }
        // One at a time: raft makes nothing of a change that comes before the one before it is applied.
        if self.knows_leader()
            && let Some(change) = self.held_changes.pop_front()
        {
            self.propose_change(&change, effects);
        }
        let retry = self.params.read_retry_ticks;
        for round in &mut self.rounds {
            round.ticks_waited += 1;
        }
        // Rounds are in the order in which they began.
        while self
            .rounds
            .front()
            .is_some_and(|round| round.ticks_waited >= hold)
        {
            let waiters = self.rounds.pop_front().map(|round| round.waiters);
            effects.slow_reads += 1;
            effects
                .reads_failed
                .push((ReadFailure::TimedOut, waiters.unwrap_or_default()));
        }
        for round in &self.rounds {
            if round.ticks_waited.is_multiple_of(retry) {
                effects.reads_retried.push(round.context);
                self.raw.read_index(context_bytes(round.context));
            }
        }
    }

    /// The voter, other than this member, whose log is longest.
    fn best_follower(&self) -> Option<u64> {
        let status = self.raw.status();
        status
            .progress
            .iter()
            .filter(|(id, progress)| **id != self.params.id && !progress.is_learner)
            .max_by_key(|(id, progress)| (progress.matched, std::cmp::Reverse(**id)))
            .map(|(id, _)| *id)
    }

    fn flush_proposals(&mut self, effects: &mut Effects<R>) {
        if !self.knows_leader() {
            for proposal in self.proposals.drain(..) {
                if self.held.len() >= HELD_PROPOSALS_MAX {
                    self.held.pop_front();
                }
                self.held.push_back(Held { proposal, ticks: 0 });
            }
            return;
        }
        if !self.held.is_empty() {
            let newer = std::mem::take(&mut self.proposals);
            self.proposals
                .extend(self.held.drain(..).map(|held| held.proposal));
            self.proposals.extend(newer);
        }
        if self.proposals.is_empty() {
            return;
        }
        let mut batch = Vec::with_capacity(self.proposals.len());
        let mut ids = Vec::with_capacity(self.proposals.len());
        let mut bytes = 0;
        for proposal in std::mem::take(&mut self.proposals) {
            if bytes > 0 && bytes + proposal.data.len() > PROPOSAL_BATCH_BYTES_MAX {
                self.propose(std::mem::take(&mut batch), &mut ids, effects);
                bytes = 0;
            }
            bytes += proposal.data.len();
            ids.push(proposal.id);
            batch.push(proposal.data);
        }
        self.propose(batch, &mut ids, effects);
    }

    fn propose(&mut self, batch: Vec<Bytes>, ids: &mut Vec<u64>, effects: &mut Effects<R>) {
        if !batch.is_empty() && self.raw.propose_batch(batch).is_err() {
            effects.dropped.append(ids);
        }
        ids.clear();
    }

    fn flush_reads(&mut self) {
        if self.gathering.is_empty() || self.rounds.len() >= READ_ROUNDS_MAX {
            return;
        }
        self.read_context = self.read_context.wrapping_add(1);
        self.rounds.push_back(ReadRound {
            context: self.read_context,
            waiters: std::mem::take(&mut self.gathering),
            ticks_waited: 0,
        });
        self.raw.read_index(context_bytes(self.read_context));
    }

    fn drain_ready(&mut self, effects: &mut Effects<R>) {
        let ready = self.raw.ready();
        if let Some(soft) = &ready.soft_state {
            let leader = soft.leader;
            if leader != 0 && leader != self.last_leader {
                effects.leader_changed = true;
                self.fail_reads(effects);
            }
            if leader != 0 {
                self.last_leader = leader;
            }
        }
        for state in ready.read_states {
            self.read_confirmed(state.index, &state.request_ctx, effects);
        }
        for message in ready.messages {
            match message.to {
                LOCAL_APPEND_THREAD => effects.persist.push(self.persist_job(message)),
                LOCAL_APPLY_THREAD => effects.apply.push(ApplyJob {
                    entries: message.entries,
                    responses: message.responses,
                }),
                _ => effects.send.push(message),
            }
        }
        self.flush_proposals(effects);
    }

    fn persist_job(&mut self, message: Message) -> PersistJob {
        debug_assert_eq!(message.msg_type(), MessageType::MsgStorageAppend);
        let hard_state =
            (message.term != 0 || message.vote != 0 || message.commit != 0).then_some(HardState {
                term: message.term,
                vote: message.vote,
                commit: message.commit,
            });
        let mut must_sync = !message.entries.is_empty() || message.snapshot.is_some();
        if let Some(state) = &hard_state {
            must_sync |=
                state.term != self.last_hard_state.term || state.vote != self.last_hard_state.vote;
            self.last_hard_state = *state;
        }
        PersistJob {
            hard_state,
            entries: message.entries,
            snapshot: message.snapshot,
            responses: message.responses,
            must_sync,
        }
    }

    fn read_confirmed(&mut self, index: u64, context: &[u8], effects: &mut Effects<R>) {
        let Ok(context) = <[u8; 8]>::try_from(context).map(u64::from_le_bytes) else {
            return;
        };
        // A late answer to an earlier run of this member confirms nothing, whatever its number.
        let own = self.params.first_read_context < context && context <= self.read_context;
        if !own && !mutation!("confirm-by-any-answer") {
            return;
        }
        // A confirmed round confirms every earlier one: their requests arrived before it began.
        while self
            .rounds
            .front()
            .is_some_and(|round| round.context <= context)
        {
            if let Some(round) = self.rounds.pop_front() {
                effects.reads_ready.push((index, round.waiters));
            }
        }
    }

    fn fail_reads(&mut self, effects: &mut Effects<R>) {
        let waiters: Vec<R> = self
            .rounds
            .drain(..)
            .flat_map(|round| round.waiters)
            .collect();
        if !waiters.is_empty() {
            effects
                .reads_failed
                .push((ReadFailure::LeaderChanged, waiters));
        }
    }

    fn leads_alone(&self, committed: u64) -> bool {
        let voters = &self.raw.config().voters;
        let alone =
            !voters.is_joint() && voters.incoming.0.len() == 1 && voters.contains(self.params.id);
        // Until an entry of its own term is committed, a leader's commit index may be behind what was
        // acknowledged before its last restart.
        let alone = alone || mutation!("leader-reads-alone");
        alone && self.raw.is_leader() && self.raw.entry_term(committed) == Ok(self.raw.term())
    }

    fn refresh_leadership(&mut self) {
        let status = self.raw.basic_status();
        self.leadership = Leadership {
            leader: status.soft_state.leader,
            term: status.hard_state.term,
            is_leader: status.soft_state.state == StateRole::Leader,
            reads_alone: self.leads_alone(status.hard_state.commit),
            last_index: status.last_index,
            committed: status.hard_state.commit,
        };
    }
}

/// Read-index contexts are 8 bytes, little-endian: a 3.7 leader decodes them so.
fn context_bytes(context: u64) -> Bytes {
    Bytes::copy_from_slice(&context.to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrite_proto::raftpb::SnapshotMetadata;
    use ferrite_raft::{Config, ReadOnlyOption};

    /// A member of three that hears of nobody.
    fn alone() -> RaftStage<u8> {
        let mut storage = MemStorage::new();
        let metadata = SnapshotMetadata {
            conf_state: Some(ConfState {
                voters: vec![1, 2, 3],
                ..ConfState::default()
            }),
            index: 1,
            term: 1,
        };
        storage
            .apply_snapshot(Snapshot {
                metadata: Some(metadata),
                ..Snapshot::default()
            })
            .expect("an empty log takes it");
        let config = Config {
            id: 1,
            election_tick: 10,
            heartbeat_tick: 1,
            applied: 1,
            async_storage_writes: true,
            max_size_per_msg: u64::MAX,
            max_committed_size_per_ready: u64::MAX,
            max_uncommitted_entries_size: u64::MAX,
            max_inflight_msgs: 16,
            max_inflight_bytes: u64::MAX,
            check_quorum: true,
            pre_vote: true,
            read_only: ReadOnlyOption::Safe,
            disable_proposal_forwarding: false,
            disable_conf_change_validation: false,
            step_down_on_removal: false,
            seed: 1,
        };
        let raw = RawNode::new(config, storage).expect("a good configuration");
        let params = Params {
            id: 1,
            election_ticks: 10,
            read_retry_ticks: 5,
            hold_ticks: 12,
            catchup_entries: 1,
            log_bytes_max: 1,
            first_read_context: 1,
        };
        RaftStage::new(raw, HardState::default(), params)
    }

    #[test]
    fn a_read_that_nobody_confirms_fails_and_is_not_asked_for_any_more() {
        let mut stage = alone();
        let tick = || Input::Tick {
            disk_stalled: false,
        };
        stage.step([Input::Read(7)]);
        let (mut retried, mut failed, mut slow) = (0, Vec::new(), 0);
        for ticks in 1..=40 {
            let effects = stage.step([tick()]);
            retried += effects.reads_retried.len();
            slow += effects.slow_reads;
            for (why, readers) in effects.reads_failed {
                failed.push((ticks, why, readers));
            }
        }
        // After five ticks and ten.
        assert_eq!(retried, 2);
        assert_eq!(failed, [(12, ReadFailure::TimedOut, vec![7])]);
        assert_eq!(slow, 1);
    }
}
