//! What etcd's command line programs share: flags, Go's text forms, framed tables, completion, and the ways out.
//!
//! Nothing here knows a command. A program brings its own table of commands and flags; this crate reads
//! the arguments as the original's parser does and writes what scripts expect to see.

pub mod completion;
pub mod examples;
pub mod flags;
pub mod frame;
pub mod gaps;
pub mod gofmt;
pub mod progress;
pub mod report;
mod similar;

pub use similar::similar;
