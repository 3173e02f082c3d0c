//! Three members in one terminal: prefixed logs, keys to stop and start a member, and an end that leaves no
//! process behind.
//!
//! One thread owns the members and acts on events; other threads only read (keys, signals, output).

use std::io::Read;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::logline::{self, Style};
use crate::process::{Process, Sink};
use crate::report::say;
use crate::run;
use crate::spec::{MEMBERS, MemberSpec};
use crate::sys;

/// How long members told to end may take before they are killed. The last of them has nobody left to hand
/// over to, and what is acknowledged is on disk: waiting longer gains nothing.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// How often we look whether a member has ended by itself.
const LOOK: Duration = Duration::from_millis(100);

/// The ports of etcd's own three-member example: client 2379, 22379, 32379, peer one more.
const PORTS: [(u16, u16); MEMBERS] = [(2379, 2380), (22379, 22380), (32379, 32380)];

/// What `ferrite-dev cluster` was asked for.
#[derive(Debug)]
pub struct Options {
    /// The folder with the programs.
    pub programs: PathBuf,
    /// Six ports from here on instead of the usual ones.
    pub base_port: Option<u16>,
    /// The folder of the members' data.
    pub data_dir: PathBuf,
    /// Begin with no data.
    pub fresh: bool,
    /// How logs are shown.
    pub style: Style,
}

enum Event {
    Key(u8),
    Signal(i32),
}

/// Runs the cluster until the user ends it.
///
/// # Errors
/// A port is taken, the data folder is not ours to wipe, or a member cannot be started.
pub fn run(options: Options) -> Result<()> {
    let (sender, events) = channel();
    let signals = sender.clone();
    sys::on_signals(move |signal| {
        // The receiver lives as long as the cluster.
        let _ = signals.send(Event::Signal(signal));
    })
    .map_err(Error::io("taking over signals"))?;

    let specs = MemberSpec::loopback(&ports(options.base_port)?);
    prepare_data(&options)?;
    let mut cluster = Cluster {
        options,
        specs,
        members: Default::default(),
        killing: false,
        ending: false,
    };
    for member in 0..MEMBERS {
        cluster.start(member)?;
    }
    let keys = sys::keys_mode().unwrap_or(false);
    cluster.greet(keys);
    read_keys(sender);
    cluster.serve(&events);
    cluster.end(&events);
    sys::restore_terminal();
    Ok(())
}

struct Cluster {
    options: Options,
    specs: [MemberSpec; MEMBERS],
    members: [Option<Process>; MEMBERS],
    /// The key `k` was pressed: the next digit kills.
    killing: bool,
    /// The user ends the cluster.
    ending: bool,
}

impl Cluster {
    fn serve(&mut self, events: &Receiver<Event>) {
        loop {
            match events.recv_timeout(LOOK) {
                Ok(Event::Key(key)) => {
                    if !self.key(key) {
                        return;
                    }
                }
                Ok(Event::Signal(sys::SIGCONT)) => {
                    // The shell gave the terminal its own mode while we were stopped.
                    let _ = sys::keys_mode();
                }
                Ok(Event::Signal(_)) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.look();
        }
    }

    /// Acts on a key; false when it ends the cluster.
    fn key(&mut self, key: u8) -> bool {
        let killing = std::mem::take(&mut self.killing);
        match key {
            b'1'..=b'3' => self.toggle(usize::from(key - b'1'), killing),
            b'k' | b'K' => self.killing = true,
            b'l' | b'L' => self.list(),
            b'h' | b'H' | b'?' => self.help(),
            b'q' | b'Q' | 0x03 | 0x04 => return false,
            _ => {}
        }
        true
    }

    fn toggle(&mut self, member: usize, kill: bool) {
        let name = self.specs[member].name.clone();
        match &self.members[member] {
            Some(process) if kill => {
                self.tell(&format!(
                    "killing {name} (SIGKILL); key {} starts it again",
                    member + 1
                ));
                process.signal(sys::SIGKILL);
            }
            Some(process) => {
                self.tell(&format!(
                    "stopping {name} (SIGTERM); key {} starts it again",
                    member + 1
                ));
                process.signal(sys::SIGTERM);
            }
            None if kill => self.tell(&format!("{name} does not run")),
            None => {
                if let Err(why) = self.start(member) {
                    self.tell(&why.to_string());
                }
            }
        }
    }

    fn start(&mut self, member: usize) -> Result<()> {
        let spec = &self.specs[member];
        let mut command = Command::new(self.options.programs.join("etcd"));
        run::clean_environment(&mut command);
        command.args(spec.etcd_args(&self.specs, &self.options.data_dir.join(&spec.name)));
        let (style, name) = (self.options.style, spec.name.clone());
        let sink: Sink = Arc::new(move |line| say(&logline::show(style, member, &name, line)));
        let process = Process::spawn(&mut command, &sink)?;
        self.tell(&format!(
            "{} started, process {}, member {:x}",
            spec.name,
            process.id(),
            spec.id()
        ));
        self.members[member] = Some(process);
        Ok(())
    }

    /// Notices members that have ended.
    fn look(&mut self) {
        for member in 0..MEMBERS {
            if let Some(status) = self.members[member].as_mut().and_then(Process::ended) {
                self.members[member] = None;
                let name = &self.specs[member].name;
                let hint = match self.ending {
                    true => String::new(),
                    false => format!("; key {} starts it", member + 1),
                };
                self.tell(&format!("{name} has ended ({status}){hint}"));
            }
        }
    }

    /// Prints the member list, without holding up keys.
    fn list(&self) {
        let running: Vec<&str> = (0..MEMBERS)
            .filter(|member| self.members[*member].is_some())
            .map(|member| self.specs[member].client_url.as_str())
            .collect();
        if running.is_empty() {
            self.tell("no member runs");
            return;
        }
        let mut command = Command::new(self.options.programs.join("etcdctl"));
        run::clean_environment(&mut command);
        command
            .env("ETCDCTL_API", "2")
            .arg(format!("--endpoints={}", running.join(",")))
            .args(["member", "list"]);
        let style = self.options.style;
        thread::spawn(
            move || match run::run(&mut command, Duration::from_secs(10)) {
                Ok(ended) if ended.ok => ended.out.lines().for_each(|line| say(&own(style, line))),
                Ok(ended) => say(&own(style, &format!("member list: {}", ended.brief()))),
                Err(why) => say(&own(style, &format!("member list: {why}"))),
            },
        );
    }

    fn greet(&self, keys: bool) {
        let endpoints: Vec<&str> = self
            .specs
            .iter()
            .map(|spec| spec.client_url.as_str())
            .collect();
        self.tell(&format!("data in {}", self.options.data_dir.display()));
        self.tell("talk to it:");
        self.tell(&format!(
            "  {} --endpoints={} put foo bar",
            self.options.programs.join("etcdctl").display(),
            endpoints.join(",")
        ));
        if keys {
            self.help();
        } else {
            self.tell("Ctrl-C or SIGTERM ends all (no terminal, so keys come from standard input, if it has any)");
        }
    }

    fn help(&self) {
        self.tell("keys: 1 2 3 stop or start that member · k1 k2 k3 kill it (SIGKILL) · l member list · h help · q or Ctrl-C end all");
    }

    /// Ends all members; a second Ctrl-C or `q` does not wait.
    fn end(&mut self, events: &Receiver<Event>) {
        self.ending = true;
        self.tell("ending all members; once more to kill them");
        for process in self.members.iter().flatten() {
            process.signal(sys::SIGTERM);
        }
        let limit = Instant::now() + STOP_LIMIT;
        while self.members.iter().any(Option::is_some) && Instant::now() < limit {
            self.look();
            match events.recv_timeout(Duration::from_millis(20)) {
                Ok(Event::Signal(sys::SIGCONT)) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Event::Signal(_) | Event::Key(b'q' | b'Q' | 0x03)) => break,
                Ok(Event::Key(_)) => {}
                Err(RecvTimeoutError::Disconnected) => thread::sleep(Duration::from_millis(20)),
            }
        }
        for (process, spec) in self.members.iter().zip(&self.specs) {
            if process.is_some() {
                self.tell(&format!("killing {}", spec.name));
            }
        }
        // Dropping a process kills it and waits for it.
        self.members = Default::default();
        self.tell("all members have ended");
    }

    fn tell(&self, words: &str) {
        say(&own(self.options.style, words));
    }
}

/// A line of our own among the members'.
fn own(style: Style, words: &str) -> String {
    if style.colour {
        format!("\x1b[1mcluster | {words}\x1b[0m")
    } else {
        format!("cluster | {words}")
    }
}

/// Hands keys over as events until standard input ends. Without a terminal keys may come from a pipe.
fn read_keys(events: Sender<Event>) {
    thread::spawn(move || {
        let mut byte = [0];
        while let Ok(1) = std::io::stdin().read(&mut byte) {
            if events.send(Event::Key(byte[0])).is_err() {
                return;
            }
        }
    });
}

/// The members' ports, each free now.
fn ports(base: Option<u16>) -> Result<[(u16, u16); MEMBERS]> {
    let ports = match base {
        None => PORTS,
        Some(base) => ports_from(base)?,
    };
    for port in ports.iter().flat_map(|(client, peer)| [*client, *peer]) {
        TcpListener::bind(("127.0.0.1", port)).map_err(|why| {
            Error::told(format!(
                "port {port} on 127.0.0.1 cannot be used ({why}): end what listens there, or choose others with --base-port"
            ))
        })?;
    }
    Ok(ports)
}

fn ports_from(base: u16) -> Result<[(u16, u16); MEMBERS]> {
    if base == 0 || base.checked_add(5).is_none() {
        return Err(Error::told(
            "--base-port must be between 1 and 65530: six ports from it on are used",
        ));
    }
    Ok([(base, base + 1), (base + 2, base + 3), (base + 4, base + 5)])
}

/// Makes the data folder; with `--fresh` removes the three members' folders in it, and nothing else.
fn prepare_data(options: &Options) -> Result<()> {
    let dir = &options.data_dir;
    std::fs::create_dir_all(dir).map_err(Error::io(format!("making {}", dir.display())))?;
    if options.fresh {
        for spec in MemberSpec::compose() {
            let data = dir.join(spec.name);
            match std::fs::remove_dir_all(&data) {
                Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Error::io(format!("removing {}", data.display()))(why));
                }
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_ports() {
        assert_eq!(
            ports_from(4000).ok(),
            Some([(4000, 4001), (4002, 4003), (4004, 4005)])
        );
        assert!(ports_from(0).is_err());
        assert!(ports_from(65_531).is_err());
        assert!(ports_from(65_530).is_ok());
    }

    #[test]
    fn a_taken_port_is_named() {
        let Ok(held) = TcpListener::bind("127.0.0.1:0") else {
            return;
        };
        let Ok(address) = held.local_addr() else {
            return;
        };
        if address.port() > 65_530 {
            return;
        }
        let words = ports(Some(address.port()))
            .err()
            .map(|why| why.to_string())
            .unwrap_or_default();
        assert!(
            words.contains(&address.port().to_string()) && words.contains("--base-port"),
            "{words}"
        );
    }
}
