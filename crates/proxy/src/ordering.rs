//! Reads that never go back: with `--experimental-serializable-ordering` an answer from a member that lags
//! behind one seen before is asked for again.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use tonic::Status;

use crate::call::{Answer, Answering, Ask, Caller, Kv, SharedKv};

/// Attempts for each member before it is said that none is far enough: the original's number.
const ATTEMPTS: usize = 5;

/// A store whose revision only grows.
pub struct Ordered {
    kv: SharedKv,
    members: usize,
    seen: AtomicI64,
}

impl Ordered {
    /// Of so many members.
    #[must_use]
    pub fn new(kv: SharedKv, members: usize) -> Self {
        Ordered {
            kv,
            members,
            seen: AtomicI64::new(0),
        }
    }

    /// As far as the cluster is now; nothing older will be shown.
    ///
    /// # Errors
    /// The members' refusal.
    pub async fn catch_up(&self) -> Result<(), Status> {
        let request = ferrite_client::pb::RangeRequest {
            key: "_".into(),
            keys_only: true,
            ..Default::default()
        };
        let caller = Caller::default();
        self.ask(&caller, Ask::Range(request)).await.map(drop)
    }
}

impl Kv for Ordered {
    fn ask<'a>(&'a self, caller: &'a Caller, ask: Ask) -> Answering<'a, Answer> {
        Box::pin(async move {
            if !matches!(ask, Ask::Range(_) | Ask::Txn(_)) {
                return self.kv.ask(caller, ask).await;
            }
            // What others see meanwhile is no older than what this call may show.
            let before = self.seen.load(Ordering::Acquire);
            let attempts = AtomicUsize::new(0);
            loop {
                let answer = self.kv.ask(caller, ask.clone()).await?;
                let revision = answer.revision();
                if revision >= before {
                    self.seen.fetch_max(revision, Ordering::AcqRel);
                    return Ok(answer);
                }
                if attempts.fetch_add(1, Ordering::Relaxed) >= ATTEMPTS * self.members.max(1) {
                    return Err(Status::unknown(
                        "etcdclient: no cluster members have a revision higher than the previously received revision",
                    ));
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::Mutex;

    use ferrite_client::pb;

    use super::*;

    /// Answers with these revisions, one after the other, the last for ever.
    struct Lagging(Mutex<Vec<i64>>);

    impl Kv for Lagging {
        fn ask<'a>(&'a self, _: &'a Caller, _: Ask) -> Answering<'a, Answer> {
            let mut left = self.0.lock().expect("one test");
            let revision = if left.len() > 1 {
                left.remove(0)
            } else {
                left[0]
            };
            let header = pb::ResponseHeader {
                revision,
                ..Default::default()
            };
            Box::pin(async move {
                Ok(Answer::Range(pb::RangeResponse {
                    header: Some(header),
                    ..Default::default()
                }))
            })
        }
    }

    fn seen(revisions: &[i64]) -> Vec<Result<i64, String>> {
        let kv = Arc::new(Lagging(Mutex::new(revisions.to_vec())));
        let ordered = Ordered::new(kv, 1);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("a runtime");
        (0..2)
            .map(|_| {
                let ask = Ask::Range(pb::RangeRequest::default());
                runtime
                    .block_on(ordered.ask(&Caller::default(), ask))
                    .map(|answer| answer.revision())
                    .map_err(|status| status.message().to_owned())
            })
            .collect()
    }

    #[test]
    fn what_is_older_than_seen_before_is_asked_for_again() {
        assert_eq!(seen(&[5, 3, 4, 6]), [Ok(5), Ok(6)]);
        assert_eq!(seen(&[5, 5]), [Ok(5), Ok(5)]);
        let never = "etcdclient: no cluster members have a revision higher than the previously received revision";
        assert_eq!(seen(&[5, 3]), [Ok(5), Err(never.to_owned())]);
    }
}
