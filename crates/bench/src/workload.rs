//! What a run does: closed loops of operations over clients, each with one operation in flight.
//!
//! A run does a fixed number of operations after an unmeasured warm-up, with the same keys in the same
//! order whatever server it meets.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use clap::{Args, Subcommand};
use ferrite_proto::etcdserverpb as pb;
use ferrite_proto::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use ferrite_proto::etcdserverpb::request_op;
use tonic::Status;

use crate::beside::Load;
use crate::client::Client;
use crate::error::{Error, Result};
use crate::procstat::{Meter, Usage};
use crate::report::{Latency, Report};
use crate::streams;

/// Which keys a workload uses.
#[derive(Args, Clone, Debug)]
pub struct Keys {
    /// Bytes in front of every key.
    #[arg(long, default_value = "")]
    pub prefix: String,
    /// Bytes of the number after the prefix (hexadecimal, zero-padded).
    #[arg(long, default_value_t = 8)]
    pub key_size: usize,
    /// Number of distinct keys.
    #[arg(long, default_value_t = 100_000)]
    pub key_space: u64,
    /// Use keys in order instead of at random.
    #[arg(long)]
    pub sequential: bool,
}

impl Keys {
    /// Eight hexadecimal characters, at random.
    pub fn random(key_space: u64) -> Self {
        Self {
            prefix: String::new(),
            key_size: 8,
            key_space,
            sequential: false,
        }
    }

    /// Each of them in order.
    pub fn in_order(key_space: u64) -> Self {
        Self {
            sequential: true,
            ..Self::random(key_space)
        }
    }

    fn key(&self, index: u64) -> Bytes {
        format!("{}{:0width$x}", self.prefix, index, width = self.key_size).into()
    }

    fn pick(&self, op: u64) -> Bytes {
        let index = if self.sequential { op } else { mix(op) };
        self.key(index % self.key_space)
    }
}

/// One kind of operation.
#[derive(Subcommand, Clone, Debug)]
pub enum Workload {
    /// Put one key.
    Put {
        #[command(flatten)]
        keys: Keys,
        /// Bytes of the value.
        #[arg(long, default_value_t = 256)]
        val_size: usize,
    },
    /// Get one key (linearizable unless told otherwise).
    Get {
        #[command(flatten)]
        keys: Keys,
        /// Let the member answer from what it has.
        #[arg(long)]
        serializable: bool,
    },
    /// Range over many keys, starting at a random key.
    Scan {
        #[command(flatten)]
        keys: Keys,
        /// Let the member answer from what it has.
        #[arg(long)]
        serializable: bool,
        /// Keys a range returns.
        #[arg(long, default_value_t = 1000)]
        limit: u64,
        /// Bound the range by its end key too, so that the server's count stops there.
        #[arg(long)]
        bounded: bool,
    },
    /// A transaction: one compare on a key, then one put (or --ops of them).
    TxnPut {
        #[command(flatten)]
        keys: Keys,
        /// Bytes of each value.
        #[arg(long, default_value_t = 256)]
        val_size: usize,
        /// Puts in the transaction.
        #[arg(long, default_value_t = 1)]
        ops: u64,
    },
    /// Puts and gets mixed.
    Mixed {
        #[command(flatten)]
        keys: Keys,
        /// Bytes of a put's value.
        #[arg(long, default_value_t = 256)]
        val_size: usize,
        /// Percentage of gets.
        #[arg(long, default_value_t = 90)]
        reads: u64,
        /// Let the member answer gets from what it has.
        #[arg(long)]
        serializable: bool,
    },
    /// Puts of one key each while something large goes on beside them.
    Beside {
        /// What goes on.
        #[arg(value_enum)]
        load: Load,
        #[command(flatten)]
        keys: Keys,
        /// Bytes of the value.
        #[arg(long, default_value_t = 256)]
        val_size: usize,
    },
    /// Watchers on one prefix; measures the time from sending a put to each watcher's event.
    /// --clients put concurrently; --total counts puts.
    Watch {
        /// How many watchers.
        #[arg(long, default_value_t = 100)]
        watchers: usize,
        /// gRPC watch streams the watchers share, spread over the connections.
        #[arg(long, default_value_t = 10)]
        streams: usize,
        /// Bytes of a value.
        #[arg(long, default_value_t = 256)]
        val_size: usize,
        /// Puts per second over all clients; 0 is as fast as they go.
        #[arg(long, default_value_t = 0.0)]
        rate: f64,
    },
    /// Keep-alives of leases granted beforehand, one stream per client.
    KeepAlive {
        /// Seconds the leases live.
        #[arg(long, default_value_t = 3600)]
        ttl: i64,
    },
    /// Compact up to the current revision, once.
    Compact {
        /// Revisions to keep below the current one.
        #[arg(long, default_value_t = 0)]
        keep: i64,
        /// Return without waiting for the physical removal.
        #[arg(long)]
        logical: bool,
    },
    /// Defragment each endpoint in turn.
    Defrag,
    /// Stream one snapshot from the first endpoint and throw it away.
    Snapshot,
}

impl Workload {
    /// A name for reports.
    pub fn name(&self) -> String {
        match self {
            Workload::Put { val_size, .. } => format!("put-{val_size}B"),
            Workload::Get { serializable, .. } => format!("get-{}", level(*serializable)),
            Workload::Scan {
                serializable,
                limit,
                bounded,
                ..
            } => {
                let bound = if *bounded { "-bounded" } else { "" };
                format!("scan-{limit}{bound}-{}", level(*serializable))
            }
            Workload::TxnPut { val_size, ops, .. } => format!("txn-put-{ops}x{val_size}B"),
            Workload::Mixed {
                reads,
                serializable,
                ..
            } => format!("mixed-{reads}%-{}", level(*serializable)),
            Workload::Beside { load, val_size, .. } => {
                format!("put-{val_size}B-beside-{}", load.name())
            }
            Workload::Watch {
                watchers, streams, ..
            } => format!("watch-{watchers}w-{streams}s"),
            Workload::KeepAlive { .. } => "keep-alive".into(),
            Workload::Compact { .. } => "compact".into(),
            Workload::Defrag => "defrag".into(),
            Workload::Snapshot => "snapshot".into(),
        }
    }
}

fn level(serializable: bool) -> &'static str {
    if serializable {
        "serializable"
    } else {
        "linearizable"
    }
}

/// One run: a workload against servers.
#[derive(Clone, Debug)]
pub struct Run {
    /// What to do.
    pub workload: Workload,
    /// Server addresses, `host:port`; connections go round them in turn.
    pub endpoints: Vec<String>,
    /// Processes whose CPU and memory count as the servers'.
    pub pids: Vec<u32>,
    /// Operations in flight.
    pub clients: usize,
    /// Connections they share.
    pub connections: usize,
    /// Measured operations.
    pub total: u64,
    /// Unmeasured operations before them.
    pub warmup: u64,
    /// Free text for the report.
    pub label: String,
}

/// What a loop came to.
#[derive(Default)]
pub(crate) struct Outcome {
    pub seconds: f64,
    pub ops: u64,
    pub latencies: Vec<u64>,
    pub fan_out: Vec<u64>,
    pub errors: u64,
    pub first_error: Option<String>,
}

impl Outcome {
    pub fn failed(&mut self, status: &Status) {
        self.errors += 1;
        self.first_error.get_or_insert_with(|| status.to_string());
    }

    pub fn absorb(&mut self, other: Outcome) {
        self.latencies.extend(other.latencies);
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }
}

/// What was used while it ran: CPU seconds of this process, and each server's figures.
pub(crate) type Used = (f64, Vec<Usage>);

/// splitmix64: turns an operation's number into a random one, the same each run.
pub(crate) fn mix(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// A value of `size` bytes that does not compress.
pub(crate) fn value(size: usize) -> Bytes {
    (0..size as u64)
        .map(|i| mix(i) as u8)
        .collect::<Vec<_>>()
        .into()
}

/// The least key greater than every key with this prefix.
pub(crate) fn prefix_end(prefix: &str) -> Bytes {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(b"\0")
}

/// Runs operations `first..first + count` over the clients and times each.
pub(crate) async fn closed_loop<F, R>(clients: &[Client], first: u64, count: u64, op: F) -> Outcome
where
    F: Fn(Client, u64) -> R + Clone + Send + 'static,
    R: Future<Output = (Client, std::result::Result<(), Status>)> + Send,
{
    let next = Arc::new(AtomicU64::new(0));
    let started = Instant::now();
    let tasks: Vec<_> = clients
        .iter()
        .map(|client| {
            let (mut client, next, op) = (client.clone(), next.clone(), op.clone());
            tokio::spawn(async move {
                let mut out = Outcome::default();
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        return out;
                    }
                    let t = Instant::now();
                    let (back, result) = op(client, first + n).await;
                    client = back;
                    match result {
                        Ok(()) => out.latencies.push(t.elapsed().as_nanos() as u64),
                        Err(status) => out.failed(&status),
                    }
                }
            })
        })
        .collect();
    let mut all = Outcome::default();
    for task in tasks {
        let Ok(one) = task.await else { continue };
        all.absorb(one);
    }
    all.seconds = started.elapsed().as_secs_f64();
    all.ops = all.latencies.len() as u64;
    all
}

/// One endpoint operation after another, each timed.
async fn once<F, R>(endpoints: &[String], pids: &[u32], op: F) -> Result<(Outcome, Used)>
where
    F: Fn(Client) -> R,
    R: Future<Output = std::result::Result<(), Status>>,
{
    let meter = Meter::start(pids)?;
    let mut out = Outcome::default();
    for endpoint in endpoints {
        let client = Client::connect(endpoint).await?;
        let t = Instant::now();
        match op(client).await {
            Ok(()) => out.latencies.push(t.elapsed().as_nanos() as u64),
            Err(status) => out.failed(&status),
        }
        out.seconds += t.elapsed().as_secs_f64();
    }
    out.ops = out.latencies.len() as u64;
    Ok((out, meter.stop()?))
}

impl Run {
    /// Does it.
    ///
    /// # Errors
    /// A server cannot be reached or one of the processes is gone. Failed operations are counted, not errors.
    pub async fn measure(&self) -> Result<Report> {
        if self.endpoints.is_empty() || self.clients == 0 || self.connections == 0 {
            return Err(Error::told(
                "need at least one endpoint, client and connection",
            ));
        }
        let conns = self.connections.min(self.clients);
        let mut connections = Vec::with_capacity(conns);
        for i in 0..conns {
            connections.push(Client::connect(&self.endpoints[i % self.endpoints.len()]).await?);
        }
        let clients: Vec<Client> = (0..self.clients)
            .map(|i| connections[i % conns].clone())
            .collect();
        let (out, (own_cpu, servers)) = self.drive(&connections, &clients).await?;
        let ops = out.ops;
        let per_op = |seconds: f64| seconds * 1e6 / ops.max(1) as f64;
        let server_cpu: f64 = servers.iter().map(|server| server.cpu_s).sum();
        Ok(Report {
            label: self.label.clone(),
            workload: self.workload.name(),
            clients: self.clients,
            connections: conns,
            ops,
            errors: out.errors,
            first_error: out.first_error,
            seconds: out.seconds,
            ops_per_s: ops as f64 / out.seconds,
            latency: Latency::of(out.latencies),
            fan_out: Latency::of(out.fan_out),
            client_cpu_us_per_op: per_op(own_cpu),
            server_cpu_us_per_op: (!servers.is_empty()).then(|| per_op(server_cpu)),
            servers,
        })
    }

    /// Warm-up, then the measured loop.
    async fn timed<F, R>(&self, clients: &[Client], op: F) -> Result<(Outcome, Used)>
    where
        F: Fn(Client, u64) -> R + Clone + Send + 'static,
        R: Future<Output = (Client, std::result::Result<(), Status>)> + Send,
    {
        closed_loop(clients, 0, self.warmup, op.clone()).await;
        let meter = Meter::start(&self.pids)?;
        let out = closed_loop(clients, self.warmup, self.total, op).await;
        Ok((out, meter.stop()?))
    }

    async fn drive(&self, connections: &[Client], clients: &[Client]) -> Result<(Outcome, Used)> {
        match &self.workload {
            Workload::Beside {
                load,
                keys,
                val_size,
            } => {
                let _load = load.start(&self.endpoints[0]).await?;
                let puts = Run {
                    workload: Workload::Put {
                        keys: keys.clone(),
                        val_size: *val_size,
                    },
                    ..self.clone()
                };
                Box::pin(puts.drive(connections, clients)).await
            }
            Workload::Put { keys, val_size } => {
                let (keys, value) = (keys.clone(), value(*val_size));
                self.timed(clients, move |mut c: Client, n: u64| {
                    let req = put_request(keys.pick(n), &value);
                    async move {
                        let r = c.put(req).await.map(drop);
                        (c, r)
                    }
                })
                .await
            }
            Workload::Get { keys, serializable } => {
                let (keys, serializable) = (keys.clone(), *serializable);
                self.timed(clients, move |mut c: Client, n: u64| {
                    let req = get_request(keys.pick(n), serializable);
                    async move {
                        let r = c.range(req).await.map(drop);
                        (c, r)
                    }
                })
                .await
            }
            Workload::Scan {
                keys,
                serializable,
                limit,
                bounded,
            } => {
                let (keys, limit) = (keys.clone(), *limit);
                let (serializable, bounded) = (*serializable, *bounded);
                self.timed(clients, move |mut c: Client, n: u64| {
                    let req = scan_request(&keys, n, limit, bounded, serializable);
                    async move {
                        let r = match c.range(req).await {
                            Ok(resp) if resp.kvs.len() as u64 == limit => Ok(()),
                            Ok(resp) => {
                                Err(Status::internal(format!("got {} keys", resp.kvs.len())))
                            }
                            Err(status) => Err(status),
                        };
                        (c, r)
                    }
                })
                .await
            }
            Workload::TxnPut {
                keys,
                val_size,
                ops,
            } => {
                let (keys, value, ops) = (keys.clone(), value(*val_size), *ops);
                self.timed(clients, move |mut c: Client, n: u64| {
                    let req = txn_request(&keys, n, &value, ops);
                    async move {
                        let r = c.txn(req).await.map(drop);
                        (c, r)
                    }
                })
                .await
            }
            Workload::Mixed {
                keys,
                val_size,
                reads,
                serializable,
            } => {
                let (keys, value) = (keys.clone(), value(*val_size));
                let (reads, serializable) = (*reads, *serializable);
                self.timed(clients, move |mut c: Client, n: u64| {
                    let key = keys.pick(n);
                    let read = mix(!n) % 100 < reads;
                    let value = value.clone();
                    async move {
                        let r = if read {
                            c.range(get_request(key, serializable)).await.map(drop)
                        } else {
                            c.put(put_request(key, &value)).await.map(drop)
                        };
                        (c, r)
                    }
                })
                .await
            }
            Workload::Watch {
                watchers,
                streams: count,
                val_size,
                rate,
            } => {
                let plan = streams::Plan {
                    watchers: *watchers,
                    streams: *count,
                    val_size: *val_size,
                    rate: *rate,
                };
                streams::watch(self, connections, clients, &plan).await
            }
            Workload::KeepAlive { ttl } => streams::keep_alive(self, clients, *ttl).await,
            Workload::Compact { keep, logical } => {
                let (keep, physical) = (*keep, !*logical);
                let status = connections[0].clone().status(pb::StatusRequest {}).await;
                let header = status
                    .map_err(Error::call("asking for the revision"))?
                    .header;
                let revision = header.map_or(0, |header| header.revision);
                once(&self.endpoints[..1], &self.pids, |mut c| async move {
                    let req = pb::CompactionRequest {
                        revision: revision - keep,
                        physical,
                    };
                    c.compact(req).await.map(drop)
                })
                .await
            }
            Workload::Defrag => {
                once(&self.endpoints, &self.pids, |mut c| async move {
                    c.defragment(pb::DefragmentRequest {}).await.map(drop)
                })
                .await
            }
            Workload::Snapshot => {
                once(&self.endpoints[..1], &self.pids, |mut c| async move {
                    let mut stream = c.snapshot().await?;
                    while stream.message().await?.is_some() {}
                    Ok(())
                })
                .await
            }
        }
    }
}

pub(crate) fn put_request(key: Bytes, value: &Bytes) -> pb::PutRequest {
    pb::PutRequest {
        key,
        value: value.clone(),
        ..Default::default()
    }
}

fn get_request(key: Bytes, serializable: bool) -> pb::RangeRequest {
    pb::RangeRequest {
        key,
        serializable,
        ..Default::default()
    }
}

fn scan_request(
    keys: &Keys,
    op: u64,
    limit: u64,
    bounded: bool,
    serializable: bool,
) -> pb::RangeRequest {
    let start = mix(op) % keys.key_space.saturating_sub(limit).max(1);
    let range_end = if bounded {
        keys.key(start + limit)
    } else {
        prefix_end(&keys.prefix)
    };
    pb::RangeRequest {
        key: keys.key(start),
        range_end,
        limit: limit as i64,
        serializable,
        ..Default::default()
    }
}

fn txn_request(keys: &Keys, op: u64, value: &Bytes, ops: u64) -> pb::TxnRequest {
    let puts = (0..ops)
        .map(|i| pb::RequestOp {
            request: Some(request_op::Request::RequestPut(put_request(
                keys.key((mix(op) + i) % keys.key_space),
                value,
            ))),
        })
        .collect();
    pb::TxnRequest {
        compare: vec![pb::Compare {
            result: CompareResult::Greater as i32,
            target: CompareTarget::Version as i32,
            key: keys.pick(op),
            target_union: Some(TargetUnion::Version(-1)),
            ..Default::default()
        }],
        success: puts,
        failure: vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_same_each_run_and_stay_in_their_space() {
        let random = Keys::random(1000);
        let picked: Vec<Bytes> = (0..100).map(|op| random.pick(op)).collect();
        assert_eq!(
            picked,
            (0..100).map(|op| random.pick(op)).collect::<Vec<_>>()
        );
        assert!(picked.iter().all(|key| key[..] < b"000003e8"[..]));
        assert_eq!(&Keys::in_order(1000).pick(1001)[..], b"00000001");
    }

    #[test]
    fn a_bounded_scan_ends_where_its_limit_does() {
        let keys = Keys::in_order(5000);
        let request = scan_request(&keys, 3, 1000, true, true);
        let number = |key: &[u8]| {
            u64::from_str_radix(std::str::from_utf8(key).expect("text"), 16).expect("a number")
        };
        assert_eq!(number(&request.range_end) - number(&request.key), 1000);
        assert_eq!(
            &scan_request(&keys, 3, 1000, false, true).range_end[..],
            b"\0"
        );
        assert_eq!(&prefix_end("a/")[..], b"a0");
    }
}
