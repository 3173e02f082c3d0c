//! Reading a log: which segments, in what order, and what their records say. Changes nothing on disk.

use std::path::Path;
use std::sync::Arc;

use ferrite_mutate::mutation;
use ferrite_proto::{etcdserverpb, raftpb, walpb};
use prost::Message;

use crate::error::{Error, io};
use crate::fs::{Fs, LogFile, Open};
use crate::names::parse_wal_name;
use crate::record::{self, FRAME_BYTES, Record};

/// Bytes read at once. A record larger than this is read in one piece of its own.
const READ_BYTES: usize = 256 * 1024;

/// Everything a log says from a snapshot on.
#[derive(Clone, Debug, PartialEq)]
pub struct Recovered {
    /// Whose log it is.
    pub metadata: etcdserverpb::Metadata,
    /// The last hard state saved; all zeros if none was.
    pub hard_state: raftpb::HardState,
    /// Entries after the snapshot, without gaps, later ones having replaced earlier ones.
    pub entries: Vec<raftpb::Entry>,
}

/// Where appending goes on.
pub(crate) struct Tail {
    /// Offset in the last segment after its last good record.
    pub offset: u64,
    /// Running checksum there.
    pub crc: u32,
    /// Metadata record as it stands in the log.
    pub metadata: Vec<u8>,
    /// Index of the last entry read, or of the snapshot opened from if that is larger.
    pub last_index: u64,
}

/// A segment of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SegmentName {
    pub seq: u64,
    pub index: u64,
    pub name: String,
}

/// Lists the segments of a directory in order and checks that none is missing.
pub(crate) fn segments(fs: &dyn Fs, dir: &Path) -> Result<Vec<SegmentName>, Error> {
    let names = match fs.list(dir) {
        Ok(names) => names,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(io("list", dir)(error)),
    };
    let mut found: Vec<SegmentName> = Vec::new();
    for name in names {
        if let Some((seq, index)) = parse_wal_name(&name) {
            if let Some(before) = found.last()
                && before.seq.checked_add(1) != Some(seq)
            {
                return Err(Error::SequenceGap {
                    dir: dir.into(),
                    before: before.seq,
                    found: name,
                });
            }
            found.push(SegmentName { seq, index, name });
        }
    }
    if found.is_empty() {
        return Err(Error::NotFound { dir: dir.into() });
    }
    Ok(found)
}

/// The segments needed to read on from this index: the last one that starts at or before it, and all later ones.
pub(crate) fn segments_from(
    fs: &dyn Fs,
    dir: &Path,
    index: u64,
) -> Result<Vec<SegmentName>, Error> {
    let mut all = segments(fs, dir)?;
    match all.iter().rposition(|segment| segment.index <= index) {
        Some(first) => Ok(all.split_off(first)),
        None => Err(Error::NoSegmentForIndex {
            dir: dir.into(),
            index,
        }),
    }
}

/// A record and where it stands.
pub(crate) struct Item<'a> {
    pub file: Arc<Path>,
    pub offset: u64,
    pub record: Record<'a>,
}

impl Item<'_> {
    fn message<M: Message + Default>(&self, what: &'static str) -> Result<M, Error> {
        // Decoding from a plain slice copies: an entry must not pin the block it was read in.
        M::decode(self.record.data).map_err(|error| Error::Malformed {
            file: self.file.to_path_buf(),
            offset: self.offset,
            what,
            detail: error.to_string(),
        })
    }
}

/// Reads records one after the other through several segments.
pub(crate) struct LogReader {
    files: std::vec::IntoIter<(Arc<Path>, Box<dyn LogFile>)>,
    current: Option<Segment>,
    crc: u32,
    /// Offset after the last good record of the current segment.
    good: u64,
}

struct Segment {
    path: Arc<Path>,
    file: Box<dyn LogFile>,
    len: u64,
    last: bool,
    block: Vec<u8>,
    block_at: u64,
}

impl Segment {
    /// The bytes at `offset`; the caller has checked that the file has them. May be fewer if the file shrank.
    fn bytes(&mut self, offset: u64, len: usize) -> Result<&[u8], Error> {
        let held = self.block_at..=self.block_at + self.block.len() as u64;
        if !(held.contains(&offset) && held.contains(&(offset + len as u64))) {
            let left = usize::try_from(self.len - offset).unwrap_or(usize::MAX);
            let want = len.max(READ_BYTES).min(left);
            self.block.resize(want, 0);
            self.block_at = offset;
            let mut at = 0;
            while at < want {
                let read = self.file.read_at(offset + at as u64, &mut self.block[at..]);
                match read.map_err(io("read", &*self.path))? {
                    0 => break,
                    n => at += n,
                }
            }
            self.block.truncate(at);
        }
        let start = (offset - self.block_at) as usize;
        let end = (start + len).min(self.block.len());
        Ok(&self.block[start..end])
    }

    fn cut_short(&self, offset: u64, length: u64, left: u64) -> Error {
        let file = self.path.to_path_buf();
        if self.last {
            let detail = format!("a record of {length} bytes, {left} bytes left");
            Error::UnexpectedEof {
                file,
                offset,
                detail,
            }
        } else {
            Error::OversizeRecord {
                file,
                offset,
                length,
                left,
            }
        }
    }

    fn torn(&self, offset: u64, what: &str) -> Error {
        Error::UnexpectedEof {
            file: self.path.to_path_buf(),
            offset,
            detail: format!("{what}, and a sector of the record is zero"),
        }
    }
}

impl LogReader {
    /// Reads these segments of `dir`, through files opened by the caller.
    pub(crate) fn new(dir: &Path, files: Vec<(String, Box<dyn LogFile>)>) -> LogReader {
        let files: Vec<(Arc<Path>, Box<dyn LogFile>)> = files
            .into_iter()
            .map(|(name, file)| (dir.join(name).into(), file))
            .collect();
        LogReader {
            files: files.into_iter(),
            current: None,
            crc: 0,
            good: 0,
        }
    }

    /// Opens these segments for reading.
    pub(crate) fn open(fs: &dyn Fs, dir: &Path, names: &[SegmentName]) -> Result<LogReader, Error> {
        let mut files = Vec::with_capacity(names.len());
        for segment in names {
            let path = dir.join(&segment.name);
            files.push((
                segment.name.clone(),
                fs.open(&path, Open::Read).map_err(io("open", path))?,
            ));
        }
        Ok(LogReader::new(dir, files))
    }

    /// Offset in the last segment after its last good record, and the running checksum.
    pub(crate) fn position(&self) -> (u64, u32) {
        (self.good, self.crc)
    }

    /// The next record, its checksum verified; nothing at the clean end of the last segment.
    pub(crate) fn next(&mut self) -> Result<Option<Item<'_>>, Error> {
        let field = loop {
            if self.current.is_none() {
                let Some((path, file)) = self.files.next() else {
                    return Ok(None);
                };
                let len = file.len().map_err(io("measure", &*path))?;
                let last = self.files.len() == 0;
                self.current = Some(Segment {
                    path,
                    file,
                    len,
                    last,
                    block: Vec::new(),
                    block_at: 0,
                });
                self.good = 0;
            }
            let Some(segment) = &mut self.current else {
                return Ok(None);
            };
            let left = segment.len.saturating_sub(self.good);
            let mut field = [0; FRAME_BYTES];
            if left > 0 {
                if left < FRAME_BYTES as u64 {
                    return Err(segment.cut_short(self.good, FRAME_BYTES as u64, left));
                }
                let bytes = segment.bytes(self.good, FRAME_BYTES)?;
                let short = bytes.len();
                match bytes.try_into() {
                    Ok(bytes) => field = bytes,
                    Err(_) => {
                        return Err(segment.cut_short(self.good, FRAME_BYTES as u64, short as u64));
                    }
                }
            }
            if u64::from_le_bytes(field) != 0 {
                break u64::from_le_bytes(field);
            }
            if segment.last {
                // Stay here: the position is where appending goes on.
                return Ok(None);
            }
            self.current = None;
        };
        let (len, padding) = record::split_length(field);
        let offset = self.good;
        let Some(segment) = &mut self.current else {
            return Ok(None);
        };
        let left = segment.len - offset - FRAME_BYTES as u64;
        let whole = len + padding;
        if whole > left {
            return Err(segment.cut_short(offset, whole, left));
        }
        let body_at = offset + FRAME_BYTES as u64;
        let whole = usize::try_from(whole).unwrap_or(usize::MAX);
        let got = segment.bytes(body_at, whole)?.len();
        if got < whole {
            return Err(segment.cut_short(offset, whole as u64, got as u64));
        }
        let last = segment.last;
        let body = segment.bytes(body_at, whole)?;
        let torn =
            |what: &str| (last && record::looks_torn(body, body_at)).then(|| what.to_owned());
        let checked = match record::decode(&body[..len as usize]) {
            Err(error) => Err((torn("the record does not decode"), None, error.to_string())),
            Ok(found) if found.kind == record::CRC => {
                if self.crc != 0 && found.crc != self.crc {
                    Err((None, Some((found.crc, self.crc)), String::new()))
                } else {
                    Ok(found.crc)
                }
            }
            Ok(found) => {
                let computed = crc32c::crc32c_append(self.crc, found.data);
                if computed == found.crc || mutation!("accept-bad-checksum") {
                    Ok(computed)
                } else {
                    Err((
                        torn("crc mismatch"),
                        Some((found.crc, computed)),
                        String::new(),
                    ))
                }
            }
        };
        match checked {
            Ok(crc) => self.crc = crc,
            Err((Some(what), _, _)) => return Err(segment.torn(offset, &what)),
            Err((None, Some((recorded, computed)), _)) => {
                return Err(Error::CrcMismatch {
                    file: segment.path.to_path_buf(),
                    offset,
                    recorded,
                    computed,
                });
            }
            Err((None, None, detail)) => {
                return Err(Error::Malformed {
                    file: segment.path.to_path_buf(),
                    offset,
                    what: "record",
                    detail,
                });
            }
        }
        self.good = body_at + whole as u64;
        let path = segment.path.clone();
        let Some(segment) = &mut self.current else {
            return Ok(None);
        };
        let body = segment.bytes(body_at, whole)?;
        let record = record::decode(&body[..len as usize]).map_err(|error| Error::Malformed {
            file: path.to_path_buf(),
            offset,
            what: "record",
            detail: error.to_string(),
        })?;
        Ok(Some(Item {
            file: path,
            offset,
            record,
        }))
    }
}

/// Reads a log to its end. With `torn_is_end` a torn tail counts as the end, else it is `UnexpectedEof`.
pub(crate) fn read_all(
    reader: &mut LogReader,
    dir: &Path,
    from: &walpb::Snapshot,
    torn_is_end: bool,
) -> Result<(Recovered, Tail), Error> {
    let mut metadata: Option<(Vec<u8>, etcdserverpb::Metadata)> = None;
    let mut hard_state = raftpb::HardState::default();
    let mut entries: Vec<raftpb::Entry> = Vec::new();
    let mut matched = false;
    let mut last_index = from.index;
    loop {
        let item = match reader.next() {
            Ok(Some(item)) => item,
            Ok(None) => break,
            Err(Error::UnexpectedEof { .. }) if torn_is_end => break,
            Err(error) => return Err(error),
        };
        match item.record.kind {
            record::ENTRY => {
                let entry: raftpb::Entry = item.message("entry")?;
                last_index = entry.index.max(from.index);
                let Some(place) = entry.index.checked_sub(from.index + 1) else {
                    continue;
                };
                let Some(place) = usize::try_from(place)
                    .ok()
                    .filter(|place| *place <= entries.len())
                else {
                    return Err(Error::SliceOutOfRange {
                        file: item.file.to_path_buf(),
                        offset: item.offset,
                        index: entry.index,
                        last: from.index + entries.len() as u64,
                    });
                };
                entries.truncate(place);
                entries.push(entry);
            }
            record::STATE => hard_state = item.message("hard state")?,
            record::METADATA => match &metadata {
                Some((bytes, _)) if bytes != item.record.data => {
                    return Err(Error::MetadataConflict {
                        file: item.file.to_path_buf(),
                        offset: item.offset,
                    });
                }
                Some(_) => {}
                None => metadata = Some((item.record.data.to_vec(), item.message("metadata")?)),
            },
            record::CRC => {}
            record::SNAPSHOT => {
                let found: walpb::Snapshot = item.message("snapshot")?;
                if found.index == from.index {
                    if found.term != from.term {
                        return Err(Error::SnapshotMismatch {
                            file: item.file.to_path_buf(),
                            offset: item.offset,
                            index: from.index,
                            wanted: from.term,
                            found: found.term,
                        });
                    }
                    matched = true;
                }
            }
            kind => return Err(unknown(&item, kind)),
        }
    }
    if !matched {
        return Err(Error::SnapshotNotFound {
            dir: dir.into(),
            index: from.index,
            term: from.term,
        });
    }
    let Some((metadata_bytes, metadata)) = metadata else {
        return Err(Error::MetadataMissing { dir: dir.into() });
    };
    let (offset, crc) = reader.position();
    let tail = Tail {
        offset,
        crc,
        metadata: metadata_bytes,
        last_index,
    };
    Ok((
        Recovered {
            metadata,
            hard_state,
            entries,
        },
        tail,
    ))
}

/// Snapshot records that the log's last hard state has committed, oldest first.
pub(crate) fn valid_snapshots(fs: &dyn Fs, dir: &Path) -> Result<Vec<walpb::Snapshot>, Error> {
    let mut reader = LogReader::open(fs, dir, &segments(fs, dir)?)?;
    let mut snapshots: Vec<walpb::Snapshot> = Vec::new();
    let mut commit = 0;
    loop {
        match reader.next() {
            Ok(Some(item)) => match item.record.kind {
                record::SNAPSHOT => snapshots.push(item.message("snapshot")?),
                record::STATE => commit = item.message::<raftpb::HardState>("hard state")?.commit,
                record::ENTRY | record::METADATA | record::CRC => {}
                kind => return Err(unknown(&item, kind)),
            },
            Ok(None) | Err(Error::UnexpectedEof { .. }) => break,
            Err(error) => return Err(error),
        }
    }
    snapshots.retain(|snapshot| snapshot.index <= commit);
    Ok(snapshots)
}

fn unknown(item: &Item<'_>, kind: i64) -> Error {
    Error::UnknownRecordType {
        file: item.file.to_path_buf(),
        offset: item.offset,
        kind,
    }
}
