//! Peer URLs, judged before they are sent: some members, of etcd above all, end by a panic when they
//! are told of one that cannot be read. What counts as readable, and the words, are Go's.

/// Looks at the peer URLs of a member that is to be added or changed.
///
/// # Errors
/// What is wrong with the first that is no peer URL, in the words of etcd's client.
pub fn check_peer_urls(urls: &[String]) -> Result<(), String> {
    if urls.is_empty() {
        return Err("no valid URLs given".into());
    }
    urls.iter().try_for_each(|url| check(url.trim()))
}

fn check(text: &str) -> Result<(), String> {
    // What follows a number sign is no part of any error.
    let whole = text.split_once('#').map_or(text, |(url, _)| url);
    let url = Parsed::read(whole).map_err(|why| format!("parse {}: {why}", quoted(whole)))?;
    match url.scheme.as_str() {
        "http" | "https" => {
            if !has_port(&url.host) {
                return Err(format!(
                    "URL address does not have the form \"host:port\": {text}"
                ));
            }
            if !url.path.is_empty() {
                return Err(format!("URL must not contain a path: {text}"));
            }
            Ok(())
        }
        "unix" | "unixs" => Ok(()),
        _ => Err(format!(
            "URL scheme must be http, https, unix, or unixs: {text}"
        )),
    }
}

/// As Go quotes texts in errors, as far as URLs can need it.
fn quoted(text: &str) -> String {
    format!("{text:?}")
}

/// The parts that matter here.
struct Parsed {
    scheme: String,
    host: String,
    path: String,
}

impl Parsed {
    fn read(text: &str) -> Result<Self, String> {
        if text.bytes().any(|byte| byte < b' ' || byte == 0x7f) {
            return Err("net/url: invalid control character in URL".into());
        }
        let (scheme, rest) = split_scheme(text)?;
        let mut url = Parsed {
            scheme: scheme.to_ascii_lowercase(),
            host: String::new(),
            path: String::new(),
        };
        let rest = rest.split_once('?').map_or(rest, |(rest, _)| rest);
        if !rest.starts_with('/') {
            if !url.scheme.is_empty() {
                // `unix:path`: nothing in it has a meaning of its own.
                return Ok(url);
            }
            let segment = rest.split('/').next().unwrap_or_default();
            if segment.contains(':') {
                return Err("first path segment in URL cannot contain colon".into());
            }
        }
        let mut path = rest;
        if (!url.scheme.is_empty() || !rest.starts_with("///"))
            && let Some(after) = rest.strip_prefix("//")
        {
            let end = after.find('/').unwrap_or(after.len());
            let (authority, remainder) = after.split_at(end);
            let host = authority
                .rsplit_once('@')
                .map_or(authority, |(_, host)| host);
            check_host(host)?;
            host.clone_into(&mut url.host);
            path = remainder;
        }
        check_escapes(path)?;
        path.clone_into(&mut url.path);
        Ok(url)
    }
}

/// The scheme, if there is one, and what follows its colon.
fn split_scheme(text: &str) -> Result<(&str, &str), String> {
    for (index, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if index > 0 => {}
            b':' if index == 0 => return Err("missing protocol scheme".into()),
            b':' => return Ok((&text[..index], &text[index + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn check_host(host: &str) -> Result<(), String> {
    let after = if host.starts_with('[') {
        let end = host.rfind(']').ok_or("missing ']' in host")?;
        &host[end + 1..]
    } else {
        &host[host.rfind(':').unwrap_or(host.len())..]
    };
    let digits = after.strip_prefix(':');
    if !after.is_empty() && !digits.is_some_and(|d| d.bytes().all(|b| b.is_ascii_digit())) {
        return Err(format!("invalid port {} after host", quoted(after)));
    }
    if let Some(odd) = host.chars().find(|c| {
        matches!(
            c,
            ' ' | '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}'
        )
    }) {
        let odd = quoted(&odd.to_string());
        return Err(format!("invalid character {odd} in host name"));
    }
    check_escapes(host)
}

fn check_escapes(text: &str) -> Result<(), String> {
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        let after = &rest.as_bytes()[at + 1..];
        if after.len() < 2 || !after[..2].iter().all(u8::is_ascii_hexdigit) {
            let shown: String = rest[at..].chars().take(3).collect();
            return Err(format!("invalid URL escape {}", quoted(&shown)));
        }
        rest = &rest[at + 3..];
    }
    Ok(())
}

/// Whether this is `host:port` or `[host]:port`, either part possibly empty.
fn has_port(host: &str) -> bool {
    match host.rsplit_once(':') {
        Some((name, _)) => match name.strip_prefix('[') {
            Some(inner) => inner
                .strip_suffix(']')
                .is_some_and(|inner| !inner.contains(['[', ']'])),
            None => !name.contains([':', '[', ']']),
        },
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::check_peer_urls;

    #[test]
    fn what_is_no_peer_url_is_named_in_gos_words() {
        for (url, wanted) in [
            (
                "127.0.0.1:38390",
                "parse \"127.0.0.1:38390\": first path segment in URL cannot contain colon",
            ),
            ("foo", "URL scheme must be http, https, unix, or unixs: foo"),
            ("", "URL scheme must be http, https, unix, or unixs: "),
            (
                "localhost:1",
                "URL scheme must be http, https, unix, or unixs: localhost:1",
            ),
            (":1", "parse \":1\": missing protocol scheme"),
            (
                "http://a",
                "URL address does not have the form \"host:port\": http://a",
            ),
            (
                "http://::1:2380",
                "URL address does not have the form \"host:port\": http://::1:2380",
            ),
            (
                "http://a:x#b",
                "parse \"http://a:x\": invalid port \":x\" after host",
            ),
            (
                "http://[::1:2",
                "parse \"http://[::1:2\": missing ']' in host",
            ),
            (
                "http://a b:1",
                "parse \"http://a b:1\": invalid character \" \" in host name",
            ),
            (
                "http://a:1/%zz1",
                "parse \"http://a:1/%zz1\": invalid URL escape \"%zz\"",
            ),
            ("http://a:1/", "URL must not contain a path: http://a:1/"),
            (
                "http://a\tb:1",
                "parse \"http://a\\tb:1\": net/url: invalid control character in URL",
            ),
        ] {
            let error = check_peer_urls(&[url.to_owned()]).expect_err(url);
            assert_eq!(error, wanted);
        }
        assert_eq!(
            check_peer_urls(&[]).expect_err("none"),
            "no valid URLs given"
        );
    }

    #[test]
    fn peer_urls_pass() {
        for url in [
            "http://10.0.0.1:2380",
            " HTTPS://etcd-00:2380 ",
            "https://[::1]:2380",
            "http://a:2380?b#c",
            "unix:///run/etcd",
            "unixs:etcd",
        ] {
            check_peer_urls(&[url.to_owned()]).expect(url);
        }
    }
}
