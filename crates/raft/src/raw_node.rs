//! The door to the core: inputs in, [`Ready`] out.

use bytes::Bytes;
use ferrite_proto::raftpb::{ConfState, Entry, HardState, Message, MessageType, Snapshot};

use crate::confchange::codec::ConfChangeLike;
use crate::config::Config;
use crate::error::Error;
use crate::message::{
    self, LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, NONE, is_local_msg, is_local_target,
    is_response_msg, new_message,
};
use crate::raft::Raft;
use crate::ready::{Ready, SnapshotStatus, SoftState, StateRole};
use crate::sizes;
use crate::status::{BasicStatus, Status};
use crate::storage::{Storage, StorageError};
use crate::tracker::{self, Progress};

/// One member of a raft group. Not shared between threads: whoever owns it calls it.
pub struct RawNode<S: Storage> {
    raft: Raft<S>,
    async_storage_writes: bool,
    prev_soft_state: SoftState,
    prev_hard_state: HardState,
    /// What `advance()` tells the core: the durable and the applied parts of the last `Ready`.
    steps_on_advance: Vec<Message>,
}

impl<S: Storage> RawNode<S> {
    /// Starts a member on what the storage holds.
    ///
    /// # Errors
    /// `InvalidConfig`, `AppliedOutOfRange` or `ConfChange` if parameters and stored state do not fit
    /// together; `Storage` if it cannot be read.
    pub fn new(config: Config, storage: S) -> Result<Self, Error> {
        let async_storage_writes = config.async_storage_writes;
        let raft = Raft::new(config, storage)?;
        Ok(Self {
            prev_soft_state: raft.soft_state(),
            prev_hard_state: raft.hard_state(),
            raft,
            async_storage_writes,
            steps_on_advance: Vec::new(),
        })
    }

    /// Lets one tick pass.
    pub fn tick(&mut self) {
        self.raft.tick();
    }

    /// Lets one tick pass for the election clock alone: no heartbeat, no campaign.
    pub fn tick_quiesced(&mut self) {
        self.raft.tick_quiesced();
    }

    /// Stands for election now, unless this member cannot or may not lead.
    pub fn campaign(&mut self) {
        let _ = self.raft.step(new_message(MessageType::MsgHup, NONE));
    }

    /// Proposes data for the log.
    ///
    /// # Errors
    /// `ProposalDropped` if it was not taken. A proposal that was taken may still be lost.
    pub fn propose(&mut self, data: Bytes) -> Result<(), Error> {
        self.propose_batch(vec![data])
    }

    /// Proposes several entries at once: all are taken, or none. Nothing happens for an empty batch.
    ///
    /// # Errors
    /// `ProposalDropped` if they were not taken.
    pub fn propose_batch(&mut self, batch: Vec<Bytes>) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let entry = |data| Entry {
            data,
            ..Entry::default()
        };
        self.propose_entries(batch.into_iter().map(entry).collect())
    }

    /// Proposes a membership change. A leader that cannot take it now appends an empty entry in its
    /// place.
    ///
    /// # Errors
    /// `ProposalDropped` if it was not taken; `ConfChange` if no member could apply it.
    pub fn propose_conf_change(&mut self, change: &impl ConfChangeLike) -> Result<(), Error> {
        self.propose_entries(vec![change.to_entry()])
    }

    fn propose_entries(&mut self, entries: Vec<Entry>) -> Result<(), Error> {
        let mut m = new_message(MessageType::MsgProp, NONE);
        m.from = self.raft.id;
        m.entries = entries;
        self.raft.step(m)
    }

    /// Puts a committed change into force and gives the configuration that results. Not called for a
    /// change that the application refuses (or called with its node ID set to 0), nor for one that a
    /// snapshot installed meanwhile includes. While a received snapshot waits for its installation, its
    /// configuration is in force already and stays so.
    ///
    /// # Errors
    /// `ConfChange` if it does not fit the configuration; nothing is changed then.
    pub fn apply_conf_change(&mut self, change: &impl ConfChangeLike) -> Result<ConfState, Error> {
        self.raft.apply_conf_change(&change.to_v2())
    }

    /// Takes a message from another member, or the response to storage work.
    ///
    /// Transports must not let peers name a local thread as sender.
    ///
    /// # Errors
    /// The reason if it was refused; none of them is fatal.
    pub fn step(&mut self, m: Message) -> Result<(), Error> {
        let Ok(kind) = MessageType::try_from(m.msg_type) else {
            return Err(message::invalid(&m, "its type is unknown to this version"));
        };
        if !is_local_target(m.from) {
            if is_local_msg(kind) {
                return Err(Error::StepLocalMsg);
            }
            if is_response_msg(kind) && !self.raft.trk.progress.contains_key(&m.from) {
                return Err(Error::StepPeerNotFound);
            }
        }
        self.raft.step(m)
    }

    /// Whether there is work to do. Cheap: no allocation, no storage access while idle.
    #[must_use]
    pub fn has_ready(&self) -> bool {
        let (r, hard_state) = (&self.raft, self.raft.hard_state());
        !r.msgs.is_empty()
            || !r.msgs_after_append.is_empty()
            || !r.log.unstable.next_entries().is_empty()
            || !r.read_states.is_empty()
            || r.soft_state() != self.prev_soft_state
            || (hard_state != HardState::default() && hard_state != self.prev_hard_state)
            || r.log.unstable.next_snapshot().is_some()
            || r.log.has_next_committed(self.apply_unstable())
    }

    /// Committed entries may be applied before they are durable here only if both happen before the next
    /// `Ready`.
    fn apply_unstable(&self) -> bool {
        !self.async_storage_writes
    }

    /// Hands out the work that is due. All of it must be done; without asynchronous storage writes,
    /// [`Self::advance`] must be called before the next one.
    pub fn ready(&mut self) -> Ready {
        assert!(
            self.steps_on_advance.is_empty(),
            "ready() called again without advance()"
        );
        let apply_unstable = self.apply_unstable();
        let r = &mut self.raft;
        let (soft_state, hard_state) = (r.soft_state(), r.hard_state());
        let mut rd = Ready {
            soft_state: (soft_state != self.prev_soft_state).then_some(soft_state),
            hard_state: (hard_state != self.prev_hard_state).then_some(hard_state),
            read_states: std::mem::take(&mut r.read_states),
            entries: r.log.unstable.next_entries().to_vec(),
            snapshot: r.log.unstable.next_snapshot().cloned(),
            committed_entries: r.log.next_committed(apply_unstable),
            messages: std::mem::take(&mut r.msgs),
            must_sync: false,
        };
        rd.must_sync = !rd.entries.is_empty()
            || hard_state.vote != self.prev_hard_state.vote
            || hard_state.term != self.prev_hard_state.term;
        self.prev_soft_state = soft_state;
        self.prev_hard_state = hard_state;

        let after_append = std::mem::take(&mut r.msgs_after_append);
        if self.async_storage_writes {
            if !rd.entries.is_empty()
                || rd.hard_state.is_some()
                || rd.snapshot.is_some()
                || !after_append.is_empty()
            {
                rd.messages.push(storage_append(r, &rd, after_append));
            }
            if !rd.committed_entries.is_empty() {
                rd.messages.push(storage_apply(r, &rd));
            }
        } else {
            for m in after_append {
                if m.to == r.id {
                    self.steps_on_advance.push(m);
                } else {
                    rd.messages.push(m);
                }
            }
            self.steps_on_advance
                .extend(storage_append_response(r, &rd));
            if !rd.committed_entries.is_empty() {
                let response = storage_apply_response(r, &rd);
                self.steps_on_advance.push(response);
            }
        }
        r.log.unstable.accept_in_progress();
        if let Some(last) = rd.committed_entries.last() {
            let size = sizes::encoded_size(&rd.committed_entries);
            r.log.accept_applying(last.index, size, apply_unstable);
        }
        rd
    }

    /// Tells the core that the last [`Ready`] is written and applied.
    ///
    /// # Panics
    /// With asynchronous storage writes, where the responses to storage messages take its place.
    pub fn advance(&mut self) {
        assert!(
            !self.async_storage_writes,
            "advance() called with asynchronous storage writes"
        );
        let mut steps = std::mem::take(&mut self.steps_on_advance);
        for m in steps.drain(..) {
            let _ = self.raft.step(m);
        }
        self.steps_on_advance = steps; // keeps its memory
    }

    /// Asks for an index that, once applied, allows a linearizable read; it comes as a
    /// [`crate::ReadState`] with this context. The request may be lost: ask again after a while, with
    /// another context.
    pub fn read_index(&mut self, context: Bytes) {
        let mut m = new_message(MessageType::MsgReadIndex, NONE);
        m.entries.push(Entry {
            data: context,
            ..Entry::default()
        });
        let _ = self.raft.step(m);
    }

    /// Asks that leadership be handed to a member; given up after an election timeout.
    pub fn transfer_leader(&mut self, to: u64) {
        let mut m = new_message(MessageType::MsgTransferLeader, NONE);
        m.from = to;
        let _ = self.raft.step(m);
    }

    /// Reports that messages to a member do not arrive.
    pub fn report_unreachable(&mut self, id: u64) {
        let mut m = new_message(MessageType::MsgUnreachable, NONE);
        m.from = id;
        let _ = self.raft.step(m);
    }

    /// Reports how sending a snapshot ended. Due for every `MsgSnap` handed out.
    pub fn report_snapshot(&mut self, id: u64, status: SnapshotStatus) {
        let mut m = new_message(MessageType::MsgSnapStatus, NONE);
        m.from = id;
        m.reject = status == SnapshotStatus::Failure;
        let _ = self.raft.step(m);
    }

    /// Makes a follower forget its leader, so that it may vote for another in the same term. No effect
    /// on a leader, or with lease-based reads.
    pub fn forget_leader(&mut self) {
        let _ = self
            .raft
            .step(new_message(MessageType::MsgForgetLeader, NONE));
    }

    /// Allows or forbids this member to campaign and to lead. Forbidding takes effect at once: a
    /// candidate gives up and a leader steps down (hand leadership over before, if there is time). Votes
    /// and appends are answered as ever.
    pub fn set_campaign_allowed(&mut self, allowed: bool) {
        self.raft.set_campaign_allowed(allowed);
    }

    /// Whether this member may campaign and lead.
    #[must_use]
    pub fn campaign_allowed(&self) -> bool {
        self.raft.campaign_allowed()
    }

    /// Makes a leader a follower of the same term. It leads again only if elected to a later one.
    pub fn step_down(&mut self) {
        if self.is_leader() {
            self.raft.become_follower(self.raft.term, NONE);
        }
    }

    /// Sets the current election timeout, which lasts until the next change of role or term. For
    /// simulators and tests.
    pub fn set_election_timeout(&mut self, ticks: usize) {
        self.raft.set_election_timeout(ticks);
    }

    /// The member's ID.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.raft.id
    }

    /// The current term.
    #[must_use]
    pub fn term(&self) -> u64 {
        self.raft.term
    }

    /// The leader's ID, 0 if none is known.
    #[must_use]
    pub fn leader(&self) -> u64 {
        self.raft.lead
    }

    /// Whether this member leads, as far as it knows.
    #[must_use]
    pub fn is_leader(&self) -> bool {
        self.raft.state == StateRole::Leader
    }

    /// The last index of the log, durable or not.
    #[must_use]
    pub fn last_index(&self) -> u64 {
        self.raft.log.last_index()
    }

    /// The term of an entry that is in the log, durable or not.
    ///
    /// # Errors
    /// `Compacted` or `Unavailable` if it is not.
    pub fn entry_term(&self, index: u64) -> Result<u64, StorageError> {
        self.raft.log.term(index)
    }

    /// The membership in force.
    #[must_use]
    pub fn config(&self) -> &tracker::Config {
        &self.raft.trk.config
    }

    /// Each member's progress, in order; meaningful while this member leads. Nothing is copied.
    pub fn progress(&self) -> impl Iterator<Item = (u64, &Progress)> {
        self.raft.trk.progress.iter().map(|(&id, pr)| (id, pr))
    }

    /// Everything there is to know, copied.
    #[must_use]
    pub fn status(&self) -> Status {
        let progress = if self.is_leader() {
            self.raft.trk.progress.clone()
        } else {
            tracker::ProgressMap::new()
        };
        Status {
            basic: self.basic_status(),
            config: self.raft.trk.config.clone(),
            progress,
        }
    }

    /// What is known without copying the members' progress.
    #[must_use]
    pub fn basic_status(&self) -> BasicStatus {
        BasicStatus {
            id: self.raft.id,
            hard_state: self.raft.hard_state(),
            soft_state: self.raft.soft_state(),
            applied: self.raft.log.applied,
            last_index: self.raft.log.last_index(),
            lead_transferee: self.raft.lead_transferee,
        }
    }

    /// The storage.
    #[must_use]
    pub fn storage(&self) -> &S {
        &self.raft.log.storage
    }

    /// The storage, to write to it what a [`Ready`] asks for.
    pub fn storage_mut(&mut self) -> &mut S {
        &mut self.raft.log.storage
    }
}

/// The writing work of a `Ready`, with all that may happen only after it.
///
/// The member's own append acknowledgement comes before the report that its entries are durable: while
/// they are still unstable, their terms need no storage access.
fn storage_append<S: Storage>(r: &Raft<S>, rd: &Ready, responses: Vec<Message>) -> Message {
    let mut m = new_message(MessageType::MsgStorageAppend, LOCAL_APPEND_THREAD);
    m.from = r.id;
    m.entries.clone_from(&rd.entries);
    if let Some(hs) = &rd.hard_state {
        // All zero means "unchanged".
        (m.term, m.vote, m.commit) = (hs.term, hs.vote, hs.commit);
    }
    m.snapshot.clone_from(&rd.snapshot);
    m.responses = responses;
    m.responses.extend(storage_append_response(r, rd));
    m
}

/// The report that a write, and all before it, is durable; none if nobody waits for it.
///
/// It carries the term it was asked in and counts for entries only while the member is still in it:
/// a later term may have replaced entries, replaced them back, and have both writes still under way, so
/// that (term, index) alone would not tell which of them is done. Since such a report may be passed over,
/// every one names the log's last entry whenever anything is unstable, not only when it wrote entries: a
/// change of term always causes a write, whose report then stands for the ones passed over.
fn storage_append_response<S: Storage>(r: &Raft<S>, rd: &Ready) -> Option<Message> {
    let unstable = !r.log.unstable.entries.is_empty();
    if !unstable && rd.snapshot.is_none() {
        return None;
    }
    let mut m = new_message(MessageType::MsgStorageAppendResp, r.id);
    m.from = LOCAL_APPEND_THREAD;
    m.term = r.term;
    if unstable {
        let last = r.log.last_entry_id();
        (m.index, m.log_term) = (last.index, last.term);
    }
    // The data is of no use here, and may be large.
    m.snapshot = rd.snapshot.as_ref().map(|s| Snapshot {
        data: Bytes::new(),
        metadata: s.metadata.clone(),
    });
    Some(m)
}

/// The applying work of a `Ready`. It belongs to no term.
fn storage_apply<S: Storage>(r: &Raft<S>, rd: &Ready) -> Message {
    let mut m = new_message(MessageType::MsgStorageApply, LOCAL_APPLY_THREAD);
    m.from = r.id;
    m.entries.clone_from(&rd.committed_entries);
    m.responses.push(storage_apply_response(r, rd));
    m
}

fn storage_apply_response<S: Storage>(r: &Raft<S>, rd: &Ready) -> Message {
    let mut m = new_message(MessageType::MsgStorageApplyResp, r.id);
    m.from = LOCAL_APPLY_THREAD;
    m.entries.clone_from(&rd.committed_entries);
    m
}
