//! From a recovered member to its four stages: the one place where they get their parameters, for the
//! threads of a running process and for a simulator alike.

use std::sync::Arc;
use std::time::Instant;

use ferrite_raft::{NO_LIMIT, RawNode, ReadOnlyOption};
use parking_lot::Mutex;

use crate::config::Config;
use crate::recover::{Recovered, StartError};
use crate::stage::apply::{ApplyStage, Params as ApplyParams};
use crate::stage::commit::{CommitStage, Defragmentation};
use crate::stage::log::LogStage;
use crate::stage::raft::{Params, RaftStage};

/// A `.snap` file is due once the log since the last one could fill the log in memory this often.
const SNAPSHOT_LOGS: usize = 2;
/// Bytes of entries in one append message.
const APPEND_BYTES_MAX: u64 = 1 << 20;
/// Append messages under way to one follower.
const INFLIGHT_MESSAGES_MAX: usize = 512;
/// Bytes of entries handed to apply at once.
const APPLY_BYTES_MAX: u64 = 16 << 20;
/// After how many milliseconds an unanswered read-index message is sent again.
pub(crate) const READ_RETRY_MS: u128 = 500;

/// The stages of one member; `R` names whoever waits for a linearizable read.
pub struct Stages<R> {
    /// Consensus.
    pub raft: RaftStage<R>,
    /// The write-ahead log.
    pub log: LogStage,
    /// The replicated state.
    pub apply: ApplyStage,
    /// The database file.
    pub commit: CommitStage,
}

/// Puts the stages together. `seed` spreads the election timeouts; `first_read_context` must differ
/// from what an earlier run of this member used.
///
/// # Errors
/// [`StartError::Raft`]: what was recovered does not fit together.
pub fn assemble<R>(
    config: &Config,
    recovered: Recovered,
    seed: u64,
    first_read_context: u64,
    now: Instant,
) -> Result<Stages<R>, StartError> {
    let member_id = recovered.member_id;
    let applied = recovered.applier.progress().index;
    let snaps = recovered
        .disk
        .snap_dir(&config.snap_dir())
        .timed(Arc::clone(&config.metrics));
    let core = RawNode::new(
        raft_config(config, member_id, applied, seed),
        recovered.storage,
    )?;
    let tick_ms = config.tick.as_millis().max(1);
    let ticks = |ms: u128| usize::try_from(ms / tick_ms).unwrap_or(usize::MAX);
    let raft = RaftStage::new(
        core,
        recovered.hard_state,
        Params {
            id: member_id,
            election_ticks: config.election_ticks,
            read_retry_ticks: ticks(READ_RETRY_MS).max(1),
            hold_ticks: ticks(config.request_timeout().as_millis()),
            catchup_entries: config.snapshot_catchup_entries,
            log_bytes_max: config.budget().log_bytes as u64,
            first_read_context,
        },
    );
    let log = LogStage::new(
        recovered.wal,
        snaps.clone(),
        member_id,
        config.max_wals,
        recovered.last_snapshot,
    );
    let commit = CommitStage {
        backend: recovered.applier.backend().clone(),
        engine: Arc::new(Mutex::new(recovered.engine)),
        disk: recovered.disk,
        snaps,
        database: config.database(),
        database_options: config.database_options(),
        snapshot_count: config.snapshot_count,
        snapshot_bytes: config.budget().log_bytes * SNAPSHOT_LOGS,
        bytes_since_snapshot: 0,
        max_snapshots: config.max_snapshots,
        last_snapshot: recovered.last_snapshot,
        defragmentation: Defragmentation::default(),
    };
    let apply = ApplyStage::new(
        recovered.applier,
        ApplyParams {
            snap_dir: config.snap_dir(),
            batch_interval: config.batch_interval,
            batch_limit: config.batch_limit,
            batch_bytes: config.budget().batch_bytes,
            buffer_bytes_max: config.budget().buffer_bytes,
            warn_apply: config.warn_apply,
            compaction_batch_limit: config.upkeep.compaction_batch_limit,
            compaction_pause: config.upkeep.compaction_pause,
        },
        now,
    );
    Ok(Stages {
        raft,
        log,
        apply,
        commit,
    })
}

fn raft_config(config: &Config, id: u64, applied: u64, seed: u64) -> ferrite_raft::Config {
    ferrite_raft::Config {
        id,
        election_tick: config.election_ticks,
        heartbeat_tick: 1,
        applied,
        async_storage_writes: true,
        max_size_per_msg: APPEND_BYTES_MAX,
        max_committed_size_per_ready: APPLY_BYTES_MAX,
        max_uncommitted_entries_size: NO_LIMIT,
        max_inflight_msgs: INFLIGHT_MESSAGES_MAX,
        max_inflight_bytes: NO_LIMIT,
        check_quorum: true,
        pre_vote: config.pre_vote,
        read_only: ReadOnlyOption::Safe,
        disable_proposal_forwarding: false,
        disable_conf_change_validation: false,
        // A leader that was removed leads on until it stops, a second later: the last of two learns only from
        // its heartbeats that it is alone, and could not elect anybody without it.
        step_down_on_removal: false,
        seed: id ^ seed.rotate_left(32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// PR-10.
    #[test]
    fn raft_is_set_as_in_the_original() {
        let folder = std::path::Path::new("/nonexistent");
        let mut config = crate::config::tests::alone(folder);
        config.election_ticks = 10;
        config.pre_vote = true;
        let raft = raft_config(&config, 7, 42, 1);
        assert_eq!((raft.id, raft.applied), (7, 42));
        assert_eq!((raft.heartbeat_tick, raft.election_tick), (1, 10));
        assert_eq!(raft.max_size_per_msg, 1 << 20);
        assert_eq!(raft.max_inflight_msgs, 512);
        assert_eq!(raft.max_inflight_bytes, NO_LIMIT);
        assert!(raft.check_quorum && raft.pre_vote);
        config.election_ticks = 50;
        config.pre_vote = false;
        let raft = raft_config(&config, 7, 42, 1);
        assert_eq!(raft.election_tick, 50);
        assert!(!raft.pre_vote);
    }
}
