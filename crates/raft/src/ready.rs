//! What the core hands out: the work to do, and the small state that goes with it.

use std::fmt;

use bytes::Bytes;
use ferrite_proto::raftpb::{Entry, HardState, Message, Snapshot};

/// A member's role.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StateRole {
    /// Follows a leader, or waits for one.
    #[default]
    Follower,
    /// Asks whether it could win an election; its term is not raised yet.
    PreCandidate,
    /// Stands for election.
    Candidate,
    /// Leads.
    Leader,
}

impl fmt::Display for StateRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Follower => "StateFollower",
            Self::PreCandidate => "StatePreCandidate",
            Self::Candidate => "StateCandidate",
            Self::Leader => "StateLeader",
        })
    }
}

/// State that need not be stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SoftState {
    /// The leader's ID, 0 if none is known.
    pub leader: u64,
    /// This member's role.
    pub state: StateRole,
}

/// An answered read request: once `index` is applied, the read may be served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadState {
    /// The commit index at the time the leader was confirmed, or later than it.
    pub index: u64,
    /// The context the request was made with.
    pub request_ctx: Bytes,
}

/// How the sending of a snapshot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotStatus {
    /// It arrived.
    Finish,
    /// It did not.
    Failure,
}

/// The work that is due.
///
/// Without asynchronous storage writes, in this order: write `entries`, `hard_state` and `snapshot`
/// durably (`must_sync`) to the disk and then to the storage; send `messages`; apply `snapshot` and
/// `committed_entries`; call `advance()`. (A leader may send its append messages while it writes; answers
/// such as votes and append responses must wait.)
///
/// With asynchronous storage writes, `messages` may all be sent at once. Those to
/// [`crate::LOCAL_APPEND_THREAD`] and [`crate::LOCAL_APPLY_THREAD`] hold the same work as the fields here;
/// when it is done, each of their `responses` is delivered to its addressee, this member or another, in
/// order. Work of one thread is done in the order it was given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ready {
    /// Leader and role, if they changed.
    pub soft_state: Option<SoftState>,
    /// Term, vote and commit, if they changed.
    pub hard_state: Option<HardState>,
    /// Answered read requests.
    pub read_states: Vec<ReadState>,
    /// Entries to write. They replace whatever the stored log holds from their first index on.
    pub entries: Vec<Entry>,
    /// A snapshot to install in place of the log.
    pub snapshot: Option<Snapshot>,
    /// Entries to apply.
    pub committed_entries: Vec<Entry>,
    /// Messages to send.
    pub messages: Vec<Message>,
    /// Whether the write must be synced before it counts; a commit index alone need not be.
    pub must_sync: bool,
}
