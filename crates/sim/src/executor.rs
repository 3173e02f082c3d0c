//! The executor of effects: what the threads of the driver do, in simulated time, one effect at a
//! time, with a crash possible before each.

use ferrite_apply::TokenChange;
use ferrite_mvcc::schema;
use ferrite_node::Event as NodeEvent;
use ferrite_node::stage::raft::{ApplyJob, Input, PersistJob, Persisted};
use ferrite_node::stage::{apply, commit, log, raft};
use ferrite_proto::raftpb::{Message, MessageType};

use crate::member::{Running, Unfinished, name};
use crate::model::News;
use crate::mutation::Mutation;
use crate::world::{Event, Stage, World};

/// A member rewrites its database when a commit ends at an index that this divides.
const REWRITE_EVERY: u64 = 5;

/// A member that was removed stops so long after it has learned so.
const LEAVES_AFTER_US: u64 = 1_000_000;

impl World {
    fn running(&mut self, place: usize) -> Option<&mut Running> {
        self.members[place].running.as_mut()
    }

    fn schedule(&mut self, place: usize, stage: Stage, from_us: u64, to_us: u64) {
        let (life, after) = (self.members[place].life, self.rng.range(from_us, to_us));
        self.after(after, Event::Run(place, life, stage));
    }

    pub(crate) fn push_raft(&mut self, place: usize, input: Input<u64>) {
        let Some(running) = self.running(place) else {
            return;
        };
        running.raft_in.push(input);
        if !std::mem::replace(&mut running.raft_due, true) {
            self.schedule(place, Stage::Raft, 5, 300);
        }
    }

    fn push_log(&mut self, place: usize, input: log::Input) {
        let Some(running) = self.running(place) else {
            return;
        };
        running.log_in.push_back(input);
        if running.log_in.len() == 1 && matches!(running.log, Unfinished::Idle) {
            self.schedule(place, Stage::Log, 5, 200);
        }
    }

    pub(crate) fn push_commit(&mut self, place: usize, input: commit::Input) {
        let Some(running) = self.running(place) else {
            return;
        };
        running.commit_in.push_back(input);
        if running.commit_in.len() == 1 && matches!(running.commit, Unfinished::Idle) {
            self.schedule(place, Stage::Commit, 5, 1_000);
        }
    }

    pub(crate) fn push_apply(&mut self, place: usize, input: apply::Input) {
        let Some(running) = self.running(place) else {
            return;
        };
        running.apply_in.push_back(input);
        if !std::mem::replace(&mut running.apply_due, true) {
            self.schedule(place, Stage::Apply, 5, 3_000);
        }
    }

    /// Wakes the apply stage when it asks for it.
    pub(crate) fn schedule_turn(&mut self, place: usize) {
        let Some(running) = self.running(place) else {
            return;
        };
        let Some(at) = running.stages.apply.deadline() else {
            return;
        };
        if running.turn_at.is_none_or(|known| at < known) {
            running.turn_at = Some(at);
            let wait = self.until(place, at);
            self.schedule(place, Stage::Turn, wait, wait + 100);
        }
    }

    /// One more effect of a member is about to be done; false when it crashes instead.
    fn goes_on(&mut self, place: usize) -> bool {
        if self.violation.is_some() || self.members[place].running.is_none() {
            return false;
        }
        match &mut self.members[place].armed.effects {
            Some(0) => {
                self.stats.count("crashes at an effect");
                self.crash(place);
                false
            }
            Some(left) => {
                *left -= 1;
                true
            }
            None => true,
        }
    }

    /// The disk has failed an operation.
    fn disk_failed(&mut self, place: usize, reason: &str) {
        if self.members[place].armed.writes {
            self.stats.count("crashes at a write");
            self.crash(place);
        } else if self.members[place].full {
            self.stats.count("crashes at a full disk");
            self.crash(place);
        } else if self.is_read_failure(place, reason) {
            self.stats.count("crashes at a read");
            self.crash(place);
        } else {
            self.fail(format!("{}: {reason}", name(place)));
        }
    }

    pub(crate) fn run_stage(&mut self, place: usize, life: u64, stage: Stage) {
        match stage {
            Stage::Raft => self.run_raft(place),
            Stage::Log => self.begin_log(place),
            Stage::LogDone => self.end_log(place),
            Stage::Apply => self.run_apply(place),
            Stage::Turn => {
                if let Some(running) = self.running(place) {
                    running.turn_at = None;
                }
                self.turn(place);
            }
            Stage::Commit => self.begin_commit(place),
            Stage::CommitDone => self.end_commit(place),
        }
        if self.lives(place, life) {
            self.schedule_turn(place);
        }
    }

    fn run_raft(&mut self, place: usize) {
        let now = self.instant(place);
        let Some(running) = self.members[place].running.as_mut() else {
            return;
        };
        running.raft_due = false;
        let before = running.stages.raft.leadership();
        let inputs = std::mem::take(&mut running.raft_in);
        let effects = running.stages.raft.step(inputs);
        let seen = running.stages.raft.leadership();
        // Before anything of it leaves.
        running.status.publish(&seen, now);
        let leads = seen.is_leader.then_some(seen.term);
        let core = running.stages.raft.core();
        let counted = before.is_leader
            && seen.is_leader
            && before.term == seen.term
            && before.committed < seen.committed;
        // A leader counts acknowledgements of its own term's entries only: those before come with them.
        if counted
            && core
                .entry_term(seen.committed)
                .is_ok_and(|term| term != seen.term)
        {
            let index = seen.committed;
            self.fail(format!(
                "{} commits entry {index}, of an older term, by counting",
                name(place)
            ));
            return;
        }
        if leads.is_some() && leads != running.led {
            self.stats.count("elections won");
            if let Err(reason) = self.safety.elected(running.stages.raft.core(), &self.model) {
                self.fail(reason);
            }
        }
        if let Some(running) = self.running(place) {
            running.led = leads;
        }
        self.execute_raft(place, seen.term, effects);
    }

    fn execute_raft(&mut self, place: usize, term: u64, effects: raft::Effects<u64>) {
        for reason in effects.refused {
            // A message may be nonsense; what concerns the own log may not.
            if !reason.starts_with("Msg") {
                self.fail(format!("{}: {reason}", name(place)));
            }
        }
        for message in effects.send {
            if !self.goes_on(place) {
                return;
            }
            self.send_out(place, message);
        }
        for job in effects.persist {
            if !self.goes_on(place) {
                return;
            }
            self.persist(place, job);
        }
        for job in effects.apply {
            if !self.goes_on(place) {
                return;
            }
            for entry in &job.entries {
                match self.model.commit(entry, term) {
                    Ok(news) => self.heard(&news),
                    Err(reason) => self.fail(format!("{}: {reason}", name(place))),
                }
            }
            self.apply_later(place, job);
        }
        for (index, readers) in effects.reads_ready {
            for reader in readers {
                if !self.goes_on(place) {
                    return;
                }
                let early = self.mutation == Some(Mutation::ReadBeforeApplied);
                let Some(running) = self.running(place) else {
                    return;
                };
                if early || running.applied.wait(index, reader).is_some() {
                    self.read(place, reader);
                }
            }
        }
        for (_, readers) in effects.reads_failed {
            for reader in readers {
                self.refused(reader);
            }
        }
        for id in effects.dropped {
            self.refused(id);
        }
    }

    /// What an entry that was committed just now means for others than its client.
    fn heard(&mut self, news: &News) {
        if let Some(place) = news.added.and_then(|id| self.place_of(id))
            && place >= self.plan.founders
        {
            self.stats.count("members added");
            let after = self.rng.range(10_000, 1_000_000);
            self.start_after(place, after);
        }
        if let Some(id) = news.promoted {
            self.learner_promoted(id);
        }
        if let Some((lease, ttl_seconds)) = news.granted {
            self.lease_begins(lease, ttl_seconds);
        }
        if let Some((lease, request)) = news.revoked {
            self.lease_ends(lease, request);
        }
    }

    fn send_out(&mut self, place: usize, message: Message) {
        let accepts = message.msg_type() == MessageType::MsgAppResp && !message.reject;
        if accepts
            && let Some(running) = &self.members[place].running
            && self.mutation.is_none()
            // Entries of an older term may have been replaced before they were written: the promise
            // made for them then is kept by what is written in their place.
            && message.term == running.stages.raft.core().term()
            && message.index > running.durable_max
        {
            let durable = running.durable_max;
            self.fail(format!(
                "{} acknowledges entry {}, durable are {durable}",
                name(place),
                message.index
            ));
        }
        self.send(place, message);
    }

    fn persist(&mut self, place: usize, mut job: PersistJob) {
        if let Some(running) = self.members[place].running.as_mut()
            && let Err(reason) = self.safety.persists(&mut running.shadow, &job)
        {
            self.fail(format!("{}: {reason}", name(place)));
        }
        match self.mutation {
            Some(Mutation::ForgetVote) => {
                if let Some(state) = &mut job.hard_state {
                    state.vote = 0;
                }
            }
            Some(Mutation::ApplyUncommitted) if self.leads(place) && !job.entries.is_empty() => {
                let entries = job.entries.clone();
                let responses = Vec::new();
                self.push_apply(place, apply::Input::Apply(ApplyJob { entries, responses }));
            }
            Some(Mutation::PersistedTooEarly) if job.snapshot.is_none() => {
                let id = self.members[place].id;
                let responses = std::mem::take(&mut job.responses);
                let (own, others): (Vec<_>, Vec<_>) =
                    responses.into_iter().partition(|message| message.to == id);
                for message in others {
                    self.send(place, message);
                }
                self.push_raft(
                    place,
                    Input::Persisted(Persisted {
                        hard_state: job.hard_state,
                        entries: job.entries.clone(),
                        snapshot: None,
                        responses: own,
                    }),
                );
            }
            _ => {}
        }
        self.push_log(place, log::Input::Persist(job));
    }

    fn leads(&self, place: usize) -> bool {
        self.members[place]
            .running
            .as_ref()
            .is_some_and(|running| running.led.is_some())
    }

    fn apply_later(&mut self, place: usize, mut job: ApplyJob) {
        if self.mutation == Some(Mutation::SkipEntry) && place == 1 && self.rng.per_mille(20) {
            for entry in &mut job.entries {
                if entry.entry_type == 0 {
                    entry.data = bytes::Bytes::new();
                }
            }
        }
        self.push_apply(place, apply::Input::Apply(job));
    }

    fn sync_time(&mut self) -> u64 {
        if self.calm_since.is_none() && self.rng.per_mille(self.plan.stall) {
            self.stats.count("stalled writes");
            return self.rng.range(500_000, 4_000_000);
        }
        self.rng.range(50, self.plan.sync_max_us)
    }

    fn begin_log(&mut self, place: usize) {
        let early = self.rng.per_mille(500);
        let now = self.now;
        let Some(running) = self.running(place) else {
            return;
        };
        running.log_since = now;
        running.log = Unfinished::Begun;
        if early {
            match running.stages.log.step(&mut running.log_in) {
                Ok(effects) => running.log = Unfinished::Done(effects),
                Err(error) => {
                    let reason = error.to_string();
                    self.disk_failed(place, &reason);
                    return;
                }
            }
        }
        let took = self.sync_time();
        self.schedule(place, Stage::LogDone, took, took + 1);
    }

    fn end_log(&mut self, place: usize) {
        let Some(running) = self.running(place) else {
            return;
        };
        let effects = match std::mem::replace(&mut running.log, Unfinished::Idle) {
            Unfinished::Done(effects) => Ok(effects),
            Unfinished::Begun => running.stages.log.step(&mut running.log_in),
            Unfinished::Idle => return,
        };
        let effects = match effects {
            Ok(effects) => effects,
            Err(error) => {
                let reason = error.to_string();
                self.disk_failed(place, &reason);
                return;
            }
        };
        running.durable_max = running.durable_max.max(running.stages.log.durable_index());
        if !running.log_in.is_empty() {
            self.schedule(place, Stage::Log, 5, 200);
        }
        self.stats.count("log writes");
        for snapshot in effects.installs {
            if !self.goes_on(place) {
                return;
            }
            self.push_apply(place, apply::Input::Install(snapshot));
        }
        for message in effects.to_peers {
            if !self.goes_on(place) {
                return;
            }
            self.send_out(place, message);
        }
        let told_already = self.mutation == Some(Mutation::PersistedTooEarly);
        for persisted in effects.persisted {
            if !self.goes_on(place) {
                return;
            }
            for message in &persisted.responses {
                if let Err(reason) = self.safety.sends(message) {
                    self.fail(reason);
                }
            }
            if !told_already || persisted.snapshot.is_some() {
                self.push_raft(place, Input::Persisted(persisted));
            }
        }
    }

    fn run_apply(&mut self, place: usize) {
        let Some(running) = self.running(place) else {
            return;
        };
        running.apply_due = false;
        let inputs = std::mem::take(&mut running.apply_in);
        let now = self.instant(place);
        for input in inputs {
            let Some(running) = self.running(place) else {
                return;
            };
            let waiting = &running.waiting;
            match running
                .stages
                .apply
                .step(input, || now, |id| waiting.contains(&id), |_, _, _| {})
            {
                Ok(effects) => self.execute_apply(place, effects),
                Err(reason) => self.cannot_apply(place, &reason),
            }
        }
        self.turn(place);
    }

    fn turn(&mut self, place: usize) {
        let now = self.instant(place);
        let Some(running) = self.running(place) else {
            return;
        };
        match running.stages.apply.turn(now) {
            Ok(effects) => self.execute_apply(place, effects),
            Err(reason) => self.cannot_apply(place, &reason),
        }
    }

    /// Applying writes to no disk: only what cannot be read may stop it.
    fn cannot_apply(&mut self, place: usize, reason: &str) {
        if self.is_read_failure(place, reason) {
            self.disk_failed(place, reason);
        } else {
            self.fail(format!("{} cannot apply: {reason}", name(place)));
        }
    }

    fn execute_apply(&mut self, place: usize, mut effects: apply::Effects<u64>) {
        if effects.progress.is_some() {
            // What the judge reads must not be what fails.
            let bad = self.members[place].disk.fail_reads(None);
            if let Err(reason) = self.judge_applied(place) {
                self.fail(format!("{}: {reason}", name(place)));
            }
            self.members[place].disk.fail_reads(bad);
        }
        let now = self.instant(place);
        if let Some(running) = self.running(place)
            && !effects.leases.is_empty()
        {
            running.leases.follow(&effects.leases, now);
        }
        if let Some(running) = self.running(place) {
            if effects.replace_peers {
                for (_, moved) in running.tokens_seen.values_mut() {
                    *moved = true;
                }
                running.from_database = running.stages.apply.applier().progress().index;
            }
            for change in &effects.tokens {
                if let TokenChange::Assigned { prefix, .. } = change {
                    running.tokens_seen.insert(prefix.clone(), (now, false));
                }
            }
            if !effects.tokens.is_empty() {
                let changes = std::mem::take(&mut effects.tokens);
                running.tokens.follow(changes, now);
            }
        }
        for (id, answer) in &effects.answers {
            if !self.goes_on(place) {
                return;
            }
            if let Some(running) = self.running(place)
                && running.waiting.remove(id)
            {
                self.answered(*id, answer);
            }
        }
        if let Some(progress) = effects.progress
            && let Some(running) = self.running(place)
        {
            for reader in running.applied.advance(progress.index) {
                self.read(place, reader);
            }
        }
        if !effects.watch.is_empty() {
            if !self.goes_on(place) {
                return;
            }
            if let Some(running) = self.running(place) {
                running.hub.publish(effects.watch);
            }
        }
        let mut removed = false;
        for event in effects.events {
            match event {
                NodeEvent::NoSpace { .. } => self.raise_no_space(place),
                NodeEvent::RemovedSelf => removed = true,
                NodeEvent::FirstOfTerm | NodeEvent::ClusterAttributes => {}
            }
        }
        for input in effects.commit {
            if !self.goes_on(place) {
                return;
            }
            self.push_commit(place, input);
        }
        for input in effects.raft {
            if !self.goes_on(place) {
                return;
            }
            self.push_raft(place, input);
        }
        for job in effects.hashes {
            if let Some(running) = self.running(place) {
                let store = running.stages.apply.applier().store().clone();
                match job.run(&store) {
                    Err(reason) if !self.is_read_failure(place, &reason.to_string()) => {
                        self.fail(format!("{}: {reason}", name(place)));
                    }
                    _ => {}
                }
            }
        }
        if effects.replace_peers {
            self.stats.count("databases installed");
        }
        if removed {
            let life = self.members[place].life;
            self.after(LEAVES_AFTER_US, Event::Leave(place, life));
        }
    }

    /// Invariants 2 and 12, and equal hashes at equal indexes.
    fn judge_applied(&mut self, place: usize) -> Result<(), String> {
        let lies = self.mutation.is_some();
        let Some(running) = self.running(place) else {
            return Ok(());
        };
        let applier = running.stages.apply.applier();
        let (index, durable) = (applier.progress().index, running.stages.log.durable_index());
        if index > durable && !lies {
            return Err(format!("has applied entry {index}, durable are {durable}"));
        }
        let revision = applier.store().current_revision();
        if revision < running.revision {
            return Err(format!(
                "its revision went from {} to {revision}",
                running.revision
            ));
        }
        running.revision = revision;
        if index % 8 != 0 {
            return Ok(());
        }
        let hash = applier
            .store()
            .hash_kv(0)
            .map_err(|error| error.to_string())?;
        let seen = (hash.hash, hash.compact_revision);
        let digest = crate::digest::of(applier);
        self.stats.count("hashes compared");
        let first = *self.hashes.entry(index).or_insert(seen);
        if first != seen {
            return Err(format!(
                "has hash {seen:?} at index {index}, another member {first:?}"
            ));
        }
        let first = self.digests.entry(index).or_insert_with(|| digest.clone());
        if *first != digest {
            return Err(format!(
                "has state {digest} at index {index}, another member {first}"
            ));
        }
        Ok(())
    }

    fn begin_commit(&mut self, place: usize) {
        let early = self.rng.per_mille(500);
        let Some(running) = self.running(place) else {
            return;
        };
        running.commit = Unfinished::Begun;
        if early {
            match self.commit(place) {
                Some(effects) => {
                    if let Some(running) = self.running(place) {
                        running.commit = Unfinished::Done(effects);
                    }
                }
                None => return,
            }
        }
        let took = self.sync_time();
        self.schedule(place, Stage::CommitDone, took, took + 1);
    }

    /// None when the member has crashed over it.
    fn commit(&mut self, place: usize) -> Option<commit::Effects> {
        let running = self.running(place)?;
        let input = running.commit_in.pop_front()?;
        let index = match &input {
            commit::Input::Commit(sealed) => Some(sealed.progress.index),
            _ => None,
        };
        match running.stages.commit.step(input) {
            Ok(effects) => {
                if self.mutation == Some(Mutation::LoseAppliedIndex)
                    && let Some(index) = index
                {
                    self.lose_index(place, index);
                }
                Some(effects)
            }
            Err(reason) => {
                self.disk_failed(place, &reason);
                None
            }
        }
    }

    fn lose_index(&mut self, place: usize, index: u64) {
        let Some(running) = self.running(place) else {
            return;
        };
        let engine = running.stages.commit.engine.lock().clone();
        let behind = index.saturating_sub(3).to_be_bytes();
        if let Ok(mut tx) = engine.db().begin_write()
            && let Ok(mut meta) = tx.bucket_mut(b"meta")
            && meta
                .put(schema::CONSISTENT_INDEX.as_bytes(), &behind)
                .is_ok()
        {
            // When the disk fails here it fails the next write of the member too.
            let _failed = tx.commit();
        }
    }

    fn end_commit(&mut self, place: usize) {
        let now = self.instant(place);
        let Some(running) = self.running(place) else {
            return;
        };
        let effects = match std::mem::replace(&mut running.commit, Unfinished::Idle) {
            Unfinished::Done(effects) => Some(effects),
            Unfinished::Begun => self.commit(place),
            Unfinished::Idle => return,
        };
        let (Some(effects), Some(running)) = (effects, self.running(place)) else {
            return;
        };
        let keep_log = running.transfers.busy(now);
        if !running.commit_in.is_empty() {
            self.schedule(place, Stage::Commit, 5, 1_000);
        }
        self.stats.count("database writes");
        if effects
            .committed
            .is_some_and(|index| index % REWRITE_EVERY == 0)
        {
            self.push_commit(place, commit::Input::Defragment { ticket: 0 });
        }
        if let Some(durable) = effects.durable {
            if !self.goes_on(place) {
                return;
            }
            let (index, conf_state) = (durable.index, durable.conf_state);
            if let Some(running) = self.running(place) {
                let ids = conf_state.voters.iter().chain(&conf_state.learners);
                running.durable_members = ids.copied().collect();
            }
            self.push_raft(
                place,
                Input::Durable {
                    index,
                    conf_state,
                    keep_log,
                },
            );
        }
        if let Some(record) = effects.snapshot {
            if !self.goes_on(place) {
                return;
            }
            self.stats.count("snapshots saved");
            self.push_log(place, log::Input::Snapshot(record));
        }
        if let Some(index) = effects.committed {
            if !self.goes_on(place) {
                return;
            }
            self.push_apply(place, apply::Input::Committed(index));
        }
        if let Some(view) = effects.installed {
            if !self.goes_on(place) {
                return;
            }
            self.push_apply(place, apply::Input::Installed(view));
        }
        for (_, outcome) in effects.defragmented {
            if outcome.is_ok() {
                self.stats.count("databases rewritten");
            }
        }
        if effects.again {
            self.push_commit(place, commit::Input::Rewrite);
        }
    }
}
