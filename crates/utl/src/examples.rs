//! The examples of help, by command. A test reads each of them.

use ferrite_cli::examples::{Table, example};

/// All of them.
pub static EXAMPLES: &Table = &[
    (
        "bbolt buckets",
        &[example(
            "What an etcd database is made of",
            "etcdutl bbolt buckets default.etcd/member/snap/db",
        )],
    ),
    (
        "bbolt check",
        &[example(
            "Whether a file is whole",
            "etcdutl bbolt check backup.db",
        )],
    ),
    (
        "bbolt get",
        &[
            example(
                "The version of the layout",
                "etcdutl bbolt get db meta storageVersion",
            ),
            example(
                "A revision of a key, whose name is its number",
                "etcdutl bbolt get --parse-format=hex --format=ascii-encoded db key 00000000000000025f0000000000000000",
            ),
        ],
    ),
    (
        "bbolt keys",
        &[example(
            "The members as the file has them",
            "etcdutl bbolt keys db members",
        )],
    ),
    (
        "bbolt page",
        &[
            example("Both roots of the file", "etcdutl bbolt page db 0 1"),
            example(
                "Everything, without values",
                "etcdutl bbolt page --all --format-value=redacted db",
            ),
        ],
    ),
    (
        "bbolt stats",
        &[example(
            "How full the pages of keys are",
            "etcdutl bbolt stats db key",
        )],
    ),
    (
        "completion",
        &[
            example("For this bash", "source <(etcdutl completion bash)"),
            example(
                "For every zsh",
                "etcdutl completion zsh > \"${fpath[1]}/_etcdutl\"",
            ),
        ],
    ),
    (
        "defrag",
        &[example(
            "While its member does not run",
            "etcdutl defrag --data-dir /var/lib/etcd",
        )],
    ),
    (
        "hashkv",
        &[example(
            "To compare with \"etcdctl endpoint hashkv\"",
            "etcdutl hashkv backup.db --rev 1000",
        )],
    ),
    (
        "help",
        &[example("About a command", "etcdutl help snapshot restore")],
    ),
    (
        "migrate",
        &[example(
            "Back to the layout of 3.6, while its member does not run",
            "etcdutl migrate --data-dir /var/lib/etcd --target-version 3.6",
        )],
    ),
    (
        "snapshot restore",
        &[
            example(
                "One member of three; do the same for each with its own name",
                "etcdutl snapshot restore backup.db --name m1 --initial-cluster m1=http://h1:2380,m2=http://h2:2380,m3=http://h3:2380 --initial-advertise-peer-urls http://h1:2380 --data-dir /var/lib/etcd",
            ),
            example(
                "Where clients keep revisions (Kubernetes): none is ever seen twice",
                "etcdutl snapshot restore backup.db --bump-revision 1000000000 --mark-compacted --data-dir /var/lib/etcd",
            ),
            example(
                "A copy of a database file, which has no hash",
                "etcdutl snapshot restore db --skip-hash-check --data-dir /var/lib/etcd",
            ),
        ],
    ),
    (
        "snapshot status",
        &[example(
            "As a table",
            "etcdutl snapshot status backup.db -w table",
        )],
    ),
    ("version", &[example("Of this program", "etcdutl version")]),
];

#[cfg(test)]
mod tests {
    use ferrite_cli::examples::{arguments, of};
    use ferrite_cli::flags::Values;

    use super::EXAMPLES;
    use crate::commands::{self, Action, COMMANDS, Command, GLOBAL};

    #[test]
    fn every_example_can_be_typed() {
        fn each(path: &str, commands: &'static [Command], seen: &mut usize) {
            for command in commands {
                let path = format!("{path} {}", command.name);
                if command.action == Action::Group {
                    each(&path, command.children, seen);
                    continue;
                }
                let examples = of(EXAMPLES, path.trim_start());
                *seen += usize::from(!examples.is_empty());
                for example in examples {
                    let mut typed = arguments(example.line, "etcdutl").expect("the program");
                    let mut children = &COMMANDS[..];
                    for word in path.split_whitespace() {
                        let found = commands::find(children, word).expect("a command");
                        assert_eq!(typed.remove(0), word.as_bytes(), "{}", example.line);
                        children = found.children;
                    }
                    let mut values = Values::new(GLOBAL.iter().chain(command.flags).collect());
                    assert!(values.parse(&typed).is_ok(), "{}", example.line);
                    for name in command.required {
                        assert!(values.changed(name), "{}", example.line);
                    }
                }
            }
        }
        let mut seen = 0;
        each("", &COMMANDS, &mut seen);
        assert_eq!(seen, EXAMPLES.len(), "an example of no command");
    }
}
