//! Watchers, with writes between them.

use ferrite_client::pb;

use super::{Maker, next_prefix};
use crate::revision::{compacted, now, start};
use crate::step::{Call, Step};

/// Streams that a sequence has, at most.
pub(super) const STREAMS: usize = 3;

impl Maker {
    pub(super) fn watch(&mut self) -> Call {
        let stream = self.rng.below(STREAMS);
        match self.rng.weighted(&[55, 12, 6, 3, 10]) {
            0 => Call::Watch {
                stream,
                create: self.watcher(),
            },
            1 => Call::CancelWatch {
                stream,
                watch_id: self.rng.pick(&[0, 1, 2, 5, 99, -1]),
            },
            2 => Call::Progress { stream },
            3 => Call::CloseStream { stream },
            _ => Call::Sync,
        }
    }

    /// Values so large that what one transaction does to them is too much for one message.
    pub(super) fn large_and_watched(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        let (first, last) = (self.prefix.clone(), next_prefix(&self.prefix));
        let whole = |maker: &mut Self, start_revision| Call::Watch {
            stream: maker.rng.below(STREAMS),
            create: pb::WatchCreateRequest {
                key: first.clone().into(),
                range_end: last.clone().into(),
                start_revision,
                prev_kv: maker.rng.percent(80),
                fragment: maker.rng.percent(80),
                ..Default::default()
            },
        };
        let mut calls = vec![whole(self, 0), whole(self, 0)];
        for key in 0..self.rng.between(10, 16) {
            let bytes = usize::try_from(self.rng.between(40_000, 65_000)).unwrap_or(0);
            calls.push(Call::Put(pb::PutRequest {
                key: [&first[..], b"v", key.to_string().as_bytes()]
                    .concat()
                    .into(),
                value: vec![b'v'; bytes].into(),
                ..Default::default()
            }));
        }
        let range = self.range();
        calls.push(Call::Streamed(pb::RangeRequest {
            key: first.clone().into(),
            range_end: last.clone().into(),
            ..range
        }));
        if self.rng.percent(50) {
            let from = start(self.rng.between(0, 8));
            calls.push(whole(self, from));
        }
        calls.push(Call::DeleteRange(pb::DeleteRangeRequest {
            key: first.clone().into(),
            range_end: last.clone().into(),
            ..Default::default()
        }));
        let from = start(self.rng.between(0, 8));
        calls.push(whole(self, from));
        calls.push(Call::Sync);
        for call in calls {
            steps.push(self.by_anyone(call));
        }
        steps
    }

    fn watcher(&mut self) -> pb::WatchCreateRequest {
        let (key, range_end) = match self.rng.percent(95) {
            true => self.range_of_keys(),
            false => (bytes::Bytes::new(), self.key()),
        };
        let start_revision = match self.rng.weighted(&[40, 20, 12, 12, 12, 4]) {
            0 => 0,
            1 => start(self.rng.between(0, 8)),
            2 => now(-self.rng.between(0, 6)),
            3 => now(self.rng.between(1, 6)),
            4 => compacted(self.rng.between(-1, 2)),
            _ => self.rng.pick(&[-1, i64::MIN, 1]),
        };
        let filters: &[i32] = match self.rng.weighted(&[70, 10, 10, 3, 3]) {
            0 => &[],
            1 => &[0],
            2 => &[1],
            3 => &[0, 1],
            _ => &[7, 0, 0],
        };
        pb::WatchCreateRequest {
            key,
            range_end,
            // Who tells nothing cannot tell that it has caught up.
            start_revision: if filters == [0, 1] { 0 } else { start_revision },
            progress_notify: self.rng.percent(10),
            filters: filters.to_vec(),
            prev_kv: self.rng.percent(40),
            watch_id: self.rng.pick(&[0, 0, 0, 0, 1, 2, 5, -7]),
            fragment: self.rng.percent(20),
        }
    }
}
