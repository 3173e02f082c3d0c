//! The one table of the server's flags, from which the parser, the variables and the help come.
//!
//! The syntax is that of Go's `flag` package: `-x`, `--x`, `--x=v`, `--x v`; a boolean takes its
//! value only after `=`. Every flag can be set as `ETCD_` + its name in capitals.

use std::collections::{BTreeMap, BTreeSet};

use ferrite_cli::gofmt;

use crate::config_file::{self, FileError};
use crate::features::{self, Features};
use crate::proxy;
use crate::urls;

/// What a value must look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text.
    Text,
    /// `true`, `false`, `1`, `0`, `t`, `f` and their capitals.
    Bool,
    /// An unsigned whole number.
    Unsigned,
    /// A whole number.
    Signed,
    /// A duration in Go's form: `100ms`, `1m30s`.
    Duration,
    /// Comma-separated URLs.
    Urls,
    /// A whole number of 32 bits, unsigned.
    Short,
    /// Comma-separated URLs, or `*` for any.
    Origins,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Some of these words, with commas between.
    SomeOf(&'static [&'static str]),
    /// Feature gates: `A=true,B=false`.
    Gates,
    /// Accepted and without effect, as the original does.
    Ignored,
}

/// One flag.
#[derive(Debug)]
pub struct Flag {
    /// Its name, without dashes.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Its default.
    pub default: &'static str,
    /// Where the help shows it; empty for hidden ones.
    pub group: &'static str,
    /// What it does.
    pub help: &'static str,
}

const fn flag(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    group: &'static str,
    help: &'static str,
) -> Flag {
    Flag {
        name,
        kind,
        default,
        group,
        help,
    }
}

const MEMBER: &str = "Member";
const CLUSTERING: &str = "Clustering";
const AUTH: &str = "Auth";
const SECURITY: &str = "Security";
const FEATURES: &str = "Features";
const LOGGING: &str = "Logging";
const TRACING: &str = "Distributed tracing";
const PROFILING: &str = "Profiling and Monitoring";
const UNSAFE: &str = "Unsafe feature";

/// In the order of the help.
const GROUPS: &[&str] = &[
    MEMBER, CLUSTERING, SECURITY, AUTH, PROFILING, LOGGING, TRACING, FEATURES, UNSAFE,
];

/// Every flag of the server.
pub const FLAGS: &[Flag] = &[
    flag(
        "name",
        Kind::Text,
        "default",
        MEMBER,
        "Name of this member, for people.",
    ),
    flag(
        "data-dir",
        Kind::Text,
        "",
        MEMBER,
        "Folder of the member's data; ${name}.etcd when empty.",
    ),
    flag(
        "wal-dir",
        Kind::Text,
        "",
        MEMBER,
        "Folder of the write-ahead log, if it is to be elsewhere than in the data.",
    ),
    flag(
        "snapshot-count",
        Kind::Unsigned,
        "10000",
        MEMBER,
        "Applied entries after which a snapshot is taken and old log is released.",
    ),
    flag(
        "snapshot-catchup-entries",
        Kind::Unsigned,
        "5000",
        MEMBER,
        "Entries kept in memory for a follower that lags a little.",
    ),
    flag(
        "heartbeat-interval",
        Kind::Unsigned,
        "100",
        MEMBER,
        "Milliseconds between heartbeats.",
    ),
    flag(
        "election-timeout",
        Kind::Unsigned,
        "1000",
        MEMBER,
        "Milliseconds without a leader after which an election starts.",
    ),
    flag(
        "initial-election-tick-advance",
        Kind::Bool,
        "true",
        MEMBER,
        "Shorten the first election at start.",
    ),
    flag(
        "listen-peer-urls",
        Kind::Urls,
        "http://localhost:2380",
        MEMBER,
        "Where to listen for other members.",
    ),
    flag(
        "listen-client-urls",
        Kind::Urls,
        "http://localhost:2379",
        MEMBER,
        "Where to listen for clients.",
    ),
    flag(
        "listen-client-http-urls",
        Kind::Urls,
        "",
        MEMBER,
        "Where to serve HTTP alone; --listen-client-urls then serves gRPC alone.",
    ),
    flag(
        "listen-metrics-urls",
        Kind::Urls,
        "",
        MEMBER,
        "Where to serve metrics and health besides.",
    ),
    flag(
        "max-concurrent-streams",
        Kind::Short,
        "4294967295",
        MEMBER,
        "Calls that a client may have under way on one connection.",
    ),
    flag(
        "enable-grpc-gateway",
        Kind::Bool,
        "true",
        MEMBER,
        "Serve JSON below /v3/ for clients that do not speak gRPC.",
    ),
    flag(
        "grpc-keepalive-min-time",
        Kind::Duration,
        "5s",
        MEMBER,
        "Least time between two pings of a client; who pings more often is disconnected.",
    ),
    flag(
        "grpc-keepalive-interval",
        Kind::Duration,
        "2h0m0s",
        MEMBER,
        "Silence after which a client is pinged (0 for never; at least 1s).",
    ),
    flag(
        "grpc-keepalive-timeout",
        Kind::Duration,
        "20s",
        MEMBER,
        "Time a client has to answer a ping before it is disconnected (0 for no pings).",
    ),
    flag(
        "socket-reuse-port",
        Kind::Bool,
        "false",
        MEMBER,
        "Let other processes listen on the same addresses (SO_REUSEPORT).",
    ),
    flag(
        "socket-reuse-address",
        Kind::Bool,
        "false",
        MEMBER,
        "Listen on an address whose old connections are not forgotten yet (SO_REUSEADDR). Ferrite always does, whatever is said here.",
    ),
    flag(
        "max-snapshots",
        Kind::Unsigned,
        "5",
        MEMBER,
        "Snapshot files to keep (0: all). Deprecated, as in the original.",
    ),
    flag(
        "max-wals",
        Kind::Unsigned,
        "5",
        MEMBER,
        "Log segments to keep after release (0: all).",
    ),
    flag(
        "quota-backend-bytes",
        Kind::Signed,
        "0",
        MEMBER,
        "Size at which the database refuses writes; 0 is 2 GiB, negative is no limit.",
    ),
    flag(
        "backend-bbolt-freelist-type",
        Kind::Text,
        "",
        MEMBER,
        "array or map. The original keeps free pages in one or the other; here it makes no difference.",
    ),
    flag(
        "memory-mlock",
        Kind::Bool,
        "false",
        MEMBER,
        "Keep all memory of the process in RAM; needs the right to (LimitMEMLOCK=infinity).",
    ),
    flag(
        "backend-batch-interval",
        Kind::Duration,
        "0s",
        MEMBER,
        "Longest time between commits of the database file; 0 is 100ms.",
    ),
    flag(
        "auto-compaction-mode",
        Kind::Text,
        "periodic",
        MEMBER,
        "What --auto-compaction-retention counts: 'periodic' for time, 'revision' for revisions.",
    ),
    flag(
        "auto-compaction-retention",
        Kind::Text,
        "0",
        MEMBER,
        "How much history to keep: hours ('8') or a time ('30m'), or a number of revisions; 0 keeps all.",
    ),
    flag(
        "compaction-batch-limit",
        Kind::Signed,
        "0",
        MEMBER,
        "Keys a compaction looks at before it pauses; 0 is 1000.",
    ),
    flag(
        "compaction-sleep-interval",
        Kind::Duration,
        "0s",
        MEMBER,
        "How long a compaction then pauses; 0 is 10ms.",
    ),
    flag(
        "backend-batch-limit",
        Kind::Signed,
        "0",
        MEMBER,
        "Changes after which the database file is committed at once; 0 is 10000.",
    ),
    flag(
        "max-txn-ops",
        Kind::Unsigned,
        "128",
        MEMBER,
        "Operations allowed in a transaction.",
    ),
    flag(
        "memory-limit-bytes",
        Kind::Unsigned,
        "0",
        MEMBER,
        "Ferrite's own: memory to plan buffers for; 0 is what the control group allows.",
    ),
    flag(
        "max-request-bytes",
        Kind::Unsigned,
        "1572864",
        MEMBER,
        "Largest request, in bytes, as it goes into the log.",
    ),
    flag(
        "raft-read-timeout",
        Kind::Duration,
        "5s",
        MEMBER,
        "Silence after which a connection between members is given up; at least 5s.",
    ),
    flag(
        "raft-write-timeout",
        Kind::Duration,
        "5s",
        MEMBER,
        "Time a write to another member may take; at least 5s.",
    ),
    flag(
        "warning-apply-duration",
        Kind::Duration,
        "100ms",
        MEMBER,
        "Applying a request for longer than this is logged.",
    ),
    flag(
        "metrics",
        Kind::Text,
        "basic",
        PROFILING,
        "basic or extensive; with extensive the time of every call is counted, too.",
    ),
    flag(
        "warning-unary-request-duration",
        Kind::Duration,
        "300ms",
        MEMBER,
        "Serving a call for longer than this is logged.",
    ),
    flag(
        "watch-progress-notify-interval",
        Kind::Duration,
        "10m0s",
        MEMBER,
        "Silence after which watchers that ask for it are told how far they are; at least 100ms.",
    ),
    flag(
        "initial-advertise-peer-urls",
        Kind::Urls,
        "http://localhost:2380",
        CLUSTERING,
        "Where other members reach this one.",
    ),
    flag(
        "initial-cluster",
        Kind::Text,
        "default=http://localhost:2380",
        CLUSTERING,
        "The members a new cluster starts with: name=URL,name=URL.",
    ),
    flag(
        "initial-cluster-state",
        Kind::OneOf(&["new", "existing"]),
        "new",
        CLUSTERING,
        "\"new\" to found a cluster, \"existing\" to join one.",
    ),
    flag(
        "initial-cluster-token",
        Kind::Text,
        "etcd-cluster",
        CLUSTERING,
        "Keeps clusters apart that were founded alike.",
    ),
    flag(
        "advertise-client-urls",
        Kind::Urls,
        "http://localhost:2379",
        CLUSTERING,
        "Where clients reach this member.",
    ),
    flag(
        "strict-reconfig-check",
        Kind::Bool,
        "true",
        CLUSTERING,
        "Refuse membership changes that would endanger the quorum.",
    ),
    flag(
        "pre-vote",
        Kind::Bool,
        "true",
        CLUSTERING,
        "Ask before standing for election, so that a member that returns disturbs nobody.",
    ),
    flag(
        "hold-cluster-version",
        Kind::Text,
        "",
        CLUSTERING,
        "Ferrite's own: version, as 3.5, that the cluster is not to rise above, so that older programs can come back.",
    ),
    flag(
        "max-learners",
        Kind::Signed,
        "1",
        CLUSTERING,
        "Learners allowed in the cluster.",
    ),
    flag(
        "discovery-endpoints",
        Kind::Text,
        "",
        CLUSTERING,
        "Cluster in which members that found a cluster meet: addresses with commas between.",
    ),
    flag(
        "discovery-token",
        Kind::Text,
        "",
        CLUSTERING,
        "Under which they meet there.",
    ),
    flag(
        "discovery-dial-timeout",
        Kind::Duration,
        "2s",
        CLUSTERING,
        "Time to connect to that cluster.",
    ),
    flag(
        "discovery-request-timeout",
        Kind::Duration,
        "5s",
        CLUSTERING,
        "Time for a request to it.",
    ),
    flag(
        "discovery-keepalive-time",
        Kind::Duration,
        "2s",
        CLUSTERING,
        "Silence after which it is asked whether it is there; at least 10s.",
    ),
    flag(
        "discovery-keepalive-timeout",
        Kind::Duration,
        "6s",
        CLUSTERING,
        "Time for it to answer that.",
    ),
    flag(
        "discovery-insecure-transport",
        Kind::Bool,
        "true",
        CLUSTERING,
        "Do not encrypt, where nothing below asks for it.",
    ),
    flag(
        "discovery-insecure-skip-tls-verify",
        Kind::Bool,
        "false",
        CLUSTERING,
        "Do not check its certificate. For tests only.",
    ),
    flag(
        "discovery-cert",
        Kind::Text,
        "",
        CLUSTERING,
        "Certificate to show there (PEM).",
    ),
    flag(
        "discovery-key",
        Kind::Text,
        "",
        CLUSTERING,
        "Its key (PEM).",
    ),
    flag(
        "discovery-cacert",
        Kind::Text,
        "",
        CLUSTERING,
        "Authorities that its certificate must come from (PEM).",
    ),
    flag(
        "discovery-user",
        Kind::Text,
        "",
        CLUSTERING,
        "User there, as name or name:password.",
    ),
    flag(
        "discovery-password",
        Kind::Text,
        "",
        CLUSTERING,
        "Password of that user.",
    ),
    flag(
        "discovery-srv",
        Kind::Text,
        "",
        CLUSTERING,
        "Domain whose SRV records list the members that a new cluster starts with.",
    ),
    flag(
        "discovery-srv-name",
        Kind::Text,
        "",
        CLUSTERING,
        "What follows the service's name in those records: etcd-server-NAME.",
    ),
    flag(
        "discovery-fallback",
        Kind::OneOf(&["exit", "proxy"]),
        "exit",
        CLUSTERING,
        "What to do when discovery fails: only exit.",
    ),
    flag(
        "v2-deprecation",
        Kind::SomeOf(&[
            "write-only",
            "write-only-skip-check",
            "write-only-drop-data",
            "gone",
        ]),
        "write-only",
        CLUSTERING,
        "Checked and then ignored, as in the original, which drops it in 3.8.",
    ),
    flag(
        "auth-token",
        Kind::Text,
        "simple",
        AUTH,
        "Kind of authentication tokens: simple, or jwt with its options, separated by commas.",
    ),
    flag(
        "bcrypt-cost",
        Kind::Unsigned,
        "10",
        AUTH,
        "Cost of a password's hash: 4 to 31, each step doubles it.",
    ),
    flag(
        "auth-token-ttl",
        Kind::Unsigned,
        "300",
        AUTH,
        "Seconds a simple token lives without being used.",
    ),
    flag(
        "cert-file",
        Kind::Text,
        "",
        SECURITY,
        "Certificate that clients are shown (PEM); read again at every handshake.",
    ),
    flag("key-file", Kind::Text, "", SECURITY, "Its key (PEM)."),
    flag(
        "client-cert-file",
        Kind::Text,
        "",
        SECURITY,
        "Certificate for dialling where one is asked for; checked at start.",
    ),
    flag(
        "client-key-file",
        Kind::Text,
        "",
        SECURITY,
        "Its key (PEM).",
    ),
    flag(
        "client-cert-auth",
        Kind::Bool,
        "false",
        SECURITY,
        "Let in only clients with a certificate; with users, its common name is the user.",
    ),
    flag(
        "trusted-ca-file",
        Kind::Text,
        "",
        SECURITY,
        "Authorities that clients' certificates must come from (PEM); read again at every handshake.",
    ),
    flag(
        "client-crl-file",
        Kind::Text,
        "",
        SECURITY,
        "List of revoked client certificates (DER or PEM); read again at every handshake.",
    ),
    flag(
        "client-cert-allowed-hostname",
        Kind::Text,
        "",
        SECURITY,
        "Host names, with commas between, for one of which a client's certificate must be valid.",
    ),
    flag(
        "auto-tls",
        Kind::Bool,
        "false",
        SECURITY,
        "Make a certificate for clients where none is given; nobody can check it.",
    ),
    flag(
        "peer-cert-file",
        Kind::Text,
        "",
        SECURITY,
        "Certificate that other members are shown (PEM); read again at every handshake.",
    ),
    flag("peer-key-file", Kind::Text, "", SECURITY, "Its key (PEM)."),
    flag(
        "peer-client-cert-file",
        Kind::Text,
        "",
        SECURITY,
        "Certificate to show when connecting to members; --peer-cert-file when empty.",
    ),
    flag(
        "peer-client-key-file",
        Kind::Text,
        "",
        SECURITY,
        "Its key (PEM).",
    ),
    flag(
        "peer-client-cert-auth",
        Kind::Bool,
        "false",
        SECURITY,
        "Let in only members with a certificate.",
    ),
    flag(
        "peer-trusted-ca-file",
        Kind::Text,
        "",
        SECURITY,
        "Authorities that members' certificates must come from (PEM); read again at every handshake.",
    ),
    flag(
        "peer-crl-file",
        Kind::Text,
        "",
        SECURITY,
        "List of revoked member certificates (DER or PEM); read again at every handshake.",
    ),
    flag(
        "peer-cert-allowed-cn",
        Kind::Text,
        "",
        SECURITY,
        "Common names, with commas between, of which a member's certificate must bear one.",
    ),
    flag(
        "peer-cert-allowed-hostname",
        Kind::Text,
        "",
        SECURITY,
        "Host names, with commas between, for one of which a member's certificate must be valid.",
    ),
    flag(
        "peer-skip-client-san-verification",
        Kind::Bool,
        "false",
        SECURITY,
        "Do not hold a member's certificate against the address it comes from.",
    ),
    flag(
        "peer-auto-tls",
        Kind::Bool,
        "false",
        SECURITY,
        "Make a certificate for members where none is given; nobody can check it.",
    ),
    flag(
        "self-signed-cert-validity",
        Kind::Unsigned,
        "1",
        SECURITY,
        "Years that certificates of --auto-tls and --peer-auto-tls are good for.",
    ),
    flag(
        "cors",
        Kind::Origins,
        "*",
        SECURITY,
        "Origins from which scripts in browsers may ask, with commas between; * for any.",
    ),
    flag(
        "host-whitelist",
        Kind::Text,
        "*",
        SECURITY,
        "Host names by which HTTP requests in clear text may call this member, with commas between; * for any.",
    ),
    flag(
        "cipher-suites",
        Kind::Text,
        "",
        SECURITY,
        "Suites of TLS 1.2 to allow, by Go's names with commas between; all when empty.",
    ),
    flag(
        "tls-min-version",
        Kind::Text,
        "TLS1.2",
        SECURITY,
        "Oldest version of TLS to speak: TLS1.2 or TLS1.3.",
    ),
    flag(
        "tls-max-version",
        Kind::Text,
        "",
        SECURITY,
        "Newest version of TLS to speak: TLS1.2 or TLS1.3; the newest there is when empty.",
    ),
    flag(
        "enable-pprof",
        Kind::Bool,
        "false",
        PROFILING,
        "Serve /debug/pprof/, which tells what every thread and queue is doing.",
    ),
    flag(
        "logger",
        Kind::Text,
        "zap",
        LOGGING,
        "Only zap (whose line format is kept).",
    ),
    flag(
        "log-outputs",
        Kind::Text,
        "default",
        LOGGING,
        "stdout, stderr, systemd/journal, or paths of files, with commas between; default is stderr.",
    ),
    flag(
        "log-level",
        Kind::Text,
        "info",
        LOGGING,
        "debug, info, warn, error, panic or fatal.",
    ),
    flag(
        "log-format",
        Kind::Text,
        "json",
        LOGGING,
        "json or console.",
    ),
    flag(
        "feature-gates",
        Kind::Gates,
        "",
        MEMBER,
        "What is to be switched on or off, as name=true|false separated by commas:",
    ),
    flag(
        "enable-log-rotation",
        Kind::Bool,
        "false",
        LOGGING,
        "Begin a new log file when the one of --log-outputs has grown large.",
    ),
    flag(
        "log-rotation-config-json",
        Kind::Text,
        "{\"maxsize\": 100, \"maxage\": 0, \"maxbackups\": 0, \"localtime\": false, \"compress\": false}",
        LOGGING,
        "When, and what becomes of old ones: MB, days, files (0: no limit), local time in names, gzip.",
    ),
    flag(
        "enable-distributed-tracing",
        Kind::Bool,
        "false",
        TRACING,
        "Send spans of requests to a collector, by OTLP over gRPC.",
    ),
    flag(
        "distributed-tracing-address",
        Kind::Text,
        "localhost:4317",
        TRACING,
        "Where that collector listens.",
    ),
    flag(
        "distributed-tracing-service-name",
        Kind::Text,
        "etcd",
        TRACING,
        "Name of the service in spans; the same for all members.",
    ),
    flag(
        "distributed-tracing-instance-id",
        Kind::Text,
        "",
        TRACING,
        "Name of this member in spans; its own for each.",
    ),
    flag(
        "distributed-tracing-sampling-rate",
        Kind::Signed,
        "0",
        TRACING,
        "Of a million requests whose callers do not decide it, how many are traced.",
    ),
    flag(
        "corrupt-check-time",
        Kind::Duration,
        "0s",
        FEATURES,
        "Time between comparisons of the members' data; 0 for none.",
    ),
    flag(
        "compact-hash-check-time",
        Kind::Duration,
        "1m0s",
        FEATURES,
        "Time between comparisons of what compactions left, with the gate CompactHashCheck.",
    ),
    flag(
        "downgrade-check-time",
        Kind::Duration,
        "5s",
        FEATURES,
        "Time between looks whether a downgrade is complete; 0 for none.",
    ),
    flag(
        "bootstrap-defrag-threshold-megabytes",
        Kind::Unsigned,
        "0",
        FEATURES,
        "Defragment the database at start if that frees at least so much; 0 for never.",
    ),
    flag(
        "force-new-cluster",
        Kind::Bool,
        "false",
        UNSAFE,
        "Make a cluster of one out of this member's data. The last resort after a lost quorum.",
    ),
    flag(
        "unsafe-no-fsync",
        Kind::Bool,
        "false",
        UNSAFE,
        "Do not wait for the disk. Loses acknowledged writes at a power cut.",
    ),
    flag(
        "config-file",
        Kind::Text,
        "",
        MEMBER,
        "Read everything from this file (YAML or JSON) instead: other flags and variables do not count.",
    ),
    flag(
        "version",
        Kind::Bool,
        "false",
        "",
        "Print the version and exit.",
    ),
    flag("cluster-active-size", Kind::Ignored, "", "", ""),
    flag("cluster-remove-delay", Kind::Ignored, "", "", ""),
    flag("cluster-sync-interval", Kind::Ignored, "", "", ""),
    flag("config", Kind::Ignored, "", "", ""),
    flag("force", Kind::Ignored, "", "", ""),
    flag("max-result-buffer", Kind::Ignored, "", "", ""),
    flag("max-retry-attempts", Kind::Ignored, "", "", ""),
    flag("peer-heartbeat-interval", Kind::Ignored, "", "", ""),
    flag("peer-election-timeout", Kind::Ignored, "", "", ""),
    flag("retry-interval", Kind::Ignored, "", "", ""),
    flag("snapshot", Kind::Ignored, "", "", ""),
    flag("test.coverprofile", Kind::Ignored, "", "", ""),
    flag("test.outputdir", Kind::Ignored, "", "", ""),
    flag("v", Kind::Ignored, "", "", ""),
    flag("vv", Kind::Ignored, "", "", ""),
];

/// Why the arguments or variables do not do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// `-h` or `--help` was given.
    #[error("help requested")]
    Help,
    /// The command line does not parse: usage is shown, status 2.
    #[error("{0}")]
    Usage(String),
    /// It parses, and cannot be: status 1.
    #[error("{0}")]
    Invalid(String),
    /// A variable and a flag say the same thing twice: a fatal line, status 1.
    #[error("{SHADOWED}: {0}")]
    Shadowed(String),
    /// Told bare, without a log line: status 1.
    #[error("{0}")]
    Bare(String),
}

/// The original's words for [`FlagError::Shadowed`].
pub const SHADOWED: &str = "conflicting environment variable is shadowed by corresponding command-line flag (either unset environment variable or disable flag))";

/// What is worth a line in the log about where the settings come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// A file was read; nothing else counts.
    Loaded(String),
    /// A variable set a flag: its name and value.
    Recognized(String, String),
    /// A variable that sets nothing, with its value.
    Unrecognized(String),
    /// A key in the file that sets nothing.
    UnknownKey {
        /// The file.
        file: String,
        /// The key, with the sections around it.
        key: String,
        /// What was probably meant.
        meant: Option<String>,
    },
    /// `ETCD_VERSION` is no setting, and usual in containers.
    Version(String),
}

impl Note {
    /// Writes it.
    pub fn log(&self) {
        match self {
            Note::Loaded(path) => tracing::info!(
                path,
                "loaded server configuration, other configuration command line flags and environment variables will be ignored if provided"
            ),
            Note::Recognized(name, value) => tracing::info!(
                "variable-name" = name,
                "variable-value" = value,
                "recognized and used environment variable"
            ),
            Note::Unrecognized(variable) => match meant(variable) {
                Some(meant) => tracing::warn!(
                    "environment-variable" = variable,
                    "did-you-mean" = meant,
                    "unrecognized environment variable"
                ),
                None => tracing::warn!(
                    "environment-variable" = variable,
                    "unrecognized environment variable"
                ),
            },
            Note::UnknownKey { file, key, meant } => tracing::warn!(
                path = file,
                key,
                "did-you-mean" = meant.as_deref().unwrap_or_default(),
                "unknown key in the configuration file; it sets nothing"
            ),
            Note::Version(value) => tracing::warn!(
                key = "ETCD_VERSION",
                value,
                "cannot set special environment variable"
            ),
        }
    }
}

/// Flags as given, with where each comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values {
    given: BTreeMap<&'static str, String>,
    /// Things worth a line in the log: unknown variables and the like.
    pub notes: Vec<Note>,
    file: Option<String>,
}

fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// The variable that was probably meant by `NAME=value`.
fn meant(variable: &str) -> Option<String> {
    let name = variable.split('=').next()?.strip_prefix("ETCD_")?;
    let name = name.to_lowercase().replace('_', "-");
    let plain = name.strip_prefix("experimental-").and_then(find);
    let known = plain.map(|flag| flag.name).or_else(|| closest(&name))?;
    // An empty value sets nothing, whatever its name.
    (known != name).then(|| self::variable(known))
}

/// The name of the variable that sets a flag.
pub fn variable(name: &str) -> String {
    format!("ETCD_{}", name.to_uppercase().replace('-', "_"))
}

impl Values {
    /// Reads the command line (without the program's name) and then the variables.
    ///
    /// # Errors
    /// [`FlagError`], worded as the original words it.
    pub fn parse(
        arguments: &[String],
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, FlagError> {
        let mut values = Values::default();
        let mut rest = arguments.iter();
        // The flag before, if it was one without a word of its own.
        let mut bare = None;
        while let Some(argument) = rest.next() {
            let stripped = argument
                .strip_prefix("--")
                .or_else(|| argument.strip_prefix('-'));
            let Some(body) = stripped.filter(|body| !body.is_empty()) else {
                let first = if argument == "--" {
                    rest.next()
                } else {
                    Some(argument)
                };
                return match first {
                    Some(first) => Err(FlagError::Invalid(stray(first, bare))),
                    None => break,
                };
            };
            if body.starts_with(['-', '=']) {
                return Err(FlagError::Usage(format!("bad flag syntax: {argument}")));
            }
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            let Some(flag) = find(name) else {
                if name == "h" || name == "help" {
                    return Err(FlagError::Help);
                }
                return Err(FlagError::Usage(unknown(name)));
            };
            bare = (value.is_none() && flag.kind == Kind::Bool).then_some(flag.name);
            let value = match (value, flag.kind) {
                (Some(value), _) => value,
                (None, Kind::Bool | Kind::Ignored) => "true".to_owned(),
                (None, _) => match rest.next() {
                    Some(value) => value.clone(),
                    None => {
                        return Err(FlagError::Usage(format!("flag needs an argument: -{name}")));
                    }
                },
            };
            check(flag, &value).map_err(|why| {
                let what = if flag.kind == Kind::Bool {
                    "boolean "
                } else {
                    ""
                };
                let preposition = if flag.kind == Kind::Bool { "" } else { "flag " };
                FlagError::Usage(format!(
                    "invalid {what}value {value:?} for {preposition}-{name}: {why}"
                ))
            })?;
            if flag.kind == Kind::Urls && value.is_empty() {
                // Nothing is not no URL: what was there before stays, and is now given.
                let before = values.text(flag.name).to_owned();
                values.given.insert(flag.name, before);
                continue;
            }
            values.given.insert(flag.name, value);
        }
        if values.bool("version") {
            return Ok(values);
        }
        let variables: BTreeMap<String, String> = variables
            .into_iter()
            .filter(|(name, _)| name.starts_with("ETCD_"))
            .collect();
        let file = match values.text("config-file") {
            "" => variables.get("ETCD_CONFIG_FILE").map_or("", String::as_str),
            path => path,
        };
        if !file.is_empty() {
            return Values::from_file(file);
        }
        values.read_variables(variables)?;
        Ok(values)
    }

    /// Everything from a file.
    fn from_file(path: &str) -> Result<Self, FlagError> {
        // The original's words do not say which file it is.
        let placed = |why: String| match why.contains(path) {
            true => why,
            false => format!("{why} (in {path})"),
        };
        let (settings, unknown) = config_file::read_all(path).map_err(|error| match error {
            FileError::Logged(why) => FlagError::Invalid(placed(why)),
            FileError::Bare(why) => FlagError::Bare(placed(why)),
        })?;
        let mut notes = vec![Note::Loaded(path.to_owned())];
        notes.extend(unknown.into_iter().map(|(key, meant)| Note::UnknownKey {
            file: path.to_owned(),
            key,
            meant,
        }));
        Ok(Values {
            given: settings.into_iter().collect(),
            notes,
            file: Some(path.to_owned()),
        })
    }

    /// Whether a file was read, and nothing else.
    pub fn is_from_file(&self) -> bool {
        self.file.is_some()
    }

    /// That file.
    pub fn config_file(&self) -> Option<&str> {
        self.file.as_deref()
    }

    fn read_variables(&mut self, mut ours: BTreeMap<String, String>) -> Result<(), FlagError> {
        if let Some(version) = ours.remove("ETCD_VERSION").filter(|v| !v.is_empty()) {
            self.notes.push(Note::Version(version));
        }
        for flag in FLAGS {
            let name = variable(flag.name);
            let Some(value) = ours.remove(&name) else {
                continue;
            };
            if self.given.contains_key(flag.name) {
                return Err(FlagError::Shadowed(name));
            }
            if value.is_empty() {
                ours.insert(name, value);
                continue;
            }
            check(flag, &value).map_err(|why| {
                FlagError::Invalid(format!("invalid value {value:?} for {name}: {why}"))
            })?;
            let shown = match flag.name.contains("password") {
                true => "(hidden)".to_owned(),
                false => value.clone(),
            };
            self.notes.push(Note::Recognized(name, shown));
            self.given.insert(flag.name, value);
        }
        self.notes.extend(
            ours.into_iter()
                .map(|(name, value)| Note::Unrecognized(format!("{name}={value}"))),
        );
        Ok(())
    }

    /// Whether the flag was given, by argument or variable.
    pub fn is_set(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The value, or the default. A name that is not in the table gives an empty text.
    pub fn text(&self, name: &str) -> &str {
        self.given
            .get(name)
            .map(String::as_str)
            .or_else(|| find(name).map(|flag| flag.default))
            .unwrap_or_default()
    }

    /// What stands in a list. An empty text that was given is one of nothing but itself: `['']`.
    pub fn list(&self, name: &str) -> Vec<String> {
        let between = match self.is_from_file() && self.is_set(name) {
            true => config_file::BETWEEN,
            false => ',',
        };
        let text = self.text(name);
        if text.is_empty() && !self.is_set(name) {
            return Vec::new();
        }
        text.split(between).map(str::to_owned).collect()
    }

    /// A checked boolean.
    pub fn bool(&self, name: &str) -> bool {
        parse_bool(self.text(name)).unwrap_or(false)
    }

    /// A checked unsigned number.
    pub fn unsigned(&self, name: &str) -> u64 {
        parse_unsigned(self.text(name)).unwrap_or(0)
    }

    /// A checked signed number.
    pub fn signed(&self, name: &str) -> i64 {
        gofmt::parse_int(self.text(name), 0).unwrap_or(0)
    }

    /// A checked duration.
    pub fn duration(&self, name: &str) -> std::time::Duration {
        parse_duration(self.text(name)).unwrap_or_default()
    }

    /// The checked feature gates.
    pub fn features(&self, name: &str) -> Features {
        Features::parse(self.text(name)).unwrap_or_default()
    }

    /// Checked origins.
    pub fn origins(&self, name: &str) -> Origins {
        Origins::parse(self.text(name)).unwrap_or_default()
    }

    /// A checked list of URLs.
    pub fn urls(&self, name: &str) -> Vec<Url> {
        match self.text(name) {
            "" => Vec::new(),
            text => parse_urls(text).unwrap_or_default(),
        }
    }
}

/// A word that belongs to no flag.
fn stray(word: &str, bare: Option<&str>) -> String {
    let text = format!("{word:?} is not a valid flag");
    if let (Some(flag), Some(_)) = (bare, parse_bool(word)) {
        return format!("{text}: write --{flag}={word}");
    }
    match bare.is_none() && word.len() > 3 {
        true if !ferrite_cli::similar(["gateway", "grpc-proxy"].into_iter(), word).is_empty() => {
            format!("{text}, and the commands are gateway and grpc-proxy")
        }
        _ => text,
    }
}

fn unknown(name: &str) -> String {
    let text = format!("flag provided but not defined: -{name}");
    // Most flags have left that name behind.
    let plain = name.strip_prefix("experimental-").and_then(find);
    match plain.map(|flag| flag.name).or_else(|| closest(name)) {
        Some(known) => format!("{text}\nDid you mean --{known}?"),
        None => text,
    }
}

/// The flag whose name is at most three edits away, or half of itself.
pub(crate) fn closest(name: &str) -> Option<&'static str> {
    FLAGS
        .iter()
        .filter(|flag| !flag.help.is_empty())
        .map(|flag| (edits(name, flag.name), flag.name))
        .min()
        // A short name is close to everything.
        .filter(|(distance, known)| *distance <= known.len().div_ceil(2).min(3))
        .map(|(_, known)| known)
}

pub(crate) fn edits(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.bytes().enumerate() {
            let substituted = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

fn check(flag: &Flag, value: &str) -> Result<(), String> {
    match flag.kind {
        Kind::Text | Kind::Ignored => Ok(()),
        Kind::Bool => parse_bool(value)
            .map(drop)
            .ok_or_else(|| "parse error".into()),
        Kind::Unsigned => parse_unsigned(value)
            .map(drop)
            .ok_or_else(|| "parse error".into()),
        Kind::Signed => gofmt::parse_int(value, 0)
            .map(drop)
            .map_err(|_| "parse error".into()),
        Kind::Duration => parse_duration(value)
            .map(drop)
            .ok_or_else(|| "parse error".into()),
        Kind::Urls if value.is_empty() => Ok(()),
        Kind::Urls => parse_urls(value).map(drop),
        Kind::Short => parse_short(value).map(drop),
        Kind::Origins => Origins::parse(value).map(drop),
        Kind::Gates => Features::parse(value).map(drop),
        Kind::OneOf(words) if words.contains(&value) => Ok(()),
        Kind::OneOf(_) => Err("invalid value".into()),
        Kind::SomeOf(words) => match value.split(',').find(|word| !words.contains(word)) {
            Some(word) => Err(format!("invalid value {word:?}")),
            None => Ok(()),
        },
    }
}

/// A boolean as Go reads it.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn parse_unsigned(text: &str) -> Option<u64> {
    gofmt::parse_uint(text, 0).ok()
}

fn parse_short(text: &str) -> Result<u32, String> {
    let said = |why: &str| format!("strconv.ParseUint: parsing {text:?}: {why}");
    match parse_unsigned(text) {
        Some(number) => u32::try_from(number).map_err(|_| said("value out of range")),
        None => Err(said("invalid syntax")),
    }
}

/// From where scripts in browsers may ask.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Origins {
    /// From anywhere.
    #[default]
    Any,
    /// From these.
    These(BTreeSet<String>),
}

impl Origins {
    /// Reads a list of them.
    ///
    /// # Errors
    /// The original's words for what is wrong with the first bad one.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Origins::Any);
        }
        let urls = parse_urls(text)?;
        Ok(Origins::These(urls.iter().map(Url::to_string).collect()))
    }
}

/// A Go duration: numbers, fractions allowed, each with a unit. Negative ones are none of ours.
pub fn parse_duration(text: &str) -> Option<std::time::Duration> {
    gofmt::parse_duration(text).ok()
}

/// A URL a member listens on or is reached at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    /// `http`, `https`, `unix` or `unixs`.
    pub scheme: String,
    /// A user, a password and the `@` after them, or nothing. They are shown, not used.
    pub user: String,
    /// `host:port`, or the path of a socket.
    pub address: String,
    /// What stands after the address, from its question mark on. It is shown, not used.
    pub query: String,
}

impl Url {
    /// Whether it is the path of a socket.
    pub fn is_socket(&self) -> bool {
        self.scheme.starts_with("unix")
    }

    /// Whether connections are to be encrypted.
    pub fn is_encrypted(&self) -> bool {
        matches!(self.scheme.as_str(), "https" | "unixs")
    }

    /// The host; `None` for sockets.
    pub fn host(&self) -> Option<&str> {
        self.parts().map(|(host, _)| host)
    }

    /// Host and port as they stand there.
    fn parts(&self) -> Option<(&str, &str)> {
        if self.is_socket() {
            return None;
        }
        let (host, port) = self.address.rsplit_once(':')?;
        Some((host.trim_start_matches('[').trim_end_matches(']'), port))
    }

    /// Host and port apart; `None` for sockets, and where the port is none.
    pub fn host_port(&self) -> Option<(&str, u16)> {
        let (host, port) = self.parts()?;
        let port = match port {
            // Any that is free.
            "" => 0,
            port => port.parse().ok()?,
        };
        Some((host, port))
    }

    /// The port, where it is none.
    pub fn bad_port(&self) -> Option<&str> {
        let (_, port) = self.parts()?;
        let bad = !port.is_empty() && port.parse::<u16>().is_err();
        bad.then_some(port)
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}://{}{}{}",
            self.scheme, self.user, self.address, self.query
        )
    }
}

/// Reads a comma-separated list of URLs; sorted, as etcd keeps them.
///
/// # Errors
/// The original's words for what is wrong with the first bad one.
pub fn parse_urls(text: &str) -> Result<Vec<Url>, String> {
    urls_of(text.split(','))
}

/// As [`parse_urls`], of a list in which each stands for itself.
///
/// # Errors
/// As [`parse_urls`].
pub fn urls_of<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Vec<Url>, String> {
    let read = texts.into_iter().map(urls::read);
    let mut urls = read.collect::<Result<Vec<_>, String>>()?;
    urls.sort();
    Ok(urls)
}

/// The first lines of the help, also shown after a mistake.
pub const USAGE: &str = "Usage:

  etcd [flags]
    Start a member.

  etcd --version
    Show the version.

  etcd -h | --help
    Show every flag.

  etcd gateway | grpc-proxy
    Stand before a cluster, holding no data; each has a help of its own.

  etcd --config-file
    Read everything from a file, in YAML or JSON; other flags and variables do not count then.
    Durations in a file are whole nanoseconds (600000000000 for 10m).
";

/// The list of flags for `--help`.
pub fn help() -> String {
    let mut out = String::new();
    for group in GROUPS {
        out.push_str(&format!("\n{group}:\n"));
        for flag in FLAGS.iter().filter(|flag| flag.group == *group) {
            out.push_str(&format!(
                "  --{} '{}'   ({})\n    {}\n",
                flag.name,
                flag.default,
                variable(flag.name),
                flag.help
            ));
            if flag.kind == Kind::Gates {
                for line in features::known() {
                    out.push_str(&format!("    {line}\n"));
                }
            }
        }
    }
    out
}

/// The page of the flags, docs/flags.md.
pub fn page() -> String {
    let mut out = String::from(
        "# Flags of `etcd`\n\n\
         Written from the table in `crates/server/src/flags.rs`; a test holds it equal. Each flag can be set as\n\
         `-x=v`, `--x=v` or `--x v`, and by a variable: `ETCD_` and its name in capitals. One that is true or\n\
         false is switched on by `--x` alone and off by `--x=false`; after a space no value is read for it. With\n\
         `--config-file` everything comes from the file (YAML or JSON); the key of a flag is its name unless the\n\
         last column says otherwise. Durations are like `100ms` or `1m30s`, in a file whole nanoseconds.\n",
    );
    for group in GROUPS {
        out.push_str(&format!(
            "\n## {group}\n\n| flag | default | what it does | in a file |\n|---|---|---|---|\n"
        ));
        for flag in FLAGS.iter().filter(|flag| flag.group == *group) {
            let key = match config_file::key_of(flag) {
                Some(key) if key == flag.name => String::new(),
                Some(key) => format!("`{key}`"),
                None => "no".to_owned(),
            };
            let default = match flag.default {
                "" => String::new(),
                default => format!("`{default}`"),
            };
            let mut help = flag.help.replace('|', "\\|");
            if flag.kind == Kind::Gates {
                for line in features::known() {
                    help.push_str(&format!("<br>`{}`", line.replace('|', "\\|")));
                }
            }
            out.push_str(&format!(
                "| `--{}` | {default} | {help} | {key} |\n",
                flag.name
            ));
        }
    }
    out.push_str(
        "\n## In a file only\n\nFor these there is no flag, as in the original.\n\n\
         | key | what it does |\n|---|---|\n",
    );
    for setting in config_file::FILE_ONLY {
        out.push_str(&format!("| `{}` | {} |\n", setting.name, setting.help));
    }
    let ignored: Vec<String> = FLAGS
        .iter()
        .filter(|flag| flag.kind == Kind::Ignored)
        .map(|flag| format!("`--{}`", flag.name))
        .collect();
    out.push_str(&format!(
        "\n## Accepted and ignored\n\nAs in the original: {}.\n",
        ignored.join(", ")
    ));
    out.push_str(&proxy::flags::page());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_the_flags_is_the_table() {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/flags.md");
        if std::env::var_os("FERRITE_WRITE_PAGE").is_some() {
            std::fs::write(&path, page()).expect("the page can be written");
        }
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            written == page(),
            "docs/flags.md is not what the table says: FERRITE_WRITE_PAGE=1 cargo test -p ferrite-server --lib page writes it"
        );
    }

    #[test]
    fn a_file_takes_the_place_of_flags_and_variables() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("etcd.yml");
        std::fs::write(&path, "name: filed\nmax-wals: 3\n").expect("a file");
        let path = path.display().to_string();
        let flag = format!("--config-file={path}");
        for (arguments, variables) in [
            (
                &[flag.as_str(), "--name=other"][..],
                &[("ETCD_MAX_WALS", "7")][..],
            ),
            (&["--name=other"], &[("ETCD_CONFIG_FILE", path.as_str())]),
        ] {
            let values = parse(arguments, variables).expect("valid");
            assert_eq!(values.text("name"), "filed");
            assert_eq!(values.unsigned("max-wals"), 3);
            assert_eq!(values.notes, [Note::Loaded(path.clone())]);
        }
        assert_eq!(
            parse(&["--config-file=/nonexistent"], &[]),
            Err(FlagError::Invalid(
                "open /nonexistent: no such file or directory".into()
            ))
        );
    }

    fn parse(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Values, FlagError> {
        let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
        Values::parse(
            &arguments,
            variables
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned())),
        )
    }

    #[test]
    fn all_four_spellings_and_the_variable_set_a_flag() {
        for arguments in [
            &["-name", "a"][..],
            &["--name", "a"],
            &["--name=a"],
            &["-name=a"],
        ] {
            assert_eq!(parse(arguments, &[]).expect("valid").text("name"), "a");
        }
        assert_eq!(
            parse(&[], &[("ETCD_NAME", "a")])
                .expect("valid")
                .text("name"),
            "a"
        );
        assert_eq!(parse(&[], &[]).expect("valid").text("name"), "default");
        assert!(
            !parse(&["--pre-vote=false"], &[])
                .expect("valid")
                .bool("pre-vote")
        );
    }

    #[test]
    fn mistakes_are_told_in_the_originals_words() {
        let usage = |text: &str| Err(FlagError::Usage(text.to_owned()));
        let invalid = |text: &str| Err(FlagError::Invalid(text.to_owned()));
        assert_eq!(
            parse(&["--bogus"], &[]),
            usage("flag provided but not defined: -bogus")
        );
        assert_eq!(
            parse(&["--datadir", "x"], &[]),
            usage("flag provided but not defined: -datadir\nDid you mean --data-dir?")
        );
        let Err(FlagError::Usage(text)) = parse(&["--experimental-initial-corrupt-check"], &[])
        else {
            panic!("it is accepted");
        };
        assert!(!text.contains("Did you mean"), "{text}");
        assert_eq!(
            parse(&["--experimental-compaction-batch-limit=5"], &[]),
            usage(
                "flag provided but not defined: -experimental-compaction-batch-limit\nDid you mean --compaction-batch-limit?"
            )
        );
        assert_eq!(
            parse(&["--pre-vote", "false"], &[]),
            invalid("\"false\" is not a valid flag: write --pre-vote=false")
        );
        assert_eq!(
            parse(&["gateways", "start"], &[]),
            invalid(
                "\"gateways\" is not a valid flag, and the commands are gateway and grpc-proxy"
            )
        );
        assert_eq!(
            parse(&["--name"], &[]),
            usage("flag needs an argument: -name")
        );
        assert_eq!(
            parse(&["--heartbeat-interval", "abc"], &[]),
            usage("invalid value \"abc\" for flag -heartbeat-interval: parse error")
        );
        assert_eq!(
            parse(&["--pre-vote=maybe"], &[]),
            usage("invalid boolean value \"maybe\" for -pre-vote: parse error")
        );
        assert_eq!(
            parse(&["--listen-client-urls", "foo"], &[]),
            usage(
                "invalid value \"foo\" for flag -listen-client-urls: URL scheme must be http, https, unix, or unixs: foo"
            )
        );
        assert_eq!(parse(&["foo"], &[]), invalid("\"foo\" is not a valid flag"));
        assert_eq!(
            parse(&[], &[("ETCD_ELECTION_TIMEOUT", "x")]),
            invalid("invalid value \"x\" for ETCD_ELECTION_TIMEOUT: parse error")
        );
        assert_eq!(
            parse(&["--name", "a"], &[("ETCD_NAME", "b")]),
            Err(FlagError::Shadowed("ETCD_NAME".into()))
        );
        assert_eq!(
            parse(&["--initial-cluster-state", "odd"], &[]),
            usage("invalid value \"odd\" for flag -initial-cluster-state: invalid value")
        );
        assert_eq!(
            parse(&["--v2-deprecation", "not-yet"], &[]),
            usage("invalid value \"not-yet\" for flag -v2-deprecation: invalid value \"not-yet\"")
        );
        // What is ignored takes no word after it.
        assert_eq!(
            parse(&["--force", "x"], &[]),
            invalid("\"x\" is not a valid flag")
        );
        for gone in [
            "discovery",
            "discovery-proxy",
            "proxy",
            "enable-v2",
            "log-package-levels",
            "experimental-initial-corrupt-check",
        ] {
            let arguments = [format!("--{gone}=x")];
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let Err(FlagError::Usage(text)) = parse(&arguments, &[]) else {
                panic!("{gone} is accepted");
            };
            assert!(
                text.starts_with(&format!("flag provided but not defined: -{gone}")),
                "{text}"
            );
        }
        assert_eq!(parse(&["-h"], &[]), Err(FlagError::Help));
    }

    #[test]
    fn an_empty_list_of_urls_leaves_the_default_and_empty_origins_are_refused() {
        for (flag, urls) in [
            ("listen-client-urls", "http://localhost:2379"),
            ("advertise-client-urls", "http://localhost:2379"),
            ("listen-peer-urls", "http://localhost:2380"),
            ("initial-advertise-peer-urls", "http://localhost:2380"),
        ] {
            let values = parse(&[&format!("--{flag}=")], &[]).expect("valid");
            assert_eq!(values.urls(flag), parse_urls(urls).expect("valid"));
            assert!(values.is_set(flag));
            let values = parse(&[], &[(&variable(flag), "")]).expect("valid");
            assert_eq!(values.urls(flag), parse_urls(urls).expect("valid"));
            let given = format!("--{flag}=http://127.0.0.1:1");
            let values = parse(&[&given, &format!("--{flag}=")], &[]).expect("valid");
            assert_eq!(values.text(flag), "http://127.0.0.1:1");
        }
        let values = parse(&["--listen-metrics-urls="], &[]).expect("valid");
        assert_eq!(values.urls("listen-metrics-urls"), []);
        assert_eq!(
            parse(&["--cors="], &[]),
            Err(FlagError::Usage(
                "invalid value \"\" for flag -cors: URL scheme must be http, https, unix, or unixs: ".into()
            ))
        );
    }

    #[test]
    fn an_empty_text_in_a_list_is_a_part_of_it() {
        let values = parse(&["--peer-cert-allowed-cn=", "--cipher-suites=a, b"], &[]);
        let values = values.expect("valid");
        assert_eq!(values.list("peer-cert-allowed-cn"), [""]);
        assert_eq!(values.list("cipher-suites"), ["a", " b"]);
        assert_eq!(values.list("client-cert-allowed-hostname"), [""; 0]);
    }

    #[test]
    fn numbers_are_gos() {
        let values = parse(
            &[
                "--snapshot-count=1_000",
                "--max-wals=0x1_f",
                "--max-txn-ops=017",
                "--backend-batch-limit=-5",
                "--compaction-batch-limit=-5",
                "--max-learners=-1",
            ],
            &[],
        );
        let values = values.expect("valid");
        assert_eq!(values.unsigned("snapshot-count"), 1000);
        assert_eq!(values.unsigned("max-wals"), 31);
        assert_eq!(values.unsigned("max-txn-ops"), 15);
        assert_eq!(values.signed("backend-batch-limit"), -5);
        assert_eq!(values.signed("max-learners"), -1);
        for bad in ["1__0", "_1", "1_", "0x", "08", "-1", "+1"] {
            assert!(
                parse(&[&format!("--snapshot-count={bad}")], &[]).is_err(),
                "{bad}"
            );
        }
    }

    #[test]
    fn unknown_variables_only_warn() {
        let values = parse(&[], &[("ETCD_BOGUS", "1")]).expect("valid");
        assert_eq!(
            values.notes,
            [Note::Unrecognized("ETCD_BOGUS=1".to_owned())]
        );
        assert_eq!(meant("ETCD_BOGUS=1"), None);
        assert_eq!(meant("ETCD_CERT_FLE=x").as_deref(), Some("ETCD_CERT_FILE"));
        assert_eq!(
            meant("ETCD_EXPERIMENTAL_MAX_LEARNERS=2").as_deref(),
            Some("ETCD_MAX_LEARNERS")
        );
    }

    #[test]
    fn durations_are_gos() {
        use std::time::Duration;
        assert_eq!(parse_duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("1.5h"), Some(Duration::from_secs(5400)));
        assert_eq!(parse_duration("100ms"), Some(Duration::from_millis(100)));
        assert_eq!(parse_duration("5"), None);
        assert_eq!(parse_duration(""), None);
    }

    #[test]
    fn urls_are_checked_and_sorted() {
        let urls = parse_urls("http://b:2,http://a:1").expect("valid");
        assert_eq!(urls[0].to_string(), "http://a:1");
        assert_eq!(urls[1].host_port(), Some(("b", 2)));
        let sockets = parse_urls("unix:///run/a:2379,unixs:/run/b,unix://rel:1").expect("valid");
        let sockets: Vec<String> = sockets.iter().map(|url| url.address.clone()).collect();
        assert_eq!(sockets, ["/run/a:2379", "rel:1", "/run/b"]);
        assert!(parse_urls("unix://").is_err());
        assert!(parse_urls("unix:").is_err());
        assert!(parse_urls("http://a").is_err());
        assert!(parse_urls("ftp://a:1").is_err());
        assert!(parse_urls("http://a:1/path").is_err());
        assert_eq!(
            parse_urls("http://[::1]:2379").expect("valid")[0].host_port(),
            Some(("::1", 2379))
        );
    }
}
