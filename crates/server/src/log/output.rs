//! Where lines go, and the queue before each output: who logs never waits for a terminal, a pipe or a
//! disk. What does not fit a queue is counted, and the count is logged once there is room.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

use super::journal::Journal;
use super::rotate::Rotating;
use super::{Severity, lock};

/// Lines that may wait for one output.
const QUEUE_LINES_MAX: usize = 8_192;
/// And their bytes: a line has a few hundred.
const QUEUE_BYTES_MAX: usize = 4 << 20;

/// An output.
#[derive(Debug)]
pub enum Output {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(File, PathBuf),
    /// A file that begins anew when it is large.
    Rotating(Rotating),
    /// systemd's journal.
    Journal(Journal),
}

/// A file of logs, opened as the original does.
///
/// # Errors
/// What the system says.
pub fn open(path: &std::path::Path) -> std::io::Result<File> {
    File::options().append(true).create(true).open(path)
}

impl Output {
    fn write(&mut self, lines: &[Arc<Line>], buffer: &mut Vec<u8>) {
        // A log that cannot be written has nobody to be told.
        match self {
            Output::Journal(journal) => {
                for line in lines {
                    let sent = journal.send(line.severity, &line.caller, &line.text);
                    if sent.is_err() {
                        let _unwritable = std::io::stderr().write_all(line.text.as_bytes());
                    }
                }
            }
            Output::Rotating(file) => {
                for line in lines {
                    let _unwritable = file.write(line.text.as_bytes());
                }
            }
            Output::Stderr | Output::Stdout | Output::File(..) => {
                buffer.clear();
                for line in lines {
                    buffer.extend_from_slice(line.text.as_bytes());
                }
                let _unwritable = match self {
                    Output::Stdout => std::io::stdout().lock().write_all(buffer),
                    Output::File(file, _) => file.write_all(buffer),
                    _ => std::io::stderr().write_all(buffer),
                };
            }
        }
    }

    /// Opens files by their names again; the old ones stay where that fails.
    fn reopen(&mut self) {
        let failed = match self {
            Output::File(file, path) => match open(path) {
                Ok(opened) => {
                    *file = opened;
                    return;
                }
                Err(error) => error,
            },
            Output::Rotating(file) => match file.reopen() {
                Ok(()) => return,
                Err(error) => error,
            },
            Output::Stderr | Output::Stdout | Output::Journal(_) => return,
        };
        tracing::warn!(error = %failed, "cannot open the log file again");
    }

    /// Whether it is a file.
    pub fn is_file(&self) -> bool {
        matches!(self, Output::File(..) | Output::Rotating(_))
    }
}

/// A line on its way.
#[derive(Debug)]
pub struct Line {
    /// How severe.
    pub severity: Severity,
    /// Where it arose.
    pub caller: String,
    /// As it is written, with its end.
    pub text: String,
}

#[derive(Default)]
struct Pending {
    lines: Vec<Arc<Line>>,
    bytes: usize,
    writing: bool,
}

/// The queue of one output.
#[derive(Default)]
pub struct Queue {
    pending: Mutex<Pending>,
    changed: Condvar,
    dropped: AtomicU64,
    reopen: AtomicBool,
}

impl Queue {
    /// Starts the thread that writes.
    pub fn start(mut output: Output) -> std::io::Result<Arc<Self>> {
        let queue = Arc::new(Queue::default());
        let shared = Arc::clone(&queue);
        std::thread::Builder::new()
            .name("log".into())
            .spawn(move || {
                let mut batch = Vec::new();
                let mut buffer = Vec::new();
                loop {
                    shared.take(&mut batch);
                    if shared.reopen.swap(false, Ordering::Relaxed) {
                        output.reopen();
                    }
                    output.write(&batch, &mut buffer);
                    batch.clear();
                    let dropped = shared.dropped.swap(0, Ordering::Relaxed);
                    if dropped > 0 {
                        tracing::warn!(
                            lines = dropped,
                            "log lines were dropped: the log output is too slow"
                        );
                    }
                }
            })?;
        Ok(queue)
    }

    /// Waits for lines, or for a reason to open files again.
    fn take(&self, batch: &mut Vec<Arc<Line>>) {
        let mut pending = lock(&self.pending);
        pending.writing = false;
        self.changed.notify_all();
        while pending.lines.is_empty() && !self.reopen.load(Ordering::Relaxed) {
            pending = self
                .changed
                .wait(pending)
                .unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        std::mem::swap(batch, &mut pending.lines);
        pending.bytes = 0;
        pending.writing = true;
    }

    /// Adds a line, or counts it as dropped.
    pub fn push(&self, line: &Arc<Line>) {
        let mut pending = lock(&self.pending);
        let full = pending.lines.len() >= QUEUE_LINES_MAX || pending.bytes >= QUEUE_BYTES_MAX;
        if full && line.severity < Severity::Panic {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        pending.lines.push(Arc::clone(line));
        pending.bytes += line.text.len();
        if pending.lines.len() == 1 {
            self.changed.notify_all();
        }
    }

    /// Has the output open its files again.
    pub fn reopen(&self) {
        // Set under the lock, or the thread could miss it between its look and its sleep.
        let _pending = lock(&self.pending);
        self.reopen.store(true, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Waits until everything so far is written, or that moment has come.
    pub fn flush(&self, deadline: Instant) {
        let mut pending = lock(&self.pending);
        while pending.writing || !pending.lines.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            pending = match self.changed.wait_timeout(pending, left) {
                Ok((guard, _)) => guard,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::time::Duration;

    /// A socket that nobody reads takes some hundred kilobytes; the rest waits, up to the limits.
    #[test]
    fn what_does_not_fit_is_dropped_and_nobody_waits() {
        let (mut reader, writer) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let queue = Queue::start(Output::File(file, PathBuf::new())).expect("a thread");
        let line = |severity, text: String| {
            let caller = "folder/file.rs:7".to_owned();
            Arc::new(Line {
                severity,
                caller,
                text,
            })
        };
        let long = "x".repeat(1_000);
        let started = Instant::now();
        for _ in 0..20_000 {
            queue.push(&line(Severity::Info, format!("{long}\n")));
        }
        assert!(started.elapsed() < Duration::from_secs(5));
        let dropped = queue.dropped.load(Ordering::Relaxed);
        let waiting = lock(&queue.pending).bytes;
        assert!(waiting <= QUEUE_BYTES_MAX + 2_000, "{waiting} bytes wait");
        assert!(dropped > 10_000, "only {dropped} dropped");
        // What ends the process is not dropped.
        queue.push(&line(Severity::Fatal, "the end\n".to_owned()));
        let reading = std::thread::spawn(move || {
            let mut text = Vec::new();
            let mut piece = [0; 65_536];
            while !text.ends_with(b"the end\n") {
                let length = reader.read(&mut piece).expect("bytes");
                assert_ne!(length, 0, "it ends without its last line");
                text.extend_from_slice(&piece[..length]);
            }
            text.len() / 1_001
        });
        queue.flush(Instant::now() + Duration::from_secs(20));
        let written = reading.join().expect("a reader");
        assert_eq!(written as u64 + dropped, 20_000);
    }
}
