//! The lines about what takes long: calls, reads and applied requests, each with what it was about and
//! never with a value or a password.

use std::collections::BTreeMap;

use ferrite_client::pb;
use ferrite_testkit::{Client, Cluster, Kind, PATIENCE, eventually, oracle};
use pb::request_op::Request as Op;
use serde_json::Value;

use crate::auth::add_user;
use crate::beside_others;

/// A line's message and fields, those aside that every line has.
async fn line(cluster: &Cluster, message: &str, about: &str) -> BTreeMap<String, Value> {
    let what = format!("a line {message:?} about {about}");
    eventually(&what, PATIENCE, async || {
        let log = cluster.member(0).log();
        log.lines().find_map(|line| {
            let mut line: BTreeMap<String, Value> = serde_json::from_str(line).ok()?;
            let hit = line.get("msg")? == message && line.values().any(|value| value == about);
            for common in ["ts", "caller", "msg"] {
                line.remove(common);
            }
            hit.then_some(line)
        })
    })
    .await
}

/// Names of the fields, and the values of those that do not depend on time.
fn shape(line: &BTreeMap<String, Value>) -> (Vec<&str>, String) {
    const OF_TIME: &[&str] = &["start time", "time spent", "took", "remote"];
    let names = line.keys().map(String::as_str).collect();
    let rest = line
        .iter()
        .filter(|(name, _)| !OF_TIME.contains(&name.as_str()));
    let rest = rest.map(|(name, value)| format!("{name}={value}"));
    (names, rest.collect::<Vec<_>>().join(" "))
}

fn put_of(key: &str) -> pb::PutRequest {
    pb::PutRequest {
        key: key.to_owned().into(),
        value: "secret".into(),
        ..Default::default()
    }
}

fn range_of(key: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.to_owned().into(),
        limit: 5,
        ..Default::default()
    }
}

fn ops(ops: impl IntoIterator<Item = Op>) -> Vec<pb::RequestOp> {
    ops.into_iter()
        .map(|op| pb::RequestOp { request: Some(op) })
        .collect()
}

/// One call of each kind that is told of.
async fn talk(client: &Client) {
    let mut kv = client.kv();
    kv.put(put_of("k")).await.unwrap();
    kv.range(range_of("k")).await.unwrap();
    let reads = ops([
        Op::RequestRange(range_of("k")),
        Op::RequestRange(range_of("q")),
    ]);
    let read_only = pb::TxnRequest {
        success: reads,
        ..Default::default()
    };
    kv.txn(read_only).await.unwrap();
    let compare = pb::Compare {
        target: pb::compare::CompareTarget::Value as i32,
        key: "k".into(),
        target_union: Some(pb::compare::TargetUnion::Value("secret".into())),
        ..Default::default()
    };
    let write = pb::TxnRequest {
        compare: vec![compare],
        success: ops([Op::RequestPut(put_of("t"))]),
        failure: ops([Op::RequestPut(put_of("u")), Op::RequestPut(put_of("v"))]),
    };
    kv.txn(write).await.unwrap();
    let delete = pb::DeleteRangeRequest {
        key: "t".into(),
        ..Default::default()
    };
    kv.delete_range(delete).await.unwrap();
    let grant = pb::LeaseGrantRequest { id: 255, ttl: 600 };
    client.lease().lease_grant(grant).await.unwrap();
    add_user(client, "user", "secret").await.unwrap();
    let missing = pb::PutRequest {
        lease: 404,
        ..put_of("w")
    };
    kv.put(missing).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_long_is_told_with_what_it_was_about() {
    let _turn = beside_others().await;
    let flags = [
        "--warning-apply-duration=1ns",
        "--warning-unary-request-duration=1ns",
    ];
    let cluster = Cluster::builder().extra_args(&flags).start().await;
    let client = cluster.client(0);
    talk(&client).await;

    const STATS: &[&str] = &[
        "level",
        "remote",
        "request content",
        "request count",
        "request size",
        "response count",
        "response size",
        "response type",
        "start time",
        "time spent",
    ];
    for (method, told) in [
        (
            "/etcdserverpb.KV/Put",
            r#"request content="key:\"k\" value_size:6 " request count=1 request size=11 response count=0"#,
        ),
        (
            "/etcdserverpb.KV/Range",
            r#"request content="key:\"k\" limit:5" request count=0 request size=5 response count=1"#,
        ),
        (
            "/etcdserverpb.KV/DeleteRange",
            r#"request content="key:\"t\"" request count=0 request size=3 response count=1"#,
        ),
        (
            "/etcdserverpb.KV/Txn",
            r#"request content="compare:<> success:<request_range:{key:\"k\" limit:5} request_range:{key:\"q\" limit:5}> failure:<>" request count=2 request size=14 response count=0"#,
        ),
        (
            "/etcdserverpb.Lease/LeaseGrant",
            r#"request content="" request count=-1 request size=-1 response count=-1 response size=-1"#,
        ),
    ] {
        let line = line(&cluster, "request stats", method).await;
        let (names, rest) = shape(&line);
        assert_eq!(names, STATS);
        let start = format!("level=\"warn\" {told} ");
        assert!(rest.starts_with(&start), "{rest}\n{start}");
        let remote = line["remote"].as_str().expect("text");
        assert!(remote.starts_with("127.0.0.1:"), "{remote}");
    }

    const TOOK: &str = "apply request took too long";
    let log = cluster.member(0).log();
    let about = |prefix: &str, request: &str| {
        let found = log.lines().find_map(|line| {
            let line: BTreeMap<String, Value> = serde_json::from_str(line).ok()?;
            let text = line.get("request")?.as_str()?.to_owned();
            let hit = line.get("msg")? == TOOK && line.get("prefix")? == prefix;
            (hit && text.contains(request)).then_some(line)
        });
        found.unwrap_or_else(|| panic!("no line about {request} in\n{log}"))
    };
    for (prefix, request, response) in [
        ("", "> put:<key:\"k\" value_size:6 >", "size:"),
        (
            "read-only range ",
            "key:\"k\" limit:5",
            "range_response_count:1 size:",
        ),
        (
            "read-only txn ",
            "compare:<> success:<request_range:",
            "responses:<range_response_count:1 range_response_count:0> size:",
        ),
        (
            "",
            "> txn:<compare:<target:VALUE key:\"k\" value_size:6 > success:<request_put:<key:\"t\" value_size:6 >>",
            "size:",
        ),
        ("", "delete_range:{key:\"t\"}", "size:"),
        (
            "",
            "> lease_grant:<ttl:600-second id:00000000000000ff>",
            "size:",
        ),
        ("", "> auth_user_add:<name:user>", "size:"),
        ("", "cluster_version_set:{ver:\"3.7.0\"}", ""),
    ] {
        let line = about(prefix, request);
        assert_eq!(line["level"], "warn");
        assert_eq!(line["expected-duration"], "1ns");
        let said = line["response"].as_str().expect("text");
        assert!(said.starts_with(response), "{line:?}");
        assert_eq!(said.is_empty(), response.is_empty(), "{line:?}");
        assert!(!line.contains_key("error"), "{line:?}");
    }
    // What is refused has an error, and no response.
    let line = about("", "> put:<key:\"w\" value_size:6 lease:404 >");
    assert_eq!(line["response"], "");
    assert!(
        line["error"]
            .as_str()
            .expect("text")
            .contains("lease not found")
    );
    assert!(
        !log.contains("secret"),
        "a value or a password is in the log"
    );
}

/// At debug level every call is told of, and at no other unless it is slow.
#[tokio::test(flavor = "multi_thread")]
async fn fast_calls_are_told_of_at_debug_level_only() {
    let _turn = beside_others().await;
    for (kind, level) in [
        (Kind::Ferrite, "debug"),
        (Kind::Ferrite, "info"),
        (Kind::Etcd351, "debug"),
    ] {
        if kind == Kind::Etcd351 && oracle().is_none() {
            continue;
        }
        // 3.5.1 has no flag for it: 300 ms are far away.
        let mut flags = vec![match level {
            "debug" => "--log-level=debug",
            _ => "--log-level=info",
        }];
        if kind == Kind::Ferrite {
            flags.push("--warning-unary-request-duration=1h");
        }
        let cluster = Cluster::builder().kinds(&[kind]).extra_args(&flags);
        let cluster = cluster.start().await;
        let client = cluster.client(0);
        client.kv().put(put_of("k")).await.unwrap();
        if level == "debug" {
            let told = line(&cluster, "request stats", "/etcdserverpb.KV/Put").await;
            assert_eq!(told["level"], "debug", "{kind:?}");
            assert_eq!(told["request size"], 11, "{kind:?}");
            assert_eq!(
                told["request content"], "key:\"k\" value_size:6 ",
                "{kind:?}"
            );
        } else {
            client.kv().range(range_of("k")).await.unwrap();
            assert!(!cluster.member(0).log_contains("request stats"));
        }
    }
}
