//! Commands on files made here.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use ferrite_bolt::{Db, Options};
use ferrite_mvcc::schema::Revision;
use ferrite_wal::{Wal, snap};

use crate::common::{make_database, make_snapshot, pairs, s, utl};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> String {
        s(&self.0.path().join(name)).to_owned()
    }

    /// A snapshot of a hundred keys.
    fn snapshot(&self) -> String {
        let database = self.path("made.db");
        make_database(Path::new(&database), 100, 100);
        let snapshot = self.path("snapshot");
        make_snapshot(Path::new(&database), Path::new(&snapshot));
        snapshot
    }
}

#[test]
fn status_in_every_form_changes_nothing() {
    let folder = Folder::new();
    let snapshot = folder.snapshot();
    let before = std::fs::read(&snapshot).unwrap();
    let modified = std::fs::metadata(&snapshot).unwrap().modified().unwrap();
    let simple = utl(&["snapshot", "status", &snapshot]).ok();
    let cells: Vec<&str> = simple.trim_end().split(", ").collect();
    assert_eq!(cells.len(), 5, "{simple}");
    assert_eq!((cells[1], cells[2], cells[4]), ("102", "99", "3.7.0"));
    let hash = u32::from_str_radix(cells[0], 16).unwrap();
    let size = before.len() - 32;
    assert_eq!(
        utl(&["snapshot", "status", &snapshot, "-w", "json"]).ok(),
        format!(
            "{{\"hash\":{hash},\"revision\":102,\"totalKey\":99,\"totalSize\":{size},\"version\":\"3.7.0\"}}\n"
        )
    );
    assert_eq!(
        utl(&["snapshot", "status", &snapshot, "--write-out=fields"]).ok(),
        format!(
            "\"Hash\" : {hash}\n\"Revision\" : 102\n\"Keys\" : 99\n\"Size\" : {size}\n\"Version\" : 3.7.0\n"
        )
    );
    assert!(
        utl(&["snapshot", "status", &snapshot, "-w", "table"])
            .ok()
            .contains("REVISION │ TOTAL KEYS")
    );
    for (form, message) in [
        ("protobuf", "protobuf not supported as output format"),
        (
            "xml",
            "unsupported output format (--write-out can be fields, json, simple or table)",
        ),
    ] {
        assert_eq!(
            utl(&["snapshot", "status", &snapshot, "-w", form]).fails(4),
            message
        );
    }
    utl(&["hashkv", &snapshot]).ok();
    assert_eq!(std::fs::read(&snapshot).unwrap(), before);
    assert_eq!(
        std::fs::metadata(&snapshot).unwrap().modified().unwrap(),
        modified
    );
}

#[test]
fn hashkv_at_revisions() {
    let folder = Folder::new();
    let snapshot = folder.snapshot();
    let latest = utl(&["hashkv", &snapshot, "-w", "json"]).ok();
    assert!(
        latest.ends_with(",\"hashRevision\":102,\"compactRevision\":-1}\n"),
        "{latest}"
    );
    let earlier = utl(&["hashkv", &snapshot, "--rev", "50"]).ok();
    assert!(earlier.ends_with(", 50, -1\n"), "{earlier}");
    assert_eq!(
        utl(&["hashkv", &snapshot, "--rev", "103"]).fails(1),
        "mvcc: required revision is a future revision"
    );
}

#[test]
fn a_restored_folder_is_the_new_clusters() {
    let folder = Folder::new();
    let snapshot = folder.snapshot();
    let data = folder.path("data");
    let outcome = utl(&[
        "snapshot",
        "restore",
        &snapshot,
        "--data-dir",
        &data,
        "--name",
        "b",
        "--initial-cluster",
        "a=http://h1:1,b=http://h2:2,c=http://h3:3",
        "--initial-advertise-peer-urls",
        "http://h2:2",
        "--initial-cluster-token",
        "t",
    ]);
    assert_eq!(
        outcome.err.matches("added member").count(),
        3,
        "{outcome:?}"
    );
    for line in ["restoring snapshot", "restored snapshot"] {
        assert!(outcome.err.contains(line), "{outcome:?}");
    }
    outcome.ok();
    let member = Path::new(&data).join("member");
    let snaps = snap::names(&member.join("snap")).unwrap();
    assert_eq!(snaps, ["0000000000000001-0000000000000003.snap"]);
    let records = Wal::valid_snapshots(&member.join("wal")).unwrap();
    assert_eq!(records.last().map(|r| (r.index, r.term)), Some((3, 1)));
    let after = pairs(&member.join("snap").join("db"));
    let before = pairs(Path::new(&folder.path("made.db")));
    let of = |all: &[(String, Vec<u8>, Vec<u8>)], name: &str| -> Vec<(Vec<u8>, Vec<u8>)> {
        all.iter()
            .filter(|(bucket, ..)| bucket == name)
            .map(|(_, key, value)| (key.clone(), value.clone()))
            .collect()
    };
    for kept in ["key", "cluster", "lease", "auth", "alarm"] {
        assert_eq!(of(&after, kept), of(&before, kept), "{kept}");
    }
    assert_eq!(of(&after, "members").len(), 3);
    assert!(of(&after, "members_removed").is_empty());
    let meta = of(&after, "meta");
    for (name, value) in [
        ("consistent_index", 3u64.to_be_bytes().to_vec()),
        ("term", 1u64.to_be_bytes().to_vec()),
        ("storageVersion", b"3.7.0".to_vec()),
    ] {
        assert!(meta.contains(&(name.into(), value)), "{name}: {meta:?}");
    }
}

#[test]
fn a_bump_leaves_a_gap_and_marks_it_compacted() {
    let folder = Folder::new();
    let snapshot = folder.snapshot();
    let data = folder.path("data");
    let outcome = utl(&[
        "snapshot",
        "restore",
        &snapshot,
        "--data-dir",
        &data,
        "--bump-revision",
        "1000",
        "--mark-compacted",
    ]);
    assert!(outcome.err.contains("bumping latest revision\t{\"latest-revision\": 102, \"bump-amount\": 1000, \"new-latest-revision\": 1102}"), "{outcome:?}");
    assert!(
        outcome
            .err
            .contains("marking revision compacted\t{\"revision\": 1102}"),
        "{outcome:?}"
    );
    outcome.ok();
    let all = pairs(&Path::new(&data).join("member/snap/db"));
    let bumped = Revision::new(1102, 0).encode().to_vec();
    let keys: Vec<_> = all.iter().filter(|(b, ..)| b == "key").collect();
    assert_eq!(keys.len(), 102);
    assert_eq!(
        keys.last().map(|(_, k, v)| (k.clone(), v.len())),
        Some((bumped.clone(), 0))
    );
    assert!(all.contains(&("meta".into(), b"scheduledCompactRev".to_vec(), bumped)));
    let hash = utl(&["hashkv", s(&Path::new(&data).join("member/snap/db"))]).ok();
    assert!(hash.ends_with(", 1102, 1102\n"), "{hash}");

    let far = u64::MAX.to_string();
    let refused = utl(&[
        "snapshot",
        "restore",
        &snapshot,
        "--data-dir",
        &folder.path("far"),
        "--bump-revision",
        &far,
        "--mark-compacted",
    ]);
    assert!(
        refused
            .fails(1)
            .starts_with("--bump-revision 18446744073709551615 is too large")
    );
    assert!(!Path::new(&folder.path("far")).exists());
}

#[test]
fn a_restore_that_is_refused_leaves_nothing() {
    let folder = Folder::new();
    let snapshot = folder.snapshot();
    let data = folder.path("data");
    let restore = |more: &[&str]| {
        let all = [&["snapshot", "restore"][..], more, &["--data-dir", &data]].concat();
        utl(&all)
    };
    let mut bytes = std::fs::read(&snapshot).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let wrong = folder.path("wrong");
    std::fs::write(&wrong, &bytes).unwrap();
    let message = restore(&[&wrong]).fails(1);
    assert!(
        message.starts_with("expected sha256 [") && message.contains("], got ["),
        "{message}"
    );
    assert!(!Path::new(&data).exists());

    assert_eq!(
        restore(&[&folder.path("made.db")]).fails(1),
        "snapshot missing hash but --skip-hash-check=false; or the file was cut short: look at it with etcdutl snapshot status"
    );
    assert_eq!(
        restore(&[&folder.path("absent")]).fails(1),
        format!("open {}: no such file or directory", folder.path("absent"))
    );
    let short = folder.path("short");
    std::fs::write(&short, &bytes[..8192]).unwrap();
    assert!(
        restore(&[&short, "--skip-hash-check"])
            .fails(1)
            .contains("bytes")
    );
    assert!(!Path::new(&data).exists());

    // An empty folder that was there stays, and is good enough.
    std::fs::create_dir(&data).unwrap();
    restore(&[&wrong]).fails(1);
    assert_eq!(std::fs::read_dir(&data).unwrap().count(), 0);
    let wal = folder.path("wal");
    std::fs::create_dir(&wal).unwrap();
    assert_eq!(
        restore(&[&snapshot, "--wal-dir", &wal]).fails(1),
        format!("wal-dir \"{wal}\" exists")
    );
    std::fs::remove_dir(&wal).unwrap();
    assert!(
        restore(&[&wrong, "--wal-dir", &wal])
            .fails(1)
            .starts_with("expected")
    );
    assert!(!Path::new(&wal).exists());
    restore(&[&snapshot, "--wal-dir", &wal]).ok();
    assert!(Wal::exists(Path::new(&wal)).unwrap());
    assert!(!Path::new(&data).join("member/wal").exists());
    assert_eq!(
        restore(&[&snapshot]).fails(1),
        format!("data-dir \"{data}\" not empty or could not be read")
    );
}

#[test]
fn another_programs_database_is_refused() {
    let folder = Folder::new();
    let path = folder.path("other");
    let db = Db::open(&path, Options::default()).unwrap();
    let mut tx = db.begin_write().unwrap();
    tx.create_bucket_if_missing(b"things").unwrap();
    tx.commit().unwrap();
    drop(db);
    let data = folder.path("data");
    let message = utl(&[
        "snapshot",
        "restore",
        &path,
        "--skip-hash-check",
        "--data-dir",
        &data,
    ])
    .fails(1);
    assert_eq!(
        message,
        format!("{path} is no database of etcd: it has no bucket \"meta\"")
    );
}

/// A restored folder whose database has many free pages.
fn sparse(folder: &Folder) -> (String, String) {
    let made = folder.path("made.db");
    make_database(Path::new(&made), 3000, 1000);
    let data = folder.path("data");
    utl(&[
        "snapshot",
        "restore",
        &made,
        "--skip-hash-check",
        "--data-dir",
        &data,
    ])
    .ok();
    let database = format!("{data}/member/snap/db");
    let db = Db::open(&database, Options::default()).unwrap();
    let mut tx = db.begin_write().unwrap();
    for n in 2..2900 {
        tx.delete(b"key", &Revision::new(n, 0).encode()).unwrap();
    }
    tx.commit().unwrap();
    (data, database)
}

#[test]
fn defrag_gives_space_back_and_keeps_everything() {
    let folder = Folder::new();
    let (data, database) = sparse(&folder);
    let before = (
        pairs(Path::new(&database)),
        std::fs::metadata(&database).unwrap().len(),
    );
    let outcome = utl(&["defrag", "--data-dir", &data]);
    assert!(
        outcome.err.contains("finished defragmenting directory"),
        "{outcome:?}"
    );
    outcome.ok();
    assert_eq!(pairs(Path::new(&database)), before.0);
    let after = std::fs::metadata(&database).unwrap().len();
    assert!(after < before.1 / 10, "{} to {after}", before.1);
    let left: Vec<_> = std::fs::read_dir(format!("{data}/member/snap"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .filter(|name| name.to_string_lossy().contains("tmp"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    utl(&["snapshot", "status", &database]).ok();
}

#[test]
fn killed_at_any_moment_defrag_leaves_a_whole_database_and_restore_no_half_member() {
    let folder = Folder::new();
    let (data, database) = sparse(&folder);
    let before = pairs(Path::new(&database));
    let snapshot = folder.snapshot();
    let program = env!("CARGO_BIN_EXE_etcdutl");
    for round in 0..12 {
        let restored = folder.path(&format!("restored{round}"));
        for arguments in [
            &["defrag", "--data-dir", &data][..],
            &["snapshot", "restore", &snapshot, "--data-dir", &restored],
        ] {
            let mut child = Command::new(program)
                .args(arguments)
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            // Not a wait for anything: the kill is to fall somewhere into the work.
            std::thread::sleep(Duration::from_millis(round * 2));
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert_eq!(pairs(Path::new(&database)), before);
        utl(&["snapshot", "status", &database]).ok();
        let member = Path::new(&restored).join("member");
        if member.exists() {
            assert!(Wal::exists(&member.join("wal")).unwrap());
            assert_eq!(snap::names(&member.join("snap")).unwrap().len(), 1);
            utl(&["snapshot", "status", s(&member.join("snap/db"))]).ok();
        }
    }
    utl(&["defrag", "--data-dir", &data]).ok();
}

#[test]
fn a_database_in_use_is_refused_after_the_timeout() {
    let folder = Folder::new();
    let (data, database) = sparse(&folder);
    let holder = Db::open(&database, Options::default()).unwrap();
    for arguments in [
        &["defrag", "--data-dir", &data][..],
        &["snapshot", "status", &database],
        &["hashkv", &database],
        &["migrate", "--data-dir", &data, "--target-version", "3.6"],
    ] {
        let all = [arguments, &["--timeout", "100ms"]].concat();
        let message = utl(&all).fails(1);
        assert!(
            message.contains("is locked by another process"),
            "{message}"
        );
    }
    drop(holder);
    utl(&["defrag", "--data-dir", &data]).ok();
}

#[test]
fn migrate_moves_the_storage_version() {
    let folder = Folder::new();
    let snapshot = folder.snapshot();
    let data = folder.path("data");
    utl(&["snapshot", "restore", &snapshot, "--data-dir", &data]).ok();
    let database = format!("{data}/member/snap/db");
    let to = |target: &str, more: &[&str]| {
        let base = ["migrate", "--data-dir", &data, "--target-version", target];
        utl(&[&base, more].concat())
    };
    let version = || {
        let out = utl(&["snapshot", "status", &database, "-w", "fields"]).ok();
        out.lines().last().unwrap_or_default().to_owned()
    };
    let same = to("3.7", &[]);
    assert!(
        same.err
            .contains("storage version up-to-date\t{\"storage-version\": \"3.7\"}"),
        "{same:?}"
    );
    assert!(to("3.6", &[]).err.contains("updated storage version"));
    assert_eq!(version(), "\"Version\" : 3.6.0");
    to("3.5", &[]).ok();
    assert_eq!(version(), "\"Version\" : ");
    to("3.7", &[]).ok();
    assert_eq!(version(), "\"Version\" : 3.7.0");
    assert_eq!(
        to("3.8", &[]).fails(1),
        "cannot create migration plan: version \"3.8.0\" is not supported"
    );
    let forced = to("3.8", &["--force"]);
    assert!(
        forced
            .err
            .contains("forcefully set storage version\t{\"storage-version\": \"3.8\"}"),
        "{forced:?}"
    );
    assert_eq!(version(), "\"Version\" : 3.8.0");
}
