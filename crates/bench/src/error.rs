//! The one error of this tool: words for a person at a terminal, naming the thing and the way out.

use std::fmt;
use std::io;

/// Why a command of this tool could not go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something went wrong that the message names.
    #[error("{0}")]
    Told(String),
    /// An operating system call failed; the text says what was being done.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A server refused a call.
    #[error("{what}: {status}")]
    Call {
        /// What was being asked.
        what: String,
        /// The server's answer.
        status: Box<tonic::Status>,
    },
    /// The user asked to end (Ctrl-C, SIGTERM).
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// An error in plain words.
    pub fn told(words: impl fmt::Display) -> Self {
        Self::Told(words.to_string())
    }

    /// Wraps a system error with what was being done; for `map_err`.
    pub fn io(what: impl fmt::Display) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_string();
        move |source| Self::Io { what, source }
    }

    /// Wraps a server's refusal with what was being asked; for `map_err`.
    pub fn call(what: impl fmt::Display) -> impl FnOnce(tonic::Status) -> Self {
        let what = what.to_string();
        move |status| Self::Call {
            what,
            status: Box::new(status),
        }
    }
}

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;
