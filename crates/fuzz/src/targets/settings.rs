//! What a user starts a member with: the command line and its variables, and the file in place of both.

use ferrite_server::flags::Values;
use ferrite_server::{config, config_file, yaml};

use crate::{Target, feature};

/// The command line and the variables.
pub const FLAGS: Target = Target {
    name: "flags",
    about: "a command line and variables, one a line, up to the checked configuration",
    run: flags,
    seeds: flag_seeds,
    len_max: 1024,
};

/// The file.
pub const YAML: Target = Target {
    name: "yaml",
    about: "a configuration file: its tree, and the flags it stands for",
    run: file,
    seeds: yaml_seeds,
    len_max: 4096,
};

/// Flags whose values are read as files, and programs of other machines: this is about words.
const FILES: &[&str] = &[
    "config-file",
    "auth-token",
    "log-outputs",
    "CONFIG_FILE",
    "AUTH_TOKEN",
    "LOG_OUTPUTS",
];

fn flags(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if FILES.iter().any(|name| text.contains(name)) {
        return;
    }
    let mut arguments = Vec::new();
    let mut variables = Vec::new();
    for line in text.lines() {
        match line
            .strip_prefix("ETCD_")
            .and_then(|rest| rest.split_once('='))
        {
            Some((name, value)) => variables.push((format!("ETCD_{name}"), value.to_owned())),
            None => arguments.push(line.to_owned()),
        }
    }
    match Values::parse(&arguments, variables) {
        Ok(values) => {
            feature("parsed");
            if let Err(error) = config::logging(&values) {
                feature(&error);
            }
            match config::read(&values) {
                Ok(read) => {
                    feature("a configuration");
                    crate::count("warnings", read.warnings.len());
                }
                Err(error) => feature(&error.to_string()),
            }
        }
        Err(error) => feature(&format!("{error:?}")),
    }
}

fn file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    match yaml::parse(text) {
        Ok(tree) => feature(&tree.kind()),
        Err(error) => feature(&error.to_string()),
    }
    match config_file::settings(text) {
        Ok(settings) => crate::count("settings", settings.len()),
        Err(error) => feature(&format!("{error:?}")),
    }
}

fn flag_seeds() -> Vec<Vec<u8>> {
    [
        "--name=a\n--data-dir\n/nowhere\n--listen-client-urls=http://127.0.0.1:2379,unix://x\n--advertise-client-urls=http://127.0.0.1:2379\n--initial-cluster=a=http://127.0.0.1:2380\n--initial-advertise-peer-urls=http://127.0.0.1:2380",
        "--heartbeat-interval=100\n--election-timeout=1000\n--quota-backend-bytes=-1\n--auto-compaction-mode=periodic\n--auto-compaction-retention=1h30m",
        "ETCD_NAME=b\nETCD_SNAPSHOT_COUNT=10\nETCD_UNKNOWN=1\n--feature-gates=LeaseCheckpoint=true,PriorityRequest=false\n--max-learners=2",
        "--listen-metrics-urls=http://0.0.0.0:1\n--metrics=extensive\n--log-level=debug\n--log-rotation-config-json={\"maxsize\":1}\n--enable-log-rotation",
        "--cors=*\n--host-whitelist=a,b\n--discovery-srv=example.com\n--cipher-suites=TLS_AES_128_GCM_SHA256\n--tls-min-version=TLS1.3",
        "--grpc-keepalive-min-time=5s\n--grpc-keepalive-interval=2h\n--max-concurrent-streams=4294967295\n--watch-progress-notify-interval=10m\n--strict-reconfig-check=false",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}

fn yaml_seeds() -> Vec<Vec<u8>> {
    [
        "name: a\ndata-dir: /nowhere\nlisten-client-urls: http://127.0.0.1:2379\nheartbeat-interval: 100\nelection-timeout: 1000\n",
        "client-transport-security:\n  cert-file: c\n  key-file: k\n  client-cert-auth: true\nlog-outputs: [stderr, stdout]\n",
        "a: &x [1, {b: c}]\nd: *x\na: 2\n---\nsecond: document\n",
        "{\"name\": \"a\", \"snapshot-count\": 10, \"pre-vote\": yes, \"quota-backend-bytes\": 0x10}",
        "text: |\n  several\n  lines\nfolded: >-\n  more\n  of them\n? complex\n: value\n!!str 1: !!int \"2\"\n",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}
