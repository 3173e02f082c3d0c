//! The walkthrough's cluster as three processes on 127.0.0.1, on free ports and in a temporary folder.

use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::bed::{Bed, Ending, Stop};
use crate::error::{Error, Result};
use crate::process::{Journal, Process};
use crate::report::Report;
use crate::run;
use crate::spec::{MEMBERS, MemberSpec};
use crate::sys;

/// How long a member told to end may take: `docker stop`'s patience.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Three processes.
pub struct Loopback {
    programs: PathBuf,
    dir: PathBuf,
    specs: [MemberSpec; MEMBERS],
    members: [Option<Process>; MEMBERS],
    journals: [Journal; MEMBERS],
    original: bool,
}

impl Loopback {
    /// Prepares the cluster; nothing runs yet. `original`: the programs are etcd 3.5's, whose version-2
    /// `member list` needs a server flag.
    ///
    /// # Errors
    /// No free ports, or no temporary folder.
    pub fn new(programs: &Path, original: bool) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("ferrite-walkthrough-{}", std::process::id()));
        std::fs::create_dir_all(&dir).map_err(Error::io(dir.display()))?;
        Ok(Self {
            programs: programs.to_owned(),
            dir,
            specs: MemberSpec::loopback(&free_ports()?),
            members: Default::default(),
            journals: Default::default(),
            original,
        })
    }

    fn ctl(&self, member: usize, version: &str) -> Command {
        let mut command = Command::new(self.programs.join("etcdctl"));
        run::clean_environment(&mut command);
        command
            .env("ETCDCTL_API", version)
            .arg(format!("--endpoints={}", self.specs[member].client_url));
        command
    }
}

/// Ports that nothing listened on a moment ago.
fn free_ports() -> Result<[(u16, u16); MEMBERS]> {
    let mut held = Vec::new();
    let mut port = || -> Result<u16> {
        let listener =
            TcpListener::bind("127.0.0.1:0").map_err(Error::io("looking for a free port"))?;
        let port = listener
            .local_addr()
            .map_err(Error::io("looking for a free port"))?
            .port();
        held.push(listener);
        Ok(port)
    };
    Ok([(port()?, port()?), (port()?, port()?), (port()?, port()?)])
}

impl Bed for Loopback {
    fn specs(&self) -> &[MemberSpec; MEMBERS] {
        &self.specs
    }

    fn up(&mut self) -> Result<()> {
        (0..MEMBERS).try_for_each(|member| self.start(member))
    }

    fn look(&mut self, report: &mut Report) -> Result<()> {
        report.note(&format!("programs of {}", self.programs.display()));
        Ok(())
    }

    fn down_and_up(&mut self) -> Result<()> {
        for process in self.members.iter().flatten() {
            process.signal(sys::SIGTERM);
        }
        for (process, spec) in self.members.iter_mut().zip(&self.specs) {
            if let Some(mut process) = process.take()
                && !process.wait(STOP_LIMIT)
            {
                return Err(Error::told(format!("{} did not end on SIGTERM", spec.name)));
            }
        }
        self.up()
    }

    fn stop(&mut self, member: usize, how: Stop) -> Result<Ending> {
        let Some(mut process) = self.members[member].take() else {
            return Err(Error::told(format!(
                "{} does not run",
                self.specs[member].name
            )));
        };
        let signal = match how {
            Stop::Term => sys::SIGTERM,
            Stop::Kill => sys::SIGKILL,
        };
        process.signal(signal);
        let limit = Instant::now() + STOP_LIMIT;
        while Instant::now() < limit {
            if let Some(status) = process.ended() {
                // etcd answers SIGTERM by ending what it does and raising it again.
                return Ok(Ending {
                    clean: status.signal() == Some(signal),
                    words: status.to_string(),
                });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(Ending {
            clean: false,
            words: format!("still running after {} s", STOP_LIMIT.as_secs()),
        })
    }

    fn start(&mut self, member: usize) -> Result<()> {
        let spec = &self.specs[member];
        let mut command = Command::new(self.programs.join("etcd"));
        run::clean_environment(&mut command);
        if self.original {
            command.env("ETCD_ENABLE_V2", "true");
        }
        command.args(spec.etcd_args(&self.specs, &self.dir.join(&spec.name)));
        self.members[member] = Some(Process::spawn(&mut command, &self.journals[member].sink())?);
        Ok(())
    }

    fn etcdctl(&self, member: usize, words: &[&str]) -> Command {
        let mut command = self.ctl(member, "3");
        command.args(words);
        command
    }

    fn member_list(&self, member: usize) -> Command {
        let mut command = self.ctl(member, "2");
        command.args(["member", "list"]);
        command
    }

    fn shell(&self, member: usize) -> Command {
        let mut command = Command::new("/bin/sh");
        run::clean_environment(&mut command);
        command
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", &self.specs[member].client_url)
            .env("CTL", self.programs.join("etcdctl"));
        command
    }

    fn journal(&self, member: usize) -> &Journal {
        &self.journals[member]
    }

    fn clean_up(&mut self) {
        // Dropping a process kills it; the data are this run's own.
        self.members = Default::default();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Drop for Loopback {
    fn drop(&mut self) {
        self.clean_up();
    }
}
