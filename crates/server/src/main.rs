//! The program `etcd`.

use std::process::ExitCode;

use ferrite_server::flags::{self, FlagError, Values};
use ferrite_server::run::{GIT_SHA, Outcome, RunError, run};
use ferrite_server::{config, log};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn say(mut out: impl std::io::Write, text: &str) {
    // Whoever closed the pipe does not want to read it.
    let _closed = writeln!(out, "{text}");
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let values = match Values::parse(&arguments, std::env::vars()) {
        Ok(values) => values,
        Err(FlagError::Help) => {
            say(std::io::stderr(), flags::USAGE);
            say(std::io::stdout(), &flags::help());
            return ExitCode::SUCCESS;
        }
        Err(FlagError::Usage(text)) => {
            say(std::io::stderr(), &text);
            say(std::io::stderr(), flags::USAGE);
            return ExitCode::from(2);
        }
        Err(FlagError::Invalid(text)) => return invalid(&text),
    };
    if values.bool("version") {
        say(std::io::stdout(), &version());
        return ExitCode::SUCCESS;
    }
    let logging = match config::logging(&values) {
        Ok(logging) => logging,
        Err(text) => return invalid(&text),
    };
    log::start(logging.outputs, logging.least, logging.format);
    tracing::info!(args = ?std::env::args().collect::<Vec<_>>(), "Running: ");
    let config = match config::read(&values) {
        Ok(config) => config,
        Err(text) => return invalid(&text),
    };
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    match run(&config) {
        Ok(Outcome::Removed) => {
            log::flush();
            ExitCode::SUCCESS
        }
        Ok(Outcome::Signal(number)) => {
            log::flush();
            end_by_signal(number)
        }
        Err(error) => failed(&error),
    }
}

/// The configuration does not do: one line, status 1.
fn invalid(text: &str) -> ExitCode {
    log::start(
        vec![log::Output::Stderr],
        log::Severity::Info,
        log::Format::Json,
    );
    tracing::warn!(error = text, "failed to verify flags");
    log::flush();
    ExitCode::FAILURE
}

fn failed(error: &RunError) -> ExitCode {
    let message = match error {
        RunError::SelfSigned { what, .. } => what,
        RunError::Descriptors { .. } => {
            "file descriptor limit of etcd process is too low; please set higher"
        }
        _ => "discovery failed",
    };
    log::fatal(&log::caller(file!(), line!()), message, &error.to_string())
}

/// A process that a signal ended says so to its parent; the first process of a container, to which
/// the signal would do nothing, just ends.
fn end_by_signal(number: i32) -> ExitCode {
    if std::process::id() == 1 {
        return ExitCode::SUCCESS;
    }
    if signal_hook::low_level::emulate_default_handler(number).is_err() {
        tracing::warn!("the signal could not be raised again");
    }
    ExitCode::from(u8::try_from(128 + number).unwrap_or(1))
}

fn version() -> String {
    format!(
        "etcd Version: {}\nGit SHA: {GIT_SHA}\nGo Version: none (Rust)\nGo OS/Arch: {}/{}\nFerrite Version: {}",
        ferrite_node::config::ETCD_VERSION,
        std::env::consts::OS,
        match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        },
        env!("CARGO_PKG_VERSION")
    )
}
