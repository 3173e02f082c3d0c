//! Makes a failing sequence small: steps are taken out in ever smaller pieces, then parts of what is
//! left, as long as fresh servers still answer some step differently.

use std::time::{Duration, Instant};

use ferrite_client::pb;
use ferrite_client::pb::request_op::Request;

use crate::pair::{Difference, Pair};
use crate::step::{Call, Step};

/// While looking for a smaller script, watchers that stay silent are given up sooner.
const PATIENCE: Duration = Duration::from_secs(3);

/// The smallest sequence found within the time, with what it shows; `None` if the whole one shows
/// nothing on a fresh pair.
pub async fn shrink(
    steps: Vec<Step>,
    within: Duration,
    pair: impl AsyncFn() -> Pair,
) -> Option<(Vec<Step>, Difference)> {
    let since = Instant::now();
    let fails = async |steps: &[Step]| -> Option<Difference> {
        let mut pair = pair().await;
        pair.patience = PATIENCE;
        pair.run(steps).await.err().map(|difference| *difference)
    };
    let mut best = steps;
    let mut shown = fails(&best).await?;
    // Another difference on the way would lead somewhere else.
    let first = shown.clone();
    let fails = async |steps: &[Step]| {
        fails(steps)
            .await
            .filter(|difference| difference.is_like(&first))
    };
    best.truncate(shown.at + 1);
    let mut piece = best.len() / 2;
    while piece > 0 && since.elapsed() < within {
        let mut at = 0;
        let mut smaller = false;
        // The last step is the one that differs.
        while at + 1 < best.len() && since.elapsed() < within {
            let end = (at + piece).min(best.len() - 1);
            let mut candidate = best.clone();
            candidate.drain(at..end);
            if let Some(difference) = fails(&candidate).await {
                candidate.truncate(difference.at + 1);
                (best, shown) = (candidate, difference);
                smaller = true;
            } else {
                at += piece;
            }
        }
        if !smaller || piece > 1 {
            piece /= 2;
        }
    }
    let mut at = 0;
    while at < best.len() && since.elapsed() < within {
        let mut simpler = false;
        for call in simpler_calls(&best[at].call) {
            if since.elapsed() >= within {
                break;
            }
            let mut candidate = best.clone();
            candidate[at].call = call;
            if let Some(difference) = fails(&candidate).await
                && difference.at + 1 == best.len()
            {
                (best, shown) = (candidate, difference);
                simpler = true;
                break;
            }
        }
        if !simpler {
            at += 1;
        }
    }
    Some((best, shown))
}

/// The same call with one thing less.
fn simpler_calls(call: &Call) -> Vec<Call> {
    match call {
        Call::Txn(request) => simpler_txns(request).into_iter().map(Call::Txn).collect(),
        Call::Range(request) => simpler_ranges(request)
            .into_iter()
            .map(Call::Range)
            .collect(),
        Call::Put(request) => simpler_puts(request).into_iter().map(Call::Put).collect(),
        _ => Vec::new(),
    }
}

fn simpler_txns(request: &pb::TxnRequest) -> Vec<pb::TxnRequest> {
    let mut found = Vec::new();
    for at in 0..request.compare.len() {
        let mut one = request.clone();
        one.compare.remove(at);
        found.push(one);
    }
    type Branch = fn(&mut pb::TxnRequest) -> &mut Vec<pb::RequestOp>;
    let branches: [Branch; 2] = [|txn| &mut txn.success, |txn| &mut txn.failure];
    for branch in branches {
        let ops = branch(&mut request.clone()).clone();
        if ops.len() > 8 {
            let mut one = request.clone();
            branch(&mut one).truncate(ops.len() / 2);
            found.push(one);
        }
        for (at, op) in ops.iter().enumerate() {
            let mut one = request.clone();
            branch(&mut one).remove(at);
            found.push(one);
            let inner: Vec<Request> = match &op.request {
                Some(Request::RequestTxn(txn)) => simpler_txns(txn)
                    .into_iter()
                    .map(Request::RequestTxn)
                    .collect(),
                Some(Request::RequestRange(range)) => simpler_ranges(range)
                    .into_iter()
                    .map(Request::RequestRange)
                    .collect(),
                Some(Request::RequestPut(put)) => simpler_puts(put)
                    .into_iter()
                    .map(Request::RequestPut)
                    .collect(),
                _ => Vec::new(),
            };
            for simpler in inner {
                let mut one = request.clone();
                branch(&mut one)[at].request = Some(simpler);
                found.push(one);
            }
        }
    }
    found
}

fn simpler_ranges(request: &pb::RangeRequest) -> Vec<pb::RangeRequest> {
    let plain = pb::RangeRequest {
        key: request.key.clone(),
        range_end: request.range_end.clone(),
        ..Default::default()
    };
    type Change = fn(&mut pb::RangeRequest);
    let changes: [Change; 10] = [
        |range| range.limit = 0,
        |range| range.revision = 0,
        |range| range.sort_order = 0,
        |range| range.sort_target = 0,
        |range| range.serializable = false,
        |range| range.keys_only = false,
        |range| range.count_only = false,
        |range| range.min_mod_revision = 0,
        |range| range.max_mod_revision = 0,
        |range| (range.min_create_revision, range.max_create_revision) = (0, 0),
    ];
    let mut found = vec![plain];
    for change in changes {
        let mut one = request.clone();
        change(&mut one);
        found.push(one);
    }
    found.retain(|one| one != request);
    found
}

fn simpler_puts(request: &pb::PutRequest) -> Vec<pb::PutRequest> {
    let mut found = vec![
        pb::PutRequest {
            key: request.key.clone(),
            ..Default::default()
        },
        pb::PutRequest {
            prev_kv: false,
            ..request.clone()
        },
        pb::PutRequest {
            lease: 0,
            ..request.clone()
        },
    ];
    found.retain(|one| one != request);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_simpler_call_is_another_one_and_simplifying_ends() {
        let put = pb::PutRequest {
            key: "k".into(),
            value: "v".into(),
            prev_kv: true,
            ..Default::default()
        };
        let op = pb::RequestOp {
            request: Some(Request::RequestPut(put)),
        };
        let nested = pb::RequestOp {
            request: Some(Request::RequestTxn(pb::TxnRequest {
                success: vec![op.clone()],
                ..Default::default()
            })),
        };
        let mut call = Call::Txn(pb::TxnRequest {
            compare: vec![pb::Compare::default()],
            success: vec![op, nested],
            failure: Vec::new(),
        });
        let mut rounds = 0;
        while let Some(simpler) = simpler_calls(&call).into_iter().last() {
            assert_ne!(simpler, call);
            call = simpler;
            rounds += 1;
            assert!(rounds < 50);
        }
        assert_eq!(call, Call::Txn(pb::TxnRequest::default()));
    }
}
