//! Where the programs are, and how they get built when they are not given.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::report::say;
use crate::run;

/// The three programs of the project.
pub const PROGRAMS: [&str; 3] = ["etcd", "etcdctl", "etcdutl"];

/// A build from nothing on a slow machine.
const BUILD_LIMIT: Duration = Duration::from_secs(3600);

/// The root of the source tree: the workspace that has this crate in it.
///
/// # Errors
/// Neither cargo's environment nor the current directory is inside the source tree.
pub fn root() -> Result<PathBuf> {
    let from_cargo = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let here = std::env::current_dir().ok();
    for start in from_cargo.into_iter().chain(here) {
        for dir in start.ancestors() {
            if dir.join("crates/dev/Cargo.toml").is_file()
                && dir.join("docker-compose.yml").is_file()
            {
                return Ok(dir.to_owned());
            }
        }
    }
    Err(Error::told(
        "this command works inside the source tree: change to the clone's folder and try again",
    ))
}

/// Cargo's output folder of the tree at `root`.
pub fn target_dir(root: &Path) -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root.join(dir),
        None => root.join("target"),
    }
}

/// The folder that holds the programs: `given` if one was given, else the release build of this tree,
/// brought up to date by cargo.
///
/// # Errors
/// A program is missing in the given folder, or the build fails.
pub fn locate(given: Option<&Path>) -> Result<PathBuf> {
    let dir = match given {
        Some(dir) => std::path::absolute(dir).map_err(Error::io(dir.display()))?,
        None => {
            let root = root()?;
            build(&root)?;
            target_dir(&root).join("release")
        }
    };
    for program in PROGRAMS {
        if !dir.join(program).is_file() {
            return Err(Error::told(format!(
                "no program {program} in {}: build it with `cargo build --release --workspace --bins --locked`, \
                 or name the right folder with --bin-dir",
                dir.display()
            )));
        }
    }
    Ok(dir)
}

fn build(root: &Path) -> Result<()> {
    say("building the programs (cargo build --release --workspace --bins --locked) …");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(root)
        .args(["build", "--release", "--workspace", "--bins", "--locked"]);
    run::run_visibly(&mut command, BUILD_LIMIT)
}
