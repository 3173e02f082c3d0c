//! The project's chores: what CI runs and what a contributor types. See `CONTRIBUTING.md`.
//!
//! - [`check`]: formatting, lints, docs; [`check::fix`] is its writing twin.
//! - [`deny`]: licences, bans, sources of what we depend on.
//! - [`suite`]: the whole test suite, over [`oracle`] (the original's programs to compare with),
//!   [`clients`] (clients that others wrote) and [`programs`] (ours); [`built`] holds the test programs, [`rerun`] what a second run of a test means.
//! - [`broken`]: known mistakes made again, each of which a test has to notice.
//! - [`package`]: what is shipped: a Debian package, a tar, a container image.
//! - below them: [`run`] (child processes), [`setup`] (installing what a bare machine lacks), [`tally`].
//!
//! The rules that the source itself must keep are tests: `tests/tidy.rs`. Nothing here is shipped, and
//! nothing here may know how a member works: that is for the tests it starts.

pub mod broken;
pub mod built;
pub mod check;
pub mod clients;
pub mod deny;
pub mod error;
pub mod oracle;
pub mod package;
pub mod programs;
pub mod rerun;
pub mod run;
pub mod setup;
pub mod suite;
pub mod tally;

use std::path::{Path, PathBuf};

/// The root of the source tree.
#[must_use]
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}

/// Cargo's output folder.
#[must_use]
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => root().join(dir),
        None => root().join("target"),
    }
}

/// Whether this is a run whose gaps count as failures.
#[must_use]
pub fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}
