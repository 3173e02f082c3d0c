//! A seeded simulator: a cluster of three members made of the driver's production stages, in one
//! thread, with a simulated network, disk and clock, and checkers that judge every step.
//!
//! A run is a pure function of its seed. [`run`] is the door; [`world`] is the scheduler, [`member`] a
//! member and its disk, [`plan`] what goes wrong, [`model`] and [`safety`] the judges, [`mutation`]
//! the mistakes that show that they judge.

mod clients;
mod executor;
pub mod member;
pub mod model;
pub mod mutation;
mod network;
pub mod plan;
pub mod prng;
pub mod safety;
pub mod world;

pub use mutation::Mutation;
pub use plan::Stats;

/// How a simulation went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Simulated time in microseconds.
    pub simulated_us: u64,
    /// What happened, by kind.
    pub stats: Stats,
    /// Checksum over everything that happened, in order: equal for equal seeds.
    pub trace: u64,
    /// What was found to be wrong.
    pub violation: Option<String>,
}

/// Runs one seed. A panic of production code is a violation like any other.
pub fn run(seed: u64, mutation: Option<Mutation>) -> Report {
    let run = || world::World::new(seed, mutation).run();
    std::panic::catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("no text");
        Report {
            simulated_us: 0,
            stats: Stats::default(),
            trace: 0,
            violation: Some(format!("panicked: {text}")),
        }
    })
}
