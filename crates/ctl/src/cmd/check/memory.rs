//! A member's memory, from its `/metrics`.

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
const METRIC: &str = "process_resident_memory_bytes";

/// The memory of the process behind an endpoint, in bytes.
///
/// # Errors
/// What went wrong, in a line for the user.
pub async fn resident_bytes(endpoint: &str) -> Result<f64, String> {
    let address = match endpoint.split_once("://") {
        None => endpoint,
        Some(("http", address)) => address.trim_end_matches('/'),
        Some((scheme, _)) => return Err(format!("fetch error: unsupported scheme {scheme:?}")),
    };
    let page = tokio::time::timeout(TIMEOUT, fetch(address))
        .await
        .unwrap_or_else(|_| Err("timeout".to_owned()))
        .map_err(|error| format!("fetch error: {error}"))?;
    find(&String::from_utf8_lossy(&page))
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

fn find(page: &str) -> Result<f64, String> {
    let value = page
        .lines()
        .find_map(|line| line.strip_prefix(METRIC))
        .map(str::trim)
        .filter(|value| !value.is_empty())
        .ok_or_else(|| format!("could not find: {METRIC}"))?;
    value
        .parse()
        .map_err(|_| format!("parse error: {value:?} is no number"))
}

#[cfg(test)]
mod tests {
    use super::find;

    #[test]
    fn the_metric_among_others() {
        let page = "# HELP process_resident_memory_bytes Resident memory\n\
                    process_open_fds 7\nprocess_resident_memory_bytes 2.5e+07\n";
        assert_eq!(find(page), Ok(2.5e7));
        assert!(find("x 1\n").is_err());
        assert!(find("process_resident_memory_bytes many\n").is_err());
    }
}
