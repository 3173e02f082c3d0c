//! Servers under test: started on ephemeral loopback ports with data in a temporary folder, gone when
//! dropped, and gone too when this program is killed.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ferrite_proto::etcdserverpb as pb;

use crate::client::Client;
use crate::error::{Error, Result};

/// How long a cluster may take until it serves.
const READY_MAX: Duration = Duration::from_secs(60);
/// How long a member may take to end when told to.
const STOP_MAX: Duration = Duration::from_secs(30);
/// Both servers run with their defaults but for this: 8 GiB, so that no run fills the database.
const QUOTA_BYTES: u64 = 8 << 30;

/// A server program and what the tables call it.
#[derive(Clone, Debug)]
pub struct Program {
    /// Its name in tables.
    pub name: &'static str,
    /// The executable.
    pub path: PathBuf,
}

impl Program {
    /// The executable `etcd` of a folder.
    ///
    /// # Errors
    /// The folder holds none.
    pub fn in_dir(name: &'static str, dir: &Path) -> Result<Self> {
        let path = dir.join("etcd");
        if path.is_file() {
            Ok(Self { name, path })
        } else {
            Err(Error::told(format!("there is no {}", path.display())))
        }
    }
}

struct Member {
    name: String,
    client: u16,
    peer: u16,
    child: Option<Child>,
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Both fail only for a child that has already ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A cluster of one program.
pub struct Cluster {
    program: Program,
    // Before the folder: members end before their data goes.
    members: Vec<Member>,
    dir: tempfile::TempDir,
}

impl Cluster {
    /// Starts `size` members and waits until each serves. Call from the main thread: the members end with the
    /// thread that started them.
    ///
    /// # Errors
    /// They cannot be started or do not serve in time.
    pub async fn start(program: &Program, size: usize) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("ferrite-bench-")
            .tempdir()
            .map_err(Error::io("making a temporary folder"))?;
        let ports = free_ports(size * 2)?;
        let members = ports
            .chunks_exact(2)
            .enumerate()
            .map(|(i, pair)| Member {
                name: format!("m{i}"),
                client: pair[0],
                peer: pair[1],
                child: None,
            })
            .collect();
        let mut cluster = Self {
            program: program.clone(),
            members,
            dir,
        };
        for member in 0..size {
            cluster.spawn(member)?;
        }
        cluster.ready().await?;
        Ok(cluster)
    }

    /// The program's name.
    pub fn name(&self) -> &'static str {
        self.program.name
    }

    /// Client addresses.
    pub fn endpoints(&self) -> Vec<String> {
        self.members
            .iter()
            .map(|member| format!("127.0.0.1:{}", member.client))
            .collect()
    }

    /// Process IDs.
    pub fn pids(&self) -> Vec<u32> {
        self.members
            .iter()
            .filter_map(|member| member.child.as_ref().map(Child::id))
            .collect()
    }

    /// Ends all members with SIGTERM and starts them again; the time from the start until every one answers a
    /// linearizable read.
    ///
    /// # Errors
    /// A member does not end or does not come back.
    pub async fn restart(&mut self) -> Result<Duration> {
        for member in &mut self.members {
            if let Some(child) = &member.child {
                terminate(child)?;
            }
        }
        for member in &mut self.members {
            let Some(mut child) = member.child.take() else {
                continue;
            };
            let begun = Instant::now();
            while child
                .try_wait()
                .map_err(Error::io("waiting for a member"))?
                .is_none()
            {
                if begun.elapsed() > STOP_MAX {
                    member.child = Some(child);
                    return Err(Error::told(format!(
                        "{} {} does not end",
                        self.program.name, member.name
                    )));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let begun = Instant::now();
        for member in 0..self.members.len() {
            self.spawn(member)?;
        }
        self.ready().await?;
        Ok(begun.elapsed())
    }

    fn spawn(&mut self, index: usize) -> Result<()> {
        let initial: Vec<String> = self
            .members
            .iter()
            .map(|member| format!("{}=http://127.0.0.1:{}", member.name, member.peer))
            .collect();
        let member = &mut self.members[index];
        let client = format!("http://127.0.0.1:{}", member.client);
        let peer = format!("http://127.0.0.1:{}", member.peer);
        let log_path = self.dir.path().join(format!("{}.log", member.name));
        let log = File::options()
            .create(true)
            .append(true)
            .open(&log_path)
            .map_err(Error::io(format!("opening {}", log_path.display())))?;
        let err = log.try_clone().map_err(Error::io("sharing a log file"))?;
        let mut command = Command::new(&self.program.path);
        command
            .args(["--name", &member.name])
            .arg("--data-dir")
            .arg(self.dir.path().join(&member.name))
            .args(["--listen-client-urls", &client])
            .args(["--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer])
            .args(["--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &initial.join(",")])
            .args(["--quota-backend-bytes", &QUOTA_BYTES.to_string()])
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(err);
        for (name, _) in std::env::vars_os() {
            if name.as_encoded_bytes().starts_with(b"ETCD_") {
                command.env_remove(name);
            }
        }
        die_with_us(&mut command);
        let child = command.spawn().map_err(Error::io(format!(
            "starting {}",
            self.program.path.display()
        )))?;
        member.child = Some(child);
        Ok(())
    }

    /// Waits until every member answers a linearizable read.
    async fn ready(&mut self) -> Result<()> {
        let begun = Instant::now();
        for index in 0..self.members.len() {
            let endpoint = format!("127.0.0.1:{}", self.members[index].client);
            while !serves(&endpoint).await {
                if let Some(child) = &mut self.members[index].child
                    && let Ok(Some(status)) = child.try_wait()
                {
                    return Err(Error::told(format!(
                        "{} ended while starting ({status}): {}",
                        self.program.name,
                        self.last_words(index)
                    )));
                }
                if begun.elapsed() > READY_MAX {
                    return Err(Error::told(format!(
                        "{} does not serve: {}",
                        self.program.name,
                        self.last_words(index)
                    )));
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        Ok(())
    }

    fn last_words(&self, index: usize) -> String {
        let path = self
            .dir
            .path()
            .join(format!("{}.log", self.members[index].name));
        let text = std::fs::read_to_string(path).unwrap_or_default();
        text.lines().next_back().unwrap_or_default().to_owned()
    }
}

pub(crate) async fn serves(endpoint: &str) -> bool {
    let ask = async {
        let mut client = Client::connect(endpoint).await.ok()?;
        let request = pb::RangeRequest {
            key: "ready".into(),
            ..Default::default()
        };
        client.range(request).await.ok()
    };
    matches!(
        tokio::time::timeout(Duration::from_secs(2), ask).await,
        Ok(Some(_))
    )
}

/// Ports nobody listens on now.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>> {
    let held: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0"))
        .collect::<io::Result<_>>()
        .map_err(Error::io("looking for free ports"))?;
    held.iter()
        .map(|listener| listener.local_addr().map(|address| address.port()))
        .collect::<io::Result<_>>()
        .map_err(Error::io("looking for free ports"))
}

fn terminate(child: &Child) -> Result<()> {
    let pid = libc::pid_t::try_from(child.id())
        .map_err(|_| Error::told("a process ID that the system cannot have given"))?;
    // SAFETY: kill takes two integers and touches no memory. `pid` is positive and belongs to a child that is not
    // reaped while the caller's `&Child` exists, so it cannot name another process.
    if unsafe { libc::kill(pid, libc::SIGTERM) } == 0 {
        Ok(())
    } else {
        Err(Error::io("ending a member")(io::Error::last_os_error()))
    }
}

/// The kernel kills the child when the thread that spawned it ends, however it ends.
pub(crate) fn die_with_us(command: &mut Command) {
    let parent = std::process::id();
    let hook = move || {
        // SAFETY: prctl(PR_SET_PDEATHSIG) and getppid are bare system calls: they take no lock, allocate nothing and
        // touch no memory of ours, so they are sound between fork and exec.
        let (set, now) = unsafe {
            let signal = libc::SIGKILL as libc::c_ulong;
            (libc::prctl(libc::PR_SET_PDEATHSIG, signal), libc::getppid())
        };
        if set != 0 {
            return Err(io::Error::last_os_error());
        }
        // The parent may have died before the call above: then no signal will ever come.
        if u32::try_from(now) != Ok(parent) {
            return Err(io::Error::from_raw_os_error(libc::ESRCH));
        }
        Ok(())
    };
    // SAFETY: the hook runs in the forked child before exec, and only makes the calls proved above; building an
    // `io::Error` from a number does not allocate.
    unsafe {
        command.pre_exec(hook);
    }
}
