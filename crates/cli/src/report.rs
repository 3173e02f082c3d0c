//! The two ways out: standard output for what scripts read, standard error for people and log lines.

use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a shell reports for a program that wrote to a closed pipe.
const BROKEN_PIPE: i32 = 141;
/// Exit code when the system refuses something that cannot fail in normal use.
const IO_FAILURE: i32 = 6;

/// Writes to standard output. A reader that went away ends the program quietly.
pub fn out(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    if let Err(error) = stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        if error.kind() == io::ErrorKind::BrokenPipe {
            std::process::exit(BROKEN_PIPE);
        }
        err(&format!("Error: cannot write to standard output: {error}"));
        std::process::exit(IO_FAILURE);
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

/// UTC by the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp(SystemTime);

impl Timestamp {
    /// This moment.
    pub fn now() -> Self {
        Self(SystemTime::now())
    }

    fn text(self, fraction: impl FnOnce(Duration) -> String) -> String {
        let since = self.0.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since.as_secs();
        let (year, month, day) = civil(seconds / 86_400);
        let of_day = seconds % 86_400;
        format!(
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}{}Z",
            of_day / 3600,
            of_day / 60 % 60,
            of_day % 60,
            fraction(since)
        )
    }

    /// To the second, as RFC 3339 has it.
    pub fn seconds(self) -> String {
        self.text(|_| String::new())
    }

    /// With milliseconds.
    pub fn millis(self) -> String {
        self.text(|since| format!(".{:03}", since.subsec_millis()))
    }

    /// With microseconds, as etcd's log lines have since 3.6.
    pub fn micros(self) -> String {
        self.text(|since| format!(".{:06}", since.subsec_micros()))
    }
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

    #[test]
    fn dates() {
        let at = |millis| Timestamp(UNIX_EPOCH + Duration::from_millis(millis));
        assert_eq!(at(0).millis(), "1970-01-01T00:00:00.000Z");
        assert_eq!(at(951_782_400_123).millis(), "2000-02-29T00:00:00.123Z");
        assert_eq!(at(951_782_400_123).micros(), "2000-02-29T00:00:00.123000Z");
        assert_eq!(at(1_795_363_161_999).seconds(), "2026-11-22T15:59:21Z");
    }
}
