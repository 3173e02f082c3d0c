//! Writes and reads without pause while members come and go. Each attempt is on its own, so that one that hangs
//! does not hide that the next one succeeds. No key is written twice: a write that was not acknowledged may have
//! happened all the same, and then does no harm to the reckoning.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ferrite_cli::gaps;
use ferrite_client::{Client, describe, pb};
use tokio::task::{JoinHandle, JoinSet};

/// Between two attempts; it bounds how finely a gap is measured.
pub const TICK: Duration = Duration::from_millis(20);
/// Attempts of a kind that may be under way at once.
const UNDER_WAY_MAX: usize = 256;
/// How many kinds of errors are kept.
const ERRORS_MAX: usize = 8;

/// What came of the attempts so far.
#[derive(Default)]
pub struct Book {
    /// Keys that were acknowledged, with their values.
    pub written: BTreeMap<String, String>,
    writes: Vec<Instant>,
    reads: Vec<Instant>,
    /// Attempts that failed, of both kinds.
    pub refused: (usize, usize),
    /// Why, and how often.
    pub errors: BTreeMap<String, usize>,
}

/// Attempts under way until it is stopped.
pub struct Load {
    book: Arc<Mutex<Book>>,
    begun: Instant,
    task: JoinHandle<()>,
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Load {
    /// Writes keys under `prefix`, and reads.
    pub fn start(client: Client, prefix: String) -> Self {
        let book = Arc::new(Mutex::new(Book::default()));
        let task = tokio::spawn(attempts(client, prefix, Arc::clone(&book)));
        Self {
            book,
            begun: Instant::now(),
            task,
        }
    }

    /// Whether as many writes and reads as that have succeeded since `mark`.
    pub fn flows(&self, mark: Instant, count: usize) -> bool {
        let book = lock(&self.book);
        let since = |moments: &[Instant]| moments.iter().filter(|at| **at >= mark).count();
        since(&book.writes) >= count && since(&book.reads) >= count
    }

    /// Ends it; attempts under way are given up, and what they did is not counted.
    pub fn finish(self) -> Told {
        self.task.abort();
        Told {
            span: (self.begun, Instant::now()),
            book: std::mem::take(&mut *lock(&self.book)),
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a load has to tell at its end.
pub struct Told {
    span: (Instant, Instant),
    /// What came of the attempts.
    pub book: Book,
}

impl Told {
    /// The longest time without a write, and without a read, that ended after `mark`.
    pub fn refused_for(&self, mark: Instant) -> (Duration, Duration) {
        let of = |moments: &Vec<Instant>| gaps::refused_for(moments.clone(), self.span, mark);
        (of(&self.book.writes), of(&self.book.reads))
    }

    /// The longest time between two writes before `mark`.
    pub fn usual_gap(&self, mark: Instant) -> Duration {
        gaps::usual_gap(self.book.writes.clone(), mark)
    }
}

async fn attempts(client: Client, prefix: String, book: Arc<Mutex<Book>>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut writes, mut reads) = (JoinSet::new(), JoinSet::new());
    let mut number = 0u64;
    loop {
        ticks.tick().await;
        while writes.try_join_next().is_some() {}
        while reads.try_join_next().is_some() {}
        if writes.len() < UNDER_WAY_MAX {
            let key = format!("{prefix}{number:08}");
            writes.spawn(write(client.clone(), key, Arc::clone(&book)));
            number += 1;
        }
        if reads.len() < UNDER_WAY_MAX {
            reads.spawn(read(client.clone(), prefix.clone(), Arc::clone(&book)));
        }
    }
}

async fn write(client: Client, key: String, book: Arc<Mutex<Book>>) {
    let value = format!("value of {key}");
    let request = pb::PutRequest {
        key: key.clone().into(),
        value: value.clone().into(),
        ..Default::default()
    };
    let answer = client.kv().put(request).await;
    let mut book = lock(&book);
    match answer {
        Ok(_) => {
            book.writes.push(Instant::now());
            book.written.insert(key, value);
        }
        Err(status) => {
            book.refused.0 += 1;
            book.note(describe(&status));
        }
    }
}

async fn read(client: Client, key: String, book: Arc<Mutex<Book>>) {
    let request = pb::RangeRequest {
        key: key.into(),
        ..Default::default()
    };
    let answer = client.kv().range(request).await;
    let mut book = lock(&book);
    match answer {
        Ok(_) => book.reads.push(Instant::now()),
        Err(status) => {
            book.refused.1 += 1;
            book.note(describe(&status));
        }
    }
}

impl Book {
    fn note(&mut self, error: String) {
        if self.errors.len() < ERRORS_MAX || self.errors.contains_key(&error) {
            *self.errors.entry(error).or_default() += 1;
        }
    }
}
