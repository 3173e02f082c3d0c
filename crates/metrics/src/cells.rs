//! Where events are counted: cells that many threads add to and a page is read from.
//!
//! Nothing here waits, apart from [`Rare`], whose name says when it may be used.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

/// Copies of a cell that many threads add to: as many as there are threads that serve clients at most.
pub(crate) const SHARDS: usize = 8;

thread_local! {
    static SHARD: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// This thread's copy. Threads beyond the eighth share one, which costs time and no truth.
pub(crate) fn shard() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    SHARD.with(|shard| {
        if shard.get() == usize::MAX {
            shard.set(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS);
        }
        shard.get()
    })
}

/// Counts what one thread does, or what is seldom done.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// How many there were.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A figure that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// Sets it.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds, less than nothing too.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// What it is.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Line(AtomicU64);

/// Counts what every thread does that serves clients.
#[derive(Debug, Default)]
pub struct Sharded([Line; SHARDS]);

impl Sharded {
    /// Adds.
    pub fn add(&self, n: u64) {
        if let Some(line) = self.0.get(shard()) {
            line.0.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// How many there were.
    pub fn get(&self) -> u64 {
        self.0
            .iter()
            .map(|line| line.0.load(Ordering::Relaxed))
            .sum()
    }
}

/// Upper bounds, in the smallest unit that is counted.
#[derive(Debug, Clone, Copy)]
enum Bounds {
    /// So many, each twice the one before.
    Doubling { first: u64, count: usize },
    /// These, ascending.
    Listed(&'static [u64]),
}

impl Bounds {
    fn len(self) -> usize {
        match self {
            Bounds::Doubling { count, .. } => count,
            Bounds::Listed(bounds) => bounds.len(),
        }
    }

    fn get(self, at: usize) -> u64 {
        match self {
            Bounds::Doubling { first, .. } => first << at,
            Bounds::Listed(bounds) => bounds.get(at).copied().unwrap_or(u64::MAX),
        }
    }

    /// The bucket a value falls into; [`Bounds::len`] beyond the last bound.
    fn find(self, value: u64) -> usize {
        match self {
            Bounds::Doubling { first, count } => {
                let beyond = value.saturating_sub(1) / first;
                // as many bits as doublings are needed
                ((u64::BITS - beyond.leading_zeros()) as usize).min(count)
            }
            Bounds::Listed(bounds) => bounds.partition_point(|bound| *bound < value),
        }
    }
}

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;
/// The buckets Prometheus's libraries take when nobody says which.
const DEFAULT_SECONDS: &[u64] = &[
    SECOND / 200,
    SECOND / 100,
    SECOND / 40,
    SECOND / 20,
    SECOND / 10,
    SECOND / 4,
    SECOND / 2,
    SECOND,
    SECOND * 5 / 2,
    SECOND * 5,
    SECOND * 10,
];

/// How long things took, or how large they were.
#[derive(Debug)]
pub struct Histogram {
    bounds: Bounds,
    /// Smallest units to one of those that are shown.
    unit: u64,
    /// Per copy: the buckets, the one beyond them, the sum.
    shards: Box<[Box<[AtomicU64]>]>,
}

/// A histogram at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Upper bound and how many were not above it, ascending, without the infinite one.
    pub buckets: Vec<(f64, u64)>,
    /// All of them.
    pub count: u64,
    /// Their sum.
    pub sum: f64,
}

impl Histogram {
    fn new(bounds: Bounds, unit: u64, shards: usize) -> Self {
        let cells = || (0..bounds.len() + 2).map(|_| AtomicU64::new(0)).collect();
        Histogram {
            bounds,
            unit,
            shards: (0..shards).map(|_| cells()).collect(),
        }
    }

    /// Seconds, with `count` bounds from `first` microseconds on.
    pub fn seconds(first_micros: u64, count: usize) -> Self {
        let first = first_micros * 1_000;
        Histogram::new(Bounds::Doubling { first, count }, SECOND, 1)
    }

    /// The same for what every thread does that serves clients.
    pub fn sharded_seconds(first_micros: u64, count: usize) -> Self {
        let first = first_micros * 1_000;
        Histogram::new(Bounds::Doubling { first, count }, SECOND, SHARDS)
    }

    /// The same with the bounds of Prometheus's libraries.
    pub fn default_seconds() -> Self {
        Histogram::new(Bounds::Listed(DEFAULT_SECONDS), SECOND, SHARDS)
    }

    /// Whole milliseconds, with `count` bounds from `first` microseconds on.
    pub fn milliseconds(first_micros: u64, count: usize) -> Self {
        let first = first_micros * 1_000;
        Histogram::new(Bounds::Doubling { first, count }, 1_000_000, 1)
    }

    /// Plain numbers, with `count` bounds from `first` on.
    pub fn numbers(first: u64, count: usize) -> Self {
        Histogram::new(Bounds::Doubling { first, count }, 1, 1)
    }

    fn add(&self, value: u64) {
        let shard = match self.shards.len() {
            1 => 0,
            _ => shard(),
        };
        let Some(cells) = self.shards.get(shard) else {
            return;
        };
        if let Some(bucket) = cells.get(self.bounds.find(value)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(sum) = cells.last() {
            sum.fetch_add(value, Ordering::Relaxed);
        }
    }

    /// One that took so long.
    pub fn observe(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        if self.unit == SECOND {
            self.add(nanos);
        } else {
            // as the original, which cuts off what is less than one of them
            self.add(nanos / self.unit * self.unit);
        }
    }

    /// One of this size.
    pub fn observe_number(&self, number: u64) {
        self.add(number.saturating_mul(self.unit));
    }

    /// What was seen so far.
    pub fn snapshot(&self) -> Snapshot {
        let mut cells = vec![0u64; self.bounds.len() + 2];
        for shard in &self.shards {
            for (sum, cell) in cells.iter_mut().zip(shard) {
                *sum = sum.wrapping_add(cell.load(Ordering::Relaxed));
            }
        }
        let sum = cells.pop().unwrap_or(0);
        let unit = self.unit as f64;
        let mut count = 0;
        let mut buckets = Vec::with_capacity(self.bounds.len());
        for (at, cell) in cells.into_iter().enumerate() {
            count += cell;
            if at < self.bounds.len() {
                buckets.push((self.bounds.get(at) as f64 / unit, count));
            }
        }
        Snapshot {
            buckets,
            count,
            sum: sum as f64 / unit,
        }
    }
}

/// A value of a label, and its cell, once there is one.
type Slot<T> = OnceLock<(Box<str>, T)>;

/// A cell for each value of a label that clients choose, up to a limit. Finding one that is there takes no lock.
#[derive(Debug)]
pub struct Labelled<T> {
    slots: Box<[Slot<T>]>,
    rest: OnceLock<T>,
}

/// Under this name goes what is beyond the limit of a label.
pub const OTHER: &str = "other";

impl<T: Default> Labelled<T> {
    /// Room for so many values.
    pub fn new(limit: usize) -> Self {
        Labelled {
            slots: (0..limit).map(|_| OnceLock::new()).collect(),
            rest: OnceLock::new(),
        }
    }

    /// The cell of this value.
    pub fn of(&self, value: &str) -> &T {
        for slot in &self.slots {
            // Another thread may take the free slot first, for a value of its own.
            let (taken, cell) = slot.get_or_init(|| (value.into(), T::default()));
            if **taken == *value {
                return cell;
            }
        }
        self.rest.get_or_init(T::default)
    }

    /// All that there are.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &T)> {
        let named = self.slots.iter().filter_map(OnceLock::get);
        named
            .map(|(value, cell)| (&**value, cell))
            .chain(self.rest.get().map(|cell| (OTHER, cell)))
    }
}

/// Label values of one sample, in the order of the family's label names.
type Values = Box<[Box<str>]>;

/// Samples of what happens seldom and has labels of many values. Takes a lock: not for what happens with every call.
#[derive(Debug)]
pub struct Rare {
    samples: Mutex<BTreeMap<Values, i64>>,
    limit: usize,
}

impl Rare {
    /// Room for so many samples; what is beyond is not counted.
    pub fn new(limit: usize) -> Self {
        Rare {
            samples: Mutex::new(BTreeMap::new()),
            limit,
        }
    }

    fn change(&self, values: &[&str], change: impl FnOnce(&mut i64)) {
        let values: Values = values.iter().map(|value| Box::from(*value)).collect();
        let mut samples = self.samples.lock();
        if samples.len() < self.limit || samples.contains_key(&values) {
            change(samples.entry(values).or_insert(0));
        }
    }

    /// Adds one.
    pub fn inc(&self, values: &[&str]) {
        self.change(values, |sample| *sample += 1);
    }

    /// Adds so many; none at all makes no sample.
    pub fn add(&self, values: &[&str], count: u64) {
        if count > 0 {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.change(values, |sample| *sample = sample.saturating_add(count));
        }
    }

    /// Sets it.
    pub fn set(&self, values: &[&str], to: i64) {
        self.change(values, |sample| *sample = to);
    }

    /// Sets all samples to 0 that were set, and these to 1.
    pub fn set_only<'a>(&self, present: impl IntoIterator<Item = Vec<&'a str>>) {
        for sample in self.samples.lock().values_mut() {
            *sample = 0;
        }
        for values in present {
            self.set(&values, 1);
        }
    }

    /// All of them.
    pub fn samples(&self) -> Vec<(Vec<String>, i64)> {
        let samples = self.samples.lock();
        let owned = |values: &Values| values.iter().map(|value| value.to_string()).collect();
        samples
            .iter()
            .map(|(values, sample)| (owned(values), *sample))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_belongs_below_it() {
        let histogram = Histogram::seconds(1_000, 14);
        for micros in [0, 999, 1_000, 1_001, 2_000, 2_001, 8_192_000, 8_192_001] {
            histogram.observe(Duration::from_micros(micros));
        }
        let seen = histogram.snapshot();
        let counts: Vec<u64> = seen.buckets.iter().map(|(_, count)| *count).collect();
        assert_eq!(counts[..4], [3, 5, 6, 6]);
        assert_eq!(counts[12..], [6, 7]);
        assert_eq!(seen.count, 8);
        assert_eq!(seen.buckets[0].0, 0.001);
        assert_eq!(seen.buckets[13].0, 8.192);
        assert!((seen.sum - 16.391002).abs() < 1e-9, "{}", seen.sum);
    }

    #[test]
    fn bounds_are_those_of_the_original_to_the_last_digit() {
        // Go multiplies the first bound by 2 again and again.
        for (histogram, first, count) in [
            (Histogram::seconds(100, 20), 0.0001, 20),
            (Histogram::seconds(1_000, 14), 0.001, 14),
            (Histogram::seconds(10_000, 17), 0.01, 17),
            (Histogram::seconds(100_000, 13), 0.1, 13),
            (Histogram::milliseconds(500, 14), 0.5, 14),
            (Histogram::numbers(1, 24), 1.0, 24),
        ] {
            let mut bound: f64 = first;
            let buckets = histogram.snapshot().buckets;
            assert_eq!(buckets.len(), count);
            for (found, _) in buckets {
                assert_eq!(found, bound);
                bound *= 2.0;
            }
        }
    }

    #[test]
    fn the_default_bounds_are_a_list() {
        let histogram = Histogram::default_seconds();
        for millis in [5, 6, 10_000, 10_001] {
            histogram.observe(Duration::from_millis(millis));
        }
        let seen = histogram.snapshot();
        let bounds: Vec<f64> = seen.buckets.iter().map(|(bound, _)| *bound).collect();
        let expected = [
            0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
        ];
        assert_eq!(bounds, expected);
        assert_eq!(
            (seen.buckets[0].1, seen.buckets[1].1, seen.buckets[10].1),
            (1, 2, 3)
        );
        assert_eq!(seen.count, 4);
    }

    #[test]
    fn milliseconds_are_whole() {
        let histogram = Histogram::milliseconds(500, 14);
        histogram.observe(Duration::from_micros(900));
        histogram.observe(Duration::from_micros(1_900));
        let seen = histogram.snapshot();
        assert_eq!(
            (seen.buckets[0].1, seen.buckets[1].1, seen.sum),
            (1, 2, 1.0)
        );
    }

    #[test]
    fn a_label_that_clients_choose_has_a_limit() {
        let labelled: Labelled<Sharded> = Labelled::new(2);
        for value in ["3.7", "3.5", "3.7", "x", "y"] {
            labelled.of(value).inc();
        }
        let seen: Vec<(&str, u64)> = labelled.iter().map(|(v, cell)| (v, cell.get())).collect();
        assert_eq!(seen, [("3.7", 2), ("3.5", 1), (OTHER, 2)]);
        let rare = Rare::new(2);
        for value in ["a", "b", "c", "a"] {
            rare.inc(&[value]);
        }
        let seen: Vec<i64> = rare.samples().into_iter().map(|(_, n)| n).collect();
        assert_eq!(seen, [2, 1]);
        rare.set_only([vec!["b"]]);
        let seen: Vec<i64> = rare.samples().into_iter().map(|(_, n)| n).collect();
        assert_eq!(seen, [0, 1]);
    }
}
