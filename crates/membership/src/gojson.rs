//! JSON with exactly the bytes that Go's encoder writes.

use serde::Serialize;

/// Compact JSON of a value, with the characters that Go escapes for HTML escaped.
pub(crate) fn to_string(value: &impl Serialize) -> String {
    // Our types have string keys only and no floats, so nothing can fail.
    let plain = serde_json::to_string(value).unwrap_or_else(|error| unreachable!("{error}"));
    if !plain.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return plain;
    }
    // These can only occur inside strings, so replacing them in the whole text is exact.
    let mut escaped = String::with_capacity(plain.len() + 16);
    for c in plain.chars() {
        match c {
            '<' => escaped.push_str("\\u003c"),
            '>' => escaped.push_str("\\u003e"),
            '&' => escaped.push_str("\\u0026"),
            '\u{2028}' => escaped.push_str("\\u2028"),
            '\u{2029}' => escaped.push_str("\\u2029"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    #[test]
    fn escapes_as_go_does() {
        assert_eq!(
            super::to_string(&"a<b>&\u{2028}\"\n\u{1}é"),
            r#""a\u003cb\u003e\u0026\u2028\"\n\u0001é""#
        );
    }
}
