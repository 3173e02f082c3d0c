//! Makes the mistakes of `docs/known-bugs.md` again, one at a time, in a copy of the source, and runs the test that
//! is named there for each: it has to fail. A test that passes whatever is done to the code proves nothing.
//!
//! For what can be broken in one place and is held by a test of one crate; a few are about the order of threads
//! and stand in no row. Mistakes that need a schedule are
//! made within the simulator.

use std::path::Path;
use std::process::{Command, Stdio};

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
        from: "self.tombstones.front().map(|g| g.at.saturating_add(1))",
        to: "self.tombstones.front().map(|g| g.at)",
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
        from: "if self.raw.is_leader() && self.raw.basic_status().hard_state.term == term {",
        to: "if self.raw.is_leader() && term > 0 {",
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

/// Makes the mistakes whose row is `row`, or all, and runs their tests.
///
/// # Errors
/// A test that passed, a mistake that does not fit the source any more, or no copy of the source.
pub fn all(row: Option<&str>) -> Result<()> {
    let chosen: Vec<&Mistake> = MISTAKES
        .iter()
        .filter(|mistake| row.is_none_or(|row| row == mistake.row))
        .collect();
    if chosen.is_empty() {
        let rows: Vec<&str> = MISTAKES.iter().map(|mistake| mistake.row).collect();
        return Err(Error::told(format!("there are {}", rows.join(", "))));
    }
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
    let (program, test) = mistake.test;
    let outcome = cargo()
        .current_dir(copy)
        .env("CARGO_TARGET_DIR", target_dir())
        .args(["test", "--locked", "-p", mistake.package, "--test", program])
        .args(["--", "--exact", test])
        .stdin(Stdio::null())
        .output();
    std::fs::write(&path, sound).map_err(|error| error.to_string())?;
    let outcome = outcome.map_err(|error| error.to_string())?;
    let words = String::from_utf8_lossy(&outcome.stdout);
    if outcome.status.success() {
        Err(format!("{test} passes all the same"))
    } else if words.contains("test result: FAILED") || words.contains("running 1 test") {
        Ok(())
    } else {
        let words = String::from_utf8_lossy(&outcome.stderr);
        Err(format!("it does not build: {words}"))
    }
}
