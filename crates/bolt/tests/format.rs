//! The bytes themselves: against a file of the original's, and against the worked example in the documentation.

mod common;

use common::{clean, open};
use ferrite_bolt::{Db, MemFile, Options};
use std::path::Path;
use std::sync::Arc;

const PAGE: usize = 4096;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks_exact(2)
        .map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap())
        .collect()
}

/// The file that etcd 3.5.1 leaves after its first start.
fn original() -> Vec<u8> {
    let mut bytes = vec![0; 5 * PAGE];
    let lines = include_str!("data/etcd-3.5.1-first-start.hex")
        .lines()
        .filter(|l| !l.starts_with('#'));
    for line in lines {
        let (at, data) = line.split_once(' ').unwrap();
        let at = usize::from_str_radix(at, 16).unwrap();
        let data = hex(data);
        bytes[at..at + data.len()].copy_from_slice(&data);
    }
    bytes
}

#[test]
fn a_file_of_the_original_is_read() {
    let db = open(
        &Arc::new(MemFile::with_content(original())),
        Options::default(),
    );
    clean(&db);
    assert_eq!(db.size(), 5 * 4096);
    assert_eq!(db.free_pages(), 2);
    let tx = db.begin_read().unwrap();
    assert_eq!(tx.txid(), 8);
    let meta = tx.bucket(b"meta").unwrap().unwrap();
    assert_eq!(
        meta.get(b"consistent_index").unwrap().unwrap(),
        &[0, 0, 0, 0, 0, 0, 0, 4][..]
    );
    assert_eq!(
        meta.get(b"confState").unwrap().unwrap(),
        &br#"{"voters":[11474789679860133653],"auto_leave":false}"#[..]
    );
    let cluster = tx.bucket(b"cluster").unwrap().unwrap();
    assert_eq!(cluster.get(b"clusterVersion").unwrap().unwrap(), "3.5.0");
}

#[test]
fn the_same_content_becomes_the_same_bytes() {
    let original = original();
    let from = open(
        &Arc::new(MemFile::with_content(original.clone())),
        Options::default(),
    );
    let file = Arc::new(MemFile::new());
    let db = open(&file, Options::default());
    let mut tx = db.begin_write().unwrap();
    for (name, bucket) in common::content(&from).buckets {
        let mut ours = tx.create_bucket_if_missing(&name).unwrap();
        for (k, v) in bucket.keys {
            ours.put(&k, &v).unwrap();
        }
    }
    tx.commit().unwrap();
    let bytes = file.content();
    // The root leaf went to page 4; beside its number it is the original's page 2.
    assert_eq!(bytes[4 * PAGE..4 * PAGE + 8], 4u64.to_le_bytes());
    assert!(bytes[4 * PAGE + 8..5 * PAGE] == original[2 * PAGE + 8..3 * PAGE]);
    // And a meta with the original's numbers has the original's checksum: our writer counts on from transaction 8 to 9
    // and back to the parity of page 1.
    drop(tx_of(&from));
    let again = Arc::new(MemFile::with_content(original));
    let db = open(&again, Options::default());
    let mut tx = db.begin_write().unwrap();
    tx.bucket_mut(b"alarm").unwrap().set_sequence(1);
    assert_eq!(tx.commit().unwrap().txid, 9);
    assert_eq!(again.content()[..PAGE], from_bytes(&from)[..PAGE]);
}

fn tx_of(db: &Db) -> ferrite_bolt::ReadTx {
    db.begin_read().unwrap()
}

/// A copy of the database, whose first meta page must be the original's, checksum included.
fn from_bytes(db: &Db) -> Vec<u8> {
    let mut bytes = Vec::new();
    tx_of(db).write_to(&mut bytes).unwrap();
    bytes
}

/// The database of the documentation's example.
fn example() -> Vec<u8> {
    let file = Arc::new(MemFile::new());
    let db = open(&file, Options::default());
    let mut tx = db.begin_write().unwrap();
    let mut small = tx.create_bucket_if_missing(b"small").unwrap();
    small.put(b"k", b"value").unwrap();
    small.set_sequence(7);
    let mut large = tx.create_bucket_if_missing(b"large").unwrap();
    for (key, byte) in [(b"a", b'A'), (b"b", b'B'), (b"c", b'C')] {
        large.put(key, &[byte; 3000]).unwrap();
    }
    tx.commit().unwrap();
    file.content()
}

#[test]
fn the_documented_example_is_what_is_written() {
    let bytes = example();
    if let Some(path) = std::env::var_os("FERRITE_WRITE_EXAMPLE") {
        std::fs::write(path, &bytes).unwrap();
    }
    let doc = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/formats/database.md");
    let doc = std::fs::read_to_string(doc).unwrap();
    let mut shown = 0;
    let mut inside = false;
    for line in doc.lines() {
        if line.starts_with("```") {
            inside = line == "```hex";
            continue;
        }
        if !inside {
            continue;
        }
        // offset, bytes, then words of explanation after two spaces.
        let (at, rest) = line.split_once("  ").expect("offset, two spaces, bytes");
        let data = hex(rest.split("  ").next().unwrap());
        let at = usize::from_str_radix(at, 16).unwrap();
        assert_eq!(bytes[at..at + data.len()], data, "at {at:#x}");
        shown += data.len();
    }
    assert!(shown > 200, "the example is missing: {shown} bytes");
}
