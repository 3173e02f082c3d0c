//! Who votes and who learns.

use std::collections::BTreeSet;
use std::fmt;

use ferrite_proto::raftpb::ConfState;

use crate::quorum::{JointConfig, MajorityConfig};

/// The membership in force. No member is both voter (in either half) and learner.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The voters.
    pub voters: JointConfig,
    /// Whether the leader ends a joint configuration by itself once its entry is applied.
    pub auto_leave: bool,
    /// Members that receive the log and do not vote.
    pub learners: BTreeSet<u64>,
    /// Outgoing voters that become learners when the joint configuration ends: until then they still
    /// vote, so they cannot be learners yet.
    pub learners_next: BTreeSet<u64>,
}

impl Config {
    /// The configuration as it is stored and sent.
    #[must_use]
    pub fn conf_state(&self) -> ConfState {
        let list = |set: &BTreeSet<u64>| set.iter().copied().collect();
        ConfState {
            voters: list(&self.voters.incoming.0),
            voters_outgoing: list(&self.voters.outgoing.0),
            learners: list(&self.learners),
            learners_next: list(&self.learners_next),
            auto_leave: self.auto_leave,
        }
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "voters={}", self.voters)?;
        let named = [
            ("learners", &self.learners),
            ("learners_next", &self.learners_next),
        ];
        for (name, set) in named {
            if !set.is_empty() {
                write!(f, " {name}={}", MajorityConfig(set.clone()))?;
            }
        }
        if self.auto_leave {
            f.write_str(" autoleave")?;
        }
        Ok(())
    }
}
