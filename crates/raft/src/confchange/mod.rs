//! Membership changes: from one configuration and a list of changes to the next, or a refusal. Works on
//! copies, so a refused change leaves no trace.

pub(crate) mod codec;
mod restore;

use ferrite_proto::raftpb::{ConfChangeSingle, ConfChangeType};

use crate::error::Error;
use crate::tracker::{Config, Inflights, Progress, ProgressMap, ProgressTracker};

pub(crate) use restore::{equivalent, restore};

type Changed = Result<(Config, ProgressMap), Error>;

fn refuse<T>(reason: impl Into<String>) -> Result<T, Error> {
    Err(Error::ConfChange(reason.into()))
}

/// Works out a change of the tracker's configuration. `last_index` is where members that are new are
/// first probed.
pub(crate) struct Changer<'a> {
    pub(crate) tracker: &'a ProgressTracker,
    pub(crate) last_index: u64,
}

impl Changer<'_> {
    /// Makes the voters the outgoing half and applies the changes to a copy of them as the incoming one.
    pub(crate) fn enter_joint(&self, auto_leave: bool, changes: &[ConfChangeSingle]) -> Changed {
        let (mut cfg, mut progress) = self.copy()?;
        if cfg.voters.is_joint() {
            return refuse("config is already joint");
        }
        if cfg.voters.incoming.0.is_empty() {
            return refuse("can't make a zero-voter config joint");
        }
        cfg.voters.outgoing = cfg.voters.incoming.clone();
        self.apply(&mut cfg, &mut progress, changes)?;
        cfg.auto_leave = auto_leave;
        checked(cfg, progress)
    }

    /// Drops the outgoing half; voters that were to become learners do.
    pub(crate) fn leave_joint(&self) -> Changed {
        let (mut cfg, mut progress) = self.copy()?;
        if !cfg.voters.is_joint() {
            return refuse("can't leave a non-joint config");
        }
        for id in std::mem::take(&mut cfg.learners_next) {
            cfg.learners.insert(id);
            if let Some(pr) = progress.get_mut(&id) {
                pr.is_learner = true;
            }
        }
        for id in std::mem::take(&mut cfg.voters.outgoing.0) {
            if !cfg.voters.incoming.0.contains(&id) && !cfg.learners.contains(&id) {
                progress.remove(&id);
            }
        }
        cfg.auto_leave = false;
        checked(cfg, progress)
    }

    /// Applies changes that in sum add or remove at most one voter.
    pub(crate) fn simple(&self, changes: &[ConfChangeSingle]) -> Changed {
        let (mut cfg, mut progress) = self.copy()?;
        if cfg.voters.is_joint() {
            return refuse("can't apply simple config change in joint config");
        }
        self.apply(&mut cfg, &mut progress, changes)?;
        let before = &self.tracker.config.voters.incoming.0;
        if before.symmetric_difference(&cfg.voters.incoming.0).count() > 1 {
            return refuse("more than one voter changed without entering joint config");
        }
        checked(cfg, progress)
    }

    fn apply(
        &self,
        cfg: &mut Config,
        progress: &mut ProgressMap,
        changes: &[ConfChangeSingle],
    ) -> Result<(), Error> {
        for change in changes {
            let id = change.node_id;
            if id == 0 {
                continue; // what the application makes of a change that it refuses
            }
            match ConfChangeType::try_from(change.change_type) {
                Ok(ConfChangeType::ConfChangeAddNode) => self.make_voter(cfg, progress, id),
                Ok(ConfChangeType::ConfChangeAddLearnerNode) => {
                    self.make_learner(cfg, progress, id);
                }
                Ok(ConfChangeType::ConfChangeRemoveNode) => remove(cfg, progress, id),
                Ok(ConfChangeType::ConfChangeUpdateNode) => {}
                Err(_) => {
                    return refuse(format!("unexpected conf type {}", change.change_type));
                }
            }
        }
        if cfg.voters.incoming.0.is_empty() {
            return refuse("removed all voters");
        }
        Ok(())
    }

    fn make_voter(&self, cfg: &mut Config, progress: &mut ProgressMap, id: u64) {
        cfg.voters.incoming.0.insert(id);
        cfg.learners.remove(&id);
        cfg.learners_next.remove(&id);
        match progress.get_mut(&id) {
            Some(pr) => pr.is_learner = false,
            None => {
                progress.insert(id, self.new_progress(false));
            }
        }
    }

    fn make_learner(&self, cfg: &mut Config, progress: &mut ProgressMap, id: u64) {
        let Some(mut pr) = progress.get(&id).cloned() else {
            cfg.learners.insert(id);
            progress.insert(id, self.new_progress(true));
            return;
        };
        if pr.is_learner {
            return;
        }
        remove(cfg, progress, id);
        if cfg.voters.outgoing.0.contains(&id) {
            cfg.learners_next.insert(id); // it votes until the joint configuration ends
        } else {
            pr.is_learner = true;
            cfg.learners.insert(id);
        }
        progress.insert(id, pr); // what is known of it stays true
    }

    fn new_progress(&self, is_learner: bool) -> Progress {
        let window = Inflights::new(self.tracker.max_inflight, self.tracker.max_inflight_bytes);
        let mut pr = Progress::new(self.last_index.max(1), window, is_learner);
        // Else the next quorum check could count a member as lost that had no time to speak.
        pr.recent_active = true;
        pr
    }

    fn copy(&self) -> Changed {
        checked(self.tracker.config.clone(), self.tracker.progress.clone())
    }
}

fn remove(cfg: &mut Config, progress: &mut ProgressMap, id: u64) {
    if !progress.contains_key(&id) {
        return;
    }
    cfg.voters.incoming.0.remove(&id);
    cfg.learners.remove(&id);
    cfg.learners_next.remove(&id);
    if !cfg.voters.outgoing.0.contains(&id) {
        progress.remove(&id);
    }
}

/// Checks that configuration and progress agree. The empty configuration is allowed: a bootstrap starts
/// from it.
fn checked(cfg: Config, progress: ProgressMap) -> Changed {
    let voters = cfg.voters.ids();
    for id in voters.iter().chain(&cfg.learners).chain(&cfg.learners_next) {
        if !progress.contains_key(id) {
            return refuse(format!("no progress for {id}"));
        }
    }
    let marked = |id: &u64| progress.get(id).is_some_and(|pr| pr.is_learner);
    for id in &cfg.learners_next {
        if !cfg.voters.outgoing.0.contains(id) {
            return refuse(format!(
                "{id} is to become a learner, but is no outgoing voter"
            ));
        }
        if marked(id) {
            return refuse(format!(
                "{id} is to become a learner, but is marked as one already"
            ));
        }
    }
    for id in &cfg.learners {
        if voters.contains(id) {
            return refuse(format!("{id} is both a learner and a voter"));
        }
        if !marked(id) {
            return refuse(format!("{id} is a learner, but is not marked as one"));
        }
    }
    if !cfg.voters.is_joint() && (!cfg.learners_next.is_empty() || cfg.auto_leave) {
        return refuse("a config that is not joint holds parts of a joint one");
    }
    Ok((cfg, progress))
}

#[cfg(test)]
mod tests;
