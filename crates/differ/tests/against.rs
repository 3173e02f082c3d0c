//! Thousands of random sequences of requests, answered by etcd 3.5.1 and by us; and the proof that a
//! difference would be found.
//!
//! `FERRITE_SEED` runs another seed, `FERRITE_SEQUENCES` another number of sequences; what is found is
//! printed as a script, with the command that repeats it.

use std::time::Duration;

use ferrite_differ::{Areas, Call, Fault, Pair, Session, Settings, generate};
use ferrite_testkit::{Kind, oracle};

/// How many sequences a run has: always all of them.
const SEQUENCES: u64 = 2_000;

/// What they may take on a machine that is very busy. Later than this is a failure, not a shorter run.
const WITHIN: Duration = Duration::from_secs(15 * 60);

/// Pairs of servers at a time: some wait while others work.
const WORKERS: usize = 4;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn settings(seed: u64, sequences: u64) -> Settings {
    Settings {
        seed,
        from: 0,
        sequences,
        until: Some(WITHIN),
        against: Kind::Etcd351,
        areas: Areas::All,
        shrink: Duration::from_secs(40),
        failures: 5,
        workers: WORKERS,
        fault: None,
    }
}

#[test]
fn every_answer_is_the_originals() {
    if oracle().is_none() {
        return;
    }
    let seed = number("FERRITE_SEED").unwrap_or(1);
    let wanted = number("FERRITE_SEQUENCES").unwrap_or(SEQUENCES);
    let session = Session::new(settings(seed, wanted));
    let summary = session.run(|failure| eprintln!("seed {seed}, {failure}\n"));
    let failed: Vec<u64> = summary.failures.iter().map(|one| one.sequence).collect();
    assert!(
        failed.is_empty(),
        "sequences {failed:?} are answered differently; again with: \
         cargo run -p ferrite-differ -- --seed {seed} --sequences {}",
        failed.iter().max().map_or(1, |last| last + 1)
    );
    assert_eq!(
        summary.sequences, wanted,
        "not all sequences ran within {WITHIN:?}"
    );
    eprintln!(
        "seed {seed}: {} sequences, {} requests to each server; exceptions needed: {:?}",
        summary.sequences, summary.asked, summary.excused
    );
}

/// Sequences that a small lie about one kind of answer may stay unseen for.
const UNSEEN_MAX: u64 = 300;

#[tokio::test]
async fn a_lie_about_any_kind_of_answer_is_found() {
    if oracle().is_none() {
        return;
    }
    let mut pair = Pair::start(Kind::Etcd351).await;
    pair.patience = Duration::from_secs(2);
    let mut sequence = 0;
    for fault in Fault::ALL {
        pair.fault = Some(fault);
        let began = sequence;
        loop {
            let steps = generate(1, sequence, fault.areas());
            sequence += 1;
            if let Err(seen) = pair.run(&steps).await {
                assert_ne!(seen.ours, seen.theirs);
                break;
            }
            assert!(
                sequence - began < UNSEEN_MAX,
                "{fault:?} is not seen in {UNSEEN_MAX} sequences"
            );
        }
        pair.clean_up().await;
        eprintln!("{fault:?}: seen after {} sequences", sequence - began);
    }
}

#[test]
fn what_is_answered_differently_becomes_a_short_script() {
    if oracle().is_none() {
        return;
    }
    let session = Session::new(Settings {
        fault: Some(Fault::IdleRevision),
        areas: Areas::Data,
        failures: 1,
        workers: 1,
        shrink: Duration::from_secs(15),
        ..settings(1, 100)
    });
    let mut told = 0;
    let summary = session.run(|_| told += 1);
    assert_eq!((told, summary.failures.len()), (1, 1));
    let (steps, difference) = summary.failures[0]
        .script
        .as_ref()
        .expect("fresh servers show it as well");
    let whole = generate(1, summary.failures[0].sequence, Areas::Data);
    assert!(
        steps.len() < whole.len() / 2,
        "{} of {} steps are left",
        steps.len(),
        whole.len()
    );
    assert!(matches!(
        steps.last().expect("a step").call,
        Call::DeleteRange(_)
    ));
    assert_eq!(difference.at + 1, steps.len());
    assert!(summary.failures[0].to_string().contains("DeleteRange("));
}
