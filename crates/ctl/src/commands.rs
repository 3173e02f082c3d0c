//! The tree of commands: one table for parsing, abbreviations, suggestions and help.

use crate::flags::{Flag, Kind};

/// The headings under which help lists commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// Keys and values.
    KeyValue,
    /// Members, endpoints, storage.
    Maintenance,
    /// Locks and elections.
    Concurrency,
    /// Users and roles.
    Authentication,
    /// The rest.
    Utility,
}

impl Group {
    /// All groups, in the order of help.
    pub const ALL: [Self; 5] = [
        Self::KeyValue,
        Self::Maintenance,
        Self::Concurrency,
        Self::Authentication,
        Self::Utility,
    ];

    /// The heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::KeyValue => "Key-value commands",
            Self::Maintenance => "Cluster maintenance commands",
            Self::Concurrency => "Concurrency commands",
            Self::Authentication => "Authentication commands",
            Self::Utility => "Utility commands",
        }
    }
}

/// What a command does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing by itself: it has subcommands.
    Help,
    /// Known to etcd, not yet to this release.
    Later,
    /// Prints help about a topic.
    HelpTopic,
    /// Prints the global flags.
    Options,
    /// Prints versions.
    Version,
    Put,
    Get,
    Del,
    Txn,
    Compaction,
    MemberAdd,
    MemberRemove,
    MemberUpdate,
    MemberList,
    MemberPromote,
    EndpointHealth,
    EndpointStatus,
    EndpointHashKv,
    MoveLeader,
    AlarmList,
    AlarmDisarm,
    Defrag,
    SnapshotSave,
    LeaseGrant,
    LeaseRevoke,
    LeaseTimeToLive,
    LeaseList,
    LeaseKeepAlive,
}

/// One command.
#[derive(Debug)]
pub struct Command {
    /// Its name.
    pub name: &'static str,
    /// Where help lists it; of no use below the top.
    pub group: Group,
    /// How to call it, after the name.
    pub usage: &'static str,
    /// One line of help.
    pub help: &'static str,
    /// More help, for the command's own page.
    pub more: &'static str,
    /// Its flags.
    pub flags: &'static [Flag],
    /// Flags for it and all below it.
    pub shared: &'static [Flag],
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

const fn switch(name: &'static str, help: &'static str) -> Flag {
    flag(name, Kind::Bool, "false", help)
}

const fn short(mut flag: Flag, short: char) -> Flag {
    flag.short = Some(short);
    flag
}

const fn leaf(
    name: &'static str,
    group: Group,
    usage: &'static str,
    help: &'static str,
    flags: &'static [Flag],
    action: Action,
) -> Command {
    Command {
        name,
        group,
        usage,
        help,
        more: "",
        flags,
        shared: &[],
        children: &[],
        action,
    }
}

const fn parent(
    name: &'static str,
    help: &'static str,
    shared: &'static [Flag],
    children: &'static [Command],
) -> Command {
    Command {
        name,
        group: Group::Maintenance,
        usage: "<subcommand>",
        help,
        more: "",
        flags: &[],
        shared,
        children,
        action: Action::Help,
    }
}

const fn in_group(group: Group, mut command: Command) -> Command {
    command.group = group;
    command
}

const fn later(name: &'static str, group: Group, help: &'static str) -> Command {
    leaf(name, group, "…", help, &[], Action::Later)
}

const fn with_more(mut command: Command, more: &'static str) -> Command {
    command.more = more;
    command
}

use Group::{Authentication, Concurrency, KeyValue, Maintenance, Utility};
use Kind::{Bool, Duration, Int, List, Text};

/// The flags of every command.
pub static GLOBAL: [Flag; 21] = [
    flag(
        "endpoints",
        List,
        "127.0.0.1:2379",
        "addresses of the members to talk to",
    ),
    switch("debug", "say on standard error what settings are used"),
    short(
        flag(
            "write-out",
            Text,
            "simple",
            "form of the output (fields, json, protobuf, simple, table)",
        ),
        'w',
    ),
    switch("hex", "print keys, values and IDs in hexadecimal"),
    flag(
        "dial-timeout",
        Duration,
        "2s",
        "how long connecting may take",
    ),
    flag(
        "command-timeout",
        Duration,
        "5s",
        "how long the command may take, connecting aside",
    ),
    flag(
        "keepalive-time",
        Duration,
        "2s",
        "silence after which a connection is probed",
    ),
    flag(
        "keepalive-timeout",
        Duration,
        "6s",
        "how long the answer to a probe may take",
    ),
    flag(
        "max-request-bytes",
        Int,
        "0",
        "largest request (0 means 2 MiB)",
    ),
    flag(
        "max-recv-bytes",
        Int,
        "0",
        "largest response (0 means 2 GiB)",
    ),
    flag("insecure-transport", Bool, "true", "do without TLS"),
    flag(
        "insecure-discovery",
        Bool,
        "true",
        "accept addresses without TLS from DNS",
    ),
    switch(
        "insecure-skip-tls-verify",
        "do not check the server's certificate (for tests)",
    ),
    flag("cert", Text, "", "file with this client's TLS certificate"),
    flag("key", Text, "", "file with the key of that certificate"),
    flag(
        "cacert",
        Text,
        "",
        "file with the authorities that servers' certificates are checked against",
    ),
    flag(
        "auth-jwt-token",
        Text,
        "",
        "token to authenticate with, instead of a user and a password",
    ),
    flag(
        "user",
        Text,
        "",
        "user[:password] to authenticate with; without a password it is asked for",
    ),
    flag("password", Text, "", "the password, if --user holds none"),
    short(
        flag(
            "discovery-srv",
            Text,
            "",
            "domain whose SRV records name the members",
        ),
        'd',
    ),
    flag(
        "discovery-srv-name",
        Text,
        "",
        "service name to put into that query",
    ),
];

static CLUSTER: [Flag; 1] = [switch(
    "cluster",
    "ask every member of the cluster, not only the endpoints given",
)];
static PEER_URLS: [Flag; 1] = [flag(
    "peer-urls",
    Text,
    "",
    "the member's peer URLs, with commas between",
)];

/// All commands.
pub static COMMANDS: [Command; 25] = [
    leaf(
        "get",
        KeyValue,
        "[options] <key> [range_end]",
        "Reads a key, or the keys of a range",
        &[
            flag(
                "consistency",
                Text,
                "l",
                "l for linearizable, s for serializable",
            ),
            flag("order", Text, "", "order of the results: ASCEND or DESCEND"),
            flag(
                "sort-by",
                Text,
                "",
                "what to sort by: CREATE, KEY, MODIFY, VALUE or VERSION",
            ),
            flag("limit", Int, "0", "at most so many results"),
            switch("prefix", "read the keys that begin with <key>"),
            switch("from-key", "read the keys from <key> on, in byte order"),
            flag("rev", Int, "0", "read as of this revision"),
            switch("keys-only", "read keys without values"),
            switch("count-only", "only count"),
            switch("print-value-only", "print values only (simple output)"),
            flag(
                "min-create-rev",
                Int,
                "0",
                "only keys created at this revision or later",
            ),
            flag(
                "max-create-rev",
                Int,
                "0",
                "only keys created at this revision or earlier",
            ),
            flag(
                "min-mod-rev",
                Int,
                "0",
                "only keys changed at this revision or later",
            ),
            flag(
                "max-mod-rev",
                Int,
                "0",
                "only keys changed at this revision or earlier",
            ),
            switch("stream", "receive the result in pieces (RangeStream)"),
        ],
        Action::Get,
    ),
    with_more(
        leaf(
            "put",
            KeyValue,
            "[options] <key> <value> (<value> can also be given from stdin)",
            "Writes a key",
            &[
                flag(
                    "lease",
                    Text,
                    "0",
                    "ID (hexadecimal) of the lease to attach the key to",
                ),
                switch("prev-kv", "also print what was there before"),
                switch("ignore-value", "keep the value the key has"),
                switch("ignore-lease", "keep the lease the key has"),
            ],
            Action::Put,
        ),
        "Without <value> the value is read from standard input, to its end.\nA value that begins with a dash goes after two dashes: put <key> -- <value>",
    ),
    leaf(
        "del",
        KeyValue,
        "[options] <key> [range_end]",
        "Deletes a key, or the keys of the range [key, range_end)",
        &[
            switch("prefix", "delete the keys that begin with <key>"),
            switch("prev-kv", "also print what was deleted"),
            switch("from-key", "delete the keys from <key> on, in byte order"),
            switch(
                "range",
                "a range is meant: do not warn and wait when <range_end> is given",
            ),
        ],
        Action::Del,
    ),
    with_more(
        leaf(
            "txn",
            KeyValue,
            "[options]",
            "Runs several requests as one transaction",
            &[short(switch("interactive", "ask for each part"), 'i')],
            Action::Txn,
        ),
        "Standard input holds three parts, each ended by an empty line: comparisons, requests to run if\nall of them hold, requests to run if not. A comparison looks like this:  mod(\"key\") > \"0\"\nIts target is one of ver, c, m, val, lease (or version, create, mod, value); its operator one of\n= != < >. A request is a put, get or del command.",
    ),
    leaf(
        "compaction",
        KeyValue,
        "[options] <revision>",
        "Forgets the history before a revision",
        &[switch(
            "physical",
            "wait until the old revisions are gone from the database",
        )],
        Action::Compaction,
    ),
    parent(
        "alarm",
        "Alarms of the cluster",
        &[],
        &[
            leaf(
                "disarm",
                Maintenance,
                "",
                "Clears all alarms",
                &[],
                Action::AlarmDisarm,
            ),
            leaf(
                "list",
                Maintenance,
                "",
                "Lists the alarms",
                &[],
                Action::AlarmList,
            ),
        ],
    ),
    leaf(
        "defrag",
        Maintenance,
        "[options]",
        "Gives unused space in the members' databases back",
        &CLUSTER,
        Action::Defrag,
    ),
    parent(
        "endpoint",
        "What the members behind the endpoints say of themselves",
        &CLUSTER,
        &[
            leaf(
                "health",
                Maintenance,
                "",
                "Checks that each endpoint serves",
                &[],
                Action::EndpointHealth,
            ),
            leaf(
                "status",
                Maintenance,
                "",
                "Prints each endpoint's version, sizes and place in the cluster",
                &[],
                Action::EndpointStatus,
            ),
            leaf(
                "hashkv",
                Maintenance,
                "[options]",
                "Prints the hash of each endpoint's history",
                &[flag(
                    "rev",
                    Int,
                    "0",
                    "hash up to this revision (0 means the latest)",
                )],
                Action::EndpointHashKv,
            ),
        ],
    ),
    leaf(
        "move-leader",
        Maintenance,
        "<transferee-member-id>",
        "Hands the leadership to another member",
        &[],
        Action::MoveLeader,
    ),
    later("watch", KeyValue, "Watches keys"),
    leaf(
        "version",
        Utility,
        "",
        "Prints the version of etcdctl",
        &[],
        Action::Version,
    ),
    in_group(
        KeyValue,
        parent(
            "lease",
            "Leases",
            &[],
            &[
                leaf(
                    "grant",
                    KeyValue,
                    "<ttl>",
                    "Makes a lease that lives for this many seconds",
                    &[],
                    Action::LeaseGrant,
                ),
                leaf(
                    "revoke",
                    KeyValue,
                    "<leaseID>",
                    "Ends a lease and deletes its keys",
                    &[],
                    Action::LeaseRevoke,
                ),
                leaf(
                    "timetolive",
                    KeyValue,
                    "<leaseID> [options]",
                    "Prints how long a lease will live",
                    &[switch("keys", "print the keys attached to it too")],
                    Action::LeaseTimeToLive,
                ),
                leaf(
                    "list",
                    KeyValue,
                    "",
                    "Lists the leases",
                    &[],
                    Action::LeaseList,
                ),
                leaf(
                    "keep-alive",
                    KeyValue,
                    "[options] <leaseID>",
                    "Renews a lease until it is gone",
                    &[switch("once", "renew it once and end")],
                    Action::LeaseKeepAlive,
                ),
            ],
        ),
    ),
    parent(
        "member",
        "Members of the cluster",
        &[],
        &[
            leaf(
                "add",
                Maintenance,
                "<memberName> [options]",
                "Adds a member",
                &[
                    flag(
                        "peer-urls",
                        Text,
                        "",
                        "the new member's peer URLs, with commas between",
                    ),
                    switch("learner", "add it without a vote"),
                ],
                Action::MemberAdd,
            ),
            leaf(
                "remove",
                Maintenance,
                "<memberID>",
                "Removes a member",
                &[],
                Action::MemberRemove,
            ),
            leaf(
                "update",
                Maintenance,
                "<memberID> [options]",
                "Changes a member's peer URLs",
                &PEER_URLS,
                Action::MemberUpdate,
            ),
            leaf(
                "list",
                Maintenance,
                "[options]",
                "Lists the members",
                &[flag(
                    "consistency",
                    Text,
                    "l",
                    "l for linearizable, s for serializable",
                )],
                Action::MemberList,
            ),
            leaf(
                "promote",
                Maintenance,
                "<memberID>",
                "Gives a learner a vote",
                &[],
                Action::MemberPromote,
            ),
        ],
    ),
    parent(
        "snapshot",
        "Snapshots of a member's database",
        &[],
        &[leaf(
            "save",
            Maintenance,
            "<filename>",
            "Saves the database of the one endpoint given to a file",
            &[],
            Action::SnapshotSave,
        )],
    ),
    later(
        "make-mirror",
        Maintenance,
        "Copies keys to another cluster as they change",
    ),
    later("lock", Concurrency, "Takes a lock"),
    later("elect", Concurrency, "Takes part in an election"),
    later("auth", Authentication, "Turns authentication on and off"),
    later("user", Authentication, "Users"),
    later("role", Authentication, "Roles"),
    later("check", Utility, "Checks of performance"),
    later("completion", Utility, "Completion scripts for shells"),
    later("downgrade", Maintenance, "Prepares a downgrade"),
    leaf(
        "options",
        Utility,
        "",
        "Prints the flags that every command takes",
        &[],
        Action::Options,
    ),
    leaf(
        "help",
        Utility,
        "[command]",
        "Prints help about a command",
        &[],
        Action::HelpTopic,
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

/// Names that resemble a mistyped one.
pub fn similar<'a>(names: impl Iterator<Item = &'a str>, typed: &str) -> Vec<&'a str> {
    /// So many wrong letters still count as a slip.
    const SLIPS_MAX: usize = 2;
    let typed = typed.to_lowercase();
    names
        .filter(|name| distance(name, &typed) <= SLIPS_MAX || name.starts_with(&typed))
        .collect()
}

/// The number of letters to insert, delete or change to get from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let change = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::Values;

    #[test]
    fn unique_beginnings_stand_for_a_command() {
        let name = |typed| find(&COMMANDS, typed).map(|c| c.name);
        assert_eq!(name("compact"), Some("compaction"));
        assert_eq!(name("snap"), Some("snapshot"));
        assert_eq!(name("e"), None);
        assert_eq!(name("en"), Some("endpoint"));
        assert_eq!(name("pot"), None);
    }

    #[test]
    fn slips_are_recognised() {
        let names = || COMMANDS.iter().map(|c| c.name);
        assert_eq!(similar(names(), "pot"), ["get", "put"]);
        assert_eq!(similar(names(), "membre"), ["member"]);
        assert!(similar(names(), "frobnicate").is_empty());
    }

    #[test]
    fn every_default_can_be_read() {
        fn walk(commands: &'static [Command]) {
            for command in commands {
                for flag in command.flags.iter().chain(command.shared) {
                    assert!(
                        Values::new(vec![flag]).get(flag.name).is_some(),
                        "{}",
                        flag.name
                    );
                }
                walk(command.children);
            }
        }
        walk(&COMMANDS);
        for flag in &GLOBAL {
            assert!(
                Values::new(vec![flag]).get(flag.name).is_some(),
                "{}",
                flag.name
            );
        }
    }
}
