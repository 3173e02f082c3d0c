//! Everything that reads bytes of others, fed with bytes that nobody sane would send.
//!
//! A [`Target`] is a plain function over bytes that panics when something is wrong. The same functions
//! run three ways: mutated from a corpus by a seeded runner on a stable compiler ([`runner`], the program
//! of this crate and its tests), under cargo-fuzz (`fuzz/` beside the workspace's crates), and one saved
//! input at a time.
//!
//! A panic is a failure; so are an input that takes too long and one that makes the code reserve far more
//! memory than the input is long ([`memory`]).
//!
//! A target may call [`feature`] with a word for what it has seen. Inputs that bring up a new word are kept
//! and mutated further: a poor man's coverage, which finds its way behind length fields and checksums.
//!
//! To add a target: a file in [`targets`], a line in [`TARGETS`], seeds from code that writes the format,
//! and one file in `fuzz/fuzz_targets`.

pub mod input;
pub mod memory;
pub mod mutate;
pub mod runner;
pub mod solo;
pub mod targets;

use std::cell::RefCell;
use std::collections::BTreeSet;

/// Something that reads bytes.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name, also that of its folders under `corpus` and `regressions`.
    pub name: &'static str,
    /// What it holds.
    pub about: &'static str,
    /// Reads the bytes; panics when a promise is broken.
    pub run: fn(&[u8]),
    /// Inputs to begin with, made by our own writers or captured.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Longest input that is tried.
    pub len_max: usize,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    targets::wal::RECORDS,
    targets::wal::SEGMENT,
    targets::snap::TARGET,
    targets::database::PAGES,
    targets::database::FILE,
    targets::peer::MSGAPP,
    targets::peer::MESSAGES,
    targets::upload::TARGET,
    targets::requests::TARGET,
    targets::requests::ENTRIES,
    targets::settings::FLAGS,
    targets::settings::YAML,
    targets::disk::TARGET,
    targets::gateway::JSON,
    targets::gateway::WEBSOCKET,
];

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}

thread_local! {
    static FEATURES: RefCell<BTreeSet<u64>> = const { RefCell::new(BTreeSet::new()) };
}

/// Notes that something has been seen. Numbers and what stands in quotation marks do not count, so that texts
/// of errors can be handed in as they are.
pub fn feature(word: &str) {
    // FNV-1a: short, and the same in every run.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let bare: String = word.split('"').step_by(2).collect();
    let words = bare.split_whitespace();
    for word in words.filter(|word| !word.contains(|c: char| c.is_ascii_digit())) {
        for byte in word.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    FEATURES.with_borrow_mut(|features| {
        features.insert(hash);
    });
}

/// Notes how many of something there were, by powers of two.
pub fn count(word: &str, number: usize) {
    let steps = "x".repeat((usize::BITS - number.leading_zeros()) as usize);
    feature(&format!("{word} {steps}"));
}

/// What has been noted since the last call.
pub fn take_features() -> BTreeSet<u64> {
    FEATURES.take()
}
