//! Something large that goes on beside the measured operations, from clients of its own.

use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::ValueEnum;
use ferrite_proto::etcdserverpb as pb;
use ferrite_proto::etcdserverpb::request_op;
use tokio::task::JoinSet;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::streams::open_watchers;
use crate::workload::{put_request, value};

/// Leases, and watchers.
const MANY: usize = 10_000;
/// Clients that grant the leases.
const GRANTERS: usize = 64;
/// How long after the last grant the leases end.
const LEASES_END_IN: Duration = Duration::from_secs(3);
/// Streams that the watchers share.
const WATCH_STREAMS: usize = 20;
/// Between two changes of what the watchers watch.
const WATCHED_EVERY: Duration = Duration::from_millis(200);
/// Operations of the largest transaction.
const TXN_OPS: usize = 128;
/// Bytes of the largest request, with room for its frame and keys.
const REQUEST_BYTES: usize = 1_572_864 - 16 * 1024;

/// What goes on.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Ten thousand leases that end in the same second.
    Leases,
    /// Ten thousand watchers of one prefix, which changes five times a second.
    Watchers,
    /// One range of the whole key space after another.
    Range,
    /// One transaction of 128 puts and a megabyte and a half after another.
    Txn,
    /// One value of a megabyte and a half after another.
    Value,
}

impl Load {
    /// For reports.
    pub fn name(self) -> &'static str {
        match self {
            Load::Leases => "leases",
            Load::Watchers => "watchers",
            Load::Range => "range",
            Load::Txn => "txn",
            Load::Value => "value",
        }
    }

    /// Starts it; it goes on until the tasks are dropped.
    pub(crate) async fn start(self, endpoint: &str) -> Result<JoinSet<()>> {
        let mut tasks = JoinSet::new();
        match self {
            Load::Leases => grant_many(endpoint).await?,
            Load::Watchers => watch_many(endpoint, &mut tasks).await?,
            Load::Range => {
                let mut client = Client::connect(endpoint).await?;
                let everything = || pb::RangeRequest {
                    key: Bytes::from_static(b"\0"),
                    range_end: Bytes::from_static(b"\0"),
                    ..Default::default()
                };
                tasks.spawn(async move { while client.range(everything()).await.is_ok() {} });
            }
            Load::Txn => {
                let mut client = Client::connect(endpoint).await?;
                let value = value(REQUEST_BYTES / TXN_OPS - 32);
                let ops = (0..TXN_OPS).map(|n| pb::RequestOp {
                    request: Some(request_op::Request::RequestPut(put_request(
                        format!("txn-beside/{n:03}").into(),
                        &value,
                    ))),
                });
                let txn = pb::TxnRequest {
                    success: ops.collect(),
                    ..Default::default()
                };
                tasks.spawn(async move { while client.txn(txn.clone()).await.is_ok() {} });
            }
            Load::Value => {
                let mut client = Client::connect(endpoint).await?;
                let put = put_request("value-beside".into(), &value(REQUEST_BYTES));
                tasks.spawn(async move { while client.put(put.clone()).await.is_ok() {} });
            }
        }
        Ok(tasks)
    }
}

async fn grant_many(endpoint: &str) -> Result<()> {
    let mut client = Client::connect(endpoint).await?;
    // how long all of them will take, by some
    let begun = Instant::now();
    let some = MANY / 100;
    for _ in 0..some {
        grant(&mut client, 10_000).await?;
    }
    let ends = Instant::now() + begun.elapsed() * 25 + LEASES_END_IN;
    let mut granters = JoinSet::new();
    for granter in 0..GRANTERS {
        let mut client = client.clone();
        granters.spawn(async move {
            for _ in (granter..MANY).step_by(GRANTERS) {
                let left = ends.saturating_duration_since(Instant::now());
                grant(&mut client, left.as_secs().max(2)).await?;
            }
            Ok(())
        });
    }
    while let Some(granted) = granters.join_next().await {
        granted.map_err(|why| Error::told(why.to_string()))??;
    }
    tokio::time::sleep_until(ends.into()).await;
    Ok(())
}

async fn grant(client: &mut Client, seconds: u64) -> Result<()> {
    let request = pb::LeaseGrantRequest {
        id: 0,
        ttl: i64::try_from(seconds).unwrap_or(i64::MAX),
    };
    let granted = client.grant(request).await;
    granted.map(drop).map_err(Error::call("granting a lease"))
}

async fn watch_many(endpoint: &str, tasks: &mut JoinSet<()>) -> Result<()> {
    const PREFIX: &str = "watch-beside/";
    for _ in 0..WATCH_STREAMS {
        let mut client = Client::connect(endpoint).await?;
        let (requests, mut responses) =
            open_watchers(&mut client, PREFIX, MANY / WATCH_STREAMS).await?;
        tasks.spawn(async move {
            let _open = requests;
            while let Ok(Some(_)) = responses.message().await {}
        });
    }
    let mut client = Client::connect(endpoint).await?;
    let put = put_request(format!("{PREFIX}key").into(), &value(64));
    tasks.spawn(async move {
        while client.put(put.clone()).await.is_ok() {
            tokio::time::sleep(WATCHED_EVERY).await;
        }
    });
    Ok(())
}
