//! The one table of the server's flags, from which the parser, the variables and the help come.
//!
//! The syntax is that of Go's `flag` package: `-x`, `--x`, `--x=v`, `--x v`; a boolean takes its
//! value only after `=`. Every flag can be set as `ETCD_` + its name in capitals.

use std::collections::BTreeMap;

use crate::features::{self, Features};

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
    /// One of these words.
    OneOf(&'static [&'static str]),
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
const PROFILING: &str = "Profiling and Monitoring";
const UNSAFE: &str = "Unsafe feature";

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
        "backend-batch-interval",
        Kind::Duration,
        "0s",
        MEMBER,
        "Longest time between commits of the database file; 0 is 100ms.",
    ),
    flag(
        "backend-batch-limit",
        Kind::Unsigned,
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
        "max-learners",
        Kind::Unsigned,
        "1",
        CLUSTERING,
        "Learners allowed in the cluster.",
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
        "stdout, stderr, or paths of files, separated by commas.",
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
}

/// Flags as given, with where each comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values {
    given: BTreeMap<&'static str, String>,
    /// Things worth a line in the log: unknown variables and the like.
    pub warnings: Vec<String>,
}

fn find(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
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
                    Some(first) => {
                        Err(FlagError::Invalid(format!("{first:?} is not a valid flag")))
                    }
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
            let value = match (value, flag.kind) {
                (Some(value), _) => value,
                (None, Kind::Bool) => "true".to_owned(),
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
            values.given.insert(flag.name, value);
        }
        values.read_variables(variables)?;
        Ok(values)
    }

    fn read_variables(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), FlagError> {
        let mut ours: BTreeMap<String, String> = variables
            .into_iter()
            .filter(|(name, _)| name.starts_with("ETCD_"))
            .collect();
        for flag in FLAGS {
            let name = variable(flag.name);
            let Some(value) = ours.remove(&name) else {
                continue;
            };
            if self.given.contains_key(flag.name) {
                return Err(FlagError::Invalid(format!(
                    "conflicting environment variable is shadowed by corresponding command-line flag \
                     (either unset environment variable or disable flag)): {name}"
                )));
            }
            if value.is_empty() {
                continue;
            }
            check(flag, &value).map_err(|why| {
                FlagError::Invalid(format!("invalid value {value:?} for {name}: {why}"))
            })?;
            self.given.insert(flag.name, value);
        }
        self.warnings.extend(
            ours.into_keys()
                .map(|name| format!("unrecognized environment variable: {name}")),
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
        self.text(name).parse().unwrap_or(0)
    }

    /// A checked duration.
    pub fn duration(&self, name: &str) -> std::time::Duration {
        parse_duration(self.text(name)).unwrap_or_default()
    }

    /// The checked feature gates.
    pub fn features(&self, name: &str) -> Features {
        Features::parse(self.text(name)).unwrap_or_default()
    }

    /// A checked list of URLs.
    pub fn urls(&self, name: &str) -> Vec<Url> {
        parse_urls(self.text(name)).unwrap_or_default()
    }
}

fn unknown(name: &str) -> String {
    let text = format!("flag provided but not defined: -{name}");
    match closest(name) {
        Some(known) => format!("{text}\nDid you mean --{known}?"),
        None => text,
    }
}

/// The flag whose name is at most three edits away.
fn closest(name: &str) -> Option<&'static str> {
    FLAGS
        .iter()
        .filter(|flag| !flag.help.is_empty())
        .map(|flag| (edits(name, flag.name), flag.name))
        .min()
        .filter(|(distance, _)| *distance <= 3)
        .map(|(_, known)| known)
}

fn edits(a: &str, b: &str) -> usize {
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
        Kind::Signed => value
            .parse::<i64>()
            .map(drop)
            .map_err(|_| "parse error".into()),
        Kind::Duration => parse_duration(value)
            .map(drop)
            .ok_or_else(|| "parse error".into()),
        Kind::Urls => parse_urls(value).map(drop),
        Kind::Gates => Features::parse(value).map(drop),
        Kind::OneOf(words) if words.contains(&value) => Ok(()),
        Kind::OneOf(_) => Err(format!("invalid value {value:?}")),
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
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A Go duration: numbers, fractions allowed, each with a unit.
pub fn parse_duration(text: &str) -> Option<std::time::Duration> {
    let text = text.strip_prefix('+').unwrap_or(text);
    if text == "0" {
        return Some(std::time::Duration::ZERO);
    }
    let mut rest = text;
    let mut total = 0_f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    std::time::Duration::try_from_secs_f64(total).ok()
}

/// A URL a member listens on or is reached at.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    /// `http`, `https`, `unix` or `unixs`.
    pub scheme: String,
    /// `host:port`, or the path of a socket.
    pub address: String,
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

    /// Host and port apart; `None` for sockets.
    pub fn host_port(&self) -> Option<(&str, u16)> {
        if self.is_socket() {
            return None;
        }
        let (host, port) = self.address.rsplit_once(':')?;
        Some((
            host.trim_start_matches('[').trim_end_matches(']'),
            port.parse().ok()?,
        ))
    }
}

impl std::fmt::Display for Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.scheme, self.address)
    }
}

/// Reads a comma-separated list of URLs; sorted, as etcd keeps them.
///
/// # Errors
/// The original's words for what is wrong with the first bad one.
pub fn parse_urls(text: &str) -> Result<Vec<Url>, String> {
    let mut urls = Vec::new();
    if text.trim().is_empty() {
        return Ok(urls);
    }
    for part in text.split(',') {
        let part = part.trim();
        let (scheme, address) = part
            .split_once("://")
            // A socket may do without the slashes.
            .or_else(|| {
                part.split_once(':')
                    .filter(|(scheme, path)| scheme.starts_with("unix") && !path.is_empty())
            })
            .filter(|(scheme, _)| matches!(*scheme, "http" | "https" | "unix" | "unixs"))
            .ok_or_else(|| format!("URL scheme must be http, https, unix, or unixs: {part}"))?;
        if scheme.starts_with("http") {
            let (host, path) = match address.split_once('/') {
                Some((host, path)) => (host, path),
                None => (address, ""),
            };
            let port = host.rsplit_once(':').map(|(_, port)| port);
            let well_formed = port.is_some_and(|port| port.parse::<u16>().is_ok())
                && (host.starts_with('[') || host.matches(':').count() == 1);
            if !well_formed {
                return Err(format!(
                    "URL address does not have the form \"host:port\": {part}"
                ));
            }
            if !path.is_empty() {
                return Err(format!("URL must not contain a path: {part}"));
            }
            urls.push(Url {
                scheme: scheme.into(),
                address: host.into(),
            });
        } else if address.is_empty() {
            return Err(format!("URL has no path of a socket: {part}"));
        } else {
            urls.push(Url {
                scheme: scheme.into(),
                address: address.into(),
            });
        }
    }
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
";

/// The list of flags for `--help`.
pub fn help() -> String {
    let mut out = String::new();
    for group in [
        MEMBER, CLUSTERING, SECURITY, AUTH, PROFILING, LOGGING, FEATURES, UNSAFE,
    ] {
        out.push_str(&format!("\n{group}:\n"));
        for flag in FLAGS.iter().filter(|flag| flag.group == group) {
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

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(matches!(
            parse(&["--name", "a"], &[("ETCD_NAME", "b")]),
            Err(FlagError::Invalid(text)) if text.starts_with("conflicting environment variable")
        ));
        assert_eq!(parse(&["-h"], &[]), Err(FlagError::Help));
    }

    #[test]
    fn unknown_variables_only_warn() {
        let values = parse(&[], &[("ETCD_BOGUS", "1")]).expect("valid");
        assert_eq!(
            values.warnings,
            ["unrecognized environment variable: ETCD_BOGUS"]
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
