//! Go's ways of reading and writing text, where scripts see them: quoted strings, durations, sizes,
//! and the error texts of its number parsers.

use std::time::Duration;

/// Go's `%q` of a string that may hold any bytes.
pub fn quote(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() + 2);
    out.push('"');
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            quote_char(&mut out, c);
        }
        for byte in chunk.invalid() {
            out.push_str(&format!("\\x{byte:02x}"));
        }
    }
    out.push('"');
    out
}

fn quote_char(out: &mut String, c: char) {
    match c {
        '"' => out.push_str("\\\""),
        '\\' => out.push_str("\\\\"),
        '\u{07}' => out.push_str("\\a"),
        '\u{08}' => out.push_str("\\b"),
        '\u{0c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{0b}' => out.push_str("\\v"),
        c if is_print(c) => out.push(c),
        c if u32::from(c) < 0x80 => out.push_str(&format!("\\x{:02x}", u32::from(c))),
        c if u32::from(c) < 0x10000 => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
    }
}

/// Whether these bytes are text of which every character can be printed.
pub fn is_printable(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_ok_and(|text| text.chars().all(is_print))
}

/// Letters, marks, numbers, punctuation, symbols and the ASCII space.
fn is_print(c: char) -> bool {
    if c.is_ascii() {
        return (' '..='~').contains(&c);
    }
    // The standard library escapes what is not printable; a combining mark only where it would
    // stand alone, hence the letter before it.
    let text: String = ['x', c].iter().collect();
    !text
        .escape_debug()
        .skip(1)
        .collect::<String>()
        .starts_with("\\u{")
}

/// Reads a Go string literal in double quotes, quotes included; `None` if it is not one.
pub fn unquote(text: &str) -> Option<Vec<u8>> {
    let inner = text.strip_prefix('"')?.strip_suffix('"')?;
    if text.len() < 2 {
        return None;
    }
    let mut out = Vec::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' | '\n' => return None,
            '\\' => match chars.next()? {
                'a' => out.push(7),
                'b' => out.push(8),
                'f' => out.push(12),
                'n' => out.push(b'\n'),
                'r' => out.push(b'\r'),
                't' => out.push(b'\t'),
                'v' => out.push(11),
                '\\' => out.push(b'\\'),
                '"' => out.push(b'"'),
                'x' => out.push(u8::try_from(digits(&mut chars, None, 2, 16)?).ok()?),
                'u' => push_char(&mut out, digits(&mut chars, None, 4, 16)?)?,
                'U' => push_char(&mut out, digits(&mut chars, None, 8, 16)?)?,
                first @ '0'..='7' => {
                    out.push(u8::try_from(digits(&mut chars, Some(first), 3, 8)?).ok()?);
                }
                _ => return None,
            },
            c => push_char(&mut out, u32::from(c))?,
        }
    }
    Some(out)
}

fn digits(
    chars: &mut std::str::Chars<'_>,
    first: Option<char>,
    count: u32,
    radix: u32,
) -> Option<u32> {
    let mut value = 0u32;
    let mut left = count;
    if let Some(first) = first {
        value = first.to_digit(radix)?;
        left -= 1;
    }
    for _ in 0..left {
        value = value.checked_mul(radix)? + chars.next()?.to_digit(radix)?;
    }
    Some(value)
}

fn push_char(out: &mut Vec<u8>, code: u32) -> Option<()> {
    let c = char::from_u32(code)?;
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
    Some(())
}

/// Go's `Duration.String`.
pub fn duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    if nanos == 0 {
        return "0s".to_owned();
    }
    let with_fraction = |value: u128, unit: u128, suffix: &str| {
        let whole = value / unit;
        let rest = value % unit;
        if rest == 0 {
            return format!("{whole}{suffix}");
        }
        let width = unit.ilog10() as usize;
        let fraction = format!("{rest:0width$}");
        format!("{whole}.{}{suffix}", fraction.trim_end_matches('0'))
    };
    match nanos {
        0..1_000 => format!("{nanos}ns"),
        1_000..1_000_000 => with_fraction(nanos, 1_000, "µs"),
        1_000_000..1_000_000_000 => with_fraction(nanos, 1_000_000, "ms"),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = with_fraction(nanos % 60_000_000_000, 1_000_000_000, "s");
            match (minutes / 60, minutes % 60) {
                (0, 0) => seconds,
                (0, minutes) => format!("{minutes}m{seconds}"),
                (hours, minutes) => format!("{hours}h{minutes}m{seconds}"),
            }
        }
    }
}

/// Go's `ParseDuration`. A negative duration is no use as a limit and reads as zero.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let invalid = || format!("time: invalid duration {}", quote(text.as_bytes()));
    let (negative, mut rest) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut total: u128 = 0;
    while !rest.is_empty() {
        let whole_end = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let (whole, after) = rest.split_at(whole_end);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => {
                let end = after
                    .find(|c: char| !c.is_ascii_digit())
                    .unwrap_or(after.len());
                after.split_at(end)
            }
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return Err(invalid());
        }
        let unit_end = after
            .find(|c: char| c == '.' || c.is_ascii_digit())
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let scale: u128 = match unit {
            "" => {
                return Err(format!(
                    "time: missing unit in duration {}",
                    quote(text.as_bytes())
                ));
            }
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            unit => {
                return Err(format!(
                    "time: unknown unit {} in duration {}",
                    quote(unit.as_bytes()),
                    quote(text.as_bytes())
                ));
            }
        };
        let whole: u128 = match whole {
            "" => 0,
            digits => digits.parse().map_err(|_| invalid())?,
        };
        total = whole
            .checked_mul(scale)
            .and_then(|w| total.checked_add(w))
            .ok_or_else(invalid)?;
        // More digits than eighteen are below a nanosecond whatever the unit.
        let fraction = &fraction[..fraction.len().min(18)];
        if !fraction.is_empty() {
            let part: u128 = fraction.parse().map_err(|_| invalid())?;
            total += part * scale / 10u128.pow(u32::try_from(fraction.len()).unwrap_or(18));
        }
        if total > i64::MAX as u128 {
            return Err(invalid());
        }
        rest = after;
    }
    if negative {
        return Ok(Duration::ZERO);
    }
    Ok(Duration::from_nanos(
        u64::try_from(total).map_err(|_| invalid())?,
    ))
}

/// Go's `ParseInt` with its error text. Base 0 takes the base from the prefix.
pub fn parse_int(text: &str, base: u32) -> Result<i64, String> {
    let (negative, digits) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let error = |what: &str| {
        format!(
            "strconv.ParseInt: parsing {}: {what}",
            quote(text.as_bytes())
        )
    };
    let magnitude = magnitude(digits, base).map_err(error)?;
    let limit = u64::from(negative) + i64::MAX as u64;
    if magnitude > limit {
        return Err(error("value out of range"));
    }
    Ok(if negative {
        (magnitude as i64).wrapping_neg()
    } else {
        magnitude as i64
    })
}

/// Go's `ParseUint` with its error text.
pub fn parse_uint(text: &str, base: u32) -> Result<u64, String> {
    magnitude(text, base).map_err(|what| {
        format!(
            "strconv.ParseUint: parsing {}: {what}",
            quote(text.as_bytes())
        )
    })
}

/// Whether the low lines of a number stand between digits, or after the prefix of its base.
fn well_spaced(text: &str) -> bool {
    let bytes = text.as_bytes();
    let prefixed = matches!(bytes, [b'0', b'x' | b'X' | b'b' | b'B' | b'o' | b'O', ..]);
    let inner = if prefixed { &text[2..] } else { text };
    (prefixed || !inner.starts_with('_')) && !inner.ends_with('_') && !inner.contains("__")
}

fn magnitude(digits: &str, base: u32) -> Result<u64, &'static str> {
    let plain;
    let digits = match base {
        0 if digits.contains('_') => {
            if !well_spaced(digits) {
                return Err("invalid syntax");
            }
            plain = digits.replace('_', "");
            &plain
        }
        _ => digits,
    };
    let (digits, base) = match base {
        0 => {
            let lower = digits.to_ascii_lowercase();
            match lower.as_bytes() {
                [b'0', b'x', ..] => (&digits[2..], 16),
                [b'0', b'b', ..] => (&digits[2..], 2),
                [b'0', b'o', ..] => (&digits[2..], 8),
                [b'0', _, ..] => (&digits[1..], 8),
                _ => (digits, 10),
            }
        }
        base => (digits, base),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(base)) {
        return Err("invalid syntax");
    }
    u64::from_str_radix(digits, base).map_err(|_| "value out of range")
}

/// Go's `ParseBool` with its error text.
pub fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(format!(
            "strconv.ParseBool: parsing {}: invalid syntax",
            quote(text.as_bytes())
        )),
    }
}

/// The system's words as Go prints them: in small letters, without a number.
pub fn system(error: &std::io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    match chars.next() {
        Some(first) => first.to_lowercase().chain(chars).collect(),
        None => String::new(),
    }
}

/// A size in SI units, as etcdctl shows it: `20 kB`, `2.1 GB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
    if bytes < 10 {
        return format!("{bytes} B");
    }
    let mut exponent = 0usize;
    let mut scale = 1u64;
    while bytes / scale >= 1000 {
        scale *= 1000;
        exponent += 1;
    }
    let value = (bytes as f64 / scale as f64 * 10.0 + 0.5).floor() / 10.0;
    let unit = UNITS.get(exponent).copied().unwrap_or("EB");
    if value < 10.0 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_words() {
        let of = |number| system(&std::io::Error::from_raw_os_error(number));
        assert_eq!(of(2), "no such file or directory");
        assert_eq!(of(21), "is a directory");
        assert_eq!(system(&std::io::Error::other("Whatever")), "whatever");
    }

    #[test]
    fn quoting() {
        assert_eq!(quote(b"a\"b\\c"), r#""a\"b\\c""#);
        assert_eq!(
            quote(b"\x07\x08\x0c\n\r\t\x0b\x00\x7f"),
            r#""\a\b\f\n\r\t\v\x00\x7f""#
        );
        assert_eq!(quote("é日🎉".as_bytes()), "\"é日🎉\"");
        assert_eq!(quote(b"\xff\xc3"), r#""\xff\xc3""#);
        assert_eq!(
            quote("\u{a0}\u{200b}\u{feff}\u{e000}".as_bytes()),
            r#""\u00a0\u200b\ufeff\ue000""#
        );
        assert_eq!(quote("\u{e0001}".as_bytes()), r#""\U000e0001""#);
        assert_eq!(quote("e\u{301}\u{301}".as_bytes()), "\"e\u{301}\u{301}\"");
        assert_eq!(quote("\u{fffd}".as_bytes()), "\"\u{fffd}\"");
    }

    #[test]
    fn unquoting() {
        assert_eq!(unquote(r#""a\"b""#), Some(b"a\"b".to_vec()));
        assert_eq!(
            unquote(r#""\x00\377\u00e9\n""#),
            Some(b"\x00\xff\xc3\xa9\n".to_vec())
        );
        for bad in [
            "\"",
            "\"a",
            r#""\'""#,
            r#""\400""#,
            r#""\xg0""#,
            r#""\ud800""#,
            r#""a"b""#,
        ] {
            assert_eq!(unquote(bad), None, "{bad}");
        }
    }

    #[test]
    fn durations() {
        for (nanos, text) in [
            (0, "0s"),
            (1, "1ns"),
            (1_100, "1.1µs"),
            (2_200_000, "2.2ms"),
            (3_300_000_000, "3.3s"),
            (245_000_000_000, "4m5s"),
            (245_001_000_000, "4m5.001s"),
            (18_367_001_000_000, "5h6m7.001s"),
            (480_000_000_001, "8m0.000000001s"),
            (5_000_000_000, "5s"),
            (3_600_000_000_000, "1h0m0s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(nanos)), text);
            assert_eq!(parse_duration(text), Ok(Duration::from_nanos(nanos)));
        }
        assert_eq!(parse_duration("1.5h"), Ok(Duration::from_secs(5400)));
        assert_eq!(parse_duration(".5s"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("-1s"), Ok(Duration::ZERO));
        assert_eq!(
            parse_duration("5").unwrap_err(),
            r#"time: missing unit in duration "5""#
        );
        assert_eq!(
            parse_duration("5x").unwrap_err(),
            r#"time: unknown unit "x" in duration "5x""#
        );
        assert_eq!(
            parse_duration("").unwrap_err(),
            r#"time: invalid duration """#
        );
        assert_eq!(
            parse_duration("x").unwrap_err(),
            r#"time: invalid duration "x""#
        );
        assert!(parse_duration("99999999999999999999h").is_err());
    }

    #[test]
    fn numbers() {
        assert_eq!(parse_int("-12", 10), Ok(-12));
        assert_eq!(parse_int("0x10", 0), Ok(16));
        assert_eq!(parse_int("-9223372036854775808", 10), Ok(i64::MIN));
        assert_eq!(
            parse_int("9223372036854775808", 10).unwrap_err(),
            r#"strconv.ParseInt: parsing "9223372036854775808": value out of range"#
        );
        assert_eq!(
            parse_uint("8211f1d0f64f3269", 16),
            Ok(0x8211_f1d0_f64f_3269)
        );
        assert_eq!(
            parse_uint("zz", 16).unwrap_err(),
            r#"strconv.ParseUint: parsing "zz": invalid syntax"#
        );
        assert!(
            parse_int("", 10).is_err() && parse_int("é", 0).is_err() && parse_int("-", 0).is_err()
        );
    }

    #[test]
    fn sizes() {
        for (bytes, text) in [
            (0, "0 B"),
            (9, "9 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (20_480, "20 kB"),
            (24_576, "25 kB"),
            (81_920, "82 kB"),
            (1_234_567, "1.2 MB"),
            (2_147_483_648, "2.1 GB"),
            (8_589_934_592, "8.6 GB"),
            (u64::MAX, "18 EB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
