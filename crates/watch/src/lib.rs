//! Who is watching what, and how far each watcher has been served.
//!
//! [`matcher`] finds the watchers an event concerns; [`registry`] keeps watchers, their streams and
//! what is queued for them, and decides who is served live and who reads history; [`batch`] is what
//! happened, shared by everybody who is told; [`fragment`] cuts messages that are too large.
//!
//! Nothing here reads a clock, does I/O, draws a random number, blocks or starts a thread. Whoever
//! calls reads history and values from the store, and wakes the streams that are named to it.
//!
//! What holds at every moment: a watcher's stream gets each event of its range from its first
//! revision on exactly once, in revision order, whatever is slow; a progress notice at revision R
//! stands behind every event up to R of the watchers it speaks for.

pub mod batch;
pub mod fragment;
pub mod matcher;
pub mod registry;
mod slab;
pub mod span;

pub use batch::{Batch, Filters, Selection};
pub use fragment::fragments;
pub use matcher::Matcher;
pub use registry::{
    CatchUp, Create, Delivery, Limits, Refusal, Registry, Slice, Stats, StreamId, Work,
};
pub use span::Span;
