//! What operators do to processes: kill, stop, pause, upgrade, misconfigure. One program, so that it
//! is linked once; pick an area by its module: `cargo test -p ferrite-testkit crash::`.

mod auth;
mod bad_input;
mod big_numbers;
mod crash;
mod errors;
mod failover;
mod known_bugs;
mod leases;
mod left;
mod maintenance;
mod memory;
mod metrics;
mod mixed;
mod one_member;
mod pause;
mod soak;
mod takeover;
mod tls;
mod watch_guarantees;

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
