//! Random writing, failing, crashing and reopening against a model: what was synced is there, and
//! what is there was written, in order.

mod common;

use std::path::Path;

use common::{DIR, disk, entry, metadata, options, start, state};
use ferrite_proto::raftpb::{Entry, HardState};
use ferrite_wal::{Error, Wal};

struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// Every state the log went through, a record at a time.
struct Model {
    states: Vec<(Vec<Entry>, HardState)>,
    /// States before this one are gone for good: it was synced.
    synced: usize,
}

impl Model {
    fn record(&mut self, change: impl FnOnce(&mut (Vec<Entry>, HardState))) {
        let mut next = self.states.last().cloned().unwrap_or_default();
        change(&mut next);
        self.states.push(next);
    }
}

fn run(seed: u64) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let fs = disk(seed);
    let segment = 1500 + random.below(6000);
    let mut model = Model {
        states: vec![Default::default()],
        synced: 0,
    };
    let mut created = false;
    let mut crashes = 0;
    for life in 0..12 {
        if random.below(2) == 0 {
            fs.fail_after(Some(random.below(60)));
        }
        let opened = if Wal::exists_on(&fs, Path::new(DIR)).unwrap() {
            match Wal::open(Path::new(DIR), &start(), options(&fs, segment)) {
                Err(Error::UnexpectedEof { .. }) => Wal::repair_on(&fs, Path::new(DIR))
                    .and_then(|()| Wal::open(Path::new(DIR), &start(), options(&fs, segment))),
                opened => opened,
            }
            .map(|(wal, read)| (wal, (read.entries, read.hard_state)))
        } else {
            assert!(!created, "seed {seed}, life {life}: the log is gone");
            Wal::create(Path::new(DIR), &metadata(), options(&fs, segment))
                .map(|wal| (wal, Default::default()))
        };
        match opened {
            Ok((mut wal, read)) => {
                created = true;
                let at = model.states.iter().rposition(|state| *state == read);
                let Some(at) = at.filter(|at| *at >= model.synced) else {
                    panic!(
                        "seed {seed}, life {life}: read {} entries, {:?}; synced were {} entries, {:?}",
                        read.0.len(),
                        read.1,
                        model.states[model.synced].0.len(),
                        model.states[model.synced].1
                    );
                };
                model.states.truncate(at + 1);
                // It may still be lost if it was not synced: reading does not make it durable.
                write(&mut wal, &mut model, &mut random);
            }
            Err(Error::Io { .. }) => {}
            Err(error) => panic!("seed {seed}, life {life}: {error}"),
        }
        fs.crash();
        crashes += 1;
    }
    assert_eq!(crashes, 12);
}

fn write(wal: &mut Wal, model: &mut Model, random: &mut Random) {
    for _ in 0..random.below(25) {
        let (entries, hard_state) = model.states.last().cloned().unwrap_or_default();
        let last = entries.len() as u64;
        let back = if random.below(5) == 0 {
            random.below(last.min(4) + 1)
        } else {
            0
        };
        let term = hard_state.term + u64::from(back > 0) + 1;
        let batch: Vec<Entry> = (0..random.below(5))
            .map(|n| {
                let size = [3, 40, 700, 2000][random.below(4) as usize];
                entry(
                    last - back + 1 + n,
                    term,
                    &vec![random.below(255) as u8 + 1; size],
                )
            })
            .collect();
        let new_state = (random.below(3) > 0).then(|| state(term, 11, random.below(last + 1)));
        for entry in &batch {
            model.record(|(entries, _)| {
                entries.truncate(entry.index as usize - 1);
                entries.push(entry.clone());
            });
        }
        if let Some(new_state) = new_state {
            model.record(|(_, hard_state)| *hard_state = new_state);
        }
        let sync = random.below(2) == 0;
        match wal.save(new_state.as_ref(), &batch, sync) {
            Ok(()) if sync => model.synced = model.states.len() - 1,
            Ok(()) => {}
            Err(Error::Io { .. }) => {
                assert!(matches!(wal.sync(), Err(Error::Poisoned { .. })));
                return;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn synced_writes_survive_any_crash() {
    // FERRITE_SEED replays one; FERRITE_SEEDS runs more than the few that fit an everyday check.
    let number = |name: &str| {
        std::env::var(name)
            .ok()
            .and_then(|text| text.parse::<u64>().ok())
    };
    if let Some(seed) = number("FERRITE_SEED") {
        return run(seed);
    }
    for seed in 1..=number("FERRITE_SEEDS").unwrap_or(300) {
        run(seed);
    }
}

#[test]
fn a_crash_while_creating_leaves_no_log_or_a_whole_one() {
    let (mut none, mut whole) = (0, 0);
    for seed in 1..=400 {
        let fs = disk(seed);
        fs.fail_after(Some(seed % 16));
        let created = Wal::create(Path::new(DIR), &metadata(), options(&fs, 5000)).is_ok();
        fs.crash();
        if Wal::exists_on(&fs, Path::new(DIR)).unwrap() {
            let read = Wal::read_on(&fs, Path::new(DIR), &start());
            assert_eq!(
                read.expect("a whole log").metadata,
                metadata(),
                "seed {seed}"
            );
            whole += 1;
        } else {
            assert!(!created, "seed {seed}: a created log is gone");
            Wal::create(Path::new(DIR), &metadata(), options(&fs, 5000))
                .expect("the remains are no obstacle");
            none += 1;
        }
    }
    assert!(
        none > 50 && whole > 50,
        "{none} without, {whole} with a log"
    );
}
