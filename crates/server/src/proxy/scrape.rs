//! A member's `/metrics`, fetched for whoever asks the proxy.

use std::time::Duration;

use bytes::Bytes;
use ferrite_tls::ClientTls;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::metrics;

/// The largest page: a member's has a few hundred kilobytes at most.
const PAGE_MAX: usize = 64 << 20;
/// Time that a member has.
const PATIENCE: Duration = Duration::from_secs(10);

/// Fetches the page of one endpoint; `encrypted` says what an endpoint without a scheme speaks.
///
/// # Errors
/// What went wrong, for the log.
pub(super) async fn fetch(
    endpoint: &str,
    encrypted: bool,
    tls: Option<&ClientTls>,
) -> Result<Bytes, String> {
    let (encrypted, address) = match endpoint.split_once("://") {
        Some(("https", address)) => (true, address),
        Some(("http", address)) => (false, address),
        Some((scheme, _)) => return Err(format!("no metrics are fetched by {scheme}://")),
        None => (encrypted, endpoint),
    };
    let address = address.trim_end_matches('/');
    let asked = async {
        let stream = ferrite_client::connect_tcp(address).await;
        let stream = stream.map_err(|error| error.to_string())?;
        if !encrypted {
            return ask(address, stream).await;
        }
        let own;
        let tls = match tls {
            Some(tls) => tls,
            None => {
                own = ClientTls::new(&Default::default(), &["http/1.1"])
                    .map_err(|error| error.to_string())?;
                &own
            }
        };
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let stream = tls.connect(host.trim_end_matches('.'), stream).await;
        ask(address, stream.map_err(|error| error.to_string())?).await
    };
    let fetched = tokio::time::timeout(PATIENCE, asked).await;
    fetched.map_err(|_| "no answer in time".to_owned())?
}

async fn ask<S>(address: &str, stream: S) -> Result<Bytes, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let said = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(said)?;
    let connection = tokio::spawn(connection);
    let request = ::http::Request::get(metrics::PATH)
        .header(::http::header::HOST, address)
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(said)?;
    let body = Limited::new(response.into_body(), PAGE_MAX);
    let page = body.collect().await.map_err(|error| error.to_string())?;
    connection.abort();
    Ok(page.to_bytes())
}
