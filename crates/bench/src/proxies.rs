//! The proxies: ours and etcd's before the same member, every row measured through one and then through the
//! other, several times. CPU and memory are the proxy's alone.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::compare::{KEY_SPACE, SETTLE, fill};
use crate::error::{Error, Result};
use crate::report::{Report, say};
use crate::servers::{Cluster, Program, die_with_us, free_ports, serves};
use crate::table::{self, Row};
use crate::workload::{Keys, Run, Workload};

/// How long a proxy may take until it serves.
const READY_MAX: Duration = Duration::from_secs(30);
/// Keys that fit into a proxy's cache.
const FEW_KEYS: u64 = 1_000;
/// Watchers of one prefix, and the streams that they share.
const WATCHERS: usize = 100;
const STREAMS: usize = 10;

/// What was asked for.
#[derive(Debug)]
pub struct Options {
    /// etcd's and ours.
    pub programs: [Program; 2],
    /// The member is etcd's.
    pub before_etcd: bool,
    /// Fewer operations.
    pub quick: bool,
    /// Runs of every cell.
    pub runs: usize,
    /// Only rows whose name contains one of these.
    pub rows: Vec<String>,
}

/// A proxy of one program.
struct Proxy {
    name: &'static str,
    child: Child,
    endpoint: String,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Both fail only for a child that has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Proxy {
    /// Call from the main thread: it ends with the thread that started it.
    async fn start(program: &Program, kind: &str, endpoint: &str, dir: &Path) -> Result<Self> {
        let port = free_ports(1)?.first().copied().unwrap_or_default();
        let own = format!("127.0.0.1:{port}");
        let path = dir.join(format!("{own}.log"));
        let log = File::create(&path).map_err(Error::io(format!("opening {}", path.display())))?;
        let mut started = Command::new(&program.path);
        let command = match kind {
            "gateway" => "gateway",
            _ => "grpc-proxy",
        };
        started
            .args([command, "start"])
            .arg(format!("--listen-addr={own}"))
            .arg(format!("--endpoints={endpoint}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if kind != "gateway" {
            started.arg(format!("--advertise-client-url={own}"));
        }
        if kind == "leasing" {
            // One of its own: what the other owns cannot be owned.
            let prefix = format!("--experimental-leasing-prefix=leasing-{}/", program.name);
            started.arg(prefix);
        }
        die_with_us(&mut started);
        let starting = format!("starting {}", program.path.display());
        let mut proxy = Proxy {
            name: program.name,
            child: started.spawn().map_err(Error::io(starting))?,
            endpoint: own,
        };
        let begun = Instant::now();
        while !serves(&proxy.endpoint).await {
            let ended = proxy.child.try_wait().map_err(Error::io("a proxy"))?;
            if ended.is_some() || begun.elapsed() > READY_MAX {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                let last = text.lines().next_back().unwrap_or_default();
                let name = program.name;
                return Err(Error::told(format!("{name} {kind} does not serve: {last}")));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(proxy)
    }
}

struct Cell {
    name: &'static str,
    workload: Workload,
    clients: usize,
    connections: usize,
    total: u64,
}

fn cells(cached: bool, leased: bool) -> Vec<Cell> {
    let put = || Workload::Put {
        keys: Keys::random(KEY_SPACE),
        val_size: 256,
    };
    let get = |keys, serializable| Workload::Get {
        keys: Keys::random(keys),
        serializable,
    };
    let watch = || Workload::Watch {
        watchers: WATCHERS,
        streams: STREAMS,
        val_size: 256,
        rate: 0.0,
    };
    let cell = |name, workload, clients, connections, total| Cell {
        name,
        workload,
        clients,
        connections,
        total,
    };
    let mut cells = vec![
        cell("put 256 B", put(), 1, 1, 6_000),
        cell("put 256 B", put(), 64, 8, 60_000),
        cell("get, linearizable", get(KEY_SPACE, false), 1, 1, 12_000),
        cell("get, linearizable", get(KEY_SPACE, false), 64, 8, 60_000),
        cell("get, serializable", get(KEY_SPACE, true), 64, 8, 60_000),
    ];
    if leased {
        // What is owned is read again and again.
        return vec![
            cell("put 256 B", put(), 64, 8, 30_000),
            cell(
                "get of 1000 keys, linearizable",
                get(FEW_KEYS, false),
                64,
                8,
                60_000,
            ),
        ];
    }
    if cached {
        cells.push(cell(
            "get of 1000 keys, serializable",
            get(FEW_KEYS, true),
            64,
            8,
            60_000,
        ));
    }
    // One who puts and 100 who are told: an operation is an event at a watcher.
    cells.push(cell("events at 100 watchers", watch(), 1, 8, 2_000));
    cells.push(cell("events at 100 watchers", watch(), 16, 16, 6_000));
    cells
}

/// Runs everything; the table.
///
/// # Errors
/// A program cannot be started or dies.
pub async fn run(options: &Options) -> Result<String> {
    let behind = match options.before_etcd {
        true => &options.programs[0],
        false => &options.programs[1],
    };
    let cluster = Cluster::start(behind, 1).await?;
    fill(&cluster, KEY_SPACE).await?;
    let endpoint = cluster.endpoints().into_iter().next().unwrap_or_default();
    let dir = tempfile::Builder::new()
        .prefix("ferrite-bench-")
        .tempdir()
        .map_err(Error::io("making a temporary folder"))?;
    let mut rows = Vec::new();
    for kind in ["gateway", "grpc-proxy", "leasing"] {
        let cells = cells(kind == "grpc-proxy", kind == "leasing");
        let name = |cell: &Cell| format!("{kind}: {}", cell.name);
        let wanted = |cell: &Cell| {
            let label = format!("{} x{}", name(cell), cell.clients);
            options.rows.is_empty()
                || options
                    .rows
                    .iter()
                    .any(|part| label.contains(part.as_str()))
        };
        let cells: Vec<Cell> = cells.into_iter().filter(wanted).collect();
        if cells.is_empty() {
            continue;
        }
        let mut proxies = Vec::new();
        for program in &options.programs {
            proxies.push(Proxy::start(program, kind, &endpoint, dir.path()).await?);
        }
        for cell in cells {
            let mut reports: [Vec<Report>; 2] = Default::default();
            for _ in 0..options.runs {
                for (proxy, reports) in proxies.iter().zip(&mut reports) {
                    tokio::time::sleep(SETTLE).await;
                    reports.push(measure(&cell, proxy, options.quick).await?);
                }
            }
            let [oracle, ours] = reports;
            let row = Row::of(&name(&cell), cell.clients, &oracle, &ours);
            say(&table::brief(&row));
            rows.push(row);
        }
    }
    let mut out = String::new();
    table::rows(&mut out, &rows);
    Ok(out)
}

async fn measure(cell: &Cell, proxy: &Proxy, quick: bool) -> Result<Report> {
    let total = match quick {
        true => cell.total / 10,
        false => cell.total,
    };
    Run {
        workload: cell.workload.clone(),
        endpoints: vec![proxy.endpoint.clone()],
        pids: vec![proxy.child.id()],
        clients: cell.clients,
        connections: cell.connections,
        total,
        warmup: total / 10,
        label: proxy.name.to_owned(),
    }
    .measure()
    .await
}
