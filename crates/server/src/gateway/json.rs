//! JSON as it comes: the body of a request, or the messages of a WebSocket.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use ferrite_gateway::{Broken, Values};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::sync::mpsc;

use crate::http;

/// Where JSON comes from.
pub enum Json {
    /// A body.
    Body(Incoming),
    /// A WebSocket.
    Socket(mpsc::Receiver<Bytes>),
}

/// Whoever sent it has gone in the middle.
#[derive(Debug)]
pub struct Cut;

impl Json {
    /// The next piece; `None` at the end.
    pub fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        match self {
            Json::Socket(pieces) => pieces.poll_recv(cx).map(|piece| piece.map(Ok)),
            Json::Body(body) => loop {
                match ready!(Pin::new(&mut *body).poll_frame(cx)) {
                    Some(Ok(frame)) => {
                        if let Ok(piece) = frame.into_data() {
                            return Poll::Ready(Some(Ok(piece)));
                        }
                    }
                    Some(Err(_)) => return Poll::Ready(Some(Err(Cut))),
                    None => return Poll::Ready(None),
                }
            },
        }
    }

    /// The next piece; `None` at the end, whatever ended it: there is nobody left to be told.
    pub async fn piece(&mut self) -> Option<Bytes> {
        poll_fn(|cx| self.poll_piece(cx)).await?.ok()
    }

    /// The first value; `None` where there is none at all.
    ///
    /// # Errors
    /// What is no value, or has more bytes than the limit.
    pub async fn first_value(&mut self, limit: usize) -> Result<Option<Vec<u8>>, Broken> {
        let mut values = Values::new(limit);
        while let Some(piece) = self.piece().await {
            values.push(&piece);
            if let Some(value) = values.next_value()? {
                return Ok(Some(value));
            }
        }
        values.end()
    }

    /// The same for a request that is refused, as far as [`http::pass_over`] goes.
    pub async fn pass_over_some(&mut self) {
        if let Json::Body(body) = self {
            http::pass_over(body).await;
        }
    }

    /// Reads on and looks at nothing, so that the connection can be used again. A WebSocket is not
    /// waited for: its end is that of the call.
    pub async fn pass_over(&mut self) {
        if matches!(self, Json::Body(_)) {
            while self.piece().await.is_some() {}
        }
    }
}
