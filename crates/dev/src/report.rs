//! What the user sees of a run: `ok` and `FAIL` lines, and the count of the latter.
//!
//! The only place that writes to standard output, one line at a time, so that lines of many threads do
//! not mix; a reader that has gone away is no error.

use std::io::Write;

/// Prints one line.
pub fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Nothing can be told to a reader that has closed the pipe.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

/// The lines of a run that checks things.
#[derive(Debug, Default)]
pub struct Report {
    checks: usize,
    failures: Vec<String>,
}

impl Report {
    /// A heading.
    pub fn step(&self, title: &str) {
        say(&format!("\n== {title}"));
    }

    /// One expectation: an `ok` or a `FAIL` line with the figure or the difference.
    pub fn check(&mut self, holds: bool, what: &str, figure: &str) {
        self.checks += 1;
        let mark = if holds { "ok  " } else { "FAIL" };
        let tail = if figure.is_empty() {
            String::new()
        } else {
            format!(": {figure}")
        };
        say(&format!("{mark} {what}{tail}"));
        if !holds {
            self.failures.push(what.to_owned());
        }
    }

    /// Something worth a line that is no expectation.
    pub fn note(&self, words: &str) {
        say(&format!("     {words}"));
    }

    /// How many expectations were looked at.
    pub fn checks(&self) -> usize {
        self.checks
    }

    /// The expectations that did not hold.
    pub fn failures(&self) -> &[String] {
        &self.failures
    }
}
