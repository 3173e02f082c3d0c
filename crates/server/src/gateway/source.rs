//! What a call reads: from a connection of its own, or what the gateway makes of JSON.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use ferrite_gateway::{Message, Values, to_message};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::json::{Cut, Json};

/// The body of a call.
pub enum Source {
    /// Of one that came over a connection of its own.
    Network(Incoming),
    /// One message of the gateway's; `None` once it is read.
    Message(Option<Bytes>),
    /// As many as JSON comes.
    Messages(Box<Messages>),
}

/// Messages out of JSON.
pub struct Messages {
    json: Json,
    values: Values,
    input: &'static Message,
    over: bool,
    /// Told when the client goes away in the middle.
    gone: Option<oneshot::Sender<()>>,
}

/// A message as calls carry it.
fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(5 + message.len());
    frame.extend_from_slice(&[0]);
    // No message that is made of what was read is near to that long.
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(message);
    frame.freeze()
}

impl From<Incoming> for Source {
    fn from(body: Incoming) -> Self {
        Source::Network(body)
    }
}

impl Source {
    /// One message.
    pub fn message(message: &[u8]) -> Self {
        Source::Message(Some(framed(message)))
    }

    /// A message for each value that comes; what cannot be read ends them. Whoever goes away in the middle
    /// ends the call, and not only what it asks: the receiver hears of it.
    pub fn messages(
        json: Json,
        input: &'static Message,
        limit: usize,
    ) -> (Self, oneshot::Receiver<()>) {
        let (gone, hears) = oneshot::channel();
        let messages = Messages {
            json,
            values: Values::new(limit),
            input,
            over: false,
            gone: Some(gone),
        };
        (Source::Messages(Box::new(messages)), hears)
    }
}

impl Messages {
    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        while !self.over {
            let value = match self.values.next_value() {
                Ok(Some(value)) => Some(value),
                Ok(None) => match ready!(self.json.poll_piece(cx)) {
                    Some(Ok(piece)) => {
                        self.values.push(&piece);
                        continue;
                    }
                    Some(Err(Cut)) => {
                        if let Some(gone) = self.gone.take() {
                            let _ended = gone.send(());
                        }
                        return Poll::Pending;
                    }
                    None => {
                        self.over = true;
                        self.values.end().ok().flatten()
                    }
                },
                Err(_) => None,
            };
            match value.map(|value| to_message(&value, self.input)) {
                Some(Ok(message)) => return Poll::Ready(Some(framed(&message))),
                _ => self.over = true,
            }
        }
        Poll::Ready(None)
    }
}

impl Body for Source {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Source::Network(body) => Pin::new(body).poll_frame(cx),
            Source::Message(message) => Poll::Ready(message.take().map(|m| Ok(Frame::data(m)))),
            Source::Messages(messages) => {
                let message = ready!(messages.poll_message(cx));
                Poll::Ready(message.map(|message| Ok(Frame::data(message))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Source::Network(body) => body.is_end_stream(),
            Source::Message(message) => message.is_none(),
            Source::Messages(messages) => messages.over,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Source::Network(body) => body.size_hint(),
            Source::Message(_) | Source::Messages(_) => SizeHint::default(),
        }
    }
}
