//! Where a member lives: a namespace of its own for network and mounts, held by a process that ends with this one,
//! and on a disk of its own, which can be filled and made to fail.
//!
//! The disk is a real file system on a loop device over a sparse file. That file lies on a memory file system
//! with little room: when this is used up, the device answers writes to what is not there yet with an error, and
//! the file system gives that to whoever writes or syncs.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Bytes of a member's disk, as it says.
const DISK_MIB: u64 = 512;
/// Room that what lies under the disks has.
const UNDER_MIB: u64 = 480;

/// A place. Its namespace, mounts and loop device go when it is dropped, or when this process dies.
pub struct Place {
    holder: Child,
    /// The member's disk, as the member sees it.
    pub disk: PathBuf,
    under: PathBuf,
}

fn checked(mut command: Command) -> Result<String, String> {
    let shown = format!("{command:?}");
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{shown}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(format!("{shown}: {}: {words}", output.status))
}

impl Place {
    /// A place with the folders `root/disk` and `root/under`.
    ///
    /// # Errors
    /// What cannot be had here.
    pub fn new(root: &Path) -> Result<Self, String> {
        let (disk, under) = (root.join("disk"), root.join("under"));
        for folder in [&disk, &under] {
            std::fs::create_dir_all(folder).map_err(|error| error.to_string())?;
        }
        // It waits for the end of its input, which comes when we end.
        let holder = Command::new("unshare")
            .args(["--net", "--mount", "--propagation", "private", "cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("unshare: {error}"))?;
        let place = Place {
            holder,
            disk,
            under,
        };
        place.wait()?;
        place.run("ip", &["link", "set", "lo", "up"])?;
        let (disk, under) = (place.disk.display(), place.under.display());
        place.shell(&format!(
            "mount -t tmpfs -o size={UNDER_MIB}m under {under} && \
             truncate -s {DISK_MIB}M {under}/image && \
             mkfs.ext4 -q -F -m 0 -E lazy_itable_init=1,nodiscard {under}/image && \
             mount -o loop,discard,errors=remount-ro {under}/image {disk}"
        ))?;
        Ok(place)
    }

    /// Its namespaces are there once the holder is `cat`.
    fn wait(&self) -> Result<(), String> {
        let comm = format!("/proc/{}/comm", self.holder.id());
        for _ in 0..1_000 {
            match std::fs::read_to_string(&comm) {
                Ok(name) if name.trim() == "cat" => return Ok(()),
                Ok(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
                Err(error) => return Err(format!("no namespaces: {error}")),
            }
        }
        Err("no namespaces: unshare does not get there".into())
    }

    /// The process that holds the namespaces.
    pub fn id(&self) -> u32 {
        self.holder.id()
    }

    /// A command that will run here.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        let id = self.holder.id().to_string();
        command.args(["--target", &id, "--net", "--mount", program]);
        command
    }

    /// Runs a command here.
    ///
    /// # Errors
    /// What it says.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let mut command = self.command(program);
        command.args(arguments);
        checked(command)
    }

    fn shell(&self, script: &str) -> Result<String, String> {
        self.run("sh", &["-c", script])
    }

    /// Gives the place its link: the tunnel of this name, and an address.
    ///
    /// # Errors
    /// What `ip` says.
    pub fn link(&self, tunnel: &str, address: &str) -> Result<(), String> {
        let mut command = Command::new("ip");
        command.args(["link", "set", tunnel, "netns", &self.id().to_string()]);
        checked(command)?;
        link(
            |arguments| self.run("ip", arguments).map(|_| ()),
            tunnel,
            address,
        )
    }

    /// A file on the disk, as this process sees it.
    pub fn seen(&self, path: &Path) -> PathBuf {
        let inside = path.strip_prefix("/").unwrap_or(path);
        PathBuf::from(format!("/proc/{}/root", self.holder.id())).join(inside)
    }

    /// Fills the disk to the last byte. Reserved, not written: the device holds no more than before.
    pub fn fill(&self) {
        let disk = self.disk.display();
        let _full = self.shell(&format!(
            "fallocate -l $(df --output=avail -B1 {disk} | tail -1) {disk}/ballast"
        ));
        let path = self.seen(&self.disk.join("ballast.rest"));
        if let Ok(mut file) = std::fs::File::create(path) {
            // Larger pieces first; that each size comes to an error is what is wanted.
            for size in [1 << 16, 4096, 1] {
                let piece = vec![1; size];
                while file.write_all(&piece).is_ok() {}
            }
        }
    }

    /// Makes room again.
    pub fn empty(&self) {
        for name in ["ballast", "ballast.rest"] {
            let _gone = std::fs::remove_file(self.seen(&self.disk.join(name)));
        }
    }

    /// From now on the device fails writes to what it does not hold yet.
    pub fn fail(&self) {
        let path = self.seen(&self.under.join("ballast"));
        if let Ok(mut file) = std::fs::File::create(path) {
            for size in [1 << 20, 4096] {
                let piece = vec![1; size];
                while file.write_all(&piece).is_ok() {}
            }
        }
    }

    /// A new device over what the old one held, as after a reboot. Nobody may use the disk meanwhile.
    ///
    /// # Errors
    /// What the system says.
    pub fn repair(&self) -> Result<(), String> {
        let _gone = std::fs::remove_file(self.seen(&self.under.join("ballast")));
        let (disk, under) = (self.disk.display(), self.under.display());
        // e2fsck says with 1 and 2 that it has mended something.
        self.shell(&format!(
            "umount {disk}; e2fsck -p {under}/image >/dev/null; test $? -lt 4 && \
             mount -o loop,discard,errors=remount-ro {under}/image {disk}"
        ))
        .map(|_| ())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // With the last process in them the namespaces go, and with those mounts and loop devices.
        let _killed = self.holder.kill();
        let _waited = self.holder.wait();
    }
}

/// Sets a tunnel up with its address.
///
/// # Errors
/// What `ip` says.
pub fn link(
    run: impl Fn(&[&str]) -> Result<(), String>,
    tunnel: &str,
    address: &str,
) -> Result<(), String> {
    run(&["addr", "add", address, "dev", tunnel])?;
    run(&["link", "set", tunnel, "up"])
}

/// As [`Place::run`], in this process's own namespace.
///
/// # Errors
/// What it says.
pub fn here(program: &str, arguments: &[&str]) -> Result<(), String> {
    let mut command = Command::new(program);
    command.args(arguments);
    checked(command).map(|_| ())
}
