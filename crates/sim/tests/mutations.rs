//! Each deliberate mistake must be found: checkers that find nothing prove nothing.
#![allow(clippy::print_stdout)] // the figures are what whoever runs it wants to see

#[cfg(feature = "mutations")]
mod common;

use ferrite_sim::{Mutation, run};

/// Within so many seeds, for a mistake made around the production code.
const SEEDS_MAX: u64 = 60;
/// The same for one inside it: some need two rare things at once.
#[cfg(feature = "mutations")]
const SEEDS_MAX_INSIDE: u64 = 1_500;

/// The first seed that finds it, and how.
fn found(mutation: Mutation, seeds: u64) -> Option<(u64, String)> {
    (1..=seeds).find_map(|seed| Some((seed, run(seed, Some(mutation)).violation?)))
}

fn is_found(mutation: Mutation) {
    let found = found(mutation, SEEDS_MAX);
    let Some((seeds, reason)) = found else {
        panic!("{mutation:?} was not found within {SEEDS_MAX} seeds");
    };
    println!("{}: {seeds} seeds: {reason}", mutation.name());
}

/// Those inside production crates are made in builds with the feature `mutations` only: `cargo xtask test` has one.
#[cfg(feature = "mutations")]
#[test]
fn every_mistake_inside_a_production_crate_is_found() {
    let inside = Mutation::all().filter(|mutation| matches!(mutation, Mutation::Inside(_)));
    let outcomes = common::parallel(inside, |mutation| {
        (mutation, found(mutation, SEEDS_MAX_INSIDE))
    });
    assert!(outcomes.len() >= 25, "{} mistakes", outcomes.len());
    let mut missed = Vec::new();
    for (mutation, outcome) in outcomes {
        match outcome {
            Some((seeds, reason)) => {
                let short: String = reason.chars().take(160).collect();
                println!("{}: {seeds} seeds: {short}", mutation.name());
            }
            None => missed.push(mutation.name()),
        }
    }
    assert!(
        missed.is_empty(),
        "not found within {SEEDS_MAX_INSIDE} seeds: {missed:?}"
    );
}

#[test]
fn a_log_that_acknowledges_before_it_syncs() {
    is_found(Mutation::LogSyncLies);
}

#[test]
fn a_database_that_is_not_synced() {
    is_found(Mutation::DatabaseSyncLies);
}

#[test]
fn a_member_that_counts_entries_it_has_not_written() {
    is_found(Mutation::PersistedTooEarly);
}

#[test]
fn a_member_that_forgets_its_vote() {
    is_found(Mutation::ForgetVote);
}

#[test]
fn an_applied_index_that_stays_behind_its_data() {
    is_found(Mutation::LoseAppliedIndex);
}

#[test]
fn a_read_that_asks_no_quorum() {
    is_found(Mutation::ReadWithoutQuorum);
}

#[test]
fn a_read_that_does_not_wait_to_be_applied() {
    is_found(Mutation::ReadBeforeApplied);
}

#[test]
fn a_request_that_is_proposed_twice() {
    is_found(Mutation::ProposeTwice);
}

#[test]
fn a_member_that_passes_over_an_entry() {
    is_found(Mutation::SkipEntry);
}

#[test]
fn entries_applied_before_they_are_committed() {
    is_found(Mutation::ApplyUncommitted);
}
