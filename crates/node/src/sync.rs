//! Locks, counters and locals of threads, under one name: `crates/shuttled` compiles the files that take them
//! from here with others in their place, which try one order of the threads after another.

pub use std::sync::Arc;
pub use std::sync::atomic::{AtomicU64, Ordering};
pub use std::thread_local;

pub use parking_lot::{Condvar, Mutex};
