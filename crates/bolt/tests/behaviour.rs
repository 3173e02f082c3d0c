//! What a user of the engine relies on: views that stay, pages reused in time and not before, copies that stand alone,
//! locks, limits, memory within bounds.

mod common;

use common::{Rng, clean, content, open, read_all};
use ferrite_bolt::{Db, DiskFile, Error, MemFile, Options, PageFile, check};
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

fn fill(db: &Db, range: std::ops::Range<u64>, value: &[u8]) {
    let mut tx = db.begin_write().unwrap();
    let mut bucket = tx.create_bucket_if_missing(b"key").unwrap();
    for i in range {
        bucket.put(&i.to_be_bytes(), value).unwrap();
    }
    tx.commit().unwrap();
}

#[test]
fn a_new_file_is_small_and_grows_in_small_steps() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let db = Db::open(&path, Options::default()).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 4 * 4096);
    let mut tx = db.begin_write().unwrap();
    for name in [
        "key", "meta", "lease", "auth", "members", "cluster", "alarm",
    ] {
        tx.create_bucket_if_missing(name.as_bytes()).unwrap();
    }
    tx.commit().unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().len(), 5 * 4096);
    assert_eq!(db.size(), 5 * 4096);
    for i in 0..30 {
        let before = db.size();
        fill(&db, i..i + 1, &[0; 500]);
        assert!(db.size() <= before + 3 * 4096);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), db.size());
    }
    drop(db);
    assert_eq!(check(&path).unwrap().problems, []);
}

#[test]
fn a_freed_page_waits_for_older_readers_only() {
    let file = Arc::new(MemFile::new());
    let db = open(&file, Options::default());
    fill(&db, 0..500, &[1; 100]);
    fill(&db, 0..1, &[1; 100]);
    let settled = {
        for _ in 0..5 {
            fill(&db, 0..500, &[2; 100]);
        }
        db.size()
    };
    for _ in 0..20 {
        fill(&db, 0..500, &[3; 100]);
    }
    assert_eq!(db.size(), settled, "without readers pages go round");

    let reader = db.begin_read().unwrap();
    let seen = read_all(&reader).unwrap();
    assert_eq!(db.open_readers().count, 1);
    assert_eq!(db.open_readers().oldest_txid, Some(reader.txid()));
    for n in 4..14 {
        fill(&db, 0..500, &[n; 100]);
    }
    assert!(
        db.size() > settled + 9 * 12 * 4096,
        "a reader pins what it may see"
    );
    assert!(db.open_readers().pending_pages > 100);
    assert_eq!(read_all(&reader).unwrap(), seen);

    // A bucket keeps the view alive when the transaction itself is gone.
    let bucket = reader.bucket(b"key").unwrap().unwrap();
    drop(reader);
    assert_eq!(db.open_readers().count, 1);
    assert_eq!(
        bucket.get(&0u64.to_be_bytes()).unwrap().unwrap(),
        &[3; 100][..]
    );
    drop(bucket);
    assert_eq!(db.open_readers().oldest_txid, None);
    fill(&db, 0..1, &[0; 100]);
    assert!(db.free_pages() > 100);
    let size = db.size();
    for n in 0..5 {
        fill(&db, 0..500, &[n; 100]);
    }
    assert!(db.size() <= size);
    clean(&db);
}

#[test]
fn readers_on_threads_see_whole_commits_while_the_writer_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        cache_bytes: 256 << 10,
        no_sync: true,
        ..Options::default()
    };
    let db = Db::open(dir.path().join("db"), options).unwrap();
    fill(&db, 0..600, &[0; 64]);
    let stop = AtomicBool::new(false);
    let reads = AtomicU64::new(0);
    std::thread::scope(|s| {
        for n in 0..3 {
            let (db, stop, reads) = (&db, &stop, &reads);
            s.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let tx = db.begin_read().unwrap();
                    let bucket = tx.bucket(b"key").unwrap().unwrap();
                    let first = bucket.get(&0u64.to_be_bytes()).unwrap().unwrap();
                    let mut keys = 0;
                    let mut visit = |_: &[u8], v: &[u8]| {
                        assert_eq!(v, &first[..], "a mixture of commits");
                        keys += 1;
                        ControlFlow::Continue(())
                    };
                    if n == 0 {
                        bucket.scan_reverse(b"", None, &mut visit).unwrap();
                    } else {
                        bucket.scan(b"", None, &mut visit).unwrap();
                    }
                    assert_eq!(keys, 600);
                    if n == 2 {
                        let mut copy = Vec::new();
                        tx.write_to(&mut copy).unwrap();
                        let copy = open(&Arc::new(MemFile::with_content(copy)), Options::default());
                        clean(&copy);
                        assert_eq!(content(&copy), read_all(&tx).unwrap());
                    }
                    clean(db);
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let mut n = 0u64;
        while reads.load(Ordering::Relaxed) < 60 || n < 200 {
            n += 1;
            fill(&db, 0..600, &[n as u8; 64]);
        }
        stop.store(true, Ordering::Relaxed);
    });
    clean(&db);
}

#[test]
fn writers_take_turns() {
    let file = Arc::new(MemFile::new());
    let db = open(&file, Options::default());
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                for _ in 0..25 {
                    let mut tx = db.begin_write().unwrap();
                    tx.create_bucket_if_missing(b"n").unwrap().next_sequence();
                    tx.commit().unwrap();
                }
            });
        }
    });
    let tx = db.begin_read().unwrap();
    assert_eq!(tx.bucket(b"n").unwrap().unwrap().sequence(), 100);
}

#[test]
fn a_copy_stands_alone_and_goes_on() {
    let file = Arc::new(MemFile::new());
    let db = open(&file, Options::default());
    for round in 0..6 {
        fill(&db, 0..300, &[round; 200]);
        let tx = db.begin_read().unwrap();
        fill(&db, 0..300, &[99; 200]);
        let mut bytes = Vec::new();
        assert_eq!(tx.write_to(&mut bytes).unwrap(), tx.size());
        assert_eq!(bytes.len() as u64, tx.size());
        // Either meta alone must do.
        for damaged in [None, Some(16), Some(4096 + 16)] {
            let mut bytes = bytes.clone();
            if let Some(at) = damaged {
                bytes[at] ^= 0xff;
            }
            let copy = open(&Arc::new(MemFile::with_content(bytes)), Options::default());
            assert_eq!(content(&copy), read_all(&tx).unwrap());
            fill(&copy, 100..400, &[5; 200]);
            clean(&copy);
        }
    }
}

#[test]
fn whoever_waited_for_the_lock_gets_the_file_that_took_the_old_ones_place() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let other = dir.path().join("other");
    let held = Db::open(&path, Options::default()).unwrap();
    fill(&held, 0..3, b"old");
    let replacement = Db::open(&other, Options::default()).unwrap();
    fill(&replacement, 0..7, b"new");
    let expected = content(&replacement);
    drop(replacement);
    let mut held = Some(held);
    let opened = Db::open_waiting(&path, Options::default(), |_| {
        if held.take().is_some() {
            std::fs::rename(&other, &path).unwrap();
        }
        true
    })
    .unwrap();
    assert_eq!(content(&opened), expected);
}

#[test]
fn the_lock_is_exclusive_for_writers_and_shared_for_readers() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let read_only = Options {
        read_only: true,
        ..Options::default()
    };
    let missing = Db::open(&path, read_only.clone()).unwrap_err();
    assert!(matches!(missing, Error::Io { .. }), "{missing}");
    let db = Db::open(&path, Options::default()).unwrap();
    fill(&db, 0..10, b"v");
    for options in [Options::default(), read_only.clone()] {
        let refused = Db::open(&path, options).unwrap_err();
        assert!(matches!(refused, Error::Locked { .. }), "{refused}");
    }
    let mut asked = 0;
    let refused = Db::open_waiting(&path, Options::default(), |waited| {
        asked += 1;
        waited < Duration::from_millis(120)
    });
    assert!(matches!(refused, Err(Error::Locked { .. })));
    assert!(asked >= 2);
    let mut held = Some(db);
    let db = Db::open_waiting(&path, Options::default(), |_| {
        held = None;
        true
    })
    .unwrap();
    drop(db);

    let a = Db::open(&path, read_only.clone()).unwrap();
    let b = Db::open(&path, read_only).unwrap();
    assert_eq!(content(&a), content(&b));
    clean(&a);
    assert!(matches!(a.begin_write(), Err(Error::ReadOnly)));
    assert!(matches!(
        Db::open(&path, Options::default()),
        Err(Error::Locked { .. })
    ));
}

#[test]
fn limits_and_mix_ups_are_named_and_leave_the_database_working() {
    let file = Arc::new(MemFile::new());
    let db = open(&file, Options::default());
    let mut tx = db.begin_write().unwrap();
    assert!(matches!(
        tx.put(b"none", b"k", b"v"),
        Err(Error::BucketMissing { .. })
    ));
    let mut bucket = tx.create_bucket_if_missing(b"b").unwrap();
    assert!(matches!(bucket.put(b"", b"v"), Err(Error::KeyEmpty)));
    let long = vec![b'k'; 32_768];
    bucket.put(&long, b"v").unwrap();
    let longer = vec![b'k'; 32_769];
    assert!(matches!(
        bucket.put(&longer, b"v"),
        Err(Error::KeyTooLarge { len: 32_769 })
    ));
    bucket.create_bucket_if_missing(b"nested").unwrap();
    bucket.put(b"plain", b"v").unwrap();
    assert!(matches!(
        bucket.create_bucket_if_missing(b"plain"),
        Err(Error::Incompatible { .. })
    ));
    tx.commit().unwrap();
    let before = content(&db);

    let mut tx = db.begin_write().unwrap();
    tx.put(b"b", b"nested", b"v").unwrap();
    tx.put(b"b", b"other", &[1; 9000]).unwrap();
    let refused = tx.commit().unwrap_err();
    assert_eq!(refused.to_string(), "\"nested\" is a bucket, not a key");
    assert_eq!(content(&db), before);
    clean(&db);
    fill(&db, 0..10, b"works on");

    let mut tx = db.begin_write().unwrap();
    assert_eq!(
        tx.commit().unwrap().txid,
        0,
        "nothing changed, nothing written"
    );
    tx = db.begin_write().unwrap();
    assert!(tx.get(b"b", b"plain").unwrap().is_some());
    assert_eq!(tx.commit().unwrap().bytes_written, 0);
    assert!(matches!(
        Db::open_on(
            file,
            Options {
                page_size: Some(1000),
                ..Options::default()
            }
        ),
        Err(Error::PageSize(1000))
    ));
}

#[test]
fn keys_as_long_as_eight_pages_make_a_sound_tree() {
    let file = Arc::new(MemFile::new());
    let db = open(&file, Options::default());
    let mut rng = Rng(3);
    for _ in 0..10 {
        let mut tx = db.begin_write().unwrap();
        let mut bucket = tx.create_bucket_if_missing(b"b").unwrap();
        for _ in 0..20 {
            let mut key = rng.next().to_be_bytes().to_vec();
            key.resize(30_000, 0);
            bucket.put(&key, b"v").unwrap();
        }
        tx.commit().unwrap();
        clean(&db);
    }
    let tx = db.begin_read().unwrap();
    let stats = tx.bucket(b"b").unwrap().unwrap().stats().unwrap();
    assert_eq!(stats.keys, 200);
}

/// Counts what is read.
struct Counting {
    file: DiskFile,
    reads: AtomicU64,
    writes: AtomicU64,
    read_bytes: AtomicU64,
}

impl PageFile for Counting {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.read_bytes
            .fetch_add(buf.len() as u64, Ordering::Relaxed);
        self.file.read_at(buf, offset)
    }
    fn write_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.file.write_at(buf, offset)
    }
    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }
}

fn counting(path: &std::path::Path) -> Arc<Counting> {
    Arc::new(Counting {
        file: DiskFile::open(path, false, |_| false).unwrap(),
        reads: AtomicU64::new(0),
        writes: AtomicU64::new(0),
        read_bytes: AtomicU64::new(0),
    })
}

#[test]
fn a_file_far_larger_than_the_cache_works_and_hot_pages_cost_no_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("db");
    let options = Options {
        cache_bytes: 512 << 10,
        ..Options::default()
    };
    let file = counting(&path);
    let db = Db::open_on(file.clone(), options.clone()).unwrap();
    for round in 0..20 {
        fill(&db, round * 2000..(round + 1) * 2000, &[round as u8; 300]);
    }
    fill(&db, 1 << 40..(1 << 40) + 40, &[1; 100_000]);
    assert!(db.size() > 20 * (512 << 10), "{}", db.size());
    drop((db, file));

    let file = counting(&path);
    let db = Db::open_on(file.clone(), options).unwrap();
    // Values of 100 kB each, 4 MB in all, are not read to find the free pages; and neighbours come in one read.
    let opened = file.read_bytes.load(Ordering::Relaxed);
    assert!(opened < db.size() - (3 << 20), "{opened} of {}", db.size());
    assert!(file.reads.load(Ordering::Relaxed) < 200);
    clean(&db);
    assert_eq!(content(&db).buckets[b"key".as_slice()].keys.len(), 40_040);
    assert!(db.cached_bytes() <= 512 << 10);

    let tx = db.begin_read().unwrap();
    let bucket = tx.bucket(b"key").unwrap().unwrap();
    bucket.get(&77u64.to_be_bytes()).unwrap();
    let before = file.reads.load(Ordering::Relaxed);
    for _ in 0..1000 {
        assert!(bucket.get(&77u64.to_be_bytes()).unwrap().is_some());
    }
    assert_eq!(file.reads.load(Ordering::Relaxed), before);
}

#[test]
fn a_bulk_commit_of_appended_keys_takes_few_writes_and_fills_its_pages() {
    let dir = tempfile::tempdir().unwrap();
    let file = counting(&dir.path().join("db"));
    let db = Db::open_on(file.clone(), Options::default()).unwrap();
    fill(&db, 0..100, &[0; 300]);
    for round in 1..4u64 {
        let mut tx = db.begin_write().unwrap();
        let started = std::time::Instant::now();
        let mut bucket = tx.bucket_mut(b"key").unwrap();
        bucket.set_fill_percent(0.9);
        for i in 0..10_000 {
            let mut key = [0; 17];
            key[..8].copy_from_slice(&(round * 10_000 + i).to_be_bytes());
            key[8] = b'_';
            bucket.put(&key, &[7; 300]).unwrap();
        }
        let gathered = started.elapsed();
        let before = file.writes.load(Ordering::Relaxed);
        let stats = tx.commit().unwrap();
        eprintln!("put {gathered:?}, {stats:?}");
        let writes = file.writes.load(Ordering::Relaxed) - before;
        assert!(writes < 20, "{writes}");
        let payload = 10_000 * (16 + 17 + 300);
        assert!(stats.bytes_written < payload * 115 / 100, "{stats:?}");
    }
    clean(&db);
}
