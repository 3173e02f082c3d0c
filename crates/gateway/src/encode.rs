//! From the bytes of a message to JSON: names as in etcd's schema, 64 bits as texts, bytes in base64, and
//! nothing of what is not there.
//!
//! What comes in was written by this server, fields by their numbers, which is also their order in the
//! schema. What is not a message is an error nevertheless.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::schema::{Field, Kind, Message};
use crate::{Broken, DEPTH_MAX, text};

/// Where the JSON goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A body of its own.
    Body,
    /// A line of a stream.
    Line,
}

/// The JSON of a message.
///
/// # Errors
/// Bytes that are no message.
pub fn to_json(bytes: &[u8], message: &Message, form: Form) -> Result<Vec<u8>, Broken> {
    let mut out = Vec::with_capacity(64 + bytes.len() + bytes.len() / 2);
    let for_html = form == Form::Line;
    if for_html {
        out.extend_from_slice(b"{\"result\":");
    }
    let written = write(&mut out, bytes, message, for_html, DEPTH_MAX);
    written.ok_or_else(|| {
        Broken::Nonsense("proto: cannot parse invalid wire-format data".to_owned())
    })?;
    if for_html {
        out.extend_from_slice(b"}\n");
    }
    Ok(out)
}

fn write(
    out: &mut Vec<u8>,
    mut bytes: &[u8],
    message: &Message,
    for_html: bool,
    depth: usize,
) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    out.push(b'{');
    // A list that is being written.
    let mut open: Option<u32> = None;
    let mut first = true;
    while !bytes.is_empty() {
        let key = varint(&mut bytes)?;
        let value = value(&mut bytes, key & 7)?;
        let Some(field) = message.by_number(key >> 3) else {
            continue;
        };
        if open == Some(field.number) {
            out.push(b',');
        } else {
            if open.take().is_some() {
                out.push(b']');
            }
            if !std::mem::take(&mut first) {
                out.push(b',');
            }
            text::write(out, field.name, false);
            out.push(b':');
            if field.repeated {
                out.push(b'[');
                open = Some(field.number);
            }
        }
        write_value(out, field, value, for_html, depth)?;
    }
    if open.is_some() {
        out.push(b']');
    }
    out.push(b'}');
    Some(())
}

enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

fn value<'a>(bytes: &mut &'a [u8], kind: u64) -> Option<Value<'a>> {
    match kind {
        0 => Some(Value::Number(varint(bytes)?)),
        2 => {
            let length = usize::try_from(varint(bytes)?).ok()?;
            let (piece, rest) = bytes.split_at_checked(length)?;
            *bytes = rest;
            Some(Value::Bytes(piece))
        }
        _ => None,
    }
}

fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

fn write_value(
    out: &mut Vec<u8>,
    field: &Field,
    value: Value<'_>,
    for_html: bool,
    depth: usize,
) -> Option<()> {
    match (field.kind, value) {
        (Kind::Bool, Value::Number(number)) => {
            out.extend_from_slice(if number == 0 { b"false" } else { b"true" });
        }
        (Kind::Uint32, Value::Number(number)) => {
            out.extend_from_slice((number as u32).to_string().as_bytes());
        }
        (Kind::Int64, Value::Number(number)) => quoted(out, &number.cast_signed().to_string()),
        (Kind::Uint64, Value::Number(number)) => quoted(out, &number.to_string()),
        (Kind::Enum(kind), Value::Number(number)) => {
            let number = number as u32 as i32;
            match kind.values.iter().find(|(_, known)| *known == number) {
                Some((name, _)) => quoted(out, name),
                None => out.extend_from_slice(number.to_string().as_bytes()),
            }
        }
        (Kind::String, Value::Bytes(bytes)) => {
            text::write(out, std::str::from_utf8(bytes).ok()?, for_html);
        }
        (Kind::Bytes, Value::Bytes(bytes)) => {
            out.push(b'"');
            let start = out.len();
            out.resize(start + bytes.len().div_ceil(3) * 4, 0);
            let room = out.get_mut(start..)?;
            STANDARD.encode_slice(bytes, room).ok()?;
            out.push(b'"');
        }
        (Kind::Message(message), Value::Bytes(bytes)) => {
            write(out, bytes, message, for_html, depth)?;
        }
        _ => return None,
    }
    Some(())
}

fn quoted(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}
