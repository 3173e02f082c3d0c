//! `--hold-cluster-version`: the cluster stays where older programs can come back.

use std::time::Duration;

use ferrite_testkit::{Cluster, Kind, PATIENCE, Workload, dump, eventually, oracle, pb};

use crate::{beside_others, put};
use Kind::{Etcd351, Ferrite};

const HOLD: &str = "--hold-cluster-version=3.5";
/// Twice what members take between two looks at each other's versions, and more.
const LOOKS: Duration = Duration::from_secs(10);

/// `/version` of a member: of the cluster, and of the layout of its database.
async fn versions(cluster: &Cluster, index: usize) -> (String, String) {
    let text = crate::http_get(cluster.member(index).endpoint(), "/version").await;
    let found: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    let field = |name: &str| found[name].as_str().unwrap_or_default().to_owned();
    (field("etcdcluster"), field("storage"))
}

/// Waits until every member is at this version, and its database too.
async fn at(cluster: &Cluster, version: &str) {
    for index in 0..cluster.members().len() {
        let what = format!("member {index} and its database are at {version}");
        eventually(&what, PATIENCE, async || {
            let found = versions(cluster, index).await;
            (found.0 == version && found.1 == version).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_holds_the_version_whoever_leads() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder()
        .members(3)
        .extra_args_at(0, &["--snapshot-count=50"])
        .build();
    cluster.member(0).start_as_with(Ferrite, &[HOLD]);
    cluster.start_all().await;
    at(&cluster, "3.5.0").await;
    for leader in [1, 0, 2] {
        cluster.move_leader(leader).await;
        put(&cluster.client(leader), "k", "v").await;
    }
    tokio::time::sleep(LOOKS).await;
    at(&cluster, "3.5.0").await;
    assert!(
        cluster
            .member(0)
            .log_contains("holding the cluster's version")
    );
    // Away, it is not asked over: its version is not known.
    cluster.member(0).terminate().await;
    tokio::time::sleep(LOOKS).await;
    assert_eq!(versions(&cluster, 1).await.0, "3.5.0");
    cluster.member(0).start_as_with(Ferrite, &[]);
    cluster.member(0).ready(PATIENCE).await;
    at(&cluster, "3.7.0").await;
}

/// From 3.7 down to 3.5 by two downgrades, held there; then the original takes the folders over.
#[tokio::test(flavor = "multi_thread")]
async fn the_way_back_from_3_7_to_the_original() {
    if oracle().is_none() {
        return;
    }
    let _turn = beside_others().await;
    let check = ["--downgrade-check-time=1s", "--snapshot-count=100"];
    let cluster = Cluster::builder()
        .members(3)
        .extra_args_of(Ferrite, &check)
        .start()
        .await;
    at(&cluster, "3.7.0").await;
    let load = Workload::new()
        .writers(2)
        .readers(1)
        .pause(Duration::from_millis(5))
        .start(&cluster);
    for member in cluster.members() {
        load.wait_for(30).await;
        member.terminate().await;
        member.start_as_with(Ferrite, &[HOLD]);
        member.ready(PATIENCE).await;
        cluster.wait_healthy().await;
    }
    let first = cluster.member(0);
    first
        .wait_for_log("above the one to be held", PATIENCE)
        .await;
    for (target, version) in [("3.6", "3.6.0"), ("3.5", "3.5.0")] {
        let client = cluster.client_all();
        eventually("a downgrade begins", PATIENCE, async || {
            let request = pb::DowngradeRequest {
                action: pb::downgrade_request::DowngradeAction::Enable.into(),
                version: target.to_owned(),
            };
            match client.maintenance().downgrade(request).await {
                Ok(_) => Some(()),
                // The one before is still being ended.
                Err(status) => {
                    eprintln!("downgrade to {target}: {status}");
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    None
                }
            }
        })
        .await;
        at(&cluster, version).await;
        eventually("the downgrade is over", PATIENCE, async || {
            let statuses = cluster.statuses().await;
            let over = |status: &pb::StatusResponse| {
                status
                    .downgrade_info
                    .as_ref()
                    .is_none_or(|info| !info.enabled)
            };
            (statuses.len() == 3 && statuses.iter().all(|(_, status)| over(status))).then_some(())
        })
        .await;
    }
    tokio::time::sleep(LOOKS).await;
    at(&cluster, "3.5.0").await;
    for member in cluster.members() {
        load.wait_for(30).await;
        member.terminate().await;
        member.start_as_with(Etcd351, &[]);
        member.ready(PATIENCE).await;
        cluster.wait_healthy().await;
    }
    load.wait_for(30).await;
    load.stop().await.check(&cluster).await;
    let contents = dump(&cluster.client(0), 0, false, 64)
        .await
        .expect("contents");
    assert!(contents.pairs.len() > 50, "{}", contents.pairs.len());
}
