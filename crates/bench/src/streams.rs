//! The workloads on streams: watch fan-out and lease keep-alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ferrite_proto::etcdserverpb as pb;
use ferrite_proto::etcdserverpb::watch_request::RequestUnion;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::client::Client;
use crate::error::{Error, Result};
use crate::procstat::Meter;
use crate::workload::{Outcome, Run, Used, closed_loop, prefix_end, put_request, value};

/// A lost event would hang the run: it is given up after this long.
const EVENTS_LATE: Duration = Duration::from_secs(30);

/// What a watch run does.
pub(crate) struct Plan {
    pub watchers: usize,
    pub streams: usize,
    pub val_size: usize,
    pub rate: f64,
}

fn gone(what: &str) -> Error {
    Error::told(format!("{what}: the stream ended early"))
}

/// Keep-alives as fast as the answers come, one lease a client.
pub(crate) async fn keep_alive(run: &Run, clients: &[Client], ttl: i64) -> Result<(Outcome, Used)> {
    let mut streams = Vec::with_capacity(clients.len());
    for client in clients {
        let mut client = client.clone();
        let lease = client.grant(pb::LeaseGrantRequest { ttl, id: 0 }).await;
        let id = lease.map_err(Error::call("granting a lease"))?.id;
        let (tx, rx) = tokio::sync::mpsc::channel(1);
        // The server answers the call only when it has a message to send.
        let first = tx.send(pb::LeaseKeepAliveRequest { id }).await;
        first.map_err(|_| gone("keep-alive"))?;
        let responses = client.keep_alive(ReceiverStream::new(rx)).await;
        let mut responses = responses.map_err(Error::call("opening a keep-alive stream"))?;
        let answer = responses.message().await;
        answer.map_err(Error::call("keeping a lease alive"))?;
        streams.push((id, tx, responses));
    }
    let meter = Meter::start(&run.pids)?;
    let next = Arc::new(AtomicU64::new(0));
    let (started, total) = (Instant::now(), run.total);
    let tasks: Vec<_> = streams
        .into_iter()
        .map(|(id, tx, mut responses)| {
            let next = next.clone();
            tokio::spawn(async move {
                let mut out = Outcome::default();
                while next.fetch_add(1, Ordering::Relaxed) < total {
                    let t = Instant::now();
                    if tx.send(pb::LeaseKeepAliveRequest { id }).await.is_err() {
                        out.failed(&Status::unavailable("stream closed"));
                        break;
                    }
                    match responses.message().await {
                        Ok(Some(r)) if r.ttl > 0 => {
                            out.latencies.push(t.elapsed().as_nanos() as u64);
                        }
                        Ok(_) => out.failed(&Status::internal("lease gone or stream ended")),
                        Err(status) => {
                            out.failed(&status);
                            break;
                        }
                    }
                }
                out
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
    Ok((all, meter.stop()?))
}

/// What the putters and the watchers share; a put's number is in its value.
struct Fan {
    epoch: Instant,
    sent: Vec<AtomicU64>,
    missing: Vec<AtomicU32>,
    done: Vec<AtomicU64>,
    warmup: u64,
}

impl Fan {
    fn now(&self) -> u64 {
        self.epoch.elapsed().as_nanos() as u64
    }

    /// Notes that one watcher saw put `n`; its latency, if the put counts.
    fn saw(&self, n: u64, now: u64) -> Option<u64> {
        let at = usize::try_from(n).ok()?;
        let sent = self.sent.get(at)?.load(Ordering::Relaxed);
        if self.missing.get(at)?.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.done.get(at)?.store(now, Ordering::Relaxed);
        }
        (n >= self.warmup).then(|| now.saturating_sub(sent))
    }
}

/// Watchers of a prefix, created, on one stream.
pub(crate) async fn open_watchers(
    client: &mut Client,
    prefix: &str,
    count: usize,
) -> Result<(
    tokio::sync::mpsc::Sender<pb::WatchRequest>,
    tonic::Streaming<pb::WatchResponse>,
)> {
    let (tx, rx) = tokio::sync::mpsc::channel(count.max(1));
    for _ in 0..count {
        let create = pb::WatchCreateRequest {
            key: prefix.to_owned().into(),
            range_end: prefix_end(prefix),
            ..Default::default()
        };
        tx.send(pb::WatchRequest {
            request_union: Some(RequestUnion::CreateRequest(create)),
        })
        .await
        .map_err(|_| gone("watch"))?;
    }
    let responses = client.watch(ReceiverStream::new(rx)).await;
    let mut responses = responses.map_err(Error::call("opening a watch stream"))?;
    let mut created = 0;
    while created < count {
        match responses
            .message()
            .await
            .map_err(Error::call("creating a watch"))?
        {
            Some(r) if r.canceled => {
                return Err(Error::told(format!("watch {} was cancelled", r.watch_id)));
            }
            Some(r) => created += usize::from(r.created),
            None => return Err(gone("watch")),
        }
    }
    Ok((tx, responses))
}

/// Watchers on one prefix, and puts under it. An operation here is an event delivered to a watcher.
pub(crate) async fn watch(
    run: &Run,
    connections: &[Client],
    clients: &[Client],
    plan: &Plan,
) -> Result<(Outcome, Used)> {
    let prefix = format!("watch-{}/", std::process::id());
    let puts = run.warmup + run.total;
    let fan = Arc::new(Fan {
        epoch: Instant::now(),
        sent: (0..puts).map(|_| AtomicU64::new(0)).collect(),
        missing: (0..puts)
            .map(|_| AtomicU32::new(plan.watchers as u32))
            .collect(),
        done: (0..puts).map(|_| AtomicU64::new(0)).collect(),
        warmup: run.warmup,
    });
    let streams = plan.streams.clamp(1, plan.watchers.max(1));
    let mut tasks = Vec::new();
    for s in 0..streams {
        let mine = plan.watchers / streams + usize::from(s < plan.watchers % streams);
        let mut client = connections[s % connections.len()].clone();
        let (tx, mut responses) = open_watchers(&mut client, &prefix, mine).await?;
        let fan = fan.clone();
        tasks.push(tokio::spawn(async move {
            let _open = tx;
            let mut out = Outcome::default();
            let mut left = mine as u64 * puts;
            while left > 0 {
                let response = match responses.message().await {
                    Ok(Some(r)) => r,
                    Ok(None) => break,
                    Err(status) => {
                        out.failed(&status);
                        break;
                    }
                };
                let now = fan.now();
                for event in response.events {
                    left = left.saturating_sub(1);
                    let value = event.kv.unwrap_or_default().value;
                    let number = value.first_chunk::<8>().map(|b| u64::from_be_bytes(*b));
                    out.latencies.extend(number.and_then(|n| fan.saw(n, now)));
                }
            }
            out
        }));
    }

    let value = value(plan.val_size.max(8));
    let pace = (plan.rate > 0.0).then(|| Duration::from_secs_f64(1.0 / plan.rate));
    let op = {
        let (fan, prefix) = (fan.clone(), prefix.clone());
        let begun = Instant::now();
        move |mut c: Client, n: u64| {
            let (fan, prefix, value) = (fan.clone(), prefix.clone(), value.clone());
            async move {
                if let Some(gap) = pace {
                    let due = begun + gap.mul_f64(n as f64);
                    tokio::time::sleep_until(due.into()).await;
                }
                let mut body = value.to_vec();
                body[..8].copy_from_slice(&n.to_be_bytes());
                let req = put_request(format!("{prefix}{:08x}", n % 1000).into(), &body.into());
                fan.sent[n as usize].store(fan.now(), Ordering::Relaxed);
                let r = c.put(req).await.map(drop);
                (c, r)
            }
        }
    };
    let mut all = closed_loop(clients, 0, run.warmup, op.clone()).await;
    let meter = Meter::start(&run.pids)?;
    let started = Instant::now();
    let mut measured = closed_loop(clients, run.warmup, run.total, op).await;
    measured.latencies.clear();
    all.latencies.clear();
    all.absorb(measured);
    for task in tasks {
        match tokio::time::timeout(EVENTS_LATE, task).await {
            Ok(Ok(one)) => all.absorb(one),
            Ok(Err(why)) => all.failed(&Status::internal(why.to_string())),
            Err(_) => all.failed(&Status::deadline_exceeded("events missing after 30 s")),
        }
    }
    all.seconds = started.elapsed().as_secs_f64();
    all.ops = all.latencies.len() as u64;
    all.fan_out = (run.warmup as usize..puts as usize)
        .filter_map(|n| {
            let done = fan.done[n].load(Ordering::Relaxed);
            (done > 0).then(|| done.saturating_sub(fan.sent[n].load(Ordering::Relaxed)))
        })
        .collect();
    Ok((all, meter.stop()?))
}
