//! Damage of any kind is named or harmless. It never panics, never loops, and never reads endlessly.

mod common;

use common::{Rng, open, read_all};
use ferrite_bolt::{Db, Error, MemFile, Options};
use std::sync::Arc;

const PAGE: usize = 4096;

/// A file with every kind of page: branches, leaves, overflow, nested and inline buckets, a stored free list.
fn sample(store_freelist: bool) -> Vec<u8> {
    let file = Arc::new(MemFile::new());
    let options = Options {
        store_freelist,
        ..Options::default()
    };
    let db = open(&file, options);
    for round in 0..3u64 {
        let mut tx = db.begin_write().unwrap();
        let mut bucket = tx.create_bucket_if_missing(b"key").unwrap();
        for i in 0..150u64 {
            bucket
                .put(&(i * 3 + round).to_be_bytes(), &[round as u8; 90])
                .unwrap();
        }
        bucket.put(b"large", &[3; 9000]).unwrap();
        let mut nested = bucket.create_bucket_if_missing(b"nested").unwrap();
        for i in 0..30u64 {
            nested.put(&i.to_be_bytes(), &[4; 200]).unwrap();
        }
        let mut meta = tx.create_bucket_if_missing(b"meta").unwrap();
        meta.put(b"consistent_index", &round.to_be_bytes()).unwrap();
        tx.commit().unwrap();
    }
    file.content()
}

/// Does everything that one can do to a file; only the absence of panics and of endless work is asked.
fn exercise(bytes: Vec<u8>) -> Result<(), Error> {
    let file = Arc::new(MemFile::with_content(bytes));
    let read_only = Options {
        read_only: true,
        cache_bytes: 1 << 20,
        ..Options::default()
    };
    let db = Db::open_on(file.clone(), read_only)?;
    db.check()?;
    let tx = db.begin_read()?;
    let read = read_all(&tx);
    for name in tx.buckets()? {
        if let Some(bucket) = tx.bucket(&name)? {
            let _ = bucket.stats();
            let _ = bucket.get(b"large");
            let _ = bucket.scan_reverse(b"", None, &mut |_, _| std::ops::ControlFlow::Continue(()));
        }
    }
    let db = Db::open_on(file, Options::default())?;
    let write = || -> Result<(), Error> {
        let mut tx = db.begin_write()?;
        tx.compact_tail(4)?;
        let mut bucket = tx.create_bucket_if_missing(b"key")?;
        for i in 0..40u64 {
            bucket.put(&(i * 11).to_be_bytes(), &[9; 50])?;
            bucket.delete(&(i * 11 + 1).to_be_bytes())?;
        }
        tx.commit()?;
        let mut tx = db.begin_write()?;
        tx.delete_bucket(b"key")?;
        tx.commit()?;
        Ok(())
    };
    write()?;
    read.map(|_| ())
}

fn named(error: &Error) -> bool {
    matches!(
        error,
        Error::Damage { .. }
            | Error::NotADatabase { .. }
            | Error::Unwritable { .. }
            | Error::Incompatible { .. }
            | Error::BucketMissing { .. }
    )
}

#[test]
fn random_damage_is_named_or_harmless() {
    for store_freelist in [false, true] {
        let good = sample(store_freelist);
        exercise(good.clone()).expect("sound to begin with");
        let mut rng = Rng(1);
        let mut found = 0;
        for _ in 0..4000 {
            let mut bytes = good.clone();
            for _ in 0..1 + rng.below(3) {
                let page = rng.below((good.len() / PAGE) as u64) as usize * PAGE;
                // Headers and element tables, where structure is, rather than values.
                let at = page + rng.below(400) as usize;
                match rng.below(4) {
                    0 => bytes[at] ^= 1 << rng.below(8),
                    1 => bytes[at] = rng.next() as u8,
                    2 => bytes[at] = 0xff,
                    _ => {
                        let from = rng.below((good.len() / PAGE) as u64) as usize * PAGE;
                        let n = 16 + rng.below(300) as usize;
                        let part = good[from..from + n].to_vec();
                        bytes[page..page + n].copy_from_slice(&part);
                    }
                }
            }
            if let Err(e) = exercise(bytes) {
                assert!(named(&e), "{e}");
                found += 1;
            }
        }
        assert!(found > 1000, "only {found} noticed");
    }
}

/// Three bits of every byte of both metas and of every page header.
#[test]
fn every_byte_of_metas_and_headers() {
    let good = sample(false);
    let pages = good.len() / PAGE;
    for page in 0..pages {
        let bytes_checked = if page < 2 { 80 } else { 16 };
        for at in 0..bytes_checked {
            for bit in [0, 3, 7] {
                let mut bytes = good.clone();
                bytes[page * PAGE + at] ^= 1 << bit;
                if let Err(e) = exercise(bytes) {
                    assert!(named(&e), "{e}");
                }
            }
        }
    }
}

#[test]
fn truncation_at_any_page_is_named() {
    let good = sample(false);
    for pages in 0..good.len() / PAGE {
        for extra in [0, 1, 700] {
            let cut = pages * PAGE + extra;
            let file = Arc::new(MemFile::with_content(good[..cut].to_vec()));
            let read_only = Options {
                read_only: true,
                ..Options::default()
            };
            let error = Db::open_on(file, read_only).expect_err("cut");
            assert!(named(&error), "{error}");
        }
    }
}

fn put_u64(bytes: &mut [u8], at: usize, n: u64) {
    bytes[at..at + 8].copy_from_slice(&n.to_le_bytes());
}

fn root_page(bytes: &[u8]) -> usize {
    let newest = [0, PAGE]
        .into_iter()
        .max_by_key(|m| u64::from_le_bytes(bytes[m + 64..m + 72].try_into().unwrap()))
        .unwrap();
    u64::from_le_bytes(bytes[newest + 32..newest + 40].try_into().unwrap()) as usize
}

fn refusal(bytes: Vec<u8>) -> String {
    let file = Arc::new(MemFile::with_content(bytes));
    match Db::open_on(file, Options::default()) {
        Ok(_) => "opened".into(),
        Err(e) => e.to_string(),
    }
}

#[test]
fn the_message_names_the_page_and_the_reason() {
    let good = sample(false);
    let root = root_page(&good);
    let at = root * PAGE;

    let mut bytes = good.clone();
    put_u64(&mut bytes, at, 99);
    assert_eq!(
        refusal(bytes),
        format!("database damaged at page {root}: its header says page 99")
    );

    let mut bytes = good.clone();
    bytes[at + 8] = 4;
    assert_eq!(
        refusal(bytes),
        format!("database damaged at page {root}: type 0x0004, wanted a branch or leaf page")
    );

    let mut bytes = good.clone();
    bytes[at + 12..at + 16].copy_from_slice(&5000u32.to_le_bytes());
    assert!(refusal(bytes).contains("its overflow ends at page"));

    // The bucket's root points at the root bucket: a loop.
    let mut bytes = good.clone();
    let value = at + 16 + 4;
    let pos = u32::from_le_bytes(bytes[value..value + 4].try_into().unwrap()) as usize;
    let ksize = u32::from_le_bytes(bytes[value + 4..value + 8].try_into().unwrap()) as usize;
    put_u64(&mut bytes, at + 16 + pos + ksize, root as u64);
    assert_eq!(
        refusal(bytes),
        format!("database damaged at page {root}: referred to twice")
    );

    let mut bytes = good.clone();
    bytes[16] ^= 1;
    bytes[PAGE + 72] ^= 1;
    let text = refusal(bytes);
    assert!(
        text.contains("meta page 0: magic number") && text.contains("meta page 1: "),
        "{text}"
    );

    assert!(refusal(b"these are not the bytes of a database".to_vec()).contains("not a usable"));
}

#[test]
fn one_damaged_meta_costs_one_commit_at_most() {
    let good = sample(false);
    for meta in [0, PAGE] {
        let mut bytes = good.clone();
        bytes[meta + 40] ^= 0x10;
        let file = Arc::new(MemFile::with_content(bytes));
        // The sample commits three times over the same keys: either of the two last has them.
        let db = open(&file, Options::default());
        common::clean(&db);
        let tx = db.begin_read().unwrap();
        let bucket = tx.bucket(b"key").unwrap().unwrap();
        assert_eq!(bucket.get(b"large").unwrap().unwrap().len(), 9000);
    }
}
