//! `--config-file`: which keys there are, what their values must look like, and which flag each sets.
//!
//! Keys are the flags' names, from the one table; what stands elsewhere or nowhere in a file is listed
//! here. Durations are whole nanoseconds, lists of URLs are one text, unknown keys are passed over.
//! Words for mistakes are those of Go's YAML and JSON readers.

use ferrite_cli::gofmt;

use crate::features::Features;
use crate::flags::{FLAGS, Flag, Kind, Origins, edits, parse_urls};
use crate::yaml::{self, Yaml};

/// Largest file that is read: a configuration has a few kilobytes.
const BYTES_MAX: u64 = 1 << 20;

/// Flags that a file cannot set.
const NOT_IN_FILES: &[&str] = &[
    "client-crl-file",
    "peer-crl-file",
    "raft-read-timeout",
    "raft-write-timeout",
    "discovery-fallback",
    "config-file",
    "version",
];

/// What only a file can set: the original has no flags for these. They are named by their place in it.
pub const FILE_ONLY: &[Flag] = &[
    file_only(
        CLIENT_ALLOWED_CN,
        Kind::Text,
        "Common names of which a client's certificate must bear one.",
    ),
    file_only(
        CLIENT_SKIP_SAN,
        Kind::Bool,
        "Do not hold a client's certificate against the address it comes from where metrics are served apart.",
    ),
    file_only(
        DISCOVERY_SEND,
        Kind::Signed,
        "Bytes of the largest request to the cluster in which members meet; 0 is 2 MiB.",
    ),
    file_only(
        DISCOVERY_RECV,
        Kind::Signed,
        "Bytes of the largest answer from there; 0 is 2 GiB.",
    ),
    file_only(
        DISCOVERY_SERVER_NAME,
        Kind::Text,
        "The name that its certificates must be for, if not its host.",
    ),
    file_only(
        DISCOVERY_AUTH_TOKEN,
        Kind::Text,
        "A token to show there, instead of a user and a password.",
    ),
];

/// Common names of which a client's certificate must bear one.
pub const CLIENT_ALLOWED_CN: &str = "client-transport-security.allowed-cn";
/// Clients' certificates are not held against the addresses that they come from.
pub const CLIENT_SKIP_SAN: &str = "client-transport-security.skip-client-san-verification";
/// Bytes of the largest request to the cluster in which members meet.
pub const DISCOVERY_SEND: &str = "discovery-config.client.max-request-bytes";
/// Bytes of the largest answer from there.
pub const DISCOVERY_RECV: &str = "discovery-config.client.max-recv-bytes";
/// The name that its certificates must be for.
pub const DISCOVERY_SERVER_NAME: &str = "discovery-config.client.secure.server-name";
/// A token to show there.
pub const DISCOVERY_AUTH_TOKEN: &str = "discovery-config.client.auth.token";

const fn file_only(name: &'static str, kind: Kind, help: &'static str) -> Flag {
    Flag {
        name,
        kind,
        default: "",
        group: "",
        help,
    }
}

/// Stands between the texts of a list: a comma may be a part of one, as in the name of a company.
pub const BETWEEN: char = '\u{1f}';

/// Texts that are lists in a file.
const LISTS: &[&str] = &["log-outputs", "cipher-suites"];

/// A key within a section, and the flag that it sets.
struct Nested {
    section: &'static [&'static str],
    key: &'static str,
    flag: &'static str,
    list: bool,
}

const fn nested(section: &'static [&'static str], key: &'static str, flag: &'static str) -> Nested {
    Nested {
        section,
        key,
        flag,
        list: false,
    }
}

const fn nested_list(
    section: &'static [&'static str],
    key: &'static str,
    flag: &'static str,
) -> Nested {
    Nested {
        section,
        key,
        flag,
        list: true,
    }
}

const CLIENT: &[&str] = &["client-transport-security"];
const PEER: &[&str] = &["peer-transport-security"];
const SOCKETS: &[&str] = &["socket-options"];
const DISCOVERY: &[&str] = &["discovery-config"];
const DISCOVERY_CLIENT: &[&str] = &["discovery-config", "client"];
const DISCOVERY_SECURE: &[&str] = &["discovery-config", "client", "secure"];
const DISCOVERY_AUTH: &[&str] = &["discovery-config", "client", "auth"];

const NESTED: &[Nested] = &[
    nested(CLIENT, "cert-file", "cert-file"),
    nested(CLIENT, "key-file", "key-file"),
    nested(CLIENT, "client-cert-file", "client-cert-file"),
    nested(CLIENT, "client-key-file", "client-key-file"),
    nested(CLIENT, "client-cert-auth", "client-cert-auth"),
    nested(CLIENT, "trusted-ca-file", "trusted-ca-file"),
    nested(CLIENT, "auto-tls", "auto-tls"),
    nested_list(CLIENT, "allowed-cn", CLIENT_ALLOWED_CN),
    nested_list(CLIENT, "allowed-hostname", "client-cert-allowed-hostname"),
    nested(CLIENT, "skip-client-san-verification", CLIENT_SKIP_SAN),
    nested(PEER, "cert-file", "peer-cert-file"),
    nested(PEER, "key-file", "peer-key-file"),
    nested(PEER, "client-cert-file", "peer-client-cert-file"),
    nested(PEER, "client-key-file", "peer-client-key-file"),
    nested(PEER, "client-cert-auth", "peer-client-cert-auth"),
    nested(PEER, "trusted-ca-file", "peer-trusted-ca-file"),
    nested(PEER, "auto-tls", "peer-auto-tls"),
    nested_list(PEER, "allowed-cn", "peer-cert-allowed-cn"),
    nested_list(PEER, "allowed-hostname", "peer-cert-allowed-hostname"),
    nested(
        PEER,
        "skip-client-san-verification",
        "peer-skip-client-san-verification",
    ),
    nested(SOCKETS, "reuse-port", "socket-reuse-port"),
    nested(SOCKETS, "reuse-address", "socket-reuse-address"),
    nested(DISCOVERY, "token", "discovery-token"),
    nested_list(DISCOVERY_CLIENT, "endpoints", "discovery-endpoints"),
    nested(DISCOVERY_CLIENT, "dial-timeout", "discovery-dial-timeout"),
    nested(
        DISCOVERY_CLIENT,
        "request-timeout",
        "discovery-request-timeout",
    ),
    nested(
        DISCOVERY_CLIENT,
        "keepalive-time",
        "discovery-keepalive-time",
    ),
    nested(
        DISCOVERY_CLIENT,
        "keepalive-timeout",
        "discovery-keepalive-timeout",
    ),
    nested(DISCOVERY_CLIENT, "max-request-bytes", DISCOVERY_SEND),
    nested(DISCOVERY_CLIENT, "max-recv-bytes", DISCOVERY_RECV),
    nested(DISCOVERY_SECURE, "cert", "discovery-cert"),
    nested(DISCOVERY_SECURE, "key", "discovery-key"),
    nested(DISCOVERY_SECURE, "cacert", "discovery-cacert"),
    nested(DISCOVERY_SECURE, "server-name", DISCOVERY_SERVER_NAME),
    nested(
        DISCOVERY_SECURE,
        "insecure-transport",
        "discovery-insecure-transport",
    ),
    nested(
        DISCOVERY_SECURE,
        "insecure-skip-tls-verify",
        "discovery-insecure-skip-tls-verify",
    ),
    nested(DISCOVERY_AUTH, "username", "discovery-user"),
    nested(DISCOVERY_AUTH, "password", "discovery-password"),
    nested(DISCOVERY_AUTH, "token", DISCOVERY_AUTH_TOKEN),
];

/// Why a file does not do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileError {
    /// Told in a log line.
    Logged(String),
    /// Told bare, as the original does for lists of URLs.
    Bare(String),
}

/// Reads a file: flags it sets, with their values as on a command line.
///
/// # Errors
/// [`FileError`], in the original's words.
pub fn read(path: &str) -> Result<Vec<(&'static str, String)>, FileError> {
    read_all(path).map(|(settings, _)| settings)
}

/// What a file sets, and [its unknown keys](unknown_keys).
pub type Contents = (Vec<(&'static str, String)>, Vec<(String, Option<String>)>);

/// As [`read`], with the keys that set nothing.
///
/// # Errors
/// [`FileError`], in the original's words.
pub fn read_all(path: &str) -> Result<Contents, FileError> {
    let failed = |error: std::io::Error| {
        FileError::Logged(format!("open {path}: {}", gofmt::system(&error)))
    };
    let size = std::fs::metadata(path).map_err(failed)?;
    if size.is_file() && size.len() > BYTES_MAX {
        return Err(FileError::Logged(format!(
            "{path} has {} bytes, a configuration file may have {BYTES_MAX}: is it the right file?",
            size.len()
        )));
    }
    if size.is_dir() {
        return Err(FileError::Logged(format!("read {path}: is a directory")));
    }
    let bytes = std::fs::read(path).map_err(failed)?;
    let text = String::from_utf8(bytes).map_err(|_| {
        FileError::Logged(
            "error converting YAML to JSON: yaml: invalid leading UTF-8 octet".to_owned(),
        )
    })?;
    Ok((settings(&text)?, unknown_keys(&text)))
}

/// The keys of a text that set nothing, each with what was probably meant. The original passes over them
/// too; but a slip in `cert-file` would serve without encryption.
pub fn unknown_keys(text: &str) -> Vec<(String, Option<String>)> {
    let mut unknown = Vec::new();
    if let Ok(Yaml::Map(map)) = yaml::parse(text) {
        for (key, value) in &map {
            look(&mut unknown, &[], key, value);
        }
    }
    unknown
}

/// Looks at one key below the sections `above`.
fn look(
    unknown: &mut Vec<(String, Option<String>)>,
    above: &[&'static str],
    key: &str,
    value: &Yaml,
) {
    let beside = |nested: &&Nested| nested.section.starts_with(above);
    let inner = NESTED
        .iter()
        .filter(beside)
        .filter_map(|nested| nested.section.get(above.len()))
        .find(|name| is(name, key));
    if let Some(name) = inner {
        let mut path = above.to_vec();
        path.push(name);
        if let Yaml::Map(map) = value {
            for (key, value) in map {
                look(unknown, &path, key, value);
            }
        }
        return;
    }
    let known = match above {
        [] => top_level(key).is_some(),
        _ => NESTED
            .iter()
            .any(|nested| nested.section == above && is(nested.key, key)),
    };
    if known {
        return;
    }
    let dotted = |section: &[&str], key: &str| {
        let mut path = section.to_vec();
        path.push(key);
        path.join(".")
    };
    let lower = key.to_ascii_lowercase();
    // Right but for its place, or a slip.
    let flag = FLAGS.iter().find(|flag| is(flag.name, key));
    let elsewhere = flag.and_then(key_of);
    let meant = elsewhere.or_else(|| {
        let keys = NESTED
            .iter()
            .filter(|nested| nested.section == above)
            .map(|nested| nested.key);
        let sections = NESTED
            .iter()
            .filter(beside)
            .filter_map(|nested| nested.section.get(above.len()).copied());
        let top = FLAGS
            .iter()
            .filter(|flag| above.is_empty() && top_level(flag.name).is_some())
            .map(|flag| flag.name);
        keys.chain(sections)
            .chain(top)
            .map(|name| (edits(&lower, name), name))
            .min()
            .filter(|(distance, name)| *distance <= name.len().div_ceil(2).min(3))
            .map(|(_, name)| dotted(above, name))
    });
    unknown.push((dotted(above, key), meant));
}

/// As [`read`], of a text.
///
/// # Errors
/// [`FileError`].
pub fn settings(text: &str) -> Result<Vec<(&'static str, String)>, FileError> {
    let tree = yaml::parse(text)
        .map_err(|why| FileError::Logged(format!("error converting YAML to JSON: yaml: {why}")))?;
    let map = match &tree {
        Yaml::Map(map) => map,
        Yaml::Null => return Ok(Vec::new()),
        other => {
            return Err(FileError::Logged(mistyped(
                other,
                "Go value",
                "embed.configYAML",
            )));
        }
    };
    let mut set = Vec::new();
    for (key, value) in map {
        if let Some(flag) = top_level(key) {
            let place = format!("Go struct field configYAML.{}", flag.name);
            let form = Form::of(flag, LISTS.contains(&flag.name));
            put(&mut set, flag, &form, value, &place)?;
        } else if NESTED.iter().any(|nested| is(nested.section[0], key)) {
            section(&mut set, &[], key, value)?;
        }
    }
    Ok(set)
}

/// Go's JSON reader takes keys in any case.
fn is(name: &str, key: &str) -> bool {
    name.eq_ignore_ascii_case(key)
}

fn top_level(key: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| {
        is(flag.name, key)
            && flag.kind != Kind::Ignored
            && !NOT_IN_FILES.contains(&flag.name)
            && !NESTED.iter().any(|nested| nested.flag == flag.name)
    })
}

/// How a flag of that name is set in a file: its key with the sections around it, or `None`.
pub fn key_of(flag: &Flag) -> Option<String> {
    if let Some(nested) = NESTED.iter().find(|nested| nested.flag == flag.name) {
        let mut path = nested.section.join(".");
        path.push('.');
        path.push_str(nested.key);
        return Some(path);
    }
    top_level(flag.name).map(|flag| flag.name.to_owned())
}

/// The types that Go's words name a section by.
fn go_type(section: &[&str]) -> (&'static str, &'static str) {
    match section {
        [_, "client", "secure"] => ("SecureConfig", "clientv3.SecureConfig"),
        [_, "client", "auth"] => ("AuthConfig", "clientv3.AuthConfig"),
        [_, "client"] => ("ConfigSpec", "clientv3.ConfigSpec"),
        ["discovery-config"] => ("DiscoveryConfig", "v3discovery.DiscoveryConfig"),
        ["socket-options"] => ("SocketOpts", "transport.SocketOpts"),
        _ => ("securityConfig", "embed.securityConfig"),
    }
}

fn section(
    set: &mut Vec<(&'static str, String)>,
    above: &[&'static str],
    key: &str,
    value: &Yaml,
) -> Result<(), FileError> {
    let known = NESTED.iter().find_map(|nested| {
        let name = nested.section.get(above.len())?;
        (nested.section.starts_with(above) && is(name, key)).then_some(*name)
    });
    let Some(name) = known else { return Ok(()) };
    let mut path = above.to_vec();
    path.push(name);
    let (short, full) = go_type(&path);
    let dotted = path.join(".");
    let map = match value {
        Yaml::Map(map) => map,
        // A section without keys sets nothing, but for the one that the original looks into itself.
        Yaml::Null if path != PEER => return Ok(()),
        Yaml::Null => return Err(FileError::Logged(format!("invalid {name}"))),
        other => {
            let owner = match above.len() {
                0 => "configYAML",
                _ => go_type(above).0,
            };
            let place = format!("Go struct field {owner}.{dotted}");
            return Err(FileError::Logged(mistyped(other, &place, full)));
        }
    };
    for (key, value) in map {
        let one = NESTED
            .iter()
            .find(|nested| nested.section == path.as_slice() && is(nested.key, key));
        match one {
            Some(nested) => {
                let mut settings = FLAGS.iter().chain(FILE_ONLY);
                let flag = settings.find(|flag| flag.name == nested.flag);
                // A test holds that each is in one of the tables.
                let Some(flag) = flag else { continue };
                let place = format!("Go struct field {short}.{dotted}.{}", nested.key);
                put(set, flag, &Form::of(flag, nested.list), value, &place)?;
            }
            None => section(set, &path, key, value)?,
        }
    }
    Ok(())
}

/// What a value must be in a file.
enum Form {
    Text,
    Urls,
    Gates,
    Origins,
    Hosts,
    Bool,
    /// A whole number within these, by that name in Go.
    Number(i128, i128, &'static str),
    Nanoseconds,
    Texts,
}

impl Form {
    fn of(flag: &Flag, list: bool) -> Self {
        match flag.kind {
            _ if list => Form::Texts,
            Kind::Bool => Form::Bool,
            Kind::Duration => Form::Nanoseconds,
            Kind::Urls => Form::Urls,
            Kind::Gates => Form::Gates,
            Kind::Signed => {
                let name = match flag.name {
                    "quota-backend-bytes" => "int64",
                    _ => "int",
                };
                Form::Number(i64::MIN.into(), i64::MAX.into(), name)
            }
            Kind::Unsigned if flag.name.starts_with("snapshot-") => {
                Form::Number(0, u64::MAX.into(), "uint64")
            }
            Kind::Short => Form::Number(0, u32::MAX.into(), "uint32"),
            Kind::Unsigned => Form::Number(0, u64::MAX.into(), "uint"),
            Kind::Origins => Form::Origins,
            Kind::Text if flag.name == "host-whitelist" => Form::Hosts,
            Kind::Text | Kind::OneOf(_) | Kind::SomeOf(_) | Kind::Ignored => Form::Text,
        }
    }

    fn go_type(&self) -> &'static str {
        match self {
            Form::Text | Form::Urls | Form::Gates | Form::Origins | Form::Hosts => "string",
            Form::Bool => "bool",
            Form::Number(_, _, name) => name,
            Form::Nanoseconds => "time.Duration",
            Form::Texts => "[]string",
        }
    }
}

fn mistyped(value: &Yaml, place: &str, wanted: &str) -> String {
    let kind = value.kind();
    let kind = match value {
        // Only a number that does not fit is shown.
        Yaml::Int(_) | Yaml::Float(_) if !is_number(wanted) => "number",
        _ => &kind,
    };
    format!(
        "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {kind} into {place} of type {wanted}"
    )
}

fn is_number(go_type: &str) -> bool {
    go_type.starts_with("uint") || matches!(go_type, "int" | "int64" | "time.Duration")
}

fn put(
    set: &mut Vec<(&'static str, String)>,
    flag: &'static Flag,
    form: &Form,
    value: &Yaml,
    place: &str,
) -> Result<(), FileError> {
    let wrong = |value: &Yaml| FileError::Logged(mistyped(value, place, form.go_type()));
    let text = match (form, value) {
        // As if the key were not there, but for lists, which it empties.
        (_, Yaml::Null) => return Ok(()),
        (Form::Text, Yaml::Text(text)) => text.clone(),
        // An empty text leaves the default.
        (Form::Urls | Form::Gates | Form::Origins | Form::Hosts, Yaml::Text(text))
            if text.is_empty() =>
        {
            return Ok(());
        }
        (Form::Hosts, Yaml::Text(text)) => text.clone(),
        (Form::Origins, Yaml::Text(text)) => {
            Origins::parse(text).map_err(|why| {
                FileError::Logged(format!("invalid value {text:?} for {}: {why}", flag.name))
            })?;
            text.clone()
        }
        (Form::Urls, Yaml::Text(text)) => {
            parse_urls(text).map_err(|why| {
                FileError::Bare(format!("unexpected error setting up {}: {why}", flag.name))
            })?;
            text.clone()
        }
        (Form::Gates, Yaml::Text(text)) => {
            Features::parse(text).map_err(FileError::Logged)?;
            text.clone()
        }
        (Form::Bool, Yaml::Bool(value)) => value.to_string(),
        (Form::Number(least, most, _), Yaml::Int(value)) if (least..=most).contains(&value) => {
            value.to_string()
        }
        (Form::Nanoseconds, Yaml::Int(value)) if i64::try_from(*value).is_ok() => {
            format!("{value}ns")
        }
        // Nothing in it is as if the key were not there; an empty text in it is not.
        (Form::Texts, Yaml::List(list)) if list.is_empty() => return Ok(()),
        (Form::Texts, Yaml::List(list)) => {
            let mut texts = Vec::new();
            for one in list {
                match one {
                    Yaml::Text(text) => texts.push(text.clone()),
                    Yaml::Null => texts.push(String::new()),
                    other => {
                        return Err(FileError::Logged(mistyped(other, place, "string")));
                    }
                }
            }
            texts.join(&BETWEEN.to_string())
        }
        (_, other) => return Err(wrong(other)),
    };
    set.push((flag.name, text));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        match settings(text) {
            Err(FileError::Logged(why)) => why,
            other => format!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn keys_that_set_nothing_are_named_with_what_was_meant() {
        let text = "
name: m0
cert-file: c
heartbeet-interval: 5
client-transport-security:
  cert-fle: c
  key-file: k
client-transport-securty: {cert-file: c}
discovery-config: {client: {secure: {cert: c, no-such-thing: d}}}
metrics: basic
";
        let unknown = unknown_keys(text);
        let unknown: Vec<(&str, Option<&str>)> = unknown
            .iter()
            .map(|(key, meant)| (key.as_str(), meant.as_deref()))
            .collect();
        assert_eq!(
            unknown,
            [
                ("cert-file", Some("client-transport-security.cert-file")),
                ("heartbeet-interval", Some("heartbeat-interval")),
                (
                    "client-transport-security.cert-fle",
                    Some("client-transport-security.cert-file")
                ),
                (
                    "client-transport-securty",
                    Some("client-transport-security")
                ),
                ("discovery-config.client.secure.no-such-thing", None),
            ]
        );
    }

    #[test]
    fn every_form_of_value_reaches_its_flag() {
        let text = "
name: m0
heartbeat-interval: 0x64
pre-vote: off
corrupt-check-time: 600000000000
listen-client-urls: http://127.0.0.1:1,http://127.0.0.1:2
log-outputs: [stdout, /tmp/log]
feature-gates: LeaseCheckpoint=true
wal-dir:
Snapshot-Count: 7
unknown: {key: 1}
client-crl-file: ignored
version: true
client-transport-security:
  cert-file: cert
  client-cert-auth: true
  allowed-hostname: [a, b]
  allowed-cn: ['Acme, Inc.', b]
  skip-client-san-verification: true
peer-transport-security:
  allowed-cn: [c]
  allowed-hostname: []
  skip-client-san-verification: yes
discovery-config:
  token: t
  client:
    endpoints: [a:1, b:2]
    dial-timeout: 1000000000
    max-request-bytes: 5
    max-recv-bytes: 0x10
    secure: {insecure-transport: false, cacert: ca, server-name: s}
    auth: {username: u, token: k}
socket-options: {reuse-port: true, Reuse-Address: on}
cors: http://a:1
metrics: extensive
auto-compaction-retention: 5m
";
        let set = settings(text).expect("valid");
        let set: Vec<(&str, &str)> = set.iter().map(|(k, v)| (*k, v.as_str())).collect();
        assert_eq!(
            set,
            [
                ("name", "m0"),
                ("heartbeat-interval", "100"),
                ("pre-vote", "false"),
                ("corrupt-check-time", "600000000000ns"),
                (
                    "listen-client-urls",
                    "http://127.0.0.1:1,http://127.0.0.1:2"
                ),
                ("log-outputs", "stdout\u{1f}/tmp/log"),
                ("feature-gates", "LeaseCheckpoint=true"),
                ("snapshot-count", "7"),
                ("cert-file", "cert"),
                ("client-cert-auth", "true"),
                ("client-cert-allowed-hostname", "a\u{1f}b"),
                ("client-transport-security.allowed-cn", "Acme, Inc.\u{1f}b"),
                (
                    "client-transport-security.skip-client-san-verification",
                    "true"
                ),
                ("peer-cert-allowed-cn", "c"),
                ("peer-skip-client-san-verification", "true"),
                ("discovery-token", "t"),
                ("discovery-endpoints", "a:1\u{1f}b:2"),
                ("discovery-dial-timeout", "1000000000ns"),
                ("discovery-config.client.max-request-bytes", "5"),
                ("discovery-config.client.max-recv-bytes", "16"),
                ("discovery-insecure-transport", "false"),
                ("discovery-cacert", "ca"),
                ("discovery-config.client.secure.server-name", "s"),
                ("discovery-user", "u"),
                ("discovery-config.client.auth.token", "k"),
                ("socket-reuse-port", "true"),
                ("socket-reuse-address", "true"),
                ("cors", "http://a:1"),
                ("metrics", "extensive"),
                ("auto-compaction-retention", "5m"),
            ]
        );
    }

    #[test]
    fn mistakes_are_told_in_the_originals_words() {
        let json = "error unmarshaling JSON: while decoding JSON: json: cannot unmarshal";
        for (text, error) in [
            (
                "heartbeat-interval: abc",
                "string into Go struct field configYAML.heartbeat-interval of type uint",
            ),
            (
                "heartbeat-interval: -5",
                "number -5 into Go struct field configYAML.heartbeat-interval of type uint",
            ),
            (
                "heartbeat-interval: 1.5",
                "number 1.5 into Go struct field configYAML.heartbeat-interval of type uint",
            ),
            (
                "pre-vote: 'yes'",
                "string into Go struct field configYAML.pre-vote of type bool",
            ),
            (
                "name: 123",
                "number into Go struct field configYAML.name of type string",
            ),
            (
                "name: {a: b}",
                "object into Go struct field configYAML.name of type string",
            ),
            (
                "log-outputs: stderr",
                "string into Go struct field configYAML.log-outputs of type []string",
            ),
            (
                "corrupt-check-time: 10m",
                "string into Go struct field configYAML.corrupt-check-time of type time.Duration",
            ),
            (
                "peer-transport-security: 5",
                "number into Go struct field configYAML.peer-transport-security of type embed.securityConfig",
            ),
            (
                "peer-transport-security: {cert-file: [a]}",
                "array into Go struct field securityConfig.peer-transport-security.cert-file of type string",
            ),
            (
                "discovery-config: {client: {max-recv-bytes: 1.5}}",
                "number 1.5 into Go struct field ConfigSpec.discovery-config.client.max-recv-bytes of type int",
            ),
            (
                "discovery-config: {client: {auth: {token: [a]}}}",
                "array into Go struct field AuthConfig.discovery-config.client.auth.token of type string",
            ),
            (
                "socket-options: {reuse-port: 1}",
                "number into Go struct field SocketOpts.socket-options.reuse-port of type bool",
            ),
            (
                "quota-backend-bytes: 9223372036854775808",
                "number 9223372036854775808 into Go struct field configYAML.quota-backend-bytes of type int64",
            ),
            (
                "max-wals: 1e21",
                "number 1e+21 into Go struct field configYAML.max-wals of type uint",
            ),
            ("[a, b]", "array into Go value of type embed.configYAML"),
            ("text", "string into Go value of type embed.configYAML"),
        ] {
            assert_eq!(refused(text), format!("{json} {error}"), "{text}");
        }
        assert_eq!(
            refused("peer-transport-security:"),
            "invalid peer-transport-security"
        );
        assert_eq!(
            refused("cors: foo"),
            "invalid value \"foo\" for cors: URL scheme must be http, https, unix, or unixs: foo"
        );
        assert!(refused("name: [1").starts_with("error converting YAML to JSON: yaml: line "));
        assert_eq!(
            refused("feature-gates: X=true"),
            "unrecognized feature gate: X"
        );
        assert_eq!(
            settings("listen-client-urls: foo"),
            Err(FileError::Bare(
                "unexpected error setting up listen-client-urls: URL scheme must be http, https, unix, or unixs: foo".into()
            ))
        );
    }

    #[test]
    fn an_empty_text_or_list_leaves_the_default() {
        for text in [
            "cors: ''",
            "host-whitelist: ''",
            "listen-client-urls: ''",
            "feature-gates: ''",
            "cipher-suites: []",
            "client-transport-security: {allowed-cn: []}",
        ] {
            assert_eq!(settings(text), Ok(Vec::new()), "{text}");
        }
        // One that lets nobody in is something else.
        assert_eq!(
            settings("client-transport-security: {allowed-cn: ['']}"),
            Ok(vec![(CLIENT_ALLOWED_CN, String::new())])
        );
    }

    #[test]
    fn whole_numbers_may_be_written_as_others_are() {
        for (text, number) in [("1e2", "100"), ("100.0", "100"), ("1_000", "1000")] {
            assert_eq!(
                settings(&format!("heartbeat-interval: {text}")),
                Ok(vec![("heartbeat-interval", number.to_owned())])
            );
        }
    }

    #[test]
    fn what_is_listed_here_is_in_the_table() {
        let known = |name: &str| FLAGS.iter().any(|flag| flag.name == name);
        for name in LISTS.iter().chain(NOT_IN_FILES) {
            assert!(known(name), "{name}");
        }
        for nested in NESTED {
            let path = format!("{}.{}", nested.section.join("."), nested.key);
            let own = FILE_ONLY.iter().any(|setting| setting.name == nested.flag);
            // Named by its place, or else a flag.
            assert_eq!(own, nested.flag == path, "{path}");
            assert!(own || known(nested.flag), "{}", nested.flag);
        }
    }
}
