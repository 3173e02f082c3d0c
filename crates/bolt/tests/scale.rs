//! A million revisions: opened, walked and read. Ignored by default, because it writes 400 MB; run it with
//! `--ignored --nocapture` to see the times.

use ferrite_bolt::{Db, Options};
use std::ops::ControlFlow;
use std::time::Instant;

#[test]
#[ignore = "writes 400 MB; prints times"]
fn a_million_revisions() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let options = Options {
        no_sync: true,
        ..Options::default()
    };
    let db = Db::open(&path, options.clone()).unwrap();
    let key = |i: u64| {
        let mut key = [0; 17];
        key[..8].copy_from_slice(&i.to_be_bytes());
        key[8] = b'_';
        key
    };
    let started = Instant::now();
    for round in 0..100 {
        let mut tx = db.begin_write().unwrap();
        let mut bucket = tx.create_bucket_if_missing(b"key").unwrap();
        bucket.set_fill_percent(0.9);
        for i in 0..10_000 {
            bucket.put(&key(round * 10_000 + i), &[7; 300]).unwrap();
        }
        tx.commit().unwrap();
    }
    eprintln!("written {:?}, {} bytes", started.elapsed(), db.size());
    drop(db);
    let started = Instant::now();
    let db = Db::open(&path, options).unwrap();
    eprintln!("opened {:?}", started.elapsed());
    let started = Instant::now();
    let tx = db.begin_read().unwrap();
    let bucket = tx.bucket(b"key").unwrap().unwrap();
    let mut keys = 0;
    bucket
        .scan(b"", None, &mut |_, _| {
            keys += 1;
            ControlFlow::Continue(())
        })
        .unwrap();
    eprintln!("read {:?}", started.elapsed());
    assert_eq!(keys, 1_000_000);
    let started = Instant::now();
    for i in 0..100_000u64 {
        let i = i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % 1_000_000;
        assert!(bucket.get(&key(i)).unwrap().is_some());
    }
    eprintln!("100 000 random reads {:?}", started.elapsed());
    let started = Instant::now();
    for i in 0..100_000u64 {
        assert!(bucket.get(&key(i * 7919 % 10_000)).unwrap().is_some());
    }
    eprintln!("100 000 cached reads {:?}", started.elapsed());
    let started = Instant::now();
    let mut tx = db.begin_write().unwrap();
    let mut bucket = tx.bucket_mut(b"key").unwrap();
    for i in (0..1_000_000).step_by(100) {
        bucket.delete(&key(i)).unwrap();
    }
    let stats = tx.commit().unwrap();
    eprintln!(
        "10 000 deletions far apart {:?} {stats:?}",
        started.elapsed()
    );
}
