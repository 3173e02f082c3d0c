//! Benchmarks: a closed-loop load generator for any server of the etcd v3 gRPC API, and a comparison of our
//! server with etcd's, run for run, whose tables go into `BENCHMARKS.md`.
//!
//! `run` measures one workload against servers that already run; `compare` starts both programs itself, and
//! `proxies` both programs' proxies before one cluster.

mod beside;
mod client;
mod compare;
mod error;
mod idle;
mod procstat;
mod proxies;
mod report;
mod servers;
mod streams;
mod table;
mod workload;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use error::{Error, Result};
use report::say;
use servers::Program;
use workload::{Run, Workload};

#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    command: Commands,
}

#[derive(Subcommand)]
enum Commands {
    /// One workload against servers that run already.
    Run(RunArgs),
    /// Our server against etcd's, in turn; writes the tables into BENCHMARKS.md.
    Compare(CompareArgs),
    /// Our gateway and gRPC proxy against etcd's, in turn, before the same member; prints the tables.
    Proxies(ProxiesArgs),
    /// What three members cost that nobody asks anything, ours and etcd's side by side.
    Idle(IdleArgs),
}

#[derive(Args)]
struct IdleArgs {
    /// The folder with etcd's program `etcd`.
    #[arg(long, env = "ETCD_ORACLE_DIR")]
    oracle: PathBuf,
    /// The folder with our program `etcd`; without it the one beside this program, built anew under cargo.
    #[arg(long)]
    ours: Option<PathBuf>,
    /// For how long to measure.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

#[derive(Args)]
struct ProxiesArgs {
    /// The folder with etcd's program `etcd`.
    #[arg(long, env = "ETCD_ORACLE_DIR")]
    oracle: PathBuf,
    /// The folder with our program `etcd`; without it the one beside this program, built anew under cargo.
    #[arg(long)]
    ours: Option<PathBuf>,
    /// The member behind the proxies is etcd's instead of ours.
    #[arg(long)]
    before_etcd: bool,
    /// A tenth of the operations.
    #[arg(long)]
    quick: bool,
    /// Runs of every cell on each proxy.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Only rows whose name ("gateway: put 256 B x64") contains one of these.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
}

#[derive(Args)]
struct RunArgs {
    /// Server addresses, host:port; connections go round them in turn.
    #[arg(
        long,
        global = true,
        value_delimiter = ',',
        default_value = "127.0.0.1:2379"
    )]
    endpoints: Vec<String>,
    /// Concurrent clients, one operation in flight each.
    #[arg(long, global = true, default_value_t = 64)]
    clients: usize,
    /// HTTP/2 connections the clients share (at most one each).
    #[arg(long, global = true, default_value_t = 8)]
    conns: usize,
    /// Measured operations.
    #[arg(long, global = true, default_value_t = 100_000)]
    total: u64,
    /// Unmeasured operations before them.
    #[arg(long, global = true, default_value_t = 5_000)]
    warmup: u64,
    /// Worker threads of the load generator; 1 is a current-thread runtime.
    #[arg(long, global = true, default_value_t = 1)]
    threads: usize,
    /// Process ids of the servers, for CPU, memory and disk figures.
    #[arg(long, global = true, value_delimiter = ',')]
    server_pids: Vec<u32>,
    /// One JSON object on stdout instead of text.
    #[arg(long, global = true)]
    json: bool,
    /// Free text copied into the report.
    #[arg(long, global = true, default_value = "")]
    label: String,
    #[command(subcommand)]
    workload: Workload,
}

#[derive(Args)]
struct CompareArgs {
    /// The folder with etcd's program `etcd`.
    #[arg(long, env = "ETCD_ORACLE_DIR")]
    oracle: PathBuf,
    /// The folder with our program `etcd`; without it the one beside this program, built anew under cargo.
    #[arg(long)]
    ours: Option<PathBuf>,
    /// A third of the operations, and a restart with fewer keys.
    #[arg(long)]
    quick: bool,
    /// Runs of every cell on each server.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Only rows whose name ("put 256 B x64") contains one of these.
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Cluster sizes.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 3])]
    members: Vec<usize>,
    /// Keys in the database of the restart test, 0 to leave it out (default 1000000, quick 100000).
    #[arg(long)]
    restart_keys: Option<u64>,
    /// Every run as a JSON line, appended to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// The document with the tables.
    #[arg(long, default_value = "BENCHMARKS.md")]
    out: PathBuf,
    /// Print the tables instead of writing them.
    #[arg(long)]
    print: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.command {
        Commands::Run(args) => run(args),
        Commands::Compare(args) => compare(&args),
        Commands::Proxies(args) => proxies(&args),
        Commands::Idle(args) => idle(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("ferrite-bench: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: RunArgs) -> Result<()> {
    let run = Run {
        workload: args.workload,
        endpoints: args.endpoints,
        pids: args.server_pids,
        clients: args.clients,
        connections: args.conns,
        total: args.total,
        warmup: args.warmup,
        label: args.label,
    };
    let report = runtime(args.threads)?.block_on(run.measure())?;
    report.print(args.json);
    Ok(())
}

fn idle(args: &IdleArgs) -> Result<()> {
    let ours = match &args.ours {
        Some(dir) => dir.clone(),
        None => build_ours()?,
    };
    let programs = [
        Program::in_dir("etcd", &args.oracle)?,
        Program::in_dir("ours", &ours)?,
    ];
    let long = std::time::Duration::from_secs(args.seconds.max(1));
    // Dropping it, on a signal, ends the servers and removes their data.
    runtime(1)?.block_on(async {
        tokio::select! {
            done = idle::run(&programs, long) => done,
            () = interrupted() => Err(Error::Interrupted),
        }
    })
}

fn proxies(args: &ProxiesArgs) -> Result<()> {
    let ours = match &args.ours {
        Some(dir) => dir.clone(),
        None => build_ours()?,
    };
    let options = proxies::Options {
        programs: [
            Program::in_dir("etcd", &args.oracle)?,
            Program::in_dir("ours", &ours)?,
        ],
        before_etcd: args.before_etcd,
        quick: args.quick,
        runs: args.runs.max(1),
        rows: args.rows.clone(),
    };
    // Dropping it, on a signal, ends the servers and removes their data.
    let table = runtime(1)?.block_on(async {
        tokio::select! {
            table = proxies::run(&options) => table,
            () = interrupted() => Err(Error::Interrupted),
        }
    })?;
    say(&format!(
        "{}; {}; {}; medians of {} runs in turn{}.",
        today(),
        machine(),
        first_line(&options.programs[0].path),
        options.runs,
        if options.quick { " (--quick)" } else { "" },
    ));
    say(table.trim_end());
    Ok(())
}

fn compare(args: &CompareArgs) -> Result<()> {
    let restart_keys = match args.restart_keys {
        Some(keys) => keys,
        None if args.quick => 100_000,
        None => 1_000_000,
    };
    let options = compare::Options {
        ours: match &args.ours {
            Some(dir) => dir.clone(),
            None => build_ours()?,
        },
        oracle: args.oracle.clone(),
        runs: args.runs.max(1),
        quick: args.quick,
        rows: args.rows.clone(),
        members: args.members.clone(),
        restart_keys,
        json: args.json.clone(),
    };
    if !args.print && !args.out.is_file() {
        return Err(Error::told(format!(
            "there is no {}: run from the top of the repository, or name it with --out, or use --print",
            args.out.display()
        )));
    }
    let version = first_line(&options.oracle.join("etcd"));
    // Dropping the comparison, on a signal, ends the servers and removes their data.
    let sections = runtime(1)?.block_on(async {
        tokio::select! {
            sections = compare::run(&options) => sections,
            () = interrupted() => Err(Error::Interrupted),
        }
    })?;
    let heading = format!(
        "{}; {}; {version}; medians of {} runs in turn{}.",
        today(),
        machine(),
        options.runs,
        if options.quick { " (--quick)" } else { "" },
    );
    let command = format!(
        "ETCD_ORACLE_DIR=<folder of etcd's programs> cargo run --release -p ferrite-bench -- compare{}",
        if options.quick { " --quick" } else { "" }
    );
    let tables = table::render(&sections, &heading, &command);
    if args.print {
        say(tables.trim_end());
        return Ok(());
    }
    let reading = format!("reading {}", args.out.display());
    let document = std::fs::read_to_string(&args.out).map_err(Error::io(reading))?;
    let writing = format!("writing {}", args.out.display());
    std::fs::write(&args.out, table::replace(&document, &tables)?).map_err(Error::io(writing))
}

fn runtime(threads: usize) -> Result<tokio::runtime::Runtime> {
    if threads <= 1 {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
    } else {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build()
    }
    .map_err(Error::io("starting the runtime"))
}

/// Ends when the user asks to end.
async fn interrupted() {
    let kinds = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let [Ok(mut int), Ok(mut term), Ok(mut hup)] = kinds.map(signal) else {
        // Without handlers the default action ends this program, and the kernel the servers.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
        _ = hup.recv() => {}
    }
}

/// The folder with our server, which is that of this program. Under cargo it is brought up to date first.
fn build_ours() -> Result<PathBuf> {
    let own = std::env::current_exe().map_err(Error::io("finding this program"))?;
    let dir = own.parent().map(Path::to_path_buf).unwrap_or_default();
    if let Some(cargo) = std::env::var_os("CARGO") {
        let built = Command::new(cargo)
            .args(["build", "--release", "--quiet", "-p", "ferrite-server"])
            .status()
            .map_err(Error::io("building our server"))?;
        if !built.success() {
            return Err(Error::told("our server does not build"));
        }
    }
    if !dir.ends_with("release") {
        return Err(Error::told(
            "a comparison wants release builds: cargo run --release -p ferrite-bench -- compare",
        ));
    }
    Ok(dir)
}

/// `etcd --version`'s first line, as a name and a number.
fn first_line(program: &Path) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    match text
        .lines()
        .next()
        .and_then(|line| line.strip_prefix("etcd Version: "))
    {
        Some(version) => format!("etcd {version}"),
        None => "etcd of an unknown version".to_owned(),
    }
}

/// What kind of machine this is, without its name.
fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let kind = if info.contains("hypervisor") {
        "virtual machine"
    } else {
        "machine"
    };
    format!("{cores}-core {kind}, client and servers on the same cores, fsync on, plain HTTP")
}

/// Today's date (UTC).
fn today() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let days = since.map_or(0, |since| since.as_secs() / 86_400);
    let (year, month, day) = civil(days as i64);
    format!("{year:04}-{month:02}-{day:02}")
}

/// The civil date of a count of days since 1970-01-01: years from March on, so that the leap day comes last.
fn civil(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(19_783), (2024, 3, 1));
        assert_eq!(civil(20_819), (2027, 1, 1));
    }

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }
}
