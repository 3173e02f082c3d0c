//! What a member is started with. Checked once, at start; never changed afterwards.

use crate::error::Error;
use crate::message::{NONE, is_local_target};

/// Stands for "no limit" in the size fields of [`Config`].
pub const NO_LIMIT: u64 = u64::MAX;

/// How a leader makes sure that it still is the leader before it answers a read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadOnlyOption {
    /// A quorum confirms the leader by answering a heartbeat: safe whatever the clocks do.
    #[default]
    Safe,
    /// The leader trusts its lease, that is the election timeout. Wants `check_quorum`, and clocks
    /// whose drift is bounded.
    LeaseBased,
}

/// Start parameters of a member.
#[derive(Clone, Debug)]
pub struct Config {
    /// The member's own ID: neither 0 nor one of the local thread IDs.
    pub id: u64,
    /// Ticks without word from a leader after which a follower may campaign; the true timeout is drawn
    /// from `[election_tick, 2 * election_tick)`. Greater than `heartbeat_tick`; ten times it is usual.
    pub election_tick: usize,
    /// Ticks between two heartbeats of a leader.
    pub heartbeat_tick: usize,
    /// The last index the application has applied, so that it is not handed out again. 0 at first start.
    pub applied: u64,
    /// Storage work leaves as messages to [`crate::LOCAL_APPEND_THREAD`] and
    /// [`crate::LOCAL_APPLY_THREAD`], whose `responses` the caller delivers when the work is done; there
    /// is no `advance()` then.
    pub async_storage_writes: bool,
    /// Most bytes of entries in one append message; a single larger entry is still sent. 0: one entry a
    /// message.
    pub max_size_per_msg: u64,
    /// Most bytes of committed entries handed out and not yet applied. 0: `max_size_per_msg`.
    pub max_committed_size_per_ready: u64,
    /// Most payload bytes in the leader's uncommitted tail; past it proposals are dropped. 0: no limit.
    pub max_uncommitted_entries_size: u64,
    /// Most append messages in flight to one follower.
    pub max_inflight_msgs: usize,
    /// Most payload bytes in flight to one follower. 0: no limit; else at least `max_size_per_msg`.
    pub max_inflight_bytes: u64,
    /// A leader steps down when it has not heard from a quorum for an election timeout, and a member that
    /// hears its leader refuses to vote for others.
    pub check_quorum: bool,
    /// Ask whether an election could be won before raising the term for it.
    pub pre_vote: bool,
    /// How reads are confirmed.
    pub read_only: ReadOnlyOption,
    /// A follower drops proposals instead of passing them to the leader.
    pub disable_proposal_forwarding: bool,
    /// A leader does not check conf changes against its current configuration when they are proposed.
    pub disable_conf_change_validation: bool,
    /// A leader that applies its own removal or demotion becomes a follower at once.
    pub step_down_on_removal: bool,
    /// Seed of the election timeouts. The member's ID is mixed in, so one seed can serve a cluster.
    pub seed: u64,
}

impl Default for Config {
    /// etcd's shape (ten ticks to one, no limits), with no ID: the caller fills it in.
    fn default() -> Self {
        Self {
            id: NONE,
            election_tick: 10,
            heartbeat_tick: 1,
            applied: 0,
            async_storage_writes: false,
            max_size_per_msg: NO_LIMIT,
            max_committed_size_per_ready: NO_LIMIT,
            max_uncommitted_entries_size: NO_LIMIT,
            max_inflight_msgs: 512,
            max_inflight_bytes: NO_LIMIT,
            check_quorum: false,
            pre_vote: false,
            read_only: ReadOnlyOption::Safe,
            disable_proposal_forwarding: false,
            disable_conf_change_validation: false,
            step_down_on_removal: false,
            seed: 0,
        }
    }
}

impl Config {
    /// Refuses what cannot work and replaces the zeros that mean "the default".
    pub(crate) fn checked(mut self) -> Result<Self, Error> {
        let refuse = |reason: &'static str| Err(Error::InvalidConfig(reason.into()));
        if self.id == NONE {
            return refuse("cannot use none as id: give the member an ID other than 0");
        }
        if is_local_target(self.id) {
            return refuse("cannot use a local thread's ID as id: choose a smaller one");
        }
        if self.heartbeat_tick == 0 {
            return refuse("heartbeat tick must be greater than 0");
        }
        if self.election_tick <= self.heartbeat_tick {
            return refuse("election tick must be greater than heartbeat tick");
        }
        if self.max_uncommitted_entries_size == 0 {
            self.max_uncommitted_entries_size = NO_LIMIT;
        }
        if self.max_committed_size_per_ready == 0 {
            self.max_committed_size_per_ready = self.max_size_per_msg.max(1);
        }
        if self.max_inflight_msgs == 0 {
            return refuse("max inflight messages must be greater than 0");
        }
        if self.max_inflight_bytes == 0 {
            self.max_inflight_bytes = NO_LIMIT;
        } else if self.max_inflight_bytes < self.max_size_per_msg {
            return refuse("max inflight bytes must be at least the max message size");
        }
        if self.read_only == ReadOnlyOption::LeaseBased && !self.check_quorum {
            return refuse("lease-based reads need check quorum: turn it on, or use safe reads");
        }
        Ok(self)
    }
}
