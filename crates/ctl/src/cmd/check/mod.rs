//! `check …`: puts a cluster under a known load and judges how it did.

mod bar;
mod datascale;
mod load;
mod memory;
mod perf;
mod stats;

pub use datascale::datascale;
pub use perf::perf;

use std::time::Duration;

use ferrite_client::{Client, Status, pb};

use super::kv::prefix_end;
use crate::exit::{self, Failure};
use crate::gofmt::quote;
use crate::report;
use crate::session::Session;

/// How long cleaning up may take.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(30);

/// A size of load by any of its names.
fn size(name: &str) -> Result<usize, Failure> {
    Ok(match name {
        "s" | "small" => 0,
        "m" | "medium" => 1,
        "l" | "large" => 2,
        "xl" | "xLarge" => 3,
        other => {
            return Err(Failure::new(
                exit::BAD_FEATURE,
                format!("unknown load option {other}"),
            ));
        }
    })
}

/// As many connections as the load has clients.
async fn clients(session: &Session, count: usize) -> Result<Vec<Client>, Failure> {
    let mut clients = Vec::with_capacity(count);
    for _ in 0..count {
        clients.push(session.client().await?);
    }
    Ok(clients)
}

/// Refuses to mix the load's keys with others.
async fn require_empty(client: &Client, prefix: &str, command: &str) -> Result<(), Failure> {
    let request = pb::RangeRequest {
        key: prefix.to_owned().into(),
        range_end: prefix_end(prefix.as_bytes()),
        limit: 1,
        ..Default::default()
    };
    let found = client.kv().range(request).await?;
    if found.get_ref().kvs.is_empty() {
        return Ok(());
    }
    Err(Failure::new(
        exit::INVALID_INPUT,
        format!(
            "prefix {} has keys. Delete with {command} first",
            quote(prefix.as_bytes())
        ),
    ))
}

fn timed<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(CLEANUP_TIMEOUT);
    request
}

/// Deletes the load's keys; the revision then.
async fn delete(client: &Client, prefix: &str) -> Result<i64, Status> {
    let request = pb::DeleteRangeRequest {
        key: prefix.to_owned().into(),
        range_end: prefix_end(prefix.as_bytes()),
        ..Default::default()
    };
    let response = client.kv().delete_range(timed(request)).await?;
    Ok(response.into_inner().header.map_or(0, |h| h.revision))
}

async fn compact(client: &Client, revision: i64) -> Result<(), Failure> {
    report::line(&format!("Compacting with revision {revision}"));
    let request = pb::CompactionRequest {
        revision,
        physical: true,
    };
    client.kv().compact(timed(request)).await?;
    report::line(&format!("Compacted with revision {revision}"));
    Ok(())
}

async fn defrag(session: &Session) -> Result<(), Failure> {
    for endpoint in &session.members().await? {
        let name = quote(endpoint.as_bytes());
        report::line(&format!("Defragmenting {name}"));
        let client = session.client_at(endpoint).await?;
        let request = timed(pb::DefragmentRequest {});
        client.maintenance().defragment(request).await?;
        report::line(&format!("Defragmented {name}"));
    }
    Ok(())
}

/// Says how often what went wrong.
fn print_errors(stats: &stats::Stats) {
    report::line("FAIL: too many errors");
    for (error, count) in &stats.errors {
        report::line(&format!("FAIL: ERROR({error}) -> {count}"));
    }
}
