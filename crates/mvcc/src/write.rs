//! Writing: one transaction at a time, at the revision after the current one.
//!
//! Changes go into index and buffers at once, at a revision readers do not look at yet;
//! [`WriteTxn::end`] makes all of them visible in one step.

use std::cell::Cell;
use std::sync::Arc;

use bytes::{BufMut, Bytes};
use ferrite_mutate::mutation;
use ferrite_proto::mvccpb::KeyValue;
use parking_lot::MutexGuard;
use prost::Message;

use crate::index::Span;
use crate::range::{RangeOptions, RangeResult};
use crate::schema::{Bucket, BucketKey, Revision};
use crate::store::{Error, Leases, Store, Writer};

/// Keys deleted under one lock: readers wait that long.
const DELETE_SLICE: usize = 256;

/// Kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A key was created or changed.
    Put,
    /// A key was deleted.
    Delete,
}

/// One change. Its place in [`Changes::events`] is its sub-revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Kind of the change.
    pub kind: EventKind,
    /// The key-value after it; of a deletion only key and `mod_revision`. Its bytes are the
    /// store's own, not the request's.
    pub kv: KeyValue,
}

impl From<Event> for ferrite_proto::mvccpb::Event {
    fn from(event: Event) -> Self {
        use ferrite_proto::mvccpb::event::EventType;
        let kind = match event.kind {
            EventKind::Put => EventType::Put,
            EventKind::Delete => EventType::Delete,
        };
        Self {
            r#type: kind as i32,
            kv: Some(event.kv),
            prev_kv: None,
        }
    }
}

/// What a transaction did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    /// Current revision after it: the changes' own, or the unchanged current one.
    pub revision: i64,
    /// The changes in order; empty when nothing changed.
    pub events: Vec<Event>,
}

/// A write transaction. Ends with [`WriteTxn::end`]; dropped with changes in it, it leaves a store
/// that must not be used any more, and nothing pending reaches the file.
pub struct WriteTxn<'a> {
    store: &'a Store,
    _writer: MutexGuard<'a, Writer>,
    begin: i64,
    events: Vec<Event>,
    ended: bool,
    /// Operations since the beginning, or since [`WriteTxn::decided`].
    ranges: Cell<u64>,
    puts: u64,
    deletes: u64,
    put_bytes: u64,
}

impl Store {
    /// Begins a write transaction. Waits while another one, or a step of a compaction, runs.
    pub fn write(&self) -> WriteTxn<'_> {
        let writer = self.writer.lock();
        WriteTxn {
            store: self,
            _writer: writer,
            begin: self.current_revision(),
            events: Vec::new(),
            ended: false,
            ranges: Cell::new(0),
            puts: 0,
            deletes: 0,
            put_bytes: 0,
        }
    }
}

impl WriteTxn<'_> {
    /// The revision the transaction's own reads see.
    pub fn revision(&self) -> i64 {
        self.begin + i64::from(!self.events.is_empty())
    }

    /// Changes so far.
    pub fn changes(&self) -> &[Event] {
        &self.events
    }

    /// Puts a key. The lease must exist, or be what the key already has. Returns the revision.
    pub fn put(&mut self, key: &[u8], value: &[u8], lease: i64, leases: &mut dyn Leases) -> i64 {
        self.puts += 1;
        self.put_bytes += (key.len() + value.len()) as u64;
        let main = self.begin + 1;
        let sub = self.next_sub();
        let at = Revision::new(main, i64::from(sub));
        let mut state = self.store.state.write();
        let (created, version) = state.index.put(key, main, sub);
        let (stored, kv) = encode(key, value, created, main, version, lease);
        self.store
            .backend
            .put_owned(Bucket::Key, &at.encode(), stored);
        drop(state);
        self.events.push(Event {
            kind: EventKind::Put,
            kv,
        });

        let before = if version > 1 { leases.lease_of(key) } else { 0 };
        if before != lease {
            if before != 0 {
                leases.detach(before, key);
            }
            // a key is never attached to a lease that is gone
            if lease != 0 && leases.exists(lease) {
                leases.attach(lease, key);
            }
        }
        main
    }

    /// Deletes the keys from `key` to before `range_end`; returns how many.
    pub fn delete_range(&mut self, key: &[u8], range_end: &[u8], leases: &mut dyn Leases) -> i64 {
        self.deletes += 1;
        let span = Span::new(key, range_end);
        let main = self.begin + 1;
        let first = self.events.len();
        let mut resume = None;
        loop {
            let before = self.events.len();
            let mut state = self.store.state.write();
            resume = state
                .index
                .delete(span, &resume, main, DELETE_SLICE, |key| {
                    let sub = sub_of(self.events.len());
                    let (stored, kv) = encode_tombstone(key, main);
                    let at = BucketKey {
                        revision: Revision::new(main, i64::from(sub)),
                        tombstone: true,
                    };
                    self.store
                        .backend
                        .put_owned(Bucket::Key, &at.encode(), stored);
                    self.events.push(Event {
                        kind: EventKind::Delete,
                        kv,
                    });
                    sub
                });
            drop(state);
            for event in &self.events[before..] {
                let lease = leases.lease_of(&event.kv.key);
                if lease != 0 {
                    leases.detach(lease, &event.kv.key);
                }
            }
            if resume.is_none() || matches!(span, Span::Key(_)) {
                break;
            }
        }
        (self.events.len() - first) as i64
    }

    /// Reads, seeing what this transaction wrote.
    ///
    /// # Errors
    /// As [`Store::range`].
    pub fn range(
        &self,
        key: &[u8],
        range_end: &[u8],
        options: RangeOptions,
    ) -> Result<RangeResult, Error> {
        self.ranges.set(self.ranges.get() + 1);
        self.store
            .range_at(Span::new(key, range_end), options, Some(self.revision()))
    }

    /// Makes the changes visible, all at once, and returns them.
    pub fn end(mut self) -> Changes {
        self.ended = true;
        let mut events = std::mem::take(&mut self.events);
        if mutation!("txn-tells-twice") && events.len() > 1 {
            events.extend_from_within(..1);
        }
        let mut revision = self.begin;
        if !events.is_empty() {
            let mut state = self.store.state.write();
            assert_eq!(state.current, self.begin, "one writer at a time");
            state.current += 1;
            revision = state.current;
            self.store.publish(state.current, state.compacted);
        }
        Changes { revision, events }
    }

    /// What was read so far served to decide what will be done: it counts for itself.
    pub(crate) fn decided(&mut self) {
        self.count();
    }

    fn count(&mut self) {
        let tally = &self.store.tally;
        let (ranges, puts, deletes) = (
            self.ranges.take(),
            std::mem::take(&mut self.puts),
            std::mem::take(&mut self.deletes),
        );
        if ranges + puts + deletes > 1 {
            tally.txns.inc();
        }
        // Most transactions are of one kind: nothing is added where there is nothing.
        for (counter, n) in [(&tally.puts, puts), (&tally.deletes, deletes)] {
            if n > 0 {
                counter.add(n);
            }
        }
        if ranges > 0 {
            tally.ranges.add(ranges);
        }
        tally.put_bytes.add(std::mem::take(&mut self.put_bytes));
    }

    fn next_sub(&self) -> u32 {
        sub_of(self.events.len())
    }
}

impl Drop for WriteTxn<'_> {
    fn drop(&mut self) {
        self.count();
        if !self.ended && !self.events.is_empty() {
            self.store.backend.poison();
        }
    }
}

fn sub_of(changes: usize) -> u32 {
    u32::try_from(changes).unwrap_or_else(|_| panic!("a transaction has under 2^32 changes"))
}

/// The stored form of a key-value, and the key-value as slices of it.
fn encode(
    key: &[u8],
    value: &[u8],
    create_revision: i64,
    mod_revision: i64,
    version: i64,
    lease: i64,
) -> (Bytes, KeyValue) {
    // numbers by the generated code, bytes by hand: no copy of key and value but into the result
    let numbers = KeyValue {
        create_revision,
        mod_revision,
        version,
        ..KeyValue::default()
    };
    let tail = KeyValue {
        lease,
        ..KeyValue::default()
    };
    let head_len = bytes_field_len(key);
    let value_len = bytes_field_len(value);
    let total = head_len + numbers.encoded_len() + value_len + tail.encoded_len();
    let mut out = Vec::with_capacity(total);
    put_bytes_field(1, key, &mut out);
    let key_end = out.len();
    // writing to a Vec cannot run out of room
    numbers.encode_raw(&mut out);
    put_bytes_field(5, value, &mut out);
    let value_end = out.len();
    tail.encode_raw(&mut out);
    let stored = Bytes::from(out);
    let kv = KeyValue {
        key: stored.slice(key_end - key.len()..key_end),
        value: stored.slice(value_end - value.len()..value_end),
        create_revision,
        mod_revision,
        version,
        lease,
    };
    (stored, kv)
}

fn encode_tombstone(key: &Arc<[u8]>, main: i64) -> (Bytes, KeyValue) {
    let mut out = Vec::with_capacity(bytes_field_len(key));
    put_bytes_field(1, key, &mut out);
    let stored = Bytes::from(out);
    let kv = KeyValue {
        key: stored.slice(stored.len() - key.len()..),
        mod_revision: main,
        ..KeyValue::default()
    };
    (stored, kv)
}

fn bytes_field_len(bytes: &[u8]) -> usize {
    if bytes.is_empty() {
        return 0;
    }
    1 + prost::encoding::encoded_len_varint(bytes.len() as u64) + bytes.len()
}

fn put_bytes_field(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.is_empty() {
        out.put_u8(tag << 3 | 2);
        prost::encoding::encode_varint(bytes.len() as u64, out);
        out.put_slice(bytes);
    }
}
