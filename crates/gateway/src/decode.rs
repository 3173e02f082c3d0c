//! From JSON to the bytes of a message, as Go's `protojson` reads it, in its words.
//!
//! What comes in has been cut out by [`crate::Values`], so that its syntax is right; what is not text or
//! does not fit its field is found here. Fields that the schema does not know are passed over.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::schema::{Enum, Field, Kind, Message};
use crate::{Broken, DEPTH_MAX, number};

const fn engine(alphabet: &alphabet::Alphabet, padding: DecodePaddingMode) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(padding);
    GeneralPurpose::new(alphabet, config)
}

const STANDARD: GeneralPurpose = engine(&alphabet::STANDARD, DecodePaddingMode::RequireCanonical);
const STANDARD_BARE: GeneralPurpose = engine(&alphabet::STANDARD, DecodePaddingMode::RequireNone);
const URL: GeneralPurpose = engine(&alphabet::URL_SAFE, DecodePaddingMode::RequireCanonical);
const URL_BARE: GeneralPurpose = engine(&alphabet::URL_SAFE, DecodePaddingMode::RequireNone);

/// The bytes of the message that a value stands for.
///
/// # Errors
/// A value that does not fit the message.
pub fn to_message(value: &[u8], message: &Message) -> Result<Vec<u8>, Broken> {
    let mut reader = Reader { text: value, at: 0 };
    let mut out = Vec::with_capacity(value.len());
    reader.message(message, &mut out, DEPTH_MAX)?;
    Ok(out)
}

/// A piece of JSON.
struct Token<'a> {
    at: usize,
    raw: &'a [u8],
    what: What,
}

enum What {
    Null,
    Bool(bool),
    Number,
    Text(String),
    OpenObject,
    CloseObject,
    OpenArray,
    CloseArray,
}

impl Token<'_> {
    fn raw(&self) -> String {
        String::from_utf8_lossy(self.raw).into_owned()
    }
}

struct Reader<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// Line and column, counted from one.
    fn position(&self, at: usize) -> String {
        let before = self.text.get(..at).unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        let start = before.iter().rposition(|byte| *byte == b'\n');
        let row = before.get(start.map_or(0, |start| start + 1)..);
        let row = String::from_utf8_lossy(row.unwrap_or_default());
        format!("(line {line}:{})", row.chars().count() + 1)
    }

    fn broken(&self, at: usize, what: &str) -> Broken {
        Broken::Nonsense(format!("proto: {}: {what}", self.position(at)))
    }

    fn syntax(&self, at: usize, what: &str) -> Broken {
        Broken::Nonsense(format!("proto: syntax error {}: {what}", self.position(at)))
    }

    fn unexpected(&self, token: &Token<'_>) -> Broken {
        self.syntax(token.at, &format!("unexpected token {}", token.raw()))
    }

    /// What comes next, without taking it.
    fn peek(&mut self) -> Option<u8> {
        loop {
            let byte = *self.text.get(self.at)?;
            if !matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b',' | b':') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    fn token(&mut self) -> Result<Token<'a>, Broken> {
        let end = || Broken::Nonsense("proto: unexpected EOF".to_owned());
        let first = self.peek().ok_or_else(end)?;
        let at = self.at;
        let rest = self.text.get(at..).unwrap_or_default();
        let (length, what) = match first {
            b'{' => (1, What::OpenObject),
            b'}' => (1, What::CloseObject),
            b'[' => (1, What::OpenArray),
            b']' => (1, What::CloseArray),
            b'"' => {
                let (length, text) = self.string(rest)?;
                (length, What::Text(text))
            }
            _ => {
                let word =
                    |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'+' | b'.');
                let length = rest.iter().take_while(|byte| word(byte)).count();
                let what = match rest.get(..length).unwrap_or_default() {
                    b"null" => What::Null,
                    b"true" => What::Bool(true),
                    b"false" => What::Bool(false),
                    b"" => return Err(end()),
                    _ => What::Number,
                };
                (length, what)
            }
        };
        self.at += length;
        let raw = rest.get(..length).unwrap_or_default();
        Ok(Token { at, raw, what })
    }

    /// The length of a text with its quotes, and what it says.
    fn string(&self, rest: &[u8]) -> Result<(usize, String), Broken> {
        let end = || Broken::Nonsense("proto: unexpected EOF".to_owned());
        let mut inner = rest.get(1..).unwrap_or_default();
        let mut text = Vec::new();
        loop {
            let plain = inner.iter().position(|byte| matches!(byte, b'"' | b'\\'));
            let (piece, more) = inner
                .split_at_checked(plain.ok_or_else(end)?)
                .ok_or_else(end)?;
            text.extend_from_slice(piece);
            inner = match more {
                [b'"', more @ ..] => {
                    let length = rest.len() - more.len();
                    let text = String::from_utf8(text)
                        .map_err(|_| self.syntax(self.at, "invalid UTF-8 in string"))?;
                    return Ok((length, text));
                }
                [b'\\', b'u', more @ ..] => {
                    let (c, more) = self.escaped(more)?;
                    text.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                    more
                }
                [b'\\', byte, more @ ..] => {
                    text.push(match byte {
                        b'b' => 8,
                        b'f' => 12,
                        b'n' => b'\n',
                        b'r' => b'\r',
                        b't' => b'\t',
                        byte => *byte,
                    });
                    more
                }
                _ => return Err(end()),
            };
        }
    }

    /// A character by its number, which may take two escapes.
    fn escaped<'b>(&self, digits: &'b [u8]) -> Result<(char, &'b [u8]), Broken> {
        let unit = |digits: &'b [u8]| -> Option<(u32, &'b [u8])> {
            let (digits, more) = digits.split_at_checked(4)?;
            let digits = std::str::from_utf8(digits).ok()?;
            Some((u32::from_str_radix(digits, 16).ok()?, more))
        };
        let end = || Broken::Nonsense("proto: unexpected EOF".to_owned());
        let (first, more) = unit(digits).ok_or_else(end)?;
        if let Some(c) = char::from_u32(first) {
            return Ok((c, more));
        }
        if more.len() < 6 {
            return Err(end());
        }
        let pair = more.strip_prefix(b"\\u").and_then(unit);
        let low = pair.filter(|(low, _)| first < 0xdc00 && (0xdc00..0xe000).contains(low));
        let joined = low.and_then(|(low, more)| {
            let c = char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (low - 0xdc00))?;
            Some((c, more))
        });
        joined.ok_or_else(|| {
            let shown = String::from_utf8_lossy(more.get(..6).unwrap_or_default());
            self.syntax(self.at, &format!("invalid escape code {shown:?} in string"))
        })
    }

    /// Passes over a value.
    fn skip(&mut self) -> Result<(), Broken> {
        let mut open = 0_usize;
        loop {
            match self.token()?.what {
                What::OpenObject | What::OpenArray => open += 1,
                What::CloseObject | What::CloseArray => open = open.saturating_sub(1),
                _ => {}
            }
            if open == 0 {
                return Ok(());
            }
        }
    }

    fn message(
        &mut self,
        message: &Message,
        out: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), Broken> {
        let Some(depth) = depth.checked_sub(1) else {
            let text = "proto: exceeded max recursion depth";
            return Err(Broken::Nonsense(text.to_owned()));
        };
        let token = self.token()?;
        if !matches!(token.what, What::OpenObject) {
            return Err(self.unexpected(&token));
        }
        let mut seen: Vec<&Field> = Vec::new();
        let mut set: Vec<&str> = Vec::new();
        loop {
            let token = self.token()?;
            let name = match &token.what {
                What::CloseObject => return Ok(()),
                What::Text(name) => name,
                _ => return Err(self.unexpected(&token)),
            };
            let Some(field) = message.by_name(name) else {
                self.skip()?;
                continue;
            };
            if seen.iter().any(|seen| seen.number == field.number) {
                return Err(self.broken(token.at, &format!("duplicate field {}", token.raw())));
            }
            seen.push(field);
            if self.peek() == Some(b'n') {
                // Null stands for a field that is not there.
                self.token()?;
                continue;
            }
            if field.repeated {
                self.list(field, out, depth)?;
                continue;
            }
            if let Some(oneof) = field.oneof {
                if set.contains(&oneof) {
                    let text = format!(
                        "error parsing {}, oneof {oneof} is already set",
                        token.raw()
                    );
                    return Err(self.broken(token.at, &text));
                }
                set.push(oneof);
            }
            self.single(field, out, depth)?;
        }
    }

    fn list(&mut self, field: &Field, out: &mut Vec<u8>, depth: usize) -> Result<(), Broken> {
        let token = self.token()?;
        if !matches!(token.what, What::OpenArray) {
            return Err(self.unexpected(&token));
        }
        loop {
            if self.peek() == Some(b']') {
                self.token()?;
                return Ok(());
            }
            self.single(field, out, depth)?;
        }
    }

    fn single(&mut self, field: &Field, out: &mut Vec<u8>, depth: usize) -> Result<(), Broken> {
        if let Kind::Message(message) = field.kind {
            let mut inner = Vec::new();
            self.message(message, &mut inner, depth)?;
            bytes(out, field, &inner);
            return Ok(());
        }
        let token = self.token()?;
        let done = scalar(field, &token, out);
        done.ok_or_else(|| {
            let (kind, name, raw) = (field.kind.name(), field.camel, token.raw());
            let text = format!("invalid value for {kind} field {name}: {raw}");
            self.broken(token.at, &text)
        })
    }
}

/// Writes a value that is no message; `None` if it does not fit.
fn scalar(field: &Field, token: &Token<'_>, out: &mut Vec<u8>) -> Option<()> {
    match (field.kind, &token.what) {
        (Kind::Bool, What::Bool(yes)) => varint(out, field, u64::from(*yes)),
        (Kind::Uint32, _) => varint(out, field, integer(token)?.parse::<u32>().ok()?.into()),
        (Kind::Uint64, _) => varint(out, field, integer(token)?.parse().ok()?),
        (Kind::Int64, _) => {
            let number: i64 = integer(token)?.parse().ok()?;
            varint(out, field, number.cast_unsigned());
        }
        (Kind::String, What::Text(text)) => bytes(out, field, text.as_bytes()),
        (Kind::Bytes, What::Text(text)) => bytes(out, field, &from_base64(text)?),
        // Names that nobody knows are passed over, as fields are.
        (Kind::Enum(kind), What::Text(name)) => {
            if let Some(number) = by_name(kind, name) {
                varint(out, field, i64::from(number).cast_unsigned());
            }
        }
        (Kind::Enum(_), What::Number) => {
            let number: i32 = integer(token)?.parse().ok()?;
            varint(out, field, i64::from(number).cast_unsigned());
        }
        _ => return None,
    }
    Some(())
}

fn by_name(kind: &Enum, name: &str) -> Option<i32> {
    let found = kind.values.iter().find(|(known, _)| *known == name);
    found.map(|(_, number)| *number)
}

/// The digits of a whole number, which may stand in quotes.
fn integer(token: &Token<'_>) -> Option<String> {
    match &token.what {
        What::Number => number::whole(std::str::from_utf8(token.raw).ok()?),
        What::Text(text) => number::whole(text),
        _ => None,
    }
}

/// Both alphabets, with and without padding; line breaks do not count.
fn from_base64(text: &str) -> Option<Vec<u8>> {
    let engine = match (text.contains(['-', '_']), text.len().is_multiple_of(4)) {
        (false, true) => STANDARD,
        (false, false) => STANDARD_BARE,
        (true, true) => URL,
        (true, false) => URL_BARE,
    };
    if text.contains(['\r', '\n']) {
        return engine.decode(text.replace(['\r', '\n'], "")).ok();
    }
    engine.decode(text).ok()
}

fn raw_varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push((number & 0x7f) as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn varint(out: &mut Vec<u8>, field: &Field, number: u64) {
    raw_varint(out, u64::from(field.number) << 3);
    raw_varint(out, number);
}

fn bytes(out: &mut Vec<u8>, field: &Field, bytes: &[u8]) {
    raw_varint(out, u64::from(field.number) << 3 | 2);
    raw_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}
