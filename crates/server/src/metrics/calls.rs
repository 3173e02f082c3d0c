//! Counts calls, their messages and bytes, on the bodies that pass: no service knows of it.
//!
//! Also who goes away before the answer is complete, which only the dropping of a body tells.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use ::http::{HeaderMap, Request, Response};
use bytes::Bytes;
use ferrite_metrics::Metrics;
use ferrite_metrics::grpc::{CallType, Method};
use http_body::{Body, Frame, SizeHint};

use crate::gateway::Source;

/// gRPC's codes that are told apart here.
const CANCELED: usize = 1;
const DEADLINE_EXCEEDED: usize = 4;
const UNKNOWN: usize = 2;
/// Before each message: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Finds messages in the pieces of a body.
#[derive(Debug, Default)]
struct Messages {
    prefix: [u8; PREFIX],
    /// Bytes of the prefix seen.
    seen: usize,
    /// Bytes of the message to come.
    left: u64,
}

impl Messages {
    /// Calls `whole` with the length of every message that ends in this piece.
    fn pass(&mut self, mut piece: &[u8], mut whole: impl FnMut(u64)) {
        while !piece.is_empty() {
            if self.seen < PREFIX {
                let taken = piece.len().min(PREFIX - self.seen);
                let (now, rest) = piece.split_at(taken);
                if let Some(prefix) = self.prefix.get_mut(self.seen..self.seen + taken) {
                    prefix.copy_from_slice(now);
                }
                self.seen += taken;
                piece = rest;
                if self.seen < PREFIX {
                    return;
                }
                self.left = u64::from(self.length());
            }
            let taken = usize::try_from(self.left)
                .unwrap_or(usize::MAX)
                .min(piece.len());
            self.left -= taken as u64;
            piece = piece.get(taken..).unwrap_or_default();
            if self.left == 0 {
                whole(u64::from(self.length()));
                self.seen = 0;
            }
        }
    }

    fn length(&self) -> u32 {
        let [_, a, b, c, d] = self.prefix;
        u32::from_be_bytes([a, b, c, d])
    }
}

/// A call between its beginning and its end.
struct Call {
    metrics: Arc<Metrics>,
    method: usize,
    /// Only where somebody wants to know how long it took: reading the clock costs more than all the rest.
    started: Option<Instant>,
    /// How long its client waits.
    patience: Option<Duration>,
    open: bool,
}

impl Call {
    fn method(&self) -> Option<&Method> {
        self.metrics.calls.get(self.method)
    }

    fn end(&mut self, code: usize) {
        if !std::mem::replace(&mut self.open, false) {
            return;
        }
        if let Some(method) = self.method() {
            if method.call == CallType::Unary {
                // An error counts as a message.
                method.sent();
            }
            let took = self.started.map(|started| started.elapsed());
            method.handled(code, took);
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let late = self
            .patience
            .zip(self.started)
            .is_some_and(|(patience, started)| started.elapsed() >= patience);
        self.end(if late { DEADLINE_EXCEEDED } else { CANCELED });
    }
}

/// A call that is being answered.
pub struct Ongoing(Option<Call>);

/// Begins to count a call. What is asked for by a path that nobody serves is no call.
pub fn begin<B: Into<Source>>(
    metrics: &Arc<Metrics>,
    request: Request<B>,
) -> (Request<Asked>, Ongoing) {
    let method = metrics.calls.find(request.uri().path());
    let patience = patience(request.headers());
    let timed = patience.is_some() || metrics.calls.timed();
    let call = method.map(|method| Call {
        metrics: Arc::clone(metrics),
        method,
        started: timed.then(Instant::now),
        patience,
        open: true,
    });
    let counted = method.map(|method| (Arc::clone(metrics), method));
    if let Some(method) = call.as_ref().and_then(Call::method) {
        method.started();
    }
    let request = request.map(|body| Asked {
        body: body.into(),
        counted,
        messages: Messages::default(),
    });
    (request, Ongoing(call))
}

/// `grpc-timeout`: up to eight digits and a unit.
fn patience(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number.saturating_mul(3_600)),
        "M" => Duration::from_secs(number.saturating_mul(60)),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

impl Ongoing {
    /// The answer, to be counted as it passes.
    pub fn answer<B>(mut self, response: Response<B>) -> Response<Answered<B>> {
        let mut call = self.0.take();
        // An answer that is nothing but an error has its code in front.
        if let (Some(call), Some(code)) = (&mut call, code(response.headers())) {
            call.end(code);
        }
        response.map(|body| Answered {
            body,
            call,
            messages: Messages::default(),
        })
    }
}

fn code(headers: &HeaderMap) -> Option<usize> {
    let text = headers.get("grpc-status")?.to_str();
    Some(
        text.ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(UNKNOWN),
    )
}

/// What a client sends.
pub struct Asked {
    body: Source,
    /// Where, and which method's.
    counted: Option<(Arc<Metrics>, usize)>,
    messages: Messages,
}

impl Asked {
    /// The end of what a client sends is received too where it may send many messages.
    fn end(&mut self) {
        if let Some((metrics, method)) = self.counted.take()
            && let Some(method) = metrics.calls.get(method)
            && method.call == CallType::BidiStream
        {
            method.received();
        }
    }
}

impl Body for Asked {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(piece), Some((metrics, method))) = (frame.data_ref(), &this.counted) {
                    let method = metrics.calls.get(*method);
                    this.messages.pass(piece, |bytes| {
                        metrics.received_bytes.add(bytes);
                        if let Some(method) = method {
                            method.received();
                        }
                    });
                }
            }
            Poll::Ready(Some(Err(_)) | None) => this.end(),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.end();
    }
}

/// What a client is sent.
pub struct Answered<B> {
    body: B,
    call: Option<Call>,
    messages: Messages,
}

impl<B> Answered<B> {
    /// What is no call.
    pub fn uncounted(body: B) -> Self {
        Answered {
            body,
            call: None,
            messages: Messages::default(),
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Answered<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        let Some(call) = &mut this.call else {
            return polled;
        };
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(piece) = frame.data_ref() {
                    let method = call.method();
                    this.messages.pass(piece, |bytes| {
                        call.metrics.sent_bytes.add(bytes);
                        if let Some(method) = method
                            && method.call != CallType::Unary
                        {
                            method.sent();
                        }
                    });
                } else if let Some(trailers) = frame.trailers_ref() {
                    call.end(code(trailers).unwrap_or(UNKNOWN));
                }
            }
            Poll::Ready(Some(Err(_)) | None) => call.end(UNKNOWN),
            Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::http::HeaderValue;

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let mut bytes = Vec::new();
        let lengths = [3u64, 0, 300];
        for length in lengths {
            bytes.push(0);
            bytes.extend(u32::try_from(length).expect("it is small").to_be_bytes());
            bytes.extend(std::iter::repeat_n(
                7,
                usize::try_from(length).expect("it is small"),
            ));
        }
        for size in [1, 2, 4, 5, 6, 7, 100, bytes.len()] {
            let (mut messages, mut found) = (Messages::default(), Vec::new());
            for piece in bytes.chunks(size) {
                messages.pass(piece, |length| found.push(length));
            }
            assert_eq!(found, lengths, "in pieces of {size}");
        }
    }

    #[test]
    fn a_client_says_how_long_it_waits() {
        let patience_of = |text: &'static str| {
            let value = HeaderValue::from_static(text);
            patience(&HeaderMap::from_iter([(
                ::http::HeaderName::from_static("grpc-timeout"),
                value,
            )]))
        };
        assert_eq!(patience_of("100m"), Some(Duration::from_millis(100)));
        assert_eq!(patience_of("2H"), Some(Duration::from_secs(7_200)));
        for wrong in ["", "m", "5", "5x", "-1S"] {
            assert_eq!(patience_of(wrong), None, "{wrong}");
        }
    }
}
