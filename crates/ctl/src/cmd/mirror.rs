//! `make-mirror`: copies the keys under a prefix to another cluster, and then every change of them, one
//! revision at a time. A destination that is away for a while is waited for: what is copied is the same
//! however often it is written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use ferrite_client::pb::{self, request_op::Request};
use ferrite_client::{Client, Code, Status, Watcher, describe};
use ferrite_proto::mvccpb::{Event, event::EventType};

use super::{Words, kv::prefix_end, text};
use crate::concurrency::next_events;
use crate::exit::Failure;
use crate::report;
use crate::session::Session;
use ferrite_cli::flags::Values;
use ferrite_cli::progress::{Progress, Unit};

/// How often the count is printed.
const COUNT_EVERY: Duration = Duration::from_secs(30);
/// How often a terminal is told.
const SHOW_EVERY: Duration = Duration::from_millis(250);
/// Keys read at once.
const PAGE: i64 = 1000;
/// Pauses between attempts to write to a destination that is away.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What to copy, and where to.
#[derive(Debug)]
pub struct Plan {
    destination: String,
    prefix: Bytes,
    new_prefix: Bytes,
    revision: i64,
    ops_max: usize,
}

/// Understands the arguments.
pub fn plan(values: &Values, words: &Words) -> Result<Plan, Failure> {
    let [destination] = words else {
        return Err(Failure::args("make-mirror takes one destination argument"));
    };
    let (prefix, dest) = (values.text("prefix"), values.text("dest-prefix"));
    let none = values.bool("no-dest-prefix");
    if none && !dest.is_empty() {
        return Err(Failure::args(
            "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one",
        ));
    }
    let new_prefix = if none {
        String::new()
    } else if dest.is_empty() {
        prefix.clone()
    } else {
        dest
    };
    let ops_max = usize::try_from(values.uint("max-txn-ops")).unwrap_or(usize::MAX);
    Ok(Plan {
        destination: text(destination),
        prefix: prefix.into(),
        new_prefix: new_prefix.into(),
        revision: values.int("rev"),
        ops_max: ops_max.max(1),
    })
}

/// `make-mirror`. It ends only when it cannot go on.
pub async fn run(session: &Session, plan: Plan) -> Result<(), Failure> {
    let destination = session.destination(&plan.destination).await?;
    let source = session.patient_client().await?;
    let mirror = Mirror {
        source,
        destination,
        plan,
        total: Arc::new(AtomicU64::new(0)),
    };
    let total = Arc::clone(&mirror.total);
    tokio::select! {
        result = mirror.run() => result,
        never = count(&total, COUNT_EVERY, |total| report::line(&total.to_string())) => match never {},
        never = show(&total) => match never {},
    }
}

async fn count(
    total: &AtomicU64,
    every: Duration,
    mut tell: impl FnMut(u64),
) -> std::convert::Infallible {
    loop {
        tokio::time::sleep(every).await;
        tell(total.load(Ordering::Relaxed));
    }
}

/// Keeps a terminal up to date between the counts.
async fn show(total: &AtomicU64) -> std::convert::Infallible {
    let mut progress = Progress::new("keys mirrored", Unit::Count, None);
    loop {
        progress.set(total.load(Ordering::Relaxed));
        tokio::time::sleep(SHOW_EVERY).await;
    }
}

struct Mirror {
    source: Client,
    destination: Client,
    plan: Plan,
    total: Arc<AtomicU64>,
}

impl Mirror {
    async fn run(&self) -> Result<(), Failure> {
        let mut revision = (self.plan.revision - 1).max(0);
        if revision == 0 {
            revision = self.copy_all().await?;
        }
        let mut watcher = Watcher::new(self.source.clone(), false);
        let (key, range_end) = self.range();
        watcher.add(pb::WatchCreateRequest {
            key,
            range_end,
            start_revision: revision + 1,
            ..Default::default()
        });
        loop {
            let response = next_events(&mut watcher).await?;
            for batch in batches(&response.events, self.plan.ops_max) {
                let ops = batch.iter().filter_map(|event| self.op(event)).collect();
                self.write(ops).await?;
            }
        }
    }

    fn range(&self) -> (Bytes, Bytes) {
        let prefix = &self.plan.prefix;
        if prefix.is_empty() {
            return (Bytes::from_static(b"\0"), Bytes::from_static(b"\0"));
        }
        (prefix.clone(), prefix_end(prefix))
    }

    /// Copies what there is; the revision it was copied as of.
    async fn copy_all(&self) -> Result<i64, Failure> {
        let (mut key, range_end) = self.range();
        let mut revision = 0;
        loop {
            let request = pb::RangeRequest {
                key,
                range_end: range_end.clone(),
                limit: PAGE,
                revision,
                ..Default::default()
            };
            let page = self.source.kv().range(request).await?.into_inner();
            if revision == 0 {
                revision = page.header.as_ref().map_or(0, |h| h.revision);
            }
            for pair in &page.kvs {
                let op = put(self.renamed(&pair.key), pair.value.clone());
                self.write(vec![op]).await?;
            }
            match page.kvs.last() {
                Some(last) if page.more => key = [&last.key[..], b"\0"].concat().into(),
                _ => return Ok(revision),
            }
        }
    }

    fn renamed(&self, key: &Bytes) -> Bytes {
        match key.strip_prefix(&self.plan.prefix[..]) {
            Some(rest) => [&self.plan.new_prefix, rest].concat().into(),
            None => key.clone(),
        }
    }

    fn op(&self, event: &Event) -> Option<Request> {
        let pair = event.kv.as_ref()?;
        let key = self.renamed(&pair.key);
        Some(match event.r#type() {
            EventType::Put => put(key, pair.value.clone()),
            EventType::Delete => Request::RequestDeleteRange(pb::DeleteRangeRequest {
                key,
                ..Default::default()
            }),
        })
    }

    /// Writes to the destination, again and again while it is away.
    async fn write(&self, ops: Vec<Request>) -> Result<(), Failure> {
        let count = ops.len() as u64;
        let success = ops
            .into_iter()
            .map(|request| pb::RequestOp {
                request: Some(request),
            })
            .collect();
        let request = pb::TxnRequest {
            success,
            ..Default::default()
        };
        let mut pause = RETRY_MIN;
        while let Err(status) = self.destination.kv().txn(request.clone()).await {
            if !passes(&status) {
                return Err(status.into());
            }
            report::log(
                "warn",
                "the destination did not take a change; trying again",
                &[("error", &describe(&status))],
            );
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
        self.total.fetch_add(count, Ordering::Relaxed);
        Ok(())
    }
}

fn put(key: Bytes, value: Bytes) -> Request {
    Request::RequestPut(pb::PutRequest {
        key,
        value,
        ..Default::default()
    })
}

fn passes(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded)
}

/// Events in pieces: what happened at one revision stays together as far as a transaction may hold it.
fn batches(events: &[Event], ops_max: usize) -> impl Iterator<Item = &[Event]> {
    let revision = |event: &Event| event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
    events
        .chunk_by(move |a, b| revision(a) == revision(b))
        .flat_map(move |one| one.chunks(ops_max))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrite_proto::mvccpb::KeyValue;

    #[test]
    fn a_transaction_holds_one_revision_and_no_more_than_it_may() {
        let at = |mod_revision| Event {
            kv: Some(KeyValue {
                mod_revision,
                ..Default::default()
            }),
            ..Default::default()
        };
        let events = [at(2), at(2), at(2), at(3), at(4), at(4)];
        let sizes: Vec<usize> = batches(&events, 2).map(<[Event]>::len).collect();
        assert_eq!(sizes, [2, 1, 1, 2]);
    }

    #[tokio::test]
    async fn the_running_count_is_told_again_and_again() {
        let total = AtomicU64::new(5);
        let (told, mut counts) = tokio::sync::mpsc::unbounded_channel();
        let counting = count(&total, Duration::from_millis(1), |n| {
            // The test may have seen enough.
            let _ = told.send(n);
        });
        let looking = async {
            assert_eq!(counts.recv().await, Some(5));
            total.store(7, Ordering::Relaxed);
            while counts.recv().await != Some(7) {}
        };
        tokio::select! {
            never = counting => match never {},
            () = looking => {}
        }
    }
}
