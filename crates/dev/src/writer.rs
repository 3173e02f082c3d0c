//! Puts without pause while members come and go: which of them were acknowledged, and for how long none was.
//!
//! One shell a member runs one `etcdctl put` every tick, in the background, so that an attempt that hangs
//! does not hide that the next one succeeds. Keys are never written twice: an attempt that was not
//! acknowledged may still have been applied, and then does no harm to the reckoning.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ferrite_cli::gaps;

use crate::bed::Bed;
use crate::error::{Error, Result};
use crate::{run, sys};

/// The prefix of every key that a writer puts.
pub const PREFIX: &str = "walkthrough/";

/// Between two attempts. It bounds how finely a gap is measured, and what the attempts cost (an
/// `etcdctl` is a process of some 5 to 40 ms of CPU).
pub const TICK: Duration = Duration::from_millis(50);

/// Attempts that may be under way at once; more would only load the machine.
const UNDER_WAY_MAX: usize = 40;

/// How long an attempt may take. Long enough for a write that is merely slow to count.
const ATTEMPT_FLAGS: &str = "--command-timeout=2s --dial-timeout=1s";

/// An acknowledged write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The key put.
    pub key: String,
    /// Its value.
    pub value: String,
    /// When the attempt began.
    pub begun: Instant,
    /// When the acknowledgement was there.
    pub at: Instant,
}

#[derive(Default)]
struct Book {
    under_way: BTreeMap<u64, Instant>,
    acks: Vec<Ack>,
    refused: usize,
}

/// A writer at work. Dropping it ends its shells.
pub struct Writer {
    book: Arc<Mutex<Book>>,
    ending: Arc<AtomicBool>,
    ticker: Option<JoinHandle<()>>,
    taker: Option<JoinHandle<()>>,
    shells: Vec<Child>,
    begun: Instant,
}

/// What a writer has to tell at its end.
#[derive(Debug)]
pub struct Told {
    /// The acknowledged writes, in the order of their acknowledgements.
    pub acks: Vec<Ack>,
    /// Attempts that failed.
    pub refused: usize,
    /// When it began and ended.
    pub span: (Instant, Instant),
}

impl Writer {
    /// Starts writing through the given members; `run` tells its keys from those of other writers.
    ///
    /// # Errors
    /// A shell cannot be started.
    pub fn start(bed: &dyn Bed, members: &[usize], run: &str) -> Result<Self> {
        let book = Arc::new(Mutex::new(Book::default()));
        let (sender, answers) = channel();
        let mut shells = Vec::new();
        let mut inputs = Vec::new();
        for &member in members {
            let (child, input) = open_shell(bed.shell(member), &sender)?;
            shells.push(child);
            inputs.push(input);
        }
        // From here on only the shells' readers send: the taker ends when the last shell has.
        drop(sender);
        let taker = take_answers(answers, Arc::clone(&book), run.to_owned());
        let ending = Arc::new(AtomicBool::new(false));
        let ticker = {
            let (book, ending, run) = (Arc::clone(&book), Arc::clone(&ending), run.to_owned());
            thread::spawn(move || tick(inputs, &book, &ending, &run))
        };
        Ok(Self {
            book,
            ending,
            ticker: Some(ticker),
            taker: Some(taker),
            shells,
            begun: Instant::now(),
        })
    }

    /// Acknowledged writes of attempts that began at `mark` or later.
    pub fn acks_since(&self, mark: Instant) -> usize {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.acks.iter().filter(|ack| ack.begun >= mark).count()
    }

    /// Ends the writing and waits for the attempts under way.
    pub fn finish(mut self) -> Told {
        let ended = Instant::now();
        self.ending.store(true, Ordering::Relaxed);
        if let Some(ticker) = self.ticker.take() {
            let _ = ticker.join();
        }
        // The shells end by themselves, after their last attempt, because their input has.
        let limit = Instant::now() + Duration::from_secs(4);
        for shell in &mut self.shells {
            while Instant::now() < limit && shell.try_wait().ok().flatten().is_none() {
                thread::sleep(Duration::from_millis(5));
            }
            let _ = shell.kill();
            let _ = shell.wait();
        }
        if let Some(taker) = self.taker.take() {
            let _ = taker.join();
        }
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let mut acks = std::mem::take(&mut book.acks);
        acks.sort_by_key(|ack| ack.at);
        Told {
            acks,
            refused: book.refused,
            span: (self.begun, ended),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::Relaxed);
        for shell in &mut self.shells {
            if shell.try_wait().ok().flatten().is_none() {
                let _ = shell.kill();
                let _ = shell.wait();
            }
        }
    }
}

impl Told {
    /// The longest time without an acknowledgement that ended after `mark`.
    pub fn refused_for(&self, mark: Instant) -> Duration {
        gaps::refused_for(self.acks.iter().map(|ack| ack.at), self.span, mark)
    }

    /// The longest time without an acknowledgement before `mark`: what the measure itself costs.
    pub fn usual_gap(&self, mark: Instant) -> Duration {
        gaps::usual_gap(self.acks.iter().map(|ack| ack.at), mark)
    }
}

fn open_shell(
    mut command: Command,
    answers: &Sender<(Instant, String)>,
) -> Result<(Child, ChildStdin)> {
    sys::our_child(&mut command);
    let failed = format!("starting `{}`", run::describe(&command));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .map_err(Error::io(&failed))?;
    let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(Error::told(failed));
    };
    let answers = answers.clone();
    thread::spawn(move || {
        for line in BufReader::new(output).lines() {
            let Ok(line) = line else { return };
            if answers.send((Instant::now(), line)).is_err() {
                return;
            }
        }
    });
    Ok((child, input))
}

/// The key and the value of attempt `number`.
fn pair(run: &str, number: u64) -> (String, String) {
    (
        format!("{PREFIX}{run}/{number:06}"),
        format!("{run}-{number}"),
    )
}

fn tick(mut inputs: Vec<ChildStdin>, book: &Mutex<Book>, ending: &AtomicBool, run: &str) {
    let mut due = Instant::now();
    let mut number = 0;
    while !ending.load(Ordering::Relaxed) {
        let free = {
            let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
            let free = book.under_way.len() < UNDER_WAY_MAX;
            if free {
                book.under_way.insert(number, Instant::now());
            }
            free
        };
        if free {
            let (key, value) = pair(run, number);
            let turn = usize::try_from(number).unwrap_or(0) % inputs.len().max(1);
            let line = format!(
                "(\"$CTL\" {ATTEMPT_FLAGS} put {key} {value} >/dev/null 2>&1 && echo ok {number} || echo no {number}) &\n"
            );
            if let Some(input) = inputs.get_mut(turn) {
                // A shell that has gone away takes no attempts; the gap shows it.
                let _ = input
                    .write_all(line.as_bytes())
                    .and_then(|()| input.flush());
            }
            number += 1;
        }
        due = (due + TICK).max(Instant::now());
        thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    for mut input in inputs {
        let _ = input.write_all(b"wait\n");
    }
}

fn take_answers(
    answers: Receiver<(Instant, String)>,
    book: Arc<Mutex<Book>>,
    run: String,
) -> JoinHandle<()> {
    thread::spawn(move || {
        for (at, line) in answers {
            let Some((word, number)) = line.split_once(' ') else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else {
                continue;
            };
            let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(begun) = book.under_way.remove(&number) else {
                continue;
            };
            if word == "ok" {
                let (key, value) = pair(&run, number);
                book.acks.push(Ack {
                    key,
                    value,
                    begun,
                    at,
                });
            } else {
                book.refused += 1;
            }
        }
    })
}
