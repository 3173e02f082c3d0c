//! What a chore says when it cannot be done.

/// A sentence for the person who typed the command: what failed, and the way out where there is one.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Error(String);

impl Error {
    /// An error in these words.
    pub fn told(words: impl Into<String>) -> Self {
        Self(words.into())
    }

    /// Turns an I/O error met while doing `what` into words.
    pub fn io(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> Self {
        move |why| Self(format!("{what}: {why}"))
    }
}

/// What most of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;
