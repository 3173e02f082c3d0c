//! File names of a log and of the files beside the database. Parsing only; nothing here touches a disk.

/// Suffix of a closed or growing segment.
pub const WAL_SUFFIX: &str = ".wal";
/// Suffix of a raft snapshot file.
pub const SNAP_SUFFIX: &str = ".snap";
/// Suffix of a database received from a leader.
pub const SNAP_DB_SUFFIX: &str = ".snap.db";

/// Name of the segment number `seq`, which holds entries from `index` on.
pub fn wal_name(seq: u64, index: u64) -> String {
    format!("{seq:016x}-{index:016x}{WAL_SUFFIX}")
}

/// Sequence number and first index in a segment's name, or nothing if it is no segment.
pub fn parse_wal_name(name: &str) -> Option<(u64, u64)> {
    parse_pair(name.strip_suffix(WAL_SUFFIX)?)
}

/// Name of the raft snapshot file of this term and index.
pub fn snap_name(term: u64, index: u64) -> String {
    format!("{term:016x}-{index:016x}{SNAP_SUFFIX}")
}

/// Term and index in a `.snap` file's name.
pub fn parse_snap_name(name: &str) -> Option<(u64, u64)> {
    parse_pair(name.strip_suffix(SNAP_SUFFIX)?)
}

/// Name of the database received for a raft snapshot at this index.
pub fn snap_db_name(index: u64) -> String {
    format!("{index:016x}{SNAP_DB_SUFFIX}")
}

/// Index in a received database's name.
pub fn parse_snap_db_name(name: &str) -> Option<u64> {
    parse_hex(name.strip_suffix(SNAP_DB_SUFFIX)?)
}

fn parse_pair(stem: &str) -> Option<(u64, u64)> {
    let (first, second) = stem.split_once('-')?;
    if first.len() != 16 || second.len() != 16 {
        return None;
    }
    Some((parse_hex(first)?, parse_hex(second)?))
}

fn parse_hex(text: &str) -> Option<u64> {
    // `from_str_radix` takes a sign; a file name has none.
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u64::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_etcds_and_foreign_ones_are_passed_over() {
        assert_eq!(wal_name(1, 0x2a), "0000000000000001-000000000000002a.wal");
        assert_eq!(parse_wal_name(&wal_name(7, u64::MAX)), Some((7, u64::MAX)));
        assert_eq!(snap_name(2, 255), "0000000000000002-00000000000000ff.snap");
        assert_eq!(
            parse_snap_name("0000000000000002-00000000000000ff.snap"),
            Some((2, 255))
        );
        assert_eq!(snap_db_name(16), "0000000000000010.snap.db");
        assert_eq!(parse_snap_db_name("0000000000000010.snap.db"), Some(16));
        for foreign in [
            "0.tmp",
            "x.wal",
            "1-2.wal",
            "+00000000000000a-0000000000000000.wal",
            "a.wal.broken",
            "",
        ] {
            assert_eq!(parse_wal_name(foreign), None, "{foreign}");
        }
    }
}
