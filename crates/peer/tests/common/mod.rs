//! Members made of a transport, a server and a handler that writes down what it is told.
#![allow(dead_code)] // each test binary uses its part

use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ferrite_peer::{
    Config, Fallback, Handler, Refused, SnapshotSource, Transport, full_body, serve,
};
use ferrite_proto::raftpb::{Message, MessageType};
use http::Response;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub const CLUSTER: u64 = 0xcafe;

type Answer = Box<dyn Fn(&Message) -> Vec<Message> + Send + Sync>;

#[derive(Default)]
pub struct Node {
    pub received: Mutex<Vec<Message>>,
    pub removed: Mutex<Vec<u64>>,
    pub unreachable: Mutex<BTreeMap<u64, u64>>,
    pub snapshots: Mutex<Vec<(u64, bool)>>,
    pub told_removed: AtomicBool,
    pub full: AtomicBool,
    pub source: Mutex<Option<(Vec<u8>, u64)>>,
    pub answer: OnceLock<Answer>,
    pub transport: OnceLock<Transport>,
    pub count: AtomicU64,
    /// How long a received database is looked at, how many are, and whether two ever were at once.
    pub look: Mutex<Duration>,
    pub looking: AtomicU64,
    pub overlapped: AtomicBool,
}

impl Handler for Node {
    fn receive(&self, msg: Message) -> Result<(), Refused> {
        if self.full.load(Ordering::Relaxed) {
            return Err(Refused::Full);
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        if let (Some(answer), Some(transport)) = (self.answer.get(), self.transport.get()) {
            transport.send(answer(&msg));
        }
        self.received.lock().push(msg);
        Ok(())
    }
    fn is_removed(&self, id: u64) -> bool {
        self.removed.lock().contains(&id)
    }
    fn report_unreachable(&self, id: u64) {
        *self.unreachable.lock().entry(id).or_default() += 1;
    }
    fn report_snapshot(&self, id: u64, ok: bool) {
        self.snapshots.lock().push((id, ok));
    }
    fn removed_by_cluster(&self) {
        self.told_removed.store(true, Ordering::Relaxed);
    }
    fn check_snapshot(&self, _: &std::path::Path, _: &Message) -> Result<(), String> {
        let until = Instant::now() + *self.look.lock();
        let first = self.looking.fetch_add(1, Ordering::SeqCst) == 0;
        while first && Instant::now() < until && self.looking.load(Ordering::SeqCst) == 1 {
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.looking.fetch_sub(1, Ordering::SeqCst) > 1 {
            self.overlapped.store(true, Ordering::SeqCst);
        }
        Ok(())
    }
    fn open_snapshot(&self, msg: &Message) -> Result<SnapshotSource, String> {
        let (bytes, size) = self.source.lock().clone().ok_or("no database")?;
        let mut message = msg.clone();
        if let Some(snapshot) = &mut message.snapshot {
            snapshot.data = (&b"{\"membership\":1}"[..]).into();
        }
        let read: Box<dyn Read + Send> = Box::new(std::io::Cursor::new(bytes));
        Ok(SnapshotSource {
            message,
            size,
            read,
        })
    }
}

impl Node {
    pub fn of_type(&self, msg_type: MessageType) -> Vec<Message> {
        let received = self.received.lock();
        received
            .iter()
            .filter(|m| m.msg_type == msg_type as i32)
            .cloned()
            .collect()
    }
}

pub struct Member {
    pub id: u64,
    pub addr: SocketAddr,
    pub node: Arc<Node>,
    pub transport: Transport,
    pub snap_dir: Option<tempfile::TempDir>,
    stop: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<()>>,
}

#[derive(Clone)]
pub struct Options {
    pub cluster_id: u64,
    pub version: String,
    pub min_version: String,
    pub read_timeout: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            cluster_id: CLUSTER,
            version: "3.7.1".into(),
            min_version: "3.0.0".into(),
            read_timeout: Duration::from_secs(5),
        }
    }
}

impl Member {
    pub async fn start(id: u64) -> Member {
        Member::start_at(
            id,
            "127.0.0.1:0".parse().expect("address"),
            Options::default(),
        )
        .await
    }

    pub async fn start_with(id: u64, options: Options) -> Member {
        Member::start_at(id, "127.0.0.1:0".parse().expect("address"), options).await
    }

    pub async fn start_at(id: u64, addr: SocketAddr, options: Options) -> Member {
        let listener = TcpListener::bind(addr).await.expect("a port");
        Member::on(id, listener, options).await
    }

    pub async fn on(id: u64, listener: TcpListener, options: Options) -> Member {
        let addr = listener.local_addr().expect("an address");
        let snap_dir = tempfile::tempdir().expect("a directory");
        let node = Arc::new(Node::default());
        let config = Config {
            member_id: id,
            cluster_id: options.cluster_id,
            local_peer_urls: vec![format!("http://{addr}")],
            server_version: options.version,
            min_cluster_version: options.min_version,
            snap_dir: snap_dir.path().to_owned(),
            dial_timeout: Duration::from_secs(2),
            read_timeout: options.read_timeout,
            write_timeout: options.read_timeout,
            connections_max: 100,
        };
        let transport = Transport::start(config, node.clone(), tokio::runtime::Handle::current());
        node.transport
            .set(transport.clone())
            .ok()
            .expect("set once");
        let fallback: Fallback = Arc::new(|request| {
            Box::pin(async move {
                let path = request.uri().path().to_owned();
                Response::new(full_body(format!("{{\"path\":\"{path}\"}}")))
            })
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let server = tokio::spawn(serve(listener, transport.clone(), fallback, async {
            let _ = stopped.await;
        }));
        Member {
            id,
            addr,
            node,
            transport,
            snap_dir: Some(snap_dir),
            stop: Some(stop),
            server: Some(server),
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn knows(&self, other: &Member) {
        self.transport.add_peer(other.id, &[other.url()]);
    }

    /// Stops as a process would end: connections close, the port is free.
    pub async fn stop(mut self) -> SocketAddr {
        self.transport.stop();
        drop(self.stop.take());
        if let Some(server) = self.server.take() {
            server.await.expect("the server ends");
        }
        self.addr
    }

    pub fn message(&self, msg_type: MessageType, to: u64) -> Message {
        Message {
            msg_type: msg_type as i32,
            from: self.id,
            to,
            term: 3,
            ..Default::default()
        }
    }

    /// Both streams to the other member are attached, so nothing takes the pipeline.
    pub async fn connected(&self, to: &Member) {
        let slots = || {
            log_count(
                &[
                    ("remote-peer-id", &format!("{:x}", to.id)),
                    ("local-member-id", &format!("{:x}", self.id)),
                ],
                "established TCP streaming",
            )
        };
        eventually("streams in both directions", || slots() >= 4).await;
    }
}

pub async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    within(Duration::from_secs(15), what, &mut done).await;
}

pub async fn within(limit: Duration, what: &str, done: &mut impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    begun.elapsed()
}

/// A log line: level, message, fields.
#[derive(Clone, Debug)]
pub struct Line {
    pub at: Instant,
    pub message: String,
    pub fields: BTreeMap<String, String>,
}

static LINES: Mutex<Vec<Line>> = Mutex::new(Vec::new());

struct Recorder;

impl tracing::field::Visit for Line {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" {
            self.message = text;
        } else {
            self.fields.insert(field.name().to_owned(), text);
        }
    }
    fn record_str(&mut self, field: &tracing::field::Field, value: &str) {
        self.fields
            .insert(field.name().to_owned(), value.to_owned());
    }
}

impl tracing::Subscriber for Recorder {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        metadata.target().starts_with("ferrite_peer") && *metadata.level() <= tracing::Level::INFO
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = Line {
            at: Instant::now(),
            message: String::new(),
            fields: BTreeMap::new(),
        };
        event.record(&mut line);
        LINES.lock().push(line);
    }
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

/// Records log lines of the whole test binary; members of different tests have different IDs.
pub fn record_logs() {
    let _ = tracing::subscriber::set_global_default(Recorder);
}

pub fn log_lines(fields: &[(&str, &str)], message: &str) -> Vec<Line> {
    LINES
        .lock()
        .iter()
        .filter(|line| {
            line.message.starts_with(message)
                && fields
                    .iter()
                    .all(|(k, v)| line.fields.get(*k).is_some_and(|have| have == v))
        })
        .cloned()
        .collect()
}

pub fn log_count(fields: &[(&str, &str)], message: &str) -> usize {
    log_lines(fields, message).len()
}

/// One HTTP/1.1 request by hand; the answer as text, read to the end of the connection.
pub async fn raw(addr: SocketAddr, request: &[u8]) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(addr).await.expect("connect");
    stream.write_all(request).await.expect("write");
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    read.expect("an answer in time").expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}
