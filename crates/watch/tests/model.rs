//! A real store, random writes, compactions and installs, slow and fast streams: each watcher gets
//! the history of its range exactly once and in order, and progress never promises too much.

use std::collections::BTreeMap;

use ferrite_mvcc::{Backend, Changes, Error, EventKind, MemFile, NoLeases, RestoreOptions, Store};
use ferrite_watch::{
    Create, Delivery, Filters, Limits, Registry, Selection, Slice, Span, StreamId, Work,
};

struct Draw(u64);

impl Draw {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

#[derive(Clone, Debug, PartialEq)]
struct Seen {
    revision: i64,
    key: Vec<u8>,
    put: bool,
}

/// What a client knows of its watcher.
struct Client {
    span: Span,
    filters: Filters,
    /// First revision it must get.
    from: i64,
    start: i64,
    seen: Vec<Seen>,
    /// Everything up to here was promised to have been sent.
    promised: i64,
    dead: bool,
}

struct World {
    store: Store,
    registry: Registry,
    /// Everything that ever happened, in order.
    history: Vec<Seen>,
    /// Written, not yet published.
    unpublished: Vec<Changes>,
    streams: Vec<(StreamId, BTreeMap<i64, Client>)>,
    /// A slice that was read, while others go on.
    slices: BTreeMap<usize, Slice>,
    compacted: i64,
    catch_ups: usize,
    progress: usize,
    deaths: usize,
}

impl World {
    fn new(limits: Limits) -> Self {
        let backend = Backend::new(std::sync::Arc::new(MemFile::default()));
        let store = Store::restore(backend, &mut NoLeases, RestoreOptions::default()).unwrap();
        let registry = Registry::new(limits, store.current_revision());
        World {
            store,
            registry,
            history: Vec::new(),
            unpublished: Vec::new(),
            streams: Vec::new(),
            slices: BTreeMap::new(),
            compacted: 0,
            catch_ups: 0,
            progress: 0,
            deaths: 0,
        }
    }

    fn write(&mut self, draw: &mut Draw) {
        let mut txn = self.store.write();
        let key = |draw: &mut Draw| format!("k{:02}", draw.below(12)).into_bytes();
        if draw.below(4) == 0 {
            let (from, to) = (key(draw), key(draw));
            let end: &[u8] = if from < to { &to } else { &[] };
            txn.delete_range(&from, end, &mut NoLeases);
        } else {
            for _ in 0..=draw.below(3) {
                let key = key(draw);
                // a transaction changes a key once
                if !txn.changes().iter().any(|event| event.kv.key == key) {
                    txn.put(&key, b"value", 0, &mut NoLeases);
                }
            }
        }
        let changes = txn.end();
        for event in &changes.events {
            self.history.push(Seen {
                revision: changes.revision,
                key: event.kv.key.to_vec(),
                put: event.kind == EventKind::Put,
            });
        }
        self.unpublished.push(changes);
    }

    fn publish(&mut self) {
        for changes in self.unpublished.drain(..) {
            self.registry.publish(changes);
        }
    }

    fn create(&mut self, at: usize, draw: &mut Draw) {
        let current = self.store.current_revision();
        let start_revision = match draw.below(4) {
            0 => 0,
            1 => current + 1 + draw.below(20) as i64,
            _ => 1 + draw.below(current as u64) as i64,
        };
        let create = Create {
            key: format!("k{:02}", draw.below(12)).into_bytes(),
            range_end: match draw.below(3) {
                0 => Vec::new(),
                1 => vec![0],
                _ => b"k99".to_vec(),
            },
            start_revision,
            filters: Filters {
                no_put: draw.below(5) == 0,
                no_delete: draw.below(5) == 0,
            },
            progress_notify: draw.below(2) == 0,
            ..Create::default()
        };
        let (stream, clients) = &mut self.streams[at];
        let id = self.registry.create(*stream, &create, current).unwrap();
        let client = Client {
            span: Span::new(&create.key, &create.range_end).unwrap(),
            filters: create.filters,
            from: if start_revision == 0 {
                current + 1
            } else {
                start_revision
            },
            start: start_revision,
            seen: Vec::new(),
            promised: 0,
            dead: false,
        };
        assert!(clients.insert(id, client).is_none(), "the ID is free");
    }

    /// One step of a stream; false when it has nothing to do.
    fn serve(&mut self, at: usize, split: bool) -> bool {
        if let Some(slice) = self.slices.remove(&at) {
            let deliveries = self.registry.caught_up(slice);
            self.deliver(at, deliveries);
            return true;
        }
        let deliveries = match self.registry.take(self.streams[at].0) {
            Work::Idle => return false,
            Work::Deliver(deliveries) => deliveries,
            Work::CatchUp(plan) => match self.store.history(plan.from(), 5) {
                Ok(history) => {
                    self.catch_ups += 1;
                    let slice =
                        plan.read(history.events, history.next, self.store.current_revision());
                    if split {
                        self.slices.insert(at, slice);
                        return true;
                    }
                    self.registry.caught_up(slice)
                }
                Err(Error::Compacted) => {
                    self.registry.compacted(plan, self.store.compact_revision())
                }
                Err(error) => panic!("{error}"),
            },
        };
        self.deliver(at, deliveries);
        true
    }

    fn deliver(&mut self, at: usize, deliveries: Vec<Delivery>) {
        let compacted = self.compacted;
        for delivery in deliveries {
            let clients = &mut self.streams[at].1;
            match delivery {
                Delivery::Events {
                    watch_id,
                    revision,
                    batch,
                    selection,
                    ..
                } => {
                    assert_ne!(
                        selection,
                        Selection::Places(Vec::new()),
                        "nothing is sent when all is filtered"
                    );
                    let client = clients
                        .get_mut(&watch_id)
                        .expect("no events after a cancel");
                    assert!(!client.dead);
                    for (_, event) in batch.select(&selection) {
                        let seen = event.kv.mod_revision;
                        assert!(seen <= revision, "the header is not older than the events");
                        assert!(
                            seen > client.promised,
                            "event {seen} after progress {}",
                            client.promised
                        );
                        client.seen.push(Seen {
                            revision: seen,
                            key: event.kv.key.to_vec(),
                            put: event.kind == EventKind::Put,
                        });
                    }
                }
                Delivery::Progress { watch_id, revision } => {
                    self.progress += 1;
                    assert!(watch_id == -1 || !clients[&watch_id].dead);
                    for (id, client) in clients.iter_mut() {
                        if watch_id == *id || (watch_id == -1 && !client.dead) {
                            assert!(revision >= client.start, "progress before the start");
                            client.promised = client.promised.max(revision);
                            let mut due = expected(&self.history, client);
                            due.retain(|seen| seen.revision <= revision);
                            assert!(
                                client.seen.len() >= due.len(),
                                "progress {revision} before its events"
                            );
                        }
                    }
                }
                Delivery::Compacted {
                    watch_id,
                    compact_revision,
                } => {
                    self.deaths += 1;
                    assert_eq!(compact_revision, compacted);
                    let client = clients.get_mut(&watch_id).expect("alive");
                    assert!(!std::mem::replace(&mut client.dead, true));
                }
            }
        }
    }

    fn settle(&mut self) {
        self.publish();
        for at in 0..self.streams.len() {
            while self.serve(at, false) {}
        }
        for (_, clients) in &self.streams {
            for client in clients.values() {
                let due = expected(&self.history, client);
                if client.dead {
                    assert!(
                        due.starts_with(&client.seen),
                        "a dead watcher saw the beginning"
                    );
                } else {
                    assert_eq!(client.seen, due);
                }
            }
        }
        let stats = self.registry.stats();
        assert_eq!(
            (stats.pending_events, stats.pending_bytes, stats.behind),
            (0, 0, 0)
        );
    }
}

fn expected(history: &[Seen], client: &Client) -> Vec<Seen> {
    let wanted = |seen: &&Seen| {
        seen.revision >= client.from
            && client.span.contains(&seen.key)
            && client.filters.pass(if seen.put {
                EventKind::Put
            } else {
                EventKind::Delete
            })
    };
    history.iter().filter(wanted).cloned().collect()
}

fn run(seed: u64, steps: u64, compact: bool) -> World {
    let mut draw = Draw(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let limits = Limits {
        responses: 1 + draw.below(6) as usize,
        bytes: 100 + draw.below(400) as usize,
        total_bytes: 600,
    };
    let mut world = World::new(limits);
    for _ in 0..4 {
        let stream = world.registry.open();
        world.streams.push((stream, BTreeMap::new()));
    }
    for _ in 0..steps {
        let at = draw.below(4) as usize;
        // the higher streams are the slower ones
        match draw.below(20) {
            0..=6 => world.write(&mut draw),
            7..=10 => world.publish(),
            11 if world.streams[at].1.len() < 8 => world.create(at, &mut draw),
            12 if !world.slices.contains_key(&at) => {
                let (stream, clients) = &mut world.streams[at];
                if let Some(id) = clients.keys().copied().nth(draw.below(8) as usize) {
                    assert!(world.registry.cancel(*stream, id));
                    assert!(!world.registry.cancel(*stream, id));
                    clients.remove(&id);
                }
            }
            13 => world
                .registry
                .request_progress(world.streams[at].0, world.store.current_revision()),
            14 => world.registry.tick(world.streams[at].0),
            15 if compact && draw.below(4) == 0 => {
                let to = 1 + draw.below(world.store.current_revision() as u64) as i64;
                if world.store.compact(to).is_ok() {
                    world.compacted = to;
                    while !matches!(
                        world.store.compaction_step(1000).unwrap(),
                        ferrite_mvcc::CompactionProgress::Idle
                    ) {}
                }
            }
            16 if draw.below(6) == 0 => {
                // as after a raft snapshot: the store is ahead, and what lies between is not published
                world.unpublished.clear();
                world.registry.installed(world.store.current_revision());
            }
            _ => {
                if draw.below(1 + at as u64 * 3) == 0 {
                    let split = draw.below(3) == 0;
                    world.serve(at, split);
                }
            }
        }
    }
    world.settle();
    world
}

#[test]
fn every_watcher_sees_its_history_exactly_once_in_order() {
    let (mut catch_ups, mut progress) = (0, 0);
    for seed in 1..=120 {
        let world = run(seed, 400, false);
        catch_ups += world.catch_ups;
        progress += world.progress;
        assert_eq!(world.deaths, 0);
    }
    assert!(catch_ups > 500, "slow streams read history ({catch_ups})");
    assert!(progress > 100, "progress was told ({progress})");
}

#[test]
fn compaction_kills_who_needs_what_is_gone_and_takes_nothing_from_others() {
    let (mut deaths, mut catch_ups) = (0, 0);
    for seed in 1..=120 {
        let world = run(seed, 400, true);
        deaths += world.deaths;
        catch_ups += world.catch_ups;
    }
    assert!(deaths > 40, "some come too late ({deaths})");
    assert!(catch_ups > 500);
}
