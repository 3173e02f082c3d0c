//! Makes the mistakes of `docs/known-bugs.md` again, one at a time, in a copy of the source, and runs the test that
//! is named there for each: it has to fail. A test that passes whatever is done to the code proves nothing.
//!
//! For what can be broken in one place and is held by a test of one crate, or by one with real processes, which then
//! are those of the broken copy; a few are about the order of threads and stand in no row. Mistakes that need a
//! schedule are made within the simulator.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::error::{Error, Result};
use crate::run::{cargo, say};
use crate::{root, target_dir};

/// One mistake.
struct Mistake {
    /// Its row in `docs/known-bugs.md`, or a name.
    row: &'static str,
    /// What is done wrong.
    what: &'static str,
    file: &'static str,
    /// What stands there, once, and what takes its place.
    from: &'static str,
    to: &'static str,
    package: &'static str,
    /// The test program and the test in it.
    test: (&'static str, &'static str),
}

/// Whose tests start the programs of the copy.
const WITH_PROCESSES: &str = "ferrite-testkit";
/// The program that they start.
const SERVER: &str = "etcd";

const MISTAKES: &[Mistake] = &[
    Mistake {
        row: "KB-04",
        what: "a commit does not wait for its pages before the meta page names them",
        file: "crates/bolt/src/write.rs",
        from: "let data: Duration = sync()?;",
        to: "let data: Duration = Duration::ZERO;",
        package: "ferrite-bolt",
        test: ("faults", "every_operation_may_fail_or_tear"),
    },
    Mistake {
        row: "KB-05",
        what: "progress is promised one revision ahead",
        file: "crates/watch/src/registry.rs",
        from: "    fn answer_progress(&mut self, id: StreamId) {\n        let revision = self.published;",
        to: "    fn answer_progress(&mut self, id: StreamId) {\n        let revision = self.published + 1;",
        package: "ferrite-watch",
        test: (
            "rules",
            "progress_stands_behind_the_events_it_covers_and_waits_for_what_readers_see",
        ),
    },
    Mistake {
        row: "KB-09",
        what: "the revision is that of the newest key that is left",
        file: "crates/mvcc/src/store.rs",
        from: "index.newest_main().max(compacted).max(1)",
        to: "index.newest_main().max(1)",
        package: "ferrite-mvcc",
        test: (
            "compaction",
            "the_revision_survives_compaction_of_the_last_tombstone",
        ),
    },
    Mistake {
        row: "KB-10",
        what: "a compaction takes the deletion at its own revision",
        file: "crates/mvcc/src/index.rs",
        from: "i64::from(!mutation!(\"tombstone-too-early\"))",
        to: "0",
        package: "ferrite-mvcc",
        test: (
            "compaction",
            "events_from_the_compacted_revision_on_are_complete",
        ),
    },
    Mistake {
        row: "KB-12",
        what: "two uploads are handed on side by side",
        file: "crates/peer/src/serve.rs",
        from: "let _installing = shared.installing.lock().await;",
        to: "",
        package: "ferrite-peer",
        test: ("snapshots", "two_at_once_are_handed_on_one_after_the_other"),
    },
    Mistake {
        row: "KB-13",
        what: "the revision of a range in a transaction is not looked at beforehand",
        file: "crates/mvcc/src/kv/apply.rs",
        from: "PlannedOp::Range(range) => check_revision(range, compacted, current)?,",
        to: "PlannedOp::Range(_) => {}",
        package: "ferrite-mvcc",
        test: ("kv_rows", "kv23_kb13_revisions_in_a_txn"),
    },
    Mistake {
        row: "KB-14",
        what: "a watcher begins one revision before its start",
        file: "crates/watch/src/registry.rs",
        from: "            start => start,\n",
        to: "            start => start - 1,\n",
        package: "ferrite-watch",
        test: ("rules", "nothing_reaches_a_watcher_before_its_start"),
    },
    Mistake {
        row: "KB-15",
        what: "an element of a page is taken where it says that it lies",
        file: "crates/bolt/src/page.rs",
        from: "if start < table as u64 || end > buf.len() as u64 {",
        to: "if start < table as u64 && end > buf.len() as u64 {",
        package: "ferrite-bolt",
        test: ("corrupt", "random_damage_is_named_or_harmless"),
    },
    Mistake {
        row: "KB-18",
        what: "what a leader decided in one term counts in the next",
        file: "crates/node/src/stage/raft.rs",
        from: "self.raw.is_leader() && self.raw.basic_status().hard_state.term == term;",
        to: "self.raw.is_leader() && term > 0;",
        package: "ferrite-node",
        test: ("in_term", "a_leader_takes_a_proposal_of_its_own_term_only"),
    },
    Mistake {
        row: "KB-21",
        what: "the hash of the keys takes the deletion at the compacted revision in",
        file: "crates/mvcc/src/hash.rs",
        from: "        if at.tombstone {",
        to: "        if false && at.tombstone {",
        package: "ferrite-mvcc",
        test: (
            "golden_hashkv",
            "hashes_equal_etcds_whatever_the_physical_state",
        ),
    },
    Mistake {
        row: "KB-22",
        what: "a pass takes every lease that is due",
        file: "crates/lease/src/expiry.rs",
        from: "while expired.len() < limit\n",
        to: "while expired.len() < limit.max(usize::MAX)\n",
        package: "ferrite-lease",
        test: (
            "expiry",
            "the_longest_due_go_first_and_a_pass_takes_no_more_than_it_may",
        ),
    },
    Mistake {
        row: "KB-23",
        what: "a start attaches keys to leases that are gone",
        file: "crates/mvcc/src/store.rs",
        from: "if leases.exists(lease) {",
        to: "if lease != 0 {",
        package: "ferrite-mvcc",
        test: ("kv_rows", "kb23_restart_attaches_to_existing_leases_only"),
    },
    Mistake {
        row: "KB-24",
        what: "nested transactions cost nothing",
        file: "crates/mvcc/src/kv/cost.rs",
        from: "Some(Request::RequestTxn(txn)) => txn_cost(txn),",
        to: "Some(Request::RequestTxn(_)) => 0,",
        package: "ferrite-mvcc",
        test: ("kv_rows", "kv29_costs"),
    },
    Mistake {
        row: "KB-02",
        what: "the log thread tells of writes that it has not synced",
        file: "crates/node/src/stage/log.rs",
        from: "self.wal.sync()?;",
        to: "",
        package: "ferrite-shuttled",
        test: (
            "orders",
            "group_commit::what_is_acknowledged_survives_the_power_going_at_any_moment",
        ),
    },
    Mistake {
        row: "KB-16",
        what: "a leader answers reads without asking whether it leads",
        file: "crates/node/src/stage/raft.rs",
        from: "alone && self.raw.is_leader() && self.raw.entry_term(committed)",
        to: "self.raw.is_leader() && (alone || true) && self.raw.entry_term(committed)",
        package: WITH_PROCESSES,
        test: (
            "processes",
            "pause::a_paused_leader_serves_nothing_stale_when_it_goes_on",
        ),
    },
    Mistake {
        row: "KB-17",
        what: "a watch of all keys from one on asks for permission on that one only",
        file: "crates/server/src/service/watch.rs",
        from: "state.is_range_permitted(who, key, &request.range_end)",
        to: "state.is_range_permitted(who, key, if request.range_end[..] == [0] { &[] } else { &request.range_end })",
        package: WITH_PROCESSES,
        test: ("processes", "auth::callers_are_asked_what_3_7_asks_of_them"),
    },
    Mistake {
        row: "KB-19",
        what: "a lock is given while the one before it is held",
        file: "crates/server/src/service/contest.rs",
        from: "        let Some(last) = before.kvs.first() else {\n",
        to: "        let Some(last) = before.kvs.first().filter(|_| false) else {\n",
        package: WITH_PROCESSES,
        test: (
            "processes",
            "known_bugs::kb19_a_transaction_that_asks_for_the_locks_key_is_fenced",
        ),
    },
    Mistake {
        row: "KB-20",
        what: "the answer to a watch from now on names a later revision",
        file: "crates/server/src/service/watch.rs",
        from: "            header: Some(self.0.header(revision)),\n            watch_id,\n            created: true,",
        to: "            header: Some(self.0.header(revision + 1)),\n            watch_id,\n            created: true,",
        package: WITH_PROCESSES,
        test: (
            "processes",
            "known_bugs::kb20_a_watch_from_now_is_resumed_without_a_gap",
        ),
    },
    Mistake {
        row: "KB-25",
        what: "connections of members have hours for whatever they send",
        file: "crates/peer/src/serve.rs",
        from: "(config.read_timeout, config.write_timeout)",
        to: "(config.read_timeout * 100_000, config.write_timeout)",
        package: "ferrite-peer",
        test: ("http", "idle_and_slow_connections_are_closed"),
    },
    Mistake {
        row: "orders-1",
        what: "a reader does not look again before it sleeps",
        file: "crates/node/src/wait.rs",
        from: "        // Looked at again under the lock: `advance` publishes before it takes the lock.\n        if self.get() >= index {",
        to: "        if false {",
        package: "ferrite-shuttled",
        test: ("orders", "waiters::no_reader_sleeps_over_its_index"),
    },
    Mistake {
        row: "orders-2",
        what: "a batch leaves the buffer before the file shows it",
        file: "crates/mvcc/src/backend.rs",
        from: "        let old = (\n            shared.frozen.take(),\n            std::mem::replace(&mut shared.file, file),\n        );\n        drop(shared);\n        // freeing",
        to: "        let old = shared.frozen.take();\n        drop(shared);\n        let old = (old, std::mem::replace(&mut self.shared.write().file, file));\n        // freeing",
        package: "ferrite-shuttled",
        test: (
            "orders",
            "store::what_was_seen_stays_in_sight_while_it_is_committed",
        ),
    },
];

/// The rows of which this can make a mistake.
pub fn rows() -> impl Iterator<Item = &'static str> {
    MISTAKES.iter().map(|mistake| mistake.row)
}

/// The mistakes that do not fit the source any more: what is to be broken must stand there once.
pub fn misfits() -> Vec<String> {
    let fits = |mistake: &&Mistake| {
        std::fs::read_to_string(root().join(mistake.file))
            .is_ok_and(|text| text.matches(mistake.from).count() == 1)
    };
    let misfits = MISTAKES.iter().filter(|mistake| !fits(mistake));
    misfits
        .map(|mistake| format!("{}: {}", mistake.row, mistake.file))
        .collect()
}

/// Makes the mistakes of these rows, or all, and runs their tests.
///
/// # Errors
/// A test that passed, a mistake that does not fit the source any more, or no copy of the source.
pub fn all(asked: &[String]) -> Result<()> {
    if asked.iter().any(|row| rows().all(|known| known != row)) {
        let rows: Vec<&str> = rows().collect();
        return Err(Error::told(format!("there are {}", rows.join(", "))));
    }
    let chosen: Vec<&Mistake> = MISTAKES
        .iter()
        .filter(|mistake| asked.is_empty() || asked.iter().any(|row| row == mistake.row))
        .collect();
    let copy = target_dir().join("broken");
    let _absent = git(&["worktree", "remove", "--force", &copy.display().to_string()]);
    if !git(&[
        "worktree",
        "add",
        "--detach",
        &copy.display().to_string(),
        "HEAD",
    ]) {
        return Err(Error::told(format!(
            "git makes no copy of the source in {}",
            copy.display()
        )));
    }
    let mut unnoticed = Vec::new();
    for mistake in &chosen {
        match noticed(mistake, &copy) {
            Ok(()) => say(&format!("{}: {}: noticed", mistake.row, mistake.what)),
            Err(why) => {
                say(&format!("{}: {}: {why}", mistake.row, mistake.what));
                unnoticed.push(mistake.row);
            }
        }
    }
    let _left = git(&["worktree", "remove", "--force", &copy.display().to_string()]);
    if unnoticed.is_empty() {
        say(&format!("{} mistakes, all noticed", chosen.len()));
        Ok(())
    } else {
        Err(Error::told(format!("unnoticed: {}", unnoticed.join(", "))))
    }
}

fn git(words: &[&str]) -> bool {
    Command::new("git")
        .args(words)
        .current_dir(root())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// Makes one mistake, and takes it back.
fn noticed(mistake: &Mistake, copy: &Path) -> std::result::Result<(), String> {
    let path = copy.join(mistake.file);
    let sound = std::fs::read_to_string(&path).map_err(|error| error.to_string())?;
    if sound.matches(mistake.from).count() != 1 {
        return Err(format!(
            "{} does not hold once what is to be broken",
            mistake.file
        ));
    }
    let broken = sound.replace(mistake.from, mistake.to);
    std::fs::write(&path, broken).map_err(|error| error.to_string())?;
    let outcome = outcome(mistake, copy);
    std::fs::write(&path, sound).map_err(|error| error.to_string())?;
    let outcome = outcome?;
    let words = String::from_utf8_lossy(&outcome.stdout);
    let test = mistake.test.1;
    if outcome.status.success() {
        Err(format!("{test} passes all the same"))
    } else if words.contains("test result: FAILED") || words.contains("running 1 test") {
        Ok(())
    } else {
        let words = String::from_utf8_lossy(&outcome.stderr);
        Err(format!("it does not build: {words}"))
    }
}

/// Runs the test in the copy.
fn outcome(mistake: &Mistake, copy: &Path) -> std::result::Result<Output, String> {
    let (program, test) = mistake.test;
    let mut command = cargo();
    command
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", target_dir())
        .args(["test", "--locked"])
        .stdin(Stdio::null());
    if mistake.package == WITH_PROCESSES {
        command.env("FERRITE_BIN_DIR", broken_programs(copy)?);
        command.arg("--workspace");
    } else {
        command.args(["-p", mistake.package]);
    }
    command.args(["--test", program, "--", "--exact", test]);
    command.output().map_err(|error| error.to_string())
}

/// Builds the server of the copy; where it is. It must not stay where the sound one belongs.
fn broken_programs(copy: &Path) -> std::result::Result<PathBuf, String> {
    let built = cargo()
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", target_dir())
        .args(["build", "--locked", "--workspace", "--bin", SERVER])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if !built.status.success() {
        let words = String::from_utf8_lossy(&built.stderr);
        return Err(format!("it does not build: {words}"));
    }
    let programs = target_dir().join("broken-programs");
    std::fs::create_dir_all(&programs)
        .and_then(|()| {
            let from = target_dir().join("debug").join(SERVER);
            std::fs::rename(from, programs.join(SERVER))
        })
        .map_err(|error| format!("{}: {error}", programs.display()))?;
    Ok(programs)
}
