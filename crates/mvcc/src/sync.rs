//! The lock of the buffer, under one name: `crates/shuttled` compiles that file with another in its place, which
//! tries one order of the threads after another.

pub use std::sync::Arc;

pub use parking_lot::RwLock;
