//! Counts what passed, failed and was skipped, out of what the test programs print.

use std::fmt;

/// What was counted so far.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Tests that passed.
    pub passed: u64,
    /// Tests, or other steps, that failed.
    pub failed: u64,
    /// Tests that were not run: marked as ignored, or that said so in a line beginning with `SKIPPED:`.
    pub skipped: u64,
    /// Why something was skipped, each reason once.
    pub reasons: Vec<String>,
    /// Tests that failed among the others and passed when they were run again alone; they are
    /// counted as passed.
    pub flaky: Vec<Flaky>,
}

/// A test that fails now and then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaky {
    /// Its name, and the program it belongs to.
    pub name: String,
    /// What it printed when it failed.
    pub output: String,
}

/// A test that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its name within its program.
    pub test: String,
    /// What it printed.
    pub output: String,
}

impl Tally {
    /// Counts a step that stands for one test.
    pub fn step(&mut self, passed: bool) {
        match passed {
            true => self.passed += 1,
            false => self.failed += 1,
        }
    }

    /// Counts a step that was not run.
    pub fn skip(&mut self, reason: &str) {
        self.skipped += 1;
        self.reason(reason);
    }

    /// A failure that has been counted turns out to pass when nothing else runs.
    pub fn pardon(&mut self, flaky: Flaky) {
        self.failed = self.failed.saturating_sub(1);
        self.passed += 1;
        self.flaky.push(flaky);
    }

    fn reason(&mut self, reason: &str) {
        if !self.reasons.iter().any(|known| known == reason) {
            self.reasons.push(reason.to_owned());
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
            ..
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// Reads the output of `cargo test -- --show-output` line by line.
///
/// The output of tests that passed is asked for only to find the skipped among them; it is not shown.
#[derive(Debug, Default)]
pub struct Reader {
    part: Part,
    /// The test whose output this is has already been counted as skipped.
    counted: bool,
    /// Tests of this program that said they were skipped.
    skipped: u64,
    /// What this program printed about its failures.
    about_failures: Vec<String>,
    /// The failures of all programs so far.
    failures: Vec<Failure>,
}

/// Where in the output of a test program we are.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Between two programs.
    #[default]
    Outside,
    /// Tests run; the program owes us its result.
    Running,
    /// What the tests that passed have printed.
    Successes,
    /// What the tests that failed have printed.
    Failures,
}

impl Reader {
    /// Takes one line in; true if a person should see it.
    pub fn line(&mut self, line: &str, tally: &mut Tally) -> bool {
        if let Some(counts) = line.strip_prefix("test result: ") {
            let skipped = std::mem::take(&mut self.skipped);
            self.part = Part::Outside;
            let number = |word: &str| number_before(counts, word);
            tally.passed += number(" passed").saturating_sub(skipped);
            tally.failed += number(" failed");
            let about = std::mem::take(&mut self.about_failures);
            self.failures.extend(named(&about, number(" failed")));
            tally.skipped += number(" ignored") + skipped;
            return true;
        }
        match (self.part, line) {
            (Part::Outside | Part::Running, _) if is_start(line) => {
                self.finish(tally);
                self.part = Part::Running;
            }
            (Part::Outside, _) => {}
            (_, "successes:") => self.part = Part::Successes,
            (_, "failures:") => {
                self.part = Part::Failures;
                self.about_failures.push(line.to_owned());
            }
            (Part::Failures, _) => self.about_failures.push(line.to_owned()),
            (Part::Successes, _) => return self.of_a_success(line, tally),
            (Part::Running, _) => {}
        }
        self.part != Part::Successes
    }

    /// No more lines come from the programs so far: one that has printed no result was killed, or
    /// killed itself, and counts as one failure.
    pub fn finish(&mut self, tally: &mut Tally) {
        if std::mem::take(&mut self.part) != Part::Outside {
            tally.failed += 1;
        }
        self.skipped = 0;
        self.about_failures.clear();
    }

    /// Takes out the tests that failed, of all programs since the last call. Those of a program that
    /// died are not among them, nor those whose names do not add up to what the program has counted.
    pub fn failures(&mut self) -> Vec<Failure> {
        std::mem::take(&mut self.failures)
    }

    fn of_a_success(&mut self, line: &str, tally: &mut Tally) -> bool {
        if line.starts_with("---- ") {
            self.counted = false;
            return false;
        }
        let Some(reason) = line.trim_start().strip_prefix("SKIPPED:") else {
            return false;
        };
        tally.reason(reason.trim());
        if !std::mem::replace(&mut self.counted, true) {
            self.skipped += 1;
        }
        true
    }
}

/// The failed tests out of what a program prints about them: the output of each, then a list of all.
/// None if the list does not hold `count` of them.
fn named(about: &[String], count: u64) -> Vec<Failure> {
    let Some(end) = about.iter().rposition(|line| line == "failures:") else {
        return Vec::new();
    };
    let (outputs, list) = about.split_at(end);
    let names: Vec<&str> = list
        .iter()
        .filter_map(|line| line.strip_prefix("    "))
        .collect();
    if names.len() as u64 != count {
        return Vec::new();
    }
    let header = |line: &str, name: &str| line == format!("---- {name} stdout ----");
    let output = |name: &str| -> String {
        outputs
            .iter()
            .skip_while(|line| !header(line, name))
            .skip(1)
            .take_while(|line| !names.iter().any(|other| header(line, other)))
            .map(|line| format!("{line}\n"))
            .collect()
    };
    names
        .iter()
        .map(|name| Failure {
            test: (*name).to_owned(),
            output: output(name).trim_end().to_owned(),
        })
        .collect()
}

/// `running 3 tests`
fn is_start(line: &str) -> bool {
    line.strip_prefix("running ")
        .and_then(|rest| {
            rest.strip_suffix(" tests")
                .or_else(|| rest.strip_suffix(" test"))
        })
        .is_some_and(|number| number.parse::<u64>().is_ok())
}

fn number_before(text: &str, word: &str) -> u64 {
    text.split(word)
        .next()
        .and_then(|head| head.rsplit(|c: char| !c.is_ascii_digit()).next())
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
running 3 tests
test plain ... ok
test oracle ... ok
test figures ... ignored, takes a while

successes:

---- oracle stdout ----
SKIPPED: no oracle here
SKIPPED: no oracle here

---- plain stdout ----
noise

successes:
    oracle
    plain

test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.01s

running 2 tests
test bad ... FAILED

failures:

---- bad stdout ----
the reason

test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    #[test]
    fn a_test_that_says_it_was_skipped_is_not_counted_as_passed() {
        let (mut tally, mut reader) = (Tally::default(), Reader::default());
        let shown: Vec<&str> = OUTPUT
            .lines()
            .filter(|line| reader.line(line, &mut tally))
            .collect();
        assert_eq!(tally.to_string(), "2 passed, 1 failed, 2 skipped");
        assert_eq!(tally.reasons, ["no oracle here"]);
        assert!(shown.contains(&"the reason"), "{shown:?}");
        assert!(!shown.contains(&"noise"), "{shown:?}");
    }

    const TWO_FAILURES: &str = "\
running 3 tests
test area::one ... FAILED
test fine ... ok
test two - should panic ... FAILED

successes:

---- fine stdout ----
failures are not mine

successes:
    fine

failures:

---- area::one stdout ----
failures:
    a line that looks like a name
---- of its own ----

---- two stdout ----
note: test did not panic as expected

failures:
    area::one
    two

test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    #[test]
    fn failures_come_with_their_names_and_what_they_printed() {
        let (mut tally, mut reader) = (Tally::default(), Reader::default());
        for line in TWO_FAILURES.lines() {
            reader.line(line, &mut tally);
        }
        reader.finish(&mut tally);
        assert_eq!(tally.to_string(), "1 passed, 2 failed, 0 skipped");
        let found = reader.failures();
        let found: Vec<_> = found
            .iter()
            .map(|failure| (failure.test.as_str(), failure.output.as_str()))
            .collect();
        let own = "failures:\n    a line that looks like a name\n---- of its own ----";
        assert_eq!(
            found,
            [
                ("area::one", own),
                ("two", "note: test did not panic as expected"),
            ]
        );
        assert!(reader.failures().is_empty(), "they are taken out once");
    }

    #[test]
    fn names_that_do_not_add_up_are_not_believed() {
        let (mut tally, mut reader) = (Tally::default(), Reader::default());
        let output = TWO_FAILURES.replace("    two\n", "");
        for line in output.lines() {
            reader.line(line, &mut tally);
        }
        assert_eq!(tally.failed, 2);
        assert!(reader.failures().is_empty());
    }

    #[test]
    fn a_program_that_dies_without_a_result_is_a_failure() {
        let (mut tally, mut reader) = (Tally::default(), Reader::default());
        let output = "running 2 tests\ntest a ... ok\n\nrunning 1 test\ntest b ... ok\n\n\
                      test result: ok. 1 passed; 0 failed; 0 ignored\n\nrunning 7 tests\n";
        for line in output.lines() {
            reader.line(line, &mut tally);
        }
        reader.finish(&mut tally);
        assert_eq!(tally.to_string(), "1 passed, 2 failed, 0 skipped");
    }
}
