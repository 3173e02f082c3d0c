//! Whether a peer can be reached, as the log and the membership checks see it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::logfmt::hex;
use crate::stats::Counters;

/// State of the connection to one member. Changes are logged once each and wake the probers and the dialling
/// streams, so that a loss is named, and a return used, without waiting for a timer.
pub(crate) struct PeerStatus {
    id: u64,
    since: Mutex<Option<Instant>>,
    /// What failed last, while the member is not reached.
    error: Mutex<Option<String>>,
    changes: watch::Sender<u64>,
    counters: Arc<Counters>,
    pokes: AtomicU64,
}

impl PeerStatus {
    pub(crate) fn new(id: u64, counters: Arc<Counters>) -> PeerStatus {
        PeerStatus {
            id,
            since: Mutex::new(None),
            error: Mutex::new(None),
            changes: watch::Sender::new(0),
            counters,
            pokes: AtomicU64::new(0),
        }
    }

    pub(crate) fn activate(&self) {
        let mut since = self.since.lock();
        if since.is_none() {
            *since = Some(Instant::now());
            *self.error.lock() = None;
            tracing::info!("peer-id" = hex(self.id), "peer became active");
            drop(since);
            self.poke();
        }
    }

    /// `source` and `action` name what failed, in etcd's words.
    pub(crate) fn deactivate(&self, source: &str, action: &str, reason: &str) {
        let error = || format!("failed to {action} {} on {source} ({reason})", hex(self.id));
        let mut since = self.since.lock();
        *self.error.lock() = Some(reason.to_owned());
        if since.take().is_some() {
            tracing::warn!(
                "peer-id" = hex(self.id),
                error = error(),
                "peer became inactive (message send to peer failed)"
            );
            drop(since);
            self.counters.disconnected.fetch_add(1, Ordering::Relaxed);
            self.poke();
        } else {
            tracing::debug!(
                "peer-id" = hex(self.id),
                error = error(),
                "peer deactivated again"
            );
        }
    }

    /// Wakes whoever waits for a change: something happened that makes a new look worthwhile.
    pub(crate) fn poke(&self) {
        let n = self.pokes.fetch_add(1, Ordering::Relaxed);
        self.changes.send_replace(n + 1);
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn is_active(&self) -> bool {
        self.since.lock().is_some()
    }

    pub(crate) fn last_error(&self) -> Option<String> {
        self.error.lock().clone()
    }

    pub(crate) fn active_since(&self) -> Option<Instant> {
        *self.since.lock()
    }
}
