//! Our own programs, built once for everything that starts them.

use std::path::PathBuf;

use crate::error::Result;
use crate::run::{cargo, shown};
use crate::target_dir;

/// What the tests and the walkthrough start.
const PACKAGES: [&str; 4] = [
    "ferrite-server",
    "ferrite-ctl",
    "ferrite-utl",
    "ferrite-dev",
];

/// Builds the programs for release; the folder they are in.
///
/// # Errors
/// The build fails.
pub fn build() -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--release", "--locked", "--bins"]);
    for package in PACKAGES {
        build.args(["--package", package]);
    }
    shown(&mut build)?;
    Ok(target_dir().join("release"))
}
