//! Membership changes as log entries: version 1 (one change) and version 2 (several, perhaps joint).

use bytes::Bytes;
use ferrite_proto::raftpb::{
    ConfChange, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, Entry,
    EntryType,
};
use prost::Message as _;

use crate::error::Error;

/// A membership change of either version.
pub trait ConfChangeLike {
    /// The same change in version 2's form.
    fn to_v2(&self) -> ConfChangeV2;
    /// The entry that carries it: a version 1 change keeps its own form.
    fn to_entry(&self) -> Entry;
}

impl ConfChangeLike for ConfChange {
    fn to_v2(&self) -> ConfChangeV2 {
        ConfChangeV2 {
            transition: ConfChangeTransition::Auto as i32,
            changes: vec![ConfChangeSingle {
                change_type: self.change_type,
                node_id: self.node_id,
            }],
            context: self.context.clone(),
        }
    }

    fn to_entry(&self) -> Entry {
        entry(EntryType::EntryConfChange, self.encode_to_vec().into())
    }
}

impl ConfChangeLike for ConfChangeV2 {
    fn to_v2(&self) -> ConfChangeV2 {
        self.clone()
    }

    fn to_entry(&self) -> Entry {
        entry(EntryType::EntryConfChangeV2, self.encode_to_vec().into())
    }
}

fn entry(kind: EntryType, data: Bytes) -> Entry {
    Entry {
        entry_type: kind as i32,
        data,
        ..Entry::default()
    }
}

/// The entry by which a leader ends a joint configuration on its own. It has no payload, so that no size
/// limit can refuse it.
pub(crate) fn leave_joint_entry() -> Entry {
    entry(EntryType::EntryConfChangeV2, Bytes::new())
}

/// Whether the entry changes the membership.
pub(crate) fn is_conf_change(entry: &Entry) -> bool {
    entry.entry_type == EntryType::EntryConfChange as i32
        || entry.entry_type == EntryType::EntryConfChangeV2 as i32
}

/// The change that an entry carries, whichever its version.
///
/// # Errors
/// `ConfChange` if the entry is of another type, or its data is not such a change.
pub fn decode_conf_change(entry: &Entry) -> Result<ConfChangeV2, Error> {
    let undecodable = |e: prost::DecodeError| {
        Error::ConfChange(format!("entry {} cannot be decoded: {e}", entry.index))
    };
    let change = match EntryType::try_from(entry.entry_type) {
        Ok(EntryType::EntryConfChange) => ConfChange::decode(entry.data.clone())
            .map_err(undecodable)?
            .to_v2(),
        Ok(EntryType::EntryConfChangeV2) => {
            ConfChangeV2::decode(entry.data.clone()).map_err(undecodable)?
        }
        _ => {
            let index = entry.index;
            return Err(Error::ConfChange(format!(
                "entry {index} is no membership change"
            )));
        }
    };
    Ok(change)
}

/// Refuses a change that no member could apply.
pub(crate) fn check(change: &ConfChangeV2) -> Result<(), Error> {
    if ConfChangeTransition::try_from(change.transition).is_err() {
        let n = change.transition;
        return Err(Error::ConfChange(format!("unknown transition {n}")));
    }
    for single in &change.changes {
        if ConfChangeType::try_from(single.change_type).is_err() {
            let n = single.change_type;
            return Err(Error::ConfChange(format!("unexpected conf type {n}")));
        }
    }
    Ok(())
}

/// How a change is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// At most one voter changes.
    Simple,
    /// Through a joint configuration, ended by the leader itself or by a further proposal.
    EnterJoint { auto_leave: bool },
    /// The empty change, which ends a joint configuration.
    LeaveJoint,
}

/// How the change is to be carried out. Some changes of several members could do without a joint
/// configuration; which ones depends on the configuration they meet, so they never do.
pub(crate) fn plan(change: &ConfChangeV2) -> Result<Plan, Error> {
    check(change)?;
    let auto = change.transition == ConfChangeTransition::Auto as i32;
    let explicit = change.transition == ConfChangeTransition::JointExplicit as i32;
    Ok(match change.changes.len() {
        0 if auto => Plan::LeaveJoint,
        0 | 1 if auto => Plan::Simple,
        _ => Plan::EnterJoint {
            auto_leave: !explicit,
        },
    })
}
