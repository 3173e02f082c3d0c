//! What the JSON gateway knows without asking anybody: which path stands for which call, how JSON becomes
//! the bytes of a message and the bytes JSON again, which codes of gRPC become which of HTTP, and the frames
//! of a WebSocket.
//!
//! Messages are turned by tables that are generated from the schema, never by way of Rust's types. Reading
//! follows Go's `encoding/json` and `protojson`, whose words clients see when they send nonsense. Nothing
//! here reads, writes or waits; that is the server's part.

mod decode;
mod encode;
mod metadata;
mod number;
mod routes;
mod scan;
mod schema;
mod status;
mod text;
pub mod websocket;

pub use decode::to_message;
pub use encode::{Form, to_json};
pub use metadata::{Metadata, Refused, metadata_of, timeout};
pub use routes::{Route, find, routes};
pub use scan::{Broken, Values};
pub use schema::{Enum, Field, Kind, Message, Method};
pub use status::{Line, error_body, error_line, http_status};

/// How deep messages may stand in each other: as deep as their bytes are read.
const DEPTH_MAX: usize = 100;
