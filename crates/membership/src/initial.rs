//! The `--initial-cluster` flag and the checks a member makes before it founds or joins a cluster.
//! The texts are etcd's.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Error;

/// Compares two lists of URLs, resolving names if it likes, and says why they differ.
pub type SameUrls<'a> = dyn FnMut(&[String], &[String]) -> Result<(), String> + 'a;

/// Splits `name=url,name=url,…` into pairs, in the order given.
pub fn parse_initial_cluster(flag: &str) -> Result<Vec<(String, String)>, Error> {
    let pairs: Vec<(String, String)> = flag
        .split(',')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (name, url) = part.split_once('=').unwrap_or((part, ""));
            (name.to_owned(), url.to_owned())
        })
        .collect();
    group(&pairs).map_err(|error| {
        let bare = flag
            .split(',')
            .find(|part| !part.is_empty() && !part.contains('='));
        match (error, bare) {
            (Error::Config(text), Some(part)) => Error::Config(format!(
                "{text} ({part:?} is no member: name=URL is wanted)"
            )),
            (error, _) => error,
        }
    })?;
    Ok(pairs)
}

/// Members by name, each with its sorted and checked URLs.
pub(crate) fn group(pairs: &[(String, String)]) -> Result<BTreeMap<String, Vec<String>>, Error> {
    let mut members: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, url) in pairs {
        members
            .entry(name.clone())
            .or_default()
            .push(check_url(url)?);
    }
    for urls in members.values_mut() {
        urls.sort_unstable();
    }
    Ok(members)
}

/// Checks a peer URL as etcd does and returns it with its scheme in lower case.
pub fn check_url(text: &str) -> Result<String, Error> {
    let text = text.trim();
    let bad_scheme = || {
        Error::Config(format!(
            "URL scheme must be http, https, unix, or unixs: {text}"
        ))
    };
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(bad_scheme());
    };
    let scheme = scheme.to_ascii_lowercase();
    match scheme.as_str() {
        "http" | "https" => {
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (authority, path) = rest.split_at(end);
            let host = authority
                .rsplit_once('@')
                .map_or(authority, |(_, host)| host);
            if !has_port(host) {
                return Err(Error::Config(format!(
                    "URL address does not have the form \"host:port\": {text}"
                )));
            }
            if path.starts_with('/') {
                return Err(Error::Config(format!(
                    "URL must not contain a path: {text}"
                )));
            }
        }
        "unix" | "unixs" => {}
        _ => return Err(bad_scheme()),
    }
    Ok(format!("{scheme}://{rest}"))
}

/// Whether this is `host:port` or `[host]:port`, either part possibly empty.
fn has_port(host: &str) -> bool {
    let Some((name, port)) = host.rsplit_once(':') else {
        return false;
    };
    let bracketed = name.starts_with('[') && name.ends_with(']');
    (bracketed || !name.contains([':', '[', ']'])) && port.bytes().all(|b| b.is_ascii_digit())
}

/// Whether two lists hold the same URLs in any order, compared as text.
pub fn same_urls(ours: &[String], theirs: &[String]) -> Result<(), String> {
    let quoted = |urls: &[String]| {
        let quoted: Vec<String> = urls.iter().map(|url| format!("{url:?}")).collect();
        format!("[{}]", quoted.join(" "))
    };
    if ours.len() != theirs.len() {
        return Err(format!("len({}) != len({})", quoted(ours), quoted(theirs)));
    }
    let (mut left, mut right) = (ours.to_vec(), theirs.to_vec());
    left.sort_unstable();
    right.sort_unstable();
    match left.iter().zip(&right).find(|(a, b)| a != b) {
        None => Ok(()),
        Some((a, b)) => Err(format!("resolved urls: {a:?} != {b:?}")),
    }
}

/// `name=url,…` sorted, as etcd prints a cluster in its messages.
fn print(members: &BTreeMap<String, Vec<String>>) -> String {
    let mut pairs: Vec<String> = members
        .iter()
        .flat_map(|(name, urls)| urls.iter().map(move |url| format!("{name}={url}")))
        .collect();
    pairs.sort_unstable();
    pairs.join(",")
}

/// What a founding member checks: it is in the list, its advertised URLs are those listed, and no URL
/// stands twice. `same` compares lists of URLs, resolving names if it likes.
pub fn verify_bootstrap(
    name: &str,
    pairs: &[(String, String)],
    advertised: &[String],
    same: &mut SameUrls<'_>,
) -> Result<(), Error> {
    let members = group(pairs)?;
    let listed = local(name, &members)?;
    let mut advertised_sorted = advertised.to_vec();
    advertised_sorted.sort_unstable();
    if let Err(why) = same(&advertised_sorted, listed) {
        return Err(Error::Config(mismatch(
            name,
            listed,
            advertised,
            &advertised_sorted,
            &why,
        )));
    }
    no_duplicates(&members)
}

/// What a joining member checks: it is in the list, and no URL stands twice.
pub fn verify_join(name: &str, pairs: &[(String, String)]) -> Result<(), Error> {
    let members = group(pairs)?;
    local(name, &members)?;
    no_duplicates(&members)
}

fn local<'a>(
    name: &str,
    members: &'a BTreeMap<String, Vec<String>>,
) -> Result<&'a Vec<String>, Error> {
    members.get(name).ok_or_else(|| {
        Error::Config(format!(
            "couldn't find local name {name:?} in the initial cluster configuration"
        ))
    })
}

fn no_duplicates(members: &BTreeMap<String, Vec<String>>) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    if members.values().flatten().all(|url| seen.insert(url)) {
        return Ok(());
    }
    Err(Error::Config(format!(
        "initial cluster {} has duplicate url",
        print(members)
    )))
}

fn mismatch(
    name: &str,
    listed: &[String],
    advertised: &[String],
    sorted: &[String],
    why: &str,
) -> String {
    let advertised_text = sorted.join(",");
    let missing: Vec<String> = listed
        .iter()
        .filter(|url| !advertised.contains(url))
        .map(|url| format!("{name}={url}"))
        .collect();
    if !missing.is_empty() {
        return format!(
            "--initial-cluster has {} but missing from --initial-advertise-peer-urls={advertised_text} ({why})",
            missing.join(",")
        );
    }
    let advertised_map = print(&BTreeMap::from([(name.to_owned(), advertised.to_vec())]));
    let missing: Vec<&str> = sorted
        .iter()
        .filter(|url| !listed.contains(url))
        .map(String::as_str)
        .collect();
    if !missing.is_empty() {
        return format!(
            "--initial-advertise-peer-urls has {} but missing from --initial-cluster={advertised_map}",
            missing.join(",")
        );
    }
    format!(
        "failed to resolve {advertised_text} to match --initial-cluster={advertised_map} ({why})"
    )
}
