//! Compaction: what stays readable, what stays stored, and what survives a restart.

mod common;

use std::sync::Arc;

use common::Member;
use ferrite_mvcc::schema::{self, Bucket, BucketKey, Revision};
use ferrite_mvcc::{CompactionProgress, Error, EventKind, RangeOptions};

fn at(revision: i64) -> RangeOptions {
    RangeOptions {
        revision,
        ..RangeOptions::default()
    }
}

fn stored(member: &Member) -> Vec<(i64, i64, bool)> {
    let keys = member.stored();
    let decode = |k: &Vec<u8>| {
        let key = BucketKey::decode(k).expect("a revision");
        (key.revision.main, key.revision.sub, key.tombstone)
    };
    keys.iter().map(decode).collect()
}

/// KV-26: bounds of a compaction.
#[test]
fn compaction_bounds() {
    let mut m = Member::new();
    m.put("a", "1");
    assert_eq!(m.store.compact_revision(), -1);
    assert_eq!(m.store.compact(-1), Err(Error::Compacted));
    assert_eq!(m.store.compact(3), Err(Error::FutureRevision));
    assert_eq!(m.store.compact(0), Ok(()), "never compacted is below zero");
    assert_eq!(m.store.compact(0), Err(Error::Compacted));
    m.restart();
    assert_eq!(
        m.store.compact_revision(),
        0,
        "also a compaction at 0 that was not finished is remembered"
    );
    assert_eq!(m.store.compact(2), Ok(()));
    assert_eq!(m.store.compact(2), Err(Error::Compacted));
    assert_eq!(m.store.compact(1), Err(Error::Compacted));
}

/// KV-07: the compacted revision itself is readable.
#[test]
fn the_compacted_revision_is_readable() {
    let mut m = Member::new();
    m.put("a", "1");
    m.put("a", "2");
    m.put("a", "3");
    m.store.compact(3).unwrap();
    for finished in [false, true] {
        if finished {
            m.finish_compactions();
        }
        assert_eq!(m.store.range(b"a", b"", at(2)), Err(Error::Compacted));
        assert_eq!(m.store.range(b"a", b"", at(3)).unwrap().kvs[0].value, "2");
        assert_eq!(m.store.range(b"a", b"", at(4)).unwrap().kvs[0].value, "3");
        assert_eq!(m.store.range(b"a", b"", at(5)), Err(Error::FutureRevision));
    }
    assert_eq!(stored(&m), [(3, 0, false), (4, 0, false)]);
}

/// KV-27: what is kept, and that tombstones go unless they are exactly at the revision.
#[test]
fn tombstones_at_the_compacted_revision_stay() {
    let mut m = Member::new();
    m.put("a", "1"); // 2
    m.put("b", "1"); // 3
    m.delete("a"); // 4
    m.delete("b"); // 5
    m.put("c", "1"); // 6
    m.store.compact(5).unwrap();
    m.finish_compactions();
    assert_eq!(stored(&m), [(5, 0, true), (6, 0, false)]);
    m.restart();
    assert_eq!(stored(&m), [(5, 0, true), (6, 0, false)]);
    m.store.compact(6).unwrap();
    m.finish_compactions();
    assert_eq!(stored(&m), [(6, 0, false)]);
    assert_eq!(m.store.stats().index_keys, 1);
    assert_eq!(m.store.stats().garbage, 0);
}

/// KB-10, KB-11: a watcher that begins at the compacted revision, or after it, sees every event.
#[test]
fn events_from_the_compacted_revision_on_are_complete() {
    for compacted in 1..=7 {
        let mut m = Member::new();
        m.put("a", "1"); // 2
        m.put("b", "1"); // 3
        m.delete("a"); // 4
        m.put("a", "2"); // 5
        m.delete("a"); // 6
        m.delete("b"); // 7
        let all = m.store.history(2, 1000).unwrap().events;
        m.store.compact(compacted).unwrap();
        m.finish_compactions();
        m.restart();
        let first = compacted.max(2);
        let got = m.store.history(first, 1000).unwrap();
        let expected: Vec<_> = all
            .iter()
            .filter(|e| e.kv.mod_revision >= first)
            .cloned()
            .collect();
        assert_eq!(got.events, expected, "compacted at {compacted}");
        assert_eq!(got.next, 8);
        if compacted > 0 {
            let before = m.store.history(compacted - 1, 10);
            assert_eq!(before, Err(Error::Compacted));
        }
    }
}

/// KB-09: the revision never goes down, whatever was compacted when.
#[test]
fn the_revision_survives_compaction_of_the_last_tombstone() {
    let mut m = Member::new();
    m.put("a", "1"); // 2
    m.delete("a"); // 3
    m.put("b", "1"); // 4
    m.delete("b"); // 5
    m.store.compact(5).unwrap();
    // the mark goes into the file with the compaction's request
    m.commit_all();
    m.crash();
    assert_eq!(m.store.current_revision(), 5);
    assert!(m.store.compaction_pending(), "the rest is gone on with");
    m.finish_compactions();
    m.restart();
    assert_eq!(
        (m.store.current_revision(), m.store.compact_revision()),
        (5, 5)
    );

    // as older releases left it: the tombstone gone, the mark not written
    let mut file = m.file.clone();
    file.delete(
        Bucket::Key,
        &BucketKey {
            revision: Revision::new(5, 0),
            tombstone: true,
        }
        .encode(),
    );
    file.delete(Bucket::Meta, schema::FINISHED_COMPACT.as_bytes());
    m.file = file;
    m.crash();
    assert_eq!(m.store.current_revision(), 5);
    assert_eq!(m.put("c", "1"), 6);
}

/// KV-28: a crash anywhere in a compaction loses nothing and the compaction goes on.
#[test]
fn an_interrupted_compaction_is_resumed() {
    for steps in 0..40 {
        let mut m = Member::new();
        for round in 0..10 {
            for key in ["a", "b", "c"] {
                m.put(key, &format!("{key}{round}"));
            }
            m.delete("c");
        }
        let compacted = m.store.current_revision() - 6;
        let hash = m.store.hash_kv(0).unwrap().hash;
        let read = |m: &Member| -> Vec<_> {
            (compacted..=m.store.current_revision())
                .map(|r| m.store.range(b"a", b"z", at(r)).unwrap().kvs)
                .collect()
        };
        let expected = read(&m);
        m.store.compact(compacted).unwrap();
        for _ in 0..steps {
            m.store.compaction_step(2).unwrap();
        }
        m.restart();
        assert_eq!(read(&m), expected, "after {steps} steps");
        m.finish_compactions();
        assert_eq!(read(&m), expected);
        assert_eq!(m.store.stats().garbage, m.stored().len() - 2);
        m.restart();
        assert_eq!(read(&m), expected);
        assert_ne!(m.store.hash_kv(0).unwrap().hash, hash);
        assert!(!m.store.compaction_pending());
    }
}

/// MN-10: a finished compaction keeps the hash of what it found.
#[test]
fn compactions_keep_their_hashes() {
    let mut m = Member::new();
    for i in 0..20 {
        m.put(["a", "b", "c"][i % 3], &i.to_string());
        if i % 4 == 0 {
            m.delete("b");
        }
    }
    let mut previous = -1;
    for compacted in [4, 9, 10, 15, 20] {
        let before = m.store.hash_kv(compacted).unwrap();
        m.store.compact(compacted).unwrap();
        if compacted == 15 {
            let store = &m.store;
            let job = store.take_hash_job().expect("not begun");
            let progress = loop {
                match store.compaction_step(100).unwrap() {
                    CompactionProgress::Working => {}
                    other => break other,
                }
            };
            assert_eq!(progress, CompactionProgress::AwaitingHash);
            assert_eq!(job.run(store).unwrap().hash, before.hash);
        }
        m.finish_compactions();
        let kept = m.store.hash_kv(compacted).unwrap();
        assert_eq!(kept.hash, before.hash);
        assert_eq!(kept.compact_revision, previous);
        assert_eq!(kept.hash_revision, compacted);
        assert_eq!(kept.current_revision, m.store.current_revision());
        previous = compacted;
    }
    assert!(
        m.store.hash_kv(4).is_ok(),
        "also below the compacted revision"
    );
    assert_eq!(m.store.hash_kv(5), Err(Error::Compacted));

    // one that begins while another is unfinished keeps none
    m.store.compact(21).unwrap();
    m.store.compact(22).unwrap();
    m.finish_compactions();
    assert_eq!(m.store.hash_kv(21).unwrap().compact_revision, 20);
    assert_eq!(m.store.hash_kv(22).unwrap().compact_revision, 22);

    // ten are kept
    for _ in 0..12 {
        let revision = m.put("a", "x");
        m.store.compact(revision).unwrap();
        m.finish_compactions();
    }
    assert_eq!(m.store.hash_kv(21), Err(Error::Compacted));
    m.restart();
    let revision = m.store.compact_revision();
    let again = m.store.hash_kv(revision).unwrap();
    assert_eq!(again.compact_revision, revision, "kept in memory only");
}

/// Trap 22: the first compaction at 0, and what HashKV(0) says then.
#[test]
fn a_compaction_at_zero_keeps_a_hash_of_nothing() {
    let mut m = Member::new();
    m.put("a", "1");
    m.store.compact(0).unwrap();
    m.finish_compactions();
    let hash = m.store.hash_kv(0).unwrap();
    assert_eq!((hash.compact_revision, hash.hash_revision), (-1, 0));
    assert_eq!(hash.hash, 1_084_519_789, "the hash of an empty store");
}

/// A raft snapshot replaces everything in one step.
#[test]
fn a_snapshot_is_installed() {
    let mut other = Member::new();
    for i in 0..50 {
        other.put(&format!("k{}", i % 7), &i.to_string());
    }
    other.leases.granted.insert(9);
    let mut txn = other.store.write();
    txn.put(b"leased", b"v", 9, &mut other.leases);
    txn.end();
    other.store.compact(20).unwrap();
    other.commit_all();

    for by_install in [true, false] {
        let mut m = Member::new();
        m.put("gone", "x");
        m.freeze();
        m.put("gone too", "x");
        m.leases.granted.insert(9);
        m.leases.attached.clear();
        let file = Arc::new(other.file.clone());
        if by_install {
            m.store.install(file, &mut m.leases).unwrap();
        } else {
            m.store.backend().replace(file);
            m.store.reload(&mut m.leases).unwrap();
        }
        assert_eq!(m.store.backend().pending(), (0, 0));
        assert_eq!(m.store.current_revision(), 52);
        assert_eq!(m.store.compact_revision(), 20);
        assert_eq!(m.leases.attached, other.leases.attached);
        assert_eq!(m.store.hash_kv(30), other.store.hash_kv(30));
        let all = m.store.range(b"\0", b"\0", at(0)).unwrap();
        assert_eq!(all, other.store.range(b"\0", b"\0", at(0)).unwrap());
        assert!(m.store.compaction_pending());
        m.finish_compactions();
    }
}

/// Damage is named, never a panic.
#[test]
fn damage_is_named() {
    let mut m = Member::new();
    m.put("a", "1");
    m.put("b", "1");
    m.commit_all();
    let a = Revision::new(2, 0).encode();
    let restore = |file: ferrite_mvcc::MemFile| {
        let backend = ferrite_mvcc::Backend::new(Arc::new(file));
        ferrite_mvcc::Store::restore(
            backend,
            &mut ferrite_mvcc::NoLeases,
            ferrite_mvcc::RestoreOptions::default(),
        )
        .map(|_| ())
    };
    let mut no_kv = m.file.clone();
    no_kv.put(Bucket::Key, &a, &[0xff, 0xff]);
    let mut no_revision = m.file.clone();
    no_revision.put(Bucket::Key, b"short", b"");
    let mut large_sub = m.file.clone();
    large_sub.put(
        Bucket::Key,
        &Revision::new(9, 1 << 40).encode(),
        b"\x0a\x01a",
    );
    let mut twice = m.file.clone();
    let gone = BucketKey {
        revision: Revision::new(2, 0),
        tombstone: true,
    };
    twice.put(Bucket::Key, &gone.encode(), b"\x0a\x01a");
    let mut large_main = m.file.clone();
    large_main.put(
        Bucket::Key,
        &Revision::new(i64::MAX, 0).encode(),
        b"\x0a\x01a",
    );
    let mut bad_mark = m.file.clone();
    bad_mark.put(Bucket::Meta, schema::FINISHED_COMPACT.as_bytes(), b"x");
    for file in [no_kv, no_revision, large_sub, twice, large_main, bad_mark] {
        let result = restore(file);
        assert!(matches!(&result, Err(Error::Damaged(what)) if !what.is_empty()));
    }
    // a value that goes missing under a running store
    let mut file = m.file.clone();
    file.delete(Bucket::Key, &a);
    m.store.backend().swap_file(Arc::new(file));
    assert!(matches!(
        m.store.range(b"a", b"", at(0)),
        Err(Error::Damaged(_))
    ));
    assert!(m.store.range(b"b", b"", at(0)).is_ok());
}

/// An abandoned transaction never reaches the file.
#[test]
fn an_abandoned_transaction_is_never_committed() {
    let mut m = Member::new();
    let mut txn = m.store.write();
    txn.put(b"a", b"1", 0, &mut m.leases);
    drop(txn);
    assert_eq!(m.store.current_revision(), 1);
    assert!(m.store.backend().freeze().is_none());
}

/// History comes in pieces of whole revisions.
#[test]
fn history_is_cut_between_revisions() {
    let mut m = Member::new();
    for i in 0..5 {
        let mut txn = m.store.write();
        for key in [b"a", b"b", b"c"] {
            txn.put(key, i.to_string().as_bytes(), 0, &mut m.leases);
        }
        txn.end();
        if i == 1 {
            m.commit_all();
        }
        if i == 3 {
            m.freeze();
        }
    }
    m.delete("b");
    let first = m.store.history(2, 4).unwrap();
    assert_eq!((first.events.len(), first.next), (6, 4));
    let rest = m.store.history(first.next, 1000).unwrap();
    assert_eq!((rest.events.len(), rest.next), (10, 8));
    assert_eq!(rest.events[9].kind, EventKind::Delete);
    assert_eq!(rest.events[9].kv.mod_revision, 7);
    assert_eq!(m.store.history(8, 10).unwrap().next, 8);
}
