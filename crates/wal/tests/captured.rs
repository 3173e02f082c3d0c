//! Logs and `.snap` files that etcd 3.4.23 and 3.5.1 wrote, zeros at the end cut off.

mod common;

use common::{fixture, frames, start};
use ferrite_proto::raftpb;
use ferrite_wal::{Error, Wal, record, snap};
use prost::Message;

fn in_a_directory(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    std::fs::write(
        dir.path().join(ferrite_wal::names::wal_name(0, 0)),
        fixture(name),
    )
    .expect("written");
    dir
}

#[test]
fn logs_of_both_versions_are_read() {
    for (name, entries, commit, learner) in [
        (
            "etcd-3.5.1-one-member.wal",
            17,
            17,
            1_258_847_281_873_409_004,
        ),
        (
            "etcd-3.4.23-one-member.wal",
            17,
            17,
            13_952_433_170_872_322_476,
        ),
    ] {
        let dir = in_a_directory(name);
        let read = Wal::read(dir.path(), &start()).expect(name);
        assert_eq!(read.metadata.node_id, 0x9e73_7feb_b6b9_9eee, "{name}");
        assert_eq!(read.metadata.cluster_id, 0xc873_0d66_636f_f140, "{name}");
        assert_eq!(
            read.hard_state,
            raftpb::HardState {
                term: 2,
                vote: 0x9e73_7feb_b6b9_9eee,
                commit
            },
            "{name}"
        );
        assert_eq!(read.entries.len(), entries, "{name}");
        assert!(
            (1..)
                .zip(&read.entries)
                .all(|(index, entry)| entry.index == index),
            "{name}"
        );
        let last = read.entries.last().expect("entries");
        let change = raftpb::ConfChange::decode(&*last.data).expect("a conf change");
        assert_eq!(
            (last.entry_type, change.change_type, change.node_id),
            (1, 3, learner),
            "{name}"
        );

        let snapshots = Wal::valid_snapshots(dir.path()).expect(name);
        let found: Vec<(u64, u64)> = snapshots.iter().map(|s| (s.index, s.term)).collect();
        assert_eq!(found, [(0, 0), (11, 2)], "{name}");
        let later = Wal::read(dir.path(), &snapshots[1]).expect(name);
        assert_eq!(later.entries, read.entries[11..], "{name}");
    }
}

#[test]
fn a_bootstrap_of_three_is_read() {
    let dir = in_a_directory("etcd-3.4.23-three-members.wal");
    let read = Wal::read(dir.path(), &start()).expect("reads");
    assert_eq!(read.metadata.node_id, 0xf9bb_7dc3_2e44_29fd);
    assert_eq!(read.hard_state.commit, 3);
    assert_eq!(
        read.entries
            .iter()
            .map(|e| (e.entry_type, e.term))
            .collect::<Vec<_>>(),
        [(1, 1); 3]
    );
}

#[test]
fn records_written_again_have_the_same_bytes() {
    for name in [
        "etcd-3.5.1-one-member.wal",
        "etcd-3.4.23-one-member.wal",
        "etcd-3.4.23-three-members.wal",
    ] {
        let theirs = fixture(name);
        let (mut ours, mut crc) = (Vec::new(), 0);
        for (at, _, data) in frames(&theirs) {
            let field = u64::from_le_bytes(theirs[at..at + 8].try_into().expect("8 bytes"));
            let body = &theirs[at + 8..at + 8 + record::split_length(field).0 as usize];
            let kind = record::decode(body).expect("decodes").kind;
            crc = record::append(&mut ours, kind, &theirs[data], crc);
        }
        assert_eq!(ours, theirs, "{name}");
    }
}

#[test]
fn a_new_log_starts_with_etcds_bytes() {
    let parent = tempfile::tempdir().expect("a temporary directory");
    let dir = parent.path().join("wal");
    let theirs = fixture("etcd-3.5.1-one-member.wal");
    let metadata = ferrite_proto::etcdserverpb::Metadata {
        node_id: 0x9e73_7feb_b6b9_9eee,
        cluster_id: 0xc873_0d66_636f_f140,
    };
    let mut wal = Wal::create(&dir, &metadata, ferrite_wal::Options::default()).expect("creates");
    // Their first entry, a conf change, has no field that 3.5 and 3.7 write differently.
    let first =
        Wal::read(in_a_directory("etcd-3.5.1-one-member.wal").path(), &start()).expect("reads");
    let state = raftpb::HardState {
        term: 1,
        vote: 0,
        commit: 1,
    };
    wal.save(Some(&state), &first.entries[..1], true)
        .expect("saves");
    wal.close().expect("closes");
    let ours = std::fs::read(dir.join("0000000000000000-0000000000000000.wal")).expect("reads");
    assert_eq!(ours[..224], theirs[..224]);
    assert!(ours[224..].iter().all(|b| *b == 0), "only zeros follow");
}

#[test]
fn snap_files_of_both_versions_are_read_and_written() {
    for name in ["etcd-3.5.1.snap", "etcd-3.4.23.snap"] {
        let bytes = fixture(name);
        let snapshot = snap::decode(name.as_ref(), &bytes).expect(name);
        let metadata = snapshot.metadata.clone().expect("metadata");
        assert_eq!((metadata.index, metadata.term), (11, 2), "{name}");
        assert_eq!(
            metadata.conf_state.expect("conf state").voters,
            [0x9e73_7feb_b6b9_9eee],
            "{name}"
        );
        assert!(snapshot.data.starts_with(b"{\"Root\""), "{name}");

        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = snap::save(dir.path(), &snapshot)
            .expect("saves")
            .expect("not empty");
        assert_eq!(
            path.file_name().and_then(|n| n.to_str()),
            Some("0000000000000002-000000000000000b.snap")
        );
        assert_eq!(snap::load(&path).expect("loads"), snapshot);

        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            assert!(
                matches!(
                    snap::decode(name.as_ref(), &damaged),
                    Err(Error::BrokenSnap { .. })
                ),
                "{name}, byte {at}"
            );
        }
    }
}
