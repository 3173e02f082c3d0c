//! Errors, as bodies and codes of HTTP.

use crate::text;

/// HTTP's code for a code of gRPC.
pub fn http_status(code: i32) -> u16 {
    match code {
        0 => 200,
        1 => 499,
        3 | 9 | 11 => 400,
        4 => 504,
        5 => 404,
        6 | 10 => 409,
        7 => 403,
        8 => 429,
        12 => 501,
        14 => 503,
        16 => 401,
        _ => 500,
    }
}

/// A line of a stream: always ends in a line feed.
pub type Line = Vec<u8>;

/// The body of an error.
pub fn error_body(code: i32, message: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(32 + message.len());
    write(&mut out, code, message, false);
    out
}

/// The last line of a stream that fails.
pub fn error_line(code: i32, message: &str) -> Line {
    let mut out = b"{\"error\":".to_vec();
    write(&mut out, code, message, true);
    out.extend_from_slice(b"}\n");
    out
}

fn write(out: &mut Vec<u8>, code: i32, message: &str, for_html: bool) {
    out.push(b'{');
    if code != 0 {
        out.extend_from_slice(format!("\"code\":{code}").as_bytes());
    }
    if !message.is_empty() {
        if code != 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"\"message\":");
        text::write(out, message, for_html);
    }
    out.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_code_in_http() {
        let codes: Vec<u16> = (0..=17).map(http_status).collect();
        assert_eq!(
            codes,
            [
                200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500,
                401, 500
            ]
        );
    }

    #[test]
    fn errors_are_told_in_json() {
        assert_eq!(
            error_body(5, "a \"b\" <c>"),
            br#"{"code":5,"message":"a \"b\" <c>"}"#
        );
        assert_eq!(error_body(2, ""), br#"{"code":2}"#);
        assert_eq!(
            error_line(4, "a <b>\u{2028}"),
            b"{\"error\":{\"code\":4,\"message\":\"a \\u003cb\\u003e\\u2028\"}}\n"
        );
    }
}
