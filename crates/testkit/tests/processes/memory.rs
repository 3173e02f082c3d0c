//! A database several times larger than the memory the member may use.

use ferrite_testkit::{Cluster, Member, PATIENCE, pb};

use crate::{alone, get};

const LIMIT_BYTES: u64 = 128 << 20;
const VALUE_BYTES: usize = 64 << 10;
const WRITERS: usize = 8;
const PUTS_EACH: usize = 1_050;

/// Most memory the process ever had resident, in bytes.
fn peak_bytes(member: &Member) -> u64 {
    let pid = member.pid().expect("it runs");
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .expect("the kernel says how much");
    let kib: u64 = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number");
    kib << 10
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
        let peak = peak_bytes(member);
        eprintln!(
            "{size} bytes of database, {peak} bytes of memory at most (restarted: {restarted})"
        );
        assert!(size >= 4 * LIMIT_BYTES, "{size}");
        assert!(peak <= LIMIT_BYTES, "{peak} (restarted: {restarted})");
    }
}
