//! `ferrite-sim --seeds N [--start S] [--mutation NAME]`: runs simulations, one line each, and says how
//! to replay what fails.
#![allow(clippy::print_stdout)] // a program for the command line

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ferrite_sim::{Mutation, Stats, run};

const USAGE: &str = "usage: ferrite-sim [--seeds N] [--start S] [--mutation NAME] [--quiet]";

struct Options {
    seeds: u64,
    start: u64,
    mutation: Option<Mutation>,
    quiet: bool,
}

fn parse() -> Result<Options, String> {
    let mut options = Options {
        seeds: 1,
        start: 1,
        mutation: None,
        quiet: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{flag} wants a value"));
        match flag.as_str() {
            "--seeds" => options.seeds = number(&value()?)?,
            "--start" => options.start = number(&value()?)?,
            "--quiet" => options.quiet = true,
            "--mutation" => {
                let name = value()?;
                let found = Mutation::ALL
                    .into_iter()
                    .find(|known| format!("{known:?}") == name);
                options.mutation =
                    Some(found.ok_or_else(|| format!("no mutation {name}: {:?}", Mutation::ALL))?);
            }
            _ => return Err(format!("unknown flag {flag}")),
        }
    }
    Ok(options)
}

/// The seed under way.
static SEED: AtomicU64 = AtomicU64::new(0);

fn replay(seed: u64, mutation: &str) -> String {
    format!("replay: cargo run --release -p ferrite-sim -- --start {seed} --seeds 1{mutation}")
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}

fn main() -> ExitCode {
    let options = match parse() {
        Ok(options) => options,
        Err(error) => {
            println!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let began = Instant::now();
    // A release build aborts at a panic: what replays it must be said before.
    let mutation = options
        .mutation
        .map_or_else(String::new, |mutation| format!(" --mutation {mutation:?}"));
    let mutation_too = mutation.clone();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        println!("{}", replay(SEED.load(Ordering::Relaxed), &mutation_too));
        before(panic);
    }));
    let mut stats = Stats::default();
    let mut failed = 0;
    let mut simulated_us = 0;
    for seed in options.start..options.start.saturating_add(options.seeds) {
        SEED.store(seed, Ordering::Relaxed);
        let report = run(seed, options.mutation);
        stats.add(&report.stats);
        simulated_us += report.simulated_us;
        let seconds = report.simulated_us / 1_000_000;
        match &report.violation {
            Some(reason) => {
                failed += 1;
                println!("seed {seed}: FAILED {reason}");
                println!("{}", replay(seed, &mutation));
            }
            None if !options.quiet => {
                println!("seed {seed}: {seconds} s simulated: {}", report.stats)
            }
            None => {}
        }
    }
    println!(
        "{} seeds, {failed} failed, {} s simulated in {:.1} s",
        options.seeds,
        simulated_us / 1_000_000,
        began.elapsed().as_secs_f64()
    );
    println!("{stats}");
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
