//! What the leader knows of one follower, and how it may send to it.

use std::fmt;

use super::Inflights;

/// How the leader sends to a follower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgressState {
    /// Where its log ends is not known: one append at a time, to find out.
    #[default]
    Probe,
    /// It follows: entries are sent ahead of its acknowledgements.
    Replicate,
    /// It needs a snapshot, which is on its way: nothing else is sent.
    Snapshot,
}

impl fmt::Display for ProgressState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Probe => "StateProbe",
            Self::Replicate => "StateReplicate",
            Self::Snapshot => "StateSnapshot",
        })
    }
}

/// One follower's progress. Always `matched < next`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Its log equals the leader's up to here.
    pub matched: u64,
    /// The next index to send; what lies between `matched` and it is in flight.
    pub next: u64,
    /// The highest commit index sent to it; falls back when what carried it was probably lost.
    pub(crate) sent_commit: u64,
    /// How to send to it.
    pub state: ProgressState,
    /// In `Snapshot`: the index of the snapshot on its way, else 0.
    pub pending_snapshot: u64,
    /// Whether it was heard from since the last quorum check. Always true of the leader itself.
    pub recent_active: bool,
    /// Appends wait until the next heartbeat is answered: a probe is out, or the window is full.
    pub append_paused: bool,
    /// Append messages not yet acknowledged.
    pub inflights: Inflights,
    /// Whether it is a learner.
    pub is_learner: bool,
}

impl Progress {
    pub(crate) fn new(next: u64, inflights: Inflights, is_learner: bool) -> Self {
        Self {
            matched: 0,
            next,
            sent_commit: 0,
            state: ProgressState::Probe,
            pending_snapshot: 0,
            recent_active: false,
            append_paused: false,
            inflights,
            is_learner,
        }
    }

    fn enter(&mut self, state: ProgressState) {
        self.append_paused = false;
        self.pending_snapshot = 0;
        self.state = state;
        self.inflights.reset();
    }

    /// Probes from just after what is known to match, or after the snapshot if one was on its way: it
    /// was presumably installed.
    pub(crate) fn become_probe(&mut self) {
        let snapshot = match self.state {
            ProgressState::Snapshot => self.pending_snapshot,
            _ => 0,
        };
        self.enter(ProgressState::Probe);
        self.next = self.matched.max(snapshot) + 1;
        self.sent_commit = self.sent_commit.min(self.next - 1);
    }

    pub(crate) fn become_replicate(&mut self) {
        self.enter(ProgressState::Replicate);
        self.next = self.matched + 1;
    }

    pub(crate) fn become_snapshot(&mut self, index: u64) {
        self.enter(ProgressState::Snapshot);
        self.pending_snapshot = index;
        self.next = index + 1;
        self.sent_commit = index;
    }

    /// Notes that `count` entries from `next` on, of so many payload bytes, were sent.
    pub(crate) fn sent_entries(&mut self, count: usize, bytes: u64) {
        match self.state {
            ProgressState::Replicate => {
                if count > 0 {
                    self.next += count as u64;
                    self.inflights.add(self.next - 1, bytes);
                }
                // A message that fills the window, or an empty one sent past it, is a probe: wait.
                self.append_paused = self.inflights.is_full();
            }
            // An empty append does not use up the probe.
            ProgressState::Probe => self.append_paused |= count > 0,
            ProgressState::Snapshot => {
                unreachable!("an append was sent while a snapshot is pending")
            }
        }
    }

    /// Whether sending this commit index now could move the follower's: one that covers all it was sent
    /// may be under way already.
    pub(crate) fn can_bump_commit(&self, commit: u64) -> bool {
        commit > self.sent_commit && self.sent_commit < self.next - 1
    }

    pub(crate) fn sent_commit(&mut self, commit: u64) {
        self.sent_commit = commit;
    }

    /// Takes an acknowledgement up to `index`; false if it is old news.
    pub(crate) fn maybe_update(&mut self, index: u64) -> bool {
        if index <= self.matched {
            return false;
        }
        self.matched = index;
        self.next = self.next.max(index + 1);
        self.append_paused = false;
        true
    }

    /// Takes the rejection of an append anchored at `rejected`; the follower's log may match up to
    /// `hint`. False if the rejection is old news, as lost order and duplicates make them.
    pub(crate) fn maybe_decrease_to(&mut self, rejected: u64, hint: u64) -> bool {
        if self.state == ProgressState::Replicate {
            if rejected <= self.matched {
                return false;
            }
            self.next = self.matched + 1;
            self.sent_commit = self.sent_commit.min(self.next - 1);
            return true;
        }
        // Probes go one by one, so a fresh rejection names the last of them.
        if self.next - 1 != rejected {
            return false;
        }
        self.next = rejected.min(hint.saturating_add(1)).max(self.matched + 1);
        self.sent_commit = self.sent_commit.min(self.next - 1);
        self.append_paused = false;
        true
    }

    /// Whether nothing may be sent to it for now.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        match self.state {
            ProgressState::Probe | ProgressState::Replicate => self.append_paused,
            ProgressState::Snapshot => true,
        }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} match={} next={}",
            self.state, self.matched, self.next
        )?;
        if self.is_learner {
            f.write_str(" learner")?;
        }
        if self.is_paused() {
            f.write_str(" paused")?;
        }
        if self.pending_snapshot > 0 {
            write!(f, " pendingSnap={}", self.pending_snapshot)?;
        }
        if !self.recent_active {
            f.write_str(" inactive")?;
        }
        if self.inflights.count() > 0 {
            let full = if self.inflights.is_full() {
                "[full]"
            } else {
                ""
            };
            write!(f, " inflight={}{full}", self.inflights.count())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(state: ProgressState, matched: u64, next: u64) -> Progress {
        let mut pr = Progress::new(next, Inflights::new(2, 0), false);
        pr.state = state;
        pr.matched = matched;
        pr
    }

    #[test]
    fn probing_resumes_after_a_pending_snapshot() {
        let mut pr = progress(ProgressState::Replicate, 3, 9);
        pr.become_snapshot(7);
        assert!(pr.is_paused());
        assert_eq!(pr.next, 8);
        pr.become_probe();
        assert_eq!(
            (pr.next, pr.pending_snapshot, pr.is_paused()),
            (8, 0, false)
        );
        // A failed snapshot is forgotten before probing starts.
        pr.become_snapshot(7);
        pr.pending_snapshot = 0;
        pr.become_probe();
        assert_eq!(pr.next, 4);
    }

    #[test]
    fn a_full_window_pauses_until_acknowledged() {
        let mut pr = progress(ProgressState::Replicate, 0, 1);
        pr.sent_entries(2, 10);
        assert!(!pr.is_paused());
        pr.sent_entries(1, 10);
        assert!(pr.is_paused());
        assert_eq!(pr.next, 4);
        pr.inflights.free_up_to(2);
        assert!(pr.maybe_update(2));
        assert!(!pr.is_paused());
        assert_eq!(pr.next, 4);
        assert!(!pr.maybe_update(2), "an old acknowledgement says nothing");
    }

    #[test]
    fn rejections_move_next_back_but_never_below_the_match() {
        let mut pr = progress(ProgressState::Replicate, 5, 10);
        assert!(!pr.maybe_decrease_to(5, 5), "stale: 5 is acknowledged");
        assert!(pr.maybe_decrease_to(9, 9));
        assert_eq!(pr.next, 6);

        let mut pr = progress(ProgressState::Probe, 0, 10);
        assert!(!pr.maybe_decrease_to(8, 3), "not the probe that is out");
        assert!(pr.maybe_decrease_to(9, 2));
        assert_eq!(pr.next, 3);
        assert!(pr.maybe_decrease_to(2, u64::MAX), "a bogus hint is bounded");
        assert_eq!(pr.next, 2);
    }

    #[test]
    fn commit_is_bumped_only_when_it_can_tell_something() {
        let mut pr = progress(ProgressState::Replicate, 5, 10);
        assert!(pr.can_bump_commit(6));
        pr.sent_commit(9);
        assert!(!pr.can_bump_commit(12), "what is sent covers it");
    }
}
