//! The answer to a scrape: in which form, and compressed or not, as the caller says it understands.

use std::io::Write as _;

use ::http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use ::http::{HeaderMap, HeaderName, HeaderValue, Response};
use bytes::Bytes;
use ferrite_metrics::{Metrics, Page};
use ferrite_node::Node;
use flate2::Compression;
use flate2::write::GzEncoder;

/// The messages of the binary form.
const PROTO_TYPE: &str = "application/vnd.google.protobuf";
const PROTO_MESSAGE: &str = "io.prometheus.client.MetricFamily";
/// The one version of the text form.
const TEXT_VERSION: &str = "0.0.4";
/// How names are written that are not plain: none here is other than plain, so that all ways are the same.
const ESCAPINGS: &[&str] = &["allow-utf-8", "underscores", "dots", "values"];

/// One form of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Text,
    Binary,
}

/// A scrape under way, counted when it ends.
struct Scrape<'a>(&'a Metrics);

impl<'a> Scrape<'a> {
    fn begin(metrics: &'a Metrics) -> Self {
        metrics.scrapes_in_flight.add(1);
        Scrape(metrics)
    }
}

impl Drop for Scrape<'_> {
    fn drop(&mut self) {
        self.0.scrapes_in_flight.add(-1);
        self.0.scrapes.inc(&["200"]);
    }
}

/// Answers a scrape, by whatever method.
pub fn respond(node: &Node, headers: &HeaderMap) -> Response<Bytes> {
    respond_with(node.metrics(), headers, || super::page(node))
}

/// Answers a scrape with any page.
pub fn respond_with(
    metrics: &Metrics,
    headers: &HeaderMap,
    page: impl FnOnce() -> Page,
) -> Response<Bytes> {
    let _scrape = Scrape::begin(metrics);
    let page = page();
    let (form, escaping) = form(headers);
    let body = match form {
        Form::Text => page.text().into_bytes(),
        Form::Binary => page.protobuf(),
    };
    let kind = match form {
        Form::Text => format!("text/plain; version={TEXT_VERSION}; charset=utf-8"),
        Form::Binary => format!("{PROTO_TYPE}; proto={PROTO_MESSAGE}; encoding=delimited"),
    };
    let kind = format!("{kind}; escaping={escaping}");
    let compressed = wants_gzip(headers).then(|| gzip(&body)).flatten();
    let is_compressed = compressed.is_some();
    let mut response = Response::new(Bytes::from(compressed.unwrap_or(body)));
    let headers = response.headers_mut();
    if let Ok(kind) = HeaderValue::from_str(&kind) {
        headers.insert(CONTENT_TYPE, kind);
    }
    if is_compressed {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// Writing into memory does not fail; if it did, the page would go as it is.
fn gzip(body: &[u8]) -> Option<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 8), Compression::default());
    encoder.write_all(body).ok()?;
    encoder.finish().ok()
}

/// One thing that a header of that kind lists.
struct Wish<'a> {
    what: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    weight: f32,
}

impl<'a> Wish<'a> {
    fn get(&self, name: &str) -> Option<&'a str> {
        self.parameters
            .iter()
            .find(|(found, _)| *found == name)
            .map(|(_, value)| *value)
    }
}

/// What a header lists, the most wanted first.
fn wishes<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Vec<Wish<'a>> {
    let mut wishes: Vec<Wish<'a>> = headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|part| {
            let mut parts = part.split(';').map(str::trim);
            let what = parts.next().unwrap_or_default();
            let parameters: Vec<(&str, &str)> = parts
                .filter_map(|part| part.split_once('='))
                .map(|(name, value)| (name.trim(), value.trim().trim_matches('"')))
                .collect();
            let weight = parameters
                .iter()
                .find(|(name, _)| *name == "q")
                .map_or(1.0, |(_, weight)| weight.parse().unwrap_or(0.0));
            Wish {
                what,
                parameters,
                weight,
            }
        })
        .filter(|wish| !wish.what.is_empty())
        .collect();
    wishes.sort_by(|a, b| b.weight.total_cmp(&a.weight));
    wishes
}

/// OpenMetrics is not among the forms: the original does not offer it.
fn form(headers: &HeaderMap) -> (Form, &'static str) {
    let mut escaping = "underscores";
    for wish in wishes(headers, &ACCEPT) {
        if let Some(asked) = wish.get("escaping")
            && let Some(known) = ESCAPINGS.iter().find(|known| **known == asked)
        {
            escaping = known;
        }
        if wish.what == PROTO_TYPE
            && wish.get("proto") == Some(PROTO_MESSAGE)
            && wish.get("encoding") == Some("delimited")
        {
            return (Form::Binary, escaping);
        }
        let version = wish.get("version").unwrap_or_default();
        if wish.what == "text/plain" && (version.is_empty() || version == TEXT_VERSION) {
            return (Form::Text, escaping);
        }
    }
    (Form::Text, escaping)
}

/// Whether gzip is wanted more than nothing; of equals the plain form wins.
fn wants_gzip(headers: &HeaderMap) -> bool {
    let wishes = wishes(headers, &ACCEPT_ENCODING);
    let weight = |name: &str| {
        wishes
            .iter()
            .filter(|wish| wish.what == name || wish.what == "*")
            .map(|wish| wish.weight)
            .fold(0.0, f32::max)
    };
    weight("gzip") > weight("identity")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(name, HeaderValue::from_static(value))])
    }

    #[test]
    fn the_form_is_the_most_wanted_that_there_is() {
        use Form::{Binary, Text};
        const BINARY: &str = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited;q=0.6, application/openmetrics-text;version=1.0.0;q=0.5, text/plain;version=0.0.4;q=0.2, */*;q=0.1";
        for (accept, expected) in [
            ("*/*", (Text, "underscores")),
            ("text/plain;version=0.0.4", (Text, "underscores")),
            (
                "application/openmetrics-text;version=1.0.0",
                (Text, "underscores"),
            ),
            (BINARY, (Binary, "underscores")),
            (
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,text/plain;version=0.0.4;q=0.9",
                (Text, "underscores"),
            ),
            (
                "text/plain;version=0.0.4;escaping=allow-utf-8",
                (Text, "allow-utf-8"),
            ),
            (
                "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text",
                (Text, "underscores"),
            ),
            (",;;q=x,=", (Text, "underscores")),
        ] {
            assert_eq!(form(&headers(ACCEPT, accept)), expected, "{accept}");
        }
        assert_eq!(form(&HeaderMap::new()), (Text, "underscores"));
    }

    #[test]
    fn gzip_is_for_those_who_want_it_more() {
        for (accept, expected) in [
            ("gzip", true),
            ("gzip, deflate, br, zstd", true),
            ("deflate, gzip;q=0.5", true),
            ("gzip;q=0", false),
            ("identity", false),
            ("*", false),
            ("gzip, *;q=0.1", true),
            ("deflate", false),
        ] {
            assert_eq!(
                wants_gzip(&headers(ACCEPT_ENCODING, accept)),
                expected,
                "{accept}"
            );
        }
        assert!(!wants_gzip(&HeaderMap::new()));
    }
}
