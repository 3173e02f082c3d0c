//! Values in log fields and answers, spelled as Go spells them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ferrite_proto::raftpb::MessageType;

/// A member ID: lower-case hex without padding.
pub(crate) fn hex(id: u64) -> String {
    format!("{id:x}")
}

/// The ID in a path or header, as Go parses it: hex digits only.
pub(crate) fn parse_hex(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(text, 16).ok()
}

/// The name of a message type.
pub(crate) fn type_name(msg_type: i32) -> &'static str {
    MessageType::try_from(msg_type).map_or("unknown", |t| t.as_str_name())
}

/// A duration as Go prints it: `0s`, `153.2µs`, `1.5ms`, `2m3.5s`.
pub fn go_duration(d: Duration) -> String {
    fn fraction(value: u128, unit: u128) -> String {
        let whole = value / unit;
        let rest = value % unit;
        if rest == 0 {
            return whole.to_string();
        }
        let width = unit.ilog10() as usize;
        let digits = format!("{rest:0width$}");
        format!("{whole}.{}", digits.trim_end_matches('0'))
    }
    let nanos = d.as_nanos();
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => format!("{}µs", fraction(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{}ms", fraction(nanos, 1_000_000)),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = fraction(nanos % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{seconds}s"),
                (0, m) => format!("{m}m{seconds}s"),
                (h, m) => format!("{h}h{m}m{seconds}s"),
            }
        }
    }
}

/// A size as etcd's logs print it: `82 B`, `21 kB`, `5.1 MB`.
pub(crate) fn human_bytes(n: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if n < 10 {
        return format!("{n} B");
    }
    let mut value = n as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    let value = (value * 10.0 + 0.5).floor() / 10.0;
    if value < 10.0 && unit > 0 {
        format!("{value:.1} {}", UNITS[unit])
    } else {
        format!("{value:.0} {}", UNITS[unit])
    }
}

/// Wall time in RFC 3339, UTC, with nanoseconds and no trailing zeros.
pub(crate) fn rfc3339(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (secs, nanos) = (since.as_secs(), since.subsec_nanos());
    let (days, rest) = (secs / 86_400, secs % 86_400);
    // Days to civil date in the proleptic Gregorian calendar, counted from 1 March of year 0.
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    let mut fraction = String::new();
    if nanos != 0 {
        fraction = format!(".{nanos:09}");
        fraction.truncate(fraction.trim_end_matches('0').len());
    }
    let (h, m, s) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}{fraction}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spelled_as_go_spells_them() {
        let d = |n| go_duration(Duration::from_nanos(n));
        assert_eq!(d(0), "0s");
        assert_eq!(d(153_200), "153.2µs");
        assert_eq!(d(1_500_000), "1.5ms");
        assert_eq!(d(5_000_000_000), "5s");
        assert_eq!(d(123_500_000_000), "2m3.5s");
        assert_eq!(human_bytes(82), "82 B");
        assert_eq!(human_bytes(20_480), "20 kB");
        assert_eq!(human_bytes(5_120_000), "5.1 MB");
        let t = UNIX_EPOCH + Duration::new(1_709_210_096, 120_000_000);
        assert_eq!(rfc3339(t), "2024-02-29T12:34:56.12Z");
        assert_eq!(parse_hex("8e9E05"), Some(0x8e9e05));
        assert_eq!(parse_hex("+1"), None);
        assert_eq!(parse_hex(""), None);
    }
}
