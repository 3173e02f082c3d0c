//! A log's life on one disk: written, cut, reopened, purged, damaged, repaired.

mod common;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::{DIR, disk, entry, frames, metadata, options, snapshot, start, state};
use ferrite_proto::raftpb::{Entry, HardState};
use ferrite_wal::fs::Fs;
use ferrite_wal::memfs::MemFs;
use ferrite_wal::names::wal_name;
use ferrite_wal::{Error, Options, Wal, must_sync, record};
use prost::Message as _;

fn first() -> PathBuf {
    Path::new(DIR).join(wal_name(0, 0))
}

fn entries(range: std::ops::RangeInclusive<u64>, size: usize) -> Vec<Entry> {
    range
        .map(|index| entry(index, 1, &vec![index as u8 | 1; size]))
        .collect()
}

fn open(fs: &MemFs) -> Result<(Wal, Vec<Entry>, HardState), Error> {
    let (wal, read) = Wal::open(Path::new(DIR), &start(), options(fs, 1 << 20))?;
    assert_eq!(read.metadata, metadata());
    Ok((wal, read.entries, read.hard_state))
}

/// A disk with a log of these groups, each synced.
fn written(groups: &[(Vec<Entry>, HardState)]) -> MemFs {
    let fs = disk(1);
    let mut wal = Wal::create(Path::new(DIR), &metadata(), options(&fs, 1 << 20)).expect("creates");
    for (entries, state) in groups {
        wal.save(Some(state), entries, true).expect("saves");
    }
    fs
}

#[test]
fn what_was_saved_is_read_again_and_appended_to() {
    let fs = written(&[(entries(1..=3, 10), state(1, 11, 2))]);
    let (mut wal, read, hard_state) = open(&fs).expect("opens");
    assert_eq!((read, hard_state), (entries(1..=3, 10), state(1, 11, 2)));
    assert_eq!((wal.last_index(), *wal.hard_state()), (3, state(1, 11, 2)));
    // Unsynced groups and one sync are a group commit; a later entry replaces those from its index on.
    wal.save(None, &[entry(4, 1, b"four")], false)
        .expect("saves");
    wal.save(
        Some(&state(2, 11, 3)),
        &[entry(3, 2, b"three"), entry(4, 2, b"")],
        false,
    )
    .expect("saves");
    wal.sync().expect("syncs");
    drop(wal);
    fs.crash();
    let (_, read, hard_state) = open(&fs).expect("opens");
    let mut expected = entries(1..=2, 10);
    expected.extend([entry(3, 2, b"three"), entry(4, 2, b"")]);
    assert_eq!((read, hard_state), (expected, state(2, 11, 3)));
}

#[test]
fn a_directory_holds_one_log() {
    let fs = written(&[]);
    assert!(matches!(
        Wal::create(Path::new(DIR), &metadata(), options(&fs, 99)),
        Err(Error::Exists { .. })
    ));
    let (_held, ..) = open(&fs).expect("opens");
    assert!(matches!(open(&fs), Err(Error::Locked { .. })));
    let empty = disk(1);
    assert!(matches!(open(&empty), Err(Error::NotFound { .. })));
    assert!(!Wal::exists_on(&empty, Path::new(DIR)).unwrap());
}

/// Who takes a folder that cannot be looked into for an empty one founds a cluster over what is there.
#[test]
fn a_directory_that_cannot_be_read_is_not_one_without_a_log() {
    let fs = written(&[]);
    fs.fail_reads(Some((0, 1)));
    let asked = Wal::exists_on(&fs, Path::new(DIR));
    assert!(matches!(asked, Err(Error::Io { .. })), "{asked:?}");
    fs.fail_reads(Some((0, 1)));
    let made = Wal::create(Path::new(DIR), &metadata(), options(&fs, 99));
    assert!(matches!(made, Err(Error::Io { .. })));
    assert!(Wal::exists_on(&fs, Path::new(DIR)).unwrap());
    open(&fs).expect("the log is as it was");
}

#[test]
fn segments_are_cut_named_and_chained_as_etcds() {
    let fs = disk(1);
    let limit = 1000;
    let mut wal = Wal::create(Path::new(DIR), &metadata(), options(&fs, limit)).expect("creates");
    let all = entries(1..=40, 100);
    for entry in &all {
        wal.save(
            Some(&state(1, 11, entry.index)),
            std::slice::from_ref(entry),
            true,
        )
        .expect("saves");
    }
    let last_segment = wal.segment();
    assert!(last_segment > 3);
    drop(wal);
    let names: Vec<String> = fs
        .list(Path::new(DIR))
        .expect("lists")
        .into_iter()
        .filter(|name| name.ends_with(".wal"))
        .collect();
    assert_eq!(names.len() as u64, last_segment + 1);
    let mut crc = 0;
    for (number, name) in names.iter().enumerate() {
        let bytes = fs.content(&Path::new(DIR).join(name)).expect("a file");
        let frames = frames(&bytes);
        let (at, whole, _) = frames.last().cloned().expect("records");
        // Each save was an entry and a hard state; the last one began below the limit.
        let begun = frames[frames.len().saturating_sub(2)].0 as u64;
        if (number as u64) < last_segment {
            assert!(
                bytes.len() as u64 >= limit && begun < limit,
                "{name} has {} bytes",
                bytes.len()
            );
            assert_eq!(bytes.len(), at + whole, "no zeros after the last record");
        }
        let kinds: Vec<i64> = frames
            .iter()
            .take(3)
            .map(|(at, _, data)| {
                record::decode(&bytes[at + 8..data.end])
                    .expect("decodes")
                    .kind
            })
            .collect();
        let third = if number == 0 {
            record::SNAPSHOT
        } else {
            record::STATE
        };
        assert_eq!(kinds, [record::CRC, record::METADATA, third], "{name}");
        let head = record::decode(&bytes[8..frames[0].2.end]).expect("decodes");
        assert_eq!(head.crc, crc, "the chain goes on in {name}");
        let (at, _, data) = frames.last().expect("records");
        crc = record::decode(&bytes[at + 8..data.end])
            .expect("decodes")
            .crc;
    }
    let (_, read) = Wal::open(Path::new(DIR), &start(), options(&fs, limit)).expect("opens");
    assert_eq!((read.entries, read.hard_state), (all, state(1, 11, 40)));
}

#[test]
fn old_segments_go_when_released_and_the_rest_opens_from_the_snapshot() {
    let fs = disk(1);
    let mut wal = Wal::create(Path::new(DIR), &metadata(), options(&fs, 1000)).expect("creates");
    for entry in entries(1..=30, 100) {
        wal.save(Some(&state(1, 11, entry.index)), &[entry], true)
            .expect("saves");
    }
    wal.save_snapshot(&snapshot(30, 1)).expect("saves");
    let before = wal.segment() + 1;
    assert_eq!(
        wal.purge(1).expect("purges"),
        Vec::<String>::new(),
        "all segments are held"
    );
    wal.release_to(30);
    assert_eq!(wal.purge(0).expect("keeps all"), Vec::<String>::new());
    let removed = wal.purge(1).expect("purges");
    assert!(!removed.is_empty() && (removed.len() as u64) < before);
    assert_eq!(removed[0], wal_name(0, 0));
    wal.save(Some(&state(1, 11, 31)), &entries(31..=31, 5), true)
        .expect("saves");
    drop(wal);

    let opened =
        |from| Wal::open(Path::new(DIR), &from, options(&fs, 1000)).map(|(_, read)| read.entries);
    assert_eq!(opened(snapshot(30, 1)).expect("opens"), entries(31..=31, 5));
    assert!(matches!(
        opened(start()),
        Err(Error::NoSegmentForIndex { .. })
    ));
    assert!(matches!(
        opened(snapshot(30, 2)),
        Err(Error::SnapshotMismatch {
            wanted: 2,
            found: 1,
            ..
        })
    ));
    assert!(matches!(
        opened(snapshot(31, 1)),
        Err(Error::SnapshotNotFound { index: 31, .. })
    ));
    let valid: Vec<u64> = Wal::valid_snapshots_on(&fs, Path::new(DIR))
        .expect("reads")
        .iter()
        .map(|s| s.index)
        .collect();
    assert_eq!(valid, [30]);
}

#[test]
fn a_snapshot_not_yet_committed_is_no_start() {
    let fs = written(&[(entries(1..=3, 1), state(1, 11, 2))]);
    let (mut wal, ..) = open(&fs).expect("opens");
    wal.save_snapshot(&snapshot(9, 1)).expect("saves");
    assert!(matches!(
        wal.save_snapshot(&ferrite_proto::walpb::Snapshot {
            conf_state: None,
            ..snapshot(10, 1)
        }),
        Err(Error::ConfStateMissing { index: 10 })
    ));
    // After an installed snapshot entries go on behind it.
    assert!(matches!(
        wal.save(None, &entries(11..=11, 1), true),
        Err(Error::SliceOutOfRange {
            index: 11,
            last: 9,
            ..
        })
    ));
    wal.save(None, &entries(10..=10, 1), true).expect("saves");
    let valid = || {
        Wal::valid_snapshots_on(&fs, Path::new(DIR))
            .expect("reads")
            .len()
    };
    assert_eq!(valid(), 1);
    wal.save(Some(&state(1, 11, 9)), &[], true).expect("saves");
    assert_eq!(valid(), 2);
}

#[test]
fn a_torn_tail_costs_only_what_was_torn_at_every_byte() {
    let kept = entries(1..=2, 30);
    let whole = written(&[(kept.clone(), state(1, 11, 2))])
        .content(&first())
        .expect("a file");
    let safe: usize = frames(&whole)
        .last()
        .map(|(at, len, _)| at + len)
        .expect("records");
    // One batch: a record over three sectors, two small ones, and the hard state.
    let mut batch = entries(3..=3, 1200);
    batch.extend(entries(4..=5, 20));
    let full = written(&[
        (kept.clone(), state(1, 11, 2)),
        (batch.clone(), state(1, 11, 5)),
    ]);
    let bytes = full.content(&first()).expect("a file");
    let end: usize = frames(&bytes)
        .last()
        .map(|(at, len, _)| at + len)
        .expect("records");
    let mut repaired = 0;
    for cut in safe..=end {
        for zeros in [false, true] {
            let mut torn = bytes.clone();
            torn.truncate(cut);
            if zeros {
                torn.resize(bytes.len(), 0);
            }
            let fs = disk(1);
            fs.put(&first(), &torn);
            let read_only = Wal::read_on(&fs, Path::new(DIR), &start());
            let outcome = match open(&fs) {
                Err(Error::UnexpectedEof { offset, .. }) => {
                    repaired += 1;
                    assert!(offset as usize >= safe, "cut at {cut}");
                    Wal::repair_on(&fs, Path::new(DIR)).expect("repairs");
                    let copy = first().with_extension("wal.broken");
                    assert_eq!(fs.content(&copy).expect("a copy"), torn, "cut at {cut}");
                    open(&fs)
                }
                outcome => outcome,
            };
            match outcome {
                Ok((mut wal, read, _)) => {
                    assert!(read.len() >= 2 && read[..2] == kept[..], "cut at {cut}");
                    assert!(batch.starts_with(&read[2..]), "cut at {cut}");
                    assert_eq!(read_only.expect("reads").entries, read, "cut at {cut}");
                    // Whatever lay there, what is appended now reads again.
                    let next = entry(read.len() as u64 + 1, 2, b"next");
                    wal.save(None, std::slice::from_ref(&next), true)
                        .expect("saves");
                    drop(wal);
                    let (_, again, _) = open(&fs).expect("opens");
                    assert_eq!(again.last(), Some(&next));
                    assert_eq!(again.len(), read.len() + 1);
                }
                // Zeros that begin inside a sector are no torn write: a disk writes sectors whole.
                Err(Error::CrcMismatch { offset, .. } | Error::Malformed { offset, .. }) => {
                    assert!(
                        zeros && cut % 512 != 0 && offset as usize >= safe,
                        "cut at {cut}"
                    );
                }
                Err(error) => panic!("cut at {cut}, zeros {zeros}: {error}"),
            }
        }
    }
    assert!(repaired > 100, "only {repaired} repairs");
}

#[test]
fn remnants_behind_a_hole_never_come_back() {
    // The middle of a batch did not reach the disk, its end did.
    let fs = written(&[
        (entries(1..=1, 8), state(1, 11, 1)),
        (entries(2..=9, 600), state(1, 11, 9)),
    ]);
    let mut bytes = fs.content(&first()).expect("a file");
    let second = frames(&bytes)[5].0;
    bytes[second..second + 600].fill(0);
    fs.put(&first(), &bytes);
    let (mut wal, read, _) = open(&fs).expect("opens");
    assert_eq!(read, entries(1..=1, 8));
    wal.save(Some(&state(2, 11, 1)), &[entry(2, 2, &[7; 40])], true)
        .expect("saves");
    drop(wal);
    let (_, read, _) = open(&fs).expect("opens");
    assert_eq!(
        read,
        [entries(1..=1, 8), vec![entry(2, 2, &[7; 40])]].concat()
    );
}

#[test]
fn a_flipped_bit_is_never_read_as_data() {
    let fs = written(&[
        (entries(1..=3, 20), state(1, 11, 2)),
        (entries(4..=4, 700), state(1, 11, 4)),
    ]);
    let bytes = fs.content(&first()).expect("a file");
    let original = open(&fs).map(|(_, read, _)| read).expect("opens");
    let frames = frames(&bytes);
    let end = frames.last().map(|(at, len, _)| at + len).expect("records");
    // A record's data and its checksum are covered (bits of a checksum past the 32nd do not count).
    // Its type is not, in this format: an entry's and a hard state's bytes may pass for each other.
    let covered = |at: usize| {
        let in_frame = |(frame, _, data): &(usize, usize, std::ops::Range<usize>)| {
            data.contains(&at) || (*frame > 0 && (*frame + 11..*frame + 15).contains(&at))
        };
        frames.iter().any(in_frame)
    };
    let is_type = |at: usize| frames.iter().any(|(frame, ..)| *frame + 9 == at);
    for at in 0..end {
        for bit in 0..8 {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << bit;
            let fs = disk(1);
            fs.put(&first(), &damaged);
            match open(&fs) {
                Err(error) => assert!(error.to_string().starts_with("wal: "), "{error}"),
                // Frames and padding have no checksum either: what still reads is a part of what
                // was written.
                Ok((_, read, _)) => {
                    assert!(!covered(at), "byte {at}, bit {bit} went unnoticed");
                    let known = read.iter().all(|entry| original.contains(entry));
                    assert!(known || is_type(at), "byte {at}, bit {bit}");
                }
            }
        }
    }
}

#[test]
fn damage_is_named() {
    let two = |names: [(u64, u64); 2], fs: &MemFs| {
        let bytes = fs.content(&first()).expect("a file");
        let both = disk(1);
        for (seq, index) in names {
            both.put(&Path::new(DIR).join(wal_name(seq, index)), &bytes);
        }
        open(&both).map(|(_, read, _)| read).expect_err("refused")
    };
    let fs = written(&[(entries(1..=1, 9), state(1, 11, 1))]);
    assert!(matches!(
        two([(0, 0), (2, 2)], &fs),
        Error::SequenceGap { before: 0, .. }
    ));
    // The same segment twice: its first checksum is not the last one of the segment before.
    assert!(matches!(
        two([(0, 0), (1, 2)], &fs),
        Error::CrcMismatch { offset: 0, .. }
    ));
    let append = |kind: i64, data: &[u8]| {
        let mut bytes = fs.content(&first()).expect("a file");
        let (at, whole, data_range) = frames(&bytes).last().cloned().expect("records");
        let crc = record::decode(&bytes[at + 8..data_range.end])
            .expect("decodes")
            .crc;
        bytes.truncate(at + whole);
        record::append(&mut bytes, kind, data, crc);
        let disk = disk(1);
        disk.put(&first(), &bytes);
        open(&disk).map(|(_, read, _)| read).expect_err("refused")
    };
    assert!(matches!(
        append(9, b"x"),
        Error::UnknownRecordType { kind: 9, .. }
    ));
    assert!(matches!(
        append(record::METADATA, b"\x08\x01\x10\x01"),
        Error::MetadataConflict { .. }
    ));
    assert!(matches!(
        append(record::ENTRY, b"\x18\x07"),
        Error::SliceOutOfRange {
            index: 7,
            last: 1,
            ..
        }
    ));
    assert!(matches!(
        append(record::ENTRY, b"\xff"),
        Error::Malformed { what: "entry", .. }
    ));
    assert!(matches!(
        append(record::STATE, b"\xff"),
        Error::Malformed {
            what: "hard state",
            ..
        }
    ));
    // A closed segment that is cut short is no torn tail.
    let mut short = fs.content(&first()).expect("a file");
    let (at, whole, _) = frames(&short).last().cloned().expect("records");
    short.truncate(at + whole - 1);
    let closed = disk(1);
    closed.put(&first(), &short);
    closed.put(&Path::new(DIR).join(wal_name(1, 2)), &[]);
    let error = open(&closed).map(|(_, read, _)| read).expect_err("refused");
    assert!(
        matches!(error, Error::OversizeRecord { .. }) && !error.is_repairable(),
        "{error}"
    );
}

#[test]
fn after_a_failure_every_call_is_refused() {
    let fs = written(&[]);
    let (mut wal, ..) = open(&fs).expect("opens");
    fs.fail_after(Some(1));
    // The write of the batch fails, or its sync.
    assert!(matches!(
        wal.save(None, &entries(1..=1, 9), true),
        Err(Error::Io { .. })
    ));
    fs.fail_after(None);
    assert!(matches!(wal.sync(), Err(Error::Poisoned { .. })));
    assert!(matches!(
        wal.save(None, &entries(1..=1, 9), true),
        Err(Error::Poisoned { .. })
    ));
    assert!(matches!(
        wal.save_snapshot(&snapshot(1, 1)),
        Err(Error::Poisoned { .. })
    ));
    assert!(matches!(wal.purge(1), Err(Error::Poisoned { .. })));
    assert!(matches!(wal.close(), Err(Error::Poisoned { .. })));
}

#[test]
fn only_entries_terms_and_votes_need_a_sync() {
    let before = state(1, 2, 3);
    assert!(!must_sync(&before, &state(1, 2, 4), 0));
    assert!(must_sync(&before, &state(1, 2, 3), 1));
    assert!(must_sync(&before, &state(2, 2, 3), 0));
    assert!(must_sync(&before, &state(1, 1, 3), 0));
}

#[test]
fn on_a_real_disk_zeros_are_ready_and_the_next_segment_too() {
    use std::os::unix::fs::PermissionsExt;
    let parent = tempfile::tempdir().expect("a temporary directory");
    let dir = parent.path().join("wal");
    let small = || Options {
        segment_bytes: 1 << 20,
        ..Options::default()
    };
    let mut wal = Wal::create(&dir, &metadata(), small()).expect("creates");
    let mode = |path: &Path| {
        std::fs::metadata(path)
            .expect("exists")
            .permissions()
            .mode()
            & 0o777
    };
    let path = dir.join(wal_name(0, 0));
    assert_eq!((mode(&dir), mode(&path)), (0o700, 0o600));
    let until = |what: &str, done: &dyn Fn() -> bool| {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !done() {
            assert!(Instant::now() < deadline, "{what}");
            std::thread::yield_now();
        }
    };
    let len = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.len());
    until("zeros ahead of the tail", &|| len(&path) == 1 << 20);
    // Past the middle of the segment the next one is prepared, under its temporary name.
    let all = entries(1..=60, 10_000);
    for entry in &all {
        wal.save(Some(&state(1, 11, 1)), std::slice::from_ref(entry), true)
            .expect("saves");
    }
    until("the next segment", &|| len(&dir.join("0.tmp")) == 1 << 20);
    assert!(matches!(
        Wal::open(&dir, &start(), small()),
        Err(Error::Locked { .. })
    ));
    let more = entries(61..=400, 10_000);
    for batch in more.chunks(7) {
        wal.save(Some(&state(1, 11, 1)), batch, true)
            .expect("saves");
    }
    assert!(wal.segment() >= 3);
    wal.close().expect("closes");
    let left: Vec<String> = ferrite_wal::fs::RealFs.list(&dir).expect("lists");
    assert!(left.iter().all(|name| name.ends_with(".wal")), "{left:?}");
    let (_, read) = Wal::open(&dir, &start(), small()).expect("opens");
    assert_eq!(read.entries, [all, more].concat());
}

/// Such a frame can be read, and no writer makes it: found by the fuzzer, which brought the log to a panic.
#[test]
fn a_log_whose_last_record_is_not_padded_is_named_and_not_appended_to() {
    let fs = disk(1);
    let mut bytes = Vec::new();
    let crc = record::append(&mut bytes, 4, &[], 0);
    let crc = record::append(&mut bytes, 1, &metadata().encode_to_vec(), crc);
    let crc = record::append(&mut bytes, 5, &start().encode_to_vec(), crc);
    record::append(&mut bytes, 2, &entry(1, 1, b"odd").encode_to_vec(), crc);
    // The frame says that there is no padding behind the record; it ends where that began.
    let (at, whole, _) = common::frames(&bytes).pop().expect("frames");
    let (len, padding) = record::split_length(u64::from_le_bytes(
        bytes[at..at + 8].try_into().expect("8 bytes"),
    ));
    assert!(padding > 0, "the record needs padding");
    bytes[at..at + 8].copy_from_slice(&len.to_le_bytes());
    bytes.truncate(at + whole - padding as usize);
    fs.put(&Path::new(DIR).join(wal_name(0, 0)), &bytes);
    assert!(Wal::read_on(&fs, Path::new(DIR), &start()).is_ok());
    let error = Wal::open(Path::new(DIR), &start(), options(&fs, 5000)).err();
    let error = error.map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("not padded"), "{error}");
}
