//! The whole test suite: `cargo test` over the workspace with everything the tests need, and the
//! user's walkthrough, on loopback and, where a Docker engine answers, in containers.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::run::{answers, cargo, line_of, say, shown};
use crate::tally::{Reader, Tally};
use crate::{in_ci, oracle, programs, root, setup};

/// What building and running the tests may take in CI; on two cores they take a third of it.
const LIMIT_SECONDS: u64 = 1800;

/// Runs everything. `failed_before`: failures of earlier steps, for the summary.
///
/// The last line printed is `N passed, N failed, N skipped`; true if nothing failed.
#[must_use]
pub fn test(failed_before: u64) -> bool {
    let start = Instant::now();
    let mut tally = Tally {
        failed: failed_before,
        ..Tally::default()
    };
    if let Err(why) = all(&mut tally) {
        say(&format!("FAILED: {why}"));
        tally.failed += 1;
    }
    for reason in &tally.reasons {
        say(&format!("skipped: {reason}"));
    }
    say(&format!(
        "the test suite took {:.0} s",
        start.elapsed().as_secs_f64()
    ));
    let _ = writeln!(std::io::stdout(), "{tally}");
    tally.failed == 0
}

fn all(tally: &mut Tally) -> Result<()> {
    let oracle = match oracle::ensure() {
        Ok(dir) => Some(dir),
        // There a gap is a failure: the tests that need it say so themselves.
        Err(why) => {
            say(&format!(
                "the original's programs are not here ({why}); tests that compare with them are {}",
                if in_ci() { "failures" } else { "skipped" }
            ));
            None
        }
    };
    let programs = programs::build()?;
    if let Err(why) = cargo_tests(&programs, oracle.as_deref(), tally) {
        say(&format!("FAILED: {why}"));
        tally.failed += 1;
    }
    walkthroughs(&programs, tally);
    Ok(())
}

fn cargo_tests(programs: &Path, oracle: Option<&Path>, tally: &mut Tally) -> Result<()> {
    let mut command = if in_ci() {
        limited(cargo().get_program())
    } else {
        cargo()
    };
    command
        .args(["test", "--locked", "--workspace", "--no-fail-fast"])
        .args(["--", "--show-output"])
        .env("FERRITE_BIN_DIR", programs);
    if let Some(dir) = oracle {
        command.env(oracle::VARIABLE, dir);
    }
    let line = line_of(&command);
    say(&line);
    let before = tally.failed;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Error::io(format!("cannot run {line}")))?;
    let mut reader = Reader::default();
    if let Some(output) = child.stdout.take() {
        for bytes in BufReader::new(output).split(b'\n') {
            let bytes = bytes.map_err(Error::io("reading the tests' output"))?;
            let text = String::from_utf8_lossy(&bytes);
            if reader.line(text.trim_end(), tally) {
                let _ = writeln!(std::io::stdout(), "{text}");
            }
        }
    }
    reader.finish(tally);
    let status = child.wait().map_err(Error::io(&line))?;
    // What does not compile has printed nothing to count.
    if !status.success() && tally.failed == before {
        return Err(Error::told(format!("{line}: {status}")));
    }
    Ok(())
}

/// Where nobody watches, a test that hangs must not hang the whole run.
fn limited(program: &OsStr) -> Command {
    let mut command = Command::new("timeout");
    command
        .current_dir(root())
        .args(["--kill-after=10", &LIMIT_SECONDS.to_string()])
        .arg(program);
    command
}

fn walkthroughs(programs: &Path, tally: &mut Tally) {
    let dev = programs.join("ferrite-dev");
    let mut loopback = Command::new(&dev);
    loopback.args(["walkthrough", "--loopback", "--bin-dir"]);
    tally.step(passes(loopback.arg(programs)));

    if !answers("docker", &["version", "--format", "{{.Server.Version}}"]) {
        let reason = "the walkthrough in containers: no Docker engine answers on this machine";
        return tally.skip(reason);
    }
    if let Err(why) = docker_needs() {
        say(&why.to_string());
        return tally.step(false);
    }
    let mut docker = Command::new(&dev);
    docker.args(["walkthrough", "--docker", "--build", "--bin-dir"]);
    tally.step(passes(docker.arg(programs)));
}

fn passes(command: &mut Command) -> bool {
    match shown(command) {
        Ok(()) => true,
        Err(why) => {
            say(&format!("FAILED: {why}"));
            false
        }
    }
}

/// A Compose, and the tool that makes a base image where no image registry is reached.
fn docker_needs() -> Result<()> {
    if !answers("docker", &["compose", "version"]) && !answers("docker-compose", &["version"]) {
        setup::packages(&["docker-compose"])?;
    }
    let base = ["debian:bookworm-slim", "ferrite-base:bookworm"];
    let here = base
        .iter()
        .any(|image| answers("docker", &["image", "inspect", image]));
    if !here && !answers("debootstrap", &["--version"]) {
        setup::packages(&["debootstrap"])?;
    }
    Ok(())
}
