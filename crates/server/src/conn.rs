//! One client's connection, from the socket to where requests can be read: clear or encrypted.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use ferrite_tls::{Rejected, ServerStream, looks_like_tls};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::auth::CertificateName;
use crate::listen::Speech;
use crate::readdress::Readdressed;

/// Time for the first byte where it decides what is spoken: as much as a first request has.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(300);

/// A socket on its way from the thread that accepts to one that serves.
#[derive(Debug)]
pub enum RawSocket {
    /// Of an address.
    Tcp(std::net::TcpStream),
    /// Of a path.
    Unix(std::os::unix::net::UnixStream),
}

/// A socket.
#[derive(Debug)]
pub enum Socket {
    /// Of an address.
    Tcp(TcpStream),
    /// Of a path.
    Unix(UnixStream),
}

impl TryFrom<RawSocket> for Socket {
    type Error = io::Error;

    fn try_from(raw: RawSocket) -> io::Result<Self> {
        Ok(match raw {
            RawSocket::Tcp(stream) => Socket::Tcp(TcpStream::from_std(stream)?),
            RawSocket::Unix(stream) => Socket::Unix(UnixStream::from_std(stream)?),
        })
    }
}

/// A socket of which one byte may have been read already.
#[derive(Debug)]
pub struct Begun {
    first: Option<u8>,
    socket: Socket,
}

/// Where requests are read from. One comparison tells the kinds apart; clear text pays no more.
pub enum Stream {
    /// Clear text.
    Plain(Socket),
    /// Clear text where it could have been TLS.
    Sniffed(Begun),
    /// TLS.
    Tls(Box<ServerStream<Begun>>),
}

/// In the extensions of every request that came over an encrypted connection, and of no other. The name
/// in the client's certificate, which is there by itself as well: `None` without `--client-cert-auth`,
/// and where the name is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encrypted(pub Option<CertificateName>);

/// Gets a socket to where requests can be read. `None` when it was turned away, which is logged. The
/// name comes with encrypted connections only.
pub async fn establish(
    socket: Socket,
    speech: &Speech,
    remote: &str,
) -> Option<(Readdressed<Stream>, Option<Encrypted>)> {
    let (stream, caller) = decide(socket, speech, remote).await?;
    Some((Readdressed::new(stream), caller))
}

async fn decide(
    mut socket: Socket,
    speech: &Speech,
    remote: &str,
) -> Option<(Stream, Option<Encrypted>)> {
    let Some(tls) = &speech.tls else {
        return Some((Stream::Plain(socket), None));
    };
    let first = if speech.plain {
        let first = tokio::time::timeout(FIRST_BYTE_TIMEOUT, socket.read_u8());
        let first = first.await.ok()?.ok()?;
        if !looks_like_tls(first) {
            let first = Some(first);
            return Some((Stream::Sniffed(Begun { first, socket }), None));
        }
        Some(first)
    } else {
        None
    };
    match tls.accept(Begun { first, socket }).await {
        Ok(accepted) => {
            let name = accepted
                .common_name
                .filter(|_| tls.info().client_cert_auth)
                .map(|name| CertificateName(name.into()));
            Some((
                Stream::Tls(Box::new(accepted.stream)),
                Some(Encrypted(name)),
            ))
        }
        Err(why) => {
            turned_away(remote, &why);
            None
        }
    }
}

fn turned_away(remote: &str, why: &Rejected) {
    let (server_name, error) = (why.server_name.as_str(), why.error.as_str());
    match &why.names {
        _ if why.is_silent() => tracing::debug!(
            "remote-addr" = remote,
            "server-name" = server_name,
            error,
            "rejected connection on client endpoint"
        ),
        Some((addresses, hosts)) => tracing::warn!(
            "remote-addr" = remote,
            "server-name" = server_name,
            "ip-addresses" = ?addresses,
            "dns-names" = ?hosts,
            error,
            "rejected connection on client endpoint"
        ),
        None => tracing::warn!(
            "remote-addr" = remote,
            "server-name" = server_name,
            error,
            "rejected connection on client endpoint"
        ),
    }
}

/// Hands every operation on to whichever kind it is.
macro_rules! by_kind {
    ($kind:ident: $($name:ident),+) => {
        impl AsyncRead for $kind {
            fn poll_read(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $($kind::$name(inner) => Pin::new(inner).poll_read(cx, buf),)+
                }
            }
        }

        impl AsyncWrite for $kind {
            fn poll_write(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                buf: &[u8],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    $($kind::$name(inner) => Pin::new(inner).poll_write(cx, buf),)+
                }
            }

            fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $($kind::$name(inner) => Pin::new(inner).poll_flush(cx),)+
                }
            }

            fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
                match self.get_mut() {
                    $($kind::$name(inner) => Pin::new(inner).poll_shutdown(cx),)+
                }
            }

            fn poll_write_vectored(
                self: Pin<&mut Self>,
                cx: &mut Context<'_>,
                bufs: &[io::IoSlice<'_>],
            ) -> Poll<io::Result<usize>> {
                match self.get_mut() {
                    $($kind::$name(inner) => Pin::new(inner).poll_write_vectored(cx, bufs),)+
                }
            }

            fn is_write_vectored(&self) -> bool {
                match self {
                    $($kind::$name(inner) => inner.is_write_vectored(),)+
                }
            }
        }
    };
}

by_kind!(Socket: Tcp, Unix);
by_kind!(Stream: Plain, Sniffed, Tls);

impl AsyncRead for Begun {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if buf.remaining() > 0
            && let Some(first) = this.first.take()
        {
            buf.put_slice(&[first]);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.socket).poll_read(cx, buf)
    }
}

impl AsyncWrite for Begun {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().socket).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().socket).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }
}
