//! The database file: any bytes, and a sound file with patches on any of its pages whose metas are then
//! made to hold again.

use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use ferrite_bolt::{Bucket, Db, Error, MemFile, Options};

use crate::input::{Input, put_piece};
use crate::{Target, feature};

/// Patches on the pages of a sound file.
pub const PAGES: Target = Target {
    name: "pages",
    about: "a sound database file with bytes of any of its pages replaced, its metas' checksums holding",
    run: pages,
    seeds: page_seeds,
    len_max: 512,
};

/// Whole files.
pub const FILE: Target = Target {
    name: "database",
    about: "a database file of any bytes: opened, checked, read, written to",
    run: file,
    seeds: file_seeds,
    len_max: 1 << 16,
};

const PAGE: usize = 4096;

/// A file with every kind of page: branches, leaves, overflow, nested and inline buckets, a stored free list.
fn sample(store_freelist: bool) -> &'static [u8] {
    static SAMPLES: [OnceLock<Vec<u8>>; 2] = [OnceLock::new(), OnceLock::new()];
    SAMPLES[usize::from(store_freelist)].get_or_init(|| {
        make(store_freelist).unwrap_or_else(|error| panic!("a sound file is made: {error}"))
    })
}

fn make(store_freelist: bool) -> Result<Vec<u8>, Error> {
    let file = Arc::new(MemFile::new());
    let options = Options {
        store_freelist,
        ..Options::default()
    };
    let db = Db::open_on(file.clone(), options)?;
    for round in 0..3u64 {
        let mut tx = db.begin_write()?;
        let mut bucket = tx.create_bucket_if_missing(b"key")?;
        for i in 0..60u64 {
            bucket.put(&(i * 3 + round).to_be_bytes(), &[round as u8; 90])?;
        }
        bucket.put(b"large", &[3; 9000])?;
        let mut nested = bucket.create_bucket_if_missing(b"nested")?;
        for i in 0..30u64 {
            nested.put(&i.to_be_bytes(), &[4; 200])?;
        }
        let mut meta = tx.create_bucket_if_missing(b"meta")?;
        meta.put(b"consistent_index", &round.to_be_bytes())?;
        tx.commit()?;
    }
    Ok(file.content())
}

fn walk(bucket: &Bucket, depth: usize, left: &mut usize) -> Result<(), Error> {
    let go_on = |left: &mut usize| {
        *left = left.saturating_sub(1);
        if *left == 0 {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    bucket.scan(b"", None, &mut |_, _| go_on(left))?;
    bucket.scan_reverse(b"", None, &mut |_, _| go_on(left))?;
    bucket.get(b"large")?;
    bucket.stats()?;
    if depth < 4 {
        for name in bucket.buckets()? {
            if let Some(nested) = bucket.bucket(&name)? {
                walk(&nested, depth + 1, left)?;
            }
        }
    }
    Ok(())
}

/// Everything one can do to a file.
fn exercise(bytes: Vec<u8>) -> Result<(), Error> {
    let file = Arc::new(MemFile::with_content(bytes));
    let read_only = Options {
        read_only: true,
        cache_bytes: 1 << 20,
        ..Options::default()
    };
    let mut left = 100_000;
    let db = Db::open_on(file.clone(), read_only)?;
    let problems = db.check()?;
    crate::count("problems", problems.len());
    let tx = db.begin_read()?;
    let mut read = Ok(());
    for name in tx.buckets()? {
        if let Some(bucket) = tx.bucket(&name)? {
            read = read.and(walk(&bucket, 0, &mut left));
        }
    }
    let mut copy = Vec::new();
    read = read.and(tx.write_to(&mut copy).map(|_| ()));
    drop(tx);
    drop(db);
    let db = Db::open_on(file.clone(), Options::default())?;
    let mut tx = db.begin_write()?;
    tx.compact_tail(4)?;
    let mut bucket = tx.create_bucket_if_missing(b"key")?;
    for i in 0..20u64 {
        bucket.put(&(i * 11).to_be_bytes(), &[9; 50])?;
        bucket.delete(&(i * 11 + 1).to_be_bytes())?;
    }
    tx.commit()?;
    feature("written to");
    drop(db);
    // What was committed is there when it is opened again.
    let db = Db::open_on(file, Options::default())
        .unwrap_or_else(|error| panic!("written to, it opens no more: {error}"));
    let found = db
        .begin_read()?
        .bucket(b"key")?
        .map(|bucket| bucket.get(&0u64.to_be_bytes()));
    if let Some(Ok(value)) = &found {
        assert_eq!(
            value.as_deref(),
            Some([9; 50].as_slice()),
            "what was committed"
        );
    }
    let mut tx = db.begin_write()?;
    tx.delete_bucket(b"key")?;
    tx.commit()?;
    read
}

fn judge(bytes: Vec<u8>) {
    match exercise(bytes) {
        Ok(()) => feature("sound"),
        Err(error) => {
            feature(&error.to_string());
            assert!(
                matches!(
                    error,
                    Error::Damage { .. }
                        | Error::NotADatabase { .. }
                        | Error::Unwritable { .. }
                        | Error::Incompatible { .. }
                        | Error::BucketMissing { .. }
                ),
                "damage that has no name: {error}"
            );
        }
    }
}

/// Makes the checksums of both metas hold: FNV-1a over what is before them.
fn seal(bytes: &mut [u8]) {
    for at in [16, PAGE + 16] {
        let Some(meta) = bytes.get_mut(at..at + 64) else {
            continue;
        };
        let sum = meta[..56]
            .iter()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
            });
        meta[56..].copy_from_slice(&sum.to_le_bytes());
    }
}

fn pages(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let style = input.byte();
    let mut file = sample(style & 1 != 0).to_vec();
    let pages = file.len() / PAGE;
    while !input.is_done() {
        let page = input.below(pages);
        let at = match input.byte() {
            // The heads of pages and of their elements are where the meaning is.
            head @ 0..192 => usize::from(head),
            _ => input.below(PAGE),
        };
        let from = page * PAGE + at;
        let patch = input.piece();
        let to = (from + patch.len()).min(file.len());
        file[from..to].copy_from_slice(&patch[..to - from]);
    }
    if style & 2 == 0 {
        seal(&mut file);
    }
    if style & 4 != 0 {
        file.truncate(pages * PAGE - usize::from(style >> 3) * 512);
    }
    judge(file);
}

fn page_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0], vec![1], vec![4], vec![4 | 24]];
    let pages = sample(false).len() / PAGE;
    for page in 0..pages {
        // Its own head, put back: something to change.
        let mut seed = vec![(page % 2) as u8];
        seed.extend((page as u16).to_le_bytes());
        seed.push(0);
        let head = &sample(page % 2 == 1)[page * PAGE..][..32];
        put_piece(&mut seed, head);
        seeds.push(seed);
    }
    seeds
}

fn file(bytes: &[u8]) {
    let mut file = bytes.to_vec();
    if bytes.len().is_multiple_of(2) {
        seal(&mut file);
    }
    judge(file);
}

fn file_seeds() -> Vec<Vec<u8>> {
    let small = || -> Result<Vec<u8>, Error> {
        let file = Arc::new(MemFile::new());
        let db = Db::open_on(file.clone(), Options::default())?;
        let mut tx = db.begin_write()?;
        tx.create_bucket_if_missing(b"key")?.put(b"k", b"v")?;
        tx.commit()?;
        Ok(file.content())
    };
    small().into_iter().collect()
}
