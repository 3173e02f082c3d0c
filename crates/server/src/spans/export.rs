//! Spans on their way to the collector, by OTLP over gRPC, from a thread of their own.
//!
//! A collector that is away, slow or wrong costs spans and nothing else: they are dropped, counted, and
//! the count is logged once in a while.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use ferrite_proto::opentelemetry_proto_collector_trace_v1 as otlp;
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use otlp::trace_service_client::TraceServiceClient;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};
use tonic::body::Body;
use tower_service::Service;

use super::{KIND_SERVER, Settings, text};

/// Spans that may wait, as many as in the original.
const QUEUE_MAX: usize = 2_048;
/// Spans that are sent at once, as many as in the original.
const BATCH_MAX: usize = 512;
/// How long a span waits for others to go with.
const GATHER: Duration = Duration::from_secs(1);
/// How long a collector may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the end of the process waits for it.
const STOP_TIMEOUT: Duration = Duration::from_secs(1);
/// Least time between two lines about what was lost.
const TELL_EVERY: Duration = Duration::from_secs(60);

/// As the original names what made the spans of calls.
const SCOPE_CALLS: &str =
    "go.opentelemetry.io/contrib/instrumentation/google.golang.org/grpc/otelgrpc";
/// And of the steps within them.
const SCOPE_STEPS: &str = "go.etcd.io/etcd";

/// Spans that wait.
pub struct Queue {
    spans: Mutex<VecDeque<otlp::Span>>,
    dropped: AtomicU64,
    changed: Notify,
    stop: Mutex<Option<oneshot::Sender<std::sync::mpsc::Sender<()>>>>,
}

impl Queue {
    /// Starts the thread.
    pub fn start(settings: &Settings) -> std::io::Result<Arc<Self>> {
        let (stop, stopped) = oneshot::channel();
        let queue = Arc::new(Queue {
            spans: Mutex::default(),
            dropped: AtomicU64::new(0),
            changed: Notify::new(),
            stop: Mutex::new(Some(stop)),
        });
        let exporter = Exporter {
            queue: Arc::clone(&queue),
            settings: settings.clone(),
            connection: None,
            told: None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        std::thread::Builder::new()
            .name("spans".into())
            .spawn(move || runtime.block_on(exporter.run(stopped)))?;
        Ok(queue)
    }

    /// Takes a span that has ended, or drops it.
    pub fn push(&self, span: otlp::Span) {
        let mut spans = self.spans.lock();
        if spans.len() >= QUEUE_MAX {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        spans.push_back(span);
        let wake = spans.len() == 1 || spans.len() == BATCH_MAX;
        drop(spans);
        if wake {
            self.changed.notify_one();
        }
    }

    /// Sends what is there, for a moment at most, and ends the thread.
    pub fn stop(&self) {
        let Some(stop) = self.stop.lock().take() else {
            return;
        };
        let (done, wait) = std::sync::mpsc::channel();
        if stop.send(done).is_ok() {
            // Whatever is not sent by then is lost, as is said nowhere: the process ends.
            let _late = wait.recv_timeout(STOP_TIMEOUT);
        }
    }

    fn take(&self) -> Vec<otlp::Span> {
        let mut spans = self.spans.lock();
        let count = spans.len().min(BATCH_MAX);
        spans.drain(..count).collect()
    }

    /// Waits for a span, and then a moment for others.
    async fn gathered(&self) {
        while self.spans.lock().is_empty() {
            self.changed.notified().await;
        }
        let deadline = Instant::now() + GATHER;
        while self.spans.lock().len() < BATCH_MAX {
            let more = tokio::time::timeout_at(deadline, self.changed.notified());
            if more.await.is_err() {
                return;
            }
        }
    }
}

struct Exporter {
    queue: Arc<Queue>,
    settings: Settings,
    connection: Option<SendRequest<Body>>,
    told: Option<Instant>,
}

impl Exporter {
    async fn run(mut self, mut stopped: oneshot::Receiver<std::sync::mpsc::Sender<()>>) {
        loop {
            let queue = Arc::clone(&self.queue);
            tokio::select! {
                () = queue.gathered() => self.send().await,
                done = &mut stopped => {
                    // The process goes on without this thread after a moment.
                    while !self.queue.spans.lock().is_empty() {
                        self.send().await;
                    }
                    if let Ok(done) = done {
                        let _gone = done.send(());
                    }
                    return;
                }
            }
        }
    }

    async fn send(&mut self) {
        let batch = self.queue.take();
        let count = batch.len() as u64;
        let sent = timeout(EXPORT_TIMEOUT, self.export(batch)).await;
        let error = match sent {
            Ok(Ok(rejected)) if rejected.is_empty() => None,
            Ok(Ok(rejected)) => Some(rejected),
            Ok(Err(error)) => Some(error),
            Err(_) => Some(format!("no answer within {EXPORT_TIMEOUT:?}")),
        };
        if let Some(error) = error {
            self.connection = None;
            self.queue.dropped.fetch_add(count, Ordering::Relaxed);
            self.tell(&error);
        } else if self.queue.dropped.load(Ordering::Relaxed) > 0 {
            self.tell("more spans than the collector takes");
        }
    }

    fn tell(&mut self, error: &str) {
        if self.told.is_some_and(|told| told.elapsed() < TELL_EVERY) {
            return;
        }
        self.told = Some(Instant::now());
        let spans = self.queue.dropped.swap(0, Ordering::Relaxed);
        tracing::warn!(
            address = self.settings.address,
            spans,
            error,
            "spans were dropped: they cannot be sent to the collector"
        );
    }

    /// What the collector does not want, in its words; empty if it took everything.
    async fn export(&mut self, batch: Vec<otlp::Span>) -> Result<String, String> {
        let address = &self.settings.address;
        let sender = match self.connection.take().filter(|sender| !sender.is_closed()) {
            Some(sender) => sender,
            None => connect(address).await?,
        };
        let origin = Uri::builder()
            .scheme("http")
            .authority(address.as_str())
            .path_and_query("/")
            .build()
            .map_err(|error| format!("{address:?} is no address: {error}"))?;
        let request = self.request(batch);
        let mut client = TraceServiceClient::with_origin(Pipe(sender.clone()), origin);
        let answer = client
            .export(request)
            .await
            .map_err(|status| status.to_string())?;
        self.connection = Some(sender);
        let rejected = answer.into_inner().partial_success.unwrap_or_default();
        Ok(match rejected.rejected_spans {
            0 => String::new(),
            spans => format!("{spans} spans rejected: {}", rejected.error_message),
        })
    }

    fn request(&self, batch: Vec<otlp::Span>) -> otlp::ExportTraceServiceRequest {
        let mut attributes = vec![text("service.name", &self.settings.service)];
        if !self.settings.instance.is_empty() {
            attributes.push(text("service.instance.id", &self.settings.instance));
        }
        let (calls, steps): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|span| span.kind == KIND_SERVER);
        let scope_spans = [(SCOPE_CALLS, calls), (SCOPE_STEPS, steps)]
            .into_iter()
            .filter(|(_, spans)| !spans.is_empty())
            .map(|(name, spans)| otlp::ScopeSpans {
                scope: Some(otlp::InstrumentationScope {
                    name: name.to_owned(),
                }),
                spans,
            })
            .collect();
        otlp::ExportTraceServiceRequest {
            resource_spans: vec![otlp::ResourceSpans {
                resource: Some(otlp::Resource { attributes }),
                scope_spans,
            }],
        }
    }
}

async fn connect(address: &str) -> Result<SendRequest<Body>, String> {
    let failed = |error: &dyn std::fmt::Display| format!("dial {address}: {error}");
    let socket = TcpStream::connect(address).await.map_err(|e| failed(&e))?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(socket))
        .await
        .map_err(|e| failed(&e))?;
    tokio::spawn(async move {
        // Calls on it fail by themselves.
        let _ended = connection.await;
    });
    Ok(sender)
}

/// The connection, as the stub wants it.
struct Pipe(SendRequest<Body>);

impl Service<Request<Body>> for Pipe {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}
