//! `drill`: the failover drill. Members of a running cluster are stopped and killed, one at a time, while
//! writes and reads go on; then it is said for how long those were refused, who led when, and whether
//! everything that was acknowledged is there.
//!
//! [`place`] knows how members are stopped and started, [`load`] writes and reads, [`outcome`] prints. A member
//! that is away is started again however the drill ends, also by Ctrl-C.

mod load;
mod outcome;
mod place;

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ferrite_client::{Client, describe, pb};
use tokio::signal::unix::{SignalKind, signal};

use crate::cmd::Words;
use crate::exit::{self, Failure};
use crate::gofmt::parse_uint;
use crate::output::Form;
use crate::prompt;
use crate::report;
use crate::session::Session;
use ferrite_cli::flags::Values;
use load::Load;
use outcome::{Outcome, StepOutcome};
use place::Home;

/// A single attempt; a write that is merely slow counts as one that succeeded.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(2);
/// From the end of a member until writes and reads go on, or from its start until it answers.
const RETURN_LIMIT: Duration = Duration::from_secs(60);
/// How often the members are asked who leads.
const WATCH_EVERY: Duration = Duration::from_millis(50);
const POLL: Duration = Duration::from_millis(5);
/// Writes and reads that have to succeed before a step counts as begun or as overcome.
const FLOWING: usize = 5;
/// The load goes on for a moment after a member is back.
const AFTERWARDS: Duration = Duration::from_millis(300);
/// Keys read at once when all are looked for.
const PAGE: i64 = 2000;
/// What a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

/// One thing that is done to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    leader: bool,
    kill: bool,
}

impl Step {
    fn parse(name: &str) -> Result<Self, Failure> {
        let (leader, kill) = match name {
            "follower-stop" => (false, false),
            "leader-stop" => (true, false),
            "follower-kill" => (false, true),
            "leader-kill" => (true, true),
            other => {
                return Err(Failure::args(format!(
                    "there is no step {other:?}; there are follower-stop, leader-stop, follower-kill, leader-kill"
                )));
            }
        };
        Ok(Self { leader, kill })
    }

    /// As the user writes it.
    pub fn name(self) -> &'static str {
        match (self.leader, self.kill) {
            (false, false) => "follower-stop",
            (true, false) => "leader-stop",
            (false, true) => "follower-kill",
            (true, true) => "leader-kill",
        }
    }
}

/// Where the members are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Where {
    Local,
    Pids(Vec<u32>),
    Containers(Vec<String>),
}

/// What the flags ask for.
#[derive(Clone, Debug)]
pub struct Plan {
    place: Where,
    steps: Vec<Step>,
    away: Duration,
    limit: Duration,
    prefix: String,
    keep: bool,
    yes: bool,
}

/// Understands the flags.
pub fn plan(values: &Values, words: &Words) -> Result<Plan, Failure> {
    if !words.is_empty() {
        return Err(Failure::args(
            "drill command accepts no arguments: members are named by --local, --pids or --containers",
        ));
    }
    let (pids, containers) = (values.list("pids"), values.list("containers"));
    let place = match (values.bool("local"), pids.is_empty(), containers.is_empty()) {
        (true, true, true) => Where::Local,
        (false, false, true) => Where::Pids(
            pids.iter()
                .map(|pid| {
                    let pid = parse_uint(pid.trim(), 10).map_err(Failure::args)?;
                    u32::try_from(pid).map_err(|_| Failure::args(format!("{pid} is no process")))
                })
                .collect::<Result<_, Failure>>()?,
        ),
        (false, true, false) => Where::Containers(containers),
        _ => {
            return Err(Failure::args(
                "drill needs to know where the members run: give one of --local, --pids and --containers",
            ));
        }
    };
    let steps = values.list("steps");
    let steps: Vec<Step> = steps
        .iter()
        .map(|step| Step::parse(step.trim()))
        .collect::<Result<_, Failure>>()?;
    if steps.is_empty() {
        return Err(Failure::args("--steps names no step"));
    }
    let prefix = values.text("prefix");
    if prefix.is_empty() {
        return Err(Failure::args("--prefix must not be empty"));
    }
    Ok(Plan {
        place,
        steps,
        away: values.duration("away"),
        limit: values.duration("max-refused"),
        prefix,
        keep: values.bool("keep"),
        yes: values.bool("yes"),
    })
}

/// One member, and where it runs.
struct Member {
    id: u64,
    name: String,
    endpoint: String,
    client: Client,
    home: Home,
}

fn failed(message: impl Into<String>) -> Failure {
    Failure::new(exit::ERROR, message)
}

/// `drill`.
pub async fn run(session: &Session, plan: Plan) -> Result<(), Failure> {
    let json = match session.printer.form {
        Form::Simple | Form::Table => false,
        Form::Json => true,
        _ => return Err(session.printer.unsupported()),
    };
    let mut drill = Drill::prepare(session, plan).await?;
    drill.agree()?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| failed(e.to_string()))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| failed(e.to_string()))?;
    let result = tokio::select! {
        result = drill.all() => result,
        _ = interrupt.recv() => Err(Failure::new(INTERRUPTED, "interrupted")),
        _ = terminate.recv() => Err(Failure::new(INTERRUPTED, "interrupted")),
    };
    // Whatever happened, the cluster is left whole.
    if let Some(away) = drill.away.take() {
        let member = &mut drill.members[away];
        match member.home.bring_back().await {
            Ok(()) => report::err(&format!("{} has been started again", member.name)),
            Err(why) => report::err(&format!(
                "{} ({}) is still down and could not be started: {why}",
                member.name,
                member.home.describe()
            )),
        }
    }
    let outcome = result?;
    let text = if json { outcome.json() } else { outcome.text() };
    report::out(text.as_bytes());
    match outcome.verdict(drill.plan.limit) {
        None => Ok(()),
        Some(why) => Err(failed(why)),
    }
}

struct Drill<'a> {
    session: &'a Session,
    plan: Plan,
    members: Vec<Member>,
    /// Who is stopped now.
    away: Option<usize>,
    /// Keys of this run begin so.
    prefix: String,
    begun: Instant,
    written: BTreeMap<String, String>,
    leaders: Vec<(Duration, u64, u64)>,
}

impl<'a> Drill<'a> {
    /// Finds out who the members are, where they run, and that all are there.
    async fn prepare(session: &'a Session, plan: Plan) -> Result<Self, Failure> {
        let homes = homes(&plan.place).await.map_err(failed)?;
        let given = session.values.changed("endpoints") || session.values.changed("discovery-srv");
        let mut endpoints = session.members().await?;
        if let (Where::Containers(names), false) = (&plan.place, given) {
            endpoints.clear();
            for name in names {
                let address = place::address(name).await.map_err(failed)?;
                endpoints.push(format!("{address}:2379"));
            }
        }
        let client = session.client_for(endpoints.clone(), ATTEMPT_LIMIT).await?;
        let request = pb::MemberListRequest { linearizable: true };
        let list = client.cluster().member_list(request).await?.into_inner();
        let voters = list.members.iter().filter(|m| !m.is_learner).count();
        if voters < 3 {
            return Err(failed(format!(
                "a drill needs three members with a vote: of {voters}, one that is away stops all writes"
            )));
        }
        let listed: Vec<String> = list
            .members
            .iter()
            .flat_map(|m| m.client_urls.clone())
            .collect();
        let mut found = BTreeMap::new();
        for endpoint in endpoints.iter().chain(&listed) {
            let client = session
                .client_for(vec![endpoint.clone()], ATTEMPT_LIMIT)
                .await?;
            if let Ok(status) = client.maintenance().status(pb::StatusRequest {}).await {
                let id = status.get_ref().header.as_ref().map_or(0, |h| h.member_id);
                found.entry(id).or_insert((endpoint.clone(), client));
            }
        }
        let mut homes = homes;
        let mut members = Vec::new();
        for member in list.members.into_iter().filter(|m| !m.is_learner) {
            let Some((endpoint, client)) = found.remove(&member.id) else {
                return Err(failed(format!(
                    "member {} ({:x}) does not answer at {}: a drill begins with a whole cluster; if it has other addresses from here, give --endpoints",
                    member.name,
                    member.id,
                    member.client_urls.join(",")
                )));
            };
            let at = homes.iter().position(|home| is_home_of(home, &member));
            let Some(at) = at else {
                return Err(failed(format!(
                    "nothing that was given or found runs member {} ({:x})",
                    member.name, member.id
                )));
            };
            members.push(Member {
                id: member.id,
                name: member.name,
                endpoint,
                client,
                home: homes.remove(at),
            });
        }
        let run = format!("{:x}", std::process::id());
        Ok(Self {
            session,
            prefix: format!("{}{run}/", plan.prefix),
            plan,
            members,
            away: None,
            begun: Instant::now(),
            written: BTreeMap::new(),
            leaders: Vec::new(),
        })
    }

    /// Nobody's cluster is disturbed by a slip of the hand.
    fn agree(&self) -> Result<(), Failure> {
        let names: Vec<String> = self
            .members
            .iter()
            .map(|m| format!("{} ({})", m.name, m.home.describe()))
            .collect();
        report::err(&format!("members: {}", names.join(", ")));
        if self.plan.yes {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            return Err(Failure::args(
                "a drill stops and kills members of this cluster, one at a time: say --yes if that is what you want",
            ));
        }
        let answer = prompt::answer(
            "This stops and kills members of the cluster, one at a time, and starts them again. Go on? [y/N] ",
        )
        .map_err(|e| failed(e.to_string()))?;
        if matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(());
        }
        Err(failed("nothing was done"))
    }

    async fn all(&mut self) -> Result<Outcome, Failure> {
        let mut steps = Vec::new();
        for step in self.plan.steps.clone() {
            steps.push(self.step(step).await?);
        }
        report::err("looking for every write that was acknowledged");
        let mut lost = Vec::new();
        for member in &self.members {
            lost.push((member.name.clone(), self.lost_on(member).await?));
        }
        if !self.plan.keep {
            self.clean_up().await?;
        }
        Ok(Outcome {
            steps,
            acknowledged: self.written.len(),
            lost,
            leaders: self
                .leaders
                .iter()
                .map(|(at, id, term)| (*at, self.name_of(*id), *term))
                .collect(),
        })
    }

    fn name_of(&self, id: u64) -> String {
        let found = self.members.iter().find(|m| m.id == id);
        found.map_or_else(|| format!("{id:x}"), |m| m.name.clone())
    }

    /// Who leads, as far as most of the members know; waits for one.
    async fn leader(&self) -> Result<usize, Failure> {
        let begun = Instant::now();
        loop {
            for member in &self.members {
                let status = member
                    .client
                    .maintenance()
                    .status(pb::StatusRequest {})
                    .await;
                let leader = status.map_or(0, |s| s.into_inner().leader);
                if let Some(at) = self.members.iter().position(|m| m.id == leader) {
                    return Ok(at);
                }
            }
            if begun.elapsed() > RETURN_LIMIT {
                return Err(failed("no member knows a leader"));
            }
            tokio::time::sleep(WATCH_EVERY).await;
        }
    }

    async fn step(&mut self, step: Step) -> Result<StepOutcome, Failure> {
        let leader = self.leader().await?;
        let down = if step.leader {
            leader
        } else {
            (leader + 1) % self.members.len()
        };
        let name = self.members[down].name.clone();
        let endpoints: Vec<String> = self.members.iter().map(|m| m.endpoint.clone()).collect();
        let client = self.session.client_for(endpoints, ATTEMPT_LIMIT).await?;
        let load = Load::start(client, format!("{}{}/", self.prefix, step.name()));
        let watch = Watch::start(&self.members, self.begun);
        let start = Instant::now();
        if !until(start, || load.flows(start, FLOWING)).await {
            return Err(failed(
                "writes and reads do not succeed even before anything is stopped",
            ));
        }
        let role = if step.leader { "leader" } else { "follower" };
        let verb = if step.kill { "killed" } else { "told to stop" };
        report::err(&format!("{role} {name} is {verb}"));
        let mark = Instant::now();
        self.away = Some(down);
        self.members[down]
            .home
            .stop(step.kill)
            .await
            .map_err(failed)?;
        let gone = Instant::now();
        let flowing = until(gone, || load.flows(gone, FLOWING)).await;
        if step.leader {
            until(gone, || {
                watch
                    .leader()
                    .is_some_and(|(id, _)| id != self.members[down].id)
            })
            .await;
        }
        let led = watch.leader().map(|(id, _)| self.name_of(id));
        tokio::time::sleep(self.plan.away.saturating_sub(gone.elapsed())).await;

        report::err(&format!("{name} is started"));
        let started = Instant::now();
        self.members[down].home.start().await.map_err(failed)?;
        self.away = None;
        self.find_again(down).await?;
        let back = self.answers(down).await;
        tokio::time::sleep(AFTERWARDS).await;
        let told = load.finish();
        self.leaders.extend(watch.finish());
        self.leaders
            .dedup_by(|later, earlier| (later.1, later.2) == (earlier.1, earlier.2));
        let (writes, reads) = told.refused_for(mark);
        let usual = told.usual_gap(mark);
        let (refused, errors) = (told.book.refused, told.book.errors);
        let acknowledged = told.book.written.len();
        self.written.extend(told.book.written);
        if !back {
            return Err(failed(format!(
                "{name} does not answer {} s after it was started",
                RETURN_LIMIT.as_secs()
            )));
        }
        Ok(StepOutcome {
            step: step.name(),
            member: name,
            ended: gone - mark,
            writes,
            reads,
            usual,
            resumed: flowing,
            led_before: self.members[leader].name.clone(),
            led_after: led.unwrap_or_else(|| "nobody".to_owned()),
            back: started.elapsed().saturating_sub(AFTERWARDS),
            acknowledged,
            refused,
            errors,
        })
    }

    /// A container may have another address after its start.
    async fn find_again(&mut self, at: usize) -> Result<(), Failure> {
        let given = self.session.values.changed("endpoints");
        let member = &mut self.members[at];
        if let (Home::Container { container, .. }, false) = (&member.home, given) {
            let address = place::address(container).await.map_err(failed)?;
            let endpoint = format!("{address}:2379");
            if endpoint != member.endpoint && member.endpoint.ends_with(":2379") {
                member.client = self
                    .session
                    .client_for(vec![endpoint.clone()], ATTEMPT_LIMIT)
                    .await?;
                member.endpoint = endpoint;
            }
        }
        Ok(())
    }

    /// Waits until a member reads through the quorum.
    async fn answers(&self, at: usize) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < RETURN_LIMIT {
            let request = pb::RangeRequest {
                key: self.prefix.clone().into(),
                ..Default::default()
            };
            if self.members[at].client.kv().range(request).await.is_ok() {
                return true;
            }
            tokio::time::sleep(POLL).await;
        }
        false
    }

    /// What was acknowledged and is not there, as this member reads it.
    async fn lost_on(&self, member: &Member) -> Result<Vec<String>, Failure> {
        let mut missing = self.written.clone();
        let end = super::kv::prefix_end(self.prefix.as_bytes());
        let mut from = bytes::Bytes::from(self.prefix.clone());
        loop {
            let request = pb::RangeRequest {
                key: from.clone(),
                range_end: end.clone(),
                limit: PAGE,
                ..Default::default()
            };
            let page = member.client.kv().range(request).await.map_err(|status| {
                failed(format!(
                    "{} cannot be read from: {}",
                    member.name,
                    describe(&status)
                ))
            })?;
            let page = page.into_inner();
            for pair in &page.kvs {
                let key = String::from_utf8_lossy(&pair.key);
                if missing
                    .get(&*key)
                    .is_some_and(|value| value.as_bytes() == pair.value)
                {
                    missing.remove(&*key);
                }
            }
            match page.kvs.last() {
                Some(last) if page.more => from = [&last.key[..], b"\0"].concat().into(),
                _ => return Ok(missing.into_keys().collect()),
            }
        }
    }

    async fn clean_up(&self) -> Result<(), Failure> {
        let request = pb::DeleteRangeRequest {
            key: self.prefix.clone().into(),
            range_end: super::kv::prefix_end(self.prefix.as_bytes()),
            ..Default::default()
        };
        let Some(member) = self.members.first() else {
            return Ok(());
        };
        member.client.kv().delete_range(request).await?;
        Ok(())
    }
}

async fn homes(place: &Where) -> Result<Vec<Home>, String> {
    match place {
        Where::Local => place::local(),
        Where::Pids(pids) => pids.iter().map(|pid| place::process(*pid)).collect(),
        Where::Containers(names) => {
            let mut homes = Vec::new();
            for name in names {
                homes.push(place::container(name).await?);
            }
            Ok(homes)
        }
    }
}

/// By the member's name, and by its URLs where the command line has them: two clusters may stand on one machine.
fn is_home_of(home: &Home, member: &pb::Member) -> bool {
    let name = home.member().unwrap_or_else(|| "default".to_owned());
    let urls_fit = home.client_urls().is_none_or(|urls| {
        urls.split(',')
            .any(|url| member.client_urls.iter().any(|known| known == url))
    });
    name == member.name && urls_fit
}

/// Waits for something; whether it came about.
async fn until(since: Instant, mut holds: impl FnMut() -> bool) -> bool {
    while !holds() {
        if since.elapsed() > RETURN_LIMIT {
            return false;
        }
        tokio::time::sleep(POLL).await;
    }
    true
}

/// Who leads when, asked of all members again and again.
struct Watch {
    seen: Arc<Mutex<Vec<(Duration, u64, u64)>>>,
    tasks: tokio::task::JoinSet<()>,
}

impl Watch {
    fn start(members: &[Member], begun: Instant) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = tokio::task::JoinSet::new();
        for member in members {
            let (client, seen) = (member.client.clone(), Arc::clone(&seen));
            tasks.spawn(async move {
                loop {
                    if let Ok(status) = client.maintenance().status(pb::StatusRequest {}).await {
                        let status = status.into_inner();
                        note(&seen, begun.elapsed(), status.leader, status.raft_term);
                    }
                    tokio::time::sleep(WATCH_EVERY).await;
                }
            });
        }
        Self { seen, tasks }
    }

    /// Who leads now, and in which term.
    fn leader(&self) -> Option<(u64, u64)> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.last().map(|(_, id, term)| (*id, *term))
    }

    fn finish(mut self) -> Vec<(Duration, u64, u64)> {
        self.tasks.abort_all();
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A leader of a later term than those before; nobody is no leader.
fn note(seen: &Mutex<Vec<(Duration, u64, u64)>>, at: Duration, leader: u64, term: u64) {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    if leader != 0 && seen.last().is_none_or(|(_, _, last)| term > *last) {
        seen.push((at, leader, term));
    }
}
