//! Tokens that carry their own proof: JSON web tokens as etcd's `--auth-token jwt,…` signs and accepts
//! them.
//!
//! The crate owns the flag's options, the key files, and the compact form (RFC 7515). Time is handed in,
//! and whom a token's user may do what is not its concern. It never logs: what a caller should log is in
//! [`Error::reason`] and [`jwt::Jwt::unknown_options`].

mod duration;
mod error;
pub mod jwt;
mod keys;
mod method;
mod options;

pub use error::Error;
