//! Running other programs: to their end, within a time, with their output.
//!
//! A program whose output we read is started in a process group of its own, so that a Ctrl-C at the terminal
//! reaches only us and we decide the order in which things end. One that prints to the user's terminal
//! (a build) stays in ours and ends with it.

use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::sys;

/// How a program ended, and what it printed.
#[derive(Debug, Clone)]
pub struct Ended {
    /// It exited with status 0.
    pub ok: bool,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
    /// From the start of the program to its end.
    pub took: Duration,
}

impl Ended {
    /// One line on what came out, for reports.
    pub fn brief(&self) -> String {
        let text = format!("{} {}", self.out.trim(), self.err.trim());
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let end = if self.ok { "exit 0" } else { "failed" };
        format!(
            "{end} after {} ms: {}",
            self.took.as_millis(),
            cut(&text, 300)
        )
    }
}

/// At most `limit` characters of a text, with an ellipsis where it was cut.
pub fn cut(text: &str, limit: usize) -> String {
    match text.char_indices().nth(limit) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// Runs a program to its end; kills it when it takes longer than `limit` (then `ok` is false and `err` says so).
///
/// # Errors
/// The program cannot be started.
pub fn run(command: &mut Command, limit: Duration) -> Result<Ended> {
    let begun = Instant::now();
    sys::our_child(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(Error::io(format!("starting `{}`", describe(command))))?;
    let out = drain(child.stdout.take());
    let err = drain(child.stderr.take());
    let (status, late) = wait(&mut child, limit).map_err(Error::io(describe(command)))?;
    let took = begun.elapsed();
    let mut err = err.join().unwrap_or_default();
    if late {
        err.push_str(&format!(" (killed after {} ms)", limit.as_millis()));
    }
    Ok(Ended {
        ok: !late && status.success(),
        out: out.join().unwrap_or_default(),
        err,
        took,
    })
}

/// Runs a program whose output the user should see as it comes.
///
/// # Errors
/// It cannot be started, does not end within `limit`, or ends with a status other than 0.
pub fn run_visibly(command: &mut Command, limit: Duration) -> Result<()> {
    sys::our_child(command);
    let mut child = command
        .stdin(Stdio::null())
        .spawn()
        .map_err(Error::io(format!("starting `{}`", describe(command))))?;
    let (status, late) = wait(&mut child, limit).map_err(Error::io(describe(command)))?;
    if late {
        return Err(Error::told(format!(
            "`{}` did not end within {} s",
            describe(command),
            limit.as_secs()
        )));
    }
    if !status.success() {
        return Err(Error::told(format!(
            "`{}` failed: {status}",
            describe(command)
        )));
    }
    Ok(())
}

/// As [`run`], for a program that must end with status 0; its standard output.
///
/// # Errors
/// It cannot be started, takes longer than `limit`, or fails: the message has what it printed.
pub fn must(command: &mut Command, limit: Duration) -> Result<String> {
    let ended = run(command, limit)?;
    if ended.ok {
        Ok(ended.out)
    } else {
        Err(Error::told(format!(
            "`{}`: {}",
            describe(command),
            ended.brief()
        )))
    }
}

/// The program is there and answers the given arguments with status 0.
pub fn answers(program: &str, args: &[&str]) -> bool {
    run(Command::new(program).args(args), Duration::from_secs(20)).is_ok_and(|ended| ended.ok)
}

/// The command as one would type it.
pub fn describe(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    words.join(" ")
}

/// Removes what the user's shell may hold for etcd's programs: each flag has such a variable, and a
/// left-over one would change a member or a client in ways that no command line here shows.
pub fn clean_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let shown = name.to_string_lossy();
        if shown.starts_with("ETCD_") || shown.starts_with("ETCDCTL_") {
            command.env_remove(&name);
        }
    }
}

/// Waits for the end; past `limit` ends it. The second value says that it had to be killed.
fn wait(child: &mut Child, limit: Duration) -> io::Result<(std::process::ExitStatus, bool)> {
    let begun = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok((status, false));
        }
        if begun.elapsed() > limit {
            child.kill()?;
            return Ok((child.wait()?, true));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

fn drain(from: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut from) = from {
            // A read that fails ends the text; the exit status tells whether that matters.
            let _ = from.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}
