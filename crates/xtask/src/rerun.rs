//! A second chance, alone, for tests that failed among the others; and what it means.
//!
//! A machine that is busy with other tests can break one that measures or waits too little. Such a test
//! is wrong, but it says nothing about the change at hand: it counts as passed, and is named aloud.

use crate::built::Program;
use crate::tally::{Failure, Flaky, Tally};

/// More failures than this are no bad luck but a broken tree, and repeating them would take its time.
const RERUNS_MAX: usize = 10;

/// Which failures are worth another run.
#[must_use]
pub fn chosen(failures: Vec<(Program, Failure)>) -> Vec<(Program, Failure)> {
    match failures.len() <= RERUNS_MAX {
        true => failures,
        false => Vec::new(),
    }
}

/// What the programs are asked for, to run one test and no other.
#[must_use]
pub fn words(failure: &Failure) -> [&str; 3] {
    ["--exact", &failure.test, "--show-output"]
}

/// Judges the second run, of which `again` was counted: a test that passes, and is the only one that has
/// run, was flaky. Anything else leaves the failure as it is.
pub fn judge(program: &Program, first: Failure, again: &Tally, tally: &mut Tally) -> bool {
    let passed = again.passed == 1 && again.failed == 0;
    if passed {
        tally.pardon(Flaky {
            name: format!("{} ({})", first.test, program.source.display()),
            output: first.output,
        });
    }
    passed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program() -> Program {
        Program {
            source: "crates/one/tests/area.rs".into(),
            package: "/tree/crates/one".into(),
            executable: "/out/area-1".into(),
        }
    }

    fn failure(test: &str) -> Failure {
        Failure {
            test: test.to_owned(),
            output: "too slow".to_owned(),
        }
    }

    fn counted(passed: u64, failed: u64, skipped: u64) -> Tally {
        Tally {
            passed,
            failed,
            skipped,
            ..Tally::default()
        }
    }

    #[test]
    fn what_passes_alone_counts_as_passed_and_is_named_with_its_first_output() {
        let mut tally = counted(7, 2, 1);
        assert!(judge(
            &program(),
            failure("slow::one"),
            &counted(1, 0, 0),
            &mut tally
        ));
        assert_eq!(tally.to_string(), "8 passed, 1 failed, 1 skipped");
        let named = Flaky {
            name: "slow::one (crates/one/tests/area.rs)".to_owned(),
            output: "too slow".to_owned(),
        };
        assert_eq!(tally.flaky, [named]);
    }

    #[test]
    fn what_fails_again_dies_skips_or_is_not_found_stays_a_failure() {
        for again in [
            counted(0, 1, 0),
            counted(0, 0, 1),
            counted(0, 0, 0),
            counted(1, 1, 0),
        ] {
            let mut tally = counted(7, 2, 1);
            assert!(!judge(&program(), failure("one"), &again, &mut tally));
            assert_eq!(tally, counted(7, 2, 1));
        }
    }

    #[test]
    fn only_a_few_failures_are_run_again() {
        let few = vec![(program(), failure("one")); RERUNS_MAX];
        assert_eq!(chosen(few.clone()), few);
        assert!(chosen(vec![(program(), failure("one")); RERUNS_MAX + 1]).is_empty());
    }

    #[test]
    fn one_test_is_asked_for_by_its_whole_name() {
        assert_eq!(
            words(&failure("a::b")),
            ["--exact", "a::b", "--show-output"]
        );
    }
}
