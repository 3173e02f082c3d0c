//! What of the headers of a request reaches the call behind it.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

/// Names and values that go with the call, in gRPC's form.
pub type Metadata = Vec<(String, Vec<u8>)>;

/// Headers that can be no metadata of a call: the call has its own.
const RESERVED: &[&str] = &[
    "content-type",
    "grpc-accept-encoding",
    "grpc-encoding",
    "grpc-message",
    "grpc-message-type",
    "grpc-status",
    "grpc-status-details-bin",
    "grpc-timeout",
    "te",
    "user-agent",
];

/// Headers that every program may send; they go on under a name of the gateway's.
const PERMANENT: &[&str] = &[
    "accept",
    "accept-charset",
    "accept-language",
    "accept-ranges",
    "authorization",
    "cache-control",
    "content-type",
    "cookie",
    "date",
    "expect",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-schedule-tag-match",
    "if-unmodified-since",
    "max-forwards",
    "origin",
    "pragma",
    "referer",
    "user-agent",
    "via",
    "warning",
];

const PREFIX: &str = "grpc-metadata-";

/// Why a call cannot be made with these headers: gRPC's code, and the words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// gRPC's.
    pub code: i32,
    /// For the client.
    pub message: String,
}

/// The metadata of a call, from headers with names in lower case.
///
/// # Errors
/// A header that the call cannot have.
pub fn metadata_of<'a>(
    headers: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Result<Metadata, Refused> {
    let mut metadata = Metadata::new();
    for (name, value) in headers {
        let printable = value.iter().all(|byte| matches!(byte, b' '..=b'~'));
        if name == "authorization" {
            if !printable {
                return Err(Refused {
                    code: 13,
                    message: "header key \"authorization\" contains value with non-printable ASCII characters".to_owned(),
                });
            }
            metadata.push((name.to_owned(), value.to_vec()));
        }
        let inner = if PERMANENT.contains(&name) {
            format!("grpcgateway-{name}")
        } else if let Some(inner) = name.strip_prefix(PREFIX) {
            inner.to_owned()
        } else {
            continue;
        };
        let part = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        if inner.is_empty() || !inner.bytes().all(part) || RESERVED.contains(&inner.as_str()) {
            continue;
        }
        let value = if inner.ends_with("-bin") {
            binary(name, value)?.into_bytes()
        } else if printable {
            value.to_vec()
        } else {
            continue;
        };
        metadata.push((inner, value));
    }
    Ok(metadata)
}

/// Bytes in a header, in the form in which a call carries them.
fn binary(name: &str, value: &[u8]) -> Result<String, Refused> {
    let decoded = if value.len().is_multiple_of(4) {
        STANDARD.decode(value)
    } else {
        STANDARD_NO_PAD.decode(value)
    };
    match decoded {
        Ok(bytes) => Ok(STANDARD_NO_PAD.encode(bytes)),
        Err(error) => {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _)
                | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                _ => value.len(),
            };
            let name = canonical(name);
            Err(Refused {
                code: 3,
                message: format!(
                    "invalid binary header {name}: illegal base64 data at input byte {at}"
                ),
            })
        }
    }
}

/// A header's name as Go writes it.
fn canonical(name: &str) -> String {
    let mut up = true;
    name.chars()
        .map(|c| {
            let c = if up { c.to_ascii_uppercase() } else { c };
            up = c == '-';
            c
        })
        .collect()
}

/// How long a client waits by its header, in nanoseconds, and 0 for ever; what is negative is over.
///
/// # Errors
/// What is no time.
pub fn timeout(text: &[u8]) -> Result<i64, Refused> {
    let text = String::from_utf8_lossy(text);
    parse(&text).ok_or_else(|| Refused {
        code: 3,
        message: format!("invalid grpc-timeout: {text}"),
    })
}

fn parse(text: &str) -> Option<i64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit = match unit {
        "H" => 3_600_000_000_000,
        "M" => 60_000_000_000,
        "S" => 1_000_000_000,
        "m" => 1_000_000,
        "u" => 1_000,
        "n" => 1,
        _ => return None,
    };
    let number: i64 = number.parse().ok()?;
    Some(number.saturating_mul(unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(headers: &[(&'static str, &'static str)]) -> Result<Vec<(String, String)>, String> {
        let headers = headers
            .iter()
            .map(|(name, value)| (*name, value.as_bytes()));
        match metadata_of(headers) {
            Ok(metadata) => Ok(metadata
                .into_iter()
                .map(|(name, value)| (name, String::from_utf8_lossy(&value).into_owned()))
                .collect()),
            Err(refused) => Err(format!("{} {}", refused.code, refused.message)),
        }
    }

    #[test]
    fn some_headers_reach_the_call() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            of(&[
                ("accept", "*/*"),
                ("authorization", "t.1"),
                ("grpc-metadata-hasleader", "true"),
                ("grpc-metadata-a-bin", "AAE"),
                ("grpc-metadata-b-bin", "AAE="),
                ("grpc-metadata-te", "x"),
                ("grpc-metadata-token", "\u{e4}"),
                ("grpc-metadata-a!", "x"),
                ("x-else", "y"),
            ]),
            Ok(vec![
                pair("grpcgateway-accept", "*/*"),
                pair("authorization", "t.1"),
                pair("grpcgateway-authorization", "t.1"),
                pair("hasleader", "true"),
                pair("a-bin", "AAE"),
                pair("b-bin", "AAE"),
            ])
        );
        assert_eq!(
            of(&[("grpc-metadata-a-bin", "A!==")]),
            Err(
                "3 invalid binary header Grpc-Metadata-A-Bin: illegal base64 data at input byte 1"
                    .to_owned()
            )
        );
        assert!(of(&[("authorization", "\u{e4}")]).is_err_and(|text| text.starts_with("13 ")));
    }

    #[test]
    fn time_limits_are_read_as_go_reads_them() {
        for (text, wanted) in [
            ("1S", Some(1_000_000_000)),
            ("250m", Some(250_000_000)),
            ("-1n", Some(-1)),
            ("0S", Some(0)),
            ("+2u", Some(2_000)),
            ("99999999999H", Some(i64::MAX)),
            ("", None),
            ("S", None),
            ("1", None),
            ("1x", None),
            ("1.5S", None),
        ] {
            assert_eq!(timeout(text.as_bytes()).ok(), wanted, "{text}");
        }
    }
}
