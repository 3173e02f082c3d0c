//! How much memory a member takes: an idle one, and one whose database is several times larger than what it may use.

use ferrite_testkit::{Cluster, Member, PATIENCE, eventually, pb};

use crate::{alone, beside_others, get};

const LIMIT_BYTES: u64 = 128 << 20;
const VALUE_BYTES: usize = 64 << 10;
const WRITERS: usize = 8;
const PUTS_EACH: usize = 1_050;

/// A line of what the kernel says about the process.
fn status(member: &Member, name: &str) -> u64 {
    let pid = member.pid().expect("it runs");
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .unwrap_or_else(|| panic!("the kernel says nothing of {name}"));
    let number = line.trim().trim_end_matches(" kB");
    number.parse().expect("a number")
}

/// Memory that is the process's own (its program is shared with others of its kind), in bytes.
fn own_bytes(member: &Member) -> u64 {
    status(member, "RssAnon") << 10
}

/// Huge pages are for those that are large: a handful of them is more than an idle member needs.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_member_is_small_and_a_large_one_gets_huge_pages() {
    const SMALL_BYTES: u64 = 10 << 20;
    let _turn = beside_others().await;
    let cluster = Cluster::builder().members(3).start().await;
    let leader = cluster.leader().await;
    for index in 0..3 {
        let own = own_bytes(cluster.member(index));
        assert!(own < SMALL_BYTES, "{own} bytes");
        assert_eq!(status(cluster.member(index), "THP_enabled"), 0);
    }
    let client = cluster.client(leader);
    let value = vec![7; 1 << 20];
    let grown = async || {
        let request = pb::PutRequest {
            key: "large".into(),
            value: value.clone().into(),
            ..Default::default()
        };
        client.kv().put(request).await.expect("a put");
        (status(cluster.member(leader), "THP_enabled") == 1).then_some(())
    };
    eventually("a large member gets huge pages", PATIENCE, grown).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_four_times_the_memory_limit_is_served_under_it() {
    let _turn = alone().await;
    let limit = LIMIT_BYTES.to_string();
    let cluster = Cluster::builder()
        .extra_args(&["--memory-limit-bytes", limit.as_str()])
        .start()
        .await;
    let value = |key: &str| key.repeat(VALUE_BYTES / key.len() + 1).into_bytes();
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let client = cluster.client(0);
            tokio::spawn(async move {
                for n in 0..PUTS_EACH {
                    let key = format!("{writer:02}/{n:06}");
                    let request = pb::PutRequest {
                        value: value(&key).into(),
                        key: key.into(),
                        ..Default::default()
                    };
                    client.kv().put(request).await.expect("a put");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("a writer");
    }
    let member = cluster.member(0);
    for restarted in [false, true] {
        if restarted {
            member.terminate().await;
            member.start();
            member.ready(PATIENCE).await;
        }
        let client = cluster.client(0);
        for writer in 0..WRITERS {
            for n in (0..PUTS_EACH).step_by(7) {
                let key = format!("{writer:02}/{n:06}");
                let found = get(&client, &key).await.expect("every key is there");
                assert!(
                    found.as_bytes() == value(&key),
                    "{key} (restarted: {restarted})"
                );
            }
        }
        let database = member.data_dir().join("member/snap/db");
        let size = std::fs::metadata(&database).expect("a database").len();
        let peak = member.peak_bytes();
        eprintln!(
            "{size} bytes of database, {peak} bytes of memory at most (restarted: {restarted})"
        );
        assert!(size >= 4 * LIMIT_BYTES, "{size}");
        assert!(peak <= LIMIT_BYTES, "{peak} (restarted: {restarted})");
    }
}
