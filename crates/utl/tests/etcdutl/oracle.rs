//! Against etcd 3.5.1: its files with our tool, our files with its tool, and servers on the results.

use std::path::{Path, PathBuf};
use std::process::Command;

use ferrite_proto::walpb;
use ferrite_wal::{Wal, snap};

use crate::common::{
    Contents, Server, free_port, number_after, oracle, our_etcd, pairs, run, s, utl,
};

/// A snapshot that 3.5.1 saved, and what its server held then.
struct Saved {
    folder: tempfile::TempDir,
    oracle: PathBuf,
    snapshot: PathBuf,
    contents: Contents,
    revision: String,
    hash: String,
    /// The server's data folder; the server is dead.
    data: PathBuf,
}

impl Saved {
    fn make() -> Option<Self> {
        let oracle = oracle()?;
        Some(Self::by(&oracle.join("etcd"), oracle))
    }

    fn by(etcd: &Path, oracle: PathBuf) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let data = folder.path().join("first");
        let server = Server::start(etcd, &oracle, &data, &peer());
        for n in 0..80 {
            let value = format!("value {n}").repeat(1 + n % 20);
            server.ctl(&["put", &format!("key{}", n % 30), &value]);
        }
        server.ctl(&["put", "leased", "x"]);
        let granted = server.ctl(&["lease", "grant", "100000"]);
        let lease = granted.split(' ').nth(1).expect("a lease");
        server.ctl(&["put", "leased", "x", "--lease", lease]);
        server.ctl(&["del", "key7"]);
        server.ctl(&["compact", "50"]);
        server.ctl(&["put", "key7", "again"]);
        for grant in [
            &["user", "add", "alice:pw"][..],
            &["role", "add", "reader"],
            &[
                "role",
                "grant-permission",
                "reader",
                "read",
                "key",
                "--prefix",
            ],
            &["user", "grant-role", "alice", "reader"],
        ] {
            server.ctl(grant);
        }
        let snapshot = folder.path().join("snapshot");
        let hash = server.hash_kv();
        server.ctl(&["snapshot", "save", s(&snapshot)]);
        let contents = server.contents();
        let header = server.ctl(&["get", "leased", "-w", "json"]);
        let revision = number_after(&header, "\"revision\":");
        drop(server);
        Self {
            folder,
            oracle,
            snapshot,
            contents,
            revision,
            hash,
            data,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Restores with a tool for a cluster of one with this peer URL.
    #[track_caller]
    fn restore(&self, tool: &Path, file: &Path, name: &str, peer: &str, more: &[&str]) -> PathBuf {
        let data = self.path(name);
        let cluster = format!("default={peer}");
        let base = [
            "snapshot",
            "restore",
            s(file),
            "--data-dir",
            s(&data),
            "--initial-cluster",
            &cluster,
            "--initial-advertise-peer-urls",
            peer,
        ];
        run(tool, &[&base, more].concat()).ok();
        data
    }

    /// Keys with revisions, leases, users and roles, as they were.
    #[track_caller]
    fn same(&self, server: &Server) {
        assert!(self.contents.leases.contains("attached keys([leased])"));
        assert!(self.contents.rights.contains("User: alice\nRoles: reader"));
        assert_eq!(server.contents(), self.contents);
    }

    /// A server on a restored folder holds what was saved, and takes writes.
    #[track_caller]
    fn serves(&self, etcd: &Path, data: &Path, peer: &str) {
        let server = Server::start(etcd, &self.oracle, data, peer);
        self.same(&server);
        assert_eq!(server.hash_kv(), self.hash);
        let put = server.ctl(&["put", "new", "x", "-w", "json"]);
        let next: i64 = self.revision.parse::<i64>().expect("a number") + 1;
        assert_eq!(number_after(&put, "\"revision\":"), next.to_string());
        let members = server.ctl(&["member", "list"]);
        assert_eq!(members.lines().count(), 1, "{members}");
        assert!(
            members.contains(peer) && members.contains("started"),
            "{members}"
        );
        // The password that came along opens what the role permits, and nothing else.
        for enable in [
            &["user", "add", "root:secret"][..],
            &["user", "grant-role", "root", "root"],
            &["auth", "enable"],
        ] {
            server.ctl(enable);
        }
        assert!(
            server
                .ctl(&["--user=alice:pw", "get", "key1"])
                .starts_with("key1\n")
        );
        let refused = server.ctl_may_fail(&["--user=alice:pw", "put", "key1", "x"]);
        assert_eq!(refused.fails(1), "etcdserver: permission denied");
        let wrong = server.ctl_may_fail(&["--user=alice:wrong", "get", "key1"]);
        assert!(wrong.code != Some(0), "{wrong:?}");
        server.ctl(&["--user=root:secret", "auth", "disable"]);
    }
}

fn peer() -> String {
    format!("http://127.0.0.1:{}", free_port())
}

fn ours() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_etcdutl"))
}

#[test]
fn status_and_hashkv_equal_the_originals() {
    let Some(saved) = Saved::make() else { return };
    let etcdutl = saved.oracle.join("etcdutl");
    for file in [saved.snapshot.clone(), saved.data.join("member/snap/db")] {
        let theirs = run(&etcdutl, &["snapshot", "status", s(&file), "-w", "json"]).ok();
        let ours = utl(&["snapshot", "status", s(&file), "-w", "json"]).ok();
        // totalKey counts something else since 3.6, and version is new.
        for field in ["\"hash\":", "\"revision\":", "\"totalSize\":"] {
            assert_eq!(
                number_after(&ours, field),
                number_after(&theirs, field),
                "{field}"
            );
        }
        assert_eq!(number_after(&ours, "\"totalKey\":"), "31");
    }
    // 3.5.1's own tool has no hashkv; its server has.
    let hash = utl(&["hashkv", s(&saved.snapshot), "-w", "json"]).ok();
    assert_eq!(number_after(&hash, "\"hash\":"), saved.hash);
    assert_eq!(number_after(&hash, "\"compactRevision\":"), "50");
    assert_eq!(
        utl(&["hashkv", s(&saved.snapshot), "--rev", "49"]).fails(1),
        "mvcc: required revision has been compacted"
    );
}

#[test]
fn restored_folders_hold_what_the_originals_tool_writes() {
    let Some(saved) = Saved::make() else { return };
    let flags = [
        "--name",
        "b",
        "--initial-cluster-token",
        "a-token",
        "--initial-cluster",
        "a=http://127.0.0.1:2380,b=http://127.0.0.2:2380,b=http://127.0.0.2:2390,c=http://127.0.0.3:2380",
        "--initial-advertise-peer-urls",
        "http://127.0.0.2:2390,http://127.0.0.2:2380",
    ];
    let [theirs, ours] = [
        ("theirs", saved.oracle.join("etcdutl")),
        ("ours", ours().into()),
    ]
    .map(|(name, tool)| {
        let data = saved.path(name);
        let base = [
            "snapshot",
            "restore",
            s(&saved.snapshot),
            "--data-dir",
            s(&data),
        ];
        run(&tool, &[&base[..], &flags].concat()).ok();
        data.join("member")
    });
    let log = |member: &Path| {
        let read = Wal::read(&member.join("wal"), &walpb::Snapshot::default()).expect("a log");
        (
            read,
            Wal::valid_snapshots(&member.join("wal")).expect("records"),
        )
    };
    assert_eq!(log(&ours), log(&theirs));
    let snapshot = |member: &Path| {
        let dir = member.join("snap");
        let names = snap::names(&dir).expect("names");
        let loaded = snap::load(&dir.join(&names[0])).expect("a snapshot");
        (
            names,
            loaded.metadata,
            String::from_utf8_lossy(&loaded.data).into_owned(),
        )
    };
    let (ours_snap, theirs_snap) = (snapshot(&ours), snapshot(&theirs));
    assert_eq!(
        (&ours_snap.0, &ours_snap.1),
        (&theirs_snap.0, &theirs_snap.1)
    );
    assert_eq!(
        ferrite_membership::v2store::decode(ours_snap.2.as_bytes()).expect("ours"),
        ferrite_membership::v2store::decode(theirs_snap.2.as_bytes()).expect("theirs"),
    );
    let rows = |member: &Path| {
        let mut all = pairs(&member.join("snap/db"));
        // Ours is the new cluster's; theirs is left over, and read nowhere.
        all.retain(|(bucket, key, _)| bucket != "meta" || key != b"confState");
        all
    };
    assert_eq!(rows(&ours), rows(&theirs));
}

#[test]
fn what_we_restore_starts_in_the_original() {
    let Some(saved) = Saved::make() else { return };
    let peer = peer();
    let data = saved.restore(ours(), &saved.snapshot, "restored", &peer, &[]);
    saved.serves(&saved.oracle.join("etcd"), &data, &peer);
    // Once more on the defragmented folder: the new key is one more.
    utl(&["defrag", "--data-dir", s(&data)]).ok();
    let server = Server::start(&saved.oracle.join("etcd"), &saved.oracle, &data, &peer);
    assert!(server.ctl(&["get", "new"]).contains("x"));
}

#[test]
fn a_bumped_revision_is_compacted_in_the_original() {
    let Some(saved) = Saved::make() else { return };
    let peer = peer();
    let bump = ["--bump-revision", "100000", "--mark-compacted"];
    let data = saved.restore(ours(), &saved.snapshot, "bumped", &peer, &bump);
    let server = Server::start(&saved.oracle.join("etcd"), &saved.oracle, &data, &peer);
    let header = server.ctl(&["get", "leased", "-w", "json"]);
    let expected = saved.revision.parse::<i64>().expect("a number") + 100_000;
    assert_eq!(number_after(&header, "\"revision\":"), expected.to_string());
    saved.same(&server);
}

#[test]
fn what_we_restore_starts_in_our_server() {
    let Some(saved) = Saved::make() else { return };
    let Some(etcd) = our_etcd() else { return };
    let peer = peer();
    let data = saved.restore(ours(), &saved.snapshot, "restored", &peer, &[]);
    saved.serves(&etcd, &data, &peer);
    let peer = self::peer();
    let bump = ["--bump-revision", "1000", "--mark-compacted"];
    let data = saved.restore(ours(), &saved.snapshot, "bumped", &peer, &bump);
    let server = Server::start(&etcd, &saved.oracle, &data, &peer);
    saved.same(&server);
    assert!(!server.log().contains("panicked"), "{}", server.log());
}

#[test]
fn the_originals_tool_restores_our_servers_database() {
    let Some(oracle) = oracle() else { return };
    let Some(etcd) = our_etcd() else { return };
    let saved = Saved::by(&etcd, oracle);
    let etcdutl = saved.oracle.join("etcdutl");
    // What our server sent, hash and all, with both tools.
    let peer_a = peer();
    let data = saved.restore(&etcdutl, &saved.snapshot, "streamed", &peer_a, &[]);
    drop(Server::start(&etcd, &saved.oracle, &data, &peer_a));
    let theirs = run(
        &etcdutl,
        &["snapshot", "status", s(&saved.snapshot), "-w", "json"],
    )
    .ok();
    let ours = utl(&["snapshot", "status", s(&saved.snapshot), "-w", "json"]).ok();
    for field in ["\"hash\":", "\"revision\":", "\"totalSize\":"] {
        assert_eq!(
            number_after(&ours, field),
            number_after(&theirs, field),
            "{field}"
        );
    }
    // The file as it lies after a kill.
    let copy = saved.path("copy.db");
    let copied = Command::new("cp")
        .args([&saved.data.join("member/snap/db"), &copy])
        .status();
    assert!(copied.expect("cp").success());
    let peer_b = peer();
    saved.restore(&etcdutl, &copy, "copied", &peer_b, &["--skip-hash-check"]);
}
