//! Message types and who may send them; the checks a message passes before it touches any state.

use ferrite_proto::raftpb::{Message, MessageType};

use crate::error::Error;

/// The ID that names nobody.
pub const NONE: u64 = 0;
/// Addressee of the log-writing work, with asynchronous storage writes.
pub const LOCAL_APPEND_THREAD: u64 = u64::MAX;
/// Addressee of the applying work, with asynchronous storage writes.
pub const LOCAL_APPLY_THREAD: u64 = u64::MAX - 1;

/// The context of a vote request that a leadership transfer started: it overrides leases.
pub(crate) const CAMPAIGN_TRANSFER: &[u8] = b"CampaignTransfer";

/// Whether messages of this type never travel between members.
#[must_use]
pub fn is_local_msg(kind: MessageType) -> bool {
    use MessageType::*;
    matches!(
        kind,
        MsgHup
            | MsgBeat
            | MsgUnreachable
            | MsgSnapStatus
            | MsgCheckQuorum
            | MsgStorageAppend
            | MsgStorageAppendResp
            | MsgStorageApply
            | MsgStorageApplyResp
    )
}

/// Whether messages of this type answer another; they count only from known members.
#[must_use]
pub fn is_response_msg(kind: MessageType) -> bool {
    use MessageType::*;
    matches!(
        kind,
        MsgAppResp
            | MsgVoteResp
            | MsgHeartbeatResp
            | MsgUnreachable
            | MsgReadIndexResp
            | MsgPreVoteResp
            | MsgStorageAppendResp
            | MsgStorageApplyResp
    )
}

/// Whether the ID is one of the local threads'.
#[must_use]
pub fn is_local_target(id: u64) -> bool {
    id == LOCAL_APPEND_THREAD || id == LOCAL_APPLY_THREAD
}

/// A message of the given type, all else empty.
pub(crate) fn new_message(kind: MessageType, to: u64) -> Message {
    Message {
        msg_type: kind as i32,
        to,
        ..Message::default()
    }
}

/// Terms and snapshot indexes above this are refused, so that counting on from one never overflows. No
/// cluster gets there.
const MAX_COUNTER: u64 = u64::MAX / 2;

/// The refusal of a message, with its name and sender.
pub(crate) fn invalid(m: &Message, reason: &'static str) -> Error {
    let kind = match MessageType::try_from(m.msg_type) {
        Ok(kind) => kind.as_str_name().to_owned(),
        Err(_) => format!("message of unknown type {}", m.msg_type),
    };
    Error::InvalidMessage {
        kind,
        from: m.from,
        reason,
    }
}

/// Checks what a message must satisfy on its own, whatever the receiver's state is. `own_id` is the
/// receiver. Everything that later code relies on without asking again is asked here.
pub(crate) fn check(m: &Message, own_id: u64) -> Result<MessageType, Error> {
    use MessageType::*;
    let Ok(kind) = MessageType::try_from(m.msg_type) else {
        return Err(invalid(m, "its type is unknown to this version"));
    };
    let from_local = matches!(kind, MsgStorageAppendResp | MsgStorageApplyResp);
    if is_local_target(m.from) && !from_local {
        return Err(invalid(m, "it names no member as its sender"));
    }
    if m.term > MAX_COUNTER {
        return Err(invalid(m, "its term is impossibly high"));
    }
    match kind {
        MsgApp | MsgSnap | MsgHeartbeat | MsgVote | MsgPreVote | MsgTimeoutNow
        | MsgReadIndexResp | MsgHeartbeatResp => {
            check_sender(m)?;
            if m.from == own_id {
                return Err(invalid(m, "a member does not send this to itself"));
            }
        }
        MsgAppResp | MsgVoteResp | MsgPreVoteResp => check_sender(m)?,
        MsgProp if m.entries.is_empty() => {
            return Err(invalid(m, "a proposal must hold at least one entry"));
        }
        MsgReadIndex if m.entries.len() != 1 => {
            return Err(invalid(m, "a read request must hold exactly one entry"));
        }
        _ => {}
    }
    match kind {
        MsgApp => check_entries(m)?,
        MsgSnap => check_snapshot(m)?,
        _ => {}
    }
    Ok(kind)
}

/// Messages of the protocol proper name their sender and the term they were sent in.
fn check_sender(m: &Message) -> Result<(), Error> {
    if m.term == 0 {
        return Err(invalid(m, "it carries no term"));
    }
    if m.from == NONE {
        return Err(invalid(m, "it names no member as its sender"));
    }
    Ok(())
}

/// The entries must follow `(log_term, index)` without a gap, terms never falling nor passing the
/// sender's.
fn check_entries(m: &Message) -> Result<(), Error> {
    let (mut index, mut term) = (m.index, m.log_term);
    for e in &m.entries {
        // The highest index is never used, so that "the next index" always exists.
        index = match index.checked_add(1) {
            Some(next) if next < u64::MAX => next,
            _ => return Err(invalid(m, "its indexes overflow")),
        };
        if e.index != index {
            return Err(invalid(m, "its entries are not contiguous"));
        }
        if e.term < term {
            return Err(invalid(m, "the terms of its entries fall"));
        }
        term = e.term;
    }
    if term > m.term {
        return Err(invalid(m, "it holds a term newer than its sender's"));
    }
    Ok(())
}

fn check_snapshot(m: &Message) -> Result<(), Error> {
    let Some(meta) = m.snapshot.as_ref().and_then(|s| s.metadata.as_ref()) else {
        return Ok(()); // stands for an empty snapshot, which the receiver passes over
    };
    if meta.index > MAX_COUNTER {
        return Err(invalid(m, "its snapshot's index is impossibly high"));
    }
    if meta.term > m.term {
        return Err(invalid(m, "its snapshot's term is newer than its sender's"));
    }
    Ok(())
}
