//! Whole numbers in JSON, which may be written as fractions and powers of ten where these come out whole.

/// Digits of the largest number there is.
const DIGITS_MAX: usize = 20;

/// The number's digits with its sign, if it is whole. What is asked about may be any text.
pub fn whole(text: &str) -> Option<String> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let digits = |text: &str| text.bytes().take_while(u8::is_ascii_digit).count();
    let (integer, rest) = rest.split_at_checked(digits(rest))?;
    if integer.is_empty() || (integer.len() > 1 && integer.starts_with('0')) {
        return None;
    }
    let (fraction, rest) = match rest.strip_prefix('.') {
        Some(rest) => {
            let (fraction, rest) = rest.split_at_checked(digits(rest))?;
            if fraction.is_empty() {
                return None;
            }
            (fraction, rest)
        }
        None => ("", rest),
    };
    let exponent: i32 = match rest.strip_prefix(['e', 'E']) {
        Some(power) => {
            let unsigned = power.strip_prefix(['+', '-']).unwrap_or(power);
            if unsigned.is_empty() || digits(unsigned) != unsigned.len() {
                return None;
            }
            power.parse().ok()?
        }
        None if rest.is_empty() => 0,
        None => return None,
    };
    let integer = integer.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    if integer.is_empty() && fraction.is_empty() {
        return Some("0".to_owned());
    }
    let mut number = String::from(if negative { "-" } else { "" });
    match usize::try_from(exponent) {
        Ok(exponent) => {
            if fraction.len() > exponent || integer.len() + exponent > DIGITS_MAX {
                return None;
            }
            number.push_str(integer);
            number.push_str(fraction);
            number.extend(std::iter::repeat_n('0', exponent - fraction.len()));
        }
        Err(_) => {
            let gone = usize::try_from(exponent.unsigned_abs()).ok()?;
            let kept = integer.len().checked_sub(gone)?;
            let (kept, gone) = integer.split_at_checked(kept)?;
            if !fraction.is_empty() || gone.bytes().any(|digit| digit != b'0') {
                return None;
            }
            number.push_str(kept);
        }
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::whole;

    #[test]
    fn numbers_are_whole_if_they_come_out_whole() {
        for (text, wanted) in [
            ("0", Some("0")),
            ("-0", Some("0")),
            ("12", Some("12")),
            ("-12", Some("-12")),
            ("1.0", Some("1")),
            ("1.50", None),
            ("1.5e1", Some("15")),
            ("1e3", Some("1000")),
            ("1E+3", Some("1000")),
            ("1200e-2", Some("12")),
            ("1201e-2", None),
            ("0.05e2", Some("05")),
            ("1e20", None),
            ("1e99999999999", None),
            ("18446744073709551615", Some("18446744073709551615")),
            ("01", None),
            ("", None),
            ("-", None),
            ("1.", None),
            (".5", None),
            ("1e", None),
            ("1e+", None),
            ("1x", None),
            ("+1", None),
            (" 1", None),
            ("0e-1", Some("0")),
            ("10e-2", None),
        ] {
            assert_eq!(whole(text).as_deref(), wanted, "{text}");
        }
    }
}
