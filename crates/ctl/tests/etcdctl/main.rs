//! The built program, run the way users run it.

mod auth;
mod check;
mod common;
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
