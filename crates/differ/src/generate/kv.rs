//! Calls of the KV service.

use ferrite_client::pb;
use ferrite_client::pb::compare::TargetUnion;
use ferrite_client::pb::request_op::Request;

use super::{Maker, next_prefix};
use crate::revision::{compacted, now};
use crate::side::REQUEST_BYTES_MAX;
use crate::step::Call;

/// Transactions nest this deep, and no deeper.
const DEEPEST: usize = 3;

/// One in this many requests is far too large.
const LARGE_ONE_IN: usize = 400;

impl Maker {
    /// A call, without what 3.5.1 judges nobody's right to (AU-13): nested transactions, and previous
    /// values and leases of puts inside of one.
    pub(super) fn flat_kv(&mut self) -> Call {
        match self.rng.weighted(&[30, 28, 12, 30]) {
            0 => self.plain_or_streamed(),
            1 => Call::Put(self.put()),
            2 => Call::DeleteRange(self.delete()),
            _ => {
                let mut txn = self.txn(DEEPEST);
                for op in txn.success.iter_mut().chain(&mut txn.failure) {
                    if let Some(Request::RequestPut(put)) = &mut op.request {
                        (put.prev_kv, put.lease) = (false, 0);
                    }
                }
                if deletes_openly(&txn) {
                    ignore_nothing(&mut txn);
                }
                Call::Txn(txn)
            }
        }
    }

    pub(super) fn kv(&mut self) -> Call {
        if self.rng.below(LARGE_ONE_IN) == 0 {
            return self.large();
        }
        match self.rng.weighted(&[30, 28, 12, 30]) {
            0 => self.plain_or_streamed(),
            1 => Call::Put(self.put()),
            2 => Call::DeleteRange(self.delete()),
            _ => {
                let mut txn = self.txn(0);
                if deletes_openly(&txn) {
                    ignore_nothing(&mut txn);
                }
                Call::Txn(txn)
            }
        }
    }

    fn plain_or_streamed(&mut self) -> Call {
        let request = self.range();
        if self.rng.percent(75) {
            return Call::Range(request);
        }
        // Most of what a range can ask for is refused to a stream, and most ranges are short.
        if self.rng.percent(30) {
            return Call::Streamed(request);
        }
        let (first, last) = match self.rng.percent(70) {
            true => (self.prefix.clone(), next_prefix(&self.prefix)),
            false => (vec![0], vec![0]),
        };
        Call::Streamed(pb::RangeRequest {
            key: first.into(),
            range_end: last.into(),
            limit: self.rng.pick(&[0, 0, 1, 2, 3, 11, -1]),
            revision: request.revision,
            serializable: request.serializable,
            keys_only: request.keys_only,
            count_only: request.count_only,
            ..Default::default()
        })
    }

    pub(super) fn compact(&mut self) -> Call {
        let revision = match self.rng.weighted(&[50, 20, 10, 10, 5, 5]) {
            0 => now(-self.rng.between(0, 12)),
            1 => now(0),
            2 => compacted(self.rng.between(-1, 1)),
            3 => now(self.rng.between(1, 2)),
            4 => 0,
            _ => -1,
        };
        Call::Compact(pb::CompactionRequest {
            revision,
            physical: self.rng.percent(50),
        })
    }

    /// Above what a request may have, and above what a message may have.
    fn large(&mut self) -> Call {
        let bytes = self.rng.pick(&[
            REQUEST_BYTES_MAX,
            REQUEST_BYTES_MAX + 500,
            REQUEST_BYTES_MAX + (512 << 10) + 50,
        ]);
        Call::Put(pb::PutRequest {
            key: self.some_key(),
            value: vec![b'x'; bytes].into(),
            ..Default::default()
        })
    }

    pub(super) fn range(&mut self) -> pb::RangeRequest {
        let (key, range_end) = self.range_of_keys();
        let mut request = pb::RangeRequest {
            key,
            range_end,
            serializable: self.rng.percent(20),
            keys_only: self.rng.percent(15),
            count_only: self.rng.percent(10),
            ..Default::default()
        };
        if self.rng.percent(30) {
            request.limit = self.rng.pick(&[1, 2, 3, 5, -1, 1000]);
        }
        if self.rng.percent(35) {
            request.revision = self.revision();
        }
        if self.rng.percent(35) {
            // Not those that there are not: 3.5.1 ends by them.
            request.sort_order = self.rng.pick(&[0, 1, 2]);
            request.sort_target = self.rng.pick(&[0, 1, 2, 3, 4]);
        }
        if self.rng.percent(20) {
            for field in [
                &mut request.min_mod_revision,
                &mut request.max_mod_revision,
                &mut request.min_create_revision,
                &mut request.max_create_revision,
            ] {
                if self.rng.percent(40) {
                    *field = match self.rng.percent(80) {
                        true => now(-self.rng.between(0, 8)),
                        false => self.rng.between(-1, 2),
                    };
                }
            }
        }
        request
    }

    fn put(&mut self) -> pb::PutRequest {
        let mut request = pb::PutRequest {
            key: self.key(),
            value: self.value(),
            lease: self.lease_id(),
            prev_kv: self.rng.percent(30),
            ..Default::default()
        };
        if self.rng.percent(12) {
            request.ignore_value = true;
            if self.rng.percent(80) {
                request.value.clear();
            }
        }
        if self.rng.percent(12) {
            request.ignore_lease = true;
            if self.rng.percent(80) {
                request.lease = 0;
            }
        }
        request
    }

    fn value(&mut self) -> bytes::Bytes {
        match self.rng.weighted(&[60, 30, 8, 2]) {
            0 => self.rng.number().to_string().into(),
            1 => self.rng.below(3).to_string().into(),
            2 => bytes::Bytes::new(),
            _ => vec![0xff; 2_000].into(),
        }
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        let (key, range_end) = self.range_of_keys();
        pb::DeleteRangeRequest {
            key,
            range_end,
            prev_kv: self.rng.percent(40),
        }
    }

    fn txn(&mut self, depth: usize) -> pb::TxnRequest {
        let compare = (0..self.rng.weighted(&[30, 45, 20, 5]))
            .map(|_| self.compare())
            .collect();
        let mut request = pb::TxnRequest {
            compare,
            success: self.ops(depth),
            failure: self.ops(depth),
        };
        if self.rng.percent(2) {
            // around the limit of 128, counted with what stands above
            let many = self.rng.pick(&[126, 127, 128, 129]);
            let filled: Vec<pb::RequestOp> = (0..many)
                .map(|n| {
                    op(Request::RequestPut(pb::PutRequest {
                        key: [&self.prefix[..], b"n", n.to_string().as_bytes()]
                            .concat()
                            .into(),
                        ..Default::default()
                    }))
                })
                .collect();
            match self.rng.percent(70) {
                true => request.success = filled,
                false => request.failure = filled,
            }
        }
        request
    }

    fn ops(&mut self, depth: usize) -> Vec<pb::RequestOp> {
        let count = self.rng.weighted(&[20, 35, 25, 15, 5]);
        (0..count).map(|_| self.op(depth)).collect()
    }

    fn op(&mut self, depth: usize) -> pb::RequestOp {
        let nested = match depth {
            0 => 12,
            1 => 20,
            2 => 10,
            DEEPEST.. => 0,
        };
        match self.rng.weighted(&[35, 40, 14, nested, 1]) {
            0 => op(Request::RequestRange(self.range())),
            1 => op(Request::RequestPut(self.put())),
            2 => op(Request::RequestDeleteRange(self.delete())),
            3 => op(Request::RequestTxn(self.txn(depth + 1))),
            _ => pb::RequestOp { request: None },
        }
    }

    fn compare(&mut self) -> pb::Compare {
        let (key, range_end) = match self.rng.percent(75) {
            true => (self.key(), bytes::Bytes::new()),
            false => self.range_of_keys(),
        };
        let target = self.rng.below(5);
        // Now and then the value is not the one that the target asks for.
        let filled = match self.rng.percent(95) {
            true => target,
            false => self.rng.below(6),
        };
        let target_union = match filled {
            0 => Some(TargetUnion::Version(self.rng.between(0, 3))),
            1 => Some(TargetUnion::CreateRevision(self.compared_revision())),
            2 => Some(TargetUnion::ModRevision(self.compared_revision())),
            3 => Some(TargetUnion::Value(self.value())),
            4 => Some(TargetUnion::Lease(self.lease_id())),
            _ => None,
        };
        pb::Compare {
            result: match self.rng.percent(99) {
                true => self.rng.pick(&[0, 0, 1, 2, 3]),
                false => self.rng.pick(&[4, -1]),
            },
            target: match self.rng.percent(99) {
                true => i32::try_from(target).unwrap_or(0),
                false => self.rng.pick(&[5, -1]),
            },
            key,
            range_end,
            target_union,
        }
    }

    fn compared_revision(&mut self) -> i64 {
        match self.rng.percent(50) {
            true => 0,
            false => self.revision(),
        }
    }
}

/// Whether it deletes up to the open end. The check for double writes does not see that (KV-19), and the
/// original ends by a put that wants to keep what the same transaction has just deleted.
fn deletes_openly(txn: &pb::TxnRequest) -> bool {
    txn.success
        .iter()
        .chain(&txn.failure)
        .any(|op| match &op.request {
            Some(Request::RequestDeleteRange(delete)) => delete.range_end[..] == [0],
            Some(Request::RequestTxn(txn)) => deletes_openly(txn),
            _ => false,
        })
}

fn ignore_nothing(txn: &mut pb::TxnRequest) {
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(Request::RequestPut(put)) => {
                (put.ignore_value, put.ignore_lease) = (false, false);
            }
            Some(Request::RequestTxn(txn)) => ignore_nothing(txn),
            _ => {}
        }
    }
}

fn op(request: Request) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}
