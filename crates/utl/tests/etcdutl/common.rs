//! Running programs, and making database files.

use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ferrite_bolt::{Db, Options};
use ferrite_mvcc::schema::{BucketKey, Revision};
use ferrite_proto::mvccpb::KeyValue;
use prost::Message;
use sha2::{Digest, Sha256};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a program said.
#[derive(Debug)]
pub struct Outcome {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Outcome {
    /// Standard output of a success.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// The error line of a failure with this code.
    #[track_caller]
    pub fn fails(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        let line = self.err.lines().find_map(|l| l.strip_prefix("Error: "));
        line.unwrap_or_else(|| panic!("no error line: {self:?}"))
            .to_owned()
    }
}

/// Runs a program to its end.
pub fn run(program: &Path, arguments: &[&str]) -> Outcome {
    let output = Command::new(program)
        .args(arguments)
        .env_remove("ETCDCTL_API")
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    Outcome {
        code: output.status.code(),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Runs our `etcdutl`.
pub fn utl(arguments: &[&str]) -> Outcome {
    run(Path::new(env!("CARGO_BIN_EXE_etcdutl")), arguments)
}

/// A path as an argument.
pub fn s(path: &Path) -> &str {
    path.to_str().expect("test paths are text")
}

/// The folder of etcd 3.5.1's programs, or `None` after a printed line.
pub fn oracle() -> Option<PathBuf> {
    if let Some(dir) = std::env::var_os("ETCD_ORACLE_DIR") {
        return Some(dir.into());
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "ETCD_ORACLE_DIR is needed in CI"
    );
    eprintln!("SKIPPED: ETCD_ORACLE_DIR is not set");
    None
}

/// Our own server, or `None` after a printed line.
pub fn our_etcd() -> Option<PathBuf> {
    let test = std::env::current_exe().expect("a test knows its path");
    let path = test
        .ancestors()
        .nth(2)
        .expect("target/<profile>")
        .join("etcd");
    if path.is_file() {
        return Some(path);
    }
    assert!(std::env::var_os("CI").is_none(), "etcd must be built in CI");
    eprintln!("SKIPPED: {} is not built", path.display());
    None
}

/// A port nobody listens on now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// What a server holds: keys with revisions, leases with their keys, users and roles.
#[derive(Debug, PartialEq, Eq)]
pub struct Contents {
    pub keys: String,
    pub leases: String,
    pub rights: String,
}

/// A running server of one member; killed when dropped.
pub struct Server {
    child: Child,
    client: String,
    etcdctl: PathBuf,
    log: PathBuf,
}

impl Server {
    /// Starts `etcd` on a data folder, as the member `default` with this peer URL.
    pub fn start(etcd: &Path, oracle: &Path, data: &Path, peer: &str) -> Self {
        let client = format!("http://127.0.0.1:{}", free_port());
        let log = data.with_extension("log");
        let file = std::fs::File::create(&log).expect("a log file");
        let child = Command::new(etcd)
            .args(["--name", "default", "--data-dir", s(data)])
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", peer])
            .args(["--initial-advertise-peer-urls", peer])
            .args(["--initial-cluster", &format!("default={peer}")])
            .arg("--bcrypt-cost=4")
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("the log file"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", etcd.display()));
        let mut server = Self {
            child,
            client,
            etcdctl: oracle.join("etcdctl"),
            log,
        };
        let started = Instant::now();
        while server.ctl_outcome(&["endpoint", "health"]).code != Some(0) {
            let ended = server.child.try_wait().expect("its state");
            assert!(
                ended.is_none() && started.elapsed() < PATIENCE,
                "{} does not serve ({ended:?}): {}",
                etcd.display(),
                std::fs::read_to_string(&server.log).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    fn ctl_outcome(&self, arguments: &[&str]) -> Outcome {
        let all = [&["--endpoints", &self.client][..], arguments].concat();
        run(&self.etcdctl, &all)
    }

    /// Runs the original's `etcdctl` against it.
    #[track_caller]
    pub fn ctl(&self, arguments: &[&str]) -> String {
        let outcome = self.ctl_outcome(arguments);
        assert_eq!(
            outcome.code,
            Some(0),
            "{arguments:?}: {outcome:?}\n{}",
            std::fs::read_to_string(&self.log).unwrap_or_default()
        );
        outcome.out
    }

    /// Runs the original's `etcdctl` against it where it may fail.
    pub fn ctl_may_fail(&self, arguments: &[&str]) -> Outcome {
        self.ctl_outcome(arguments)
    }

    /// What must survive a restore.
    pub fn contents(&self) -> Contents {
        let keys = self.ctl(&["get", "", "--prefix", "-w", "json"]);
        let mut rights = self.ctl(&["user", "list"]) + &self.ctl(&["role", "list"]);
        for role in self.ctl(&["role", "list"]).lines() {
            rights += &self.ctl(&["role", "get", role]);
        }
        for user in self.ctl(&["user", "list"]).lines() {
            rights += &self.ctl(&["user", "get", user]);
        }
        Contents {
            keys: keys.split_once("\"kvs\":").expect("keys").1.to_owned(),
            leases: self.leases(),
            rights,
        }
    }

    /// Every lease with what it was granted and its keys; how long it will live changes.
    #[track_caller]
    fn leases(&self) -> String {
        let list = self.ctl(&["lease", "list"]);
        list.lines()
            .skip(1)
            .map(|id| {
                let lease = self.ctl(&["lease", "timetolive", id, "--keys"]);
                let (granted, rest) = lease.split_once(", remaining(").expect("a lease");
                let (_, keys) = rest.split_once("), ").expect("its keys");
                format!("{granted} {keys}")
            })
            .collect()
    }

    /// Hash, and revision hashed, of the whole key space.
    pub fn hash_kv(&self) -> String {
        number_after(
            &self.ctl(&["endpoint", "hashkv", "-w", "json"]),
            "\"hash\":",
        )
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Digits behind a text.
pub fn number_after(text: &str, what: &str) -> String {
    let rest = text
        .split_once(what)
        .unwrap_or_else(|| panic!("{what} in {text}"))
        .1;
    rest.chars()
        .take_while(|c| c.is_ascii_digit() || *c == '-')
        .collect()
}

/// A database like one that etcd leaves: keys `k0` to `k<n-1>` at the revisions from 2 on, then `k0`
/// deleted.
pub fn make_database(path: &Path, keys: i64, value_bytes: usize) {
    let db = Db::open(path, Options::default()).expect("a new database");
    let mut tx = db.begin_write().expect("a transaction");
    for name in [
        "alarm",
        "auth",
        "cluster",
        "key",
        "lease",
        "members",
        "members_removed",
        "meta",
    ] {
        tx.create_bucket_if_missing(name.as_bytes())
            .expect("a bucket");
    }
    for n in 0..keys {
        let kv = KeyValue {
            key: format!("k{n}").into(),
            create_revision: n + 2,
            mod_revision: n + 2,
            version: 1,
            value: vec![b'v'; value_bytes].into(),
            lease: 0,
        };
        let revision = Revision::new(n + 2, 0).encode();
        tx.put(b"key", &revision, &kv.encode_to_vec()).expect("put");
    }
    let gone = BucketKey {
        revision: Revision::new(keys + 2, 0),
        tombstone: true,
    };
    let kv = KeyValue {
        key: "k0".into(),
        ..KeyValue::default()
    };
    tx.put(b"key", &gone.encode(), &kv.encode_to_vec())
        .expect("put");
    tx.put(
        b"members",
        b"abc",
        br#"{"id":2748,"peerURLs":["http://old:1"],"name":"old"}"#,
    )
    .expect("put");
    tx.put(b"members_removed", b"def", b"removed").expect("put");
    tx.put(b"cluster", b"clusterVersion", b"3.7.0")
        .expect("put");
    tx.put(b"meta", b"consistent_index", &77u64.to_be_bytes())
        .expect("put");
    tx.put(b"meta", b"term", &5u64.to_be_bytes()).expect("put");
    tx.put(b"meta", b"storageVersion", b"3.7.0").expect("put");
    tx.commit().expect("commit");
}

/// Writes a snapshot file: a database and its hash.
pub fn make_snapshot(database: &Path, snapshot: &Path) {
    let mut bytes = std::fs::read(database).expect("the database");
    let hash = Sha256::digest(&bytes);
    bytes.write_all(&hash).expect("memory");
    std::fs::write(snapshot, bytes).expect("the snapshot");
}

/// Every pair of every bucket.
pub fn pairs(path: &Path) -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let options = Options {
        read_only: true,
        ..Options::default()
    };
    let db = Db::open(path, options).expect("a database");
    let tx = db.begin_read().expect("a view");
    let mut out = Vec::new();
    for name in tx.buckets().expect("buckets") {
        let bucket = tx.bucket(&name).expect("a bucket").expect("there");
        let text = String::from_utf8(name).expect("text");
        bucket
            .scan(&[], None, &mut |key, value| {
                out.push((text.clone(), key.to_vec(), value.to_vec()));
                std::ops::ControlFlow::Continue(())
            })
            .expect("scan");
    }
    out
}
