//! Installs what a bare machine lacks: Debian packages and parts of the Rust toolchain.
//!
//! Only ever called for what is missing, and says what it installs.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Once;

use crate::error::{Error, Result};
use crate::run::{answers, say, shown};

/// Installs Debian packages. No service is started by it.
///
/// # Errors
/// This is no Debian, we are not root, or the packages cannot be had.
pub fn packages(names: &[&str]) -> Result<()> {
    say(&format!("installing {} (apt-get)", names.join(" ")));
    if !answers("apt-get", &["--version"]) {
        return Err(Error::told(format!(
            "apt-get is not here: install {} by hand",
            names.join(", ")
        )));
    }
    fresh_lists();
    shown(
        apt()
            .args(["install", "--yes", "--quiet", "--no-install-recommends"])
            .args(names)
            .stdout(Stdio::null()),
    )
    .map_err(|why| {
        Error::told(format!(
            "{why}: installing needs root; or install {} by hand",
            names.join(", ")
        ))
    })
}

fn fresh_lists() {
    static LISTS: Once = Once::new();
    LISTS.call_once(|| {
        // A stale list may still do; what is fetched then tells.
        let _ = shown(apt().args(["update", "--quiet"]).stdout(Stdio::null()));
    });
}

/// Fetches a Debian package and unpacks it into a folder; nothing is installed. The folder is there whole, or not.
///
/// # Errors
/// This is no Debian, or the package cannot be had.
pub fn unpack(package: &str, dir: &Path) -> Result<()> {
    let part = dir.with_extension("part");
    let _ = std::fs::remove_dir_all(&part);
    std::fs::create_dir_all(&part).map_err(Error::io(part.display()))?;
    let download = |dir: &Path| {
        let mut command = apt();
        shown(
            command
                .args(["download", "--quiet", package])
                .current_dir(dir),
        )
    };
    if download(&part).is_err() {
        fresh_lists();
        download(&part)?;
    }
    let files = std::fs::read_dir(&part).map_err(Error::io(part.display()))?;
    let file = files
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|end| end == "deb"))
        .ok_or_else(|| Error::told(format!("apt-get download {package} left no file")))?;
    shown(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&part))?;
    std::fs::rename(&part, dir).map_err(Error::io(dir.display()))
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command
        .env("DEBIAN_FRONTEND", "noninteractive")
        // Where a package brings a service, its start is refused.
        .env("RUNLEVEL", "1");
    command
}

/// Makes sure that Python's installer is there.
///
/// # Errors
/// As [`packages`].
pub fn pip() -> Result<()> {
    match answers("python3", &["-m", "pip", "--version"]) {
        true => Ok(()),
        false => packages(&["python3-pip"]),
    }
}

/// Makes sure that a part of the toolchain (`fmt`, `clippy`) is there.
///
/// # Errors
/// It is not, and rustup cannot install it.
pub fn toolchain_part(command: &str, component: &str) -> Result<()> {
    if answers("cargo", &[command, "--version"]) {
        return Ok(());
    }
    shown(Command::new("rustup").args(["component", "add", component])).map_err(|why| {
        Error::told(format!(
            "cargo {command} is not here ({why}): install {component} with your toolchain"
        ))
    })
}
