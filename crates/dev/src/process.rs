//! A long-running child process (a member, or something that prints a member's log) whose lines are handed
//! on as they come.
//!
//! It never outlives this program: see [`crate::sys::our_child`]. Spawn from the main thread.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::{run, sys};

/// The longest line taken over whole; what is longer comes in pieces, so that no output fills the memory.
const LINE_MAX: u64 = 1 << 20;

/// Takes lines of output.
pub type Sink = Arc<dyn Fn(&str) + Send + Sync>;

/// A running child and the threads that read its output. Killed when dropped.
pub struct Process {
    child: Child,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    /// Starts the program; every line of its standard output and standard error goes to `sink`.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(command: &mut Command, sink: &Sink) -> Result<Self> {
        sys::our_child(command);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .map_err(Error::io(format!("starting `{}`", run::describe(command))))?;
        let mut readers = Vec::new();
        if let Some(out) = child.stdout.take() {
            readers.push(read_lines(out, Arc::clone(sink)));
        }
        if let Some(err) = child.stderr.take() {
            readers.push(read_lines(err, Arc::clone(sink)));
        }
        Ok(Self { child, readers })
    }

    /// The process ID.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&self, signal: i32) {
        // The only failure for a child not yet reaped is that it has ended already.
        let _ = sys::signal_child(&self.child, signal);
    }

    /// How it ended, once it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.try_wait().ok().flatten()?;
        for reader in self.readers.drain(..) {
            // Its last lines, before anyone is told that it ended.
            let _ = reader.join();
        }
        Some(status)
    }

    /// Waits for its end until `limit` has passed; past it kills it. True when it ended by itself.
    pub fn wait(&mut self, limit: Duration) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            if self.ended().is_some() {
                return true;
            }
            thread::sleep(Duration::from_millis(2));
        }
        self.signal(sys::SIGKILL);
        let _ = self.child.wait();
        false
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            self.signal(sys::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

fn read_lines(from: impl Read + Send + 'static, sink: Sink) -> JoinHandle<()> {
    thread::spawn(move || {
        let mut from = BufReader::new(from);
        let mut line = Vec::new();
        loop {
            line.clear();
            match from.by_ref().take(LINE_MAX).read_until(b'\n', &mut line) {
                Ok(0) | Err(_) => return,
                Ok(_) => sink(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r'])),
            }
        }
    })
}

/// The lines a member has logged, each with the moment it reached us.
#[derive(Debug, Clone, Default)]
pub struct Journal(Arc<Mutex<Vec<(Instant, String)>>>);

impl Journal {
    /// Where [`Process`] puts lines.
    pub fn sink(&self) -> Sink {
        let journal = self.clone();
        Arc::new(move |line| journal.push(line))
    }

    /// Takes a line down.
    pub fn push(&self, line: &str) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push((Instant::now(), line.to_owned()));
    }

    /// When lines came, since `mark`, for which `wanted` holds.
    pub fn times(&self, mark: Instant, wanted: impl Fn(&str) -> bool) -> Vec<Instant> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter(|(at, line)| *at >= mark && wanted(line))
            .map(|(at, _)| *at)
            .collect()
    }

    /// The last lines, for a report of what went wrong.
    pub fn tail(&self, count: usize) -> Vec<String> {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines
            .iter()
            .skip(lines.len().saturating_sub(count))
            .map(|(_, line)| line.clone())
            .collect()
    }
}
