//! The server: flags, logs, listeners, services around one [`ferrite_node::Node`].

pub mod auth;
pub mod config;
pub mod conn;
pub mod errors;
pub mod features;
pub mod flags;
pub mod http;
pub mod listen;
pub mod log;
pub mod memory;
pub mod metrics;
pub mod readdress;
pub mod run;
pub mod serve;
pub mod service;
pub mod tls;
