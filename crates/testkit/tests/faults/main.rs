//! Real members on a real network and real disks, with everything wrong that can be: cut, slow and lossy links,
//! processes that stand still and are killed, disks that are full and that fail. Clients write down what they
//! see; [`history`] judges it.
//!
//! It takes root, for namespaces and mounts. Three minutes are part of the suite; `FERRITE_FAULTS_SECONDS` makes
//! it longer, `FERRITE_SEED` repeats the choices.

mod history;
mod net;
mod place;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ferrite_testkit::{Client, ClientConfig, Kind, PATIENCE, Random, eventually, pb};
use history::{Call, Event, What};
use net::{Link, Switch};
use place::Place;

const MEMBERS: usize = 3;
/// The place of clients in the switch, behind the members'.
const CLIENTS: usize = MEMBERS;
/// Keys that all clients fight over.
const KEYS: u64 = 5;
/// Bytes of a value: log and database are to grow, but nothing is ever compacted, as the whole history is looked
/// at: half an hour's has to fit a disk of a member twice, beside its log.
const VALUE_BYTES: usize = 1_500;
/// How long a member may take to serve once everything is well again.
const HEALED: Duration = Duration::from_secs(60);

struct Member {
    name: String,
    place: Place,
    address: String,
    arguments: Vec<String>,
    logs: PathBuf,
    runs: u32,
    child: Option<Child>,
}

impl Member {
    fn start(&mut self) {
        self.runs += 1;
        let log = File::create(self.log_path()).expect("a log file can be made");
        let program = Kind::Ferrite.server();
        let mut command = self.place.command(&program.display().to_string());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ETCD") {
                command.env_remove(name);
            }
        }
        let child = command
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor can be copied"))
            .stderr(log)
            .spawn()
            .expect("the member starts");
        self.child = Some(child);
    }

    fn log_path(&self) -> PathBuf {
        self.logs.join(format!("{}.{}.log", self.name, self.runs))
    }

    fn log(&self) -> String {
        let bytes = std::fs::read(self.log_path()).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether its process runs; one that has ended is collected.
    fn runs_now(&mut self) -> bool {
        match self.child.as_mut().map(Child::try_wait) {
            Some(Ok(None)) => true,
            Some(_) => {
                self.child = None;
                false
            }
            None => false,
        }
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _killed = child.kill();
            let _waited = child.wait();
        }
    }

    fn signal(&self, signal: &str) {
        if let Some(child) = &self.child {
            let _sent = place::here("kill", &[signal, &child.id().to_string()]);
        }
    }

    fn endpoint(&self) -> String {
        format!("http://{}:2379", self.address)
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(4_000);
            let tail: String = log.chars().skip(log[..from].chars().count()).collect();
            eprintln!("--- {}, end of its log:\n{tail}", self.name);
        }
    }
}

struct Cluster {
    members: Vec<Member>,
    switch: Switch,
    _folder: tempfile::TempDir,
}

impl Cluster {
    /// Makes everything; an error is what this machine does not let us have.
    fn new(seed: u64) -> Result<Self, String> {
        let folder = tempfile::Builder::new()
            .prefix("ferrite-faults-")
            .tempdir()
            .map_err(|error| error.to_string())?;
        // A network for benchmarks, by the book: it is nobody's.
        let process = std::process::id();
        let subnet = format!("198.18.{}", process % 250);
        let mut tunnels = Vec::new();
        let mut members = Vec::new();
        let initial: Vec<String> = (0..MEMBERS)
            .map(|at| format!("m{at}=http://{subnet}.{}:2380", at + 10))
            .collect();
        for at in 0..MEMBERS {
            let name = format!("m{at}");
            let place = Place::new(&folder.path().join(&name))?;
            let tunnel = format!("fz{process}x{at}");
            let device =
                net::tunnel(&tunnel).map_err(|error| format!("no tunnel device: {error}"))?;
            tunnels.push(device);
            let address = format!("{subnet}.{}", at + 10);
            place.link(&tunnel, &format!("{address}/24"))?;
            let arguments = [
                format!("--name={name}"),
                format!("--data-dir={}/data", place.disk.display()),
                format!("--listen-client-urls=http://{address}:2379"),
                format!("--advertise-client-urls=http://{address}:2379"),
                format!("--listen-peer-urls=http://{address}:2380"),
                format!("--initial-advertise-peer-urls=http://{address}:2380"),
                format!("--initial-cluster={}", initial.join(",")),
                "--initial-cluster-token=faults".to_owned(),
                "--heartbeat-interval=100".to_owned(),
                "--election-timeout=1000".to_owned(),
                "--snapshot-count=300".to_owned(),
                "--snapshot-catchup-entries=50".to_owned(),
                "--max-wals=2".to_owned(),
            ];
            members.push(Member {
                name,
                place,
                address,
                arguments: arguments.to_vec(),
                logs: folder.path().to_owned(),
                runs: 0,
                child: None,
            });
        }
        let own = format!("fz{process}c");
        let device = net::tunnel(&own).map_err(|error| format!("no tunnel device: {error}"))?;
        tunnels.push(device);
        let address = format!("{subnet}.{}/24", CLIENTS + 10);
        place::link(|arguments| place::here("ip", arguments), &own, &address)?;
        Ok(Cluster {
            members,
            switch: Switch::start(tunnels, seed),
            _folder: folder,
        })
    }

    async fn ready(&mut self) {
        for member in &mut self.members {
            let (mut ended, mut since) = (0, Instant::now());
            while !member.log().contains("ready to serve client requests") {
                if !member.runs_now() {
                    ended += 1;
                    assert!(ended < 2, "{} ends instead of serving", member.name);
                    member.start();
                    since = Instant::now();
                }
                assert!(since.elapsed() < HEALED, "{} does not serve", member.name);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }

    /// Everything is well again; members that are down are started.
    async fn heal(&mut self) {
        self.switch.set(|_, _| Link::default());
        for member in &mut self.members {
            member.signal("-CONT");
            member.place.empty();
            if !member.runs_now() {
                member.start();
            }
        }
        self.ready().await;
    }

    fn client(&self, at: usize) -> Client {
        client([self.members[at].endpoint()])
    }
}

fn client(endpoints: impl IntoIterator<Item = String>) -> Client {
    let mut config = ClientConfig::new(endpoints);
    config.call_timeout = Some(Duration::from_secs(3));
    config.dial_timeout = Duration::from_secs(1);
    Client::new(config).expect("addresses are good")
}

/// What all clients share.
struct Book {
    origin: Instant,
    calls: Mutex<Vec<Call>>,
    done: AtomicU64,
    stop: AtomicBool,
}

impl Book {
    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    fn note(&self, began: u64, ended: Option<u64>, what: What) {
        if ended.is_some() {
            self.done.fetch_add(1, Ordering::Relaxed);
        }
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.push(Call { began, ended, what });
    }
}

fn key(number: u64) -> String {
    format!("k{number}")
}

fn text(bytes: &[u8]) -> String {
    // The rest of a value is weight.
    let end = bytes.iter().position(|byte| *byte == b' ');
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

fn weighty(value: &str) -> Vec<u8> {
    let mut bytes = value.as_bytes().to_vec();
    bytes.resize(VALUE_BYTES.max(bytes.len()), b' ');
    bytes
}

fn put_request(key: &str, value: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: key.to_owned().into(),
        value: weighty(value).into(),
        ..pb::PutRequest::default()
    }
}

/// One client after another member, for as long as is wanted.
async fn act(book: Arc<Book>, endpoints: Vec<String>, number: u64, mut random: Random) {
    let mut serial = 0;
    let mut last: Option<(String, String)> = None;
    while !book.stop.load(Ordering::Relaxed) {
        let at = random.below(endpoints.len() as u64) as usize;
        let client = client([endpoints[at].clone()]);
        for _ in 0..20 {
            if book.stop.load(Ordering::Relaxed) {
                break;
            }
            serial += 1;
            let key = key(random.below(KEYS));
            let value = format!("{number}-{serial}");
            let began = book.now();
            let answered = match random.below(5) {
                0 | 1 => put(&book, &client, began, key, value).await,
                2 => {
                    let from = match &last {
                        Some((known, value)) if *known == key => value.clone(),
                        _ => "nothing".to_owned(),
                    };
                    swap(&book, &client, began, key, from, value).await
                }
                _ => match read(&book, &client, began, &key).await {
                    Some(found) => {
                        last = found.map(|value| (key, value));
                        true
                    }
                    None => false,
                },
            };
            if !answered {
                // Whoever got no answer goes to another member.
                tokio::time::sleep(Duration::from_millis(20)).await;
                break;
            }
            tokio::time::sleep(Duration::from_millis(random.below(12))).await;
        }
    }
}

async fn put(book: &Book, client: &Client, began: u64, key: String, value: String) -> bool {
    let answer = client.kv().put(put_request(&key, &value)).await;
    let ended = answer.is_ok().then(|| book.now());
    let revision = answer
        .ok()
        .and_then(|answer| answer.into_inner().header)
        .map(|header| header.revision);
    book.note(
        began,
        ended,
        What::Put {
            key,
            value,
            revision,
        },
    );
    ended.is_some()
}

async fn swap(
    book: &Book,
    client: &Client,
    began: u64,
    key: String,
    from: String,
    value: String,
) -> bool {
    let request = pb::TxnRequest {
        compare: vec![pb::Compare {
            key: key.clone().into(),
            result: pb::compare::CompareResult::Equal.into(),
            target: pb::compare::CompareTarget::Value.into(),
            target_union: Some(pb::compare::TargetUnion::Value(weighty(&from).into())),
            ..pb::Compare::default()
        }],
        success: vec![pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(put_request(
                &key, &value,
            ))),
        }],
        failure: Vec::new(),
    };
    let answer = client.kv().txn(request).await;
    let ended = answer.is_ok().then(|| book.now());
    let outcome = answer.ok().and_then(|answer| {
        let answer = answer.into_inner();
        Some((answer.succeeded, answer.header?.revision))
    });
    book.note(
        began,
        ended,
        What::Swap {
            key,
            from,
            value,
            outcome,
        },
    );
    ended.is_some()
}

/// What was found, if there was an answer.
async fn read(book: &Book, client: &Client, began: u64, key: &str) -> Option<Option<String>> {
    let request = pb::RangeRequest {
        key: key.to_owned().into(),
        ..pb::RangeRequest::default()
    };
    let answer = client.kv().range(request).await.ok()?.into_inner();
    let ended = book.now();
    let found = answer
        .kvs
        .first()
        .map(|kv| (text(&kv.value), kv.mod_revision));
    let revision = answer.header.map_or(0, |header| header.revision);
    book.note(
        began,
        Some(ended),
        What::Read {
            key: key.to_owned(),
            found: found.clone(),
            revision,
        },
    );
    Some(found.map(|(value, _)| value))
}

/// Watches everything from the first revision on, through one member, and goes on where it was when the stream
/// breaks; until it has been told of `until`, once that is known.
async fn watch(client: Client, until: Arc<AtomicU64>) -> Result<Vec<Event>, String> {
    use pb::watch_request::RequestUnion;
    let mut told: Vec<Event> = Vec::new();
    loop {
        let next = told.last().map_or(1, |event| event.revision + 1);
        let create = pb::WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(pb::WatchCreateRequest {
                key: vec![0].into(),
                range_end: vec![0].into(),
                start_revision: next,
                ..pb::WatchCreateRequest::default()
            })),
        };
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        let _sent = sender.try_send(create);
        let requests = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut service = client.watch();
        let opening = service.watch(requests);
        let opened = tokio::time::timeout(Duration::from_secs(3), opening).await;
        if let Ok(Ok(stream)) = opened {
            let mut stream = stream.into_inner();
            loop {
                let end = i64::try_from(until.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
                if end > 0 && told.last().is_some_and(|event| event.revision >= end) {
                    return Ok(told);
                }
                // A stream to a member that is cut off says nothing: another is opened after a while.
                let message = tokio::time::timeout(Duration::from_secs(3), stream.message()).await;
                let Ok(Ok(Some(message))) = message else {
                    break;
                };
                if message.canceled {
                    break;
                }
                for event in message.events {
                    let kv = event.kv.ok_or("an event without its key")?;
                    let event = Event {
                        revision: kv.mod_revision,
                        key: String::from_utf8_lossy(&kv.key).into_owned(),
                        value: text(&kv.value),
                    };
                    let last = told.last().map_or(0, |last| last.revision);
                    if event.revision <= last {
                        return Err(format!("{event:?} after revision {last}"));
                    }
                    told.push(event);
                }
            }
        }
        drop(sender);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What was done, for the summary.
#[derive(Default)]
struct Done(std::collections::BTreeMap<&'static str, u64>);

impl Done {
    fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }
}

/// One thing that goes wrong, and stays so for a while.
async fn go_wrong(cluster: &mut Cluster, random: &mut Random, done: &mut Done) {
    let victim = random.below(MEMBERS as u64) as usize;
    let hold = Duration::from_millis(500 + random.below(3_500));
    match random.below(12) {
        0 | 1 => {
            done.count("a member cut off from the others");
            cluster.switch.set(|from, to| Link {
                cut: (from == victim) != (to == victim) && from != CLIENTS && to != CLIENTS,
                ..Link::default()
            });
        }
        2 => {
            done.count("a member that hears and is not heard");
            cluster.switch.set(|from, to| Link {
                cut: from == victim && to != CLIENTS,
                ..Link::default()
            });
        }
        3 => {
            done.count("every member for itself");
            cluster.switch.set(|from, to| Link {
                cut: from != CLIENTS && to != CLIENTS,
                ..Link::default()
            });
        }
        4 => {
            done.count("a member cut off from clients too");
            cluster.switch.set(|from, to| Link {
                cut: (from == victim) != (to == victim),
                ..Link::default()
            });
        }
        5 | 6 => {
            done.count("slow links that lose, double and reorder");
            let lost = random.below(80);
            let delay = Duration::from_millis(random.below(60));
            cluster.switch.set(|_, _| Link {
                cut: false,
                lost,
                doubled: 10,
                delay,
                jitter: delay / 2 + Duration::from_millis(5),
            });
        }
        7 => {
            done.count("a member that stands still");
            cluster.members[victim].signal("-STOP");
        }
        8 => {
            let many = 1 + random.below(MEMBERS as u64) as usize;
            done.count(match many {
                1 => "one member killed",
                2 => "two members killed",
                _ => "all members killed",
            });
            for at in 0..many {
                cluster.members[(victim + at) % MEMBERS].kill();
            }
        }
        9 => {
            done.count("killed while the links are slow");
            cluster.switch.set(|_, _| Link {
                lost: 30,
                delay: Duration::from_millis(20),
                jitter: Duration::from_millis(20),
                ..Link::default()
            });
            cluster.members[victim].kill();
        }
        10 => {
            cluster.members[victim].place.fill();
            tokio::time::sleep(hold).await;
            done.count(if cluster.members[victim].runs_now() {
                "a full disk, and room again"
            } else {
                "a full disk that ended the member"
            });
        }
        _ => {
            cluster.members[victim].place.fail();
            tokio::time::sleep(hold * 2).await;
            done.count(if cluster.members[victim].runs_now() {
                "a failing disk, and a kill"
            } else {
                "a failing disk that ended the member"
            });
            cluster.members[victim].kill();
            let repaired = cluster.members[victim].place.repair();
            repaired.expect("the disk is there again");
            return;
        }
    }
    tokio::time::sleep(hold).await;
}

fn seconds() -> u64 {
    let wanted = std::env::var("FERRITE_FAULTS_SECONDS").ok();
    wanted.and_then(|text| text.parse().ok()).unwrap_or(180)
}

/// Clusters of containers and the like do not let everybody do this; a machine for tests must.
fn must_run() -> bool {
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| {
        use std::os::unix::fs::MetadataExt;
        own.uid() == 0
    });
    std::env::var_os("CI").is_some() && root && Path::new("/dev/net/tun").exists()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn members_keep_their_promises_on_a_bad_network_and_bad_disks() {
    let mut random = Random::announced("everything goes wrong");
    let mut cluster = match Cluster::new(random.number()) {
        Ok(cluster) => cluster,
        Err(why) if !must_run() => {
            eprintln!("SKIPPED: faults of real networks and disks: {why}");
            return;
        }
        Err(why) => panic!("this machine is to run it: {why}"),
    };
    for member in &mut cluster.members {
        member.start();
    }
    cluster.ready().await;
    let book = Arc::new(Book {
        origin: Instant::now(),
        calls: Mutex::new(Vec::new()),
        done: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let endpoints: Vec<String> = cluster.members.iter().map(Member::endpoint).collect();
    let until = Arc::new(AtomicU64::new(0));
    let watchers: Vec<_> = (0..MEMBERS)
        .map(|at| tokio::spawn(watch(cluster.client(at), Arc::clone(&until))))
        .collect();
    let clients: Vec<_> = (0..6)
        .map(|number| {
            let random = Random::of(random.number());
            tokio::spawn(act(Arc::clone(&book), endpoints.clone(), number, random))
        })
        .collect();
    let mut done = Done::default();
    let mut rounds = 0_u64;
    while book.origin.elapsed() < Duration::from_secs(seconds()) || rounds < 3 {
        go_wrong(&mut cluster, &mut random, &mut done).await;
        cluster.heal().await;
        // It serves again, through every member in turn.
        let before = book.done.load(Ordering::Relaxed);
        eventually("calls are answered again", HEALED, async || {
            (book.done.load(Ordering::Relaxed) >= before + 20).then_some(())
        })
        .await;
        rounds += 1;
    }
    book.stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("a client does not panic");
    }
    cluster.heal().await;

    // One more write, so that there is an end that everybody can wait for.
    let last = eventually("a last write", PATIENCE, async || {
        let request = pb::PutRequest {
            key: "end".into(),
            value: format!("end-{}", book.now()).into(),
            ..pb::PutRequest::default()
        };
        let answer = cluster.client(0).kv().put(request.clone()).await.ok()?;
        answer.into_inner().header.map(|header| header.revision)
    })
    .await;
    until.store(u64::try_from(last).unwrap_or(0), Ordering::Relaxed);
    let end = Arc::clone(&until);
    let whole = tokio::time::timeout(PATIENCE, watch(cluster.client(1), end)).await;
    let mut history = whole.expect("the history is told").expect("it is in order");
    let mut wrong = history::Wrong::new();
    for (at, watcher) in watchers.into_iter().enumerate() {
        let who = format!("the watcher at member {at}");
        match tokio::time::timeout(HEALED, watcher).await {
            Ok(Ok(Ok(told))) => wrong.extend(history::judge_watch(&who, &told, &history)),
            Ok(Ok(Err(what))) => wrong.push(format!("{who}: {what}")),
            Ok(Err(panic)) => wrong.push(format!("{who}: {panic}")),
            Err(_) => wrong.push(format!("{who} does not get to the end")),
        }
    }
    // The members agree about it all.
    let mut hashes = Vec::new();
    for at in 0..MEMBERS {
        let client = cluster.client(at);
        let hash = eventually("a hash", PATIENCE, async || {
            let request = pb::HashKvRequest { revision: last };
            let answer = client.maintenance().hash_kv(request).await.ok()?;
            Some(answer.into_inner().hash)
        })
        .await;
        hashes.push(hash);
    }
    assert!(hashes.iter().all(|hash| *hash == hashes[0]), "{hashes:?}");
    history.retain(|event| event.key != "end");
    let calls = std::mem::take(&mut *book.calls.lock().unwrap_or_else(PoisonError::into_inner));
    wrong.extend(history::judge(&calls, &history));
    let answered = calls.iter().filter(|call| call.ended.is_some()).count();
    let (passed, lost) = cluster.switch.counts();
    eprintln!(
        "{rounds} rounds; {} calls, {answered} answered; {} events; {passed} packets passed, {lost} lost",
        calls.len(),
        history.len()
    );
    for (what, times) in &done.0 {
        eprintln!("{times:>5} × {what}");
    }
    assert!(
        wrong.is_empty(),
        "{} things are wrong:\n{}",
        wrong.len(),
        wrong[..wrong.len().min(20)].join("\n")
    );
}
