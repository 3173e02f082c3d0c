//! Distributed tracing: what a collector is sent of which requests, and that none at all, or a bad one,
//! harms nobody.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ferrite_client::pb;
use ferrite_proto::opentelemetry_proto_collector_trace_v1 as otlp;
use ferrite_testkit::{Cluster, PATIENCE, eventually};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use otlp::any_value::Value;
use otlp::trace_service_server::{TraceService, TraceServiceServer};
use tonic::{Request, Response, Status};

/// What arrived: resources with their spans.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<otlp::ResourceSpans>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<otlp::ExportTraceServiceRequest>,
    ) -> Result<Response<otlp::ExportTraceServiceResponse>, Status> {
        let arrived = request.into_inner().resource_spans;
        self.0
            .lock()
            .expect("nobody panics with it")
            .extend(arrived);
        Ok(Response::new(otlp::ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    /// Listens; the address.
    async fn start(&self) -> String {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let service = TraceServiceServer::new(self.clone());
        tokio::spawn(async move {
            loop {
                let (socket, _) = listener.accept().await.expect("a connection");
                let service = TowerToHyperService::new(service.clone());
                tokio::spawn(async move {
                    let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(socket), service)
                        .await;
                    drop(served);
                });
            }
        });
        address
    }

    fn spans(&self) -> Vec<otlp::Span> {
        let all = self.0.lock().expect("nobody panics with it");
        all.iter()
            .flat_map(|resource| &resource.scope_spans)
            .flat_map(|scope| scope.spans.clone())
            .collect()
    }

    /// The span of this name in this trace, once it is there.
    async fn span(&self, trace: [u8; 16], name: &str) -> otlp::Span {
        eventually(name, PATIENCE, async || {
            let mut spans = self.spans().into_iter();
            spans.find(|span| span.name == name && span.trace_id[..] == trace)
        })
        .await
    }
}

const PARENT: [u8; 8] = [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31];

/// A trace of its own for each call.
fn trace(number: u8) -> [u8; 16] {
    let mut trace = [7; 16];
    trace[15] = number;
    trace
}

fn traced<T>(message: T, number: u8, sampled: bool) -> Request<T> {
    let digits = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
    let parent = format!(
        "00-{}-{}-0{}",
        digits(&trace(number)),
        digits(&PARENT),
        u8::from(sampled)
    );
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("traceparent", parent.parse().expect("text"));
    metadata.insert("tracestate", "vendor=1".parse().expect("text"));
    request
}

fn attributes(span: &otlp::Span) -> Vec<(String, String)> {
    span.attributes
        .iter()
        .map(|attribute| {
            let value = attribute
                .value
                .as_ref()
                .and_then(|value| value.value.as_ref());
            let value = match value {
                Some(Value::StringValue(text)) => format!("{text:?}"),
                Some(Value::IntValue(number)) => number.to_string(),
                Some(Value::BoolValue(flag)) => flag.to_string(),
                None => String::new(),
            };
            (attribute.key.clone(), value)
        })
        .collect()
}

/// The attributes are these, in this order.
fn assert_attributes(span: &otlp::Span, wanted: &[(&str, &str)]) {
    let found = attributes(span);
    let found: Vec<(&str, &str)> = found.iter().map(|(k, v)| (&**k, &**v)).collect();
    assert_eq!(found, wanted, "{}", span.name);
}

async fn cluster(address: &str, rate: u32) -> Cluster {
    Cluster::builder()
        .extra_args(&[
            "--enable-distributed-tracing",
            &format!("--distributed-tracing-address={address}"),
            "--distributed-tracing-service-name=spans-test",
            "--distributed-tracing-instance-id=one",
            &format!("--distributed-tracing-sampling-rate={rate}"),
        ])
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_request_has_its_spans() {
    let collector = Collector::default();
    let address = collector.start().await;
    // Nobody is traced who does not come with a trace.
    let cluster = cluster(&address, 0).await;
    assert!(
        cluster
            .member(0)
            .log_contains("distributed tracing setup enabled")
    );
    let client = cluster.client(0);
    let put = || pb::PutRequest {
        key: "k".into(),
        value: "v".into(),
        ..Default::default()
    };
    let range = pb::RangeRequest {
        key: "k".into(),
        count_only: true,
        ..Default::default()
    };
    client.kv().put(put()).await.expect("untraced");
    client
        .kv()
        .put(traced(put(), 9, false))
        .await
        .expect("not sampled");
    client.kv().put(traced(put(), 1, true)).await.expect("put");
    client
        .kv()
        .range(traced(range.clone(), 2, true))
        .await
        .expect("range");
    let mut stream = client
        .kv()
        .range_stream(traced(range.clone(), 3, true))
        .await
        .expect("a stream")
        .into_inner();
    while stream.message().await.expect("a piece").is_some() {}
    let delete = pb::DeleteRangeRequest {
        key: "gone".into(),
        range_end: "gonf".into(),
        ..Default::default()
    };
    client
        .kv()
        .delete_range(traced(delete, 4, true))
        .await
        .expect("deleted");
    let operation = |request| pb::RequestOp {
        request: Some(request),
    };
    let txn = pb::TxnRequest {
        compare: vec![pb::Compare {
            key: "cmp_key".into(),
            ..Default::default()
        }],
        success: vec![
            operation(pb::request_op::Request::RequestPut(pb::PutRequest {
                key: "op_key".into(),
                ..Default::default()
            })),
            operation(pb::request_op::Request::RequestRange(range)),
        ],
        failure: Vec::new(),
    };
    client
        .kv()
        .txn(traced(txn, 5, true))
        .await
        .expect("a transaction");
    let compact = pb::CompactionRequest {
        revision: 2,
        physical: true,
    };
    client
        .kv()
        .compact(traced(compact, 6, true))
        .await
        .expect("compacted");
    let grant = pb::LeaseGrantRequest { ttl: 1000, id: 77 };
    client
        .lease()
        .lease_grant(traced(grant, 7, true))
        .await
        .expect("granted");
    let renewals = tokio_stream::iter([pb::LeaseKeepAliveRequest { id: 77 }]);
    let mut renewed = client
        .lease()
        .lease_keep_alive(traced(renewals, 8, true))
        .await
        .expect("a stream")
        .into_inner();
    renewed
        .message()
        .await
        .expect("renewed")
        .expect("an answer");
    drop(renewed);
    for _ in 0..2 {
        let revoke = pb::LeaseRevokeRequest { id: 77 };
        let _second_fails = client.lease().lease_revoke(traced(revoke, 10, true)).await;
    }
    let create = pb::WatchCreateRequest {
        key: "watched".into(),
        start_revision: 1,
        progress_notify: true,
        ..Default::default()
    };
    let create = pb::WatchRequest {
        request_union: Some(pb::watch_request::RequestUnion::CreateRequest(create)),
    };
    let (requests, sent) = tokio::sync::mpsc::channel(1);
    requests.send(create).await.expect("room");
    let requested = tokio_stream::wrappers::ReceiverStream::new(sent);
    let mut watch = client
        .watch()
        .watch(traced(requested, 11, true))
        .await
        .expect("a stream")
        .into_inner();
    assert!(
        watch
            .message()
            .await
            .expect("created")
            .expect("one")
            .created
    );
    // It lasts as long as its watcher.
    drop((watch, requests));

    let call = collector.span(trace(1), "etcdserverpb.KV/Put").await;
    assert_eq!(call.kind, 2);
    assert_eq!(call.parent_span_id[..], PARENT);
    assert_eq!(call.trace_state, "vendor=1");
    assert_eq!(call.flags, 0x301);
    assert!(call.start_time_unix_nano < call.end_time_unix_nano);
    assert_attributes(
        &call,
        &[
            ("rpc.system", "\"grpc\""),
            ("rpc.service", "\"etcdserverpb.KV\""),
            ("rpc.method", "\"Put\""),
            ("rpc.grpc.status_code", "0"),
        ],
    );
    let step = collector.span(trace(1), "put").await;
    assert_eq!(step.parent_span_id, call.span_id);
    assert_eq!(step.kind, 1);
    assert_attributes(&step, &[("key", "\"k\"")]);
    let events: Vec<&str> = step.events.iter().map(|event| &*event.name).collect();
    assert_eq!(events, ["Send raft proposal", "Receive raft result"]);
    assert!(call.start_time_unix_nano <= step.start_time_unix_nano);
    assert!(step.end_time_unix_nano <= call.end_time_unix_nano);

    let streamed = [
        ("range_begin", "\"k\""),
        ("range_end", "\"\""),
        ("rev", "0"),
        ("limit", "0"),
        ("count_only", "true"),
    ];
    let mut ranged = streamed.to_vec();
    ranged.push(("keys_only", "false"));
    assert_attributes(&collector.span(trace(2), "range").await, &ranged);
    assert_attributes(
        &collector.span(trace(3), "range_streaming").await,
        &streamed,
    );
    collector
        .span(trace(3), "etcdserverpb.KV/RangeStream")
        .await;
    assert_attributes(
        &collector.span(trace(4), "delete_range").await,
        &[("range_begin", "\"gone\""), ("range_end", "\"gonf\"")],
    );
    assert_attributes(
        &collector.span(trace(5), "txn").await,
        &[
            ("compare_first_key", "\"cmp_key\""),
            ("success_first_key", "\"op_key\""),
            ("success_first_type", "\"put\""),
            ("success_first_lease", "0"),
            ("compare_len", "1"),
            ("success_len", "2"),
            ("failure_len", "0"),
            ("read_only", "false"),
        ],
    );
    assert_attributes(
        &collector.span(trace(6), "compact").await,
        &[("is_physical", "true"), ("rev", "2")],
    );
    assert_attributes(
        &collector.span(trace(7), "lease_grant").await,
        &[("id", "77"), ("ttl", "1000")],
    );
    assert_attributes(
        &collector.span(trace(8), "lease_renew").await,
        &[("id", "77")],
    );
    assert_attributes(
        &collector.span(trace(10), "lease_revoke").await,
        &[("id", "77")],
    );
    // The second one found no lease, and says so.
    eventually("the failure is noted", PATIENCE, async || {
        let spans = collector.spans();
        let mut events = spans.iter().flat_map(|span| &span.events);
        let failed = events.find(|event| event.name == "exception")?;
        let message = failed.attributes.first()?.value.as_ref()?.value.clone();
        let words = "etcdserver: requested lease not found";
        assert_eq!(message, Some(Value::StringValue(words.into())));
        Some(())
    })
    .await;
    assert_attributes(
        &collector.span(trace(11), "watch").await,
        &[
            ("key", "\"watched\""),
            ("range_end", "\"\""),
            ("start_rev", "1"),
            ("progress_notify", "true"),
            ("prev_kv", "false"),
            ("fragment", "false"),
        ],
    );
    collector.span(trace(11), "etcdserverpb.Watch/Watch").await;

    let all = collector.0.lock().expect("nobody panics with it").clone();
    for resource in &all {
        let about = resource.resource.as_ref().expect("a resource");
        let about: Vec<&str> = about.attributes.iter().map(|one| &*one.key).collect();
        assert_eq!(about, ["service.name", "service.instance.id"]);
    }
    let wanted: Vec<[u8; 16]> = [1, 2, 3, 4, 5, 6, 7, 8, 10, 11].map(trace).to_vec();
    for span in collector.spans() {
        assert!(
            wanted.iter().any(|trace| span.trace_id[..] == *trace),
            "{} is of no trace that was asked for",
            span.name
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_decide_is_sampled_at_the_rate() {
    let collector = Collector::default();
    let address = collector.start().await;
    let cluster = cluster(&address, 500_000).await;
    let client = cluster.client(0);
    for _ in 0..200 {
        client
            .kv()
            .range(pb::RangeRequest {
                key: "k".into(),
                serializable: true,
                ..Default::default()
            })
            .await
            .expect("a range");
    }
    // What waits is sent before the end.
    cluster.member(0).terminate().await;
    let spans = collector.spans();
    let steps: Vec<_> = spans.iter().filter(|span| span.name == "range").collect();
    // A fair coin strays so far once in 10^9 times.
    assert!((57..=143).contains(&steps.len()), "{} of 200", steps.len());
    for step in steps {
        let call = spans
            .iter()
            .find(|span| span.span_id == step.parent_span_id)
            .expect("the call is there as well");
        assert_eq!(call.trace_id, step.trace_id);
        assert!(call.parent_span_id.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_not_there_or_never_answers_harms_nobody() {
    // One refuses connections, the other takes them and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = silent.local_addr().expect("an address").to_string();
    for (address, told) in [("127.0.0.1:1", true), (address.as_str(), false)] {
        let cluster = cluster(address, 1_000_000).await;
        let client = cluster.client(0);
        for _ in 0..3_000 {
            let range = pb::RangeRequest {
                key: "k".into(),
                serializable: true,
                ..Default::default()
            };
            client.kv().range(range).await.expect("a range");
        }
        let member = cluster.member(0);
        if told {
            let text = "spans were dropped: they cannot be sent to the collector";
            member.wait_for_log(text, PATIENCE).await;
        }
        let stopping = Instant::now();
        member.terminate().await;
        assert!(stopping.elapsed() < Duration::from_secs(10), "{address}");
    }
}
