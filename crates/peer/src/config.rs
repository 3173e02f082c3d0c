//! What the transport is told at start, and the trait through which it talks to the node.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ferrite_proto::raftpb::Message;

/// Fixed settings of a [`Transport`](crate::Transport).
#[derive(Clone, Debug)]
pub struct Config {
    /// ID of this member.
    pub member_id: u64,
    /// ID of the cluster; every request between members must carry it.
    pub cluster_id: u64,
    /// Peer URLs this member advertises (header `X-PeerURLs`).
    pub local_peer_urls: Vec<String>,
    /// Version announced to peers, such as `3.7.1`.
    pub server_version: String,
    /// Oldest peer version that is served, `3.0.0`.
    pub min_cluster_version: String,
    /// Directory for received databases (the member's `snap` directory). Must exist.
    pub snap_dir: PathBuf,
    /// Limit for making a connection: 1 s plus the election timeout.
    pub dial_timeout: Duration,
    /// Longest silence tolerated on a connection; link heartbeats go out three times as often.
    pub read_timeout: Duration,
    /// Longest time one write may make no progress.
    pub write_timeout: Duration,
    /// Connections that are accepted at once; a cluster needs a dozen for each member.
    pub connections_max: usize,
}

impl Config {
    /// Period of link heartbeats on a stream.
    pub(crate) fn heartbeat_period(&self) -> Duration {
        (self.read_timeout / 3).max(Duration::from_millis(1))
    }
}

/// Why the node did not take a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The queue to the raft thread is full. Raft sends again, so the message is dropped.
    #[error("the queue of received raft messages is full")]
    Full,
    /// The node is stopping or has stopped.
    #[error("etcdserver: server stopped")]
    Stopped,
}

/// A database to send, opened by the node for one `MsgSnap`.
pub struct SnapshotSource {
    /// The message to send, with `snapshot.data` filled with the membership in the version-2
    /// store's JSON (members up to 3.6 need it).
    pub message: Message,
    /// Length of the database in bytes. `read` must yield exactly as many, otherwise the transfer fails.
    pub size: u64,
    /// The bytes of the database file.
    pub read: Box<dyn Read + Send>,
}

/// The node as the transport sees it. No method may block, except [`Handler::open_snapshot`].
/// Methods may be called from inside [`Transport::send`](crate::Transport::send), on the caller's thread.
pub trait Handler: Send + Sync + 'static {
    /// Hands a received message over. The sender waits for nothing; a refused message is dropped.
    ///
    /// # Errors
    /// [`Refused`] when the queue is full or the node has stopped.
    fn receive(&self, msg: Message) -> Result<(), Refused>;
    /// Whether the member with this ID has been removed from the cluster.
    fn is_removed(&self, id: u64) -> bool;
    /// A message to the member was lost.
    fn report_unreachable(&self, id: u64);
    /// The transfer of a database to the member ended.
    fn report_snapshot(&self, id: u64, ok: bool);
    /// A peer said that this member is no longer in the cluster: the server must stop.
    fn removed_by_cluster(&self);
    /// A received database was saved, and how much of the time the disk took to sync it.
    fn saved_database(&self, _took: Duration, _synced: Duration) {}
    /// Opens the database for a `MsgSnap`. Called on a thread that may block.
    ///
    /// # Errors
    /// Words for the log; the transfer is reported as failed.
    fn open_snapshot(&self, msg: &Message) -> Result<SnapshotSource, String>;
    /// Whether a received database, whole and not yet under its name, is what the message says. Called on a
    /// thread that may block.
    ///
    /// # Errors
    /// Words for the log and the sender; the file is removed, and raft hears nothing of it.
    fn check_snapshot(&self, _file: &Path, _msg: &Message) -> Result<(), String> {
        Ok(())
    }
}
