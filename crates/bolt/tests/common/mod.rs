//! What the tests share: a seeded source of choices, a model of nested buckets, and comparisons with it.
#![allow(dead_code, reason = "each test binary uses its own part")]

use ferrite_bolt::{Bucket, Db, Error, MemFile, Options, ReadTx};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// splitmix64.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    pub keys: BTreeMap<Vec<u8>, Vec<u8>>,
    pub buckets: BTreeMap<Vec<u8>, Model>,
    pub sequence: u64,
}

pub fn open(file: &Arc<MemFile>, options: Options) -> Db {
    Db::open_on(file.clone(), options).expect("opens")
}

pub fn clean(db: &Db) {
    let problems = db.check().expect("checks");
    assert!(problems.is_empty(), "{problems:?}");
}

pub fn read_bucket(bucket: &Bucket) -> Result<Model, Error> {
    let mut model = Model {
        sequence: bucket.sequence(),
        ..Model::default()
    };
    bucket.scan(b"", None, &mut |k, v| {
        model.keys.insert(k.to_vec(), v.to_vec());
        ControlFlow::Continue(())
    })?;
    for name in bucket.buckets()? {
        let nested = bucket.bucket(&name)?.expect("listed");
        model.buckets.insert(name, read_bucket(&nested)?);
    }
    Ok(model)
}

pub fn read_all(tx: &ReadTx) -> Result<Model, Error> {
    let mut model = Model::default();
    for name in tx.buckets()? {
        let bucket = tx.bucket(&name)?.expect("listed");
        model.buckets.insert(name, read_bucket(&bucket)?);
    }
    Ok(model)
}

pub fn content(db: &Db) -> Model {
    read_all(&db.begin_read().expect("reads")).expect("reads")
}
