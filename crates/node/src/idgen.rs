//! Request ids: unique in the cluster without asking anybody.
//!
//! High 16 bits: low 16 bits of the member id. Then 40 bits of unix milliseconds at start and 8 bits
//! of counter; the next id adds one to the low 48 bits. (etcd's own layout.)
//!
//! A clock that was set back, or begins at the same moment at every start, would give ids out again while requests
//! that bear them are still on their way into the log: whoever waits would be answered with what another asked for.
//! So a member that has run before does not rely on the clock: it begins behind the last id of its own in its log, and
//! by chance up to hours later still, for what is on its way may be in no log that it has.

use std::sync::atomic::{AtomicU64, Ordering};

use ferrite_mutate::mutation;
use ferrite_proto::etcdserverpb::RequestHeader;
use ferrite_proto::raftpb::{ConfChange, Entry, EntryType};
use prost::Message;

const LOW_48: u64 = (1 << 48) - 1;
/// Requests of an earlier life that may be on their way and not in the own log: more than wait anywhere.
const UNDER_WAY_MAX: u64 = 1 << 16;
/// How far chance goes: five hours of the clock.
const CHANCE: u64 = (1 << 32) - 1;

/// A source of ids.
#[derive(Debug)]
pub struct IdGenerator {
    prefix: u64,
    low: AtomicU64,
}

/// What an entry says of who asked for it.
#[derive(Clone, PartialEq, Message)]
struct Asked {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, optional, tag = "100")]
    header: Option<RequestHeader>,
}

impl IdGenerator {
    /// Starts from the member and the wall clock, in milliseconds since 1970. `log` is what a member that has run
    /// before still has of its log; `chance` is any number that is another one at every start.
    pub fn new(member_id: u64, unix_ms: u64, log: Option<&[Entry]>, chance: u64) -> Self {
        let prefix = (member_id & 0xffff) << 48;
        let clock = (unix_ms & ((1 << 40) - 1)) << 8;
        let mut low = clock;
        if let Some(log) = log.filter(|_| !mutation!("ids-by-the-clock-alone")) {
            let own = log.iter().filter_map(id_of);
            let last = own.filter(|id| id & !LOW_48 == prefix).max();
            let last = last.map_or(0, |id| (id & LOW_48) + UNDER_WAY_MAX);
            low = clock.max(last) + (chance & CHANCE);
        }
        IdGenerator {
            prefix,
            low: AtomicU64::new(low & LOW_48),
        }
    }

    /// The next id; never 0.
    pub fn next(&self) -> u64 {
        loop {
            let low = self.low.fetch_add(1, Ordering::Relaxed).wrapping_add(1) & LOW_48;
            let id = self.prefix | low;
            if id != 0 {
                return id;
            }
        }
    }
}

/// The id of the request that an entry is. What cannot be read is for others to complain of.
fn id_of(entry: &Entry) -> Option<u64> {
    match EntryType::try_from(entry.entry_type).ok()? {
        EntryType::EntryNormal => {
            let asked = Asked::decode(entry.data.clone()).ok()?;
            Some(asked.header.map_or(asked.id, |header| header.id))
        }
        EntryType::EntryConfChange => {
            let change = ConfChange::decode(entry.data.clone()).ok()?;
            Some(change.id)
        }
        EntryType::EntryConfChangeV2 => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrite_proto::etcdserverpb::InternalRaftRequest;

    #[test]
    fn ids_carry_member_and_time_and_never_repeat() {
        let ids = IdGenerator::new(0x9772_fa93_5aee_2fcb, 0x12_3456_789a, None, 7);
        let first = ids.next();
        assert_eq!(first >> 48, 0x2fcb);
        assert_eq!((first & LOW_48) >> 8, 0x12_3456_789a);
        assert_eq!(ids.next(), first + 1);
    }

    fn asked(id: u64) -> Entry {
        let request = InternalRaftRequest {
            header: Some(RequestHeader {
                id,
                ..RequestHeader::default()
            }),
            ..InternalRaftRequest::default()
        };
        Entry {
            data: request.encode_to_vec().into(),
            ..Entry::default()
        }
    }

    #[test]
    fn a_clock_that_was_set_back_gives_no_id_out_again() {
        const MEMBER: u64 = 0x2fcb;
        const MS: u64 = 1_000_000;
        let before = IdGenerator::new(MEMBER, MS, None, 0);
        let change = ConfChange {
            id: before.next(),
            ..ConfChange::default()
        };
        let change = Entry {
            entry_type: EntryType::EntryConfChange as i32,
            data: change.encode_to_vec().into(),
            ..Entry::default()
        };
        let last = before.next();
        // Another member's ids say nothing of this one's.
        let log = [change, asked(last), asked(0x1111 << 48 | LOW_48 >> 1)];
        for ms in [MS, MS - 5_000, 0] {
            let after = IdGenerator::new(MEMBER, ms, Some(&log), 3).next();
            assert_eq!(after, last + UNDER_WAY_MAX + 3 + 1, "the clock says {ms}");
        }
        let right = IdGenerator::new(MEMBER, MS + 5_000, Some(&log), 3).next();
        assert_eq!(right & LOW_48, ((MS + 5_000) << 8) + 3 + 1);
        // A log that holds nothing of this member's may be without what is on its way, too.
        let blind = IdGenerator::new(MEMBER, MS, Some(&log[2..]), 3).next();
        assert_eq!(blind & LOW_48, (MS << 8) + 3 + 1);
    }
}
