//! Users, roles and what they may do.
//!
//! [`Store`] is the replicated part: changed by applied requests only, the same on every member, kept
//! in the buckets `auth`, `authUsers` and `authRoles` with etcd's bytes. [`State`] judges permissions;
//! serving threads read it through a [`View`]. Which token stands for whom is no part of this crate.
//!
//! Nothing here reads a clock or draws a random number: salts come in as arguments.

mod check;
mod error;
pub mod password;
mod span;
mod state;
mod store;

pub use check::Checker;
pub use error::Error;
pub use state::{AuthInfo, Credentials, State, View};
pub use store::{Answer, Store};

/// The user whom nothing is refused as long as it has the role of the same name.
pub const ROOT: &str = "root";
