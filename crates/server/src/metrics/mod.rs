//! `/metrics`: what the member has counted, with what it is asked for at that moment.
//!
//! Counting is done where things happen ([`ferrite_metrics`]); here it is only looked at. No lock that a request
//! needs is held while a page is written.

pub mod calls;
mod gather;
mod process;
mod respond;

use std::time::Instant;

use ferrite_metrics::Operation;
use ferrite_node::Node;

use crate::features::{Features, GATES};

pub use gather::page;
pub use process::gather as process;
pub use respond::{respond, respond_with};

/// Where the page is.
pub const PATH: &str = "/metrics";
/// The value of `--metrics` with which the time of calls is counted too.
pub const EXTENSIVE: &str = "extensive";

/// What stays as it is from the start on.
pub fn prepare(node: &Node, features: &Features, level: &str) {
    let metrics = node.metrics();
    if level == EXTENSIVE {
        metrics.calls.time();
    }
    for spec in GATES {
        let on = features.enabled(spec.gate);
        metrics
            .features
            .set(&[spec.name, spec.stage.name()], on.into());
    }
}

/// A read on its way. Counted when it is dropped, as failed unless it was said to have succeeded.
pub struct Reading<'a> {
    node: &'a Node,
    operation: Operation,
    started: Instant,
    succeeded: bool,
}

impl<'a> Reading<'a> {
    /// It begins.
    pub fn begin(node: &'a Node, operation: Operation) -> Self {
        Reading {
            node,
            operation,
            started: Instant::now(),
            succeeded: false,
        }
    }

    /// It has succeeded.
    pub fn succeeded(mut self) {
        self.succeeded = true;
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        let took = self.started.elapsed();
        let metrics = self.node.metrics();
        metrics
            .request
            .observe(self.operation, self.succeeded, took);
        if took > self.node.config().warn_apply {
            metrics.slow_applies.inc();
        }
    }
}
