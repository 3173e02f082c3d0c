//! Frames of a WebSocket (RFC 6455), as a server reads and writes them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

/// What a key is joined with to show that it was understood.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
/// Bytes of a key.
const KEY_LEN: usize = 16;
/// The most that a frame for the connection itself may carry.
const CONTROL_MAX: u64 = 125;

/// Reasons for the end of a connection.
pub mod close {
    /// It broke the rules.
    pub const PROTOCOL: u16 = 1002;
    /// It sent more than is read.
    pub const TOO_BIG: u16 = 1009;
}

/// Whether a client's key is one.
pub fn is_key(key: &str) -> bool {
    STANDARD
        .decode(key)
        .is_ok_and(|bytes| bytes.len() == KEY_LEN)
}

/// What shows a client that its key was understood.
pub fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

/// What a client says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// A whole message, whether of text or of bytes.
    Message(Vec<u8>),
    /// Are you there?
    Ping(Vec<u8>),
    /// I am.
    Pong,
    /// It is over, for this reason.
    Close(Option<u16>),
}

/// Why nothing more is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// It is not how a client speaks.
    #[error("a frame that breaks the rules")]
    Protocol,
    /// A message has more bytes than is read.
    #[error("a message that is too large")]
    TooLarge,
}

impl Broken {
    /// The reason for the connection's end.
    pub fn reason(self) -> u16 {
        match self {
            Broken::Protocol => close::PROTOCOL,
            Broken::TooLarge => close::TOO_BIG,
        }
    }
}

/// Frames out of what arrives in pieces.
#[derive(Debug)]
pub struct Frames {
    arrived: Vec<u8>,
    /// A message of which more is to come.
    begun: Option<Vec<u8>>,
    limit: usize,
}

/// A frame's header.
struct Header {
    last: bool,
    kind: u8,
    mask: [u8; 4],
    start: usize,
    length: u64,
}

const CONTINUED: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;

impl Frames {
    /// With a limit for the bytes of a message.
    pub fn new(limit: usize) -> Self {
        Frames {
            arrived: Vec::new(),
            begun: None,
            limit,
        }
    }

    /// Something arrives. Ask for what it says before more of it.
    pub fn push(&mut self, piece: &[u8]) {
        self.arrived.extend_from_slice(piece);
    }

    /// What is said next; `None` until more arrives.
    ///
    /// # Errors
    /// What no client says.
    pub fn next_said(&mut self) -> Result<Option<Said>, Broken> {
        loop {
            let Some(header) = self.header()? else {
                return Ok(None);
            };
            let room = self.limit - self.begun.as_ref().map_or(0, Vec::len).min(self.limit);
            let length = usize::try_from(header.length).map_err(|_| Broken::TooLarge)?;
            if header.kind < CLOSE && length > room {
                return Err(Broken::TooLarge);
            }
            let end = header.start + length;
            if self.arrived.len() < end {
                return Ok(None);
            }
            let rest = self.arrived.split_off(end);
            let mut payload = std::mem::replace(&mut self.arrived, rest);
            payload.drain(..header.start);
            for (byte, mask) in payload.iter_mut().zip(header.mask.iter().cycle()) {
                *byte ^= mask;
            }
            match header.kind {
                TEXT | BINARY if self.begun.is_none() => self.begun = Some(payload),
                CONTINUED => match &mut self.begun {
                    Some(begun) => begun.append(&mut payload),
                    None => return Err(Broken::Protocol),
                },
                CLOSE => {
                    let reason = match payload.as_slice() {
                        [] => None,
                        [a, b, ..] => Some(u16::from_be_bytes([*a, *b])),
                        [_] => return Err(Broken::Protocol),
                    };
                    return Ok(Some(Said::Close(reason)));
                }
                PING => return Ok(Some(Said::Ping(payload))),
                PONG => return Ok(Some(Said::Pong)),
                _ => return Err(Broken::Protocol),
            }
            if header.last
                && let Some(message) = self.begun.take()
            {
                return Ok(Some(Said::Message(message)));
            }
        }
    }

    fn header(&self) -> Result<Option<Header>, Broken> {
        let [first, second, rest @ ..] = self.arrived.as_slice() else {
            return Ok(None);
        };
        let (last, kind) = (first & 0x80 != 0, first & 0x0f);
        // Extensions have not been agreed on, and clients must mask.
        if first & 0x70 != 0 || second & 0x80 == 0 {
            return Err(Broken::Protocol);
        }
        let (length, rest) = match (second & 0x7f, rest) {
            (126, [a, b, rest @ ..]) => (u64::from(u16::from_be_bytes([*a, *b])), rest),
            (127, [a, b, c, d, e, f, g, h, rest @ ..]) => {
                (u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]), rest)
            }
            (126 | 127, _) => return Ok(None),
            (length, rest) => (u64::from(length), rest),
        };
        if kind >= CLOSE && (!last || length > CONTROL_MAX) {
            return Err(Broken::Protocol);
        }
        let [a, b, c, d, rest @ ..] = rest else {
            return Ok(None);
        };
        Ok(Some(Header {
            last,
            kind,
            mask: [*a, *b, *c, *d],
            start: self.arrived.len() - rest.len(),
            length,
        }))
    }
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(10 + payload.len());
    frame.push(0x80 | kind);
    match (u8::try_from(payload.len()), u16::try_from(payload.len())) {
        (Ok(length @ ..126), _) => frame.push(length),
        (_, Ok(length)) => {
            frame.push(126);
            frame.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            frame.push(127);
            frame.extend_from_slice(&(payload.len() as u64).to_be_bytes());
        }
    }
    frame.extend_from_slice(payload);
    frame
}

/// A message of text.
pub fn text(payload: &[u8]) -> Vec<u8> {
    frame(TEXT, payload)
}

/// The answer to a ping.
pub fn pong(payload: &[u8]) -> Vec<u8> {
    frame(PONG, payload)
}

/// The end, for this reason.
pub fn closing(reason: Option<u16>) -> Vec<u8> {
    match reason {
        Some(reason) => frame(CLOSE, &reason.to_be_bytes()),
        None => frame(CLOSE, &[]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame as a client sends it.
    fn sent(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            length @ ..126 => frame.push(0x80 | length as u8),
            length @ ..65536 => {
                frame.push(0x80 | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            length => {
                frame.push(0x80 | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        let mask = [1, 2, 3, 4];
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
        frame
    }

    fn heard(bytes: &[u8], size: usize) -> (Vec<Said>, Option<Broken>) {
        let mut frames = Frames::new(100_000);
        let mut heard = Vec::new();
        for piece in bytes.chunks(size) {
            frames.push(piece);
            loop {
                match frames.next_said() {
                    Ok(Some(said)) => heard.push(said),
                    Ok(None) => break,
                    Err(broken) => return (heard, Some(broken)),
                }
            }
        }
        (heard, None)
    }

    #[test]
    fn messages_are_put_together_however_they_are_cut() {
        let long = vec![7; 70_000];
        let bytes = [
            sent(0x81, b"one"),
            sent(0x01, b"t"),
            sent(0x89, b"there?"),
            sent(0x00, b"w"),
            sent(0x80, b"o"),
            sent(0x82, &long),
            sent(0x82, &[5; 300]),
            sent(0x8a, b""),
            sent(0x88, &1000_u16.to_be_bytes()),
        ]
        .concat();
        for size in [1, 2, 3, 1000, bytes.len()] {
            let (heard, broken) = heard(&bytes, size);
            assert_eq!(broken, None);
            assert_eq!(
                heard,
                [
                    Said::Message(b"one".to_vec()),
                    Said::Ping(b"there?".to_vec()),
                    Said::Message(b"two".to_vec()),
                    Said::Message(long.clone()),
                    Said::Message(vec![5; 300]),
                    Said::Pong,
                    Said::Close(Some(1000)),
                ]
            );
        }
    }

    #[test]
    fn what_no_client_says_ends_it() {
        for (bytes, wanted) in [
            (vec![0x81, 0x01, b'x'], Broken::Protocol),
            (sent(0xc1, b"x"), Broken::Protocol),
            (sent(0x83, b"x"), Broken::Protocol),
            (sent(0x80, b"x"), Broken::Protocol),
            (sent(0x09, b"x"), Broken::Protocol),
            (sent(0x88, b"x"), Broken::Protocol),
            (
                [sent(0x01, b"x"), sent(0x81, b"y")].concat(),
                Broken::Protocol,
            ),
            (sent(0x89, &[0; 126]), Broken::Protocol),
            (sent(0x81, &[0; 100_001]), Broken::TooLarge),
            (
                [sent(0x01, &[0; 60_000]), sent(0x80, &[0; 60_000])].concat(),
                Broken::TooLarge,
            ),
            (
                vec![
                    0x81, 0xff, 255, 255, 255, 255, 255, 255, 255, 255, 0, 0, 0, 0,
                ],
                Broken::TooLarge,
            ),
        ] {
            assert_eq!(heard(&bytes, 7).1, Some(wanted), "{:?}", bytes.get(..4));
        }
    }

    #[test]
    fn what_is_said_has_its_length_in_front() {
        assert_eq!(text(b"ab"), [0x81, 2, b'a', b'b']);
        assert_eq!(text(&[0; 126]).get(..4), Some(&[0x81, 126, 0, 126][..]));
        let long = text(&[0; 65536]);
        assert_eq!(
            long.get(..10),
            Some(&[0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0][..])
        );
        assert_eq!(pong(b"x"), [0x8a, 1, b'x']);
        assert_eq!(closing(Some(1000)), [0x88, 2, 3, 232]);
        // The example of the standard.
        assert_eq!(
            accept("dGhlIHNhbXBsZSBub25jZQ=="),
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert!(is_key("dGhlIHNhbXBsZSBub25jZQ==") && !is_key("dGhlIHNhbXBsZQ==") && !is_key(""));
    }
}
