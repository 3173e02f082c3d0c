//! What lies in the folder of a member that was killed: how far its database says it is, how far its
//! data really is, and what its log says it should be.
//!
//! etcd 3.5.0 to 3.5.2 can write the applied index to disk before the data of that entry (etcd issue
//! 13766, known bug KB-01): the backend commits every 100 ms and asks for the index at that moment,
//! while apply has set it and not written yet. Killed before the next commit, the member comes back
//! without that entry and differs from then on. Such a folder can be told from any other, before
//! anything runs on it again: index and revision in the database do not fit each other by the log.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

use ferrite_bolt::{Db, Options};
use ferrite_mvcc::schema::{Bucket, BucketKey, CONSISTENT_INDEX};
use ferrite_proto::{etcdserverpb as pb, raftpb, walpb};
use ferrite_testkit::{Cluster, Kind, Member};
use ferrite_wal::Wal;
use prost::Message;

/// The folder of a member that is down. Its log must begin with the first entry, and its cluster must
/// have seen only puts, transactions that put in either branch, and what makes no revision.
#[derive(Debug)]
pub struct Left {
    /// The last entry that its database says is in it.
    pub applied: u64,
    /// The revision of the newest write in its database.
    pub revision: i64,
    /// The revision that the log has reached with entry `applied`.
    pub logged: i64,
    /// Every entry of its log.
    pub entries: Vec<raftpb::Entry>,
}

impl Left {
    pub fn by(member: &Member) -> Self {
        assert!(member.pid().is_none(), "it runs");
        let entries = log_of(member.data_dir());
        let (applied, revision) = database(&member.data_dir().join("member/snap/db"));
        let writes = entries
            .iter()
            .take_while(|entry| entry.index <= applied)
            .filter(|entry| is_write(entry))
            .count();
        let logged = 1 + i64::try_from(writes).unwrap();
        Self {
            applied,
            // An empty key space is at revision 1.
            revision: revision.max(1),
            logged,
            entries,
        }
    }

    /// Writes that its database counts as applied and does not have.
    pub fn missing(&self) -> i64 {
        self.logged - self.revision
    }

    /// Asserts that every entry it has applied stands in another member's log just so. The other may run.
    pub fn agrees_with_log_of(&self, other: &Member) {
        let theirs = log_of(other.data_dir());
        let mut compared = 0;
        for (mine, other) in self.entries.iter().zip(&theirs) {
            if mine.index > self.applied {
                break;
            }
            assert_eq!(mine, other, "the logs differ");
            compared += 1;
        }
        assert!(compared > 0, "nothing to compare");
    }
}

/// Kills a member the hard way, whatever it is doing, and looks at what it left. What 3.5.1's own bug did
/// to its database is undone: the database goes, and the member makes it anew from its log, which is
/// whole. Ours must never need that. So a later comparison of all members is free of the bug, and of
/// nothing else. For clusters that have taken no snapshot yet.
pub fn kill_under_load(cluster: &Cluster, index: usize) {
    let member = cluster.member(index);
    member.kill9();
    let left = Left::by(member);
    left.agrees_with_log_of(cluster.member((index + 1) % cluster.members().len()));
    let missing = left.missing();
    if missing == 0 {
        return;
    }
    assert!(
        member.kind() == Kind::Etcd351 && missing == 1,
        "member {index} ({:?}) left a database that counts entry {} as applied, at revision {}, where its \
         log is at revision {}",
        member.kind(),
        left.applied,
        left.revision,
        left.logged
    );
    eprintln!(
        "member {index} met etcd issue 13766: its database counts entry {} as applied, without its write \
         of revision {}",
        left.applied, left.logged
    );
    let folder = member.data_dir().join("member/snap");
    std::fs::remove_file(folder.join("db")).expect("the database can be removed");
    let rest: Vec<_> = std::fs::read_dir(folder).unwrap().collect();
    assert!(rest.is_empty(), "there is a snapshot: {rest:?}");
}

/// A log from its first entry on. Its owner may be writing: what looks damaged is looked at again.
fn log_of(data_dir: &Path) -> Vec<raftpb::Entry> {
    let read = || Wal::read(&data_dir.join("member/wal"), &walpb::Snapshot::default());
    let mut recovered = read();
    for _ in 0..5 {
        if recovered.is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
        recovered = read();
    }
    let recovered =
        recovered.unwrap_or_else(|error| panic!("the log in {}: {error}", data_dir.display()));
    assert_eq!(recovered.entries.first().map(|entry| entry.index), Some(1));
    recovered.entries
}

/// How far a database says that it has applied.
pub fn applied_in(file: &Path) -> u64 {
    database(file).0
}

/// The revision of the newest write in a database.
pub fn newest_in(file: &Path) -> i64 {
    database(file).1
}

/// The applied index and the newest revision in a database; zeros if there is none.
fn database(file: &Path) -> (u64, i64) {
    let options = Options {
        read_only: true,
        ..Options::default()
    };
    let tx = Db::open(file, options)
        .and_then(|db| db.begin_read())
        .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let bucket = |bucket: Bucket| {
        tx.bucket(bucket.name().as_bytes())
            .expect("a readable bucket")
    };
    let applied = bucket(Bucket::Meta)
        .and_then(|meta| {
            meta.get(CONSISTENT_INDEX.as_bytes())
                .expect("a readable page")
        })
        .map_or(0, |bytes| {
            u64::from_be_bytes(bytes[..].try_into().expect("eight bytes"))
        });
    let mut revision = 0;
    if let Some(keys) = bucket(Bucket::Key) {
        keys.scan_reverse(&[], None, &mut |key, _| {
            revision = BucketKey::decode(key).expect("a revision").revision.main;
            ControlFlow::Break(())
        })
        .expect("readable pages");
    }
    (applied, revision)
}

fn is_write(entry: &raftpb::Entry) -> bool {
    if entry.entry_type != raftpb::EntryType::EntryNormal as i32 || entry.data.is_empty() {
        return false;
    }
    let Ok(request) = pb::InternalRaftRequest::decode(&entry.data[..]) else {
        // Membership of 3.4 and 3.5 in its old form.
        return false;
    };
    request.put.is_some() || request.txn.is_some()
}
