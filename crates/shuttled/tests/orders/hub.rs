//! The watch hub: the apply thread publishes, streams come, take, fall behind and go.

use std::sync::Arc;

use ferrite_mvcc::{Backend, MemFile, NoLeases, RestoreOptions, Store};
use ferrite_shuttled::watch_hub::{WatchChange, WatchError, WatchHub, WatchStream};
use ferrite_watch::{Create, Delivery};
use shuttle::thread;

use crate::orders;

const REVISIONS: i64 = 7;

fn store() -> Arc<Store> {
    let backend = Backend::new(Arc::new(MemFile::new()));
    let store = Store::restore(backend, &mut NoLeases, RestoreOptions::default());
    Arc::new(store.expect("an empty store"))
}

fn put(store: &Store, hub: &WatchHub, key: &str) {
    let mut txn = store.write();
    txn.put(key.as_bytes(), b"v", 0, &mut NoLeases);
    hub.publish([WatchChange::Changes(txn.end())]);
}

fn create(start: i64) -> Create {
    Create {
        key: b"k".to_vec(),
        range_end: b"l".to_vec(),
        start_revision: start,
        watch_id: 0,
        filters: Default::default(),
        prev_kv: false,
        fragment: false,
        progress_notify: true,
    }
}

/// Takes until the event of the last revision is there: all of them, once each, in order, and no progress is
/// told ahead of its events.
fn follow(stream: &mut WatchStream, mut last: i64, asks: bool) {
    while last < REVISIONS {
        if asks {
            stream.request_progress();
        }
        let deliveries = shuttle::future::block_on(stream.next()).expect("the hub is open");
        for delivery in deliveries {
            match delivery {
                Delivery::Events {
                    batch, selection, ..
                } => {
                    for (_, event) in batch.select(&selection) {
                        let revision = event.kv.mod_revision;
                        assert_eq!(revision, last + 1, "the event after that of {last}");
                        last = revision;
                    }
                }
                Delivery::Progress { revision, .. } => {
                    assert!(revision <= last, "progress {revision}, told up to {last}");
                }
                _ => {}
            }
        }
    }
}

#[test]
fn every_stream_sees_every_event_once_and_in_order() {
    orders(400, || {
        let store = store();
        let hub = WatchHub::new(Arc::clone(&store));
        // Revision 2, before anybody watches.
        put(&store, &hub, "k0");
        let publisher = {
            let (store, hub) = (Arc::clone(&store), hub.clone());
            thread::spawn(move || {
                for key in ["k1", "k2", "k1", "k3", "k1"] {
                    put(&store, &hub, key);
                }
            })
        };
        let watchers: Vec<_> = (0..3)
            .map(|watcher| {
                let hub = hub.clone();
                thread::spawn(move || {
                    let mut stream = hub.open();
                    // From now on, from the past, and asking how far it is.
                    let start = if watcher == 0 { 0 } else { 2 };
                    let (created, current) = stream.create(&create(start));
                    created.expect("it is created");
                    let last = if watcher == 0 { current } else { 1 };
                    follow(&mut stream, last, watcher == 2);
                })
            })
            .collect();
        let passing = {
            let hub = hub.clone();
            thread::spawn(move || {
                // Comes, and goes with whatever it was about to be told.
                let stream = hub.open();
                let (id, _) = stream.create(&create(2));
                stream.tick();
                assert!(stream.cancel(id.expect("it is created")));
            })
        };
        publisher.join().unwrap();
        passing.join().unwrap();
        for watcher in watchers {
            watcher.join().unwrap();
        }
    });
}

#[test]
fn a_stream_that_waits_hears_that_the_member_stops() {
    orders(1_000, || {
        let hub = WatchHub::new(store());
        let watchers: Vec<_> = (0..2)
            .map(|_| {
                let hub = hub.clone();
                thread::spawn(move || {
                    let mut stream = hub.open();
                    let _created = stream.create(&create(0));
                    loop {
                        match shuttle::future::block_on(stream.next()) {
                            Ok(_) => {}
                            Err(error) => return assert_eq!(error, WatchError::Stopped),
                        }
                    }
                })
            })
            .collect();
        hub.close();
        for watcher in watchers {
            watcher.join().unwrap();
        }
    });
}
