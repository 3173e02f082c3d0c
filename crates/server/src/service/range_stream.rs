//! `KV.RangeStream`: a range of any size in messages of a size that stays about the same.
//!
//! A piece is read when the client takes it, and not before: a client that reads slowly costs the
//! pieces that are on their way. All pieces are of one revision, that of the first.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll};
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use ferrite_mvcc::{RequestError, kv};
use ferrite_proto::etcdserverpb::{RangeRequest, RangeResponse, RangeStreamResponse};
use prost::Message as _;
use tokio_stream::Stream;
use tonic::Status;

use super::Context;
use super::access::ReadRight;
use crate::errors;

/// Keys of the first piece: nothing is known of their size yet.
const FIRST_LIMIT: i64 = 10;
/// A piece of this many times the wished size is followed by one of half as many keys, and ends there.
const SIZE_SPREAD: usize = 2;

/// Ends with the stream's error once the member has been without a leader for too long.
pub type LeaderLost = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The answers to one call.
pub struct Pieces {
    context: Context,
    request: RangeRequest,
    /// Looked at once more at the end, and gone then.
    right: Option<ReadRight>,
    /// Keys wanted in all.
    wanted: i64,
    returned: i64,
    /// The store's revision when the first piece was read.
    revision: Option<i64>,
    /// What a piece should weigh, in bytes.
    target: usize,
    done: bool,
    /// A piece was read: others on this thread come first now.
    rest: bool,
    leader_lost: Option<LeaderLost>,
}

impl Pieces {
    /// Answers to a request that was checked. `leader_lost` is for a client that requires a leader.
    pub fn new(
        context: Context,
        request: RangeRequest,
        right: ReadRight,
        leader_lost: Option<LeaderLost>,
    ) -> Self {
        let wanted = match request.limit {
            limit if limit > 0 => limit,
            _ => i64::MAX,
        };
        let target = context.node.config().max_request_bytes;
        Pieces {
            request: RangeRequest {
                limit: FIRST_LIMIT.min(wanted),
                ..request
            },
            context,
            right: Some(right),
            wanted,
            returned: 0,
            revision: None,
            target,
            done: false,
            rest: false,
            leader_lost,
        }
    }

    fn count(&mut self) -> Result<RangeResponse, RequestError> {
        self.done = true;
        let counted = kv::range_chunk(self.context.node.store(), &self.request, 0)?;
        Ok(RangeResponse {
            header: self.context.complete(counted.header),
            count: counted.count,
            ..RangeResponse::default()
        })
    }

    fn piece(&mut self) -> Result<RangeResponse, RequestError> {
        let store = self.context.node.store();
        let bytes_max = self.target.saturating_mul(SIZE_SPREAD);
        let found = kv::range_chunk(store, &self.request, bytes_max)?;
        let size = found.encoded_len();
        let now = found.header.map_or(0, |header| header.revision);
        let revision = *self.revision.get_or_insert(now);
        if self.request.revision <= 0 {
            self.request.revision = revision;
        }
        self.returned += i64::try_from(found.kvs.len()).unwrap_or(i64::MAX);
        let next = found.kvs.last().filter(|_| found.more);
        let next = next.map(|last| after(&last.key));
        let mut piece = RangeResponse {
            kvs: found.kvs,
            ..RangeResponse::default()
        };
        match next {
            Some(next) if self.returned < self.wanted => {
                self.request.key = next;
                self.request.limit = next_limit(self.request.limit, size, self.target)
                    .min(self.wanted - self.returned);
            }
            next => {
                self.done = true;
                piece.header = Some(self.context.header(revision));
                piece.count = self.returned;
                if let Some(next) = next {
                    let revision = self.request.revision;
                    let beyond = kv::count(store, &next, &self.request.range_end, revision)?;
                    piece.count += beyond;
                    // a piece that its bytes ended does not know whether it was the last; one in
                    // another order does not know what its last key stands before
                    piece.more = beyond > 0 || self.request.sort_target != 0;
                }
            }
        }
        Ok(piece)
    }
}

/// The first key behind this one.
pub fn after(key: &[u8]) -> Bytes {
    let mut next = BytesMut::with_capacity(key.len() + 1);
    next.put_slice(key);
    next.put_u8(0);
    next.freeze()
}

/// Keys of the next piece: doubled or halved if the last one was far from the target, at least one.
fn next_limit(last: i64, size: usize, target: usize) -> i64 {
    let next = if size < target / SIZE_SPREAD {
        last.saturating_mul(2)
    } else if size > target.saturating_mul(SIZE_SPREAD) {
        last / 2
    } else {
        last
    };
    next.max(1)
}

impl Stream for Pieces {
    type Item = Result<RangeStreamResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        if self.done {
            let kept = self
                .right
                .take()
                .map(|right| right.still_holds(&self.context));
            return Poll::Ready(kept.and_then(Result::err).map(Err));
        }
        if let Some(lost) = &mut self.leader_lost
            && lost.as_mut().poll(cx).is_ready()
        {
            self.done = true;
            self.right = None;
            return Poll::Ready(Some(Err(errors::no_leader())));
        }
        if std::mem::take(&mut self.rest) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.rest = true;
        let started = Instant::now();
        let piece = if self.request.count_only {
            self.count()
        } else {
            self.piece()
        };
        let metrics = self.context.node.metrics();
        metrics.observe_range(piece.is_ok(), started.elapsed());
        Poll::Ready(Some(match piece {
            Ok(piece) => Ok(RangeStreamResponse {
                range_response: Some(piece),
            }),
            Err(error) => {
                self.done = true;
                let kept = self
                    .right
                    .take()
                    .map(|right| right.still_holds(&self.context));
                Err(kept
                    .and_then(Result::err)
                    .unwrap_or_else(|| errors::request(&error)))
            }
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::next_limit;

    #[test]
    fn pieces_grow_and_shrink_towards_the_target() {
        assert_eq!(next_limit(10, 499, 1_000), 20);
        assert_eq!(next_limit(10, 500, 1_000), 10);
        assert_eq!(next_limit(10, 2_000, 1_000), 10);
        assert_eq!(next_limit(10, 2_001, 1_000), 5);
        assert_eq!(next_limit(1, 2_001, 1_000), 1);
        assert_eq!(next_limit(i64::MAX, 0, 1_000), i64::MAX);
    }
}
