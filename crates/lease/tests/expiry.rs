//! What clients see of deadlines, against a plain model, and the paces of a new leader.

use std::collections::BTreeMap;
use std::time::Duration;

use ferrite_lease::{Expiry, Renewal, SPREAD_FROM, SPREAD_PER_SECOND};
use proptest::prelude::*;

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn a_member_that_does_not_lead_judges_nothing() {
    let mut expiry = Expiry::default();
    assert!(!expiry.granted(1, 5, s(0)));
    assert_eq!(expiry.renew(1, 5, s(1)), Renewal::NotPrimary);
    assert_eq!(expiry.remaining_seconds(1, s(1)), None);
    assert_eq!(expiry.next_due(), None);
    expiry.promote(3, s(10), s(1), &[(1, 5)]);
    assert_eq!(expiry.term(), Some(3));
    assert_eq!(expiry.remaining_seconds(1, s(10)), Some(6));
    expiry.demote();
    assert_eq!(expiry.term(), None);
    assert_eq!(expiry.take_expired(s(1_000), 10, s(1_007)), []);
}

#[test]
fn a_new_leader_restarts_every_lease_with_an_election_timeout_on_top() {
    let mut expiry = Expiry::default();
    expiry.promote(1, s(100), s(1), &[(7, 10), (8, 3)]);
    assert_eq!(expiry.by_deadline(), [8, 7]);
    assert_eq!(expiry.take_expired(s(103), 10, s(110)), []);
    assert_eq!(expiry.take_expired(s(104), 10, s(110)), [8]);
    // A second term begins anew, whatever was left.
    expiry.promote(2, s(105), s(1), &[(7, 10), (8, 3)]);
    assert_eq!(expiry.remaining_seconds(7, s(105)), Some(11));
    assert_eq!(expiry.renew(8, 3, s(106)), Renewal::Renewed);
    assert_eq!(expiry.remaining_seconds(8, s(106)), Some(3));
}

#[test]
fn what_is_over_is_never_renewed_and_is_tried_again() {
    let mut expiry = Expiry::default();
    expiry.promote(1, s(0), s(0), &[]);
    assert!(expiry.granted(1, 2, s(0)));
    assert!(!expiry.granted(2, 4, s(0)));
    assert!(expiry.granted(3, 1, s(0)));
    assert_eq!(
        expiry.renew(3, 1, Duration::from_millis(999)),
        Renewal::Renewed
    );
    assert_eq!(expiry.renew(1, 2, s(2)), Renewal::Over);
    assert_eq!(expiry.take_expired(s(2), 10, s(9)), [3, 1]);
    assert_eq!(expiry.take_expired(s(3), 10, s(10)), []);
    assert_eq!(expiry.renew(1, 2, s(3)), Renewal::Over);
    assert_eq!(
        expiry.remaining_seconds(1, Duration::from_millis(3_900)),
        Some(-1)
    );
    expiry.revoked(3);
    assert_eq!(expiry.renew(3, 1, s(3)), Renewal::Unknown);
    assert_eq!(expiry.take_expired(s(9), 10, s(16)), [2, 1]);
}

#[test]
fn the_longest_due_go_first_and_a_pass_takes_no_more_than_it_may() {
    let mut expiry = Expiry::default();
    expiry.promote(1, s(0), s(0), &[]);
    for id in 0..20 {
        expiry.granted(id, 20 - id, s(0));
    }
    let mut order = Vec::new();
    while let expired = expiry.take_expired(s(30), 6, s(37))
        && !expired.is_empty()
    {
        assert!(expired.len() <= 6);
        order.extend(expired);
    }
    assert_eq!(order, (0..20).rev().collect::<Vec<_>>());
}

#[test]
fn a_retry_in_the_past_does_not_hold_up_a_pass() {
    let mut expiry = Expiry::default();
    expiry.promote(1, s(0), s(0), &[(1, 1)]);
    assert_eq!(expiry.take_expired(s(5), 100, s(0)), [1]);
}

#[test]
fn leases_that_pile_up_are_spread_and_none_ends_early() {
    for count in [SPREAD_FROM - 1, SPREAD_FROM, 5_000] {
        let leases: Vec<(i64, i64)> = (0..count as i64).map(|id| (id, 10 + id % 2)).collect();
        let mut expiry = Expiry::default();
        expiry.promote(1, s(0), s(1), &leases);
        let mut ends = Vec::new();
        let mut now = s(0);
        while ends.len() < count {
            now = expiry.next_due().expect("more are due").max(now);
            for id in expiry.take_expired(now, usize::MAX, s(1_000_000)) {
                assert!(
                    now >= s(11 + u64::try_from(id % 2).unwrap()),
                    "lease {id} ends at {now:?}"
                );
                ends.push(now);
            }
        }
        let busiest = (0..count)
            .map(|first| {
                ends[first..]
                    .iter()
                    .take_while(|end| **end < ends[first] + s(1))
                    .count()
            })
            .max()
            .unwrap();
        if count < SPREAD_FROM {
            assert_eq!(ends.last(), Some(&s(12)), "few leases are left alone");
        } else {
            assert!(
                busiest <= SPREAD_PER_SECOND,
                "{busiest} of {count} in one second"
            );
            // Not later than the pace demands.
            let latest = s(12) + Duration::from_secs((count / SPREAD_PER_SECOND) as u64 + 1);
            assert!(*ends.last().unwrap() <= latest);
        }
    }
}

#[test]
fn the_longest_lease_of_all_does_not_overflow() {
    let mut expiry = Expiry::default();
    expiry.promote(1, Duration::MAX - s(1), s(1), &[(1, i64::MAX), (2, -5)]);
    assert!(expiry.remaining_seconds(1, s(0)).is_some());
    expiry.granted(3, 9_000_000_000, s(1));
    assert_eq!(expiry.remaining_seconds(3, s(1)), Some(9_000_000_000));
}

#[derive(Debug, Clone)]
enum Step {
    Promote,
    Demote,
    Grant(i64, i64),
    Revoke(i64),
    Renew(i64),
    Pass(usize),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let id = 1..8_i64;
    prop_oneof![
        1 => Just(Step::Promote),
        1 => Just(Step::Demote),
        4 => (id.clone(), 1..6_i64).prop_map(|(id, ttl)| Step::Grant(id, ttl)),
        2 => id.clone().prop_map(Step::Revoke),
        4 => id.prop_map(Step::Renew),
        4 => (1..4_usize).prop_map(Step::Pass),
        4 => (1..3_000_u64).prop_map(Step::Wait),
    ]
}

proptest! {
    /// Against a model that looks at every lease every time.
    #[test]
    fn it_does_what_a_plain_model_does(steps in proptest::collection::vec(step(), 1..200)) {
        let mut expiry = Expiry::default();
        // What is granted, as the replicated state knows it; deadline and when a revocation is due, as the leader does.
        let mut granted: BTreeMap<i64, i64> = BTreeMap::new();
        let mut timers: Option<BTreeMap<i64, (Duration, Duration)>> = None;
        let mut now = s(1);
        let mut term = 0;
        for step in steps {
            match step {
                Step::Wait(ms) => now += Duration::from_millis(ms),
                Step::Promote => {
                    term += 1;
                    let leases: Vec<(i64, i64)> = granted.iter().map(|(id, ttl)| (*id, *ttl)).collect();
                    expiry.promote(term, now, s(1), &leases);
                    timers = Some(granted.iter().map(|(id, ttl)| {
                        let end = now + s(1 + *ttl as u64);
                        (*id, (end, end))
                    }).collect());
                }
                Step::Demote => {
                    expiry.demote();
                    timers = None;
                }
                Step::Grant(id, ttl) => {
                    if granted.contains_key(&id) {
                        continue;
                    }
                    granted.insert(id, ttl);
                    expiry.granted(id, ttl, now);
                    if let Some(timers) = &mut timers {
                        let end = now + s(ttl as u64);
                        timers.insert(id, (end, end));
                    }
                }
                Step::Revoke(id) => {
                    granted.remove(&id);
                    expiry.revoked(id);
                    if let Some(timers) = &mut timers {
                        timers.remove(&id);
                    }
                }
                Step::Renew(id) => {
                    let ttl = granted.get(&id).copied().unwrap_or(1);
                    let expected = match &mut timers {
                        None => Renewal::NotPrimary,
                        Some(timers) => match timers.get_mut(&id) {
                            None => Renewal::Unknown,
                            Some((end, _)) if *end <= now => Renewal::Over,
                            Some(timer) => {
                                let end = now + s(ttl as u64);
                                *timer = (end, end);
                                Renewal::Renewed
                            }
                        },
                    };
                    prop_assert_eq!(expiry.renew(id, ttl, now), expected);
                }
                Step::Pass(limit) => {
                    let mut due: Vec<(Duration, i64)> = timers
                        .iter()
                        .flatten()
                        .filter(|(_, (_, due))| *due <= now)
                        .map(|(id, (_, due))| (*due, *id))
                        .collect();
                    due.sort_unstable();
                    due.truncate(limit);
                    let expected: Vec<i64> = due.into_iter().map(|(_, id)| id).collect();
                    prop_assert_eq!(expiry.take_expired(now, limit, now + s(7)), expected.clone());
                    for id in expected {
                        let (end, due) = timers.as_mut().unwrap().get_mut(&id).unwrap();
                        prop_assert!(*end <= now, "only what is over is revoked");
                        *due = now + s(7);
                    }
                }
            }
            let next = timers.iter().flatten().map(|(_, (_, due))| *due).min();
            prop_assert_eq!(expiry.next_due(), next);
            for id in 1..8 {
                let left = timers.as_ref().and_then(|timers| timers.get(&id)).map(|(end, _)| {
                    (end.as_millis() as i64 - now.as_millis() as i64) / 1_000
                });
                prop_assert_eq!(expiry.remaining_seconds(id, now), left);
            }
        }
    }
}
