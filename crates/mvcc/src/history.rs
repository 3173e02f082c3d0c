//! The past as events: what a watcher that is behind reads to catch up.

use std::ops::ControlFlow;

use bytes::Bytes;
use ferrite_mutate::mutation;
use ferrite_proto::mvccpb::KeyValue;

use crate::range::{decode, still_readable};
use crate::schema::{Bucket, BucketKey, Revision};
use crate::store::{Error, Store};
use crate::write::{Event, EventKind};

/// A piece of the past.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct History {
    /// Events in order, whole revisions only. Put events have the key-value, deletions key and
    /// `mod_revision`.
    pub events: Vec<Event>,
    /// First revision not in it: ask from here next. One above the current revision at the end.
    pub next: i64,
}

impl Store {
    /// The events from main revision `from` on, at least one revision's and about `max_events`.
    ///
    /// From the compacted revision on nothing is missing.
    ///
    /// # Errors
    /// [`Error::Compacted`] when `from` is below the compacted revision, or the file is damaged.
    pub fn history(&self, from: i64, max_events: usize) -> Result<History, Error> {
        let mut from = from;
        let (view, current) = {
            let state = self.state.read();
            still_readable(&state, from)?;
            if mutation!("history-after-compaction") && from == state.compacted {
                from += 1;
            }
            if from > state.current {
                return Ok(History {
                    events: Vec::new(),
                    next: from,
                });
            }
            let first = Revision::new(from.max(0), 0).encode();
            let end = Revision::new(state.current.saturating_add(1), 0).encode();
            let view = self.backend.view_of(Bucket::Key, &first, Some(&end));
            (view, state.current)
        };
        let first = Revision::new(from.max(0), 0).encode();
        let end = Revision::new(current.saturating_add(1), 0).encode();
        let mut history = History {
            events: Vec::new(),
            next: current + 1,
        };
        let mut last = 0;
        let mut bad = None;
        view.scan(Bucket::Key, &first, Some(&end), &mut |key, value| {
            let event = match event(key, value) {
                Ok(event) => event,
                Err(e) => {
                    bad = Some(e);
                    return ControlFlow::Break(());
                }
            };
            let main = event.kv.mod_revision;
            if main != last && history.events.len() >= max_events.max(1) {
                history.next = main;
                return ControlFlow::Break(());
            }
            last = main;
            history.events.push(event);
            ControlFlow::Continue(())
        })?;
        match bad {
            Some(bad) => Err(bad),
            None => Ok(history),
        }
    }
}

fn event(key: &[u8], value: &[u8]) -> Result<Event, Error> {
    let at = BucketKey::decode(key).map_err(|e| Error::Damaged(e.to_string()))?;
    let kv = decode(at.revision, Bytes::copy_from_slice(value))?;
    Ok(if at.tombstone {
        Event {
            kind: EventKind::Delete,
            kv: KeyValue {
                key: kv.key,
                mod_revision: at.revision.main,
                ..KeyValue::default()
            },
        }
    } else {
        Event {
            kind: EventKind::Put,
            kv,
        }
    })
}
