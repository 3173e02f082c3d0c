//! Many clients that put keys, each its next when its last is answered.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferrite_client::{Client, describe, pb};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use super::stats::Stats;

/// The most that a pace may lag behind before the lag is forgotten.
const LAG_MAX: Duration = Duration::from_millis(10);

/// Keys and values of a load.
pub struct Shape {
    /// What every key begins with.
    pub prefix: String,
    /// Bytes of a key after the prefix.
    pub key_bytes: usize,
    /// Bytes of a value.
    pub value_bytes: usize,
}

/// When puts may start.
pub enum Pace {
    /// So many a second, for so long.
    Limited { per_second: u32, time: Duration },
    /// So many, as fast as they are answered.
    Count(u64),
}

/// Numbers without a pattern.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(RandomState::new().hash_one(0))
    }

    /// SplitMix64.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Puts keys with all clients until the pace is over or `stop` is done; `answered` is called after
/// each answer.
pub async fn run(
    clients: Vec<Client>,
    shape: &Shape,
    pace: Pace,
    stop: impl Future<Output = ()>,
    mut answered: impl FnMut(),
) -> Stats {
    let start = Instant::now();
    let (requests, queue) = mpsc::channel(clients.len().max(1));
    let queue = Arc::new(Mutex::new(queue));
    let (results, mut answers) = mpsc::channel(clients.len().max(1));
    let mut workers = JoinSet::new();
    for client in clients {
        let (queue, results) = (Arc::clone(&queue), results.clone());
        workers.spawn(async move {
            loop {
                let request: Option<pb::PutRequest> = queue.lock().await.recv().await;
                let Some(request) = request else { return };
                let start = Instant::now();
                let result = client.kv().put(request).await;
                let took = start.elapsed();
                let result = result.map(|_| took).map_err(|status| describe(&status));
                // The receiver stays until every worker is done.
                let _ = results.send(result).await;
            }
        });
    }
    drop(results);
    let mut stats = Stats::default();
    let produce = async {
        tokio::select! {
            () = produce(requests, shape, pace) => {}
            () = stop => {}
        }
    };
    let consume = async {
        while let Some(result) = answers.recv().await {
            match result {
                Ok(took) => stats.succeeded(took),
                Err(error) => stats.failed(error),
            }
            answered();
        }
    };
    tokio::join!(produce, consume);
    stats.end(start.elapsed());
    stats
}

async fn produce(requests: mpsc::Sender<pb::PutRequest>, shape: &Shape, pace: Pace) {
    let mut random = Random::new();
    let value = Bytes::from(vec![0; shape.value_bytes]);
    let mut key = shape.prefix.clone().into_bytes();
    let from = key.len();
    key.resize(from + shape.key_bytes.max(size_of::<u64>()), 0);
    let mut request = || {
        key[from..from + size_of::<u64>()].copy_from_slice(&random.next().to_be_bytes());
        pb::PutRequest {
            key: Bytes::copy_from_slice(&key),
            value: value.clone(),
            ..Default::default()
        }
    };
    match pace {
        Pace::Count(count) => {
            for _ in 0..count {
                if requests.send(request()).await.is_err() {
                    return;
                }
            }
        }
        Pace::Limited { per_second, time } => {
            let gap = Duration::from_secs(1) / per_second.max(1);
            let end = Instant::now() + time;
            let mut next = Instant::now();
            while next < end {
                tokio::time::sleep_until(next.into()).await;
                if requests.send(request()).await.is_err() {
                    return;
                }
                let now = Instant::now();
                next = (next + gap).max(now.checked_sub(LAG_MAX).unwrap_or(now));
            }
        }
    }
}
