//! The flags of `etcd gateway start` and `etcd grpc-proxy start`: one table a program, from which the
//! parser, the help and docs/flags.md come. Neither has variables or a file, as in the original.

use ferrite_cli::flags::{Flag, Kind};

const fn flag(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag {
        name,
        short: None,
        kind,
        default,
        help,
    }
}

const fn text(name: &'static str, default: &'static str, help: &'static str) -> Flag {
    flag(name, Kind::Text, default, help)
}

const fn switch(name: &'static str, help: &'static str) -> Flag {
    flag(name, Kind::Bool, "false", help)
}

const LISTEN: Flag = text("listen-addr", "127.0.0.1:23790", "Where to listen.");
const SRV: Flag = text(
    "discovery-srv",
    "",
    "Domain whose SRV records list the members; --endpoints counts when there are none.",
);
const SRV_NAME: Flag = text(
    "discovery-srv-name",
    "",
    "What follows the service's name in those records: etcd-client-NAME.",
);
const INSECURE_DISCOVERY: Flag = switch(
    "insecure-discovery",
    "Take members from those records that do not encrypt, or cannot be reached now.",
);
const ENDPOINTS: Flag = flag(
    "endpoints",
    Kind::List,
    "127.0.0.1:2379",
    "Where the members listen for clients.",
);

/// Of `etcd gateway start`.
pub static GATEWAY: &[Flag] = &[
    LISTEN,
    SRV,
    SRV_NAME,
    INSECURE_DISCOVERY,
    text(
        "trusted-ca-file",
        "",
        "Authorities of the members that SRV records list (PEM).",
    ),
    ENDPOINTS,
    flag(
        "retry-delay",
        Kind::Duration,
        "1m0s",
        "Time between attempts to reach an endpoint that is down; 0 is 5m.",
    ),
];

/// The page of them, for docs/flags.md.
pub fn page() -> String {
    let mut out = String::new();
    for (program, flags) in [("etcd gateway start", GATEWAY)] {
        out.push_str(&format!(
            "\n## `{program}`\n\nOn the command line only, as `--x=v` or `--x v`. See [proxy.md](proxy.md).\n\n\
             | flag | default | what it does |\n|---|---|---|\n"
        ));
        for flag in flags {
            let default = match flag.default {
                "" => String::new(),
                default => format!("`{default}`"),
            };
            let help = flag.help.replace('|', "\\|");
            out.push_str(&format!("| `--{}` | {default} | {help} |\n", flag.name));
        }
    }
    out
}
