//! LE-10: what is left of long leases is written down every so often, and counts for the next leader.

use std::time::Duration;

use ferrite_lease::{Expiry, Renewal};

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

#[test]
fn only_long_leases_are_noted_and_each_once_an_interval() {
    let mut expiry = Expiry::with_checkpoints(s(300));
    expiry.promote(1, s(0), s(0), &[(1, 1_000), (2, 300)]);
    assert_eq!(expiry.next_checkpoint(), Some(s(300)));
    expiry.granted(3, 2_000, s(10));
    expiry.granted(4, 60, s(10));
    assert_eq!(expiry.take_checkpoints(s(299), 10), []);
    assert_eq!(expiry.take_checkpoints(s(300), 10), [(1, 700)]);
    assert_eq!(expiry.take_checkpoints(s(300), 10), []);
    assert_eq!(expiry.take_checkpoints(s(310), 10), [(3, 1_700)]);
    // A renewed one has all its time again: nothing to note before another interval.
    assert_eq!(expiry.renew(3, 2_000, s(320)), Renewal::Renewed);
    assert_eq!(expiry.take_checkpoints(s(600), 10), [(1, 400)]);
    assert_eq!(expiry.next_checkpoint(), Some(s(620)));
    // The last note before the end: what is left then is not longer than the interval.
    expiry.revoked(3);
    assert_eq!(expiry.take_checkpoints(s(900), 10), [(1, 100)]);
    assert_eq!(expiry.next_checkpoint(), None);
}

#[test]
fn seconds_are_rounded_up_and_a_batch_has_a_limit() {
    let mut expiry = Expiry::with_checkpoints(s(300));
    let leases: Vec<(i64, i64)> = (1..=5).map(|id| (id, 400)).collect();
    expiry.promote(1, s(0), s(1), &leases);
    let now = s(300) + Duration::from_millis(1);
    assert_eq!(
        expiry.take_checkpoints(now, 3),
        [(1, 101), (2, 101), (3, 101)]
    );
    assert_eq!(expiry.take_checkpoints(now, 3), [(4, 101), (5, 101)]);
}

#[test]
fn who_does_not_lead_or_has_the_gate_off_notes_nothing() {
    let mut expiry = Expiry::with_checkpoints(s(300));
    expiry.granted(1, 1_000, s(0));
    assert_eq!(expiry.next_checkpoint(), None);
    expiry.promote(1, s(0), s(0), &[(1, 1_000)]);
    expiry.demote();
    assert_eq!(expiry.take_checkpoints(s(500), 10), []);
    let mut off = Expiry::default();
    off.promote(1, s(0), s(0), &[(1, 1_000)]);
    assert_eq!(off.take_checkpoints(s(500), 10), []);
}
