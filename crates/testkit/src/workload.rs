//! Concurrent writers that remember what the cluster promised, and the check that it kept it.
//!
//! Each writer puts a key of its own name for each write, and after every third write also
//! overwrites its one hot key. A put whose call failed has an unknown outcome: it may show up or
//! not, but never twice. Readers ask single members for the hot keys, and hold them to what had been
//! acknowledged before they asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ferrite_client::{Client, pb};
use tokio::sync::{OwnedRwLockWriteGuard, RwLock};
use tokio::task::JoinHandle;

use crate::{Cluster, Contents, PATIENCE, dump, eventually};

/// How the keys of [`Workload::others`] start.
const OTHERS: &str = "others/";
/// Keys that each of their comparisons looks at.
const COMPARED: usize = 1_000;
/// Revisions of hot keys looked up in the past, for each writer.
const PAST_READS: usize = 20;

/// A load to put on a cluster.
#[derive(Debug, Clone)]
pub struct Workload {
    writers: usize,
    value_bytes: usize,
    pause: Duration,
    prefix: String,
    only: Option<usize>,
    readers: usize,
    others: usize,
}

impl Default for Workload {
    fn default() -> Self {
        Self::new()
    }
}

impl Workload {
    /// Four writers of 64-byte values, as fast as they can.
    #[must_use]
    pub fn new() -> Self {
        Self {
            writers: 4,
            value_bytes: 64,
            pause: Duration::ZERO,
            prefix: "load".to_owned(),
            only: None,
            readers: 0,
            others: 0,
        }
    }

    /// How many clients read linearizably at the same time, each from one member after another.
    #[must_use]
    pub fn readers(mut self, count: usize) -> Self {
        self.readers = count;
        self
    }

    /// How many clients write in other ways at the same time, into keys of their own that start with
    /// `OTHERS`: transactions whose comparison looks at a thousand keys, so that applying one takes
    /// its time before it writes; leases, and keys on them. Each write is one revision, whichever way
    /// its comparison goes. None of it is remembered: [`History::check`] compares it among the members.
    #[must_use]
    pub fn others(mut self, count: usize) -> Self {
        self.others = count;
        self
    }

    /// How many clients write at once.
    #[must_use]
    pub fn writers(mut self, count: usize) -> Self {
        self.writers = count;
        self
    }

    /// The length of each value.
    #[must_use]
    pub fn value_bytes(mut self, bytes: usize) -> Self {
        self.value_bytes = bytes;
        self
    }

    /// What each writer waits between two writes.
    #[must_use]
    pub fn pause(mut self, pause: Duration) -> Self {
        self.pause = pause;
        self
    }

    /// Begins every key; loads on one cluster need different ones.
    #[must_use]
    pub fn prefix(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.prefix);
        self
    }

    /// Writes through one member alone.
    #[must_use]
    pub fn through(mut self, member: usize) -> Self {
        self.only = Some(member);
        self
    }

    /// Starts writing.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    #[must_use]
    pub fn start(self, cluster: &Cluster) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let gate = Arc::new(RwLock::new(()));
        let hot: Arc<[AtomicU64]> = (0..self.writers).map(|_| AtomicU64::new(0)).collect();
        let endpoints = match self.only {
            Some(index) => vec![cluster.member(index).endpoint().to_owned()],
            None => cluster.endpoints(),
        };
        let writers = (0..self.writers)
            .map(|writer| {
                let mut config = cluster.config(endpoints.clone());
                config.call_timeout = Some(Duration::from_secs(3));
                let client = Client::new(config).expect("loopback endpoints are good");
                tokio::spawn(write(
                    client,
                    self.clone(),
                    writer,
                    Arc::clone(&stop),
                    Arc::clone(&acknowledged),
                    Arc::clone(&hot),
                    Arc::clone(&gate),
                ))
            })
            .collect();
        let readers = (0..self.readers)
            .map(|reader| {
                let clients = cluster
                    .endpoints()
                    .into_iter()
                    .map(|endpoint| {
                        let mut config = cluster.config(vec![endpoint]);
                        config.call_timeout = Some(Duration::from_secs(3));
                        Client::new(config).expect("loopback endpoints are good")
                    })
                    .collect();
                let (stop, hot) = (Arc::clone(&stop), Arc::clone(&hot));
                tokio::spawn(read(clients, self.prefix.clone(), reader, stop, hot))
            })
            .collect();
        let others = (0..self.others)
            .map(|other| {
                let mut config = cluster.config(endpoints.clone());
                config.call_timeout = Some(Duration::from_secs(3));
                let client = Client::new(config).expect("loopback endpoints are good");
                let (stop, gate) = (Arc::clone(&stop), Arc::clone(&gate));
                tokio::spawn(write_otherwise(client, other, self.pause, stop, gate))
            })
            .collect();
        Load {
            gate,
            readers,
            others,
            stop,
            acknowledged,
            writers,
            value_bytes: self.value_bytes,
        }
    }
}

/// One put.
#[derive(Debug, Clone)]
pub struct Write {
    /// The key.
    pub key: String,
    /// What tells this write's value from another's.
    pub number: u64,
    /// The length of the value.
    pub bytes: usize,
    /// The revision it was acknowledged with; `None` if its outcome is unknown.
    pub revision: Option<i64>,
}

impl Write {
    /// A value that only this write could have left.
    fn value(&self) -> Vec<u8> {
        value(&self.key, self.number, self.bytes)
    }
}

async fn write(
    client: Client,
    workload: Workload,
    writer: usize,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    hot: Arc<[AtomicU64]>,
    gate: Arc<RwLock<()>>,
) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let prefix = &workload.prefix;
        let key = if number % 4 == 3 {
            format!("{prefix}/{writer}/hot")
        } else {
            format!("{prefix}/{writer}/{number:08}")
        };
        let request = pb::PutRequest {
            key: key.clone().into(),
            value: value(&key, number, workload.value_bytes).into(),
            ..Default::default()
        };
        let open = gate.read().await;
        let outcome = client.kv().put(request).await;
        drop(open);
        let revision = match outcome {
            Ok(response) => {
                acknowledged.fetch_add(1, Ordering::Relaxed);
                if number % 4 == 3 {
                    hot[writer].store(number, Ordering::SeqCst);
                }
                response.into_inner().header.map(|header| header.revision)
            }
            Err(_) => {
                // Not to spin while nothing answers.
                tokio::time::sleep(Duration::from_millis(10)).await;
                None
            }
        };
        writes.push(Write {
            key,
            number,
            bytes: workload.value_bytes,
            revision,
        });
        number += 1;
        if !workload.pause.is_zero() {
            tokio::time::sleep(workload.pause).await;
        }
    }
    writes
}

/// A put of an [`Workload::others`] client as an operation of a transaction.
fn other_put(key: &str, value: &str) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(pb::PutRequest {
            key: format!("{OTHERS}{key}").into(),
            value: value.to_owned().into(),
            ..Default::default()
        })),
    }
}

/// Fills the keys that comparisons look at; again and again until it has been acknowledged.
async fn fill_others(client: &Client, stop: &AtomicBool) {
    let keys: Vec<usize> = (0..COMPARED).collect();
    for part in keys.chunks(100) {
        let success: Vec<pb::RequestOp> = part
            .iter()
            .map(|n| other_put(&format!("compared/{n:06}"), "x"))
            .collect();
        let request = pb::TxnRequest {
            success,
            ..Default::default()
        };
        while client.kv().txn(request.clone()).await.is_err() && !stop.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn write_otherwise(
    client: Client,
    other: usize,
    pause: Duration,
    stop: Arc<AtomicBool>,
    gate: Arc<RwLock<()>>,
) {
    let filling = gate.read().await;
    fill_others(&client, &stop).await;
    drop(filling);
    let compare = pb::Compare {
        key: format!("{OTHERS}compared/").into(),
        range_end: format!("{OTHERS}compared0").into(),
        result: pb::compare::CompareResult::Greater.into(),
        target: pb::compare::CompareTarget::Version.into(),
        target_union: Some(pb::compare::TargetUnion::Version(0)),
    };
    let mut number = 0_u64;
    while !stop.load(Ordering::Relaxed) {
        number += 1;
        let open = gate.read().await;
        let done = if number.is_multiple_of(8) {
            let request = pb::LeaseGrantRequest { ttl: 3_600, id: 0 };
            match client.lease().lease_grant(request).await {
                Ok(granted) => {
                    let request = pb::PutRequest {
                        key: format!("{OTHERS}{other}/leased/{number:08}").into(),
                        value: "x".into(),
                        lease: granted.into_inner().id,
                        ..Default::default()
                    };
                    client.kv().put(request).await.is_ok()
                }
                Err(_) => false,
            }
        } else {
            let request = pb::TxnRequest {
                compare: vec![compare.clone()],
                success: vec![other_put(&format!("{other}/{number:08}"), "true")],
                failure: vec![other_put(&format!("{other}/{number:08}"), "false")],
            };
            client.kv().txn(request).await.is_ok()
        };
        drop(open);
        let rest = if done {
            pause
        } else {
            Duration::from_millis(10)
        };
        if !rest.is_zero() {
            tokio::time::sleep(rest).await;
        }
    }
}

/// What a reader has seen.
#[derive(Debug, Default)]
struct Reads {
    answered: usize,
    /// Each a sentence.
    wrong: Vec<String>,
}

async fn read(
    clients: Vec<Client>,
    prefix: String,
    reader: usize,
    stop: Arc<AtomicBool>,
    hot: Arc<[AtomicU64]>,
) -> Reads {
    let mut reads = Reads::default();
    let (mut newest, mut newest_from) = (0, 0);
    let mut turn = reader;
    while !stop.load(Ordering::Relaxed) {
        turn += 1;
        let (member, writer) = (turn % clients.len(), turn / clients.len() % hot.len());
        let key = format!("{prefix}/{writer}/hot");
        let floor = hot[writer].load(Ordering::SeqCst);
        let request = pb::RangeRequest {
            key: key.clone().into(),
            ..Default::default()
        };
        let Ok(response) = clients[member].kv().range(request).await else {
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let response = response.into_inner();
        reads.answered += 1;
        let revision = response.header.map_or(0, |header| header.revision);
        if revision < newest {
            reads.wrong.push(format!(
                "member {member} answered at revision {revision} after {newest} had been read from member {newest_from}"
            ));
        }
        if revision > newest {
            (newest, newest_from) = (revision, member);
        }
        let number = response.kvs.first().and_then(|pair| number_in(&pair.value));
        if floor > 0 && number.is_none_or(|number| number < floor) {
            reads.wrong.push(format!(
                "member {member} served write {number:?} of {key} after write {floor} was acknowledged"
            ));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    reads
}

/// The number of the write that left this value.
fn number_in(value: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    text.split_once('#')?.1.split_once(':')?.0.parse().ok()
}

fn value(key: &str, number: u64, length: usize) -> Vec<u8> {
    let head = format!("{key}#{number}:");
    head.bytes().cycle().take(length.max(head.len())).collect()
}

/// Writers at work.
#[derive(Debug)]
pub struct Load {
    gate: Arc<RwLock<()>>,
    readers: Vec<JoinHandle<Reads>>,
    others: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
    writers: Vec<JoinHandle<Vec<Write>>>,
    value_bytes: usize,
}

impl Load {
    /// Writes acknowledged so far.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until this many more writes were acknowledged.
    ///
    /// # Panics
    /// If that takes longer than [`PATIENCE`].
    pub async fn wait_for(&self, more: u64) {
        self.wait_for_within(more, PATIENCE).await;
    }

    /// As [`Load::wait_for`], with a limit of one's own.
    ///
    /// # Panics
    /// If that takes longer.
    pub async fn wait_for_within(&self, more: u64, within: Duration) {
        let goal = self.acknowledged() + more;
        let what = format!("{more} more writes are acknowledged");
        eventually(&what, within, async || {
            (self.acknowledged() >= goal).then_some(())
        })
        .await;
    }

    /// Holds the writers back, all calls ended, until what this returns is dropped.
    pub async fn hold(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.gate).write_owned().await
    }

    /// Stops the writers and hands over what they remember.
    ///
    /// # Panics
    /// If a writer panicked.
    pub async fn stop(self) -> History {
        self.stop.store(true, Ordering::Relaxed);
        let mut clients = Vec::new();
        for writer in self.writers {
            clients.push(writer.await.expect("a writer does not panic"));
        }
        for other in self.others {
            other.await.expect("a writer does not panic");
        }
        let mut history = History {
            clients,
            value_bytes: self.value_bytes,
            ..History::default()
        };
        for reader in self.readers {
            let reads = reader.await.expect("a reader does not panic");
            history.reads += reads.answered;
            history.wrong_reads.extend(reads.wrong);
        }
        history
    }
}

/// What was written, by client, in order.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The writes of each client.
    pub clients: Vec<Vec<Write>>,
    /// Linearizable reads answered during the load.
    pub reads: usize,
    /// Those that were not linearizable, each a sentence.
    pub wrong_reads: Vec<String>,
    value_bytes: usize,
    compacted: i64,
}

impl History {
    /// Adds another load's history on the same cluster (another prefix).
    pub fn merge(&mut self, other: History) {
        self.value_bytes = self.value_bytes.max(other.value_bytes);
        self.clients.extend(other.clients);
        self.reads += other.reads;
        self.wrong_reads.extend(other.wrong_reads);
    }

    /// Somebody compacted up to this revision meanwhile: nothing is looked up so far in the past.
    pub fn compacted(&mut self, revision: i64) {
        self.compacted = self.compacted.max(revision);
    }

    /// Writes acknowledged, and writes of unknown outcome.
    #[must_use]
    pub fn counts(&self) -> (usize, usize) {
        let all = self.clients.iter().flatten().count();
        let acknowledged = self.acknowledged().count();
        (acknowledged, all - acknowledged)
    }

    fn acknowledged(&self) -> impl Iterator<Item = (&Write, i64)> {
        self.clients
            .iter()
            .flatten()
            .filter_map(|write| Some((write, write.revision?)))
    }

    /// Waits until the whole cluster answers, then asserts that every member, but those that were
    /// stopped, serves every acknowledged write at its revision, linearizably and serializably, that all members serve
    /// exactly the same, that no write shows up twice or altered, that revisions are unique and rise
    /// for each client, and that the members' hashes are equal. Prints the counts.
    ///
    /// # Panics
    /// If any of it does not hold.
    pub async fn check(&self, cluster: &Cluster) {
        assert!(
            self.wrong_reads.is_empty(),
            "{} of {} reads: {:?}",
            self.wrong_reads.len(),
            self.reads,
            &self.wrong_reads[..self.wrong_reads.len().min(5)]
        );
        self.check_revisions();
        cluster.wait_healthy().await;
        let mut reference: Option<Contents> = None;
        let serving: Vec<_> = (cluster.members().iter())
            .filter(|member| member.serving())
            .collect();
        for member in &serving {
            let index = member.index();
            let client = cluster.client(index);
            for serializable in [false, true] {
                // All at the first reading's revision: a write of unknown outcome may land late.
                let at = reference.as_ref().map_or(0, |first| first.revision);
                let contents = dump(&client, at, serializable, self.value_bytes)
                    .await
                    .unwrap_or_else(|status| panic!("reading member {index}: {status}"));
                match &reference {
                    Some(reference) => assert_same(reference, &contents, index, serializable),
                    None => {
                        self.check_contents(&contents);
                        reference = Some(contents);
                    }
                }
            }
            self.check_past(&client, index).await;
        }
        let hash = cluster.hash_kv_all(0).await;
        let (acknowledged, unknown) = self.counts();
        eprintln!(
            "checked {} members: {acknowledged} acknowledged writes, {unknown} of unknown outcome, {} reads, HashKV {hash}",
            serving.len(),
            self.reads
        );
    }

    fn check_revisions(&self) {
        let mut seen: BTreeMap<i64, &Write> = BTreeMap::new();
        for (write, revision) in self.acknowledged() {
            if let Some(other) = seen.insert(revision, write) {
                panic!("revision {revision} was given twice: {other:?} and {write:?}");
            }
        }
        for client in &self.clients {
            let revisions: Vec<i64> = client.iter().filter_map(|w| w.revision).collect();
            assert!(
                revisions.is_sorted(),
                "a client's revisions do not rise: {revisions:?}"
            );
        }
    }

    fn check_contents(&self, contents: &Contents) {
        let pairs: BTreeMap<&[u8], _> = contents
            .pairs
            .iter()
            .map(|pair| (pair.key.as_ref(), pair))
            .collect();
        let mut by_key: BTreeMap<&str, Vec<&Write>> = BTreeMap::new();
        for write in self.clients.iter().flatten() {
            by_key.entry(&write.key).or_default().push(write);
        }
        for (key, writes) in by_key {
            let last = writes.iter().rev().find(|write| write.revision.is_some());
            let Some(pair) = pairs.get(key.as_bytes()) else {
                assert!(last.is_none(), "an acknowledged write is lost: {last:?}");
                continue;
            };
            let writer = writes
                .iter()
                .find(|write| pair.value == write.value())
                .unwrap_or_else(|| panic!("{key} holds a value that nobody wrote: {pair:?}"));
            let floor = last.map_or(0, |last| last.number);
            assert!(
                writer.number >= floor,
                "{key} holds the value of {writer:?}; {last:?} was acknowledged after it"
            );
            if let Some(revision) = writer.revision {
                assert_eq!(pair.mod_revision, revision, "{key}: revision of {writer:?}");
            }
            let known = writes
                .iter()
                .filter(|write| write.revision.is_some())
                .count();
            let version = usize::try_from(pair.version).expect("a version is not negative");
            assert!(
                (known..=writes.len()).contains(&version),
                "{key} has version {version} after {known} acknowledged writes of {}",
                writes.len()
            );
        }
    }

    /// Some of each hot key's values at the very revisions they were acknowledged with.
    async fn check_past(&self, client: &Client, index: usize) {
        for writes in &self.clients {
            let hot: Vec<(&Write, i64)> = writes
                .iter()
                .filter(|write| write.key.ends_with("/hot"))
                .filter_map(|write| Some((write, write.revision?)))
                .filter(|(_, revision)| *revision > self.compacted)
                .collect();
            for (write, revision) in hot.iter().step_by(hot.len() / PAST_READS + 1) {
                let request = pb::RangeRequest {
                    key: write.key.clone().into(),
                    revision: *revision,
                    serializable: true,
                    ..Default::default()
                };
                let response = client.kv().range(request).await;
                let response = response
                    .unwrap_or_else(|status| panic!("member {index} at {revision}: {status}"));
                let pairs = response.into_inner().kvs;
                assert!(
                    pairs.len() == 1
                        && pairs[0].mod_revision == *revision
                        && pairs[0].value == write.value(),
                    "member {index} at revision {revision} serves {pairs:?} for {write:?}"
                );
            }
        }
    }
}

fn assert_same(left: &Contents, right: &Contents, index: usize, serializable: bool) {
    for (a, b) in left.pairs.iter().zip(&right.pairs) {
        assert_eq!(
            a, b,
            "member {index} differs (serializable: {serializable})"
        );
    }
    assert_eq!(
        (left.revision, left.pairs.len()),
        (right.revision, right.pairs.len()),
        "member {index}: revision and number of pairs (serializable: {serializable})"
    );
}

/// Waits for a put to be accepted by any member, trying again at once on failure.
///
/// # Panics
/// If none is within [`PATIENCE`].
pub async fn accepted(client: &Client, key: &str) -> i64 {
    eventually("a put is accepted", PATIENCE, async || {
        let request = pb::PutRequest {
            key: key.to_owned().into(),
            value: "accepted".into(),
            ..Default::default()
        };
        let response = client.kv().put(request).await.ok()?.into_inner();
        response.header.map(|header| header.revision)
    })
    .await
}
