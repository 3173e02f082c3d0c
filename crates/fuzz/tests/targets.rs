//! Every target for a while: its regressions, its corpus, and inputs made from them.
//!
//! `FERRITE_FUZZ_SECONDS` makes it longer, `FERRITE_FUZZ_SEED` takes another sequence of inputs. A failure is
//! saved under `regressions` and printed with the command that repeats it.

use std::time::Duration;

use ferrite_fuzz::runner::{self, Limit};
use ferrite_fuzz::{TARGETS, memory, target};

#[global_allocator]
static COUNTING: memory::Counting = memory::Counting;

/// Seconds a target has in the suite. Fifteen of them on two cores make four minutes, beside other tests.
const SECONDS: u64 = 30;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn holds(name: &str) {
    let target = target(name).expect("a target of this name");
    let limit = Limit {
        inputs: u64::MAX,
        time: Duration::from_secs(number("FERRITE_FUZZ_SECONDS").unwrap_or(SECONDS)),
    };
    // Any seed will do; the same one every day would find nothing that yesterday did not.
    let seed = number("FERRITE_FUZZ_SEED").unwrap_or_else(|| {
        let today = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        today.map_or(1, |since| since.as_secs() / 86_400)
    });
    match runner::run(target, seed, limit, &mut Vec::new()) {
        Ok(ran) => eprintln!(
            "{name}: seed {seed}, {} inputs, {} of them brought up something new, {} things seen",
            ran.inputs, ran.new, ran.features
        ),
        Err(failure) => panic!(
            "{name}: seed {seed}: {}\nagain: cargo run -p ferrite-fuzz -- replay {name} {}",
            failure.reason,
            failure.saved.display()
        ),
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                holds(stringify!($name));
            }
        )*
        const TESTED: &[&str] = &[$(stringify!($name)),*];
    };
}

targets! {
    wal_records
    wal_segment
    snap
    pages
    database
    msgapp_stream
    message_stream
    upload
    requests
    entries
    flags
    yaml
    disk
    json
    websocket
}

#[test]
fn every_target_is_tested_and_has_a_file_for_cargo_fuzz() {
    for target in TARGETS {
        assert!(TESTED.contains(&target.name), "{} is not", target.name);
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../fuzz/fuzz_targets")
            .join(format!("{}.rs", target.name));
        let text = std::fs::read_to_string(&file)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        assert!(text.contains(&format!("{:?}", target.name)), "{text}");
    }
}

/// A runner that finds nothing would prove nothing.
#[test]
fn the_runner_finds_a_panic_a_hoard_and_keeps_the_input_short() {
    fn panics(input: &[u8]) {
        if input.len() > 3 && input[0] == b'a' {
            ferrite_fuzz::feature("a");
            if input[1] > 200 {
                ferrite_fuzz::feature("b");
                assert!(input[2] < 200, "found");
            }
        }
    }
    fn hoards(input: &[u8]) {
        let len = input.first().map_or(0, |byte| usize::from(*byte) << 18);
        assert_eq!(vec![0u8; len].len(), len);
    }
    let limit = Limit {
        inputs: 2_000_000,
        time: Duration::from_secs(60),
    };
    for (run, reason, most) in [
        (panics as fn(&[u8]), "found", 4),
        (hoards as fn(&[u8]), "asked for", 1),
    ] {
        let target = ferrite_fuzz::Target {
            name: "of_the_runner",
            about: "",
            run,
            seeds: || vec![b"a letter".to_vec()],
            len_max: 64,
        };
        let failure =
            runner::run(&target, 1, limit, &mut Vec::new()).expect_err("the runner finds it");
        let _cleaned = std::fs::remove_dir_all(runner::folder("regressions", &target));
        assert!(failure.reason.contains(reason), "{}", failure.reason);
        assert!(failure.input.len() <= most, "{:?}", failure.input);
    }
}
