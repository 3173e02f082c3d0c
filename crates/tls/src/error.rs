//! Why TLS cannot be configured, in the original's words where it has some.

/// What is wrong with files, names or their combination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A certificate without its key, or the other way round.
    #[error("KeyFile and CertFile must both be present[key: {key}, cert: {cert}]")]
    HalfPair {
        /// The key's file, perhaps empty.
        key: String,
        /// The certificate's file, perhaps empty.
        cert: String,
    },
    /// The same for the pair that is shown when dialling.
    #[error(
        "ClientKeyFile and ClientCertFile must both be present or both absent: key: {key}, cert: {cert}]"
    )]
    HalfClientPair {
        /// The key's file, perhaps empty.
        key: String,
        /// The certificate's file, perhaps empty.
        cert: String,
    },
    /// Two ways to say who is allowed.
    #[error(
        "AllowedCNs and AllowedHostnames are mutually exclusive (cns={cns}, hostnames={hostnames})"
    )]
    TwoAllowLists {
        /// The names as Go prints a list.
        cns: String,
        /// The host names as Go prints a list.
        hostnames: String,
    },
    /// A file cannot be read.
    #[error("open {path}: {why}")]
    Open {
        /// The file.
        path: String,
        /// What the system says.
        why: String,
    },
    /// What a file holds is not what it should be.
    #[error("{what} ({path})")]
    Content {
        /// What is wrong.
        what: String,
        /// The file.
        path: String,
    },
    /// A list of authorities without a single one would turn everybody away.
    #[error("no certificate of an authority in {0}")]
    NoAuthority(String),
    /// A version that has no name here.
    #[error("unexpected TLS version {0:?} (must be one of: TLS1.2, TLS1.3)")]
    Version(String),
    /// No version is left.
    #[error("min version ({min}) is greater than max version ({max})")]
    Versions {
        /// As given.
        min: String,
        /// As given.
        max: String,
    },
    /// Suites of version 1.3 cannot be chosen.
    #[error("cipher suites cannot be configured when only TLS1.3 is enabled")]
    SuitesOfTls13,
    /// A suite nobody knows.
    #[error("unexpected TLS cipher suite {0:?}")]
    UnknownSuite(String),
    /// A suite that the original has and this server has not.
    #[error(
        "TLS cipher suite {name:?} is not offered by Ferrite, which has forward-secret suites with authenticated encryption only: {known}"
    )]
    SuiteNotOffered {
        /// As given.
        name: String,
        /// What can be given.
        known: String,
    },
    /// A validity of no year at all.
    #[error("selfSignedCertValidity is invalid,it should be greater than 0")]
    Validity,
    /// A self-signed certificate could not be made or written.
    #[error("{what}: {why}")]
    SelfSigned {
        /// What failed.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// The library refuses the combination.
    #[error("tls: {0}")]
    Library(String),
}
