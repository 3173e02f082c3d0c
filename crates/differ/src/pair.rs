//! Two servers that are asked the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use ferrite_client::pb;
use ferrite_client::pb::watch_create_request::FilterType;
use ferrite_client::pb::watch_request::RequestUnion;
use ferrite_testkit::Kind;

use crate::answer::Answer;
use crate::contest::Waiter;
use crate::exceptions::{self, Context};
use crate::fault::Fault;
use crate::revision::Bases;
use crate::side::Side;
use crate::step::{Call, ROOT, Step};
use crate::streams::lines;

/// How long a watcher may take to tell what it has to: catching up goes in rounds of a tenth of a
/// second, on a machine that may be busy.
const WATCH_PATIENCE: Duration = Duration::from_secs(20);

/// How long the small stores here may take to remove what was compacted.
const COMPACTED_WITHIN: Duration = Duration::from_secs(5);

/// A step that was answered differently.
#[derive(Debug, Clone)]
pub struct Difference {
    /// Its place in the sequence.
    pub at: usize,
    /// The step, with plain numbers.
    pub step: Step,
    /// What we said.
    pub ours: Answer,
    /// What the original said.
    pub theirs: Answer,
}

impl Difference {
    /// Whether the same kind of call got the same two kinds of answers.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        use std::mem::discriminant;
        discriminant(&self.step.call) == discriminant(&other.step.call)
            && discriminant(&self.ours) == discriminant(&other.ours)
            && discriminant(&self.theirs) == discriminant(&other.theirs)
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "  step {} is answered differently: {}",
            self.at, self.step
        )?;
        writeln!(f, "    ours:   {}", self.ours)?;
        write!(f, "    theirs: {}", self.theirs)
    }
}

#[derive(Debug)]
struct Watcher {
    stream: usize,
    id: i64,
    key: bytes::Bytes,
    start: i64,
    /// Whether it tells of puts, and of deletions.
    hears: (bool, bool),
    /// Until it has told something, it may still be catching up.
    synced: bool,
    /// Begins below the compacted revision, so that it will be cancelled.
    doomed: bool,
}

/// A server of each kind with one history.
#[derive(Debug)]
pub struct Pair {
    pub(crate) ours: Side,
    pub(crate) theirs: Side,
    bases: Bases,
    compactions: BTreeSet<i64>,
    watchers: Vec<Watcher>,
    /// Create requests sent on each open stream, and progress requests.
    created: BTreeMap<usize, usize>,
    progress: BTreeMap<usize, usize>,
    /// How often each exception was needed.
    pub excused: BTreeMap<&'static str, usize>,
    /// Requests asked of each server.
    pub asked: usize,
    /// How long watchers may take to tell what they have to.
    pub patience: Duration,
    /// Locks and campaigns whose turn has not come.
    pub(crate) waiters: Vec<Waiter>,
    /// Whether the sequence has asked anything about users, so that some may be left.
    users: bool,
    /// Watchers that never had to catch up, so that what they hear is packed in one way only.
    steady: BTreeSet<(usize, i64)>,
    against: Kind,
    /// Breaks answers of ours on purpose.
    pub fault: Option<Fault>,
}

impl Pair {
    /// Starts both servers on empty folders.
    ///
    /// # Panics
    /// If one does not start.
    pub async fn start(against: Kind) -> Self {
        let (ours, theirs) = tokio::join!(Side::start(Kind::Ferrite), Side::start(against));
        Self {
            ours,
            theirs,
            bases: Bases::fresh(),
            compactions: BTreeSet::new(),
            watchers: Vec::new(),
            created: BTreeMap::new(),
            progress: BTreeMap::new(),
            excused: BTreeMap::new(),
            asked: 0,
            patience: WATCH_PATIENCE,
            waiters: Vec::new(),
            users: false,
            steady: BTreeSet::new(),
            against,
            fault: None,
        }
    }

    /// Runs a sequence to its end, or to the first step that is answered differently; a pair that
    /// has differed once is of no more use.
    ///
    /// # Errors
    /// The difference.
    pub async fn run(&mut self, steps: &[Step]) -> Result<(), Box<Difference>> {
        self.bases.start = self.bases.now;
        for (at, step) in steps.iter().enumerate() {
            let resolved = Step {
                client: step.client,
                call: self.bases.resolve(&step.call),
            };
            let (mut ours, mut theirs) = self.step(&resolved).await;
            if ours == theirs
                && !self.waiters.is_empty()
                && resolved.call.may_end_a_wait()
                && let Some(turns) = self.turns().await
            {
                (ours, theirs) = turns;
            }
            if let Some(revision) = theirs.revision() {
                self.bases.now = self.bases.now.max(revision);
            }
            if ours != theirs {
                return Err(Box::new(Difference {
                    at,
                    step: resolved,
                    ours,
                    theirs,
                }));
            }
        }
        self.clean_up().await;
        Ok(())
    }

    /// Ends of both servers' logs, for a report on something odd.
    #[must_use]
    pub fn logs(&self) -> String {
        format!(
            "ours:\n{}\ntheirs:\n{}",
            self.ours.log_tail(),
            self.theirs.log_tail()
        )
    }

    /// What a sequence leaves is closed, so that the next one finds nothing of it but keys.
    pub async fn clean_up(&mut self) {
        while let held = self.waiters.len()
            && held > 0
        {
            // the servers have to have noticed before anything else is asked
            let _ = self.give_up().await;
            if self.waiters.len() == held {
                self.waiters.remove(0);
            }
        }
        for side in [&mut self.ours, &mut self.theirs] {
            side.streams.clear();
            side.claims.fill(None);
        }
        self.watchers.clear();
        self.created.clear();
        self.progress.clear();
        self.steady.clear();
        if std::mem::take(&mut self.users) {
            tokio::join!(self.ours.forget_users(), self.theirs.forget_users());
        }
    }

    async fn step(&mut self, step: &Step) -> (Answer, Answer) {
        match &step.call {
            Call::Watch { stream, create } => self.watch(*stream, create).await,
            Call::CancelWatch { stream, watch_id } => self.cancel(*stream, *watch_id).await,
            Call::Progress { stream } => self.ask_progress(*stream).await,
            Call::CloseStream { stream } => {
                self.ours.streams.remove(stream);
                self.theirs.streams.remove(stream);
                self.created.remove(stream);
                self.progress.remove(stream);
                self.watchers.retain(|watcher| watcher.stream != *stream);
                (Answer::Nothing, Answer::Nothing)
            }
            Call::Sync => self.sync().await,
            Call::Compact(request) => {
                // What is catching up, or still looks for a previous value, would race with it.
                if !self.watchers.is_empty() {
                    let heard = self.sync().await;
                    if heard.0 != heard.1 {
                        return heard;
                    }
                }
                let answers = self.both(step).await;
                if matches!(answers.1, Answer::Done(_)) {
                    self.bases.compacted = request.revision;
                    self.compactions.insert(request.revision);
                }
                answers
            }
            Call::HashKv(_) => self.hash(step).await,
            Call::Lock(_) | Call::Campaign(_) => self.contend(step).await,
            Call::GiveUp => self.give_up().await,
            Call::Observe(_) => self.observe(step).await,
            _ => self.both(step).await,
        }
    }

    /// Where no key lives, the original hashes what a compaction has not removed yet: asked again
    /// until both have removed it all.
    async fn hash(&mut self, step: &Step) -> (Answer, Answer) {
        let mut step = step.clone();
        // After a compaction at revision 0 the question about none gets the hash that was kept of it
        // (MN-10), and says nothing any more.
        if let Call::HashKv(request) = &mut step.call
            && request.revision == 0
            && self.compactions.contains(&0)
        {
            request.revision = self.bases.now;
        }
        let since = Instant::now();
        loop {
            let answers = self.both(&step).await;
            if answers.0 == answers.1 || since.elapsed() > COMPACTED_WITHIN {
                return answers;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn both(&mut self, step: &Step) -> (Answer, Answer) {
        self.asked += 1;
        self.users |= step.call.is_about_users();
        let (mut ours, mut theirs) = tokio::join!(
            self.ours.ask(step.client, &step.call),
            self.theirs.ask(step.client, &step.call)
        );
        self.settle(&step.call, &mut ours, &mut theirs);
        (ours, theirs)
    }

    /// Accounts for what may differ.
    pub(crate) fn settle(&mut self, call: &Call, ours: &mut Answer, theirs: &mut Answer) {
        if let Some(fault) = self.fault {
            fault.apply(call, ours);
        }
        let context = Context {
            call,
            compactions: &self.compactions,
            against: self.against,
        };
        for row in exceptions::settle(&context, ours, theirs) {
            *self.excused.entry(row).or_default() += 1;
        }
    }

    async fn watch(&mut self, stream: usize, create: &pb::WatchCreateRequest) -> (Answer, Answer) {
        // 3.7 refuses a negative start, 3.5.1 reads it as none (WA-05).
        if create.start_revision < 0 {
            return (Answer::Nothing, Answer::Nothing);
        }
        self.asked += 1;
        let nth = self.created.entry(stream).or_default();
        let mine = *nth;
        *nth += 1;
        for side in [&mut self.ours, &mut self.theirs] {
            side.stream(stream)
                .send(RequestUnion::CreateRequest(create.clone()));
        }
        self.wait(|side| {
            side.streams[&stream].created(mine).is_some() || side.streams[&stream].ended()
        })
        .await;
        let said = |side: &Side| match side.streams[&stream].created(mine) {
            Some(response) => Answer::Watch(response).level(),
            None => Answer::Silent,
        };
        let (mut ours, mut theirs) = (said(&self.ours), said(&self.theirs));
        let call = Call::Watch {
            stream,
            create: create.clone(),
        };
        self.settle(&call, &mut ours, &mut theirs);
        if let Answer::Watch(response) = &theirs
            && !response.canceled
        {
            let without = |filter: FilterType| !create.filters.contains(&(filter as i32));
            let key = match create.key.is_empty() {
                true => bytes::Bytes::from_static(&[0]),
                false => create.key.clone(),
            };
            let catches_up = create.start_revision > 0 && create.start_revision <= self.bases.now;
            match catches_up {
                true => self.steady.remove(&(stream, response.watch_id)),
                false => self.steady.insert((stream, response.watch_id)),
            };
            self.watchers.push(Watcher {
                stream,
                id: response.watch_id,
                key,
                start: create.start_revision,
                hears: (without(FilterType::Noput), without(FilterType::Nodelete)),
                synced: !catches_up,
                doomed: catches_up && create.start_revision < self.bases.compacted,
            });
        }
        (ours, theirs)
    }

    async fn cancel(&mut self, stream: usize, watch_id: i64) -> (Answer, Answer) {
        self.asked += 1;
        let of_stream = |watcher: &Watcher| watcher.stream == stream && watcher.id == watch_id;
        if self
            .watchers
            .iter()
            .any(|watcher| of_stream(watcher) && !watcher.synced)
        {
            let heard = self.sync().await;
            if heard.0 != heard.1 {
                return heard;
            }
        }
        let known = self.watchers.iter().any(of_stream);
        let canceled = move |response: &pb::WatchResponse| {
            response.watch_id == watch_id && response.canceled && !response.created
        };
        let before: Vec<usize> = [&mut self.ours, &mut self.theirs]
            .into_iter()
            .map(|side| {
                let open = side.stream(stream);
                let before = open.count(canceled);
                open.send(RequestUnion::CancelRequest(pb::WatchCancelRequest {
                    watch_id,
                }));
                before
            })
            .collect();
        if known {
            self.watchers.retain(|watcher| !of_stream(watcher));
            let (ours, theirs) = (before[0], before[1]);
            self.wait_each(
                |side| side.streams[&stream].count(canceled) > ours,
                |side| side.streams[&stream].count(canceled) > theirs,
            )
            .await;
        }
        (Answer::Nothing, Answer::Nothing)
    }

    /// Only where both versions have to answer: 3.5.1 answers always, 3.7 when every watcher of the
    /// stream is synced and none waits for the future (WA-17).
    async fn ask_progress(&mut self, stream: usize) -> (Answer, Answer) {
        if !self.ours.streams.contains_key(&stream) {
            return (Answer::Nothing, Answer::Nothing);
        }
        let heard = self.sync().await;
        if heard.0 != heard.1 {
            return heard;
        }
        let now = self.bases.now;
        let mut own = self
            .watchers
            .iter()
            .filter(|watcher| watcher.stream == stream)
            .peekable();
        let due = own.peek().is_some()
            && own.all(|watcher| !watcher.doomed && watcher.synced && watcher.start <= now);
        if due {
            self.asked += 1;
            let asked = self.progress.entry(stream).or_default();
            *asked += 1;
            let asked = *asked;
            let progress = |response: &pb::WatchResponse| {
                response.watch_id == -1 && !response.created && !response.canceled
            };
            for side in [&mut self.ours, &mut self.theirs] {
                side.stream(stream)
                    .send(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
            }
            self.wait(|side| side.streams[&stream].count(progress) >= asked)
                .await;
            return self.heard().await;
        }
        (Answer::Nothing, Answer::Nothing)
    }

    /// Makes every watcher tell something new, so that all that came before it has been told, and
    /// compares what was heard.
    async fn sync(&mut self) -> (Answer, Answer) {
        let keys: BTreeSet<bytes::Bytes> = self
            .watchers
            .iter()
            .filter(|watcher| watcher.hears.0 || watcher.hears.1)
            .map(|watcher| watcher.key.clone())
            .collect();
        let mut marks: BTreeMap<bytes::Bytes, (i64, i64)> = BTreeMap::new();
        for key in keys {
            let put = Call::Put(pb::PutRequest {
                key: key.clone(),
                value: "mark".into(),
                ..Default::default()
            });
            let delete = Call::DeleteRange(pb::DeleteRangeRequest {
                key: key.clone(),
                ..Default::default()
            });
            let mut revisions = Vec::new();
            for call in [put, delete] {
                let answers = self.both(&Step { client: ROOT, call }).await;
                if answers.0 != answers.1 {
                    return answers;
                }
                revisions.extend(answers.1.revision());
            }
            if let [put, delete] = revisions[..] {
                self.bases.now = self.bases.now.max(delete);
                marks.insert(key, (put, delete));
            }
        }
        let mut due = Vec::new();
        for watcher in &mut self.watchers {
            let mark = match (watcher.hears, marks.get(&watcher.key)) {
                ((_, true), Some((_, delete))) => *delete,
                ((true, false), Some((put, _))) => *put,
                _ => continue,
            };
            if mark >= watcher.start || watcher.doomed {
                due.push((watcher.stream, watcher.id, mark));
                watcher.synced = true;
            }
        }
        self.wait(|side| {
            due.iter()
                .all(|(stream, id, mark)| side.streams[stream].has_told(*id, *mark))
        })
        .await;
        self.heard().await
    }

    /// Compares what all streams have heard, once it is equal or will not be.
    async fn heard(&mut self) -> (Answer, Answer) {
        let since = Instant::now();
        loop {
            let (mut ours, mut theirs) = (Vec::new(), Vec::new());
            let mut excused = false;
            for stream in self.created.keys() {
                let steady = |watcher| self.steady.contains(&(*stream, watcher));
                let mut our = self.ours.streams[stream].heard(steady);
                let their = self.theirs.streams[stream].heard(steady);
                if let Some(fault) = self.fault {
                    fault.apply_heard(&mut our);
                }
                if our != their {
                    excused |= exceptions::settle_heard(&self.compactions, &mut our, &their);
                }
                if our != their {
                    ours.extend(lines(*stream, &our));
                    theirs.extend(lines(*stream, &their));
                }
            }
            if excused {
                *self.excused.entry("KV-27").or_default() += 1;
            }
            if ours == theirs || since.elapsed() > self.patience {
                return (Answer::Heard(ours), Answer::Heard(theirs));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until both sides are so far, or time is up; what is missing then is a difference that
    /// the next comparison shows.
    async fn wait(&self, far: impl Fn(&Side) -> bool) {
        self.wait_each(&far, &far).await;
    }

    async fn wait_each(&self, ours: impl Fn(&Side) -> bool, theirs: impl Fn(&Side) -> bool) {
        let since = Instant::now();
        while !(ours(&self.ours) && theirs(&self.theirs)) && since.elapsed() < self.patience {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
