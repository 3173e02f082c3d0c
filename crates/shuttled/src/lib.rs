//! The files in which threads of a member meet, compiled once more with locks, counters and locals of `shuttle`,
//! which runs the threads of a test one at a time and tries one order of them after another.
//!
//! It is the production source that is compiled here, each file by its path. They take their locks from
//! `crate::sync`, and that is the only thing that differs. A crate of its own, not a feature: a feature would
//! be switched on for everything that is built beside it.
//!
//! What keeps to one thread or takes no lock that could be waited for (the stages, the store, the log) is the
//! crates' own.

pub mod sync;

#[path = "../../node/src/queue.rs"]
pub mod queue;

#[path = "../../node/src/port.rs"]
pub mod port;

#[path = "../../node/src/wait.rs"]
pub mod wait;

#[path = "../../node/src/watch_hub.rs"]
pub mod watch_hub;

#[path = "../../mvcc/src/backend.rs"]
#[expect(dead_code, reason = "the rest of the store uses all of it")]
pub mod backend;

#[path = "../../mvcc/src/file.rs"]
pub mod file;

#[path = "../../mvcc/src/schema.rs"]
#[allow(dead_code, reason = "the rest of the store uses all of it")]
pub mod schema;

pub mod threads;

pub use ferrite_node::{snapshot, stage};
