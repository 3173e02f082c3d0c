//! Child processes: shown as they run, and asked whether they are there at all.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::error::{Error, Result};
use crate::root;

/// Prints a line of our own.
pub fn say(words: &str) {
    // Nobody reading is no reason to stop.
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "xtask: {words}");
}

/// Cargo, in the root of the tree.
#[must_use]
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs a command with its output shown.
///
/// # Errors
/// It cannot be started, or ends with another status than 0.
pub fn shown(command: &mut Command) -> Result<()> {
    let line = line_of(command);
    say(&line);
    let start = Instant::now();
    let status = command
        .stdin(Stdio::null())
        .status()
        .map_err(Error::io(format!("cannot run {line}")))?;
    say(&format!("{:.0} s", start.elapsed().as_secs_f64()));
    if status.success() {
        Ok(())
    } else {
        Err(Error::told(format!("{line}: {status}")))
    }
}

/// The program is there and ends well with these words; its output is not shown.
#[must_use]
pub fn answers(program: &str, words: &[&str]) -> bool {
    Command::new(program)
        .args(words)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The command as a person would type it.
#[must_use]
pub fn line_of(command: &Command) -> String {
    let program = std::path::Path::new(command.get_program());
    let mut line = program
        .file_name()
        .unwrap_or(command.get_program())
        .to_string_lossy()
        .into_owned();
    for word in command.get_args() {
        line.push(' ');
        line.push_str(&word.to_string_lossy());
    }
    line
}
