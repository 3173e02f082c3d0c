//! The whole test suite: every test program of the workspace with everything the tests need, and the
//! user's walkthrough, on loopback and, where a Docker engine answers, in containers. What fails is run
//! once more alone, at the end.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::built::{self, Program};
use crate::clients;
use crate::error::{Error, Result};
use crate::rerun;
use crate::run::{answers, cargo, line_of, say, shown};
use crate::tally::{Failure, Reader, Tally};
use crate::{in_ci, oracle, programs, root, setup, target_dir};

/// What building and running the tests may take in CI; on two cores they take some thirty minutes.
const LIMIT: Duration = Duration::from_secs(3300);

/// Tests of processes wait more than they compute: so many of them at once keep two cores busy.
const PROCESSES_AT_ONCE: (&str, &str) = ("crates/testkit/tests/processes/main.rs", "3");

/// How nice those are that only take what processor time is left.
const LAST: &str = "19";

/// Tests that take a time of their own, whatever else runs, and how nice they are: the fuzzers only compute, and members
/// on a bad network may be slow.
const BESIDE: [(&str, &str); 2] = [
    ("crates/fuzz/tests/targets.rs", LAST),
    ("crates/testkit/tests/faults/main.rs", "5"),
];

/// Seeds of the simulator in a run of the suite: some two minutes on two cores.
const SIMULATIONS: &str = "2000";

/// Runs everything. `failed_before`: failures of earlier steps, for the summary.
///
/// The last line printed is `N passed, N failed, N skipped`; true if nothing failed.
#[must_use]
pub fn test(failed_before: u64) -> bool {
    let start = Instant::now();
    let mut tally = Tally {
        failed: failed_before,
        ..Tally::default()
    };
    if let Err(why) = all(&mut tally) {
        say(&format!("FAILED: {why}"));
        tally.failed += 1;
    }
    for flaky in &tally.flaky {
        say(&format!(
            "flaky: {}: when it failed, it printed",
            flaky.name
        ));
        print(&flaky.output);
    }
    for reason in &tally.reasons {
        say(&format!("skipped: {reason}"));
    }
    for flaky in &tally.flaky {
        say(&format!(
            "flaky: {}: failed among the others, passed alone; that is a bug to be fixed",
            flaky.name
        ));
    }
    say(&format!(
        "the test suite took {:.0} s",
        start.elapsed().as_secs_f64()
    ));
    print(&tally.to_string());
    tally.failed == 0
}

fn all(tally: &mut Tally) -> Result<()> {
    let oracle = match oracle::ensure() {
        Ok(dir) => Some(dir),
        // There a gap is a failure: the tests that need it say so themselves.
        Err(why) => {
            say(&format!(
                "the original's programs are not here ({why}); tests that compare with them are {}",
                if in_ci() { "failures" } else { "skipped" }
            ));
            None
        }
    };
    let ours = programs::build()?;
    let mut variables = vec![
        ("FERRITE_BIN_DIR", ours.clone()),
        (clients::VARIABLE, clients::ensure()?),
    ];
    if let Some(dir) = oracle {
        variables.push((oracle::VARIABLE, dir));
    }
    match oracle::older() {
        Ok(program) => variables.push((oracle::OLDER, program)),
        Err(why) => say(&format!(
            "etcd 3.4 is not here ({why}); tests of its folders are skipped"
        )),
    }
    if let Err(why) = guides_need() {
        say(&format!(
            "what the guides' commands need is not all here: {why}"
        ));
    }
    let suite = Suite {
        variables,
        deadline: Instant::now() + LIMIT,
        show: print,
    };
    let failures = match suite.programs(tally) {
        Ok(failures) => failures,
        Err(why) => {
            say(&format!("FAILED: {why}"));
            tally.failed += 1;
            Vec::new()
        }
    };
    walkthroughs(&ours, tally);
    // Last, so that nothing else runs.
    suite.again(failures, tally);
    Ok(())
}

/// How the test programs are run.
struct Suite {
    /// Where the tests find what they need.
    variables: Vec<(&'static str, PathBuf)>,
    /// Where nobody watches, a test that hangs must not hang the whole run.
    deadline: Instant,
    /// Where the tests' output goes.
    show: fn(&str),
}

impl Suite {
    /// Builds the test programs and runs them all, and the examples in the docs; the tests that failed.
    fn programs(&self, tally: &mut Tally) -> Result<Vec<(Program, Failure)>> {
        let mut failures = Vec::new();
        let simulations = self.simulations()?;
        let mut beside = Vec::new();
        let mut others = Vec::new();
        for program in built::build()? {
            match (BESIDE.iter()).find(|(source, _)| program.source == Path::new(source)) {
                Some((_, nice)) => {
                    let mut command = program.command();
                    command.arg("--show-output");
                    let log = format!("{}.log", program.source.display()).replace('/', "-");
                    beside.push((self.beside(&command, nice, &log)?, program));
                }
                None => others.push(program),
            }
        }
        for program in others {
            say(&format!("{}", program.source.display()));
            let mut command = program.command();
            command.arg("--show-output");
            let (source, threads) = PROCESSES_AT_ONCE;
            if program.source == Path::new(source) {
                command.args(["--test-threads", threads]);
            }
            let failed = self.counted(command, tally)?;
            failures.extend(failed.into_iter().map(|test| (program.clone(), test)));
        }
        let mut examples = cargo();
        examples
            .args(["test", "--locked", "--workspace", "--no-fail-fast", "--doc"])
            .args(["--", "--show-output"]);
        say(&line_of(&examples));
        // These do not depend on what else runs.
        self.counted(examples, tally)?;
        for (running, program) in beside {
            say(&running.line);
            let failed = self.ended(running, tally)?;
            failures.extend(failed.into_iter().map(|test| (program.clone(), test)));
        }
        // One thread each, on simulated time: a second run would say the same.
        say(&simulations.line);
        self.ended(simulations, tally)?;
        Ok(failures)
    }

    /// The simulator again, built for speed and with its deliberate mistakes: thousands of seeds. They need no clock, and
    /// take what processor time the other tests leave.
    fn simulations(&self) -> Result<Running> {
        let mut simulations = cargo();
        simulations
            .args(["test", "--locked", "--profile", "sim"])
            .args(["-p", "ferrite-sim", "--features", "mutations"])
            .args(["--test", "seeds", "--test", "mutations"])
            .args(["--no-fail-fast", "--", "--show-output"])
            .env("FERRITE_SIM_SEEDS", SIMULATIONS);
        self.beside(&simulations, LAST, "simulations.log")
    }

    /// Starts something that takes what processor time other tests leave; what it prints goes to a file in the build folder
    /// meanwhile.
    fn beside(&self, command: &Command, nice: &str, log: &str) -> Result<Running> {
        let line = line_of(command);
        let path = target_dir().join(log);
        let doing = format!("{}", path.display());
        let output = File::create(&path).map_err(Error::io(doing.clone()))?;
        let mut last = Command::new("nice");
        last.args(["-n", nice])
            .arg(command.get_program())
            .args(command.get_args())
            .current_dir(command.get_current_dir().unwrap_or(&root()));
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => last.env(name, value),
                None => last.env_remove(name),
            };
        }
        last.envs(self.variables.iter().map(|(name, value)| (name, value)));
        let child = self
            .limited(last)
            .stdin(Stdio::null())
            .stdout(output)
            .spawn()
            .map_err(Error::io(format!("cannot run {line}")))?;
        let output = File::open(&path).map_err(Error::io(doing))?;
        Ok(Running {
            line,
            child,
            output,
        })
    }

    /// Waits for something that ran beside the others, and counts what it printed; the tests that failed.
    fn ended(&self, mut running: Running, tally: &mut Tally) -> Result<Vec<Failure>> {
        let before = tally.failed;
        let status = (running.child.wait()).map_err(Error::io(&running.line))?;
        let mut reader = Reader::default();
        self.read(running.output, &mut reader, tally)?;
        judge(&running.line, status, before, tally);
        Ok(reader.failures())
    }

    /// Runs failed tests once more, each alone.
    fn again(&self, failures: Vec<(Program, Failure)>, tally: &mut Tally) {
        for (program, failure) in rerun::chosen(failures) {
            let name = format!("{} ({})", failure.test, program.source.display());
            say(&format!("once more, alone: {name}"));
            let mut command = program.command();
            command.args(rerun::words(&failure));
            let mut again = Tally::default();
            if let Err(why) = self.counted(command, &mut again) {
                say(&why.to_string());
                continue;
            }
            if !rerun::judge(&program, failure, &again, tally) {
                say(&format!("fails alone, too: {name}"));
            }
        }
    }

    /// Runs something that prints what `cargo test` prints, shows and counts it; the tests that failed.
    fn counted(&self, command: Command, tally: &mut Tally) -> Result<Vec<Failure>> {
        let line = line_of(&command);
        let mut command = self.limited(command);
        for (name, value) in &self.variables {
            command.env(name, value);
        }
        let before = tally.failed;
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(Error::io(format!("cannot run {line}")))?;
        let mut reader = Reader::default();
        if let Some(output) = child.stdout.take() {
            self.read(output, &mut reader, tally)?;
        }
        let status = child.wait().map_err(Error::io(&line))?;
        judge(&line, status, before, tally);
        Ok(reader.failures())
    }

    /// Shows and counts what test programs print.
    fn read(&self, output: impl Read, reader: &mut Reader, tally: &mut Tally) -> Result<()> {
        for bytes in BufReader::new(output).split(b'\n') {
            let bytes = bytes.map_err(Error::io("reading the tests' output"))?;
            let text = String::from_utf8_lossy(&bytes);
            if reader.line(text.trim_end(), tally) {
                (self.show)(&text);
            }
        }
        reader.finish(tally);
        Ok(())
    }

    /// In CI, the same command under the time that is left.
    fn limited(&self, command: Command) -> Command {
        if !in_ci() {
            return command;
        }
        // `timeout 0` would be no limit at all.
        let left = self.deadline.saturating_duration_since(Instant::now());
        let seconds = left.as_secs().max(1).to_string();
        let mut limited = Command::new("timeout");
        limited
            .args(["--kill-after=10", &seconds])
            .arg(command.get_program())
            .args(command.get_args());
        if let Some(dir) = command.get_current_dir() {
            limited.current_dir(dir);
        }
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => limited.env(name, value),
                None => limited.env_remove(name),
            };
        }
        limited
    }
}

/// Something that runs while other tests do.
struct Running {
    line: String,
    child: Child,
    output: File,
}

/// What does not compile or start has printed nothing to count.
fn judge(line: &str, status: ExitStatus, failed_before: u64, tally: &mut Tally) {
    if !status.success() && tally.failed == failed_before {
        say(&format!("FAILED: {line}: {status}"));
        tally.failed += 1;
    }
}

fn print(text: &str) {
    // Nobody reading is no reason to stop.
    let _ = writeln!(std::io::stdout(), "{text}");
}

fn walkthroughs(programs: &Path, tally: &mut Tally) {
    let dev = programs.join("ferrite-dev");
    let mut loopback = Command::new(&dev);
    loopback.args(["walkthrough", "--loopback", "--bin-dir"]);
    tally.step(passes(loopback.arg(programs)));

    if !answers("docker", &["version", "--format", "{{.Server.Version}}"]) {
        let reason = "the walkthrough in containers: no Docker engine answers on this machine";
        return tally.skip(reason);
    }
    if let Err(why) = docker_needs() {
        say(&why.to_string());
        return tally.step(false);
    }
    let mut docker = Command::new(&dev);
    docker.args(["walkthrough", "--docker", "--build", "--bin-dir"]);
    tally.step(passes(docker.arg(programs)));
}

fn passes(command: &mut Command) -> bool {
    match shown(command) {
        Ok(()) => true,
        Err(why) => {
            say(&format!("FAILED: {why}"));
            false
        }
    }
}

/// What an operator types besides our programs, where the guides are followed.
fn guides_need() -> Result<()> {
    for program in ["openssl", "curl"] {
        if !answers(program, &["version"]) && !answers(program, &["--version"]) {
            setup::packages(&[program])?;
        }
    }
    Ok(())
}

/// A Compose, and the tool that makes a base image where no image registry is reached.
fn docker_needs() -> Result<()> {
    if !answers("docker", &["compose", "version"]) && !answers("docker-compose", &["version"]) {
        setup::packages(&["docker-compose"])?;
    }
    let base = ["debian:bookworm-slim", "ferrite-base:bookworm"];
    let here = base
        .iter()
        .any(|image| answers("docker", &["image", "inspect", image]));
    if !here && !answers("debootstrap", &["--version"]) {
        setup::packages(&["debootstrap"])?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Speaks like a test program with three tests. Run together, two fail; alone, one of these passes.
    const PROGRAM: &str = "#!/bin/sh
if [ \"$1\" = --exact ]; then
    echo 'running 1 test'
    [ \"$2\" = slow ] && echo 'test result: ok. 1 passed; 0 failed; 0 ignored' && exit 0
    printf 'failures:\\n\\nfailures:\\n    %s\\n\\n' \"$2\"
    echo 'test result: FAILED. 0 passed; 1 failed; 0 ignored'
    exit 101
fi
cat <<END
running 3 tests

failures:

---- slow stdout ----
too slow
---- wrong stdout ----
wrong

failures:
    slow
    wrong

test result: FAILED. 1 passed; 2 failed; 0 ignored
END
exit 101
";

    #[test]
    fn a_failed_test_is_run_again_alone_and_only_what_fails_again_has_failed() {
        let dir = std::env::temp_dir().join(format!("xtask-suite-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a folder");
        let executable = dir.join("area");
        std::fs::write(&executable, PROGRAM).expect("a program");
        std::fs::set_permissions(&executable, std::fs::Permissions::from_mode(0o755))
            .expect("it may be run");
        let program = Program {
            source: "tests/area.rs".into(),
            package: dir.clone(),
            executable,
        };
        let suite = Suite {
            variables: Vec::new(),
            deadline: Instant::now() + LIMIT,
            show: |_| {},
        };
        let mut tally = Tally::default();
        let failed = suite.counted(program.command(), &mut tally);
        assert_eq!(tally.to_string(), "1 passed, 2 failed, 0 skipped");
        let failed = failed.expect("it runs").into_iter();
        suite.again(
            failed.map(|test| (program.clone(), test)).collect(),
            &mut tally,
        );
        let _ = std::fs::remove_dir_all(&dir);
        assert_eq!(tally.to_string(), "2 passed, 1 failed, 0 skipped");
        let names: Vec<_> = tally.flaky.iter().map(|flaky| &flaky.name).collect();
        assert_eq!(names, ["slow (tests/area.rs)"]);
        assert_eq!(tally.flaky[0].output, "too slow");
    }
}
