//! Installs what a bare machine lacks: Debian packages and parts of the Rust toolchain.
//!
//! Only ever called for what is missing, and says what it installs.

use std::process::{Command, Stdio};
use std::sync::Once;

use crate::error::{Error, Result};
use crate::run::{answers, say, shown};

/// Installs Debian packages. No service is started by it.
///
/// # Errors
/// This is no Debian, we are not root, or the packages cannot be had.
pub fn packages(names: &[&str]) -> Result<()> {
    static LISTS: Once = Once::new();
    say(&format!("installing {} (apt-get)", names.join(" ")));
    if !answers("apt-get", &["--version"]) {
        return Err(Error::told(format!(
            "apt-get is not here: install {} by hand",
            names.join(", ")
        )));
    }
    LISTS.call_once(|| {
        // A stale list may still do; the installation tells.
        let _ = shown(apt().args(["update", "--quiet"]).stdout(Stdio::null()));
    });
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
