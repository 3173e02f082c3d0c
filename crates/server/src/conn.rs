//! One client's connection, from the socket to where requests can be read: clear or encrypted, and which
//! version of HTTP it begins with. What is neither is closed without a word, as the original does.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use ferrite_tls::{HANDSHAKE_TIMEOUT, Rejected, ServerStream, looks_like_tls};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::auth::CertificateName;
use crate::delegate::delegate_write;
use crate::listen::{Speech, Traffic};

/// What a connection by HTTP/2 begins with.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first line of a request must come to its end within so many bytes: the original's number.
const LINE_MAX: usize = 4096;
/// How long whoever is told that TLS is wanted may take to read it.
const ANSWER_PATIENCE: Duration = Duration::from_secs(1);
/// Bytes read ahead at a time.
const AHEAD: usize = 1024;

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

/// A stream of which some bytes may have been read already.
#[derive(Debug)]
pub struct Begun<S> {
    head: BytesMut,
    inner: S,
}

/// Where requests are read from. One comparison tells the kinds apart; clear text pays no more.
pub enum Stream {
    /// Clear text.
    Clear(Begun<Socket>),
    /// TLS.
    Tls(Box<Begun<ServerStream<Begun<Socket>>>>),
}

/// The version of HTTP that a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// One request after the other.
    Http1,
    /// Many at once; gRPC's.
    Http2,
}

/// In the extensions of every request that came over an encrypted connection, and of no other. The name
/// in the client's certificate, which is there by itself as well: `None` without `--client-cert-auth`,
/// and where the name is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Encrypted(pub Option<CertificateName>);

/// A connection that is ready for its first request.
pub struct Established {
    /// Where it is read from.
    pub stream: Stream,
    /// How it is read.
    pub protocol: Protocol,
    /// With encrypted connections only.
    pub caller: Option<Encrypted>,
}

/// Gets a socket to where requests can be read. `None` when it was turned away, or did not say within
/// `patience` what it speaks.
pub async fn establish(
    socket: Socket,
    speech: &Speech,
    traffic: Traffic,
    remote: &str,
    patience: Duration,
) -> Option<Established> {
    let mut socket = Begun::new(socket);
    if let Some(tls) = &speech.tls {
        let encrypted = if speech.plain {
            let first = tokio::time::timeout(patience, socket.first());
            looks_like_tls(first.await.ok()?.ok()?)
        } else {
            let Ok(first) = tokio::time::timeout(HANDSHAKE_TIMEOUT, socket.first()).await else {
                turned_away(remote, &because("i/o timeout"));
                return None;
            };
            // Whoever goes, or says something else, is left to the handshake.
            if first.is_ok_and(|byte| byte.is_ascii_uppercase())
                && let Ok(Ok(Some(Protocol::Http1))) =
                    tokio::time::timeout(patience, socket.protocol()).await
            {
                refuse_clear_text(socket, remote).await;
                return None;
            }
            true
        };
        if encrypted {
            // Where metrics are served apart, a certificate must be for the address it comes from.
            let from = match traffic {
                Traffic::Metrics => remote.parse::<SocketAddr>().ok(),
                Traffic::Both | Traffic::Grpc | Traffic::Http => None,
            };
            let accepted = match from {
                Some(from) => tls.accept_member(socket, from.ip()).await,
                None => tls.accept(socket).await,
            };
            let accepted = match accepted {
                Ok(accepted) => accepted,
                Err(why) => {
                    turned_away(remote, &why);
                    return None;
                }
            };
            let name = accepted
                .common_name
                .filter(|_| tls.info().client_cert_auth)
                .map(|name| CertificateName(name.into()));
            let agreed = accepted.stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let mut stream = Begun::new(accepted.stream);
            let protocol = if agreed {
                Protocol::Http2
            } else {
                let known = tokio::time::timeout(patience, stream.protocol());
                // Whoever got this far is told what is wrong with the request.
                known.await.ok()?.ok()?.unwrap_or(Protocol::Http1)
            };
            if traffic == Traffic::Grpc && protocol != Protocol::Http2 {
                return None;
            }
            return Some(Established {
                stream: Stream::Tls(Box::new(stream)),
                protocol,
                caller: Some(Encrypted(name)),
            });
        }
    }
    let known = tokio::time::timeout(patience, socket.protocol());
    let protocol = known.await.ok()?.ok()??;
    let served = match traffic {
        Traffic::Both => true,
        Traffic::Grpc => protocol == Protocol::Http2,
        // In clear text nobody but gRPC speaks HTTP/2.
        Traffic::Http | Traffic::Metrics => protocol == Protocol::Http1,
    };
    served.then_some(Established {
        stream: Stream::Clear(socket),
        protocol,
        caller: None,
    })
}

fn because(error: &str) -> Rejected {
    Rejected {
        error: error.to_owned(),
        ..Rejected::default()
    }
}

/// Answers HTTP/1 in clear text where only TLS is spoken, in Go's words.
async fn refuse_clear_text<IO: AsyncWrite + Unpin>(mut socket: IO, remote: &str) {
    const ANSWER: &[u8] =
        b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";
    let answer = async {
        socket.write_all(ANSWER).await?;
        socket.shutdown().await
    };
    // Whoever does not take it is gone already.
    let _taken = tokio::time::timeout(ANSWER_PATIENCE, answer).await;
    turned_away(
        remote,
        &because("tls: first record does not look like a TLS handshake"),
    );
}

/// What bytes at the beginning of a connection say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Beginning {
    Known(Protocol),
    /// Neither version of HTTP begins so.
    Foreign,
    TooShort,
}

fn beginning(head: &[u8]) -> Beginning {
    let (Ok(part) | Err(part)) = match head.iter().position(|byte| *byte == b'\n') {
        Some(end) if head.starts_with(PREFACE.get(..=end).unwrap_or(PREFACE)) => {
            return match head.get(..PREFACE.len()) {
                Some(whole) if whole == PREFACE => Beginning::Known(Protocol::Http2),
                None if PREFACE.starts_with(head) => Beginning::TooShort,
                _ => Beginning::Foreign,
            };
        }
        Some(end) => Ok(head.get(..end).unwrap_or_default()),
        None => Err(head),
    };
    let text = |byte: &u8| matches!(byte, b' '..=b'~' | b'\r' | b'\t' | 0x80..);
    if !part.iter().all(text) || part.len() >= LINE_MAX {
        return Beginning::Foreign;
    }
    if part.len() == head.len() {
        return Beginning::TooShort;
    }
    let line = part.strip_suffix(b"\r").unwrap_or(part);
    let mut words = line.splitn(3, |byte| *byte == b' ');
    let version = words.nth(2).unwrap_or_default();
    if matches!(version, [b'H', b'T', b'T', b'P', b'/', b'1', b'.', minor] if minor.is_ascii_digit())
    {
        Beginning::Known(Protocol::Http1)
    } else {
        Beginning::Foreign
    }
}

impl<S: AsyncRead + Unpin> Begun<S> {
    fn new(inner: S) -> Self {
        Begun {
            head: BytesMut::new(),
            inner,
        }
    }

    /// Reads a little more ahead.
    async fn ahead(&mut self) -> io::Result<()> {
        let mut bytes = [0; AHEAD];
        match self.inner.read(&mut bytes).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.head
                    .extend_from_slice(bytes.get(..count).unwrap_or_default());
                Ok(())
            }
        }
    }

    async fn first(&mut self) -> io::Result<u8> {
        loop {
            if let Some(first) = self.head.first() {
                return Ok(*first);
            }
            self.ahead().await?;
        }
    }

    /// `None` for what is neither version.
    async fn protocol(&mut self) -> io::Result<Option<Protocol>> {
        loop {
            match beginning(&self.head) {
                Beginning::Known(protocol) => return Ok(Some(protocol)),
                Beginning::Foreign => return Ok(None),
                Beginning::TooShort => self.ahead().await?,
            }
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

/// Hands every read on to whichever kind it is.
macro_rules! read_by_kind {
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
    };
}

read_by_kind!(Socket: Tcp, Unix);
read_by_kind!(Stream: Clear, Tls);
delegate_write!({} Socket, Socket::Tcp(inner) => inner, Socket::Unix(inner) => inner);
delegate_write!({} Stream, Stream::Clear(inner) => inner, Stream::Tls(inner) => inner);
delegate_write!({<S: AsyncWrite + Unpin>} Begun<S>, Begun { inner, .. } => inner);

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.head.is_empty() {
            return Pin::new(&mut this.inner).poll_read(cx, buf);
        }
        let now = this.head.len().min(buf.remaining());
        buf.put_slice(this.head.get(..now).unwrap_or_default());
        this.head.advance(now);
        if this.head.is_empty() {
            this.head = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_what_is_spoken() {
        use Beginning::{Foreign, Known, TooShort};
        let long = [&b"GET /"[..], &[b'a'; LINE_MAX]].concat();
        for (head, says) in [
            (&b""[..], TooShort),
            (b"P", TooShort),
            (b"PRI * HTTP/2.0\r\n", TooShort),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", TooShort),
            (PREFACE, Known(Protocol::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Foreign),
            (b"PRI * HTTP/2.1\r\n\r\nSM\r\n\r\n", Foreign),
            (b"GET / HTTP/1.1", TooShort),
            (b"GET / HTTP/1.1\r\n", Known(Protocol::Http1)),
            (b"PATCH /a?b=c HTTP/1.0\nHost: a", Known(Protocol::Http1)),
            (b"GET nonsense\r\n", Foreign),
            (b"GET / HTTP/2.0\r\n", Foreign),
            (b"\x16\x03\x01", Foreign),
            (b"\r\n", Foreign),
            (b"SSH-2.0-x\r\n", Foreign),
            (&long, Foreign),
        ] {
            assert_eq!(beginning(head), says, "{head:?}");
        }
    }

    #[tokio::test]
    async fn who_says_nothing_is_waited_for_no_longer_than_that() {
        for said in [&b""[..], b"GET /hea", b"PRI * HT"] {
            let (ours, theirs) = UnixStream::pair().expect("a pair");
            let mut theirs = theirs;
            tokio::io::AsyncWriteExt::write_all(&mut theirs, said)
                .await
                .expect("sent");
            let speech = Speech {
                plain: true,
                tls: None,
            };
            let patience = Duration::from_millis(50);
            let established =
                establish(Socket::Unix(ours), &speech, Traffic::Both, "@", patience).await;
            assert!(established.is_none());
            let mut rest = Vec::new();
            assert_eq!(theirs.read_to_end(&mut rest).await.ok(), Some(0));
        }
    }
}
