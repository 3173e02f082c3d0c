//! One watch of a member, for all who share it. It outlives its stream (`lines`): where that breaks, it goes on
//! by another, right behind what was delivered. Nothing is missed, nothing comes twice.

use std::sync::Arc;
use std::time::Duration;

use ferrite_client::{Code, describe, pb};
use tonic::Status;

use super::Shared;
use super::groups::{Number, Range, is_progress};
use crate::call::Caller;

/// Pauses before another stream; they grow.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// How a stream ended.
enum Ended {
    /// The member will not have this watch, or ended it.
    ForGood,
    /// It will not have it for this caller.
    Refused(String),
    /// By chance.
    Broken,
}

/// Whether no other stream would fare better.
fn is_final(status: &Status) -> bool {
    !matches!(status.code(), Code::Unavailable | Code::Internal)
}

/// Serves a broadcast until nobody is left.
pub(super) async fn run(shared: Arc<Shared>, range: Range, number: Number) {
    let mut place = Place {
        shared: &shared,
        range: &range,
        number,
        next: None,
        made: false,
    };
    let mut pause = PAUSE_MIN;
    while let Some(caller) = shared.groups.caller(&range, number) {
        match place.stream(&caller).await {
            Ended::ForGood => return,
            Ended::Refused(reason) => shared.groups.refuse(&range, number, &caller, &reason),
            Ended::Broken => {
                tokio::time::sleep(pause).await;
                pause = match place.made {
                    true => PAUSE_MIN,
                    false => (pause * 2).min(PAUSE_MAX),
                };
            }
        }
    }
}

/// Where the watch stands.
struct Place<'a> {
    shared: &'a Shared,
    range: &'a Range,
    number: Number,
    /// The revision that is expected next, once it is known.
    next: Option<i64>,
    /// Whoever shares it was told that it is made.
    made: bool,
}

impl Place<'_> {
    async fn stream(&mut self, caller: &Caller) -> Ended {
        let names = &self.shared.namespace;
        let start = match self.next {
            Some(next) => next,
            None => self.shared.groups.start(self.range, self.number),
        };
        let create = pb::WatchCreateRequest {
            key: names.key(&self.range.0),
            range_end: names.end(&self.range.1),
            start_revision: start,
            progress_notify: true,
            // Whoever shares it may want it.
            prev_kv: true,
            ..Default::default()
        };
        let mut line = self.shared.lines.join(caller, create);
        loop {
            match line.next().await {
                Ok(Some(response)) => {
                    if let Some(ended) = self.take(response, start) {
                        return ended;
                    }
                }
                Ok(None) => return Ended::Broken,
                Err(status) => return ended(&status),
            }
        }
    }

    fn take(&mut self, mut response: pb::WatchResponse, start: i64) -> Option<Ended> {
        let revision = response.header.as_ref().map_or(0, |header| header.revision);
        if response.created && response.canceled {
            return Some(Ended::Refused(response.cancel_reason));
        }
        let last = response.events.last().and_then(|event| event.kv.as_ref());
        let next = match last {
            Some(pair) => pair.mod_revision + 1,
            // A watch of the past is not there yet when it is made.
            None if response.created && start > 0 => start,
            None if response.created || is_progress(&response) => revision + 1,
            None => self.next.unwrap_or(start),
        };
        let next = next.max(self.next.unwrap_or(0));
        self.next = Some(next);
        for event in &mut response.events {
            self.shared.namespace.event(event);
        }
        // Of a stream that took the place of another nobody wants to know.
        if !(response.created && self.made) {
            let (groups, range) = (&self.shared.groups, self.range);
            groups.deliver(range, self.number, &response, next);
        }
        self.made |= response.created;
        response.canceled.then_some(Ended::ForGood)
    }
}

fn ended(status: &Status) -> Ended {
    match is_final(status) {
        true => Ended::Refused(describe(status)),
        false => Ended::Broken,
    }
}
