//! What a scrape shows: the original's names, and figures that are right.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};

use ferrite_testkit::pb;
use ferrite_testkit::pb::compare::{CompareResult, CompareTarget, TargetUnion};
use ferrite_testkit::pb::request_op::Request as Op;
use ferrite_testkit::pb::watch_request::RequestUnion;
use ferrite_testkit::{Client, Cluster, Kind, Member, PATIENCE, eventually, oracle};
use tokio_stream::wrappers::ReceiverStream;

use crate::errors::wire::call;
use crate::{beside_others, get, put};

/// An answer over HTTP/1.0, so that nobody cuts it into chunks: its head, and its body.
fn ask(member: &Member, path: &str, headers: &str) -> (String, Vec<u8>) {
    let host = member.endpoint().trim_start_matches("http://");
    let mut stream = std::net::TcpStream::connect(host).expect("the member listens");
    stream
        .set_read_timeout(Some(PATIENCE))
        .expect("a limit can be set");
    let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n{headers}\r\n");
    stream
        .write_all(request.as_bytes())
        .expect("the member takes a request");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the member answers");
    let at = answer
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .expect("an answer has a head");
    let head = String::from_utf8_lossy(&answer[..at]).into_owned();
    (head, answer.split_off(at + 4))
}

/// One family of a page.
#[derive(Debug, Default, PartialEq)]
struct Family {
    help: String,
    kind: String,
    /// Values by labels, as they are written; those of a histogram by the end of its name as well.
    samples: BTreeMap<String, f64>,
}

impl Family {
    /// Names of labels.
    fn labels(&self) -> BTreeSet<String> {
        self.samples
            .keys()
            .flat_map(|key| {
                key.split('"')
                    .step_by(2)
                    .map(str::to_owned)
                    .collect::<Vec<_>>()
            })
            .filter_map(|part| {
                let part = part.trim_end_matches('=').rsplit(['{', ',']).next()?;
                (!part.is_empty() && !part.ends_with('}')).then(|| part.to_owned())
            })
            .filter(|name| !name.starts_with("_"))
            .collect()
    }

    /// Bounds of buckets, as they are written.
    fn bounds(&self) -> BTreeSet<&str> {
        self.samples
            .keys()
            .filter_map(|key| key.split("le=\"").nth(1)?.split('"').next())
            .collect()
    }
}

/// A page, by family.
#[derive(Debug, Default)]
struct Page(BTreeMap<String, Family>);

impl Page {
    fn read(text: &str) -> Page {
        let mut page = Page::default();
        let mut current = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect("a name and its help");
                let family = page.0.entry(name.to_owned()).or_default();
                assert!(family.help.is_empty(), "{name} comes twice");
                family.help = help.to_owned();
                current = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and its type");
                assert_eq!(name, current, "help comes before the type");
                page.0.entry(name.to_owned()).or_default().kind = kind.to_owned();
            } else {
                let (key, value) = line.rsplit_once(' ').expect("a sample and its value");
                let key = key.strip_prefix(&current).expect("a sample of this family");
                let value = value
                    .parse()
                    .unwrap_or_else(|_| panic!("{line}: no number"));
                let samples = &mut page.0.entry(current.clone()).or_default().samples;
                assert!(
                    samples.insert(key.to_owned(), value).is_none(),
                    "{line} twice"
                );
            }
        }
        page
    }

    fn of(member: &Member) -> Page {
        let (head, body) = ask(member, "/metrics", "");
        assert!(head.contains(" 200 "), "{head}");
        Page::read(std::str::from_utf8(&body).expect("a page is text"))
    }

    /// A sample, such as `name{label="value"}`; 0 when it is not there.
    fn value(&self, sample: &str) -> f64 {
        self.find(sample).unwrap_or(0.0)
    }

    fn find(&self, sample: &str) -> Option<f64> {
        let at = sample.find('{').unwrap_or(sample.len());
        let (name, labels) = sample.split_at(at);
        for end in ["", "_count", "_sum", "_bucket"] {
            let Some(family) = name.strip_suffix(end).and_then(|name| self.0.get(name)) else {
                continue;
            };
            if let Some(value) = family.samples.get(&format!("{end}{labels}")) {
                return Some(*value);
            }
        }
        None
    }

    /// The sum of a family's samples that have all of these labels.
    fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let Some(family) = self.0.get(name) else {
            return 0.0;
        };
        let fits = |key: &str| labels.iter().all(|label| key.contains(label));
        let fitting = family.samples.iter().filter(|(key, _)| fits(key));
        fitting.map(|(_, value)| value).sum()
    }
}

async fn one(kind: Kind, arguments: &[&str]) -> Cluster {
    Cluster::builder()
        .kinds(&[kind])
        .extra_args(arguments)
        .start()
        .await
}

fn put_request(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    }
}

fn range_op(key: &str) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(Op::RequestRange(pb::RangeRequest {
            key: key.to_owned().into(),
            ..Default::default()
        })),
    }
}

fn compare(key: &str) -> pb::Compare {
    pb::Compare {
        result: CompareResult::Greater as i32,
        target: CompareTarget::Version as i32,
        key: key.to_owned().into(),
        target_union: Some(TargetUnion::Version(0)),
        ..Default::default()
    }
}

/// One request of each kind that is counted somewhere. `step` says what happens next, so that figures can be compared
/// after each.
async fn work(client: &Client, member: &Member, mut step: impl FnMut(&str)) {
    let mut kv = client.kv();
    for n in 0..3 {
        put(client, &format!("k{n}"), "value").await;
    }
    step("puts");
    let previous = pb::PutRequest {
        prev_kv: true,
        ..put_request("k1", "again")
    };
    kv.put(previous).await.expect("a put");
    step("a put that asks for what was");
    let kept = pb::PutRequest {
        ignore_value: true,
        ..put_request("k1", "")
    };
    kv.put(kept).await.expect("a put");
    step("a put that keeps the value");
    get(client, "k1").await;
    let all = pb::RangeRequest {
        key: "k".into(),
        range_end: "l".into(),
        ..Default::default()
    };
    kv.range(all.clone()).await.expect("a range");
    step("ranges");
    let delete = |key: &str| pb::DeleteRangeRequest {
        key: key.to_owned().into(),
        prev_kv: true,
        ..Default::default()
    };
    kv.delete_range(delete("k2")).await.expect("a deletion");
    kv.delete_range(delete("nothing"))
        .await
        .expect("a deletion");
    step("deletions");
    let grant = pb::LeaseGrantRequest { id: 7, ttl: 100 };
    client.lease().lease_grant(grant).await.expect("a lease");
    let leased = pb::PutRequest {
        lease: 7,
        ..put_request("leased", "v")
    };
    kv.put(leased).await.expect("a put");
    step("a lease with a key");
    let (renewals, asked) = tokio::sync::mpsc::channel(1);
    // Before the call: the original answers nothing at all until it is asked something.
    let renewal = pb::LeaseKeepAliveRequest { id: 7 };
    renewals.send(renewal).await.expect("there is room");
    let mut renewed = client
        .lease()
        .lease_keep_alive(ReceiverStream::new(asked))
        .await
        .expect("a stream")
        .into_inner();
    renewed.message().await.expect("an answer").expect("one");
    // The client ends its side, and the member the call.
    drop(renewals);
    assert!(renewed.message().await.expect("an end").is_none());
    let revoke = pb::LeaseRevokeRequest { id: 7 };
    client.lease().lease_revoke(revoke).await.expect("revoked");
    step("a lease that is renewed and revoked");
    let transaction = pb::TxnRequest {
        compare: vec![compare("k1"), compare("k0")],
        success: vec![
            pb::RequestOp {
                request: Some(Op::RequestPut(put_request("k4", "a"))),
            },
            range_op("k1"),
        ],
        ..Default::default()
    };
    kv.txn(transaction).await.expect("a transaction");
    step("a transaction");
    let transaction = pb::TxnRequest {
        compare: vec![compare("k1")],
        success: vec![range_op("k0"), range_op("k1")],
        ..Default::default()
    };
    kv.txn(transaction).await.expect("a transaction");
    step("a transaction that only reads");
    let compaction = pb::CompactionRequest {
        revision: 4,
        physical: true,
    };
    kv.compact(compaction).await.expect("a compaction");
    let old = pb::RangeRequest { revision: 2, ..all };
    kv.range(old).await.expect_err("that is compacted");
    step("a compaction");
    let mut maintenance = client.maintenance();
    let hash = pb::HashKvRequest::default();
    maintenance.hash_kv(hash).await.expect("a hash");
    maintenance.hash(pb::HashRequest {}).await.expect("a hash");
    maintenance
        .defragment(pb::DefragmentRequest {})
        .await
        .expect("a defragmentation");
    let mut copy = maintenance
        .snapshot(pb::SnapshotRequest {})
        .await
        .expect("a snapshot")
        .into_inner();
    while copy.message().await.expect("a piece").is_some() {}
    step("maintenance");
    let role = pb::AuthRoleAddRequest { name: "r".into() };
    client.auth().role_add(role).await.expect("a role");
    let members = pb::MemberListRequest { linearizable: true };
    let mut cluster = client.cluster();
    cluster.member_list(members).await.expect("members");
    let nobody = pb::MemberRemoveRequest { id: 1 };
    cluster.member_remove(nobody).await.expect_err("nobody");
    step("roles and members");
    let (head, _) = ask(member, "/health", "");
    assert!(head.contains(" 200 "), "{head}");
    step("a look at the health");
}

/// Families of the original's 3.5.1 that its 3.7.1 has no more.
const GONE: &[&str] = &[
    "etcd_debugging_mvcc_range_total",
    "go_memstats_gc_cpu_fraction",
    "go_memstats_lookups_total",
];
/// Families of the second store, which no member of 3.6 or later uses.
const SECOND_STORE: &str = "etcd_debugging_store_";
/// Families that came after 3.5.1, [3.6] and [3.7] in the contract, or with later libraries.
const NEW: &[&str] = &[
    "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds",
    "etcd_debugging_server_watch_send_loop_progress_duration_seconds",
    "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds",
    "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds",
    "etcd_disk_wal_write_duration_seconds",
    "etcd_network_known_peers",
    "etcd_server_feature_enabled",
    "etcd_server_range_duration_seconds",
    "etcd_server_request_duration_seconds",
    "go_gc_gogc_percent",
    "go_gc_gomemlimit_bytes",
    "go_sched_gomaxprocs_threads",
    "process_network_receive_bytes_total",
    "process_network_transmit_bytes_total",
];
/// Samples that the same requests make the same.
const SAME: &[&str] = &[
    "etcd_debugging_auth_revision",
    "etcd_debugging_lease_granted_total",
    "etcd_debugging_lease_renewed_total",
    "etcd_debugging_lease_revoked_total",
    "etcd_debugging_lease_ttl_total_count",
    "etcd_debugging_lease_ttl_total_sum",
    "etcd_debugging_mvcc_compact_revision",
    "etcd_debugging_mvcc_current_revision",
    "etcd_debugging_mvcc_db_compaction_keys_total",
    "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds_count",
    "etcd_debugging_mvcc_events_total",
    "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds_count",
    "etcd_debugging_mvcc_keys_total",
    "etcd_debugging_mvcc_pending_events_total",
    "etcd_debugging_mvcc_slow_watcher_total",
    "etcd_debugging_mvcc_total_put_size_in_bytes",
    "etcd_debugging_mvcc_watch_stream_total",
    "etcd_debugging_mvcc_watcher_total",
    "etcd_debugging_server_lease_expired_total",
    "etcd_disk_backend_defrag_duration_seconds_count",
    "etcd_disk_backend_snapshot_duration_seconds_count",
    "etcd_disk_defrag_inflight",
    "etcd_mvcc_delete_total",
    "etcd_mvcc_hash_duration_seconds_count",
    "etcd_mvcc_hash_rev_duration_seconds_count",
    "etcd_mvcc_put_total",
    "etcd_mvcc_range_total",
    "etcd_mvcc_txn_total",
    "etcd_network_client_grpc_received_bytes_total",
    "etcd_server_has_leader",
    "etcd_server_health_failures",
    "etcd_server_health_success",
    "etcd_server_heartbeat_send_failures_total",
    "etcd_server_is_leader",
    "etcd_server_is_learner",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_learner_promote_successes",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_failed_total",
    "etcd_server_proposals_pending",
    "etcd_server_quota_backend_bytes",
    "etcd_server_read_indexes_failed_total",
    "etcd_server_slow_read_indexes_total",
    "etcd_server_snapshot_apply_in_progress_total",
    "os_fd_limit",
    "process_max_fds",
    "promhttp_metric_handler_requests_in_flight",
];
/// Of these the sample's whole family is the same.
const SAME_FAMILIES: &[&str] = &[
    "grpc_server_started_total",
    "grpc_server_handled_total",
    "etcd_server_client_requests_total",
];

/// Families whose figures differ after a step, with both figures.
fn differences(before: [&Page; 2], after: [&Page; 2]) -> Vec<String> {
    // What a member does for itself at its start differs; what the requests add does not.
    let grown = |at: usize, sample: &str| after[at].value(sample) - before[at].value(sample);
    let mut found = Vec::new();
    for sample in SAME {
        let (theirs, ours) = (grown(0, sample), grown(1, sample));
        if theirs != ours {
            found.push(format!("{sample}: theirs grew by {theirs}, ours by {ours}"));
        }
    }
    for name in SAME_FAMILIES {
        let labels = after.iter().filter_map(|page| page.0.get(*name));
        let labels: BTreeSet<&String> = labels.flat_map(|family| family.samples.keys()).collect();
        for label in labels {
            let sample = format!("{name}{label}");
            let (theirs, ours) = (grown(0, &sample), grown(1, &sample));
            if theirs != ours {
                found.push(format!("{sample}: theirs grew by {theirs}, ours by {ours}"));
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_requests_show_the_same_as_in_the_original() {
    let _turn = beside_others().await;
    if oracle().is_none() {
        return;
    }
    let extensive = &["--metrics=extensive"];
    let theirs = one(Kind::Etcd351, extensive).await;
    let ours = one(Kind::Ferrite, extensive).await;
    let mut pages = Vec::new();
    for cluster in [&theirs, &ours] {
        // What a member writes about itself comes first.
        eventually("the cluster's version is decided", PATIENCE, async || {
            let page = Page::of(cluster.member(0));
            (page.sum("etcd_cluster_version", &["3."]) > 0.0).then_some(())
        })
        .await;
        let mut steps = vec![("start".to_owned(), Page::of(cluster.member(0)))];
        let member = cluster.member(0);
        work(&cluster.client(0), member, |step| {
            steps.push((step.to_owned(), Page::of(member)));
        })
        .await;
        pages.push(steps);
    }
    let [theirs, ours] = &pages[..] else {
        panic!("two of them");
    };
    let mut wrong = Vec::new();
    for ((theirs, ours), step) in theirs.windows(2).zip(ours.windows(2)).zip(1..) {
        let before = [&theirs[0].1, &ours[0].1];
        let after = [&theirs[1].1, &ours[1].1];
        for found in differences(before, after) {
            wrong.push(format!("step {step}, {}: {found}", ours[1].0));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let (_, theirs) = theirs.last().expect("steps");
    let (_, ours) = ours.last().expect("steps");
    names_kinds_and_bounds(theirs, ours);
}

/// All that is not a figure.
fn names_kinds_and_bounds(theirs: &Page, ours: &Page) {
    let mut wrong = Vec::new();
    for (name, their) in &theirs.0 {
        let Some(our) = ours.0.get(name) else {
            if !GONE.contains(&name.as_str()) && !name.starts_with(SECOND_STORE) {
                wrong.push(format!("{name} is missing"));
            }
            continue;
        };
        // Go's runtime is not here, and its help says so.
        if our.help != their.help && !name.starts_with("go_") {
            wrong.push(format!(
                "{name}: help {:?} and not {:?}",
                our.help, their.help
            ));
        }
        if our.kind != their.kind {
            wrong.push(format!("{name}: {} and not {}", our.kind, their.kind));
        }
        if our.bounds() != their.bounds() {
            wrong.push(format!(
                "{name}: bounds {:?} and not {:?}",
                our.bounds(),
                their.bounds()
            ));
        }
        if our.labels() != their.labels() {
            wrong.push(format!(
                "{name}: labels {:?} and not {:?}",
                our.labels(),
                their.labels()
            ));
        }
    }
    for name in ours.0.keys() {
        if !theirs.0.contains_key(name) && !NEW.contains(&name.as_str()) {
            wrong.push(format!("{name} is not the original's"));
        }
    }
    for name in NEW {
        if !ours.0.contains_key(*name) {
            wrong.push(format!("{name} of the later releases is missing"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A member's page once it says so.
async fn shows(what: &str, member: &Member, says: impl Fn(&Page) -> bool) -> Page {
    eventually(what, PATIENCE, async || {
        let page = Page::of(member);
        says(&page).then_some(page)
    })
    .await
}

fn watch_request(key: &str, start_revision: i64) -> pb::WatchRequest {
    pb::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(pb::WatchCreateRequest {
            key: key.to_owned().into(),
            start_revision,
            ..Default::default()
        })),
    }
}

/// A watch whose client goes away counts as a cancelled call, and its watchers and events are counted.
#[tokio::test(flavor = "multi_thread")]
async fn watches_are_counted_while_they_live_and_when_they_are_closed() {
    let _turn = beside_others().await;
    let cluster = one(Kind::Ferrite, &[]).await;
    let (client, member) = (cluster.client(0), cluster.member(0));
    const ENDED: &str = "grpc_server_handled_total{grpc_code=\"Canceled\",grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"}";
    const RECEIVED: &str = "grpc_server_msg_received_total{grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"}";
    const SENT: &str = "grpc_server_msg_sent_total{grpc_method=\"Watch\",grpc_service=\"etcdserverpb.Watch\",grpc_type=\"bidi_stream\"}";
    for closed in 0..3 {
        let (requests, receiver) = tokio::sync::mpsc::channel(4);
        for _ in 0..2 {
            let request = watch_request("k", 0);
            requests.send(request).await.expect("there is room");
        }
        let mut watch = client.watch();
        let call = watch.watch(ReceiverStream::new(receiver));
        let mut answers = call.await.expect("a stream").into_inner();
        for _ in 0..2 {
            let created = answers.message().await.expect("an answer").expect("one");
            assert!(created.created && !created.canceled, "{created:?}");
        }
        put(&client, "k", "v").await;
        for _ in 0..2 {
            let answer = answers.message().await.expect("an answer").expect("one");
            assert_eq!(answer.events.len(), 1);
        }
        let page = Page::of(member);
        assert_eq!(page.value("etcd_debugging_mvcc_watcher_total"), 2.0);
        assert_eq!(page.value("etcd_debugging_mvcc_watch_stream_total"), 1.0);
        assert_eq!(page.value("etcd_debugging_mvcc_pending_events_total"), 0.0);
        let events = f64::from(2 * (closed + 1));
        assert_eq!(page.value("etcd_debugging_mvcc_events_total"), events);
        assert_eq!(page.value(ENDED), f64::from(closed), "it is not closed yet");
        drop((requests, answers));
        let page = shows("the watch is over", member, |page| {
            page.value(ENDED) == f64::from(closed + 1)
        })
        .await;
        // Two requests, and the end of them; two watchers, and an event for each.
        assert_eq!(page.value(RECEIVED), f64::from(3 * (closed + 1)));
        assert_eq!(page.value(SENT), f64::from(4 * (closed + 1)));
        shows("no watcher is left", member, |page| {
            page.value("etcd_debugging_mvcc_watcher_total") == 0.0
        })
        .await;
    }
    let page = Page::of(member);
    let timed = "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds_count";
    assert_eq!(page.value(timed), 6.0);
    let timed = "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds_count";
    assert_eq!(page.value(timed), 6.0);
    let failed = page.sum("etcd_network_server_stream_failures_total", &[]);
    assert_eq!(failed, 0.0, "a client that goes away is no failure");
    // What is no message of the stream's is one: its first field is of another kind.
    let number = pb::LeaseKeepAliveRequest { id: 1 };
    let bytes = pb::RangeRequest {
        key: "k".into(),
        ..Default::default()
    };
    const WATCH: &str = "/etcdserverpb.Watch/Watch";
    const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
    let (endpoint, kind) = (member.endpoint(), "application/grpc");
    let refused = [
        call(endpoint, WATCH, kind, None, &number).await.status,
        call(endpoint, KEEP_ALIVE, kind, None, &bytes).await.status,
    ];
    for (code, text) in refused {
        assert_eq!(code, 13, "it is told so: {text:?}");
    }
    for interface in ["watch", "lease-keepalive"] {
        let labels = format!("API=\"{interface}\",Type=\"receive\"");
        shows("the failed stream is counted", member, |page| {
            page.sum("etcd_network_server_stream_failures_total", &[&labels]) == 1.0
        })
        .await;
    }
}

/// Holds up a leader for less than an election takes, until it has said that its heartbeats were late; how many it counts.
async fn late_heartbeats(leader: &Member) -> f64 {
    const LATE: &str = "leader failed to send out heartbeat on time; took too long, leader is overloaded likely from slow disk";
    eventually("heartbeats are late", PATIENCE, async || {
        leader.stop_signal();
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        leader.cont();
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        leader.log_contains(LATE).then_some(())
    })
    .await;
    let counted = |page: &Page| page.value("etcd_server_heartbeat_send_failures_total");
    counted(&shows("they are counted", leader, |page| counted(page) >= 1.0).await)
}

/// Calls by the version that clients name, up to a limit.
#[tokio::test(flavor = "multi_thread")]
async fn calls_are_counted_by_the_version_that_clients_name() {
    let _turn = beside_others().await;
    let cluster = one(Kind::Ferrite, &[]).await;
    let (client, member) = (cluster.client(0), cluster.member(0));
    const NAMED: &str = "etcd_server_client_requests_total";
    let call = async |version: &str| {
        let mut request = tonic::Request::new(put_request("k", "v"));
        let version = version.parse().expect("it can be sent");
        request.metadata_mut().insert("client-api-version", version);
        client.kv().put(request).await.expect("a put");
    };
    for _ in 0..2 {
        call("3.4").await;
    }
    let unary =
        |version: &str| format!("{NAMED}{{client_api_version=\"{version}\",type=\"unary\"}}");
    assert_eq!(Page::of(member).value(&unary("3.4")), 2.0);
    for number in 0..100 {
        call(&format!("made-up-{number}")).await;
    }
    let page = Page::of(member);
    let series = page.0[NAMED].samples.len();
    assert!(series < 80, "{series} series of what clients say");
    assert!(
        page.value(&unary("other")) > 30.0,
        "the rest counts together"
    );
    assert_eq!(page.value(&unary("3.4")), 2.0);
}

/// A cluster of three, one of whom falls so far behind that it needs the whole database, and then leads.
#[tokio::test(flavor = "multi_thread")]
async fn members_count_each_other_and_what_passes_between_them() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder()
        .members(3)
        .snapshot_count(20)
        .catchup_entries(5)
        .extra_args(&["--metrics=extensive"])
        .start()
        .await;
    let leader = cluster.leader().await;
    let behind = (leader + 1) % 3;
    let member = cluster.member(leader);
    let one_leader: f64 = cluster
        .members()
        .iter()
        .map(|member| {
            let page = Page::of(member);
            assert_eq!(page.value("etcd_server_has_leader"), 1.0);
            assert!(page.value("etcd_server_leader_changes_seen_total") >= 1.0);
            assert_eq!(page.sum("etcd_network_known_peers", &[]), 3.0);
            page.value("etcd_server_is_leader")
        })
        .sum();
    assert_eq!(one_leader, 1.0);
    let page = shows("everybody is connected, and was probed", member, |page| {
        page.sum("etcd_network_active_peers", &[]) == 2.0
            && page.sum("etcd_network_peer_round_trip_time_seconds", &["_count{"]) >= 2.0
    })
    .await;
    assert!(page.sum("etcd_network_peer_sent_bytes_total", &["To="]) > 100.0);
    assert!(page.sum("etcd_network_peer_received_bytes_total", &["From="]) > 100.0);
    let committed = page.value("etcd_server_proposals_committed_total");

    cluster.member(behind).kill9();
    shows("the lost member is missed", member, |page| {
        page.sum("etcd_network_active_peers", &[]) == 1.0
            && page.sum("etcd_network_disconnected_peers_total", &[]) >= 1.0
            && page.sum("etcd_network_peer_sent_failures_total", &["To="]) >= 1.0
    })
    .await;
    let client = cluster.client(leader);
    for number in 0..200 {
        put(&client, &format!("k{number}"), "v").await;
    }
    let page = shows("a snapshot is taken", member, |page| {
        page.value("etcd_debugging_snap_save_total_duration_seconds_count") >= 1.0
    })
    .await;
    assert!(page.value("etcd_server_proposals_committed_total") >= committed + 200.0);
    // ME-35: each is three members in the form of the second store, what they say of themselves, and the version.
    let store = |kind: &str, action: &str| {
        page.value(&format!(
            "etcd_debugging_store_{kind}_total{{action=\"{action}\"}}"
        ))
    };
    let looked = store("reads", "getRecursive");
    assert!(looked >= 1.0);
    assert_eq!(store("writes", "create"), 3.0 * looked);
    assert_eq!(store("writes", "set"), 4.0 * looked);
    assert_eq!(page.value("etcd_debugging_store_watchers"), 0.0);
    assert!(page.value("etcd_disk_wal_fsync_duration_seconds_count") >= 1.0);
    assert!(page.value("etcd_disk_wal_write_bytes_total") > 200.0);
    assert!(page.value("etcd_disk_backend_commit_duration_seconds_count") >= 1.0);
    let timed = page.sum("etcd_server_apply_duration_seconds", &["_count{op=\"Put\""]);
    assert!(timed >= 200.0, "{timed}");

    cluster.start_all().await;
    shows("the database was sent", member, |page| {
        page.sum("etcd_network_snapshot_send_success", &["To="]) >= 1.0
            && page.sum("etcd_network_snapshot_send_inflights_total", &["To="]) == 0.0
    })
    .await;
    let page = shows(
        "the database was received",
        cluster.member(behind),
        |page| {
            page.sum("etcd_network_snapshot_receive_success", &["From="]) >= 1.0
                && page.value("etcd_server_snapshot_apply_in_progress_total") == 0.0
                && page.value("etcd_debugging_mvcc_keys_total") == 200.0
        },
    )
    .await;
    assert!(page.value("etcd_snap_db_save_total_duration_seconds_count") >= 1.0);
    assert!(page.value("etcd_snap_db_fsync_duration_seconds_count") >= 1.0);
    get(&client, "k0").await;
    every_name_is_found(&cluster);
    // ME-43: of Go's runtime 3.8 shows a lot more with these metrics, and 3.7 does not.
    for family in page.0.keys().filter(|name| name.starts_with("go_")) {
        let more = [
            "go_cpu_",
            "go_memory_classes_",
            "go_gc_cycles_",
            "go_sched_latencies_",
        ];
        assert!(!more.iter().any(|new| family.starts_with(new)), "{family}");
    }
    // LG-08: a leader that stands still for some intervals says how late it is.
    let late = late_heartbeats(member).await;
    assert!(late >= 1.0, "{late}");

    let before = page.value("etcd_server_leader_changes_seen_total");
    cluster.move_leader(behind).await;
    shows("another leads", cluster.member(behind), |page| {
        page.value("etcd_server_is_leader") == 1.0
            && page.value("etcd_server_leader_changes_seen_total") > before
    })
    .await;
    // Without the others nobody leads, and what is asked for fails.
    for other in [leader, 3 - leader - behind] {
        cluster.member(other).kill9();
    }
    shows("nobody leads", cluster.member(behind), |page| {
        page.value("etcd_server_has_leader") == 0.0 && page.value("etcd_server_is_leader") == 0.0
    })
    .await;
    let alone = cluster.member(behind);
    let client = cluster.client(behind);
    let hopeless = tokio::spawn(async move { put(&client, "k", "v").await });
    let page = shows("a proposal waits", alone, |page| {
        page.value("etcd_server_proposals_pending") >= 1.0
    })
    .await;
    let failed = page.value("etcd_server_proposals_failed_total");
    hopeless.abort();
    const FAILED: &str =
        "etcd_server_request_duration_seconds_count{success=\"false\",type=\"Put\"}";
    let page = shows("it has failed", alone, |page| {
        page.value("etcd_server_proposals_pending") == 0.0 && page.value(FAILED) >= 1.0
    })
    .await;
    assert!(page.value("etcd_server_proposals_failed_total") > failed);
    let codes = ["grpc_code=\"Canceled\",grpc_method=\"Put\""];
    assert!(page.sum("grpc_server_handled_total", &codes) >= 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_over_is_counted_where_it_was_judged() {
    let _turn = beside_others().await;
    let cluster = one(Kind::Ferrite, &[]).await;
    let grant = pb::LeaseGrantRequest { id: 7, ttl: 1 };
    let mut leases = cluster.client(0).lease();
    leases.lease_grant(grant).await.expect("a lease");
    let page = shows("the lease is gone", cluster.member(0), |page| {
        page.value("etcd_debugging_lease_revoked_total") == 1.0
    })
    .await;
    assert_eq!(page.value("etcd_debugging_server_lease_expired_total"), 1.0);
    assert_eq!(page.value("etcd_debugging_lease_granted_total"), 1.0);
}

/// What the original's own test asks every member for.
const ASKED_FOR: &[&str] = &[
    "etcd_cluster_version",
    "etcd_debugging_auth_revision",
    "etcd_debugging_disk_backend_commit_rebalance_duration_seconds",
    "etcd_debugging_disk_backend_commit_spill_duration_seconds",
    "etcd_debugging_disk_backend_commit_write_duration_seconds",
    "etcd_debugging_store_expires_total",
    "etcd_debugging_store_watch_requests_total",
    "etcd_debugging_store_watchers",
    "etcd_grpc_proxy_cache_hits_total",
    "etcd_grpc_proxy_cache_keys_total",
    "etcd_grpc_proxy_cache_misses_total",
    "etcd_grpc_proxy_events_coalescing_total",
    "etcd_grpc_proxy_watchers_coalescing_total",
    "etcd_network_known_peers",
    "etcd_server_apply_duration_seconds",
    "etcd_server_client_requests_total",
    "etcd_server_go_version",
    "etcd_server_id",
    "etcd_server_range_duration_seconds",
    "etcd_server_request_duration_seconds",
    "etcd_server_version",
    "go_gc_duration_seconds",
    "go_goroutines",
    "go_info",
    "go_memstats_alloc_bytes",
    "go_threads",
    "os_fd_limit",
    "os_fd_used",
    "promhttp_metric_handler_requests_in_flight",
    "promhttp_metric_handler_requests_total",
];
/// What the alert rules and the dashboard that come with the original look at.
const ALERTED: &[&str] = &[
    "etcd_disk_backend_commit_duration_seconds_bucket",
    "etcd_disk_wal_fsync_duration_seconds_bucket",
    "etcd_debugging_mvcc_db_total_size_in_bytes",
    "etcd_debugging_mvcc_slow_watcher_total",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_network_client_grpc_received_bytes_total",
    "etcd_network_client_grpc_sent_bytes_total",
    "etcd_network_peer_received_bytes_total",
    "etcd_network_peer_received_failures_total",
    "etcd_network_peer_round_trip_time_seconds_bucket",
    "etcd_network_peer_sent_bytes_total",
    "etcd_network_peer_sent_failures_total",
    "etcd_server_has_leader",
    "etcd_server_heartbeat_send_failures_total",
    "etcd_server_health_failures",
    "etcd_server_is_leader",
    "etcd_server_leader_changes_seen_total",
    "etcd_server_proposals_applied_total",
    "etcd_server_proposals_committed_total",
    "etcd_server_proposals_failed_total",
    "etcd_server_proposals_pending",
    "etcd_server_quota_backend_bytes",
    "etcd_server_slow_apply_total",
    "etcd_server_slow_read_indexes_total",
    "grpc_server_handled_total",
    "grpc_server_handling_seconds_bucket",
    "grpc_server_started_total",
    "process_resident_memory_bytes",
    "process_max_fds",
    "process_open_fds",
    "process_start_time_seconds",
];
/// Of these and of our own, what the original has no more either, or shows once something went wrong.
const ABSENT: &[&str] = &[
    "etcd_debugging_mvcc_db_total_size_in_bytes",
    "etcd_debugging_server_alarms",
    "etcd_network_peer_received_failures_total",
];
/// Our own dashboard.
const DASHBOARD: &str = include_str!("../../../../docs/grafana/ferrite.json");

/// Our own alert rules: the lines of their expressions, with words that no series has.
const RULES: &str = include_str!("../../../../docs/prometheus/alerts.yml");

/// Names of series in an expression.
fn series(expression: &str) -> BTreeSet<String> {
    let outside_of_texts: String = expression.split('"').step_by(2).collect();
    outside_of_texts
        .split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .filter(|word| {
            ["etcd_", "grpc_server_", "process_", "os_"]
                .iter()
                .any(|start| word.starts_with(start))
        })
        .map(str::to_owned)
        .collect()
}

fn expressions(value: &serde_json::Value, found: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    serde_json::Value::String(text) if name == "expr" => found.push(text.clone()),
                    value => expressions(value, found),
                }
            }
        }
        serde_json::Value::Array(values) => {
            values.iter().for_each(|value| expressions(value, found));
        }
        _ => {}
    }
}

/// Whatever rules and dashboards ask for is found on some member.
fn every_name_is_found(cluster: &Cluster) {
    let pages: Vec<Page> = cluster.members().iter().map(Page::of).collect();
    let mut drawn = Vec::new();
    let dashboard = serde_json::from_str(DASHBOARD).expect("the dashboard is JSON");
    expressions(&dashboard, &mut drawn);
    let mut drawn: BTreeSet<String> = drawn.iter().flat_map(|text| series(text)).collect();
    assert!(drawn.len() > 20, "the dashboard draws {drawn:?}");
    let ruled: BTreeSet<String> = RULES
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(series)
        .collect();
    assert!(ruled.len() > 10, "the rules look at {ruled:?}");
    drawn.extend(ruled);
    let missing: Vec<&str> = ALERTED
        .iter()
        .copied()
        .chain(ASKED_FOR.iter().copied())
        .chain(drawn.iter().map(String::as_str))
        .filter(|name| !ABSENT.contains(name))
        .filter(|name| {
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .find_map(|end| name.strip_suffix(end))
                .unwrap_or(name);
            !pages.iter().any(|page| {
                page.0.contains_key(*name)
                    || page
                        .0
                        .get(family)
                        .is_some_and(|family| family.kind == "histogram")
            })
        })
        .collect();
    assert!(missing.is_empty(), "nobody shows {missing:?}");
}

/// Prometheus asks for the forms that it understands, and compressed.
#[tokio::test(flavor = "multi_thread")]
async fn a_scrape_has_the_form_that_was_asked_for() {
    let _turn = beside_others().await;
    let cluster = one(Kind::Ferrite, &[]).await;
    let member = cluster.member(0);
    let text = "content-type: text/plain; version=0.0.4; charset=utf-8; escaping=underscores";
    for (headers, expected) in [
        ("", text),
        (
            "Accept: application/openmetrics-text;version=1.0.0\r\n",
            text,
        ),
        (
            "Accept: text/plain;version=0.0.4;escaping=allow-utf-8\r\n",
            "content-type: text/plain; version=0.0.4; charset=utf-8; escaping=allow-utf-8",
        ),
    ] {
        let (head, body) = ask(member, "/metrics", headers);
        assert!(head.to_lowercase().contains(expected), "{headers}: {head}");
        let page = Page::read(std::str::from_utf8(&body).expect("text"));
        assert_eq!(page.value("etcd_server_has_leader"), 1.0);
    }
    let binary = "Accept: application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited\r\n";
    let (head, body) = ask(member, "/metrics", binary);
    let expected = "content-type: application/vnd.google.protobuf; proto=io.prometheus.client.metricfamily; encoding=delimited; escaping=underscores";
    assert!(head.to_lowercase().contains(expected), "{head}");
    // The first family, after the length of its message: its name is field 1.
    let first = b"\x0a\x14etcd_cluster_version\x12";
    assert!(
        body.windows(first.len()).take(4).any(|at| at == first),
        "{:?}",
        &body[..40]
    );
    let (head, packed) = ask(member, "/metrics", "Accept-Encoding: gzip\r\n");
    assert!(
        head.to_lowercase().contains("content-encoding: gzip"),
        "{head}"
    );
    assert_eq!(packed[..2], [0x1f, 0x8b], "gzip's mark");
    let (_, plain) = ask(member, "/metrics", "");
    assert!(
        packed.len() * 4 < plain.len(),
        "{} of {}",
        packed.len(),
        plain.len()
    );
    let page = Page::of(member);
    assert!(
        !page.0.contains_key("grpc_server_handling_seconds"),
        "only with --metrics=extensive"
    );
    assert_eq!(
        page.value("promhttp_metric_handler_requests_total{code=\"200\"}"),
        6.0
    );
    assert_eq!(
        page.value("promhttp_metric_handler_requests_in_flight"),
        1.0
    );
    assert!(page.value("process_resident_memory_bytes") > 1e6);
    assert!(page.value("process_start_time_seconds") > 1.7e9);
    assert!(page.value("os_fd_used") >= 10.0);
    assert_eq!(page.value("os_fd_limit"), page.value("process_max_fds"));
}

/// Health, alarms and learners: what is asked for seldom, and has labels.
#[tokio::test(flavor = "multi_thread")]
async fn health_alarms_and_refused_promotions_are_counted() {
    let _turn = beside_others().await;
    let cluster = one(Kind::Ferrite, &[]).await;
    let (client, member) = (cluster.client(0), cluster.member(0));
    for path in ["/readyz", "/livez", "/readyz/linearizable_read"] {
        let (head, _) = ask(member, path, "");
        assert!(head.contains(" 200 "), "{head}");
    }
    let alarm = |action| pb::AlarmRequest {
        action,
        member_id: 0xabc,
        alarm: pb::AlarmType::Corrupt as i32,
    };
    let mut maintenance = client.maintenance();
    maintenance.alarm(alarm(1)).await.expect("an alarm");
    for (path, ends) in [("/health", " 503 "), ("/readyz", " 503 ")] {
        let (head, _) = ask(member, path, "");
        assert!(head.contains(ends), "{head}");
    }
    let on = "etcd_debugging_server_alarms{alarm_type=\"CORRUPT\",server_id=\"abc\"}";
    let page = Page::of(member);
    assert_eq!(page.find(on), Some(1.0));
    assert_eq!(page.value("etcd_server_health_failures"), 1.0);
    let check = |name: &str, status: &str| {
        format!(
            "etcd_server_healthchecks_total{{name=\"{name}\",status=\"{status}\",type=\"readyz\"}}"
        )
    };
    assert_eq!(page.value(&check("linearizable_read", "success")), 3.0);
    assert_eq!(page.value(&check("data_corruption", "error")), 1.0);
    let result = "etcd_server_healthcheck{name=\"data_corruption\",type=\"readyz\"}";
    assert_eq!(page.find(result), Some(0.0));
    maintenance.alarm(alarm(2)).await.expect("no alarm");
    assert_eq!(Page::of(member).find(on), Some(0.0));

    let learner = pb::MemberAddRequest {
        peer_urls: vec!["http://127.0.0.1:1".into()],
        is_learner: true,
    };
    let mut members = client.cluster();
    let added = members.member_add(learner).await.expect("a learner");
    let id = added.into_inner().member.expect("it").id;
    let promotion = pb::MemberPromoteRequest { id };
    let refused = members.member_promote(promotion).await;
    let refused = refused.expect_err("it is not in sync");
    let page = Page::of(member);
    let failures = page.sum("etcd_server_learner_promote_failures", &["Reason="]);
    assert_eq!(failures, 1.0, "{refused}");
    assert_eq!(page.value("etcd_server_learner_promote_successes"), 0.0);
    assert_eq!(page.sum("etcd_network_known_peers", &[]), 2.0);
}

/// ME-11, ME-13, ME-26, ME-31: figures of one member that move with what it does.
#[tokio::test(flavor = "multi_thread")]
async fn figures_move_with_what_they_count() {
    let _turn = beside_others().await;
    let cluster = one(Kind::Ferrite, &["--warning-apply-duration=1us"]).await;
    let (client, member) = (cluster.client(0), cluster.member(0));
    let before = Page::of(member);
    put(&client, "k", &"v".repeat(100_000)).await;
    get(&client, "k").await;
    let future = pb::RangeRequest {
        key: "k".into(),
        revision: 1_000,
        ..Default::default()
    };
    let refused = client.kv().range(future).await;
    refused.expect_err("nobody has been there");
    let after = Page::of(member);
    let grown = |sample: &str| after.value(sample) - before.value(sample);
    assert!(grown("etcd_server_slow_apply_total") >= 1.0);
    let ranges = "etcd_server_range_duration_seconds_count";
    assert_eq!(grown(&format!("{ranges}{{success=\"true\"}}")), 1.0);
    assert_eq!(grown(&format!("{ranges}{{success=\"false\"}}")), 1.0);
    eventually("sizes are those of the status", PATIENCE, async || {
        let status = client.maintenance().status(pb::StatusRequest {}).await;
        let status = status.expect("a status").into_inner();
        let page = Page::of(member);
        let commits = |part: &str| {
            let name = format!("etcd_debugging_disk_backend_commit_{part}duration_seconds_count");
            page.value(&name)
        };
        let all = page.value("etcd_disk_backend_commit_duration_seconds_count");
        let same = page.value("etcd_mvcc_db_total_size_in_bytes") == status.db_size as f64
            && page.value("etcd_mvcc_db_total_size_in_use_in_bytes")
                == status.db_size_in_use as f64
            && status.db_size > 100_000
            && all > 0.0
            && commits("write_") == all
            && commits("spill_") == all;
        same.then_some(())
    })
    .await;
}

/// ME-01, ME-03: a learner knows what it is, and its promotion is counted where it was decided.
#[tokio::test(flavor = "multi_thread")]
async fn a_learner_is_shown_as_one_until_it_is_promoted() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().members(2).build();
    let (first, second) = (cluster.member(0), cluster.member(1));
    let alone = format!("--initial-cluster={}={}", first.name(), first.peer_url());
    first.start_once_with(std::slice::from_ref(&alone));
    first.ready(PATIENCE).await;
    let client = cluster.client(0);
    let request = pb::MemberAddRequest {
        peer_urls: vec![second.peer_url().to_owned()],
        is_learner: true,
    };
    let added = client.cluster().member_add(request).await;
    let added = added.expect("a learner").into_inner().member;
    let id = added.expect("the new one").id;
    let both = format!("{alone},{}={}", second.name(), second.peer_url());
    second.start_once_with(&[both, "--initial-cluster-state=existing".to_owned()]);
    second
        .wait_for_log("ready to serve client requests", PATIENCE)
        .await;
    let is_learner = || Page::of(second).value("etcd_server_is_learner");
    eventually("it knows that it is one", PATIENCE, async || {
        (is_learner() == 1.0).then_some(())
    })
    .await;
    let promoted = "etcd_server_learner_promote_successes";
    assert_eq!(Page::of(first).value(promoted), 0.0);
    eventually("it is promoted", PATIENCE, async || {
        let request = pb::MemberPromoteRequest { id };
        client.cluster().member_promote(request).await.ok()
    })
    .await;
    assert_eq!(Page::of(first).value(promoted), 1.0);
    eventually("it knows that, too", PATIENCE, async || {
        (is_learner() == 0.0).then_some(())
    })
    .await;
}

/// ME-11, LG-08: reads for which nobody confirms a leader.
#[tokio::test(flavor = "multi_thread")]
async fn reads_that_find_no_leader_are_counted_and_told_of() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().members(3).start().await;
    let leader = cluster.leader().await;
    let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.member(leader).kill9();
    cluster.member(one).kill9();
    let member = cluster.member(other);
    let client = cluster.client(other);
    let read = async {
        let request = pb::RangeRequest {
            key: "k".into(),
            ..Default::default()
        };
        // Refused, or waiting still.
        let _answer = client.kv().range(request).await;
    };
    let counted = async {
        eventually("a slow read is counted", PATIENCE, async || {
            let page = Page::of(member);
            // It has failed too, and is not asked for any more.
            let counted = |name| page.value(name) >= 1.0;
            (counted("etcd_server_slow_read_indexes_total")
                && counted("etcd_server_read_indexes_failed_total"))
            .then_some(())
        })
        .await;
    };
    tokio::join!(read, counted);
    for line in [
        "waiting for ReadIndex response took too long, retrying",
        "timed out waiting for read index response (local node might have slow network)",
    ] {
        assert!(member.log_contains(line), "{line}");
    }
    // Operators learn what is waited for.
    member
        .wait_for_log("1 of 3 members are reached, 2 are needed", PATIENCE)
        .await;
}

/// ME-16: the version that the cluster leaves is shown as 0.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_rises_shows_its_new_version_only() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder().build();
    let member = cluster.member(0);
    member.start_once_with(&["--hold-cluster-version=3.6".to_owned()]);
    member.ready(PATIENCE).await;
    let version = |of: &str| {
        let sample = format!("etcd_cluster_version{{cluster_version=\"{of}\"}}");
        Page::of(member).value(&sample)
    };
    eventually("it is held", PATIENCE, async || {
        (version("3.6") == 1.0).then_some(())
    })
    .await;
    assert_eq!(version("3.7"), 0.0);
    member.terminate().await;
    member.start();
    member.ready(PATIENCE).await;
    eventually("it rises", PATIENCE, async || {
        (version("3.7") == 1.0 && version("3.6") == 0.0).then_some(())
    })
    .await;
}
