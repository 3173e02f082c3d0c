//! The two sizes of an entry: as encoded (limits of messages and of apply batches) and of its payload
//! alone (limits of what is in flight and uncommitted).

use ferrite_proto::raftpb::Entry;
use prost::Message as _;

/// Encoded bytes of the entries.
pub(crate) fn encoded_size(entries: &[Entry]) -> u64 {
    entries.iter().map(|e| e.encoded_len() as u64).sum()
}

/// Payload bytes of the entries. An empty entry counts nothing, so it is never refused for its size.
pub(crate) fn payload_size(entries: &[Entry]) -> u64 {
    entries.iter().map(|e| e.data.len() as u64).sum()
}

/// The longest prefix of at most `max_size` encoded bytes, yet at least one entry if there is any.
pub(crate) fn limit_size(entries: &[Entry], max_size: u64) -> &[Entry] {
    if max_size == u64::MAX {
        return entries;
    }
    let mut size = 0u64;
    for (i, e) in entries.iter().enumerate() {
        size += e.encoded_len() as u64;
        if size > max_size && i > 0 {
            return &entries[..i];
        }
    }
    entries
}
