//! The cluster's version and downgrades: what the leader decides, and how the layout of every member's database
//! follows. Which version a member has is asked for over HTTP in the running program, and here of whoever can be
//! reached; what follows from it is the production code's.

use ferrite_membership::{Version, transition};
use ferrite_node::config::ETCD_VERSION;
use ferrite_node::stage::apply;
use ferrite_node::versions::{decision, downgrade_request, layout, next_layout};

use crate::clients::Owner;
use crate::member::name;
use crate::world::{Event, World};

/// How often a member looks: oftener than a real one, whose days are longer.
const INTERVAL_US: u64 = 1_000_000;

/// The version of the programs that run here.
pub(crate) fn own() -> Version {
    ETCD_VERSION.parse().unwrap_or(transition::UNDECIDED)
}

impl World {
    pub(crate) fn look_at_versions(&mut self, place: usize, life: u64) {
        if !self.lives(place, life) {
            return;
        }
        let paused = self.members[place].paused_until.saturating_sub(self.now);
        self.after(paused.max(INTERVAL_US), Event::Versions(place, life));
        let Some(running) = self.members[place].running.as_ref().filter(|_| paused == 0) else {
            return;
        };
        let applier = running.stages.apply.applier();
        let cluster = applier.cluster().clone();
        let stored = layout(applier.store().backend(), applier.progress().term != 0);
        if running.status.is_leader() {
            let versions: Vec<Option<Version>> = (cluster.members.keys())
                .map(|id| {
                    let there = self.place_of(*id)?;
                    let hears = !self.cut[place][there] && !self.cut[there][place];
                    let runs = hears && self.members[there].running.is_some();
                    (there == place || runs).then(own)
                })
                .collect();
            match decision(&cluster, versions) {
                Ok(None) => {}
                Ok(Some((_, request))) => {
                    self.stats.count("cluster versions decided");
                    self.propose_as(place, Owner::Member, request, None);
                }
                Err(stuck) => self.fail(format!("{}: {stuck}", name(place))),
            }
        }
        if let Some(stored) = stored
            && let Ok(Some(next)) = next_layout(stored, &cluster)
        {
            self.stats.count("layouts of databases changed");
            self.push_apply(place, apply::Input::StorageVersion(next));
        }
    }

    /// The operator begins a downgrade, or ends the one that is under way.
    pub(crate) fn downgrade(&mut self) {
        let Some(place) = self.some_running() else {
            return;
        };
        let Some(running) = &self.members[place].running else {
            return;
        };
        let cluster = running.stages.apply.applier().cluster();
        let target = own().downgrade_target();
        let begins = target.filter(|to| transition::check_downgrade(cluster, *to).is_ok());
        let what = match (begins, transition::running(cluster)) {
            (Some(_), _) => "downgrades begun",
            (None, Some(_)) => "downgrades ended",
            (None, None) => return,
        };
        self.stats.count(what);
        self.asks(place, downgrade_request(begins));
    }

    /// The cluster has the version that it must come to, and every database the layout of that version.
    pub(crate) fn versions_are_settled(&self) -> bool {
        let to_be = self.model.version_to_be(own());
        self.model.version() == Some(to_be)
            && self.model.members().keys().all(|id| {
                let running = (self.place_of(*id)).and_then(|at| self.members[at].running.as_ref());
                running.is_some_and(|running| {
                    let applier = running.stages.apply.applier();
                    applier.cluster().version == Some(to_be)
                        && layout(applier.store().backend(), true) == Some(to_be)
                })
            })
    }
}
