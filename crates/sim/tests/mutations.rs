//! Each deliberate mistake must be found: checkers that find nothing prove nothing.

use ferrite_sim::{Mutation, run};

/// Within so many seeds.
const SEEDS_MAX: u64 = 60;

fn is_found(mutation: Mutation) {
    let found = (1..=SEEDS_MAX).find_map(|seed| run(seed, Some(mutation)).violation);
    assert!(
        found.is_some(),
        "{mutation:?} was not found within {SEEDS_MAX} seeds"
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
