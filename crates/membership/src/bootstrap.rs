//! The log entries a new cluster starts with: one added voter each, in the order of their IDs.

use bytes::Bytes;
use ferrite_proto::raftpb::{ConfChange, ConfChangeType, Entry, EntryType};
use prost::encoding::{WireType, encode_key, encode_varint};

use crate::member::Member;

/// Term of the entries a cluster starts with.
pub const BOOTSTRAP_TERM: u64 = 1;

/// The entries 1 to n that every founding member puts into its log as already committed. The bytes
/// are those of etcd up to 3.6, which writes an explicit zero for the request's ID and for the type;
/// 3.7 reads them the same and itself leaves the zero ID out.
pub fn conf_change_for_bootstrap<'a>(members: impl IntoIterator<Item = &'a Member>) -> Vec<Entry> {
    let mut members: Vec<&Member> = members.into_iter().collect();
    members.sort_unstable_by_key(|member| member.id);
    let entry = |(index, member): (u64, &Member)| {
        let change = ConfChange {
            id: 0,
            change_type: ConfChangeType::ConfChangeAddNode as i32,
            node_id: member.id,
            context: member.to_json().into(),
        };
        Entry {
            entry_type: EntryType::EntryConfChange as i32,
            term: BOOTSTRAP_TERM,
            index,
            data: encode_explicit(&change),
        }
    };
    (1..).zip(members).map(entry).collect()
}

/// A conf change with every field written, zeros too, as etcd up to 3.6 does.
pub fn encode_explicit(change: &ConfChange) -> Bytes {
    let mut out = Vec::with_capacity(32 + change.context.len());
    let type_bits = i64::from(change.change_type) as u64;
    for (tag, value) in [(1, change.id), (2, type_bits), (3, change.node_id)] {
        encode_key(tag, WireType::Varint, &mut out);
        encode_varint(value, &mut out);
    }
    if !change.context.is_empty() {
        encode_key(4, WireType::LengthDelimited, &mut out);
        encode_varint(change.context.len() as u64, &mut out);
        out.extend_from_slice(&change.context);
    }
    out.into()
}
