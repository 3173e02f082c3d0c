//! `ferrite-dev`: the developer's commands. See the library for what each does.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use ferrite_dev::bed::Bed;
use ferrite_dev::docker::Docker;
use ferrite_dev::error::{Error, Result};
use ferrite_dev::logline::Style;
use ferrite_dev::loopback::Loopback;
use ferrite_dev::{binaries, cluster, image, sys, walkthrough};

/// The image that docker-compose.yml names.
const IMAGE: &str = "ferrite-etcd:latest";

#[derive(Parser)]
#[command(
    name = "ferrite-dev",
    about = "Ferrite's cluster on this machine, its walkthrough, its container image"
)]
struct Cli {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Three members on loopback in this terminal, with keys to stop and start them
    Cluster(ClusterArgs),
    /// The user's walkthrough, unattended; fails when one expectation does not hold
    Walkthrough(WalkthroughArgs),
    /// Build the container image out of programs built here
    Image(ImageArgs),
}

#[derive(Args)]
struct Programs {
    /// Folder with etcd, etcdctl and etcdutl [default: this tree's release build, built if need be]
    #[arg(long, value_name = "DIR")]
    bin_dir: Option<PathBuf>,
}

#[derive(Args)]
struct ClusterArgs {
    #[command(flatten)]
    programs: Programs,
    /// Six ports from here on [default: 2379 2380 22379 22380 32379 32380]
    #[arg(long, value_name = "PORT")]
    base_port: Option<u16>,
    /// Where the members' data lie; kept between runs
    #[arg(long, value_name = "DIR", default_value = "default.cluster")]
    data_dir: PathBuf,
    /// Begin with no data
    #[arg(long)]
    fresh: bool,
    /// Keep log lines as the members print them (JSON)
    #[arg(long)]
    raw: bool,
}

#[derive(Args)]
struct WalkthroughArgs {
    #[command(flatten)]
    programs: Programs,
    /// Three processes on this machine (the default)
    #[arg(long)]
    loopback: bool,
    /// The containers of docker-compose.yml
    #[arg(long, conflicts_with = "loopback")]
    docker: bool,
    /// Docker: the image to run
    #[arg(long, default_value = IMAGE)]
    image: String,
    /// Docker: build the image first, even if it exists
    #[arg(long)]
    build: bool,
    /// Docker: the Compose command [default: "docker compose", else "docker-compose"]
    #[arg(long, value_name = "COMMAND")]
    compose: Option<String>,
    /// Docker: remove containers that have the walkthrough's names
    #[arg(long)]
    force: bool,
    /// Writes may be refused this long when the leader is told to end (ms)
    #[arg(long, value_name = "MS", default_value_t = 200)]
    leader_stop_limit: u64,
    /// Writes may be refused this long when the leader is killed (ms)
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    leader_kill_limit: u64,
    /// Writes may be refused this long when a follower goes away (ms)
    #[arg(long, value_name = "MS", default_value_t = 500)]
    follower_limit: u64,
    /// The programs are etcd 3.5's: print, but do not ask for, what only Ferrite promises
    #[arg(long)]
    original: bool,
}

#[derive(Args)]
struct ImageArgs {
    #[command(flatten)]
    programs: Programs,
    /// The image's name
    #[arg(long, default_value = IMAGE)]
    tag: String,
    /// The base image [default: debian:bookworm-slim, else one made with debootstrap]
    #[arg(long, value_name = "IMAGE")]
    base: Option<String>,
    /// The Debian mirror for debootstrap [default: the one that this machine's apt uses]
    #[arg(long, value_name = "URL")]
    mirror: Option<String>,
}

fn main() -> ExitCode {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        sys::restore_terminal();
        usual(panic);
    }));
    let answer = match Cli::parse().command {
        What::Cluster(args) => run_cluster(args),
        What::Walkthrough(args) => run_walkthrough(args),
        What::Image(args) => run_image(args),
    };
    sys::restore_terminal();
    match answer {
        Ok(code) => code,
        Err(why) => {
            eprintln!("ferrite-dev: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run_cluster(args: ClusterArgs) -> Result<ExitCode> {
    let colour = std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let data_dir =
        std::path::absolute(&args.data_dir).map_err(Error::io(args.data_dir.display()))?;
    cluster::run(cluster::Options {
        programs: binaries::locate(args.programs.bin_dir.as_deref())?,
        base_port: args.base_port,
        data_dir,
        fresh: args.fresh,
        style: Style {
            colour,
            raw: args.raw,
        },
    })?;
    Ok(ExitCode::SUCCESS)
}

fn run_walkthrough(args: WalkthroughArgs) -> Result<ExitCode> {
    // First of all: the signal mask must be there before any thread is. A build of the programs ends with
    // the terminal's Ctrl-C by itself.
    let interrupted = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&interrupted);
    sys::on_signals(move |signal| {
        if signal != sys::SIGCONT && flag.swap(true, Ordering::Relaxed) {
            // The second time: at once. Children die with us.
            std::process::exit(130);
        }
    })
    .map_err(Error::io("taking over signals"))?;

    let options = walkthrough::Options {
        leader_stop_limit: Duration::from_millis(args.leader_stop_limit),
        leader_kill_limit: Duration::from_millis(args.leader_kill_limit),
        follower_limit: Duration::from_millis(args.follower_limit),
        original: args.original,
        log_dir: binaries::root()
            .map(|root| binaries::target_dir(&root))
            .unwrap_or_else(|_| std::env::temp_dir())
            .join("walkthrough-logs"),
        interrupted,
    };
    let mut bed: Box<dyn Bed> = if args.docker {
        let root = binaries::root()?;
        let bed = Docker::new(&root, &args.image, args.compose.as_deref(), args.force)?;
        if args.build || !image::exists(&args.image) {
            let programs = binaries::locate(args.programs.bin_dir.as_deref())?;
            image::build(&image::Options {
                root,
                programs,
                tag: args.image,
                base: None,
                mirror: None,
            })?;
        }
        Box::new(bed)
    } else {
        Box::new(Loopback::new(
            &binaries::locate(args.programs.bin_dir.as_deref())?,
            args.original,
        )?)
    };
    let report = walkthrough::run(bed.as_mut(), options);
    Ok(if report.failures().is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run_image(args: ImageArgs) -> Result<ExitCode> {
    image::build(&image::Options {
        root: binaries::root()?,
        programs: binaries::locate(args.programs.bin_dir.as_deref())?,
        tag: args.tag,
        base: args.base,
        mirror: args.mirror,
    })?;
    Ok(ExitCode::SUCCESS)
}
