//! Every way in which a log or a `.snap` file can refuse: what is damaged, where, and the way out.

use std::io;
use std::path::PathBuf;

/// Why a call on the log failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused a file operation.
    #[error("wal: cannot {op} {}: {source}", path.display())]
    Io {
        /// What was attempted, as a verb ("read", "sync").
        op: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The operating system's answer.
        source: io::Error,
    },
    /// `create` found a log where it should make one.
    #[error("wal: {} already holds a log; open it, or choose another directory", dir.display())]
    Exists {
        /// The log's directory.
        dir: PathBuf,
    },
    /// The directory holds no segment.
    #[error("wal: file not found: {} holds no .wal file; restore the directory or start as a new member", dir.display())]
    NotFound {
        /// The log's directory.
        dir: PathBuf,
    },
    /// No segment may hold entries from this index on.
    #[error(
        "wal: file not found which matches the snapshot index '{index}' in {}: its segments were purged; \
         open from a newer snapshot, or restore this member",
        dir.display()
    )]
    NoSegmentForIndex {
        /// The log's directory.
        dir: PathBuf,
        /// The snapshot index asked for.
        index: u64,
    },
    /// A segment in the middle is missing.
    #[error("wal: file sequence numbers do not increase continuously: {found} follows sequence {before:#x} in {}; \
             restore the missing segment, or replace this member", dir.display())]
    SequenceGap {
        /// The log's directory.
        dir: PathBuf,
        /// Sequence number of the segment before the gap.
        before: u64,
        /// Name of the segment after it.
        found: String,
    },
    /// The last segment ends inside a record: a torn write, which `repair` cuts off.
    #[error("wal: unexpected EOF in {} at offset {offset}: {detail}; repair the log once to cut the torn tail off", file.display())]
    UnexpectedEof {
        /// The segment.
        file: PathBuf,
        /// Where the torn record's frame starts.
        offset: u64,
        /// What was seen.
        detail: String,
    },
    /// A record's checksum does not match, and it is no torn tail.
    #[error("wal: crc mismatch in {} at offset {offset}: record says {recorded:#010x}, data gives {computed:#010x}; \
             the file is damaged: replace this member, or restore from a snapshot", file.display())]
    CrcMismatch {
        /// The segment.
        file: PathBuf,
        /// Where the record's frame starts.
        offset: u64,
        /// Checksum stored in the record.
        recorded: u32,
        /// Checksum computed over the data read so far.
        computed: u32,
    },
    /// A frame in a closed segment claims more bytes than the file has.
    #[error("wal: max entry size limit exceeded in {} at offset {offset}: record of {length} bytes, {left} bytes left; \
             a closed segment is cut short or damaged: replace this member, or restore from a snapshot", file.display())]
    OversizeRecord {
        /// The segment.
        file: PathBuf,
        /// Where the frame starts.
        offset: u64,
        /// Bytes the frame claims, padding included.
        length: u64,
        /// Bytes left in the file after the length field.
        left: u64,
    },
    /// A record, or the message in it, does not decode.
    #[error("wal: malformed {what} in {} at offset {offset}: {detail}; \
             the file is damaged: replace this member, or restore from a snapshot", file.display())]
    Malformed {
        /// The segment.
        file: PathBuf,
        /// Where the record's frame starts.
        offset: u64,
        /// Which message ("entry", "hard state").
        what: &'static str,
        /// What the decoder said.
        detail: String,
    },
    /// A record of a type that no version of etcd writes.
    #[error("wal: unexpected block type {kind} in {} at offset {offset}; \
             the file was written by a newer version or is damaged", file.display())]
    UnknownRecordType {
        /// The segment.
        file: PathBuf,
        /// Where the record's frame starts.
        offset: u64,
        /// The type found.
        kind: i64,
    },
    /// Two metadata records of one log differ.
    #[error("wal: conflicting metadata found in {} at offset {offset}; \
             segments of two members lie in one directory: restore the right ones", file.display())]
    MetadataConflict {
        /// The segment.
        file: PathBuf,
        /// Where the second record's frame starts.
        offset: u64,
    },
    /// No metadata record was read, so the member is unknown.
    #[error("wal: no metadata record in {}; the first segment is damaged: replace this member", dir.display())]
    MetadataMissing {
        /// The log's directory.
        dir: PathBuf,
    },
    /// The log has a snapshot record at this index, but of another term.
    #[error("wal: snapshot mismatch in {} at offset {offset}: index {index} has term {found}, not {wanted}; \
             the .snap file or database belongs to another history", file.display())]
    SnapshotMismatch {
        /// The segment.
        file: PathBuf,
        /// Where the record's frame starts.
        offset: u64,
        /// The snapshot's index.
        index: u64,
        /// Term asked for.
        wanted: u64,
        /// Term in the log.
        found: u64,
    },
    /// The log has no record of the snapshot it was opened from.
    #[error("wal: snapshot not found in {}: no record of index {index}, term {term}; open from a snapshot the log knows", dir.display())]
    SnapshotNotFound {
        /// The log's directory.
        dir: PathBuf,
        /// Index asked for.
        index: u64,
        /// Term asked for.
        term: u64,
    },
    /// An entry does not follow the one before it.
    #[error("wal: slice bounds out of range in {} at offset {offset}: entry {index} follows {last}; \
             entries are missing: replace this member, or restore from a snapshot", file.display())]
    SliceOutOfRange {
        /// The segment.
        file: PathBuf,
        /// Where the record's frame starts.
        offset: u64,
        /// Index of the entry found.
        index: u64,
        /// Index of the last entry held.
        last: u64,
    },
    /// Another process appends to this log.
    #[error("wal: {} is locked by another process; stop the other member that uses this data directory", file.display())]
    Locked {
        /// The segment.
        file: PathBuf,
    },
    /// The caller wants to log a snapshot without the configuration it stands for.
    #[error(
        "wal: a snapshot record for index {index} needs a conf state; pass the one found in the database"
    )]
    ConfStateMissing {
        /// The snapshot's index.
        index: u64,
    },
    /// An earlier write or fsync failed; what the disk holds is unknown.
    #[error(
        "wal: refused after an earlier failure ({cause}); end the process and open the log again"
    )]
    Poisoned {
        /// Text of the first failure.
        cause: String,
    },
    /// A `.snap` file cannot be used.
    #[error("snap: {} is broken: {detail}; it is set aside as .snap.broken and an older one is used", path.display())]
    BrokenSnap {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

impl Error {
    /// Whether one `Wal::repair` may make the log readable.
    pub fn is_repairable(&self) -> bool {
        matches!(self, Error::UnexpectedEof { .. })
    }
}

/// Puts the name of the operation and of the file on an I/O error.
pub(crate) fn io(op: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Error {
    let path = path.into();
    move |source| {
        if op == "lock" && source.kind() == io::ErrorKind::WouldBlock {
            return Error::Locked { file: path };
        }
        Error::Io { op, path, source }
    }
}
