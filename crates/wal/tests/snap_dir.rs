//! The directory of `.snap` files: the newest usable one is found, broken ones are set aside, old
//! ones go, and a crash never leaves half a file under its name.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{disk, snapshot};
use ferrite_proto::raftpb::{ConfState, Snapshot, SnapshotMetadata};
use ferrite_wal::fs::Fs;
use ferrite_wal::memfs::MemFs;
use ferrite_wal::snap::{SnapDir, snap_db_name, snap_name};

const DIR: &str = "/data";

fn raft_snapshot(term: u64, index: u64) -> Snapshot {
    let conf_state = Some(ConfState {
        voters: vec![11],
        ..ConfState::default()
    });
    let metadata = Some(SnapshotMetadata {
        conf_state,
        index,
        term,
    });
    Snapshot {
        data: vec![b'x'; 2000].into(),
        metadata,
    }
}

fn dir(fs: &MemFs) -> SnapDir {
    SnapDir::new(Arc::new(fs.clone()), Path::new(DIR))
}

fn put(fs: &MemFs, name: &str, bytes: &[u8]) {
    fs.put(&Path::new(DIR).join(name), bytes);
}

#[test]
fn the_newest_one_that_reads_and_is_known_to_the_log_wins() {
    let fs = disk(1);
    let snaps = dir(&fs);
    for (term, index) in [(1, 10), (2, 20), (2, 30), (3, 25)] {
        snaps.save(&raft_snapshot(term, index)).expect("saves");
    }
    assert_eq!(snaps.save(&Snapshot::default()).expect("no file"), None);
    assert_eq!(
        snaps.names().expect("lists")[0],
        snap_name(3, 25),
        "newest first, term before index"
    );
    let mut damaged = fs
        .content(&Path::new(DIR).join(snap_name(2, 30)))
        .expect("a file");
    damaged[100] ^= 1;
    put(&fs, &snap_name(2, 30), &damaged);
    put(&fs, &snap_name(9, 9), b"");

    let known = [snapshot(10, 1), snapshot(20, 2), snapshot(30, 2)];
    let loaded = snaps.load_newest_matching(&known).expect("searches");
    assert_eq!(loaded.snapshot, Some(raft_snapshot(2, 20)));
    assert_eq!(loaded.broken.len(), 2);
    let names = fs.list(Path::new(DIR)).expect("lists");
    assert!(
        names.contains(&format!("{}.broken", snap_name(2, 30))),
        "{names:?}"
    );
    assert!(
        names.contains(&format!("{}.broken", snap_name(9, 9))),
        "{names:?}"
    );
    assert_eq!(
        snaps.load_newest().expect("searches").snapshot,
        Some(raft_snapshot(3, 25))
    );
    assert_eq!(
        snaps.load_newest_matching(&[]).expect("searches").snapshot,
        None
    );
}

#[test]
fn old_and_orphaned_files_go() {
    let fs = disk(1);
    let snaps = dir(&fs);
    for index in 1..=7 {
        snaps.save(&raft_snapshot(1, index)).expect("saves");
        put(&fs, &snap_db_name(index), b"database");
    }
    for name in ["db", "tmp12345", "db.tmp.99", "tmp.0.snap"] {
        put(&fs, name, b"x");
    }
    assert_eq!(
        snaps.remove_orphans().expect("removes"),
        ["db.tmp.99", "tmp.0.snap", "tmp12345"]
    );
    assert_eq!(
        snaps.release_databases(3).expect("removes"),
        [snap_db_name(1), snap_db_name(2)]
    );
    assert_eq!(snaps.purge(0).expect("keeps all"), Vec::<String>::new());
    let removed = snaps.purge(4).expect("purges");
    assert_eq!(
        removed,
        [
            snap_name(1, 1),
            snap_name(1, 2),
            snap_name(1, 3),
            snap_db_name(3)
        ]
    );
    assert_eq!(snaps.names().expect("lists").len(), 4);
    assert!(
        fs.content(&Path::new(DIR).join("db")).is_some(),
        "the database stays"
    );
}

/// It is set aside for damage alone: what cannot be read now may be sound.
#[test]
fn a_file_that_cannot_be_read_stays_where_it_is() {
    let fs = disk(1);
    let snaps = dir(&fs);
    for index in [5, 6] {
        snaps.save(&raft_snapshot(1, index)).expect("saves");
    }
    // The folder can be listed, and the file opened.
    for reads in 1..4 {
        fs.fail_reads(Some((reads, 1)));
        snaps.load_newest().expect_err("it cannot be read");
    }
    let newest = snaps.load_newest().expect("searches").snapshot;
    assert_eq!(newest, Some(raft_snapshot(1, 6)));
}

#[test]
fn a_crash_leaves_the_whole_file_or_none() {
    let mut kept = 0;
    for seed in 1..200 {
        let fs = disk(seed);
        let snaps = dir(&fs);
        fs.fail_after(Some(seed % 7));
        let saved = snaps.save(&raft_snapshot(1, 5)).is_ok();
        fs.crash();
        let loaded = snaps.load_newest().expect("searches");
        assert!(loaded.broken.is_empty(), "seed {seed}: {:?}", loaded.broken);
        assert!(
            !saved || loaded.snapshot.is_some(),
            "seed {seed}: a saved snapshot is gone"
        );
        kept += usize::from(loaded.snapshot.is_some());
        snaps.remove_orphans().expect("removes");
    }
    assert!(kept > 20, "only {kept} kept");
}
