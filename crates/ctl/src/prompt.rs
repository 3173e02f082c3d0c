//! Passwords, typed so that a terminal does not show them. The terminal's settings are put back in
//! every case, also after Ctrl-C.

use std::io::{self, Read};

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

use crate::exit::{self, Failure};
use crate::report;

/// What a shell reports for a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;

const CTRL_C: u8 = 0x03;
const CTRL_D: u8 = 0x04;
const BACKSPACE: u8 = 0x08;
const CTRL_U: u8 = 0x15;
const DELETE: u8 = 0x7f;

/// A terminal that neither shows what is typed nor turns keys into signals.
struct Hidden {
    before: Termios,
}

impl Hidden {
    /// `None` where standard input is no terminal.
    fn new() -> Option<Self> {
        let before = tcgetattr(io::stdin()).ok()?;
        let mut quiet = before.clone();
        quiet
            .local_modes
            .remove(LocalModes::ECHO | LocalModes::ICANON | LocalModes::ISIG);
        quiet.special_codes[SpecialCodeIndex::VMIN] = 1;
        quiet.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(io::stdin(), OptionalActions::Now, &quiet).ok()?;
        Some(Self { before })
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // If that fails the terminal is gone.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Asks a question, the answer to which may be seen.
///
/// # Errors
/// Standard input cannot be read.
pub fn answer(question: &str) -> io::Result<String> {
    report::out(question.as_bytes());
    line(&mut io::stdin().lock(), false)
}

/// Asks for a line.
///
/// # Errors
/// Standard input cannot be read, or Ctrl-C was pressed ([`io::ErrorKind::Interrupted`]).
pub fn password(question: &str) -> io::Result<String> {
    let hidden = Hidden::new();
    report::out(question.as_bytes());
    let line = line(&mut io::stdin().lock(), hidden.is_some());
    drop(hidden);
    report::out(b"\n");
    line
}

/// How the program ends if that is why nothing was read.
pub fn interrupted(error: &io::Error) -> Option<Failure> {
    (error.kind() == io::ErrorKind::Interrupted).then(|| Failure::silent(INTERRUPTED))
}

/// Asks for a new password, twice.
pub fn new_password(user: &str) -> Result<String, Failure> {
    let ask = |question: String| {
        password(&question).map_err(|error| {
            interrupted(&error)
                .unwrap_or_else(|| Failure::args(format!("failed to ask password: {error}")))
        })
    };
    let first = ask(format!("Password of {user}: "))?;
    if first.is_empty() {
        return Err(Failure::args("empty password"));
    }
    let second = ask(format!("Type password of {user} again for confirmation: "))?;
    if first != second {
        return Err(Failure::args("given passwords are different"));
    }
    Ok(first)
}

/// A password from standard input without a word: the first line's first word.
pub fn piped_password() -> Result<String, Failure> {
    let line = line(&mut io::stdin().lock(), false)
        .map_err(|error| Failure::new(exit::ERROR, error.to_string()))?;
    Ok(line
        .split_whitespace()
        .next()
        .unwrap_or_default()
        .to_owned())
}

/// Reads up to the end of the line; `keys` says that they come from a terminal as they are typed.
fn line(input: &mut dyn Read, keys: bool) -> io::Result<String> {
    let mut line = Vec::new();
    let mut one = [0];
    while input.read(&mut one)? == 1 {
        match one[0] {
            b'\n' => break,
            CTRL_C if keys => return Err(io::ErrorKind::Interrupted.into()),
            CTRL_D if keys => break,
            CTRL_U if keys => line.clear(),
            BACKSPACE | DELETE if keys => {
                // A letter may be several bytes; those after the first begin with 10.
                while line.pop().is_some_and(|byte: u8| byte & 0xc0 == 0x80) {}
            }
            byte => line.push(byte),
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(String::from_utf8_lossy(&line).into_owned())
}

#[cfg(test)]
mod tests {
    use super::line;

    #[test]
    fn lines_as_typed_and_as_piped() {
        let read = |text: &str, keys| line(&mut text.as_bytes(), keys).ok();
        assert_eq!(
            read("pass word\r\nnext", false).as_deref(),
            Some("pass word")
        );
        assert_eq!(read("", false).as_deref(), Some(""));
        assert_eq!(read("ab\u{7f}cé\u{8}d\n", true).as_deref(), Some("acd"));
        assert_eq!(read("ab\u{15}c\u{4}d", true).as_deref(), Some("c"));
        assert_eq!(read("ab\u{3}", true), None);
        assert_eq!(read("a\u{3}b", false).as_deref(), Some("a\u{3}b"));
    }
}
