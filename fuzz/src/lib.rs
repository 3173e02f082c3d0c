//! The targets of `ferrite-fuzz` under libFuzzer, which is led by what an input reaches.
//!
//! With a nightly compiler: `cargo fuzz run wal_records crates/fuzz/corpus/wal_records`. With a stable one
//! the compiler is asked for the counters by hand; CONTRIBUTING.md has the command.

/// Runs one input; a panic is a finding.
pub fn run(name: &str, data: &[u8]) {
    let target = ferrite_fuzz::target(name).expect("the crate has it");
    if data.len() <= target.len_max {
        (target.run)(data);
        ferrite_fuzz::take_features();
    }
}
