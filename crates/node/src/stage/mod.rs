//! The stages of the driver: inputs in, effects out.
//!
//! A stage never blocks, waits, locks, spawns or reads a clock; whatever must be done to the world
//! it hands out as an effect, and learns of its completion as an input. The threads in
//! [`crate::threads`] run the stages in production, a seeded scheduler runs the same code in tests.

pub mod apply;
pub mod commit;
pub mod log;
pub mod raft;
