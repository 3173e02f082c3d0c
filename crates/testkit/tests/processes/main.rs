//! What operators do to processes: kill, stop, pause, upgrade, misconfigure. One program, so that it
//! is linked once; pick an area by its module: `cargo test -p ferrite-testkit crash::`.

mod addresses;
mod auth;
mod bad_input;
mod big_numbers;
mod compaction;
mod configuration;
mod crash;
mod discovery;
mod errors;
mod every_kind;
mod failover;
mod flag_effects;
mod floods;
mod folders;
mod formats;
mod founded_by_dns;
mod gateway;
mod grpc_proxy;
mod handover;
mod held;
mod json_gateway;
mod known_bugs;
mod leases;
mod leasing;
mod left;
mod listeners;
mod logs;
mod maintenance;
mod memory;
mod metrics;
mod mixed;
mod no_leader;
mod one_member;
mod overload;
mod pause;
mod peer_port;
mod reconfigure;
mod slow;
mod soak;
mod strangers;
mod takeover;
mod tls;
mod watch_guarantees;
mod wire;

use std::sync::Arc;

use ferrite_testkit::{Client, pb};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

static TURN: std::sync::LazyLock<Arc<RwLock<()>>> = std::sync::LazyLock::new(Arc::default);

/// Runs next to other tests, but not to one that measures time.
async fn beside_others() -> OwnedRwLockReadGuard<()> {
    Arc::clone(&TURN).read_owned().await
}

/// Runs with no other test of this program: for what measures time.
async fn alone() -> OwnedRwLockWriteGuard<()> {
    Arc::clone(&TURN).write_owned().await
}

/// A plain HTTP request; the body of the answer, or nothing.
async fn http_get(endpoint: &str, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let address = endpoint.trim_start_matches("http://");
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let asked = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = asked.await.unwrap_or_default();
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    body.to_owned()
}

async fn put(client: &Client, key: &str, value: &str) -> i64 {
    let request = pb::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        ..Default::default()
    };
    let response = client.kv().put(request).await;
    let response = response.unwrap_or_else(|status| panic!("put {key}: {status}"));
    response.into_inner().header.expect("a header").revision
}

async fn get(client: &Client, key: &str) -> Option<String> {
    let request = pb::RangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    };
    let response = client.kv().range(request).await;
    let response = response.unwrap_or_else(|status| panic!("get {key}: {status}"));
    let pair = response.into_inner().kvs.into_iter().next()?;
    Some(String::from_utf8_lossy(&pair.value).into_owned())
}
