//! A program that is no member of a cluster: a proxy, a member by itself. It ends with its test.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::{PATIENCE, eventually, member, run};

/// A program that runs, and the file that its standard error goes to.
#[derive(Debug)]
pub struct Running {
    child: Child,
    log: PathBuf,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
    }
}

impl Running {
    /// Starts a program in the folder that its log is in, with no `ETCD*` variables but these, and waits until
    /// it logs that it is ready.
    ///
    /// # Panics
    /// If it cannot be started, or is not ready in time.
    pub async fn start<S: AsRef<std::ffi::OsStr>>(
        program: &Path,
        arguments: &[S],
        variables: &[(&str, &str)],
        log: &Path,
        ready: &str,
    ) -> Self {
        let mut command = Command::new(program);
        run::clean(&mut command);
        if let Some(folder) = log.parent() {
            command.current_dir(folder);
        }
        let file = std::fs::File::create(log)
            .unwrap_or_else(|error| panic!("{} cannot be made: {error}", log.display()));
        let child = command
            .args(arguments)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
        let running = Running {
            child,
            log: log.to_owned(),
        };
        running.logs(ready).await;
        running
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// The lines of its log with this message.
    #[must_use]
    pub fn lines(&self, message: &str) -> Vec<Value> {
        let log = self.log();
        let lines = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["msg"] == message).collect()
    }

    /// Waits until it has logged this.
    ///
    /// # Panics
    /// If it does not in time.
    pub async fn logs(&self, text: &str) {
        eventually(text, PATIENCE, async || {
            self.log().contains(text).then_some(())
        })
        .await;
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// If it cannot be signalled.
    pub fn signal(&self, signal: i32) {
        member::send(&self.child, signal);
    }

    /// SIGSTOP: it stands still until [`Running::cont`].
    pub fn stop_signal(&self) {
        self.signal(libc::SIGSTOP);
    }

    /// SIGCONT.
    pub fn cont(&self) {
        self.signal(libc::SIGCONT);
    }

    /// SIGTERM; waits for the end.
    ///
    /// # Panics
    /// If it takes longer than twenty seconds.
    pub async fn terminate(mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        let child = std::cell::RefCell::new(&mut self.child);
        eventually("it ends", Duration::from_secs(20), async || {
            child
                .borrow_mut()
                .try_wait()
                .expect("a child can be waited for")
        })
        .await
    }
}
