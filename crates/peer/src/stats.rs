//! Counters of the transport, read as a snapshot by whoever turns them into metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// A histogram with doubling buckets.
#[derive(Debug)]
pub(crate) struct Histogram {
    first_bound: f64,
    buckets: Box<[AtomicU64]>,
    sum_nanos: AtomicU64,
}

impl Histogram {
    fn new(first_bound: f64, buckets: usize) -> Histogram {
        Histogram {
            first_bound,
            buckets: (0..=buckets).map(|_| AtomicU64::new(0)).collect(),
            sum_nanos: AtomicU64::new(0),
        }
    }

    pub(crate) fn observe(&self, value: Duration) {
        let seconds = value.as_secs_f64();
        let mut bound = self.first_bound;
        let last = self.buckets.len() - 1;
        let mut at = 0;
        while at < last && seconds > bound {
            at += 1;
            bound *= 2.0;
        }
        if let Some(bucket) = self.buckets.get(at) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        self.sum_nanos
            .fetch_add(value.as_nanos() as u64, Ordering::Relaxed);
    }

    fn snapshot(&self) -> HistogramSnapshot {
        let mut bound = self.first_bound;
        let mut count = 0;
        let mut buckets = Vec::with_capacity(self.buckets.len() - 1);
        for (i, bucket) in self.buckets.iter().enumerate() {
            count += bucket.load(Ordering::Relaxed);
            if i + 1 < self.buckets.len() {
                buckets.push((bound, count));
                bound *= 2.0;
            }
        }
        HistogramSnapshot {
            buckets,
            count,
            sum: self.sum_nanos.load(Ordering::Relaxed) as f64 / 1e9,
        }
    }
}

/// A histogram at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HistogramSnapshot {
    /// Upper bound in seconds and cumulative count, ascending, without +Inf.
    pub buckets: Vec<(f64, u64)>,
    /// All observations.
    pub count: u64,
    /// Their sum in seconds.
    pub sum: f64,
}

/// Counters of one member; they outlive its removal.
#[derive(Debug)]
pub(crate) struct Counters {
    pub(crate) sent_bytes: AtomicU64,
    pub(crate) received_bytes: AtomicU64,
    pub(crate) sent_failures: AtomicU64,
    pub(crate) received_failures: AtomicU64,
    pub(crate) disconnected: AtomicU64,
    pub(crate) snapshot_send_success: AtomicU64,
    pub(crate) snapshot_send_failures: AtomicU64,
    pub(crate) snapshot_send_inflight: AtomicU64,
    pub(crate) snapshot_send_seconds: Histogram,
    pub(crate) snapshot_receive_success: AtomicU64,
    pub(crate) snapshot_receive_failures: AtomicU64,
    pub(crate) snapshot_receive_inflight: AtomicU64,
    pub(crate) snapshot_receive_seconds: Histogram,
    pub(crate) rtt_seconds: Histogram,
}

impl Default for Counters {
    fn default() -> Counters {
        let zero = || AtomicU64::new(0);
        Counters {
            sent_bytes: zero(),
            received_bytes: zero(),
            sent_failures: zero(),
            received_failures: zero(),
            disconnected: zero(),
            snapshot_send_success: zero(),
            snapshot_send_failures: zero(),
            snapshot_send_inflight: zero(),
            snapshot_send_seconds: Histogram::new(0.1, 10),
            snapshot_receive_success: zero(),
            snapshot_receive_failures: zero(),
            snapshot_receive_inflight: zero(),
            snapshot_receive_seconds: Histogram::new(0.1, 10),
            rtt_seconds: Histogram::new(0.0001, 16),
        }
    }
}

/// Adds one and, when dropped, takes it back.
pub(crate) struct Inflight {
    counters: Arc<Counters>,
    pick: fn(&Counters) -> &AtomicU64,
}

impl Inflight {
    pub(crate) fn new(counters: Arc<Counters>, pick: fn(&Counters) -> &AtomicU64) -> Inflight {
        pick(&counters).fetch_add(1, Ordering::Relaxed);
        Inflight { counters, pick }
    }
}

impl Drop for Inflight {
    fn drop(&mut self) {
        (self.pick)(&self.counters).fetch_sub(1, Ordering::Relaxed);
    }
}

pub(crate) fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

/// What is known about one other member.
#[derive(Clone, Debug, Default)]
pub struct PeerStats {
    /// The member's ID.
    pub id: u64,
    /// Whether it is a peer now (and not a removed member or a mere remote).
    pub is_peer: bool,
    /// Whether messages get through (`etcd_network_active_peers`).
    pub active: bool,
    /// Since when.
    pub active_since: Option<Instant>,
    /// How often it was lost (`etcd_network_disconnected_peers_total`).
    pub disconnected: u64,
    /// Bytes of messages and databases sent (`etcd_network_peer_sent_bytes_total`).
    pub sent_bytes: u64,
    /// Bytes of messages and databases received (`etcd_network_peer_received_bytes_total`).
    pub received_bytes: u64,
    /// Messages that could not be sent (`etcd_network_peer_sent_failures_total`).
    pub sent_failures: u64,
    /// Messages that could not be received (`etcd_network_peer_received_failures_total`).
    pub received_failures: u64,
    /// Messages waiting to be sent, on all channels.
    pub queued: usize,
    /// Smoothed round-trip time of the probes.
    pub rtt: Option<Duration>,
    /// Round-trip times (`etcd_network_peer_round_trip_time_seconds`).
    pub rtt_seconds: HistogramSnapshot,
    /// Databases sent (`etcd_network_snapshot_send_success`).
    pub snapshot_send_success: u64,
    /// Databases not sent (`etcd_network_snapshot_send_failures`).
    pub snapshot_send_failures: u64,
    /// Databases being sent (`etcd_network_snapshot_send_inflights_total`).
    pub snapshot_send_inflight: u64,
    /// How long it took (`etcd_network_snapshot_send_total_duration_seconds`).
    pub snapshot_send_seconds: HistogramSnapshot,
    /// Databases received (`etcd_network_snapshot_receive_success`).
    pub snapshot_receive_success: u64,
    /// Databases refused or cut off (`etcd_network_snapshot_receive_failures`).
    pub snapshot_receive_failures: u64,
    /// Databases being received (`etcd_network_snapshot_receive_inflights_total`).
    pub snapshot_receive_inflight: u64,
    /// How long it took (`etcd_network_snapshot_receive_total_duration_seconds`).
    pub snapshot_receive_seconds: HistogramSnapshot,
}

impl PeerStats {
    pub(crate) fn from_counters(id: u64, c: &Counters) -> PeerStats {
        let get = |a: &AtomicU64| a.load(Ordering::Relaxed);
        PeerStats {
            id,
            disconnected: get(&c.disconnected),
            sent_bytes: get(&c.sent_bytes),
            received_bytes: get(&c.received_bytes),
            sent_failures: get(&c.sent_failures),
            received_failures: get(&c.received_failures),
            rtt_seconds: c.rtt_seconds.snapshot(),
            snapshot_send_success: get(&c.snapshot_send_success),
            snapshot_send_failures: get(&c.snapshot_send_failures),
            snapshot_send_inflight: get(&c.snapshot_send_inflight),
            snapshot_send_seconds: c.snapshot_send_seconds.snapshot(),
            snapshot_receive_success: get(&c.snapshot_receive_success),
            snapshot_receive_failures: get(&c.snapshot_receive_failures),
            snapshot_receive_inflight: get(&c.snapshot_receive_inflight),
            snapshot_receive_seconds: c.snapshot_receive_seconds.snapshot(),
            ..PeerStats::default()
        }
    }
}

/// What the transport has counted so far.
#[derive(Clone, Debug, Default)]
pub struct TransportStats {
    /// One entry for each member ever talked to, by ID.
    pub members: Vec<PeerStats>,
    /// Requests that failed before their sender was known (etcd labels them by address, or `UNKNOWN_SNAPSHOT_SENDER`).
    pub unknown_received_failures: u64,
    /// Of these, snapshot requests.
    pub unknown_snapshot_receive_failures: u64,
}

/// A log line at most once a second, with the number of those left out.
#[derive(Debug, Default)]
pub(crate) struct RateLimited {
    state: Mutex<(Option<Instant>, u64)>,
}

impl RateLimited {
    /// `Some(left out since the last line)` when a line may be written now.
    pub(crate) fn allow(&self) -> Option<u64> {
        let now = Instant::now();
        let mut state = self.state.lock();
        if state
            .0
            .is_some_and(|last| now.duration_since(last) < Duration::from_secs(1))
        {
            state.1 += 1;
            return None;
        }
        state.0 = Some(now);
        Some(std::mem::take(&mut state.1))
    }
}
