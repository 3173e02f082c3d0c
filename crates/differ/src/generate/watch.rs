//! Watchers, with writes between them.

use ferrite_client::pb;

use super::Maker;
use crate::revision::{compacted, now, start};
use crate::step::Call;

/// Streams that a sequence has, at most.
const STREAMS: usize = 3;

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
