//! Log lines in zap's shapes: one JSON object a line, or the console form.
//!
//! Lines are formatted where they arise and written by a thread of their own: a terminal or pipe
//! that does not drain never holds up serving. What does not fit the queue is counted, and the count
//! is logged once there is room.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

/// Lines that may wait for the writer; about 2 MB of text.
const QUEUE_LINES_MAX: usize = 8_192;

/// Least severe level that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Everything.
    Debug,
    /// The default.
    Info,
    /// Warnings and worse.
    Warn,
    /// Errors and worse.
    Error,
    /// Only what ends the process.
    Fatal,
}

impl Severity {
    /// Reads a `--log-level`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "debug" => Severity::Debug,
            "info" => Severity::Info,
            "warn" => Severity::Warn,
            "error" => Severity::Error,
            "dpanic" | "panic" | "fatal" => Severity::Fatal,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Severity::Debug => "debug",
            Severity::Info => "info",
            Severity::Warn => "warn",
            Severity::Error => "error",
            Severity::Fatal => "fatal",
        }
    }

    fn of(level: Level) -> Self {
        match level {
            Level::ERROR => Severity::Error,
            Level::WARN => Severity::Warn,
            Level::INFO => Severity::Info,
            _ => Severity::Debug,
        }
    }
}

/// Shape of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One JSON object a line.
    Json,
    /// Tab-separated, fields as JSON at the end.
    Console,
}

/// Where lines go.
#[derive(Debug)]
pub enum Output {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(std::fs::File),
}

impl Output {
    fn write(&mut self, bytes: &[u8]) {
        // A log that cannot be written has nobody to be told.
        let _unwritable = match self {
            Output::Stderr => std::io::stderr().write_all(bytes),
            Output::Stdout => std::io::stdout().lock().write_all(bytes),
            Output::File(file) => file.write_all(bytes),
        };
    }
}

struct Pending {
    lines: Vec<u8>,
    count: usize,
    writing: bool,
}

struct Sink {
    pending: Mutex<Pending>,
    changed: Condvar,
    dropped: AtomicU64,
}

struct Logger {
    sink: Arc<Sink>,
    least: Severity,
    format: Format,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();

/// Starts logging for the process. Later calls change nothing.
pub fn start(outputs: Vec<Output>, least: Severity, format: Format) {
    let sink = Arc::new(Sink {
        pending: Mutex::new(Pending {
            lines: Vec::new(),
            count: 0,
            writing: false,
        }),
        changed: Condvar::new(),
        dropped: AtomicU64::new(0),
    });
    let logger = Logger {
        sink: Arc::clone(&sink),
        least,
        format,
    };
    if LOGGER.set(logger).is_err() {
        return;
    }
    let mut outputs = outputs;
    let writer = std::thread::Builder::new()
        .name("log".into())
        .spawn(move || {
            let mut batch = Vec::new();
            loop {
                {
                    let mut pending = lock(&sink.pending);
                    pending.writing = false;
                    sink.changed.notify_all();
                    while pending.lines.is_empty() {
                        pending = sink
                            .changed
                            .wait(pending)
                            .unwrap_or_else(std::sync::PoisonError::into_inner);
                    }
                    std::mem::swap(&mut batch, &mut pending.lines);
                    pending.count = 0;
                    pending.writing = true;
                }
                for output in &mut outputs {
                    output.write(&batch);
                }
                batch.clear();
                let dropped = sink.dropped.swap(0, Ordering::Relaxed);
                if dropped > 0 {
                    tracing::warn!(
                        lines = dropped,
                        "log lines were dropped: the log output is too slow"
                    );
                }
            }
        });
    if writer.is_err() {
        return;
    }
    let _already_set = tracing::subscriber::set_global_default(Forwarder);
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Waits, at most a second, until everything logged so far is written.
pub fn flush() {
    let Some(logger) = LOGGER.get() else { return };
    let deadline = std::time::Instant::now() + Duration::from_secs(1);
    let mut pending = lock(&logger.sink.pending);
    while pending.writing || !pending.lines.is_empty() {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        if left.is_zero() {
            return;
        }
        pending = match logger.sink.changed.wait_timeout(pending, left) {
            Ok((guard, _)) => guard,
            Err(poisoned) => poisoned.into_inner().0,
        };
    }
}

/// Logs at `fatal` and ends the process with status 1.
pub fn fatal(caller: &str, message: &str, error: &str) -> ! {
    if let Some(logger) = LOGGER.get() {
        let mut fields = Fields::new(message.to_owned());
        fields.push("error", |out| json_string(out, error));
        fields.push("stacktrace", |out| json_string(out, caller));
        logger.emit(Severity::Fatal, None, caller, fields);
        flush();
    } else {
        let _unwritable = writeln!(std::io::stderr(), "{message}: {error}");
    }
    std::process::exit(1)
}

impl Logger {
    fn emit(&self, severity: Severity, logger: Option<&str>, caller: &str, fields: Fields) {
        let mut line = String::with_capacity(256);
        let ts = timestamp(SystemTime::now());
        match self.format {
            Format::Json => {
                let _infallible =
                    write!(line, "{{\"level\":\"{}\",\"ts\":\"{ts}\"", severity.name());
                if let Some(logger) = logger {
                    line.push_str(",\"logger\":");
                    json_string(&mut line, logger);
                }
                line.push_str(",\"caller\":");
                json_string(&mut line, caller);
                line.push_str(",\"msg\":");
                json_string(&mut line, &fields.message);
                line.push_str(&fields.rest);
                line.push_str("}\n");
            }
            Format::Console => {
                let _infallible = write!(line, "{ts}\t{}\t", severity.name());
                if let Some(logger) = logger {
                    let _infallible = write!(line, "{logger}\t");
                }
                let _infallible = write!(line, "{caller}\t{}", fields.message);
                if !fields.rest.is_empty() {
                    let _infallible = write!(line, "\t{{{}}}", &fields.rest[1..]);
                }
                line.push('\n');
            }
        }
        let mut pending = lock(&self.sink.pending);
        if pending.count >= QUEUE_LINES_MAX && severity < Severity::Fatal {
            self.sink.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        pending.lines.extend_from_slice(line.as_bytes());
        pending.count += 1;
        if pending.count == 1 {
            self.sink.changed.notify_all();
        }
    }
}

/// Hands tracing's events to the logger. Spans are not used.
struct Forwarder;

impl Subscriber for Forwarder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        LOGGER.get().is_some_and(|logger| {
            metadata.is_event() && Severity::of(*metadata.level()) >= logger.least && ours(metadata)
        })
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn event(&self, event: &Event<'_>) {
        let Some(logger) = LOGGER.get() else { return };
        let metadata = event.metadata();
        let mut fields = Fields::new(String::new());
        event.record(&mut fields);
        let name = (metadata.target() == "raft").then_some("raft");
        let caller = caller(
            metadata.file().unwrap_or("unknown.rs"),
            metadata.line().unwrap_or(0),
        );
        logger.emit(Severity::of(*metadata.level()), name, &caller, fields);
    }

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// Libraries below (hyper, h2) speak at debug level of every frame: not our log.
fn ours(metadata: &Metadata<'_>) -> bool {
    // "etcd" is the program itself, whose crate has its name.
    matches!(metadata.target(), "raft" | "etcd") || metadata.target().starts_with("ferrite")
}

/// `crates/peer/src/stream.rs` at line 7 becomes `peer/stream.rs:7`, the form of zap's callers.
pub fn caller(file: &str, line: u32) -> String {
    let mut parts: Vec<&str> = file
        .split('/')
        .filter(|part| *part != "src" && *part != "crates")
        .collect();
    if parts.len() > 2 {
        parts.drain(..parts.len() - 2);
    }
    format!("{}:{line}", parts.join("/"))
}

struct Fields {
    message: String,
    rest: String,
}

impl Fields {
    fn new(message: String) -> Self {
        Fields {
            message,
            rest: String::new(),
        }
    }

    fn push(&mut self, name: &str, value: impl FnOnce(&mut String)) {
        self.rest.push(',');
        json_string(&mut self.rest, name);
        self.rest.push(':');
        value(&mut self.rest);
    }
}

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.push(field.name(), |out| json_string(out, value));
        }
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field.name(), |out| {
            out.push_str(if value { "true" } else { "false" })
        });
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field.name(), |out| {
            let _infallible = write!(out, "{value}");
        });
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field.name(), |out| {
            let _infallible = write!(out, "{value}");
        });
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field.name(), |out| {
            let _infallible = write!(out, "{value}");
        });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
            return;
        }
        // A list of strings prints as JSON does; zap shows lists as lists.
        let list =
            text.starts_with('[') && serde_json::from_str::<serde_json::Value>(&text).is_ok();
        self.push(field.name(), |out| {
            if list {
                out.push_str(&text);
            } else {
                json_string(out, &text);
            }
        });
    }
}

fn json_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 => {
                let _infallible = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// `2026-07-23T10:00:00.000000Z`: UTC, microseconds.
pub fn timestamp(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (year, month, day) = civil(since.as_secs() / 86_400);
    let second = since.as_secs() % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_micros()
    )
}

/// Days since 1970-01-01 to year, month, day (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_utc_with_microseconds() {
        let at = UNIX_EPOCH + Duration::new(1_795_363_197, 892_000_000);
        assert_eq!(timestamp(at), "2026-11-22T15:59:57.892000Z");
        assert_eq!(
            timestamp(UNIX_EPOCH + Duration::from_secs(951_782_400)),
            "2000-02-29T00:00:00.000000Z"
        );
    }

    #[test]
    fn callers_have_the_form_folder_file_line() {
        assert_eq!(caller("crates/peer/src/stream.rs", 7), "peer/stream.rs:7");
        assert_eq!(
            caller("crates/node/src/stage/raft.rs", 12),
            "stage/raft.rs:12"
        );
    }

    #[test]
    fn strings_are_escaped() {
        let mut out = String::new();
        json_string(&mut out, "a\"b\\c\n\u{1}é");
        assert_eq!(out, "\"a\\\"b\\\\c\\n\\u0001é\"");
    }
}
