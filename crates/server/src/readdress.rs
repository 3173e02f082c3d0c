//! HTTP/2 from clients whose `:authority` is none.
//!
//! Go's clients put a socket's path there (`/run/etcd.sock`, or `%2Frun%2Fetcd.sock`), and those of etcd
//! 3.4 the endpoint's whole URL where they dial one member (`etcdctl endpoint status`). The HTTP/2 library
//! refuses such a request before anybody could be lenient, and has no switch for it. So the first header
//! block of every connection is looked at. If its authority can be read, everything passes as it is from
//! there on, at no price. If not, the header blocks that come in are decoded and written anew with
//! `localhost` in that place; all other frames pass. A client dials with one authority, so the first
//! request speaks for all.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use http::uri::Authority;
use loona_hpack::Decoder;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::conn::PREFACE;
use crate::delegate::delegate_write;

const FRAME_HEADER: usize = 9;
/// The largest frame that may be sent to us: we never ask for more than the protocol's default.
const FRAME_MAX: usize = 16_384;
/// More than any request's headers, encoded or decoded; the library has a lower limit of its own.
const BLOCK_MAX: usize = 256 << 10;
/// What a client may keep in the table of headers: the protocol's default, of which we never allow more.
const TABLE_MAX: usize = 4_096;
const READ_BYTES: usize = 16 << 10;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;

/// Where the bytes that come in are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// At the beginning.
    Preface,
    /// Between two frames, or this many bytes before the end of one that passes.
    Frames(usize),
    /// Not HTTP/2, or broken so that the library had better see it: everything passes.
    Clear,
}

/// A header block that is not whole yet.
struct Block {
    stream: [u8; 4],
    ends_stream: bool,
    encoded: Vec<u8>,
    /// The frames as they came, to be handed on if there is nothing to mend.
    frames: Vec<u8>,
    /// Bytes of all its frames so far: without end, they may hold next to nothing.
    taken: usize,
}

struct Filter {
    phase: Phase,
    held: BytesMut,
    block: Option<Block>,
    decoder: Decoder<'static>,
    /// The first block had an authority that is none.
    mending: bool,
}

impl Filter {
    fn new() -> Self {
        let mut decoder = Decoder::new();
        decoder.set_max_allowed_table_size(TABLE_MAX);
        Filter {
            phase: Phase::Preface,
            held: BytesMut::new(),
            block: None,
            decoder,
            mending: false,
        }
    }

    /// Nothing will be changed any more, and nothing is held back.
    fn is_clear(&self) -> bool {
        matches!(self.phase, Phase::Clear) && self.held.is_empty()
    }

    /// Takes bytes in and hands on what can be handed on.
    fn feed(&mut self, bytes: &[u8], out: &mut BytesMut) -> io::Result<()> {
        self.held.extend_from_slice(bytes);
        loop {
            match self.phase {
                Phase::Clear => {
                    out.extend_from_slice(&self.held);
                    self.held.clear();
                    return Ok(());
                }
                Phase::Preface => {
                    let known = self.held.len().min(PREFACE.len());
                    if self.held[..known] != PREFACE[..known] {
                        self.phase = Phase::Clear;
                    } else if known < PREFACE.len() {
                        return Ok(());
                    } else {
                        self.phase = Phase::Frames(known);
                    }
                }
                Phase::Frames(0) => {
                    if !self.frame(out)? {
                        return Ok(());
                    }
                }
                Phase::Frames(passing) => {
                    let now = passing.min(self.held.len());
                    out.extend_from_slice(&self.held[..now]);
                    self.held.advance(now);
                    self.phase = Phase::Frames(passing - now);
                    if now < passing {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Looks at the frame that begins; `false` when more of it is needed.
    fn frame(&mut self, out: &mut BytesMut) -> io::Result<bool> {
        let Some(header) = self.held.first_chunk::<FRAME_HEADER>() else {
            return Ok(false);
        };
        let [a, b, c, kind, flags, stream @ ..] = *header;
        let whole = FRAME_HEADER + u32::from_be_bytes([0, a, b, c]) as usize;
        if (kind != HEADERS && kind != CONTINUATION) || whole > FRAME_HEADER + FRAME_MAX {
            self.phase = Phase::Frames(whole);
            return Ok(true);
        }
        if self.held.len() < whole {
            return Ok(false);
        }
        let payload = &self.held[FRAME_HEADER..whole];
        let block = match (kind, self.block.take()) {
            (HEADERS, None) => fragment(payload, flags).map(|encoded| Block {
                stream,
                ends_stream: flags & END_STREAM != 0,
                encoded: encoded.to_vec(),
                frames: Vec::new(),
                taken: 0,
            }),
            (CONTINUATION, Some(mut block)) if block.stream == stream => {
                block.encoded.extend_from_slice(payload);
                Some(block)
            }
            _ => None,
        };
        let Some(block) = block else {
            self.phase = Phase::Clear;
            return Ok(true);
        };
        let mut block = block;
        block.taken += whole;
        if !self.mending {
            block.frames.extend_from_slice(&self.held[..whole]);
        } else if block.taken > BLOCK_MAX {
            return Err(too_large());
        }
        self.held.advance(whole);
        if block.taken > BLOCK_MAX {
            self.pass(&block, out);
        } else if flags & END_HEADERS == 0 {
            self.block = Some(block);
        } else {
            match self.anew(&block.encoded) {
                Ok(anew) if self.mending || anew.mended => {
                    self.mending = true;
                    write(&block, &anew.headers, out);
                }
                Err(error) if self.mending => return Err(error),
                // What cannot be read the library refuses in its own words.
                Ok(_) | Err(_) => self.pass(&block, out),
            }
        }
        Ok(true)
    }

    /// Hands on what was held back, and from now on everything.
    fn pass(&mut self, block: &Block, out: &mut BytesMut) {
        out.extend_from_slice(&block.frames);
        self.phase = Phase::Clear;
    }

    /// The same headers, none of them by reference to a table.
    fn anew(&mut self, encoded: &[u8]) -> io::Result<Anew> {
        let mut headers = Vec::new();
        let mut mended = false;
        self.decoder
            .decode_with_cb(encoded, |name, value| {
                let bad = name.as_ref() == b":authority" && Authority::try_from(&*value).is_err();
                mended |= bad;
                let value = if bad { b"localhost" } else { value.as_ref() };
                // Past the limit nothing is kept; the length still tells.
                if headers.len() <= BLOCK_MAX {
                    headers.push(0);
                    text(&name, &mut headers);
                    text(value, &mut headers);
                }
            })
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        if headers.len() > BLOCK_MAX {
            return Err(too_large());
        }
        Ok(Anew { headers, mended })
    }
}

/// A header block that stands by itself.
struct Anew {
    headers: Vec<u8>,
    /// Its authority was none and is `localhost` now.
    mended: bool,
}

fn too_large() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the headers of a request have more than {BLOCK_MAX} bytes"),
    )
}

/// The part of a frame that is header block.
fn fragment(payload: &[u8], flags: u8) -> Option<&[u8]> {
    let (padding, rest) = if flags & PADDED == 0 {
        (0, payload)
    } else {
        let (length, rest) = payload.split_first()?;
        (usize::from(*length), rest)
    };
    let rest = if flags & PRIORITY == 0 {
        rest
    } else {
        rest.get(5..)?
    };
    rest.get(..rest.len().checked_sub(padding)?)
}

/// HPACK's text: its length in a seven-bit prefix and as many bytes more as it takes, then itself.
fn text(bytes: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes.len();
    if rest < 0x7f {
        out.push(u8::try_from(rest).unwrap_or_default());
    } else {
        out.push(0x7f);
        rest -= 0x7f;
        while rest >= 0x80 {
            out.push(u8::try_from(rest % 0x80).unwrap_or_default() | 0x80);
            rest /= 0x80;
        }
        out.push(u8::try_from(rest).unwrap_or_default());
    }
    out.extend_from_slice(bytes);
}

fn write(block: &Block, headers: &[u8], out: &mut BytesMut) {
    let mut kind = HEADERS;
    let mut flags = if block.ends_stream { END_STREAM } else { 0 };
    let mut rest = headers;
    loop {
        let (now, later) = rest.split_at(rest.len().min(FRAME_MAX));
        if later.is_empty() {
            flags |= END_HEADERS;
        }
        let length = u32::try_from(now.len()).unwrap_or_default().to_be_bytes();
        out.extend_from_slice(&length[1..]);
        out.extend_from_slice(&[kind, flags]);
        out.extend_from_slice(&block.stream);
        out.extend_from_slice(now);
        if later.is_empty() {
            return;
        }
        (kind, flags, rest) = (CONTINUATION, 0, later);
    }
}

/// A connection whose incoming header blocks are written anew where need be.
pub struct Readdressed<S> {
    inner: S,
    filter: Filter,
    ready: BytesMut,
    scratch: Box<[u8]>,
}

impl<S> Readdressed<S> {
    /// Around a connection that has just begun.
    pub fn new(inner: S) -> Self {
        Readdressed {
            inner,
            filter: Filter::new(),
            ready: BytesMut::new(),
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Readdressed<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if !this.ready.is_empty() {
                let now = this.ready.len().min(buf.remaining());
                buf.put_slice(&this.ready[..now]);
                this.ready.advance(now);
                return Poll::Ready(Ok(()));
            }
            if this.filter.is_clear() {
                this.scratch = Box::default();
                return Pin::new(&mut this.inner).poll_read(cx, buf);
            }
            let mut read = ReadBuf::new(&mut this.scratch);
            match Pin::new(&mut this.inner).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) => {}
                other => return other,
            }
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.filter.feed(read.filled(), &mut this.ready)?;
        }
    }
}

delegate_write!({<S: AsyncWrite + Unpin>} Readdressed<S>, Readdressed { inner, .. } => inner);

#[cfg(test)]
mod tests {
    use super::*;
    use loona_hpack::Encoder;

    fn framed(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn passed(input: &[u8], step: usize) -> io::Result<Vec<u8>> {
        let mut filter = Filter::new();
        let mut out = BytesMut::new();
        for bytes in input.chunks(step) {
            filter.feed(bytes, &mut out)?;
        }
        Ok(out.to_vec())
    }

    fn headers(mut frames: &[u8]) -> Vec<(String, String)> {
        let mut decoder = Decoder::new();
        let mut all = Vec::new();
        while let Some(header) = frames.first_chunk::<FRAME_HEADER>() {
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize;
            let payload = &frames[FRAME_HEADER..FRAME_HEADER + length];
            if header[3] == HEADERS {
                let decoded = decoder.decode(payload).expect("a whole block");
                let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
                all.extend(decoded.into_iter().map(|(n, v)| (text(n), text(v))));
            }
            frames = &frames[FRAME_HEADER + length..];
        }
        all
    }

    #[test]
    fn a_path_becomes_an_authority_and_all_else_stays() {
        let mut encoder = Encoder::new();
        let list: &[(&[u8], &[u8])] = &[
            (b":method", b"POST"),
            (b":authority", b"/run/etcd.sock"),
            (b"token", b"t"),
        ];
        let first = encoder.encode(list.iter().copied());
        // The second time both sides have it all in their tables.
        let second = encoder.encode(list.iter().copied());
        let good = encoder.encode([(&b":authority"[..], &b"h:1"[..])]);
        let mut padded = vec![2, 0, 0, 0, 0, 0];
        padded.extend_from_slice(&second);
        padded.extend_from_slice(&[0, 0]);
        let (head, tail) = first.split_at(3);
        let input = [
            PREFACE.to_vec(),
            framed(4, 0, &[0; 6]),
            framed(HEADERS, 0, head),
            framed(CONTINUATION, END_HEADERS, tail),
            framed(0, 1, b"data"),
            framed(HEADERS, END_HEADERS | PADDED | PRIORITY, &padded),
            framed(HEADERS, END_HEADERS | END_STREAM, &good),
        ]
        .concat();
        for step in [1, 7, input.len()] {
            let out = passed(&input, step).expect("good frames");
            let frames = out.strip_prefix(PREFACE).expect("the preface first");
            let got = headers(frames);
            let got: Vec<(&str, &str)> =
                got.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            let wanted = [
                (":method", "POST"),
                (":authority", "localhost"),
                ("token", "t"),
            ];
            assert_eq!(got[..3], wanted);
            assert_eq!(got[3..6], wanted);
            assert_eq!(got[6..], [(":authority", "h:1")]);
            assert!(frames.windows(4).any(|four| four == b"data"));
        }
    }

    #[test]
    fn a_connection_with_an_authority_passes_untouched() {
        let mut encoder = Encoder::new();
        let good = encoder.encode([(&b":authority"[..], &b"h:1"[..])]);
        let (head, tail) = good.split_at(1);
        let later = encoder.encode([(&b":authority"[..], &b"http://h:1"[..])]);
        let input = [
            PREFACE.to_vec(),
            framed(4, 0, &[0; 6]),
            framed(HEADERS, 0, head),
            framed(CONTINUATION, END_HEADERS, tail),
            framed(0, 1, b"data"),
            framed(HEADERS, END_HEADERS, &later),
        ]
        .concat();
        for step in [1, 7, input.len()] {
            assert_eq!(passed(&input, step).expect("passes"), input);
        }
    }

    #[test]
    fn a_url_is_no_authority() {
        let mut encoder = Encoder::new();
        let url = encoder.encode([(&b":authority"[..], &b"http://127.0.0.1:2379"[..])]);
        let input = [PREFACE.to_vec(), framed(HEADERS, END_HEADERS, &url)].concat();
        let out = passed(&input, input.len()).expect("good frames");
        let got = headers(out.strip_prefix(PREFACE).expect("the preface first"));
        assert_eq!(got, [(":authority".to_owned(), "localhost".to_owned())]);
    }

    #[test]
    fn what_is_not_http_2_or_is_broken_passes_untouched() {
        let request = b"GET /health HTTP/1.1\r\n\r\n";
        assert_eq!(passed(request, 1).expect("passes"), request);
        let broken = [
            PREFACE.to_vec(),
            framed(HEADERS, END_HEADERS | PADDED, &[200, 0]),
        ]
        .concat();
        assert_eq!(passed(&broken, 5).expect("passes"), broken);
    }

    #[test]
    fn long_headers_are_cut_into_frames_and_endless_ones_refused() {
        let mut encoder = Encoder::new();
        let long = vec![b'v'; 5_000];
        let mut list: Vec<(&[u8], &[u8])> = vec![(b":authority", b"/run/etcd.sock")];
        list.extend(vec![(&b"n"[..], &long[..]); 8]);
        let block = encoder.encode(list);
        let mut input = PREFACE.to_vec();
        let pieces: Vec<&[u8]> = block.chunks(FRAME_MAX).collect();
        for (index, piece) in pieces.iter().enumerate() {
            let kind = if index == 0 { HEADERS } else { CONTINUATION };
            let flags = if index + 1 == pieces.len() {
                END_HEADERS
            } else {
                0
            };
            input.extend(framed(kind, flags, piece));
        }
        let out = passed(&input, 4_096).expect("good frames");
        assert!(out.len() > 8 * long.len());
        // One byte a header, four thousand of them each time: a bomb.
        let mut bomb = encoder.encode([(&b"b"[..], &vec![b'x'; 3_000][..])]);
        bomb.extend(vec![0xbe; 8_000]);
        let alone = [PREFACE.to_vec(), framed(HEADERS, END_HEADERS, &bomb)].concat();
        assert_eq!(passed(&alone, alone.len()).expect("passes"), alone);
        let mut encoder = Encoder::new();
        let path = encoder.encode([(&b":authority"[..], &b"/run/etcd.sock"[..])]);
        let mut bomb = encoder.encode([(&b"b"[..], &vec![b'x'; 3_000][..])]);
        bomb.extend(vec![0xbe; 8_000]);
        let after = [
            PREFACE.to_vec(),
            framed(HEADERS, END_HEADERS, &path),
            framed(HEADERS, END_HEADERS, &bomb),
        ]
        .concat();
        assert!(passed(&after, after.len()).is_err());
    }

    #[test]
    fn a_block_without_end_is_not_gathered_without_end() {
        let empty = framed(CONTINUATION, 0, &[]);
        let many = 2 * BLOCK_MAX / empty.len();
        let begun = [PREFACE.to_vec(), framed(HEADERS, 0, &[])].concat();
        let mut filter = Filter::new();
        let mut out = BytesMut::new();
        filter.feed(&begun, &mut out).expect("passes");
        for _ in 0..many {
            filter.feed(&empty, &mut out).expect("passes");
        }
        // The library sees it all, and ends it by its own rule.
        assert!(filter.is_clear());
        assert_eq!(out.len(), begun.len() + many * empty.len());

        let path = Encoder::new().encode([(&b":authority"[..], &b"/run/etcd.sock"[..])]);
        let mended = [PREFACE.to_vec(), framed(HEADERS, END_HEADERS, &path)].concat();
        let endless = [mended, framed(HEADERS, 0, &[]), empty.repeat(many)].concat();
        assert!(passed(&endless, endless.len()).is_err());
    }

    #[test]
    fn nobody_makes_the_table_of_headers_larger() {
        let path = Encoder::new().encode([(&b":authority"[..], &b"/run/etcd.sock"[..])]);
        // A new size of 31 + 10 000 for the table, before a header.
        let larger = [&[0x3f, 0x90, 0x4e][..], &path].concat();
        let input = [
            PREFACE.to_vec(),
            framed(HEADERS, END_HEADERS, &path),
            framed(HEADERS, END_HEADERS, &larger),
        ]
        .concat();
        assert!(passed(&input, input.len()).is_err());
    }
}
