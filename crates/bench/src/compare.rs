//! The comparison: both programs run side by side, every row is measured on one and then on the other,
//! several times (A B A B …), so that a machine that speeds up or slows down does so for both.

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use crate::beside::Load;
use crate::error::{Error, Result};
use crate::procstat;
use crate::report::{Report, say};
use crate::servers::{Cluster, Program};
use crate::table::{self, Restart, Row, Section};
use crate::workload::{Keys, Run, Workload};

/// Keys in the space that gets, scans and puts meet.
pub(crate) const KEY_SPACE: u64 = 100_000;
/// Between two cells, so that work left over from one (collection, commits) does not count in the next.
pub(crate) const SETTLE: Duration = Duration::from_millis(300);

/// What was asked for.
#[derive(Debug)]
pub struct Options {
    /// Ours.
    pub ours: PathBuf,
    /// etcd's.
    pub oracle: PathBuf,
    /// Runs of every cell.
    pub runs: usize,
    /// Fewer operations.
    pub quick: bool,
    /// Only rows whose name contains one of these.
    pub rows: Vec<String>,
    /// Sizes of the clusters.
    pub members: Vec<usize>,
    /// Keys in the database of the restart test; 0 leaves it out.
    pub restart_keys: u64,
    /// Every run as a JSON line, appended.
    pub json: Option<PathBuf>,
}

struct Cell {
    name: &'static str,
    workload: Workload,
    clients: usize,
    connections: usize,
    total: u64,
}

fn cells(members: usize, quick: bool) -> Vec<Cell> {
    let put = |keys| Workload::Put {
        keys,
        val_size: 256,
    };
    let get = |serializable| Workload::Get {
        keys: Keys::random(KEY_SPACE),
        serializable,
    };
    let scan = |bounded| Workload::Scan {
        keys: Keys::random(KEY_SPACE),
        serializable: true,
        limit: 1000,
        bounded,
    };
    let random = || Keys::random(KEY_SPACE);
    let txn = Workload::TxnPut {
        keys: random(),
        val_size: 256,
        ops: 1,
    };
    let mixed = Workload::Mixed {
        keys: random(),
        val_size: 256,
        reads: 90,
        serializable: false,
    };
    let beside = |load| Workload::Beside {
        load,
        keys: random(),
        val_size: 256,
    };
    // Three members share the two cores of the client: fewer operations take as long.
    let scale = |total: u64| {
        let total = if members > 1 { total / 2 } else { total };
        if quick { total / 3 } else { total }
    };
    let cell = |name, workload, clients, connections, total| Cell {
        name,
        workload,
        clients,
        connections,
        total: scale(total),
    };
    vec![
        cell("put 256 B", put(random()), 1, 1, 6_000),
        cell("put 256 B", put(random()), 64, 8, 60_000),
        cell("put 256 B", put(random()), 256, 16, 60_000),
        cell("put 256 B", put(random()), 1000, 100, 60_000),
        cell("txn of one put", txn, 64, 8, 60_000),
        cell("get, linearizable", get(false), 1, 1, 12_000),
        cell("get, linearizable", get(false), 64, 8, 90_000),
        cell("get, linearizable", get(false), 1000, 100, 60_000),
        cell("get, serializable", get(true), 1, 1, 24_000),
        cell("get, serializable", get(true), 64, 8, 90_000),
        cell("get, serializable", get(true), 1000, 100, 60_000),
        cell("range of 1000, bounded", scan(true), 8, 4, 3_000),
        cell("range, limit 1000, unbounded", scan(false), 8, 4, 3_000),
        cell("mixed, 90 % linearizable gets", mixed, 64, 8, 60_000),
        cell(
            "put beside 10 000 leases that end",
            beside(Load::Leases),
            1,
            1,
            6_000,
        ),
        cell(
            "put beside 10 000 watchers",
            beside(Load::Watchers),
            1,
            1,
            6_000,
        ),
        cell(
            "put beside ranges of all keys",
            beside(Load::Range),
            1,
            1,
            3_000,
        ),
        cell("put beside txns of 1.5 MiB", beside(Load::Txn), 1, 1, 1_500),
        cell(
            "put beside values of 1.5 MiB",
            beside(Load::Value),
            1,
            1,
            1_500,
        ),
    ]
}

/// Runs everything.
///
/// # Errors
/// A server cannot be started or dies, or a file cannot be written.
pub async fn run(options: &Options) -> Result<Vec<Section>> {
    let programs = [
        Program::in_dir("etcd", &options.oracle)?,
        Program::in_dir("ours", &options.ours)?,
    ];
    let mut sections = Vec::new();
    for &members in &options.members {
        let rows = rows(options, &programs, members).await?;
        sections.push(Section {
            members,
            rows,
            restart: None,
        });
    }
    if options.restart_keys > 0 {
        let restart = restart(options, &programs).await?;
        match sections.first_mut() {
            Some(section) => section.restart = Some(restart),
            None => sections.push(Section {
                members: 1,
                rows: Vec::new(),
                restart: Some(restart),
            }),
        }
    }
    Ok(sections)
}

async fn rows(options: &Options, programs: &[Program; 2], members: usize) -> Result<Vec<Row>> {
    let mut clusters = Vec::new();
    for program in programs {
        let cluster = Cluster::start(program, members).await?;
        fill(&cluster, KEY_SPACE).await?;
        clusters.push(cluster);
    }
    let mut rows = Vec::new();
    for cell in cells(members, options.quick) {
        let label = format!("{} x{}", cell.name, cell.clients);
        let wanted = |part: &String| label.contains(part.as_str());
        if !options.rows.is_empty() && !options.rows.iter().any(wanted) {
            continue;
        }
        let mut reports: [Vec<Report>; 2] = Default::default();
        for _ in 0..options.runs {
            for (cluster, reports) in clusters.iter().zip(&mut reports) {
                tokio::time::sleep(SETTLE).await;
                let report = measure(&cell, cluster, members).await?;
                keep(options, &report)?;
                reports.push(report);
            }
        }
        let [oracle, ours] = reports;
        let row = Row::of(cell.name, cell.clients, &oracle, &ours);
        say(&format!("{members} member(s): {}", table::brief(&row)));
        rows.push(row);
    }
    Ok(rows)
}

async fn measure(cell: &Cell, cluster: &Cluster, members: usize) -> Result<Report> {
    Run {
        workload: cell.workload.clone(),
        endpoints: cluster.endpoints(),
        pids: cluster.pids(),
        clients: cell.clients,
        connections: cell.connections.max(members.min(cell.clients)),
        total: cell.total,
        warmup: cell.total / 10,
        label: format!("{}-{members}", cluster.name()),
    }
    .measure()
    .await
}

pub(crate) async fn fill(cluster: &Cluster, keys: u64) -> Result<()> {
    let run = Run {
        workload: Workload::Put {
            keys: Keys::in_order(keys),
            val_size: 256,
        },
        endpoints: cluster.endpoints(),
        pids: Vec::new(),
        clients: 256,
        connections: 16,
        total: keys,
        warmup: 0,
        label: String::new(),
    };
    let report = run.measure().await?;
    match report.first_error {
        Some(error) => Err(Error::told(format!("filling {}: {error}", cluster.name()))),
        None => Ok(()),
    }
}

/// One member with many keys, ended and started again.
async fn restart(options: &Options, programs: &[Program; 2]) -> Result<Restart> {
    let mut clusters = Vec::new();
    for program in programs {
        let cluster = Cluster::start(program, 1).await?;
        fill(&cluster, options.restart_keys).await?;
        clusters.push(cluster);
    }
    let mut rss_full = [0.0; 2];
    for (cluster, rss) in clusters.iter().zip(&mut rss_full) {
        *rss = resident_mib(cluster)?;
    }
    let mut seconds: [Vec<f64>; 2] = Default::default();
    for _ in 0..options.runs {
        for (cluster, seconds) in clusters.iter_mut().zip(&mut seconds) {
            tokio::time::sleep(SETTLE).await;
            seconds.push(cluster.restart().await?.as_secs_f64());
        }
    }
    let mut rss_restarted = [0.0; 2];
    for (cluster, rss) in clusters.iter().zip(&mut rss_restarted) {
        *rss = resident_mib(cluster)?;
    }
    let restart = Restart {
        keys: options.restart_keys,
        seconds: seconds.map(|all| table::median(&all)),
        rss_full,
        rss_restarted,
    };
    say(&table::brief_restart(&restart));
    Ok(restart)
}

fn resident_mib(cluster: &Cluster) -> Result<f64> {
    let mut kib = 0;
    for pid in cluster.pids() {
        kib += procstat::sample(pid)?.rss_kib;
    }
    Ok(kib as f64 / 1024.0)
}

fn keep(options: &Options, report: &Report) -> Result<()> {
    let Some(path) = &options.json else {
        return Ok(());
    };
    let text = serde_json::to_string(report).map_err(|why| Error::told(why.to_string()))?;
    std::fs::File::options()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| writeln!(file, "{text}"))
        .map_err(Error::io(format!("writing {}", path.display())))
}
