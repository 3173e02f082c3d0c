//! The program `etcd`.

mod early;

use std::process::ExitCode;

use ferrite_server::config::ConfigError;
use ferrite_server::flags::{self, FlagError, Values};
use ferrite_server::run::{GIT_SHA, Outcome, RunError, run};
use ferrite_server::{config, log, proxy, sys, system};

// What ships makes no mistakes on purpose.
const _: () = assert!(
    !ferrite_mutate::ON || cfg!(debug_assertions),
    "a release build with the feature of deliberate mistakes"
);

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn say(mut out: impl std::io::Write, text: &str) {
    // Whoever closed the pipe does not want to read it.
    let _closed = writeln!(out, "{text}");
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match proxy::run(&arguments) {
        Some(proxy::Ended::With(code)) => return code,
        Some(proxy::Ended::Signal(number)) => {
            log::flush();
            return end_by_signal(number);
        }
        None => {}
    }
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
        Err(FlagError::Bare(text)) => {
            say(std::io::stderr(), &text);
            return ExitCode::FAILURE;
        }
        Err(FlagError::Shadowed(variable)) => {
            log_plainly();
            log::fatal(flags::SHADOWED, &[("environment-variable", &variable)]);
        }
    };
    if values.bool("version") {
        say(std::io::stdout(), &version());
        return ExitCode::SUCCESS;
    }
    let architecture = system::architecture(std::env::consts::ARCH, cfg!(target_endian = "little"));
    if let Err(text) = system::supported(&architecture, std::env::var("ETCD_UNSUPPORTED_ARCH").ok())
    {
        log_plainly();
        tracing::error!(arch = architecture, "{text}");
        log::flush();
        return ExitCode::FAILURE;
    }
    let logging = match config::logging(&values) {
        Ok(logging) => logging,
        Err(text) => return invalid(&text),
    };
    log::start(logging.outputs, logging.least, logging.format);
    for note in &values.notes {
        note.log();
    }
    running();
    let config = match config::read(&values) {
        Ok(config) => config,
        Err(ConfigError::Flags(text)) => return refused(&text),
        Err(error @ ConfigError::Start(_)) => {
            log::fatal("discovery failed", &[("error", &error.to_string())])
        }
    };
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    if config.lock_memory
        && let Err(text) = sys::lock_memory()
    {
        return refused(&text);
    }
    system::announce(&config);
    match run(&config) {
        Ok(Outcome::Removed) => {
            log::flush();
            ExitCode::SUCCESS
        }
        Ok(Outcome::Signal(number)) => {
            log::flush();
            end_by_signal(number)
        }
        Err(error @ RunError::Discovery(_)) => did_not_meet(&config, &error),
        Err(error) => failed(&error),
    }
}

/// Before the settings of the log are known.
fn log_plainly() {
    log::start(
        vec![log::output::Output::Stderr],
        log::Severity::Info,
        log::Format::Json,
    );
}

fn running() {
    tracing::info!(args = ?std::env::args().collect::<Vec<_>>(), "Running: ");
}

/// The configuration does not do, and the log is not set up yet.
fn invalid(text: &str) -> ExitCode {
    log_plainly();
    running();
    refused(text)
}

/// The configuration does not do: one line, status 1.
fn refused(text: &str) -> ExitCode {
    tracing::warn!(error = text, "failed to verify flags");
    if text == config::UNSET_ADVERTISE_CLIENT_URLS {
        tracing::warn!(error = text, "advertise client URLs are not set");
    }
    log::flush();
    ExitCode::FAILURE
}

/// Nothing is on disk, and what is registered elsewhere may stand in the way of another attempt.
fn did_not_meet(config: &config::Config, error: &RunError) -> ExitCode {
    if let Some(meeting) = &config.discovery {
        tracing::warn!(
            "discovery-token" = meeting.token,
            "discovery-endpoints" = ?meeting.endpoints,
            error = %error,
            "failed to bootstrap; discovery token was already used"
        );
    }
    tracing::warn!("do not reuse discovery token; generate a new one to bootstrap a cluster");
    log::flush();
    ExitCode::FAILURE
}

fn failed(error: &RunError) -> ExitCode {
    let text = error.to_string();
    let message = match error {
        RunError::SelfSigned { what, .. } => what,
        // Not discovered, but mistaken: no trace of calls is needed to see it.
        _ if text.contains("include") && text.contains("--initial-cluster") => {
            tracing::warn!(error = text, "failed to start");
            log::flush();
            return ExitCode::FAILURE;
        }
        RunError::Descriptors { .. } => {
            "file descriptor limit of etcd process is too low; please set higher"
        }
        _ => "discovery failed",
    };
    log::fatal(message, &[("error", &text)])
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
        system::architecture(std::env::consts::ARCH, cfg!(target_endian = "little")),
        env!("CARGO_PKG_VERSION")
    )
}
