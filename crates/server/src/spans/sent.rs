//! The body of an answer, and the span that ends when the last of it has been handed over or nobody wants
//! it any more.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Frame, SizeHint};
use tonic::body::Body;

use super::Span;

/// gRPC's number for calls that ended before they were answered.
const CANCELLED: i64 = 1;

/// The body.
pub struct Sent {
    body: Body,
    /// Until the status is known.
    span: Option<Span>,
}

impl Sent {
    /// Puts the span around an answer.
    pub fn with(response: Response<Body>, mut span: Span) -> Response<Body> {
        if let Some((code, message)) = status(response.headers()) {
            span.status(code, &message);
            return response;
        }
        response.map(|body| {
            Body::new(Sent {
                body,
                span: Some(span),
            })
        })
    }
}

fn status(headers: &HeaderMap) -> Option<(i64, String)> {
    let code = headers.get("grpc-status")?.to_str().ok()?.parse().ok()?;
    let message = headers
        .get("grpc-message")
        .map(|message| String::from_utf8_lossy(message.as_bytes()).into_owned());
    Some((code, message.unwrap_or_default()))
}

impl http_body::Body for Sent {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some((code, message)) = frame.trailers_ref().and_then(status)
            && let Some(mut span) = self.span.take()
        {
            span.status(code, &message);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        if let Some(span) = &mut self.span {
            span.status(CANCELLED, "");
        }
    }
}
