//! Whole clusters of production stages under seeds: nothing may go wrong, whatever does. A few seeds by
//! default; `cargo xtask test` sets `FERRITE_SIM_SEEDS` and builds for speed.
#![allow(clippy::print_stdout)] // the figures are what whoever runs it wants to see

mod common;

use ferrite_sim::{Stats, replay, run};

/// What the simulator is there to bring about: a run of seeds in which these are missing proves little.
const MUST_HAPPEN: [&str; 57] = [
    "I/O errors armed",
    "acts of the operator",
    "alarms lifted",
    "bits flipped in a database header",
    "bits flipped in a log",
    "blackouts",
    "changes of users asked for",
    "clocks on the wall that were wrong",
    "clocks that leapt",
    "cluster versions decided",
    "crashes at a full disk",
    "crashes at a read",
    "crashes at a write",
    "crashes at an effect",
    "crashes during recovery",
    "damage named at a start",
    "databases installed",
    "databases rewritten",
    "downgrades begun",
    "downgrades ended",
    "elections won",
    "events told",
    "full disks",
    "hashes compared",
    "kills",
    "layouts of databases changed",
    "learners promoted",
    "leases expired",
    "leases granted",
    "leases in storms",
    "leases renewed",
    "leases revoked",
    "logins asked for",
    "members added",
    "messages duplicated",
    "messages lost",
    "messages reordered",
    "notes of remaining times",
    "one-way cuts",
    "operations put in order",
    "partial partitions",
    "partitions",
    "pauses",
    "progress told",
    "quotas used up",
    "read errors armed",
    "reads that failed",
    "removed members ended",
    "slow links",
    "snapshots saved",
    "stalled writes",
    "starts refused by a read",
    "tokens refused",
    "tokens taken",
    "transfers of leadership",
    "writes answered",
    "writes refused when applied",
];

#[test]
fn clusters_keep_their_promises_whatever_fails() {
    let seeds: u64 = std::env::var("FERRITE_SIM_SEEDS")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(60);
    let began = std::time::Instant::now();
    let reports = common::parallel(1..=seeds, |seed| (seed, run(seed, None)));
    let mut stats = Stats::default();
    let mut simulated_us = 0;
    for (seed, report) in reports {
        if let Some(reason) = report.violation {
            panic!("seed {seed}: {reason}\nreplay: {}", replay(seed, None));
        }
        stats.add(&report.stats);
        simulated_us += report.simulated_us;
    }
    println!(
        "{seeds} seeds, {:.1} hours simulated in {:.0} s: {stats}",
        simulated_us as f64 / 3.6e9,
        began.elapsed().as_secs_f64()
    );
    // A few seeds cannot have all that is rare.
    for what in MUST_HAPPEN {
        assert!(
            stats.get(what) > 0 || seeds < 500,
            "no {what} in {seeds} seeds: {stats}"
        );
    }
    // Where too many calls were open at once for a search, the log alone has judged; that has to be rare.
    let given_up = stats.get("searches given up");
    let searched = stats.get("histories searched");
    assert!(
        given_up <= 1 + searched / 50,
        "{given_up} of {searched}: {stats}"
    );
}

#[test]
fn a_seed_replays_step_by_step() {
    for seed in [3, 17] {
        assert_eq!(run(seed, None), run(seed, None), "seed {seed}");
    }
    assert_ne!(run(3, None).trace, run(4, None).trace);
}
