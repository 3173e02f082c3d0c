//! The write-ahead log: as a sequence of well-framed records with any content, and as any bytes.

use std::path::Path;
use std::sync::Arc;

use ferrite_proto::{etcdserverpb, raftpb, walpb};
use ferrite_wal::memfs::MemFs;
use ferrite_wal::names::wal_name;
use ferrite_wal::{Options, Preparation, Wal, record};
use prost::Message;

use crate::input::{Input, put_piece};
use crate::{Target, count, feature};

/// Records whose frames and checksums hold, whatever is in them.
pub const RECORDS: Target = Target {
    name: "wal_records",
    about: "a log of well-framed records with any content, cut anywhere, over one or two segments",
    run: records,
    seeds: record_seeds,
    len_max: 4096,
};

/// A segment of any bytes.
pub const SEGMENT: Target = Target {
    name: "wal_segment",
    about: "a segment of any bytes: read, repaired, appended to, opened again",
    run: segment,
    seeds: segment_seeds,
    len_max: 4096,
};

const DIR: &str = "/data/wal";
/// Segments are cut often enough to be met.
const SEGMENT_BYTES: u64 = 16 << 10;

fn options(fs: &MemFs) -> Options {
    Options {
        fs: Arc::new(fs.clone()),
        segment_bytes: SEGMENT_BYTES,
        no_fsync: false,
        preparation: Preparation::Inline,
        metrics: Default::default(),
    }
}

fn disk() -> MemFs {
    let fs = MemFs::new(1);
    fs.put(Path::new("/data/.keep"), b"");
    fs
}

/// Reads a log every way there is; then what can be opened must take more and give it back.
fn exercise(fs: &MemFs) {
    let dir = Path::new(DIR);
    let start = walpb::Snapshot::default();
    let mut from = start.clone();
    match Wal::valid_snapshots_on(fs, dir) {
        Ok(found) => {
            count("snapshots", found.len());
            from = found.last().cloned().unwrap_or_default();
        }
        Err(error) => feature(&error.to_string()),
    }
    for at in [&start, &from] {
        match Wal::read_on(fs, dir, at) {
            Ok(read) => count("entries", read.entries.len()),
            Err(error) => feature(&error.to_string()),
        }
    }
    let opened = match Wal::open(dir, &from, options(fs)) {
        Err(error) if error.is_repairable() => {
            feature(&error.to_string());
            Wal::repair_on(fs, dir).and_then(|()| Wal::open(dir, &from, options(fs)))
        }
        opened => opened,
    };
    let (mut wal, read) = match opened {
        Ok(opened) => opened,
        Err(error) => return feature(&format!("open: {error}")),
    };
    feature("opened");
    let mut entries = read.entries;
    let last = entries.last().map_or(from.index, |entry| entry.index);
    let Some(next) = last.checked_add(1) else {
        return;
    };
    let entry = raftpb::Entry {
        index: next,
        term: u64::MAX,
        data: vec![7; 100].into(),
        ..raftpb::Entry::default()
    };
    let state = raftpb::HardState {
        term: u64::MAX,
        vote: 1,
        commit: last,
    };
    if let Err(error) = wal.save(Some(&state), std::slice::from_ref(&entry), true) {
        return feature(&format!("append: {error}"));
    }
    drop(wal);
    entries.push(entry);
    fs.crash();
    let (_wal, read) = Wal::open(dir, &from, options(fs))
        .unwrap_or_else(|error| panic!("what was opened and synced opens no more: {error}"));
    assert_eq!(read.hard_state, state, "the hard state that was synced");
    assert!(read.entries == entries, "the entries that were synced");
}

/// Kinds of records as the log knows them, and one that it does not.
const KINDS: [i64; 6] = [2, 3, 5, 1, 4, 9];

fn records(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let style = input.byte();
    let cut = input.below(1 << 12);
    let metadata = etcdserverpb::Metadata {
        node_id: 11,
        cluster_id: 22,
    };
    let mut segments: Vec<Vec<u8>> = Vec::new();
    let mut crc = 0;
    let begin = |crc: &mut u32| {
        let mut out = Vec::new();
        record::append(&mut out, 4, &[], *crc);
        *crc = record::append(&mut out, 1, &metadata.encode_to_vec(), *crc);
        out
    };
    let mut out = begin(&mut crc);
    if style & 1 == 0 {
        let start = walpb::Snapshot::default().encode_to_vec();
        crc = record::append(&mut out, 5, &start, crc);
    }
    let mut steps = 0;
    while !input.is_done() && steps < 200 {
        steps += 1;
        let kind = input.byte();
        if kind == 255 {
            segments.push(std::mem::replace(&mut out, begin(&mut crc)));
            continue;
        }
        let kind = KINDS[usize::from(kind) % KINDS.len()];
        crc = record::append(&mut out, kind, input.piece(), crc);
    }
    if style & 2 != 0 {
        out.truncate(out.len().saturating_sub(cut));
    }
    if style & 4 != 0 {
        out.resize(out.len() + cut, 0);
    }
    segments.push(out);
    let fs = disk();
    for (sequence, segment) in segments.iter().enumerate() {
        let name = wal_name(sequence as u64, sequence as u64 * u64::from(style >> 4));
        fs.put(&Path::new(DIR).join(name), segment);
    }
    exercise(&fs);
}

fn segment(bytes: &[u8]) {
    let fs = disk();
    fs.put(&Path::new(DIR).join(wal_name(0, 0)), bytes);
    exercise(&fs);
}

fn entry(index: u64, term: u64, data: &[u8]) -> raftpb::Entry {
    raftpb::Entry {
        index,
        term,
        data: data.to_vec().into(),
        ..raftpb::Entry::default()
    }
}

fn record_seeds() -> Vec<Vec<u8>> {
    let state = |term, commit| raftpb::HardState {
        term,
        vote: 11,
        commit,
    };
    let snapshot = walpb::Snapshot {
        index: 2,
        term: 1,
        conf_state: Some(raftpb::ConfState {
            voters: vec![11],
            ..raftpb::ConfState::default()
        }),
    };
    let mut plain = vec![0, 0, 0];
    for index in 1..6 {
        plain.push(0);
        put_piece(&mut plain, &entry(index, 1, b"data").encode_to_vec());
        plain.push(1);
        put_piece(&mut plain, &state(1, index).encode_to_vec());
    }
    let mut cut = vec![2 | 16, 9, 0];
    for (index, term) in [(1, 1), (2, 1), (2, 2), (3, 2)] {
        cut.push(0);
        put_piece(&mut cut, &entry(index, term, &[5; 300]).encode_to_vec());
        cut.push(1);
        put_piece(&mut cut, &state(term, index).encode_to_vec());
        if index == 2 {
            cut.push(2);
            put_piece(&mut cut, &snapshot.encode_to_vec());
            cut.push(255);
        }
    }
    vec![plain, cut]
}

fn segment_seeds() -> Vec<Vec<u8>> {
    let fs = disk();
    let metadata = etcdserverpb::Metadata {
        node_id: 11,
        cluster_id: 22,
    };
    let mut seeds = vec![
        include_bytes!("../../../wal/tests/fixtures/etcd-3.5.1-one-member.wal").to_vec(),
        include_bytes!("../../../wal/tests/fixtures/etcd-3.4.23-one-member.wal").to_vec(),
    ];
    if let Ok(mut wal) = Wal::create(Path::new(DIR), &metadata, options(&fs)) {
        let entries: Vec<raftpb::Entry> = (1..4).map(|i| entry(i, 1, &[1; 30])).collect();
        let state = raftpb::HardState {
            term: 1,
            vote: 11,
            commit: 2,
        };
        let written = wal.save(Some(&state), &entries, true);
        let content = fs.content(&Path::new(DIR).join(wal_name(0, 0)));
        if let (Ok(()), Some(mut bytes)) = (written, content) {
            bytes.truncate(1024);
            seeds.push(bytes);
        }
    }
    seeds.iter_mut().for_each(|seed| seed.truncate(2048));
    seeds
}
