//! Many orders of the threads that meet in a member, each by `shuttle`.
//!
//! A failure prints the schedule that led to it; `shuttle::replay` with it repeats that order.
//! `FERRITE_SHUTTLE_ORDERS` tries more than the suite does.

mod commit;
mod group_commit;
mod hub;
mod queues;
mod store;
mod waiters;

use shuttle::Runner;
use shuttle::scheduler::{PctScheduler, RandomScheduler};

/// Bytes of stack of each thread of a test. The log and the database need more than the default.
const STACK_BYTES: usize = 1 << 20;

/// Runs a test in many orders: half of them at random, half with few changes of threads in unlikely places.
fn orders(many: usize, test: impl Fn() + Send + Sync + Clone + 'static) {
    let more = std::env::var("FERRITE_SHUTTLE_ORDERS").ok();
    let many = more.and_then(|text| text.parse().ok()).unwrap_or(many);
    let mut config = shuttle::Config::new();
    config.stack_size = STACK_BYTES;
    let random = RandomScheduler::new(many / 2);
    Runner::new(random, config.clone()).run(test.clone());
    let few_changes = PctScheduler::new(3, many / 2);
    Runner::new(few_changes, config).run(test);
}
