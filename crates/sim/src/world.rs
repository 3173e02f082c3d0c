//! The scheduler: one calendar of events, one source of chance. It decides which stage runs next, when
//! an effect completes, and what goes wrong; it never decides what a stage does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use ferrite_membership::{Cluster, parse_initial_cluster};
use ferrite_node::RemoteCluster;
use ferrite_node::engine::FileState;
use ferrite_node::stage::raft::Input;
use ferrite_proto::raftpb::Message;

use crate::Report;
use crate::clients::{Pending, Reading};
use crate::clock::Clock;
use crate::history::History;
use crate::leases::LeaseBook;
use crate::member::{self, Member, TICK_US};
use crate::model::Model;
use crate::mutation::Mutation;
use crate::operator::Operator;
use crate::plan::{Plan, Stats};
use crate::prng::Prng;
use crate::safety::Safety;
use crate::tokens::Token;
use crate::watchers::Watcher;

/// Members there may ever be, those removed included.
pub const MEMBERS_MAX: usize = 10;
/// Once faults have stopped, the cluster must be whole again within this time.
const CALM_MAX_US: u64 = 90_000_000;
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
    Deliver {
        from: usize,
        to: usize,
        message: Box<Message>,
    },
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
    /// Whoever made a request gives up waiting.
    Timeout(u64),
    /// A lease client's next move.
    LeaseClient(usize),
    /// A renewal reaches the member that is taken for the leader.
    Renew {
        client: usize,
        place: usize,
        lease: i64,
        asked_us: u64,
    },
    /// A member looks for leases that are over.
    LeasePass(usize, u64),
    /// A watcher's next move.
    Watch(usize),
    /// The operator's next move.
    Operate,
    /// A member looks at the cluster's version.
    Versions(usize, u64),
    /// A member publishes its name, unless it has.
    Publish(usize, u64),
    /// A member starts again.
    Start(usize),
    /// A member that was removed stops.
    Leave(usize, u64),
    /// Something goes wrong.
    Fault,
    /// A disk has room again.
    Room(usize),
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
    pub(crate) cut: [[bool; MEMBERS_MAX]; MEMBERS_MAX],
    /// How many times slower a link is.
    pub(crate) slow: [[u64; MEMBERS_MAX]; MEMBERS_MAX],
    /// When the last message sent over a link arrives.
    pub(crate) arrives: [[u64; MEMBERS_MAX]; MEMBERS_MAX],
    /// Requests under way.
    pub(crate) pending: BTreeMap<u64, Pending>,
    /// Whoever waits for a linearizable read.
    pub(crate) reading: BTreeMap<u64, Reading>,
    pub(crate) history: History,
    pub(crate) book: LeaseBook,
    pub(crate) watchers: Vec<Watcher>,
    pub(crate) operator: Operator,
    /// Tokens that clients hold.
    pub(crate) tokens: Vec<Token>,
    pub(crate) next_id: u64,
    /// The largest revision any client has seen.
    pub(crate) frontier: i64,
    pub(crate) calm_since: Option<u64>,
    pub(crate) answered_when_calm: bool,
    pub(crate) model: Model,
    pub(crate) safety: Safety,
    /// Applied index → hash of the store and its compacted revision.
    pub(crate) hashes: BTreeMap<u64, (u32, i64)>,
    /// Applied index → what else of the state must be equal.
    pub(crate) digests: BTreeMap<u64, String>,
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
            cut: Default::default(),
            slow: [[1; MEMBERS_MAX]; MEMBERS_MAX],
            arrives: Default::default(),
            pending: BTreeMap::new(),
            reading: BTreeMap::new(),
            history: History::default(),
            book: LeaseBook::default(),
            watchers: Vec::new(),
            operator: Operator::default(),
            tokens: Vec::new(),
            next_id: 1,
            frontier: 0,
            calm_since: None,
            answered_when_calm: false,
            model: Model::default(),
            safety: Safety::default(),
            hashes: BTreeMap::new(),
            digests: BTreeMap::new(),
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
        let founders = self.plan.founders;
        let pairs = parse_initial_cluster(&member::initial_cluster(founders))
            .map_err(|error| error.to_string())?;
        let cluster = Cluster::from_initial_cluster("simulated", &pairs)
            .map_err(|error| error.to_string())?;
        self.cluster_id = cluster.id;
        for place in 0..founders {
            let id = cluster
                .member_by_name(&member::name(place))
                .map(|found| found.id)
                .ok_or("a member has no ID")?;
            let member = self.make(id)?;
            self.members.push(member);
            let after = self.rng.range(0, 200_000);
            self.start_after(place, after);
        }
        for client in 0..self.plan.clients {
            let after = self.rng.range(500_000, 2_000_000);
            self.after(after, Event::Client(client));
        }
        for client in 0..self.plan.lease_clients {
            self.book.clients.push(Default::default());
            let after = self.rng.range(500_000, 3_000_000);
            self.after(after, Event::LeaseClient(client));
        }
        for watcher in 0..self.plan.watchers {
            let drawn = Watcher::draw(&mut self.rng, self.plan.keys);
            self.watchers.push(drawn);
            let after = self.rng.range(300_000, 3_000_000);
            self.after(after, Event::Watch(watcher));
        }
        if let Some(pause) = self.plan.operate_us {
            self.after(1_500_000 + pause, Event::Operate);
        }
        let first = self.rng.range(0, 3_000_000);
        self.after(first, Event::Fault);
        self.after(self.plan.rough_us, Event::Calm);
        Ok(())
    }

    /// A member for the next place, with a disk and a clock of its own.
    pub(crate) fn make(&mut self, id: u64) -> Result<Member, String> {
        let place = self.members.len();
        let seed = self.rng.draw();
        let mut member = Member::new(
            place,
            self.plan.founders,
            id,
            &self.plan,
            seed,
            self.mutation,
        )?;
        let drift = self.plan.drift;
        let rate = self.rng.range(1000 - drift, 1001 + drift);
        member.clock = Clock::new(self.base, rate);
        Ok(member)
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
                self.retire_the_removed();
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
        let failed_reads = (self.members.iter())
            .map(|member| member.disk.failed_reads())
            .sum();
        self.stats.add_to("reads that failed", failed_reads);
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

    /// What a member's clock shows.
    pub(crate) fn instant(&self, place: usize) -> Instant {
        self.members[place].clock.at(self.now)
    }

    pub(crate) fn until(&self, place: usize, at: Instant) -> u64 {
        self.members[place].clock.until(at, self.now)
    }

    pub(crate) fn place_of(&self, id: u64) -> Option<usize> {
        self.members.iter().position(|member| member.id == id)
    }

    pub(crate) fn lives(&self, place: usize, life: u64) -> bool {
        self.members[place].running.is_some() && self.members[place].life == life
    }

    /// Whether a member belongs to the cluster.
    pub(crate) fn belongs(&self, place: usize) -> bool {
        self.model.members().contains_key(&self.members[place].id)
    }

    /// A running member by chance.
    pub(crate) fn some_running(&mut self) -> Option<usize> {
        let running: Vec<usize> = (0..self.members.len())
            .filter(|place| self.members[*place].running.is_some())
            // One that was removed and does not know it answers nobody once the network is whole.
            .filter(|place| self.calm_since.is_none() || self.belongs(*place))
            .collect();
        if running.is_empty() {
            return None;
        }
        Some(running[self.rng.below(running.len())])
    }

    /// Who believes that it leads; the one of the highest term.
    pub(crate) fn leader(&self) -> Option<usize> {
        (0..self.members.len())
            .filter_map(|place| {
                let running = self.members[place].running.as_ref()?;
                let seen = running.stages.raft.leadership();
                seen.is_leader.then_some((seen.term, place))
            })
            .max()
            .map(|(_, place)| place)
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
            Event::Deliver { from, to, message } => {
                if self.members[to].running.is_none() {
                    return;
                }
                // Whoever was removed is told so, and ends.
                if self.knows_as_removed(to, message.from) {
                    if self.is_known_as_removed(message.from) {
                        self.retire(from);
                    }
                    return;
                }
                self.note(message.index ^ message.term);
                self.push_raft(to, Input::Peer(*message));
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
                    let now = self.instant(from);
                    if let Some(running) = &self.members[from].running {
                        running.transfers.end(now);
                    }
                    self.push_raft(from, Input::SnapshotSent { id, ok });
                }
            }
            Event::Client(client) => self.client_moves(client),
            Event::Timeout(request) => self.gives_up(request),
            Event::LeaseClient(client) => self.lease_client_moves(client),
            Event::Renew {
                client,
                place,
                lease,
                asked_us,
            } => self.renewal_arrives(client, place, lease, asked_us),
            Event::LeasePass(place, life) => self.lease_pass(place, life),
            Event::Watch(watcher) => self.watcher_moves(watcher),
            Event::Operate => self.operate(),
            Event::Versions(place, life) => self.look_at_versions(place, life),
            Event::Publish(place, life) => self.publish(place, life),
            Event::Start(place) => self.start(place),
            Event::Leave(place, life) => self.leaves(place, life),
            Event::Fault => self.fault(),
            Event::Room(place) => {
                self.members[place].full = false;
                self.members[place].disk.leave_room(None);
            }
            Event::Calm => self.calm(),
        }
    }

    /// Whether a member knows that another was removed.
    pub(crate) fn knows_as_removed(&self, place: usize, id: u64) -> bool {
        self.members[place]
            .running
            .as_ref()
            .is_some_and(|running| running.stages.apply.applier().cluster().is_removed(id))
    }

    /// Whether most of the voters know for good that this one was removed: a learner elects nobody, and a power cut
    /// may take what a member has applied and not yet written to its database.
    pub(crate) fn is_known_as_removed(&self, id: u64) -> bool {
        let members = self.model.members();
        let voters = members.values().filter(|learner| !**learner).count();
        let knowing = (0..self.members.len()).filter(|place| {
            let member = &self.members[*place];
            let durable = (member.running.as_ref())
                .is_some_and(|running| !running.durable_members.contains(&id));
            let votes = members.get(&member.id) == Some(&false);
            durable && votes && self.knows_as_removed(*place, id)
        });
        knowing.count() * 2 > voters
    }

    /// A member that has no place any more ends a second after it has learned so, as the production code
    /// does, and for good when anybody else knows: until then its operator leaves it on.
    fn leaves(&mut self, place: usize, life: u64) {
        if !self.lives(place, life) {
            return;
        }
        if self.is_known_as_removed(self.members[place].id) {
            self.retire(place);
        } else {
            self.after(500_000, Event::Leave(place, life));
        }
    }

    /// Whoever was removed and hears of it from nobody (a learner asks for no votes) is switched off by its operator.
    fn retire_the_removed(&mut self) {
        for place in 0..self.members.len() {
            let id = self.members[place].id;
            let runs = self.members[place].running.is_some();
            if runs && self.model.is_removed(id) && self.is_known_as_removed(id) {
                self.retire(place);
            }
        }
    }

    /// A member that has no place any more ends, and never starts again.
    pub(crate) fn retire(&mut self, place: usize) {
        if self.members[place].running.is_some() {
            self.stats.count("removed members ended");
            self.members[place].crash(false);
            self.hangs_up(place);
        }
        self.members[place].gone = true;
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
        let length = self.rng.range(TICK_US * 97 / 100, TICK_US * 103 / 100);
        let length = self.members[place].clock.world(length);
        self.after(length, Event::Tick(place, life));
    }

    pub(crate) fn start_after(&mut self, place: usize, us: u64) {
        if !std::mem::replace(&mut self.members[place].starting, true) {
            self.after(us, Event::Start(place));
        }
    }

    /// What a member that joins is told by one that runs; none when nobody knows it.
    fn remote(&self, place: usize) -> Option<Cluster> {
        let id = self.members[place].id;
        self.members.iter().find_map(|other| {
            let running = other.running.as_ref().filter(|_| other.id != id)?;
            let cluster = running.stages.apply.applier().cluster();
            cluster.member(id)?;
            Some(cluster.clone())
        })
    }

    fn start(&mut self, place: usize) {
        self.members[place].starting = false;
        let id = self.members[place].id;
        if self.model.is_removed(id) && self.is_known_as_removed(id) {
            self.members[place].gone = true;
        }
        if self.members[place].running.is_some() || self.members[place].gone {
            return;
        }
        let mut remote = None;
        let disk = &self.members[place].disk;
        let wal = self.members[place].config.wal_dir();
        let founded = ferrite_wal::Wal::exists_on(disk, &wal);
        if place >= self.plan.founders && !founded.unwrap_or(false) {
            let Some(cluster) = self.remote(place) else {
                self.start_after(place, 200_000);
                return;
            };
            let listed: Vec<String> = cluster
                .members
                .values()
                .filter_map(|member| {
                    let place = self.place_of(member.id)?;
                    Some(format!(
                        "{}={}",
                        member::name(place),
                        member::peer_url(place)
                    ))
                })
                .collect();
            let member = &mut self.members[place];
            member.config = member::config(place, listed.join(","), &self.plan);
            member.config.new_cluster = false;
            remote = Some(RemoteCluster { cluster });
        }
        let armed = self.calm_since.is_none() && self.rng.per_mille(80);
        if armed {
            let operations = self.rng.range(0, 40);
            self.members[place].disk.fail_after(Some(operations));
            self.members[place].armed.writes = true;
        }
        if self.calm_since.is_none() && self.rng.per_mille(100) {
            let after_max = [4, 60][self.rng.below(2)];
            self.fail_reads(place, after_max);
        }
        self.wall_clock(place);
        let (seed, now) = (self.rng.draw(), self.instant(place));
        let plan = self.plan.clone();
        match self.members[place].start(seed, &plan, now, remote) {
            Ok(()) => {
                self.stats.count("starts");
                self.members[place].flipped = false;
                let life = self.members[place].life;
                let first = self.rng.range(0, TICK_US);
                self.after(first, Event::Tick(place, life));
                self.after(first + 300_000, Event::Publish(place, life));
                self.after(first + 500_000, Event::LeasePass(place, life));
                self.after(first + 400_000, Event::Versions(place, life));
                self.schedule_turn(place);
            }
            Err(error) if self.is_read_failure(place, &format!("{error:?}")) => {
                self.stats.count("starts refused by a read");
                self.crash(place);
            }
            Err(_) if armed => {
                self.stats.count("crashes during recovery");
                self.crash(place);
            }
            Err(_) if self.members[place].full => {
                self.stats.count("starts refused by a full disk");
                self.crash(place);
            }
            Err(_) if self.members[place].flipped => {
                self.stats.count("damage named at a start");
                self.members[place].gone = true;
            }
            Err(error) => self.fail(format!("{} cannot start: {error}", member::name(place))),
        }
    }

    /// What the clock on a member's wall shows when it starts: mostly the time, which may have been set back, and with
    /// some the same as at the start before, for nothing keeps it while the power is off.
    fn wall_clock(&mut self, place: usize) {
        let kind = self.rng.range(0, 1000);
        let (true_ms, back) = (
            1_764_000_000_000 + self.now / 1000,
            self.rng.range(1, 9_000),
        );
        let member = &mut self.members[place];
        member.wall_ms = match kind {
            0..150 => member.wall_ms,
            150..250 => true_ms - back,
            250..300 => true_ms + back,
            _ => true_ms,
        };
        if kind < 300 && member.life > 0 {
            self.stats.count("clocks on the wall that were wrong");
        }
    }

    /// Ends a process one way or the other, and has it started again later.
    pub(crate) fn crash(&mut self, place: usize) {
        let power = self.rng.per_mille(600);
        self.crash_as(place, power);
    }

    pub(crate) fn crash_as(&mut self, place: usize, power: bool) {
        self.stats.count(if power { "power cuts" } else { "kills" });
        let quick = self.members[place].armed.quick;
        self.members[place].crash(power);
        self.hangs_up(place);
        let down = if quick {
            self.rng.range(100, 20_000)
        } else if self.rng.per_mille(300) {
            self.rng.range(1_000_000, 6_000_000)
        } else {
            self.rng.range(1_000, 800_000)
        };
        self.start_after(place, down);
    }

    fn calm(&mut self) {
        self.calm_since = Some(self.now);
        self.cut = Default::default();
        self.slow = [[1; MEMBERS_MAX]; MEMBERS_MAX];
        for place in 0..self.members.len() {
            let member = &mut self.members[place];
            member.paused_until = 0;
            member.armed.effects = None;
            let was_full = std::mem::replace(&mut member.full, false);
            member.disk.leave_room(None);
            member.disk.fail_reads(None);
            if !member.armed.writes && !was_full {
                continue;
            }
            // Operations may have begun to fail already: such a process must end.
            if member.running.is_some() {
                self.crash(place);
            }
        }
        if self.plan.operate_us.is_none() {
            self.after(1_000_000, Event::Operate);
        }
    }

    /// Everybody who belongs to the cluster runs, knows one leader and has applied all there is.
    fn is_whole(&self) -> bool {
        let last = self.model.last_index();
        let mut leader = None;
        self.answered_when_calm
            && self.pending.is_empty()
            && self.model.leases().is_empty()
            && self.model.members().keys().all(|id| {
                let running = self
                    .place_of(*id)
                    .and_then(|place| self.members[place].running.as_ref());
                running.is_some_and(|running| {
                    let seen = running.stages.raft.leadership();
                    let one = seen.leader != 0 && *leader.get_or_insert(seen.leader) == seen.leader;
                    one && seen.committed == last
                        && seen.last_index == last
                        && running.stages.apply.applier().progress().index == last
                        && !running.stages.apply.applier().store().compaction_pending()
                })
            })
            && self.versions_are_settled()
    }

    fn describe(&self) -> String {
        let last = self.model.last_index();
        let mut text = format!(
            "committed {last}, {} requests open, {} leases left, version {:?} settled {}, members {:x?}",
            self.pending.len(),
            self.model.leases().len(),
            self.model.version(),
            self.versions_are_settled(),
            self.model.members()
        );
        for (place, member) in self.members.iter().enumerate() {
            match &member.running {
                None if member.gone => text.push_str(&format!("; {} is gone", member::name(place))),
                None => text.push_str(&format!(
                    "; {} {:x} is down, to start {}",
                    member::name(place),
                    member.id,
                    member.starting
                )),
                Some(running) => {
                    let seen = running.stages.raft.leadership();
                    text.push_str(&format!(
                        "; {} {:x} term {} leader {:x} last {} committed {} applied {} state {:?}",
                        member::name(place),
                        member.id,
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
}
