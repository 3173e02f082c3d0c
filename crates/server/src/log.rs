//! Log lines in zap's shapes: one JSON object a line, or the console form.
//!
//! Lines are formatted where they arise; threads of their own write them ([`output`]), so that a
//! terminal or pipe that does not drain never holds up serving.

pub mod journal;
pub mod output;
pub mod rotate;
mod sample;

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ferrite_cli::gofmt;
use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

use crate::sys;
use output::{Line, Output, Queue};
use sample::Sampler;

/// How severe a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// For whoever looks for a mistake.
    Debug,
    /// The default.
    Info,
    /// Warnings.
    Warn,
    /// Errors.
    Error,
    /// What ends the process, in zap's order below the next.
    Panic,
    /// What ends the process.
    Fatal,
}

impl Severity {
    const ALL: [Severity; 6] = [
        Severity::Debug,
        Severity::Info,
        Severity::Warn,
        Severity::Error,
        Severity::Panic,
        Severity::Fatal,
    ];

    /// Reads a `--log-level`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text.to_ascii_lowercase().as_str() {
            "debug" => Severity::Debug,
            "info" | "" => Severity::Info,
            "warn" | "warning" => Severity::Warn,
            "error" => Severity::Error,
            "dpanic" | "panic" => Severity::Panic,
            "fatal" => Severity::Fatal,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Severity::Debug => "debug",
            Severity::Info => "info",
            Severity::Warn => "warn",
            Severity::Error => "error",
            Severity::Panic => "panic",
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

struct Logger {
    queues: Vec<Arc<Queue>>,
    files: bool,
    /// The journal counts lines itself, and wants no traces of calls.
    sampler: Option<Sampler>,
    format: Format,
}

static LOGGER: OnceLock<Logger> = OnceLock::new();
/// Least severe level that is written: it can change while the process runs.
static LEAST: AtomicU8 = AtomicU8::new(Severity::Info as u8);

/// Starts logging for the process. Later calls change nothing.
pub fn start(outputs: Vec<Output>, least: Severity, format: Format) {
    if LOGGER.get().is_some() {
        return;
    }
    let journal = outputs
        .iter()
        .any(|output| matches!(output, Output::Journal(_)));
    let files = outputs.iter().any(Output::is_file);
    let queues: Vec<_> = outputs
        .into_iter()
        .filter_map(|output| Queue::start(output).ok())
        .collect();
    let logger = Logger {
        queues,
        files,
        sampler: (!journal).then(Sampler::default),
        format,
    };
    LEAST.store(least as u8, Ordering::Relaxed);
    if LOGGER.set(logger).is_ok() {
        let _already_set = tracing::subscriber::set_global_default(Forwarder);
    }
}

/// The least severe level that is written.
pub fn level() -> Severity {
    let least = usize::from(LEAST.load(Ordering::Relaxed));
    Severity::ALL.get(least).copied().unwrap_or(Severity::Info)
}

/// Changes it while the process runs.
pub fn set_level(least: Severity) {
    let before = level();
    if before == least {
        return;
    }
    // Told at whichever of the two levels lets more through.
    LEAST.store(least.min(before) as u8, Ordering::Relaxed);
    tracing::callsite::rebuild_interest_cache();
    tracing::info!(
        from = before.name(),
        to = least.name(),
        "changed the log level"
    );
    LEAST.store(least as u8, Ordering::Relaxed);
    tracing::callsite::rebuild_interest_cache();
}

/// Opens log files by their names again, and takes the level from the configuration file anew, where
/// there are any. Part of what SIGHUP does: see [`crate::signals`].
pub fn reopen(config_file: Option<&std::path::Path>) {
    let files = LOGGER.get().is_some_and(|logger| logger.files);
    if !files && config_file.is_none() {
        return;
    }
    for queue in LOGGER.get().iter().flat_map(|logger| &logger.queues) {
        queue.reopen();
    }
    tracing::info!(signal = "hangup", "opened log files again");
    let Some(path) = config_file else { return };
    match level_in(path) {
        Ok(least) => set_level(least),
        Err(error) => {
            tracing::warn!(
                error,
                "kept the log level: the configuration file does not do"
            );
        }
    }
}

fn level_in(path: &std::path::Path) -> Result<Severity, String> {
    use crate::config_file::{FileError, read};
    let settings = read(&path.to_string_lossy()).map_err(|error| match error {
        FileError::Logged(why) | FileError::Bare(why) => why,
    })?;
    let level = settings.iter().rfind(|(flag, _)| *flag == "log-level");
    let level = level.map_or("info", |(_, level)| level);
    Severity::parse(level).ok_or_else(|| unrecognized_level(level))
}

/// What is said to a level that there is not.
pub fn unrecognized_level(level: &str) -> String {
    format!("unrecognized level: {level:?} (it can be debug, info, warn, error, panic or fatal)")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Waits, at most a second, until everything logged so far is written.
pub fn flush() {
    let deadline = std::time::Instant::now() + Duration::from_secs(1);
    for queue in LOGGER.get().iter().flat_map(|logger| &logger.queues) {
        queue.flush(deadline);
    }
}

/// Logs at `fatal` and ends the process with status 1.
#[track_caller]
pub fn fatal(message: &str, fields: &[(&str, &str)]) -> ! {
    let location = std::panic::Location::caller();
    if let Some(logger) = LOGGER.get() {
        let mut line = Fields::new(message.to_owned());
        for (name, value) in fields {
            line.push(name, |out| json_string(out, value));
        }
        let place = Place {
            function: "ferrite_server",
            file: location.file(),
            line: location.line(),
        };
        logger.emit(Severity::Fatal, None, &place, line);
        flush();
    } else {
        let values: Vec<&str> = fields.iter().map(|(_, value)| *value).collect();
        let _unwritable = writeln!(std::io::stderr(), "{message}: {}", values.join(" "));
    }
    std::process::exit(1)
}

/// Logs at `info` a line with more fields than an event can have.
#[track_caller]
pub fn long(message: &str, fields: &[(&str, serde_json::Value)]) {
    let Some(logger) = LOGGER.get() else { return };
    if Severity::Info < level() {
        return;
    }
    let location = std::panic::Location::caller();
    let mut line = Fields::new(message.to_owned());
    for (name, value) in fields {
        line.push(name, |out| out.push_str(&value.to_string()));
    }
    let place = Place {
        function: "ferrite_server",
        file: location.file(),
        line: location.line(),
    };
    logger.emit(Severity::Info, None, &place, line);
}

/// Where a line arose.
struct Place<'a> {
    function: &'a str,
    file: &'a str,
    line: u32,
}

impl Logger {
    fn emit(
        &self,
        severity: Severity,
        logger: Option<&str>,
        place: &Place<'_>,
        mut fields: Fields,
    ) {
        let now = SystemTime::now();
        if let Some(sampler) = &self.sampler {
            let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
            let now_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
            if severity < Severity::Fatal
                && !sampler.admits(usize::from(severity as u8), &fields.message, now_ms)
            {
                return;
            }
        }
        let caller = caller(place.file, place.line);
        let trace = (severity >= Severity::Error && self.sampler.is_some())
            .then(|| format!("{}\n\t{}:{}", place.function, place.file, place.line));
        let mut line = String::with_capacity(256);
        let ts = timestamp(now, sys::local_offset_seconds(now));
        match self.format {
            Format::Json => {
                if let Some(trace) = trace {
                    fields.push("stacktrace", |out| json_string(out, &trace));
                }
                let _infallible =
                    write!(line, "{{\"level\":\"{}\",\"ts\":\"{ts}\"", severity.name());
                if let Some(logger) = logger {
                    line.push_str(",\"logger\":");
                    json_string(&mut line, logger);
                }
                line.push_str(",\"caller\":");
                json_string(&mut line, &caller);
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
                    // With a blank after each colon and comma, as zap writes it here.
                    let _infallible = write!(line, "\t{{{}}}", spaced(&fields.rest[1..]));
                }
                if let Some(trace) = trace {
                    let _infallible = write!(line, "\n{trace}");
                }
                line.push('\n');
            }
        }
        let line = Arc::new(Line {
            severity,
            caller,
            text: line,
        });
        for queue in &self.queues {
            queue.push(&line);
        }
    }
}

/// Blanks after the colons and commas of JSON, outside of its texts.
fn spaced(json: &str) -> String {
    let mut out = String::with_capacity(json.len() + 16);
    let (mut inside, mut escaped) = (false, false);
    for c in json.chars() {
        out.push(c);
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => inside = !inside,
            ':' | ',' if !inside => out.push(' '),
            _ => {}
        }
    }
    out
}

/// Hands tracing's events to the logger. Spans are not used.
struct Forwarder;

impl Subscriber for Forwarder {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        LOGGER.get().is_some_and(|_| {
            metadata.is_event() && Severity::of(*metadata.level()) >= level() && ours(metadata)
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
        let place = Place {
            function: metadata.module_path().unwrap_or("unknown"),
            file: metadata.file().unwrap_or("unknown.rs"),
            line: metadata.line().unwrap_or(0),
        };
        logger.emit(Severity::of(*metadata.level()), name, &place, fields);
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
        // A duration is written as Go writes it.
        let text = match rust_duration(&text) {
            Some(duration) => gofmt::duration(duration),
            None => text,
        };
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

/// The duration that this is Rust's text of, if it is one.
fn rust_duration(text: &str) -> Option<Duration> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let is_one = unit.len() < text.len() && matches!(unit, "ns" | "µs" | "ms" | "s");
    is_one.then(|| gofmt::parse_duration(text).ok()).flatten()
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

/// `2026-07-23T10:00:00.000000Z`, or with an offset: `2026-07-23T12:00:00.000000+0200`.
pub fn timestamp(now: SystemTime, offset_seconds: i64) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs().saturating_add_signed(offset_seconds);
    let (year, month, day) = civil(seconds / 86_400);
    let second = seconds % 86_400;
    let mut out = format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:06}",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_micros()
    );
    let minutes = offset_seconds.abs() / 60;
    match offset_seconds {
        0 => out.push('Z'),
        _ => {
            let sign = if offset_seconds < 0 { '-' } else { '+' };
            let _infallible = write!(out, "{sign}{:02}{:02}", minutes / 60, minutes % 60);
        }
    }
    out
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
    fn time_has_microseconds_and_says_its_zone() {
        let at = UNIX_EPOCH + Duration::new(1_795_363_197, 892_000_000);
        assert_eq!(timestamp(at, 0), "2026-11-22T15:59:57.892000Z");
        assert_eq!(
            timestamp(UNIX_EPOCH + Duration::from_secs(951_782_400), 0),
            "2000-02-29T00:00:00.000000Z"
        );
        assert_eq!(timestamp(at, 7200), "2026-11-22T17:59:57.892000+0200");
        assert_eq!(timestamp(at, -16_200), "2026-11-22T11:29:57.892000-0430");
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
    fn the_console_form_has_blanks_where_zap_has_them() {
        assert_eq!(
            spaced(r#""a":"b:c,\"d","e":[1,2]"#),
            r#""a": "b:c,\"d", "e": [1, 2]"#
        );
    }

    #[test]
    fn durations_are_gos() {
        assert_eq!(rust_duration("90s"), Some(Duration::from_secs(90)));
        assert_eq!(rust_duration("1.5ms"), Some(Duration::from_micros(1500)));
        assert_eq!(rust_duration("abcs"), None);
        assert_eq!(rust_duration("\"5s\""), None);
    }

    #[test]
    fn levels_are_zaps() {
        assert_eq!(Severity::parse("DEBUG"), Some(Severity::Debug));
        assert_eq!(Severity::parse(""), Some(Severity::Info));
        assert_eq!(Severity::parse("dpanic"), Some(Severity::Panic));
        assert_eq!(Severity::parse("loud"), None);
        assert!(
            Severity::ALL
                .iter()
                .enumerate()
                .all(|(at, one)| *one as usize == at)
        );
    }

    #[test]
    fn strings_are_escaped() {
        let mut out = String::new();
        json_string(&mut out, "a\"b\\c\n\u{1}é");
        assert_eq!(out, "\"a\\\"b\\\\c\\n\\u0001é\"");
    }
}
