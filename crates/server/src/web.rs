//! Plain HTTP on the addresses for clients: who may ask from where, and which path leads where.
//!
//! It reads no bodies. What is answered is in [`crate::http`], [`crate::debug`] and [`crate::gateway`].

use std::collections::BTreeSet;

use ::http::header::{HOST, ORIGIN};
use ::http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use bytes::Bytes;

use crate::auth::CertificateName;
use crate::conn::Encrypted;
use crate::flags::{Origins, Values};
use crate::gateway::Gateway;
use crate::listen::Traffic;
use crate::service::Context;
use crate::{debug, http, metrics};

/// What the flags say of plain HTTP.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// From where scripts in browsers may ask.
    pub origins: Origins,
    /// Names by which clear-text requests may call this member; `None` for any.
    pub hosts: Option<BTreeSet<String>>,
    /// Serve what is for whoever looks for a fault.
    pub profiles: bool,
    /// Serve JSON below `/v3/`.
    pub gateway: Option<Gateway>,
}

/// Where a request leads.
pub enum Routed {
    /// Nowhere else.
    Answered(Response<Bytes>),
    /// To this path of the gateway, below `/v3/`; what is answered there is shared so.
    Gateway(String, Sharing),
}

/// Which scripts in browsers may read the answer.
pub struct Sharing(Option<HeaderValue>);

impl Sharing {
    /// Says so in the answer.
    pub fn on<B>(self, mut response: Response<B>) -> Response<B> {
        if let Some(origin) = self.0 {
            let headers = response.headers_mut();
            headers.append("Access-Control-Allow-Origin", origin);
            for (name, value) in [
                (
                    "Access-Control-Allow-Methods",
                    "POST, GET, OPTIONS, PUT, DELETE",
                ),
                (
                    "Access-Control-Allow-Headers",
                    "accept, content-type, authorization",
                ),
            ] {
                headers.append(name, HeaderValue::from_static(value));
            }
        }
        response
    }
}

/// What the gateway serves is below this.
const GATEWAY: &str = "/v3/";
/// The same, once.
const GATEWAY_OF_OLD: &str = "/v3beta/";

/// Whether a path is the gateway's, by its name or by one of old.
pub fn is_gateways(path: &str) -> bool {
    path.starts_with(GATEWAY)
        || path.starts_with(GATEWAY_OF_OLD)
        || GATEWAY.strip_suffix('/') == Some(path)
}

/// Reads the flags.
pub fn read(values: &Values) -> Rules {
    // An empty text that was given lets nobody in: it is a list of a host without a name.
    let hosts: BTreeSet<String> = values
        .text("host-whitelist")
        .split(',')
        .map(str::to_owned)
        .collect();
    Rules {
        origins: values.origins("cors"),
        hosts: (!hosts.contains("*")).then_some(hosts),
        profiles: values.bool("enable-pprof") || values.text("log-level") == "debug",
        gateway: values
            .bool("enable-grpc-gateway")
            .then(|| Gateway::new(values.unsigned("max-concurrent-streams"))),
    }
}

/// Answers a request, or says who does.
pub async fn serve<B>(context: &Context, request: &Request<B>, traffic: Traffic) -> Routed {
    let (method, uri) = (request.method(), request.uri());
    let query = uri.query().unwrap_or_default();
    let plain = request.version() < Version::HTTP_2;
    if plain && request.headers().get_all(HOST).iter().count() > 1 {
        return Routed::Answered(http::too_many_hosts());
    }
    if request.version() == Version::HTTP_11 && request.headers().get(HOST).is_none() {
        return Routed::Answered(http::no_host());
    }
    if plain && method != Method::CONNECT && uri.scheme().is_none() && uri.authority().is_some() {
        return Routed::Answered(http::bad_target());
    }
    // Two ways to write a path are one path; which is asked for is decided by what it means.
    let Some(asked) = http::unescaped(uri.path()) else {
        return Routed::Answered(http::bad_target());
    };
    if traffic == Traffic::Metrics {
        let response = if method == Method::OPTIONS && asked == "*" {
            http::empty(StatusCode::OK)
        } else if let Some(clean) = cleaned(uri.path()).filter(|_| method != Method::CONNECT) {
            http::moved(method, &clean, uri.query())
        } else if asked == metrics::PATH {
            metrics::respond(&context.node, request.headers())
        } else {
            let probed = http::probe(&context.node, method, &asked, query).await;
            probed.unwrap_or_else(http::not_found)
        };
        return Routed::Answered(response);
    }
    let path = match asked.strip_prefix(GATEWAY_OF_OLD) {
        Some(rest) => &format!("{GATEWAY}{rest}"),
        None => &asked,
    };
    // What is escaped is no separator, and no dot to go up by.
    let written = match uri.path().strip_prefix(GATEWAY_OF_OLD) {
        Some(rest) => &format!("{GATEWAY}{rest}"),
        None => uri.path(),
    };
    if let Some(refused) = refused(context, request, path) {
        return Routed::Answered(refused);
    }
    let sharing = Sharing(allowed(&context.rules.origins, request));
    let gateway = context.rules.gateway.is_some();
    let response = if method == Method::OPTIONS {
        http::empty(StatusCode::OK)
    } else if let Some(clean) = cleaned(written).filter(|_| method != Method::CONNECT) {
        http::moved(method, &clean, uri.query())
    } else if gateway && GATEWAY.strip_suffix('/') == Some(path) {
        http::moved(method, GATEWAY, uri.query())
    } else if gateway && let Some(inner) = path.strip_prefix(GATEWAY) {
        return Routed::Gateway(inner.to_owned(), sharing);
    } else if path == metrics::PATH {
        metrics::respond(&context.node, request.headers())
    } else if let Some(answered) = debug::serve(context, method, path) {
        answered
    } else {
        http::client(&context.node, method, path, query).await
    };
    Routed::Answered(sharing.on(response))
}

/// For whoever may not ask this way.
fn refused<B>(context: &Context, request: &Request<B>, path: &str) -> Option<Response<Bytes>> {
    if request.extensions().get::<Encrypted>().is_none() {
        let host = host_of(request);
        if let Some(hosts) = &context.rules.hosts
            && !hosts.contains(host)
        {
            tracing::warn!(
                host,
                "rejecting HTTP request to prevent DNS rebinding attacks"
            );
            return Some(http::misdirected(host));
        }
        return None;
    }
    // The gateway calls for its caller without a certificate: the name in that would not count.
    let named = request.extensions().get::<CertificateName>();
    (named.is_some_and(|name| !name.0.is_empty())
        && context.rules.gateway.is_some()
        && path.starts_with(GATEWAY)
        && context.node.auth().enabled())
    .then(http::certificate_ignored)
}

/// The origin to name in the answer.
fn allowed<B>(origins: &Origins, request: &Request<B>) -> Option<HeaderValue> {
    match origins {
        Origins::Any => Some(HeaderValue::from_static("*")),
        Origins::These(list) => {
            let origin = request.headers().get(ORIGIN)?;
            let listed = origin.to_str().is_ok_and(|origin| list.contains(origin));
            listed.then(|| origin.clone())
        }
    }
}

/// The path without empty parts and dots, if it has any: Go's server sends everybody there.
fn cleaned(path: &str) -> Option<String> {
    let odd = |part: &str| matches!(part, "" | "." | "..");
    let inner = path.strip_prefix('/')?;
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    if inner.is_empty() && path.len() <= 1 || !inner.is_empty() && !inner.split('/').any(odd) {
        return None;
    }
    let mut parts: Vec<&str> = Vec::new();
    for part in inner.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let mut clean = format!("/{}", parts.join("/"));
    if path.ends_with('/') && clean.len() > 1 {
        clean.push('/');
    }
    Some(clean)
}

/// The name in a request's host, without its port, read as Go reads it.
fn host_of<B>(request: &Request<B>) -> &str {
    let host = match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => request
            .headers()
            .get(HOST)
            .and_then(|host| host.to_str().ok())
            .unwrap_or_default(),
    };
    split_host(host).unwrap_or(host)
}

/// The host before a port; `None` where there is no port, or the whole cannot be read.
fn split_host(text: &str) -> Option<&str> {
    let (host, _) = text.rsplit_once(':')?;
    match host.strip_prefix('[') {
        Some(rest) => {
            let (inner, after) = rest.split_once(']')?;
            (after.is_empty() && !inner.contains('[')).then_some(inner)
        }
        None => (!host.contains([':', '[', ']'])).then_some(host),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_go_cleans_them() {
        for clean in ["/", "/health", "/debug/pprof/", "/a/b", ""] {
            assert_eq!(cleaned(clean), None, "{clean}");
        }
        for (path, clean) in [
            ("//", "/"),
            ("//health", "/health"),
            ("/a//b/", "/a/b/"),
            ("/./a/../health", "/health"),
            ("/../..", "/"),
            ("/a/.", "/a"),
        ] {
            assert_eq!(cleaned(path).as_deref(), Some(clean), "{path}");
        }
    }

    #[test]
    fn hosts_are_read_as_go_reads_them() {
        for (text, host) in [
            ("localhost", "localhost"),
            ("localhost:2379", "localhost"),
            ("localhost:", "localhost"),
            ("[::1]:2379", "::1"),
            ("[::1]", "[::1]"),
            ("a:b:c", "a:b:c"),
            ("", ""),
        ] {
            assert_eq!(split_host(text).unwrap_or(text), host, "{text}");
        }
    }

    #[test]
    fn an_empty_list_of_hosts_that_was_given_lets_nobody_in() {
        let hosts = |arguments: &[&str]| {
            let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
            read(&Values::parse(&arguments, []).expect("flags")).hosts
        };
        assert_eq!(hosts(&[]), None);
        assert_eq!(hosts(&["--host-whitelist=a,*"]), None);
        let listed = |names: &[&str]| Some(names.iter().map(|n| (*n).to_owned()).collect());
        assert_eq!(hosts(&["--host-whitelist="]), listed(&[""]));
        assert_eq!(hosts(&["--host-whitelist=a,b"]), listed(&["a", "b"]));
    }
}
