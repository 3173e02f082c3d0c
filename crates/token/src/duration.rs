//! Durations as Go reads them: `5m`, `1h30m`, `-1.5s`.

/// Nanoseconds of a unit.
fn unit(name: &str) -> Option<i128> {
    Some(match name {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    })
}

/// Nanoseconds; `None` for what Go refuses.
pub(crate) fn parse(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (name, after) = after.split_at(end);
        let unit = unit(name)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return None;
        }
        if !whole.is_empty() {
            total = total.checked_add(whole.parse::<i128>().ok()?.checked_mul(unit)?)?;
        }
        let mut scale = unit;
        for digit in fraction.bytes().take(18) {
            total += i128::from(digit - b'0') * scale / 10;
            scale /= 10;
        }
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn durations_are_gos() {
        for (text, nanoseconds) in [
            ("5m", Some(300_000_000_000)),
            ("1h30m", Some(5_400_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            (".5s", Some(500_000_000)),
            ("2.s", Some(2_000_000_000)),
            ("-10ms", Some(-10_000_000)),
            ("+3us", Some(3_000)),
            ("7µs", Some(7_000)),
            ("0", Some(0)),
            ("876000h", Some(3_153_600_000_000_000_000)),
            ("", None),
            ("-", None),
            ("5", None),
            ("m", None),
            (".m", None),
            ("1.2.3s", None),
            ("5 m", None),
            ("5d", None),
            ("9999999999h", None),
            ("99999999999999999999999999999999999999999h", None),
        ] {
            assert_eq!(parse(text), nanoseconds, "{text:?}");
        }
    }
}
