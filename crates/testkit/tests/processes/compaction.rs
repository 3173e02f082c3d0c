//! Compaction that nobody asks for each time, and its pace.

use std::time::Duration;

use ferrite_testkit::{Client, Cluster, Kind, PATIENCE, eventually, oracle, pb};

use crate::{beside_others, put};

/// The newest revision that is gone, as a member tells it.
async fn compacted(client: &Client) -> i64 {
    let request = pb::HashKvRequest { revision: 0 };
    let hash = client.maintenance().hash_kv(request).await;
    hash.expect("a hash").into_inner().compact_revision
}

/// Lines of a member's log that say this, as JSON.
fn lines(cluster: &Cluster, index: usize, message: &str) -> Vec<serde_json::Value> {
    let log = cluster.member(index).log();
    (log.lines()
        .filter_map(|line| serde_json::from_str(line).ok()))
    .filter(|line: &serde_json::Value| line["msg"] == message)
    .collect()
}

/// One compaction after each period, of what was current a period before, in the original's words; both
/// kinds compact, and leave what both can read.
async fn every_period(kind: Kind) {
    let cluster = Cluster::builder()
        .kinds(&[kind])
        .extra_args(&[
            "--auto-compaction-mode=periodic",
            "--auto-compaction-retention=2s",
        ])
        .start()
        .await;
    let client = cluster.client(0);
    let first = put(&client, "k", "1").await;
    let newest = eventually("what was current goes", PATIENCE, async || {
        let newest = put(&client, "k", "v").await;
        (compacted(&client).await > first).then_some(newest)
    })
    .await;
    let done = lines(&cluster, 0, "completed auto periodic compaction");
    let line = done.last().expect("a line of the log");
    assert_eq!(line["compact-period"], "2s", "{kind:?}");
    assert!(line["took"].is_string(), "{line}");
    let revision = line["revision"].as_i64().expect("a revision");
    assert!(revision > first && revision <= newest, "{line}");
    assert!(!lines(&cluster, 0, "starting auto periodic compaction").is_empty());
    // Without new revisions there is nothing to do.
    eventually("the last of them goes", PATIENCE, async || {
        (compacted(&client).await == newest).then_some(())
    })
    .await;
    eventually("and it is logged", PATIENCE, async || {
        let done = lines(&cluster, 0, "completed auto periodic compaction");
        (done.last()?["revision"] == newest).then_some(())
    })
    .await;
    let begun = lines(&cluster, 0, "starting auto periodic compaction").len();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    // The original of these days may do the last one over.
    if kind == Kind::Ferrite {
        assert_eq!(
            lines(&cluster, 0, "starting auto periodic compaction").len(),
            begun
        );
    }
    assert_eq!(compacted(&client).await, newest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_period_is_kept_and_what_is_older_goes() {
    let _turn = beside_others().await;
    match oracle() {
        Some(_) => drop(tokio::join!(
            every_period(Kind::Ferrite),
            every_period(Kind::Etcd351)
        )),
        None => every_period(Kind::Ferrite).await,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_leader_compacts_and_its_successor_goes_on() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder()
        .members(3)
        .extra_args(&["--auto-compaction-retention=1s"])
        .start()
        .await;
    let first = cluster.leader().await;
    let client = cluster.client(first);
    let moves_on = async |from: i64| {
        eventually("a compaction", PATIENCE, async || {
            put(&client, "k", "v").await;
            let now = compacted(&client).await;
            (now > from).then_some(now)
        })
        .await
    };
    let before = moves_on(1).await;
    let next = (first + 1) % 3;
    const BEGUN: &str = "starting auto periodic compaction";
    assert!(lines(&cluster, next, BEGUN).is_empty(), "it followed");
    cluster.move_leader(next).await;
    let begun = lines(&cluster, first, BEGUN).len();
    let after = moves_on(before).await;
    moves_on(after).await;
    assert!(!lines(&cluster, next, BEGUN).is_empty());
    // One may have been under way when the lead went.
    assert!(lines(&cluster, first, BEGUN).len() <= begun + 1);
    cluster.hash_kv_all(0).await;
}

/// KV-28 and the pace: a compaction that pauses often and long is not over when the member is killed, and
/// goes on by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_compaction_goes_on_after_a_kill() {
    let _turn = beside_others().await;
    let cluster = Cluster::builder()
        .extra_args(&[
            "--compaction-batch-limit=10",
            "--compaction-sleep-interval=300ms",
        ])
        .start()
        .await;
    let client = cluster.client(0);
    let mut newest = 0;
    for n in 0..200 {
        newest = put(&client, &format!("k{}", n % 50), "v").await;
    }
    let request = pb::CompactionRequest {
        revision: newest,
        physical: false,
    };
    client.kv().compact(request).await.expect("a compaction");
    assert_eq!(compacted(&client).await, newest, "at once, for readers");
    // On disk by then, and twenty pauses and more away from its end.
    let flushed = client
        .maintenance()
        .defragment(pb::DefragmentRequest {})
        .await;
    flushed.expect("a defragmentation");
    const FINISHED: &str = "finished scheduled compaction";
    assert!(lines(&cluster, 0, FINISHED).is_empty());
    cluster.member(0).kill9();
    cluster.start_all().await;
    let client = cluster.client(0);
    assert_eq!(compacted(&client).await, newest);
    let member = cluster.member(0);
    member.wait_for_log(FINISHED, PATIENCE).await;
    let line = &lines(&cluster, 0, FINISHED)[0];
    assert_eq!(line["compact-revision"], newest);
    // With the default pace the same is over in a moment: the flags are what made it slow.
    member.kill9();
    let fast = [
        "--compaction-batch-limit=0",
        "--compaction-sleep-interval=0",
    ];
    member.start_once_with(&fast.map(str::to_owned));
    member.ready(PATIENCE).await;
    let client = cluster.client(0);
    for n in 0..200 {
        newest = put(&client, &format!("k{}", n % 50), "v").await;
    }
    let request = pb::CompactionRequest {
        revision: newest,
        physical: true,
    };
    let begin = std::time::Instant::now();
    client.kv().compact(request).await.expect("a compaction");
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
    cluster.hash_kv_all(0).await;
}
