//! The examples for Kubernetes: their names fit each other, their flags are ours, and those flags make a cluster whose
//! probes answer. There is no Kubernetes here: members are processes, pods' names are addresses of loopback.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use ferrite_testkit::{Pki, Ports, Wanted, our_program, run};
use saphyr_parser::{Event, Parser, StrInput};
use serde_json::{Map, Value};

/// For three members to find each other, on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// The documents of a text; every scalar is a string here.
fn documents(text: &str) -> Vec<Value> {
    fn next<'a>(parser: &mut Parser<'a, StrInput<'a>>) -> Event<'a> {
        match parser.next_event() {
            Some(Ok((event, _))) => event,
            other => panic!("no YAML: {other:?}"),
        }
    }
    fn value<'a>(parser: &mut Parser<'a, StrInput<'a>>, event: Event<'a>) -> Value {
        match event {
            Event::Scalar(text, ..) => Value::String(text.into_owned()),
            Event::SequenceStart(..) => {
                let mut list = Vec::new();
                loop {
                    match next(parser) {
                        Event::SequenceEnd => return Value::Array(list),
                        event => list.push(value(parser, event)),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut map = Map::new();
                loop {
                    let key = match next(parser) {
                        Event::MappingEnd => return Value::Object(map),
                        Event::Scalar(text, ..) => text.into_owned(),
                        event => panic!("a key is {event:?}"),
                    };
                    let event = next(parser);
                    let value = value(parser, event);
                    let before = map.insert(key.clone(), value);
                    assert_eq!(before, None, "{key} stands twice");
                }
            }
            event => panic!("unexpected: {event:?}"),
        }
    }
    let mut parser = Parser::new_from_str(text);
    let mut found = Vec::new();
    loop {
        match next(&mut parser) {
            Event::StreamEnd => return found,
            Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd => {}
            event => found.push(value(&mut parser, event)),
        }
    }
}

fn read(name: &str) -> Vec<Value> {
    let path = xtask::root().join("deploy/kubernetes").join(name);
    let text = std::fs::read_to_string(&path);
    documents(&text.unwrap_or_else(|why| panic!("{}: {why}", path.display())))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no text: {value}"))
}

fn list(value: &Value) -> &[Value] {
    value
        .as_array()
        .unwrap_or_else(|| panic!("no list: {value}"))
}

/// The one object of a kind and a name.
fn object<'a>(all: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = all
        .iter()
        .find(|one| one["kind"] == kind && one["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// A named port of a list.
fn port(ports: &Value, name: &str, field: &str) -> u16 {
    let found = list(ports).iter().find(|port| port["name"] == name);
    let found = found.unwrap_or_else(|| panic!("no port {name}"));
    text(&found[field]).parse().expect("a port")
}

/// Name and value of each argument.
fn flags(container: &Value) -> Vec<(String, String)> {
    list(&container["args"])
        .iter()
        .map(|argument| {
            let words = text(argument)
                .strip_prefix("--")
                .and_then(|flag| flag.split_once('='));
            let (name, value) = words.unwrap_or_else(|| panic!("{argument}"));
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

fn is_sound(name: &str, scheme: &str) {
    let all = read(name);
    let set = object(&all, "StatefulSet", "etcd");
    let spec = &set["spec"];
    let pod = &spec["template"]["spec"];
    let container = &list(&pod["containers"])[0];
    let image = concat!("ferrite-etcd:", env!("CARGO_PKG_VERSION"));
    assert_eq!(container["image"], image);
    let labels = &spec["template"]["metadata"]["labels"];
    assert_eq!(spec["replicas"], "3");
    assert_eq!(
        spec["podManagementPolicy"], "Parallel",
        "the first waits for the others"
    );
    assert_eq!(&spec["selector"]["matchLabels"], labels);
    // The names of pods follow from the set's name and this service.
    let peers = object(&all, "Service", text(&spec["serviceName"]));
    assert_eq!(peers["spec"]["clusterIP"], "None");
    assert_eq!(peers["spec"]["publishNotReadyAddresses"], "true");
    let clients = object(&all, "Service", "etcd");
    assert_eq!(clients["spec"].get("clusterIP"), None);
    for service in [peers, clients] {
        assert_eq!(&service["spec"]["selector"], labels);
        assert_eq!(port(&service["spec"]["ports"], "clients", "port"), 2379);
    }
    assert_eq!(port(&peers["spec"]["ports"], "peers", "port"), 2380);
    let budget = object(&all, "PodDisruptionBudget", "etcd");
    assert_eq!(budget["spec"]["maxUnavailable"], "1");
    assert_eq!(&budget["spec"]["selector"]["matchLabels"], labels);

    // Every flag is in the table, and says what fits the rest.
    let page = std::fs::read_to_string(xtask::root().join("docs/flags.md")).expect("docs/flags.md");
    let flags = flags(container);
    for (flag, _) in &flags {
        assert!(
            page.contains(&format!("| `--{flag}` |")),
            "--{flag} is no flag"
        );
    }
    let flag = |name: &str| {
        let mut found = flags.iter().filter(|(flag, _)| flag == name);
        let value = &found.next().unwrap_or_else(|| panic!("no --{name}")).1;
        assert_eq!(found.next(), None, "--{name} stands twice");
        value.as_str()
    };
    assert_eq!(flag("name"), "$(POD_NAME)");
    let own = |port: u16| format!("{scheme}://$(POD_NAME).etcd-peers.$(NAMESPACE).svc:{port}");
    assert_eq!(flag("advertise-client-urls"), own(2379));
    assert_eq!(flag("initial-advertise-peer-urls"), own(2380));
    let initial: Vec<String> = (0..3)
        .map(|n| format!("etcd-{n}={scheme}://etcd-{n}.etcd-peers.$(NAMESPACE).svc:2380"))
        .collect();
    assert_eq!(flag("initial-cluster"), initial.join(","));
    for (name, flag, at) in [
        ("clients", flag("listen-client-urls"), scheme),
        ("peers", flag("listen-peer-urls"), scheme),
        ("metrics", flag("listen-metrics-urls"), "http"),
    ] {
        let port = port(&container["ports"], name, "containerPort");
        assert_eq!(flag, format!("{at}://0.0.0.0:{port}"));
    }
    let variables: Vec<(&str, &Value)> = list(&container["env"])
        .iter()
        .map(|one| {
            (
                text(&one["name"]),
                &one["valueFrom"]["fieldRef"]["fieldPath"],
            )
        })
        .collect();
    assert!(variables.contains(&("POD_NAME", &Value::from("metadata.name"))));
    assert!(variables.contains(&("NAMESPACE", &Value::from("metadata.namespace"))));

    for (probe, path) in [
        ("livenessProbe", "/livez"),
        ("startupProbe", "/livez"),
        ("readinessProbe", "/readyz"),
    ] {
        let get = &container[probe]["httpGet"];
        assert_eq!(get["path"], path, "{probe}");
        // The one address that asks for no certificate.
        assert_eq!(get["port"], "metrics", "{probe}");
    }

    // Nobody is root, in the image as here, and the volume is writable for its user.
    let user = text(&pod["securityContext"]["runAsUser"]);
    assert_eq!(pod["securityContext"]["runAsNonRoot"], "true");
    assert_eq!(pod["securityContext"]["fsGroup"], user);
    let dockerfile = std::fs::read_to_string(xtask::root().join("Dockerfile")).expect("Dockerfile");
    assert!(
        dockerfile
            .lines()
            .any(|line| line == format!("USER {user}:{user}"))
    );
    let own = &container["securityContext"];
    assert_eq!(own["allowPrivilegeEscalation"], "false");
    assert_eq!(own["readOnlyRootFilesystem"], "true");
    assert_eq!(list(&own["capabilities"]["drop"]), ["ALL"]);
    let claims: Vec<&Value> = list(&spec["volumeClaimTemplates"])
        .iter()
        .map(|claim| &claim["metadata"]["name"])
        .chain(
            pod["volumes"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|volume| &volume["name"]),
        )
        .collect();
    let mounts = list(&container["volumeMounts"]);
    for mount in mounts {
        assert!(claims.contains(&&mount["name"]), "{mount}");
    }
    let under = |path: &str| {
        mounts
            .iter()
            .any(|mount| path.starts_with(text(&mount["mountPath"])))
    };
    assert!(under(flag("data-dir")));
    for (name, value) in flags.iter().filter(|(name, _)| name.ends_with("-file")) {
        assert!(under(value), "--{name}={value}");
    }
}

#[test]
fn names_flags_and_probes_fit_each_other() {
    is_sound("etcd.yaml", "http");
    is_sound("etcd-tls.yaml", "https");
}

/// The backup is made by the members' image and user, with a secret and a volume that the examples have.
#[test]
fn the_backup_fits_the_members() {
    let all = read("backup.yaml");
    let pod =
        &object(&all, "CronJob", "etcd-backup")["spec"]["jobTemplate"]["spec"]["template"]["spec"];
    let members = read("etcd-tls.yaml");
    let member = &object(&members, "StatefulSet", "etcd")["spec"]["template"]["spec"];
    let (ours, theirs) = (
        &list(&pod["containers"])[0],
        &list(&member["containers"])[0],
    );
    assert_eq!(ours["image"], theirs["image"]);
    assert_eq!(pod["securityContext"], member["securityContext"]);
    assert_eq!(ours["securityContext"], theirs["securityContext"]);
    let [backups, pki] = list(&pod["volumes"]) else {
        panic!("{}", pod["volumes"]);
    };
    object(
        &all,
        "PersistentVolumeClaim",
        text(&backups["persistentVolumeClaim"]["claimName"]),
    );
    assert_eq!(pki["secret"], member["volumes"][0]["secret"]);
    // Files of the secret are where etcdctl is told that they are.
    for one in list(&ours["env"]) {
        let value = text(&one["value"]);
        if one["name"] == "ETCDCTL_ENDPOINTS" {
            assert_eq!(value, "https://etcd:2379");
        } else {
            assert!(list(&theirs["env"]).contains(one), "{one}");
        }
    }
    assert!(list(&ours["volumeMounts"]).contains(&list(&theirs["volumeMounts"])[1]));
}

/// A process that ends with the test.
struct Pod(Child);

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A pod's address: each has one of its own, as in Kubernetes.
fn host(pod: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 0, u8::try_from(pod + 1).expect("few pods"))
}

/// The status of a plain request, or nothing.
fn get(pod: usize, port: u16, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect((host(pod), port)).ok()?;
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .ok()?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: {}:{port}\r\n\r\n", host(pod));
    stream.write_all(request.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split(' ').nth(1).map(str::to_owned)
}

fn wait(what: &str, mut there: impl FnMut() -> bool) {
    let start = Instant::now();
    while !there() {
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs what the example's set would run, and asks what its probes ask.
fn makes_a_cluster(name: &str, scheme: &str) {
    let dir = tempfile::tempdir().expect("a folder");
    let pki = Pki::new(dir.path(), "ca");
    let hosts: Vec<String> = (0..3).map(|pod| host(pod).to_string()).collect();
    let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
    let files = [pki.issue("member", &Wanted::hosts(&hosts).named("etcd-member"))];
    let root = pki.issue("root", &Wanted::common_name("root"));
    let mut held = Ports::default();
    let ports = [2379, 2380, 2381].map(|stands: u16| {
        let mut free = || {
            let port = held.take();
            let everywhere = (1..3).all(|pod| TcpListener::bind((host(pod), port)).is_ok());
            everywhere.then_some(port)
        };
        let port = std::iter::from_fn(|| Some(free())).flatten().next();
        (stands, port.expect("a free port"))
    });
    let all = read(name);
    let container =
        &object(&all, "StatefulSet", "etcd")["spec"]["template"]["spec"]["containers"][0];
    let here = |text: &str, pod: usize| {
        let mut text = text
            .replace("$(POD_NAME)", &format!("etcd-{pod}"))
            .replace("$(NAMESPACE)", "default")
            .replace("0.0.0.0", &host(pod).to_string())
            .replace(
                "/var/lib/etcd/",
                &format!("{}/{pod}/", dir.path().display()),
            )
            .replace("/etc/etcd/pki/ca.crt", &pki.ca())
            .replace("/etc/etcd/pki/member.crt", &files[0].cert)
            .replace("/etc/etcd/pki/member.key", &files[0].key);
        for other in 0..3 {
            let long = format!("etcd-{other}.etcd-peers.default.svc");
            text = text.replace(&long, &host(other).to_string());
        }
        for (stands, port) in ports {
            text = text.replace(&format!(":{stands}"), &format!(":{port}"));
        }
        text
    };
    assert_eq!(list(&container["command"]), ["etcd"]);
    let start = |pod: usize| {
        std::fs::create_dir_all(dir.path().join(pod.to_string())).expect("a folder");
        let log = std::fs::File::create(dir.path().join(format!("{pod}.log"))).expect("a file");
        let mut command = Command::new(our_program("etcd"));
        for argument in list(&container["args"]) {
            command.arg(here(text(argument), pod));
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        Pod(child.expect("it starts"))
    };
    let [(_, clients), _, (_, metrics)] = ports;
    let first = start(0);
    // Alive, and given time, while it waits for the others.
    wait("the first is alive", || {
        get(0, metrics, "/livez").as_deref() == Some("200")
    });
    let _pods = [first, start(1), start(2)];
    for pod in 0..3 {
        wait("a member is ready", || {
            get(pod, metrics, "/readyz").as_deref() == Some("200")
        });
        assert_eq!(get(pod, metrics, "/livez").as_deref(), Some("200"));
    }
    let etcdctl = |words: &[&str], pod: usize| {
        let endpoint = format!("--endpoints={scheme}://{}:{clients}", host(pod));
        let cacert = format!("--cacert={}", pki.ca());
        let (cert, key) = (
            format!("--cert={}", root.cert),
            format!("--key={}", root.key),
        );
        let mut all = vec![endpoint.as_str(), "--command-timeout=30s"];
        if scheme == "https" {
            all.extend([cacert.as_str(), cert.as_str(), key.as_str()]);
        }
        all.extend(words);
        let outcome = run(Path::new(&our_program("etcdctl")), &all, LIMIT);
        assert_eq!(outcome.code(), Some(0), "{}", outcome.text());
        outcome.stdout
    };
    assert_eq!(etcdctl(&["put", "k", "v"], 0), "OK\n");
    assert_eq!(etcdctl(&["get", "k", "--print-value-only"], 2), "v\n");
    assert_eq!(etcdctl(&["member", "list"], 1).lines().count(), 3);
}

#[test]
fn the_example_makes_a_cluster() {
    makes_a_cluster("etcd.yaml", "http");
}

#[test]
fn the_example_with_tls_makes_a_cluster() {
    makes_a_cluster("etcd-tls.yaml", "https");
}
