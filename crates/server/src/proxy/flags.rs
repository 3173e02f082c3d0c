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

/// Of `etcd grpc-proxy start`.
pub static GRPC_PROXY: &[Flag] = &[
    LISTEN,
    SRV,
    SRV_NAME,
    text(
        "metrics-addr",
        "",
        "URL at which to serve metrics and health besides.",
    ),
    INSECURE_DISCOVERY,
    ENDPOINTS,
    flag(
        "endpoints-auto-sync-interval",
        Kind::Duration,
        "0s",
        "Time between questions to the cluster where its members are; 0 for none.",
    ),
    flag(
        "dial-keepalive-time",
        Kind::Duration,
        "0s",
        "Silence after which a member is pinged; at least 10s, 0 for never.",
    ),
    flag(
        "dial-keepalive-timeout",
        Kind::Duration,
        "20s",
        "Time for a member to answer that.",
    ),
    switch(
        "permit-without-stream",
        "Ping members when no call is under way, too.",
    ),
    text(
        "advertise-client-url",
        "127.0.0.1:23790",
        "Where clients reach this proxy; empty to tell them of the members instead.",
    ),
    text(
        "resolver-prefix",
        "",
        "Key below which proxies register themselves, the same for all of them.",
    ),
    flag(
        "resolver-ttl",
        Kind::Int,
        "0",
        "Seconds that a registration outlives its proxy.",
    ),
    text(
        "namespace",
        "",
        "What all keys of clients get in front; they see no other keys.",
    ),
    switch(
        "enable-pprof",
        "Serve /debug/pprof/, which tells what every thread is doing.",
    ),
    text(
        "data-dir",
        "default.proxy",
        "Folder of certificates that --auto-tls makes.",
    ),
    flag(
        "max-send-bytes",
        Kind::Int,
        "1572864",
        "Largest request to a member, in bytes.",
    ),
    flag(
        "max-recv-bytes",
        Kind::Int,
        "2147483647",
        "Largest answer of a member, in bytes.",
    ),
    flag(
        "grpc-keepalive-min-time",
        Kind::Duration,
        "5s",
        "Least time between two pings of a client; who pings more often is disconnected.",
    ),
    flag(
        "grpc-keepalive-interval",
        Kind::Duration,
        "2h0m0s",
        "Silence after which a client is pinged (0 for never; at least 1s).",
    ),
    flag(
        "grpc-keepalive-timeout",
        Kind::Duration,
        "20s",
        "Time a client has to answer a ping before it is disconnected (0 for no pings).",
    ),
    flag(
        "max-concurrent-streams",
        Kind::Uint,
        "4294967295",
        "Calls that a client may have under way on one connection.",
    ),
    text(
        "cert",
        "",
        "Certificate to show to members (PEM), without a common name.",
    ),
    text("key", "", "Its key (PEM)."),
    text(
        "cacert",
        "",
        "Authorities that members' certificates must come from (PEM).",
    ),
    switch(
        "insecure-skip-tls-verify",
        "Do not check members' certificates. For tests only.",
    ),
    text("cert-file", "", "Certificate that clients are shown (PEM)."),
    text("key-file", "", "Its key (PEM)."),
    text(
        "trusted-ca-file",
        "",
        "Let in only clients with a certificate of these authorities (PEM).",
    ),
    text(
        "client-crl-file",
        "",
        "List of revoked client certificates (DER or PEM).",
    ),
    flag(
        "listen-cipher-suites",
        Kind::List,
        "",
        "Suites of TLS 1.2 to allow with clients, by Go's names; all when empty.",
    ),
    switch(
        "auto-tls",
        "Make a certificate for clients where none is given; nobody can check it.",
    ),
    flag(
        "self-signed-cert-validity",
        Kind::Uint,
        "1",
        "Years that such a certificate is good for.",
    ),
    text(
        "tls-min-version",
        "TLS1.2",
        "Oldest version of TLS to speak with clients: TLS1.2 or TLS1.3.",
    ),
    text(
        "tls-max-version",
        "",
        "Newest version of TLS to speak with clients; the newest there is when empty.",
    ),
    switch(
        "experimental-serializable-ordering",
        "Reads never go back: an answer older than one before is asked for again.",
    ),
    text(
        "experimental-leasing-prefix",
        "",
        "Prefix of the keys by which proxies own others, of which they answer reads themselves.",
    ),
    switch(
        "experimental-enable-grpc-logging",
        "Log every call: which, whose, how long; not what is in it.",
    ),
    switch("debug", "Log what is for whoever looks for a fault."),
];

/// The page of them, for docs/flags.md.
pub fn page() -> String {
    let mut out = String::new();
    for (program, flags) in [
        ("etcd gateway start", GATEWAY),
        ("etcd grpc-proxy start", GRPC_PROXY),
    ] {
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
