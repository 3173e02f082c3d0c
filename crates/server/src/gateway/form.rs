//! Requests that name another method in a header, as forms of old did: the gateway's library reads their
//! body as a form, and nothing of it reaches the call.

use ::http::Method;
use ::http::header::CONTENT_TYPE;
use ::http::request::Parts;
use ferrite_gateway::Refused;

use super::json::Json;
use crate::http::unescaped;

/// The most that Go reads of a form.
const BYTES_MAX: usize = 10 << 20;

/// The method that a header asks for instead.
pub fn overridden(parts: &Parts) -> Option<Method> {
    if parts.method != Method::POST
        || parts.headers.get(CONTENT_TYPE)? != "application/x-www-form-urlencoded"
    {
        return None;
    }
    let method = parts.headers.get("x-http-method-override")?.as_bytes();
    Method::from_bytes(&method.to_ascii_uppercase())
        .ok()
        .filter(|_| !method.is_empty())
}

/// Reads the form, to see whether it is one.
///
/// # Errors
/// It is none.
pub async fn read(parts: &Parts, json: &mut Json) -> Result<(), Refused> {
    let refused = |message| Refused { code: 3, message };
    let mut form = Vec::new();
    while let Some(piece) = json.piece().await {
        if form.len() + piece.len() > BYTES_MAX {
            return Err(refused("http: POST too large".to_owned()));
        }
        form.extend_from_slice(&piece);
    }
    let form = String::from_utf8_lossy(&form);
    let query = parts.uri.query().unwrap_or_default();
    match wrong(&form).or_else(|| wrong(query)) {
        Some(message) => Err(refused(message)),
        None => Ok(()),
    }
}

/// What Go says of a form or query that it cannot read.
fn wrong(text: &str) -> Option<String> {
    let pairs = text.split('&').filter(|pair| !pair.is_empty());
    pairs.into_iter().find_map(|pair| {
        if pair.contains(';') {
            return Some("invalid semicolon separator in query".to_owned());
        }
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let part = [name, value]
            .into_iter()
            .find(|part| unescaped(part).is_none())?;
        let escapes = part.match_indices('%').map(|(at, _)| &part[at..]);
        let bad = escapes.into_iter().find(|rest| {
            !matches!(rest.as_bytes(), [_, a, b, ..] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit())
        })?;
        let shown: String = bad.chars().take(3).collect();
        Some(format!("invalid URL escape {shown:?}"))
    })
}

#[cfg(test)]
mod tests {
    use super::wrong;

    #[test]
    fn forms_are_read_as_go_reads_them() {
        for (text, message) in [
            ("", None),
            ("a=b&c=%20+", None),
            ("{\"key\":\"YQ==\"}", None),
            ("a;b", Some("invalid semicolon separator in query")),
            ("a=%zz1", Some("invalid URL escape \"%zz\"")),
            ("%4", Some("invalid URL escape \"%4\"")),
        ] {
            assert_eq!(wrong(text).as_deref(), message, "{text}");
        }
    }
}
