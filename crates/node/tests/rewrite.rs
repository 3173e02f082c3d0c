//! A copy of a database that is written to meanwhile: nothing is lost or brought back, wherever the copy is.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use ferrite_mvcc::schema::Bucket;
use ferrite_mvcc::{Backend, Batch, FileView as _};
use ferrite_node::disk::Disk;
use ferrite_node::engine::{DatabaseOptions, Engine};
use ferrite_node::rewrite::{self, Rewrite};

const OPTIONS: DatabaseOptions = DatabaseOptions {
    no_sync: false,
    cache_bytes: 8 << 20,
};
/// Several slices of a copy.
const KEYS: u32 = 35_000;

fn key(n: u32) -> Vec<u8> {
    format!("{n:017}").into_bytes()
}

fn batch(engine: &Engine, change: impl FnOnce(&Backend)) -> Arc<Batch> {
    let backend = Backend::new(engine.view().expect("a view"));
    change(&backend);
    backend.freeze().expect("changes")
}

type Contents = BTreeMap<(Bucket, Vec<u8>), Vec<u8>>;

fn contents(engine: &Engine) -> Contents {
    let view = engine.view().expect("a view");
    let mut contents = Contents::new();
    for bucket in Bucket::ALL {
        view.scan(bucket, &[], None, &mut |key, value| {
            contents.insert((bucket, key.to_vec()), value.to_vec());
            ControlFlow::Continue(())
        })
        .expect("a scan");
    }
    contents
}

fn filled(path: &Path) -> Engine {
    let engine = Engine::open(path, OPTIONS).expect("a database");
    let first = batch(&engine, |backend| {
        for n in 0..KEYS {
            backend.put(Bucket::Key, &key(n), &[b'v'; 100]);
        }
        backend.put(Bucket::Alarm, b"a", b"");
        backend.put(Bucket::Meta, b"term", &7_u64.to_be_bytes());
    });
    engine.commit(&first).expect("a commit");
    engine
}

#[test]
fn what_is_written_meanwhile_is_in_both_files() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    let disk = Disk::real();
    let old = filled(&path);
    let mut rewrite = Rewrite::begin(&disk, &path, &old, OPTIONS).expect("a copy");
    let mut slices = 0_u32;
    loop {
        // Before, at and behind where the copy may be; in every bucket.
        let between = batch(&old, |backend| {
            for step in 0..KEYS / 500 {
                let n = step * 500 + slices;
                backend.put(Bucket::Key, &key(n), format!("new{slices}").as_bytes());
                backend.delete(Bucket::Key, &key(n + 100));
            }
            backend.put(Bucket::Key, &key(KEYS + slices), b"appended");
            for bucket in Bucket::ALL {
                backend.put(bucket, b"every", &slices.to_be_bytes());
            }
            backend.delete(Bucket::Alarm, b"a");
        });
        old.commit(&between).expect("a commit");
        rewrite.follow(&between).expect("a copy");
        slices += 1;
        if rewrite.copy(&old).expect("a copy") {
            break;
        }
    }
    // The key bucket took more than one.
    assert!(slices > 12, "{slices}");
    let last = batch(&old, |backend| backend.delete(Bucket::Meta, b"term"));
    old.commit(&last).expect("a commit");
    rewrite.follow(&last).expect("a copy");
    let reader = old.view().expect("a view");
    let before = contents(&old);
    let new = rewrite
        .finish(&disk, &path, &old, OPTIONS)
        .expect("a new file");
    assert!(contents(&new) == before);
    assert!(new.db().size() < old.db().size());
    drop(old);
    // Whoever reads the old file keeps it.
    assert_eq!(
        reader.get(Bucket::Key, &key(KEYS)).expect("a value"),
        Some("appended".into())
    );
    drop(reader);
    // It goes on as the database, and is whole.
    let more = batch(&new, |backend| backend.put(Bucket::Key, b"after", b"v"));
    new.commit(&more).expect("a commit");
    assert_eq!(new.db().check().expect("a check"), []);
    drop(new);
    let again = Engine::open(&path, OPTIONS).expect("a database");
    assert_eq!(contents(&again).len(), before.len() + 1);
    assert_eq!(
        std::fs::read_dir(folder.path()).expect("a folder").count(),
        1
    );
}

#[test]
fn a_copy_given_up_leaves_nothing_and_what_a_crash_left_is_in_nobodys_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("db");
    let disk = Disk::real();
    let old = filled(&path);
    let begin = || Rewrite::begin(&disk, &path, &old, OPTIONS).expect("a copy");
    let names = || std::fs::read_dir(folder.path()).expect("a folder").count();
    let before = contents(&old);
    begin().abandon(&disk);
    assert_eq!(names(), 1);
    // As a crash would leave it.
    drop(begin());
    assert_eq!(names(), 2);
    let new = rewrite::at_once(&disk, &path, &old, OPTIONS).expect("a new file");
    assert_eq!(names(), 1);
    assert!(contents(&new) == before);
}

/// The page of the older header is taken when the newer one is damaged. It must not name a copy in the making.
#[test]
fn either_header_of_a_new_file_names_all_of_it() {
    const PAGE_BYTES: u64 = 4096;
    for header in 0..2 {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("db");
        let old = filled(&path);
        let before = contents(&old);
        let new = rewrite::at_once(&Disk::real(), &path, &old, OPTIONS).expect("a new file");
        let page = u64::try_from(new.db().page_size()).unwrap_or(PAGE_BYTES);
        drop((old, new));
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .expect("the file");
        let inside = header * page + 16 + 24;
        std::os::unix::fs::FileExt::write_all_at(&file, &[0xa5; 8], inside).expect("damage");
        let found = Engine::open(&path, OPTIONS).expect("the other header");
        assert!(contents(&found) == before, "without header {header}");
    }
}
