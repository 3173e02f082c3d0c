//! What happened, shared by every watcher that is told of it.

use std::sync::OnceLock;

use ferrite_mvcc::{Event, EventKind};
use ferrite_proto::mvccpb::{self, KeyValue};

/// Finds what a key was at a revision.
pub type Previous<'a, E> = dyn Fn(&[u8], i64) -> Result<Option<KeyValue>, E> + 'a;

/// Room an event takes beside its key and value.
const EVENT_OVERHEAD: usize = 64;

/// Which kinds of events a watcher does not want.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// Leave out puts.
    pub no_put: bool,
    /// Leave out deletions.
    pub no_delete: bool,
}

impl Filters {
    /// Reads a request's numbers; unknown ones are passed over.
    pub fn from_request(numbers: &[i32]) -> Self {
        Filters {
            no_put: numbers.contains(&0),
            no_delete: numbers.contains(&1),
        }
    }

    /// Whether an event of this kind is wanted.
    pub fn pass(self, kind: EventKind) -> bool {
        match kind {
            EventKind::Put => !self.no_put,
            EventKind::Delete => !self.no_delete,
        }
    }
}

/// Events in order: those of one revision when they are live, those of many from history.
#[derive(Debug)]
pub struct Batch {
    events: Vec<Event>,
    /// The value before each event, once somebody asked.
    previous: OnceLock<Box<[OnceLock<Option<KeyValue>>]>>,
}

/// The events of a batch that concern one watcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selection {
    /// All of them.
    All,
    /// Those at these places, ascending.
    Places(Vec<u32>),
}

impl Batch {
    /// Events in order.
    pub fn new(events: Vec<Event>) -> Self {
        Batch {
            events,
            previous: OnceLock::new(),
        }
    }

    /// The events.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// The events selected, with their places.
    pub fn select<'a>(
        &'a self,
        selection: &'a Selection,
    ) -> impl Iterator<Item = (usize, &'a Event)> {
        let (all, places): (&[Event], &[u32]) = match selection {
            Selection::All => (&self.events, &[]),
            Selection::Places(places) => (&[], places),
        };
        all.iter().enumerate().chain(
            places
                .iter()
                .filter_map(|place| Some((*place as usize, self.events.get(*place as usize)?))),
        )
    }

    /// Room the selected events take in memory, about.
    pub fn bytes(&self, selection: &Selection) -> usize {
        self.select(selection)
            .map(|(_, event)| event.kv.key.len() + event.kv.value.len() + EVENT_OVERHEAD)
            .sum()
    }

    /// The selected events as they are sent, without the values before.
    pub fn to_proto(&self, selection: &Selection) -> Vec<mvccpb::Event> {
        self.select(selection)
            .map(|(_, event)| mvccpb::Event::from(event.clone()))
            .collect()
    }

    /// The selected events with the value before each, by `previous`, which finds what a key was just before a
    /// revision; it is asked at most once an event that it has answered, whoever watches.
    ///
    /// # Errors
    /// Those of `previous`: a value that cannot be read is not one that was not there.
    pub fn to_proto_with_previous<E>(
        &self,
        selection: &Selection,
        previous: &Previous<'_, E>,
    ) -> Result<Vec<mvccpb::Event>, E> {
        self.select(selection)
            .map(|(place, event)| {
                let mut sent = mvccpb::Event::from(event.clone());
                sent.prev_kv = self.previous(place, event, previous)?;
                Ok(sent)
            })
            .collect()
    }

    fn previous<E>(
        &self,
        place: usize,
        event: &Event,
        find: &Previous<'_, E>,
    ) -> Result<Option<KeyValue>, E> {
        let kv = &event.kv;
        if event.kind == EventKind::Put && kv.create_revision == kv.mod_revision {
            return Ok(None);
        }
        let cells = self
            .previous
            .get_or_init(|| self.events.iter().map(|_| OnceLock::new()).collect());
        let Some(cell) = cells.get(place) else {
            return Ok(None);
        };
        if let Some(known) = cell.get() {
            return Ok(known.clone());
        }
        let found = find(&kv.key, kv.mod_revision - 1)?;
        Ok(cell.get_or_init(|| found).clone())
    }
}
