//! Watchers, and etcd's promises to them: every event of the range from the first revision on, once each, in
//! the order of revisions, those of a revision together; a notice of progress stands behind all events up to
//! its revision. They move from member to member, as clients do whose member has fallen, and some are slow.

use ferrite_mvcc::EventKind;
use ferrite_node::watch_hub::{Step, WatchStream};
use ferrite_watch::{Create, Delivery};

use crate::member::name;
use crate::model::Happened;
use crate::prng::Prng;
use crate::world::{Event, World};

/// Pieces taken at once at the end.
const STEPS_MAX: usize = 10_000;

/// See the module.
pub(crate) struct Watcher {
    key: Vec<u8>,
    end: Vec<u8>,
    /// First revision not told of yet; 0 before the first watch.
    next: i64,
    /// Looks at its stream about so often.
    pause_us: u64,
    prev: bool,
    stream: Option<(usize, u64, WatchStream)>,
}

impl Watcher {
    pub(crate) fn draw(rng: &mut Prng, keys: u64) -> Watcher {
        let (key, end) = match rng.below(4) {
            0 => (format!("k{}", rng.range(0, keys)), String::new()),
            1 => ("k".to_owned(), "l".to_owned()),
            2 => ("l".to_owned(), "m".to_owned()),
            _ => (
                format!("k{}", rng.range(0, keys / 2)),
                format!("k{}", rng.range(keys / 2 + 1, keys + 1)),
            ),
        };
        Watcher {
            key: key.into_bytes(),
            end: end.into_bytes(),
            next: 0,
            pause_us: rng.range(2_000, 600_000),
            prev: rng.per_mille(300),
            stream: None,
        }
    }
}

impl World {
    pub(crate) fn watcher_moves(&mut self, watcher: usize) {
        let pause = self.rng.range(1_000, self.watchers[watcher].pause_us * 2);
        self.after(pause, Event::Watch(watcher));
        let dead = self.watchers[watcher]
            .stream
            .as_ref()
            .is_some_and(|(place, life, _)| !self.lives(*place, *life));
        // Sometimes it goes elsewhere for no reason.
        if dead || self.rng.per_mille(20) {
            self.watchers[watcher].stream = None;
        }
        if self.watchers[watcher].stream.is_none() {
            self.open(watcher);
            return;
        }
        let asks = self.rng.below(12);
        if let Some((_, _, stream)) = &self.watchers[watcher].stream {
            match asks {
                0 => stream.request_progress(),
                1 => stream.tick(),
                _ => {}
            }
        }
        let steps = 1 + self.rng.below(4);
        self.take(watcher, steps);
    }

    fn open(&mut self, watcher: usize) {
        let Some(place) = self.some_running() else {
            return;
        };
        let life = self.members[place].life;
        let Some(running) = &self.members[place].running else {
            return;
        };
        let stream = running.hub.open();
        let state = &mut self.watchers[watcher];
        let create = Create {
            key: state.key.clone(),
            range_end: state.end.clone(),
            start_revision: state.next,
            prev_kv: state.prev,
            progress_notify: true,
            ..Create::default()
        };
        let (created, current) = stream.create(&create);
        if state.next == 0 {
            state.next = current + 1;
        }
        state.stream = Some((place, life, stream));
        self.stats.count("watches");
        if let Err(refusal) = created {
            self.fail(format!("a watch is refused: {refusal}"));
        }
    }

    /// Takes what there is to be sent; false when there is nothing left.
    fn take(&mut self, watcher: usize, steps: usize) -> bool {
        for _ in 0..steps {
            let Some((place, _, mut stream)) = self.watchers[watcher].stream.take() else {
                return true;
            };
            let step = stream.step();
            let life = self.members[place].life;
            let judged = match step {
                Ok(Step::Idle) => {
                    self.watchers[watcher].stream = Some((place, life, stream));
                    return false;
                }
                Ok(Step::Again) => Ok(true),
                Ok(Step::Deliver(deliveries)) => {
                    deliveries.iter().try_fold(true, |on, delivery| {
                        Ok(on && self.delivered(watcher, delivery, place, &stream)?)
                    })
                }
                // The stream ends, and is opened again from where it was.
                Err(error) if self.is_read_failure(place, &error.to_string()) => {
                    self.stats.count("streams that the disk ended");
                    return true;
                }
                Err(error) => Err(error.to_string()),
            };
            match judged {
                // One that is dead begins anew elsewhere.
                Ok(false) => return true,
                Ok(true) => self.watchers[watcher].stream = Some((place, life, stream)),
                Err(reason) => {
                    self.fail(format!("a watcher at {}: {reason}", name(place)));
                    return false;
                }
            }
        }
        true
    }

    fn delivered(
        &mut self,
        watcher: usize,
        delivery: &Delivery,
        place: usize,
        stream: &WatchStream,
    ) -> Result<bool, String> {
        let Watcher {
            key,
            end,
            next,
            prev,
            ..
        } = &self.watchers[watcher];
        let (key, end, next, prev) = (key.clone(), end.clone(), *next, *prev);
        match delivery {
            Delivery::Events {
                batch,
                selection,
                revision,
                ..
            } => {
                let events: Vec<_> = batch
                    .select(selection)
                    .map(|(_, event)| event.clone())
                    .collect();
                let last = events.last().map_or(next, |event| event.kv.mod_revision);
                let wanted: Vec<Happened> = self
                    .model
                    .happened(&key, &end, next, last)
                    .cloned()
                    .collect();
                let same = events.len() == wanted.len()
                    && events.iter().zip(&wanted).all(|(event, wanted)| {
                        let (kv, version) = (&event.kv, &wanted.version);
                        let put = event.kind == EventKind::Put;
                        kv.key == wanted.key
                            && kv.mod_revision == version.modified
                            && put == version.value.is_some()
                            && (!put
                                || (Some(&kv.value), kv.create_revision, kv.version, kv.lease)
                                    == (
                                        version.value.as_ref(),
                                        version.created,
                                        version.version,
                                        version.lease,
                                    ))
                    });
                if !same || *revision < last {
                    return Err(format!(
                        "told {events:?} from {next} on in an answer of revision {revision}, must be {wanted:?}"
                    ));
                }
                if prev {
                    let find = |key: &[u8], revision| stream.previous(key, revision);
                    let sent = match batch.to_proto_with_previous(selection, &find) {
                        Ok(sent) => sent,
                        // Nothing of it was sent: the stream ends.
                        Err(error) if self.is_read_failure(place, &error.to_string()) => {
                            self.stats.count("streams that the disk ended");
                            return Ok(false);
                        }
                        Err(error) => return Err(error.to_string()),
                    };
                    for (sent, event) in sent.iter().zip(&events) {
                        let before = event.kv.mod_revision - 1;
                        let first = event.kind == EventKind::Put
                            && event.kv.create_revision == event.kv.mod_revision;
                        // What is compacted is not told.
                        if let Some(found) = &sent.prev_kv {
                            let want = self.model.at(&event.kv.key, before);
                            crate::clients::same(&event.kv.key, Some(found), want)?;
                        } else if !first && before >= self.model.compacted() {
                            return Err(format!(
                                "no value before revision {} of {:?}",
                                event.kv.mod_revision, event.kv.key
                            ));
                        }
                    }
                }
                for _ in &events {
                    self.stats.count("events told");
                }
                self.watchers[watcher].next = last + 1;
                self.note(last as u64);
            }
            Delivery::Progress { revision, .. } => {
                let missing = self.model.happened(&key, &end, next, *revision).next();
                if let Some(missing) = missing {
                    return Err(format!(
                        "progress up to {revision} is promised and {missing:?} was not told"
                    ));
                }
                self.stats.count("progress told");
                self.watchers[watcher].next = next.max(revision + 1);
            }
            Delivery::Compacted {
                compact_revision, ..
            } => {
                if next >= *compact_revision || *compact_revision > self.model.compacted() {
                    return Err(format!(
                        "told that {compact_revision} is compacted, {next} is wanted next and compacted is {}",
                        self.model.compacted()
                    ));
                }
                self.stats.count("watches of what is compacted");
                self.watchers[watcher].next = *compact_revision;
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// At the end everybody has been told everything.
    pub(crate) fn judge_watchers(&mut self) {
        for watcher in 0..self.watchers.len() {
            for _ in 0..STEPS_MAX {
                let dead = self.watchers[watcher]
                    .stream
                    .as_ref()
                    .is_none_or(|(place, life, _)| {
                        !self.lives(*place, *life) || !self.belongs(*place)
                    });
                if dead {
                    self.watchers[watcher].stream = None;
                    self.open(watcher);
                }
                if self.violation.is_some() || !self.take(watcher, 1) {
                    break;
                }
            }
            let last = self.model.revision();
            let Watcher { key, end, next, .. } = &self.watchers[watcher];
            let missing = self.model.happened(key, end, *next, last).next().cloned();
            if let Some(missing) = missing {
                self.fail(format!("a watcher was never told of {missing:?}"));
                return;
            }
        }
    }
}
