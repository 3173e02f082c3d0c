//! A member's `/metrics`, where they can be had without TLS: the page, and figures out of it.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, header::HOST};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// How long the page may take.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A page of metrics is some hundred kilobytes.
const PAGE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The page of the member behind an endpoint.
///
/// # Errors
/// What went wrong, in a line for the user.
pub async fn page(endpoint: &str) -> Result<String, String> {
    let address = match endpoint.split_once("://") {
        None => endpoint,
        Some(("http", address)) => address.trim_end_matches('/'),
        Some((scheme, _)) => return Err(format!("fetch error: unsupported scheme {scheme:?}")),
    };
    let page = tokio::time::timeout(TIMEOUT, fetch(address))
        .await
        .unwrap_or_else(|_| Err("timeout".to_owned()))
        .map_err(|error| format!("fetch error: {error}"))?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}

async fn fetch(address: &str) -> Result<Bytes, String> {
    fn text(error: impl std::fmt::Display) -> String {
        error.to_string()
    }
    let stream = TcpStream::connect(address).await.map_err(text)?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(text)?;
    // It ends with the answer; what it fails with, the request fails with too.
    let connection = tokio::spawn(connection);
    let request = Request::get("/metrics")
        .header(HOST, address)
        .body(Empty::<Bytes>::new())
        .map_err(text)?;
    let response = sender.send_request(request).await.map_err(text)?;
    let body = Limited::new(response.into_body(), PAGE_BYTES_MAX);
    let page = body.collect().await.map_err(text)?.to_bytes();
    connection.abort();
    Ok(page)
}

/// The lines of a metric: labels as they stand there (empty if it has none), and the value.
pub fn lines<'a>(page: &'a str, metric: &'a str) -> impl Iterator<Item = (&'a str, f64)> {
    page.lines().filter_map(move |line| {
        let rest = line.strip_prefix(metric)?;
        let (labels, value) = match rest.strip_prefix('{') {
            Some(labelled) => labelled.rsplit_once('}')?,
            None if rest.starts_with(' ') => ("", rest),
            None => return None,
        };
        Some((labels, value.trim().parse().ok()?))
    })
}

/// All lines of a metric together; `None` if there is none.
pub fn sum(page: &str, metric: &str) -> Option<f64> {
    lines(page, metric)
        .map(|(_, value)| value)
        .reduce(|a, b| a + b)
}

/// A histogram: upper bounds, ascending, with how many observations lie below each.
pub fn histogram(page: &str, metric: &str) -> Vec<(f64, f64)> {
    let name = format!("{metric}_bucket");
    let mut buckets: Vec<(f64, f64)> = lines(page, &name)
        .filter_map(|(labels, count)| {
            let bound = labels.split("le=\"").nth(1)?.split('"').next()?;
            let bound = match bound {
                "+Inf" => f64::INFINITY,
                bound => bound.parse().ok()?,
            };
            Some((bound, count))
        })
        .collect();
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    buckets
}

/// The bound below which this part of what came between two looks lies; `None` if nothing did.
pub fn quantile(before: &[(f64, f64)], now: &[(f64, f64)], part: f64) -> Option<f64> {
    let since = |at: usize| {
        let earlier = before.get(at).map_or(0.0, |(_, count)| *count);
        now.get(at).map_or(0.0, |(_, count)| count - earlier)
    };
    let total = since(now.len().checked_sub(1)?);
    if total <= 0.0 {
        return None;
    }
    let at = (0..now.len()).find(|at| since(*at) >= total * part)?;
    // Beyond the last bound there is only "more than that".
    let bound = |at: usize| now.get(at).map(|(bound, _)| *bound);
    bound(at)
        .filter(|b| b.is_finite())
        .or_else(|| bound(at.checked_sub(1)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# HELP requests so many\nrequests_total{code=\"OK\"} 3\n\
        requests_total{code=\"NotFound\"} 4\nrequests_total_more 9\nplain 2.5e+07\n\
        fsync_bucket{le=\"0.001\"} 90\nfsync_bucket{le=\"0.002\"} 99\nfsync_bucket{le=\"+Inf\"} 100\n";

    #[test]
    fn figures_out_of_a_page() {
        assert_eq!(sum(PAGE, "requests_total"), Some(7.0));
        assert_eq!(sum(PAGE, "plain"), Some(2.5e7));
        assert_eq!(sum(PAGE, "request"), None);
        let now = histogram(PAGE, "fsync");
        assert_eq!(now, [(0.001, 90.0), (0.002, 99.0), (f64::INFINITY, 100.0)]);
        assert_eq!(quantile(&[], &now, 0.99), Some(0.002));
        assert_eq!(quantile(&[], &now, 0.5), Some(0.001));
        assert_eq!(quantile(&[], &now, 1.0), Some(0.002));
        assert_eq!(quantile(&now, &now, 0.99), None);
        assert_eq!(quantile(&[], &[], 0.99), None);
    }
}
