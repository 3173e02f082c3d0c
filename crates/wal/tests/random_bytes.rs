//! Whatever bytes lie in a segment or a `.snap` file, reading them answers and never panics.

mod common;

use std::path::Path;

use common::{DIR, disk, fixture, start};
use ferrite_wal::names::wal_name;
use ferrite_wal::{Wal, snap};
use proptest::prelude::*;

fn read(bytes: &[u8]) {
    let fs = disk(1);
    fs.put(&Path::new(DIR).join(wal_name(0, 0)), bytes);
    // Any answer will do.
    let _ = Wal::read_on(&fs, Path::new(DIR), &start());
    let _ = Wal::valid_snapshots_on(&fs, Path::new(DIR));
    if Wal::repair_on(&fs, Path::new(DIR)).is_ok() {
        let _ = Wal::open(Path::new(DIR), &start(), common::options(&fs, 1 << 16));
    }
    let _ = snap::decode("x.snap".as_ref(), bytes);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), len in 0u8..64) {
        read(&bytes);
        // And behind a plausible length field.
        let mut framed = vec![len, 0, 0, 0, 0, 0, 0, 0];
        framed.extend_from_slice(&bytes);
        read(&framed);
    }

    #[test]
    fn damaged_captures(damage in proptest::collection::vec((0usize..1944, any::<u8>()), 1..6), len in 0usize..=1944) {
        let mut bytes = fixture("etcd-3.5.1-one-member.wal");
        for (at, byte) in damage {
            bytes[at] = byte;
        }
        bytes.truncate(len);
        read(&bytes);
    }
}
