//! A small HTTP/1.1 client: one request at a time on one connection.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;

use crate::body::{Body, full_body};
use crate::conn::{ConnState, Connector, DeadlineIo, Dialer, dial};
use crate::url::PeerUrl;

/// Why a request to a peer failed.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No URL was given, or it cannot be used.
    #[error("{0}")]
    Url(String),
    /// The connection could not be made.
    #[error("{0}")]
    Dial(std::io::Error),
    /// The request or its answer was cut off.
    #[error("{}", chain(.0))]
    Http(#[from] hyper::Error),
    /// The request cannot be put into HTTP.
    #[error("failed to make http request: {0}")]
    Request(#[from] http::Error),
    /// No answer in time.
    #[error("no answer from {url} within {limit:?}")]
    Timeout {
        /// Who was asked.
        url: String,
        /// How long was waited.
        limit: Duration,
    },
    /// The answer is longer than allowed.
    #[error("the answer is longer than {0} bytes")]
    TooLarge(usize),
    /// An answer other than 200.
    #[error("unexpected http status {status} from {url}: {text}")]
    Status {
        /// Who was asked.
        url: String,
        /// The status.
        status: StatusCode,
        /// The first part of the body.
        text: String,
    },
    /// The body is not the JSON that was asked for.
    #[error("cannot parse the answer of {url}: {error}")]
    Json {
        /// Who was asked.
        url: String,
        /// What is wrong.
        error: serde_json::Error,
    },
}

/// An error with its causes: hyper's own words name the class, the cause names the fact.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let more = e.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = e.source();
    }
    text
}

/// A connection that is driven by whoever uses it, so that no second task is woken for each packet.
pub(crate) struct Conn {
    sender: http1::SendRequest<Body>,
    driver: Option<http1::Connection<TokioIo<DeadlineIo>, Body>>,
}

/// Deadlines of a dialled connection.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) dial: Duration,
    pub(crate) read: Option<Duration>,
    pub(crate) write: Option<Duration>,
}

impl Conn {
    pub(crate) async fn open(
        connector: &dyn Connector,
        url: &PeerUrl,
        limits: Limits,
    ) -> Result<Conn, FetchError> {
        let io = dial(connector, url, limits.dial)
            .await
            .map_err(FetchError::Dial)?;
        let io = DeadlineIo::new(
            io,
            Arc::new(ConnState::default()),
            limits.read,
            limits.write,
        );
        let (sender, driver) = http1::handshake(TokioIo::new(io)).await?;
        Ok(Conn {
            sender,
            driver: Some(driver),
        })
    }

    /// Runs `work` and the connection together until `work` is done.
    async fn drive<T>(&mut self, work: impl Future<Output = T>) -> Option<T> {
        drive(&mut self.driver, work).await
    }

    pub(crate) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, FetchError> {
        let work = self.sender.send_request(request);
        match drive(&mut self.driver, work).await {
            Some(result) => Ok(result?),
            None => Err(FetchError::Dial(closed())),
        }
    }

    /// The next bytes of a body; `None` at its end.
    pub(crate) async fn chunk(&mut self, body: &mut Incoming) -> Result<Option<Bytes>, FetchError> {
        loop {
            match self.drive(body.frame()).await {
                None => return Err(FetchError::Dial(closed())),
                Some(None) => return Ok(None),
                Some(Some(Err(e))) => return Err(e.into()),
                Some(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// A whole body of at most `limit` bytes.
    pub(crate) async fn collect(
        &mut self,
        body: &mut Incoming,
        limit: usize,
    ) -> Result<Bytes, FetchError> {
        let mut out = BytesMut::new();
        while let Some(chunk) = self.chunk(body).await? {
            if out.len() + chunk.len() > limit {
                return Err(FetchError::TooLarge(limit));
            }
            out.extend_from_slice(&chunk);
        }
        Ok(out.freeze())
    }

    /// Whether another request can be sent. Finds out about a connection closed meanwhile.
    pub(crate) async fn ready(mut self) -> Option<Conn> {
        // Nobody drove the connection while it was kept: let it see whether the other side has closed it.
        let over = std::future::poll_fn(|cx| {
            let driver = self.driver.as_mut();
            Poll::Ready(driver.is_none_or(|conn| Pin::new(conn).poll(cx).is_ready()))
        });
        if over.await {
            return None;
        }
        let work = self.sender.ready();
        let ready = matches!(drive(&mut self.driver, work).await, Some(Ok(())));
        ready.then_some(self)
    }
}

fn closed() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "unexpected EOF")
}

async fn drive<T>(
    driver: &mut Option<http1::Connection<TokioIo<DeadlineIo>, Body>>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = std::pin::pin!(work);
    std::future::poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(done));
        }
        let Some(conn) = driver.as_mut() else {
            return Poll::Ready(None);
        };
        if Pin::new(conn).poll(cx).is_ready() {
            *driver = None;
            // The end of the connection is also told to the work, with its reason.
            return match work.as_mut().poll(cx) {
                Poll::Ready(done) => Poll::Ready(Some(done)),
                Poll::Pending => Poll::Ready(None),
            };
        }
        // Driving may have made the work ready.
        work.as_mut().poll(cx).map(Some)
    })
    .await
}

/// An answer read whole.
#[derive(Clone, Debug)]
pub struct HttpReply {
    /// Status code.
    pub status: StatusCode,
    /// Headers.
    pub headers: HeaderMap,
    /// Body.
    pub body: Bytes,
}

/// A client for the small requests between servers: `/members`, `/version`, `/leases` and the like.
/// Every request makes its own connection.
#[derive(Clone)]
pub struct HttpClient {
    connector: Arc<dyn Connector>,
    timeout: Duration,
    body_limit: usize,
}

impl HttpClient {
    /// A client whose requests, the connection included, take at most `timeout`, and whose answers
    /// are at most `body_limit` bytes long.
    pub fn new(dialer: &Dialer, timeout: Duration, body_limit: usize) -> HttpClient {
        HttpClient {
            connector: Arc::clone(&dialer.0),
            timeout,
            body_limit,
        }
    }

    /// Sends one request to one peer and reads the answer, whatever its status.
    ///
    /// # Errors
    /// The URL cannot be used, the peer cannot be reached or does not answer in time, or the answer is too long.
    pub async fn request(
        &self,
        base_url: &str,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Result<HttpReply, FetchError> {
        let url = PeerUrl::parse(base_url).map_err(FetchError::Url)?;
        let mut builder = Request::builder()
            .method(method)
            .uri(path)
            .header(http::header::HOST, url.authority());
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let request = builder.body(full_body(body))?;
        let work = async {
            let limits = Limits {
                dial: self.timeout,
                read: None,
                write: None,
            };
            let mut conn = Conn::open(&*self.connector, &url, limits).await?;
            let (parts, mut body) = conn.send(request).await?.into_parts();
            let body = conn.collect(&mut body, self.body_limit).await?;
            Ok(HttpReply {
                status: parts.status,
                headers: parts.headers,
                body,
            })
        };
        match tokio::time::timeout(self.timeout, work).await {
            Ok(result) => result,
            Err(_) => Err(FetchError::Timeout {
                url: base_url.to_owned(),
                limit: self.timeout,
            }),
        }
    }

    /// Asks the URLs in turn until one answers 200 with JSON. Also returns the answer's headers.
    ///
    /// # Errors
    /// That of the last URL.
    pub async fn get_json<T: DeserializeOwned>(
        &self,
        urls: &[String],
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<(T, HeaderMap), FetchError> {
        let mut last = FetchError::Url("no peer URL to ask".to_owned());
        for url in urls {
            match self
                .request(url, Method::GET, path, headers, Bytes::new())
                .await
            {
                Ok(reply) if reply.status == StatusCode::OK => {
                    match serde_json::from_slice(&reply.body) {
                        Ok(value) => return Ok((value, reply.headers)),
                        Err(error) => {
                            last = FetchError::Json {
                                url: url.clone(),
                                error,
                            }
                        }
                    }
                }
                Ok(reply) => {
                    let text = String::from_utf8_lossy(&reply.body);
                    last = FetchError::Status {
                        url: url.clone(),
                        status: reply.status,
                        text: text.trim_end().chars().take(200).collect(),
                    };
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// [`HttpClient::get_json`] with a limit of 16 MiB.
///
/// # Errors
/// That of the last URL.
pub async fn get_json<T: DeserializeOwned>(
    dialer: &Dialer,
    urls: &[String],
    path: &str,
    headers: &[(&str, &str)],
    timeout: Duration,
) -> Result<(T, HeaderMap), FetchError> {
    HttpClient::new(dialer, timeout, 16 << 20)
        .get_json(urls, path, headers)
        .await
}
