//! What a call answers, message by message, and the lines that are made of it.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use ::http::Response;
use bytes::{Buf, Bytes, BytesMut};
use ferrite_gateway::{Form, Message, error_line, to_json};
use http_body::{Body as _, Frame};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::metrics::calls::Answered;

/// Before each message: whether it is compressed, which it is not here, and its length.
const PREFIX: usize = 5;

/// The answers of a call.
pub struct Answers {
    /// `None` once it has ended.
    body: Option<Answered<Body>>,
    /// Whole in its headers: an error.
    refused: Option<Status>,
    pieces: BytesMut,
    /// Hears when the client goes away in the middle of what it asks.
    gone: Option<oneshot::Receiver<()>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Answers {
    /// Of this response. The call has a place for as long as it is answered.
    pub fn new(
        response: Response<Answered<Body>>,
        gone: Option<oneshot::Receiver<()>>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let (parts, body) = response.into_parts();
        let refused = Status::from_header_map(&parts.headers);
        Answers {
            body: Some(body),
            refused: refused.filter(|status| status.code() != Code::Ok),
            pieces: BytesMut::new(),
            gone,
            _place: place,
        }
    }

    /// The next message; `None` after the last.
    ///
    /// # Errors
    /// The call failed.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        if let Some(status) = self.refused.take() {
            self.body = None;
            return Poll::Ready(Err(status));
        }
        if let Some(gone) = &mut self.gone
            && let Poll::Ready(heard) = Pin::new(gone).poll(cx)
        {
            // Whoever asked for everything is heard of no more.
            self.gone = None;
            if heard.is_ok() {
                self.body = None;
                return Poll::Ready(Err(Status::cancelled("the client went away")));
            }
        }
        loop {
            if let Some(message) = self.whole() {
                return Poll::Ready(Ok(Some(message)));
            }
            let Some(body) = &mut self.body else {
                return Poll::Ready(Ok(None));
            };
            match ready!(Pin::new(body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(piece) => self.pieces.extend_from_slice(&piece),
                    Err(frame) => {
                        self.body = None;
                        let trailers = frame.trailers_ref();
                        let status = trailers.and_then(Status::from_header_map);
                        return Poll::Ready(match status {
                            Some(status) if status.code() != Code::Ok => Err(status),
                            _ => Ok(None),
                        });
                    }
                },
                Some(Err(status)) => {
                    self.body = None;
                    return Poll::Ready(Err(status));
                }
                None => self.body = None,
            }
        }
    }

    fn whole(&mut self) -> Option<Bytes> {
        let [_, a, b, c, d, rest @ ..] = &self.pieces[..] else {
            return None;
        };
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        if rest.len() < length {
            return None;
        }
        self.pieces.advance(PREFIX);
        Some(self.pieces.split_to(length).freeze())
    }
}

/// A stream's answers, a line for each.
pub struct Lines {
    /// The first of them is there before anything is sent.
    first: Option<Bytes>,
    answers: Answers,
    output: &'static Message,
    over: bool,
}

impl Lines {
    /// Lines of these answers.
    pub fn new(first: Bytes, answers: Answers, output: &'static Message) -> Self {
        Lines {
            first: Some(first),
            answers,
            output,
            over: false,
        }
    }
}

impl http_body::Body for Lines {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.over {
            return Poll::Ready(None);
        }
        let message = match this.first.take() {
            Some(first) => Ok(Some(first)),
            None => ready!(this.answers.poll_next(cx)),
        };
        let line = match message {
            Ok(Some(message)) => {
                to_json(&message, this.output, Form::Line).unwrap_or_else(|broken| {
                    this.over = true;
                    error_line(Code::Internal.into(), &broken.to_string())
                })
            }
            Ok(None) => {
                this.over = true;
                return Poll::Ready(None);
            }
            Err(status) => {
                this.over = true;
                error_line(status.code().into(), status.message())
            }
        };
        Poll::Ready(Some(Ok(Frame::data(line.into()))))
    }

    fn is_end_stream(&self) -> bool {
        self.over
    }
}
