//! A member's log line, made short for a person: time, level, message, fields.
//!
//! Pure text in, text out. A line that is not one of etcd's JSON log lines is passed on unchanged.

use serde_json::{Map, Value};

use crate::run::cut;

/// Characters of fields shown before the line is cut; `--raw` shows everything. Two terminal lines or so.
const FIELDS_MAX: usize = 180;

/// How a member's output is shown.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Use terminal colours.
    pub colour: bool,
    /// Keep the line as the member printed it.
    pub raw: bool,
}

/// The colours of the members' prefixes: cyan, magenta, green; all legible on dark and light.
const PREFIX: [&str; 3] = ["\x1b[36m", "\x1b[35m", "\x1b[32m"];
const RESET: &str = "\x1b[0m";
const DIM: &str = "\x1b[2m";

/// A line of member number `member`, called `name`, with prefix and colours.
pub fn show(style: Style, member: usize, name: &str, line: &str) -> String {
    let prefix = if style.colour {
        format!("{}{name} |{RESET}", PREFIX[member % PREFIX.len()])
    } else {
        format!("{name} |")
    };
    let short = if style.raw {
        None
    } else {
        brief(line, style.colour)
    };
    format!("{prefix} {}", short.as_deref().unwrap_or(line))
}

/// `time LEVEL message key=value …`, or nothing when the line is not a JSON log line.
fn brief(line: &str, colour: bool) -> Option<String> {
    let fields: Map<String, Value> = serde_json::from_str(line).ok()?;
    let message = fields.get("msg")?.as_str()?;
    let level = fields.get("level")?.as_str()?;
    let time = fields
        .get("ts")
        .and_then(Value::as_str)
        .and_then(clock)
        .unwrap_or_default();
    let rest: Vec<String> = fields
        .iter()
        .filter(|(key, _)| !matches!(key.as_str(), "msg" | "level" | "ts" | "caller"))
        .map(|(key, value)| match value {
            Value::String(text) => format!("{key}={text}"),
            other => format!("{key}={other}"),
        })
        .collect();
    let rest = cut(&rest.join(" "), FIELDS_MAX);
    let level = level.to_uppercase();
    Some(if colour {
        let tint = match level.as_str() {
            "WARN" => "\x1b[33m",
            "ERROR" | "FATAL" | "PANIC" | "DPANIC" => "\x1b[31m",
            _ => "",
        };
        format!("{DIM}{time}{RESET} {tint}{level:<5} {message}{RESET}  {DIM}{rest}{RESET}")
    } else {
        format!("{time} {level:<5} {message}  {rest}")
            .trim_end()
            .to_owned()
    })
}

/// `12:34:56.789` out of an RFC 3339 time.
fn clock(ts: &str) -> Option<&str> {
    let (_, time) = ts.split_once('T')?;
    time.get(..12.min(time.trim_end_matches('Z').len()))
}

/// The line is a log line with exactly this message, and names `part` somewhere (an ID, say).
pub fn says(line: &str, message: &str, part: &str) -> bool {
    // Cheap tests first: most lines are not the one looked for.
    line.contains(message)
        && line.contains(part)
        && serde_json::from_str::<Map<String, Value>>(line)
            .is_ok_and(|fields| fields.get("msg").and_then(Value::as_str) == Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"level":"warn","ts":"2026-01-02T03:04:05.678901Z","caller":"rafthttp/probing_status.go:68","msg":"prober detected unhealthy status","remote-peer-id":"9772fa935aee2fcb","rtt":"0s","n":3}"#;
    const PLAIN: Style = Style {
        colour: false,
        raw: false,
    };

    #[test]
    fn a_json_line_becomes_short() {
        assert_eq!(
            show(PLAIN, 0, "etcd-00", LINE),
            "etcd-00 | 03:04:05.678 WARN  prober detected unhealthy status  \
             n=3 remote-peer-id=9772fa935aee2fcb rtt=0s"
        );
    }

    #[test]
    fn other_lines_and_raw_stay() {
        assert_eq!(show(PLAIN, 0, "etcd-00", "panic: x"), "etcd-00 | panic: x");
        assert_eq!(show(PLAIN, 0, "etcd-00", "[1]"), "etcd-00 | [1]");
        let raw = Style {
            colour: false,
            raw: true,
        };
        assert_eq!(show(raw, 0, "etcd-00", LINE), format!("etcd-00 | {LINE}"));
    }

    #[test]
    fn odd_times_do_no_harm() {
        for ts in [
            "",
            "T",
            "2026-01-02T03",
            "2026-01-02T03:04:05Z",
            "Tжжжжжжжжжжжжж",
        ] {
            let line = format!(r#"{{"level":"info","ts":"{ts}","msg":"m"}}"#);
            assert!(show(PLAIN, 1, "a", &line).contains("INFO  m"), "{ts}");
        }
    }

    #[test]
    fn a_message_is_found_exactly() {
        assert!(says(
            LINE,
            "prober detected unhealthy status",
            "9772fa935aee2fcb"
        ));
        assert!(!says(LINE, "prober detected unhealthy", "9772fa935aee2fcb"));
        assert!(!says(
            LINE,
            "prober detected unhealthy status",
            "f9bb7dc32e4429fd"
        ));
    }

    #[test]
    fn long_fields_are_cut() {
        let line = format!(
            r#"{{"level":"info","ts":"x","msg":"m","f":"{}"}}"#,
            "é".repeat(500)
        );
        let shown = show(PLAIN, 0, "a", &line);
        assert!(shown.ends_with('…') && shown.chars().count() < 220);
    }
}
