//! A member's view of itself and, if it leads, of the others.

use std::collections::BTreeMap;

use ferrite_proto::raftpb::HardState;

use crate::ready::SoftState;
use crate::tracker::{Config, Progress};

/// What is known without copying the members' progress.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BasicStatus {
    /// The member's ID.
    pub id: u64,
    /// Term, vote and commit.
    pub hard_state: HardState,
    /// Leader and role.
    pub soft_state: SoftState,
    /// The last index reported as applied.
    pub applied: u64,
    /// The last index of the log, durable or not.
    pub last_index: u64,
    /// Whom leadership is being handed to, 0 if nobody.
    pub lead_transferee: u64,
}

/// Everything there is to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// The member itself.
    pub basic: BasicStatus,
    /// The membership in force.
    pub config: Config,
    /// Each member's progress; empty unless this member leads.
    pub progress: BTreeMap<u64, Progress>,
}
