//! Runs a target over its corpus, its regressions and inputs mutated from them, and keeps what fails.
//!
//! The sequence of inputs follows from the seed, and from nothing else as long as no limit of time cuts it.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::mutate::{Random, mutate};
use crate::{Target, memory, take_features};

/// An input that takes longer hangs. Ten thousand times what one takes, on a machine whose other work goes first.
const INPUT_TIME_MAX: Duration = Duration::from_secs(90);
/// Bytes a target may hold beside what grows with its input: its own fixtures, pages and buffers.
const HELD_BYTES_MAX: usize = 48 << 20;
/// Bytes held per byte of input. A decoded message of empty entries costs some forty times its bytes.
const HELD_PER_BYTE: usize = 256;
/// A single request for more is one that believes a length field.
const REQUEST_BYTES_MAX: usize = 16 << 20;
/// Inputs kept for what they brought up, beside the corpus.
const KEPT_MAX: usize = 2_000;

/// When to stop.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// Inputs, those of the corpus included.
    pub inputs: u64,
    /// Time.
    pub time: Duration,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ran {
    /// Inputs tried.
    pub inputs: u64,
    /// Inputs that brought up something new.
    pub new: u64,
    /// Different things seen.
    pub features: usize,
}

/// An input that fails.
#[derive(Debug)]
pub struct Failure {
    /// The input, made as short as was easy.
    pub input: Vec<u8>,
    /// What is wrong with it.
    pub reason: String,
    /// Where it was saved.
    pub saved: PathBuf,
}

/// The folder of this crate's data.
pub fn folder(kind: &str, target: &Target) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join(kind)
        .join(target.name)
}

/// The inputs in a folder, in the order of their names.
pub fn saved(folder: &Path) -> Vec<Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    paths.sort();
    paths
        .iter()
        .filter_map(|path| std::fs::read(path).ok())
        .collect()
}

/// One input.
///
/// # Errors
/// What is wrong.
pub fn one(target: &Target, input: &[u8]) -> Result<BTreeSet<u64>, String> {
    take_features();
    let (outcome, used) = memory::during(|| catch_unwind(AssertUnwindSafe(|| (target.run)(input))));
    let features = take_features();
    if let Err(panic) = outcome {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        return Err(format!("a panic: {}", text.unwrap_or("without words")));
    }
    let held = HELD_BYTES_MAX + input.len() * HELD_PER_BYTE;
    if used.peak > held {
        return Err(format!(
            "held {} bytes for {} of input, at most {held} are in order",
            used.peak,
            input.len()
        ));
    }
    if used.largest > REQUEST_BYTES_MAX {
        return Err(format!(
            "asked for {} bytes at once for {} of input",
            used.largest,
            input.len()
        ));
    }
    Ok(features)
}

/// Ends the process when one input takes too long: nothing else gets out of an endless loop.
struct Watchdog {
    shared: Arc<(Mutex<Watched>, Condvar)>,
}

#[derive(Default)]
struct Watched {
    since: Option<(Instant, Vec<u8>)>,
    done: bool,
}

impl Watchdog {
    fn start(target: Target) -> Self {
        let shared = Arc::new((Mutex::new(Watched::default()), Condvar::new()));
        let seen = Arc::clone(&shared);
        std::thread::spawn(move || {
            let (watched, changed) = &*seen;
            let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
            while !watched.done {
                if let Some((since, input)) = &watched.since
                    && since.elapsed() > INPUT_TIME_MAX
                {
                    let path = save(&target, input);
                    eprintln!(
                        "{}: an input of {} bytes takes longer than {INPUT_TIME_MAX:?}: {}",
                        target.name,
                        input.len(),
                        path.display()
                    );
                    std::process::abort();
                }
                watched = changed
                    .wait_timeout(watched, Duration::from_millis(500))
                    .unwrap_or_else(PoisonError::into_inner)
                    .0;
            }
        });
        Watchdog { shared }
    }

    fn set(&self, since: Option<(Instant, Vec<u8>)>) {
        let mut watched = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        watched.since = since;
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let mut watched = self.shared.0.lock().unwrap_or_else(PoisonError::into_inner);
        watched.done = true;
        self.shared.1.notify_all();
    }
}

fn save(target: &Target, input: &[u8]) -> PathBuf {
    let folder = folder("regressions", target);
    let name = format!("{:08x}", crc32c::crc32c(input));
    let path = folder.join(name);
    let written = std::fs::create_dir_all(&folder).and_then(|()| std::fs::write(&path, input));
    if let Err(error) = written {
        eprintln!(
            "{} cannot be written: {error}; it is {input:?}",
            path.display()
        );
    }
    path
}

/// Runs until the limit or the first failure.
///
/// # Errors
/// The input that fails.
pub fn run(
    target: &Target,
    seed: u64,
    limit: Limit,
    keep: &mut Vec<Vec<u8>>,
) -> Result<Ran, Failure> {
    let watchdog = Watchdog::start(*target);
    let started = Instant::now();
    let mut random = Random::new(seed);
    let mut seen = BTreeSet::new();
    let mut ran = Ran::default();
    let mut pool: Vec<Vec<u8>> = saved(&folder("regressions", target));
    pool.extend(saved(&folder("corpus", target)));
    pool.extend((target.seeds)());
    pool.retain(|input| input.len() <= target.len_max);
    pool.push(Vec::new());
    let first = pool.len();
    let mut next = 0;
    while ran.inputs < limit.inputs && (next < first || started.elapsed() < limit.time) {
        let input = if next < first {
            next += 1;
            pool[next - 1].clone()
        } else {
            // The newest finds are tried more often.
            let pick = if random.below(2) == 0 && pool.len() > first {
                first + random.below(pool.len() - first)
            } else {
                random.below(pool.len())
            };
            mutate(&mut random, &pool[pick], &pool, target.len_max)
        };
        watchdog.set(Some((Instant::now(), input.clone())));
        let outcome = one(target, &input);
        watchdog.set(None);
        ran.inputs += 1;
        match outcome {
            Ok(features) => {
                let known = seen.len();
                seen.extend(features);
                if seen.len() > known {
                    ran.new += 1;
                    if next >= first && pool.len() < first + KEPT_MAX {
                        keep.push(input.clone());
                        pool.push(input);
                    }
                }
            }
            Err(reason) => {
                let (input, reason) = shrink(target, &watchdog, input, reason);
                let saved = save(target, &input);
                return Err(Failure {
                    input,
                    reason,
                    saved,
                });
            }
        }
    }
    ran.features = seen.len();
    Ok(ran)
}

/// Takes pieces out as long as it still fails, whatever the words.
fn shrink(
    target: &Target,
    watchdog: &Watchdog,
    mut input: Vec<u8>,
    mut reason: String,
) -> (Vec<u8>, String) {
    let until = Instant::now() + Duration::from_secs(10);
    let mut piece = input.len() / 2;
    while piece > 0 {
        let mut at = 0;
        while at < input.len() && Instant::now() < until {
            let mut shorter = input.clone();
            shorter.drain(at..(at + piece).min(input.len()));
            watchdog.set(Some((Instant::now(), shorter.clone())));
            let outcome = one(target, &shorter);
            watchdog.set(None);
            match outcome {
                Err(words) => {
                    input = shorter;
                    reason = words;
                }
                Ok(_) => at += piece,
            }
        }
        piece /= 2;
    }
    (input, reason)
}
