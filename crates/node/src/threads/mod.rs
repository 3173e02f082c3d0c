//! The threads of a node: each a loop over one stage and the executor of its effects.
//!
//! raft (no file is touched there) · wal (writes and fsyncs whole batches) · apply (state machine) ·
//! commit (database file). Between them go batches, one wake-up each.

pub mod apply;
pub mod commit;
pub mod heartbeats;
pub mod raft;
pub mod wal;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What happens when a thread cannot go on: called once with the reason; the process is to end.
#[derive(Clone)]
pub struct OnFatal {
    hook: Arc<dyn Fn(String) + Send + Sync>,
    called: Arc<AtomicBool>,
}

impl OnFatal {
    /// Wraps the hook.
    pub fn new(hook: impl Fn(String) + Send + Sync + 'static) -> Self {
        OnFatal {
            hook: Arc::new(hook),
            called: Arc::new(AtomicBool::new(false)),
        }
    }

    /// Reports a reason; only the first is passed on.
    pub fn report(&self, reason: impl std::fmt::Display) {
        if !self.called.swap(true, Ordering::AcqRel) {
            (self.hook)(reason.to_string());
        }
    }
}
