//! Calls over a set of endpoints: which connection takes a call, and when it may be sent again.
//!
//! The rule: a read may be repeated when the answer was "unavailable" or the connection broke; a
//! write only while it is certain that no server has acted on it. Everything happens within the
//! call's deadline, and while none of the endpoints answers, a call waits for one rather than fail.

mod login;

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use ferrite_tls::{ClientTls, TlsInfo};
use http::header::{HeaderName, HeaderValue};
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, Request, Response, Uri, request::Parts};
use http_body_util::{BodyExt, Collected, Full};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower_service::Service;

use crate::config::Config;
use crate::dial;
use crate::endpoint::Endpoint;
use crate::error::{ConfigError, describe, local_deadline};
use crate::method::{self, Flow, Method};
use crate::observer::Noticed;

/// The first pause once every endpoint has been tried in vain; it doubles.
const BACKOFF_MIN: Duration = Duration::from_millis(25);
/// The longest such pause.
const BACKOFF_MAX: Duration = Duration::from_millis(500);
/// How long an endpoint that refused the first connection is left alone before it is dialled again; the pause
/// grows with each refusal. (The original's clients begin at a second and go up to two minutes.)
const REFUSED_PAUSE_MIN: Duration = Duration::from_millis(100);
/// By how much it grows.
const REFUSED_PAUSE_GROWTH: f64 = 1.6;
/// How far.
const REFUSED_PAUSE_MAX: Duration = Duration::from_secs(3);
/// An endpoint to which there was a connection is dialled so many times without such pauses: a member that
/// restarts is back within seconds, and its clients with it.
const FAST_REDIALS: u32 = 20;
/// How long an endpoint that failed is left alone by the dialling in the background.
const REDIAL_AFTER: Duration = Duration::from_secs(1);
/// A server's own "deadline exceeded" this close to ours is ours: it was told of it.
const DEADLINE_SLACK: Duration = Duration::from_millis(100);
/// gRPC's message prefix: a compression flag and the length.
const PREFIX_BYTES: usize = 5;

const TOKEN: HeaderName = HeaderName::from_static("token");
const HAS_LEADER: HeaderName = HeaderName::from_static("hasleader");
const API_VERSION: HeaderName = HeaderName::from_static("client-api-version");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// The service under the stubs; clones share the connections.
#[derive(Clone)]
pub struct Channel {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    slots: RwLock<Slots>,
    next: AtomicUsize,
    token: RwLock<Option<HeaderValue>>,
    credentials: RwLock<Option<login::Credentials>>,
}

/// The endpoints at one moment; a call keeps to those there were when it began.
type Slots = Arc<[Arc<Slot>]>;

/// One endpoint and its connection.
struct Slot {
    endpoint: Endpoint,
    state: Mutex<SlotState>,
    dialing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct SlotState {
    sender: Option<SendRequest<Body>>,
    failed_at: Option<Instant>,
    /// Dials in vain since the last connection.
    failures: u32,
    /// Whether there was a connection.
    established: bool,
    /// What the last dial failed with.
    error: String,
}

impl SlotState {
    /// The last error, while it is too soon to try again.
    fn too_soon(&self) -> Option<String> {
        let failed = self.failed_at?.elapsed();
        // How long a dial took differs between clients enough that they do not come back all at once.
        let spread = Duration::from_nanos(u64::from(failed.subsec_nanos() % 1_000) * 50_000);
        let pause = refused_pause(self.failures, self.established);
        (!pause.is_zero() && failed < pause + spread).then(|| self.error.clone())
    }
}

/// How long to leave an endpoint alone after so many failures.
fn refused_pause(failures: u32, established: bool) -> Duration {
    let free = if established { FAST_REDIALS } else { 0 };
    match failures.saturating_sub(free) {
        0 => Duration::ZERO,
        // Beyond that many it has reached its end.
        counted => REFUSED_PAUSE_MIN
            .mul_f64(REFUSED_PAUSE_GROWTH.powi(counted.min(20).cast_signed() - 1))
            .min(REFUSED_PAUSE_MAX),
    }
}

/// How one attempt ended.
enum Attempt {
    /// With a response to hand on.
    Done(Response<Body>),
    /// With a failure that allows another attempt.
    Again(String),
    /// With a refusal of the token; another one may be taken.
    TokenRefused(Status),
    /// With a failure that does not.
    Failed(Status),
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel")
            .field("endpoints", &self.shared.config.endpoints)
            .finish_non_exhaustive()
    }
}

impl Channel {
    pub(crate) fn new(mut config: Config) -> Result<Self, ConfigError> {
        if config.endpoints.is_empty() {
            return Err(ConfigError::NoEndpoints);
        }
        let slots = config
            .endpoints
            .iter()
            .map(|text| Slot::new(Endpoint::parse(text)))
            .collect::<Vec<_>>();
        if config.tls.is_none() && slots.iter().any(|slot| slot.endpoint.asks_for_tls()) {
            let tls = ClientTls::new(&TlsInfo::default(), &["h2"])?;
            config.tls = Some(Arc::new(tls));
        }
        let token = match &config.token {
            Some(token) => {
                Some(HeaderValue::try_from(token.as_str()).map_err(|_| ConfigError::Token)?)
            }
            None => None,
        };
        Ok(Self {
            shared: Arc::new(Shared {
                config,
                slots: RwLock::new(slots.into()),
                next: AtomicUsize::new(0),
                token: RwLock::new(token),
                credentials: RwLock::default(),
            }),
        })
    }

    /// The settings this channel was made with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// The token that calls carry now.
    #[must_use]
    pub fn token(&self) -> Option<String> {
        let token = self
            .shared
            .token
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        token
            .as_ref()
            .and_then(|t| t.to_str().ok().map(str::to_owned))
    }

    /// Sets or clears the token; one that cannot stand in a header clears it.
    pub fn set_token(&self, token: Option<String>) {
        let value = token.and_then(|t| HeaderValue::try_from(t).ok());
        *self
            .shared
            .token
            .write()
            .unwrap_or_else(PoisonError::into_inner) = value;
    }

    /// From now on calls go to these endpoints; connections to those that stay are kept.
    ///
    /// # Errors
    /// None is given; nothing has changed then.
    pub fn set_endpoints(&self, endpoints: &[String]) -> Result<(), ConfigError> {
        let endpoints: Vec<_> = endpoints.iter().map(|text| Endpoint::parse(text)).collect();
        if endpoints.is_empty() {
            return Err(ConfigError::NoEndpoints);
        }
        let known = self.shared.slots();
        let slots: Vec<Arc<Slot>> = endpoints
            .into_iter()
            .map(|endpoint| {
                let same = known.iter().find(|slot| slot.endpoint == endpoint);
                same.map_or_else(|| Slot::new(endpoint.clone()), Arc::clone)
            })
            .collect();
        *self
            .shared
            .slots
            .write()
            .unwrap_or_else(PoisonError::into_inner) = slots.into();
        Ok(())
    }

    pub(crate) async fn dial_any(&self) -> Result<(), ConfigError> {
        let slots = self.shared.slots();
        let excluded = vec![false; slots.len()];
        match self.shared.pick(&slots, &excluded).await {
            Ok(_) => Ok(()),
            Err(error) => Err(ConfigError::Dial(error)),
        }
    }
}

impl Slot {
    fn new(endpoint: Endpoint) -> Arc<Self> {
        Arc::new(Slot {
            endpoint,
            state: Mutex::default(),
            dialing: tokio::sync::Mutex::default(),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, SlotState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn connected(&self) -> Option<SendRequest<Body>> {
        let state = self.lock();
        state.sender.as_ref().filter(|s| !s.is_closed()).cloned()
    }

    fn drop_connection(&self) {
        self.lock().sender = None;
    }

    fn may_redial(&self) -> bool {
        self.lock()
            .failed_at
            .is_none_or(|at| at.elapsed() >= REDIAL_AFTER)
    }

    /// The connection, dialled if need be; concurrent callers share one attempt.
    async fn connect(&self, config: &Config) -> Result<SendRequest<Body>, String> {
        let _dialing = self.dialing.lock().await;
        if let Some(sender) = self.connected() {
            return Ok(sender);
        }
        if let Some(error) = self.lock().too_soon() {
            return Err(error);
        }
        let result = dial::dial(&self.endpoint, config).await;
        if let Err(error) = &result {
            let error = error.clone();
            config.observer.tell(|| Noticed::Dial { error });
        }
        let mut state = self.lock();
        match &result {
            Ok(sender) => {
                state.sender = Some(sender.clone());
                state.failed_at = None;
                state.failures = 0;
                state.established = true;
            }
            Err(error) => {
                state.sender = None;
                state.failures = state.failures.saturating_add(1);
                state.error.clone_from(error);
                state.failed_at = Some(Instant::now());
            }
        }
        result
    }
}

impl Shared {
    fn slots(&self) -> Slots {
        let slots = self.slots.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&slots)
    }

    /// A connection to an endpoint that is not excluded: round robin among those that stand, else
    /// whichever of the others answers first.
    async fn pick(
        self: &Arc<Self>,
        slots: &Slots,
        excluded: &[bool],
    ) -> Result<(usize, SendRequest<Body>), String> {
        let count = slots.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed);
        let mut chosen = None;
        let mut idle = Vec::new();
        for offset in 0..count {
            let index = first.wrapping_add(offset) % count;
            if excluded.get(index).copied().unwrap_or(false) {
                continue;
            }
            match slots[index].connected() {
                Some(sender) if chosen.is_none() => chosen = Some((index, sender)),
                Some(_) => {}
                None => idle.push(index),
            }
        }
        if let Some(chosen) = chosen {
            // Endpoints that came back join the round without anybody waiting for them.
            for index in idle {
                let slot = &slots[index];
                if slot.may_redial() && slot.dialing.try_lock().is_ok() {
                    let (shared, slot) = (Arc::clone(self), Arc::clone(slot));
                    tokio::spawn(async move {
                        let _ = slot.connect(&shared.config).await;
                    });
                }
            }
            return Ok(chosen);
        }
        if let [index] = idle[..] {
            let sender = slots[index].connect(&self.config).await?;
            return Ok((index, sender));
        }
        let (results_tx, mut results) = mpsc::channel(idle.len().max(1));
        for index in idle {
            let (shared, results_tx) = (Arc::clone(self), results_tx.clone());
            let slots = Arc::clone(slots);
            tokio::spawn(async move {
                let result = slots[index].connect(&shared.config).await;
                // The caller may have gone with an earlier answer; the connection stays.
                let _ = results_tx.send((index, result)).await;
            });
        }
        drop(results_tx);
        let mut last = "every endpoint has failed".to_owned();
        while let Some((index, result)) = results.recv().await {
            match result {
                Ok(sender) => return Ok((index, sender)),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn put_headers(&self, headers: &mut HeaderMap, timeout: Option<Duration>) {
        // A caller may say something else; tests do.
        headers
            .entry(API_VERSION)
            .or_insert(HeaderValue::from_static(crate::API_VERSION));
        if self.config.require_leader {
            headers.insert(HAS_LEADER, HeaderValue::from_static("true"));
        }
        let token = self.token.read().unwrap_or_else(PoisonError::into_inner);
        if let (Some(token), false) = (token.as_ref(), headers.contains_key(TOKEN)) {
            headers.insert(TOKEN, token.clone());
        }
        if let Some(timeout) = timeout
            && let Ok(value) = HeaderValue::try_from(grpc_timeout(timeout))
        {
            headers.insert(GRPC_TIMEOUT, value);
        }
    }

    async fn call(self: Arc<Self>, request: Request<Body>) -> Result<Response<Body>, Status> {
        let method = method::of(request.uri().path());
        let (mut parts, body) = request.into_parts();
        let asked = parts
            .headers
            .remove(GRPC_TIMEOUT)
            .and_then(|v| parse_grpc_timeout(v.to_str().ok()?));
        let timeout = match method.flow {
            Flow::Unary => asked.or(self.config.call_timeout),
            // A stream lives as long as it is wanted.
            Flow::ServerStream | Flow::Bidi => asked,
        };
        let deadline = timeout.map(|t| Instant::now() + t);
        if method.flow != Flow::Unary {
            // A stream cannot be repeated once it has begun: it begins with a fresh token.
            self.log_in().await?;
        }
        if method.flow == Flow::Bidi {
            return self.open_stream(parts, body, timeout).await;
        }
        let body = body.collect().await?.to_bytes();
        let size = body.len().saturating_sub(PREFIX_BYTES);
        if size > self.config.max_send_bytes {
            return Err(Status::resource_exhausted(format!(
                "trying to send message larger than max ({size} vs. {})",
                self.config.max_send_bytes
            )));
        }
        let (mut last, mut attempts) = (None, 0);
        let work = self.repeat(method, &parts, body, deadline, &mut last, &mut attempts);
        let result = match deadline {
            None => work.await,
            Some(deadline) => match tokio::time::timeout_at(deadline, work).await {
                Ok(result) => result,
                Err(_) => {
                    let why = last
                        .clone()
                        .unwrap_or_else(|| "no answer in time".to_owned());
                    let why = format!("rpc error: code = DeadlineExceeded desc = {why}");
                    self.tell(&parts, attempts, &why);
                    return Err(local_deadline(last));
                }
            },
        };
        if let Err(status) = &result
            && status.code() == Code::DeadlineExceeded
            && deadline.is_some_and(|d| Instant::now() + DEADLINE_SLACK >= d)
        {
            self.tell(&parts, attempts, &describe(status));
            // What went wrong before says more than that the time is up.
            let why = last.unwrap_or_else(|| status.message().to_owned());
            return Err(local_deadline(Some(why)));
        }
        result
    }

    /// Attempts a buffered request until it is answered or must not be sent again.
    async fn repeat(
        self: &Arc<Self>,
        method: Method,
        parts: &Parts,
        body: Bytes,
        deadline: Option<Instant>,
        last: &mut Option<String>,
        attempts: &mut u32,
    ) -> Result<Response<Body>, Status> {
        let slots = self.slots();
        let mut excluded = vec![false; slots.len()];
        let mut backoff = BACKOFF_MIN;
        let mut logins = 0;
        // A stream has no deadline, but opening it must not go on for ever.
        let give_up = match (deadline, method.flow) {
            (None, Flow::ServerStream) => self.config.call_timeout.or(self.config.patience),
            (None, Flow::Unary | Flow::Bidi) => self.config.patience,
            (Some(_), _) => None,
        };
        let give_up = give_up.map(|t| Instant::now() + t);
        loop {
            let picked = self.pick(&slots, &excluded).await;
            match picked {
                Ok((index, sender)) => {
                    let left = deadline.map(|d| d.saturating_duration_since(Instant::now()));
                    let body = Body::new(Full::new(body.clone()));
                    let request = self.request(&slots[index], parts, body, left);
                    match self.attempt(method, &slots, index, sender, request).await {
                        Attempt::Done(response) => return Ok(response),
                        Attempt::Failed(status) => return Err(status),
                        Attempt::Again(why) => {
                            let told = format!("rpc error: code = Unavailable desc = {why}");
                            self.tell(parts, *attempts, &told);
                            *attempts += 1;
                            *last = Some(why);
                            excluded[index] = true;
                        }
                        Attempt::TokenRefused(status) => {
                            if logins == login::LOGINS_MAX || parts.uri.path() == login::PATH {
                                return Err(status);
                            }
                            if logins > 0 {
                                tokio::time::sleep(backoff).await;
                            }
                            self.tell(parts, *attempts, &describe(&status));
                            *attempts += 1;
                            logins += 1;
                            *last = Some(status.message().to_owned());
                            self.log_in().await?;
                        }
                    }
                }
                Err(why) => {
                    *last = Some(why);
                    excluded.fill(true);
                }
            }
            if excluded.iter().all(|e| *e) {
                if give_up.is_some_and(|at| Instant::now() >= at) {
                    return Err(Status::unavailable(last.take().unwrap_or_default()));
                }
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
                excluded.fill(false);
            }
        }
    }

    /// Tells whoever observes that an attempt failed.
    fn tell(&self, parts: &Parts, attempt: u32, error: &str) {
        self.config.observer.tell(|| Noticed::Attempt {
            target: self.config.endpoints.first().cloned().unwrap_or_default(),
            method: parts.uri.path().to_owned(),
            attempt,
            error: error.to_owned(),
        });
    }

    async fn open_stream(
        self: Arc<Self>,
        parts: Parts,
        body: Body,
        timeout: Option<Duration>,
    ) -> Result<Response<Body>, Status> {
        let slots = self.slots();
        let excluded = vec![false; slots.len()];
        let mut backoff = BACKOFF_MIN;
        let give_up = self.config.call_timeout.or(self.config.patience);
        let give_up = give_up.map(|t| Instant::now() + t);
        let (index, sender) = loop {
            match self.pick(&slots, &excluded).await {
                Ok(picked) => break picked,
                Err(why) if give_up.is_some_and(|at| Instant::now() >= at) => {
                    return Err(Status::unavailable(why));
                }
                Err(_) => tokio::time::sleep(backoff).await,
            }
            backoff = (backoff * 2).min(BACKOFF_MAX);
        };
        let request = self.request(&slots[index], &parts, body, timeout);
        let mut sender = sender;
        match sender.send_request(request).await {
            Ok(response) => Ok(response.map(Body::new)),
            Err(error) => {
                slots[index].drop_connection();
                Err(Status::unavailable(chain(&error)))
            }
        }
    }

    fn request(
        &self,
        slot: &Slot,
        parts: &Parts,
        body: Body,
        timeout: Option<Duration>,
    ) -> Request<Body> {
        let mut request = Request::new(body);
        *request.method_mut() = parts.method.clone();
        *request.version_mut() = parts.version;
        let mut uri = http::uri::Parts::default();
        let endpoint = &slot.endpoint;
        uri.scheme = Some(match dial::tls_for(endpoint, &self.config) {
            Some(_) => Scheme::HTTPS,
            None => Scheme::HTTP,
        });
        uri.authority = Some(endpoint.authority());
        uri.path_and_query = Some(
            parts
                .uri
                .path_and_query()
                .cloned()
                .unwrap_or_else(|| PathAndQuery::from_static("/")),
        );
        *request.uri_mut() = Uri::from_parts(uri).unwrap_or_default();
        request.headers_mut().clone_from(&parts.headers);
        self.put_headers(request.headers_mut(), timeout);
        request
    }

    async fn attempt(
        &self,
        method: Method,
        slots: &Slots,
        index: usize,
        mut sender: SendRequest<Body>,
        request: Request<Body>,
    ) -> Attempt {
        let response = match sender.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => {
                let unsent = error.take_message().is_some();
                let error = error.into_error();
                return self.broken(method, &slots[index], unsent || refused(&error), &error);
            }
        };
        if let Some(again) = self.retryable(method, slots.len(), response.headers()) {
            return again;
        }
        if method.flow == Flow::ServerStream {
            return Attempt::Done(response.map(Body::new));
        }
        let (head, body) = response.into_parts();
        match collect(body, self.config.max_recv_bytes).await {
            Ok(collected) => {
                if let Some(again) = collected
                    .trailers()
                    .and_then(|t| self.retryable(method, slots.len(), t))
                {
                    return again;
                }
                Attempt::Done(Response::from_parts(head, Body::new(collected)))
            }
            Err(Unread::TooLarge(size)) => Attempt::Failed(Status::resource_exhausted(format!(
                "grpc: received message larger than max ({size} vs. {})",
                self.config.max_recv_bytes
            ))),
            Err(Unread::Broken(error)) => self.broken(method, &slots[index], false, &error),
        }
    }

    /// The connection broke; `unsent` if no server can have acted on the request.
    fn broken(&self, method: Method, slot: &Slot, unsent: bool, error: &hyper::Error) -> Attempt {
        slot.drop_connection();
        let why = format!("connection to {}: {}", slot.endpoint, chain(error));
        if unsent || method.read {
            Attempt::Again(why)
        } else {
            Attempt::Failed(Status::unavailable(format!(
                "{why}; the write may have happened"
            )))
        }
    }

    /// Another attempt, if the status says that the call may be repeated.
    fn retryable(&self, method: Method, members: usize, headers: &HeaderMap) -> Option<Attempt> {
        let code = Code::from_bytes(headers.get(GRPC_STATUS)?.as_bytes());
        if code == Code::Ok {
            return None;
        }
        let status = Status::from_header_map(headers)?;
        if self.refuses_token(&status) {
            return Some(Attempt::TokenRefused(status));
        }
        let again = match code {
            // Without a leader nothing was proposed.
            Code::Unavailable => method.read || status.message() == "etcdserver: no leader",
            // Another endpoint may be a voter.
            Code::FailedPrecondition => {
                members > 1 && status.message() == "etcdserver: rpc not supported for learner"
            }
            _ => false,
        };
        again.then(|| Attempt::Again(status.message().to_owned()))
    }
}

enum Unread {
    TooLarge(usize),
    Broken(hyper::Error),
}

/// Reads a whole response, as long as its message stays within the limit.
async fn collect(mut body: Incoming, limit: usize) -> Result<Collected<Bytes>, Unread> {
    // Peek at the length prefix before keeping anything large.
    let mut frames: Vec<http_body::Frame<Bytes>> = Vec::new();
    let mut prefix = Vec::with_capacity(PREFIX_BYTES);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(Unread::Broken)?;
        if let Some(data) = frame.data_ref()
            && prefix.len() < PREFIX_BYTES
        {
            prefix.extend(data.iter().take(PREFIX_BYTES - prefix.len()));
            if let [_, a, b, c, d] = prefix[..] {
                let size = u32::from_be_bytes([a, b, c, d]) as usize;
                if size > limit {
                    return Err(Unread::TooLarge(size));
                }
            }
        }
        frames.push(frame);
    }
    let stream = tokio_stream::iter(frames.into_iter().map(Ok::<_, std::convert::Infallible>));
    match http_body_util::StreamBody::new(stream).collect().await {
        Ok(collected) => Ok(collected),
        Err(never) => match never {},
    }
}

/// Whether the server said that it never looked at the request.
fn refused(error: &hyper::Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.reason() == Some(h2::Reason::REFUSED_STREAM);
        }
        source = error.source();
    }
    false
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

/// gRPC's timeout header: at most eight digits and a unit, rounded up so that the server does not
/// give up first.
fn grpc_timeout(timeout: Duration) -> String {
    const DIGITS: u128 = 100_000_000;
    for (unit, nanos) in [("n", 1u128), ("u", 1_000), ("m", 1_000_000)] {
        let count = timeout.as_nanos().div_ceil(nanos);
        if count < DIGITS {
            return format!("{count}{unit}");
        }
    }
    format!(
        "{}S",
        timeout.as_nanos().div_ceil(1_000_000_000).min(DIGITS - 1)
    )
}

fn parse_grpc_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "n" => Duration::from_nanos(count),
        "u" => Duration::from_micros(count),
        "m" => Duration::from_millis(count),
        "S" => Duration::from_secs(count),
        "M" => Duration::from_secs(count.checked_mul(60)?),
        "H" => Duration::from_secs(count.checked_mul(3600)?),
        _ => return None,
    })
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Status>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(Arc::clone(&self.shared).call(request))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_refuses_is_left_alone_longer_and_longer_and_who_was_there_is_not() {
        let pauses: Vec<u128> = (0..10)
            .map(|failures| refused_pause(failures, false).as_millis())
            .collect();
        assert_eq!(pauses, [0, 100, 160, 256, 409, 655, 1048, 1677, 2684, 3000]);
        assert_eq!(refused_pause(u32::MAX, false), REFUSED_PAUSE_MAX);
        assert_eq!(refused_pause(FAST_REDIALS, true), Duration::ZERO);
        assert_eq!(refused_pause(FAST_REDIALS + 1, true), REFUSED_PAUSE_MIN);
    }

    #[test]
    fn timeouts_survive_the_header() {
        for timeout in [
            Duration::from_nanos(1),
            Duration::from_millis(4999),
            Duration::from_secs(5),
            Duration::from_secs(86_400),
        ] {
            let text = grpc_timeout(timeout);
            assert!(text.len() <= 9, "{text}");
            assert!(
                parse_grpc_timeout(&text).is_some_and(|t| t >= timeout),
                "{text}"
            );
        }
        assert_eq!(parse_grpc_timeout("5"), None);
        assert_eq!(parse_grpc_timeout(""), None);
        assert_eq!(parse_grpc_timeout("5é"), None);
    }
}
