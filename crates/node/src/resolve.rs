//! Whether two lists of peer URLs name the same places: by their text, else by what their hosts resolve to.
//!
//! A member may be advertised by an address and listed by a name, as with records of DNS. Only recovery
//! asks, on a thread of its own that may wait.

use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use ferrite_membership::initial;

/// How long names are asked for before the lists count as different: the original's.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two questions for a name.
const RETRY: Duration = Duration::from_secs(1);

/// Compares two lists of URLs.
///
/// # Errors
/// Why they differ, in the original's words.
pub fn same_urls(ours: &[String], theirs: &[String]) -> Result<(), String> {
    let until = Instant::now() + PATIENCE;
    same_by(ours, theirs, &mut |host, port| {
        loop {
            match addresses(host, port) {
                Ok(address) => return Ok(address),
                Err(error) => {
                    tracing::warn!(host, port, error, "failed to resolve URL Host");
                    if Instant::now() + RETRY > until {
                        return Err(error);
                    }
                }
            }
            std::thread::sleep(RETRY);
        }
    })
}

/// The first address of a host, those of version 4 first: as Go takes it.
fn addresses(host: &str, port: u16) -> Result<SocketAddr, String> {
    let found = (host, port)
        .to_socket_addrs()
        .map_err(|error| format!("lookup {host}: {error}"))?;
    let mut found: Vec<SocketAddr> = found.collect();
    found.sort_by_key(SocketAddr::is_ipv6);
    found
        .first()
        .copied()
        .ok_or_else(|| format!("lookup {host}: no such host"))
}

type Resolve<'a> = dyn FnMut(&str, u16) -> Result<SocketAddr, String> + 'a;

fn same_by(ours: &[String], theirs: &[String], resolve: &mut Resolve<'_>) -> Result<(), String> {
    let Err(why) = initial::same_urls(ours, theirs) else {
        return Ok(());
    };
    if ours.len() != theirs.len() {
        return Err(why);
    }
    let mut resolved = |urls: &[String]| -> Result<Vec<String>, String> {
        urls.iter()
            .map(|url| {
                resolved_url(url, resolve)
                    .map_err(|why| format!("failed to resolve {url:?} ({why})"))
            })
            .collect()
    };
    let (ours, theirs) = (resolved(ours)?, resolved(theirs)?);
    initial::same_urls(&ours, &theirs)
}

fn resolved_url(url: &str, resolve: &mut Resolve<'_>) -> Result<String, String> {
    let Some((scheme, address)) = url.split_once("://") else {
        return Ok(url.to_owned());
    };
    let Some((host, port)) = address.rsplit_once(':') else {
        return Ok(url.to_owned());
    };
    // Every machine has this one: it says nothing about which machine is meant.
    if scheme.starts_with("unix") || host == "localhost" {
        return Ok(url.to_owned());
    }
    let port: u16 = port
        .parse()
        .map_err(|_| format!("address {address}: invalid port"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let found = resolve(host, port)?;
    tracing::info!(url, host, "resolved-addr" = %found, "resolved URL Host");
    Ok(format!("{scheme}://{found}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(ours: &[&str], theirs: &[&str]) -> Result<(), String> {
        let list =
            |urls: &[&str]| -> Vec<String> { urls.iter().map(|url| (*url).to_owned()).collect() };
        same_by(&list(ours), &list(theirs), &mut |host, port| match host {
            "one.test" => Ok(SocketAddr::from(([10, 0, 0, 1], port))),
            "six.test" => Ok(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 6], port))),
            host => host
                .parse()
                .map(|ip| SocketAddr::new(ip, port))
                .map_err(|_| format!("lookup {host}: no such host")),
        })
    }

    #[test]
    fn a_name_and_its_address_are_the_same_place() {
        assert_eq!(
            compared(
                &["http://10.0.0.1:2380", "http://10.0.0.2:2380"],
                &["http://10.0.0.2:2380", "http://one.test:2380"]
            ),
            Ok(())
        );
        assert_eq!(
            compared(&["https://[::6]:1"], &["https://six.test:1"]),
            Ok(())
        );
        assert_eq!(
            compared(&["http://nobody.test:1"], &["http://nobody.test:1"]),
            Ok(())
        );
    }

    #[test]
    fn what_differs_is_told_in_the_originals_words() {
        let differ = |ours: &[&str], theirs: &[&str]| match compared(ours, theirs) {
            Ok(()) => format!("{ours:?} and {theirs:?} are the same"),
            Err(why) => why,
        };
        assert_eq!(
            differ(&["http://10.0.0.1:2380"], &["http://one.test:2381"]),
            "resolved urls: \"http://10.0.0.1:2380\" != \"http://10.0.0.1:2381\""
        );
        assert_eq!(
            differ(&["http://10.0.0.1:2380"], &["https://one.test:2380"]),
            "resolved urls: \"http://10.0.0.1:2380\" != \"https://10.0.0.1:2380\""
        );
        // Which machine it is depends on who asks.
        assert_eq!(
            differ(&["http://127.0.0.1:1"], &["http://localhost:1"]),
            "resolved urls: \"http://127.0.0.1:1\" != \"http://localhost:1\""
        );
        assert_eq!(
            differ(&["http://10.0.0.1:1"], &["http://nobody.test:1"]),
            "failed to resolve \"http://nobody.test:1\" (lookup nobody.test: no such host)"
        );
        assert_eq!(
            differ(&["http://a:1"], &["http://a:1", "http://b:1"]),
            "len([\"http://a:1\"]) != len([\"http://a:1\" \"http://b:1\"])"
        );
    }
}
