//! Cells that many threads add to at once.

use std::time::Duration;

use ferrite_metrics::{Histogram, Labelled, Sharded};

#[test]
fn what_many_threads_count_adds_up() {
    let sharded = Sharded::default();
    let histogram = Histogram::sharded_seconds(1_000, 14);
    let labelled: Labelled<Sharded> = Labelled::new(3);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                for n in 0..1_000 {
                    sharded.inc();
                    histogram.observe(Duration::from_millis(1));
                    labelled.of(["a", "b", "c", "d", "e"][n % 5]).inc();
                }
            });
        }
    });
    assert_eq!(sharded.get(), 20_000);
    assert_eq!(histogram.snapshot().count, 20_000);
    assert_eq!(histogram.snapshot().buckets[0].1, 20_000);
    let counts: Vec<u64> = labelled.iter().map(|(_, cell)| cell.get()).collect();
    assert_eq!(
        counts,
        [4_000, 4_000, 4_000, 8_000],
        "three values and the rest"
    );
}
