//! Watches through the real server: the contract's rows, loads, snapshots, and etcd's own server and
//! `etcdctl` beside it.

use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ferrite_client::pb::watch_request::RequestUnion;
use ferrite_client::pb::{
    self, CompactionRequest, DeleteRangeRequest, PutRequest, WatchCancelRequest,
    WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use ferrite_client::{Client, Code, Streaming};
use ferrite_testkit::{Cluster, Kind, PATIENCE, eventually, oracle};
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

/// Longer than anything still under way takes, where nothing is expected.
const QUIET: Duration = Duration::from_millis(400);

struct Watch {
    requests: Option<mpsc::UnboundedSender<WatchRequest>>,
    responses: Streaming<WatchResponse>,
}

impl Watch {
    async fn open(client: &Client) -> Self {
        // A call that is opened waits for the server's first word without a limit of its own, and on a
        // busy machine 3.5.1 was once seen never to say it.
        for _ in 0..3 {
            if let Ok(watch) = tokio::time::timeout(PATIENCE / 3, Self::open_once(client)).await {
                return watch;
            }
        }
        panic!("the stream does not open in time");
    }

    async fn open_once(client: &Client) -> Self {
        let (requests, receiver) = mpsc::unbounded_channel();
        // etcd answers nothing at all, headers included, before there is a response: this one is
        let first = WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(WatchCreateRequest {
                watch_id: 77,
                ..on("nobody writes this")
            })),
        };
        requests.send(first).unwrap();
        let responses = client
            .watch()
            .watch(UnboundedReceiverStream::new(receiver))
            .await
            .unwrap()
            .into_inner();
        let mut watch = Watch {
            requests: Some(requests),
            responses,
        };
        assert!(watch.next().await.created);
        watch.cancel(77);
        assert!(watch.next().await.canceled);
        watch
    }

    fn send(&self, union: RequestUnion) {
        let request = WatchRequest {
            request_union: Some(union),
        };
        self.requests.as_ref().unwrap().send(request).unwrap();
    }

    fn create(&self, create: WatchCreateRequest) {
        self.send(RequestUnion::CreateRequest(create));
    }

    fn cancel(&self, watch_id: i64) {
        self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id }));
    }

    fn progress(&self) {
        self.send(RequestUnion::ProgressRequest(WatchProgressRequest {}));
    }

    async fn next(&mut self) -> WatchResponse {
        tokio::time::timeout(PATIENCE, self.responses.message())
            .await
            .expect("a response in time")
            .unwrap()
            .expect("the stream goes on")
    }

    async fn created(&mut self, create: WatchCreateRequest) -> WatchResponse {
        self.create(create);
        let response = self.next().await;
        assert!(response.created && !response.canceled, "{response:?}");
        response
    }

    async fn is_quiet(&mut self) {
        if let Ok(more) = tokio::time::timeout(QUIET, self.responses.message()).await {
            panic!("nothing was due, and there is {more:?}");
        }
    }
}

fn on(key: &str) -> WatchCreateRequest {
    WatchCreateRequest {
        key: key.to_owned().into(),
        ..Default::default()
    }
}

fn prefix(key: &str) -> WatchCreateRequest {
    let mut end = key.as_bytes().to_vec();
    *end.last_mut().unwrap() += 1;
    WatchCreateRequest {
        range_end: end.into(),
        ..on(key)
    }
}

async fn put(client: &Client, key: &str, value: impl Into<Vec<u8>>) -> i64 {
    let request = PutRequest {
        key: key.to_owned().into(),
        value: value.into().into(),
        ..Default::default()
    };
    let response = client.kv().put(request).await.unwrap().into_inner();
    response.header.unwrap().revision
}

async fn delete(client: &Client, key: &str) {
    let request = DeleteRangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    };
    client.kv().delete_range(request).await.unwrap();
}

async fn compact(client: &Client, revision: i64) {
    let request = CompactionRequest {
        revision,
        physical: true,
    };
    client.kv().compact(request).await.unwrap();
}

/// Without what differs from cluster to cluster.
fn plain(mut response: WatchResponse) -> String {
    if let Some(header) = &mut response.header {
        assert_ne!(
            (header.cluster_id, header.member_id, header.raft_term),
            (0, 0, 0)
        );
        (header.cluster_id, header.member_id, header.raft_term) = (0, 0, 0);
    }
    for event in &mut response.events {
        for kv in [&mut event.kv, &mut event.prev_kv].into_iter().flatten() {
            if kv.value.len() > 100 {
                kv.value = kv.value.slice(..10);
            }
        }
    }
    format!("{response:?}")
}

/// Collects the next responses; those of several watchers to one event come in no order.
async fn collect(watch: &mut Watch, told: &mut Vec<String>, count: usize) {
    let mut part = Vec::new();
    for _ in 0..count {
        part.push(watch.next().await);
    }
    part.sort_by_key(|response| response.watch_id);
    told.extend(part.into_iter().map(plain));
}

/// The conversation that must be the same on both servers.
async fn conversation(kind: Kind) -> Vec<String> {
    let cluster = Cluster::builder().kinds(&[kind]).start().await;
    let client = cluster.client(0);
    let mut told = Vec::new();
    let told = &mut told;
    put(&client, "k", "1").await;
    put(&client, "k", "2").await;
    delete(&client, "k").await;
    put(&client, "a/1", "x").await;
    put(&client, "a/2", "y").await;
    put(&client, "b", "z").await;

    let mut watch = Watch::open(&client).await;
    watch.create(on("k"));
    collect(&mut watch, told, 1).await;
    put(&client, "k", "3").await;
    put(&client, "k", "4").await;
    delete(&client, "k").await;
    collect(&mut watch, told, 3).await;
    // The past, with values before; and what comes, to both.
    watch.create(WatchCreateRequest {
        start_revision: 2,
        prev_kv: true,
        ..on("k")
    });
    collect(&mut watch, told, 2).await;
    put(&client, "k", "5").await;
    put(&client, "k", "6").await;
    delete(&client, "k").await;
    collect(&mut watch, told, 6).await;
    // Ranges: a prefix from the past, from a key on, everything, with filters.
    watch.create(WatchCreateRequest {
        start_revision: 1,
        ..prefix("a/")
    });
    collect(&mut watch, told, 2).await;
    watch.create(WatchCreateRequest {
        range_end: "\0".into(),
        start_revision: 6,
        filters: vec![0, 17],
        watch_id: 40,
        ..on("b")
    });
    collect(&mut watch, told, 2).await;
    watch.create(WatchCreateRequest {
        range_end: "\0".into(),
        filters: vec![0, 1],
        ..on("")
    });
    collect(&mut watch, told, 1).await;
    watch.create(WatchCreateRequest {
        filters: vec![1],
        start_revision: 3,
        ..on("k")
    });
    collect(&mut watch, told, 2).await;
    // A start in the future.
    let now = put(&client, "other", "").await;
    watch.create(WatchCreateRequest {
        start_revision: now + 2,
        ..on("f")
    });
    collect(&mut watch, told, 1).await;
    put(&client, "f", "too early").await;
    put(&client, "f", "in time").await;
    collect(&mut watch, told, 1).await;
    // Refusals, and IDs.
    watch.create(WatchCreateRequest {
        watch_id: 40,
        ..on("k")
    });
    watch.create(WatchCreateRequest {
        range_end: "k".into(),
        ..on("k")
    });
    watch.create(WatchCreateRequest {
        range_end: "a".into(),
        ..on("k")
    });
    watch.cancel(40);
    watch.cancel(99);
    watch.cancel(1);
    watch.create(WatchCreateRequest {
        watch_id: 1,
        ..on("one")
    });
    watch.create(on("auto"));
    for _ in 0..7 {
        collect(&mut watch, told, 1).await;
    }
    // A transaction is one response, in its order, to whom it concerns.
    let op = |key: &str| pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(PutRequest {
            key: key.to_owned().into(),
            value: "t".into(),
            ..Default::default()
        })),
    };
    let delete_op = pb::RequestOp {
        request: Some(pb::request_op::Request::RequestDeleteRange(
            DeleteRangeRequest {
                key: "a/".into(),
                range_end: "a/3".into(),
                ..Default::default()
            },
        )),
    };
    let txn = pb::TxnRequest {
        success: vec![op("a/9"), op("zz"), delete_op, op("a/8")],
        ..Default::default()
    };
    client.kv().txn(txn).await.unwrap();
    collect(&mut watch, told, 1).await;
    drop(watch);

    // Compaction: a start below it dies, one at it lives.
    let head = put(&client, "k", "7").await;
    put(&client, "k", "8").await;
    delete(&client, "k").await;
    compact(&client, head + 1).await;
    let mut watch = Watch::open(&client).await;
    watch.create(WatchCreateRequest {
        start_revision: head,
        ..on("k")
    });
    collect(&mut watch, told, 2).await;
    watch.create(WatchCreateRequest {
        start_revision: head + 1,
        ..on("k")
    });
    collect(&mut watch, told, 1).await;
    put(&client, "k", "9").await;
    // (what is kept from the compacted revision on, and this put, together or apart)
    let mut events = Vec::new();
    while events.len() < 3 {
        let response = watch.next().await;
        assert_eq!(response.watch_id, 1);
        events.extend(response.events.iter().map(|event| format!("{event:?}")));
    }
    told.extend(events);
    watch.create(WatchCreateRequest {
        watch_id: 0,
        ..on("k")
    });
    collect(&mut watch, told, 1).await;
    watch.cancel(0);
    collect(&mut watch, told, 1).await;
    drop(watch);

    // Fragments.
    let first = put(&client, "big/0", vec![b'v'; 300_000]).await;
    for n in 1..12 {
        put(&client, &format!("big/{n}"), vec![b'v'; 300_000]).await;
    }
    let mut watch = Watch::open(&client).await;
    watch.created(on("unrelated")).await;
    watch.create(WatchCreateRequest {
        start_revision: first,
        fragment: true,
        ..prefix("big/")
    });
    collect(&mut watch, told, 1).await;
    let mut count = 0;
    loop {
        let response = watch.next().await;
        count += response.events.len();
        let more = response.fragment;
        told.push(plain(response));
        if !more {
            break;
        }
    }
    assert_eq!(count, 12);
    // Half-closed: the watchers stay.
    watch.requests = None;
    tokio::time::sleep(QUIET).await;
    put(&client, "unrelated", "").await;
    collect(&mut watch, told, 1).await;
    watch.is_quiet().await;
    std::mem::take(told)
}

#[tokio::test]
async fn responses_are_those_of_etcd() {
    let ours = conversation(Kind::Ferrite).await;
    assert!(ours.len() > 30, "{}", ours.len());
    if oracle().is_none() {
        return;
    }
    let theirs = conversation(Kind::Etcd351).await;
    for (at, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        assert_eq!(ours, theirs, "response {at}");
    }
    assert_eq!(ours.len(), theirs.len());
}

/// Until the cluster's version is known on a member it refuses calls for data.
async fn capable(client: &Client) {
    eventually("the member serves data", PATIENCE, async || {
        let request = PutRequest {
            key: "warm".into(),
            ..Default::default()
        };
        client.kv().put(request).await.ok()
    })
    .await;
}

/// KB-10, KB-11 (3.5.1 loses this event): a deletion exactly at the compacted revision.
#[tokio::test]
async fn a_deletion_at_the_compacted_revision_is_seen() {
    let cluster = Cluster::builder().members(1).start().await;
    let client = cluster.client(0);
    let first = put(&client, "k", "1").await;
    delete(&client, "k").await;
    compact(&client, first + 1).await;
    let mut watch = Watch::open(&client).await;
    watch
        .created(WatchCreateRequest {
            start_revision: first + 1,
            prev_kv: true,
            ..on("k")
        })
        .await;
    let response = watch.next().await;
    let event = &response.events[0];
    assert_eq!(
        (event.r#type, event.kv.as_ref().unwrap().mod_revision),
        (1, first + 1)
    );
    assert!(event.prev_kv.is_none(), "the value before is compacted");
}

/// WA-05, WA-16, WA-17, WA-18 as 3.7 has them.
#[tokio::test]
async fn progress_is_told_behind_the_events_it_covers() {
    let cluster = Cluster::builder()
        .members(1)
        .extra_args(&["--watch-progress-notify-interval=100ms"])
        .start()
        .await;
    let client = cluster.client(0);
    let mut watch = Watch::open(&client).await;
    watch.progress();
    watch.create(WatchCreateRequest {
        start_revision: -1,
        ..on("k")
    });
    let refused = watch.next().await;
    assert!(refused.created && refused.canceled && refused.watch_id == -1);
    assert_eq!(
        refused.cancel_reason,
        "etcdserver: mvcc: required revision has been compacted"
    );
    watch.created(on("k")).await;
    for n in 0..200 {
        let revision = put(&client, "k", format!("{n}")).await;
        watch.progress();
        let event = watch.next().await;
        assert_eq!(event.header.unwrap().revision, revision);
        assert_eq!(event.events.len(), 1);
        let progress = watch.next().await;
        assert_eq!((progress.watch_id, progress.events.len()), (-1, 0));
        assert_eq!(progress.header.unwrap().revision, revision);
    }
    // One that waits for the future silences the stream.
    watch
        .created(WatchCreateRequest {
            start_revision: 10_000,
            progress_notify: true,
            ..on("future")
        })
        .await;
    watch.progress();
    watch.is_quiet().await;
    watch.cancel(1);
    assert!(watch.next().await.canceled);
    // Notices by the clock.
    watch
        .created(WatchCreateRequest {
            progress_notify: true,
            ..on("k")
        })
        .await;
    let revision = put(&client, "elsewhere", "").await;
    loop {
        let notice = watch.next().await;
        assert_eq!((notice.watch_id, notice.events.len()), (2, 0));
        if notice.header.unwrap().revision == revision {
            break;
        }
    }
}

/// KB-08: a client that does not read keeps nobody else waiting, and loses nothing.
#[tokio::test]
async fn a_client_that_does_not_read_loses_nothing_and_delays_nobody() {
    let cluster = Cluster::builder().members(1).start().await;
    let client = cluster.client(0);
    let mut slow = Watch::open(&client).await;
    slow.created(prefix("k")).await;
    slow.created(WatchCreateRequest {
        prev_kv: true,
        ..on("k/7")
    })
    .await;
    let mut quick = Watch::open(&cluster.client(0)).await;
    quick.created(prefix("k")).await;
    let mut written = Vec::new();
    for n in 0..600 {
        let key = format!("k/{}", n % 10);
        written.push((put(&client, &key, vec![b'v'; 50_000]).await, key));
        let seen = quick.next().await;
        assert_eq!(
            seen.events[0].kv.as_ref().unwrap().mod_revision,
            written[n].0
        );
    }
    let mut seen: [Vec<(i64, String)>; 2] = Default::default();
    while seen[0].len() < 600 || seen[1].len() < 60 {
        let response = slow.next().await;
        let revision = response.header.unwrap().revision;
        for event in response.events {
            let kv = event.kv.unwrap();
            assert!(kv.mod_revision <= revision);
            if response.watch_id == 1 && kv.version > 1 {
                assert_eq!(event.prev_kv.unwrap().version, kv.version - 1);
            }
            let key = String::from_utf8(kv.key.to_vec()).unwrap();
            seen[usize::try_from(response.watch_id).unwrap()].push((kv.mod_revision, key));
        }
    }
    assert_eq!(seen[0], written);
    written.retain(|(_, key)| key == "k/7");
    assert_eq!(seen[1], written);
    let live = put(&client, "k/7", "live").await;
    for _ in 0..2 {
        assert_eq!(slow.next().await.header.unwrap().revision, live);
    }
}

/// KB-06, KB-14, and WA-22 when the leader sends a snapshot: a member that was paused for long.
#[tokio::test]
async fn a_watch_on_a_member_that_fell_behind_loses_and_repeats_nothing() {
    let cluster = Cluster::builder()
        .members(3)
        .snapshot_count(50)
        .catchup_entries(10)
        .start()
        .await;
    let leader = cluster.leader().await;
    let behind = (leader + 1) % 3;
    capable(&cluster.client(behind)).await;
    let mut watch = Watch::open(&cluster.client(behind)).await;
    let client = cluster.client(leader);
    watch.created(on("k")).await;
    watch
        .created(WatchCreateRequest {
            start_revision: 1000,
            ..on("k")
        })
        .await;
    let now = put(&client, "k", "0").await;
    let mut written = vec![now];
    cluster.member(behind).stop_signal();
    for n in 0..400u32 {
        // too much for what the sockets between the members hold
        written.push(put(&client, "k", vec![b'0' + n as u8 % 10; 50_000]).await);
    }
    cluster.member(behind).cont();
    let mut seen = Vec::new();
    while seen.len() < written.len() {
        let response = watch.next().await;
        assert_eq!(response.watch_id, 0);
        seen.extend(
            response
                .events
                .iter()
                .map(|event| event.kv.as_ref().unwrap().mod_revision),
        );
    }
    assert_eq!(seen, written);
    if !cluster.member(behind).log_contains("applied snapshot") {
        eprintln!(
            "SKIPPED: the way through a raft snapshot, for the member caught up from the log"
        );
    }
    let live = put(&client, "k", "live").await;
    assert_eq!(watch.next().await.header.unwrap().revision, live);
    watch.is_quiet().await;
}

/// GR-09.
#[tokio::test]
async fn who_requires_a_leader_is_told_when_there_is_none() {
    let cluster = Cluster::builder().members(3).start().await;
    let client = cluster.client(0);
    capable(&client).await;
    let (requests, receiver) = mpsc::unbounded_channel();
    let mut request = tonic::Request::new(UnboundedReceiverStream::new(receiver));
    request.metadata_mut().insert(
        "hasleader",
        tonic::metadata::MetadataValue::from_static("true"),
    );
    let mut strict = client.watch().watch(request).await.unwrap().into_inner();
    let create = WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(on("k"))),
    };
    requests.send(create).unwrap();
    assert!(strict.message().await.unwrap().unwrap().created);
    let mut lax = Watch::open(&client).await;
    lax.created(on("k")).await;
    cluster.member(1).kill9();
    cluster.member(2).kill9();
    let ended = tokio::time::timeout(PATIENCE, strict.message())
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(
        (ended.code(), ended.message()),
        (Code::Unavailable, "etcdserver: no leader")
    );
    lax.is_quiet().await;
}

/// WA-16: five notices by a clock that cannot be set faster than a tenth of a second.
async fn notices_by_the_clock(kind: Kind) {
    let cluster = Cluster::builder()
        .kinds(&[kind])
        .extra_args_of(Kind::Ferrite, &["--watch-progress-notify-interval=1ms"])
        .extra_args_of(
            Kind::Etcd351,
            &["--experimental-watch-progress-notify-interval=1ms"],
        )
        .start()
        .await;
    let client = cluster.client(0);
    let revision = put(&client, "elsewhere", "").await;
    let mut watch = Watch::open(&client).await;
    watch.created(on("silent")).await;
    let waits = WatchCreateRequest {
        start_revision: revision + 100,
        progress_notify: true,
        ..on("future")
    };
    // 3.5.1 tells such a one as well, now and then (KB-14).
    if kind == Kind::Ferrite {
        watch.created(waits).await;
    }
    let told = WatchCreateRequest {
        progress_notify: true,
        ..on("told")
    };
    let told = watch.created(told).await.watch_id;
    let mut since = None;
    for n in 0..5 {
        let notice = watch.next().await;
        assert_eq!(
            (notice.watch_id, notice.events.len()),
            (told, 0),
            "{kind:?}"
        );
        assert_eq!(notice.header.unwrap().revision, revision, "{kind:?}");
        let since = since.get_or_insert_with(Instant::now);
        // The first one may have waited on its way.
        let least = Duration::from_millis(100) * u32::max(n, 1) - Duration::from_millis(100);
        assert!(
            since.elapsed() >= least,
            "{kind:?}: {n} after {:?}",
            since.elapsed()
        );
    }
    let own = put(&client, "told", "v").await;
    let event = loop {
        let response = watch.next().await;
        if !response.events.is_empty() {
            break response;
        }
    };
    assert_eq!(event.header.unwrap().revision, own, "{kind:?}");
    assert_eq!(watch.next().await.header.unwrap().revision, own, "{kind:?}");
    if kind == Kind::Ferrite {
        let adjusted = "adjusting watch progress notify interval to minimum period";
        assert!(cluster.member(0).log_contains(adjusted));
    }
}

#[tokio::test]
async fn notices_come_by_the_clock_to_those_who_ask_for_them() {
    notices_by_the_clock(Kind::Ferrite).await;
    if oracle().is_some() {
        notices_by_the_clock(Kind::Etcd351).await;
    }
}

/// WA-20: what a stream ends with when its server does, and that neither waits for the other.
async fn ends_with_its_server(kind: Kind) -> Option<Code> {
    let cluster = Cluster::builder().kinds(&[kind]).start().await;
    let client = cluster.client(0);
    let mut watch = Watch::open(&client).await;
    watch.created(on("k")).await;
    // A client that goes away takes its stream with it; the server goes on.
    let mut other = Watch::open(&cluster.client(0)).await;
    other.created(on("k")).await;
    drop(other);
    put(&client, "k", "v").await;
    assert_eq!(watch.next().await.events.len(), 1);
    let (ended, status) = tokio::join!(
        tokio::time::timeout(PATIENCE, watch.responses.message()),
        cluster.member(0).terminate()
    );
    assert!(
        status.code().is_none(),
        "{kind:?}: by the signal: {status:?}"
    );
    match ended.expect("the stream ends with the server") {
        Ok(None) => None,
        Ok(more) => panic!("{kind:?}: {more:?}"),
        Err(status) => Some(status.code()),
    }
}

#[tokio::test]
async fn a_stream_ends_with_its_server_and_does_not_hold_it_up() {
    let ours = ends_with_its_server(Kind::Ferrite).await;
    assert_eq!(ours, Some(Code::Unavailable));
    if oracle().is_some() {
        let theirs = ends_with_its_server(Kind::Etcd351).await;
        // Sometimes its connection is gone before it has said so.
        assert!(
            theirs == ours || theirs == Some(Code::Unknown),
            "{theirs:?}"
        );
    }
}

/// What the original's `etcdctl` prints of a watch.
async fn etcdctl_prints(kind: Kind, dir: &Path) -> String {
    let cluster = Cluster::builder().kinds(&[kind]).start().await;
    let client = cluster.client(0);
    let first = put(&client, "p/1", "one").await;
    put(&client, "p/1", "two").await;
    let mut child = Command::new(dir.join("etcdctl"))
        .env("ETCDCTL_API", "3")
        .arg(format!("--endpoints={}", cluster.member(0).endpoint()))
        .args([
            "watch",
            "--prefix",
            "--prev-kv",
            &format!("--rev={first}"),
            "p/",
        ])
        .args([
            "--",
            "sh",
            "-c",
            "echo $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE",
        ])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let lines = |count: usize, text: &mut String| {
        let mut byte = [0];
        while text.lines().count() < count || !text.ends_with('\n') {
            assert_eq!(
                stdout.read(&mut byte).unwrap(),
                1,
                "it ended after {text:?}"
            );
            text.push(char::from(byte[0]));
        }
    };
    let (mut past, mut live) = (String::new(), String::new());
    // etcdctl is another process: nothing of this runtime is needed while it is read from
    let lines = std::sync::Mutex::new(lines);
    tokio::task::block_in_place(|| lines.lock().unwrap()(10, &mut past));
    delete(&client, "p/1").await;
    tokio::task::block_in_place(|| lines.lock().unwrap()(6, &mut live));
    child.kill().unwrap();
    child.wait().unwrap();
    past + &live
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_of_etcd_watches_our_server() {
    let Some(dir) = oracle() else { return };
    let ours = etcdctl_prints(Kind::Ferrite, &dir).await;
    assert_eq!(ours, etcdctl_prints(Kind::Etcd351, &dir).await);
}
