//! Distributed tracing: which requests are traced, and the spans of those that are.
//!
//! Where it is off, or a request is not sampled, there is no span and nothing is allocated. A span goes
//! to the exporter (`export`) when it is dropped; nothing here waits for a collector.

mod export;
mod sent;

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use ferrite_proto::opentelemetry_proto_collector_trace_v1 as otlp;
use http::HeaderMap;
use otlp::any_value::Value;

use crate::flags::Values;
use export::Queue;
pub use sent::Sent;

/// Rates are given in spans of a million.
const MILLION: i64 = 1_000_000;

/// Where spans go, and whose they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `host:port` of the collector.
    pub address: String,
    /// Name of the service.
    pub service: String,
    /// Name of this member; empty for none.
    pub instance: String,
    /// Of a million requests that nobody has decided about, how many are traced.
    pub rate_per_million: u32,
}

impl Settings {
    /// Reads the flags; `None` where tracing is off.
    ///
    /// # Errors
    /// In the original's words, its spelling included.
    pub fn read(values: &Values) -> Result<Option<Self>, String> {
        if !values.bool("enable-distributed-tracing") {
            return Ok(None);
        }
        let invalid =
            |why: &str| format!("distributed tracing configurition is not valid: ({why})");
        let rate = values.signed("distributed-tracing-sampling-rate");
        if rate < 0 {
            return Err(invalid("tracing sampling rate must be positive"));
        }
        if rate > MILLION {
            return Err(invalid("tracing sampling rate must be less than 1000000"));
        }
        Ok(Some(Settings {
            address: values.text("distributed-tracing-address").to_owned(),
            service: values.text("distributed-tracing-service-name").to_owned(),
            instance: values.text("distributed-tracing-instance-id").to_owned(),
            rate_per_million: u32::try_from(rate).unwrap_or(0),
        }))
    }
}

/// A request's own span, as seen from outside.
const KIND_SERVER: i32 = 2;
/// A step within it.
const KIND_INTERNAL: i32 = 1;
/// Whoever traces a request may carry so much along.
const STATE_BYTES_MAX: usize = 512;
/// So much of a key is shown: spans wait in a queue, and a key may have a megabyte.
const KEY_BYTES_MAX: usize = 4_096;
/// The bit of `traceparent` that says: traced.
const SAMPLED: u32 = 1;
/// Bits of the protocol: whether the parent was somewhere else is known, and it was.
const PARENT_KNOWN: u32 = 0x100;
const PARENT_REMOTE: u32 = 0x200;

/// Set once by the first tracer: whoever would add something to a span looks here first.
static ON: AtomicBool = AtomicBool::new(false);

tokio::task_local! {
    static CURRENT: RefCell<Span>;
}

/// Decides which requests are traced, and takes their spans.
pub struct Tracer {
    queue: Arc<Queue>,
    /// Of 2^63 trace IDs, how many are taken when nobody has decided.
    bound: u64,
}

/// A place in a trace.
#[derive(Clone)]
pub struct SpanContext {
    tracer: Arc<Tracer>,
    trace: [u8; 16],
    span: [u8; 8],
    state: Arc<str>,
}

/// A span that goes on; it ends when it is dropped.
pub struct Span {
    context: SpanContext,
    /// `None` once it is to be forgotten.
    data: Option<otlp::Span>,
}

/// What another program said about the trace a request belongs to.
struct Parent {
    trace: [u8; 16],
    span: [u8; 8],
    sampled: bool,
}

impl Tracer {
    /// Starts the thread that exports.
    ///
    /// # Errors
    /// A thread that cannot be made.
    pub fn start(settings: &Settings) -> std::io::Result<Arc<Self>> {
        ON.store(true, Ordering::Relaxed);
        Ok(Arc::new(Tracer {
            queue: Queue::start(settings)?,
            bound: bound(settings.rate_per_million),
        }))
    }

    /// The span of a request that arrived with these headers, if it is to be traced.
    pub fn arrived(self: &Arc<Self>, headers: &HeaderMap, path: &str) -> Option<Span> {
        let parent = headers
            .get("traceparent")
            .and_then(|value| parse_parent(value.as_bytes()));
        let trace = match &parent {
            Some(parent) if !parent.sampled => return None,
            Some(parent) => parent.trace,
            None if self.bound == 0 => return None,
            None => {
                let trace: [u8; 16] = random()?;
                let [.., a, b, c, d, e, f, g, h] = trace;
                if u64::from_be_bytes([a, b, c, d, e, f, g, h]) >> 1 >= self.bound {
                    return None;
                }
                trace
            }
        };
        let state = headers
            .get("tracestate")
            .filter(|_| parent.is_some())
            .and_then(|value| value.to_str().ok())
            .filter(|state| state.len() <= STATE_BYTES_MAX)
            .unwrap_or_default();
        let context = SpanContext {
            tracer: Arc::clone(self),
            trace,
            span: random()?,
            state: Arc::from(state),
        };
        let remote = if parent.is_some() { PARENT_REMOTE } else { 0 };
        let name = path.strip_prefix('/').unwrap_or(path);
        let mut attributes = vec![text("rpc.system", "grpc")];
        if let Some((service, method)) = name.rsplit_once('/') {
            attributes.push(text("rpc.service", service));
            attributes.push(text("rpc.method", method));
        }
        let above = parent.map(|parent| parent.span);
        Some(context.begin(name, KIND_SERVER, above, remote, attributes))
    }

    /// Exports what is there, for a moment at most, and ends.
    pub fn stop(&self) {
        self.queue.stop();
    }
}

impl SpanContext {
    fn begin(
        &self,
        name: &str,
        kind: i32,
        parent: Option<[u8; 8]>,
        remote: u32,
        attributes: Vec<otlp::KeyValue>,
    ) -> Span {
        Span {
            context: self.clone(),
            data: Some(otlp::Span {
                trace_id: self.trace.to_vec().into(),
                span_id: self.span.to_vec().into(),
                trace_state: self.state.to_string(),
                parent_span_id: parent.map(|span| span.to_vec()).unwrap_or_default().into(),
                name: name.to_owned(),
                kind,
                start_time_unix_nano: now(),
                end_time_unix_nano: 0,
                attributes,
                events: Vec::new(),
                status: None,
                flags: SAMPLED | PARENT_KNOWN | remote,
            }),
        }
    }

    /// A step within this span; `None` if the system has no random numbers.
    pub fn child(&self, name: &str, attributes: Vec<otlp::KeyValue>) -> Option<Span> {
        let context = SpanContext {
            span: random()?,
            ..self.clone()
        };
        Some(context.begin(name, KIND_INTERNAL, Some(self.span), 0, attributes))
    }
}

impl Span {
    /// Its place.
    pub fn context(&self) -> SpanContext {
        self.context.clone()
    }

    fn event(&mut self, name: &str, attributes: Vec<otlp::KeyValue>) {
        if let Some(data) = &mut self.data {
            data.events.push(otlp::span::Event {
                time_unix_nano: now(),
                name: name.to_owned(),
                attributes,
            });
        }
    }

    /// Notes what went wrong.
    pub fn failed(&mut self, message: &str) {
        self.event("exception", vec![text("exception.message", message)]);
    }

    /// How the call ended, by gRPC's number.
    fn status(&mut self, code: i64, message: &str) {
        let Some(data) = &mut self.data else { return };
        data.attributes.push(number("rpc.grpc.status_code", code));
        // Those that are the server's fault, as the original's instrumentation judges.
        if matches!(code, 2 | 4 | 12 | 13 | 14 | 15) {
            data.status = Some(otlp::Status {
                code: 2,
                message: message.to_owned(),
            });
        }
    }

    /// It never was: nobody will see it.
    pub fn forget(mut self) {
        self.data = None;
    }

    /// Runs a future in this span, which ends with it. What the future hands to [`event`] belongs to it.
    pub async fn around<T>(
        self,
        future: impl Future<Output = Result<T, tonic::Status>>,
    ) -> Result<T, tonic::Status> {
        CURRENT
            .scope(RefCell::new(self), async {
                let result = future.await;
                if let Err(status) = &result {
                    CURRENT.with(|span| span.borrow_mut().failed(status.message()));
                }
                result
            })
            .await
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(mut data) = self.data.take() {
            data.end_time_unix_nano = now();
            self.context.tracer.queue.push(data);
        }
    }
}

/// Notes that something happened, in the span in which this is called, if there is one.
pub fn event(name: &str) {
    if !ON.load(Ordering::Relaxed) {
        return;
    }
    // Not every request is traced.
    let _untraced = CURRENT.try_with(|span| span.borrow_mut().event(name, Vec::new()));
}

fn bound(rate_per_million: u32) -> u64 {
    let most = 1_u128 << 63;
    let share = most * u128::from(rate_per_million) / 1_000_000;
    u64::try_from(share).unwrap_or(u64::MAX)
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

fn random<const N: usize>() -> Option<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).ok()?;
    Some(bytes)
}

fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
        let [high, low] = pair else { return None };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

/// `00-<32 digits>-<16 digits>-<2 digits>`; later versions may have more behind.
fn parse_parent(value: &[u8]) -> Option<Parent> {
    let mut parts = value.splitn(5, |byte| *byte == b'-');
    let version: [u8; 1] = hex(parts.next()?)?;
    let trace = hex(parts.next()?)?;
    let span = hex(parts.next()?)?;
    let flags: [u8; 1] = hex(parts.next()?)?;
    let more = parts.next().is_some();
    if version == [0xff] || (version == [0] && more) || trace == [0; 16] || span == [0; 8] {
        return None;
    }
    Some(Parent {
        trace,
        span,
        sampled: flags[0] & 1 == 1,
    })
}

fn attribute(key: &str, value: Value) -> otlp::KeyValue {
    otlp::KeyValue {
        key: key.to_owned(),
        value: Some(otlp::AnyValue { value: Some(value) }),
    }
}

/// An attribute that is text.
pub fn text(key: &str, value: &str) -> otlp::KeyValue {
    attribute(key, Value::StringValue(value.to_owned()))
}

/// An attribute that is a key: bytes that are no text are replaced, and a long one is cut.
pub fn bytes(key: &str, value: &[u8]) -> otlp::KeyValue {
    let value = value.get(..KEY_BYTES_MAX).unwrap_or(value);
    text(key, &String::from_utf8_lossy(value))
}

/// An attribute that is a number.
pub fn number(key: &str, value: i64) -> otlp::KeyValue {
    attribute(key, Value::IntValue(value))
}

/// An attribute that is a length.
pub fn length(key: &str, value: usize) -> otlp::KeyValue {
    number(key, i64::try_from(value).unwrap_or(i64::MAX))
}

/// An attribute that is true or false.
pub fn flag(key: &str, value: bool) -> otlp::KeyValue {
    attribute(key, Value::BoolValue(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_is_taken_only_whole() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let parent = parse_parent(good.as_bytes()).expect("good");
        assert!(parent.sampled);
        assert_eq!(parent.trace[..2], [0x0a, 0xf7]);
        assert_eq!(parent.span[7], 0x31);
        let later = format!("01{}-more", &good[2..]);
        assert!(parse_parent(later.as_bytes()).is_some());
        let unsampled = good.replace("-01", "-00");
        assert!(!parse_parent(unsampled.as_bytes()).expect("good").sampled);
        for bad in [
            String::new(),
            "00".into(),
            format!("ff{}", &good[2..]),
            format!("{good}-more"),
            good.to_uppercase(),
            good.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32)),
            good.replace("b7ad6b7169203331", &"0".repeat(16)),
            good.replace("b7ad6b7169203331", "b7ad"),
        ] {
            assert!(parse_parent(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    #[test]
    fn rates_are_shares_of_all_traces() {
        assert_eq!(bound(0), 0);
        assert_eq!(bound(500_000), 1 << 62);
        assert_eq!(bound(1_000_000), 1 << 63);
    }
}
