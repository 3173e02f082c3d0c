//! A seeded simulator: whole clusters made of the driver's production stages, in one thread, with a simulated
//! network, disks and clocks, and judges who look at every step.
//!
//! A run is a pure function of its seed. [`run`] is the door; [`world`] is the scheduler, [`member`] a
//! member and its disk, [`plan`] what goes wrong, [`model`] and [`safety`] the judges of every step, `history`
//! the judge who knows nothing but what clients saw; [`mutation`] the mistakes that show that they judge.

mod clients;
mod clock;
mod digest;
mod end;
mod executor;
mod faults;
mod history;
mod leases;
pub mod member;
pub mod model;
pub mod mutation;
mod network;
mod operator;
pub mod plan;
pub mod prng;
pub mod safety;
mod tokens;
mod versions;
mod watchers;
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

/// The command that repeats a seed.
pub fn replay(seed: u64, mutation: Option<Mutation>) -> String {
    let features = match mutation {
        Some(Mutation::Inside(_)) => " --features mutations",
        _ => "",
    };
    let mutation = mutation.map_or_else(String::new, |mutation| {
        format!(" --mutation {}", mutation.name())
    });
    format!(
        "cargo run --profile sim -p ferrite-sim{features} -- --start {seed} --seeds 1{mutation}"
    )
}

/// Runs one seed. A panic of production code is a violation like any other (where panics unwind).
pub fn run(seed: u64, mutation: Option<Mutation>) -> Report {
    let inside = match mutation {
        Some(Mutation::Inside(name)) => Some(name),
        _ => None,
    };
    ferrite_mutate::make(inside);
    let run = || world::World::new(seed, mutation).run();
    let report = std::panic::catch_unwind(run).unwrap_or_else(|panic| {
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
    });
    ferrite_mutate::make(None);
    report
}
