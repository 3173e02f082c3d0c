//! Leases as replicated state, with the store and the database they live in.

use std::sync::Arc;

use ferrite_lease::{Lessor, Lives};
use ferrite_mvcc::Leases;
use ferrite_mvcc::schema::Bucket;
use ferrite_mvcc::{Backend, MemFile};

fn backend() -> Backend {
    Backend::new(Arc::new(MemFile::default()))
}

fn stored(backend: &Backend) -> Vec<i64> {
    let mut ids = Vec::new();
    backend
        .view()
        .scan(Bucket::Lease, &[], None, &mut |key, _| {
            ids.push(i64::from_be_bytes(key.try_into().unwrap()));
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
    ids
}

#[test]
fn a_view_follows_every_change_and_survives_a_replacement() {
    let backend = backend();
    let mut lessor = Lessor::load(&backend, 2).unwrap();
    let view = lessor.view();
    lessor.grant(7, 60, &backend);
    lessor.attach(7, b"b");
    lessor.attach(7, b"a");
    assert_eq!(view.keys(7).unwrap(), [Box::from(*b"a"), Box::from(*b"b")]);
    assert_eq!(view.ids(), [7]);
    lessor.checkpoint(7, 20, true, &backend);
    assert_eq!(view.lives(7).map(Lives::restart_seconds), Some(20));
    lessor.checkpoint(7, 0, true, &backend);
    assert_eq!(view.lives(7).map(Lives::restart_seconds), Some(60));

    let mut other = Lessor::load(&backend, 100).unwrap();
    other.grant(8, 5, &backend);
    other.attach(8, b"c");
    lessor.replace(other);
    assert_eq!(view.ids(), [7, 8]);
    assert_eq!(
        view.lives(7).unwrap().ttl_seconds,
        100,
        "raised to the minimum"
    );
    assert_eq!((lessor.lease_of(b"c"), lessor.lease_of(b"a")), (8, 0));
    lessor.remove(8, &backend);
    assert_eq!((view.keys(8), lessor.lease_of(b"c")), (None, 0));
    assert_eq!(stored(&backend), [7]);
}

#[test]
fn a_key_hangs_on_one_lease_and_never_on_one_that_is_gone() {
    let backend = backend();
    let mut lessor = Lessor::default();
    lessor.grant(1, 10, &backend);
    lessor.grant(2, 10, &backend);
    lessor.attach(1, b"k");
    lessor.detach(1, b"k");
    lessor.attach(2, b"k");
    assert_eq!(lessor.keys(1).unwrap().len(), 0);
    assert_eq!(lessor.lease_of(b"k"), 2);
    lessor.remove(1, &backend);
    assert_eq!(lessor.lease_of(b"k"), 2);
    lessor.attach(1, b"late");
    assert_eq!((lessor.lease_of(b"late"), lessor.exists(1)), (0, false));
}
