//! The examples of help, by command. A test types each of them.

use ferrite_cli::examples::{Table, example};

/// All of them.
pub static EXAMPLES: &Table = &[
    (
        "get",
        &[
            example("The value of a key", "etcdctl get foo --print-value-only"),
            example(
                "All keys under a prefix, without values",
                "etcdctl get --prefix --keys-only app/",
            ),
            example("Everything, as JSON", "etcdctl get '' --prefix -w json"),
            example("As it was at a revision", "etcdctl get foo --rev=42"),
            example(
                "How many keys there are",
                "etcdctl get '' --prefix --count-only -w fields",
            ),
        ],
    ),
    (
        "put",
        &[
            example("Write a key", "etcdctl put foo bar"),
            example("A value from a file", "etcdctl put config < app.yaml"),
            example("A value that begins with a dash", "etcdctl put foo -- -1"),
            example(
                "A key that goes with a lease",
                "etcdctl put foo bar --lease=1234abcd",
            ),
        ],
    ),
    (
        "del",
        &[
            example(
                "Delete a key, and print what it was",
                "etcdctl del foo --prev-kv",
            ),
            example(
                "Delete all keys under a prefix",
                "etcdctl del --prefix app/",
            ),
            example(
                "Delete the keys from a to c, without c",
                "etcdctl del --range a c",
            ),
        ],
    ),
    (
        "txn",
        &[
            example("Asked for line by line", "etcdctl txn -i"),
            example(
                "Write a key only if it is not there",
                "printf 'create(\"foo\") = \"0\"\\n\\nput foo bar\\n\\nget foo\\n\\n' | etcdctl txn",
            ),
        ],
    ),
    (
        "compaction",
        &[
            example(
                "Forget what was before a revision",
                "etcdctl compaction 1000",
            ),
            example(
                "... and wait until it is gone from the database",
                "etcdctl compaction --physical 1000",
            ),
        ],
    ),
    (
        "watch",
        &[
            example("Print every change of a key", "etcdctl watch foo"),
            example(
                "All keys under a prefix from a revision on, with what was there before",
                "etcdctl watch --prefix foo --rev 7 --prev-kv",
            ),
            example(
                "Run a command for each event",
                "etcdctl watch foo -- sh -c 'echo $ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_VALUE'",
            ),
        ],
    ),
    (
        "lease grant",
        &[example("A lease of a minute", "etcdctl lease grant 60")],
    ),
    (
        "lease revoke",
        &[example(
            "End a lease; its keys go with it",
            "etcdctl lease revoke 1234abcd",
        )],
    ),
    (
        "lease timetolive",
        &[example(
            "How long it still has, and which keys hang on it",
            "etcdctl lease timetolive 1234abcd --keys",
        )],
    ),
    ("lease list", &[example("All leases", "etcdctl lease list")]),
    (
        "lease keep-alive",
        &[
            example(
                "Renew a lease until Ctrl-C",
                "etcdctl lease keep-alive 1234abcd",
            ),
            example("Renew it once", "etcdctl lease keep-alive --once 1234abcd"),
        ],
    ),
    (
        "member add",
        &[
            example(
                "A member that first catches up, and then is given its vote by \"member promote\"",
                "etcdctl member add etcd-03 --peer-urls=http://etcd-03:2380 --learner",
            ),
            example(
                "A member with a vote at once",
                "etcdctl member add etcd-03 --peer-urls=http://etcd-03:2380",
            ),
        ],
    ),
    (
        "member remove",
        &[example(
            "By the ID that \"member list\" shows",
            "etcdctl member remove 8211f1d0f64f3269",
        )],
    ),
    (
        "member update",
        &[example(
            "It has moved to another host",
            "etcdctl member update 8211f1d0f64f3269 --peer-urls=http://etcd-10:2380",
        )],
    ),
    (
        "member list",
        &[
            example("Everybody, as a table", "etcdctl member list -w table"),
            example(
                "As this one member sees it, even without a leader",
                "etcdctl member list --consistency=s",
            ),
        ],
    ),
    (
        "member promote",
        &[example(
            "A learner that has caught up",
            "etcdctl member promote 8211f1d0f64f3269",
        )],
    ),
    (
        "endpoint health",
        &[
            example("Of every member", "etcdctl endpoint health --cluster"),
            example(
                "Of one, for a script",
                "etcdctl --endpoints etcd-01:2379 endpoint health -w json",
            ),
        ],
    ),
    (
        "endpoint status",
        &[example(
            "Who leads, sizes, versions, and what is wrong in words",
            "etcdctl endpoint status --cluster -w table",
        )],
    ),
    (
        "endpoint hashkv",
        &[example(
            "Whether all members hold the same",
            "etcdctl endpoint hashkv --cluster --rev=1000",
        )],
    ),
    (
        "move-leader",
        &[example(
            "Before its machine is taken down; the endpoint is the leader's",
            "etcdctl --endpoints etcd-00:2379 move-leader 8211f1d0f64f3269",
        )],
    ),
    (
        "alarm list",
        &[example("Whether anybody raised one", "etcdctl alarm list")],
    ),
    (
        "alarm disarm",
        &[example("After space has been made", "etcdctl alarm disarm")],
    ),
    (
        "defrag",
        &[example(
            "Give the free space of every member back",
            "etcdctl defrag --cluster --command-timeout=60s",
        )],
    ),
    (
        "snapshot save",
        &[
            example(
                "A backup from one member",
                "etcdctl --endpoints etcd-00:2379 snapshot save backup.db",
            ),
            example(
                "What is in it, and back from it (etcdutl)",
                "etcdctl snapshot save backup.db; etcdutl snapshot status backup.db",
            ),
        ],
    ),
    (
        "make-mirror",
        &[
            example(
                "One prefix, to another cluster",
                "etcdctl --endpoints source:2379 make-mirror --prefix app/ destination:2379",
            ),
            example(
                "To a cluster with TLS and users",
                "etcdctl make-mirror --dest-cacert=ca.pem --dest-insecure-transport=false --dest-user=root:secret https://destination:2379",
            ),
        ],
    ),
    (
        "lock",
        &[
            example("Hold a lock until Ctrl-C", "etcdctl lock backup"),
            example(
                "Run a command under it",
                "etcdctl lock backup -- sh -c 'tar czf /backup/app.tgz /srv/app'",
            ),
        ],
    ),
    (
        "elect",
        &[
            example("Stand in an election", "etcdctl elect scheduler host-1"),
            example(
                "Print who is elected, again and again",
                "etcdctl elect -l scheduler",
            ),
        ],
    ),
    (
        "auth enable",
        &[example(
            "There has to be a user root first",
            "etcdctl user add root; etcdctl auth enable",
        )],
    ),
    (
        "auth disable",
        &[example("As root", "etcdctl --user=root auth disable")],
    ),
    (
        "auth status",
        &[example("On or off", "etcdctl auth status")],
    ),
    (
        "user add",
        &[
            example("The password is asked for", "etcdctl user add alice"),
            example(
                "A user that is known by a certificate's common name",
                "etcdctl user add alice --no-password",
            ),
        ],
    ),
    (
        "user delete",
        &[example("Delete a user", "etcdctl user delete alice")],
    ),
    (
        "user get",
        &[example(
            "What a user may do",
            "etcdctl user get alice --detail",
        )],
    ),
    ("user list", &[example("All users", "etcdctl user list")]),
    (
        "user passwd",
        &[
            example(
                "The password is asked for twice",
                "etcdctl user passwd alice",
            ),
            example(
                "From a script",
                "printf secret | etcdctl user passwd alice --interactive=false",
            ),
        ],
    ),
    (
        "user grant-role",
        &[example(
            "Give a role to a user",
            "etcdctl user grant-role alice reader",
        )],
    ),
    (
        "user revoke-role",
        &[example(
            "Take it back",
            "etcdctl user revoke-role alice reader",
        )],
    ),
    (
        "role add",
        &[example(
            "A role that may do nothing yet",
            "etcdctl role add reader",
        )],
    ),
    (
        "role delete",
        &[example("Delete a role", "etcdctl role delete reader")],
    ),
    (
        "role get",
        &[example("What a role permits", "etcdctl role get reader")],
    ),
    ("role list", &[example("All roles", "etcdctl role list")]),
    (
        "role grant-permission",
        &[
            example(
                "To read all keys under a prefix",
                "etcdctl role grant-permission --prefix reader read app/",
            ),
            example(
                "To read and write one key",
                "etcdctl role grant-permission writer readwrite foo",
            ),
        ],
    ),
    (
        "role revoke-permission",
        &[example(
            "Take a permission back",
            "etcdctl role revoke-permission --prefix reader app/",
        )],
    ),
    (
        "check perf",
        &[example(
            "A minute of writes as of a middling cluster",
            "etcdctl check perf --load=m --auto-compact",
        )],
    ),
    (
        "check datascale",
        &[example(
            "A member's memory for ten thousand keys",
            "etcdctl check datascale --load=s",
        )],
    ),
    (
        "downgrade validate",
        &[example(
            "Whether the cluster may go back to 3.6",
            "etcdctl downgrade validate 3.6",
        )],
    ),
    (
        "downgrade enable",
        &[example("Begin", "etcdctl downgrade enable 3.6")],
    ),
    (
        "downgrade cancel",
        &[example("Stay where we are", "etcdctl downgrade cancel")],
    ),
    (
        "top",
        &[
            example("Watch the cluster; q ends it", "etcdctl top"),
            example("Look once, for a script", "etcdctl top --once -w json"),
        ],
    ),
    (
        "drill",
        &[
            example(
                "Of members that run on this machine, found by their names",
                "etcdctl drill --local",
            ),
            example(
                "Of containers",
                "etcdctl drill --containers etcd-etcd-00-1,etcd-etcd-01-1,etcd-etcd-02-1",
            ),
            example(
                "A leader that is killed, nothing else",
                "etcdctl drill --local --steps leader-kill --yes",
            ),
        ],
    ),
    (
        "completion",
        &[
            example("For this bash", "source <(etcdctl completion bash)"),
            example(
                "For every zsh",
                "etcdctl completion zsh > \"${fpath[1]}/_etcdctl\"",
            ),
            example(
                "For fish",
                "etcdctl completion fish > ~/.config/fish/completions/etcdctl.fish",
            ),
            example(
                "For PowerShell",
                "etcdctl completion powershell | Out-String | Invoke-Expression",
            ),
        ],
    ),
    ("version", &[example("Of this program", "etcdctl version")]),
    (
        "options",
        &[example("Flags of every command", "etcdctl options")],
    ),
    (
        "help",
        &[example("About a command", "etcdctl help member add")],
    ),
];

#[cfg(test)]
mod tests {
    use ferrite_cli::examples::{arguments, of};
    use ferrite_cli::flags::Values;

    use super::EXAMPLES;
    use crate::commands::{Action, COMMANDS, Command};

    fn each(path: &str, commands: &'static [Command], visit: &mut impl FnMut(&str)) {
        for command in commands {
            let path = format!("{path} {}", command.name);
            if command.action == Action::Help {
                each(&path, command.children, visit);
            } else {
                visit(path.trim_start());
            }
        }
    }

    #[test]
    fn every_command_has_examples_that_can_be_typed() {
        let mut seen = 0;
        each("", &COMMANDS, &mut |path| {
            let examples = of(EXAMPLES, path);
            assert!(!examples.is_empty(), "no example of {path}");
            seen += 1;
            for example in examples {
                let typed = arguments(example.line, "etcdctl");
                let typed = typed.unwrap_or_else(|| panic!("{}", example.line));
                let found = crate::find(&typed);
                let name: Vec<&str> = found.path.iter().map(|c| c.name).collect();
                let first = name.join(" ");
                // "auth enable" begins with what has to be done before.
                assert!(
                    first == path || example.line.contains(&format!("; etcdctl {path}")),
                    "{}",
                    example.line
                );
                let mut values = Values::new(found.known());
                assert!(values.parse(&found.arguments).is_ok(), "{}", example.line);
            }
        });
        assert_eq!(seen, EXAMPLES.len(), "an example of no command");
    }
}
