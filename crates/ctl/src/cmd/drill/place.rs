//! Where members run, and how they are stopped and started there: processes of this machine, known by what
//! `/proc` says of them, or containers, by the commands of `docker`. It knows nothing of etcd's API.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// How long a member that is told to end may take: `docker stop`'s patience.
const STOP_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(2);
/// The program's file name.
const PROGRAM: &str = "etcd";

/// One member's home.
pub enum Home {
    /// A process of this machine.
    Process(Box<Process>),
    /// A container.
    Container {
        /// Its name.
        container: String,
        /// The arguments that it was started with.
        arguments: Vec<String>,
    },
}

impl Home {
    /// The name that its member was given, as far as its command line or environment say.
    pub fn member(&self) -> Option<String> {
        match self {
            Self::Process(process) => process.setting("name"),
            Self::Container { arguments, .. } => flag(arguments, "name"),
        }
    }

    /// The client URLs that its member tells others, as far as its command line or environment say.
    pub fn client_urls(&self) -> Option<String> {
        match self {
            Self::Process(process) => process.setting("advertise-client-urls"),
            Self::Container { arguments, .. } => flag(arguments, "advertise-client-urls"),
        }
    }

    /// For people.
    pub fn describe(&self) -> String {
        match self {
            Self::Process(process) => format!("process {}", process.pid),
            Self::Container { container, .. } => format!("container {container}"),
        }
    }

    /// Tells the member to end, or kills it; returns when it is gone.
    pub async fn stop(&mut self, kill: bool) -> Result<(), String> {
        match self {
            Self::Process(process) => process.stop(kill).await,
            Self::Container { container, .. } => {
                let word = if kill { "kill" } else { "stop" };
                docker(&[word, container]).await.map(drop)
            }
        }
    }

    /// Starts a member that was told to end, once it is gone.
    pub async fn bring_back(&mut self) -> Result<(), String> {
        match self {
            Self::Process(process) => process.wait().await?,
            // It may still be under way; a second one ends with it.
            Self::Container { container, .. } => docker(&["stop", container]).await.map(drop)?,
        }
        self.start().await
    }

    /// Starts a member that is gone.
    pub async fn start(&mut self) -> Result<(), String> {
        match self {
            Self::Process(process) => process.start(),
            Self::Container { container, .. } => docker(&["start", container]).await.map(drop),
        }
    }
}

/// Runs `docker`; what it printed.
async fn docker(words: &[&str]) -> Result<String, String> {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    let without_form = words.iter().filter(|word| !word.starts_with(['-', '{']));
    let shown: Vec<&str> = without_form.map(String::as_str).collect();
    let shown = format!("docker {}", shown.join(" "));
    let run = move || {
        Command::new("docker")
            .args(&words)
            .stdin(Stdio::null())
            .output()
    };
    let output = tokio::task::spawn_blocking(run)
        .await
        .map_err(|e| format!("{shown}: {e}"))?
        .map_err(|e| format!("{shown}: {e}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{shown}: {}", said.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A container by its name.
pub async fn container(name: &str) -> Result<Home, String> {
    let format = "{{range .Args}}{{.}}\n{{end}}{{range .Config.Env}}{{.}}\n{{end}}";
    let shown = docker(&["container", "inspect", "--format", format, name]).await?;
    Ok(Home::Container {
        container: name.to_owned(),
        arguments: shown.lines().map(str::to_owned).collect(),
    })
}

/// The address of a container in its networks.
pub async fn address(name: &str) -> Result<String, String> {
    let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}}\n{{end}}";
    let shown = docker(&["container", "inspect", "--format", format, name]).await?;
    let found = shown.lines().find(|line| !line.is_empty());
    found
        .map(str::to_owned)
        .ok_or_else(|| format!("container {name} has no address here: give --endpoints"))
}

/// The value of a flag among arguments, or of its variable among `NAME=value` lines.
fn flag(arguments: &[String], name: &str) -> Option<String> {
    let variable = format!("ETCD_{}=", name.to_uppercase().replace('-', "_"));
    let mut found = None;
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let dashless = argument.trim_start_matches('-');
        if argument.starts_with('-') && dashless == name {
            found = rest.next().cloned();
        } else if argument.starts_with('-')
            && let Some(value) = dashless
                .strip_prefix(name)
                .and_then(|v| v.strip_prefix('='))
        {
            found = Some(value.to_owned());
        }
    }
    // A flag goes before a variable.
    found.or_else(|| {
        let set = arguments.iter().find_map(|a| a.strip_prefix(&variable));
        set.map(str::to_owned)
    })
}

/// A process, and all that it takes to start it again.
pub struct Process {
    pid: u32,
    /// When it was started, in the kernel's ticks: another process with its number was not.
    started: String,
    program: PathBuf,
    words: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    folder: PathBuf,
    out: Option<File>,
    err: Option<File>,
    child: Option<Child>,
}

/// What `/proc/<pid>/stat` says: the state, and when it was started.
fn stat(pid: u32) -> Option<(char, String)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in brackets may hold anything.
    let mut fields = text.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.to_owned()))
}

fn parts(pid: u32, file: &str) -> Result<Vec<OsString>, String> {
    let path = format!("/proc/{pid}/{file}");
    let bytes = fs::read(&path).map_err(|e| format!("{path}: {e}"))?;
    let mut parts: Vec<OsString> = bytes
        .split(|byte| *byte == 0)
        .map(|part| OsString::from_vec(part.to_vec()))
        .collect();
    // The last one ends with a zero, too.
    parts.pop();
    Ok(parts)
}

/// A process of this machine.
pub fn process(pid: u32) -> Result<Home, String> {
    let (_, started) = stat(pid).ok_or_else(|| format!("there is no process {pid}"))?;
    let link = |name: &str| {
        let path = format!("/proc/{pid}/{name}");
        fs::read_link(&path).map_err(|e| format!("{path}: {e}"))
    };
    let words = parts(pid, "cmdline")?;
    let mut program = link("exe")?;
    if !program.exists() {
        // The file has been replaced, as by an upgrade: the command line leads to the new one.
        program = words.first().map(PathBuf::from).unwrap_or(program);
    }
    let variables = parts(pid, "environ")?
        .into_iter()
        .filter_map(|pair| {
            let bytes = pair.into_vec();
            let at = bytes.iter().position(|byte| *byte == b'=')?;
            let (name, value) = bytes.split_at(at);
            Some((
                OsString::from_vec(name.to_vec()),
                OsString::from_vec(value[1..].to_vec()),
            ))
        })
        .collect();
    // Opened now: what it writes to must be known after it is gone.
    let sink = |number: u8| {
        let path = format!("/proc/{pid}/fd/{number}");
        OpenOptions::new().append(true).open(path).ok()
    };
    Ok(Home::Process(Box::new(Process {
        pid,
        started,
        program,
        words,
        variables,
        folder: link("cwd")?,
        out: sink(1),
        err: sink(2),
        child: None,
    })))
}

/// Every process of the server's program that may be looked at.
pub fn local() -> Result<Vec<Home>, String> {
    let mut found = Vec::new();
    let entries = fs::read_dir("/proc").map_err(|e| format!("/proc: {e}"))?;
    for entry in entries.flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let words = parts(pid, "cmdline").unwrap_or_default();
        let program = words.first().map(PathBuf::from).unwrap_or_default();
        if program.file_name().is_some_and(|file| file == PROGRAM)
            && let Ok(home) = process(pid)
        {
            found.push(home);
        }
    }
    Ok(found)
}

impl Process {
    fn setting(&self, name: &str) -> Option<String> {
        let text = |word: &OsString| word.to_string_lossy().into_owned();
        let mut all: Vec<String> = self.words.iter().skip(1).map(text).collect();
        let variables = self.variables.iter();
        all.extend(variables.map(|(name, value)| format!("{}={}", text(name), text(value))));
        flag(&all, name)
    }

    fn gone(&mut self) -> bool {
        if let Some(child) = &mut self.child
            && let Ok(Some(_)) = child.try_wait()
        {
            return true;
        }
        match stat(self.pid) {
            // What its parent has not looked at yet is gone all the same.
            Some((state, started)) => state == 'Z' || started != self.started,
            None => true,
        }
    }

    fn send(&mut self, signal: Signal) -> Result<(), String> {
        if self.gone() {
            return Err(format!("process {} is gone already", self.pid));
        }
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let pid = pid.ok_or_else(|| format!("{} is no process", self.pid))?;
        kill_process(pid, signal).map_err(|e| format!("process {}: {e}", self.pid))
    }

    async fn stop(&mut self, kill: bool) -> Result<(), String> {
        self.send(if kill { Signal::KILL } else { Signal::TERM })?;
        self.wait().await
    }

    /// Waits until it is gone.
    async fn wait(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        while !self.gone() {
            if begun.elapsed() > STOP_LIMIT {
                return Err(format!(
                    "process {} still runs {} s after it was told to end",
                    self.pid,
                    STOP_LIMIT.as_secs()
                ));
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    fn start(&mut self) -> Result<(), String> {
        let sink = |file: &Option<File>| {
            let copy = file.as_ref().and_then(|file| file.try_clone().ok());
            copy.map_or_else(Stdio::null, Stdio::from)
        };
        let mut command = Command::new(&self.program);
        if let Some(name) = self.words.first() {
            command.arg0(name);
        }
        let child = command
            .args(self.words.iter().skip(1))
            .env_clear()
            .envs(self.variables.iter().cloned())
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(sink(&self.out))
            .stderr(sink(&self.err))
            // Ctrl-C ends the drill, not the cluster.
            .process_group(0)
            .spawn()
            .map_err(|e| format!("{}: {e}", self.program.display()))?;
        self.pid = child.id();
        self.started = stat(self.pid).map(|(_, at)| at).unwrap_or_default();
        self.child = Some(child);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_found_in_every_form() {
        let all = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        let name = |words: &[&str]| flag(&all(words), "name");
        assert_eq!(name(&["--name=a"]).as_deref(), Some("a"));
        assert_eq!(
            name(&["-name", "a", "--data-dir", "x"]).as_deref(),
            Some("a")
        );
        assert_eq!(name(&["--name", "a", "ETCD_NAME=b"]).as_deref(), Some("a"));
        assert_eq!(name(&["ETCD_NAME=b"]).as_deref(), Some("b"));
        assert_eq!(name(&["--names=a", "--data-dir=--name=x"]), None);
        let urls = flag(
            &all(&["ETCD_ADVERTISE_CLIENT_URLS=http://x"]),
            "advertise-client-urls",
        );
        assert_eq!(urls.as_deref(), Some("http://x"));
    }

    #[tokio::test]
    async fn a_process_is_stopped_and_started_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("log");
        let mut first = Command::new("/bin/sh")
            .args(["-c", "echo $$ $WORD; exec sleep 60", "--name=a"])
            .env("WORD", "here")
            .current_dir(folder.path())
            .stdout(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let lines = || fs::read_to_string(&log).unwrap().lines().count();
        while lines() < 1 || parts(first.id(), "cmdline").unwrap()[0] != "sleep" {
            tokio::time::sleep(POLL).await;
        }
        let mut home = process(first.id()).unwrap();
        let Home::Process(process) = &mut home else {
            panic!("a process");
        };
        assert_eq!(process.folder, folder.path().canonicalize().unwrap());
        assert_eq!(process.words, ["sleep", "60"]);
        for kill in [false, true] {
            process.stop(kill).await.unwrap();
            assert!(
                process
                    .stop(kill)
                    .await
                    .unwrap_err()
                    .contains("is gone already")
            );
            process.start().unwrap();
            assert!(!process.gone());
        }
        // The kernel shows it a moment after the program has begun.
        let begun = Instant::now();
        while !parts(process.pid, "environ")
            .unwrap()
            .contains(&"WORD=here".into())
        {
            assert!(
                begun.elapsed() < Duration::from_secs(60),
                "another environment"
            );
            tokio::time::sleep(POLL).await;
        }
        process.stop(true).await.unwrap();
        first.wait().unwrap();
    }
}
