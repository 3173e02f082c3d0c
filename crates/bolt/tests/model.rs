//! Random changes against a model in memory: after every commit the file holds what the model holds, and is sound.

mod common;

use common::{Model, Rng, clean, content, open};
use ferrite_bolt::{BucketMut, MemFile, Options};
use std::ops::ControlFlow;
use std::sync::Arc;

fn key(rng: &mut Rng) -> Vec<u8> {
    let mut key = format!("{:04}", rng.below(3000)).into_bytes();
    if rng.below(10) == 0 {
        key.resize(4 + rng.below(900) as usize, b'k');
    }
    key
}

fn value(rng: &mut Rng) -> Vec<u8> {
    let len = match rng.below(60) {
        0 => rng.below(20_000),
        1..=5 => rng.below(2000),
        _ => rng.below(120),
    };
    vec![rng.next() as u8; len as usize]
}

fn compare(bucket: &BucketMut<'_>, model: &Model, rng: &mut Rng) {
    let (a, b) = (key(rng), key(rng));
    let (from, to) = if a <= b { (a, b) } else { (b, a) };
    let want: Vec<_> = model
        .keys
        .range(from.clone()..to.clone())
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    let mut got = Vec::new();
    bucket
        .scan(&from, Some(&to), &mut |k, v| {
            got.push((k.to_vec(), v.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(got, want);
    let mut back = Vec::new();
    bucket
        .scan_reverse(&from, Some(&to), &mut |k, v| {
            back.push((k.to_vec(), v.to_vec()));
            ControlFlow::Continue(())
        })
        .unwrap();
    back.reverse();
    assert_eq!(back, want);
    for k in [&from, &to] {
        assert_eq!(
            bucket.get(k).unwrap().as_deref(),
            model.keys.get(k).map(Vec::as_slice)
        );
    }
}

fn change(
    bucket: &mut BucketMut<'_>,
    model: &mut Model,
    rng: &mut Rng,
    depth: u32,
    deleting: bool,
) {
    for _ in 0..rng.below(60) {
        let k = key(rng);
        if deleting || rng.below(3) == 0 {
            bucket.delete(&k).unwrap();
            model.keys.remove(&k);
        } else {
            let v = value(rng);
            bucket.put(&k, &v).unwrap();
            model.keys.insert(k, v);
        }
    }
    if deleting && rng.below(4) == 0 {
        // A stretch of neighbours goes, so that pages become empty.
        let from = key(rng);
        let gone: Vec<_> = model
            .keys
            .range(from..)
            .take(300)
            .map(|(k, _)| k.clone())
            .collect();
        for k in gone {
            bucket.delete(&k).unwrap();
            model.keys.remove(&k);
        }
    }
    if rng.below(5) == 0 {
        model.sequence = bucket.next_sequence();
    }
    compare(bucket, model, rng);
    if depth == 0 {
        return;
    }
    for _ in 0..rng.below(3) {
        let name = format!("bucket{}", rng.below(5)).into_bytes();
        let plain = format!("bucket{}", rng.below(5)).into_bytes();
        if rng.below(4) == 0 && !model.buckets.contains_key(&plain) {
            // A name may be a key at one time and a bucket at another.
            if model.keys.remove(&plain).is_some() {
                bucket.delete(&plain).unwrap();
            } else {
                bucket.put(&plain, b"plain").unwrap();
                model.keys.insert(plain, b"plain".to_vec());
            }
        }
        if model.keys.contains_key(&name) {
            assert!(bucket.create_bucket_if_missing(&name).is_err());
            assert!(bucket.delete_bucket(&name).is_err());
        } else if rng.below(4) == 0 {
            let known = model.buckets.remove(&name).is_some();
            assert_eq!(bucket.delete_bucket(&name).is_ok(), known);
        } else {
            let nested = model.buckets.entry(name.clone()).or_default();
            let mut b = bucket.create_bucket_if_missing(&name).unwrap();
            change(&mut b, nested, rng, depth - 1, deleting);
        }
    }
}

fn run(seed: u64, rounds: u64, options: Options) {
    let mut rng = Rng(seed);
    let file = Arc::new(MemFile::new());
    let mut db = open(&file, options.clone());
    let mut model = Model::default();
    let mut readers = Vec::new();
    for round in 0..rounds {
        let mut tx = db.begin_write().unwrap();
        let before = model.clone();
        let deleting = (round / 12) % 3 == 2;
        for name in ["alpha", "beta", "gamma"] {
            if rng.below(2) == 0 {
                let nested = model.buckets.entry(name.into()).or_default();
                let mut bucket = tx.create_bucket_if_missing(name.as_bytes()).unwrap();
                bucket.set_fill_percent([0.5, 0.9, 0.1][rng.below(3) as usize]);
                change(&mut bucket, nested, &mut rng, 2, deleting);
            }
        }
        if rng.below(12) == 0 && model.buckets.remove("gamma".as_bytes()).is_some() {
            tx.delete_bucket(b"gamma").unwrap();
        }
        if rng.below(4) == 0 {
            tx.compact_tail(1 + rng.below(30)).unwrap();
        }
        if rng.below(8) == 0 {
            drop(tx);
            model = before;
        } else {
            tx.commit().unwrap();
        }
        assert_eq!(content(&db), model, "seed {seed} round {round}");
        clean(&db);
        if rng.below(5) == 0 {
            readers.push((db.begin_read().unwrap(), model.clone()));
        }
        if readers.len() > 3 {
            readers.remove(rng.below(4) as usize);
        }
        for (tx, seen) in &readers {
            assert_eq!(
                common::read_all(tx).unwrap(),
                *seen,
                "a reader's view moved"
            );
        }
        if rng.below(10) == 0 {
            readers.clear();
            drop(db);
            db = open(&file, options.clone());
            assert_eq!(content(&db), model);
            clean(&db);
        }
    }
}

#[test]
fn random_changes_equal_the_model() {
    for seed in 0..6 {
        run(seed, 40, Options::default());
    }
}

#[test]
fn random_changes_with_small_pages_no_cache_and_a_stored_free_list() {
    for seed in 100..105 {
        let options = Options {
            page_size: Some(1024),
            cache_bytes: 0,
            store_freelist: true,
            ..Options::default()
        };
        run(seed, 40, options);
    }
}

#[test]
fn what_is_deleted_becomes_free_the_tree_shrinks_and_the_file_is_cut() {
    let file = Arc::new(MemFile::new());
    let db = open(&file, Options::default());
    let mut tx = db.begin_write().unwrap();
    let mut bucket = tx.create_bucket_if_missing(b"key").unwrap();
    for i in 0..20_000u64 {
        bucket.put(&i.to_be_bytes(), &[7; 100]).unwrap();
    }
    tx.commit().unwrap();
    let full = db.size();
    let stats = |db: &ferrite_bolt::Db| {
        let tx = db.begin_read().unwrap();
        tx.bucket(b"key").unwrap().unwrap().stats().unwrap()
    };
    assert_eq!(stats(&db).keys, 20_000);
    assert!(stats(&db).depth >= 3);
    // Nine of ten go, one by one and spread over all pages: pages become thin, and are joined.
    let mut tx = db.begin_write().unwrap();
    for i in (0..20_000u64).filter(|i| i % 10 != 0) {
        tx.delete(b"key", &i.to_be_bytes()).unwrap();
    }
    assert!(tx.commit().unwrap().merges > 0);
    clean(&db);
    let thin = stats(&db);
    assert_eq!(thin.keys, 2000);
    assert!(thin.leaf_pages < 200, "{thin:?}");
    for _ in 0..60 {
        let mut tx = db.begin_write().unwrap();
        tx.compact_tail(100).unwrap();
        tx.bucket_mut(b"key").unwrap().next_sequence();
        tx.commit().unwrap();
    }
    clean(&db);
    assert_eq!(stats(&db).keys, 2000);
    assert!(db.size() < full / 4, "{} of {full}", db.size());
    assert!((file.content().len() as u64) < full / 3);
    let mut tx = db.begin_write().unwrap();
    for i in 0..20_000u64 {
        tx.delete(b"key", &i.to_be_bytes()).unwrap();
    }
    tx.commit().unwrap();
    clean(&db);
    assert_eq!(stats(&db).keys, 0);
    assert_eq!(stats(&db).depth, 0, "an empty bucket is inline");
}
