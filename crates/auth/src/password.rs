//! Password hashes, in the form that etcd writes and reads.
//!
//! Slow on purpose: not to be called on a thread that serves clients.

use base64::Engine as _;
use base64::alphabet::BCRYPT;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use base64::engine::{DecodePaddingMode, GeneralPurposeConfig};

/// The least cost of a hash.
pub const COST_MIN: u32 = 4;
/// The greatest.
pub const COST_MAX: u32 = 31;
/// The cost unless told otherwise.
pub const COST_DEFAULT: u32 = 10;
/// The longest password that can be hashed, in bytes.
pub const LENGTH_MAX: usize = 72;

/// Bytes of a salt.
pub const SALT_LEN: usize = 16;
/// Letters of a salt in its text form.
const SALT_TEXT_LEN: usize = 22;
/// Bytes of the result that the text form keeps (of 24).
const KEPT: usize = 23;
/// Letters of them.
const KEPT_TEXT_LEN: usize = 31;

const TEXT: GeneralPurpose =
    GeneralPurpose::new(&BCRYPT, NO_PAD.with_decode_allow_trailing_bits(true));
const STANDARD: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// A password that cannot be hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("bcrypt: password length exceeds 72 bytes")]
pub struct TooLong;

/// The raw hash. Whatever is beyond the limit does not count, as in every implementation.
fn raw(password: &[u8], cost: u32, salt: [u8; SALT_LEN]) -> [u8; 24] {
    let mut key = Vec::with_capacity(LENGTH_MAX + 1);
    key.extend_from_slice(&password[..password.len().min(LENGTH_MAX)]);
    key.push(0);
    key.truncate(LENGTH_MAX);
    bcrypt::bcrypt(cost, salt, &key)
}

/// Hashes a password. A cost that cannot be becomes the default.
///
/// # Errors
/// A password of more than [`LENGTH_MAX`] bytes.
pub fn hash(password: &[u8], cost: u32, salt: [u8; SALT_LEN]) -> Result<String, TooLong> {
    if password.len() > LENGTH_MAX {
        return Err(TooLong);
    }
    let cost = if (COST_MIN..=COST_MAX).contains(&cost) {
        cost
    } else {
        COST_DEFAULT
    };
    let hashed = raw(password, cost, salt);
    Ok(format!(
        "$2a${cost:02}${}{}",
        TEXT.encode(salt),
        TEXT.encode(&hashed[..KEPT])
    ))
}

/// Whether a password is the one of a hash. A hash that cannot be read is of no password.
pub fn matches(hashed: &[u8], password: &[u8]) -> bool {
    let Some((cost, salt, kept)) = parse(hashed) else {
        return false;
    };
    let computed = TEXT.encode(&raw(password, cost, salt)[..KEPT]);
    // Every letter is looked at, whatever the first difference.
    computed
        .bytes()
        .zip(kept)
        .fold(0, |different, (a, b)| different | (a ^ b))
        == 0
}

/// Cost, salt and the letters of the result: `$2`, perhaps a letter, `$`, two digits, `$`, then both.
fn parse(hashed: &[u8]) -> Option<(u32, [u8; SALT_LEN], &[u8])> {
    let rest = hashed.strip_prefix(b"$2")?;
    let rest = match rest {
        [b'$', rest @ ..] | [_, b'$', rest @ ..] => rest,
        _ => return None,
    };
    let ([tens @ b'0'..=b'9', ones @ b'0'..=b'9', b'$'], rest) = rest.split_first_chunk::<3>()?
    else {
        return None;
    };
    let cost = u32::from(tens - b'0') * 10 + u32::from(ones - b'0');
    if !(COST_MIN..=COST_MAX).contains(&cost) {
        return None;
    }
    let (salt, kept) = rest.split_at_checked(SALT_TEXT_LEN)?;
    let salt = TEXT.decode(salt).ok()?.try_into().ok()?;
    (kept.len() == KEPT_TEXT_LEN).then_some((cost, salt, kept))
}

/// A hash as it travels in a request: base64.
pub fn to_request(hash: &str) -> String {
    STANDARD.encode(hash)
}

/// The bytes that a request carries as a hash: line breaks are passed over, as in Go.
pub(crate) fn from_request(text: &str) -> Option<Vec<u8>> {
    let plain: Vec<u8> = text
        .bytes()
        .filter(|b| !matches!(b, b'\r' | b'\n'))
        .collect();
    STANDARD.decode(plain).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_of_go_match_and_ours_have_gos_form() {
        // Known answers of Go's package and of OpenBSD's function.
        for (hashed, password) in [
            (
                "$2a$10$XajjQvNhvvRt5GSeFk1xFeyqRrsxkhBkUiQeg0dt.wU1qD4aFDcga",
                "allmine",
            ),
            (
                "$2y$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
                "U*U",
            ),
        ] {
            assert!(matches(hashed.as_bytes(), password.as_bytes()), "{hashed}");
            assert!(!matches(hashed.as_bytes(), b"other"), "{hashed}");
        }
        let ours = hash(b"secret", 4, *b"0123456789abcdef").expect("short enough");
        assert_eq!((ours.len(), &ours[..7]), (60, "$2a$04$"));
        assert!(matches(ours.as_bytes(), b"secret"));
        assert!(!matches(ours.as_bytes(), b"secret\0"));
        assert!(!matches(ours.as_bytes(), b""));
    }

    #[test]
    fn seventy_two_bytes_are_the_limit() {
        let longest = [b'x'; LENGTH_MAX];
        let hashed = hash(&longest, 4, [7; SALT_LEN]).expect("at the limit");
        assert!(matches(hashed.as_bytes(), &longest));
        // As in Go: what is longer cannot be hashed, and is compared by its beginning.
        assert!(matches(hashed.as_bytes(), &[b'x'; LENGTH_MAX + 1]));
        assert!(!matches(hashed.as_bytes(), &longest[1..]));
        assert_eq!(
            hash(&[b'x'; LENGTH_MAX + 1], 4, [7; SALT_LEN]).map_err(|error| error.to_string()),
            Err("bcrypt: password length exceeds 72 bytes".to_owned())
        );
    }

    #[test]
    fn what_is_no_hash_is_of_no_password() {
        let good = hash(b"p", 4, [1; SALT_LEN]).expect("short enough");
        for bad in [
            "",
            "p",
            "$2a$",
            "$2a$04$",
            &good[..59],
            &good.replace("$04$", "$03$"),
            &good.replace("$04$", "$99$"),
            &good.replace("$04$", "$4x$"),
            &good.replace("$2a$", "$3a$"),
            &good.replace("$2a$", "2a$$"),
        ] {
            assert!(!matches(bad.as_bytes(), b"p"), "{bad}");
        }
    }

    #[test]
    fn requests_carry_base64() {
        assert_eq!(to_request("$2a$04$"), "JDJhJDA0JA==");
        assert_eq!(
            from_request("JDJh\r\nJDA0JA==\n").as_deref(),
            Some(&b"$2a$04$"[..])
        );
        assert_eq!(from_request("").as_deref(), Some(&b""[..]));
        assert_eq!(from_request("JDJhJDA0JA"), None);
        assert_eq!(from_request("no base64!"), None);
    }
}
