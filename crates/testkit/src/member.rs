//! One member: a process, its data folder, its ports, its logs.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{Kind, eventually, run};

/// What a server logs once it serves.
const READY: &str = "ready to serve client requests";

/// One member of a cluster. Every method may be called from any task.
#[derive(Debug)]
pub struct Member {
    pub(crate) index: usize,
    pub(crate) name: String,
    pub(crate) client_url: String,
    pub(crate) peer_url: String,
    pub(crate) data_dir: PathBuf,
    pub(crate) log_dir: PathBuf,
    /// Variables of the process.
    pub(crate) variables: Vec<(String, String)>,
    /// Open files it may have, if that is to be limited.
    pub(crate) descriptors: Option<u64>,
    /// Arguments for every kind, and those for one only.
    pub(crate) arguments: Vec<(Option<Kind>, String)>,
    pub(crate) state: Mutex<State>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub kind: Kind,
    pub child: Option<Child>,
    pub paused: bool,
    pub runs: u32,
    /// Arguments of this run and the next ones.
    pub more: Vec<String>,
}

impl Member {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its place in the cluster.
    #[must_use]
    pub fn index(&self) -> usize {
        self.index
    }

    /// Whose server it runs, or ran last.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.state().kind
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where clients reach it.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.client_url
    }

    /// Where other members reach it.
    #[must_use]
    pub fn peer_url(&self) -> &str {
        &self.peer_url
    }

    /// Its data folder.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The process, while one runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.state().child.as_ref().map(Child::id)
    }

    /// Memory the process has resident now, in bytes.
    ///
    /// # Panics
    /// If no process runs.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        self.kernel_says("VmRSS")
    }

    /// Most memory the process ever had resident, in bytes.
    ///
    /// # Panics
    /// If no process runs.
    #[must_use]
    pub fn peak_bytes(&self) -> u64 {
        self.kernel_says("VmHWM")
    }

    /// A line of what the kernel says about the process, in bytes.
    fn kernel_says(&self, name: &str) -> u64 {
        let pid = self
            .pid()
            .unwrap_or_else(|| panic!("member {} is down", self.index));
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))
            .expect("the kernel tells about a child");
        let kib: String = status
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
            .expect("the kernel says how much")
            .chars()
            .filter(char::is_ascii_digit)
            .collect();
        kib.parse::<u64>().expect("a number") << 10
    }

    /// Whether a process runs and is not paused.
    #[must_use]
    pub fn serving(&self) -> bool {
        let state = self.state();
        state.child.is_some() && !state.paused
    }

    /// Starts the process and does not wait; [`Member::ready`] does.
    ///
    /// # Panics
    /// If one runs, or the program does not start.
    pub fn start(&self) {
        self.start_once_with(&[]);
    }

    /// As [`Member::start`], with more arguments, which outweigh the member's own.
    ///
    /// # Panics
    /// As [`Member::start`].
    pub fn start_once_with(&self, more: &[String]) {
        let mut state = self.state();
        assert!(state.child.is_none(), "member {} runs already", self.index);
        state.runs += 1;
        let log = File::create(self.log_path(state.runs)).expect("a log file can be made");
        let second = log.try_clone().expect("a descriptor can be copied");
        let program = state.kind.server();
        let mut command = match self.descriptors {
            None => Command::new(&program),
            Some(limit) => {
                let mut shell = Command::new("sh");
                let script = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
                shell.arg("-c").arg(script).arg(&program);
                shell
            }
        };
        run::clean(&mut command);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let kind = state.kind;
        command
            .args(
                self.arguments
                    .iter()
                    .filter(|(only, _)| only.is_none_or(|only| only == kind))
                    .map(|(_, argument)| argument)
                    .chain(&state.more),
            )
            .args(more)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(second);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{} does not start: {error}", program.display()));
        state.child = Some(child);
        state.paused = false;
    }

    /// Starts another kind of server on the same data folder, without waiting.
    ///
    /// # Panics
    /// As [`Member::start`].
    pub fn start_as(&self, kind: Kind) {
        self.state().kind = kind;
        self.start();
    }

    /// Starts a server of this kind with more arguments, which later starts keep.
    ///
    /// # Panics
    /// As [`Member::start`].
    pub fn start_as_with(&self, kind: Kind, more: &[&str]) {
        let mut state = self.state();
        state.kind = kind;
        state.more = more.iter().map(|text| (*text).to_owned()).collect();
        drop(state);
        self.start();
    }

    /// The program of its kind and every argument, as [`Member::start`] runs it.
    #[must_use]
    pub fn command(&self, kind: Kind) -> Vec<String> {
        let own = self.arguments.iter();
        let own = own.filter(|(only, _)| only.is_none_or(|only| only == kind));
        let program = kind.server().display().to_string();
        std::iter::once(program)
            .chain(own.map(|(_, argument)| argument.clone()))
            .collect()
    }

    /// Waits until the running process serves clients.
    ///
    /// # Panics
    /// If it ends instead, or `within` passes.
    pub async fn ready(&self, within: Duration) {
        let what = format!("member {} ({:?}) serves clients", self.index, self.kind());
        eventually(&what, within, async || {
            if let Some(status) = self.exited() {
                panic!(
                    "member {} ended with {status} instead of serving",
                    self.index
                );
            }
            self.log_contains(READY).then_some(())
        })
        .await;
    }

    /// How the process ended, if it ended by itself; it is then down.
    #[must_use]
    pub fn exited(&self) -> Option<ExitStatus> {
        let mut state = self.state();
        let status = state
            .child
            .as_mut()?
            .try_wait()
            .expect("a child can be waited for")?;
        state.child = None;
        Some(status)
    }

    /// Waits until the process ends by itself or by a signal sent before.
    ///
    /// # Panics
    /// If it does not within that time.
    pub async fn exit(&self, within: Duration) -> ExitStatus {
        let what = format!("member {} ends", self.index);
        eventually(&what, within, async || self.exited()).await
    }

    /// Kills the process the hard way and collects it. Nothing happens if none runs.
    pub fn kill9(&self) {
        let mut state = self.state();
        if let Some(mut child) = state.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        state.paused = false;
    }

    /// SIGTERM; waits for the end and returns the status.
    ///
    /// # Panics
    /// If it takes longer than twenty seconds.
    pub async fn terminate(&self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.exit(Duration::from_secs(20)).await
    }

    /// SIGSTOP: the process stands still until [`Member::cont`].
    pub fn stop_signal(&self) {
        self.signal(libc::SIGSTOP);
        self.state().paused = true;
    }

    /// SIGCONT.
    pub fn cont(&self) {
        self.signal(libc::SIGCONT);
        self.state().paused = false;
    }

    /// Any signal.
    ///
    /// # Panics
    /// If no process runs.
    pub fn signal(&self, signal: i32) {
        let state = self.state();
        let child = state
            .child
            .as_ref()
            .unwrap_or_else(|| panic!("member {} is down", self.index));
        send(child, signal);
    }

    /// The log of the current run, or of the last one.
    #[must_use]
    pub fn log(&self) -> String {
        let path = self.log_path(self.state().runs);
        std::fs::read(path)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    /// Whether the current run, or the last one, logged this.
    #[must_use]
    pub fn log_contains(&self, text: &str) -> bool {
        self.log().contains(text)
    }

    /// Waits until the current run has logged this.
    ///
    /// # Panics
    /// When the time is up.
    pub async fn wait_for_log(&self, text: &str, within: Duration) {
        let what = format!("member {} logs {text:?}", self.index);
        eventually(&what, within, async || {
            self.log_contains(text).then_some(())
        })
        .await;
    }

    /// The last bytes of the log.
    #[must_use]
    pub fn log_tail(&self, bytes: u64) -> String {
        let mut tail = Vec::new();
        if let Ok(mut file) = File::open(self.log_path(self.state().runs)) {
            let length = file.metadata().map_or(0, |metadata| metadata.len());
            let _ = file.seek(SeekFrom::Start(length.saturating_sub(bytes)));
            let _ = file.read_to_end(&mut tail);
        }
        String::from_utf8_lossy(&tail).into_owned()
    }

    fn log_path(&self, run: u32) -> PathBuf {
        self.log_dir.join(format!("{}.{run}.log", self.name))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// Sends a signal to a child that has not been waited for.
pub(crate) fn send(child: &Child, signal: i32) {
    let pid = libc::pid_t::try_from(child.id()).expect("a process id fits");
    // SAFETY: kill takes two integers and touches no memory of ours. The id is that of a child which has
    // not been waited for (both callers forget theirs when they do), so it cannot name another process.
    let sent = unsafe { libc::kill(pid, signal) };
    assert_eq!(sent, 0, "process {pid} cannot be signalled");
}
