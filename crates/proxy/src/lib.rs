//! What stands before a cluster and holds no data: `etcd gateway` and `etcd grpc-proxy`.
//!
//! This crate knows what is done with connections and calls. Flags, listeners, certificates and the log are
//! the server's business, which runs it.

pub mod tcp;
