//! Framing of raft messages on the two kinds of stream, both ways, without I/O.
//!
//! Decoders are fed bytes as they arrive and never reserve memory for what has only been announced.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use ferrite_proto::raftpb::{Entry, Message, MessageType};
use prost::Message as _;

/// Longest message on a stream, in bytes.
pub const MESSAGE_LIMIT: u64 = 512 * 1024 * 1024;

/// Memory one decoded entry costs beside its bytes; counted against the limit so that many empty entries do not pass it.
const ENTRY_COST: u64 = std::mem::size_of::<Entry>() as u64;

const TYPE_HEARTBEAT: u8 = 0;
const TYPE_ENTRIES: u8 = 1;
const TYPE_MESSAGE: u8 = 2;

/// Why a stream cannot be read any further.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A length over the limit.
    #[error("rafthttp: error limit exceeded ({len} bytes announced, at most {limit} allowed)")]
    TooLarge {
        /// Announced length in bytes.
        len: u64,
        /// The limit in bytes.
        limit: u64,
    },
    /// An unknown type byte on a msgapp stream.
    #[error("failed to parse type {0} in msgappv2 stream")]
    UnknownType(u8),
    /// The short form before any message that it could continue.
    #[error("msgappv2 stream continues a message that was never sent")]
    NothingToContinue,
    /// Bytes that are no raft message.
    #[error("failed to unmarshal raft message: {0}")]
    Protobuf(#[from] prost::DecodeError),
}

/// Whether the message only keeps a stream alive. Such a message must never reach raft.
pub fn is_link_heartbeat(msg: &Message) -> bool {
    msg.msg_type == MessageType::MsgHeartbeat as i32 && msg.from == 0 && msg.to == 0
}

/// The message that keeps a stream alive.
pub fn link_heartbeat() -> Message {
    Message {
        msg_type: MessageType::MsgHeartbeat as i32,
        ..Default::default()
    }
}

/// Writes one message with its length before it: the framing of message streams and of snapshot bodies.
pub fn encode_message(msg: &Message, out: &mut BytesMut) {
    let len = msg.encoded_len();
    out.reserve(8 + len);
    out.put_u64(len as u64);
    msg.encode_raw(out);
}

/// Decodes one message body. An empty snapshot, which members up to 3.6 put into every message, is left out.
///
/// # Errors
/// The bytes are no raft message.
pub fn decode_body(bytes: Bytes) -> Result<Message, prost::DecodeError> {
    let mut msg = Message::decode(bytes)?;
    if let Some(snapshot) = &msg.snapshot {
        let empty = snapshot.metadata.as_ref().is_none_or(|m| m.index == 0);
        if empty && msg.msg_type != MessageType::MsgSnap as i32 {
            msg.snapshot = None;
        }
    }
    Ok(msg)
}

/// Position in the log that the short form of a msgapp stream continues from.
#[derive(Clone, Copy, Debug, Default)]
struct Position {
    term: u64,
    index: u64,
}

impl Position {
    fn after_full(&mut self, msg: &Message) {
        self.term = msg.term;
        self.index = msg.entries.last().map_or(msg.index, |e| e.index);
    }
}

/// Encoder of one msgapp stream. Its state belongs to the connection: a new connection needs a new encoder.
#[derive(Debug, Default)]
pub struct AppEncoder {
    at: Position,
}

impl AppEncoder {
    /// Encodes an append (or the link heartbeat) onto `out`.
    pub fn encode(&mut self, msg: &Message, out: &mut BytesMut) {
        if is_link_heartbeat(msg) {
            out.put_u8(TYPE_HEARTBEAT);
        } else if self.at.index == msg.index
            && self.at.term == msg.log_term
            && msg.log_term == msg.term
        {
            out.put_u8(TYPE_ENTRIES);
            out.put_u64(msg.entries.len() as u64);
            for entry in &msg.entries {
                out.put_u64(entry.encoded_len() as u64);
                entry.encode_raw(out);
            }
            self.at.index += msg.entries.len() as u64;
            out.put_u64(msg.commit);
        } else {
            out.put_u8(TYPE_MESSAGE);
            encode_message(msg, out);
            self.at.after_full(msg);
        }
    }
}

/// Bytes that have arrived and are not decoded yet.
#[derive(Debug, Default)]
struct Input {
    buf: BytesMut,
}

impl Input {
    fn u64(&mut self) -> Option<u64> {
        (self.buf.len() >= 8).then(|| self.buf.get_u64())
    }

    fn take(&mut self, len: u64) -> Option<Bytes> {
        let len = usize::try_from(len).ok()?;
        if self.buf.len() < len {
            return None;
        }
        Some(self.buf.split_to(len).freeze())
    }
}

/// Decoder of a message stream, and of the head of a snapshot body.
#[derive(Debug)]
pub struct MessageDecoder {
    input: Input,
    len: Option<u64>,
    limit: u64,
}

impl MessageDecoder {
    /// A decoder that refuses messages longer than `limit` bytes.
    pub fn new(limit: u64) -> MessageDecoder {
        MessageDecoder {
            input: Input::default(),
            len: None,
            limit,
        }
    }

    /// Adds bytes in the order received.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.input.buf.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` until more bytes are there.
    ///
    /// # Errors
    /// The stream is damaged or over the limit; nothing after it can be read.
    pub fn next_message(&mut self) -> Result<Option<Message>, DecodeError> {
        if self.len.is_none() {
            self.len = self.input.u64();
        }
        let Some(len) = self.len else { return Ok(None) };
        if len > self.limit {
            return Err(DecodeError::TooLarge {
                len,
                limit: self.limit,
            });
        }
        let Some(body) = self.input.take(len) else {
            return Ok(None);
        };
        self.len = None;
        Ok(Some(decode_body(body)?))
    }

    /// What was received after the last decoded message.
    pub fn into_rest(self) -> Bytes {
        self.input.buf.freeze()
    }
}

#[derive(Debug)]
enum Step {
    Type,
    Count,
    EntryLen,
    Entry(u64),
    Commit,
    MessageLen,
    Message(u64),
}

/// Decoder of one msgapp stream.
#[derive(Debug)]
pub struct AppDecoder {
    local: u64,
    remote: u64,
    input: Input,
    at: Position,
    step: Step,
    // The short form being read: where it starts, what is left of it, what it has cost.
    first_index: u64,
    left: u64,
    cost: u64,
    entries: Vec<Entry>,
}

impl AppDecoder {
    /// A decoder for what the member `remote` sends to `local`.
    pub fn new(local: u64, remote: u64) -> AppDecoder {
        AppDecoder {
            local,
            remote,
            input: Input::default(),
            at: Position::default(),
            step: Step::Type,
            first_index: 0,
            left: 0,
            cost: 0,
            entries: Vec::new(),
        }
    }

    /// Adds bytes in the order received.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.input.buf.extend_from_slice(bytes);
    }

    /// The next whole message, or `None` until more bytes are there.
    ///
    /// # Errors
    /// The stream is damaged or over the limit; nothing after it can be read.
    pub fn next_message(&mut self) -> Result<Option<Message>, DecodeError> {
        loop {
            match self.step {
                Step::Type => {
                    if self.input.buf.is_empty() {
                        return Ok(None);
                    }
                    match self.input.buf.get_u8() {
                        TYPE_HEARTBEAT => return Ok(Some(link_heartbeat())),
                        // A message of term 0 would be taken for a local one by raft.
                        TYPE_ENTRIES if self.at.term == 0 => {
                            return Err(DecodeError::NothingToContinue);
                        }
                        TYPE_ENTRIES => self.step = Step::Count,
                        TYPE_MESSAGE => self.step = Step::MessageLen,
                        other => return Err(DecodeError::UnknownType(other)),
                    }
                }
                Step::Count => {
                    let Some(count) = self.input.u64() else {
                        return Ok(None);
                    };
                    self.first_index = self.at.index;
                    self.left = count;
                    self.cost = 0;
                    self.entries = Vec::new();
                    self.step = if count == 0 {
                        Step::Commit
                    } else {
                        Step::EntryLen
                    };
                }
                Step::EntryLen => {
                    let Some(len) = self.input.u64() else {
                        return Ok(None);
                    };
                    self.cost = self.cost.saturating_add(len).saturating_add(ENTRY_COST);
                    check_limit(self.cost)?;
                    self.step = Step::Entry(len);
                }
                Step::Entry(len) => {
                    let Some(bytes) = self.input.take(len) else {
                        return Ok(None);
                    };
                    self.entries.push(Entry::decode(bytes)?);
                    self.at.index = self.at.index.wrapping_add(1);
                    self.left -= 1;
                    self.step = if self.left == 0 {
                        Step::Commit
                    } else {
                        Step::EntryLen
                    };
                }
                Step::Commit => {
                    let Some(commit) = self.input.u64() else {
                        return Ok(None);
                    };
                    self.step = Step::Type;
                    return Ok(Some(Message {
                        msg_type: MessageType::MsgApp as i32,
                        from: self.remote,
                        to: self.local,
                        term: self.at.term,
                        log_term: self.at.term,
                        index: self.first_index,
                        entries: std::mem::take(&mut self.entries),
                        commit,
                        ..Default::default()
                    }));
                }
                Step::MessageLen => {
                    let Some(len) = self.input.u64() else {
                        return Ok(None);
                    };
                    check_limit(len)?;
                    self.step = Step::Message(len);
                }
                Step::Message(len) => {
                    let Some(body) = self.input.take(len) else {
                        return Ok(None);
                    };
                    let msg = decode_body(body)?;
                    self.at.after_full(&msg);
                    self.step = Step::Type;
                    return Ok(Some(msg));
                }
            }
        }
    }
}

fn check_limit(len: u64) -> Result<(), DecodeError> {
    if len > MESSAGE_LIMIT {
        return Err(DecodeError::TooLarge {
            len,
            limit: MESSAGE_LIMIT,
        });
    }
    Ok(())
}
