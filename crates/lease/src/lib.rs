//! Leases: which exist, which keys hang on them, and when each is over.
//!
//! [`Lessor`] is the replicated part: changed by applied requests only, the same on every member.
//! [`Expiry`] is the leader's judgement of time; nothing of it is replicated, and what it decides takes
//! effect by a revocation in the log. Time comes in as an argument; nothing here reads a clock.

mod expiry;
mod lessor;

pub use expiry::{CHECKPOINTS_MAX, Expiry, Renewal, SPREAD_FROM, SPREAD_PER_SECOND};
pub use lessor::{Lessor, Lives, TTL_MAX_SECONDS, View};
