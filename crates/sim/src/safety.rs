//! Raft's safety properties, looked at after every step: one leader a term, one vote a term, log
//! matching, leader completeness. (State-machine safety is the model's.)

use std::collections::BTreeMap;

use ferrite_node::stage::raft::PersistJob;
use ferrite_proto::raftpb::{Entry, Message, MessageType};
use ferrite_raft::{MemStorage, RawNode, Storage, StorageError};

use crate::model::Model;

/// Terms by index, as far as known: the log of one member as it was last told to write it.
pub type Shadow = BTreeMap<u64, u64>;

/// See the module.
#[derive(Debug, Default)]
pub struct Safety {
    leaders: BTreeMap<u64, u64>,
    votes: BTreeMap<(u64, u64), u64>,
    /// (index, term) → term before it and checksum of the content.
    entries: BTreeMap<(u64, u64), (Option<u64>, u32)>,
}

/// The shadow of a log as it was recovered.
pub fn shadow_of(storage: &MemStorage) -> Shadow {
    let mut shadow: Shadow = storage
        .log()
        .iter()
        .map(|entry| (entry.index, entry.term))
        .collect();
    let before = storage.first_index() - 1;
    if let Ok(term) = storage.term(before) {
        shadow.insert(before, term);
    }
    shadow
}

impl Safety {
    /// A member leads in a term, and has just come to.
    pub fn elected(&mut self, core: &RawNode<MemStorage>, model: &Model) -> Result<(), String> {
        let (id, term) = (core.id(), core.term());
        let first = *self.leaders.entry(term).or_insert(id);
        if first != id {
            return Err(format!("two leaders in term {term}: {first:x} and {id:x}"));
        }
        let index = model.committed_by(term);
        let Some(wanted) = model.term(index) else {
            return Ok(());
        };
        match core.entry_term(index) {
            Ok(found) if found == wanted => Ok(()),
            Err(StorageError::Compacted) => Ok(()),
            Ok(found) => Err(format!(
                "leader {id:x} of term {term} has entry {index} of term {found}, committed is one of term {wanted}"
            )),
            Err(error) => Err(format!(
                "leader {id:x} of term {term} lacks committed entry {index}: {error}"
            )),
        }
    }

    /// A message leaves a member, or returns to it because what it stands for is durable. (A request
    /// for votes is no vote yet: the candidate's own counts once it is written.)
    pub fn sends(&mut self, message: &Message) -> Result<(), String> {
        if message.msg_type() != MessageType::MsgVoteResp || message.reject {
            return Ok(());
        }
        let candidate = message.to;
        let (voter, term) = (message.from, message.term);
        let first = *self.votes.entry((voter, term)).or_insert(candidate);
        if first != candidate {
            return Err(format!(
                "{voter:x} votes for {first:x} and for {candidate:x} in term {term}"
            ));
        }
        Ok(())
    }

    /// A member is about to write a part of its log.
    pub fn persists(&mut self, shadow: &mut Shadow, job: &PersistJob) -> Result<(), String> {
        if let Some(metadata) = job
            .snapshot
            .as_ref()
            .and_then(|snapshot| snapshot.metadata.as_ref())
        {
            shadow.clear();
            shadow.insert(metadata.index, metadata.term);
        }
        if let Some(first) = job.entries.first() {
            shadow.split_off(&first.index);
        }
        for entry in &job.entries {
            let before = entry
                .index
                .checked_sub(1)
                .and_then(|index| shadow.get(&index).copied());
            self.matches(entry, before)?;
            shadow.insert(entry.index, entry.term);
        }
        Ok(())
    }

    fn matches(&mut self, entry: &Entry, before: Option<u64>) -> Result<(), String> {
        let mut sum = entry.entry_type as u32;
        for byte in &entry.data {
            sum = sum.rotate_left(5) ^ u32::from(*byte).wrapping_mul(0x9e37_79b1);
        }
        let known = self
            .entries
            .entry((entry.index, entry.term))
            .or_insert((before, sum));
        let chain = known.0.is_none() || before.is_none() || known.0 == before;
        if !chain || known.1 != sum {
            return Err(format!(
                "logs do not match: entry {} of term {} differs, or what is before it",
                entry.index, entry.term
            ));
        }
        known.0 = known.0.or(before);
        Ok(())
    }
}
