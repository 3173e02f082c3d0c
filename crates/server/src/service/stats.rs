//! The line "request stats" about a unary call: at warn about a slow one, at debug about every one. It
//! shows keys and sizes, never values.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ferrite_proto::etcdserverpb::{
    DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse,
    TxnRequest, TxnResponse,
};
use ferrite_proto::loggable;
use prost::Message;
use tonic::{Request, Response, Status};

use super::Context;
use crate::{log, sys};

/// In the extensions of every request that came over a connection: who is at the other end.
#[derive(Debug, Clone)]
pub struct Remote(pub Arc<str>);

/// What is told of a call: numbers of keys and bytes, and the request in words.
#[derive(Debug, PartialEq, Eq)]
pub struct Stats {
    request_count: i64,
    request_size: i64,
    response_count: i64,
    response_size: i64,
    content: String,
}

impl Stats {
    /// Of calls that are not about keys nothing is counted.
    pub const UNCOUNTED: Stats = Stats {
        request_count: -1,
        request_size: -1,
        response_count: -1,
        response_size: -1,
        content: String::new(),
    };

    fn of<A: Message>(request_count: i64, request: &impl Message, content: String) -> Counted<A> {
        Counted {
            stats: Stats {
                request_count,
                request_size: length(request),
                response_count: 0,
                response_size: 0,
                content,
            },
            answer: std::marker::PhantomData,
        }
    }
}

/// Stats of a request, to be completed with its answer.
struct Counted<A> {
    stats: Stats,
    answer: std::marker::PhantomData<A>,
}

impl<A: Message> Counted<A> {
    fn answered(mut self, answer: Option<&A>, count: impl FnOnce(&A) -> i64) -> Stats {
        if let Some(answer) = answer {
            self.stats.response_count = count(answer);
            self.stats.response_size = length(answer);
        }
        self.stats
    }
}

fn length(message: &impl Message) -> i64 {
    i64::try_from(message.encoded_len()).unwrap_or(i64::MAX)
}

/// A request of which something can be told, once it is answered or refused.
pub trait Told: Clone {
    /// What answers it.
    type Answer;
    /// The method, as calls name it.
    const METHOD: &str;
    /// What is told.
    fn stats(&self, answer: Option<&Self::Answer>) -> Stats;
}

impl Told for RangeRequest {
    type Answer = RangeResponse;
    const METHOD: &str = "/etcdserverpb.KV/Range";

    fn stats(&self, answer: Option<&RangeResponse>) -> Stats {
        Stats::of(0, self, loggable::range(self)).answered(answer, |answer| answer.count)
    }
}

impl Told for PutRequest {
    type Answer = PutResponse;
    const METHOD: &str = "/etcdserverpb.KV/Put";

    fn stats(&self, answer: Option<&PutResponse>) -> Stats {
        Stats::of(1, self, loggable::put(self)).answered(answer, |_| 0)
    }
}

impl Told for DeleteRangeRequest {
    type Answer = DeleteRangeResponse;
    const METHOD: &str = "/etcdserverpb.KV/DeleteRange";

    fn stats(&self, answer: Option<&DeleteRangeResponse>) -> Stats {
        Stats::of(0, self, loggable::delete_range(self)).answered(answer, |answer| answer.deleted)
    }
}

impl Told for TxnRequest {
    type Answer = TxnResponse;
    const METHOD: &str = "/etcdserverpb.KV/Txn";

    /// Only the branch that was taken counts; of a refused transaction nothing is told.
    fn stats(&self, answer: Option<&TxnResponse>) -> Stats {
        let taken = match answer {
            Some(answer) if answer.succeeded => &self.success[..],
            Some(_) => &self.failure[..],
            None => &[],
        };
        Stats {
            request_count: i64::try_from(taken.len()).unwrap_or(i64::MAX),
            request_size: taken.iter().map(length).sum(),
            response_count: 0,
            response_size: answer.map_or(0, length),
            content: answer.map_or_else(String::new, |_| loggable::txn(self)),
        }
    }
}

/// Methods that tell of themselves.
pub const TOLD: &[&str] = &[
    RangeRequest::METHOD,
    PutRequest::METHOD,
    DeleteRangeRequest::METHOD,
    TxnRequest::METHOD,
];

/// A call under way, to be told of when it ends.
pub struct Call<M> {
    asked: Option<(M, Remote)>,
    started: Instant,
    limit: Duration,
}

impl<M: Told> Call<M> {
    /// A call begins. One that the member makes itself came over no connection, and is not told of.
    pub fn begin(context: &Context, request: &Request<M>) -> Self {
        let remote = request.extensions().get::<Remote>();
        Call {
            // A copy of what is small; keys and values are shared.
            asked: remote.map(|remote| (request.get_ref().clone(), remote.clone())),
            started: Instant::now(),
            limit: context.warn_unary,
        }
    }

    /// It ended so.
    pub fn end(self, answer: &Result<Response<M::Answer>, Status>) {
        let Some((message, Remote(remote))) = self.asked else {
            return;
        };
        let answer = answer.as_ref().ok().map(Response::get_ref);
        let took = self.started.elapsed();
        tell(M::METHOD, &remote, took, self.limit, || {
            message.stats(answer)
        });
    }
}

/// Tells of a call that took this long, if it is to be told of.
pub fn tell(
    method: &str,
    remote: &str,
    took: Duration,
    limit: Duration,
    stats: impl FnOnce() -> Stats,
) {
    let every = tracing::event_enabled!(tracing::Level::DEBUG);
    if !every && took <= limit {
        return;
    }
    let stats = stats();
    let now = SystemTime::now();
    let started = now.checked_sub(took).unwrap_or(now);
    let started = log::timestamp(started, sys::local_offset_seconds(started));
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                "start time" = started,
                "time spent" = ?took,
                remote,
                "response type" = method,
                "request count" = stats.request_count,
                "request size" = stats.request_size,
                "response count" = stats.response_count,
                "response size" = stats.response_size,
                "request content" = stats.content,
                "request stats"
            )
        };
    }
    // As in the original, at debug level slow ones do not stand out.
    if every {
        line!(debug);
    } else {
        line!(warn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ferrite_proto::etcdserverpb::RequestOp;
    use ferrite_proto::etcdserverpb::request_op::Request as Op;

    #[test]
    fn of_a_transaction_the_branch_that_was_taken_counts() {
        let op = |key: &'static str| RequestOp {
            request: Some(Op::RequestDeleteRange(DeleteRangeRequest {
                key: key.into(),
                ..Default::default()
            })),
        };
        let txn = TxnRequest {
            success: vec![op("a"), op("bc")],
            failure: vec![op("d")],
            ..Default::default()
        };
        let told = |succeeded| {
            let answer = TxnResponse {
                succeeded,
                ..Default::default()
            };
            let stats = txn.stats(Some(&answer));
            (stats.request_count, stats.request_size)
        };
        assert_eq!(told(true), (2, 5 + 6));
        assert_eq!(told(false), (1, 5));
        let refused = txn.stats(None);
        assert_eq!(refused.request_count + refused.request_size, 0);
        assert_eq!(refused.content, "");
    }
}
