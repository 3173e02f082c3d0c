//! The listening end of a connection between members.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::client::{farewell, reworded};
use crate::server::ServerStream;

/// An encrypted connection of another member. Its errors are in Go's words; dropped, it says goodbye if the
/// socket takes that at once, so that the other member sees an end and not a break.
#[derive(Debug)]
pub struct MemberStream<IO: AsyncRead + AsyncWrite + Unpin>(Box<ServerStream<IO>>);

impl<IO: AsyncRead + AsyncWrite + Unpin> From<ServerStream<IO>> for MemberStream<IO> {
    fn from(stream: ServerStream<IO>) -> Self {
        MemberStream(Box::new(stream))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> Drop for MemberStream<IO> {
    fn drop(&mut self) {
        farewell(&mut self.0);
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for MemberStream<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        reworded(Pin::new(&mut self.0).poll_read(cx, buf))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for MemberStream<IO> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        reworded(Pin::new(&mut self.0).poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        reworded(Pin::new(&mut self.0).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        reworded(Pin::new(&mut self.0).poll_shutdown(cx))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        reworded(Pin::new(&mut self.0).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
