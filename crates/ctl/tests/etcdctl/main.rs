//! The built program, run the way users run it.

mod common;
mod oracle;
mod program;
mod v2_cluster;
