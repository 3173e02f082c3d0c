//! What the server says to bad flags, bad data and taken resources: one line that names the thing, a
//! status other than 0, and nothing changed on disk.

use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use ferrite_testkit::{
    Cluster, Outcome, PATIENCE, Ports, Random, Tree, dump, eventually, our_program, run, soak,
};

use crate::{beside_others, get, put};

const SOON: Duration = Duration::from_secs(15);

/// Flags of a member alone on free ports, but for those given (which come last and win).
fn arguments(dir: &Path, ports: &mut Ports, more: &[&str]) -> Vec<String> {
    let [client, peer] =
        [ports.take(), ports.take()].map(|port| format!("http://127.0.0.1:{port}"));
    let mut arguments = vec![
        "--name=m0".to_owned(),
        format!("--data-dir={}", dir.display()),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=m0={peer}"),
    ];
    for flag in more {
        let name = flag.split('=').next().unwrap_or(flag);
        arguments.retain(|argument| argument.split('=').next() != Some(name));
        arguments.push((*flag).to_owned());
    }
    arguments
}

/// Asserts that the server ended by itself, not well and not by a panic, and that exactly one line
/// of warning or worse names all of these.
fn refused(outcome: &Outcome, code: Option<i32>, names: &[&str]) {
    let text = outcome.text();
    let status = outcome
        .status
        .unwrap_or_else(|| panic!("it keeps running: {text}"));
    assert!(!status.success(), "{text}");
    assert!(
        status.code().is_some(),
        "it died by a signal ({status}): {text}"
    );
    if code.is_some() {
        assert_eq!(status.code(), code, "{text}");
    }
    assert!(!text.contains("panicked at"), "{text}");
    let naming = text
        .lines()
        .filter(|line| {
            !line.contains("\"level\":\"info\"") && names.iter().all(|name| line.contains(name))
        })
        .count();
    assert!(naming >= 1, "no line of warning names {names:?}: {text}");
}

#[test]
fn bad_flags() {
    let ports = &mut Ports::default();
    let dir = tempfile_dir();
    let data = dir.path().join("data");
    let etcd = our_program("etcd");
    let cases: &[(&str, Option<i32>, &[&str])] = &[
        (
            "--no-such-flag=1",
            Some(2),
            &["flag provided but not defined: -no-such-flag"],
        ),
        (
            "--heartbeat-interval=often",
            Some(2),
            &["often", "heartbeat-interval"],
        ),
        (
            "--listen-client-urls=127.0.0.1:2379",
            None,
            &["127.0.0.1:2379", "listen-client-urls"],
        ),
        (
            "--listen-client-urls=ftp://127.0.0.1:2379",
            None,
            &["ftp://127.0.0.1:2379"],
        ),
        (
            "--listen-peer-urls=http://127.0.0.1",
            None,
            &["http://127.0.0.1", "listen-peer-urls"],
        ),
        (
            "--listen-peer-urls=http://127.0.0.1:99999999",
            None,
            &["99999999"],
        ),
        (
            "--listen-client-urls=http://127.0.0.1:99999",
            Some(1),
            &["listen tcp: address 99999: invalid port"],
        ),
        (
            "--cors=",
            Some(2),
            &["invalid value \"\" for flag -cors: URL scheme must be"],
        ),
        ("--initial-cluster=nonsense", None, &["initial cluster"]),
        (
            "--initial-cluster=other=http://127.0.0.1:2380",
            None,
            &["m0", "initial cluster"],
        ),
        (
            "--initial-cluster-state=odd",
            None,
            &["odd", "initial-cluster-state"],
        ),
        (
            "--election-timeout=100",
            None,
            &["election-timeout", "heartbeat-interval"],
        ),
        ("--log-level=loud", None, &["loud"]),
    ];
    for (flag, code, names) in cases {
        let outcome = run(&etcd, &arguments(&data, ports, &[flag]), SOON);
        eprintln!("{flag}: {:?}: {}", outcome.status, first_line(&outcome));
        refused(&outcome, *code, names);
        let tree = Tree::of(&data);
        assert_eq!(
            tree,
            Tree::of(Path::new("/nonexistent")),
            "{flag}: left something on disk"
        );
    }
    eprintln!("{} bad flags refused", cases.len());
}

fn first_line(outcome: &Outcome) -> String {
    let text = outcome.text();
    let mut lines = text
        .lines()
        .filter(|line| !line.contains("\"level\":\"info\""));
    lines.next().unwrap_or_default().chars().take(300).collect()
}

fn tempfile_dir() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder can be made")
}

#[test]
fn a_taken_port_and_a_file_in_place_of_the_folder() {
    let ports = &mut Ports::default();
    let dir = tempfile_dir();
    let etcd = our_program("etcd");
    for flag in ["--listen-client-urls", "--listen-peer-urls"] {
        let port = ports.take();
        let _held = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let data = dir.path().join("data");
        let given = format!("{flag}=http://127.0.0.1:{port}");
        let outcome = run(&etcd, &arguments(&data, ports, &[&given]), SOON);
        eprintln!(
            "{flag} taken: {:?}: {}",
            outcome.status,
            first_line(&outcome)
        );
        refused(
            &outcome,
            None,
            &[&port.to_string(), "address already in use"],
        );
        assert!(
            !data.join("member").exists(),
            "a member was made though it cannot listen"
        );
    }
    let file = dir.path().join("file");
    std::fs::write(&file, "not a folder").unwrap();
    let outcome = run(&etcd, &arguments(&file, ports, &[]), SOON);
    eprintln!(
        "file for a folder: {:?}: {}",
        outcome.status,
        first_line(&outcome)
    );
    refused(&outcome, None, &[file.to_str().unwrap()]);
    assert_eq!(std::fs::read(&file).unwrap(), b"not a folder");
}

/// Runs a server on a damaged copy of a folder.
fn on_damaged(cluster: &Cluster, name: &str, damage: impl FnOnce(&Path)) -> Outcome {
    let copy = cluster.scratch().join(name);
    Tree::copy(cluster.member(0).data_dir(), &copy);
    damage(&copy);
    let before = Tree::of(&copy);
    let outcome = run(
        &our_program("etcd"),
        &arguments(&copy, &mut Ports::default(), &[]),
        SOON,
    );
    eprintln!("{name}: {:?}: {}", outcome.status, first_line(&outcome));
    if outcome.status.is_some() {
        assert_eq!(before, Tree::of(&copy), "{name}: the folder was changed");
    }
    outcome
}

fn flip(path: &Path, at: usize, bytes: usize) {
    let mut content = std::fs::read(path).unwrap();
    for byte in &mut content[at..at + bytes] {
        *byte ^= 0xff;
    }
    std::fs::write(path, content).unwrap();
}

fn first_segment(dir: &Path) -> std::path::PathBuf {
    let mut segments: Vec<_> = std::fs::read_dir(dir.join("member/wal"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "wal"))
        .collect();
    segments.sort();
    segments.swap_remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_data_is_named_and_left_as_it_is() {
    let _turn = beside_others().await;
    // With a snapshot, without which an empty database could be filled again from the log.
    let cluster = Cluster::builder()
        .snapshot_count(100)
        .catchup_entries(10)
        .start()
        .await;
    let client = cluster.client(0);
    for n in 0..300 {
        put(&client, &format!("key{n}"), &"v".repeat(100)).await;
    }
    cluster.member(0).terminate().await;
    let db = |dir: &Path| dir.join("member/snap/db");

    let outcome = on_damaged(&cluster, "wal-bit", |dir| {
        flip(&first_segment(dir), 20_000, 1)
    });
    refused(&outcome, None, &["wal"]);
    let outcome = on_damaged(&cluster, "wal-gone", |dir| {
        std::fs::remove_dir_all(dir.join("member/wal")).unwrap();
    });
    refused(&outcome, None, &["wal"]);
    let outcome = on_damaged(&cluster, "db-missing", |dir| {
        std::fs::remove_file(db(dir)).unwrap()
    });
    refused(&outcome, None, &["db"]);
    let outcome = on_damaged(&cluster, "db-empty", |dir| {
        std::fs::write(db(dir), "").unwrap()
    });
    refused(&outcome, None, &["db"]);
    let outcome = on_damaged(&cluster, "db-text", |dir| {
        std::fs::write(db(dir), "text ".repeat(10_000)).unwrap()
    });
    refused(&outcome, None, &["db"]);
    // Both metas: each begins after a page header of 16 bytes.
    let outcome = on_damaged(&cluster, "db-metas", |dir| {
        flip(&db(dir), 16 + 8, 8);
        flip(&db(dir), 4096 + 16 + 8, 8);
    });
    refused(&outcome, None, &["db"]);
    // Headers of all pages but the metas.
    let outcome = on_damaged(&cluster, "db-pages", |dir| {
        let pages = std::fs::metadata(db(dir)).unwrap().len() / 4096;
        for page in 2..pages {
            flip(&db(dir), usize::try_from(page * 4096).unwrap(), 16);
        }
    });
    refused(&outcome, None, &["db"]);
    let outcome = on_damaged(&cluster, "db-cut", |dir| {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(db(dir))
            .unwrap();
        file.set_len(3 * 4096).unwrap();
    });
    refused(&outcome, None, &["db"]);
    // One damaged meta is what the other is for.
    cluster.start_all().await;
    assert!(get(&client, "key0").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_damaged_meta_of_two_is_survived() {
    let _turn = beside_others().await;
    for meta in 0..2 {
        let cluster = Cluster::builder().start().await;
        let client = cluster.client(0);
        for n in 0..50 {
            put(&client, &format!("key{n}"), "v").await;
        }
        cluster.member(0).kill9();
        flip(
            &cluster.member(0).data_dir().join("member/snap/db"),
            meta * 4096 + 16 + 40,
            8,
        );
        cluster.start_all().await;
        for n in 0..50 {
            assert_eq!(get(&client, &format!("key{n}")).await.as_deref(), Some("v"));
        }
    }
}

/// A second process on the same folder says so and waits; it takes over when the first is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_folder_held_by_another_process_is_waited_for() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().start().await;
    let client = cluster.client(0);
    put(&client, "k", "v").await;
    let data = cluster.member(0).data_dir();
    let outcome = run(
        &our_program("etcd"),
        &arguments(data, &mut Ports::default(), &[]),
        Duration::from_secs(13),
    );
    eprintln!(
        "held folder: {:?}: {}",
        outcome.status,
        first_line(&outcome)
    );
    assert!(
        outcome.status.is_none(),
        "it ended instead of waiting: {}",
        outcome.text()
    );
    assert!(
        outcome.text().contains("flocked by another process"),
        "it does not say what it waits for: {}",
        outcome.text()
    );
    // The first never noticed.
    put(&client, "k", "w").await;
    cluster.member(0).kill9();
    cluster.start_all().await;
    assert_eq!(get(&client, "k").await.as_deref(), Some("w"));
}

/// Bytes flipped anywhere in the log or the database: the server may refuse, or serve when it cannot
/// tell; it never panics, dies by a signal, or hangs before saying either.
#[tokio::test(flavor = "multi_thread")]
async fn random_damage_is_refused_or_survived() {
    let _turn = beside_others().await;
    let mut random = Random::announced("random damage");
    let cluster = Cluster::builder()
        .snapshot_count(100)
        .catchup_entries(10)
        .start()
        .await;
    let client = cluster.client(0);
    for n in 0..300 {
        put(&client, &format!("key{n}"), &"v".repeat(100)).await;
    }
    cluster.member(0).kill9();
    let (mut refusals, mut served) = (0, 0);
    let start = Instant::now();
    while start.elapsed() < soak(6) {
        let damaged = Cluster::builder()
            .data_from(0, cluster.member(0).data_dir())
            .build();
        let member = damaged.member(0);
        let file = if random.below(2) == 0 {
            member.data_dir().join("member/snap/db")
        } else {
            first_segment(member.data_dir())
        };
        let length = std::fs::metadata(&file).unwrap().len();
        // Segments are filled with zeros ahead: what matters is at the front.
        let at = usize::try_from(random.below(length.min(100_000) - 8)).unwrap();
        let bytes = usize::try_from(1 + random.below(8)).unwrap();
        flip(&file, at, bytes);
        let what = format!("{bytes} bytes at {at} of {}", file.display());
        member.start();
        let status = eventually(&what, PATIENCE, async || match member.exited() {
            Some(status) => Some(Some(status)),
            None => member
                .log_contains("ready to serve client requests")
                .then_some(None),
        })
        .await;
        assert!(
            !member.log_contains("panicked at"),
            "{what}: {}",
            member.log()
        );
        match status {
            Some(status) => {
                assert_eq!(status.code(), Some(1), "{what}: {}", member.log());
                refusals += 1;
            }
            None => {
                // Whatever it serves, reading all of it does not bring it down.
                let _ = dump(&damaged.client(0), 0, true, 100).await;
                assert!(
                    !member.log_contains("panicked at"),
                    "{what}: {}",
                    member.log()
                );
                served += 1;
            }
        }
    }
    eprintln!("{refusals} damaged folders refused, {served} served");
    assert!(refusals > 0);
}

/// A log cut off, or followed by rubbish, at its very end is what a crash leaves: it is mended.
#[tokio::test(flavor = "multi_thread")]
async fn a_torn_end_of_the_log_is_mended() {
    let _turn = beside_others().await;
    for torn in [4, 11, 40] {
        let cluster = Cluster::builder().start().await;
        let client = cluster.client(0);
        for n in 0..20 {
            put(&client, &format!("key{n}"), "v").await;
        }
        cluster.member(0).kill9();
        let segment = first_segment(cluster.member(0).data_dir());
        let content = std::fs::read(&segment).unwrap();
        let end = content.iter().rposition(|byte| *byte != 0).unwrap() + 1;
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(&segment)
            .unwrap();
        file.set_len(u64::try_from(end - torn).unwrap()).unwrap();
        cluster.start_all().await;
        // What was torn off is the last write, which a real crash would not have acknowledged.
        for n in 0..19 {
            assert_eq!(get(&client, &format!("key{n}")).await.as_deref(), Some("v"));
        }
        put(&client, "after", "v").await;
    }
}
