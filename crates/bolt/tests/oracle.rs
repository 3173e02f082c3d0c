//! Against etcd 3.5.1 itself: we read what it writes, and it reads, checks and goes on writing what we wrote.
//! Needs ETCD_ORACLE_DIR, a folder with `etcd`, `etcdctl` and `etcdutl`.

mod common;

use common::{Rng, clean, content};
use ferrite_bolt::{CheckReport, Db, Error, Options, check};
use std::net::TcpListener;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// What is found in the file. A program that the other test starts holds our lock too, from its fork until it runs.
fn checked(path: &Path) -> CheckReport {
    let since = Instant::now();
    loop {
        match check(path) {
            Err(Error::Locked { .. }) if since.elapsed() < Duration::from_secs(10) => {
                std::thread::sleep(Duration::from_millis(10));
            }
            found => return found.unwrap(),
        }
    }
}

fn oracle() -> Option<PathBuf> {
    match std::env::var_os("ETCD_ORACLE_DIR") {
        Some(dir) => Some(PathBuf::from(dir)),
        None => {
            assert!(
                std::env::var_os("CI").is_none(),
                "ETCD_ORACLE_DIR must be set in CI"
            );
            eprintln!("SKIPPED: ETCD_ORACLE_DIR is not set");
            None
        }
    }
}

fn run(program: &Path, args: &[&str]) -> Output {
    let out = Command::new(program)
        .env("ETCDCTL_API", "3")
        .args(args)
        .output()
        .expect("starts");
    assert!(
        out.status.success(),
        "{args:?}: {}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    );
    out
}

struct Etcd {
    child: Child,
    endpoint: String,
    ctl: PathBuf,
}

impl Etcd {
    fn start(oracle: &Path, data_dir: &Path) -> Etcd {
        let ports: Vec<_> = (0..2)
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"))
            .collect();
        let urls: Vec<String> = ports
            .iter()
            .map(|l| format!("http://{}", l.local_addr().expect("bound")))
            .collect();
        drop(ports);
        let child = Command::new(oracle.join("etcd"))
            .args(["--name", "m", "--data-dir"])
            .arg(data_dir)
            .args(["--listen-client-urls", &urls[0]])
            .args(["--advertise-client-urls", &urls[0]])
            .args(["--listen-peer-urls", &urls[1]])
            .args(["--initial-advertise-peer-urls", &urls[1]])
            .args(["--initial-cluster", &format!("m={}", urls[1])])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("etcd starts");
        let etcd = Etcd {
            child,
            endpoint: urls[0].clone(),
            ctl: oracle.join("etcdctl"),
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let healthy = Command::new(&etcd.ctl)
                .env("ETCDCTL_API", "3")
                .args(["--endpoints", &etcd.endpoint, "endpoint", "health"])
                .output()
                .expect("starts");
            if healthy.status.success() {
                return etcd;
            }
            assert!(Instant::now() < deadline, "etcd does not become healthy");
        }
    }

    fn ctl(&self, args: &[&str]) -> String {
        let mut all = vec!["--endpoints", &self.endpoint];
        all.extend(args);
        String::from_utf8_lossy(&run(&self.ctl, &all).stdout).into_owned()
    }

    /// As kill -9.
    fn kill(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("ended");
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn status(oracle: &Path, db: &Path) -> String {
    let db = db.to_str().expect("utf-8");
    let out = run(
        &oracle.join("etcdutl"),
        &["snapshot", "status", db, "-w", "json"],
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

fn revision_key(main: u64) -> Vec<u8> {
    let mut key = main.to_be_bytes().to_vec();
    key.push(b'_');
    key.extend(0u64.to_be_bytes());
    key
}

#[test]
fn both_ways_with_etcd_3_5_1() {
    let Some(oracle) = oracle() else { return };
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let etcd = Etcd::start(&oracle, &data);
    let large = "x".repeat(20_000);
    for i in 0..30 {
        let value = if i % 7 == 0 { large.as_str() } else { "v" };
        etcd.ctl(&["put", &format!("key{i}"), value]);
    }
    etcd.ctl(&["compaction", "12"]);
    // A snapshot forces what is buffered into the file.
    let snapshot = dir.path().join("snapshot.db");
    etcd.ctl(&["snapshot", "save", snapshot.to_str().unwrap()]);
    etcd.kill();

    let path = data.join("member/snap/db");
    let report = checked(&path);
    assert_eq!(report.problems, []);
    let db = Db::open(&path, Options::default()).unwrap();
    clean(&db);
    let tx = db.begin_read().unwrap();
    let names: Vec<String> = tx
        .buckets()
        .unwrap()
        .into_iter()
        .map(|n| String::from_utf8(n).unwrap())
        .collect();
    let mut wanted: Vec<String> = [
        "alarm",
        "auth",
        "authRoles",
        "authUsers",
        "cluster",
        "key",
        "lease",
        "members",
        "members_removed",
        "meta",
    ]
    .map(String::from)
    .into();
    wanted.sort();
    assert_eq!(names, wanted);
    let bucket = tx.bucket(b"key").unwrap().unwrap();
    let mut revisions = Vec::new();
    bucket
        .scan(b"", None, &mut |key, value| {
            assert_eq!(key.len(), 17);
            assert!(!value.is_empty());
            revisions.push(u64::from_be_bytes(key[..8].try_into().unwrap()));
            ControlFlow::Continue(())
        })
        .unwrap();
    // Revision 1 is the empty store, so key0 is revision 2; all keys differ, so compaction removes none.
    assert_eq!(revisions, (2..32).collect::<Vec<u64>>());
    let meta = tx.bucket(b"meta").unwrap().unwrap();
    assert_eq!(meta.get(b"consistent_index").unwrap().unwrap().len(), 8);
    drop((tx, bucket, meta));

    // Pages move and are reused under our hand; what etcd stored stays.
    let before = content(&db);
    for round in 0..20u64 {
        let mut tx = db.begin_write().unwrap();
        let mut ours = tx.create_bucket_if_missing(b"ferrite").unwrap();
        for i in 0..200u64 {
            ours.put(&(i * 7919 % 1000).to_be_bytes(), &[round as u8; 150])
                .unwrap();
        }
        tx.commit().unwrap();
    }
    let mut tx = db.begin_write().unwrap();
    tx.delete_bucket(b"ferrite").unwrap();
    tx.commit().unwrap();
    for _ in 0..5 {
        let mut tx = db.begin_write().unwrap();
        tx.compact_tail(64).unwrap();
        tx.bucket_mut(b"alarm").unwrap().set_sequence(0);
        tx.commit().unwrap();
    }
    assert_eq!(content(&db), before);
    clean(&db);
    drop(db);

    assert!(status(&oracle, &path).contains("\"revision\":31"));
    let etcd = Etcd::start(&oracle, &data);
    assert_eq!(etcd.ctl(&["get", "key8", "--print-value-only"]), "v\n");
    assert_eq!(
        etcd.ctl(&["get", "key14", "--print-value-only"]).len(),
        large.len() + 1
    );
    etcd.ctl(&["put", "again", "yes"]);
    etcd.ctl(&["defrag"]);
    etcd.ctl(&["put", "after-defrag", "yes"]);
    etcd.ctl(&["snapshot", "save", snapshot.to_str().unwrap()]);
    etcd.kill();
    assert_eq!(checked(&path).problems, []);
    assert_eq!(checked(&snapshot).problems, []);
}

#[test]
fn etcdutl_accepts_a_database_made_by_us() {
    let Some(oracle) = oracle() else { return };
    let dir = tempfile::tempdir().unwrap();
    for (n, store_freelist) in [false, true].into_iter().enumerate() {
        let path = dir.path().join(format!("db{n}"));
        let options = Options {
            store_freelist,
            ..Options::default()
        };
        let db = Db::open(&path, options).unwrap();
        let mut rng = Rng(5);
        let mut revision = 1;
        for round in 0..30 {
            let mut tx = db.begin_write().unwrap();
            let mut bucket = tx.create_bucket_if_missing(b"key").unwrap();
            bucket.set_fill_percent(0.9);
            for _ in 0..100 {
                revision += 1;
                let len = if rng.below(50) == 0 { 30_000 } else { 300 };
                bucket
                    .put(&revision_key(revision), &vec![b'v'; len])
                    .unwrap();
            }
            // As compaction does: older revisions go.
            for old in 2..revision / 2 {
                if rng.below(3) == 0 {
                    bucket.delete(&revision_key(old)).unwrap();
                }
            }
            let mut meta = tx.create_bucket_if_missing(b"meta").unwrap();
            meta.put(b"consistent_index", &[0; 8]).unwrap();
            let mut outer = tx.create_bucket_if_missing(b"outer").unwrap();
            outer.set_sequence(round);
            let mut inner = outer.create_bucket_if_missing(b"inner").unwrap();
            inner.put(b"k", &vec![1; 1 + round as usize * 100]).unwrap();
            if round % 4 == 3 {
                tx.compact_tail(50).unwrap();
            }
            tx.commit().unwrap();
            clean(&db);
            // etcdutl opens read-only with a shared lock, so it looks at a copy while we go on.
            if round % 5 == 0 {
                let copy = dir.path().join("copy");
                std::fs::copy(&path, &copy).unwrap();
                let text = status(&oracle, &copy);
                assert!(text.contains(&format!("\"revision\":{revision}")), "{text}");
                let mut file = std::fs::File::create(&copy).unwrap();
                let written = db.begin_read().unwrap().write_to(&mut file).unwrap();
                assert_eq!(written, std::fs::metadata(&copy).unwrap().len());
                let text = status(&oracle, &copy);
                assert!(text.contains(&format!("\"revision\":{revision}")), "{text}");
            }
        }
        drop(db);
        assert_eq!(checked(&path).problems, []);
    }
}
