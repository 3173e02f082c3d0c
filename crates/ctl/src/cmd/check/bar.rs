//! A bar that fills, on standard error. Nothing moves where nobody looks: without a terminal only the
//! full bar is written.

use std::io::{IsTerminal, Write, stderr};

/// How many characters wide.
const WIDTH: u64 = 40;

/// The bar.
pub struct Bar {
    total: u64,
    done: u64,
    shown: u64,
    terminal: bool,
}

impl Bar {
    /// An empty bar for so many steps.
    pub fn new(total: u64) -> Self {
        Self {
            total: total.max(1),
            done: 0,
            shown: u64::MAX,
            terminal: stderr().is_terminal(),
        }
    }

    /// One step more.
    pub fn step(&mut self) {
        self.done = (self.done + 1).min(self.total);
        let percent = self.done * 100 / self.total;
        if self.terminal && percent != self.shown {
            self.shown = percent;
            self.draw("\r");
        }
    }

    /// No step will follow.
    pub fn end(&mut self) {
        let before = if self.terminal { "\r" } else { "" };
        self.draw(before);
        // The bar is for the eye only.
        let _ = writeln!(stderr());
    }

    fn draw(&self, before: &str) {
        let filled = self.done * WIDTH / self.total;
        let bar: String = (0..WIDTH)
            .map(|at| if at < filled { '=' } else { ' ' })
            .collect();
        let percent = self.done * 100 / self.total;
        let (done, total) = (self.done, self.total);
        let _ = write!(stderr(), "{before}{done} / {total} [{bar}] {percent}%");
    }
}
