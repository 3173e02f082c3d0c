//! What the log's tests share.
#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ferrite_proto::{etcdserverpb, raftpb, walpb};
use ferrite_wal::memfs::MemFs;
use ferrite_wal::{Options, Preparation};

pub fn entry(index: u64, term: u64, data: &[u8]) -> raftpb::Entry {
    raftpb::Entry {
        entry_type: 0,
        term,
        index,
        data: data.to_vec().into(),
    }
}

pub fn state(term: u64, vote: u64, commit: u64) -> raftpb::HardState {
    raftpb::HardState { term, vote, commit }
}

pub fn metadata() -> etcdserverpb::Metadata {
    etcdserverpb::Metadata {
        node_id: 11,
        cluster_id: 22,
    }
}

/// The snapshot every log begins with.
pub fn start() -> walpb::Snapshot {
    walpb::Snapshot::default()
}

pub fn snapshot(index: u64, term: u64) -> walpb::Snapshot {
    let conf_state = Some(raftpb::ConfState {
        voters: vec![11],
        ..raftpb::ConfState::default()
    });
    walpb::Snapshot {
        index,
        term,
        conf_state,
    }
}

pub const DIR: &str = "/data/wal";

/// A disk in memory with the directory `/data`, durable.
pub fn disk(seed: u64) -> MemFs {
    let fs = MemFs::new(seed);
    fs.put(Path::new("/data/.keep"), b"");
    fs
}

pub fn options(fs: &MemFs, segment_bytes: u64) -> Options {
    Options {
        fs: Arc::new(fs.clone()),
        segment_bytes,
        no_fsync: false,
        preparation: Preparation::Inline,
        metrics: Default::default(),
    }
}

/// Start, whole length, and the record's data range of every frame.
pub fn frames(bytes: &[u8]) -> Vec<(usize, usize, std::ops::Range<usize>)> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(field) = bytes.get(at..at + 8) {
        let field = u64::from_le_bytes(field.try_into().expect("8 bytes"));
        if field == 0 {
            break;
        }
        let (len, padding) = ferrite_wal::record::split_length(field);
        let body = at + 8..at + 8 + len as usize;
        let record = ferrite_wal::record::decode(&bytes[body.clone()]).expect("a whole record");
        let whole = 8 + (len + padding) as usize;
        found.push((at, whole, body.end - record.data.len()..body.end));
        at += whole;
    }
    found
}

pub fn fixture(name: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures")
        .join(name);
    std::fs::read(path).expect("a committed fixture")
}
