//! Turns `crates/proto/proto/*.proto` into the Rust code committed under `crates/proto/src/gen`.
//!
//! The result is committed so that a build needs neither `protoc` nor this crate; a test holds the
//! two equal. Messages and service stubs go to separate files, so that the pure crates can have the
//! one without the other.

mod tables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use prost_types::FileDescriptorSet;

/// Packages of the schema, in the order their modules are declared.
pub const PACKAGES: &[&str] = &[
    "authpb",
    "etcdserverpb",
    "grpc.health.v1",
    "leasepb",
    "membershippb",
    "mvccpb",
    "opentelemetry.proto.collector.trace.v1",
    "raftpb",
    "snappb",
    "v3electionpb",
    "v3lockpb",
    "walpb",
];

/// Services that the JSON gateway offers.
const OFFERED: &[&str] = &[
    "etcdserverpb.KV",
    "etcdserverpb.Watch",
    "etcdserverpb.Lease",
    "etcdserverpb.Cluster",
    "etcdserverpb.Maintenance",
    "etcdserverpb.Auth",
    "v3lockpb.Lock",
    "v3electionpb.Election",
];

/// The file with the tables of the JSON gateway.
pub fn tables_file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../gateway/src/gen/tables.rs")
}

/// Root of the `proto` crate.
pub fn proto_crate() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../proto")
}

fn compile() -> Result<FileDescriptorSet, Box<dyn std::error::Error>> {
    let dir = proto_crate().join("proto");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&dir)?
        .map(|entry| entry.map(|e| e.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|ext| ext == "proto"));
    files.sort();
    Ok(protox::compile(&files, [&dir])?)
}

/// Generates the tables of the JSON gateway: its calls, and the messages that they are made of.
///
/// # Errors
/// A `.proto` file that does not compile or cannot be read, or a type that the gateway does not know.
pub fn generate_tables() -> Result<String, Box<dyn std::error::Error>> {
    tables::generate(&compile()?, OFFERED)
}

/// Generates every file: name below `src/gen` to content.
///
/// # Errors
/// A `.proto` file that does not compile, or a file that cannot be read or written.
pub fn generate(scratch: &Path) -> Result<BTreeMap<String, String>, Box<dyn std::error::Error>> {
    let descriptors = compile()?;

    let messages = scratch.join("messages");
    std::fs::create_dir_all(&messages)?;
    prost_build::Config::new()
        .bytes(["."])
        .out_dir(&messages)
        .compile_fds(descriptors.clone())?;

    let services = scratch.join("services");
    std::fs::create_dir_all(&services)?;
    let mut builder = tonic_prost_build::configure()
        .build_transport(false)
        .out_dir(&services);
    for package in PACKAGES {
        builder = builder.extern_path(
            format!(".{package}"),
            format!("crate::{}", package.replace('.', "_")),
        );
    }
    builder.compile_fds(descriptors)?;

    let mut out = BTreeMap::new();
    for (from, suffix) in [(&messages, ""), (&services, ".grpc")] {
        for entry in std::fs::read_dir(from)? {
            let path = entry?.path();
            let stem = path
                .file_stem()
                .and_then(|s| s.to_str())
                .ok_or("a file name that is not text")?;
            let text = std::fs::read_to_string(&path)?;
            if text
                .lines()
                .all(|line| line.starts_with("//") || line.trim().is_empty())
            {
                continue;
            }
            out.insert(format!("{}{suffix}.rs", stem.replace('.', "_")), text);
        }
    }
    Ok(out)
}
