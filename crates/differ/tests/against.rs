//! Thousands of random sequences of requests, answered by etcd 3.5.1 and by us.
//!
//! `FERRITE_SEED` runs another seed, `FERRITE_SOAK_SECONDS` runs for longer; what is found is printed
//! as a script, with the command that repeats it.

use std::time::Duration;

use ferrite_differ::{Areas, Session, Settings};
use ferrite_testkit::{Kind, oracle, soak};

/// Seeds of every run.
const SEEDS: [u64; 3] = [1, 2, 3];

/// What all seeds together may take, in seconds. A machine that is busy gets through fewer sequences.
const SECONDS: u64 = 27;

async fn alike(areas: Areas, seed: u64, until: Duration) -> u64 {
    let session = Session::new(Settings {
        seed,
        from: 0,
        sequences: u64::MAX,
        until: Some(until),
        against: Kind::Etcd351,
        areas,
        shrink: Duration::from_secs(30),
    });
    let summary = session
        .run(|failure| eprintln!("seed {seed}, {failure}\n"))
        .await;
    let failed: Vec<u64> = summary.failures.iter().map(|one| one.sequence).collect();
    assert!(
        failed.is_empty(),
        "sequences {failed:?} are answered differently; again with: \
         cargo run -p ferrite-differ -- --seed {seed} --sequences {}",
        failed.iter().max().map_or(1, |last| last + 1)
    );
    eprintln!(
        "seed {seed}: {} sequences, {} requests to each server; exceptions needed: {:?}",
        summary.sequences, summary.asked, summary.excused
    );
    summary.sequences
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_about_data_is_the_originals() {
    if oracle().is_none() {
        return;
    }
    let seed = std::env::var("FERRITE_SEED")
        .ok()
        .and_then(|text| text.parse().ok());
    let seeds = seed.map_or(SEEDS.to_vec(), |seed| vec![seed]);
    let areas = Areas {
        auth: false,
        only_auth: false,
    };
    let each = soak(SECONDS) / u32::try_from(seeds.len()).unwrap_or(1);
    let mut sequences = 0;
    for seed in seeds {
        sequences += alike(areas, seed, each).await;
    }
    assert!(sequences > 0);
}
