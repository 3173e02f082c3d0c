//! `ferrite-differ`: random requests to the original and to us, answers compared.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use ferrite_differ::{Areas, Fault, Session, Settings};
use ferrite_testkit::Kind;

/// Sends the same random requests to etcd and to Ferrite and compares every answer.
///
/// `ETCD_ORACLE_DIR` names the folder of etcd 3.5.1's programs, `FERRITE_BIN_DIR` that of ours.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// The seed of all sequences.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many sequences to run.
    #[arg(long, default_value_t = 1_000)]
    sequences: u64,
    /// The number of the first one.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Stop beginning new sequences after this many seconds.
    #[arg(long)]
    seconds: Option<u64>,
    /// Whom to compare with.
    #[arg(long, value_enum, default_value = "3.5")]
    against: Against,
    /// What the sequences are about.
    #[arg(long, value_enum, default_value = "all")]
    areas: Areas,
    /// Stop after this many differences.
    #[arg(long, default_value_t = 5)]
    failures: usize,
    /// Pairs of servers that run at the same time.
    #[arg(long, default_value_t = 4)]
    workers: usize,
    /// How many seconds a failing sequence may be made smaller for.
    #[arg(long, default_value_t = 90)]
    shrink: u64,
    /// Break our answers in this way, to see that it is found.
    #[arg(long, value_enum)]
    fault: Option<Fault>,
    /// Print the sequences instead of running them.
    #[arg(long)]
    print: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Against {
    #[value(name = "3.5")]
    V35,
    /// `ETCD_34` names the program; without it, `/usr/bin/etcd`.
    #[value(name = "3.4")]
    V34,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut out = std::io::stdout().lock();
    if cli.print {
        for sequence in cli.from..cli.from.saturating_add(cli.sequences) {
            let _ = writeln!(out, "sequence {sequence}:");
            for step in ferrite_differ::generate(cli.seed, sequence, cli.areas) {
                let _ = writeln!(out, "  {step}");
            }
        }
        return ExitCode::SUCCESS;
    }
    let session = Session::new(Settings {
        seed: cli.seed,
        from: cli.from,
        sequences: cli.sequences,
        until: cli.seconds.map(Duration::from_secs),
        against: match cli.against {
            Against::V35 => Kind::Etcd351,
            Against::V34 => Kind::Etcd34,
        },
        areas: cli.areas,
        shrink: Duration::from_secs(cli.shrink),
        failures: cli.failures,
        workers: cli.workers,
        fault: cli.fault,
    });
    let summary = session.run(|failure| {
        let _ = writeln!(out, "{failure}\n");
    });
    for (row, times) in &summary.excused {
        let _ = writeln!(out, "{row}: needed {times} times");
    }
    let _ = writeln!(
        out,
        "seed {}: {} sequences, {} requests to each server, {} answered differently",
        cli.seed,
        summary.sequences,
        summary.asked,
        summary.failures.len()
    );
    match summary.failures.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}
