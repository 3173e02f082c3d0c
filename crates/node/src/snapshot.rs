//! Databases on their way to other members, and the node as the transport sees it.

use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ferrite_membership::v2store;
use ferrite_metrics::Metrics;
use ferrite_peer::{Handler, Refused, SnapshotSource};
use ferrite_proto::raftpb::{Message, Snapshot, SnapshotMetadata};
use ferrite_raft::{is_local_msg, is_local_target};
use parking_lot::Mutex;

use crate::engine::{self, Engine, FileState};
use crate::queue::Queue;
use crate::recover::FileFacts;
use crate::stage::raft::Input;
use crate::{Event, Published, ReadWaiter};

/// After a transfer the receiver needs time to install it: the log it needs next is kept that long.
const KEEP_AFTER: Duration = Duration::from_secs(30);

/// Transfers under way, and when the last one ended.
#[derive(Debug)]
pub struct Transfers {
    running: AtomicUsize,
    ended: Mutex<Option<Instant>>,
    keep_after: Duration,
}

impl Default for Transfers {
    fn default() -> Self {
        Transfers::new(KEEP_AFTER)
    }
}

impl Transfers {
    /// No transfer yet; after one the log is kept for `keep_after`.
    pub fn new(keep_after: Duration) -> Self {
        Transfers {
            running: AtomicUsize::new(0),
            ended: Mutex::new(None),
            keep_after,
        }
    }

    /// A transfer begins.
    pub fn begin(&self) {
        self.running.fetch_add(1, Ordering::AcqRel);
    }

    /// A transfer has ended, well or not.
    pub fn end(&self, now: Instant) {
        *self.ended.lock() = Some(now);
        let _before = self
            .running
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |n| n.checked_sub(1));
    }

    /// Whether the log in memory must be kept for a member that is being sent a database.
    pub fn busy(&self, now: Instant) -> bool {
        self.running.load(Ordering::Acquire) > 0
            || self
                .ended
                .lock()
                .is_some_and(|ended| now.saturating_duration_since(ended) < self.keep_after)
    }
}

/// The node as the transport sees it.
pub struct PeerHandler {
    /// This member.
    pub member_id: u64,
    /// Inputs of the raft stage.
    pub raft: Queue<Input<ReadWaiter>>,
    /// Membership.
    pub published: Arc<Published>,
    /// The database.
    pub engine: Arc<Mutex<Engine>>,
    /// Transfers.
    pub transfers: Arc<Transfers>,
    /// Told when the cluster says this member is out.
    pub events: tokio::sync::mpsc::UnboundedSender<Event>,
    /// What happens is counted here.
    pub metrics: Arc<Metrics>,
}

impl Handler for PeerHandler {
    fn receive(&self, msg: Message) -> Result<(), Refused> {
        // The IDs of raft's own threads mean something inside a member only.
        if is_local_target(msg.from) || is_local_msg(msg.msg_type()) {
            return Ok(());
        }
        // Refused only later where this thread gathers: raft takes that for a message lost.
        crate::port::submit(&self.raft, Input::Peer(msg)).map_err(|_| Refused::Full)
    }

    fn is_removed(&self, id: u64) -> bool {
        self.published.get_cluster().is_removed(id)
    }

    fn report_unreachable(&self, id: u64) {
        self.raft.push(Input::Unreachable(id));
    }

    fn report_snapshot(&self, id: u64, ok: bool) {
        self.transfers.end(Instant::now());
        self.raft.push(Input::SnapshotSent { id, ok });
    }

    fn removed_by_cluster(&self) {
        let _stopping = self.events.send(Event::RemovedSelf);
    }

    fn open_snapshot(&self, msg: &Message) -> Result<SnapshotSource, String> {
        self.transfers.begin();
        open(&self.engine, &self.published, &self.metrics, msg)
    }

    fn saved_database(&self, took: Duration, synced: Duration) {
        self.metrics.snap_db_save.observe(took);
        self.metrics.snap_db_fsync.observe(synced);
    }

    fn check_snapshot(&self, file: &Path, msg: &Message) -> Result<(), String> {
        check(file, self.member_id, msg)
    }
}

/// Whether a received database is what its message says, before it can take the place of this member's.
///
/// # Errors
/// What it is instead.
pub fn check(file: &Path, member_id: u64, msg: &Message) -> Result<(), String> {
    let promised = msg.snapshot.as_ref().and_then(|s| s.metadata.as_ref());
    let index = promised.map_or(0, |metadata| metadata.index);
    let view = engine::read_only(file).map_err(|error| error.to_string())?;
    let facts = FileFacts::read(&view).map_err(|error| error.to_string())?;
    if facts.progress.index != index {
        return Err(format!(
            "the database holds applied index {}, the raft snapshot it came with {index}",
            facts.progress.index
        ));
    }
    facts.check_versions().map_err(|error| error.to_string())?;
    let cluster = facts.cluster(0);
    // Databases of 3.4 hold no members.
    if !cluster.members.is_empty() && cluster.member(member_id).is_none() {
        return Err(format!(
            "the database is that of a cluster without this member ({member_id:x})"
        ));
    }
    Ok(())
}

/// The database to send for a `MsgSnap`, and the message to go with it. A raft snapshot carries
/// exactly the index, term and membership found inside the database it names.
///
/// # Errors
/// The database cannot be read, or does not reach the index that the message names.
pub fn prepare(
    engine: &Engine,
    cluster_id: u64,
    msg: &Message,
) -> Result<(Message, Arc<FileState>), String> {
    let wanted = msg
        .snapshot
        .as_ref()
        .and_then(|snapshot| snapshot.metadata.as_ref())
        .map_or(0, |metadata| metadata.index);
    let view = engine.view().map_err(|error| error.to_string())?;
    let facts = FileFacts::read(&*view).map_err(|error| error.to_string())?;
    let progress = facts.progress;
    if progress.index < wanted {
        return Err(format!(
            "the database holds index {}, the follower is to get at least {wanted}",
            progress.index
        ));
    }
    let cluster = facts.cluster(cluster_id);
    let message = Message {
        snapshot: Some(Snapshot {
            data: Bytes::from(v2store::encode(&cluster)),
            metadata: Some(SnapshotMetadata {
                conf_state: Some(cluster.conf_state()),
                index: progress.index,
                term: progress.term,
            }),
        }),
        ..msg.clone()
    };
    Ok((message, view))
}

fn open(
    engine: &Mutex<Engine>,
    published: &Published,
    metrics: &Arc<Metrics>,
    msg: &Message,
) -> Result<SnapshotSource, String> {
    let engine = engine.lock().clone();
    let cluster = published.get_cluster();
    let (message, view) = prepare(&engine, cluster.id, msg)?;
    let written = v2store::writes(&cluster);
    metrics.document_written(written.created, written.set);
    let size = view.tx().size();
    let (metrics, started) = (Arc::clone(metrics), Instant::now());
    let (reader, mut writer) = std::io::pipe().map_err(|error| error.to_string())?;
    std::thread::Builder::new()
        .name("send-db".into())
        .spawn(move || {
            // A broken pipe means that the transfer was given up, which its owner reports.
            if view.tx().write_to(&mut writer).is_ok() {
                let _given_up = writer.flush();
            }
            metrics.snapshot.observe(started.elapsed());
        })
        .map_err(|error| error.to_string())?;
    Ok(SnapshotSource {
        message,
        size,
        read: Box::new(reader),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// BG-07.
    #[test]
    fn the_log_is_kept_while_a_database_is_sent_and_thirty_seconds_longer() {
        let transfers = Transfers::default();
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        assert!(!transfers.busy(start));
        transfers.begin();
        transfers.begin();
        assert!(transfers.busy(after(1_000)), "however long it takes");
        transfers.end(after(10));
        assert!(transfers.busy(after(1_000)), "there is another");
        transfers.end(after(20));
        assert!(transfers.busy(after(49)));
        assert!(!transfers.busy(after(50)));
    }
}
