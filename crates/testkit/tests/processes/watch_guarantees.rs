//! What a watch promises: events come in order, once, all of them, whole revisions at a time; a watch
//! goes on where it was, on any member; and what a progress notice says has been told is told.
//!
//! Consumers rebuild the store from their events alone, while members are killed and paused, connections
//! end and history is compacted; what they have rebuilt is compared with what the members serve.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ferrite_testkit::{Client, Cluster, PATIENCE, Random, eventually, pb, soak};
use pb::watch_request::RequestUnion;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::beside_others;

type KeyValue = ferrite_proto::mvccpb::KeyValue;

/// Keys `g/000` to `g/149`.
const KEYS: u64 = 150;
/// A stream that is silent for longer is given up: its member may be dead, and notices are due.
const SILENCE: Duration = Duration::from_secs(3);

/// A range of keys as one watcher's events tell it.
#[derive(Default)]
struct Mirror {
    key: Vec<u8>,
    range_end: Vec<u8>,
    /// Everything up to this revision has been told.
    through: i64,
    pairs: BTreeMap<Vec<u8>, KeyValue>,
    /// Each change: its revision, the key, and what it became.
    log: Vec<(i64, Vec<u8>, Option<KeyValue>)>,
    notices: u64,
}

impl Mirror {
    fn of(key: &str, range_end: &str) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Mirror {
            key: key.into(),
            range_end: range_end.into(),
            ..Mirror::default()
        }))
    }

    fn create(&self, watch_id: i64, prev_kv: bool) -> pb::WatchCreateRequest {
        pb::WatchCreateRequest {
            key: self.key.clone().into(),
            range_end: self.range_end.clone().into(),
            start_revision: self.through + 1,
            progress_notify: true,
            prev_kv,
            watch_id,
            ..Default::default()
        }
    }

    /// A progress notice.
    fn notice(&mut self, revision: i64) {
        assert!(revision >= self.through, "a notice goes back");
        self.through = revision;
        self.notices += 1;
    }

    fn events(&mut self, response: &pb::WatchResponse, prev_kv: bool) {
        let revision = response.header.as_ref().expect("a header").revision;
        let mut last = 0;
        for event in &response.events {
            let kv = event.kv.clone().expect("what happened to which key");
            let at = kv.mod_revision;
            // told already: a second time, or after a notice that covers it, or torn in two
            assert!(at > self.through, "{at} after {}", self.through);
            assert!(at >= last, "{at} after {last}");
            assert!(at <= revision, "{at} under a header of {revision}");
            last = at;
            let key = kv.key.to_vec();
            let before = self.pairs.remove(&key);
            if prev_kv {
                assert_eq!(event.prev_kv, before, "what it was before {at}");
            }
            if event.r#type() == ferrite_proto::mvccpb::event::EventType::Delete {
                assert!(before.is_some(), "{key:?} was not there at {at}");
                self.log.push((at, key, None));
                continue;
            }
            // versions count every change, so one that was not told shows here
            let expected = match &before {
                Some(before) => (before.create_revision, before.version + 1),
                None => (at, 1),
            };
            assert_eq!(
                (kv.create_revision, kv.version),
                expected,
                "{key:?} at {at}"
            );
            self.log.push((at, key.clone(), Some(kv.clone())));
            self.pairs.insert(key, kv);
        }
        self.through = last;
    }

    /// What was there at a revision.
    fn at(&self, revision: i64) -> Vec<KeyValue> {
        let mut pairs = BTreeMap::new();
        for (at, key, became) in &self.log {
            if *at > revision {
                break;
            }
            match became {
                Some(kv) => pairs.insert(key, kv),
                None => pairs.remove(key),
            };
        }
        pairs.into_values().cloned().collect()
    }
}

type Shared = Arc<Mutex<Mirror>>;

fn locked(mirror: &Shared) -> MutexGuard<'_, Mirror> {
    mirror.lock().unwrap_or_else(PoisonError::into_inner)
}

fn asks(union: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest {
        request_union: Some(union),
    }
}

/// One stream of watchers, opened again and again wherever a member answers.
struct Follower {
    clients: Vec<Client>,
    mirrors: Vec<Shared>,
    random: Random,
    stop: Arc<AtomicBool>,
    streams: Arc<AtomicU64>,
}

impl Follower {
    async fn run(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            let member = usize::try_from(self.random.below(3)).unwrap();
            self.once(member).await;
            // not to spin while nobody answers
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Follows until the connection ends, or is let go of.
    async fn once(&mut self, member: usize) {
        let (requests, receiver) = tokio::sync::mpsc::unbounded_channel();
        // each second one asks for what was before
        let prev_kv = |index: usize| index.is_multiple_of(2);
        for (index, mirror) in self.mirrors.iter().enumerate() {
            let id = i64::try_from(index).unwrap() + 1;
            let create = locked(mirror).create(id, prev_kv(index));
            let _ = requests.send(asks(RequestUnion::CreateRequest(create)));
        }
        let mut watch = self.clients[member].watch();
        let opening = watch.watch(UnboundedReceiverStream::new(receiver));
        let Ok(Ok(stream)) = tokio::time::timeout(SILENCE, opening).await else {
            return;
        };
        self.streams.fetch_add(1, Ordering::Relaxed);
        let mut stream = stream.into_inner();
        for _ in 0..20 + self.random.below(600) {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let Ok(Ok(Some(response))) = tokio::time::timeout(SILENCE, stream.message()).await
            else {
                return;
            };
            assert!(!response.canceled, "{response:?}");
            if response.created {
                continue;
            }
            let revision = response.header.as_ref().expect("a header").revision;
            match usize::try_from(response.watch_id - 1) {
                Err(_) => {
                    assert!(response.events.is_empty());
                    for mirror in &self.mirrors {
                        locked(mirror).notice(revision);
                    }
                }
                Ok(index) if response.events.is_empty() => {
                    locked(&self.mirrors[index]).notice(revision);
                }
                Ok(index) => locked(&self.mirrors[index]).events(&response, prev_kv(index)),
            }
            if self.random.below(30) == 0 {
                let progress = pb::WatchProgressRequest {};
                let _ = requests.send(asks(RequestUnion::ProgressRequest(progress)));
            }
        }
    }
}

fn key(n: u64) -> String {
    format!("g/{:03}", n % KEYS)
}

fn put_op(n: u64, value: &str) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
            key: key(n).into(),
            value: value.to_owned().into(),
            ..Default::default()
        })),
    }
}

fn delete_op(from: u64, to: Option<u64>) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(pb::request_op::Request::RequestDeleteRange(
            pb::DeleteRangeRequest {
                key: key(from).into(),
                range_end: to.map_or_else(Vec::new, |to| key(to).into_bytes()).into(),
                ..Default::default()
            },
        )),
    }
}

/// Changes keys, one or many in a revision. What happens to a call that fails is all the same: the
/// members themselves are asked in the end.
async fn write(client: Client, writer: u64, mut random: Random, stop: Arc<AtomicBool>) {
    let mut n = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        n += 1;
        let value = format!("{writer}/{n}");
        let first = random.below(KEYS);
        let success = match random.below(10) {
            0 => vec![delete_op(first, None)],
            1 => vec![delete_op(
                first,
                Some((first + 1 + random.below(8)).min(KEYS - 1)),
            )],
            2 | 3 => {
                let puts = 2 + random.below(40);
                let mut ops: Vec<_> = (0..puts).map(|n| put_op(first + n, &value)).collect();
                ops.push(delete_op((first + puts) % KEYS, None));
                ops
            }
            _ => vec![put_op(first, &value)],
        };
        let txn = pb::TxnRequest {
            success,
            ..Default::default()
        };
        let _ = client.kv().txn(txn).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Compares what was rebuilt with what the members serve, at a revision.
async fn compare(cluster: &Cluster, mirrors: &[Shared], revision: i64) {
    let client = cluster.client_all();
    for mirror in mirrors {
        let (key, range_end, rebuilt) = {
            let mirror = locked(mirror);
            (
                mirror.key.clone(),
                mirror.range_end.clone(),
                mirror.at(revision),
            )
        };
        let request = pb::RangeRequest {
            key: key.clone().into(),
            range_end: range_end.into(),
            revision,
            ..Default::default()
        };
        let served = eventually("a range is answered", PATIENCE, async || {
            client.kv().range(request.clone()).await.ok()
        })
        .await
        .into_inner()
        .kvs;
        assert!(
            served == rebuilt,
            "{:?} at {revision}: served {served:?}, rebuilt {rebuilt:?}",
            String::from_utf8_lossy(&key)
        );
    }
}

fn told_by_all(mirrors: &[Shared]) -> i64 {
    let through = mirrors.iter().map(|mirror| locked(mirror).through);
    through.min().expect("there are mirrors")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_rebuilt_from_events_is_the_store() {
    let _turn = beside_others().await;
    let mut random = Random::announced("watch guarantees");
    let cluster = Cluster::builder()
        .members(3)
        .snapshot_count(1_000)
        .catchup_entries(200)
        .extra_args(&["--watch-progress-notify-interval=300ms"])
        .start()
        .await;
    let streams = [
        vec![Mirror::of("g/", "g0")],
        vec![
            Mirror::of("g/", "g0"),
            Mirror::of("g/05", "g/09"),
            Mirror::of("g/042", ""),
            Mirror::of("g/12", "\0"),
        ],
        vec![Mirror::of("g/042", ""), Mirror::of("g/0", "g/1")],
    ];
    let mirrors: Vec<Shared> = streams.iter().flatten().map(Arc::clone).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let opened = Arc::new(AtomicU64::new(0));
    let followers: Vec<_> = streams
        .into_iter()
        .map(|mirrors| {
            let follower = Follower {
                clients: (0..3).map(|member| cluster.client(member)).collect(),
                mirrors,
                random: random.clone(),
                stop: Arc::clone(&stop),
                streams: Arc::clone(&opened),
            };
            random.number();
            tokio::spawn(follower.run())
        })
        .collect();
    let still = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..6)
        .map(|writer| {
            random.number();
            let (random, still) = (random.clone(), Arc::clone(&still));
            tokio::spawn(write(cluster.client_all(), writer, random, still))
        })
        .collect();

    let (start, mut compacted, mut kills, mut checks) = (Instant::now(), 0_i64, 0, 0);
    while start.elapsed() < soak(12) || kills < 2 {
        tokio::time::sleep(Duration::from_millis(random.below(400))).await;
        assert!(followers.iter().all(|follower| !follower.is_finished()));
        let member = cluster.member(usize::try_from(random.below(3)).unwrap());
        match random.below(4) {
            0 => {
                member.kill9();
                tokio::time::sleep(Duration::from_millis(random.below(600))).await;
                member.start();
                member.ready(PATIENCE).await;
                kills += 1;
            }
            1 => {
                member.stop_signal();
                tokio::time::sleep(Duration::from_millis(random.below(600))).await;
                member.cont();
            }
            2 => {
                // never what a consumer has not been told yet: that would be its loss by right
                let revision = told_by_all(&mirrors) - i64::try_from(random.below(50)).unwrap();
                if revision > compacted {
                    compacted = revision;
                    let request = pb::CompactionRequest {
                        revision,
                        physical: false,
                    };
                    let _ = cluster.client_all().kv().compact(request).await;
                }
            }
            _ => {
                let through = told_by_all(&mirrors);
                if through > compacted {
                    let span = u64::try_from(through - compacted).unwrap();
                    let ago = i64::try_from(random.below(span)).unwrap();
                    compare(&cluster, &mirrors, through - ago).await;
                    checks += 1;
                }
            }
        }
    }
    still.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.expect("a writer");
    }
    let last = cluster.wait_healthy().await;
    eventually("everybody is told everything", PATIENCE, async || {
        assert!(followers.iter().all(|follower| !follower.is_finished()));
        (told_by_all(&mirrors) >= last).then_some(())
    })
    .await;
    for _ in 0..5 {
        let span = u64::try_from(last - compacted + 1).unwrap();
        let ago = i64::try_from(random.below(span)).unwrap();
        compare(&cluster, &mirrors, last - ago).await;
    }
    compare(&cluster, &mirrors, last).await;
    stop.store(true, Ordering::Relaxed);
    for follower in followers {
        follower.await.expect("a follower");
    }
    // two consumers of the same range were told the same, event by event
    assert!(locked(&mirrors[0]).log == locked(&mirrors[1]).log);
    assert!(locked(&mirrors[3]).log == locked(&mirrors[5]).log);
    let notices: u64 = mirrors.iter().map(|mirror| locked(mirror).notices).sum();
    eprintln!(
        "{last} revisions, compacted through {compacted}; {kills} kills, {} streams, {notices} notices, \
         {checks} comparisons on the way",
        opened.load(Ordering::Relaxed)
    );
    assert!(notices > 0, "nobody was ever told how far it is");
}
