//! Plain HTTP at the proxy: the members' metrics and the cluster's health as seen from here, and the
//! proxy's own.

use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use bytes::Bytes;
use ferrite_client::pb::watch_request::RequestUnion;
use ferrite_client::{Client, describe, pb};
use ferrite_metrics::{Metrics, Page};
use ferrite_proxy::call::{self, Caller};
use ferrite_proxy::services::Services;
use ferrite_tls::ClientTls;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::scrape;
use crate::door::Loads;
use crate::{debug, http, metrics};

/// Where the proxy's own figures are.
const OWN_METRICS: &str = "/proxy/metrics";
const OWN_HEALTH: &str = "/proxy/health";
const HEALTH: &str = "/health";
/// Time for the read that tells whether the cluster is well, and for the watch: the original's.
const READ_TIMEOUT: Duration = Duration::from_secs(1);
const WATCH_TIMEOUT: Duration = Duration::from_secs(3);
/// What is read and watched. It need not be there.
const KEY: &str = "a";

/// What answers.
pub(super) struct Pages {
    pub services: Services,
    /// The proxy as its clients see it; `None` when nobody is told where it is.
    pub own: Option<Client>,
    pub endpoints: Vec<String>,
    /// How members' pages are fetched.
    pub tls: Option<ClientTls>,
    pub metrics: Arc<Metrics>,
    pub profiles: bool,
    pub loads: Loads,
}

impl Pages {
    /// Answers a request. `encrypted` says how it came.
    pub async fn serve(
        &self,
        method: &Method,
        path: &str,
        headers: &HeaderMap,
        encrypted: bool,
    ) -> Response<Bytes> {
        match path {
            metrics::PATH => self.members(encrypted).await,
            OWN_METRICS => metrics::respond_with(&self.metrics, headers, || self.page()),
            HEALTH => match http::only_get(method) {
                Some(refused) => refused,
                None => http::health_page(self.unhealthy().await),
            },
            OWN_HEALTH => match http::only_get(method) {
                Some(refused) => refused,
                None => http::health_page(self.unwell().await),
            },
            path if self.profiles => {
                let profile = debug::profile(method, path, || debug::report_proxy(&self.loads));
                profile.unwrap_or_else(http::not_found)
            }
            _ => http::not_found(),
        }
    }

    /// The page of some member.
    async fn members(&self, encrypted: bool) -> Response<Bytes> {
        // Without randomness any of them will do.
        let first = getrandom::u64().unwrap_or(0) as usize % self.endpoints.len().max(1);
        let (before, from) = self.endpoints.split_at(first.min(self.endpoints.len()));
        for endpoint in from.iter().chain(before) {
            match scrape::fetch(endpoint, encrypted, self.tls.as_ref()).await {
                Ok(page) => {
                    let mut response = Response::new(page);
                    response.headers_mut().insert(
                        header::CONTENT_TYPE,
                        HeaderValue::from_static("text/plain; version=0.0.4"),
                    );
                    return response;
                }
                Err(error) => tracing::warn!(endpoint, error, "cannot fetch a member's metrics"),
            }
        }
        http::page(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error\n")
    }

    fn page(&self) -> Page {
        let mut page = Page::new();
        self.metrics.gather(&mut page);
        metrics::process(&mut page);
        page
    }

    /// Why the cluster is not well, as far as a client of this proxy can tell.
    async fn unhealthy(&self) -> Option<String> {
        let range = pb::RangeRequest {
            key: KEY.into(),
            ..Default::default()
        };
        let caller = Caller::default();
        let read = call::range(&**self.services.store(), &caller, range);
        read_well(read).await
    }

    /// Why the proxy itself is not.
    async fn unwell(&self) -> Option<String> {
        let Some(own) = &self.own else {
            return Some("no connection to proxy".to_owned());
        };
        let range = pb::RangeRequest {
            key: KEY.into(),
            ..Default::default()
        };
        let read = async {
            own.kv()
                .range(range)
                .await
                .map(|answer| answer.into_inner())
        };
        if let Some(reason) = read_well(read).await {
            return Some(reason);
        }
        let watched = tokio::time::timeout(WATCH_TIMEOUT, watched(own)).await;
        watched.is_err().then(|| "WATCH TIMEOUT".to_owned())
    }
}

async fn read_well(
    read: impl Future<Output = Result<pb::RangeResponse, Status>>,
) -> Option<String> {
    let error = match tokio::time::timeout(READ_TIMEOUT, read).await {
        Ok(Ok(_)) => return None,
        // Whoever refuses is there.
        Ok(Err(status)) if status.message() == "etcdserver: permission denied" => return None,
        Ok(Err(status)) => describe(&status),
        Err(_) => "context deadline exceeded".to_owned(),
    };
    Some(format!("GET ERROR:{error}"))
}

/// Until a watch says something, whatever it is.
async fn watched(own: &Client) {
    let create = pb::WatchCreateRequest {
        key: KEY.into(),
        ..Default::default()
    };
    let create = pb::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    let (requests, queued) = mpsc::channel(1);
    // There is room for one.
    let _sent = requests.try_send(create);
    if let Ok(answers) = own.watch().watch(ReceiverStream::new(queued)).await {
        let _said = answers.into_inner().message().await;
    }
}
