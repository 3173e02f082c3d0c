//! `make-mirror` between two clusters of etcd's own.

use std::path::Path;

use ferrite_testkit::{Cluster, Kind, Pki, Wanted};

use crate::common::{
    Running, at_each, cluster, cluster_of, eventually, oracle, ours, run, servers,
};

fn keys(endpoint: &str) -> String {
    let args = ["--endpoints", endpoint, "get", "", "--prefix"];
    run(&ours(), &[], &args, b"").stdout
}

fn put(endpoint: &str, args: &[&str]) {
    let all = [&["--endpoints", endpoint][..], args].concat();
    eventually("a write", || run(&ours(), &[], &all, b"").code == Some(0));
}

#[test]
fn keys_and_changes_arrive_under_the_prefix_asked_for() {
    let Some(dir) = oracle() else { return };
    at_each(&servers(&dir), a_mirror_of_each);
}

fn a_mirror_of_each(etcd: &Path) {
    let (_a, source) = cluster_of(etcd, 1, &[]);
    let (_b, mut target) = cluster_of(etcd, 1, &[]);
    let from = source[0].endpoint.as_str();
    let to = target[0].endpoint.clone();
    let mirror = |args: &[&str]| {
        let all = [&["--endpoints", from, "make-mirror"][..], args, &[&to]].concat();
        Running::start(&ours(), &all)
    };
    put(from, &["put", "a/1", "one"]);
    put(from, &["put", "a/2", "two"]);
    put(from, &["put", "b", "not this"]);
    let arrives = |expected: &str| eventually(expected, || keys(&to) == expected);

    let running = mirror(&["--prefix", "a/"]);
    arrives("a/1\none\na/2\ntwo\n");
    put(from, &["del", "a/1"]);
    put(from, &["put", "a/3", "three"]);
    put(from, &["put", "b", "nor this"]);
    arrives("a/2\ntwo\na/3\nthree\n");
    // The destination goes away and comes back.
    target[0].kill();
    put(from, &["put", "a/4", "four"]);
    target[0].start();
    put(from, &["put", "a/5", "five"]);
    arrives("a/2\ntwo\na/3\nthree\na/4\nfour\na/5\nfive\n");
    drop(running);

    put(&to, &["del", "", "--prefix"]);
    let running = mirror(&["--prefix=a/", "--dest-prefix=z/", "--max-txn-ops=1"]);
    arrives("z/2\ntwo\nz/3\nthree\nz/4\nfour\nz/5\nfive\n");
    put(from, &["del", "a/", "--prefix"]);
    arrives("");
    drop(running);

    put(from, &["put", "a/6", "six"]);
    let running = mirror(&["--prefix=a/", "--no-dest-prefix"]);
    arrives("6\nsix\n");
    drop(running);

    // From a revision on: what was there before is not copied, and the prefix stays.
    put(&to, &["del", "", "--prefix"]);
    let args = ["--endpoints", from, "put", "a/7", "seven", "-w", "fields"];
    let shown = run(&ours(), &[], &args, b"").stdout;
    let revision = shown
        .lines()
        .find_map(|l| l.strip_prefix("\"Revision\" : "));
    let revision = format!("--rev={}", revision.unwrap());
    let running = mirror(&["--prefix=a/", &revision]);
    arrives("a/7\nseven\n");
    drop(running);

    put(from, &["compaction", revision.trim_start_matches("--rev=")]);
    let args = ["--endpoints", from, "make-mirror", "--rev=2", &to];
    let run = run(&ours(), &[], &args, b"");
    assert_eq!(
        (run.code, run.stderr.as_str()),
        (
            Some(1),
            "Error: etcdserver: mvcc: required revision has been compacted\n"
        )
    );
}

#[test]
fn mistakes_end_as_with_the_originals() {
    let Some(dir) = oracle() else { return };
    let (_data, members) = cluster(&dir, 1);
    let endpoint = members[0].endpoint.as_str();
    for args in [
        &["make-mirror"][..],
        &["make-mirror", "a", "b"],
        &[
            "make-mirror",
            endpoint,
            "--dest-prefix=a",
            "--no-dest-prefix",
        ],
    ] {
        let all = [&["--endpoints", endpoint][..], args].concat();
        let [theirs, ours] = [dir.join("etcdctl"), ours()].map(|p| run(&p, &[], &all, b""));
        assert_eq!(
            (ours.code, ours.stdout, ours.stderr),
            (theirs.code, theirs.stdout, theirs.stderr),
            "{args:?}"
        );
    }
}

#[tokio::test]
async fn a_destination_with_tls_and_users_is_written_to() {
    let Some(dir) = oracle() else { return };
    let papers = tempfile::tempdir().unwrap();
    let pki = Pki::new(papers.path(), "ca");
    let server = pki.issue("server", &Wanted::hosts(&["127.0.0.1"]));
    let client = pki.issue("client", &Wanted::common_name("client"));
    let flags = [
        format!("--cert-file={}", server.cert),
        format!("--key-file={}", server.key),
        format!("--trusted-ca-file={}", pki.ca()),
        "--client-cert-auth".to_owned(),
        "--bcrypt-cost=4".to_owned(),
    ];
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let target = Cluster::builder()
        .kinds(&[Kind::Ferrite])
        .encrypted_clients(pki.client(Some(&client)))
        .extra_args(&flags)
        .start()
        .await;
    let to = target.member(0).endpoint();
    let papers = [
        format!("--cacert={}", pki.ca()),
        format!("--cert={}", client.cert),
        format!("--key={}", client.key),
    ];
    let there = |args: &[&str]| {
        let mut all = vec!["--endpoints", to];
        all.extend(papers.iter().map(String::as_str));
        all.extend(args);
        run(&ours(), &[], &all, b"")
    };
    for args in [
        &["user", "add", "root:secret"][..],
        &["user", "grant-role", "root", "root"],
        &["auth", "enable"],
    ] {
        let done = there(args);
        assert_eq!(done.code, Some(0), "{args:?} {done:?}");
    }
    let (_a, source) = cluster(&dir, 1);
    let from = source[0].endpoint.as_str();
    put(from, &["put", "a", "one"]);

    let dest = [
        format!("--dest-cacert={}", pki.ca()),
        format!("--dest-cert={}", client.cert),
        format!("--dest-key={}", client.key),
        "--dest-insecure-transport=false".to_owned(),
    ];
    let mirror = |more: &[&'static str]| -> Vec<String> {
        let words = ["--endpoints", from, "make-mirror"].map(str::to_owned);
        let more = more.iter().map(|word| (*word).to_owned());
        let all = words.into_iter().chain(dest.iter().cloned()).chain(more);
        all.chain([to.to_owned()]).collect()
    };
    let refused = |args: &[String]| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        run(&ours(), &[], &args, b"")
    };
    // Without the right password, or without a user at all, nothing is written.
    let wrong = refused(&mirror(&["--dest-user=root:wrong"]));
    assert_eq!(
        (wrong.code, &wrong.stderr[..]),
        (
            Some(2),
            "Error: etcdserver: authentication failed, invalid user ID or password\n"
        )
    );
    let nobody = refused(&mirror(&[]));
    assert_eq!(nobody.code, Some(1), "{nobody:?}");

    let args = mirror(&["--dest-user=root", "--dest-password=secret"]);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let running = Running::start(&ours(), &args);
    let keys = || there(&["--user=root:secret", "get", "", "--prefix"]).stdout;
    eventually("the first key", || keys() == "a\none\n");
    put(from, &["put", "b", "two"]);
    eventually("a change", || keys() == "a\none\nb\ntwo\n");
    drop(running);
}
