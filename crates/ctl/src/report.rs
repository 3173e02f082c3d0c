//! The two ways out: standard output for what scripts read, standard error for people and log lines.

use std::io::{self, Write};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::output::json::escape;

/// What a shell reports for a program that wrote to a closed pipe.
const BROKEN_PIPE: i32 = 141;

/// Writes to standard output. A reader that went away ends the program quietly.
pub fn out(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        if error.kind() == io::ErrorKind::BrokenPipe {
            std::process::exit(BROKEN_PIPE);
        }
        err(&format!("Error: cannot write to standard output: {error}"));
        std::process::exit(6);
    }
}

/// Writes a line to standard output.
pub fn line(text: &str) {
    let mut bytes = Vec::with_capacity(text.len() + 1);
    bytes.extend_from_slice(text.as_bytes());
    bytes.push(b'\n');
    out(&bytes);
}

/// Writes a line to standard error; nothing can be done if that fails.
pub fn err(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Writes a log line in etcd's form.
pub fn log(level: &str, message: &str, fields: &[(&str, &str)]) {
    let mut text = format!(
        "{{\"level\":{},\"ts\":\"{}\",\"msg\":{}",
        escape(level),
        timestamp(SystemTime::now()),
        escape(message)
    );
    for (name, value) in fields {
        text.push_str(&format!(",{}:{}", escape(name), escape(value)));
    }
    text.push('}');
    err(&text);
}

/// Says what went wrong underneath when a call ran out of time.
pub fn last_failure(status: &ferrite_client::Status) {
    if let Some(last) = ferrite_client::last_failure(status) {
        log(
            "warn",
            "the call did not succeed in time",
            &[("last-failure", &last)],
        );
    }
}

/// UTC with milliseconds, as zap writes it.
fn timestamp(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let of_day = seconds % 86_400;
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        of_day / 3600,
        of_day / 60 % 60,
        of_day % 60,
        since.subsec_millis()
    )
}

/// The Gregorian date of a day counted from 1970-01-01.
fn civil(days: u64) -> (u64, u64, u64) {
    // Eras of 400 years that start on March 1st put the leap day last.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn dates() {
        assert_eq!(timestamp(UNIX_EPOCH), "1970-01-01T00:00:00.000Z");
        assert_eq!(
            timestamp(UNIX_EPOCH + Duration::from_millis(951_782_400_123)),
            "2000-02-29T00:00:00.123Z"
        );
        assert_eq!(
            timestamp(UNIX_EPOCH + Duration::from_secs(1_795_363_161)),
            "2026-11-22T15:59:21.000Z"
        );
    }
}
