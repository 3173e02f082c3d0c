//! Bodies of requests and responses.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use tokio::sync::mpsc;

/// What may go wrong while a body is produced.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of every request and response in this crate.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A body that is known whole.
pub fn full_body(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A body fed through a channel; an error breaks the connection off, so that the receiver sees a cut body.
pub(crate) struct ChannelBody {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
}

impl ChannelBody {
    pub(crate) fn new(chunks: mpsc::Receiver<io::Result<Bytes>>) -> ChannelBody {
        ChannelBody { chunks }
    }
}

impl http_body::Body for ChannelBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.chunks
            .poll_recv(cx)
            .map(|chunk| chunk.map(|c| c.map(Frame::data).map_err(BoxError::from)))
    }
}
