//! Why tokens cannot be set up or signed; the texts are etcd's.

/// Why tokens cannot be set up, or one cannot be signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The options say nothing that can be followed, or a key file cannot be read.
    #[error("auth: invalid auth options")]
    InvalidOptions {
        /// What is wrong, for the log; etcd tells it there only.
        reason: String,
    },
    /// The method needs a key, and none is given.
    #[error("auth: missing key data")]
    MissingKey,
    /// The public key is not that of the private key.
    #[error("auth: public and private keys don't match")]
    KeyMismatch,
    /// Only a public key is given, so tokens are accepted and never signed.
    #[error("auth: token signing attempted with verify-only key")]
    VerifyOnly,
    /// A name that the original's library knows, for something that signs nothing.
    #[error("unsupported signing method: *jwt.signingMethodNone")]
    UnsupportedMethod,
    /// A key file is not what the method needs.
    #[error("{0}")]
    Key(String),
    /// The key cannot sign by this method: another curve, or too few bits.
    #[error("{0}")]
    Sign(String),
}

impl Error {
    pub(crate) fn options(reason: impl Into<String>) -> Self {
        Error::InvalidOptions {
            reason: reason.into(),
        }
    }

    /// What to log beside the text: what exactly is wrong with the options.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        match self {
            Error::InvalidOptions { reason } => Some(reason),
            _ => None,
        }
    }
}
