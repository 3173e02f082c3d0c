//! The tree of commands: one table for parsing, abbreviations, suggestions, help and completion.

use ferrite_cli::flags::{Flag, Kind};

use crate::takeover::What;

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing by itself: it has subcommands.
    Group,
    /// Prints help about a topic.
    Help,
    /// Prints versions.
    Version,
    /// Prints a completion script.
    Completion,
    /// Rewrites a database.
    Defrag,
    /// Hashes the key space.
    HashKv,
    /// Changes the storage version.
    Migrate,
    /// Makes a data folder from a snapshot.
    SnapshotRestore,
    /// Describes a snapshot.
    SnapshotStatus,
    /// Examines a database file.
    BboltCheck,
    /// Counts pages and keys.
    BboltStats,
    /// Lists buckets.
    BboltBuckets,
    /// Lists the keys of a bucket.
    BboltKeys,
    /// Prints a value.
    BboltGet,
    /// Prints pages.
    BboltPage,
    /// Exchanges members of a running cluster.
    Takeover(What),
}

/// One command.
#[derive(Debug)]
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// How to call it, after the name.
    pub usage: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// Its flags.
    pub flags: &'static [Flag],
    /// Those among them that must be given.
    pub required: &'static [&'static str],
    /// Subcommands.
    pub children: &'static [Command],
    /// What it does.
    pub action: Action,
}

const fn flag(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag {
        name,
        short: None,
        kind,
        default,
        help,
    }
}

/// Flags that every command takes.
pub static GLOBAL: [Flag; 2] = [
    flag(
        "timeout",
        Kind::Duration,
        "10s",
        "how long to wait for the lock of the database file; 0 waits for ever",
    ),
    Flag {
        name: "write-out",
        short: Some('w'),
        kind: Kind::Text,
        default: "simple",
        help: "output form (fields, json, protobuf, simple, table)",
    },
];

static DEFRAG: [Flag; 1] = [flag(
    "data-dir",
    Kind::Text,
    "",
    "required: the data folder, which no etcd may be using",
)];

static HASHKV: [Flag; 1] = [flag(
    "rev",
    Kind::Int,
    "0",
    "hash up to this revision (the latest unless given)",
)];

static MIGRATE: [Flag; 3] = [
    flag("data-dir", Kind::Text, "", "required: the data folder"),
    flag(
        "force",
        Kind::Bool,
        "false",
        "set the storage version even if the migration fails; not recommended",
    ),
    flag(
        "target-version",
        Kind::Text,
        "",
        "required: the version of etcd to migrate to, as \"X.Y\", 3.5 at least",
    ),
];

static RESTORE: [Flag; 10] = [
    flag(
        "bump-revision",
        Kind::Uint,
        "0",
        "how many revisions to leave out after the latest",
    ),
    flag(
        "data-dir",
        Kind::Text,
        "",
        "the folder to make (<name>.etcd unless given)",
    ),
    flag(
        "initial-advertise-peer-urls",
        Kind::Text,
        "http://localhost:2380",
        "peer URLs of this member",
    ),
    flag(
        "initial-cluster",
        Kind::Text,
        "default=http://localhost:2380",
        "the members of the new cluster",
    ),
    flag(
        "initial-cluster-token",
        Kind::Text,
        "etcd-cluster",
        "token of the new cluster",
    ),
    flag(
        "initial-memory-map-size",
        Kind::Uint,
        "10737418240",
        "accepted, and of no effect: the database is not mapped",
    ),
    flag(
        "mark-compacted",
        Kind::Bool,
        "false",
        "take everything up to the bumped revision for compacted (required with --bump-revision, and not allowed without)",
    ),
    flag("name", Kind::Text, "default", "name of this member"),
    flag(
        "skip-hash-check",
        Kind::Bool,
        "false",
        "take a file without a hash (a copy out of a data folder), or with a wrong one",
    ),
    flag(
        "wal-dir",
        Kind::Text,
        "",
        "the folder for the log (in the data folder unless given)",
    ),
];

const ENDPOINTS: Flag = flag(
    "endpoints",
    Kind::List,
    "127.0.0.1:2379",
    "where clients reach the members: every one of them",
);
const CACERT: Flag = flag(
    "cacert",
    Kind::Text,
    "",
    "authorities of the members' certificates (PEM)",
);
const CERT: Flag = flag(
    "cert",
    Kind::Text,
    "",
    "certificate to show to members (PEM)",
);
const KEY: Flag = flag("key", Kind::Text, "", "its key (PEM)");
const INSECURE: Flag = flag(
    "insecure-skip-tls-verify",
    Kind::Bool,
    "false",
    "do not check the members' certificates",
);
const PEER_CACERT: Flag = flag(
    "peer-cacert",
    Kind::Text,
    "",
    "authorities of the certificates on the members' peer port (PEM); those of --cacert if not given",
);
const PEER_CERT: Flag = flag(
    "peer-cert",
    Kind::Text,
    "",
    "the certificate to show on the peer port (PEM); that of --cert if not given",
);
const PEER_KEY: Flag = flag(
    "peer-key",
    Kind::Text,
    "",
    "its key (PEM); that of --key if not given",
);
const USER: Flag = flag(
    "user",
    Kind::Text,
    "",
    "name:password of a user who may do everything",
);
const WAIT: Flag = flag(
    "wait",
    Kind::Duration,
    "1m0s",
    "how long to wait for anything before giving up",
);
const OLD: Flag = flag(
    "member",
    Kind::Text,
    "",
    "required: the member to exchange, its name or ID",
);
const DATA: Flag = flag("data-dir", Kind::Text, "", "required: its data folder");
const WAL: Flag = flag(
    "wal-dir",
    Kind::Text,
    "",
    "its log, if that is not in the data folder",
);
const STOP: Flag = flag(
    "stop",
    Kind::Text,
    "",
    "required: line for the shell that stops the old program and waits for its end",
);
const START: Flag = flag(
    "start",
    Kind::Text,
    "",
    "required: line for the shell that starts the new program and returns",
);
const FALLBACK: Flag = flag(
    "fallback",
    Kind::Text,
    "",
    "line for the shell that starts the old program again, if the new one must not have the folder",
);
const DOWNTIME: Flag = flag(
    "allow-downtime",
    Kind::Bool,
    "false",
    "go on though too few voters are left meanwhile: a cluster of one or two",
);
const LAST: Flag = flag(
    "last",
    Kind::Bool,
    "false",
    "go on though nothing holds the cluster's version: it will rise",
);

static TAKEOVER_CHECK: [Flag; 13] = [
    CACERT,
    CERT,
    flag(
        "data-dir",
        Kind::Text,
        "",
        "a folder to look at as well, which no etcd is using",
    ),
    ENDPOINTS,
    INSECURE,
    KEY,
    flag(
        "member",
        Kind::Text,
        "",
        "the member to exchange next, its name or ID",
    ),
    PEER_CACERT,
    PEER_CERT,
    PEER_KEY,
    USER,
    WAIT,
    WAL,
];

static TAKEOVER_STEP: [Flag; 18] = [
    DOWNTIME,
    CACERT,
    CERT,
    DATA,
    ENDPOINTS,
    FALLBACK,
    INSECURE,
    KEY,
    LAST,
    OLD,
    PEER_CACERT,
    PEER_CERT,
    PEER_KEY,
    START,
    STOP,
    USER,
    WAIT,
    WAL,
];

static TAKEOVER_BACK: [Flag; 18] = [
    DOWNTIME,
    CACERT,
    CERT,
    DATA,
    ENDPOINTS,
    FALLBACK,
    INSECURE,
    KEY,
    OLD,
    PEER_CACERT,
    PEER_CERT,
    PEER_KEY,
    START,
    STOP,
    flag(
        "to",
        Kind::Text,
        "3.5",
        "version of the program to come back to",
    ),
    USER,
    WAIT,
    WAL,
];

static TAKEOVER_REPLACE: [Flag; 17] = [
    CACERT,
    CERT,
    ENDPOINTS,
    INSECURE,
    KEY,
    LAST,
    OLD,
    flag(
        "new-endpoint",
        Kind::Text,
        "",
        "required: where clients will reach the new member",
    ),
    flag(
        "new-peer-urls",
        Kind::List,
        "",
        "required: where other members will reach the new member",
    ),
    PEER_CACERT,
    PEER_CERT,
    PEER_KEY,
    START,
    STOP,
    flag(
        "to",
        Kind::Text,
        "",
        "on the way back: version of the program of the new member, as 3.5",
    ),
    USER,
    WAIT,
];

static TAKEOVER: [Command; 4] = [
    Command {
        required: &["member", "data-dir", "stop", "start"],
        ..leaf(
            "back",
            "--member {name} --data-dir {dir} --stop {line} --start {line} [options]",
            "Gives a member of Ferrite back to the original, in place",
            &TAKEOVER_BACK,
            Action::Takeover(What::Back),
        )
    },
    leaf(
        "check",
        "[options]",
        "Says whether the next step would be safe, and does nothing",
        &TAKEOVER_CHECK,
        Action::Takeover(What::Check),
    ),
    Command {
        required: &["member", "new-peer-urls", "new-endpoint", "stop", "start"],
        ..leaf(
            "replace",
            "--member {name} --new-peer-urls {URLs} --new-endpoint {URL} --start {line} --stop {line} [options]",
            "Puts a new member in an old one's place: added, caught up, then the other removed",
            &TAKEOVER_REPLACE,
            Action::Takeover(What::Replace),
        )
    },
    Command {
        required: &["member", "data-dir", "stop", "start"],
        ..leaf(
            "step",
            "--member {name} --data-dir {dir} --stop {line} --start {line} [options]",
            "Gives a member of the original to Ferrite, in place",
            &TAKEOVER_STEP,
            Action::Takeover(What::Step),
        )
    },
];

const fn leaf(
    name: &'static str,
    usage: &'static str,
    help: &'static str,
    flags: &'static [Flag],
    action: Action,
) -> Command {
    Command {
        name,
        usage,
        help,
        flags,
        required: &[],
        children: &[],
        action,
    }
}

static SNAPSHOT: [Command; 2] = [
    leaf(
        "restore",
        "<filename> --data-dir {output dir} [options]",
        "Makes a member's data folder from a snapshot",
        &RESTORE,
        Action::SnapshotRestore,
    ),
    leaf(
        "status",
        "<filename>",
        "Describes a snapshot: hash, revision, total keys, total size, version",
        &[],
        Action::SnapshotStatus,
    ),
];

const FORMAT_HELP: &str = "how bytes are shown (auto, ascii-encoded, hex, bytes, redacted)";

static BBOLT_KEYS: [Flag; 1] = [Flag {
    short: Some('f'),
    ..flag("format", Kind::Text, "auto", FORMAT_HELP)
}];

static BBOLT_GET: [Flag; 2] = [
    flag("format", Kind::Text, "auto", FORMAT_HELP),
    flag(
        "parse-format",
        Kind::Text,
        "ascii-encoded",
        "how the key is written (ascii-encoded, hex)",
    ),
];

static BBOLT_PAGE: [Flag; 2] = [
    flag("all", Kind::Bool, "false", "print every page"),
    flag("format-value", Kind::Text, "auto", FORMAT_HELP),
];

static BBOLT: [Command; 6] = [
    leaf(
        "buckets",
        "<bbolt-file>",
        "Lists the buckets of a database file",
        &[],
        Action::BboltBuckets,
    ),
    leaf(
        "check",
        "<bbolt-file>",
        "Examines every page of a database file, and the list of free ones",
        &[],
        Action::BboltCheck,
    ),
    leaf(
        "get",
        "<bbolt-file> [bucket...] <key>",
        "Prints the value of a key in a bucket",
        &BBOLT_GET,
        Action::BboltGet,
    ),
    leaf(
        "keys",
        "<bbolt-file> <buckets>",
        "Lists the keys of a bucket",
        &BBOLT_KEYS,
        Action::BboltKeys,
    ),
    leaf(
        "page",
        "<bbolt-file> [pageid...]",
        "Prints pages for people to read",
        &BBOLT_PAGE,
        Action::BboltPage,
    ),
    leaf(
        "stats",
        "<bbolt-file> [prefix of buckets]",
        "Counts pages, keys and bytes in use",
        &[],
        Action::BboltStats,
    ),
];

/// The commands at the top.
pub static COMMANDS: [Command; 9] = [
    Command {
        children: &BBOLT,
        ..leaf(
            "bbolt",
            "<subcommand>",
            "Looks into a database file, as bbolt's own tool does",
            &[],
            Action::Group,
        )
    },
    leaf(
        "completion",
        "[bash|zsh|fish|powershell]",
        "Prints a completion script for a shell",
        &[],
        Action::Completion,
    ),
    Command {
        required: &["data-dir"],
        ..leaf(
            "defrag",
            "--data-dir {dir}",
            "Gives the free space of a database file back",
            &DEFRAG,
            Action::Defrag,
        )
    },
    leaf(
        "hashkv",
        "<filename>",
        "Prints the hash of the key space in a database file",
        &HASHKV,
        Action::HashKv,
    ),
    leaf(
        "help",
        "[command]",
        "Prints help about a command",
        &[],
        Action::Help,
    ),
    Command {
        required: &["data-dir", "target-version"],
        ..leaf(
            "migrate",
            "--data-dir {dir} --target-version X.Y",
            "Changes the storage version of a data folder",
            &MIGRATE,
            Action::Migrate,
        )
    },
    Command {
        children: &SNAPSHOT,
        ..leaf(
            "snapshot",
            "<subcommand>",
            "Describes and restores snapshots",
            &[],
            Action::Group,
        )
    },
    Command {
        children: &TAKEOVER,
        ..leaf(
            "takeover",
            "<subcommand>",
            "Ferrite's own: exchanges the members of a running cluster one by one, and back",
            &[],
            Action::Group,
        )
    },
    leaf(
        "version",
        "",
        "Prints the version of etcdutl",
        &[],
        Action::Version,
    ),
];

/// A command by its name, or by a beginning of it that no other shares.
pub fn find(commands: &'static [Command], name: &str) -> Option<&'static Command> {
    if let Some(command) = commands.iter().find(|c| c.name == name) {
        return Some(command);
    }
    let mut matching = commands.iter().filter(|c| c.name.starts_with(name));
    match (matching.next(), matching.next()) {
        (Some(command), None) => Some(command),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrite_cli::flags::Values;

    #[test]
    fn defaults_can_be_read_and_required_flags_exist() {
        fn visit(commands: &'static [Command]) {
            for command in commands {
                let values = Values::new(GLOBAL.iter().chain(command.flags).collect());
                for flag in values.known() {
                    assert!(values.get(flag.name).is_some(), "{}", flag.name);
                }
                for name in command.required {
                    assert!(command.flags.iter().any(|f| f.name == *name));
                }
                visit(command.children);
            }
        }
        visit(&COMMANDS);
    }

    #[test]
    fn unique_beginnings_stand_for_a_command() {
        let name = |typed| find(&COMMANDS, typed).map(|c| c.name);
        assert_eq!(name("snap"), Some("snapshot"));
        assert_eq!(name("h"), None);
        assert_eq!(name("ha"), Some("hashkv"));
        assert_eq!(name("backup"), None);
    }
}
