//! `cargo xtask`: the project's chores. See the library for what each does.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use xtask::{broken, check, clients, deny, oracle, package, run::say, suite};

#[derive(Parser)]
#[command(
    name = "xtask",
    bin_name = "cargo xtask",
    version,
    about = "The project's chores"
)]
struct Cli {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// The whole test suite, with all it needs; the last line sums it up
    Test {
        /// Failures of earlier steps, to be counted in the last line
        #[arg(long, value_name = "N", default_value_t = 0)]
        failed_before: u64,
    },
    /// Formatting, lints, docs, house rules; never writes to the source
    Check,
    /// Formats the source and applies the lints' suggestions
    Fix,
    /// Makes known mistakes in a copy of the source, each of which a test must notice
    Broken {
        /// Rows of docs/known-bugs.md; all without it
        rows: Vec<String>,
    },
    /// Licences, bans and sources of what we depend on
    Deny,
    /// Fetches the original's programs that tests compare with, and prints their folder
    Oracle,
    /// Makes packages of the programs, in target/package
    Package {
        /// Which
        kind: Packed,
        /// Folder with etcd, etcdctl and etcdutl [default: built for release, without this machine's paths]
        #[arg(long, value_name = "DIR")]
        bin_dir: Option<PathBuf>,
        /// Links the system's libraries into the programs, so that they run on every Linux
        #[arg(long = "static", conflicts_with = "bin_dir")]
        linked_whole: bool,
        /// Where packages go [default: target/package]
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
        /// The image's name [default: ferrite-etcd:latest]
        #[arg(long)]
        tag: Option<String>,
    },
    /// Fetches and builds the clients of others that tests run, and prints their folder
    Clients,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Packed {
    /// A Debian package
    Deb,
    /// A folder in a tar
    Tar,
    /// A container image, in the Docker engine and as a file in OCI's layout
    Image,
    /// All of them
    All,
}

impl Packed {
    fn kinds(self) -> &'static [package::Kind] {
        use package::Kind;
        match self {
            Self::Deb => &[Kind::Deb],
            Self::Tar => &[Kind::Tar],
            Self::Image => &[Kind::Image],
            Self::All => &[Kind::Deb, Kind::Tar, Kind::Image],
        }
    }
}

fn main() -> ExitCode {
    let answer = match Cli::parse().command {
        What::Test { failed_before } => {
            return match suite::test(failed_before) {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            };
        }
        What::Check => check::check(),
        What::Fix => check::fix(),
        What::Broken { rows } => broken::all(&rows),
        What::Deny => deny::deny(),
        What::Clients => clients::ensure().map(|dir| say(&format!("{}", dir.display()))),
        What::Package {
            kind,
            bin_dir,
            linked_whole,
            out,
            tag,
        } => {
            let options = package::Options {
                bin_dir,
                linked_whole,
                out,
                tag,
            };
            package::make(kind.kinds(), &options).map(drop)
        }
        What::Oracle => oracle::ensure().map(|dir| say(&format!("{}", dir.display()))),
    };
    match answer {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}
