//! `ferrite-sim --seeds N [--start S] [--threads T] [--mutation NAME]`: runs simulations, several at a time, each
//! in one thread, and says how to replay what fails.
#![allow(clippy::print_stdout)] // a program for the command line

use std::cell::Cell;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use ferrite_sim::{Mutation, Stats, replay, run};

const USAGE: &str =
    "usage: ferrite-sim [--seeds N] [--start S] [--threads T] [--mutation NAME] [--verbose]";
/// How often progress is told.
const TELL_EVERY: u64 = 500;

struct Options {
    seeds: u64,
    start: u64,
    threads: usize,
    mutation: Option<Mutation>,
    verbose: bool,
}

fn parse() -> Result<Options, String> {
    let mut options = Options {
        seeds: 1,
        start: 1,
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        mutation: None,
        verbose: false,
    };
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let mut value = || args.next().ok_or_else(|| format!("{flag} wants a value"));
        match flag.as_str() {
            "--seeds" => options.seeds = number(&value()?)?,
            "--start" => options.start = number(&value()?)?,
            "--threads" => {
                options.threads = usize::try_from(number(&value()?)?).unwrap_or(1).max(1);
            }
            "--verbose" => options.verbose = true,
            "--mutation" => {
                let name = value()?;
                options.mutation = Some(
                    Mutation::named(&name)
                        .ok_or_else(|| format!("no mutation {name}: {}", names()))?,
                );
            }
            _ => return Err(format!("unknown flag {flag}")),
        }
    }
    Ok(options)
}

fn names() -> String {
    let names: Vec<String> = Mutation::all().map(|known| known.name()).collect();
    names.join(", ")
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|_| format!("{text} is not a number"))
}

#[derive(Default)]
struct Sum {
    stats: Stats,
    failed: u64,
    done: u64,
    simulated_us: u64,
}

std::thread_local! {
    /// What this thread is at.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

/// Where a panic ends the process (a release build), how to repeat it must be said before.
fn tell_of_panics(mutation: Option<Mutation>) {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        told(panic);
        let seed = SEED.get();
        if cfg!(panic = "abort") {
            println!(
                "seed {seed}: FAILED panicked\nreplay: {}",
                replay(seed, mutation)
            );
        }
    }));
}

fn main() -> ExitCode {
    let options = match parse() {
        Ok(options) => options,
        Err(error) => {
            println!("{error}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    tell_of_panics(options.mutation);
    let began = Instant::now();
    let next = AtomicU64::new(options.start);
    let end = options.start.saturating_add(options.seeds);
    let sum = Mutex::new(Sum::default());
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    one(seed, &options, &sum, began);
                }
            });
        }
    });
    let sum = sum.into_inner().unwrap_or_default();
    println!(
        "{} seeds ({} to {}), {} failed, {:.1} hours simulated in {:.1} s",
        sum.done,
        options.start,
        end - 1,
        sum.failed,
        sum.simulated_us as f64 / 3.6e9,
        began.elapsed().as_secs_f64()
    );
    println!("{}", sum.stats);
    if sum.failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn one(seed: u64, options: &Options, sum: &Mutex<Sum>, began: Instant) {
    SEED.set(seed);
    let report = run(seed, options.mutation);
    let Ok(mut sum) = sum.lock() else { return };
    sum.stats.add(&report.stats);
    sum.simulated_us += report.simulated_us;
    sum.done += 1;
    let seconds = report.simulated_us / 1_000_000;
    match &report.violation {
        Some(reason) => {
            sum.failed += 1;
            println!("seed {seed}: FAILED {reason}");
            println!("replay: {}", replay(seed, options.mutation));
        }
        None if options.verbose => {
            println!("seed {seed}: {seconds} s simulated: {}", report.stats);
        }
        None => {}
    }
    if sum.done.is_multiple_of(TELL_EVERY) {
        println!(
            "{} seeds done, {} failed, {:.0} s",
            sum.done,
            sum.failed,
            began.elapsed().as_secs_f64()
        );
    }
}
