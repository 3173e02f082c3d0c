//! Health probes: round-trip times, and the log line that names a lost peer again and again.

use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use parking_lot::Mutex;
use serde::Deserialize;
use tokio::time::Instant;

use crate::body::full_body;
use crate::client::{Conn, FetchError, Limits};
use crate::logfmt::{go_duration, hex};
use crate::peer::Peer;
use crate::url::PeerUrl;

/// Time between probes of a healthy peer. Below the read timeout, so that kept connections stay open.
const INTERVAL: Duration = Duration::from_secs(4);
/// Time between probes, and so between log lines, of an unhealthy one.
const UNHEALTHY_INTERVAL: Duration = Duration::from_secs(5);
/// Probes provoked by events are not closer than this.
const SHORTEST: Duration = Duration::from_millis(200);
/// A peer that has not answered yet is not called unhealthy before this.
const GRACE: Duration = Duration::from_secs(5);
const ANSWER_LIMIT: usize = 4096;

/// etcd probes over two HTTP clients, and names them in its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoundTripper {
    RaftMessage,
    Snapshot,
}

impl RoundTripper {
    fn name(self) -> &'static str {
        match self {
            RoundTripper::RaftMessage => "ROUND_TRIPPER_RAFT_MESSAGE",
            RoundTripper::Snapshot => "ROUND_TRIPPER_SNAPSHOT",
        }
    }
}

/// Smoothed round-trip time.
#[derive(Default)]
pub(crate) struct RttCell {
    value: Mutex<Option<Duration>>,
}

impl RttCell {
    pub(crate) fn get(&self) -> Option<Duration> {
        *self.value.lock()
    }

    fn observe(&self, rtt: Duration) {
        let mut value = self.value.lock();
        *value = Some(match *value {
            Some(old) => old.mul_f64(0.875) + rtt.mul_f64(0.125),
            None => rtt,
        });
    }
}

#[derive(Deserialize)]
struct Health {
    #[serde(rename = "OK")]
    ok: bool,
}

pub(crate) async fn run(peer: Arc<Peer>, tripper: RoundTripper) {
    let config = &peer.core.config;
    // With the usual dial timeout of two seconds, interval and limit together stay within the five seconds in which a
    // loss must be named.
    let limit =
        (config.dial_timeout * 9 / 20).clamp(Duration::from_millis(900), Duration::from_secs(4));
    let started = Instant::now();
    let mut changes = peer.status.subscribe();
    let mut kept: Option<Conn> = None;
    let mut was_healthy = false;
    let mut logged: Option<Instant> = None;
    loop {
        let begun = Instant::now();
        changes.mark_unchanged();
        let result = match peer.picker.pick() {
            None => Err("the member has no peer URL that can be used".to_owned()),
            Some(url) => {
                let keep = tripper == RoundTripper::Snapshot;
                let work = probe(&peer, &url, &mut kept, keep);
                match tokio::time::timeout(limit, work).await {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(error)) => Err(error.to_string()),
                    Err(_) => Err(format!("no answer to the probe of {url} within {limit:?}")),
                }
            }
        };
        let next = match result {
            Ok(()) => {
                let rtt = begun.elapsed();
                peer.rtt.observe(rtt);
                peer.counters.rtt_seconds.observe(rtt);
                was_healthy = true;
                logged = None;
                begun + INTERVAL
            }
            Err(error) => {
                kept = None;
                let now = Instant::now();
                let due = match logged {
                    Some(at) => now >= at + UNHEALTHY_INTERVAL - SHORTEST,
                    None => was_healthy || now >= started + GRACE,
                };
                if due {
                    tracing::warn!(
                        "round-tripper-name" = tripper.name(),
                        "remote-peer-id" = hex(peer.id),
                        rtt = go_duration(peer.rtt.get().unwrap_or_default()),
                        error,
                        "prober detected unhealthy status"
                    );
                    logged = Some(now);
                }
                match logged {
                    // The next probe ends, at the latest, when its line is due.
                    Some(at) if error_is_slow(now, begun, limit) => at + UNHEALTHY_INTERVAL - limit,
                    Some(at) => at + UNHEALTHY_INTERVAL,
                    None => (started + GRACE).max(begun + SHORTEST),
                }
            }
        };
        tokio::time::sleep_until(begun + SHORTEST).await;
        let _ = tokio::time::timeout_at(next, async {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
        .await;
    }
}

fn error_is_slow(now: Instant, begun: Instant, limit: Duration) -> bool {
    now.duration_since(begun) >= limit
}

async fn probe(
    peer: &Peer,
    url: &PeerUrl,
    kept: &mut Option<Conn>,
    keep: bool,
) -> Result<(), FetchError> {
    let usable = match kept.take() {
        Some(conn) => conn.ready().await,
        None => None,
    };
    // A kept connection may have died with the peer's last process: only a new one tells how the peer is.
    if let Some(mut conn) = usable
        && ask(&mut conn, url).await.is_ok()
    {
        *kept = Some(conn);
        return Ok(());
    }
    let limits = Limits {
        dial: peer.core.config.dial_timeout,
        read: None,
        write: None,
    };
    let mut conn = Conn::open(&*peer.core.connector, url, limits).await?;
    ask(&mut conn, url).await?;
    if keep {
        *kept = Some(conn);
    }
    Ok(())
}

async fn ask(conn: &mut Conn, url: &PeerUrl) -> Result<(), FetchError> {
    let request = Request::builder()
        .method(Method::GET)
        .uri("/raft/probing")
        .header(http::header::HOST, url.authority())
        .body(full_body(""))?;
    let (parts, mut body) = conn.send(request).await?.into_parts();
    let body = conn.collect(&mut body, ANSWER_LIMIT).await?;
    let unhealthy = |text: String| FetchError::Status {
        url: url.to_string(),
        status: parts.status,
        text,
    };
    if parts.status != StatusCode::OK {
        return Err(unhealthy(
            String::from_utf8_lossy(&body).trim_end().to_owned(),
        ));
    }
    let health: Health = serde_json::from_slice(&body).map_err(|error| FetchError::Json {
        url: url.to_string(),
        error,
    })?;
    if !health.ok {
        return Err(unhealthy("the peer says that it is not healthy".to_owned()));
    }
    Ok(())
}
