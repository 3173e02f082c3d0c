//! Whatever operation fails or tears, and whatever a power cut leaves of unsynced writes: the file opens again, is
//! sound, and shows the last commit or the one before.

mod common;

use common::{Model, Rng, clean, content};
use ferrite_bolt::{Db, Error, Fault, MemFile, Options};
use std::sync::Arc;

/// Commits until something fails; answers the contents after each successful commit, and of the one that failed.
fn workload(db: &Db, states: &mut Vec<Model>) -> Result<(), Error> {
    let mut rng = Rng(7);
    let mut model = Model::default();
    for round in 0..14u64 {
        let mut tx = db.begin_write()?;
        let nested = model.buckets.entry(b"key".to_vec()).or_default();
        let mut bucket = tx.create_bucket_if_missing(b"key")?;
        for _ in 0..40 {
            let k = rng.below(200).to_be_bytes().to_vec();
            if rng.below(3) == 0 || round > 9 {
                bucket.delete(&k)?;
                nested.keys.remove(&k);
            } else {
                let longest = if rng.below(20) == 0 { 9000 } else { 200 };
                let v = vec![round as u8; rng.below(longest) as usize];
                bucket.put(&k, &v)?;
                nested.keys.insert(k, v);
            }
        }
        if round % 3 == 2 {
            tx.compact_tail(8)?;
        }
        states.push(model.clone());
        tx.commit()?;
    }
    Ok(())
}

fn options(store_freelist: bool) -> Options {
    Options {
        store_freelist,
        ..Options::default()
    }
}

/// `states` ends with the commit that was under way; everything but it and its predecessor is out of the question.
fn survives(file: Arc<MemFile>, options: &Options, states: &[Model], what: &str) {
    let db = Db::open_on(file, options.clone()).unwrap_or_else(|e| panic!("{what}: {e}"));
    clean(&db);
    let got = content(&db);
    let before = match states.len() {
        0 | 1 => Model::default(),
        n => states[n - 2].clone(),
    };
    let last = states.last().cloned().unwrap_or_default();
    assert!(got == last || got == before, "{what}: neither of the two");
    // And it goes on from there.
    let mut tx = db.begin_write().unwrap();
    tx.create_bucket_if_missing(b"after")
        .unwrap()
        .put(b"k", &[1; 5000])
        .unwrap();
    tx.commit().unwrap();
    clean(&db);
}

#[test]
fn every_operation_may_fail_or_tear() {
    for store_freelist in [false, true] {
        let options = options(store_freelist);
        let whole = Arc::new(MemFile::new());
        let mut states = Vec::new();
        workload(
            &Db::open_on(whole.clone(), options.clone()).unwrap(),
            &mut states,
        )
        .unwrap();
        let operations = whole.operations();
        assert!(operations > 60, "{operations}");
        for fault in [Fault::Fail, Fault::Tear] {
            for n in 0..operations {
                let file = Arc::new(MemFile::new());
                file.fail_at(n, fault);
                let mut states = Vec::new();
                if let Ok(db) = Db::open_on(file.clone(), options.clone()) {
                    // Cutting the file may fail unseen; then the workload is complete, or stops later.
                    if let Err(first) = workload(&db, &mut states) {
                        let again = db.begin_read().expect_err("closed by the error");
                        assert_eq!(again.to_string(), first.to_string());
                        let again = db.begin_write().expect_err("closed by the error");
                        assert_eq!(again.to_string(), first.to_string());
                    }
                }
                let what = format!("{fault:?} at {n}");
                let left = MemFile::with_content(file.content());
                survives(
                    Arc::new(left),
                    &options,
                    &states,
                    &format!("{what}, killed"),
                );
                for seed in 0..6 {
                    let left = Arc::new(file.after_power_cut(seed));
                    survives(
                        left,
                        &options,
                        &states,
                        &format!("{what}, power cut {seed}"),
                    );
                }
            }
        }
    }
}

#[test]
fn a_kill_between_meta_and_sync_and_then_a_power_cut_lose_nothing() {
    // Killed right before the last sync: the new meta is visible, but not durable. The next process must not reuse
    // pages of the commit before until it is.
    let options = options(false);
    let whole = Arc::new(MemFile::new());
    let mut states = Vec::new();
    workload(
        &Db::open_on(whole.clone(), options.clone()).unwrap(),
        &mut states,
    )
    .unwrap();
    for n in 0..whole.operations() {
        let file = Arc::new(MemFile::new());
        file.fail_at(n, Fault::Fail);
        if let Ok(db) = Db::open_on(file.clone(), options.clone()) {
            let _ = workload(&db, &mut Vec::new());
        }
        file.heal();
        let Ok(db) = Db::open_on(file.clone(), options.clone()) else {
            panic!("opens after a kill at {n}");
        };
        let base = content(&db);
        let next = file.operations();
        let extra = n % 3;
        file.fail_at(next + extra, Fault::Tear);
        if let Ok(mut tx) = db.begin_write() {
            for i in 0..60u64 {
                let mut bucket = tx.create_bucket_if_missing(b"key").unwrap();
                bucket.put(&i.to_be_bytes(), &[9; 400]).unwrap();
            }
            let _ = tx.commit();
        }
        for seed in 0..4 {
            let left = Arc::new(file.after_power_cut(seed));
            let db = Db::open_on(left, options.clone()).unwrap();
            clean(&db);
            let got = content(&db);
            let nines = got
                .buckets
                .get(b"key".as_slice())
                .is_some_and(|b| b.keys.get(0u64.to_be_bytes().as_slice()) == Some(&vec![9; 400]));
            assert!(
                got == base || nines,
                "kill at {n}, fault {extra}, cut {seed}"
            );
        }
    }
}
