//! How rough a simulation is: drawn from the seed, so that seeds differ in kind and not in detail only.

use std::collections::BTreeMap;

use crate::prng::Prng;

/// Rates are per thousand, times in microseconds.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How long faults go on.
    pub rough_us: u64,
    /// Least delay of a message.
    pub delay_min_us: u64,
    /// Largest delay of a message.
    pub delay_max_us: u64,
    /// Messages lost.
    pub loss: u64,
    /// Messages that arrive twice.
    pub duplicate: u64,
    /// Messages delayed ten times as long.
    pub straggle: u64,
    /// Largest duration of an fsync.
    pub sync_max_us: u64,
    /// Fsyncs that stall for seconds.
    pub stall: u64,
    /// Mean time between two faults.
    pub fault_every_us: u64,
    /// Weights of the kinds of fault.
    pub weights: [u64; FAULTS],
    /// Clients.
    pub clients: usize,
    /// Keys they use.
    pub keys: u64,
    /// Longest pause of a client between two requests.
    pub think_us: u64,
    /// Entries between two `.snap` files.
    pub snapshot_count: u64,
    /// Entries kept for followers that lag.
    pub catchup_entries: u64,
    /// Longest time between commits of the database.
    pub batch_interval_us: u64,
    /// Bytes after which a batch is frozen, and at twice that many apply waits.
    pub batch_bytes: usize,
    /// Pages of the database in memory: when there are few, serving reads the disk.
    pub cache_bytes: usize,
    /// Length of a log segment.
    pub segment_bytes: u64,
    /// Members that crash just after they have voted, to come back at once.
    pub ambush: u64,
    /// Whether members ask before they stand for election.
    pub pre_vote: bool,
    /// Members that found the cluster.
    pub founders: usize,
    /// Pause between two acts of the operator; none for a cluster that is left alone.
    pub operate_us: Option<u64>,
    /// Whether the operator adds and removes members.
    pub reconfigures: bool,
    /// Whether the operator makes users and switches authentication.
    pub auth: bool,
    /// How long a token lives without being used.
    pub token_ttl_us: u64,
    /// Whether the operator begins and ends downgrades.
    pub downgrades: bool,
    /// Bytes that the database may have, if there is a limit.
    pub quota_bytes: Option<u64>,
    /// How far a clock may be off, per thousand.
    pub drift: u64,
    /// Clients that hold leases.
    pub lease_clients: usize,
    /// Whether leaders write down what is left of leases.
    pub checkpoints: bool,
    /// Watchers.
    pub watchers: usize,
    /// Responses that may wait for a watcher.
    pub watch_queue: usize,
    /// Whether transactions compare revisions, of which a history of values knows nothing.
    pub compares_revisions: bool,
    /// Keys of a slice of compaction.
    pub compaction_slice: usize,
}

/// Number of kinds of fault.
pub const FAULTS: usize = 16;

/// Something that goes wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The process is killed now; the disk keeps what was written.
    Kill,
    /// The power goes now; what was not synced may be lost or torn.
    PowerCut,
    /// As one of these two, after some more effects.
    CrashAtEffect,
    /// As one of these two, in the middle of some file operation soon.
    CrashAtWrite,
    /// All members at once lose power.
    Blackout,
    /// The network falls in two.
    Partition,
    /// A link is cut in one direction.
    OneWay,
    /// All links are whole again.
    Heal,
    /// A member stands still for a while.
    Pause,
    /// Some links are cut in both directions, whoever they connect.
    Partial,
    /// A link gets slow.
    SlowLink,
    /// A member's clock leaps ahead.
    Jump,
    /// A member's disk is full.
    FullDisk,
    /// A member is killed, and a bit of its log flips while it is down.
    FlipLog,
    /// As that, with a bit of the header of its database.
    FlipDatabase,
    /// A member's disk cannot read a few times, and then can again.
    BadReads,
}

const KINDS: [Fault; FAULTS] = [
    Fault::Kill,
    Fault::PowerCut,
    Fault::CrashAtEffect,
    Fault::CrashAtWrite,
    Fault::Blackout,
    Fault::Partition,
    Fault::OneWay,
    Fault::Heal,
    Fault::Pause,
    Fault::Partial,
    Fault::SlowLink,
    Fault::Jump,
    Fault::FullDisk,
    Fault::FlipLog,
    Fault::FlipDatabase,
    Fault::BadReads,
];

impl Plan {
    /// Draws a plan.
    pub fn draw(rng: &mut Prng) -> Plan {
        let mut weights = [0; FAULTS];
        for weight in &mut weights {
            // Every kind is missing from some plans: what is always there hides what it prevents.
            *weight = if rng.per_mille(300) {
                0
            } else {
                rng.range(1, 10)
            };
        }
        // Links that are cut heal again.
        weights[7] = weights[7].max(6);
        Plan {
            rough_us: rng.range(6_000_000, 22_000_000),
            delay_min_us: rng.range(50, 1_000),
            delay_max_us: rng.range(1_000, 60_000),
            loss: if rng.per_mille(400) {
                0
            } else {
                rng.range(0, 120)
            },
            duplicate: if rng.per_mille(400) {
                0
            } else {
                rng.range(0, 80)
            },
            straggle: rng.range(0, 40),
            sync_max_us: rng.range(500, 30_000),
            stall: if rng.per_mille(600) {
                0
            } else {
                rng.range(1, 6)
            },
            fault_every_us: rng.range(150_000, 2_500_000),
            weights,
            clients: rng.range(2, 9) as usize,
            keys: rng.range(2, 9),
            think_us: rng.range(2_000, 100_000),
            snapshot_count: rng.range(5, 60),
            catchup_entries: rng.range(1, 20),
            batch_interval_us: rng.range(20_000, 400_000),
            batch_bytes: if rng.per_mille(500) {
                8 << 20
            } else {
                rng.range(200, 3_000) as usize
            },
            cache_bytes: if rng.per_mille(600) {
                8 << 20
            } else {
                rng.range(0, 200_000) as usize
            },
            segment_bytes: rng.range(3_000, 60_000),
            ambush: if rng.per_mille(500) {
                0
            } else {
                rng.range(20, 400)
            },
            pre_vote: rng.per_mille(600),
            founders: match rng.range(0, 10) {
                0 => 1,
                1 => 2,
                2 => 4,
                3 | 4 => 5,
                _ => 3,
            },
            operate_us: rng.per_mille(850).then(|| rng.range(200_000, 1_500_000)),
            reconfigures: rng.per_mille(600),
            auth: rng.per_mille(300),
            token_ttl_us: rng.range(800_000, 10_000_000),
            downgrades: rng.per_mille(250),
            quota_bytes: rng.per_mille(150).then(|| rng.range(30_000, 120_000)),
            drift: if rng.per_mille(300) {
                0
            } else {
                rng.range(0, 80)
            },
            lease_clients: rng.range(0, 4) as usize,
            checkpoints: rng.per_mille(250),
            watchers: rng.range(0, 5) as usize,
            watch_queue: if rng.per_mille(500) {
                4_096
            } else {
                rng.range(1, 12) as usize
            },
            compares_revisions: rng.per_mille(200),
            compaction_slice: rng.range(3, 200) as usize,
        }
    }

    /// Draws a kind of fault.
    pub fn fault(&self, rng: &mut Prng) -> Fault {
        let mut left = rng.range(0, self.weights.iter().sum());
        for (kind, weight) in KINDS.iter().zip(self.weights) {
            if left < weight {
                return *kind;
            }
            left -= weight;
        }
        Fault::Heal
    }
}

/// What happened in a simulation, by kind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats(pub BTreeMap<&'static str, u64>);

impl Stats {
    /// Counts one more.
    pub fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    /// Counts several more.
    pub fn add_to(&mut self, what: &'static str, n: u64) {
        *self.0.entry(what).or_default() += n;
    }

    /// How many of a kind.
    pub fn get(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    /// Adds those of another simulation.
    pub fn add(&mut self, other: &Stats) {
        for (what, n) in &other.0 {
            *self.0.entry(what).or_default() += n;
        }
    }
}

impl std::fmt::Display for Stats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut between = "";
        for (what, n) in &self.0 {
            write!(f, "{between}{what} {n}")?;
            between = ", ";
        }
        Ok(())
    }
}
