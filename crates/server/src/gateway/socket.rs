//! WebSockets: what a client says goes on as JSON, a line that is answered is a message.
//!
//! They open for every path, as in the original, and end with the call: without a word when the call ends
//! first, which is the original's way too.

use std::sync::Arc;

use ::http::header::{
    CONNECTION, CONTENT_TYPE, COOKIE, ORIGIN, REFERER, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use bytes::Bytes;
use ferrite_gateway::websocket::{Broken, Frames, Said, accept, closing, is_key, pong, text};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{Mutex, mpsc};
use tonic::body::Body;

use super::json::Json;
use super::{JSON_FACTOR, answer, with_authorization};
use crate::door::Afterwards;
use crate::serve::Services;
use crate::service::stats::Remote;

/// The only version there is.
const VERSION: HeaderValue = HeaderValue::from_static("13");
/// The protocol by which browsers send a token: they can set no other header.
const BEARER: &str = "Bearer";
/// The cookie with a token.
const COOKIE_NAME: &str = "token";
/// Bytes read at a time.
const READ: usize = 16 << 10;

type Connection = TokioIo<hyper::upgrade::Upgraded>;
/// Both sides write: answers, and what the protocol itself has to say.
type Writer = Mutex<WriteHalf<Connection>>;

/// One of the words in all headers of a name.
fn says(headers: &HeaderMap, name: HeaderName, word: &str) -> bool {
    headers.get_all(name).iter().any(|value| {
        let words = value.to_str().unwrap_or_default().split(',');
        words
            .into_iter()
            .any(|said| said.trim().eq_ignore_ascii_case(word))
    })
}

/// Whether a request wants a WebSocket.
pub fn is_asked(headers: &HeaderMap) -> bool {
    says(headers, CONNECTION, "upgrade") && says(headers, UPGRADE, "websocket")
}

/// Opens one, or says why not.
pub fn open(
    services: &Arc<Services>,
    path: &str,
    request: &mut Request<Incoming>,
    remote: &Remote,
) -> Response<Body> {
    if request.method() != Method::GET {
        return refused(StatusCode::METHOD_NOT_ALLOWED);
    }
    let headers = request.headers();
    let key = headers.get(SEC_WEBSOCKET_KEY);
    let key = key
        .and_then(|key| key.to_str().ok())
        .filter(|key| is_key(key));
    if !says(headers, SEC_WEBSOCKET_VERSION, "13") {
        return refused(StatusCode::BAD_REQUEST);
    }
    let Some(accepted) = key.and_then(|key| HeaderValue::try_from(accept(key)).ok()) else {
        return refused(StatusCode::BAD_REQUEST);
    };
    let protocol = headers.get(SEC_WEBSOCKET_PROTOCOL);
    let bearer = protocol.is_some_and(|text| text.as_bytes().starts_with(BEARER.as_bytes()));
    let inner = inner_headers(headers);
    let Some(afterwards) = request.extensions().get::<Afterwards>().cloned() else {
        return refused(StatusCode::INTERNAL_SERVER_ERROR);
    };
    let upgrade = hyper::upgrade::on(request);
    let (services, path, remote) = (Arc::clone(services), path.to_owned(), remote.clone());
    afterwards.set(async move {
        if let Ok(connection) = upgrade.await {
            talk(&services, &path, &inner, TokioIo::new(connection), &remote).await;
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accepted);
    if bearer {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(BEARER));
    }
    response
}

fn refused(status: StatusCode) -> Response<Body> {
    let reason = status.canonical_reason().unwrap_or_default();
    let mut response = Response::new(Body::new(Full::new(Bytes::from(format!("{reason}\n")))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    headers.insert(
        "X-Content-Type-Options",
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(SEC_WEBSOCKET_VERSION, VERSION);
    response
}

/// What of the headers goes on: who calls, and from which page.
fn inner_headers(headers: &HeaderMap) -> HeaderMap {
    let mut inner = HeaderMap::new();
    if let Some(protocol) = headers.get(SEC_WEBSOCKET_PROTOCOL)
        && !protocol.is_empty()
    {
        let protocol = String::from_utf8_lossy(protocol.as_bytes());
        // Whoever names another protocol has a token too, which is nobody's.
        let token = match protocol.split_once("Bearer,") {
            Some((_, token)) => format!("Bearer {}", token.trim_matches(' ')),
            None => String::new(),
        };
        with_authorization(&mut inner, token.as_bytes());
    }
    for name in [ORIGIN, REFERER] {
        if let Some(value) = headers.get(&name) {
            inner.insert(name, value.clone());
        }
    }
    if let Some(token) = cookie(headers) {
        with_authorization(&mut inner, format!("Bearer {token}").as_bytes());
    }
    inner
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    headers.get_all(COOKIE).iter().find_map(|cookies| {
        let cookies = cookies.to_str().ok()?.split(';');
        cookies.into_iter().find_map(|cookie| {
            let value = cookie.trim().strip_prefix(COOKIE_NAME)?.strip_prefix('=')?;
            let inner = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
            Some(inner.unwrap_or(value))
        })
    })
}

async fn talk(
    services: &Services,
    path: &str,
    headers: &HeaderMap,
    connection: Connection,
    remote: &Remote,
) {
    let (reader, writer) = tokio::io::split(connection);
    let writer = Mutex::new(writer);
    let limit = services.receive_max().saturating_mul(JSON_FACTOR);
    // One at a time: who sends faster than the call takes waits at the socket.
    let (messages, json) = mpsc::channel(1);
    let answering = async {
        let json = Json::Socket(json);
        let response = answer(services, path, &Method::POST, headers, json, remote).await;
        let mut body = response.into_body();
        while let Some(Ok(frame)) = body.frame().await {
            let Ok(lines) = frame.into_data() else {
                continue;
            };
            for line in lines.split(|byte| *byte == b'\n') {
                if !line.is_empty() && writer.lock().await.write_all(&text(line)).await.is_err() {
                    return;
                }
            }
            if writer.lock().await.flush().await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = answering => {}
        () = listen(reader, &writer, messages, limit) => {}
    }
    let _gone = writer.lock().await.shutdown().await;
}

/// Passes on what the client says, until it is over.
async fn listen(
    mut reader: ReadHalf<Connection>,
    writer: &Writer,
    messages: mpsc::Sender<Bytes>,
    limit: usize,
) {
    let mut frames = Frames::new(limit);
    let mut piece = vec![0; READ];
    loop {
        let reply = match frames.next_said() {
            Ok(Some(Said::Message(mut message))) => {
                message.push(b'\n');
                // Whoever took the messages may want no more; the rest is heard nevertheless.
                let _unwanted = messages.send(message.into()).await;
                continue;
            }
            Ok(Some(Said::Pong)) => continue,
            Ok(Some(Said::Ping(payload))) => pong(&payload),
            Ok(Some(Said::Close(reason))) => return goodbye(writer, reason).await,
            Ok(None) => {
                match reader.read(&mut piece).await {
                    Ok(0) | Err(_) => return,
                    Ok(count) => frames.push(piece.get(..count).unwrap_or_default()),
                }
                continue;
            }
            Err(broken) => {
                tracing::debug!(error = %broken, "error reading websocket message");
                return goodbye(writer, Some(Broken::reason(broken))).await;
            }
        };
        let mut writer = writer.lock().await;
        if writer.write_all(&reply).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
}

async fn goodbye(writer: &Writer, reason: Option<u16>) {
    let mut writer = writer.lock().await;
    // Whoever is gone already hears nothing.
    let _gone = writer.write_all(&closing(reason)).await;
    let _gone = writer.flush().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        pairs.collect()
    }

    #[test]
    fn a_token_comes_by_protocol_or_cookie() {
        for (pairs, wanted) in [
            (&[][..], None),
            (
                &[("sec-websocket-protocol", "Bearer, a.1")],
                Some("Bearer a.1"),
            ),
            (
                &[("sec-websocket-protocol", "Bearer,a.1")],
                Some("Bearer a.1"),
            ),
            (&[("sec-websocket-protocol", "chat")], Some("")),
            (&[("cookie", "x=y; token=b.2")], Some("Bearer b.2")),
            (
                &[
                    ("sec-websocket-protocol", "Bearer, a.1"),
                    ("cookie", "token=\"b.2\""),
                ],
                Some("Bearer b.2"),
            ),
            (&[("authorization", "a.1"), ("accept", "*/*")], None),
        ] {
            let inner = inner_headers(&headers(pairs));
            let token = inner
                .get("authorization")
                .map(|value| value.to_str().unwrap_or_default());
            assert_eq!(token, wanted, "{pairs:?}");
        }
        let inner = inner_headers(&headers(&[("origin", "http://a"), ("host", "b")]));
        assert_eq!(inner.len(), 1);
    }

    #[test]
    fn upgrades_are_asked_for_in_two_headers() {
        let asks = |pairs| is_asked(&headers(pairs));
        assert!(asks(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket")
        ]));
        assert!(!asks(&[
            ("connection", "keep-alive"),
            ("upgrade", "websocket")
        ]));
        assert!(!asks(&[("connection", "upgrade"), ("upgrade", "h2c")]));
    }
}
