//! Plain HTTP: health, readiness and version on the client port; members and hashes on the peer port.

use std::time::{Duration, Instant};

use ::http::header::{ALLOW, CONNECTION, CONTENT_TYPE, HeaderValue, LOCATION};
use ::http::{Method, Request, Response, StatusCode};
use bytes::Bytes;
use ferrite_apply::ApplyError;
use ferrite_membership::members_json;
use ferrite_metrics::Operation;
use ferrite_mvcc::kv;
use ferrite_node::config::ETCD_VERSION;
use ferrite_node::corruption::HASH_PATH;
use ferrite_node::leases::{INTERNAL_PATH, RENEW_PATH};
use ferrite_node::versions::DOWNGRADE_PATH;
use ferrite_node::{Error, Node, hex};
use ferrite_proto::etcdserverpb::{
    AlarmType, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse, RangeRequest, ResponseHeader,
};
use ferrite_proto::leasepb::{LeaseInternalRequest, LeaseInternalResponse};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::ext::ReasonPhrase;
use prost::Message as _;

use crate::errors;
use crate::metrics::Reading;

/// Of a body that nobody wants, so many bytes are read all the same: Go's number,
const PASSED_OVER_BYTES: usize = 256 << 10;
/// for so long at most.
const PASSED_OVER_TIME: Duration = Duration::from_secs(1);

/// The largest body a peer may ask with.
const PEER_BODY_MAX: usize = 64 << 10;
/// Time a peer has to send it.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

fn answer(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const HTML: &str = "text/html; charset=utf-8";

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Bytes> {
    let mut response = answer(status, TEXT, body);
    response.headers_mut().insert(
        "X-Content-Type-Options",
        HeaderValue::from_static("nosniff"),
    );
    response
}

/// Go's answer to a path nobody serves.
pub fn not_found() -> Response<Bytes> {
    text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// No body.
pub fn empty(status: StatusCode) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    response
}

/// A page for people.
pub fn page(status: StatusCode, body: impl Into<Bytes>) -> Response<Bytes> {
    text(status, body)
}

/// A document for programs.
pub fn json(body: String) -> Response<Bytes> {
    answer(StatusCode::OK, "application/json; charset=utf-8", body)
}

/// It is there instead.
pub fn moved(method: &Method, path: &str, query: Option<&str>) -> Response<Bytes> {
    let to = match query {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let mut response = empty(StatusCode::MOVED_PERMANENTLY);
    if method == Method::GET || method == Method::HEAD {
        response = answer(StatusCode::MOVED_PERMANENTLY, HTML, Bytes::new());
    }
    if method == Method::GET {
        let escaped = to
            .replace('&', "&amp;")
            .replace('<', "&lt;")
            .replace('>', "&gt;")
            .replace('"', "&#34;")
            .replace('\'', "&#39;");
        *response.body_mut() = format!("<a href=\"{escaped}\">Moved Permanently</a>.\n\n").into();
    }
    if let Ok(to) = HeaderValue::from_str(&to) {
        response.headers_mut().insert(LOCATION, to);
    }
    response
}

/// For a request that does not say whom it asks.
pub fn no_host() -> Response<Bytes> {
    bad_request("400 Bad Request: missing required Host header")
}

/// For a request that says more than once whom it asks: which of them it means, another server on the way
/// may see otherwise.
pub fn too_many_hosts() -> Response<Bytes> {
    bad_request("400 Bad Request: too many Host headers")
}

/// For a request whose target cannot be read.
pub fn bad_target() -> Response<Bytes> {
    bad_request("400 Bad Request")
}

/// Refuses a request in these words, the reason beside the status among them, and ends the connection.
fn bad_request(words: &'static str) -> Response<Bytes> {
    let mut response = answer(StatusCode::BAD_REQUEST, TEXT, words);
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    if let Some(reason) = words.strip_prefix("400 ") {
        let reason = ReasonPhrase::from_static(reason.as_bytes());
        response.extensions_mut().insert(reason);
    }
    response
}

/// For a request that calls this member by a name it does not have; in etcd's words, which people look for.
pub fn misdirected(host: &str) -> Response<Bytes> {
    text(
        StatusCode::MISDIRECTED_REQUEST,
        format!(
            "
etcd received your request, but the Host header was unrecognized.

To fix this, choose one of the following options:
- Enable TLS, then any HTTPS request will be allowed.
- Add the hostname you want to use to the whitelist in settings.
  - e.g. etcd --host-whitelist {host:?}

This requirement has been added to help prevent \"DNS Rebinding\" attacks (CVE-2018-5702).

"
        ),
    )
}

/// For a client that means its certificate to say who it is, where that is not looked at.
pub fn certificate_ignored() -> Response<Bytes> {
    text(
        StatusCode::BAD_REQUEST,
        "CommonName of client sending a request against gateway will be ignored and not used as expected\n",
    )
}

/// The answer to any method but GET.
pub fn only_get(method: &Method) -> Option<Response<Bytes>> {
    if method == Method::GET {
        return None;
    }
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
    response
        .headers_mut()
        .insert(ALLOW, HeaderValue::from_static("GET"));
    Some(response)
}

/// The values of one query parameter, decoded; a pair that Go cannot read does not count.
fn parameters<'a>(query: &'a str, name: &'a str) -> impl Iterator<Item = String> + 'a {
    query.split('&').filter_map(move |pair| {
        if pair.contains(';') {
            return None;
        }
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        (decoded(key)? == name).then(|| decoded(value))?
    })
}

/// A part of a query without its escapes.
fn decoded(text: &str) -> Option<String> {
    unescaped(&text.replace('+', " "))
}

/// A text without its escapes; `None` where one is none.
pub fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => other,
        });
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// Serves a request on the client port.
pub async fn client(node: &Node, method: &Method, path: &str, query: &str) -> Response<Bytes> {
    if path == "/version" {
        return only_get(method).unwrap_or_else(|| version(node, ETCD_VERSION));
    }
    let probed = probe(node, method, path, query).await;
    probed.unwrap_or_else(not_found)
}

/// Serves what is for whoever watches over members, on the client port and on addresses of its own.
pub async fn probe(
    node: &Node,
    method: &Method,
    path: &str,
    query: &str,
) -> Option<Response<Bytes>> {
    match path {
        "/health" => match only_get(method) {
            Some(refused) => {
                tracing::warn!("status-code" = refused.status().as_u16(), "/health error");
                Some(refused)
            }
            None => Some(health(node, query).await),
        },
        _ => {
            for (prefix, checks) in [("/livez", LIVEZ), ("/readyz", READYZ)] {
                let Some(rest) = path.strip_prefix(prefix) else {
                    continue;
                };
                let single = match rest {
                    "" => None,
                    _ => match rest
                        .strip_prefix('/')
                        .and_then(|name| checks.iter().find(|check| check.name() == name))
                    {
                        Some(check) => Some(*check),
                        None => continue,
                    },
                };
                if let Some(refused) = only_get(method) {
                    return Some(refused);
                }
                let kind = prefix.trim_start_matches('/');
                let wanted = single.as_ref().map_or(checks, std::slice::from_ref);
                return Some(checked(node, kind, wanted, query).await);
            }
            None
        }
    }
}

/// `/version`. Other members are given the version to be held, if there is one: from theirs the leader makes
/// the cluster's.
fn version(node: &Node, server: &str) -> Response<Bytes> {
    let cluster = node.published().get_cluster();
    let storage = node
        .storage_version()
        .map_or_else(|| "unknown".to_owned(), |version| version.to_string());
    let cluster = cluster
        .version
        .map_or_else(|| "not_decided".to_owned(), |version| version.to_string());
    answer(
        StatusCode::OK,
        JSON,
        format!(
            "{{\"etcdserver\":\"{server}\",\"etcdcluster\":\"{cluster}\",\"storage\":\"{storage}\"}}"
        ),
    )
}

async fn health(node: &Node, query: &str) -> Response<Bytes> {
    let excluded: Vec<String> = parameters(query, "exclude").collect();
    let serializable = parameters(query, "serializable")
        .next()
        .is_some_and(|value| value == "true");
    let reason = unhealthy(node, &excluded, serializable).await;
    let metrics = node.metrics();
    match reason {
        None => metrics.health_success.inc(),
        Some(_) => metrics.health_failures.inc(),
    }
    health_page(reason)
}

/// What `/health` says.
pub fn health_page(reason: Option<String>) -> Response<Bytes> {
    match reason {
        None => answer(
            StatusCode::OK,
            TEXT,
            "{\"health\":\"true\",\"reason\":\"\"}",
        ),
        Some(reason) => {
            let output = serde_json::json!({"health": "false", "reason": reason}).to_string();
            tracing::warn!(output, "status-code" = 503, "/health error");
            text(StatusCode::SERVICE_UNAVAILABLE, output + "\n")
        }
    }
}

async fn unhealthy(node: &Node, excluded: &[String], serializable: bool) -> Option<String> {
    for alarm in node.published().get_alarms(AlarmType::None) {
        let name = alarm.alarm().as_str_name();
        if excluded.iter().any(|excluded| excluded == name) {
            continue;
        }
        return Some(match alarm.alarm() {
            AlarmType::Nospace | AlarmType::Corrupt => format!("ALARM {name}"),
            AlarmType::None => "ALARM UNKNOWN".to_owned(),
        });
    }
    if !serializable && node.status().leader() == 0 {
        return Some("RAFT NO LEADER".to_owned());
    }
    read_one(node, serializable)
        .await
        .err()
        .map(|error| format!("RANGE ERROR:{error}"))
}

/// Reads one key, to see whether reads work at all.
async fn read_one(node: &Node, serializable: bool) -> Result<(), String> {
    let reading = Reading::begin(node, Operation::Range);
    if !serializable {
        node.linearizable()
            .await
            .map_err(|error| errors::status(&error).message().to_owned())?;
    }
    let request = RangeRequest {
        key: Bytes::from_static(b"a"),
        limit: 1,
        ..RangeRequest::default()
    };
    let started = Instant::now();
    let found = kv::range(node.store(), &request);
    node.metrics()
        .observe_range(found.is_ok(), started.elapsed());
    found.map_err(|error| error.to_string())?;
    reading.succeeded();
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

const LIVEZ: &[Check] = &[Check::SerializableRead];
const READYZ: &[Check] = &[
    Check::DataCorruption,
    Check::SerializableRead,
    Check::LinearizableRead,
    Check::NonLearner,
];

impl Check {
    fn name(self) -> &'static str {
        match self {
            Check::DataCorruption => "data_corruption",
            Check::SerializableRead => "serializable_read",
            Check::LinearizableRead => "linearizable_read",
            Check::NonLearner => "non_learner",
        }
    }

    async fn run(self, node: &Node) -> Result<(), String> {
        match self {
            Check::DataCorruption => {
                if node.published().get_alarms(AlarmType::Corrupt).is_empty() {
                    Ok(())
                } else {
                    Err("alarm activated: CORRUPT".to_owned())
                }
            }
            Check::SerializableRead => read_one(node, true).await,
            Check::LinearizableRead => {
                let stalled = node.log_write_age();
                if stalled > node.config().election_timeout() {
                    return Err(format!(
                        "the write-ahead log's disk has not answered for {} ms",
                        stalled.as_millis()
                    ));
                }
                read_one(node, false).await
            }
            Check::NonLearner => {
                let cluster = node.published().get_cluster();
                match cluster.member(node.member_id()) {
                    Some(member) if member.is_learner => {
                        Err("not supported for learner".to_owned())
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

fn count(node: &Node, kind: &str, name: &str, well: bool) {
    let metrics = node.metrics();
    let status = if well { "success" } else { "error" };
    metrics.healthcheck.set(&[kind, name], well.into());
    metrics.healthchecks.inc(&[kind, name, status]);
}

async fn checked(node: &Node, kind: &str, checks: &[Check], query: &str) -> Response<Bytes> {
    let excluded: Vec<String> = parameters(query, "exclude").collect();
    for name in &excluded {
        if !checks.iter().any(|check| check.name() == name) {
            tracing::warn!(
                name = name.as_str(),
                "some health checks cannot be excluded: unknown name"
            );
        }
    }
    let verbose = query
        .split('&')
        .any(|pair| pair.split('=').next() == Some("verbose"));
    let mut lines = String::new();
    let mut failed = false;
    for check in checks {
        if excluded.iter().any(|name| name == check.name()) {
            continue;
        }
        let outcome = check.run(node).await;
        count(node, kind, check.name(), outcome.is_ok());
        match outcome {
            Ok(()) => lines.push_str(&format!("[+]{} ok\n", check.name())),
            Err(error) => {
                failed = true;
                lines.push_str(&format!("[-]{} failed: {error}\n", check.name()));
            }
        }
    }
    if failed {
        tracing::warn!(output = lines.as_str(), "health check failed");
        return text(StatusCode::SERVICE_UNAVAILABLE, lines + "\n");
    }
    text(
        StatusCode::OK,
        if verbose {
            lines + "ok\n"
        } else {
            "ok\n".to_owned()
        },
    )
}

/// Serves what other members ask on the peer port beside raft.
pub async fn peer(node: &Node, request: Request<Incoming>) -> Response<Bytes> {
    let (parts, body) = request.into_parts();
    let hashes = parts.uri.path() == HASH_PATH;
    let mut response = match parts.uri.path() {
        "/version" => {
            return only_get(&parts.method)
                .unwrap_or_else(|| version(node, &node.given_version().to_string()));
        }
        "/members" => only_get(&parts.method).unwrap_or_else(|| {
            let cluster = node.published().get_cluster();
            answer(
                StatusCode::OK,
                JSON,
                members_json(cluster.members.values()) + "\n",
            )
        }),
        HASH_PATH => match only_get(&parts.method) {
            Some(refused) => refused,
            None => {
                let asked = parts
                    .headers
                    .get("X-Etcd-Cluster-ID")
                    .map(HeaderValue::as_bytes);
                if asked.is_some_and(|asked| {
                    !asked.is_empty() && asked != hex(node.cluster_id()).as_bytes()
                }) {
                    text(StatusCode::PRECONDITION_FAILED, "cluster ID mismatch\n")
                } else {
                    hash_kv(node, body).await
                }
            }
        },
        RENEW_PATH | INTERNAL_PATH => {
            return if parts.method == Method::POST {
                lease(node, parts.uri.path(), body).await
            } else {
                text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n")
            };
        }
        DOWNGRADE_PATH => match only_get(&parts.method) {
            Some(refused) => refused,
            None => match node.linearizable().await {
                Ok(()) => {
                    let cluster = node.published().get_cluster();
                    let enabled = cluster
                        .downgrade
                        .as_ref()
                        .is_some_and(|downgrade| downgrade.enabled);
                    answer(StatusCode::OK, "text/plain", enabled.to_string())
                }
                Err(error) => text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!(
                        "failed linearized read: {}\n",
                        errors::status(&error).message()
                    ),
                ),
            },
        },
        path => match path.strip_prefix("/members/promote/") {
            Some(id) => promote(node, &parts.method, id).await,
            None => return not_found(),
        },
    };
    let refused = match hashes {
        true => response.status() != StatusCode::OK,
        false => response.status() == StatusCode::METHOD_NOT_ALLOWED,
    };
    if !refused && let Ok(id) = HeaderValue::from_str(&hex(node.cluster_id())) {
        response.headers_mut().insert("X-Etcd-Cluster-ID", id);
    }
    response
}

/// A follower passes a promotion on to this member, which it takes for the leader.
async fn promote(node: &Node, method: &Method, id: &str) -> Response<Bytes> {
    if method != Method::POST {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    let Ok(id) = id.parse::<u64>() else {
        return text(
            StatusCode::NOT_FOUND,
            format!("member {id} not found in cluster\n"),
        );
    };
    use ferrite_apply::ApplyError::Membership;
    use ferrite_membership::Error as E;
    match node.promote_member(id).await {
        Ok(_) => {
            let cluster = node.published().get_cluster();
            answer(
                StatusCode::OK,
                JSON,
                members_json(cluster.members.values()) + "\n",
            )
        }
        Err(Error::Apply(Membership(error @ (E::IdNotFound | E::IdRemoved)))) => {
            text(StatusCode::NOT_FOUND, format!("{error}\n"))
        }
        Err(Error::Apply(Membership(error @ E::MemberNotLearner))) => {
            text(StatusCode::PRECONDITION_FAILED, format!("{error}\n"))
        }
        Err(error @ Error::LearnerNotReady) => text(
            StatusCode::PRECONDITION_FAILED,
            format!("etcdserver: {error}\n"),
        ),
        Err(error) => {
            tracing::warn!("member-id" = %hex(id), error = %error, "failed to promote a member");
            answer(
                StatusCode::INTERNAL_SERVER_ERROR,
                JSON,
                "{\"message\":\"Internal Server Error\"}",
            )
        }
    }
}

/// A renewal or a question about a lease, from a member that takes this one for the leader.
async fn lease(node: &Node, path: &str, body: Incoming) -> Response<Bytes> {
    let limited =
        tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, PEER_BODY_MAX).collect()).await;
    let body = match limited {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            return text(StatusCode::PAYLOAD_TOO_LARGE, "request body too large\n");
        }
        Ok(Err(_)) | Err(_) => return text(StatusCode::BAD_REQUEST, "error reading body\n"),
    };
    let answered = if path == RENEW_PATH {
        let Ok(LeaseKeepAliveRequest { id }) = LeaseKeepAliveRequest::decode(body) else {
            return text(StatusCode::BAD_REQUEST, "error unmarshalling request\n");
        };
        node.renew_lease_for_peer(id).await.map(|ttl| {
            let response = LeaseKeepAliveResponse {
                header: None,
                id,
                ttl,
            };
            response.encode_to_vec()
        })
    } else {
        let Some(LeaseTimeToLiveRequest { id, keys }) = LeaseInternalRequest::decode(body)
            .ok()
            .and_then(|request| request.lease_time_to_live_request)
        else {
            return text(StatusCode::BAD_REQUEST, "error unmarshalling request\n");
        };
        let found = node.lease_time_to_live_here(id, keys).await;
        found
            .and_then(|found| found.ok_or(Error::Apply(ApplyError::LeaseNotFound)))
            .map(|found| {
                let response = LeaseTimeToLiveResponse {
                    header: Some(ResponseHeader::default()),
                    id,
                    ttl: found.remaining_seconds,
                    granted_ttl: found.granted_seconds,
                    keys: found.keys,
                };
                LeaseInternalResponse {
                    lease_time_to_live_response: Some(response),
                }
                .encode_to_vec()
            })
    };
    match answered {
        Ok(body) => answer(StatusCode::OK, "application/protobuf", body),
        Err(Error::Apply(ApplyError::LeaseNotFound)) => {
            text(StatusCode::NOT_FOUND, "lease not found\n")
        }
        Err(Error::AppliedIndexTimeout) => text(
            StatusCode::REQUEST_TIMEOUT,
            "waiting for node to catch up its applied index has timed out\n",
        ),
        Err(Error::LeaderChanged) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("{}\n", Error::NotPrimary),
        ),
        Err(error) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
    }
}

async fn hash_kv(node: &Node, body: Incoming) -> Response<Bytes> {
    #[derive(serde::Deserialize)]
    struct Asked {
        #[serde(default)]
        revision: i64,
    }
    #[derive(serde::Serialize)]
    struct Header {
        revision: i64,
    }
    #[derive(serde::Serialize)]
    struct Answer {
        header: Header,
        #[serde(skip_serializing_if = "is_zero")]
        hash: u32,
        #[serde(skip_serializing_if = "is_zero_wide")]
        compact_revision: i64,
        #[serde(skip_serializing_if = "is_zero_wide")]
        hash_revision: i64,
    }
    fn is_zero(n: &u32) -> bool {
        *n == 0
    }
    fn is_zero_wide(n: &i64) -> bool {
        *n == 0
    }
    let limited =
        tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, PEER_BODY_MAX).collect()).await;
    let Ok(Ok(bytes)) = limited else {
        return text(StatusCode::BAD_REQUEST, "error reading body\n");
    };
    let Ok(asked) = serde_json::from_slice::<Asked>(&bytes.to_bytes()) else {
        return text(StatusCode::BAD_REQUEST, "error unmarshalling request\n");
    };
    let (store, started) = (node.store().clone(), Instant::now());
    let hashed = tokio::task::spawn_blocking(move || store.hash_kv(asked.revision)).await;
    node.metrics().hash_rev.observe(started.elapsed());
    match hashed {
        Ok(Ok(found)) => {
            let body = serde_json::to_vec(&Answer {
                header: Header {
                    revision: found.current_revision,
                },
                hash: found.hash,
                compact_revision: found.compact_revision,
                hash_revision: found.hash_revision,
            });
            match body {
                Ok(body) => answer(StatusCode::OK, JSON, body),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            }
        }
        Ok(Err(error)) => text(StatusCode::BAD_REQUEST, format!("{error}\n")),
        Err(_) => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "the computation failed\n",
        ),
    }
}
/// Reads what is left of a request that is answered without it, within limits. By HTTP/2 an answer that comes before
/// the request is whole ends in a reset, which clients like curl take for a failure, answer and all.
pub async fn pass_over(body: &mut Incoming) {
    let mut left = PASSED_OVER_BYTES;
    let whole = async {
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(length) {
                Some(rest) => left = rest,
                None => return,
            }
        }
    };
    let _late = tokio::time::timeout(PASSED_OVER_TIME, whole).await;
}
