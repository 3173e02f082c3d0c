//! URLs of listeners and members, as Go's `net/url` takes them apart and etcd checks them.

use ferrite_cli::gofmt::quote;

use crate::flags::Url;

/// Reads one.
///
/// # Errors
/// The original's words for what is wrong with it.
pub fn read(text: &str) -> Result<Url, String> {
    let text = text.trim();
    let failed = |why: String| format!("parse {}: {why}", quote(text.as_bytes()));
    if text.chars().any(|c| c.is_ascii_control()) {
        return Err(failed("net/url: invalid control character in URL".into()));
    }
    let whole = text.split_once('#').map_or(text, |(whole, _)| whole);
    let (scheme, rest) = scheme(whole).ok_or_else(|| failed("missing protocol scheme".into()))?;
    let scheme = scheme.to_ascii_lowercase();
    let (rest, query) = match rest.find('?') {
        Some(at) => rest.split_at(at),
        None => (rest, ""),
    };
    let first = rest.split('/').next().unwrap_or_default();
    if scheme.is_empty() && first.contains(':') {
        return Err(failed(
            "first path segment in URL cannot contain colon".into(),
        ));
    }
    let (authority, path) = match rest.strip_prefix("//") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("", rest),
    };
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (format!("{user}@"), host),
        None => (String::new(), authority),
    };
    if scheme.starts_with("unix") {
        // The path of a socket may have a colon and anything after it.
        let address = format!("{authority}{path}");
        return match (scheme.as_str(), address.is_empty()) {
            (_, true) => Err(format!("URL has no path of a socket: {text}")),
            ("unix" | "unixs", false) => Ok(Url {
                scheme,
                user: String::new(),
                address,
                query: query.to_owned(),
            }),
            _ => Err(bad_scheme(text)),
        };
    }
    check_host(host).map_err(failed)?;
    if !matches!(scheme.as_str(), "http" | "https") {
        return Err(bad_scheme(text));
    }
    if !has_port(host) {
        return Err(format!(
            "URL address does not have the form \"host:port\": {text}"
        ));
    }
    if !path.is_empty() {
        return Err(format!("URL must not contain a path: {text}"));
    }
    Ok(Url {
        scheme,
        user,
        address: host.to_owned(),
        query: query.to_owned(),
    })
}

fn bad_scheme(text: &str) -> String {
    format!("URL scheme must be http, https, unix, or unixs: {text}")
}

/// What stands before the first colon, if it can be a scheme, and what follows; `None` where nothing
/// stands before it.
fn scheme(text: &str) -> Option<(&str, &str)> {
    let end = text.find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c)));
    let begins_well = text.starts_with(|c: char| c.is_ascii_alphabetic());
    match end {
        Some(0) if text.starts_with(':') => None,
        Some(end) if begins_well && text[end..].starts_with(':') => {
            Some((&text[..end], &text[end + 1..]))
        }
        _ => Some(("", text)),
    }
}

/// What Go says of a host, its port included.
fn check_host(host: &str) -> Result<(), String> {
    let port = if host.starts_with('[') {
        let end = host.rfind(']').ok_or("missing ']' in host")?;
        &host[end + 1..]
    } else {
        host.rfind(':').map_or("", |at| &host[at..])
    };
    let digits = port.strip_prefix(':');
    let well_formed = digits.map_or(port.is_empty(), |digits| {
        digits.bytes().all(|b| b.is_ascii_digit())
    });
    if !well_formed {
        return Err(format!(
            "invalid port {} after host",
            quote(port.as_bytes())
        ));
    }
    match host.chars().find(|c| " \\^`{|}".contains(*c)) {
        Some(odd) => Err(format!(
            "invalid character {} in host name",
            quote(odd.to_string().as_bytes())
        )),
        None => Ok(()),
    }
}

/// Whether this is `host:port` or `[host]:port`, either part possibly empty.
fn has_port(host: &str) -> bool {
    let Some((name, _)) = host.rsplit_once(':') else {
        return false;
    };
    let inner = name
        .strip_prefix('[')
        .and_then(|name| name.strip_suffix(']'));
    match inner {
        Some(inner) => !inner.contains(['[', ']']),
        None => !name.contains([':', '[', ']']),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_etcd_takes_is_taken_and_written_as_it_writes_it() {
        for (text, written, address, port) in [
            ("http://a:1", "http://a:1", "a:1", Some(("a", 1))),
            (" HTTP://a:1 ", "http://a:1", "a:1", Some(("a", 1))),
            ("http://a:", "http://a:", "a:", Some(("a", 0))),
            ("http://a:1?x=1", "http://a:1?x=1", "a:1", Some(("a", 1))),
            ("http://a:1#b", "http://a:1", "a:1", Some(("a", 1))),
            ("http://u:p@a:1", "http://u:p@a:1", "a:1", Some(("a", 1))),
            (
                "https://[::1]:2",
                "https://[::1]:2",
                "[::1]:2",
                Some(("::1", 2)),
            ),
            ("http://a:99999", "http://a:99999", "a:99999", None),
            ("unix:///run/a:1", "unix:///run/a:1", "/run/a:1", None),
            ("unixs:/run/b", "unixs:///run/b", "/run/b", None),
            ("unix://rel:1", "unix://rel:1", "rel:1", None),
        ] {
            let url = read(text).unwrap_or_else(|why| panic!("{text}: {why}"));
            assert_eq!(url.to_string(), written);
            assert_eq!(url.address, address, "{text}");
            assert_eq!(url.host_port(), port, "{text}");
        }
    }

    #[test]
    fn what_etcd_refuses_is_refused_in_its_words() {
        let form = "URL address does not have the form \"host:port\": ";
        let scheme = "URL scheme must be http, https, unix, or unixs: ";
        for (text, why) in [
            ("", scheme.to_owned()),
            ("foo", format!("{scheme}foo")),
            ("*", format!("{scheme}*")),
            ("ftp://a:1", format!("{scheme}ftp://a:1")),
            ("http://a", format!("{form}http://a")),
            ("http:a:1", format!("{form}http:a:1")),
            ("http://::1:2", format!("{form}http://::1:2")),
            (
                "http://127.0.0.1:1/",
                "URL must not contain a path: http://127.0.0.1:1/".into(),
            ),
            (
                "http://a:1/b",
                "URL must not contain a path: http://a:1/b".into(),
            ),
            (
                "http://127.0.0.1:http",
                "parse \"http://127.0.0.1:http\": invalid port \":http\" after host".into(),
            ),
            (
                "http://[::1",
                "parse \"http://[::1\": missing ']' in host".into(),
            ),
            ("://a:1", "parse \"://a:1\": missing protocol scheme".into()),
            (
                "127.0.0.1:1",
                "parse \"127.0.0.1:1\": first path segment in URL cannot contain colon".into(),
            ),
            (
                "http://a b:1",
                "parse \"http://a b:1\": invalid character \" \" in host name".into(),
            ),
        ] {
            assert_eq!(read(text), Err(why), "{text:?}");
        }
    }
}
