//! The tree of commands: one table for parsing, abbreviations, suggestions and help.

use ferrite_cli::flags::{Flag, Kind};

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
    Watch,
    AuthEnable,
    AuthDisable,
    AuthStatus,
    UserAdd,
    UserDelete,
    UserGet,
    UserList,
    UserPasswd,
    UserGrantRole,
    UserRevokeRole,
    RoleAdd,
    RoleDelete,
    RoleGet,
    RoleList,
    RoleGrantPermission,
    RoleRevokePermission,
    DowngradeValidate,
    DowngradeEnable,
    DowngradeCancel,
    Lock,
    Elect,
    CheckPerf,
    CheckDatascale,
    MakeMirror,
    Top,
    Drill,
    Completion,
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

const fn with_more(mut command: Command, more: &'static str) -> Command {
    command.more = more;
    command
}

use Group::{Authentication, Concurrency, KeyValue, Maintenance, Utility};
use Kind::{Bool, Duration, Int, List, Text, Uint};

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

/// The flags of `watch`, on the command line and in a line of its interactive mode.
pub static WATCH: [Flag; 5] = [
    short(
        switch("interactive", "read what to watch from standard input"),
        'i',
    ),
    switch("prefix", "watch the keys that begin with <key>"),
    flag("rev", Int, "0", "begin with this revision"),
    switch("prev-kv", "also print what was there before"),
    switch(
        "progress-notify",
        "have the server say from time to time how far the watch has come",
    ),
];

static PERMISSION: [Flag; 2] = [
    switch("prefix", "the keys that begin with <key>"),
    switch("from-key", "the keys from <key> on, in byte order"),
];

static DETAIL: [Flag; 1] = [switch("detail", "print what the user's roles permit")];

const fn load_flags(prefix: &'static str) -> [Flag; 4] {
    [
        flag(
            "load",
            Text,
            "s",
            "size of the load: s(mall), m(edium), l(arge) or xl(xLarge)",
        ),
        flag("prefix", Text, prefix, "what the keys begin with"),
        switch("auto-compact", "compact afterwards"),
        switch("auto-defrag", "defragment the endpoints afterwards"),
    ]
}

static PERF: [Flag; 5] = {
    let [load, prefix, compact, defrag] = load_flags("/etcdctl-check-perf/");
    let time = flag("duration", Duration, "1m0s", "how long the load lasts");
    [load, prefix, compact, defrag, time]
};
static DATASCALE: [Flag; 4] = load_flags("/etcdctl-check-datascale/");

/// All commands.
pub static COMMANDS: [Command; 27] = [
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
    with_more(
        leaf(
            "watch",
            KeyValue,
            "[options] [key or prefix] [range_end] [--] [exec-command arg1 arg2 ...]",
            "Watches keys",
            &WATCH,
            Action::Watch,
        ),
        "A command after -- runs for each event, with ETCD_WATCH_REVISION, ETCD_WATCH_EVENT_TYPE,\nETCD_WATCH_KEY and ETCD_WATCH_VALUE set (the last three in quotes). The key and the end of the\nrange can also come from ETCDCTL_WATCH_KEY and ETCDCTL_WATCH_RANGE_END.\n\nWith -i each line of standard input is a watch of its own, or \"progress\":\n  watch [options] <key or prefix> [range_end] [--] [exec-command arg1 arg2 ...]",
    ),
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
    with_more(
        leaf(
            "make-mirror",
            Utility,
            "[options] <destination>",
            "Copies keys to another cluster as they change",
            &[
                flag("prefix", Text, "", "copy the keys that begin with this"),
                flag(
                    "rev",
                    Int,
                    "0",
                    "do not copy what is there, but what changes from this revision on",
                ),
                flag(
                    "max-txn-ops",
                    Uint,
                    "128",
                    "at most so many changes in a transaction",
                ),
                flag(
                    "dest-prefix",
                    Text,
                    "",
                    "what keys begin with there, in place of --prefix",
                ),
                switch("no-dest-prefix", "leave --prefix out there"),
                flag(
                    "dest-cert",
                    Text,
                    "",
                    "file with the TLS certificate to show there",
                ),
                flag(
                    "dest-key",
                    Text,
                    "",
                    "file with the key of that certificate",
                ),
                flag(
                    "dest-cacert",
                    Text,
                    "",
                    "file with the authorities to check the destination against",
                ),
                flag(
                    "dest-insecure-transport",
                    Bool,
                    "true",
                    "do without TLS there",
                ),
                flag(
                    "dest-user",
                    Text,
                    "",
                    "user[:password] to authenticate with there; without a password it is asked for",
                ),
                flag(
                    "dest-password",
                    Text,
                    "",
                    "the password, if --dest-user holds none",
                ),
            ],
            Action::MakeMirror,
        ),
        "Every 30 seconds it prints how many keys have been written. A destination that is away is\nwaited for. Leases are not copied.",
    ),
    with_more(
        leaf(
            "lock",
            Concurrency,
            "<lockname> [exec-command arg1 arg2 ...]",
            "Takes a lock, and holds it while a command runs or until Ctrl-C",
            &[flag(
                "ttl",
                Int,
                "10",
                "seconds after which the lock falls if this client is gone",
            )],
            Action::Lock,
        ),
        "The command finds ETCD_LOCK_KEY and ETCD_LOCK_REV set; its exit code is etcdctl's.",
    ),
    leaf(
        "elect",
        Concurrency,
        "<election-name> [proposal]",
        "Stands in an election, or listens (-l) to who is elected",
        &[short(
            switch("listen", "do not stand, only print who is elected"),
            'l',
        )],
        Action::Elect,
    ),
    in_group(
        Authentication,
        parent(
            "auth",
            "Turns authentication on and off",
            &[],
            &[
                leaf(
                    "enable",
                    Authentication,
                    "",
                    "Turns authentication on; a user root has to be there",
                    &[],
                    Action::AuthEnable,
                ),
                leaf(
                    "disable",
                    Authentication,
                    "",
                    "Turns authentication off",
                    &[],
                    Action::AuthDisable,
                ),
                leaf(
                    "status",
                    Authentication,
                    "",
                    "Says whether authentication is on",
                    &[],
                    Action::AuthStatus,
                ),
            ],
        ),
    ),
    in_group(
        Authentication,
        parent(
            "user",
            "Users",
            &[],
            &[
                leaf(
                    "add",
                    Authentication,
                    "<user name or user:password> [options]",
                    "Adds a user",
                    &[
                        flag(
                            "interactive",
                            Bool,
                            "true",
                            "ask for the password; else it is read from standard input in silence",
                        ),
                        flag("new-user-password", Text, "", "the password"),
                        switch(
                            "no-password",
                            "no password: the user is known by a certificate",
                        ),
                    ],
                    Action::UserAdd,
                ),
                leaf(
                    "delete",
                    Authentication,
                    "<user name>",
                    "Deletes a user",
                    &[],
                    Action::UserDelete,
                ),
                leaf(
                    "get",
                    Authentication,
                    "<user name> [options]",
                    "Prints a user's roles",
                    &DETAIL,
                    Action::UserGet,
                ),
                leaf(
                    "list",
                    Authentication,
                    "",
                    "Lists the users",
                    &[],
                    Action::UserList,
                ),
                leaf(
                    "passwd",
                    Authentication,
                    "<user name> [options]",
                    "Changes a user's password",
                    &[flag(
                        "interactive",
                        Bool,
                        "true",
                        "ask for the password; else it is read from standard input in silence",
                    )],
                    Action::UserPasswd,
                ),
                leaf(
                    "grant-role",
                    Authentication,
                    "<user name> <role name>",
                    "Gives a role to a user",
                    &[],
                    Action::UserGrantRole,
                ),
                leaf(
                    "revoke-role",
                    Authentication,
                    "<user name> <role name>",
                    "Takes a role from a user",
                    &[],
                    Action::UserRevokeRole,
                ),
            ],
        ),
    ),
    in_group(
        Authentication,
        parent(
            "role",
            "Roles",
            &[],
            &[
                leaf(
                    "add",
                    Authentication,
                    "<role name>",
                    "Adds a role",
                    &[],
                    Action::RoleAdd,
                ),
                leaf(
                    "delete",
                    Authentication,
                    "<role name>",
                    "Deletes a role",
                    &[],
                    Action::RoleDelete,
                ),
                leaf(
                    "get",
                    Authentication,
                    "<role name>",
                    "Prints what a role permits",
                    &[],
                    Action::RoleGet,
                ),
                leaf(
                    "list",
                    Authentication,
                    "",
                    "Lists the roles",
                    &[],
                    Action::RoleList,
                ),
                with_more(
                    leaf(
                        "grant-permission",
                        Authentication,
                        "[options] <role name> <permission type> <key> [endkey]",
                        "Permits a role to use keys",
                        &PERMISSION,
                        Action::RoleGrantPermission,
                    ),
                    "The permission type is read, write or readwrite.",
                ),
                leaf(
                    "revoke-permission",
                    Authentication,
                    "<role name> <key> [endkey]",
                    "Takes a permission back",
                    &PERMISSION,
                    Action::RoleRevokePermission,
                ),
            ],
        ),
    ),
    in_group(
        Utility,
        parent(
            "check",
            "Checks of performance",
            &[],
            &[
                leaf(
                    "perf",
                    Utility,
                    "[options]",
                    "Writes at a given pace and judges throughput and delays",
                    &PERF,
                    Action::CheckPerf,
                ),
                leaf(
                    "datascale",
                    Utility,
                    "[options]",
                    "Measures the memory that a member takes for many keys",
                    &DATASCALE,
                    Action::CheckDatascale,
                ),
            ],
        ),
    ),
    with_more(
        leaf(
            "top",
            Utility,
            "[options]",
            "Shows the members live: who leads, rates, delays, sizes, and what is wrong",
            &[
                flag(
                    "cluster",
                    Bool,
                    "true",
                    "ask every member of the cluster; false asks the endpoints given",
                ),
                flag("interval", Duration, "2s", "how often to look"),
                switch(
                    "once",
                    "print one look and end; rates are those of one interval",
                ),
            ],
            Action::Top,
        ),
        "READ is how long a read through the quorum took just now. REQ/S, FSYNC P99 and MEMORY come from a\nmember's /metrics, where those can be had without TLS. Without a terminal every look is printed;\n-w json prints an object for each.",
    ),
    with_more(
        leaf(
            "drill",
            Utility,
            "--local|--pids <pid,...>|--containers <name,...> [options]",
            "Stops and kills members, and says for how long writes and reads were refused",
            &[
                switch(
                    "local",
                    "the members are processes of this machine, found by their names and URLs",
                ),
                flag(
                    "pids",
                    List,
                    "",
                    "the members are these processes of this machine",
                ),
                flag(
                    "containers",
                    List,
                    "",
                    "the members are these containers of Docker",
                ),
                flag(
                    "steps",
                    List,
                    "follower-stop,leader-stop,follower-kill,leader-kill",
                    "what to do, in this order",
                ),
                flag(
                    "away",
                    Duration,
                    "2s",
                    "how long a member stays away at least",
                ),
                flag(
                    "max-refused",
                    Duration,
                    "0s",
                    "fail if writes are refused for longer in a step; 0 only says how long",
                ),
                flag(
                    "prefix",
                    Text,
                    "etcdctl-drill/",
                    "what the keys that it writes begin with",
                ),
                switch("keep", "leave those keys there"),
                switch("yes", "do not ask before anything is stopped"),
            ],
            Action::Drill,
        ),
        "Members are told to end (SIGTERM, docker stop) or killed, one at a time, and started again as they were\nstarted before. Meanwhile writes and reads go on, fifty of each a second, through all members. At the end\nevery acknowledged write is looked for on every member. The exit code is 1 if one is lost.",
    ),
    leaf(
        "completion",
        Utility,
        "[bash|zsh|fish|powershell]",
        "Prints a completion script for a shell",
        &[],
        Action::Completion,
    ),
    parent(
        "downgrade",
        "Prepares a downgrade of the cluster",
        &[],
        &[
            leaf(
                "validate",
                Maintenance,
                "<TARGET_VERSION>",
                "Checks that a downgrade is possible",
                &[],
                Action::DowngradeValidate,
            ),
            leaf(
                "enable",
                Maintenance,
                "<TARGET_VERSION>",
                "Begins a downgrade",
                &[],
                Action::DowngradeEnable,
            ),
            leaf(
                "cancel",
                Maintenance,
                "",
                "Calls the downgrade off",
                &[],
                Action::DowngradeCancel,
            ),
        ],
    ),
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

/// Where something has gone that older versions had: `word` is a subcommand or a flag of the command.
pub fn moved(command: &str, word: &str) -> Option<&'static str> {
    Some(match (command, word) {
        ("etcdctl defrag", "data-dir") => "etcdutl defrag --data-dir <folder>",
        ("etcdctl snapshot", "restore") => "etcdutl snapshot restore <file> --data-dir <folder>",
        ("etcdctl snapshot", "status") => "etcdutl snapshot status <file>",
        ("etcdctl", "migrate") => "etcdutl migrate",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrite_cli::flags::Values;

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
