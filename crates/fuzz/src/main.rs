//! `ferrite-fuzz`: runs a target for as long as wanted, or one saved input.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use ferrite_fuzz::runner::{self, Limit};
use ferrite_fuzz::{TARGETS, Target, memory, target};

#[global_allocator]
static COUNTING: memory::Counting = memory::Counting;

/// Runs what reads bytes of others over bytes made from a corpus.
#[derive(Parser)]
#[command(name = "ferrite-fuzz")]
struct Arguments {
    /// The target; without one all are listed.
    target: Option<String>,
    /// How long.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Which sequence of inputs.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one saved input.
    Replay {
        /// The target.
        target: String,
        /// The input.
        input: PathBuf,
    },
    /// Writes the seeds, and what a run brings up, into the corpus.
    Grow {
        /// The target.
        target: String,
        /// How long.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
        /// Inputs to write at most.
        #[arg(long, default_value_t = 40)]
        most: usize,
    },
}

#[expect(clippy::print_stdout, reason = "a program for the command line")]
fn say(text: &str) {
    println!("{text}");
}

fn known(name: &str) -> Result<&'static Target, String> {
    target(name).ok_or_else(|| format!("there is no target {name}; without one all are listed"))
}

fn run(target: &'static Target, seed: u64, seconds: u64) -> Result<Vec<Vec<u8>>, String> {
    let limit = Limit {
        inputs: u64::MAX,
        time: Duration::from_secs(seconds),
    };
    let mut kept = Vec::new();
    match runner::run(target, seed, limit, &mut kept) {
        Ok(ran) => {
            say(&format!(
                "{}: {} inputs, {} of them brought up something new, {} things seen",
                target.name, ran.inputs, ran.new, ran.features
            ));
            Ok(kept)
        }
        Err(failure) => Err(format!(
            "{}: {}\n{} bytes, saved as {}\nagain: cargo run -p ferrite-fuzz -- replay {} {}",
            target.name,
            failure.reason,
            failure.input.len(),
            failure.saved.display(),
            target.name,
            failure.saved.display()
        )),
    }
}

fn execute(arguments: Arguments) -> Result<(), String> {
    match (arguments.command, arguments.target) {
        (Some(Command::Replay { target, input }), _) => {
            let target = known(&target)?;
            let bytes = std::fs::read(&input).map_err(|error| error.to_string())?;
            runner::one(target, &bytes).map(|_| say("nothing is wrong with it"))
        }
        (
            Some(Command::Grow {
                target,
                seconds,
                most,
            }),
            _,
        ) => {
            let target = known(&target)?;
            let mut inputs = (target.seeds)();
            let mut found = run(target, arguments.seed, seconds)?;
            // The shortest say most.
            found.sort_by_key(Vec::len);
            inputs.extend(found);
            let folder = runner::folder("corpus", target);
            std::fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
            for input in inputs.iter().filter(|input| input.len() <= 4096).take(most) {
                let name = format!("{:08x}", crc32c::crc32c(input));
                std::fs::write(folder.join(name), input).map_err(|error| error.to_string())?;
            }
            Ok(())
        }
        (None, Some(name)) => run(known(&name)?, arguments.seed, arguments.seconds).map(|_| ()),
        (None, None) => {
            for target in TARGETS {
                say(&format!("{:<16}{}", target.name, target.about));
            }
            Ok(())
        }
    }
}

fn main() {
    let outcome = execute(Arguments::parse());
    if let Err(why) = outcome {
        eprintln!("{why}");
        std::process::exit(1);
    }
}
