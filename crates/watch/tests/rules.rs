//! The rules of the contract's watch section, one by one, on the registry alone.

use ferrite_mvcc::{Changes, Event, EventKind};
use ferrite_proto::mvccpb::KeyValue;
use ferrite_watch::{Create, Delivery, Filters, Limits, Refusal, Registry, StreamId, Work};

fn event(key: &str, revision: i64) -> Event {
    Event {
        kind: EventKind::Put,
        kv: KeyValue {
            key: key.to_owned().into(),
            mod_revision: revision,
            create_revision: revision,
            version: 1,
            ..KeyValue::default()
        },
    }
}

fn publish(registry: &mut Registry, revision: i64, keys: &[&str]) {
    registry.publish(Changes {
        revision,
        events: keys.iter().map(|key| event(key, revision)).collect(),
    });
}

fn create(key: &str, start_revision: i64) -> Create {
    Create {
        key: key.into(),
        start_revision,
        ..Create::default()
    }
}

/// What a stream is told, in short; history is not at hand here.
fn told(registry: &mut Registry, stream: StreamId) -> Vec<String> {
    let mut all = Vec::new();
    while let Work::Deliver(deliveries) = registry.take(stream) {
        all.extend(deliveries.iter().map(|delivery| match delivery {
            Delivery::Events {
                watch_id,
                revision,
                batch,
                selection,
                ..
            } => {
                let keys: Vec<String> = batch
                    .select(selection)
                    .map(|(_, event)| String::from_utf8_lossy(&event.kv.key).into_owned())
                    .collect();
                format!("{watch_id}@{revision}:{}", keys.join(","))
            }
            Delivery::Progress { watch_id, revision } => format!("{watch_id}@{revision}"),
            Delivery::Compacted { watch_id, .. } => format!("{watch_id} compacted"),
        }));
    }
    all
}

#[test]
fn ids_count_from_zero_and_skip_those_taken() {
    let mut registry = Registry::new(Limits::default(), 1);
    let stream = registry.open();
    let chosen = |id| Create {
        watch_id: id,
        ..create("k", 0)
    };
    assert_eq!(registry.create(stream, &create("k", 0), 1), Ok(0));
    assert_eq!(registry.create(stream, &chosen(1), 1), Ok(1));
    assert_eq!(
        registry.create(stream, &chosen(1), 1),
        Err(Refusal::DuplicateId)
    );
    assert_eq!(registry.create(stream, &create("k", 0), 1), Ok(2));
    let other = registry.open();
    assert_eq!(registry.create(other, &create("k", 0), 1), Ok(0));
}

#[test]
fn a_refused_watcher_leaves_the_stream_as_it_was() {
    let mut registry = Registry::new(Limits::default(), 1);
    let stream = registry.open();
    let range = |end: &[u8]| Create {
        range_end: end.to_vec(),
        ..create("k", 0)
    };
    assert_eq!(
        registry.create(stream, &range(b"k"), 1),
        Err(Refusal::EmptyRange)
    );
    assert_eq!(
        registry.create(stream, &range(b"a"), 1),
        Err(Refusal::EmptyRange)
    );
    assert_eq!(
        registry.create(stream, &create("k", -1), 1),
        Err(Refusal::Compacted)
    );
    assert_eq!(registry.create(stream, &range(b"l"), 1), Ok(0));
}

/// KB-14: nothing, and no progress, below a start in the future; KB-20: revision 0 means now.
#[test]
fn nothing_reaches_a_watcher_before_its_start() {
    let mut registry = Registry::new(Limits::default(), 5);
    let stream = registry.open();
    let future = Create {
        progress_notify: true,
        ..create("k", 8)
    };
    registry.create(stream, &future, 5).unwrap();
    publish(&mut registry, 6, &["k"]);
    registry.tick(stream);
    registry.request_progress(stream, 6);
    registry.installed(7);
    assert!(told(&mut registry, stream).is_empty());
    publish(&mut registry, 8, &["k"]);
    assert_eq!(told(&mut registry, stream), ["0@8:k"]);

    // the store is at 11, and 9 to 11 are about to be published
    let now = registry.open();
    registry.create(now, &create("k", 0), 11).unwrap();
    for revision in 9..=12 {
        publish(&mut registry, revision, &["k"]);
    }
    assert_eq!(told(&mut registry, now), ["0@12:k"]);
}

/// KB-05.
#[test]
fn progress_stands_behind_the_events_it_covers_and_waits_for_what_readers_see() {
    let mut registry = Registry::new(Limits::default(), 5);
    let stream = registry.open();
    registry.create(stream, &create("k", 0), 5).unwrap();
    publish(&mut registry, 6, &["k"]);
    // readers see 8 already
    registry.request_progress(stream, 8);
    assert_eq!(told(&mut registry, stream), ["0@6:k"]);
    publish(&mut registry, 7, &["other"]);
    assert!(told(&mut registry, stream).is_empty());
    publish(&mut registry, 8, &["k"]);
    assert_eq!(told(&mut registry, stream), ["0@8:k", "-1@8"]);
}

/// KB-05 again: an answer that waits to be sent must not speak for a watcher that came after it.
#[test]
fn an_answer_does_not_speak_for_those_it_was_not_asked_for() {
    for (start, answered) in [(0, true), (2, false), (9, false)] {
        let mut registry = Registry::new(Limits::default(), 5);
        let stream = registry.open();
        registry.create(stream, &create("k", 0), 5).unwrap();
        registry.request_progress(stream, 5);
        registry.create(stream, &create("k", start), 5).unwrap();
        assert_eq!(
            !told(&mut registry, stream).is_empty(),
            answered,
            "start {start}"
        );
    }
}

#[test]
fn a_question_for_progress_is_dropped_unless_all_are_synced() {
    let mut registry = Registry::new(Limits::default(), 5);
    let stream = registry.open();
    registry.request_progress(stream, 5);
    assert!(told(&mut registry, stream).is_empty(), "no watcher");
    registry.create(stream, &create("k", 0), 5).unwrap();
    registry.create(stream, &create("k", 2), 5).unwrap();
    registry.request_progress(stream, 5);
    let Work::CatchUp(plan) = registry.take(stream) else {
        panic!("one is behind");
    };
    assert_eq!(plan.from(), 2);
    let dead = registry.compacted(plan, 3);
    assert!(matches!(
        dead[..],
        [Delivery::Compacted {
            watch_id: 1,
            compact_revision: 3
        }]
    ));
    registry.request_progress(stream, 5);
    assert!(told(&mut registry, stream).is_empty(), "one is dead");
    // WA-24: its ID is taken until it is cancelled
    let again = Create {
        watch_id: 1,
        ..create("k", 0)
    };
    assert_eq!(
        registry.create(stream, &again, 5),
        Err(Refusal::DuplicateId)
    );
    assert!(registry.cancel(stream, 1));
    registry.request_progress(stream, 5);
    assert_eq!(told(&mut registry, stream), ["-1@5"]);
    assert_eq!(registry.create(stream, &again, 5), Ok(1));
}

#[test]
fn notices_come_only_to_the_quiet() {
    let mut registry = Registry::new(Limits::default(), 5);
    let stream = registry.open();
    let quiet = Create {
        progress_notify: true,
        filters: Filters {
            no_put: true,
            no_delete: true,
        },
        ..create("k", 0)
    };
    let loud = Create {
        progress_notify: true,
        ..create("k", 0)
    };
    registry.create(stream, &quiet, 5).unwrap();
    registry.create(stream, &loud, 5).unwrap();
    registry.create(stream, &create("k", 0), 5).unwrap();
    publish(&mut registry, 6, &["k"]);
    assert_eq!(told(&mut registry, stream), ["1@6:k", "2@6:k"]);
    registry.tick(stream);
    assert_eq!(told(&mut registry, stream), ["0@6"]);
    registry.tick(stream);
    assert_eq!(told(&mut registry, stream), ["0@6", "1@6"]);
}

#[test]
fn nothing_follows_a_cancel() {
    let mut registry = Registry::new(Limits::default(), 5);
    let stream = registry.open();
    registry.create(stream, &create("k", 0), 5).unwrap();
    registry.create(stream, &create("k", 0), 5).unwrap();
    publish(&mut registry, 6, &["k"]);
    assert!(registry.cancel(stream, 0));
    assert!(!registry.cancel(stream, 0));
    assert!(!registry.cancel(stream, 7));
    publish(&mut registry, 7, &["k"]);
    assert_eq!(told(&mut registry, stream), ["1@6:k", "1@7:k"]);
    assert_eq!(registry.stats().pending_events, 0);
}

/// KB-08: what does not fit puts the watcher behind; the queue and history take turns after that.
#[test]
fn a_full_queue_sends_to_history_and_neither_starves_the_other() {
    let limits = Limits {
        responses: 2,
        ..Limits::default()
    };
    let mut registry = Registry::new(limits, 5);
    let stream = registry.open();
    registry.create(stream, &create("slow", 0), 5).unwrap();
    registry.create(stream, &create("busy", 0), 5).unwrap();
    for revision in 6..=8 {
        publish(&mut registry, revision, &["slow"]);
    }
    assert_eq!(registry.stats().behind, 1);
    assert!(matches!(registry.take(stream), Work::Deliver(ref all) if all.len() == 2));
    // the busy one fills the queue again and again
    publish(&mut registry, 9, &["busy"]);
    let Work::CatchUp(plan) = registry.take(stream) else {
        panic!("history's turn");
    };
    assert_eq!(plan.from(), 8);
    let slice = plan.read(vec![event("slow", 8), event("busy", 9)], 10, 9);
    let deliveries = registry.caught_up(slice);
    assert_eq!(deliveries.len(), 1);
    publish(&mut registry, 10, &["slow"]);
    assert_eq!(told(&mut registry, stream), ["1@9:busy", "0@10:slow"]);
}

/// WA-22.
#[test]
fn an_installed_snapshot_sends_everybody_but_the_future_to_history() {
    let mut registry = Registry::new(Limits::default(), 5);
    let stream = registry.open();
    registry.create(stream, &create("k", 0), 5).unwrap();
    registry.create(stream, &create("k", 50), 5).unwrap();
    publish(&mut registry, 6, &["k"]);
    publish(&mut registry, 7, &["other"]);
    registry.installed(20);
    assert_eq!(registry.take_woken(), [stream]);
    assert!(matches!(registry.take(stream), Work::Deliver(_)));
    let Work::CatchUp(plan) = registry.take(stream) else {
        panic!("behind");
    };
    // not from 7 on: what is published is seen, whether it matched or not
    assert_eq!(plan.from(), 8);
    let slice = plan.read(Vec::new(), 21, 20);
    assert!(registry.caught_up(slice).is_empty());
    assert_eq!(registry.stats().behind, 0);
    publish(&mut registry, 21, &["k"]);
    assert_eq!(told(&mut registry, stream), ["0@21:k"]);
}

#[test]
fn a_closed_stream_leaves_nothing_behind() {
    let mut registry = Registry::new(Limits::default(), 5);
    let stream = registry.open();
    registry.create(stream, &create("k", 0), 5).unwrap();
    registry.create(stream, &create("k", 2), 5).unwrap();
    publish(&mut registry, 6, &["k"]);
    registry.request_progress(stream, 9);
    registry.close(stream);
    publish(&mut registry, 9, &["k"]);
    let stats = registry.stats();
    assert_eq!(
        (
            stats.streams,
            stats.watchers,
            stats.behind,
            stats.pending_bytes
        ),
        (0, 0, 0, 0)
    );
    assert!(matches!(registry.take(stream), Work::Idle));
}
