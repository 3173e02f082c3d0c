//! Messages of etcd's wire and disk formats.
//!
//! The schema under `proto/` restates etcd's field names and numbers; the code under `src/gen` is
//! generated from it by `ferrite-codegen` and committed. Bytes are [`bytes::Bytes`]: decoding keeps
//! slices of the buffer it read from, so whoever stores a key or value for long copies it first.
//!
//! The Rust names are snake case throughout (`peer_urls`); the name etcd's JSON uses (`peerURLs`)
//! stands in the schema as `json_name`.
#![allow(missing_docs, clippy::all)] // generated code carries no comments of its own

pub mod loggable;

/// Users, roles and permissions.
pub mod authpb {
    include!("gen/authpb.rs");
}

/// The client API, and the requests that travel through the raft log.
pub mod etcdserverpb {
    include!("gen/etcdserverpb.rs");
    #[cfg(feature = "grpc")]
    include!("gen/etcdserverpb.grpc.rs");
}

/// gRPC health checking.
pub mod grpc_health_v1 {
    include!("gen/grpc_health_v1.rs");
    #[cfg(feature = "grpc")]
    include!("gen/grpc_health_v1.grpc.rs");
}

/// Leases at rest and between members.
pub mod leasepb {
    include!("gen/leasepb.rs");
}

/// Replicated requests about the cluster itself.
pub mod membershippb {
    include!("gen/membershippb.rs");
}

/// Key-value pairs and events.
pub mod mvccpb {
    include!("gen/mvccpb.rs");
}

/// Spans, as a collector of OpenTelemetry's protocol takes them.
pub mod opentelemetry_proto_collector_trace_v1 {
    include!("gen/opentelemetry_proto_collector_trace_v1.rs");
    #[cfg(feature = "grpc")]
    include!("gen/opentelemetry_proto_collector_trace_v1.grpc.rs");
}

/// Raft messages, log entries and state.
pub mod raftpb {
    include!("gen/raftpb.rs");
}

/// The envelope of a `.snap` file.
pub mod snappb {
    include!("gen/snappb.rs");
}

/// Elections as a service.
pub mod v3electionpb {
    include!("gen/v3electionpb.rs");
    #[cfg(feature = "grpc")]
    include!("gen/v3electionpb.grpc.rs");
}

/// Locks as a service.
pub mod v3lockpb {
    include!("gen/v3lockpb.rs");
    #[cfg(feature = "grpc")]
    include!("gen/v3lockpb.grpc.rs");
}

/// Records of the write-ahead log.
pub mod walpb {
    include!("gen/walpb.rs");
}
