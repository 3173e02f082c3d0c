//! The commands. Each checks its arguments, makes its calls and prints; none decides how to connect.

pub mod auth;
pub mod check;
pub mod completion;
pub mod downgrade;
pub mod drill;
pub mod elect;
pub mod endpoint;
pub mod kv;
pub mod lease;
pub mod lock;
pub mod maintenance;
pub mod member;
pub mod mirror;
pub mod role;
pub mod top;
pub mod txn;
pub mod user;
pub mod watch;

use crate::exit::{self, Failure};

/// The words after a command.
pub type Words = [Vec<u8>];

/// A word as text, for numbers and names that are not bytes to the server.
pub fn text(word: &[u8]) -> String {
    String::from_utf8_lossy(word).into_owned()
}

/// Reads `--consistency`: true means serializable.
pub fn serializable(option: &str) -> Result<bool, Failure> {
    match option {
        "l" => Ok(false),
        "s" => Ok(true),
        other => Err(Failure::new(
            exit::BAD_FEATURE,
            format!(
                "unknown consistency flag {}",
                crate::gofmt::quote(other.as_bytes())
            ),
        )),
    }
}
