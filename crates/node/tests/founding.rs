//! A founding that the power cut short: it has been whole, or it is done anew.

mod common;

use std::path::Path;
use std::sync::Arc;

use ferrite_node::disk::Disk;
use ferrite_node::{Config, recover};
use ferrite_raft::Storage as _;
use ferrite_wal::Wal;
use ferrite_wal::fs::Fs as _;
use ferrite_wal::memfs::MemFs;

/// What members who met under a token in another cluster were told there.
const MET: &str = "a=http://h1:2380,b=http://h2:2380,c=http://h3:2380";
/// What the flags of one of them say: it is not told again once there is a log.
const ALONE: &str = "a=http://h1:2380";
const SEGMENT_BYTES: u64 = 4 << 10;
/// Operations that a founding has at most.
const OPERATIONS_MAX: u64 = 200;

fn config(initial_cluster: &str) -> Config {
    Config {
        peer_urls: vec!["http://h1:2380".into()],
        initial_cluster: initial_cluster.into(),
        no_fsync: false,
        ..common::config(Path::new("/data"))
    }
}

fn empty(seed: u64) -> MemFs {
    let fs = MemFs::new(seed);
    let snap_dir = config(MET).snap_dir();
    fs.create_dir_all(&snap_dir).expect("folders");
    for folder in snap_dir.ancestors() {
        fs.sync_dir(folder).expect("folders");
    }
    fs
}

/// Wherever the power goes, the next start knows all members: those of the log, or, without one, those
/// that it is told anew.
#[test]
fn members_that_met_elsewhere_are_in_the_log_as_soon_as_there_is_one() {
    let wal_dir = config(MET).wal_dir();
    let (mut without, mut with) = (0, 0);
    for seed in 1..=8 {
        for operations in 0..OPERATIONS_MAX {
            let fs = empty(seed * 1000 + operations);
            let disk = Disk::on(Arc::new(fs.clone()), SEGMENT_BYTES);
            fs.fail_after(Some(operations));
            let founded = recover::recover_on(&disk, &config(MET), None).is_ok();
            fs.crash();
            let logged = Wal::exists_on(&fs, Path::new(&wal_dir)).expect("the folder is read");
            assert!(logged || !founded, "{seed} {operations}: a log has gone");
            let flags = match logged {
                true => ALONE,
                false => MET,
            };
            let again = recover::recover_on(&disk, &config(flags), None);
            let again = again.unwrap_or_else(|error| panic!("{seed} {operations}: {error}"));
            assert_eq!(again.storage.last_index(), 3, "{seed} {operations}");
            assert_eq!(again.hard_state.commit, 3, "{seed} {operations}");
            assert_eq!(again.restarted, logged);
            match logged {
                true => with += 1,
                false => without += 1,
            }
            if founded {
                break;
            }
        }
    }
    // Both have been met with a founding that had not ended.
    assert!(without >= 8 && with > 8, "{without} {with}");
}
