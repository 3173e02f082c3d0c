//! Large amounts of one thing at a time: they are served, in memory that each test states, while another
//! client's small puts go on and succeed. How long those take is printed; the benchmark `beside` measures it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ferrite_client::Config;
use ferrite_testkit::{Client, Cluster, PATIENCE, eventually, pb};
use pb::watch_request::RequestUnion;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::beside_others;

const MIB: u64 = 1 << 20;
/// A client that gives the member all the time a test has: what is large takes long on a busy machine.
fn patient(cluster: &Cluster) -> Client {
    let mut config = Config::new([cluster.member(0).endpoint()]);
    config.call_timeout = Some(PATIENCE * 2);
    Client::new(config).expect("loopback endpoints are good")
}

/// Another client, and the member's memory, watched while something large goes on.
struct Beside {
    stop: Arc<AtomicBool>,
    puts: JoinHandle<Vec<Duration>>,
    most: Arc<AtomicU64>,
    before: u64,
}

impl Beside {
    fn start(cluster: &Arc<Cluster>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let before = cluster.member(0).resident_bytes();
        let most = Arc::new(AtomicU64::new(before));
        let client = patient(cluster);
        let (stopped, cluster, peak) = (Arc::clone(&stop), Arc::clone(cluster), Arc::clone(&most));
        let puts = tokio::spawn(async move {
            let mut took = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let start = Instant::now();
                crate::put(&client, "small", "v").await;
                took.push(start.elapsed());
                peak.fetch_max(cluster.member(0).resident_bytes(), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            took
        });
        Beside {
            stop,
            puts,
            most,
            before,
        }
    }

    /// Ends it, and holds the member to its memory: so many bytes more than before.
    async fn stop(self, what: &str, growth_max: u64) {
        self.stop.store(true, Ordering::Relaxed);
        let mut took = self.puts.await.expect("small puts succeed");
        took.sort();
        let longest = took.last().copied().unwrap_or_default();
        let p99 = took.get(took.len() * 99 / 100).copied().unwrap_or_default();
        let growth = self.most.load(Ordering::Relaxed) - self.before;
        eprintln!(
            "{what}: {} MiB more at most; {} small puts beside it, p99 {p99:?}, longest {longest:?}",
            growth / MIB,
            took.len()
        );
        assert!(growth <= growth_max, "{what}: {growth} bytes more");
    }
}

fn put_op(key: String, value: Vec<u8>, lease: i64) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
            key: key.into(),
            value: value.into(),
            lease,
            ..Default::default()
        })),
    }
}

async fn txn(client: &Client, success: Vec<pb::RequestOp>) -> Result<(), tonic::Status> {
    let txn = pb::TxnRequest {
        success,
        ..Default::default()
    };
    client.kv().txn(txn).await.map(drop)
}

fn prefix(text: &str) -> pb::RangeRequest {
    let mut end = text.as_bytes().to_vec();
    *end.last_mut().expect("a prefix") += 1;
    pb::RangeRequest {
        key: text.to_owned().into(),
        range_end: end.into(),
        ..Default::default()
    }
}

async fn count(client: &Client, text: &str) -> i64 {
    let request = pb::RangeRequest {
        count_only: true,
        ..prefix(text)
    };
    client
        .kv()
        .range(request)
        .await
        .expect("a count")
        .into_inner()
        .count
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_leases_that_end_in_the_same_second() {
    const LEASES: u64 = 10_000;
    const GRANTERS: u64 = 50;
    let _turn = beside_others().await;
    let cluster = Arc::new(Cluster::builder().start().await);
    let client = patient(&cluster);
    // as long as it takes here to grant them all, and to hang a key on each
    let trial = Instant::now();
    for _ in 0..100 {
        let request = pb::LeaseGrantRequest { id: 0, ttl: 1_000 };
        client.lease().lease_grant(request).await.expect("a lease");
    }
    let ends = Instant::now() + trial.elapsed() * 10 + Duration::from_secs(4);
    let granters: Vec<_> = (0..GRANTERS)
        .map(|granter| {
            let client = patient(&cluster);
            tokio::spawn(async move {
                for n in (granter..LEASES).step_by(usize::try_from(GRANTERS).unwrap()) {
                    let left = ends.saturating_duration_since(Instant::now());
                    let request = pb::LeaseGrantRequest {
                        id: i64::try_from(n).unwrap() + 1,
                        ttl: i64::try_from(left.as_secs()).unwrap().max(2),
                    };
                    client.lease().lease_grant(request).await.expect("a lease");
                }
            })
        })
        .collect();
    for granter in granters {
        granter.await.expect("a granter");
    }
    let mut kept = 0;
    for first in (0..LEASES).step_by(100) {
        let ops = (first..first + 100)
            .map(|n| {
                put_op(
                    format!("leased/{n:05}"),
                    vec![0; 16],
                    i64::try_from(n).unwrap() + 1,
                )
            })
            .collect();
        // none where a lease of them is over already, on a machine that is slow now
        kept += u32::from(txn(&client, ops).await.is_ok());
    }
    let beside = Beside::start(&cluster);
    let leases = async || {
        let request = pb::LeaseLeasesRequest {};
        let answer = client.lease().lease_leases(request).await.expect("leases");
        answer.into_inner().leases.len()
    };
    eventually(
        "all leases are over but those of the trial",
        PATIENCE * 4,
        async || (leases().await == 100).then_some(()),
    )
    .await;
    let late = Instant::now().saturating_duration_since(ends);
    beside.stop("10000 leases", 64 * MIB).await;
    assert_eq!(
        count(&client, "leased/").await,
        0,
        "keys go with their leases"
    );
    eprintln!("{kept} of 100 batches of keys; the last lease was gone {late:?} after its end");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_watchers_of_one_prefix() {
    const STREAMS: usize = 20;
    const WATCHERS_EACH: usize = 500;
    const PUTS: usize = 10;
    let _turn = beside_others().await;
    let cluster = Arc::new(Cluster::builder().start().await);
    let beside = Beside::start(&cluster);
    let mut watching = Vec::new();
    for _ in 0..STREAMS {
        let client = patient(&cluster);
        let (requests, receiver) = tokio::sync::mpsc::unbounded_channel();
        for _ in 0..WATCHERS_EACH {
            let range = prefix("many/");
            let create = pb::WatchCreateRequest {
                key: range.key,
                range_end: range.range_end,
                ..Default::default()
            };
            requests
                .send(pb::WatchRequest {
                    request_union: Some(RequestUnion::CreateRequest(create)),
                })
                .expect("the other end is here");
        }
        let stream = client
            .watch()
            .watch(UnboundedReceiverStream::new(receiver))
            .await;
        let mut stream = stream.expect("a stream").into_inner();
        let mut created = 0;
        while created < WATCHERS_EACH {
            let response = stream
                .message()
                .await
                .expect("a response")
                .expect("another");
            created += usize::from(response.created && !response.canceled);
        }
        watching.push((requests, stream));
    }
    let followers: Vec<_> = watching
        .into_iter()
        .map(|(requests, mut stream)| {
            tokio::spawn(async move {
                let mut seen = vec![0; WATCHERS_EACH];
                for _ in 0..WATCHERS_EACH * PUTS {
                    let response = stream
                        .message()
                        .await
                        .expect("a response")
                        .expect("another");
                    let [event] = &response.events[..] else {
                        panic!("one event at a time: {response:?}");
                    };
                    let watcher = usize::try_from(response.watch_id).expect("a watcher of ours");
                    let value = event.kv.clone().expect("a key").value;
                    assert_eq!(value, seen[watcher].to_string(), "each in its turn");
                    seen[watcher] += 1;
                }
                drop(requests);
                seen
            })
        })
        .collect();
    let client = patient(&cluster);
    for n in 0..PUTS {
        crate::put(&client, &format!("many/{n}"), &n.to_string()).await;
    }
    for follower in followers {
        let seen = tokio::time::timeout(PATIENCE * 2, follower).await;
        let seen = seen.expect("every event in time").expect("a follower");
        assert!(seen.iter().all(|puts| *puts == PUTS));
    }
    beside.stop("10000 watchers", 128 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_of_a_hundred_thousand_keys() {
    const KEYS: usize = 100_000;
    const READERS: usize = 4;
    let _turn = beside_others().await;
    let cluster = Arc::new(Cluster::builder().start().await);
    let loaders: Vec<_> = (0..10)
        .map(|loader| {
            let client = patient(&cluster);
            tokio::spawn(async move {
                for first in (loader * KEYS / 10..(loader + 1) * KEYS / 10).step_by(100) {
                    let ops = (first..first + 100)
                        .map(|n| put_op(format!("all/{n:06}"), vec![b'v'; 64], 0))
                        .collect();
                    txn(&client, ops).await.expect("a transaction");
                }
            })
        })
        .collect();
    for loader in loaders {
        loader.await.expect("a loader");
    }
    let beside = Beside::start(&cluster);
    let readers: Vec<_> = (0..READERS)
        .map(|reader| {
            let client = patient(&cluster);
            tokio::spawn(async move {
                let mut pairs = 0;
                if reader % 2 == 0 {
                    let answer = client.kv().range(prefix("all/")).await.expect("a range");
                    pairs += answer.into_inner().kvs.len();
                } else {
                    let stream = client.kv().range_stream(prefix("all/")).await;
                    let mut stream = stream.expect("a stream").into_inner();
                    while let Some(piece) = stream.message().await.expect("a piece") {
                        pairs += piece.range_response.map_or(0, |piece| piece.kvs.len());
                    }
                }
                pairs
            })
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.await.expect("a reader"), KEYS);
    }
    // some ten megabytes an answer, as pairs and as bytes, for two readers at once
    beside.stop("ranges of 100000 keys", 160 * MIB).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_and_values_at_their_limits() {
    const OPS_MAX: usize = 128;
    const REQUEST_BYTES_MAX: usize = 1_572_864;
    const ROUNDS: usize = 20;
    let _turn = beside_others().await;
    let cluster = Arc::new(Cluster::builder().start().await);
    let client = patient(&cluster);
    let beside = Beside::start(&cluster);
    for round in 0..ROUNDS {
        let ops = |count: usize, bytes: usize| -> Vec<pb::RequestOp> {
            (0..count)
                .map(|n| put_op(format!("txn/{n:03}"), vec![round as u8; bytes], 0))
                .collect()
        };
        txn(&client, ops(OPS_MAX, REQUEST_BYTES_MAX / OPS_MAX - 64))
            .await
            .expect("128 operations and a megabyte and a half");
        let status = txn(&client, ops(OPS_MAX + 1, 1)).await.unwrap_err();
        assert_eq!(
            status.message(),
            "etcdserver: too many operations in txn request"
        );
        let put = |bytes: usize| pb::PutRequest {
            key: "value".into(),
            value: vec![round as u8; bytes].into(),
            ..Default::default()
        };
        // room for the key and the frame of the request
        let most = REQUEST_BYTES_MAX - 64;
        client.kv().put(put(most)).await.expect("the largest value");
        let request = pb::RangeRequest {
            key: "value".into(),
            ..Default::default()
        };
        let found = client
            .kv()
            .range(request)
            .await
            .expect("it")
            .into_inner()
            .kvs;
        assert!(found[0].value == vec![round as u8; most]);
        let status = client.kv().put(put(REQUEST_BYTES_MAX)).await.unwrap_err();
        assert_eq!(status.message(), "etcdserver: request is too large");
    }
    assert_eq!(
        count(&client, "txn/").await,
        i64::try_from(OPS_MAX).unwrap()
    );
    // sixty megabytes were written, of which the newest entries of the log stay in memory
    beside.stop("requests at their limits", 256 * MIB).await;
}
