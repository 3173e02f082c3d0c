//! What stands before a cluster and holds no data: `etcd gateway` and `etcd grpc-proxy`.
//!
//! This crate knows what is done with connections and calls. Flags, listeners, certificates and the log are
//! the server's business, which runs it.
//!
//! A call to the store passes layers, each of which knows nothing of the others: [`kv`] with its cache,
//! then [`leasing`], then [`namespace`], then [`ordering`], then a member ([`call::Members`]). Watches and leases are shared
//! ([`watch`], [`lease`]); everything else goes to a member as it came ([`services`]).

pub mod cache;
pub mod call;
pub mod cluster;
pub mod kv;
pub mod leader;
pub mod lease;
pub mod leasing;
pub mod namespace;
pub mod ordering;
pub mod services;
pub mod tcp;
pub mod watch;
