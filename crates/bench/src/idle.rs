//! What a cluster costs that nobody asks anything: processor time and memory of each member, ours and etcd's side by
//! side.

use std::time::Duration;

use crate::error::Result;
use crate::procstat::Meter;
use crate::report::say;
use crate::servers::{Cluster, Program};

/// Members of each cluster.
const MEMBERS: usize = 3;
/// The time that elections, first snapshots and first connections are given before anything is measured.
const SETTLE: Duration = Duration::from_secs(12);

/// Measures the clusters for so long, all at the same time, and prints a line for each member.
///
/// # Errors
/// A cluster does not start, or a member ends.
pub async fn run(programs: &[Program], long: Duration) -> Result<()> {
    let mut clusters = Vec::new();
    for program in programs {
        clusters.push(Cluster::start(program, MEMBERS).await?);
    }
    tokio::time::sleep(SETTLE).await;
    let meters = clusters
        .iter()
        .map(|cluster| Meter::start(&cluster.pids()))
        .collect::<Result<Vec<_>>>()?;
    tokio::time::sleep(long).await;
    say("| idle member of | CPU, % of a core | resident, MiB |\n|---|---|---|");
    for (cluster, meter) in clusters.iter().zip(&meters) {
        let (_, members) = meter.stop()?;
        for member in members {
            say(&format!(
                "| {} | {:.2} | {:.1} |",
                cluster.name(),
                member.cpu_s / long.as_secs_f64() * 100.0,
                member.rss_mib,
            ));
        }
    }
    Ok(())
}
