//! Licences, bans and sources of what we depend on, by cargo-deny; the rules are in `deny.toml`.

use crate::error::Result;
use crate::run::{answers, cargo, say, shown};

/// The version that is installed where none is; pinned, since a newer one may ask for a newer compiler.
const VERSION: &str = "0.20.2";

/// Checks the dependencies.
///
/// # Errors
/// A rule is broken, or cargo-deny cannot be installed.
pub fn deny() -> Result<()> {
    if !answers("cargo", &["deny", "--version"]) {
        // Unoptimised: it is built in a third of the time and runs for a second.
        shown(
            cargo()
                .env("CARGO_PROFILE_DEV_DEBUG", "0")
                .args(["install", "--locked", "--debug", "--quiet"])
                .args(["cargo-deny", "--version", VERSION]),
        )?;
    }
    say(
        "known vulnerabilities are not looked up here: their list is fetched by git from a host of its own \
         (`cargo deny check advisories` does it, where that is reached)",
    );
    shown(cargo().args(["deny", "--locked", "check", "bans", "licenses", "sources"]))
}
