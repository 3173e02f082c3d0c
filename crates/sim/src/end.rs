//! The end of a simulation: every member holds exactly what the committed log makes, acknowledged writes
//! among it; what clients saw has an order; watchers have been told everything.

use crate::member;
use crate::world::World;

impl World {
    pub(crate) fn judge_the_end(&mut self) {
        for place in 0..self.members.len() {
            let id = self.members[place].id;
            if !self.model.members().contains_key(&id) {
                continue;
            }
            if let Err(reason) = self.judge_member(place) {
                self.fail(format!("at the end {}: {reason}", member::name(place)));
            }
        }
        self.judge_watchers();
        for (id, op) in std::mem::take(&mut self.book.unanswered) {
            if let Some(outcome) = self.model.outcome(id) {
                // One that was refused is tried last of all: it fits in nowhere.
                let at = match outcome.refused {
                    Some(_) => i64::MAX,
                    None => outcome.revision,
                };
                self.history.hints(op, (at, !outcome.changed));
            }
        }
        match self.history.judge() {
            Ok(judged) => {
                for (what, n) in judged {
                    self.stats.add_to(what, n);
                }
            }
            Err(reason) => self.fail(reason),
        }
    }

    fn judge_member(&mut self, place: usize) -> Result<(), String> {
        let Some(running) = &self.members[place].running else {
            return Err("is down".into());
        };
        let applier = running.stages.apply.applier();
        let store = applier.store();
        let model = &self.model;
        if (store.current_revision(), store.compact_revision())
            != (model.revision(), model.compacted())
        {
            return Err(format!(
                "is at revision {} compacted at {}, must be at {} and {}",
                store.current_revision(),
                store.compact_revision(),
                model.revision(),
                model.compacted()
            ));
        }
        let oldest = model.compacted().max(1);
        for key in model.keys() {
            for revision in [model.revision(), oldest] {
                let found = store
                    .get(key, revision)
                    .map_err(|error| error.to_string())?;
                crate::clients::same(key, found.as_ref(), model.at(key, revision))?;
            }
        }
        let members: Vec<(u64, bool)> = applier
            .cluster()
            .members
            .values()
            .map(|member| (member.id, member.is_learner))
            .collect();
        let wanted: Vec<(u64, bool)> = model
            .members()
            .iter()
            .map(|(id, learner)| (*id, *learner))
            .collect();
        if members != wanted {
            return Err(format!("has members {members:x?}, must be {wanted:x?}"));
        }
        let leases = applier.lessor().ids();
        if !leases.is_empty() {
            return Err(format!("has leases {leases:x?} that are over everywhere"));
        }
        let alarms = applier
            .alarms()
            .list(ferrite_proto::etcdserverpb::AlarmType::None);
        if alarms.len() != model.alarms().len() {
            return Err(format!(
                "has alarms {alarms:?}, must be {:?}",
                model.alarms()
            ));
        }
        let auth = applier.auth().view().state();
        let (users, roles) = crate::digest::counts(applier.auth());
        if !model
            .auth()
            .is(auth.enabled(), auth.revision(), users, roles)
        {
            return Err(format!(
                "has users and roles {auth:?}, must be {:?}",
                model.auth()
            ));
        }
        let hash = store.hash_kv(0).map_err(|error| error.to_string())?;
        let (index, seen) = (model.last_index(), (hash.hash, hash.compact_revision));
        let digest = crate::digest::of(applier);
        let first = *self.hashes.entry(index).or_insert(seen);
        if first != seen {
            return Err(format!("has hash {seen:?}, another member {first:?}"));
        }
        let first = self.digests.entry(index).or_insert_with(|| digest.clone());
        if *first != digest {
            return Err(format!("has state {digest}, another member {first}"));
        }
        Ok(())
    }
}
