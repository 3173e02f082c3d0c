//! Clients that others wrote, for the tests that run them against Ferrite: the Python libraries `etcd3`,
//! `aetcd` and `etcd3gw`, the Rust crate `etcd-client`, and the `etcdctl` of the distribution.
//!
//! All of it lands in one folder of the build folder; nothing of it is shipped, and nothing that is shipped
//! is built with it. What cannot be had is told and left out: its tests say what its absence means.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::error::{Error, Result};
use crate::run::{answers, cargo, say, shown};
use crate::{root, setup, target_dir};

/// The variable by which the tests find the folder.
pub const VARIABLE: &str = "FERRITE_CLIENTS_DIR";

/// The libraries for Python, each in a folder of its own: they ask for versions that exclude each other.
const PYTHON: [&str; 3] = ["etcd3", "aetcd", "etcd3gw"];

/// The folder with all that could be had: `etcd3`, `aetcd` and `etcd3gw` (folders for `PYTHONPATH`),
/// `with-etcd-client` and `etcdctl` (programs).
///
/// # Errors
/// The folder cannot be made.
pub fn ensure() -> Result<PathBuf> {
    let dir = target_dir().join("clients");
    std::fs::create_dir_all(&dir).map_err(Error::io(dir.display()))?;
    for library in PYTHON {
        told(library, python(library, &dir));
    }
    told("etcd-client", rust(&dir));
    told("etcdctl", etcdctl(&dir));
    Ok(dir)
}

fn told(name: &str, outcome: Result<()>) {
    if let Err(why) = outcome {
        say(&format!("the client {name} cannot be had: {why}"));
    }
}

fn sources() -> PathBuf {
    root().join("crates/testkit/foreign")
}

/// Installs one library, and what it asks for, by the hashes in its list; once for a list and a Python.
fn python(library: &str, dir: &Path) -> Result<()> {
    let list = sources().join("python").join(format!("{library}.txt"));
    let wanted = std::fs::read_to_string(&list).map_err(Error::io(list.display()))?;
    let target = dir.join(library);
    let installed = target.join("installed.txt");
    let imports = |target: &Path| {
        let text = format!("import sys; sys.path.insert(0, sys.argv[1]); import {library}");
        answers("python3", &["-c", &text, &target.to_string_lossy()])
    };
    if std::fs::read_to_string(&installed).is_ok_and(|text| text == wanted) && imports(&target) {
        return Ok(());
    }
    setup::pip()?;
    if target.exists() {
        std::fs::remove_dir_all(&target).map_err(Error::io(target.display()))?;
    }
    shown(
        Command::new("python3")
            .args(["-m", "pip", "install", "--quiet", "--no-deps"])
            .args(["--disable-pip-version-check", "--root-user-action=ignore"])
            .args(["--require-hashes", "--requirement"])
            .arg(&list)
            .arg("--target")
            .arg(&target),
    )?;
    if !imports(&target) {
        return Err(Error::told(format!("python3 cannot import {library}")));
    }
    std::fs::write(&installed, wanted).map_err(Error::io(installed.display()))
}

/// Builds the program that uses the Rust crate. Its build asks for `protoc`, for which ours stands in.
fn rust(dir: &Path) -> Result<()> {
    shown(cargo().args([
        "build",
        "--locked",
        "-p",
        "ferrite-codegen",
        "--bin",
        "protoc",
    ]))?;
    let built = target_dir().join("clients-rust");
    shown(
        cargo()
            .args(["build", "--locked", "--manifest-path"])
            .arg(sources().join("rust/Cargo.toml"))
            .arg("--target-dir")
            .arg(&built)
            .env("PROTOC", target_dir().join("debug/protoc")),
    )?;
    link(&built.join("debug/with-etcd-client"), dir)
}

/// Finds the distribution's `etcdctl`, or installs it.
fn etcdctl(dir: &Path) -> Result<()> {
    if on_path("etcdctl").is_none() {
        setup::packages(&["etcd-client"])?;
    }
    let found = on_path("etcdctl").ok_or_else(|| Error::told("no etcdctl in PATH"))?;
    link(&found, dir)
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join(program))
        .find(|path| path.is_file())
}

/// Puts a program into the folder, by a link of its own name.
fn link(program: &Path, dir: &Path) -> Result<()> {
    let name = program.file_name().unwrap_or(program.as_os_str());
    let here = dir.join(name);
    // One of a run before may be there, and may lead to nothing.
    let _ = std::fs::remove_file(&here);
    symlink(program, &here).map_err(Error::io(here.display()))
}
