//! The user's walkthrough, unattended: bring a cluster up, write, stop and kill a follower and the leader, and
//! lose nothing. Every expectation is exact and becomes an `ok` or a `FAIL` line.
//!
//! It runs over a [`Bed`] and knows only command lines and their output. Nothing waits without a limit.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bed::{Bed, Stop};
use crate::error::{Error, Result};
use crate::logline;
use crate::report::Report;
use crate::run::{self, Ended};
use crate::spec::{self, MEMBERS};
use crate::writer::{Ack, PREFIX, Writer};

/// What the others log when a peer's streams break.
const LOST: &str = "lost TCP streaming connection with remote peer";
/// What they log, again and again, while its health probes fail.
const UNHEALTHY: &str = "prober detected unhealthy status";

/// What they log when they read its stream again.
const ESTABLISHED: &str = "established TCP streaming connection with remote peer";
/// How long that may take before the run goes on; a dial to a container that has gone may hang for some seconds.
const SETTLE_LIMIT: Duration = Duration::from_secs(8);

/// Both must be in the log this long after a member is gone that was told to end.
const LOG_LIMIT: Duration = Duration::from_secs(5);
/// … and this long after one was killed: a killed container's network may vanish before its connections are
/// closed, and then only the streams' read timeout, five seconds itself, tells.
const LOG_LIMIT_KILL: Duration = Duration::from_secs(6);
/// How long one member stays away, so that the probe's failure must have been logged twice and more.
const AWAY: Duration = Duration::from_secs(12);
/// Lines closer together than this are one report (a peer has two probes).
const ONE_REPORT: Duration = Duration::from_secs(2);
/// Reports come every five seconds; this is one of them and some slack.
const REPORT_SPACING_MAX: Duration = Duration::from_millis(6500);

/// `member list` asks nobody but the member it speaks to; this is mostly the start of two processes.
const LIST_LIMIT: Duration = Duration::from_secs(1);

/// A single command; past it something hangs.
const COMMAND_LIMIT: Duration = Duration::from_secs(15);
/// From the start of a member or cluster until it answers.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Log lines of each member shown when something fails.
const LOG_END: usize = 8;

/// How strict a run is.
#[derive(Debug, Clone)]
pub struct Options {
    /// Writes may be refused this long when the leader is told to end: it hands over first.
    pub leader_stop_limit: Duration,
    /// … and this long when the leader is killed.
    pub leader_kill_limit: Duration,
    /// … and this long when a follower goes away, however it does.
    pub follower_limit: Duration,
    /// The programs are the original's: where we promise more than it does, print figures only.
    pub original: bool,
    /// Where the members' logs are left.
    pub log_dir: PathBuf,
    /// Set when the user wants the run to end.
    pub interrupted: Arc<AtomicBool>,
}

/// Runs the walkthrough and removes what it made. The report has the failures; none means that all is well.
pub fn run(bed: &mut dyn Bed, options: Options) -> Report {
    let begun = Instant::now();
    let run = format!("{:x}", std::process::id());
    let mut walk = Walk {
        bed,
        options,
        report: Report::default(),
        acks: Vec::new(),
        puts: Vec::new(),
        figures: Vec::new(),
        run,
    };
    if let Err(why) = walk.all() {
        walk.report
            .check(false, "the walkthrough could go on", &why.to_string());
    }
    walk.keep_logs();
    let Walk {
        bed,
        mut report,
        figures,
        ..
    } = walk;
    report.step("Figures");
    for line in &figures {
        report.note(line);
    }
    bed.clean_up();
    let seconds = begun.elapsed().as_secs_f32();
    match report.failures() {
        [] => report.check(
            true,
            &format!("{} expectations hold", report.checks()),
            &format!("{seconds:.0} s"),
        ),
        failures => {
            let names = failures.join("; ");
            report.note(&format!(
                "{} of {} failed in {seconds:.0} s: {names}",
                failures.len(),
                report.checks()
            ));
        }
    }
    report
}

struct Walk<'a> {
    bed: &'a mut dyn Bed,
    options: Options,
    report: Report,
    /// Every write that a writer saw acknowledged.
    acks: Vec<Ack>,
    /// The document's own puts.
    puts: Vec<(String, String)>,
    figures: Vec<String>,
    run: String,
}

/// A member that went away.
struct Loss {
    down: usize,
    /// When it was told to, or killed.
    mark: Instant,
    /// When it was gone.
    gone: Instant,
    /// How long after that its loss must be in the logs.
    log_limit: Duration,
}

/// What one member says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Status {
    term: u64,
    leader: u64,
}

impl Walk<'_> {
    fn all(&mut self) -> Result<()> {
        self.report.step("1. Bring the cluster up");
        self.bed.up()?;
        let leader = self.await_leader(0, None, ANSWER_LIMIT)?;
        for member in 0..MEMBERS {
            self.await_answer(member)?;
        }
        self.bed.look(&mut self.report)?;
        self.lists_say(leader)?;

        self.report.step("2. Normal operation");
        self.put(0, "foo", "bar")?;
        self.get(1, "foo", "bar")?;

        self.report.step("3. A follower goes down (SIGTERM)");
        let leader = self.member_down(leader, false, Stop::Term, "foo2")?;
        self.report.step("4. The leader goes down (SIGTERM)");
        let leader = self.member_down(leader, true, Stop::Term, "foo3")?;
        self.report.step("5. A follower goes down (SIGKILL)");
        let leader = self.member_down(leader, false, Stop::Kill, "foo4")?;
        self.report.step("6. The leader goes down (SIGKILL)");
        self.member_down(leader, true, Stop::Kill, "foo5")?;

        self.report.step("7. Nothing was lost");
        self.nothing_lost()?;
        self.report.step("8. The whole cluster down and up again");
        self.bed.down_and_up()?;
        let leader = self.await_leader(0, None, ANSWER_LIMIT)?;
        for member in 0..MEMBERS {
            self.await_answer(member)?;
        }
        self.lists_say(leader)?;
        self.nothing_lost()
    }

    /// A member goes away and comes back, with writes all the time. Returns who leads at the end.
    fn member_down(
        &mut self,
        leader: usize,
        the_leader: bool,
        how: Stop,
        key: &str,
    ) -> Result<usize> {
        let down = if the_leader {
            leader
        } else {
            (leader + MEMBERS - 1) % MEMBERS
        };
        let stay: Vec<usize> = (0..MEMBERS).filter(|member| *member != down).collect();
        let survivor = stay[0];
        let name = self.bed.specs()[down].name.clone();
        let role = if the_leader { "leader" } else { "follower" };
        let verb = if how == Stop::Term {
            "stopped"
        } else {
            "killed"
        };
        let before = self.status(survivor)?;

        let run = format!("{}-{key}", self.run);
        let writer = Writer::start(self.bed, &stay, &run)?;
        let flowing = self.until(COMMAND_LIMIT, |_| writer.acks_since(before_all()) >= 8)?;
        if !flowing {
            return Err(Error::told("the writer gets no acknowledgements"));
        }
        let mark = Instant::now();
        let ending = self.bed.stop(down, how)?;
        let gone = Instant::now();
        let took = (gone - mark).as_millis();
        self.report.check(
            ending.clean,
            &format!("{role} {name} {verb}"),
            &format!("{} in {took} ms", ending.words),
        );

        let leader_now = if the_leader {
            let begun = Instant::now();
            let now =
                self.await_leader(survivor, Some(down), self.options.leader_kill_limit * 2)?;
            let ms = begun.elapsed().as_millis();
            let listed = format!(
                "{} leads, {name} is listed and does not, {ms} ms after",
                self.bed.specs()[now].name
            );
            let in_time = begun.elapsed() <= self.options.leader_kill_limit;
            self.ours(in_time, "member list on a survivor", &listed);
            now
        } else {
            let begun = Instant::now();
            let list = self.leader_of(survivor)?;
            let figure = format!("{} ms", begun.elapsed().as_millis());
            let in_time = begun.elapsed() <= LIST_LIMIT;
            self.ours(
                list == Some(leader) && in_time,
                "member list does not wait for the stopped member",
                &figure,
            );
            leader
        };

        // The user's own next write, with etcdctl's own patience.
        let begun = Instant::now();
        let mut last = self.try_put(survivor, key, "bar")?;
        while !last.ok && begun.elapsed() < ANSWER_LIMIT {
            last = self.try_put(survivor, key, "bar")?;
        }
        let own_done = Instant::now();
        let own = own_done - begun;
        let refused_limit = match (the_leader, how) {
            (false, _) => self.options.follower_limit,
            (true, Stop::Term) => self.options.leader_stop_limit,
            (true, Stop::Kill) => self.options.leader_kill_limit,
        };
        self.report.check(
            last.ok && last.out == "OK\n",
            &format!("put {key} bar"),
            &format!("{} ms", own.as_millis()),
        );

        self.until(COMMAND_LIMIT, |_| writer.acks_since(gone) >= 3)?;
        self.pause(Duration::from_millis(300))?;
        let told = writer.finish();
        let refused = told.refused_for(mark);
        let figure = format!(
            "{role} {verb}: writes refused for {} ms (before it at most {} ms between two), own put {} ms ({} ms after the signal), \
             {} acknowledged, {} attempts refused",
            refused.as_millis(),
            told.usual_gap(mark).as_millis(),
            own.as_millis(),
            (own_done - mark).as_millis(),
            told.acks.len(),
            told.refused,
        );
        self.acks.extend(told.acks);
        let within = format!(
            "writes were refused for at most {} ms",
            refused_limit.as_millis()
        );
        self.ours(
            refused <= refused_limit,
            &within,
            &format!("{} ms", refused.as_millis()),
        );
        self.figures.push(figure);

        let log_limit = if how == Stop::Term {
            LOG_LIMIT
        } else {
            LOG_LIMIT_KILL
        };
        let long = !the_leader && how == Stop::Term;
        let loss = Loss {
            down,
            mark,
            gone,
            log_limit,
        };
        self.logs_name(&loss, &stay)?;
        if long {
            self.logs_repeat(&loss, &stay)?;
        }

        let away = self.status(survivor)?;
        if !the_leader {
            self.report.check(
                away == before,
                "leader and term stayed",
                &format!("term {}", away.term),
            );
        } else if how == Stop::Term {
            let figure = format!("term {} → {}", before.term, away.term);
            self.ours(
                away.term == before.term + 1,
                "the handover took one term",
                &figure,
            );
        }
        let started = Instant::now();
        self.bed.start(down)?;
        self.get(down, key, "bar")?;
        let list = self.leader_of(survivor)?;
        self.report.check(
            list == Some(leader_now),
            "member list: the same leader as before the start",
            "",
        );
        for member in 0..MEMBERS {
            let status = self.status(member)?;
            let who = &self.bed.specs()[member].name;
            let figure = format!("term {}, was {}", status.term, away.term);
            self.report.check(
                status == away,
                &format!("{who} knows no new election"),
                &figure,
            );
        }
        self.let_settle(down, &stay, started)?;
        Ok(leader_now)
    }

    /// Waits until the others have their streams from a member that came back: what is not there cannot be lost, so
    /// the next step would expect a log line in vain. No expectation; past the limit the run goes on.
    fn let_settle(&mut self, back: usize, stay: &[usize], started: Instant) -> Result<()> {
        let id = format!("{:x}", self.bed.specs()[back].id());
        for &member in stay {
            let journal = self.bed.journal(member).clone();
            let stands = |line: &str| {
                line.contains("stream-reader-type") && logline::says(line, ESTABLISHED, &id)
            };
            let settled = self.until_moment(started + SETTLE_LIMIT, |_| {
                !journal.times(started, stands).is_empty()
            })?;
            if !settled {
                let who = &self.bed.specs()[member].name;
                self.report.note(&format!(
                    "{who} has not logged \"{ESTABLISHED}\" for {id} yet"
                ));
            }
        }
        Ok(())
    }

    /// The survivors' logs name the loss in time.
    fn logs_name(&mut self, loss: &Loss, stay: &[usize]) -> Result<()> {
        let id = format!("{:x}", self.bed.specs()[loss.down].id());
        let deadline = loss.gone + loss.log_limit;
        for message in [LOST, UNHEALTHY] {
            for &member in stay {
                let journal = self.bed.journal(member).clone();
                let first = || {
                    let said = journal.times(loss.mark, |line| logline::says(line, message, &id));
                    said.first().copied().filter(|at| *at <= deadline)
                };
                self.until_moment(deadline, |_| first().is_some())?;
                let first = first().map(|at| at.saturating_duration_since(loss.gone).as_millis());
                let figure = match first {
                    Some(ms) => format!("{ms} ms after"),
                    None => format!("not within {} s", loss.log_limit.as_secs()),
                };
                let what = format!("{} logs \"{message}\"", self.bed.specs()[member].name);
                self.ours(first.is_some(), &what, &figure);
            }
        }
        Ok(())
    }

    /// … and go on naming it.
    fn logs_repeat(&mut self, loss: &Loss, stay: &[usize]) -> Result<()> {
        let id = format!("{:x}", self.bed.specs()[loss.down].id());
        self.until_moment(loss.gone + AWAY, |_| false)?;
        for &member in stay {
            let journal = self.bed.journal(member);
            let times = journal.times(loss.mark, |line| logline::says(line, UNHEALTHY, &id));
            let reports = reports(&times);
            let spacing = reports
                .windows(2)
                .map(|pair| pair[1] - pair[0])
                .max()
                .unwrap_or_default();
            let what = format!("{} repeats it every 5 s", self.bed.specs()[member].name);
            let figure = format!(
                "{} reports in {} s, at most {} ms apart",
                reports.len(),
                AWAY.as_secs(),
                spacing.as_millis()
            );
            let repeated = reports.len() >= 2 && spacing <= REPORT_SPACING_MAX;
            self.ours(repeated, &what, &figure);
        }
        Ok(())
    }

    /// Every acknowledged write is on every member, and the members hold the same.
    fn nothing_lost(&mut self) -> Result<()> {
        let puts = self.puts.clone();
        let mut hashes = Vec::new();
        for member in 0..MEMBERS {
            let who = self.bed.specs()[member].name.clone();
            let got = self.ctl(member, &["get", "--prefix", PREFIX])?;
            let held = pairs(&got.out);
            let lost: Vec<&str> = self
                .acks
                .iter()
                .filter(|ack| held.get(ack.key.as_str()) != Some(&ack.value.as_str()))
                .map(|ack| ack.key.as_str())
                .collect();
            let figure = match lost.first() {
                None => format!("{} of {}", self.acks.len(), self.acks.len()),
                Some(first) => format!(
                    "{} of {} lost, the first {first}; {}",
                    lost.len(),
                    self.acks.len(),
                    run::cut(&got.brief(), 200)
                ),
            };
            self.report.check(
                lost.is_empty(),
                &format!("{who} has every acknowledged write"),
                &figure,
            );
            for (key, value) in &puts {
                let got = self.ctl(member, &["get", key])?;
                if got.out != format!("{key}\n{value}\n") {
                    self.report
                        .check(false, &format!("{who} has {key}"), &got.brief());
                }
            }
            hashes.push(self.hash_kv(member)?);
        }
        let equal = hashes.windows(2).all(|pair| pair[0] == pair[1]);
        let (revision, hash, compacted) = hashes[0];
        let figure = if equal {
            format!("hash {hash}, revision {revision}, compact revision {compacted}")
        } else {
            format!("{hashes:?} (revision, hash, compact revision)")
        };
        self.report
            .check(equal, "endpoint hashkv is equal on all members", &figure);
        Ok(())
    }

    fn lists_say(&mut self, leader: usize) -> Result<()> {
        for member in 0..MEMBERS {
            let ended = self.command(|bed| bed.member_list(member))?;
            let want = spec::member_list(self.bed.specs(), leader);
            let same = ended.ok && ended.out.lines().collect::<Vec<_>>() == want;
            let who = self.bed.specs()[member].name.clone();
            let figure = if same {
                format!("etcd-0{leader} leads")
            } else {
                ended.brief()
            };
            self.report
                .check(same, &format!("member list on {who} is exact"), &figure);
            if same && member == 0 {
                for line in want {
                    self.report.note(&line);
                }
            }
        }
        Ok(())
    }

    /// The leader by `member list` on one member; every other part of its output must be exact.
    fn leader_of(&mut self, member: usize) -> Result<Option<usize>> {
        let ended = self.command(|bed| bed.member_list(member))?;
        if !ended.ok {
            return Ok(None);
        }
        spec::read_member_list(self.bed.specs(), &ended.out).map_err(|why| {
            Error::told(format!(
                "member list on {}: {why}",
                self.bed.specs()[member].name
            ))
        })
    }

    /// Asks `member list` until it names a leader other than `not`.
    fn await_leader(
        &mut self,
        member: usize,
        not: Option<usize>,
        limit: Duration,
    ) -> Result<usize> {
        let begun = Instant::now();
        loop {
            // While the cluster forms, a list without names is in order: only the limit ends that.
            let found = match self.leader_of(member) {
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(why) if not.is_some() || begun.elapsed() > limit => return Err(why),
                Err(_) => None,
                Ok(found) => found,
            };
            match found {
                Some(leader) if not != Some(leader) => return Ok(leader),
                _ if begun.elapsed() > limit => {
                    let who = &self.bed.specs()[member].name;
                    let list = run::run(&mut self.bed.member_list(member), COMMAND_LIMIT)?;
                    return Err(Error::told(format!(
                        "member list on {who} named no new leader within {} s: {}",
                        limit.as_secs(),
                        list.brief()
                    )));
                }
                _ => self.pause(Duration::from_millis(20))?,
            }
        }
    }

    fn await_answer(&mut self, member: usize) -> Result<()> {
        if self.until(ANSWER_LIMIT, |walk| {
            walk.ctl(member, &["get", "foo"])
                .is_ok_and(|ended| ended.ok)
        })? {
            return Ok(());
        }
        let who = &self.bed.specs()[member].name;
        Err(Error::told(format!(
            "{who} does not answer within {} s",
            ANSWER_LIMIT.as_secs()
        )))
    }

    fn try_put(&mut self, member: usize, key: &str, value: &str) -> Result<Ended> {
        let ended = self.ctl(member, &["put", key, value])?;
        if ended.ok {
            self.puts.push((key.to_owned(), value.to_owned()));
        }
        Ok(ended)
    }

    fn put(&mut self, member: usize, key: &str, value: &str) -> Result<()> {
        let ended = self.try_put(member, key, value)?;
        let who = self.bed.specs()[member].name.clone();
        self.report.check(
            ended.ok && ended.out == "OK\n",
            &format!("put {key} {value} on {who}"),
            &ended.brief(),
        );
        Ok(())
    }

    /// A linearizable read, tried until the member answers at all: its first answer must be right.
    fn get(&mut self, member: usize, key: &str, value: &str) -> Result<()> {
        let begun = Instant::now();
        let mut ended = self.ctl(member, &["get", key])?;
        while !ended.ok && begun.elapsed() < ANSWER_LIMIT {
            self.pause(Duration::from_millis(20))?;
            ended = self.ctl(member, &["get", key])?;
        }
        let who = self.bed.specs()[member].name.clone();
        let right = ended.ok && ended.out == format!("{key}\n{value}\n");
        let figure = if right {
            format!("answered after {} ms", begun.elapsed().as_millis())
        } else {
            ended.brief()
        };
        self.report
            .check(right, &format!("get {key} on {who}"), &figure);
        Ok(())
    }

    fn status(&mut self, member: usize) -> Result<Status> {
        let value = self.json(member, &["endpoint", "status", "-w", "json"])?;
        let number = |field: &str| value[0]["Status"][field].as_u64();
        match (number("raftTerm"), number("leader")) {
            (Some(term), Some(leader)) => Ok(Status { term, leader }),
            _ => Err(Error::told(format!(
                "endpoint status has no raftTerm or leader: {value}"
            ))),
        }
    }

    /// Revision, hash and compact revision.
    fn hash_kv(&mut self, member: usize) -> Result<(u64, u64, i64)> {
        let value = self.json(member, &["endpoint", "hashkv", "-w", "json"])?;
        let hash = &value[0]["HashKV"];
        match (hash["header"]["revision"].as_u64(), hash["hash"].as_u64()) {
            (Some(revision), Some(sum)) => Ok((
                revision,
                sum,
                hash["compact_revision"].as_i64().unwrap_or(0),
            )),
            _ => Err(Error::told(format!(
                "endpoint hashkv has no revision or hash: {value}"
            ))),
        }
    }

    fn json(&mut self, member: usize, words: &[&str]) -> Result<Value> {
        let ended = self.ctl(member, words)?;
        serde_json::from_str(&ended.out).map_err(|why| {
            Error::told(format!(
                "`etcdctl {}` printed no JSON ({why}): {}",
                words.join(" "),
                ended.brief()
            ))
        })
    }

    fn ctl(&mut self, member: usize, words: &[&str]) -> Result<Ended> {
        self.command(|bed| bed.etcdctl(member, words))
    }

    fn command(
        &mut self,
        command: impl FnOnce(&dyn Bed) -> std::process::Command,
    ) -> Result<Ended> {
        self.still_wanted()?;
        run::run(&mut command(self.bed), COMMAND_LIMIT)
    }

    /// An expectation that the original does not meet everywhere.
    fn ours(&mut self, holds: bool, what: &str, figure: &str) {
        if self.options.original && !holds {
            self.report
                .note(&format!("(not asked of the original) {what}: {figure}"));
        } else {
            self.report.check(holds, what, figure);
        }
    }

    fn until(&mut self, limit: Duration, holds: impl FnMut(&mut Self) -> bool) -> Result<bool> {
        self.until_moment(Instant::now() + limit, holds)
    }

    fn until_moment(
        &mut self,
        end: Instant,
        mut holds: impl FnMut(&mut Self) -> bool,
    ) -> Result<bool> {
        loop {
            self.still_wanted()?;
            if holds(self) {
                return Ok(true);
            }
            if Instant::now() >= end {
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    fn pause(&mut self, span: Duration) -> Result<()> {
        self.until(span, |_| false).map(|_| ())
    }

    fn still_wanted(&self) -> Result<()> {
        if self.options.interrupted.load(Ordering::Relaxed) {
            Err(Error::Interrupted)
        } else {
            Ok(())
        }
    }

    /// Leaves the members' whole logs where they can be read, and shows their ends when something failed.
    fn keep_logs(&self) {
        let dir = &self.options.log_dir;
        let show = !self.report.failures().is_empty() && self.still_wanted().is_ok();
        for (member, spec) in self.bed.specs().iter().enumerate() {
            let lines = self.bed.journal(member).tail(usize::MAX);
            let file = dir.join(format!("{}.log", spec.name));
            let kept = std::fs::create_dir_all(dir)
                .and_then(|()| std::fs::write(&file, lines.join("\n") + "\n"));
            if let Err(why) = kept {
                self.report
                    .note(&format!("the log of {} is not kept: {why}", spec.name));
            }
            if !show || lines.is_empty() {
                continue;
            }
            self.report.step(&format!("The end of {}", file.display()));
            for line in &lines[lines.len().saturating_sub(LOG_END)..] {
                let style = logline::Style {
                    colour: false,
                    raw: false,
                };
                self.report
                    .note(&logline::show(style, member, &spec.name, line));
            }
        }
    }
}

/// A moment before every attempt of a writer just started.
fn before_all() -> Instant {
    let now = Instant::now();
    now.checked_sub(Duration::from_secs(60)).unwrap_or(now)
}

/// The first line of each report: lines that follow closely belong to the same one.
fn reports(times: &[Instant]) -> Vec<Instant> {
    let mut firsts: Vec<Instant> = Vec::new();
    for &at in times {
        if firsts
            .last()
            .is_none_or(|last| at.saturating_duration_since(*last) > ONE_REPORT)
        {
            firsts.push(at);
        }
    }
    firsts
}

/// Keys and values of `etcdctl get`: they come on alternate lines.
fn pairs(output: &str) -> BTreeMap<&str, &str> {
    let lines: Vec<&str> = output.lines().collect();
    lines
        .chunks_exact(2)
        .map(|pair| (pair[0], pair[1]))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_probes_are_one_report() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        assert_eq!(
            reports(&[at(0), at(1), at(5000), at(5003), at(10_001)]),
            [at(0), at(5000), at(10_001)]
        );
        assert!(reports(&[]).is_empty());
    }

    #[test]
    fn pairs_come_on_alternate_lines() {
        let got = pairs("a\n1\nb\n2\n");
        assert_eq!(got.get("b"), Some(&"2"));
        assert_eq!(got.len(), 2);
        assert!(pairs("").is_empty());
    }
}
