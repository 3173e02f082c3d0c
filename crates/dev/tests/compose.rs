//! `docker-compose.yml` is taken by Compose version 1 and version 2 alike. Only one of them may be at hand where the
//! walkthrough runs; this holds the file to what both take, and to the user's document.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ferrite_dev::spec::{CLUSTER_TOKEN, MemberSpec, member_id};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(name: &str) -> String {
    let path = root().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|why| panic!("{}: {why}", path.display()))
}

/// What lies under one key: the text beside it, and the lines under it without their indentation.
#[derive(Debug, Default)]
struct Entry {
    beside: String,
    under: Vec<String>,
}

/// The mapping that unindented lines of a block make: the part of YAML that this file is written in.
fn mapping<'a>(lines: impl IntoIterator<Item = &'a str>) -> BTreeMap<String, Entry> {
    let mut map: BTreeMap<String, Entry> = BTreeMap::new();
    let mut last = String::new();
    for line in lines {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        if let Some(inner) = line.strip_prefix("  ") {
            let entry = map
                .get_mut(&last)
                .expect("an indented line stands under a key");
            entry.under.push(inner.to_owned());
            continue;
        }
        let (key, beside) = line.split_once(':').expect("key: value");
        last = key.to_owned();
        let entry = Entry {
            beside: beside.trim().to_owned(),
            under: Vec::new(),
        };
        assert!(
            map.insert(last.clone(), entry).is_none(),
            "{key} stands twice"
        );
    }
    map
}

impl Entry {
    fn mapping(&self) -> BTreeMap<String, Entry> {
        mapping(self.under.iter().map(String::as_str))
    }

    fn list(&self) -> Vec<&str> {
        self.under
            .iter()
            .map(|line| line.strip_prefix("- ").expect("a list item"))
            .collect()
    }
}

fn keys(map: &BTreeMap<String, Entry>) -> Vec<&str> {
    map.keys().map(String::as_str).collect()
}

#[test]
fn the_keys_are_those_that_both_versions_take() {
    let text = read("docker-compose.yml");
    assert!(!text.contains('\t'), "YAML has no tabs");
    let file = mapping(text.lines());
    // Version 1 refuses a top-level `name`, version 2 warns of a `version`; both pass over `x-…`.
    assert_eq!(keys(&file), ["services", "volumes", "x-etcd"]);
    assert_eq!(file["x-etcd"].beside, "&etcd");
    let common = file["x-etcd"].mapping();
    assert_eq!(keys(&common), ["build", "image", "restart"]);
    assert_eq!(
        common["image"].beside,
        "${FERRITE_IMAGE:-ferrite-etcd:latest}"
    );
    assert_eq!(common["restart"].beside, "\"no\"", "a bare no is a boolean");
    assert_eq!(keys(&common["build"].mapping()), ["args", "context"]);

    let names = ["etcd-00", "etcd-01", "etcd-02"];
    let services = file["services"].mapping();
    assert_eq!(keys(&services), names);
    assert_eq!(keys(&file["volumes"].mapping()), names);
    for name in names {
        let service = services[name].mapping();
        // No `ports`: the document shows them exposed, not published.
        assert_eq!(
            keys(&service),
            ["<<", "command", "container_name", "volumes"]
        );
        assert_eq!(service["<<"].beside, "*etcd");
        assert_eq!(service["container_name"].beside, format!("etcd-{name}-1"));
        assert_eq!(service["volumes"].list(), [format!("{name}:/var/lib/etcd")]);
    }
}

#[test]
fn the_members_are_those_of_the_document() {
    let text = read("docker-compose.yml");
    let file = mapping(text.lines());
    let services = file["services"].mapping();
    let specs = MemberSpec::compose();
    let cluster: Vec<String> = specs
        .iter()
        .map(|spec| format!("{}={}", spec.name, spec.peer_url))
        .collect();
    for (spec, id) in specs.iter().zip([
        0xf9bb_7dc3_2e44_29fd,
        0xdc68_56a2_9b28_5c1c,
        0x9772_fa93_5aee_2fcb,
    ]) {
        let service = services[&spec.name].mapping();
        let command = service["command"].list();
        let flag = |name: &str| {
            let start = format!("--{name}=");
            let mut values = command
                .iter()
                .filter_map(|word| word.strip_prefix(start.as_str()));
            let value = values
                .next()
                .unwrap_or_else(|| panic!("{} has no --{name}", spec.name));
            assert_eq!(values.next(), None, "--{name} stands twice");
            value
        };
        // `docker ps` shows the first words.
        assert_eq!(
            command[..2],
            ["etcd".to_owned(), format!("--name={}", spec.name)]
        );
        assert_eq!(flag("initial-advertise-peer-urls"), spec.peer_url);
        assert_eq!(flag("advertise-client-urls"), spec.client_url);
        assert_eq!(flag("listen-peer-urls"), "http://0.0.0.0:2380");
        assert_eq!(flag("listen-client-urls"), "http://0.0.0.0:2379");
        assert_eq!(flag("initial-cluster"), cluster.join(","));
        assert_eq!(flag("initial-cluster-token"), CLUSTER_TOKEN);
        assert_eq!(flag("initial-cluster-state"), "new");
        assert!(
            flag("data-dir").starts_with("/var/lib/etcd/"),
            "inside the volume"
        );
        let urls = [flag("initial-advertise-peer-urls")];
        assert_eq!(member_id(&urls, flag("initial-cluster-token")), id);
    }
}

#[test]
fn the_project_has_its_name_whatever_the_folder() {
    assert!(
        read(".env")
            .lines()
            .any(|line| line == "COMPOSE_PROJECT_NAME=etcd")
    );
}

#[test]
fn the_dockerfile_is_one_for_the_older_builder() {
    let text = read("Dockerfile");
    for (newer, why) in [
        ("# syntax", "a BuildKit front end"),
        ("--mount", "BuildKit's RUN --mount"),
        ("<<", "a here-document"),
        ("--chmod", "COPY --chmod"),
        ("--link", "COPY --link"),
    ] {
        assert!(
            !text.contains(newer),
            "{why} is refused by the older builder"
        );
    }
    for line in [
        "ENV ETCDCTL_API=2",
        "EXPOSE 2379 2380",
        "COPY --from=build /out/ /usr/local/bin/",
        "FROM ${BASE}",
        "USER 65532:65532",
        concat!("ARG VERSION=", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(text.lines().any(|at| at == line), "no line {line:?}");
    }
}
