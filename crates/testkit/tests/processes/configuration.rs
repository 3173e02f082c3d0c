//! Where settings come from, who wins, what is said of those that cannot be, and that a setting does
//! what it says.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ferrite_testkit::{
    Cluster, Kind, Member, PATIENCE, Ports, Tree, eventually, oracle, our_program, pb, run,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::{alone, beside_others, get, put};
use Kind::{Etcd351, Ferrite};

fn folder() -> TempDir {
    tempfile::tempdir().expect("a temporary folder can be made")
}

/// A file for a member, with keys that only older versions know, nothing after some keys, and other
/// forms of the same values.
fn file_for(member: &Member) -> String {
    format!(
        "# a comment
name: 'filed'
data-dir: {data}
wal-dir:
snapshot-count: 10000
heartbeat-interval: 0x64
election-timeout: 1000
quota-backend-bytes: 0
listen-peer-urls: {peer}
listen-client-urls: {client}
max-wals: 5
cors:
initial-advertise-peer-urls: {peer}
advertise-client-urls: {client}
discovery:
discovery-fallback: 'proxy'
discovery-proxy:
discovery-srv:
initial-cluster: filed={peer}
initial-cluster-token: 'from-a-file'
initial-cluster-state: 'new'
strict-reconfig-check: false
proxy: 'off'
proxy-failure-wait: 5000
pre-vote: yes
client-transport-security:
  cert-file:
  client-cert-auth: false
  auto-tls: off
peer-transport-security:
  auto-tls: false
  allowed-cn:
  allowed-hostname:
self-signed-cert-validity: 1
log-level: debug
logger: zap
log-outputs: [stderr]
cipher-suites: [
  TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
  TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384
]
auth-token-ttl: 300
watch-progress-notify-interval: 600000000000
",
        data = member.data_dir().display(),
        peer = member.peer_url(),
        client = member.endpoint(),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_configures_ours_and_the_original_alike() {
    let _turn = beside_others().await;
    let mut kinds = vec![Ferrite];
    if oracle().is_some() {
        kinds.push(Etcd351);
    }
    for kind in kinds {
        let dir = folder();
        let path = dir.path().join("etcd.conf.yml");
        // Everything else on the command line is passed over, good or not.
        let cluster = Cluster::builder()
            .kinds(&[kind])
            .extra_args(&[
                &format!("--config-file={}", path.display()),
                "--initial-cluster-token=unused",
                "--election-timeout=1",
            ])
            .build();
        let member = cluster.member(0);
        std::fs::write(&path, file_for(member)).expect("a file");
        member.start();
        member.ready(PATIENCE).await;
        let client = cluster.client(0);
        put(&client, "k", "v").await;
        let members = client
            .cluster()
            .member_list(pb::MemberListRequest::default())
            .await
            .expect("members")
            .into_inner()
            .members;
        assert_eq!(members[0].name, "filed", "{kind:?}");
        for text in [
            "loaded server configuration, other configuration command line flags and environment variables will be ignored if provided",
            "\"initial-cluster-token\":\"from-a-file\"",
        ] {
            assert!(member.log_contains(text), "{kind:?}: {text}");
        }
    }
}

/// What the program says in the line about flags, or bare; and how it ends.
fn refusal(program: &Path, arguments: &[String]) -> (Option<i32>, String) {
    let outcome = run(program, arguments, Duration::from_secs(30));
    let text = outcome.text();
    let logged = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .find(|line| line["msg"] == "failed to verify flags")
        .and_then(|line| line["error"].as_str().map(str::to_owned));
    let bare = || {
        let mut lines = text.lines().filter(|line| !line.starts_with('{'));
        lines.next().unwrap_or_default().to_owned()
    };
    (outcome.code(), logged.unwrap_or_else(bare))
}

#[test]
fn bad_files_are_refused_in_the_originals_words() {
    let dir = folder();
    let path = dir.path().join("etcd.yml");
    let arguments = vec![format!("--config-file={}", path.display())];
    let data = format!("data-dir: {}\n", dir.path().join("data").display());
    let words = |program: &Path| -> Vec<(Option<i32>, String)> {
        [
            "heartbeat-interval: abc",
            "heartbeat-interval: -5",
            "heartbeat-interval: 1.5",
            "election-timeout: 010",
            "Heartbeat-Interval: abc",
            "pre-vote: 'yes'",
            "name: 123",
            "name: {a: b}",
            "log-outputs: stderr",
            "log-outputs: [stdout, default]",
            "backend-batch-interval: []",
            "peer-transport-security: 5",
            "client-transport-security: [a]",
            "peer-transport-security: {cert-file: [a]}",
            "initial-cluster-state: odd",
            "listen-peer-urls: http://example.com:1",
            "listen-client-urls: foo",
            "listen-client-urls: http://a",
            "initial-advertise-peer-urls: ftp://a:1",
            "{\"name\": \"j\", \"heartbeat-interval\": \"100\"}",
        ]
        .iter()
        .map(|text| {
            let braces = text.starts_with('{');
            let text = if braces {
                (*text).to_owned()
            } else {
                format!("{data}{text}\n")
            };
            std::fs::write(&path, text).expect("a file");
            refusal(program, &arguments)
        })
        .collect()
    };
    let ours = words(&our_program("etcd"));
    assert!(
        ours.iter()
            .all(|(code, text)| *code == Some(1) && !text.is_empty()),
        "{ours:#?}"
    );
    if let Some(dir) = oracle() {
        let theirs = words(&dir.join("etcd"));
        // Ours say which file it is.
        let place = format!(" (in {})", path.display());
        assert!(ours[0].1.ends_with(&place), "{:?}", ours[0]);
        let same: Vec<(Option<i32>, String)> = ours
            .iter()
            .map(|(code, text)| (*code, text.replace(&place, "")))
            .collect();
        assert_eq!(same, theirs);
    }
    for (text, words) in [
        ("name: [1\n", "error converting YAML to JSON: yaml: line "),
        ("feature-gates: X=true", "unrecognized feature gate: X"),
        (
            "peer-transport-security:",
            "invalid peer-transport-security",
        ),
        (
            "peer-transport-security: {allowed-hostname: 5}",
            "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal number into Go struct field securityConfig.peer-transport-security.allowed-hostname of type []string",
        ),
        (
            "cors: foo",
            "invalid value \"foo\" for cors: URL scheme must be http, https, unix, or unixs: foo",
        ),
        (
            "backend-batch-limit: 1.5",
            "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal number 1.5 into Go struct field configYAML.backend-batch-limit of type ",
        ),
    ] {
        std::fs::write(&path, text).expect("a file");
        let (code, told) = refusal(&our_program("etcd"), &arguments);
        assert!(code == Some(1) && told.starts_with(words), "{text}: {told}");
    }
    let (code, told) = refusal(&our_program("etcd"), &["--config-file=/no/file".to_owned()]);
    assert_eq!(code, Some(1));
    assert_eq!(told, "open /no/file: no such file or directory");
    assert_eq!(
        Tree::of(&dir.path().join("data")),
        Tree::of(Path::new("/nonexistent")),
        "something was left on disk"
    );
}

/// Runs with variables, and nothing else of that name.
fn with_variables(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(our_program("etcd"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("ETCD") {
            command.env_remove(name);
        }
    }
    let output = command
        .args(arguments)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("it runs");
    let both = [output.stdout, output.stderr].concat();
    (
        output.status.code(),
        String::from_utf8_lossy(&both).into_owned(),
    )
}

#[test]
fn variables_are_told_of_and_do_not_contradict_flags() {
    // Ends soon, whatever the variables say.
    let end = "--heartbeat-interval=0";
    let (code, text) = with_variables(
        &[end],
        &[
            ("ETCD_NAME", "a"),
            ("ETCD_VERSION", "v3"),
            ("ETCD_BOGUS", "1"),
        ],
    );
    assert_eq!(code, Some(1));
    for line in [
        r#""msg":"recognized and used environment variable","variable-name":"ETCD_NAME","variable-value":"a""#,
        r#""msg":"unrecognized environment variable","environment-variable":"ETCD_BOGUS=1""#,
        r#""msg":"cannot set special environment variable","key":"ETCD_VERSION","value":"v3""#,
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    let (code, text) = with_variables(&["--name=b"], &[("ETCD_NAME", "a")]);
    assert_eq!(code, Some(1));
    assert!(
        text.contains(r#"{"level":"fatal","#)
            && text.contains(r#""msg":"conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag))","environment-variable":"ETCD_NAME""#),
        "{text}"
    );
    let (code, text) = with_variables(&[], &[("ETCD_ELECTION_TIMEOUT", "soon")]);
    assert_eq!(code, Some(1));
    assert!(
        text.contains(r#""error":"invalid value \"soon\" for ETCD_ELECTION_TIMEOUT: parse error""#),
        "{text}"
    );
}

#[test]
fn the_version_old_flags_and_those_that_are_gone() {
    let (code, text) = with_variables(&["--version"], &[]);
    assert_eq!(code, Some(0));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "etcd Version: 3.7.1");
    for (line, start) in lines[1..4]
        .iter()
        .zip(["Git SHA: ", "Go Version: ", "Go OS/Arch: "])
    {
        assert!(
            line.starts_with(start) && line.len() > start.len(),
            "{text}"
        );
    }
    // They take no word after them; what ends this is the flag behind.
    let old = [
        "--cluster-active-size=1",
        "--cluster-remove-delay",
        "--cluster-sync-interval",
        "--config",
        "--force",
        "--max-result-buffer",
        "--max-retry-attempts",
        "--peer-heartbeat-interval=x",
        "--peer-election-timeout",
        "--retry-interval",
        "--snapshot=false",
        "-v",
        "-vv",
        "--test.coverprofile",
        "--test.outputdir",
        "--heartbeat-interval=0",
    ];
    let (code, text) = with_variables(&old, &[]);
    assert_eq!(code, Some(1));
    assert!(text.contains("--heartbeat-interval must be >0"), "{text}");
    for gone in [
        "--discovery=x",
        "--proxy=on",
        "--enable-v2",
        "--log-package-levels=x",
        "--experimental-initial-corrupt-check",
    ] {
        let (code, text) = with_variables(&[gone], &[]);
        assert_eq!(code, Some(2), "{gone}");
        assert!(text.contains("flag provided but not defined: -"), "{text}");
        assert!(text.contains("Usage:"), "{text}");
    }
    let (code, text) = with_variables(&["--v2-deprecation=not-yet"], &[]);
    assert_eq!(code, Some(2));
    assert!(
        text.contains(
            r#"invalid value "not-yet" for flag -v2-deprecation: invalid value "not-yet""#
        ),
        "{text}"
    );
    let (_, text) = with_variables(
        &[
            "--v2-deprecation=gone",
            "--max-snapshots=3",
            "--election-timeout=60000",
        ],
        &[],
    );
    assert!(
        text.contains("--election-timeout[60000ms] is too long"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn deprecated_flags_warn() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder()
        .extra_args(&[
            "--v2-deprecation=gone",
            "--max-snapshots=3",
            "--raft-read-timeout=1s",
            "--raft-write-timeout=1s",
            "--backend-bbolt-freelist-type=array",
        ])
        .start()
        .await;
    let member = cluster.member(0);
    for text in [
        "--v2-deprecation is deprecated and scheduled for removal in v3.8. The default value is enforced, ignoring user input",
        "--max-snapshots is deprecated in 3.6 and will be decommissioned in 3.8.",
        "raft-read-timeout increased to minimum value: 5s",
        "raft-write-timeout increased to minimum value: 5s",
        "\"v2-deprecation\":\"write-only\"",
    ] {
        assert!(member.log_contains(text), "{text}");
    }
    put(&cluster.client(0), "k", "v").await;
}

#[test]
fn a_place_in_the_cluster_that_cannot_be_is_refused_in_the_originals_words() {
    let dir = folder();
    let ports = &mut Ports::default();
    let urls: Vec<String> = (0..3)
        .map(|_| format!("http://127.0.0.1:{}", ports.take()))
        .collect();
    let [client, peer, other] = &urls[..] else {
        panic!("three")
    };
    let cases = [
        vec![format!("--initial-cluster=b={peer}")],
        vec![format!("--initial-cluster=a={other}")],
        vec![format!("--initial-cluster=a={peer},b={peer}")],
        vec![
            format!("--initial-cluster=a={peer},b={other}"),
            "--initial-cluster-state=existing".to_owned(),
        ],
    ];
    let told = |program: &Path| -> Vec<(Option<i32>, String)> {
        cases
            .iter()
            .map(|case| {
                let mut arguments = vec![
                    "--name=a".to_owned(),
                    format!("--data-dir={}", dir.path().join("data").display()),
                    format!("--listen-client-urls={client}"),
                    format!("--advertise-client-urls={client}"),
                    format!("--listen-peer-urls={peer}"),
                    format!("--initial-advertise-peer-urls={peer}"),
                ];
                arguments.extend(case.iter().cloned());
                let outcome = run(program, &arguments, Duration::from_secs(30));
                let text = outcome.text();
                let _ = std::fs::remove_dir_all(dir.path().join("data"));
                let error = text
                    .lines()
                    .filter_map(|line| serde_json::from_str::<Value>(line).ok())
                    .rfind(|line| line["level"] == "fatal" || line["msg"] == "failed to start")
                    .and_then(|line| line["error"].as_str().map(str::to_owned));
                let error = error.unwrap_or(text);
                // How names were resolved is told in other words since.
                let error = error.split(" (").next().unwrap_or_default();
                (outcome.code(), error.to_owned())
            })
            .collect()
    };
    let ours = told(&our_program("etcd"));
    let [alone, elsewhere, twice, nobody] = &ours[..] else {
        panic!("four");
    };
    for (told, words) in [
        (alone, "couldn't find local name \"a\" in the initial cluster configuration".to_owned()),
        (elsewhere, format!("--initial-cluster has a={other} but missing from --initial-advertise-peer-urls={peer}")),
        (twice, format!("initial cluster a={peer},b={peer} has duplicate url")),
        (nobody, "cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs".to_owned()),
    ] {
        assert_eq!(*told, (Some(1), words));
    }
    if let Some(dir) = oracle() {
        assert_eq!(ours, told(&dir.join("etcd")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_lies_where_it_is_told_to() {
    let _turn = beside_others().await;
    let dir = folder();
    let wal = dir.path().join("wal");
    // Ours, or the original's first.
    let first = match oracle() {
        Some(_) => Etcd351,
        None => Ferrite,
    };
    let cluster = Cluster::builder()
        .kinds(&[first])
        .extra_args(&[&format!("--wal-dir={}", wal.display())])
        .start()
        .await;
    let member = cluster.member(0);
    put(&cluster.client(0), "k", "v").await;
    for _ in 0..2 {
        member.kill9();
        assert!(!member.data_dir().join("member/wal").exists());
        let files = std::fs::read_dir(&wal).expect("the folder is there");
        let files: Vec<String> = files
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        let first = "0000000000000000-0000000000000000.wal";
        assert!(files.iter().any(|name| name == first), "{files:?}");
        member.start_as(Ferrite);
        member.ready(PATIENCE).await;
        assert_eq!(get(&cluster.client(0), "k").await.as_deref(), Some("v"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_requests_and_learners_are_those_given() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder()
        .extra_args(&[
            "--max-txn-ops=2",
            "--max-request-bytes=1000",
            "--max-learners=2",
        ])
        .start()
        .await;
    let client = cluster.client(0);
    let txn = |operations: usize| {
        let one = pb::RequestOp {
            request: Some(pb::request_op::Request::RequestRange(pb::RangeRequest {
                key: "k".into(),
                ..Default::default()
            })),
        };
        pb::TxnRequest {
            success: vec![one; operations],
            ..Default::default()
        }
    };
    client.kv().txn(txn(2)).await.expect("as many as allowed");
    let refused = client.kv().txn(txn(3)).await.expect_err("too many");
    assert_eq!(
        refused.message(),
        "etcdserver: too many operations in txn request"
    );
    put(&client, "k", &"v".repeat(900)).await;
    let large = pb::PutRequest {
        key: "k".into(),
        value: "v".repeat(1000).into(),
        ..Default::default()
    };
    let refused = client.kv().put(large).await.expect_err("too large");
    assert_eq!(refused.message(), "etcdserver: request is too large");
    let add = async |port: u16| {
        let learner = pb::MemberAddRequest {
            peer_urls: vec![format!("http://127.0.0.1:{port}")],
            is_learner: true,
        };
        client.cluster().member_add(learner).await
    };
    let ports = &mut Ports::default();
    for _ in 0..2 {
        add(ports.take()).await.expect("as many as allowed");
    }
    let refused = add(ports.take()).await.expect_err("one too many");
    assert_eq!(
        refused.message(),
        "etcdserver: too many learner members in cluster"
    );
}

/// The database file shows what has been committed to it.
fn in_database(member: &Member, text: &str) -> bool {
    let bytes = std::fs::read(member.data_dir().join("member/snap/db")).unwrap_or_default();
    bytes
        .windows(text.len())
        .any(|window| window == text.as_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_is_committed_as_often_as_asked_for() {
    let _turn = beside_others().await;
    for (interval, limit, soon) in [
        ("1h", "10000", false),
        ("1h", "1", true),
        ("20ms", "10000", true),
    ] {
        let cluster = Cluster::builder()
            .extra_args(&[
                &format!("--backend-batch-interval={interval}"),
                &format!("--backend-batch-limit={limit}"),
            ])
            .start()
            .await;
        let member = cluster.member(0);
        let client = cluster.client(0);
        // What the start itself writes is committed by now, or waits for the hour.
        put(&client, "before", "v").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let key = format!("key-of-{interval}-{limit}");
        put(&client, &key, "v").await;
        if soon {
            eventually(&key, PATIENCE, async || {
                in_database(member, &key).then_some(())
            })
            .await;
        } else {
            // Ten times the default.
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(!in_database(member, &key), "{interval} {limit}");
            member.terminate().await;
            assert!(
                in_database(member, &key),
                "a clean stop leaves nothing behind"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_snapshots_are_kept_as_asked_for() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder()
        .snapshot_count(20)
        .catchup_entries(5)
        .extra_args(&["--max-snapshots=2"])
        .start()
        .await;
    let member = cluster.member(0);
    let client = cluster.client(0);
    let snapshots = || {
        let entries = std::fs::read_dir(member.data_dir().join("member/snap")).expect("there");
        let mut names: Vec<String> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .filter(|name| name.ends_with(".snap"))
            .collect();
        names.sort();
        names
    };
    let seen = std::sync::Mutex::new(std::collections::BTreeSet::new());
    eventually(
        "five snapshots come and all but two go",
        PATIENCE,
        async || {
            put(&client, "k", "v").await;
            let now = snapshots();
            let mut seen = seen.lock().expect("nobody panics with it");
            seen.extend(now.iter().cloned());
            (seen.len() >= 5 && now.len() <= 2).then_some(())
        },
    )
    .await;
    member.kill9();
    member.start();
    member.ready(PATIENCE).await;
    assert_eq!(get(&client, "k").await.as_deref(), Some("v"));
}

/// Followers stand for election only when they have heard nothing for as long as they were told.
#[tokio::test(flavor = "multi_thread")]
async fn elections_take_as_long_as_the_timeout_says() {
    let _turn = alone().await;
    for (heartbeat, election) in [(20, 200), (300, 3000)] {
        let cluster = Cluster::builder()
            .members(3)
            .heartbeat_ms(heartbeat)
            .election_ms(election)
            .start()
            .await;
        let leader = cluster.leader().await;
        put(&cluster.client(leader), "k", "v").await;
        let killed = Instant::now();
        cluster.member(leader).kill9();
        let mut others = (0..3).filter(|index| *index != leader);
        let other = cluster.client(others.next().expect("another"));
        eventually("another leads", PATIENCE, async || {
            let status = other
                .maintenance()
                .status(pb::StatusRequest::default())
                .await;
            let status = status.ok()?.into_inner();
            let old = status.header.as_ref()?;
            (status.leader != 0 && old.raft_term > 2 || status.raft_term > 2).then_some(())
        })
        .await;
        let took = killed.elapsed();
        // The last heartbeat may have come one interval before the end.
        let least = Duration::from_millis(election - heartbeat);
        if election > 1000 {
            assert!(took >= least, "{election}: {took:?}");
        } else {
            assert!(took < Duration::from_secs(2), "{election}: {took:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_more_may_be_refused_for_the_quorums_sake() {
    let _turn = beside_others().await;
    for strict in [true, false] {
        let cluster = Cluster::builder()
            .members(3)
            .extra_args(&[&format!("--strict-reconfig-check={strict}")])
            .start()
            .await;
        cluster.member(2).kill9();
        let client = cluster.client(0);
        let ports = &mut Ports::default();
        let member = pb::MemberAddRequest {
            peer_urls: vec![format!("http://127.0.0.1:{}", ports.take())],
            is_learner: false,
        };
        // Until the loss is noticed there may be other answers.
        eventually(
            "the answer that belongs to the flag",
            PATIENCE,
            async || {
                let answer = client.cluster().member_add(member.clone()).await;
                match (strict, answer) {
                    (true, Err(status)) => {
                        (status.message() == "etcdserver: unhealthy cluster").then_some(())
                    }
                    (true, Ok(_)) => panic!("it was added"),
                    (false, Ok(_)) => Some(()),
                    (false, Err(status)) => {
                        assert_ne!(status.message(), "etcdserver: unhealthy cluster");
                        None
                    }
                }
            },
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn locked_memory_is_locked_or_the_start_refused() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().extra_args(&["--memory-mlock"]).build();
    let member = cluster.member(0);
    member.start();
    let ended = eventually("it serves or ends", PATIENCE, async || {
        match member.exited() {
            Some(status) => Some(Some(status)),
            None => member
                .log_contains("ready to serve client requests")
                .then_some(None),
        }
    })
    .await;
    match ended {
        Some(status) => {
            assert_eq!(status.code(), Some(1));
            assert!(member.log_contains("--memory-mlock: "), "{}", member.log());
            assert!(
                member.log_contains("LimitMEMLOCK=infinity"),
                "{}",
                member.log()
            );
        }
        None => {
            let pid = member.pid().expect("it runs");
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a child");
            let locked = status
                .lines()
                .find_map(|line| line.strip_prefix("VmLck:"))
                .map(str::trim);
            assert!(locked.is_some_and(|locked| locked != "0 kB"), "{status}");
            put(&cluster.client(0), "k", "v").await;
        }
    }
}
