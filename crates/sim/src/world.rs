//! The scheduler: one calendar of events, one source of chance. It decides which stage runs next, when
//! an effect completes, and what goes wrong; it never decides what a stage does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferrite_membership::{Cluster, parse_initial_cluster};
use ferrite_node::engine::FileState;
use ferrite_node::stage::raft::Input;
use ferrite_proto::raftpb::Message;

use crate::Report;
use crate::clients::Client;
use crate::member::{self, Member, TICK_US};
use crate::model::Model;
use crate::mutation::Mutation;
use crate::plan::{Fault, Plan, Stats};
use crate::prng::Prng;
use crate::safety::Safety;

/// Members of the cluster.
pub const MEMBERS: usize = 3;
/// Once faults have stopped, the cluster must be whole again within this time.
const CALM_MAX_US: u64 = 60_000_000;
/// Clients go on for this long once faults have stopped.
const CALM_CLIENTS_US: u64 = 3_000_000;

/// Which stage is to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Raft,
    Log,
    LogDone,
    Apply,
    Turn,
    Commit,
    CommitDone,
}

pub(crate) enum Event {
    /// The clock of a member.
    Tick(usize, u64),
    /// A stage of a member in one of its lives.
    Run(usize, u64, Stage),
    /// A message arrives.
    Deliver { to: usize, message: Box<Message> },
    /// A database has been sent as a whole.
    Transfer {
        from: usize,
        life: u64,
        to: usize,
        message: Box<Message>,
        view: Arc<FileState>,
    },
    /// The sender learns how it went.
    TransferEnded {
        from: usize,
        life: u64,
        id: u64,
        ok: bool,
    },
    /// A client's next move.
    Client(usize),
    /// A client gives up waiting.
    Timeout(usize, u64),
    /// A member starts again.
    Start(usize),
    /// Something goes wrong.
    Fault,
    /// Nothing goes wrong any more.
    Calm,
}

/// See the module.
pub struct World {
    pub(crate) rng: Prng,
    pub(crate) plan: Plan,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) now: u64,
    base: Instant,
    calendar: BTreeMap<(u64, u64), Event>,
    scheduled: u64,
    pub(crate) members: Vec<Member>,
    pub(crate) cluster_id: u64,
    /// `cut[from][to]`: nothing gets through.
    pub(crate) cut: [[bool; MEMBERS]; MEMBERS],
    pub(crate) clients: Vec<Client>,
    pub(crate) next_id: u64,
    /// The largest revision any client has seen.
    pub(crate) frontier: i64,
    pub(crate) calm_since: Option<u64>,
    pub(crate) answered_when_calm: bool,
    pub(crate) model: Model,
    pub(crate) safety: Safety,
    /// Applied index → hash of the store and its compacted revision.
    pub(crate) hashes: BTreeMap<u64, (u32, i64)>,
    pub(crate) stats: Stats,
    pub(crate) violation: Option<String>,
    trace: u64,
    steps: u64,
}

impl World {
    /// Puts the cluster together; nothing runs yet.
    pub fn new(seed: u64, mutation: Option<Mutation>) -> World {
        let mut rng = Prng::new(seed);
        let plan = Plan::draw(&mut rng);
        let mut world = World {
            now: 0,
            base: Instant::now(),
            calendar: BTreeMap::new(),
            scheduled: 0,
            members: Vec::new(),
            cluster_id: 0,
            cut: [[false; MEMBERS]; MEMBERS],
            clients: Vec::new(),
            next_id: 1,
            frontier: 0,
            calm_since: None,
            answered_when_calm: false,
            model: Model::default(),
            safety: Safety::default(),
            hashes: BTreeMap::new(),
            stats: Stats::default(),
            violation: None,
            trace: seed,
            steps: 0,
            rng,
            plan,
            mutation,
        };
        if let Err(reason) = world.found() {
            world.fail(format!("setting up: {reason}"));
        }
        world
    }

    fn found(&mut self) -> Result<(), String> {
        let pairs = parse_initial_cluster(&member::initial_cluster(MEMBERS))
            .map_err(|error| error.to_string())?;
        let cluster = Cluster::from_initial_cluster("simulated", &pairs)
            .map_err(|error| error.to_string())?;
        self.cluster_id = cluster.id;
        for place in 0..MEMBERS {
            let id = cluster
                .member_by_name(&member::name(place))
                .map(|found| found.id)
                .ok_or("a member has no ID")?;
            let seed = self.rng.draw();
            self.members.push(Member::new(
                place,
                MEMBERS,
                id,
                &self.plan,
                seed,
                self.mutation,
            )?);
            let after = self.rng.range(0, 200_000);
            self.after(after, Event::Start(place));
        }
        for place in 0..self.plan.clients {
            self.clients.push(Client::default());
            let after = self.rng.range(500_000, 2_000_000);
            self.after(after, Event::Client(place));
        }
        let first = self.rng.range(0, 3_000_000);
        self.after(first, Event::Fault);
        self.after(self.plan.rough_us, Event::Calm);
        Ok(())
    }

    /// Runs to the end, or to the first violation.
    pub fn run(mut self) -> Report {
        while self.violation.is_none() {
            let Some(((at, _), event)) = self.calendar.pop_first() else {
                self.fail("nothing is left to happen".into());
                break;
            };
            self.now = at;
            self.steps += 1;
            self.note(at);
            self.happen(event);
            if let Some(since) = self.calm_since
                && self.violation.is_none()
                && self.steps.is_multiple_of(64)
            {
                if self.now > since + CALM_CLIENTS_US && self.is_whole() {
                    self.judge_the_end();
                    break;
                }
                if self.now > since + CALM_MAX_US {
                    let state = self.describe();
                    self.fail(format!(
                        "no progress although nothing goes wrong any more: {state}"
                    ));
                }
            }
        }
        self.note(self.model.last_index());
        Report {
            simulated_us: self.now,
            stats: self.stats,
            trace: self.trace,
            violation: self.violation,
        }
    }

    pub(crate) fn fail(&mut self, reason: String) {
        let at = self.now;
        self.violation.get_or_insert_with(|| {
            format!("at {}.{:06} s: {reason}", at / 1_000_000, at % 1_000_000)
        });
    }

    /// Goes into the checksum of what happened.
    pub(crate) fn note(&mut self, what: u64) {
        self.trace = (self.trace ^ what)
            .wrapping_mul(0x0100_0000_01b3)
            .rotate_left(17);
    }

    pub(crate) fn after(&mut self, us: u64, event: Event) {
        self.scheduled += 1;
        self.calendar.insert((self.now + us, self.scheduled), event);
    }

    pub(crate) fn instant(&self) -> Instant {
        self.base + Duration::from_micros(self.now)
    }

    pub(crate) fn until(&self, at: Instant) -> u64 {
        let us = at.saturating_duration_since(self.instant()).as_micros();
        u64::try_from(us).unwrap_or(u64::MAX)
    }

    pub(crate) fn place_of(&self, id: u64) -> Option<usize> {
        self.members.iter().position(|member| member.id == id)
    }

    pub(crate) fn lives(&self, place: usize, life: u64) -> bool {
        self.members[place].running.is_some() && self.members[place].life == life
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Tick(place, life) => self.tick(place, life),
            Event::Run(place, life, stage) => {
                let paused = self.members[place].paused_until;
                if self.lives(place, life) && paused > self.now {
                    self.after(paused - self.now, Event::Run(place, life, stage));
                } else if self.lives(place, life) {
                    self.note(stage as u64);
                    self.run_stage(place, life, stage);
                }
            }
            Event::Deliver { to, message } => {
                if self.members[to].running.is_some() {
                    self.note(message.index ^ message.term);
                    self.push_raft(to, Input::Peer(*message));
                }
            }
            Event::Transfer {
                from,
                life,
                to,
                message,
                view,
            } => self.transfer(from, life, to, *message, &view),
            Event::TransferEnded { from, life, id, ok } => {
                if self.lives(from, life) {
                    let now = self.instant();
                    if let Some(running) = &self.members[from].running {
                        running.transfers.end(now);
                    }
                    self.push_raft(from, Input::SnapshotSent { id, ok });
                }
            }
            Event::Client(client) => self.client_moves(client),
            Event::Timeout(client, request) => self.client_gives_up(client, request),
            Event::Start(place) => self.start(place),
            Event::Fault => self.fault(),
            Event::Calm => self.calm(),
        }
    }

    fn tick(&mut self, place: usize, life: u64) {
        if !self.lives(place, life) {
            return;
        }
        let paused = self.members[place].paused_until;
        if paused > self.now {
            // Missed ticks collapse into one.
            self.after(paused - self.now, Event::Tick(place, life));
            return;
        }
        let stalled_after = TICK_US * member::ELECTION_TICKS as u64;
        let disk_stalled = self.members[place].running.as_ref().is_some_and(|running| {
            !matches!(running.log, member::Unfinished::Idle)
                && self.now - running.log_since > stalled_after
        });
        self.push_raft(place, Input::Tick { disk_stalled });
        // Clocks differ a little.
        let length = self.rng.range(TICK_US * 95 / 100, TICK_US * 105 / 100);
        self.after(length, Event::Tick(place, life));
    }

    fn start(&mut self, place: usize) {
        if self.members[place].running.is_some() {
            return;
        }
        let armed = self.calm_since.is_none() && self.rng.per_mille(80);
        if armed {
            let operations = self.rng.range(0, 40);
            self.members[place].disk.fail_after(Some(operations));
            self.members[place].armed.writes = true;
        }
        let (seed, now) = (self.rng.draw(), self.instant());
        let plan = self.plan.clone();
        match self.members[place].start(seed, &plan, now) {
            Ok(()) => {
                self.stats.count("starts");
                let life = self.members[place].life;
                let first = self.rng.range(0, TICK_US);
                self.after(first, Event::Tick(place, life));
                self.schedule_turn(place);
            }
            Err(_) if armed => {
                self.stats.count("crashes during recovery");
                self.crash(place);
            }
            Err(error) => self.fail(format!("{} cannot start: {error}", member::name(place))),
        }
    }

    /// Ends a process one way or the other, and has it started again later.
    pub(crate) fn crash(&mut self, place: usize) {
        let power = self.rng.per_mille(600);
        self.crash_as(place, power);
    }

    fn crash_as(&mut self, place: usize, power: bool) {
        self.stats.count(if power { "power cuts" } else { "kills" });
        let quick = self.members[place].armed.quick;
        self.members[place].crash(power);
        let down = if quick {
            self.rng.range(100, 20_000)
        } else if self.rng.per_mille(300) {
            self.rng.range(1_000_000, 6_000_000)
        } else {
            self.rng.range(1_000, 800_000)
        };
        self.after(down, Event::Start(place));
    }

    fn fault(&mut self) {
        if self.calm_since.is_some() {
            return;
        }
        let next = self.rng.range(1_000, self.plan.fault_every_us * 2);
        self.after(next, Event::Fault);
        let place = self.rng.below(MEMBERS);
        let running = self.members[place].running.is_some();
        match self.plan.fault(&mut self.rng) {
            Fault::Kill if running => self.crash_as(place, false),
            Fault::PowerCut if running => self.crash_as(place, true),
            Fault::CrashAtEffect if running => {
                let effects = self.rng.range(1, 60);
                self.members[place].armed.effects = Some(effects);
                self.stats.count("crashes at an effect, armed");
            }
            Fault::CrashAtWrite if running => {
                let operations = self.rng.range(0, 60);
                self.members[place].disk.fail_after(Some(operations));
                self.members[place].armed.writes = true;
                self.stats.count("crashes at a write, armed");
            }
            Fault::Blackout => {
                self.stats.count("blackouts");
                for place in 0..MEMBERS {
                    if self.members[place].running.is_some() {
                        self.crash_as(place, true);
                    }
                }
            }
            Fault::Partition => {
                self.stats.count("partitions");
                for other in (0..MEMBERS).filter(|other| *other != place) {
                    self.cut[place][other] = true;
                    self.cut[other][place] = true;
                }
            }
            Fault::OneWay => {
                self.stats.count("one-way cuts");
                let other = (place + 1 + self.rng.below(MEMBERS - 1)) % MEMBERS;
                self.cut[place][other] = true;
            }
            Fault::Heal => self.cut = Default::default(),
            Fault::Pause if running => {
                self.stats.count("pauses");
                self.members[place].paused_until = self.now + self.rng.range(100_000, 4_000_000);
            }
            _ => {}
        }
    }

    fn calm(&mut self) {
        self.calm_since = Some(self.now);
        self.cut = Default::default();
        for place in 0..MEMBERS {
            let member = &mut self.members[place];
            member.paused_until = 0;
            member.armed.effects = None;
            if !member.armed.writes {
                continue;
            }
            // The countdown may have begun to fail operations already: such a process must end.
            if member.running.is_some() {
                self.crash(place);
            }
        }
    }

    /// Everybody runs, knows one leader and has applied all there is.
    fn is_whole(&self) -> bool {
        let last = self.model.last_index();
        let mut leader = None;
        self.answered_when_calm
            && self.clients.iter().all(|client| client.request.is_none())
            && self.members.iter().all(|member| {
                member.running.as_ref().is_some_and(|running| {
                    let seen = running.stages.raft.leadership();
                    let one = seen.leader != 0 && *leader.get_or_insert(seen.leader) == seen.leader;
                    one && seen.committed == last
                        && seen.last_index == last
                        && running.stages.apply.applier().progress().index == last
                })
            })
    }

    fn describe(&self) -> String {
        let last = self.model.last_index();
        let mut text = format!("committed {last}");
        for (place, member) in self.members.iter().enumerate() {
            match &member.running {
                None => text.push_str(&format!("; {} is down", member::name(place))),
                Some(running) => {
                    let seen = running.stages.raft.leadership();
                    text.push_str(&format!(
                        "; {} term {} leader {:x} last {} committed {} applied {} state {:?}",
                        member::name(place),
                        seen.term,
                        seen.leader,
                        seen.last_index,
                        seen.committed,
                        running.stages.apply.applier().progress().index,
                        running.stages.raft.core().basic_status().soft_state.state,
                    ));
                }
            }
        }
        text
    }

    /// Every member holds exactly what the committed log makes, acknowledged writes among it.
    fn judge_the_end(&mut self) {
        for place in 0..MEMBERS {
            if let Err(reason) = self.judge_member(place) {
                self.fail(format!("at the end {}: {reason}", member::name(place)));
            }
        }
    }

    fn judge_member(&mut self, place: usize) -> Result<(), String> {
        let Some(running) = &self.members[place].running else {
            return Err("is down".into());
        };
        let store = running.stages.apply.applier().store();
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
        for key in model.keys() {
            let found = store.get(key, 0).map_err(|error| error.to_string())?;
            crate::clients::same(key, found.as_ref(), model.at(key, model.revision()))?;
        }
        let hash = store.hash_kv(0).map_err(|error| error.to_string())?;
        let (index, seen) = (model.last_index(), (hash.hash, hash.compact_revision));
        let first = *self.hashes.entry(index).or_insert(seen);
        if first != seen {
            return Err(format!("has hash {seen:?}, another member {first:?}"));
        }
        Ok(())
    }
}
