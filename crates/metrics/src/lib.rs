//! What a member counts, and how it looks to Prometheus.
//!
//! Whoever makes something happen adds to a cell of [`Metrics`]; whoever is asked gathers a [`Page`] and writes it
//! out. [`table`] has every family once: its name, its help, its kind, its buckets. Adding costs a relaxed atomic
//! operation or two, on a line of memory that no other busy thread writes: no lock, no search for a label by its
//! text. This crate reads no clock, no file and no socket: durations are handed in.

pub mod cells;
pub mod grpc;
pub mod page;
mod proto;
pub mod table;

pub use cells::{Counter, Gauge, Histogram, Labelled, Rare, Sharded};
pub use page::{Family, Kind, Label, Page};
pub use table::{Metrics, Operation};
