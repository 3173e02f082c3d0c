//! The built program, run the way users run it.

mod auth;
mod bad_input;
mod check;
mod common;
mod debian;
mod discovery;
mod drill;
mod endpoint;
mod lock;
mod maintenance;
mod mirror;
mod oracle;
mod program;
mod top;
mod v2_cluster;
mod watch;
