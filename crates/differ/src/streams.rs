//! One watch stream to one server: requests go out, and everything that comes is kept.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ferrite_client::pb::watch_request::RequestUnion;
use ferrite_client::{Client, pb};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::UnboundedReceiverStream;

use crate::step::terse;

/// What has come on a stream.
#[derive(Debug, Default)]
struct Record {
    responses: Vec<pb::WatchResponse>,
    ended: Option<String>,
}

/// One thing that a watcher heard.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Heard {
    /// Created, or refused at once.
    Created(pb::WatchResponse),
    /// One event.
    Event(ferrite_proto::mvccpb::Event),
    /// The end of a message of this revision, which says whether more of it follows.
    End { revision: i64, fragment: bool },
    /// A progress notice with this revision.
    Progress(i64),
    /// Cancelled.
    Canceled(pb::WatchResponse),
    /// Not allowed in any response.
    Broken(String),
}

/// An open stream.
#[derive(Debug)]
pub(crate) struct WatchStream {
    requests: mpsc::UnboundedSender<pb::WatchRequest>,
    record: Arc<Mutex<Record>>,
    reader: JoinHandle<()>,
}

impl WatchStream {
    /// Opens a stream. The server may say nothing before it has been asked something.
    pub fn open(client: &Client) -> Self {
        let (requests, receiver) = mpsc::unbounded_channel();
        let record = Arc::new(Mutex::new(Record::default()));
        let (client, kept) = (client.clone(), Arc::clone(&record));
        let reader = tokio::spawn(async move {
            let call = client
                .watch()
                .watch(UnboundedReceiverStream::new(receiver))
                .await;
            let ended = match call {
                Ok(response) => {
                    let mut responses = response.into_inner();
                    loop {
                        match responses.message().await {
                            Ok(Some(response)) => lock(&kept).responses.push(response),
                            Ok(None) => break "the stream ended".to_owned(),
                            Err(status) => break status.to_string(),
                        }
                    }
                }
                Err(status) => status.to_string(),
            };
            lock(&kept).ended = Some(ended);
        });
        Self {
            requests,
            record,
            reader,
        }
    }

    /// Sends a request; a stream that has ended swallows it, and says so in what it heard.
    pub fn send(&self, union: RequestUnion) {
        let request = pb::WatchRequest {
            request_union: Some(union),
        };
        let _ = self.requests.send(request);
    }

    /// The n-th response to a create request, counted from 0, once it is there.
    pub fn created(&self, nth: usize) -> Option<pb::WatchResponse> {
        let record = lock(&self.record);
        record
            .responses
            .iter()
            .filter(|response| response.created)
            .nth(nth)
            .cloned()
    }

    /// How many responses this one counts.
    pub fn count(&self, counts: impl Fn(&pb::WatchResponse) -> bool) -> usize {
        lock(&self.record)
            .responses
            .iter()
            .filter(|response| counts(response))
            .count()
    }

    /// Whether the watcher has told an event of this revision or a later one, or was cancelled.
    pub fn has_told(&self, watch_id: i64, revision: i64) -> bool {
        lock(&self.record).responses.iter().any(|response| {
            response.watch_id == watch_id
                && ((response.canceled && !response.created)
                    || response.events.iter().any(|event| {
                        event
                            .kv
                            .as_ref()
                            .is_some_and(|kv| kv.mod_revision >= revision)
                    }))
        })
    }

    pub fn ended(&self) -> bool {
        lock(&self.record).ended.is_some()
    }

    /// Everything heard, by watcher. How it was packed stays in it only for watchers that are steady:
    /// those that catch up hear as much at once as there is.
    pub fn heard(&self, steady: impl Fn(i64) -> bool) -> BTreeMap<i64, Vec<Heard>> {
        let record = lock(&self.record);
        let mut by_watcher: BTreeMap<i64, Vec<Heard>> = BTreeMap::new();
        for response in &record.responses {
            // Refusals are compared where they are given; a refused watcher has no place here.
            if response.created && response.canceled {
                continue;
            }
            let heard = by_watcher.entry(response.watch_id).or_default();
            let mut plain = response.clone();
            if let Some(header) = &mut plain.header {
                crate::answer::level_header(header);
            }
            let revision = plain.header.as_ref().map_or(0, |header| header.revision);
            let events = std::mem::take(&mut plain.events);
            if response.created {
                heard.push(Heard::Created(plain));
            } else if response.canceled {
                heard.push(Heard::Canceled(plain));
            } else if events.is_empty() {
                heard.push(Heard::Progress(revision));
            }
            let any = !events.is_empty();
            for event in events {
                let at = event.kv.as_ref().map_or(0, |kv| kv.mod_revision);
                if at > revision {
                    heard.push(Heard::Broken(format!(
                        "an event of revision {at} under a header of {revision}"
                    )));
                }
                heard.push(Heard::Event(event));
            }
            if any && steady(response.watch_id) {
                let fragment = response.fragment;
                heard.push(Heard::End { revision, fragment });
            }
        }
        if let Some(ended) = &record.ended {
            by_watcher
                .entry(i64::MAX)
                .or_default()
                .push(Heard::Broken(ended.clone()));
        }
        by_watcher
    }
}

/// What was heard, a line each.
pub(crate) fn lines(stream: usize, heard: &BTreeMap<i64, Vec<Heard>>) -> Vec<String> {
    let mut lines = Vec::new();
    for (watcher, heard) in heard {
        for one in heard {
            let shown = terse(&format!("{one:?}"));
            lines.push(format!("stream {stream}, watcher {watcher}: {shown}"));
        }
    }
    lines
}

fn lock(record: &Mutex<Record>) -> MutexGuard<'_, Record> {
    record.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for WatchStream {
    fn drop(&mut self) {
        self.reader.abort();
    }
}
