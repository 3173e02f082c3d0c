//! When a call is sent again, where, and for how long: against servers that misbehave on purpose.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ferrite_client::{Client, Code, Config, Status, describe, is_local_deadline, last_failure, pb};
use ferrite_proto::etcdserverpb::kv_server::{Kv, KvServer};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tonic::{Request, Response};

/// What a fake member does with a call.
#[derive(Clone)]
enum Behaviour {
    Serve,
    Refuse(Status),
    Hang,
    /// Closes the connection with the call unanswered.
    Cut,
}

struct Fake {
    behaviour: Mutex<Behaviour>,
    calls: AtomicUsize,
    metadata: Mutex<tonic::metadata::MetadataMap>,
    cut: tokio::sync::Notify,
}

impl Fake {
    async fn answer<T: Default, R>(&self, request: &Request<R>) -> Result<Response<T>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        *self.metadata.lock().unwrap() = request.metadata().clone();
        let behaviour = self.behaviour.lock().unwrap().clone();
        match behaviour {
            Behaviour::Serve => Ok(Response::new(T::default())),
            Behaviour::Refuse(status) => Err(status),
            Behaviour::Hang => std::future::pending().await,
            Behaviour::Cut => {
                self.cut.notify_one();
                std::future::pending().await
            }
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

struct Service(Arc<Fake>);

#[tonic::async_trait]
impl Kv for Service {
    async fn range(
        &self,
        r: Request<pb::RangeRequest>,
    ) -> Result<Response<pb::RangeResponse>, Status> {
        let mut response: Response<pb::RangeResponse> = self.0.answer(&r).await?;
        // A request can ask for a large answer.
        let size = usize::try_from(r.get_ref().limit).unwrap_or(0);
        if size > 0 {
            response.get_mut().kvs = vec![ferrite_proto::mvccpb::KeyValue {
                value: vec![0; size].into(),
                ..Default::default()
            }];
        }
        Ok(response)
    }

    type RangeStreamStream =
        Pin<Box<dyn tokio_stream::Stream<Item = Result<pb::RangeStreamResponse, Status>> + Send>>;

    async fn range_stream(
        &self,
        _: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented("not here"))
    }

    async fn put(&self, r: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        self.0.answer(&r).await
    }

    async fn delete_range(
        &self,
        r: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        self.0.answer(&r).await
    }

    async fn txn(&self, r: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        self.0.answer(&r).await
    }

    async fn compact(
        &self,
        r: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        self.0.answer(&r).await
    }
}

async fn member(behaviour: Behaviour) -> (Arc<Fake>, String) {
    let fake = Arc::new(Fake {
        behaviour: Mutex::new(behaviour),
        calls: AtomicUsize::new(0),
        metadata: Mutex::default(),
        cut: tokio::sync::Notify::new(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let served = Arc::clone(&fake);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let served = Arc::clone(&served);
            tokio::spawn(async move {
                let service = TowerToHyperService::new(KvServer::new(Service(Arc::clone(&served))));
                let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service);
                tokio::select! {
                    _ = connection => {}
                    () = served.cut.notified() => {}
                }
            });
        }
    });
    (fake, address.to_string())
}

/// An address where connections are taken by the kernel and by nobody else.
fn deaf() -> (std::net::TcpListener, String) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address.to_string())
}

/// An address where nobody listens.
fn closed() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn client(endpoints: &[&str], timeout: Duration) -> Client {
    let mut config = Config::new(endpoints.iter().copied());
    config.call_timeout = Some(timeout);
    config.dial_timeout = Duration::from_millis(300);
    Client::new(config).unwrap()
}

const LONG: Duration = Duration::from_secs(20);
const SHORT: Duration = Duration::from_millis(300);

fn put() -> pb::PutRequest {
    pb::PutRequest::default()
}

fn range() -> pb::RangeRequest {
    pb::RangeRequest::default()
}

#[tokio::test]
async fn endpoints_that_do_not_answer_are_passed_over_for_writes_too() {
    let (_deaf, deaf) = deaf();
    let (live, address) = member(Behaviour::Serve).await;
    let client = client(&[&closed(), &deaf, &address], LONG);
    let start = Instant::now();
    for _ in 0..5 {
        client.kv().put(put()).await.unwrap();
    }
    assert_eq!(live.calls(), 5);
    assert!(
        start.elapsed() < Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn a_call_waits_for_an_endpoint_to_appear() {
    let address = closed();
    let client = client(&[&address], LONG);
    let address: SocketAddr = address.parse().unwrap();
    let call = tokio::spawn(async move { client.kv().put(put()).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!call.is_finished());
    let listener = TcpListener::bind(address).await.unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let fake = member(Behaviour::Serve).await.0;
    let service = TowerToHyperService::new(KvServer::new(Service(fake)));
    tokio::spawn(
        hyper::server::conn::http2::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service),
    );
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_read_is_repeated_elsewhere_when_a_member_is_unavailable() {
    let refusal = Status::unavailable("etcdserver: request timed out");
    let (bad, bad_address) = member(Behaviour::Refuse(refusal)).await;
    let (good, good_address) = member(Behaviour::Serve).await;
    let client = client(&[&bad_address, &good_address], LONG);
    // Round robin: one of several calls meets the bad member first once both are connected.
    let start = Instant::now();
    while bad.calls() == 0 {
        client.kv().range(range()).await.unwrap();
        assert!(start.elapsed() < LONG);
    }
    assert!(good.calls() >= 1);
}

#[tokio::test]
async fn a_write_that_may_have_happened_is_not_repeated() {
    let refusal = Status::unavailable("etcdserver: request timed out");
    let (bad, address) = member(Behaviour::Refuse(refusal)).await;
    let client = client(&[&address], LONG);
    let status = client.kv().put(put()).await.unwrap_err();
    assert_eq!(describe(&status), "etcdserver: request timed out");
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(bad.calls(), 1);
}

#[tokio::test]
async fn a_write_refused_for_want_of_a_leader_is_repeated() {
    let refusal = Status::unavailable("etcdserver: no leader");
    let (fake, address) = member(Behaviour::Refuse(refusal)).await;
    let client = client(&[&address], LONG);
    let call = tokio::spawn(async move { client.kv().put(put()).await });
    while fake.calls() < 3 {
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    *fake.behaviour.lock().unwrap() = Behaviour::Serve;
    call.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_cut_under_a_call_fails_a_write_and_repeats_a_read() {
    let (fake, address) = member(Behaviour::Cut).await;
    let client = client(&[&address], LONG);
    let status = client.kv().put(put()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(fake.calls(), 1);
    let reader = client.clone();
    let read = tokio::spawn(async move { reader.kv().range(range()).await });
    while fake.calls() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    *fake.behaviour.lock().unwrap() = Behaviour::Serve;
    read.await.unwrap().unwrap();
    // The next write finds a fresh connection.
    client.kv().put(put()).await.unwrap();
}

#[tokio::test]
async fn time_runs_out_with_the_clients_own_error() {
    let (_fake, address) = member(Behaviour::Hang).await;
    let start = Instant::now();
    let status = client(&[&address], SHORT)
        .kv()
        .put(put())
        .await
        .unwrap_err();
    assert!(start.elapsed() >= SHORT && start.elapsed() < LONG);
    assert!(is_local_deadline(&status));
    assert_eq!(describe(&status), "context deadline exceeded");

    let status = client(&[&closed()], SHORT)
        .kv()
        .put(put())
        .await
        .unwrap_err();
    assert_eq!(describe(&status), "context deadline exceeded");
    let last = last_failure(&status).unwrap();
    assert!(last.contains("refused"), "{last}");

    // A server's own deadline is told apart.
    let refusal = Status::deadline_exceeded("context deadline exceeded");
    let (_fake, address) = member(Behaviour::Refuse(refusal)).await;
    let status = client(&[&address], LONG).kv().put(put()).await.unwrap_err();
    assert_eq!(
        describe(&status),
        "rpc error: code = DeadlineExceeded desc = context deadline exceeded"
    );
}

#[tokio::test]
async fn calls_carry_version_token_leader_and_timeout() {
    let (fake, address) = member(Behaviour::Serve).await;
    let mut config = Config::new([address]);
    config.require_leader = true;
    config.token = Some("abc.1".into());
    let client = Client::connect(config).await.unwrap();
    client.kv().put(put()).await.unwrap();
    let metadata = fake.metadata.lock().unwrap().clone();
    for (name, value) in [
        ("client-api-version", "3.7"),
        ("token", "abc.1"),
        ("hasleader", "true"),
    ] {
        assert_eq!(metadata.get(name).unwrap(), value);
    }
    assert!(metadata.get("grpc-timeout").is_some());
    client.channel().set_token(None);
    client.kv().put(put()).await.unwrap();
    assert!(fake.metadata.lock().unwrap().get("token").is_none());
}

#[tokio::test]
async fn sizes_are_limited_both_ways() {
    let (fake, address) = member(Behaviour::Serve).await;
    let mut config = Config::new([address]);
    config.max_send_bytes = 1000;
    config.max_recv_bytes = 1000;
    let client = Client::new(config).unwrap();
    let request = pb::PutRequest {
        value: vec![0; 2000].into(),
        ..Default::default()
    };
    let status = client.kv().put(request).await.unwrap_err();
    assert_eq!(
        describe(&status),
        "rpc error: code = ResourceExhausted desc = trying to send message larger than max (2003 vs. 1000)"
    );
    assert_eq!(fake.calls(), 0);
    let request = pb::RangeRequest {
        limit: 2000,
        ..Default::default()
    };
    let status = client.kv().range(request).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert!(
        status
            .message()
            .starts_with("grpc: received message larger than max ("),
        "{status:?}"
    );
}

#[tokio::test]
async fn a_server_that_speaks_something_else_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _ =
                tokio::io::AsyncWriteExt::write_all(&mut stream, b"HTTP/1.1 400 Bad\r\n\r\n").await;
        }
    });
    let status = client(&[&address], SHORT)
        .kv()
        .range(range())
        .await
        .unwrap_err();
    assert_eq!(describe(&status), "context deadline exceeded");
    assert!(last_failure(&status).unwrap().contains(&address));
}

/// An endpoint that cannot be is one that nobody reaches: others may be there beside it.
#[tokio::test]
async fn what_cannot_be_an_endpoint_is_named_when_nobody_answers() {
    assert!(Client::new(Config::new(Vec::<String>::new())).is_err());
    for (endpoint, word) in [
        ("ftp://127.0.0.1:2379", "scheme"),
        ("https://", "address"),
        ("http://127.0.0.1", "port"),
    ] {
        let status = client(&[endpoint], SHORT)
            .kv()
            .range(range())
            .await
            .unwrap_err();
        assert_eq!(describe(&status), "context deadline exceeded");
        let why = last_failure(&status).unwrap_or_default();
        assert!(why.contains(endpoint) && why.contains(word), "{why}");
    }
}
