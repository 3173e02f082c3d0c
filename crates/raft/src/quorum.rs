//! Who must agree: majorities, and joint configurations in which two majorities must.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ferrite_mutate::mutation;

/// How a vote stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VoteResult {
    /// Undecided: the missing votes may still turn it.
    Pending,
    /// A quorum cannot be reached any more.
    Lost,
    /// A quorum agreed.
    Won,
}

/// A set of voters that decides by majority.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MajorityConfig(pub BTreeSet<u64>);

impl MajorityConfig {
    /// The highest index that a majority has acknowledged, given each voter's (absent: 0). `u64::MAX`
    /// for an empty set, so that the empty half of a joint configuration never holds the other back.
    pub fn committed_index(&self, acked: impl Fn(u64) -> Option<u64>) -> u64 {
        if self.0.is_empty() {
            return u64::MAX;
        }
        let majority = self.0.len() / 2 + 1 - usize::from(mutation!("commit-by-minority"));
        // Voters are few: asking, for each one's index, how many reach it costs less than sorting a copy.
        let mut committed = 0;
        for &candidate in &self.0 {
            let index = acked(candidate).unwrap_or(0);
            if index <= committed {
                continue;
            }
            let reached = self.0.iter().filter(|&&id| acked(id).unwrap_or(0) >= index);
            if reached.count() >= majority {
                committed = index;
            }
        }
        committed
    }

    /// How the vote stands. An empty set has won, again so that the other half decides.
    #[must_use]
    pub fn vote_result(&self, votes: &BTreeMap<u64, bool>) -> VoteResult {
        if self.0.is_empty() {
            return VoteResult::Won;
        }
        let majority = self.0.len() / 2 + 1;
        let (mut granted, mut missing) = (0, 0);
        for id in &self.0 {
            match votes.get(id) {
                Some(true) => granted += 1,
                Some(false) => {}
                None => missing += 1,
            }
        }
        if granted >= majority {
            VoteResult::Won
        } else if granted + missing >= majority {
            VoteResult::Pending
        } else {
            VoteResult::Lost
        }
    }
}

impl fmt::Display for MajorityConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(")?;
        for (i, id) in self.0.iter().enumerate() {
            let gap = if i > 0 { " " } else { "" };
            write!(f, "{gap}{id:x}")?;
        }
        f.write_str(")")
    }
}

/// The voters: one majority, or during a joint change both the incoming and the outgoing one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JointConfig {
    /// The voters of the configuration in force, or coming into force.
    pub incoming: MajorityConfig,
    /// The voters of the configuration being left. Empty unless joint.
    pub outgoing: MajorityConfig,
}

impl JointConfig {
    /// Whether two majorities must agree.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.outgoing.0.is_empty()
    }

    /// Whether the member votes in either half.
    #[must_use]
    pub fn contains(&self, id: u64) -> bool {
        self.incoming.0.contains(&id) || self.outgoing.0.contains(&id)
    }

    /// The voters of both halves, ascending.
    #[must_use]
    pub fn ids(&self) -> BTreeSet<u64> {
        self.incoming.0.union(&self.outgoing.0).copied().collect()
    }

    /// The highest index that is committed in both halves.
    pub fn committed_index(&self, acked: impl Fn(u64) -> Option<u64>) -> u64 {
        let incoming = self.incoming.committed_index(&acked);
        incoming.min(self.outgoing.committed_index(&acked))
    }

    /// How the vote stands: won only if both halves are, lost if either is.
    #[must_use]
    pub fn vote_result(&self, votes: &BTreeMap<u64, bool>) -> VoteResult {
        match (
            self.incoming.vote_result(votes),
            self.outgoing.vote_result(votes),
        ) {
            (a, b) if a == b => a,
            (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
            _ => VoteResult::Pending,
        }
    }
}

impl fmt::Display for JointConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.incoming.fmt(f)?;
        if self.is_joint() {
            write!(f, "&&{}", self.outgoing)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn majority(ids: &[u64]) -> MajorityConfig {
        MajorityConfig(ids.iter().copied().collect())
    }

    fn joint(incoming: &[u64], outgoing: &[u64]) -> JointConfig {
        JointConfig {
            incoming: majority(incoming),
            outgoing: majority(outgoing),
        }
    }

    /// Acks as `(voter, index)`; voters not named have not reported.
    fn committed(c: &JointConfig, acks: &[(u64, u64)]) -> u64 {
        let acks: BTreeMap<u64, u64> = acks.iter().copied().collect();
        c.committed_index(|id| acks.get(&id).copied())
    }

    fn vote(c: &JointConfig, yes: &[u64], no: &[u64]) -> VoteResult {
        let yes = yes.iter().map(|&id| (id, true));
        let votes = yes.chain(no.iter().map(|&id| (id, false))).collect();
        c.vote_result(&votes)
    }

    #[test]
    fn majority_commits_the_index_most_voters_reach() {
        assert_eq!(committed(&joint(&[], &[]), &[]), u64::MAX);
        assert_eq!(committed(&joint(&[1], &[]), &[(1, 12)]), 12);
        assert_eq!(committed(&joint(&[1, 2], &[]), &[(1, 12), (2, 5)]), 5);
        assert_eq!(committed(&joint(&[1, 2, 3], &[]), &[(1, 12)]), 0);
        assert_eq!(committed(&joint(&[1, 2, 3], &[]), &[(1, 12), (2, 5)]), 5);
        let four = joint(&[1, 2, 3, 4], &[]);
        assert_eq!(committed(&four, &[(1, 9), (2, 9), (3, 7), (4, 8)]), 8);
        let five = joint(&[1, 2, 3, 4, 5], &[]);
        assert_eq!(
            committed(&five, &[(1, 9), (2, 9), (3, 7), (4, 7), (9, 99)]),
            7
        );
    }

    #[test]
    fn joint_commits_the_lower_of_both_halves() {
        let c = joint(&[1, 2, 3], &[3, 4, 5]);
        let acks = [(1, 10), (2, 10), (3, 2), (4, 3), (5, 4)];
        assert_eq!(committed(&c, &acks), 3);
        assert_eq!(committed(&c, &[(1, 10), (2, 10)]), 0);
    }

    #[test]
    fn joint_vote_needs_both_halves() {
        let c = joint(&[1, 2, 3], &[3, 4, 5]);
        assert_eq!(vote(&c, &[1, 2], &[]), VoteResult::Pending);
        assert_eq!(vote(&c, &[1, 2, 4, 5], &[]), VoteResult::Won);
        assert_eq!(vote(&c, &[1, 3, 4], &[]), VoteResult::Won);
        assert_eq!(vote(&c, &[1, 2], &[4, 5]), VoteResult::Lost);
        assert_eq!(vote(&c, &[], &[1, 2]), VoteResult::Lost);
        assert_eq!(vote(&joint(&[], &[]), &[], &[]), VoteResult::Won);
        assert_eq!(vote(&joint(&[1, 2], &[]), &[1], &[2]), VoteResult::Lost);
    }
}
