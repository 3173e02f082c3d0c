//! One record: its frame on disk and the checksum chain. Pure bytes; nothing here touches a disk.
//!
//! A frame is a little-endian length field of 8 bytes (low 56 bits: bytes of the record; top byte:
//! `0x80 | padding` when there is padding), the record, and zeros up to a multiple of 8, so that no
//! length field straddles a sector.

use prost::encoding::{DecodeContext, WireType};
use prost::encoding::{decode_key, decode_varint, encode_varint, encoded_len_varint, skip_field};

/// Bytes of the length field.
pub const FRAME_BYTES: usize = 8;

/// The member's and the cluster's ID; every segment has one near its start.
pub const METADATA: i64 = 1;
/// A raft entry.
pub const ENTRY: i64 = 2;
/// A raft hard state.
pub const STATE: i64 = 3;
/// The running checksum, which ties a segment to the one before it.
pub const CRC: i64 = 4;
/// A snapshot's index, term and conf state.
pub const SNAPSHOT: i64 = 5;

/// A decoded record, borrowing its data from the bytes read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// One of the constants above, or something unknown.
    pub kind: i64,
    /// Running checksum up to and including this record's data.
    pub crc: u32,
    /// The message within; empty in a checksum record.
    pub data: &'a [u8],
}

/// Splits a length field into bytes of the record and of padding.
pub fn split_length(field: u64) -> (u64, u64) {
    let record = field & 0x00ff_ffff_ffff_ffff;
    let padding = if field >> 63 == 1 {
        (field >> 56) & 7
    } else {
        0
    };
    (record, padding)
}

/// The length field for a record of `len` bytes, and its padding.
pub fn join_length(len: usize) -> (u64, usize) {
    let padding = len.wrapping_neg() & 7;
    let mut field = len as u64;
    assert!(
        field >> 56 == 0,
        "record of {len} bytes does not fit a frame"
    );
    if padding != 0 {
        field |= (0x80 | padding as u64) << 56;
    }
    (field, padding)
}

/// Appends one framed record to `out` and returns the new running checksum.
pub fn append(out: &mut Vec<u8>, kind: i64, data: &[u8], crc: u32) -> u32 {
    let crc = crc32c::crc32c_append(crc, data);
    let kind = kind as u64;
    let mut len = 1 + encoded_len_varint(kind) + 1 + encoded_len_varint(u64::from(crc));
    if !data.is_empty() {
        len += 1 + encoded_len_varint(data.len() as u64) + data.len();
    }
    let (field, padding) = join_length(len);
    out.reserve(FRAME_BYTES + len + padding);
    out.extend_from_slice(&field.to_le_bytes());
    let start = out.len();
    out.push(0x08);
    encode_varint(kind, out);
    out.push(0x10);
    encode_varint(u64::from(crc), out);
    if !data.is_empty() {
        out.push(0x1a);
        encode_varint(data.len() as u64, out);
        out.extend_from_slice(data);
    }
    assert_eq!(
        out.len() - start,
        len,
        "a record must have the length its frame says"
    );
    out.resize(out.len() + padding, 0);
    crc
}

/// Decodes a record from exactly its bytes, padding excluded.
pub fn decode(bytes: &[u8]) -> Result<Record<'_>, prost::DecodeError> {
    let mut record = Record {
        kind: 0,
        crc: 0,
        data: &[],
    };
    let mut rest = bytes;
    while !rest.is_empty() {
        let (tag, wire) = decode_key(&mut rest)?;
        match (tag, wire) {
            (1, WireType::Varint) => record.kind = decode_varint(&mut rest)? as i64,
            (2, WireType::Varint) => record.crc = decode_varint(&mut rest)? as u32,
            (3, WireType::LengthDelimited) => {
                let len = usize::try_from(decode_varint(&mut rest)?).unwrap_or(usize::MAX);
                let Some((data, after)) = rest.split_at_checked(len) else {
                    return Err(too_short());
                };
                record.data = data;
                rest = after;
            }
            (1..=3, _) => return Err(too_short()),
            _ => skip_field(wire, tag, &mut rest, DecodeContext::default())?,
        }
    }
    Ok(record)
}

/// The decoder's own "ran out of bytes" error, which cannot be made from outside.
fn too_short() -> prost::DecodeError {
    match decode_varint(&mut &[][..]) {
        Err(error) => error,
        Ok(_) => unreachable!("no varint is empty"),
    }
}

/// Size of a sector: what a disk writes whole or not at all.
pub const SECTOR_BYTES: u64 = 512;

/// Whether some sector of these bytes, which start at `offset` of the file, is all zero: the sign of
/// a write of which only a part reached the disk.
pub fn looks_torn(bytes: &[u8], offset: u64) -> bool {
    let mut rest = bytes;
    let mut at = offset;
    while !rest.is_empty() {
        let sector_left = (SECTOR_BYTES - at % SECTOR_BYTES) as usize;
        let (piece, after) = rest.split_at(sector_left.min(rest.len()));
        if piece.iter().all(|&b| b == 0) {
            return true;
        }
        at += piece.len() as u64;
        rest = after;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_first_segment_starts_with_these_bytes() {
        let mut out = Vec::new();
        assert_eq!(append(&mut out, CRC, &[], 0), 0);
        assert_eq!(out, [4, 0, 0, 0, 0, 0, 0, 0x84, 8, 4, 0x10, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn length_fields_split_as_they_are_joined() {
        for len in [1usize, 7, 8, 9, 31, 1 << 20] {
            let (field, padding) = join_length(len);
            assert_eq!(split_length(field), (len as u64, padding as u64));
            assert_eq!((len + padding) % 8, 0);
        }
        assert_eq!(
            join_length(31).0.to_le_bytes(),
            [0x1f, 0, 0, 0, 0, 0, 0, 0x81]
        );
        assert_eq!(join_length(8).0.to_le_bytes(), [8, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn records_decode_to_what_was_appended() {
        let mut out = Vec::new();
        let crc = append(&mut out, ENTRY, b"hello", 7);
        let (len, _) = split_length(u64::from_le_bytes(out[..8].try_into().expect("8 bytes")));
        let record = decode(&out[8..8 + len as usize]).expect("decodes");
        assert_eq!(
            record,
            Record {
                kind: ENTRY,
                crc,
                data: b"hello"
            }
        );
        for cut in 1..len as usize {
            // A shorter prefix is either refused or lacks the data; it never yields the whole.
            if let Ok(short) = decode(&out[8..8 + cut]) {
                assert_ne!(short.data, b"hello");
            }
        }
    }

    #[test]
    fn zero_sectors_are_cut_at_file_offsets() {
        let mut bytes = vec![1u8; 1024];
        assert!(!looks_torn(&bytes, 8));
        // From offset 8 the second sector of the file begins at byte 504.
        bytes[504..1016].fill(0);
        assert!(looks_torn(&bytes, 8));
        bytes[700] = 1;
        assert!(!looks_torn(&bytes, 8));
        // The last, partial sector counts too.
        bytes[1016..].fill(0);
        assert!(looks_torn(&bytes, 8));
    }
}
