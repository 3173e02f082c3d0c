//! Raft snapshots and the databases that come with them: in what order they reach the disk, what a start makes of what a
//! crash left of them, and how the state takes one in.

mod common;

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use ferrite_mvcc::Backend;
use ferrite_mvcc::schema::{self, Bucket};
use ferrite_node::Config;
use ferrite_node::assemble::assemble;
use ferrite_node::disk::Disk;
use ferrite_node::recover::recover_on;
use ferrite_node::stage::log::{Input, LogStage};
use ferrite_node::stage::raft::PersistJob;
use ferrite_node::stage::{apply, raft};
use ferrite_proto::etcdserverpb::Metadata;
use ferrite_proto::raftpb::{
    ConfState, Entry, HardState, Message, MessageType, Snapshot, SnapshotMetadata,
};
use ferrite_proto::walpb;
use ferrite_wal::fs::{Fs as _, Open};
use ferrite_wal::memfs::MemFs;
use ferrite_wal::snap::snap_db_name;
use ferrite_wal::{Recovered, Wal};

const SEGMENT_BYTES: u64 = 4 << 10;
const TERM: u64 = 2;
/// Index of the snapshot.
const INDEX: u64 = 10;
/// Disk operations that bringing it in takes at most.
const OPERATIONS_MAX: u64 = 100;

fn config() -> Config {
    Config {
        no_fsync: false,
        ..common::config(Path::new("/data"))
    }
}

fn disk(seed: u64) -> (MemFs, Disk) {
    let fs = MemFs::new(seed);
    let snap_dir = config().snap_dir();
    fs.create_dir_all(&snap_dir).expect("folders");
    for folder in snap_dir.ancestors() {
        fs.sync_dir(folder).expect("folders");
    }
    let disk = Disk::on(Arc::new(fs.clone()), SEGMENT_BYTES);
    (fs, disk)
}

fn conf_state() -> ConfState {
    ConfState {
        voters: vec![1, 2],
        ..ConfState::default()
    }
}

fn snapshot() -> Snapshot {
    Snapshot {
        data: b"membership".as_slice().into(),
        metadata: Some(SnapshotMetadata {
            conf_state: Some(conf_state()),
            index: INDEX,
            term: TERM,
        }),
    }
}

fn committed() -> HardState {
    HardState {
        term: TERM,
        vote: 0,
        commit: INDEX,
    }
}

/// What raft wants durable when a leader's snapshot came, with an entry behind it and an acknowledgement to send.
fn job() -> PersistJob {
    PersistJob {
        hard_state: Some(committed()),
        entries: vec![Entry {
            term: TERM,
            index: INDEX + 1,
            ..Entry::default()
        }],
        snapshot: Some(snapshot()),
        responses: vec![Message {
            msg_type: MessageType::MsgAppResp as i32,
            from: 1,
            to: 2,
            term: TERM,
            index: INDEX + 1,
            ..Message::default()
        }],
        must_sync: true,
    }
}

fn record() -> walpb::Snapshot {
    walpb::Snapshot {
        index: INDEX,
        term: TERM,
        conf_state: Some(conf_state()),
    }
}

/// What is behind the record in the log, if it is there at all.
fn behind_record(fs: &MemFs, disk: &Disk) -> Option<Recovered> {
    let dir = config().wal_dir();
    let open = || Wal::open(&dir, &record(), disk.wal_options(&config()));
    let opened = match open() {
        Err(error) if error.is_repairable() => {
            Wal::repair_on(fs, &dir).expect("a torn tail is cut off");
            open()
        }
        opened => opened,
    };
    opened.ok().map(|(_, found)| found)
}

/// DK-28. Wherever the power goes: an orphaned `.snap` file at most, never a record without one; and the acknowledgement
/// leaves only when everything it promises is durable.
#[test]
fn a_snapshot_is_durable_before_its_record_and_both_before_it_is_acknowledged() {
    let (mut orphans, mut done) = (0, 0);
    for seed in 1..=8 {
        for operations in 0..OPERATIONS_MAX {
            let (fs, disk) = disk(seed * 1000 + operations);
            let metadata = Metadata {
                node_id: 1,
                cluster_id: 7,
            };
            let wal = Wal::create(&config().wal_dir(), &metadata, disk.wal_options(&config()));
            let snaps = disk.snap_dir(&config().snap_dir());
            let mut stage = LogStage::new(wal.expect("a log"), snaps.clone(), 1, 0, 0);
            fs.fail_after(Some(operations));
            let stepped = stage.step(&mut VecDeque::from([Input::Persist(job())]));
            drop(stage);
            fs.crash();
            let recorded = behind_record(&fs, &disk);
            let file = snaps.load_newest_matching(&[record()]);
            let file = file.expect("a folder").snapshot;
            match (&recorded, &file) {
                (None, Some(_)) => orphans += 1,
                (None, None) => {}
                (Some(_), Some(file)) => assert_eq!(*file, snapshot()),
                (Some(_), None) => panic!("{seed} {operations}: a record without its file"),
            }
            let Ok(effects) = stepped else { continue };
            assert_eq!(effects.to_peers, job().responses);
            assert_eq!(effects.installs, [snapshot()]);
            let found = recorded.expect("the record is durable");
            assert_eq!(found.entries, job().entries, "{seed} {operations}");
            assert_eq!(found.hard_state, committed(), "{seed} {operations}");
            done += 1;
            break;
        }
    }
    assert_eq!(done, 8, "each seed comes to an end");
    assert!(orphans > 0, "the moment between the two was never met");
}

/// A database that has applied everything up to this index.
fn database(disk: &Disk, path: &Path, index: u64) -> ferrite_node::engine::Engine {
    let engine = disk
        .open_database(path, config().database_options())
        .expect("a database");
    let backend = Backend::new(engine.view().expect("a view"));
    for (name, number) in [(schema::CONSISTENT_INDEX, index), (schema::TERM, TERM)] {
        backend.put(Bucket::Meta, name.as_bytes(), &number.to_be_bytes());
    }
    engine
        .commit(&backend.freeze().expect("changes"))
        .expect("a commit");
    engine
}

fn is_there(fs: &MemFs, path: &Path) -> bool {
    fs.open(path, Open::Read).is_ok()
}

/// DK-29, LG-07. The log says that a database came, and it is not in its place yet: it is taken, or missed by name.
#[test]
fn the_database_that_a_record_names_takes_its_place_or_is_missed_by_name() {
    let (fs, disk) = disk(1);
    let config = config();
    let founded = recover_on(&disk, &config, None).expect("a member");
    let mut wal = founded.wal;
    wal.save(Some(&committed()), &[], true).expect("written");
    wal.save_snapshot(&record()).expect("written");
    drop(wal);
    drop(founded.engine);
    let snap_dir = config.snap_dir();
    let leftovers = ["tmp1234", "db.tmp.5678"].map(|name| snap_dir.join(name));
    for leftover in &leftovers {
        fs.put(leftover, b"half");
    }
    let received = snap_dir.join(snap_db_name(INDEX));
    let refused = match recover_on(&disk, &config, None) {
        Ok(_) => panic!("it goes on without the data"),
        Err(error) => error.to_string(),
    };
    for text in [
        "failed to find database snapshot file (snap: snapshot file doesn't exist)",
        "000000000000000a.snap.db is missing",
        "(index 10)",
    ] {
        assert!(refused.contains(text), "{text}: {refused}");
    }
    for leftover in &leftovers {
        assert!(!is_there(&fs, leftover), "{}", leftover.display());
    }
    // One that is older than its name is not taken either.
    drop(database(&disk, &received, INDEX - 1));
    let refused = match recover_on(&disk, &config, None) {
        Ok(_) => panic!("it takes another database"),
        Err(error) => error.to_string(),
    };
    assert!(refused.contains("holds applied index 9"), "{refused}");
    drop(database(&disk, &received, INDEX));
    let again = recover_on(&disk, &config, None).expect("a member");
    assert_eq!(again.applier.progress().index, INDEX);
    assert!(!is_there(&fs, &received), "it has the other name now");
}

/// ME-05: the gauge is set by this while an input is done, and read by whoever asks.
#[test]
fn a_member_is_installing_from_the_snapshot_until_the_state_is_read_from_it() {
    let (_fs, disk) = disk(1);
    let config = config();
    let recovered = recover_on(&disk, &config, None).expect("a member");
    let now = Instant::now();
    let stages = assemble::<()>(&config, recovered, 1, 1 << 32, now).expect("stages");
    let mut apply = stages.apply;
    let mut step = |input: apply::Input| {
        let stepped = apply.step::<()>(input, || now, |_| false, |_, _, _| {});
        let effects = stepped.expect("it goes on");
        (effects, apply.is_installing())
    };
    let (effects, installing) = step(apply::Input::Install(snapshot()));
    assert!(installing);
    assert_eq!(effects.commit.len(), 1, "the file is to take its place");
    // What comes meanwhile waits.
    let job = raft::ApplyJob::default();
    let (effects, installing) = step(apply::Input::Apply(job));
    assert!(installing && effects.commit.is_empty());
    let engine = database(&disk, &config.snap_dir().join("received"), INDEX);
    let view = engine.view().expect("a view");
    let (effects, installing) = step(apply::Input::Installed(view));
    assert!(!installing);
    assert_eq!(effects.progress.map(|progress| progress.index), Some(INDEX));
}
