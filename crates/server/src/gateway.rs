//! The JSON gateway: requests below `/v3/` become calls, and their answers JSON.
//!
//! A call is made within the process, through all that a call over a connection of its own goes through:
//! limits, metrics, authentication, deadlines, the log of what was slow. What JSON means is decided in
//! `ferrite-gateway`; here bytes are moved. A client's certificate is not passed on, so it says nothing
//! about who calls: tokens do.

mod answers;
mod form;
mod json;
mod socket;
mod source;

use std::sync::Arc;
use std::time::Duration;

use ::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, TE, TRAILER, WWW_AUTHENTICATE};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use bytes::Bytes;
use ferrite_gateway::{
    Broken, Form, Refused, Route, error_body, error_line, find, http_status, metadata_of, timeout,
    to_json, to_message,
};
use http_body::Frame;
use http_body_util::{Full, StreamBody};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::errors;
use crate::serve::Services;
use crate::service::stats::Remote;
use answers::{Answers, Lines};
use json::Json;
pub use source::Source;

/// JSON takes more bytes than the message that it stands for: a third more for base64, and names, quotes
/// and space. This many times a message's limit is read; more is taken for what it would come to.
const JSON_FACTOR: usize = 8;
/// Answers larger than this are turned into JSON beside the threads that serve.
const LARGE: usize = 256 << 10;
/// Digits in a call's time limit.
const DIGITS_MAX: i64 = 100_000_000;

/// What all calls of the gateway share.
#[derive(Debug, Clone)]
pub struct Gateway {
    /// Calls at once: the original's share one connection, and so its limit. `None` without one.
    places: Option<Arc<Semaphore>>,
}

impl Gateway {
    /// With so many calls at once.
    pub fn new(calls_max: u64) -> Self {
        let max = usize::try_from(calls_max).unwrap_or(usize::MAX);
        let places = (1..u32::MAX as usize).contains(&max);
        Gateway {
            places: places.then(|| Arc::new(Semaphore::new(max.min(Semaphore::MAX_PERMITS)))),
        }
    }

    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        let places = Arc::clone(self.places.as_ref()?);
        places.acquire_owned().await.ok()
    }
}

/// Answers a request for a path below `/v3/`.
pub async fn serve(
    services: &Arc<Services>,
    path: &str,
    mut request: Request<Incoming>,
    remote: &Remote,
) -> Response<Body> {
    if socket::is_asked(request.headers()) {
        return socket::open(services, path, &mut request, remote);
    }
    let (mut parts, body) = request.into_parts();
    let mut json = Json::Body(body);
    if let Some(method) = form::overridden(&parts) {
        // Whoever names another method in a header has sent a form, whatever it is.
        if let Err(refused) = form::read(&parts, &mut json).await {
            return error(refused.code, &refused.message, &parts.headers);
        }
        parts.method = method;
    }
    if !parts.headers.contains_key(HOST)
        && let Some(host) = parts.uri.authority()
        && let Ok(host) = HeaderValue::from_str(host.as_str())
    {
        parts.headers.insert(HOST, host);
    }
    answer(services, path, &parts.method, &parts.headers, json, remote).await
}

/// Answers what came over a connection of HTTP or a WebSocket.
async fn answer(
    services: &Services,
    path: &str,
    method: &Method,
    headers: &HeaderMap,
    mut json: Json,
    remote: &Remote,
) -> Response<Body> {
    let Some(route) = find(path) else {
        json.pass_over_some().await;
        return error(Code::NotFound.into(), "Not Found", headers);
    };
    if method != Method::POST {
        json.pass_over_some().await;
        return error(Code::Unimplemented.into(), "Method Not Allowed", headers);
    }
    match attempt(services, route, headers, json, remote).await {
        Ok(response) => response,
        Err(refused) => error(refused.code, &refused.message, headers),
    }
}

async fn attempt(
    services: &Services,
    route: Route,
    headers: &HeaderMap,
    mut json: Json,
    remote: &Remote,
) -> Result<Response<Body>, Refused> {
    let (inner, deadline) = inner_headers(headers)?;
    let limit = services.receive_max().saturating_mul(JSON_FACTOR);
    let (source, gone) = if route.method.asks_many {
        let (source, gone) = Source::messages(json, route.method.input, limit);
        (source, Some(gone))
    } else {
        let value = json.first_value(limit).await;
        let message = value.and_then(|value| match value {
            Some(value) => to_message(&value, route.method.input),
            // Nothing at all asks for what is asked by default.
            None => Ok(Vec::new()),
        });
        let message = match message {
            Ok(message) => message,
            Err(broken) => {
                json.pass_over_some().await;
                return Err(unreadable(broken, services.receive_max()));
            }
        };
        json.pass_over().await;
        (Source::message(&message), None)
    };
    let gateway = services.context().rules.gateway.as_ref();
    let place = async {
        match gateway {
            Some(gateway) => gateway.place().await,
            None => None,
        }
    };
    let place = match deadline {
        Some(deadline) => timeout_at(deadline, place).await.map_err(|_| late())?,
        None => place.await,
    };
    let mut request = Request::new(source);
    *request.method_mut() = Method::POST;
    *request.version_mut() = Version::HTTP_2;
    *request.uri_mut() = ::http::Uri::from_static(route.method.path);
    *request.headers_mut() = inner;
    request.extensions_mut().insert(remote.clone());
    let response = match services.answer(request, remote).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let mut answers = Answers::new(response, gone, place);
    if route.method.answers_many {
        return Ok(stream(answers, route, headers).await);
    }
    let refused = |status: Status| Refused {
        code: status.code().into(),
        message: status.message().to_owned(),
    };
    let message = answers
        .next()
        .await
        .map_err(refused)?
        .ok_or_else(|| Refused {
            code: Code::Internal.into(),
            message: "the call ended without an answer".to_owned(),
        })?;
    // What comes at the end may be an error nevertheless.
    answers.next().await.map_err(refused)?;
    // Whoever called over a connection would have given up by now.
    if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
        return Err(late());
    }
    drop(answers);
    let output = route.method.output;
    let written = if message.len() > LARGE {
        tokio::task::spawn_blocking(move || to_json(&message, output, Form::Body))
            .await
            .map_err(|_| Refused {
                code: Code::Internal.into(),
                message: errors::status(&ferrite_node::Error::Stopped)
                    .message()
                    .to_owned(),
            })?
    } else {
        to_json(&message, output, Form::Body)
    };
    let body = written.map_err(|broken| Refused {
        code: Code::Internal.into(),
        message: broken.to_string(),
    })?;
    let mut response = Response::new(Body::new(Full::new(Bytes::from(body))));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, JSON_TYPE);
    headers.insert(INNER_TYPE, GRPC_TYPE);
    Ok(response)
}

const JSON_TYPE: HeaderValue = HeaderValue::from_static("application/json");
const GRPC_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");
/// The content type of the call's own answer.
const INNER_TYPE: HeaderName = HeaderName::from_static("grpc-metadata-content-type");
const INNER_TRAILER: HeaderName = HeaderName::from_static("grpc-trailer-content-type");
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Answers with what a stream says. What it says first decides about the status.
async fn stream(mut answers: Answers, route: Route, headers: &HeaderMap) -> Response<Body> {
    let output = route.method.output;
    match answers.next().await {
        Ok(Some(message)) => {
            let lines = Lines::new(message, answers, output);
            let mut response = Response::new(Body::new(lines));
            let headers = response.headers_mut();
            headers.insert(CONTENT_TYPE, JSON_TYPE);
            headers.insert(INNER_TYPE, GRPC_TYPE);
            response
        }
        Ok(None) => Response::new(Body::empty()),
        Err(status) => {
            let line = error_line(status.code().into(), status.message());
            refusing(status.code().into(), line, headers, false)
        }
    }
}

/// The answer to a call that failed, or could not be made.
fn error(code: i32, message: &str, headers: &HeaderMap) -> Response<Body> {
    let mut response = refusing(code, error_body(code, message), headers, true);
    if code == i32::from(Code::Unauthenticated)
        && let Ok(message) = HeaderValue::from_str(message)
    {
        response.headers_mut().insert(WWW_AUTHENTICATE, message);
    }
    response
}

fn refusing(code: i32, body: Vec<u8>, headers: &HeaderMap, may_trail: bool) -> Response<Body> {
    let trails = may_trail
        && headers.get(TE).is_some_and(|accepted| {
            let accepted = accepted.as_bytes().to_ascii_lowercase();
            accepted.windows(8).any(|word| word == b"trailers")
        });
    let body = Bytes::from(body);
    let mut response = if trails {
        let trailers = HeaderMap::from_iter([(INNER_TRAILER, GRPC_TYPE)]);
        let frames = [Frame::data(body), Frame::trailers(trailers)];
        let frames = tokio_stream::iter(frames.map(Ok::<_, Status>));
        Response::new(Body::new(StreamBody::new(frames)))
    } else {
        Response::new(Body::new(Full::new(body)))
    };
    *response.status_mut() =
        StatusCode::from_u16(http_status(code)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, JSON_TYPE);
    if trails {
        let name = HeaderValue::from_static("Grpc-Trailer-Content-Type");
        headers.insert(TRAILER, name);
    }
    response
}

fn unreadable(broken: Broken, max: usize) -> Refused {
    match broken {
        Broken::Nonsense(message) => Refused {
            code: Code::InvalidArgument.into(),
            message,
        },
        Broken::TooLarge(size) => Refused {
            code: Code::ResourceExhausted.into(),
            message: format!("grpc: received message larger than max ({size} vs. {max})"),
        },
    }
}

fn late() -> Refused {
    Refused {
        code: Code::DeadlineExceeded.into(),
        message: errors::late().message().to_owned(),
    }
}

/// The headers of the call, and when its client gives up.
fn inner_headers(headers: &HeaderMap) -> Result<(HeaderMap, Option<Instant>), Refused> {
    let all = headers.iter();
    let metadata = metadata_of(all.map(|(name, value)| (name.as_str(), value.as_bytes())))?;
    let mut inner = HeaderMap::with_capacity(metadata.len() + 3);
    for (name, value) in metadata {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(&value))
        {
            inner.append(name, value);
        }
    }
    inner.insert(CONTENT_TYPE, GRPC_TYPE);
    inner.insert(TE, HeaderValue::from_static("trailers"));
    let limit = headers.get(TIMEOUT).filter(|limit| !limit.is_empty());
    let limit = limit.map_or(Ok(0), |limit| timeout(limit.as_bytes()))?;
    if limit < 0 {
        return Err(late());
    }
    if limit == 0 {
        return Ok((inner, None));
    }
    if let Ok(limit) = HeaderValue::try_from(in_few_digits(limit)) {
        inner.insert(TIMEOUT, limit);
    }
    let limit = Duration::from_nanos(limit.unsigned_abs());
    Ok((inner, Instant::now().checked_add(limit)))
}

/// A time limit as calls carry it, rounded up.
fn in_few_digits(nanoseconds: i64) -> String {
    let mut number = nanoseconds;
    for (unit, next) in [("n", 1000), ("u", 1000), ("m", 1000), ("S", 60), ("M", 60)] {
        if number < DIGITS_MAX {
            return format!("{number}{unit}");
        }
        number = number / next + i64::from(number % next != 0);
    }
    format!("{number}H")
}

/// The authorization that a WebSocket's headers stand for.
fn with_authorization(headers: &mut HeaderMap, text: &[u8]) {
    if let Ok(value) = HeaderValue::from_bytes(text) {
        headers.insert(AUTHORIZATION, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_limits_have_few_digits() {
        for (nanoseconds, wanted) in [
            (1, "1n"),
            (99_999_999, "99999999n"),
            (100_000_000, "100000u"),
            (1_500_000_001, "1500001u"),
            (3_600_000_000_000, "3600000m"),
            (i64::MAX, "2562048H"),
        ] {
            assert_eq!(in_few_digits(nanoseconds), wanted);
        }
    }

    #[test]
    fn the_number_of_calls_has_a_limit_where_one_is_set() {
        for (max, limited) in [(0, false), (1, true), (u64::from(u32::MAX), false)] {
            assert_eq!(Gateway::new(max).places.is_some(), limited, "{max}");
        }
    }
}
