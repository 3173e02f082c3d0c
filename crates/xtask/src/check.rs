//! Formatting, lints and docs. [`check`] never writes to the source; [`fix`] may.

use crate::error::{Error, Result};
use crate::run::{cargo, say, shown};
use crate::setup;

/// Runs every check and names all that failed, not only the first.
///
/// # Errors
/// One of them failed; each has shown why.
pub fn check() -> Result<()> {
    setup::toolchain_part("fmt", "rustfmt")?;
    setup::toolchain_part("clippy", "clippy")?;
    let steps: [(&str, &[&str]); 4] = [
        ("formatting", &["fmt", "--all", "--check"]),
        (
            "lints",
            &[
                "clippy",
                "--locked",
                "--workspace",
                "--all-targets",
                "--",
                "-D",
                "warnings",
            ],
        ),
        ("docs", &["doc", "--locked", "--workspace", "--no-deps"]),
        (
            "house rules",
            &[
                "test", "--quiet", "--locked", "-p", "xtask", "--test", "tidy",
            ],
        ),
    ];
    let mut failed = Vec::new();
    for (name, words) in steps {
        if let Err(why) = shown(cargo().args(words).env("RUSTDOCFLAGS", "-D warnings")) {
            say(&format!("{name}: {why}"));
            failed.push(name);
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(Error::told(format!(
            "failed: {}. `cargo xtask fix` mends what a program can mend",
            failed.join(", ")
        ))),
    }
}

/// Formats the source and applies the lints' own suggestions.
///
/// # Errors
/// One of the tools fails.
pub fn fix() -> Result<()> {
    setup::toolchain_part("fmt", "rustfmt")?;
    setup::toolchain_part("clippy", "clippy")?;
    shown(cargo().args([
        "clippy",
        "--fix",
        "--allow-dirty",
        "--allow-staged",
        "--workspace",
        "--all-targets",
    ]))?;
    shown(cargo().args(["fmt", "--all"]))
}
