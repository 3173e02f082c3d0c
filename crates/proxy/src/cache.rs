//! Answers to reads, kept until something in their range is written through this proxy.
//!
//! Only serializable reads are answered from here: they may be old by their nature. How old, only the
//! proxy's own writes bound; whoever wants what others wrote does not ask for a serializable read. An
//! answer is kept for one token alone: whoever may not read a key does not get it from here.

use std::collections::{BTreeMap, HashMap, HashSet};

use bytes::Bytes;
use ferrite_client::pb;
use ferrite_proto::mvccpb::KeyValue;
use prost::Message as _;

/// Answers to keep: the original's number.
pub const ENTRIES_MAX: usize = 2048;
/// Bytes of answers to keep. The original has no such limit; two thousand ranges of a megabyte each would
/// be more than a proxy's machine has.
const BYTES_MAX: usize = 64 << 20;

/// Who asked for what, as bytes.
type Key = Vec<u8>;
/// A range of keys as requests have it.
type Range = (Bytes, Bytes);

struct Entry {
    answer: pb::RangeResponse,
    bytes: usize,
    /// When it was used last.
    used: u64,
    range: Option<Range>,
}

/// Answers by what was asked.
pub struct Cache {
    entries: HashMap<Key, Entry>,
    /// The same by age.
    by_use: BTreeMap<u64, Key>,
    /// Answers of the newest revision about one key: these a write makes old.
    by_key: HashMap<Bytes, HashSet<Key>>,
    /// The same about ranges: each has to be looked at when something is written.
    by_range: HashMap<Range, HashSet<Key>>,
    bytes: usize,
    clock: u64,
    compacted: i64,
    /// The newest revision that a write through this proxy made.
    written: i64,
}

/// What the cache knows of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// Its answer.
    Answer(pb::RangeResponse),
    /// That its revision is gone.
    Compacted,
    /// Nothing.
    Nothing,
}

impl Default for Cache {
    fn default() -> Self {
        Cache {
            entries: HashMap::new(),
            by_use: BTreeMap::new(),
            by_key: HashMap::new(),
            by_range: HashMap::new(),
            bytes: 0,
            clock: 0,
            compacted: -1,
            written: 0,
        }
    }
}

/// A copy that holds nothing but itself: what comes from a wire keeps the whole buffer alive that it came in,
/// which is many times larger.
pub(crate) fn alone(bytes: &Bytes) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// The same of a pair.
pub(crate) fn pair_alone(pair: &KeyValue) -> KeyValue {
    KeyValue {
        key: alone(&pair.key),
        value: alone(&pair.value),
        ..pair.clone()
    }
}

/// Whether two ranges have a key in common.
pub(crate) fn meet(a: &Range, b: (&[u8], &[u8])) -> bool {
    before_end(&a.0, b.0, b.1) && before_end(b.0, &a.0, &a.1)
}

/// Whether a key is before the end of the range that begins at `from`.
fn before_end(key: &[u8], from: &[u8], end: &[u8]) -> bool {
    match end {
        b"" => key <= from,
        b"\0" => true,
        end => key < end,
    }
}

impl Cache {
    fn key(token: &[u8], request: &pb::RangeRequest) -> Key {
        let mut key = Vec::with_capacity(4 + token.len() + request.encoded_len());
        key.extend((token.len() as u64).to_be_bytes());
        key.extend_from_slice(token);
        key.extend(request.encode_to_vec());
        key
    }

    /// Looks up a serializable request.
    pub fn get(&mut self, token: &[u8], request: &pb::RangeRequest) -> Found {
        let key = Self::key(token, request);
        if request.revision > 0 && request.revision < self.compacted {
            self.remove(&key);
            return Found::Compacted;
        }
        self.clock += 1;
        let Some(entry) = self.entries.get_mut(&key) else {
            return Found::Nothing;
        };
        self.by_use.remove(&entry.used);
        entry.used = self.clock;
        self.by_use.insert(self.clock, key);
        Found::Answer(entry.answer.clone())
    }

    /// Keeps an answer. The request counts as serializable from here on.
    pub fn add(&mut self, token: &[u8], request: &pb::RangeRequest, answer: &pb::RangeResponse) {
        let bytes = answer.encoded_len();
        let revision = answer.header.as_ref().map_or(0, |header| header.revision);
        // It was under way while something was written, or comes from a member that lags.
        if request.revision == 0 && revision < self.written {
            return;
        }
        if request.revision < 0
            || (request.revision > 0 && request.revision <= self.compacted)
            || bytes > BYTES_MAX / 8
        {
            return;
        }
        let request = pb::RangeRequest {
            serializable: true,
            ..request.clone()
        };
        let key = Self::key(token, &request);
        self.remove(&key);
        while self.entries.len() >= ENTRIES_MAX || self.bytes + bytes > BYTES_MAX {
            let Some((_, oldest)) = self.by_use.pop_first() else {
                break;
            };
            self.remove(&oldest);
        }
        // What was true at a revision stays true.
        let range =
            (request.revision == 0).then(|| (alone(&request.key), alone(&request.range_end)));
        if let Some(range) = &range {
            let keys = match range.1.is_empty() {
                true => self.by_key.entry(range.0.clone()).or_default(),
                false => self.by_range.entry(range.clone()).or_default(),
            };
            keys.insert(key.clone());
        }
        self.clock += 1;
        self.by_use.insert(self.clock, key.clone());
        self.bytes += bytes + key.len();
        let entry = Entry {
            answer: pb::RangeResponse {
                header: answer.header,
                kvs: answer.kvs.iter().map(pair_alone).collect(),
                ..*answer
            },
            bytes: bytes + key.len(),
            used: self.clock,
            range,
        };
        self.entries.insert(key, entry);
    }

    fn remove(&mut self, key: &Key) {
        let Some(entry) = self.entries.remove(key) else {
            return;
        };
        self.by_use.remove(&entry.used);
        self.bytes -= entry.bytes;
        let Some(range) = entry.range else { return };
        let keys = match range.1.is_empty() {
            true => self.by_key.get_mut(&range.0),
            false => self.by_range.get_mut(&range),
        };
        let Some(keys) = keys else { return };
        keys.remove(key);
        if keys.is_empty() {
            match range.1.is_empty() {
                true => self.by_key.remove(&range.0),
                false => self.by_range.remove(&range),
            };
        }
    }

    /// Something in this range has been written, or may have been.
    pub fn invalidate(&mut self, key: &[u8], end: &[u8]) {
        let mut old: Vec<Key> = self
            .by_range
            .iter()
            .filter(|(range, _)| meet(range, (key, end)))
            .flat_map(|(_, keys)| keys.iter().cloned())
            .collect();
        if end.is_empty() {
            old.extend(self.by_key.get(key).into_iter().flatten().cloned());
        } else {
            let singles = self.by_key.iter();
            let inside =
                singles.filter(|(one, _)| before_end(key, one, b"") && before_end(one, key, end));
            old.extend(inside.flat_map(|(_, keys)| keys.iter().cloned()));
        }
        for key in old {
            self.remove(&key);
        }
    }

    /// A write through this proxy made this revision: what is older is not kept any more.
    pub fn wrote(&mut self, revision: i64) {
        self.written = self.written.max(revision);
    }

    /// Everything before this revision is gone.
    pub fn compact(&mut self, revision: i64) {
        self.compacted = self.compacted.max(revision);
    }

    /// Answers that are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(key: &'static str, end: &'static str) -> pb::RangeRequest {
        pb::RangeRequest {
            key: key.into(),
            range_end: end.into(),
            serializable: true,
            ..Default::default()
        }
    }

    fn answer(count: i64) -> pb::RangeResponse {
        pb::RangeResponse {
            count,
            ..Default::default()
        }
    }

    fn kept(cache: &mut Cache, request: &pb::RangeRequest) -> Option<i64> {
        match cache.get(b"", request) {
            Found::Answer(answer) => Some(answer.count),
            Found::Compacted => Some(-1),
            Found::Nothing => None,
        }
    }

    #[test]
    fn a_write_forgets_what_it_concerns_and_nothing_else() {
        let ranges = [
            range("a", ""),
            range("b", ""),
            range("a", "c"),
            range("c", "d"),
            range("b", "\0"),
        ];
        for (write, left) in [
            (("a", ""), [false, true, false, true, true]),
            (("b", ""), [true, false, false, true, false]),
            (("c", ""), [true, true, true, false, false]),
            (("d", ""), [true, true, true, true, false]),
            (("a", "b"), [false, true, false, true, true]),
            (("\0", "\0"), [false; 5]),
            (("d", "\0"), [true, true, true, true, false]),
        ] {
            let mut cache = Cache::default();
            for request in &ranges {
                cache.add(b"", request, &answer(1));
            }
            cache.invalidate(write.0.as_bytes(), write.1.as_bytes());
            let found = ranges
                .clone()
                .map(|request| kept(&mut cache, &request).is_some());
            assert_eq!(found, left, "{write:?}");
        }
    }

    #[test]
    fn a_linearizable_answer_serves_serializable_reads_of_the_same_caller() {
        let mut cache = Cache::default();
        let linearizable = pb::RangeRequest {
            serializable: false,
            ..range("a", "")
        };
        cache.add(b"alice", &linearizable, &answer(1));
        assert!(matches!(
            cache.get(b"alice", &range("a", "")),
            Found::Answer(_)
        ));
        assert_eq!(cache.get(b"bob", &range("a", "")), Found::Nothing);
        assert_eq!(cache.get(b"", &range("a", "")), Found::Nothing);
    }

    #[test]
    fn what_was_true_at_a_revision_stays_until_that_is_compacted() {
        let mut cache = Cache::default();
        let at = |revision| pb::RangeRequest {
            revision,
            ..range("a", "")
        };
        cache.add(b"", &at(5), &answer(5));
        cache.invalidate(b"a", b"");
        assert_eq!(kept(&mut cache, &at(5)), Some(5));
        cache.compact(7);
        assert_eq!(kept(&mut cache, &at(5)), Some(-1));
        assert_eq!(kept(&mut cache, &at(7)), None);
        cache.add(b"", &at(6), &answer(6));
        assert!(cache.is_empty());
    }

    #[test]
    fn an_answer_that_a_write_overtook_is_not_kept() {
        let mut cache = Cache::default();
        let at = |revision| pb::RangeResponse {
            header: Some(pb::ResponseHeader {
                revision,
                ..Default::default()
            }),
            count: revision,
            ..Default::default()
        };
        cache.wrote(7);
        cache.add(b"", &range("a", ""), &at(6));
        assert_eq!(kept(&mut cache, &range("a", "")), None);
        cache.add(b"", &range("a", ""), &at(7));
        assert_eq!(kept(&mut cache, &range("a", "")), Some(7));
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let mut cache = Cache::default();
        let at = |revision| pb::RangeRequest {
            revision,
            ..range("a", "")
        };
        for revision in 1..=ENTRIES_MAX as i64 {
            cache.add(b"", &at(revision), &answer(revision));
        }
        assert_eq!(kept(&mut cache, &at(1)), Some(1));
        cache.add(b"", &at(9_999), &answer(9_999));
        assert_eq!(cache.len(), ENTRIES_MAX);
        assert_eq!(kept(&mut cache, &at(1)), Some(1));
        assert_eq!(kept(&mut cache, &at(2)), None);
        assert_eq!(cache.by_use.len(), ENTRIES_MAX);
    }
}
