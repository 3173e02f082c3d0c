//! What no client library sends: calls byte by byte, over HTTP/2.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ferrite_client::pb;
use ferrite_testkit::{Cluster, Kind, oracle};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::net::TcpStream;

use super::range;
use crate::{beside_others, put};

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    kind: String,
    /// The gRPC status: its number, and its words.
    pub(crate) status: (u32, String),
    messages: Bytes,
}

/// Sends one message and waits for all that comes back.
pub(crate) async fn call(
    endpoint: &str,
    path: &str,
    kind: &str,
    timeout: Option<&str>,
    message: &impl Message,
) -> Answer {
    let address = endpoint.strip_prefix("http://").expect("clear text");
    let stream = TcpStream::connect(address).await.expect("a connection");
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
        .await
        .expect("HTTP/2");
    let connection = tokio::spawn(connection);
    let mut frame = vec![0];
    let size = u32::try_from(message.encoded_len()).expect("a small message");
    frame.extend(size.to_be_bytes());
    frame.extend(message.encode_to_vec());
    let mut request = http::Request::post(format!("{endpoint}{path}"))
        .header("content-type", kind)
        .header("te", "trailers");
    if let Some(timeout) = timeout {
        request = request.header("grpc-timeout", timeout);
    }
    let request = request.body(Full::new(Bytes::from(frame)));
    let answer = sender.send_request(request.expect("a request")).await;
    let (parts, body) = answer.expect("an answer").into_parts();
    let body = body.collect().await.expect("all of it");
    let trailers = body.trailers().unwrap_or(&parts.headers).clone();
    connection.abort();
    let text = |headers: &http::HeaderMap, name: &str| {
        let value = headers.get(name).map(|value| value.to_str().expect("text"));
        decoded(value.unwrap_or_default())
    };
    Answer {
        kind: text(&parts.headers, "content-type"),
        status: (
            text(&trailers, "grpc-status").parse().expect("a number"),
            text(&trailers, "grpc-message"),
        ),
        messages: body.to_bytes(),
    }
}

/// Without percent signs for what is not plain.
fn decoded(text: &str) -> String {
    let mut parts = text.split('%');
    let mut out = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (digits, rest) = part.split_at(2);
        out.push(u8::from_str_radix(digits, 16).expect("two digits"));
        out.extend(rest.as_bytes());
    }
    String::from_utf8(out).expect("text")
}

const RANGE: &str = "/etcdserverpb.KV/Range";
const GRPC: &str = "application/grpc";

#[tokio::test(flavor = "multi_thread")]
async fn unknown_methods_are_named_and_any_subtype_is_protobuf() {
    let _turn = beside_others().await;
    for kind in [Kind::Ferrite, Kind::Etcd351] {
        if kind == Kind::Etcd351 && oracle().is_none() {
            continue;
        }
        let cluster = Cluster::builder().kinds(&[kind]).start().await;
        put(&cluster.client(0), "k", "v").await;
        let endpoint = cluster.member(0).endpoint();
        for (path, text) in [
            (
                "/etcdserverpb.KV/Fly",
                "unknown method Fly for service etcdserverpb.KV",
            ),
            (
                "/v3lockpb.Lock/Fly",
                "unknown method Fly for service v3lockpb.Lock",
            ),
            ("/no.Such/Range", "unknown service no.Such"),
            (
                "/etcdserverpb.KV/x/Range",
                "unknown service etcdserverpb.KV/x",
            ),
            // Nobody tells which services there are.
            (
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                "unknown service grpc.reflection.v1.ServerReflection",
            ),
            ("/Range", "malformed method name: \"/Range\""),
        ] {
            let answer = call(endpoint, path, GRPC, None, &range("k")).await;
            // 3.5.1 has another code for what is no path.
            let code = match kind {
                Kind::Etcd351 if path == "/Range" => 8,
                _ => 12,
            };
            assert_eq!(answer.status, (code, text.to_owned()), "{kind:?}");
        }
        for (sent, answered) in [
            (GRPC, GRPC),
            ("application/grpc+proto", "application/grpc+proto"),
            ("application/grpc+xyz", "application/grpc+xyz"),
            ("application/grpc;xyz", "application/grpc+xyz"),
        ] {
            let answer = call(endpoint, RANGE, sent, None, &range("k")).await;
            assert_eq!(answer.status, (0, String::new()), "{kind:?}: {sent}");
            assert_eq!(answer.kind, answered, "{kind:?}: {sent}");
            let found = pb::RangeResponse::decode(answer.messages.slice(5..)).unwrap();
            assert_eq!(found.count, 1, "{kind:?}: {sent}");
        }
        if kind == Kind::Ferrite {
            every_method_is_there(endpoint).await;
        }
    }
}

/// GR-02: what is asked without any word is refused for that, or waits; nothing is unknown.
async fn every_method_is_there(endpoint: &str) {
    for (service, methods) in [
        (
            "etcdserverpb.KV",
            "Range RangeStream Put DeleteRange Txn Compact",
        ),
        ("etcdserverpb.Watch", "Watch"),
        (
            "etcdserverpb.Lease",
            "LeaseGrant LeaseRevoke LeaseKeepAlive LeaseTimeToLive LeaseLeases",
        ),
        (
            "etcdserverpb.Cluster",
            "MemberAdd MemberRemove MemberUpdate MemberList MemberPromote",
        ),
        (
            "etcdserverpb.Maintenance",
            "Alarm Status Defragment Hash HashKV Snapshot MoveLeader Downgrade",
        ),
        (
            "etcdserverpb.Auth",
            "AuthEnable AuthDisable AuthStatus Authenticate UserAdd UserGet UserList UserDelete \
             UserChangePassword UserGrantRole UserRevokeRole RoleAdd RoleGet RoleList RoleDelete \
             RoleGrantPermission RoleRevokePermission",
        ),
        ("v3lockpb.Lock", "Lock Unlock"),
        (
            "v3electionpb.Election",
            "Campaign Proclaim Leader Observe Resign",
        ),
        ("grpc.health.v1.Health", "Check Watch"),
    ] {
        for method in methods.split_whitespace() {
            let path = format!("/{service}/{method}");
            let (code, text) = call(endpoint, &path, GRPC, Some("300m"), &()).await.status;
            assert_ne!(code, 12, "{path}: {text}");
        }
    }
}

/// A caller says how long it waits; the server keeps to it even if the caller goes on waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_ends_at_its_callers_deadline() {
    let _turn = beside_others().await;
    for kind in [Kind::Ferrite, Kind::Etcd351] {
        if kind == Kind::Etcd351 && oracle().is_none() {
            continue;
        }
        let cluster = Cluster::builder().kinds(&[kind]).start().await;
        let client = cluster.client(0);
        put(&client, "k", "v").await;
        let endpoint = cluster.member(0).endpoint();
        // 3.5.1 has the words and not the code.
        let code = if kind == Kind::Ferrite { 4 } else { 2 };
        let late = (code, "context deadline exceeded".to_owned());
        let since = Instant::now();
        // A stream without an end.
        let watch = pb::WatchRequest {
            request_union: Some(pb::watch_request::RequestUnion::CreateRequest(
                pb::WatchCreateRequest {
                    key: "k".into(),
                    ..Default::default()
                },
            )),
        };
        let watch = call(
            endpoint,
            "/etcdserverpb.Watch/Watch",
            GRPC,
            Some("400m"),
            &watch,
        )
        .await;
        assert_eq!(watch.status, late, "{kind:?}");
        assert!(watch.messages.len() > 5, "{kind:?}: it began: {watch:?}");
        // A call that waits for somebody else.
        let name: Bytes = "lock".into();
        let lease = pb::LeaseGrantRequest { id: 7, ttl: 60 };
        client.lease().lease_grant(lease).await.unwrap();
        let request = |lease| ferrite_proto::v3lockpb::LockRequest {
            name: name.clone(),
            lease,
        };
        let lock = "/v3lockpb.Lock/Lock";
        let first = call(endpoint, lock, GRPC, Some("10S"), &request(7)).await;
        assert_eq!(first.status.0, 0, "{kind:?}: {first:?}");
        let second = call(endpoint, lock, GRPC, Some("400m"), &request(0)).await;
        assert_eq!(second.status, late, "{kind:?}");
        assert!(since.elapsed() >= Duration::from_millis(800), "{kind:?}");
        // A range that had been begun.
        let many = (0..20).map(|batch| {
            let client = client.clone();
            tokio::spawn(async move {
                for n in 0..10 {
                    let ops = (0..100).map(|m| {
                        let key = format!("many/{batch}/{n}/{m}");
                        pb::request_op::Request::RequestPut(super::put_request(&key))
                    });
                    client.kv().txn(super::txn(ops)).await.unwrap();
                }
            })
        });
        for batch in many.collect::<Vec<_>>() {
            batch.await.unwrap();
        }
        let all = pb::RangeRequest {
            range_end: "z".into(),
            serializable: true,
            ..range("many")
        };
        let mut said = Vec::new();
        for timeout in ["1m", "2m", "4m", "8m", "16m", "32m", "64m"] {
            let answer = call(endpoint, RANGE, GRPC, Some(timeout), &all).await;
            said.push(answer.status);
        }
        let begun = (
            4,
            "rangeKeys: context cancelled: context deadline exceeded".to_owned(),
        );
        if kind == Kind::Ferrite {
            assert!(said.contains(&begun), "{said:?}");
        }
        let known = |status: &(u32, String)| status.0 == 0 || status.0 == 4 || status.0 == code;
        assert!(said.iter().all(known), "{kind:?}: {said:?}");
    }
}
