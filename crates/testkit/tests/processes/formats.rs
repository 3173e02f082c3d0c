//! The examples of `docs/formats/store.md` and `docs/formats/entries.md` are what both kinds write.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;

use ferrite_bolt::{Db, Options};
use ferrite_proto::{authpb, etcdserverpb, raftpb, walpb};
use ferrite_testkit::{Client, Cluster, Kind, oracle, pb};
use ferrite_wal::Wal;
use prost::Message as _;

use crate::beside_others;

/// Lines `bucket key value` of the blocks marked `store` in a page; `''` is empty, all else hexadecimal.
fn examples(page: &str) -> BTreeSet<(String, Vec<u8>, Vec<u8>)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../docs/formats")
        .join(page);
    let text = std::fs::read_to_string(path).expect("the page is there");
    let mut found = BTreeSet::new();
    let mut within = false;
    for line in text.lines() {
        if let Some(mark) = line.strip_prefix("```") {
            within = mark == "store";
        } else if within {
            let mut words = line.split_whitespace();
            let mut word = || {
                words
                    .next()
                    .unwrap_or_else(|| panic!("too short: {line:?}"))
            };
            let (bucket, key, value) = (word(), word(), word());
            found.insert((bucket.to_owned(), bytes(key), bytes(value)));
        }
    }
    found
}

fn bytes(hex: &str) -> Vec<u8> {
    let hex = hex.trim_matches('\'');
    let digits = |n: usize| u8::from_str_radix(&hex[n..n + 2], 16).expect("hexadecimal");
    (0..hex.len()).step_by(2).map(digits).collect()
}

fn hex(bytes: &[u8]) -> String {
    match bytes {
        [] => "''".to_owned(),
        bytes => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
    }
}

/// What the pages say has been done.
async fn script(client: &Client) {
    let put = |key: &str, value: &str, lease| pb::PutRequest {
        key: key.to_owned().into(),
        value: value.to_owned().into(),
        lease,
        ..Default::default()
    };
    let op = |put| pb::RequestOp {
        request: Some(pb::request_op::Request::RequestPut(put)),
    };
    let mut kv = client.kv();
    let request = pb::LeaseGrantRequest { ttl: 600, id: 300 };
    client.lease().lease_grant(request).await.expect("a lease");
    kv.put(put("k", "v", 300)).await.expect("a put");
    kv.put(put("k", "", 0)).await.expect("a put");
    let request = pb::DeleteRangeRequest {
        key: "k".into(),
        ..Default::default()
    };
    kv.delete_range(request).await.expect("a deletion");
    let request = pb::TxnRequest {
        success: vec![op(put("a", "1", 0)), op(put("b", "2", 0))],
        ..Default::default()
    };
    kv.txn(request).await.expect("a transaction");
    let request = pb::CompactionRequest {
        revision: 2,
        physical: true,
    };
    kv.compact(request).await.expect("a compaction");
    let mut auth = client.auth();
    let request = pb::AuthRoleAddRequest {
        name: "reader".to_owned(),
    };
    auth.role_add(request).await.expect("a role");
    let request = pb::AuthRoleGrantPermissionRequest {
        name: "reader".to_owned(),
        perm: Some(authpb::Permission {
            perm_type: authpb::permission::Type::Readwrite.into(),
            key: "k".into(),
            range_end: "l".into(),
        }),
    };
    auth.role_grant_permission(request)
        .await
        .expect("a permission");
    let request = pb::AuthUserAddRequest {
        name: "alice".to_owned(),
        options: Some(authpb::UserAddOptions { no_password: true }),
        ..Default::default()
    };
    auth.user_add(request).await.expect("a user");
    let request = pb::AuthUserGrantRoleRequest {
        user: "alice".to_owned(),
        role: "reader".to_owned(),
    };
    auth.user_grant_role(request).await.expect("a grant");
    let request = pb::AlarmRequest {
        action: pb::alarm_request::AlarmAction::Activate.into(),
        member_id: 7,
        alarm: pb::AlarmType::Nospace.into(),
    };
    client.maintenance().alarm(request).await.expect("an alarm");
}

/// Every pair of every bucket.
fn pairs(file: &Path) -> BTreeMap<(String, Vec<u8>), Vec<u8>> {
    let options = Options {
        read_only: true,
        ..Options::default()
    };
    let db = Db::open(file, options).expect("a database");
    let tx = db.begin_read().expect("a view");
    let mut found = BTreeMap::new();
    for bucket in ferrite_mvcc::schema::Bucket::ALL {
        let Some(content) = tx.bucket(bucket.name().as_bytes()).expect("a bucket") else {
            continue;
        };
        content
            .scan(&[], None, &mut |key, value| {
                found.insert((bucket.name().to_owned(), key.to_vec()), value.to_vec());
                ControlFlow::Continue(())
            })
            .expect("readable pages");
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn both_kinds_write_the_examples_of_the_store() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    let expected = examples("store.md");
    assert!(expected.len() >= 8, "{}", expected.len());
    for kind in [Kind::Ferrite, Kind::Etcd351] {
        let cluster = Cluster::builder()
            .kinds(&[kind])
            .extra_args_of(Kind::Ferrite, &["--hold-cluster-version=3.5"])
            .start()
            .await;
        script(&cluster.client(0)).await;
        cluster.member(0).terminate().await;
        let found = pairs(&cluster.member(0).data_dir().join("member/snap/db"));
        for (bucket, key, value) in &expected {
            let stored = found.get(&(bucket.clone(), key.clone()));
            assert_eq!(
                stored.map(|value| hex(value)),
                Some(hex(value)),
                "{kind:?}: {bucket} {}; there is {:#?}",
                hex(key),
                found
                    .iter()
                    .map(|((bucket, key), value)| format!("{bucket} {} {}", hex(key), hex(value)))
                    .collect::<Vec<_>>()
            );
        }
    }
}

/// Requests in a log, without the numbers that tell them apart.
fn requests(dir: &Path) -> Vec<Vec<u8>> {
    let log = Wal::read(dir, &walpb::Snapshot::default()).expect("a log");
    let normal = raftpb::EntryType::EntryNormal as i32;
    let entries = log
        .entries
        .iter()
        .filter(|entry| entry.entry_type == normal);
    entries
        .filter_map(|entry| {
            let mut request = etcdserverpb::InternalRaftRequest::decode(&entry.data[..]).ok()?;
            if let Some(header) = &mut request.header {
                header.id = 1;
            }
            Some(request.encode_to_vec())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn both_kinds_log_the_examples_of_entries() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    let expected = examples("entries.md");
    assert!(expected.len() >= 7, "{}", expected.len());
    for kind in [Kind::Ferrite, Kind::Etcd351] {
        let cluster = Cluster::builder()
            .kinds(&[kind])
            .extra_args_of(Kind::Ferrite, &["--hold-cluster-version=3.5"])
            .start()
            .await;
        script(&cluster.client(0)).await;
        cluster.member(0).terminate().await;
        let found = requests(&cluster.member(0).data_dir().join("member/wal"));
        for (what, _, data) in &expected {
            assert!(
                found.contains(data),
                "{kind:?}: {what}; there is {:#?}",
                found.iter().map(|data| hex(data)).collect::<Vec<_>>()
            );
        }
    }
}
