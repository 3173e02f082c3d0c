//! How the program ends: exit codes, and the error that carries one.

/// Any failure without a code of its own.
pub const ERROR: u8 = 1;
/// No connection could be made (also: authentication failed).
pub const BAD_CONNECTION: u8 = 2;
/// A transaction on standard input that cannot be read.
pub const INVALID_INPUT: u8 = 3;
/// A flag whose value is not supported.
pub const BAD_FEATURE: u8 = 4;
/// A snapshot that did not finish.
pub const INTERRUPTED: u8 = 5;
/// Wrong arguments.
pub const BAD_ARGS: u8 = 128;

/// Why the program ends without success.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub code: u8,
    /// What to print after `Error: `; `None` if everything has been said.
    pub message: Option<String>,
    /// Further lines for a person, below the message.
    pub hint: Option<String>,
}

impl Failure {
    /// A failure with a code and a message.
    pub fn new(code: u8, message: impl Into<String>) -> Self {
        Self {
            code,
            message: Some(message.into()),
            hint: None,
        }
    }

    /// A failure about which everything has been printed.
    pub fn silent(code: u8) -> Self {
        Self {
            code,
            message: None,
            hint: None,
        }
    }

    /// Wrong arguments.
    pub fn args(message: impl Into<String>) -> Self {
        Self::new(BAD_ARGS, message)
    }
}

impl From<ferrite_client::Status> for Failure {
    fn from(status: ferrite_client::Status) -> Self {
        Self::new(ERROR, ferrite_client::describe(&status))
    }
}

impl From<ferrite_client::ConfigError> for Failure {
    fn from(error: ferrite_client::ConfigError) -> Self {
        match error {
            ferrite_client::ConfigError::NoEndpoints => {
                Self::new(BAD_CONNECTION, error.to_string())
            }
            error => Self::args(error.to_string()),
        }
    }
}
