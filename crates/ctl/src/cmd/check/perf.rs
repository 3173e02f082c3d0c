//! `check perf`: can the cluster take so many writes a second, evenly?

use std::time::Duration;

use ferrite_client::{Client, describe};

use super::bar::Bar;
use super::load::{Pace, Shape};
use super::{clients, compact, defrag, delete, load, print_errors, require_empty, size};
use crate::exit::{self, Failure};
use crate::report;
use crate::session::Session;

const KEY_BYTES: usize = 256;
const VALUE_BYTES: usize = 1024;
/// The share of the pace that has to be reached.
const SHARE_MIN: f64 = 0.9;
/// The longest that one write may take, and the most they may differ, in seconds.
const SLOWEST_MAX: f64 = 0.5;
const DEVIATION_MAX: f64 = 0.1;

/// Writes a second and clients, by size.
const LOADS: [(u32, usize); 4] = [(150, 50), (1000, 200), (8000, 500), (15000, 1000)];

/// `check perf`.
pub async fn perf(session: &Session) -> Result<(), Failure> {
    let values = &session.values;
    let (per_second, count) = LOADS[size(&values.text("load"))?];
    let prefix = values.text("prefix");
    let time = values.duration("duration");
    let clients = clients(session, count).await?;
    let Some(client) = clients.first().cloned() else {
        return Err(Failure::new(exit::ERROR, "no clients"));
    };
    let command = format!("'etcdctl del --prefix {prefix}'");
    require_empty(&client, &prefix, &command).await?;
    let shape = Shape {
        prefix: prefix.clone(),
        key_bytes: KEY_BYTES,
        value_bytes: VALUE_BYTES,
    };
    let pace = Pace::Limited { per_second, time };
    let stop = async {
        // Ctrl-C ends the load early; what was written is cleaned up all the same.
        let _ = tokio::signal::ctrl_c().await;
    };
    let load = load::run(clients, &shape, pace, stop, || {});
    let mut bar = Bar::new(time.as_secs());
    tokio::pin!(load);
    let stats = loop {
        tokio::select! {
            stats = &mut load => break stats,
            () = tokio::time::sleep(Duration::from_secs(1)) => bar.step(),
        }
    };
    bar.end();
    clean(&client, &prefix, values.bool("auto-compact")).await?;
    if values.bool("auto-defrag") {
        defrag(session).await?;
    }
    let mut passed = stats.errors.is_empty();
    if !passed {
        print_errors(&stats);
    }
    let rate = stats.per_second();
    let shown = rate as u64 + 1;
    if rate / f64::from(per_second) <= SHARE_MIN {
        report::line(&format!("FAIL: Throughput too low: {shown} writes/s"));
        passed = false;
    } else {
        report::line(&format!("PASS: Throughput is {shown} writes/s"));
    }
    let slowest = stats.slowest();
    if slowest > SLOWEST_MAX {
        report::line(&format!("Slowest request took too long: {slowest:.6}s"));
        passed = false;
    } else {
        report::line(&format!("PASS: Slowest request took {slowest:.6}s"));
    }
    let deviation = stats.deviation();
    if deviation > DEVIATION_MAX {
        report::line(&format!("Stddev too high: {deviation:.6}s"));
        passed = false;
    } else {
        report::line(&format!("PASS: Stddev is {deviation:.6}s"));
    }
    if !passed {
        report::line("FAIL");
        return Err(Failure::silent(exit::ERROR));
    }
    report::line("PASS");
    Ok(())
}

async fn clean(client: &Client, prefix: &str, auto_compact: bool) -> Result<(), Failure> {
    match delete(client, prefix).await {
        Ok(revision) if auto_compact => compact(client, revision).await,
        Ok(_) => Ok(()),
        Err(status) => {
            report::line(&format!(
                "FAIL: Cleanup failed during key deletion: ERROR({})",
                describe(&status)
            ));
            Ok(())
        }
    }
}
