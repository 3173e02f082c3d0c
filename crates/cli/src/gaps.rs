//! For how long something was refused, reckoned from the moments at which it succeeded: what stops for a while
//! shows as a gap between two of them.

use std::time::{Duration, Instant};

/// The longest time without a success that ended after `mark`; `span` is from when to when was tried. What never
/// succeeded again counts to the end.
pub fn refused_for(
    successes: impl IntoIterator<Item = Instant>,
    span: (Instant, Instant),
    mark: Instant,
) -> Duration {
    let mut moments: Vec<Instant> = successes.into_iter().collect();
    moments.sort();
    let mut last = span.0;
    let mut longest = Duration::ZERO;
    for at in moments.into_iter().chain([span.1]) {
        if at >= mark {
            longest = longest.max(at.saturating_duration_since(last));
        }
        last = last.max(at);
    }
    longest
}

/// The longest time between two successes before `mark`: what the measure itself costs.
pub fn usual_gap(successes: impl IntoIterator<Item = Instant>, mark: Instant) -> Duration {
    let mut moments: Vec<Instant> = successes.into_iter().filter(|at| *at < mark).collect();
    moments.sort();
    moments
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .max()
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, ms: &[u64]) -> Vec<Instant> {
        ms.iter()
            .map(|ms| start + Duration::from_millis(*ms))
            .collect()
    }

    #[test]
    fn the_gap_counts_from_the_last_success_before_the_mark() {
        let start = Instant::now();
        let moment = |ms| start + Duration::from_millis(ms);
        let acks = at(start, &[50, 100, 950, 150, 900]);
        let span = (start, moment(1000));
        let gap = refused_for(acks.clone(), span, moment(160));
        assert_eq!(gap, Duration::from_millis(750));
        assert_eq!(
            usual_gap(acks.clone(), moment(160)),
            Duration::from_millis(50)
        );
        assert_eq!(
            refused_for(acks, span, moment(920)),
            Duration::from_millis(50)
        );
    }

    #[test]
    fn what_never_succeeds_again_counts_to_the_end() {
        let start = Instant::now();
        let moment = |ms| start + Duration::from_millis(ms);
        let span = (start, moment(5000));
        let gap = refused_for(at(start, &[50]), span, moment(60));
        assert_eq!(gap, Duration::from_millis(4950));
        assert_eq!(refused_for([], span, moment(60)), Duration::from_secs(5));
    }
}
