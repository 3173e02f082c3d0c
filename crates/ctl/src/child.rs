//! Commands that etcdctl runs for its user, and how Go words what becomes of them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus, Stdio};

use crate::exit;
use crate::gofmt::quote;

/// What a command ended with.
#[derive(Debug)]
pub struct Failed {
    /// In Go's words.
    pub text: String,
    /// The exit code for a program that ends for this reason.
    pub code: u8,
}

/// Runs a command without standard input, with these variables added, and waits for it. The runtime
/// goes on meanwhile.
///
/// # Errors
/// It could not be started, or did not succeed.
pub async fn run(words: &[Vec<u8>], variables: Vec<(&'static str, String)>) -> Result<(), Failed> {
    let failed = |text: String, code| Failed { text, code };
    let Some((program, arguments)) = words.split_first() else {
        return Err(failed("exec: no command".to_owned(), exit::ERROR));
    };
    let mut command = Command::new(OsString::from_vec(program.clone()));
    command
        .args(arguments.iter().cloned().map(OsString::from_vec))
        .envs(variables)
        .stdin(Stdio::null());
    let status = tokio::task::spawn_blocking(move || command.status()).await;
    match status {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(Ok(status)) => Err(failed(
            describe(status),
            status.code().map_or(u8::MAX, |code| (code & 0xff) as u8),
        )),
        Ok(Err(error)) => Err(failed(unstarted(program, &error), exit::ERROR)),
        Err(error) => Err(failed(error.to_string(), exit::ERROR)),
    }
}

fn unstarted(program: &[u8], error: &std::io::Error) -> String {
    let name = String::from_utf8_lossy(program);
    let reason = match error.kind() {
        std::io::ErrorKind::NotFound if !program.contains(&b'/') => {
            return format!(
                "exec: {}: executable file not found in $PATH",
                quote(program)
            );
        }
        std::io::ErrorKind::NotFound => "no such file or directory".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => error.to_string(),
    };
    format!("fork/exec {name}: {reason}")
}

fn describe(status: ExitStatus) -> String {
    let Some(signal) = status.signal() else {
        return format!("exit status {}", status.code().unwrap_or_default());
    };
    let name = match signal {
        1 => "hangup",
        2 => "interrupt",
        3 => "quit",
        4 => "illegal instruction",
        5 => "trace/breakpoint trap",
        6 => "aborted",
        7 => "bus error",
        8 => "floating point exception",
        9 => "killed",
        10 => "user defined signal 1",
        11 => "segmentation fault",
        12 => "user defined signal 2",
        13 => "broken pipe",
        14 => "alarm clock",
        15 => "terminated",
        other => return format!("signal: signal {other}"),
    };
    let core = if status.core_dumped() {
        " (core dumped)"
    } else {
        ""
    };
    format!("signal: {name}{core}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_worded_as_go_does() {
        for (raw, text) in [
            (3 << 8, "exit status 3"),
            (9, "signal: killed"),
            (11 | 0x80, "signal: segmentation fault (core dumped)"),
            (34, "signal: signal 34"),
        ] {
            assert_eq!(describe(ExitStatus::from_raw(raw)), text);
        }
        let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
        assert_eq!(
            unstarted(b"nosuch", &missing),
            "exec: \"nosuch\": executable file not found in $PATH"
        );
        assert_eq!(
            unstarted(b"./nosuch", &missing),
            "fork/exec ./nosuch: no such file or directory"
        );
    }
}
