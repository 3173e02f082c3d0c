//! Figures, not judged: run with `--release -- --ignored --nocapture`.

mod common;

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Instant;

use common::Member;
use ferrite_mvcc::{RangeOptions, RestoreOptions};

const KEYS: u64 = 1_000_000;

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("VmRSS:"));
    line.and_then(|l| l.split_whitespace().nth(1)?.parse().ok())
        .unwrap_or(0)
        * 1024
}

#[test]
#[ignore = "figures only, takes a while"]
fn figures() {
    let mut report = String::new();
    let value = [b'v'; 256];
    let mut m = Member::with(RestoreOptions {
        compaction_hash: false,
        ..RestoreOptions::default()
    });
    let name = |i: u64| {
        format!(
            "/registry/pods/default/pod-{:016x}",
            i.wrapping_mul(0x9e37_79b9_7f4a_7c15)
        )
    };
    // the file is replaced by nothing: this measures index and buffers
    let forget = |m: &Member| {
        if m.store.backend().freeze().is_some() {
            m.store.backend().commit_done(Arc::new(m.file.clone()));
        }
    };
    let before = resident();
    for pass in ["insert", "update"] {
        let start = Instant::now();
        for i in 0..KEYS {
            let mut txn = m.store.write();
            txn.put(
                name(i.wrapping_mul(7919) % KEYS).as_bytes(),
                &value,
                0,
                &mut m.leases,
            );
            txn.end();
            if i % 10_000 == 9_999 {
                forget(&m);
            }
        }
        let each = start.elapsed().as_nanos() as u64 / KEYS;
        let _ = writeln!(
            report,
            "{pass}: {each} ns a put, {} B a key resident",
            (resident() - before) / KEYS
        );
    }
    let start = Instant::now();
    let options = RangeOptions {
        count_only: true,
        ..RangeOptions::default()
    };
    for _ in 0..1000 {
        m.store
            .range(b"/registry/", b"/registry0", options)
            .expect("counts");
    }
    let _ = writeln!(
        report,
        "count of all: {} ns",
        start.elapsed().as_nanos() / 1000
    );
    let start = Instant::now();
    let options = RangeOptions {
        limit: 1000,
        keys_only: true,
        ..RangeOptions::default()
    };
    for _ in 0..100 {
        m.store
            .range(b"/registry/", b"/registry0", options)
            .expect("ranges");
    }
    let _ = writeln!(report, "1000 keys: {} ns", start.elapsed().as_nanos() / 100);
    m.store
        .compact(m.store.current_revision())
        .expect("compacts");
    let (start, mut slowest) = (Instant::now(), 0);
    while m.store.compaction_pending() {
        let step = Instant::now();
        m.store.compaction_step(1000).expect("steps");
        slowest = slowest.max(step.elapsed().as_micros());
        forget(&m);
    }
    let _ = writeln!(
        report,
        "compaction of {KEYS}: {} ms, slowest step {slowest} us",
        start.elapsed().as_millis()
    );
    let _ = writeln!(
        report,
        "then {} B a key resident",
        (resident() - before) / KEYS
    );
    drop(m);

    let mut m = Member::new();
    for i in 0..KEYS {
        let mut txn = m.store.write();
        txn.put(
            name(i.wrapping_mul(7919) % KEYS).as_bytes(),
            &value,
            0,
            &mut m.leases,
        );
        txn.end();
    }
    m.commit_all();
    let file = m.file.clone();
    drop(m);
    let (start, before) = (Instant::now(), resident());
    let m = Member::open(file, Default::default(), RestoreOptions::default());
    let _ = writeln!(
        report,
        "restore of {KEYS} keys: {} ms, {} B a key resident",
        start.elapsed().as_millis(),
        resident().saturating_sub(before) / KEYS,
    );
    let start = Instant::now();
    m.store.hash_kv(0).expect("hashes");
    let _ = writeln!(report, "hash of them: {} ms", start.elapsed().as_millis());
    let _ = std::io::stderr().write_all(report.as_bytes());
}
