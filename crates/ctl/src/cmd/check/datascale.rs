//! `check datascale`: how much memory does a member take for so many keys?

use super::bar::Bar;
use super::load::{Pace, Shape};
use super::memory::resident_bytes;
use super::{clients, compact, defrag, delete, load, print_errors, require_empty, size};
use crate::exit::{self, Failure};
use crate::report;
use crate::session::Session;

const KEY_BYTES: usize = 512;
const VALUE_BYTES: usize = 512;

/// Pairs and clients, by size.
const LOADS: [(u64, usize); 4] = [
    (10_000, 50),
    (100_000, 200),
    (1_000_000, 500),
    (3_000_000, 1000),
];

/// `check datascale`.
pub async fn datascale(session: &Session) -> Result<(), Failure> {
    let values = &session.values;
    let (pairs, count) = LOADS[size(&values.text("load"))?];
    let prefix = values.text("prefix");
    let clients = clients(session, count).await?;
    let members = session.members().await?;
    let (Some(client), Some(endpoint)) = (clients.first().cloned(), members.first()) else {
        return Err(Failure::new(exit::ERROR, "no endpoint"));
    };
    let command = format!("etcdctl del --prefix {prefix}");
    require_empty(&client, &prefix, &command).await?;
    let before = memory(endpoint, "before").await?;
    report::line(&format!(
        "Start data scale check for work load [{pairs} key-value pairs, {} bytes per key-value, {count} concurrent clients].",
        KEY_BYTES + VALUE_BYTES
    ));
    let shape = Shape {
        prefix: prefix.clone(),
        key_bytes: KEY_BYTES,
        value_bytes: VALUE_BYTES,
    };
    let mut bar = Bar::new(pairs);
    let never = std::future::pending();
    let stats = load::run(clients, &shape, Pace::Count(pairs), never, || bar.step()).await;
    bar.end();
    let after = memory(endpoint, "after").await?;
    let revision = delete(&client, &prefix).await?;
    if values.bool("auto-compact") {
        compact(&client, revision).await?;
    }
    if values.bool("auto-defrag") {
        defrag(session).await?;
    }
    if !stats.errors.is_empty() {
        print_errors(&stats);
        return Err(Failure::silent(exit::ERROR));
    }
    report::line(&format!(
        "PASS: Approximate system memory used : {:.2} MB.",
        (after - before) / (1024.0 * 1024.0)
    ));
    Ok(())
}

async fn memory(endpoint: &str, when: &str) -> Result<f64, Failure> {
    resident_bytes(endpoint.trim()).await.map_err(|error| {
        report::line(&error);
        report::line(&format!(
            "FAIL: Could not read process_resident_memory_bytes {when} the put operations."
        ));
        Failure::silent(exit::ERROR)
    })
}
